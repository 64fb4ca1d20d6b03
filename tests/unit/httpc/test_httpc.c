/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* The HTTP client against a server that is good, slow, too generous, broken or gone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "chappe/clock.h"
#include "chappe/httpc.h"
#include "chappe/metrics.h"
#include "server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <uv.h>

struct fix {
    uv_loop_t loop;
    struct httpc *c;
    int pending;
};
struct answer {
    struct fix *f;
    int calls, err, status;
    char body[1024], server[64];
    size_t body_bytes;
    int64_t at_ms, retry_after_ms;
};

static struct server server;

static int group_setup(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    /* Must be ignored: nothing listens there. */
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("ALL_PROXY", "http://127.0.0.1:1", 1);
    return server_start(&server);
}

static int group_teardown(void **state)
{
    (void)state;
    server_stop(&server);
    return 0;
}

static bool alike; /* the tests run twice: once with handles that are used again */

static int setup(void **state)
{
    static const struct httpc_options again = {
        .calls_max = 10000, .host_connections_max = 32, .connections_max = 256, .alike = true};
    struct fix *f = xcalloc(1, sizeof *f);
    struct err e;
    assert_int_equal(uv_loop_init(&f->loop), 0);
    assert_int_equal(httpc_start(&f->c, &f->loop, alike ? &again : NULL, &e), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fix *f = *state;
    httpc_stop(&f->c);
    assert_null(f->c);
    httpc_stop(&f->c);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    assert_int_equal(metric_get(M_httpc_pending), 0);
    free(f);
    return 0;
}

static void answered(void *arg, const struct httpc_res *res)
{
    struct answer *a = arg;
    a->calls++;
    a->err = res->err;
    if (res->err == 0) {
        a->status = res->status;
        a->body_bytes = res->body.n;
        a->retry_after_ms = res->retry_after_ms;
        snprintf(a->server, sizeof a->server, "%.*s", STR_ARG(res->server));
        snprintf(a->body, sizeof a->body, "%.*s", STR_ARG(res->body));
    }
    a->at_ms = clock_mono_ms();
    assert_int_equal(a->calls, 1);
    a->f->pending--;
}

static void send_to(struct fix *f, const char *path, struct httpc_req *req, struct answer *a)
{
    char url[128];
    snprintf(url, sizeof url, "http://127.0.0.1:%d%s", server.port, path);
    if (str_absent(req->url))
        req->url = str_of(url);
    if (!req->method)
        req->method = "GET";
    memset(a, 0, sizeof *a);
    a->f = f;
    f->pending++;
    httpc_send(f->c, req, answered, a);
    assert_int_equal(a->calls, 0);
    req->url = STR_ABSENT;
    memset(url, 'x', sizeof url); /* everything was copied */
}

static void tick(uv_timer_t *t)
{
    (void)t;
}

static void drain(struct fix *f)
{
    uv_timer_t t;
    uv_timer_init(&f->loop, &t);
    uv_timer_start(&t, tick, 10, 10);
    for (int64_t until = clock_mono_ms() + 15000; f->pending > 0 && clock_mono_ms() < until;)
        uv_run(&f->loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&t, NULL);
    uv_run(&f->loop, UV_RUN_NOWAIT);
    assert_int_equal(f->pending, 0);
}

static void requests_are_sent_as_asked(void **state)
{
    struct fix *f = *state;
    char secret[] = "Bearer opaque";
    struct httpc_header headers[] = {{STR("Authorization"), str_of(secret)},
                                     {STR("Content-Type"), STR("application/json")},
                                     {STR("X-Empty"), STR("")}};
    char body[] = "{\"a\":\"\xc3\xa9\"}";
    static const struct {
        const char *method;
        bool body;
        const char *line;
    } rows[] = {{"GET", false, "GET /echo HTTP/1.1\r\n"},
                {"POST", true, "POST /echo HTTP/1.1\r\n"},
                {"POST", false, "POST /echo HTTP/1.1\r\n"},
                {"PUT", true, "PUT /echo HTTP/1.1\r\n"},
                {"DELETE", false, "DELETE /echo HTTP/1.1\r\n"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct answer a;
        struct httpc_req req = {.method = rows[i].method, .headers = headers, .headers_count = 3};
        if (rows[i].body)
            req.body = str_of(body);
        send_to(f, "/echo", &req, &a);
        drain(f);
        assert_int_equal(a.err, 0);
        assert_int_equal(a.status, 200);
        assert_memory_equal(a.body, rows[i].line, strlen(rows[i].line));
        assert_non_null(strstr(a.body, "\r\nAuthorization: Bearer opaque\r\n"));
        assert_non_null(strstr(a.body, "\r\nContent-Type: application/json\r\n"));
        assert_non_null(strstr(a.body, "\r\nX-Empty:\r\n"));
        assert_non_null(strstr(a.body, "\r\nUser-Agent: chappe/"));
        assert_null(strstr(a.body, "Expect:"));
        assert_null(strstr(a.body, "Accept-Encoding:"));
        const char *end = strstr(a.body, "\r\n\r\n");
        assert_string_equal(end + 4, rows[i].body ? "{\"a\":\"\xc3\xa9\"}" : "");
    }
}

static void bodies_are_copied(void **state)
{
    struct fix *f = *state;
    struct answer a;
    size_t n = 100000;
    char *body = xmalloc(n);
    memset(body, 'b', n);
    struct httpc_req req = {.method = "POST", .body = str_n(body, n)};
    send_to(f, "/echo", &req, &a);
    memset(body, 'x', n);
    free(body);
    drain(f);
    assert_int_equal(a.err, 0);
    assert_true(a.body_bytes > n);
    assert_null(strchr(strstr(a.body, "\r\n\r\n"), 'x'));
}

/* Nothing of one request shows in the next: not its body, headers, method, address or answer. */
static void requests_do_not_mix(void **state)
{
    struct fix *f = *state;
    struct httpc_header one = {STR("X-One"), STR("1")},
                        two[] = {{STR("X-One"), STR("1")}, {STR("X-Two"), STR("2")}};
    char resolve[64], url[64];

    snprintf(resolve, sizeof resolve, "elsewhere.invalid:%d:127.0.0.1", server.port);
    snprintf(url, sizeof url, "http://elsewhere.invalid:%d/echo", server.port);
    for (int round = 0; round < 3; round++) {
        struct answer a;
        struct httpc_req long_one = {
            .method = "POST", .body = STR("a longer body"), .headers = two, .headers_count = 2};
        send_to(f, "/echo", &long_one, &a);
        drain(f);
        assert_non_null(strstr(a.body, "X-Two: 2\r\n"));
        assert_string_equal(strstr(a.body, "\r\n\r\n") + 4, "a longer body");
        struct httpc_req same = {.method = "POST", .body = STR("short"), .headers = two, .headers_count = 2};
        send_to(f, "/echo", &same, &a);
        drain(f);
        assert_non_null(strstr(a.body, "\r\nContent-Length: 5\r\n"));
        assert_string_equal(strstr(a.body, "\r\n\r\n") + 4, "short");
        struct httpc_req fewer = {.method = "POST", .headers = &one, .headers_count = 1};
        send_to(f, "/echo", &fewer, &a);
        drain(f);
        assert_null(strstr(a.body, "X-Two"));
        assert_string_equal(strstr(a.body, "\r\n\r\n") + 4, "");
        struct httpc_req get = {.headers = &one, .headers_count = 1};
        for (int again = 0; again < 2; again++) {
            send_to(f, "/echo", &get, &a);
            drain(f);
            assert_memory_equal(a.body, "GET /echo ", 10);
        }
        send_to(f, "/teapot", &get, &a);
        drain(f);
        assert_int_equal(a.status, 418);
        assert_int_equal(a.body_bytes, 5);
        send_to(f, "/early", &get, &a);
        drain(f);
        assert_int_equal(a.err, -ERR_CLOSED);
        struct httpc_req impatient = {.headers = &one, .headers_count = 1, .timeout_ms = 50};
        send_to(f, "/slow", &impatient, &a);
        drain(f);
        assert_int_equal(a.err, -ERR_TIMEOUT);
        struct httpc_req patient = {.headers = &one, .headers_count = 1};
        send_to(f, "/slow", &patient, &a);
        drain(f);
        assert_string_equal(a.body, "late");
        struct httpc_req known = {.url = str_of(url), .resolve = str_of(resolve)};
        send_to(f, "", &known, &a);
        drain(f);
        assert_int_equal(a.err, 0);
        struct httpc_req small = {.response_bytes_max = 3};
        send_to(f, "/teapot", &small, &a);
        drain(f);
        assert_int_equal(a.err, -ERR_LIMIT);
    }
}

static void servers_name_themselves(void **state)
{
    struct fix *f = *state;
    struct answer named, nameless;
    struct httpc_req req = {0};
    send_to(f, "/named", &req, &named);
    send_to(f, "/count", &req, &nameless);
    drain(f);
    assert_string_equal(named.server, "Synapse/1.157.1");
    assert_string_equal(nameless.server, "");
}

static int64_t retry_after(struct fix *f, const char *value)
{
    struct answer a;
    struct httpc_req req = {0};
    char path[64];

    snprintf(path, sizeof path, "/after?%s", value);
    send_to(f, path, &req, &a);
    drain(f);
    assert_int_equal(a.status, 429);
    return a.retry_after_ms;
}

/* RFC 9110: seconds, or a date in one of three forms; whatever else is none. */
static void when_to_come_again(void **state)
{
    static const struct {
        const char *value;
        int64_t ms;
    } rows[] = {
        {"0", 0},
        {"120", 120000},
        {"-5", 0},
        {"86401", 86400000},
        {"99999999999999999999", -1},
        {"soon", -1},
        {"", -1},
        {"1.5", -1},
        {"Fri,_31_Dec_1999_23:59:59_GMT", 0},
    };
    struct fix *f = *state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (retry_after(f, rows[i].value) != rows[i].ms)
            fail_msg("%s: %lld", rows[i].value, (long long)retry_after(f, rows[i].value));
    for (int form = 0; form < 3; form++) {
        char text[64];
        time_t then = time(NULL) + 600;
        struct tm tm;
        gmtime_r(&then, &tm);
        if (form == 0)
            strftime(text, sizeof text, "%a,_%d_%b_%Y_%H:%M:%S_GMT", &tm);
        else if (form == 1)
            strftime(text, sizeof text, "%A,_%d-%b-", &tm),
                snprintf(text + strlen(text), 32, "%02d_%02d:%02d:%02d_GMT", tm.tm_year % 100, tm.tm_hour,
                         tm.tm_min, tm.tm_sec);
        else
            strftime(text, sizeof text, "%a_%b_%e_%H:%M:%S_%Y", &tm);
        int64_t ms = retry_after(f, text);
        assert_true(ms > 500000 && ms <= 600000);
    }
}

/* Connections to a server that vanishes without a word do not outlive it for long. */
static void silence_is_noticed(void **state)
{
    struct fix *f = *state;
    struct answer a;
    struct httpc_req req = {0};
    int found = 0;

    send_to(f, "/echo", &req, &a);
    drain(f);
    for (int fd = 0; fd < 1024; fd++) {
        struct sockaddr_in peer = {0};
        socklen_t n = sizeof peer;
        if (getpeername(fd, (struct sockaddr *)&peer, &n) != 0 || peer.sin_family != AF_INET ||
            ntohs(peer.sin_port) != server.port)
            continue;
        int unanswered = 0, probes = 0;
        n = sizeof unanswered;
        assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered, &n), 0);
        n = sizeof probes;
        assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &probes, &n), 0);
        assert_true(unanswered > 0 && unanswered <= 60000 && probes);
        found++;
    }
    assert_true(found > 0);
}

static void unix_sockets(void **state)
{
    struct fix *f = *state;
    struct answer a, b;
    struct httpc_req req = {.url = STR("http://localhost/echo"), .unix_path = str_of(server.unix_path)};
    send_to(f, "", &req, &a);
    struct httpc_req gone = {.url = STR("http://localhost/echo"), .unix_path = STR("/nonexistent/socket")};
    send_to(f, "", &gone, &b);
    drain(f);
    assert_int_equal(a.err, 0);
    assert_non_null(strstr(a.body, "\r\nHost: localhost\r\n"));
    assert_int_equal(b.err, -ERR_IO);
}

static void connections_are_kept(void **state)
{
    struct fix *f = *state;
    struct answer a, b;
    struct httpc_req req = {0};
    send_to(f, "/count", &req, &a);
    drain(f);
    for (int i = 0; i < 5; i++) {
        send_to(f, "/count", &req, &b);
        drain(f);
        assert_string_equal(b.body, a.body);
    }
    /* The server closes an idle connection: the next request finds out and opens another. */
    send_to(f, "/idle", &req, &b);
    drain(f);
    assert_string_equal(b.body, "bye");
    for (int i = 0; i < 3; i++) {
        send_to(f, "/echo", &req, &b);
        drain(f);
        assert_int_equal(b.err, 0);
    }
}

static void every_way_to_end(void **state)
{
    static const struct {
        const char *path;
        struct httpc_req req;
        int err, status;
        const char *body;
        int at_most_ms;
    } rows[] = {
        {"/teapot", {0}, 0, 418, "steam", 1000},
        {"/redirect", {0}, 0, 302, "", 1000},
        {"/slow", {0}, 0, 200, "late", 2000},
        {"/slow", {.timeout_ms = 100}, -ERR_TIMEOUT, 0, "", 350},
        {"/drip", {.timeout_ms = 200}, -ERR_TIMEOUT, 0, "", 600},
        {"/declared", {0}, -ERR_LIMIT, 0, "", 1000},
        {"/endless", {.response_bytes_max = 100000}, -ERR_LIMIT, 0, "", 2000},
        {"/endless", {0}, -ERR_LIMIT, 0, "", 3000},
        {"/headers", {0}, -ERR_LIMIT, 0, "", 2000},
        {"/garbage", {0}, -ERR_PROTOCOL, 0, "", 1000},
        {"/early", {0}, -ERR_CLOSED, 0, "", 1000},
        {"/partial", {0}, -ERR_CLOSED, 0, "", 1000},
        {"", {.url = STR("http://127.0.0.1:1/")}, -ERR_IO, 0, "", 1000},
        {"", {.url = STR("http://nothing.invalid/"), .timeout_ms = 5000}, -ERR_IO, 0, "", 6000},
        {"", {.url = STR("ftp://127.0.0.1/")}, -ERR_PROTOCOL, 0, "", 1000},
        {"", {.url = STR("file:///etc/hostname")}, -ERR_PROTOCOL, 0, "", 1000},
        {"", {.url = STR("http://")}, -ERR_PARSE, 0, "", 1000},
        {"", {.url = STR("http://127.0.0.1/a\r\nX: y")}, -ERR_PARSE, 0, "", 1000},
        {"", {.url = STR("")}, -ERR_PARSE, 0, "", 1000},
        {"/teapot", {.response_bytes_max = 5}, 0, 418, "steam", 1000},
        {"/teapot", {.response_bytes_max = 4}, -ERR_LIMIT, 0, "", 1000},
    };
    struct fix *f = *state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct answer a;
        struct httpc_req req = rows[i].req;
        int64_t from = clock_mono_ms();
        send_to(f, rows[i].path, &req, &a);
        drain(f);
        if (a.err != rows[i].err || a.status != rows[i].status || strcmp(a.body, rows[i].body) != 0)
            fail_msg("row %zu %s: %s, %d, %s", i, rows[i].path, err_text(a.err), a.status, a.body);
        if (a.at_ms - from > rows[i].at_most_ms)
            fail_msg("row %zu %s took %d ms", i, rows[i].path, (int)(a.at_ms - from));
    }
}

static void headers_cannot_be_injected(void **state)
{
    static const struct httpc_header rows[] = {{STR("A"), STR("b\r\nC: d")},
                                               {STR("A\n"), STR("b")},
                                               {STR("A"), STR("b\0")},
                                               {STR(""), STR("b")},
                                               {STR("A"), STR("\x7f")}};
    struct fix *f = *state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct answer a;
        struct httpc_req req = {.headers = &rows[i], .headers_count = 1};
        send_to(f, "/echo", &req, &a);
        drain(f);
        assert_int_equal(a.err, -ERR_PARSE);
    }
}

static void many_at_once(void **state)
{
    enum { N = 300 };
    struct fix *f = *state;
    struct answer *a = xcalloc(N, sizeof *a);
    for (int i = 0; i < N; i++) {
        struct httpc_req req = {0};
        send_to(f, i % 3 ? "/echo" : i % 2 ? "/early" : "/teapot", &req, &a[i]);
    }
    drain(f);
    for (int i = 0; i < N; i++)
        assert_int_equal(a[i].err, i % 3 || i % 2 == 0 ? 0 : -ERR_CLOSED);
    free(a);
}

static void stop_ends_everything(void **state)
{
    struct fix *f = *state;
    struct answer a[4];
    struct httpc_req req = {0}, bad = {.url = STR("")};
    send_to(f, "/drip", &req, &a[0]);
    send_to(f, "/slow", &req, &a[1]);
    for (int i = 0; i < 20; i++) {
        uv_run(&f->loop, UV_RUN_NOWAIT);
        uv_sleep(5);
    }
    send_to(f, "/echo", &req, &a[2]); /* curl has not begun with it */
    send_to(f, "", &bad, &a[3]);      /* already failed, not told yet */
    httpc_stop(&f->c);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(a[i].calls, 1);
        assert_int_equal(a[i].err, -ERR_SHUTDOWN);
    }
}

struct chain {
    struct fix *f;
    struct answer inner;
    bool stop;
    int err;
};

static void chain_next(void *arg, const struct httpc_res *res)
{
    struct chain *c = arg;
    struct httpc_req req = {0};
    c->err = res->err;
    c->f->pending--;
    if (c->stop)
        httpc_stop(&c->f->c);
    else
        send_to(c->f, "/teapot", &req, &c->inner);
}

static void callbacks_may_send_and_stop(void **state)
{
    struct fix *f = *state;
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d/echo", server.port);
    struct httpc_req req = {.method = "GET", .url = str_of(url)};
    struct chain c = {.f = f};
    f->pending = 1;
    httpc_send(f->c, &req, chain_next, &c);
    drain(f);
    assert_int_equal(c.inner.status, 418);
    struct httpc_req broken = {.method = "GET", .url = STR("")};
    c.inner.calls = 0;
    f->pending = 1;
    httpc_send(f->c, &broken, chain_next, &c);
    drain(f);
    assert_int_equal(c.err, -ERR_PARSE);
    assert_int_equal(c.inner.status, 418);
    struct answer other;
    struct httpc_req slow = {0};
    c.stop = true;
    f->pending = 1;
    httpc_send(f->c, &req, chain_next, &c);
    send_to(f, "/slow", &slow, &other);
    drain(f);
    assert_int_equal(c.err, 0);
    assert_int_equal(other.err, -ERR_SHUTDOWN);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(requests_are_sent_as_asked),
        T(bodies_are_copied),
        T(servers_name_themselves),
        T(unix_sockets),
        T(when_to_come_again),
        T(silence_is_noticed),
        T(requests_do_not_mix),
        T(connections_are_kept),
        T(every_way_to_end),
        T(headers_cannot_be_injected),
        T(many_at_once),
        T(stop_ends_everything),
        T(callbacks_may_send_and_stop),
    };
    int failed = cmocka_run_group_tests_name("httpc", tests, group_setup, group_teardown);

    alike = true;
    return failed +
           cmocka_run_group_tests_name("httpc, handles used again", tests, group_setup, group_teardown);
}
