/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What a first sync asks of the database: it must not grow with the number of rooms. The rooms are of every
 * kind that is answered in another way (joined, left, invited to, knocked on, changed since the token), none
 * is in memory, and their timelines do not fit. Statements are counted by name, so that a failure says which
 * one came too often.
 */
#include "front.h"

#include <stdio.h>

enum { INITIAL_MAX = 39, CATCH_UP_MAX = 60, OLD = 100000, NEW = 200000 };

static const char *const names[SQL_COUNT] = {
#define SQL(name, store, why, text)  #name,
#define SQLW(name, store, why, text) #name,
#include "chappe/tbl/sql.def"
#undef SQL
#undef SQLW
};
static int64_t stream_at;

static void member(struct world *w, const char *room, const char *user, const char *sender, const char *what)
{
    stream_at++;
    world_event(w, (struct t_event){.id = world_text(w, "$%s%d", what, (int)stream_at),
                                    .room = room,
                                    .type = "m.room.member",
                                    .key = user,
                                    .sender = sender,
                                    .stream = stream_at,
                                    .content = world_text(w, "{\"membership\":\"%s\"}", what)});
}

static void say(struct world *w, const char *room, const char *sender, int messages)
{
    for (int i = 0; i < messages; i++) {
        stream_at++;
        world_event(w, (struct t_event){.id = world_text(w, "$m%d", (int)stream_at),
                                        .room = room,
                                        .sender = sender,
                                        .stream = stream_at});
    }
}

/* Six kinds of rooms in turn, all of a user's. */
static void make_room(struct world *w, int i)
{
    const char *room = world_text(w, "!n%d:x", i), *me = "@me:x";
    stream_at = world_room(w, room, stream_at + 1, i % 2 ? "shared" : "joined", "@b:x", "@c:x", NULL);
    if (i % 6 < 3 || i % 6 == 5)
        member(w, room, me, me, "join");
    say(w, room, "@b:x", 6);
    if (i % 6 == 2)
        member(w, room, me, "@b:x", "leave");
    else if (i % 6 == 3)
        member(w, room, me, "@b:x", "invite");
    else if (i % 6 == 4)
        member(w, room, me, me, "knock");
    say(w, room, "@c:x", 3);
}

/* After the old token something has happened everywhere: words, a leave, a join. */
static void change_room(struct world *w, int i)
{
    const char *room = world_text(w, "!n%d:x", i), *me = "@me:x";
    say(w, room, "@b:x", 7);
    if (i % 6 == 1)
        member(w, room, me, me, "leave");
    else if (i % 6 == 3)
        member(w, room, me, me, "join");
    member(w, room, "@c:x", "@c:x", "join");
}

static int statements(int rooms, bool initial, const char *filter)
{
    struct front *f = front_new();
    struct world *w = f->w;
    stream_at = 1000;
    for (int i = 0; i < rooms; i++)
        make_room(w, i);
    assert_true(stream_at < OLD);
    stream_at = OLD;
    for (int i = 0; !initial && i < rooms; i++)
        change_room(w, i);
    assert_true(stream_at < NEW);
    world_position(w, STREAM_EVENTS, MASTER, NEW);
    world_burst_end(w);
    front_run(f);
    f->user = "@me:x";
    world_forget_counts(w);
    const char *since = world_text(w, "&since=s%d_100_0_100_100_100_100_100_0_100_100_100_100", OLD);
    struct client *c = front_get(f, world_text(w, "filter=%s%s", filter, initial ? "" : since));
    front_run(f);
    assert_int_equal(c->status, 200);
    for (int i = 0; i < rooms; i++)
        if (initial || i % 6 < 2 || i % 6 == 3)
            assert_has(c->body.p, world_text(w, "!n%d:x", i));
    int n = world_issued(w);
    if (n > (initial ? INITIAL_MAX : CATCH_UP_MAX)) {
        for (int i = 0; i < SQL_COUNT; i++)
            if (w->issued[i])
                print_error("%s: %d\n", names[i], w->issued[i]);
    }
    front_free(&f);
    return n;
}

static void bounded(bool initial, const char *filter)
{
    static const int rooms[] = {6, 60, 300};
    int first = 0;
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        int n = statements(rooms[i], initial, filter);
        if (i == 0)
            first = n;
        printf("%s, %d rooms: %d statements\n", initial ? "initial" : "catch-up", rooms[i], n);
        assert_true(n > 0 && n <= (initial ? INITIAL_MAX : CATCH_UP_MAX));
        assert_true(n <= first + 2); /* a round more here and there, never one for each room */
    }
}

#define LIMITED "\"timeline\":{\"limit\":4},\"include_leave\":true"

static void test_initial_lazy(void **state)
{
    (void)state;
    bounded(true, "{\"room\":{" LIMITED ",\"state\":{\"lazy_load_members\":true}}}");
}

static void test_initial_full(void **state)
{
    (void)state;
    bounded(true, "{\"room\":{" LIMITED "}}");
}

/* More pages than one are read of each timeline, and none of it is shown. */
static void test_initial_refilled(void **state)
{
    (void)state;
    bounded(true, "{\"room\":{\"timeline\":{\"limit\":1,\"types\":[\"org.example.none\"]}}}");
}

static void test_catch_up(void **state)
{
    (void)state;
    bounded(false, "{\"room\":{" LIMITED ",\"state\":{\"lazy_load_members\":true}}}");
}

int run_statement_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_initial_lazy),
        cmocka_unit_test(test_initial_full),
        cmocka_unit_test(test_initial_refilled),
        cmocka_unit_test(test_catch_up),
    };
    return cmocka_run_group_tests_name("statements", tests, NULL, NULL);
}
