/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * A worker of the load generator: some thousand devices, each with its own access token and connection, that
 * do an initial request and then long-poll, following next_batch.
 *
 * It checks every answer. A message carries "bench-RUN-NUMBER;" in its body, and the plan tells the room of
 * each number and its place within the room. A device keeps a bitmap for each of its rooms. Lost, repeated,
 * out of order and unknown numbers and truncated timelines are counted apart.
 *
 * Cost: an answer that comes in one piece, as nearly all do, is parsed where it was read, in one buffer for
 * all; the next request is put together on the stack. An idle device owns no buffer. What remains is
 * recvmsg(), sendto() and a share of epoll_wait().
 */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { RETRIES_MAX = 20, SCRATCH_BYTES = 1 << 18, EVENTS_AT_ONCE = 128 };
static const uint64_t ms = 1000000u;

enum conn_state { CONN_IDLE, CONN_CONNECTING, CONN_SENDING, CONN_WAITING };

/* A room of a device. */
struct slot {
    unsigned room;
    unsigned last;  /* greatest place seen */
    uint64_t *seen; /* by place */
};

struct device {
    int fd;
    uint8_t state;
    bool fresh;  /* nothing was answered on this connection yet */
    bool is_new; /* its first answer is still to come */
    bool given;  /* began with a token that was given */
    uint16_t retries, slot_count, since_cap;
    char *token;
    char *since; /* NULL: none yet. nchan: entity tag, NUL, time */
    char *out;   /* the part of a request that the socket did not take */
    size_t out_len, out_off;
    struct reply reply; /* an answer that came in pieces */
    struct slot *slots;
    uint64_t asked_ns, retry_at;
};

struct worker {
    const struct worker_setup *s;
    struct worker_board *b;
    int epoll;
    struct device *devices;
    unsigned started, in_initial;
    char *query_filter, *scratch;
    char marker[64];
    size_t marker_len;
    uint64_t arrived_ns; /* kernel's stamp of what is being read */
    bool moved;          /* the last answer's position is another than the one asked with */
};

static void device_ask(struct worker *w, struct device *d);

/* -- connections
 * --------------------------------------------------------------------------------------------------------------
 */

static void device_close(struct device *d)
{
    if (d->fd >= 0)
        close(d->fd);
    d->fd = -1;
    d->state = CONN_IDLE;
    free(d->out);
    d->out = NULL;
    d->out_len = d->out_off = 0;
    reply_free(&d->reply);
}

static void device_watch(struct worker *w, struct device *d, uint32_t events, int how)
{
    struct epoll_event e = {.events = events, .data.ptr = d};
    if (epoll_ctl(w->epoll, how, d->fd, &e) != 0)
        die(STATUS_ENVIRONMENT, "epoll_ctl: %s", strerror(errno));
}

int device_socket(const struct options *o, unsigned index, int more)
{
    struct sockaddr_in from = {.sin_family = AF_INET};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | more, 0);
    from.sin_addr.s_addr = htonl((INADDR_LOOPBACK & ~0xffu) + 1 + index % o->sources);
    if (fd < 0)
        die(STATUS_ENVIRONMENT, "socket: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof(one));
    /* The port is chosen at connect, so that one source address serves many destinations. */
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&from, sizeof(from)) != 0)
        die(STATUS_ENVIRONMENT, "bind to a source address: %s", strerror(errno));
    return fd;
}

static unsigned device_index(const struct worker *w, const struct device *d)
{
    return w->s->from + (unsigned)(d - w->devices);
}

static void device_open(struct worker *w, struct device *d)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(w->s->o->port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    d->fd = device_socket(w->s->o, device_index(w, d), SOCK_NONBLOCK);
    d->fresh = true;
    d->state = CONN_CONNECTING;
    if (connect(d->fd, (struct sockaddr *)&to, sizeof(to)) != 0 && errno != EINPROGRESS)
        die(STATUS_ENVIRONMENT, "connect to port %u: %s", w->s->o->port, strerror(errno));
    device_watch(w, d, EPOLLOUT, EPOLL_CTL_ADD);
}

/* What is left over of a request. */
static void device_write(struct worker *w, struct device *d)
{
    while (d->out_off < d->out_len) {
        ssize_t n = send(d->fd, d->out + d->out_off, d->out_len - d->out_off, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            d->state = CONN_SENDING;
            device_watch(w, d, EPOLLOUT | EPOLLIN, EPOLL_CTL_MOD);
            return;
        }
        if (n < 0)
            break; /* the read side reports what happened */
        d->out_off += (size_t)n;
    }
    free(d->out);
    d->out = NULL;
    d->out_len = d->out_off = 0;
    device_watch(w, d, EPOLLIN, EPOLL_CTL_MOD);
    d->state = CONN_WAITING;
}

static void device_keep_out(struct device *d, const char *bytes, size_t len)
{
    d->out = need(malloc(len));
    memcpy(d->out, bytes, len);
    d->out_len = len;
    d->out_off = 0;
}

static void device_send(struct worker *w, struct device *d, const char *bytes, size_t len)
{
    w->b->c.requests++;
    if (d->fd < 0) {
        device_keep_out(d, bytes, len);
        device_open(w, d);
        return;
    }
    d->state = CONN_WAITING; /* EPOLLIN is what is being watched already */
    ssize_t n = send(d->fd, bytes, len, MSG_NOSIGNAL);
    if (n == (ssize_t)len || (n < 0 && errno != EAGAIN))
        return;
    size_t taken = n > 0 ? (size_t)n : 0;
    device_keep_out(d, bytes + taken, len - taken);
    device_write(w, d);
}

/* -- requests
 * --------------------------------------------------------------------------------------------------------------
 */

static char *put(char *p, const char *text)
{
    size_t n = strlen(text);
    memcpy(p, text, n);
    return p + n;
}

char *sync_request(char *to, const struct options *o, const char *query_filter, const char *token,
                   const char *since, unsigned timeout_ms)
{
    char *p = put(to, "GET ");
    p = put(p, o->path);
    p = put(p, "?filter=");
    p = put(p, query_filter);
    p += snprintf(p, 128, "&timeout=%u", timeout_ms);
    p = put(p, o->params);
    if (since != NULL) {
        p = put(p, "&since=");
        p = put(p, since);
    }
    p += snprintf(p, 128, " HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nAuthorization: Bearer ", o->port);
    p = put(p, token);
    return put(p, "\r\n\r\n");
}

static char *put_nchan(const struct worker *w, const struct device *d, char *p)
{
    const struct options *o = w->s->o;
    p = put(p, "GET ");
    p = put(p, o->path);
    p += snprintf(p, 128, " HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n", o->port);
    if (d->since != NULL) {
        p = put(p, "If-None-Match: ");
        p = put(p, d->since);
        p = put(p, "\r\nIf-Modified-Since: ");
        p = put(p, d->since + strlen(d->since) + 1);
        p = put(p, "\r\n");
    }
    return put(p, "\r\n");
}

static void device_ask(struct worker *w, struct device *d)
{
    char request[REQUEST_MAX];
    d->retry_at = 0;
    if (d->is_new && d->asked_ns == 0)
        d->asked_ns = now_ns();
    const struct options *o = w->s->o;
    char *end = o->protocol == PROTOCOL_NCHAN ? put_nchan(w, d, request)
                                              : sync_request(request, o, w->query_filter, d->token, d->since,
                                                             d->is_new ? 0 : o->poll_timeout_ms);
    device_send(w, d, request, (size_t)(end - request));
}

static void device_retry(struct worker *w, struct device *d, const char *why)
{
    if (++d->retries > RETRIES_MAX)
        die(STATUS_ENVIRONMENT, "a device failed %u times, last: %s (status %d)", d->retries, why,
            w->b->last_bad_status);
    d->retry_at = now_ns() + 100 * ms;
    atomic_fetch_add(&w->b->retrying, 1);
}

/* -- answers
 * --------------------------------------------------------------------------------------------------------------
 */

static bool bit_test_set(uint64_t *bits, unsigned i)
{
    bool was = (bits[i / 64] >> (i % 64)) & 1;
    bits[i / 64] |= (uint64_t)1 << (i % 64);
    return was;
}

static struct slot *device_slot(struct device *d, unsigned room)
{
    for (unsigned i = 0; i < d->slot_count; i++)
        if (d->slots[i].room == room)
            return &d->slots[i];
    return NULL;
}

/* Everybody here has it: the parent may want to know at once. */
static void worker_wake_parent(const struct worker *w)
{
    uint64_t one = 1;
    if (write(w->s->wake, &one, sizeof(one)) != sizeof(one) && errno != EAGAIN)
        die(STATUS_ENVIRONMENT, "eventfd: %s", strerror(errno));
}

static void device_message(struct worker *w, struct device *d, unsigned number)
{
    const struct plan *plan = w->s->plan;
    struct board *board = w->s->board;
    struct slot *slot = NULL;
    if (number > 0 && number <= plan->numbers && number <= atomic_load(&board->sent))
        slot = device_slot(d, plan->messages[number].room);
    if (slot == NULL) {
        w->b->c.foreign++;
        return;
    }
    unsigned seq = plan->messages[number].seq;
    if (bit_test_set(slot->seen, seq)) {
        w->b->c.repeated++;
        return;
    }
    if (seq < slot->last)
        w->b->c.disordered++;
    else
        slot->last = seq;
    w->b->c.messages++;
    if (number > plan->past && number >= atomic_load(&board->measured)) {
        uint64_t sent = board->sent_ns[number];
        histogram_add(&w->b->arrivals, w->arrived_ns > sent ? w->arrived_ns - sent : 0);
    }
    unsigned arrived = atomic_load_explicit(&w->b->arrived[number], memory_order_relaxed) + 1;
    atomic_store(&w->b->arrived[number], arrived);
    unsigned listening = w->b->room_devices[slot->room];
    if (arrived == listening || arrived == listening + w->b->room_stalled[slot->room]) {
        atomic_store(&w->b->last_read_ns, wall_ns());
        worker_wake_parent(w);
    }
}

/* Every marker in the body, in order. Returns how many there were. */
static unsigned device_check(struct worker *w, struct device *d, const char *body, size_t len)
{
    const char *p = body, *end = body + len;
    unsigned found = 0;
    while ((p = memmem(p, (size_t)(end - p), w->marker, w->marker_len)) != NULL) {
        unsigned number = 0;
        for (p += w->marker_len; p < end && *p >= '0' && *p <= '9' && number < NUMBERS_MAX * 10u; p++)
            number = number * 10 + (unsigned)(*p - '0');
        found++;
        device_message(w, d, number);
    }
    return found;
}

/* Remembers where to go on from; false when the answer does not say. */
static bool device_follow(struct worker *w, struct device *d, const struct reply *r)
{
    const char *body = r->data + r->body;
    struct span a, b = {"", 0};
    if (w->s->o->protocol == PROTOCOL_SYNC) {
        if (r->body_len < 2 || body[0] != '{' || body[r->body_len - 1] != '}')
            return false;
        a = json_string_after(body, r->body_len, "next_batch");
    } else {
        a = reply_header(r, "etag");
        b = reply_header(r, "last-modified");
    }
    if (a.p == NULL || b.p == NULL)
        return false;
    size_t want = a.n + b.n + 2;
    if (want > REQUEST_MAX / 4)
        return false;
    if (want > d->since_cap) {
        bool none = d->since == NULL;
        d->since = need(realloc(d->since, want + 32));
        d->since_cap = (uint16_t)(want + 32);
        if (none)
            d->since[0] = 0;
    }
    w->moved = strlen(d->since) != a.n || memcmp(d->since, a.p, a.n) != 0;
    memcpy(d->since, a.p, a.n);
    d->since[a.n] = 0;
    memcpy(d->since + a.n + 1, b.p, b.n);
    d->since[a.n + 1 + b.n] = 0;
    return true;
}

static void device_first_answer(struct worker *w, struct device *d)
{
    w->s->board->initial_ns[device_index(w, d)] = now_ns() - d->asked_ns;
    d->is_new = false;
    w->b->c.initial++;
    w->in_initial--;
    if (atomic_fetch_add(&w->b->parked, 1) + 1 == w->started)
        worker_wake_parent(w);
}

static void device_answered(struct worker *w, struct device *d, const struct reply *r)
{
    const char *body = r->data + r->body;
    d->fresh = false;
    d->state = CONN_IDLE;
    if (r->status != 200) {
        w->b->c.bad_status++;
        w->b->last_bad_status = r->status;
        device_retry(w, d, "an error answer");
        return;
    }
    bool first = d->is_new;
    if (!device_follow(w, d, r)) {
        w->b->c.bad_replies++;
        device_retry(w, d, "an answer without a position");
        return;
    }
    w->b->c.body_bytes += r->body_len;
    /* A server that is too busy may answer nothing, with the same position: what was missed is still to come.
     */
    if (first && d->given && w->s->o->initial_only && w->s->plan->past > 0 && !w->moved) {
        w->b->c.empties++;
        device_retry(w, d, "an answer that leads nowhere");
        return;
    }
    d->retries = 0;
    /* What an initial answer contains is no delta; one to a token that was given contains what was missed. */
    if (!first || d->given) {
        if (device_check(w, d, body, r->body_len) > 0)
            w->b->c.deltas++;
        else
            w->b->c.empties++;
        if (memmem(body, r->body_len, "\"limited\":true", 14) != NULL)
            w->b->c.limited++;
    }
    if (first)
        device_first_answer(w, d);
}

/* The connection ended or broke. One that had served before may be closed between requests: ask again at
 * once. */
static void device_lost(struct worker *w, struct device *d, bool bad)
{
    device_close(d);
    if (bad)
        w->b->c.bad_replies++;
    if (w->s->o->initial_only && !d->is_new)
        return; /* it had its answer */
    w->b->c.reconnects++;
    device_retry(w, d, "a closed connection");
}

/* -- reading
 * --------------------------------------------------------------------------------------------------------------
 */

/* recv() that notes the kernel's stamp of the bytes. */
static ssize_t stamped_recv(struct worker *w, int fd, char *to, size_t want)
{
    union {
        struct cmsghdr align;
        char bytes[128];
    } control;
    struct iovec iov = {to, want};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(fd, &m, 0);
    if (n <= 0)
        return n;
    const struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    struct timespec t;
    if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPNS) {
        memcpy(&t, CMSG_DATA(c), sizeof(t));
        w->arrived_ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    } else {
        w->arrived_ns = wall_ns();
    }
    return n;
}

/* The answer is complete in r. */
static void device_done(struct worker *w, struct device *d, struct reply *r)
{
    device_answered(w, d, r);
    if (r->closes && d->fd >= 0)
        device_close(d);
    else if (r == &d->reply)
        reply_free(r);
    if (d->retry_at == 0 && !w->s->o->initial_only)
        device_ask(w, d);
}

/* The end of the connection, or an error. */
static void device_eof(struct worker *w, struct device *d, bool orderly)
{
    if (orderly && d->state == CONN_WAITING && reply_eof(&d->reply) == REPLY_DONE)
        device_done(w, d, &d->reply);
    else
        device_lost(w, d, d->reply.len > 0);
}

/* The rest of an answer whose beginning came before. */
static void device_read_more(struct worker *w, struct device *d)
{
    for (;;) {
        size_t want = d->reply.left > 4096 ? (d->reply.left < 65536 ? d->reply.left : 65536) : 4096;
        char *room = reply_room(&d->reply, want);
        ssize_t n = stamped_recv(w, d->fd, room, want);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            device_eof(w, d, n == 0);
            return;
        }
        enum reply_result result = reply_advance(&d->reply, (size_t)n);
        if (result == REPLY_BAD)
            device_lost(w, d, true);
        else if (result == REPLY_DONE)
            device_done(w, d, &d->reply);
        if (result != REPLY_MORE || (size_t)n < want)
            return;
    }
}

static void device_read(struct worker *w, struct device *d)
{
    if (d->reply.len > 0) {
        device_read_more(w, d);
        return;
    }
    struct reply r = {.data = w->scratch, .cap = SCRATCH_BYTES};
    ssize_t n = stamped_recv(w, d->fd, r.data, SCRATCH_BYTES);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        device_eof(w, d, n == 0);
        return;
    }
    /* An answer nobody asked for is as bad as a malformed one. */
    enum reply_result result = d->state == CONN_WAITING ? reply_advance(&r, (size_t)n) : REPLY_BAD;
    if (result == REPLY_BAD) {
        device_lost(w, d, true);
    } else if (result == REPLY_DONE) {
        device_done(w, d, &r);
    } else {
        struct reply own = r;
        own.cap = r.len + 4096;
        own.data = need(malloc(own.cap));
        memcpy(own.data, r.data, r.len);
        d->reply = own;
    }
}

static void device_ready(struct worker *w, struct device *d, uint32_t events)
{
    if (d->fd < 0)
        return;
    if (d->state == CONN_CONNECTING) {
        int error = 0;
        socklen_t size = sizeof(error);
        getsockopt(d->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error != 0)
            die(STATUS_ENVIRONMENT, "connect to port %u: %s", w->s->o->port, strerror(error));
        device_write(w, d);
        return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        device_read(w, d);
    else if (events & EPOLLOUT && d->out != NULL)
        device_write(w, d);
}

/* -- the loop
 * --------------------------------------------------------------------------------------------------------------
 */

static void start_due(struct worker *w)
{
    unsigned end = atomic_load(&w->s->board->start_end);
    unsigned upto = end > w->s->from ? end - w->s->from : 0;
    if (upto > w->s->count)
        upto = w->s->count;
    while (w->started < upto && w->in_initial < w->s->concurrency) {
        w->in_initial++;
        device_ask(w, &w->devices[w->started++]);
    }
}

static void repeat_due(struct worker *w)
{
    uint64_t now = now_ns();
    for (unsigned i = 0; i < w->s->count && atomic_load(&w->b->retrying) > 0; i++) {
        struct device *d = &w->devices[i];
        if (d->retry_at != 0 && d->retry_at <= now) {
            atomic_fetch_sub(&w->b->retrying, 1);
            device_ask(w, d);
        }
    }
}

static void worker_loop(struct worker *w)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    while (!atomic_load(&w->s->board->stop)) {
        start_due(w);
        if (atomic_load(&w->b->retrying) > 0)
            repeat_due(w);
        if (now_ns() > w->s->deadline + 10000 * ms)
            die(STATUS_ENVIRONMENT, "the run took too long");
        int n = epoll_wait(w->epoll, events, EVENTS_AT_ONCE, atomic_load(&w->b->retrying) > 0 ? 20 : 500);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr != NULL) {
                device_ready(w, events[i].data.ptr, events[i].events);
                continue;
            }
            uint64_t kicks;
            if (read(w->s->kick, &kicks, sizeof(kicks)) != sizeof(kicks) && errno != EAGAIN)
                die(STATUS_ENVIRONMENT, "eventfd: %s", strerror(errno));
        }
        w->b->cpu_ns = own_cpu_ns();
    }
}

static void count_lost(struct worker *w)
{
    const struct plan *plan = w->s->plan;
    unsigned sent = atomic_load(&w->s->board->sent);
    unsigned *sent_in_room = need(calloc(plan->rooms, sizeof(*sent_in_room)));
    for (unsigned number = 1; number <= sent; number++)
        sent_in_room[plan->messages[number].room]++;
    for (unsigned i = 0; i < w->started; i++) {
        const struct device *d = &w->devices[i];
        if (d->is_new)
            continue;
        for (unsigned j = 0; j < d->slot_count; j++) {
            const struct slot *slot = &d->slots[j];
            for (unsigned seq = 1; slot->room < plan->rooms && seq <= sent_in_room[slot->room]; seq++)
                if (!((slot->seen[seq / 64] >> (seq % 64)) & 1))
                    w->b->c.lost++;
        }
    }
    free(sent_in_room);
}

/* -- beginning and end
 * --------------------------------------------------------------------------------------------------------------
 */

static void slot_init(struct worker *w, struct device *d, unsigned room)
{
    const struct plan *plan = w->s->plan;
    if (room >= ROOMS_MAX)
        die(STATUS_USAGE, "%s: a room's number is too high", w->s->o->tokens_file);
    unsigned words = (room < plan->rooms ? plan->room_seqs[room] : 0) / 64 + 1;
    d->slots = need(realloc(d->slots, (d->slot_count + 1u) * sizeof(*d->slots)));
    d->slots[d->slot_count++] = (struct slot){room, 0, need(calloc(words, sizeof(uint64_t)))};
    if (device_index(w, d) < w->s->o->listeners)
        w->b->room_devices[room]++;
    else
        w->b->room_stalled[room]++;
}

/* "TOKEN" or "TOKEN ROOM,ROOM,..." */
static void device_init(struct worker *w, struct device *d, const char *line)
{
    const struct options *o = w->s->o;
    size_t n = strcspn(line, " \t");
    const char *p = line + n + strspn(line + n, " \t");
    if (n == 0 || n > REQUEST_MAX / 4)
        die(STATUS_USAGE, "%s has a line without a token", o->tokens_file);
    *d = (struct device){.fd = -1, .is_new = true};
    d->token = need(strndup(line, n));
    if (o->since != NULL) {
        d->since_cap = (uint16_t)(strlen(o->since) + 2);
        d->since = need(calloc(1, d->since_cap));
        memcpy(d->since, o->since, strlen(o->since));
        d->given = true;
    }
    if (*p == 0)
        slot_init(w, d, 0);
    while (*p != 0) {
        char *end;
        slot_init(w, d, (unsigned)strtoul(p, &end, 10));
        if (end == p)
            die(STATUS_USAGE, "%s: rooms are numbers with commas", o->tokens_file);
        p = end + (*end == ',');
    }
}

static void worker_init(struct worker *w)
{
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (w->epoll < 0 || epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->s->kick, &e) != 0)
        die(STATUS_ENVIRONMENT, "epoll: %s", strerror(errno));
    w->devices = need(calloc(w->s->count + 1, sizeof(*w->devices)));
    w->scratch = need(malloc(SCRATCH_BYTES));
    w->query_filter = percent_encode(w->s->o->filter);
    if (strlen(w->query_filter) + strlen(w->s->o->params) + strlen(w->s->o->path) > REQUEST_MAX / 4)
        die(STATUS_USAGE, "filter and parameters are too long");
    for (unsigned i = 0; i < w->s->count; i++)
        device_init(w, &w->devices[i], w->s->lines[w->s->from + i]);
    w->marker_len = (size_t)snprintf(w->marker, sizeof(w->marker), "bench-%s-", w->s->o->run);
}

static void worker_free(struct worker *w)
{
    for (unsigned i = 0; i < w->s->count; i++) {
        struct device *d = &w->devices[i];
        device_close(d);
        for (unsigned j = 0; j < d->slot_count; j++)
            free(d->slots[j].seen);
        free(d->slots);
        free(d->token);
        free(d->since);
    }
    free(w->devices);
    free(w->scratch);
    free(w->query_filter);
    close(w->epoll);
}

int worker_run(const struct worker_setup *setup)
{
    struct worker w = {.s = setup, .b = setup->own};
    worker_init(&w);
    worker_loop(&w);
    count_lost(&w);
    worker_free(&w);
    return 0;
}
