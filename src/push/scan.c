/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Reading what there is to tell.
 *
 * The scan follows the events stream: up to the position that every event writer has passed, whatever made it
 * advance, it reads the push actions of the stretch since the last scan, all recipients in one statement (in
 * pages, if there are very many). One read is under way at a time; what arrives meanwhile is the next one's
 * stretch, so bursts merge by themselves. A read that fails is repeated: the position moves only with its
 * rows.
 *
 * A backlog is what one user has above a position that the scan passed before: at start, after a failure, for
 * a pusher that was registered a moment ago. Many users' backlogs are read in one statement, each up to a
 * page, without what they have read meanwhile.
 */
#include "push_int.h"

enum { ACT_SO, ACT_USER, ACT_ROOM, ACT_EVENT, ACT_THREAD, ACT_ACTIONS, ACT_HIGHLIGHT };

/* Puts one row into its user's queue. */
static void take(struct push *p, struct push_user *u, const struct pg_result *r, int i, bool fresh)
{
    struct push_event *ev = push_event_ref(p, pg_str(r, i, ACT_EVENT), pg_str(r, i, ACT_ROOM),
                                           pg_str(r, i, ACT_THREAD), pg_i64(r, i, ACT_SO));
    struct push_tweaks *t = tweaks_ref(p, pg_str(r, i, ACT_ACTIONS), pg_i64(r, i, ACT_HIGHLIGHT) != 0);

    if (fresh)
        badge_action(u, ev);
    push_user_add(u, ev, t);
    push_user_wait(u);
    tweaks_unref(p, &t);
    push_event_unref(p, &ev);
}

/* ---- the scan ---- */

static void page_send(struct push *p);

static void scan_end(struct push *p)
{
    p->scanning = false;
    p->scanned = p->scan_upto;
    free((void *)p->scan_user.p);
    p->scan_user = STR_ABSENT;
    push_receipts_scanned(p);
    push_waiting_advance(p);
    push_load(p); /* before the next scan begins: badges are counted between scans */
    push_scan(p);
}

static void on_page(void *arg, int err, const struct pg_result *r)
{
    struct push *p = arg;
    int n = err ? 0 : pg_rows(r);

    if (p->stopping)
        return;
    if (err) {
        p->scanning = false; /* the tick goes on from where it stood */
        metric_add_l(M_push_failures, "scan", 1);
        return;
    }
    for (int i = 0; i < n; i++) {
        struct push_user *u = push_user_find(p, pg_str(r, i, ACT_USER));
        if (u)
            take(p, u, r, i, true);
    }
    metric_add(M_push_actions, n);
    if (n < SCAN_PAGE) {
        scan_end(p);
        return;
    }
    p->scan_so = pg_i64(r, n - 1, ACT_SO);
    free((void *)p->scan_user.p);
    p->scan_user = str_dup(pg_str(r, n - 1, ACT_USER));
    page_send(p);
}

static void page_send(struct push *p)
{
    struct pg_args *args = pg_args_new();

    pg_args_i64(args, p->scan_so);
    pg_args_text(args, p->scan_user);
    pg_args_i64(args, p->scan_upto);
    pg_args_i64(args, SCAN_PAGE);
    pg_exec(p->pg, SQL_push_actions, args, on_page, p);
}

bool push_scan_midway(const struct push *p)
{
    return p->scanning || !str_absent(p->scan_user);
}

void push_scan(struct push *p)
{
    int64_t upto;

    if (!p->rows_ready || p->scanning || p->stopping || p->rows_loading)
        return;
    upto = positions_persisted_upto(p->positions);
    if (str_absent(
            p->scan_user)) { /* otherwise a read failed in the middle: the same stretch, from there on */
        if (upto <= p->scanned)
            return;
        p->scan_upto = upto;
        p->scan_so = p->scanned + 1;
        p->scan_user = str_dup(STR("")); /* before every user of that position */
    }
    p->scanning = true;
    page_send(p);
}

/* ---- backlogs ---- */

struct backlog_load {
    struct push *p;
    int64_t upto;
    struct pstr **users;
    size_t n;
};

/* The rows of one user, [first, last), replace its queue; what the scan added meanwhile stays behind them. */
static void backlog_apply(struct push_user *u, const struct pg_result *r, int first, int last)
{
    struct push *p = u->p;
    bool full = last - first >= BACKLOG_PAGE;

    if (full) {
        push_user_queue_clear(u);
        u->more = false;
    }
    u->queue_from = u->backlog_from;
    u->backlog = BACKLOG_NONE;
    for (int i = first; i < last; i++)
        take(p, u, r, i, false);
    if (full)
        u->more = true;
    push_user_wait(u);
}

/* Nothing is left above a pusher's position up to where the table was read: the position may say so. */
static void backlog_pass(struct push_user *u, int64_t upto)
{
    struct pusher *ps;

    if (u->more)
        return;
    list_each(ps, &u->pushers, struct pusher, of_user) {
        const struct push_action *a = pusher_head(ps);
        if (ps->done >= u->queue_from && ps->done < upto && (!a || a->ev->stream_ordering > upto) &&
            ps->state == PUSHER_IDLE)
            pusher_done(ps, upto);
    }
}

static void on_backlogs(void *arg, int err, const struct pg_result *r)
{
    struct backlog_load *l = arg;
    struct push *p = l->p;
    int row = 0, rows = err ? 0 : pg_rows(r);

    p->backlogs_loading--;
    for (size_t j = 0; j < l->n; j++) {
        struct push_user *u = push_user_find(p, pstr_str(l->users[j]));
        int first = row;

        while (row < rows && str_eq(pg_str(r, row, ACT_USER), pstr_str(l->users[j])))
            row++;
        if (u && !p->stopping && u->backlog == BACKLOG_LOADING) {
            if (err || u->backlog_again) {
                u->backlog = BACKLOG_NONE;
                u->backlog_again = false;
                push_user_want_backlog(u, u->backlog_from);
            } else {
                backlog_apply(u, r, first, row);
                backlog_pass(u, l->upto);
            }
        }
        pstr_unref(p, &l->users[j]);
    }
    metric_add(M_push_actions, rows);
    if (err) {
        metric_add_l(M_push_failures, "backlog", 1);
        push_load_failed(p);
    }
    free(l->users);
    free(l);
    if (!p->stopping) {
        push_waiting_advance(p);
        if (!err)
            push_backlogs_load(p);
    }
}

void push_backlogs_load(struct push *p)
{
    while (!list_empty(&p->backlogs_wanted) && p->backlogs_loading == 0 && !push_scan_midway(p) &&
           !p->stopping) {
        struct backlog_load *l = xcalloc(1, sizeof *l);
        struct str *ids = xcalloc(BACKLOG_USERS, sizeof *ids);
        int64_t *from = xcalloc(BACKLOG_USERS, sizeof *from);
        struct pg_args *args = pg_args_new();
        struct push_user *u;

        l->p = p;
        l->upto = p->scanned;
        l->users = xcalloc(BACKLOG_USERS, sizeof *l->users);
        list_each(u, &p->backlogs_wanted, struct push_user, wanted_backlog) {
            if (l->n == BACKLOG_USERS)
                break;
            list_del(&u->wanted_backlog);
            u->backlog = BACKLOG_LOADING;
            u->backlog_again = false;
            push_user_queue_clear(u);
            u->queue_from = l->upto;
            u->more = false;
            ids[l->n] = u->id;
            from[l->n] = u->backlog_from;
            l->users[l->n++] = pstr_ref(p, u->id);
        }
        pg_args_text_array(args, ids, l->n);
        pg_args_i64_array(args, from, l->n);
        pg_args_i64(args, l->upto);
        pg_args_i64(args, BACKLOG_PAGE);
        free(ids);
        free(from);
        p->backlogs_loading++;
        pg_exec(p->pg, SQL_push_backlog, args, on_backlogs, l);
    }
}
