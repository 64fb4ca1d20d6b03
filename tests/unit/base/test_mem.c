/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Arenas at their limits, bounded buffers, vectors. */
#include "chappe/mem.h"
#include "chappe/metrics.h"
#include "chappe/map.h"
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

/* What is made as a kind and freed as it leaves nothing behind: blocks, texts, vectors, tables, arenas. */
static void test_kinds(void **state)
{
    (void)state;
    enum mem_kind k = MEM_rooms;
    int64_t before = mem_bytes(k), made;
    char *p = mem_new(k, 100);
    made = mem_bytes(k) - before;
    assert_true(made >= 100 && made < 200);
    assert_int_equal(p[99], 0);
    p = mem_renew(k, p, 5000);
    made = mem_bytes(k) - before;
    assert_true(made >= 5000 && made < 9000);
    mem_free(k, p);
    assert_int_equal(mem_bytes(k), before);
    mem_free(k, NULL);

    struct str s = mem_str(k, STR("text"));
    assert_string_equal(s.p, "text");
    assert_true(mem_bytes(k) > before);
    mem_str_free(k, s);
    assert_true(str_absent(mem_str(k, STR_ABSENT)));

    VEC(int64_t) v = {0};
    for (int i = 0; i < 1000; i++)
        vec_push_of(k, &v, i);
    assert_true(mem_bytes(k) - before >= 8000);
    vec_free_of(k, &v);

    struct smap sm;
    struct imap im;
    smap_init_of(&sm, k);
    imap_init_of(&im, k);
    assert_int_equal(mem_bytes(k), before); /* nothing in them, nothing of theirs */
    smap_put(&sm, STR("key"), &sm);
    for (int i = 0; i < 100; i++)
        imap_put(&im, i, &im);
    made = mem_bytes(k) - before - (int64_t)(smap_bytes(&sm) + imap_bytes(&im));
    assert_true(made >= 0 && made <= 64); /* the allocator's rounding */
    assert_true(smap_bytes(&sm) <= 64 && imap_bytes(&im) >= 1600);
    smap_fini(&sm);
    imap_fini(&im);
    smap_put(&sm, STR("again"), &sm); /* a table that was emptied is of its kind still */
    assert_true(mem_bytes(k) > before);
    smap_fini(&sm);

    struct arena *a = arena_new(1 << 20);
    arena_count(a, k);
    for (int i = 0; i < 100; i++)
        arena_alloc(a, 1000);
    assert_true(mem_bytes(k) - before >= 100000);
    arena_reset(a);
    assert_true(mem_bytes(k) - before < 8192);
    arena_free(&a);
    assert_int_equal(mem_bytes(k), before);
}

static void set_connections(void *arg)
{
    mem_set(MEM_connections, *(int64_t *)arg);
}

/* The gauges: the kinds as counted, and a sum that is about what the kernel says. */
static void test_report(void **state)
{
    (void)state;
    enum { MIB = 1 << 20, LOAD = 64 * MIB };
    int64_t connections = 12345;
    char *p = mem_new(MEM_events, LOAD);
    for (size_t i = 0; i < LOAD; i += 512)
        p[i] = 1;
    mem_source_set(set_connections, &connections);
    mem_report();
    mem_source_set(NULL, NULL);
    assert_int_equal(metric_get_l(M_memory_bytes, "connections"), connections);
    assert_true(metric_get_l(M_memory_bytes, "events") >= LOAD);
    assert_true(metric_get_l(M_memory_bytes, "events") < LOAD + MIB);
    assert_true(metric_get_l(M_memory_bytes, "program") > 0);
    assert_true(metric_get(M_process_resident) >= LOAD);
    mem_free(MEM_events, p);
    mem_set(MEM_connections, 0);
    mem_report();
    assert_true(metric_get_l(M_memory_bytes, "events") < LOAD);
}

int run_mem_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arena_limits), cmocka_unit_test(test_arena_random),
        cmocka_unit_test(test_arena_text),   cmocka_unit_test(test_buf_maximum),
        cmocka_unit_test(test_buf_content),  cmocka_unit_test(test_vec_and_copies),
        cmocka_unit_test(test_kinds),        cmocka_unit_test(test_report),
    };
    return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
