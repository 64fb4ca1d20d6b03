/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Counts after the reader's own receipt: from memory where everything counted is read, from the database
 * where not. At the end a walk at random, beside Synapse's tables and what Synapse does with them.
 */
#include "test_model.h"

#define ME   "@a:x"
#define ROOM "!r:x"

enum { THREADS = 3 };
static const char *const threads[THREADS] = {"main", "$t1", "$t2"};

static void send_receipt(struct world *w, int writer, int64_t token, const char *user, const char *type,
                         const char *event, const char *thread)
{
    world_send(w, STREAM_RECEIPTS, writer, token,
               &(struct feed_row){.receipt = {.room_id = STR(ROOM),
                                              .receipt_type = str_of(type),
                                              .user_id = str_of(user),
                                              .event_id = str_of(event),
                                              .thread_id = thread ? str_of(thread) : STR_ABSENT,
                                              .data = STR("{}")}});
}

static void say(struct world *w, int writer, int64_t stream)
{
    world_say(w,
              (struct t_event){
                  .id = world_text(w, "$%d", (int)stream), .room = ROOM, .stream = stream, .writer = writer});
}

static struct unread *ask(struct world *w)
{
    struct unread *un;
    assert_int_equal(await(w, model_unread(w->m, model_user(w->m, S(ME)), model_room(w->m, S(ROOM)), &un)),
                     HAVE);
    return un;
}

struct sums {
    int64_t notify, highlight, unread;
};
static struct sums sums_of(const struct unread *un, const char *thread)
{
    struct sums s = {0};
    for (size_t i = 0; i < un->threads.n; i++) {
        const struct unread_thread *t = &un->threads.v[i];
        if (str_eq(t->thread_id, S(thread)))
            s = (struct sums){t->notify, t->highlight, t->unread};
    }
    return s;
}

/* ---- one receipt each ---- */

enum { MAIN = 1, THREAD = 2 };

/* Loaded at 100, where the user had read up to 50, "main" had 3 and $t1 had 1; then 101 to 104 came: two for
 * "main" on either side of 102, which is for $t1. Or that in one of both alone. */
static void some_counts(struct world *w, int where)
{
    world_add(&w->unread, 0, ME, ROOM, NULL, {50}, NULL);
    if (where & MAIN) {
        world_add(&w->unread, 3, ME, ROOM, "main", {1, 3, 3, 3, 3}, NULL);
        world_add(&w->actions, ME, ROOM, "main", 101, true, true, true);
        world_add(&w->actions, ME, ROOM, "main", 103, true, false, true);
    }
    if (where & THREAD) {
        world_add(&w->unread, 3, ME, ROOM, "$t1", {0, 1, 1, 1, 1}, NULL);
        world_add(&w->actions, ME, ROOM, "$t1", 102, true, true, true);
    }
    world_event(w, (struct t_event){.id = "$100", .room = ROOM, .stream = 100});
    struct event *ev;
    assert_int_equal(await(w, model_event(w->m, model_rec(w->m, S("$100")), &ev)), HAVE);
    (void)ask(w);
    for (int64_t s = 101; s <= 104; s++)
        say(w, MASTER, s);
    world_burst_end(w);
    world_settle(w);
}

static void test_receipts(void **state)
{
    struct world *w = *state;
    static const struct {
        int where;
        const char *user, *type, *event, *thread;
        bool all_read, read_again;
    } cases[] = {
        {MAIN | THREAD, ME, "m.read", "$104", NULL, true, false},
        {MAIN | THREAD, ME, "m.read", "$103", NULL, true, false}, /* what comes later notifies nobody */
        {MAIN | THREAD, ME, "m.read.private", "$103", NULL, true, false},
        {MAIN | THREAD, ME, "m.read", "$102", NULL, false, true},
        {THREAD, ME, "m.read", "$102", NULL, true, false},
        {MAIN | THREAD, ME, "m.read", "$100", NULL, false, true},
        {MAIN | THREAD, ME, "m.read", "$unknown", NULL, false, true},
        {MAIN, ME, "m.read", "$103", "main", true, false},
        {MAIN, ME, "m.read.private", "$104", "main", true, false},
        {MAIN, ME, "m.read", "$102", "main", false, true},
        {MAIN, ME, "m.read", "$104", "$t1", false, true}, /* what is left may be summed up otherwise now */
        {MAIN | THREAD, ME, "m.read", "$104", "main", false, true},
        {THREAD, ME, "m.read", "$102", "$t1", true, false},
        {THREAD, ME, "m.read", "$101", "$t1", false, true},
        {THREAD, ME, "m.read", "$104", "$t2", false, true},
        {0, ME, "m.read", "$104", "$t2", true, false},
        {MAIN | THREAD, ME, "m.fully_read", "$104", NULL, false, false},
        {MAIN | THREAD, "@b:x", "m.read", "$104", NULL, false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int where = cases[i].where, left = cases[i].all_read ? 0 : where;
        some_counts(w, where);
        struct unread *un = ask(w);
        assert_int_equal(sums_of(un, "main").notify, where & MAIN ? 5 : 0);
        assert_int_equal(sums_of(un, "$t1").notify, where & THREAD ? 2 : 0);
        world_forget_counts(w);
        send_receipt(w, MASTER, 101, cases[i].user, cases[i].type, cases[i].event, cases[i].thread);
        w->unread.n = 1;
        if (where & MAIN)
            world_add(&w->unread, 3, ME, ROOM, "main", {2, 5, 5, 5, 5}, NULL);
        if (where & THREAD)
            world_add(&w->unread, 3, ME, ROOM, "$t1", {1, 2, 2, 2, 2}, NULL);
        un = ask(w);
        struct sums m = sums_of(un, "main"), t = sums_of(un, "$t1");
        if (world_issued(w) != cases[i].read_again || m.notify != (left & MAIN ? 5 : 0) ||
            t.notify != (left & THREAD ? 2 : 0))
            fail_msg("case %zu: %d statements, main %d, thread %d", i, world_issued(w), (int)m.notify,
                     (int)t.notify);
        assert_true(m.unread == m.notify && m.highlight == (m.notify ? 2 : 0));
        assert_true(t.unread == t.notify && t.highlight == (t.notify ? 1 : 0));
        assert_int_equal(world_teardown(state), 0);
        assert_int_equal(world_setup(state), 0);
        w = *state;
    }
}

/* It goes on from there: events at or below the receipt are read, whenever they come; later ones count. */
static void test_from_the_receipt_on(void **state)
{
    world_teardown(state);
    struct world *w = world_new_writers(100, 100);
    *state = w;
    model_adopt(w->m, (struct feed *)(void *)w);
    world_settle(w);
    for (int threaded = 0; threaded < 2; threaded++) {
        int64_t at = threaded ? 111 : 101;
        const char *thread = threaded ? "main" : NULL;
        (void)ask(w);
        for (int64_t s = at; s < at + 3; s++)
            world_add(&w->actions, ME, ROOM, "main", s, true, false, true);
        say(w, MASTER, at + 1);
        world_burst_end(w);
        world_settle(w);
        assert_int_equal(sums_of(ask(w), "main").notify, 1);
        world_forget_counts(w);
        send_receipt(w, MASTER, at, ME, "m.read", world_text(w, "$%d", (int)at + 1), thread);
        assert_int_equal(sums_of(ask(w), "main").notify, 0);
        say(w, W2, at);
        world_burst_end(w);
        world_settle(w);
        assert_int_equal(sums_of(ask(w), "main").notify, 0);
        say(w, MASTER, at + 2);
        world_burst_end(w);
        world_settle(w);
        assert_int_equal(sums_of(ask(w), "main").notify, 1);
        assert_int_equal(w->issued[SQL_unread_of_users], 0);
        /* the older one of another writer changes nothing */
        send_receipt(w, W2, at, ME, "m.read.private", world_text(w, "$%d", (int)at), thread);
        world_add(&w->unread, 0, ME, ROOM, NULL, {at + 1}, NULL);
        world_add(&w->unread, 3, ME, ROOM, "main", {0, 1, 1, 1, 1}, NULL);
        assert_int_equal(sums_of(ask(w), "main").notify, 1);
        assert_int_equal(w->issued[SQL_unread_of_users], 1);
        send_receipt(w, MASTER, at + 2, ME, "m.read", world_text(w, "$%d", (int)at + 2), NULL);
        assert_int_equal(sums_of(ask(w), "main").notify, 0);
        w->unread.n = 0;
    }
}

/* The load was ahead of replication. */
static void test_of_what_was_ahead(void **state)
{
    struct world *w = *state;
    static const struct {
        struct t_unread row;
        const char *thread;
    } cases[] = {
        {{3, ME, ROOM, "main", {0, 1, 1, 1, 1}, "110"}, NULL},    /* an event counted that is beyond */
        {{3, ME, ROOM, "$t1", {0, 1, 1, 1, 1}, "101,110"}, NULL}, /* and of any thread */
        {{3, ME, ROOM, "main", {0, 1, 1, 1, 1}, "110"}, "main"},
        {{1, ME, ROOM, "$t1", {110}, NULL}, NULL}, /* a receipt that is beyond */
        {{1, ME, ROOM, "main", {110}, NULL}, "main"},
        {{0, ME, ROOM, NULL, {110}, NULL}, NULL},
        {{0, ME, ROOM, NULL, {110}, NULL}, "main"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vec_push(&w->unread, cases[i].row);
        (void)ask(w);
        say(w, MASTER, 101);
        say(w, MASTER, 102);
        world_burst_end(w);
        world_settle(w);
        (void)ask(w);
        world_forget_counts(w);
        send_receipt(w, MASTER, 101, ME, "m.read", "$102", cases[i].thread);
        (void)ask(w);
        if (w->issued[SQL_unread_of_users] != 1)
            fail_msg("case %zu", i);
        assert_int_equal(world_teardown(state), 0);
        assert_int_equal(world_setup(state), 0);
        w = *state;
    }
}

/* Which events the loaded counts are of is not known: only where they end. */
static void test_of_what_was_before(void **state)
{
    for (int at = 99; at <= 100; at++) {
        struct world *w = *state;
        struct event *ev;
        const char *id = world_text(w, "$%d", at);
        world_event(w, (struct t_event){.id = id, .room = ROOM, .stream = at});
        assert_int_equal(await(w, model_event(w->m, model_rec(w->m, S(id)), &ev)), HAVE);
        world_add(&w->unread, 3, ME, ROOM, "main", {0, 1, 1, 1, 1}, NULL);
        assert_int_equal(sums_of(ask(w), "main").notify, 1);
        world_forget_counts(w);
        send_receipt(w, MASTER, 101, ME, "m.read", id, NULL);
        assert_int_equal(sums_of(ask(w), "main").notify, at < 100);
        assert_int_equal(w->issued[SQL_unread_of_users], at < 100);
        assert_int_equal(world_teardown(state), 0);
        assert_int_equal(world_setup(state), 0);
    }
}

/* What was loaded without the receipt does not count. */
static void test_while_loading(void **state)
{
    struct world *w = *state;
    struct unread *un;
    struct user *u = model_user(w->m, S(ME));
    struct room *r = model_room(w->m, S(ROOM));
    say(w, MASTER, 101);
    world_burst_end(w);
    world_settle(w);
    world_add(&w->unread, 3, ME, ROOM, "main", {0, 1, 1, 1, 1}, NULL);
    w->held[SQL_unread_of_users] = true;
    assert_int_equal(model_unread(w->m, u, r, &un), LACK);
    world_settle(w);
    w->unread.n = 0;
    send_receipt(w, MASTER, 101, ME, "m.read", "$101", NULL);
    world_release(w, SQL_unread_of_users);
    assert_int_equal(sums_of(ask(w), "main").notify, 0);
}

/* ---- a walk ---- */

/* Synapse's tables, of one user in one room. */
struct act {
    int64_t at;
    int thread;
    bool notif, highlight, unread, gone;
};
struct summary {
    bool there;
    int64_t notif, unread, at, receipt; /* receipt 0: NULL */
};
struct receipt_row {
    int64_t at, token;
};
struct queue {
    int64_t at[64];
    size_t n;
};
struct synapse {
    struct world *w;
    uint32_t dice;
    int64_t event, token, rotated, rotated_token, joined;
    VEC(struct act) acts;
    struct summary sum[THREADS];
    struct receipt_row receipts[2][THREADS + 1]; /* public and private; unthreaded last */
    struct queue events[2];                      /* of each writer, not sent yet */
    int64_t sent_upto[2];
    struct {
        int kind, thread, writer;
        int64_t at, token;
    } sent[64];
    size_t sent_n;
};

static uint32_t roll(struct synapse *s, uint32_t n)
{
    s->dice = s->dice * 1664525u + 1013904223u;
    return (s->dice >> 8) % n;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t read_until(const struct synapse *s, int thread, bool *any)
{
    int64_t base = larger(s->receipts[0][THREADS].at, s->receipts[1][THREADS].at);
    int64_t t = larger(s->receipts[0][thread].at, s->receipts[1][thread].at);
    *any = base || t;
    return larger(base ? base : s->joined, t);
}

static bool in_force(const struct synapse *s, int thread)
{
    bool any;
    int64_t at = read_until(s, thread, &any);
    const struct summary *m = &s->sum[thread];
    return m->there && (m->notif || m->unread) && (m->receipt ? m->receipt == at : m->at > at);
}

/* What unread_of_users says, into the world's table. True: all sums in force are right. */
static bool load_rows(struct synapse *s)
{
    struct world *w = s->w;
    bool right = true, any;
    w->unread.n = 0;
    int64_t base = larger(s->receipts[0][THREADS].at, s->receipts[1][THREADS].at);
    world_add(&w->unread, 0, ME, ROOM, NULL, {base ? base : s->joined}, NULL);
    base = w->unread.v[0].v[0];
    int64_t persisted = positions_persisted_upto(w->m->pos[STREAM_EVENTS]);
    for (int t = 0; t < THREADS; t++) {
        int64_t at = read_until(s, t, &any), v[5] = {0};
        struct buf ahead;
        buf_init(&ahead, 1 << 16);
        for (size_t i = 0; i < s->acts.n; i++) {
            const struct act *a = &s->acts.v[i];
            if (a->gone || a->thread != t || a->at <= at)
                continue;
            v[0] += a->highlight, v[1] += a->notif, v[2] += a->unread;
            v[3] += a->notif && a->at > s->rotated, v[4] += a->unread && a->at > s->rotated;
            if (a->at > persisted)
                buf_printf(&ahead, "%s%lld", ahead.n ? "," : "", (long long)a->at);
        }
        if (at > base)
            world_add(&w->unread, 1, ME, ROOM, threads[t], {at}, NULL);
        if (in_force(s, t)) {
            const struct summary *m = &s->sum[t];
            world_add(&w->unread, 2, ME, ROOM, threads[t], {m->notif, m->unread, any && !m->receipt}, NULL);
            right &= m->notif + v[3] == v[1] && m->unread + v[4] == v[2];
        }
        world_add(&w->unread, 3, ME, ROOM, threads[t], {v[0], v[1], v[2], v[3], v[4]},
                  ahead.n ? world_text(w, "%.*s", (int)ahead.n, ahead.p) : NULL);
        buf_fini(&ahead);
    }
    return right;
}

static int some_thread(struct synapse *s)
{
    return roll(s, 2) ? 0 : (int)roll(s, THREADS);
}

static void new_event(struct synapse *s)
{
    struct queue *q = &s->events[roll(s, 2)];
    if (q->n == 64)
        return;
    int64_t at = q->at[q->n++] = ++s->event;
    world_event(s->w, (struct t_event){.id = world_text(s->w, "$%d", (int)at),
                                       .room = ROOM,
                                       .stream = at,
                                       .writer = q == s->events ? MASTER : W2});
    if (roll(s, 4) == 0)
        return;
    uint32_t kind = roll(s, 8);
    struct act a = {at, some_thread(s), kind & 1, kind & 2, kind & 4, false};
    vec_push(&s->acts, a);
    world_add(&s->w->actions, ME, ROOM, threads[a.thread], at, a.notif, a.highlight, a.unread);
}

/* A writer's next event. With its last one, its position follows what the other has sent. */
static void send_event(struct synapse *s, int writer)
{
    struct queue *q = &s->events[writer], *other = &s->events[!writer];
    int64_t all = other->n ? other->at[0] - 1 : s->event;
    if (q->n) {
        struct t_event *e = NULL;
        for (size_t i = 0; i < s->w->events.n; i++) {
            if (s->w->events.v[i].stream == q->at[0])
                e = &s->w->events.v[i];
        }
        memmove(q->at, q->at + 1, --q->n * sizeof *q->at);
        world_send_event(s->w, e);
        s->sent_upto[writer] = e->stream;
    }
    if (!q->n && all > s->sent_upto[writer] && roll(s, 2)) {
        world_position(s->w, STREAM_EVENTS, writer ? W2 : MASTER, all);
        s->sent_upto[writer] = all;
    }
    world_burst_end(s->w);
    if (roll(s, 3))
        world_settle(s->w);
}

static void new_receipt(struct synapse *s)
{
    int kind = (int)roll(s, 2), thread = roll(s, 3) ? some_thread(s) : THREADS;
    int64_t at = roll(s, 2) ? s->event : s->event - (int64_t)roll(s, 6);
    struct receipt_row *r = &s->receipts[kind][thread];
    if (at <= s->joined || at <= r->at || s->sent_n == 64)
        return;
    *r = (struct receipt_row){at, ++s->token};
    s->sent[s->sent_n].kind = kind;
    s->sent[s->sent_n].thread = thread;
    s->sent[s->sent_n].writer = (int)roll(s, 2);
    s->sent[s->sent_n].at = at;
    s->sent[s->sent_n++].token = s->token;
}

/* In any order. */
static void deliver_receipt(struct synapse *s)
{
    if (!s->sent_n)
        return;
    size_t i = roll(s, (uint32_t)s->sent_n);
    int t = s->sent[i].thread;
    send_receipt(s->w, s->sent[i].writer ? W2 : MASTER, s->sent[i].token, ME,
                 s->sent[i].kind ? "m.read.private" : "m.read", world_text(s->w, "$%d", (int)s->sent[i].at),
                 t < THREADS ? threads[t] : NULL);
    s->sent[i] = s->sent[--s->sent_n];
}

static void sum_receipt(struct synapse *s, int64_t at, int thread)
{
    for (int t = 0; t < THREADS; t++) {
        if (thread != THREADS && thread != t)
            continue;
        struct summary sum = {true, 0, 0, s->rotated, at};
        bool pending = false;
        for (size_t i = 0; i < s->acts.n; i++) {
            struct act *a = &s->acts.v[i];
            if (a->gone || a->thread != t)
                continue;
            a->gone = a->at <= at && !a->highlight;
            pending |= !a->gone;
            if (a->at > at && a->at <= s->rotated)
                sum.notif += a->notif, sum.unread += a->unread;
        }
        if (s->sum[t].there || pending || thread == t)
            s->sum[t] = sum;
    }
}

/* First what was read, in the order in which it was; then what is new. */
static void rotate(struct synapse *s)
{
    for (int64_t token = s->rotated_token + 1; token <= s->token; token++) {
        for (int i = 0; i < 2 * (THREADS + 1); i++) {
            const struct receipt_row *r = &s->receipts[i & 1][i / 2];
            if (r->token == token)
                sum_receipt(s, r->at, i / 2);
        }
    }
    s->rotated_token = s->token;
    for (size_t i = 0; i < s->acts.n; i++) {
        const struct act *a = &s->acts.v[i];
        struct summary *m = &s->sum[a->thread];
        if (a->gone || a->at <= s->rotated || a->at <= m->receipt || (!a->notif && !a->unread))
            continue;
        m->there = true;
        m->notif += a->notif, m->unread += a->unread;
        m->at = a->at;
    }
    s->rotated = s->event;
}

static void same_as_loaded(const struct synapse *s, const struct unread *un)
{
    for (int t = 0; t < THREADS; t++) {
        bool any;
        int64_t at = read_until(s, t, &any);
        struct sums want = {0}, got = sums_of(un, threads[t]);
        for (size_t i = 0; i < s->acts.n; i++) {
            const struct act *a = &s->acts.v[i];
            if (a->thread == t && a->at > at)
                want.notify += a->notif, want.highlight += a->highlight, want.unread += a->unread;
        }
        assert_int_equal(got.notify, want.notify);
        assert_int_equal(got.highlight, want.highlight);
        assert_int_equal(got.unread, want.unread);
    }
}

/* Everything has arrived. What rests on a sum that is wrong is read again with the next event. */
static void quiet(struct synapse *s)
{
    while (s->events[0].n || s->events[1].n)
        send_event(s, s->events[0].n == 0);
    while (s->sent_n)
        deliver_receipt(s);
    world_settle(s->w);
    bool right = load_rows(s);
    struct unread *un = ask(s->w);
    if (right && !un->old_sum)
        same_as_loaded(s, un);
    if (roll(s, 2))
        return;
    rotate(s);
    new_event(s);
    send_event(s, s->events[0].n == 0);
    world_settle(s->w);
    right = load_rows(s);
    un = ask(s->w);
    if (right)
        same_as_loaded(s, un);
}

/* What is known without asking: nothing is left, in Synapse's sums either. */
static void take_a_receipt(struct synapse *s, int *from_memory, int *read_again)
{
    if (!s->sent_n)
        return;
    struct unread *un = ask(s->w);
    deliver_receipt(s);
    if (un->stale) {
        ++*read_again;
        return;
    }
    ++*from_memory;
    for (int t = 0; t < THREADS; t++) {
        struct sums left = sums_of(un, threads[t]);
        assert_true(!left.notify && !left.unread);
    }
    world_settle(s->w);
    if (s->events[0].n || s->events[1].n || s->sent_n)
        return;
    (void)load_rows(s);
    for (size_t i = 0; i < s->w->unread.n; i++) {
        const struct t_unread *row = &s->w->unread.v[i];
        struct sums got = sums_of(un, row->thread ? row->thread : "");
        assert_int_not_equal(row->kind, 2);
        if (row->kind == 3)
            assert_true(row->v[0] == got.highlight && row->v[1] == got.notify && row->v[2] == got.unread);
    }
}

static void test_walk(void **state)
{
    int from_memory = 0, read_again = 0;
    for (uint32_t seed = 1; seed <= 100; seed++) {
        world_teardown(state);
        struct world *w = world_new_writers(100, 100);
        *state = w;
        model_adopt(w->m, (struct feed *)(void *)w);
        world_settle(w);
        struct synapse s = {.w = w, .dice = seed, .event = 100, .token = 100, .joined = 90, .rotated = 70};
        s.rotated_token = 100;
        vec_push(&s.acts, ((struct act){80, 0, true, false, true, false})); /* the invitation */
        for (int step = 0; step < 300; step++) {
            (void)load_rows(&s);
            switch (roll(&s, 10)) {
            case 0:
            case 1:
                new_event(&s);
                break;
            case 2:
            case 3:
            case 4:
                send_event(&s, (int)roll(&s, 2));
                break;
            case 5:
                new_receipt(&s);
                break;
            case 6:
            case 7:
                take_a_receipt(&s, &from_memory, &read_again);
                break;
            case 8:
                (void)ask(w);
                break;
            default:
                if (roll(&s, 3) == 0)
                    quiet(&s);
                else if (roll(&s, 4) == 0)
                    rotate(&s);
            }
        }
        quiet(&s);
        vec_free(&s.acts);
    }
    assert_true(from_memory > 200 && read_again > 200);
}

int run_unread_tests(void)
{
    const struct CMUnitTest tests[] = {
        T(test_receipts),           T(test_from_the_receipt_on), T(test_of_what_was_ahead),
        T(test_of_what_was_before), T(test_while_loading),       T(test_walk),
    };
    return cmocka_run_group_tests_name("counts after a receipt", tests, NULL, NULL);
}
