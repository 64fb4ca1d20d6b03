/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The part of a transport that does not depend on how the kernel is asked: slots, queues, accounting,
 * teardown.
 *
 * Slots live in chunks that never move, because the kernel and the loop hold pointers into them. A slot goes
 * FREE → OPEN (accept) → CLOSING (owner closed) → FREE (the last operation is over); its generation changes
 * with each use, and index | generation << 32 is the only name that leaves this module.
 *
 * transport_send() only queues: the slot joins the ready list, and the implementation drains that list in
 * slices from a uv_prepare, so that a fan-out to 15,000 readers is interleaved with everybody else's
 * requests. While something is left over, a uv_idle keeps the loop from sleeping.
 */
#include "loop_int.h"
#include <netinet/in.h>
#include <stdlib.h>
#include <unistd.h>

enum { RETRY_MS = 100 };

static size_t round16(size_t n)
{
    return (n + 15) & ~(size_t)15;
}

const char *transport_kind_name(enum transport_kind kind)
{
    return kind == TRANSPORT_UV ? "uv" : "uring";
}

int transport_new(struct transport **out, enum transport_kind kind, struct uv_loop_s *loop,
                  const struct transport_options *o, struct err *e)
{
#ifdef CHAPPE_HAVE_URING
    if (kind != TRANSPORT_UV)
        return transport_uring_new(out, loop, o, kind == TRANSPORT_URING_DIRECT, e);
#endif
    if (kind != TRANSPORT_UV)
        return err_set(e, ERR_UNSUPPORTED, "built without io_uring");
    return transport_uv_new(out, loop, o);
}

void transport_init(struct transport *t, const struct transport_ops *ops, uv_loop_t *loop,
                    const struct transport_options *o, uv_prepare_cb prepare)
{
    t->ops = ops;
    t->o = *o;
    t->loop = loop;
    t->slot_bytes = round16(sizeof(struct slot)) + round16(ops->backend_bytes) + round16(o->user_bytes);
    list_init(&t->ready);
    list_init(&t->listeners);
    ASSERT(uv_prepare_init(loop, &t->prepare) == 0 && uv_idle_init(loop, &t->idle) == 0);
    ASSERT(uv_timer_init(loop, &t->retry) == 0);
    t->prepare.data = t->idle.data = t->retry.data = t;
    t->handles_open = 3;
    ASSERT(uv_prepare_start(&t->prepare, prepare) == 0);
}

/* ---- slots ---- */

struct slot *transport_slot(const struct transport *t, uint32_t index)
{
    if (index / SLOT_CHUNK >= t->chunks_count)
        return NULL;
    return (struct slot *)(void *)(t->chunks[index / SLOT_CHUNK] +
                                   (size_t)(index % SLOT_CHUNK) * t->slot_bytes);
}

void *slot_backend(struct slot *s)
{
    return (char *)s + round16(sizeof *s);
}
void *slot_user(struct slot *s)
{
    return (char *)s + s->t->slot_bytes - round16(s->t->o.user_bytes);
}

uint64_t transport_id(const struct transport *t, const void *user)
{
    const char *slot = (const char *)user - (t->slot_bytes - round16(t->o.user_bytes));
    return slot_id((const struct slot *)(const void *)slot);
}

static struct slot *slot_find(const struct transport *t, uint64_t id)
{
    struct slot *s = transport_slot(t, (uint32_t)id);
    return s && s->state == SLOT_OPEN && s->gen == (uint32_t)(id >> 32) ? s : NULL;
}

static void chunk_add(struct transport *t)
{
    t->chunks = xrealloc(t->chunks, (t->chunks_count + 1) * sizeof *t->chunks);
    t->chunks[t->chunks_count++] = xcalloc(SLOT_CHUNK, t->slot_bytes);
    t->free_slots = xrealloc(t->free_slots, t->chunks_count * SLOT_CHUNK * sizeof *t->free_slots);
    atomic_fetch_add(&t->memory, sizeof *t->chunks + SLOT_CHUNK * (t->slot_bytes + sizeof *t->free_slots));
    for (uint32_t i = SLOT_CHUNK; i-- > 0;) {
        uint32_t index = (uint32_t)(t->chunks_count - 1) * SLOT_CHUNK + i;
        struct slot *s = transport_slot(t, index);
        s->t = t;
        s->index = index;
        s->fd = -1;
        list_init(&s->ready);
        t->free_slots[t->free_count++] = index;
    }
}

static void tx_free(struct slot *s, struct tx *x)
{
    if (x->counted)
        atomic_fetch_sub(s->t->o.waiting_bytes, (int64_t)(x->bytes - x->sent));
    if (!x->flat)
        rope_fini(&tx_rope(x)->rope);
    free(x);
}

void transport_accepted(struct transport *t, struct listener *l, int fd, uint16_t ring,
                        const struct sockaddr_storage *peer)
{
    if (t->free_count == 0)
        chunk_add(t);
    struct slot *s = transport_slot(t, t->free_slots[--t->free_count]);
    uint32_t gen = s->gen + 1;
    uint32_t index = s->index;
    memset(s, 0, t->slot_bytes);
    s->t = t;
    s->index = index;
    s->gen = gen ? gen : 1;
    list_init(&s->ready);
    s->fd = fd;
    s->ring = ring;
    s->state = SLOT_OPEN;
    t->open_count++;
    t->live_count++;
    t->ops->slot_open(s);
    t->o.events.on_accept(t->o.arg, slot_id(s), slot_user(s), l->tag, l->is_unix ? NULL : peer);
}

/* Everything but a send that the kernel is reading from. */
static void tx_drop_queued(struct slot *s)
{
    struct tx **rest = s->send_busy ? &s->tx->next : &s->tx;
    while (*rest) {
        struct tx *x = *rest;
        *rest = x->next;
        tx_free(s, x);
    }
}

void slot_release(struct slot *s)
{
    struct transport *t = s->t;
    ASSERT(s->state == SLOT_CLOSING && s->ops == 0);
    s->send_busy = false;
    tx_drop_queued(s);
    if (s->fd >= 0) {
        if (s->abort) {
            struct linger hard = {.l_onoff = 1, .l_linger = 0};
            (void)setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        }
        close(s->fd);
    }
    s->fd = -1;
    s->state = SLOT_FREE;
    t->free_slots[t->free_count++] = s->index;
    ASSERT(t->live_count > 0);
    t->live_count--;
    transport_reap(t);
}

void *transport_user(struct transport *t, uint64_t id)
{
    struct slot *s = slot_find(t, id);
    return s ? slot_user(s) : NULL;
}

void transport_soon(const struct transport *t, uint64_t id)
{
    mem_soon(transport_slot(t, (uint32_t)id), t->slot_bytes);
}

uint64_t transport_sent_bytes(struct transport *t, uint64_t id)
{
    struct slot *s = slot_find(t, id);
    return s ? s->sent : 0;
}

size_t transport_count(const struct transport *t)
{
    return t->open_count;
}

size_t transport_memory(const struct transport *t)
{
    return atomic_load_explicit(&t->memory, memory_order_relaxed);
}

bool transport_sending(const struct transport *t)
{
    return !list_empty(&t->ready);
}

void transport_recv_pause(struct transport *t, uint64_t id)
{
    struct slot *s = slot_find(t, id);
    if (s && !s->paused) {
        s->paused = true;
        t->ops->slot_recv(s);
    }
}

void transport_recv_resume(struct transport *t, uint64_t id)
{
    struct slot *s = slot_find(t, id);
    if (s && s->paused) {
        s->paused = false;
        t->ops->slot_recv(s);
    }
}

void transport_shutdown(struct transport *t, uint64_t id)
{
    struct slot *s = slot_find(t, id);
    if (s)
        t->ops->slot_shutdown(s);
}

void transport_close(struct transport *t, uint64_t id, bool abort)
{
    struct slot *s = slot_find(t, id);
    if (!s)
        return;
    s->state = SLOT_CLOSING;
    s->abort = abort;
    list_del(&s->ready);
    t->open_count--;
    /* Sends that the kernel has not seen go now; the one in flight, if any, stays until it comes back. */
    tx_drop_queued(s);
    t->ops->slot_close(s);
}

void transport_each(struct transport *t, void (*fn)(void *arg, uint64_t id, void *user), void *arg)
{
    for (uint32_t i = 0; i < t->chunks_count * SLOT_CHUNK; i++) {
        struct slot *s = transport_slot(t, i);
        if (s->state == SLOT_OPEN)
            fn(arg, slot_id(s), slot_user(s));
    }
}

/* ---- sending ---- */

static void idle_tick(uv_idle_t *h)
{
    (void)h; /* the loop does not sleep; the prepare callback does the work */
}

void transport_idle_set(struct transport *t, bool on)
{
    if (on == t->idle_on || t->stopping)
        return;
    t->idle_on = on;
    if (on)
        ASSERT(uv_idle_start(&t->idle, idle_tick) == 0);
    else
        uv_idle_stop(&t->idle);
}

void slot_ready(struct slot *s)
{
    if (list_empty(&s->ready))
        list_push(&s->t->ready, &s->ready);
}

static struct tx *tx_new(struct transport *t, struct str head, struct rope *body)
{
    size_t bytes = head.n + body->bytes;
    bool flat = bytes <= FLAT_BYTES;
    struct tx *x = xmalloc(flat ? sizeof *x + bytes : t->ops->tx_rope_bytes);
    x->next = NULL;
    x->bytes = bytes;
    x->sent = 0;
    x->counted = false;
    x->flat = flat;
    if (flat) {
        char *to = x->data;
        if (head.n)
            memcpy(to, head.p, head.n);
        to += head.n;
        for (size_t i = 0; i < body->n; to += body->v[i].n, i++)
            memcpy(to, body->v[i].p, body->v[i].n);
        rope_fini(body);
    } else if (head.n == 0) {
        rope_move(&tx_rope(x)->rope, body);
    } else {
        struct rope *r = &tx_rope(x)->rope;
        rope_init(r);
        rope_put(r, head);
        rope_rope(r, body);
        rope_fini(body);
    }
    return x;
}

void transport_send(struct transport *t, uint64_t id, struct rope *body)
{
    transport_send_after(t, id, STR(""), body);
}

void transport_send_after(struct transport *t, uint64_t id, struct str head, struct rope *body)
{
    struct slot *s = slot_find(t, id);
    if (!s) {
        rope_fini(body);
        return;
    }
    struct tx *x = tx_new(t, head, body);
    struct tx **last = &s->tx;
    while (*last)
        last = &(*last)->next;
    *last = x;
    if (s->tx == x)
        slot_ready(s);
}

bool tx_begin(struct slot *s, struct tx *x)
{
    if (x->counted)
        return false;
    int64_t rest = (int64_t)(x->bytes - x->sent);
    x->counted = true;
    return atomic_fetch_add(s->t->o.waiting_bytes, rest) + rest > s->t->o.waiting_max;
}

void tx_progress(struct slot *s, struct tx *x, size_t n)
{
    x->sent += n;
    s->sent += n;
    if (x->counted)
        atomic_fetch_sub(s->t->o.waiting_bytes, (int64_t)n);
}

void slot_sent(struct slot *s, int status)
{
    struct tx *x = s->tx;
    s->tx = x->next;
    tx_free(s, x);
    if (s->state != SLOT_OPEN)
        return;
    if (s->tx && status == 0)
        slot_ready(s);
    s->t->o.events.on_sent(s->t->o.arg, slot_user(s), status);
}

/* ---- receiving ---- */

void slot_eof(struct slot *s, int err)
{
    if (s->state != SLOT_OPEN || s->eof)
        return;
    s->eof = true;
    s->t->o.events.on_eof(s->t->o.arg, slot_user(s), err);
}

/* ---- listeners ---- */

static void retry_accept(uv_timer_t *h)
{
    struct transport *t = h->data;
    struct listener *l;
    list_each(l, &t->listeners, struct listener, link) {
        if (!l->closing && !l->armed)
            t->ops->listener_arm(l);
    }
}

void transport_accept_failed(struct transport *t, int system_errno)
{
    if (t->stopping || uv_is_active((uv_handle_t *)&t->retry))
        return;
    uv_timer_start(&t->retry, retry_accept, RETRY_MS, 0);
    t->o.events.on_accept_failed(t->o.arg, system_errno);
}

void transport_listen(struct transport *t, int fd, int tag)
{
    struct sockaddr_storage sa = {0};
    socklen_t n = sizeof sa;
    struct listener *l = xcalloc(1, t->ops->listener_bytes);
    l->t = t;
    l->fd = fd;
    l->tag = tag;
    l->index = t->listener_next++;
    l->is_unix = getsockname(fd, (struct sockaddr *)&sa, &n) == 0 && sa.ss_family == AF_UNIX;
    list_init(&l->link);
    list_push(&t->listeners, &l->link);
    t->listeners_live++;
    t->ops->listener_arm(l);
}

void transport_unlisten(struct transport *t, int tag)
{
    struct listener *l;
    list_each(l, &t->listeners, struct listener, link) {
        if (l->tag == tag && !l->closing) {
            l->closing = true;
            t->ops->listener_close(l);
        }
    }
}

void listener_release(struct listener *l)
{
    struct transport *t = l->t;
    close(l->fd);
    list_del(&l->link);
    free(l);
    t->listeners_live--;
    transport_reap(t);
}

/* ---- end ---- */

void transport_handle_closed(uv_handle_t *h)
{
    struct transport *t = h->data;
    t->handles_open--;
    transport_reap(t);
}

void transport_reap(struct transport *t)
{
    if (!t->stopping || t->handles_open > 0 || (!t->dead && (t->live_count > 0 || t->listeners_live > 0)))
        return;
    if (t->dead)
        return; /* the kernel may still write into it: a leak is the smaller evil, and the process is ending
                 */
    for (size_t i = 0; i < t->chunks_count; i++)
        free(t->chunks[i]);
    free(t->chunks);
    free(t->free_slots);
    free(t);
}

static void close_one(void *arg, uint64_t id, void *user)
{
    (void)user;
    transport_close(arg, id, false);
}

void transport_free(struct transport **tp)
{
    struct transport *t = *tp;
    *tp = NULL;
    if (!t)
        return;
    struct listener *l;
    list_each(l, &t->listeners, struct listener, link) {
        if (!l->closing) {
            l->closing = true;
            t->ops->listener_close(l);
        }
    }
    transport_each(t, close_one, t);
    transport_idle_set(t, false);
    t->ops->stop(t);
    t->stopping = true;
    uv_close((uv_handle_t *)&t->prepare, transport_handle_closed);
    uv_close((uv_handle_t *)&t->idle, transport_handle_closed);
    uv_close((uv_handle_t *)&t->retry, transport_handle_closed);
}
