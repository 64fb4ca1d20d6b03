/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Who may see what: history visibility against membership, and the rules around it (sync-v3 section 6). */
#include "front.h"

struct seen {
    bool shown, pruned;
    const char *membership;
};

static struct seen look(struct world *w, const char *room, const char *id)
{
    struct user *u = model_user(w->m, S("@me:x"));
    struct requester rq = {0};
    struct filter *f;
    struct err e;
    assert_int_equal(filter_parse(STR_ABSENT, &f, &e), 0);
    struct seen seen = {0};
    bool done = false;
    for (int i = 0; i < 30 && !done; i++) {
        struct arena *a = arena_new(1 << 26);
        struct sync_run run = {.m = w->m, .cfg = w->cfg, .u = u, .rq = &rq, .f = f, .a = a};
        struct event *ev;
        struct evrec *rec = model_rec(w->m, S(id));
        if (model_ignored(w->m, u) == HAVE && model_event(w->m, rec, &ev) == HAVE) {
            struct tl_ev t = {.e = {.rec = rec}, .ev = ev};
            size_t n = 1;
            done = visibility_filter(&run, model_room(w->m, S(room)), &t, &n);
            assert_int_equal(done, !run.lack);
            if (done && n)
                seen = (struct seen){true, t.pruned != NULL, arena_str(w->text, t.membership).p};
        }
        sync_run_fini(&run);
        arena_free(&a);
        world_settle(w);
    }
    assert_true(done);
    filter_unref(&f);
    return seen;
}

static int setup(void **state)
{
    struct world *w = world_new();
    world_add(&w->erased, "@gone:x", NULL, 0);
    world_add(&w->ignored, "@me:x", "@evil:x", 0);
    model_adopt(w->m, (struct feed *)(void *)w);
    world_settle(w);
    *state = w;
    return 0;
}
static int teardown(void **state)
{
    world_free((struct world **)state);
    return 0;
}

static void member(struct world *w, const char *room, const char *id, int64_t stream, const char *ms,
                   const char *replaces)
{
    world_event(w, (struct t_event){.id = id,
                                    .room = room,
                                    .type = "m.room.member",
                                    .key = "@me:x",
                                    .sender = "@me:x",
                                    .stream = stream,
                                    .replaces = replaces,
                                    .content = world_text(w, "{\"membership\":\"%s\"}", ms)});
}

static void test_history_by_membership(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *history, *seen_by;
    } rules[] = {
        {"world_readable", "join invite knock leave ban none"},
        {"shared", "join invite knock leave ban none"},
        {"nonsense", "join invite knock leave ban none"},
        {NULL, "join invite knock leave ban none"},
        {"invited", "join invite"},
        {"joined", "join"},
    };
    static const char *const memberships[] = {"join", "invite", "knock", "leave", "ban", "none"};
    int64_t stream = 1;
    for (size_t h = 0; h < sizeof rules / sizeof *rules; h++) {
        for (size_t k = 0; k < 6; k++) {
            for (int erased = 0; erased < 2; erased++) {
                const char *room = world_text(w, "!%zu%zu%d:x", h, k, erased),
                           *id = world_text(w, "$e%zu%zu%d", h, k, erased);
                stream = world_room(w, room, stream, rules[h].history, "@s:x", NULL) + 1;
                if (strcmp(memberships[k], "none"))
                    member(w, room, world_text(w, "$m%s", room), stream++, memberships[k], NULL);
                world_event(w, (struct t_event){.id = id,
                                                .room = room,
                                                .sender = erased ? "@gone:x" : "@s:x",
                                                .stream = stream++,
                                                .content = "{\"body\":\"x\"}"});
                struct seen s = look(w, room, id);
                bool expected = strstr(rules[h].seen_by, memberships[k]) != NULL;
                bool pruned = expected && erased && k != 0;
                if (s.shown != expected || s.pruned != pruned)
                    fail_msg("%s, %s, erased %d: shown %d pruned %d",
                             rules[h].history ? rules[h].history : "unset", memberships[k], erased, s.shown,
                             s.pruned);
                if (s.shown && strcmp(s.membership, k == 5 ? "leave" : memberships[k]))
                    fail_msg("membership %s for %s", s.membership, memberships[k]);
            }
        }
    }
}

static void test_always_hidden(void **state)
{
    struct world *w = *state;
    int64_t s = world_room(w, "!r:x", 1, "world_readable", "@s:x", "@evil:x", "@me:x", NULL);
    const struct {
        struct t_event e;
        bool shown;
    } cases[] = {
        {{.id = "$plain"}, true},
        {{.id = "$soft", .metadata = "{\"soft_failed\":true}"}, false},
        {{.id = "$softstate", .metadata = "{\"soft_failed\":true}", .type = "m.room.topic", .key = ""},
         false},
        {{.id = "$dummy", .type = "org.matrix.dummy_event"}, false},
        {{.id = "$aliases", .type = "m.room.aliases", .key = "x"}, false},
        {{.id = "$evil", .sender = "@evil:x"}, false},
        {{.id = "$evilstate", .sender = "@evil:x", .type = "m.room.name", .key = ""}, true},
        {{.id = "$outlier",
          .outlier = true,
          .type = "m.room.member",
          .key = "@z:x",
          .content = "{\"membership\":\"leave\"}"},
         false},
        {{.id = "$ownoutlier",
          .outlier = true,
          .type = "m.room.member",
          .key = "@me:x",
          .content = "{\"membership\":\"leave\"}"},
         true},
        {{.id = "$call", .type = "m.call.invite"}, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct t_event e = cases[i].e;
        e.room = "!r:x";
        e.stream = ++s;
        world_event(w, e);
        if (look(w, "!r:x", e.id).shown != cases[i].shown)
            fail_msg("%s", e.id);
    }
    world_event(w, (struct t_event){.id = "$public",
                                    .room = "!r:x",
                                    .type = "m.room.join_rules",
                                    .key = "",
                                    .stream = ++s,
                                    .content = "{\"join_rule\":\"public\"}"});
    world_event(w, (struct t_event){.id = "$call2", .room = "!r:x", .type = "m.call.invite", .stream = ++s});
    assert_false(look(w, "!r:x", "$call2").shown); /* rings the whole town otherwise */
}

static void test_own_membership(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *before, *after;
        bool shown;
    } cases[] = {
        {"join", "leave", true}, {"invite", "leave", true}, {"knock", "leave", false},
        {"join", "ban", true},   {"invite", "ban", false},  {NULL, "invite", false},
        {NULL, "join", true},    {"leave", "ban", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *room = world_text(w, "!o%zu:x", i), *id = world_text(w, "$o%zu", i), *prev = NULL;
        int64_t s = world_room(w, room, 1 + 10 * (int64_t)i, "joined", "@s:x", NULL) + 1;
        if (cases[i].before)
            member(w, room, prev = world_text(w, "$p%zu", i), s++, cases[i].before, NULL);
        member(w, room, id, s++, cases[i].after, prev);
        w->state.n--; /* and it is not current state any more */
        struct seen seen = look(w, room, id);
        if (seen.shown != cases[i].shown)
            fail_msg("%s after %s: %d", cases[i].after, cases[i].before ? cases[i].before : "nothing",
                     seen.shown);
        if (seen.shown)
            assert_string_equal(seen.membership, cases[i].after);
    }
}

static void test_changes_of_visibility_and_current_state(void **state)
{
    struct world *w = *state;
    int64_t s = world_room(w, "!r:x", 1, "joined", "@s:x", NULL);
    /* not a member, history for members: only what is current state */
    world_event(w, (struct t_event){
                       .id = "$topic", .room = "!r:x", .type = "m.room.topic", .key = "", .stream = ++s});
    assert_true(look(w, "!r:x", "$topic").shown);
    world_event(w, (struct t_event){
                       .id = "$topic2", .room = "!r:x", .type = "m.room.topic", .key = "", .stream = 101});
    world_send_event(w, &w->events.v[w->events.n - 1]);
    world_send_state(w, &w->events.v[w->events.n - 1], true);
    world_burst_end(w);
    world_settle(w);
    assert_false(look(w, "!r:x", "$topic").shown);
    assert_true(look(w, "!r:x", "$topic2").shown);
    /* a change is seen under the more open of the two rules */
    world_event(w, (struct t_event){.id = "$open",
                                    .room = "!r:x",
                                    .type = "m.room.history_visibility",
                                    .key = "",
                                    .stream = 102,
                                    .replaces = "$hv!r:x",
                                    .content = "{\"history_visibility\":\"shared\"}"});
    world_event(w, (struct t_event){.id = "$close",
                                    .room = "!r:x",
                                    .type = "m.room.history_visibility",
                                    .key = "",
                                    .stream = 103,
                                    .replaces = "$open",
                                    .content = "{\"history_visibility\":\"joined\"}"});
    w->state.n = 0;
    room_state_drop(w->m, model_room(w->m, S("!r:x")));
    assert_true(look(w, "!r:x", "$open").shown);
    assert_true(look(w, "!r:x", "$close").shown);
    assert_true(look(w, "!r:x", "$hv!r:x").shown); /* the first one: before it was shared */
    world_event(w, (struct t_event){.id = "$still",
                                    .room = "!r:x",
                                    .type = "m.room.history_visibility",
                                    .key = "",
                                    .stream = 104,
                                    .replaces = "$close",
                                    .content = "{\"history_visibility\":\"invited\"}"});
    w->state.n = 0;
    room_state_drop(w->m, model_room(w->m, S("!r:x")));
    assert_false(look(w, "!r:x", "$still").shown);
}

/* From "invited" to "joined": who is invited cannot see it; the laxer rule counts only when it is for
 * everybody. */
static void test_tightened_while_invited(void **state)
{
    struct world *w = *state;
    int64_t s = world_room(w, "!i:x", 1, "invited", "@s:x", NULL) + 1;
    member(w, "!i:x", "$invite", s++, "invite", NULL);
    world_event(w, (struct t_event){.id = "$tight",
                                    .room = "!i:x",
                                    .type = "m.room.history_visibility",
                                    .key = "",
                                    .stream = s++,
                                    .replaces = "$hv!i:x",
                                    .content = "{\"history_visibility\":\"joined\"}"});
    w->state.n = 0;
    room_state_drop(w->m, model_room(w->m, S("!i:x")));
    assert_false(look(w, "!i:x", "$tight").shown);
    world_event(w, (struct t_event){.id = "$looser",
                                    .room = "!i:x",
                                    .type = "m.room.history_visibility",
                                    .key = "",
                                    .stream = s++,
                                    .replaces = "$tight",
                                    .content = "{\"history_visibility\":\"invited\"}"});
    w->state.n = 0;
    room_state_drop(w->m, model_room(w->m, S("!i:x")));
    assert_true(look(w, "!i:x", "$looser").shown);
}

/* Nothing says who might see an event whose state is lost: nobody. */
static void test_lost_state(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@a:x", "@me:x", NULL);
    world_event(w, (struct t_event){.id = "$good", .room = "!r:x", .stream = 30, .sender = "@a:x"});
    struct t_event *lost =
        world_event(w, (struct t_event){.id = "$lost", .room = "!r:x", .stream = 31, .sender = "@a:x"});
    lost->sg = 4711;
    struct t_event *none =
        world_event(w, (struct t_event){.id = "$none", .room = "!r:x", .stream = 32, .sender = "@a:x"});
    none->sg = 0;
    int64_t before = metric_get_l(M_model_poisoned, "no_state");
    assert_true(look(w, "!r:x", "$good").shown);
    assert_false(look(w, "!r:x", "$lost").shown);
    assert_false(look(w, "!r:x", "$none").shown);
    assert_int_equal(metric_get_l(M_model_poisoned, "no_state"), before + 2);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
int run_visibility_tests(void)
{
    const struct CMUnitTest tests[] = {
        T(test_lost_state),
        T(test_history_by_membership),
        T(test_always_hidden),
        T(test_own_membership),
        T(test_changes_of_visibility_and_current_state),
        T(test_tightened_while_invited),
    };
    return cmocka_run_group_tests_name("visibility", tests, NULL, NULL);
}
