/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Users with pushers: a queue of actions for each user, and for each of its pushers a position in it.
 *
 * The queue is a window on the user's unread actions, in stream order and bounded: it has all of them above
 * queue_from. A pusher's head is the first action above its position. One that stands before the window (it
 * failed for long, or it is new), or reaches its end while the table has more, has the window moved to where
 * it stands; so a gateway that is down holds up nobody else's. pusher_advance is the one place that decides
 * what a pusher does next; it is called whenever something that it waits for may have come (an action, an
 * event, a badge, an answer, a timer) and does nothing when it has not.
 *
 *   IDLE ──head loaded, badge known──► READY ──turn──► SENDING ──answer──► IDLE and on, WAIT, or SUSPENDED
 */
#include "push_int.h"

/* ---- users ---- */

struct push_user *push_user_find(struct push *p, struct str user_id)
{
    return smap_get(&p->users, user_id);
}

struct push_user *push_user_get(struct push *p, struct str user_id)
{
    struct push_user *u = push_user_find(p, user_id);

    if (u)
        return u;
    u = xcalloc(1, sizeof *u + user_id.n + 1);
    u->p = p;
    memcpy(u->id_bytes, user_id.p, user_id.n);
    u->id = str_n(u->id_bytes, user_id.n);
    list_init(&u->pushers);
    list_init(&u->wanted);
    list_init(&u->wanted_backlog);
    list_init(&u->waiting);
    list_init(&u->badge.lru);
    u->badge_timer.kind = TIMER_BADGE;
    smap_put(&p->users, u->id, u);
    return u;
}

static int64_t action_at(const struct push_user *u, size_t i)
{
    return u->queue[u->queue_first + i].ev->stream_ordering;
}

static void action_drop(struct push_user *u, struct push_action *a)
{
    push_event_unref(u->p, &a->ev);
    tweaks_unref(u->p, &a->tweaks);
}

void push_user_queue_clear(struct push_user *u)
{
    for (size_t i = 0; i < u->queue_n; i++)
        action_drop(u, &u->queue[u->queue_first + i]);
    free(u->queue);
    u->queue = NULL;
    u->queue_first = u->queue_n = u->queue_cap = 0;
}

void push_user_free(struct push_user *u)
{
    struct push *p = u->p;

    ASSERT(list_empty(&u->pushers));
    push_user_queue_clear(u);
    badge_fini(u);
    push_timer_cancel(p, &u->badge_timer);
    list_del(&u->wanted);
    list_del(&u->wanted_backlog);
    list_del(&u->waiting);
    smap_del(&p->users, u->id);
    free(u);
}

void push_user_wait(struct push_user *u)
{
    if (list_empty(&u->waiting))
        list_push(&u->p->waiting, &u->waiting);
}

void push_waiting_run(struct push *p)
{
    struct list now;
    struct push_user *u;

    if (p->stopping)
        return;
    /* Who still waits puts itself back on the list: take those of now only. */
    list_init(&now);
    if (!list_empty(&p->waiting)) {
        now = p->waiting;
        now.next->prev = now.prev->next = &now;
        list_init(&p->waiting);
    }
    while (!list_empty(&now)) {
        u = container_of(now.next, struct push_user, waiting);
        list_del(&u->waiting);
        push_user_advance(u);
    }
}

void push_waiting_advance(struct push *p)
{
    push_waiting_run(p);
    push_work(p);
}

/* ---- the queue ---- */

static void queue_reserve(struct push_user *u)
{
    if (u->queue_first + u->queue_n < u->queue_cap)
        return;
    if (u->queue_first > u->queue_n) {
        memmove(u->queue, u->queue + u->queue_first, u->queue_n * sizeof *u->queue);
    } else {
        size_t cap = u->queue_n ? u->queue_n * 2 : 2;
        struct push_action *fresh = xmalloc(cap * sizeof *fresh);
        if (u->queue_n)
            memcpy(fresh, u->queue + u->queue_first, u->queue_n * sizeof *fresh);
        free(u->queue);
        u->queue = fresh;
        u->queue_cap = cap;
    }
    u->queue_first = 0;
}

static int64_t least_done(const struct push_user *u)
{
    int64_t least = INT64_MAX;
    struct pusher *ps;

    list_each(ps, &u->pushers, struct pusher, of_user)
        if (ps->done < least)
            least = ps->done;
    return least;
}

/* First index whose action is above a position. */
static size_t queue_above(const struct push_user *u, int64_t position)
{
    size_t lo = 0, hi = u->queue_n;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (action_at(u, mid) > position)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

bool push_user_add(struct push_user *u, struct push_event *ev, struct push_tweaks *tweaks)
{
    size_t at = queue_above(u, ev->stream_ordering);

    if (ev->stream_ordering <= least_done(u) || ev->stream_ordering <= u->queue_from ||
        (at > 0 && action_at(u, at - 1) == ev->stream_ordering))
        return false;
    if (u->more && at == u->queue_n)
        return false;
    if (u->queue_n >= QUEUE_MAX) { /* what is left out is at the end, where it will be read again */
        u->more = true;
        if (at == u->queue_n)
            return false;
        action_drop(u, &u->queue[u->queue_first + --u->queue_n]);
    }
    queue_reserve(u);
    struct push_action *slot = u->queue + u->queue_first + at;
    memmove(slot + 1, slot, (u->queue_n - at) * sizeof *slot);
    slot->ev = ev;
    slot->tweaks = tweaks;
    ev->refs++;
    tweaks->refs++;
    u->queue_n++;
    return true;
}

/* Forgets what every pusher has behind it. */
static void queue_trim(struct push_user *u)
{
    int64_t least = least_done(u);

    while (u->queue_n > 0 && action_at(u, 0) <= least) {
        if (action_at(u, 0) > u->queue_from)
            u->queue_from = action_at(u, 0);
        action_drop(u, &u->queue[u->queue_first]);
        u->queue_first++;
        u->queue_n--;
    }
    if (u->queue_n == 0)
        push_user_queue_clear(u); /* most users have nothing waiting: no memory either */
}

void push_user_read(struct push_user *u, const struct pstr *room, const struct pstr *thread, int64_t upto)
{
    size_t kept = 0;

    for (size_t i = 0; i < u->queue_n; i++) {
        struct push_action *a = &u->queue[u->queue_first + i];
        bool covered =
            a->ev->room == room && a->ev->stream_ordering <= upto && (!thread || a->ev->thread == thread);

        if (covered) {
            metric_add_l(M_push_skipped, "read", 1);
            action_drop(u, a);
        } else {
            u->queue[u->queue_first + kept++] = *a;
        }
    }
    u->queue_n = kept;
    if (u->backlog == BACKLOG_LOADING)
        u->backlog_again = true; /* what comes may have been read */
}

const struct push_action *pusher_head(const struct pusher *ps)
{
    const struct push_user *u = ps->user;
    size_t i = queue_above(u, ps->done);

    return i < u->queue_n ? &u->queue[u->queue_first + i] : NULL;
}

void push_user_want_backlog(struct push_user *u, int64_t from)
{
    if (u->backlog != BACKLOG_NONE && from < u->backlog_from)
        u->backlog_from = from;
    if (u->backlog == BACKLOG_LOADING) {
        u->backlog_again = true;
        return;
    }
    if (u->backlog == BACKLOG_NONE)
        u->backlog_from = from;
    u->backlog = BACKLOG_WANTED;
    if (list_empty(&u->wanted_backlog))
        list_push(&u->p->backlogs_wanted, &u->wanted_backlog);
}

/* ---- pushers ---- */

void pusher_done(struct pusher *ps, int64_t upto)
{
    if (upto <= ps->done)
        return;
    ps->done = upto;
    pusher_dirty(ps);
}

static void pusher_free(struct pusher *ps)
{
    origin_unref(ps->origin);
    free(ps);
}

void pusher_kill(struct pusher *ps)
{
    struct push_user *u = ps->user;

    if (ps->dead)
        return;
    ps->dead = true;
    ps->user = NULL;
    if (ps->state == PUSHER_SUSPENDED)
        metric_add(M_push_removals_waiting, -1);
    list_del(&ps->of_user);
    u->pushers_count--;
    list_del(&ps->dirty);
    list_del(&ps->removal);
    push_timer_cancel(u->p, &ps->timer);
    origin_forget(ps);
    u->p->pushers_count--;
    metric_set_l(M_push_pushers, "http", (int64_t)u->p->pushers_count);
    pusher_release(ps);
}

void pusher_release(struct pusher *ps)
{
    if (ps->dead && ps->state != PUSHER_SENDING && !ps->removal_sent)
        pusher_free(ps);
}

void pusher_fail(struct pusher *ps, int64_t wait_ms)
{
    struct push *p = ps->p;
    int64_t now = clock_wall_ms();

    if (!ps->failing_since) {
        ps->failing_since = now;
        pusher_dirty(ps);
    }
    if (wait_ms <= 0) {
        wait_ms = BACKOFF_FIRST_MS << (ps->failures < 9 ? ps->failures : 9);
        if (wait_ms > BACKOFF_MAX_MS)
            wait_ms = BACKOFF_MAX_MS;
        /* Not in step with others that failed at the same moment. */
        wait_ms += (int64_t)((double)wait_ms * 0.1 * rng_unit());
        ps->failures++;
    }
    ps->state = PUSHER_WAIT;
    push_timer_set(p, &ps->timer, clock_mono_ms() + wait_ms);
}

/* Draws the random delay of push.jitter_delay, once for each notification (Synapse 1.157 httppusher.py).
 * Counted from the event's own time, but never longer than the delay from now: that time is another server's
 * word. */
static bool jitter_over(struct pusher *ps, const struct push_event *ev)
{
    struct push *p = ps->p;
    int64_t most = p->cfg->push.jitter_ms, now = clock_wall_ms();

    if (most <= 0)
        return true;
    if (ps->jitter_at != ev->stream_ordering) {
        int64_t until = ev->origin_server_ts + 1 + (int64_t)(rng_unit() * (double)most);
        ps->jitter_at = ev->stream_ordering;
        ps->jitter_until = until < now + most ? until : now + most;
    }
    if (ps->jitter_until <= now)
        return true;
    push_timer_set(p, &ps->timer, clock_mono_ms() + (ps->jitter_until - now));
    return false;
}

/* Actions that need no telling: what was redacted or cannot be told, rules that say nothing. */
static const struct push_action *head_to_tell(struct pusher *ps)
{
    const struct push_action *a;

    while ((a = pusher_head(ps)) && (a->ev->state == PUSH_EVENT_GONE || !a->tweaks->notify)) {
        metric_add_l(M_push_skipped, "gone", 1);
        pusher_done(ps, a->ev->stream_ordering);
    }
    return a;
}

static bool expired(const struct push_user *u)
{
    return u->expires_ms && u->expires_ms <= clock_wall_ms();
}

void pusher_advance(struct pusher *ps)
{
    struct push_user *u = ps->user;
    struct push *p = ps->p;
    const struct push_action *a;

    if (p->draining || ps->state != PUSHER_IDLE || expired(u))
        return;
    if (ps->done < u->queue_from) /* before the window; while that is read nothing is known to be the next */
        push_user_want_backlog(u, ps->done);
    if (u->backlog != BACKLOG_NONE)
        return;
    a = head_to_tell(ps);
    if (!a) {
        if (u->more) {
            push_user_want_backlog(u, ps->done);
        } else if (ps->badge_due && !ps->no_counts && badge_want(u)) {
            ps->badge_due = false;
            if (badge_value(u) != ps->badge_told) {
                ps->kind = PUSH_BADGE;
                origin_enqueue(ps, true, false);
            }
        } else if (ps->badge_due && !ps->no_counts) {
            push_user_wait(u);
        }
        return;
    }
    if (a->ev->state != PUSH_EVENT_READY || (!ps->no_counts && !badge_want(u))) {
        push_user_wait(u);
        return;
    }
    if (push_timer_is_set(&ps->timer) || !jitter_over(ps, a->ev))
        return;
    ps->kind = PUSH_EVENT;
    origin_enqueue(ps, payload_high(a), false);
}

void push_user_advance(struct push_user *u)
{
    struct pusher *ps;

    list_each(ps, &u->pushers, struct pusher, of_user)
        pusher_advance(ps);
    queue_trim(u);
}
