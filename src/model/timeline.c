/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Timelines: the known non-outlier events of a room, in one vector sorted by stream ordering, with two
 * horizons.
 *
 *   stream:       everything above since_events (absorbed live), or above tl_horizon once a page was loaded,
 * is there topological:  everything at or above (topo_t, topo_s) is there
 *
 * Entries below a horizon may exist (the other order loaded them) and are not trusted by pages of this order.
 * Pages are read out of the vector; when the horizon is not low enough the want is noted with what is needed.
 */
#include "model_int.h"

static size_t tl_lower_bound(const struct room *r, int64_t stream)
{
    size_t lo = 0, hi = r->tl.n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (r->tl.v[mid].stream < stream)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

void room_tl_insert(struct model *m, struct room *r, struct evrec *rec, int64_t stream, int64_t topological,
                    writer_id w)
{
    (void)m;
    size_t i = tl_lower_bound(r, stream);
    if (i < r->tl.n && r->tl.v[i].stream == stream)
        return;
    struct tl_entry e = {stream, topological, w, rec};
    evrec_pin(rec);
    vec_push_of(MEM_rooms, &r->tl, e);
    memmove(&r->tl.v[i + 1], &r->tl.v[i], (r->tl.n - 1 - i) * sizeof e);
    r->tl.v[i] = e;
    if (stream > r->last_event)
        r->last_event = stream;
}

/* Something may have been stored anywhere in depth: what is known in that order is not complete any more. */
void room_topological_stale(struct room *r)
{
    r->topo_known = false;
    r->topo_gen++;
}

/* Forgets the oldest entries beyond max; both horizons rise to what is left. */
void room_tl_trim(struct model *m, struct room *r, size_t max)
{
    if (r->tl.n <= max || r->tl_load == LOAD_BUSY || r->topo_load == LOAD_BUSY)
        return; /* with the next burst */
    size_t drop = r->tl.n - max;
    int64_t horizon = r->tl.v[drop - 1].stream;
    if (!r->tl_horizon_known) {
        int64_t live = mpos_max(&r->since_events);
        horizon = horizon > live ? horizon : live;
        r->tl_horizon_known = true;
        r->tl_horizon = horizon;
    } else if (horizon > r->tl_horizon) {
        r->tl_horizon = horizon;
    }
    r->topo_known = false;
    for (size_t i = 0; i < drop; i++)
        evrec_unpin(m, r->tl.v[i].rec);
    memmove(r->tl.v, r->tl.v + drop, (r->tl.n - drop) * sizeof r->tl.v[0]);
    r->tl.n -= drop;
    metric_add(M_model_evictions, (int64_t)drop);
}

void room_tl_free(struct model *m, struct room *r)
{
    for (size_t i = 0; i < r->tl.n; i++)
        evrec_unpin(m, r->tl.v[i].rec);
    vec_free_of(MEM_rooms, &r->tl);
    room_last_at_clear(m, r);
    for (size_t i = 0; i < r->last_at.n; i++)
        mem_free(MEM_rooms,
                 r->last_at.v[i]); /* only at the end of everything: a room that loads is not freed */
    vec_free_of(MEM_rooms, &r->last_at);
    vec_free_of(MEM_rooms, &r->gaps);
}

bool model_room_changed(const struct room *r, const struct mpos *pos)
{
    if (r->last_event > pos->min)
        return true;
    /* Nothing absorbed since the room is in memory; before that we do not know. */
    return !mpos_le(&r->since_events, pos) && !(r->tl_horizon_known && r->tl_horizon <= pos->min);
}

/* ---- wants ---- */

static void want_stream(struct model *m, struct room *r, int64_t lo, int n)
{
    if (r->tl_load == LOAD_NONE) {
        r->tl_load = LOAD_QUEUED;
        r->tl_want_lo = lo;
        r->tl_want_n = n;
        vec_push(&m->want_tl, r);
        loader_kick(m);
    } else if (r->tl_load == LOAD_QUEUED) {
        r->tl_want_lo = lo < r->tl_want_lo ? lo : r->tl_want_lo;
        r->tl_want_n = n > r->tl_want_n ? n : r->tl_want_n;
    }
}

static void want_topological(struct model *m, struct room *r, int n)
{
    if (r->topo_load == LOAD_NONE) {
        r->topo_load = LOAD_QUEUED;
        r->topo_want_n = n;
        vec_push(&m->want_topo, r);
        loader_kick(m);
    } else if (r->topo_load == LOAD_QUEUED) {
        r->topo_want_n = n > r->topo_want_n ? n : r->topo_want_n;
    }
}

/* Everything at or below this stream ordering has to come from a load. */
static int64_t stream_floor(const struct room *r)
{
    return r->tl_horizon_known ? r->tl_horizon : mpos_max(&r->since_events);
}

static bool stream_complete_above(const struct room *r, const struct mpos *lo)
{
    if (r->tl_horizon_known)
        return r->tl_horizon <= lo->min;
    return mpos_le(&r->since_events, lo);
}

static const struct mpos BEGINNING = {.min = INT64_MIN};

/* At least what is needed, and as much again as is known: a deep position is reached in few rounds. */
static int page_size(const struct room *r, size_t needed)
{
    enum { LEAST = 12, MOST = 4000 };
    size_t n = needed > r->tl.n ? needed : r->tl.n;
    return (int)(n < LEAST ? LEAST : n > MOST && needed < MOST ? MOST : n);
}

enum have model_page_stream(struct model *m, struct room *r, const struct mpos *lo, const struct mpos *hi,
                            size_t n, struct tl_entry *out, size_t *count, bool *more)
{
    *count = 0;
    *more = false;
    if (!lo)
        lo = &BEGINNING;
    int64_t floor = stream_floor(r);
    bool exact_floor =
        r->tl_horizon_known; /* else rows at or below floor by a writer behind it may be live ones */
    int64_t top = mpos_max(hi);
    for (size_t i = r->tl.n; i-- > 0;) {
        const struct tl_entry *e = &r->tl.v[i];
        if (e->stream > top)
            continue;
        if (e->stream <= lo->min)
            break;
        if (exact_floor && e->stream <= floor)
            break;
        if (!exact_floor && mpos_covers(&r->since_events, e->writer, e->stream))
            continue; /* from a topological page: not trusted here */
        if (!mpos_in_range(lo, hi, e->writer, e->stream))
            continue;
        if (*count == n) {
            *more = true;
            return HAVE;
        }
        out[(*count)++] = *e;
    }
    if (stream_complete_above(r, lo))
        return HAVE;
    want_stream(m, r, lo->min, page_size(r, n - *count + 1));
    return LACK;
}

static int cmp_topo_desc(const void *a, const void *b)
{
    const struct tl_entry *x = a, *y = b;
    if (x->topological != y->topological)
        return x->topological < y->topological ? 1 : -1;
    return x->stream < y->stream ? 1 : x->stream > y->stream ? -1 : 0;
}

static bool topo_le(int64_t t1, int64_t s1, int64_t t2, int64_t s2)
{
    return t1 < t2 || (t1 == t2 && s1 <= s2);
}

enum have model_page_topological(struct model *m, struct room *r, const struct mpos *hi, bool has_from,
                                 int64_t from_t, int64_t from_s, size_t n, struct tl_entry *out,
                                 size_t *count, bool *more)
{
    *count = 0;
    *more = false;
    if (!r->topo_known) {
        want_topological(m, r, (int)n + 1);
        return LACK;
    }
    struct tl_entry *all = xmalloc(sizeof *all * (r->tl.n ? r->tl.n : 1));
    size_t k = 0;
    for (size_t i = 0; i < r->tl.n; i++) {
        const struct tl_entry *e = &r->tl.v[i];
        if (!mpos_covers(hi, e->writer, e->stream) ||
            !topo_le(r->topo_t, r->topo_s, e->topological, e->stream))
            continue;
        if (has_from && !topo_le(e->topological, e->stream, from_t, from_s))
            continue;
        all[k++] = *e;
    }
    qsort(all, k, sizeof *all, cmp_topo_desc);
    *count = k < n ? k : n;
    *more = k > n;
    memcpy(out, all, *count * sizeof *all);
    free(all);
    if (*more || r->topo_t == INT64_MIN)
        return HAVE;
    want_topological(m, r, page_size(r, n - k + 1));
    return LACK;
}

/* ---- positions below the horizon: asked for one by one, since the way down to them may be long ---- */

enum { LAST_AT_MAX = 16, LAST_ROWS = 8 /* of SQL_last_events */ };

void room_last_at_clear(struct model *m, struct room *r)
{
    size_t k = 0;
    for (size_t i = 0; i < r->last_at.n; i++) {
        struct last_at *l = r->last_at.v[i];
        if (l->load != LOAD_DONE) {
            r->last_at.v[k++] = l;
            continue;
        }
        if (l->found)
            evrec_unpin(m, l->e.rec);
        mem_free(MEM_rooms, l);
    }
    r->last_at.n = k;
}

static enum have last_at_exactly(struct model *m, struct room *r, const struct mpos *at, struct tl_entry *out)
{
    struct last_at *l = NULL;
    for (size_t i = 0; i < r->last_at.n && !l; i++) {
        if (mpos_equal(&r->last_at.v[i]->at, at))
            l = r->last_at.v[i];
    }
    if (l && l->load == LOAD_DONE && !l->found &&
        l->rows >= LAST_ROWS) { /* behind many events that at does not cover */
        want_stream(m, r, INT64_MIN, page_size(r, 0));
        return LACK;
    }
    if (l && l->load == LOAD_DONE) {
        *out = l->e;
        return l->found ? HAVE : ABSENT;
    }
    if (!l) {
        if (r->last_at.n >= LAST_AT_MAX)
            room_last_at_clear(m, r);
        l = MEM_NEW(MEM_rooms, struct last_at);
        l->room = r;
        l->at = *at;
        vec_push_of(MEM_rooms, &r->last_at, l);
    }
    if (l->load == LOAD_NONE) {
        l->load = LOAD_QUEUED;
        vec_push(&m->want_last, l);
        loader_kick(m);
    }
    return LACK;
}

/* The newest event at or before at, which lies below the horizon. First for the horizon itself: in a quiet
 * room that one read answers every position between the event and the horizon, so a thousand polls with
 * different tokens share it. */
static enum have last_at_get(struct model *m, struct room *r, const struct mpos *at, struct tl_entry *out)
{
    struct mpos floor = r->tl_horizon_known ? mpos_of(r->tl_horizon) : r->since_events;
    if (!mpos_le(at, &floor))
        return last_at_exactly(m, r, at, out);
    enum have h = last_at_exactly(m, r, &floor, out);
    if (h != HAVE || mpos_covers(at, out->writer, out->stream))
        return h;
    return last_at_exactly(m, r, at, out);
}

static void on_last(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    for (size_t i = 0; i < op->targets.n; i++)
        ((struct last_at *)op->targets.v[i])->load = r ? LOAD_DONE : LOAD_NONE;
    for (int i = 0; r && i < pg_rows(r); i++) { /* newest first within each */
        struct last_at *l = op->targets.v[(size_t)pg_i64(r, i, 0)];
        struct tl_entry e = {pg_i64(r, i, 3), pg_i64(r, i, 4), model_writer(m, pg_str(r, i, 2)), NULL};
        l->rows++;
        if (l->found || !mpos_covers(&l->at, e.writer, e.stream))
            continue;
        e.rec = model_rec(m, pg_str(r, i, 1));
        evrec_pin(e.rec);
        l->e = e;
        l->found = true;
    }
}

static void flush_last(struct model *m, struct batch *b)
{
    size_t n = m->want_last.n;
    if (n == 0)
        return;
    struct load_op *op = load_op_new(m, b, on_last);
    struct str *rooms = xmalloc(sizeof *rooms * n);
    int64_t *index = xmalloc(sizeof *index * n), *hi = xmalloc(sizeof *hi * n);
    for (size_t i = 0; i < n; i++) {
        struct last_at *l = m->want_last.v[i];
        l->load = LOAD_BUSY;
        rooms[i] = l->room->room_id;
        index[i] = (int64_t)i;
        hi[i] = mpos_max(&l->at);
        vec_push(&op->targets, l);
    }
    struct pg_args *args = pg_args_new();
    pg_args_i64_array(args, index, n);
    pg_args_text_array(args, rooms, n);
    pg_args_i64_array(args, hi, n);
    free(rooms);
    free(index);
    free(hi);
    m->want_last.n = 0;
    load_op_send(op, SQL_last_events, args);
}

enum have model_last_event(struct model *m, struct room *r, const struct mpos *at, struct tl_entry *out)
{
    bool lack = false;
    for (size_t i = r->tl.n; i-- > 0;) {
        const struct tl_entry *e = &r->tl.v[i];
        if (r->tl_horizon_known && e->stream <= r->tl_horizon)
            break;
        if (!r->tl_horizon_known && mpos_covers(&r->since_events, e->writer, e->stream))
            continue;
        if (!mpos_covers(at, e->writer, e->stream))
            continue;
        struct event *ev;
        enum have h = model_event_raw(m, e->rec, &ev);
        if (h == LACK) {
            lack = true;
            break;
        }
        if (h == HAVE && ev->rejected)
            continue;
        *out = *e;
        return HAVE;
    }
    if (lack)
        return LACK;
    if (r->tl_horizon_known && r->tl_horizon == INT64_MIN)
        return ABSENT;
    return last_at_get(m, r, at, out);
}

enum have model_gap(struct model *m, struct room *r, int64_t lo, const struct mpos *hi, int64_t *gap)
{
    if (r->gaps_load != LOAD_DONE) {
        if (r->gaps_load == LOAD_NONE) {
            r->gaps_load = LOAD_QUEUED;
            vec_push(&m->want_gaps, r);
            loader_kick(m);
        }
        return LACK;
    }
    for (size_t i = r->gaps.n; i-- > 0;) {
        if (r->gaps.v[i] <= lo)
            break;
        if (r->gaps.v[i] <= mpos_max(hi)) {
            *gap = r->gaps.v[i];
            return HAVE;
        }
    }
    return ABSENT;
}

void room_gap_add(struct room *r, int64_t stream)
{
    size_t i = r->gaps.n;
    while (i > 0 && r->gaps.v[i - 1] >= stream) {
        if (r->gaps.v[i - 1] == stream)
            return;
        i--;
    }
    vec_push_of(MEM_rooms, &r->gaps, stream);
    memmove(&r->gaps.v[i + 1], &r->gaps.v[i], (r->gaps.n - 1 - i) * sizeof stream);
    r->gaps.v[i] = stream;
}

/* ---- loads ---- */

static void on_stream_pages(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct room *room = smap_get(&m->rooms, pg_str(r, i, 0));
        if (!room || room->tl_load != LOAD_BUSY)
            continue;
        int64_t stream = pg_i64(r, i, 3);
        room_tl_insert(m, room, model_rec(m, pg_str(r, i, 1)), stream, pg_i64(r, i, 4),
                       model_writer(m, pg_str(r, i, 2)));
        room->tl_want_n--;
        if (stream < room->tl_horizon)
            room->tl_horizon = stream;
    }
    for (size_t i = 0; i < op->targets.n; i++) {
        struct room *room = op->targets.v[i];
        room->tl_load = LOAD_NONE;
        if (!r)
            continue;
        /* Fewer rows than asked: the range down to lo is all here. Otherwise down to just below the lowest.
         */
        if (room->tl_want_n > 0)
            room->tl_horizon = room->tl_want_lo;
        else
            room->tl_horizon -= 1;
        room->tl_horizon_known = true;
    }
}

static void on_topological_pages(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct room *room = smap_get(&m->rooms, pg_str(r, i, 0));
        if (!room || room->topo_load != LOAD_BUSY)
            continue;
        int64_t stream = pg_i64(r, i, 3), topo = pg_i64(r, i, 4);
        room_tl_insert(m, room, model_rec(m, pg_str(r, i, 1)), stream, topo,
                       model_writer(m, pg_str(r, i, 2)));
        room->topo_want_n--;
        if (topo_le(topo, stream, room->topo_t, room->topo_s)) {
            room->topo_t = topo;
            room->topo_s = stream;
        }
    }
    for (size_t i = 0; i < op->targets.n; i++) {
        struct room *room = op->targets.v[i];
        room->topo_load = LOAD_NONE;
        if (!r)
            continue;
        if (room->topo_want_n > 0)
            room->topo_t = room->topo_s = INT64_MIN;
        room->topo_known = room->topo_gen == op->gens.v[i];
    }
}

static void on_gaps(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    for (size_t i = 0; i < op->targets.n; i++)
        ((struct room *)op->targets.v[i])->gaps_load = r ? LOAD_DONE : LOAD_NONE;
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct room *room = smap_get(&m->rooms, pg_str(r, i, 0));
        if (room)
            room_gap_add(room, pg_i64(r, i, 1));
    }
}

static void flush_pages(struct model *m, struct batch *b, bool topological)
{
    size_t n = topological ? m->want_topo.n : m->want_tl.n;
    struct room **v = topological ? m->want_topo.v : m->want_tl.v;
    if (n == 0)
        return;
    struct load_op *op = load_op_new(m, b, topological ? on_topological_pages : on_stream_pages);
    struct str *ids = xmalloc(sizeof *ids * n);
    int64_t *x = xmalloc(sizeof *x * n), *y = xmalloc(sizeof *y * n), *lim = xmalloc(sizeof *lim * n);
    for (size_t i = 0; i < n; i++) {
        struct room *r = v[i];
        vec_push(&op->targets, r);
        vec_push(&op->gens, r->topo_gen);
        ids[i] = r->room_id;
        if (topological) {
            r->topo_load = LOAD_BUSY;
            if (!r->topo_known)
                r->topo_t = r->topo_s = INT64_MAX;
            x[i] = r->topo_t;
            y[i] = r->topo_s;
            lim[i] = r->topo_want_n;
        } else {
            r->tl_load = LOAD_BUSY;
            x[i] = r->tl_want_lo;
            y[i] = stream_floor(r);
            if (!r->tl_horizon_known)
                r->tl_horizon = y[i] + 1; /* not yet known: settled when the page is in */
            lim[i] = r->tl_want_n;
        }
    }
    struct pg_args *args = pg_args_new();
    pg_args_text_array(args, ids, n);
    pg_args_i64_array(args, x, n);
    pg_args_i64_array(args, y, n);
    pg_args_i64_array(args, lim, n);
    free(ids);
    free(x);
    free(y);
    free(lim);
    if (topological)
        m->want_topo.n = 0;
    else
        m->want_tl.n = 0;
    load_op_send(op, topological ? SQL_page_topological : SQL_page_stream, args);
}

void timeline_flush(struct model *m, struct batch *b)
{
    flush_pages(m, b, false);
    flush_pages(m, b, true);
    flush_last(m, b);
    if (m->want_gaps.n) {
        struct load_op *op = load_op_new(m, b, on_gaps);
        struct str *ids = xmalloc(sizeof *ids * m->want_gaps.n);
        for (size_t i = 0; i < m->want_gaps.n; i++) {
            struct room *r = m->want_gaps.v[i];
            r->gaps_load = LOAD_BUSY;
            ids[i] = r->room_id;
            vec_push(&op->targets, r);
        }
        struct pg_args *args = pg_args_new();
        pg_args_text_array(args, ids, m->want_gaps.n);
        free(ids);
        m->want_gaps.n = 0;
        load_op_send(op, SQL_gaps_of_rooms, args);
    }
}
