/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Positions, written in groups: whatever moved since the last flush goes into one statement, PUSH_FLUSH_MS
 * apart, one under way at a time. A position is written after the gateway's answer, never before, and only to
 * the row that we know (its id): a pusher that was registered again meanwhile keeps its fresh position. A row
 * that the statement did not find was deleted or replaced; it is read again.
 */
#include "push_int.h"

void pusher_dirty(struct pusher *ps)
{
    if (!ps->dead && list_empty(&ps->dirty))
        list_push(&ps->p->dirty, &ps->dirty);
}

struct commit {
    struct push *p;
    size_t n;
    struct commit_key {
        struct pstr *user, *app, *key;
        int64_t id;
        bool found;
    } * v;
};

static struct pusher *commit_pusher(struct push *p, const struct commit_key *k)
{
    struct push_user *u = push_user_find(p, pstr_str(k->user));
    struct pusher *ps;

    if (u)
        list_each(ps, &u->pushers, struct pusher, of_user) {
            if (ps->id == k->id && str_eq(ps->app_id, pstr_str(k->app)) &&
                str_eq(ps->pushkey, pstr_str(k->key)))
                return ps;
        }
    return NULL;
}

static void on_committed(void *arg, int err, const struct pg_result *r)
{
    struct commit *c = arg;
    struct push *p = c->p;

    p->committing = false;
    for (int i = 0; !err && i < pg_rows(r); i++) {
        int64_t id = pg_i64(r, i, 0);
        size_t lo = 0, hi = c->n; /* sorted by id */
        while (lo < hi) {
            size_t mid = (lo + hi) / 2;
            if (c->v[mid].id < id)
                lo = mid + 1;
            else
                hi = mid;
        }
        if (lo < c->n && c->v[lo].id == id)
            c->v[lo].found = true;
    }
    for (size_t j = 0; j < c->n; j++) {
        struct pusher *ps = p->stopping ? NULL : commit_pusher(p, &c->v[j]);

        if (ps && err)
            pusher_dirty(ps);
        else if (ps && !c->v[j].found)
            push_rows_changed_pusher(ps);
        pstr_unref(p, &c->v[j].user);
        pstr_unref(p, &c->v[j].app);
        pstr_unref(p, &c->v[j].key);
    }
    metric_add(M_push_commits, 1);
    if (err)
        metric_add_l(M_push_failures, "commit", 1);
    free(c->v);
    free(c);
    push_rows_flush(p);
}

static int by_id(const void *a, const void *b)
{
    const struct pusher *x = *(struct pusher *const *)a, *y = *(struct pusher *const *)b;

    return x->id < y->id ? -1 : x->id > y->id;
}

/* Optional numbers go as text: an absent one is NULL. */
static struct str optional(struct arena *a, int64_t v)
{
    return v ? arena_printf(a, "%lld", (long long)v) : STR_ABSENT;
}

static void commit_send(struct push *p, struct pusher **all, size_t n)
{
    struct commit *c = xcalloc(1, sizeof *c);
    struct arena *a = arena_new(COMMIT_MAX * 256);
    int64_t *ids = xcalloc(2 * n, sizeof *ids), *done = ids + n;
    struct str *texts = xcalloc(5 * n, sizeof *texts);
    struct pg_args *args = pg_args_new();

    qsort(all, n, sizeof *all, by_id);
    c->p = p;
    c->n = n;
    c->v = xcalloc(n, sizeof *c->v);
    for (size_t i = 0; i < n; i++) {
        const struct pusher *ps = all[i];
        c->v[i] = (struct commit_key){pstr_ref(p, ps->user->id), pstr_ref(p, ps->app_id),
                                      pstr_ref(p, ps->pushkey), ps->id, false};
        ids[i] = ps->id;
        done[i] = ps->done;
        texts[i] = ps->app_id;
        texts[n + i] = ps->pushkey;
        texts[2 * n + i] = ps->user->id;
        texts[3 * n + i] = optional(a, ps->last_success);
        texts[4 * n + i] = optional(a, ps->failing_since);
    }
    pg_args_i64_array(args, ids, n);
    pg_args_i64_array(args, done, n);
    for (int k = 0; k < 5; k++)
        pg_args_text_array(args, texts + (size_t)k * n, n);
    p->committing = true;
    pg_exec(p->pg, SQL_push_commit, args, on_committed, c);
    free(ids);
    free(texts);
    arena_free(&a);
}

void push_commit(struct push *p, bool now)
{
    int64_t at = clock_mono_ms();
    struct pusher **all, *ps;
    size_t n = 0;

    if (p->committing || p->stopping || list_empty(&p->dirty) || (!now && at < p->commit_ms + PUSH_FLUSH_MS))
        return;
    p->commit_ms = at;
    all = xcalloc(COMMIT_MAX, sizeof(struct pusher *));
    list_each(ps, &p->dirty, struct pusher, dirty) {
        if (n == COMMIT_MAX)
            break;
        list_del(&ps->dirty);
        all[n++] = ps;
    }
    commit_send(p, all, n);
    free(all);
}
