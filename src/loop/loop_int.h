/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_LOOP_INT_H
#define CHAPPE_LOOP_INT_H
/*
 * What the two transports share: slots, queued sends and the table of operations that differ.
 */
#include "chappe/loop.h"
#include "chappe/map.h"
#include <sys/socket.h>
#include <uv.h>

enum slot_state {
    SLOT_FREE,    /* on the free list */
    SLOT_OPEN,    /* the owner knows it */
    SLOT_CLOSING, /* the owner has let go; waits for the kernel or the loop */
};

/* One transport_send(). Up to FLAT_BYTES are copied behind it: that costs less than counting and gathering
 * slices, and the slices can go at once. Otherwise it is a struct tx_rope. */
enum { FLAT_BYTES = 4096 };
struct tx {
    struct tx *next;
    size_t bytes, sent;
    bool counted; /* its rest is part of waiting_bytes */
    bool flat;
    _Alignas(8) char data[];
};
/* io_uring adds its message header behind. */
struct tx_rope {
    struct tx *next;
    size_t bytes, sent;
    bool counted, flat;
    struct rope rope;
};
_Static_assert(offsetof(struct tx, flat) == offsetof(struct tx_rope, flat), "one begins as the other");
static inline struct tx_rope *tx_rope(struct tx *x)
{
    return (struct tx_rope *)(void *)x;
}

/* Followed in memory by backend_bytes of the implementation and user_bytes of the owner. */
struct slot {
    struct transport *t;
    struct list ready; /* on t->ready while it has something to hand to the kernel */
    struct tx *tx;     /* oldest first; usually none or one */
    uint64_t sent;
    uint32_t index, gen;
    int fd;
    uint16_t ops;  /* operations the kernel or the loop still has */
    uint16_t ring; /* io_uring: which one; fd is a place in its table, if it has one */
    uint8_t state;
    bool paused;
    bool eof; /* reported, or a reset */
    bool recv_armed;
    bool send_busy; /* io_uring: the first tx is with the kernel */
    bool abort;
};

struct listener {
    struct list link;
    struct transport *t;
    uv_poll_t poll; /* libuv only */
    int fd, tag;
    uint32_t index;
    bool closing, armed, is_unix;
};

struct transport_ops {
    size_t backend_bytes; /* per slot */
    size_t tx_rope_bytes;
    size_t listener_bytes;              /* struct listener included */
    void (*slot_open)(struct slot *s);  /* fd is set: start to receive */
    void (*slot_close)(struct slot *s); /* must lead to slot_release() */
    void (*slot_recv)(struct slot *s);  /* paused has changed */
    void (*slot_shutdown)(struct slot *s);
    void (*listener_arm)(struct listener *l);
    void (*listener_close)(struct listener *l); /* must lead to listener_release() */
    void (*stop)(struct transport *t);          /* after all slots and listeners were told to close */
};

enum { SLOT_CHUNK = 256, SEND_SLICE = 64, EVENTS_TOGETHER = 16 };

struct transport {
    const struct transport_ops *ops;
    struct transport_options o;
    uv_loop_t *loop;
    char **chunks; /* SLOT_CHUNK slots each, never moved */
    size_t chunks_count, slot_bytes;
    _Atomic size_t memory;
    uint32_t *free_slots;                      /* stack of indexes */
    size_t free_count, open_count, live_count; /* live: open or closing */
    struct list ready;
    struct list listeners;
    uint32_t listener_next;
    size_t listeners_live;
    uv_prepare_t prepare;
    uv_idle_t idle;   /* runs only while sends are left over: keeps the loop from sleeping */
    uv_timer_t retry; /* after accept() found no descriptor */
    int handles_open; /* of this struct's own */
    bool stopping;
    bool idle_on;
    bool dead; /* operations did not end: memory they may point to is kept */
};

/* transport.c */
void transport_init(struct transport *t, const struct transport_ops *ops, uv_loop_t *loop,
                    const struct transport_options *o, uv_prepare_cb prepare);
struct slot *transport_slot(const struct transport *t, uint32_t index);
void *slot_backend(struct slot *s);
void *slot_user(struct slot *s);
static inline uint64_t slot_id(const struct slot *s)
{
    return (uint64_t)s->gen << 32 | s->index;
}
void transport_accepted(struct transport *t, struct listener *l, int fd, uint16_t ring,
                        const struct sockaddr_storage *peer);
void transport_accept_failed(struct transport *t, int system_errno);
void slot_release(struct slot *s);
void listener_release(struct listener *l);
void slot_ready(struct slot *s);
/* Accounting around what the kernel takes: the reader does not take x at once. True if the limit was passed.
 */
bool tx_begin(struct slot *s, struct tx *x);
void tx_progress(struct slot *s, struct tx *x, size_t n);
/* To be said before events. */
static inline void transport_events_begin(struct transport *t)
{
    if (t->o.events.on_events)
        t->o.events.on_events(t->o.arg);
}
/* Takes the oldest send off and tells the owner. */
void slot_sent(struct slot *s, int status);
void slot_eof(struct slot *s, int err);
void transport_idle_set(struct transport *t, bool on);
/* Frees t if nothing of it is left. */
void transport_reap(struct transport *t);
void transport_handle_closed(uv_handle_t *h);

int transport_uv_new(struct transport **out, uv_loop_t *loop, const struct transport_options *o);
int transport_uring_new(struct transport **out, uv_loop_t *loop, const struct transport_options *o,
                        bool direct, struct err *e) NODISCARD;
/* 0, or -ERR_UNSUPPORTED with the failing step in e. */
int transport_uring_probe(bool direct, struct err *e) NODISCARD;
#endif
