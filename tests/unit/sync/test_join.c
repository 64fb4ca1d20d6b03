/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* The same question twice: at once, after the answer, after its client has gone, with another token. */
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
#define assert_same(a, b)                                                                                 \
    do {                                                                                                  \
        assert_int_equal((a)->status, (b)->status);                                                       \
        if (!str_eq((a)->body, (b)->body))                                                                \
            fail_msg("%s:%d: %.*s and %.*s", __FILE__, __LINE__, STR_ARG((a)->body), STR_ARG((b)->body)); \
    } while (0)

static void test_concurrent_polls_join(void **state)
{
    struct front *f = *state;
    const char *query = poll_query(f);
    struct client *a = front_ask(f, query), *b = front_ask(f, query);
    assert_int_equal(f->s->counts[REQ_PARKED], 1);
    assert_int_equal(f->s->counts[REQ_JOINED], 1);
    f->token = 7;
    struct client *c = front_get(f, query); /* another token: by itself */
    assert_int_equal(f->s->counts[REQ_JOINED], 1);
    assert_int_equal(f->s->counts[REQ_READY], 1);
    int64_t joined = metric_get_l(M_sync_responses, "joined");
    front_gone(c);
    front_message(f, 101);
    assert_int_equal(c->drops, 1);
    assert_int_equal(metric_get_l(M_sync_responses, "joined"), joined + 1);
    assert_has(a->body.p, "$m101");
    assert_same(a, b);
}

/* One that looks the same but is not. */
static void test_what_makes_the_difference(void **state)
{
    struct front *f = *state;
    const char *next = next_batch(f->w);
    const char *others[] = {
        world_text(f->w, "timeout=30000&full_state=true&since=%s", next),
        world_text(f->w, "timeout=30001&since=%s", next),
        world_text(f->w, "timeout=30000&since=%s&filter={}", next),
    };
    front_ask(f, world_text(f->w, "timeout=30000&since=%s", next));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct client *c = front_get(f, others[i]);
        assert_int_equal(f->s->counts[REQ_JOINED], 0);
        front_gone(c);
    }
    front_get(f, world_text(f->w, "since=%s&timeout=30000&set_presence=offline", next));
    assert_int_equal(f->s->counts[REQ_JOINED], 1);
}

static void test_a_lost_answer_is_repeated(void **state)
{
    struct front *f = *state;
    const char *query = world_text(f->w, "since=%s", next_batch(f->w));
    front_message(f, 101);
    struct client *a = front_ask(f, query);
    front_message(f, 102);
    struct client *b = front_ask(f, query);
    assert_has(a->body.p, "$m101");
    assert_same(a, b); /* the old one, as Synapse */
    f->token = 7;
    struct client *c = front_ask(f, query);
    assert_has(c->body.p, "$m102");
    f->token = 0;
    front_later(f, 119000);
    struct client *d = front_ask(f, query);
    assert_same(a, d);
    front_later(f, 2000);
    struct client *e = front_ask(f, query);
    assert_has(e->body.p, "$m102");
}

/* Who goes on from where an answer ended has it: then it is not kept, and asked for again it is a fresh one.
 */
static void test_an_acknowledged_answer_goes(void **state)
{
    struct front *f = *state;
    const char *query = world_text(f->w, "since=%s", next_batch(f->w));
    front_message(f, 101);
    struct client *a = front_ask(f, query);
    assert_int_equal(f->s->answers.n, 1);
    struct str next, rest;
    assert_true(str_cut(str_n(a->body.p + 15, a->body.n - 15), '"', &next, &rest));
    front_message(f, 102);
    f->token = 7; /* another token's question says nothing about it */
    front_ask(f, world_text(f->w, "since=%.*s", STR_ARG(next)));
    assert_int_equal(f->s->answers.n, 2);
    f->token = 0;
    struct client *b = front_ask(f, world_text(f->w, "since=%.*s", STR_ARG(next)));
    assert_has(b->body.p, "$m102");
    assert_hasnt(b->body.p, "$m101");
    assert_int_equal(f->s->answers.n, 2); /* b's in place of a's */
    assert_same(b, front_ask(f, world_text(f->w, "since=%.*s", STR_ARG(next))));
    struct client *c = front_ask(f, query);
    assert_has(c->body.p, "$m101");
    assert_has(c->body.p, "$m102");
}

static void test_nothing_new_is_not_kept(void **state)
{
    struct front *f = *state;
    const char *query = world_text(f->w, "since=%s", next_batch(f->w));
    front_ask(f, query);
    front_message(f, 101);
    struct client *b = front_ask(f, query);
    assert_has(b->body.p, "$m101");
}

/* Who is not served is not served from what was kept either. */
static void test_limit_comes_first(void **state)
{
    struct front *f = *state;
    front_ask(f, "");
    assert_int_equal(f->s->answers.n, 1);
    f->hold_blocking = true;
    struct client *b = front_ask(f, "");
    assert_int_equal(b->answers, 0);
    front_blocking(f, false);
    assert_int_equal(b->status, 403);
}

static void test_off(void **state)
{
    (void)state;
    struct front *f = front_new_with("caches: {sync_response_cache_duration: 0}\n");
    const char *query = world_text(f->w, "since=%s", next_batch(f->w));
    front_message(f, 101);
    front_ask(f, query);
    front_message(f, 102);
    struct client *b = front_ask(f, query);
    assert_has(b->body.p, "$m102");
    f->w->held[SQL_rooms_of_users] = true;
    struct client *c = front_ask(f, "");
    front_gone(c);
    assert_int_equal(f->s->counts[REQ_LOADING], 0);
    front_free(&f);
}

static void test_rows_about_the_token_drop(void **state)
{
    struct front *f = *state;
    const char *query = world_text(f->w, "since=%s", next_batch(f->w));
    front_message(f, 101);
    front_ask(f, query);
    assert_int_equal(f->s->answers.n, 1);
    f->token = 7;
    front_suspect(f);
    assert_int_equal(f->s->answers.n, 1);
    f->token = 0;
    front_suspect(f);
    assert_int_equal(f->s->answers.n, 0);
    assert_int_equal(f->s->answers.bytes, 0);
}

static void ignore_list(struct front *f, int64_t stream)
{
    for (size_t i = 0; i < f->w->data.n; i++)
        f->w->data.v[i].stream = stream;
    if (!f->w->data.n)
        world_add(&f->w->data, "@a:x", NULL, "m.ignored_user_list", "{}", stream);
    struct feed_row row = {.account_data = {.user_id = STR("@a:x"), .type = STR("m.ignored_user_list")}};
    world_send(f->w, STREAM_ACCOUNT_DATA, MASTER, stream, &row);
    world_burst_end(f->w);
    front_run(f);
}

static void test_initial_and_ignore_list(void **state)
{
    struct front *f = *state;
    struct client *a = front_ask(f, "");
    front_message(f, 101);
    struct client *b = front_ask(f, "");
    assert_same(a, b);
    ignore_list(f, 201);
    struct client *c = front_ask(f, "");
    assert_has(c->body.p, "$m101");
    struct client *d = front_ask(f, "");
    assert_same(c, d);
}

static void test_given_up_initial_is_found(void **state)
{
    struct front *f = *state;
    f->w->held[SQL_rooms_of_users] = true;
    struct client *a = front_ask(f, "timeout=5");
    front_gone(a);
    assert_int_equal(a->drops, 1);
    assert_int_equal(front_state(f), REQ_LOADING);
    assert_int_equal(f->presence, 0);
    struct client *b = front_ask(f, "timeout=5"); /* back while it is computed */
    assert_int_equal(f->s->counts[REQ_JOINED], 1);
    front_gone(b);
    assert_int_equal(front_state(f), REQ_LOADING);
    f->w->held[SQL_rooms_of_users] = false;
    world_release(f->w, SQL_rooms_of_users);
    front_run(f);
    assert_int_equal(sync_in_flight(f->s), 0);
    int64_t computes = metric_get(M_sync_computes);
    struct client *c = front_ask(f, "timeout=5"); /* back later */
    assert_has(c->body.p, "!r:x");
    assert_int_equal(metric_get(M_sync_computes), computes);
}

static void test_abandoned_ends(void **state)
{
    struct front *f = *state;
    f->w->held[SQL_rooms_of_users] = true;
    struct client *a = front_ask(f, "timeout=5");
    front_gone(a);
    front_later(f, 100000);
    struct client *b = front_ask(f, "timeout=5");
    front_later(f, 100000);
    assert_int_equal(b->answers, 0);
    front_gone(b);
    front_later(f, 119000);
    assert_int_equal(f->s->counts[REQ_LOADING], 1);
    front_later(f, 2000);
    assert_int_equal(sync_in_flight(f->s), 0);
    assert_int_equal(f->s->abandoned.n, 0);
}

static void test_abandoned_share(void **state)
{
    struct front *f = *state;
    f->w->held[SQL_rooms_of_users] = true;
    for (int i = 0; i < 8; i++) {
        struct client *c = front_ask(f, world_text(f->w, "timeout=%d&since=%s", 30000 + i, next_batch(f->w)));
        front_gone(c);
        assert_int_equal(c->drops, 1);
    }
    assert_int_equal(f->s->counts[REQ_LOADING], 4);
    sync_drain(f->s);
    front_run(f);
    assert_int_equal(sync_in_flight(f->s), 0);
}

static void test_leader_goes_the_joined_stays(void **state)
{
    struct front *f = *state;
    const char *query = poll_query(f);
    struct client *a = front_ask(f, query), *b = front_ask(f, query);
    front_gone(a);
    assert_int_equal(f->s->counts[REQ_PARKED], 1);
    front_message(f, 101);
    assert_has(b->body.p, "$m101");
    struct client *c = front_ask(f, poll_query(f)), *d = front_ask(f, poll_query(f));
    front_gone(c);
    front_gone(d);
    assert_int_equal(sync_in_flight(f->s), 0); /* nobody waits for it: a parked poll ends */
}

/* A token that has to be bounded after its client, and with it the request's memory, has gone. */
static void test_bounded_without_a_client(void **state)
{
    struct front *f = *state;
    const char *query = "timeout=30000&since=s500_100_0_100_100_100_100_100_0_100_100_100_100";
    f->w->held[SQL_sequences] = true;
    struct client *a = front_ask(f, query), *b = front_ask(f, query);
    assert_int_equal(f->s->counts[REQ_CATCH_UP], 1);
    front_gone(a);
    f->w->sequences.v[0].n = 100;
    f->w->held[SQL_sequences] = false;
    world_release(f->w, SQL_sequences);
    front_later(f, 10100);
    assert_int_equal(b->status, 200);
}

static void test_errors_are_shared_and_not_kept(void **state)
{
    struct front *f = *state;
    f->w->held[SQL_rooms_of_users] = true;
    struct client *a = front_ask(f, "timeout=5"), *b = front_ask(f, "timeout=5");
    f->w->fail[SQL_rooms_of_users] = 1;
    f->w->held[SQL_rooms_of_users] = false;
    world_release(f->w, SQL_rooms_of_users);
    front_run(f);
    assert_int_equal(a->status, 500);
    assert_same(a, b);
    struct client *c = front_ask(f, "timeout=5");
    assert_int_equal(c->status, 200);
}

static void test_revoked_ends_all_of_the_token(void **state)
{
    struct front *f = *state;
    const char *query = poll_query(f);
    struct client *a = front_ask(f, query), *b = front_ask(f, query);
    front_revoke(f);
    assert_int_equal(a->status, 401);
    assert_int_equal(b->status, 401);
    assert_int_equal(f->s->answers.n, 0);
}

static void test_joined_share(void **state)
{
    struct front *f = *state;
    const char *query = poll_query(f);
    struct client *c[4];
    for (int i = 0; i < 4; i++)
        c[i] = front_ask(f, query);
    assert_int_equal(f->s->counts[REQ_PARKED] + f->s->counts[REQ_JOINED], 2); /* parked_per_user_max */
    assert_int_equal(c[1]->status, 200);
    assert_int_equal(c[2]->status, 200);
    struct client *d = front_get(f, "timeout=5"); /* initial: nothing that it could be told instead */
    struct client *e = front_get(f, "timeout=5");
    assert_int_equal(e->status, 429);
    assert_int_equal(d->answers, 0);
}

/* The last who has joined a poll without a client makes room for another: the poll goes on for that one. */
static void test_share_of_a_poll_without_client(void **state)
{
    struct front *f = *state;
    const char *query = poll_query(f);
    struct client *a = front_ask(f, query), *b = front_ask(f, query); /* parked_per_user_max */
    front_gone(a);
    struct client *c = front_ask(f, query);
    assert_int_equal(b->status, 200);
    assert_int_equal(f->s->counts[REQ_PARKED], 1);
    assert_int_equal(f->s->counts[REQ_JOINED], 1);
    front_message(f, 101);
    assert_has(c->body.p, "$m101");
}

static void test_queued_keeps_its_place(void **state)
{
    struct front *f = *state;
    f->w->held[SQL_rooms_of_users] = true;
    front_ask(f, "timeout=1");
    struct client *q = front_ask(f, "timeout=2");
    assert_int_equal(f->s->counts[REQ_QUEUED], 1);
    front_gone(q);
    assert_int_equal(f->s->counts[REQ_QUEUED], 1);
    struct client *again = front_ask(f, "timeout=2");
    assert_int_equal(f->s->counts[REQ_JOINED], 1);
    f->w->held[SQL_rooms_of_users] = false;
    world_release(f->w, SQL_rooms_of_users);
    front_run(f);
    assert_int_equal(again->status, 200);
}

/* ---- the table of kept answers ---- */

static struct requester token_of(uint64_t n)
{
    return (struct requester){.refs = 1000, .token_key = {n}};
}

static void test_budget(void **state)
{
    (void)state;
    struct front *f = front_new();
    struct answers a;
    struct rope body;
    struct requester rq = token_of(1), other = token_of(2);
    char *big = xcalloc(1, 40000);
    rope_init(&body);
    rope_put(&body, str_n(big, 40000));
    answers_init(&a, 1000, 100000);
    answers_keep(&a, &rq, 1, 0, 0, &body);
    answers_keep(&a, &other, 2, 0, 0, &body);
    assert_non_null(answers_find(&a, &rq, 1, 0));
    answers_keep(&a, &rq, 3, 0, 0, &body); /* the oldest goes */
    assert_null(answers_find(&a, &rq, 1, 0));
    assert_null(answers_find(&a, &rq, 2, 0));
    assert_non_null(answers_find(&a, &other, 2, 0));
    answers_keep(&a, &rq, 3, 0, 0, &body);
    assert_int_equal(a.n, 2);
    for (int i = 0; i < 3; i++)
        rope_put(&body, str_n(big, 40000));
    answers_keep(&a, &rq, 4, 0, 0, &body); /* too large for all of it */
    assert_int_equal(a.n, 2);
    answers_expire(&a, clock_mono_ms() + 1000);
    assert_int_equal(a.n, 0);
    assert_int_equal(a.bytes, 0);
    assert_int_equal(rq.refs, 1000);
    rope_fini(&body);
    rope_init(&body);
    rope_put(&body, STR("x"));
    a.bytes_max = 1 << 20;
    for (uint64_t i = 0; i < 300; i++)
        answers_keep(&a, &rq, i, 0, 0, &body);
    assert_int_equal(a.n, 256);
    assert_null(answers_find(&a, &rq, 0, 0));
    assert_non_null(answers_find(&a, &rq, 299, 0));
    answers_fini(&a);
    assert_int_equal(rq.refs, 1000);
    rope_fini(&body);
    free(big);
    front_free(&f);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
int run_join_tests(void)
{
    const struct CMUnitTest tests[] = {
        T(test_concurrent_polls_join),
        T(test_what_makes_the_difference),
        T(test_a_lost_answer_is_repeated),
        T(test_an_acknowledged_answer_goes),
        T(test_nothing_new_is_not_kept),
        T(test_limit_comes_first),
        cmocka_unit_test(test_off),
        T(test_rows_about_the_token_drop),
        T(test_initial_and_ignore_list),
        T(test_given_up_initial_is_found),
        T(test_abandoned_ends),
        T(test_abandoned_share),
        T(test_leader_goes_the_joined_stays),
        T(test_bounded_without_a_client),
        T(test_errors_are_shared_and_not_kept),
        T(test_revoked_ends_all_of_the_token),
        T(test_joined_share),
        T(test_share_of_a_poll_without_client),
        T(test_queued_keeps_its_place),
        cmocka_unit_test(test_budget),
    };
    return cmocka_run_group_tests_name("joining", tests, NULL, NULL);
}
