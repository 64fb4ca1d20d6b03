/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Members in the state of a room: one event for each, none that nobody asked
 * for, what a lazily loading device is remembered to have, and who has left by
 * an event in the state. */
#include "chappe/release.h"
#include "front.h"

static const char LAZY[] = "{\"room\":{\"state\":{\"lazy_load_members\":true}}}";

static int setup(void **state)
{
    /* Two members are remembered for each device; newer releases have a fixed
     * number. */
    release_set((struct release){1, 157, 1});
    world_config("presence: {enabled: false}\ncaches: {global_factor: 0.02}\n");
    struct world *w = world_new();
    model_adopt(w->m, (struct feed *)(void *)w);
    world_settle(w);
    world_room(w, "!r:x", 10, "shared", "@me:x", "@b:x", "@c:x", "@d:x", NULL);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    world_free((struct world **)state);
    release_set(release_newest());
    return 0;
}

struct said {
    const char *id, *sender, *member, *membership, *topic, *replaces;
};

/* Events one after the other, each following on the one before. */
static void say(struct world *w, const struct said *v, size_t n)
{
    int64_t stream = 100;
    const char *prev = "$hv!r:x";
    for (size_t i = 0; i < w->events.n; i++) {
        if (w->events.v[i].stream > stream) {
            stream = w->events.v[i].stream;
            prev = w->events.v[i].id;
        }
    }
    for (size_t i = 0; i < n; i++) {
        struct t_event e = {.id = v[i].id,
                            .room = "!r:x",
                            .sender = v[i].sender,
                            .stream = ++stream,
                            .prev = prev,
                            .replaces = v[i].replaces};
        if (v[i].member) {
            e.type = "m.room.member";
            e.key = v[i].member;
            e.content = world_text(w, "{\"membership\":\"%s\"}", v[i].membership);
        } else if (v[i].topic) {
            e.type = "m.room.topic";
            e.key = "";
            e.content = world_text(w, "{\"topic\":\"%s\"}", v[i].topic);
        }
        world_say(w, e);
        prev = v[i].id;
    }
    world_burst_end(w);
    world_settle(w);
}

#define SAY(w, ...)                                    \
    do {                                               \
        const struct said said_[] = {__VA_ARGS__};     \
        say(w, said_, sizeof said_ / sizeof said_[0]); \
    } while (0)

static size_t times(const char *body, const char *part)
{
    size_t n = 0;
    for (const char *p = body; (p = strstr(p, part)); p++)
        n++;
    return n;
}

/* Both ends of a timeline know a topic, and it is filtered out between them:
 * what counts at the end is sent. */
static void test_one_event_for_a_key(void **state)
{
    struct world *w = *state;
    struct stream_token since = *model_now(w->m);
    SAY(w, {.id = "$t1", .sender = "@b:x", .topic = "one"}, {.id = "$m1", .sender = "@b:x"},
        {.id = "$t2", .sender = "@b:x", .topic = "two"}, {.id = "$m2", .sender = "@b:x"});
    const char *body = compute(w, "@me:x", "D", "{\"room\":{\"timeline\":{\"types\":[\"m.room.message\"]}}}",
                               &since, NULL, NULL);
    assert_has(body, "\"$t2\"");
    assert_hasnt(body, "\"$t1\"");
}

/* A hero's newest member event is not repeated beside another of the same
 * member. */
static void test_hero_not_repeated(void **state)
{
    struct world *w = *state;
    struct stream_token since = *model_now(w->m);
    SAY(w, {.id = "$leave", .sender = "@c:x", .member = "@c:x", .membership = "leave"});
    SAY(w, {.id = "$leave2", .sender = "@d:x", .member = "@d:x", .membership = "leave"});
    since = *model_now(w->m);
    SAY(w, {.id = "$invite", .sender = "@me:x", .member = "@e:x", .membership = "invite"},
        {.id = "$enter", .sender = "@e:x", .member = "@e:x", .membership = "join", .replaces = "$invite"});
    const char *body = compute(w, "@me:x", "D",
                               "{\"room\":{\"state\":{\"lazy_load_members\":true},\"timeline\":{\"not_"
                               "senders\":[\"@e:x\"]}}}",
                               &since, NULL, NULL);
    assert_has(body, "\"m.heroes\":[");
    assert_has(body, "@e:x");
    assert_has(body, "\"event_id\":\"$invite\"");
    assert_hasnt(body, "\"event_id\":\"$enter\"");
}

/* A lazily loaded timeline begins with somebody's member event that a later one
 * replaces: state has neither. */
static void test_first_of_timeline(void **state)
{
    struct world *w = *state;
    SAY(w, {.id = "$ban", .sender = "@b:x", .member = "@c:x", .membership = "ban"},
        {.id = "$unban", .sender = "@b:x", .member = "@c:x", .membership = "leave", .replaces = "$ban"});
    const char *body = compute(w, "@me:x", "D",
                               "{\"room\":{\"state\":{\"lazy_load_members\":true}"
                               ",\"timeline\":{\"limit\":2}}}",
                               NULL, NULL, NULL);
    assert_int_equal(times(body, "\"event_id\":\"$ban\""), 1);
    assert_int_equal(times(body, "\"event_id\":\"$unban\""), 1);
    assert_has(body, "$join@b:x!r:x");
}

/* Looking a member up counts as a use: who writes all the time is not forgotten
 * for others. */
static void test_least_recently_used(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *sender;
        bool sent;
    } steps[] = {{"@b:x", true},  {"@c:x", true}, {"@b:x", false}, {"@d:x", true},
                 {"@b:x", false}, {"@c:x", true}, {"@d:x", true}};
    struct stream_token since = *model_now(w->m);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        SAY(w, {.id = world_text(w, "$m%zu", i), .sender = steps[i].sender});
        const char *body = compute(w, "@me:x", "D", LAZY, &since, NULL, &since);
        bool sent = strstr(body, world_text(w, "\"event_id\":\"$join%s!r:x\"", steps[i].sender)) != NULL;
        if (sent != steps[i].sent)
            fail_msg("step %zu, %s: %s", i, steps[i].sender, sent ? "sent again" : "not sent");
    }
}

/* Who comes with a token that is beyond every one of ours was at another server meanwhile, where an answer
 * may have been lost: it is told everybody again. */
static void test_was_elsewhere(void **state)
{
    struct world *w = *state;
    struct stream_token since = *model_now(w->m), next;
    SAY(w, {.id = "$m1", .sender = "@b:x"});
    assert_has(compute(w, "@me:x", "D", LAZY, &since, NULL, &next), "$join@b:x!r:x");
    SAY(w, {.id = "$m2", .sender = "@b:x"});
    assert_hasnt(compute(w, "@me:x", "D", LAZY, &next, NULL, NULL), "$join@b:x!r:x");
    SAY(w, {.id = "$m3", .sender = "@c:x"});
    since = *model_now(w->m); /* as another server gave it */
    SAY(w, {.id = "$m4", .sender = "@b:x"});
    assert_has(compute(w, "@me:x", "D", LAZY, &since, NULL, &next), "$join@b:x!r:x");
    SAY(w, {.id = "$m5", .sender = "@b:x"});
    assert_hasnt(compute(w, "@me:x", "D", LAZY, &next, NULL, NULL), "$join@b:x!r:x");
}

/* A user without a device may be several clients: none is taken to have what another was told. */
static void test_without_device(void **state)
{
    struct world *w = *state;
    struct stream_token next = *model_now(w->m);
    for (int i = 0; i < 3; i++) {
        SAY(w, {.id = world_text(w, "$m%d", i), .sender = "@b:x"});
        assert_has(compute(w, "@me:x", NULL, LAZY, &next, NULL, &next), "$join@b:x!r:x");
    }
}

/* Who has left by an event that stands in the state has left too, which Synapse
 * knows by chance only. */
static void test_left_by_state(void **state)
{
    struct world *w = *state;
    struct stream_token since = *model_now(w->m);
    SAY(w,
        {.id = "$gone",
         .sender = "@c:x",
         .member = "@c:x",
         .membership = "leave",
         .replaces = "$join@c:x!r:x"},
        {.id = "$m1", .sender = "@b:x"}, {.id = "$m2", .sender = "@b:x"});
    const char *body =
        compute(w, "@me:x", "D", "{\"room\":{\"timeline\":{\"limit\":1}}}", &since, NULL, NULL);
    assert_has(body, "\"state\":{\"events\":[{");
    assert_has(body, "\"left\":[\"@c:x\"]");
}

/* Who came to one room and left another in one answer has come, whichever room stands last in it. */
static void test_came_and_went(void **state)
{
    struct world *w = *state;
    world_room(w, "!a:x", 20, "shared", "@me:x", "@b:x", "@e:x", NULL);
    world_room(w, "!z:x", 30, "shared", "@me:x", "@b:x", "@e:x", NULL);
    static const struct {
        const char *comes, *goes, *user;
    } ways[] = {{"!a:x", "!r:x", "@c:x"}, {"!r:x", "!a:x", "@e:x"}, {"!z:x", "!r:x", "@d:x"}};
    int64_t stream = 200;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct stream_token since = *model_now(w->m);
        for (int leaves = 0; leaves < 2; leaves++) {
            const char *room = leaves ? ways[i].goes : ways[i].comes, *user = ways[i].user;
            stream++;
            world_say(w, (struct t_event){.id = world_text(w, "$e%d", (int)stream),
                                          .room = room,
                                          .type = "m.room.member",
                                          .key = user,
                                          .sender = user,
                                          .stream = stream,
                                          .replaces = leaves ? world_text(w, "$join%s%s", user, room) : NULL,
                                          .content = leaves ? "{\"membership\":\"leave\"}"
                                                            : "{\"membership\":\"join\"}"});
        }
        world_burst_end(w);
        world_settle(w);
        const char *body = compute(w, "@me:x", "D", "{}", &since, NULL, NULL);
        assert_has(body, world_text(w, "\"device_lists\":{\"changed\":[\"%s\"]}", ways[i].user));
    }
}

static int setup_settings(void **state)
{
    world_config("presence: {enabled: true}\nexclude_rooms_from_sync: ['!r:x']\n"
                 "experimental_features: {msc2654_enabled: true}\n");
    struct world *w = world_new();
    model_adopt(w->m, (struct feed *)(void *)w);
    world_settle(w);
    *state = w;
    return 0;
}

/* Excluded rooms are in no section, whatever happens in them, and bring nobody's presence when one joins, as
 * others do; others have the unread count of MSC2654. */
static void test_excluded_rooms(void **state)
{
    struct world *w = *state;
    enum run_result res;
    static const char leave[] = "{\"room\":{\"include_leave\":true}}";
    world_room(w, "!r:x", 10, "shared", "@me:x", "@b:x", NULL);
    world_room(w, "!s:x", 20, "shared", "@me:x", "@b:x", NULL);
    const char *body = compute(w, "@me:x", "D", leave, NULL, &res, NULL);
    assert_hasnt(body, "!r:x");
    assert_has(body, "\"!s:x\":{\"timeline\"");
    assert_has(body, "\"org.matrix.msc2654.unread_count\":0");
    static const char *const steps[] = {"leave", "invite", "join", "ban"};
    for (int i = 0; i < 4; i++) {
        struct stream_token since = *model_now(w->m);
        SAY(w,
            {.id = world_text(w, "$own%d", i), .sender = "@b:x", .member = "@me:x", .membership = steps[i]});
        body = compute(w, "@me:x", "D", leave, &since, &res, NULL);
        assert_hasnt(body, "!r:x");
        assert_hasnt(body, "\"sender\":\"@b:x\",\"content\":{\"presence\"");
        body = compute(w, "@me:x", "D", leave, NULL, &res, NULL);
        assert_hasnt(body, "!r:x");
    }
    struct stream_token since = *model_now(w->m);
    world_say(w, (struct t_event){.id = "$other",
                                  .room = "!s:x",
                                  .type = "m.room.member",
                                  .key = "@e:x",
                                  .sender = "@e:x",
                                  .stream = 150,
                                  .content = "{\"membership\":\"join\"}"});
    world_burst_end(w);
    world_settle(w);
    body = compute(w, "@me:x", "D", leave, &since, &res, NULL);
    assert_has(body, "\"sender\":\"@e:x\",\"content\":{\"presence\"");
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
int run_member_tests(void)
{
    const struct CMUnitTest tests[] = {
        T(test_one_event_for_a_key),
        T(test_hero_not_repeated),
        T(test_first_of_timeline),
        T(test_least_recently_used),
        T(test_was_elsewhere),
        T(test_without_device),
        T(test_left_by_state),
        T(test_came_and_went),
        cmocka_unit_test_setup_teardown(test_excluded_rooms, setup_settings, teardown),
    };
    return cmocka_run_group_tests_name("members", tests, NULL, NULL);
}
