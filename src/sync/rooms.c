/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Which rooms appear (sync-v3 section 5; Synapse 1.157 handlers/sync.py, _generate_sync_entry_for_rooms).
 *
 * Initial: every current membership. Incremental: the user's own membership events in the window say which
 * rooms were joined, left, invited to, knocked on; every other joined room in which something happened gets
 * an entry. Which those are is asked of every joined room, or, where nothing but news can have brought any,
 * of the few in the user's news (model/news.c): an ordinary delta costs the same in one room and in a
 * thousand.
 */
#include "sync_int.h"

static bool excluded(const struct sync_run *run, const struct room *r)
{
    for (size_t i = 0; i < run->cfg->exclude_rooms_from_sync_count; i++) {
        if (str_eq(run->cfg->exclude_rooms_from_sync[i], r->room_id))
            return true;
    }
    return false;
}

/* A client that does not load members lazily is not shown a room that it is in while the room's state is
 * partial. It is told of invitations to it and that one has left it: Synapse 1.157 looks at rooms that one is
 * joined to now (handlers/sync.py, get_sync_result_builder). */
static bool partial_joined(const struct sync_run *run, const struct membership_row *row)
{
    return row->membership == MEMBERSHIP_JOIN && row->room->partial && !run->f->lazy_load_members;
}

/* Joined, as far as the reader is concerned. */
bool run_is_shown(const struct sync_run *run, const struct membership_row *row)
{
    return row->membership == MEMBERSHIP_JOIN && row->known_version && !excluded(run, row->room) &&
           !partial_joined(run, row);
}

struct room *run_joined_room(const struct sync_run *run, struct str room_id)
{
    const struct membership_row *row = kmap_get(&run->u->rooms, room_id);
    return row && run_is_shown(run, row) ? row->room : NULL;
}

void run_joined(struct sync_run *run)
{
    if (run->joined)
        return;
    run->joined = ARENA_ARRAY(run->a, struct room *, kmap_count(&run->u->rooms) + 1);
    size_t it = 0;
    for (struct membership_row *row; (row = kmap_next(&run->u->rooms, &it));) {
        if (run_is_shown(run, row))
            run->joined[run->joined_count++] = row->room;
    }
}

static void add_stripped(struct sync_run *run, struct room *room, struct evrec *rec, bool knock)
{
    struct event *ev;
    if (!run_have(run, model_event(run->m, rec, &ev)))
        return;
    struct stripped_entry *s = ARENA_NEW(run->a, struct stripped_entry);
    s->room = room;
    s->ev = ev;
    if (knock) {
        *run->knocks_tail = s;
        run->knocks_tail = &s->next;
    } else {
        *run->invites_tail = s;
        run->invites_tail = &s->next;
    }
}

static struct room_entry *add_entry(struct sync_run *run, struct room *room, enum entry_type type)
{
    struct room_entry *en = ARENA_NEW(run->a, struct room_entry);
    en->room = room;
    en->type = type;
    *run->entries_tail = en;
    run->entries_tail = &en->next;
    return en;
}

static void add_invite(struct sync_run *run, struct room *room, struct evrec *rec, struct str sender)
{
    if (!run_invite_hidden(run, sender))
        add_stripped(run, room, rec, false);
}

/* ---- initial ---- */

static void classify_initial(struct sync_run *run)
{
    size_t it = 0;
    for (struct membership_row *row; (row = kmap_next(&run->u->rooms, &it));) {
        if (row->forgotten || !row->known_version || excluded(run, row->room) || partial_joined(run, row))
            continue;
        switch (row->membership) {
        case MEMBERSHIP_JOIN: {
            struct room_entry *en = add_entry(run, row->room, ENTRY_JOINED);
            en->full_state = en->events_none = true;
            en->upto = entry_at(&run->now);
            en->end = &run->now.room;
            break;
        }
        case MEMBERSHIP_INVITE:
            add_invite(run, row->room, row->rec, membership_sender(row));
            break;
        case MEMBERSHIP_KNOCK:
            add_stripped(run, row->room, row->rec, true);
            break;
        case MEMBERSHIP_LEAVE:
            if (str_eq(membership_sender(row), run->u->user_id) && !run->f->include_leave)
                break;
            __attribute__((fallthrough));
        case MEMBERSHIP_BAN: {
            if (row->room->partial && !run->f->lazy_load_members)
                break; /* Synapse waits until the state is whole */
            struct room_entry *en = add_entry(run, row->room, ENTRY_ARCHIVED);
            en->full_state = en->events_none = true;
            en->end = run_mpos(run, row->stream);
            en->upto = (struct entry_at){&run->now, en->end};
            break;
        }
        case MEMBERSHIP_NONE:
            break;
        }
    }
}

/* ---- incremental ---- */

struct own {
    struct own_event *e;
    struct event *ev;
};

/* My membership at since, by the room's state then. */
static bool old_membership(struct sync_run *run, struct room *room, enum membership *ms)
{
    struct state_ref ref;
    *ms = MEMBERSHIP_NONE;
    if (!state_ref_at(run, room, &run->since.room, &ref))
        return false;
    if (ref.none)
        return true;
    struct evrec *rec;
    enum have h = state_ref_get(run, &ref, STR("m.room.member"), run->u->user_id, &rec);
    if (h == LACK) {
        run->lack = true;
        return false;
    }
    if (h == ABSENT)
        return true;
    h = run_member_event(run, rec, run->u->user_id, room, ms);
    return h != LACK;
}

static void add_archived(struct sync_run *run, struct room *room, const struct own *leave, bool newly_joined)
{
    if (mpos_covers(&run->since.room, leave->e->writer, leave->e->stream))
        return;
    struct room_entry *en = add_entry(run, room, ENTRY_ARCHIVED);
    en->newly_joined = newly_joined;
    en->has_since = true;
    en->end = run_mpos(run, leave->e->stream);
    en->upto = (struct entry_at){&run->since, en->end};
    en->out_of_band = leave->ev->out_of_band_membership;
    if (en->out_of_band) {
        en->events = ARENA_NEW(run->a, struct tl_entry);
        en->events[0] =
            (struct tl_entry){leave->e->stream, leave->ev->topological, leave->e->writer, leave->e->rec};
        en->events_count = 1;
    } else {
        en->events_none = true;
    }
}

/* One room of the user's own membership events, ascending: the table of sync-v3 5.2. */
static void classify_room(struct sync_run *run, struct room *room, const struct own *v, size_t n)
{
    bool joined = run_is_joined(run, room->room_id);
    bool has_join = false, newly_joined = false, left = false;
    const struct own *last_non_join = NULL, *last_leave = NULL;
    for (size_t i = 0; i < n; i++) {
        enum membership ms = v[i].ev->membership;
        if (ms == MEMBERSHIP_JOIN) {
            has_join = true;
            continue;
        }
        last_non_join = &v[i];
        if (ms == MEMBERSHIP_LEAVE || ms == MEMBERSHIP_BAN)
            last_leave = &v[i];
    }
    if (joined && last_non_join) {
        user_set_add(&run->newly_joined_rooms, room->room_id);
        return;
    }
    enum membership old = MEMBERSHIP_NONE;
    bool asked = false;
    if (joined || has_join) {
        asked = true;
        if (!old_membership(run, room, &old))
            return;
        if (old != MEMBERSHIP_JOIN) {
            newly_joined = true;
            user_set_add(&run->newly_joined_rooms, room->room_id);
        }
    }
    if (joined || !last_non_join)
        return;
    if (v[n - 1].ev->membership != MEMBERSHIP_JOIN) {
        if (has_join) {
            left = true;
        } else {
            if (!asked && !old_membership(run, room, &old))
                return;
            left = old == MEMBERSHIP_JOIN;
        }
        if (left)
            user_set_add(&run->newly_left_rooms, room->room_id);
    }
    if (last_non_join->ev->membership == MEMBERSHIP_INVITE)
        add_invite(run, room, last_non_join->e->rec, last_non_join->ev->sender);
    else if (last_non_join->ev->membership == MEMBERSHIP_KNOCK)
        add_stripped(run, room, last_non_join->e->rec, true);
    if (last_leave)
        add_archived(run, room, last_leave, newly_joined);
}

static int by_room(const void *a, const void *b)
{
    const struct own *x = a, *y = b;
    int c = str_cmp(x->e->room->room_id, y->e->room->room_id);
    return c ? c : x->e->stream < y->e->stream ? -1 : x->e->stream > y->e->stream;
}

static void classify_own_events(struct sync_run *run)
{
    struct user *u = run->u;
    struct own *v = ARENA_ARRAY(run->a, struct own, user_own_count(u) + 1);
    size_t n = 0;
    for (size_t i = 0; i < user_own_count(u); i++) {
        struct own_event *e = &u->more->own->list.v[i];
        const struct membership_row *row = kmap_get(&u->rooms, e->room->room_id);
        if (!mpos_in_range(&run->since.room, &run->now.room, e->writer, e->stream) ||
            excluded(run, e->room) || (row && partial_joined(run, row)))
            continue;
        struct event *ev;
        if (run_have(run, model_event_raw(run->m, e->rec, &ev)) && !ev->rejected)
            v[n++] = (struct own){e, ev};
    }
    if (run->lack)
        return;
    qsort(v, n, sizeof *v, by_room);
    for (size_t i = 0, j; i < n; i = j) {
        for (j = i + 1; j < n && v[j].e->room == v[i].e->room; j++)
            ;
        classify_room(run, v[i].e->room, v + i, j - i);
    }
}

/* Newest events of a joined room since the token, ascending, at most limit + 1. */
static void joined_entry(struct sync_run *run, struct room *room)
{
    bool newly = user_set_has(&run->newly_joined_rooms, room->room_id);
    bool none_asked = false;
    struct tl_entry *v = NULL;
    size_t n = 0;
    if (model_room_changed(room, &run->since.room)) {
        int64_t want = run->f->timeline_limit; /* candidates are one more than that: of -1 there are none */
        size_t limit = want == -1 ? 0 : run_timeline_limit(run) + 1;
        bool more;
        none_asked = want == -1;
        run->broken |= want < -1 || run->f->timeline_limit_fractional;
        v = ARENA_ARRAY(run->a, struct tl_entry, limit + 1);
        if (limit && !run_have(run, model_page_stream(run->m, room, &run->since.room, &run->now.room, limit,
                                                      v, &n, &more)))
            return;
    }
    /* The common case by far: nothing here for this reader. Cheap to say before an entry is made. */
    bool ephemeral = run->ephemeral_done && (room->typing_serial > run_since_typing(run) ||
                                             room->last_receipt > run->since.receipt.min ||
                                             !mpos_le(&room->since_receipts, &run->since.receipt));
    if (n == 0 && !newly && !run->full_state && !ephemeral && !run->u->ad_changed &&
        !run_sticky_in(run, room))
        return;
    struct room_entry *en = add_entry(run, room, ENTRY_JOINED);
    en->newly_joined = newly;
    en->end = &run->now.room;
    if (n > 0) {
        for (size_t i = 0; i < n / 2; i++) {
            struct tl_entry t = v[i];
            v[i] = v[n - 1 - i];
            v[n - 1 - i] = t;
        }
        en->events = v;
        en->events_count = n;
        en->has_since = !newly;
        en->upto = (struct entry_at){&run->now, run_mpos(run, v[0].stream - 1)};
    } else {
        en->has_since = true;
        en->upto = entry_at(&run->since);
        if (none_asked) { /* a page was read, and nothing of it wanted */
            en->upto = (struct entry_at){&run->now, &run->since.room};
        }
    }
}

/* Does any account data or tag of the user lie above the token? */
static bool account_changed(const struct sync_run *run)
{
    return run->u->more->ad_last > run->since.account_data ||
           run->u->more->tags_newest > run->since.account_data;
}

/* The database may have shown a membership that replication has not brought yet. */
static bool memberships_ahead(const struct sync_run *run)
{
    if (run->u->rooms_newest <= run->now.room.min)
        return false;
    size_t it = 0;
    for (struct membership_row *row; (row = kmap_next(&run->u->rooms, &it));) {
        if (!mpos_covers(&run->now.room, row->writer, row->stream))
            return true;
    }
    return false;
}

/* Rooms whose state is whole since the token: a client that does not load members lazily has not been shown
 * them. */
static void force_newly_joined(struct sync_run *run)
{
    if (run->f->lazy_load_members)
        return;
    run_joined(run);
    for (size_t i = 0; i < run->joined_count; i++) {
        const struct room *r = run->joined[i];
        if (r->un_partial > 0 && r->un_partial > run->since.un_partial_stated_rooms &&
            r->un_partial <= run->now.un_partial_stated_rooms)
            user_set_add(&run->newly_joined_rooms, r->room_id);
    }
}

/* Can only what is noted as news bring a room into this answer? */
static bool only_news(const struct sync_run *run)
{
    const struct user *u = run->u;
    size_t own = user_own_count(u);
    bool no_membership = own == 0 || u->more->own->list.v[own - 1].stream <= run->since.room.min;
    bool none_whole =
        run->f->lazy_load_members || run->since.un_partial_stated_rooms == run->now.un_partial_stated_rooms;
    return no_membership && none_whole && !run->plain && !run->full_state && !u->ad_changed &&
           !run->cfg->msc4354_enabled &&
           model_user_news(u, run->since.room.min, run->since.receipt.min, run_since_typing(run));
}

static void news_entries(struct sync_run *run)
{
    for (size_t i = 0; i < run->u->news.n; i++) {
        const struct membership_row *row = run->u->news.v[i].row;
        if (run_is_shown(run, row))
            joined_entry(run, row->room);
    }
}

static void incremental(struct sync_run *run)
{
    run->u->ad_changed = account_changed(run);
    if (only_news(run)) {
        run->shortcut = true;
        news_entries(run);
        return;
    }
    force_newly_joined(run);
    classify_own_events(run);
    run_joined(run);
    for (size_t i = 0; i < run->joined_count; i++)
        joined_entry(run, run->joined[i]);
}

void run_rooms(struct sync_run *run)
{
    struct user *u = run->u;
    bool ok = run_have(run, model_user_rooms(run->m, u));
    ok &= run_have(run, model_ignored(run->m, u));
    ok &= run_invite_rules_known(run);
    ok &= run_have(run, model_tags(run->m, u));
    ok &= run_have(run,
                   model_account_data(run->m, u)); /* of rooms, though the filter may block the global one */
    if (run->has_since)
        ok &= run_have(run, model_user_own_events(run->m, u, &run->since.room));
    if (!ok || run->lack)
        return;
    run->ahead = memberships_ahead(run);
    if (run->ahead)
        return;
    run_sticky(run);
    run->ephemeral_done =
        !filter_blocks_all_rooms(run->f) && !filter_blocks_section(&run->f->ephemeral, true);
    if (run->has_since)
        incremental(run);
    else
        classify_initial(run);
}

bool run_shares_room(struct sync_run *run, struct str user_id)
{
    run_joined(run);
    for (size_t i = 0; i < run->joined_count; i++) {
        if (!run_have(run, model_room_state(run->m, run->joined[i])))
            continue;
        struct member *mb = room_member_get(run->joined[i], user_id);
        if (mb && mb->membership == MEMBERSHIP_JOIN)
            return true;
    }
    return false;
}
