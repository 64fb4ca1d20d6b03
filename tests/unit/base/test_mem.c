/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Arenas at their limits, bounded buffers, vectors. */
#include "chappe/mem.h"
#include "chappe/clock.h"
#include "test_base.h"
#include <stdio.h>
#include <stdlib.h>

static void test_arena_limits(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 15, 16, 17, 4000, 4096, 100000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t rounded = (sizes[i] + 15) / 16 * 16;
        struct arena *a = arena_new(rounded);
        assert_null(arena_try_alloc(a, rounded + 1));
        assert_non_null(arena_try_alloc(a, sizes[i]));
        assert_int_equal(arena_bytes(a), rounded);
        assert_null(arena_try_alloc(a, 1));
        assert_null(arena_try_alloc(a, SIZE_MAX));
        assert_null(arena_try_alloc(a, SIZE_MAX - 14));
        arena_reset(a);
        assert_int_equal(arena_bytes(a), 0);
        assert_non_null(arena_try_alloc(a, sizes[i]));
        arena_free(&a);
        assert_null(a);
        arena_free(&a);
    }
}

/* Whatever the sequence of sizes: zeroed, aligned, and no allocation overlaps another. */
static void test_arena_random(void **state)
{
    (void)state;
    struct arena *a = arena_new(1 << 26);
    for (int round = 0; round < 20; round++) {
        struct {
            unsigned char *p;
            size_t n;
        } got[300];
        size_t sum = 0;
        for (size_t i = 0; i < 300; i++) {
            size_t n = rng_u64() % 8 ? rng_u64() % 200 : rng_u64() % 60000;
            got[i].n = n;
            got[i].p = arena_alloc(a, n);
            sum += (n + 15) / 16 * 16;
            assert_int_equal((uintptr_t)got[i].p % 16, 0);
            for (size_t k = 0; k < n; k++)
                assert_int_equal(got[i].p[k], 0);
            if (n)
                memset(got[i].p, (int)(i % 255 + 1), n);
        }
        assert_int_equal(arena_bytes(a), sum);
        for (size_t i = 0; i < 300; i++)
            for (size_t k = 0; k < got[i].n; k += 7)
                assert_int_equal(got[i].p[k], i % 255 + 1);
        arena_reset(a);
    }
    arena_free(&a);
}

static void test_arena_text(void **state)
{
    (void)state;
    struct arena *a = arena_new(1 << 20);
    struct str s = arena_str(a, STR("abc"));
    assert_string_equal(s.p, "abc");
    assert_str(arena_str(a, STR_ABSENT), "");
    assert_str(arena_printf(a, "%d-%s", 7, "x"), "7-x");
    /* Around the size of the buffer on the stack. */
    for (int n = 250; n < 262; n++) {
        s = arena_printf(a, "%*d", n, 1);
        assert_int_equal(s.n, n);
        assert_int_equal(s.p[n - 1], '1');
        assert_int_equal(s.p[n], 0);
    }
    arena_free(&a);
}

static void test_buf_maximum(void **state)
{
    (void)state;
    struct buf b;
    for (size_t max = 0; max < 200; max += 13) {
        buf_init(&b, max);
        for (size_t i = 0; i < max; i++)
            buf_putc(&b, 'x');
        assert_false(b.failed);
        assert_int_equal(b.n, max);
        buf_put(&b, STR(""));
        assert_false(b.failed);
        buf_putc(&b, 'y');
        assert_true(b.failed);
        assert_int_equal(b.n, max);
        buf_put(&b, STR("z"));
        assert_null(buf_reserve(&b, 0));
        assert_int_equal(b.n, max);
        buf_reset(&b);
        assert_false(b.failed);
        assert_int_equal(b.n, 0);
        buf_fini(&b);
    }
    buf_init(&b, 8);
    assert_null(buf_reserve(&b, SIZE_MAX));
    buf_fini(&b);
    buf_init(&b, 8);
    buf_put(&b, STR("1234"));
    buf_put(&b, STR("12345"));
    buf_put(&b, STR("1"));
    assert_str(buf_str(&b), "1234"); /* nothing after a failure, even what would fit */
    buf_fini(&b);
}

static void test_buf_content(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4096);
    static const int64_t numbers[] = {0, 1, -1, 10, INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char want[32];
        buf_reset(&b);
        buf_i64(&b, numbers[i]);
        snprintf(want, sizeof want, "%lld", (long long)numbers[i]);
        assert_str(buf_str(&b), want);
    }
    for (int n = 250; n < 262; n++) {
        buf_reset(&b);
        buf_printf(&b, "%*d", n, 5);
        assert_int_equal(b.n, n);
        assert_int_equal(b.p[n - 1], '5');
    }
    buf_reset(&b);
    buf_put(&b, STR("hello world"));
    buf_consume(&b, 0);
    buf_consume(&b, 6);
    assert_str(buf_str(&b), "world");
    buf_consume(&b, 5);
    assert_int_equal(b.n, 0);
    buf_fini(&b);
    assert_null(b.p);
}

static void test_vec_and_copies(void **state)
{
    (void)state;
    VEC(int) v = {0};
    for (int i = 0; i < 1000; i++)
        vec_push(&v, i * 3);
    assert_int_equal(v.n, 1000);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(v.v[i], i * 3);
    vec_free(&v);
    assert_null(v.v);
    assert_int_equal(v.n + v.cap, 0);

    struct str s = str_dup(STR("ab"));
    assert_string_equal(s.p, "ab");
    free((void *)(uintptr_t)s.p);
    assert_true(str_absent(str_dup(STR_ABSENT)));
    s = str_dup(STR(""));
    assert_false(str_absent(s));
    free((void *)(uintptr_t)s.p);
    char *z = xstrndup(STR("secret"));
    secret_free(&z);
    assert_null(z);
    secret_free(&z);
}

int run_mem_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arena_limits), cmocka_unit_test(test_arena_random),
        cmocka_unit_test(test_arena_text),   cmocka_unit_test(test_buf_maximum),
        cmocka_unit_test(test_buf_content),  cmocka_unit_test(test_vec_and_copies),
    };
    return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
