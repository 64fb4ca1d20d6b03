/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Request heads: each row whole, at every prefix and byte by byte; the verdict must not depend on the pieces.
 */
#include "test_http.h"
#include "http_int.h"
#include <stdio.h>
#include <stdlib.h>

enum { NONE = -1, MAX = 8192 };

struct row {
    const char *text;
    int why; /* enum close_reason, or NONE when the head is good */
    const char *path, *query;
};
#define H "Host: hs.example\r\n"
static const struct row rows[] = {
    {"GET / HTTP/1.1\r\n\r\n", NONE, "/", NULL},
    {"GET /_matrix/client/v3/sync?timeout=30000&since=s1_2 HTTP/1.1\r\n" H "Authorization: Bearer x\r\n\r\n",
     NONE, "/_matrix/client/v3/sync", "timeout=30000&since=s1_2"},
    {"\r\nGET /a HTTP/1.1\r\n\r\n", NONE, "/a", NULL},
    {"\r\n\r\nGET /a HTTP/1.1\r\n\r\n", CLOSE_bad_request_line, NULL, NULL},
    {"GET /a? HTTP/1.0\r\n\r\n", NONE, "/a", ""},
    {"GET /a?b?c HTTP/1.1\r\n\r\n", NONE, "/a", "b?c"},
    {"GET /%E2%98%83;x=[]{}|^\"<> HTTP/1.1\r\n\r\n", NONE, "/%E2%98%83;x=[]{}|^\"<>", NULL},
    {"POST /a HTTP/1.1\r\nContent-Length: 12\r\n\r\n", NONE, "/a", NULL},
    {"POST /a HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n", NONE, "/a", NULL},
    {"PATCH /a HTTP/1.1\r\n\r\n", NONE, "/a", NULL},
    {"QUERY /a HTTP/1.1\r\n\r\n", NONE, "/a", NULL},
    {"M-SEARCH /a HTTP/1.1\r\n\r\n", NONE, "/a", NULL},
    {"get /a HTTP/1.1\r\n\r\n", NONE, "/a", NULL},
    {"OPTIONS * HTTP/1.1\r\n\r\n", NONE, "*", NULL},
    {"GET http://hs.example/a?b HTTP/1.1\r\n" H "\r\n", NONE, "/a", "b"},
    {"GET https://HS.example HTTP/1.1\r\n" H "\r\n", NONE, "/", NULL},
    {"GET https://matrix.example/x HTTP/1.1\r\n" H "\r\n", NONE, "/x", NULL},
    {"GET /a HTTP/1.1\r\nX:\r\nY:   \r\nZ:\t v \r\n\r\n", NONE, "/a", NULL},
    {"GET /a HTTP/1.1\r\nUser-Agent: caf\xc3\xa9\r\n\r\n", NONE, "/a", NULL},
    {"GET /a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", NONE, "/a", NULL},
    {"CONNECT /a HTTP/1.1\r\n\r\n", NONE, "/a", NULL},
    /* refused */
    {"\x16\x03\x01\x02", CLOSE_bad_request_line, NULL, NULL},
    {"GET /a\r\n\r\n", CLOSE_bad_request_line, NULL, NULL},
    {" GET /a HTTP/1.1\r\n\r\n", CLOSE_bad_request_line, NULL, NULL},
    {"G(T /a HTTP/1.1\r\n\r\n", CLOSE_bad_request_line, NULL, NULL},
    {"GET  /a HTTP/1.1\r\n\r\n", CLOSE_bad_target, NULL, NULL},
    {"GET /a  HTTP/1.1\r\n\r\n", CLOSE_bad_version, NULL, NULL},
    {"GET /a\tb HTTP/1.1\r\n\r\n", CLOSE_bad_target, NULL, NULL},
    {"GET /caf\xc3\xa9 HTTP/1.1\r\n\r\n", CLOSE_bad_target, NULL, NULL},
    {"GET /a\x7f HTTP/1.1\r\n\r\n", CLOSE_bad_target, NULL, NULL},
    {"GET /a#b HTTP/1.1\r\n\r\n", CLOSE_bad_target, NULL, NULL},
    {"GET * HTTP/1.1\r\n\r\n", CLOSE_bad_target, NULL, NULL},
    {"GET a HTTP/1.1\r\n\r\n", CLOSE_bad_target, NULL, NULL},
    {"CONNECT hs.example:443 HTTP/1.1\r\n" H "\r\n", CLOSE_bad_target, NULL, NULL},
    {"GET http://other.example/a HTTP/1.1\r\n" H "\r\n", CLOSE_bad_target, NULL, NULL},
    {"GET http:///a HTTP/1.1\r\n\r\n", CLOSE_bad_target, NULL, NULL},
    {"GET matrix-federation://hs.example/a HTTP/1.1\r\n" H "\r\n", CLOSE_bad_target, NULL, NULL},
    {"GET /a HTTP/2.0\r\n\r\n", CLOSE_bad_version, NULL, NULL},
    {"GET /a HTTP/1.2\r\n\r\n", CLOSE_bad_version, NULL, NULL},
    {"GET /a http/1.1\r\n\r\n", CLOSE_bad_version, NULL, NULL},
    {"GET /a HTTP/1.1\n\n", CLOSE_bare_lf, NULL, NULL},
    {"GET /a HTTP/1.1\r\nA: b\nC: d\r\n\r\n", CLOSE_bare_lf, NULL, NULL},
    {"GET /a HTTP/1.1\r\nA: b\r\n\n", CLOSE_bare_lf, NULL, NULL},
    {"GET /a HTTP/1.1\r\nA: b\r\n c\r\n\r\n", CLOSE_obs_fold, NULL, NULL},
    {"GET /a HTTP/1.1\r\n\tA: b\r\n\r\n", CLOSE_obs_fold, NULL, NULL},
    {"GET /a HTTP/1.1\r\nA : b\r\n\r\n", CLOSE_bad_header, NULL, NULL},
    {"GET /a HTTP/1.1\r\nA\r\n\r\n", CLOSE_bad_header, NULL, NULL},
    {"GET /a HTTP/1.1\r\n: b\r\n\r\n", CLOSE_bad_header, NULL, NULL},
    {"GET /a HTTP/1.1\r\nA: b\x01\r\n\r\n", CLOSE_bad_header, NULL, NULL},
    {"GET /a HTTP/1.1\r\nA: b\rc\r\n\r\n", CLOSE_bad_header, NULL, NULL},
    {"GET /a HTTP/1.1\r\nH\xc3\xa9: b\r\n\r\n", CLOSE_bad_header, NULL, NULL},
    {"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", CLOSE_bad_host, NULL, NULL},
    {"POST /a HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", CLOSE_multiple_lengths, NULL,
     NULL},
    {"POST /a HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", CLOSE_bad_length, NULL, NULL},
    {"POST /a HTTP/1.1\r\nContent-Length: +1\r\n\r\n", CLOSE_bad_length, NULL, NULL},
    {"POST /a HTTP/1.1\r\nContent-Length: -1\r\n\r\n", CLOSE_bad_length, NULL, NULL},
    {"POST /a HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n", CLOSE_bad_length, NULL, NULL},
    {"POST /a HTTP/1.1\r\nContent-Length: 1 2\r\n\r\n", CLOSE_bad_length, NULL, NULL},
    {"POST /a HTTP/1.1\r\nContent-Length:\r\n\r\n", CLOSE_bad_length, NULL, NULL},
    {"POST /a HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", CLOSE_bad_encoding, NULL,
     NULL},
    {"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", CLOSE_bad_encoding, NULL,
     NULL},
    {"POST /a HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", CLOSE_bad_encoding, NULL, NULL},
    {"POST /a HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", CLOSE_bad_encoding, NULL, NULL},
    {"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
     CLOSE_bad_encoding, NULL, NULL},
    {"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", CLOSE_bad_encoding, NULL, NULL},
};

/* Scans and parses the first n bytes. 1 good, 0 incomplete, <0 refused. */
static int verdict(const char *text, size_t n, struct http_head *h, enum close_reason *why)
{
    char *exact = malloc(n ? n : 1);
    memcpy(exact, text, n);
    struct http_head_scan s = {0};
    size_t end = 0;
    int rc = http_head_scan(&s, str_n(exact, n), MAX, &end, why);
    if (rc == 1) {
        struct http_head dummy;
        rc = http_head_parse(str_n(exact, end), STR_ABSENT, STR("matrix.example"), h ? h : &dummy, why);
        rc = rc ? rc : 1;
    }
    free(exact);
    return rc;
}

static void check_whole(const struct row *r)
{
    size_t n = strlen(r->text), end = 0;
    struct http_head_scan s = {0};
    struct http_head h;
    enum close_reason why = CLOSE_COUNT;
    int rc = http_head_scan(&s, str_n(r->text, n), MAX, &end, &why);
    if (rc == 1)
        rc = http_head_parse(str_n(r->text, end), STR_ABSENT, STR("matrix.example"), &h, &why) ? -1 : 1;
    if ((r->why == NONE) != (rc == 1) || (r->why != NONE && (int)why != r->why))
        fail_msg("%s: rc %d, reason %s", r->text, rc, why < CLOSE_COUNT ? close_reasons[why].id : "none");
    if (r->why != NONE)
        return;
    assert_int_equal(end, n);
    assert_true(str_eq(h.path, str_of(r->path)));
    assert_int_equal(str_absent(h.query), r->query == NULL);
    if (r->query)
        assert_true(str_eq(h.query, str_of(r->query)));
}

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_whole(&rows[i]);
}

/* A prefix of a good head is incomplete; a refused one is refused at some point and for its own reason. */
static void test_every_prefix(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t n = strlen(rows[i].text);
        for (size_t k = 0; k < n; k++) {
            enum close_reason why = CLOSE_COUNT;
            int rc = verdict(rows[i].text, k, NULL, &why);
            if (rc != 0 && !(rc < 0 && rows[i].why == (int)why))
                fail_msg("%s: prefix %zu gives %d", rows[i].text, k, rc);
        }
    }
}

static void test_byte_by_byte(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t n = strlen(rows[i].text), end = 0;
        struct http_head_scan s = {0};
        struct http_head h;
        enum close_reason why = CLOSE_COUNT;
        int rc = 0;
        for (size_t k = 1; k <= n && rc == 0; k++) {
            char *exact = malloc(k);
            memcpy(exact, rows[i].text, k);
            rc = http_head_scan(&s, str_n(exact, k), MAX, &end, &why);
            if (rc == 1) {
                assert_int_equal(k, n);
                rc = http_head_parse(str_n(exact, end), STR_ABSENT, STR("matrix.example"), &h, &why) ? -1 : 1;
            }
            free(exact);
        }
        assert_int_equal(rc == 1, rows[i].why == NONE);
        if (rows[i].why != NONE)
            assert_int_equal(why, rows[i].why);
    }
}

static void test_what_follows_is_left(void **state)
{
    (void)state;
    const char *two = "GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
    struct http_head_scan s = {0};
    size_t end = 0;
    enum close_reason why;
    assert_int_equal(http_head_scan(&s, str_of(two), MAX, &end, &why), 1);
    assert_int_equal(end, strlen(two) / 2);
}

static void test_limits(void **state)
{
    (void)state;
    enum close_reason why = CLOSE_COUNT;
    size_t end = 0;
    struct buf b;
    /* Exactly at the maximum is good, one byte more is not. */
    for (int extra = 0; extra < 2; extra++) {
        struct http_head_scan s = {0};
        buf_init(&b, 1 << 20);
        buf_put(&b, STR("GET /"));
        while (b.n < MAX - strlen(" HTTP/1.1\r\n\r\n") + (size_t)extra)
            buf_putc(&b, 'a');
        buf_put(&b, STR(" HTTP/1.1\r\n\r\n"));
        int rc = http_head_scan(&s, buf_str(&b), MAX, &end, &why);
        assert_int_equal(rc, extra ? -ERR_LIMIT : 1);
        buf_fini(&b);
    }
    assert_int_equal(why, CLOSE_head_too_large);
    for (int extra = 0; extra < 2; extra++) {
        struct http_head_scan s = {0};
        buf_init(&b, 1 << 20);
        buf_put(&b, STR("GET / HTTP/1.1\r\n"));
        for (int i = 0; i < HTTP_HEADERS_MAX + extra; i++)
            buf_put(&b, STR("A: b\r\n"));
        buf_put(&b, STR("\r\n"));
        assert_int_equal(http_head_scan(&s, buf_str(&b), MAX, &end, &why), extra ? -ERR_LIMIT : 1);
        buf_fini(&b);
    }
    assert_int_equal(why, CLOSE_head_too_many);
}

static void test_fields(void **state)
{
    (void)state;
    const char *text =
        "POST /a HTTP/1.1\r\nhost: x\r\nAUTHORIZATION: Bearer one\r\nAuthorization: Bearer two\r\n"
        "User-Agent: old\r\nuser-agent:  new \r\nContent-Type: application/json\r\n"
        "X-Forwarded-For: 1.2.3.4, 5.6.7.8\r\nX-Forwarded-For: 9.9.9.9\r\nX-Request-ID: abc\r\n"
        "Content-Length: 7\r\nExpect: 100-Continue\r\nConnection: foo, close\r\n\r\n";
    struct http_head h;
    enum close_reason why;
    assert_int_equal(http_head_parse(str_of(text), STR("x-request-id"), STR("x"), &h, &why), 0);
    assert_int_equal(h.method, HTTP_M_POST);
    assert_true(str_eq(h.authorization, STR("Bearer one")));
    assert_int_equal(h.authorization_count, 2);
    assert_true(str_eq(h.user_agent, STR("new")));
    assert_true(str_eq(h.content_type, STR("application/json")));
    assert_true(str_eq(h.forwarded_for, STR("1.2.3.4, 5.6.7.8")));
    assert_true(str_eq(h.request_id, STR("abc")));
    assert_int_equal(h.content_length, 7);
    assert_true(h.expect_continue);
    assert_false(h.keep_alive);
    static const struct {
        const char *text;
        bool keep_alive;
    } ka[] = {
        {"GET / HTTP/1.1\r\n\r\n", true},
        {"GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n", true},
        {"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", false},
        {"GET / HTTP/1.0\r\n\r\n", false},
        {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false},
    };
    for (size_t i = 0; i < sizeof ka / sizeof *ka; i++) {
        assert_int_equal(http_head_parse(str_of(ka[i].text), STR_ABSENT, STR("x"), &h, &why), 0);
        assert_int_equal(h.keep_alive, ka[i].keep_alive);
        assert_true(str_absent(h.authorization));
        assert_int_equal(h.content_length, -1);
    }
}

static bool same(struct str a, struct str b)
{
    return str_absent(a) == str_absent(b) && str_eq(a, b);
}

static void assert_target(const struct req *r, const char *want)
{
    struct str t[TARGET_PIECES];
    char text[1000];
    req_target(r, t);
    snprintf(text, sizeof text, "%.*s%.*s%.*s", STR_ARG(t[0]), STR_ARG(t[1]), STR_ARG(t[2]));
    assert_string_equal(text, want);
}

static void test_request_copies(void **state)
{
    (void)state;
    char text[] = "GET http://x?q=1 HTTP/1.1\r\nHost: x\r\nUser-Agent: caf\xe9\r\nX-Id: has space\r\n\r\n";
    struct http_head h;
    enum close_reason why;
    assert_int_equal(http_head_parse(str_of(text), STR("x-id"), STR("x"), &h, &why), 0);
    struct req *r = req_new(&h, STR("1.2.3.4"), 17, NULL, false);
    memset(text, '!', sizeof text); /* nothing may point there */
    char id[REQ_ID_BYTES];
    assert_true(str_eq(http_query(&r->pub, STR("q")), STR("1")));
    assert_true(str_eq(http_path(&r->pub), STR("/")));
    assert_true(str_eq(http_user_agent(&r->pub), STR("caf\xef\xbf\xbd")));
    assert_true(str_eq(req_method(r), STR("GET")));
    assert_target(r, "http://x?q=1");
    assert_true(str_eq(req_id(r, id), STR("GET-17"))); /* a header with a blank is no id */
    assert_true(str_eq(http_client_ip(&r->pub), STR("1.2.3.4")));
    assert_true(str_absent(http_authorization(&r->pub)));
    assert_int_equal(http_body(&r->pub).n, 0);
    req_free(&r);
    assert_null(r);
}

static struct req *request_of(const char *text, struct http_head *h)
{
    enum close_reason why;
    assert_int_equal(http_head_parse(str_of(text), STR("x-id"), STR("x"), h, &why), 0);
    return req_new(h, STR("192.0.2.1"), 1234567, NULL, true);
}

static void test_request_names(void **state)
{
    (void)state;
    char long_name[400], text[1000], id[REQ_ID_BYTES];
    memset(long_name, 'M', sizeof long_name);
    long_name[300] = 0;
    const struct {
        const char *method, *header, *shown, *id;
    } names[] = {
        {"GET", "", "GET", "GET-1234567"},
        {"HEAD", "", "HEAD", "HEAD-1234567"},
        {"POST", "", "POST", "POST-1234567"},
        {"PUT", "", "PUT", "PUT-1234567"},
        {"DELETE", "", "DELETE", "DELETE-1234567"},
        {"OPTIONS", "", "OPTIONS", "OPTIONS-1234567"},
        {"PATCH", "", "PATCH", "PATCH-1234567"},
        {"PATCH", "X-Id: proxy-7\r\n", "PATCH", "proxy-7"},
        {"GET", "X-Id: proxy-7\r\n", "GET", "proxy-7"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct http_head h;
        snprintf(text, sizeof text, "%s /p/q?a=b&c HTTP/1.1\r\nHost: x\r\n%s\r\n", names[i].method,
                 names[i].header);
        struct req *r = request_of(text, &h);
        assert_true(str_eq(req_method(r), str_of(names[i].shown)));
        assert_true(str_eq(req_id(r, id), str_of(names[i].id)));
        assert_target(r, "/p/q?a=b&c");
        assert_true(str_eq(http_path(&r->pub), STR("/p/q")));
        assert_true(str_eq(http_query(&r->pub, STR("a")), STR("b")));
        assert_true(str_eq(http_client_ip(&r->pub), STR("192.0.2.1")));
        req_free(&r);
    }
    struct http_head h;
    snprintf(text, sizeof text, "%s / HTTP/1.1\r\nHost: x\r\n\r\n", long_name);
    struct req *r = request_of(text, &h);
    assert_int_equal(req_method(r).n, 255); /* a line would not show more */
    assert_true(str_eq(http_path(&r->pub), STR("/")));
    assert_false(r->pub.has_query);
    req_free(&r);
}

/* A target of which most is shared is read, and shown, as one that is not. */
static void test_request_forms(void **state)
{
    (void)state;
    static const struct {
        const char *target;
        bool shared;
    } forms[] = {
        {"/_matrix/client/v3/sync?filter=0&timeout=30000&since=s1_2~3.4-5", true},
        {"/_matrix/client/v3/sync?since=s1", true},
        {"/_matrix/client/v3/sync?since=s1&", true},
        {"/_matrix/client/v3/sync?since=s1&a=1&a=2&&b;a=3&since=s2", true},
        {"/_matrix/client/v3/sync?a=0&filter=%7B%7D&%61=9&since=s1&a=%31", true},
        {"/_matrix/client/v3/sync?a=0&since=&since=s7&a=1", true},
        {"/_matrix/client/v3/sync?a=0;since=s6&since=s7;a=1", false},
        {"/_matrix/client/v3/sync?a=0;since=s6&since=s7&a=1", true},
        {"/_matrix/client/v3/sync?a=0&since=s1%2B2", false},
        {"/_matrix/client/v3/sync?a=0&xsince=s1", false},
        {"/_matrix/client/v3/sync", false},
        {"/_matrix/client/v3/sync?access_token=x&since=s1&a=1", false},
        {"/_matrix/client/v3/sync?a=\"&since=s1", false},
        {"/_matrix/client/v3/sync?since=s1&a=\\", false},
        {"/_matrix/client/v3/sync?since=s1&access%5Ftoken=x", false},
        {"http://x/_matrix/client/v3/sync?since=s1", false},
    };
    static const char *const names[] = {"since", "filter", "a", "b", "access_token"};
    struct texts *texts = calloc(1, sizeof *texts);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char text[1000];
        struct http_head h;
        enum close_reason why;
        snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n\r\n",
                 forms[i].target);
        assert_int_equal(http_head_parse(str_of(text), STR("x-id"), STR("x"), &h, &why), 0);
        struct req *r[4];
        for (int k = 0; k < 4; k++) {
            r[k] = req_new(&h, STR("192.0.2.1"), 1, k ? texts : NULL, false);
            if ((r[k]->pub.form != NULL) != (forms[i].shared && k >= 2)) /* not the first that is seen */
                fail_msg("%s: request %d", forms[i].target, k);
            assert_target(r[k], forms[i].target);
            assert_true(str_eq(http_path(&r[k]->pub), http_path(&r[0]->pub)));
            assert_true(str_eq(http_client_ip(&r[k]->pub), STR("192.0.2.1")));
            for (size_t j = 0; j < sizeof names / sizeof *names; j++) {
                struct str name = str_of(names[j]), v, w;
                size_t at = 0, at_k = 0;
                while (http_query_next(&r[0]->pub, name, &at, &v)) {
                    if (!http_query_next(&r[k]->pub, name, &at_k, &w) || !str_eq(v, w))
                        fail_msg("%s: %s", forms[i].target, names[j]);
                }
                assert_false(http_query_next(&r[k]->pub, name, &at_k, &w));
                assert_true(same(http_query(&r[k]->pub, name), http_query(&r[0]->pub, name)));
                assert_int_equal(http_query_has(&r[k]->pub, name), http_query_has(&r[0]->pub, name));
            }
            struct str x[3], y[3];
            bool since = http_query_since(&r[0]->pub, &x[0], &x[1], &x[2]);
            assert_int_equal(http_query_since(&r[k]->pub, &y[0], &y[1], &y[2]), since);
            for (size_t j = 0; since && j < 3; j++)
                assert_true(str_eq(x[j], y[j]));
            assert_true(!since || x[1].n > 0);
            struct hash128 hash_0, hash_k;
            assert_int_equal(http_form_hash(&r[0]->pub, &hash_0, &x[0]), since);
            assert_int_equal(http_form_hash(&r[k]->pub, &hash_k, &y[0]), since);
            if (since && (hash_0.a != hash_k.a || hash_0.b != hash_k.b || !str_eq(x[0], y[0])))
                fail_msg("%s: request %d is told from the others by how it is kept", forms[i].target, k);
        }
        assert_true(r[2]->pub.form == r[3]->pub.form);
        for (int k = 0; k < 4; k++)
            req_free(&r[k]);
    }
    texts_fini(texts);
    free(texts);
}

/* Agents that are told apart have other hashes, whether they are shared or not. */
static void test_agents(void **state)
{
    (void)state;
    static char tall[700];
    memset(tall, 'x', sizeof tall - 1); /* too long to be shared */
    const char *const agents[] = {"Element/1", "Element/2", "\xc3\xa9", "?", "a\"b", tall};
    enum { N = sizeof agents / sizeof *agents };
    struct texts *texts = calloc(1, sizeof *texts);
    struct http_text *x[N][3];
    for (size_t i = 0; i < N; i++) {
        for (int k = 0; k < 3; k++) {
            x[i][k] = texts_agent(k ? texts : NULL, str_of(agents[i]));
            struct str text = str_n(x[i][k]->p, x[i][k]->n);
            struct hash128 h = str_hash128_of(&text, 1);
            assert_true(h.a == x[i][k]->hash.a && h.b == x[i][k]->hash.b);
            assert_int_equal(x[i][k]->as_it_is, i != 4);
        }
        assert_int_equal(x[i][1] == x[i][2], i != 2 && i != 5);
        for (size_t j = 0; j < i; j++)
            assert_true(x[i][0]->hash.a != x[j][0]->hash.a);
    }
    for (size_t i = 0; i < N; i++) {
        for (int k = 0; k < 3; k++)
            text_unref(&x[i][k]);
    }
    texts_fini(texts);
    free(texts);
}

/* Forms that many send are shared, those of single clients are not: they do not drive the others out. */
static void test_forms_of_one(void **state)
{
    (void)state;
    struct texts *texts = calloc(1, sizeof *texts);
    char one[100];
    for (int i = 0; i < 3000; i++) {
        snprintf(one, sizeof one, "/sync?filter=%d&since=", i);
        struct http_text *mine = texts_form(texts, str_of(one), STR("&b=1"), 5);
        struct http_text *common = texts_form(texts, STR("/sync?filter=x&since="), STR(""), 5);
        assert_null(mine);
        assert_int_equal(common != NULL, i > 0);
        text_unref(&common);
    }
    texts_fini(texts);
    free(texts);
}

/* What the handler keeps in the request harms neither its texts nor each other, however much it is. */
static void test_request_room(void **state)
{
    (void)state;
    for (int n = 0; n < 130; n++) {
        char text[300];
        struct http_head h;
        snprintf(text, sizeof text, "GET /%0*d?q HTTP/1.1\r\nHost: x\r\n\r\n", n + 1, 0);
        struct req *r = request_of(text, &h);
        assert_true(r->pub.room_bytes >= 32);
        char *first = http_room(&r->pub, 32);
        assert_null(r->pub.arena);
        memset(first, '1', 32);
        char *kept[20];
        for (int i = 0; i < 20; i++) {
            kept[i] = http_room(&r->pub, 7);
            memset(kept[i], 'a' + i, 7);
        }
        assert_non_null(r->pub.arena);
        for (int i = 0; i < 20; i++)
            assert_true(kept[i][0] == 'a' + i && kept[i][6] == 'a' + i);
        assert_true(first[0] == '1' && first[31] == '1');
        assert_true(str_eq(http_client_ip(&r->pub), STR("192.0.2.1")));
        req_free(&r);
    }
}

/* ---- the quick reader against the strict ones ---- */

/* 1: taken, and as the strict ones read it; 0: left to them. */
static int quick_agrees(const char *text, size_t n)
{
    struct http_head q, s;
    size_t quick_end = 0, end = 0;
    struct http_head_scan scan = {0};
    enum close_reason why = CLOSE_COUNT;
    char *exact = malloc(n ? n : 1);
    memcpy(exact, text, n);
    int taken = http_head_quick(str_n(exact, n), MAX, STR("X-Request-ID"), &q, &quick_end);
    if (taken) {
        int rc = http_head_scan(&scan, str_n(exact, n), MAX, &end, &why);
        if (rc == 1)
            rc = http_head_parse(str_n(exact, end), STR("X-Request-ID"), STR("matrix.example"), &s, &why) ? -1
                                                                                                          : 1;
        if (rc != 1 || end != quick_end)
            fail_msg("%.*s: taken, but %s", (int)n, text,
                     why < CLOSE_COUNT ? close_reasons[why].id : "not whole");
        bool same_slices = same(q.method_name, s.method_name) && same(q.target, s.target) &&
                           same(q.path, s.path) && same(q.query, s.query) && same(q.host, s.host) &&
                           same(q.authorization, s.authorization) && same(q.user_agent, s.user_agent) &&
                           same(q.content_type, s.content_type) && same(q.forwarded_for, s.forwarded_for) &&
                           same(q.request_id, s.request_id);
        if (!same_slices || q.method != s.method || q.minor != s.minor || q.options != s.options ||
            q.keep_alive != s.keep_alive || q.chunked != s.chunked ||
            q.expect_continue != s.expect_continue || q.content_length != s.content_length ||
            q.authorization_count != s.authorization_count || q.host_count != s.host_count ||
            s.length_count + s.encoding_count != 0)
            fail_msg("%.*s: read differently", (int)n, text);
    }
    free(exact);
    return taken;
}

static const char *const ordinary[] = {
    "GET /_matrix/client/v3/sync?timeout=30000&since=s1_2 HTTP/1.1\r\nHost: hs.example\r\nAuthorization: "
    "Bearer "
    "syt_abc\r\nUser-Agent: Mozilla/5.0 (X11)\r\nAccept: */*\r\nAccept-Encoding: gzip, "
    "deflate\r\nConnection: "
    "keep-alive\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n",
    "GET /a?b?c HTTP/1.1\r\nhost:x\r\nX-FORWARDED-FOR: 1.2.3.4, 5.6.7.8\r\nx-forwarded-for: 9.9.9.9\r\n"
    "x-request-id: \tabc\t \r\nA:\r\nB:  \r\nUser-Agent: caf\xc3\xa9\tx\r\n\r\nGET /next",
    "GET /a HTTP/1.1\r\nAuthorization: one\r\nAuthorization: two\r\nContent-Type: text/plain\r\nuser-agent: "
    "a\r\nUser-Agent: b\r\n\r\n",
};

static void test_quick_takes_the_ordinary(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof ordinary / sizeof *ordinary; i++)
        assert_int_equal(quick_agrees(ordinary[i], strlen(ordinary[i])), 1);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        quick_agrees(rows[i].text, strlen(rows[i].text));
}

/* Each byte of ordinary heads and of the table's replaced by each value, left out, and doubled. */
static void test_quick_agrees_on_mutations(void **state)
{
    (void)state;
    char text[600];
    size_t taken = 0, all = sizeof ordinary / sizeof *ordinary + sizeof rows / sizeof *rows;
    for (size_t i = 0; i < all; i++) {
        size_t o = sizeof ordinary / sizeof *ordinary;
        const char *from = i < o ? ordinary[i] : rows[i - o].text;
        size_t n = strlen(from);
        assert_true(n + 1 < sizeof text);
        for (size_t k = 0; k < n; k++) {
            for (int c = 0; c < 256; c++) {
                memcpy(text, from, n);
                text[k] = (char)c;
                taken += (size_t)quick_agrees(text, n);
            }
            memcpy(text, from, k);
            memcpy(text + k, from + k + 1, n - k - 1);
            taken += (size_t)quick_agrees(text, n - 1);
            memcpy(text + k + 1, from + k, n - k);
            text[k] = from[k];
            taken += (size_t)quick_agrees(text, n + 1);
            taken += (size_t)quick_agrees(from, k);
        }
    }
    assert_true(taken > 50000); /* or little was compared */
}

/* Lines that matter to framing, in every pair and order, between ordinary ones. */
static void test_quick_agrees_on_pairs(void **state)
{
    static const char *const lines[] = {
        "Host: a",
        "host : a",
        "Content-Length: 0",
        "content-length:5",
        "Transfer-Encoding: chunked",
        "Transfer-Encodings: x",
        "Expect: 100-continue",
        "Connection: close",
        "Connection: keep-alive, close",
        "Connection:",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Proxy-Connection: close",
        "X-Request-Id: a b",
        "Accept: \x7f",
        " folded",
        "\tfolded",
        "X-Forwarded-For:",
        "User-Agent:",
        "Authorization:",
        "No-Colon",
        ":",
        "\xe9: x",
        "X: \x80\xff",
    };
    (void)state;
    enum { N = sizeof lines / sizeof *lines };
    char text[400];
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < N; k++) {
            int n = snprintf(text, sizeof text, "GET /a?b HTTP/1.1\r\n%s\r\nAccept: */*\r\n%s\r\n\r\n",
                             lines[i], lines[k]);
            quick_agrees(text, (size_t)n);
        }
    }
}

int run_head_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_every_prefix),
        cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(test_what_follows_is_left),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_request_copies),
        cmocka_unit_test(test_request_names),
        cmocka_unit_test(test_request_room),
        cmocka_unit_test(test_request_forms),
        cmocka_unit_test(test_agents),
        cmocka_unit_test(test_forms_of_one),
        cmocka_unit_test(test_quick_takes_the_ordinary),
        cmocka_unit_test(test_quick_agrees_on_mutations),
        cmocka_unit_test(test_quick_agrees_on_pairs),
    };
    return cmocka_run_group_tests_name("head", tests, NULL, NULL);
}
