/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The pool: one set of connections per data store (one in all when Synapse keeps everything in one database).
 *
 * pg_exec only queues. A uv_prepare, which runs right before the loop sleeps, hands out everything that was
 * issued in the turn: each statement to the connection with the fewest unanswered ones, the search beginning
 * one further each time, then one Sync and one write per connection. A connection takes PG_FLIGHT_MAX
 * statements at most, so that what waits behind a slow one goes to whichever becomes free first. An idle
 * handle, active while there is something to hand out, keeps the loop from sleeping on it.
 *
 * Everything that callers are told without the server (refusals, changes of pg_up) is told from the prepare
 * too: never from inside pg_exec, and never in the middle of a connection's work.
 */
#include "pg_int.h"

#include "chappe/clock.h"
#include "chappe/log.h"
#include "chappe/metrics.h"

#include <stdlib.h>

const struct pg_stmt_def pg_stmts[] = {
#define SQL(name, store, why, text)  {#name, store, false, text},
#define SQLW(name, store, why, text) {#name, store, true, text},
#include "chappe/tbl/sql.def"
#undef SQL
#undef SQLW
    {NULL, NULL, false, NULL},
};

const char *pg_stmt_name(enum pg_stmt s)
{
    ASSERT((size_t)s < (size_t)SQL_COUNT);
    return pg_stmts[s].name;
}

/* ---- lists ---- */

void pg_list_init(struct pg_req_list *l)
{
    l->head = NULL;
    l->tail = &l->head;
    l->n = 0;
}

void pg_list_push(struct pg_req_list *l, struct pg_req *r)
{
    r->next = NULL;
    *l->tail = r;
    l->tail = &r->next;
    l->n++;
}

void pg_list_push_front(struct pg_req_list *l, struct pg_req *r)
{
    r->next = l->head;
    if (!l->head)
        l->tail = &r->next;
    l->head = r;
    l->n++;
}

struct pg_req *pg_list_pop(struct pg_req_list *l)
{
    struct pg_req *r = l->head;
    if (!r)
        return NULL;
    l->head = r->next;
    if (!l->head)
        l->tail = &l->head;
    l->n--;
    r->next = NULL;
    return r;
}

void pg_list_prepend(struct pg_req_list *to, struct pg_req_list *from)
{
    if (!from->head)
        return;
    *from->tail = to->head;
    if (!to->head)
        to->tail = from->tail;
    to->head = from->head;
    to->n += from->n;
    pg_list_init(from);
}

/* ---- requests ---- */

static void waiting_add(struct pg *pg, int by)
{
    pg->waiting = by > 0 ? pg->waiting + 1 : pg->waiting - 1;
    metric_set(M_pg_waiting, (int64_t)pg->waiting);
}

void pg_req_finish(struct pg *pg, struct pg_req *r, int err, PGresult *res)
{
    const char *name = pg->stmts[r->stmt].name;
    pg_done_fn *done = r->done;
    void *arg = r->arg;
    waiting_add(pg, -1);
    if (err == 0) {
        int64_t us = clock_mono_us() - r->sent_us;
        metric_add_l(M_pg_microseconds, name, us);
        if (us > INT64_C(1000) * PG_SLOW_MS)
            log_warning(PG_LOGGER, "%s took %lld ms", name, (long long)(us / 1000));
    }
    pg_args_free(&r->args);
    free(r);
    if (err < 0 || PQresultStatus(res) != PGRES_TUPLES_OK) {
        PQclear(res);
        done(arg, err, NULL);
        return;
    }
    struct pg_result result;
    pg_result_init(&result, res);
    metric_add_l(M_pg_rows, name, PQntuples(res));
    done(arg, 0, &result);
    pg_result_fini(&result);
}

void pg_req_finish_later(struct pg *pg, struct pg_req *r, int err)
{
    r->err = err;
    pg_list_push(&pg->done_later, r);
    pg_wake(pg);
}

static struct pg_pool *pool_of(struct pg *pg, int stmt)
{
    for (int i = 1; i < pg->pools_count; i++)
        if (strcmp(pg->pools[i].store, pg->stmts[stmt].store) == 0)
            return &pg->pools[i];
    return &pg->pools[0];
}

void pg_exec(struct pg *pg, enum pg_stmt stmt, struct pg_args *args, pg_done_fn *done, void *arg)
{
    ASSERT((size_t)stmt < pg->stmts_count && pg->stmts[stmt].text[0]);
    struct pg_req *r = xcalloc(1, sizeof *r);
    r->stmt = (int)stmt;
    r->args = args;
    r->done = done;
    r->arg = arg;
    int err = pg_args_check(args);
    if (pg->stopping)
        err = -ERR_SHUTDOWN;
    else if (pg->waiting >= (size_t)pg->cfg->pg_queue_max)
        err = -ERR_LIMIT;
    if (err == -ERR_LIMIT)
        metric_add(M_pg_refused, 1);
    waiting_add(pg, 1);
    if (err < 0) {
        pg_args_free(&r->args);
        pg_req_finish_later(pg, r, err);
        return;
    }
    pg_list_push(&pool_of(pg, r->stmt)->queue, r);
    pg_wake(pg);
}

/* ---- handing out ---- */

static void idle_cb(uv_idle_t *h)
{
    (void)h;
}

void pg_wake(struct pg *pg)
{
    if (!pg->stopping)
        uv_idle_start(&pg->idle, idle_cb);
}

static struct pg_conn *pool_least_loaded(struct pg_pool *p)
{
    struct pg_conn *best = NULL;
    for (int i = 0; i < p->conns_count; i++) {
        struct pg_conn *c = &p->conns[(p->next + i) % p->conns_count];
        if (c->state == PG_CONN_READY && c->flight.n < PG_FLIGHT_MAX &&
            (!best || c->flight.n < best->flight.n))
            best = c;
    }
    p->next = (p->next + 1) % p->conns_count;
    return best;
}

static void pool_hand_out(struct pg_pool *p)
{
    struct pg_conn *c;
    while (p->queue.n > 0 && (c = pool_least_loaded(p)))
        pg_conn_send(c, pg_list_pop(&p->queue));
    for (int i = 0; i < p->conns_count; i++)
        pg_conn_flush(&p->conns[i]);
}

static void tell_up(struct pg *pg)
{
    bool up = pg_up(pg);
    if (up == pg->up)
        return;
    pg->up = up;
    if (up)
        log_info(PG_LOGGER, "PostgreSQL is up (%s)",
                 pg->cfg->db_main.masked.p ? pg->cfg->db_main.masked.p : "");
    else
        log_error(PG_LOGGER, "PostgreSQL is down: statements wait until it is back");
    for (size_t i = 0; i < pg->listeners.n; i++)
        pg->listeners.v[i].fn(pg->listeners.v[i].arg, up);
}

static void prepare_cb(uv_prepare_t *h)
{
    struct pg *pg = h->data;
    if (!uv_is_active((uv_handle_t *)&pg->idle))
        return;
    uv_idle_stop(&pg->idle);
    for (int i = 0; i < pg->pools_count; i++)
        pool_hand_out(&pg->pools[i]);
    tell_up(pg);
    /* Only what is there now: what callbacks add has its turn after the next look at the sockets. */
    for (size_t n = pg->done_later.n; n > 0 && pg->done_later.n > 0; n--) {
        struct pg_req *r = pg_list_pop(&pg->done_later);
        pg_req_finish(pg, r, r->err, NULL);
    }
}

/* ---- life ---- */

bool pg_up(const struct pg *pg)
{
    for (int i = 0; i < pg->pools_count; i++)
        if (pg->pools[i].ready == 0)
            return false;
    return true;
}

void pg_on_change(struct pg *pg, void (*fn)(void *arg, bool up), void *arg)
{
    struct pg_listener l = {.fn = fn, .arg = arg};
    vec_push(&pg->listeners, l);
}

void pg_pool_ready_changed(struct pg_pool *pool, int by)
{
    int64_t all = 0;
    pool->ready += by;
    ASSERT(pool->ready >= 0 && pool->ready <= pool->conns_count);
    for (int i = 0; i < pool->pg->pools_count; i++)
        all += pool->pg->pools[i].ready;
    metric_set(M_pg_connections, all);
    pg_wake(pool->pg);
}

static void pool_init(struct pg_pool *p, struct pg *pg, const char *store, const struct config_db *db)
{
    p->pg = pg;
    p->store = store;
    p->db = db;
    p->conns_count = (int)(pg->cfg->pg_connections > 0 ? pg->cfg->pg_connections : 1);
    p->conns = xcalloc((size_t)p->conns_count, sizeof *p->conns);
    pg_list_init(&p->queue);
    for (int i = 0; i < p->conns_count; i++) {
        pg_conn_init(&p->conns[i], p, i);
        pg_conn_start(&p->conns[i]);
    }
}

int pg_start_table(struct pg **out, struct uv_loop_s *loop, const struct config *cfg,
                   const struct pg_stmt_def *stmts, size_t count, struct err *e)
{
    if (!PQisthreadsafe())
        return err_set(e, ERR_UNSUPPORTED, "libpq was built without threads");
    struct pg *pg = xcalloc(1, sizeof *pg);
    pg->loop = loop;
    pg->cfg = cfg;
    pg->stmts = stmts;
    pg->stmts_count = count;
    pg->connect_timeout_ms = PG_CONNECT_TIMEOUT_MS;
    pg->stmt_logs = xcalloc(count + 1, sizeof *pg->stmt_logs);
    pg_list_init(&pg->done_later);
    uv_prepare_init(loop, &pg->prepare);
    uv_idle_init(loop, &pg->idle);
    pg->prepare.data = pg->idle.data = pg;
    pg->handles = 2;
    uv_prepare_start(&pg->prepare, prepare_cb);
    uv_unref((uv_handle_t *)&pg->prepare);
    pool_init(&pg->pools[0], pg, "main", &cfg->db_main);
    pg->pools_count = 1;
    if (cfg->db_state_separate)
        pool_init(&pg->pools[pg->pools_count++], pg, "state", &cfg->db_state);
    *out = pg;
    return 0;
}

int pg_start(struct pg **out, struct uv_loop_s *loop, const struct config *cfg, struct err *e)
{
    return pg_start_table(out, loop, cfg, pg_stmts_decided(), (size_t)SQL_COUNT, e);
}

void pg_handle_closed(struct pg *pg)
{
    if (--pg->handles > 0)
        return;
    for (int i = 0; i < pg->pools_count; i++)
        free(pg->pools[i].conns);
    vec_free(&pg->listeners);
    free(pg->stmt_logs);
    free(pg);
}

static void handle_closed(uv_handle_t *h)
{
    pg_handle_closed(h->data);
}

void pg_stop(struct pg **pp)
{
    struct pg *pg = *pp;
    if (!pg || pg->stopping)
        return;
    pg->stopping = true;
    uv_idle_stop(&pg->idle);
    uv_prepare_stop(&pg->prepare);
    uv_close((uv_handle_t *)&pg->idle, handle_closed);
    uv_close((uv_handle_t *)&pg->prepare, handle_closed);
    struct pg_req_list all;
    pg_list_init(&all);
    for (int i = 0; i < pg->pools_count; i++) {
        struct pg_pool *p = &pg->pools[i];
        pg_list_prepend(&all, &p->queue);
        for (int j = 0; j < p->conns_count; j++)
            pg_conn_close(&p->conns[j], &all);
    }
    /* Callbacks may still come with new statements; those end the same way. */
    for (struct pg_req *r; (r = pg_list_pop(&all));)
        pg_req_finish(pg, r, -ERR_SHUTDOWN, NULL);
    for (struct pg_req *r; (r = pg_list_pop(&pg->done_later));)
        pg_req_finish(pg, r, r->err, NULL);
    ASSERT(pg->waiting == 0);
    *pp = NULL;
}
