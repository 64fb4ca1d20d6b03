/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Life of the push worker: the feed's rows in, timers, work in slices, drain and stop.
 *
 * Rows only mark what changed; at the end of a burst the marks become statements. One idle handle does the
 * sending, a slice in each turn of the loop, so that a message to a large room does not keep the hub from
 * others. A tick flushes positions and tries again whatever failed for want of the database; a sweep once a
 * minute looks at everybody, so no pusher can be forgotten by a lost wake-up.
 */
#include "push_int.h"

enum { TICK_MS = 50, BODY_BYTES_MAX = 8 << 20, SCRATCH_BYTES_MAX = 4 << 20 };

/* ---- work ---- */

void push_load(struct push *p)
{
    if (clock_mono_ms() < p->load_ms)
        return;
    badges_load(p);
    push_backlogs_load(p);
    push_events_load(p);
}

void push_load_failed(struct push *p)
{
    p->load_ms = clock_mono_ms() + RETRY_MS; /* the tick begins again */
}

static void on_idle(uv_idle_t *h)
{
    struct push *p = h->data;

    p->work = false;
    push_waiting_run(
        p); /* who still has to wait asks for no further turn: the answer that it waits for does */
    push_load(p);
    if (!p->draining && p->sends)
        origins_dispatch(p);
    if (!p->work)
        uv_idle_stop(&p->idle);
}

void push_work(struct push *p)
{
    if (p->work || p->stopping)
        return;
    p->work = true;
    uv_idle_start(&p->idle, on_idle);
}

/* ---- timers ---- */

static void on_timer(uv_timer_t *t);

static void timer_arm(struct push *p)
{
    int64_t next = wheel_next_ms(&p->wheel, clock_mono_ms());

    if (p->stopping)
        return;
    if (next < 0)
        uv_timer_stop(&p->timer);
    else
        uv_timer_start(&p->timer, on_timer, (uint64_t)next, 0);
}

void push_timer_set(struct push *p, struct push_timer *t, int64_t due_ms)
{
    wheel_set(&p->wheel, &t->at, due_ms);
    if (!p->advancing)
        timer_arm(p);
}

void push_timer_cancel(struct push *p, struct push_timer *t)
{
    wheel_cancel(&p->wheel, &t->at);
}

static void badge_due(struct push_user *u)
{
    struct pusher *ps;

    list_each(ps, &u->pushers, struct pusher, of_user)
        ps->badge_due = true;
    push_user_wait(u);
}

static void on_due(void *arg, struct wheel_timer *at)
{
    struct push *p = arg;
    struct push_timer *t = container_of(at, struct push_timer, at);

    if (t->kind == TIMER_ORIGIN) {
        origin_timer(container_of(t, struct origin, timer));
    } else if (t->kind == TIMER_BADGE) {
        badge_due(container_of(t, struct push_user, badge_timer));
    } else {
        struct pusher *ps = container_of(t, struct pusher, timer);
        if (ps->state == PUSHER_WAIT) {
            origin_forget(ps); /* it may be held by its gateway: then it waits in line from now on */
            ps->state = PUSHER_IDLE;
        }
        push_user_wait(ps->user);
    }
    push_work(p);
}

static void on_timer(uv_timer_t *t)
{
    struct push *p = t->data;

    p->advancing = true;
    (void)wheel_advance(&p->wheel, clock_mono_ms(), SIZE_MAX, on_due, p);
    p->advancing = false;
    timer_arm(p);
}

static void sweep(struct push *p)
{
    struct push_user *u;
    size_t it = 0;

    while ((u = smap_next(&p->users, &it)))
        push_user_wait(u);
    badges_trim(p);
    push_work(p);
}

static void on_tick(uv_timer_t *t)
{
    struct push *p = t->data;
    int64_t now = clock_mono_ms();

    push_commit(p, p->draining);
    if (!p->feed || p->stopping)
        return;
    if (p->leads && now >= p->rows_next_ms)
        push_rows_load(p);
    if (now >= p->retry_ms) { /* what the database refused a moment ago */
        p->retry_ms = now + RETRY_MS;
        push_rows_flush(p);
        push_receipts_flush(p);
        push_scan(p);
        push_load(p);
        origins_show(p);
    }
    if (p->sends)
        removals_run(p);
    if (now >= p->sweep_ms) {
        p->sweep_ms = now + SWEEP_MS;
        sweep(p);
    }
}

/* ---- the feed's rows ---- */

/* A membership of somebody with pushers: its counts change in ways that only the tables tell. */
static void own_member(struct push *p, struct str user_id, struct str event_id)
{
    struct push_user *u = push_user_find(p, user_id);

    if (!u)
        return;
    badge_cold(u);
    if (event_id.n > 0)
        own_member_put(p, event_id, user_id);
}

static void event_rows(struct push *p, const struct feed_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct feed_row *r = &rows[i];

        if (r->ev.kind == EV_ROW_STATE_ALL || r->ev.rejected)
            continue;
        if (str_eq(r->ev.type, STR("m.room.member")))
            own_member(p, r->ev.state_key, r->ev.event_id);
        if (r->ev.kind == EV_ROW_EV && r->ev.redacts.n > 0) {
            push_event_gone(p, r->ev.redacts, r->ev.room_id);
            badge_redacted(p, r->ev.room_id);
        }
    }
}

static void sink_rows(void *arg, enum stream s, writer_id w, int64_t token, const struct feed_row *rows,
                      size_t n)
{
    struct push *p = arg;

    if (s == STREAM_EVENTS) {
        event_rows(p, rows, n);
        if (p->positions)
            positions_advance(p->positions, w, token);
    } else if (s == STREAM_RECEIPTS) {
        push_receipts_rows(p, rows, n);
    } else if (s == STREAM_PUSHERS) {
        for (size_t i = 0; i < n; i++)
            push_rows_changed(p, rows[i].pusher.user_id, rows[i].pusher.app_id, rows[i].pusher.pushkey,
                              rows[i].pusher.deleted);
    }
}

static void sink_reset(void *arg, enum stream s, writer_id w)
{
    (void)arg;
    (void)s;
    (void)w;
}

/* What was read is asked for before what is new: it may make it superfluous. */
static void sink_burst_end(void *arg)
{
    struct push *p = arg;

    push_rows_flush(p);
    push_receipts_flush(p);
    push_scan(p);
}

/* Rows were missed for good: begin with the tables again. */
static void sink_flush(void *arg, enum stream s)
{
    struct push *p = arg;

    (void)s;
    p->rows_next_ms = 0;
}

static void sink_state(void *arg, enum feed_state st)
{
    (void)arg;
    (void)st;
}

struct feed_sink push_sink(struct push *p)
{
    return (struct feed_sink){p, sink_rows, sink_reset, sink_burst_end, sink_flush, sink_state};
}

/* ---- life ---- */

static int http_start(struct push *p, struct err *e)
{
    const struct config *cfg = p->cfg;
    struct str suffix = cfg->push.user_agent_suffix;
    char agent[256];

    p->policy = (struct ip_policy){cfg->push.ip_block, cfg->push.ip_allow, cfg->push.ip_block_count,
                                   cfg->push.ip_allow_count};
    int n = snprintf(agent, sizeof agent, "chappe/" CHAPPE_VERSION "%s%.*s", suffix.n ? " " : "",
                     STR_ARG(suffix));
    struct httpc_options options = {
        .calls_max = SENDS_MAX + 64,
        .host_connections_max = HOST_CONNECTIONS_MAX,
        .connections_max = SENDS_MAX,
        .policy = &p->policy,
        .user_agent = str_n(agent, n < (int)sizeof agent ? (size_t)n : sizeof agent - 1),
        .quiet = true,
        .alike = true,
    };
    return httpc_start(&p->httpc, p->loop, &options, e);
}

int push_start(struct push **out, struct uv_loop_s *loop, const struct config *cfg, struct pg *pg,
               struct err *e)
{
    struct push *p = xcalloc(1, sizeof *p);
    int err;

    p->loop = loop;
    p->cfg = cfg;
    p->pg = pg;
    err = http_start(p, e);
    if (err) {
        free(p);
        return err;
    }
    struct smap *maps[] = {&p->users,          &p->strings,     &p->tweaks,      &p->events,
                           &p->origins_by_key, &p->own_members, &p->rows_changed};
    struct list *lists[] = {&p->events_wanted, &p->badges_wanted, &p->backlogs_wanted, &p->waiting,
                            &p->badges_warm,   &p->dirty,         &p->removals,        &p->origins_active};
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++)
        smap_init(maps[i]);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        list_init(lists[i]);
    wheel_init(&p->wheel, clock_mono_ms());
    buf_init(&p->body, BODY_BYTES_MAX);
    p->scratch = arena_new(SCRATCH_BYTES_MAX);
    uv_timer_init(loop, &p->timer);
    uv_timer_init(loop, &p->tick);
    uv_idle_init(loop, &p->idle);
    p->timer.data = p->tick.data = p->idle.data = p;
    p->handles = 3;
    *out = p;
    return 0;
}

void push_adopt(struct push *p, struct feed *f)
{
    p->feed = f;
    p->positions = positions_copy(feed_start_positions(f, STREAM_EVENTS));
    p->scanned = positions_persisted_upto(p->positions);
    p->sweep_ms = clock_mono_ms() + SWEEP_MS;
    push_lead(p);
    uv_timer_start(&p->tick, on_tick, TICK_MS, TICK_MS);
}

bool push_ready(const struct push *p)
{
    return p->rows_ready || (p->lock_asked && !p->leads);
}

void push_drain(struct push *p)
{
    p->draining = true;
}

bool push_idle(const struct push *p)
{
    return p->in_flight == 0 && p->removals_sent == 0 && list_empty(&p->dirty) && !p->committing;
}

void push_halt(struct push *p)
{
    p->stopping = true;
    pg_lock_stop(&p->lock);
    uv_timer_stop(&p->timer);
    uv_timer_stop(&p->tick);
    uv_idle_stop(&p->idle);
}

static void handle_closed(uv_handle_t *h)
{
    struct push *p = h->data;

    if (--p->handles == 0)
        free(p);
}

static void free_all(struct push *p)
{
    struct push_user *u;
    struct pusher *ps;
    void *key;
    size_t it = 0;

    while ((u = smap_next(&p->users, &it))) {
        list_each(ps, &u->pushers, struct pusher, of_user)
            pusher_kill(ps);
        push_user_free(u);
    }
    push_receipts_free(p);
    for (int i = 0; i < REDACTIONS_KEPT; i++)
        pstr_unref(p, &p->redacted[i]);
    own_members_clear(p);
    it = 0;
    while ((key = smap_next(&p->rows_changed, &it)))
        free(key);
}

void push_stop(struct push **pp)
{
    struct push *p = *pp;

    *pp = NULL;
    if (!p)
        return;
    push_halt(p);
    httpc_stop(&p->httpc); /* its answers come now */
    free_all(p);
    struct smap *maps[] = {&p->users,          &p->strings,     &p->tweaks,      &p->events,
                           &p->origins_by_key, &p->own_members, &p->rows_changed};
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++)
        smap_fini(maps[i]);
    positions_free(&p->positions);
    free((void *)p->scan_user.p);
    buf_fini(&p->body);
    arena_free(&p->scratch);
    uv_close((uv_handle_t *)&p->timer, handle_closed);
    uv_close((uv_handle_t *)&p->tick, handle_closed);
    uv_close((uv_handle_t *)&p->idle, handle_closed);
}
