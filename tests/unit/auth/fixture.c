/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* The fixture, the stand-ins behind the wrapped functions, and the order of the groups. */
#include "auth_test.h"
#include "support/http_request.h"

#include "pg_int.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct fix *fix;

/* ---- PostgreSQL: statements are answered from the tables at once, and delivered when the test says so */

struct fake_call {
    struct fake_call *next;
    pg_done_fn *done;
    void *arg;
    int err;
    struct pg_result res;
};
struct cells {
    PGresult *res;
    int row;
};

static void cells_begin(struct cells *c, int columns)
{
    PGresAttDesc d[16];

    memset(d, 0, sizeof d);
    for (int i = 0; i < columns; i++) {
        d[i].name = (char *)(uintptr_t) "c";
        d[i].typid = 25;
        d[i].typlen = -1;
        d[i].atttypmod = -1;
    }
    c->res = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
    c->row = -1;
    assert_true(PQsetResultAttrs(c->res, columns, d));
}

static void cell_text(struct cells *c, int col, const char *s)
{
    assert_true(PQsetvalue(c->res, c->row, col, (char *)(uintptr_t)s, s ? (int)strlen(s) : -1));
}

static void cell_i64(struct cells *c, int col, int64_t v)
{
    char text[24];

    snprintf(text, sizeof text, "%lld", (long long)v);
    cell_text(c, col, text);
}

static void cell_bool(struct cells *c, int col, bool v)
{
    cell_text(c, col, v ? "t" : "f");
}

/* Splits an array literal in place; at most max elements. */
static size_t elements(char *p, char **out, size_t max)
{
    size_t n = 0;

    assert_int_equal(*p++, '{');
    while (*p != '}') {
        assert_true(n < max);
        char *to = p;
        if (*p == '"') {
            to = ++p;
            out[n++] = p;
            while (*p != '"') {
                if (*p == '\\')
                    p++;
                *to++ = *p++;
            }
            p++;
        } else {
            out[n++] = p;
            while (*p != ',' && *p != '}')
                p++;
            to = p;
        }
        bool last = *p == '}';
        *to = '\0';
        if (last)
            break;
        p++;
    }
    return n;
}

static int64_t number(const char *text)
{
    int64_t n;

    assert_int_equal(str_to_i64(str_of(text), &n), 0);
    return n;
}

static const struct db_user *user_of(const struct fix *f, const char *name)
{
    for (size_t i = 0; i < 16; i++)
        if (f->users[i].name && !f->users[i].gone && strcmp(f->users[i].name, name) == 0)
            return &f->users[i];
    return NULL;
}

static void answer_tokens(struct fix *f, struct cells *c, char **v, size_t n, bool by_id)
{
    cells_begin(c, 13);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < 16; k++) {
            const struct db_token *t = &f->tokens[k];
            if (!t->token || t->gone || (by_id ? t->id != number(v[i]) : strcmp(t->token, v[i]) != 0))
                continue;
            const struct db_user *u = user_of(f, t->puppets ? t->puppets : t->user);
            if (!u)
                continue;
            c->row++;
            cell_i64(c, 0, (int64_t)i + 1);
            cell_text(c, 1, u->name);
            cell_text(c, 2, t->user);
            cell_text(c, 3, t->device);
            cell_i64(c, 4, t->id);
            if (t->valid_until_ms)
                cell_i64(c, 5, t->valid_until_ms);
            else
                cell_text(c, 5, NULL);
            cell_bool(c, 6, t->used);
            cell_bool(c, 7, t->refreshable);
            cell_i64(c, 8, u->guest);
            cell_i64(c, 9, u->admin);
            cell_bool(c, 10, u->shadow_banned);
            cell_bool(c, 11, u->locked);
            if (u->expires_ms)
                cell_i64(c, 12, u->expires_ms);
            else
                cell_text(c, 12, NULL);
        }
    }
}

static void answer_users(struct fix *f, struct cells *c, char **v, size_t n)
{
    cells_begin(c, 9);
    for (size_t i = 0; i < n; i++) {
        const struct db_user *u = user_of(f, v[i]);
        if (!u)
            continue;
        c->row++;
        cell_i64(c, 0, (int64_t)i + 1);
        cell_i64(c, 1, u->guest);
        cell_i64(c, 2, u->admin);
        cell_bool(c, 3, u->shadow_banned);
        cell_bool(c, 4, u->locked);
        cell_bool(c, 5, u->support);
        cell_text(c, 6, u->app_service ? u->app_service : "");
        cell_i64(c, 7, u->creation_s);
        if (u->expires_ms)
            cell_i64(c, 8, u->expires_ms);
        else
            cell_text(c, 8, NULL);
    }
}

static void answer_devices(struct fix *f, struct cells *c, char **users, char **devices, size_t n)
{
    cells_begin(c, 1);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < 16; k++) {
            const struct db_device *d = &f->devices[k];
            if (!d->user || d->gone || d->hidden || strcmp(d->user, users[i]) != 0 ||
                strcmp(d->device, devices[i]) != 0)
                continue;
            c->row++;
            cell_i64(c, 0, (int64_t)i + 1);
        }
}

static void answer_mau(struct fix *f, struct cells *c, char **v, size_t n)
{
    cells_begin(c, 2);
    for (size_t i = 0; i < n; i++) {
        bool member = false;
        for (size_t k = 0; k < 8; k++)
            member = member || (f->mau[k] && strcmp(f->mau[k], v[i]) == 0);
        if (!member && *v[i])
            continue;
        c->row++;
        cell_i64(c, 0, (int64_t)i + 1);
        cell_i64(c, 1, *v[i] ? NOW : f->mau_count);
    }
}

static void answer_used(struct fix *f, struct cells *c, char **v, size_t n)
{
    cells_begin(c, 1);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < 16; k++) {
            struct db_token *t = &f->tokens[k];
            if (!t->token || t->gone || t->id != number(v[i]))
                continue;
            t->used = true;
            c->row++;
            cell_i64(c, 0, t->id);
        }
}

void __wrap_pg_exec(struct pg *pg, enum pg_stmt stmt, struct pg_args *args, pg_done_fn *done, void *arg);
void __real_pg_exec(struct pg *pg, enum pg_stmt stmt, struct pg_args *args, pg_done_fn *done, void *arg);
void __wrap_pg_exec(struct pg *pg, enum pg_stmt stmt, struct pg_args *args, pg_done_fn *done, void *arg)
{
    struct fix *f = fix;

    f->statements[stmt]++;
    if (f->real) {
        __real_pg_exec(pg, stmt, args, done, arg);
        return;
    }
    struct fake_call *call = xcalloc(1, sizeof *call);
    call->done = done;
    call->arg = arg;
    assert_int_equal(pg_args_check(args), 0);
    if (f->fail > 0) {
        f->fail--;
        call->err = f->fail_with ? f->fail_with : -ERR_DB;
    } else {
        const char *const *values = pg_args_values(args);
        char *first = xstrndup(str_of(values[0])),
             *second = args->at.n > 1 ? xstrndup(str_of(values[1])) : NULL;
        char **v = xcalloc(2 * AUTH_BATCH_MAX, sizeof *v), **w = v + AUTH_BATCH_MAX;
        size_t n = elements(first, v, AUTH_BATCH_MAX);
        struct cells c;
        if (second)
            assert_int_equal(elements(second, w, AUTH_BATCH_MAX), n);
        f->rows_asked[stmt] += n;
        if (stmt == SQL_auth_tokens || stmt == SQL_auth_tokens_by_id)
            answer_tokens(f, &c, v, n, stmt == SQL_auth_tokens_by_id);
        else if (stmt == SQL_auth_users)
            answer_users(f, &c, v, n);
        else if (stmt == SQL_auth_devices)
            answer_devices(f, &c, v, w, n);
        else if (stmt == SQL_auth_mau)
            answer_mau(f, &c, v, n);
        else
            answer_used(f, &c, v, n);
        pg_result_init(&call->res, c.res);
        free(first);
        free(second);
        free(v);
    }
    pg_args_free(&args);
    *f->last = call;
    f->last = &call->next;
}

void fix_deliver(struct fix *f)
{
    struct fake_call *call = f->first, *next;

    f->first = NULL;
    f->last = &f->first;
    for (; call; call = next) {
        next = call->next;
        call->done(call->arg, call->err, call->err ? NULL : &call->res);
        if (!call->err)
            pg_result_fini(&call->res);
        free(call);
    }
}

/* ---- the authentication service */

struct fake_http {
    struct fake_http *next;
    httpc_done_fn *done;
    void *arg;
    struct mas_reply reply;
};

void __wrap_httpc_send(struct httpc *c, const struct httpc_req *req, httpc_done_fn *done, void *arg);
void __real_httpc_send(struct httpc *c, const struct httpc_req *req, httpc_done_fn *done, void *arg);
void __wrap_httpc_send(struct httpc *c, const struct httpc_req *req, httpc_done_fn *done, void *arg)
{
    struct fix *f = fix;
    int n;

    if (f->real) {
        f->introspections++;
        __real_httpc_send(c, req, done, arg);
        return;
    }
    struct fake_http *h = xcalloc(1, sizeof *h);
    n = snprintf(f->introspected, sizeof f->introspected, "%s %.*s\n", req->method, STR_ARG(req->url));
    for (size_t i = 0; i < req->headers_count; i++)
        n += snprintf(f->introspected + n, sizeof f->introspected - (size_t)n, "%.*s: %.*s\n",
                      STR_ARG(req->headers[i].name), STR_ARG(req->headers[i].value));
    snprintf(f->introspected + n, sizeof f->introspected - (size_t)n, "\n%.*s", STR_ARG(req->body));
    f->introspections++;
    h->done = done;
    h->arg = arg;
    h->reply = f->reply;
    *f->http_last = h;
    f->http_last = &h->next;
}

static void http_deliver(struct fix *f)
{
    struct fake_http *h = f->http_first, *next;

    f->http_first = NULL;
    f->http_last = &f->http_first;
    for (; h; h = next) {
        next = h->next;
        struct httpc_res res = {
            .err = h->reply.err, .status = h->reply.status, .body = str_of(h->reply.body)};
        h->done(h->arg, &res);
        free(h);
    }
}

/* ---- USER_IP */

int64_t __wrap_feed_send_user_ip(struct feed *fd, struct str user, struct str token, struct str ip,
                                 struct str ua, struct str device);
int64_t __wrap_feed_send_user_ip(struct feed *fd, struct str user, struct str token, struct str ip,
                                 struct str ua, struct str device)
{
    struct sent_ip *s = &fix->ips[fix->ips_n++ % 8];

    (void)fd;
    snprintf(s->user, sizeof s->user, "%.*s", STR_ARG(user));
    snprintf(s->token, sizeof s->token, "%.*s", STR_ARG(token));
    snprintf(s->ip, sizeof s->ip, "%.*s", STR_ARG(ip));
    snprintf(s->user_agent, sizeof s->user_agent, "%.*s", STR_ARG(ua));
    if (str_absent(device))
        snprintf(s->device, sizeof s->device, "-");
    else
        snprintf(s->device, sizeof s->device, "%.*s", STR_ARG(device));
    return fix->ip_due_ms;
}

/* ---- the fixture */

void fix_tables(struct fix *f)
{
    static const struct db_user users[] = {
        {.name = "@alice:hs.test", .creation_s = 1500000000},
        {.name = "@bob:hs.test", .creation_s = 1500000000, .shadow_banned = true},
        {.name = "@admin:hs.test", .creation_s = 1500000000, .admin = true},
        {.name = "@guest:hs.test", .creation_s = 1500000000, .guest = true},
        {.name = "@locked:hs.test", .creation_s = 1500000000, .locked = true},
        {.name = "@late:hs.test", .creation_s = 1500000000, .expires_ms = NOW - 1},
        {.name = "@soon:hs.test", .creation_s = 1500000000, .expires_ms = NOW + 60000},
        {.name = "@support:hs.test", .creation_s = 1500000000, .support = true},
        {.name = "@new:hs.test", .creation_s = NOW / 1000 - 3600},
        {.name = "@_irc_x:hs.test", .creation_s = 1500000000, .app_service = "irc"},
    };
    static const struct db_token tokens[] = {
        {.id = 1, .token = "syt_alice", .user = "@alice:hs.test", .device = "ALICE"},
        {.id = 2, .token = "syt_bob", .user = "@bob:hs.test", .device = "BOB"},
        {.id = 3, .token = "puppet", .user = "@admin:hs.test", .puppets = "@alice:hs.test"},
        {.id = 4, .token = "old", .user = "@alice:hs.test", .device = "OLD", .valid_until_ms = NOW - 1},
        {.id = 5, .token = "now", .user = "@alice:hs.test", .device = "NOW", .valid_until_ms = NOW},
        {.id = 6,
         .token = "short",
         .user = "@alice:hs.test",
         .device = "SHORT",
         .valid_until_ms = NOW + 5000},
        {.id = 7, .token = "refresh", .user = "@alice:hs.test", .device = "REFRESH", .refreshable = true},
        {.id = 8,
         .token = "refreshed",
         .user = "@alice:hs.test",
         .device = "REFRESH",
         .refreshable = true,
         .used = true},
        {.id = 9, .token = "locked", .user = "@locked:hs.test", .device = "L", .refreshable = true},
        {.id = 10, .token = "late", .user = "@late:hs.test", .device = "LATE"},
        {.id = 11, .token = "soon", .user = "@soon:hs.test", .device = "SOON"},
        {.id = 12, .token = "we\"ird\\{},NULL", .user = "@alice:hs.test", .device = "WEIRD"},
        {.id = 13, .token = "support", .user = "@support:hs.test", .device = "S"},
        {.id = 14, .token = "new", .user = "@new:hs.test", .device = "N"},
        {.id = 15, .token = "guest-row", .user = "@guest:hs.test", .device = "G"},
    };
    static const struct db_device devices[] = {
        {.user = "@alice:hs.test", .device = "ALICE"},
        {.user = "@bob:hs.test", .device = "BOB"},
        {.user = "@bob:hs.test", .device = "BOB2"},
        {.user = "@_irc_x:hs.test", .device = "BRIDGE"},
        {.user = "@_irc_x:hs.test", .device = "HIDDEN", .hidden = true},
        {.user = "@bot:hs.test", .device = "BOT"},
    };

    memcpy(f->users, users, sizeof users);
    memcpy(f->tokens, tokens, sizeof tokens);
    memcpy(f->devices, devices, sizeof devices);
}

struct fix *fix_new(void (*configure)(struct config *cfg))
{
    return fix_new_with(configure, false);
}

struct fix *fix_new_with(void (*configure)(struct config *cfg), bool real)
{
    struct fix *f = xcalloc(1, sizeof *f);
    struct err e = {""};

    f->last = &f->first;
    f->http_last = &f->http_first;
    f->real = real;
    fix = f;
    clock_fake_set(real ? -1 : NOW);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    fix_tables(f);
    f->cfg.server_name = STR("hs.test");
    f->cfg.macaroon_secret_key = STR("sekrit-\xce\xba");
    f->cfg.allow_guest_access = true;
    f->cfg.auth_cache_ms = 300000;
    f->cfg.auth_tokens_max = 1000;
    f->cfg.auth_negative_max = 100;
    f->cfg.auth_pending_max = 2000;
    f->cfg.auth_wait_ms = 30000;
    if (configure)
        configure(&f->cfg);
    if (real) {
        assert_int_equal(pg_start(&f->pg, &f->loop, &f->cfg, &e), 0);
        assert_int_equal(httpc_start(&f->httpc, &f->loop, NULL, &e), 0);
    }
    /* What is not real is never looked into: everything that would is wrapped. */
    assert_int_equal(auth_start(&f->auth, &f->loop, &f->cfg, real ? f->pg : (struct pg *)f,
                                real ? f->httpc : (struct httpc *)f, (struct feed *)f, &e),
                     0);
    return f;
}

void fix_free(struct fix **fp)
{
    struct fix *f = *fp;

    *fp = NULL;
    auth_stop(&f->auth);
    if (f->real) {
        httpc_stop(&f->httpc);
        pg_stop(&f->pg);
        for (int i = 0; uv_loop_alive(&f->loop) && i < 1000; i++) {
            uv_run(&f->loop, UV_RUN_NOWAIT);
            usleep(1000);
        }
    }
    f->hold = f->reply_hold = false;
    for (int i = 0; i < 10; i++) {
        fix_deliver(f);
        http_deliver(f);
        uv_run(&f->loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(uv_loop_close(&f->loop), 0);
    clock_fake_set(-1);
    free(f);
    fix = NULL;
}

void fix_pump_once(struct fix *f)
{
    /* A timer of 0 ms is due in the next turn; the loop's own clock is real, and two turns are cheap. */
    uv_run(&f->loop, UV_RUN_NOWAIT);
    uv_run(&f->loop, UV_RUN_NOWAIT);
}

void fix_pump(struct fix *f)
{
    for (int i = 0; i < 50; i++) {
        fix_pump_once(f);
        if (f->real) {
            usleep(2000);
            continue;
        }
        if (!f->hold)
            fix_deliver(f);
        if (!f->reply_hold)
            http_deliver(f);
        fix_pump_once(f);
        if ((!f->first || f->hold) && (!f->http_first || f->reply_hold))
            break;
    }
}

void fix_tick(struct fix *f, int64_t ms)
{
    clock_fake_set(clock_wall_ms() + ms);
    auth_tick(f->auth);
}

struct db_token *fix_token(struct fix *f, const char *token)
{
    for (size_t i = 0; i < 16; i++)
        if (f->tokens[i].token && strcmp(f->tokens[i].token, token) == 0)
            return &f->tokens[i];
    fail_msg("no token %s", token);
    return NULL;
}

struct db_user *fix_user(struct fix *f, const char *name)
{
    for (size_t i = 0; i < 16; i++)
        if (f->users[i].name && strcmp(f->users[i].name, name) == 0)
            return &f->users[i];
    fail_msg("no user %s", name);
    return NULL;
}

struct db_device *fix_device(struct fix *f, const char *user, const char *device)
{
    for (size_t i = 0; i < 16; i++)
        if (f->devices[i].user && strcmp(f->devices[i].user, user) == 0 &&
            strcmp(f->devices[i].device, device) == 0)
            return &f->devices[i];
    fail_msg("no device %s of %s", device, user);
    return NULL;
}

static void copy(char *to, size_t max, struct str s)
{
    snprintf(to, max, "%.*s", STR_ARG(s));
}

static void on_done(void *arg, struct requester *r, const struct auth_error *e)
{
    struct outcome *o = arg;

    o->calls++;
    assert_true((r == NULL) != (e == NULL));
    o->r = r;
    if (!e)
        return;
    o->status = e->status;
    o->soft_logout = e->soft_logout;
    o->limit = e->limit;
    copy(o->errcode, sizeof o->errcode, str_of(e->errcode));
    copy(o->error, sizeof o->error, e->error);
    copy(o->admin_contact, sizeof o->admin_contact, e->admin_contact);
    copy(o->limit_type, sizeof o->limit_type, e->limit_type);
}

void ask(struct fix *f, const struct ask *q, struct outcome *o)
{
    /* Every slice is a heap copy of its exact size that is overwritten afterwards: use after return shows. */
    struct http_req req = {.method = HTTP_M_GET};
    char *copies[4] = {q->query ? strdup(q->query) : NULL, q->authorization ? strdup(q->authorization) : NULL,
                       strdup(q->ip ? q->ip : "198.51.100.7"),
                       strdup(q->user_agent ? q->user_agent : "test/1")};
    struct str authorization = str_of(copies[1]);
    struct arena *texts = arena_new(1 << 20);

    memset(o, 0, sizeof *o);
    request_texts(&req, texts, STR("/_matrix/client/v3/sync"), str_of(copies[0]), str_of(copies[2]),
                  str_of(copies[3]));
    if (q->authorization)
        req.authorization = &authorization;
    req.authorization_count =
        (uint8_t)(q->authorization_count ? q->authorization_count : q->authorization != NULL);
    auth_request(f->auth, &req, !q->no_guests, on_done, o);
    for (size_t i = 0; i < 4; i++) {
        if (copies[i])
            memset(copies[i], '#', strlen(copies[i]));
        free(copies[i]);
    }
    memset((char *)(uintptr_t)req.text, '#', req.own_bytes + req.ip_bytes);
    memset(req.agent->p, '#', req.agent->n);
    arena_free(&texts);
    arena_free(&req.arena);
}

void ask_token(struct fix *f, const char *token, struct outcome *o)
{
    char header[AUTH_TOKEN_BYTES_MAX * 2];

    snprintf(header, sizeof header, "Bearer %s", token);
    ask(f, &(struct ask){.authorization = header}, o);
}

struct outcome asked(struct fix *f, const struct ask *q)
{
    struct outcome o;

    ask(f, q, &o);
    for (int i = 0; !o.calls && i < 200; i++)
        fix_pump(f);
    assert_int_equal(o.calls, 1);
    return o;
}

struct outcome asked_token(struct fix *f, const char *token)
{
    char header[AUTH_TOKEN_BYTES_MAX * 2];

    snprintf(header, sizeof header, "Bearer %s", token);
    return asked(f, &(struct ask){.authorization = header});
}

bool again_token(struct fix *f, struct requester *r, const char *token)
{
    char header[AUTH_TOKEN_BYTES_MAX * 2];
    int64_t due = 0;
    size_t refs = r->refs;

    snprintf(header, sizeof header, "Bearer %s", token);
    const struct str authorization = str_of(header);
    struct http_req req = {.authorization = &authorization, .authorization_count = 1};
    request_texts(&req, http_arena(&req), STR("/"), STR_ABSENT, STR("198.51.100.7"), STR("test/1"));
    bool good = auth_again(f->auth, r, &req, &due);
    arena_free(&req.arena);
    assert_int_equal(r->refs, refs);
    return good;
}

void outcome_free(struct outcome *o)
{
    requester_unref(&o->r);
}

void assert_refused_(const char *file, int line, const struct outcome *o, int status, const char *errcode,
                     const char *error, int soft_logout, const char *what)
{
    if (o->calls != 1 || o->r || o->status != status || strcmp(o->errcode, errcode) != 0 ||
        strcmp(o->error, error) != 0 || o->soft_logout != soft_logout) {
        print_error("%s: calls %d, %s, %d %s \"%s\" soft_logout %d; wanted %d %s \"%s\" %d\n", what, o->calls,
                    o->r ? "accepted" : "refused", o->status, o->errcode, o->error, o->soft_logout, status,
                    errcode, error, soft_logout);
        _fail(file, line);
    }
}

void assert_accepted_(const char *file, int line, const struct outcome *o, const char *user,
                      const char *device, const char *what)
{
    bool good =
        o->calls == 1 && o->r && str_eq(requester_user(o->r), str_of(user)) &&
        (device ? str_eq(requester_device(o->r), str_of(device)) && !str_absent(requester_device(o->r))
                : str_absent(requester_device(o->r)));

    if (!good) {
        print_error("%s: calls %d, %d %s \"%s\", user %.*s device %.*s\n", what, o->calls, o->status,
                    o->errcode, o->error, STR_ARG(o->r ? requester_user(o->r) : STR("none")),
                    STR_ARG(o->r ? requester_device(o->r) : STR("none")));
        _fail(file, line);
    }
}

void row(struct fix *f, const char *func, const char *k1, const char *k2)
{
    struct str keys[2] = {str_of(k1), str_of(k2)};

    auth_on_cache(f->auth, str_of(func), keys, k2 ? 2 : k1 ? 1 : 0, k1 == NULL);
}

static void on_revoked(struct auth_watch *aw, const struct auth_error *e)
{
    struct watched *w = container_of(aw, struct watched, w);

    assert_false(aw->active);
    w->ended++;
    w->status = e->status;
    w->soft_logout = e->soft_logout;
    copy(w->errcode, sizeof w->errcode, str_of(e->errcode));
    copy(w->error, sizeof w->error, e->error);
    if (w->then)
        w->then(w);
}

void watch(struct fix *f, struct watched *w, struct requester *r)
{
    memset(w, 0, sizeof *w);
    w->w.r = requester_ref(r);
    auth_on_revoked(f->auth, on_revoked);
    auth_watch_add(f->auth, &w->w);
}

int main(void)
{
    int failed = 0;

    log_level = LOG_ERROR + 1;
    failed += run_extract();
    failed += run_internal_tests();
    failed += run_macaroon();
    failed += run_app_service_tests();
    failed += run_mas_tests();
    failed += run_again();
    failed += run_blocking_tests();
    failed += run_watch();
    failed += run_race();
    failed += run_database();
    return failed != 0;
}
