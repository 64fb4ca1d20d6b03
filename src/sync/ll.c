/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Which member events a lazily loading device has been sent lately (sync-v3 4.2): user id -> event id, least
 * recently used first out (looking one up is a use, as in Synapse 1.157 util/caches/lrucache.py), the whole
 * forgotten after a while so that a client that lost its store recovers. Losing it is never wrong, only more
 * verbose. A run reads the committed cache; what it would set or has used is committed when its answer goes
 * out.
 *
 * An answer may be lost, and its members with it. From Synapse 1.163 on (RELEASE_LAZY_BY_POSITION) each entry
 * has the room position of the next_batch of the answer that carried it: who asks from before that has not
 * seen it, and it is forgotten. Devices that were answered at the same position share it.
 *
 * There are at most a hundred entries, 24 bytes each, in the order of their use, and they are looked through:
 * a table would cost more than it saves, of memory above all, for every parked device has some.
 *
 * Nor is it known what a client has seen that has been to another server: our last answer may have been the
 * one that was lost, or its store emptied meanwhile. Its token is beyond every one we gave it, which shows;
 * then all is forgotten. (Synapse, each of whose workers has such a cache, takes no notice.)
 */
#include "sync_int.h"

enum { EXPIRY_MS = 30 * 60 * 1000 };

/* Who is told apart by this; the id itself would be most of what an entry costs. */
static uint64_t user_key(struct str user_id)
{
    return str_hash(user_id);
}

static struct ll_sent *find(const struct device *d, uint64_t user)
{
    for (size_t i = d->ll ? d->ll->sent.n : 0; i-- > 0;) {
        if (d->ll->sent.v[i].user == user)
            return &d->ll->sent.v[i];
    }
    return NULL;
}

static struct str get(struct sync_run *run, struct str user_id, uint64_t user)
{
    for (size_t i = run->ll.n; i-- > 0;) { /* what this run has set already */
        if (run->ll.v[i].clear)
            return STR_ABSENT;
        if (str_eq(run->ll.v[i].user_id, user_id))
            return run->ll.v[i].event_id;
    }
    if (!run->d->ll || clock_mono_coarse_ms() >= run->d->ll->expires_ms)
        return STR_ABSENT;
    struct ll_sent *e = find(run->d, user);
    if (!e)
        return STR_ABSENT;
    vec_push(&run->ll_used, ((struct ll_pair){user_id, e->rec->id, user}));
    return e->rec->id;
}

struct str ll_get(struct sync_run *run, struct str user_id)
{
    return get(run, user_id, user_key(user_id));
}

bool ll_has(struct sync_run *run, const struct ll_pair *known)
{
    return str_eq(get(run, known->user_id, known->user), known->event_id);
}

void ll_clear(struct sync_run *run)
{
    vec_push(&run->ll, ((struct ll_update){.d = run->d, .clear = true}));
}

void ll_set(struct sync_run *run, struct str user_id, struct str event_id)
{
    vec_push(&run->ll, ((struct ll_update){.d = run->d, .user_id = user_id, .event_id = event_id}));
}

static void forget_all(struct model *m, struct device *d)
{
    struct ll_state *ll = model_ll(d);
    while (ll->sent.n)
        model_ll_del(m, d, ll->sent.n - 1);
    ll->newest = 0;
    ll->expires_ms = clock_mono_coarse_ms() + EXPIRY_MS;
}

/* Before anything of a request is computed: forgets what the client cannot have seen. */
void ll_begin(struct sync_run *run)
{
    struct device *d = run->d;
    if (!d || !run->f->lazy_load_members)
        return;
    struct ll_state *ll = d->ll;
    if (!ll)
        return;
    if (run->has_since && (run->since.room.min > ll->given_min || mpos_max(&run->since.room) > ll->given_max))
        forget_all(run->m, d);
    if (!release_has(RELEASE_LAZY_BY_POSITION))
        return;
    if (!run->has_since) {
        forget_all(run->m, d);
        return;
    }
    if (ll->newest <= run->since.room.min)
        return;
    int64_t newest = 0;
    for (size_t i = 0; i < ll->sent.n;) {
        struct mpos at = mpos_of_kept(ll->sent.v[i].at);
        if (mpos_le(&at, &run->since.room)) {
            newest = mpos_max(&at) > newest ? mpos_max(&at) : newest;
            i++;
        } else {
            model_ll_del(run->m, d, i);
        }
    }
    ll->newest = newest;
}

static void store(struct model *m, struct device *d, struct str user_id, struct str event_id,
                  const struct mpos *at, size_t max)
{
    struct ll_sent *old = find(d, user_key(user_id));
    if (mpos_max(at) > model_ll(d)->newest)
        d->ll->newest = mpos_max(at);
    if (old)
        model_ll_del(m, d, (size_t)(old - d->ll->sent.v));
    model_ll_add(m, d, user_key(user_id), event_id, at);
    while (d->ll->sent.n > max)
        model_ll_del(m, d, 0);
}

/* Goes last: the others move up. */
static void used(struct device *d, uint64_t user)
{
    struct ll_sent *e = find(d, user);
    if (!e)
        return;
    struct ll_sent moved = *e, *last = &d->ll->sent.v[d->ll->sent.n - 1];
    memmove(e, e + 1, (size_t)(last - e) * sizeof *e);
    *last = moved;
}

/* An initial sync sets the same few members for each of many rooms, and only so many of all are kept: marks
 * those that are set again later, and answers where what counts begins. */
static size_t last_of_each(struct sync_run *run, size_t max)
{
    uint64_t *seen = ARENA_ARRAY(run->a, uint64_t, max);
    size_t n = 0, i = run->ll.n;
    while (i > 0 && n < max && !run->ll.v[i - 1].clear) {
        struct ll_update *up = &run->ll.v[--i];
        uint64_t user = user_key(up->user_id);
        for (size_t k = 0; k < n && !up->again; k++)
            up->again = seen[k] == user;
        if (!up->again)
            seen[n++] = user;
    }
    return i > 0 && run->ll.v[i - 1].clear ? i - 1 : i;
}

/* What has been given matters once members have been sent: until then a device has nothing of this. */
void ll_commit(struct sync_run *run)
{
    if (!run->d || (!run->d->ll && run->ll.n == 0))
        return;
    struct ll_state *ll = model_ll(run->d);
    if (run->now.room.min > ll->given_min)
        ll->given_min = run->now.room.min;
    if (mpos_max(&run->now.room) > ll->given_max)
        ll->given_max = mpos_max(&run->now.room);
    if (run->ll.n + run->ll_used.n == 0)
        return;
    if (clock_mono_coarse_ms() >= ll->expires_ms)
        forget_all(run->m, run->d);
    for (size_t i = 0; i < run->ll_used.n; i++)
        used(run->d, run->ll_used.v[i].user);
    size_t max = release_has(RELEASE_LAZY_BY_POSITION) ? 100 : (size_t)(100 * run->cfg->cache_global_factor);
    max = max ? max : 1;
    for (size_t i = last_of_each(run, max); i < run->ll.n; i++) {
        if (run->ll.v[i].clear)
            forget_all(run->m, run->d);
        else if (!run->ll.v[i].again)
            store(run->m, run->d, run->ll.v[i].user_id, run->ll.v[i].event_id, &run->now.room, max);
    }
    vec_fit_of(MEM_lazy_members, &ll->sent); /* it may be long until the next one */
}
