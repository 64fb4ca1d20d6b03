/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Computing, waiting, waking. Every computation starts from the request's own token (never from an
 * intermediate one), so a wake-up that brings nothing for this reader costs one run and loses nothing. When
 * the timeout comes the poll is computed once more: its answer carries a fresh token, and a wake-up that
 * should have come and did not is made good.
 */
#include "legacy.h"

enum {
    CATCH_UP_MS = 10000,
    AHEAD_MS = 10000,
    HELD_MS = 30000,
    LOADING_MS = 5000,
    PEEK_MS = 500,   /* how often a poll of a room one is not in looks at it: nobody is woken for it */
    SLICE_US = 3000, /* how long a turn begins new ones */
    SCRATCH_FIRST_BYTES = 64 << 10
};

static void arm(struct sync_req *r, int64_t due_ms)
{
    wheel_set(&r->s->wheel, &r->timer, due_ms);
}

void req_reply(struct sync_req *r, struct rope *body, const char *kind)
{
    struct http_res res;
    req_share(r, body);
    http_res_init(&res, 200);
    rope_fini(&res.body);
    rope_move(&res.body, body);
    if (r->http) {
        metric_add_l_own(M_sync_responses, kind, 1);
        if (r->initial && !req_legacy(r))
            metric_observe(M_sync_initial_seconds, (double)(clock_mono_ms() - req_started_ms(r)) / 1000.0);
        http_reply(&r->http, &res);
    }
    rope_fini(&res.body);
    req_finish(r);
}

/* The run's fixed part, from the request. */
static void run_of(struct sync_req *r, struct sync_run *run, struct arena *a)
{
    *run = (struct sync_run){
        .m = r->s->m,
        .cfg = r->s->cfg,
        .u = r->u,
        .d = r->d,
        .rq = req_requester(r),
        .f = r->f,
        .has_since = !r->initial,
        .full_state = r->full_state,
        .use_state_after = r->use_state_after,
        .shared = &r->s->shared,
        .a = a,
    };
    if (!r->initial && !req_legacy(r)) {
        const struct stream_token *since = req_since(r);
        ASSERT(since);
        run->since = *since;
    }
}

static enum run_result run_it(struct sync_req *r, struct sync_run *run, struct rope *body,
                              struct stream_token *next)
{
    struct legacy *l = req_legacy(r);
    if (l)
        return legacy_run(l, run, body);
    return sync_run(run, body, next);
}

static const char *kind_of(const struct sync_req *r, enum run_result res)
{
    return req_legacy(r)      ? "legacy"
           : r->initial       ? "initial"
           : r->full_state    ? "full_state"
           : res == RUN_EMPTY ? "empty"
                              : "incremental";
}

static void refuse_broken(struct sync_req *r)
{
    struct legacy *l = req_legacy(r);
    if (l && l->status)
        req_error(r, l->status, l->errcode, l->error.p);
    else
        req_error(r, 500, "M_UNKNOWN", "Internal server error");
}

/* Its token was one when it came; if Synapse was put back to a release with shorter ones meanwhile, it is
 * none now. */
static bool since_known(struct sync_req *r)
{
    if (r->initial || req_legacy(r) || req_since(r))
        return true;
    req_error(r, 400, "M_UNKNOWN", "Invalid stream token");
    return false;
}

/* Next_batch is the request's own token: nothing was lost, nothing moved. */
void req_answer_empty(struct sync_req *r)
{
    if (!since_known(r))
        return;
    struct arena *a = arena_new(1 << 20);
    struct sync_run run;
    run_of(r, &run, a);
    struct rope body;
    rope_init(&body);
    if (req_legacy(r))
        legacy_render_empty(req_legacy(r), &run, &body);
    else
        sync_render_empty(&run, &run.since, &body);
    req_reply(r, &body, "empty");
    rope_fini(&body);
    arena_free(&a);
}

/* ---- bounding a token that is ahead of us (sync-v3 0.4) ---- */

/* Not compared are streams of which nothing is in a classic sync: quarantined_media's position is not always
 * announced, and those that came with an upgrade of Synapse are not followed before the next start. */
static bool is_ahead(struct sync_req *r)
{
    const struct legacy *l = req_legacy(r);
    if (r->initial || (l && !l->placed))
        return false;
    const struct stream_token *since = l ? &l->from : req_since(r);
    const struct stream_token *now = model_now(r->s->m);
    ASSERT(since);
    if (token_le(since, now))
        return false;
    struct stream_token t = *since;
    t.quarantined_media = now->quarantined_media;
    if (!r->s->cfg->msc4354_enabled)
        t.sticky_events = now->sticky_events;
    t.profile_updates = now->profile_updates;
    return !token_le(&t, now);
}

static void bound_field(struct stream_token *t, const struct pg_result *res, int row)
{
    int64_t max = pg_i64(res, row, 1);
    switch (pg_i64(res, row, 0)) {
    case TOKEN_ROOM:
        t->room = mpos_bound(&t->room, max);
        break;
    case TOKEN_PRESENCE:
        t->presence = t->presence > max ? max : t->presence;
        break;
    case TOKEN_RECEIPT:
        t->receipt = mpos_bound(&t->receipt, max);
        break;
    case TOKEN_ACCOUNT_DATA:
        t->account_data = t->account_data > max ? max : t->account_data;
        break;
    case TOKEN_PUSH_RULES:
        t->push_rules = t->push_rules > max ? max : t->push_rules;
        break;
    case TOKEN_TO_DEVICE:
        t->to_device = t->to_device > max ? max : t->to_device;
        break;
    case TOKEN_DEVICE_LIST:
        t->device_list = mpos_bound(&t->device_list, max);
        break;
    case TOKEN_UN_PARTIAL_STATED_ROOMS:
        t->un_partial_stated_rooms = t->un_partial_stated_rooms > max ? max : t->un_partial_stated_rooms;
        break;
    case TOKEN_THREAD_SUBSCRIPTIONS:
        t->thread_subscriptions = t->thread_subscriptions > max ? max : t->thread_subscriptions;
        break;
    case TOKEN_STICKY_EVENTS:
        t->sticky_events = mpos_bound(&t->sticky_events, max);
        break;
    case TOKEN_PROFILE_UPDATES:
        t->profile_updates = t->profile_updates > max ? max : t->profile_updates;
        break;
    default:
        break;
    }
}

static void on_sequences(void *arg, int err, const struct pg_result *res)
{
    struct sync_req *r = sequences_end(arg);
    if (!r)
        return;
    if (err) {
        req_error(r, 500, "M_UNKNOWN", "Internal server error");
        return;
    }
    if (!since_known(r))
        return;
    struct stream_token t = *req_since(r);
    for (int i = 0; i < pg_rows(res); i++)
        bound_field(&t, res, i);
    req_text(r, &t);
    r->bounded = true;
    req_admit(r);
}

/* Again, now that we may have moved. */
void req_recheck(struct sync_req *r)
{
    if (!req_sequences(r) && since_known(r) && !is_ahead(r))
        req_admit(r);
}

/* ---- admission ---- */

static void end_refused(struct sync_req *r, const void *reason)
{
    metric_add_l(M_sync_refused, reason, 1);
    if (r->http) {
        struct http_res res;
        http_res_init(&res, 429);
        struct arena *a = http_arena(r->http);
        struct json *extra = json_new(a, JSON_OBJECT);
        json_set(extra, STR("retry_after_ms"), json_new_int(a, 5000));
        http_res_error(&res, 429, "M_LIMIT_EXCEEDED", STR("Too Many Requests"), extra);
        res.retry_after_s = 5;
        http_reply(&r->http, &res);
    }
    req_finish(r);
}

/* And whoever joined it. */
void req_refuse(struct sync_req *r, const char *reason)
{
    req_error_joined(r, end_refused, reason);
    end_refused(r, reason);
}

static bool wants_turn(const struct sync_req *r)
{
    return r->initial || r->full_state;
}

/*
 * Initial syncs take turns by user: each one's n-th stands behind others' (n-1)-th, whoever came first
 * (start-time fair queueing). So ten devices of one user, or a script, delay others by one answer. Past the
 * bound the last in line is refused, which is the one whose user asks most.
 */
static void queue_turn(struct sync_req *r)
{
    struct sync *s = r->s;
    int64_t *turn = &req_extra(r)->turn;
    if (*turn)
        return;
    int64_t *user_turn = &model_user_more(r->u)->initial_turn;
    *turn = *user_turn + 1 > s->initial_turn ? *user_turn + 1 : s->initial_turn;
    *user_turn = *turn;
}

static void queue_add(struct sync_req *r)
{
    struct sync *s = r->s;
    struct list *queue = &s->states[REQ_QUEUED], *at;
    req_set_state(r, REQ_QUEUED);
    list_del(&r->by_state);
    for (at = queue->prev; at != queue; at = at->prev) {
        if (container_of(at, struct sync_req, by_state)->extra->turn <= r->extra->turn)
            break;
    }
    list_push(at->next, &r->by_state); /* before the next one */
    if (s->counts[REQ_QUEUED] > (size_t)s->cfg->initial_syncs_queued_max) {
        struct sync_req *last = container_of(queue->prev, struct sync_req, by_state);
        last->u->more->initial_turn--;
        req_refuse(last, "initial_queue");
    }
}

/* False: it stands in line, or was refused. */
static bool take_turn(struct sync_req *r)
{
    struct sync *s = r->s;
    bool first = s->counts[REQ_QUEUED] == 0 || s->states[REQ_QUEUED].next == &r->by_state;
    queue_turn(r);
    if (!first || s->initial_running >= (size_t)s->cfg->initial_syncs_max) {
        if (r->state != REQ_QUEUED)
            queue_add(r);
        return false;
    }
    s->initial_turn = r->extra->turn > s->initial_turn ? r->extra->turn : s->initial_turn;
    r->admitted = true;
    s->initial_running++;
    return true;
}

void req_admit(struct sync_req *r)
{
    struct sync *s = r->s;
    if (!r->version.number && !since_known(r))
        return;
    if (!s->live || !model_ready(s->m)) {
        if (r->state != REQ_HELD) {
            req_set_state(r, REQ_HELD);
            arm(r, r->timeout_ms ? r->deadline_ms : req_started_ms(r) + HELD_MS);
        }
        return;
    }
    if (!r->version.number && is_ahead(r)) {
        req_set_state(r, REQ_CATCH_UP);
        arm(r, req_started_ms(r) + CATCH_UP_MS);
        if (!r->bounded && !req_sequences(r) && !req_legacy(r))
            pg_exec(s->pg, SQL_sequences, pg_args_new(), on_sequences, sequences_begin(r));
        feed_positions_check(s->feed);
        return;
    }
    if (!r->initial && r->d && !r->acked && !req_legacy(r)) {
        const struct stream_token *since = r->version.number ? NULL : req_since(r);
        ASSERT(since || r->version.number);
        model_to_device_ack(s->m, r->d, since ? since->to_device : r->version.to_device);
        r->acked = true;
    }
    if (wants_turn(r) && !r->admitted && !take_turn(r))
        return;
    if (quick_quiet(r))
        req_park_quiet(r);
    else
        req_make_ready(r);
}

/* ---- computing ---- */

static void on_loaded(void *arg, int err)
{
    struct sync_req *r = arg;
    if (!req_returned(r))
        return;
    if (err == -ERR_LIMIT) {
        metric_add_l(M_sync_refused, "database_queue", 1);
        req_error(r, 503, "M_UNKNOWN", "The database is overloaded");
    } else if (err) {
        req_error(r, 500, "M_UNKNOWN", "Internal server error");
    } else if (model_load_apart(r->s->m)) {
        req_compute(r);
    } else {
        req_make_ready(r); /* thousands may have waited for this batch: in slices, like all others */
    }
}

void req_park(struct sync_req *r)
{
    struct sync *s = r->s;
    /* Past its share, the user's oldest poll is answered: it loses nothing, its token is unchanged. */
    if (r->u->waiters_count >= (size_t)s->cfg->parked_per_user_max && !list_empty(&r->u->waiters)) {
        struct sync_req *oldest = container_of(r->u->waiters.next, struct sync_req, by_user);
        metric_add_l(M_sync_refused, "parked_per_user", 1);
        req_answer_empty(oldest);
    }
    model_user_activate(s->m, r->u);
    req_set_state(r, REQ_PARKED);
    int64_t due = r->deadline_ms;
    if (req_legacy(r) && req_legacy(r)->peeking) {
        int64_t look = clock_mono_ms() + PEEK_MS;
        due = look < due ? look : due;
    }
    arm(r, due);
}

void req_park_quiet(struct sync_req *r)
{
    if (r->s->cfg->check_shortcuts) {
        if (!since_known(r))
            return;
        struct arena *a = arena_new((size_t)4 << 30);
        struct sync_run run;
        run_of(r, &run, a);
        run_check_quiet(&run);
        arena_free(&a);
    }
    req_park(r);
}

/* A poll that cannot be computed is not held much longer than its client asked for. */
static int64_t loading_bound(const struct sync_req *r)
{
    int64_t least = clock_mono_ms() + LOADING_MS;
    return r->deadline_ms > least ? r->deadline_ms : least;
}

void req_compute(struct sync_req *r)
{
    struct sync *s = r->s;
    if (!s->live) { /* nothing is computed from before a gap */
        req_admit(r);
        return;
    }
    bool over = clock_mono_ms() >= r->deadline_ms || s->draining;
    if (!over && quick_answer(r))
        return;
    if (!since_known(r))
        return;
    s->runs++;
    if (!s->scratch) {
        s->scratch = arena_new_sized((size_t)4 << 30, SCRATCH_FIRST_BYTES);
        arena_count(s->scratch, MEM_scratch);
    }
    struct arena *a = s->scratch;
    s->scratch = NULL; /* a run may not start another one; if it ever does, it gets its own */
    struct sync_run run;
    run_of(r, &run, a);
    struct rope body;
    rope_init(&body);
    struct stream_token next;
    run.may_park = !over;
    enum run_result res = run_it(r, &run, &body, &next);
    bool ahead = run.ahead;
    if (res == RUN_DONE)
        quick_offer(r, &run);
    sync_run_fini(&run);
    if (res == RUN_LACK && ahead && !run.lack) {
        req_set_state(r, REQ_AHEAD);
        if (!wheel_is_set(&r->timer))
            arm(r, clock_mono_ms() + AHEAD_MS);
    } else if (res == RUN_LACK && !run.lack && req_legacy(r) && legacy_load(r)) {
        req_set_state(r, REQ_LOADING);
    } else if (res == RUN_LACK) {
        req_set_state(r, REQ_LOADING);
        r->loading = true;
        if (!r->initial && !r->full_state)
            arm(r, loading_bound(r));
        model_load(s->m, on_loaded, r);
    } else if (res == RUN_BROKEN) {
        refuse_broken(r);
    } else if (res == RUN_DONE || over) {
        /* What does not move the token is not kept: the client would ask in a tight loop. */
        if (!req_legacy(r) && (r->initial || !token_equal(&next, &run.since)))
            req_keep(r, &body, str_hash(render_token(&run, &next)));
        req_reply(r, &body, kind_of(r, res));
    } else if (!r->http && !req_is_leader(r)) {
        req_finish(r);
    } else {
        req_park(r);
    }
    rope_fini(&body);
    arena_reset(a);
    if (s->scratch)
        arena_free(&a);
    else
        s->scratch = a;
}

void req_admit_queued(struct sync *s)
{
    while (!list_empty(&s->states[REQ_QUEUED]) && s->initial_running < (size_t)s->cfg->initial_syncs_max) {
        struct sync_req *r = container_of(s->states[REQ_QUEUED].next, struct sync_req, by_state);
        req_admit(r);
        if (!list_empty(&s->states[REQ_QUEUED]) && s->states[REQ_QUEUED].next == &r->by_state)
            break;
    }
}

/* Who is likely to be computed in this turn, and what of it will be looked at. Addresses only: any of them
 * may be gone when its turn comes. */
struct soon {
    size_t n;
    struct {
        const void *u, *d, *session, *http, *rq;
    } v[REQ_SLICE];
};

static void soon_begin(struct sync *s, struct soon *soon)
{
    const struct sync_req *r;
    soon->n = 0;
    list_each(r, &s->states[REQ_READY], struct sync_req, by_state) {
        if (soon->n == REQ_SLICE)
            break;
        mem_soon(r->by_state.next, sizeof *r);
        soon->v[soon->n].u = r->u;
        soon->v[soon->n].d = r->d;
        soon->v[soon->n].session = r->session;
        soon->v[soon->n].http = r->http;
        soon->v[soon->n++].rq = req_requester(r);
    }
}

static void soon_at(const struct soon *soon, size_t i)
{
    enum { HTTP_BYTES = 256 };
    if (i >= soon->n)
        return;
    mem_soon(soon->v[i].u, sizeof(struct user));
    mem_soon(soon->v[i].d, sizeof(struct device));
    mem_soon(soon->v[i].session, sizeof(struct session));
    mem_soon(soon->v[i].http, HTTP_BYTES);
    mem_soon(soon->v[i].rq, sizeof(struct requester));
}

/* The one after this one: it is there, and so is what it points to. */
static void next_soon(const struct sync *s, const struct sync_req *r)
{
    if (r->by_state.next == &s->states[REQ_READY])
        return;
    const struct sync_req *next = container_of(r->by_state.next, const struct sync_req, by_state);
    if (next->http)
        http_reply_soon(next->http);
    mem_soon(next->u->news.v, sizeof *next->u->news.v);
    mem_soon((const void *)next->u->unread.at, 1);
    if (next->d)
        mem_soon(next->d->ll, 1);
}

static void on_idle(uv_idle_t *h)
{
    enum { AHEAD = 3, CLOCK_EACH = 8, WAKE_EACH = 4 };
    struct sync *s = h->data;
    struct soon soon;
    int64_t start = clock_mono_us();
    uint64_t runs = s->runs;
    /* Those who are ready come first, but others who become ready must not keep the rest asleep. */
    if (s->counts[REQ_READY] < REQ_SLICE || ++s->turns % WAKE_EACH == 0)
        model_wake_more(s->m);
    req_admit_queued(s);
    soon_begin(s, &soon);
    for (size_t i = 0; i < AHEAD; i++)
        soon_at(&soon, i);
    for (size_t i = 0; i < REQ_SLICE && !list_empty(&s->states[REQ_READY]); i++) {
        soon_at(&soon, i + AHEAD);
        bool look = i % CLOCK_EACH == 0 || s->runs != runs; /* ready answers take no time */
        runs = s->runs;
        if (i > 0 && look && clock_mono_us() - start > SLICE_US) /* large ones: others' turn */
            break;
        struct sync_req *r = container_of(s->states[REQ_READY].next, struct sync_req, by_state);
        next_soon(s, r);
        req_compute(r);
    }
    req_admit_queued(s); /* into the places of those just answered */
    model_load_gather(s->m, !list_empty(&s->states[REQ_READY]) || model_wakes(s->m));
    if (list_empty(&s->states[REQ_READY]) && !model_wakes(s->m)) {
        uv_idle_stop(h);
        s->idle_running = false;
    }
}

void req_turn(struct sync *s)
{
    if (s->idle_running || s->stopping)
        return;
    uv_idle_start(s->idle, on_idle);
    s->idle_running = true;
}

void req_make_ready(struct sync_req *r)
{
    struct sync *s = r->s;
    req_set_state(r, REQ_READY);
    req_turn(s);
}

/* ---- time ---- */

void req_expire(struct sync_req *r)
{
    switch (r->state) {
    case REQ_PARKED:
        if (r->s->live)
            req_make_ready(r); /* computed once more, then answered in any case */
        else
            req_answer_empty(r);
        break;
    case REQ_LOADING: /* the database is away: the client keeps its token and asks again */
        metric_add_l(M_sync_refused, "loading", 1);
        req_answer_empty(r);
        break;
    case REQ_HELD:
        if (r->timeout_ms && !r->initial)
            req_answer_empty(r);
        else
            req_error(r, 503, "M_UNKNOWN", "The homeserver's replication is unavailable");
        break;
    case REQ_CATCH_UP:
        metric_add_l(M_sync_refused, "token_ahead", 1);
        req_answer_empty(r);
        break;
    case REQ_AHEAD: /* replication did not bring what the database already shows */
        log_warning("chappe.sync", "replication lags behind the database by more than %d s", AHEAD_MS / 1000);
        if (r->initial)
            req_error(r, 503, "M_UNKNOWN", "The homeserver's replication is lagging");
        else
            req_answer_empty(r);
        break;
    case REQ_AUTH:
    case REQ_FILTER:
    case REQ_BLOCKING:
    case REQ_QUEUED:
    case REQ_READY:
    case REQ_JOINED: /* has no timer */
    case REQ_DONE:
    case REQ_STATE_COUNT:
        break; /* the deadline is looked at when they are computed */
    }
}
