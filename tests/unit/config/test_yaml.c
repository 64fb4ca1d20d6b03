/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Trees and scalars: YAML 1.1 as Python reads it, aliases and merge keys, lines, hostile nesting, and every
 * prefix of a real document.
 */
#include "test_config.h"

#include <stdio.h>

static struct arena *arena;

static int setup(void **state)
{
    (void)state;
    arena = arena_new((size_t)64 << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_free(&arena);
    return 0;
}

static struct yaml *parse(const char *text)
{
    struct yaml *n;
    struct err e;

    if (yaml_parse(arena, "f", str_of(text), &n, &e) < 0)
        fail_msg("%s", e.text);
    return n;
}

static void test_ints(void **state)
{
    static const struct {
        const char *text;
        bool ok;
        int64_t v;
    } table[] = {
        {"0", true, 0},
        {"12", true, 12},
        {"-12", true, -12},
        {"+12", true, 12},
        {"1_000", true, 1000},
        {"0x1F", true, 31},
        {"0b101", true, 5},
        {"0666", true, 438},
        {"1:30", true, 90},
        {"1:00:00", true, 3600},
        {"08", false, 0},
        {"0o17", false, 0},
        {"1.5", false, 0},
        {"'12'", false, 0},
        {"!!str 12", false, 0},
        {"", false, 0},
        {"-x", false, 0},
        {"1e3", false, 0},
        {"12a", false, 0},
        {"1:75", false, 0},
        {"9223372036854775807", true, INT64_MAX},
        {"9223372036854775808", false, 0},
        {"-9223372036854775807", true, -INT64_MAX},
        {"_1", false, 0},
        {"[1]", false, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char text[64];
        int64_t v = 0;
        snprintf(text, sizeof text, "a: %s\n", table[i].text);
        bool ok = yaml_int(yaml_get(parse(text), "a"), &v);
        if (ok != table[i].ok || (ok && v != table[i].v))
            fail_msg("%s: %d %lld", table[i].text, ok, (long long)v);
    }
}

static void test_other_scalars(void **state)
{
    struct yaml *n = parse("t: Yes\nf: OFF\nqt: 'yes'\nnone: ~\nempty:\nq: ''\nd: 1.5\nd2: -2\nd3: 1.\nbad: "
                           "1.5.5\n"
                           "s: text\nm: {a: 1}\n");
    bool b;
    double d;

    (void)state;
    assert_true(yaml_bool(yaml_get(n, "t"), &b) && b);
    assert_true(yaml_bool(yaml_get(n, "f"), &b) && !b);
    assert_false(yaml_bool(yaml_get(n, "qt"), &b));
    assert_false(yaml_bool(NULL, &b));
    assert_true(yaml_is_null(yaml_get(n, "none")) && yaml_is_null(yaml_get(n, "empty")));
    assert_true(yaml_is_null(yaml_get(n, "absent")) && !yaml_is_null(yaml_get(n, "q")));
    assert_true(yaml_double(yaml_get(n, "d"), &d) && d > 1.49 && d < 1.51);
    assert_true(yaml_double(yaml_get(n, "d2"), &d) && d < -1.99);
    assert_true(yaml_double(yaml_get(n, "d3"), &d));
    assert_false(yaml_double(yaml_get(n, "bad"), &d));
    assert_true(yaml_is_string(yaml_get(n, "s")) && yaml_is_string(yaml_get(n, "qt")));
    assert_false(yaml_is_string(yaml_get(n, "d")) || yaml_is_string(yaml_get(n, "t")) ||
                 yaml_is_string(yaml_get(n, "m")));
    assert_null(yaml_get(yaml_get(n, "m"), "b"));
    assert_null(yaml_get(yaml_get(n, "s"), "b"));
    assert_int_equal(yaml_get(n, "d")->line, 7);
    assert_string_equal(yaml_get(n, "d")->file, "f");
}

static void test_durations_and_sizes(void **state)
{
    static const struct {
        const char *text;
        int64_t ms, bytes; /* -1: refused */
    } table[] = {
        {"1500", 1500, 1500},
        {"'1500'", 1500, 1500},
        {"30s", 30000, -1},
        {"5m", 300000, -1},
        {"2h", 7200000, -1},
        {"1d", 86400000, -1},
        {"1w", 604800000, -1},
        {"1y", 31536000000, -1},
        {"10K", -1, 10240},
        {"3M", -1, 3145728},
        {"1G", -1, 1073741824},
        {"x", -1, -1},
        {"s", -1, -1},
        {"5 m", 300000, -1},
        {"1.5h", -1, -1},
        {"[1]", -1, -1},
        {"9223372036854775807y", -1, -1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char text[64];
        int64_t v;
        snprintf(text, sizeof text, "a: %s\n", table[i].text);
        struct yaml *n = yaml_get(parse(text), "a");
        assert_int_equal(duration_parse(n, &v) ? v : -1, table[i].ms);
        assert_int_equal(size_parse(n, &v) ? v : -1, table[i].bytes);
    }
    int64_t v;
    assert_false(duration_parse(NULL, &v));
}

static void test_aliases_and_merges(void **state)
{
    struct yaml *n = parse("base: &b {x: 1, y: 2}\nmore: &m {y: 3, z: 4}\n"
                           "one: {<<: *b, y: 9}\ntwo: {<<: [*b, *m], w: 5}\nthree: *b\nquoted: {'<<': *b}\n"
                           "late: {y: 9, <<: *b}\ndup: {a: 1, a: 2}\n");

    (void)state;
    assert_str(yaml_get(yaml_get(n, "one"), "x")->text, "1");
    assert_str(yaml_get(yaml_get(n, "one"), "y")->text, "9");
    assert_null(yaml_get(yaml_get(n, "one"), "<<"));
    assert_str(yaml_get(yaml_get(n, "two"), "y")->text, "2"); /* the earlier map wins */
    assert_str(yaml_get(yaml_get(n, "two"), "z")->text, "4");
    assert_str(yaml_get(yaml_get(n, "two"), "w")->text, "5");
    assert_ptr_equal(yaml_get(n, "three"), yaml_get(n, "base"));
    assert_non_null(yaml_get(yaml_get(n, "quoted"), "<<"));
    assert_str(yaml_get(yaml_get(n, "late"), "y")->text, "9");
    assert_str(yaml_get(yaml_get(n, "dup"), "a")->text, "2");
}

static void test_refused(void **state)
{
    static const char *const table[][2] = {
        {"a: &x [*x]\n", "f:1: alias inside its own anchor"},
        {"a: *x\n", "f:1: alias of an anchor"},
        {"a:\n  <<: 5\n", "f:2: the merge key"},
        {"a:\n  <<: [{b: c}, 5]\n", "f:2: the merge key"},
        {"{a: b}: c\n", "f:1: a key must be"},
        {"a: 1\n---\nb: 2\n", "f:2: more than one"},
        {"a: [\n", "f:2: "},
        {"a: 'x\n", "f:2: "},
        {"\ta: b\n", "f:1: "},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct yaml *n;
        struct err e = {""};
        assert_int_equal(yaml_parse(arena, "f", str_of(table[i][0]), &n, &e), -ERR_CONFIG);
        if (strncmp(e.text, table[i][1], strlen(table[i][1])) != 0)
            fail_msg("\"%s\" instead of \"%s\"", e.text, table[i][1]);
    }
}

static void test_hostile(void **state)
{
    char text[4096];
    struct yaml *n;
    struct err e;
    size_t at = 0;

    (void)state;
    /* Deep nesting is refused, not followed. */
    memset(text, '[', 1000);
    assert_int_equal(yaml_parse(arena, "f", str_n(text, 1000), &n, &e), -ERR_CONFIG);
    assert_non_null(strstr(e.text, "too deeply"));
    /* Aliases of aliases share nodes: nothing is multiplied. */
    at += (size_t)snprintf(text + at, sizeof text - at, "a0: &a0 [x]\n");
    for (int i = 1; i < 30; i++)
        at += (size_t)snprintf(text + at, sizeof text - at, "a%d: &a%d [*a%d, *a%d, *a%d, *a%d]\n", i, i,
                               i - 1, i - 1, i - 1, i - 1);
    assert_int_equal(yaml_parse(arena, "f", str_n(text, at), &n, &e), 0);
    assert_int_equal(yaml_get(n, "a29")->count, 4);
    assert_true(arena_bytes(arena) < 1 << 20);
    assert_int_equal(yaml_parse(arena, "f", STR_ABSENT, &n, &e), 0);
    assert_null(n);
}

static void test_prefixes(void **state)
{
    static const char text[] = BASE "m: &m {a: [1, 'x', \"y\\n\"], <<: {b: |\n  c\n}}\n";

    (void)state;
    for (size_t i = 0; i < sizeof text; i++) {
        char *prefix = malloc(i ? i : 1);
        struct yaml *n;
        struct err e;
        memcpy(prefix, text, i);
        int rc = yaml_parse(arena, "f", str_n(prefix, i), &n, &e);
        assert_true(rc == 0 || rc == -ERR_CONFIG);
        struct config *c = config_load_text(str_n(prefix, i), &e);
        config_free(&c);
        free(prefix);
        arena_reset(arena);
    }
}

int run_yaml(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ints),
        cmocka_unit_test(test_other_scalars),
        cmocka_unit_test(test_durations_and_sizes),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_aliases_and_merges),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_prefixes),
    };

    return cmocka_run_group_tests_name("yaml", tests, setup, teardown);
}
