/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* auth_again for introspected tokens and application services: never yes where auth_request could say
 * anything else. For tokens of the database see test_internal.c, for guests test_macaroon.c. */
#include "auth_test.h"

#include "chappe/release.h"
#include "support/http_request.h"

#include <stdio.h>
#include <string.h>

#define API     "\"scope\":\"urn:matrix:client:api:*\""
#define ALICE   "\"active\":true,\"username\":\"alice\",\"device_id\":\"ALICE\"," API
#define NOBODYS "\"active\":true,\"username\":\"alice\"," API

enum { LIFE_MS = 300000, SHORT_MS = 60000, LATE_MS = 10 };

static struct config_regex irc_users[] = {{STR("@_irc_.*"), true}, {STR("@locked:.*"), true}};
static struct config_app_service services[] = {
    {.id = STR("irc"),
     .as_token = STR("as-irc"),
     .sender_localpart = STR("bot"),
     .users = irc_users,
     .users_count = 2},
};

static void with_mas(struct config *cfg)
{
    cfg->mas.enabled = true;
    cfg->mas.endpoint = STR("http://mas.test");
    cfg->app_services = services;
    cfg->app_services_count = 1;
}

static void with_patience(struct config *cfg)
{
    with_mas(cfg);
    cfg->auth_mas_outage_ms = 60000;
}

static void with_short_lives(struct config *cfg)
{
    with_mas(cfg);
    cfg->auth_cache_ms = SHORT_MS;
}

static void with_little_room(struct config *cfg)
{
    with_short_lives(cfg);
    cfg->auth_tokens_max = 1;
}

static void uncached(struct config *cfg)
{
    with_mas(cfg);
    cfg->auth_cache_ms = 0;
}

static void tracked(struct config *cfg)
{
    with_mas(cfg);
    cfg->track_appservice_user_ips = true;
}

static struct outcome introspected(struct fix *f, const char *token, const char *body)
{
    f->reply = (struct mas_reply){0, 200, body};
    struct outcome o = asked_token(f, token);
    assert_non_null(o.r);
    assert_int_equal(o.r->kind, REQUESTER_MAS);
    return o;
}

static struct outcome served(struct fix *f, const char *query)
{
    struct outcome o = asked(f, &(struct ask){.authorization = "Bearer as-irc", .query = query});
    assert_non_null(o.r);
    assert_int_equal(o.r->kind, REQUESTER_APP_SERVICE);
    return o;
}

static size_t statements(const struct fix *f)
{
    size_t n = f->introspections;
    for (size_t i = 0; i < SQL_COUNT; i++)
        n += f->statements[i];
    return n;
}

static void an_answer_and_its_age(void **state)
{
    struct fix *f = fix_new(with_mas);

    (void)state;
    struct outcome o = introspected(f, "mat", "{" ALICE "}");
    size_t before = statements(f);
    f->ips_n = 0;
    assert_true(again_token(f, o.r, "mat"));
    assert_int_equal(f->ips_n, 1);
    assert_string_equal(f->ips[0].user, "@alice:hs.test");
    assert_string_equal(f->ips[0].device, "ALICE");
    fix_tick(f, MAS_CACHE_MS - LATE_MS - 1);
    assert_true(again_token(f, o.r, "mat"));
    assert_int_equal(statements(f), before);
    fix_tick(f, 1);
    assert_false(again_token(f, o.r, "mat"));
    fix_tick(f, LATE_MS);
    f->reply = (struct mas_reply){0, 200, "{\"active\":false}"};
    struct outcome no = asked_token(f, "mat");
    assert_int_equal(no.status, 401);
    assert_false(again_token(f, o.r, "mat"));
    outcome_free(&o);
    fix_free(&f);
}

static void the_tokens_own_end(void **state)
{
    struct fix *f = fix_new(with_mas);

    (void)state;
    struct outcome o = introspected(f, "mat", "{" ALICE ",\"expires_in\":5}");
    fix_tick(f, 5000 - LATE_MS - 1);
    assert_true(again_token(f, o.r, "mat"));
    fix_tick(f, 1);
    assert_false(again_token(f, o.r, "mat"));
    outcome_free(&o);
    fix_free(&f);
}

/* An answer that is used because the service is down is none that may be used without asking it. */
static void an_outage(void **state)
{
    struct fix *f = fix_new(with_patience);

    (void)state;
    struct outcome o = introspected(f, "mat", "{" ALICE "}");
    fix_tick(f, MAS_CACHE_MS + 1000);
    assert_false(again_token(f, o.r, "mat"));
    f->reply = (struct mas_reply){-ERR_TIMEOUT, 0, ""};
    struct outcome old = asked_token(f, "mat");
    assert_accepted(&old, "@alice:hs.test", "ALICE", "patience");
    assert_false(again_token(f, old.r, "mat"));
    assert_false(again_token(f, o.r, "mat"));
    outcome_free(&o);
    outcome_free(&old);
    fix_free(&f);
}

/* It was forgotten, for whatever reason, before its time. */
static void an_answer_that_is_gone(void **state)
{
    struct fix *f = fix_new(with_mas);

    (void)state;
    struct outcome o = introspected(f, "mat", "{" ALICE "}");
    mas_forget(f->auth->mas, o.r->token_key);
    assert_false(again_token(f, o.r, "mat"));
    struct outcome o2 = introspected(f, "mat", "{" ALICE "}");
    assert_false(again_token(f, o.r, "mat"));
    assert_true(again_token(f, o2.r, "mat"));
    outcome_free(&o);
    outcome_free(&o2);
    fix_free(&f);
}

/* Whatever is said of a user or one of its devices: the next request is looked at. */
static void rows(void **state)
{
    static const struct {
        const char *func, *k1, *k2;
        bool holds;
    } said[] = {
        {"get_device", "@alice:hs.test", NULL, false},
        {"get_device", "@alice:hs.test", "ALICE", false},
        {"get_device", "@alice:hs.test", "OTHER", false},
        {"get_device", NULL, NULL, false},
        {"get_user_by_id", "@alice:hs.test", NULL, false},
        {"get_user_locked_status", "@alice:hs.test", NULL, false},
        {"get_user_deactivated_status", "@alice:hs.test", NULL, false},
        {"get_user_by_id", NULL, NULL, false},
        {"get_device", "@bob:hs.test", NULL, true},
        {"get_user_by_id", "@bob:hs.test", NULL, true},
        {"get_user_by_access_token", "mat", NULL, false},
        {"get_user_by_access_token", "mat2", NULL, true},
        {"user_last_seen_monthly_active", "@alice:hs.test", NULL, true},
    };
    struct fix *f = fix_new(with_mas);

    (void)state;
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        struct outcome o = introspected(f, "mat", "{" ALICE "}");
        assert_true(again_token(f, o.r, "mat"));
        row(f, said[i].func, said[i].k1, said[i].k2);
        if (again_token(f, o.r, "mat") != said[i].holds)
            fail_msg("%s %zu", said[i].func, i);
        outcome_free(&o);
    }
    struct outcome o = introspected(f, "mat", "{" ALICE "}");
    auth_flush(f->auth);
    assert_false(again_token(f, o.r, "mat"));
    outcome_free(&o);
    assert_int_equal(f->introspections, 1);
    fix_free(&f);
}

/* The older one of two rows decides. */
static void the_age_of_rows(void **state)
{
    struct fix *f = fix_new(with_short_lives);

    (void)state;
    struct outcome user = introspected(f, "mat", "{" NOBODYS "}");
    fix_tick(f, 20000);
    struct outcome o = introspected(f, "mat2", "{" ALICE "}"); /* its device was read now */
    fix_tick(f, SHORT_MS - 20000 - LATE_MS - 1);
    assert_true(again_token(f, user.r, "mat"));
    assert_true(again_token(f, o.r, "mat2"));
    fix_tick(f, 1);
    assert_false(again_token(f, user.r, "mat"));
    assert_false(again_token(f, o.r, "mat2"));
    outcome_free(&o);
    fix_tick(f, LATE_MS);
    o = introspected(f, "mat2", "{" ALICE "}"); /* its user is read now */
    fix_tick(f, 20000 - LATE_MS - 1);
    assert_true(again_token(f, o.r, "mat2"));
    fix_tick(f, 1);
    assert_false(again_token(f, o.r, "mat2"));
    outcome_free(&o);
    outcome_free(&user);
    fix_free(&f);
}

static void rows_that_are_not_kept(void **state)
{
    struct fix *f = fix_new(with_little_room);

    (void)state;
    struct outcome o = introspected(f, "mat", "{" ALICE "}");
    assert_true(again_token(f, o.r, "mat"));
    struct outcome bob = introspected(f, "mat2", "{\"active\":true,\"username\":\"bob\"," API "}");
    assert_false(again_token(f, o.r, "mat"));
    assert_true(again_token(f, bob.r, "mat2"));
    outcome_free(&o);
    outcome_free(&bob);
    fix_free(&f);
    f = fix_new(uncached);
    o = introspected(f, "mat", "{" ALICE "}");
    assert_false(again_token(f, o.r, "mat"));
    outcome_free(&o);
    fix_free(&f);
}

/* A row about the user arrives when its own has been read and its device's not yet. */
static void news_while_it_waits(void **state)
{
    struct fix *f = fix_new(with_mas);
    struct outcome o;

    (void)state;
    struct outcome before = introspected(f, "mat", "{" NOBODYS "}"); /* the user is known */
    f->reply = (struct mas_reply){0, 200, "{" ALICE "}"};
    f->hold = true;
    ask_token(f, "mat2", &o);
    fix_pump(f);
    assert_int_equal(f->statements[SQL_auth_devices], 1);
    row(f, "get_user_by_id", "@alice:hs.test", NULL);
    f->hold = false;
    fix_pump(f);
    assert_accepted(&o, "@alice:hs.test", "ALICE", "waited");
    assert_false(again_token(f, o.r, "mat2"));
    outcome_free(&o);
    o = introspected(f, "mat2", "{" ALICE "}");
    assert_true(again_token(f, o.r, "mat2"));
    outcome_free(&o);
    outcome_free(&before);
    fix_free(&f);
}

/* The same with nobody else of that user here; and what the row was about ends whoever parks. */
static void user_gone_while_it_waits(void **state)
{
    struct fix *f = fix_new(with_mas);
    struct outcome o;
    struct watched w;

    (void)state;
    struct outcome before = introspected(f, "mat", "{" NOBODYS "}");
    outcome_free(&before);
    f->reply = (struct mas_reply){0, 200, "{" ALICE "}"};
    f->hold = true;
    ask_token(f, "mat2", &o);
    fix_pump(f);
    assert_int_equal(f->statements[SQL_auth_devices], 1);
    fix_user(f, "@alice:hs.test")->gone = true;
    row(f, "get_user_deactivated_status", "@alice:hs.test", NULL);
    f->hold = false;
    fix_pump(f);
    assert_accepted(&o, "@alice:hs.test", "ALICE", "from what was read before");
    assert_false(again_token(f, o.r, "mat2"));
    watch(f, &w, o.r);
    fix_pump(f);
    assert_int_equal(w.ended, 1);
    outcome_free(&o);
    fix_free(&f);
}

/* A row of the user that comes with each look: what is handed out at last may be old. */
static void endless_news_of_the_user(void **state)
{
    struct fix *f = fix_new(with_mas);
    struct outcome o;
    struct watched w;

    (void)state;
    f->reply = (struct mas_reply){0, 200, "{" NOBODYS "}"};
    f->hold = true;
    ask_token(f, "mat", &o);
    for (int i = 0; i < AUTH_TRIES_MAX; i++) {
        fix_pump(f);
        assert_int_equal(o.calls, 0);
        row(f, "get_user_by_id", "@alice:hs.test", NULL);
        fix_deliver(f);
    }
    assert_int_equal(f->statements[SQL_auth_users], AUTH_TRIES_MAX);
    assert_accepted(&o, "@alice:hs.test", NULL, "at last");
    assert_false(again_token(f, o.r, "mat"));
    fix_user(f, "@alice:hs.test")->gone = true;
    watch(f, &w, o.r);
    f->hold = false;
    fix_pump(f);
    assert_int_equal(w.ended, 1);
    outcome_free(&o);
    fix_free(&f);
}

static void odd_requests(void **state)
{
    struct fix *f = fix_new(with_mas);
    struct outcome o = introspected(f, "mat", "{" ALICE "}"), as = served(f, "user_id=@_irc_x:hs.test");
    const struct str authorization = STR("Bearer mat");
    struct http_req req = {.authorization = &authorization};
    int64_t due = 0;

    (void)state;
    request_texts(&req, http_arena(&req), STR("/"), STR_ABSENT, STR("192.0.2.9"), STR("test/1"));
    for (int n = 0; n <= 2; n++) {
        req.authorization_count = (uint8_t)n;
        assert_int_equal(auth_again(f->auth, o.r, &req, &due), n == 1);
        assert_int_equal(auth_again(f->auth, as.r, &req, &due), n == 1);
    }
    arena_free(&req.arena);
    outcome_free(&o);
    outcome_free(&as);
    fix_free(&f);
}

/* What holds of all services: nothing of the user counts but that it exists. */
static void services_again(void **state)
{
    struct fix *f = fix_new(with_mas);

    (void)state;
    struct outcome o = served(f, "user_id=@_irc_x:hs.test&device_id=BRIDGE"),
                   locked = served(f, "user_id=@locked:hs.test"), bot = served(f, "");
    assert_true(again_token(f, o.r, "as-irc"));
    assert_true(again_token(f, locked.r, "as-irc"));
    assert_true(again_token(f, bot.r, "as-irc"));
    assert_int_equal(f->ips_n, 0); /* not told of services */
    row(f, "get_user_by_id", "@locked:hs.test", NULL);
    assert_false(again_token(f, locked.r, "as-irc"));
    assert_true(again_token(f, o.r, "as-irc"));
    fix_device(f, "@_irc_x:hs.test", "BRIDGE")->gone = true;
    row(f, "get_device", "@_irc_x:hs.test", NULL);
    assert_false(again_token(f, o.r, "as-irc"));
    outcome_free(&o);
    outcome_free(&locked);
    locked = served(f, "user_id=@locked:hs.test");
    fix_tick(f, LIFE_MS - LATE_MS - 1);
    assert_true(again_token(f, locked.r, "as-irc"));
    fix_tick(f, 1);
    assert_false(again_token(f, locked.r, "as-irc"));
    fix_tick(f, 10 * LIFE_MS);
    assert_true(again_token(f, bot.r, "as-irc")); /* configuration, all of it */
    outcome_free(&locked);
    outcome_free(&bot);
    fix_free(&f);
}

static void services_that_are_tracked(void **state)
{
    struct fix *f = fix_new(tracked);
    struct outcome o = served(f, "user_id=@_irc_x:hs.test");

    (void)state;
    f->ips_n = 0;
    assert_true(again_token(f, o.r, "as-irc"));
    assert_int_equal(f->ips_n, 1);
    assert_string_equal(f->ips[0].user, "@_irc_x:hs.test");
    assert_string_equal(f->ips[0].token, "as-irc");
    assert_string_equal(f->ips[0].device, "dummy-device");
    outcome_free(&o);
    fix_free(&f);
}

/* Which arguments name the device depends on Synapse's release, which may change. */
static void another_release(void **state)
{
    struct fix *f = fix_new(with_mas);

    (void)state;
    release_set((struct release){1, 157, 1});
    struct outcome o = served(f, "user_id=@_irc_x:hs.test&org.matrix.msc3202.device_id=BRIDGE");
    assert_accepted(&o, "@_irc_x:hs.test", "BRIDGE", "old");
    assert_true(again_token(f, o.r, "as-irc"));
    release_set((struct release){1, 162, 0});
    assert_false(again_token(f, o.r, "as-irc"));
    struct outcome now = served(f, "user_id=@_irc_x:hs.test&org.matrix.msc3202.device_id=BRIDGE");
    assert_accepted(&now, "@_irc_x:hs.test", NULL, "new");
    assert_true(again_token(f, now.r, "as-irc"));
    release_set((struct release){1, 157, 1});
    assert_false(again_token(f, now.r, "as-irc"));
    outcome_free(&o);
    outcome_free(&now);
    fix_free(&f);
    release_set(release_newest());
}

/* ---- whatever happens */

enum { STEPS = 6000 };

static const struct way {
    const char *token, *query, *body;
} ways[] = {
    {"mat", NULL, "{" ALICE "}"},
    {"mat2", NULL, "{" NOBODYS ",\"expires_in\":70}"},
    {"mat3", NULL, "{\"active\":true,\"username\":\"bob\",\"device_id\":\"BOB\"," API "}"},
    {"as-irc", "user_id=@_irc_x:hs.test&device_id=BRIDGE", ""},
    {"as-irc", "user_id=@_irc_x:hs.test&org.matrix.msc3202.device_id=BRIDGE", ""},
    {"as-irc", "user_id=@locked:hs.test", ""},
    {"as-irc", NULL, ""},
};
enum { WAYS = sizeof ways / sizeof *ways };

static void ask_way(struct fix *f, size_t i, struct outcome *o)
{
    char header[32];

    snprintf(header, sizeof header, "Bearer %s", ways[i].token);
    ask(f, &(struct ask){.authorization = header, .query = ways[i].query}, o);
}

static size_t dice(uint64_t *random, size_t sides)
{
    *random = *random * 6364136223846793005U + 1442695040888963407U;
    return (size_t)(*random >> 33) % sides;
}

static void something_happens(struct fix *f, uint64_t *random, bool down)
{
    static const char *const users[] = {"@alice:hs.test", "@bob:hs.test", "@_irc_x:hs.test",
                                        "@locked:hs.test"};
    static const char *const devices[] = {"ALICE", "BOB", "BRIDGE"};
    size_t u = dice(random, 4), d = dice(random, 3);

    switch (dice(random, 9)) {
    case 0:
        fix_device(f, users[d], devices[d])->gone ^= true; /* with the row on its way, or none */
        break;
    case 1:
        fix_device(f, users[d], devices[d])->gone ^= true;
        row(f, "get_device", users[d], NULL);
        break;
    case 2:
        row(f, "get_device", users[u], dice(random, 2) ? "OTHER" : NULL);
        break;
    case 3:
        fix_user(f, users[u])->gone ^= true;
        if (dice(random, 2))
            row(f, "get_user_by_id", users[u], NULL);
        break;
    case 4:
        row(f, "get_user_deactivated_status", users[u], NULL);
        break;
    case 5:
        if (dice(random, 20) == 0)
            auth_flush(f->auth);
        else if (dice(random, 20) == 0)
            row(f, dice(random, 2) ? "get_device" : "get_user_by_id", NULL, NULL);
        break;
    case 6:
        release_set((struct release){1, dice(random, 2) ? 157 : 162, 0});
        break;
    default:
        fix_tick(f, (int64_t)dice(random, 9000));
    }
    if (down)
        f->reply = (struct mas_reply){-ERR_TIMEOUT, 0, ""};
}

/* Where auth_again says yes, auth_request says the same at once, out of what is cached. */
static void never_another_answer(void **state)
{
    uint64_t random = 20;
    size_t yes = 0;

    (void)state;
    for (int round = 0; round < 3; round++) {
        struct fix *f = fix_new(round == 0   ? with_patience
                                : round == 1 ? with_short_lives
                                             : with_little_room);
        struct requester *known[WAYS] = {0};
        for (int step = 0; step < STEPS; step++) {
            something_happens(f, &random, dice(&random, 8) == 0);
            for (size_t i = 0; i < WAYS; i++) {
                struct outcome o;
                if (!known[i] || !again_token(f, known[i], ways[i].token))
                    continue;
                yes++;
                ask_way(f, i, &o);
                if (o.calls != 1 || !o.r || !str_eq(requester_user(o.r), requester_user(known[i])) ||
                    !str_eq(requester_device(o.r), requester_device(known[i])) ||
                    str_absent(requester_device(o.r)) != str_absent(requester_device(known[i])))
                    fail_msg("round %d, step %d, way %zu: %d %s", round, step, i, o.calls, o.error);
                outcome_free(&o);
            }
            size_t i = dice(&random, WAYS);
            struct outcome o;
            f->reply = (struct mas_reply){0, 200, dice(&random, 5) ? ways[i].body : "{\"active\":false}"};
            ask_way(f, i, &o);
            if (!o.calls) {
                fix_pump_once(f);
                something_happens(f, &random, false);
                fix_pump(f);
            }
            assert_int_equal(o.calls, 1);
            if (o.r) {
                requester_unref(&known[i]);
                known[i] = o.r;
            }
        }
        for (size_t i = 0; i < WAYS; i++)
            requester_unref(&known[i]);
        fix_free(&f);
    }
    release_set(release_newest());
    assert_true(yes > 3 * STEPS / 2); /* it is no empty promise */
}

int run_again(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_and_its_age),
        cmocka_unit_test(the_tokens_own_end),
        cmocka_unit_test(an_outage),
        cmocka_unit_test(an_answer_that_is_gone),
        cmocka_unit_test(rows),
        cmocka_unit_test(the_age_of_rows),
        cmocka_unit_test(rows_that_are_not_kept),
        cmocka_unit_test(news_while_it_waits),
        cmocka_unit_test(user_gone_while_it_waits),
        cmocka_unit_test(endless_news_of_the_user),
        cmocka_unit_test(odd_requests),
        cmocka_unit_test(services_again),
        cmocka_unit_test(services_that_are_tracked),
        cmocka_unit_test(another_release),
        cmocka_unit_test(never_another_answer),
    };

    return cmocka_run_group_tests_name("auth: again", tests, NULL, NULL);
}
