/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Numbers keep the text that Python would give them: integers verbatim, floats in their shortest form. */
#include "chappe/json.h"
#include "test_base.h"
#include <stdio.h>
#include <stdlib.h>

/* The number inside an array, so that something follows it. */
static int read_number(struct arena *a, const char *text, struct str *out)
{
    struct json *v;
    struct str wrapped = arena_printf(a, "[%s]", text);
    char *exact = malloc(wrapped.n);
    memcpy(exact, wrapped.p, wrapped.n);
    int rc = json_parse(a, str_n(exact, wrapped.n), &v);
    free(exact);
    *out = rc ? STR_ABSENT : v->child->s;
    return rc;
}

static void test_integers(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want; /* NULL: malformed */
    } cases[] = {
        {"0", "0"},
        {"-0", "0"},
        {"-1", "-1"},
        {"9223372036854775808", "9223372036854775808"},
        {"-123456789012345678901234567890", "-123456789012345678901234567890"},
        {"00", NULL},
        {"01", NULL},
        {"-01", NULL},
        {"-", NULL},
        {"+1", NULL},
        {".5", NULL},
        {"1.", NULL},
        {"1.e5", NULL},
        {"1e", NULL},
        {"1e+", NULL},
        {"1e5.5", NULL},
        {"--1", NULL},
        {"0x10", NULL},
        {"1_000", NULL},
        {"1e400", NULL}, /* Python would print Infinity, which is no JSON */
        {"-1e400", NULL},
        {"1e99999999999999999999", NULL},
        {"1e-99999999999999999999", "0.0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena *a = arena_new(1 << 16);
        struct str got;
        int rc = read_number(a, cases[i].text, &got);
        if ((rc == 0) != (cases[i].want != NULL))
            fail_msg("%s: %s", cases[i].text, err_text(rc));
        if (!rc)
            assert_str(got, cases[i].want);
        arena_free(&a);
    }
}

static void test_floats(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
    } cases[] = {
#define FLOAT(text, want) {text, want},
#include "floats.def"
#undef FLOAT
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena *a = arena_new(1 << 16);
        struct str got;
        char negative[64];
        assert_int_equal(read_number(a, cases[i].text, &got), 0);
        assert_str(got, cases[i].want);
        assert_int_equal(read_number(a, cases[i].want, &got), 0); /* reading it again changes nothing */
        assert_str(got, cases[i].want);
        if (cases[i].text[0] != '-') {
            snprintf(negative, sizeof negative, "-%s", cases[i].text);
            assert_int_equal(read_number(a, negative, &got), 0);
            assert_true(got.n > 1 && got.p[0] == '-');
            assert_str(str_n(got.p + 1, got.n - 1), cases[i].want);
        }
        arena_free(&a);
    }
}

static void test_digit_limit(void **state)
{
    (void)state;
    struct arena *a = arena_new(1 << 20);
    static char digits[4302];
    struct str got;
    memset(digits, '7', 4300);
    assert_int_equal(read_number(a, digits, &got), 0);
    assert_true(str_eq(got, str_of(digits)));
    digits[4300] = '7';
    assert_int_equal(read_number(a, digits, &got), -ERR_PARSE);
    /* A float may have as many digits as it likes. */
    digits[0] = '0';
    digits[1] = '.';
    assert_int_equal(read_number(a, digits, &got), 0);
    assert_str(got, "0.7777777777777778");
    arena_free(&a);
}

int run_json_number_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_floats),
        cmocka_unit_test(test_digit_limit),
    };
    return cmocka_run_group_tests_name("json numbers", tests, NULL, NULL);
}
