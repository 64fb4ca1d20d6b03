/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Persisted-up-to arithmetic: worked example C step by step, start-up cases, memory-only resets, and random
 * traffic against a simulation that knows which ids are really finished.
 */
#include "test_token.h"

enum { MASTER = 1, EP1 = 2, EP2 = 3 };

static void assert_at(const struct positions *p, int64_t persisted, const char *room)
{
    assert_int_equal(positions_persisted_upto(p), persisted);
    assert_mpos(positions_mpos(p), room);
}

static void test_example_c(void **state)
{
    static const writer_id writers[] = {EP1, EP2};
    struct positions *p = positions_new();

    (void)state;
    positions_init_writer(p, EP1, 100);
    positions_init_writer(p, EP2, 96);
    positions_init_known(p, 96);
    positions_init_known(p, 97);
    positions_init_known(p, 98);
    positions_init_known(p, 100);
    positions_init_seal(p, writers, 2);
    assert_at(p, 98, "m98~2.100");
    assert_int_equal(positions_of_writer(p, EP1), 100);
    assert_int_equal(positions_of_writer(p, EP2), 98);
    positions_advance(p, EP1, 103);
    assert_at(p, 98, "m98~2.103");
    positions_advance(p, EP2, 99);
    assert_at(p, 100, "m100~2.103");
    positions_advance(p, EP2, 101);
    assert_at(p, 101, "m101~2.103");
    positions_advance(p, EP1, 104);
    assert_at(p, 101, "m101~2.104");
    positions_advance(p, EP2, 102);
    assert_at(p, 104, "s104");
    assert_int_equal(positions_max(p), 104);
    positions_free(&p);
    assert_null(p);
    positions_free(&p);
}

static void test_start_without_rows(void **state)
{
    static const writer_id writers[] = {EP1, EP2};
    struct positions *p = positions_new();

    (void)state;
    positions_init_empty(p, 41);
    positions_init_seal(p, writers, 2);
    assert_at(p, 41, "s41");
    positions_advance(p, EP1, 42); /* gapless */
    assert_at(p, 42, "s42");
    positions_advance(p, EP1, 44);
    assert_at(p, 42, "m42~2.44");
    assert_int_equal(positions_of_writer(p, EP2), 42);
    positions_advance(p, EP2, 44); /* EP2 says that it has nothing in flight up to 44 */
    assert_at(p, 44, "s44");
    positions_free(&p);
}

/* A configured writer that never wrote counts as standing at P, and takes part in the minimum from then on.
 */
static void test_start_missing_writer(void **state)
{
    static const writer_id writers[] = {EP1, EP2};
    struct positions *p = positions_new();

    (void)state;
    positions_init_writer(p, EP1, 50);
    positions_init_seal(p, writers, 2);
    assert_at(p, 50, "s50");
    positions_advance(p, EP1, 60);
    assert_at(p, 50, "m50~2.60");
    positions_advance(p, EP2, 60);
    assert_at(p, 60, "s60");
    positions_free(&p);
}

static void test_single_writer(void **state)
{
    static const writer_id writers[] = {MASTER};
    struct positions *p = positions_new();

    (void)state;
    positions_init_writer(p, MASTER, 7);
    positions_init_known(p, 9); /* the row of stream_positions lags behind the data */
    positions_init_known(p, 8);
    positions_init_seal(p, writers, 1);
    assert_at(p, 9, "s9");
    positions_advance(p, MASTER, 8); /* an overlap is harmless */
    assert_at(p, 9, "s9");
    positions_advance(p, MASTER, 30);
    assert_at(p, 30, "s30");
    positions_free(&p);
}

/* No configured writers (the caches stream), and instances nobody knew. */
static void test_unknown_writers(void **state)
{
    struct positions *p = positions_new();

    (void)state;
    positions_init_empty(p, 10);
    positions_init_seal(p, NULL, 0);
    assert_at(p, 10, "s10");
    assert_int_equal(positions_of_writer(p, 77), 10);
    positions_advance(p, WRITER_NONE, 11); /* gapless, and no writer learned */
    assert_at(p, 11, "s11");
    positions_advance(p, WRITER_NONE, 13);
    assert_at(p, 11, "s11");
    positions_advance(p, 77, 20); /* the only writer known: all depends on it */
    assert_at(p, 20, "s20");
    positions_advance(p, 5, 15); /* a late writer never lowers P */
    assert_at(p, 20, "s20");
    assert_int_equal(positions_of_writer(p, 5), 20);
    positions_advance(p, 77, 25);
    assert_at(p, 20, "m20~77.25");
    positions_free(&p);
}

static void test_reset(void **state)
{
    static const writer_id writers[] = {MASTER};
    struct positions *p = positions_new();

    (void)state;
    positions_init_empty(p, 0);
    positions_init_seal(p, writers, 1);
    positions_advance(p, MASTER, 900);
    assert_int_equal(positions_persisted_upto(p), 900);
    positions_advance(p, MASTER, 3); /* ordinary progress never goes back */
    assert_int_equal(positions_of_writer(p, MASTER), 900);
    positions_reset(p, MASTER, 3); /* the typing writer restarted */
    assert_int_equal(positions_persisted_upto(p), 3);
    assert_int_equal(positions_of_writer(p, MASTER), 3);
    assert_int_equal(positions_max(p), 3);
    positions_advance(p, MASTER, 4);
    assert_at(p, 4, "s4");
    positions_free(&p);
}

static void test_copy(void **state)
{
    static const writer_id writers[] = {EP1, EP2};
    struct positions *p = positions_new(), *copy;

    (void)state;
    positions_init_writer(p, EP1, 100);
    positions_init_writer(p, EP2, 96);
    positions_init_known(p, 98);
    positions_init_seal(p, writers, 2);
    copy = positions_copy(p);
    positions_advance(p, EP2, 200);
    assert_at(p, 100, "m100~3.200");
    assert_at(copy, 96, "m96~2.100");
    positions_advance(copy, EP2, 97); /* 98 was copied as known */
    assert_at(copy, 98, "m98~2.100");
    positions_free(&p);
    positions_free(&copy);
}

/* A writer that hangs for very long must not cost memory without bound, nor a wrong P. */
static void test_known_is_bounded(void **state)
{
    static const writer_id writers[] = {EP1, EP2};
    struct positions *p = positions_new();
    int64_t last = 0;

    (void)state;
    positions_init_writer(p, EP1, 1);
    positions_init_writer(p, EP2, 1);
    positions_init_seal(p, writers, 2);
    for (int64_t id = 3; id < 600000; id++)
        positions_advance(p, EP1, last = id);
    assert_int_equal(positions_persisted_upto(p), 1);
    positions_advance(p, EP2, 2);
    assert_true(positions_persisted_upto(p) > 100000 && positions_persisted_upto(p) <= last);
    positions_advance(p, EP2, last + 2);
    assert_int_equal(positions_persisted_upto(p), last);
    positions_free(&p);
}

/*
 * Writers take ids from one sequence, hold some open for a while, roll some back, and announce what they
 * finished. P must never pass an id in flight, never go back, and reach the end once everybody is idle.
 */
static void test_random_traffic(void **state)
{
    enum { W = 3, IDS = 400 };
    static const writer_id writers[W] = {1, 2, 3};

    (void)state;
    for (int round = 0; round < 200; round++) {
        struct positions *p = positions_new();
        bool finished[IDS + 2] = {[0] = true, [1] = true};
        int64_t open[W] = {0}, next = 2, before = 1;
        positions_init_empty(p, 1);
        positions_init_seal(p, writers, W);
        while (next <= IDS) {
            size_t w = rnd() % W;
            if (open[w] == 0) {
                open[w] = next++;
            } else {
                finished[open[w]] = true;
                if (rnd() % 4) /* otherwise rolled back: nobody hears of it */
                    positions_advance(p, writers[w], open[w]);
                open[w] = 0;
            }
            int64_t persisted = positions_persisted_upto(p);
            assert_true(persisted >= before);
            before = persisted;
            for (int64_t id = 0; id <= persisted; id++)
                assert_true(finished[id]);
            struct mpos clock = positions_mpos(p);
            for (size_t i = 0; i < W; i++)
                assert_int_equal(mpos_get(&clock, writers[i]), positions_of_writer(p, writers[i]));
            assert_int_equal(mpos_max(&clock), positions_max(p));
        }
        for (size_t w = 0; w < W; w++)
            positions_advance(p, writers[w], IDS);
        assert_int_equal(positions_persisted_upto(p), IDS);
        positions_free(&p);
    }
}

int run_positions(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_example_c),
        cmocka_unit_test(test_start_without_rows),
        cmocka_unit_test(test_single_writer),
        cmocka_unit_test(test_start_missing_writer),
        cmocka_unit_test(test_unknown_writers),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_known_is_bounded),
        cmocka_unit_test(test_random_traffic),
    };

    return cmocka_run_group_tests_name("positions", tests, NULL, NULL);
}
