/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Sections of rooms that many readers get (design D4): what a room's entry says is the same for all members
 * who stand before the same events with the same filter, but for a few private bytes (unread counts). The
 * first reader's entry is computed and rendered as any; if nothing in it was for this reader alone, its bytes
 * are kept for a moment, and who comes with the same key takes them instead of computing.
 *
 * What is in the key, or is asked of each reader who would take it, is everything that the computation of an
 * entry looks at in a reader (entry.c, timeline.c, visibility.c, state.c, ephemeral.c, render.c):
 *
 *   the filter                     in the key: filters of the same text are one (filter_shared)
 *   the token                      in the key: which events, receipts and typing lie after it; gaps are asked
 * for membership at each event       asked of each: joined after every candidate ignored users asked of each:
 * no candidate is by one sender, transaction ids        asked of each: none of the events is the reader's own
 *   members known to the device    asked of each: those that were found known to the first reader
 *   account data, tags             asked of each run: unchanged
 *   administrators                 neither share nor take (they may see soft-failed events)
 *   unread counts                  the private bytes
 *
 * Entries with anything else in them are not kept: memberships (lazily loaded ones too), summaries, bundled
 * relations, redacted events, trimmed timelines. Whatever the model learns ends the life of
 * all that is kept (model_serial), and so does the time: "age" is that of the first reader.
 *
 * chappe.check_shortcuts computes such answers twice (run.c).
 */
#include "sync_int.h"

enum { SHARED_LIFE_MS = 20, IDS_MAX = 32, BYTES_MAX = 256 << 20 };

struct shared {
    uint32_t refs; /* its slot, and entries of runs under way */
    struct shared_key key;
    struct filter *f; /* holds key.f */
    int64_t wall_ms;
    struct blob *head, *tail;    /* "room": … up to the end of ephemeral; no tail: prev_batch is in head */
    struct blob *ids;            /* the bytes of the ids below */
    struct str senders[IDS_MAX]; /* of all candidates, of state, of private receipts */
    int64_t groups[IDS_MAX];     /* state groups after the candidates */
    struct ll_pair known[IDS_MAX]; /* found in the first reader's cache */
    uint32_t senders_count, groups_count, known_count, events;
};

struct shared *shared_ref(struct shared *x)
{
    x->refs++;
    return x;
}

bool shared_alive(const struct shared *x, int64_t wall_ms)
{
    return wall_ms >= x->wall_ms && wall_ms - x->wall_ms <= SHARED_LIFE_MS;
}

void shared_unref(struct shared **xp)
{
    struct shared *x = *xp;
    *xp = NULL;
    if (!x || --x->refs)
        return;
    blob_unref(&x->head);
    blob_unref(&x->tail);
    blob_unref(&x->ids);
    filter_unref(&x->f);
    free(x);
}

void shared_init(struct shared_sections *s)
{
    *s = (struct shared_sections){.bytes_max = BYTES_MAX};
}

void shared_fini(struct shared_sections *s)
{
    whole_fini(s);
    for (size_t i = 0; i < SHARED_SLOTS; i++)
        shared_unref(&s->slots[i]);
}

void shared_expire(struct shared_sections *s, int64_t wall_ms)
{
    whole_expire(s, wall_ms);
    for (size_t i = 0; i < SHARED_SLOTS; i++) {
        if (s->slots[i] && !shared_alive(s->slots[i], wall_ms))
            shared_unref(&s->slots[i]);
    }
}

/* ---- the key ---- */

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

/* Which receipts lie after the token: always the newest so many, unless writers stand apart. */
static bool receipts_after(const struct sync_run *run, const struct room *r, uint32_t *count)
{
    const struct mpos *since = &run->since.receipt;
    size_t n = 0;
    if (r->rc_horizon_known ? r->rc_horizon > since->min : !mpos_le(&r->since_receipts, since))
        return false; /* not known so far back (model_receipts) */
    for (size_t i = r->receipts.n; i-- > 0 && r->receipts.v[i].stream > since->min;)
        n++;
    *count = (uint32_t)n;
    return n == 0 || since->n == 0;
}

static bool make_key(const struct sync_run *run, const struct room_entry *en, struct shared_key *k)
{
    const struct room *r = en->room;
    *k = (struct shared_key){.room = r, .f = run->f, .serial = model_serial(run->m)};
    k->flags = (run->use_state_after ? 1u : 0u) | (run->d ? 2u : 0u);
    k->events = mix(0, en->events_count);
    for (size_t i = 0; i < en->events_count; i++)
        k->events = mix(k->events, (uint64_t)en->events[i].stream);
    if (run->use_state_after) { /* changes of the state need no event */
        k->events = mix(k->events, (uint64_t)run->since.room.min);
        if (run->since.room.n)
            return false;
    }
    if (!run->ephemeral_done)
        return true;
    k->flags |= r->typing_serial > run_since_typing(run) ? 4u : 0u;
    return receipts_after(run, r, &k->receipts);
}

static bool key_equal(const struct shared_key *a, const struct shared_key *b)
{
    return a->room == b->room && a->f == b->f && a->serial == b->serial && a->events == b->events &&
           a->receipts == b->receipts && a->flags == b->flags;
}

static struct shared **slot_of(struct shared_sections *s, const struct shared_key *k)
{
    uint64_t h = mix(mix(mix((uintptr_t)k->room, (uintptr_t)k->f), k->events), k->receipts << 8 | k->flags);
    return &s->slots[h % SHARED_SLOTS];
}

/* ---- who may share ---- */

/* An ordinary entry of somebody who has been in the room all the time. */
static bool ordinary(const struct sync_run *run, const struct room_entry *en)
{
    return run->shared && !run->plain && run->has_since && !run->full_state && !run->no_requester &&
           !run->rq->is_admin && !run->u->ad_changed && en->type == ENTRY_JOINED && en->has_since &&
           !en->newly_joined && !en->full_state && !en->events_none && !en->out_of_band &&
           en->events_count <= run_timeline_limit(run) && run->f->timeline_limit >= 0 &&
           !run->cfg->msc4354_enabled && !en->room->partial;
}

static bool no_gap(struct sync_run *run, const struct room_entry *en)
{
    int64_t gap;
    return model_gap(run->m, en->room, run->since.room.min, &run->now.room, &gap) == ABSENT;
}

/* The newest group in which one was seen to be joined is remembered: the next one is usually that, or a short
 * way from it. */
enum have run_joined_in(struct sync_run *run, struct membership_row *row, int64_t group)
{
    struct evrec *rec;
    enum membership ms;
    if (row->joined_group == group)
        return HAVE;
    struct sg *g = model_sg(run->m, row->room, group);
    enum have h = model_sg_known(run->m, g);
    if (h == HAVE)
        h = model_sg_get(run->m, g, STR("m.room.member"), run->u->user_id, &rec);
    if (h == HAVE)
        h = run_member_event(run, rec, run->u->user_id, row->room, &ms);
    if (h != HAVE)
        return h;
    if (ms != MEMBERSHIP_JOIN)
        return ABSENT;
    row->joined_group = group;
    return HAVE;
}

static bool joined_throughout(struct sync_run *run, struct membership_row *row, const int64_t *groups,
                              size_t n)
{
    bool lack = run->lack, joined = row && row->membership == MEMBERSHIP_JOIN;
    for (size_t i = 0; joined && i < n; i++)
        joined = run_joined_in(run, row, groups[i]) == HAVE;
    run->lack = lack; /* whoever cannot share finds out by itself what is lacking */
    return joined;
}

bool shared_fits(struct sync_run *run, struct membership_row *row, const struct shared *x)
{
    for (size_t i = 0; i < x->senders_count; i++) {
        if (str_eq(x->senders[i], run->u->user_id) ||
            (smap_count(&run->u->more->ignored) && smap_get(&run->u->more->ignored, x->senders[i])))
            return false;
    }
    size_t used = run->ll_used.n;
    for (size_t i = 0; i < x->known_count; i++) {
        if (!ll_has(run, &x->known[i])) {
            run->ll_used.n = used;
            return false;
        }
    }
    return joined_throughout(run, row, x->groups, x->groups_count);
}

static struct membership_row *row_of(const struct sync_run *run, const struct room_entry *en)
{
    return kmap_get_hashed(&run->u->rooms, en->room->room_id, en->room->id_hash);
}

void shared_count(const struct shared *x)
{
    metric_add_own(M_sync_sections_shared, 1);
    metric_add_own(M_sync_events_sent, x->events);
}

bool shared_take(struct sync_run *run, struct room_entry *en)
{
    if (!ordinary(run, en) || !make_key(run, en, &en->key))
        return false;
    struct shared *x = *slot_of(run->shared, &en->key);
    en->offer = true;
    en->ll_sets = run->ll.n;
    en->ll_used = run->ll_used.n;
    if (!x || !key_equal(&x->key, &en->key) || !shared_alive(x, run->wall_ms) ||
        !shared_fits(run, row_of(run, en), x) || !no_gap(run, en))
        return false;
    en->offer = false;
    en->shared = x;
    x->refs++;
    en->prev_batch = entry_at(&run->since); /* where it is not in the shared bytes */
    run->shortcut = true;
    metric_add_own(M_sync_sections_shared, 1);
    return true;
}

/* ---- keeping ---- */

static bool is_member_event(const struct event *ev)
{
    return !str_absent(ev->state_key) && str_eq(ev->type, STR("m.room.member"));
}

static bool put_sender(struct shared *x, struct str id)
{
    for (size_t i = 0; i < x->senders_count; i++) {
        if (str_eq(x->senders[i], id))
            return true;
    }
    if (x->senders_count == IDS_MAX)
        return false;
    x->senders[x->senders_count++] = id;
    return true;
}

/* All candidates, shown or not. */
static bool put_candidates(struct shared *x, const struct room_entry *en)
{
    for (size_t i = 0; i < en->events_count; i++) {
        const struct event *ev = en->events[i].rec->ev;
        if (!ev || ev->redacted || ev->rejected || is_member_event(ev) || ev->state_group == 0 ||
            !put_sender(x, ev->sender))
            return false;
        if (x->groups_count && x->groups[x->groups_count - 1] == ev->state_group)
            continue;
        if (x->groups_count == IDS_MAX)
            return false;
        x->groups[x->groups_count++] = ev->state_group;
    }
    return true;
}

/* A private receipt is shown to its own user only. */
static bool put_private_readers(struct shared *x, const struct room_entry *en)
{
    const struct room *r = en->room;
    for (size_t i = 0; i < en->key.receipts; i++) {
        const struct receipt *rc = &r->receipts.v[r->receipts.n - 1 - i];
        if (str_eq(rc->type, STR("m.read.private")) && !put_sender(x, rc->user_id))
            return false;
    }
    return true;
}

/* What was looked up and found; what was looked up and not found has been sent, and is no section for others.
 */
static bool put_known(const struct sync_run *run, struct shared *x, const struct room_entry *en)
{
    size_t n = en->ll_used_end - en->ll_used;
    if (en->ll_sets != en->ll_sets_end || n > IDS_MAX)
        return false;
    for (size_t i = 0; i < n; i++)
        x->known[i] = run->ll_used.v[en->ll_used + i];
    x->known_count = (uint32_t)n;
    return true;
}

/* Did the entry turn out to say nothing to this reader alone? */
static bool common(struct sync_run *run, const struct room_entry *en, struct shared *x)
{
    if (!en->offer || run->lack || en->limited || en->bundle || en->summary_given || en->summary_null ||
        en->sticky_count || !str_absent(en->account_events) || smap_count(&run->u->more->ignored))
        return false;
    for (size_t i = 0; i < en->timeline_count; i++) {
        const struct tl_ev *t = &en->timeline[i];
        if (t->pruned || !str_absent(t->relations) || !str_eq(t->membership, STR("join")))
            return false;
    }
    for (const struct state_item *s = en->state; s; s = s->next) {
        if (is_member_event(s->ev) || s->ev->redacted || !put_sender(x, s->ev->sender))
            return false;
    }
    if (!put_candidates(x, en) || !put_private_readers(x, en) || !put_known(run, x, en))
        return false;
    for (size_t i = 0; i < x->senders_count; i++) {
        if (str_eq(x->senders[i], run->u->user_id))
            return false;
    }
    return joined_throughout(run, row_of(run, en), x->groups, x->groups_count);
}

static void keep_str(struct buf *b, struct str *s)
{
    size_t at = b->n;
    buf_put(b, *s);
    s->p = (const char *)at; /* made a pointer below */
}

/* Ids point into the model and the run: copied, since these bytes outlive both. */
static bool own_ids(struct shared *x)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    for (size_t i = 0; i < x->senders_count; i++)
        keep_str(&b, &x->senders[i]);
    for (size_t i = 0; i < x->known_count; i++) {
        keep_str(&b, &x->known[i].user_id);
        keep_str(&b, &x->known[i].event_id);
    }
    x->ids = blob_from_buf(&b);
    buf_fini(&b);
    if (!x->ids)
        return false;
    for (size_t i = 0; i < x->senders_count; i++)
        x->senders[i].p = x->ids->p + (uintptr_t)x->senders[i].p;
    for (size_t i = 0; i < x->known_count; i++) {
        x->known[i].user_id.p = x->ids->p + (uintptr_t)x->known[i].user_id.p;
        x->known[i].event_id.p = x->ids->p + (uintptr_t)x->known[i].event_id.p;
    }
    return true;
}

/* NULL: it is too long. */
static struct blob *flat(const struct rope *r, size_t bytes_max)
{
    struct buf b;
    buf_init(&b, bytes_max);
    for (size_t i = 0; i < r->n; i++)
        buf_put(&b, str_n(r->v[i].p, r->v[i].n));
    struct blob *made = blob_from_buf(&b);
    buf_fini(&b);
    return made;
}

/* Else it is the reader's own token, between head and tail. */
static bool prev_is_now(const struct room_entry *en)
{
    return en->events_count > 0;
}

bool shared_offer(struct sync_run *run, struct room_entry *en)
{
    struct shared made = {.key = en->key, .wall_ms = run->wall_ms, .events = (uint32_t)en->timeline_count};
    if (!common(run, en, &made))
        return false;
    struct rope head, tail;
    rope_init(&head);
    rope_init(&tail);
    render_shared(run, en, &head, prev_is_now(en) ? &head : &tail);
    made.head = flat(&head, run->shared->bytes_max);
    made.tail = prev_is_now(en) ? NULL : flat(&tail, run->shared->bytes_max);
    rope_fini(&head);
    rope_fini(&tail);
    if (!made.head || (!prev_is_now(en) && !made.tail) || !own_ids(&made)) { /* too large to be kept */
        blob_unref(&made.head);
        blob_unref(&made.tail);
        return false;
    }
    made.f = filter_ref(run->f);
    made.refs = 2;
    struct shared **slot = slot_of(run->shared, &en->key);
    shared_unref(slot);
    *slot = en->shared = xmalloc(sizeof **slot);
    **slot = made;
    return true;
}

void shared_put(struct sync_run *run, const struct room_entry *en, struct rope *out)
{
    const struct shared *x = en->shared;
    rope_blob(out, x->head);
    if (x->tail) {
        rope_put(out, render_at(run, en->prev_batch));
        rope_blob(out, x->tail);
    }
    metric_add_own(M_sync_events_sent, x->events);
}
