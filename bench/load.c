/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * A load generator for long polls: N devices, each with its own access token and connection. Every device
 * does an initial request and then long-polls; messages are published as a plan says (load_plan.c), one after
 * the other or at fixed times, through a homeserver's client API, through Redis, or through whatever else
 * takes the plan's bytes.
 *
 * It measures what some processes (--pid) spend on that, and it checks every answer: each device must get
 * each message of its rooms exactly once and in order (load_device.c).
 *
 * Some of them may stop reading in the middle of an answer, and come back later (load_stall.c).
 *
 * This process publishes, probes and reports; it forks workers, which listen: one for each WORKER_DEVICES,
 * because a process may hold only so many descriptors. They share a board (load.h). Times of arrival are the
 * kernel's stamps, so that a generator that lags behind is not mistaken for a slow server.
 *
 * Results are JSON lines on standard output; at every line with "mark" it can wait for a line on standard
 * input
 * (--pause), so that the caller reads other counters at exactly that point. Everything is bounded: counts by
 * options, every wait by a deadline.
 */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
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
#include <time.h>
#include <unistd.h>

enum { TIMEOUTS_MAX = 2, PROBE_MAX = 4096 };
static const uint64_t ms = 1000000u;
/* A process counts as quiet when it uses less than this share of one core ... */
static const double quiet_share = 0.03;
/* ... in two samples of this length in a row. */
static const uint64_t quiet_sample_ns = 150 * ms;

/* A connection of this process: blocking when written, not when read. */
struct client {
    int fd;
    uint16_t port;
    struct reply reply;
};

struct load {
    struct options o;
    struct plan plan;
    struct board *board;
    int epoll, kick[WORKERS_MAX], wake;
    pid_t workers[WORKERS_MAX];
    uint64_t deadline;   /* of the whole run */
    char **lines;        /* of the tokens file */
    struct stall *stall; /* NULL: nobody is to stall */
    bool back;           /* those who did have come back */
    /* what is published */
    struct client publisher;
    const struct record *asked, *queue, *queue_end; /* under way, and what waits for it; HTTP only */
    uint64_t asked_ns, publish_ns, publish_lag_ns;
    /* the probe */
    struct client probe;
    char probe_request[PROBE_MAX];
    bool probing, probe_asked;
    uint64_t probe_sent_ns, probe_due_ns;
    struct histogram probes;
    unsigned timeouts;
};

/* -- connections
 * --------------------------------------------------------------------------------------------------------------
 */

static void client_close(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    reply_free(&c->reply);
}

static void client_open(struct load *l, struct client *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(c->port)};
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    int one = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die(STATUS_ENVIRONMENT, "socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(c->fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof(one));
    if (connect(c->fd, (struct sockaddr *)&to, sizeof(to)) != 0)
        die(STATUS_ENVIRONMENT, "connect to port %u: %s", c->port, strerror(errno));
    if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &e) != 0)
        die(STATUS_ENVIRONMENT, "epoll_ctl: %s", strerror(errno));
}

static void client_send(struct load *l, struct client *c, const char *bytes, size_t len)
{
    if (c->fd < 0)
        client_open(l, c);
    while (len > 0) {
        ssize_t n = send(c->fd, bytes, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return; /* the read side reports what happened */
        bytes += n;
        len -= (size_t)n;
    }
}

/* Reads what there is; *stamp is the kernel's time of it. */
static enum reply_result client_read(struct client *c, uint64_t *stamp)
{
    union {
        struct cmsghdr align;
        char bytes[128];
    } control;
    struct iovec iov = {reply_room(&c->reply, 65536), 65536};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    struct timespec t;
    ssize_t n = recvmsg(c->fd, &m, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return REPLY_MORE;
    if (n <= 0)
        return n == 0 ? reply_eof(&c->reply) : REPLY_BAD;
    const struct cmsghdr *cmsg = CMSG_FIRSTHDR(&m);
    *stamp = wall_ns();
    if (cmsg != NULL && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SO_TIMESTAMPNS) {
        memcpy(&t, CMSG_DATA(cmsg), sizeof(t));
        *stamp = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    return reply_advance(&c->reply, (size_t)n);
}

/* -- publishing
 * --------------------------------------------------------------------------------------------------------------
 */

/* `due`: wall clock when it should have gone out; the devices' times count from there. */
static void publish_now(struct load *l, const struct record *record, uint64_t due)
{
    uint64_t now = wall_ns();
    if (now > due && now - due > l->publish_lag_ns)
        l->publish_lag_ns = now - due;
    if (record->number != 0) {
        l->board->sent_ns[record->number] = due;
        atomic_store(&l->board->sent, record->number);
    }
    l->asked_ns = now;
    l->asked = l->o.publisher == PUBLISHER_HTTP ? record : NULL;
    client_send(l, &l->publisher, record->bytes, record->len);
}

static void publisher_http_read(struct load *l)
{
    uint64_t stamp = 0;
    struct client *c = &l->publisher;
    bool first = c->reply.len == 0;
    enum reply_result result = client_read(c, &stamp);
    if (result == REPLY_MORE)
        return;
    if (result == REPLY_BAD) {
        bool served = first && l->publish_ns != 0;
        client_close(c);
        if (l->asked != NULL && !served)
            die(STATUS_ENVIRONMENT, "where messages are sent to closed the connection");
        if (l->asked != NULL) /* kept alive too long; the same transaction id: never a second message */
            client_send(l, c, l->asked->bytes, l->asked->len);
        return;
    }
    if (l->asked == NULL || c->reply.status < 200 || c->reply.status > 202)
        die(STATUS_ENVIRONMENT, "sending was answered with status %d: %.200s", c->reply.status,
            c->reply.data + c->reply.body);
    l->publish_ns = wall_ns() - l->asked_ns;
    l->asked = NULL;
    if (c->reply.closes)
        client_close(c);
    else
        reply_reset(&c->reply);
}

static void publisher_redis_read(struct load *l)
{
    char answer[4096];
    ssize_t n = recv(l->publisher.fd, answer, sizeof(answer), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || memchr(answer, '-', (size_t)n) != NULL)
        die(STATUS_ENVIRONMENT, "Redis %s", n <= 0 ? "closed the connection" : "answered with an error");
    l->publish_ns = wall_ns() - l->asked_ns;
}

/* -- the probe: a small request at fixed times on a connection of its own
 * --------------------------------------------------------------------------------------------------------------
 */

static void probe_init(struct load *l)
{
    char token[512] = "";
    FILE *file;
    if (l->o.probe_path == NULL)
        return;
    if (l->o.probe_token_file != NULL) {
        file = fopen(l->o.probe_token_file, "re");
        if (file == NULL || fgets(token, sizeof(token), file) == NULL)
            die(STATUS_USAGE, "the probe's token file cannot be read");
        fclose(file);
        token[strcspn(token, "\r\n \t")] = 0;
    }
    int n = snprintf(l->probe_request, sizeof(l->probe_request),
                     "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n%s%s\r\n\r\n", l->o.probe_path, l->o.port,
                     token[0] ? "Authorization: Bearer " : "X-Probe: 1", token);
    if (n < 0 || n >= (int)sizeof(l->probe_request))
        die(STATUS_USAGE, "--probe-path is too long");
}

static void probe_due(struct load *l)
{
    uint64_t now = wall_ns();
    if (l->probe_asked || !l->probing || now < l->probe_due_ns)
        return;
    l->probe_asked = true;
    l->probe_due_ns = now + (uint64_t)l->o.probe_us * 1000;
    if (l->probe.fd < 0)
        client_open(l, &l->probe);
    l->probe_sent_ns = wall_ns();
    client_send(l, &l->probe, l->probe_request, strlen(l->probe_request));
}

static void probe_read(struct load *l)
{
    uint64_t stamp = 0, interval = (uint64_t)l->o.probe_us * 1000;
    enum reply_result result = client_read(&l->probe, &stamp);
    if (result == REPLY_MORE)
        return;
    if (result == REPLY_BAD || l->probe.reply.status != 200)
        die(STATUS_ENVIRONMENT, "the probe was answered with status %d", l->probe.reply.status);
    l->probe_asked = false;
    if (l->probe.reply.closes)
        client_close(&l->probe);
    else
        reply_reset(&l->probe.reply);
    uint64_t took = stamp > l->probe_sent_ns ? stamp - l->probe_sent_ns : 0;
    histogram_add(&l->probes, took);
    /* Those that were not sent meanwhile would have waited, too. */
    for (; took > interval; took -= interval)
        histogram_add(&l->probes, took - interval);
}

/* -- the loop
 * --------------------------------------------------------------------------------------------------------------
 */

static void kick_workers(struct load *l)
{
    uint64_t one = 1;
    for (unsigned i = 0; i < l->o.workers; i++)
        if (write(l->kick[i], &one, sizeof(one)) != sizeof(one) && errno != EAGAIN)
            die(STATUS_ENVIRONMENT, "eventfd: %s", strerror(errno));
}

static void check_workers(void)
{
    int status;
    pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid > 0)
        die(WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : STATUS_ENVIRONMENT,
            "a worker ended early");
}

static void queue_due(struct load *l, uint64_t begun)
{
    while (l->queue < l->queue_end && l->asked == NULL && wall_ns() >= begun + l->queue->at_ns) {
        const struct record *record = l->queue++;
        publish_now(l, record, begun + record->at_ns);
    }
}

/* How long epoll may sleep: until the next record or probe is due, and never long. */
static uint64_t nap_ns(const struct load *l, uint64_t begun, uint64_t left)
{
    uint64_t now = wall_ns(), nap = left < 20 * ms ? left : 20 * ms;
    if (l->queue < l->queue_end && l->asked == NULL) {
        uint64_t due = begun + l->queue->at_ns;
        nap = due <= now ? 0 : due - now < nap ? due - now : nap;
    }
    if (l->probing && !l->probe_asked)
        nap = l->probe_due_ns <= now ? 0 : l->probe_due_ns - now < nap ? l->probe_due_ns - now : nap;
    return nap;
}

static void ready(struct load *l, void *who)
{
    uint64_t kicks;
    if (who == &l->probe)
        probe_read(l);
    else if (who == l->stall)
        stall_read(l->stall);
    else if (who == &l->publisher && l->o.publisher == PUBLISHER_HTTP)
        publisher_http_read(l);
    else if (who == &l->publisher)
        publisher_redis_read(l);
    else if (read(l->wake, &kicks, sizeof(kicks)) != sizeof(kicks) && errno != EAGAIN)
        die(STATUS_ENVIRONMENT, "eventfd: %s", strerror(errno));
}

/* Runs until done() says so or until `until`; true when done. `begun`: what the queue's times count from. */
static bool pump(struct load *l, bool (*done)(const struct load *), uint64_t until, uint64_t begun)
{
    struct epoll_event events[16];
    if (until > l->deadline)
        until = l->deadline;
    for (;;) {
        queue_due(l, begun);
        if (done != NULL && done(l))
            return true;
        probe_due(l);
        uint64_t now = now_ns();
        if (now >= until)
            return false;
        uint64_t nap = nap_ns(l, begun, until - now);
        struct timespec t = {.tv_sec = 0, .tv_nsec = (long)nap};
        int n = epoll_pwait2(l->epoll, events, 16, &t, NULL);
        for (int i = 0; i < n; i++)
            ready(l, events[i].data.ptr);
        if (n <= 0)
            check_workers();
    }
}

/* Waits until the measured processes have nothing more to do. Returns their CPU time at the beginning of the
 * quiet. */
static uint64_t settle(struct load *l)
{
    uint64_t until = now_ns() + (uint64_t)l->o.event_timeout_s * 1000 * ms;
    uint64_t cpu = target_cpu_ns(&l->o), quiet_cpu = cpu;
    if (l->o.pid_count == 0)
        return 0;
    for (unsigned quiet = 0; quiet < 2 && now_ns() < until && now_ns() < l->deadline;) {
        uint64_t begun = now_ns();
        pump(l, NULL, begun + quiet_sample_ns, 0);
        uint64_t next = target_cpu_ns(&l->o);
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

static unsigned sum_parked(const struct load *l)
{
    unsigned parked = 0;
    for (unsigned i = 0; i < l->o.workers; i++)
        parked += atomic_load(&l->board->workers[i].parked);
    return parked;
}

static bool all_started(const struct load *l)
{
    return sum_parked(l) >= atomic_load(&l->board->start_end);
}

static unsigned sum_arrived(const struct load *l, unsigned number)
{
    unsigned arrived = 0;
    for (unsigned i = 0; i < l->o.workers; i++)
        arrived += atomic_load(&l->board->workers[i].arrived[number]);
    return arrived;
}

static unsigned expected(const struct load *l, unsigned number)
{
    unsigned n = 0, room = l->plan.messages[number].room;
    for (unsigned i = 0; i < l->o.workers; i++) {
        const struct worker_board *w = &l->board->workers[i];
        n += w->room_devices[room] + (l->back ? w->room_stalled[room] : 0);
    }
    return n;
}

static bool none_retrying(const struct load *l)
{
    for (unsigned i = 0; i < l->o.workers; i++)
        if (atomic_load(&l->board->workers[i].retrying) > 0)
            return false;
    return true;
}

/* The last one sent has arrived everywhere, and every answer of the publisher is in. */
static bool last_arrived(const struct load *l)
{
    unsigned number = atomic_load(&l->board->sent);
    return l->asked == NULL && l->queue >= l->queue_end && sum_arrived(l, number) >= expected(l, number) &&
           none_retrying(l) && !l->probe_asked;
}

static bool arrived_from(const struct load *l, unsigned number)
{
    if (!last_arrived(l))
        return false;
    for (; number <= atomic_load(&l->board->sent); number++)
        if (sum_arrived(l, number) < expected(l, number))
            return false;
    return true;
}

static bool all_arrived(const struct load *l)
{
    return arrived_from(l, atomic_load(&l->board->measured));
}

/* What was there before the devices came is among it. */
static bool everything_arrived(const struct load *l)
{
    return arrived_from(l, 1);
}

static bool all_stuck(const struct load *l)
{
    return stall_settled(l->stall);
}

static bool none_stuck(const struct load *l)
{
    return stall_settled(l->stall) && stall_count(l->stall).stuck == 0;
}

/* -- reports
 * --------------------------------------------------------------------------------------------------------------
 */

static struct counts sum_counts(const struct load *l)
{
    struct counts sum = {0};
    _Static_assert(sizeof(sum) % sizeof(uint64_t) == 0, "all of them are counters");
    for (unsigned i = 0; i < l->o.workers; i++)
        for (size_t j = 0; j < sizeof(sum) / sizeof(uint64_t); j++)
            ((uint64_t *)&sum)[j] += ((const uint64_t *)&l->board->workers[i].c)[j];
    return sum;
}

static uint64_t all_own_cpu_ns(const struct load *l)
{
    uint64_t sum = own_cpu_ns();
    for (unsigned i = 0; i < l->o.workers; i++)
        sum += l->board->workers[i].cpu_ns;
    return sum;
}

static void print_stalled(const struct load *l)
{
    if (l->stall == NULL)
        return;
    struct stall_counts c = stall_count(l->stall);
    printf(",\"stuck\":%u,\"dropped\":%u,\"whole\":%u,\"answer_bytes\":%llu,\"taken_bytes\":%llu", c.stuck,
           c.dropped, c.whole, (unsigned long long)c.answer_bytes, (unsigned long long)c.taken_bytes);
    printf(",\"first_drop_ms\":%.3f,\"last_drop_ms\":%.3f", (double)c.first_drop_ns / 1e6,
           (double)c.last_drop_ns / 1e6);
}

/* Ends a line that the caller began, with what every mark carries, and waits for the go-ahead. */
static void finish_mark(struct load *l, uint64_t cpu)
{
    char line[16];
    print_stalled(l);
    printf(",\"cpu_ns\":%llu,\"rss\":%llu,\"own_cpu_ns\":%llu,\"at_ns\":%llu}\n", (unsigned long long)cpu,
           (unsigned long long)target_rss(&l->o), (unsigned long long)all_own_cpu_ns(l),
           (unsigned long long)now_ns());
    fflush(stdout);
    if (l->o.pause && fgets(line, sizeof(line), stdin) == NULL)
        die(STATUS_ENVIRONMENT, "the caller went away");
}

static void mark(struct load *l, const char *name)
{
    printf("{\"mark\":\"%s\",\"parked\":%u", name, sum_parked(l));
    finish_mark(l, target_cpu_ns(&l->o));
}

static void print_times(const struct histogram *h, const char *prefix)
{
    printf(",\"%sfirst_ms\":%.3f,\"%sp50_ms\":%.3f,\"%sp99_ms\":%.3f,\"%slast_ms\":%.3f,\"%scount\":%llu",
           prefix, (double)h->min_ns / 1e6, prefix, (double)histogram_quantile(h, 0.5) / 1e6, prefix,
           (double)histogram_quantile(h, 0.99) / 1e6, prefix, (double)h->max_ns / 1e6, prefix,
           (unsigned long long)h->count);
}

static void clear_times(struct load *l, unsigned measured)
{
    atomic_store(&l->board->measured, measured);
    for (unsigned i = 0; i < l->o.workers; i++) {
        histogram_clear(&l->board->workers[i].arrivals);
        atomic_store(&l->board->workers[i].last_read_ns, 0);
    }
    histogram_clear(&l->probes);
    l->publish_lag_ns = 0;
}

/* What one measured stretch was, from `before` on. Returns after the quiet. */
struct stretch {
    struct counts before;
    uint64_t cpu, own, begun_ns;
};

static struct stretch stretch_begin(struct load *l, unsigned measured)
{
    clear_times(l, measured);
    return (struct stretch){sum_counts(l), target_cpu_ns(&l->o), all_own_cpu_ns(l), wall_ns()};
}

static void stretch_end(struct load *l, const struct stretch *s)
{
    static struct histogram all;
    uint64_t complete_cpu = target_cpu_ns(&l->o), complete_own = all_own_cpu_ns(l), read_ns = 0;
    uint64_t end_cpu = settle(l);
    struct counts c = sum_counts(l);
    histogram_clear(&all);
    for (unsigned i = 0; i < l->o.workers; i++) {
        uint64_t last = atomic_load(&l->board->workers[i].last_read_ns);
        histogram_merge(&all, &l->board->workers[i].arrivals);
        read_ns = last > read_ns ? last : read_ns;
    }
    if (end_cpu < complete_cpu)
        end_cpu = complete_cpu;
    printf(",\"deltas\":%llu,\"messages\":%llu,\"empties\":%llu,\"bytes\":%llu",
           (unsigned long long)(c.deltas - s->before.deltas),
           (unsigned long long)(c.messages - s->before.messages),
           (unsigned long long)(c.empties - s->before.empties),
           (unsigned long long)(c.body_bytes - s->before.body_bytes));
    print_times(&all, "");
    print_times(&l->probes, "probe_");
    printf(",\"send_ms\":%.3f,\"lag_ms\":%.3f,\"read_ms\":%.3f", (double)l->publish_ns / 1e6,
           (double)l->publish_lag_ns / 1e6,
           read_ns > s->begun_ns ? (double)(read_ns - s->begun_ns) / 1e6 : 0);
    printf(",\"fan_cpu_ms\":%.4f,\"total_cpu_ms\":%.4f,\"own_cpu_ms\":%.4f",
           (double)(complete_cpu - s->cpu) / 1e6, (double)(end_cpu - s->cpu) / 1e6,
           (double)(complete_own - s->own) / 1e6);
    finish_mark(l, end_cpu);
}

/* -- phases
 * --------------------------------------------------------------------------------------------------------------
 */

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Nearest rank of sorted values. */
static double quantile_ms(const uint64_t *sorted, size_t n, double q)
{
    size_t rank = (size_t)(q * (double)n + 0.999999);
    return n == 0 ? 0 : (double)sorted[rank > 0 ? (rank > n ? n : rank) - 1 : 0] / 1e6;
}

static void start_listeners(struct load *l, unsigned upto)
{
    uint64_t begun = now_ns(), cpu = target_cpu_ns(&l->o), bytes = sum_counts(l).body_bytes;
    unsigned from = atomic_load(&l->board->start_end);
    atomic_store(&l->board->start_end, upto);
    kick_workers(l);
    if (!pump(l, all_started, l->deadline, 0))
        die(STATUS_ENVIRONMENT, "only %u of %u initial requests were answered in time", sum_parked(l), upto);
    uint64_t took = now_ns() - begun;
    cpu = target_cpu_ns(&l->o) - cpu;
    unsigned n = upto - from;
    uint64_t *times = l->board->initial_ns + from;
    double first = n > 0 ? (double)times[0] / 1e6 : 0;
    /* Without the first one, which finds every cache cold. */
    uint64_t *rest = times + (n > 1);
    size_t left = n - (n > 1);
    qsort(rest, left, sizeof(*rest), compare_u64);
    printf("{\"initial\":%u,\"concurrency\":%u,\"seconds\":%.3f,\"cpu_ms\":%.3f,\"bytes\":%llu,\"first_ms\":%"
           ".3f",
           n, l->o.concurrency, (double)took / 1e9, (double)cpu / 1e6,
           (unsigned long long)(sum_counts(l).body_bytes - bytes), first);
    printf(",\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f}\n", quantile_ms(rest, left, 0.5),
           quantile_ms(rest, left, 0.99), quantile_ms(rest, left, 1));
    fflush(stdout);
    if (!l->o.initial_only)
        settle(l);
}

static void probe_switch(struct load *l, bool on)
{
    l->probing = on && l->o.probe_path != NULL;
    l->probe_due_ns = 0;
}

/* One message, from before its sending until every device has it and the target is quiet again. */
static void one_message(struct load *l, const struct phase *phase, const struct record *record)
{
    bool warm = record->number < phase->first_number + phase->warm;
    printf("{\"mark\":\"before\",\"phase\":\"%s\",\"number\":%u,\"warm\":%s", phase->name, record->number,
           warm ? "true" : "false");
    finish_mark(l, target_cpu_ns(&l->o));
    struct stretch s = stretch_begin(l, record->number);
    probe_switch(l, true);
    publish_now(l, record, wall_ns());
    if (!pump(l, last_arrived, now_ns() + (uint64_t)l->o.event_timeout_s * 1000 * ms, 0))
        l->timeouts++;
    probe_switch(l, false);
    printf("{\"mark\":\"after\",\"phase\":\"%s\",\"number\":%u,\"warm\":%s,\"arrived\":%u", phase->name,
           record->number, warm ? "true" : "false", sum_arrived(l, record->number));
    stretch_end(l, &s);
}

static void closed_phase(struct load *l, const struct phase *phase)
{
    for (unsigned i = 0; i < phase->record_count && l->timeouts < TIMEOUTS_MAX; i++) {
        if (phase->records[i].number != 0)
            one_message(l, phase, &phase->records[i]);
        else
            publish_now(l, &phase->records[i], wall_ns());
    }
}

static void open_phase(struct load *l, const struct phase *phase)
{
    printf("{\"mark\":\"before\",\"phase\":\"%s\",\"number\":%u,\"warm\":false", phase->name,
           phase->first_number);
    finish_mark(l, target_cpu_ns(&l->o));
    struct stretch s = stretch_begin(l, phase->first_number);
    probe_switch(l, true);
    l->queue = phase->records;
    l->queue_end = phase->records + phase->record_count;
    uint64_t length = phase->record_count ? phase->records[phase->record_count - 1].at_ns : 0,
             begun = wall_ns();
    if (!pump(l, all_arrived, now_ns() + length + (uint64_t)l->o.event_timeout_s * 1000 * ms, begun))
        l->timeouts++;
    l->queue = l->queue_end = NULL;
    probe_switch(l, false);
    printf(
        "{\"mark\":\"after\",\"phase\":\"%s\",\"open\":true,\"warm\":false,\"sent\":%u,\"planned_ms\":%.3f,"
        "\"took_ms\":%.3f",
        phase->name, phase->last_number ? phase->last_number - phase->first_number + 1 : 0,
        (double)length / 1e6, (double)(wall_ns() - begun) / 1e6);
    stretch_end(l, &s);
}

/* From here on some have asked and do not read. */
static void stall_phase(struct load *l)
{
    if (l->stall == NULL)
        die(STATUS_USAGE, "the plan wants devices that stall: --stalled");
    stall_begin(l->stall);
    if (!pump(l, all_stuck, now_ns() + (uint64_t)l->o.event_timeout_s * 1000 * ms, 0))
        l->timeouts++;
    settle(l);
    mark(l, "stalled");
}

/* They are dropped, or not: that is for the caller to judge. Then they come back with the token that they
 * asked with, and everything that was said must be in what they get. */
static void back_phase(struct load *l)
{
    if (l->stall == NULL)
        die(STATUS_USAGE, "the plan wants devices that come back: --stalled");
    pump(l, none_stuck, now_ns() + (uint64_t)l->o.event_timeout_s * 1000 * ms, 0);
    mark(l, "dropped");
    stall_end(l->stall);
    l->back = true;
    start_listeners(l, all_devices(&l->o));
    if (!pump(l, everything_arrived, now_ns() + (uint64_t)l->o.event_timeout_s * 1000 * ms, 0))
        l->timeouts++;
    mark(l, "back");
}

/* Samples of its own: what the caller reads at a mark costs the measured process CPU time too. */
static void idle(struct load *l)
{
    uint64_t begun = now_ns(), cpu = target_cpu_ns(&l->o);
    pump(l, NULL, begun + (uint64_t)l->o.idle_ms * ms, 0);
    cpu = target_cpu_ns(&l->o) - cpu;
    printf("{\"idle_seconds\":%.3f,\"idle_cpu_ms\":%.4f", (double)(now_ns() - begun) / 1e9,
           (double)cpu / 1e6);
    histogram_clear(&l->probes);
    probe_switch(l, true);
    if (l->probing)
        pump(l, NULL, now_ns() + 500 * ms, 0);
    probe_switch(l, false);
    pump(l, NULL, now_ns() + 20 * ms, 0);
    print_times(&l->probes, "probe_");
    printf("}\n");
}

static void stop_workers(struct load *l)
{
    atomic_store(&l->board->stop, true);
    kick_workers(l);
    for (unsigned i = 0; i < l->o.workers; i++) {
        int status = 0;
        if (waitpid(l->workers[i], &status, 0) != l->workers[i] || !WIFEXITED(status) ||
            WEXITSTATUS(status) != 0)
            die(STATUS_ENVIRONMENT, "a worker failed at the end");
    }
}

static int summary(struct load *l)
{
    stop_workers(l); /* they count what was lost */
    struct counts c = sum_counts(l);
    uint64_t wrong = c.lost + c.repeated + c.disordered + c.foreign + c.limited + c.bad_status +
                     c.bad_replies + l->timeouts;
    printf("{\"summary\":true,\"listeners\":%u,\"sent\":%u,\"requests\":%llu,\"initial_syncs\":%llu,"
           "\"deltas\":%llu",
           sum_parked(l), atomic_load(&l->board->sent), (unsigned long long)c.requests,
           (unsigned long long)c.initial, (unsigned long long)c.deltas);
    printf(",\"messages\":%llu,\"empties\":%llu,\"reconnects\":%llu,\"bad_status\":%llu,\"bad_replies\":%llu",
           (unsigned long long)c.messages, (unsigned long long)c.empties, (unsigned long long)c.reconnects,
           (unsigned long long)c.bad_status, (unsigned long long)c.bad_replies);
    printf(",\"lost\":%llu,\"repeated\":%llu,\"disordered\":%llu,\"foreign\":%llu,\"limited\":%llu,"
           "\"timeouts\":%u,\"correct\":%s}\n",
           (unsigned long long)c.lost, (unsigned long long)c.repeated, (unsigned long long)c.disordered,
           (unsigned long long)c.foreign, (unsigned long long)c.limited, l->timeouts,
           wrong == 0 ? "true" : "false");
    fflush(stdout);
    return wrong == 0 ? 0 : STATUS_VIOLATION;
}

static int run(struct load *l)
{
    if (l->o.initial_only) {
        mark(l, "begin");
        start_listeners(l, l->o.listeners);
        mark(l, "parked");
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
    for (unsigned i = 0; i < l->plan.phase_count && l->timeouts < TIMEOUTS_MAX; i++) {
        const struct phase *phase = &l->plan.phases[i];
        switch (phase->kind) {
        case PHASE_CLOSED:
            closed_phase(l, phase);
            break;
        case PHASE_OPEN:
            open_phase(l, phase);
            break;
        case PHASE_STALL:
            stall_phase(l);
            break;
        case PHASE_BACK:
            back_phase(l);
            break;
        }
    }
    /* An event that comes a second time may come late. */
    pump(l, NULL, now_ns() + (uint64_t)l->o.linger_ms * ms, 0);
    mark(l, "end");
    return summary(l);
}

/* -- beginning and end
 * --------------------------------------------------------------------------------------------------------------
 */

static void read_lines(struct load *l)
{
    FILE *file = fopen(l->o.tokens_file, "re");
    if (file == NULL)
        die(STATUS_USAGE, "%s: %s", l->o.tokens_file, strerror(errno));
    l->lines = need(calloc(all_devices(&l->o), sizeof(*l->lines)));
    for (unsigned i = 0; i < all_devices(&l->o); i++) {
        size_t cap = 0;
        if (getline(&l->lines[i], &cap, file) <= 0)
            die(STATUS_USAGE, "%s has too few lines", l->o.tokens_file);
        l->lines[i][strcspn(l->lines[i], "\r\n")] = 0;
    }
    fclose(file);
}

static void *shared(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        die(STATUS_ENVIRONMENT, "shared memory: %s", strerror(errno));
    return memory;
}

static int event_fd(void)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0)
        die(STATUS_ENVIRONMENT, "eventfd: %s", strerror(errno));
    return fd;
}

static void pin(int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (core < 0)
        return;
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0)
        die(STATUS_ENVIRONMENT, "core %d: %s", core, strerror(errno));
}

static void fork_workers(struct load *l)
{
    unsigned all = all_devices(&l->o), share = (all + l->o.workers - 1) / l->o.workers;
    fflush(stdout);
    for (unsigned i = 0; i < l->o.workers; i++) {
        unsigned from = i * share < all ? i * share : all;
        unsigned left = all - from;
        struct worker_setup setup = {.o = &l->o,
                                     .plan = &l->plan,
                                     .board = l->board,
                                     .own = &l->board->workers[i],
                                     .lines = l->lines,
                                     .from = from,
                                     .count = left < share ? left : share,
                                     .concurrency = (l->o.concurrency + l->o.workers - 1) / l->o.workers,
                                     .kick = l->kick[i],
                                     .wake = l->wake,
                                     .deadline = l->deadline};
        l->workers[i] = fork();
        if (l->workers[i] < 0)
            die(STATUS_ENVIRONMENT, "fork: %s", strerror(errno));
        if (l->workers[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            _exit(worker_run(&setup));
        }
    }
}

static void load_init(struct load *l)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    pin(l->o.core);
    plan_read(&l->plan, l->o.plan_file);
    read_lines(l);
    l->board = shared(sizeof(*l->board));
    l->board->initial_ns = shared(all_devices(&l->o) * sizeof(uint64_t));
    l->board->workers = shared(l->o.workers * sizeof(struct worker_board));
    atomic_store(&l->board->sent, l->plan.past);
    l->wake = event_fd();
    for (unsigned i = 0; i < l->o.workers; i++)
        l->kick[i] = event_fd();
    l->publisher = (struct client){.fd = -1, .port = l->o.publish_port};
    l->probe = (struct client){.fd = -1, .port = l->o.port};
    probe_init(l);
    l->deadline = now_ns() + (uint64_t)l->o.total_timeout_s * 1000 * ms;
    fork_workers(l);
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = l};
    if (l->epoll < 0 || epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->wake, &e) != 0)
        die(STATUS_ENVIRONMENT, "epoll: %s", strerror(errno));
    if (l->o.stalled == 0)
        return;
    l->stall = stall_new(&l->o, l->lines + l->o.listeners);
    e.data.ptr = l->stall;
    if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, stall_epoll(l->stall), &e) != 0)
        die(STATUS_ENVIRONMENT, "epoll: %s", strerror(errno));
}

static void load_free(struct load *l)
{
    stall_free(l->stall);
    for (unsigned i = 0; i < all_devices(&l->o); i++)
        free(l->lines[i]);
    free(l->lines);
    client_close(&l->publisher);
    client_close(&l->probe);
    plan_free(&l->plan);
    for (unsigned i = 0; i < l->o.workers; i++)
        close(l->kick[i]);
    close(l->wake);
    close(l->epoll);
}

int main(int argc, char **argv)
{
    static struct load l;
    l.o = read_options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    load_init(&l);
    int status = run(&l);
    load_free(&l);
    return status;
}
