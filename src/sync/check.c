/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * chappe.check_shortcuts: an answer that took shortcuts (rooms from the news, shared sections, those of
 * initial syncs too) is computed once more without, and the process ends if they differ. For tests, and for
 * whoever wants to be sure on real traffic: the cost is that of having no shortcuts, and a little more.
 *
 * Rooms are sorted by id then, since a reader's news and its memberships have orders of their own; the state
 * of an initial sync too, the reader's own member event last. Ages may differ by the life of a shared
 * section.
 */
#include "sync_int.h"

static int by_room_id(const void *a, const void *b)
{
    const struct room_entry *x = *(struct room_entry *const *)a, *y = *(struct room_entry *const *)b;
    return str_cmp(x->room->room_id, y->room->room_id);
}

void run_sort_entries(struct sync_run *run)
{
    size_t n = 0;
    for (struct room_entry *en = run->entries; en; en = en->next)
        n++;
    struct room_entry **v = ARENA_ARRAY(run->a, struct room_entry *, n + 1);
    n = 0;
    for (struct room_entry *en = run->entries; en; en = en->next)
        v[n++] = en;
    qsort(v, n, sizeof *v, by_room_id);
    run->entries_tail = &run->entries;
    for (size_t i = 0; i < n; i++) {
        *run->entries_tail = v[i];
        run->entries_tail = &v[i]->next;
    }
    *run->entries_tail = NULL;
}

static int by_event_id(const void *a, const void *b)
{
    const struct state_item *x = *(struct state_item *const *)a, *y = *(struct state_item *const *)b;
    return str_cmp(x->rec->id, y->rec->id);
}

void run_sort_state(const struct sync_run *run, struct room_entry *en)
{
    struct state_item **v = ARENA_ARRAY(run->a, struct state_item *, en->state_count + 1), *own = NULL;
    size_t n = 0;
    for (struct state_item *x = en->state; x; x = x->next) {
        if (run->f->lazy_load_members && str_eq(x->type, STR("m.room.member")) &&
            str_eq(x->key, run->u->user_id))
            own = x;
        else
            v[n++] = x;
    }
    qsort(v, n, sizeof *v, by_event_id);
    if (own)
        v[n++] = own;
    struct state_item **tail = &en->state;
    for (size_t i = 0; i < n; i++) {
        *tail = v[i];
        tail = &v[i]->next;
    }
    *tail = NULL;
}

/* Takes the numbers of "age" out, in place. */
static struct str without_ages(struct str s)
{
    static const struct str age = {"\"age\":", 6};
    char *p = (char *)(uintptr_t)s.p;
    size_t n = 0;
    for (size_t i = 0; i < s.n;) {
        if (s.n - i >= age.n && memcmp(p + i, age.p, age.n) == 0) {
            memmove(p + n, p + i, age.n);
            n += age.n;
            i += age.n;
            while (i < s.n && ((p[i] >= '0' && p[i] <= '9') || p[i] == '-'))
                i++;
        } else {
            p[n++] = p[i++];
        }
    }
    return str_n(p, n);
}

/* The database has shown what replication has not brought: the long way says once more what has been told. */
static bool is_behind(const struct sync_run *run)
{
    const struct user *u = run->u;
    return u->more->ad_last > run->now.account_data || u->more->tags_newest > run->now.account_data ||
           u->more->push_rules_stream > run->now.push_rules;
}

void run_check_quiet(struct sync_run *run)
{
    struct rope body;
    struct stream_token next;
    rope_init(&body);
    run->plain = run->may_park = true;
    enum run_result res = sync_compute(run, &body, &next);
    if (res == RUN_DONE && is_behind(run)) {
        res = RUN_LACK;
    } else if (res == RUN_DONE) {
        log_error("chappe.sync", "something was to be said to %.*s, and nobody knew",
                  STR_ARG(run->u->user_id));
        log_debug("chappe.sync", "should be: %.*s", STR_ARG(rope_flatten(&body, run->a)));
        ASSERT(!"who is known to have nothing to be told has nothing to be told");
    }
    metric_add_l(M_sync_checked, res == RUN_LACK ? "lacking" : "same", 1);
    rope_fini(&body);
    sync_run_fini(run);
}

void run_check(const struct sync_run *run, enum run_result res, const struct rope *body)
{
    struct sync_run plain = {
        .m = run->m,
        .cfg = run->cfg,
        .u = run->u,
        .d = run->d,
        .rq = run->rq,
        .f = run->f,
        .has_since = run->has_since,
        .full_state = run->full_state,
        .use_state_after = run->use_state_after,
        .since = run->since,
        .plain = true,
        .may_park = run->may_park,
        .wall_ms = run->wall_ms,
        .a = run->a,
    };
    struct rope again;
    struct stream_token next;
    rope_init(&again);
    enum run_result expected = sync_compute(&plain, &again, &next);
    if (expected == RUN_LACK || is_behind(&plain)) { /* the long way needs what is not in memory */
        metric_add_l(M_sync_checked, "lacking", 1);
    } else {
        struct str a = without_ages(rope_flatten(body, run->a)),
                   b = without_ages(rope_flatten(&again, run->a));
        if (expected != res || !str_eq(a, b)) {
            log_error("chappe.sync", "shortcuts led to another answer for %.*s: %zu bytes, should be %zu",
                      STR_ARG(run->u->user_id), a.n, b.n);
            log_debug("chappe.sync", "is:        %.*s", STR_ARG(a));
            log_debug("chappe.sync", "should be: %.*s", STR_ARG(b));
            ASSERT(!"an answer by shortcuts is the answer without");
        }
        metric_add_l(M_sync_checked, "same", 1);
    }
    rope_fini(&again);
    sync_run_fini(&plain);
}
