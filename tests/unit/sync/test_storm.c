/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Many at once: devices that come back with old tokens, and initial syncs that wait for their turn. What is
 * counted is statements, for that is what must not grow with the number of devices.
 */
#include "front.h"

#include <stdio.h>

enum { SHARED_ROOMS = 3, OLD = 50000, NEW = 60000 };

static int64_t stream_at;

static const char *user_name(struct world *w, int i)
{
    return world_text(w, "@u%d:x", i);
}

/* Members one after the other: each event has the room's last one before it. */
static void make_room(struct world *w, const char *room, int first_user, int users)
{
    stream_at = world_room(w, room, stream_at + 1, "shared", NULL);
    for (int i = first_user; i < first_user + users; i++)
        world_event(w, (struct t_event){.id = world_text(w, "$join%d%s", i, room),
                                        .room = room,
                                        .type = "m.room.member",
                                        .key = user_name(w, i),
                                        .sender = user_name(w, i),
                                        .stream = ++stream_at,
                                        .content = "{\"membership\":\"join\"}"});
}

static void say_since(struct world *w, const char *room, int64_t *at, int messages)
{
    for (int i = 0; i < messages; i++)
        world_event(
            w, (struct t_event){
                   .id = world_text(w, "$m%d", (int)*at), .room = room, .sender = "@b:x", .stream = ++*at});
}

static const char *room_name(struct world *w, bool own, int i)
{
    return world_text(w, own ? "!own%d:x" : "!all%d:x", i);
}

/* So many users, each with one device and alone in a room, or all in the same rooms; then the stream has
 * moved on by some messages in each room. */
static struct front *storm_new(int users, bool own)
{
    struct front *f = front_new();
    struct world *w = f->w;
    int64_t at = OLD;
    stream_at = 1000;
    for (int i = 0; i < (own ? users : SHARED_ROOMS); i++)
        make_room(w, room_name(w, own, i), own ? i : 0, own ? 1 : users);
    assert_true(stream_at < OLD);
    for (int i = 0; i < (own ? users : SHARED_ROOMS); i++)
        say_since(w, room_name(w, own, i), &at, 2);
    assert_true(at < NEW);
    world_position(w, STREAM_EVENTS, MASTER, NEW);
    world_burst_end(w);
    front_run(f);
    return f;
}

/* Statements that so many devices cost when they all come with the same old token. */
static int statements(int users, bool own)
{
    struct front *f = storm_new(users, own);
    const char *query = world_text(f->w, "since=s%d_100_0_100_100_100_100_100_0_100_100_100_100", OLD);
    struct client **c = xcalloc((size_t)users, sizeof(struct client *));
    world_forget_counts(f->w);
    for (int i = 0; i < users; i++) {
        f->user = user_name(f->w, i);
        f->token = (uint64_t)i;
        c[i] = front_get(f, query);
    }
    front_run(f);
    for (int i = 0; i < users; i++) {
        assert_int_equal(c[i]->status, 200);
        assert_has(c[i]->body.p, room_name(f->w, own, own ? i : 0));
        assert_has(c[i]->body.p, "$m5");
    }
    int n = world_issued(f->w);
    free(c);
    front_free(&f);
    return n;
}

static void bounded(bool own)
{
    static const int devices[] = {1, 10, 100, 1000};
    int first = 0;
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        int n = statements(devices[i], own);
        if (i == 0)
            first = n;
        printf("%s rooms: %d devices, %d statements\n", own ? "own" : "shared", devices[i], n);
        assert_true(n <= first + 4); /* here and there a round more, where objects come into memory late */
    }
}

static void test_shared_rooms(void **state)
{
    (void)state;
    bounded(false);
}

static void test_own_rooms(void **state)
{
    (void)state;
    bounded(true);
}

static void late_message(struct front *f, int64_t n)
{
    world_say(f->w, (struct t_event){.id = world_text(f->w, "$late%d", (int)n),
                                     .room = room_name(f->w, false, 0),
                                     .sender = user_name(f->w, 0),
                                     .stream = NEW + n});
    world_burst_end(f->w);
}

/* All have been told what there is, and wait. */
static void all_poll(struct front *f, struct client **c, int users)
{
    const char *query = world_text(f->w, "timeout=30000&since=%s", next_batch(f->w));
    for (int i = 0; i < users; i++) {
        f->user = user_name(f->w, i);
        f->token = (uint64_t)i;
        c[i] = front_get(f, query);
    }
    front_run(f);
    assert_int_equal(f->s->counts[REQ_PARKED], users);
}

/* Those whom an event concerns are woken in slices, too: the first have their answer before the last are
 * looked at. Whoever asks, goes, or is told of another event meanwhile, loses nothing. */
static void test_woken_in_slices(void **state)
{
    (void)state;
    enum { USERS = 300, TURNS_MAX = 1000 };
    struct front *f = storm_new(USERS, false);
    struct client **c = xcalloc(USERS, sizeof(struct client *)), *again;
    all_poll(f, c, USERS);
    late_message(f, 1); /* counts of unread events are in memory after the first */
    front_run(f);
    all_poll(f, c, USERS);
    const char *query = world_text(f->w, "timeout=30000&since=%s", next_batch(f->w));
    late_message(f, 2);
    int answered = 0, last = -1, goes = -1;
    for (int turn = 0; turn < TURNS_MAX && answered == 0; turn++) {
        world_turn(f->w);
        for (int i = 0; i < USERS; i++)
            answered += c[i]->answers;
    }
    assert_in_range(answered, 1, USERS / 2);
    assert_true(f->s->counts[REQ_PARKED] > 0 && model_wakes(f->w->m) && sync_answering(f->s));
    for (int i = 0; i < USERS; i++) {
        if (c[i]->answers)
            continue;
        goes = last;
        last = i;
    }
    late_message(f, 3);
    f->user = user_name(f->w, last);
    f->token = (uint64_t)last;
    again = front_get(f, query);
    front_gone(c[goes]);
    front_run(f);
    assert_false(sync_answering(f->s));
    for (int i = 0; i < USERS; i++) {
        assert_int_equal(c[i]->answers, i != goes);
        if (i != goes)
            assert_has(c[i]->body.p, "$late2");
    }
    assert_has(c[last]->body.p, "$late2");
    assert_has(again->body.p, "$late2");
    free(c);
    front_free(&f);
}

/* Others that become ready all the time do not keep those asleep who are to be woken. */
static void test_woken_in_a_flood(void **state)
{
    (void)state;
    enum { USERS = 300, EACH = 100, TURNS = 60 };
    struct front *f = storm_new(USERS, false);
    struct client **c = xcalloc(USERS, sizeof(struct client *));
    int flood = 0;
    all_poll(f, c, USERS);
    late_message(f, 1);
    front_run(f);
    all_poll(f, c, USERS);
    late_message(f, 2);
    for (int turn = 0; turn < TURNS; turn++) {
        for (int i = 0; i < EACH; i++) {
            f->user = user_name(f->w, 0);
            f->token = 0;
            front_get(f, world_text(f->w,
                                    "n=%d&timeout=%d&since=s%d_100_0_100_100_100_100_100_0_100_100_100_100",
                                    flood, 1000 + flood, OLD));
            flood++;
        }
        world_turn(f->w);
    }
    assert_true(f->s->counts[REQ_READY] >= REQ_SLICE);
    assert_false(model_wakes(f->w->m));
    front_run(f);
    for (int i = 0; i < USERS; i++)
        assert_int_equal(c[i]->answers, 1);
    free(c);
    front_free(&f);
}

/* What one batch brings many is computed in slices: a turn of the loop has 64 runs at most. */
static void test_slices(void **state)
{
    (void)state;
    enum { USERS = 500, SLICE_RUNS = 64, TURNS_MAX = 5000 };
    struct front *f = storm_new(USERS, false);
    const char *query = world_text(f->w, "since=s%d_100_0_100_100_100_100_100_0_100_100_100_100", OLD);
    struct client **c = xcalloc(USERS, sizeof(struct client *));
    for (int i = 0; i < USERS; i++) {
        f->user = user_name(f->w, i);
        f->token = (uint64_t)i;
        c[i] = front_get(f, query);
    }
    int answered = 0;
    for (int turn = 0; turn < TURNS_MAX && answered < USERS; turn++) {
        int64_t before = metric_get(M_sync_computes);
        world_turn(f->w);
        assert_true(metric_get(M_sync_computes) - before <= SLICE_RUNS);
        answered = 0;
        for (int i = 0; i < USERS; i++)
            answered += c[i]->answers;
    }
    assert_int_equal(answered, USERS);
    free(c);
    front_free(&f);
}

/* A statement that is refused because of one of those who wait for it: they are told apart, and the others
 * served. */
static void test_refused_together(void **state)
{
    (void)state;
    struct front *f = storm_new(3, true);
    const char *query = world_text(f->w, "since=s%d_100_0_100_100_100_100_100_0_100_100_100_100", OLD);
    struct client *c[3];
    f->w->fail[SQL_rooms_of_users] = 2; /* of all three, then of the first alone */
    for (int i = 0; i < 3; i++) {
        f->user = user_name(f->w, i);
        f->token = (uint64_t)i;
        c[i] = front_get(f, query);
    }
    front_run(f);
    assert_int_equal(c[0]->status, 500);
    assert_int_equal(c[1]->status, 200);
    assert_int_equal(c[2]->status, 200);
    front_free(&f);
}

/* They come one in a turn while the database is busy: few batches are under way, the others gather. */
static void test_one_by_one(void **state)
{
    (void)state;
    enum { USERS = 100 };
    struct front *f = storm_new(USERS, true);
    const char *query = world_text(f->w, "since=s%d_100_0_100_100_100_100_100_0_100_100_100_100", OLD);
    struct client *c[USERS];
    world_forget_counts(f->w);
    f->w->held[SQL_rooms_of_users] = true;
    for (int i = 0; i < USERS; i++) {
        f->user = user_name(f->w, i);
        f->token = (uint64_t)i;
        c[i] = front_get(f, query);
        world_turn(f->w);
    }
    assert_true(f->w->issued[SQL_rooms_of_users] <= BATCHES_UNDER_WAY);
    f->w->held[SQL_rooms_of_users] = false;
    world_release(f->w, SQL_rooms_of_users);
    front_run(f);
    for (int i = 0; i < USERS; i++)
        assert_has(c[i]->body.p, room_name(f->w, true, i));
    printf("one by one: %d devices, %d statements\n", USERS, world_issued(f->w));
    assert_true(world_issued(f->w) <= (BATCHES_UNDER_WAY + 2) * 20);
    front_free(&f);
}

/* ---- initial syncs wait for their turn ---- */

static struct client *ask_as(struct front *f, const char *user, int n)
{
    f->user = user;
    f->token = (uint64_t)n;
    struct client *c = front_get(f, world_text(f->w, "timeout=%d", n));
    world_turn(f->w);
    return c;
}

/* The first of a user's many is computed (held); another's two come late and wait for one each. */
static void test_turns_by_user(void **state)
{
    (void)state;
    static const char *names[] = {"@u0:x", "@u0:x", "@u0:x", "@u0:x", "@u1:x", "@u1:x", "@u2:x"};
    /* u0's first was let in; then everybody's n-th in order of arrival */
    static const int expected[] = {0, 4, 6, 1, 5, 2, 3};
    struct front *f = front_new_with("  initial_syncs_queued_max: 10\n");
    struct client *c[7];
    f->w->held[SQL_rooms_of_users] = true;
    for (int i = 0; i < 7; i++)
        c[i] = ask_as(f, names[i], i + 1);
    assert_int_equal(f->s->counts[REQ_QUEUED], 6);
    const struct list *at = &f->s->states[REQ_QUEUED];
    for (int i = 1; i < 7; i++) {
        at = at->next;
        assert_ptr_equal(container_of(at, struct sync_req, by_state)->http, &c[expected[i]]->req);
    }
    f->w->held[SQL_rooms_of_users] = false;
    world_release(f->w, SQL_rooms_of_users);
    front_run(f);
    for (int i = 0; i < 7; i++)
        assert_int_equal(c[i]->status, 200);
    assert_int_equal(f->s->initial_running, 0);
    front_free(&f);
}

/* A full queue sheds the last of who asks most, not who comes last. */
static void test_full_queue_sheds_the_greedy(void **state)
{
    (void)state;
    struct front *f = front_new_with("  initial_syncs_queued_max: 3\n");
    int64_t refused = metric_get_l(M_sync_refused, "initial_queue");
    f->w->held[SQL_rooms_of_users] = true;
    struct client *c[6];
    for (int i = 0; i < 4; i++)
        c[i] = ask_as(f, "@u0:x", i + 1);
    assert_int_equal(f->s->counts[REQ_QUEUED], 3);
    c[4] = ask_as(f, "@u1:x", 5);
    assert_int_equal(c[4]->answers, 0);
    assert_int_equal(c[3]->status, 429);
    c[5] = ask_as(f, "@u0:x", 6);
    assert_int_equal(c[5]->status, 429);
    assert_int_equal(metric_get_l(M_sync_refused, "initial_queue"), refused + 2);
    f->w->held[SQL_rooms_of_users] = false;
    world_release(f->w, SQL_rooms_of_users);
    front_run(f);
    for (int i = 0; i < 5; i++)
        assert_int_equal(c[i]->status, i == 3 ? 429 : 200);
    front_free(&f);
}

int run_storm_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shared_rooms),
        cmocka_unit_test(test_own_rooms),
        cmocka_unit_test(test_woken_in_slices),
        cmocka_unit_test(test_woken_in_a_flood),
        cmocka_unit_test(test_slices),
        cmocka_unit_test(test_refused_together),
        cmocka_unit_test(test_one_by_one),
        cmocka_unit_test(test_turns_by_user),
        cmocka_unit_test(test_full_queue_sheds_the_greedy),
    };
    return cmocka_run_group_tests_name("storms", tests, NULL, NULL);
}
