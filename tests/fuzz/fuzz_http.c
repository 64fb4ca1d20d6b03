/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * HTTP requests in pieces. The first byte seeds the cutting; the rest is a byte stream, read as a connection
 * would: head, body, next head. What the quick reader takes is compared with what the strict ones say. Read a
 * second time in one piece, it must give the same requests and the same verdict: a parser whose answer
 * depends on where packets end is a way to smuggle requests.
 */
#include "http_int.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEAD_MAX = 4096 };

static void same(struct str a, struct str b)
{
    ASSERT(str_absent(a) == str_absent(b) && str_eq(a, b));
}

/* What the quick reader takes must be what the strict ones make of it, slice by slice. */
static void compare_readers(const uint8_t *data, size_t size)
{
    struct http_head quick, strict;
    size_t quick_end = 0, end = 0;
    struct http_head_scan scan = {0};
    enum close_reason why;
    struct str bytes = str_n((const char *)data, size);
    if (!http_head_quick(bytes, HEAD_MAX, STR("x-request-id"), &quick, &quick_end))
        return;
    ASSERT(http_head_scan(&scan, bytes, HEAD_MAX, &end, &why) == 1 && end == quick_end);
    ASSERT(http_head_parse(str_n(bytes.p, end), STR("x-request-id"), STR("hs.example"), &strict, &why) == 0);
    ASSERT(quick.method == strict.method && quick.minor == strict.minor && quick.options == strict.options);
    ASSERT(quick.keep_alive == strict.keep_alive && quick.chunked == strict.chunked);
    ASSERT(quick.expect_continue == strict.expect_continue && quick.content_length == strict.content_length);
    ASSERT(quick.authorization_count == strict.authorization_count && quick.host_count == strict.host_count);
    ASSERT(strict.length_count == 0 && strict.encoding_count == 0);
    same(quick.method_name, strict.method_name);
    same(quick.target, strict.target);
    same(quick.path, strict.path);
    same(quick.query, strict.query);
    same(quick.host, strict.host);
    same(quick.authorization, strict.authorization);
    same(quick.user_agent, strict.user_agent);
    same(quick.content_type, strict.content_type);
    same(quick.forwarded_for, strict.forwarded_for);
    same(quick.request_id, strict.request_id);
}

struct outcome {
    unsigned requests;
    size_t body_bytes;
    int refused; /* enum close_reason + 1, or 0 */
    uint64_t sum;
};

static void mix(struct outcome *o, struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        o->sum = (o->sum ^ (unsigned char)s.p[i]) * 1099511628211ull;
    o->sum += s.n;
}

static struct str line_of(const struct req *r, char *text, size_t room)
{
    struct access_entry e = {.method = req_method(r), .as_it_is = r->pub.form != NULL};
    req_target(r, e.target);
    return access_format(text, room, &e);
}

/* Whether a request shares its form says nothing of what it is. */
static void take_form(const struct http_head *h, struct req *r)
{
    enum { LINE_BYTES = 8192 };
    static struct texts texts; /* empty in between */
    static char a[LINE_BYTES], b[LINE_BYTES];
    static const char *const names[] = {"since", "filter", "access_token", "a"};
    for (int again = 0; again < 3; again++) {
        struct req *x = req_new(h, STR("1.2.3.4"), 1, &texts, false);
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            struct str name = str_of(names[i]), v, w;
            size_t at = 0, at_x = 0;
            while (http_query_next(&r->pub, name, &at, &v))
                ASSERT(http_query_next(&x->pub, name, &at_x, &w) && str_eq(v, w));
            ASSERT(!http_query_next(&x->pub, name, &at_x, &w));
            ASSERT(str_eq(http_query(&r->pub, name), http_query(&x->pub, name)));
            ASSERT(http_query_has(&r->pub, name) == http_query_has(&x->pub, name));
        }
        struct str before[2], since[2], after[2];
        bool is = http_query_since(&r->pub, &before[0], &since[0], &after[0]);
        ASSERT(is == http_query_since(&x->pub, &before[1], &since[1], &after[1]));
        ASSERT(!is ||
               (str_eq(before[0], before[1]) && str_eq(since[0], since[1]) && str_eq(after[0], after[1])));
        ASSERT(str_eq(http_path(&r->pub), http_path(&x->pub)));
        ASSERT(str_eq(line_of(r, a, sizeof a), line_of(x, b, sizeof b)));
        req_free(&x);
    }
    texts_fini(&texts);
    memset(&texts, 0, sizeof texts);
}

static void take_request(struct outcome *o, const struct http_head *h)
{
    struct req *r = req_new(h, STR("1.2.3.4"), o->requests, NULL, false);
    char id[REQ_ID_BYTES];
    mix(o, http_path(&r->pub));
    mix(o, http_authorization(&r->pub));
    mix(o, http_user_agent(&r->pub));
    mix(o, http_client_ip(&r->pub));
    mix(o, req_id(r, id));
    ASSERT(str_eq(http_path(&r->pub), h->path) && str_eq(http_client_ip(&r->pub), STR("1.2.3.4")));
    struct str target[TARGET_PIECES];
    req_target(r, target);
    ASSERT(str_eq(target[0], h->target) && target[1].n + target[2].n == 0);
    take_form(h, r);
    mix(o, http_query(&r->pub, STR("since")));
    size_t room = o->sum % 4096;
    char *line = malloc(room + 1);
    struct access_entry e = {
        .target = {target[0]}, .method = req_method(r), .user_agent = http_user_agent(&r->pub)};
    struct str made = access_format(line, room, &e);
    ASSERT(made.n <= room && memchr(line, '\n', made.n) == NULL);
    free(line);
    req_free(&r);
    o->requests++;
}

/* Feeds the stream in pieces; state is what a connection keeps. */
static struct outcome run(const uint8_t *data, size_t size, uint32_t seed)
{
    struct outcome o = {0};
    struct buf held;
    struct http_head_scan scan = {0};
    struct http_body body = {.state = BODY_DONE};
    enum close_reason why = CLOSE_COUNT;
    buf_init(&held, SIZE_MAX / 2);
    for (size_t at = 0; at < size && !o.refused;) {
        size_t n = size - at;
        if (seed) {
            seed = seed * 1664525u + 1013904223u;
            size_t piece = 1 + (seed >> 16) % 29;
            n = n < piece ? n : piece;
        }
        char *exact = malloc(n);
        memcpy(exact, data + at, n);
        at += n;
        struct str in = str_n(exact, n), out;
        while (in.n > 0 && !o.refused) {
            if (body.state != BODY_DONE) {
                int rc = http_body_feed(&body, &in, &out, &why);
                o.refused = rc < 0 ? (int)why + 1 : 0;
                o.body_bytes += rc < 0 ? 0 : out.n;
                continue;
            }
            size_t had = held.n, end = 0;
            buf_put(&held, in);
            int rc = http_head_scan(&scan, buf_str(&held), HEAD_MAX, &end, &why);
            in = str_n(in.p + in.n, 0);
            if (rc == 1) {
                struct http_head h;
                in = str_n(exact + n - (held.n - end), held.n - end);
                ASSERT(end > had);
                rc = http_head_parse(str_n(held.p, end), STR("x-request-id"), STR("hs.example"), &h, &why);
                if (rc == 0) {
                    take_request(&o, &h);
                    http_body_init(&body, &h);
                }
                buf_reset(&held);
                scan = (struct http_head_scan){0};
            }
            o.refused = rc < 0 ? (int)why + 1 : 0;
        }
        free(exact);
    }
    buf_fini(&held);
    return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    compare_readers(data + 1, size - 1);
    struct outcome pieces = run(data + 1, size - 1, data[0] * 2654435761u + 1);
    struct outcome whole = run(data + 1, size - 1, 0);
    ASSERT(pieces.requests == whole.requests && pieces.sum == whole.sum);
    ASSERT(pieces.refused == whole.refused);
    if (!whole.refused)
        ASSERT(pieces.body_bytes == whole.body_bytes);
    return 0;
}
