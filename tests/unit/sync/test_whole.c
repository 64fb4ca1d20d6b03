/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Sections of initial syncs that other readers take (whole.c). The service runs with check_shortcuts: every
 * answer with such a section is computed twice, and must be the same. These tests make crowds in which
 * whatever may set readers apart happens, and look that sections are taken at all, and when they are not.
 */
#include "crowd.h"
#include "front.h"

#include <stdio.h>

enum { USERS = 8, ROOMS = 7, FILTERS = 8, LIFE_MS = 500 };

static int setup(void **state)
{
    *state = front_new();
    return 0;
}
static int teardown(void **state)
{
    front_free((struct front **)state);
    release_set(release_newest());
    return 0;
}

#define LAZY "\"state\":{\"lazy_load_members\":true}"
static const char *const lazy = "{\"room\":{\"timeline\":{\"limit\":20}," LAZY "}}";
static const char *const filters[FILTERS] = {
    "{\"room\":{\"timeline\":{\"limit\":20}," LAZY "}}",
    "{\"room\":{\"timeline\":{\"limit\":3,\"unread_thread_notifications\":true}," LAZY "}}",
    "{\"room\":{\"timeline\":{\"limit\":8}}}",
    "{\"room\":{\"timeline\":{\"limit\":5,\"lazy_load_members\":true},\"state\":{\"lazy_load_members\":true,"
    "\"include_redundant_members\":true}}}",
    "{\"room\":{\"timeline\":{\"limit\":4,\"types\":[\"m.room.message\"]},\"ephemeral\":{\"types\":[]}," LAZY
    "}}",
    "{\"room\":{\"timeline\":{\"limit\":6},\"state\":{\"lazy_load_members\":true,\"not_types\":[\"m.room."
    "member\"]}}}",
    "{\"event_fields\":[\"content.body\",\"sender\"],\"room\":{\"timeline\":{\"limit\":6}," LAZY "}}",
    "{\"event_format\":\"federation\",\"room\":{\"timeline\":{\"limit\":6}," LAZY "}}",
};

struct crowd {
    struct front *f;
    struct world *w;
    const char *last[ROOMS];
    int64_t stream, receipt, account;
    int64_t early[ROOMS]; /* the state group when the first three had joined */
    uint64_t random;      /* of dice() */
};

/* The first rooms are small, and have no name: heroes are shown. */
static void begin(struct crowd *c, struct front *f, uint64_t seed)
{
    struct world *w = f->w;
    *c = (struct crowd){.f = f, .w = w, .random = seed, .stream = 200, .receipt = 100, .account = 200};
    int64_t at = 20;
    for (unsigned i = 0; i < ROOMS; i++) {
        const char *u[USERS];
        for (unsigned k = 0; k < USERS; k++)
            u[k] = user_of(w, k);
        c->early[i] = 1000 + at + 4;
        const char *history = i % 3 ? "shared" : "joined";
        if (i < 2)
            at = world_room(w, room_of(w, i), at + 1, history, u[0], u[1], u[2], NULL);
        else
            at =
                world_room(w, room_of(w, i), at + 1, history, u[0], u[1], u[2], u[3], u[4], u[5], u[6], NULL);
        c->last[i] = world_text(w, "$hv%s", room_of(w, i));
        if (i < 2)
            continue;
        const char *name = world_text(w, "$name%u", i);
        world_event(w, (struct t_event){.id = name,
                                        .room = room_of(w, i),
                                        .type = "m.room.name",
                                        .key = "",
                                        .sender = "@a:x",
                                        .stream = ++at,
                                        .prev = c->last[i],
                                        .content = "{\"name\":\"n\"}"});
        c->last[i] = name;
        for (unsigned k = 0; k < 3 && i % 2;
             k++) /* filled in from another server: their positions are negative */
            world_event(w, (struct t_event){.id = world_text(w, "$filled%u-%u", i, k),
                                            .room = room_of(w, i),
                                            .type = "m.room.message",
                                            .sender = "@far:y",
                                            .stream = -(int64_t)(10 * i + k),
                                            .topo = 1000 + at,
                                            .prev = name,
                                            .content = "{\"body\":\"b\"}"});
    }
    world_add(&w->data, user_of(w, 0), NULL, "io.element.synapse.admin_client_config",
              "{\"return_soft_failed_events\":true}", 150);
    assert_true(at <= 200);
}

/* A client that has not been here before: without what is kept for the others. */
static struct client *ask(struct crowd *c, const char *user, const char *filter, bool state_after)
{
    c->f->user = user;
    c->f->admin = !strcmp(user, "@u0:x");
    c->f->token++;
    struct client *client =
        front_get(c->f, world_text(c->w, "filter=%s&set_presence=offline%s", filter,
                                   state_after ? "&org.matrix.msc4222.use_state_after=true" : ""));
    front_run(c->f);
    assert_int_equal(client->answers, 1);
    assert_int_equal(client->status, 200);
    return client;
}

static struct t_event event_in(struct crowd *c, unsigned room, const char *sender, const char *type)
{
    static const char *const metadata[7] = {"{\"txn_id\":\"t\",\"device_id\":\"D\"}",
                                            "{\"txn_id\":\"t\",\"device_id\":\"D\"}",
                                            "{\"soft_failed\":true}"};
    return (struct t_event){.id = world_text(c->w, "$e%d", (int)++c->stream),
                            .room = room_of(c->w, room),
                            .type = type,
                            .sender = sender,
                            .stream = c->stream,
                            .prev = c->last[room],
                            .metadata = metadata[dice(&c->random, 7)],
                            .content = "{\"body\":\"b\",\"msgtype\":\"m.text\"}"};
}

static void say(struct crowd *c, unsigned room, struct t_event e)
{
    world_say(c->w, e);
    if (dice(&c->random, 8)) /* else the next one forks the history */
        c->last[room] = e.id;
}

static void message(struct crowd *c, unsigned room, const char *sender)
{
    say(c, room, event_in(c, room, sender, "m.room.message"));
}

/* Of a branch of the history from before most had joined. */
static void message_from_before(struct crowd *c, unsigned room, const char *sender)
{
    struct t_event e = event_in(c, room, sender, "m.room.message");
    e.sg = c->early[room];
    world_say(c->w, e);
}

static void member(struct crowd *c, unsigned room, const char *user, const char *content)
{
    struct t_event e = event_in(c, room, user, "m.room.member");
    e.key = user;
    e.content = content;
    say(c, room, e);
}

static void related(struct crowd *c, unsigned room, const char *sender, const char *rel)
{
    struct t_event e = event_in(c, room, sender, "m.room.message");
    e.relates = c->last[room];
    e.topo = dice(&c->random, 3) ? 0 : 2; /* or far below what it relates to, and in no timeline */
    e.rel = rel;
    e.content = world_text(
        c->w, "{\"body\":\"r\",\"m.relates_to\":{\"rel_type\":\"%s\",\"event_id\":\"%s\"}}", rel, e.relates);
    world_say(c->w, e);
}

static void redaction(struct crowd *c, unsigned room, const char *sender)
{
    struct t_event e = event_in(c, room, sender, "m.room.redaction");
    e.redacts = c->last[room];
    e.content = "{}";
    say(c, room, e);
}

static void receipt(struct crowd *c, unsigned room, const char *user, bool private)
{
    struct feed_row row = {
        .receipt = {.room_id = str_of(room_of(c->w, room)),
                    .receipt_type = private ? STR("m.read.private") : STR("m.read"),
                    .user_id = str_of(user),
                    .event_id = str_of(c->last[room]),
                    .thread_id = dice(&c->random, 3) ? STR_ABSENT : STR("main"),
                    .data = STR("{\"ts\":5}")},
    };
    world_send(c->w, STREAM_RECEIPTS, MASTER, ++c->receipt, &row);
}

static void account(struct crowd *c, const char *user, const char *type, const char *room)
{
    struct feed_row row = {
        .account_data = {.user_id = str_of(user), .room_id = str_of(room), .type = str_of(type)}};
    world_send(c->w, STREAM_ACCOUNT_DATA, MASTER, ++c->account, &row);
}

static void own_things(struct crowd *c, unsigned room, const char *user, const char *other)
{
    struct world *w = c->w;
    struct feed_row row = {.cache = {.func = STR("is_user_erased"), .all = true}};
    switch (dice(&c->random, 8)) {
    case 0:
        world_add(&w->ignored, user, other, 0);
        account(c, user, "m.ignored_user_list", NULL);
        break;
    case 1:
        world_add(&w->erased, other, NULL, 0);
        world_send(w, STREAM_CACHES, MASTER, 1000 + c->stream, &row);
        break;
    case 2:
    case 3:
    case 4:
        world_add(&w->data, user, room_of(w, room), world_text(w, "t.%u", dice(&c->random, 3)), "{\"a\":1}",
                  c->account + 1);
        account(c, user, "t", room_of(w, room));
        break;
    default:
        world_add(&w->tags, user, room_of(w, room), "m.favourite", "{}", c->account + 1);
        account(c, user, "m.tag", room_of(w, room));
    }
}

static void step(struct crowd *c)
{
    struct world *w = c->w;
    unsigned room = dice(&c->random, ROOMS);
    const char *user = user_of(w, dice(&c->random, USERS)), *other = user_of(w, dice(&c->random, USERS));
    const char *far = dice(&c->random, 2) ? "@far:y" : user;
    switch (dice(&c->random, 24)) {
    case 0: {
        struct t_event e = event_in(c, room, user, dice(&c->random, 3) ? "m.room.topic" : "m.room.name");
        e.key = "";
        e.content = "{\"topic\":\"t\",\"name\":\"n\"}";
        say(c, room, e);
        break;
    }
    case 1:
        member(c, room, user,
               dice(&c->random, 3) ? "{\"membership\":\"join\",\"displayname\":\"n\"}"
                                   : "{\"membership\":\"leave\"}");
        break;
    case 2:
        if (!dice(&c->random, 4)) { /* state resolution left it out: the state after it is as before */
            struct t_event e = event_in(c, room, user, "m.room.member");
            e.key = user;
            e.content = "{\"membership\":\"leave\"}";
            e.sg = world_group(w, e.room);
            say(c, room, e);
        }
        member(c, room, user, "{\"membership\":\"join\"}");
        break;
    case 3:
        receipt(c, room, user, !dice(&c->random, 3));
        break;
    case 4:
        related(c, room, far,
                dice(&c->random, 2)   ? "m.thread"
                : dice(&c->random, 2) ? "m.replace"
                                      : "m.reference");
        break;
    case 5:
        redaction(c, room, user);
        break;
    case 6:
    case 7:
        own_things(c, room, user, other);
        break;
    case 8: {
        struct str who[] = {str_of(user)};
        struct feed_row row = {.typing = {.room_id = str_of(room_of(w, room)),
                                          .user_ids = who,
                                          .user_ids_count = dice(&c->random, 2)}};
        world_send(w, STREAM_TYPING, MASTER, ++c->receipt, &row);
        break;
    }
    case 9:
        message_from_before(c, room, "@u0:x");
        break;
    default:
        message(c, room, far);
    }
}

static void test_crowds(void **state)
{
    int64_t taken = metric_get(M_sync_sections_shared), same = metric_get_l(M_sync_checked, "same"),
            lacking = metric_get_l(M_sync_checked, "lacking");
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct crowd c;
        if (seed > 1) {
            front_free((struct front **)state);
            *state = front_new();
        }
        release_set(seed % 4 ? release_newest() : (struct release){1, 157, 0});
        begin(&c, *state, seed);
        for (int round = 0; round < 30; round++) {
            for (unsigned i = dice(&c.random, 8); i > 0; i--)
                step(&c);
            world_burst_end(c.w);
            front_run(c.f);
            if (!dice(&c.random, 60))
                front_later(c.f, dice(&c.random, 2 * LIFE_MS));
            const char *filter = filters[dice(&c.random, FILTERS)];
            bool after = !dice(&c.random, 3);
            for (unsigned i = 0; i < USERS; i++)
                ask(&c, user_of(c.w, (i + (unsigned)round) % USERS), filter, after);
        }
    }
    taken = metric_get(M_sync_sections_shared) - taken;
    same = metric_get_l(M_sync_checked, "same") - same;
    lacking = metric_get_l(M_sync_checked, "lacking") - lacking;
    printf("sections taken %lld, answers checked %lld, not checked %lld\n", (long long)taken, (long long)same,
           (long long)lacking);
    assert_true(taken > 5000);
    assert_true(same > 10 * lacking);
}

static int64_t taken_by(struct crowd *c, unsigned user, const char *filter)
{
    int64_t before = metric_get(M_sync_sections_shared);
    ask(c, user_of(c->w, user), filter, false);
    return metric_get(M_sync_sections_shared) - before;
}

/* The first of some initial syncs stands alone, the second leaves sections, the others take them. */
static void test_who_takes(void **state)
{
    struct crowd c;
    begin(&c, *state, 1);
    for (unsigned i = 2; i < ROOMS; i++) {
        for (int k = 0; k < 40; k++)
            message(&c, i, "@far:y");
    }
    world_burst_end(c.w);
    assert_int_equal(taken_by(&c, 6, lazy), 0);
    assert_int_equal(mem_bytes(MEM_sections), 0);
    ask(&c, user_of(c.w, 5), lazy, false); /* takes its own, when loads come between */
    assert_true(mem_bytes(MEM_sections) > 0);
    assert_int_equal(taken_by(&c, 4, lazy), 5);
    assert_int_equal(taken_by(&c, 3, lazy), 5);
    assert_int_equal(taken_by(&c, 6, lazy), 5);
    assert_int_equal(taken_by(&c, 3, filters[2]), 0);

    struct client *x = ask(&c, user_of(c.w, 3), lazy, false); /* in its holes is what is its own */
    assert_has(x->body.p, "\"state_key\":\"@u3:x\"");
    assert_hasnt(x->body.p, "\"state_key\":\"@u4:x\"");

    message(&c, 4, "@far:y"); /* of one room something else is to be said, and once */
    world_burst_end(c.w);
    front_run(c.f);
    assert_int_equal(taken_by(&c, 3, lazy), 4);
    assert_int_equal(taken_by(&c, 4, lazy), 5);

    message(&c, 2, user_of(c.w, 3)); /* its sender has its own member event anyhow */
    world_burst_end(c.w);
    front_run(c.f);
    assert_int_equal(taken_by(&c, 4, lazy), 4);
    assert_int_equal(taken_by(&c, 3, lazy), 4);
    assert_int_equal(taken_by(&c, 5, lazy), 5);
}

static void test_life(void **state)
{
    struct crowd c;
    begin(&c, *state, 1);
    for (int k = 0; k < 40; k++)
        message(&c, 2, "@far:y");
    world_burst_end(c.w);
    ask(&c, user_of(c.w, 4), lazy, false);
    ask(&c, user_of(c.w, 5), lazy, false);
    assert_true(mem_bytes(MEM_sections) > 0);
    int64_t taken = taken_by(&c, 6, lazy);
    assert_true(taken > 0);
    front_later(c.f, LIFE_MS);
    assert_int_equal(taken_by(&c, 3, lazy), taken);
    front_later(c.f, 1);
    assert_int_equal(taken_by(&c, 4, lazy), 0);
    front_later(c.f, LIFE_MS + 1);
    world_tick(c.w);
    assert_int_equal(mem_bytes(MEM_sections), 0);
    assert_int_equal(taken_by(&c, 4, lazy), 0); /* alone again */
    assert_int_equal(mem_bytes(MEM_sections), 0);
    c.f->s->shared.bytes_max = 100; /* what is longer is not kept */
    ask(&c, user_of(c.w, 5), lazy, false);
    assert_int_equal(mem_bytes(MEM_sections), 0);
    assert_int_equal(taken_by(&c, 4, lazy), 0);
}

/* What came with a section counts as sent to the device, the reader's own member event too; but of no other
 * room. */
static void test_members_known(void **state)
{
    struct crowd c;
    begin(&c, *state, 1);
    for (int k = 0; k < 40; k++)
        message(&c, 6, user_of(c.w, 1));
    world_burst_end(c.w);
    static const char one_room[] =
        "{\"room\":{\"rooms\":[\"!room6:x\"],\"state\":{\"lazy_load_members\":true}}}";
    ask(&c, user_of(c.w, 5), one_room, false);
    ask(&c, user_of(c.w, 4), one_room, false);
    struct client *x = ask(&c, user_of(c.w, 3), one_room, false);
    assert_has(x->body.p, "\"state_key\":\"@u1:x\"");
    assert_has(x->body.p, "\"state_key\":\"@u3:x\"");
    const char *next = strstr(x->body.p, "s2");
    next = world_text(c.w, "%.*s", (int)strcspn(next, "\""), next);
    message(&c, 6, user_of(c.w, 1));
    message(&c, 6, user_of(c.w, 2));
    message(&c, 6, user_of(c.w, 3));
    world_burst_end(c.w);
    x = front_get(c.f, world_text(c.w, "filter=%s&since=%s", one_room, next));
    front_run(c.f);
    assert_has(x->body.p, "\"state_key\":\"@u2:x\"");
    assert_hasnt(x->body.p, "\"state_key\":\"@u1:x\"");
    assert_hasnt(x->body.p, "\"state_key\":\"@u3:x\"");
}

/* What is kept of a device after many updates is what one after the other would have left. */
static void test_commit(void **state)
{
    struct crowd c;
    struct world *w;
    begin(&c, *state, 3);
    w = c.w;
    struct user *u = model_user(w->m, STR("@u1:x"));
    struct device *d = model_device(w->m, u, STR("L"));
    for (int round = 0; round < 50; round++) {
        struct sync_run run = {.m = w->m, .cfg = w->cfg, .u = u, .d = d, .a = arena_new(1 << 24)};
        sync_run_init(&run);
        const char *left[100];
        size_t n = 0, updates = dice(&c.random, 400);
        unsigned users = 1 + dice(&c.random, 300);
        vec_push(&run.ll, ((struct ll_update){.d = d, .clear = true}));
        for (size_t i = 0; i < updates; i++) {
            if (!dice(&c.random, 150)) {
                vec_push(&run.ll, ((struct ll_update){.d = d, .clear = true}));
                n = 0;
                continue;
            }
            const char *id = world_text(w, "$m%u_%zu", dice(&c.random, users), i % 3);
            size_t k = 0, who = strcspn(id, "_");
            ll_set(&run, str_n(id, who), str_of(id));
            while (k < n && (strcspn(left[k], "_") != who || strncmp(left[k], id, who) != 0))
                k++;
            if (k == n && n == 100)
                k = 0;
            if (k < n) {
                memmove(&left[k], &left[k + 1], (n - 1 - k) * sizeof *left);
                n--;
            }
            left[n++] = id;
        }
        ll_commit(&run);
        assert_int_equal(model_ll(d)->sent.n, n);
        for (size_t k = 0; k < n; k++)
            assert_string_equal(model_ll(d)->sent.v[k].rec->id.p, left[k]);
        struct arena *a = run.a;
        sync_run_fini(&run);
        arena_free(&a);
    }
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
int run_whole_tests(void)
{
    const struct CMUnitTest tests[] = {T(test_crowds), T(test_who_takes), T(test_life), T(test_members_known),
                                       T(test_commit)};
    return cmocka_run_group_tests_name("sections of initial syncs", tests, NULL, NULL);
}
