/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Token introspection: the decision table, sharing and remembering, trouble. test_database.c has the real
 * HTTP client. */
#include "auth_test.h"

#include <string.h>

#define INACTIVE 401, "M_UNKNOWN_TOKEN", "Token is not active", 0
#define DOWN     503, "M_UNKNOWN", "Unable to introspect the access token", -1
#define API      "urn:matrix:client:api:*"
#define OLD_API  "urn:matrix:org.matrix.msc2967.client:api:*"
#define ALICE    "\"active\":true,\"username\":\"alice\",\"scope\":\"" API " urn:matrix:client:device:ALICE\""

static void with_mas(struct config *cfg)
{
    cfg->mas.enabled = true;
    cfg->mas.endpoint = STR("http://mas.test:8080//");
    cfg->mas.secret = STR("shh");
}

static void with_patience(struct config *cfg)
{
    with_mas(cfg);
    cfg->auth_mas_outage_ms = 60000;
}

static void reply(struct fix *f, const char *body)
{
    f->reply.err = 0;
    f->reply.status = 200;
    f->reply.body = body;
}

#define A85  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define A255 A85 A85 A85

#define CLAIM(text) 500, "M_FORBIDDEN", text, -1
static const struct {
    const char *body;
    const char *user, *device;
    int status;
    const char *errcode, *error;
    int soft;
} decision_rows[] = {
    {"{" ALICE "}", "@alice:hs.test", "ALICE", 0, NULL, NULL, 0},
    {"{" ALICE ",\"expires_in\":300,\"sub\":\"01H\",\"more\":[1,{}]}", "@alice:hs.test", "ALICE", 0, NULL,
     NULL, 0},
    {"{" ALICE ",\"expires_in\":null,\"sub\":null,\"device_id\":null}", "@alice:hs.test", "ALICE", 0, NULL,
     NULL, 0},
    {"{" ALICE ",\"expires_in\":99999999999999999999999}", "@alice:hs.test", "ALICE", 0, NULL, NULL, 0},
    {"{" ALICE ",\"expires_in\":9223372036854775807}", "@alice:hs.test", "ALICE", 0, NULL, NULL, 0},
    {"{" ALICE ",\"expires_in\":0}", NULL, NULL, INACTIVE},
    {"{" ALICE ",\"expires_in\":-5}", NULL, NULL, INACTIVE},
    {"{" ALICE ",\"expires_in\":-99999999999999999999999}", NULL, NULL, INACTIVE},
    {"{\"active\":true,\"username\":\"alice\",\"scope\":\"" OLD_API "\"}", "@alice:hs.test", NULL, 0, NULL,
     NULL, 0},
    {"{\"active\":true,\"username\":\"alice\",\"scope\":\"  openid  " API "  \"}", "@alice:hs.test", NULL, 0,
     NULL, NULL, 0},
    {"{\"active\":true,\"username\":\"alice\",\"scope\":\"" API
     " urn:matrix:org.matrix.msc2967.client:device:ALICE urn:matrix:client:device:ALICE\"}",
     "@alice:hs.test", "ALICE", 0, NULL, NULL, 0},
    {"{\"active\":true,\"username\":\"bob\",\"scope\":\"" API
     " urn:matrix:client:device:X\",\"device_id\":\"BOB\"}",
     "@bob:hs.test", "BOB", 0, NULL, NULL, 0},
    {"{\"active\":true,\"username\":\"locked\",\"scope\":\"" API "\"}", "@locked:hs.test", NULL, 0, NULL,
     NULL, 0}, /* not looked at */
    {"{\"active\":true,\"username\":\"guest\",\"scope\":\"" API "\"}", "@guest:hs.test", NULL, 0, NULL, NULL,
     0},
    {"{\"active\":false}", NULL, NULL, INACTIVE},
    {"{\"active\":false,\"username\":\"alice\",\"scope\":\"" API "\"}", NULL, NULL, INACTIVE},
    {"{\"active\":true}", NULL, NULL, 401, "M_UNKNOWN_TOKEN",
     "Token doesn't grant access to the Matrix C-S API", 0},
    {"{\"active\":true,\"username\":\"alice\",\"scope\":\"openid " API "x\"}", NULL, NULL, 401,
     "M_UNKNOWN_TOKEN", "Token doesn't grant access to the Matrix C-S API", 0},
    {"{\"active\":true,\"scope\":\"" API "\"}", NULL, NULL,
     CLAIM("Invalid username claim in the introspection result")},
    {"{\"active\":true,\"username\":null,\"scope\":\"" API "\"}", NULL, NULL,
     CLAIM("Invalid username claim in the introspection result")},
    {"{\"active\":true,\"username\":\"nobody\",\"scope\":\"" API "\"}", NULL, NULL, CLAIM("User not found")},
    {"{\"active\":true,\"username\":\"a\\u0000b\",\"scope\":\"" API "\"}", NULL, NULL,
     CLAIM("User not found")},
    {"{\"active\":true,\"username\":\"alice\",\"scope\":\"" API
     " urn:matrix:client:device:A urn:matrix:client:device:B\"}",
     NULL, NULL, CLAIM("Multiple device IDs in scope")},
    {"{\"active\":true,\"username\":\"alice\",\"scope\":\"" API " urn:matrix:client:device:\"}", NULL, NULL,
     CLAIM("Invalid device ID in introspection result")},
    {"{\"active\":true,\"username\":\"alice\",\"scope\":\"" API "\",\"device_id\":\"\"}", NULL, NULL,
     CLAIM("Invalid device ID in introspection result")},
    {"{\"active\":true,\"username\":\"alice\",\"scope\":\"" API "\",\"device_id\":\"" A255 "a\"}", NULL, NULL,
     CLAIM("Invalid device ID in introspection result")},
    {"{\"active\":true,\"username\":\"alice\",\"scope\":\"" API "\",\"device_id\":\"" A255 "\"}", NULL, NULL,
     INACTIVE}, /* no such device */
    {"{\"active\":true,\"username\":\"bob\",\"scope\":\"" API "\",\"device_id\":\"ALICE\"}", NULL, NULL,
     INACTIVE},
    /* not an introspection response */
    {"", NULL, NULL, DOWN},
    {"null", NULL, NULL, DOWN},
    {"[]", NULL, NULL, DOWN},
    {"{}", NULL, NULL, DOWN},
    {"{\"active\":true", NULL, NULL, DOWN},
    {"{\"active\":1}", NULL, NULL, DOWN},
    {"{\"active\":\"true\"}", NULL, NULL, DOWN},
    {"{\"active\":null}", NULL, NULL, DOWN},
    {"{\"active\":true,\"scope\":[]}", NULL, NULL, DOWN},
    {"{\"active\":true,\"username\":1}", NULL, NULL, DOWN},
    {"{\"active\":true,\"sub\":1}", NULL, NULL, DOWN},
    {"{\"active\":true,\"device_id\":{}}", NULL, NULL, DOWN},
    {"{\"active\":true,\"expires_in\":1.5}", NULL, NULL, DOWN},
    {"{\"active\":true,\"expires_in\":\"60\"}", NULL, NULL, DOWN},
    {"{\"active\":true,\"expires_in\":true}", NULL, NULL, DOWN},
    {"<html>", NULL, NULL, DOWN},
};

static void decisions(void **state)
{
    struct fix *f = fix_new(with_mas);
    char token[32];

    (void)state;
    for (size_t i = 0; i < sizeof decision_rows / sizeof *decision_rows; i++) {
        reply(f, decision_rows[i].body);
        f->ips_n = 0;
        snprintf(token, sizeof token, "mat_%zu", i);
        char header[64];
        snprintf(header, sizeof header, "Bearer %s", token);
        struct outcome o = asked(f, &(struct ask){.authorization = header, .no_guests = true});
        if (decision_rows[i].user)
            assert_accepted(&o, decision_rows[i].user, decision_rows[i].device, decision_rows[i].body);
        else
            assert_refused(&o, decision_rows[i].status, decision_rows[i].errcode, decision_rows[i].error,
                           decision_rows[i].soft, decision_rows[i].body);
        assert_int_equal(f->ips_n, decision_rows[i].user != NULL);
        outcome_free(&o);
    }
    assert_int_equal(f->introspections, sizeof decision_rows / sizeof *decision_rows);
    assert_int_equal(f->statements[SQL_auth_tokens], 0);
    fix_free(&f);
}

static void the_request(void **state)
{
    struct fix *f = fix_new(with_mas);

    (void)state;
    reply(f, "{" ALICE ",\"scope\":\"" API " urn:synapse:admin:*\"}");
    struct outcome o = asked(f, &(struct ask){.query = "access_token=mat_a%2Bb%20c"});
    assert_accepted(&o, "@alice:hs.test", NULL, "the last of two scopes counts");
    assert_true(o.r->is_admin);
    outcome_free(&o);
    assert_non_null(strstr(f->introspected, "POST http://mas.test:8080/oauth2/introspect\n"));
    assert_non_null(strstr(f->introspected, "Content-Type: application/x-www-form-urlencoded\n"));
    assert_non_null(strstr(f->introspected, "Accept: application/json\n"));
    assert_non_null(strstr(f->introspected, "Authorization: Bearer shh\n"));
    assert_non_null(strstr(f->introspected, "X-MAS-Supports-Device-Id: 1\n"));
    assert_non_null(strstr(f->introspected, "\n\ntoken=mat_a%2Bb%20c&token_type_hint=access_token"));
    o = asked(f, &(struct ask){.query = "access_token="});
    assert_refused(&o, INACTIVE, "empty");
    assert_int_equal(f->introspections, 1);
    fix_free(&f);
}

static void two_minutes(void **state)
{
    struct fix *f = fix_new(with_mas);
    struct outcome o;

    (void)state;
    reply(f, "{" ALICE "}");
    o = asked_token(f, "mat");
    outcome_free(&o);
    fix_tick(f, 119999);
    ask_token(f, "mat", &o);
    assert_int_equal(o.calls, 1); /* at once */
    outcome_free(&o);
    assert_int_equal(f->introspections, 1);
    fix_tick(f, 2);
    o = asked_token(f, "mat");
    outcome_free(&o);
    assert_int_equal(f->introspections, 2);
    /* "no" too */
    reply(f, "{\"active\":false}");
    o = asked_token(f, "no");
    o = asked_token(f, "no");
    assert_refused(&o, INACTIVE, "no");
    assert_int_equal(f->introspections, 3);
    fix_tick(f, 120001);
    reply(f, "{" ALICE "}");
    o = asked_token(f, "no");
    assert_accepted(&o, "@alice:hs.test", "ALICE", "yes, now");
    outcome_free(&o);
    /* the token's own end comes first */
    reply(f, "{" ALICE ",\"expires_in\":5}");
    o = asked_token(f, "five");
    outcome_free(&o);
    fix_tick(f, 4999);
    o = asked_token(f, "five");
    assert_accepted(&o, "@alice:hs.test", "ALICE", "five");
    outcome_free(&o);
    fix_tick(f, 1);
    o = asked_token(f, "five");
    assert_refused(&o, INACTIVE, "five");
    fix_free(&f);
}

static void one_introspection_for_a_thousand_requests(void **state)
{
    enum { N = 1000 };
    struct fix *f = fix_new(with_mas);
    struct outcome *o = xcalloc(N, sizeof *o);

    (void)state;
    reply(f, "{" ALICE "}");
    for (size_t i = 0; i < N; i++)
        ask_token(f, "mat", &o[i]);
    fix_pump(f);
    for (size_t i = 0; i < N; i++) {
        assert_accepted(&o[i], "@alice:hs.test", "ALICE", "one of many");
        outcome_free(&o[i]);
    }
    assert_int_equal(f->introspections, 1);
    assert_int_equal(f->statements[SQL_auth_users], 1);
    assert_int_equal(f->statements[SQL_auth_devices], 1);
    free(o);
    fix_free(&f);
}

static void many_tokens_wait_their_turn(void **state)
{
    enum { N = 200 };
    struct fix *f = fix_new(with_mas);
    struct outcome *o = xcalloc(N, sizeof *o);
    char token[32];

    (void)state;
    reply(f, "{" ALICE "}");
    for (size_t i = 0; i < N; i++) {
        snprintf(token, sizeof token, "mat%zu", i);
        ask_token(f, token, &o[i]);
    }
    assert_int_equal(f->introspections, MAS_IN_FLIGHT_MAX);
    fix_pump(f);
    fix_pump(f);
    for (size_t i = 0; i < N; i++) {
        assert_accepted(&o[i], "@alice:hs.test", "ALICE", "one of many");
        outcome_free(&o[i]);
    }
    assert_int_equal(f->introspections, N);
    free(o);
    fix_free(&f);
}

static void devices_decide(void **state)
{
    struct fix *f = fix_new(with_mas);
    struct outcome o;

    (void)state;
    reply(f, "{" ALICE "}");
    o = asked_token(f, "mat");
    assert_accepted(&o, "@alice:hs.test", "ALICE", "mat");
    outcome_free(&o);
    fix_device(f, "@alice:hs.test", "ALICE")->gone = true;
    row(f, "get_device", "@bob:hs.test", NULL);
    ask_token(f, "mat", &o);
    assert_non_null(o.r); /* still cached */
    outcome_free(&o);
    row(f, "get_device", "@alice:hs.test", NULL); /* one element: all devices */
    o = asked_token(f, "mat");
    assert_refused(&o, INACTIVE, "device gone");
    assert_int_equal(f->introspections, 1);
    o = asked_token(f, "mat"); /* the introspection was forgotten */
    assert_refused(&o, INACTIVE, "device gone");
    assert_int_equal(f->introspections, 2);
    fix_device(f, "@alice:hs.test", "ALICE")->gone = false;
    row(f, "get_device", "@alice:hs.test", "ALICE"); /* a new device; "missing" was cached */
    o = asked_token(f, "mat");
    assert_accepted(&o, "@alice:hs.test", "ALICE", "new device");
    outcome_free(&o);
    fix_free(&f);
}

static void outage(void **state)
{
    static const struct mas_reply bad[] = {
        {-ERR_TIMEOUT, 0, ""},          {-ERR_LIMIT, 0, ""}, {0, 500, "{" ALICE "}"},
        {0, 401, "{\"active\":false}"}, {0, 302, ""},        {0, 199, "{" ALICE "}"},
    };
    struct fix *f = fix_new(with_mas);
    struct outcome o;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        f->reply = bad[i];
        o = asked_token(f, "mat");
        assert_refused(&o, DOWN, "outage");
        assert_int_equal(f->introspections, i + 1); /* never remembered */
    }
    f->reply = (struct mas_reply){-ERR_CLOSED, 0, ""};
    o = asked_token(f, "mat");
    assert_refused(&o, DOWN, "closed");
    assert_int_equal(f->introspections,
                     sizeof bad / sizeof *bad + 2); /* a closed connection is tried once more */
    reply(f, "{" ALICE "}");
    o = asked_token(f, "mat");
    assert_accepted(&o, "@alice:hs.test", "ALICE", "well again");
    outcome_free(&o);
    fix_free(&f);
}

static void patience_during_an_outage(void **state)
{
    struct fix *f = fix_new(with_patience);
    struct outcome o;

    (void)state;
    reply(f, "{" ALICE "}");
    o = asked_token(f, "mat");
    outcome_free(&o);
    f->reply = (struct mas_reply){-ERR_TIMEOUT, 0, ""};
    fix_tick(f, 150000);
    o = asked_token(f, "mat");
    assert_accepted(&o, "@alice:hs.test", "ALICE", "a little longer");
    outcome_free(&o);
    assert_int_equal(f->introspections, 2);
    fix_device(f, "@alice:hs.test", "ALICE")->gone = true; /* but not without its device */
    row(f, "get_device", "@alice:hs.test", NULL);
    o = asked_token(f, "mat");
    assert_refused(&o, INACTIVE, "device");
    fix_device(f, "@alice:hs.test", "ALICE")->gone = false;
    row(f, "get_device", "@alice:hs.test", NULL);
    reply(f, "{" ALICE "}");
    o = asked_token(f, "mat");
    outcome_free(&o);
    f->reply = (struct mas_reply){-ERR_TIMEOUT, 0, ""};
    fix_tick(f, 180001);
    o = asked_token(f, "mat");
    assert_refused(&o, DOWN, "long enough");
    fix_free(&f);
}

static void nobody_waits_for_ever(void **state)
{
    struct fix *f = fix_new(with_mas);
    struct outcome o;

    (void)state;
    f->reply_hold = true;
    reply(f, "{" ALICE "}");
    ask_token(f, "mat", &o);
    fix_pump(f);
    fix_tick(f, 30000);
    assert_refused(&o, 503, "M_UNKNOWN", "Service temporarily unavailable", -1, "patience");
    f->reply_hold = false;
    fix_pump(f);
    o = asked_token(f, "mat");
    assert_accepted(&o, "@alice:hs.test", "ALICE", "the late answer");
    assert_int_equal(f->introspections, 1);
    outcome_free(&o);
    /* stop in the middle */
    f->reply_hold = true;
    ask_token(f, "other", &o);
    fix_pump(f);
    auth_stop(&f->auth);
    assert_int_equal(o.status, 503);
    fix_free(&f);
}

static void parked(void **state)
{
    struct fix *f = fix_new(with_mas);
    struct outcome o, p;
    struct watched w, v;

    (void)state;
    reply(f, "{" ALICE ",\"expires_in\":5}");
    o = asked_token(f, "mat");
    watch(f, &w, o.r);
    outcome_free(&o);
    reply(f, "{\"active\":true,\"username\":\"bob\",\"scope\":\"" API "\",\"device_id\":\"BOB\"}");
    p = asked_token(f, "mat2");
    watch(f, &v, p.r);
    outcome_free(&p);
    fix_tick(f, 6000); /* its end does not interrupt a poll */
    fix_pump(f);
    row(f, "get_device", "@alice:hs.test", NULL); /* another device was deleted */
    fix_pump(f);
    assert_int_equal(w.ended, 0);
    f->reply = (struct mas_reply){-ERR_TIMEOUT, 0, ""};
    fix_device(f, "@alice:hs.test", "ALICE")->gone = true;
    row(f, "get_device", "@alice:hs.test", NULL);
    fix_pump(f);
    assert_int_equal(w.ended, 1);
    assert_string_equal(w.errcode, "M_UNKNOWN_TOKEN");
    assert_string_equal(w.error, "Token is not active");
    assert_int_equal(w.soft_logout, 0);
    assert_int_equal(v.ended, 0); /* the service being down ends nothing */
    auth_watch_del(&v.w);
    fix_free(&f);
}

int run_mas_tests(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(decisions),
        cmocka_unit_test(the_request),
        cmocka_unit_test(two_minutes),
        cmocka_unit_test(one_introspection_for_a_thousand_requests),
        cmocka_unit_test(many_tokens_wait_their_turn),
        cmocka_unit_test(devices_decide),
        cmocka_unit_test(outage),
        cmocka_unit_test(patience_during_an_outage),
        cmocka_unit_test(nobody_waits_for_ever),
        cmocka_unit_test(parked),
    };

    return cmocka_run_group_tests_name("auth: introspection", tests, NULL, NULL);
}
