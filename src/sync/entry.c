/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * From classified rooms to what is sent for each: timeline, state, summary, ephemeral, account data, counts,
 * and the rules by which an entry is dropped (sync-v3 3.4; Synapse 1.157 handlers/sync.py,
 * _generate_room_entry).
 */
#include "sync_int.h"

/* ---- account data of a room ---- */

static bool account_item_matches(struct sync_run *run, struct str type, struct str content)
{
    return filter_match_datum(&run->f->room_account_data, &run->f->room, type, content);
}

static void put_datum(struct buf *b, struct str type, struct str content)
{
    buf_put(b, b->n ? STR(",{\"type\":") : STR("{\"type\":"));
    json_write_str(b, type, 0);
    buf_put(b, STR(",\"content\":"));
    buf_put(b, content);
    buf_putc(b, '}');
}

struct room_data { /* of one room */
    const struct account_datum *d;
    struct room_data *next;
};

/* Many rooms and much account data, the one looked through for the other, would take long: by room. */
static const struct room_data *data_of(struct sync_run *run, struct str room_id)
{
    size_t it = 0;
    for (struct account_datum *d;
         !run->room_data_known && (d = smap_next(&run->u->more->room_account_data, &it));) {
        struct room_data *x = ARENA_NEW(run->a, struct room_data);
        x->d = d;
        x->next = smap_put(&run->room_data, d->room_id, x);
    }
    run->room_data_known = true;
    return smap_get(&run->room_data, room_id);
}

/* The members of account_data.events: tags first; whole when all, else what lies above since. */
static bool room_account(struct sync_run *run, struct room_entry *en, bool all, bool *any)
{
    *any = false;
    en->account_events = STR_ABSENT;
    if (!run_have(run, model_account_data(run->m, run->u)) || !run_have(run, model_tags(run->m, run->u)))
        return false;
    if (filter_blocks_section(&run->f->room_account_data, true) || filter_blocks_all_rooms(run->f))
        return true;
    bool tags_all = all || !run->has_since || en->newly_joined || en->full_state;
    struct buf b;
    buf_init(&b, 64 << 20);
    struct room_tags *t = smap_get(&run->u->more->tags, en->room->room_id);
    if (t && (tags_all ? t->any : t->revision > run->since.account_data)) {
        *any = true;
        if (account_item_matches(run, STR("m.tag"), t->content))
            put_datum(&b, STR("m.tag"), t->content);
    }
    bool data_all = !run->has_since || run->full_state;
    for (const struct room_data *x = data_of(run, en->room->room_id); x; x = x->next) {
        const struct account_datum *d = x->d;
        if ((!data_all && d->stream <= run->since.account_data) ||
            run_account_deleted(run, data_all, d->content))
            continue;
        *any = true;
        if (account_item_matches(run, d->type, d->content))
            put_datum(&b, d->type, d->content);
    }
    if (b.n)
        en->account_events = arena_str(run->a, buf_str(&b));
    buf_fini(&b);
    return true;
}

/* ---- summary ---- */

static bool state_event_has_name(struct sync_run *run, const struct state_ref *ref, struct str type,
                                 bool *has)
{
    struct evrec *rec;
    struct event *ev;
    *has = false;
    enum have h = state_ref_get(run, ref, type, STR(""), &rec);
    if (h == HAVE)
        h = model_event(run->m, rec, &ev);
    if (h == HAVE)
        *has = ev->has_name;
    if (h == LACK)
        run->lack = true;
    return h != LACK;
}

static bool is_member_event(const struct event *ev)
{
    return !str_absent(ev->state_key) && str_eq(ev->type, STR("m.room.member"));
}

/* Is there a member event of this user, whichever? */
static bool in_sections(const struct room_entry *en, struct str user_id)
{
    for (const struct state_item *x = en->state; x; x = x->next) {
        if (is_member_event(x->ev) && str_eq(x->ev->state_key, user_id))
            return true;
    }
    for (size_t i = 0; i < en->timeline_count; i++) {
        const struct event *ev = en->timeline[i].ev;
        if (is_member_event(ev) && str_eq(ev->state_key, user_id))
            return true;
    }
    return false;
}

/* A lazily loading client gets the member events of the heroes. */
static bool add_hero_event(struct sync_run *run, struct room_entry *en, struct member *mb)
{
    if (en->type == ENTRY_ARCHIVED && !mpos_covers(en->end, WRITER_NONE, mb->stream))
        return true; /* came after one has left */
    if (in_sections(en, mb->user_id) || (run->d && str_eq(ll_get(run, mb->user_id), mb->rec->id)))
        return true;
    struct state_item *x = ARENA_NEW(run->a, struct state_item);
    x->type = STR("m.room.member");
    x->key = mb->user_id;
    x->rec = mb->rec;
    enum have h = model_event(run->m, mb->rec, &x->ev);
    if (h == LACK) {
        run->lack = true;
        return false;
    }
    if (h == ABSENT)
        return true;
    x->next = en->state;
    en->state = x;
    en->state_count++;
    if (run->d)
        ll_set(run, mb->user_id, mb->rec->id);
    return true;
}

static bool add_heroes(struct sync_run *run, struct room_entry *en)
{
    struct room *r = en->room;
    struct member *pick[6];
    int n = 0;
    for (int pass = 0; pass < 2 && n == 0;
         pass++) { /* joined and invited; if there are none, who was there before */
        for (int i = 0; i < r->summary_first_count && n < 5; i++) {
            struct member *mb = r->summary_first[i];
            enum membership ms = mb->membership;
            bool present = ms == MEMBERSHIP_JOIN || ms == MEMBERSHIP_INVITE;
            bool gone = ms == MEMBERSHIP_LEAVE || ms == MEMBERSHIP_BAN;
            if ((pass == 0 ? present : gone) && !str_eq(mb->user_id, run->u->user_id))
                pick[n++] = mb;
        }
    }
    en->summary_heroes = true;
    en->heroes = ARENA_ARRAY(run->a, struct str, (size_t)n + 1);
    bool ok = true;
    for (int i = 0; i < n; i++) {
        en->heroes[en->heroes_count++] = pick[i]->user_id;
        ok &= add_hero_event(run, en, pick[i]);
    }
    return ok;
}

static bool summary_wanted(const struct sync_run *run, const struct room_entry *en)
{
    if (!run->f->lazy_load_members || en->out_of_band)
        return false;
    if (!en->has_since)
        return true;
    for (size_t i = 0; i < en->timeline_count; i++) {
        if (is_member_event(en->timeline[i].ev))
            return true;
    }
    for (const struct state_item *x = en->state; en->limited && x; x = x->next) {
        if (is_member_event(x->ev))
            return true;
    }
    return false;
}

bool entry_summary(struct sync_run *run, struct room_entry *en)
{
    if (!summary_wanted(run, en))
        return true;
    struct tl_entry last;
    size_t n;
    bool more;
    struct event *ev;
    struct state_ref ref;
    enum have h = model_page_topological(run->m, en->room, &run->now.room, false, 0, 0, 1, &last, &n, &more);
    bool ok = run_have(run, h);
    ok &= run_have(run, model_room_summary(run->m, en->room));
    if (!ok)
        return false;
    en->summary_given = true;
    if (n == 0) {
        en->summary_null = true;
        return true;
    }
    en->joined_count = en->room->joined_count;
    en->invited_count = en->room->invited_count;
    h = model_event_raw(run->m, last.rec, &ev);
    if (h == LACK) {
        run->lack = true;
        return false;
    }
    if (h == ABSENT || !state_ref_after(run, en->room, ev, last.rec, &ref))
        return true;
    bool name, alias;
    if (!state_event_has_name(run, &ref, STR("m.room.name"), &name))
        return false;
    if (name)
        return true;
    if (!state_event_has_name(run, &ref, STR("m.room.canonical_alias"), &alias))
        return false;
    return alias || add_heroes(run, en);
}

/* ---- one entry ---- */

static void emit(struct sync_run *run, struct room_entry *en)
{
    en->ll_sets_end = run->ll.n;
    en->ll_used_end = run->ll_used.n;
    *run->emitted_tail = en;
    run->emitted_tail = &en->next_emitted;
    if (en->type == ENTRY_JOINED)
        run->emitted_joined++;
    else
        run->emitted_archived++;
}

static bool load_unread(struct sync_run *run, struct room_entry *en)
{
    return !run->cfg->enable_push || run_have(run, model_unread(run->m, run->u, en->room, &en->unread));
}

static void do_entry(struct sync_run *run, struct room_entry *en)
{
    bool had_account;
    if (shared_take(run, en)) {
        if (load_unread(run, en))
            emit(run, en);
        else
            shared_unref(&en->shared);
        return;
    }
    enum have whole = whole_take(run, en);
    if (whole != ABSENT) {
        if (load_unread(run, en) && whole == HAVE && room_account(run, en, true, &had_account))
            emit(run, en);
        else
            whole_unref(&en->whole);
        if (!en->whole && whole == HAVE)
            run->ll.n = en->ll_sets; /* what it would have been sent is no longer there */
        return;
    }
    bool always = run->full_state;
    bool full_state = en->full_state || en->newly_joined || run->full_state;
    if (!room_account(run, en, full_state, &had_account))
        return;
    if (en->type == ENTRY_JOINED && run->ephemeral_done) {
        en->typing = room_typing_json(run, en->room);
        en->receipts = room_receipts_json(run, en->room);
    }
    bool ephemeral = !str_absent(en->typing) || !str_absent(en->receipts);
    bool sticky = en->type == ENTRY_JOINED && run_sticky_in(run, en->room);
    if (!always && !had_account && !ephemeral && !full_state && !sticky && !en->events_none &&
        en->events_count == 0)
        return; /* E1 */
    en->full_state = full_state;
    if (!entry_load_timeline(run, en))
        return;
    entry_relations(run, en);
    bool account = !str_absent(en->account_events);
    if (!always && en->timeline_count == 0 && !account && !ephemeral && !full_state && !sticky)
        return; /* E2 */
    if (!entry_load_state(run, en) || !entry_summary(run, en) || !entry_sticky(run, en))
        return;
    if (run->cfg->check_shortcuts && !run->has_since)
        run_sort_state(run, en);
    if (en->type == ENTRY_ARCHIVED) {
        if (always || en->timeline_count || en->state || account)
            emit(run, en);
        return;
    }
    if (!always && en->timeline_count == 0 && !en->state && !ephemeral && !account && en->sticky_count == 0)
        return;
    whole_offer(run, en);
    if (load_unread(run, en))
        emit(run, en);
    else
        whole_unref(&en->whole);
}

/* Rooms that are new to the client come last: they empty its lazy-loading cache, from which the others are
 * still served. */
void run_entries(struct sync_run *run)
{
    if (run->cfg->check_shortcuts)
        run_sort_entries(run);
    whole_begin(run);
    for (int pass = 0; pass < 2; pass++) {
        for (struct room_entry *en = run->entries; en; en = en->next) {
            if (en->has_since != (pass == 0))
                continue;
            bool lack = run->lack; /* that of one entry says nothing of the next */
            run->lack = false;
            do_entry(run, en);
            run->lack |= lack;
        }
    }
}
