/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * A load generator for /sync: N devices in one room, each with its own access token and connection. Every
 * device does an initial sync and then long-polls; a publisher connection sends numbered messages through the
 * homeserver's client API, the next one only when every device has the last one and is parked again.
 *
 * It measures what one process (--pid) spends on that, and it checks every answer: each device must get each
 * message exactly once and in order. A message carries the marker "bench-RUN-NUMBER;" in its body; a device
 * keeps a bitmap of the numbers it has seen. Lost, repeated, out of order, unknown numbers and truncated
 * timelines are counted apart and make the exit status 1.
 *
 * One thread, level-triggered epoll. Results are JSON lines on standard output; at every line with "mark" it
 * can wait for a line on standard input (--pause), so that the caller reads other counters at exactly that
 * point. Everything is bounded: counts by options, every wait by a deadline.
 */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { RETRIES_MAX = 20, TIMEOUTS_MAX = 2 };
static const uint64_t ms = 1000000u;
/* A process counts as quiet when it uses less than this share of one core ... */
static const double quiet_share = 0.03;
/* ... in two samples of this length in a row. */
static const uint64_t quiet_sample_ns = 150 * ms;

enum conn_state { CONN_IDLE, CONN_CONNECTING, CONN_SENDING, CONN_WAITING };

struct conn {
    int fd;
    enum conn_state state;
    uint16_t port;
    unsigned source; /* last byte of the 127.0.0.x address to bind to */
    bool fresh;      /* nothing was answered on this connection yet */
    char *out;
    size_t out_len;
    size_t out_off;
    struct reply reply;
};

struct listener {
    struct conn conn; /* first: epoll hands out struct conn pointers */
    char *token;
    char *since; /* NULL: the initial sync is still to be answered */
    uint64_t asked_at;
    uint64_t retry_at; /* 0: nothing to repeat */
    unsigned retries;
    unsigned last; /* highest number seen */
    uint64_t *seen;
};

struct counts {
    uint64_t requests, initial, deltas, empties, bad_status, bad_replies, reconnects;
    uint64_t repeated, disordered, foreign, limited, lost, timeouts;
    uint64_t body_bytes;
};

struct load {
    struct options o;
    int epoll;
    uint64_t deadline; /* of the whole run */
    struct listener *listeners;
    char *query_filter;
    struct conn publisher;
    char *publish_token;
    bool published;        /* the publisher's request is answered */
    uint64_t published_ns; /* how long that took */
    unsigned waiting_retry;
    /* initial syncs */
    unsigned start_next, start_end, in_initial, parked;
    uint64_t *initial_ns;
    /* the message under way */
    unsigned sent;    /* highest number sent */
    unsigned arrived; /* listeners that have it */
    uint64_t sent_at;
    uint64_t *latency_ns;
    char marker[80];
    int last_bad_status;
    struct counts c;
};

static void listener_ask(struct load *l, struct listener *d);
static void conn_ready(struct load *l, struct conn *c, uint32_t events);

/* -- connections
 * -------------------------------------------------------------------------------------------------- */

static void conn_close(struct conn *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->state = CONN_IDLE;
}

static void conn_watch(struct load *l, struct conn *c, uint32_t events, int how)
{
    struct epoll_event e = {.events = events, .data.ptr = c};
    if (epoll_ctl(l->epoll, how, c->fd, &e) != 0)
        die(STATUS_ENVIRONMENT, "epoll_ctl: %s", strerror(errno));
}

static void conn_open(struct load *l, struct conn *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(c->port)};
    struct sockaddr_in from = {.sin_family = AF_INET};
    int one = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    from.sin_addr.s_addr = htonl((INADDR_LOOPBACK & ~0xffu) + c->source);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die(STATUS_ENVIRONMENT, "socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    /* The port is chosen at connect, so that one source address serves many destinations. */
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
    if (bind(c->fd, (struct sockaddr *)&from, sizeof(from)) != 0)
        die(STATUS_ENVIRONMENT, "bind to a source address: %s", strerror(errno));
    c->fresh = true;
    c->state = CONN_CONNECTING;
    if (connect(c->fd, (struct sockaddr *)&to, sizeof(to)) != 0 && errno != EINPROGRESS)
        die(STATUS_ENVIRONMENT, "connect to port %u: %s", c->port, strerror(errno));
    conn_watch(l, c, EPOLLOUT, EPOLL_CTL_ADD);
}

static void conn_write(struct load *l, struct conn *c)
{
    while (c->out_off < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            conn_watch(l, c, EPOLLOUT | EPOLLIN, EPOLL_CTL_MOD);
            return;
        }
        if (n < 0)
            break; /* the read side reports what happened */
        c->out_off += (size_t)n;
    }
    if (c->state == CONN_SENDING)
        conn_watch(l, c, EPOLLIN, EPOLL_CTL_MOD);
    c->state = CONN_WAITING;
}

/* Takes `out`. */
static void conn_ask(struct load *l, struct conn *c, char *out)
{
    free(c->out);
    c->out = out;
    c->out_len = strlen(out);
    c->out_off = 0;
    reply_reset(&c->reply);
    l->c.requests++;
    if (c->fd < 0) {
        conn_open(l, c);
        return;
    }
    c->state = CONN_WAITING; /* EPOLLIN is what is being watched already */
    conn_write(l, c);
}

/* -- devices
 * ------------------------------------------------------------------------------------------------------ */

static bool bit_test_set(uint64_t *bits, unsigned i)
{
    bool was = (bits[i / 64] >> (i % 64)) & 1;
    bits[i / 64] |= (uint64_t)1 << (i % 64);
    return was;
}

static void listener_ask(struct load *l, struct listener *d)
{
    char *out;
    int n;
    d->retry_at = 0;
    d->asked_at = now_ns();
    if (d->since == NULL)
        n = asprintf(&out,
                     "GET /_matrix/client/v3/sync?filter=%s&timeout=0%s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n"
                     "Authorization: Bearer %s\r\n\r\n",
                     l->query_filter, l->o.params, l->o.port, d->token);
    else
        n = asprintf(
            &out,
            "GET /_matrix/client/v3/sync?filter=%s&timeout=%u%s&since=%s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n"
            "Authorization: Bearer %s\r\n\r\n",
            l->query_filter, l->o.poll_timeout_ms, l->o.params, d->since, l->o.port, d->token);
    if (n < 0)
        die(STATUS_ENVIRONMENT, "out of memory");
    conn_ask(l, &d->conn, out);
}

static void listener_retry(struct load *l, struct listener *d, const char *why)
{
    if (++d->retries > RETRIES_MAX)
        die(STATUS_ENVIRONMENT, "a device failed %u times, last: %s (status %d)", d->retries, why,
            l->last_bad_status);
    d->retry_at = now_ns() + 100 * ms;
    l->waiting_retry++;
}

/* Every marker in the body, in order. Returns how many there were. */
static unsigned listener_check(struct load *l, struct listener *d, const char *body, size_t len)
{
    size_t n = strlen(l->marker);
    const char *p = body, *end = body + len;
    unsigned found = 0;
    while ((p = memmem(p, (size_t)(end - p), l->marker, n)) != NULL) {
        unsigned number = 0;
        for (p += n; p < end && *p >= '0' && *p <= '9' && number < EVENTS_MAX * 10u; p++)
            number = number * 10 + (unsigned)(*p - '0');
        found++;
        if (number == 0 || number > l->sent) {
            l->c.foreign++;
            continue;
        }
        if (bit_test_set(d->seen, number)) {
            l->c.repeated++;
            continue;
        }
        if (number < d->last)
            l->c.disordered++;
        else
            d->last = number;
        if (number == l->sent)
            l->latency_ns[l->arrived++] = now_ns() - l->sent_at;
    }
    return found;
}

static void listener_answered(struct load *l, struct listener *d)
{
    struct reply *r = &d->conn.reply;
    const char *body = r->data + r->body;
    if (r->status != 200) {
        l->c.bad_status++;
        l->last_bad_status = r->status;
        listener_retry(l, d, "an error answer");
        return;
    }
    char *next = json_string_after(body, r->body_len, "next_batch");
    if (next == NULL || r->body_len < 2 || body[0] != '{' || body[r->body_len - 1] != '}') {
        free(next);
        l->c.bad_replies++;
        listener_retry(l, d, "a body without next_batch");
        return;
    }
    bool initial = d->since == NULL;
    d->retries = 0;
    free(d->since);
    d->since = next;
    l->c.body_bytes += r->body_len;
    if (initial) {
        l->initial_ns[l->c.initial++] = now_ns() - d->asked_at;
        l->in_initial--;
        l->parked++;
    } else {
        if (listener_check(l, d, body, r->body_len) > 0)
            l->c.deltas++;
        else
            l->c.empties++;
        if (memmem(body, r->body_len, "\"limited\":true", 14) != NULL)
            l->c.limited++;
    }
    if (!l->o.initial_only)
        listener_ask(l, d);
}

static void publisher_answered(struct load *l)
{
    if (l->publisher.reply.status != 200)
        die(STATUS_ENVIRONMENT, "sending was answered with status %d: %.200s", l->publisher.reply.status,
            l->publisher.reply.data + l->publisher.reply.body);
    l->published = true;
    l->published_ns = now_ns() - l->sent_at;
}

/* The connection ended or broke. One that had served before may be closed between requests: ask again at
 * once. */
static void conn_lost(struct load *l, struct conn *c, bool bad)
{
    bool first = c->fresh;
    conn_close(c);
    if (c == &l->publisher) {
        if (!l->published && first)
            die(STATUS_ENVIRONMENT, "the homeserver's client API closed the connection");
        if (!l->published)
            conn_ask(l, c, need(strdup(c->out))); /* same transaction id: never a second message */
        return;
    }
    struct listener *d = (struct listener *)c;
    if (bad)
        l->c.bad_replies++;
    if (l->o.initial_only && d->since != NULL)
        return; /* it had its answer */
    l->c.reconnects++;
    listener_retry(l, d, "a closed connection");
}

static void conn_answered(struct load *l, struct conn *c)
{
    c->fresh = false;
    c->state = CONN_IDLE;
    if (c->reply.closes)
        conn_close(c);
    if (c == &l->publisher)
        publisher_answered(l);
    else
        listener_answered(l, (struct listener *)c);
}

static void conn_read(struct load *l, struct conn *c)
{
    for (;;) {
        size_t want = c->reply.left > 4096 ? (c->reply.left < 65536 ? c->reply.left : 65536) : 4096;
        char *room = reply_room(&c->reply, want);
        ssize_t n = recv(c->fd, room, want, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        enum reply_result result;
        if (n <= 0) {
            result = n == 0 && c->state == CONN_WAITING ? reply_eof(&c->reply) : REPLY_BAD;
            if (result == REPLY_BAD) {
                conn_lost(l, c, c->reply.len > 0);
                return;
            }
        } else {
            /* An answer nobody asked for is as bad as a malformed one. */
            result = c->state == CONN_WAITING ? reply_advance(&c->reply, (size_t)n) : REPLY_BAD;
        }
        if (result == REPLY_BAD) {
            conn_lost(l, c, true);
            return;
        }
        if (result == REPLY_DONE) {
            conn_answered(l, c);
            return;
        }
        if ((size_t)n < want)
            return;
    }
}

static void conn_ready(struct load *l, struct conn *c, uint32_t events)
{
    if (c->fd < 0)
        return;
    if (c->state == CONN_CONNECTING) {
        int error = 0;
        socklen_t size = sizeof(error);
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error != 0)
            die(STATUS_ENVIRONMENT, "connect to port %u: %s", c->port, strerror(error));
        c->state = CONN_SENDING;
        conn_write(l, c);
        return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        conn_read(l, c);
    else if (events & EPOLLOUT && c->out_off < c->out_len) {
        c->state = CONN_SENDING;
        conn_write(l, c);
    }
}

/* -- the loop
 * ----------------------------------------------------------------------------------------------------- */

static void repeat_due(struct load *l)
{
    uint64_t now = now_ns();
    for (unsigned i = 0; i < l->o.listeners && l->waiting_retry > 0; i++) {
        struct listener *d = &l->listeners[i];
        if (d->retry_at != 0 && d->retry_at <= now) {
            l->waiting_retry--;
            listener_ask(l, d);
        }
    }
}

static void start_due(struct load *l)
{
    while (l->start_next < l->start_end && l->in_initial < l->o.concurrency) {
        l->in_initial++;
        listener_ask(l, &l->listeners[l->start_next++]);
    }
}

/* Runs until done() says so or until `until`; true when done. */
static bool pump(struct load *l, bool (*done)(const struct load *), uint64_t until)
{
    struct epoll_event events[256];
    if (until > l->deadline)
        until = l->deadline;
    for (;;) {
        start_due(l);
        if (l->waiting_retry > 0)
            repeat_due(l);
        if (done != NULL && done(l))
            return true;
        uint64_t now = now_ns();
        if (now >= until)
            return false;
        uint64_t wait = (until - now) / ms + 1;
        int n = epoll_wait(l->epoll, events, 256, wait > 20 ? 20 : (int)wait);
        for (int i = 0; i < n; i++)
            conn_ready(l, events[i].data.ptr, events[i].events);
    }
}

/* Waits until the measured process has nothing more to do. Returns its CPU time at the beginning of the
 * quiet. */
static uint64_t settle(struct load *l)
{
    uint64_t until = now_ns() + (uint64_t)l->o.event_timeout_s * 1000 * ms;
    uint64_t cpu = process_cpu_ns(l->o.pid), quiet_cpu = cpu;
    if (l->o.pid == 0)
        return 0;
    for (unsigned quiet = 0; quiet < 2 && now_ns() < until && now_ns() < l->deadline;) {
        uint64_t begun = now_ns();
        pump(l, NULL, begun + quiet_sample_ns);
        uint64_t next = process_cpu_ns(l->o.pid);
        if ((double)(next - cpu) < quiet_share * (double)(now_ns() - begun))
            quiet++;
        else
            quiet = 0;
        if (quiet == 0)
            quiet_cpu = next;
        cpu = next;
    }
    return quiet_cpu;
}

static bool all_started(const struct load *l)
{
    return l->parked >= l->start_end;
}

static bool all_arrived(const struct load *l)
{
    return l->published && l->arrived >= l->o.listeners && l->waiting_retry == 0;
}

/* -- reports
 * ------------------------------------------------------------------------------------------------------ */

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Nearest rank; sorts. */
static double quantile_ms(uint64_t *values, size_t n, double q)
{
    if (n == 0)
        return 0;
    qsort(values, n, sizeof(*values), compare_u64);
    size_t rank = (size_t)(q * (double)n + 0.999999);
    return (double)values[rank > 0 ? (rank > n ? n : rank) - 1 : 0] / 1e6;
}

static uint64_t own_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Ends a line that the caller began, with what every mark carries, and waits for the go-ahead. */
static void finish_mark(struct load *l, uint64_t cpu)
{
    char line[16];
    printf(",\"cpu_ns\":%llu,\"rss\":%llu,\"own_cpu_ns\":%llu,\"at_ns\":%llu}\n", (unsigned long long)cpu,
           (unsigned long long)process_rss(l->o.pid), (unsigned long long)own_cpu_ns(),
           (unsigned long long)now_ns());
    fflush(stdout);
    if (l->o.pause && fgets(line, sizeof(line), stdin) == NULL)
        die(STATUS_ENVIRONMENT, "the caller went away");
}

static void mark(struct load *l, const char *name)
{
    printf("{\"mark\":\"%s\",\"parked\":%u", name, l->parked);
    finish_mark(l, process_cpu_ns(l->o.pid));
}

/* -- phases
 * ------------------------------------------------------------------------------------------------------- */

static void start_listeners(struct load *l, unsigned upto)
{
    uint64_t begun = now_ns(), cpu = process_cpu_ns(l->o.pid);
    unsigned from = (unsigned)l->c.initial;
    uint64_t bytes = l->c.body_bytes;
    l->start_end = upto;
    if (!pump(l, all_started, l->deadline))
        die(STATUS_ENVIRONMENT, "only %u of %u initial syncs were answered in time (last bad status %d)",
            l->parked, upto, l->last_bad_status);
    uint64_t took = now_ns() - begun;
    cpu = process_cpu_ns(l->o.pid) - cpu;
    unsigned n = upto - from;
    double first = n > 0 ? (double)l->initial_ns[from] / 1e6 : 0;
    printf("{\"initial\":%u,\"concurrency\":%u,\"seconds\":%.3f,\"cpu_ms\":%.3f,\"bytes\":%llu,\"first_ms\":%"
           ".3f",
           n, l->o.concurrency, (double)took / 1e9, (double)cpu / 1e6,
           (unsigned long long)(l->c.body_bytes - bytes), first);
    /* Without the first one, which finds every cache cold. */
    uint64_t *rest = l->initial_ns + from + (n > 1);
    size_t left = n - (n > 1);
    printf(",\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f}\n", quantile_ms(rest, left, 0.5),
           quantile_ms(rest, left, 0.99), quantile_ms(rest, left, 1));
    if (!l->o.initial_only)
        settle(l);
}

static void publish(struct load *l, unsigned number)
{
    char *out, *content, *pad = need(malloc(l->o.body_bytes + 1u));
    memset(pad, 'x', l->o.body_bytes);
    pad[l->o.body_bytes] = 0;
    int n = asprintf(&content, "{\"msgtype\":\"m.text\",\"body\":\"%s%u; %s\"}", l->marker, number, pad);
    free(pad);
    if (n < 0)
        die(STATUS_ENVIRONMENT, "out of memory");
    n = asprintf(
        &out,
        "PUT /_matrix/client/v3/rooms/%s/send/m.room.message/%s.%u HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n"
        "Authorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
        l->o.room, l->o.run, number, l->o.publish_port, l->publish_token, strlen(content), content);
    if (n < 0)
        die(STATUS_ENVIRONMENT, "out of memory");
    free(content);
    l->arrived = 0;
    l->published = false;
    l->sent = number;
    l->sent_at = now_ns();
    conn_ask(l, &l->publisher, out);
}

/* One message, from before its sending until every device has it and the process is quiet again. False: some
 * device did not get it in time. */
static bool one_event(struct load *l, unsigned number)
{
    struct counts before = l->c;
    printf("{\"mark\":\"before\",\"number\":%u,\"warm\":%s", number, number <= l->o.warm ? "true" : "false");
    finish_mark(l, process_cpu_ns(l->o.pid));
    uint64_t cpu = process_cpu_ns(l->o.pid), own = own_cpu_ns();
    publish(l, number);
    bool complete = pump(l, all_arrived, l->sent_at + (uint64_t)l->o.event_timeout_s * 1000 * ms);
    uint64_t complete_cpu = process_cpu_ns(l->o.pid), complete_own = own_cpu_ns();
    uint64_t end_cpu = settle(l);
    if (end_cpu < complete_cpu)
        end_cpu = complete_cpu;
    printf("{\"mark\":\"after\",\"number\":%u,\"warm\":%s,\"arrived\":%u,\"deltas\":%llu,\"empties\":%llu,"
           "\"bytes\":%llu",
           number, number <= l->o.warm ? "true" : "false", l->arrived,
           (unsigned long long)(l->c.deltas - before.deltas),
           (unsigned long long)(l->c.empties - before.empties),
           (unsigned long long)(l->c.body_bytes - before.body_bytes));
    printf(",\"send_ms\":%.3f,\"first_ms\":%.3f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"last_ms\":%.3f",
           (double)l->published_ns / 1e6, quantile_ms(l->latency_ns, l->arrived, 0),
           quantile_ms(l->latency_ns, l->arrived, 0.5), quantile_ms(l->latency_ns, l->arrived, 0.99),
           quantile_ms(l->latency_ns, l->arrived, 1));
    printf(",\"fan_cpu_ms\":%.4f,\"total_cpu_ms\":%.4f,\"own_cpu_ms\":%.4f",
           (double)(complete_cpu - cpu) / 1e6, (double)(end_cpu - cpu) / 1e6,
           (double)(complete_own - own) / 1e6);
    finish_mark(l, end_cpu);
    return complete;
}

static void count_lost(struct load *l)
{
    for (unsigned i = 0; i < l->o.listeners; i++)
        for (unsigned number = 1; number <= l->sent; number++)
            if (!((l->listeners[i].seen[number / 64] >> (number % 64)) & 1))
                l->c.lost++;
}

static int summary(struct load *l)
{
    const struct counts *c = &l->c;
    count_lost(l);
    uint64_t wrong = c->lost + c->repeated + c->disordered + c->foreign + c->limited + c->bad_status +
                     c->bad_replies + c->timeouts;
    printf("{\"summary\":true,\"listeners\":%u,\"sent\":%u,\"requests\":%llu,\"initial_syncs\":%llu,"
           "\"deltas\":%llu",
           l->parked, l->sent, (unsigned long long)c->requests, (unsigned long long)c->initial,
           (unsigned long long)c->deltas);
    printf(",\"empties\":%llu,\"reconnects\":%llu,\"bad_status\":%llu,\"bad_replies\":%llu",
           (unsigned long long)c->empties, (unsigned long long)c->reconnects,
           (unsigned long long)c->bad_status, (unsigned long long)c->bad_replies);
    printf(",\"lost\":%llu,\"repeated\":%llu,\"disordered\":%llu,\"foreign\":%llu,\"limited\":%llu,"
           "\"timeouts\":%llu,\"correct\":%s}\n",
           (unsigned long long)c->lost, (unsigned long long)c->repeated, (unsigned long long)c->disordered,
           (unsigned long long)c->foreign, (unsigned long long)c->limited, (unsigned long long)c->timeouts,
           wrong == 0 ? "true" : "false");
    fflush(stdout);
    return wrong == 0 ? 0 : STATUS_VIOLATION;
}

/* Samples of its own: what the caller reads at a mark costs the measured process CPU time too. */
static void idle(struct load *l)
{
    uint64_t begun = now_ns(), cpu = process_cpu_ns(l->o.pid);
    pump(l, NULL, begun + (uint64_t)l->o.idle_ms * ms);
    cpu = process_cpu_ns(l->o.pid) - cpu;
    printf("{\"idle_seconds\":%.3f,\"idle_cpu_ms\":%.4f}\n", (double)(now_ns() - begun) / 1e9,
           (double)cpu / 1e6);
}

static int run(struct load *l)
{
    if (l->o.initial_only) {
        start_listeners(l, l->o.listeners);
        return summary(l);
    }
    mark(l, "begin");
    /* In two halves: the second one's growth is the memory of its polls, without what a room costs once. */
    start_listeners(l, l->o.listeners / 2);
    mark(l, "half");
    start_listeners(l, l->o.listeners);
    mark(l, "parked");
    if (l->o.idle_ms > 0)
        idle(l);
    for (unsigned number = 1; number <= l->o.warm + l->o.events && l->c.timeouts < TIMEOUTS_MAX; number++)
        if (!one_event(l, number))
            l->c.timeouts++;
    /* An event that comes a second time may come late. */
    pump(l, NULL, now_ns() + (uint64_t)l->o.linger_ms * ms);
    mark(l, "end");
    return summary(l);
}

/* -- beginning and end
 * -------------------------------------------------------------------------------------------- */

static char *read_word(FILE *file, const char *path)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n = getline(&line, &cap, file);
    if (n <= 0)
        die(STATUS_USAGE, "%s has too few lines", path);
    line[strcspn(line, "\r\n \t")] = 0;
    if (line[0] == 0)
        die(STATUS_USAGE, "%s has an empty line", path);
    return line;
}

static FILE *open_file(const char *path)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        die(STATUS_USAGE, "%s: %s", path, strerror(errno));
    return file;
}

static char *percent_encode(const char *text)
{
    char *out = need(malloc(strlen(text) * 3 + 1)), *p = out;
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || strchr("-._~", c))
            *p++ = (char)c;
        else
            p += snprintf(p, 4, "%%%02X", c);
    }
    *p = 0;
    return out;
}

static void load_init(struct load *l)
{
    FILE *file = open_file(l->o.tokens_file);
    unsigned words = (l->o.events + l->o.warm + 64) / 64;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->listeners = need(calloc(l->o.listeners, sizeof(*l->listeners)));
    l->initial_ns = need(calloc(l->o.listeners, sizeof(*l->initial_ns)));
    l->latency_ns = need(calloc(l->o.listeners, sizeof(*l->latency_ns)));
    for (unsigned i = 0; i < l->o.listeners; i++) {
        struct listener *d = &l->listeners[i];
        d->conn = (struct conn){.fd = -1, .port = l->o.port, .source = 1 + i % l->o.sources};
        d->token = read_word(file, l->o.tokens_file);
        d->seen = need(calloc(words, sizeof(*d->seen)));
    }
    fclose(file);
    l->query_filter = percent_encode(l->o.filter);
    l->publisher = (struct conn){.fd = -1, .port = l->o.publish_port, .source = 1};
    l->published = true;
    if (!l->o.initial_only) {
        file = open_file(l->o.publish_token_file);
        l->publish_token = read_word(file, l->o.publish_token_file);
        fclose(file);
        l->o.room = percent_encode(l->o.room);
        snprintf(l->marker, sizeof(l->marker), "bench-%s-", l->o.run);
    }
    l->deadline = now_ns() + (uint64_t)l->o.total_timeout_s * 1000 * ms;
}

static void load_free(struct load *l)
{
    for (unsigned i = 0; i < l->o.listeners; i++) {
        struct listener *d = &l->listeners[i];
        conn_close(&d->conn);
        reply_free(&d->conn.reply);
        free(d->conn.out);
        free(d->token);
        free(d->since);
        free(d->seen);
    }
    conn_close(&l->publisher);
    reply_free(&l->publisher.reply);
    free(l->publisher.out);
    free(l->publish_token);
    if (!l->o.initial_only)
        free((char *)l->o.room); /* replaced by its encoded form */
    free(l->query_filter);
    free(l->listeners);
    free(l->initial_ns);
    free(l->latency_ns);
    close(l->epoll);
}

int main(int argc, char **argv)
{
    struct load l = {.o = read_options(argc, argv)};
    signal(SIGPIPE, SIG_IGN);
    load_init(&l);
    int status = run(&l);
    load_free(&l);
    return status;
}
