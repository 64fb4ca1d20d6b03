/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * From arrival to admission: authentication, then the parameters in Synapse's order of evaluation
 * (sync-v3 1.2: the first failure wins), the filter, presence, and the checks that come last.
 */
#include "legacy.h"

#define STATE_AFTER "org.matrix.msc4222.use_state_after"

/* Where the user's other requests, and wake-ups, look for it. */
static struct list *user_list(struct sync_req *r, enum req_state st)
{
    switch (st) {
    case REQ_PARKED:
        return &r->u->waiters;
    case REQ_HELD:
    case REQ_CATCH_UP:
    case REQ_QUEUED:
    case REQ_READY:
    case REQ_LOADING:
    case REQ_AHEAD:
        return &r->u->running;
    case REQ_AUTH:
    case REQ_FILTER:
    case REQ_BLOCKING:
    case REQ_JOINED:
    case REQ_DONE:
    case REQ_STATE_COUNT:
        break;
    }
    return NULL;
}

void req_set_state(struct sync_req *r, enum req_state st)
{
    struct sync *s = r->s;
    struct list *of_user = user_list(r, st);
    ASSERT(r->state != REQ_DONE);
    list_del(&r->by_user);
    if (r->state == REQ_PARKED || r->state == REQ_JOINED)
        r->u->waiters_count--;
    list_del(&r->by_state);
    s->counts[r->state]--;
    r->state = st;
    s->counts[st]++;
    list_push(&s->states[st], &r->by_state);
    if (of_user)
        list_push(of_user, &r->by_user);
    if (st == REQ_PARKED || st == REQ_JOINED)
        r->u->waiters_count++;
    metric_set(M_sync_parked, (int64_t)(s->counts[REQ_PARKED] + s->counts[REQ_HELD]));
}

static void req_release(struct sync_req *r);

void req_finish(struct sync_req *r)
{
    struct sync *s = r->s;
    wheel_cancel(&s->wheel, &r->timer);
    auth_watch_del(&r->watch);
    if (r->state == REQ_BLOCKING ||
        (r->state == REQ_AUTH && s->stopping)) /* a walk: only where something may be pending */
        auth_cancel(s->auth, r);
    if (req_sequences(r)) {
        r->extra->sequences->r = NULL; /* its answer finds nobody */
        r->extra->sequences = NULL;
    }
    if (r->admitted) {
        s->initial_running--;
        if (s->counts[REQ_QUEUED])
            req_turn(s);
    }
    r->admitted = false;
    if (r->presence)
        feed_presence_end(s->feed, r->u->user_id, r->d ? r->d->device_id : STR_ABSENT);
    r->presence = false;
    req_unjoin(r);
    req_forget_abandoned(r);
    req_set_state(r, REQ_DONE);
    if (!r->loading) /* else the loader still holds it: released by its callback */
        req_release(r);
}

struct req_extra *req_extra(struct sync_req *r)
{
    if (!r->extra) {
        r->extra = MEM_NEW(MEM_requests, struct req_extra);
        r->extra->r = r;
        list_init(&r->extra->joined);
    }
    return r->extra;
}

static void extra_free(struct sync_req *r)
{
    struct req_extra *x = r->extra;
    if (!x)
        return;
    legacy_free(&x->legacy);
    free(x->since);
    mem_free(MEM_requests, x);
    r->extra = NULL;
}

struct sequences_call *sequences_begin(struct sync_req *r)
{
    struct sequences_call *call = xcalloc(1, sizeof *call);
    call->r = r;
    req_extra(r)->sequences = call;
    return call;
}

struct sync_req *sequences_end(struct sequences_call *call)
{
    struct sync_req *r = call->r;
    free(call);
    if (r)
        r->extra->sequences = NULL;
    return r;
}

static void req_release(struct sync_req *r)
{
    struct sync *s = r->s;
    list_del(&r->by_state);
    s->counts[REQ_DONE]--;
    if (r->u)
        model_user_unpin(s->m, r->u);
    filter_unref(&r->f);
    requester_unref(&r->watch.r);
    session_unref(&s->sessions, &r->session);
    extra_free(r);
    mem_free(MEM_requests, r);
}

bool req_returned(struct sync_req *r)
{
    r->loading = false;
    if (r->state != REQ_DONE)
        return true;
    req_release(r);
    return false;
}

struct plain_error {
    int status;
    const char *errcode, *error;
};

static void end_plainly(struct sync_req *r, const void *arg)
{
    const struct plain_error *e = arg;
    if (r->http)
        http_reply_error(&r->http, e->status, e->errcode, e->error);
    req_finish(r);
}

void req_error(struct sync_req *r, int status, const char *errcode, const char *error)
{
    struct plain_error e = {status, errcode, error};
    req_error_joined(r, end_plainly, &e);
    end_plainly(r, &e);
}

static void end_unauthorised(struct sync_req *r, const void *e)
{
    if (r->http)
        auth_reply_error(&r->http, e);
    req_finish(r);
}

/* Those who joined have the same token. */
static void req_auth_error(struct sync_req *r, const struct auth_error *e)
{
    req_error_joined(r, end_unauthorised, e);
    end_unauthorised(r, e);
}

/* ---- parameters ---- */

static bool is_ascii(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        if ((unsigned char)s.p[i] >= 0x80)
            return false;
    }
    return true;
}

static bool parse_timeout(struct sync_req *r)
{
    struct str t = http_query(r->http, STR("timeout"));
    int64_t ms = 0;
    if (!str_absent(t) && str_to_i64_lax(t, &ms)) {
        req_error(r, 400, "M_INVALID_PARAM", "Query parameter timeout must be an integer");
        return false;
    }
    if (ms < 0) {
        req_error(r, 400, "M_INVALID_PARAM", "Query parameter timeout must be a positive integer.");
        return false;
    }
    r->timeout_ms = (int32_t)(ms < r->s->cfg->timeout_max_ms ? ms : r->s->cfg->timeout_max_ms);
    return true;
}

static const struct str presence_states[] = {
    [SET_OFFLINE] = {"offline", 7}, [SET_ONLINE] = {"online", 6}, [SET_UNAVAILABLE] = {"unavailable", 11}};

static int presence_parse(struct str state)
{
    for (int i = 0; i < (int)(sizeof presence_states / sizeof *presence_states); i++) {
        if (str_eq(presence_states[i], state))
            return i;
    }
    return -1;
}

/* A parameter of text: each of its values is checked, the first is the one that counts (Synapse 1.157
 * http/servlet.py, parse_strings_from_args). */
static bool parse_text(struct sync_req *r, const char *name, struct str *out)
{
    struct str value;
    *out = STR_ABSENT;
    for (size_t it = 0; http_query_next(r->http, str_of(name), &it, &value);) {
        if (!is_ascii(value)) {
            char text[64];
            snprintf(text, sizeof text, "Query parameter '%s' must be ascii", name);
            req_error(r, 400, "M_UNKNOWN", text);
            return false;
        }
        if (str_eq(str_of(name), STR("set_presence")) && presence_parse(value) < 0) {
            req_error(r, 400, "M_INVALID_PARAM",
                      "Query parameter 'set_presence' must be one of ['online', 'offline', 'unavailable']");
            return false;
        }
        if (str_absent(*out))
            *out = value;
    }
    return true;
}

static bool parse_parameters(struct sync_req *r)
{
    struct str presence;
    if (!parse_timeout(r) || !parse_text(r, "since", &r->since_text) ||
        !parse_text(r, "set_presence", &presence) || !parse_text(r, "filter", &r->filter_text))
        return false;
    r->set_presence = str_absent(presence) ? SET_ONLINE : (uint8_t)presence_parse(presence);
    struct str full = http_query(r->http, STR("full_state"));
    r->full_state = str_eq(full, STR("true"));
    if (!str_absent(full) && !r->full_state && !str_eq(full, STR("false"))) {
        req_error(r, 400, "M_INVALID_PARAM",
                  "Boolean query parameter 'full_state' must be one of ['true', 'false']");
        return false;
    }
    return true;
}

/* ---- after the filter ---- */

/* The memo is of r's token from here on. */
static void since_look(const struct sync_req *r)
{
    struct sync *s = r->s;
    struct str text = r->since_text;
    if (text.n && s->since.n == text.n && memcmp(s->since.text, text.p, text.n) == 0)
        return;
    s->since.hash = str_hash(text);
    s->since.parsed = false;
    s->since.n = text.n <= sizeof s->since.text ? text.n : 0;
    if (s->since.n)
        memcpy(s->since.text, text.p, text.n);
}

const struct stream_token *req_since(const struct sync_req *r)
{
    struct sync *s = r->s;
    since_look(r);
    if (!s->since.parsed &&
        (token_parse(r->since_text, feed_writer_known, &s->since.token) || s->since.token.historical))
        return NULL;
    s->since.parsed = true;
    return &s->since.token;
}

uint64_t req_since_hash(const struct sync_req *r)
{
    since_look(r);
    return r->s->since.hash;
}

static void on_blocking(void *arg, const struct auth_error *e)
{
    struct sync_req *r = arg;
    if (r->state != REQ_BLOCKING)
        return;
    if (e)
        req_auth_error(r, e);
    else
        req_join(r);
}

/* rc_presence.per_user, as Synapse's Ratelimiter counts: a number that leaks away at the rate, and that one
 * more must not raise above the burst. It is kept as the time when it will have leaked away, in 32 bits, so a
 * whole burst takes twelve days at most, and one step of it whole milliseconds. It goes with its user, who
 * has then not been here for a minute at least. */
static bool presence_allowed(const struct config *cfg, struct user *u)
{
    enum { ALL_MS = 1 << 30 };
    double burst = cfg->rc_presence_burst, one_ms = 1000.0 / cfg->rc_presence_per_second;
    if (burst < 1)
        return false;
    if (!(one_ms * burst <= ALL_MS)) /* or no rate at all */
        one_ms = ALL_MS / burst;
    uint32_t step = (uint32_t)(one_ms + 0.5), now = (uint32_t)clock_mono_coarse_ms();
    int32_t left = (int32_t)(u->presence_ms - now);
    if (left < 0 || left > step * burst) /* long ago: the clock has gone round since */
        left = 0;
    if (left > step * (burst - 1))
        return false;
    u->presence_ms = now + (uint32_t)left + step;
    return true;
}

void req_affect_presence(struct sync_req *r, struct str state)
{
    struct sync *s = r->s;
    if (!s->cfg->presence.tracked)
        return;
    r->presence = true;
    feed_presence_start(s->feed, r->u->user_id, r->d ? r->d->device_id : STR_ABSENT, state);
}

void req_revoked(struct auth_watch *w, const struct auth_error *e)
{
    struct sync_req *r = container_of(w, struct sync_req, watch);
    req_auth_error(r, e);
}

void req_watch(struct sync_req *r)
{
    auth_watch_add(r->s->auth, &r->watch);
}

/* What was asked is known and good: presence, then whether this user is served at all. */
static void asked(struct sync_req *r)
{
    if (r->initial || r->full_state)
        r->timeout_ms = 0;
    r->deadline_ms = clock_mono_coarse_ms() + r->timeout_ms;
    if (r->s->cfg->presence.tracked && r->set_presence != SET_OFFLINE && presence_allowed(r->s->cfg, r->u))
        req_affect_presence(r, presence_states[r->set_presence]);
    req_watch(r);
    req_set_state(r, REQ_BLOCKING);
    auth_check_blocking(r->s->auth, req_requester(r), on_blocking, r);
}

/* False: it is no token, and r has been answered. */
static bool since_good(struct sync_req *r, uint64_t *hash)
{
    *hash = req_since_hash(r);
    r->version = model_version_of(r->s->m, *hash);
    if (r->version.number || req_since(r))
        return true;
    req_error(r, 400, "M_UNKNOWN", "Invalid stream token");
    return false;
}

/* ---- sessions ---- */

/* What r turned out to mean is for its client's next requests, too. */
static void remember(struct sync_req *r, uint64_t rest)
{
    struct session *x = r->session;
    struct str before, since, after;
    if (!x)
        return;
    if (r->timeout_ms > 0 && !r->initial && !r->full_state && !r->use_state_after &&
        http_query_since(r->http, &before, &since, &after) && since.p == r->since_text.p) {
        x->d = r->d;
        x->timeout_ms = r->timeout_ms;
        x->presence = r->set_presence;
        x->state_after = !r->s->cfg->msc4222_enabled && http_query_has(r->http, STR(STATE_AFTER));
        x->rest = rest;
        session_enter(&r->s->sessions, r->s->m, x, req_requester(r), r->u, r->f);
    }
    if (list_empty(&x->by_use))
        session_unref(&r->s->sessions, &r->session);
}

/* The filter is known: the rest of the checks. */
static void filter_known(struct sync_req *r)
{
    if (!str_absent(r->since_text) && r->since_text.n == 0) {
        req_error(r, 400, "M_UNKNOWN", "Invalid stream token");
        return;
    }
    r->initial = str_absent(r->since_text);
    uint64_t hash = 0, rest = req_key_rest(r);
    r->version = (struct model_version){0}; /* where its text was */
    if (!r->initial && !since_good(r, &hash))
        return;
    r->key = req_key(hash, rest);
    remember(r, rest);
    asked(r);
}

/* ---- the filter ---- */

static void resolve_stored(struct sync_req *r);

static void on_filter_loaded(void *arg, int err)
{
    struct sync_req *r = arg;
    if (!req_returned(r))
        return;
    if (err) {
        req_error(r, 500, "M_UNKNOWN", "Internal server error");
        return;
    }
    resolve_stored(r);
}

static void resolve_stored(struct sync_req *r)
{
    struct filter *f;
    int64_t id;
    if (str_to_i64_lax(r->filter_text, &id)) {
        req_error(r, 400, "M_INVALID_PARAM", "Invalid filter ID");
        return;
    }
    switch (model_stored_filter(r->s->m, r->u, id, &f)) {
    case HAVE:
        r->f = filter_ref(f);
        filter_known(r);
        break;
    case ABSENT:
        req_error(r, 400, "M_INVALID_PARAM", "No such filter");
        break;
    case LACK:
        r->loading = true;
        model_load(r->s->m, on_filter_loaded, r);
        break;
    }
}

static int filter_flags(const struct config *cfg)
{
    return (cfg->msc3874_enabled ? FILTER_MSC3874 : 0) | (cfg->msc3773_enabled ? FILTER_MSC3773 : 0);
}

static void resolve_filter(struct sync_req *r)
{
    req_set_state(r, REQ_FILTER);
    struct err e;
    struct str text = r->filter_text;
    if (str_absent(text) || str_starts(text, STR("{"))) {
        int err = filter_shared(text, filter_flags(r->s->cfg), r->s->cfg->filter_timeline_limit, &r->f, &e);
        if (err == -ERR_PROTOCOL) {
            req_error(r, 400, "M_UNKNOWN", e.text);
        } else if (err) {
            req_error(r, 400, "M_NOT_JSON", "Invalid filter JSON");
        } else {
            filter_known(r);
        }
        return;
    }
    resolve_stored(r);
}

/* ---- MSC4222 ---- */

static void resolve_state_after(struct sync_req *r);

static void on_features_loaded(void *arg, int err)
{
    struct sync_req *r = arg;
    if (!req_returned(r))
        return;
    if (err)
        req_error(r, 500, "M_UNKNOWN", "Internal server error");
    else
        resolve_state_after(r);
}

/* A parameter that is looked at only for those who have the feature; it may be on for single users. */
static void resolve_state_after(struct sync_req *r)
{
    struct str v = http_query(r->http, STR(STATE_AFTER));
    if (!str_absent(v) && !r->s->cfg->msc4222_enabled) {
        if (model_features(r->s->m, r->u) == LACK) {
            req_set_state(r, REQ_FILTER);
            r->loading = true;
            model_load(r->s->m, on_features_loaded, r);
            return;
        }
        v = r->u->msc4222 ? v : STR_ABSENT;
    }
    r->use_state_after = str_eq(v, STR("true"));
    if (!str_absent(v) && !r->use_state_after && !str_eq(v, STR("false"))) {
        req_error(r, 400, "M_INVALID_PARAM",
                  "Boolean query parameter '" STATE_AFTER "' must be one of ['true', 'false']");
        return;
    }
    resolve_filter(r);
}

/* ---- arrival ---- */

void req_gone(struct http_req *http)
{
    struct sync_req *r = http->user;
    if (!r || r->state == REQ_AUTH || r->state == REQ_FILTER || r->state == REQ_BLOCKING)
        return; /* short: noticed when they are over */
    req_abandon(r);
}

/* The bridge's own sender user, not one of its namespace. */
static bool is_app_service_sender(const struct config *cfg, const struct requester *rq)
{
    struct str user = requester_user(rq), local, server;
    if (!rq->is_app_service || user.n == 0)
        return false;
    str_cut(str_n(user.p + 1, user.n - 1), ':', &local, &server);
    for (size_t i = 0; i < cfg->app_services_count; i++) {
        if (str_eq(cfg->app_services[i].sender_localpart, local) && str_eq(server, cfg->server_name))
            return true;
    }
    return false;
}

static void on_auth(void *arg, struct requester *rq, const struct auth_error *e)
{
    struct sync_req *r = arg;
    if (e) {
        req_auth_error(r, e);
        return;
    }
    r->watch.r = rq;
    bool of_service = is_app_service_sender(r->s->cfg, rq);
    struct legacy *legacy = req_legacy(r);
    if (legacy)
        legacy->of_service = of_service;
    else if (of_service) { /* as Synapse, which cannot compute a sync for it */
        req_error(r, 500, "M_UNKNOWN", "Internal server error");
        return;
    }
    r->u = model_user(r->s->m, requester_user(rq));
    model_user_pin(r->s->m, r->u);
    if (!str_absent(requester_device(rq)))
        r->d = model_device(r->s->m, r->u, requester_device(rq));
    r->http->requester = requester_log_name(rq, r->http);
    if (legacy)
        legacy_begin(r);
    else if (parse_parameters(r))
        resolve_state_after(r);
}

static struct sync_req *req_new(struct sync *s, struct http_req *http)
{
    struct sync_req *r = MEM_NEW(MEM_requests, struct sync_req);
    r->s = s;
    r->http = http;
    http->user = r;
    list_init(&r->by_user);
    list_push(&s->states[REQ_AUTH], &r->by_state);
    s->counts[REQ_AUTH]++;
    return r;
}

/* As before, but for since. False: it has to be looked at anew. */
static bool begin_again(struct sync *s, struct http_req *http, struct session *x, struct str since)
{
    bool same = x->suspected == x->rq->suspected &&
                (!x->state_after || (model_features(s->m, x->u) == HAVE && !x->u->msc4222));
    if (!same || !auth_again(s->auth, x->rq, http, &x->ip_due_ms)) {
        session_drop(&s->sessions, s->m, x);
        return false;
    }
    struct sync_req *r = req_new(s, http);
    r->session = x;
    x->refs++;
    session_used(&s->sessions, x);
    r->watch.r = requester_ref(x->rq);
    r->u = x->u;
    model_user_pin(s->m, r->u);
    r->d = x->d;
    r->f = filter_ref(x->f);
    r->since_text = since;
    r->timeout_ms = x->timeout_ms;
    r->set_presence = x->presence;
    http->requester = requester_log_name(x->rq, http);
    uint64_t hash;
    if (!since_good(r, &hash))
        return true;
    r->key = req_key(hash, x->rest);
    asked(r);
    return true;
}

void req_begin(struct sync *s, struct http_req *http)
{
    enum legacy_kind kind;
    struct str room_id, since;
    struct hash128 print;
    struct session *x = NULL;
    bool printed = session_print(http, &print, &since);
    if (printed && (x = session_find(&s->sessions, &print)) && begin_again(s, http, x, since))
        return;
    bool legacy = legacy_path(http_path(http), &kind, &room_id);
    if (!legacy && http_query_has(http, STR("from"))) {
        http_reply_error(&http, 400, "M_UNKNOWN",
                         "'from' is not a valid query parameter. Did you mean 'since'?");
        return;
    }
    struct sync_req *r = req_new(s, http);
    if (legacy)
        req_extra(r)->legacy = legacy_new(kind, room_id);
    if (printed && !legacy)
        r->session = session_new(&print);
    auth_request(s->auth, http, !legacy || kind != LEGACY_ALL_ROOMS, on_auth, r);
}
