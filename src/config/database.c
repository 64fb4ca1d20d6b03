/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * "database:" and "databases:": psycopg2 arguments become a libpq connection string.
 *
 * Whatever is not for Python's connection pool (cp_*) goes to libpq under its own name, "database" as
 * "dbname"; libpq itself judges the keywords and says which one it does not know. Environment variables and
 * password files work as they do for any libpq program. Of several databases one holds the main store and one
 * the state groups.
 */
#include "config_int.h"

#include <libpq-fe.h>
#include <stdlib.h>

enum { STATEMENT_TIMEOUT_MS = 600000 };

void conninfo_each(const char *conninfo, void (*fn)(void *arg, const char *keyword, const char *value),
                   void *arg)
{
    PQconninfoOption *options = PQconninfoParse(conninfo, NULL);

    for (PQconninfoOption *o = options; o && o->keyword; o++)
        if (o->val)
            fn(arg, o->keyword, o->val);
    PQconninfoFree(options);
}

/* key='value' with the two quoted characters escaped. */
static void pair_put(struct buf *b, const char *keyword, const char *value)
{
    buf_printf(b, "%s%s='", b->n ? " " : "", keyword);
    for (; *value; value++) {
        if (*value == '\'' || *value == '\\')
            buf_putc(b, '\\');
        buf_putc(b, *value);
    }
    buf_putc(b, '\'');
}

static void masked_put(void *arg, const char *keyword, const char *value)
{
    bool secret = strcmp(keyword, "password") == 0 || strcmp(keyword, "sslpassword") == 0;

    pair_put(arg, keyword, secret ? "********" : value);
}

struct str conninfo_masked(struct arena *a, const char *conninfo)
{
    struct buf b;

    buf_init(&b, 1 << 20);
    conninfo_each(conninfo, masked_put, &b);
    struct str s = arena_str(a, buf_str(&b));
    buf_fini(&b);
    return s;
}

/* The keyword of one argument, or NULL when it is not libpq's. */
static const char *keyword_of(struct str key)
{
    if (str_starts(key, STR("cp_")))
        return NULL;
    return str_eq(key, STR("database")) ? "dbname" : key.p;
}

static void args_put(struct reader *r, const struct yaml *args, struct buf *b)
{
    if (yaml_get(args, "database") && yaml_get(args, "dbname"))
        config_fail(r, args, "database.args: \"database\" and \"dbname\" mean the same: keep one of them");
    for (size_t i = 0; args && i < args->count; i++) {
        const struct yaml_pair *p = &args->pairs[i];
        const char *keyword = keyword_of(p->key);
        bool truth;
        /* Not overridden by a later equal key, and set at all. */
        if (!keyword || yaml_get(args, p->key.p) != p->value || yaml_is_null(p->value))
            continue;
        if (p->value->kind != YAML_SCALAR || p->key.n == 0 || strpbrk(keyword, " ='\\")) {
            config_fail(r, p->key_node, "database.args: bad entry");
            return;
        }
        pair_put(b, keyword, yaml_bool(p->value, &truth) ? (truth ? "1" : "0") : p->value->text.p);
    }
}

static void entry_read(struct reader *r, const struct yaml *entry, struct config_db *out)
{
    struct str name = STR_ABSENT;
    struct yaml *args = read_map(r, entry, "database.args");
    struct buf b;
    char *problem = NULL;
    int64_t timeout = STATEMENT_TIMEOUT_MS;

    read_str(r, entry, "database.name", &name);
    if (!r->failed && !str_eq(name, STR("psycopg2")))
        config_fail(r, yaml_get(entry, "name") ? yaml_get(entry, "name") : entry,
                    "database.name must be psycopg2 (PostgreSQL): workers cannot share an SQLite database");
    buf_init(&b, 1 << 20);
    args_put(r, args, &b);
    if (!r->failed && b.failed)
        config_fail(r, args, "database.args: too long");
    if (!r->failed) {
        out->conninfo = b.n ? arena_str(r->a, buf_str(&b)) : STR("");
        PQconninfoOption *options = PQconninfoParse(out->conninfo.p, &problem);
        if (!options)
            config_fail(r, args, "database.args: %s", problem ? problem : "not understood by libpq");
        PQconninfoFree(options);
        PQfreemem(problem);
    }
    buf_fini(&b);
    if (r->failed)
        return;
    out->masked = conninfo_masked(r->a, out->conninfo.p);
    struct yaml *st = yaml_get(entry, "statement_timeout");
    if (st && yaml_is_null(st))
        timeout = 0;
    read_int(r, entry, "database.statement_timeout", 0, INT32_MAX, &timeout);
    out->statement_timeout_ms = (int)timeout;
    out->synchronous_commit = true;
    read_bool(r, entry, "database.synchronous_commit", &out->synchronous_commit);
}

/* Does this entry of "databases" carry the store? Without data_stores it carries both. */
static bool carries(struct reader *r, const struct yaml *entry, struct str store)
{
    struct str *stores = NULL;
    size_t n = 0;

    if (yaml_is_null(yaml_get(entry, "data_stores")))
        return true;
    read_str_list(r, entry, "databases.data_stores", &stores, &n);
    return list_has(stores, n, store);
}

static const struct yaml *carrier(struct reader *r, const struct yaml *databases, struct str store)
{
    const struct yaml *found = NULL;

    for (size_t i = 0; i < databases->count; i++) {
        struct yaml *entry = databases->pairs[i].value;
        if (entry->kind != YAML_MAP) {
            config_fail(r, databases->pairs[i].key_node, "databases: each entry must be a map");
            return NULL;
        }
        if (!carries(r, entry, store))
            continue;
        if (found)
            config_fail(r, entry, "databases: two entries hold the data store \"%.*s\"", STR_ARG(store));
        found = entry;
    }
    if (!found)
        config_fail(r, databases, "databases: no entry holds the data store \"%.*s\"", STR_ARG(store));
    return found;
}

void database_read(struct reader *r)
{
    struct config *c = r->c;
    struct yaml *one = read_map(r, r->root, "database"), *many = read_map(r, r->root, "databases");

    if (r->failed)
        return;
    if (one && many) {
        config_fail(r, many, "\"database\" and \"databases\" are both set: keep one of them");
    } else if (many) {
        const struct yaml *main_entry = carrier(r, many, STR("main")),
                          *state = carrier(r, many, STR("state"));
        if (r->failed)
            return;
        entry_read(r, main_entry, &c->db_main);
        c->db_state_separate = state != main_entry;
        if (c->db_state_separate)
            entry_read(r, state, &c->db_state);
    } else if (one) {
        entry_read(r, one, &c->db_main);
    } else if (!yaml_is_null(yaml_get(r->root, "database_path"))) {
        config_fail(r, yaml_get(r->root, "database_path"),
                    "database_path means SQLite, which workers cannot share: use PostgreSQL (database.name: "
                    "psycopg2)");
    } else {
        config_fail(r, NULL, "no \"database\" is configured");
    }
    if (!c->db_state_separate)
        c->db_state = c->db_main;
}
