/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Counted bytes, and ropes whose gather lists are checked at every skip and every width. */
#include "chappe/blob.h"
#include "chappe/clock.h"
#include "test_base.h"
#include <stdlib.h>

static void test_counts(void **state)
{
    (void)state;
    struct blob *b = blob_new(STR("abc")), *second = blob_ref(b), *none = NULL;
    assert_str(blob_str(b), "abc");
    assert_int_equal(b->refs, 2);
    blob_unref(&second);
    assert_null(second);
    assert_int_equal(b->refs, 1);
    blob_unref(&b);
    blob_unref(&none);

    struct buf buf;
    buf_init(&buf, 4);
    buf_put(&buf, STR("1234"));
    b = blob_from_buf(&buf);
    assert_str(blob_str(b), "1234");
    assert_int_equal(buf.n, 0);
    blob_unref(&b);
    buf_put(&buf, STR("12345"));
    assert_null(blob_from_buf(&buf));
    assert_false(buf.failed);
    buf_fini(&buf);
}

/* Every (skip, width): the gather list shows exactly the bytes behind skip, as far as width goes. */
static void check_iov(const struct rope *r, struct str want)
{
    for (size_t skip = 0; skip <= want.n; skip++) {
        for (int max = 1; max < 5; max++) {
            struct iovec iov[5];
            int n = rope_iov(r, skip, iov, max);
            size_t at = skip;
            for (int i = 0; i < n; i++) {
                assert_true(iov[i].iov_len > 0 && at + iov[i].iov_len <= want.n);
                assert_memory_equal(iov[i].iov_base, want.p + at, iov[i].iov_len);
                at += iov[i].iov_len;
            }
            assert_true(n == max || at == want.n);
        }
    }
    struct iovec one;
    assert_int_equal(rope_iov(r, want.n, &one, 1), 0);
    assert_int_equal(rope_iov(r, 0, &one, 0), 0);
}

static void test_iov_at_every_skip(void **state)
{
    (void)state;
    struct blob *shared = blob_new(STR("shared"));
    struct rope r;
    rope_init(&r);
    rope_put(&r, STR("a"));
    rope_put(&r, STR("bc"));
    rope_put(&r, STR_ABSENT);
    assert_int_equal(r.n, 1); /* neighbours in the private chunk are one slice */
    rope_blob(&r, shared);
    rope_put_i64(&r, INT64_MIN);
    rope_blob_range(&r, shared, 1, 3);
    rope_blob_range(&r, shared, 6, 0);
    rope_put(&r, STR("end"));
    struct arena *a = arena_new(4096);
    struct str want = STR("abcshared-9223372036854775808harend");
    assert_str(rope_flatten(&r, a), "abcshared-9223372036854775808harend");
    assert_int_equal(r.bytes, want.n);
    check_iov(&r, want);
    rope_fini(&r);
    assert_int_equal(r.bytes, 0);
    assert_int_equal(shared->refs, 1);
    blob_unref(&shared);
    arena_free(&a);
}

/* Bytes once shown to another rope stay, whatever is put into the first one later. */
static void test_sharing_is_immutable(void **state)
{
    (void)state;
    struct arena *a = arena_new(4096);
    struct rope one, two, moved;
    rope_init(&one);
    rope_init(&two);
    rope_put(&one, STR("one"));
    rope_rope(&two, &one);
    rope_put(&one, STR("+more"));
    rope_put(&two, STR("+two"));
    assert_str(rope_flatten(&one, a), "one+more");
    assert_str(rope_flatten(&two, a), "one+two");
    rope_fini(&one);
    assert_str(rope_flatten(&two, a), "one+two");
    rope_move(&moved, &two);
    assert_int_equal(two.n + two.bytes, 0);
    rope_put(&two, STR("again"));
    rope_put(&moved, STR("!"));
    assert_str(rope_flatten(&moved, a), "one+two!");
    assert_str(rope_flatten(&two, a), "again");
    rope_fini(&moved);
    rope_fini(&two);
    arena_free(&a);
}

static void test_random_against_buffer(void **state)
{
    (void)state;
    char noise[3000];
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (char)('a' + rng_u64() % 26);
    struct blob *shared = blob_new(str_n(noise, sizeof noise));
    for (int round = 0; round < 50; round++) {
        struct rope r, piece;
        struct buf want;
        struct arena *a = arena_new(1 << 22);
        rope_init(&r);
        rope_init(&piece);
        buf_init(&want, 1 << 22);
        rope_put(&piece, STR("piece"));
        rope_blob_range(&piece, shared, 7, 9);
        for (int step = 0; step < 100; step++) {
            size_t off = rng_u64() % 1000, n = rng_u64() % (round % 2 ? 20 : 2000);
            switch (rng_u64() % 3) {
            case 0:
                rope_put(&r, str_n(noise + off, n));
                buf_put(&want, str_n(noise + off, n));
                break;
            case 1:
                rope_blob_range(&r, shared, off, n);
                buf_put(&want, str_n(noise + off, n));
                break;
            default:
                rope_rope(&r, &piece);
                buf_put(&want, rope_flatten(&piece, a));
            }
        }
        struct str got = rope_flatten(&r, a);
        assert_int_equal(got.n, r.bytes);
        assert_true(str_eq(got, buf_str(&want)));
        rope_fini(&r);
        rope_fini(&piece);
        buf_fini(&want);
        arena_free(&a);
    }
    assert_int_equal(shared->refs, 1);
    blob_unref(&shared);
}

int run_blob_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_iov_at_every_skip),
        cmocka_unit_test(test_sharing_is_immutable),
        cmocka_unit_test(test_random_against_buffer),
    };
    return cmocka_run_group_tests_name("blob", tests, NULL, NULL);
}
