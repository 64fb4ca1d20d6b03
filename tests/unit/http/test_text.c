/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Queries, percent-encoding, access log lines, error bodies. */
#include "test_http.h"
#include "chappe/clock.h"
#include "chappe/json.h"
#include "http_int.h"
#include "http_request.h"
#include <stdlib.h>

static void test_query(void **state)
{
    (void)state;
    static const struct {
        const char *query, *name, *value; /* NULL: absent */
    } rows[] = {
        {"a=1&b=2", "a", "1"},
        {"a=1&b=2", "b", "2"},
        {"a=1&a=2", "a", "1"},
        {"a=", "a", ""},
        {"a", "a", NULL},
        {"a&a=2", "a", "2"},
        {"", "a", NULL},
        {"&&a=1&", "a", "1"},
        {"aa=1", "a", NULL},
        {"a=b=c", "a", "b=c"},
        {"a=%7B%22x%22%7d+y", "a", "{\"x\"} y"},
        {"a=%2", "a", "%2"},
        {"a=%", "a", "%"},
        {"a=%zz", "a", "%zz"},
        {"a=%25", "a", "%"},
        {"a=1;b=2", "b", "2"},
        {"a=1;b=2", "a", "1"},
        {";;a=1;", "a", "1"},
        {"x&;a", "a", NULL},
        {"b=a%3Bb;a=%3b", "a", ";"},
        {"%61=1", "a", "1"},
        {"access%5Ftoken=x", "access_token", "x"},
        {"org.x+y=1", "org.x y", "1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct http_req req = {0};
        request_texts(&req, http_arena(&req), STR("/"), str_of(rows[i].query), STR(""), STR(""));
        struct str v = http_query(&req, str_of(rows[i].name));
        if (str_absent(v) != (rows[i].value == NULL) || (rows[i].value && !str_eq(v, str_of(rows[i].value))))
            fail_msg("%s: %s gives '%.*s'", rows[i].query, rows[i].name, STR_ARG(v));
        assert_int_equal(http_query_has(&req, str_of(rows[i].name)), rows[i].value != NULL);
        arena_free(&req.arena);
    }
    struct http_req none = {0};
    assert_false(http_query_has(&none, STR("a")));
}

static void test_repeated(void **state)
{
    (void)state;
    static const struct {
        const char *query, *values; /* of a, each followed by a comma */
    } rows[] = {
        {"a=1&b=2&a=3", "1,3,"}, {"%61=%31&a=&a&a=2", "1,,2,"}, {"b=1", ""}, {"", ""},
        {"a=1&", "1,"},          {"&&a=+&&%61==&", " ,=,"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct http_req req = {0};
        request_texts(&req, http_arena(&req), STR("/"), str_of(rows[i].query), STR(""), STR(""));
        struct buf b;
        buf_init(&b, 64);
        struct str v;
        for (size_t it = 0; http_query_next(&req, STR("a"), &it, &v);)
            buf_printf(&b, "%.*s,", STR_ARG(v));
        if (!str_eq(buf_str(&b), str_of(rows[i].values)))
            fail_msg("%s: '%.*s'", rows[i].query, STR_ARG(buf_str(&b)));
        buf_fini(&b);
        arena_free(&req.arena);
    }
    struct http_req none = {0};
    struct str v;
    assert_false(http_query_next(&none, STR("a"), &(size_t){0}, &v));
}

static void test_encode(void **state)
{
    (void)state;
    struct buf b;
    struct arena *a = arena_new(65536);
    buf_init(&b, 1000);
    url_encode(&b, STR("@a:b/c d~.-_%\xc3\xa9"));
    assert_true(str_eq(buf_str(&b), STR("%40a%3Ab%2Fc%20d~.-_%25%C3%A9")));
    assert_true(str_eq(url_decode(a, buf_str(&b), false), STR("@a:b/c d~.-_%\xc3\xa9")));
    assert_true(str_eq(url_decode(a, STR("a+b"), false), STR("a+b")));
    buf_fini(&b);
    arena_free(&a);
}

static void test_access_line(void **state)
{
    (void)state;
    struct access_entry e = {
        .ip = STR("10.0.0.1"),
        .tag = STR("8083"),
        .requester = STR("@u:hs"),
        .method = STR("GET"),
        .target = {STR("/_matrix/client/v3/sync?since=s1&timeout=0")},
        .user_agent = STR("Element/1"),
        .request_id = STR("GET-3"),
        .handler_ms = 100,
        .send_ms = 1,
        .bytes = 1234,
        .status = 200,
        .minor = 1,
    };
    char out[2048];
    assert_true(str_eq(
        access_format(out, sizeof out, &e),
        STR("GET-3 - 10.0.0.1 - 8083 - {@u:hs} Processed request: 0.100sec/0.001sec ru=(0.000sec, 0.000sec) "
            "db=(0.000sec/0.000sec/0) 1234B 200 \"GET /_matrix/client/v3/sync?since=s1&timeout=0 HTTP/1.1\" "
            "\"Element/1\" [0 dbevts]")));

    e.handler_ms = 12345, e.send_ms = 9999;
    assert_true(
        str_starts(access_format(out, sizeof out, &e),
                   STR("GET-3 - 10.0.0.1 - 8083 - {@u:hs} Processed request: 12.345sec/9.999sec ru=")));

    /* what there is no room for is left off, wherever it ends */
    char all[2048];
    e.user_agent = STR("a\"b\\c");
    struct str whole = access_format(all, sizeof all, &e);
    for (size_t room = 0; room <= whole.n; room++) {
        memset(out, '#', sizeof out);
        assert_true(str_eq(access_format(out, room, &e), str_n(all, room)));
        assert_int_equal(out[room], '#');
    }
}

static void test_access_redaction(void **state)
{
    (void)state;
    static const struct {
        const char *target, *shown;
    } rows[] = {
        {"/a?access_token=SECRET", "/a?access_token=<redacted>"},
        {"/a?x=1&access_token=SECRET&y=2&access_token=SECRET",
         "/a?x=1&access_token=<redacted>&y=2&access_token=<redacted>"},
        {"/a?client_secret=SECRET&", "/a?client_secret=<redacted>&"},
        {"/a?x;access_token=SECRET;&y=1", "/a?x;access_token=<redacted>;&y=1"},
        {"/a?access%5ftoken=SECRET", "/a?access%5ftoken=<redacted>"},
        {"/a?%61ccess_token=SECRET=SECRET", "/a?%61ccess_token=<redacted>"},
        {"/a?xaccess_token=ok", "/a?xaccess_token=ok"},
        {"/a?access_token", "/a?access_token"},
        {"/a", "/a"},
        {"/a?x=y=&client_secret=SECRET", "/a?x=y=&client_secret=<redacted>"},
        {"/a?since=access_token=ok&x", "/a?since=access_token=ok&x"},
        {"/a?\"x=\\", "/a?\\x22x=\\x5c"},
        {"/a?\"access_token=ok&\\", "/a?\\x22access_token=ok&\\x5c"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct access_entry e = {
            .method = STR("GET"), .target = {str_of(rows[i].target)}, .user_agent = STR("a\"b\nc\x7f\\")};
        char out[2048], want[300];
        struct str line = access_format(out, sizeof out - 1, &e);
        out[line.n] = 0;
        assert_null(strstr(out, "SECRET"));
        snprintf(want, sizeof want, "\"GET %s HTTP/1.0\" \"a\\x22b\\x0ac\\x7f\\x5c\"", rows[i].shown);
        if (!strstr(out, want))
            fail_msg("%s does not hold %s", out, want);
    }
}

static void test_error_body(void **state)
{
    (void)state;
    struct arena *a = arena_new(1 << 20);
    struct http_res res;
    http_res_error(&res, 401, "M_UNKNOWN_TOKEN", STR("caf\xc3\xa9 \"x\""), NULL);
    assert_int_equal(res.status, 401);
    assert_true(str_eq(rope_flatten(&res.body, a),
                       STR("{\"errcode\":\"M_UNKNOWN_TOKEN\",\"error\":\"caf\xc3\xa9 \\\"x\\\"\"}")));
    rope_fini(&res.body);
    struct json *extra = json_new(a, JSON_OBJECT);
    json_set(extra, STR("soft_logout"), json_new_bool(a, true));
    json_set(extra, STR("admin_contact"), json_new_str(a, STR("x")));
    json_set(extra, STR("retry_after_ms"), json_new_int(a, 5));
    http_res_error(&res, 429, "M_LIMIT_EXCEEDED", STR("Too Many Requests"), extra);
    assert_true(str_eq(
        rope_flatten(&res.body, a),
        STR("{\"admin_contact\":\"x\",\"errcode\":\"M_LIMIT_EXCEEDED\",\"error\":\"Too Many Requests\","
            "\"retry_after_ms\":5,\"soft_logout\":true}")));
    rope_fini(&res.body);
    arena_free(&a);
}

static void test_date(void **state)
{
    (void)state;
    struct front f = {.date_s = -1};
    clock_fake_set(784111777000LL);
    front_date(&f);
    assert_string_equal(f.date, "Sun, 06 Nov 1994 08:49:37 GMT");
    clock_fake_set(1709210096999LL);
    front_date(&f);
    assert_string_equal(f.date, "Thu, 29 Feb 2024 12:34:56 GMT");
    clock_fake_set(-1);
}

int run_text_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_query),
        cmocka_unit_test(test_repeated),
        cmocka_unit_test(test_encode),
        cmocka_unit_test(test_access_line),
        cmocka_unit_test(test_access_redaction),
        cmocka_unit_test(test_error_body),
        cmocka_unit_test(test_date),
    };
    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
