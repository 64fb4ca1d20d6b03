/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Messages between threads: senders push on an atomic stack, the receiver takes the whole stack at once and
 * turns it round. Only the push that finds the stack empty wakes the receiver (waking an idle core costs
 * 25-30 µs, a push 20 ns), so a fan-out of ten thousand replies costs one wake-up. Delivery is cut into
 * slices: what is left over waits for the next turn of the receiver's loop, after its sockets and timers.
 */
#include "chappe/loop.h"
#include <stdlib.h>
#include <uv.h>

struct mailbox {
    uv_async_t async;
    _Atomic(struct mail *) in; /* newest first */
    struct mail *todo;         /* oldest first; receiver only */
    mailbox_fn *fn;
    void *arg;
    bool closed;
};

/* Appends what has come in since to the list of things to deliver. */
static void collect(struct mailbox *mb)
{
    struct mail *m = atomic_exchange_explicit(&mb->in, NULL, memory_order_acquire);
    struct mail *fifo = NULL;
    while (m) {
        struct mail *next = m->next;
        m->next = fifo;
        fifo = m;
        m = next;
    }
    struct mail **last = &mb->todo;
    while (*last)
        last = &(*last)->next;
    *last = fifo;
}

static void on_async(uv_async_t *h)
{
    struct mailbox *mb = h->data;
    if (!mb->todo)
        collect(mb);
    for (int i = 0; i < MAILBOX_SLICE && mb->todo && !mb->closed; i++) {
        struct mail *m = mb->todo;
        mb->todo = m->next;
        m->next = NULL;
        mb->fn(mb->arg, m);
    }
    /* Either more of this batch, or a batch whose wake-up was merged with ours. */
    if (!mb->closed && (mb->todo || atomic_load_explicit(&mb->in, memory_order_relaxed)))
        uv_async_send(&mb->async);
}

struct mailbox *mailbox_new(struct uv_loop_s *loop, mailbox_fn *fn, void *arg)
{
    struct mailbox *mb = xcalloc(1, sizeof *mb);
    mb->fn = fn;
    mb->arg = arg;
    ASSERT(uv_async_init(loop, &mb->async, on_async) == 0);
    mb->async.data = mb;
    return mb;
}

void mailbox_post(struct mailbox *mb, struct mail *m)
{
    struct mail *head = atomic_load_explicit(&mb->in, memory_order_relaxed);
    do
        m->next = head;
    while (!atomic_compare_exchange_weak_explicit(&mb->in, &head, m, memory_order_release,
                                                  memory_order_relaxed));
    if (!head)
        uv_async_send(&mb->async);
}

void mailbox_drain(struct mailbox *mb)
{
    collect(mb);
    while (mb->todo) {
        struct mail *m = mb->todo;
        mb->todo = m->next;
        m->next = NULL;
        mb->fn(mb->arg, m);
    }
}

static void on_closed(uv_handle_t *h)
{
    free(h->data);
}

void mailbox_free(struct mailbox **mbp)
{
    struct mailbox *mb = *mbp;
    *mbp = NULL;
    if (!mb)
        return;
    mb->closed = true;
    uv_close((uv_handle_t *)&mb->async, on_closed);
}
