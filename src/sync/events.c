/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * /events: what is new since a token, as one list (sync-v3 9.1; Synapse 1.157 handlers/events.py, notifier.py
 * and the event sources of rooms, presence, typing, receipts and account data, in that order).
 *
 * Of the rooms the oldest `limit` events since the token are given, and the token moves only past the last of
 * them. One's own membership changes are looked up besides, in all rooms, so those of joined rooms come twice
 * (copied: clients tell them apart by their id). A room's events are walked back from now to the token
 * through the model; who is more than EVENTS_MAX behind in one room is told that the token will not do.
 */
#include "legacy.h"

enum { PAGE = 1000, EVENTS_MAX = 20000 };

struct chunk {
    struct legacy *l;
    struct rope *out;
    bool comma;
    struct stream_token end;
    VEC(struct tl_ev) events;
    VEC(struct str) presence; /* of those who have joined */
};

static void next_item(struct chunk *c)
{
    rope_put(c->out, c->comma ? STR(",") : STR(""));
    c->comma = true;
}

/* ---- events of rooms ---- */

static void add_entry(struct chunk *c, struct sync_run *run, const struct tl_entry *e)
{
    struct event *ev;
    enum have h = model_event(run->m, e->rec, &ev);
    if (run_have(run, h))
        vec_push(&c->events, ((struct tl_ev){.e = *e, .ev = ev}));
}

/* The oldest n of a room's since the token. */
static void add_room(struct chunk *c, struct sync_run *run, struct room *room, size_t n)
{
    VEC(struct tl_entry) all = {0};
    struct mpos hi = run->now.room;
    struct tl_entry *page = ARENA_ARRAY(run->a, struct tl_entry, PAGE);
    bool more = true;
    while (more && model_room_changed(room, &run->since.room)) {
        size_t got;
        if (!run_have(run, model_page_stream(run->m, room, &run->since.room, &hi, PAGE, page, &got, &more)) ||
            got == 0)
            break;
        for (size_t i = 0; i < got; i++)
            vec_push(&all, page[i]);
        hi = mpos_bound(&run->now.room, page[got - 1].stream - 1);
        if (all.n > EVENTS_MAX) {
            metric_add_l(M_sync_refused, "events_range", 1);
            legacy_refuse(c->l, run, 400, "M_UNKNOWN", STR("'from' parameter is invalid"));
            break;
        }
    }
    for (size_t i = all.n, k = 0; i-- > 0 && k < n; k++)
        add_entry(c, run, &all.v[i]);
    vec_free(&all);
}

static void add_own(struct chunk *c, struct sync_run *run)
{
    struct user *u = run->u;
    for (size_t i = 0; i < user_own_count(u); i++) {
        const struct own_event *e = &u->more->own->list.v[i];
        struct event *ev;
        if (!mpos_in_range(&run->since.room, &run->now.room, e->writer, e->stream) ||
            !run_have(run, model_event(run->m, e->rec, &ev)))
            continue;
        vec_push(&c->events,
                 ((struct tl_ev){.e = {e->stream, ev->topological, e->writer, e->rec}, .ev = ev}));
    }
}

static int by_stream(const void *a, const void *b)
{
    const struct tl_ev *x = a, *y = b;
    return x->e.stream < y->e.stream ? -1 : x->e.stream > y->e.stream;
}

/* Each by itself: they are of several rooms, and few. */
static void filter_visible(struct chunk *c, struct sync_run *run)
{
    size_t k = 0;
    for (size_t i = 0; i < c->events.n; i++) {
        struct tl_ev *t = &c->events.v[i];
        size_t one = 1;
        struct room *room = model_room(run->m, t->ev->room_id);
        if (visibility_filter(run, room, t, &one) && one) {
            render_event_v1_prepare(run, t->ev, true);
            c->events.v[k++] = *t;
        }
    }
    c->events.n = k;
}

static void note_joins(struct chunk *c, struct sync_run *run)
{
    for (size_t i = 0; i < c->events.n; i++) {
        const struct event *ev = c->events.v[i].ev;
        if (!str_eq(ev->type, STR("m.room.member")) || ev->membership != MEMBERSHIP_JOIN)
            continue;
        if (!str_eq(ev->state_key, run->u->user_id)) {
            vec_push(&c->presence, ev->state_key);
            continue;
        }
        struct room *room = model_room(run->m, ev->room_id);
        size_t it = 0;
        if (!run_have(run, model_room_state(run->m, room)))
            continue;
        for (struct member *mb; (mb = smap_next(&room->members, &it));) {
            if (mb->membership == MEMBERSHIP_JOIN)
                vec_push(&c->presence, mb->user_id);
        }
    }
}

static void put_rooms(struct chunk *c, struct sync_run *run, struct room **rooms, size_t n)
{
    if (mpos_le(&run->now.room, &run->since.room))
        return;
    add_own(c, run);
    for (size_t i = 0; i < n; i++)
        add_room(c, run, rooms[i], c->l->limit ? c->l->limit : 10);
    if (run->lack || run->broken)
        return;
    if (c->events.n > 1)
        qsort(c->events.v, c->events.n, sizeof *c->events.v, by_stream);
    if (c->l->limit && c->events.n > c->l->limit)
        c->events.n = c->l->limit;
    /* Not past what writers that lag behind the last event's have yet to bring. */
    c->end.room =
        c->events.n ? mpos_bound(&run->now.room, c->events.v[c->events.n - 1].e.stream) : run->now.room;
    filter_visible(c, run);
    note_joins(c, run);
    for (size_t i = 0; i < c->events.n && !run->lack; i++) {
        const struct tl_ev *t = &c->events.v[i];
        next_item(c);
        render_event_v1(run, t->pruned ? t->pruned : t->ev, true, t->membership, c->l->raw, c->out);
    }
}

/* ---- the other sources ---- */

static void put_presence(struct chunk *c, struct sync_run *run, struct room *extra)
{
    struct str *users;
    size_t n;
    if (run->since.presence == run->now.presence)
        return;
    run_presence_users(run, extra, &users, &n);
    for (size_t i = 0; i < n; i++)
        legacy_presence(run, users[i], &c->comma, c->out);
    c->end.presence = run->now.presence;
}

static void put_ephemeral(struct chunk *c, struct sync_run *run, struct room **rooms, size_t n)
{
    for (int typing = 1; typing >= 0; typing--) {
        for (size_t i = 0; i < n; i++) {
            struct str text = typing ? room_typing_json(run, rooms[i]) : room_receipts_json(run, rooms[i]);
            if (str_absent(text))
                continue;
            next_item(c);
            legacy_with_room(run, text, rooms[i]->room_id, c->out);
        }
    }
    c->end.typing = run->now.typing;
    c->end.receipt = run->now.receipt;
}

static void put_account(struct chunk *c, struct sync_run *run)
{
    struct user *u = run->u;
    size_t it = 0;
    int64_t since = run->since.account_data;
    if (since == run->now.account_data)
        return;
    for (struct room_tags *t; (t = smap_next(&u->more->tags, &it));) {
        if (t->revision > since)
            legacy_account_item(run, STR("m.tag"), t->content, t->room_id, &c->comma, c->out);
    }
    it = 0;
    for (struct account_datum *d; (d = smap_next(&u->more->account_data, &it));) {
        if (d->stream > since && !str_eq(d->type, STR("m.push_rules")))
            legacy_account_item(run, d->type, d->content, STR_ABSENT, &c->comma, c->out);
    }
    it = 0;
    for (struct account_datum *d; (d = smap_next(&u->more->room_account_data, &it));) {
        if (d->stream > since)
            legacy_account_item(run, d->type, d->content, d->room_id, &c->comma, c->out);
    }
    c->end.account_data = run->now.account_data;
}

/* ---- which rooms ---- */

/* The one room that was asked for, or all. false: lacks, or is refused. */
static bool choose(struct legacy *l, struct sync_run *run, struct room ***rooms, size_t *n)
{
    *rooms = run->joined;
    *n = run->joined_count;
    if (str_absent(l->room_id))
        return true;
    struct room **one = ARENA_NEW(run->a, struct room *);
    one[0] = legacy_joined_room(run, l->room_id);
    l->peeking = !one[0];
    if (l->peeking) {
        bool yes;
        if (!legacy_world_readable(run, l->room_id, &yes))
            return false;
        if (!yes) {
            legacy_refuse(l, run, 403, "M_FORBIDDEN", STR("Non-joined access not allowed"));
            return false;
        }
        one[0] = model_room(run->m, l->room_id);
    }
    *rooms = one;
    *n = 1;
    return true;
}

static enum run_result put_chunk(struct legacy *l, struct sync_run *run, struct room **rooms, size_t n,
                                 struct rope *out)
{
    struct chunk c = {.l = l, .out = out, .end = l->from};
    rope_put(out, STR("{\"chunk\":["));
    put_rooms(&c, run, rooms, n);
    if (!run->broken) {
        put_presence(&c, run, str_absent(l->room_id) ? NULL : rooms[0]);
        put_ephemeral(&c, run, rooms, n);
        put_account(&c, run);
        for (size_t i = 0; i < c.presence.n && !run->lack; i++)
            legacy_presence(run, c.presence.v[i], &c.comma, out);
    }
    rope_put(out, STR("],\"start\":\""));
    rope_put(out, render_token(run, &l->from));
    rope_put(out, STR("\",\"end\":\""));
    rope_put(out, render_token(run, &c.end));
    rope_put(out, STR("\"}"));
    bool empty = !c.comma;
    vec_free(&c.events);
    vec_free(&c.presence);
    return empty ? RUN_EMPTY : RUN_DONE;
}

enum run_result legacy_events(struct legacy *l, struct sync_run *run, struct rope *out)
{
    struct user *u = run->u;
    struct room **rooms;
    size_t n;
    if (!l->placed)
        l->from = run->now;
    l->placed = true;
    run->has_since = true;
    run->since = l->from;
    run->no_keep = true;
    if (l->of_service && !mpos_equal(&run->now.room, &run->since.room)) { /* as Synapse: only when it looks */
        legacy_refuse(l, run, 500, "M_UNKNOWN", STR("Internal server error"));
        return RUN_BROKEN;
    }
    if (!str_absent(l->room_id)) {
        const struct room_fact *fact = legacy_fact(l, run, l->room_id);
        if (!fact || l->unknown.n)
            return RUN_LACK;
        if (fact->blocked) {
            legacy_refuse(l, run, 403, "M_UNKNOWN", STR("This room has been blocked on this server"));
            return RUN_BROKEN;
        }
    }
    bool ok = legacy_joined(run);
    ok &= run_have(run, model_user_own_events(run->m, u, &run->since.room));
    ok &= run_have(run, model_account_data(run->m, u));
    ok &= run_have(run, model_tags(run->m, u));
    ok &= run_have(run, model_ignored(run->m, u));
    if (!ok)
        return RUN_LACK;
    if (!choose(l, run, &rooms, &n))
        return run->broken ? RUN_BROKEN : RUN_LACK;
    run->peeking = l->peeking;
    return put_chunk(l, run, rooms, n, out);
}
