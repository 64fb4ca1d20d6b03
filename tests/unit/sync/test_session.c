/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* A client that asks again: recognised by what it sends, and looked at anew when that may mean something
 * else. */
#include "front.h"
#include "http_request.h"

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

/* What a client sends; texts live until the test ends. */
static struct sent {
    const char *path, *query, *authorization, *agent, *ip;
} const usual = {"/_matrix/client/v3/sync", "filter=1&since=s1_2~3.4-5&timeout=30000", "Bearer secret",
                 "agent", "192.0.2.1"};

static struct http_req request(struct arena *a, struct sent s)
{
    struct http_req req = {.authorization_count = 1};
    struct str *authorization = ARENA_NEW(a, struct str);
    *authorization = str_of(s.authorization);
    req.authorization = authorization;
    request_texts(&req, a, str_of(s.path), str_of(s.query), str_of(s.ip), str_of(s.agent));
    return req;
}

static bool same_print(const struct http_req *a, const struct http_req *b)
{
    struct hash128 x, y;
    struct str since;
    assert_true(session_print(a, &x, &since));
    assert_true(session_print(b, &y, &since));
    return x.a == y.a && x.b == y.b;
}

/* Nothing but the value of since may differ; and no two parts may be taken for two others. */
static void test_prints(void **state)
{
    (void)state;
    struct arena *mem = arena_new(1 << 20);
    struct http_req a = request(mem, usual), b = request(mem, usual);
    struct hash128 print;
    struct str since;
    assert_true(session_print(&a, &print, &since));
    assert_true(str_eq(since, STR("s1_2~3.4-5")));
    assert_true(same_print(&a, &b));
    struct sent s = usual;
    s.query = "filter=1&since=s99_2&timeout=30000";
    b = request(mem, s);
    assert_true(same_print(&a, &b));
    static const char *const queries[] = {
        "filter=2&since=s1&timeout=30000", "filter=1&since=s1&timeout=30001", "filter=1&since=s1",
        "since=s1&filter=1&timeout=30000", "filter=1&since=s1&timeout=30000&full_state=true"};
    struct sent others[] = {usual, usual, usual, usual, usual};
    others[0].authorization = "Bearer secres";
    others[1].agent = "agenT";
    others[2].ip = "192.0.2.2";
    others[3].path = "/_matrix/client/r0/sync";
    others[4].authorization = "Bearer secretagent";
    others[4].agent = "";
    for (size_t i = 0; i < sizeof queries / sizeof *queries; i++) {
        s.query = queries[i];
        b = request(mem, s);
        assert_false(same_print(&a, &b));
        b = request(mem, others[i]);
        assert_false(same_print(&a, &b));
    }
    static const char *const never[] = {"timeout=3", "since=",       "since=s1%2B2",
                                        "since=a+b", "since=s1;x=1", "xsince=s1"};
    for (size_t i = 0; i < sizeof never / sizeof *never; i++) {
        s.query = never[i];
        b = request(mem, s);
        assert_false(session_print(&b, &print, &since));
    }
    b = request(mem, usual);
    b.authorization_count = 2;
    assert_false(session_print(&b, &print, &since));
    b = request(mem, usual);
    b.method = HTTP_M_HEAD;
    assert_false(session_print(&b, &print, &since));
    arena_free(&mem);
}

static const char *poll_query(struct front *f, const char *more)
{
    return world_text(f->w, "timeout=30000%s&since=%s", more, next_batch(f->w));
}

/* One who polls is parked without a computation as long as nothing comes, and told what does. */
static void test_polls(void **state)
{
    struct front *f = *state;
    struct client *c = front_ask(f, poll_query(f, ""));
    assert_int_equal(f->s->sessions.n, 1);
    for (int i = 1; i <= 3; i++) {
        front_message(f, 100 + i);
        assert_int_equal(c->answers, 1);
        assert_has(c->body.p, world_text(f->w, "$m%d", 100 + i));
        int64_t computes = metric_get(M_sync_computes);
        c = front_ask(f, poll_query(f, ""));
        assert_int_equal(front_state(f), REQ_PARKED);
        assert_int_equal(metric_get(M_sync_computes) - computes, 0);
    }
    assert_int_equal(f->s->sessions.n, 1);
    front_later(f, 31000);
    assert_int_equal(c->answers, 1);
    assert_has(c->body.p, "next_batch");
}

/* Whoever it is, and with a device or without. */
static void test_kinds(void **state)
{
    struct front *f = *state;
    static const enum requester_kind kinds[] = {REQUESTER_USER, REQUESTER_GUEST, REQUESTER_APP_SERVICE,
                                                REQUESTER_MAS};
    int stream = 100, sessions = 0;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        for (int bare = 0; bare < 2; bare++) {
            const char *more = world_text(f->w, "&x=%d", ++sessions);
            f->kind = kinds[k];
            f->no_device = bare;
            struct client *c = front_ask(f, poll_query(f, more));
            int asked = f->auth_asked;
            for (int i = 0; i < 2; i++) {
                front_message(f, ++stream);
                assert_int_equal(c->answers, 1);
                assert_has(c->body.p, world_text(f->w, "$m%d", stream));
                c = front_ask(f, poll_query(f, more));
                assert_int_equal(front_state(f), REQ_PARKED);
            }
            assert_int_equal(f->auth_asked, asked);
            assert_int_equal(f->s->sessions.n, sessions);
            front_message(f, ++stream);
            assert_int_equal(c->answers, 1);
        }
    }
}

/* One token for many users: each has a session of its own, since who it acts as is in the query. */
static void test_masquerade(void **state)
{
    struct front *f = *state;
    static const char *const as[] = {"&user_id=@a:x", "&user_id=@b:x", "&user_id=@a:x&device_id=E"};
    struct client *c[3];
    f->kind = REQUESTER_APP_SERVICE;
    f->no_device = true;
    for (int i = 0; i < 3; i++)
        (void)front_ask(f, poll_query(f, as[i]));
    assert_int_equal(f->s->sessions.n, 3);
    front_message(f, 101);
    int asked = f->auth_asked;
    for (int i = 0; i < 3; i++) {
        struct hash128 print;
        struct str since;
        c[i] = front_ask(f, poll_query(f, as[i]));
        assert_true(str_eq(c[i]->authorization, c[0]->authorization));
        assert_true(session_print(&c[i]->req, &print, &since));
        const struct session *x = session_find(&f->s->sessions, &print);
        assert_non_null(x);
        assert_true(str_eq(requester_user(x->rq), i == 1 ? STR("@b:x") : STR("@a:x")));
        assert_true(str_eq(x->u->user_id, requester_user(x->rq)));
        assert_string_equal(c[i]->req.requester, i == 1 ? "@b:x" : "@a:x");
        for (int k = 0; k < i; k++)
            assert_false(same_print(&c[k]->req, &c[i]->req));
    }
    assert_int_equal(f->auth_asked, asked);
    /* what only one of them is told */
    struct feed_row row = {.account_data = {.user_id = STR("@b:x"), .type = STR("m.some")}};
    world_add(&f->w->data, "@b:x", NULL, "m.some", "{\"secret\":1}", 102);
    world_send(f->w, STREAM_ACCOUNT_DATA, MASTER, 102, &row);
    world_burst_end(f->w);
    front_run(f);
    assert_int_equal(c[0]->answers + c[2]->answers, 0);
    assert_int_equal(c[1]->answers, 1);
    assert_has(c[1]->body.p, "secret");
    front_message(f, 103);
    assert_has(c[0]->body.p, "$m103");
    assert_has(c[2]->body.p, "$m103");
    assert_hasnt(c[0]->body.p, "secret");
    assert_hasnt(c[2]->body.p, "secret");
}

/* Whatever was said of the token or its user, it is looked at anew. */
static void test_suspicion(void **state)
{
    struct front *f = *state;
    struct client *c = front_ask(f, poll_query(f, ""));
    front_message(f, 101);
    assert_int_equal(c->answers, 1);
    front_suspect(f);
    f->auth_fails = "M_UNKNOWN_TOKEN";
    c = front_ask(f, poll_query(f, ""));
    assert_int_equal(c->status, 401);
    assert_int_equal(f->s->sessions.n, 0);
}

/* The rest of the request is known to be good; since is not. */
static void test_bad_since(void **state)
{
    struct front *f = *state;
    (void)front_ask(f, poll_query(f, ""));
    assert_int_equal(f->s->sessions.n, 1);
    struct client *c = front_ask(f, "timeout=30000&since=nonsense");
    assert_int_equal(c->status, 400);
    c = front_ask(f, "timeout=30000&since=s1_2~3");
    assert_int_equal(c->status, 400);
    assert_int_equal(f->s->sessions.n, 1);
    c = front_ask(f, world_text(f->w, "timeout=30000&since=s999999_1_0_1_1_1_1_1_0_1")); /* of the future */
    assert_int_equal(c->answers, 0);
    assert_int_equal(f->s->counts[REQ_CATCH_UP], 1);
}

/* An answer that was lost is given again, byte for byte, until it is acknowledged. */
static void test_lost_answer(void **state)
{
    struct front *f = *state;
    struct client *first = front_ask(f, poll_query(f, ""));
    front_message(f, 101);
    assert_int_equal(first->answers, 1);
    const char *query = poll_query(f, "");
    struct client *a = front_ask(f, query);
    front_message(f, 102);
    assert_has(a->body.p, "$m102");
    front_message(f, 103);
    struct client *b = front_ask(f, query);
    assert_int_equal(b->answers, 1);
    assert_true(str_eq(a->body, b->body));
    const char *p = strstr(a->body.p, "\"next_batch\":\"") + strlen("\"next_batch\":\"");
    const char *acked = world_text(f->w, "timeout=30000&since=%.*s", (int)strcspn(p, "\""), p);
    struct client *c = front_ask(f, acked);
    assert_has(c->body.p, "$m103");
    b = front_ask(f, query); /* both, now */
    assert_has(b->body.p, "$m102");
    assert_has(b->body.p, "$m103");
}

/* What a parameter means may depend on the user's features. */
static void test_feature(void **state)
{
    struct front *f = *state;
    static const char with[] = "&org.matrix.msc4222.use_state_after=true";
    struct client *c = front_ask(f, poll_query(f, with));
    front_message(f, 101);
    assert_has(c->body.p, "\"state\":{");
    c = front_ask(f, poll_query(f, with));
    world_add(&f->w->features, "@a:x", "msc4222", 1);
    const struct str keys[] = {STR("@a:x"), STR("msc4222")};
    struct feed_row row = {.cache = {.func = STR("is_feature_enabled"), .keys = keys, .keys_count = 2}};
    world_send(f->w, STREAM_CACHES, MASTER, 1, &row);
    front_message(f, 102);
    assert_int_equal(c->answers, 1);
    c = front_ask(f, poll_query(f, with));
    front_message(f, 103);
    assert_has(c->body.p, "\"org.matrix.msc4222.state_after\":{");
}

/* A user may have so many; who does not come back is forgotten. */
static void test_bounds(void **state)
{
    struct front *f = *state;
    for (int i = 0; i < 40; i++) {
        struct client *c = front_ask(f, world_text(f->w, "timeout=0&x=%d&since=%s", i, next_batch(f->w)));
        assert_int_equal(c->status, 200);
    }
    assert_int_equal(f->s->sessions.n, 0); /* no polls */
    for (int i = 0; i < 40; i++)
        (void)front_ask(f, world_text(f->w, "timeout=1000&x=%d&since=%s", i, next_batch(f->w)));
    assert_int_equal(f->s->sessions.n, 16);
    struct user *u = model_user_find(f->w->m, STR("@a:x"));
    front_later(f, 2000);
    assert_int_equal(u->pins, 16);
    front_later(f, 160000);
    assert_int_equal(f->s->sessions.n, 0);
    assert_int_equal(u->pins, 0);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
int run_session_tests(void)
{
    const struct CMUnitTest tests[] = {T(test_prints),      T(test_polls),     T(test_kinds),
                                       T(test_masquerade),  T(test_suspicion), T(test_bad_since),
                                       T(test_lost_answer), T(test_feature),   T(test_bounds)};
    return cmocka_run_group_tests_name("sessions", tests, NULL, NULL);
}
