/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The loader: wants become statements.
 *
 * Readers queue what they lack (each object knows whether it is queued, so a thousand readers of one room
 * queue it once). At the end of the loop turn the open batch is flushed: every queue becomes one statement
 * over arrays. A batch is done when its statements are; the readers that waited run once it and all earlier
 * batches are done, since what they lacked may have been under way already. Depth of the wants, not their
 * number, decides how many rounds there are.
 *
 * Whoever asks during a storm asks together. While readers that have not been computed yet stand in line
 * (model_load_gather) the open batch stays open, GATHER_US at most; and with BATCHES_UNDER_WAY batches at the
 * database the next waits until one of them is back: its readers could not run before those anyway. So the
 * statements of a reconnect storm follow from the time it takes, not from the number of devices.
 *
 * A statement that PostgreSQL refuses (it took too long, or one of its values will not do) would fail all who
 * waited for the batch. So they try again one by one, each with a batch of its own: who is to blame fails,
 * the others get their answer. That is slow, and rare.
 */
#include "model_int.h"

enum { GATHER_US = 20000 };

struct batch *loader_open(struct model *m)
{
    if (!m->open) {
        m->open = xcalloc(1, sizeof *m->open);
        m->open->m = m;
        m->open->opened_us = clock_mono_us();
        list_push(&m->batches, &m->open->link);
    }
    return m->open;
}

void loader_kick(struct model *m)
{
    loader_open(m);
}

static void loader_flush(struct model *m);

static void suspects_run(struct model *m)
{
    if (m->suspecting)
        return;
    m->suspecting = true;
    while (!m->solo && m->suspects.n) {
        struct batch_waiter w = m->suspects.v[0];
        m->suspects.n--;
        memmove(m->suspects.v, m->suspects.v + 1, m->suspects.n * sizeof w);
        loader_flush(m); /* what others want goes by itself */
        w.fn(w.arg, m->stopping ? -ERR_SHUTDOWN : 0);
        if (m->open && !m->stopping) {
            m->solo = m->open;
            loader_flush(m);
        }
    }
    m->suspecting = false;
}

static void batch_done(struct model *m, struct batch *b)
{
    bool apart = b->err == -ERR_DB && b->waiters.n > 1 && !m->stopping;
    if (m->solo == b)
        m->solo = NULL;
    m->batches_sent--;
    if (apart)
        metric_add(M_loader_retried_apart, (int64_t)b->waiters.n);
    for (size_t i = 0; i < b->waiters.n; i++) {
        if (apart)
            vec_push(&m->suspects, b->waiters.v[i]);
        else
            b->waiters.v[i].fn(b->waiters.v[i].arg, m->stopping ? -ERR_SHUTDOWN : b->err);
    }
    vec_free(&b->waiters);
    free(b);
}

/* Runs the waiters of leading batches that are complete. */
static void loader_advance(struct model *m)
{
    while (!list_empty(&m->batches)) {
        struct batch *b = container_of(m->batches.next, struct batch, link);
        if (!b->sent || b->outstanding > 0)
            break;
        list_del(&b->link);
        batch_done(m, b);
    }
    suspects_run(m);
}

static void loader_flush(struct model *m)
{
    struct batch *b = m->open;
    if (!b)
        return;
    m->open = NULL;
    b->sent = true;
    m->batches_sent++;
    b->outstanding++; /* not complete while we are sending */
    metric_add(M_loader_batches, 1);
    events_flush(m, b);
    timeline_flush(m, b);
    state_flush(m, b);
    deltas_flush(m, b);
    user_flush(m, b);
    unread_flush(m, b);
    device_flush(m, b);
    relations_flush(m, b);
    b->outstanding--;
    loader_advance(m);
}

void model_load_gather(struct model *m, bool more)
{
    m->gather = more;
}

/* Is it better to wait for what others will want? */
static bool gathering(const struct model *m)
{
    if (m->stopping)
        return false;
    if (m->batches_sent >= BATCHES_UNDER_WAY)
        return true;
    return m->gather && clock_mono_us() - m->open->opened_us < GATHER_US;
}

static void on_prepare(uv_prepare_t *h)
{
    struct model *m = h->data;
    burst_held(m);
    /* A flush may answer readers at once (nothing to send) and they may want more: bounded rounds, then the
     * next turn. */
    for (int i = 0; i < 16 && m->open && !gathering(m); i++)
        loader_flush(m);
}

void model_load(struct model *m, model_loaded_fn *fn, void *arg)
{
    struct batch *b = loader_open(m);
    vec_push(&b->waiters, ((struct batch_waiter){fn, arg}));
}

bool model_load_apart(const struct model *m)
{
    return m->suspecting;
}

void model_load_cancel(struct model *m, const void *arg)
{
    struct batch *b;
    list_each(b, &m->batches, struct batch, link) {
        size_t n = 0;
        for (size_t i = 0; i < b->waiters.n; i++) {
            if (b->waiters.v[i].arg != arg)
                b->waiters.v[n++] = b->waiters.v[i];
        }
        b->waiters.n = n;
    }
    size_t n = 0;
    for (size_t i = 0; i < m->suspects.n; i++) {
        if (m->suspects.v[i].arg != arg)
            m->suspects.v[n++] = m->suspects.v[i];
    }
    m->suspects.n = n;
}

struct load_op *load_op_new(struct model *m, struct batch *b, load_done_fn *done)
{
    struct load_op *op = xcalloc(1, sizeof *op);
    op->m = m;
    op->batch = b;
    op->done = done;
    return op;
}

static void on_result(void *arg, int err, const struct pg_result *r)
{
    struct load_op *op = arg;
    struct model *m = op->m;
    struct batch *b = op->batch;
    m->serial++;
    op->failed = err != 0;
    op->done(op, err ? NULL : r);
    if (b) {
        if (err && !b->err)
            b->err = err;
        b->outstanding--;
    }
    vec_free(&op->targets);
    vec_free(&op->gens);
    free(op);
    if (b)
        loader_advance(m);
}

void load_op_send(struct load_op *op, enum pg_stmt stmt, struct pg_args *args)
{
    if (op->batch)
        op->batch->outstanding++;
    pg_exec(op->m->pg, stmt, args, on_result, op);
}

void loader_init(struct model *m)
{
    list_init(&m->batches);
    m->prepare = xcalloc(1, sizeof *m->prepare);
    uv_prepare_init(m->loop, m->prepare);
    m->prepare->data = m;
    uv_prepare_start(m->prepare, on_prepare);
    uv_unref((uv_handle_t *)m->prepare);
}

static void free_handle(uv_handle_t *h)
{
    free(h);
}

void loader_fini(struct model *m)
{
    /* pg has been stopped: every statement sent has ended. What was never sent ends here. */
    if (m->open) {
        m->open->sent = true;
        m->batches_sent++;
    }
    m->open = NULL;
    loader_advance(m);
    vec_free(&m->suspects);
    if (m->prepare) {
        uv_prepare_stop(m->prepare);
        uv_close((uv_handle_t *)m->prepare, free_handle);
        m->prepare = NULL;
    }
}
