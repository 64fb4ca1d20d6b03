/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Receipts of rooms: the newest row per (type, user, thread), ascending by stream id, absorbed from the
 * receipts stream (whose rows are complete) and extended downwards from receipts_linearized, which keeps the
 * same one row per key.
 */
#include "model_int.h"

static bool same_key(const struct receipt *a, const struct receipt *b)
{
    return str_eq(a->user_id, b->user_id) && str_eq(a->type, b->type) &&
           str_absent(a->thread_id) == str_absent(b->thread_id) && str_eq(a->thread_id, b->thread_id);
}

static char *pack(char *p, struct str *field, struct str from)
{
    if (str_absent(from)) {
        *field = STR_ABSENT;
        return p;
    }
    memcpy(p, from.p, from.n);
    *field = str_n(p, from.n);
    return p + from.n;
}

static int64_t rc_floor(const struct room *r)
{
    return r->rc_horizon_known ? r->rc_horizon : mpos_max(&r->since_receipts);
}

void room_receipt_add(struct model *m, struct room *r, const struct receipt *src)
{
    (void)m;
    /* A row of a page of the past is the only one of its key in the table: only what came live can have
     * replaced it. */
    int64_t floor = r->rc_load == LOAD_BUSY && src->stream <= rc_floor(r) ? rc_floor(r) : INT64_MIN;
    for (size_t i = r->receipts.n; i-- > 0 && r->receipts.v[i].stream > floor;) {
        struct receipt *old = &r->receipts.v[i];
        if (!same_key(old, src))
            continue;
        if (old->stream >= src->stream)
            return;
        mem_free(MEM_rooms, old->mem);
        memmove(old, old + 1, (r->receipts.n - 1 - i) * sizeof *old);
        r->receipts.n--;
        break;
    }
    struct receipt rc = *src;
    char *p = rc.mem = mem_new(MEM_rooms, src->type.n + src->user_id.n + src->event_id.n + src->thread_id.n +
                                              src->data.n + 1);
    p = pack(p, &rc.type, src->type);
    p = pack(p, &rc.user_id, src->user_id);
    p = pack(p, &rc.event_id, src->event_id);
    p = pack(p, &rc.thread_id, src->thread_id);
    pack(p, &rc.data, src->data);
    size_t i = r->receipts.n;
    while (i > 0 && r->receipts.v[i - 1].stream > rc.stream)
        i--;
    vec_push_of(MEM_rooms, &r->receipts, rc);
    memmove(&r->receipts.v[i + 1], &r->receipts.v[i], (r->receipts.n - 1 - i) * sizeof rc);
    r->receipts.v[i] = rc;
    if (rc.stream > r->last_receipt)
        r->last_receipt = rc.stream;
}

void room_receipts_free(struct room *r)
{
    for (size_t i = 0; i < r->receipts.n; i++)
        mem_free(MEM_rooms, r->receipts.v[i].mem);
    vec_free_of(MEM_rooms, &r->receipts);
}

enum have model_receipts(struct model *m, struct room *r, const struct mpos *lo)
{
    if (r->rc_horizon_known ? r->rc_horizon <= lo->min : mpos_le(&r->since_receipts, lo))
        return HAVE;
    if (r->rc_load == LOAD_NONE) {
        r->rc_load = LOAD_QUEUED;
        r->rc_want_lo = lo->min;
        vec_push(&m->want_receipts, r);
        loader_kick(m);
    } else if (r->rc_load == LOAD_QUEUED && lo->min < r->rc_want_lo) {
        r->rc_want_lo = lo->min;
    }
    return LACK;
}

static void on_receipts(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct room *room = smap_get(&m->rooms, pg_str(r, i, 0));
        if (!room || room->rc_load != LOAD_BUSY)
            continue;
        struct str writer = pg_str(r, i, 2);
        struct receipt rc = {
            .stream = pg_i64(r, i, 1),
            .writer = str_absent(writer) ? WRITER_NONE : model_writer(m, writer),
            .type = pg_str(r, i, 3),
            .user_id = pg_str(r, i, 4),
            .event_id = pg_str(r, i, 5),
            .thread_id = pg_str(r, i, 6),
            .data = pg_str(r, i, 7),
        };
        room_receipt_add(m, room, &rc);
    }
    for (size_t i = 0; i < op->targets.n; i++) {
        struct room *room = op->targets.v[i];
        room->rc_load = LOAD_NONE;
        if (!r)
            continue;
        room->rc_horizon_known = true;
        room->rc_horizon = room->rc_want_lo;
    }
}

void receipts_flush(struct model *m, struct batch *b)
{
    size_t n = m->want_receipts.n;
    if (n == 0)
        return;
    struct load_op *op = load_op_new(m, b, on_receipts);
    struct str *ids = xmalloc(sizeof *ids * n);
    int64_t *lo = xmalloc(sizeof *lo * n);
    for (size_t i = 0; i < n; i++) {
        struct room *r = m->want_receipts.v[i];
        r->rc_load = LOAD_BUSY;
        ids[i] = r->room_id;
        lo[i] = r->rc_want_lo;
        vec_push(&op->targets, r);
    }
    struct pg_args *args = pg_args_new();
    pg_args_text_array(args, ids, n);
    pg_args_i64_array(args, lo, n);
    free(ids);
    free(lo);
    m->want_receipts.n = 0;
    load_op_send(op, SQL_receipts_of_rooms, args);
}
