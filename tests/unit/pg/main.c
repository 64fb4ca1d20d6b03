/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* The fixture, and the order of the groups: what needs no server first, then everything on one private
 * cluster. */
#include "pg_test.h"

#include "chappe/clock.h"

#include <stdio.h>
#include <stdlib.h>

enum { PORT = 15200 };

const struct pg_stmt_def t_stmts[] = {
#define X(name, write, text) {"t_" #name, T_##name == T_on_state ? "state" : "main", write, text},
    T_MAP(X)
#undef X
};
struct pg_cluster cluster;

void fix_config(struct config *cfg, const char *dbname, int connections)
{
    static char conninfo[16][512]; /* one for each database, for the whole run */
    char text[512];
    int i = 0;
    memset(cfg, 0, sizeof *cfg);
    snprintf(text, sizeof text, "host=%s port=%d user=chappe password='never shown' dbname=%s", cluster.dir,
             cluster.port, dbname);
    while (conninfo[i][0] && strcmp(conninfo[i], text) != 0)
        assert_true(++i < 16);
    memcpy(conninfo[i], text, sizeof text);
    cfg->db_main.conninfo = str_of(conninfo[i]);
    cfg->db_main.masked = STR("masked");
    cfg->db_main.statement_timeout_ms = 60000;
    cfg->db_main.synchronous_commit = true;
    cfg->pg_connections = connections;
    cfg->pg_queue_max = 100000;
}

struct fix *fix_new_with(const struct config *cfg)
{
    struct fix *f = xcalloc(1, sizeof *f);
    struct err e;
    f->cfg = *cfg;
    assert_int_equal(uv_loop_init(&f->loop), 0);
    assert_int_equal(pg_start_table(&f->pg, &f->loop, &f->cfg, t_stmts, T_COUNT, &e), 0);
    return f;
}

struct fix *fix_new(int connections)
{
    struct config cfg;
    fix_config(&cfg, "postgres", connections);
    return fix_new_with(&cfg);
}

void fix_free(struct fix **f)
{
    pg_stop(&(*f)->pg);
    assert_null((*f)->pg);
    assert_int_equal((*f)->pending, 0);
    uv_run(&(*f)->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&(*f)->loop), 0);
    free(*f);
    *f = NULL;
}

static void answered(void *arg, int err, const struct pg_result *r)
{
    static int order;
    struct answer *a = arg;
    a->calls++;
    a->err = err;
    a->rows = pg_rows(r);
    a->order = order++;
    if (a->rows > 0) {
        a->null = pg_null(r, 0, 0);
        struct str s = pg_str(r, 0, 0);
        snprintf(a->text, sizeof a->text, "%.*s", STR_ARG(s));
    }
    assert_int_equal(a->calls, 1);
    a->f->pending--;
}

void fix_exec(struct fix *f, int stmt, struct pg_args *args, struct answer *a)
{
    memset(a, 0, sizeof *a);
    a->f = f;
    f->pending++;
    pg_exec(f->pg, (enum pg_stmt)stmt, args, answered, a);
    assert_int_equal(a->calls, 0);
}

static void tick(uv_timer_t *t)
{
    (void)t;
}

static void run_until(struct fix *f, int64_t deadline_ms, bool until_idle)
{
    uv_timer_t t;
    uv_timer_init(&f->loop, &t);
    uv_timer_start(&t, tick, 10, 10);
    while (clock_mono_ms() < deadline_ms && (!until_idle || f->pending > 0))
        uv_run(&f->loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&t, NULL);
    uv_run(&f->loop, UV_RUN_NOWAIT);
}

void fix_drain(struct fix *f, int seconds)
{
    run_until(f, clock_mono_ms() + seconds * 1000, true);
    assert_int_equal(f->pending, 0);
}

void fix_turns(struct fix *f, int ms)
{
    run_until(f, clock_mono_ms() + ms, false);
}

void sql_now(const char *dbname, const char *sql)
{
    struct config cfg;
    struct pg_sync *c;
    struct err e;
    const struct pg_result *r;
    fix_config(&cfg, dbname, 1);
    if (pg_sync_open(&c, &cfg, STR("main"), &e) < 0)
        fail_msg("%s", e.text);
    if (pg_sync_exec(c, sql, NULL, &r, &e) < 0)
        fail_msg("%s: %s", sql, e.text);
    pg_sync_close(&c);
}

struct pg_args *args_1(const char *a)
{
    struct pg_args *args = pg_args_new();
    pg_args_text(args, str_of(a));
    return args;
}

struct pg_args *args_2(const char *a, const char *b)
{
    struct pg_args *args = args_1(a);
    pg_args_text(args, str_of(b));
    return args;
}

int main(void)
{
    int failed = run_args();
    if (!pg_cluster_available()) {
        fprintf(stderr, "no PostgreSQL server programs on this machine: the rest is skipped\n");
        return failed ? 1 : 77;
    }
    if (pg_cluster_init(&cluster, PORT) < 0 || pg_cluster_spawn(&cluster) < 0 ||
        pg_cluster_wait(&cluster) < 0) {
        fprintf(stderr, "the private cluster does not start: %s/log, port %d\n", cluster.dir, PORT);
        return 1;
    }
    failed += run_pool();
    failed += run_schema();
    failed += run_faults();
    pg_cluster_remove(&cluster);
    return failed ? 1 : 0;
}
