/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * JSON: whatever is accepted is written, sorted or not, ASCII or UTF-8, and read again as the same tree; a
 * second writing gives the same bytes.
 */
#include "chappe/json.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is said to be written is what writing it gives; and what has been written is mostly known for it. */
static void check_written(struct arena *a, struct str text)
{
    struct json *v;
    struct buf b;
    if (!json_is_written_object(text))
        return;
    ASSERT(json_parse(a, text, &v) == 0 && json_is_object(v));
    buf_init(&b, 1 << 26);
    json_write(&b, v, 0);
    ASSERT(str_eq(buf_str(&b), text));
    buf_fini(&b);
}

static struct json *parse_written(struct arena *a, const struct json *v, int flags)
{
    struct buf b, second;
    struct json *again;
    buf_init(&b, 1 << 26);
    buf_init(&second, 1 << 26);
    json_write(&b, v, flags);
    ASSERT(!b.failed);
    ASSERT(json_parse(a, buf_str(&b), &again) == 0);
    ASSERT(json_equal(v, again));
    check_written(a, buf_str(&b));
    json_write(&second, again, flags);
    ASSERT(str_eq(buf_str(&b), buf_str(&second)));
    buf_fini(&b);
    buf_fini(&second);
    return again;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json *v;
    struct arena *a = arena_new(1 << 26);
    struct str text = str_n((const char *)data, size);
    check_written(a, text);
    if (size < 1 << 18 && json_parse(a, text, &v) == 0) {
        for (int flags = 0; flags < 4; flags++)
            parse_written(a, v, flags);
        ASSERT(json_equal(v, json_clone(a, v)));
        /* A small arena answers with an error, never with half a tree. */
        struct arena *small = arena_new(arena_bytes(a) / 16);
        struct json *w;
        int rc = json_parse(small, text, &w);
        ASSERT(rc == -ERR_NOMEM || (rc == 0 && json_equal(v, w)));
        arena_free(&small);
    }
    arena_free(&a);
    return 0;
}
