/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* hs_disabled and the limit on monthly active users; the bodies of error replies. */
#include "auth_test.h"

#include <string.h>

static void disabled(struct config *cfg)
{
    cfg->hs_disabled = true;
    cfg->hs_disabled_message = STR("Closed for repair");
    cfg->admin_contact = STR("mailto:a@hs.test");
}

static void limited(struct config *cfg)
{
    cfg->limit_usage_by_mau = true;
    cfg->max_mau_value = 2;
    cfg->mau_trial_days = 1;
    cfg->server_notices_mxid = STR("@bob:hs.test");
}

static void on_blocked(void *arg, const struct auth_error *e)
{
    struct outcome *o = arg;

    o->calls++;
    if (!e)
        return;
    o->status = e->status;
    o->limit = e->limit;
    memcpy(o->error, e->error.p, e->error.n);
    memcpy(o->limit_type, e->limit_type.p, e->limit_type.n);
    if (!str_absent(e->admin_contact))
        memcpy(o->admin_contact, e->admin_contact.p, e->admin_contact.n);
    assert_string_equal(e->errcode, "M_RESOURCE_LIMIT_EXCEEDED");
    assert_int_equal(e->soft_logout, -1);
}

static struct outcome blocked(struct fix *f, const char *token)
{
    struct outcome who = asked_token(f, token), o = {0};

    auth_check_blocking(f->auth, who.r, on_blocked, &o);
    outcome_free(&who); /* not needed meanwhile */
    fix_pump(f);
    assert_int_equal(o.calls, 1);
    return o;
}

static void open_server(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o = blocked(f, "syt_alice");

    (void)state;
    assert_int_equal(o.status, 0);
    assert_int_equal(f->statements[SQL_auth_users] + f->statements[SQL_auth_mau], 0);
    fix_free(&f);
}

static void disabled_server(void **state)
{
    struct fix *f = fix_new(disabled);
    struct outcome o = blocked(f, "syt_alice");

    (void)state;
    assert_int_equal(o.status, 403);
    assert_string_equal(o.error, "Closed for repair");
    assert_string_equal(o.limit_type, "hs_disabled");
    assert_string_equal(o.admin_contact, "mailto:a@hs.test");
    assert_true(o.limit);
    o = blocked(f, "support");
    assert_int_equal(o.status, 0);
    fix_free(&f);
}

/* A month for the users of one application service, none for another's, a day for everybody else. */
static void limited_with_trials(struct config *cfg)
{
    static struct config_trial trials[] = {{{"irc", 3}, 30}, {{"xmpp", 4}, 0}};

    limited(cfg);
    cfg->mau_appservice_trials = trials;
    cfg->mau_appservice_trials_count = 2;
}

static void trials_of_app_services(void **state)
{
    static const struct {
        const char *app_service;
        int hours, status;
    } cases[] = {
        {NULL, 1, 0},          {NULL, 25, 403},  {"irc", 25, 0},
        {"irc", 31 * 24, 403}, {"xmpp", 1, 403}, {"other", 1, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fix *f = fix_new(limited_with_trials);
        f->mau_count = 2;
        fix_user(f, "@new:hs.test")->app_service = cases[i].app_service;
        fix_user(f, "@new:hs.test")->creation_s = NOW / 1000 - cases[i].hours * 3600;
        struct outcome o = blocked(f, "new");
        if (o.status != cases[i].status)
            fail_msg("case %zu: %d", i, o.status);
        fix_free(&f);
    }
}

static void full_server(void **state)
{
    struct fix *f = fix_new(limited);
    struct outcome o;

    (void)state;
    f->mau[0] = "@soon:hs.test";
    f->mau_count = 2;
    o = blocked(f, "soon");
    assert_int_equal(o.status, 0); /* belongs to them */
    o = blocked(f, "new");
    assert_int_equal(o.status, 0); /* on trial */
    o = blocked(f, "support");
    assert_int_equal(o.status, 0);
    o = blocked(f, "syt_bob");
    assert_int_equal(o.status, 0); /* sends the server notices */
    o = blocked(f, "puppet");
    assert_int_equal(o.status, 403); /* counts as the admin */
    o = blocked(f, "syt_alice");
    assert_int_equal(o.status, 403);
    assert_string_equal(o.error, "Monthly Active User Limit Exceeded");
    assert_string_equal(o.limit_type, "monthly_active_user");
    assert_string_equal(o.admin_contact, "");
    size_t before = f->statements[SQL_auth_mau];
    o = blocked(f, "syt_alice");
    assert_int_equal(o.status, 403);
    assert_int_equal(f->statements[SQL_auth_mau], before); /* cached */

    f->mau_count = 1; /* somebody was reaped */
    row(f, "get_monthly_active_count", NULL, NULL);
    o = blocked(f, "syt_alice");
    assert_int_equal(o.status, 0);
    f->mau_count = 2;
    row(f, "get_monthly_active_count", NULL, NULL);
    o = blocked(f, "syt_alice");
    assert_int_equal(o.status, 403);
    f->mau[1] = "@alice:hs.test";
    row(f, "user_last_seen_monthly_active", "@alice:hs.test", NULL);
    o = blocked(f, "syt_alice");
    assert_int_equal(o.status, 0);
    fix_free(&f);
}

/* ---- replies */

static char replied[512];
static int replied_status;

void __wrap_http_reply(struct http_req **req, struct http_res *res);
void __wrap_http_reply(struct http_req **req, struct http_res *res)
{
    struct str body = rope_flatten(&res->body, http_arena(*req));

    assert_true(body.n < sizeof replied);
    memcpy(replied, body.p, body.n);
    replied[body.n] = '\0';
    replied_status = res->status;
    rope_fini(&res->body);
    *req = NULL;
}

static void bodies(void **state)
{
    const struct {
        struct auth_error e;
        const char *body;
    } rows[] = {
        {auth_error_unknown, "{\"errcode\":\"M_UNKNOWN_TOKEN\",\"error\":\"Invalid access token "
                             "passed.\",\"soft_logout\":false}"},
        {auth_error_expired,
         "{\"errcode\":\"M_UNKNOWN_TOKEN\",\"error\":\"Access token has expired\",\"soft_logout\":true}"},
        {auth_error_locked,
         "{\"errcode\":\"M_USER_LOCKED\",\"error\":\"User account has been locked\",\"soft_logout\":true}"},
        {auth_error_account_expired,
         "{\"errcode\":\"ORG_MATRIX_EXPIRED_ACCOUNT\",\"error\":\"User account has expired\"}"},
        {auth_error_introspect,
         "{\"errcode\":\"M_UNKNOWN\",\"error\":\"Unable to introspect the access token\"}"},
        {{403, "M_RESOURCE_LIMIT_EXCEEDED", STR("Full \xc3\xa9"), -1, true, STR("mailto:a@b"),
          STR("monthly_active_user")},
         "{\"admin_contact\":\"mailto:a@b\",\"errcode\":\"M_RESOURCE_LIMIT_EXCEEDED\",\"error\":\"Full "
         "\xc3\xa9\",\"limit_type\":\"monthly_active_user\"}"},
        {{403, "M_RESOURCE_LIMIT_EXCEEDED", STR("Full"), -1, true, STR_ABSENT, STR("hs_disabled")},
         "{\"admin_contact\":null,\"errcode\":\"M_RESOURCE_LIMIT_EXCEEDED\",\"error\":\"Full\",\"limit_"
         "type\":\"hs_disabled\"}"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct http_req req = {0}, *p = &req;
        auth_reply_error(&p, &rows[i].e);
        assert_null(p);
        assert_string_equal(replied, rows[i].body);
        assert_int_equal(replied_status, rows[i].e.status);
        arena_free(&req.arena);
    }
}

int run_blocking_tests(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(open_server), cmocka_unit_test(disabled_server),
        cmocka_unit_test(trials_of_app_services), cmocka_unit_test(full_server), cmocka_unit_test(bodies)};

    return cmocka_run_group_tests_name("auth: blocking and bodies", tests, NULL, NULL);
}
