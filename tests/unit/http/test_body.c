/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Chunked and counted bodies: each row in pieces of every size; what follows the body must be left alone. */
#include "test_http.h"
#include "http_int.h"
#include <stdlib.h>

struct row {
    const char *text;
    const char *data; /* NULL: refused */
    const char *rest;
};
static const struct row chunked[] = {
    {"0\r\n\r\n", "", ""},
    {"5\r\nhello\r\n0\r\n\r\nGET", "hello", "GET"},
    {"1\r\na\r\n00a\r\n0123456789\r\n0\r\n\r\n", "a0123456789", ""},
    {"A;ext=1;x=\"y\"\r\n0123456789\r\n0;last\r\n\r\n", "0123456789", ""},
    {"2 \r\nab\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\nrest", "ab", "rest"},
    {"2\r\n\r\n\r\n0\r\n\r\n", "\r\n", ""},
    {"\r\n", NULL, NULL},
    {"g\r\n", NULL, NULL},
    {"-1\r\n", NULL, NULL},
    {"0x1\r\na\r\n", NULL, NULL},
    {"1\na\r\n0\r\n\r\n", NULL, NULL},
    {"1;a\nb\r\na\r\n0\r\n\r\n", NULL, NULL},
    {"1\r\nab\r\n", NULL, NULL},
    {"1\r\na\n0\r\n\r\n", NULL, NULL},
    {"1\r\na\r\r0\r\n\r\n", NULL, NULL},
    {"0\r\n\rX", NULL, NULL},
    {"0\r\n folded\r\n\r\n", NULL, NULL},
    {"0\r\nA: b\nC: d\r\n\r\n", NULL, NULL},
    {"0\r\n: x\r\n\r\n", NULL, NULL},
    {"fffffffffffffffff\r\n", NULL, NULL},
    {"10000000000\r\n", NULL, NULL},
};

static int run(struct http_body b, const char *text, size_t n, size_t piece, struct buf *data, size_t *used)
{
    int rc = b.state == BODY_DONE;
    size_t at = 0;
    while (at < n && rc == 0) {
        size_t k = n - at < piece ? n - at : piece;
        char *exact = malloc(k);
        memcpy(exact, text + at, k);
        struct str in = str_n(exact, k), out;
        enum close_reason why;
        while (in.n > 0 && rc == 0) {
            rc = http_body_feed(&b, &in, &out, &why);
            if (rc >= 0)
                buf_put(data, out);
        }
        at += k - in.n;
        free(exact);
    }
    *used = at;
    return rc;
}

static void test_chunked(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof chunked / sizeof *chunked; i++) {
        const struct row *r = &chunked[i];
        size_t n = strlen(r->text), used;
        for (size_t piece = 1; piece <= n; piece++) {
            struct http_head h = {.chunked = true};
            struct http_body b;
            struct buf data;
            buf_init(&data, 1 << 20);
            http_body_init(&b, &h);
            int rc = run(b, r->text, n, piece, &data, &used);
            if (r->data) {
                if (rc != 1)
                    fail_msg("row %zu in pieces of %zu: %d", i, piece, rc);
                assert_true(str_eq(buf_str(&data), str_of(r->data)));
                assert_int_equal(n - used, strlen(r->rest));
            } else if (rc >= 0) {
                fail_msg("row %zu in pieces of %zu was accepted (%d)", i, piece, rc);
            }
            buf_fini(&data);
        }
        for (size_t k = 0; r->data && k < n - strlen(r->rest); k++) { /* every prefix is incomplete */
            struct http_head h = {.chunked = true};
            struct http_body b;
            struct buf data;
            buf_init(&data, 1 << 20);
            http_body_init(&b, &h);
            assert_int_equal(run(b, r->text, k, 3, &data, &used), 0);
            buf_fini(&data);
        }
    }
}

static void test_length(void **state)
{
    (void)state;
    for (size_t piece = 1; piece < 8; piece++) {
        struct http_head h = {.content_length = 5};
        struct http_body b;
        struct buf data;
        size_t used;
        buf_init(&data, 100);
        http_body_init(&b, &h);
        assert_int_equal(run(b, "helloGET", 8, piece, &data, &used), 1);
        assert_int_equal(used, 5);
        assert_true(str_eq(buf_str(&data), STR("hello")));
        buf_fini(&data);
    }
    struct http_head none = {.content_length = -1}, zero = {.content_length = 0};
    struct http_body b;
    http_body_init(&b, &none);
    assert_int_equal(b.state, BODY_DONE);
    http_body_init(&b, &zero);
    assert_int_equal(b.state, BODY_DONE);
}

/* Extensions and trailers without end. */
static void test_overhead_limit(void **state)
{
    (void)state;
    static const char *const begins[] = {"1;", "0\r\nA:"};
    for (int i = 0; i < 2; i++) {
        struct http_head h = {.chunked = true};
        struct http_body b;
        struct buf data, text;
        size_t used;
        buf_init(&data, 100);
        buf_init(&text, 1 << 20);
        http_body_init(&b, &h);
        buf_put(&text, str_of(begins[i]));
        for (int k = 0; k < 20000; k++)
            buf_putc(&text, 'x');
        assert_int_equal(run(b, text.p, text.n, 1000, &data, &used), -ERR_PARSE);
        buf_fini(&data);
        buf_fini(&text);
    }
}

int run_body_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunked),
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_overhead_limit),
    };
    return cmocka_run_group_tests_name("body", tests, NULL, NULL);
}
