/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* What homeserver settings and opt-ins change in an answer. */
#include "front.h"

static int setup_with(void **state, const char *yaml)
{
    world_config(yaml);
    struct world *w = world_new();
    model_adopt(w->m, (struct feed *)(void *)w);
    world_settle(w);
    compute_how = (struct compute_how){0};
    *state = w;
    return 0;
}
static int setup(void **state)
{
    return setup_with(state, "presence: {enabled: false}\n");
}
static int teardown(void **state)
{
    compute_how = (struct compute_how){0};
    world_free((struct world **)state);
    return 0;
}

static void say(struct world *w, const char *id, const char *type, const char *key, int64_t stream)
{
    world_say(w, (struct t_event){.id = id, .room = "!r:x", .type = type, .key = key, .stream = stream});
}

/* ---- MSC4222 ---- */

/* The span of state_after in an answer. */
static const char *after(struct world *w, const char *body)
{
    const char *from = strstr(body, "\"org.matrix.msc4222.state_after\":"), *to;
    assert_non_null(from);
    assert_hasnt(body, "\"state\":");
    to = strstr(from, "\"account_data\"");
    assert_non_null(to);
    return world_text(w, "%.*s", (int)(to - from), from);
}

static void test_state_after(void **state)
{
    struct world *w = *state;
    compute_how.use_state_after = true;
    world_room(w, "!r:x", 10, "shared", "@a:x", "@b:x", NULL);
    struct stream_token since;
    const char *s =
        after(w, compute(w, "@a:x", "D", "{\"room\":{\"timeline\":{\"limit\":1}}}", NULL, NULL, &since));
    assert_has(s, "$create!r:x");
    assert_has(s, "$join@b:x!r:x");
    assert_has(s, "$hv!r:x"); /* stands in the timeline too */
    say(w, "$t1", "m.room.topic", "", 110);
    say(w, "$t2", "m.room.topic", "", 111);
    say(w, "$n1", "m.room.name", "", 112);
    world_send_state(w, &(struct t_event){.room = "!r:x", .type = "m.room.avatar", .key = "", .stream = 113},
                     false); /* taken back by a reset: nothing can be said of it */
    world_burst_end(w);
    world_settle(w);
    struct stream_token middle;
    const char *body = compute(w, "@a:x", "D", "{}", &since, NULL, &middle);
    s = after(w, body);
    assert_has(s, "$t2");
    assert_has(s, "$n1");
    assert_hasnt(s, "$t1");
    assert_hasnt(s, "avatar");
    assert_hasnt(s, "$create");
    say(w, "$t3", "m.room.topic", "", 120);
    world_burst_end(w);
    world_settle(w);
    s = after(w, compute(w, "@a:x", "D", "{}", &middle, NULL, NULL));
    assert_has(s, "$t3");
    assert_hasnt(s, "$n1");
}

/* The tables may be ahead of replication: no answer before it has come, and nothing of it in the answer. */
static void test_state_after_ahead(void **state)
{
    struct world *w = *state;
    compute_how.use_state_after = true;
    world_room(w, "!r:x", 10, "shared", "@a:x", NULL);
    struct stream_token next;
    enum run_result res;
    struct t_event late = {.id = "$late", .room = "!r:x", .type = "m.room.topic", .key = "", .stream = 110};
    late = *world_event(w, late);
    struct user *u = model_user(w->m, S("@a:x"));
    assert_true(compute_waits(w, u->user_id.p, NULL));
    world_send_event(w, &late);
    world_send_state(w, &late, true);
    world_burst_end(w);
    world_settle(w);
    const char *s = after(w, compute(w, "@a:x", "D", "{}", NULL, &res, &next));
    assert_has(s, "$late");
}

/* Of a room one has left: as it was then. */
static void test_state_after_left(void **state)
{
    struct world *w = *state;
    compute_how.use_state_after = true;
    world_room(w, "!r:x", 10, "shared", "@a:x", "@b:x", NULL);
    (void)model_user(w->m, S("@a:x"));
    struct stream_token since = *model_now(w->m);
    say(w, "$t1", "m.room.topic", "", 110);
    world_say(w, (struct t_event){.id = "$left",
                                  .room = "!r:x",
                                  .type = "m.room.member",
                                  .key = "@a:x",
                                  .stream = 111,
                                  .content = "{\"membership\":\"leave\"}"});
    say(w, "$t2", "m.room.topic", "", 112);
    world_burst_end(w);
    world_settle(w);
    const char *s = after(w, compute(w, "@a:x", "D", "{}", &since, NULL, NULL));
    assert_has(s, "$t1");
    assert_has(s, "$left");
    assert_hasnt(s, "$t2");
    s = after(w, compute(w, "@a:x", "E", "{\"room\":{\"include_leave\":true}}", NULL, NULL, NULL));
    assert_has(s, "$t1");
    assert_has(s, "$create!r:x");
    assert_hasnt(s, "$t2");
}

/* All senders' memberships, even those that the timeline shows; once. */
static void test_state_after_lazy(void **state)
{
    struct world *w = *state;
    static const char lazy[] =
        "{\"room\":{\"state\":{\"lazy_load_members\":true},\"timeline\":{\"limit\":2}}}";
    compute_how.use_state_after = true;
    world_room(w, "!r:x", 10, "shared", "@a:x", "@b:x", "@c:x", NULL);
    world_event(w, (struct t_event){.id = "$name", /* else the members are heroes */
                                    .room = "!r:x",
                                    .type = "m.room.name",
                                    .key = "",
                                    .stream = 20,
                                    .content = "{\"name\":\"R\"}"});
    struct stream_token since;
    const char *s = after(w, compute(w, "@a:x", "D", lazy, NULL, NULL, &since));
    assert_has(s, "$join@a:x!r:x");
    assert_hasnt(s, "$join@b:x!r:x");
    for (int i = 0; i < 2; i++) {
        world_say(w,
                  (struct t_event){
                      .id = world_text(w, "$m%d", i), .room = "!r:x", .sender = "@b:x", .stream = 110 + i});
        world_burst_end(w);
        world_settle(w);
        s = after(w, compute(w, "@a:x", "D", lazy, &since, NULL, &since));
        assert_has(s, i ? "[]" : "$join@b:x!r:x");
    }
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
int run_feature_tests(void)
{
    const struct CMUnitTest tests[] = {T(test_state_after), T(test_state_after_ahead),
                                       T(test_state_after_left), T(test_state_after_lazy)};
    return cmocka_run_group_tests_name("features", tests, NULL, NULL);
}
