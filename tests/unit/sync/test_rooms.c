/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Which rooms appear and what is sent for them: classification, timelines,
 * state, what is left out, the empty answer. */
#include "front.h"

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
    return 0;
}

static const char *newest(struct world *w, const char *room)
{
    for (size_t i = w->events.n; i-- > 0;) {
        if (!strcmp(w->events.v[i].room, room))
            return w->events.v[i].id;
    }
    return NULL;
}

static void member(struct world *w, const char *room, const char *user, int64_t stream, const char *ms,
                   const char *sender)
{
    struct t_event e = {.id = world_text(w, "$%s%d", ms, (int)stream),
                        .room = room,
                        .type = "m.room.member",
                        .key = user,
                        .sender = sender,
                        .stream = stream,
                        .prev = newest(w, room),
                        .content = world_text(w, "{\"membership\":\"%s\"}", ms)};
    if (stream <= 100)
        world_event(w, e);
    else
        world_say(w, e);
}

static void test_empty_answer(void **state)
{
    struct world *w = *state;
    enum run_result res;
    struct stream_token now = *model_now(w->m);
    const char *body = compute(w, "@a:x", NULL, "{}", &now, &res, NULL);
    assert_int_equal(res, RUN_EMPTY);
    assert_string_equal(body, world_text(w,
                                         "{\"next_batch\":\"%s\",\"device_one_time_keys_count\":{},\"device_"
                                         "unused_fallback_key_types\":[]}",
                                         next_batch(w)));
    body = compute(w, "@a:x", "D", "{}", &now, &res, NULL);
    assert_int_equal(res, RUN_EMPTY);
    assert_string_equal(body, world_text(w,
                                         "{\"next_batch\":\"%s\",\"device_one_time_keys_count\":{\"signed_"
                                         "curve25519\":0},\"device_unused_fallback_key_types\":[]}",
                                         next_batch(w)));
}

/* The table of sync-v3 5.2. before: membership at the token; then what happened
 * to @me:x, "/who" when somebody else did it. */
static void test_classification(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *row, *before, *after[3], *sections;
        bool newly;
    } cases[] = {
        {"A", "join", {"leave", "join"}, "join", true},
        {"B new", NULL, {"join"}, "join", true},
        {"B after leave", "leave", {"join"}, "join", true},
        {"C", "join", {"join"}, "join", false},
        {"E joined and left", NULL, {"join", "leave"}, "leave", true},
        {"E left", "join", {"leave"}, "leave", false},
        {"E kicked", "join", {"leave/"}, "leave", false},
        {"E banned", "join", {"ban/"}, "leave", false},
        {"F", NULL, {"invite/"}, "invite", false},
        {"F by somebody ignored", NULL, {"invite/@evil:x"}, "", false},
        {"F and H", "join", {"leave", "invite/"}, "invite leave", false},
        {"G", NULL, {"knock"}, "knock", false},
        {"H rejected invite", "invite", {"leave"}, "leave", false},
        {"H denied knock", "knock", {"leave/"}, "leave", false},
    };
    world_add(&w->ignored, "@me:x", "@evil:x", 0);
    int64_t old = 1, live = 100;
    const size_t count = sizeof cases / sizeof *cases;
    for (size_t i = 0; i < count; i++) {
        const char *room = world_text(w, "!c%zu:x", i);
        old = world_room(w, room, old, "shared", "@s:x", NULL) + 1;
        if (cases[i].before)
            member(w, room, "@me:x", old++, cases[i].before, "@me:x");
    }
    assert_true(old <= 100);
    (void)model_user(w->m, S("@me:x"));
    struct stream_token since = *model_now(w->m);
    for (size_t i = 0; i < count; i++) {
        for (int k = 0; k < 3 && cases[i].after[k]; k++) {
            struct str ms, who;
            const char *sender = "@me:x";
            if (str_cut(S(cases[i].after[k]), '/', &ms, &who))
                sender = who.n ? who.p : "@s:x";
            member(w, world_text(w, "!c%zu:x", i), "@me:x", ++live, arena_str(w->text, ms).p, sender);
        }
    }
    world_burst_end(w);
    world_settle(w);
    const char *body =
        compute(w, "@me:x", "D", "{\"room\":{\"timeline\":{\"limit\":1}}}", &since, NULL, NULL);
    static const char *const sections[] = {"join", "invite", "knock", "leave"};
    for (size_t i = 0; i < count; i++) {
        for (int s = 0; s < 4; s++) {
            /* sections come in this order; each room stands as a key in the span of
             * its own */
            const char *from = strstr(body, world_text(w, "\"%s\":{\"!c", sections[s])),
                       *end = body + strlen(body);
            for (int t = s + 1; from && t < 4; t++) {
                const char *next = strstr(body, world_text(w, "\"%s\":{\"!c", sections[t]));
                end = next && next < end ? next : end;
            }
            const char *key = from ? strstr(from, world_text(w, "\"!c%zu:x\":{", i)) : NULL;
            bool in = key && key < end, expected = strstr(cases[i].sections, sections[s]) != NULL;
            if (in != expected)
                fail_msg("%s: %s %s in %s", cases[i].row, sections[s], in ? "unexpected" : "missing", body);
            if (in && (s == 0 || s == 3)) { /* new to the client: the whole state */
                const char *stop = strstr(key, "\"account_data\"");
                const char *create = strstr(key, "m.room.create");
                if ((create && create < stop) != cases[i].newly)
                    fail_msg("%s: full state %d in %s", cases[i].row, !cases[i].newly, key);
            }
        }
    }
}

static void say(struct world *w, int64_t from, int64_t to)
{
    for (int64_t s = from; s <= to; s++)
        world_say(w, (struct t_event){.id = world_text(w, "$m%d", (int)s),
                                      .room = "!r:x",
                                      .sender = "@b:x",
                                      .stream = s,
                                      .prev = world_text(w, s == 101 ? "$hv!r:x" : "$m%d", (int)s - 1)});
    world_burst_end(w);
    world_settle(w);
}

static void test_timeline_limits(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@me:x", "@b:x", NULL);
    struct stream_token since = *model_now(w->m);
    say(w, 101, 120);
    const char *body =
        compute(w, "@me:x", "D", "{\"room\":{\"timeline\":{\"limit\":20}}}", &since, NULL, NULL);
    assert_has(body, "$m101");
    assert_has(body, "\"limited\":false");
    body = compute(w, "@me:x", "D", "{\"room\":{\"timeline\":{\"limit\":19}}}", &since, NULL, NULL);
    assert_hasnt(body, "$m101\"");
    assert_has(body, "$m102\"");
    assert_has(body, "\"prev_batch\":\"s101_");
    assert_has(body, "\"limited\":true");
    body = compute(w, "@me:x", "D", "{\"room\":{\"timeline\":{\"limit\":0}}}", &since, NULL,
                   NULL); /* as Synapse: the newest */
    assert_has(body, "$m120\"");
    assert_hasnt(body, "$m119\"");
    assert_has(body, "\"limited\":true");
    body = compute(w, "@me:x", "D", "{\"room\":{\"timeline\":{\"limit\":0}}}", NULL, NULL, NULL);
    assert_has(body, "{\"timeline\":{\"events\":[]");
    assert_has(body, "\"limited\":true");
    body = compute(w, "@me:x", "D", "{\"room\":{\"timeline\":{\"limit\":50}}}", NULL, NULL,
                   NULL); /* the whole room */
    assert_has(body, "m.room.create");
    assert_has(body, "\"prev_batch\":\"s120_");
    assert_has(body, "\"limited\":false");
    /* a stored filter may ask for anything */
    body = compute(w, "@me:x", "D", "{\"room\":{\"timeline\":{\"limit\":9000000000000000}}}", &since, NULL,
                   NULL);
    assert_has(body, "$m101");
}

static void test_gap(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@me:x", "@b:x", NULL);
    struct stream_token since = *model_now(w->m);
    world_add(&w->gaps, "!r:x", 103);
    say(w, 101, 105);
    const char *body = compute(w, "@me:x", "D", "{}", &since, NULL, NULL);
    assert_has(body, "$m103\"");
    assert_hasnt(body, "$m102\"");
    assert_has(body, "\"limited\":true");
}

static void test_dropped_entries(void **state)
{
    struct world *w = *state;
    enum run_result res;
    world_room(w, "!r:x", 10, "shared", "@me:x", "@b:x", NULL);
    struct stream_token since = *model_now(w->m);
    world_say(w, (struct t_event){.id = "$topic",
                                  .room = "!r:x",
                                  .type = "m.room.topic",
                                  .key = "",
                                  .stream = 101,
                                  .prev = "$hv!r:x"});
    world_burst_end(w);
    world_settle(w);
    static const char only_messages[] = "{\"room\":{\"timeline\":{\"types\":[\"m.room.message\"]}}}";
    const char *body = compute(w, "@me:x", "D", only_messages, &since, &res, NULL); /* E2 */
    assert_int_equal(res, RUN_EMPTY);
    assert_hasnt(body, "\"rooms\"");
    /* a receipt alone brings the room, with the client's own token as prev_batch
     */
    struct stream_token later = *model_now(w->m);
    struct feed_row row = {.receipt = {.room_id = STR("!r:x"),
                                       .receipt_type = STR("m.read"),
                                       .user_id = STR("@b:x"),
                                       .event_id = STR("$topic"),
                                       .data = STR("{\"ts\":5}")}};
    world_send(w, STREAM_RECEIPTS, MASTER, 101, &row);
    world_burst_end(w);
    body = compute(w, "@me:x", "D", "{}", &later, &res, NULL);
    assert_int_equal(res, RUN_DONE);
    assert_has(body, "{\"type\":\"m.receipt\",\"content\":{\"$topic\":{\"m."
                     "read\":{\"@b:x\":{\"ts\":5}}}}}");
    assert_has(body, "{\"events\":[],\"prev_batch\":\"s101_");
    body = compute(w, "@me:x", "D", "{\"room\":{\"ephemeral\":{\"not_types\":[\"m.receipt\"]}}}", &later,
                   &res, NULL); /* E1 */
    assert_int_equal(res, RUN_EMPTY);
}

static void test_receipts(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@me:x", "@b:x", NULL);
    struct stream_token since = *model_now(w->m);
    (void)compute(w, "@me:x", "D", "{}", NULL, NULL, NULL);
    const struct {
        const char *type, *user, *event, *thread;
    } rows[] = {
        {"m.read", "@b:x", "$1", NULL},
        {"m.read", "@b:x", "$2", NULL}, /* takes the place of the first */
        {"m.read.private", "@b:x", "$3", NULL},
        {"m.read.private", "@me:x", "$4", NULL},
        {"m.read", "@c:x", "$5", "$root"},
        {"m.read", "@c:x", "$5", NULL}, /* hides the threaded one */
        {"m.read", "@d:x", "$6", "main"},
        {"m.read", "@e:x", "$7", "main"},
        {"m.read.private", "@e:x", "$7", NULL}, /* hides even that */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct feed_row row = {.receipt = {.room_id = STR("!r:x"),
                                           .receipt_type = S(rows[i].type),
                                           .user_id = S(rows[i].user),
                                           .event_id = S(rows[i].event),
                                           .thread_id = S(rows[i].thread),
                                           .data = STR("{\"ts\":1}")}};
        world_send(w, STREAM_RECEIPTS, MASTER, 101 + (int64_t)i, &row);
    }
    world_burst_end(w);
    const char *body = compute(w, "@me:x", "D", "{}", &since, NULL, NULL);
    assert_has(body, "\"content\":{\"$2\":{\"m.read\":{\"@b:x\":{\"ts\":1}}},\"$"
                     "4\":{\"m.read.private\":{\"@"
                     "me:x\":{\"ts\":1}}},"
                     "\"$5\":{\"m.read\":{\"@c:x\":{\"ts\":1}}},\"$6\":{\"m."
                     "read\":{\"@d:x\":{\"ts\":1,"
                     "\"thread_id\":\"main\"}}}}");
}

/* CALC: state that changed on a branch outside of the timeline is found; a
 * linear timeline needs none. */
static void test_state_of_a_fork(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@me:x", "@b:x", NULL);
    struct stream_token since = *model_now(w->m);
    say(w, 101, 102);
    const char *body = compute(w, "@me:x", "D", "{}", &since, NULL, NULL);
    assert_has(body, "\"state\":{\"events\":[]}");
    world_say(w, (struct t_event){.id = "$name",
                                  .room = "!r:x",
                                  .type = "m.room.name",
                                  .key = "",
                                  .stream = 103,
                                  .prev = "$hv!r:x",
                                  .content = "{\"name\":\"n\"}"});
    say(w, 104, 116);
    body = compute(w, "@me:x", "D", "{}", &since, NULL,
                   NULL); /* ten of sixteen: the name lies before the timeline */
    assert_has(body, "\"limited\":true");
    assert_has(body, "\"state\":{\"events\":[{");
    assert_has(body, "\"event_id\":\"$name\"");
    assert_hasnt(body, "m.room.create");
}

static void test_lazy_loading(void **state)
{
    struct world *w = *state;
    static const char lazy[] = "{\"room\":{\"state\":{\"lazy_load_members\":true}}}";
    world_room(w, "!r:x", 10, "shared", "@me:x", "@b:x", "@c:x", NULL);
    const char *body = compute(w, "@me:x", "D",
                               "{\"room\":{\"state\":{\"lazy_load_members\":true}"
                               ",\"timeline\":{\"limit\":1}}}",
                               NULL, NULL, NULL);
    assert_has(body, "$join@me:x!r:x");
    struct stream_token since = *model_now(w->m);
    say(w, 101, 101);
    body = compute(w, "@me:x", "D", lazy, &since, NULL, NULL);
    bool first = strstr(body, "$join@b:x!r:x") != NULL;
    struct stream_token second = *model_now(w->m);
    say(w, 102, 102);
    body = compute(w, "@me:x", "D", lazy, &second, NULL, NULL);
    assert_hasnt(body, "$join@b:x!r:x"); /* sent before, be it as a hero */
    (void)first;
    body = compute(w, "@me:x", "OTHER", lazy, &second, NULL, NULL);
    assert_has(body, "$join@b:x!r:x");
    assert_hasnt(body, "$join@c:x!r:x");
    body = compute(w, "@me:x", "D",
                   "{\"room\":{\"state\":{\"lazy_load_members\":true,\"include_"
                   "redundant_members\":true}}}",
                   &second, NULL, NULL);
    assert_has(body, "$join@b:x!r:x");
}

static void make_partial(struct world *w)
{
    world_add(&w->partial, "!r:x", NULL, 0);
    struct feed_row partial = {.cache = {.func = STR("is_partial_state_room"),
                                         .keys = (struct str[]){STR("!r:x")},
                                         .keys_count = 1}};
    world_send(w, STREAM_CACHES, MASTER, 101, &partial);
    world_settle(w);
}

/* While the state is partial, it lacks the senders' memberships: they are taken
 * from what permitted them to send. */
static void test_partial_members(void **state)
{
    struct world *w = *state;
    static const char lazy[] = "{\"room\":{\"state\":{\"lazy_load_members\":true}}}";
    world_room(w, "!r:x", 10, "shared", "@me:x", "@b:x", NULL);
    make_partial(w);
    world_event(w, (struct t_event){.id = "$join-far",
                                    .room = "!r:x",
                                    .type = "m.room.member",
                                    .sender = "@far:y",
                                    .key = "@far:y",
                                    .content = "{\"membership\":\"join\"}",
                                    .stream = -5,
                                    .outlier = true});
    struct stream_token since = *model_now(w->m);
    world_say(w, (struct t_event){.id = "$words",
                                  .room = "!r:x",
                                  .sender = "@far:y",
                                  .stream = 101,
                                  .json = "{\"auth_events\":[\"$join@b:x!r:x\",\"$join-far\"],"
                                          "\"content\":{},"
                                          "\"depth\":101,\"hashes\":{},\"origin_server_ts\":1000,"
                                          "\"prev_events\":[\"$hv!r:x\"],\"room_id\":\"!r:x\","
                                          "\"sender\":\"@far:y\",\"type\":\"m.x\",\"unsigned\":{}}"});
    world_burst_end(w);
    world_settle(w);
    const char *body = compute(w, "@me:x", "D", lazy, &since, NULL, NULL);
    assert_has(body, "$words");
    assert_has(body, "$join-far");
    assert_hasnt(body, "$join@b:x!r:x");
}

/* Of a room that was hidden because its state was partial one is told that one
 * has left it. */
static void test_partial_left(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@me:x", "@b:x", NULL);
    make_partial(w);
    struct stream_token since = *model_now(w->m);
    world_say(w, (struct t_event){.id = "$leave",
                                  .room = "!r:x",
                                  .type = "m.room.member",
                                  .sender = "@me:x",
                                  .key = "@me:x",
                                  .content = "{\"membership\":\"leave\"}",
                                  .prev = "$hv!r:x",
                                  .stream = 101});
    world_burst_end(w);
    world_settle(w);
    const char *body = compute(w, "@me:x", "D", "{}", &since, NULL, NULL);
    assert_has(body, "$leave");
    body = compute(w, "@me:x", "D", "{\"room\":{\"include_leave\":true}}", NULL, NULL, NULL);
    assert_hasnt(body, "$leave");
}

/* A room joined while its state was not whole is hidden from clients that do
 * not load members lazily; when it is whole they get all of it. */
static void test_state_becomes_whole(void **state)
{
    struct world *w = *state;
    static const char lazy[] = "{\"room\":{\"state\":{\"lazy_load_members\":true}}}";
    world_room(w, "!r:x", 10, "shared", "@me:x", "@b:x", NULL);
    make_partial(w);
    struct stream_token since = *model_now(w->m);
    enum run_result res;
    const char *body = compute(w, "@me:x", "D", "{}", NULL, &res, NULL);
    assert_hasnt(body, "!r:x");
    say(w, 101, 101);
    compute(w, "@me:x", "D", "{}", &since, &res, NULL);
    assert_int_equal(res, RUN_EMPTY);
    body = compute(w, "@me:x", "D", lazy, &since, &res, NULL);
    assert_has(body, "$m101");
    since = *model_now(w->m);
    w->partial.n = 0;
    world_add(&w->partial, "!r:x", NULL, 120);
    struct feed_row whole = {.room = {.room_id = STR("!r:x")}};
    world_send(w, STREAM_UN_PARTIAL_STATED_ROOM, MASTER, 120, &whole);
    world_settle(w);
    body = compute(w, "@me:x", "D", "{}", &since, &res, NULL);
    assert_has(body, "$join@b:x!r:x");
    compute(w, "@me:x", "D", lazy, &since, &res, NULL);
    assert_int_equal(res, RUN_EMPTY);
    since = *model_now(w->m);
    compute(w, "@me:x", "D", "{}", &since, &res, NULL);
    assert_int_equal(res, RUN_EMPTY);
}

/* Heroes are of the room as it is now: who came after one has left must not be
 * told of. */
static void test_heroes_after_the_leave(void **state)
{
    struct world *w = *state;
    static const char lazy[] = "{\"room\":{\"state\":{\"lazy_load_members\":true},\"include_leave\":"
                               "true,\"timeline\":{\"limit\":1}}}";
    world_room(w, "!r:x", 10, "shared", "@me:x", "@b:x", NULL);
    member(w, "!r:x", "@me:x", 30, "leave", "@me:x");
    member(w, "!r:x", "@late:x", 31, "join", "@late:x");
    const char *body = compute(w, "@me:x", "D", lazy, NULL, NULL, NULL);
    assert_has(body, "$leave30");
    assert_has(body, "$join@b:x!r:x");
    assert_hasnt(body, "@late:x");
}

static void test_to_device_page(void **state)
{
    struct world *w = *state;
    for (int i = 1; i <= 130; i++)
        world_add(&w->inbox, "@me:x", "D", world_text(w, "{\"n\":%d}", i), 100 + i);
    (void)model_user(w->m, S("@me:x"));
    struct stream_token since = *model_now(w->m), next;
    struct feed_row row = {.user = {STR("@me:x")}};
    world_send(w, STREAM_TO_DEVICE, MASTER, 230, &row);
    world_burst_end(w);
    const char *body = compute(w, "@me:x", "D", "{}", &since, NULL, &next);
    assert_has(body, "{\"n\":1},");
    assert_has(body, "{\"n\":100}]");
    assert_int_equal(next.to_device, 200);
    body = compute(w, "@me:x", "D", "{}", &next, NULL, &next);
    assert_has(body, "[{\"n\":101},");
    assert_has(body, "{\"n\":130}]");
    assert_int_equal(next.to_device, 230);
    enum run_result res;
    (void)compute(w, "@me:x", "D", "{}", &next, &res, NULL);
    assert_int_equal(res, RUN_EMPTY);
}

/* Messages that cannot be read are passed over, counted, and acknowledged with the others. */
static void test_odd_to_device(void **state)
{
    struct world *w = *state;
    static const char *const odd[] = {"nonsense", "[]", "{\"a\":NaN}", ""};
    for (int i = 0; i < 120; i++)
        world_add(&w->inbox, "@me:x", "D", i % 3 ? world_text(w, "{ \"n\" : %d}", i) : odd[i / 3 % 4],
                  100 + i);
    (void)model_user(w->m, S("@me:x"));
    struct stream_token since = *model_now(w->m), next;
    int64_t before = metric_get_l(M_model_poisoned, "to_device");
    struct feed_row row = {.user = {STR("@me:x")}};
    since.to_device = 99;
    world_send(w, STREAM_TO_DEVICE, MASTER, 219, &row);
    world_burst_end(w);
    const char *body = compute(w, "@me:x", "D", "{}", &since, NULL, &next);
    assert_has(body, "\"to_device\":{\"events\":[{\"n\":1},{\"n\":2},{\"n\":4}");
    assert_has(body, "{\"n\":98}]}");
    assert_hasnt(body, "nonsense");
    assert_int_equal(next.to_device, 199);
    assert_int_equal(metric_get_l(M_model_poisoned, "to_device"), before + 34);
    body = compute(w, "@me:x", "D", "{}", &next, NULL, &next);
    assert_has(body, "[{\"n\":100},");
    assert_int_equal(next.to_device, 219);
}

static void test_odd_account_data(void **state)
{
    struct world *w = *state;
    static const char *const odd[] = {"nonsense", "[]", "5", "null", "\"x\"", "", "{\"a\":}"};
    world_room(w, "!r:x", 10, "shared", "@me:x", NULL);
    int64_t data = metric_get_l(M_model_poisoned, "account_data"),
            tags = metric_get_l(M_model_poisoned, "tag");
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        world_add(&w->data, "@me:x", NULL, world_text(w, "odd%zu", i), odd[i], 1);
        world_add(&w->data, "@me:x", "!r:x", world_text(w, "odd%zu", i), odd[i], 1);
        world_add(&w->tags, "@me:x", "!r:x", world_text(w, "odd%zu", i), odd[i], 1);
    }
    world_add(&w->data, "@me:x", NULL, "good", "{\"g\":1}", 1);
    world_add(&w->data, "@me:x", "!r:x", "good", "{\"g\":2}", 1);
    world_add(&w->tags, "@me:x", "!r:x", "good", "{}", 1);
    const char *body = compute(w, "@me:x", NULL, "{}", NULL, NULL, NULL);
    assert_hasnt(body, "odd");
    assert_has(body, "{\"g\":1}");
    assert_has(body, "{\"g\":2}");
    assert_has(body, "{\"tags\":{\"good\":{}}}");
    assert_int_equal(metric_get_l(M_model_poisoned, "account_data"), data + 14);
    assert_int_equal(metric_get_l(M_model_poisoned, "tag"), tags + 7);
}

/* What was redacted is no longer shown as the previous content of what replaced it either, though both were
 * shown before. Synapse goes on showing it for as long as the event stays in its cache. */
static void test_redacted_previous(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@a:x", NULL);
    const char *before = "{\"name\":\"secret\"}", *after = "{\"name\":\"harmless\"}";
    world_event(w, (struct t_event){.id = "$before",
                                    .room = "!r:x",
                                    .type = "m.room.name",
                                    .key = "",
                                    .stream = 20,
                                    .content = before});
    world_event(w, (struct t_event){.id = "$after",
                                    .room = "!r:x",
                                    .type = "m.room.name",
                                    .key = "",
                                    .stream = 21,
                                    .replaces = "$before",
                                    .content = after});
    const char *body = compute(w, "@a:x", NULL, "{\"room\":{\"timeline\":{\"limit\":1}}}", NULL, NULL, NULL);
    assert_has(body, "\"prev_content\":{\"name\":\"secret\"}");
    world_say(w, (struct t_event){.id = "$redaction",
                                  .room = "!r:x",
                                  .type = "m.room.redaction",
                                  .redacts = "$before",
                                  .stream = 110,
                                  .content = "{}"});
    world_burst_end(w);
    world_settle(w);
    body = compute(w, "@a:x", NULL, "{\"room\":{\"timeline\":{\"limit\":2}}}", NULL, NULL, NULL);
    assert_has(body, "harmless");
    assert_has(body, "\"prev_content\":{}");
    assert_hasnt(body, "secret");
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
int run_room_tests(void)
{
    const struct CMUnitTest tests[] = {
        T(test_empty_answer),        T(test_classification),
        T(test_timeline_limits),     T(test_gap),
        T(test_dropped_entries),     T(test_receipts),
        T(test_state_of_a_fork),     T(test_lazy_loading),
        T(test_partial_members),     T(test_partial_left),
        T(test_state_becomes_whole), T(test_heroes_after_the_leave),
        T(test_odd_to_device),       T(test_odd_account_data),
        T(test_to_device_page),      T(test_redacted_previous),
    };
    return cmocka_run_group_tests_name("rooms", tests, NULL, NULL);
}
