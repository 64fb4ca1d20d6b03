/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The ordinary answers, without a computation: nothing has come, or news of one room that another reader has
 * just been told.
 *
 * Of a token that is one of our latest it is known (model/versions.c) whether anything has come since for its
 * user, and whether that was anything but news of rooms. If nothing, the poll is parked. If news, and of one
 * room only (model/news.c), then everything else that a run looks at is known to say nothing: account data,
 * memberships, presence, device lists, to-device messages. The answer is then the envelope and that room's
 * section, and the section is the same for all who ask from the same position with the same filter and could
 * have taken each other's (sync/shared.c says who that is, and is asked for each reader). The first of them
 * is answered the long way and its section is kept here; of the others' answers only the counts differ, and
 * those that agree in them get the same bytes as a whole.
 *
 * An answer's life is that of its shared section: 20 ms, and until the model learns anything.
 * chappe.check_shortcuts computes these answers, too, a second time.
 */
#include "request.h"

static void drop(struct quick_answer *x)
{
    for (size_t i = 0; i < x->bodies_count; i++) {
        blob_unref(&x->bodies[i].otk);
        blob_unref(&x->bodies[i].fallback);
        blob_unref(&x->bodies[i].bytes);
    }
    x->bodies_count = 0;
    shared_unref(&x->shared);
    filter_unref(&x->f);
    sync_run_fini(&x->run);
}

void quick_fini(struct quick *q)
{
    for (size_t i = 0; i < QUICK_SLOTS; i++) {
        if (q->slots[i].shared)
            drop(&q->slots[i]);
    }
    if (q->a)
        arena_free(&q->a);
}

void quick_expire(struct quick *q, int64_t wall_ms)
{
    for (size_t i = 0; i < QUICK_SLOTS; i++) {
        if (q->slots[i].shared && !shared_alive(q->slots[i].shared, wall_ms))
            drop(&q->slots[i]);
    }
}

/* A request whose answer depends on nothing but its token, filter and user. */
static bool is_ordinary(const struct sync_req *r)
{
    return r->version.number && r->http && r->d && r->timeout_ms > 0 && !r->initial && !r->full_state &&
           !r->use_state_after && !req_legacy(r) && r->s->live && !r->s->draining &&
           !r->s->cfg->msc4354_enabled;
}

bool quick_quiet(const struct sync_req *r)
{
    return is_ordinary(r) && model_user_quiet(r->s->m, r->u, r->version.number);
}

/* ---- which room ---- */

static bool is_news(const struct news_at *at, const struct sync_run *run)
{
    return at->events > run->since.room.min || at->receipts > run->since.receipt.min ||
           at->typing > run_since_typing(run);
}

/* The one that was heard of last is likely the only one that has anything. */
static struct membership_row *newest(const struct user *u)
{
    return u->news.n ? u->news.v[u->news.n - 1].row : NULL;
}

static bool only_newest(const struct user *u, const struct sync_run *run)
{
    if (!model_user_news(u, run->since.room.min, run->since.receipt.min, run_since_typing(run)))
        return false;
    for (size_t i = 0; i + 1 < u->news.n; i++) {
        if (is_news(&u->news.v[i].at, run))
            return false;
    }
    return true;
}

static struct quick_answer *slot_of(struct quick *q, const struct quick_key *k)
{
    uint64_t h = (k->version ^ (uintptr_t)k->f >> 4 ^ (uintptr_t)k->room << 7) * 0x9e3779b97f4a7c15u;
    return &q->slots[h >> 60];
}
_Static_assert(QUICK_SLOTS == 1 << 4, "slot_of takes four bits");

static bool key_equal(const struct quick_key *a, const struct quick_key *b)
{
    return a->version == b->version && a->f == b->f && a->room == b->room && a->serial == b->serial;
}

static bool user_fresh(const struct sync_req *r)
{
    const struct user *u = r->u;
    return user_part_fresh(&u->parts.ignored) && !req_requester(r)->is_admin &&
           u->rooms_newest <= model_now(r->s->m)->room.min &&
           model_user_only_news(r->s->m, u, r->version.number);
}

/* ---- what is private ---- */

/* False: there is more to be said than numbers, or it is not known. */
static bool private_of(struct sync_run *run, struct room *room, struct quick_private *p)
{
    struct unread *un = NULL;
    *p = (struct quick_private){.otk = run->d->otk_json, .fallback = run->d->fallback_json};
    if (model_device_keys(run->m, run->d) != HAVE || !p->otk || !p->fallback)
        return false;
    if (run->cfg->enable_push && model_unread(run->m, run->u, room, &un) != HAVE)
        return false;
    for (size_t i = 0; un && i < un->threads.n; i++) {
        const struct unread_thread *t = &un->threads.v[i];
        if (!str_eq(t->thread_id, STR("main")))
            return false;
        p->notify += t->notify;
        p->highlight += t->highlight;
        p->unread += t->unread;
    }
    return true;
}

static bool same_bytes(const struct blob *a, const struct blob *b)
{
    return a == b || str_eq(blob_str(a), blob_str(b));
}

static bool private_equal(const struct quick_private *a, const struct quick_private *b)
{
    return a->notify == b->notify && a->highlight == b->highlight && a->unread == b->unread &&
           same_bytes(a->otk, b->otk) && same_bytes(a->fallback, b->fallback);
}

/* ---- the answer ---- */

static void render(struct sync_run *run, struct quick_answer *x, struct room *room, struct rope *out)
{
    struct room_entry en = {.room = room, .type = ENTRY_JOINED, .has_since = true, .shared = x->shared};
    en.prev_batch = entry_at(&run->since); /* where it is not in the shared bytes */
    if (run->cfg->enable_push)
        (void)model_unread(run->m, run->u, room, &en.unread); /* private_of has seen that it is there */
    run->emitted = &en;
    run->emitted_joined = 1;
    sync_render(run, out, &run->now);
    run->emitted = NULL;
    run->emitted_joined = 0;
}

static struct blob *flat(const struct rope *r)
{
    struct buf b;
    buf_init(&b, (size_t)256 << 20);
    for (size_t i = 0; i < r->n; i++)
        buf_put(&b, str_n(r->v[i].p, r->v[i].n));
    struct blob *made = blob_from_buf(&b);
    buf_fini(&b);
    return made;
}

/* The bytes for readers like this one: made by the first, while there is room for more kinds of them. */
static struct blob *bytes_for(struct quick_answer *x, struct room *room, struct rope *own)
{
    struct quick_private is;
    if (!private_of(&x->run, room, &is))
        return NULL;
    for (size_t i = 0; i < x->bodies_count; i++) {
        if (private_equal(&x->bodies[i].is, &is)) {
            shared_count(x->shared);
            return x->bodies[i].bytes;
        }
    }
    render(&x->run, x, room, own);
    metric_add_own(M_sync_sections_shared, 1);
    struct blob *made = flat(own);
    if (!made || x->bodies_count == QUICK_BODIES) {
        blob_unref(&made);
        return NULL;
    }
    struct quick_body *b = &x->bodies[x->bodies_count++];
    b->is = is;
    b->otk = blob_ref(x->run.d->otk_json);
    b->fallback = blob_ref(x->run.d->fallback_json);
    return b->bytes = made;
}

static void answer(struct sync_req *r, struct quick_answer *x, struct rope *body)
{
    metric_add_own(M_sync_computes, 1);
    metric_add_own(M_sync_quick, 1);
    if (x->run.cfg->check_shortcuts)
        run_check(&x->run, RUN_DONE, body);
    ll_commit(&x->run);
    if (x->moves)
        req_keep(r, body, x->next);
    req_reply(r, body, "incremental");
}

/* run is x's, which has been made this reader's. */
static bool answer_from(struct sync_req *r, struct quick_answer *x, struct room *room,
                        struct membership_row *row)
{
    struct sync_run *run = &x->run;
    struct rope body;
    bool answered = false;
    ll_begin(run);
    if (!shared_fits(run, row, x->shared))
        return false;
    rope_init(&body);
    struct blob *bytes = bytes_for(x, room, &body);
    if (bytes && body.n == 0)
        rope_blob(&body, bytes);
    if (body.n) {
        answer(r, x, &body);
        answered = true;
    }
    rope_fini(&body);
    return answered;
}

bool quick_answer(struct sync_req *r)
{
    struct sync *s = r->s;
    struct quick *q = &s->quick;
    if (!is_ordinary(r))
        return false;
    if (quick_quiet(r)) { /* a superfluous wake-up */
        req_park_quiet(r);
        return true;
    }
    struct membership_row *row = newest(r->u);
    if (!row)
        return false;
    struct room *room = row->room;
    struct quick_key key = {r->version.number, r->f, room, model_serial(s->m)};
    struct quick_answer *x = slot_of(q, &key);
    if (!x->shared || !key_equal(&x->key, &key) || !shared_alive(x->shared, clock_wall_coarse_ms()) ||
        !user_fresh(r) || !only_newest(r->u, &x->run))
        return false;
    struct sync_run *run = &x->run;
    if (!run_is_shown(run, row))
        return false;
    run->u = r->u;
    run->d = r->d;
    run->rq = req_requester(r);
    run->ll.n = run->ll_used.n = 0;
    run->lack = false;
    run->joined = NULL; /* what was of the last reader, or in the arena that has been emptied */
    run->joined_count = 0;
    run->now_rest = STR_ABSENT;
    run->a = q->a;
    q->a = NULL; /* an answer that starts another one: that one gets its own */
    if (!run->a)
        run->a = arena_new((size_t)1 << 30);
    struct arena *a = run->a;
    bool answered = answer_from(r, x, room, row);
    arena_reset(a);
    if (q->a)
        arena_free(&a);
    else
        q->a = a;
    return answered;
}

/* ---- the first one ---- */

/* An answer that says one thing. */
static bool one_room(const struct sync_run *run)
{
    return run->emitted && !run->emitted->next_emitted && run->emitted->shared &&
           str_absent(run->account_events) && str_absent(run->presence_events) && !run->to_device_count &&
           !run->changed.v.n && !run->left.v.n && !run->invites && !run->knocks && !run->plain;
}

void quick_offer(struct sync_req *r, const struct sync_run *run)
{
    struct sync *s = r->s;
    const struct membership_row *row = newest(r->u);
    if (!is_ordinary(r) || !one_room(run) || !row || row->room != run->emitted->room || !user_fresh(r) ||
        !only_newest(r->u, run))
        return;
    struct quick_key key = {r->version.number, r->f, run->emitted->room, model_serial(s->m)};
    struct quick_answer *x = slot_of(&s->quick, &key);
    if (x->shared && key_equal(&x->key, &key) && shared_alive(x->shared, run->wall_ms))
        return;
    if (x->shared)
        drop(x);
    x->key = key;
    x->f = filter_ref(r->f);
    x->shared = shared_ref(run->emitted->shared);
    x->run = (struct sync_run){
        .m = run->m,
        .cfg = run->cfg,
        .f = r->f,
        .has_since = true,
        .shared = run->shared,
        .since = run->since,
        .wall_ms = run->wall_ms,
        .shortcut = true,
    };
    sync_run_init(&x->run);
    x->moves = !token_equal(&x->run.since, &x->run.now);
    x->next = str_hash(model_now_text(s->m));
}
