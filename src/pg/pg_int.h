/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_PG_INT_H
#define CHAPPE_PG_INT_H
/*
 * Inside src/pg. A request (struct pg_req) is always in exactly one place: the queue of its pool, the flight,
 * the aborted list or the held slot of one connection, or the list of those finished without the server
 * (done_later). pg->waiting counts them all.
 */
#include "chappe/pg.h"

#include <libpq-fe.h>
#include <uv.h>

#define PG_LOGGER "chappe.pg"

enum {
    PG_SCHEMA_VERSION_MAX =
        94, /* K of the schema contract: the highest schema version whose tables were audited */
    PG_SCHEMA_VERSION_MIN = 93,
    PG_SERVER_VERSION_MIN = 140000,
    PG_CONNECT_TIMEOUT_MS = 10000, /* TCP connect, TLS, authentication and session setup together */
    PG_BACKOFF_MIN_MS = 200,
    PG_BACKOFF_MAX_MS = 5000,
    PG_FLIGHT_MAX =
        64, /* statements sent and unanswered per connection; more wait for whoever is free first */
    PG_GROUP_MAX = 32,  /* reads that share one sync point */
    PG_LOSSES_MAX = 5,  /* a statement at work each time its connection died this often is not sent again */
    PG_RETRIES_MAX = 3, /* deadlocks, serialisation failures, plans out of date */
    PG_SLOW_MS = 2000,
    PG_LOG_INTERVAL_MS = 5000, /* the same complaint at most this often */
    PG_STORES = 2
};

/* One row of tbl/sql.def; tests bring a table of their own. */
struct pg_stmt_def {
    const char *name, *store;
    bool write;
    const char *text;
};
extern const struct pg_stmt_def pg_stmts[];

/* ---- conditional statements (shape.c) ---- */
struct pg_needs {
    struct str *v;
    uint32_t n, cap;
};
void pg_needs_collect(const struct pg_stmt_def *s, struct pg_needs *out); /* slices of the text */
char *pg_text_finish(const char *text, const struct pg_needs *present);   /* owned by the caller */
/* Finished texts of one store's statements (NULL: of all) into out, which starts zeroed; they are on the
 * heap. */
void pg_stmts_decide(const struct pg_stmt_def *stmts, size_t count, const char *store,
                     const struct pg_needs *present, struct pg_stmt_def *out);
void pg_stmts_keep(struct pg_stmt_def *stmts); /* takes the texts of SQL_COUNT finished ones */
const struct pg_stmt_def *pg_stmts_decided(void);

/* ---- arguments ---- */
struct pg_args {
    struct buf bytes;     /* values, each with its NUL */
    VEC(size_t) at;       /* offset of each value; SIZE_MAX for NULL */
    bool unrepresentable; /* a NUL byte inside a text: PostgreSQL has no such text */
};
void pg_args_free(struct pg_args **a);
int pg_args_check(const struct pg_args *a); /* 0, -ERR_PARSE (a NUL byte), -ERR_LIMIT (too large) */
/* Pointers as libpq wants them, valid until the next call from the same thread or a change of a. */
const char *const *pg_args_values(const struct pg_args *a);

/* ---- results ---- */
struct pg_result {
    PGresult *res;
    int *bytea_len; /* rows × columns, only when a column is bytea: decoded in place, lengths here */
};
void pg_result_init(struct pg_result *r, PGresult *res); /* takes res */
void pg_result_fini(struct pg_result *r);
/* "name failed: SQLSTATE: primary message", without values. */
void pg_error_describe(const PGresult *res, struct err *e);
bool pg_error_is(const PGresult *res, const char *sqlstate);
/* The connection died, or is about to: not the statement's fault. */
bool pg_error_is_loss(const PGconn *db, const PGresult *res);

/* ---- sessions ---- */
PGconn *pg_session_connect(const struct config_db *db, bool async);
/* Version and encoding of the server behind an open connection: 0 or -ERR_SCHEMA with text. */
int pg_session_check(PGconn *db, struct err *e);
void pg_session_setup_sql(const struct config_db *db, struct buf *sql);
struct str pg_trim_message(const char *message);

int pg_sync_prepare(struct pg_sync *c, const char *name, const char *sql, struct err *e) NODISCARD;
int pg_schema_check_table(const struct config *cfg, const struct pg_stmt_def *stmts, size_t count,
                          struct pg_schema *out, struct err *e) NODISCARD;

/* ---- requests ---- */
struct pg_req {
    struct pg_req *next;
    pg_done_fn *done;
    void *arg;
    struct pg_args *args;
    int stmt;
    int err; /* in done_later */
    int64_t sent_us;
    uint32_t group; /* sync point it travels with */
    uint8_t losses, retries;
    bool solo;                      /* a sync point of its own */
    bool prepared_here, prepare_ok; /* a PREPARE went out just before it; it succeeded */
    uint8_t commands_left;          /* answers still to come: 2 with the PREPARE's, else 1 */
};
struct pg_req_list {
    struct pg_req *head, **tail;
    size_t n;
};
void pg_list_init(struct pg_req_list *l);
void pg_list_push(struct pg_req_list *l, struct pg_req *r);
void pg_list_push_front(struct pg_req_list *l, struct pg_req *r);
struct pg_req *pg_list_pop(struct pg_req_list *l);
/* Puts all of from, in order, before to; from is empty then. */
void pg_list_prepend(struct pg_req_list *to, struct pg_req_list *from);

/* ---- connections ---- */
/* name, meaning */
#define PG_CONN_STATE_MAP(X)                           \
    X(WAIT, "no connection; the timer will start one") \
    X(CONNECT, "PQconnectPoll is at work")             \
    X(SETUP, "session settings sent")                  \
    X(CHECK, "asked for the schema's compat version")  \
    X(READY, "in pipeline mode, takes statements")     \
    X(CLOSED, "stopped for good")
enum pg_conn_state {
#define X(name, text) PG_CONN_##name,
    PG_CONN_STATE_MAP(X)
#undef X
        PG_CONN_STATE_COUNT
};
enum pg_outcome { PG_OUTCOME_OK, PG_OUTCOME_FAILED, PG_OUTCOME_ABORTED };

struct pg_conn {
    struct pg_pool *pool;
    int index;
    enum pg_conn_state state;
    PGconn *db;
    uv_poll_t
        *poll; /* on the heap: closing a handle takes a loop turn, and the socket changes while connecting */
    int poll_fd, poll_events;
    uv_timer_t timer; /* WAIT: backoff; CONNECT to CHECK: the connect timeout */
    int backoff_ms;
    bool was_ready;
    bool *prepared; /* by statement */

    struct pg_req_list flight;  /* sent, first the one that the server works on */
    struct pg_req_list aborted; /* victims of an error of their group: sent again after its sync */
    struct pg_req *held;        /* a write that succeeded, until its sync says that it is committed */
    /* The command being answered */
    bool seen;
    enum pg_outcome outcome;
    PGresult *res, *held_res; /* of the head of flight (its rows or its error); of held */

    uint32_t group_sending, group_reading;
    int group_n; /* statements in group_sending */
    bool dirty;  /* something to close and flush at the end of the turn */
};
void pg_conn_init(struct pg_conn *c, struct pg_pool *pool, int index);
void pg_conn_start(struct pg_conn *c);
void pg_conn_send(struct pg_conn *c, struct pg_req *r); /* takes r */
void pg_conn_flush(struct pg_conn *c);
void pg_conn_close(struct pg_conn *c, struct pg_req_list *left); /* for good; what it had goes to left */

/* ---- pools ---- */
struct pg_pool {
    struct pg *pg;
    const char *store;
    const struct config_db *db;
    struct pg_conn *conns;
    int conns_count, ready, next; /* next: where the search for the least loaded begins */
    struct pg_req_list queue;
    int64_t complained_ms; /* last connection failure logged */
};
struct pg_stmt_log {
    int64_t logged_ms;
    int64_t suppressed;
};
struct pg_listener {
    void (*fn)(void *arg, bool up);
    void *arg;
};
struct pg {
    uv_loop_t *loop;
    const struct config *cfg;
    const struct pg_stmt_def *stmts;
    size_t stmts_count;
    struct pg_stmt_log *stmt_logs;
    struct pg_pool pools[PG_STORES];
    int pools_count;
    uv_prepare_t prepare; /* runs before the loop sleeps: everything issued in a turn goes out here */
    uv_idle_t idle;       /* active while the prepare has work: keeps the loop from sleeping */
    int handles;          /* open libuv handles inside this struct */
    int connect_timeout_ms;
    size_t waiting;
    struct pg_req_list done_later; /* finished without the server; told from the prepare */
    bool up, stopping;
    VEC(struct pg_listener) listeners;
};
int pg_start_table(struct pg **out, struct uv_loop_s *loop, const struct config *cfg,
                   const struct pg_stmt_def *stmts, size_t count, struct err *e) NODISCARD;
void pg_wake(struct pg *pg);          /* run the prepare soon */
void pg_handle_closed(struct pg *pg); /* the last one frees pg */
/* Ends r: takes res (may be NULL) and r. */
void pg_req_finish(struct pg *pg, struct pg_req *r, int err, PGresult *res);
/* The same later, from the prepare. */
void pg_req_finish_later(struct pg *pg, struct pg_req *r, int err);
void pg_pool_ready_changed(struct pg_pool *pool, int by);
#endif
