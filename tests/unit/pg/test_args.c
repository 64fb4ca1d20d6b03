/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Arguments and lists, without a server. */
#include "pg_test.h"

#include <stdlib.h>

static void array_literals(void **state)
{
    (void)state;
    static const struct {
        struct str v[3];
        size_t n;
        const char *want;
    } rows[] = {
        {{{0}}, 0, "{}"},
        {{STR("a")}, 1, "{\"a\"}"},
        {{STR("a"), STR("b")}, 2, "{\"a\",\"b\"}"},
        {{STR("")}, 1, "{\"\"}"},
        {{STR_ABSENT, STR("NULL")}, 2, "{NULL,\"NULL\"}"},
        {{STR("a,b{}c d")}, 1, "{\"a,b{}c d\"}"},
        {{STR("\""), STR("\\"), STR("\\\"x\\")}, 3, "{\"\\\"\",\"\\\\\",\"\\\\\\\"x\\\\\"}"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct pg_args *a = pg_args_new();
        pg_args_text_array(a, rows[i].v, rows[i].n);
        assert_string_equal(pg_args_values(a)[0], rows[i].want);
        assert_int_equal(pg_args_check(a), 0);
        pg_args_free(&a);
        assert_null(a);
    }
}

static void values(void **state)
{
    (void)state;
    struct pg_args *a = pg_args_new();
    pg_args_text(a, STR("x"));
    pg_args_text(a, STR_ABSENT);
    pg_args_text(a, STR(""));
    pg_args_i64(a, INT64_MIN);
    pg_args_i64_array(a, (const int64_t[]){1, -2, INT64_MAX}, 3);
    pg_args_i64_array(a, NULL, 0);
    const char *const *v = pg_args_values(a);
    assert_string_equal(v[0], "x");
    assert_null(v[1]);
    assert_string_equal(v[2], "");
    assert_string_equal(v[3], "-9223372036854775808");
    assert_string_equal(v[4], "{1,-2,9223372036854775807}");
    assert_string_equal(v[5], "{}");
    assert_int_equal(pg_args_check(a), 0);
    pg_args_free(&a);
}

static void nul_bytes_are_found(void **state)
{
    (void)state;
    struct str bad = STR("@a\0b:c");
    struct pg_args *a = pg_args_new();
    pg_args_text(a, bad);
    assert_int_equal(pg_args_check(a), -ERR_PARSE);
    pg_args_free(&a);
    a = pg_args_new();
    pg_args_text_array(a, (const struct str[]){STR("fine"), STR("\"\0")}, 2);
    assert_int_equal(pg_args_check(a), -ERR_PARSE);
    pg_args_free(&a);
    assert_int_equal(pg_args_check(NULL), 0);
}

static void lists(void **state)
{
    (void)state;
    struct pg_req r[6] = {0};
    struct pg_req_list a, b;
    pg_list_init(&a);
    pg_list_init(&b);
    pg_list_prepend(&a, &b);
    assert_null(pg_list_pop(&a));
    pg_list_push(&b, &r[0]);
    pg_list_push(&b, &r[1]);
    pg_list_prepend(&a, &b);
    assert_int_equal(b.n, 0);
    pg_list_push(&a, &r[2]);
    pg_list_push_front(&b, &r[4]);
    pg_list_push_front(&b, &r[3]);
    pg_list_push(&b, &r[5]);
    pg_list_prepend(&b, &a);
    assert_int_equal(b.n, 6);
    for (int i = 0; i < 6; i++)
        assert_ptr_equal(pg_list_pop(&b), &r[i]);
    assert_null(pg_list_pop(&b));
    pg_list_push(&b, &r[0]);
    assert_ptr_equal(b.head, &r[0]);
}

int run_args(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(array_literals),
        cmocka_unit_test(values),
        cmocka_unit_test(nul_bytes_are_found),
        cmocka_unit_test(lists),
    };
    return cmocka_run_group_tests_name("args", tests, NULL, NULL);
}
