/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The whole server over real sockets: one suite, run on both transports, each
 * with the front on the hub's loop and with two front threads. A variant that
 * the machine does not allow is skipped.
 */
#include "chappe/log.h"
#include "http_int.h"
#include "server_fixture.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- the ordinary ---- */

static void test_echo(void **state)
{
    START(state);
    struct response r;
    assert_int_equal(fetch(PORT,
                           "GET /_matrix/echo?since=s%201+x&a HTTP/1.1\r\nHost: "
                           "x\r\nAuthorization: Bearer tok\r\n"
                           "User-Agent: caf\xe9\r\n\r\n",
                           &r),
                     200);
    assert_non_null(strstr(r.body, "method 0\npath /_matrix/echo\nquery since=s%201+x&a\nabsent "
                                   "0\nsince s 1 x\n"
                                   "auth Bearer tok 1\nagent caf\xef\xbf\xbd\nip 127.0.0.1\n"));
    assert_true(header_is(&r, "Content-Type", "application/json"));
    assert_true(header_is(&r, "Server", CHAPPE_SERVER_HEADER));
    assert_true(header_is(&r, "Cache-Control", "no-cache, no-store, must-revalidate"));
    assert_true(header_is(&r, "Access-Control-Allow-Origin", "*"));
    assert_true(header_is(&r, "Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS"));
    assert_true(
        header_is(&r, "Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization, Date"));
    assert_true(header_is(&r, "Access-Control-Expose-Headers", "Synapse-Trace-Id, Server"));
    assert_true(has_header(&r, "Date"));
    assert_false(has_header(&r, "Connection"));
    response_free(&r);
    server_stop(&the_server);
}

static void test_keep_alive(void **state)
{
    START(state);
    struct client *c = client_dial(PORT);
    struct response r;
    for (int i = 0; i < 20; i++) {
        client_send(c, "GET /_matrix/echo HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_int_equal(client_read(c, &r, false), 0);
        assert_non_null(strstr(r.body, "absent 1"));
        response_free(&r);
    }
    client_send(c, "GET /_matrix/echo HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_int_equal(client_read(c, &r, false), 0);
    assert_true(header_is(&r, "Connection", "close"));
    response_free(&r);
    assert_true(client_ended(c, 2000));
    client_free(&c);
    c = client_dial(PORT);
    client_send(c, "GET /_matrix/echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_int_equal(client_read(c, &r, false), 0);
    response_free(&r);
    assert_true(client_ended(c, 2000));
    client_free(&c);
    server_stop(&the_server);
}

static void test_own_answers(void **state)
{
    static const struct {
        const char *request;
        int status;
        const char *body, *type;
    } rows[] = {
        {"GET /health HTTP/1.1\r\n\r\n", 200, "OK", "text/plain"},
        {"HEAD /health HTTP/1.1\r\n\r\n", 200, "", "text/plain"},
        {"POST /health HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405, NULL, NULL},
        {"GET /health/x HTTP/1.1\r\n\r\n", 404,
         "{\"errcode\":\"M_UNRECOGNIZED\",\"error\":\"Unrecognized request\"}", "application/json"},
        {"GET / HTTP/1.1\r\n\r\n", 404, NULL, NULL},
        {"PUT /_matrix/echo HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405,
         "{\"errcode\":\"M_UNRECOGNIZED\",\"error\":\"Unrecognized request\"}", NULL},
        {"BREW /_matrix/echo HTTP/1.1\r\n\r\n", 405, NULL, NULL},
        {"BREW /coffee HTTP/1.1\r\n\r\n", 404, NULL, NULL},
        {"OPTIONS /anything HTTP/1.1\r\n\r\n", 204, "", NULL},
        {"OPTIONS * HTTP/1.1\r\n\r\n", 204, "", NULL},
        {"GET /_matrix/error HTTP/1.1\r\n\r\n", 429,
         "{\"errcode\":\"M_LIMIT_EXCEEDED\",\"error\":\"Too Many Requests\"}", NULL},
        {"GET /metrics HTTP/1.1\r\n\r\n", 404, NULL, NULL},
    };
    START(state);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct response r;
        int status = fetch(PORT, rows[i].request, &r);
        if (status != rows[i].status)
            fail_msg("%s: %d", rows[i].request, status);
        if (rows[i].body)
            assert_string_equal(r.body, rows[i].body);
        if (rows[i].type)
            assert_true(header_is(&r, "Content-Type", rows[i].type));
        assert_true(header_is(&r, "Access-Control-Allow-Origin", "*"));
        assert_true(has_header(&r, "Content-Length"));
        if (status == 204)
            assert_true(header_is(&r, "Content-Length", "0") && !has_header(&r, "Content-Type"));
        if (status == 429)
            assert_true(header_is(&r, "Retry-After", "2"));
        response_free(&r);
    }
    server_stop(&the_server);
}

static void test_head(void **state)
{
    START(state);
    struct client *c = client_dial(PORT);
    struct response r;
    client_send(c, "HEAD /_matrix/big?bytes=54321 HTTP/1.1\r\n\r\nGET "
                   "/_matrix/big?bytes=3 HTTP/1.1\r\n\r\n");
    assert_int_equal(client_read(c, &r, true), 0);
    assert_true(header_is(&r, "Content-Length", "54321"));
    response_free(&r);
    assert_int_equal(client_read(c, &r, false), 0); /* no body stood between */
    assert_string_equal(r.body, "xxx");
    response_free(&r);
    client_free(&c);
    server_stop(&the_server);
}

static void test_bodies(void **state)
{
    START(state);
    struct response r;
    assert_int_equal(fetch(PORT,
                           "POST /_matrix/echo HTTP/1.1\r\nContent-Length: "
                           "5\r\nContent-Type: application/json\r\n\r\nhello",
                           &r),
                     200);
    assert_non_null(strstr(r.body, "body 5 hello"));
    response_free(&r);
    struct client *c = client_dial(PORT);
    const char *text = "POST /_matrix/echo HTTP/1.1\r\nTransfer-Encoding: "
                       "chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nT: v\r\n\r\n"
                       "GET /_matrix/echo HTTP/1.1\r\n\r\n";
    for (size_t i = 0; text[i]; i++) { /* one byte per packet */
        client_send_bytes(c, text + i, 1);
        if (i % 8 == 0)
            usleep(100);
    }
    assert_int_equal(client_read(c, &r, false), 0);
    assert_non_null(strstr(r.body, "body 7 abcdefg"));
    response_free(&r);
    assert_int_equal(client_read(c, &r, false), 0);
    assert_non_null(strstr(r.body, "method 0"));
    response_free(&r);
    size_t n = 1000000;
    char *big = malloc(n + 1);
    memset(big, 'q', n);
    big[n] = 0;
    client_send(c, "POST /_matrix/echo HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n");
    client_send(c, big);
    assert_int_equal(client_read(c, &r, false), 0);
    assert_non_null(strstr(r.body, "body 1000000 q"));
    response_free(&r);
    free(big);
    client_free(&c);
    server_stop(&the_server);
}

static void test_continue(void **state)
{
    START(state);
    struct client *c = client_dial(PORT);
    struct response r;
    client_send(c, "POST /_matrix/echo HTTP/1.1\r\nContent-Length: 2\r\nExpect: "
                   "100-continue\r\n\r\n");
    assert_int_equal(client_read(c, &r, true), 0);
    assert_int_equal(r.status, 100);
    response_free(&r);
    client_send(c, "ok");
    assert_int_equal(client_read(c, &r, false), 0);
    assert_int_equal(r.status, 200);
    response_free(&r);
    client_free(&c);
    server_stop(&the_server);
}

static void test_pipelining(void **state)
{
    START(state);
    enum { N = 300 };
    struct client *c = client_dial(PORT);
    struct response r;
    struct buf b;
    buf_init(&b, 1 << 20);
    for (int i = 0; i < N; i++)
        buf_printf(&b, "GET /_matrix/echo?since=%d%s HTTP/1.1\r\nX-Pad: %0*d\r\n\r\n", i, i % 3 ? "" : "&x",
                   i % 200, i);
    client_send_bytes(c, b.p, b.n);
    for (int i = 0; i < N; i++) {
        char want[40];
        assert_int_equal(client_read(c, &r, false), 0);
        snprintf(want, sizeof want, "\nsince %d\n", i);
        assert_non_null(strstr(r.body, want));
        response_free(&r);
    }
    /* Behind a parked request they wait their turn, and reading ahead is bounded.
     */
    client_send(c, "GET /_matrix/park HTTP/1.1\r\n\r\n");
    WAIT_FOR(the_server.parked_count == 1);
    int before = the_server.handled;
    client_send_bytes(c, b.p, b.n);
    usleep(50000);
    assert_int_equal(the_server.handled, before);
    server_command(&the_server, CMD_RELEASE);
    assert_int_equal(client_read(c, &r, false), 0);
    assert_string_equal(r.body, "{\"released\":true}");
    response_free(&r);
    for (int i = 0; i < N; i++) {
        assert_int_equal(client_read(c, &r, false), 0);
        response_free(&r);
    }
    buf_fini(&b);
    client_free(&c);
    server_stop(&the_server);
}

/* ---- who asks ---- */

static void test_forwarded(void **state)
{
    static const struct {
        const char *header, *ip;
    } rows[] = {
        {"", "127.0.0.1"},
        {"X-Forwarded-For: 10.1.2.3\r\n", "10.1.2.3"},
        {"X-Forwarded-For:  10.1.2.3 , 9.9.9.9\r\nX-Forwarded-For: 8.8.8.8\r\n", "10.1.2.3"},
        {"X-Forwarded-For: 2001:db8::1\r\n", "2001:db8::1"},
        {"X-Forwarded-For: 0.10.255.9\r\n", "0.10.255.9"},
        {"X-Forwarded-For: ::ffff:10.1.2.3\r\n", "::ffff:10.1.2.3"},
        {"X-Forwarded-For: 10.1.2.256\r\n", "127.0.0.1"},
        {"X-Forwarded-For: 10.01.2.3\r\n", "127.0.0.1"},
        {"X-Forwarded-For: 10.1.2.00\r\n", "127.0.0.1"},
        {"X-Forwarded-For: 10.1.2\r\n", "127.0.0.1"},
        {"X-Forwarded-For: 10.1.2.\r\n", "127.0.0.1"},
        {"X-Forwarded-For: .10.1.2\r\n", "127.0.0.1"},
        {"X-Forwarded-For: 10.1..2\r\n", "127.0.0.1"},
        {"X-Forwarded-For: 10.1.2.3.4\r\n", "127.0.0.1"},
        {"X-Forwarded-For: 10.1.2.3x\r\n", "127.0.0.1"},
        {"X-Forwarded-For: unknown\r\n", "127.0.0.1"},
        {"X-Forwarded-For: caf\xe9\r\n", "127.0.0.1"},
        {"X-Forwarded-For:\r\n", "127.0.0.1"},
    };
    START(state);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[400], want[80];
        struct response r;
        snprintf(text, sizeof text, "GET /_matrix/echo HTTP/1.1\r\n%s\r\n", rows[i].header);
        snprintf(want, sizeof want, "\nip %s\n", rows[i].ip);
        assert_int_equal(fetch(PROXIED, text, &r), 200);
        if (!strstr(r.body, want))
            fail_msg("%s gives %s", rows[i].header, r.body);
        response_free(&r);
        assert_int_equal(fetch(PORT, text, &r), 200); /* where it is not trusted */
        assert_non_null(strstr(r.body, "\nip 127.0.0.1\n"));
        response_free(&r);
    }
    struct response r;
    assert_int_equal(fetch(PROXIED, "GET /_matrix/echo HTTP/1.1\r\nX-Request-ID: trace-7\r\n\r\n", &r), 200);
    assert_non_null(strstr(r.body, "\nid trace-7\n"));
    response_free(&r);
    assert_int_equal(fetch(PORT, "GET /_matrix/echo HTTP/1.1\r\nX-Request-ID: trace-7\r\n\r\n", &r), 200);
    assert_non_null(strstr(r.body, "\nid GET-"));
    response_free(&r);
    server_stop(&the_server);
}

static void test_unix_socket(void **state)
{
    START(state);
    struct stat st;
    assert_int_equal(stat(unix_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    for (int i = 0; i < 20; i++) {
        struct client *c = client_dial_unix(unix_path);
        struct response r;
        assert_non_null(c);
        client_send(c, "GET /_matrix/echo HTTP/1.1\r\n\r\n");
        assert_int_equal(client_read(c, &r, false), 0);
        assert_non_null(strstr(r.body, "\nip \n"));
        response_free(&r);
        client_send(c, "GET /_matrix/echo HTTP/1.1\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n");
        assert_int_equal(client_read(c, &r, false), 0);
        assert_non_null(strstr(r.body, "\nip 1.2.3.4\n"));
        response_free(&r);
        client_free(&c);
    }
    server_stop(&the_server);
}

/* A socket file left by a dead process is replaced, a living one and a plain
 * file are not. */
static void test_unix_stale(void **state)
{
    CONFIG(state);
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", unix_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(listen(fd, 5), 0);
    struct httpd_routes routes = {0};
    struct httpd *h = NULL;
    struct err e;
    uv_loop_t loop;
    uv_loop_init(&loop);
    assert_int_equal(httpd_start(&h, &loop, &the_server.cfg, &routes, &e), -ERR_IO);
    assert_non_null(strstr(e.text, "another process"));
    assert_null(h);
    assert_int_equal(access(unix_path, F_OK), 0);
    close(fd); /* now it is stale */
    server_start(&the_server);
    struct client *c = client_dial_unix(unix_path);
    assert_non_null(c);
    client_free(&c);
    server_stop(&the_server);
    server_config(&the_server, variant_of(state));
    FILE *f = fopen(unix_path, "w");
    assert_non_null(f);
    fclose(f);
    assert_int_equal(httpd_start(&h, &loop, &the_server.cfg, &routes, &e), -ERR_IO);
    assert_non_null(strstr(e.text, "not a socket"));
    assert_int_equal(unlink(unix_path), 0); /* it is still there */
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void test_port_taken(void **state)
{
    START(state);
    static struct server second;
    server_config(&second, variant_of(state));
    second.listeners[0].port = PORT;
    second.cfg.listeners_count = 1;
    struct httpd_routes routes = {0};
    struct httpd *h = NULL;
    struct err e;
    uv_loop_t loop;
    uv_loop_init(&loop);
    assert_int_equal(httpd_start(&h, &loop, &second.cfg, &routes, &e), -ERR_IO);
    assert_non_null(strstr(e.text, "in use"));
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    server_stop(&the_server);
}

static void test_metrics_listener(void **state)
{
    START(state);
    struct response r;
    static const char *const paths[] = {"/metrics", "/_synapse/metrics"};
    for (int i = 0; i < 4; i++) {
        char text[100];
        snprintf(text, sizeof text, "GET %s HTTP/1.1\r\n\r\n", paths[i % 2]);
        assert_int_equal(fetch(i < 2 ? METRICS : PROXIED, text, &r), 200);
        assert_non_null(strstr(r.body, "chappe_http_requests_total"));
        assert_true(header_is(&r, "Content-Type", "text/plain; version=0.0.4; charset=utf-8"));
        response_free(&r);
    }
    assert_int_equal(fetch(METRICS, "GET /live HTTP/1.1\r\n\r\n", &r), 200);
    response_free(&r);
    assert_int_equal(fetch(METRICS, "GET /ready HTTP/1.1\r\n\r\n", &r), 200);
    response_free(&r);
    assert_int_equal(fetch(METRICS, "GET /_matrix/echo HTTP/1.1\r\n\r\n", &r), 404);
    response_free(&r);
    assert_int_equal(fetch(PORT, "GET /ready HTTP/1.1\r\n\r\n", &r), 404);
    response_free(&r);
    server_command(&the_server, CMD_UNHEALTHY);
    assert_int_equal(fetch(METRICS, "GET /ready HTTP/1.1\r\n\r\n", &r), 503);
    response_free(&r);
    assert_int_equal(fetch(PORT, "GET /health HTTP/1.1\r\n\r\n", &r), 503);
    response_free(&r);
    assert_int_equal(fetch(METRICS, "GET /live HTTP/1.1\r\n\r\n", &r), 200);
    response_free(&r);
    server_command(&the_server, CMD_HEALTHY);
    assert_int_equal(fetch(PORT, "GET /health HTTP/1.1\r\n\r\n", &r), 200);
    response_free(&r);
    server_stop(&the_server);
}

/* ---- refusals ---- */

static void test_malformed_in_pieces(void **state)
{
    static const struct {
        const char *request;
        int status;
        enum close_reason why;
    } rows[] = {
        {"GET /a HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400, CLOSE_obs_fold},
        {"GET /a HTTP/1.1\nA: b\n\n", 400, CLOSE_bare_lf},
        {"GET /a HTTP/1.1\r\nA : b\r\n\r\n", 400, CLOSE_bad_header},
        {"GET /\x01 HTTP/1.1\r\n\r\n", 400, CLOSE_bad_target},
        {"GET http://elsewhere/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, CLOSE_bad_target},
        {"POST /a HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: "
         "chunked\r\n\r\n",
         400, CLOSE_bad_encoding},
        {"POST /a HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, CLOSE_multiple_lengths},
        {"POST /a HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400, CLOSE_bad_length},
        {"POST /a HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n", 413, CLOSE_body_too_large},
        {"POST /a HTTP/1.1\r\nContent-Length: 999999999999999999\r\n\r\n", 413, CLOSE_body_too_large},
        {"POST /_matrix/echo HTTP/1.1\r\nTransfer-Encoding: "
         "chunked\r\n\r\nzz\r\n",
         400, CLOSE_bad_chunk},
        {"POST /a HTTP/1.1\r\nContent-Type: multipart/form-data; "
         "boundary=x\r\nContent-Length: 4\r\n\r\nabcd",
         415, CLOSE_multipart},
        {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, CLOSE_bad_request_line},
    };
    START(state);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int pieces = 0; pieces < 2; pieces++) {
            int64_t before = refused(rows[i].why);
            struct client *c = client_dial(PORT);
            struct response r;
            size_t n = strlen(rows[i].request);
            n = n < 11 && rows[i].request[0] == 0x16 ? 11 : n;
            for (size_t k = 0; k < n; k += pieces ? 1 : n) {
                client_send_bytes(c, rows[i].request + k, pieces ? 1 : n);
                if (pieces)
                    usleep(50);
            }
            if (client_read(c, &r, false) != 0)
                fail_msg("row %zu: no answer", i);
            assert_int_equal(r.status, rows[i].status);
            assert_true(header_is(&r, "Connection", "close"));
            if (r.status == 413)
                assert_non_null(strstr(r.body, "{\"errcode\":\"M_TOO_LARGE\",\"error\":\"Request "
                                               "content is too large (>1048576)\"}"));
            response_free(&r);
            assert_true(client_ended(c, 3000));
            assert_int_equal(refused(rows[i].why), before + 1);
            client_free(&c);
        }
    }
    server_stop(&the_server);
}

static void test_oversized(void **state)
{
    START(state);
    struct client *c = client_dial(PORT);
    struct response r;
    char *junk = malloc(40001);
    memset(junk, 'j', 40000);
    junk[40000] = 0;
    int64_t before = refused(CLOSE_head_too_large);
    client_send(c, "GET /_matrix/echo HTTP/1.1\r\nX: ");
    client_send(c, junk);
    assert_int_equal(client_read(c, &r, false), 0);
    assert_int_equal(r.status, 400);
    response_free(&r);
    assert_int_equal(refused(CLOSE_head_too_large), before + 1);
    client_free(&c);
    c = client_dial(PORT); /* a chunked body that grows past the limit */
    before = refused(CLOSE_body_too_large);
    client_send(c, "POST /_matrix/echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 30; i++) {
        client_send(c, "9c40\r\n");
        client_send(c, junk);
        client_send(c, "\r\n");
    }
    assert_int_equal(client_read(c, &r, false), 0);
    assert_int_equal(r.status, 413);
    response_free(&r);
    assert_int_equal(refused(CLOSE_body_too_large), before + 1);
    client_free(&c);
    free(junk);
    WAIT_FOR(metric_get(M_http_connections) == 0);
    server_stop(&the_server);
}

static void test_timeouts(void **state)
{
    CONFIG(state);
    the_server.cfg.header_timeout_ms = 150;
    the_server.cfg.body_timeout_ms = 200;
    the_server.cfg.idle_timeout_ms = 400;
    server_start(&the_server);
    struct client *head = client_dial(PORT), *body = client_dial(PORT), *idle = client_dial(PORT),
                  *parked = client_dial(PORT);
    struct response r;
    int64_t heads = refused(CLOSE_head_timeout), bodies = refused(CLOSE_body_timeout);
    client_send(parked, "GET /_matrix/park HTTP/1.1\r\n\r\n");
    client_send(head, "GET /_matrix/ec");
    client_send(body, "POST /_matrix/echo HTTP/1.1\r\nContent-Length: 3\r\n\r\na");
    usleep(50000);
    client_send(head, "h"); /* a byte now and then does not help */
    client_send(body, "b");
    assert_int_equal(client_read(head, &r, false), 0);
    assert_int_equal(r.status, 408);
    response_free(&r);
    assert_int_equal(client_read(body, &r, false), 0);
    assert_int_equal(r.status, 408);
    response_free(&r);
    assert_true(client_ended(idle, 3000));
    assert_int_equal(refused(CLOSE_head_timeout), heads + 1);
    assert_int_equal(refused(CLOSE_body_timeout), bodies + 1);
    server_command(&the_server, CMD_RELEASE);
    assert_int_equal(client_read(parked, &r, false), 0); /* a parked request has no timer of ours */
    response_free(&r);
    client_free(&head);
    client_free(&body);
    client_free(&idle);
    client_free(&parked);
    server_stop(&the_server);
}

/* More than are seen to at once: the others follow. */
static void test_many_time_out(void **state)
{
    enum { N = 300 };
    static struct client *c[N];
    CONFIG(state);
    the_server.cfg.idle_timeout_ms = 300;
    server_start(&the_server);
    for (int i = 0; i < N; i++)
        c[i] = client_dial(PORT);
    for (int i = 0; i < N; i++) {
        assert_true(client_ended(c[i], 5000));
        client_free(&c[i]);
    }
    WAIT_FOR(metric_get(M_http_connections) == 0);
    server_stop(&the_server);
}

/* ---- leaving ---- */

static void test_gone(void **state)
{
    static const char *const paths[] = {"/_matrix/park", "/_matrix/park?drop=1", "/_matrix/park?late=1"};
    START(state);
    for (int reset = 0; reset < 2; reset++) {
        for (int i = 0; i < 3; i++) {
            int before = the_server.gone_count;
            char text[100];
            struct client *c = client_dial(PORT);
            snprintf(text, sizeof text, "GET %s HTTP/1.1\r\n\r\n", paths[i]);
            client_send(c, text);
            WAIT_FOR(the_server.parked_count == 1);
            struct linger hard = {.l_onoff = reset};
            setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
            client_free(&c);
            WAIT_FOR(the_server.gone_count == before + 1);
            server_command(&the_server, CMD_RELEASE);
            WAIT_FOR(metric_get(M_http_connections) == 0 && metric_get(M_http_in_flight) == 0);
            assert_int_equal(the_server.gone_count, before + 1);
        }
    }
    server_stop(&the_server);
}

/* A client that has only closed its own direction still gets its answers, those
 * it pipelined included. */
static void test_half_close(void **state)
{
    START(state);
    struct client *c = client_dial(PORT);
    struct response r;
    client_send(c, "GET /_matrix/echo HTTP/1.1\r\n\r\nGET /_matrix/echo?x "
                   "HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\n\r\n");
    shutdown(c->fd, SHUT_WR);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(client_read(c, &r, false), 0);
        assert_int_equal(r.status, 200);
        response_free(&r);
    }
    assert_true(client_ended(c, 2000));
    client_free(&c);
    c = client_dial(PORT);
    client_send(c, "GET /_matrix/park?late=1 HTTP/1.1\r\n\r\n");
    WAIT_FOR(the_server.parked_count == 1);
    shutdown(c->fd, SHUT_WR);
    WAIT_FOR(the_server.gone_count >= 1);
    server_command(&the_server, CMD_RELEASE);
    assert_int_equal(client_read(c, &r, false), 0);
    assert_string_equal(r.body, "{\"released\":true}");
    response_free(&r);
    assert_true(client_ended(c, 2000));
    client_free(&c);
    c = client_dial(PORT); /* in the middle of a head */
    client_send(c, "GET /_matr");
    shutdown(c->fd, SHUT_WR);
    assert_true(client_ended(c, 2000));
    client_free(&c);
    server_stop(&the_server);
}

static void test_drop(void **state)
{
    START(state);
    struct client *c = client_dial(PORT);
    client_send(c, "GET /_matrix/drop HTTP/1.1\r\n\r\n");
    assert_true(client_ended(c, 3000));
    client_free(&c);
    server_stop(&the_server);
}

/* Clients that leave while their answers are on the way: nothing may be freed
 * twice or be left over. */
static void test_leaving_in_a_crowd(void **state)
{
    START(state);
    for (int round = 0; round < 20; round++) {
        enum { N = 64 };
        struct client *c[N];
        for (int i = 0; i < N; i++) {
            c[i] = client_dial(PORT);
            client_send(c[i], i % 2 ? "GET /_matrix/park?drop=1 HTTP/1.1\r\n\r\n"
                                    : "GET /_matrix/park HTTP/1.1\r\n\r\n");
        }
        WAIT_FOR(the_server.parked_count >= N / 2);
        atomic_store(&the_server.command, CMD_RELEASE);
        uv_async_send(&the_server.wake);
        for (int i = 0; i < N; i++)
            client_free(&c[i]);
        uv_sem_wait(&the_server.done);
        server_command(&the_server, CMD_RELEASE);
        WAIT_FOR(metric_get(M_http_connections) == 0);
        server_command(&the_server, CMD_RELEASE);
        WAIT_FOR(metric_get(M_http_in_flight) == 0);
    }
    server_stop(&the_server);
}

static void test_many_parked(void **state)
{
    START(state);
    enum { N = 2000 };
    static struct client *c[N];
    static int fds[N];
    (void)c;
    for (int i = 0; i < N; i++) {
        struct client *one = client_dial(PORT);
        assert_non_null(one);
        client_send(one, "GET /_matrix/park HTTP/1.1\r\n\r\n");
        fds[i] = one->fd;
        free(one);
    }
    WAIT_FOR(the_server.parked_count == N);
    assert_int_equal(metric_get(M_http_in_flight), N);
    struct httpd_memory m;
    httpd_memory(the_server.httpd, &m);
    assert_true(m.connections > N * sizeof(struct conn));
    assert_true(m.requests > N * sizeof(struct req) && m.requests < N * 2 * sizeof(struct req));
    assert_int_equal(m.reading + m.sending, 0);
    struct response r;
    assert_int_equal(fetch(PORT, "GET /_matrix/echo HTTP/1.1\r\n\r\n", &r), 200);
    response_free(&r);
    server_command(&the_server, CMD_RELEASE);
    for (int i = 0; i < N; i++) {
        struct client *one = calloc(1, sizeof *one);
        one->fd = fds[i];
        assert_int_equal(client_read(one, &r, false), 0);
        assert_string_equal(r.body, "{\"released\":true}");
        response_free(&r);
        client_free(&one);
    }
    WAIT_FOR(metric_get(M_http_connections) == 0);
    httpd_memory(the_server.httpd, &m);
    assert_int_equal(m.requests, 0);
    server_stop(&the_server);
}

static void test_drain(void **state)
{
    START(state);
    struct client *idle = client_dial(PORT), *parked = client_dial(PORT), *partial = client_dial(PORT);
    struct response r;
    client_send(idle, "GET /health HTTP/1.1\r\n\r\n");
    assert_int_equal(client_read(idle, &r, false), 0);
    response_free(&r);
    client_send(parked, "GET /_matrix/park HTTP/1.1\r\n\r\n");
    client_send(partial, "GET /heal");
    WAIT_FOR(the_server.parked_count == 1);
    usleep(20000);
    server_command(&the_server, CMD_DRAIN);
    assert_true(client_ended(idle, 3000));
    struct client *late = client_dial(PORT);
    WAIT_FOR((client_free(&late), late = client_dial(PORT)) ==
             NULL);                              /* refused, once every front has heard */
    client_send(partial, "th HTTP/1.1\r\n\r\n"); /* begun before: answered, honestly */
    assert_int_equal(client_read(partial, &r, false), 0);
    assert_int_equal(r.status, 503);
    assert_true(header_is(&r, "Connection", "close"));
    response_free(&r);
    server_command(&the_server, CMD_RELEASE);
    assert_int_equal(client_read(parked, &r, false), 0);
    assert_string_equal(r.body, "{\"released\":true}");
    assert_true(header_is(&r, "Connection", "close"));
    response_free(&r);
    assert_true(client_ended(parked, 3000));
    assert_int_equal(fetch(METRICS, "GET /ready HTTP/1.1\r\n\r\n", &r), 503); /* still to be seen */
    response_free(&r);
    client_free(&idle);
    client_free(&partial);
    client_free(&parked);
    server_stop(&the_server);
}

static void test_stop_with_open_connections(void **state)
{
    START(state);
    struct client *c[5];
    for (int i = 0; i < 5; i++)
        c[i] = client_dial(PORT);
    client_send(c[0], "GET /_matrix/big?bytes=30000000 HTTP/1.1\r\n\r\n");
    client_send(c[1], "GET /_matr");
    client_send(c[2], "GET /_matrix/park HTTP/1.1\r\n\r\n");
    client_send(c[3], "POST /_matrix/echo HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
    WAIT_FOR(the_server.handled == 2);
    server_stop(&the_server);
    for (int i = 0; i < 5; i++)
        client_free(&c[i]);
}

/* ---- the log ---- */

static void test_access_log(void **state)
{
    CONFIG(state);
    log_keep(LOG_INFO);
    server_start(&the_server);
    struct response r;
    assert_int_equal(fetch(PROXIED,
                           "GET /_matrix/echo?access_token=SECRET "
                           "HTTP/1.1\r\nUser-Agent: x\"y\r\n\r\n",
                           &r),
                     200);
    response_free(&r);
    assert_int_equal(fetch(PROXIED, "GET /health HTTP/1.1\r\n\r\n", &r), 200);
    response_free(&r);
    WAIT_FOR(logged("\"GET /_matrix/echo?access_token=<redacted> HTTP/1.1\" "
                    "\"x\\x22y\" [0 dbevts]"));
    assert_true(logged("synapse.access.http.proxied - INFO - GET-"));
    assert_true(logged(" - 127.0.0.1 - proxied - {@tester:hs} Processed request: "));
    assert_true(logged("B 200 \""));
    struct client *c = client_dial(PORT);
    client_send(c, "GET /_matrix/park?drop=1 HTTP/1.1\r\n\r\n");
    WAIT_FOR(the_server.parked_count == 1);
    client_free(&c);
    WAIT_FOR(logged(" 499! \"GET /_matrix/park?drop=1 HTTP/1.1\""));
    assert_false(logged("SECRET"));
    assert_false(logged("/health"));
    server_stop(&the_server);
    log_release();
}

int run_server_tests(void)
{
    int failed = 0;
    log_level = LOG_ERROR;
    for (size_t i = 0; i < VARIANTS; i++) {
        char name[60];
        snprintf(name, sizeof name, "server %s, %d threads", variants[i].transport, variants[i].threads);
#define T(f)                                  \
    {                                         \
#f, f, NULL, stop_after, &variants[i] \
    }
        const struct CMUnitTest tests[] = {
            T(test_echo),
            T(test_keep_alive),
            T(test_own_answers),
            T(test_head),
            T(test_bodies),
            T(test_continue),
            T(test_pipelining),
            T(test_forwarded),
            T(test_unix_socket),
            T(test_unix_stale),
            T(test_port_taken),
            T(test_metrics_listener),
            T(test_malformed_in_pieces),
            T(test_oversized),
            T(test_timeouts),
            T(test_many_time_out),
            T(test_gone),
            T(test_half_close),
            T(test_drop),
            T(test_leaving_in_a_crowd),
            T(test_many_parked),
            T(test_drain),
            T(test_stop_with_open_connections),
            T(test_access_log),
        };
#undef T
        failed += cmocka_run_group_tests_name(name, tests, NULL, NULL);
    }
    return failed;
}
