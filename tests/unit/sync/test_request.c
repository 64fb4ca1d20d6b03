/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Requests from arrival to answer, and every way in which they can end in between. front_free checks that
 * each was answered or dropped exactly once and gave back what it held. */
#include "front.h"

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

static const char *poll_query(struct front *f)
{
    return world_text(f->w, "timeout=30000&since=%s", next_batch(f->w));
}

static void test_initial_and_poll(void **state)
{
    struct front *f = *state;
    struct client *c = front_get(f, "timeout=30000");
    front_run(f);
    assert_int_equal(c->status, 200);
    assert_has(c->body.p, "\"join\":{\"!r:x\"");
    assert_has(c->body.p, "\"device_one_time_keys_count\":{\"signed_curve25519\":50}");
    struct client *p = front_get(f, poll_query(f));
    front_run(f);
    assert_int_equal(front_state(f), REQ_PARKED);
    front_message(f, 101);
    assert_int_equal(p->status, 200);
    assert_has(p->body.p, "$m101");
    struct client *q = front_get(f, poll_query(f));
    front_later(f, 29900);
    assert_int_equal(q->answers, 0);
    front_later(f, 300);
    assert_int_equal(q->status, 200);
    assert_hasnt(q->body.p, "\"rooms\"");
}

static void test_parameters(void **state)
{
    struct front *f = *state;
    static const struct {
        const char *query, *errcode;
        int status;
    } cases[] = {
        {"from=x", "M_UNKNOWN", 400},
        {"timeout=x", "M_INVALID_PARAM", 400},
        {"timeout=-1", "M_INVALID_PARAM", 400},
        {"since=", "M_UNKNOWN", 400},
        {"since=nonsense", "M_UNKNOWN", 400},
        {"set_presence=busy", "M_INVALID_PARAM", 400},
        {"full_state=1", "M_INVALID_PARAM", 400},
        {"filter=x", "M_INVALID_PARAM", 400},
        {"filter=7", "M_INVALID_PARAM", 400},
        {"filter={", "M_NOT_JSON", 400},
        {"filter={\"a\":1e400}", "M_NOT_JSON", 400}, /* decided: Synapse reads infinity */
        {"filter={\"room\":1}", "M_UNKNOWN", 400},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct client *c = front_get(f, cases[i].query);
        front_run(f);
        if (c->status != cases[i].status || !str_eq(c->body, str_of(cases[i].errcode)))
            fail_msg("%s: %d %.*s", cases[i].query, c->status, STR_ARG(c->body));
    }
    f->auth_fails = "M_MISSING_TOKEN";
    struct client *c = front_get(f, "");
    assert_int_equal(c->status, 401);
}

/* ---- every state, and what can happen in it ---- */

/* Brings one request into the state. */
static struct client *reach(struct front *f, enum req_state st)
{
    struct world *w = f->w;
    struct client *c = NULL;
    switch (st) {
    case REQ_AUTH:
        f->hold_auth = true;
        c = front_get(f, poll_query(f));
        break;
    case REQ_FILTER:
        world_add(&w->filters, "@a:x", "{}", 7);
        w->held[SQL_filters_by_id] = true;
        c = front_get(f, world_text(w, "filter=7&%s", poll_query(f)));
        front_run(f);
        break;
    case REQ_BLOCKING:
        f->hold_blocking = true;
        c = front_get(f, poll_query(f));
        break;
    case REQ_HELD:
        w->feed = FEED_DISCONNECTED;
        sync_feed_state(f->s, FEED_DISCONNECTED);
        c = front_get(f, poll_query(f));
        break;
    case REQ_CATCH_UP:
        w->held[SQL_sequences] = true;
        c = front_get(f, "timeout=30000&since=s500_100_0_100_100_100_100_100_0_100_100_100_100");
        front_run(f);
        break;
    case REQ_READY:
        c = front_get(f, poll_query(f));
        break;
    case REQ_LOADING:
        w->held[SQL_rooms_of_users] = true;
        c = front_get(f, poll_query(f));
        front_run(f);
        break;
    case REQ_AHEAD: /* the membership is in the database; its row has not come */
        world_event(w, (struct t_event){.id = "$early",
                                        .room = "!r:x",
                                        .type = "m.room.member",
                                        .key = "@a:x",
                                        .sender = "@a:x",
                                        .stream = 150,
                                        .content = "{\"membership\":\"join\"}"});
        c = front_get(f, poll_query(f));
        front_run(f);
        break;
    case REQ_PARKED:
        c = front_get(f, poll_query(f));
        front_run(f);
        break;
    case REQ_QUEUED: {
        w->held[SQL_rooms_of_users] = true;
        struct client *first = front_get(f, "");
        front_run(f);
        assert_int_equal(front_state(f), REQ_LOADING);
        (void)first;
        c = front_get(f, "timeout=1");
        assert_int_equal(f->s->counts[REQ_QUEUED], 1);
        return c;
    }
    case REQ_JOINED:
        front_get(f, poll_query(f));
        front_run(f);
        c = front_get(f, poll_query(f));
        assert_int_equal(f->s->counts[REQ_JOINED], 1);
        return c;
    case REQ_DONE:
    case REQ_STATE_COUNT:
        fail();
    }
    if (front_state(f) != st)
        fail_msg("state %d instead of %d", front_state(f), st);
    return c;
}

static void let_go(struct front *f)
{
    memset(f->w->held, 0, sizeof f->w->held);
    f->hold_auth = f->hold_blocking = false;
    front_auth(f);
    front_blocking(f, true);
    f->w->feed = FEED_LIVE;
    sync_feed_state(f->s, FEED_LIVE);
    world_position(f->w, STREAM_EVENTS, MASTER, 600);
    world_burst_end(f->w);
    front_later(f, 100);
}

enum deed { LEAVE_ALONE, GONE, REVOKED, DRAINED, STOPPED, DEEDS };

static void test_every_end(void **state)
{
    (void)state;
    for (int st = REQ_AUTH; st < REQ_DONE; st++) {
        for (int deed = 0; deed < DEEDS; deed++) {
            struct front *f = front_new();
            struct client *c = reach(f, (enum req_state)st);
            switch ((enum deed)deed) {
            case LEAVE_ALONE:
                break;
            case GONE:
                front_gone(c);
                break;
            case REVOKED:
                front_revoke(f);
                if (st != REQ_AUTH && st != REQ_FILTER)
                    assert_int_equal(c->status, 401);
                break;
            case DRAINED:
                sync_drain(f->s);
                break;
            case STOPPED:
                sync_stop(&f->s);
                assert_int_equal(c->drops, 1);
                assert_int_equal(f->auth_n + f->blocking_n, 0); /* nothing calls back */
                break;
            case DEEDS:
                break;
            }
            if (f->s) {
                let_go(f);
                if (deed == LEAVE_ALONE && st != REQ_PARKED && st != REQ_JOINED)
                    front_later(f, 31000);
                /* A revoked token is noticed by those who have been let in; the others would be told by the
                 * next check. */
                if (deed == DRAINED || deed == GONE ||
                    (deed == REVOKED && st != REQ_AUTH && st != REQ_FILTER)) {
                    front_later(f, 100);
                    if (c->answers + c->drops != 1)
                        fail_msg("state %d deed %d: still held", st, deed);
                }
                if (deed == GONE)
                    assert_int_equal(c->drops + (c->answers && c->status != 200), 1);
            }
            front_free(&f);
        }
    }
}

/* Wants that were never sent come back when the model ends: not to a request that is gone. */
static void test_stop_with_unsent_wants(void **state)
{
    struct front *f = *state;
    front_get(f, "");
    struct sync_req *r = container_of(f->s->states[REQ_READY].next, struct sync_req, by_state);
    req_compute(r);
    assert_int_equal(front_state(f), REQ_LOADING);
    assert_non_null(f->w->m->open);
    sync_stop(&f->s);
}

static void test_held_while_feed_is_down(void **state)
{
    struct front *f = *state;
    struct client *c = reach(f, REQ_HELD);
    front_later(f, 29000);
    assert_int_equal(c->answers, 0);
    front_later(f, 1100);
    assert_int_equal(c->status, 200);
    assert_has(c->body.p, world_text(f->w, "\"next_batch\":\"%s\"", next_batch(f->w))); /* its own token */
    assert_hasnt(c->body.p, "device_one_time_keys_count"); /* not known: not said to be none */
    struct client *d = front_get(f, "");
    front_later(f, 31000);
    assert_int_equal(d->status, 503);
}

static void test_parked_per_user(void **state)
{
    struct front *f = *state;
    struct client *c[3];
    for (int i = 0; i < 3; i++) {
        c[i] = front_get(f, world_text(f->w, "timeout=3000%d&since=%s", i, next_batch(f->w)));
        front_run(f);
    }
    assert_int_equal(c[0]->status, 200);
    assert_int_equal(c[1]->answers + c[2]->answers, 0);
    front_message(f, 101);
    assert_has(c[1]->body.p, "$m101");
    assert_has(c[2]->body.p, "$m101");
}

static void test_initial_queue(void **state)
{
    struct front *f = *state;
    struct client *c = reach(f, REQ_QUEUED), *d = front_get(f, "timeout=2");
    assert_int_equal(d->status, 429);
    let_go(f);
    front_later(f, 100);
    assert_int_equal(c->status, 200);
}

static void test_ahead_token_is_bounded(void **state)
{
    struct front *f = *state;
    struct client *c = reach(f, REQ_CATCH_UP);
    f->w->sequences.v[0].n = 100; /* the sequence stands at 100: the token is of another life */
    memset(f->w->held, 0, sizeof f->w->held);
    front_run(f);
    (void)c;
    struct client *d = front_get(f, "timeout=0&since=s500_100_0_100_100_100_100_100_0_100_100_100_100");
    front_run(f);
    assert_int_equal(d->status, 200);
    front_later(f, 10100);
    assert_int_equal(c->status, 200);
    assert_has(c->body.p, "s500_"); /* was read before: unchanged */
}

static void test_failed_load(void **state)
{
    struct front *f = *state;
    struct client *c = reach(f, REQ_LOADING);
    f->w->fail[SQL_rooms_of_users] = 1;
    world_release(f->w, SQL_rooms_of_users);
    assert_int_equal(c->status, 500);
}

static void test_wake_while_loading(void **state)
{
    struct front *f = *state;
    struct client *c = reach(f, REQ_LOADING);
    front_message(f, 101);
    world_release(f->w, SQL_rooms_of_users);
    front_run(f);
    assert_has(c->body.p, "$m101");
}

static void test_typing_after_a_restart(void **state)
{
    struct front *f = *state;
    struct str who[] = {STR("@b:x")};
    struct feed_row row = {.typing = {.room_id = STR("!r:x"), .user_ids = who, .user_ids_count = 1}};
    world_send(f->w, STREAM_TYPING, MASTER, 500, &row);
    world_burst_end(f->w);
    struct client *c = front_get(f, poll_query(f)); /* a token with typing 500 */
    front_run(f);
    assert_int_equal(front_state(f), REQ_PARKED);
    f->w->sink.reset(f->w->sink.arg, STREAM_TYPING, MASTER);
    world_send(f->w, STREAM_TYPING, MASTER, 3, &row);
    world_burst_end(f->w);
    front_run(f);
    assert_int_equal(c->status, 200);
    assert_has(c->body.p, "{\"type\":\"m.typing\",\"content\":{\"user_ids\":[\"@b:x\"]}}");
}

/* rc_presence.per_user: what comes too often says nothing of presence, and is answered all the same. */
static void presence_rate(const char *yaml, int at_once, int after_ms)
{
    struct front *f = front_new_with(yaml);
    char query[32];
    int n = 0;
    for (int i = 0; i < at_once + 2; i++) {
        snprintf(query, sizeof query, "timeout=%d", n++); /* another question each time */
        assert_int_equal(front_get(f, query)->answers, 0);
        front_run(f);
    }
    assert_int_equal(f->presence_begun, at_once);
    front_get(f, "set_presence=offline");
    front_run(f);
    front_later(f, after_ms - 1000);
    snprintf(query, sizeof query, "timeout=%d", n++);
    front_get(f, query);
    front_run(f);
    assert_int_equal(f->presence_begun, at_once);
    front_later(f, 1000);
    snprintf(query, sizeof query, "timeout=%d", n++);
    front_get(f, query);
    front_run(f);
    assert_int_equal(f->presence_begun, at_once + 1);
    f->user = "@b:x"; /* each user has a rate of its own */
    front_get(f, "");
    front_run(f);
    assert_int_equal(f->presence_begun, at_once + 2);
    for (size_t i = 0; i < f->clients.n; i++)
        assert_int_equal(f->clients.v[i]->status, 200);
    front_free(&f);
}

static void test_presence_rate(void **state)
{
    (void)state;
    presence_rate("", 1, 10000);
    presence_rate("rc_presence: {per_user: {per_second: 0.25, burst_count: 3}}\n", 3, 4000);
    presence_rate("rc_presence: {per_user: {per_second: 0.6, burst_count: 3}}\n", 3, 1667);
}

/* The last token's hash is remembered: for that token alone, and only if there is room for it. */
static void test_since_hash(void **state)
{
    (void)state;
    struct front *f = front_new_with("");
    static char tall[TOKEN_TEXT_MAX + 100];
    memset(tall, 's', sizeof tall);
    const struct str texts[] = {STR("s1_2_3"),
                                STR("s1_2_3"),
                                STR("s1_2"),
                                STR("s1_2_3_4"),
                                STR("s1_2_4_4"),
                                str_n(tall, TOKEN_TEXT_MAX),
                                str_n(tall, sizeof tall),
                                STR("")};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct sync_req r = {.s = f->s, .since_text = texts[i]};
        assert_true(req_since_hash(&r) == str_hash(texts[i]));
        assert_true(f->s->since.n <= sizeof f->s->since.text);
    }
    front_free(&f);
}

/* A rate of nought: a burst, and no more. */
static void test_presence_no_rate(void **state)
{
    (void)state;
    struct front *f = front_new_with("rc_presence: {per_user: {per_second: 0, burst_count: 2}}\n");
    char query[32];
    for (int i = 0; i < 5; i++) {
        snprintf(query, sizeof query, "timeout=%d", i);
        front_get(f, query);
        front_run(f);
        front_later(f, 40000);
    }
    assert_int_equal(f->presence_begun, 2);
    front_free(&f);
}

/* What stands there since the clock's low bits went round is no debt. */
static void test_presence_after_weeks(void **state)
{
    (void)state;
    struct front *f = front_new_with("");
    front_get(f, "set_presence=offline");
    front_run(f);
    struct user *u = model_user_find(f->w->m, STR("@a:x"));
    assert_non_null(u);
    assert_true((int32_t)(u->presence_ms - (uint32_t)clock_mono_coarse_ms()) <=
                0); /* offline is not counted */
    u->presence_ms += INT32_MAX - 5000;
    front_get(f, "timeout=1");
    front_run(f);
    assert_int_equal(f->presence_begun, 1);
    front_free(&f);
}

/* Synapse was put back to a release with shorter tokens while the request was under way: its own is none any
 * more, wherever it is looked at next. Somebody else asks, so that it is not remembered as it was parsed. */
static void test_token_became_none(void **state)
{
    (void)state;
    for (int st = REQ_AUTH; st < REQ_DONE; st++) {
        for (int late = 0; late < 2 && st != REQ_QUEUED; late++) { /* who is queued has no token */
            struct front *f = front_new();
            struct client *c = reach(f, (enum req_state)st);
            token_arity_set(10);
            f->user = "@b:x";
            front_get(f, "timeout=0&since=s99_100_0_100_100_100_100_100_0_100");
            f->user = NULL;
            front_run(f);
            if (late) /* its time is over before anything else */
                front_later(f, 31000);
            let_go(f);
            front_later(f, 31000);
            if (c->answers != 1 || c->status != 400 || !str_eq(c->body, STR("M_UNKNOWN")))
                fail_msg("state %d late %d: %d answers, status %d, %.*s", st, late, c->answers, c->status,
                         STR_ARG(c->body));
            token_arity_set(TOKEN_FIELD_COUNT);
            front_free(&f);
        }
    }
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int run_request_tests(void)
{
    const struct CMUnitTest tests[] = {
        T(test_initial_and_poll),
        T(test_parameters),
        cmocka_unit_test(test_every_end),
        T(test_stop_with_unsent_wants),
        T(test_held_while_feed_is_down),
        T(test_parked_per_user),
        T(test_initial_queue),
        T(test_ahead_token_is_bounded),
        T(test_failed_load),
        T(test_wake_while_loading),
        T(test_typing_after_a_restart),
        cmocka_unit_test(test_presence_rate),
        cmocka_unit_test(test_presence_no_rate),
        cmocka_unit_test(test_since_hash),
        cmocka_unit_test(test_presence_after_weeks),
        cmocka_unit_test(test_token_became_none),
    };
    return cmocka_run_group_tests_name("requests", tests, NULL, NULL);
}
