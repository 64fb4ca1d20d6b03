/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * One suite, run on every kind of transport. The server side is an echo with switches;
 * clients are nonblocking sockets driven from the same thread by turning the
 * loop, so every test is deterministic but for the kernel, and bounded.
 */
#include "chappe/loop.h"
#include "test_loop.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

enum { TURNS_MAX = 4000, CONNS_MAX = 1200 };

struct echo_conn {
    uint64_t id;
    size_t received;
    bool eof;
};
static struct {
    enum transport_kind kind;
    uv_loop_t loop;
    struct transport *t;
    int port;
    _Atomic int64_t waiting;
    int accepted, eofs, resets, sends_done, sends_failed, limit_failures, with_peer, accept_failures;
    bool echo, close_on_recv;
    bool told; /* on_events was called in this turn */
    uint64_t last;
    size_t received;
} env;

static void on_events(void *arg)
{
    assert_ptr_equal(arg, &env);
    env.told = true;
}

static void on_accept(void *arg, uint64_t id, void *user, int tag, const struct sockaddr_storage *peer)
{
    struct echo_conn *c = user;
    assert_ptr_equal(arg, &env);
    assert_int_equal(tag, 5);
    assert_true(env.told);
    assert_true(transport_id(env.t, user) == id);
    assert_int_equal(c->id, 0); /* zeroed, even when the slot is used again */
    c->id = id;
    env.last = id;
    env.accepted++;
    env.with_peer += peer != NULL;
}

static void on_recv(void *arg, void *user, struct str bytes)
{
    struct echo_conn *c = user;
    (void)arg;
    assert_true(env.told);
    assert_false(c->eof);
    c->received += bytes.n;
    env.received += bytes.n;
    if (env.close_on_recv) {
        transport_close(env.t, c->id, false);
        assert_null(transport_user(env.t, c->id));
        return;
    }
    if (env.echo) {
        struct rope r;
        rope_init(&r);
        rope_put(&r, bytes);
        transport_send(env.t, c->id, &r);
        rope_fini(&r);
    }
}

static void on_eof(void *arg, void *user, int err)
{
    struct echo_conn *c = user;
    (void)arg;
    assert_true(env.told);
    assert_false(c->eof);
    c->eof = true;
    if (err)
        env.resets++;
    else
        env.eofs++;
    if (err || env.echo)
        transport_close(env.t, c->id, false);
}

static void on_sent(void *arg, void *user, int status)
{
    struct echo_conn *c = user;
    (void)arg;
    assert_true(env.told);
    env.sends_done += status == 0;
    env.sends_failed += status == -ERR_CLOSED;
    env.limit_failures += status == -ERR_LIMIT;
    if (status)
        transport_close(env.t, c->id, true);
}

static void on_accept_failed(void *arg, int e)
{
    assert_ptr_equal(arg, &env);
    assert_int_equal(e, EMFILE);
    env.accept_failures++;
}

static void turn(void)
{
    env.told = false;
    uv_run(&env.loop, UV_RUN_NOWAIT);
}

/* Turns the loop until the condition holds; it is evaluated once a turn, so it
 * may read from a socket. */
#define TURN_UNTIL(condition)                                                          \
    do {                                                                               \
        bool held_ = false;                                                            \
        for (int turns_ = 0; turns_ < TURNS_MAX && !(held_ = (condition)); turns_++) { \
            turn();                                                                    \
            if (turns_ > 50)                                                           \
                usleep(500);                                                           \
        }                                                                              \
        assert_true(held_);                                                            \
    } while (0)

static int listen_tcp(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof sa;
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(listen(fd, 2048), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &n), 0);
    env.port = ntohs(sa.sin_port);
    return fd;
}

static int dial(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((uint16_t)env.port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    int rc = connect(fd, (struct sockaddr *)&sa, sizeof sa);
    assert_true(rc == 0 || errno == EINPROGRESS);
    return fd;
}

static int env_setup(enum transport_kind kind, int64_t waiting_max)
{
    memset(&env, 0, sizeof env);
    env.kind = kind;
    env.echo = true;
    struct transport_options o = {
        .events = {on_accept, on_recv, on_eof, on_sent, on_accept_failed, on_events},
        .arg = &env,
        .user_bytes = sizeof(struct echo_conn),
        .waiting_bytes = &env.waiting,
        .waiting_max = waiting_max,
    };
    struct err e;
    assert_int_equal(uv_loop_init(&env.loop), 0);
    if (transport_new(&env.t, kind, &env.loop, &o, &e) != 0) {
        uv_loop_close(&env.loop);
        return -1;
    }
    transport_listen(env.t, listen_tcp(), 5);
    return 0;
}

static void env_teardown(void)
{
    transport_free(&env.t);
    assert_null(env.t);
    uv_run(&env.loop, UV_RUN_DEFAULT); /* returns: nothing keeps the loop alive */
    assert_int_equal(uv_loop_close(&env.loop), 0);
    assert_int_equal(atomic_load(&env.waiting), 0);
}

#define SETUP(state, max)                                          \
    do {                                                           \
        if (env_setup(*(enum transport_kind *)*(state), max) != 0) \
            skip();                                                \
    } while (0)

static ssize_t read_some(int fd, char *buf, size_t n)
{
    ssize_t got = recv(fd, buf, n, MSG_DONTWAIT);
    return got < 0 && errno == EAGAIN ? -2 : got;
}

static void test_echo(void **state)
{
    SETUP(state, INT64_MAX);
    int fd = dial();
    char buf[64];
    TURN_UNTIL(env.accepted == 1);
    assert_int_equal(env.with_peer, 1);
    assert_int_equal(send(fd, "hello", 5, 0), 5);
    ssize_t n = -2;
    TURN_UNTIL((n = read_some(fd, buf, sizeof buf)) != -2);
    assert_int_equal(n, 5);
    assert_memory_equal(buf, "hello", 5);
    TURN_UNTIL(env.sends_done == 1);
    assert_int_equal(transport_sent_bytes(env.t, env.last), 5);
    assert_int_equal(transport_count(env.t), 1);
    uint64_t id = env.last;
    close(fd);
    TURN_UNTIL(env.eofs == 1 && transport_count(env.t) == 0);
    assert_null(transport_user(env.t, id));
    transport_close(env.t, id, false); /* stale: ignored */
    fd = dial();                       /* the slot is used again under another name */
    TURN_UNTIL(env.accepted == 2);
    assert_true(env.last != id);
    close(fd);
    TURN_UNTIL(transport_count(env.t) == 0);
    env_teardown();
}

static void test_many_connections(void **state)
{
    SETUP(state, INT64_MAX);
    static int fds[CONNS_MAX];
    char buf[64];
    for (int round = 0; round < 2; round++) {
        env.accepted = env.sends_done = 0;
        for (int i = 0; i < CONNS_MAX; i++) {
            fds[i] = dial();
            if (i % 100 == 99)
                turn();
        }
        TURN_UNTIL(env.accepted == CONNS_MAX);
        for (int i = 0; i < CONNS_MAX; i++)
            assert_int_equal(send(fds[i], &i, sizeof i, 0), sizeof i);
        TURN_UNTIL(env.sends_done == CONNS_MAX);
        for (int i = 0; i < CONNS_MAX; i++) {
            assert_int_equal(read_some(fds[i], buf, sizeof buf), sizeof i);
            assert_memory_equal(buf, &i, sizeof i); /* each its own */
            close(fds[i]);
        }
        TURN_UNTIL(transport_count(env.t) == 0);
    }
    env_teardown();
}

static void big_rope(struct rope *r, size_t slices, size_t bytes)
{
    char *p = malloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        p[i] = (char)('a' + i % 23);
    struct blob *b = blob_new(str_n(p, bytes));
    rope_init(r);
    for (size_t i = 0; i < slices; i++)
        rope_blob(r, b);
    blob_unref(&b);
    free(p);
}

/* More slices than one call takes, more bytes than the socket takes, a reader
 * that begins late. */
static void test_slow_reader(void **state)
{
    SETUP(state, INT64_MAX);
    int fd = dial();
    TURN_UNTIL(env.accepted == 1);
    struct rope r;
    big_rope(&r, 3000, 4001);
    size_t total = r.bytes, got = 0;
    transport_send(env.t, env.last, &r);
    assert_int_equal(r.bytes, 0);
    for (int i = 0; i < 100; i++)
        turn();
    assert_int_equal(env.sends_done, 0);
    uint64_t mark = transport_sent_bytes(env.t, env.last);
    assert_true(mark < total);
    assert_true(atomic_load(&env.waiting) == (int64_t)(total - mark));
    static char buf[65536];
    for (int i = 0; i < 200000 && got < total; i++) {
        ssize_t n = read_some(fd, buf, sizeof buf);
        for (ssize_t k = 0; k < n; k++, got++) {
            if (buf[k] != (char)('a' + got % 4001 % 23))
                fail();
        }
        turn();
    }
    assert_int_equal(got, total);
    TURN_UNTIL(env.sends_done == 1);
    assert_int_equal(transport_sent_bytes(env.t, env.last), total);
    assert_int_equal(atomic_load(&env.waiting), 0);
    close(fd);
    env_teardown();
}

static void test_waiting_limit(void **state)
{
    SETUP(state, 1 << 20);
    int fd = dial();
    TURN_UNTIL(env.accepted == 1);
    struct rope r;
    big_rope(&r, 2000, 10000); /* 20 MB: past what the kernel buffers and the limit */
    transport_send(env.t, env.last, &r);
    TURN_UNTIL(env.limit_failures == 1);
    TURN_UNTIL(transport_count(env.t) == 0);
    assert_int_equal(atomic_load(&env.waiting), 0);
    close(fd);
    env_teardown();
}

/* Slow readers that have used up the limit do not cost those their answers who
 * read at once. */
static void test_waiting_limit_spares_fast_readers(void **state)
{
    SETUP(state, 1 << 20);
    int slow = dial();
    TURN_UNTIL(env.accepted == 1);
    atomic_store(&env.waiting, 1 << 20); /* as another transport's slow readers would */
    struct rope r;
    rope_init(&r);
    rope_put(&r, STR("quick"));
    transport_send(env.t, env.last, &r);
    TURN_UNTIL(env.sends_done == 1);
    assert_int_equal(env.limit_failures, 0);
    atomic_store(&env.waiting, 0);
    close(slow);
    env_teardown();
}

static void test_close_while_sending(void **state)
{
    SETUP(state, INT64_MAX);
    for (int abort = 0; abort < 2; abort++) {
        env.accepted = 0;
        int fd = dial();
        TURN_UNTIL(env.accepted == 1);
        struct rope r;
        for (int i = 0; i < 3; i++) {
            big_rope(&r, 500, 10000);
            transport_send(env.t, env.last, &r);
        }
        for (int i = 0; i < 20; i++)
            turn();
        transport_close(env.t, env.last, abort != 0);
        TURN_UNTIL(atomic_load(&env.waiting) == 0);
        assert_int_equal(env.sends_done + env.sends_failed, 0); /* nothing is heard after a close */
        close(fd);
    }
    env_teardown();
}

static void test_reset(void **state)
{
    SETUP(state, INT64_MAX);
    int fd = dial();
    TURN_UNTIL(env.accepted == 1);
    struct linger hard = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
    TURN_UNTIL(env.resets == 1 && transport_count(env.t) == 0);
    env_teardown();
}

static void test_half_close(void **state)
{
    SETUP(state, INT64_MAX);
    env.echo = false;
    int fd = dial();
    TURN_UNTIL(env.accepted == 1);
    shutdown(fd, SHUT_WR);
    TURN_UNTIL(env.eofs == 1);
    for (int i = 0; i < 50; i++)
        turn(); /* reported once only */
    struct rope r;
    rope_init(&r);
    rope_put(&r, STR("bye"));
    transport_send(env.t, env.last, &r);
    char buf[8];
    ssize_t n = -2;
    TURN_UNTIL((n = read_some(fd, buf, sizeof buf)) != -2);
    assert_int_equal(n, 3);
    transport_shutdown(env.t, env.last);
    TURN_UNTIL((n = read_some(fd, buf, sizeof buf)) != -2);
    assert_int_equal(n, 0);
    close(fd);
    env_teardown();
}

static void test_pause(void **state)
{
    SETUP(state, INT64_MAX);
    env.echo = false;
    int fd = dial();
    TURN_UNTIL(env.accepted == 1);
    transport_recv_pause(env.t, env.last);
    for (int i = 0; i < 20; i++)
        turn();
    assert_int_equal(send(fd, "abc", 3, 0), 3);
    for (int i = 0; i < 50; i++) {
        turn();
        usleep(200);
    }
    assert_int_equal(env.received, 0);
    transport_recv_resume(env.t, env.last);
    TURN_UNTIL(env.received == 3);
    transport_recv_pause(env.t, env.last); /* both in one turn */
    transport_recv_resume(env.t, env.last);
    assert_int_equal(send(fd, "def", 3, 0), 3);
    TURN_UNTIL(env.received == 6);
    close(fd);
    env_teardown();
}

/* More than the buffer ring holds at once, from many sides. */
static void test_upload(void **state)
{
    SETUP(state, INT64_MAX);
    env.echo = false;
    enum { N = 20, EACH_BYTES = 400000 };
    int fds[N];
    size_t sent[N] = {0};
    static char zeros[65536];
    for (int i = 0; i < N; i++)
        fds[i] = dial();
    TURN_UNTIL(env.accepted == N);
    for (int round = 0; round < 20000 && env.received < (size_t)N * EACH_BYTES; round++) {
        for (int i = 0; i < N; i++) {
            size_t left = EACH_BYTES - sent[i];
            if (left == 0)
                continue;
            ssize_t n = send(fds[i], zeros, left < sizeof zeros ? left : sizeof zeros, MSG_DONTWAIT);
            if (n > 0)
                sent[i] += (size_t)n;
        }
        turn();
    }
    assert_int_equal(env.received, (size_t)N * EACH_BYTES);
    for (int i = 0; i < N; i++)
        close(fds[i]);
    env_teardown();
}

static void test_close_in_callback(void **state)
{
    SETUP(state, INT64_MAX);
    env.close_on_recv = true;
    int fd = dial();
    char buf[8];
    ssize_t n = -2;
    assert_true(send(fd, "x", 1, 0) == 1 || errno == EAGAIN || errno == ENOTCONN);
    TURN_UNTIL(env.accepted == 1);
    TURN_UNTIL(env.received > 0);
    TURN_UNTIL((n = read_some(fd, buf, sizeof buf)) != -2);
    assert_int_equal(n, 0);
    close(fd);
    env_teardown();
}

static void test_unlisten(void **state)
{
    SETUP(state, INT64_MAX);
    int kept = dial();
    TURN_UNTIL(env.accepted == 1);
    transport_unlisten(env.t, 5);
    transport_unlisten(env.t, 5);
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((uint16_t)env.port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof sa), -1);
    assert_int_equal(errno, ECONNREFUSED);
    close(fd);
    for (int i = 0; i < 10; i++)
        turn();
    char buf[4];
    ssize_t n = -2;
    assert_int_equal(send(kept, "y", 1, 0), 1);
    TURN_UNTIL((n = read_some(kept, buf, sizeof buf)) != -2);
    assert_int_equal(n, 1);
    close(kept);
    env_teardown();
}

static void test_two_on_one_unix_listener(void **state)
{
    SETUP(state, INT64_MAX);
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    int len = snprintf(sa.sun_path + 1, sizeof sa.sun_path - 1, "chappe-test-loop-%d", (int)getpid());
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
    int lfd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(lfd, (struct sockaddr *)&sa, bytes), 0);
    assert_int_equal(listen(lfd, 100), 0);
    transport_listen(env.t, fcntl(lfd, F_DUPFD_CLOEXEC, 0), 5);
    transport_listen(env.t, lfd, 5);
    turn();
    int fds[8];
    for (int i = 0; i < 8; i++) {
        fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fds[i], (struct sockaddr *)&sa, bytes), 0);
        assert_int_equal(send(fds[i], "z", 1, 0), 1);
    }
    TURN_UNTIL(env.accepted == 8 && env.sends_done == 8);
    assert_int_equal(env.with_peer, 0);
    for (int i = 0; i < 8; i++)
        close(fds[i]);
    TURN_UNTIL(transport_count(env.t) == 0);
    env_teardown();
}

/* Out of descriptors: said, not spun on, and over when there are some again. */
static void test_no_descriptors(void **state)
{
    SETUP(state, INT64_MAX);
    bool needs = env.kind != TRANSPORT_URING_DIRECT;
    struct rlimit was, tight;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    int fd = dial(); /* before the first turn: io_uring takes the limit down when
                        an accept is submitted */
    tight = was;
    tight.rlim_cur = (rlim_t)fd + 1;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    for (int i = 0; i < 200 && env.accept_failures == 0 && env.accepted == 0; i++) {
        turn();
        usleep(1000);
    }
    int failures = env.accept_failures;
    for (int i = 0; i < 50; i++) { /* much less than the pause before the next try */
        turn();
        usleep(500);
    }
    int after = env.accept_failures;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    assert_int_equal(failures >= 1, needs);
    assert_true(after - failures <= 1);
    assert_int_equal(env.accepted, needs ? 0 : 1);
    TURN_UNTIL(env.accepted == 1);
    close(fd);
    TURN_UNTIL(transport_count(env.t) == 0);
    env_teardown();
}

/* More connections than the process may have descriptors: each is served, knows its peer, and its place is
 * used again. */
static void test_more_than_descriptors(void **state)
{
    enum { ALL = 600, LIMIT = 100 };
    (void)state;
    struct rlimit was, tight;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    tight = was;
    tight.rlim_cur = LIMIT;
    static int fds[ALL];
    char buf[64];
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    int rc = env_setup(TRANSPORT_URING_DIRECT, INT64_MAX);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    if (rc != 0)
        skip();
    size_t memory = transport_memory(env.t);
    for (int round = 0; round < 3; round++) {
        env.accepted = env.with_peer = env.sends_done = 0;
        for (int i = 0; i < ALL; i++) {
            /* The clients' ends are this process's too: above the limit, so that they do not count. */
            int fd = dial();
            fds[i] = fcntl(fd, F_DUPFD_CLOEXEC, LIMIT + 10);
            assert_true(fds[i] > LIMIT);
            close(fd);
        }
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
        TURN_UNTIL(env.accepted == ALL);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
        assert_int_equal(env.with_peer, ALL);
        assert_int_equal(transport_count(env.t), ALL);
        for (int i = 0; i < ALL; i++)
            assert_int_equal(send(fds[i], &i, sizeof i, 0), sizeof i);
        TURN_UNTIL(env.sends_done == ALL);
        for (int i = 0; i < ALL; i++) {
            assert_int_equal(read_some(fds[i], buf, sizeof buf), sizeof i);
            assert_memory_equal(buf, &i, sizeof i);
            close(fds[i]);
        }
        TURN_UNTIL(transport_count(env.t) == 0);
        if (round == 0)
            memory = transport_memory(env.t);
        else
            assert_int_equal(transport_memory(env.t), memory);
    }
    assert_int_equal(env.accept_failures, 0);
    env_teardown();
}

static void test_free_with_everything_in_flight(void **state)
{
    SETUP(state, INT64_MAX);
    int fds[50];
    for (int i = 0; i < 50; i++)
        fds[i] = dial();
    TURN_UNTIL(env.accepted == 50);
    struct rope r;
    big_rope(&r, 500, 10000);
    transport_send(env.t, env.last, &r);
    for (int i = 0; i < 10; i++)
        turn();
    env_teardown();
    for (int i = 0; i < 50; i++)
        close(fds[i]);
}

static void test_choose(void **state)
{
    enum transport_kind kind;
    char why[160];
    struct err e;
    (void)state;
    assert_int_equal(transport_choose(STR("uv"), &kind, why, &e), 0);
    assert_int_equal(kind, TRANSPORT_UV);
    assert_int_equal(transport_choose(STR("auto"), &kind, why, &e), 0);
    assert_true(why[0] != 0);
    enum transport_kind forced;
    int rc = transport_choose(STR("uring"), &forced, why, &e);
    assert_true(kind != TRANSPORT_UV ? rc == 0 && forced == kind : rc == -ERR_UNSUPPORTED);
}

int run_transport_tests(void)
{
    static enum transport_kind kinds[] = {TRANSPORT_UV, TRANSPORT_URING, TRANSPORT_URING_DIRECT};
    static const char *const names[] = {"transport uv", "transport uring", "transport uring, direct"};
    int failed = 0;
    for (size_t i = 0; i < 3; i++) {
#define T(f)                         \
    {                                \
#f, f, NULL, NULL, &kinds[i] \
    }
        const struct CMUnitTest tests[] = {
            T(test_echo),
            T(test_many_connections),
            T(test_slow_reader),
            T(test_waiting_limit),
            T(test_waiting_limit_spares_fast_readers),
            T(test_close_while_sending),
            T(test_reset),
            T(test_half_close),
            T(test_pause),
            T(test_upload),
            T(test_close_in_callback),
            T(test_unlisten),
            T(test_two_on_one_unix_listener),
            T(test_no_descriptors),
            T(test_free_with_everything_in_flight),
            T(test_choose),
        };
#undef T
        failed += cmocka_run_group_tests_name(names[i], tests, NULL, NULL);
    }
    const struct CMUnitTest beyond[] = {cmocka_unit_test(test_more_than_descriptors)};
    failed += cmocka_run_group_tests_name("transport beyond descriptors", beyond, NULL, NULL);
    return failed;
}
