/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_LOOP_H
#define CHAPPE_LOOP_H
/*
 * Sockets, timers and threads for the fronts: one small transport interface with two implementations
 * (io_uring and libuv polls), a timer wheel, and a mailbox between threads.
 *
 * A transport belongs to one thread and joins that thread's libuv loop. It owns connection slots; a slot
 * costs a few hundred bytes and no buffer while idle. A connection is named by slot | generation << 32, so
 * that a late message is recognised instead of followed. Each slot carries user_bytes of the owner's state,
 * zeroed on accept.
 *
 * Callbacks come from the loop only, never from inside a transport_* function; calling any transport_*
 * function from a callback is allowed, transport_close() of the same connection included. After
 * transport_close() nothing more is heard of the connection, its user area is gone for the owner, and the
 * slot is used again when the kernel has finished every operation on it.
 */
#include "chappe/blob.h"

struct uv_loop_s;
struct uv_async_s;
struct sockaddr_storage;

/* ---- transport ---- */

struct transport;
enum transport_kind {
    TRANSPORT_UV,
    TRANSPORT_URING,        /* sockets are descriptors of the process */
    TRANSPORT_URING_DIRECT, /* they are not: its limit does not bound them */
};

struct transport_events {
    /* A connection came in on the listener with this tag. peer is valid during the call; NULL for UNIX
     * sockets. */
    void (*on_accept)(void *arg, uint64_t id, void *user, int tag, const struct sockaddr_storage *peer);
    /* Bytes arrived; borrowed for the call. */
    void (*on_recv)(void *arg, void *user, struct str bytes);
    /* Nothing more will arrive: err is 0 after an orderly end (the peer may still read), -ERR_CLOSED after a
     * reset. Once. Not reported while receiving is paused. */
    void (*on_eof)(void *arg, void *user, int err);
    /* The oldest transport_send() is with the kernel entirely (0), or failed: -ERR_CLOSED, or -ERR_LIMIT when
     * it would have passed waiting_max. After a failure the owner must close. */
    void (*on_sent)(void *arg, void *user, int status);
    /* accept() found no descriptor or memory; it is tried again shortly. Said once for each try. */
    void (*on_accept_failed)(void *arg, int system_errno);
    /* Before some of the others, which follow at once: to look at the clock once for all of them. May be
     * NULL. */
    void (*on_events)(void *arg);
};
struct transport_options {
    struct transport_events events;
    void *arg;
    size_t user_bytes;
    /* Bytes that readers were too slow to take at once, summed over every transport that shares the counter.
     */
    _Atomic int64_t *waiting_bytes;
    int64_t waiting_max;
};

/* Decides between them by option ("auto", "uring", "uv"): sets up a ring as the transport would, and moves
 * bytes through it. why tells the reason. -ERR_UNSUPPORTED when "uring" is demanded and cannot be had. */
int transport_choose(struct str option, enum transport_kind *kind, char why[160], struct err *e) NODISCARD;
const char *transport_kind_name(enum transport_kind kind); /* "uv" or "uring" */

int transport_new(struct transport **out, enum transport_kind kind, struct uv_loop_s *loop,
                  const struct transport_options *o, struct err *e) NODISCARD;
/* Closes everything. Memory goes when the loop has run the closing callbacks of its handles; no event is
 * reported. */
void transport_free(struct transport **t);

/* Accepts on a listening socket, which it owns from now on. Several transports may accept on duplicates of
 * one. */
void transport_listen(struct transport *t, int fd, int tag);
/* Ends accepting on all listeners with this tag. */
void transport_unlisten(struct transport *t, int tag);

/* Of the connection whose area this is. */
uint64_t transport_id(const struct transport *t, const void *user);
/* The owner's area, or NULL when the connection is gone. */
void *transport_user(struct transport *t, uint64_t id);
/* The connection is asked about soon: it is fetched (mem_soon). */
void transport_soon(const struct transport *t, uint64_t id);
/* Moves body in; sent in order, after what the loop is doing now. */
void transport_send(struct transport *t, uint64_t id, struct rope *body);
/* The same, with head (copied) before it. Little is sent as one copy, much as slices. */
void transport_send_after(struct transport *t, uint64_t id, struct str head, struct rope *body);
/* Bytes the kernel took since the connection began: a reader that takes nothing leaves it unchanged. */
uint64_t transport_sent_bytes(struct transport *t, uint64_t id);
/* Bounds read-ahead. A little may still arrive after a pause. */
void transport_recv_pause(struct transport *t, uint64_t id);
void transport_recv_resume(struct transport *t, uint64_t id);
/* Ends our direction; the peer sees the end of the stream. Only with nothing left to send. */
void transport_shutdown(struct transport *t, uint64_t id);
/* abort: unsent bytes are thrown away and the peer sees a reset. */
void transport_close(struct transport *t, uint64_t id, bool abort);
/* Something has not been handed to the kernel yet, for want of a turn. */
bool transport_sending(const struct transport *t);
/* fn may close the connection it is given. */
void transport_each(struct transport *t, void (*fn)(void *arg, uint64_t id, void *user), void *arg);
size_t transport_count(const struct transport *t); /* open connections */
/* Bytes in slots and tables, buffers (MEM_buffers) and what waits to be sent not included. Any thread. */
size_t transport_memory(const struct transport *t);

/* ---- timer wheel ---- */

/* 1024 slots of 64 ms. A timer fires never early and at most one slot late, if wheel_advance() is called in
 * time. Setting and cancelling are a list move; to put off one that is set, or to let it go, is a store: it
 * is moved when it is next looked at. Longer timers are looked at once per turn of the wheel (65 s). */
enum { WHEEL_SLOTS = 1024, WHEEL_TICK_MS = 64 };
struct wheel_timer {
    struct wheel_timer *prev, *next; /* NULL when on no list */
    uint32_t due, look; /* ticks: when it fires, WHEEL_NEVER if it was let go; when it is looked at */
};
#define WHEEL_NEVER UINT32_MAX
struct wheel {
    struct wheel_timer slots[WHEEL_SLOTS];
    uint64_t used[WHEEL_SLOTS / 64]; /* a bit for each slot that may hold timers */
    int64_t begin_ms, tick;          /* last tick that was looked at, since the beginning */
    size_t count;                    /* on lists */
};
void wheel_init(struct wheel *w, int64_t now_ms);
void wheel_set(struct wheel *w, struct wheel_timer *t, int64_t due_ms); /* set or move */
void wheel_cancel(struct wheel *w, struct wheel_timer *t);              /* harmless when not set */
/* It will not fire, but may stand on a list until its look: wheel_cancel() it before its memory goes. */
void wheel_let_go(struct wheel_timer *t);
static inline bool wheel_is_set(const struct wheel_timer *t)
{
    return t->next != NULL && t->due != WHEEL_NEVER;
}
/* Fires what is due, max timers at most: each is unset, then fn is called; fn may set and cancel any timer.
 * True: more are due, and the next call goes on with them. */
bool wheel_advance(struct wheel *w, int64_t now_ms, size_t max, void (*fn)(void *arg, struct wheel_timer *t),
                   void *arg);
/* Milliseconds until wheel_advance() has something to look at; -1 when there is no timer. */
int64_t wheel_next_ms(const struct wheel *w, int64_t now_ms);

/* ---- mailbox ---- */

/* Many senders, one receiver: messages arrive in the order in which they were posted, in batches; one wake-up
 * of the receiver's loop per batch, however long. A message is embedded in its object and belongs to the
 * mailbox from post to delivery. At most MAILBOX_SLICE are delivered per turn of the loop. */
enum { MAILBOX_SLICE = 256 };
struct mail {
    struct mail *next;
    int kind; /* the owner's */
};
typedef void mailbox_fn(void *arg, struct mail *m);
struct mailbox;
struct mailbox *mailbox_new(struct uv_loop_s *loop, mailbox_fn *fn, void *arg);
void mailbox_post(struct mailbox *mb, struct mail *m); /* any thread */
/* Delivers at once what has been posted. Receiver's thread. */
void mailbox_drain(struct mailbox *mb);
/* Receiver's thread, when no sender is left; undelivered messages are dropped. */
void mailbox_free(struct mailbox **mb);
#endif
