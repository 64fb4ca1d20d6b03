/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* pg_sync_* and the schema check, against a database that only looks like Synapse's. */
#include "pg_test.h"

#include <stdio.h>
#include <stdlib.h>

static struct config cfg;

static const struct pg_stmt_def stmts[] = {
    {"t_event", "main", false, "SELECT x FROM events WHERE x = $1::int"},
    {"t_group", "state", false, "SELECT x FROM state_groups WHERE x = $1::int"},
};

static int setup(void **state)
{
    (void)state;
    sql_now("postgres", "CREATE DATABASE synapse_like");
    fix_config(&cfg, "synapse_like", 1);
    return 0;
}

static void says(const char *part)
{
    struct pg_schema s;
    struct err e = {{0}};
    assert_int_equal(pg_schema_check_table(&cfg, stmts, 2, &s, &e), -ERR_SCHEMA);
    if (!strstr(e.text, part))
        fail_msg("\"%s\" does not say \"%s\"", e.text, part);
    if (strstr(e.text, "never shown"))
        fail_msg("the password is in \"%s\"", e.text);
}

/* least: the minor number of the oldest Synapse that has made such tables. */
static void accepts(int version, int compat, int least)
{
    struct pg_schema s;
    struct err e = {{0}};
    if (pg_schema_check_table(&cfg, stmts, 2, &s, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(s.version, version);
    assert_int_equal(s.compat, compat);
    assert_int_equal(s.least.minor, least);
}

static void schema_is_judged(void **state)
{
    (void)state;
    const char *db = "synapse_like";
    says("is this Synapse's database");
    sql_now(db, "CREATE TABLE schema_version (version int, upgraded bool)");
    says("main process");
    sql_now(db, "INSERT INTO schema_version VALUES (94, true)");
    sql_now(db, "CREATE TABLE schema_compat_version (compat_version int)");
    sql_now(db, "INSERT INTO schema_compat_version VALUES (84)");
    says("Tables are missing: events, event_json,");
    static const char *const tables[] = {"events",
                                         "event_json",
                                         "state_events",
                                         "current_state_events",
                                         "local_current_membership",
                                         "room_memberships",
                                         "receipts_linearized",
                                         "account_data",
                                         "room_account_data",
                                         "room_tags",
                                         "room_tags_revisions",
                                         "push_rules",
                                         "push_rules_enable",
                                         "push_rules_stream",
                                         "device_inbox",
                                         "device_lists_stream",
                                         "device_lists_changes_in_room",
                                         "user_signature_stream",
                                         "e2e_one_time_keys_json",
                                         "e2e_fallback_keys_json",
                                         "presence_stream",
                                         "event_push_actions",
                                         "event_push_summary",
                                         "state_groups",
                                         "state_group_edges",
                                         "state_groups_state",
                                         "event_to_state_groups",
                                         "user_filters",
                                         "instance_map",
                                         "stream_positions",
                                         "access_tokens",
                                         "users",
                                         "devices",
                                         "timeline_gaps"};
    char sql[256];
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        if (i + 10 > sizeof tables / sizeof *tables) /* the message holds so many */
            says(tables[i]);
        snprintf(sql, sizeof sql, "CREATE TABLE %s (x int)", tables[i]);
        sql_now(db, sql);
    }
    sql_now(db, "ALTER TABLE events RENAME COLUMN x TO y");
    says("statement t_event does not fit the database: SQLSTATE 42703");
    sql_now(db, "ALTER TABLE events RENAME COLUMN y TO x");
    static const struct {
        const char *table;
        int least;
    } steps[] = {
        {NULL, 147}, {"sticky_events", 148}, {"quarantined_media_changes", 152}, {"profile_updates", 159}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (steps[i].table) {
            snprintf(sql, sizeof sql, "CREATE TABLE %s (x int)", steps[i].table);
            sql_now(db, sql);
        }
        accepts(94, 84, steps[i].least);
    }
    sql_now(db, "UPDATE schema_version SET version = 93");
    accepts(93, 84, 159);
    sql_now(db, "UPDATE schema_version SET version = 92");
    says("upgrade Synapse");
    sql_now(db, "UPDATE schema_version SET version = 99");
    accepts(99, 84, 159);
    sql_now(db, "UPDATE schema_compat_version SET compat_version = 94");
    accepts(99, 94, 159);
    sql_now(db, "UPDATE schema_compat_version SET compat_version = 95");
    says("upgrade Chappe");
    sql_now(db, "DELETE FROM schema_compat_version");
    says("main process");
    sql_now(db, "INSERT INTO schema_compat_version VALUES (84)");
}

static void each_store_has_its_own_tables(void **state)
{
    (void)state;
    struct config other;
    fix_config(&other, "state_like", 1);
    sql_now("postgres", "CREATE DATABASE state_like");
    cfg.db_state = other.db_main;
    cfg.db_state_separate = true;
    says("state database: Synapse's schema version");
    sql_now("state_like", "CREATE TABLE schema_version AS SELECT 94 AS version");
    sql_now("state_like", "CREATE TABLE schema_compat_version AS SELECT 84 AS compat_version");
    sql_now("state_like", "CREATE TABLE state_groups (x int)");
    says("Tables are missing: state_group_edges, state_groups_state");
    sql_now("state_like", "CREATE TABLE state_group_edges (x int)");
    sql_now("state_like", "CREATE TABLE state_groups_state (x int)");
    sql_now("synapse_like", "DROP TABLE state_groups, state_group_edges, state_groups_state");
    accepts(99, 84, 159);
    cfg.db_state_separate = false;
    says("state_group_edges");
}

/* Statements that stand for two: what a schema lacks is not named to the server. */
static void statements_follow_the_schema(void **state)
{
    static const struct pg_stmt_def both[] = {
        {"t_column", "main", false, "SELECT ?{events.later;later;'none'} AS v FROM events WHERE x = $1::int"},
        {"t_table", "main", false, "SELECT 1?{extras; UNION ALL SELECT count(*) FROM extras;} -- and so on"},
        {"t_only", "main", false, "?{extras;SELECT x FROM extras;}"},
    };
    struct pg_needs needs = {0}, one = {0};
    struct pg_schema s;
    struct err e = {{0}};

    (void)state;
    for (size_t i = 0; i < 3; i++)
        pg_needs_collect(&both[i], &needs);
    assert_int_equal(needs.n, 2); /* each once */
    vec_push(&one, STR("extras"));
    static const char *const texts[3][2] = {
        {"SELECT 'none' AS v FROM events WHERE x = $1::int",
         "SELECT later AS v FROM events WHERE x = $1::int"},
        {"SELECT 1 -- and so on", "SELECT 1 UNION ALL SELECT count(*) FROM extras -- and so on"},
        {"", "SELECT x FROM extras"}};
    for (size_t i = 0; i < 3; i++) {
        struct pg_needs none = {0};
        char *without = pg_text_finish(both[i].text, &none), *with = pg_text_finish(both[i].text, &needs);
        assert_string_equal(without, texts[i][0]);
        assert_string_equal(with, texts[i][1]);
        free(without);
        free(with);
    }
    assert_int_equal(pg_schema_check_table(&cfg, both, 3, &s, &e), 0);
    sql_now("synapse_like", "CREATE TABLE extras (y int)"); /* there, and then the statement is judged too */
    assert_int_equal(pg_schema_check_table(&cfg, both, 3, &s, &e), -ERR_SCHEMA);
    assert_non_null(strstr(e.text, "statement t_only does not fit"));
    sql_now("synapse_like", "ALTER TABLE extras RENAME COLUMN y TO x");
    assert_int_equal(pg_schema_check_table(&cfg, both, 3, &s, &e), 0);
    sql_now("synapse_like", "ALTER TABLE events ADD COLUMN later int");
    assert_int_equal(pg_schema_check_table(&cfg, both, 3, &s, &e), 0);
    sql_now("synapse_like", "ALTER TABLE events DROP COLUMN later");
    assert_int_equal(pg_schema_check_table(&cfg, both, 3, &s, &e), 0);
    vec_free(&needs);
    vec_free(&one);
}

/* All of ours can be taken apart, for the oldest schema as for the newest. */
static void own_statements_are_well_formed(void **state)
{
    struct pg_needs none = {0};

    (void)state;
    for (int i = 0; i < SQL_COUNT; i++) {
        char *text = pg_text_finish(pg_stmts[i].text, &none);
        assert_null(strstr(text, "?{"));
        assert_null(strchr(text, ';'));
        assert_null(strstr(pg_stmt_text((enum pg_stmt)i), "?{"));
        assert_null(strchr(pg_stmt_text((enum pg_stmt)i), ';'));
        assert_true(pg_stmt_text((enum pg_stmt)i)[0]);
        free(text);
    }
    /* Device lists from before what is left are found in another way, also where nothing says what was
     * pruned. */
    char *pruned = pg_text_finish(pg_stmts[SQL_device_lists_pruned].text, &none);
    assert_non_null(strstr(pruned, "min(stream_id), 0) FROM device_lists_changes_in_room"));
    free(pruned);
}

static void unreadable_tables_are_named(void **state)
{
    (void)state;
    sql_now("synapse_like", "CREATE TABLE IF NOT EXISTS state_groups AS SELECT 1 AS x");
    sql_now("synapse_like", "CREATE TABLE state_group_edges AS SELECT 1 AS x");
    sql_now("synapse_like", "CREATE TABLE state_groups_state AS SELECT 1 AS x");
    sql_now("synapse_like", "CREATE ROLE visitor LOGIN");
    sql_now("synapse_like", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO visitor");
    sql_now("synapse_like", "REVOKE SELECT ON access_tokens FROM visitor");
    char conninfo[512];
    snprintf(conninfo, sizeof conninfo, "host=%s port=%d user=visitor dbname=synapse_like", cluster.dir,
             cluster.port);
    cfg.db_main.conninfo = str_of(conninfo);
    says("may not read: access_tokens");
}

static void sync_connections(void **state)
{
    (void)state;
    struct config c;
    struct pg_sync *s;
    const struct pg_result *r;
    struct err e;
    fix_config(&c, "postgres", 1);
    assert_int_equal(pg_sync_open(&s, &c, STR("state"), &e), 0); /* not separate: the main one */
    assert_int_equal(pg_sync_exec(s, "SELECT $1::text, $2::bigint + 1", args_2("x", "41"), &r, &e), 0);
    assert_string_equal(pg_str(r, 0, 0).p, "x");
    assert_int_equal(pg_i64(r, 0, 1), 42);
    assert_int_equal(pg_sync_exec(s, "SELECT 1 / 0", NULL, &r, &e), -ERR_DB);
    assert_null(r);
    assert_non_null(strstr(e.text, "22012"));
    assert_int_equal(pg_sync_exec(s, "SELEKT", NULL, &r, &e), -ERR_DB);
    assert_non_null(strstr(e.text, "42601"));
    assert_int_equal(pg_sync_exec(s, "SELECT 2", NULL, &r, NULL), 0);
    assert_int_equal(pg_i64(r, 0, 0), 2);
    pg_sync_close(&s);
    pg_sync_close(&s);
    c.db_main.conninfo = STR("host=127.0.0.1 port=1 user=chappe password=hush dbname=x");
    assert_int_equal(pg_sync_open(&s, &c, STR("main"), &e), -ERR_DB_DOWN);
    assert_null(s);
    assert_non_null(strstr(e.text, "cannot connect"));
    assert_null(strstr(e.text, "hush"));
}

int run_schema(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schema_is_judged),
        cmocka_unit_test(statements_follow_the_schema),
        cmocka_unit_test(each_store_has_its_own_tables),
        cmocka_unit_test(own_statements_are_well_formed),
        cmocka_unit_test(unreadable_tables_are_named),
        cmocka_unit_test(sync_connections),
    };
    return cmocka_run_group_tests_name("schema", tests, setup, NULL);
}
