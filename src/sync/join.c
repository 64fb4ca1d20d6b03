/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The same question asked twice (sync-v3 1.6; Synapse 1.157 util/caches/response_cache.py). A request whose
 * token, device and parameters are those of another one that is under way joins it, and gets its answer:
 * the very same bytes. One that comes after the answer gets what was kept of it (answers.c).
 *
 * A leader whose client goes away is not always ended: while others have joined it goes on for them; and what
 * is being computed, or waits its turn for that, goes on for the client's return, which is what a client that
 * gave up on a long initial sync does. Nobody having come for caches.sync_response_cache_duration, it ends.
 * A parked poll has nothing to be kept: it ends with its client.
 *
 * Invariants: a request that joined has a leader and is in its ring; a leader never is in another's ring. A
 * leader leaves no one behind: its end, good or bad, is theirs. Requests are looked for among those of the
 * user, so an idle poll costs a link and no table entry.
 */
#include "request.h"

enum { ABANDONED_PER_USER = 4 };

/* Everything the client asked for; the token is compared by itself. A collision of 64 secret-keyed bits could
 * only give a device an answer of its own to another question. */
uint64_t req_key_rest(const struct sync_req *r)
{
    struct str filter = r->filter_text, device = requester_device(req_requester(r));
    struct {
        uint64_t filter, device;
        int64_t timeout_ms;
        uint64_t flags;
    } all = {
        .filter = str_hash(filter),
        .device = str_hash(device),
        .timeout_ms = r->timeout_ms,
        .flags = (r->full_state ? 1u : 0u) | (r->initial ? 2u : 0u) | (str_absent(filter) ? 4u : 0u) |
                 (str_absent(device) ? 8u : 0u) | (r->use_state_after ? 16u : 0u),
    };
    return str_hash(str_n((const char *)&all, sizeof all));
}

uint64_t req_key(uint64_t since_hash, uint64_t rest)
{
    return (since_hash ^ (rest << 32 | rest >> 32)) * 0x9e3779b97f4a7c15u; /* both are keyed hashes */
}

static bool same_token(const struct requester *a, const struct requester *b)
{
    return a == b || memcmp(a->token_key, b->token_key, sizeof a->token_key) == 0;
}

static struct sync_req *find_in(struct list *of_user, const struct sync_req *r)
{
    struct sync_req *x;
    list_each(x, of_user, struct sync_req, by_user) {
        if (x->key == r->key && x->d == r->d && !req_legacy(x) &&
            same_token(req_requester(x), req_requester(r)))
            return x;
    }
    return NULL;
}

/* ---- joining ---- */

/* The one who has been in r's ring for longest leaves it. */
static struct sync_req *take_joined(struct sync_req *r)
{
    struct req_extra *x = container_of(r->extra->joined.next, struct req_extra, joined);
    list_del(&x->joined);
    x->leader = NULL;
    return x->r;
}

/* Not beyond the user's share of waiting requests. */
static void join(struct sync_req *r, struct sync_req *leader)
{
    struct sync_req *oldest = NULL;
    if (r->u->waiters_count >= (size_t)r->s->cfg->parked_per_user_max) {
        if (r->initial || r->full_state) {
            req_refuse(r, "parked_per_user");
            return;
        }
        if (!req_is_leader(leader)) {
            req_admit(r); /* by itself; room is made where it parks */
            return;
        }
        oldest = container_of(leader->extra->joined.next, struct req_extra, joined)->r;
    }
    req_set_state(r, REQ_JOINED);
    req_extra(r)->leader = leader;
    list_push(&req_extra(leader)->joined, &r->extra->joined);
    if (oldest) { /* only now: a leader without a client ends with the last who joined it */
        metric_add_l(M_sync_refused, "parked_per_user", 1);
        req_answer_empty(oldest);
    }
}

/* Where the ignore list stands is part of an initial sync's key: what is kept must not outlive a change. */
static enum have ignore_position(struct sync_req *r, int64_t *pos)
{
    *pos = 0;
    if (!r->initial)
        return HAVE;
    enum have h = model_account_data(r->s->m, r->u);
    struct account_datum *d =
        h == HAVE ? smap_get(&r->u->more->account_data, STR("m.ignored_user_list")) : NULL;
    if (d)
        *pos = d->stream;
    return h;
}

static void on_account_loaded(void *arg, int err)
{
    struct sync_req *r = arg;
    if (!req_returned(r))
        return;
    if (err)
        req_error(r, 500, "M_UNKNOWN", "Internal server error");
    else
        req_join(r);
}

static void answer_kept(struct sync_req *r, const struct rope *body)
{
    struct http_res res;
    http_res_init(&res, 200);
    rope_rope(&res.body, body);
    metric_add_l_own(M_sync_responses, "kept", 1);
    http_reply(&r->http, &res);
    req_finish(r);
}

void req_join(struct sync_req *r)
{
    struct sync *s = r->s;
    int64_t pos;
    if (r->http->gone) {
        http_drop(&r->http);
        req_finish(r);
        return;
    }
    struct sync_req *leader = find_in(&r->u->waiters, r);
    if (!leader)
        leader = find_in(&r->u->running, r);
    if (leader) { /* it will be computed later than now: no need to look at the ignore list */
        join(r, leader);
        return;
    }
    uint64_t since = r->initial ? 0 : req_since_hash(r);
    bool doubted = r->session && r->session->suspected != r->session->rq->suspected;
    struct blob *kept = r->session && !doubted ? session_kept(&s->sessions, r->session, r->key, since) : NULL;
    struct answer *x = kept ? NULL : answers_find(&s->answers, req_requester(r), r->key, since);
    if (kept) {
        struct rope body;
        rope_init(&body);
        rope_blob(&body, kept);
        answer_kept(r, &body);
        rope_fini(&body);
    } else if (!x) {
        req_admit(r);
    } else if (ignore_position(r, &pos) == LACK) {
        req_set_state(r, REQ_FILTER); /* like the stored filter: part of the key */
        r->loading = true;
        model_load(s->m, on_account_loaded, r);
    } else if (pos != x->ignore_pos) {
        answers_drop(&s->answers, x, "ignore_list");
        req_admit(r);
    } else {
        answer_kept(r, &x->body);
    }
}

/* ---- the answer ---- */

void req_share(struct sync_req *r, const struct rope *body)
{
    while (req_is_leader(r)) {
        struct sync_req *x = take_joined(r);
        struct http_res res;
        http_res_init(&res, 200);
        rope_rope(&res.body, body);
        metric_add_l_own(M_sync_responses, "joined", 1);
        http_reply(&x->http, &res);
        req_finish(x);
    }
}

/* By the session, if it is one blob: what can be shared, or is short. */
static bool keep_in_session(struct sync_req *r, const struct rope *body, uint64_t next)
{
    struct sync *s = r->s;
    struct answers *a = &s->answers;
    const struct rope_slice *first = &body->v[0];
    size_t left = a->bytes_max > a->bytes ? a->bytes_max - a->bytes : 0;
    if (!r->session || body->n != 1 || body->bytes > SESSION_KEPT_MAX)
        return false;
    if (!first->own && first->n == first->blob->n)
        return session_keep(&s->sessions, r->session, r->key, next, first->blob, a->life_ms, left);
    struct blob *copy = blob_new(str_n(first->p, first->n));
    bool kept = session_keep(&s->sessions, r->session, r->key, next, copy, a->life_ms, left);
    blob_unref(&copy);
    return kept;
}

void req_keep(struct sync_req *r, const struct rope *body, uint64_t next)
{
    struct answers *a = &r->s->answers;
    int64_t pos;
    if (a->life_ms && !keep_in_session(r, body, next) && ignore_position(r, &pos) == HAVE)
        answers_keep(a, req_requester(r), r->key, pos, next, body);
}

void req_error_joined(struct sync_req *r, void (*end)(struct sync_req *x, const void *arg), const void *arg)
{
    while (req_is_leader(r))
        end(take_joined(r), arg);
}

void req_unjoin(struct sync_req *r)
{
    struct sync_req *leader = req_leader(r);
    if (leader) {
        r->extra->leader = NULL;
        list_del(&r->extra->joined);
        if (!leader->http && !req_is_leader(leader))
            req_abandon(leader);
        return;
    }
    while (req_is_leader(r)) { /* the service stops: each is dropped by itself */
        ASSERT(r->s->stopping);
        (void)take_joined(r);
    }
}

/* ---- without a client ---- */

static bool is_computing(const struct sync_req *r)
{
    return r->state == REQ_QUEUED || r->state == REQ_READY || r->state == REQ_LOADING ||
           r->state == REQ_AHEAD;
}

static size_t abandoned_of(const struct user *u)
{
    struct sync_req *x;
    size_t n = 0;
    list_each(x, &u->running, struct sync_req, by_user) {
        n += !x->http;
    }
    return n;
}

/* The arena goes with the http request. */
static void own_text(struct sync_req *r, struct str text)
{
    struct req_extra *x = req_extra(r);
    struct str made = str_dup(text);
    free(x->since);
    x->since = (char *)(uintptr_t)made.p;
    r->since_text = made;
}

static void go_on_alone(struct sync_req *r)
{
    struct sync *s = r->s;
    own_text(r, r->since_text);
    http_drop(&r->http);
    if (r->presence)
        feed_presence_end(s->feed, r->u->user_id, r->d ? r->d->device_id : STR_ABSENT);
    r->presence = false;
}

void req_abandon(struct sync_req *r)
{
    struct sync *s = r->s;
    if (req_is_leader(r)) {
        if (r->http)
            go_on_alone(r);
        return;
    }
    bool worth = !req_legacy(r) && s->answers.life_ms && !s->draining && !s->stopping && !req_leader(r) &&
                 is_computing(r) && abandoned_of(r->u) <= ABANDONED_PER_USER - (r->http ? 1 : 0);
    if (!worth) {
        if (r->http)
            http_drop(&r->http);
        req_finish(r);
        return;
    }
    if (r->http)
        go_on_alone(r);
    r->extra->alone_ms = clock_mono_ms();
    if (!r->extra->listed)
        vec_push(&s->abandoned, r);
    r->extra->listed = true;
}

void req_forget_abandoned(struct sync_req *r)
{
    struct sync *s = r->s;
    if (!r->extra || !r->extra->listed)
        return;
    for (size_t i = 0; i < s->abandoned.n; i++) {
        if (s->abandoned.v[i] == r)
            s->abandoned.v[i--] = s->abandoned.v[--s->abandoned.n];
    }
    r->extra->listed = false;
}

void req_sweep_abandoned(struct sync *s)
{
    int64_t now = clock_mono_ms();
    for (size_t i = s->abandoned.n; i-- > 0;) {
        struct sync_req *r = s->abandoned.v[i];
        bool over = s->draining || now - r->extra->alone_ms >= s->answers.life_ms;
        if (over && !req_is_leader(r)) {
            metric_add_l(M_sync_refused, "abandoned", 1);
            req_finish(r); /* another takes its place in the list */
        }
    }
}

void req_text(struct sync_req *r, const struct stream_token *t)
{
    char text[TOKEN_TEXT_MAX];
    struct str made = str_n(text, token_format(t, text));
    if (r->http)
        r->since_text = arena_str(http_arena(r->http), made);
    else
        own_text(r, made);
}
