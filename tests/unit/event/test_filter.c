/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Filters against the reference's answers: validity, what they say, and what they let pass. */
#include "chappe/filter.h"
#include "test_event_unit.h"

enum { ITEMS_MAX = 32 };

struct item {
    struct event *ev; /* or */
    struct filter_item plain;
};

static void item_read(struct item *it, const struct json *v)
{
    *it = (struct item){0};
    if (json_get(v, STR("event"))) {
        struct event_row row = {
            .event_id = json_get_str(v, STR("event_id")),
            .room_id = json_get_str(v, STR("room_id")),
            .json = json_get_str(v, STR("event")),
            .internal_metadata = STR("{}"),
            .room_version = STR("10"),
            .format_version = 3,
        };
        it->ev = event_new(&row, NULL);
        assert_non_null(it->ev);
        return;
    }
    it->plain.type = json_get_str(v, STR("type"));
    it->plain.room_id = json_get_str(v, STR("room_id"));
    it->plain.content_user_id = json_get_str(v, STR("content_user_id"));
    it->plain.contains_url = json_is_true(json_get(v, STR("contains_url")));
}

static bool item_match(const struct item *it, const struct filter *f, const struct filter_section *s)
{
    if (!it->ev)
        return filter_match(s, &it->plain);
    struct filter pass = *f;
    pass.room = (struct filter_section){.contains_url = -1, .empty = true};
    return filter_match_event(&pass, s, it->ev);
}

static void check_bits(const struct json *c, const char *section, struct str want, size_t i, bool got)
{
    assert_true(i < want.n);
    if (want.p[i] != '?' && (want.p[i] == '1') != got)
        fail_msg("%.*s: section %s, item %zu: got %d", STR_ARG(json_get_str(c, STR("filter"))), section, i,
                 got);
}

static void check_match(const struct json *c, const struct filter *f, const struct item *items, size_t n)
{
    const struct {
        const char *name;
        const struct filter_section *s;
    } sections[] = {
        {"account_data", &f->account_data}, {"room", &f->room},
        {"timeline", &f->timeline},         {"state", &f->state},
        {"ephemeral", &f->ephemeral},       {"room_account_data", &f->room_account_data},
    };
    const struct json *match = json_get(c, STR("match"));
    for (size_t s = 0; s < sizeof sections / sizeof sections[0]; s++) {
        struct str want = json_get_str(match, str_of(sections[s].name));
        for (size_t i = 0; i < n; i++)
            check_bits(c, sections[s].name, want, i, item_match(&items[i], f, sections[s].s));
    }
    struct str want = json_get_str(match, STR("presence"));
    check_bits(c, "presence", want, 0, filter_match_presence(f, STR("@alice:example.org")));
    check_bits(c, "presence", want, 1, filter_match_presence(f, STR("@bob:example.org")));
    /* room and section together */
    struct str room = json_get_str(match, STR("room")), state = json_get_str(match, STR("state"));
    for (size_t i = 0; i < n; i++)
        if (items[i].ev && state.p[i] != '?')
            assert_int_equal(filter_match_event(f, &f->state, items[i].ev),
                             room.p[i] == '1' && state.p[i] == '1');
}

static void check_bools(const struct json *c, const char *key, const bool *got, size_t n)
{
    const struct json *v = json_get(c, str_of(key));
    assert_int_equal(v->count, n);
    size_t i = 0;
    json_each(b, v) {
        if (json_is_true(b) != got[i])
            fail_msg("%.*s: %s[%zu] is %d", STR_ARG(json_get_str(c, STR("filter"))), key, i, got[i]);
        i++;
    }
}

static void check_values(const struct json *c, const struct filter *f)
{
    int64_t limit;
    assert_true(json_int(json_get(c, STR("limit")), &limit));
    assert_int_equal(f->timeline_limit, limit);
    assert_int_equal(f->timeline_limit_fractional, json_is_true(json_get(c, STR("fractional"))));
    const bool flags[] = {f->lazy_load_members, f->include_redundant_members, f->unread_thread_notifications,
                          f->include_leave, f->federation_format};
    check_bools(c, "flags", flags, 5);
    const bool blocks[] = {
        filter_blocks_all_rooms(f),
        filter_blocks_section(&f->presence, false),
        filter_blocks_section(&f->account_data, false),
        filter_blocks_section(&f->ephemeral, true),
        filter_blocks_section(&f->room_account_data, true),
        filter_blocks_section(&f->timeline, true),
    };
    check_bools(c, "blocks", blocks, 6);
    const bool related[] = {f->timeline.has_related, f->state.has_related};
    check_bools(c, "related", related, 2);
    const struct json *fields = json_get(c, STR("event_fields"));
    assert_int_equal(f->event_fields_count, fields->count);
    size_t i = 0;
    json_each(v, fields)
        assert_slice(f->event_fields[i++], v->s);
    if (f->federation_format || f->event_fields_count || f->timeline.has_labels || f->state.has_related)
        assert_true(f->rare);
}

static void check_case(const struct json *c, const struct item *items, size_t n)
{
    struct str error = json_get_str(c, STR("error")), text = json_get_str(c, STR("filter"));
    unsigned features = (json_is_true(json_get(c, STR("msc3874"))) ? FILTER_MSC3874 : 0u) |
                        (json_is_true(json_get(c, STR("msc3773"))) ? FILTER_MSC3773 : 0u);
    struct filter *f = NULL;
    struct err e = {{0}};
    int rc = filter_parse_with(text, features, &f, &e);
    int want = str_absent(error) ? 0 : str_eq(error, STR("json")) ? -ERR_PARSE : -ERR_PROTOCOL;
    if (rc != want)
        fail_msg("%.*s: got %d (%s), want %d", STR_ARG(text), rc, e.text, want);
    if (rc) {
        assert_null(f);
        assert_true(e.text[0] != 0);
        return;
    }
    check_values(c, f);
    check_match(c, f, items, n);
    struct filter *again = filter_ref(f);
    filter_unref(&f);
    assert_null(f);
    filter_unref(&again);
}

static void check_ids(const struct json *list, bool (*valid)(struct str))
{
    json_each(pair, list)
        if (valid(pair->child->s) != json_is_true(pair->last))
            fail_msg("id %.*s: got %d", STR_ARG(pair->child->s), !json_is_true(pair->last));
}

static void test_vectors(void **state)
{
    (void)state;
    struct arena *a = arena_new(128 << 20);
    struct item items[ITEMS_MAX];
    size_t n = 0, cases = 0, ids = 0;
    json_each(c, vectors_load(a, "filters.json")) {
        json_each(v, json_get(c, STR("items"))) {
            assert_true(n < ITEMS_MAX);
            item_read(&items[n++], v);
        }
        if (json_get(c, STR("filter"))) {
            check_case(c, items, n);
            cases++;
        }
        check_ids(json_get(c, STR("user_ids")), filter_user_id_valid);
        check_ids(json_get(c, STR("room_ids")), filter_room_id_valid);
        ids += json_get(c, STR("user_ids")) || json_get(c, STR("room_ids"));
    }
    assert_true(n > 10 && cases > 500 && ids == 2);
    for (size_t i = 0; i < n; i++)
        event_free(&items[i].ev);
    arena_free(&a);
}

static void test_default(void **state)
{
    (void)state;
    struct filter *f;
    assert_int_equal(filter_parse(STR_ABSENT, &f, NULL), 0);
    assert_true(f->presence.empty && f->account_data.empty && f->room.empty && f->timeline.empty &&
                f->state.empty && f->ephemeral.empty && f->room_account_data.empty);
    assert_false(f->rare || f->timeline_limit_given || f->federation_format);
    assert_int_equal(f->timeline_limit, 10);
    filter_unref(&f);
}

static void test_cap(void **state)
{
    (void)state;
    static const struct {
        const char *limit;
        int64_t max, want;
        bool fractional;
    } cases[] = {
        {"5", 100, 5, false},        {"500", 100, 100, false},   {"500", -1, 500, false},
        {"500", 0, 0, false},        {"-5", 100, -5, false},     {"10.5", 100, 10, true},
        {"1000.5", 100, 100, false}, {"100.5", 100, 100, false}, {"100.0", 100, 100, true},
        {"1e2", 100, 100, true},     {"101.0", 100, 100, false}, {"-0.0", 0, 0, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct arena *a = arena_new(4096);
        struct filter *f;
        struct str text = arena_printf(a, "{\"room\":{\"timeline\":{\"limit\":%s}}}", cases[i].limit);
        assert_int_equal(filter_parse(text, &f, NULL), 0);
        filter_cap_timeline(f, cases[i].max);
        assert_int_equal(f->timeline_limit, cases[i].want);
        assert_int_equal(f->timeline_limit_fractional, cases[i].fractional);
        filter_unref(&f);
        arena_free(&a);
    }
    struct filter *f;
    assert_int_equal(filter_parse(STR("{}"), &f, NULL), 0);
    filter_cap_timeline(f, 3); /* only an explicit limit is lowered */
    assert_int_equal(f->timeline_limit, 10);
    filter_unref(&f);
}

static void test_too_long(void **state)
{
    (void)state;
    struct buf b;
    struct filter *f;
    struct err e;
    buf_init(&b, 4 << 20);
    buf_put(&b, STR("{\"event_fields\":[\""));
    for (int i = 0; i < 1 << 20; i++)
        buf_putc(&b, 'x');
    buf_put(&b, STR("\"]}"));
    assert_int_equal(filter_parse(buf_str(&b), &f, &e), -ERR_PROTOCOL);
    assert_null(f);
    buf_fini(&b);
}

/* Account data has no sender; what its content says of a user, a URL and labels counts, as in Synapse. */
static void test_datum(void **state)
{
    (void)state;
    static const char full[] = "{\"user_id\":\"@bob:x.org\",\"url\":\"u\",\"org.matrix.labels\":[\"#w\"]}";
    static const struct {
        const char *section, *content;
        bool wanted;
    } cases[] = {
        {"\"senders\":[\"@bob:x.org\"]", full, true},
        {"\"senders\":[\"@bob:x.org\"]", "{}", false},
        {"\"senders\":[\"@bob:x.org\"]", "{\"user_id\":5}", false},
        {"\"senders\":[\"@eve:x.org\"]", full, false},
        {"\"not_senders\":[\"@bob:x.org\"]", full, false},
        {"\"not_senders\":[\"@bob:x.org\"]", "[]", true},
        {"\"contains_url\":true", full, true},
        {"\"contains_url\":true", "{\"url\":{}}", false},
        {"\"contains_url\":false", full, false},
        {"\"contains_url\":false", "5", true},
        {"\"org.matrix.labels\":[\"#w\"]", full, true},
        {"\"org.matrix.labels\":[\"#v\"]", full, false},
        {"\"org.matrix.not_labels\":[\"#w\"]", full, false},
        {"\"types\":[\"a.*\"]", full, true},
        {"\"rooms\":[\"!r:x.org\"]", full, false},
        {"\"not_rooms\":[\"!r:x.org\"]", full, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct arena *a = arena_new(4096);
        struct filter *f;
        struct str text = arena_printf(a, "{\"room\":{\"account_data\":{%s}}}", cases[i].section);
        assert_int_equal(filter_parse(text, &f, NULL), 0);
        if (filter_match_datum(&f->room_account_data, &f->room, STR("a.b"), str_of(cases[i].content)) !=
            cases[i].wanted)
            fail_msg("%s of %s", cases[i].section, cases[i].content);
        filter_unref(&f);
        arena_free(&a);
    }
}

static void test_split(void **state)
{
    (void)state;
    static const struct {
        const char *field, *parts[4];
    } cases[] = {
        {"content.body", {"content", "body"}},
        {"a\\.b.c", {"a.b", "c"}},
        {"a\\\\.b", {"a\\", "b"}},
        {"a\\\\\\.b", {"a\\.b"}},
        {"a\\xb", {"a\\xb"}},
        {"", {""}},
        {".", {"", ""}},
        {"a.", {"a", ""}},
        {"a\\", {"a\\"}},
        {"\\x\\.y.\\\\", {"\\x.y", "\\"}},
    };
    struct arena *a = arena_new(1 << 16);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct str *parts;
        size_t n;
        filter_split_field(a, str_of(cases[i].field), &parts, &n);
        for (size_t k = 0; k < n; k++)
            assert_text(parts[k], cases[i].parts[k]);
        assert_null(n < 4 ? cases[i].parts[n] : NULL);
    }
    arena_free(&a);
}

int run_filter_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),  cmocka_unit_test(test_default), cmocka_unit_test(test_cap),
        cmocka_unit_test(test_too_long), cmocka_unit_test(test_split),   cmocka_unit_test(test_datum),
    };
    return cmocka_run_group_tests_name("filters", tests, NULL, NULL);
}
