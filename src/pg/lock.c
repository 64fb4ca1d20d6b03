/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * A lock that one process of a database holds: pg_try_advisory_lock in a session of its own.
 *
 * The session lives on a thread that only waits: it asks for the lock every LOCK_POLL_MS until it has it, and
 * from then on asks the session whether it still lives. The server frees the lock with the session, so a
 * process that was killed loses it at once and the next one has it within one interval. The hub hears of
 * changes through an async handle. Between the server's loss of the session and our noticing it two processes
 * may believe that they hold the lock, for at most an interval while the server answers; whoever relies on it
 * must survive that.
 */
#include "pg_int.h"

#include <stdlib.h>

enum { LOCK_POLL_MS = 500 };

struct pg_lock {
    const struct config *cfg;
    int64_t key;
    pg_lock_fn *fn;
    void *arg;
    uv_async_t async;
    uv_thread_t thread;
    uv_mutex_t mutex; /* guards what follows */
    uv_cond_t changed;
    bool stop;
    enum pg_lock_state state;
    enum pg_lock_state told; /* the hub's alone */
};

static void state_set(struct pg_lock *l, enum pg_lock_state to)
{
    uv_mutex_lock(&l->mutex);
    bool differs = l->state != to;
    l->state = to;
    uv_mutex_unlock(&l->mutex);
    if (differs)
        uv_async_send(&l->async);
}

/* Asks for the lock, or whether the session that holds it lives. */
static int ask(struct pg_lock *l, struct pg_sync *c)
{
    const struct pg_result *r;
    struct err why;
    int err;

    if (l->state == PG_LOCK_HELD) /* only this thread writes it */
        return pg_sync_exec(c, "SELECT 1", NULL, &r, &why);
    /* The number is in the text: arguments keep memory of their thread, and this one ends. */
    char sql[64];
    snprintf(sql, sizeof sql, "SELECT pg_try_advisory_lock(%lld)", (long long)l->key);
    err = pg_sync_exec(c, sql, NULL, &r, &why);
    if (!err)
        state_set(l, pg_i64(r, 0, 0) ? PG_LOCK_HELD : PG_LOCK_OTHERS);
    return err;
}

/* False when it is time to go. */
static bool pause_for(struct pg_lock *l)
{
    uv_mutex_lock(&l->mutex);
    if (!l->stop)
        uv_cond_timedwait(&l->changed, &l->mutex, (uint64_t)LOCK_POLL_MS * 1000000);
    bool on = !l->stop;
    uv_mutex_unlock(&l->mutex);
    return on;
}

static void watch(void *arg)
{
    struct pg_lock *l = arg;
    struct pg_sync *c = NULL;
    struct err why;

    do {
        if ((c || !pg_sync_open(&c, l->cfg, STR("main"), &why)) && ask(l, c)) {
            pg_sync_close(&c);
            state_set(l, PG_LOCK_UNKNOWN);
        }
    } while (pause_for(l));
    pg_sync_close(&c);
}

static void on_async(uv_async_t *h)
{
    struct pg_lock *l = h->data;
    enum pg_lock_state now;

    uv_mutex_lock(&l->mutex);
    now = l->state;
    uv_mutex_unlock(&l->mutex);
    if (now == l->told)
        return;
    l->told = now;
    l->fn(l->arg, now);
}

struct pg_lock *pg_lock_start(struct uv_loop_s *loop, const struct config *cfg, int64_t key, pg_lock_fn *fn,
                              void *arg)
{
    struct pg_lock *l = xcalloc(1, sizeof *l);

    l->cfg = cfg;
    l->key = key;
    l->fn = fn;
    l->arg = arg;
    ASSERT(uv_mutex_init(&l->mutex) == 0 && uv_cond_init(&l->changed) == 0);
    ASSERT(uv_async_init(loop, &l->async, on_async) == 0);
    l->async.data = l;
    ASSERT(uv_thread_create(&l->thread, watch, l) == 0);
    return l;
}

static void closed(uv_handle_t *h)
{
    struct pg_lock *l = h->data;

    uv_cond_destroy(&l->changed);
    uv_mutex_destroy(&l->mutex);
    free(l);
}

void pg_lock_stop(struct pg_lock **lp)
{
    struct pg_lock *l = *lp;

    *lp = NULL;
    if (!l)
        return;
    uv_mutex_lock(&l->mutex);
    l->stop = true;
    uv_cond_signal(&l->changed);
    uv_mutex_unlock(&l->mutex);
    uv_thread_join(&l->thread);
    uv_close((uv_handle_t *)&l->async, closed);
}
