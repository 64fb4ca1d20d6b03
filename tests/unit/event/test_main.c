/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Tests of the event module. The vectors in data/ are the reference's own answers; see make_vectors.py. */
#include "test_event_unit.h"
#include <stdio.h>

struct json *vectors_load(struct arena *a, const char *name)
{
    char path[128], chunk[65536];
    snprintf(path, sizeof path, "tests/unit/event/data/%s", name);
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("cannot open %s", path);
    struct buf text;
    buf_init(&text, 64 << 20);
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;)
        buf_put(&text, str_n(chunk, n));
    fclose(f);
    struct json *root = NULL;
    assert_int_equal(json_parse(a, buf_str(&text), &root), 0);
    buf_fini(&text);
    assert_true(json_is_array(root) && root->count > 0);
    return root;
}

int main(void)
{
    return run_event_tests() + run_vector_tests() + run_filter_tests() + run_push_rules_tests();
}
