/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* The stand-ins for http and auth, and single computations. */
#include "front.h"
#include "http_request.h"

static struct front *the_front;
static int64_t now_ms;

/* ---- http ---- */

static void answered(struct http_req **req, int status, struct str body)
{
    struct client *c = container_of(*req, struct client, req);
    assert_true(c->held);
    c->held = false;
    c->answers++;
    c->status = status;
    c->body = arena_str(c->f->w->text, body);
    *req = NULL;
}
void http_res_init(struct http_res *res, int status)
{
    *res = (struct http_res){.status = status};
    rope_init(&res->body);
}
void http_res_error(struct http_res *res, int status, const char *errcode, struct str error,
                    const struct json *extra)
{
    (void)extra;
    (void)error;
    res->status = status;
    rope_put(&res->body, str_of(errcode));
}
void http_reply(struct http_req **req, struct http_res *res)
{
    struct arena *a = arena_new((size_t)1 << 30);
    answered(req, res->status, rope_flatten(&res->body, a));
    rope_fini(&res->body);
    arena_free(&a);
}
void http_reply_error(struct http_req **req, int status, const char *errcode, const char *error)
{
    (void)error;
    answered(req, status, str_of(errcode));
}
void http_reply_soon(const struct http_req *req)
{
    (void)req;
}
void http_drop(struct http_req **req)
{
    struct client *c = container_of(*req, struct client, req);
    assert_true(c->held);
    c->held = false;
    c->drops++;
    *req = NULL;
}

/* ---- auth ---- */

/* A service acts as the user_id of its query. */
static struct requester *requester_make(struct http_req *req)
{
    struct str user = the_front->user ? str_of(the_front->user) : STR("@a:x");
    struct str as = req ? http_query(req, STR("user_id")) : STR_ABSENT;
    if (!str_absent(as))
        user = as;
    struct requester *r = xcalloc(1, sizeof *r + user.n + 1);
    r->refs = 1;
    r->kind = the_front->kind;
    r->is_app_service = r->kind == REQUESTER_APP_SERVICE;
    memcpy(r->text, user.p, user.n);
    r->text[user.n] = 'D'; /* the device */
    r->user_n = (uint32_t)user.n;
    r->device_n = !the_front->no_device;
    r->has_device = !the_front->no_device;
    r->token_key[0] = the_front->token;
    r->is_guest = the_front->guest;
    r->suspected = the_front->suspicions;
    r->is_admin = the_front->admin;
    the_front->requesters++;
    return r;
}
struct requester *requester_ref(struct requester *r)
{
    r->refs++;
    return r;
}
void requester_unref(struct requester **r)
{
    if (*r && --(*r)->refs == 0) {
        free(*r);
        the_front->requesters--;
    }
    *r = NULL;
}
const char *requester_log_name(const struct requester *r, struct http_req *req)
{
    return arena_str(http_arena(req), requester_user(r)).p;
}
void auth_reply_error(struct http_req **req, const struct auth_error *e)
{
    answered(req, e->status, str_of(e->errcode));
}
void auth_request(struct auth *a, struct http_req *req, bool allow_guest, auth_done_fn *done, void *arg)
{
    struct front *f = the_front;
    (void)a;
    (void)allow_guest;
    f->auth_asked++;
    if (f->hold_auth) {
        f->auth[f->auth_n].fn = done;
        f->auth[f->auth_n].req = req;
        f->auth[f->auth_n++].arg = arg;
    } else if (f->auth_fails) {
        done(arg, NULL, &(struct auth_error){.status = 401, .errcode = f->auth_fails});
    } else {
        done(arg, requester_make(req), NULL);
    }
}
bool auth_again(struct auth *a, struct requester *r, const struct http_req *req, int64_t *ip_due_ms)
{
    (void)ip_due_ms;
    const struct front *f = the_front;
    (void)a;
    (void)req;
    return !f->hold_auth && !f->auth_fails && r->suspected == f->suspicions;
}
void auth_check_blocking(struct auth *a, struct requester *r,
                         void (*done)(void *arg, const struct auth_error *e), void *arg)
{
    struct front *f = the_front;
    (void)a;
    (void)r;
    if (!f->hold_blocking) {
        done(arg, NULL);
        return;
    }
    f->blocking[f->blocking_n].fn = done;
    f->blocking[f->blocking_n++].arg = arg;
}
void auth_cancel(struct auth *a, const void *arg)
{
    struct front *f = the_front;
    (void)a;
    for (int i = 0; i < f->auth_n; i++) {
        if (f->auth[i].arg == arg)
            f->auth[i--] = f->auth[--f->auth_n];
    }
    for (int i = 0; i < f->blocking_n; i++) {
        if (f->blocking[i].arg == arg)
            f->blocking[i--] = f->blocking[--f->blocking_n];
    }
}
void auth_on_revoked(struct auth *a, void (*fn)(struct auth_watch *w, const struct auth_error *e))
{
    (void)a;
    the_front->revoked = fn;
}
void auth_watch_add(struct auth *a, struct auth_watch *w)
{
    (void)a;
    assert_false(w->active);
    w->active = true;
    vec_push(&the_front->watches, w);
}
void auth_watch_del(struct auth_watch *w)
{
    for (size_t i = 0; i < the_front->watches.n; i++) {
        if (the_front->watches.v[i] == w)
            the_front->watches.v[i] = the_front->watches.v[--the_front->watches.n];
    }
    if (w->active)
        requester_unref(&w->r);
    w->active = false;
}
void feed_presence_start(struct feed *f, struct str user_id, struct str device_id, struct str state)
{
    (void)f;
    (void)user_id;
    (void)device_id;
    (void)state;
    the_front->presence++;
    the_front->presence_begun++;
}
void feed_presence_end(struct feed *f, struct str user_id, struct str device_id)
{
    (void)f;
    (void)user_id;
    (void)device_id;
    the_front->presence--;
}

void auth_on_suspect(struct auth *a, void (*fn)(void *arg, const struct requester *r), void *arg)
{
    (void)a;
    the_front->suspect = fn;
    the_front->suspect_arg = arg;
}

void front_suspect(struct front *f)
{
    struct requester *r = requester_make(NULL);
    f->suspicions++;
    f->suspect(f->suspect_arg, r);
    requester_unref(&r);
}

void front_auth(struct front *f)
{
    for (int n = f->auth_n, i = f->auth_n = 0; i < n; i++)
        f->auth[i].fn(f->auth[i].arg, requester_make(f->auth[i].req), NULL);
}

void front_blocking(struct front *f, bool pass)
{
    struct auth_error e = {.status = 403, .errcode = "M_RESOURCE_LIMIT_EXCEEDED"};
    for (int n = f->blocking_n, i = f->blocking_n = 0; i < n; i++)
        f->blocking[i].fn(f->blocking[i].arg, pass ? NULL : &e);
}

void front_revoke(struct front *f)
{
    struct auth_error e = {.status = 401, .errcode = "M_UNKNOWN_TOKEN"};
    while (f->watches.n) {
        struct auth_watch *w = f->watches.v[0];
        auth_watch_del(w);
        f->revoked(w, &e);
    }
}

/* ---- clients ---- */

static void on_wake(void *arg, struct user *u)
{
    struct front *f = arg;
    if (f->s)
        sync_wake(f->s, u);
}

static void on_wake_more(void *arg)
{
    struct front *f = arg;
    if (f->s)
        sync_wake_more(f->s);
    while (!f->s && model_wake_more(f->w->m))
        ;
}

struct front *front_new(void)
{
    return front_new_with("");
}

struct front *front_new_with(const char *yaml)
{
    static char text[1024];
    struct front *f = xcalloc(1, sizeof *f);
    struct err e;
    the_front = f;
    now_ms = 1000000;
    clock_fake_set(now_ms);
    snprintf(text, sizeof text,
             "presence: {enabled: true}\nchappe:\n  check_shortcuts: true\n  initial_syncs_max: 1\n  "
             "parked_per_user_max: 2\n%s%s",
             strstr(yaml, "initial_syncs_queued_max") ? "" : "  initial_syncs_queued_max: 1\n", yaml);
    world_config(text);
    f->w = world_new();
    f->w->on_wake = on_wake;
    f->w->on_wake_more = on_wake_more;
    f->w->on_wake_arg = f;
    world_add(&f->w->keys, 0, "@a:x", "D", "signed_curve25519", 50);
    for (int i = 0; i < 12; i++)
        world_add(&f->w->sequences, NULL, NULL, 1000);
    world_room(f->w, "!r:x", 10, "shared", "@a:x", "@b:x", NULL);
    model_adopt(f->w->m, (struct feed *)(void *)f->w);
    assert_int_equal(sync_start(&f->s, &f->w->loop, f->w->cfg, (struct pg *)(void *)f->w,
                                (struct feed *)(void *)f->w, f->w->m, (struct auth *)(void *)f, &e),
                     0);
    world_settle(f->w);
    return f;
}

/* Stops in the order of the worker; everything must have been answered or dropped, once, and given back. */
void front_free(struct front **fp)
{
    struct front *f = *fp;
    if (f->s)
        sync_stop(&f->s);
    world_stop_pg(f->w);
    model_stop(&f->w->m);
    for (size_t i = 0; i < f->clients.n; i++) {
        struct client *c = f->clients.v[i];
        assert_int_equal(c->answers + c->drops, 1);
        arena_free(&c->req.arena);
        free(c);
    }
    assert_int_equal(f->presence, 0);
    assert_int_equal(f->requesters, 0);
    assert_int_equal(f->watches.n, 0);
    vec_free(&f->clients);
    vec_free(&f->watches);
    world_free(&f->w);
    for (int k = MEM_filters; k <= MEM_scratch; k++)
        assert_int_equal(mem_bytes((enum mem_kind)k), 0);
    clock_fake_set(1000000); /* as it was: groups of tests share the clock */
    free(f);
    *fp = NULL;
}

struct client *front_get(struct front *f, const char *query)
{
    struct client *c = xcalloc(1, sizeof *c);
    c->f = f;
    c->held = true;
    struct arena *a = http_arena(&c->req);
    struct str path = STR("/_matrix/client/v3/sync"), rest = str_of(query);
    c->req.authorization_count = 1;
    c->authorization = arena_printf(a, "Bearer %s %d", f->user ? f->user : "", (int)f->token);
    c->req.authorization = &c->authorization;
    if (query[0] == '/' && !str_cut(str_of(query), '?', &path, &rest)) /* another endpoint: path?query */
        rest = STR_ABSENT;
    request_texts(&c->req, a, path, rest, STR(""), STR(""));
    vec_push(&f->clients, c);
    sync_handle(f->s, &c->req);
    return c;
}

void front_gone(struct client *c)
{
    c->req.gone = true;
    if (c->held)
        sync_gone(c->f->s, &c->req);
}

void front_run(struct front *f)
{
    world_settle(f->w);
    for (int i = 0; f->s && i < 50 && f->s->idle_running; i++)
        world_settle(f->w);
}

/* The service's timer runs on the loop's own clock. */
void front_later(struct front *f, int64_t ms)
{
    clock_fake_set(now_ms += ms);
    for (int i = 0; i < 3; i++) {
        uv_sleep(60);
        front_run(f);
    }
}

enum req_state front_state(struct front *f)
{
    enum req_state found = REQ_STATE_COUNT;
    for (int i = 0; i < REQ_STATE_COUNT; i++) {
        if (f->s->counts[i]) {
            assert_int_equal(found, REQ_STATE_COUNT);
            found = (enum req_state)i;
        }
    }
    return found;
}

const char *next_batch(struct world *w)
{
    return arena_str(w->text, model_now_text(w->m)).p;
}

/* ---- one computation ---- */

struct compute_how compute_how;

static const char *try_compute(struct world *w, const char *user, const char *device, const char *filter,
                               const struct stream_token *since, enum run_result *res,
                               struct stream_token *next, bool *ahead)
{
    struct user *u = model_user(w->m, S(user));
    struct requester rq = {.is_admin = compute_how.is_admin};
    struct filter *f;
    struct err e;
    struct stream_token dummy;
    const char *body = NULL;
    assert_int_equal(filter_parse_with(str_of(filter), 0, &f, &e), 0);
    model_user_pin(w->m, u);
    for (int i = 0; i < 60 && !body; i++) {
        struct arena *a = arena_new((size_t)1 << 30);
        struct sync_run run = {.m = w->m,
                               .cfg = w->cfg,
                               .u = u,
                               .d = device ? model_device(w->m, u, S(device)) : NULL,
                               .rq = &rq,
                               .f = f,
                               .has_since = since != NULL,
                               .use_state_after = compute_how.use_state_after,
                               .a = a};
        if (since)
            run.since = *since;
        struct rope out;
        rope_init(&out);
        enum run_result r = sync_run(&run, &out, next ? next : &dummy);
        if (r != RUN_LACK)
            body = arena_str(w->text, rope_flatten(&out, a)).p;
        if (res)
            *res = r;
        *ahead = run.ahead && !run.lack;
        sync_run_fini(&run);
        rope_fini(&out);
        arena_free(&a);
        world_settle(w);
    }
    model_user_unpin(w->m, u);
    filter_unref(&f);
    return body;
}

const char *compute(struct world *w, const char *user, const char *device, const char *filter,
                    const struct stream_token *since, enum run_result *res, struct stream_token *next)
{
    bool ahead;
    const char *body = try_compute(w, user, device, filter, since, res, next, &ahead);
    assert_non_null(body);
    return body;
}

bool compute_waits(struct world *w, const char *user, const char *device)
{
    bool ahead = false;
    return !try_compute(w, user, device, "{}", NULL, NULL, NULL, &ahead) && ahead;
}

struct client *front_ask(struct front *f, const char *query)
{
    struct client *c = front_get(f, query);
    front_run(f);
    return c;
}

void front_message(struct front *f, int64_t stream)
{
    world_say(f->w, (struct t_event){.id = world_text(f->w, "$m%d", (int)stream),
                                     .room = "!r:x",
                                     .stream = stream,
                                     .sender = "@b:x"});
    world_burst_end(f->w);
    front_run(f);
}
