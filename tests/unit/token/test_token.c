/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Token text: the worked examples A, B, D and E, every decoding rule, releases with fewer fields, and random
 * round trips.
 */
#include "test_token.h"
#include "chappe/release.h"

#define BRAND_NEW "s1_1_0_1_1_1_1_1_0_1_1_1_1"
#define SINGLE    "s12345_100_7_200_300_40_500_600_0_1_12_1_1"
#define CLOCKS    "m56~2.58~3.59_17_338_m731~4.740_1082514_541479_274711_265584_0_379_4242_4141_4343"

static const char *text_of(const struct stream_token *t)
{
    static char text[TOKEN_TEXT_MAX + 1];

    text[token_format(t, text)] = 0;
    return text;
}

static bool below_five(writer_id w)
{
    return w < 5;
}

static void test_accepted(void **state)
{
    static const struct {
        const char *in, *out; /* out NULL: the same */
    } table[] = {
        {BRAND_NEW, NULL},                                         /* A */
        {SINGLE, NULL},                                            /* B */
        {CLOCKS, NULL},                                            /* D */
        {"s2633508_17_338_6732159_1082514_541479_274711_265584_1", /* E: the ninth field is always written as
                                                                      0 */
         "s2633508_17_338_6732159_1082514_541479_274711_265584_0_0_0_0_0"},
        {"s9", "s9_0_0_0_0_0_0_0_0_0_0_0_0"},
        {"s0", "s0_0_0_0_0_0_0_0_0_0_0_0_0"},
        {"s-5_-1", "s-5_-1_0_0_0_0_0_0_0_0_0_0_0"},
        {"s+5_+1", "s5_1_0_0_0_0_0_0_0_0_0_0_0"},
        {"s 5 ", "s5_0_0_0_0_0_0_0_0_0_0_0_0"}, /* as Python's int() */
        {"s5_\t1\n_2_3 ", "s5_1_2_3_0_0_0_0_0_0_0_0_0"},
        {"s9223372036854775808_-99999999999999999999",
         "s9223372036854775807_-9223372036854775808_0_0_0_0_0_0_0_0_0_0_0"},
        {"s007", "s7_0_0_0_0_0_0_0_0_0_0_0_0"},
        {"m5", "s5_0_0_0_0_0_0_0_0_0_0_0_0"},
        {"m5~", "s5_0_0_0_0_0_0_0_0_0_0_0_0"},
        {"m5~~2.9", "m5~2.9_0_0_0_0_0_0_0_0_0_0_0_0"},
        {"m5~2.9~", "m5~2.9_0_0_0_0_0_0_0_0_0_0_0_0"},
        {"m5~3.7~2.9", "m5~2.9~3.7_0_0_0_0_0_0_0_0_0_0_0_0"},
        {"m5~2.3~2.9", "m5~2.9_0_0_0_0_0_0_0_0_0_0_0_0"}, /* the last entry of a writer counts */
        {"m-5~2.-4", "m-5~2.-4_0_0_0_0_0_0_0_0_0_0_0_0"},
        {"t426-2633508", "t426-2633508_0_0_0_0_0_0_0_0_0_0_0_0"},
        {"t426--1", "t426--1_0_0_0_0_0_0_0_0_0_0_0_0"},
        {"s1_1_0_m1~3.2_1_1_1_m1~3.2~4.9_0_1_1_1_m0~1.1", NULL},
        {"s1_1_0_m-3~_1_1_1_m-4~1.-3", "s1_1_0_m-3_1_1_1_m-4~1.-3_0_0_0_0_0"},
        {"s1_1_0_m1_1_1_1_m7~", "s1_1_0_1_1_1_1_7_0_0_0_0_0"},
        {"s1_1_0_1_1_1_1_1_-77_1_1_1_1", BRAND_NEW},
        {"s9223372036854775807_-9223372036854775808", "s9223372036854775807_-9223372036854775808_0_0_0_0_0_0_"
                                                      "0_0_0_0_0"},
    };

    (void)state;
    token_arity_set(13); /* the examples are Synapse 1.157's */
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct stream_token t, again;
        assert_int_equal(token_parse(str_of(table[i].in), below_five, &t), 0);
        assert_string_equal(text_of(&t), table[i].out ? table[i].out : table[i].in);
        assert_int_equal(token_parse(str_of(text_of(&t)), below_five, &again), 0);
        assert_true(token_equal(&t, &again));
    }
    token_arity_set(TOKEN_FIELD_COUNT);
}

static void test_refused(void **state)
{
    static const char *const table[] = {
        "",
        "_",
        "s",
        "x5",
        "5",
        "S5",
        " s5",
        "s5x",
        "s5.0",
        "s--5",
        "s+-5",
        "s-",
        "s9_1_2_3_4_5_6_7_8_9_10_11_12_13_1", /* E: 14 fields */
        "s9____________",
        "s9_",
        "s9_1_2_",
        "s9_x",
        "s9_1_2_x",
        "s9_1_2_ 3", /* a multi-writer field must start with a digit or m */
        "s5\x1c",
        "s9_1_2_-1", /* a multi-writer field must start with a digit or m */
        "s9_1_2_+1",
        "s9_1_2_s1",
        "s9_1_2_",
        "s9_1_2_m",
        "s9_1_2_m1~5.9", /* unknown writer */
        "s9_1_2_m9~2.9", /* not above the minimum */
        "s9_1_2_3_4_5_6_-1",
        "s9_1_2_3_4_5_6_7_x", /* groups is read too */
        "s9_1_2_3_4_5_6_7_8_9_10_11_-1",
        "m",
        "m~",
        "m~2.9",
        "mx~2.9",
        "m5~2",
        "m5~2.",
        "m5~.9",
        "m5~2.9.9",
        "m5~2.x",
        "m5~x.9",
        "m5~0.9",
        "m5~-2.9",
        "m5~5.9",
        "m5~4294967298.9",
        "m56~2.56",
        "m56~2.55",
        "m5~2.9~2.3",
        "t5",
        "t5-",
        "t-5-6",
        "t-",
        "t",
        "tx-5",
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct stream_token t;
        if (token_parse(str_of(table[i]), below_five, &t) != -ERR_PARSE)
            fail_msg("accepted: \"%s\"", table[i]);
    }
    struct stream_token t;
    assert_int_equal(token_parse(STR_ABSENT, NULL, &t), -ERR_PARSE);
    assert_int_equal(token_parse(str_n("s1\0_2", 5), NULL, &t), -ERR_PARSE);
    assert_int_equal(token_parse(STR("m5~2147483647.9"), NULL, &t), 0);
    assert_int_equal(token_parse(STR("m5~2147483648.9"), NULL, &t), -ERR_PARSE);
}

static void test_fields(void **state)
{
    struct stream_token t;

    (void)state;
    assert_int_equal(
        token_parse(STR("s1_2_3_m4~1.40_5_6_7_m8~1.80_9_10_11_m12~2.120_m13~1.130_14"), NULL, &t), 0);
    assert_false(t.historical);
    assert_int_equal(t.room.min, 1);
    assert_int_equal(t.presence, 2);
    assert_int_equal(t.typing, 3);
    assert_mpos(t.receipt, "m4~1.40");
    assert_int_equal(t.account_data, 5);
    assert_int_equal(t.push_rules, 6);
    assert_int_equal(t.to_device, 7);
    assert_mpos(t.device_list, "m8~1.80");
    assert_int_equal(t.un_partial_stated_rooms, 10);
    assert_int_equal(t.thread_subscriptions, 11);
    assert_mpos(t.sticky_events, "m12~2.120");
    assert_mpos(t.quarantined_media, "m13~1.130");
    assert_int_equal(t.profile_updates, 14);
    assert_int_equal(token_parse(STR("t12-34"), NULL, &t), 0);
    assert_true(t.historical);
    assert_int_equal(t.topological, 12);
    assert_int_equal(t.room.min, 34);
}

static void test_order(void **state)
{
    static const struct {
        const char *a, *b;
        bool le, ge, equal;
    } table[] = {
        {SINGLE, SINGLE, true, true, true},
        {"s1", "s2", true, false, false},
        {"s1_0_5", "s1_0_4", true, true, false}, /* typing does not order, but makes a difference */
        {"s1_1", "s1_0", false, true, false},
        {"s1_0_0_3", "s1_0_0_m2~1.9", false, false, false},
        {"s1_0_0_0_1", "s1_0_0_0_0", false, true, false},
        {"s1_0_0_0_0_1", "s1", false, true, false},
        {"s1_0_0_0_0_0_1", "s1", false, true, false},
        {"s1_0_0_0_0_0_0_1", "s1", false, true, false},
        {"s1_0_0_0_0_0_0_0_1", "s1", true, true, true}, /* groups is nothing */
        {"s1_0_0_0_0_0_0_0_0_1", "s1", false, true, false},
        {"s1_0_0_0_0_0_0_0_0_0_1", "s1", false, true, false},
        {"s1_0_0_0_0_0_0_0_0_0_0_1", "s1", false, true, false},
        {"s1_0_0_0_0_0_0_0_0_0_0_0_1", "s1", false, true, false},
        {"s1_0_0_0_0_0_0_0_0_0_0_0_0_1", "s1", false, true, false},
        {"s5_1", "s6_0", false, false, false},
        {"t5-1", "s1", true, true, false},
        {"t5-1", "t6-1", true, true, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct stream_token a, b;
        assert_int_equal(token_parse(str_of(table[i].a), NULL, &a), 0);
        assert_int_equal(token_parse(str_of(table[i].b), NULL, &b), 0);
        assert_int_equal(token_le(&a, &b), table[i].le);
        assert_int_equal(token_le(&b, &a), table[i].ge);
        assert_int_equal(token_equal(&a, &b), table[i].equal);
    }
}

/* A release that writes fewer fields also refuses more. */
static void test_arity(void **state)
{
    struct stream_token t;

    (void)state;
    assert_int_equal(token_arity(), TOKEN_FIELD_COUNT);
    assert_int_equal(token_parse(STR(SINGLE), NULL, &t), 0);
    token_arity_set(10);
    assert_string_equal(text_of(&t), "s12345_100_7_200_300_40_500_600_0_1");
    assert_int_equal(token_parse(STR("s1_1_0_1_1_1_1_1_0_1"), NULL, &t), 0);
    assert_int_equal(token_parse(STR("s1_1_0_1_1_1_1_1_0_1_1"), NULL, &t), -ERR_PARSE);
    token_arity_set(11);
    assert_string_equal(text_of(&t), "s1_1_0_1_1_1_1_1_0_1_0");
    token_arity_set(13);
    /* sticky_events is a number until 1.163, and may have writers from then on */
    release_set((struct release){1, 162, 0});
    assert_int_equal(token_parse(STR("s1_1_0_1_1_1_1_1_0_1_1_-1_1"), NULL, &t), 0);
    assert_string_equal(text_of(&t), "s1_1_0_1_1_1_1_1_0_1_1_-1_1");
    assert_int_equal(token_parse(STR("s1_1_0_1_1_1_1_1_0_1_1_m5~1.7_1"), NULL, &t), -ERR_PARSE);
    release_set((struct release){1, 163, 0});
    assert_int_equal(token_parse(STR("s1_1_0_1_1_1_1_1_0_1_1_-1_1"), NULL, &t), -ERR_PARSE);
    assert_int_equal(token_parse(STR("s1_1_0_1_1_1_1_1_0_1_1_m5~1.7_1"), NULL, &t), 0);
    assert_string_equal(text_of(&t), "s1_1_0_1_1_1_1_1_0_1_1_m5~1.7_1");
    release_set(release_newest());
    token_arity_set(TOKEN_FIELD_COUNT);
}

static int64_t random_int(void)
{
    int64_t v = (int64_t)(rnd() >> (1 + rnd() % 62));

    return rnd() % 8 == 0 ? -v : v;
}

static struct mpos random_clock(void)
{
    struct mpos p = mpos_of(random_int() / 2);

    for (uint64_t n = rnd() % 20; n > 0; n--)
        mpos_put(&p, 1 + (writer_id)(rnd() % 2000000000), p.min + 1 + (int64_t)(rnd() >> 3));
    return p;
}

static void test_random_round_trips(void **state)
{
    (void)state;
    for (int i = 0; i < 20000; i++) {
        struct stream_token t = {.room = random_clock(),
                                 .receipt = random_clock(),
                                 .device_list = random_clock(),
                                 .sticky_events = random_clock(),
                                 .quarantined_media = random_clock()};
        struct stream_token back;
        char text[TOKEN_TEXT_MAX];
        t.presence = random_int();
        t.typing = random_int();
        t.account_data = random_int();
        t.push_rules = random_int();
        t.to_device = random_int();
        t.un_partial_stated_rooms = random_int();
        t.thread_subscriptions = random_int();
        t.profile_updates = random_int();
        if (rnd() % 8 == 0) {
            t.historical = true;
            t.topological = (int64_t)(rnd() >> 1);
            t.room.n = 0;
        }
        size_t n = token_format(&t, text);
        assert_in_range(n, 1, TOKEN_TEXT_MAX);
        assert_int_equal(token_parse(str_n(text, n), NULL, &back), 0);
        assert_true(token_equal(&t, &back));
        assert_true(token_le(&t, &back) && token_le(&back, &t));
    }
}

/* The greatest values everywhere still fit. */
static void test_longest(void **state)
{
    struct stream_token t = {.presence = INT64_MIN,
                             .typing = INT64_MIN,
                             .account_data = INT64_MIN,
                             .push_rules = INT64_MIN,
                             .to_device = INT64_MIN,
                             .un_partial_stated_rooms = INT64_MIN,
                             .thread_subscriptions = INT64_MIN,
                             .profile_updates = INT64_MIN};
    struct mpos longest = mpos_of(INT64_MIN);
    struct stream_token back;
    char *text = malloc(TOKEN_TEXT_MAX);

    (void)state;
    for (int i = 0; i < MPOS_WRITERS_MAX; i++)
        mpos_put(&longest, INT32_MAX - i, INT64_MIN + 1);
    t.room = t.receipt = t.device_list = t.sticky_events = t.quarantined_media = longest;
    size_t n = token_format(&t, text);
    assert_in_range(n, 2000, TOKEN_TEXT_MAX);
    assert_int_equal(token_parse(str_n(text, n), NULL, &back), 0);
    assert_true(token_equal(&t, &back));
    /* No prefix of it may be read beyond its end (checked by the sanitizers). */
    for (size_t i = 0; i < n; i++) {
        char *prefix = malloc(i ? i : 1);
        memcpy(prefix, text, i);
        int r = token_parse(str_n(prefix, i), NULL, &back);
        assert_true(r == 0 || r == -ERR_PARSE);
        free(prefix);
    }
    free(text);
}

int run_token(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_fields),   cmocka_unit_test(test_order),
        cmocka_unit_test(test_arity),    cmocka_unit_test(test_random_round_trips),
        cmocka_unit_test(test_longest),
    };

    return cmocka_run_group_tests_name("token", tests, NULL, NULL);
}
