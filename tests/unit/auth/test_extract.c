/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Where the token stands in a request, and which tokens are not worth asking about. */
#include "auth_test.h"

#include <string.h>

#define MISSING    401, "M_MISSING_TOKEN"
#define MIXED      "Mixing Authorization headers and access_token query parameters."
#define BAD_HEADER "Invalid Authorization header."

static void places(void **state)
{
    static const struct {
        const char *authorization;
        int count;
        const char *query;
        const char *error; /* NULL: accepted as alice */
    } rows[] = {
        {NULL, 0, NULL, "Missing access token"},
        {NULL, 0, "", "Missing access token"},
        {NULL, 0, "since=s1", "Missing access token"},
        {NULL, 0, "access_token", "Missing access token"}, /* no '=': no argument */
        {NULL, 0, "xaccess_token=syt_alice", "Missing access token"},
        {NULL, 0, "access_token=syt_alice", NULL},
        {NULL, 0, "timeout=0&access_token=syt_alice&access_token=other", NULL}, /* the first counts */
        {NULL, 0, "access_token=syt%5Falice", NULL},
        {NULL, 0, "access%5ftoken=syt_alice", NULL},
        {"Bearer syt_alice", 1, NULL, NULL},
        {"Bearer syt_alice", 1, "timeout=1", NULL},
        {" Bearer syt_alice\t", 1, NULL, NULL},
        {"Bearer syt_alice", 1, "access_token=syt_alice", MIXED},
        {"Bearer syt_alice", 1, "access_token=", MIXED},
        {"Bearer syt_alice", 2, "access_token=", MIXED},
        {"Bearer syt_alice", 2, NULL, "Too many Authorization headers."},
        {"bearer syt_alice", 1, NULL, BAD_HEADER},
        {"BEARER syt_alice", 1, NULL, BAD_HEADER},
        {"Bearer  syt_alice", 1, NULL, BAD_HEADER},
        {"Bearer syt_alice x", 1, NULL, BAD_HEADER},
        {"Bearer\tsyt_alice", 1, NULL, BAD_HEADER},
        {"Basic syt_alice", 1, NULL, BAD_HEADER},
        {"syt_alice", 1, NULL, BAD_HEADER},
        {"Bearer", 1, NULL, BAD_HEADER},
        {"Bearer ", 1, NULL, BAD_HEADER},
        {"", 1, NULL, BAD_HEADER},
    };
    struct fix *f = fix_new(NULL);

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct outcome o = asked(f, &(struct ask){.authorization = rows[i].authorization,
                                                  .authorization_count = rows[i].count,
                                                  .query = rows[i].query});
        const char *what = rows[i].authorization ? rows[i].authorization
                           : rows[i].query       ? rows[i].query
                                                 : "nothing";
        if (rows[i].error)
            assert_refused(&o, MISSING, rows[i].error, -1, what);
        else
            assert_accepted(&o, "@alice:hs.test", "ALICE", what);
        outcome_free(&o);
    }
    fix_free(&f);
}

static void implausible(void **state)
{
    struct fix *f = fix_new(NULL);
    char *longest = xcalloc(1, AUTH_TOKEN_BYTES_MAX + 2);
    memset(longest, 'a', AUTH_TOKEN_BYTES_MAX + 1);
    const struct {
        const char *authorization, *query;
        size_t statements;
    } rows[] = {
        {NULL, "access_token=", 0},           {NULL, "access_token=a%00b", 0},
        {NULL, "access_token=%C3%A9", 0},     {NULL, "access_token=%ff", 0},
        {"Bearer caf\xc3\xa9", NULL, 0},      {"Bearer no-such-token", NULL, 1},
        {NULL, "access_token=with+space", 1}, {NULL, "access_token=%01", 1},
    };
    struct outcome o;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t before = f->statements[SQL_auth_tokens];
        o = asked(f, &(struct ask){.authorization = rows[i].authorization, .query = rows[i].query});
        assert_refused(&o, 401, "M_UNKNOWN_TOKEN", "Invalid access token passed.", 0,
                       rows[i].query ? rows[i].query : rows[i].authorization);
        assert_int_equal(f->statements[SQL_auth_tokens] - before, rows[i].statements);
    }
    o = asked_token(f, longest);
    assert_refused(&o, 401, "M_UNKNOWN_TOKEN", "Invalid access token passed.", 0, "8193 bytes");
    assert_int_equal(f->statements[SQL_auth_tokens], 3);
    o = asked_token(f, longest + 1);
    assert_refused(&o, 401, "M_UNKNOWN_TOKEN", "Invalid access token passed.", 0, "8192 bytes");
    assert_int_equal(f->statements[SQL_auth_tokens], 4);
    assert_int_equal(f->ips_n, 0);
    free(longest);
    fix_free(&f);
}

static void storable(void **state)
{
    static const struct {
        struct str s;
        bool good;
    } rows[] = {
        {STR(""), true},
        {STR("plain"), true},
        {STR("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"), true},
        {STR("a\0b"), false},
        {STR("\x80"), false},
        {STR("\xc3"), false},
        {STR("\xc0\x80"), false},
        {STR("\xe0\x80\x80"), false},
        {STR("\xed\xa0\x80"), false},
        {STR("\xed\x9f\xbf"), true},
        {STR("\xf4\x8f\xbf\xbf"), true},
        {STR("\xf4\x90\x80\x80"), false},
        {STR("\xf0\x8f\xbf\xbf"), false},
        {STR("\xe2\x82"), false},
        {STR("\xf8\x88\x80\x80\x80"), false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (str_storable(rows[i].s) != rows[i].good)
            fail_msg("row %zu", i);
}

int run_extract(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(places), cmocka_unit_test(implausible),
                                              cmocka_unit_test(storable)};

    return cmocka_run_group_tests_name("auth: extraction", tests, NULL, NULL);
}
