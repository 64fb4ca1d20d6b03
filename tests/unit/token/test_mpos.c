/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Vector clocks: the worked examples F and G, then the laws of the algebra against a plain reference
 * (an array indexed by writer) on random positions.
 */
#include "test_token.h"

enum { NW = 6 };

static void test_get_max_covers(void **state)
{
    struct mpos p = mp("m56~2.58~3.59");

    (void)state;
    assert_int_equal(mpos_get(&p, 1), 56);
    assert_int_equal(mpos_get(&p, 2), 58);
    assert_int_equal(mpos_get(&p, 3), 59);
    assert_int_equal(mpos_get(&p, 4), 56);
    assert_int_equal(mpos_get(&p, WRITER_NONE), 56);
    assert_int_equal(mpos_max(&p), 59);
    assert_true(mpos_covers(&p, 2, 58));
    assert_false(mpos_covers(&p, 2, 59));
    assert_true(mpos_covers(&p, WRITER_NONE, 56));
    assert_false(mpos_covers(&p, WRITER_NONE, 57));
    p = mpos_of(-4);
    assert_int_equal(mpos_max(&p), -4);
}

static void test_compare(void **state)
{
    static const struct {
        const char *a, *b;
        bool le, ge;
    } table[] = {
        {"m56~2.58~3.59", "s58", false, false}, /* example F */
        {"s5", "s5", true, true},
        {"s5", "s6", true, false},
        {"m5~1.7", "s5", false, true},
        {"m5~1.7", "s7", true, false},
        {"m5~1.7", "m5~1.7", true, true},
        {"m5~1.7", "m5~2.7", false, false},
        {"m5~1.7", "m5~1.7~2.6", true, false},
        {"m5~1.7~9.8", "m6~1.7", false, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct mpos a = mp(table[i].a), b = mp(table[i].b);
        assert_int_equal(mpos_le(&a, &b), table[i].le);
        assert_int_equal(mpos_le(&b, &a), table[i].ge);
        assert_int_equal(mpos_equal(&a, &b), table[i].le && table[i].ge);
    }
}

static void test_join(void **state)
{
    static const struct {
        const char *a, *b, *join;
    } table[] = {
        {"m56~2.58~3.59", "s58", "m58~3.59"}, /* example F */
        {"s5", "s7", "s7"},
        {"m5~1.9", "m6~2.8", "m6~1.9~2.8"},
        {"m5~1.9~2.6", "m6~1.7", "m6~1.9"},
        {"m5~1.9", "s9", "s9"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct mpos a = mp(table[i].a), b = mp(table[i].b);
        assert_mpos(mpos_join(&a, &b), table[i].join);
        assert_mpos(mpos_join(&b, &a), table[i].join);
    }
}

static void test_bound(void **state)
{
    static const struct {
        const char *p;
        int64_t max;
        const char *bounded;
    } table[] = {
        {"m56~2.58~3.59", 57, "m56~2.57~3.57"}, /* example G */
        {"m56~2.58~3.59", 50, "s50"},
        {"m56~2.58~3.59", 59, "m56~2.58~3.59"},
        {"m56~2.58~3.59", 58, "m56~2.58~3.58"},
        {"m56~2.58~3.59", 56, "s56"},
        {"s56", 100, "s56"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct mpos p = mp(table[i].p);
        assert_mpos(mpos_bound(&p, table[i].max), table[i].bounded);
    }
}

static void test_in_range(void **state)
{
    struct mpos lo = mp("m5~2.8"), hi = mp("m7~2.8~3.12");

    (void)state;
    assert_false(mpos_in_range(&lo, &hi, 2, 7)); /* delivered before, although above the floor */
    assert_false(mpos_in_range(&lo, &hi, 2, 9));
    assert_true(mpos_in_range(&lo, &hi, 1, 6));
    assert_false(mpos_in_range(&lo, &hi, 1, 8));
    assert_true(mpos_in_range(&lo, &hi, 3, 12));
    assert_true(mpos_in_range(&lo, &hi, WRITER_NONE, 7));
    assert_false(mpos_in_range(&lo, &hi, WRITER_NONE, 8));
}

/* More writers ahead than fit: the position gets older, never newer, whatever the order. */
static void test_full(void **state)
{
    struct mpos up = mpos_of(10), down = mpos_of(10), other = mpos_of(10);

    (void)state;
    for (writer_id w = 1; w <= MPOS_WRITERS_MAX + 4; w++)
        mpos_put(&up, w, 100 + w);
    for (writer_id w = MPOS_WRITERS_MAX + 4; w >= 1; w--)
        mpos_put(&down, w, 100 + w);
    assert_true(mpos_equal(&up, &down));
    assert_int_equal(up.n, MPOS_WRITERS_MAX);
    assert_int_equal(mpos_get(&up, MPOS_WRITERS_MAX), 100 + MPOS_WRITERS_MAX);
    assert_int_equal(mpos_get(&up, MPOS_WRITERS_MAX + 1), 10);
    for (writer_id w = 50; w < 50 + MPOS_WRITERS_MAX; w++)
        mpos_put(&other, w, 200);
    struct mpos join = mpos_join(&up, &other);
    assert_true(mpos_equal(&join, &up));
}

static struct mpos random_position(int64_t ref[NW])
{
    struct mpos p = mpos_of((int64_t)(rnd() % 8));

    for (writer_id w = 0; w < NW; w++) {
        ref[w] = p.min;
        if (w != WRITER_NONE && rnd() % 2) {
            ref[w] = p.min + 1 + (int64_t)(rnd() % 4);
            mpos_put(&p, w, ref[w]);
        }
    }
    return p;
}

static void test_random_against_reference(void **state)
{
    (void)state;
    for (int round = 0; round < 20000; round++) {
        int64_t ra[NW], rb[NW], bound = (int64_t)(rnd() % 14);
        struct mpos a = random_position(ra), b = random_position(rb), join = mpos_join(&a, &b);
        struct mpos bounded = mpos_bound(&a, bound);
        bool le = true;
        for (int w = 0; w < NW; w++) {
            le = le && ra[w] <= rb[w];
            assert_int_equal(mpos_get(&a, w), ra[w]);
            assert_int_equal(mpos_get(&bounded, w), ra[w] < bound ? ra[w] : bound);
            if (w != WRITER_NONE) {
                /* A writer that neither lists may stand lower than the greater floor: the floor counts. */
                int64_t want = ra[w] > rb[w] ? ra[w] : rb[w];
                assert_int_equal(mpos_get(&join, w), want > join.min ? want : join.min);
            }
        }
        assert_int_equal(mpos_le(&a, &b), le);
        assert_true(mpos_le(&a, &join));
        assert_true(mpos_le(&b, &join));
        assert_true(mpos_le(&bounded, &a));
        assert_int_equal(mpos_equal(&a, &b), mpos_le(&a, &b) && mpos_le(&b, &a));
    }
}

/* Kept positions come back as they were; the same one is kept once. */
static void test_kept(void **state)
{
    (void)state;
    struct mpos a = mpos_of(7), b = mpos_of(7);
    struct mpos_kept *last = NULL, *of_a, *again, *of_b;
    mpos_put(&b, 3, 11);
    mpos_put(&b, 5, 12);
    int64_t before = mem_bytes(MEM_users);
    of_a = mpos_keep(MEM_users, &last, &a);
    again = mpos_keep(MEM_users, &last, &a);
    assert_ptr_equal(of_a, again);
    of_b = mpos_keep(MEM_users, &last, &b);
    assert_ptr_not_equal(of_a, of_b);
    struct mpos back = mpos_of_kept(of_a);
    assert_true(mpos_equal(&back, &a));
    back = mpos_of_kept(of_b);
    assert_true(mpos_equal(&back, &b));
    mpos_put(&b, 5, 13);
    again = mpos_keep(MEM_users, &last, &b);
    assert_ptr_not_equal(of_b, again);
    struct mpos_kept *all[] = {of_a, of_a, of_b, again, last};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        mpos_unref(MEM_users, &all[i]);
    assert_null(all[0]);
    assert_int_equal(mem_bytes(MEM_users), before);
}

int run_mpos(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_get_max_covers), cmocka_unit_test(test_compare),
        cmocka_unit_test(test_join),           cmocka_unit_test(test_bound),
        cmocka_unit_test(test_in_range),       cmocka_unit_test(test_full),
        cmocka_unit_test(test_kept),           cmocka_unit_test(test_random_against_reference),
    };

    return cmocka_run_group_tests_name("mpos", tests, NULL, NULL);
}
