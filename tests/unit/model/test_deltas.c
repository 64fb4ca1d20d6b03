/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* The changes of a room's state: absorbed, loaded, forgotten; and features of single users. */
#include "test_model.h"

#include <time.h>

static struct room *R;

static void topic(struct world *w, int64_t stream, int writer, bool live)
{
    struct t_event e = {.id = world_text(w, "$t%d", (int)stream),
                        .room = "!r:x",
                        .type = "m.room.topic",
                        .key = "",
                        .stream = stream,
                        .writer = writer};
    if (live)
        world_say(w, e);
    else
        world_event(w, e);
}

/* The ids of what is above lo, as text. */
static const char *above(struct world *w, int64_t lo)
{
    struct mpos at = mpos_of(lo);
    assert_int_equal(await(w, model_room_deltas(w->m, R, &at)), HAVE);
    const char *text = "";
    for (size_t i = 0; i < R->deltas.n; i++) {
        const struct state_delta *d = &R->deltas.v[i];
        if (d->stream > lo)
            text = world_text(w, "%s%.*s ", text, STR_ARG(d->rec ? d->rec->id : STR("gone")));
    }
    return text;
}

static void test_loaded_and_absorbed(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, NULL, "@a:x", NULL); /* 10, 11 */
    topic(w, 20, MASTER, false);
    topic(w, 30, MASTER, false);
    R = model_room(w->m, S("!r:x"));
    topic(w, 110, MASTER, true);
    world_burst_end(w);
    world_settle(w);
    assert_int_equal(R->deltas.n, 0); /* nothing is kept before somebody asks */
    world_forget_counts(w);
    assert_string_equal(above(w, 110), "");
    assert_int_equal(w->issued[SQL_state_deltas], 0);
    topic(w, 120, MASTER, true);
    world_burst_end(w);
    world_settle(w);
    assert_string_equal(above(w, 110), "$t120 ");
    assert_int_equal(w->issued[SQL_state_deltas], 0);
    assert_string_equal(above(w, 20), "$t30 $t110 $t120 ");
    assert_int_equal(w->issued[SQL_state_deltas], 1);
    assert_string_equal(above(w, 30), "$t110 $t120 ");
    assert_int_equal(w->issued[SQL_state_deltas], 1);
    assert_string_equal(above(w, 0), "$create!r:x $join@a:x!r:x $t20 $t30 $t110 $t120 ");
    assert_int_equal(w->issued[SQL_state_deltas], 2);
    /* one statement for all rooms */
    for (int i = 0; i < 3; i++) {
        struct mpos zero = mpos_of(0);
        assert_int_equal(model_room_deltas(w->m, model_room(w->m, str_of(world_text(w, "!n%d:x", i))), &zero),
                         LACK);
    }
    world_settle(w);
    assert_int_equal(w->issued[SQL_state_deltas], 3);
    assert_int_equal(w->last_targets, 3);
}

/* What was removed has no event; what changed in ways that nobody lists is read again. */
static void test_removed_and_unlisted(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, NULL, "@a:x", NULL);
    R = model_room(w->m, S("!r:x"));
    assert_string_equal(above(w, 100), "");
    topic(w, 110, MASTER, true);
    world_send_state(w, &(struct t_event){.room = "!r:x", .type = "m.room.topic", .key = "", .stream = 111},
                     false);
    world_burst_end(w);
    world_settle(w);
    assert_string_equal(above(w, 100), "$t110 gone ");
    topic(w, 112, MASTER, false); /* only in the tables */
    struct feed_row all = {.ev = {.kind = EV_ROW_STATE_ALL, .room_id = STR("!r:x")}};
    world_send(w, STREAM_EVENTS, MASTER, 113, &all);
    world_burst_end(w);
    world_settle(w);
    world_forget_counts(w);
    assert_string_equal(above(w, 111), "$t112 ");
    assert_int_equal(w->issued[SQL_state_deltas], 1);
}

/* A load that a "state-all" overtakes is repeated; a refused one as well. */
static void test_overtaken(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, NULL, "@a:x", NULL);
    R = model_room(w->m, S("!r:x"));
    struct mpos zero = mpos_of(0);
    w->held[SQL_state_deltas] = true;
    assert_int_equal(model_room_deltas(w->m, R, &zero), LACK);
    world_turn(w);
    topic(w, 112, MASTER, false);
    struct feed_row all = {.ev = {.kind = EV_ROW_STATE_ALL, .room_id = STR("!r:x")}};
    world_send(w, STREAM_EVENTS, MASTER, 113, &all);
    world_burst_end(w);
    world_release(w, SQL_state_deltas);
    assert_int_equal(R->deltas.n, 0);
    w->fail[SQL_state_deltas] = 1;
    assert_string_equal(above(w, 11), "$t112 ");
}

/* Writers stand apart: what one of them brings late is neither missed nor taken twice. */
static void test_writers(void **state)
{
    struct world *w = *state;
    world_free(&w);
    *state = w = world_new_writers(200, 150);
    model_adopt(w->m, (struct feed *)(void *)w);
    world_settle(w);
    world_room(w, "!r:x", 10, NULL, "@a:x", NULL);
    topic(w, 160, W2, false); /* W2 has not announced it yet */
    topic(w, 190, MASTER, false);
    R = model_room(w->m, S("!r:x"));
    assert_string_equal(above(w, 20), "$t160 $t190 ");
    world_send_state(
        w,
        &(struct t_event){
            .id = "$t160", .room = "!r:x", .type = "m.room.topic", .key = "", .stream = 160, .writer = W2},
        true);
    world_burst_end(w);
    world_settle(w);
    assert_string_equal(above(w, 20), "$t160 $t190 ");
}

static void test_bounded(void **state)
{
    struct world *w = *state;
    R = model_room(w->m, S("!r:x"));
    assert_string_equal(above(w, 100), "");
    for (int i = 0; i < 1010; i++)
        topic(w, 101 + i, MASTER, true);
    world_burst_end(w);
    world_settle(w);
    assert_int_equal(R->deltas.n, 1000);
    world_forget_counts(w);
    assert_string_equal(above(w, 1108), "$t1109 $t1110 ");
    assert_int_equal(world_issued(w), 0);
    struct mpos before = mpos_of(109);
    assert_int_equal(await(w, model_room_deltas(w->m, R, &before)), HAVE);
    assert_int_equal(R->deltas.n, 1001);
    assert_int_equal(w->issued[SQL_state_deltas], 1);
}

/* All of a large room's state changes at one stream id when the room is joined. */
static void test_many_at_once(void **state)
{
    enum { KEYS = 60000 };
    struct world *w = *state;
    world_room(w, "!r:x", 10, NULL, "@a:x", NULL);
    R = model_room(w->m, S("!r:x"));
    for (int i = 0; i < KEYS; i++) {
        const char *text = world_text(w, "%06d", i);
        world_add(&w->deltas, "!r:x", "m.room.member", text, text, 50, MASTER);
    }
    clock_t begin = clock();
    struct mpos at = mpos_of(20);
    assert_int_equal(await(w, model_room_deltas(w->m, R, &at)), HAVE);
    assert_int_equal(R->deltas.n, KEYS);
    assert_true(clock() - begin < 5 * CLOCKS_PER_SEC);
    assert_string_equal(above(w, 50), "");
}

static void test_features(void **state)
{
    struct world *w = *state;
    struct user *u = model_user(w->m, S("@a:x"));
    assert_int_equal(await(w, model_features(w->m, u)), HAVE);
    assert_false(u->msc4222);
    world_add(&w->features, "@a:x", "msc4222", 0);
    struct str keys[] = {STR("@a:x"), STR("ExperimentalFeature.MSC4222")};
    struct feed_row row = {.cache = {.func = STR("is_feature_enabled"), .keys = keys, .keys_count = 2}};
    world_send(w, STREAM_CACHES, MASTER, 7, &row);
    assert_int_equal(await(w, model_features(w->m, u)), HAVE);
    assert_true(u->msc4222);
}

int run_delta_tests(void)
{
    const struct CMUnitTest tests[] = {T(test_loaded_and_absorbed),
                                       T(test_removed_and_unlisted),
                                       T(test_overtaken),
                                       T(test_writers),
                                       T(test_bounded),
                                       T(test_many_at_once),
                                       T(test_features)};
    return cmocka_run_group_tests_name("deltas", tests, NULL, NULL);
}
