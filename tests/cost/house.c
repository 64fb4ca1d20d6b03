/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* The stand-in for http, and the devices. */
#include "house.h"
#include "http_request.h"

#include "count.h"
#include "request.h"

#include <stdio.h>
#include <sys/random.h>
#include <valgrind/callgrind.h>

enum { STEP_MS = 50, POLL_MS = 30000 };

static int64_t now_ms = 1000000;

/* Hashes get the same key in each run, so that tables have the same collisions. */
ssize_t getrandom(void *p, size_t n, unsigned flags)
{
    (void)flags;
    memset(p, 0x5a, n);
    return (ssize_t)n;
}

/* ---- the database: world.h's, not counted ---- */

void __wrap_pg_exec(struct pg *pg, enum pg_stmt stmt, struct pg_args *args, pg_done_fn *done, void *arg);
void __real_pg_exec(struct pg *pg, enum pg_stmt stmt, struct pg_args *args, pg_done_fn *done, void *arg);

void __wrap_pg_exec(struct pg *pg, enum pg_stmt stmt, struct pg_args *args, pg_done_fn *done, void *arg)
{
    CALLGRIND_TOGGLE_COLLECT;
    __real_pg_exec(pg, stmt, args, done, arg);
    CALLGRIND_TOGGLE_COLLECT;
}

/* ---- the authentication service: knows all tokens, and answers at once ---- */

void __wrap_httpc_send(struct httpc *c, const struct httpc_req *req, httpc_done_fn *done, void *arg);

void __wrap_httpc_send(struct httpc *c, const struct httpc_req *req, httpc_done_fn *done, void *arg)
{
    static const char end[] = "Ab&token_type_hint=access_token";
    char body[160];
    (void)c;
    CALLGRIND_TOGGLE_COLLECT;
    ASSERT(req->body.n > sizeof end + 4);
    const char *number = req->body.p + req->body.n - (sizeof end - 1) - 4;
    snprintf(body, sizeof body,
             "{\"active\":true,\"scope\":\"urn:matrix:client:api:*\",\"username\":\"user%.4s\","
             "\"device_id\":\"DEVICEABCD\",\"expires_in\":300}",
             number);
    struct httpc_res res = {.status = 200, .body = str_of(body)};
    done(arg, &res);
    CALLGRIND_TOGGLE_COLLECT;
}

/* ---- http ---- */

static void answered(struct http_req **req, int status, const struct rope *body)
{
    CALLGRIND_TOGGLE_COLLECT;
    struct device_client *c = container_of(*req, struct device_client, req);
    ASSERT(c->polls);
    c->polls = false;
    c->status = status;
    c->body = body ? rope_flatten(body, c->h->answers) : STR("");
    *req = NULL;
    CALLGRIND_TOGGLE_COLLECT;
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
    http_res_init(res, status);
    rope_put(&res->body, str_of(errcode));
}
void http_reply(struct http_req **req, struct http_res *res)
{
    answered(req, res->status, &res->body);
    rope_fini(&res->body); /* counted: it belongs to how the rope was made */
}
void http_reply_error(struct http_req **req, int status, const char *errcode, const char *error)
{
    struct http_res res;
    http_res_error(&res, status, errcode, str_of(error), NULL);
    http_reply(req, &res);
}
void http_reply_soon(const struct http_req *req)
{
    (void)req;
}
void http_drop(struct http_req **req)
{
    answered(req, 0, NULL);
}

/* ---- what is told to the homeserver ---- */

int64_t feed_send_user_ip(struct feed *f, struct str user_id, struct str access_token, struct str ip,
                          struct str user_agent, struct str device_id)
{
    (void)f;
    (void)user_id;
    (void)access_token;
    (void)ip;
    (void)user_agent;
    (void)device_id;
    return now_ms + 120000; /* as if it had just been told */
}
void feed_presence_start(struct feed *f, struct str user_id, struct str device_id, struct str state)
{
    (void)f;
    (void)user_id;
    (void)device_id;
    (void)state;
}
void feed_presence_end(struct feed *f, struct str user_id, struct str device_id)
{
    (void)f;
    (void)user_id;
    (void)device_id;
}

/* ---- the house ---- */

static void on_wake(void *arg, struct user *u)
{
    struct house *h = arg;
    if (h->s)
        sync_wake(h->s, u);
}

static void on_wake_more(void *arg)
{
    struct house *h = arg;
    if (h->s)
        sync_wake_more(h->s);
    while (!h->s && model_wake_more(h->w->m))
        ;
}

/* As Element Web stores it. */
#define FILTER                                                         \
    "{\"room\":{\"state\":{\"lazy_load_members\":true},\"timeline\":{" \
    "\"limit\":20,\"unread_thread_notifications\":true}}}"
#define FILTER_ESCAPED                                                                             \
    "%7B%22room%22%3A%7B%22state%22%3A%7B%22lazy_load_members%22%3Atrue%7D%2C%22timeline%22%3A%7B" \
    "%22limit%22%3A20%2C%22unread_thread_notifications%22%3Atrue%7D%7D%7D"

static void device_add(struct house *h, struct device_client *c, int i)
{
    struct world *w = h->w;
    c->h = h;
    snprintf(c->user, sizeof c->user, "@user%04d:x", i);
    const char *token = world_text(w, "syt_dXNlcjAwMDA_aBcDeFgHiJkLmNoPqRsT_%04dAb", i);
    snprintf(c->authorization, sizeof c->authorization, "Bearer %s", token);
    world_add(&w->tokens, token, c->user, "DEVICEABCD", i + 1);
    world_add(&w->keys, 0, c->user, "DEVICEABCD", "signed_curve25519", 50);
    world_add(&w->filters, c->user, FILTER, 0);
}

struct house *house_new(int users)
{
    return house_new_with(users, "");
}

struct house *house_new_with(int users, const char *settings)
{
    static char yaml[512];
    struct house *h = xcalloc(1, sizeof *h);
    clock_fake_set(now_ms);
    snprintf(yaml, sizeof yaml, "%spresence: {enabled: true}\nchappe:\n  initial_syncs_max: 1000\n",
             settings);
    world_config(yaml);
    h->at = 1000;
    h->w = world_new_writers(1000000, -1);
    h->w->on_wake = on_wake;
    h->w->on_wake_more = on_wake_more;
    h->w->on_wake_arg = h;
    h->w->woken_forgotten = true;
    h->answers = arena_new((size_t)1 << 30);
    h->n = users;
    h->v = xcalloc((size_t)users, sizeof *h->v);
    for (int i = 0; i < users; i++)
        device_add(h, &h->v[i], i);
    return h;
}

void house_free(struct house **hp)
{
    struct house *h = *hp;
    sync_stop(&h->s);
    auth_stop(&h->a);
    world_stop_pg(h->w);
    model_stop(&h->w->m);
    for (int i = 0; i < h->n; i++) {
        ASSERT(!h->v[i].polls);
        arena_free(&h->v[i].texts);
        arena_free(&h->v[i].req.arena);
    }
    world_free(&h->w);
    arena_free(&h->answers);
    free(h->v);
    free(h);
    *hp = NULL;
}

/* All joins are in one group, which is whole: Synapse keeps the chains of changed groups short. */
static void whole_group(struct world *w, const char *room, int64_t group)
{
    for (size_t i = 0; i < w->state.n; i++) {
        const struct t_state *st = &w->state.v[i];
        if (!strcmp(st->room, room))
            world_add(&w->groups, .id = group, .type = st->type, .key = st->key, .event = st->event);
    }
}

const char *house_room(struct house *h, const char *room)
{
    struct world *w = h->w;
    h->at = world_room(w, room, h->at + 1, "shared", "@s:x", NULL);
    int64_t group = 1000 + h->at + h->n;
    const char *prev = world_text(w, "$hv%s", room);
    for (int i = 0; i < h->n; i++) {
        const char *id = world_text(w, "$join%d%s", i, room);
        const char *profile =
            world_text(w, "\"displayname\":\"User %d\",\"avatar_url\":\"mxc://x/abcdefgh%d\"", i, i);
        world_event(w, (struct t_event){.id = id,
                                        .room = room,
                                        .type = "m.room.member",
                                        .key = h->v[i].user,
                                        .sender = h->v[i].user,
                                        .stream = ++h->at,
                                        .sg = group,
                                        .prev = prev,
                                        .content = world_text(w, "{%s,\"membership\":\"join\"}", profile)});
        prev = id;
    }
    whole_group(w, room, group);
    return prev;
}

void house_talk(struct house *h, const char *room, const char *last, int messages)
{
    struct t_event e = {.room = room,
                        .id = world_text(h->w, "$name%s", room),
                        .type = "m.room.name",
                        .key = "",
                        .sender = "@s:x",
                        .prev = last,
                        .content = "{\"name\":\"A room\"}"};
    for (int i = 0; i <= messages; i++) {
        e.stream = ++h->at;
        world_event(h->w, e);
        const char *text = world_text(h->w, "{\"body\":\"%s line %d\",\"msgtype\":\"m.text\"}", room, i);
        e = (struct t_event){.room = room,
                             .id = world_text(h->w, "$line%d%s", i, room),
                             .sender = "@s:x",
                             .prev = e.id,
                             .content = text};
    }
}

void house_run(struct house *h)
{
    world_settle(h->w);
    for (int i = 0; i < 1000 && h->s->idle_running; i++)
        world_settle(h->w);
}

static const char *query_of(struct device_client *c, enum poll_kind kind)
{
    struct arena *a = c->texts;
    if (kind == POLL_INITIAL)
        return arena_printf(a, "filter=0&timeout=%d&org.matrix.msc4222.use_state_after=true", c->h->initials)
            .p;
    if (!*c->since)
        return arena_printf(a, "filter=0&timeout=0&org.matrix.msc4222.use_state_after=true").p;
    if (kind == POLL_INLINE_FILTER)
        return arena_printf(a, "filter=%s&timeout=%d&since=%s", FILTER_ESCAPED, POLL_MS, c->since).p;
    return arena_printf(a, "filter=0&timeout=%d&org.matrix.msc4222.use_state_after=true&since=%s", POLL_MS,
                        c->since)
        .p;
}

static void take_next_batch(struct device_client *c)
{
    static const char name[] = "\"next_batch\":\"";
    const char *p = c->body.n ? memmem(c->body.p, c->body.n, name, sizeof name - 1) : NULL;
    if (c->status != 200 || !p)
        fail_msg("%s: no next_batch, status %d", c->user, c->status);
    p += sizeof name - 1;
    snprintf(c->since, sizeof c->since, "%.*s", (int)strcspn(p, "\""), p);
}

/* The front's part. */
static void request_make(struct device_client *c, enum poll_kind kind)
{
    if (c->status)
        take_next_batch(c);
    arena_free(&c->req.arena);
    arena_free(&c->texts);
    c->texts = arena_new(1 << 20);
    c->authorization_text = str_of(c->authorization);
    c->req = (struct http_req){
        .authorization = &c->authorization_text,
        .authorization_count = 1,
        .received_ms = (uint32_t)now_ms,
    };
    request_texts(&c->req, c->texts, STR("/_matrix/client/v3/sync"), str_of(query_of(c, kind)),
                  STR("192.0.2.7"),
                  STR("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
                      "Chrome/140.0.0.0 Safari/537.36"));
    request_share(&c->req, c->texts);
    c->polls = true;
    c->status = 0;
}

void house_poll(struct house *h, enum poll_kind kind, const char *count)
{
    struct http_req **v = xcalloc((size_t)h->n, sizeof(struct http_req *));
    int n = 0;
    if (kind == POLL_INITIAL)
        h->initials++;
    for (int i = 0; i < h->n; i++) {
        if (h->v[i].polls)
            continue;
        request_make(&h->v[i], kind);
        v[n++] = &h->v[i].req;
    }
    arena_reset(h->answers);
    if (count)
        count_begin();
    for (int i = 0; i < n; i++)
        sync_handle(h->s, v[i]);
    house_run(h);
    if (count)
        count_end(count, h->n);
    clock_fake_set(now_ms += STEP_MS);
    free(v);
}

static void stop_timer(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (handle->type == UV_TIMER)
        uv_timer_stop((uv_timer_t *)handle);
}

void house_open(struct house *h)
{
    struct world *w = h->w;
    struct err e;
    ASSERT(h->at < 1000000);
    h->at = 1000000;
    model_adopt(w->m, (struct feed *)(void *)w);
    if (auth_start(&h->a, &w->loop, w->cfg, (struct pg *)(void *)w, NULL, (struct feed *)(void *)w, &e) ||
        sync_start(&h->s, &w->loop, w->cfg, (struct pg *)(void *)w, (struct feed *)(void *)w, w->m, h->a, &e))
        fail_msg("%s", e.text);
    world_settle(w);
    house_poll(h, POLL_STORED_FILTER, NULL);
    house_expect_answers(h, "\"join\":{");
    house_poll(h, POLL_STORED_FILTER, NULL);
    house_expect_parked(h);
    uv_walk(&w->loop, stop_timer, NULL);
    uv_ref((uv_handle_t *)w->m->prepare); /* else a loop without timers does nothing, wants included */
}

/* ---- what is expected ---- */

void house_expect_answers(const struct house *h, const char *part)
{
    for (int i = 0; i < h->n; i++) {
        const struct device_client *c = &h->v[i];
        if (c->polls || c->status != 200 || !memmem(c->body.p, c->body.n, part, strlen(part)))
            fail_msg("%s: %s, status %d, expected %s in %.*s", c->user, c->polls ? "polls" : "answered",
                     c->status, part, STR_ARG(c->body));
    }
}

void house_expect_parked(const struct house *h)
{
    for (int i = 0; i < h->n; i++) {
        if (!h->v[i].polls)
            fail_msg("%s: status %d, expected nothing: %.*s", h->v[i].user, h->v[i].status,
                     STR_ARG(h->v[i].body));
    }
}
