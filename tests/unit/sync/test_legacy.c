/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* The endpoints before /sync: paths, parameters, statements, polls, and every way in which one can end. What
 * they answer is compared with the reference by the oracle. */
#include "front.h"
#include "legacy.h"

#define CLIENT "/_matrix/client/"

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
static struct client *ask(struct front *f, const char *target)
{
    struct client *c = front_get(f, target);
    front_run(f);
    return c;
}
static void message(struct front *f, const char *room, int64_t stream)
{
    world_say(f->w, (struct t_event){.id = world_text(f->w, "$m%d", (int)stream),
                                     .room = room,
                                     .stream = stream,
                                     .sender = "@b:x"});
    world_burst_end(f->w);
    front_run(f);
}
static const char *events(struct front *f, const char *more)
{
    return world_text(f->w, CLIENT "v3/events?from=%s&%s", next_batch(f->w), more);
}

static void test_paths(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        int status;
    } cases[] = {
        {CLIENT "v3/events", 0},
        {CLIENT "r0/events", 0},
        {CLIENT "api/v1/initialSync", 0},
        {CLIENT "unstable/initialSync", 0},
        {CLIENT "v3/rooms/!a:b/initialSync", 0},
        {CLIENT "api/v1/rooms/%21a%2Fb/initialSync", 0},
        {CLIENT "v3/rooms//initialSync", 0}, /* a room without a name, as there */
        {CLIENT "v3/rooms/!a/b/initialSync", 404},
        {CLIENT "v3/rooms/initialSync", 404},
        {CLIENT "v3/events/$x", 404},
        {CLIENT "v1/events", 404},
        {CLIENT "api/v1/sync", 404},
        {"/events", 404},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (sync_route(HTTP_M_GET, str_of(cases[i].path)) != cases[i].status)
            fail_msg("%s", cases[i].path);
    }
    assert_int_equal(sync_route(HTTP_M_PUT, STR(CLIENT "v3/events")), 405);
}

static void test_parameters(void **state)
{
    struct front *f = *state;
    static const struct {
        const char *target, *errcode;
    } cases[] = {
        {CLIENT "v3/events?from=x", "M_UNKNOWN"},
        {CLIENT "v3/events?to=x", "M_UNKNOWN"},
        {CLIENT "v3/events?dir=x", "M_INVALID_PARAM"},
        {CLIENT "v3/events?limit=x", "M_INVALID_PARAM"},
        {CLIENT "v3/events?limit=-1", "M_INVALID_PARAM"},
        {CLIENT "v3/events?timeout=x", "M_UNKNOWN"},
        {CLIENT "v3/initialSync?archived=1", "M_INVALID_PARAM"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct client *c = ask(f, cases[i].target);
        if (c->status != 400 || !str_eq(c->body, str_of(cases[i].errcode)))
            fail_msg("%s: %d %.*s", cases[i].target, c->status, STR_ARG(c->body));
    }
    f->guest = true;
    assert_int_equal(ask(f, CLIENT "v3/events?timeout=0")->status, 400);
    assert_int_equal(ask(f, CLIENT "v3/events?timeout=0&room_id=!r:x")->status, 200);
}

static void test_all_rooms_one_statement(void **state)
{
    struct front *f = *state;
    for (int i = 0; i < 5; i++)
        world_room(f->w, world_text(f->w, "!r%d:x", i), 20 + 10 * i, "shared", "@a:x", NULL);
    world_add(&f->w->facts, "!r1:x", NULL, 1);
    world_forget_counts(f->w);
    struct client *c = ask(f, CLIENT "v3/initialSync");
    assert_int_equal(c->status, 200);
    assert_has(c->body.p, "\"room_id\":\"!r1:x\",\"membership\":\"join\",\"visibility\":\"public\"");
    assert_has(c->body.p, "\"room_id\":\"!r2:x\",\"membership\":\"join\",\"visibility\":\"private\"");
    assert_int_equal(f->w->issued[SQL_room_facts], 1);
    assert_int_equal(f->w->last_targets > 0, 1);
    assert_int_equal(f->s->answers.n, 0); /* nothing is kept of it */
}

static void test_one_room(void **state)
{
    struct front *f = *state;
    struct client *c = ask(f, CLIENT "v3/rooms/!r:x/initialSync");
    assert_int_equal(c->status, 200);
    assert_has(c->body.p, "\"membership\":\"join\"");
    assert_has(c->body.p, "\"user_id\":\"@a:x\"");
    assert_int_equal(ask(f, CLIENT "v3/rooms/!no:x/initialSync")->status, 403);
    assert_int_equal(ask(f, CLIENT "v3/rooms/\xff/initialSync")->status, 403); /* never asked for */
    world_add(&f->w->facts, "!r:x", NULL, 2);
    c = ask(f, CLIENT "v3/rooms/!r:x/initialSync");
    assert_int_equal(c->status, 403);
    assert_string_equal(arena_str(f->w->text, c->body).p, "M_UNKNOWN");
}

/* Of an invitation that was refused from afar nothing is known but that; others may have joined since. */
static void test_left_from_afar(void **state)
{
    struct front *f = *state;
    world_room(f->w, "!o:x", 40, "shared", "@b:x", NULL);
    world_event(f->w, (struct t_event){.id = "$no",
                                       .room = "!o:x",
                                       .type = "m.room.member",
                                       .key = "@a:x",
                                       .stream = 60,
                                       .outlier = true,
                                       .content = "{\"membership\":\"leave\"}"});
    struct client *c = ask(f, CLIENT "v3/rooms/!o:x/initialSync");
    assert_int_equal(c->status, 500);
    c = ask(f, CLIENT "v3/initialSync?archived=true");
    assert_int_equal(c->status, 200);
    assert_has(c->body.p, "!o:x");
    assert_hasnt(c->body.p, "$create!o:x");
    assert_hasnt(c->body.p, "$join@b:x!o:x");
}

static void test_poll(void **state)
{
    struct front *f = *state;
    const char *target = events(f, "timeout=30000");
    struct client *c = ask(f, target), *other = ask(f, target);
    assert_int_equal(f->s->counts[REQ_PARKED], 2); /* they do not join */
    message(f, "!r:x", 101);
    assert_has(c->body.p, "\"event_id\":\"$m101\"");
    assert_has(c->body.p, "\"end\":\"s101_");
    assert_has(other->body.p, "$m101");
    c = ask(f, events(f, "timeout=1000"));
    front_later(f, 800);
    assert_int_equal(c->answers, 0);
    front_later(f, 400);
    assert_has(c->body.p, "\"chunk\":[]");
}

/* Nobody wakes who is not in the room: it looks by itself. */
static void test_peeking_poll(void **state)
{
    struct front *f = *state;
    world_room(f->w, "!w:x", 40, "world_readable", "@b:x", NULL);
    struct client *c = ask(f, events(f, "timeout=30000&room_id=!w:x"));
    assert_int_equal(front_state(f), REQ_PARKED);
    message(f, "!w:x", 101);
    front_later(f, 700);
    assert_has(c->body.p, "$m101");
    world_room(f->w, "!s:x", 60, "shared", "@b:x", NULL);
    assert_int_equal(ask(f, events(f, "timeout=0&room_id=!s:x"))->status, 403);
}

/* What is known of one's own rooms (that nobody's presence concerned one since) says nothing of that one. */
static void test_presence_while_peeking(void **state)
{
    struct front *f = *state;
    world_room(f->w, "!w:x", 40, "world_readable", "@c:x", NULL);
    (void)model_room_state(f->w->m, model_room(f->w->m, STR("!r:x"))); /* it is known who is in */
    front_run(f);
    struct client *c = ask(f, events(f, "timeout=30000&room_id=!w:x")),
                  *at_home = ask(f, events(f, "timeout=30000"));
    assert_int_equal(f->s->counts[REQ_PARKED], 2);
    struct feed_row row = {.presence = {.user_id = STR("@c:x"), .state = STR("online")}};
    world_send(f->w, STREAM_PRESENCE, MASTER, 101, &row);
    world_burst_end(f->w);
    front_later(f, 700);
    assert_int_equal(c->answers, 1);
    assert_has(c->body.p, "\"type\":\"m.presence\"");
    assert_has(c->body.p, "\"user_id\":\"@c:x\"");
    assert_int_equal(at_home->answers, 0);
}

static void test_limit_keeps_the_rest(void **state)
{
    struct front *f = *state;
    const char *target = events(f, "timeout=0&limit=2");
    for (int i = 0; i < 5; i++)
        message(f, "!r:x", 101 + i);
    struct client *c = ask(f, target);
    assert_has(c->body.p, "$m102");
    assert_hasnt(c->body.p, "$m103");
    assert_has(c->body.p, "\"end\":\"s102_");
}

/* An answer may have a million events: what rendering one needs is given back. */
static void test_rendering_leaves_nothing(void **state)
{
    struct front *f = *state;
    struct requester rq = {0};
    struct sync_run run = {.m = f->w->m,
                           .cfg = f->w->cfg,
                           .u = model_user(f->w->m, STR("@a:x")),
                           .rq = &rq,
                           .a = arena_new(1 << 20)};
    struct event *ev;
    struct rope out;
    struct err e;
    rope_init(&out);
    assert_int_equal(filter_parse_with(STR("{\"event_format\":\"federation\"}"), 0, &run.f, &e), 0);
    struct evrec *rec = model_rec(f->w->m, STR("$create!r:x"));
    if (model_event(f->w->m, rec, &ev) == LACK)
        world_settle(f->w);
    assert_int_equal(model_event(f->w->m, rec, &ev), HAVE);
    render_event_v1(&run, ev, true, STR("join"), false, &out);
    assert_true(out.bytes > 0);
    assert_int_equal(arena_bytes(run.a), 0);
    rope_fini(&out);
    filter_unref(&run.f);
    arena_free(&run.a);
}

/* What a writer that lags behind brings later is still to come. */
static void test_writers(void **state)
{
    struct front *f = *state;
    world_position(f->w, STREAM_EVENTS, W2, 100);
    const char *target = events(f, "timeout=0");
    message(f, "!r:x", 105);
    struct client *c = ask(f, target);
    assert_has(c->body.p, "$m105");
    assert_has(c->body.p, "\"end\":\"m100~");
}

static void test_statement_fails(void **state)
{
    struct front *f = *state;
    f->w->fail[SQL_room_facts] = 1;
    assert_int_equal(ask(f, CLIENT "v3/rooms/!r:x/initialSync")->status, 500);
    f->w->held[SQL_room_facts] = true;
    struct client *c = ask(f, CLIENT "v3/initialSync");
    assert_int_equal(front_state(f), REQ_LOADING);
    front_gone(c);
    assert_int_equal(sync_in_flight(f->s), 0); /* no old endpoint goes on for nobody */
    memset(f->w->held, 0, sizeof f->w->held);
    world_release(f->w, SQL_room_facts);
    c = ask(f, CLIENT "v3/initialSync");
    assert_int_equal(c->status, 200);
    f->w->held[SQL_room_facts] = true;
    c = ask(f, CLIENT "v3/rooms/!r:x/initialSync");
    sync_stop(&f->s);
    assert_int_equal(c->drops, 1);
}

static void test_drain_and_revocation(void **state)
{
    struct front *f = *state;
    struct client *c = ask(f, events(f, "timeout=30000"));
    front_revoke(f);
    assert_int_equal(c->status, 401);
    c = ask(f, events(f, "timeout=30000"));
    sync_drain(f->s);
    assert_has(c->body.p, "\"chunk\":[]");
}

/* A token that is as far behind in one room as is read, and one event more. */
static void test_token_far_behind(void **state)
{
    struct front *f = *state;
    enum { MOST = 20000 };
    const char *from = next_batch(f->w);
    int64_t first = 1000;
    for (int i = 0; i < MOST; i++)
        world_event(f->w, (struct t_event){.id = world_text(f->w, "$far%d", i),
                                           .room = "!r:x",
                                           .stream = first + i,
                                           .sender = "@b:x"});
    world_position(f->w, STREAM_EVENTS, MASTER, first + MOST - 1);
    world_burst_end(f->w);
    front_run(f);
    const char *target =
        world_text(f->w, CLIENT "v3/events?timeout=0&limit=2&from=s100%s", strchr(from, '_'));
    struct client *c = ask(f, target);
    assert_int_equal(c->status, 200);
    assert_has(c->body.p, "$far0");
    message(f, "!r:x", first + MOST);
    c = ask(f, target);
    assert_int_equal(c->status, 400);
    assert_has(c->body.p, "M_UNKNOWN");
}

static void test_token_ahead(void **state)
{
    struct front *f = *state;
    struct client *c =
        ask(f, CLIENT "v3/events?timeout=30000&from=s500_100_0_100_100_100_100_100_0_100_100_100_100");
    assert_int_equal(front_state(f), REQ_CATCH_UP);
    front_later(f, 10100);
    assert_has(c->body.p, "{\"chunk\":[],\"start\":\"s500_");
    c = ask(f, CLIENT "v3/events?timeout=0&from=t5-12_100_0_100_100_100_100_100_0_100_100_100_100");
    assert_int_equal(c->status, 200); /* the place in the stream counts */
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
int run_legacy_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths),
        T(test_parameters),
        T(test_all_rooms_one_statement),
        T(test_one_room),
        T(test_left_from_afar),
        T(test_poll),
        T(test_peeking_poll),
        T(test_presence_while_peeking),
        T(test_limit_keeps_the_rest),
        T(test_rendering_leaves_nothing),
        T(test_writers),
        T(test_statement_fails),
        T(test_drain_and_revocation),
        T(test_token_far_behind),
        T(test_token_ahead),
    };
    return cmocka_run_group_tests_name("before sync", tests, NULL, NULL);
}
