/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Slices: every function at its edges, SipHash's properties that tables rely on. */
#include "chappe/str.h"
#include "chappe/err.h"
#include "test_base.h"
#include <stdlib.h>

static void test_compare(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        int sign;
    } cases[] = {
        {"", "", 0},           {"a", "", 1},
        {"", "a", -1},         {"a", "a", 0},
        {"a", "b", -1},        {"ab", "a", 1},
        {"a", "ab", -1},       {"Z", "a", -1},
        {"a", "\xc3\xa9", -1}, {"\xef\xbf\xbd", "\xf0\x9f\x98\x80", -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int got = str_cmp(str_of(cases[i].a), str_of(cases[i].b));
        assert_int_equal((got > 0) - (got < 0), cases[i].sign);
        assert_int_equal(str_eq(str_of(cases[i].a), str_of(cases[i].b)), cases[i].sign == 0);
        assert_int_equal(str_eq_const_time(str_of(cases[i].a), str_of(cases[i].b)), cases[i].sign == 0);
    }
    assert_int_equal(str_cmp(STR_ABSENT, STR("")), 0);
    assert_true(str_starts(STR("abc"), STR("")) && str_starts(STR("abc"), STR("abc")));
    assert_false(str_starts(STR("abc"), STR("abcd")) || str_starts(STR("abc"), STR("b")));
    assert_true(str_ends(STR("abc"), STR("bc")) && str_ends(STR_ABSENT, STR_ABSENT));
    assert_false(str_ends(STR("abc"), STR("ab")) || str_ends(STR("c"), STR("bc")));
    assert_true(str_absent(str_of(NULL)));
    assert_false(str_absent(STR("")));
}

static void test_cut_and_trim(void **state)
{
    (void)state;
    struct str head, rest;
    assert_true(str_cut(STR("a:b:c"), ':', &head, &rest));
    assert_str(head, "a");
    assert_str(rest, "b:c");
    assert_true(str_cut(STR(":"), ':', &head, &rest));
    assert_int_equal(head.n + rest.n, 0);
    assert_false(str_absent(rest));
    assert_false(str_cut(STR("abc"), ':', &head, &rest));
    assert_str(head, "abc");
    assert_true(str_absent(rest));
    assert_false(str_cut(STR_ABSENT, ':', &head, &rest));
    assert_int_equal(str_find(STR("abc"), 'c'), 2);
    assert_int_equal(str_find(STR("abc"), 'd'), -1);
    assert_int_equal(str_find(STR_ABSENT, 'd'), -1);
    assert_str(str_trim(STR(" \t a b\r\n")), "a b");
    assert_str(str_trim(STR(" \r\n\t")), "");
    assert_str(str_trim(STR_ABSENT), "");
}

static void test_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int rc;
        int64_t value;
    } cases[] = {
        {"0", 0, 0},
        {"-0", 0, 0},
        {"007", 0, 7},
        {"9223372036854775807", 0, INT64_MAX},
        {"-9223372036854775808", 0, INT64_MIN},
        {"9223372036854775808", -ERR_PARSE, 0},
        {"-9223372036854775809", -ERR_PARSE, 0},
        {"99999999999999999999999", -ERR_PARSE, 0},
        {"", -ERR_PARSE, 0},
        {"-", -ERR_PARSE, 0},
        {"+1", -ERR_PARSE, 0},
        {"1 ", -ERR_PARSE, 0},
        {" 1", -ERR_PARSE, 0},
        {"1.0", -ERR_PARSE, 0},
        {"1e3", -ERR_PARSE, 0},
        {"--1", -ERR_PARSE, 0},
        {"0x1", -ERR_PARSE, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t v = 42;
        assert_int_equal(str_to_i64(str_of(cases[i].text), &v), cases[i].rc);
        assert_int_equal(v, cases[i].rc ? 42 : cases[i].value);
    }
}

/* Rows as Python 3.13 answers int(b"..."). */
static void test_i64_lax(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int rc;
        int64_t value;
    } cases[] = {
        {"7", 0, 7},
        {" 7", 0, 7},
        {"\t\n\v\f\r 7 \r\f\v\n\t", 0, 7},
        {"+7", 0, 7},
        {"-7", 0, -7},
        {"-0", 0, 0},
        {"1_000", 0, 1000},
        {"+1_0 ", 0, 10},
        {"0_0", 0, 0},
        {"007", 0, 7},
        {"9223372036854775807", 0, INT64_MAX},
        {"9223372036854775808", 0, INT64_MAX},
        {"-9223372036854775808", 0, INT64_MIN},
        {"-9223372036854775809", 0, INT64_MIN},
        {"99999999999999999999999999", 0, INT64_MAX},
        {"-99999999999999999999999999", 0, INT64_MIN},
        {"", -ERR_PARSE, 0},
        {" ", -ERR_PARSE, 0},
        {"+", -ERR_PARSE, 0},
        {"-", -ERR_PARSE, 0},
        {"+-7", -ERR_PARSE, 0},
        {"--7", -ERR_PARSE, 0},
        {"- 7", -ERR_PARSE, 0},
        {"7 7", -ERR_PARSE, 0},
        {"_7", -ERR_PARSE, 0},
        {"7_", -ERR_PARSE, 0},
        {"7_ ", -ERR_PARSE, 0},
        {"1__0", -ERR_PARSE, 0},
        {"-_7", -ERR_PARSE, 0},
        {"\x1c"
         "7",
         -ERR_PARSE, 0},
        {"0x7", -ERR_PARSE, 0},
        {"7.0", -ERR_PARSE, 0},
        {"7e1", -ERR_PARSE, 0},
        {"\xd9\xa3", -ERR_PARSE, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t v = 42;
        if (str_to_i64_lax(str_of(cases[i].text), &v) != cases[i].rc ||
            v != (cases[i].rc ? 42 : cases[i].value))
            fail_msg("'%s' gives %lld", cases[i].text, (long long)v);
    }
    char digits[4302];
    memset(digits, '1', sizeof digits);
    int64_t v;
    assert_int_equal(str_to_i64_lax(str_n(digits, 4300), &v), 0);
    assert_int_equal(str_to_i64_lax(str_n(digits, 4301), &v), -ERR_PARSE);
}

static struct hash128 hash_of(struct str a, struct str b)
{
    const struct str all[] = {a, b};
    return str_hash128_of(all, 2);
}

static bool hash_equal(struct hash128 x, struct hash128 y)
{
    return x.a == y.a && x.b == y.b;
}

/* What stands in which part counts. */
static void test_hash_of_parts(void **state)
{
    (void)state;
    static const char text[] = "0123456789abcdef0123456789abcdef";
    for (size_t i = 0; i <= 32; i++) {
        for (size_t k = 0; k < i; k++)
            assert_false(hash_equal(hash_of(str_n(text, i), str_n(text + i, 32 - i)),
                                    hash_of(str_n(text, k), str_n(text + k, 32 - k))));
    }
    assert_true(hash_equal(hash_of(STR("a"), STR_ABSENT), hash_of(STR("a"), STR(""))));
    assert_false(hash_equal(hash_of(STR("a"), STR("")), hash_of(STR(""), STR("a"))));
    const struct str three[] = {STR("a"), STR("b"), STR("")};
    assert_false(hash_equal(str_hash128_of(three, 3), str_hash128_of(three, 2)));
}

static void test_hash(void **state)
{
    (void)state;
    char bytes[40] = {0};
    /* Equal bytes at another address hash alike; every length and every bit counts. */
    for (size_t n = 0; n < 33; n++) {
        char *copy = malloc(n ? n : 1);
        if (n)
            memcpy(copy, bytes, n);
        uint64_t h = str_hash(str_n(bytes, n));
        assert_true(h == str_hash(str_n(copy, n)));
        assert_true(h != str_hash(str_n(bytes, n + 1)));
        for (size_t bit = 0; bit < n * 8; bit++) {
            copy[bit / 8] ^= (char)(1 << bit % 8);
            assert_true(h != str_hash(str_n(copy, n)));
            struct hash128 x = hash_of(str_n(bytes, n), STR("x")), y = hash_of(str_n(copy, n), STR("x"));
            assert_true(x.a != y.a && x.b != y.b && x.a != x.b && x.a != h);
            copy[bit / 8] ^= (char)(1 << bit % 8);
            y = hash_of(str_n(copy, n), STR("x"));
            assert_true(x.a == y.a && x.b == y.b);
        }
        free(copy);
    }
}

static inline bytes16 hash_or_odd(bytes16 x)
{
    return (bytes16)(((signed16)x < ' ') | (x == '#'));
}

/* The first mark, wherever it is, in bytes that end where the allocation does. */
static void test_sixteen_at_once(void **state)
{
    (void)state;
    static const char marked[] = {'#', '\x1f', 0, '\x80', '\xff'};
    for (size_t n = 0; n < 50; n++) {
        char *s = malloc(n ? n : 1);
        memset(s, 'x', n);
        assert_int_equal(bytes16_before(str_n(s, n), hash_or_odd), n);
        for (size_t at = n; at-- > 0;) { /* those behind the first do not count */
            s[at] = marked[at % sizeof marked];
            assert_int_equal(bytes16_before(str_n(s, n), hash_or_odd), at);
        }
        free(s);
    }
}

static void test_errors(void **state)
{
    (void)state;
    struct err e;
    for (int i = 0; i < ERR_COUNT; i++) {
        assert_true(strlen(err_text(i)) > 0);
        assert_ptr_equal(err_text(i), err_text(-i));
    }
    assert_string_equal(err_text(9999), "unknown error");
    assert_string_equal(err_text(INT32_MIN), "unknown error");
    assert_int_equal(err_set(&e, ERR_CONFIG, "line %d: %s", 3, "bad"), -ERR_CONFIG);
    assert_string_equal(e.text, "line 3: bad");
    assert_int_equal(err_set(NULL, ERR_IO, "%s", "nobody reads this"), -ERR_IO);
    char big[2000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    err_set(&e, ERR_IO, "%s", big);
    assert_int_equal(strlen(e.text), sizeof e.text - 1);
}

int run_str_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compare), cmocka_unit_test(test_cut_and_trim),
        cmocka_unit_test(test_numbers), cmocka_unit_test(test_i64_lax),
        cmocka_unit_test(test_hash),    cmocka_unit_test(test_hash_of_parts),
        cmocka_unit_test(test_errors),  cmocka_unit_test(test_sixteen_at_once),
    };
    return cmocka_run_group_tests_name("str", tests, NULL, NULL);
}
