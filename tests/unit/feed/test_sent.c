/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Addresses, the presence relay and its throttle, and catch-up over HTTP; what goes over Redis is in
 * test_redis.c. */
#include "feed_test.h"

#include "chappe/clock.h"
#include "chappe/metrics.h"

#include <stdio.h>
#include <stdlib.h>

static void addresses(void **state)
{
    static const struct {
        const char *instance, *url, *unix_path;
    } rows[] = {
        {"master", "http://127.0.0.1:9093/_synapse/replication/x", ""},
        {"ep1", "https://[::1]:9094/_synapse/replication/x", ""},
        {"ep2", "http://localhost/_synapse/replication/x", "/run/ep2.sock"},
        {"r2", NULL, NULL},
    };
    struct config cfg;
    struct buf url;

    (void)state;
    fix_config(&cfg);
    buf_init(&url, 1000);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct str path = STR_ABSENT;

        buf_reset(&url);
        assert_int_equal(repl_url(&cfg, str_of(rows[i].instance), "x", &url, &path), rows[i].url != NULL);
        if (rows[i].url) {
            assert_true(str_eq(buf_str(&url), str_of(rows[i].url)));
            assert_true(str_eq(path, str_of(rows[i].unix_path)));
        }
    }
    buf_reset(&url);
    url_put(&url, STR("@alice:example.com/\xc3\xa9~_-.%\0z"));
    assert_true(str_eq(buf_str(&url), STR("%40alice%3Aexample.com%2F%C3%A9~_-.%25%00z")));
    buf_fini(&url);
}

static void the_relay_is_throttled(void **state)
{
    struct fix *x = fix_new();

    (void)state;
    clock_fake_set(1000000);
    feed_presence_start(x->f, STR("@a:example.com"), STR("DEV\"1"), STR("online"));
    assert_int_equal(http_calls.n, 1);
    assert_true(str_eq(http_calls.v[0].method, STR("POST")));
    assert_true(
        str_eq(http_calls.v[0].url,
               STR("http://127.0.0.1:9093/_synapse/replication/presence_set_state/%40a%3Aexample.com")));
    assert_true(str_eq(http_calls.v[0].auth, STR("Bearer s3cret")));
    assert_true(
        str_eq(http_calls.v[0].body, STR("{\"device_id\":\"DEV\\\"1\",\"state\":{\"presence\":\"online\"},"
                                         "\"force_notify\":false,\"is_sync\":true}")));
    http_answer(0, 0, 200, "{}");
    /* the same again within 30 s * 5 / 6: nothing; another state, device or user: at once */
    clock_fake_set(1000000 + 24999);
    feed_presence_start(x->f, STR("@a:example.com"), STR("DEV\"1"), STR("online"));
    assert_int_equal(http_calls.n, 0);
    feed_presence_start(x->f, STR("@a:example.com"), STR("DEV2"), STR("online"));
    assert_int_equal(http_calls.n, 1);
    feed_presence_start(x->f, STR("@a:example.com"), STR("DEV\"1"), STR("unavailable"));
    assert_int_equal(http_calls.n, 2);
    feed_presence_start(x->f, STR("@a:example.com"), STR_ABSENT, STR("online"));
    assert_int_equal(http_calls.n, 3);
    assert_true(str_starts(http_calls.v[2].body, STR("{\"device_id\":null,")));
    feed_presence_start(x->f, STR("@a:example.com"), STR("DEV2"), STR("online"));
    assert_int_equal(http_calls.n, 3);
    clock_fake_set(1000000 + 50000);
    feed_presence_start(x->f, STR("@a:example.com"), STR("DEV2"), STR("online"));
    assert_int_equal(http_calls.n, 4);
    http_answer(0, 0, 500, "");
    assert_true(logged("worker_replication_secret"));
    clock_fake_set(-1);
    fix_free(&x); /* with three under way */
}

static void nothing_when_presence_is_not_tracked(void **state)
{
    struct fix *x = fix_new();

    (void)state;
    x->cfg.presence.tracked = false;
    feed_presence_start(x->f, STR("@a:example.com"), STR("D"), STR("online"));
    feed_presence_end(x->f, STR("@a:example.com"), STR("D"));
    assert_int_equal(http_calls.n, 0);
    assert_int_equal(kmap_count(&x->f->presence), 0);
    fix_free(&x);
}

static void relays_in_flight_are_limited(void **state)
{
    struct fix *x = fix_new();
    int64_t unsent = metric_get_l(M_feed_unsent, "presence_set_state");
    char device[16];

    (void)state;
    for (int i = 0; i < 300; i++) {
        snprintf(device, sizeof device, "D%d", i);
        feed_presence_start(x->f, STR("@a:example.com"), str_of(device), STR("online"));
    }
    assert_int_equal(http_calls.n, 256);
    assert_int_equal(metric_get_l(M_feed_unsent, "presence_set_state"), unsent + 44);
    fix_free(&x);
}

static void typing_is_fetched_over_http(void **state)
{
    struct fix *x = fix_new();

    (void)state;
    x->f->source = &feed_source_real;
    line(x, "POSITION typing master 9 9");
    assert_int_equal(http_calls.n, 1);
    assert_true(
        str_starts(http_calls.v[0].url,
                   STR("http://127.0.0.1:9093/_synapse/replication/get_repl_stream_updates/typing/")));
    assert_true(str_ends(http_calls.v[0].url, STR("?from_token=0&upto_token=9")));
    assert_true(str_eq(http_calls.v[0].auth, STR("Bearer s3cret")));
    http_answer(0, 0, 200,
                "{\"updates\": [[4, [\"!a\", [\"@u\"]]], [3, [\"!b\", []]], [5, \"bad\"]], \"upto_token\": "
                "6, \"limited\": true}");
    expect_has(x, "typing 1 3 !b=0\ntyping 1 4 !a=1\ntyping 1 6\n");
    assert_int_equal(http_calls.n, 1);
    assert_true(str_ends(http_calls.v[0].url, STR("?from_token=6&upto_token=9")));
    /* each of these is tried again, from the same place */
    static const struct {
        int err, status;
        const char *body;
    } bad[] = {
        {-ERR_TIMEOUT, 0, ""},
        {0, 500, ""},
        {0, 200, "{"},
        {0, 200, "{\"updates\": 1}"},
        {0, 200, "{\"updates\": [], \"limited\": true, \"upto_token\": 6}"},
        {0, 200, "{\"updates\": [], \"limited\": true}"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        http_answer(0, bad[i].err, bad[i].status, bad[i].body);
        until(x, http_calls.n == 1);
        assert_true(str_ends(http_calls.v[0].url, STR("?from_token=6&upto_token=9")));
    }
    buf_reset(&x->seen);
    http_answer(0, 0, 200, "{\"updates\": [[8, [\"!c\", [\"@u\"]]]], \"upto_token\": 9, \"limited\": false}");
    expect(x, "typing 1 8 !c=1\ntyping 1 9\nend\n");
    /* the feed goes while one is under way */
    line(x, "POSITION typing master 12 12");
    assert_int_equal(http_calls.n, 1);
    fix_free(&x);
}

static void typing_without_an_address(void **state)
{
    struct fix *x = fix_new();

    (void)state;
    x->f->source = &feed_source_real;
    x->cfg.instances_count = 0;
    line(x, "POSITION typing master 9 9");
    line(x, "RDATA typing master 10 [\"!a\",[]]");
    until(x, seen_has(x, "end"));
    expect(x, "typing 1 9\ntyping 1 10 !a=0\nend\n");
    assert_true(logged("instance_map does not list master"));
    fix_free(&x);
}

int run_sent(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses),
        cmocka_unit_test(the_relay_is_throttled),
        cmocka_unit_test(nothing_when_presence_is_not_tracked),
        cmocka_unit_test(relays_in_flight_are_limited),
        cmocka_unit_test(typing_is_fetched_over_http),
        cmocka_unit_test(typing_without_an_address),
    };

    return cmocka_run_group_tests_name("sent", tests, NULL, NULL);
}
