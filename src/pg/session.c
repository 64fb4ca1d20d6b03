/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What a session with PostgreSQL looks like, for the pool and for start-up checks alike.
 *
 * Connection parameters: ours that the operator may override stand before his conninfo, those that he may not
 * stand after it (libpq: later wins). A peer that vanished without a word is noticed through keepalives and
 * tcp_user_timeout within about a minute, not after the kernel's quarter of an hour.
 *
 * Every statement of ours is an index lookup over a few keys; where statistics are missing or stale the
 * planner may think otherwise and scan a table of a hundred million rows, hence enable_seqscan off (a scan
 * where no index fits stays possible). Settings go out as SET statements, as Synapse does it, because poolers
 * in between refuse startup options. A role's or database's own defaults must not change what our statements
 * mean: isolation, read-only mode and idle timeouts are therefore said explicitly. JIT compilation costs more
 * than any of our statements takes.
 */
#include "pg_int.h"

PGconn *pg_session_connect(const struct config_db *db, bool async)
{
    char *conninfo = xstrndup(db->conninfo);
    const char *const keys[] = {"connect_timeout",  "keepalives_idle",  "keepalives_interval",
                                "keepalives_count", "tcp_user_timeout", "fallback_application_name",
                                "dbname",           "client_encoding",  NULL};
    const char *const values[] = {"10", "30", "10", "3", "30000", "chappe", conninfo, "UTF8", NULL};
    PGconn *conn = async ? PQconnectStartParams(keys, values, 1) : PQconnectdbParams(keys, values, 1);
    secret_free(&conninfo);
    return conn;
}

int pg_session_check(PGconn *db, struct err *e)
{
    int version = PQserverVersion(db);
    if (version < PG_SERVER_VERSION_MIN)
        return err_set(e, ERR_SCHEMA, "PostgreSQL %d.%d is too old: 14 or newer is needed", version / 10000,
                       version % 10000);
    const char *encoding = PQparameterStatus(db, "server_encoding");
    if (!encoding || strcmp(encoding, "UTF8") != 0)
        return err_set(e, ERR_SCHEMA,
                       "the database's encoding is %s, not UTF8: Synapse's database has UTF8, is this it?",
                       encoding ? encoding : "unknown");
    /* A standby lags behind the feed: an event announced there may not be in its tables yet. */
    const char *standby = PQparameterStatus(db, "in_hot_standby");
    if (standby && strcmp(standby, "on") == 0)
        return err_set(e, ERR_CONFIG, "the server is a hot standby: the primary is needed");
    return 0;
}

void pg_session_setup_sql(const struct config_db *db, struct buf *sql)
{
    buf_put(sql, STR("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;"
                     "SET bytea_output TO escape;"
                     "SET jit TO off;"
                     "SET enable_seqscan TO off;"
                     "SET idle_session_timeout TO 0;"
                     "SET plan_cache_mode TO auto;"));
    buf_printf(sql, "SET statement_timeout TO %d;",
               db->statement_timeout_ms > 0 ? db->statement_timeout_ms : 0);
    if (!db->synchronous_commit)
        buf_put(sql, STR("SET synchronous_commit TO off;"));
    buf_putc(sql, '\0');
}
