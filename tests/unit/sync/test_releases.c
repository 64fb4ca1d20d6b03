/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* What is answered in another way by another Synapse (tbl/releases.def). */
#include "front.h"

#include "chappe/release.h"

static int setup(void **state)
{
    world_config("presence: {enabled: false}\n");
    struct world *w = world_new();
    model_adopt(w->m, (struct feed *)(void *)w);
    world_settle(w);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    world_free((struct world **)state);
    release_set(release_newest());
    compute_how.use_state_after = false;
    return 0;
}

static void synapse(int minor)
{
    release_set((struct release){1, minor, 0});
}

static void test_invitation(void **state)
{
    struct world *w = *state;
    static const char bare[] =
        "{\"type\":\"m.room.member\",\"state_key\":\"@me:x\",\"content\":{\"membership\":"
        "\"invite\"},\"sender\":\"@b:x\"}]}}";

    world_room(w, "!r:x", 10, "shared", "@b:x", NULL);
    world_event(w, (struct t_event){.id = "$invite",
                                    .room = "!r:x",
                                    .type = "m.room.member",
                                    .key = "@me:x",
                                    .sender = "@b:x",
                                    .stream = 50,
                                    .content = "{\"membership\":\"invite\"}"});
    synapse(161);
    const char *body = compute(w, "@me:x", NULL, "{}", NULL, NULL, NULL);
    assert_has(body, "\"event_id\":\"$invite\"");
    assert_hasnt(body, bare);
    synapse(162);
    body = compute(w, "@me:x", NULL, "{}", NULL, NULL, NULL);
    assert_has(body, bare);
    assert_hasnt(body, "\"event_id\":\"$invite\"");
}

static void say(struct world *w, int64_t stream)
{
    world_say(w, (struct t_event){.id = world_text(w, "$say%d", (int)stream),
                                  .room = "!r:x",
                                  .type = "m.room.message",
                                  .sender = "@b:x",
                                  .stream = stream,
                                  .content = "{\"body\":\"x\"}"});
    world_burst_end(w);
    world_settle(w);
}

static const char lazy[] = "{\"room\":{\"state\":{\"lazy_load_members\":true},\"timeline\":{\"limit\":1}}}";

/* The answer with @b's membership was lost: its reader asks from before it once more. */
static void test_lost_answer(void **state)
{
    struct world *w = *state;

    for (int minor = 162; minor <= 163; minor++) {
        const char *device = minor == 162 ? "OLD" : "NEW";
        struct stream_token since, next;
        synapse(minor);
        if (minor == 162)
            world_room(w, "!r:x", 10, "shared", "@b:x", "@me:x", NULL);
        (void)model_user(w->m, STR("@me:x"));
        since = *model_now(w->m);
        say(w, 100 + 10 * (minor - 161));
        assert_has(compute(w, "@me:x", device, lazy, &since, NULL, &next), "$join@b:x!r:x");
        const char *again = compute(w, "@me:x", device, lazy, &since, NULL, &next);
        if (minor == 162)
            assert_hasnt(again, "$join@b:x!r:x");
        else
            assert_has(again, "$join@b:x!r:x");
        /* Who went on from it has it. */
        say(w, 105 + 10 * (minor - 161));
        assert_hasnt(compute(w, "@me:x", device, lazy, &next, NULL, NULL), "$join@b:x!r:x");
    }
}

/* An initial request begins anew, and what it is sent for one room is not forgotten by the next room. */
static void test_initial_begins_anew(void **state)
{
    struct world *w = *state;
    struct stream_token next;

    synapse(163);
    world_room(w, "!r:x", 10, "shared", "@b:x", "@me:x", NULL);
    world_room(w, "!s:x", 40, "shared", "@c:x", "@me:x", NULL);
    assert_has(compute(w, "@me:x", "D", lazy, NULL, NULL, NULL), "$join@b:x!r:x");
    const char *body = compute(w, "@me:x", "D", lazy, NULL, NULL, &next);
    assert_has(body, "$join@b:x!r:x");
    assert_has(body, "$join@c:x!s:x");
    say(w, 101);
    assert_hasnt(compute(w, "@me:x", "D", lazy, &next, NULL, NULL), "$join@b:x!r:x");
}

/* A membership that changed is sent to whoever asks from before the change, sent already or not. */
static void test_changed_members_are_sent(void **state)
{
    struct world *w = *state;
    struct stream_token since, next;

    compute_how.use_state_after = true;
    world_room(w, "!r:x", 10, "shared", "@b:x", "@me:x", NULL);
    (void)model_user(w->m, STR("@me:x"));
    since = *model_now(w->m);
    world_say(w, (struct t_event){.id = "$renamed",
                                  .room = "!r:x",
                                  .type = "m.room.member",
                                  .key = "@b:x",
                                  .sender = "@b:x",
                                  .stream = 101,
                                  .content = "{\"membership\":\"join\",\"displayname\":\"B\"}"});
    say(w, 102);
    for (int minor = 162; minor <= 163; minor++) {
        const char *device = minor == 162 ? "OLD" : "NEW";
        synapse(minor);
        assert_has(compute(w, "@me:x", device, lazy, &since, NULL, &next), "$renamed");
        assert_has(compute(w, "@me:x", device, lazy, &since, NULL, &next), "$renamed");
        say(w, minor);
        assert_hasnt(compute(w, "@me:x", device, lazy, &next, NULL, NULL), "$renamed");
    }
}

static void membership(struct world *w, const char *id, const char *sender, int64_t stream,
                       const char *content)
{
    world_say(w, (struct t_event){.id = id,
                                  .room = "!r:x",
                                  .type = "m.room.member",
                                  .key = "@z:x",
                                  .sender = sender,
                                  .stream = stream,
                                  .content = content});
    world_burst_end(w);
    world_settle(w);
}

/* A sender whose membership stands in the timeline before: in a lazily loading client's state_after
 * from 1.149 on. */
static void test_senders_in_state_after(void **state)
{
    struct world *w = *state;

    compute_how.use_state_after = true;
    world_room(w, "!r:x", 10, "shared", "@c:x", "@d:x", "@e:x", "@f:x", "@g:x", "@b:x", "@me:x", NULL);
    (void)model_user(w->m, STR("@me:x"));
    membership(w, "$invited", "@me:x", 101, "{\"membership\":\"invite\"}");
    membership(w, "$came", "@z:x", 102, "{\"membership\":\"join\"}");
    for (int minor = 148; minor <= 149; minor++) {
        synapse(minor);
        const char *body =
            compute(w, "@me:x", NULL,
                    "{\"room\":{\"state\":{\"lazy_load_members\":true},\"timeline\":{\"limit\":2}}}", NULL,
                    NULL, NULL);
        const char *after = strstr(body, "state_after\"");
        assert_non_null(after);
        if (minor == 148)
            assert_hasnt(after, "$came");
        else
            assert_has(after, "$came");
    }
}

int run_release_tests(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_invitation), T(test_lost_answer), T(test_initial_begins_anew),
                                       T(test_changed_members_are_sent), T(test_senders_in_state_after)};
    return cmocka_run_group_tests_name("sync/releases", tests, NULL, NULL);
}
