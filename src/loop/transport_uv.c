/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The portable transport: one uv_poll_t per connection, recv() and sendmsg() called directly.
 *
 * libuv's streams cost 1.2-1.3 times as much per small request as readiness and a direct call, and copy more
 * state; uv_poll gives epoll with libuv's bookkeeping only. Reading uses one buffer per transport; an idle
 * connection owns none. A send is tried at once when its turn comes; only when the socket is full does the
 * poll wait for writability.
 */
#include "loop_int.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { RECV_BYTES = 65536, RECV_ROUNDS = 4, ACCEPT_ROUNDS = 64, IOV_MAX_UV = 64 };

struct slot_uv {
    uv_poll_t poll;
    bool want_write;
    int events;
};

struct transport_uv {
    struct transport t; /* first */
    char recv_buf[RECV_BYTES];
};

static void on_poll(uv_poll_t *h, int status, int events);

static void poll_update(struct slot *s)
{
    struct slot_uv *u = slot_backend(s);
    int want = (s->paused || s->eof ? 0 : UV_READABLE) | (u->want_write ? UV_WRITABLE : 0);
    if (want == u->events)
        return;
    u->events = want;
    if (want == 0)
        uv_poll_stop(&u->poll);
    else
        ASSERT(uv_poll_start(&u->poll, want, on_poll) == 0);
}

static void slot_open(struct slot *s)
{
    struct slot_uv *u = slot_backend(s);
    ASSERT(uv_poll_init(s->t->loop, &u->poll, s->fd) == 0);
    u->poll.data = s;
    s->ops = 1; /* the handle */
    poll_update(s);
}

static void on_slot_closed(uv_handle_t *h)
{
    struct slot *s = h->data;
    s->ops = 0;
    slot_release(s);
}

static void slot_close(struct slot *s)
{
    struct slot_uv *u = slot_backend(s);
    uv_close((uv_handle_t *)&u->poll, on_slot_closed);
}

static void slot_shutdown(struct slot *s)
{
    (void)shutdown(s->fd, SHUT_WR);
}

static void send_some(struct slot *s)
{
    struct slot_uv *u = slot_backend(s);
    while (s->tx) {
        struct tx *x = s->tx;
        struct iovec iov[IOV_MAX_UV];
        struct msghdr m = {.msg_iov = iov};
        ssize_t n = 0;
        do {
            if (x->flat) {
                n = send(s->fd, x->data + x->sent, x->bytes - x->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
            } else {
                m.msg_iovlen = (size_t)rope_iov(&tx_rope(x)->rope, x->sent, iov, IOV_MAX_UV);
                n = sendmsg(s->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
            }
        } while (n < 0 && errno == EINTR);
        if (n < 0 && errno != EAGAIN && errno != ENOBUFS) {
            u->want_write = false;
            poll_update(s);
            slot_sent(s, -ERR_CLOSED);
            return;
        }
        if (n > 0)
            tx_progress(s, x, (size_t)n);
        if (x->sent < x->bytes) {
            if (n > 0)
                continue; /* more slices than one call takes, or a short write: the next call tells */
            u->want_write = true;
            poll_update(s);
            if (tx_begin(s, x))
                slot_sent(s, -ERR_LIMIT);
            return;
        }
        u->want_write = false;
        poll_update(s);
        uint32_t gen = s->gen;
        slot_sent(s, 0);
        if (s->state != SLOT_OPEN || s->gen != gen)
            return;
        list_del(&s->ready); /* what the callback queued goes in this same turn of ours */
    }
}

static void recv_some(struct slot *s)
{
    struct transport_uv *t = (struct transport_uv *)s->t;
    for (int i = 0; i < RECV_ROUNDS && s->state == SLOT_OPEN && !s->paused && !s->eof; i++) {
        ssize_t n = recv(s->fd, t->recv_buf, RECV_BYTES, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            int err = n == 0 ? 0 : -ERR_CLOSED;
            struct slot_uv *u = slot_backend(s);
            uv_poll_stop(&u->poll);
            u->events = u->want_write ? UV_WRITABLE : 0;
            if (u->want_write)
                ASSERT(uv_poll_start(&u->poll, UV_WRITABLE, on_poll) == 0);
            slot_eof(s, err);
            return;
        }
        s->t->o.events.on_recv(s->t->o.arg, slot_user(s), str_n(t->recv_buf, (size_t)n));
        if (n < RECV_BYTES)
            return;
    }
}

static void on_poll(uv_poll_t *h, int status, int events)
{
    struct slot *s = h->data;
    if (s->state != SLOT_OPEN)
        return;
    transport_events_begin(s->t);
    if (status < 0) { /* the descriptor is in error: let recv() name it */
        recv_some(s);
        return;
    }
    if (events & UV_WRITABLE)
        send_some(s);
    if ((events & UV_READABLE) && s->state == SLOT_OPEN)
        recv_some(s);
}

/* ---- listeners ---- */

static void on_acceptable(uv_poll_t *h, int status, int events)
{
    struct listener *l = h->data;
    struct transport *t = l->t;
    (void)status;
    (void)events;
    for (int i = 0; i < ACCEPT_ROUNDS && !l->closing; i++) {
        struct sockaddr_storage peer;
        socklen_t peer_bytes = sizeof peer;
        int fd = accept4(l->fd, (struct sockaddr *)&peer, &peer_bytes, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            transport_events_begin(t);
            transport_accepted(t, l, fd, 0, &peer);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            uv_poll_stop(&l->poll);
            l->armed = false;
            transport_accept_failed(t, errno);
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return;
        }
    }
}

static void listener_arm(struct listener *l)
{
    if (!l->poll.data) {
        (void)fcntl(l->fd, F_SETFL, fcntl(l->fd, F_GETFL) | O_NONBLOCK);
        ASSERT(uv_poll_init(l->t->loop, &l->poll, l->fd) == 0);
        l->poll.data = l;
    }
    l->armed = true;
    ASSERT(uv_poll_start(&l->poll, UV_READABLE, on_acceptable) == 0);
}

static void on_listener_closed(uv_handle_t *h)
{
    listener_release(h->data);
}

static void listener_close(struct listener *l)
{
    uv_close((uv_handle_t *)&l->poll, on_listener_closed);
    /* Refuse new connections from this moment, not from the end of the loop's turn. */
    (void)shutdown(l->fd, SHUT_RD);
}

/* ---- the loop's turn ---- */

static void on_prepare(uv_prepare_t *h)
{
    struct transport *t = h->data;
    for (int i = 0; i < SEND_SLICE && !list_empty(&t->ready); i++) {
        if (i % EVENTS_TOGETHER == 0)
            transport_events_begin(t);
        struct slot *s = container_of(t->ready.next, struct slot, ready);
        list_del(&s->ready);
        send_some(s);
    }
    transport_idle_set(t, !list_empty(&t->ready));
}

static void stop(struct transport *t)
{
    (void)t;
}

static const struct transport_ops ops_uv = {
    .backend_bytes = sizeof(struct slot_uv),
    .tx_rope_bytes = sizeof(struct tx_rope),
    .listener_bytes = sizeof(struct listener),
    .slot_open = slot_open,
    .slot_close = slot_close,
    .slot_recv = poll_update,
    .slot_shutdown = slot_shutdown,
    .listener_arm = listener_arm,
    .listener_close = listener_close,
    .stop = stop,
};

int transport_uv_new(struct transport **out, uv_loop_t *loop, const struct transport_options *o)
{
    struct transport_uv *t = xcalloc(1, sizeof *t);
    transport_init(&t->t, &ops_uv, loop, o, on_prepare);
    atomic_store(&t->t.memory, sizeof *t);
    *out = &t->t;
    return 0;
}
