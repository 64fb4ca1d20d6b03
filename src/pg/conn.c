/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * One PostgreSQL connection: asynchronous connect, session setup, then libpq's pipeline mode for ever.
 *
 * Pipeline. Statements go out as [Parse] Bind Execute; an error makes the server skip everything up to the
 * next Sync. Reads issued in one loop turn share a Sync (a *group*): libpq writes to the socket on every
 * Sync, so a group is one write for us and one for the server. That is safe because a read has no effect:
 * victims of a neighbour's error are simply sent again, each with a Sync of its own. A write always has its
 * own Sync, and is reported as done only after the Sync's answer, which is when it is committed. Under READ
 * COMMITTED every statement of a group still has its own snapshot. A read is reported as soon as its own
 * result is here.
 *
 * Results come in the order of sending: for each command its results, then a NULL, and for each Sync one
 * PGRES_PIPELINE_SYNC. The head of `flight` is the one being answered; `group` tells whether an error belongs
 * to it or to the Sync before it.
 *
 * Loss. Whatever was unanswered goes back to the front of the pool's queue in its old order and is sent again
 * on another connection. A statement that is at work each time its connection dies ends with -ERR_DB at last.
 *
 * The socket's uv_poll_t is stopped before every libpq call that may close or replace the socket, and
 * detached as soon as libpq has closed it, always before a callback runs that could open another descriptor
 * of the same number.
 */
#include "pg_int.h"

#include "chappe/clock.h"
#include "chappe/log.h"
#include "chappe/metrics.h"

#include <stdlib.h>

static const char *const state_names[] = {
#define X(name, text) #name,
    PG_CONN_STATE_MAP(X)
#undef X
};

static void conn_lost(struct pg_conn *c, const char *what, struct str why);
static void conn_drop(struct pg_conn *c, struct pg_req_list *left);
static void conn_poll_cb(uv_poll_t *h, int status, int events);

/* ---- states ---- */

static void conn_set_state(struct pg_conn *c, enum pg_conn_state to)
{
    static const unsigned legal[PG_CONN_STATE_COUNT] = {
        [PG_CONN_WAIT] = 1u << PG_CONN_CONNECT | 1u << PG_CONN_CLOSED,
        [PG_CONN_CONNECT] = 1u << PG_CONN_SETUP | 1u << PG_CONN_WAIT | 1u << PG_CONN_CLOSED,
        [PG_CONN_SETUP] = 1u << PG_CONN_CHECK | 1u << PG_CONN_WAIT | 1u << PG_CONN_CLOSED,
        [PG_CONN_CHECK] = 1u << PG_CONN_READY | 1u << PG_CONN_WAIT | 1u << PG_CONN_CLOSED,
        [PG_CONN_READY] = 1u << PG_CONN_WAIT | 1u << PG_CONN_CLOSED,
    };
    ASSERT(legal[c->state] & 1u << to);
    log_debug(PG_LOGGER, "%s/%d: %s -> %s", c->pool->store, c->index, state_names[c->state], state_names[to]);
    if (c->state == PG_CONN_READY)
        pg_pool_ready_changed(c->pool, -1);
    c->state = to;
    if (to == PG_CONN_READY)
        pg_pool_ready_changed(c->pool, 1);
}

/* ---- the socket's poll handle ---- */

static void poll_closed(uv_handle_t *h)
{
    free(h);
}

static void conn_poll_drop(struct pg_conn *c)
{
    if (!c->poll)
        return;
    uv_poll_stop(c->poll);
    c->poll->data = NULL;
    uv_close((uv_handle_t *)c->poll, poll_closed);
    c->poll = NULL;
}

/* libpq closes its socket on its own when the connection fails. */
static void conn_poll_check(struct pg_conn *c)
{
    if (c->poll && PQsocket(c->db) != c->poll_fd)
        conn_poll_drop(c);
}

static int conn_poll_set(struct pg_conn *c, int events)
{
    int fd = PQsocket(c->db);
    if (c->poll && c->poll_fd != fd)
        conn_poll_drop(c);
    if (fd < 0)
        return -ERR_CLOSED;
    if (!c->poll) {
        uv_poll_t *h = xcalloc(1, sizeof *h);
        if (uv_poll_init(c->pool->pg->loop, h, fd) != 0) {
            free(h);
            return -ERR_IO;
        }
        h->data = c;
        c->poll = h;
        c->poll_fd = fd;
        c->poll_events = 0;
    }
    if (events == c->poll_events)
        return 0; /* uv_poll_start would take the descriptor out of epoll and put it in again */
    c->poll_events = events;
    return uv_poll_start(c->poll, events, conn_poll_cb) == 0 ? 0 : -ERR_IO;
}

/* ---- connecting ---- */

static void conn_timer_cb(uv_timer_t *t);

static void conn_timer(struct pg_conn *c, int ms)
{
    uv_timer_start(&c->timer, conn_timer_cb, (uint64_t)ms, 0);
}

static int conn_backoff(struct pg_conn *c)
{
    int full = c->backoff_ms ? c->backoff_ms : PG_BACKOFF_MIN_MS;
    c->backoff_ms = full * 2 > PG_BACKOFF_MAX_MS ? PG_BACKOFF_MAX_MS : full * 2;
    return (int)(full * (0.5 + 0.5 * rng_unit()));
}

static bool complain_now(struct pg_pool *p)
{
    int64_t now = clock_mono_ms();
    if (p->complained_ms && now - p->complained_ms < PG_LOG_INTERVAL_MS)
        return false;
    p->complained_ms = now;
    return true;
}

/* Ends any state but CLOSED: the connection is given up and a new one will be tried. */
static void conn_lost(struct pg_conn *c, const char *what, struct str why)
{
    bool was_ready = c->state == PG_CONN_READY;
    if (was_ready || complain_now(c->pool))
        log_warning(PG_LOGGER, "%s/%d: %s: %.*s (%.*s)", c->pool->store, c->index, what, STR_ARG(why),
                    STR_ARG(c->pool->db->masked));
    struct pg_req *at_work = c->held ? NULL : c->flight.head;
    struct pg_req_list left;
    pg_list_init(&left);
    conn_set_state(c, PG_CONN_WAIT);
    if (at_work && ++at_work->losses >= PG_LOSSES_MAX) {
        pg_list_pop(&c->flight);
        log_error(PG_LOGGER, "%s was at work %d times when its connection was lost: given up",
                  c->pool->pg->stmts[at_work->stmt].name, PG_LOSSES_MAX);
        metric_add_l(M_pg_errors, c->pool->pg->stmts[at_work->stmt].name, 1);
        pg_req_finish_later(c->pool->pg, at_work, -ERR_DB);
    }
    conn_drop(c, &left);
    pg_list_prepend(&c->pool->queue, &left);
    conn_timer(c, conn_backoff(c));
    pg_wake(c->pool->pg);
}

static void conn_failed(struct pg_conn *c, const char *what)
{
    /* Copied: the message belongs to the connection that is about to go. */
    char *why = xstrndup(pg_trim_message(PQerrorMessage(c->db)));
    conn_lost(c, what, str_of(why));
    free(why);
}

/* Sends one or several statements without parameters before pipeline mode. */
static void conn_query(struct pg_conn *c, const char *sql)
{
    if (!PQsendQuery(c->db, sql)) {
        conn_failed(c, "session setup failed");
        return;
    }
    int unsent = PQflush(c->db);
    if (unsent < 0 || conn_poll_set(c, UV_READABLE | (unsent ? UV_WRITABLE : 0)) < 0)
        conn_failed(c, "session setup failed");
}

static void conn_setup(struct pg_conn *c)
{
    struct err e;
    if (pg_session_check(c->db, &e) < 0) {
        c->backoff_ms = PG_BACKOFF_MAX_MS;
        conn_lost(c, "unusable server", str_of(e.text));
        return;
    }
    PQsetnonblocking(c->db, 1);
    conn_set_state(c, PG_CONN_SETUP);
    struct buf sql;
    buf_init(&sql, 4096);
    pg_session_setup_sql(c->pool->db, &sql);
    ASSERT(!sql.failed);
    conn_query(c, sql.p);
    buf_fini(&sql);
}

static void notice_ignore(void *arg, const PGresult *res)
{
    (void)arg;
    (void)res;
}

static void conn_connect_step(struct pg_conn *c)
{
    c->poll_events = 0;
    if (c->poll)
        uv_poll_stop(c->poll); /* the call below may close the socket and open another of the same number */
    int err = 0;
    switch (PQconnectPoll(c->db)) {
    case PGRES_POLLING_READING:
        err = conn_poll_set(c, UV_READABLE);
        break;
    case PGRES_POLLING_WRITING:
        err = conn_poll_set(c, UV_WRITABLE);
        break;
    case PGRES_POLLING_OK:
        conn_setup(c);
        return;
    default:
        conn_failed(c, "cannot connect");
        return;
    }
    if (err < 0)
        conn_lost(c, "cannot connect", str_of(err_text(err)));
}

static void conn_connect(struct pg_conn *c)
{
    c->db = pg_session_connect(c->pool->db, true);
    ASSERT(c->db); /* NULL only without memory */
    conn_set_state(c, PG_CONN_CONNECT);
    conn_timer(c, c->pool->pg->connect_timeout_ms);
    PQsetNoticeReceiver(c->db, notice_ignore, NULL);
    if (PQstatus(c->db) == CONNECTION_BAD)
        conn_failed(c, "cannot connect");
    else if (conn_poll_set(c, UV_WRITABLE) < 0)
        conn_failed(c, "cannot poll the socket");
}

static void conn_timer_cb(uv_timer_t *t)
{
    struct pg_conn *c = t->data;
    if (c->state == PG_CONN_WAIT)
        conn_connect(c);
    else
        conn_lost(c, "cannot connect", STR("timed out"));
}

static void conn_ready(struct pg_conn *c)
{
    uv_timer_stop(&c->timer);
    if (!PQenterPipelineMode(c->db)) {
        conn_failed(c, "cannot enter pipeline mode");
        return;
    }
    if (c->was_ready)
        metric_add(M_pg_reconnects, 1);
    c->was_ready = true;
    conn_set_state(c, PG_CONN_READY);
    if (conn_poll_set(c, UV_READABLE) < 0) {
        conn_lost(c, "cannot poll the socket", STR("io error"));
        return;
    }
    pg_wake(c->pool->pg);
}

/* One answer in SETUP or CHECK; false when the connection was given up. */
static bool conn_setup_answer(struct pg_conn *c, const PGresult *res)
{
    ExecStatusType st = PQresultStatus(res);
    struct err e;
    if (st == PGRES_TUPLES_OK && c->state == PG_CONN_CHECK && PQntuples(res) > 0) {
        int64_t compat = 0;
        if (str_to_i64(str_of(PQgetvalue(res, 0, 0)), &compat) == 0 && compat <= PG_SCHEMA_VERSION_MAX)
            return true;
        err_set(&e, ERR_SCHEMA,
                "its schema has compat_version %lld, newer than the newest known, %d: upgrade Chappe",
                (long long)compat, PG_SCHEMA_VERSION_MAX);
        c->backoff_ms = PG_BACKOFF_MAX_MS;
        conn_lost(c, "unusable database", str_of(e.text));
        return false;
    }
    /* Without Synapse's tables there is nothing to check; pg_schema_check says so at start-up. */
    if (st == PGRES_COMMAND_OK || st == PGRES_TUPLES_OK ||
        (c->state == PG_CONN_CHECK && pg_error_is(res, "42P01")))
        return true;
    pg_error_describe(res, &e);
    conn_lost(c, "session setup failed", str_of(e.text));
    return false;
}

static void conn_setup_read(struct pg_conn *c)
{
    bool alive = PQconsumeInput(c->db);
    conn_poll_check(c);
    while (!PQisBusy(c->db)) {
        PGresult *res = PQgetResult(c->db);
        conn_poll_check(c);
        if (res) {
            bool go_on = conn_setup_answer(c, res);
            PQclear(res);
            if (!go_on)
                return;
            continue;
        }
        if (!alive || PQstatus(c->db) == CONNECTION_BAD)
            break;
        if (c->state == PG_CONN_CHECK) {
            conn_ready(c);
            return;
        }
        conn_set_state(c, PG_CONN_CHECK);
        conn_query(c, "SELECT compat_version FROM schema_compat_version");
        return;
    }
    if (!alive || PQstatus(c->db) == CONNECTION_BAD)
        conn_failed(c, "session setup failed");
}

/* ---- sending ---- */

/* Ends the group being sent with a Sync; libpq before 17 writes to the socket here. */
static bool conn_group_close(struct pg_conn *c)
{
    if (c->group_n == 0)
        return true;
    c->group_n = 0;
    c->group_sending++;
#ifdef LIBPQ_HAS_SEND_PIPELINE_SYNC
    return PQsendPipelineSync(c->db) == 1;
#else
    return PQpipelineSync(c->db) == 1;
#endif
}

void pg_conn_send(struct pg_conn *c, struct pg_req *r)
{
    ASSERT(c->state == PG_CONN_READY);
    const struct pg_stmt_def *def = &c->pool->pg->stmts[r->stmt];
    bool alone = def->write || r->solo, ok = true;
    if (c->group_n > 0 && (alone || c->group_n >= PG_GROUP_MAX))
        ok = conn_group_close(c);
    int params = r->args ? (int)r->args->at.n : 0;
    r->group = c->group_sending;
    r->prepared_here = !c->prepared[r->stmt];
    r->prepare_ok = false;
    r->commands_left = r->prepared_here ? 2 : 1;
    r->sent_us = clock_mono_us();
    pg_list_push(&c->flight, r);
    if (ok && r->prepared_here)
        ok = PQsendPrepare(c->db, def->name, def->text, params, NULL) == 1;
    if (ok)
        ok = PQsendQueryPrepared(c->db, def->name, params, pg_args_values(r->args), NULL, NULL, 0) == 1;
    c->prepared[r->stmt] = true;
    c->group_n++;
    c->dirty = true;
    metric_add_l(M_pg_statements, def->name, 1);
    if (ok && alone)
        ok = conn_group_close(c);
    if (!ok)
        conn_failed(c, "cannot send");
}

void pg_conn_flush(struct pg_conn *c)
{
    if (c->state != PG_CONN_READY || !c->dirty)
        return;
    c->dirty = false;
    int unsent = conn_group_close(c) ? PQflush(c->db) : -1;
    if (unsent < 0 || conn_poll_set(c, UV_READABLE | (unsent ? UV_WRITABLE : 0)) < 0)
        conn_failed(c, "cannot send");
}

/* ---- reading ---- */

/*
 * Some failures are not the statement's own: deadlocks and serialisation failures are over when tried again;
 * a statement whose PREPARE was skipped after a neighbour's error is unknown (26000) or, prepared again
 * meanwhile, already known (42P05); a plan that a schema change made stale needs a connection without plans.
 */
static bool conn_retry(struct pg_conn *c, struct pg_req *r, const PGresult *res)
{
    const char *where = PQresultErrorField(res, PG_DIAG_SOURCE_FUNCTION);
    bool stale = pg_error_is(res, "0A000") && where && strcmp(where, "RevalidateCachedQuery") == 0;
    bool unknown = pg_error_is(res, "26000"), known = pg_error_is(res, "42P05");
    if (!stale && !unknown && !known && !pg_error_is(res, "40001") && !pg_error_is(res, "40P01"))
        return false;
    if (r->retries >= PG_RETRIES_MAX)
        return false;
    r->retries++;
    r->solo = true;
    metric_add(M_pg_retries, 1);
    if (stale) {
        pg_list_push_front(&c->flight, r);
        conn_lost(c, "prepared statements out of date", str_of(c->pool->pg->stmts[r->stmt].name));
        return true;
    }
    if (unknown || known)
        c->prepared[r->stmt] = known;
    pg_list_push_front(&c->pool->queue, r);
    pg_wake(c->pool->pg);
    return true;
}

/* Takes r and res. */
static void conn_error(struct pg_conn *c, struct pg_req *r, PGresult *res)
{
    struct pg *pg = c->pool->pg;
    if (r->prepared_here && !r->prepare_ok)
        c->prepared[r->stmt] = false;
    if (conn_retry(c, r, res)) {
        PQclear(res);
        return;
    }
    struct pg_stmt_log *l = &pg->stmt_logs[r->stmt];
    int64_t now = clock_mono_ms();
    metric_add_l(M_pg_errors, pg->stmts[r->stmt].name, 1);
    if (l->logged_ms && now - l->logged_ms < PG_LOG_INTERVAL_MS) {
        l->suppressed++;
    } else {
        struct err e;
        pg_error_describe(res, &e);
        log_error(PG_LOGGER, "%s failed: %s", pg->stmts[r->stmt].name, e.text);
        if (l->suppressed > 0)
            log_error(PG_LOGGER, "%s: %lld more failures since the last such line", pg->stmts[r->stmt].name,
                      (long long)l->suppressed);
        *l = (struct pg_stmt_log){.logged_ms = now};
    }
    PQclear(res);
    pg_req_finish(pg, r, -ERR_DB, NULL);
}

/* The request being answered, or NULL when the answer is the Sync's. */
static struct pg_req *conn_head(const struct pg_conn *c)
{
    struct pg_req *r = c->flight.head;
    return r && r->group == c->group_reading ? r : NULL;
}

/* The NULL after the results of a command. */
static void conn_command_done(struct pg_conn *c)
{
    struct pg_req *r = conn_head(c);
    c->seen = false;
    c->backoff_ms = 0; /* it answers: a mere connection is no proof of health */
    if (!r || --r->commands_left > 0)
        return;
    enum pg_outcome outcome = c->outcome;
    PGresult *res = c->res;
    c->outcome = PG_OUTCOME_OK;
    c->res = NULL;
    pg_list_pop(&c->flight);
    if (outcome == PG_OUTCOME_FAILED) {
        conn_error(c, r, res);
    } else if (outcome == PG_OUTCOME_ABORTED) {
        if (r->prepared_here && !r->prepare_ok)
            c->prepared[r->stmt] = false;
        pg_list_push(&c->aborted, r);
    } else if (c->pool->pg->stmts[r->stmt].write) {
        c->held = r;
        c->held_res = res;
    } else {
        pg_req_finish(c->pool->pg, r, 0, res);
    }
}

static void conn_sync_done(struct pg_conn *c)
{
    struct pg_req *held = c->held;
    PGresult *held_res = c->held_res, *sync_error = c->res;
    bool failed = c->outcome == PG_OUTCOME_FAILED;
    c->held = NULL;
    c->held_res = c->res = NULL;
    c->outcome = PG_OUTCOME_OK;
    c->group_reading++;
    if (c->aborted.n > 0) {
        metric_add(M_pg_retries, (int64_t)c->aborted.n);
        for (struct pg_req *r = c->aborted.head; r; r = r->next)
            r->solo = true;
        pg_list_prepend(&c->pool->queue, &c->aborted);
        pg_wake(c->pool->pg);
    }
    if (held && failed) {
        PQclear(held_res);
        conn_error(c, held, sync_error);
        return;
    }
    PQclear(sync_error);
    if (held)
        pg_req_finish(c->pool->pg, held, 0, held_res);
}

/* One result; takes res. */
static void conn_result(struct pg_conn *c, PGresult *res)
{
    struct pg_req *r = conn_head(c);
    switch (PQresultStatus(res)) {
    case PGRES_PIPELINE_SYNC:
        PQclear(res);
        conn_sync_done(c);
        return;
    case PGRES_COMMAND_OK:
    case PGRES_TUPLES_OK:
        c->seen = true;
        if (r && r->commands_left == 2) {
            r->prepare_ok = true;
        } else if (r && !c->res) {
            c->res = res;
            return;
        }
        PQclear(res);
        return;
    case PGRES_PIPELINE_ABORTED:
        c->seen = true;
        if (c->outcome == PG_OUTCOME_OK)
            c->outcome = PG_OUTCOME_ABORTED;
        PQclear(res);
        return;
    default:
        if (pg_error_is_loss(c->db, res)) {
            struct err e;
            pg_error_describe(res, &e);
            PQclear(res);
            conn_lost(c, "connection lost", str_of(e.text));
            return;
        }
        c->seen = true;
        c->outcome = PG_OUTCOME_FAILED;
        PQclear(c->res);
        c->res = res;
    }
}

static void conn_read(struct pg_conn *c)
{
    bool alive = PQconsumeInput(c->db);
    conn_poll_check(c);
    /* What was received before a loss is still good. Two NULLs in a row: nothing is left to read. */
    for (int nulls = 0; c->state == PG_CONN_READY && !PQisBusy(c->db) && nulls < 2;) {
        if (c->group_reading == c->group_sending && c->flight.n == 0)
            break;
        PGresult *res = PQgetResult(c->db);
        conn_poll_check(c);
        nulls = res ? 0 : nulls + 1;
        if (res)
            conn_result(c, res);
        else if (c->seen)
            conn_command_done(c);
    }
    if (c->state != PG_CONN_READY)
        return;
    if (!alive || PQstatus(c->db) == CONNECTION_BAD)
        conn_failed(c, "connection lost");
    else if (c->pool->queue.n > 0)
        pg_wake(c->pool->pg); /* there is room again */
}

static void conn_poll_cb(uv_poll_t *h, int status, int events)
{
    struct pg_conn *c = h->data;
    if (!c)
        return;
    if (status < 0)
        events = UV_READABLE | UV_WRITABLE; /* libpq finds out what it is */
    if (c->state == PG_CONN_CONNECT) {
        conn_connect_step(c);
        return;
    }
    if (events & UV_READABLE) {
        if (c->state == PG_CONN_READY)
            conn_read(c);
        else
            conn_setup_read(c);
    }
    if (c->poll != h || !(events & UV_WRITABLE))
        return;
    int unsent = PQflush(c->db);
    if (unsent < 0 || conn_poll_set(c, UV_READABLE | (unsent ? UV_WRITABLE : 0)) < 0)
        conn_failed(c, "cannot send");
}

/* ---- life ---- */

/* Gives up the connection, not the struct. */
static void conn_drop(struct pg_conn *c, struct pg_req_list *left)
{
    conn_poll_drop(c);
    uv_timer_stop(&c->timer);
    if (c->db)
        PQfinish(c->db);
    c->db = NULL;
    PQclear(c->res);
    PQclear(c->held_res);
    pg_list_prepend(left, &c->flight);
    pg_list_prepend(left, &c->aborted);
    if (c->held)
        pg_list_push_front(left, c->held);
    c->res = c->held_res = NULL;
    c->held = NULL;
    c->seen = c->dirty = false;
    c->outcome = PG_OUTCOME_OK;
    c->group_sending = c->group_reading = 0;
    c->group_n = 0;
    memset(c->prepared, 0, c->pool->pg->stmts_count * sizeof *c->prepared);
}

void pg_conn_init(struct pg_conn *c, struct pg_pool *pool, int index)
{
    c->pool = pool;
    c->index = index;
    c->state = PG_CONN_WAIT;
    c->prepared = xcalloc(pool->pg->stmts_count + 1, sizeof *c->prepared);
    pg_list_init(&c->flight);
    pg_list_init(&c->aborted);
    uv_timer_init(pool->pg->loop, &c->timer);
    c->timer.data = c;
    pool->pg->handles++;
}

void pg_conn_start(struct pg_conn *c)
{
    conn_timer(c, 0);
}

static void timer_closed(uv_handle_t *h)
{
    struct pg_conn *c = h->data;
    struct pg *pg = c->pool->pg;
    free(c->prepared);
    pg_handle_closed(pg);
}

void pg_conn_close(struct pg_conn *c, struct pg_req_list *left)
{
    conn_set_state(c, PG_CONN_CLOSED);
    conn_drop(c, left);
    uv_close((uv_handle_t *)&c->timer, timer_closed);
}
