/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Application services: masquerade, devices, address lists, patterns that do not behave. */
#include "chappe/release.h"
#include "auth_test.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define UNKNOWN 401, "M_UNKNOWN_TOKEN", "Invalid access token passed.", 0

static struct config_regex irc_users[] = {{STR("@_irc_.*"), true},
                                          {STR("@ali(?P<rest>ce):hs\\.test$"), false}};
static struct config_regex evil_users[] = {{STR("@(a+)+$"), false}};
static struct str ranges[] = {STR("10.0.0.0/8"), STR("2001:db8::/33"), STR("192.0.2.7")};
static struct config_app_service services[] = {
    {.id = STR("irc"),
     .as_token = STR("as-irc"),
     .sender_localpart = STR("bot"),
     .users = irc_users,
     .users_count = 2},
    {.id = STR("far"),
     .as_token = STR("as-far"),
     .sender_localpart = STR("farbot"),
     .has_ip_range_whitelist = true,
     .ip_range_whitelist = ranges,
     .ip_range_whitelist_count = 3},
    {.id = STR("evil"),
     .as_token = STR("as-evil"),
     .sender_localpart = STR("evil"),
     .users = evil_users,
     .users_count = 1},
    {.id = STR("alice"),
     .as_token = STR("syt_alice"),
     .sender_localpart = STR("asalice"),
     .has_ip_range_whitelist = true},
};

static void with_services(struct config *cfg)
{
    cfg->app_services = services;
    cfg->app_services_count = 4;
}

static void tracked(struct config *cfg)
{
    with_services(cfg);
    cfg->track_appservice_user_ips = true;
}

static void masquerade(void **state)
{
#define CANNOT(u)         403, "M_FORBIDDEN", "Application service cannot masquerade as this user (" u ")."
#define NOT_REGISTERED(u) 403, "M_FORBIDDEN", "Application service has not registered this user (" u ")"
#define NO_DEVICE(d, u)                         \
    400, "ORG.MATRIX.MSC4326.M_UNKNOWN_DEVICE", \
        "Application service trying to use a device that doesn't exist ('" d "' for " u ")"
    static const struct {
        const char *query, *user, *device;
        int status;
        const char *errcode, *error;
    } rows[] = {
        {"", "@bot:hs.test", NULL, 0, NULL, NULL},
        {"user_id=%40bot%3Ahs.test", "@bot:hs.test", NULL, 0, NULL, NULL}, /* the sender needs no row */
        {"user_id=@_irc_x:hs.test", "@_irc_x:hs.test", NULL, 0, NULL, NULL},
        {"user_id=@alice:hs.test", "@alice:hs.test", NULL, 0, NULL, NULL},
        {"user_id=@alice:hs.test.evil", NULL, NULL, CANNOT("@alice:hs.test.evil")},
        {"user_id=@_irc_y:hs.test", NULL, NULL, NOT_REGISTERED("@_irc_y:hs.test")},
        {"user_id=@_irc_x:evil.example", NULL, NULL,
         NOT_REGISTERED("@_irc_x:evil.example")}, /* start-anchored only */
        {"user_id=x@_irc_x:hs.test", NULL, NULL, CANNOT("x@_irc_x:hs.test")},
        {"user_id=@bob:hs.test", NULL, NULL, CANNOT("@bob:hs.test")},
        {"user_id=", NULL, NULL, CANNOT("")},
        {"user_id=@b%C3%A9", NULL, NULL, CANNOT("@b\xc3\xa9")},
        {"user_id=%ff", NULL, NULL, 400, "M_INVALID_PARAM", "user_id and device_id must be valid UTF-8"},
        {"user_id=a%00", NULL, NULL, 400, "M_INVALID_PARAM", "user_id and device_id must be valid UTF-8"},
        {"user_id=@_irc_x:hs.test&device_id=BRIDGE", "@_irc_x:hs.test", "BRIDGE", 0, NULL, NULL},
        {"user_id=@_irc_x:hs.test&org.matrix.msc3202.device_id=BRIDGE", "@_irc_x:hs.test", "BRIDGE", 0, NULL,
         NULL},
        {"user_id=@_irc_x:hs.test&org.matrix.msc3202.device_id=NONE&device_id=BRIDGE", "@_irc_x:hs.test",
         "BRIDGE", 0, NULL, NULL},
        {"user_id=@_irc_x:hs.test&device_id=HIDDEN", NULL, NULL, NO_DEVICE("HIDDEN", "@_irc_x:hs.test")},
        {"user_id=@_irc_x:hs.test&device_id=", NULL, NULL, NO_DEVICE("", "@_irc_x:hs.test")},
        {"user_id=@_irc_x:hs.test&device_id=ALICE", NULL, NULL, NO_DEVICE("ALICE", "@_irc_x:hs.test")},
        {"device_id=BOT", "@bot:hs.test", "BOT", 0, NULL, NULL},
        {"device_id=BRIDGE", NULL, NULL, NO_DEVICE("BRIDGE", "@bot:hs.test")},
    };
    struct fix *f = fix_new(with_services);

    (void)state;
    release_set((struct release){1, 157, 1});
    for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            struct outcome o = asked(
                f,
                &(struct ask){.authorization = "Bearer as-irc", .query = rows[i].query, .no_guests = true});
            if (rows[i].user) {
                assert_accepted(&o, rows[i].user, rows[i].device, rows[i].query);
                assert_true(o.r->is_app_service);
            } else {
                assert_refused(&o, rows[i].status, rows[i].errcode, rows[i].error, -1, rows[i].query);
            }
            outcome_free(&o);
        }
    assert_int_equal(f->ips_n, 0);
    assert_int_equal(f->statements[SQL_auth_tokens], 0);
    fix_free(&f);
    release_set(release_newest());
}

/* The names of MSC3202 and MSC4326 went when those were done. */
static void devices_of_newer_releases(void **state)
{
    static const char query[] = "user_id=@_irc_x:hs.test&org.matrix.msc3202.device_id=BRIDGE";
    struct fix *f = fix_new(with_services);
    struct ask a = {.authorization = "Bearer as-irc", .query = query, .no_guests = true};

    (void)state;
    for (int minor = 160; minor <= 163; minor++) {
        release_set((struct release){1, minor, 0});
        a.query = query;
        struct outcome o = asked(f, &a);
        assert_accepted(&o, "@_irc_x:hs.test", minor < 161 ? "BRIDGE" : NULL, query);
        outcome_free(&o);
        a.query = "user_id=@_irc_x:hs.test&device_id=HIDDEN";
        o = asked(f, &a);
        assert_refused(
            &o, 400, minor < 162 ? "ORG.MATRIX.MSC4326.M_UNKNOWN_DEVICE" : "M_UNKNOWN_DEVICE",
            "Application service trying to use a device that doesn't exist ('HIDDEN' for @_irc_x:hs.test)",
            -1, a.query);
        outcome_free(&o);
    }
    fix_free(&f);
    release_set(release_newest());
}

static void user_ip(void **state)
{
    struct fix *f = fix_new(tracked);
    struct outcome o = asked(f, &(struct ask){.authorization = "Bearer as-irc"});

    (void)state;
    assert_int_equal(f->ips_n, 1);
    assert_string_equal(f->ips[0].user, "@bot:hs.test");
    assert_string_equal(f->ips[0].token, "as-irc");
    assert_string_equal(f->ips[0].device, "dummy-device");
    outcome_free(&o);
    o = asked(f, &(struct ask){.authorization = "Bearer as-irc",
                               .query = "user_id=@_irc_x:hs.test&device_id=BRIDGE"});
    assert_int_equal(f->ips_n, 2);
    assert_string_equal(f->ips[1].user, "@_irc_x:hs.test");
    assert_string_equal(f->ips[1].device, "BRIDGE");
    outcome_free(&o);
    fix_free(&f);
}

static void address_lists(void **state)
{
    static const struct {
        const char *ip;
        bool in;
    } rows[] = {
        {"10.0.0.1", true},        {"10.255.255.255", true},   {"11.0.0.0", false},
        {"9.255.255.255", false},  {"192.0.2.7", true},        {"192.0.2.6", false},
        {"2001:db8::1", true},     {"2001:db8:7fff::", true},  {"2001:db8:8000::", false},
        {"::ffff:10.1.2.3", true}, {"::ffff:11.1.2.3", false}, {"", false},
        {"/run/socket", false},    {"10.0.0.1/8", false},      {"ten", false},
        {"10.0.0", false},         {"0a00::", false},          {"fe80::1%eth0", false},
    };
    struct fix *f = fix_new(with_services);

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct outcome o = asked(f, &(struct ask){.authorization = "Bearer as-far", .ip = rows[i].ip});
        if (rows[i].in)
            assert_accepted(&o, "@farbot:hs.test", NULL, rows[i].ip);
        else
            assert_refused(&o, UNKNOWN, rows[i].ip);
        outcome_free(&o);
    }
    /* An empty list is none, and a service goes before a user with the same token. */
    struct outcome o = asked_token(f, "syt_alice");
    assert_accepted(&o, "@asalice:hs.test", NULL, "same token");
    outcome_free(&o);
    fix_free(&f);
}

static void range_texts(void **state)
{
    static const struct {
        const char *text;
        bool good;
    } rows[] = {
        {"10.0.0.0/8", true}, {"10.0.0.0/32", true}, {"10.0.0.0/33", false},
        {"::/0", true},       {"::/129", false},     {"::1", true},
        {"0.0.0.0/0", true},  {"10.0.0.0/", false},  {"10.0.0.0/-1", false},
        {"host/8", false},    {"", false},           {"/8", false},
        {"1.2.3.4.5", false},
    };
    struct ip_range r;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if ((ip_range_parse(str_of(rows[i].text), &r) == 0) != rows[i].good)
            fail_msg("%s", rows[i].text);
}

static void a_pattern_that_explodes(void **state)
{
    struct fix *f = fix_new(with_services);
    char query[256];
    struct timespec from, to;

    (void)state;
    snprintf(query, sizeof query,
             "user_id=@aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!");
    clock_gettime(CLOCK_MONOTONIC, &from);
    struct outcome o = asked(f, &(struct ask){.authorization = "Bearer as-evil", .query = query});
    clock_gettime(CLOCK_MONOTONIC, &to);
    assert_int_equal(o.status, 403);
    assert_true(to.tv_sec - from.tv_sec <= 2);
    fix_free(&f);
}

static void start_refuses(void **state)
{
    static struct config_regex broken[] = {{STR("@(unclosed"), true}};
    static struct str bad_range[] = {STR("10.0.0.0/99")};
    static struct config_app_service bad[][2] = {
        {{.id = STR("a"),
          .as_token = STR("hidden"),
          .sender_localpart = STR("a"),
          .users = broken,
          .users_count = 1}},
        {{.id = STR("a"),
          .as_token = STR("hidden"),
          .sender_localpart = STR("a"),
          .has_ip_range_whitelist = true,
          .ip_range_whitelist = bad_range,
          .ip_range_whitelist_count = 1}},
        {{.id = STR("a"), .as_token = STR("hidden"), .sender_localpart = STR("a")},
         {.id = STR("b"), .as_token = STR("hidden"), .sender_localpart = STR("b")}},
    };
    static const char *const texts[] = {"users regex", "10.0.0.0/99", "as_token"};
    uv_loop_t loop;

    (void)state;
    uv_loop_init(&loop);
    for (size_t i = 0; i < 3; i++) {
        struct config cfg = {.server_name = STR("hs.test"),
                             .app_services = bad[i],
                             .app_services_count = i == 2 ? 2 : 1,
                             .auth_tokens_max = 10};
        struct auth *a;
        struct err e = {""};
        assert_int_equal(auth_start(&a, &loop, &cfg, NULL, NULL, NULL, &e), -ERR_CONFIG);
        assert_null(a);
        assert_non_null(strstr(e.text, texts[i]));
        assert_null(strstr(e.text, "hidden")); /* no token in the text */
    }
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void a_parked_service_whose_device_goes(void **state)
{
    struct fix *f = fix_new(with_services);
    struct outcome o = asked(f, &(struct ask){.authorization = "Bearer as-irc",
                                              .query = "user_id=@_irc_x:hs.test&device_id=BRIDGE"});
    struct watched w;

    (void)state;
    watch(f, &w, o.r);
    outcome_free(&o);
    row(f, "get_user_by_id", "@_irc_x:hs.test", NULL);
    row(f, "get_device", "@_irc_x:hs.test", "OTHER");
    fix_pump(f);
    assert_int_equal(w.ended, 0);
    fix_device(f, "@_irc_x:hs.test", "BRIDGE")->gone = true;
    row(f, "get_device", "@_irc_x:hs.test", NULL);
    fix_pump(f);
    assert_int_equal(w.ended, 1);
    fix_free(&f);
}

int run_app_service_tests(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(masquerade),
        cmocka_unit_test(devices_of_newer_releases),
        cmocka_unit_test(user_ip),
        cmocka_unit_test(address_lists),
        cmocka_unit_test(range_texts),
        cmocka_unit_test(start_refuses),
        cmocka_unit_test(a_pattern_that_explodes),
        cmocka_unit_test(a_parked_service_whose_device_goes),
    };

    return cmocka_run_group_tests_name("auth: application services", tests, NULL, NULL);
}
