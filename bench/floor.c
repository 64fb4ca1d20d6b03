/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The floor under every long-poll server: sockets that wait in a list, and the same bytes for all of them.
 *
 *   GET without "since="      {"next_batch":"0"} with the number of the newest message
 *   GET ...since=N...         message N + 1 and its number, at once or when it is there
 *   GET /other                a small answer at once: what another client's request looks like
 *   POST                      a message: its body becomes the answer of all who wait
 *
 * Nothing is parsed that is not needed for that, nobody is authenticated, nothing is stored but the last
 * HISTORY messages (so that an open loop loses none). So a device's delta costs what the kernel's TCP costs,
 * and that is the point: nothing that speaks HTTP over sockets can be cheaper.
 *
 * One process holds 20,000 sockets or fewer on some machines, so that there may be several on one port; they
 * share the messages and wake each other. One thread each, edge-triggered epoll, one send() for an answer.
 * With --slice N at most N answers go out between two looks at epoll, so that other requests do not wait for
 * the whole fan-out.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HISTORY = 1024, ANSWER_MAX = 8192, REQUEST_MAX = 16384, PROCESSES_MAX = 16, CONNS_MAX = 65536 };

struct answer {
    uint64_t number;
    uint32_t len;
    char bytes[ANSWER_MAX];
};

/* What the processes share. A slot is written before `newest` says that it is there. */
struct shared {
    _Atomic uint64_t newest;
    struct answer ring[HISTORY];
};

struct conn {
    bool waits;
    uint64_t since;
};

struct floor {
    struct shared *shared;
    unsigned processes, self, slice;
    int epoll, listener, news[PROCESSES_MAX];
    struct conn conns[CONNS_MAX]; /* by descriptor */
    int waiting[CONNS_MAX];       /* descriptors, in the order in which they came */
    unsigned waiting_count;
    char scratch[REQUEST_MAX];
};

_Noreturn static void die(const char *what)
{
    fprintf(stderr, "bench_floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* An answer that does not fit into the socket means a reader that does not read: it is cut off. */
static void answer(int fd, const char *bytes, size_t len)
{
    if (send(fd, bytes, len, MSG_NOSIGNAL) != (ssize_t)len)
        shutdown(fd, SHUT_RDWR);
}

static size_t compose(char *to, size_t cap, const char *body, size_t len)
{
    int n = snprintf(to, cap,
                     "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", len);
    if (n < 0 || (size_t)n + len > cap)
        return 0;
    memcpy(to + n, body, len);
    return (size_t)n + len;
}

static void answer_text(int fd, const char *text)
{
    char bytes[512];
    answer(fd, bytes, compose(bytes, sizeof(bytes), text, strlen(text)));
}

/* Message since + 1, if it is there already; false: wait. */
static bool answer_next(struct floor *f, int fd, uint64_t since)
{
    uint64_t newest = atomic_load_explicit(&f->shared->newest, memory_order_acquire);
    if (since >= newest)
        return false;
    if (newest - since >= HISTORY)
        since = newest - 1;
    const struct answer *a = &f->shared->ring[(since + 1) % HISTORY];
    answer(fd, a->bytes, a->len);
    return true;
}

static void wait_add(struct floor *f, int fd, uint64_t since)
{
    f->conns[fd] = (struct conn){true, since};
    f->waiting[f->waiting_count++] = fd;
}

/* Up to a slice of those who wait; true when some are left. */
static bool fan_out(struct floor *f)
{
    uint64_t newest = atomic_load_explicit(&f->shared->newest, memory_order_acquire);
    unsigned kept = 0, i = 0, sent = 0;
    for (; i < f->waiting_count && sent < f->slice; i++) {
        int fd = f->waiting[i];
        struct conn *c = &f->conns[fd];
        if (!c->waits)
            continue; /* closed */
        if (c->since >= newest) {
            f->waiting[kept++] = fd;
            continue;
        }
        c->waits = false;
        sent++;
        answer_next(f, fd, c->since);
    }
    memmove(f->waiting + kept, f->waiting + i, (f->waiting_count - i) * sizeof(f->waiting[0]));
    f->waiting_count -= i - kept;
    return i - kept > 0 && kept < f->waiting_count;
}

static void publish(struct floor *f, int fd, const char *body, size_t len)
{
    uint64_t number = atomic_load(&f->shared->newest) + 1, one = 1;
    struct answer *a = &f->shared->ring[number % HISTORY];
    char text[ANSWER_MAX];
    int n = snprintf(text, sizeof(text), "{\"next_batch\":\"%llu\",\"message\":%.*s}",
                     (unsigned long long)number, (int)len, body);
    a->len =
        n > 0 && n < (int)sizeof(text) ? (uint32_t)compose(a->bytes, sizeof(a->bytes), text, (size_t)n) : 0;
    if (a->len == 0) {
        shutdown(fd, SHUT_RDWR);
        return;
    }
    a->number = number;
    atomic_store_explicit(&f->shared->newest, number, memory_order_release);
    for (unsigned i = 0; i < f->processes; i++)
        if (write(f->news[i], &one, sizeof(one)) < 0 && errno != EAGAIN)
            die("eventfd");
    answer_text(fd, "{}");
}

/* One complete request; requests are small and come in one piece. */
static void request(struct floor *f, int fd, char *bytes, size_t len)
{
    bytes[len] = 0;
    if (bytes[0] == 'P') {
        char *body = memmem(bytes, len, "\r\n\r\n", 4);
        if (body == NULL)
            shutdown(fd, SHUT_RDWR);
        else
            publish(f, fd, body + 4, len - (size_t)(body + 4 - bytes));
        return;
    }
    if (len > 10 && memcmp(bytes, "GET /other", 10) == 0) {
        answer_text(fd, "{}");
        return;
    }
    char *line_end = memchr(bytes, '\r', len);
    char *since = memmem(bytes, line_end ? (size_t)(line_end - bytes) : len, "since=", 6);
    if (since == NULL) {
        char text[64];
        snprintf(text, sizeof(text), "{\"next_batch\":\"%llu\"}",
                 (unsigned long long)atomic_load(&f->shared->newest));
        answer_text(fd, text);
        return;
    }
    uint64_t from = strtoull(since + 6, NULL, 10);
    if (!answer_next(f, fd, from))
        wait_add(f, fd, from);
}

static void conn_ready(struct floor *f, int fd)
{
    ssize_t n = recv(fd, f->scratch, sizeof(f->scratch) - 1, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        f->conns[fd].waits = false;
        close(fd);
        return;
    }
    request(f, fd, f->scratch, (size_t)n);
}

/* A closed connection may still stand in the list of those who wait, and its number be given out again: it is
 * taken out here, where that is rare. */
static void wait_forget(struct floor *f, int fd)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < f->waiting_count; i++)
        if (f->waiting[i] != fd)
            f->waiting[kept++] = f->waiting[i];
    f->waiting_count = kept;
}

static void accept_all(struct floor *f)
{
    for (;;) {
        int one = 1, fd = accept4(f->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        if (fd >= CONNS_MAX) {
            close(fd);
            continue;
        }
        struct epoll_event e = {.events = EPOLLIN | EPOLLET, .data.fd = fd};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        if (f->conns[fd].since != 0)
            wait_forget(f, fd);
        f->conns[fd] = (struct conn){false, 0};
        if (epoll_ctl(f->epoll, EPOLL_CTL_ADD, fd, &e) != 0)
            die("epoll_ctl");
    }
}

_Noreturn static void serve(struct floor *f)
{
    struct epoll_event events[256];
    bool more = false;
    for (;;) {
        int n = epoll_wait(f->epoll, events, 256, more ? 0 : -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            uint64_t count;
            if (fd == f->listener) {
                accept_all(f);
            } else if (fd == f->news[f->self]) {
                if (read(fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
                    die("eventfd");
                more = true;
            } else {
                conn_ready(f, fd);
            }
        }
        if (more)
            more = fan_out(f);
    }
}

static int listen_on(uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0)
        die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&at, sizeof(at)) != 0 || listen(fd, 4096) != 0)
        die("listen");
    return fd;
}

_Noreturn static void run(struct floor *f, unsigned self, uint16_t port)
{
    struct epoll_event e = {.events = EPOLLIN};
    f->self = self;
    f->listener = listen_on(port);
    f->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (f->epoll < 0)
        die("epoll");
    for (int i = 0; i < 2; i++) {
        e.data.fd = i == 0 ? f->listener : f->news[self];
        if (epoll_ctl(f->epoll, EPOLL_CTL_ADD, e.data.fd, &e) != 0)
            die("epoll_ctl");
    }
    serve(f);
}

static unsigned argument(int argc, char **argv, const char *name, unsigned fallback, unsigned most)
{
    for (int i = 1; i + 1 < argc; i += 2)
        if (strcmp(argv[i], name) == 0) {
            unsigned long value = strtoul(argv[i + 1], NULL, 10);
            if (value == 0 || value > most) {
                fprintf(stderr, "bench_floor: %s: 1 to %u\n", name, most);
                exit(2);
            }
            return (unsigned)value;
        }
    return fallback;
}

int main(int argc, char **argv)
{
    static struct floor f;
    struct rlimit files;
    uint16_t port = (uint16_t)argument(argc, argv, "--port", 0, 65535);
    f.processes = argument(argc, argv, "--processes", 1, PROCESSES_MAX);
    f.slice = argument(argc, argv, "--slice", CONNS_MAX, CONNS_MAX);
    if (port == 0) {
        fputs("usage: bench_floor --port N [--processes N] [--slice N]\n", stderr);
        return 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    f.shared = mmap(NULL, sizeof(*f.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (f.shared == MAP_FAILED)
        die("shared memory");
    for (unsigned i = 0; i < f.processes; i++)
        if ((f.news[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) < 0)
            die("eventfd");
    for (unsigned i = 1; i < f.processes; i++) {
        pid_t pid = fork();
        if (pid < 0)
            die("fork");
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGTERM);
            run(&f, i, port);
        }
    }
    run(&f, 0, port);
}
