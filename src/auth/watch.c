/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Parked requests whose token may stop being good (reference 1.16).
 *
 * A watch hangs on its requester. When a row of the caches stream concerns a requester (invalidate.c), it is
 * "suspected" once more and each of its watches gets a check: the authentication again, from the database,
 * not from what is cached. Checks of one turn share statements; few statements run at once, so dropping a
 * whole cache does not stampede. A check that failed for want of a database is kept and tried again at the
 * next tick: the poll stays parked meanwhile. A check is only believed if no further row arrived while it
 * ran; else it runs again.
 *
 * What is checked: for a token of the database its row, joined with the user; for a guest the user; for an
 * introspected token user and device, since the token itself is not kept; for an application service the
 * device.
 *
 * Time does its part: a binary heap by the moment at which token or account end, looked at with every tick,
 * and a list by the time of the last check, because a refreshed token's predecessor disappears without a row.
 *
 * A requester that was suspected between its authentication and its parking is checked when it is parked.
 *
 * A watch is either in the list by age or has a check, which is in one of the other lists.
 */
#include "auth_int.h"

enum { CHECK_CALLS_MAX = 2, CHECK_AGE_MIN_MS = 60000 };

struct auth_check {
    struct list node; /* queue, later or flying */
    struct auth *a;
    struct auth_watch *w; /* NULL: no longer wanted */
    struct requester *r;
    uint32_t suspected;
    bool flying, by_age, have_user;
    struct auth_wait wait;
};
struct check_call {
    struct auth *a;
    size_t n;
    struct auth_check *v[];
};

/* ---- heap of watches by expires_ms; heap_at is the place + 1, 0 outside */

static void heap_set(struct checks *c, size_t i, struct watch_end end)
{
    c->heap[i] = end;
    end.w->heap_at = ((uint32_t)i + 1) & 0x3fffffff;
}

static void heap_up(struct checks *c, size_t i, struct watch_end end)
{
    for (; i && c->heap[(i - 1) / 2].expires_ms > end.expires_ms; i = (i - 1) / 2)
        heap_set(c, i, c->heap[(i - 1) / 2]);
    heap_set(c, i, end);
}

static void heap_down(struct checks *c, size_t i, struct watch_end end)
{
    for (;;) {
        size_t kid = 2 * i + 1;
        if (kid + 1 < c->heap_n && c->heap[kid + 1].expires_ms < c->heap[kid].expires_ms)
            kid++;
        if (kid >= c->heap_n || c->heap[kid].expires_ms >= end.expires_ms)
            break;
        heap_set(c, i, c->heap[kid]);
        i = kid;
    }
    heap_set(c, i, end);
}

static void heap_del(struct checks *c, struct auth_watch *w)
{
    if (!w->heap_at)
        return;
    size_t i = w->heap_at - 1;
    struct watch_end last = c->heap[--c->heap_n];

    w->heap_at = 0;
    if (last.w == w)
        return;
    if (i && c->heap[(i - 1) / 2].expires_ms > last.expires_ms)
        heap_up(c, i, last);
    else
        heap_down(c, i, last);
}

static void heap_add(struct checks *c, struct auth_watch *w, const struct requester *r)
{
    int64_t ends = r->valid_until_ms;

    heap_del(c, w);
    if (r->account_expires_ms && (!ends || r->account_expires_ms < ends))
        ends = r->account_expires_ms;
    if (!ends)
        return;
    if (c->heap_n == c->heap_cap)
        c->heap = vec_grown_(MEM_tokens, c->heap, &c->heap_cap, c->heap_n + 1, sizeof *c->heap);
    heap_up(c, c->heap_n++, (struct watch_end){ends, w});
}

/* ---- checks */

/* It has no check, and is as good as known for a while. */
static void watch_rests(struct auth *a, struct auth_watch *w)
{
    w->checking = false;
    w->checked_ms = (uint32_t)clock_mono_coarse_ms();
    list_push(&a->checks.by_age, &w->by_age);
}

static void check_move(struct list *to, struct auth_check *c)
{
    list_del(&c->node);
    list_push(to, &c->node);
}

static void check_free(struct auth_check *c)
{
    if (c->w)
        watch_rests(c->a, c->w);
    list_del(&c->node);
    requester_unref(&c->r);
    free(c);
}

static void check_queue(struct auth *a, struct auth_watch *w, bool by_age)
{
    if (w->checking)
        return; /* waiting: will see the newest; in flight: its answer will be found outdated */
    struct auth_check *c = xcalloc(1, sizeof *c);
    c->a = a;
    c->w = w;
    c->r = requester_ref(w->r);
    c->by_age = by_age;
    list_init(&c->wait.node);
    list_push(&a->checks.queue, &c->node);
    list_del(&w->by_age);
    w->check = c;
    w->checking = true;
    auth_arm_flush(a);
}

static void watch_revoke(struct auth_watch *w, const struct auth_error *e)
{
    struct auth *a = w->r->auth;

    auth_watch_del(w);
    metric_add(M_auth_revoked_in_flight, 1);
    a->revoked(w, e);
}

/* The end of a check: e, or NULL when all is well; fresh carries new times, if they are known. Frees c. */
static void check_end(struct auth_check *c, const struct auth_error *e, const struct requester *fresh)
{
    struct auth *a = c->a;
    struct auth_watch *w = c->w;

    if (!w || a->stopping) {
        check_free(c);
        return;
    }
    if (c->r->suspected != c->suspected) { /* outdated */
        c->flying = c->have_user = c->by_age = false;
        check_move(&a->checks.queue, c);
        auth_arm_flush(a);
        return;
    }
    c->r->verified = c->suspected;
    check_free(c);
    if (e) {
        watch_revoke(w, e);
        return;
    }
    if (fresh)
        heap_add(&a->checks, w, fresh);
}

/* The database did not answer: the poll stays parked. */
static void check_later(struct auth_check *c)
{
    c->flying = c->have_user = false;
    if (c->w && !c->a->stopping)
        check_move(&c->a->checks.later, c);
    else
        check_free(c);
}

static void check_facts(struct auth_check *c);

static void check_wakes(struct auth_wait *wait, int err, struct centry *e)
{
    struct auth_check *c = container_of(wait, struct auth_check, wait);

    if (err) {
        check_later(c);
        return;
    }
    /* When auth_cache_ms is 0 the entry is only to be had here. */
    if (c->have_user || c->r->kind == REQUESTER_APP_SERVICE) {
        check_end(c, e->state == CE_FOUND ? NULL : &auth_error_inactive, NULL);
        return;
    }
    c->have_user = true;
    if (e->state != CE_FOUND) {
        check_end(c, c->r->kind == REQUESTER_GUEST ? &auth_error_unknown : &auth_error_inactive, NULL);
        return;
    }
    if (c->r->kind == REQUESTER_GUEST) {
        const struct user_fact *u = &container_of(e, struct fact_entry, e)->user;
        const struct auth_error *refused = NULL;
        if (!u->guest)
            refused = &auth_error_unknown;
        else if (u->locked)
            refused = &auth_error_locked;
        else if (c->a->cfg->account_validity && u->expires_ms && u->expires_ms <= clock_wall_ms())
            refused = &auth_error_account_expired;
        check_end(c, refused, NULL);
        return;
    }
    check_facts(c);
}

/* Asks the caches of users and devices: what a row concerned has been dropped from them. */
static void check_ask(struct auth_check *c, struct cache *cache, struct str key)
{
    if (c->by_age)
        cache_drop(cache, key);
    c->wait.fn = check_wakes;
    struct centry *e = cache_peek(cache, key);
    if (e)
        check_wakes(&c->wait, 0, e);
    else if (cache_ask(cache, key, STR_ABSENT, &c->wait))
        check_later(c);
}

static void check_facts(struct auth_check *c)
{
    struct requester *r = c->r;

    if (r->kind != REQUESTER_APP_SERVICE && !c->have_user) {
        check_ask(c, &c->a->users, requester_user(r));
        return;
    }
    if (str_absent(requester_device(r))) {
        check_end(c, NULL, NULL);
        return;
    }
    struct buf key;
    buf_init(&key, 4 * AUTH_USER_ID_BYTES_MAX);
    check_ask(c, &c->a->devices, device_key(&key, requester_user(r), requester_device(r)));
    buf_fini(&key);
}

static void checks_answered(void *arg, int err, const struct pg_result *res)
{
    struct check_call *call = arg;
    struct auth *a = call->a;
    int rows = !err && res ? pg_rows(res) : 0;
    int64_t now = clock_wall_ms();
    int *row_of = xcalloc(call->n, sizeof *row_of);

    a->checks.calls--;
    for (int i = 0; i < rows; i++) {
        int64_t place = pg_i64(res, i, 0);
        if (place >= 1 && place <= (int64_t)call->n)
            row_of[place - 1] = i + 1;
    }
    for (size_t i = 0; i < call->n; i++) {
        struct auth_check *c = call->v[i];
        const char *label;
        if (err) {
            check_later(c);
        } else if (!row_of[i]) {
            check_end(c, &auth_error_unknown, NULL);
        } else {
            struct requester *fresh = requester_from_row(a, c->r->token_key, res, row_of[i] - 1);
            check_end(c, verdict_of_requester(a, fresh, now, &label), fresh);
            requester_unref(&fresh);
        }
    }
    free(row_of);
    free(call);
    if (!list_empty(&a->checks.queue))
        auth_arm_flush(a);
    auth_call_done(a);
}

static void check_begin(struct auth_check *c)
{
    check_move(&c->a->checks.flying, c);
    c->flying = true;
    c->suspected = c->r->suspected;
    metric_add_own(M_auth_checks, 1);
}

void checks_flush(struct auth *a)
{
    struct list *queue = &a->checks.queue;
    struct auth_check *c;
    struct list tokens;

    /* Facts may answer at once, end requests, and change the queue under us: take it away first. */
    struct list all;
    list_init(&all);
    while (!list_empty(queue)) {
        struct list *n = queue->next;
        list_del(n);
        list_push(&all, n);
    }
    list_init(&tokens);
    while (!list_empty(&all)) {
        c = container_of(all.next, struct auth_check, node);
        list_del(&c->node);
        if (c->r->kind == REQUESTER_USER) {
            list_push(&tokens, &c->node);
        } else {
            check_begin(c);
            check_facts(c);
        }
    }
    while (!list_empty(&tokens) && a->checks.calls < CHECK_CALLS_MAX) {
        struct check_call *call = xmalloc(sizeof *call + AUTH_BATCH_MAX * sizeof call->v[0]);
        int64_t ids[AUTH_BATCH_MAX];
        call->a = a;
        call->n = 0;
        while (call->n < AUTH_BATCH_MAX && !list_empty(&tokens)) {
            c = container_of(tokens.next, struct auth_check, node);
            check_begin(c);
            ids[call->n] = c->r->token_id;
            call->v[call->n++] = c;
        }
        struct pg_args *args = pg_args_new();
        pg_args_i64_array(args, ids, call->n);
        a->checks.calls++;
        a->calls++;
        pg_exec(a->pg, SQL_auth_tokens_by_id, args, checks_answered, call);
    }
    while (!list_empty(&tokens)) { /* their turn comes with an answer */
        struct list *n = tokens.prev;
        list_del(n);
        n->next = queue->next;
        n->prev = queue;
        queue->next->prev = n;
        queue->next = n;
    }
}

void checks_tick(struct auth *a)
{
    struct checks *cs = &a->checks;
    int64_t wall = clock_wall_ms();
    uint32_t now = (uint32_t)clock_mono_ms();
    int64_t age = a->cfg->auth_cache_ms < CHECK_AGE_MIN_MS ? CHECK_AGE_MIN_MS : a->cfg->auth_cache_ms;

    while (!list_empty(&cs->later)) {
        struct list *n = cs->later.next;
        list_del(n);
        list_push(&cs->queue, n);
    }
    while (cs->heap_n && cs->heap[0].expires_ms < wall) {
        struct auth_watch *w = cs->heap[0].w;
        if (w->r->valid_until_ms && w->r->valid_until_ms < wall) {
            watch_revoke(w, &auth_error_expired);
        } else { /* the account: it may have been renewed */
            heap_del(cs, w);
            check_queue(a, w, true);
        }
    }
    while (!list_empty(&cs->by_age)) {
        struct auth_watch *w = container_of(cs->by_age.next, struct auth_watch, by_age);
        if (now - w->checked_ms < age)
            break;
        check_queue(a, w, true);
    }
    if (!list_empty(&cs->queue))
        auth_arm_flush(a);
    metric_set(M_auth_watches, (int64_t)cs->watches);
}

static struct auth_watch *next_watch(const struct auth_watch *w)
{
    return container_of(w->by_user.next, struct auth_watch, by_user);
}

void requester_suspect(struct requester *r)
{
    struct auth_watch *w;

    r->suspected++;
    basis_void(r);
    if ((w = r->watches)) {
        do
            check_queue(r->auth, w, false);
        while ((w = next_watch(w)) != r->watches);
    }
    if (r->auth->suspect)
        r->auth->suspect(r->auth->suspect_arg, r);
}

void auth_on_suspect(struct auth *a, void (*fn)(void *arg, const struct requester *r), void *arg)
{
    a->suspect = fn;
    a->suspect_arg = arg;
}

/* ---- watches */

void auth_on_revoked(struct auth *a, void (*fn)(struct auth_watch *w, const struct auth_error *e))
{
    a->revoked = fn;
}

void auth_watch_add(struct auth *a, struct auth_watch *w)
{
    struct requester *r = w->r;

    ASSERT(!w->active && a->revoked && r->auth == a);
    w->active = true;
    w->heap_at = 0;
    list_init(&w->by_user);
    if (r->watches)
        list_push(&r->watches->by_user, &w->by_user);
    else
        r->watches = w;
    watch_rests(a, w);
    heap_add(&a->checks, w, r);
    a->checks.watches++;
    if (r->suspected != r->verified)
        check_queue(a, w, false);
}

void auth_watch_del(struct auth_watch *w)
{
    if (!w->active)
        return;
    struct auth_check *c = w->checking ? w->check : NULL;

    w->active = w->checking = false;
    if (c)
        c->w = NULL;
    else
        list_del(&w->by_age);
    if (c && !c->flying)
        check_free(c);
    if (w->r->watches == w)
        w->r->watches = list_empty(&w->by_user) ? NULL : next_watch(w);
    list_del(&w->by_user);
    heap_del(&w->r->auth->checks, w);
    w->r->auth->checks.watches--;
    requester_unref(&w->r);
}

void checks_init(struct checks *c)
{
    memset(c, 0, sizeof *c);
    list_init(&c->queue);
    list_init(&c->later);
    list_init(&c->flying);
    list_init(&c->by_age);
}

static void unwatch_all(struct list *checks)
{
    struct auth_check *c;

    list_each(c, checks, struct auth_check, node) {
        if (c->w)
            auth_watch_del(c->w);
    }
}

void checks_fini(struct auth *a)
{
    while (!list_empty(&a->checks.by_age))
        auth_watch_del(container_of(a->checks.by_age.next, struct auth_watch, by_age));
    unwatch_all(&a->checks.queue);
    unwatch_all(&a->checks.later);
    unwatch_all(&a->checks.flying);
    ASSERT(list_empty(&a->checks.queue) && list_empty(&a->checks.later) && a->checks.heap_n == 0);
    mem_free(MEM_tokens, a->checks.heap);
    a->checks.heap = NULL;
    a->checks.heap_cap = 0;
}
