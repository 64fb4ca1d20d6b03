/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Which Synapse it is, and what follows from that. */
#include "test_config.h"

#include "chappe/release.h"

static void parses(const char *text, int minor, int patch)
{
    struct release r = {9, 9, 9};
    if (!release_parse(str_of(text), &r))
        fail_msg("\"%s\" is not understood", text);
    assert_int_equal(r.major, 1);
    assert_int_equal(r.minor, minor);
    assert_int_equal(r.patch, patch);
}

static void server_headers(void **state)
{
    struct release r = {9, 9, 9};

    (void)state;
    parses("Synapse/1.157.1", 157, 1);
    parses("Synapse/1.163.0rc2", 163, 0);
    parses("Synapse/1.160.3 (b=develop,0123abcd)", 160, 3);
    parses("Synapse/1.161", 161, 0);
    static const char *const others[] = {"",           "Synapse",   "Synapse/",     "Synapse/x.1",
                                         "Synapse/1.", "nginx/1.2", "synapse/1.90", "Synapse/1234567.1"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_false(release_parse(str_of(others[i]), &r));
    assert_false(release_parse(STR_ABSENT, &r));
    assert_int_equal(r.major, 9);
}

static void facts(void **state)
{
    static const struct {
        int minor, fields;
        bool stripped, by_position;
    } steps[] = {{147, 11, false, false}, {148, 12, false, false}, {153, 12, false, false},
                 {154, 13, false, false}, {157, 13, false, false}, {159, 14, false, false},
                 {162, 14, true, false},  {163, 14, true, true},   {999, 14, true, true}};

    (void)state;
    assert_int_equal(release_now().minor, release_newest().minor);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        release_set((struct release){1, steps[i].minor, 1});
        assert_int_equal(release_now().minor, steps[i].minor);
        assert_int_equal(release_token_fields(), steps[i].fields);
        assert_int_equal(release_has(RELEASE_INVITE_STRIPPED), steps[i].stripped);
        assert_int_equal(release_has(RELEASE_LAZY_BY_POSITION), steps[i].by_position);
    }
    release_set(release_newest());
}

static void verdicts(void **state)
{
    (void)state;
    assert_int_equal(release_judge((struct release){1, 146, 9}), RELEASE_TOO_OLD);
    assert_int_equal(release_judge((struct release){0, 999, 0}), RELEASE_TOO_OLD);
    assert_int_equal(release_judge((struct release){1, 147, 0}), RELEASE_KNOWN);
    assert_int_equal(release_judge(release_newest()), RELEASE_KNOWN);
    assert_int_equal(release_judge((struct release){1, release_newest().minor + 1, 0}), RELEASE_NEWER);
    assert_int_equal(release_judge((struct release){2, 0, 0}), RELEASE_NEWER);
    assert_false(release_differs((struct release){1, 157, 0}, (struct release){1, 157, 2}));
    assert_false(release_differs((struct release){1, 157, 0}, (struct release){1, 158, 0}));
    assert_true(release_differs((struct release){1, 158, 0}, (struct release){1, 159, 0}));
    assert_true(release_differs(release_newest(), (struct release){1, release_newest().minor + 1, 0}));
}

static bool in_list(const void *arg, const char *table)
{
    return strstr(arg, table) != NULL;
}

/* 1.152 and 1.153 have the table of quarantined media, but no field for it yet: what the tables show is only
 * the least that it can be, and never a token too long for this Synapse. */
static void what_tables_show(void **state)
{
    (void)state;
    assert_int_equal(release_by_tables(in_list, "").minor, 147);
    assert_int_equal(release_by_tables(in_list, "sticky_events").minor, 148);
    assert_int_equal(release_by_tables(in_list, "sticky_events quarantined_media_changes").minor, 152);
    release_set(release_by_tables(in_list, "sticky_events quarantined_media_changes"));
    assert_int_equal(release_token_fields(), 12);
    assert_int_equal(
        release_by_tables(in_list, "sticky_events quarantined_media_changes profile_updates").minor, 159);
    release_set(release_newest());
}

int run_release(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(server_headers),
        cmocka_unit_test(facts),
        cmocka_unit_test(verdicts),
        cmocka_unit_test(what_tables_show),
    };
    return cmocka_run_group_tests_name("config/release", tests, NULL, NULL);
}
