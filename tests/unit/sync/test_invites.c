/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Invitations that rules hide (MSC4155), and what outranks the rules (MSC4380). */
#include "front.h"

/* What the reference's glob_to_regex says. */
static void test_globs(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *text;
        bool match;
    } cases[] = {
        {"@a:b", "@a:b", true},
        {"@A:b", "@a:B", true},
        {"@a:b", "@a:bc", false},
        {"*", "", true},
        {"*:b", "@a:b", true},
        {"*:b", "@a:b:80", false},
        {"@?:b", "@a:b", true},
        {"@?:b", "@:b", false},
        {"@?:b", "@\xc3\xa9:b", true},
        {"@??:b", "@\xc3\xa9:b", false},
        {"*a*b*c", "xxaxbxbxc", true},
        {"*a*b*c", "xxaxbxbx", false},
        {"?**?", "a", false},
        {"?**?", "ab", true},
        {"a.c", "abc", false},
        {"[a]", "a", false},
        {"*", "a\nb", false},
        {"a\nb", "a\nb", true},
        {"", "", true},
        {"", "a", false},
        {"**a", "aaaaab", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (invite_glob(str_of(cases[i].pattern), str_of(cases[i].text)) != cases[i].match)
            fail_msg("%s on %s", cases[i].pattern, cases[i].text);
    }
}

#define MSC4155 "org.matrix.msc4155.invite_permission_config"
#define MSC4380 "m.invite_permission_config"

static void test_rules(void **state)
{
    (void)state;
    static const struct {
        const char *type, *rules;
        bool hidden, off;
    } cases[] = {
        {NULL, NULL, false, false},
        {MSC4155, "{}", false, false},
        {MSC4155, "{\"ignored_users\":[\"@evil:x\"]}", true, false},
        {MSC4155, "{\"ignored_users\":[\"@evil:x\"]}", false, true},
        {MSC4155, "{\"ignored_users\":[\"@EV?L:*\"]}", true, false},
        {MSC4155, "{\"ignored_users\":\"@evil:x\"}", false, false},
        {MSC4155, "{\"ignored_users\":[5,null,\"\",\"@evil:x\"]}", true, false},
        {MSC4155, "{\"ignored_users\":[\"@evil:x\"],\"allowed_users\":[\"@e*\"]}", false, false},
        {MSC4155, "{\"ignored_users\":[\"@evil:x\"],\"blocked_users\":[\"@e*\"]}", true, false},
        {MSC4155, "{\"blocked_users\":[\"@e*\"],\"ignored_servers\":[\"x\"]}", false, false},
        {MSC4155, "{\"ignored_users\":[\"@evil:x\"],\"allowed_servers\":[\"x\"]}", true, false},
        {MSC4155, "{\"ignored_servers\":[\"x\"]}", true, false},
        {MSC4155, "{\"ignored_servers\":[\"evil\"]}", false, false},
        {MSC4155, "{\"ignored_servers\":[\"x\"],\"allowed_servers\":[\"*\"]}", false, false},
        {MSC4155, "{\"ignored_servers\":[\"x\"],\"blocked_servers\":[\"*\"]}", true, false},
        {MSC4155, "[]", false, false},
        {MSC4155, "nonsense", false, false},
        {MSC4380, "{\"default_action\":\"block\"}", false, false},
    };
    for (int since = 0; since < 2; since++) {
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            world_config(cases[i].off ? "presence: {enabled: false}\n"
                                      : "presence: {enabled: false}\n"
                                        "experimental_features: {msc4155_enabled: true}\n");
            struct world *w = world_new();
            model_adopt(w->m, (struct feed *)(void *)w);
            if (cases[i].type)
                world_add(&w->data, "@me:x", NULL, cases[i].type, cases[i].rules, 1);
            world_settle(w);
            world_room(w, "!r:x", 10, "shared", "@evil:x", NULL);
            struct stream_token before = *model_now(w->m);
            (void)compute(w, "@me:x", NULL, "{}", NULL, NULL, NULL);
            world_say(w, (struct t_event){.id = "$invite",
                                          .room = "!r:x",
                                          .type = "m.room.member",
                                          .key = "@me:x",
                                          .sender = "@evil:x",
                                          .stream = 150,
                                          .content = "{\"membership\":\"invite\"}"});
            world_burst_end(w);
            world_settle(w);
            const char *body = compute(w, "@me:x", NULL, "{}", since ? &before : NULL, NULL, NULL);
            if (!strstr(body, "\"invite\":{\"!r:x\"") != cases[i].hidden)
                fail_msg("case %zu, since %d: %s", i, since, body);
            world_free(&w);
        }
    }
}

/* The newer kind wins, though it can hide nothing. */
static void test_newer_kind_outranks(void **state)
{
    (void)state;
    world_config("presence: {enabled: false}\nexperimental_features: {msc4155_enabled: true}\n");
    struct world *w = world_new();
    model_adopt(w->m, (struct feed *)(void *)w);
    world_add(&w->data, "@me:x", NULL, MSC4155, "{\"ignored_users\":[\"*\"]}", 1);
    world_add(&w->data, "@me:x", NULL, MSC4380, "{}", 2);
    world_settle(w);
    world_room(w, "!r:x", 10, "shared", "@evil:x", NULL);
    world_event(w, (struct t_event){.id = "$invite",
                                    .room = "!r:x",
                                    .type = "m.room.member",
                                    .key = "@me:x",
                                    .sender = "@evil:x",
                                    .stream = 50,
                                    .content = "{\"membership\":\"invite\"}"});
    assert_has(compute(w, "@me:x", NULL, "{}", NULL, NULL, NULL), "\"invite\":{\"!r:x\"");
    world_free(&w);
}

int run_invite_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_globs),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_newer_kind_outranks),
    };
    return cmocka_run_group_tests_name("invites", tests, NULL, NULL);
}
