/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Users and their rooms: the current membership rows of a user, and its own membership events over a stretch
 * of the stream (which is what decides which rooms an incremental sync mentions, sync-v3 section 5).
 */
#include "model_int.h"

static void membership_free(struct model *m, struct membership_row *row)
{
    if (row->membership != MEMBERSHIP_JOIN)
        evrec_unpin(m, row->rec);
    row->room->refs--;
    mem_free(MEM_users, row);
}

static void rooms_clear(struct model *m, struct user *u)
{
    size_t it = 0;
    int64_t now = clock_mono_coarse_ms(), used = now - (uint32_t)((uint32_t)now - u->used_ms);
    for (struct membership_row *row; (row = kmap_next(&u->rooms, &it));) {
        if (row->room->used_ms < used)
            row->room->used_ms = used;
        membership_free(m, row);
    }
    kmap_fini(MEM_users, &u->rooms);
    u->rooms_newest = 0;
}

/* The membership rows may have changed: read them again before the next use. */
void user_rooms_drop(struct model *m, struct user *u)
{
    (void)m;
    part_touch(&u->parts.rooms);
}

static struct own_events *own_of(struct user *u)
{
    struct user_more *more = model_user_more(u);
    if (!more->own)
        more->own = MEM_NEW(MEM_users, struct own_events);
    return more->own;
}

void user_own_add(struct model *m, struct user *u, struct evrec *rec, struct room *r, int64_t stream,
                  writer_id w)
{
    (void)m;
    struct own_events *own = own_of(u);
    size_t i = own->list.n;
    while (i > 0 && own->list.v[i - 1].stream >= stream) {
        if (own->list.v[i - 1].stream == stream)
            return;
        i--;
    }
    evrec_pin(rec);
    r->refs++;
    struct own_event e = {rec, r, stream, w};
    vec_push_of(MEM_users, &own->list, e);
    memmove(&own->list.v[i + 1], &own->list.v[i], (own->list.n - 1 - i) * sizeof e);
    own->list.v[i] = e;
}

enum have model_user_rooms(struct model *m, struct user *u)
{
    if (u->parts.rooms.load == LOAD_DONE && !u->parts.rooms.stale)
        return HAVE;
    if (u->parts.rooms.load == LOAD_NONE || u->parts.rooms.load == LOAD_DONE) {
        u->parts.rooms.load = LOAD_QUEUED;
        vec_push(&m->want_rooms, u);
        loader_kick(m);
    }
    return LACK;
}

enum have model_user_own_events(struct model *m, struct user *u, const struct mpos *lo)
{
    struct mpos since = mpos_of_kept(u->since_events);
    if (u->own_horizon_known ? u->more->own->horizon <= lo->min : mpos_le(&since, lo))
        return HAVE;
    if (u->own_load == LOAD_NONE) {
        u->own_load = LOAD_QUEUED;
        u->own_horizon_known = false;
        own_of(u)->horizon = lo->min;
        vec_push(&m->want_own, u);
        loader_kick(m);
    } else if (u->own_load == LOAD_QUEUED && lo->min < u->more->own->horizon) {
        u->more->own->horizon = lo->min;
    }
    return LACK;
}

static void active_add(struct membership_row *row)
{
    struct room *r = row->room;
    row->active_at = r->active.n;
    vec_push_of(MEM_rooms, &r->active, row);
}

static void active_remove(struct membership_row *row)
{
    struct room *r = row->room;
    struct membership_row *last = r->active.v[--r->active.n];
    ASSERT(r->active.v[row->active_at] == row);
    r->active.v[row->active_at] = last;
    last->active_at = row->active_at;
}

void model_user_activate(struct model *m, struct user *u)
{
    if (u->active)
        return;
    u->active = true;
    news_begin(m, u);
    size_t it = 0;
    for (struct membership_row *row; (row = kmap_next(&u->rooms, &it));) {
        if (row->membership == MEMBERSHIP_JOIN)
            active_add(row);
    }
}

static void user_deactivate(struct user *u)
{
    if (!u->active)
        return;
    u->active = false;
    news_end(u);
    size_t it = 0;
    for (struct membership_row *row; (row = kmap_next(&u->rooms, &it));) {
        if (row->membership == MEMBERSHIP_JOIN)
            active_remove(row);
    }
}

void user_data_free(struct model *m, struct user *u)
{
    user_deactivate(u);
    rooms_clear(m, u);
    kmap_fini(MEM_users, &u->rooms);
    for (size_t i = 0; i < user_own_count(u); i++) {
        evrec_unpin(m, u->more->own->list.v[i].rec);
        u->more->own->list.v[i].room->refs--;
    }
    if (u->more->own) {
        vec_free_of(MEM_users, &u->more->own->list);
        mem_free(MEM_users, u->more->own);
        u->more->own = NULL;
    }
    device_list_past_free(u);
    account_free(m, u);
    size_t it = 0;
    for (struct unread *un; (un = kmap_next(&u->unread, &it));)
        unread_free(un);
    kmap_fini(MEM_users, &u->unread);
    it = 0;
    for (struct device *d; (d = kmap_next(&u->devices, &it));)
        device_free(m, d);
    kmap_fini(MEM_users, &u->devices);
}

static struct membership_row *row_read(struct model *m, struct user *u, const struct pg_result *r, int i)
{
    enum membership membership = membership_parse(pg_str(r, i, 3));
    struct str sender = membership == MEMBERSHIP_JOIN ? STR("") : pg_str(r, i, 2);
    if (sender.n > UINT16_MAX)
        sender.n = 0;
    struct membership_row *row = mem_new(MEM_users, sizeof *row + sender.n);
    row->room = model_room(m, pg_str(r, i, 1));
    row->room->refs++;
    row->user = u;
    row->membership = (uint8_t)membership;
    if (membership != MEMBERSHIP_JOIN) {
        row->rec = model_rec(m, pg_str(r, i, 4));
        evrec_pin(row->rec);
    }
    if (sender.n)
        memcpy(row->sender, sender.p, sender.n);
    row->sender_n = (uint16_t)sender.n;
    row->writer = model_writer(m, pg_str(r, i, 5));
    row->stream = pg_i64(r, i, 6);
    row->known_version = room_version_find(pg_str(r, i, 7)) != NULL;
    row->forgotten = pg_i64(r, i, 8) != 0;
    return row;
}

static void on_rooms(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    for (size_t i = 0; i < op->targets.n; i++) {
        struct user *u = op->targets.v[i];
        if (!r) {
            u->parts.rooms.load = LOAD_NONE;
            continue;
        }
        u->reactivate = u->active;
        user_deactivate(u);
        rooms_clear(m, u);
        u->parts.rooms.load = LOAD_DONE;
        u->parts.rooms.stale = u->parts.rooms.gen != op->gens.v[i];
    }
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct user *u = kmap_get(&m->users, pg_str(r, i, 0));
        if (!u)
            continue;
        struct membership_row *row = row_read(m, u, r, i);
        u->rooms_newest = row->stream > u->rooms_newest ? row->stream : u->rooms_newest;
        struct membership_row *old = kmap_put(MEM_users, &u->rooms, row);
        if (old)
            membership_free(m, old);
    }
    for (size_t i = 0; r && i < op->targets.n; i++) {
        struct user *u = op->targets.v[i];
        if (u->reactivate)
            model_user_activate(m, u);
        u->reactivate = false;
    }
}

static void on_own(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct user *u = kmap_get(&m->users, pg_str(r, i, 0));
        if (u && u->own_load == LOAD_BUSY)
            user_own_add(m, u, model_rec(m, pg_str(r, i, 2)), model_room(m, pg_str(r, i, 1)), pg_i64(r, i, 4),
                         model_writer(m, pg_str(r, i, 3)));
    }
    for (size_t i = 0; i < op->targets.n; i++) {
        struct user *u = op->targets.v[i];
        u->own_load = LOAD_NONE;
        u->own_horizon_known = r != NULL;
    }
}

void user_flush(struct model *m, struct batch *b)
{
    if (m->want_rooms.n) {
        struct load_op *op = load_op_new(m, b, on_rooms);
        struct str *ids = xmalloc(sizeof *ids * m->want_rooms.n);
        for (size_t i = 0; i < m->want_rooms.n; i++) {
            struct user *u = m->want_rooms.v[i];
            u->parts.rooms.load = LOAD_BUSY;
            ids[i] = u->user_id;
            vec_push(&op->targets, u);
            vec_push(&op->gens, u->parts.rooms.gen);
        }
        struct pg_args *args = pg_args_new();
        pg_args_text_array(args, ids, m->want_rooms.n);
        free(ids);
        m->want_rooms.n = 0;
        load_op_send(op, SQL_rooms_of_users, args);
    }
    if (m->want_own.n) {
        struct load_op *op = load_op_new(m, b, on_own);
        size_t n = m->want_own.n;
        struct str *ids = xmalloc(sizeof *ids * n);
        int64_t *lo = xmalloc(sizeof *lo * n);
        for (size_t i = 0; i < n; i++) {
            struct user *u = m->want_own.v[i];
            u->own_load = LOAD_BUSY;
            ids[i] = u->user_id;
            lo[i] = u->more->own->horizon;
            vec_push(&op->targets, u);
        }
        struct pg_args *args = pg_args_new();
        pg_args_text_array(args, ids, n);
        pg_args_i64_array(args, lo, n);
        free(ids);
        free(lo);
        m->want_own.n = 0;
        load_op_send(op, SQL_own_events_of_users, args);
    }
    account_flush(m, b);
}
