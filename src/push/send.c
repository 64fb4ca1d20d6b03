/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * One request to a gateway, and what its answer means.
 *
 *   2xx with a JSON object (or an array or a string, as Synapse takes them):
 *       told; rejected pushkeys are looked for
 *   no connection, timeout, 408, 429, 502, 503, 504, 507:
 *       the gateway is down, everybody waits
 *   400, 404, 405, 413, 415, 422:
 *       this notification is wrong, after some tries it is skipped (unlike Synapse)
 *   anything else, redirects, unusable bodies and unusable URLs among it:
 *       this pusher waits and tries again
 *
 * A pusher that fails for long gives its oldest notification up once that is a day old (Synapse gives up one
 * notification a day). The first try is always made. Whether it is still unread, whether the row is still the
 * same and what the count is are taken from memory at the moment of sending.
 */
#include "push_int.h"

/* ---- proxies (Synapse 1.157 http/proxyagent.py) ---- */

static bool no_proxy_for(const struct push *p, struct str host)
{
    for (size_t i = 0; i < p->cfg->push.no_proxy_count; i++) {
        struct str no = p->cfg->push.no_proxy[i];

        if (str_eq(no, STR("*")) || str_eq(no, host))
            return true;
        while (no.n > 0 && no.p[0] == '.')
            no = str_n(no.p + 1, no.n - 1);
        if (no.n > 0 && str_eq(no, host))
            return true;
        if (no.n > 0 && host.n > no.n && str_ends(host, no) && host.p[host.n - no.n - 1] == '.')
            return true;
    }
    return false;
}

struct str push_proxy(const struct push *p, const struct origin *o)
{
    struct str proxy = o->https ? p->cfg->push.https_proxy : p->cfg->push.http_proxy;

    return proxy.n > 0 && !no_proxy_for(p, o->host) ? proxy : STR_ABSENT;
}

/* ---- what an answer means ---- */

/* Whether the list of rejected pushkeys has ours. */
static bool rejects(const struct json *answer, struct str pushkey)
{
    const struct json *list = json_get(answer, STR("rejected"));

    if (json_is_array(list))
        json_each(key, list) {
            if (key->type == JSON_STRING && str_eq(key->s, pushkey))
                return true;
        }
    return false;
}

enum push_outcome push_outcome(struct push *p, struct str pushkey, const struct httpc_res *res)
{
    struct json *answer = NULL;

    if (res->err)
        /* An URL that is none (its user wrote it) says nothing about the gateway. */
        return res->err == -ERR_LIMIT || res->err == -ERR_PROTOCOL || res->err == -ERR_PARSE ? OUTCOME_PUSHER
                                                                                             : OUTCOME_ORIGIN;
    switch (res->status) {
    case 408:
    case 429:
    case 502:
    case 503:
    case 504:
    case 507:
        return OUTCOME_ORIGIN;
    case 400:
    case 404:
    case 405:
    case 413:
    case 415:
    case 422:
        return OUTCOME_REFUSED;
    default:
        if (res->status < 200 || res->status >= 300)
            return OUTCOME_PUSHER;
    }
    arena_reset(p->scratch);
    if (json_parse(p->scratch, res->body, &answer) != 0 ||
        (answer->type != JSON_OBJECT && answer->type != JSON_ARRAY && answer->type != JSON_STRING))
        return OUTCOME_PUSHER;
    return rejects(answer, pushkey) ? OUTCOME_REJECTED : OUTCOME_OK;
}

static const char *failure_name(enum push_outcome outcome)
{
    static const char *const names[] = {
        [OUTCOME_OK] = "none",       [OUTCOME_REJECTED] = "rejected", [OUTCOME_ORIGIN] = "gateway down",
        [OUTCOME_PUSHER] = "failed", [OUTCOME_REFUSED] = "refused",
    };

    return names[outcome];
}

/* ---- events ---- */

static void told(struct pusher *ps, bool rejected)
{
    struct push_event *ev = ps->sending;
    int64_t now = clock_wall_ms();

    metric_add(M_push_processed, 1);
    if (ev->received_ts > 0)
        metric_observe(M_push_seconds, (double)(now - ev->received_ts) / 1000);
    ps->failures = 0;
    ps->refused_tries = 0;
    if (rejected && !origin_breaker(ps->origin)) {
        metric_add(M_push_rejected, 1);
        /* The position stays: the row goes, and if it is kept after all nothing shall be missing. */
        removal_enqueue(ps);
        return;
    }
    if (rejected) { /* the gateway is not believed: a failure */
        pusher_fail(ps, origin_breaker_wait());
        return;
    }
    ps->last_success = now;
    ps->failing_since = 0;
    ps->badge_told = ps->sending_count;
    pusher_done(ps, ev->stream_ordering);
    ps->state = PUSHER_IDLE;
}

/* The notification that failed is not tried again. */
static void give_up(struct pusher *ps, const char *why)
{
    metric_add_l(M_push_skipped, why, 1);
    ps->failures = 0;
    ps->failing_since = 0;
    ps->refused_tries = 0;
    pusher_done(ps, ps->sending->stream_ordering);
    ps->state = PUSHER_IDLE;
}

static bool refused_for_good(struct pusher *ps)
{
    int64_t now = clock_mono_ms(), at = ps->sending->stream_ordering;

    if (ps->refused_at != at || ps->refused_tries == 0) {
        ps->refused_at = at;
        ps->refused_since = now;
        ps->refused_tries = 0;
    }
    return ++ps->refused_tries >= REFUSED_TRIES && now - ps->refused_since >= REFUSED_SPAN_MS;
}

static void failed(struct pusher *ps, enum push_outcome outcome)
{
    const struct push_event *ev = ps->sending;

    metric_add(M_push_failed, 1);
    metric_add_l(M_push_failures, failure_name(outcome), 1);
    if (outcome == OUTCOME_REFUSED && refused_for_good(ps)) {
        give_up(ps, "refused");
    } else if (ps->failing_since && ev->received_ts > 0 && ev->received_ts < clock_wall_ms() - GIVE_UP_MS) {
        give_up(ps, "gave up");
    } else {
        pusher_fail(ps, 0);
        if (outcome == OUTCOME_ORIGIN)
            list_push(&ps->origin->held, &ps->turn);
    }
}

/* ---- counts alone ---- */

/* Best effort: not repeated, and no mark on the pusher's health, as in Synapse. */
static void badge_answered(struct pusher *ps, enum push_outcome outcome)
{
    bool good = outcome == OUTCOME_OK || outcome == OUTCOME_REJECTED;

    metric_add(good ? M_push_badges_processed : M_push_badges_failed, 1);
    ps->state = PUSHER_IDLE;
    if (outcome == OUTCOME_REJECTED && !origin_breaker(ps->origin)) {
        metric_add(M_push_rejected, 1);
        removal_enqueue(ps);
    }
}

void pusher_answered(void *arg, const struct httpc_res *res)
{
    struct pusher *ps = arg;
    struct push *p = ps->p;
    enum push_outcome outcome = push_outcome(p, ps->pushkey, res);

    p->in_flight--;
    ps->origin->in_flight--;
    metric_set(M_push_in_flight, (int64_t)p->in_flight);
    if (ps->dead || p->stopping) {
        if (ps->sending)
            push_event_unref(p, &ps->sending);
        ps->state = PUSHER_IDLE;
        if (!p->stopping)
            origin_answer(ps->origin, outcome, res->err ? -1 : res->retry_after_ms);
        pusher_release(ps);
        return;
    }
    struct origin *o = ps->origin;
    if (ps->kind == PUSH_BADGE)
        badge_answered(ps, outcome);
    else if (outcome == OUTCOME_OK || outcome == OUTCOME_REJECTED)
        told(ps, outcome == OUTCOME_REJECTED);
    else
        failed(ps, outcome);
    if (ps->sending)
        push_event_unref(p, &ps->sending);
    push_user_wait(ps->user);
    origin_answer(o, outcome, res->err ? -1 : res->retry_after_ms);
    push_work(p);
}

void pusher_refused(struct pusher *ps)
{
    const struct push_action *a = pusher_head(ps);
    struct push *p = ps->p;
    struct origin *o = ps->origin;

    if (ps->kind == PUSH_EVENT && a && a->ev->state == PUSH_EVENT_READY) {
        ps->sending = a->ev;
        ps->sending->refs++;
        failed(ps, OUTCOME_ORIGIN);
        push_event_unref(p, &ps->sending);
    } else if (ps->kind == PUSH_BADGE) {
        metric_add(M_push_badges_failed, 1);
    }
    push_user_wait(ps->user);
    origin_answer(o, OUTCOME_ORIGIN, -1);
}

/* ---- sending ---- */

static void request(struct pusher *ps)
{
    static const struct httpc_header headers[] = {{{"Content-Type", 12}, {"application/json", 16}},
                                                  {{"Accept", 6}, {"application/json", 16}}};
    struct push *p = ps->p;
    struct origin *o = ps->origin;
    struct httpc_req req = {
        .method = "POST",
        .url = ps->url,
        .headers = headers,
        .headers_count = 2,
        .body = buf_str(&p->body),
        .connect_timeout_ms = CONNECT_TIMEOUT_MS,
        .timeout_ms = REQUEST_TIMEOUT_MS,
        .response_bytes_max = RESPONSE_BYTES_MAX,
        .proxy = push_proxy(p, o),
    };

    if (o->resolve && !o->resolve_told) {
        req.resolve = str_of(o->resolve);
        o->resolve_told = true;
    }
    ps->state = PUSHER_SENDING;
    p->in_flight++;
    o->in_flight++;
    metric_set(M_push_in_flight, (int64_t)p->in_flight);
    httpc_send(p->httpc, &req, pusher_answered, ps);
}

void pusher_send(struct pusher *ps)
{
    struct push_user *u = ps->user;
    struct push *p = ps->p;
    const struct push_action *a = pusher_head(ps);
    int64_t count = -1;

    /* Since its turn was asked for, things may have been read, redacted, or come. */
    bool event = a && u->backlog == BACKLOG_NONE && a->ev->state == PUSH_EVENT_READY && a->tweaks->notify;
    if (event != (ps->kind == PUSH_EVENT) || (!ps->no_counts && !badge_want(u))) {
        if (ps->kind == PUSH_BADGE)
            ps->badge_due = true;
        push_user_wait(u);
        push_work(p);
        return;
    }
    if (!ps->no_counts)
        count = badge_value(u);
    buf_reset(&p->body);
    if (event) {
        if (ps->tried_at == a->ev->stream_ordering)
            metric_add(M_push_retries, 1);
        ps->tried_at = a->ev->stream_ordering;
        payload_event(ps, a, count, &p->body);
        ps->sending = a->ev;
        ps->sending->refs++;
    } else {
        payload_badge(ps, count, &p->body);
        ps->badge_told = count;
    }
    ps->sending_count = count;
    if (p->body.failed && event) {
        give_up(ps, "too large");
        push_event_unref(p, &ps->sending);
        push_user_wait(u);
        push_work(p);
        return;
    }
    request(ps);
}
