/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What happens at the server's limits: of connections, descriptors, bytes read and bytes that wait for slow
 * readers. On both transports, with and without front threads.
 */
#include "chappe/log.h"
#include "server_fixture.h"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- how many ---- */

static void test_connections_max(void **state)
{
    CONFIG(state);
    the_server.cfg.connections_max = 16;
    server_start(&the_server);
    int64_t before = refused(CLOSE_connections_max);
    struct client *c[17];
    for (int i = 0; i < 16; i++)
        c[i] = client_dial(PORT);
    WAIT_FOR(metric_get(M_http_connections) == 16);
    c[16] = client_dial(PORT);
    assert_true(client_ended(c[16], 3000));
    assert_int_equal(refused(CLOSE_connections_max), before + 1);
    struct response r;
    client_send(c[3], "GET /health HTTP/1.1\r\n\r\n"); /* those inside are served */
    assert_int_equal(client_read(c[3], &r, false), 0);
    response_free(&r);
    client_free(&c[0]);
    WAIT_FOR(metric_get(M_http_connections) == 15);
    assert_int_equal(fetch(PORT, "GET /health HTTP/1.1\r\n\r\n", &r), 200);
    response_free(&r);
    for (int i = 1; i < 17; i++)
        client_free(&c[i]);
    server_stop(&the_server);
}

/* Clients never get the last descriptors: the database and Redis need some to
 * come back. */
static void test_connections_leave_descriptors(void **state)
{
    CONFIG(state);
    struct rlimit was, tight;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    tight = was;
    tight.rlim_cur = 64;
    the_server.cfg.connections_max = 1000;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    server_start(&the_server);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0); /* this process holds the clients' ends too */
    struct client *c[33];
    bool takes = !strstr(httpd_transport(the_server.httpd), "no descriptors");
    for (int i = 0; i < 32; i++)
        c[i] = client_dial(PORT);
    WAIT_FOR(metric_get(M_http_connections) == 32);
    c[32] = client_dial(PORT);
    if (takes)
        assert_true(client_ended(c[32], 3000));
    else
        WAIT_FOR(metric_get(M_http_connections) == 33);
    for (int i = 0; i < 33; i++)
        client_free(&c[i]);
    server_stop(&the_server);
}

/* ---- more clients than descriptors ---- */

enum { CROWD = 600, CROWD_LIMIT = 256 };
struct crowd {
    int answered, ended, neither;
};

static void crowd_read(int fd, struct crowd *c)
{
    char buf[4096];
    struct pollfd p = {.fd = fd, .events = POLLIN};
    bool polled = poll(&p, 1, 20000) == 1;
    ssize_t n = polled ? recv(fd, buf, sizeof buf, 0) : -1;
    if (n > 0 && memmem(buf, (size_t)n, "{\"released\":true}", 17))
        c->answered++;
    else if (polled && n <= 0)
        c->ended++;
    else
        c->neither++;
}

/* In a process of its own, with descriptors of its own: parks CROWD polls and tells what became of them. */
static void crowd_main(int in, int out)
{
    static int fds[CROWD];
    struct crowd c = {0};
    int port = 0;
    bool good = read(in, &port, sizeof port) == sizeof port;
    for (int i = 0; i < CROWD && good; i++) {
        struct client *one = client_dial(port);
        good = one != NULL;
        if (good) {
            client_send(one, "GET /_matrix/park HTTP/1.1\r\n\r\n");
            fds[i] = one->fd;
            free(one);
        }
    }
    for (int i = 0; i < CROWD && good; i++)
        crowd_read(fds[i], &c);
    good = good && write(out, &c, sizeof c) == sizeof c;
    _exit(good ? 0 : 1);
}

/* With direct descriptors of io_uring all are served; otherwise as many as leave the process some
 * descriptors, and the rest is refused at once. */
static void test_beyond_descriptors(void **state)
{
    CONFIG(state);
    int to[2], from[2], port, status;
    struct crowd c = {0};
    assert_int_equal(pipe(to) | pipe(from), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        crowd_main(to[0], from[1]);
    struct rlimit was, tight;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    tight = was;
    tight.rlim_cur = CROWD_LIMIT;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    int64_t full = refused(CLOSE_connections_max), failed = refused(CLOSE_descriptors);
    server_start(&the_server);
    bool all = strstr(httpd_transport(the_server.httpd), "no descriptors") != NULL;
    int inside = all ? CROWD : CROWD_LIMIT / 2;
    assert_int_equal(metric_get(M_http_connections_max), all ? the_server.cfg.connections_max : inside);
    port = PORT;
    assert_int_equal(write(to[1], &port, sizeof port), sizeof port);
    WAIT_FOR(the_server.parked_count == inside && refused(CLOSE_connections_max) == full + CROWD - inside);
    server_command(&the_server, CMD_RELEASE);
    assert_int_equal(read(from[0], &c, sizeof c), sizeof c);
    assert_int_equal(c.answered, inside);
    assert_int_equal(c.ended, CROWD - inside);
    assert_int_equal(c.neither, 0);
    assert_int_equal(refused(CLOSE_descriptors), failed);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    server_stop(&the_server);
    for (int i = 0; i < 2; i++) {
        close(to[i]);
        close(from[i]);
    }
}

static void test_read_bytes_max(void **state)
{
    CONFIG(state);
    the_server.cfg.read_bytes_max = 100000;
    server_start(&the_server);
    int64_t before = refused(CLOSE_read_bytes_max);
    struct client *c = client_dial(PORT);
    struct response r;
    char *junk = malloc(200001);
    memset(junk, 'j', 200000);
    junk[200000] = 0;
    client_send(c, "POST /_matrix/echo HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n");
    client_send(c, junk);
    assert_int_equal(client_read(c, &r, false), 0);
    assert_int_equal(r.status, 503);
    response_free(&r);
    free(junk);
    client_free(&c);
    assert_int_equal(refused(CLOSE_read_bytes_max), before + 1);
    assert_int_equal(fetch(PORT, "GET /health HTTP/1.1\r\n\r\n", &r), 200); /* what was held is given back */
    response_free(&r);
    server_stop(&the_server);
}

/* Being full is said, but not for each connection. */
static void test_full_is_said(void **state)
{
    static const char text[] =
        " connections refused: too many connections (the option connections_max allows "
        "no more); ";
    CONFIG(state);
    the_server.cfg.connections_max = 16;
    log_keep(LOG_WARNING);
    server_start(&the_server);
    int64_t before = refused(CLOSE_connections_max);
    struct client *c[40];
    for (int i = 0; i < 40; i++)
        c[i] = client_dial(PORT);
    WAIT_FOR(refused(CLOSE_connections_max) == before + 24);
    WAIT_FOR(logged(text));
    for (int i = 0; i < 40; i++)
        client_free(&c[i]);
    server_stop(&the_server);
    assert_in_range(logged_count(text), 1, variant_of(state)->threads ? variant_of(state)->threads : 1);
    log_release();
}

/* ---- writing ---- */

static void test_slow_reader(void **state)
{
    CONFIG(state);
    the_server.cfg.write_timeout_ms = 300;
    server_start(&the_server);
    struct client *c = client_dial(PORT);
    int64_t before = refused(CLOSE_write_timeout);
    client_send(c, "GET /_matrix/big?bytes=30000000 HTTP/1.1\r\n\r\n");
    struct response r; /* others are served meanwhile */
    assert_int_equal(fetch(PORT, "GET /_matrix/echo HTTP/1.1\r\n\r\n", &r), 200);
    response_free(&r);
    WAIT_FOR(refused(CLOSE_write_timeout) == before + 1);
    WAIT_FOR(metric_get(M_http_connections) == 0);
    client_free(&c);
    c = client_dial(PORT); /* slow, but it takes something all the time */
    client_send(c, "GET /_matrix/big?bytes=30000000 HTTP/1.1\r\n\r\n");
    static char buf[1 << 20];
    size_t got = 0;
    while (got < 30000000) {
        ssize_t n = recv(c->fd, buf, sizeof buf, 0);
        assert_true(n > 0);
        got += (size_t)n;
        usleep(8000);
    }
    client_free(&c);
    assert_int_equal(refused(CLOSE_write_timeout), before + 1);
    server_stop(&the_server);
}

/* Some readers stall over large answers. Meanwhile the others get all of theirs, what waits for the stalled
 * is accounted, and in the end these are dropped and those are not. */
static void test_stalled_readers_hurt_nobody(void **state)
{
    enum { STALLED = 4, OTHERS = 8, ROUNDS = 40 };
    CONFIG(state);
    the_server.cfg.write_timeout_ms = 1500;
    server_start(&the_server);
    struct client *stalled[STALLED], *others[OTHERS];
    struct response r;
    struct httpd_memory m;
    int64_t before = refused(CLOSE_write_timeout);
    for (int i = 0; i < STALLED; i++) {
        stalled[i] = client_dial(PORT);
        client_send(stalled[i], "GET /_matrix/big?bytes=20000000 HTTP/1.1\r\n\r\n");
    }
    for (int i = 0; i < OTHERS; i++)
        others[i] = client_dial(PORT);
    /* More than the kernel takes stands in line: bounded by what was asked for, and seen. */
    WAIT_FOR((httpd_memory(the_server.httpd, &m), m.sending > STALLED * 1000000));
    assert_true(m.sending < STALLED * 20100000);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < OTHERS; i++)
            client_send(others[i], round % 8 ? "GET /_matrix/echo HTTP/1.1\r\n\r\n"
                                             : "GET /_matrix/big?bytes=200000 HTTP/1.1\r\n\r\n");
        for (int i = 0; i < OTHERS; i++) {
            assert_int_equal(client_read(others[i], &r, false), 0);
            assert_int_equal(r.status, 200);
            response_free(&r);
        }
    }
    WAIT_FOR(refused(CLOSE_write_timeout) == before + STALLED);
    WAIT_FOR(metric_get(M_http_connections) == OTHERS);
    WAIT_FOR((httpd_memory(the_server.httpd, &m), m.sending == 0));
    for (int i = 0; i < OTHERS; i++) { /* their connections live */
        client_send(others[i], "GET /_matrix/echo HTTP/1.1\r\n\r\n");
        assert_int_equal(client_read(others[i], &r, false), 0);
        response_free(&r);
        client_free(&others[i]);
    }
    for (int i = 0; i < STALLED; i++) {
        /* What is left of the answer ends in a reset, not as if it were whole. */
        ssize_t n;
        do
            n = recv(stalled[i]->fd, stalled[i]->in, sizeof stalled[i]->in, 0);
        while (n > 0);
        assert_int_equal(n, -1);
        client_free(&stalled[i]);
    }
    server_stop(&the_server);
}

static void test_write_bytes_max(void **state)
{
    CONFIG(state);
    the_server.cfg.write_bytes_max = 8 << 20;
    server_start(&the_server);
    int64_t before = refused(CLOSE_write_bytes_max);
    struct client *c = client_dial(PORT);
    client_send(c, "GET /_matrix/big?bytes=50000000 HTTP/1.1\r\n\r\n");
    WAIT_FOR(refused(CLOSE_write_bytes_max) == before + 1);
    struct response r;
    assert_int_equal(fetch(PORT, "GET /_matrix/echo HTTP/1.1\r\n\r\n", &r), 200);
    response_free(&r);
    client_free(&c);
    server_stop(&the_server);
}

int run_limit_tests(void)
{
    int failed = 0;
    log_level = LOG_ERROR;
    for (size_t i = 0; i < VARIANTS; i++) {
        char name[60];
        snprintf(name, sizeof name, "limits %s, %d threads", variants[i].transport, variants[i].threads);
#define T(f)                                  \
    {                                         \
#f, f, NULL, stop_after, &variants[i] \
    }
        const struct CMUnitTest tests[] = {
            T(test_connections_max),
            T(test_connections_leave_descriptors),
            T(test_beyond_descriptors),
            T(test_full_is_said),
            T(test_read_bytes_max),
            T(test_slow_reader),
            T(test_stalled_readers_hurt_nobody),
            T(test_write_bytes_max),
        };
#undef T
        failed += cmocka_run_group_tests_name(name, tests, NULL, NULL);
    }
    return failed;
}
