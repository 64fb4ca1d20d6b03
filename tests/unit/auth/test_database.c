/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The same module on a real PostgreSQL and the real HTTP client: that the statements say what the stand-ins
 * of the fixture assume, on tables with the column types of Synapse's, and that an introspection survives a
 * real connection.
 */
#include "auth_test.h"
#include "support/pg_cluster.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PG_PORT = 15400, MAS_PORT = 15410 };

static struct pg_cluster cluster;
static char conninfo[512];

static const char schema[] =
    "CREATE TABLE users (name text UNIQUE, password_hash text, creation_ts bigint, admin smallint DEFAULT 0 "
    "NOT NULL, upgrade_ts bigint,"
    " is_guest smallint DEFAULT 0 NOT NULL, appservice_id text, user_type text, deactivated smallint DEFAULT "
    "0 NOT NULL, shadow_banned boolean,"
    " approved boolean, locked boolean NOT NULL DEFAULT false, suspended boolean NOT NULL DEFAULT false);"
    "CREATE TABLE refresh_tokens (id bigint PRIMARY KEY, user_id text NOT NULL);"
    "CREATE TABLE access_tokens (id bigint PRIMARY KEY, user_id text NOT NULL, device_id text, token text "
    "NOT NULL UNIQUE, valid_until_ms bigint,"
    " puppets_user_id text, last_validated bigint, refresh_token_id bigint REFERENCES refresh_tokens(id) ON "
    "DELETE CASCADE, used boolean);"
    "CREATE TABLE devices (user_id text NOT NULL, device_id text NOT NULL, display_name text, hidden boolean "
    "DEFAULT false,"
    " UNIQUE (user_id, device_id));"
    "CREATE TABLE account_validity (user_id text PRIMARY KEY, expiration_ts_ms bigint NOT NULL);"
    "CREATE TABLE monthly_active_users (user_id text NOT NULL UNIQUE, timestamp bigint NOT NULL);";

static const char rows_sql[] =
    "INSERT INTO users (name, creation_ts, admin, is_guest, appservice_id, user_type, shadow_banned, locked) "
    "VALUES"
    " ('@alice:hs.test', 1500000000, 0, 0, NULL, NULL, NULL, false), ('@bob:hs.test', 1500000000, 1, 0, "
    "NULL, NULL, true, false),"
    " ('@locked:hs.test', 1500000000, 0, 0, NULL, NULL, false, true), ('@guest:hs.test', 1500000000, 0, 1, "
    "NULL, NULL, NULL, false),"
    " ('@late:hs.test', 1500000000, 0, 0, NULL, NULL, NULL, false), ('@help:hs.test', 1500000000, 0, 0, "
    "NULL, 'support', NULL, false),"
    " ('@_irc_x:hs.test', 1500000000, 0, 0, 'irc', NULL, NULL, false);"
    "INSERT INTO refresh_tokens VALUES (1, '@alice:hs.test');"
    "INSERT INTO access_tokens (id, user_id, device_id, token, valid_until_ms, puppets_user_id, "
    "refresh_token_id, used) VALUES"
    " (1, '@alice:hs.test', 'ALICE', 'syt_alice', NULL, NULL, NULL, NULL), (2, '@bob:hs.test', 'BOB', "
    "'a\"b\\c{,}NULL', NULL, NULL, NULL, false),"
    " (3, '@bob:hs.test', NULL, 'puppet', NULL, '@alice:hs.test', NULL, NULL), (4, '@alice:hs.test', 'OLD', "
    "'old', 1, NULL, NULL, NULL),"
    " (5, '@alice:hs.test', 'R', 'refresh', 99999999999999, NULL, 1, NULL), (6, '@locked:hs.test', 'L', "
    "'locked', NULL, NULL, NULL, NULL),"
    " (7, '@late:hs.test', 'LATE', 'late', NULL, NULL, NULL, NULL), (8, '@nobody:hs.test', 'X', 'orphan', "
    "NULL, NULL, NULL, NULL);"
    "INSERT INTO devices (user_id, device_id, hidden) VALUES ('@alice:hs.test', 'ALICE', false), "
    "('@alice:hs.test', 'KEY', true),"
    " ('@bob:hs.test', 'BOB', false);"
    "INSERT INTO account_validity VALUES ('@late:hs.test', 1000), ('@alice:hs.test', 99999999999999);"
    "INSERT INTO monthly_active_users VALUES ('@bob:hs.test', 1), ('@_irc_x:hs.test', 2), ('@late:hs.test', "
    "3);";

static void sql(const char *text)
{
    PGconn *c = PQconnectdb(conninfo);
    PGresult *r = PQexec(c, text);

    if (PQresultStatus(r) != PGRES_COMMAND_OK && PQresultStatus(r) != PGRES_TUPLES_OK)
        fail_msg("%s", PQerrorMessage(c));
    PQclear(r);
    PQfinish(c);
}

static int64_t sql_number(const char *text)
{
    PGconn *c = PQconnectdb(conninfo);
    PGresult *r = PQexec(c, text);
    int64_t n = -1;

    if (PQntuples(r))
        assert_int_equal(str_to_i64(str_of(PQgetvalue(r, 0, 0)), &n), 0);
    PQclear(r);
    PQfinish(c);
    return n;
}

static int setup(void **state)
{
    (void)state;
    if (pg_cluster_init(&cluster, PG_PORT) || pg_cluster_spawn(&cluster) || pg_cluster_wait(&cluster))
        return -1;
    snprintf(conninfo, sizeof conninfo, "host=%s port=%d user=chappe dbname=postgres", cluster.dir,
             cluster.port);
    sql(schema);
    /* The pool asks a new session which schema it found. */
    sql("CREATE TABLE schema_version (version integer NOT NULL); INSERT INTO schema_version VALUES (94);"
        "CREATE TABLE schema_compat_version (compat_version integer NOT NULL); INSERT INTO "
        "schema_compat_version VALUES (94)");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    pg_cluster_remove(&cluster);
    return 0;
}

static int fresh(void **state)
{
    (void)state;
    sql("TRUNCATE users, refresh_tokens, access_tokens, devices, account_validity, monthly_active_users "
        "CASCADE");
    sql(rows_sql);
    return 0;
}

static void base(struct config *cfg)
{
    cfg->db_main.conninfo = str_of(conninfo);
    cfg->db_main.masked = STR("masked");
    cfg->db_main.statement_timeout_ms = 60000;
    cfg->db_main.synchronous_commit = true;
    cfg->pg_connections = 2;
    cfg->pg_queue_max = 1000;
    cfg->account_validity = true;
}

static void tokens(void **state)
{
    static const struct {
        const char *token, *user, *device;
        int status;
        const char *errcode, *error;
        int soft;
    } rows[] = {
        {"syt_alice", "@alice:hs.test", "ALICE", 0, NULL, NULL, 0},
        {"a\"b\\c{,}NULL", "@bob:hs.test", "BOB", 0, NULL, NULL, 0},
        {"puppet", "@alice:hs.test", NULL, 0, NULL, NULL, 0},
        {"old", NULL, NULL, 401, "M_UNKNOWN_TOKEN", "Access token has expired", 1},
        {"refresh", "@alice:hs.test", "R", 0, NULL, NULL, 0},
        {"locked", NULL, NULL, 401, "M_USER_LOCKED", "User account has been locked", 1},
        {"late", NULL, NULL, 403, "ORG_MATRIX_EXPIRED_ACCOUNT", "User account has expired", -1},
        {"orphan", NULL, NULL, 401, "M_UNKNOWN_TOKEN", "Invalid access token passed.", 0},
        {"nothing", NULL, NULL, 401, "M_UNKNOWN_TOKEN", "Invalid access token passed.", 0},
        {"'; DROP TABLE users; --", NULL, NULL, 401, "M_UNKNOWN_TOKEN", "Invalid access token passed.", 0},
        {"\x01\x7f", NULL, NULL, 401, "M_UNKNOWN_TOKEN", "Invalid access token passed.", 0},
    };
    enum { N = sizeof rows / sizeof *rows };
    struct fix *f = fix_new_with(base, true);
    struct outcome o[N];
    char query[256];

    (void)state;
    for (size_t i = 0; i < N; i++) { /* all in one statement */
        struct buf b;
        buf_init(&b, 256);
        url_encode(&b, str_of(rows[i].token));
        snprintf(query, sizeof query, "access_token=%.*s", STR_ARG(buf_str(&b)));
        buf_fini(&b);
        ask(f, &(struct ask){.query = query}, &o[i]);
    }
    for (int i = 0; !o[N - 1].calls && i < 100; i++)
        fix_pump(f);
    assert_int_equal(f->statements[SQL_auth_tokens], 1);
    for (size_t i = 0; i < N; i++) {
        if (rows[i].user)
            assert_accepted(&o[i], rows[i].user, rows[i].device, rows[i].token);
        else
            assert_refused(&o[i], rows[i].status, rows[i].errcode, rows[i].error, rows[i].soft,
                           rows[i].token);
    }
    assert_true(o[1].r->is_admin && o[1].r->shadow_banned && !o[0].r->shadow_banned);
    assert_true(str_eq(requester_owner(o[2].r), STR("@bob:hs.test")));
    assert_true(o[4].r->valid_until_ms == 99999999999999);
    for (int i = 0; sql_number("SELECT count(*) FROM access_tokens WHERE used") != 1 && i < 50; i++)
        fix_pump(f);
    assert_int_equal(sql_number("SELECT id FROM access_tokens WHERE used"), 5);
    for (size_t i = 0; i < N; i++)
        outcome_free(&o[i]);
    fix_free(&f);
}

static void parked(void **state)
{
    struct fix *f = fix_new_with(base, true);
    struct outcome o = asked_token(f, "refresh"), p = asked_token(f, "syt_alice");
    struct watched w, v;

    (void)state;
    watch(f, &w, o.r);
    watch(f, &v, p.r);
    sql("DELETE FROM refresh_tokens"); /* cascades to the access token */
    row(f, "get_user_by_id", "@alice:hs.test", NULL);
    for (int i = 0; !w.ended && i < 100; i++)
        fix_pump(f);
    assert_int_equal(w.ended, 1);
    assert_int_equal(w.status, 401);
    assert_int_equal(v.ended, 0);
    sql("UPDATE users SET locked = true WHERE name = '@alice:hs.test'");
    row(f, "get_user_locked_status", "@alice:hs.test", NULL);
    for (int i = 0; !v.ended && i < 100; i++)
        fix_pump(f);
    assert_string_equal(v.errcode, "M_USER_LOCKED");
    outcome_free(&o);
    outcome_free(&p);
    fix_free(&f);
}

/* The database goes away under a parked poll and with a request waiting: held, then answered with the truth.
 */
static void restart(void **state)
{
    struct fix *f = fix_new_with(base, true);
    struct outcome o = asked_token(f, "syt_alice"), waiting;
    struct watched w;

    (void)state;
    watch(f, &w, o.r);
    outcome_free(&o);
    sql("DELETE FROM access_tokens WHERE id = 1");
    pg_cluster_stop(&cluster);
    row(f, "get_user_by_access_token", "syt_alice", NULL);
    ask_token(f, "a\"b\\c{,}NULL", &waiting);
    for (int i = 0; i < 5; i++)
        fix_pump(f);
    assert_int_equal(w.ended, 0);
    assert_int_equal(waiting.calls, 0);
    assert_int_equal(pg_cluster_spawn(&cluster), 0);
    assert_int_equal(pg_cluster_wait(&cluster), 0);
    for (int i = 0; (!w.ended || !waiting.calls) && i < 200; i++)
        fix_pump(f);
    assert_int_equal(w.ended, 1);
    assert_int_equal(w.status, 401);
    assert_accepted(&waiting, "@bob:hs.test", "BOB", "held");
    outcome_free(&waiting);
    fix_free(&f);
}

/* ---- the stand-in for the authentication service: one connection, one request, one reply */

static const char *mas_reply;
static int mas_requests;
static char mas_request[4096];

struct mas_conn {
    uv_tcp_t tcp;
    uv_write_t write;
    char in[4096], out[1024];
    size_t n;
};

static void conn_closed(uv_handle_t *h)
{
    free(container_of((uv_tcp_t *)h, struct mas_conn, tcp));
}

static void conn_written(uv_write_t *w, int status)
{
    (void)status;
    uv_close((uv_handle_t *)w->handle, conn_closed);
}

static void conn_alloc(uv_handle_t *h, size_t n, uv_buf_t *buf)
{
    struct mas_conn *c = container_of((uv_tcp_t *)h, struct mas_conn, tcp);

    (void)n;
    *buf = uv_buf_init(c->in + c->n, (unsigned)(sizeof c->in - 1 - c->n));
}

static void conn_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct mas_conn *c = container_of((uv_tcp_t *)s, struct mas_conn, tcp);

    (void)buf;
    if (n < 0) {
        if (!uv_is_closing((uv_handle_t *)s))
            uv_close((uv_handle_t *)s, conn_closed);
        return;
    }
    c->n += (size_t)n;
    c->in[c->n] = '\0';
    if (!strstr(c->in, "token_type_hint=access_token"))
        return;
    uv_read_stop(s);
    mas_requests++;
    memcpy(mas_request, c->in, c->n + 1);
    snprintf(c->out, sizeof c->out, "%s", mas_reply);
    uv_buf_t out = uv_buf_init(c->out, (unsigned)strlen(c->out));
    uv_write(&c->write, s, &out, 1, conn_written);
}

static void conn_new(uv_stream_t *server, int status)
{
    struct mas_conn *c = xcalloc(1, sizeof *c);

    assert_int_equal(status, 0);
    uv_tcp_init(server->loop, &c->tcp);
    assert_int_equal(uv_accept(server, (uv_stream_t *)&c->tcp), 0);
    uv_read_start((uv_stream_t *)&c->tcp, conn_alloc, conn_read);
}

static void with_mas(struct config *cfg)
{
    base(cfg);
    cfg->mas.enabled = true;
    cfg->mas.endpoint = STR("http://127.0.0.1:15410/");
    cfg->mas.secret = STR("shh");
}

static void introspection(void **state)
{
#define HTTP(status, body) \
    "HTTP/1.1 " status "\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" body
#define WHO(user, device)                                  \
    HTTP("200 OK", "{\"active\":true,\"username\":\"" user \
                   "\",\"scope\":\"openid urn:matrix:client:api:* urn:matrix:client:device:" device "\"}")
    static const struct {
        const char *reply, *user;
        int status;
        const char *error;
    } rows[] = {
        {WHO("alice", "ALICE"), "@alice:hs.test", 0, NULL},
        {WHO("alice", "KEY"), NULL, 401, "Token is not active"}, /* hidden: a key, not a device */
        {WHO("alice", "BOB"), NULL, 401, "Token is not active"},
        {WHO("nobody", "ALICE"), NULL, 500, "User not found"},
        {HTTP("200 OK", "{\"active\":false}"), NULL, 401, "Token is not active"},
        {HTTP("500 Oops", "{\"active\":false}"), NULL, 503, "Unable to introspect the access token"},
        {HTTP("200 OK", "{\"active\":"), NULL, 503, "Unable to introspect the access token"},
        {"nonsense\r\n\r\n", NULL, 503, "Unable to introspect the access token"},
        {"", NULL, 503, "Unable to introspect the access token"},
    };
    struct fix *f = fix_new_with(with_mas, true);
    uv_tcp_t server;
    struct sockaddr_in at;
    struct outcome o;
    char token[32];

    (void)state;
    uv_ip4_addr("127.0.0.1", MAS_PORT, &at);
    uv_tcp_init(&f->loop, &server);
    assert_int_equal(uv_tcp_bind(&server, (struct sockaddr *)&at, 0), 0);
    assert_int_equal(uv_listen((uv_stream_t *)&server, 16, conn_new), 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mas_reply = rows[i].reply;
        snprintf(token, sizeof token, "mat_%zu", i);
        o = asked_token(f, token);
        if (rows[i].user)
            assert_accepted(&o, rows[i].user, "ALICE", rows[i].reply);
        else if (o.status != rows[i].status || strcmp(o.error, rows[i].error) != 0)
            fail_msg("%s: %d %s", rows[i].reply, o.status, o.error);
        outcome_free(&o);
    }
    assert_non_null(strstr(mas_request, "POST /oauth2/introspect HTTP/1.1\r\n"));
    assert_non_null(strstr(mas_request, "\r\n\r\ntoken=mat_8&token_type_hint=access_token"));
    uv_close((uv_handle_t *)&server, NULL);
    fix_pump(f);
    o = asked_token(f, "mat_refused");
    assert_int_equal(o.status, 503);
    o = asked_token(f, "mat_0"); /* remembered */
    assert_accepted(&o, "@alice:hs.test", "ALICE", "remembered");
    outcome_free(&o);
    fix_free(&f);
}

static void limited(struct config *cfg)
{
    base(cfg);
    cfg->limit_usage_by_mau = true;
    cfg->max_mau_value = 2;
}

static void on_blocked(void *arg, const struct auth_error *e)
{
    *(int *)arg = e ? e->status : 200;
}

static void active_users(void **state)
{
    struct fix *f = fix_new_with(limited, true);
    struct outcome alice = asked_token(f, "syt_alice"), bob = asked_token(f, "a\"b\\c{,}NULL");
    int status = 0;

    (void)state;
    auth_check_blocking(f->auth, bob.r, on_blocked, &status);
    for (int i = 0; !status && i < 100; i++)
        fix_pump(f);
    assert_int_equal(status, 200);
    status = 0;
    auth_check_blocking(f->auth, alice.r, on_blocked,
                        &status); /* bob and late count, the service's user does not */
    for (int i = 0; !status && i < 100; i++)
        fix_pump(f);
    assert_int_equal(status, 403);
    sql("DELETE FROM monthly_active_users WHERE user_id = '@late:hs.test'");
    row(f, "get_monthly_active_count", NULL, NULL);
    status = 0;
    auth_check_blocking(f->auth, alice.r, on_blocked, &status);
    for (int i = 0; !status && i < 100; i++)
        fix_pump(f);
    assert_int_equal(status, 200);
    outcome_free(&alice);
    outcome_free(&bob);
    fix_free(&f);
}

int run_database(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(tokens, fresh),       cmocka_unit_test_setup(parked, fresh),
        cmocka_unit_test_setup(restart, fresh),      cmocka_unit_test_setup(introspection, fresh),
        cmocka_unit_test_setup(active_users, fresh),
    };

    if (!pg_cluster_available()) {
        print_message("no PostgreSQL on this machine: the statements are not tested\n");
        return 0;
    }
    return cmocka_run_group_tests_name("auth: on a real database", tests, setup, teardown);
}
