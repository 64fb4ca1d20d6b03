/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Tokens of the database: states of accounts, the cache and its limits, marking as used, USER_IP, trouble. */
#include "auth_test.h"
#include "support/http_request.h"

#include <stdio.h>
#include <string.h>

#define UNKNOWN 401, "M_UNKNOWN_TOKEN", "Invalid access token passed.", 0

static void with_validity(struct config *cfg)
{
    cfg->account_validity = true;
}

static void states(void **state)
{
    static const struct {
        const char *token, *user, *device; /* accepted */
        int status;
        const char *errcode, *error;
        int soft;
        size_t ips;
    } rows[] = {
        {"syt_alice", "@alice:hs.test", "ALICE", 0, NULL, NULL, 0, 1},
        {"syt_bob", "@bob:hs.test", "BOB", 0, NULL, NULL, 0, 1}, /* shadow-banned */
        {"puppet", "@alice:hs.test", NULL, 0, NULL, NULL, 0, 1},
        {"old", NULL, NULL, 401, "M_UNKNOWN_TOKEN", "Access token has expired", 1, 0},
        {"now", "@alice:hs.test", "NOW", 0, NULL, NULL, 0, 1}, /* strictly less than now */
        {"locked", NULL, NULL, 401, "M_USER_LOCKED", "User account has been locked", 1, 0},
        {"late", NULL, NULL, 403, "ORG_MATRIX_EXPIRED_ACCOUNT", "User account has expired", -1, 0},
        {"soon", "@soon:hs.test", "SOON", 0, NULL, NULL, 0, 1},
        {"nothing", NULL, NULL, 401, "M_UNKNOWN_TOKEN", "Invalid access token passed.", 0, 0},
        {"we\"ird\\{},NULL", "@alice:hs.test", "WEIRD", 0, NULL, NULL, 0, 1},
        {"guest-row", "@guest:hs.test", "G", 0, NULL, NULL, 0, 1},
    };
    struct fix *f = fix_new(with_validity);

    (void)state;
    for (int round = 0; round < 2; round++) /* from the table, from the cache */
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            f->ips_n = 0;
            struct outcome o = asked_token(f, rows[i].token);
            if (rows[i].user)
                assert_accepted(&o, rows[i].user, rows[i].device, rows[i].token);
            else
                assert_refused(&o, rows[i].status, rows[i].errcode, rows[i].error, rows[i].soft,
                               rows[i].token);
            assert_int_equal(f->ips_n, rows[i].ips);
            outcome_free(&o);
        }
    assert_int_equal(f->statements[SQL_auth_tokens], sizeof rows / sizeof *rows);
    fix_free(&f);
}

static void flags(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o = asked_token(f, "puppet");
    struct http_req req = {0};

    (void)state;
    request_texts(&req, http_arena(&req), STR("/"), STR_ABSENT, STR(""), STR(""));
    assert_true(str_eq(requester_owner(o.r), STR("@admin:hs.test")));
    assert_string_equal(requester_log_name(o.r, &req), "@admin:hs.test|@alice:hs.test");
    assert_int_equal(o.r->token_id, 3);
    assert_false(o.r->is_admin); /* the effective user is alice */
    outcome_free(&o);
    o = asked_token(f, "syt_bob");
    assert_true(o.r->shadow_banned);
    assert_string_equal(requester_log_name(o.r, &req), "@bob:hs.test");
    outcome_free(&o);
    o = asked_token(f, "late"); /* without account_validity the table does not count */
    assert_accepted(&o, "@late:hs.test", "LATE", "late");
    outcome_free(&o);
    arena_free(&req.arena);
    fix_free(&f);
}

static void guests_where_they_are_not_allowed(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o = asked(f, &(struct ask){.authorization = "Bearer guest-row", .no_guests = true});

    (void)state;
    assert_refused(&o, 403, "M_GUEST_ACCESS_FORBIDDEN", "Guest access not allowed", -1, "guest");
    assert_int_equal(f->ips_n, 1); /* leaves a trace, unlike a locked user */
    fix_free(&f);
}

static bool again(struct fix *f, struct requester *r, int64_t *due)
{
    const struct str authorization = STR("Bearer syt_alice");
    struct http_req req = {.authorization = &authorization, .authorization_count = 1};
    request_texts(&req, http_arena(&req), STR("/"), STR_ABSENT, STR("192.0.2.9"), STR("agent"));
    bool done = auth_again(f->auth, r, &req, due);
    arena_free(&req.arena);
    return done;
}

/* Who was let in is let in again without a look at the token, as long as its row is known and says so. */
static void the_same_again(void **state)
{
    struct fix *f = fix_new(with_validity);
    struct outcome o = asked_token(f, "syt_alice"), late = asked_token(f, "soon");
    int64_t due = 0;

    (void)state;
    f->ips_n = 0;
    assert_true(again(f, o.r, &due));
    assert_int_equal(f->ips_n, 1);
    assert_string_equal(f->ips[0].token, "syt_alice");
    assert_string_equal(f->ips[0].ip, "192.0.2.9");
    assert_string_equal(f->ips[0].device, "ALICE");
    f->ip_due_ms = clock_mono_ms() + 120000;
    assert_true(again(f, o.r, &due));
    assert_int_equal(f->ips_n, 2); /* it was not known when it is due */
    assert_true(again(f, o.r, &due));
    assert_int_equal(f->ips_n, 2);
    fix_tick(f, 120001);
    assert_true(again(f, o.r, &due));
    assert_int_equal(f->ips_n, 3);
    /* a row about the token; then it is another one's */
    row(f, "get_user_by_access_token", "syt_alice", NULL);
    assert_false(again(f, o.r, &due));
    struct outcome o2 = asked_token(f, "syt_alice");
    assert_ptr_not_equal(o2.r, o.r);
    assert_false(again(f, o.r, &due));
    due = 0;
    assert_true(again(f, o2.r, &due));
    /* its row gets too old */
    fix_tick(f, 300001);
    assert_false(again(f, o2.r, &due));
    /* the account ends */
    assert_accepted(&late, "@soon:hs.test", "SOON", "soon");
    late.r->account_expires_ms = clock_wall_ms() - 1;
    assert_false(again(f, late.r, &due));
    outcome_free(&o);
    outcome_free(&o2);
    outcome_free(&late);
    fix_free(&f);
}

static void a_cached_token_costs_no_turn(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o = asked_token(f, "syt_alice"), again;

    (void)state;
    ask_token(f, "syt_alice", &again);
    assert_int_equal(again.calls, 1);
    assert_ptr_equal(again.r, o.r);
    outcome_free(&o);
    outcome_free(&again);
    /* its age is limited */
    fix_tick(f, 299999);
    ask_token(f, "syt_alice", &again);
    assert_int_equal(again.calls, 1);
    outcome_free(&again);
    fix_tick(f, 2);
    o = asked_token(f, "syt_alice");
    assert_int_equal(f->statements[SQL_auth_tokens], 2);
    outcome_free(&o);
    fix_free(&f);
}

static void uncached(struct config *cfg)
{
    cfg->auth_cache_ms = 0;
}

static void without_a_cache(void **state)
{
    struct fix *f = fix_new(uncached);

    (void)state;
    for (size_t i = 1; i < 4; i++) {
        struct outcome o = asked_token(f, "syt_alice"), no = asked_token(f, "nothing");
        assert_accepted(&o, "@alice:hs.test", "ALICE", "uncached");
        assert_refused(&no, UNKNOWN, "uncached");
        assert_int_equal(f->statements[SQL_auth_tokens], 2 * i);
        outcome_free(&o);
    }
    fix_free(&f);
}

static void one_lookup_for_a_thousand_requests(void **state)
{
    enum { N = 1000 };
    struct fix *f = fix_new(NULL);
    struct outcome *o = xcalloc(N, sizeof *o);

    (void)state;
    for (size_t i = 0; i < N; i++)
        ask_token(f, i % 2 ? "syt_alice" : "syt_bob", &o[i]);
    fix_pump(f);
    for (size_t i = 0; i < N; i++) {
        assert_accepted(&o[i], i % 2 ? "@alice:hs.test" : "@bob:hs.test", i % 2 ? "ALICE" : "BOB",
                        "one of many");
        outcome_free(&o[i]);
    }
    assert_int_equal(f->statements[SQL_auth_tokens], 1);
    assert_int_equal(f->rows_asked[SQL_auth_tokens], 2);
    free(o);
    fix_free(&f);
}

static void random_tokens_push_out_nothing_good(void **state)
{
    enum { N = 20000 };
    struct fix *f = fix_new(NULL);
    struct outcome good = asked_token(f, "syt_alice"), o;
    char token[32];

    (void)state;
    for (int i = 0; i < N; i++) {
        snprintf(token, sizeof token, "random%d", i);
        ask_token(f, token, &o);
        fix_pump(f);
        assert_refused(&o, UNKNOWN, token);
    }
    assert_int_equal(f->auth->tokens.missing_n, 100);
    assert_int_equal(kmap_count(&f->auth->tokens.by_key), 101);
    ask_token(f, "syt_alice", &o);
    assert_ptr_equal(o.r, good.r);
    outcome_free(&good);
    outcome_free(&o);
    fix_free(&f);
}

static void unknown_is_remembered_for_ten_seconds(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o = asked_token(f, "later");

    (void)state;
    assert_refused(&o, UNKNOWN, "later");
    f->tokens[15] = (struct db_token){.id = 99, .token = "later", .user = "@alice:hs.test", .device = "X"};
    fix_tick(f, 9999);
    o = asked_token(f, "later");
    assert_refused(&o, UNKNOWN, "later");
    fix_tick(f, 2);
    o = asked_token(f, "later");
    assert_accepted(&o, "@alice:hs.test", "X", "later");
    outcome_free(&o);
    fix_free(&f);
}

static void few_tokens(struct config *cfg)
{
    cfg->auth_tokens_max = 2;
}

static void least_recently_used_goes(void **state)
{
    struct fix *f = fix_new(few_tokens);
    static const char *const order[] = {"syt_alice", "syt_bob",   "syt_alice",
                                        "puppet",    "syt_alice", "syt_bob"};
    static const size_t statements[] = {1, 2, 2, 3, 3, 4};

    (void)state;
    for (size_t i = 0; i < 6; i++) {
        struct outcome o = asked_token(f, order[i]);
        assert_non_null(o.r);
        assert_int_equal(f->statements[SQL_auth_tokens], statements[i]);
        outcome_free(&o);
        fix_tick(f, 10000); /* who was used in the same ten seconds is alike */
    }
    fix_free(&f);
}

static void expires_while_cached(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o = asked_token(f, "short");

    (void)state;
    assert_accepted(&o, "@alice:hs.test", "SHORT", "short");
    outcome_free(&o);
    fix_tick(f, 5001);
    o = asked_token(f, "short");
    assert_refused(&o, 401, "M_UNKNOWN_TOKEN", "Access token has expired", 1, "short");
    assert_int_equal(f->statements[SQL_auth_tokens], 1);
    fix_free(&f);
}

static void rows_are_believed(void **state)
{
    struct fix *f = fix_new(with_validity);
    static const char *const names[] = {"get_user_by_id", "get_user_locked_status",
                                        "get_user_deactivated_status"};
    struct outcome o;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        fix_user(f, "@alice:hs.test")->locked = false;
        row(f, names[i], "@alice:hs.test", NULL);
        o = asked_token(f, "syt_alice");
        assert_accepted(&o, "@alice:hs.test", "ALICE", names[i]);
        outcome_free(&o);
        fix_user(f, "@alice:hs.test")->locked = true;
        row(f, "some_other_cache", "@alice:hs.test", NULL);
        row(f, names[i], "@bob:hs.test", NULL);
        o = asked_token(f, "syt_alice");
        assert_accepted(&o, "@alice:hs.test", "ALICE", "not concerned");
        outcome_free(&o);
        row(f, names[i], "@alice:hs.test", NULL);
        o = asked_token(f, "syt_alice");
        assert_refused(&o, 401, "M_USER_LOCKED", "User account has been locked", 1, names[i]);
    }
    o = asked_token(f, "late");
    assert_int_equal(o.status, 403);
    fix_user(f, "@late:hs.test")->expires_ms = NOW + 1000000;
    row(f, "get_expiration_ts_for_user", "@late:hs.test", NULL);
    o = asked_token(f, "late");
    assert_accepted(&o, "@late:hs.test", "LATE", "renewed");
    outcome_free(&o);
    o = asked_token(f, "syt_bob");
    outcome_free(&o);
    fix_token(f, "syt_bob")->gone = true;
    row(f, "get_user_by_access_token", "syt_bob", NULL);
    o = asked_token(f, "syt_bob");
    assert_refused(&o, UNKNOWN, "logged out");
    fix_token(f, "syt_bob")->gone = false;
    row(f, "get_user_by_access_token", NULL, NULL); /* the whole cache, "unknown" included */
    o = asked_token(f, "syt_bob");
    assert_accepted(&o, "@bob:hs.test", "BOB", "all");
    outcome_free(&o);
    fix_token(f, "syt_bob")->gone = true;
    auth_flush(f->auth);
    o = asked_token(f, "syt_bob");
    assert_refused(&o, UNKNOWN, "flush");
    fix_free(&f);
}

static void used_is_marked_once(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o;

    (void)state;
    for (int i = 0; i < 3; i++) {
        o = asked_token(f, "refresh");
        outcome_free(&o);
        o = asked_token(f, "refreshed");
        outcome_free(&o);
        o = asked_token(f, "syt_alice");
        outcome_free(&o);
        fix_pump(f);
    }
    assert_true(fix_token(f, "refresh")->used);
    assert_int_equal(f->statements[SQL_auth_used], 1);
    assert_int_equal(f->rows_asked[SQL_auth_used], 1);
    o = asked_token(f, "locked"); /* is marked before it is refused, an expired one is not */
    fix_pump(f);
    assert_int_equal(o.status, 401);
    assert_true(fix_token(f, "locked")->used);
    fix_free(&f);
}

static void marking_is_repeated_until_it_succeeds(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o;

    (void)state;
    ask_token(f, "refresh", &o);
    fix_pump_once(f);
    fix_deliver(f);
    assert_accepted(&o, "@alice:hs.test", "REFRESH", "not waited for");
    f->fail = 2;
    fix_pump(f);
    assert_false(fix_token(f, "refresh")->used);
    fix_tick(f, 500);
    fix_pump(f);
    assert_false(fix_token(f, "refresh")->used);
    fix_tick(f, 500);
    fix_pump(f);
    assert_true(fix_token(f, "refresh")->used);
    assert_int_equal(f->statements[SQL_auth_used], 3);
    outcome_free(&o);
    fix_free(&f);
}

static void a_token_that_is_gone_when_it_is_marked(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o;
    struct watched w;

    (void)state;
    ask_token(f, "refresh", &o);
    fix_pump_once(f);
    fix_deliver(f); /* the lookup has answered; the marking is not yet sent */
    assert_accepted(&o, "@alice:hs.test", "REFRESH", "refresh");
    watch(f, &w, o.r);
    outcome_free(&o);
    fix_token(f, "refresh")->gone = true;
    fix_pump(f);
    assert_int_equal(w.ended, 1);
    assert_int_equal(w.status, 401);
    assert_int_equal(w.soft_logout, 0);
    o = asked_token(f, "refresh");
    assert_refused(&o, UNKNOWN, "gone");
    fix_free(&f);
}

static void track_puppets(struct config *cfg)
{
    cfg->track_puppeted_user_ips = true;
}

static void user_ip(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o = asked(
        f, &(struct ask){.query = "access_token=syt_alice", .ip = "203.0.113.9", .user_agent = "Element/1"});

    (void)state;
    assert_int_equal(f->ips_n, 1);
    assert_string_equal(f->ips[0].user, "@alice:hs.test");
    assert_string_equal(f->ips[0].token, "syt_alice");
    assert_string_equal(f->ips[0].ip, "203.0.113.9");
    assert_string_equal(f->ips[0].user_agent, "Element/1");
    assert_string_equal(f->ips[0].device, "ALICE");
    outcome_free(&o);
    o = asked(f, &(struct ask){.authorization = "Bearer syt_alice", .user_agent = "sync-v3-proxy-"});
    outcome_free(&o);
    o = asked(f, &(struct ask){.authorization = "Bearer syt_alice", .ip = ""});
    outcome_free(&o);
    assert_int_equal(f->ips_n, 1);
    o = asked(f, &(struct ask){.authorization = "Bearer syt_alice", .user_agent = "sync-v3-proxy-1"});
    outcome_free(&o);
    assert_int_equal(f->ips_n, 2);
    o = asked_token(f, "puppet");
    outcome_free(&o);
    assert_int_equal(f->ips_n, 3);
    assert_string_equal(f->ips[2].user, "@admin:hs.test");
    assert_string_equal(f->ips[2].device, "-");
    fix_free(&f);

    f = fix_new(track_puppets);
    o = asked_token(f, "puppet");
    outcome_free(&o);
    assert_int_equal(f->ips_n, 2);
    assert_string_equal(f->ips[0].user, "@admin:hs.test");
    assert_string_equal(f->ips[1].user, "@alice:hs.test");
    o = asked_token(f, "syt_alice");
    outcome_free(&o);
    assert_int_equal(f->ips_n, 3);
    fix_free(&f);
}

static void a_broken_database_is_no_401(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o;

    (void)state;
    f->fail = 1;
    o = asked_token(f, "syt_alice");
    assert_refused(&o, 503, "M_UNKNOWN", "Service temporarily unavailable", -1, "error");
    o = asked_token(f, "syt_alice");
    assert_accepted(&o, "@alice:hs.test", "ALICE", "well again");
    outcome_free(&o);

    /* no answer at all */
    f->hold = true;
    ask_token(f, "syt_bob", &o);
    fix_pump(f);
    fix_tick(f, 29999);
    assert_int_equal(o.calls, 0);
    fix_tick(f, 1);
    assert_refused(&o, 503, "M_UNKNOWN", "Service temporarily unavailable", -1, "patience");
    f->hold = false;
    fix_pump(f); /* the late answer serves whoever comes next */
    ask_token(f, "syt_bob", &o);
    assert_int_equal(o.calls, 1);
    assert_accepted(&o, "@bob:hs.test", "BOB", "late answer");
    outcome_free(&o);
    fix_free(&f);
}

static void few_pending(struct config *cfg)
{
    cfg->auth_pending_max = 3;
}

static void too_many_wait(void **state)
{
    struct fix *f = fix_new(few_pending);
    struct outcome o[4], cached = asked_token(f, "syt_alice");

    (void)state;
    outcome_free(&cached);
    f->hold = true;
    for (size_t i = 0; i < 4; i++)
        ask_token(f, i % 2 ? "syt_bob" : "now", &o[i]);
    assert_refused(&o[3], 503, "M_UNKNOWN", "Service temporarily unavailable", -1, "the fourth");
    f->hold = false;
    fix_pump(f);
    for (size_t i = 0; i < 3; i++) {
        assert_non_null(o[i].r);
        outcome_free(&o[i]);
    }
    fix_free(&f);
}

static void cancelled_means_not_called(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o[3];

    (void)state;
    ask_token(f, "syt_bob", &o[0]);
    fix_pump_once(f); /* sent */
    ask_token(f, "syt_bob", &o[1]);
    ask_token(f, "now", &o[2]); /* nobody else wants that one */
    auth_cancel(f->auth, &o[0]);
    auth_cancel(f->auth, &o[2]);
    auth_cancel(f->auth, &o[2]);
    fix_pump(f);
    assert_int_equal(o[0].calls + o[2].calls, 0);
    assert_accepted(&o[1], "@bob:hs.test", "BOB", "the other one");
    outcome_free(&o[1]);
    assert_int_equal(f->rows_asked[SQL_auth_tokens], 1);
    assert_int_equal(f->auth->ops_n, 0);
    fix_free(&f);
}

static void stopping_answers_everybody(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o[3];
    struct watched w;
    struct outcome held = asked_token(f, "syt_alice");

    (void)state;
    watch(f, &w, held.r);
    f->hold = true;
    ask_token(f, "syt_bob", &o[0]);
    fix_pump(f); /* sent */
    ask_token(f, "syt_bob", &o[1]);
    ask_token(f, "now", &o[2]); /* not sent */
    row(f, "get_user_by_id", "@alice:hs.test", NULL);
    auth_stop(&f->auth);
    for (size_t i = 0; i < 3; i++)
        assert_refused(&o[i], 503, "M_UNKNOWN", "Service temporarily unavailable", -1, "stop");
    assert_int_equal(w.ended, 0);
    assert_false(w.w.active);
    fix_free(&f);
    outcome_free(&held); /* outlives the module */
}

int run_internal_tests(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(states),
        cmocka_unit_test(flags),
        cmocka_unit_test(guests_where_they_are_not_allowed),
        cmocka_unit_test(the_same_again),
        cmocka_unit_test(a_cached_token_costs_no_turn),
        cmocka_unit_test(without_a_cache),
        cmocka_unit_test(one_lookup_for_a_thousand_requests),
        cmocka_unit_test(random_tokens_push_out_nothing_good),
        cmocka_unit_test(unknown_is_remembered_for_ten_seconds),
        cmocka_unit_test(least_recently_used_goes),
        cmocka_unit_test(expires_while_cached),
        cmocka_unit_test(rows_are_believed),
        cmocka_unit_test(used_is_marked_once),
        cmocka_unit_test(marking_is_repeated_until_it_succeeds),
        cmocka_unit_test(a_token_that_is_gone_when_it_is_marked),
        cmocka_unit_test(user_ip),
        cmocka_unit_test(a_broken_database_is_no_401),
        cmocka_unit_test(too_many_wait),
        cmocka_unit_test(cancelled_means_not_called),
        cmocka_unit_test(stopping_answers_everybody),
    };

    return cmocka_run_group_tests_name("auth: tokens of the database", tests, NULL, NULL);
}
