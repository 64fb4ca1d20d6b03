/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Reading, writing and changing JSON trees. Texts are parsed from heap blocks of their exact size, whole and
 * at every prefix: under AddressSanitizer that shows the first byte read past the end.
 */
#include "chappe/json.h"
#include "test_base.h"
#include <stdio.h>
#include <stdlib.h>

/* Parses a copy in an exact block and frees the block before anybody looks at the tree. */
static int parse(struct arena *a, struct str text, struct json **v)
{
    char *exact = malloc(text.n ? text.n : 1);
    if (text.n)
        memcpy(exact, text.p, text.n);
    int rc = json_parse(a, str_n(text.n ? exact : NULL, text.n), v);
    free(exact);
    return rc;
}

static struct str written(struct arena *a, const struct json *v, int flags)
{
    struct buf b;
    buf_init(&b, 1 << 24);
    json_write(&b, v, flags);
    assert_false(b.failed);
    struct str s = arena_str(a, buf_str(&b));
    buf_fini(&b);
    return s;
}

static const struct {
    struct str text, ascii, utf8; /* utf8 absent: like ascii */
} good[] = {
    {STR("null"), STR("null"), STR_ABSENT},
    {STR(" \t\r\n true \n"), STR("true"), STR_ABSENT},
    {STR("[]"), STR("[]"), STR_ABSENT},
    {STR("{}"), STR("{}"), STR_ABSENT},
    {STR("[ { } , [ ] ]"), STR("[{},[]]"), STR_ABSENT},
    {STR("{\"b\":1,\"a\":[1,2,{\"c\":null}]}"), STR("{\"b\":1,\"a\":[1,2,{\"c\":null}]}"), STR_ABSENT},
    {STR("\"\""), STR("\"\""), STR_ABSENT},
    {STR("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""), STR("\"\\\"\\\\/\\b\\f\\n\\r\\t\""), STR_ABSENT},
    {STR("\"\\u0000\\u001f\\u0041\""), STR("\"\\u0000\\u001fA\""), STR_ABSENT},
    {STR("\"\x7f\""), STR("\"\\u007f\""), STR("\"\x7f\"")},
    {STR("\"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\""), STR("\"caf\\u00e9 \\u20ac \\ud83d\\ude00\""),
     STR("\"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\"")},
    {STR("\"\\uD83D\\uDE00\""), STR("\"\\ud83d\\ude00\""), STR("\"\xf0\x9f\x98\x80\"")},
    {STR("\"\\udbff\\udfff\\uffff\""), STR("\"\\udbff\\udfff\\uffff\""),
     STR("\"\xf4\x8f\xbf\xbf\xef\xbf\xbf\"")},
    /* Lone surrogates stay what they were. */
    {STR("\"\\ud800\""), STR("\"\\ud800\""), STR_ABSENT},
    {STR("\"\\ud800x\\udc00\\ud800\\n\""), STR("\"\\ud800x\\udc00\\ud800\\n\""), STR_ABSENT},
    {STR("\"\\ud800\\ud83d\\ude00\""), STR("\"\\ud800\\ud83d\\ude00\""), STR("\"\\ud800\xf0\x9f\x98\x80\"")},
    {STR("{\"\\udfff\":\"\\ud800\"}"), STR("{\"\\udfff\":\"\\ud800\"}"), STR_ABSENT},
    /* Of duplicate keys the last value wins, at the place of the first. */
    {STR("{\"a\":1,\"b\":2,\"a\":{\"c\":3}}"), STR("{\"a\":{\"c\":3},\"b\":2}"), STR_ABSENT},
    {STR("{\"a\":{\"c\":3},\"\\u0061\":1,\"a\":\"x\"}"), STR("{\"a\":\"x\"}"), STR_ABSENT},
    {STR("{\"a\":[1],\"b\":0,\"b\":1,\"c\":2,\"c\":3}"), STR("{\"a\":[1],\"b\":1,\"c\":3}"), STR_ABSENT},
    {STR("{\"\":1}"), STR("{\"\":1}"), STR_ABSENT},
};

static void test_round_trips(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct arena *a = arena_new(1 << 20);
        struct json *v, *again;
        assert_int_equal(parse(a, good[i].text, &v), 0);
        struct str ascii = written(a, v, 0), utf8 = written(a, v, JSON_UTF8);
        assert_str(ascii, good[i].ascii.p);
        struct str want = str_absent(good[i].utf8) ? good[i].ascii : good[i].utf8;
        if (!str_eq(utf8, want))
            fail_msg("case %zu: %.*s", i, STR_ARG(utf8));
        assert_int_equal(parse(a, ascii, &again), 0);
        assert_true(json_equal(v, again));
        assert_int_equal(parse(a, utf8, &again), 0);
        assert_true(json_equal(v, again));
        assert_true(json_equal(v, json_clone(a, v)));
        arena_free(&a);
    }
}

static void test_bad_input(void **state)
{
    (void)state;
    static const struct str bad[] = {
        STR(""),
        STR(" "),
        STR("nul"),
        STR("nullx"),
        STR("True"),
        STR("NaN"),
        STR("Infinity"),
        STR("-Infinity"),
        STR("[1,]"),
        STR("[,1]"),
        STR("[1 2]"),
        STR("[1}"),
        STR("{\"a\":1]"),
        STR("{\"a\"}"),
        STR("{\"a\":}"),
        STR("{\"a\":1,}"),
        STR("{a:1}"),
        STR("{1:1}"),
        STR("{\"a\":1 \"b\":2}"),
        STR("{,}"),
        STR("]"),
        STR("}"),
        STR("[]]"),
        STR("{}{}"),
        STR("[] x"),
        STR("'a'"),
        STR("\"a"),
        STR("\"\\\""),
        STR("\"\\x\""),
        STR("\"\\u\""),
        STR("\"\\u12\""),
        STR("\"\\u12G4\""),
        STR("\"\\ud800\\u\""),
        STR("\"a\nb\""),
        STR("\"\t\""),
        STR("\"\0\""),
        STR("null\0"),
        STR("[1]\0"),
        STR("\0"),
        STR("\xef\xbb\xbf{}"),
        STR("// c\n1"),
        STR("\"\\\0\""),
        /* UTF-8: stray continuation, cut, overlong, surrogate, too large */
        STR("\"\x80\""),
        STR("\"\xc3\""),
        STR("\"\xc3\x28\""),
        STR("\"\xc0\x80\""),
        STR("\"\xc1\xbf\""),
        STR("\"\xe0\x80\x80\""),
        STR("\"\xe0\x9f\xbf\""),
        STR("\"\xe2\x82\""),
        STR("\"\xed\xa0\x80\""),
        STR("\"\xed\xbf\xbf\""),
        STR("\"\xf0\x80\x80\x80\""),
        STR("\"\xf0\x9f\x98\""),
        STR("\"\xf4\x90\x80\x80\""),
        STR("\"\xf5\x80\x80\x80\""),
        STR("\"\xff\""),
        STR("{\"\xff\":1}"),
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct arena *a = arena_new(1 << 20);
        struct json *v;
        if (parse(a, bad[i], &v) != -ERR_PARSE)
            fail_msg("case %zu was accepted: %.*s", i, STR_ARG(bad[i]));
        arena_free(&a);
    }
}

static const char event[] = "{\"auth_events\":[\"$a\",\"$b\"],\"content\":{\"body\":\"h\xc3\xa9 "
                            "\\\"\\ud83d\\ude00\\\" \\ud800\",\"n\":-1.5e3,"
                            "\"m.relates_to\":{\"rel_type\":\"m.thread\",\"event_id\":\"$t\"}},\"depth\":123,"
                            "\"unsigned\":{\"age\":null,"
                            "\"x\":[true,false,[],{}]}}";

static void test_every_prefix(void **state)
{
    (void)state;
    struct str text = str_of(event);
    struct arena *a = arena_new(1 << 20);
    struct json *v;
    for (size_t n = 0; n < text.n; n++) {
        assert_int_equal(parse(a, str_n(text.p, n), &v), -ERR_PARSE);
        arena_reset(a);
    }
    assert_int_equal(parse(a, text, &v), 0);
    /* Any single byte may be anything: never a crash, and what is accepted can be written and read again. */
    char copy[sizeof event];
    for (size_t i = 0; i < text.n; i++) {
        static const char nasty[] = "\0\"\\{}[],:0-e.u\xc3\xff\x1f";
        for (size_t k = 0; k < sizeof nasty; k++) {
            memcpy(copy, event, text.n);
            copy[i] = nasty[k];
            arena_reset(a);
            if (parse(a, str_n(copy, text.n), &v) == 0) {
                struct json *again;
                assert_int_equal(parse(a, written(a, v, JSON_SORTED), &again), 0);
                assert_true(json_equal(v, again));
            }
        }
    }
    arena_free(&a);
}

/* Whatever the arena's maximum, the answer is -ERR_NOMEM or the whole tree. */
static void test_arena_maximum(void **state)
{
    (void)state;
    bool done = false;
    for (size_t max = 0; !done; max += 16) {
        struct arena *a = arena_new(max);
        struct json *v;
        int rc = parse(a, str_of(event), &v);
        assert_true(rc == -ERR_NOMEM || rc == 0);
        done = rc == 0;
        assert_true(max < 100000);
        arena_free(&a);
    }
}

static void test_depth(void **state)
{
    (void)state;
    char text[2 * JSON_DEPTH_MAX + 2];
    for (size_t depth = 1; depth <= JSON_DEPTH_MAX + 1; depth++) {
        struct arena *a = arena_new(1 << 20);
        struct json *v;
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        assert_int_equal(parse(a, str_n(text, 2 * depth), &v), depth <= JSON_DEPTH_MAX ? 0 : -ERR_PARSE);
        if (depth <= JSON_DEPTH_MAX)
            assert_true(str_eq(written(a, v, 0), str_n(text, 2 * depth)));
        arena_free(&a);
    }
}

static void test_readers(void **state)
{
    (void)state;
    struct arena *a = arena_new(1 << 20);
    struct json *v;
    int64_t n = 5;
    assert_int_equal(parse(a, str_of(event), &v), 0);
    assert_str(json_str(json_path(v, "content.m")), "");
    assert_str(json_get_str(json_get(v, STR("content")), STR("body")),
               "h\xc3\xa9 \"\xf0\x9f\x98\x80\" \xed\xa0\x80");
    assert_true(json_int(json_path(v, "depth"), &n) && n == 123);
    assert_false(json_int(json_path(v, "content.n"), &n) || json_int(json_path(v, "content.body"), &n));
    assert_int_equal(n, 123);
    assert_true(json_is_object(json_path(v, "unsigned")) && json_is_array(json_path(v, "unsigned.x")));
    assert_true(json_is_true(json_path(v, "unsigned.x")->child));
    assert_int_equal(json_path(v, "unsigned.x")->count, 4);
    static const char *const missing[] = {"",        "x",           "content.", ".content", "content.body.x",
                                          "depth.x", "unsigned.x.y"};
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++)
        assert_null(json_path(v, missing[i]));
    assert_null(json_get(NULL, STR("a")));
    assert_null(json_path(NULL, "a"));
    assert_true(str_absent(json_str(NULL)) && str_absent(json_get_str(NULL, STR("a"))));
    assert_false(json_int(NULL, &n) || json_is_true(NULL) || json_is_object(NULL) || json_is_array(NULL));
    int seen = 0;
    json_each(m, (struct json *)NULL)
        seen++;
    json_each(m, json_path(v, "auth_events"))
        seen++;
    assert_int_equal(seen, 2);
    arena_free(&a);
}

static void test_changes(void **state)
{
    (void)state;
    struct arena *a = arena_new(1 << 20);
    struct json *o = json_new(a, JSON_OBJECT), *list = json_new(a, JSON_ARRAY);
    json_set(o, STR("b"), json_new_int(a, INT64_MIN));
    json_set(o, STR("a"), json_new_bool(a, true));
    json_set(o, STR("c"), json_new_str(a, STR("x")));
    assert_str(written(a, o, 0), "{\"b\":-9223372036854775808,\"a\":true,\"c\":\"x\"}");
    assert_str(written(a, o, JSON_SORTED), "{\"a\":true,\"b\":-9223372036854775808,\"c\":\"x\"}");
    json_set(o, STR("b"), list); /* in place: first, middle, last */
    json_set(o, STR("a"), json_new(a, JSON_NULL));
    json_set(o, STR("c"), json_new_str(a, STR_ABSENT));
    json_set(o, STR("d"), json_new_bool(a, false));
    json_push(list, json_new_int(a, 1));
    json_push(list, json_new(a, JSON_OBJECT));
    assert_str(written(a, o, 0), "{\"b\":[1,{}],\"a\":null,\"c\":\"\",\"d\":false}");
    json_set(o, STR("a"), json_get(o, STR("a"))); /* itself */
    assert_int_equal(o->count, 4);
    assert_null(json_remove(o, STR("x")));
    assert_null(json_remove(NULL, STR("x")));
    assert_ptr_equal(json_remove(o, STR("b")), list);
    assert_non_null(json_remove(o, STR("d")));
    json_add(o, STR("e"), json_new_int(a, 0));
    assert_str(written(a, o, 0), "{\"a\":null,\"c\":\"\",\"e\":0}");
    json_remove(o, STR("c"));
    json_remove(o, STR("e"));
    json_remove(o, STR("a"));
    assert_str(written(a, o, 0), "{}");
    json_set(o, STR("z"), json_new_int(a, 9));
    assert_str(written(a, o, 0), "{\"z\":9}");
    arena_free(&a);
}

static void test_equality(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        bool equal;
    } cases[] = {
        {"{\"a\":1,\"b\":[1,2]}", "{\"b\":[1,2],\"a\":1}", true},
        {"{\"a\":1}", "{\"b\":1}", false},
        {"{\"a\":1}", "{\"a\":1,\"b\":1}", false},
        {"[1,2]", "[2,1]", false},
        {"[1,2]", "[1,2,3]", false},
        {"[]", "{}", false},
        {"1", "\"1\"", false},
        {"1", "1.0", false},
        {"1.0", "1.00", true},
        {"null", "false", false},
        {"\"\"", "\"\"", true},
    };
    struct arena *a = arena_new(1 << 20);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct json *x, *y;
        assert_int_equal(parse(a, str_of(cases[i].a), &x), 0);
        assert_int_equal(parse(a, str_of(cases[i].b), &y), 0);
        assert_int_equal(json_equal(x, y), cases[i].equal);
        assert_int_equal(json_equal(y, x), cases[i].equal);
    }
    assert_true(json_equal(NULL, NULL));
    assert_false(json_equal(NULL, json_new(a, JSON_NULL)));
    arena_free(&a);
}

/* Past the sizes where small tables on the stack and pairwise comparison end. */
static void test_large_objects(void **state)
{
    (void)state;
    for (int n = 1; n < 2000; n = n < 70 ? n + 1 : n * 3) {
        struct arena *a = arena_new(1 << 24);
        struct buf b;
        struct json *x, *y;
        buf_init(&b, 1 << 20);
        for (int round = 0; round < 2; round++) /* each key twice; the second value wins */
            for (int i = 0; i < n; i++)
                buf_printf(&b, "%s\"k%04d\":%d", b.n ? "," : "{", i * 7 % n, round * 10 + i * 7 % n);
        buf_putc(&b, '}');
        assert_int_equal(parse(a, buf_str(&b), &x), 0);
        buf_reset(&b);
        for (int i = 0; i < n; i++)
            buf_printf(&b, "%s\"k%04d\":%d", i ? "," : "{", i, 10 + i);
        buf_putc(&b, '}');
        if (n % 7) { /* then i * 7 % n meets every key */
            assert_int_equal(x->count, n);
            assert_true(str_eq(written(a, x, JSON_SORTED), buf_str(&b)));
            assert_int_equal(parse(a, buf_str(&b), &y), 0);
            assert_true(json_equal(x, y));
            json_set(y, STR("k0000"), json_new(a, JSON_NULL));
            assert_false(json_equal(x, y));
        } else {
            assert_int_equal(x->count, n / 7);
        }
        buf_fini(&b);
        arena_free(&a);
    }
}

/* The writer repairs what is no UTF-8, and respects the maximum of its buffer. */
static void test_writer_limits(void **state)
{
    (void)state;
    static const struct {
        struct str raw;
        const char *ascii;
    } cases[] = {
        {STR("\xff"), "\"\\ufffd\""},
        {STR("a\xc3"), "\"a\\ufffd\""},
        {STR("\xe2\x82z"), "\"\\ufffd\\ufffdz\""},
        {STR_ABSENT, "\"\""},
        {STR("a\0b"), "\"a\\u0000b\""},
    };
    struct buf b;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        buf_init(&b, 100);
        json_write_str(&b, cases[i].raw, 0);
        assert_str(buf_str(&b), cases[i].ascii);
        buf_fini(&b);
    }
    struct arena *a = arena_new(1 << 20);
    struct json *v;
    assert_int_equal(parse(a, str_of(event), &v), 0);
    struct str whole = written(a, v, JSON_SORTED);
    for (size_t max = 0; max <= whole.n; max++) {
        buf_init(&b, max);
        json_write(&b, v, JSON_SORTED);
        assert_int_equal(b.failed, max < whole.n);
        assert_true(b.n <= max && memcmp(b.p ? b.p : "", whole.p, b.n) == 0);
        buf_fini(&b);
    }
    arena_free(&a);
}

/* Texts that need not be written anew, and those that are near. Changed at random, none is taken that would
 * come out otherwise. */
static void test_written_already(void **state)
{
    (void)state;
    static const char *const yes[] = {
        "{}",
        "{\"a\":[],\"b\":{},\"c\":[1,-2,0,123456789012345],\"d\":[true,false,null],\"e\":{\"a\":\"\"}}",
        "{\"a\":\"\\\"\\\\\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\\u001f\\u007f /\"}",
        "{\"type\":\"m.dummy\",\"content\":{\"text\":\"AwgAEnACgAkLmt6qF84IK++J7UDH2Za1YVch/=\"}}",
    };
    static const char *const no[] = {
        "",
        "[]",
        "1",
        " {}",
        "{} ",
        "{\"a\": 1}",
        "{\"a\":1,}",
        "{\"a\":1,\"a\":2}",
        "{\"a\":1.0}",
        "{\"a\":1e5}",
        "{\"a\":-0}",
        "{\"a\":01}",
        "{\"a\":-}",
        "{\"a\":1234567890123456}",
        "{\"a\":\"\\/\"}",
        "{\"a\":\"\\u0041\"}",
        "{\"a\":\"\\u000a\"}",
        "{\"a\":\"\\u0000\"}",
        "{\"a\":\"\\u00E9\"}",
        "{\"a\":\"\\u00e\"}",
        "{\"a\":\"\xc3\xa9\"}",
        "{\"a\":\"\x7f\"}",
        "{\"a\":\"\t\"}",
        "{\"a\":\"",
        "{\"a\"",
        "{\"a\":nul}",
        "{\"\\u00e9\":1}",
        "{\"a\":[1}",
        "{\"a\":{1:2}}",
        "{\"a\":[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}",
    };
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        if (json_is_written_object(str_of(no[i])))
            fail_msg("taken: %s", no[i]);
    }
    uint64_t random = 1;
    size_t taken = 0;
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        if (!json_is_written_object(str_of(yes[i])))
            fail_msg("not taken: %s", yes[i]);
        for (int round = 0; round < 20000; round++) {
            static const char bytes[] = "{}[]:,\"\\u0123456789abcdefE-.tfn \x7f\xc3\n";
            struct arena *a = arena_new(1 << 20);
            struct str text = arena_str(a, str_of(yes[i]));
            char *p = (char *)(uintptr_t)text.p;
            for (int k = 0; k < 2; k++) {
                random = random * 6364136223846793005u + 1442695040888963407u;
                p[(random >> 33) % text.n] = bytes[(random >> 20) % (sizeof bytes - 1)];
            }
            struct json *v;
            if (json_is_written_object(text)) {
                taken++;
                assert_int_equal(parse(a, text, &v), 0);
                assert_true(str_eq(written(a, v, 0), text));
            }
            arena_free(&a);
        }
    }
    assert_true(taken > 1000);
}

int run_json_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),     cmocka_unit_test(test_bad_input),
        cmocka_unit_test(test_every_prefix),    cmocka_unit_test(test_arena_maximum),
        cmocka_unit_test(test_depth),           cmocka_unit_test(test_readers),
        cmocka_unit_test(test_changes),         cmocka_unit_test(test_equality),
        cmocka_unit_test(test_large_objects),   cmocka_unit_test(test_writer_limits),
        cmocka_unit_test(test_written_already),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
