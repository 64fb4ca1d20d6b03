/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Parked requests: what ends them, what does not, and when. */
#include "auth_test.h"

#include <string.h>

static void with_validity(struct config *cfg)
{
    cfg->account_validity = true;
}

static void park(struct fix *f, const char *token, struct watched *w)
{
    struct outcome o = asked_token(f, token);

    assert_non_null(o.r);
    watch(f, w, o.r);
    outcome_free(&o);
}

/* When it ends by itself; 0: never. */
static int64_t ends_at(const struct fix *f, const struct watched *w)
{
    return w->w.heap_at ? f->auth->checks.heap[w->w.heap_at - 1].expires_ms : 0;
}

enum change { LOGOUT, DEACTIVATE, LOCK, EXPIRE, NOTHING };

static void change(struct fix *f, enum change c)
{
    switch (c) {
    case LOGOUT:
        fix_token(f, "syt_alice")->gone = true;
        break;
    case DEACTIVATE:
        for (size_t i = 0; i < 16; i++)
            if (f->tokens[i].user && strcmp(f->tokens[i].user, "@alice:hs.test") == 0)
                f->tokens[i].gone = true;
        break;
    case LOCK:
        fix_user(f, "@alice:hs.test")->locked = true;
        break;
    case EXPIRE:
        fix_user(f, "@alice:hs.test")->expires_ms = NOW - 1;
        break;
    case NOTHING:
        break;
    }
}

static void what_ends_a_poll(void **state)
{
    static const struct {
        enum change change;
        const char *func, *k1, *k2;
        int status; /* 0: goes on */
        const char *errcode;
        int soft;
        bool checked;
    } rows[] = {
        {LOGOUT, "get_user_by_access_token", "syt_alice", NULL, 401, "M_UNKNOWN_TOKEN", 0, true},
        {LOGOUT, "get_user_by_access_token", NULL, NULL, 401, "M_UNKNOWN_TOKEN", 0, true},
        {LOGOUT, "get_user_by_access_token", "syt_bob", NULL, 0, NULL, 0, false},
        {LOGOUT, "get_device", "@alice:hs.test", NULL, 401, "M_UNKNOWN_TOKEN", 0, true},
        {LOGOUT, "get_device", "@alice:hs.test", "ALICE", 0, NULL, 0,
         false}, /* a renamed device; the token's row is to come */
        {LOGOUT, "get_device", "@bob:hs.test", NULL, 0, NULL, 0, false},
        {LOGOUT, "get_device", NULL, NULL, 401, "M_UNKNOWN_TOKEN", 0, true},
        {DEACTIVATE, "get_user_deactivated_status", "@alice:hs.test", NULL, 401, "M_UNKNOWN_TOKEN", 0, true},
        {DEACTIVATE, "get_user_by_id", "@alice:hs.test", NULL, 401, "M_UNKNOWN_TOKEN", 0, true},
        {DEACTIVATE, "is_guest", "@alice:hs.test", NULL, 401, "M_UNKNOWN_TOKEN", 0, true},
        {LOCK, "get_user_locked_status", "@alice:hs.test", NULL, 401, "M_USER_LOCKED", 1, true},
        {LOCK, "get_user_locked_status", "@bob:hs.test", NULL, 0, NULL, 0, false},
        {LOCK, "get_user_by_id", NULL, NULL, 401, "M_USER_LOCKED", 1, true},
        {EXPIRE, "get_expiration_ts_for_user", "@alice:hs.test", NULL, 403, "ORG_MATRIX_EXPIRED_ACCOUNT", -1,
         true},
        {NOTHING, "get_user_by_access_token", "syt_alice", NULL, 0, NULL, 0, true},
        {NOTHING, "get_user_locked_status", "@alice:hs.test", NULL, 0, NULL, 0, true},
        {NOTHING, "get_user_by_access_token", NULL, NULL, 0, NULL, 0, true},
        {LOCK, "is_user_erased", "@alice:hs.test", NULL, 0, NULL, 0, false},
        {LOCK, "user_last_seen_monthly_active", "@alice:hs.test", NULL, 0, NULL, 0, false},
        {LOCK, "", "@alice:hs.test", NULL, 0, NULL, 0, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct fix *f = fix_new(with_validity);
        struct watched w, other;
        park(f, "syt_alice", &w);
        park(f, "syt_bob", &other);
        change(f, rows[i].change);
        row(f, rows[i].func, rows[i].k1, rows[i].k2);
        assert_int_equal(w.w.checking, rows[i].checked);
        fix_pump(f);
        if (w.ended != (rows[i].status != 0) || w.status != rows[i].status ||
            (rows[i].status && strcmp(w.errcode, rows[i].errcode) != 0) || w.soft_logout != rows[i].soft)
            fail_msg("row %zu: ended %d, %d %s", i, w.ended, w.status, w.errcode);
        assert_int_equal(other.ended, 0);
        assert_int_equal(f->statements[SQL_auth_tokens_by_id],
                         rows[i].checked || strcmp(rows[i].k1 ? rows[i].k1 : "", "syt_bob") == 0 ||
                             strcmp(rows[i].k1 ? rows[i].k1 : "", "@bob:hs.test") == 0);
        auth_watch_del(&w.w);
        auth_watch_del(&other.w);
        fix_free(&f);
    }
}

static void only_that_device(void **state)
{
    struct fix *f = fix_new(NULL);
    struct watched gone, stays, puppet;

    (void)state;
    park(f, "syt_alice", &gone);
    park(f, "now", &stays);
    park(f, "puppet", &puppet);
    fix_token(f, "syt_alice")->gone = true;
    row(f, "get_device", "@alice:hs.test", NULL); /* all of them are looked at, in one statement */
    fix_pump(f);
    assert_int_equal(gone.ended, 1);
    assert_int_equal(stays.ended + puppet.ended, 0);
    assert_int_equal(f->statements[SQL_auth_tokens_by_id], 1);
    assert_int_equal(f->rows_asked[SQL_auth_tokens_by_id], 3);
    fix_user(f, "@alice:hs.test")->locked = true; /* stops puppets too */
    row(f, "get_user_locked_status", "@alice:hs.test", NULL);
    fix_pump(f);
    assert_int_equal(stays.ended, 1);
    assert_int_equal(puppet.ended, 1);
    fix_free(&f);
}

/* What is kept of answers goes by this: by rows about the token, the user or everything; and the one who
 * hears of it may hold the last count. */
struct holder {
    struct requester *held;
    int heard;
};
static void let_go(void *arg, const struct requester *r)
{
    struct holder *h = arg;
    h->heard++;
    if (r == h->held)
        requester_unref(&h->held);
}

static void tells_of_suspects(void **state)
{
    static const struct {
        const char *func, *k1;
        bool heard;
    } rows[] = {
        {"get_user_by_access_token", "syt_alice", true},
        {"get_user_by_access_token", "syt_bob", false},
        {"get_user_deactivated_status", "@alice:hs.test", true},
        {"get_user_locked_status", "@alice:hs.test", true},
        {"get_device", "@alice:hs.test", true},
        {"get_user_by_id", NULL, true},
        {"get_user_by_id", "@bob:hs.test", false},
        {"is_user_erased", "@alice:hs.test", false},
    };

    (void)state;
    for (size_t i = 0; i <= sizeof rows / sizeof *rows; i++) {
        struct fix *f = fix_new(NULL);
        struct outcome o = asked_token(f, "syt_alice");
        struct holder h = {.held = requester_ref(o.r)};
        outcome_free(&o);
        auth_on_suspect(f->auth, let_go, &h);
        if (i < sizeof rows / sizeof *rows)
            row(f, rows[i].func, rows[i].k1, NULL);
        else
            auth_flush(f->auth);
        if ((h.held == NULL) != (i == sizeof rows / sizeof *rows || rows[i].heard))
            fail_msg("row %zu: heard %d times", i, h.heard);
        requester_unref(&h.held);
        auth_on_suspect(f->auth, NULL, NULL);
        fix_pump(f);
        fix_free(&f);
    }
}

static void within_the_turn(void **state)
{
    struct fix *f = fix_new(NULL);
    struct watched w;

    (void)state;
    park(f, "syt_alice", &w);
    fix_token(f, "syt_alice")->gone = true;
    row(f, "get_user_by_access_token", "syt_alice", NULL);
    assert_int_equal(w.ended, 0); /* not under the caller's feet */
    fix_pump_once(f);
    assert_int_equal(f->statements[SQL_auth_tokens_by_id], 1);
    fix_deliver(f);
    assert_int_equal(w.ended, 1);
    fix_free(&f);
}

static void time_runs_out(void **state)
{
    struct fix *f = fix_new(with_validity);
    struct watched token, account, renewed, forever;

    (void)state;
    f->users[15] = (struct db_user){.name = "@other:hs.test", .expires_ms = NOW + 60000};
    f->tokens[15] = (struct db_token){.id = 50, .token = "other", .user = "@other:hs.test"};
    park(f, "short", &token);
    park(f, "soon", &account);
    park(f, "other", &renewed);
    park(f, "syt_alice", &forever);
    assert_int_equal(ends_at(f, &token), NOW + 5000);
    assert_int_equal(ends_at(f, &forever), 0);
    fix_tick(f, 5000);
    assert_int_equal(token.ended, 0);
    fix_tick(f, 500);
    assert_int_equal(token.ended, 1);
    assert_int_equal(token.status, 401);
    assert_int_equal(token.soft_logout, 1);
    assert_string_equal(token.error, "Access token has expired");
    fix_user(f, "@other:hs.test")->expires_ms =
        NOW + 500000; /* without a row: looked at before it is ended */
    fix_tick(f, 55000);
    fix_pump(f);
    assert_int_equal(account.ended, 1);
    assert_int_equal(account.status, 403);
    assert_int_equal(renewed.ended, 0);
    assert_int_equal(ends_at(f, &renewed), NOW + 500000);
    auth_watch_del(&renewed.w);
    auth_watch_del(&forever.w);
    fix_free(&f);
}

/* The heap in every shape: watches with many ends, removed in a scattered order. */
static void many_ends(void **state)
{
    enum { N = 200 };
    struct fix *f = fix_new(NULL);
    struct watched *w = xcalloc(N, sizeof *w);
    int64_t ends[N];
    struct outcome o = asked_token(f, "short");
    uint32_t seed = 7;
    size_t removed = 0, ended = 0;

    (void)state;
    for (size_t i = 0; i < N; i++) {
        struct requester *r = requester_new(f->auth, REQUESTER_USER, STR("@alice:hs.test"), STR("X"),
                                            STR("@alice:hs.test"), o.r->token_key);
        seed = seed * 1664525 + 1013904223;
        r->valid_until_ms = NOW + 1 + (seed >> 8) % 1000;
        watch(f, &w[i], r);
        ends[i] = ends_at(f, &w[i]);
        assert_int_equal(ends[i], r->valid_until_ms);
        requester_unref(&r);
    }
    for (size_t i = 0; i < N; i += 3, removed++)
        auth_watch_del(&w[i].w);
    for (int64_t t = 1; t <= 1002; t++) {
        fix_tick(f, 1);
        for (size_t i = 0; i < N; i++)
            if (i % 3 && w[i].ended != (ends[i] < NOW + t))
                fail_msg("watch %zu, end %lld, at %lld", i, (long long)ends[i], (long long)(NOW + t));
    }
    for (size_t i = 0; i < N; i++)
        ended += (size_t)w[i].ended;
    assert_int_equal(ended + removed, N);
    outcome_free(&o);
    free(w);
    fix_free(&f);
}

static void a_cascade_leaves_no_row(void **state)
{
    struct fix *f = fix_new(NULL);
    struct watched w, stays;

    (void)state;
    park(f, "refreshed", &w);
    park(f, "syt_alice", &stays);
    fix_token(f, "refreshed")->gone = true;
    fix_tick(f, 299999);
    fix_pump(f);
    assert_int_equal(w.ended, 0);
    fix_tick(f, 1);
    fix_pump(f);
    assert_int_equal(w.ended, 1);
    assert_int_equal(stays.ended, 0);
    size_t before = f->rows_asked[SQL_auth_tokens_by_id];
    fix_tick(f, 299999);
    fix_pump(f);
    assert_int_equal(f->rows_asked[SQL_auth_tokens_by_id], before); /* not more often than that */
    fix_tick(f, 1);
    fix_pump(f);
    assert_int_equal(f->rows_asked[SQL_auth_tokens_by_id], before + 1);
    auth_watch_del(&stays.w);
    fix_free(&f);
}

static void a_broken_database_ends_nothing(void **state)
{
    struct fix *f = fix_new(NULL);
    struct watched w;

    (void)state;
    park(f, "syt_alice", &w);
    fix_token(f, "syt_alice")->gone = true;
    f->fail = 3;
    row(f, "get_user_by_access_token", "syt_alice", NULL);
    fix_pump(f);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(w.ended, 0);
        fix_tick(f, 500);
        fix_pump(f);
    }
    assert_int_equal(w.ended, 0);
    fix_tick(f, 500);
    fix_pump(f);
    assert_int_equal(w.ended, 1);
    fix_free(&f);
}

static void rows_before_the_parking_count(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o = asked_token(f, "syt_alice");
    struct watched w;

    (void)state;
    fix_token(f, "syt_alice")->gone = true;
    row(f, "get_user_by_access_token", "syt_alice", NULL); /* while the answer is being computed */
    watch(f, &w, o.r);
    assert_int_equal(w.ended, 0);
    fix_pump(f);
    assert_int_equal(w.ended, 1);
    outcome_free(&o);

    /* ...also when the entry has left the cache meanwhile; and a check that passed settles it */
    o = asked_token(f, "syt_bob");
    row(f, "get_user_by_id", "@bob:hs.test", NULL);
    row(f, "get_user_by_id", "@bob:hs.test", NULL);
    watch(f, &w, o.r);
    fix_pump(f);
    assert_int_equal(w.ended, 0);
    auth_watch_del(&w.w);
    size_t before = f->statements[SQL_auth_tokens_by_id];
    watch(f, &w, o.r);
    fix_pump(f);
    assert_int_equal(f->statements[SQL_auth_tokens_by_id], before);
    auth_watch_del(&w.w);
    outcome_free(&o);
    fix_free(&f);
}

/* A token's row finds who waits with it, whether the cache still has the requester, has another, or none. */
static void found_beside_the_cache(void **state)
{
    struct fix *f = fix_new(NULL);
    struct watched first, second;

    (void)state;
    park(f, "syt_alice", &first);
    row(f, "get_user_by_id", "@alice:hs.test", NULL); /* the entry goes */
    fix_pump(f);
    assert_int_equal(first.ended, 0);
    park(f, "syt_alice", &second); /* and another comes */
    assert_ptr_not_equal(first.w.r, second.w.r);
    fix_token(f, "syt_alice")->gone = true;
    row(f, "get_user_by_access_token", "syt_alice", NULL);
    fix_pump(f);
    assert_int_equal(first.ended, 1);
    assert_int_equal(second.ended, 1);

    park(f, "syt_bob", &first);
    row(f, "get_user_by_id", "@bob:hs.test", NULL);
    fix_pump(f);
    assert_int_equal(imap_count(&f->auth->loose_by_token), 1);
    fix_token(f, "syt_bob")->gone = true;
    row(f, "get_user_by_access_token", "syt_bob", NULL);
    fix_pump(f);
    assert_int_equal(first.ended, 1);
    assert_int_equal(imap_count(&f->auth->loose_by_token), 0);
    fix_free(&f);
}

static void removed_while_being_checked(void **state)
{
    struct fix *f = fix_new(NULL);
    struct watched queued, sent, later;

    (void)state;
    park(f, "syt_alice", &sent);
    park(f, "syt_alice", &queued);
    park(f, "syt_alice", &later);
    fix_token(f, "syt_alice")->gone = true;
    row(f, "get_user_by_access_token", "syt_alice", NULL);
    auth_watch_del(&queued.w);
    fix_pump_once(f);
    auth_watch_del(&sent.w);
    auth_watch_del(&sent.w); /* harmless */
    f->fail = 0;
    fix_pump(f);
    assert_int_equal(queued.ended + sent.ended, 0);
    assert_int_equal(later.ended, 1);
    assert_int_equal(f->auth->checks.watches, 0);
    fix_free(&f);
}

/* The callback of one watch removes another one and parks a third. */
struct meddler {
    struct watched w;
    struct watched *victim;
    struct requester *r;
    struct watched fresh;
    struct fix *f;
};

static void meddle(struct watched *w)
{
    struct meddler *m = container_of(w, struct meddler, w);

    auth_watch_del(&m->victim->w);
    row(m->f, "get_user_by_id", "@alice:hs.test", NULL);
    watch(m->f, &m->fresh, m->r);
}

static void callbacks_may_do_anything(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o = asked_token(f, "syt_alice");
    struct meddler m = {.f = f, .r = o.r};
    struct watched victim;

    (void)state;
    m.victim = &victim;
    watch(f, &m.w, o.r);
    m.w.then = meddle;
    watch(f, &victim, o.r);
    fix_token(f, "syt_alice")->gone = true;
    row(f, "get_user_by_access_token", "syt_alice", NULL);
    fix_pump(f);
    assert_int_equal(m.w.ended, 1);
    assert_int_equal(victim.ended, 0);
    assert_int_equal(m.fresh.ended, 1);
    outcome_free(&o);
    fix_free(&f);
}

static void no_stampede(void **state)
{
    enum { N = 3000 };
    struct fix *f = fix_new(NULL);
    struct watched *w = xcalloc(N, sizeof *w);
    struct outcome o = asked_token(f, "syt_alice");

    (void)state;
    for (size_t i = 0; i < N; i++)
        watch(f, &w[i], o.r);
    auth_flush(f->auth);
    fix_pump_once(f);
    assert_int_equal(f->statements[SQL_auth_tokens_by_id], 2); /* at once; the others follow */
    fix_pump(f);
    assert_int_equal(f->statements[SQL_auth_tokens_by_id], N / AUTH_BATCH_MAX);
    assert_int_equal(f->rows_asked[SQL_auth_tokens_by_id], N);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(w[i].ended, 0);
        assert_false(w[i].w.checking);
        auth_watch_del(&w[i].w);
    }
    outcome_free(&o);
    free(w);
    fix_free(&f);
}

/* The service stops: watches are let go of wherever their check is. */
static void detached_at_the_stop(void **state)
{
    struct fix *f = fix_new(NULL);
    struct watched resting, queued, flying, later;

    (void)state;
    park(f, "syt_alice", &later);
    f->fail = 1;
    row(f, "get_user_by_access_token", "syt_alice", NULL);
    fix_pump(f);
    assert_true(later.w.checking);
    park(f, "syt_bob", &flying);
    row(f, "get_user_by_id", "@bob:hs.test", NULL);
    fix_pump_once(f);
    park(f, "now", &queued);
    row(f, "get_user_by_access_token", "now", NULL);
    park(f, "puppet", &resting);
    assert_int_equal(f->auth->checks.watches, 4);
    struct watched *all[] = {&resting, &queued, &flying, &later};
    fix_free(&f);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        assert_false(all[i]->w.active);
        assert_null(all[i]->w.r);
        assert_int_equal(all[i]->ended, 0);
    }
}

/* What waits for the database is not checked a second time for its age, and is afterwards. */
static void age_goes_on_after_a_check(void **state)
{
    struct fix *f = fix_new(NULL);
    struct watched w;

    (void)state;
    park(f, "syt_alice", &w);
    f->fail = 1;
    row(f, "get_user_by_access_token", "syt_alice", NULL);
    fix_pump(f);
    assert_true(w.w.checking);
    fix_tick(f, 400000);
    fix_pump(f);
    assert_false(w.w.checking);
    assert_int_equal(f->statements[SQL_auth_tokens_by_id], 2);
    fix_tick(f, 299999);
    fix_pump(f);
    assert_int_equal(f->statements[SQL_auth_tokens_by_id], 2);
    fix_tick(f, 1);
    fix_pump(f);
    assert_int_equal(f->statements[SQL_auth_tokens_by_id], 3);
    auth_watch_del(&w.w);
    fix_free(&f);
}

int run_watch(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_ends_a_poll),
        cmocka_unit_test(only_that_device),
        cmocka_unit_test(tells_of_suspects),
        cmocka_unit_test(within_the_turn),
        cmocka_unit_test(time_runs_out),
        cmocka_unit_test(many_ends),
        cmocka_unit_test(a_cascade_leaves_no_row),
        cmocka_unit_test(a_broken_database_ends_nothing),
        cmocka_unit_test(rows_before_the_parking_count),
        cmocka_unit_test(found_beside_the_cache),
        cmocka_unit_test(removed_while_being_checked),
        cmocka_unit_test(callbacks_may_do_anything),
        cmocka_unit_test(no_stampede),
        cmocka_unit_test(detached_at_the_stop),
        cmocka_unit_test(age_goes_on_after_a_check),
    };

    return cmocka_run_group_tests_name("auth: parked requests", tests, NULL, NULL);
}
