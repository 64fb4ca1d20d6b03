/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What waits behind answers that are being handed out (src/http/later.c), over real sockets. The handler says
 * that there are such answers for as long as the test wants.
 */
#include "chappe/log.h"
#include "server_fixture.h"
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SYNC "/_matrix/client/v3/sync"
static const char poll_a[] = "GET " SYNC "?filter=0&timeout=30000&since=sa HTTP/1.1\r\nHost: x\r\n\r\n";
static const char poll_b[] = "GET " SYNC "?timeout=30000&since=sb HTTP/1.1\r\nHost: x\r\n\r\n";

static int64_t waited(void)
{
    return metric_get_l(M_http_polls_behind, "waited");
}

/* With threads it is the front's own sends that count. */
#define START_BUSY(state)                         \
    do {                                          \
        CONFIG(state);                            \
        if (variant_of(state)->threads > 0)       \
            skip();                               \
        the_server.answering = true;              \
        the_server.cfg.behind_answers_ms = 60000; \
        server_start(&the_server);                \
    } while (0)

static void expect(struct client *c, const char *since)
{
    struct response r;
    assert_int_equal(client_read(c, &r, false), 0);
    assert_int_equal(r.status, 200);
    assert_non_null(strstr(r.body, since));
    response_free(&r);
}

/* Somebody else's request has come, and gone through the same loop: what was sent before it has been read. */
static void echo_goes_through(void)
{
    struct response r;
    assert_int_equal(fetch(PORT, "GET /_matrix/echo HTTP/1.1\r\n\r\n", &r), 200);
    response_free(&r);
}

static struct client *poll_waits(const char *text)
{
    int64_t before = waited();
    struct client *c = client_dial(PORT);
    client_send(c, text);
    WAIT_FOR(waited() == before + 1);
    return c;
}

static void test_polls_wait(void **state)
{
    START_BUSY(state);
    struct client *a = poll_waits(poll_a), *b = poll_waits(poll_b);
    int handled = the_server.handled;
    echo_goes_through();
    assert_int_equal(the_server.handled, handled + 1);
    the_server.answering = false;
    expect(a, "since sa\n");
    expect(b, "since sb\n");
    client_send(a, poll_b); /* there is nothing to wait behind any more */
    expect(a, "since sb\n");
    assert_int_equal(the_server.handled, handled + 4);
    client_free(&a);
    client_free(&b);
    server_stop(&the_server);
}

/* Whatever is no poll, or not there as a whole. */
static void test_others_do_not_wait(void **state)
{
    static const char *const requests[] = {
        "GET " SYNC " HTTP/1.1\r\n\r\n",
        "GET " SYNC "?since=s HTTP/1.1\r\n\r\n",
        "GET " SYNC "?since=s&timeout=0 HTTP/1.1\r\n\r\n",
        "GET " SYNC "?timeout=30000 HTTP/1.1\r\n\r\n",
        "GET /_matrix/echo?x=/sync?&timeout=30000&since=s HTTP/1.1\r\n\r\n",
        "GET " SYNC "?filter=0 HTTP/1.1\r\nX: since=s\r\n\r\n",
        "GET /_matrix/echo?since=s HTTP/1.1\r\n\r\n",
        "GET /_matrix/client/v3/echo?since=s&timeout=30000 HTTP/1.1\r\n\r\n",
        "GET /_matrix/other/v3/sync?since=s&timeout=30000 HTTP/1.1\r\n\r\n",
        "GET " SYNC "?since=s&timeout=x HTTP/1.1\r\n\r\n",
        "GET " SYNC "?since=s&timeout= HTTP/1.1\r\n\r\n",
        "GET " SYNC "?since=s&xtimeout=30000 HTTP/1.1\r\n\r\n",
        "GET " SYNC "?xsince=s&timeout=30000 HTTP/1.1\r\n\r\n",
        "POST " SYNC "?timeout=30000&since=s HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
    };
    START_BUSY(state);
    int64_t before = waited();
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        struct response r;
        assert_int_equal(fetch(PORT, requests[i], &r), 200);
        response_free(&r);
    }
    static const size_t parts[] = {20, sizeof poll_a - 12,
                                   sizeof poll_a - 2}; /* in the second line; of its end */
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        struct client *c = client_dial(PORT);
        client_send_bytes(c, poll_a, parts[i]);
        echo_goes_through();
        client_send(c, poll_a + parts[i]);
        expect(c, "since sa\n");
        client_free(&c);
    }
    assert_int_equal(waited(), before);
    server_stop(&the_server);
}

/* Larger than polls are: they are not kept, whether they come in one piece or not. */
static void test_large_ones(void **state)
{
    static const size_t sizes[] = {3000, 5000, 20000};
    START_BUSY(state);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct buf text;
        buf_init(&text, 65536);
        buf_put(&text, STR("GET " SYNC "?timeout=30000&since=large HTTP/1.1\r\nX-Large: "));
        while (text.n < sizes[i])
            buf_putc(&text, 'x');
        buf_put(&text, STR("\r\n\r\n"));
        struct client *c = client_dial(PORT);
        client_send_bytes(c, text.p, text.n);
        if (sizes[i] < 4096)
            the_server.answering = false;
        expect(c, "since large\n");
        the_server.answering = true;
        client_free(&c);
        buf_fini(&text);
    }
    server_stop(&the_server);
}

/* They count, as long as they wait, as what is under way and as what is being read. */
static void test_counted(void **state)
{
    START_BUSY(state);
    struct httpd_memory m;
    size_t before = httpd_in_flight(the_server.httpd);
    struct client *a = poll_waits(poll_a), *b = poll_waits(poll_b);
    assert_int_equal(httpd_in_flight(the_server.httpd), before + 2);
    httpd_memory(the_server.httpd, &m);
    assert_true(m.reading >= sizeof poll_a + sizeof poll_b - 2);
    the_server.answering = false;
    expect(a, "since sa\n");
    expect(b, "since sb\n");
    WAIT_FOR(httpd_in_flight(the_server.httpd) == 0);
    httpd_memory(the_server.httpd, &m);
    assert_int_equal(m.reading, 0);
    client_free(&a);
    client_free(&b);
    server_stop(&the_server);
}

/* A connection whose poll waits is not idle. */
static void test_not_idle(void **state)
{
    CONFIG(state);
    if (variant_of(state)->threads > 0)
        skip();
    the_server.answering = true;
    the_server.cfg.behind_answers_ms = 60000;
    the_server.cfg.idle_timeout_ms = 200;
    server_start(&the_server);
    struct client *c = poll_waits(poll_a), *idle = client_dial(PORT);
    assert_true(client_ended(idle, 5000)); /* it came later */
    the_server.answering = false;
    expect(c, "since sa\n");
    client_free(&c);
    client_free(&idle);
    server_stop(&the_server);
}

/* What follows a waiting poll on its connection stands behind it, half a request too. */
static void test_order_is_kept(void **state)
{
    START_BUSY(state);
    struct client *c = poll_waits(poll_a);
    client_send(c, "GET /_matrix/echo?since=second HTTP/1.1\r\n\r\nGET /_matrix/ec");
    echo_goes_through();
    int handled = the_server.handled;
    the_server.answering = false;
    expect(c, "since sa\n");
    expect(c, "since second\n");
    client_send(c, "ho?since=third HTTP/1.1\r\n\r\n");
    expect(c, "since third\n");
    assert_int_equal(the_server.handled, handled + 3);
    client_free(&c);
    server_stop(&the_server);
}

static void test_two_at_once(void **state)
{
    START_BUSY(state);
    char both[sizeof poll_a + sizeof poll_b];
    snprintf(both, sizeof both, "%s%s", poll_a, poll_b);
    struct client *c = poll_waits(both);
    the_server.answering = false;
    expect(c, "since sa\n");
    expect(c, "since sb\n");
    client_free(&c);
    server_stop(&the_server);
}

/* More behind it than is read ahead: the socket is left alone, and read again afterwards. */
static void test_much_behind(void **state)
{
    enum { N = 3000 };
    START_BUSY(state);
    struct client *c = poll_waits(poll_a);
    static const char more[] = "GET /_matrix/echo?since=more HTTP/1.1\r\n\r\n";
    struct buf text;
    buf_init(&text, N * sizeof more);
    for (int i = 0; i < N; i++)
        buf_put(&text, str_of(more));
    client_send_bytes(c, text.p, text.n);
    buf_fini(&text);
    the_server.answering = false;
    expect(c, "since sa\n");
    for (int i = 0; i < N; i++)
        expect(c, "since more\n");
    client_free(&c);
    server_stop(&the_server);
}

static void test_leaving(void **state)
{
    START_BUSY(state);
    struct client *half = poll_waits(poll_a);
    shutdown(half->fd, SHUT_WR);
    struct client *gone = poll_waits(poll_b);
    struct linger hard = {.l_onoff = 1};
    assert_int_equal(setsockopt(gone->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard), 0);
    int64_t open = metric_get(M_http_connections);
    client_free(&gone);
    WAIT_FOR(metric_get(M_http_connections) == open - 1);
    int handled = the_server.handled;
    the_server.answering = false;
    expect(half, "since sa\n"); /* it may still read */
    assert_true(client_ended(half, 2000));
    client_free(&half);
    echo_goes_through();
    assert_int_equal(the_server.handled, handled + 2);
    server_stop(&the_server);
}

/* The answers do not end; nor does the wait of those behind them. */
static void test_not_for_ever(void **state)
{
    CONFIG(state);
    if (variant_of(state)->threads > 0)
        skip();
    the_server.answering = true;
    the_server.cfg.behind_answers_ms = 200;
    server_start(&the_server);
    struct client *c = poll_waits(poll_a);
    expect(c, "since sa\n");
    assert_true(the_server.answering);
    client_free(&c);
    server_stop(&the_server);
}

static void test_switched_off(void **state)
{
    CONFIG(state);
    the_server.answering = true;
    the_server.cfg.behind_answers_ms = 0;
    server_start(&the_server);
    int64_t before = waited();
    struct response r;
    assert_int_equal(fetch(PORT, poll_a, &r), 200);
    response_free(&r);
    assert_int_equal(waited(), before);
    server_stop(&the_server);
}

static void test_too_many(void **state)
{
    CONFIG(state);
    if (variant_of(state)->threads > 0)
        skip();
    the_server.answering = true;
    the_server.cfg.behind_answers_ms = 60000;
    the_server.cfg.read_bytes_max = 1024; /* of which an eighth: one poll */
    server_start(&the_server);
    struct client *a = poll_waits(poll_a), *b = client_dial(PORT);
    int64_t full = metric_get_l(M_http_polls_behind, "full");
    client_send(b, poll_b);
    expect(b, "since sb\n");
    assert_int_equal(metric_get_l(M_http_polls_behind, "full"), full + 1);
    the_server.answering = false;
    expect(a, "since sa\n");
    the_server.answering = true; /* there is room again */
    client_free(&a);
    a = poll_waits(poll_a);
    the_server.answering = false;
    expect(a, "since sa\n");
    client_free(&a);
    client_free(&b);
    server_stop(&the_server);
}

static void test_drained_and_stopped(void **state)
{
    START_BUSY(state);
    struct client *c = poll_waits(poll_a);
    server_command(&the_server, CMD_DRAIN);
    the_server.answering = false;
    struct response r;
    assert_int_equal(client_read(c, &r, false), 0);
    assert_int_equal(r.status, 200);
    assert_true(header_is(&r, "Connection", "close"));
    response_free(&r);
    client_free(&c);
    server_stop(&the_server);
    the_server.stopped = false;
    START_BUSY(state);
    c = poll_waits(poll_a);
    server_stop(&the_server);
    client_free(&c);
}

/* A line tells when its answer was sent, and how long that took, whenever it is written; of a poll that has
 * waited, that it has. */
static void test_lines_wait(void **state)
{
    enum { WAIT_MS = 1200 };
    START_BUSY(state);
    log_keep(LOG_INFO);
    struct client *c = client_dial(PORT), *p = poll_waits(poll_a);
    client_send(c, "GET /_matrix/echo?since=line HTTP/1.1\r\n\r\n");
    expect(c, "since line\n");
    usleep(WAIT_MS * 1000);
    assert_false(logged("since=line"));
    the_server.answering = false;
    WAIT_FOR(logged("since=line"));
    expect(p, "since sa\n");
    WAIT_FOR(logged("since=sa"));
    assert_int_equal(logged_count("Processed request"), 2);
    assert_int_equal(logged_count("Processed request: 0."), 1);
    assert_false(logged("sec/1."));
    client_free(&c);
    client_free(&p);
    log_release();
    server_stop(&the_server);
}

/* Past their share lines are written at once; what the front answers by itself has no share. */
static void test_too_many_lines(void **state)
{
    enum { N = 20 };
    CONFIG(state);
    if (variant_of(state)->threads > 0)
        skip();
    the_server.answering = true;
    the_server.cfg.behind_answers_ms = 60000;
    the_server.cfg.read_bytes_max = 8192;
    server_start(&the_server);
    log_keep(LOG_INFO);
    struct response r;
    assert_int_equal(fetch(PORT, "GET /nowhere HTTP/1.1\r\n\r\n", &r), 404);
    response_free(&r);
    WAIT_FOR(logged("/nowhere"));
    struct client *c = client_dial(PORT);
    for (int i = 0; i < N; i++) {
        client_send(c, "GET /_matrix/echo?since=line HTTP/1.1\r\n\r\n");
        expect(c, "since line\n");
    }
    WAIT_FOR(logged_count("since=line") >= N / 2);
    assert_true(logged_count("since=line") < N);
    the_server.answering = false;
    WAIT_FOR(logged_count("since=line") == N);
    client_free(&c);
    log_release();
    server_stop(&the_server);
}

/* Rounds of a crowd: each gets one answer for each poll, whatever waits for whom. */
static void test_crowd(void **state)
{
    enum { N = 200, ROUNDS = 20 };
    START(state);
    static struct client *c[N];
    for (int i = 0; i < N; i++)
        c[i] = client_dial(PORT);
    for (int round = 0; round < ROUNDS; round++) {
        the_server.answering = round % 2 == 0;
        for (int i = 0; i < N; i++)
            client_send(c[i], i % 3 ? poll_a : "GET /_matrix/park HTTP/1.1\r\n\r\n");
        WAIT_FOR(the_server.parked_count == (N + 2) / 3);
        server_command(&the_server, CMD_RELEASE);
        the_server.answering = false;
        for (int i = 0; i < N; i++)
            expect(c[i], i % 3 ? "since sa\n" : "released");
    }
    for (int i = 0; i < N; i++)
        client_free(&c[i]);
    server_stop(&the_server);
}

int run_later_tests(void)
{
    int failed = 0;
    for (size_t i = 0; i < VARIANTS; i++) {
        char name[64];
        snprintf(name, sizeof name, "later, %s, %d front threads", variants[i].transport,
                 variants[i].threads);
#define T(fn)                                   \
    {                                           \
#fn, fn, NULL, stop_after, &variants[i] \
    }
        const struct CMUnitTest tests[] = {
            T(test_polls_wait),  T(test_others_do_not_wait),  T(test_order_is_kept),
            T(test_two_at_once), T(test_large_ones),          T(test_counted),
            T(test_not_idle),    T(test_too_many_lines),      T(test_much_behind),
            T(test_leaving),     T(test_not_for_ever),        T(test_switched_off),
            T(test_too_many),    T(test_drained_and_stopped), T(test_lines_wait),
            T(test_crowd),
        };
#undef T
        failed += cmocka_run_group_tests_name(name, tests, NULL, NULL);
    }
    return failed;
}
