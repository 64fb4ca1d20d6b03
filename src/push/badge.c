/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Unread counts: how many rooms have something unread that is worth a notification (or how many notifications
 * there are), and how many invitations.
 *
 * Kept per user as a sorted list of the threads with unread notifications, each with the newest position and
 * the count. A new action raises it, a read marker clears it; whatever is not that plain (own memberships,
 * redactions in a room with unread things, a marker in the middle when single notifications are counted)
 * makes the user cold: the next notification loads it anew, together with all others that need it. Where
 * something happens while the rows are on their way they are read again, so that nothing is counted twice or
 * forgotten.
 *
 * Counted right, unlike Synapse, whose statement mixes up the threads of different rooms (push_tools.py,
 * event_push_actions.py: get_unread_counts_by_room_for_user in 1.157): it undercounts rooms without a receipt
 * and rooms whose receipt the summary has not seen yet.
 */
#include "push_int.h"

enum { BADGE_USER, BADGE_ROOM, BADGE_THREAD, BADGE_COUNT, BADGE_NEWEST };

static size_t place(const struct badge *b, const struct pstr *room, const struct pstr *thread)
{
    size_t lo = 0, hi = b->v.n;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const struct unread *x = &b->v.v[mid];
        uintptr_t a = (uintptr_t)x->room, c = (uintptr_t)room;
        if (a < c || (a == c && (uintptr_t)x->thread < (uintptr_t)thread))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool here(const struct badge *b, size_t i, const struct pstr *room)
{
    return i < b->v.n && b->v.v[i].room == room;
}

static bool has_room(const struct badge *b, const struct pstr *room)
{
    return here(b, place(b, room, NULL), room);
}

static void entry_put(struct push_user *u, struct pstr *room, struct pstr *thread, int64_t newest,
                      int64_t count)
{
    struct badge *b = &u->badge;
    size_t i = place(b, room, thread);

    b->total += count;
    if (here(b, i, room) && b->v.v[i].thread == thread) {
        b->v.v[i].count += count;
        if (newest > b->v.v[i].newest)
            b->v.v[i].newest = newest;
        return;
    }
    if (!has_room(b, room))
        b->rooms++;
    struct unread fresh = {room, thread, newest, count};
    vec_push(&b->v, fresh);
    memmove(&b->v.v[i + 1], &b->v.v[i], (b->v.n - 1 - i) * sizeof fresh);
    b->v.v[i] = fresh;
    room->refs++;
    thread->refs++;
    u->p->unread_count++;
}

static void entry_drop(struct push_user *u, size_t i)
{
    struct badge *b = &u->badge;
    struct unread x = b->v.v[i];

    memmove(&b->v.v[i], &b->v.v[i + 1], (b->v.n - 1 - i) * sizeof x);
    b->v.n--;
    b->total -= x.count;
    if (!has_room(b, x.room))
        b->rooms--;
    pstr_unref(u->p, &x.room);
    pstr_unref(u->p, &x.thread);
    u->p->unread_count--;
}

static void clear(struct push_user *u)
{
    struct badge *b = &u->badge;

    for (size_t i = 0; i < b->v.n; i++) {
        pstr_unref(u->p, &b->v.v[i].room);
        pstr_unref(u->p, &b->v.v[i].thread);
    }
    u->p->unread_count -= b->v.n;
    vec_free(&b->v);
    b->invites = b->rooms = b->total = 0;
}

void badge_cold(struct push_user *u)
{
    if (u->badge.state == BADGE_WARM) {
        clear(u);
        list_del(&u->badge.lru);
        u->badge.state = BADGE_COLD;
    } else if (u->badge.state == BADGE_LOADING) {
        u->badge.stale = true;
    }
}

void badge_fini(struct push_user *u)
{
    clear(u);
    list_del(&u->badge.lru);
}

int64_t badge_value(const struct push_user *u)
{
    const struct badge *b = &u->badge;

    return b->invites + (u->p->cfg->push.group_unread_count_by_room ? b->rooms : b->total);
}

/* Redactions since the badge was last looked at: a room with unread things may have one less. */
static bool touched_by_redaction(struct push_user *u)
{
    struct push *p = u->p;
    uint64_t since = u->badge.redactions;

    u->badge.redactions = p->redactions;
    if (p->redactions - since > REDACTIONS_KEPT)
        return u->badge.v.n > 0;
    for (uint64_t i = since; i < p->redactions; i++)
        if (has_room(&u->badge, p->redacted[i % REDACTIONS_KEPT]))
            return true;
    return false;
}

bool badge_want(struct push_user *u)
{
    struct push *p = u->p;

    if (u->badge.state == BADGE_WARM && touched_by_redaction(u))
        badge_cold(u);
    if (u->badge.state == BADGE_WARM) {
        list_del(&u->badge.lru);
        list_push(&p->badges_warm, &u->badge.lru);
        return true;
    }
    if (u->badge.state == BADGE_COLD) {
        u->badge.state = BADGE_WANTED;
        list_push(&p->badges_wanted, &u->wanted);
    }
    return false;
}

void badge_action(struct push_user *u, const struct push_event *ev)
{
    if (u->badge.state == BADGE_LOADING)
        u->badge.stale = true;
    else if (u->badge.state == BADGE_WARM && ev->stream_ordering > u->badge.upto &&
             !(ev->own_member && str_eq(pstr_str(ev->own_member), u->id)))
        entry_put(u, ev->room, ev->thread, ev->stream_ordering, 1);
}

void badge_read(struct push_user *u, const struct pstr *room, const struct pstr *thread, int64_t upto)
{
    struct badge *b = &u->badge;

    if (b->state == BADGE_LOADING)
        b->stale = true;
    if (b->state != BADGE_WARM)
        return;
    for (size_t i = place(b, room, NULL); here(b, i, room);) {
        struct unread *x = &b->v.v[i];
        if (thread && x->thread != thread) {
            i++;
        } else if (x->newest <= upto) {
            entry_drop(u, i);
        } else if (!u->p->cfg->push.group_unread_count_by_room && x->count > 1) {
            badge_cold(u); /* some of them are read: which, the table knows */
            return;
        } else {
            i++;
        }
    }
}

void badge_redacted(struct push *p, struct str room_id)
{
    struct pstr **slot = &p->redacted[p->redactions % REDACTIONS_KEPT];

    pstr_unref(p, slot);
    *slot = pstr_ref(p, room_id);
    p->redactions++;
}

/* ---- loading ---- */

struct badge_load {
    struct push *p;
    int64_t upto;
    struct pstr **users;
    size_t n;
};

static void loaded(struct push_user *u, const struct badge_load *l, bool err)
{
    struct badge *b = &u->badge;
    struct push *p = u->p;

    if (b->state != BADGE_LOADING || b->load != l)
        return;
    if (err || b->stale) {
        clear(u);
        b->stale = false;
        b->state = BADGE_WANTED;
        list_push(&p->badges_wanted, &u->wanted);
    } else {
        b->state = BADGE_WARM;
        b->upto = l->upto;
        list_push(&p->badges_warm, &b->lru);
    }
}

static void row_take(struct push *p, const struct badge_load *l, const struct pg_result *r, int i)
{
    struct push_user *u = push_user_find(p, pg_str(r, i, BADGE_USER));
    struct pstr *room, *thread;

    if (!u || u->badge.state != BADGE_LOADING || u->badge.load != l || u->badge.stale)
        return;
    if (pg_null(r, i, BADGE_THREAD)) {
        u->badge.invites++;
        return;
    }
    room = pstr_ref(p, pg_str(r, i, BADGE_ROOM));
    thread = pstr_ref(p, pg_str(r, i, BADGE_THREAD));
    entry_put(u, room, thread, pg_i64(r, i, BADGE_NEWEST), pg_i64(r, i, BADGE_COUNT));
    pstr_unref(p, &room);
    pstr_unref(p, &thread);
}

static void on_badges(void *arg, int err, const struct pg_result *r)
{
    struct badge_load *l = arg;
    struct push *p = l->p;

    p->badges_loading--;
    for (int i = 0; !err && !p->stopping && i < pg_rows(r); i++)
        row_take(p, l, r, i);
    for (size_t j = 0; j < l->n; j++) {
        struct push_user *u = push_user_find(p, pstr_str(l->users[j]));
        if (u && !p->stopping)
            loaded(u, l, err != 0);
        pstr_unref(p, &l->users[j]);
    }
    if (err) {
        metric_add_l(M_push_failures, "badge", 1);
        push_load_failed(p);
    }
    free(l->users);
    free(l);
    badges_trim(p);
    push_waiting_advance(p);
}

void badges_load(struct push *p)
{
    /* Not while a scan is under way: the two must agree on how far the actions are counted. */
    while (!list_empty(&p->badges_wanted) && !push_scan_midway(p) && !p->stopping) {
        struct badge_load *l = xcalloc(1, sizeof *l);
        struct str *ids = xcalloc(BADGE_USERS, sizeof *ids);
        struct pg_args *args = pg_args_new();
        struct push_user *u;

        l->p = p;
        l->upto = p->scanned;
        l->users = xcalloc(BADGE_USERS, sizeof *l->users);
        list_each(u, &p->badges_wanted, struct push_user, wanted) {
            if (l->n == BADGE_USERS)
                break;
            list_del(&u->wanted);
            u->badge.state = BADGE_LOADING;
            u->badge.stale = false;
            u->badge.load = l;
            u->badge.redactions = p->redactions;
            ids[l->n] = u->id;
            l->users[l->n++] = pstr_ref(p, u->id);
        }
        pg_args_text_array(args, ids, l->n);
        pg_args_i64(args, l->upto);
        free(ids);
        p->badges_loading++;
        pg_exec(p->pg, SQL_push_badges, args, on_badges, l);
    }
}

void badges_trim(struct push *p)
{
    while (p->unread_count > (size_t)p->cfg->push_unread_max && !list_empty(&p->badges_warm)) {
        struct push_user *u = container_of(p->badges_warm.next, struct push_user, badge.lru);
        badge_cold(u);
        metric_add(M_push_badges_evicted, 1);
    }
}
