/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* A row is read, changes, its invalidation arrives, and only then the answer: nothing stale may be kept or
 * believed. */
#include "auth_test.h"
#include "support/http_request.h"

static void lookup_against_logout(void **state)
{
    static const char *const funcs[][2] = {{"get_user_by_access_token", "syt_alice"},
                                           {"get_user_by_access_token", NULL},
                                           {"get_user_by_id", "@alice:hs.test"},
                                           {"get_user_by_id", NULL}};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct fix *f = fix_new(NULL);
        struct outcome o;
        f->hold = true;
        ask_token(f, "syt_alice", &o);
        fix_pump(f); /* the row has been read */
        assert_int_equal(f->statements[SQL_auth_tokens], 1);
        fix_token(f, "syt_alice")->gone = true;
        row(f, funcs[i][0], funcs[i][1], NULL);
        fix_deliver(f);
        assert_int_equal(o.calls, 0); /* not believed: asked again */
        f->hold = false;
        fix_pump(f);
        assert_refused(&o, 401, "M_UNKNOWN_TOKEN", "Invalid access token passed.", 0, funcs[i][0]);
        assert_int_equal(f->statements[SQL_auth_tokens], 2);
        fix_free(&f);
    }
}

static void lookup_against_unknown(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o;

    (void)state;
    fix_token(f, "syt_alice")->gone = true;
    f->hold = true;
    ask_token(f, "syt_alice", &o);
    fix_pump(f);
    fix_token(f, "syt_alice")->gone = false;
    row(f, "get_user_by_access_token", "syt_alice", NULL);
    f->hold = false;
    fix_pump(f);
    assert_accepted(&o, "@alice:hs.test", "ALICE", "came to be");
    outcome_free(&o);
    fix_free(&f);
}

static void rows_about_others_do_not_matter(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o;

    (void)state;
    f->hold = true;
    ask_token(f, "syt_alice", &o);
    fix_pump(f);
    row(f, "get_user_by_access_token", "syt_bob", NULL);
    row(f, "get_user_by_id", "@bob:hs.test", NULL);
    row(f, "get_device", "@alice:hs.test", NULL);
    fix_deliver(f);
    assert_accepted(&o, "@alice:hs.test", "ALICE", "others");
    assert_int_equal(f->statements[SQL_auth_tokens], 1);
    outcome_free(&o);
    fix_free(&f);
}

/* Rows that never stop: the last answer is given, not kept, and checked as soon as somebody parks on it. */
static void endless_rows(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o, again;

    (void)state;
    f->hold = true;
    ask_token(f, "syt_alice", &o);
    for (int i = 0; i < AUTH_TRIES_MAX; i++) {
        fix_pump(f);
        assert_int_equal(o.calls, 0);
        row(f, "get_user_by_id", "@alice:hs.test", NULL);
        fix_deliver(f);
    }
    assert_accepted(&o, "@alice:hs.test", "ALICE", "at last");
    assert_int_equal(f->statements[SQL_auth_tokens], AUTH_TRIES_MAX);
    assert_false(again_token(f, o.r, "syt_alice"));
    struct watched w;
    fix_token(f, "syt_alice")->gone = true;
    watch(f, &w, o.r);
    f->hold = false;
    fix_pump(f);
    assert_int_equal(w.ended, 1);
    again = asked_token(f, "syt_alice");
    assert_int_equal(f->statements[SQL_auth_tokens], AUTH_TRIES_MAX + 1);
    assert_int_equal(again.status, 401);
    outcome_free(&o);
    fix_free(&f);
}

static void check_against_rows(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o = asked_token(f, "syt_alice");
    struct watched w;

    (void)state;
    watch(f, &w, o.r);
    outcome_free(&o);
    f->hold = true;
    row(f, "get_user_by_id", "@alice:hs.test", NULL);
    fix_pump(f); /* read: all is well */
    fix_user(f, "@alice:hs.test")->locked = true;
    row(f, "get_user_locked_status", "@alice:hs.test", NULL);
    f->hold = false;
    fix_pump(f);
    assert_int_equal(w.ended, 1);
    assert_string_equal(w.errcode, "M_USER_LOCKED");

    /* locked and unlocked again before the answer comes: nobody is thrown out */
    fix_user(f, "@alice:hs.test")->locked = false;
    o = asked_token(f, "now");
    watch(f, &w, o.r);
    outcome_free(&o);
    f->hold = true;
    fix_user(f, "@alice:hs.test")->locked = true;
    row(f, "get_user_locked_status", "@alice:hs.test", NULL);
    fix_pump(f);
    fix_user(f, "@alice:hs.test")->locked = false;
    row(f, "get_user_locked_status", "@alice:hs.test", NULL);
    f->hold = false;
    fix_pump(f);
    assert_int_equal(w.ended, 0);
    auth_watch_del(&w.w);
    fix_free(&f);
}

static void with_mas(struct config *cfg)
{
    cfg->mas.enabled = true;
    cfg->mas.endpoint = STR("http://mas.test");
}

static void device_against_deletion(void **state)
{
    static const char *const keys[][2] = {{"@bob:hs.test", NULL}, {"@bob:hs.test", "BOB"}, {NULL, NULL}};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct fix *f = fix_new(with_mas);
        struct outcome o;
        f->reply = (struct mas_reply){0, 200,
                                      "{\"active\":true,\"username\":\"bob\",\"scope\":\"urn:matrix:client:"
                                      "api:*\",\"device_id\":\"BOB\"}"};
        ask_token(f, "mat", &o);
        while (
            !f->statements[SQL_auth_devices]) { /* the introspection and the user pass; the device is read */
            f->hold = f->statements[SQL_auth_users] && f->hold;
            fix_pump_once(f);
            if (!f->statements[SQL_auth_devices]) {
                fix_deliver(f);
                f->hold = true;
                fix_pump(f);
            }
        }
        f->hold = true;
        fix_device(f, "@bob:hs.test", "BOB")->gone = true;
        row(f, "get_device", keys[i][0], keys[i][1]);
        f->hold = false;
        fix_pump(f);
        assert_refused(&o, 401, "M_UNKNOWN_TOKEN", "Token is not active", 0, "device");
        assert_int_equal(f->statements[SQL_auth_devices], 2);
        fix_free(&f);
    }
}

/* The first of several who wait for one answer invalidates it, and asks again, while it is being handed out.
 */
static struct fix *nested_fix;
static struct outcome nested[3];
static int nested_calls;

static void nested_done(void *arg, struct requester *r, const struct auth_error *e)
{
    (void)arg;
    assert_null(e);
    assert_true(str_eq(requester_device(r), STR("ALICE")));
    row(nested_fix, "get_user_by_access_token", "syt_alice", NULL);
    if (nested_calls < 3)
        ask_token(nested_fix, "syt_alice", &nested[nested_calls]);
    nested_calls++;
    assert_true(str_eq(requester_user(r), STR("@alice:hs.test"))); /* ours, whatever became of the entry */
    requester_unref(&r);
}

static void invalidated_while_handed_out(void **state)
{
    struct fix *f = nested_fix = fix_new(NULL);
    const struct str authorization = STR("Bearer syt_alice");
    struct http_req req = {.authorization = &authorization, .authorization_count = 1};

    (void)state;
    nested_calls = 0;
    request_texts(&req, http_arena(&req), STR("/"), STR_ABSENT, STR(""), STR(""));
    for (int i = 0; i < 3; i++)
        auth_request(f->auth, &req, true, nested_done, NULL);
    arena_free(&req.arena);
    fix_pump(f);
    fix_pump(f);
    assert_int_equal(nested_calls, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_accepted(&nested[i], "@alice:hs.test", "ALICE", "nested");
        outcome_free(&nested[i]);
    }
    fix_free(&f);
}

int run_race(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(lookup_against_logout),
        cmocka_unit_test(lookup_against_unknown),
        cmocka_unit_test(rows_about_others_do_not_matter),
        cmocka_unit_test(endless_rows),
        cmocka_unit_test(check_against_rows),
        cmocka_unit_test(device_against_deletion),
        cmocka_unit_test(invalidated_while_handed_out),
    };

    return cmocka_run_group_tests_name("auth: races", tests, NULL, NULL);
}
