/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Shortcuts: rooms found through the news, sections taken from another reader's answer. The service runs with
 * check_shortcuts, so that every answer here is computed twice and must be the same; what these tests add is
 * that shortcuts are taken at all, and generated crowds in which whatever may set readers apart happens.
 */
#include "crowd.h"
#include "front.h"

#include <stdio.h>

static int setup(void **state)
{
    *state = front_new();
    return 0;
}
static int teardown(void **state)
{
    front_free((struct front **)state);
    return 0;
}

enum { USERS = 6, ROOMS = 9, FILTERS = 5 };

static const char *const filters[FILTERS] = {
    "{}",
    "{\"room\":{\"timeline\":{\"limit\":20},\"state\":{\"lazy_load_members\":true}}}",
    "{\"room\":{\"timeline\":{\"limit\":3,\"unread_thread_notifications\":true},\"state\":{\"lazy_load_"
    "members\":"
    "true}}}",
    "{\"room\":{\"timeline\":{\"types\":[\"m.room.message\"]},\"ephemeral\":{\"types\":[]}}}",
    "{\"event_fields\":[\"content.body\"],\"room\":{\"ephemeral\":{\"not_types\":[\"m.typing\"]}}}",
};

struct reader {
    const char *user, *since;
    const char *filter;
    struct client *poll;
    bool state_after;
};
struct crowd {
    struct front *f;
    struct world *w;
    struct reader readers[USERS * 2];
    const char *last[ROOMS]; /* newest event */
    int64_t stream, receipt, typing, account, presence, inbox, device_lists, rules;
    uint64_t random; /* of dice() */
    bool lossless;
};

static void poll(struct crowd *c, struct reader *r)
{
    const char *query =
        r->since ? world_text(c->w, "since=%s&timeout=30000&set_presence=offline&filter=%s%s", r->since,
                              r->filter, r->state_after ? "&org.matrix.msc4222.use_state_after=true" : "")
                 : world_text(c->w, "filter=%s&set_presence=offline", r->filter);
    c->f->user = r->user;
    c->f->token = (uint64_t)(r - c->readers) + 1;
    r->poll = front_get(c->f, query);
}

/* Answers are followed, but some clients lose theirs and ask with the old token again. */
static void harvest(struct crowd *c)
{
    front_run(c->f);
    for (size_t i = 0; i < USERS * 2; i++) {
        struct reader *r = &c->readers[i];
        if (!r->poll || !r->poll->answers)
            continue;
        assert_int_equal(r->poll->status, 200);
        const char *p = strstr(r->poll->body.p, "\"next_batch\":\"");
        assert_non_null(p);
        p += strlen("\"next_batch\":\"");
        if (!r->since || c->lossless || dice(&c->random, 10))
            r->since = world_text(c->w, "%.*s", (int)strcspn(p, "\""), p);
        r->poll = NULL;
    }
}

static void say(struct crowd *c, unsigned room, const char *sender, const char *type, const char *key,
                const char *content)
{
    struct world *w = c->w;
    const char *id = world_text(w, "$e%d", (int)++c->stream);
    for (unsigned i = 0; i < USERS - 1 && dice(&c->random, 3); i++)
        world_add(&w->actions, user_of(w, i), room_of(w, room), dice(&c->random, 8) ? "main" : "$thread",
                  c->stream, true, !dice(&c->random, 4), true);
    world_say(
        w, (struct t_event){.id = id,
                            .room = room_of(w, room),
                            .type = type,
                            .key = key,
                            .sender = sender,
                            .stream = c->stream,
                            .prev = c->last[room],
                            .metadata = dice(&c->random, 3) ? NULL : "{\"txn_id\":\"t\",\"device_id\":\"D\"}",
                            .content = content});
    if (dice(&c->random, 6)) /* else the next one forks the history */
        c->last[room] = id;
}

static void receipt(struct crowd *c, unsigned room, const char *user)
{
    struct feed_row row = {
        .receipt = {.room_id = str_of(room_of(c->w, room)),
                    .receipt_type = dice(&c->random, 4) ? STR("m.read") : STR("m.read.private"),
                    .user_id = str_of(user),
                    .event_id = str_of(c->last[room]),
                    .thread_id = dice(&c->random, 3) ? STR_ABSENT : STR("main"),
                    .data = STR("{\"ts\":5}")},
    };
    world_send(c->w, STREAM_RECEIPTS, MASTER, ++c->receipt, &row);
}

static void typing(struct crowd *c, unsigned room, const char *user)
{
    struct str who[] = {str_of(user)};
    struct feed_row row = {.typing = {.room_id = str_of(room_of(c->w, room)),
                                      .user_ids = who,
                                      .user_ids_count = dice(&c->random, 2)}};
    if (!dice(&c->random, 12)) {
        c->w->sink.reset(c->w->sink.arg, STREAM_TYPING, MASTER);
        c->typing = 0;
    }
    world_send(c->w, STREAM_TYPING, MASTER, ++c->typing, &row);
}

static void ignore(struct crowd *c, const char *user, const char *whom)
{
    struct feed_row row = {.account_data = {.user_id = str_of(user), .type = STR("m.ignored_user_list")}};
    world_add(&c->w->ignored, user, whom, 0);
    world_send(c->w, STREAM_ACCOUNT_DATA, MASTER, ++c->account, &row);
}

/* What is nobody else's. */
static void own_data(struct crowd *c, unsigned room, const char *user)
{
    struct world *w = c->w;
    struct feed_row row = {.account_data = {.user_id = str_of(user), .type = STR("m.some")}};
    switch (dice(&c->random, 3)) {
    case 0:
        world_add(&w->data, user, NULL, "m.some", "{\"a\":1}", ++c->account);
        world_send(w, STREAM_ACCOUNT_DATA, MASTER, c->account, &row);
        break;
    case 1:
        row.account_data.type = STR("m.tag");
        world_add(&w->tags, user, room_of(w, room), "u.tag", "{}", ++c->account);
        world_send(w, STREAM_ACCOUNT_DATA, MASTER, c->account, &row);
        break;
    default:
        row = (struct feed_row){.user = {.user_id = str_of(user)}};
        world_add(&w->rules_stream, user, NULL, ++c->rules);
        world_send(w, STREAM_PUSH_RULES, MASTER, c->rules, &row);
    }
}

static void to_device(struct crowd *c, const char *user)
{
    struct feed_row row = {.user = {.user_id = str_of(user)}};
    world_add(&c->w->inbox, user, "D", "{\"type\":\"m.dummy\"}", ++c->inbox);
    world_send(c->w, STREAM_TO_DEVICE, MASTER, c->inbox, &row);
}

static void presence(struct crowd *c, const char *user)
{
    struct feed_row row = {.presence = {.user_id = str_of(user),
                                        .state = dice(&c->random, 2) ? STR("online") : STR("unavailable")}};
    world_send(c->w, STREAM_PRESENCE, MASTER, ++c->presence, &row);
}

/* Told to those who share the room, in the table as well as by the row. */
static void device_list(struct crowd *c, unsigned room, const char *user)
{
    struct feed_row row = {.device_list = {.user_id = str_of(user)}};
    ++c->device_lists;
    for (unsigned i = 0; i < USERS - 1; i++)
        world_add(&c->w->dl, 0, user_of(c->w, i), user, room_of(c->w, room), c->device_lists, MASTER);
    world_send(c->w, STREAM_DEVICE_LISTS, MASTER, c->device_lists, &row);
}

static void step(struct crowd *c)
{
    struct world *w = c->w;
    unsigned room = dice(&c->random, ROOMS);
    const char *user = user_of(w, dice(&c->random, USERS)), *other = user_of(w, dice(&c->random, USERS));
    switch (dice(&c->random, 24)) {
    case 0:
        say(c, room, user, "m.room.topic", "", "{\"topic\":\"t\"}");
        break;
    case 1:
        say(c, room, user, "m.room.member", user,
            dice(&c->random, 2) ? "{\"membership\":\"leave\"}"
                                : "{\"membership\":\"join\",\"displayname\":\"n\"}");
        break;
    case 2:
        say(c, room, user, "m.room.member", user, "{\"membership\":\"join\"}");
        break;
    case 3:
        typing(c, room, user);
        break;
    case 4:
    case 5:
        receipt(c, room, user);
        break;
    case 6:
        if (!dice(&c->random, 4))
            ignore(c, user, other);
        break;
    case 7:
        say(c, room, user, "m.reaction", NULL,
            "{\"m.relates_to\":{\"rel_type\":\"m.annotation\",\"event_id\":\"$e101\",\"key\":\"k\"}}");
        break;
    case 8:
        own_data(c, room, user);
        break;
    case 9:
        to_device(c, user);
        break;
    case 10:
        presence(c, user);
        break;
    case 11:
        device_list(c, room, user);
        break;
    default:
        say(c, room, dice(&c->random, 4) ? user : "@far:y", "m.room.message", NULL,
            "{\"body\":\"b\",\"msgtype\":\"m.text\"}");
    }
}

static void begin_in(struct crowd *c, struct front *f, uint64_t seed, unsigned rooms)
{
    struct world *w = f->w;
    *c = (struct crowd){.f = f, .w = w, .random = seed, .stream = 100, .receipt = 100};
    c->account = c->presence = c->inbox = c->device_lists = c->rules = 200;
    int64_t at = 20;
    for (unsigned i = 0; i < rooms; i++) {
        at = world_room(w, room_of(w, i), at + 1, i % 3 ? "shared" : "joined", user_of(w, 0), user_of(w, 1),
                        user_of(w, 2), user_of(w, 3), user_of(w, 4), NULL);
        c->last[i] = world_text(w, "$hv%s", room_of(w, i));
    }
    assert_true(at <= 100);
    for (unsigned i = 0; i < USERS * 2; i++)
        c->readers[i] = (struct reader){.user = user_of(w, i / 2),
                                        .filter = filters[i % 2 ? dice(&c->random, FILTERS) : 1],
                                        .state_after = i % 5 == 4};
}

static void begin(struct crowd *c, struct front *f, uint64_t seed)
{
    begin_in(c, f, seed, ROOMS);
}

static void everybody_polls(struct crowd *c)
{
    for (size_t i = 0; i < USERS * 2; i++) {
        if (!c->readers[i].poll)
            poll(c, &c->readers[i]);
        harvest(c); /* initial syncs take turns */
    }
}

static void test_crowds(void **state)
{
    struct front *f = *state;
    struct crowd c;
    int64_t quick = metric_get(M_sync_quick), shared = metric_get(M_sync_sections_shared),
            same = metric_get_l(M_sync_checked, "same"), lacking = metric_get_l(M_sync_checked, "lacking");
    for (uint64_t seed = 1; seed <= 12; seed++) {
        if (seed > 1) {
            front_free((struct front **)state);
            f = *state = front_new();
        }
        begin(&c, f, seed);
        everybody_polls(&c);
        everybody_polls(&c);
        for (int round = 0; round < 60; round++) {
            unsigned steps = dice(&c.random, 4) ? 1 + dice(&c.random, 3) : 15;
            for (unsigned i = 0; i < steps; i++)
                step(&c);
            world_burst_end(c.w);
            harvest(&c);
            for (size_t i = 0; i < USERS * 2; i++) {
                if (!c.readers[i].poll && dice(&c.random, 5))
                    poll(&c, &c.readers[i]);
            }
            harvest(&c);
        }
    }
    shared = metric_get(M_sync_sections_shared) - shared;
    same = metric_get_l(M_sync_checked, "same") - same;
    lacking = metric_get_l(M_sync_checked, "lacking") - lacking;
    quick = metric_get(M_sync_quick) - quick;
    printf("sections shared %lld, quick answers %lld, checked %lld, not checked %lld\n", (long long)shared,
           (long long)quick, (long long)same, (long long)lacking);
    assert_true(shared > 500);
    assert_true(quick > 100);
    assert_true(same > 10 * lacking);
}

/* One message to a room of many: all but the first few take what those made. */
static void test_one_message(void **state)
{
    struct front *f = *state;
    struct crowd c;
    begin(&c, f, 7);
    c.lossless = true;
    for (size_t i = 0; i < USERS * 2; i++) {
        c.readers[i].filter = filters[1];
        c.readers[i].state_after = false;
    }
    everybody_polls(&c);
    everybody_polls(&c);
    for (int i = 0; i < 3; i++) {
        everybody_polls(&c);
        int64_t before = metric_get(M_sync_sections_shared);
        say(&c, 4, "@far:y", "m.room.message", NULL, "{\"body\":\"b\"}");
        world_burst_end(c.w);
        front_run(f);
        for (size_t k = 0; k < 10; k++) { /* the sixth user is in no room */
            assert_int_equal(c.readers[k].poll->answers, 1);
            assert_has(c.readers[k].poll->body.p, world_text(c.w, "$e%d", (int)c.stream));
        }
        assert_int_equal(metric_get(M_sync_sections_shared) - before, 9);
        harvest(&c);
    }
}

/* Readers that get the same bytes as a whole: not those whose counts differ, nor who ignores the sender. */
static void test_what_is_private(void **state)
{
    struct front *f = *state;
    struct world *w = f->w;
    struct crowd c;
    begin(&c, f, 7);
    c.lossless = true;
    world_add(&w->keys, 0, "@u1:x", "D", "signed_curve25519", 33);
    for (size_t i = 0; i < USERS * 2; i++) {
        c.readers[i].filter = filters[1];
        c.readers[i].state_after = false;
    }
    everybody_polls(&c);
    everybody_polls(&c);
    ignore(&c, "@u4:x", "@far:y");
    world_burst_end(w);
    harvest(&c);
    everybody_polls(&c);
    for (int i = 0; i < 3; i++) {
        int64_t quick = metric_get(M_sync_quick);
        int64_t at = ++c.stream;
        const char *id = world_text(w, "$e%d", (int)at);
        world_add(&w->actions, "@u2:x", room_of(w, 4), "main", at, true, false, true);
        world_add(&w->actions, "@u3:x", room_of(w, 4), "main", at, true, true, true);
        world_say(w, (struct t_event){.id = id,
                                      .room = room_of(w, 4),
                                      .type = "m.room.message",
                                      .sender = "@far:y",
                                      .stream = at,
                                      .prev = c.last[4],
                                      .content = "{\"body\":\"b\"}"});
        c.last[4] = id;
        world_burst_end(w);
        front_run(f);
        for (size_t k = 0; k < 8; k++) {
            const char *body = c.readers[k].poll->body.p;
            assert_int_equal(c.readers[k].poll->answers, 1);
            assert_has(body, id);
            assert_has(body, world_text(w, "{\"notification_count\":%d,\"highlight_count\":%d}",
                                        k >= 4 ? i + 1 : 0, k >= 6 ? i + 1 : 0));
            if (k / 2 == 1)
                assert_has(body, "{\"signed_curve25519\":33}");
            else
                assert_hasnt(body, "33}");
        }
        assert_int_equal(c.readers[8].poll->answers + c.readers[9].poll->answers, 0);
        if (i > 0) /* the first one sends the sender's membership as well */
            assert_int_equal(metric_get(M_sync_quick) - quick, 7);
        harvest(&c);
        everybody_polls(&c);
        for (size_t k = 0; k < USERS * 2; k++)
            assert_int_equal(c.readers[k].poll->answers, 0);
    }
}

/* Somebody's presence changed before one shared a room, and no event of the answer says that one does now. */
static void test_presence_of_a_newcomer(void **state)
{
    struct front *f = *state;
    struct world *w = f->w;
    static const char quiet[] = "filter={\"room\":{\"timeline\":{\"types\":[]},\"state\":{\"types\":[]}}}";
    world_room(w, "!q:x", 30, "shared", "@c:x", NULL);
    (void)model_room_state(w->m, model_room(w->m, STR("!r:x"))); /* it is known who is in */
    front_run(f);
    struct client *c = front_get(f, world_text(w, "timeout=30000&%s&since=%s", quiet, next_batch(w)));
    front_run(f);
    assert_int_equal(front_state(f), REQ_PARKED);
    struct feed_row row = {.presence = {.user_id = STR("@c:x"), .state = STR("online")}};
    world_send(w, STREAM_PRESENCE, MASTER, 101, &row);
    world_burst_end(w);
    front_run(f);
    assert_int_equal(c->answers, 0);
    world_say(w, (struct t_event){.id = "$come",
                                  .room = "!r:x",
                                  .type = "m.room.member",
                                  .key = "@c:x",
                                  .sender = "@c:x",
                                  .stream = 101,
                                  .content = "{\"membership\":\"join\"}"});
    world_burst_end(w);
    front_run(f);
    assert_int_equal(c->answers, 1);
    assert_has(c->body.p, "\"sender\":\"@c:x\",\"content\":{\"presence\":\"online\"");
}

static void poll_from(struct crowd *c, size_t reader, int room, int receipts)
{
    c->readers[reader].since =
        world_text(c->w, "s%d_100_0_%d_100_100_100_100_0_100_100_100_100", room, receipts);
    poll(c, &c->readers[reader]);
}

/* Both wait, and what a first answer needs is in memory. */
static void both_wait(struct crowd *c)
{
    poll_from(c, 0, 100, 100);
    poll_from(c, 2, 100, 100);
    front_run(c->f);
    say(c, 0, "@far:y", "m.room.message", NULL, "{\"body\":\"first\"}");
    typing(c, 0, "@far:y");
    world_burst_end(c->w);
    harvest(c);
    poll(c, &c->readers[0]);
    poll(c, &c->readers[2]);
    front_run(c->f);
    assert_int_equal(c->readers[0].poll->answers + c->readers[2].poll->answers, 0);
}

static void two_readers(struct crowd *c, struct front *f, const char *filter)
{
    begin_in(c, f, 11, 1);
    c->lossless = true;
    for (size_t i = 0; i < USERS * 2; i++)
        c->readers[i] = (struct reader){.user = user_of(c->w, (unsigned)i / 2), .filter = filter};
}

/* Of receipts before the room came into memory nothing is known: another's section is not taken for want of
 * them. */
static void test_receipts_from_before(void **state)
{
    struct front *f = *state;
    struct crowd c;
    two_readers(&c, f, "{}");
    world_add(&c.w->receipts, room_of(c.w, 0), "m.read", "@far:y", "$old", NULL, "{\"ts\":1}", 95, MASTER);
    both_wait(&c);
    typing(&c, 0, "@far:y");
    world_burst_end(c.w);
    struct client *waiting = c.readers[2].poll;
    poll_from(&c, 2, 101, 90); /* the same device, behind by a receipt */
    front_run(f);
    assert_has(c.readers[0].poll->body.p, "m.typing");
    assert_has(waiting->body.p, "m.typing");
    assert_has(c.readers[2].poll->body.p, "m.typing");
    assert_has(c.readers[2].poll->body.p, "$old");
}

/* A filter that wants no global account data still wants that of rooms. */
static void test_account_data_of_rooms(void **state)
{
    struct front *f = *state;
    struct crowd c;
    two_readers(&c, f, "{\"account_data\":{\"types\":[]}}");
    both_wait(&c);
    world_add(&c.w->data, user_of(c.w, 1), room_of(c.w, 0), "m.fully_read", "{\"event_id\":\"$x\"}", 201);
    struct feed_row row = {.account_data = {.user_id = str_of(user_of(c.w, 1)),
                                            .room_id = str_of(room_of(c.w, 0)),
                                            .type = STR("m.fully_read")}};
    world_send(c.w, STREAM_ACCOUNT_DATA, MASTER, 201, &row);
    world_burst_end(c.w);
    front_run(f);
    assert_int_equal(c.readers[0].poll->answers, 0);
    assert_int_equal(c.readers[2].poll->answers, 1);
    assert_has(c.readers[2].poll->body.p, "m.fully_read");
}

static void both_get(struct crowd *c, const char *part)
{
    world_burst_end(c->w);
    front_run(c->f);
    for (size_t i = 0; i <= 2; i += 2)
        assert_has(c->readers[i].poll->body.p, part);
    harvest(c);
    poll(c, &c->readers[0]);
    poll(c, &c->readers[2]);
    front_run(c->f);
}

/* What is too large to be kept is computed by each and sent all the same. A section without events has the
 * reader's token inside, and either part may be too large. */
static void test_too_large_to_be_kept(void **state)
{
    struct front *f = *state;
    struct crowd c;
    static const struct {
        size_t bytes_max;
        int shared;
    } rows[] = {{0, 0}, {1, 0}, {100, 0}, {4096, 2}};
    two_readers(&c, f, "{}");
    both_wait(&c);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int64_t before = metric_get(M_sync_sections_shared);
        f->s->shared.bytes_max = rows[i].bytes_max;
        say(&c, 0, "@far:y", "m.room.message", NULL, "{\"body\":\"b\"}");
        both_get(&c, world_text(c.w, "\"$e%d\"", (int)c.stream));
        typing(&c, 0, "@far:y");
        both_get(&c, "m.typing");
        assert_int_equal(metric_get(M_sync_sections_shared) - before, rows[i].shared);
    }
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
int run_shared_tests(void)
{
    const struct CMUnitTest tests[] = {T(test_crowds),
                                       T(test_one_message),
                                       T(test_what_is_private),
                                       T(test_receipts_from_before),
                                       T(test_account_data_of_rooms),
                                       T(test_presence_of_a_newcomer),
                                       T(test_too_large_to_be_kept)};
    return cmocka_run_group_tests_name("shortcuts", tests, NULL, NULL);
}
