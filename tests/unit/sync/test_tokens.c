/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Tokens from before this process began, from before the beginning of all, and what lies between them and
 * now: presence, gaps, positions below zero. */
#include "front.h"

static struct world *start_world(const char *config)
{
    world_config(config);
    struct world *w = world_new();
    world_add(&w->presence, "@gone:x", "offline", NULL, 5, 50, false);
    world_add(&w->presence, "@here:x", "online", NULL, 5, 60, true);
    world_add(&w->presence, "@stranger:x", "online", NULL, 5, 70, true);
    model_adopt(w->m, (struct feed *)(void *)w);
    world_settle(w);
    world_room(w, "!r:x", 10, "shared", "@me:x", "@gone:x", "@here:x", "@never:x", NULL);
    return w;
}

/* What changed since the token is told exactly, however long ago that was: who is offline now was online
 * for the client. */
static void test_presence_since_before_start(void **state)
{
    (void)state;
    struct world *w = start_world("presence: {enabled: true}\n");
    static const struct {
        int64_t since;
        bool gone, here;
    } rows[] = {{-1, true, true}, {0, true, true}, {49, true, true}, {50, false, true}, {60, false, false}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct stream_token since = *model_now(w->m);
        since.presence = rows[i].since;
        const char *body = compute(w, "@me:x", "D", "{}", &since, NULL, NULL);
        if (!strstr(body, "@gone:x\",\"content\":{\"presence\":\"offline\"") == rows[i].gone ||
            !strstr(body, "@here:x\",\"content\":{\"presence\":\"online\"") == rows[i].here)
            fail_msg("since %d: %s", (int)rows[i].since, body);
        assert_hasnt(body, "@stranger:x");
        assert_hasnt(body, "@never:x");
    }
    const char *body = compute(w, "@me:x", "D", "{}", NULL, NULL, NULL);
    assert_has(body, "@here:x\",\"content\":{\"presence\":\"online\"");
    assert_hasnt(body, "@gone:x\",\"content\":{\"presence\"");
    world_free(&w);
}

static void test_presence_of_all_on_initial(void **state)
{
    (void)state;
    struct world *w = start_world("presence: {enabled: true, include_offline_users_on_sync: true}\n");
    const char *body = compute(w, "@me:x", "D", "{}", NULL, NULL, NULL);
    assert_has(body, "\"sender\":\"@me:x\",\"content\":{\"presence\":\"offline\"}");
    assert_has(body, "\"sender\":\"@never:x\",\"content\":{\"presence\":\"offline\"}");
    assert_has(body, "\"sender\":\"@gone:x\",\"content\":{\"presence\":\"offline\",\"last_active_ago\"");
    assert_has(body, "\"sender\":\"@here:x\",\"content\":{\"presence\":\"online\"");
    assert_hasnt(body, "@stranger:x");
    world_free(&w);
}

/* "Never" is 0 in the model, which a token may undercut. */
static void test_positions_below_zero(void **state)
{
    (void)state;
    struct world *w = start_world("presence: {enabled: false}\n");
    struct stream_token since = *model_now(w->m);
    enum run_result res;
    since.typing = since.account_data = since.push_rules = since.to_device = -1;
    since.un_partial_stated_rooms = since.thread_subscriptions = since.profile_updates = -1;
    since.sticky_events = mpos_of(-1);
    const char *body = compute(w, "@me:x", "D", "{}", &since, &res, NULL);
    if (res != RUN_EMPTY)
        fail_msg("not empty: %s", body);
    since.room = mpos_of(INT64_MIN);
    since.receipt = since.device_list = since.room;
    since.presence = since.account_data = since.push_rules = since.to_device = INT64_MIN;
    body = compute(w, "@me:x", "D", "{}", &since, &res, NULL);
    assert_int_equal(res, RUN_DONE);
    assert_has(body, "\"join\":{\"!r:x\"");
    world_free(&w);
}

static void say(struct world *w, int64_t from, int64_t to)
{
    for (int64_t i = from; i <= to; i++)
        world_say(w, (struct t_event){.id = world_text(w, "$m%d", (int)i), .room = "!r:x", .stream = i});
    world_burst_end(w);
    world_settle(w);
}

/* Of the gaps since the token it is the newest before one's leave that counts. */
static void test_gaps_of_a_room_left(void **state)
{
    (void)state;
    for (int gaps = 0; gaps < 4; gaps++) {
        struct world *w = start_world("presence: {enabled: false}\n");
        struct stream_token since = *model_now(w->m);
        if (gaps & 1)
            world_add(&w->gaps, "!r:x", 103);
        if (gaps & 2)
            world_add(&w->gaps, "!r:x", 107);
        say(w, 101, 104);
        world_say(w, (struct t_event){.id = "$leave",
                                      .room = "!r:x",
                                      .type = "m.room.member",
                                      .key = "@me:x",
                                      .sender = "@me:x",
                                      .stream = 105,
                                      .prev = "$m104",
                                      .content = "{\"membership\":\"leave\"}"});
        say(w, 106, 108);
        const char *body = compute(w, "@me:x", "D", "{}", &since, NULL, NULL);
        assert_has(body, "\"leave\":{\"!r:x\"");
        assert_has(body, "$m103\"");
        assert_has(body, "\"$leave\"");
        assert_hasnt(body, "$m106\"");
        if (gaps & 1) {
            assert_hasnt(body, "$m102\"");
            assert_has(body, "\"limited\":true");
        } else {
            assert_has(body, "$m101\"");
            assert_has(body, "\"limited\":false");
        }
        world_free(&w);
    }
}

int run_token_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_presence_since_before_start),
        cmocka_unit_test(test_presence_of_all_on_initial),
        cmocka_unit_test(test_positions_below_zero),
        cmocka_unit_test(test_gaps_of_a_room_left),
    };
    return cmocka_run_group_tests_name("tokens", tests, NULL, NULL);
}
