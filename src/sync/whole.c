/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What an initial sync says of a room is the same for all its members, but for a few private bytes: the
 * reader's own member event (which a lazily loading client gets beside the senders'), account data, unread
 * counts. When initial syncs come one upon the other, as after an outage, a room's section is computed and
 * rendered once, and kept for a moment. Who comes next puts its own bytes into the holes; it looks at no
 * event of the room but its own.
 *
 * What the computation of such an entry looks at in a reader (entry.c, timeline.c, visibility.c, state.c,
 * relations.c, ephemeral.c, render.c), and why it is the same for who takes a section:
 *
 *   the filter, MSC4222, a device or none    in the key
 *   membership at each candidate event       asked of each: joined after every one, and at the end
 *   ignored users                            asked of each: no candidate is by one; none at all where
 * relations are bundled transaction ids, own membership events, own lazily loaded membership for having sent
 * something, threads one took part in, private receipts, being a hero of the room asked of each: it is none
 * of the users who are named in any of these administrators, who may see soft-failed events neither leave a
 * section nor take one members known to the device              none at an initial sync; what was sent is
 * noted for each own member event, account data and tags, unread counts, prev_batch but for its room the
 * holes
 *
 * A section lives until the model learns anything of the room (model_room_serial), and LIFE_MS at most: "age"
 * is that of the first reader. None is kept for an initial sync that stands alone: only when another user's
 * was computed within that time. It is kept as soon as it is computed, be the rest of the answer complete or
 * not: all who wait for the same loads take it.
 */
#include "sync_int.h"

enum { LIFE_MS = 500, LIST_MAX = 1024, BYTES_MAX = 64 << 20 };

static const struct str MEMBER = {"m.room.member", 13};

struct whole_key {
    const struct room *room;
    const struct filter *f;
    uint64_t serial;
    uint32_t flags;
};
struct whole {
    uint32_t refs; /* the table, and entries of runs under way */
    struct whole_key key;
    struct filter *f; /* holds key.f */
    int64_t wall_ms;
    size_t counted;
    struct blob *text; /* head, up to prev_batch; state, without own; ephemeral; summary */
    uint32_t head, state, ephemeral;
    struct blob *ids;                /* the bytes of the ids below */
    VEC(uint64_t) others;            /* users who cannot take it, by keyed hash */
    VEC(struct str) senders;         /* of candidates that are no state */
    VEC(int64_t) groups;             /* state groups after the candidates, and the last one */
    VEC(struct ll_update) ll;        /* what a device is sent, but for its own member event */
    int64_t last_group, prev_stream; /* negative where history was filled in later */
    uint32_t events;
    bool any_state, bundled, prev_is_now;
};

static void free_whole(struct whole *x)
{
    mem_count(MEM_sections, -(int64_t)x->counted);
    blob_unref(&x->text);
    blob_unref(&x->ids);
    vec_free(&x->others);
    vec_free(&x->senders);
    vec_free(&x->groups);
    vec_free(&x->ll);
    filter_unref(&x->f);
    free(x);
}

void whole_unref(struct whole **xp)
{
    struct whole *x = *xp;
    *xp = NULL;
    if (x && --x->refs == 0)
        free_whole(x);
}

static int64_t place(const struct whole_key *k)
{
    uint64_t h = (uintptr_t)k->room * 0x9e3779b97f4a7c15u;
    h = (h ^ (uintptr_t)k->f ^ h >> 29) * 0x9e3779b97f4a7c15u;
    return (int64_t)(h ^ k->flags);
}

static void drop(struct shared_sections *s, struct whole *x)
{
    imap_del(&s->whole, place(&x->key));
    s->whole_bytes -= x->counted;
    whole_unref(&x);
}

static bool lately(int64_t then_ms, int64_t wall_ms)
{
    return wall_ms >= then_ms && wall_ms - then_ms <= LIFE_MS;
}

static bool is_fresh(const struct whole *x, int64_t wall_ms)
{
    return lately(x->wall_ms, wall_ms);
}

void whole_expire(struct shared_sections *s, int64_t wall_ms)
{
    size_t it = 0;
    for (struct whole *x; (x = imap_next(&s->whole, &it));) {
        if (!is_fresh(x, wall_ms))
            drop(s, x);
    }
    if (imap_count(&s->whole) == 0)
        imap_fini(&s->whole);
}

void whole_fini(struct shared_sections *s)
{
    size_t it = 0;
    for (struct whole *x; (x = imap_next(&s->whole, &it));)
        drop(s, x);
    imap_fini(&s->whole);
}

void whole_begin(struct sync_run *run)
{
    struct shared_sections *s = run->shared;
    if (!s || run->plain || run->has_since)
        return;
    if (s->whole_user && s->whole_user != run->u && lately(s->whole_ms, run->wall_ms))
        s->crowd_ms = run->wall_ms;
    run->crowd = s->crowd_ms && lately(s->crowd_ms, run->wall_ms);
    s->whole_user = run->u;
    s->whole_ms = run->wall_ms;
}

/* ---- taking ---- */

/* Which heroes a device has been sent lately counts even for who wants members again and again. */
static bool redundant_heroes(const struct sync_run *run)
{
    return run->d && run->f->include_redundant_members && !release_has(RELEASE_LAZY_BY_POSITION);
}

static bool ordinary(const struct sync_run *run, const struct room_entry *en)
{
    return run->shared && !run->plain && !run->has_since && !run->full_state && !run->no_requester &&
           !run->no_keep && !run->peeking && !run->rq->is_admin && en->type == ENTRY_JOINED &&
           !en->has_since && en->events_none && !en->out_of_band && run->f->timeline_limit >= 0 &&
           !run->f->state.has_related && !run->f->timeline.has_related && !redundant_heroes(run) &&
           !run->cfg->msc4354_enabled && !run->cfg->retention.enabled && !en->room->partial;
}

static struct whole_key key_of(const struct sync_run *run, const struct room_entry *en)
{
    return (struct whole_key){
        .room = en->room,
        .f = run->f,
        .serial = model_room_serial(run->m, en->room),
        .flags = (run->use_state_after ? 1u : 0u) | (run->d ? 2u : 0u) | (run->ephemeral_done ? 4u : 0u),
    };
}

static bool key_equal(const struct whole_key *a, const struct whole_key *b)
{
    return a->room == b->room && a->f == b->f && a->serial == b->serial && a->flags == b->flags;
}

static bool has_other(const struct whole *x, struct str user_id)
{
    uint64_t h = str_hash(user_id);
    for (size_t i = 0; i < x->others.n; i++) {
        if (x->others.v[i] == h)
            return true;
    }
    return false;
}

static bool is_common_to(const struct sync_run *run, const struct whole *x)
{
    if (has_other(x, run->u->user_id))
        return false;
    size_t ignored = smap_count(&run->u->more->ignored);
    if (ignored && x->bundled)
        return false;
    for (size_t i = 0; ignored && i < x->senders.n; i++) {
        if (smap_get(&run->u->more->ignored, x->senders.v[i]))
            return false;
    }
    return true;
}

static enum have joined_throughout(struct sync_run *run, const struct room_entry *en, const int64_t *groups,
                                   size_t n)
{
    struct membership_row *row = kmap_get(&run->u->rooms, en->room->room_id);
    enum have all = row && row->membership == MEMBERSHIP_JOIN ? HAVE : ABSENT;
    for (size_t i = 0; all != ABSENT && i < n; i++) {
        enum have h = run_joined_in(run, row, groups[i]);
        all = h == HAVE ? all : h;
    }
    run->lack |= all == LACK;
    return all;
}

static bool lazy_with_cache(const struct sync_run *run)
{
    return run->d && run->f->lazy_load_members && !run->f->include_redundant_members;
}

/* The reader's own member event, as state.c finds it. */
static enum have own_member(struct sync_run *run, struct room_entry *en, const struct whole *x)
{
    struct evrec *rec = NULL;
    enum have h;
    if (run->use_state_after) {
        h = model_room_state(run->m, en->room);
        struct member *mb = h == HAVE ? room_member_get(en->room, run->u->user_id) : NULL;
        rec = mb ? mb->rec : NULL;
        h = h == HAVE && !rec ? ABSENT : h;
        if (h == HAVE && en->room->state_newest > mpos_max(&run->now.room))
            h = ABSENT; /* the long way waits for replication */
    } else {
        h = model_sg_get(run->m, model_sg(run->m, en->room, x->last_group), MEMBER, run->u->user_id, &rec);
    }
    if (h != HAVE)
        return h;
    struct state_item *own = ARENA_NEW(run->a, struct state_item);
    *own = (struct state_item){.type = MEMBER, .key = run->u->user_id, .rec = rec};
    h = model_event(run->m, rec, &own->ev);
    if (h == LACK)
        return h;
    if (lazy_with_cache(run))
        ll_set(run, run->u->user_id, rec->id);
    if (h == HAVE && filter_match_event(run->f, &run->f->state, own->ev)) {
        en->state = en->own = own;
        en->state_count = 1;
    }
    return HAVE;
}

static void take(struct sync_run *run, struct room_entry *en, struct whole *x)
{
    en->offer_whole = false;
    en->whole = x;
    x->refs++;
    en->prev_batch = entry_at(&run->now);
    if (!x->prev_is_now)
        en->prev_batch.room = run_mpos(run, x->prev_stream);
    for (size_t i = 0; i < x->ll.n; i++) {
        struct ll_update up = x->ll.v[i];
        up.d = run->d;
        vec_push(&run->ll, up);
    }
}

enum have whole_take(struct sync_run *run, struct room_entry *en)
{
    if (!ordinary(run, en))
        return ABSENT;
    struct whole_key k = key_of(run, en);
    struct whole *x = imap_get(&run->shared->whole, place(&k));
    en->offer_whole = true;
    en->ll_sets = run->ll.n;
    en->ll_used = run->ll_used.n;
    if (!x || !key_equal(&x->key, &k) || !is_fresh(x, run->wall_ms) || !is_common_to(run, x))
        return ABSENT;
    enum have h = joined_throughout(run, en, x->groups.v, x->groups.n);
    if (h != HAVE)
        return h;
    take(run, en, x);
    h = run->f->lazy_load_members ? own_member(run, en, x) : HAVE;
    if (h != HAVE) {
        whole_unref(&en->whole);
        run->ll.n = en->ll_sets;
        run->lack |= h == LACK;
        return h;
    }
    run->shortcut = true;
    return HAVE;
}

/* ---- keeping ---- */

static bool is_member_event(const struct event *ev)
{
    return !str_absent(ev->state_key) && str_eq(ev->type, MEMBER);
}

static void add_other(void *arg, struct str user_id)
{
    struct whole *x = arg;
    if (x->others.n <= LIST_MAX && !has_other(x, user_id)) /* one more is too many already */
        vec_push(&x->others, str_hash(user_id));
}

static void add_sender(struct whole *x, struct str id)
{
    if (x->senders.n > LIST_MAX)
        return;
    for (size_t i = 0; i < x->senders.n; i++) {
        if (str_eq(x->senders.v[i], id))
            return;
    }
    vec_push(&x->senders, id);
}

static void add_group(struct whole *x, int64_t group)
{
    if (x->groups.n > LIST_MAX)
        return;
    for (size_t i = 0; i < x->groups.n; i++) {
        if (x->groups.v[i] == group)
            return;
    }
    vec_push(&x->groups, group);
}

/* Whose client could find something of its own in the event as it is shown. */
static bool add_owners(struct sync_run *run, struct whole *x, struct event *ev)
{
    struct event *by;
    if (!str_absent(ev->txn_id) || !str_absent(ev->delay_id))
        add_other(x, ev->sender);
    if (!ev->redacted)
        return true;
    enum have h = model_redacted_because(run->m, ev, &by);
    if (h == HAVE)
        add_other(x, by->sender);
    return h != LACK;
}

/* What decides about the timeline: all that were looked at, shown or not, up to the first that was one too
 * many. Where none was, all. */
static size_t candidates(const struct room_entry *en)
{
    size_t n = en->page_count;
    while (en->dropped && en->page[n - 1].rec != en->dropped)
        n--; /* it is among them */
    return n;
}

static bool add_candidates(struct sync_run *run, struct whole *x, const struct room_entry *en)
{
    size_t n = candidates(en);
    for (size_t i = 0; i < n; i++) {
        struct event *ev = en->page[i].rec->ev;
        if (!ev || ev->rejected) /* nobody sees it */
            continue;
        if (ev->outlier || ev->state_group == 0 || !add_owners(run, x, ev))
            return false;
        add_group(x, ev->state_group);
        if (run->f->lazy_load_members)
            add_other(x, ev->sender);
        if (is_member_event(ev))
            add_other(x, ev->state_key);
        else if (str_absent(ev->state_key))
            add_sender(x, ev->sender);
    }
    return true;
}

static bool add_timeline(struct sync_run *run, struct whole *x, const struct room_entry *en)
{
    for (size_t i = 0; i < en->timeline_count; i++) {
        const struct tl_ev *t = &en->timeline[i];
        if (t->pruned || !str_eq(t->membership, STR("join")))
            return false;
        if (str_absent(t->relations))
            continue;
        x->bundled = true;
        if (!relations_each_user(run, en->room, t->ev, add_other, x))
            return false;
    }
    return true;
}

static bool is_own(const struct sync_run *run, const struct state_item *s)
{
    return run->f->lazy_load_members && str_eq(s->type, MEMBER) && str_eq(s->key, run->u->user_id);
}

static bool add_state(struct sync_run *run, struct whole *x, const struct room_entry *en)
{
    struct state_ref last;
    for (const struct state_item *s = en->state; s; s = s->next) {
        if (is_own(run, s))
            continue;
        x->any_state = true;
        if (!add_owners(run, x, s->ev))
            return false;
        if (run->f->lazy_load_members && str_eq(s->type, MEMBER))
            add_other(x, s->key);
    }
    if (!state_ref_at(run, en->room, &run->now.room, &last) || last.none)
        return false;
    if (is_member_event(last.last))
        add_other(x, last.last->state_key);
    x->last_group = last.g->id;
    add_group(x, x->last_group);
    return true;
}

/* A private receipt is shown to its own user only; heroes leave the reader out. */
static void add_readers(struct whole *x, const struct room_entry *en)
{
    const struct room *r = en->room;
    for (size_t i = 0; i < r->receipts.n && x->others.n <= LIST_MAX; i++) {
        if (str_eq(r->receipts.v[i].type, STR("m.read.private")))
            add_other(x, r->receipts.v[i].user_id);
    }
    for (int i = 0; en->summary_heroes && i < r->summary_first_count; i++)
        add_other(x, r->summary_first[i]->user_id);
}

static void keep_str(struct buf *b, struct str *s)
{
    if (str_absent(*s))
        return;
    size_t at = b->n;
    buf_put(b, *s);
    s->p = (const char *)at; /* made a pointer below */
}

static void own_str(const struct whole *x, struct str *s)
{
    if (!str_absent(*s))
        s->p = x->ids->p + (uintptr_t)s->p;
}

/* Ids point into the model and the run: copied, since these bytes outlive both. */
static bool own_ids(struct whole *x)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    buf_putc(&b, 0); /* no offset is 0, which would be absent */
    for (size_t i = 0; i < x->senders.n; i++)
        keep_str(&b, &x->senders.v[i]);
    for (size_t i = 0; i < x->ll.n; i++) {
        keep_str(&b, &x->ll.v[i].user_id);
        keep_str(&b, &x->ll.v[i].event_id);
    }
    x->ids = blob_from_buf(&b);
    buf_fini(&b);
    if (!x->ids)
        return false;
    for (size_t i = 0; i < x->senders.n; i++)
        own_str(x, &x->senders.v[i]);
    for (size_t i = 0; i < x->ll.n; i++) {
        own_str(x, &x->ll.v[i].user_id);
        own_str(x, &x->ll.v[i].event_id);
    }
    return true;
}

static void add_sent(const struct sync_run *run, struct whole *x, const struct room_entry *en)
{
    for (size_t i = en->ll_sets; i < run->ll.n; i++) {
        struct ll_update up = run->ll.v[i];
        up.d = NULL;
        if (up.clear || !str_eq(up.user_id, run->u->user_id))
            vec_push(&x->ll, up);
    }
}

static bool put_text(struct sync_run *run, struct whole *x, const struct room_entry *en)
{
    struct rope r;
    struct buf b;
    rope_init(&r);
    render_whole_head(run, en, &r);
    x->head = (uint32_t)r.bytes;
    render_whole_state(run, en, en->own, &r);
    x->state = (uint32_t)r.bytes;
    render_ephemeral(en, &r);
    x->ephemeral = (uint32_t)r.bytes;
    render_summary(run, en, &r);
    buf_init(&b, run->shared->bytes_max < BYTES_MAX ? run->shared->bytes_max : BYTES_MAX);
    for (size_t i = 0; i < r.n; i++)
        buf_put(&b, str_n(r.v[i].p, r.v[i].n));
    x->text = blob_from_buf(&b);
    buf_fini(&b);
    rope_fini(&r);
    return x->text != NULL;
}

/* Did the entry turn out to say nothing to this reader alone, but in the holes? */
static bool fill(struct sync_run *run, struct room_entry *en, struct whole *x)
{
    if (en->timeline_count == 0 || en->pages != 1 || en->sticky_count || smap_count(&run->u->more->ignored) ||
        en->ll_used != run->ll_used.n || !add_candidates(run, x, en) || !add_timeline(run, x, en) ||
        !add_state(run, x, en))
        return false;
    add_readers(x, en);
    if (x->others.n > LIST_MAX || x->groups.n > LIST_MAX || x->senders.n > LIST_MAX ||
        has_other(x, run->u->user_id) || joined_throughout(run, en, x->groups.v, x->groups.n) != HAVE)
        return false;
    add_sent(run, x, en);
    for (struct state_item *s = en->state; s; s = s->next) {
        if (is_own(run, s))
            en->own = s;
    }
    x->prev_is_now = en->prev_batch.room == &run->now.room;
    x->prev_stream = en->prev_batch.room->min;
    x->events = (uint32_t)en->timeline_count;
    return own_ids(x) && put_text(run, x, en) && !run->lack;
}

static size_t bytes_of(const struct whole *x)
{
    return sizeof *x + x->text->n + x->ids->n + x->others.cap * sizeof *x->others.v +
           x->senders.cap * sizeof *x->senders.v + x->groups.cap * sizeof *x->groups.v +
           x->ll.cap * sizeof *x->ll.v;
}

void whole_offer(struct sync_run *run, struct room_entry *en)
{
    struct shared_sections *s = run->shared;
    if (!en->offer_whole || !run->crowd || run->lack || s->whole_bytes >= BYTES_MAX)
        return;
    struct whole *x = xcalloc(1, sizeof *x), *old;
    x->refs = 1;
    x->key = key_of(run, en);
    x->f = filter_ref(run->f);
    x->wall_ms = run->wall_ms;
    bool kept = fill(run, en, x) && s->whole_bytes + bytes_of(x) <= BYTES_MAX;
    run->lack = false; /* what only this asks for is not lacking in the answer */
    if (!kept) {
        en->own = NULL;
        whole_unref(&x);
        return;
    }
    x->counted = bytes_of(x);
    mem_count(MEM_sections, (int64_t)x->counted);
    if ((old = imap_get(&s->whole, place(&x->key))))
        drop(s, old);
    imap_put(&s->whole, place(&x->key), x);
    s->whole_bytes += x->counted;
    en->whole = x;
    x->refs++;
}

void whole_put(struct sync_run *run, const struct room_entry *en, struct rope *out)
{
    const struct whole *x = en->whole;
    rope_blob_range(out, x->text, 0, x->head);
    rope_put(out, render_at(run, en->prev_batch));
    rope_blob_range(out, x->text, x->head, x->state - x->head);
    if (en->own) {
        rope_put(out, x->any_state ? STR(",") : STR(""));
        render_event(run, en->own->ev, false, true, STR_ABSENT, STR_ABSENT, out);
    }
    render_account(en, out);
    rope_blob_range(out, x->text, x->state, x->ephemeral - x->state);
    metric_add_own(M_sync_events_sent, x->events);
    metric_add_own(M_sync_sections_shared, en->offer_whole ? 0 : 1);
}

void whole_put_summary(const struct room_entry *en, struct rope *out)
{
    const struct whole *x = en->whole;
    rope_blob_range(out, x->text, x->ephemeral, x->text->n - x->ephemeral);
}
