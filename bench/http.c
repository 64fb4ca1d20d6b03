/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The HTTP server alone: one connection asks as a polling client does and is answered with a delta of the
 * usual size, so many times. For callgrind, with two numbers of requests (bench/README.md): instructions for
 * each from the bytes' arrival to the handler (conn_recv, less the handler) and from http_reply() on.
 *
 *   bench_http COUNT [uv|uring]
 *
 * Or so many connections that all wait at once, from processes of their own, and are then answered: what they
 * cost in memory.
 *
 *   bench_http park CONNECTIONS PORT [uv|uring [FRONT_THREADS]]
 *
 * Or so many connections from another process that are answered so many times, 64 in a turn of the loop, and
 * ask again at once: CPU time of the server for each, the kernel's included. Request lines go to standard
 * error, as in earnest.
 *
 *   bench_http fan CONNECTIONS ROUNDS PORT [uv|uring [FRONT_THREADS]]
 */
#include "chappe/config.h"
#include "chappe/httpd.h"
#include "chappe/log.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

static const char request[] =
    "GET /_matrix/client/v3/sync?filter=0&timeout=30000&since=s72594_4483_1934_11_34_1_55_77_1_3_120"
    "&set_presence=offline HTTP/1.1\r\nHost: matrix.example.org\r\n"
    "Authorization: Bearer syt_YWxpY2U_ZqTgWxKcVbNmLkJhGfDs_1a2B3c\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 "
    "Safari/537.36\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate, br\r\n"
    "Connection: keep-alive\r\n\r\n";

enum { CHILD_CONNECTIONS = 15000, PARKED_MAX = 200000, SLICE = 64 };

static struct http_req *parked;
static struct http_req *crowd[PARKED_MAX];
static long crowd_count;
static bool answering;

static int route(enum http_method m, struct str path)
{
    (void)m;
    (void)path;
    return 0;
}

static bool is_answering(void *arg)
{
    (void)arg;
    return answering;
}

static void handler(void *arg, struct http_req *req)
{
    (void)arg;
    parked = req;
}

static void crowd_handler(void *arg, struct http_req *req)
{
    (void)arg;
    if (crowd_count < PARKED_MAX)
        crowd[crowd_count++] = req;
    else
        http_drop(&req);
}

/* An event shared by all, the rest one's own. */
static void answer(struct blob *event)
{
    struct http_res res;
    http_res_init(&res, 200);
    rope_put(&res.body,
             STR("{\"next_batch\":\"s72595_4483_1934_11_34_1_55_77_1_3_120\",\"rooms\":{\"join\":{"));
    rope_blob_range(&res.body, event, 0, 400);
    rope_put(&res.body, STR("\"age\":117"));
    rope_blob_range(&res.body, event, 400, 200);
    rope_put(&res.body, STR(",\"unread_notifications\":{\"highlight_count\":0,\"notification_count\":1}}}}"));
    http_reply(&parked, &res);
}

/* ---- a server on this thread's loop ---- */

struct server {
    struct config cfg;
    struct config_listener listener;
    struct str bind[1];
    struct httpd_routes routes;
    struct httpd *h;
    uv_loop_t loop;
};

static int server_open(struct server *s, struct str transport, int port, int64_t connections, int64_t threads,
                       http_handler_fn *fn)
{
    struct err e;
    *s = (struct server){.bind = {STR("127.0.0.1")},
                         .routes = {.route = route, .handler = fn, .answering = is_answering}};
    s->listener = (struct config_listener){.bind = s->bind, .bind_count = 1, .port = port, .client = true};
    s->cfg.transport = transport;
    s->cfg.connections_max = connections;
    s->cfg.front_threads = threads;
    s->cfg.idle_timeout_ms = s->cfg.header_timeout_ms = s->cfg.body_timeout_ms = s->cfg.write_timeout_ms =
        90000;
    s->cfg.header_bytes_max = 32768;
    s->cfg.body_bytes_max = 1 << 20;
    s->cfg.read_bytes_max = s->cfg.write_bytes_max = 1 << 28;
    s->cfg.behind_answers_ms = 500;
    s->cfg.listeners = &s->listener;
    s->cfg.listeners_count = 1;
    if (uv_loop_init(&s->loop) != 0 || httpd_start(&s->h, &s->loop, &s->cfg, &s->routes, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        return 2;
    }
    return 0;
}

static int server_close(struct server *s)
{
    httpd_stop(&s->h);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    return uv_loop_close(&s->loop) != 0;
}

/* ---- many at once ---- */

/* Polls once on each of n connections from 127.0.0.source; false when one could not. */
static bool child_dial(long n, int source, int port, int *fds)
{
    struct sockaddr_in from = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)source)};
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
    int one = 1;
    for (long i = 0; i < n; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        /* The port is chosen when the peer is known, so that each pair may be used again. */
        (void)setsockopt(fds[i], IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (fds[i] < 0 || bind(fds[i], (struct sockaddr *)&from, sizeof from) != 0 ||
            connect(fds[i], (struct sockaddr *)&to, sizeof to) != 0 ||
            send(fds[i], request, sizeof request - 1, MSG_NOSIGNAL) != sizeof request - 1)
            return false;
    }
    return true;
}

/* Tells 0 when every one was answered. */
static int child_main(long n, int source, int port)
{
    int *fds = malloc((size_t)n * sizeof *fds);
    char in[8192];
    if (!child_dial(n, source, port, fds))
        return 1;
    for (long i = 0; i < n; i++) {
        ssize_t got = recv(fds[i], in, sizeof in - 1, 0);
        in[got > 0 ? got : 0] = 0;
        if (!strstr(in, "next_batch"))
            return 1;
    }
    free(fds);
    return 0;
}

static long resident(void)
{
    long total = 0, pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%ld %ld", &total, &pages) != 2)
        pages = 0;
    if (f)
        fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

/* Turns the loop until all wait, or for a minute. */
static bool all_wait(uv_loop_t *loop, long n)
{
    for (int i = 0; i < 60000 && crowd_count < n; i++) {
        for (int turns = 0; turns < 100; turns++)
            uv_run(loop, UV_RUN_NOWAIT);
        usleep(1000);
    }
    return crowd_count == n;
}

static int park(long n, int port, struct str transport, int64_t threads)
{
    struct rlimit rl = {0};
    pid_t children[PARKED_MAX / CHILD_CONNECTIONS + 1];
    int count = 0, failed = 0, status, go[2];
    char event[600], byte = 0;
    struct server s;

    (void)getrlimit(RLIMIT_NOFILE, &rl);
    if (pipe(go) != 0)
        return 2;
    for (long left = n; left > 0; left -= CHILD_CONNECTIONS, count++) {
        children[count] = fork();
        if (children[count] == 0) {
            close(go[1]);
            if (read(go[0], &byte, 1) != 1)
                _exit(1);
            _exit(child_main(left < CHILD_CONNECTIONS ? left : CHILD_CONNECTIONS, count + 1, port));
        }
    }
    close(go[0]);
    if (server_open(&s, transport, port, n + 100, threads, crowd_handler) != 0)
        return 2;
    long before = resident();
    for (int i = 0; i < count; i++)
        failed += write(go[1], &byte, 1) != 1;
    if (!all_wait(&s.loop, n))
        fprintf(stderr, "only %ld wait\n", crowd_count);
    struct httpd_memory m;
    httpd_memory(s.h, &m);
    printf("%ld wait (%s; RLIMIT_NOFILE %ld): %ld bytes of resident memory each; accounted: %zu for the "
           "connection, "
           "%zu for the request\n",
           crowd_count, httpd_transport(s.h), (long)rl.rlim_cur, (resident() - before) / crowd_count,
           m.connections / (size_t)crowd_count, m.requests / (size_t)crowd_count);
    memset(event, 'e', sizeof event);
    struct blob *b = blob_new(str_n(event, sizeof event));
    for (long i = 0; i < crowd_count; i++) {
        parked = crowd[i];
        answer(b);
        if (i % SLICE == SLICE - 1) /* as many as sync answers in a turn */
            uv_run(&s.loop, UV_RUN_NOWAIT);
    }
    blob_unref(&b);
    for (int i = 0, done = 0; i < 60000 && done < count; i++) {
        uv_run(&s.loop, UV_RUN_NOWAIT);
        if (i % 100 == 0)
            usleep(1000);
        pid_t ended = waitpid(-1, &status, WNOHANG);
        done += ended > 0;
        failed += ended > 0 && status != 0;
    }
    printf("%s\n", failed ? "not all were answered" : "all were answered");
    return server_close(&s) || failed;
}

/* ---- again and again ---- */

/* Answers come whole: they are smaller than what a socket holds. */
static int fan_child(long n, int port)
{
    int *fds = malloc((size_t)n * sizeof *fds), poll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[256];
    char in[8192];
    if (poll < 0 || !child_dial(n, 1, port, fds))
        return 1;
    for (long i = 0; i < n; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fds[i]};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, fds[i], &e) != 0)
            return 1;
    }
    for (;;) {
        int ready = epoll_wait(poll, events, 256, 60000);
        for (int i = 0; i < ready; i++) {
            ssize_t got = recv(events[i].data.fd, in, sizeof in, MSG_DONTWAIT);
            if (got <= 0 || send(events[i].data.fd, request, sizeof request - 1, MSG_NOSIGNAL) < 0)
                return 0; /* the server has ended */
        }
        if (ready <= 0)
            return 1;
    }
}

static void on_cpu(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    (void)sched_setaffinity(0, sizeof set, &set);
}

static double cpu_us(int64_t *user)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    *user = u.ru_utime.tv_sec * 1000000 + u.ru_utime.tv_usec;
    return (double)(*user + u.ru_stime.tv_sec * 1000000 + u.ru_stime.tv_usec);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum { ROUNDS_MAX = 1000 };

static int fan(long n, long rounds, int port, struct str transport, int64_t threads)
{
    static struct http_req *batch[PARKED_MAX];
    static double costs[ROUNDS_MAX], users[ROUNDS_MAX];
    char event[600];
    struct server s;
    int go[2];

    if (pipe(go) != 0)
        return 2;
    pid_t child = fork();
    if (child == 0) {
        char byte;
        on_cpu(1);
        _exit(read(go[0], &byte, 1) == 1 ? fan_child(n, port) : 1);
    }
    if (threads == 0)
        on_cpu(0);
    if (server_open(&s, transport, port, n + 100, threads, crowd_handler) != 0 || write(go[1], "", 1) != 1)
        return 2;
    memset(event, 'e', sizeof event);
    struct blob *b = blob_new(str_n(event, sizeof event));
    bool all = all_wait(&s.loop, n);
    long done = 0;
    for (; all && done < rounds; done++) {
        int64_t user, user_before;
        double before = cpu_us(&user_before);
        memcpy(batch, crowd, (size_t)n * sizeof *batch);
        crowd_count = 0;
        for (long i = 0; i < n; i++) {
            parked = batch[i];
            answering = n - i > SLICE;
            answer(b);
            if (i % SLICE == SLICE - 1)
                uv_run(&s.loop, UV_RUN_NOWAIT);
        }
        for (long turns = 0; turns < 1000000 && crowd_count < n; turns++)
            uv_run(&s.loop, UV_RUN_ONCE);
        all = crowd_count == n;
        costs[done] = (cpu_us(&user) - before) / (double)n;
        users[done] = (double)(user - user_before) / (double)n;
    }
    qsort(costs, (size_t)done, sizeof *costs, by_value);
    qsort(users, (size_t)done, sizeof *users, by_value);
    printf("%ld connections, %ld rounds: CPU µs for an answer and the next request %.2f / %.2f / %.2f, "
           "of it user %.2f / %.2f / %.2f\n",
           n, done, costs[0], costs[done / 2], costs[done ? done - 1 : 0], users[0], users[done / 2],
           users[done ? done - 1 : 0]);
    for (long i = 0; i < crowd_count; i++)
        http_drop(&crowd[i]);
    blob_unref(&b);
    int failed = server_close(&s) || !all || done == 0;
    waitpid(child, NULL, 0);
    return failed;
}

static int usage(void)
{
    fputs("usage: bench_http COUNT [uv|uring]\n"
          "       bench_http park CONNECTIONS PORT [uv|uring [FRONT_THREADS]]\n"
          "       bench_http fan CONNECTIONS ROUNDS PORT [uv|uring [FRONT_THREADS]]\n",
          stderr);
    return 2;
}

int main(int argc, char **argv)
{
    long count = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
    struct server s;
    char in[8192], event[600];

    log_level = LOG_ERROR;
    if (argc > 3 && strcmp(argv[1], "park") == 0) {
        count = strtol(argv[2], NULL, 10);
        if (count > 0 && count <= PARKED_MAX)
            return park(count, (int)strtol(argv[3], NULL, 10), argc > 4 ? str_of(argv[4]) : STR("auto"),
                        argc > 5 ? strtol(argv[5], NULL, 10) : 0);
    }
    if (argc > 4 && strcmp(argv[1], "fan") == 0) {
        long rounds = strtol(argv[3], NULL, 10);
        count = strtol(argv[2], NULL, 10);
        log_level = LOG_INFO;
        if (count > 0 && count <= PARKED_MAX && rounds > 0 && rounds <= ROUNDS_MAX)
            return fan(count, rounds, (int)strtol(argv[4], NULL, 10),
                       argc > 5 ? str_of(argv[5]) : STR("auto"), argc > 6 ? strtol(argv[6], NULL, 10) : 0);
    }
    if (count <= 0)
        return usage();
    if (server_open(&s, argc > 2 ? str_of(argv[2]) : STR("uv"), 0, 100, 0, handler) != 0)
        return 2;
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((uint16_t)httpd_port(s.h, 0))};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&sa, sizeof sa) != 0)
        return 2;
    memset(event, 'e', sizeof event);
    struct blob *b = blob_new(str_n(event, sizeof event));
    for (long i = 0; i < count; i++) {
        if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) != sizeof request - 1)
            return 2;
        while (!parked)
            uv_run(&s.loop, UV_RUN_NOWAIT);
        answer(b);
        while (recv(fd, in, sizeof in, MSG_DONTWAIT) <= 0)
            uv_run(&s.loop, UV_RUN_NOWAIT);
    }
    printf("%ld requests of %zu bytes\n", count, sizeof request - 1);
    close(fd);
    blob_unref(&b);
    return server_close(&s);
}
