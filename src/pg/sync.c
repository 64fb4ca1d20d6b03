/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Blocking use of PostgreSQL, for start-up only: one connection, the same session settings as the pool's.
 */
#include "pg_int.h"

#include <stdlib.h>

struct pg_sync {
    PGconn *db;
    struct pg_result result; /* of the last pg_sync_exec */
};

static int sync_setup(PGconn *db, const struct config_db *cfg, struct err *e)
{
    int err = pg_session_check(db, e);
    if (err < 0)
        return err;
    struct buf sql;
    buf_init(&sql, 4096);
    pg_session_setup_sql(cfg, &sql);
    ASSERT(!sql.failed);
    PGresult *res = PQexec(db, sql.p);
    buf_fini(&sql);
    if (PQresultStatus(res) != PGRES_COMMAND_OK) {
        struct err why;
        pg_error_describe(res, &why);
        err = err_set(e, ERR_DB, "session setup failed: %s", why.text);
    }
    PQclear(res);
    return err;
}

int pg_sync_open(struct pg_sync **out, const struct config *cfg, struct str store, struct err *e)
{
    bool state = str_eq(store, STR("state")) && cfg->db_state_separate;
    const struct config_db *db = state ? &cfg->db_state : &cfg->db_main;
    struct pg_sync *c = xcalloc(1, sizeof *c);
    struct err why;
    int err = 0;
    c->db = pg_session_connect(db, false);
    if (PQstatus(c->db) != CONNECTION_OK)
        err = err_set(e, ERR_DB_DOWN, "cannot connect to the %s database (%.*s): %.*s",
                      state ? "state" : "main", STR_ARG(db->masked),
                      STR_ARG(pg_trim_message(PQerrorMessage(c->db))));
    else if ((err = sync_setup(c->db, db, &why)) < 0)
        err_set(e, -err, "%s database (%.*s): %s", state ? "state" : "main", STR_ARG(db->masked), why.text);
    if (err < 0)
        pg_sync_close(&c);
    *out = c;
    return err;
}

int pg_sync_exec(struct pg_sync *c, const char *sql, struct pg_args *args, const struct pg_result **out,
                 struct err *e)
{
    *out = NULL;
    if (c->result.res)
        pg_result_fini(&c->result);
    int err = pg_args_check(args);
    if (err < 0) {
        pg_args_free(&args);
        return err_set(e, -err, "%s", err_text(err));
    }
    PGresult *res =
        PQexecParams(c->db, sql, args ? (int)args->at.n : 0, NULL, pg_args_values(args), NULL, NULL, 0);
    pg_args_free(&args);
    ExecStatusType st = PQresultStatus(res);
    if (st != PGRES_TUPLES_OK && st != PGRES_COMMAND_OK) {
        bool down = PQstatus(c->db) != CONNECTION_OK;
        pg_error_describe(res, e ? e : &(struct err){{0}});
        PQclear(res);
        return down ? -ERR_DB_DOWN : -ERR_DB;
    }
    pg_result_init(&c->result, res);
    *out = &c->result;
    return 0;
}

int pg_sync_prepare(struct pg_sync *c, const char *name, const char *sql, struct err *e)
{
    PGresult *res = PQprepare(c->db, name, sql, 0, NULL);
    int err = 0;
    if (PQresultStatus(res) != PGRES_COMMAND_OK) {
        pg_error_describe(res, e);
        err = -ERR_DB;
    }
    PQclear(res);
    return err;
}

void pg_sync_close(struct pg_sync **c)
{
    if (!*c)
        return;
    if ((*c)->result.res)
        pg_result_fini(&(*c)->result);
    PQfinish((*c)->db);
    free(*c);
    *c = NULL;
}
