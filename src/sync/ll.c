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
 * seen it, and it is forgotten. Most positions are one number; the writers ahead of it follow the entry.
 *
 * Nor is it known what a client has seen that has been to another server: our last answer may have been the
 * one that was lost, or its store emptied meanwhile. Its token is beyond every one we gave it, which shows;
 * then all is forgotten. (Synapse, each of whose workers has such a cache, takes no notice.)
 */
#include "sync_int.h"

enum { EXPIRY_MS = 30 * 60 * 1000 };

struct ll_entry {
    struct str user_id; /* the key; first, so that the table's values can be freed as they are */
    struct str event_id;
    struct list lru;
    int64_t sent_min; /* where the answer ended that had it */
    int32_t sent_n;   /* so many writers of an mpos behind this, then the texts */
};

static struct mpos sent_at(const struct ll_entry *e)
{
    struct mpos p = mpos_of(e->sent_min);
    p.n = e->sent_n;
    memcpy(p.w, e + 1, (size_t)e->sent_n * sizeof *p.w);
    return p;
}

struct str ll_get(struct sync_run *run, struct str user_id)
{
    for (size_t i = run->ll.n; i-- > 0;) { /* what this run has set already */
        if (run->ll.v[i].clear)
            return STR_ABSENT;
        if (str_eq(run->ll.v[i].user_id, user_id))
            return run->ll.v[i].event_id;
    }
    if (clock_mono_ms() >= run->d->ll_expires_ms)
        return STR_ABSENT;
    struct ll_entry *e = smap_get(&run->d->ll, user_id);
    if (!e)
        return STR_ABSENT;
    vec_push(&run->ll_used, ((struct ll_pair){e->user_id, e->event_id}));
    return e->event_id;
}

void ll_clear(struct sync_run *run)
{
    vec_push(&run->ll, ((struct ll_update){.d = run->d, .clear = true}));
}

void ll_set(struct sync_run *run, struct str user_id, struct str event_id)
{
    vec_push(&run->ll, ((struct ll_update){.d = run->d, .user_id = user_id, .event_id = event_id}));
}

static void forget_all(struct device *d)
{
    size_t it = 0;
    for (struct ll_entry *e; (e = smap_next(&d->ll, &it));)
        free(e);
    smap_fini(&d->ll);
    smap_init(&d->ll);
    list_init(&d->ll_lru);
    d->ll_newest = 0;
    d->ll_expires_ms = clock_mono_ms() + EXPIRY_MS;
}

/* Before anything of a request is computed: forgets what the client cannot have seen. */
void ll_begin(struct sync_run *run)
{
    struct device *d = run->d;
    if (!d || !run->f->lazy_load_members)
        return;
    if (run->has_since &&
        (run->since.room.min > d->ll_given_min || mpos_max(&run->since.room) > d->ll_given_max))
        forget_all(d);
    if (!release_has(RELEASE_LAZY_BY_POSITION))
        return;
    if (!run->has_since) {
        forget_all(d);
        return;
    }
    if (d->ll_newest <= run->since.room.min)
        return;
    int64_t newest = 0;
    for (struct list *l = d->ll_lru.next, *next; l != &d->ll_lru; l = next) {
        struct ll_entry *e = container_of(l, struct ll_entry, lru);
        struct mpos at = sent_at(e);
        next = l->next;
        if (mpos_le(&at, &run->since.room)) {
            newest = mpos_max(&at) > newest ? mpos_max(&at) : newest;
            continue;
        }
        list_del(&e->lru);
        smap_del(&d->ll, e->user_id);
        free(e);
    }
    d->ll_newest = newest;
}

static void store(struct device *d, struct str user_id, struct str event_id, const struct mpos *at,
                  size_t max)
{
    size_t writers = (size_t)at->n * sizeof *at->w;
    struct ll_entry *e = xmalloc(sizeof *e + writers + user_id.n + event_id.n + 1);
    char *p = (char *)(e + 1) + writers;
    memcpy(e + 1, at->w, writers);
    e->sent_min = at->min;
    e->sent_n = at->n;
    if (mpos_max(at) > d->ll_newest)
        d->ll_newest = mpos_max(at);
    memcpy(p, user_id.p, user_id.n);
    e->user_id = str_n(p, user_id.n);
    memcpy(p + user_id.n, event_id.p, event_id.n);
    e->event_id = str_n(p + user_id.n, event_id.n);
    struct ll_entry *old = smap_put(&d->ll, e->user_id, e);
    if (old) {
        list_del(&old->lru);
        free(old);
    }
    list_push(&d->ll_lru, &e->lru);
    while (smap_count(&d->ll) > max && !list_empty(&d->ll_lru)) {
        struct ll_entry *first = container_of(d->ll_lru.next, struct ll_entry, lru);
        list_del(&first->lru);
        smap_del(&d->ll, first->user_id);
        free(first);
    }
}

void ll_commit(struct sync_run *run)
{
    if (!run->d)
        return;
    if (run->now.room.min > run->d->ll_given_min)
        run->d->ll_given_min = run->now.room.min;
    if (mpos_max(&run->now.room) > run->d->ll_given_max)
        run->d->ll_given_max = mpos_max(&run->now.room);
    if (run->ll.n + run->ll_used.n == 0)
        return;
    if (clock_mono_ms() >= run->d->ll_expires_ms)
        forget_all(run->d);
    for (size_t i = 0; i < run->ll_used.n; i++) {
        struct ll_entry *e = smap_get(&run->d->ll, run->ll_used.v[i].user_id);
        if (e) {
            list_del(&e->lru);
            list_push(&run->d->ll_lru, &e->lru);
        }
    }
    size_t max = release_has(RELEASE_LAZY_BY_POSITION) ? 100 : (size_t)(100 * run->cfg->cache_global_factor);
    for (size_t i = 0; i < run->ll.n; i++) {
        if (run->ll.v[i].clear)
            forget_all(run->d);
        else
            store(run->d, run->ll.v[i].user_id, run->ll.v[i].event_id, &run->now.room, max ? max : 1);
    }
}
