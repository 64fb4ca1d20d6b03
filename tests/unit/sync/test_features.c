/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* What homeserver settings and opt-ins change in an answer. */
#include "chappe/release.h"
#include "front.h"

static int setup_with(void **state, const char *yaml)
{
    clock_fake_set(1000000);
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

/* ---- retention ---- */

static int setup_retention(void **state)
{
    return setup_with(state, "presence: {enabled: false}\n"
                             "retention: {enabled: true, default_policy: {max_lifetime: 20m}}\n");
}

static void policy(struct world *w, const char *id, const char *content, int64_t stream)
{
    world_say(w, (struct t_event){.id = id,
                                  .room = "!r:x",
                                  .type = "m.room.retention",
                                  .key = "",
                                  .stream = stream,
                                  .content = content});
    world_burst_end(w);
    world_settle(w);
}

/* Events of this world are 999 s old. Each policy replaces the one before. */
static void test_retention(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *content;
        bool shown;
    } cases[] = {
        {"{\"max_lifetime\":999000}", true},
        {"{\"max_lifetime\":998999}", false},
        {"{\"max_lifetime\":998999,\"min_lifetime\":1}", false},
        {"{\"max_lifetime\":998999,\"min_lifetime\":\"1\"}", true}, /* no policy: 20 minutes */
        {"{\"max_lifetime\":5.0}", true},
        {"{\"max_lifetime\":null}", true},
        {"{\"min_lifetime\":5}", true},
        {"{\"max_lifetime\":0}", false},
        {"{\"max_lifetime\":-9223372036854775808}", false},
        {"{\"max_lifetime\":9223372036854775807}", true},
        {"{}", true},
    };
    world_room(w, "!r:x", 10, "shared", "@a:x", NULL);
    world_event(w, (struct t_event){.id = "$old", .room = "!r:x", .stream = 20});
    assert_has(compute(w, "@a:x", "D", "{}", NULL, NULL, NULL), "$old");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        policy(w, world_text(w, "$p%zu", i), cases[i].content, 110 + (int64_t)i);
        const char *body =
            compute(w, "@a:x", "D", "{\"room\":{\"timeline\":{\"limit\":50}}}", NULL, NULL, NULL);
        assert_has(body, world_text(w, "$p%zu", i)); /* state is not concerned */
        assert_has(body, "$create!r:x");
        if ((strstr(body, "$old") != NULL) != cases[i].shown)
            fail_msg("%s: %s", cases[i].content, body);
    }
}

/* The default policy counts where the room has none, as soon as a message is too old for it. */
static void test_retention_default(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@a:x", NULL);
    world_event(w, (struct t_event){.id = "$old", .room = "!r:x", .stream = 20});
    clock_fake_set(1000 + 20 * 60000);
    assert_has(compute(w, "@a:x", "D", "{}", NULL, NULL, NULL), "$old");
    clock_fake_set(1000 + 20 * 60000 + 1);
    assert_hasnt(compute(w, "@a:x", "D", "{}", NULL, NULL, NULL), "$old");
    clock_fake_set(1000000);
}

/* ---- soft-failed events ---- */

static void test_soft_failed(void **state)
{
    struct world *w = *state;
    static const struct {
        bool admin, all, spammy;
        const char *wish;
    } cases[] = {
        {true, false, false, "{}"},
        {true, true, true, "{\"return_soft_failed_events\":true}"},
        {true, true, true, "{\"return_soft_failed_events\":1.5}"},
        {true, false, true, "{\"return_policy_server_spammy_events\":\"x\"}"},
        {true, false, true, "{\"return_soft_failed_events\":0,\"return_policy_server_spammy_events\":[0]}"},
        {true, false, false, "{\"return_soft_failed_events\":null}"},
        {true, false, false, "[]"},
        {false, false, false, "{\"return_soft_failed_events\":true}"},
    };
    world_room(w, "!r:x", 10, "shared", "@a:x", NULL);
    world_event(w, (struct t_event){
                       .id = "$failed", .room = "!r:x", .stream = 20, .metadata = "{\"soft_failed\":true}"});
    world_event(w, (struct t_event){.id = "$spammy",
                                    .room = "!r:x",
                                    .stream = 21,
                                    .metadata = "{\"soft_failed\":true,\"policy_server_spammy\":true}"});
    world_add(&w->data, "@a:x", NULL, "io.element.synapse.admin_client_config", "{}", 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        w->data.v[0].content = cases[i].wish;
        w->data.v[0].stream = 2 + (int64_t)i;
        struct feed_row row = {
            .account_data = {.user_id = STR("@a:x"), .type = STR("io.element.synapse.admin_client_config")}};
        world_send(w, STREAM_ACCOUNT_DATA, MASTER, 102 + (int64_t)i, &row);
        w->data.v[0].stream = 102 + (int64_t)i;
        compute_how.is_admin = cases[i].admin;
        const char *body = compute(w, "@a:x", "D", "{\"account_data\":{\"types\":[]}}", NULL, NULL, NULL);
        if ((strstr(body, "$failed") != NULL) != cases[i].all ||
            (strstr(body, "$spammy") != NULL) != cases[i].spammy)
            fail_msg("%s: %s", cases[i].wish, body);
        if (cases[i].all)
            assert_has(body, "\"io.element.synapse.soft_failed\":true");
        if (cases[i].spammy)
            assert_has(body, "\"io.element.synapse.policy_server_spammy\":true");
    }
}

/* ---- MSC4293 ---- */

static int setup_bans(void **state)
{
    return setup_with(state, "presence: {enabled: false}\nexperimental_features: {msc4293_enabled: true}\n");
}

static const char *wide = "{\"room\":{\"timeline\":{\"limit\":50}}}";

/* A ban redacts what is in memory already; what its target says after an end of it is not concerned. */
static void test_ban_redacts(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@a:x", "@b:x", "@c:x", NULL);
    const char *content = "{\"body\":\"words\"}";
    for (int i = 0; i < 3; i++)
        world_event(w, (struct t_event){.id = world_text(w, "$m%d", i),
                                        .room = "!r:x",
                                        .sender = i == 1 ? "@c:x" : "@b:x",
                                        .stream = 20 + i,
                                        .content = content});
    assert_hasnt(compute(w, "@a:x", "D", wide, NULL, NULL, NULL), "redacted_by");
    world_add(&w->bans, "!r:x @b:x", "$ban", 0);
    world_say(
        w, (struct t_event){.id = "$ban",
                            .room = "!r:x",
                            .type = "m.room.member",
                            .key = "@b:x",
                            .stream = 110,
                            .content = "{\"membership\":\"ban\",\"org.matrix.msc4293.redact_events\":true}"});
    world_burst_end(w);
    world_settle(w);
    const char *body = compute(w, "@a:x", "D", wide, NULL, NULL, NULL);
    const char *m0 = strstr(body, "\"event_id\":\"$m0\""), *m1 = strstr(body, "\"event_id\":\"$m1\"");
    assert_true(m0 && m1 && m0 < m1);
    assert_has(world_text(w, "%.*s", (int)(m1 - m0), m0), "\"redacted_by\":\"$ban\"");
    assert_has(world_text(w, "%.*s", (int)(m1 - m0), m0), "redacted_because");
    assert_has(body, "\"content\":{\"body\":\"words\"},\"event_id\":\"$m1\"");
    assert_hasnt(body, "\"content\":{\"body\":\"words\"},\"event_id\":\"$m2\"");
    w->bans.v[0].n = 120;
    world_say(w, (struct t_event){
                     .id = "$m3", .room = "!r:x", .sender = "@b:x", .stream = 121, .content = content});
    world_burst_end(w);
    world_settle(w);
    body = compute(w, "@a:x", "D", wide, NULL, NULL, NULL);
    assert_has(body, "\"content\":{\"body\":\"words\"},\"event_id\":\"$m3\"");
    assert_hasnt(body, "\"content\":{\"body\":\"words\"},\"event_id\":\"$m2\"");
}

/* ---- sticky events ---- */

static int setup_sticky(void **state)
{
    return setup_with(state, "presence: {enabled: false}\nexperimental_features: {msc4354_enabled: true}\n");
}

static void stick(struct world *w, int64_t at, const char *room, const char *sender, int64_t expires)
{
    const char *id = world_text(w, "$s%d", (int)at);
    world_say(w, (struct t_event){.id = id,
                                  .room = room,
                                  .sender = sender,
                                  .stream = at,
                                  .extra = "\"msc4354_sticky\":{\"duration_ms\":3600000},"});
    world_add(&w->sticky, at, room, id, expires);
    struct feed_row row = {.room = {.room_id = S(room), .event_id = S(id)}};
    world_send(w, STREAM_STICKY_EVENTS, MASTER, at, &row);
}

static void arrive(struct world *w)
{
    world_burst_end(w);
    world_settle(w);
}

static const char nothing_else[] = "{\"room\":{\"timeline\":{\"types\":[]}}}";

static void test_sticky(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@me:x", "@b:x", "@evil:x", NULL);
    world_room(w, "!q:x", 20, "shared", "@b:x", NULL);
    world_add(&w->ignored, "@me:x", "@evil:x", 0);
    (void)model_room(w->m, S("!r:x"));
    struct stream_token since = *model_now(w->m), next;
    int64_t later = clock_wall_ms() + 60000;
    stick(w, 110, "!r:x", "@b:x", later);
    stick(w, 111, "!q:x", "@b:x", later); /* not my room */
    stick(w, 112, "!r:x", "@evil:x", later);
    stick(w, 113, "!r:x", "@b:x", clock_wall_ms());
    arrive(w);
    const char *body = compute(w, "@me:x", "D", nothing_else, &since, NULL, &next);
    assert_has(body, "\"msc4354_sticky\":{\"events\":[{");
    assert_has(body, "$s110");
    assert_has(body, "\"membership\":\"join\",\"msc4354_sticky_duration_ttl_ms\":2601000}");
    assert_hasnt(body, "$s111");
    assert_hasnt(body, "$s112");
    assert_hasnt(body, "$s113");
    assert_int_equal(next.sticky_events.min, 113);
    release_set((struct release){1, 162, 0});
    (void)compute(w, "@me:x", "D", nothing_else, &since, NULL, &next);
    assert_int_equal(next.sticky_events.min, 112); /* the last that was looked at */
    release_set(release_newest());
    next.sticky_events = mpos_of(112);
    body = compute(w, "@me:x", "D", "{}", &since, NULL, &next);
    assert_has(body, "$s110"); /* in the timeline */
    assert_hasnt(body, "\"msc4354_sticky\":{\"events\"");
    enum run_result res;
    (void)compute(w, "@me:x", "D", nothing_else, &next, &res, &next);
    assert_int_equal(res, RUN_EMPTY);
    assert_int_equal(next.sticky_events.min, 113);
}

/* From 1.163 on a room that was joined since the token shows all it has, not only what came since. */
static void test_sticky_of_joined(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@b:x", NULL);
    (void)model_room(w->m, S("!r:x"));
    int64_t later = clock_wall_ms() + 60000;
    stick(w, 110, "!r:x", "@b:x", later);
    stick(w, 111, "!r:x", "@b:x", clock_wall_ms()); /* over */
    arrive(w);
    struct stream_token since = *model_now(w->m);
    world_say(w, (struct t_event){.id = "$join",
                                  .room = "!r:x",
                                  .type = "m.room.member",
                                  .key = "@me:x",
                                  .sender = "@me:x",
                                  .content = "{\"membership\":\"join\"}",
                                  .stream = 112});
    stick(w, 113, "!r:x", "@b:x", later);
    arrive(w);
    for (int minor = 162; minor <= 163; minor++) {
        release_set((struct release){1, minor, 0});
        const char *body = compute(w, "@me:x", "D", nothing_else, &since, NULL, NULL);
        if (minor < 163)
            assert_hasnt(body, "$s110");
        else
            assert_has(body, "$s110");
        assert_hasnt(body, "$s111");
        assert_has(body, "$s113");
    }
    release_set(release_newest());
}

/* A full page does not take back what another writer has shown already. */
static void test_sticky_page(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@me:x", "@b:x", NULL);
    struct stream_token since = *model_now(w->m);
    for (int i = 0; i < 130; i++)
        stick(w, 110 + i, "!r:x", "@b:x", clock_wall_ms() + 60000);
    world_forget_counts(w);
    arrive(w);
    assert_int_equal(w->issued[SQL_sticky_by_stream_id], 1);
    since.sticky_events.n = 1; /* as another server has it */
    since.sticky_events.w[0].writer = W2;
    since.sticky_events.w[0].pos = 300;
    const char *body = compute(w, "@me:x", "D", nothing_else, &since, NULL, &since);
    assert_has(body, "$s110");
    assert_has(body, "$s209");
    assert_hasnt(body, "$s210");
    assert_int_equal(since.sticky_events.min, 209);
    assert_int_equal(mpos_get(&since.sticky_events, W2), 300);
    body = compute(w, "@me:x", "D", nothing_else, &since, NULL, &since);
    assert_has(body, "$s210");
    assert_has(body, "$s239");
}

/* The position waits for the rows, also when they have to be asked for again; what was there at start counts.
 */
static void test_sticky_loads(void **state)
{
    struct world *w = *state;
    int64_t before = model_now(w->m)->sticky_events.min, end = clock_wall_ms() + 60000;
    world_room(w, "!r:x", 10, "shared", "@me:x", "@b:x", NULL);
    w->fail[SQL_sticky_by_stream_id] = 1;
    stick(w, 110, "!r:x", "@b:x", end);
    arrive(w);
    assert_int_equal(model_now(w->m)->sticky_events.min, before);
    stick(w, 111, "!r:x", "@b:x", end);
    arrive(w);
    assert_int_equal(model_now(w->m)->sticky_events.min, 111);
    assert_int_equal(w->m->sticky.n, 2);
    world_position(w, STREAM_STICKY_EVENTS, MASTER, 120);
    arrive(w);
    assert_int_equal(model_now(w->m)->sticky_events.min, 120);
    sticky_load(w->m); /* as at start */
    w->m->starting++;
    world_settle(w);
    assert_int_equal(w->m->sticky.n, 2);
    clock_fake_set(1000000 + 60000);
    sticky_expire(w->m);
    clock_fake_set(1000000);
    assert_int_equal(w->m->sticky.n, 0);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
int run_feature_tests(void)
{
    const struct CMUnitTest tests[] = {
        T(test_state_after),
        T(test_state_after_ahead),
        T(test_state_after_left),
        T(test_state_after_lazy),
        cmocka_unit_test_setup_teardown(test_retention, setup_retention, teardown),
        cmocka_unit_test_setup_teardown(test_retention_default, setup_retention, teardown),
        T(test_soft_failed),
        cmocka_unit_test_setup_teardown(test_ban_redacts, setup_bans, teardown),
        cmocka_unit_test_setup_teardown(test_sticky, setup_sticky, teardown),
        cmocka_unit_test_setup_teardown(test_sticky_of_joined, setup_sticky, teardown),
        cmocka_unit_test_setup_teardown(test_sticky_page, setup_sticky, teardown),
        cmocka_unit_test_setup_teardown(test_sticky_loads, setup_sticky, teardown),
    };
    return cmocka_run_group_tests_name("features", tests, NULL, NULL);
}
