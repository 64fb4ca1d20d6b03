/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Events against the reference's answers: which rows can be loaded, and every rendering byte for byte, by the
 * fast way and by the general way, before and after redactions come and go.
 */
#include "test_event_unit.h"
#include <stdio.h>

static const int64_t NOW_MS = 1700000100000;

static int load(void **state)
{
    *state = arena_new(512 << 20);
    return 0;
}

static int unload(void **state)
{
    struct arena *a = *state;
    arena_free(&a);
    return 0;
}

static bool flag(const struct json *v, const char *key)
{
    return json_is_true(json_get(v, str_of(key)));
}

static struct event_row row_of(const struct json *c)
{
    int64_t format = 0;
    const struct room_version *version = room_version_find(json_get_str(c, STR("version")));
    assert_non_null(version);
    if (!json_int(json_get(c, STR("format")), &format))
        format = version->format;
    struct event_row row = {
        .event_id = json_get_str(c, STR("event_id")),
        .room_id = json_get_str(c, STR("room_id")),
        .json = json_get_str(c, STR("json")),
        .internal_metadata = json_get_str(c, STR("metadata")),
        .room_version = json_get_str(c, STR("version")),
        .rejected_reason = STR_ABSENT,
        .format_version = (int)format,
    };
    if (str_absent(row.event_id))
        row.event_id = STR("$id");
    if (str_absent(row.room_id))
        row.room_id = STR("!id");
    if (str_absent(row.internal_metadata))
        row.internal_metadata = STR("{}");
    return row;
}

static void check(const struct json *c, const char *what, const struct rope *rope, struct str want,
                  struct arena *a)
{
    struct str got = rope_flatten(rope, a);
    if (!str_eq(got, want))
        fail_msg("%.*s (version %.*s), %s:\n got %.*s\nwant %.*s", STR_ARG(json_get_str(c, STR("name"))),
                 STR_ARG(json_get_str(c, STR("version"))), what, STR_ARG(got), STR_ARG(want));
}

static void check_render(const struct json *c, const struct json *r, struct event *ev)
{
    struct arena *a = arena_new(64 << 20);
    struct event_extra x = {
        .now_ms = NOW_MS,
        .membership = json_get_str(r, STR("membership")),
        .prev_content = json_get_str(r, STR("prev_content")),
        .prev_sender = json_get_str(r, STR("prev_sender")),
        .redacted_because = json_get_str(r, STR("redacted_because")),
        .transaction_id = json_get_str(r, STR("transaction_id")),
        .delay_id = json_get_str(r, STR("delay_id")),
        .relations = json_get_str(r, STR("relations")),
        .invite_room_state = json_get_str(r, STR("invite_room_state")),
        .knock_room_state = json_get_str(r, STR("knock_room_state")),
        .mark_soft_failed = flag(r, "mark_soft_failed"),
        .mark_spammy = flag(r, "mark_spammy"),
    };
    struct str fields[8], want = json_get_str(r, STR("out"));
    size_t fields_count = 0;
    json_each(f, json_get(r, STR("fields"))) {
        assert_true(fields_count < 8);
        fields[fields_count++] = f->s;
    }
    event_redact(ev, json_get_str(r, STR("redacted_by")));

    struct rope rope;
    rope_init(&rope);
    event_render_general(ev, &x, flag(r, "federation"), fields, fields_count, &rope);
    check(c, "general", &rope, want, a);
    rope_fini(&rope);
    if (!fields_count && !flag(r, "federation")) {
        rope_init(&rope);
        event_render(ev, &x, &rope);
        check(c, "fast", &rope, want, a);
        rope_fini(&rope);
    }
    arena_free(&a);
}

static void test_events(void **state)
{
    unsigned readable = 0, refused = 0;
    json_each(c, vectors_load(*state, "events.json")) {
        struct event_row row = row_of(c);
        const char *why = NULL;
        struct event *ev = event_new(&row, &why);
        if ((ev != NULL) != flag(c, "readable"))
            fail_msg("%.*s (version %.*s): %s, %.*s", STR_ARG(json_get_str(c, STR("name"))),
                     STR_ARG(row.room_version), ev ? "should be refused" : why, STR_ARG(row.json));
        if (!ev) {
            assert_non_null(why);
            refused++;
            continue;
        }
        readable++;
        assert_null(why);
        assert_slice(event_content(ev), json_get_str(c, STR("content")));
        if (str_eq(ev->type, STR("m.room.redaction")))
            assert_slice(ev->redacts, json_get_str(c, STR("redacts")));
        json_each(r, json_get(c, STR("renders")))
            check_render(c, r, ev);
        event_redact(ev, STR("$gone"));
        event_redact(ev, STR_ABSENT);
        if (!str_eq(ev->type, STR("m.room.create")))
            assert_int_equal(ev->bytes, ev->block); /* the encodings went, and so did what they counted */
        assert_slice(event_content(ev), json_get_str(c, STR("content")));
        event_free(&ev);
        assert_null(ev);
    }
    assert_true(readable > 100 && refused > 100);
}

static void test_redactions(void **state)
{
    json_each(c, vectors_load(*state, "redactions.json")) {
        struct event_row row = row_of(c);
        struct event *ev = event_new(&row, NULL);
        assert_non_null(ev);
        struct event *copy = event_pruned_copy(ev);
        assert_true(copy->redacted && str_absent(copy->redacted_by));
        assert_slice(event_content(copy), json_get_str(c, STR("content")));
        struct rope rope;
        rope_init(&rope);
        struct event_extra x = {.now_ms = NOW_MS};
        event_render_general(copy, &x, true, NULL, 0, &rope);
        check(c, "pruned", &rope, json_get_str(c, STR("out")), *state);
        rope_fini(&rope);
        event_free(&copy);

        struct str original = arena_str(*state, event_content(ev));
        event_redact(ev, STR("$r"));
        bool create = str_eq(ev->type, STR("m.room.create"));
        assert_slice(event_content(ev), create ? original : json_get_str(c, STR("content")));
        assert_int_equal(ev->redacted, !create);
        event_redact(ev, STR_ABSENT);
        assert_slice(event_content(ev), original);
        event_free(&ev);
    }
}

static void test_versions(void **state)
{
    json_each(c, vectors_load(*state, "versions.json")) {
        const struct room_version *v = room_version_find(json_get_str(c, STR("name")));
        int64_t format;
        assert_non_null(v);
        assert_true(json_int(json_get(c, STR("format")), &format));
        assert_int_equal(v->format, format);
        assert_int_equal(v->special_case_aliases_auth, flag(c, "aliases"));
        assert_int_equal(v->updated_redaction_rules, flag(c, "v11"));
        assert_int_equal(v->redacts_in_content, flag(c, "v11"));
        assert_int_equal(v->restricted_join_rule, flag(c, "restricted"));
        assert_int_equal(v->restricted_join_rule_fix, flag(c, "restricted_fix"));
        assert_int_equal(v->create_id_is_room_id, flag(c, "hashes"));
        assert_int_equal(v->relation_redactions, flag(c, "relations"));
        assert_int_equal(v->state_dags, flag(c, "dags"));
    }
    assert_null(room_version_find(STR("13")));
    assert_null(room_version_find(STR("")));
    assert_null(room_version_find(STR_ABSENT));
}

int run_vector_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_versions, load, unload),
        cmocka_unit_test_setup_teardown(test_events, load, unload),
        cmocka_unit_test_setup_teardown(test_redactions, load, unload),
    };
    return cmocka_run_group_tests_name("event vectors", tests, NULL, NULL);
}
