/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The service: routes, wake-ups, the tick, the end.
 */
#include "legacy.h"

enum { TICK_MS = 100 };

/* ^/_matrix/client/(r0|v3|unstable)/sync$, and those of legacy.c */
int sync_route(enum http_method method, struct str path)
{
    static const struct str paths[] = {
        {"/_matrix/client/v3/sync", 23},
        {"/_matrix/client/r0/sync", 23},
        {"/_matrix/client/unstable/sync", 29},
    };
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        if (str_eq(path, paths[i]))
            return method == HTTP_M_GET || method == HTTP_M_HEAD ? 0 : 405;
    }
    enum legacy_kind kind;
    struct str room_id;
    if (legacy_path(path, &kind, &room_id))
        return method == HTTP_M_GET || method == HTTP_M_HEAD ? 0 : 405;
    return 404;
}

void sync_handle(void *arg, struct http_req *req)
{
    req_begin(arg, req);
}

void sync_gone(void *arg, struct http_req *req)
{
    (void)arg;
    req_gone(req);
}

/* Only marks: the polls are computed in slices by the idle handle. */
void sync_wake(void *arg, struct user *u)
{
    struct sync *s = arg;
    struct sync_req *r;
    list_each(r, &u->waiters, struct sync_req, by_user) {
        req_make_ready(r);
    }
    list_each(r, &s->states[REQ_AHEAD], struct sync_req, by_state) {
        if (r->u == u)
            req_make_ready(r);
    }
}

bool sync_answering(void *arg)
{
    const struct sync *s = arg;
    return s->counts[REQ_READY] > REQ_SLICE || model_wakes(s->m);
}

void sync_wake_more(struct sync *s)
{
    req_turn(s);
}

size_t sync_in_flight(const struct sync *s)
{
    size_t n = 0;
    for (int i = 0; i < REQ_DONE; i++)
        n += s->counts[i];
    return n;
}

/* Moves on everything of one state, each at most once. */
static void each_of_state(struct sync *s, enum req_state st, void (*fn)(struct sync_req *r))
{
    size_t n = s->counts[st];
    for (size_t i = 0; i < n && !list_empty(&s->states[st]); i++) {
        struct sync_req *r = container_of(s->states[st].next, struct sync_req, by_state);
        list_del(&r->by_state);
        list_push(&s->states[st], &r->by_state); /* back of the queue if it stays */
        fn(r);
    }
}

static void on_timer(void *arg, struct wheel_timer *t)
{
    (void)arg;
    req_expire(container_of(t, struct sync_req, timer));
}

static void on_tick(uv_timer_t *t)
{
    struct sync *s = t->data;
    (void)wheel_advance(&s->wheel, clock_mono_ms(), SIZE_MAX, on_timer, s);
    if (s->live && model_ready(s->m) && s->counts[REQ_HELD])
        each_of_state(s, REQ_HELD, req_admit);
    if (s->live) {
        each_of_state(s, REQ_CATCH_UP, req_recheck);
        each_of_state(s, REQ_AHEAD, req_make_ready);
    }
    req_admit_queued(s);
    req_sweep_abandoned(s);
    answers_expire(&s->answers, clock_mono_ms());
    shared_expire(&s->shared, clock_wall_ms());
    quick_expire(&s->quick, clock_wall_ms());
    sessions_sweep(&s->sessions, s->m, clock_mono_ms());
}

void sync_feed_state(void *arg, enum feed_state st)
{
    struct sync *s = arg;
    s->live = st == FEED_LIVE;
}

void sync_drain(struct sync *s)
{
    s->draining = true;
    req_sweep_abandoned(s);
    each_of_state(s, REQ_PARKED, req_answer_empty);
    each_of_state(s, REQ_HELD, req_expire);
    each_of_state(s, REQ_CATCH_UP, req_expire);
}

static void on_suspect(void *arg, const struct requester *rq)
{
    struct sync *s = arg;
    answers_forget(&s->answers, rq);
}

int sync_start(struct sync **out, struct uv_loop_s *loop, const struct config *cfg, struct pg *pg,
               struct feed *feed, struct model *m, struct auth *a, struct err *e)
{
    (void)e;
    struct sync *s = xcalloc(1, sizeof *s);
    s->cfg = cfg;
    s->loop = loop;
    s->pg = pg;
    s->feed = feed;
    s->m = m;
    s->auth = a;
    for (int i = 0; i < REQ_STATE_COUNT; i++)
        list_init(&s->states[i]);
    sessions_init(&s->sessions);
    answers_init(&s->answers, cfg->sync_response_cache_duration_ms, (size_t)cfg->response_cache_mb << 20);
    shared_init(&s->shared);
    auth_on_suspect(a, on_suspect, s);
    auth_on_revoked(a, req_revoked);
    wheel_init(&s->wheel, clock_mono_ms());
    s->idle = xcalloc(1, sizeof *s->idle);
    uv_idle_init(loop, s->idle);
    s->idle->data = s;
    s->tick = xcalloc(1, sizeof *s->tick);
    uv_timer_init(loop, s->tick);
    s->tick->data = s;
    uv_timer_start(s->tick, on_tick, TICK_MS, TICK_MS);
    uv_unref((uv_handle_t *)s->tick);
    s->live = feed_state(feed) == FEED_LIVE;
    *out = s;
    return 0;
}

static void free_handle(uv_handle_t *h)
{
    free(h);
}

static void drop(struct sync_req *r)
{
    model_load_cancel(r->s->m, r);
    r->loading = false;
    if (r->http)
        http_drop(&r->http);
    req_finish(r);
}

/* Everything a request holds on to (feed, auth, pg, model) is still there; none of them calls back
 * afterwards. */
void sync_stop(struct sync **sp)
{
    struct sync *s = *sp;
    if (!s)
        return;
    s->stopping = true;
    while (!list_empty(&s->states[REQ_DONE])) { /* answered, but loading */
        struct sync_req *r = container_of(s->states[REQ_DONE].next, struct sync_req, by_state);
        model_load_cancel(s->m, r);
        (void)req_returned(r);
    }
    for (int st = 0; st < REQ_DONE; st++) {
        while (!list_empty(&s->states[st]))
            drop(container_of(s->states[st].next, struct sync_req, by_state));
    }
    uv_close((uv_handle_t *)s->idle, free_handle);
    uv_close((uv_handle_t *)s->tick, free_handle);
    auth_on_suspect(s->auth, NULL, NULL);
    answers_fini(&s->answers);
    quick_fini(&s->quick);
    sessions_fini(&s->sessions, s->m);
    shared_fini(&s->shared);
    vec_free(&s->abandoned);
    if (s->scratch)
        arena_free(&s->scratch);
    free(s);
    *sp = NULL;
}
