/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Read markers: what a user has read on another device is not told any more, and the count is.
 *
 * The stream's rows name a room and an event, not how far that is; the markers of all rooms and users of a
 * batch are read in one statement. A marker counts for its thread, or for all threads when it names none. An
 * event that is marked as read before its push action was scanned (its writer is ahead of the others) is
 * remembered until the scan has passed it.
 *
 * Any receipt of a user has its count told again, a moment later and once for several, if it changed.
 */
#include "push_int.h"

enum { PAIRS_MAX = 2000, AHEAD_MAX = 100000 };

struct pair {
    struct pstr *user, *room;
};
struct marker {
    struct pstr *user, *room, *thread; /* thread NULL: all */
    int64_t upto;
};
struct push_receipts {
    VEC(struct pair) wanted; /* named by the stream since the last statement */
    VEC(struct marker) ahead;
    bool reading;
};

static struct push_receipts *state(struct push *p)
{
    if (!p->receipts)
        p->receipts = xcalloc(1, sizeof *p->receipts);
    return p->receipts;
}

static void marker_free(struct push *p, struct marker *m)
{
    pstr_unref(p, &m->user);
    pstr_unref(p, &m->room);
    pstr_unref(p, &m->thread);
}

static void pair_free(struct push *p, struct pair *x)
{
    pstr_unref(p, &x->user);
    pstr_unref(p, &x->room);
}

void push_receipts_free(struct push *p)
{
    struct push_receipts *s = p->receipts;

    if (!s)
        return;
    for (size_t i = 0; i < s->wanted.n; i++)
        pair_free(p, &s->wanted.v[i]);
    for (size_t i = 0; i < s->ahead.n; i++)
        marker_free(p, &s->ahead.v[i]);
    vec_free(&s->wanted);
    vec_free(&s->ahead);
    free(s);
    p->receipts = NULL;
}

void push_receipts_rows(struct push *p, const struct feed_row *rows, size_t n)
{
    struct push_receipts *s = state(p);

    for (size_t i = 0; i < n; i++) {
        struct pair x;

        if (!push_user_find(p, rows[i].receipt.user_id))
            continue;
        x.user = pstr_ref(p, rows[i].receipt.user_id);
        x.room = pstr_ref(p, rows[i].receipt.room_id);
        vec_push(&s->wanted, x);
    }
}

static void apply(struct push *p, const struct marker *m)
{
    struct push_user *u = push_user_find(p, pstr_str(m->user));

    if (!u)
        return;
    push_user_read(u, m->room, m->thread, m->upto);
    badge_read(u, m->room, m->thread, m->upto);
    push_user_wait(u);
}

struct markers_load {
    struct push *p;
    struct pair *v;
    size_t n;
};
enum { MARK_USER, MARK_ROOM, MARK_THREAD, MARK_UPTO };

static void row_take(struct push *p, const struct pg_result *r, int i)
{
    struct push_receipts *s = state(p);
    struct marker m = {.upto = pg_i64(r, i, MARK_UPTO)};

    m.user = pstr_ref(p, pg_str(r, i, MARK_USER));
    m.room = pstr_ref(p, pg_str(r, i, MARK_ROOM));
    if (!pg_null(r, i, MARK_THREAD))
        m.thread = pstr_ref(p, pg_str(r, i, MARK_THREAD));
    apply(p, &m);
    if (m.upto > p->scanned && s->ahead.n < AHEAD_MAX)
        vec_push(&s->ahead, m);
    else
        marker_free(p, &m);
}

static void on_markers(void *arg, int err, const struct pg_result *r)
{
    struct markers_load *l = arg;
    struct push *p = l->p;
    struct push_receipts *s = state(p);
    int64_t due = clock_mono_ms() + BADGE_DELAY_MS;

    s->reading = false;
    for (int i = 0; !err && !p->stopping && i < pg_rows(r); i++)
        row_take(p, r, i);
    for (size_t j = 0; j < l->n; j++) {
        struct push_user *u = p->stopping ? NULL : push_user_find(p, pstr_str(l->v[j].user));

        if (err && !p->stopping) { /* again */
            vec_push(&s->wanted, l->v[j]);
            continue;
        }
        if (u && !push_timer_is_set(&u->badge_timer))
            push_timer_set(p, &u->badge_timer, due);
        pair_free(p, &l->v[j]);
    }
    if (err)
        metric_add_l(M_push_failures, "receipts", 1);
    free(l->v);
    free(l);
    if (p->stopping)
        return;
    push_waiting_advance(p);
    if (!err)
        push_receipts_flush(p);
}

void push_receipts_flush(struct push *p)
{
    struct push_receipts *s = p->receipts;
    struct markers_load *l;
    struct str *users, *rooms;
    size_t n;

    if (!s || s->reading || s->wanted.n == 0 || p->stopping)
        return;
    n = s->wanted.n < PAIRS_MAX ? s->wanted.n : PAIRS_MAX;
    l = xcalloc(1, sizeof *l);
    l->p = p;
    l->n = n;
    l->v = xcalloc(n, sizeof *l->v);
    memcpy(l->v, s->wanted.v, n * sizeof *l->v);
    s->wanted.n -= n;
    memmove(s->wanted.v, s->wanted.v + n, s->wanted.n * sizeof *l->v);
    users = xcalloc(2 * n, sizeof *users);
    rooms = users + n;
    for (size_t i = 0; i < n; i++) {
        users[i] = pstr_str(l->v[i].user);
        rooms[i] = pstr_str(l->v[i].room);
    }
    struct pg_args *args = pg_args_new();
    pg_args_text_array(args, users, n);
    pg_args_text_array(args, rooms, n);
    free(users);
    s->reading = true;
    pg_exec(p->pg, SQL_push_markers, args, on_markers, l);
}

void push_receipts_scanned(struct push *p)
{
    struct push_receipts *s = p->receipts;
    size_t kept = 0;

    if (!s)
        return;
    for (size_t i = 0; i < s->ahead.n; i++) {
        apply(p, &s->ahead.v[i]);
        if (s->ahead.v[i].upto > p->scanned)
            s->ahead.v[kept++] = s->ahead.v[i];
        else
            marker_free(p, &s->ahead.v[i]);
    }
    s->ahead.n = kept;
}
