/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Is this Synapse's database, and one whose tables we know?
 *
 * Synapse keeps two numbers: the version that its tables have, and compat_version, the oldest code that may
 * still use them. Against the range that was audited (PG_SCHEMA_VERSION_MIN … _MAX): compat_version > MAX
 * refuse: Synapse says that code of our age would misread its tables version < MIN           refuse: tables
 * or columns that our statements need are not there version > MAX           run, with a warning: Synapse
 * promises that older code still works Beyond the numbers every table that we use must exist and be readable.
 * Each data store has tables and numbers of its own.
 *
 * Tables and columns that came within that range are asked for, and statements finished accordingly
 * (shape.c). Which Synapse runs on the database the tables cannot say, only which is the oldest that made
 * them all: the schema stays when Synapse goes back, and some releases changed what they answer and no table.
 */
#include "pg_int.h"

#include "chappe/log.h"

#include <stdlib.h>

static const char *const main_tables[] = {"events",
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
                                          "event_to_state_groups",
                                          "user_filters",
                                          "instance_map",
                                          "stream_positions",
                                          "access_tokens",
                                          "users",
                                          "devices",
                                          "timeline_gaps"};
static const char *const state_tables[] = {"state_groups", "state_group_edges", "state_groups_state"};

static int read_number(struct pg_sync *c, const char *sql, int *out, struct err *e)
{
    const struct pg_result *r;
    struct err why;
    if (pg_sync_exec(c, sql, NULL, &r, &why) < 0)
        return err_set(
            e, ERR_SCHEMA,
            "Synapse's schema version cannot be read (%s): is this Synapse's database, and was its main "
            "process started once?",
            why.text);
    if (pg_rows(r) != 1)
        return err_set(e, ERR_SCHEMA,
                       "Synapse's schema version is missing: start Synapse's main process once");
    *out = (int)pg_i64(r, 0, 0);
    return 0;
}

static int check_versions(struct pg_sync *c, int *version, int *compat, struct err *e)
{
    int err = read_number(c, "SELECT version FROM schema_version", version, e);
    if (err == 0)
        err = read_number(c, "SELECT compat_version FROM schema_compat_version", compat, e);
    if (err < 0)
        return err;
    if (*compat > PG_SCHEMA_VERSION_MAX)
        return err_set(e, ERR_SCHEMA,
                       "the database's schema has compat_version %d; this release knows schemas up to %d: "
                       "upgrade Chappe",
                       *compat, PG_SCHEMA_VERSION_MAX);
    if (*version < PG_SCHEMA_VERSION_MIN)
        return err_set(e, ERR_SCHEMA,
                       "the database's schema has version %d; at least %d is needed: upgrade Synapse",
                       *version, PG_SCHEMA_VERSION_MIN);
    if (*version > PG_SCHEMA_VERSION_MAX)
        log_warning(PG_LOGGER,
                    "the database's schema has version %d, newer than the newest known, %d; its "
                    "compat_version %d says "
                    "that it may be used",
                    *version, PG_SCHEMA_VERSION_MAX, *compat);
    return 0;
}

enum { TABLES_MAX = 64 };
static void tables_add(struct str *list, size_t *n, const char *const *names, size_t count)
{
    ASSERT(*n + count <= TABLES_MAX);
    for (size_t i = 0; i < count; i++)
        list[(*n)++] = str_of(names[i]);
}

/* Tables may have changed their columns: the server itself is asked about every statement. */
static int check_statements(struct pg_sync *c, const struct pg_stmt_def *stmts, size_t count,
                            const char *store, struct err *e)
{
    for (size_t i = 0; i < count; i++) {
        struct err why;
        if (!stmts[i].text || !stmts[i].text[0] || (store && strcmp(stmts[i].store, store) != 0))
            continue;
        if (pg_sync_prepare(c, stmts[i].name, stmts[i].text, &why) < 0)
            return err_set(e, ERR_SCHEMA, "this release's statement %s does not fit the database: %s",
                           stmts[i].name, why.text);
    }
    return 0;
}

/* Runs sql, which gets the names as $1 and returns those with a defect, and joins them for a message. */
static int list_defects(struct pg_sync *c, const char *sql, const struct str *list, size_t n, struct buf *out,
                        struct err *e)
{
    struct pg_args *args = pg_args_new();
    pg_args_text_array(args, list, n);
    const struct pg_result *r;
    int err = pg_sync_exec(c, sql, args, &r, e);
    for (int i = 0; err == 0 && i < pg_rows(r); i++)
        buf_printf(out, "%s%.*s", i > 0 ? ", " : "", STR_ARG(pg_str(r, i, 0)));
    return err;
}

static int check_tables(struct pg_sync *c, bool main, bool state, struct err *e)
{
    struct str list[TABLES_MAX];
    size_t n = 0;
    if (main)
        tables_add(list, &n, main_tables, sizeof main_tables / sizeof *main_tables);
    if (state)
        tables_add(list, &n, state_tables, sizeof state_tables / sizeof *state_tables);
    struct buf names;
    buf_init(&names, 8192);
    int err = list_defects(c, "SELECT t FROM unnest($1::text[]) t WHERE to_regclass(t) IS NULL", list, n,
                           &names, e);
    if (err == 0 && names.n > 0) {
        err = err_set(
            e, ERR_SCHEMA,
            "is this Synapse's database (with several databases: does data_stores name the right one), and "
            "has Synapse's main process finished upgrading it? Tables are missing: %.*s",
            STR_ARG(buf_str(&names)));
    } else if (err == 0) {
        err = list_defects(c, "SELECT t FROM unnest($1::text[]) t WHERE NOT has_table_privilege(t, 'SELECT')",
                           list, n, &names, e);
        if (err == 0 && names.n > 0)
            err = err_set(e, ERR_SCHEMA, "use Synapse's own database user: this one may not read: %.*s",
                          STR_ARG(buf_str(&names)));
    }
    buf_fini(&names);
    return err;
}

/* Drops from needs ("table" or "table.column") what this database does not have. */
static int needs_look(struct pg_sync *c, struct pg_needs *needs, struct err *e)
{
    static const char sql[] = "SELECT i - 1 FROM unnest($1::text[]) WITH ORDINALITY AS w(need, i)"
                              " WHERE to_regclass(split_part(need, '.', 1)) IS NOT NULL AND (strpos(need, "
                              "'.') = 0 OR EXISTS (SELECT FROM"
                              " pg_attribute a WHERE a.attrelid = to_regclass(split_part(need, '.', 1))"
                              " AND a.attname = split_part(need, '.', 2) AND NOT a.attisdropped)) ORDER BY i";
    struct pg_args *args = pg_args_new();
    pg_args_text_array(args, needs->v, needs->n);
    const struct pg_result *r;
    int err = pg_sync_exec(c, sql, args, &r, e);
    if (err < 0)
        return err;
    size_t n = 0;
    for (int i = 0; i < pg_rows(r); i++)
        needs->v[n++] = needs->v[pg_i64(r, i, 0)];
    needs->n = n;
    return 0;
}

static bool sign_there(const void *arg, const char *table)
{
    const struct pg_needs *present = arg;
    for (size_t i = 0; i < present->n; i++)
        if (str_eq(present->v[i], str_of(table)))
            return true;
    return false;
}

/* The statements as they fit this database, and which Synapse it is at least. */
static int decide(struct pg_sync *c, const struct pg_stmt_def *stmts, size_t count, const char *store,
                  struct pg_stmt_def *decided, struct release *least, struct err *e)
{
    struct pg_needs needs = {0};
    const char *const *signs;
    for (size_t i = 0; i < count; i++)
        if (!store || strcmp(stmts[i].store, store) == 0)
            pg_needs_collect(&stmts[i], &needs);
    size_t signs_count = release_signs(&signs);
    for (size_t i = 0; i < signs_count; i++)
        vec_push(&needs, str_of(signs[i]));
    int err = needs_look(c, &needs, e);
    if (err == 0) {
        pg_stmts_decide(stmts, count, store, &needs, decided);
        *least = release_by_tables(sign_there, &needs);
    }
    vec_free(&needs);
    return err;
}

/* main, state: what the database behind this connection holds; both unless they are separate. */
static int check_store(const struct config *cfg, const struct pg_stmt_def *stmts, size_t count, bool main,
                       bool state, struct pg_stmt_def *decided, struct pg_schema *out, struct err *e)
{
    const char *store = main && state ? NULL : main ? "main" : "state";
    struct pg_sync *c;
    int err = pg_sync_open(&c, cfg, main ? STR("main") : STR("state"), e);
    if (err < 0)
        return err;
    struct err why;
    err = check_versions(c, &out->version, &out->compat, &why);
    if (err == 0)
        err = check_tables(c, main, state, &why);
    if (err == 0)
        err = decide(c, stmts, count, store, decided, &out->least, &why);
    if (err == 0)
        err = check_statements(c, decided, count, store, &why);
    if (err < 0)
        err_set(e, -err, "%s database: %s", main ? "main" : "state", why.text);
    pg_sync_close(&c);
    return err;
}

int pg_schema_check_table(const struct config *cfg, const struct pg_stmt_def *stmts, size_t count,
                          struct pg_schema *out, struct err *e)
{
    *out = (struct pg_schema){0};
    struct pg_schema other = {0};
    struct pg_stmt_def *decided = xcalloc(count, sizeof *decided);
    int err = check_store(cfg, stmts, count, true, !cfg->db_state_separate, decided, out, e);
    if (err == 0 && cfg->db_state_separate)
        err = check_store(cfg, stmts, count, false, true, decided, &other, e);
    if (err == 0 && stmts == pg_stmts) {
        pg_stmts_keep(decided);
        memset(decided, 0, count * sizeof *decided);
    }
    for (size_t i = 0; i < count; i++)
        free((void *)(uintptr_t)decided[i].text);
    free(decided);
    return err;
}

int pg_schema_check(const struct config *cfg, struct pg_schema *out, struct err *e)
{
    return pg_schema_check_table(cfg, pg_stmts, (size_t)SQL_COUNT, out, e);
}
