/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * /initialSync and /rooms/{roomId}/initialSync: rooms as they stand, or as they stood when one left (sync-v3
 * 9.2, 9.3; Synapse 1.157 handlers/initial_sync.py).
 *
 * The messages are the newest by depth, before visibility is looked at; the token at their start is one for
 * going on backwards. What concerns a room that cannot be had is left out of it, and the rest is answered. A
 * world-readable room can be looked at from outside: then only what everybody may see is shown.
 */
#include "legacy.h"

/* One room's part: messages before end, and the state at some point. */
struct part {
    struct room *room;
    const struct mpos *end;
    struct stream_token start;
    struct tl_ev *v;
    size_t n;
    struct sg *group; /* the state, unless it is the current one */
    VEC(struct evrec *) state;
};

static bool load_messages(struct legacy *l, struct sync_run *run, struct part *p)
{
    struct tl_entry *e = ARENA_ARRAY(run->a, struct tl_entry, l->limit + 1);
    size_t n = 0;
    bool more, lack = false;
    if (l->limit &&
        !run_have(run, model_page_topological(run->m, p->room, p->end, false, 0, 0, l->limit, e, &n, &more)))
        return false;
    if (n) {
        p->start.historical = true;
        p->start.topological = e[n - 1].topological;
        p->start.room = mpos_of(e[n - 1].stream - 1);
    }
    p->v = ARENA_ARRAY(run->a, struct tl_ev, n + 1);
    for (size_t i = n; i-- > 0;) {
        struct event *ev;
        enum have h = model_event(run->m, e[i].rec, &ev);
        lack |= h == LACK;
        if (h == HAVE)
            p->v[p->n++] = (struct tl_ev){.e = e[i], .ev = ev};
    }
    run->lack |= lack;
    if (!visibility_filter(run, p->room, p->v, &p->n) || lack)
        return false;
    for (size_t i = 0; i < p->n; i++)
        render_event_v1_prepare(run, p->v[i].ev, true);
    return true;
}

static void add_state(void *arg, struct str type, struct str key, struct evrec *rec)
{
    struct part *p = arg;
    (void)type;
    (void)key;
    vec_push(&p->state, rec);
}

static bool load_state(struct sync_run *run, struct part *p)
{
    if (p->group) {
        if (!run_have(run, model_sg_each(run->m, p->group, true, add_state, p)))
            return false;
    } else {
        size_t it = 0;
        if (!run_have(run, model_room_state(run->m, p->room)))
            return false;
        for (struct state_entry *e; (e = smap_next(&p->room->state, &it));)
            vec_push(&p->state, e->rec);
        it = 0;
        for (struct member *mb; (mb = smap_next(&p->room->members, &it));)
            vec_push(&p->state, mb->rec);
    }
    for (size_t i = 0; i < p->state.n; i++) {
        struct event *ev;
        if (run_have(run, model_event(run->m, p->state.v[i], &ev)))
            render_event_v1_prepare(run, ev, false);
    }
    return !run->lack;
}

static void put_messages(struct legacy *l, struct sync_run *run, const struct part *p,
                         const struct stream_token *end, struct rope *out)
{
    rope_put(out, STR("\"messages\":{\"chunk\":["));
    for (size_t i = 0; i < p->n; i++) {
        rope_put(out, i ? STR(",") : STR(""));
        render_event_v1(run, p->v[i].pruned ? p->v[i].pruned : p->v[i].ev, true, p->v[i].membership, l->raw,
                        out);
    }
    rope_put(out, STR("],\"start\":\""));
    rope_put(out, render_token(run, &p->start));
    rope_put(out, STR("\",\"end\":\""));
    rope_put(out, render_token(run, end));
    rope_put(out, STR("\"},\"state\":["));
    bool comma = false;
    for (size_t i = 0; i < p->state.n; i++) {
        struct event *ev;
        if (model_event(run->m, p->state.v[i], &ev) != HAVE)
            continue;
        rope_put(out, comma ? STR(",") : STR(""));
        comma = true;
        render_event_v1(run, ev, false, STR_ABSENT, l->raw, out);
    }
    rope_put(out, STR("]"));
}

static void put_account(struct sync_run *run, struct str room_id, struct rope *out)
{
    rope_put(out, STR(",\"account_data\":["));
    legacy_room_account(run, room_id, out);
    rope_put(out, STR("]"));
}

static void put_receipts(struct sync_run *run, struct room *room, bool *comma, struct rope *out)
{
    struct str text = room_receipts_json(run, room);
    if (str_absent(text))
        return;
    rope_put(out, *comma ? STR(",") : STR(""));
    *comma = true;
    legacy_with_room(run, text, room->room_id, out);
}

/* State and end of a room that one has left: as its leave event says. false: lacks, or it cannot be had: of
 * an invitation that was refused from afar there is no state, and today's is not the leaver's to see. */
static bool at_leave(struct sync_run *run, const struct membership_row *row, struct part *p, struct mpos *end)
{
    struct event *ev;
    enum have h = model_event_raw(run->m, row->rec, &ev);
    if (!run_have(run, h) || !ev->state_group)
        return false;
    *end = mpos_of(row->stream);
    p->end = end;
    p->group = model_sg(run->m, p->room, ev->state_group);
    return true;
}

/* ---- all rooms ---- */

static bool is_wanted(const struct legacy *l, const struct membership_row *row)
{
    return row->membership == MEMBERSHIP_JOIN || row->membership == MEMBERSHIP_INVITE ||
           (row->membership == MEMBERSHIP_LEAVE && l->archived && !row->forgotten);
}

static void put_invite(struct legacy *l, struct sync_run *run, const struct membership_row *row,
                       struct rope *out)
{
    struct event *ev;
    if (!run_have(run, model_event(run->m, row->rec, &ev)))
        return;
    render_event_v1_prepare(run, ev, false);
    if (run->lack)
        return;
    rope_put(out, STR(",\"inviter\":"));
    rope_json_str(run, out, membership_sender(row));
    rope_put(out, STR(",\"invite\":"));
    render_event_v1(run, ev, false, STR_ABSENT, l->raw, out);
}

static void put_room(struct legacy *l, struct sync_run *run, const struct membership_row *row,
                     struct rope *out)
{
    const struct room_fact *fact = legacy_fact(l, run, row->room->room_id);
    struct part p = {.room = row->room, .start = run->now};
    struct stream_token end = run->now;
    struct mpos left;
    rope_put(out, STR("{\"room_id\":"));
    rope_json_str(run, out, row->room->room_id);
    rope_put(out, STR(",\"membership\":\""));
    rope_put(out, str_of(membership_name(row->membership)));
    rope_put(out, fact && fact->is_public ? STR("\",\"visibility\":\"public\"")
                                          : STR("\",\"visibility\":\"private\""));
    if (row->membership == MEMBERSHIP_INVITE)
        put_invite(l, run, row, out);
    if (row->membership != MEMBERSHIP_INVITE && row->known_version) {
        bool ok = true;
        p.end = &run->now.room;
        if (row->membership == MEMBERSHIP_LEAVE) {
            ok = at_leave(run, row, &p, &left);
            end.room = p.start.room = ok ? left : end.room;
        }
        ok = ok && load_messages(l, run, &p); /* both, to want in one batch what can be foreseen */
        ok = load_state(run, &p) && ok;
        if (ok && !run->lack) {
            rope_put(out, STR(","));
            put_messages(l, run, &p, &end, out);
            put_account(run, row->room->room_id, out);
        }
        vec_free(&p.state);
    }
    rope_put(out, STR("}"));
}

static void put_global(struct sync_run *run, struct rope *out)
{
    struct str *users;
    size_t n, it = 0;
    bool comma = false;
    rope_put(out, STR("],\"presence\":["));
    run_presence_users(run, NULL, &users, &n);
    for (size_t i = 0; i < n; i++)
        legacy_presence(run, users[i], &comma, out);
    rope_put(out, STR("],\"account_data\":["));
    comma = false;
    for (struct account_datum *d; (d = smap_next(&run->u->more->account_data, &it));) {
        if (!str_eq(d->type, STR("m.push_rules")) && !run_account_deleted(run, true, d->content))
            legacy_account_item(run, d->type, d->content, STR_ABSENT, &comma, out);
    }
    rope_put(out, STR("],\"receipts\":["));
    comma = false;
    for (size_t i = 0; i < run->joined_count; i++)
        put_receipts(run, run->joined[i], &comma, out);
    rope_put(out, STR("],\"end\":\""));
    rope_put(out, render_token(run, &run->now));
    rope_put(out, STR("\"}"));
}

enum run_result legacy_all_rooms(struct legacy *l, struct sync_run *run, struct rope *out)
{
    struct user *u = run->u;
    run->no_requester = true;
    run->no_keep = true;
    bool ok = legacy_joined(run);
    ok &= run_have(run, model_account_data(run->m, u));
    ok &= run_have(run, model_tags(run->m, u));
    ok &= run_have(run, model_ignored(run->m, u));
    if (!ok)
        return RUN_LACK;
    size_t it = 0;
    bool comma = false;
    rope_put(out, STR("{\"rooms\":["));
    for (struct membership_row *row; (row = kmap_next(&u->rooms, &it));) {
        if (!is_wanted(l, row))
            continue;
        rope_put(out, comma ? STR(",") : STR(""));
        comma = true;
        put_room(l, run, row, out);
    }
    put_global(run, out);
    return RUN_DONE;
}

/* ---- one room ---- */

static enum run_result put_left(struct legacy *l, struct sync_run *run, const struct membership_row *row,
                                struct rope *out)
{
    struct part p = {.room = row->room}; /* tokens that say nothing of other streams */
    struct stream_token end = {0};
    struct mpos left;
    if (!at_leave(run, row, &p, &left)) {
        legacy_refuse(l, run, 500, "M_UNKNOWN", STR("Internal server error"));
        return RUN_BROKEN;
    }
    end.room = p.start.room = left;
    bool ok = load_messages(l, run, &p);
    ok = load_state(run, &p) && ok;
    if (ok) {
        rope_put(out, STR("{\"membership\":\"leave\",\"room_id\":"));
        rope_json_str(run, out, row->room->room_id);
        rope_put(out, STR(","));
        put_messages(l, run, &p, &end, out);
        rope_put(out, STR(",\"presence\":[],\"receipts\":[]"));
        put_account(run, row->room->room_id, out);
        rope_put(out, STR("}"));
    }
    vec_free(&p.state);
    return RUN_DONE;
}

static void put_members_presence(struct sync_run *run, struct room *room, struct rope *out)
{
    bool comma = false;
    size_t it = 0;
    rope_put(out, STR(",\"presence\":["));
    for (struct member *mb; run->cfg->presence.enabled && (mb = smap_next(&room->members, &it));) {
        if (mb->membership == MEMBERSHIP_JOIN)
            legacy_presence(run, mb->user_id, &comma, out);
    }
    rope_put(out, STR("]"));
}

static enum run_result put_present(struct legacy *l, struct sync_run *run, struct rope *out)
{
    struct room *room = model_room(run->m, l->room_id);
    struct part p = {.room = room, .end = &run->now.room, .start = run->now};
    bool comma = false;
    bool ok = load_messages(l, run, &p);
    ok = load_state(run, &p) && ok;
    if (ok) {
        rope_put(out, STR("{\"room_id\":"));
        rope_json_str(run, out, l->room_id);
        rope_put(out, STR(","));
        put_messages(l, run, &p, &run->now, out);
        put_members_presence(run, room, out);
        rope_put(out, STR(",\"receipts\":["));
        put_receipts(run, room, &comma, out);
        rope_put(out, l->peeking ? STR("]") : STR("],\"membership\":\"join\""));
        put_account(run, l->room_id, out);
        rope_put(out, STR("}"));
    }
    vec_free(&p.state);
    return RUN_DONE;
}

enum run_result legacy_one_room(struct legacy *l, struct sync_run *run, struct rope *out)
{
    struct user *u = run->u;
    run->no_keep = true;
    const struct room_fact *fact = legacy_fact(l, run, l->room_id);
    bool ok = legacy_joined(run);
    ok &= run_have(run, model_account_data(run->m, u));
    ok &= run_have(run, model_tags(run->m, u));
    ok &= run_have(run, model_ignored(run->m, u));
    if (!ok || !fact || l->unknown.n)
        return RUN_LACK;
    if (fact->blocked) {
        legacy_refuse(l, run, 403, "M_UNKNOWN", STR("This room has been blocked on this server"));
        return RUN_BROKEN;
    }
    const struct membership_row *row = kmap_get(&u->rooms, l->room_id);
    if (row && row->membership == MEMBERSHIP_LEAVE && !row->forgotten)
        return put_left(l, run, row, out);
    bool readable = false;
    l->peeking = !row || row->membership != MEMBERSHIP_JOIN;
    if (l->peeking && !legacy_world_readable(run, l->room_id, &readable))
        return RUN_LACK;
    if (l->peeking && !readable) {
        legacy_refuse(l, run, 403, "M_FORBIDDEN",
                      arena_printf(run->a, "User %.*s not in room %.*s, and room previews are disabled",
                                   STR_ARG(u->user_id), STR_ARG(l->room_id)));
        return RUN_BROKEN;
    }
    run->peeking = l->peeking;
    return put_present(l, run, out);
}
