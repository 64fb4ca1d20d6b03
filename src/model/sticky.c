/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Sticky events that have not expired (MSC4354), of all rooms together: they live for an hour at most, so the
 * homeserver has few of them at a time, and every reader finds its own by walking over what is newer than its
 * token.
 *
 * All are read at start. A replication row names an event but not its end, so the rows of a burst are read by
 * their stream ids in one statement, and the stream's position advances only when they are in. Nothing
 * happens here while the feature is off: then only the position is followed (rows.c). Events that were
 * soft-failed when they came are left out by the statements, as in Synapse 1.157
 * storage/databases/main/sticky_events.py.
 */
#include "model_int.h"

enum { STICKY_MAX = 200000 /* the limit of SQL_sticky_all */ };

static void sticky_free(struct model *m, struct sticky_event *s)
{
    evrec_unpin(m, s->rec);
    free((void *)(uintptr_t)s->room_id.p);
}

static void sticky_drop_oldest(struct model *m, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sticky_free(m, &m->sticky.v[i]);
    memmove(m->sticky.v, m->sticky.v + n, (m->sticky.n - n) * sizeof m->sticky.v[0]);
    m->sticky.n -= n;
    metric_add(M_model_evictions, (int64_t)n);
}

/* One row of either statement; ascending by stream id. */
static void sticky_take(struct model *m, const struct pg_result *r, int row)
{
    int64_t stream = pg_i64(r, row, 0);
    size_t at = m->sticky.n;
    while (at > 0 && m->sticky.v[at - 1].stream > stream)
        at--;
    if (at > 0 && m->sticky.v[at - 1].stream == stream)
        return;
    struct sticky_event s = {.stream = stream,
                             .writer = model_writer(m, pg_str(r, row, 1)),
                             .room_id = str_dup(pg_str(r, row, 2)),
                             .rec = model_rec(m, pg_str(r, row, 3)),
                             .expires_ms = pg_i64(r, row, 4)};
    evrec_pin(s.rec);
    vec_push(&m->sticky, s);
    memmove(&m->sticky.v[at + 1], &m->sticky.v[at], (m->sticky.n - 1 - at) * sizeof s);
    m->sticky.v[at] = s;
    struct room *room = model_room_find(m, s.room_id);
    if (room)
        model_wake_room(m, room);
    if (m->sticky.n > STICKY_MAX)
        sticky_drop_oldest(m, STICKY_MAX / 4);
}

/* ---- start ---- */

static void on_all(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    if (!r) {
        m->retry_sticky = true;
        return;
    }
    for (int i = pg_rows(r); i-- > 0;) /* newest first */
        sticky_take(m, r, i);
    m->starting--;
    model_run_woken(m);
}

void sticky_load(struct model *m)
{
    struct pg_args *args = pg_args_new();
    pg_args_i64(args, clock_wall_ms());
    load_op_send(load_op_new(m, NULL, on_all), SQL_sticky_all, args);
}

void sticky_start(struct model *m)
{
    if (!m->cfg->msc4354_enabled)
        return;
    m->starting++;
    sticky_load(m);
}

/* ---- rows ---- */

/* Up to Synapse 1.163 a token reaches only as far as all writers do: what a faster one has brought comes into
 * view when the others follow. */
static void wake_reached(struct model *m, int64_t before)
{
    int64_t upto = positions_persisted_upto(m->pos[STREAM_STICKY_EVENTS]);
    for (size_t i = m->sticky.n; i-- > 0 && m->sticky.v[i].stream > before;) {
        struct room *room = m->sticky.v[i].stream <= upto ? model_room_find(m, m->sticky.v[i].room_id) : NULL;
        if (room)
            model_wake_room(m, room);
    }
}

/* The positions whose rows are in. */
static void advance(struct model *m, size_t n)
{
    int64_t before = positions_persisted_upto(m->pos[STREAM_STICKY_EVENTS]);
    for (size_t i = 0; i < n; i++)
        positions_advance(m->pos[STREAM_STICKY_EVENTS], m->sticky_advances.v[i].w,
                          m->sticky_advances.v[i].token);
    m->sticky_advances.n -= n;
    if (m->sticky_advances.n)
        memmove(m->sticky_advances.v, m->sticky_advances.v + n,
                m->sticky_advances.n * sizeof(struct dl_advance));
    m->now_dirty = true;
    wake_reached(m, before);
}

static void on_new(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    m->sticky_pending = false;
    if (!r) { /* the tick tries again */
        m->sticky_asked_n = 0;
        return;
    }
    for (int i = 0; i < pg_rows(r); i++)
        sticky_take(m, r, i);
    m->sticky_wanted.n -= m->sticky_asked_n;
    if (m->sticky_wanted.n)
        memmove(m->sticky_wanted.v, m->sticky_wanted.v + m->sticky_asked_n,
                m->sticky_wanted.n * sizeof m->sticky_wanted.v[0]);
    advance(m, m->sticky_asked_advances);
    sticky_fetch(m); /* may advance further */
    model_run_woken(m);
}

void sticky_fetch(struct model *m)
{
    if (m->sticky_pending || m->stopping)
        return;
    if (m->sticky_wanted.n == 0) {
        if (m->sticky_advances.n)
            advance(m, m->sticky_advances.n);
        return;
    }
    m->sticky_pending = true;
    m->sticky_asked_n = m->sticky_wanted.n;
    m->sticky_asked_advances = m->sticky_advances.n;
    struct pg_args *args = pg_args_new();
    pg_args_i64_array(args, m->sticky_wanted.v, m->sticky_wanted.n);
    load_op_send(load_op_new(m, NULL, on_new), SQL_sticky_by_stream_id, args);
}

void sticky_rows(struct model *m, writer_id w, int64_t token, size_t n)
{
    if (n)
        vec_push(&m->sticky_wanted, token);
    vec_push(&m->sticky_advances, ((struct dl_advance){w, token}));
}

/* ---- reading ---- */

void model_sticky_each(struct model *m, bool (*fn)(void *arg, const struct sticky_event *s), void *arg)
{
    for (size_t i = 0; i < m->sticky.n && fn(arg, &m->sticky.v[i]); i++)
        ;
}

void sticky_expire(struct model *m)
{
    int64_t now = clock_wall_ms();
    size_t k = 0;
    for (size_t i = 0; i < m->sticky.n; i++) {
        if (m->sticky.v[i].expires_ms > now)
            m->sticky.v[k++] = m->sticky.v[i];
        else
            sticky_free(m, &m->sticky.v[i]);
    }
    m->sticky.n = k;
}

void sticky_fini(struct model *m)
{
    for (size_t i = 0; i < m->sticky.n; i++)
        sticky_free(m, &m->sticky.v[i]);
    vec_free(&m->sticky);
    vec_free(&m->sticky_wanted);
    vec_free(&m->sticky_advances);
}
