/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What gateways answer and what users put into their pushers. First byte: which. An answer rejects our
 * pushkey only if the pushkey stands in it (or an escape does); whatever data a pusher has, the device object
 * made of it, closed, is JSON again; an URL that is taken has a host and a port.
 */
#include "push_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void answer(struct push *p, struct str body)
{
    static const int statuses[] = {200, 201, 302, 400, 429, 500};

    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        struct httpc_res res = {.status = statuses[i], .body = body};
        enum push_outcome outcome = push_outcome(p, STR("key"), &res);

        ASSERT(outcome != OUTCOME_REJECTED || statuses[i] < 300);
        ASSERT(outcome != OUTCOME_REJECTED || memmem(body.p, body.n, "key", 3) ||
               memchr(body.p, '\\', body.n));
        ASSERT(statuses[i] < 300 || outcome != OUTCOME_OK);
    }
}

static void device(struct push *p, struct str text)
{
    struct json *parsed = NULL, *again = NULL;
    struct buf out;

    arena_reset(p->scratch);
    if (text.n > DATA_BYTES_MAX || json_parse(p->scratch, text, &parsed) != 0 || !json_is_object(parsed))
        return;
    buf_init(&out, 2 * DATA_BYTES_MAX);
    if (payload_device(STR("app"), STR("key"), 1000, parsed, &out)) {
        buf_putc(&out, '}');
        if (!out.failed) {
            ASSERT(json_parse(p->scratch, buf_str(&out), &again) == 0 && json_is_object(again));
            const struct json *kept = json_get(again, STR("data"));
            ASSERT(str_absent(json_get_str(kept, STR("url"))));
        }
    }
    buf_fini(&out);
}

static void gateway(struct push *p, struct str url)
{
    struct origin *o = origin_get(p, url);

    if (!o)
        return;
    ASSERT(o->host.n > 0 && o->port > 0 && o->port < 65536);
    origin_unref(o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct push p;

    if (!p.scratch) {
        p.scratch = arena_new(4 << 20);
        smap_init(&p.origins_by_key);
        wheel_init(&p.wheel, 0);
    }
    if (size == 0)
        return 0;
    struct str input = str_n((const char *)data + 1, size - 1);
    switch (data[0]) {
    case 'a':
        answer(&p, input);
        break;
    case 'd':
        device(&p, input);
        break;
    case 'u':
        gateway(&p, input);
        break;
    default:
        break;
    }
    return 0;
}
