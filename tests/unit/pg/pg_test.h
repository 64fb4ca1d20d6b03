/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_PG_TEST_H
#define CHAPPE_PG_TEST_H
/* Shared by the tests of src/pg: one private cluster for the whole binary, a table of statements, a fixture.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pg_int.h"
#include "support/pg_cluster.h"

/* name, write, text */
#define T_MAP(X)                                                                                         \
    X(echo, false, "SELECT $1::text")                                                                    \
    X(echo_i64, false, "SELECT $1::bigint")                                                              \
    X(divide, false, "SELECT 1 / $1::int")                                                               \
    X(no_table, false, "SELECT * FROM there_is_no_such_table")                                           \
    X(syntax, false, "SELEKT 1")                                                                         \
    X(texts, false, "SELECT t FROM unnest($1::text[]) WITH ORDINALITY AS u(t, i) ORDER BY i")            \
    X(numbers, false, "SELECT n FROM unnest($1::bigint[]) WITH ORDINALITY AS u(n, i) ORDER BY i")        \
    X(kinds, false, "SELECT NULL::text, true, false, ''::text, '-9223372036854775808'::bigint")          \
    X(bytes, false, "SELECT convert_to($1::text, 'UTF8'), decode('0001ff5c27', 'hex'), NULL::bytea")     \
    X(settings, false,                                                                                   \
      "SELECT name, setting FROM pg_settings WHERE name IN ('statement_timeout', 'jit', 'bytea_output'," \
      " 'default_transaction_isolation', 'default_transaction_read_only', 'synchronous_commit',"         \
      " 'application_name', 'client_encoding', 'idle_session_timeout') ORDER BY name")                   \
    X(nap, false, "SELECT $1::text FROM pg_sleep($2::double precision)")                                 \
    X(suicide, false, "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(1)")                      \
    X(star, false, "SELECT * FROM widening")                                                             \
    X(count, false, "SELECT count(*) FROM things WHERE kind = $1")                                       \
    X(insert, true, "INSERT INTO things (kind, n) VALUES ($1, $2::bigint)")                              \
    X(insert_returning, true, "INSERT INTO things (kind, n) VALUES ($1, $2::bigint) RETURNING n + 1")    \
    X(insert_deferred, true, "INSERT INTO deferred_unique (n) VALUES ($1::bigint)")                      \
    X(on_state, false, "SELECT current_database()")
enum {
#define X(name, write, text) T_##name,
    T_MAP(X)
#undef X
        T_COUNT
};
extern const struct pg_stmt_def t_stmts[];
extern struct pg_cluster cluster;

struct fix {
    uv_loop_t loop;
    struct config cfg;
    struct pg *pg;
    int pending;
    int64_t deadline_ms;
};
/* What one statement came to. */
struct answer {
    struct fix *f;
    int calls, err, rows;
    char text[64]; /* first cell */
    bool null;
    int order;
};
/* A configuration for the cluster; connections is the size of the pool. */
void fix_config(struct config *cfg, const char *dbname, int connections);
struct fix *fix_new(int connections); /* pool started */
struct fix *fix_new_with(const struct config *cfg);
void fix_free(struct fix **f); /* pool stopped, loop closed: nothing may be left in it */
void fix_exec(struct fix *f, int stmt, struct pg_args *args, struct answer *a);
/* Runs the loop until every statement has answered; fails the test after that many seconds. */
void fix_drain(struct fix *f, int seconds);
void fix_turns(struct fix *f, int ms);             /* runs the loop for a while */
void sql_now(const char *dbname, const char *sql); /* blocking, must succeed */
struct pg_args *args_1(const char *a);
struct pg_args *args_2(const char *a, const char *b);

int run_args(void);
int run_pool(void);
int run_faults(void);
int run_schema(void);
#endif
