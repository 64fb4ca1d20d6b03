/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Bursts of the events stream: nothing of them may be lost, whatever else happens while they are read. */
#include "test_model.h"

#include "chappe/release.h"

static bool in_timeline(struct room *r, const char *id)
{
    for (size_t i = 0; i < r->tl.n; i++) {
        if (str_eq(r->tl.v[i].rec->id, S(id)))
            return true;
    }
    return false;
}

static void test_positions_wait_for_the_fetch(void **state)
{
    struct world *w = *state;
    struct room *r = model_room(w->m, S("!r:x"));
    w->held[SQL_burst] = true;
    world_say(w, (struct t_event){.id = "$1", .room = "!r:x", .stream = 101});
    world_burst_end(w);
    world_settle(w);
    assert_int_equal(model_now(w->m)->room.min, 100);
    assert_false(in_timeline(r, "$1"));
    world_say(w, (struct t_event){.id = "$2", .room = "!r:x", .stream = 102}); /* goes to the next burst */
    world_position(w, STREAM_EVENTS, MASTER, 103);
    world_burst_end(w);
    world_settle(w);
    assert_int_equal(w->issued[SQL_burst], 1);
    world_release(w, SQL_burst);
    assert_int_equal(model_now(w->m)->room.min, 103);
    assert_true(in_timeline(r, "$1") && in_timeline(r, "$2"));
    assert_int_equal(w->issued[SQL_burst], 2);
}

static void test_failed_fetch_is_retried(void **state)
{
    struct world *w = *state;
    struct room *r = model_room(w->m, S("!r:x"));
    for (int i = 0; i < 3; i++) {
        const char *id = world_text(w, "$%d", i);
        w->fail[SQL_burst] = 1;
        world_say(w, (struct t_event){.id = id, .room = "!r:x", .stream = 101 + i});
        world_burst_end(w);
        world_settle(w);
        assert_int_equal(model_now(w->m)->room.min, 100 + i);
        assert_false(in_timeline(r, id));
        world_tick(w);
        assert_int_equal(model_now(w->m)->room.min, 101 + i);
        assert_true(in_timeline(r, id));
    }
}

static void test_nobody_cares(void **state)
{
    struct world *w = *state;
    world_say(w, (struct t_event){.id = "$1", .room = "!other:x", .stream = 101});
    world_burst_end(w);
    assert_int_equal(model_now(w->m)->room.min, 101);
    assert_int_equal(world_issued(w), 0);
}

/* The room comes into memory while a burst that was read without it is under way. */
static void test_room_made_during_a_fetch(void **state)
{
    struct world *w = *state;
    model_room(w->m, S("!known:x"));
    w->held[SQL_burst] = true;
    world_say(w, (struct t_event){.id = "$k", .room = "!known:x", .stream = 101});
    world_say(w, (struct t_event){.id = "$n", .room = "!new:x", .stream = 102});
    world_burst_end(w);
    world_settle(w);
    struct room *r = model_room(w->m, S("!new:x"));
    world_release(w, SQL_burst);
    assert_int_equal(model_now(w->m)->room.min, 102);
    assert_true(in_timeline(r, "$n"));
}

/* A member event of a known user brings its room into memory in the middle of a burst; what follows in it is
 * not lost. */
static void test_room_made_by_a_burst(void **state)
{
    struct world *w = *state;
    model_user(w->m, S("@a:x"));
    world_say(
        w, (struct t_event){.id = "$c", .room = "!new:x", .type = "m.room.create", .key = "", .stream = 101});
    world_say(w, (struct t_event){.id = "$j",
                                  .room = "!new:x",
                                  .type = "m.room.member",
                                  .key = "@a:x",
                                  .stream = 102,
                                  .content = "{\"membership\":\"join\"}"});
    world_say(w, (struct t_event){.id = "$m", .room = "!new:x", .stream = 103});
    world_burst_end(w);
    world_settle(w);
    struct room *r = model_room_find(w->m, S("!new:x"));
    assert_non_null(r);
    assert_true(in_timeline(r, "$j") && in_timeline(r, "$m"));
    struct tl_entry v[8];
    size_t n;
    bool more;
    struct mpos lo = mpos_of(102), hi = mpos_of(103);
    assert_int_equal(await(w, model_page_stream(w->m, r, &lo, &hi, 8, v, &n, &more)), HAVE);
    assert_int_equal(n, 1);
}

static void test_user_made_during_a_fetch(void **state)
{
    struct world *w = *state;
    model_room(w->m, S("!known:x"));
    w->held[SQL_burst] = true;
    world_say(w, (struct t_event){.id = "$k", .room = "!known:x", .stream = 101});
    world_say(w, (struct t_event){.id = "$j",
                                  .room = "!new:x",
                                  .type = "m.room.member",
                                  .key = "@b:x",
                                  .stream = 102,
                                  .content = "{\"membership\":\"invite\"}"});
    world_burst_end(w);
    world_settle(w);
    struct user *u = model_user(w->m, S("@b:x"));
    world_release(w, SQL_burst);
    struct mpos lo = mpos_of(100);
    assert_int_equal(model_user_own_events(w->m, u, &lo), HAVE);
    assert_int_equal(user_own_count(u), 1);
}

/* What a row says about an event between the burst's reading it and taking it in must not make it disappear.
 * The burst is asked for twice: a room has come into memory meanwhile. */
static void test_event_invalidated_during_a_fetch(void **state)
{
    struct world *w = *state;
    struct room *r = model_room(w->m, S("!r:x"));
    w->held[SQL_burst] = true;
    world_say(w, (struct t_event){.id = "$1", .room = "!r:x", .stream = 101});
    world_say(w, (struct t_event){.id = "$2", .room = "!new:x", .stream = 102});
    world_burst_end(w);
    world_settle(w);
    model_room(w->m, S("!new:x"));
    w->held[SQL_burst] = false;
    world_turn(w); /* the first event is in, the other is not */
    assert_int_equal(w->issued[SQL_burst], 2);
    assert_non_null(model_rec(w->m, S("$1"))->ev);
    assert_false(in_timeline(r, "$1"));
    struct str keys[] = {STR("$1")};
    struct feed_row row = {.cache = {.func = STR("_get_event_cache"), .keys = keys, .keys_count = 1}};
    world_send(w, STREAM_CACHES, MASTER, 105, &row);
    world_settle(w);
    assert_true(in_timeline(r, "$1"));
    struct event *ev;
    assert_int_equal(await(w, model_event(w->m, model_rec(w->m, S("$1")), &ev)), HAVE);
}

/* A reader asked for an event that a burst then read itself: the reader's answer, from before, must not take
 * it away. */
static void test_event_loaded_and_read_by_a_burst(void **state)
{
    struct world *w = *state;
    struct room *r = model_room(w->m, S("!r:x"));
    struct event *ev;
    w->held[SQL_events_by_id] = true;
    assert_int_equal(model_event(w->m, model_rec(w->m, S("$1")), &ev), LACK);
    world_settle(w); /* asked before it is stored */
    world_say(w, (struct t_event){.id = "$1", .room = "!r:x", .stream = 101});
    world_burst_end(w);
    world_settle(w); /* the burst's answer comes first */
    world_release(w, SQL_events_by_id);
    assert_true(in_timeline(r, "$1"));
    assert_int_equal(await(w, model_event(w->m, model_rec(w->m, S("$1")), &ev)), HAVE);
}

/* The loader's statement is refused after a burst has brought the event: the record must stay in order. */
static void test_load_refused_after_a_burst(void **state)
{
    struct world *w = *state;
    struct event *ev;
    model_room(w->m, S("!r:x"));
    w->held[SQL_burst] = w->held[SQL_events_by_id] = true;
    world_say(w, (struct t_event){.id = "$1", .room = "!r:x", .stream = 101});
    world_burst_end(w);
    assert_int_equal(model_event(w->m, model_rec(w->m, S("$1")), &ev), LACK);
    world_turn(w);
    world_turn(w);
    assert_int_equal(w->issued[SQL_events_by_id] + w->issued[SQL_burst], 2);
    world_release(w, SQL_burst);
    w->fail[SQL_events_by_id] = 1;
    world_release(w, SQL_events_by_id);
    ((struct config *)w->cfg)->model_memory_mb = 0;
    model_trim(w->m); /* empties memory; an event whose record is in disorder trips it */
    assert_int_equal(w->m->event_count, 0);
    assert_int_equal(await(w, model_event(w->m, model_rec(w->m, S("$1")), &ev)), HAVE);
}

/* While readers stand in line a burst goes on filling, and not for long; else it is asked for at once. */
static void test_bursts_grow(void **state)
{
    struct world *w = *state;
    struct room *r = model_room(w->m, S("!r:x"));
    world_say(w, (struct t_event){.id = "$1", .room = "!r:x", .stream = 101});
    world_burst_end(w);
    assert_int_equal(w->issued[SQL_burst], 1);
    world_settle(w);
    model_load_gather(w->m, true);
    world_say(w, (struct t_event){.id = "$2", .room = "!r:x", .stream = 102});
    world_burst_end(w);
    world_turn(w);
    world_say(w, (struct t_event){.id = "$3", .room = "!r:x", .stream = 103});
    world_burst_end(w);
    world_turn(w);
    assert_int_equal(w->issued[SQL_burst], 1);
    model_load_gather(w->m, false); /* nobody stands in line any more */
    world_settle(w);
    assert_int_equal(w->issued[SQL_burst], 2);
    assert_true(in_timeline(r, "$2") && in_timeline(r, "$3"));
    model_load_gather(w->m, true);
    world_say(w, (struct t_event){.id = "$4", .room = "!r:x", .stream = 104});
    world_burst_end(w);
    clock_fake_set(clock_mono_ms() + 30);
    world_settle(w);
    clock_fake_set(-1);
    assert_int_equal(w->issued[SQL_burst], 3);
    assert_true(in_timeline(r, "$4"));
    model_load_gather(w->m, false);
}

/* One statement names the users of an action together: each one's count grows, whoever is not in memory. */
static void test_actions_of_many(void **state)
{
    struct world *w = *state;
    struct unread *un[2];
    static const char *const users[] = {"@a:x", "@unknown:x", "@b:x"};
    world_room(w, "!r:x", 10, "shared", "@a:x", "@b:x", "@unknown:x", NULL);
    struct room *r = model_room(w->m, S("!r:x"));
    struct user *a = model_user(w->m, S("@a:x")), *b = model_user(w->m, S("@b:x"));
    assert_int_equal(await(w, model_unread(w->m, a, r, &un[0])), HAVE);
    assert_int_equal(await(w, model_unread(w->m, b, r, &un[1])), HAVE);
    for (int64_t at = 101; at <= 102; at++) {
        for (int i = 0; i < 3; i++)
            world_add(&w->actions, users[i], "!r:x", "main", at, true, i == 2, true);
        world_say(w, (struct t_event){.id = world_text(w, "$%d", (int)at), .room = "!r:x", .stream = at});
    }
    world_burst_end(w);
    assert_int_equal(world_issued(w) > 0 && w->issued[SQL_burst] == 1, 1);
    world_settle(w);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(un[i]->threads.n, 1);
        assert_int_equal(un[i]->threads.v[0].notify, 2);
        assert_int_equal(un[i]->threads.v[0].highlight, i ? 2 : 0);
    }
}

static void test_redaction_before_its_target(void **state)
{
    struct world *w = *state;
    struct room *r = model_room(w->m, S("!r:x"));
    world_say(w,
              (struct t_event){
                  .id = "$red", .room = "!r:x", .type = "m.room.redaction", .redacts = "$t", .stream = 101});
    world_say(w, (struct t_event){.id = "$t", .room = "!r:x", .stream = 102, .content = "{\"body\":\"x\"}"});
    world_burst_end(w);
    world_settle(w);
    assert_true(in_timeline(r, "$red") && in_timeline(r, "$t"));
    struct event *ev;
    assert_int_equal(await(w, model_event(w->m, model_rec(w->m, S("$t")), &ev)), HAVE);
    assert_true(ev->redacted);
}

static void test_redaction_of_a_known_event(void **state)
{
    struct world *w = *state;
    struct event *ev;
    model_room(w->m, S("!r:x"));
    world_say(w, (struct t_event){.id = "$t", .room = "!r:x", .stream = 101, .content = "{\"body\":\"x\"}"});
    world_burst_end(w);
    assert_int_equal(await(w, model_event(w->m, model_rec(w->m, S("$t")), &ev)), HAVE);
    assert_false(ev->redacted);
    world_say(w,
              (struct t_event){
                  .id = "$red", .room = "!r:x", .type = "m.room.redaction", .redacts = "$t", .stream = 102});
    world_burst_end(w);
    world_settle(w);
    assert_int_equal(await(w, model_event(w->m, model_rec(w->m, S("$t")), &ev)), HAVE);
    assert_true(ev->redacted);
    struct event *by;
    assert_int_equal(await(w, model_redacted_because(w->m, ev, &by)), HAVE);
    assert_str(by->event_id, "$red");
}

/* Redactions and what they may do (withheld without a target; other rooms; other domains where the server
 * could not check). */
static void test_redaction_rules(void **state)
{
    struct world *w = *state;
    world_event(w, (struct t_event){.id = "$t", .room = "!r:x", .stream = 50});
    world_event(w, (struct t_event){.id = "$other", .room = "!q:x", .stream = 51});
    world_event(
        w,
        (struct t_event){
            .id = "$lost", .room = "!r:x", .type = "m.room.redaction", .redacts = "$nowhere", .stream = 52});
    world_event(
        w,
        (struct t_event){
            .id = "$across", .room = "!r:x", .type = "m.room.redaction", .redacts = "$other", .stream = 53});
    world_event(
        w, (struct t_event){
               .id = "$good", .room = "!r:x", .type = "m.room.redaction", .redacts = "$t", .stream = 54});
    world_event(w, (struct t_event){.id = "$alien",
                                    .room = "!r:x",
                                    .type = "m.room.redaction",
                                    .redacts = "$t2",
                                    .stream = 55,
                                    .sender = "@e:y",
                                    .metadata = "{\"recheck_redaction\":true}"});
    world_event(w, (struct t_event){.id = "$t2", .room = "!r:x", .stream = 56});
    for (size_t i = 0; i < w->redactions.n; i++)
        w->redactions.v[i].recheck = true;
    static const struct {
        const char *id;
        enum have h;
        bool redacted;
    } cases[] = {
        {"$lost", ABSENT, false},  {"$across", ABSENT, false},  {"$good", HAVE, false},
        {"$alien", ABSENT, false}, {"$t", HAVE, true},          {"$other", HAVE, false},
        {"$t2", HAVE, false},      {"$unknown", ABSENT, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct event *ev;
        enum have h = await(w, model_event(w->m, model_rec(w->m, S(cases[i].id)), &ev));
        if (h != cases[i].h || (h == HAVE && ev->redacted != cases[i].redacted))
            fail_msg("%s: %d", cases[i].id, h);
    }
}

/* A sticky event that a faster writer has brought wakes its readers once more when it comes into view. */
static void test_sticky_wakes(void **state)
{
    struct world *w = *state;
    world_free(&w);
    world_config("experimental_features: {msc4354_enabled: true}\n");
    *state = w = world_new();
    release_set((struct release){1, 157, 0});
    model_adopt(w->m, (struct feed *)(void *)w);
    world_settle(w);
    world_room(w, "!r:x", 10, "shared", "@a:x", NULL);
    struct user *a = model_user(w->m, S("@a:x"));
    model_user_pin(w->m, a);
    assert_int_equal(await(w, model_user_rooms(w->m, a)), HAVE);
    model_user_activate(w->m, a);
    world_position(w, STREAM_STICKY_EVENTS, W2, 100);
    world_event(w, (struct t_event){.id = "$1", .room = "!r:x", .stream = 50});
    world_add(&w->sticky, 110, "!r:x", "$1", clock_wall_ms() + 60000);
    struct feed_row row = {.room = {.room_id = S("!r:x"), .event_id = S("$1")}};
    world_send(w, STREAM_STICKY_EVENTS, MASTER, 110, &row);
    world_burst_end(w);
    world_settle(w);
    assert_true(world_woken(w, "@a:x"));
    assert_int_equal(model_now(w->m)->sticky_events.min, 100);
    world_position(w, STREAM_STICKY_EVENTS, W2, 110);
    world_burst_end(w);
    world_settle(w);
    assert_int_equal(model_now(w->m)->sticky_events.min, 110);
    assert_true(world_woken(w, "@a:x"));
    model_user_unpin(w->m, a);
    release_set(release_newest());
}

static void test_wakes(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@a:x", "@b:x", NULL);
    struct user *a = model_user(w->m, S("@a:x")), *b = model_user(w->m, S("@b:x"));
    model_user_pin(w->m, a);
    model_user_pin(w->m, b);
    assert_int_equal(await(w, model_user_rooms(w->m, a)), HAVE);
    model_user_activate(w->m, a);
    world_say(w, (struct t_event){.id = "$1", .room = "!r:x", .stream = 101});
    world_burst_end(w);
    assert_false(world_woken(w, "@a:x")); /* not before it can be read */
    world_settle(w);
    assert_true(world_woken(w, "@a:x"));
    assert_false(world_woken(w, "@b:x"));
    world_say(w, (struct t_event){.id = "$bad", .room = "!r:x", .stream = 102, .rejected = "no"});
    world_burst_end(w);
    world_settle(w);
    assert_false(world_woken(w, "@a:x"));
    /* b is kicked: it hears of that itself */
    world_say(w, (struct t_event){.id = "$kick",
                                  .room = "!r:x",
                                  .type = "m.room.member",
                                  .key = "@b:x",
                                  .stream = 103,
                                  .content = "{\"membership\":\"leave\"}"});
    world_burst_end(w);
    world_settle(w);
    assert_true(world_woken(w, "@a:x") && world_woken(w, "@b:x"));
    model_user_unpin(w->m, a);
    model_user_unpin(w->m, b);
}

int run_burst_tests(void)
{
    const struct CMUnitTest tests[] = {
        T(test_positions_wait_for_the_fetch),
        T(test_failed_fetch_is_retried),
        T(test_nobody_cares),
        T(test_room_made_during_a_fetch),
        T(test_room_made_by_a_burst),
        T(test_user_made_during_a_fetch),
        T(test_event_invalidated_during_a_fetch),
        T(test_event_loaded_and_read_by_a_burst),
        T(test_load_refused_after_a_burst),
        T(test_bursts_grow),
        T(test_actions_of_many),
        T(test_redaction_before_its_target),
        T(test_redaction_of_a_known_event),
        T(test_redaction_rules),
        T(test_sticky_wakes),
        T(test_wakes),
    };
    return cmocka_run_group_tests_name("burst", tests, NULL, NULL);
}
