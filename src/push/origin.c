/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Gateways: an origin is scheme, host and port of push URLs. Pushers take turns at their origin, one
 * notification a turn, so neither a user with a long backlog nor a burst to a large room keeps others
 * waiting; those that make a sound go first, yet one turn in eight is kept for the rest.
 *
 * Health belongs to the origin, not to each pusher:
 *
 *   HEALTHY ─► OPEN      five "gateway down" answers in a row, or Retry-After
 *   OPEN ─► PROBING      its timer
 *   PROBING ─► OPEN      a failure
 *   PROBING ─► RAMP      an answer
 *   RAMP ─► HEALTHY      the window, doubled every second, is where it starts
 *
 * While it is open nothing is sent; one request probes it, at growing intervals. When it answers, everybody
 * who was held goes on, through a window that opens slowly. In health the window grows with every answer and
 * halves with every failure.
 *
 * Names are looked up here, all addresses checked against the policy (one that is forbidden forbids the
 * name), and given to curl, which checks again the one that it connects to.
 *
 * A breaker watches how many of the last answers reject our pushkeys: a gateway that rejects half of them is
 * more likely misconfigured than all those devices gone. The window is short, so that no long healthy past
 * lets it delete many pushers first; and it is kept over the pause, so that after it the first rejection of a
 * gateway that is still wrong is enough.
 */
#include "push_int.h"

#include <netdb.h>

enum {
    HEADS_MAX = 8192, /* bytes of an URL */
    LOW_TURN = 8,
    RAMP_STEP_MS = 1000,
    BREAKER_REJECTS = 20, /* so many rejections among the last REJECTS_WINDOW answers */
    ADDRESSES_MAX = 16,
    PROBE_CANDIDATES = 8,
    GATEWAYS_SHOWN = 64, /* in metrics… */
    SHOWN_PUSHERS = 20,  /* …with so many pushers */
    UNKNOWN_MS = 5000    /* a name that could not be looked up is tried again after this */
};

/* ---- metrics ---- */

/* Gateways' names are chosen by users: only those with many pushers are shown, and only so many of them. */
static const char *label_of(struct str key)
{
    static char *names[GATEWAYS_SHOWN]; /* as long as the process: the metrics keep the addresses */

    for (int i = 0; i < GATEWAYS_SHOWN; i++) {
        if (!names[i])
            names[i] = xstrndup(key);
        if (str_eq(str_of(names[i]), key))
            return names[i];
    }
    return NULL;
}

static void show(const struct origin *o, int64_t waiting, int64_t state)
{
    if (!o->label)
        return;
    metric_set_l(M_push_gateway_waiting, o->label, waiting);
    metric_set_l(M_push_gateway_state, o->label, state);
}

/* Those in line and those that wait because of the gateway. */
static int64_t waiting(const struct origin *o)
{
    int64_t n = (int64_t)o->ready_count;

    for (const struct list *it = o->held.next; it != &o->held; it = it->next)
        n++;
    return n;
}

void origins_show(struct push *p)
{
    struct origin *o;
    size_t it = 0;

    while ((o = smap_next(&p->origins_by_key, &it))) {
        if (!o->label && o->pushers >= SHOWN_PUSHERS)
            o->label = label_of(o->key);
        if (o->label)
            show(o, waiting(o), o->health);
    }
}

/* ---- making them ---- */

struct parts {
    struct str host;
    int port;
    bool https;
};

static bool cut_url(struct str url, struct parts *out)
{
    struct str rest, port;
    int64_t n;
    size_t end = 0;

    if (str_starts(url, STR("https://"))) {
        *out = (struct parts){.port = 443, .https = true};
        rest = str_n(url.p + 8, url.n - 8);
    } else if (str_starts(url, STR("http://"))) {
        *out = (struct parts){.port = 80};
        rest = str_n(url.p + 7, url.n - 7);
    } else {
        return false;
    }
    while (end < rest.n && !strchr("/?#", rest.p[end]))
        end++;
    rest.n = end;
    for (size_t i = rest.n; i > 0; i--) /* user information is for curl */
        if (rest.p[i - 1] == '@') {
            rest = str_n(rest.p + i, rest.n - i);
            break;
        }
    if (rest.n > 0 && rest.p[0] == '[') {
        ptrdiff_t close = str_find(rest, ']');
        if (close < 0)
            return false;
        out->host = str_n(rest.p + 1, (size_t)close - 1);
        rest = str_n(rest.p + close + 1, rest.n - (size_t)close - 1);
        if (rest.n == 0)
            return out->host.n > 0;
        if (rest.p[0] != ':')
            return false;
        port = str_n(rest.p + 1, rest.n - 1);
    } else if (!str_cut(rest, ':', &out->host, &port)) {
        return out->host.n > 0;
    }
    if (port.n > 0) {
        if (str_to_i64(port, &n) || n < 1 || n > 65535)
            return false;
        out->port = (int)n;
    }
    return out->host.n > 0;
}

struct origin *origin_get(struct push *p, struct str url)
{
    struct parts parts;
    struct origin *o;
    struct buf key;
    size_t host_at;
    struct ip_range address;

    if (url.n > HEADS_MAX || memchr(url.p, 0, url.n) || !cut_url(url, &parts) || parts.host.n > 255)
        return NULL;
    buf_init(&key, 1024);
    buf_put(&key, parts.https ? STR("https://") : STR("http://"));
    host_at = key.n;
    for (size_t i = 0; i < parts.host.n; i++) {
        char c = parts.host.p[i];
        buf_putc(&key, c >= 'A' && c <= 'Z' ? (char)(c + 32) : c);
    }
    buf_printf(&key, ":%d", parts.port);
    o = smap_get(&p->origins_by_key, buf_str(&key));
    if (!o) {
        o = xcalloc(1, sizeof *o + key.n);
        memcpy(o->bytes, key.p, key.n);
        o->p = p;
        o->timer.kind = TIMER_ORIGIN;
        o->key = str_n(o->bytes, key.n);
        o->host = str_n(o->bytes + host_at, parts.host.n);
        o->port = parts.port;
        o->https = parts.https;
        o->window = WINDOW_START;
        o->literal = ip_parse(o->host, &address);
        o->forbidden = o->literal && !ip_policy_allows(&p->policy, address.bytes, address.v6);
        list_init(&o->ready[0]);
        list_init(&o->ready[1]);
        list_init(&o->held);
        list_init(&o->active);
        smap_put(&p->origins_by_key, o->key, o);
        metric_set(M_push_origins, (int64_t)smap_count(&p->origins_by_key));
    }
    o->pushers++;
    buf_fini(&key);
    return o;
}

void origin_unref(struct origin *o)
{
    struct push *p = o->p;

    if (--o->pushers > 0)
        return;
    show(o, 0, ORIGIN_HEALTHY);
    push_timer_cancel(p, &o->timer);
    list_del(&o->active);
    smap_del(&p->origins_by_key, o->key);
    metric_set(M_push_origins, (int64_t)smap_count(&p->origins_by_key));
    if (o->health == ORIGIN_OPEN || o->health == ORIGIN_PROBING)
        metric_add(M_push_origins_open, -1);
    if (o->lookup) {
        o->lookup->data = NULL; /* the answer finds nobody */
        uv_cancel((uv_req_t *)o->lookup);
    }
    free(o->resolve);
    free(o);
}

/* ---- turns ---- */

void origin_enqueue(struct pusher *ps, bool high, bool first)
{
    struct origin *o = ps->origin;

    ASSERT(ps->state == PUSHER_IDLE);
    ps->state = PUSHER_READY;
    list_push(first ? o->ready[high].next : &o->ready[high], &ps->turn);
    o->ready_count++;
    metric_add(M_push_ready, 1);
    if (list_empty(&o->active))
        list_push(&o->p->origins_active, &o->active);
    push_work(o->p);
}

void origin_forget(struct pusher *ps)
{
    struct origin *o = ps->origin;

    if (ps->state == PUSHER_READY) {
        o->ready_count--;
        metric_add(M_push_ready, -1);
        ps->state = PUSHER_IDLE;
    }
    list_del(&ps->turn);
    if (o->ready_count == 0)
        list_del(&o->active);
}

static struct pusher *turn_take(struct origin *o)
{
    bool low_first = ++o->turns % LOW_TURN == 0;
    struct list *from = !list_empty(&o->ready[!low_first]) ? &o->ready[!low_first] : &o->ready[low_first];
    struct pusher *ps;

    if (list_empty(from))
        return NULL;
    ps = container_of(from->next, struct pusher, turn);
    origin_forget(ps);
    return ps;
}

/* ---- health ---- */

static void say(struct origin *o, const char *what)
{
    int64_t now = clock_mono_ms();

    if (o->logged_ms && now - o->logged_ms < SAY_INTERVAL_MS)
        return;
    o->logged_ms = now;
    log_warning(PUSH_LOG, "gateway %.*s: %s (%zu pushers, %zu waiting)", STR_ARG(o->key), what, o->pushers,
                o->ready_count);
}

static void health_set(struct origin *o, enum origin_health to)
{
    bool was_down = o->health == ORIGIN_OPEN || o->health == ORIGIN_PROBING;
    bool is_down = to == ORIGIN_OPEN || to == ORIGIN_PROBING;

    if (was_down != is_down)
        metric_add(M_push_origins_open, is_down ? 1 : -1);
    o->health = to;
}

static void open_for(struct origin *o, int64_t ms, const char *why)
{
    if (o->health == ORIGIN_HEALTHY || o->health == ORIGIN_RAMP)
        say(o, why);
    health_set(o, ORIGIN_OPEN);
    push_timer_set(o->p, &o->timer, clock_mono_ms() + ms);
}

/* Retry-After: of several answers the one that asks for most counts. */
static void pause_for(struct origin *o, int64_t ms)
{
    int64_t until = clock_mono_ms() + (ms < RETRY_AFTER_MAX_MS ? ms : RETRY_AFTER_MAX_MS);

    if (until <= o->pause_until_ms)
        return;
    o->pause_until_ms = until;
    open_for(o, until - clock_mono_ms(), "asks for a pause");
}

static void down(struct origin *o, int64_t retry_after_ms)
{
    o->fails++;
    o->window = o->window > 2 ? o->window / 2 : 1;
    if (retry_after_ms > 0) {
        pause_for(o, retry_after_ms);
    } else if (o->health == ORIGIN_PROBING || (o->health != ORIGIN_OPEN && o->fails >= ORIGIN_FAILS_OPEN)) {
        o->backoff_ms = o->backoff_ms ? o->backoff_ms * 2 : BACKOFF_FIRST_MS;
        if (o->backoff_ms > PROBE_MAX_MS)
            o->backoff_ms = PROBE_MAX_MS;
        open_for(o, o->backoff_ms + (int64_t)((double)o->backoff_ms * 0.2 * rng_unit()), "does not answer");
    }
}

/* Whoever waits because of the gateway goes on now. */
static void release_held(struct origin *o)
{
    struct pusher *ps;

    list_each(ps, &o->held, struct pusher, turn) {
        list_del(&ps->turn);
        push_timer_cancel(o->p, &ps->timer);
        ps->state = PUSHER_IDLE;
        push_user_wait(ps->user);
    }
    push_waiting_advance(o->p);
}

static void up(struct origin *o)
{
    o->fails = 0;
    if (o->health == ORIGIN_OPEN && o->pause_until_ms > clock_mono_ms())
        return; /* sent before it asked for a pause */
    if (o->health == ORIGIN_PROBING || o->health == ORIGIN_OPEN) {
        log_info(PUSH_LOG, "gateway %.*s answers again", STR_ARG(o->key));
        o->logged_ms = 0;
        o->backoff_ms = 0;
        o->window = 1;
        health_set(o, ORIGIN_RAMP);
        push_timer_set(o->p, &o->timer, clock_mono_ms() + RAMP_STEP_MS);
        release_held(o);
    } else if (o->health == ORIGIN_HEALTHY && o->window < WINDOW_MAX) {
        o->window += 1 / o->window;
    }
}

int64_t origin_breaker_wait(void)
{
    return BREAKER_MS + (int64_t)((double)BREAKER_MS * rng_unit());
}

static void rejects_count(struct origin *o, bool rejected)
{
    if (o->answers_n == REJECTS_WINDOW)
        o->rejected_n -= o->answers[o->answers_at];
    else
        o->answers_n++;
    o->answers[o->answers_at] = rejected;
    o->answers_at = (o->answers_at + 1) % REJECTS_WINDOW;
    o->rejected_n += rejected;
    if (!rejected || o->rejected_n < BREAKER_REJECTS)
        return;
    if (o->breaker_until_ms <= clock_mono_ms()) {
        metric_add(M_push_breaker_trips, 1);
        log_error(PUSH_LOG,
                  "gateway %.*s rejects %u of its last %u pushkeys: is its configuration right? They are "
                  "kept and tried "
                  "again in %d minutes",
                  STR_ARG(o->key), o->rejected_n, o->answers_n, BREAKER_MS / 60000);
    }
    o->breaker_until_ms = clock_mono_ms() + BREAKER_MS;
}

bool origin_breaker(struct origin *o)
{
    return o->breaker_until_ms > clock_mono_ms();
}

void origin_answer(struct origin *o, enum push_outcome outcome, int64_t retry_after_ms)
{
    if (outcome == OUTCOME_ORIGIN)
        down(o, retry_after_ms);
    else
        up(o);
    if (outcome == OUTCOME_OK || outcome == OUTCOME_REJECTED)
        rejects_count(o, outcome == OUTCOME_REJECTED);
    push_work(o->p);
}

/* When only such as wait for their own timers are left, the first of them go ahead: one of them will be the
 * probe, so that the gateway's return is noticed within its own interval, not theirs. */
static void probe(struct origin *o)
{
    if (o->in_flight > 0)
        return;
    for (int i = 0; i < PROBE_CANDIDATES && o->ready_count == 0 && !list_empty(&o->held); i++) {
        struct pusher *ps = container_of(o->held.next, struct pusher, turn);

        list_del(&ps->turn);
        push_timer_cancel(o->p, &ps->timer);
        ps->state = PUSHER_IDLE;
        push_user_advance(ps->user);
    }
    /* The one that is to be the probe may find when its turn comes that all was read: then another is. */
    if (!list_empty(&o->held))
        push_timer_set(o->p, &o->timer, clock_mono_ms() + RAMP_STEP_MS);
}

void origin_timer(struct origin *o)
{
    if (o->health == ORIGIN_OPEN || o->health == ORIGIN_PROBING) {
        health_set(o, ORIGIN_PROBING);
        probe(o);
    } else if (o->health == ORIGIN_RAMP) {
        o->window *= 2;
        if (o->window >= WINDOW_START) {
            o->window = WINDOW_START;
            health_set(o, ORIGIN_HEALTHY);
        } else {
            push_timer_set(o->p, &o->timer, clock_mono_ms() + RAMP_STEP_MS);
        }
    }
    push_work(o->p);
}

/* ---- addresses ---- */

static void resolve_line(struct origin *o, const struct addrinfo *all)
{
    struct buf line;
    int n = 0;

    buf_init(&line, 4096);
    buf_printf(&line, "%.*s:%d:", STR_ARG(o->host), o->port);
    for (const struct addrinfo *a = all; a && n < ADDRESSES_MAX; a = a->ai_next) {
        char text[INET6_ADDRSTRLEN];
        if (getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST) != 0)
            continue;
        buf_printf(&line, a->ai_family == AF_INET6 ? "%s[%s]" : "%s%s", n ? "," : "", text);
        n++;
    }
    buf_putc(&line, 0);
    free(o->resolve);
    o->resolve = n > 0 && !line.failed ? xstrndup(str_of(line.p)) : NULL;
    o->resolve_told = false;
    buf_fini(&line);
}

static void on_resolved(uv_getaddrinfo_t *q, int status, struct addrinfo *all)
{
    struct origin *o = q->data;

    free(q);
    if (o) {
        o->lookup = NULL;
        o->resolved_ms = clock_mono_ms();
        o->unknown = status != 0 || !all;
        o->forbidden = false;
        for (const struct addrinfo *a = all; a; a = a->ai_next)
            o->forbidden = o->forbidden || !ip_policy_allows_sockaddr(&o->p->policy, a->ai_addr);
        if (o->forbidden)
            say(o, "has an address that ip_range_blacklist forbids (ip_range_whitelist may permit it)");
        else if (o->unknown)
            say(o, "its name cannot be looked up");
        else
            resolve_line(o, all);
        push_work(o->p);
    }
    uv_freeaddrinfo(all);
}

/* Whether requests can go out, or must fail at once (then *refused). Looks the name up when it is time. */
static bool reachable(struct origin *o, bool *refused)
{
    struct push *p = o->p;
    int64_t now = clock_mono_ms();

    *refused = false;
    if (o->literal) {
        if (o->forbidden)
            say(o, "its address is forbidden by ip_range_blacklist (ip_range_whitelist may permit it)");
        *refused = o->forbidden;
        return true;
    }
    if (!str_absent(push_proxy(p, o)))
        return true; /* the proxy looks it up */
    if (!o->lookup &&
        (o->resolved_ms == 0 || now - o->resolved_ms > (o->unknown ? UNKNOWN_MS : RESOLVED_MS))) {
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC};
        char *host = xstrndup(o->host);

        o->lookup = xcalloc(1, sizeof *o->lookup);
        o->lookup->data = o;
        if (uv_getaddrinfo(p->loop, o->lookup, on_resolved, host, NULL, &hints) != 0) {
            free(o->lookup);
            o->lookup = NULL;
        }
        free(host);
    }
    *refused = o->resolved_ms != 0 && (o->forbidden || o->unknown);
    return o->resolved_ms != 0;
}

/* ---- sending ---- */

static bool may_send(const struct origin *o)
{
    if (o->health == ORIGIN_OPEN)
        return false;
    if (o->health == ORIGIN_PROBING)
        return o->in_flight == 0;
    return (double)o->in_flight < o->window;
}

void origins_dispatch(struct push *p)
{
    int budget = SENDS_PER_TURN;
    struct origin *o;

    list_each(o, &p->origins_active, struct origin, active) {
        bool refused;

        if (!reachable(o, &refused))
            continue;
        while (budget > 0 && p->in_flight < SENDS_MAX && may_send(o) && o->ready_count > 0) {
            struct pusher *ps = turn_take(o);
            budget--;
            if (refused)
                pusher_refused(ps);
            else
                pusher_send(ps);
            if (refused && o->health == ORIGIN_PROBING)
                break;
        }
        if (budget == 0 && o->ready_count > 0) { /* the next turn begins with another one */
            list_del(&o->active);
            list_push(&p->origins_active, &o->active);
            break;
        }
    }
    if (!list_empty(&p->origins_active) && budget == 0)
        push_work(p);
}
