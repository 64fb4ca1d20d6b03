/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Rejected pushkeys: the gateway says that a device is gone, the main process deletes the pusher.
 *
 * A rejected pusher is suspended at once and its removal asked for a little later: when a gateway suddenly
 * rejects many (somebody broke its configuration), the breaker of its origin trips in that time and the
 * pushers are kept and tried again later, instead of being deleted for good. A removal that fails is repeated
 * with growing pauses. A pusher that was registered anew meanwhile is another pusher (its row has another
 * id), and the old one's removal is dropped: the request cannot name a version.
 */
#include "push_int.h"

enum { REMOVAL_RETRY_MS = 1000, REMOVAL_RETRY_MAX_MS = 300000, REMOVALS_AT_ONCE = 8 };

void removal_enqueue(struct pusher *ps)
{
    struct push *p = ps->p;

    ps->state = PUSHER_SUSPENDED;
    ps->removal_ms = clock_mono_ms() + REMOVAL_DELAY_MS;
    ps->removal_tries = 0;
    if (list_empty(&ps->removal))
        list_push(&p->removals, &ps->removal);
    metric_add(M_push_removals_waiting, 1);
}

static void on_removed(void *arg, const struct httpc_res *res)
{
    struct pusher *ps = arg;
    struct push *p = ps->p;
    bool ok = !res->err && res->status >= 200 && res->status < 300;

    ps->removal_sent = false;
    p->removals_sent--;
    if (ok)
        metric_add(M_push_removed, 1);
    if (ps->dead || p->stopping) { /* the row of the stream may come before this answer */
        pusher_release(ps);
        return;
    }
    if (ok) {
        /* Should the row still be there, it is asked for again later. */
        push_rows_changed_pusher(ps);
        ps->removal_ms = clock_mono_ms() + REMOVAL_RETRY_MAX_MS;
        list_push(&p->removals, &ps->removal);
        push_rows_flush(p);
        return;
    }
    int64_t wait = (int64_t)REMOVAL_RETRY_MS << (ps->removal_tries < 9 ? ps->removal_tries : 9);
    ps->removal_tries++;
    ps->removal_ms = clock_mono_ms() + (wait < REMOVAL_RETRY_MAX_MS ? wait : REMOVAL_RETRY_MAX_MS);
    list_push(&p->removals, &ps->removal);
    metric_add_l(M_push_failures, "removal", 1);
    if (ps->removal_tries == 3)
        log_warning(PUSH_LOG, "the main process does not remove rejected pushers (%s, status %d); trying on",
                    err_text(res->err), res->err ? 0 : res->status);
}

static void removal_send(struct pusher *ps)
{
    struct push *p = ps->p;

    list_del(&ps->removal);
    ps->removal_sent = true;
    p->removals_sent++;
    if (!feed_remove_pusher(p->feed, ps->user->id, ps->app_id, ps->pushkey, on_removed, ps)) {
        ps->removal_sent = false;
        p->removals_sent--;
        ps->removal_ms = clock_mono_ms() + REMOVAL_RETRY_MAX_MS;
        list_push(&p->removals, &ps->removal);
    }
}

void removals_run(struct push *p)
{
    int64_t now = clock_mono_ms();
    struct pusher *ps;

    list_each(ps, &p->removals, struct pusher, removal) {
        if (p->removals_sent >= REMOVALS_AT_ONCE || p->draining)
            return;
        if (ps->removal_ms > now)
            continue;
        if (origin_breaker(ps->origin)) { /* keep it; ask the gateway again later */
            list_del(&ps->removal);
            metric_add(M_push_removals_waiting, -1);
            pusher_fail(ps, origin_breaker_wait());
            continue;
        }
        removal_send(ps);
    }
}
