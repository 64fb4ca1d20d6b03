/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The state section: what a client must know besides the timeline (sync-v3 section 4; Synapse 1.157
 * handlers/sync.py, compute_state_delta). Sets of event ids from up to three positions are combined; in the
 * ordinary case, a timeline that goes on where the client stands, the answer is known to be empty without
 * looking at any state.
 */
#include "sync_int.h"

static const struct str MEMBER = {"m.room.member", 13};

bool state_ref_after(struct sync_run *run, struct room *room, struct event *ev, struct evrec *rec,
                     struct state_ref *out)
{
    *out = (struct state_ref){.none = ev->state_group == 0, .last = ev, .last_rec = rec};
    if (!out->none)
        out->g = model_sg(run->m, room, ev->state_group);
    return true;
}

bool state_ref_at(struct sync_run *run, struct room *room, const struct mpos *at, struct state_ref *out)
{
    struct tl_entry e;
    struct event *ev;
    *out = (struct state_ref){.none = true};
    enum have h = model_last_event(run->m, room, at, &e);
    if (h == ABSENT)
        return true;
    if (h == HAVE)
        h = model_event_raw(run->m, e.rec, &ev);
    if (h == LACK) {
        run->lack = true;
        return false;
    }
    if (h == ABSENT)
        return true;
    bool ok = state_ref_after(run, room, ev, e.rec, out);
    out->at = true;
    return ok;
}

/* A state event's own key is what it says, even where state resolution left it out of its group. */
static bool is_own_key(const struct state_ref *ref, struct str type, struct str key)
{
    return ref->last && !str_absent(ref->last->state_key) && !ref->last->rejected &&
           str_eq(ref->last->type, type) && str_eq(ref->last->state_key, key);
}

enum have state_ref_get(struct sync_run *run, const struct state_ref *ref, struct str type, struct str key,
                        struct evrec **out)
{
    *out = NULL;
    if (is_own_key(ref, type, key)) {
        *out = ref->last_rec;
        return HAVE;
    }
    if (ref->none)
        return ABSENT;
    return model_sg_get(run->m, ref->g, type, key, out);
}

enum have run_member_event(struct sync_run *run, struct evrec *rec, struct str user_id, struct room *room,
                           enum membership *ms)
{
    if (room->state_load == LOAD_DONE) {
        struct member *mb = room_member_get(room, user_id);
        if (mb && mb->rec == rec) {
            *ms = mb->membership;
            return HAVE;
        }
    }
    struct event *ev;
    enum have h = model_event_raw(run->m, rec, &ev);
    *ms = h == HAVE ? ev->membership : MEMBERSHIP_NONE;
    if (h == LACK)
        run->lack = true;
    return h;
}

/* ---- sets of event ids ---- */

struct id_set {
    struct sync_run *run;
    struct imap by_id; /* record of an event -> struct state_item */
    bool members_only;
};

/* There is one record of an event, so its address will do for its id. */
static int64_t id_of(const struct evrec *rec)
{
    return (int64_t)(uintptr_t)rec;
}

static void set_init(struct id_set *s, struct sync_run *run)
{
    *s = (struct id_set){.run = run};
    imap_init(&s->by_id);
}

static void set_add(void *arg, struct str type, struct str key, struct evrec *rec)
{
    struct id_set *s = arg;
    if (s->members_only && !str_eq(type, MEMBER))
        return;
    if (imap_get(&s->by_id, id_of(rec)))
        return;
    struct state_item *it = ARENA_NEW(s->run->a, struct state_item);
    it->type = type;
    it->key = key;
    it->rec = rec;
    imap_put(&s->by_id, id_of(rec), it);
}

static void set_remove(struct id_set *s, const struct id_set *from)
{
    size_t it = 0;
    for (struct state_item *x; (x = imap_next(&from->by_id, &it));)
        imap_del(&s->by_id, id_of(x->rec));
}

/* What of a state is asked for: everything, or all non-members and some members. */
struct state_filter {
    bool all;
    const struct user_set *members;
};

static bool set_fill(struct id_set *s, const struct state_ref *ref, const struct state_filter *f)
{
    struct sync_run *run = s->run;
    if (ref->last && !str_absent(ref->last->state_key) && !ref->last->rejected &&
        (ref->at || f->all || !str_eq(ref->last->type, MEMBER) ||
         user_set_has(f->members, ref->last->state_key)))
        set_add(s, ref->last->type, ref->last->state_key, ref->last_rec);
    if (ref->none)
        return true;
    struct id_set raw;
    set_init(&raw, run);
    bool ok = run_have(run, model_sg_each(run->m, ref->g, f->all, set_add, &raw));
    for (size_t i = 0; !f->all && i < f->members->v.n; i++) {
        struct evrec *rec;
        enum have h = model_sg_get(run->m, ref->g, MEMBER, f->members->v.v[i], &rec);
        if (h == LACK) {
            run->lack = true;
            ok = false;
        } else if (h == HAVE) {
            set_add(&raw, MEMBER, f->members->v.v[i], rec);
        }
    }
    size_t it = 0;
    for (struct state_item *x; ok && (x = imap_next(&raw.by_id, &it));) {
        if (!is_own_key(ref, x->type, x->key))
            set_add(s, x->type, x->key, x->rec);
    }
    imap_fini(&raw.by_id);
    return ok;
}

/* Only the wanted members, for a linear timeline. */
static bool set_fill_members(struct id_set *s, const struct state_ref *ref, const struct user_set *members)
{
    bool ok = true;
    for (size_t i = 0; i < members->v.n; i++) {
        struct evrec *rec;
        enum have h = state_ref_get(s->run, ref, MEMBER, members->v.v[i], &rec);
        if (h == LACK) {
            s->run->lack = true;
            ok = false;
        } else if (h == HAVE) {
            set_add(s, MEMBER, members->v.v[i], rec);
        }
    }
    return ok;
}

/* ---- the two ways ---- */

struct wanted {
    struct room_entry *en;
    bool lazy;
    struct user_set members; /* senders of the timeline whose membership is not in it already; with MSC4222
                                all senders */
    struct id_set contains;  /* state events of the timeline, last per key */
    struct id_set result;
    struct imap changed; /* records of result's members that changed since the token, among others */
};

static struct str state_key_of(struct sync_run *run, struct str type, struct str key)
{
    return arena_printf(run->a, "%.*s%c%.*s", STR_ARG(type), 0, STR_ARG(key));
}

/* Both ends of a timeline may say something of a key, when what lies between was filtered away or the history
 * forks. A client applies state in the order in which it comes: only what s holds already counts then. */
static void add_other_keys(struct id_set *s, const struct id_set *from)
{
    size_t it = 0;
    struct smap keys;
    smap_init(&keys);
    for (struct state_item *x; (x = imap_next(&from->by_id, &it));) {
        if (imap_get(&s->by_id, id_of(x->rec)))
            continue;
        size_t old = 0;
        if (smap_count(&keys) == 0) {
            for (struct state_item *y; (y = imap_next(&s->by_id, &old));)
                smap_put(&keys, state_key_of(s->run, y->type, y->key), y);
        }
        if (!smap_get(&keys, state_key_of(s->run, x->type, x->key)))
            set_add(s, x->type, x->key, x->rec);
    }
    smap_fini(&keys);
}

static void note_changed(struct wanted *w, const struct id_set *s, const struct id_set *before)
{
    size_t it = 0;
    for (struct state_item *x; (x = imap_next(&s->by_id, &it));) {
        if (str_eq(x->type, MEMBER) && !imap_get(&before->by_id, id_of(x->rec)))
            imap_put(&w->changed, id_of(x->rec), x);
    }
}

static bool combine(struct wanted *w, const struct state_ref *start, const struct state_ref *end,
                    const struct state_ref *prev, const struct state_filter *f, const struct state_filter *g)
{
    struct sync_run *run = w->result.run;
    struct id_set s_start, s_end, s_prev;
    set_init(&s_start, run);
    set_init(&s_end, run);
    set_init(&s_prev, run);
    bool ok = set_fill(&s_start, start, f);
    ok &= set_fill(&s_end, end, g);
    if (prev)
        ok &= set_fill(&s_prev, prev, g);
    if (ok) {
        size_t it = 0;
        if (w->lazy && prev) {
            note_changed(w, &s_end, &s_prev);
            note_changed(w, &s_start, &s_prev);
        }
        if (w->lazy) { /* members of start are always offered; the cache drops what the client has */
            for (struct state_item *x; (x = imap_next(&s_start.by_id, &it));) {
                if (str_eq(x->type, MEMBER))
                    imap_del(&s_prev.by_id, id_of(x->rec));
            }
        }
        set_remove(&s_end, &s_prev);
        set_remove(&s_end, &w->contains);
        set_remove(&s_start, &s_prev);
        set_remove(&s_start, &w->contains);
        it = 0;
        for (struct state_item *x; (x = imap_next(&s_end.by_id, &it));)
            set_add(&w->result, x->type, x->key, x->rec);
        add_other_keys(&w->result, &s_start);
    }
    imap_fini(&s_start.by_id);
    imap_fini(&s_end.by_id);
    imap_fini(&s_prev.by_id);
    return ok;
}

static bool start_of(struct wanted *w, const struct state_ref *end, struct state_ref *start)
{
    struct room_entry *en = w->en;
    if (en->timeline_count == 0) {
        *start = *end;
        return true;
    }
    return state_ref_after(w->result.run, en->room, en->timeline[0].ev, en->timeline[0].e.rec, start);
}

static bool full(struct wanted *w)
{
    struct sync_run *run = w->result.run;
    struct state_filter f = {!w->lazy, &w->members};
    if (w->lazy)
        user_set_add(&w->members, run->u->user_id);
    struct state_ref start, end;
    if (!state_ref_at(run, w->en->room, w->en->end, &end) || !start_of(w, &end, &start))
        return false;
    return combine(w, &start, &end, NULL, &f, &f);
}

/* Does the timeline follow, event by event, on the last one before since? */
static bool is_linear(struct wanted *w, bool *linear)
{
    struct room_entry *en = w->en;
    *linear = true;
    if (en->timeline_count == 0)
        return true;
    struct tl_entry last;
    enum have h = model_last_event(w->result.run->m, en->room, &w->result.run->since.room, &last);
    if (h == LACK) {
        w->result.run->lack = true;
        return false;
    }
    struct str prev = h == HAVE ? last.rec->id : STR_ABSENT;
    for (size_t i = 0; i < en->timeline_count && *linear; i++) {
        const struct event *ev = en->timeline[i].ev;
        *linear = ev->prev_events_count == 1 && !str_absent(prev) && str_eq(ev->prev_events[0], prev);
        prev = ev->event_id;
    }
    return true;
}

static bool incremental(struct wanted *w)
{
    struct sync_run *run = w->result.run;
    struct room_entry *en = w->en;
    bool linear;
    if (!is_linear(w, &linear))
        return false;
    if (linear && !en->limited) {
        if (!w->lazy || w->members.v.n == 0 || en->timeline_count == 0)
            return true;
        struct state_ref start;
        return state_ref_after(run, en->room, en->timeline[0].ev, en->timeline[0].e.rec, &start) &&
               set_fill_members(&w->result, &start, &w->members);
    }
    struct state_filter f = {!w->lazy, &w->members}, everything = {true, NULL};
    struct state_ref start, end, prev;
    bool ok = state_ref_at(run, en->room, en->end, &end);
    ok &= state_ref_at(run, en->room, &run->since.room, &prev);
    if (!ok || !start_of(w, &end, &start))
        return false;
    return combine(w, &start, &end, &prev, &f, en->limited ? &everything : &f);
}

/* ---- MSC4222: the state as it is at the end of the timeline (sync-v3 4.4) ----
 *
 * Nothing of the timeline is subtracted. For a joined room the end is now, so the current state is meant; it
 * was read from the database and may be newer than what replication has brought: then that is waited for,
 * which comes to the same as rolling it back. */

static bool current_state(struct wanted *w)
{
    struct sync_run *run = w->result.run;
    const struct room *room = w->en->room;
    if (!run_have(run, model_room_state(run->m, w->en->room)))
        return false;
    if (room->state_newest <= mpos_max(&run->now.room))
        return true;
    run->ahead = true;
    return false;
}

/* The timeline's senders as they are at its end. */
static bool members_after(struct wanted *w)
{
    struct state_ref end;
    if (w->en->type != ENTRY_ARCHIVED || !release_has(RELEASE_STATE_AFTER_LEFT))
        return current_state(w);
    return state_ref_at(w->result.run, w->en->room, w->en->end, &end) &&
           set_fill_members(&w->result, &end, &w->members);
}

static void add_members(struct wanted *w)
{
    if (w->en->type == ENTRY_ARCHIVED && release_has(RELEASE_STATE_AFTER_LEFT))
        return; /* members_after has done it */
    for (size_t i = 0; i < w->members.v.n; i++) {
        struct member *mb = room_member_get(w->en->room, w->members.v.v[i]);
        if (mb)
            set_add(&w->result, MEMBER, mb->user_id, mb->rec);
    }
}

static bool full_after(struct wanted *w)
{
    struct sync_run *run = w->result.run;
    if (w->lazy)
        user_set_add(&w->members, run->u->user_id);
    if (w->en->type == ENTRY_ARCHIVED) {
        struct state_filter f = {!w->lazy, &w->members};
        struct state_ref end;
        return state_ref_at(run, w->en->room, w->en->end, &end) && set_fill(&w->result, &end, &f);
    }
    if (!current_state(w))
        return false;
    size_t it = 0;
    for (struct state_entry *e; (e = smap_next(&w->en->room->state, &it));)
        set_add(&w->result, e->type, e->state_key, e->rec);
    it = 0;
    for (struct member *mb; !w->lazy && (mb = smap_next(&w->en->room->members, &it));)
        set_add(&w->result, MEMBER, mb->user_id, mb->rec);
    if (w->lazy)
        add_members(w);
    return true;
}

/* The last change of each key in the window; of a key that is gone there is no way to tell the client. A
 * sender's membership counts as it is now, unless it changed in the window. */
static bool incremental_after(struct wanted *w)
{
    struct sync_run *run = w->result.run;
    struct room_entry *en = w->en;
    bool ok = w->members.v.n == 0 || members_after(w);
    ok &= run_have(run, model_room_deltas(run->m, en->room, &run->since.room));
    if (!ok)
        return false;
    add_members(w);
    struct smap by_key; /* -> struct evrec */
    smap_init(&by_key);
    size_t it = 0;
    for (struct state_item *x; (x = imap_next(&w->result.by_id, &it));)
        smap_put(&by_key, state_key_of(run, MEMBER, x->key), x->rec);
    for (size_t i = 0; i < en->room->deltas.n; i++) {
        const struct state_delta *d = &en->room->deltas.v[i];
        if (!d->rec || !mpos_in_range(&run->since.room, en->end, d->writer, d->stream))
            continue;
        struct evrec *old = smap_put(&by_key, state_key_of(run, d->type, d->state_key), d->rec);
        if (old)
            imap_del(&w->result.by_id, id_of(old));
        set_add(&w->result, d->type, d->state_key, d->rec);
        imap_put(&w->changed, id_of(d->rec), d->rec);
    }
    smap_fini(&by_key);
    return true;
}

/* ---- the section ---- */

static void scan_timeline(struct wanted *w)
{
    struct room_entry *en = w->en;
    bool all_senders = w->result.run->use_state_after && release_has(RELEASE_STATE_AFTER_SENDERS);
    struct smap own; /* members whose event stands in the timeline before */
    smap_init(&own);
    struct smap by_key;
    smap_init(&by_key);
    for (size_t i = 0; i < en->timeline_count; i++) {
        const struct tl_ev *t = &en->timeline[i];
        if (w->lazy && (all_senders || !smap_get(&own, t->ev->sender)))
            user_set_add(&w->members, t->ev->sender);
        if (str_absent(t->ev->state_key))
            continue;
        if (str_eq(t->ev->type, MEMBER))
            smap_put(&own, t->ev->state_key, t->ev);
        struct str key = state_key_of(w->result.run, t->ev->type, t->ev->state_key);
        struct tl_ev *old = smap_put(&by_key, key, en->timeline + i);
        if (old)
            imap_del(&w->contains.by_id, id_of(old->e.rec));
        set_add(&w->contains, t->ev->type, t->ev->state_key, t->e.rec);
    }
    smap_fini(&own);
    smap_fini(&by_key);
}

/* Drops what the client has been sent before, remembers what it is sent now. What has changed since its token
 * is sent whatever was sent before: that answer may have been lost, and no later one would tell the change.
 * (Synapse before 1.163 drops it.) */
static void apply_ll_cache(struct wanted *w)
{
    struct sync_run *run = w->result.run;
    if (!w->lazy || run->f->include_redundant_members || !run->d)
        return;
    size_t it = 0;
    if (!w->en->has_since && !release_has(RELEASE_LAZY_BY_POSITION)) {
        ll_clear(run);
    } else {
        for (struct state_item *x; (x = imap_next(&w->result.by_id, &it));) {
            if (!str_eq(x->type, MEMBER) || imap_get(&w->changed, id_of(x->rec)))
                continue;
            if (str_eq(ll_get(run, x->key), x->rec->id))
                imap_del(&w->result.by_id, id_of(x->rec));
        }
    }
    it = 0;
    for (struct state_item *x; (x = imap_next(&w->result.by_id, &it));) {
        if (str_eq(x->type, MEMBER))
            ll_set(run, x->key, x->rec->id);
    }
    it = 0;
    for (struct state_item *x; (x = imap_next(&w->contains.by_id, &it));) {
        if (str_eq(x->type, MEMBER))
            ll_set(run, x->key, x->rec->id);
    }
}

static bool load_items(struct wanted *w)
{
    struct sync_run *run = w->result.run;
    struct room_entry *en = w->en;
    bool ok = true;
    size_t it = 0;
    for (struct state_item *x; (x = imap_next(&w->result.by_id, &it));) {
        enum have h = model_event(run->m, x->rec, &x->ev);
        if (h == HAVE && (str_eq(x->ev->type, STR("m.room.aliases")) ||
                          !filter_match_event(run->f, &run->f->state, x->ev)))
            h = ABSENT;
        if (h == HAVE)
            h = run_related_matches(run, &run->f->state, en->room, x->ev);
        if (h == LACK) {
            run->lack = true;
            ok = false;
        }
        if (h != HAVE)
            continue;
        x->next = en->state;
        en->state = x;
        en->state_count++;
    }
    return ok;
}

/* The member event by which somebody was permitted to send one of the timeline's events. */
static bool permitting_member(struct wanted *w, const struct event *sent, struct str user_id)
{
    struct sync_run *run = w->result.run;
    for (size_t i = 0; i < sent->auth_events_count; i++) {
        struct evrec *rec = model_rec(run->m, sent->auth_events[i]);
        struct event *ev;
        enum have h = model_event_raw(run->m, rec, &ev);
        if (h == LACK) {
            run->lack = true;
            return false;
        }
        if (h == HAVE && str_eq(ev->type, MEMBER) && str_eq(ev->state_key, user_id)) {
            set_add(&w->result, MEMBER, ev->state_key, rec);
            return true;
        }
    }
    return true;
}

/* While a room's state is partial it lacks most members. Those who sent the timeline's events stand among the
 * events' auth events (Synapse 1.157 handlers/sync.py, _find_missing_partial_state_memberships). */
static bool add_partial_members(struct wanted *w)
{
    struct room_entry *en = w->en;
    bool ok = true;
    struct user_set found;
    user_set_init(&found);
    size_t it = 0;
    for (struct state_item *x; (x = imap_next(&w->result.by_id, &it));) {
        if (str_eq(x->type, MEMBER))
            user_set_add(&found, x->key);
    }
    for (size_t i = 0; i < en->timeline_count; i++) {
        const struct event *ev = en->timeline[i].ev;
        if (!user_set_has(&w->members, ev->sender) || user_set_has(&found, ev->sender))
            continue;
        user_set_add(&found, ev->sender); /* the sender's first event decides */
        ok &= permitting_member(w, ev, ev->sender);
    }
    user_set_fini(&found);
    return ok;
}

bool entry_load_state(struct sync_run *run, struct room_entry *en)
{
    if (en->out_of_band)
        return true;
    struct wanted w = {.en = en, .lazy = run->f->lazy_load_members};
    user_set_init(&w.members);
    set_init(&w.contains, run);
    set_init(&w.result, run);
    imap_init(&w.changed);
    scan_timeline(&w);
    bool whole = en->full_state || !en->has_since, ok;
    if (run->use_state_after)
        ok = whole ? full_after(&w) : incremental_after(&w);
    else
        ok = whole ? full(&w) : incremental(&w);
    if (ok && w.lazy && en->room->partial)
        ok = add_partial_members(&w);
    if (ok) {
        apply_ll_cache(&w);
        ok = load_items(&w);
    }
    user_set_fini(&w.members);
    imap_fini(&w.contains.by_id);
    imap_fini(&w.changed);
    imap_fini(&w.result.by_id);
    return ok;
}
