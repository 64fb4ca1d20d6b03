/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * A configuration text either loads or is refused with a message. What loads must print to something that
 * loads again and prints the same. The input stands alone, and once more after a text that is complete by
 * itself, so that small inputs reach every section.
 */
#include "chappe/config.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char base[] = "server_name: a\nworker_app: synapse.app.generic_worker\nworker_name: w\nredis: "
                           "{enabled: true}\n"
                           "instance_map: {main: {host: h, port: 1}}\ndatabase: {name: psycopg2}\n";

static struct config *load(struct str text)
{
    struct err e = {""};
    struct config *c = config_load_text(text, &e);

    ASSERT(c || e.text[0]);
    return c;
}

static void check(struct str text)
{
    struct config *c = load(text), *again;
    struct buf first, second;

    if (!c)
        return;
    buf_init(&first, 64 << 20);
    buf_init(&second, 64 << 20);
    config_print(c, &first);
    again = load(buf_str(&first));
    ASSERT(again);
    config_print(again, &second);
    ASSERT(str_eq(buf_str(&first), buf_str(&second)));
    buf_fini(&first);
    buf_fini(&second);
    config_free(&c);
    config_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t n = sizeof base - 1;
    char *text = xmalloc(n + size + 1);

    memcpy(text, base, n);
    if (size > 0)
        memcpy(text + n, data, size);
    check(str_n((const char *)data, size));
    check(str_n(text, n + size));
    free(text);
    return 0;
}
