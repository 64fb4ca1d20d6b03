/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The engine of the row caches: what PostgreSQL said about a token, a user, a device, a MAU row.
 *
 * An entry is pending (asked for, or about to be), found, or missing. Lookups of one key share one entry and
 * one answer; the keys of one loop turn share one statement; at most AUTH_CALLS_MAX statements of a class are
 * in flight, so that a burst batches better instead of queueing in the pool.
 *
 * The race between a lookup and an invalidation: an answer may have been read before a row was changed and
 * arrive after the row's invalidation. Two rules keep it out. An invalidation of a key that is pending clears
 * its `issued` number. An invalidation of a user notes a new sequence number in the user's shard, and an
 * answer that names a user (only the answer does, for tokens) is compared with the shard. An answer that
 * fails either test is asked for again, which also makes the waiting requests see the new truth; after
 * AUTH_TRIES_MAX rounds it is handed out but not kept, and whoever parks on it is checked once more by
 * watch.c (of a user or a device: basis.c).
 *
 * "Missing" is kept too, in a list of its own with a small maximum and a life of ten seconds: however many
 * random tokens are tried, no good entry leaves for them. Found entries go least recently used first, give or
 * take ten seconds. Entries that are pending or being delivered never go.
 */
#include "auth_int.h"

enum { MOVE_S = 10 };

struct cache_call {
    struct cache *c;
    size_t n;
    struct centry *v[];
};

void ring_add(struct imap *m, int64_t key, struct list *n)
{
    struct list *first = imap_get(m, key);

    list_init(n);
    if (first)
        list_push(first, n);
    else
        imap_put(m, key, n);
}

void ring_del(struct imap *m, int64_t key, struct list *n)
{
    if (imap_get(m, key) == n) {
        if (list_empty(n))
            imap_del(m, key);
        else
            imap_put(m, key, n->next);
    }
    list_del(n);
}

void cache_init(struct cache *c, struct auth *a, const struct cache_class *class)
{
    memset(c, 0, sizeof *c);
    c->class = class;
    c->a = a;
    kmap_init(&c->by_key);
    imap_init_of(&c->by_user, MEM_tokens);
    list_init(&c->found);
    list_init(&c->missing);
    list_init(&c->queue);
    c->found_max = (size_t)a->cfg->auth_tokens_max;
    c->missing_max = (size_t)a->cfg->auth_negative_max;
    c->pending_max = (size_t)a->cfg->auth_pending_max;
    c->found_ms = a->cfg->auth_cache_ms;
    c->missing_ms = a->cfg->auth_cache_ms < AUTH_NEGATIVE_MS ? a->cfg->auth_cache_ms : AUTH_NEGATIVE_MS;
}

/* Takes e out of the list of its state. */
static void centry_leave(struct cache *c, struct centry *e)
{
    switch (e->state) {
    case CE_FOUND:
        c->found_n--;
        break;
    case CE_MISSING:
        c->missing_n--;
        break;
    case CE_PENDING:
        c->pending_n--;
        if (!list_empty(&e->lru))
            c->queue_n--;
        break;
    case CE_NEW:
        break;
    }
    list_del(&e->lru);
    e->state = CE_NEW;
}

/* e is in no list and in no table. */
static void centry_free(struct cache *c, struct centry *e)
{
    ASSERT(list_empty(&e->waiters));
    c->class->forget(c, e);
    c->class->free(c, e);
}

void cache_drop_entry(struct cache *c, struct centry *e)
{
    if (e->state == CE_PENDING) {
        e->issued = 0;
        return;
    }
    if (e->doomed)
        return;
    if (kmap_get(&c->by_key, e->key) == e)
        kmap_del(&c->by_key, e->key);
    uint8_t was = e->state;
    centry_leave(c, e);
    if (e->of_requester)
        token_loose(c, e);
    if (e->busy) {
        e->doomed = true;
        e->state = was; /* those who still wait for it are to read what the first one read */
    } else {
        centry_free(c, e);
    }
}

void cache_drop(struct cache *c, struct str key)
{
    struct centry *e = kmap_get(&c->by_key, key);

    if (e)
        cache_drop_entry(c, e);
}

void cache_clear(struct cache *c)
{
    size_t it = 0;
    struct centry *e;

    while ((e = kmap_next(&c->by_key, &it)))
        cache_drop_entry(c, e);
}

static bool centry_fresh(const struct cache *c, const struct centry *e)
{
    int64_t age = clock_mono_coarse_ms() - e->loaded_ms;

    return e->state == CE_FOUND ? age < c->found_ms : e->state == CE_MISSING && age < c->missing_ms;
}

bool cache_use(struct cache *c, struct centry *e)
{
    if (e->doomed || !centry_fresh(c, e))
        return false;
    uint32_t now = (uint32_t)(clock_mono_coarse_ms() / 1000);
    if (now - e->moved_s >= MOVE_S) { /* nearly least recently used: its neighbours are far away in memory */
        e->moved_s = now;
        list_del(&e->lru);
        list_push(e->state == CE_FOUND ? &c->found : &c->missing, &e->lru);
    }
    return true;
}

struct centry *cache_peek(struct cache *c, struct str key)
{
    struct centry *e = kmap_get(&c->by_key, key);

    return e && cache_use(c, e) ? e : NULL;
}

static void centry_enqueue(struct cache *c, struct centry *e)
{
    e->state = CE_PENDING;
    c->pending_n++;
    list_push(&c->queue, &e->lru);
    c->queue_n++;
    auth_arm_flush(c->a);
}

/* Entries that nobody waits for any more need not be asked for. */
static void cache_prune_queue(struct cache *c)
{
    struct centry *e;

    list_each(e, &c->queue, struct centry, lru) {
        if (!list_empty(&e->waiters))
            continue;
        kmap_del(&c->by_key, e->key);
        centry_leave(c, e);
        centry_free(c, e);
    }
}

int cache_ask(struct cache *c, struct str key, struct str secret, struct auth_wait *w)
{
    struct centry *e = kmap_get(&c->by_key, key);

    if (e && e->state != CE_PENDING) { /* too old: read it again */
        cache_drop_entry(c, e);
        e = NULL;
    }
    if (!e) {
        if (c->pending_n >= c->pending_max)
            cache_prune_queue(c);
        if (c->pending_n >= c->pending_max || c->a->stopping)
            return -ERR_LIMIT;
        e = c->class->make(c, key);
        list_init(&e->lru);
        list_init(&e->waiters);
        kmap_put(MEM_tokens, &c->by_key, e);
        if (c->class == &cache_tokens) {
            struct tok_entry *t = container_of(e, struct tok_entry, e);
            t->token = xstrndup(secret);
            e->secret_n = (uint32_t)secret.n;
        }
        centry_enqueue(c, e);
    }
    list_push(&e->waiters, &w->node);
    return 0;
}

static void cache_evict(struct cache *c)
{
    while (c->found_n > c->found_max) {
        metric_add_l(M_auth_evictions, c->class->name, 1);
        cache_drop_entry(c, container_of(c->found.next, struct centry, lru));
    }
    while (c->missing_n > c->missing_max)
        cache_drop_entry(c, container_of(c->missing.next, struct centry, lru));
}

/* Hands e, or err, to everybody who waits. Callbacks may ask again, invalidate, or evict: e is held
 * meanwhile. */
static void centry_deliver(struct cache *c, struct centry *e, int err)
{
    e->busy = true;
    while (!list_empty(&e->waiters)) {
        struct auth_wait *w = container_of(e->waiters.next, struct auth_wait, node);
        list_del(&w->node);
        w->fn(w, err, err ? NULL : e);
    }
    e->busy = false;
    if (e->doomed)
        centry_free(c, e);
}

static void centry_failed(struct cache *c, struct centry *e, int err)
{
    kmap_del(&c->by_key, e->key);
    centry_leave(c, e);
    e->doomed = true;
    centry_deliver(c, e, err);
}

/* The answer for e: row of r, or none (row < 0). */
static void centry_answer(struct cache *c, struct centry *e, const struct pg_result *r, int row)
{
    bool stale = e->issued == 0;

    if (row >= 0) {
        c->class->absorb(c, e, r, row);
        if (c->class->touched && c->class->touched(c, e) > e->issued)
            stale = true;
    }
    if (stale && ++e->tries < AUTH_TRIES_MAX && !c->a->stopping) {
        metric_add(M_auth_lookup_races, 1);
        c->class->forget(c, e);
        list_push(&c->queue, &e->lru); /* pending as before */
        c->queue_n++;
        auth_arm_flush(c->a);
        return;
    }
    centry_leave(c, e);
    if (c->class == &cache_tokens) {
        struct tok_entry *t = container_of(e, struct tok_entry, e);
        secret_free(&t->token);
        if (stale && t->r)
            t->r->suspected++;
        if (row >= 0)
            e = token_found(c, e);
    }
    if (stale || (row >= 0 ? c->found_ms : c->missing_ms) <= 0) {
        kmap_del(&c->by_key, e->key);
        e->doomed = true;
    }
    e->loaded_ms = clock_mono_coarse_ms();
    e->moved_s = (uint32_t)(e->loaded_ms / 1000);
    e->state = row >= 0 ? CE_FOUND : CE_MISSING;
    if (e->doomed) {
        centry_deliver(c, e, 0);
        return;
    }
    if (e->of_requester)
        token_kept(c, e);
    list_push(row >= 0 ? &c->found : &c->missing, &e->lru);
    if (row >= 0)
        c->found_n++;
    else
        c->missing_n++;
    centry_deliver(c, e, 0); /* e may be gone now */
}

static void cache_answered(void *arg, int err, const struct pg_result *r)
{
    struct cache_call *call = arg;
    struct cache *c = call->c;
    struct auth *a = c->a;
    int rows = !err && r ? pg_rows(r) : 0;
    int *row_of = xcalloc(call->n, sizeof *row_of);

    c->calls--;
    for (int i = 0; i < rows; i++) {
        int64_t place = pg_i64(r, i, 0);
        if (place >= 1 && place <= (int64_t)call->n)
            row_of[place - 1] = i + 1;
    }
    for (size_t i = 0; i < call->n; i++) {
        if (err)
            centry_failed(c, call->v[i], err);
        else
            centry_answer(c, call->v[i], r, row_of[i] - 1);
    }
    free(row_of);
    free(call);
    cache_evict(c);
    if (c->queue_n)
        auth_arm_flush(a);
    auth_call_done(a);
}

void cache_flush_queue(struct cache *c)
{
    cache_prune_queue(c);
    while (c->queue_n && c->calls < AUTH_CALLS_MAX) {
        size_t n = c->queue_n < AUTH_BATCH_MAX ? c->queue_n : AUTH_BATCH_MAX;
        struct cache_call *call = xmalloc(sizeof *call + n * sizeof call->v[0]);

        call->c = c;
        call->n = n;
        for (size_t i = 0; i < n; i++) {
            struct centry *e = container_of(c->queue.next, struct centry, lru);
            list_del(&e->lru);
            c->queue_n--;
            e->issued = c->a->seq;
            call->v[i] = e;
        }
        c->calls++;
        c->a->calls++;
        pg_exec(c->a->pg, c->class->stmt, c->class->args(call->v, n), cache_answered, call);
    }
}

/* Everybody who waits gets err. Entries in flight stay until their answer comes. */
void cache_abort(struct cache *c, int err)
{
    size_t it = 0;
    struct centry *e;

    while ((e = kmap_next(&c->by_key, &it))) {
        while (!list_empty(&e->waiters)) {
            struct auth_wait *w = container_of(e->waiters.next, struct auth_wait, node);
            list_del(&w->node);
            w->fn(w, err, NULL);
        }
    }
    cache_prune_queue(c);
}

/* Nothing is in flight. */
void cache_fini(struct cache *c)
{
    ASSERT(c->calls == 0);
    cache_prune_queue(c);
    cache_clear(c);
    ASSERT(kmap_count(&c->by_key) == 0);
    kmap_fini(MEM_tokens, &c->by_key);
    imap_fini(&c->by_user);
}
