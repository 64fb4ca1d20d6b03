/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_PG_H
#define CHAPPE_PG_H
/*
 * PostgreSQL: a small pool of libpq connections in pipeline mode on the hub's loop. Every SQL statement of
 * the program is a row of tbl/sql.def, prepared once per connection on first use.
 *
 * Reads are retried on another connection when theirs is lost, without limit of tries while the pool is
 * reconnecting (jittered backoff): callers see DB_DOWN only at shutdown or when the queue is full. Writes
 * (SQLW) are retried too: they are all idempotent. A statement that the server refuses ends with -ERR_DB and
 * is logged with its name; so does one that was at work each of the five times its connection died (it is
 * probably the cause). Deadlocks and plans that a schema change made stale are retried inside.
 *
 * Each statement stands for itself: autocommit, READ COMMITTED, no order between statements, not even between
 * those issued one after the other (wait for the first when the second must see its effect). All statements
 * of one loop turn go out together before the loop sleeps, so issue what belongs together in one turn. A
 * write is reported when it is committed.
 */
#include "chappe/mem.h"
#include "chappe/config.h"
#include "chappe/release.h"

enum pg_stmt {
#define SQL(name, store, why, text)  SQL_##name,
#define SQLW(name, store, why, text) SQL_##name,
#include "chappe/tbl/sql.def"
#undef SQL
#undef SQLW
    SQL_COUNT
};
const char *pg_stmt_name(enum pg_stmt s);
/* As it fits this database, once pg_schema_check has looked at it. */
const char *pg_stmt_text(enum pg_stmt s);

/* Arguments in text form; arrays as array literals (an absent element is NULL). Built, then consumed by
 * pg_exec. Text with a NUL byte, which PostgreSQL cannot hold, makes pg_exec end with -ERR_PARSE. */
struct pg_args;
struct pg_args *pg_args_new(void);
void pg_args_text(struct pg_args *a, struct str s); /* absent = NULL */
void pg_args_i64(struct pg_args *a, int64_t v);
void pg_args_text_array(struct pg_args *a, const struct str *v, size_t n);
void pg_args_i64_array(struct pg_args *a, const int64_t *v, size_t n);

struct pg_result;
int pg_rows(const struct pg_result *r);
/* Absent when NULL; NUL-terminated; bytea decoded; borrowed for the callback. */
struct str pg_str(const struct pg_result *r, int row, int col);
int64_t pg_i64(const struct pg_result *r, int row, int col); /* 0 when NULL; booleans: t = 1, f = 0 */
bool pg_null(const struct pg_result *r, int row, int col);

struct uv_loop_s;
struct pg;
/* err 0 with a result (NULL for none), or -ERR_x with r == NULL. Called once, never before pg_exec returns.
 * May call pg_exec, and pg_stop. */
typedef void pg_done_fn(void *arg, int err, const struct pg_result *r);
/* Connects lazily and keeps trying; pg_ready tells. */
int pg_start(struct pg **out, struct uv_loop_s *loop, const struct config *cfg, struct err *e) NODISCARD;
/* args may be NULL. Past pg_queue_max waiting statements: -ERR_LIMIT. */
void pg_exec(struct pg *pg, enum pg_stmt stmt, struct pg_args *args, pg_done_fn *done, void *arg);
bool pg_up(const struct pg *pg); /* at least one usable connection to each data store */
/* Any number of listeners. fn is called on the hub whenever pg_up changes. */
void pg_on_change(struct pg *pg, void (*fn)(void *arg, bool up), void *arg);
/* Pending statements end with -ERR_SHUTDOWN before it returns (do not try again on that: it would not end).
 * What the loop still holds is freed in its next turns; cfg must live until then. */
void pg_stop(struct pg **pg);

/* Synchronous use at start-up, before the loop runs (schema check, --check-config). store: "main" or "state".
 * A result lives until the next pg_sync_exec or pg_sync_close; args are consumed. */
struct pg_sync;
int pg_sync_open(struct pg_sync **out, const struct config *cfg, struct str store, struct err *e) NODISCARD;
int pg_sync_exec(struct pg_sync *c, const char *sql, struct pg_args *args, const struct pg_result **out,
                 struct err *e) NODISCARD;
void pg_sync_close(struct pg_sync **c);
/* A lock that one session of the main database holds (an advisory lock; sessions must not be shared by a
 * pooler). fn is called on the hub when the answer changes: HELD, OTHERS (somebody else has it), UNKNOWN (the
 * session was lost, and with it the lock). It is asked for until stop, which waits for the statement under
 * way and after which fn is not called. cfg must live until then. */
enum pg_lock_state { PG_LOCK_UNKNOWN, PG_LOCK_HELD, PG_LOCK_OTHERS };
typedef void pg_lock_fn(void *arg, enum pg_lock_state state);
struct pg_lock;
struct pg_lock *pg_lock_start(struct uv_loop_s *loop, const struct config *cfg, int64_t key, pg_lock_fn *fn,
                              void *arg);
void pg_lock_stop(struct pg_lock **lock);

/* Synapse's schema: its numbers, and the oldest release that makes such tables. Refuses what is not known
 * (synapse-replication 8.3), and a database that any statement of tbl/sql.def does not fit. */
struct pg_schema {
    int version, compat;
    struct release least;
};
int pg_schema_check(const struct config *cfg, struct pg_schema *out, struct err *e) NODISCARD;
#endif
