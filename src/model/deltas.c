/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * How the current state of a room came to be what it is: current_state_delta_stream, for readers who want the
 * state at the end of their timeline (MSC4222; sync-v3 4.4).
 *
 * Nothing is kept of a room until somebody asks. From then on the "state" rows of replication are appended,
 * and what lies before is loaded from the table, for all rooms together:
 *
 *   deltas_known:  complete above deltas_horizon;   otherwise complete above deltas_since
 *
 * A "state-all" row says that the state changed without saying how: all is forgotten and the next reader
 * starts anew. A room keeps the newest DELTAS_MAX; readers from before load again. Cost: one record for each
 * change of state in rooms with such readers.
 */
#include "model_int.h"

enum { DELTAS_MAX = 1000, COMPARED_MAX = 256 };

static void delta_free(struct model *m, struct state_delta *d)
{
    if (d->rec)
        evrec_unpin(m, d->rec);
    mem_free(MEM_rooms, d->mem);
}

void room_deltas_drop(struct model *m, struct room *r)
{
    for (size_t i = 0; i < r->deltas.n; i++)
        delta_free(m, &r->deltas.v[i]);
    vec_free_of(MEM_rooms, &r->deltas);
    r->deltas_kept = r->deltas_known = false;
    r->deltas_gen++;
}

static void delta_push(struct model *m, struct room *r, const struct state_delta *src, struct str event_id)
{
    struct state_delta d = *src;
    char *p = d.mem = mem_new(MEM_rooms, src->type.n + src->state_key.n + 1);
    memcpy(p, src->type.p, src->type.n);
    d.type = str_n(p, src->type.n);
    if (src->state_key.n)
        memcpy(p + src->type.n, src->state_key.p, src->state_key.n);
    d.state_key = str_n(p + src->type.n, src->state_key.n);
    d.rec = str_absent(event_id) ? NULL : model_rec(m, event_id);
    if (d.rec)
        evrec_pin(d.rec);
    vec_push_of(MEM_rooms, &r->deltas, d);
}

static int by_stream_and_key(const void *a, const void *b)
{
    const struct state_delta *x = a, *y = b;
    if (x->stream != y->stream)
        return x->stream < y->stream ? -1 : 1;
    int c = str_cmp(x->type, y->type);
    return c ? c : str_cmp(x->state_key, y->state_key);
}

/* Of one stream id a key changes once; the same row may come from the table and from replication. A room that
 * is joined, or whose state has become whole, changes all its keys at one stream id: a hundred thousand. */
static void deltas_sort(struct model *m, struct room *r)
{
    size_t k = 0;
    if (r->deltas.n > 1)
        qsort(r->deltas.v, r->deltas.n, sizeof *r->deltas.v, by_stream_and_key);
    for (size_t i = 0; i < r->deltas.n; i++) {
        if (k && by_stream_and_key(&r->deltas.v[k - 1], &r->deltas.v[i]) == 0)
            delta_free(m, &r->deltas.v[i]);
        else
            r->deltas.v[k++] = r->deltas.v[i];
    }
    r->deltas.n = k;
}

/* A row of replication has its place at the end, or near it. It may come twice, which costs nothing but its
 * place; so only the nearest rows are compared. */
static void delta_insert(struct model *m, struct room *r, const struct state_delta *src, struct str event_id)
{
    size_t at = r->deltas.n;
    while (at > 0 && r->deltas.v[at - 1].stream > src->stream)
        at--;
    for (size_t i = at; i > 0 && at - i < COMPARED_MAX && r->deltas.v[i - 1].stream == src->stream; i--) {
        if (str_eq(r->deltas.v[i - 1].type, src->type) &&
            str_eq(r->deltas.v[i - 1].state_key, src->state_key))
            return;
    }
    delta_push(m, r, src, event_id);
    struct state_delta d = r->deltas.v[r->deltas.n - 1];
    memmove(&r->deltas.v[at + 1], &r->deltas.v[at], (r->deltas.n - 1 - at) * sizeof d);
    r->deltas.v[at] = d;
}

void room_delta_add(struct model *m, struct room *r, writer_id w, int64_t stream, struct str type,
                    struct str state_key, struct str event_id)
{
    if (!r->deltas_kept)
        return;
    struct state_delta d = {.stream = stream, .writer = w, .type = type, .state_key = state_key};
    delta_insert(m, r, &d, event_id);
}

/* Forgets the oldest beyond the bound; the horizon rises to what is left. */
void room_deltas_trim(struct model *m, struct room *r)
{
    if (r->deltas.n <= DELTAS_MAX || r->deltas_load != LOAD_NONE)
        return;
    size_t drop = r->deltas.n - DELTAS_MAX;
    int64_t horizon = r->deltas.v[drop - 1].stream;
    if (!r->deltas_known) {
        int64_t live = mpos_max(&r->deltas_since);
        horizon = horizon > live ? horizon : live;
    }
    r->deltas_known = true;
    r->deltas_horizon = horizon;
    for (size_t i = 0; i < drop; i++)
        delta_free(m, &r->deltas.v[i]);
    memmove(r->deltas.v, r->deltas.v + drop, (r->deltas.n - drop) * sizeof r->deltas.v[0]);
    r->deltas.n -= drop;
    metric_add(M_model_evictions, (int64_t)drop);
}

enum have model_room_deltas(struct model *m, struct room *r, const struct mpos *lo)
{
    if (!r->deltas_kept) {
        r->deltas_kept = true;
        r->deltas_since = positions_mpos(m->pos[STREAM_EVENTS]);
    }
    if (r->deltas_known ? r->deltas_horizon <= lo->min : mpos_le(&r->deltas_since, lo))
        return HAVE;
    if (r->deltas_load == LOAD_NONE) {
        r->deltas_load = LOAD_QUEUED;
        r->deltas_want_lo = lo->min;
        vec_push(&m->want_deltas, r);
        loader_kick(m);
    } else if (r->deltas_load == LOAD_QUEUED && lo->min < r->deltas_want_lo) {
        r->deltas_want_lo = lo->min;
    }
    return LACK;
}

static void on_deltas(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    for (size_t i = 0; i < op->targets.n; i++) {
        struct room *room = op->targets.v[i];
        if (!r || room->deltas_gen != op->gens.v[i])
            room->deltas_load = LOAD_NONE; /* forgotten meanwhile: asked for again */
    }
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct room *room = model_room_find(m, pg_str(r, i, 0));
        if (!room || room->deltas_load != LOAD_BUSY)
            continue;
        struct state_delta d = {.stream = pg_i64(r, i, 1),
                                .writer = model_writer(m, pg_str(r, i, 2)),
                                .type = pg_str(r, i, 3),
                                .state_key = pg_str(r, i, 4)};
        delta_push(m, room, &d, pg_str(r, i, 5));
    }
    for (size_t i = 0; i < op->targets.n; i++) {
        struct room *room = op->targets.v[i];
        if (room->deltas_load != LOAD_BUSY)
            continue;
        deltas_sort(m, room);
        room->deltas_load = LOAD_NONE;
        room->deltas_known = true;
        room->deltas_horizon = room->deltas_want_lo;
    }
}

void deltas_flush(struct model *m, struct batch *b)
{
    size_t n = m->want_deltas.n;
    if (n == 0)
        return;
    struct load_op *op = load_op_new(m, b, on_deltas);
    struct str *ids = xmalloc(sizeof *ids * n);
    int64_t *lo = xmalloc(sizeof *lo * n), *hi = xmalloc(sizeof *hi * n);
    for (size_t i = 0; i < n; i++) {
        struct room *r = m->want_deltas.v[i];
        r->deltas_load = LOAD_BUSY;
        ids[i] = r->room_id;
        lo[i] = r->deltas_want_lo;
        hi[i] = r->deltas_known ? r->deltas_horizon : mpos_max(&r->deltas_since);
        vec_push(&op->targets, r);
        vec_push(&op->gens, r->deltas_gen);
    }
    struct pg_args *args = pg_args_new();
    pg_args_text_array(args, ids, n);
    pg_args_i64_array(args, lo, n);
    pg_args_i64_array(args, hi, n);
    free(ids);
    free(lo);
    free(hi);
    m->want_deltas.n = 0;
    load_op_send(op, SQL_state_deltas, args);
}
