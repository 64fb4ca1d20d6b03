/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The io_uring transport: multishot receive into provided buffers, sends in small batches, and (direct)
 * sockets that are files of a ring instead of descriptors of the process.
 *
 * The rings are made by the thread that uses them, with SINGLE_ISSUER and DEFER_TASKRUN, and join the libuv
 * loop through a registered eventfd: under DEFER_TASKRUN polling the ring's own descriptor never wakes. A
 * turn is { a slice of sends → SQEs; submit and run deferred work; reap }   until there is nothing to do, a
 * few times, and happens before the loop sleeps (prepare) and when the eventfd fires. A slice is 16 sends:
 * the kernel runs about 20 items of deferred work per enter, so larger ones would starve incoming requests.
 *
 * Usually there is one ring. Its table of files has as many places as the process may have descriptors; when
 * they are taken, another ring is opened, and new connections live there. A connection stays with its ring.
 * All rings signal one eventfd and are turned together.
 *
 * Each listener keeps a few accepts armed, each with room for its peer's address, which a direct socket
 * cannot be asked for. An armed accept has a place promised, because the kernel drops a connection for which
 * the table has none.
 *
 * An armed receive owns no buffer: the kernel takes one from the ring when bytes are there, and gets it back
 * at the end of the reaped batch. When the ring runs dry (ENOBUFS) a receive ends and is armed again; nothing
 * is lost.
 *
 * A completion is tagged kind | generation | slot. The slot counts its operations in flight and is not used
 * again before the count is zero; closing cancels them, and a direct socket is then closed by one more.
 * Message headers and slices of a send live in its struct tx until then. Sockets are blocking ones: with
 * O_NONBLOCK the ring would return EAGAIN instead of waiting.
 */
#include "chappe/log.h"
#include "loop_int.h"
#include "ring.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    ACCEPTS = 8, /* armed for each listener */
    RINGS_MAX = 256,
    SENDS_PER_ENTER = 16,
    TURN_ROUNDS = 4,
    REAP_BATCH = 128,
    TX_IOV = 32,
    STOP_WAIT_MS = 2000,
};

enum op_kind { OP_ACCEPT = 1, OP_RECV, OP_SEND, OP_SHUTDOWN, OP_CLOSE, OP_UNHEARD };

struct tx_uring {
    struct tx_rope tx; /* first */
    struct msghdr msg;
    struct iovec iov[TX_IOV];
};

struct accept {
    struct ring *ring; /* NULL: not armed */
    struct sockaddr_storage peer;
    socklen_t peer_bytes;
};
struct listener_uring {
    struct listener l; /* first */
    unsigned armed;
    struct accept accepts[ACCEPTS];
};

struct transport_uring {
    struct transport t; /* first */
    struct ring **rings;
    size_t rings_count;
    int event_fd;
    uv_poll_t poll;
    bool direct, in_turn;
};

static struct transport_uring *self(struct transport *t)
{
    return (struct transport_uring *)t;
}

static uint64_t tag_of(enum op_kind kind, uint32_t gen, uint32_t index)
{
    return (uint64_t)kind << 56 | (uint64_t)(gen & 0xffffff) << 32 | index;
}

/* ---- rings ---- */

static int ring_add(struct transport_uring *t, struct err *e)
{
    if (t->rings_count == RINGS_MAX)
        return err_set(e, ERR_LIMIT, "%d rings are open", RINGS_MAX);
    struct ring *r = xcalloc(1, sizeof *r);
    int rc = ring_open(r, t->event_fd, t->direct, e);
    if (rc) {
        free(r);
        return rc;
    }
    t->rings = xrealloc(t->rings, (t->rings_count + 1) * sizeof *t->rings);
    t->rings[t->rings_count++] = r;
    atomic_fetch_add(&t->t.memory, ring_memory(r));
    return 0;
}

/* Where the next connection is to live; NULL when there is no place and none can be made. */
static struct ring *ring_for_accept(struct transport_uring *t)
{
    if (!t->direct)
        return t->rings[0];
    for (size_t i = 0; i < t->rings_count; i++) {
        if (t->rings[i]->taken < t->rings[i]->places)
            return t->rings[i];
    }
    if (ring_add(t, NULL) != 0)
        return NULL;
    log_info("chappe.loop", "connections go to table %zu, of %u places", t->rings_count,
             t->rings[t->rings_count - 1]->places);
    return t->rings[t->rings_count - 1];
}

static struct ring *ring_of(const struct slot *s)
{
    return self(s->t)->rings[s->ring];
}

static struct io_uring_sqe *sqe_get(struct ring *r)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);
    if (!sqe) {
        io_uring_submit(&r->uring);
        sqe = io_uring_get_sqe(&r->uring);
        ASSERT(sqe != NULL);
    }
    return sqe;
}

/* Tags what has been prepared for a connection's socket, and counts it. */
static void sqe_of_slot(struct io_uring_sqe *sqe, struct slot *s, enum op_kind kind)
{
    struct ring *r = ring_of(s);
    sqe->flags |= r->places ? IOSQE_FIXED_FILE : 0;
    io_uring_sqe_set_data64(sqe, tag_of(kind, s->gen, s->index));
    s->ops++;
    r->ops++;
}

static void cancel(struct ring *r, uint64_t tag)
{
    struct io_uring_sqe *sqe = sqe_get(r);
    io_uring_prep_cancel64(sqe, tag, 0);
    io_uring_sqe_set_data64(sqe, tag_of(OP_UNHEARD, 0, 0));
}

/* Closes a place of the table; index: of the slot that waits for it, or UINT32_MAX. */
static void place_close(struct ring *r, int file, uint32_t gen, uint32_t index)
{
    struct io_uring_sqe *sqe = sqe_get(r);
    io_uring_prep_close_direct(sqe, (unsigned)file);
    io_uring_sqe_set_data64(sqe, tag_of(OP_CLOSE, gen, index));
    r->ops++;
}

/* ---- slots ---- */

static void recv_arm(struct slot *s)
{
    struct io_uring_sqe *sqe = sqe_get(ring_of(s));
    io_uring_prep_recv_multishot(sqe, s->fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUF_GROUP;
    sqe_of_slot(sqe, s, OP_RECV);
    s->recv_armed = true;
}

static void slot_open(struct slot *s)
{
    recv_arm(s);
}

static void slot_recv(struct slot *s)
{
    if (s->paused && s->recv_armed)
        cancel(ring_of(s), tag_of(OP_RECV, s->gen, s->index));
    else if (!s->paused && !s->recv_armed && !s->eof)
        recv_arm(s);
}

/* A closing slot whose last operation is over: a descriptor is closed by the release, a place by the ring. */
static void slot_end(struct slot *s)
{
    struct ring *r = ring_of(s);
    if (!r->places || s->fd < 0) {
        slot_release(s);
        return;
    }
    if (s->abort) {
        /* Forgetting the peer resets the connection and drops what was not sent; done when it is submitted.
         */
        static const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
        struct io_uring_sqe *sqe = sqe_get(r);
        io_uring_prep_connect(sqe, s->fd, &nobody, sizeof nobody);
        sqe->flags |= IOSQE_FIXED_FILE;
        io_uring_sqe_set_data64(sqe, tag_of(OP_UNHEARD, 0, 0));
    }
    place_close(r, s->fd, s->gen, s->index);
    s->ops++;
    s->fd = -1;
}

static void slot_close(struct slot *s)
{
    if (s->recv_armed)
        cancel(ring_of(s), tag_of(OP_RECV, s->gen, s->index));
    if (s->send_busy)
        cancel(ring_of(s), tag_of(OP_SEND, s->gen, s->index));
    if (s->ops == 0)
        slot_end(s);
}

static void slot_shutdown(struct slot *s)
{
    if (!ring_of(s)->places) {
        (void)shutdown(s->fd, SHUT_WR);
        return;
    }
    struct io_uring_sqe *sqe = sqe_get(ring_of(s));
    io_uring_prep_shutdown(sqe, s->fd, SHUT_WR);
    sqe_of_slot(sqe, s, OP_SHUTDOWN);
}

static void send_queue(struct slot *s)
{
    struct tx *x = s->tx;
    if (!x || s->send_busy)
        return;
    /* The first attempts take what fits and return: only a reader that keeps us waiting counts as one. */
    int flags = MSG_NOSIGNAL | (x->counted ? 0 : MSG_DONTWAIT);
    struct io_uring_sqe *sqe = sqe_get(ring_of(s));
    if (x->flat) {
        io_uring_prep_send(sqe, s->fd, x->data + x->sent, x->bytes - x->sent, flags);
    } else {
        struct tx_uring *u = (struct tx_uring *)x;
        u->msg = (struct msghdr){.msg_iov = u->iov};
        u->msg.msg_iovlen = (size_t)rope_iov(&u->tx.rope, x->sent, u->iov, TX_IOV);
        io_uring_prep_sendmsg(sqe, s->fd, &u->msg, (unsigned)flags);
    }
    sqe_of_slot(sqe, s, OP_SEND);
    s->send_busy = true;
}

static void done_recv(struct slot *s, struct ring *r, int res, uint32_t flags)
{
    struct transport *t = s->t;
    if (!(flags & IORING_CQE_F_MORE)) {
        s->recv_armed = false;
        s->ops--;
        r->ops--;
    }
    if (s->state == SLOT_OPEN && res > 0 && (flags & IORING_CQE_F_BUFFER))
        t->o.events.on_recv(t->o.arg, slot_user(s), ring_buf(r, flags, res));
    else if (res == 0)
        slot_eof(s, 0);
    else if (res < 0 && res != -ENOBUFS && res != -ECANCELED && res != -EINTR && res != -EAGAIN)
        slot_eof(s, -ERR_CLOSED);
    if (s->state == SLOT_CLOSING && s->ops == 0)
        slot_end(s);
    else if (s->state == SLOT_OPEN && !s->recv_armed && !s->eof && !s->paused)
        recv_arm(s);
}

static void done_send(struct slot *s, struct ring *r, int res)
{
    s->send_busy = false;
    s->ops--;
    r->ops--;
    if (s->state == SLOT_CLOSING) {
        if (s->ops == 0)
            slot_end(s);
        return;
    }
    struct tx *x = s->tx;
    if (res > 0)
        tx_progress(s, x, (size_t)res);
    if (res < 0 && res != -EINTR && res != -EAGAIN && res != -ENOBUFS && res != -ENOMEM)
        slot_sent(s, -ERR_CLOSED);
    else if (res == -EAGAIN && tx_begin(s, x))
        slot_sent(s, -ERR_LIMIT);
    else if (x->sent < x->bytes)
        slot_ready(s);
    else
        slot_sent(s, 0);
}

/* Of a shutdown, or the close that is a slot's last. */
static void done_end(struct slot *s, struct ring *r)
{
    s->ops--;
    r->ops--;
    if (s->state == SLOT_CLOSING && s->ops == 0)
        slot_end(s);
}

/* ---- listeners ---- */

static bool accept_arm(struct listener_uring *l, unsigned k)
{
    struct transport_uring *t = self(l->l.t);
    struct accept *a = &l->accepts[k];
    struct ring *r = ring_for_accept(t);
    if (!r)
        return false;
    struct io_uring_sqe *sqe = sqe_get(r);
    a->peer_bytes = sizeof a->peer;
    io_uring_prep_accept(sqe, l->l.fd, (struct sockaddr *)&a->peer, &a->peer_bytes,
                         t->direct ? 0 : SOCK_CLOEXEC);
    if (t->direct)
        sqe->file_index = IORING_FILE_INDEX_ALLOC;
    io_uring_sqe_set_data64(sqe, tag_of(OP_ACCEPT, k, l->l.index));
    a->ring = r;
    l->armed++;
    r->taken++;
    r->ops++;
    return true;
}

static void listener_arm(struct listener *base)
{
    struct listener_uring *l = (struct listener_uring *)base;
    (void)fcntl(base->fd, F_SETFL, fcntl(base->fd, F_GETFL) & ~O_NONBLOCK);
    bool all = true;
    for (unsigned k = 0; k < ACCEPTS && all; k++)
        all = l->accepts[k].ring || accept_arm(l, k);
    base->armed = all;
    if (!all)
        transport_accept_failed(base->t, EMFILE);
}

static void listener_close(struct listener *base)
{
    struct listener_uring *l = (struct listener_uring *)base;
    (void)shutdown(base->fd, SHUT_RD); /* refuses from this moment */
    for (unsigned k = 0; k < ACCEPTS; k++) {
        if (l->accepts[k].ring)
            cancel(l->accepts[k].ring, tag_of(OP_ACCEPT, k, base->index));
    }
    if (l->armed == 0)
        listener_release(base);
}

static struct listener_uring *listener_find(struct transport *t, uint32_t index)
{
    struct listener *l, *found = NULL;
    list_each(l, &t->listeners, struct listener, link) {
        if (l->index == index)
            found = l;
    }
    ASSERT(found != NULL);
    return (struct listener_uring *)found;
}

static void done_accept(struct transport_uring *t, struct ring *r, uint32_t index, unsigned k, int res)
{
    struct listener_uring *l = listener_find(&t->t, index);
    struct accept *a = &l->accepts[k];
    ASSERT(a->ring == r);
    r->ops--;
    a->ring = NULL;
    /* Still counted as armed during the callback, so that closing the listener there leaves the release to
     * us. */
    if (res >= 0 && l->l.closing) {
        if (t->direct)
            place_close(r, res, 0, UINT32_MAX);
        else
            close(res);
    } else if (res >= 0) {
        size_t ring = 0;
        while (t->rings[ring] != r)
            ring++;
        transport_accepted(&t->t, &l->l, res, (uint16_t)ring, &a->peer);
    }
    if (res < 0 || !t->direct)
        r->taken--;
    l->armed--;
    if (l->l.closing) {
        if (l->armed == 0)
            listener_release(&l->l);
    } else if (res == -EMFILE || res == -ENFILE || res == -ENOBUFS || res == -ENOMEM) {
        l->l.armed = false;
        transport_accept_failed(&t->t, -res);
    } else if (!accept_arm(l, k)) {
        l->l.armed = false;
        transport_accept_failed(&t->t, EMFILE);
    }
}

/* ---- the loop's turn ---- */

struct completion {
    uint64_t tag;
    int res;
    uint32_t flags;
};

static void complete(struct transport_uring *t, struct ring *r, const struct completion *c)
{
    uint32_t index = (uint32_t)c->tag, gen = (uint32_t)(c->tag >> 32 & 0xffffff);
    enum op_kind kind = (enum op_kind)(c->tag >> 56);
    if (kind == OP_UNHEARD)
        return;
    if (kind == OP_ACCEPT) {
        done_accept(t, r, index, gen, c->res);
        return;
    }
    if (kind == OP_CLOSE) {
        r->taken--;
        if (index == UINT32_MAX) {
            r->ops--;
            return;
        }
    }
    struct slot *s = transport_slot(&t->t, index);
    ASSERT(s != NULL && s->state != SLOT_FREE && (s->gen & 0xffffff) == gen && ring_of(s) == r);
    if (kind == OP_RECV)
        done_recv(s, r, c->res, c->flags);
    else if (kind == OP_SEND)
        done_send(s, r, c->res);
    else
        done_end(s, r);
}

/* Copies completions out before acting on them: callbacks may submit. Returns how many there were. */
static unsigned reap(struct transport_uring *t, struct ring *r)
{
    struct io_uring_cqe *cqes[REAP_BATCH];
    struct completion done[REAP_BATCH];
    unsigned n = io_uring_peek_batch_cqe(&r->uring, cqes, REAP_BATCH);
    for (unsigned i = 0; i < n; i++) {
        done[i] = (struct completion){cqes[i]->user_data, cqes[i]->res, cqes[i]->flags};
        transport_soon(&t->t, done[i].tag); /* nothing may have happened there for half a minute */
    }
    io_uring_cq_advance(&r->uring, n);
    int given = 0;
    for (unsigned i = 0; i < n; i++) {
        if (i % EVENTS_TOGETHER == 0)
            transport_events_begin(&t->t);
        complete(t, r, &done[i]);
        if (done[i].flags & IORING_CQE_F_BUFFER)
            ring_buf_give(r, done[i].flags >> IORING_CQE_BUFFER_SHIFT, given++);
    }
    io_uring_buf_ring_advance(r->bufs, given);
    return n;
}

/* No wake-ups for what we reap ourselves. */
static void wakeups(struct transport_uring *t, bool on)
{
    for (size_t i = 0; i < t->rings_count; i++)
        io_uring_cq_eventfd_toggle(&t->rings[i]->uring, on);
}

static void turn(struct transport_uring *t)
{
    if (t->in_turn)
        return;
    t->in_turn = true;
    bool more = true;
    wakeups(t, false);
    for (int round = 0; round < TURN_ROUNDS && more; round++) {
        for (int i = 0; i < SENDS_PER_ENTER && !list_empty(&t->t.ready); i++) {
            struct slot *s = container_of(t->t.ready.next, struct slot, ready);
            list_del(&s->ready);
            send_queue(s);
        }
        unsigned n = 0;
        for (size_t i = 0; i < t->rings_count; i++) {
            struct ring *r = t->rings[i];
            if (io_uring_sq_ready(&r->uring) > 0 || ring_has_work(r))
                ring_enter(r);
            n += reap(t, r);
        }
        more = n > 0 || !list_empty(&t->t.ready);
        for (size_t i = 0; i < t->rings_count && !more; i++)
            more = io_uring_sq_ready(&t->rings[i]->uring) > 0 || ring_has_work(t->rings[i]);
    }
    wakeups(t, true);
    atomic_thread_fence(memory_order_seq_cst); /* the flag is seen before we look for the last time */
    for (size_t i = 0; i < t->rings_count && !more; i++)
        more = ring_has_work(t->rings[i]) || io_uring_cq_ready(&t->rings[i]->uring) > 0;
    t->in_turn = false;
    transport_idle_set(&t->t, more);
}

static void on_prepare(uv_prepare_t *h)
{
    turn(h->data);
}

static void on_event(uv_poll_t *h, int status, int events)
{
    struct transport_uring *t = h->data;
    uint64_t count;
    (void)status;
    (void)events;
    ssize_t n = read(t->event_fd, &count, sizeof count);
    (void)n; /* a spurious wake-up is harmless */
    turn(t);
}

/* ---- beginning and end ---- */

static size_t operations(const struct transport_uring *t)
{
    size_t n = 0;
    for (size_t i = 0; i < t->rings_count; i++)
        n += t->rings[i]->ops;
    return n;
}

static void rings_close(struct transport_uring *t)
{
    for (size_t i = 0; i < t->rings_count; i++) {
        ring_close(t->rings[i]);
        free(t->rings[i]);
    }
    free(t->rings);
    close(t->event_fd);
}

/* Waits for the kernel to let go of every operation, then takes the rings down. */
static void stop(struct transport *base)
{
    struct transport_uring *t = self(base);
    t->t.stopping = true;
    uv_poll_stop(&t->poll);
    uv_close((uv_handle_t *)&t->poll, transport_handle_closed);
    uint64_t deadline = uv_hrtime() + (uint64_t)STOP_WAIT_MS * 1000000;
    while (operations(t) > 0 && uv_hrtime() < deadline) {
        for (size_t i = 0; i < t->rings_count; i++) {
            struct ring *r = t->rings[i];
            struct io_uring_cqe *cqe;
            struct __kernel_timespec ts = {.tv_nsec = 50 * 1000 * 1000};
            if (r->ops > 0)
                (void)io_uring_submit_and_wait_timeout(&r->uring, &cqe, 1, &ts, NULL);
            while (reap(t, r) > 0)
                ;
        }
    }
    if (operations(t) > 0) {
        log_warning("chappe.loop", "%zu socket operations did not end in time", operations(t));
        t->t.dead = true;
        return;
    }
    rings_close(t);
}

static const struct transport_ops ops_uring = {
    .backend_bytes = 0,
    .tx_rope_bytes = sizeof(struct tx_uring),
    .listener_bytes = sizeof(struct listener_uring),
    .slot_open = slot_open,
    .slot_close = slot_close,
    .slot_recv = slot_recv,
    .slot_shutdown = slot_shutdown,
    .listener_arm = listener_arm,
    .listener_close = listener_close,
    .stop = stop,
};

int transport_uring_new(struct transport **out, uv_loop_t *loop, const struct transport_options *o,
                        bool direct, struct err *e)
{
    struct transport_uring *t = xcalloc(1, sizeof *t);
    t->direct = direct;
    t->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int rc = t->event_fd < 0 ? err_set(e, ERR_UNSUPPORTED, "eventfd: %s", strerror(errno)) : ring_add(t, e);
    if (rc) {
        if (t->event_fd >= 0)
            close(t->event_fd);
        free(t);
        return rc;
    }
    transport_init(&t->t, &ops_uring, loop, o, on_prepare);
    ASSERT(uv_poll_init(loop, &t->poll, t->event_fd) == 0);
    t->poll.data = t;
    t->t.handles_open++;
    ASSERT(uv_poll_start(&t->poll, UV_READABLE, on_event) == 0);
    *out = &t->t;
    return 0;
}
