/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Bursts of the events stream. Rows are ids; what they stand for is read for the whole burst at once: the
 * events with their redactions, the timeline gaps of their rooms, the push actions they caused for anybody.
 * Then the burst is applied in order, the position advances, and who is concerned is woken. While one burst
 * is being fetched the next one fills, and while readers stand in line who have not been computed yet, it
 * goes on filling for a while.
 *
 * Work per event, not per recipient: one statement a burst, however many events and readers. Rooms and
 * users may come into memory while a burst is being read, and they count on seeing all of it: before a burst
 * is applied it is looked at again, and what concerns them is read too. What a burst needs to know of an
 * event it keeps itself (struct burst_event), since the event in memory may be invalidated or evicted
 * meanwhile.
 */
#include "model_int.h"

enum { GROW_US = 20000 };

static struct burst *burst_new(void)
{
    struct burst *b = xcalloc(1, sizeof *b);
    b->arena = arena_new((size_t)1 << 30);
    smap_init(&b->read);
    return b;
}

static void burst_free(struct burst **bp)
{
    struct burst *b = *bp;
    if (!b)
        return;
    vec_free(&b->rows);
    vec_free(&b->gaps);
    vec_free(&b->actions);
    vec_free(&b->redacted);
    smap_fini(&b->read);
    arena_free(&b->arena);
    free(b);
    *bp = NULL;
}

static struct str keep(struct burst *b, struct str s)
{
    return str_absent(s) ? s : arena_str(b->arena, s);
}

void burst_add(struct model *m, writer_id w, int64_t token, const struct feed_row *rows, size_t n)
{
    if (n == 0 && !m->fetching && !m->filling) {
        positions_advance(m->pos[STREAM_EVENTS], w, token);
        m->now_dirty = true;
        return;
    }
    if (!m->filling) {
        m->filling = burst_new();
        m->filling_since_us = clock_mono_us();
    }
    struct burst *b = m->filling;
    for (size_t i = 0; i < n; i++) {
        struct burst_row br = {.row = rows[i], .stream = STREAM_EVENTS, .writer = w, .token = token};
        br.row.ev.event_id = keep(b, rows[i].ev.event_id);
        br.row.ev.room_id = keep(b, rows[i].ev.room_id);
        br.row.ev.type = keep(b, rows[i].ev.type);
        br.row.ev.state_key = keep(b, rows[i].ev.state_key);
        br.row.ev.redacts = keep(b, rows[i].ev.redacts);
        br.row.ev.relates_to = keep(b, rows[i].ev.relates_to);
        br.row.ev.membership = keep(b, rows[i].ev.membership);
        vec_push(&b->rows, br);
    }
    vec_push(&b->rows, ((struct burst_row){.position_only = true, .writer = w, .token = token}));
}

/* ---- apply ---- */

static void apply_member(struct model *m, const struct burst_event *be, struct room *r, struct str user_id)
{
    struct user *u = model_user_find(m, user_id);
    if (!u)
        return;
    user_rooms_drop(m, u);
    unread_stale(u, r->room_id); /* without a receipt the membership event is the baseline */
    if (be && !be->rejected)
        user_own_add(m, u, be->rec, r, be->stream, be->writer);
    model_wake_user(m, u);
}

static void apply_ev(struct model *m, const struct feed_row *row)
{
    const struct burst_event *be = smap_get(&m->fetching->read, row->ev.event_id);
    struct room *r = model_room_find(m, row->ev.room_id);
    relations_touch(m, row->ev.relates_to);
    if (!str_absent(row->ev.redacts)) {
        relations_redacted(m, row->ev.room_id, row->ev.redacts);
        struct evrec *target = model_rec_find(m, row->ev.redacts);
        if (target)
            evrec_stale(m, target);
        if (r)
            r->redaction_gen++;
    }
    if (!r)
        return;
    if (be && !be->outlier)
        room_tl_insert(m, r, be->rec, be->stream, be->topological, be->writer);
    if (be && be->redacts_sender)
        vec_push(&m->fetching->redacted, ((struct user_in_room){row->ev.state_key, row->ev.room_id}));
    if (str_eq(row->ev.type, STR("m.room.member")) && !str_absent(row->ev.state_key)) {
        apply_member(m, be, r, row->ev.state_key);
        news_members(m, r);
    }
    if (!row->ev.rejected)
        model_wake_news(m, r);
}

static void drop_rooms_of_all(struct model *m, struct str room_id)
{
    size_t it = 0;
    for (struct user *u; (u = kmap_next(&m->users, &it));) {
        if (u->parts.rooms.load == LOAD_BUSY ||
            kmap_get(&u->rooms, room_id)) /* what is being read may be out of date */
            user_rooms_drop(m, u);
    }
}

static void apply_row(struct model *m, const struct burst_row *br)
{
    if (br->position_only) {
        positions_advance(m->pos[STREAM_EVENTS], br->writer, br->token);
        return;
    }
    struct room *r = model_room_find(m, br->row.ev.room_id);
    if (r)
        r->serial++;
    switch (br->row.ev.kind) {
    case EV_ROW_EV:
        apply_ev(m, &br->row);
        break;
    case EV_ROW_STATE:
        if (r) {
            room_state_apply(m, r, br->row.ev.type, br->row.ev.state_key, br->row.ev.event_id);
            room_delta_add(m, r, br->writer, br->token, br->row.ev.type, br->row.ev.state_key,
                           br->row.ev.event_id);
        }
        if (str_eq(br->row.ev.type, STR("m.room.member"))) {
            if (r)
                news_members(m, r);
            struct user *u = model_user_find(m, br->row.ev.state_key);
            if (u)
                user_rooms_drop(m, u);
        }
        break;
    case EV_ROW_STATE_ALL:
        if (r) {
            room_state_drop(m, r);
            room_deltas_drop(m, r);
            news_members(m, r);
        }
        drop_rooms_of_all(m, br->row.ev.room_id);
        break;
    }
}

static void burst_apply(struct model *m)
{
    struct burst *b = m->fetching;
    m->serial++;
    for (size_t i = 0; i < b->gaps.n; i++) {
        struct room *r = model_room_find(m, b->gaps.v[i].room_id);
        if (!r)
            continue;
        r->serial++;
        room_gap_add(r, b->gaps.v[i].stream);
    }
    unread_apply(b);
    for (size_t i = 0; i < b->rows.n; i++)
        apply_row(m, &b->rows.v[i]);
    m->now_dirty = true;
    events_of_sender_stale(m, b->redacted.v, b->redacted.n);
    for (size_t i = 0; i < b->rows.n; i++) {
        struct room *r = b->rows.v[i].position_only ? NULL : model_room_find(m, b->rows.v[i].row.ev.room_id);
        if (r) {
            room_tl_trim(m, r, (size_t)m->cfg->room_timeline_max * 2);
            room_deltas_trim(m, r);
        }
    }
    burst_free(&m->fetching);
}

/* ---- fetch ---- */

static bool burst_fetch(struct model *m);

static void take_event(struct model *m, const struct pg_result *r, int i)
{
    struct burst *b = m->fetching;
    struct evrec *rec = model_rec(m, pg_str(r, i, 0));
    rec->gen++;
    evrec_take_row(m, rec, r, i);
    if (!rec->ev)
        return;
    struct burst_event *be = ARENA_NEW(b->arena, struct burst_event);
    *be = (struct burst_event){.rec = rec,
                               .stream = rec->ev->stream,
                               .topological = rec->ev->topological,
                               .writer = rec->ev->writer,
                               .outlier = rec->ev->outlier,
                               .rejected = rec->ev->rejected,
                               .redacts_sender = m->cfg->msc4293_enabled && rec->ev->redacts_sender};
    smap_put(&b->read, arena_str(b->arena, rec->id), be);
}

static void take_action(struct model *m, const struct pg_result *r, int i)
{
    struct burst *b = m->fetching;
    struct str thread = pg_str(r, i, 3), users = pg_str(r, i, 6), id, rest;
    struct action_row a = {
        .room_id = keep(b, pg_str(r, i, 1)),
        .thread_id = str_absent(thread) ? STR("main") : keep(b, thread),
        .stream = pg_i64(r, i, 2),
        .highlight = pg_i64(r, i, 4) != 0,
        .notif = pg_i64(r, i, 8) != 0,
        .unread = pg_i64(r, i, 11) != 0,
    };
    size_t n = 1;
    for (size_t k = 0; k < users.n; k++)
        n += users.p[k] == '\x1e';
    a.users = ARENA_ARRAY(b->arena, struct user *, n);
    for (bool more = true; more; users = rest) {
        more = str_cut(users, '\x1e', &id, &rest);
        struct user *u = model_user_find(m, id);
        if (u)
            a.users[a.users_count++] = u;
    }
    if (a.users_count)
        vec_push(&b->actions, a);
}

static void on_burst(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    m->fetching_asked = false;
    if (!r) { /* refused, or shutting down: the tick tries again, positions stay where they are */
        m->burst_retry = true;
        if (!m->stopping)
            log_error("chappe.model", "a burst of new events could not be read; trying again");
        return;
    }
    for (int i = 0; i < pg_rows(r); i++) {
        switch (pg_i64(r, i, 14)) {
        case 0:
            take_event(m, r, i);
            break;
        case 1:
            vec_push(&m->fetching->gaps,
                     ((struct gap_row){keep(m->fetching, pg_str(r, i, 1)), pg_i64(r, i, 2)}));
            break;
        default:
            take_action(m, r, i);
        }
    }
    if (burst_fetch(m))
        return;
    burst_apply(m);
    model_run_woken(m);
    burst_send(m);
}

/* Does anybody here care for this event? */
static bool relevant(struct model *m, const struct feed_row *row)
{
    if (model_room_find(m, row->ev.room_id) || model_rec_find(m, row->ev.event_id))
        return true;
    return str_eq(row->ev.type, STR("m.room.member")) && !str_absent(row->ev.state_key) &&
           model_user_find(m, row->ev.state_key);
}

/* A member event of somebody in memory brings its room there, before the rest of the burst is looked at. */
static void make_rooms(struct model *m, const struct burst *b)
{
    for (size_t i = 0; i < b->rows.n; i++) {
        const struct burst_row *br = &b->rows.v[i];
        if (!br->position_only && br->row.ev.kind == EV_ROW_EV &&
            str_eq(br->row.ev.type, STR("m.room.member")) && !str_absent(br->row.ev.state_key) &&
            model_user_find(m, br->row.ev.state_key))
            (void)model_room(m, br->row.ev.room_id);
    }
}

/* Sends for what somebody here cares for and has not been read yet; false: there is nothing (more) to read.
 */
static bool burst_fetch(struct model *m)
{
    struct burst *b = m->fetching;
    VEC(struct str) ids = {0};
    VEC(struct str) rooms = {0};
    VEC(int64_t) streams = {0};
    struct smap seen;
    smap_init(&seen);
    make_rooms(m, b);
    for (size_t i = 0; i < b->rows.n; i++) {
        struct burst_row *br = &b->rows.v[i];
        if (br->position_only || br->fetched || br->row.ev.kind != EV_ROW_EV || !relevant(m, &br->row))
            continue;
        br->fetched = true;
        vec_push(&ids, br->row.ev.event_id);
        vec_push(&streams, br->token);
        if (!smap_put(&seen, br->row.ev.room_id, b))
            vec_push(&rooms, br->row.ev.room_id);
    }
    smap_fini(&seen);
    bool any = ids.n > 0;
    if (any) {
        m->fetching_asked = true;
        struct pg_args *args = pg_args_new();
        pg_args_text_array(args, ids.v, ids.n);
        pg_args_text_array(args, rooms.v, rooms.n);
        pg_args_i64(args, positions_persisted_upto(m->pos[STREAM_EVENTS]));
        pg_args_i64_array(args, streams.v, streams.n);
        load_op_send(load_op_new(m, NULL, on_burst), SQL_burst, args);
    }
    vec_free(&ids);
    vec_free(&rooms);
    vec_free(&streams);
    return any;
}

/* Readers stand in line, of whom those whom this burst will wake come last: it may as well have more in it
 * when it is asked for. Never while nobody waits to be served. */
static bool may_grow(const struct model *m)
{
    return m->gather && clock_mono_us() - m->filling_since_us < GROW_US;
}

void burst_held(struct model *m)
{
    if (m->filling && !m->fetching)
        burst_send(m);
}

void burst_send(struct model *m)
{
    if (m->stopping || (m->fetching && !(m->burst_retry && !m->fetching_asked)))
        return;
    if (!m->fetching) {
        if (!m->filling || may_grow(m))
            return;
        m->fetching = m->filling;
        m->filling = NULL;
    } else { /* once more, all of it */
        m->fetching->gaps.n = m->fetching->actions.n = 0;
        for (size_t i = 0; i < m->fetching->rows.n; i++)
            m->fetching->rows.v[i].fetched = false;
    }
    m->burst_retry = false;
    if (burst_fetch(m))
        return;
    burst_apply(m);
    model_run_woken(m);
}

void burst_fini(struct model *m)
{
    burst_free(&m->filling);
    burst_free(&m->fetching);
}
