/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The io_uring transport: multishot accept, multishot receive into one provided-buffer ring, sends in small
 * batches.
 *
 * The ring is made by the thread that uses it, with SINGLE_ISSUER and DEFER_TASKRUN, and joins the libuv loop
 * through a registered eventfd: under DEFER_TASKRUN polling the ring's own descriptor never wakes. A turn is
 *     { a slice of sends → SQEs; submit and run deferred work; reap }   until there is nothing to do, a few
 * times, and happens before the loop sleeps (prepare) and when the eventfd fires. A slice is 16 sends: the
 * kernel runs about 20 items of deferred work per enter, so larger ones would starve incoming requests.
 *
 * An armed receive owns no buffer: the kernel takes one from the ring when bytes are there, and gets it back
 * at the end of the reaped batch. When the ring runs dry (ENOBUFS) a receive ends and is armed again; nothing
 * is lost.
 *
 * A completion is tagged kind | generation | slot. The slot counts its operations in flight and is not used
 * again before the count is zero; closing cancels them. Message headers and slices of a send live in its
 * struct tx until then. Sockets are blocking ones: with O_NONBLOCK the ring would return EAGAIN instead of
 * waiting.
 */
#include "loop_int.h"
#include "chappe/log.h"
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    SQ_ENTRIES = 512,
    CQ_ENTRIES = 8192,
    BUF_COUNT = 2048, /* a power of two */
    BUF_BYTES = 2048,
    BUF_GROUP = 1,
    SENDS_PER_ENTER = 16,
    TURN_ROUNDS = 4,
    REAP_BATCH = 128,
    TX_IOV = 32,
    STOP_WAIT_MS = 2000,
};

enum op_kind { OP_ACCEPT = 1, OP_RECV, OP_SEND, OP_CANCEL };

struct tx_uring {
    struct tx tx; /* first */
    struct msghdr msg;
    struct iovec iov[TX_IOV];
};

struct ring {
    struct io_uring uring;
    struct io_uring_buf_ring *bufs;
    char *buf_mem;
    size_t bufs_bytes;
    int event_fd;
    bool up;
};

struct transport_uring {
    struct transport t; /* first */
    struct ring r;
    uv_poll_t poll;
    size_t ops; /* operations in flight, all kinds but cancels */
    bool in_turn;
};

static struct transport_uring *self(struct transport *t)
{
    return (struct transport_uring *)t;
}

static uint64_t tag_of(enum op_kind kind, uint32_t gen, uint32_t index)
{
    return (uint64_t)kind << 56 | (uint64_t)(gen & 0xffffff) << 32 | index;
}

/* ---- the ring itself ---- */

static void ring_close(struct ring *r)
{
    if (r->up)
        io_uring_queue_exit(&r->uring);
    if (r->event_fd >= 0)
        close(r->event_fd);
    if (r->bufs)
        munmap(r->bufs, r->bufs_bytes);
    free(r->buf_mem);
    *r = (struct ring){.event_fd = -1};
}

static void buf_give(struct ring *r, unsigned id, int offset)
{
    io_uring_buf_ring_add(r->bufs, r->buf_mem + (size_t)id * BUF_BYTES, BUF_BYTES, (unsigned short)id,
                          io_uring_buf_ring_mask(BUF_COUNT), offset);
}

static int ring_open(struct ring *r, struct err *e)
{
    *r = (struct ring){.event_fd = -1};
    struct io_uring_params p = {0};
    p.flags = IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
              IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL;
    p.cq_entries = CQ_ENTRIES;
    int rc = io_uring_queue_init_params(SQ_ENTRIES, &r->uring, &p);
    if (rc < 0)
        return err_set(e, ERR_UNSUPPORTED, "setting up a ring: %s", strerror(-rc));
    r->up = true;
    r->bufs_bytes = BUF_COUNT * sizeof(struct io_uring_buf);
    void *m = mmap(NULL, r->bufs_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED) {
        rc = -errno;
    } else {
        r->bufs = m;
        struct io_uring_buf_reg reg = {
            .ring_addr = (uintptr_t)m, .ring_entries = BUF_COUNT, .bgid = BUF_GROUP};
        rc = io_uring_register_buf_ring(&r->uring, &reg, 0);
    }
    if (rc < 0) {
        ring_close(r);
        return err_set(e, ERR_UNSUPPORTED, "registering a buffer ring: %s", strerror(-rc));
    }
    r->buf_mem = xmalloc((size_t)BUF_COUNT * BUF_BYTES);
    io_uring_buf_ring_init(r->bufs);
    for (unsigned i = 0; i < BUF_COUNT; i++)
        buf_give(r, i, (int)i);
    io_uring_buf_ring_advance(r->bufs, BUF_COUNT);
    r->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    rc = r->event_fd < 0 ? -errno : io_uring_register_eventfd(&r->uring, r->event_fd);
    if (rc < 0) {
        ring_close(r);
        return err_set(e, ERR_UNSUPPORTED, "registering an eventfd: %s", strerror(-rc));
    }
    return 0;
}

/* One multishot receive and one sendmsg across a socket pair. */
static int probe_bytes(struct ring *r, int fds[2], struct err *e)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);
    io_uring_prep_recv_multishot(sqe, fds[0], NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUF_GROUP;
    io_uring_sqe_set_data64(sqe, OP_RECV);
    struct iovec iov = {.iov_base = (void *)(uintptr_t) "probe", .iov_len = 5};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    sqe = io_uring_get_sqe(&r->uring);
    io_uring_prep_sendmsg(sqe, fds[1], &msg, MSG_NOSIGNAL);
    io_uring_sqe_set_data64(sqe, OP_SEND);
    bool sent = false, received = false;
    for (int i = 0; i < 8 && !(sent && received); i++) {
        struct io_uring_cqe *cqe;
        struct __kernel_timespec ts = {.tv_nsec = 200 * 1000 * 1000};
        int rc = io_uring_submit_and_wait_timeout(&r->uring, &cqe, 1, &ts, NULL);
        if (rc < 0 && rc != -EINTR)
            return err_set(e, ERR_UNSUPPORTED, "waiting for a completion: %s", strerror(-rc));
        while (io_uring_peek_cqe(&r->uring, &cqe) == 0) {
            if (cqe->res != 5)
                return err_set(e, ERR_UNSUPPORTED, "%s: %s",
                               cqe->user_data == OP_RECV ? "multishot receive" : "send",
                               cqe->res < 0 ? strerror(-cqe->res) : "short");
            if (cqe->user_data == OP_RECV)
                received = (cqe->flags & (IORING_CQE_F_BUFFER | IORING_CQE_F_MORE)) ==
                           (IORING_CQE_F_BUFFER | IORING_CQE_F_MORE);
            else
                sent = true;
            io_uring_cqe_seen(&r->uring, cqe);
        }
    }
    if (!sent || !received)
        return err_set(e, ERR_UNSUPPORTED, "multishot receive does not work");
    uint64_t count;
    if (read(r->event_fd, &count, sizeof count) != sizeof count)
        return err_set(e, ERR_UNSUPPORTED, "the eventfd was not signalled");
    return 0;
}

int transport_uring_probe(struct err *e)
{
    struct ring r;
    int rc = ring_open(&r, e);
    if (rc)
        return rc;
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
        ring_close(&r);
        return err_set(e, ERR_UNSUPPORTED, "socketpair: %s", strerror(errno));
    }
    rc = probe_bytes(&r, fds, e);
    close(fds[0]);
    close(fds[1]);
    ring_close(&r);
    return rc;
}

static struct io_uring_sqe *sqe_get(struct transport_uring *t)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&t->r.uring);
    if (!sqe) {
        io_uring_submit(&t->r.uring);
        sqe = io_uring_get_sqe(&t->r.uring);
        ASSERT(sqe != NULL);
    }
    return sqe;
}

static void cancel(struct transport_uring *t, uint64_t tag)
{
    struct io_uring_sqe *sqe = sqe_get(t);
    io_uring_prep_cancel64(sqe, tag, 0);
    io_uring_sqe_set_data64(sqe, tag_of(OP_CANCEL, 0, 0));
}

/* ---- slots ---- */

static void recv_arm(struct slot *s)
{
    struct transport_uring *t = self(s->t);
    struct io_uring_sqe *sqe = sqe_get(t);
    io_uring_prep_recv_multishot(sqe, s->fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUF_GROUP;
    io_uring_sqe_set_data64(sqe, tag_of(OP_RECV, s->gen, s->index));
    s->recv_armed = true;
    s->ops++;
    t->ops++;
}

static void slot_open(struct slot *s)
{
    recv_arm(s);
}

static void slot_recv(struct slot *s)
{
    if (s->paused && s->recv_armed)
        cancel(self(s->t), tag_of(OP_RECV, s->gen, s->index));
    else if (!s->paused && !s->recv_armed && !s->eof)
        recv_arm(s);
}

static void slot_close(struct slot *s)
{
    if (s->recv_armed)
        cancel(self(s->t), tag_of(OP_RECV, s->gen, s->index));
    if (s->send_busy)
        cancel(self(s->t), tag_of(OP_SEND, s->gen, s->index));
    if (s->ops == 0)
        slot_release(s);
}

static void send_queue(struct slot *s)
{
    struct transport_uring *t = self(s->t);
    struct tx_uring *x = (struct tx_uring *)s->tx;
    if (!x || s->send_busy)
        return;
    /* The first attempts take what fits and return: only a reader that keeps us waiting counts as one. */
    int flags = MSG_NOSIGNAL | (x->tx.counted ? 0 : MSG_DONTWAIT);
    x->msg.msg_iov = x->iov;
    x->msg.msg_iovlen = (size_t)rope_iov(&x->tx.rope, x->tx.sent, x->iov, TX_IOV);
    struct io_uring_sqe *sqe = sqe_get(t);
    io_uring_prep_sendmsg(sqe, s->fd, &x->msg, (unsigned)flags);
    io_uring_sqe_set_data64(sqe, tag_of(OP_SEND, s->gen, s->index));
    s->send_busy = true;
    s->ops++;
    t->ops++;
}

static void done_recv(struct transport_uring *t, struct slot *s, int res, uint32_t flags)
{
    if (!(flags & IORING_CQE_F_MORE)) {
        s->recv_armed = false;
        s->ops--;
        t->ops--;
    }
    if (s->state == SLOT_OPEN && res > 0 && (flags & IORING_CQE_F_BUFFER)) {
        const char *p = t->r.buf_mem + (size_t)(flags >> IORING_CQE_BUFFER_SHIFT) * BUF_BYTES;
        t->t.o.events.on_recv(t->t.o.arg, slot_user(s), str_n(p, (size_t)res));
    } else if (res == 0) {
        slot_eof(s, 0);
    } else if (res < 0 && res != -ENOBUFS && res != -ECANCELED && res != -EINTR && res != -EAGAIN) {
        slot_eof(s, -ERR_CLOSED);
    }
    if (s->state == SLOT_CLOSING && s->ops == 0)
        slot_release(s);
    else if (s->state == SLOT_OPEN && !s->recv_armed && !s->eof && !s->paused)
        recv_arm(s);
}

static void done_send(struct transport_uring *t, struct slot *s, int res)
{
    s->send_busy = false;
    s->ops--;
    t->ops--;
    if (s->state == SLOT_CLOSING) {
        if (s->ops == 0)
            slot_release(s);
        return;
    }
    struct tx *x = s->tx;
    if (res > 0)
        tx_progress(s, x, (size_t)res);
    if (res < 0 && res != -EINTR && res != -EAGAIN && res != -ENOBUFS && res != -ENOMEM)
        slot_sent(s, -ERR_CLOSED);
    else if (res == -EAGAIN && tx_begin(s, x))
        slot_sent(s, -ERR_LIMIT);
    else if (x->sent < x->rope.bytes)
        slot_ready(s);
    else
        slot_sent(s, 0);
}

/* ---- listeners ---- */

static void listener_arm(struct listener *l)
{
    struct transport_uring *t = self(l->t);
    (void)fcntl(l->fd, F_SETFL, fcntl(l->fd, F_GETFL) & ~O_NONBLOCK);
    struct io_uring_sqe *sqe = sqe_get(t);
    io_uring_prep_multishot_accept(sqe, l->fd, NULL, NULL, SOCK_CLOEXEC);
    io_uring_sqe_set_data64(sqe, tag_of(OP_ACCEPT, 0, l->index));
    l->armed = true;
    t->ops++;
}

static void listener_close(struct listener *l)
{
    (void)shutdown(l->fd, SHUT_RD); /* refuses from this moment */
    if (l->armed)
        cancel(self(l->t), tag_of(OP_ACCEPT, 0, l->index));
    else
        listener_release(l);
}

static void done_accept(struct transport_uring *t, uint32_t index, int res, uint32_t flags)
{
    struct listener *l, *found = NULL;
    list_each(l, &t->t.listeners, struct listener, link) {
        if (l->index == index)
            found = l;
    }
    ASSERT(found != NULL);
    l = found;
    bool ended = !(flags & IORING_CQE_F_MORE);
    t->ops -= ended;
    /* Still marked as armed during the callback, so that closing it there leaves the release to us. */
    if (res >= 0) {
        struct sockaddr_storage peer = {0};
        socklen_t n = sizeof peer;
        if (l->closing)
            close(res);
        else if (!l->is_unix && getpeername(res, (struct sockaddr *)&peer, &n) != 0)
            close(res); /* gone already */
        else
            transport_accepted(&t->t, l, res, &peer);
    }
    if (!ended)
        return;
    l->armed = false;
    if (l->closing)
        listener_release(l);
    else if (res == -EMFILE || res == -ENFILE || res == -ENOBUFS || res == -ENOMEM)
        transport_accept_failed(&t->t, -res);
    else
        listener_arm(l);
}

/* ---- the loop's turn ---- */

struct completion {
    uint64_t tag;
    int res;
    uint32_t flags;
};

static void complete(struct transport_uring *t, const struct completion *c)
{
    uint32_t index = (uint32_t)c->tag;
    enum op_kind kind = (enum op_kind)(c->tag >> 56);
    if (kind == OP_CANCEL)
        return;
    if (kind == OP_ACCEPT) {
        done_accept(t, index, c->res, c->flags);
        return;
    }
    struct slot *s = transport_slot(&t->t, index);
    ASSERT(s != NULL && s->state != SLOT_FREE && (s->gen & 0xffffff) == (uint32_t)(c->tag >> 32 & 0xffffff));
    if (kind == OP_RECV)
        done_recv(t, s, c->res, c->flags);
    else
        done_send(t, s, c->res);
}

/* Copies completions out before acting on them: callbacks may submit. Returns how many there were. */
static unsigned reap(struct transport_uring *t)
{
    struct io_uring_cqe *cqes[REAP_BATCH];
    struct completion done[REAP_BATCH];
    unsigned n = io_uring_peek_batch_cqe(&t->r.uring, cqes, REAP_BATCH);
    for (unsigned i = 0; i < n; i++)
        done[i] = (struct completion){cqes[i]->user_data, cqes[i]->res, cqes[i]->flags};
    io_uring_cq_advance(&t->r.uring, n);
    int given = 0;
    for (unsigned i = 0; i < n; i++) {
        complete(t, &done[i]);
        if (done[i].flags & IORING_CQE_F_BUFFER)
            buf_give(&t->r, done[i].flags >> IORING_CQE_BUFFER_SHIFT, given++);
    }
    io_uring_buf_ring_advance(t->r.bufs, given);
    return n;
}

static bool kernel_has_work(struct transport_uring *t)
{
    return __atomic_load_n(t->r.uring.sq.kflags, __ATOMIC_RELAXED) &
           (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static void turn(struct transport_uring *t)
{
    if (t->in_turn)
        return;
    t->in_turn = true;
    bool more = true;
    io_uring_cq_eventfd_toggle(&t->r.uring,
                               false); /* we are looking: no wake-ups for what we reap ourselves */
    for (int round = 0; round < TURN_ROUNDS && more; round++) {
        for (int i = 0; i < SENDS_PER_ENTER && !list_empty(&t->t.ready); i++) {
            struct slot *s = container_of(t->t.ready.next, struct slot, ready);
            list_del(&s->ready);
            send_queue(s);
        }
        if (io_uring_sq_ready(&t->r.uring) > 0 || kernel_has_work(t))
            io_uring_submit_and_get_events(&t->r.uring);
        unsigned n = reap(t);
        more = n > 0 || !list_empty(&t->t.ready) || io_uring_sq_ready(&t->r.uring) > 0 || kernel_has_work(t);
    }
    io_uring_cq_eventfd_toggle(&t->r.uring, true);
    atomic_thread_fence(memory_order_seq_cst); /* the flag is seen before we look for the last time */
    more = more || kernel_has_work(t) || io_uring_cq_ready(&t->r.uring) > 0;
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
    ssize_t n = read(t->r.event_fd, &count, sizeof count);
    (void)n; /* a spurious wake-up is harmless */
    turn(t);
}

/* Waits for the kernel to let go of every operation, then takes the ring down. */
static void stop(struct transport *base)
{
    struct transport_uring *t = self(base);
    t->t.stopping = true;
    uv_poll_stop(&t->poll);
    uv_close((uv_handle_t *)&t->poll, transport_handle_closed);
    uint64_t deadline = uv_hrtime() + (uint64_t)STOP_WAIT_MS * 1000000;
    while (t->ops > 0 && uv_hrtime() < deadline) {
        struct io_uring_cqe *cqe;
        struct __kernel_timespec ts = {.tv_nsec = 50 * 1000 * 1000};
        (void)io_uring_submit_and_wait_timeout(&t->r.uring, &cqe, 1, &ts, NULL);
        while (reap(t) > 0)
            ;
    }
    if (t->ops > 0) {
        log_warning("chappe.loop", "%zu socket operations did not end in time", t->ops);
        t->t.dead = true;
        return;
    }
    ring_close(&t->r);
}

static const struct transport_ops ops_uring = {
    .backend_bytes = 0,
    .tx_bytes = sizeof(struct tx_uring),
    .slot_open = slot_open,
    .slot_close = slot_close,
    .slot_recv = slot_recv,
    .listener_arm = listener_arm,
    .listener_close = listener_close,
    .stop = stop,
};

int transport_uring_new(struct transport **out, uv_loop_t *loop, const struct transport_options *o,
                        struct err *e)
{
    struct transport_uring *t = xcalloc(1, sizeof *t);
    int rc = ring_open(&t->r, e);
    if (rc) {
        free(t);
        return rc;
    }
    transport_init(&t->t, &ops_uring, loop, o, on_prepare);
    atomic_store(&t->t.memory, sizeof *t + t->r.bufs_bytes + (size_t)BUF_COUNT * BUF_BYTES);
    ASSERT(uv_poll_init(loop, &t->poll, t->r.event_fd) == 0);
    t->poll.data = t;
    t->t.handles_open++;
    ASSERT(uv_poll_start(&t->poll, UV_READABLE, on_event) == 0);
    *out = &t->t;
    return 0;
}
