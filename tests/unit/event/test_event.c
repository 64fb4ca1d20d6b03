/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* What the reference cannot tell us about events: our own fields, memory, sharing, and odd rows of other
 * kinds. */
#include "test_event_unit.h"

#define PDU(type, more, content)                                                           \
    "{\"auth_events\":[\"$a1\",\"$a2\",\"$\\u00e9\"],\"content\":" content                 \
    ",\"depth\":3,\"hashes\":{},\"origin_server_ts\":1000,\"prev_events\":[\"$p1\"]," more \
    "\"room_id\":\"!r:x\",\"sender\":\"@a:x\",\"type\":\"" type "\",\"unsigned\":{\"age_ts\":900}}"

static struct event *make_in(const char *json, const char *metadata, struct str version, int format)
{
    struct event_row row = {
        .event_id = STR("$id"),
        .room_id = STR("!r:x"),
        .json = str_of(json),
        .internal_metadata = str_of(metadata),
        .room_version = version,
        .format_version = format,
        .stream = 42,
        .topological = 3,
        .state_group = 9,
        .writer = 2,
    };
    return event_new(&row, NULL);
}
static struct event *make(const char *json)
{
    struct event *ev = make_in(json, "{}", STR("10"), 3);
    assert_non_null(ev);
    return ev;
}

static bool inside(const struct event *ev, struct str s)
{
    return s.p >= (const char *)ev && s.p + s.n <= (const char *)ev + ev->block;
}

static void test_fields(void **state)
{
    (void)state;
    struct event *ev =
        make_in(PDU("m.room.message", "",
                    "{\"url\":\"mxc\",\"user_id\":\"@u:x\",\"org.matrix.labels\":[ \"b\" "
                    "],\"m.relates_to\":{\"rel_type\":\"m.thread\","
                    "\"event_id\":\"$parent\"}}"),
                "{\"txn_id\":\"t1\",\"device_id\":\"D\\u00e9\",\"token_id\":7,\"delay_id\":\"d\",\"soft_"
                "failed\":true,"
                "\"recheck_redaction\":true,\"policy_server_spammy\":true,\"out_of_band_membership\":true}",
                STR("10"), 3);
    assert_non_null(ev);
    assert_text(ev->event_id, "$id");
    assert_text(ev->room_id, "!r:x");
    assert_text(ev->type, "m.room.message");
    assert_text(ev->sender, "@a:x");
    assert_true(str_absent(ev->state_key) && str_absent(ev->redacts) && str_absent(ev->replaces_state));
    assert_int_equal(ev->stream, 42);
    assert_int_equal(ev->topological, 3);
    assert_int_equal(ev->state_group, 9);
    assert_int_equal(ev->writer, 2);
    assert_int_equal(ev->origin_server_ts, 1000);
    assert_true(ev->has_age_ts && ev->age_ts == 900);
    assert_int_equal(ev->prev_events_count, 1);
    assert_text(ev->prev_events[0], "$p1");
    assert_int_equal(ev->auth_events_count, 3);
    assert_text(ev->auth_events[1], "$a2");
    assert_text(ev->auth_events[2], "$\xc3\xa9");
    assert_text(ev->rel_type, "m.thread");
    assert_text(ev->relates_to, "$parent");
    assert_text(ev->labels_json, "[\"b\"]");
    assert_text(ev->content_user_id, "@u:x");
    assert_true(ev->contains_url && !ev->has_name && !ev->outlier && !ev->rejected && !ev->redacted);
    assert_true(ev->soft_failed && ev->recheck_redaction && ev->policy_server_spammy &&
                ev->out_of_band_membership);
    assert_text(ev->txn_id, "t1");
    assert_text(ev->txn_device_id, "D\xc3\xa9");
    assert_text(ev->delay_id, "d");
    assert_int_equal(ev->txn_token_id, 7);
    /* all of it in the event's own memory, and most of it inside the stored text */
    const struct str slices[] = {ev->event_id, ev->room_id, ev->type,     ev->sender,   ev->prev_events[0],
                                 ev->txn_id,   ev->source,  ev->metadata, ev->rel_type, ev->auth_events[2]};
    for (size_t i = 0; i < sizeof slices / sizeof slices[0]; i++)
        assert_true(inside(ev, slices[i]));
    assert_true(ev->type.p > ev->source.p && ev->type.p < ev->source.p + ev->source.n);
    size_t text = ev->source.n + ev->metadata.n;
    assert_true(ev->block < sizeof *ev + 4 * sizeof(struct str) + text + 64);

    /* redaction takes what came from content, and gives it back */
    event_redact(ev, STR("$red"));
    assert_text(ev->redacted_by, "$red");
    assert_true(str_absent(ev->rel_type) && str_absent(ev->relates_to) && str_absent(ev->labels_json));
    assert_true(!ev->contains_url && str_absent(ev->content_user_id));
    event_redact(ev, STR("$other"));
    assert_text(ev->redacted_by, "$other");
    event_redact(ev, STR_ABSENT);
    assert_true(!ev->redacted && str_absent(ev->redacted_by) && ev->contains_url);
    assert_text(ev->rel_type, "m.thread");
    assert_text(ev->labels_json, "[\"b\"]");
    assert_true(inside(ev, ev->labels_json) && inside(ev, ev->relates_to));
    event_free(&ev);
}

static void test_state_fields(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        enum membership membership;
        const char *visibility, *join_rule;
        bool has_name;
    } cases[] = {
#define STATE(type, content) PDU(type, "\"state_key\":\"\",", content)
        {STATE("m.room.member", "{\"membership\":\"invite\"}"), MEMBERSHIP_INVITE, NULL, NULL, false},
        {STATE("m.room.member", "{\"membership\":\"odd\"}"), MEMBERSHIP_NONE, NULL, NULL, false},
        {STATE("m.room.member", "{\"membership\":5}"), MEMBERSHIP_NONE, NULL, NULL, false},
        {STATE("m.other",
               "{\"membership\":\"join\",\"join_rule\":\"x\",\"history_visibility\":\"x\",\"name\":\"x\"}"),
         MEMBERSHIP_NONE, NULL, NULL, false},
        {STATE("m.room.history_visibility", "{\"history_visibility\":\"joined\"}"), MEMBERSHIP_NONE, "joined",
         NULL, false},
        {STATE("m.room.history_visibility", "{\"history_visibility\":[]}"), MEMBERSHIP_NONE, NULL, NULL,
         false},
        {STATE("m.room.join_rules", "{\"join_rule\":\"public\"}"), MEMBERSHIP_NONE, NULL, "public", false},
        {STATE("m.room.name", "{\"name\":\"x\"}"), MEMBERSHIP_NONE, NULL, NULL, true},
        {STATE("m.room.name", "{\"name\":\"\"}"), MEMBERSHIP_NONE, NULL, NULL, false},
        {STATE("m.room.name", "{\"name\":null}"), MEMBERSHIP_NONE, NULL, NULL, false},
        {STATE("m.room.name", "{\"name\":false}"), MEMBERSHIP_NONE, NULL, NULL, false},
        {STATE("m.room.name", "{\"name\":true}"), MEMBERSHIP_NONE, NULL, NULL, true},
        {STATE("m.room.name", "{\"name\":0}"), MEMBERSHIP_NONE, NULL, NULL, false},
        {STATE("m.room.name", "{\"name\":-0.0e5}"), MEMBERSHIP_NONE, NULL, NULL, false},
        {STATE("m.room.name", "{\"name\":0.1}"), MEMBERSHIP_NONE, NULL, NULL, true},
        {STATE("m.room.name", "{\"name\":[]}"), MEMBERSHIP_NONE, NULL, NULL, false},
        {STATE("m.room.name", "{\"name\":{\"a\":1}}"), MEMBERSHIP_NONE, NULL, NULL, true},
        {STATE("m.room.canonical_alias", "{\"alias\":\"#a:x\"}"), MEMBERSHIP_NONE, NULL, NULL, true},
        {STATE("m.room.canonical_alias", "{\"name\":\"x\"}"), MEMBERSHIP_NONE, NULL, NULL, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct event *ev = make(cases[i].json);
        assert_text(ev->state_key, "");
        assert_int_equal(ev->membership, cases[i].membership);
        assert_slice(ev->history_visibility, str_of(cases[i].visibility));
        assert_slice(ev->join_rule, str_of(cases[i].join_rule));
        assert_int_equal(ev->has_name, cases[i].has_name);
        /* these survive a redaction, a name does not */
        event_redact(ev, STR("$r"));
        assert_int_equal(ev->membership, cases[i].membership);
        assert_slice(ev->history_visibility, str_of(cases[i].visibility));
        assert_slice(ev->join_rule, str_of(cases[i].join_rule));
        assert_false(ev->has_name);
        event_free(&ev);
    }
    for (int m = MEMBERSHIP_JOIN; m <= MEMBERSHIP_BAN; m++)
        assert_int_equal(membership_parse(str_of(membership_name((enum membership)m))), m);
    assert_int_equal(membership_parse(STR_ABSENT), MEMBERSHIP_NONE);
}

/* A long message costs a shared slice and a few private bytes. */
static void test_long(void **state)
{
    struct arena *a = arena_new(1 << 20);
    (void)state;
    struct str body = arena_printf(a, "%0600d", 7);
    struct event *ev =
        make(arena_printf(a, PDU("m.room.message", "", "{\"body\":\"%.*s\"}"), STR_ARG(body)).p);
    struct event_extra x = {.now_ms = 1000, .membership = STR("join")};
    struct rope rope;
    rope_init(&rope);
    event_render(ev, &x, &rope);
    assert_int_equal(rope.n, 2);
    assert_ptr_equal(rope.v[0].blob, ev->enc.blob);
    assert_ptr_not_equal(rope.v[1].blob, ev->enc.blob);
    rope_fini(&rope);
    event_free(&ev);
    arena_free(&a);
}

/* A short one is copied: that costs less than to share it. */
static void test_sharing(void **state)
{
    struct arena *a = arena_new(1 << 20);
    (void)state;
    struct event *ev = make(PDU("m.room.message", "", "{\"body\":\"x\"}"));
    struct event_extra x = {.now_ms = 1000, .membership = STR("join"), .transaction_id = STR("t\"x")};
    struct rope rope;
    rope_init(&rope);
    event_render(ev, &x, &rope);
    assert_text(rope_flatten(&rope, a), "{\"content\":{\"body\":\"x\"},\"event_id\":\"$id\",\"origin_server_"
                                        "ts\":1000,\"sender\":\"@a:x\",\"type\":"
                                        "\"m.room.message\",\"unsigned\":{\"age\":100,\"membership\":"
                                        "\"join\",\"transaction_id\":\"t\\\"x\"}}");
    assert_int_equal(rope.n, 1);
    assert_ptr_not_equal(rope.v[0].blob, ev->enc.blob);
    assert_int_equal(ev->bytes, ev->block + sizeof *ev->enc.blob + ev->enc.blob->n);
    const struct event_enc *enc = event_encode(ev);
    assert_ptr_equal(enc, &ev->enc);
    assert_int_equal(enc->unsigned_off, enc->unsigned_end);
    assert_text(event_content(ev), "{\"body\":\"x\"}");
    assert_ptr_equal(event_content(ev).p, enc->blob->p + enc->content_off);
    rope_fini(&rope);

    /* the rope outlives the event */
    rope_init(&rope);
    event_render(ev, &(struct event_extra){.now_ms = 900}, &rope);
    event_free(&ev);
    assert_text(rope_flatten(&rope, a), "{\"content\":{\"body\":\"x\"},\"event_id\":\"$id\",\"origin_server_"
                                        "ts\":1000,\"sender\":\"@a:x\",\"type\":"
                                        "\"m.room.message\",\"unsigned\":{\"age\":0}}");
    rope_fini(&rope);
    arena_free(&a);
}

static void test_because(void **state)
{
    (void)state;
    struct arena *a = arena_new(1 << 20);
    struct event *ev = make(PDU("m.room.redaction", "\"redacts\":\"$t\",", "{}"));
    event_redact(ev, STR("$r"));
    assert_text(ev->redacts, "$t"); /* which it was before */
    const char *want =
        "{\"content\":{},\"event_id\":\"$id\",\"origin_server_ts\":1000,\"sender\":\"@a:x\",\"type\":"
        "\"m.room.redaction\",\"unsigned\":{\"age\":100}}";
    struct event_extra x = {.now_ms = 1000, .is_because = true};
    struct rope rope;
    rope_init(&rope);
    event_render(ev, &x, &rope);
    assert_text(rope_flatten(&rope, a), want);
    rope_fini(&rope);
    rope_init(&rope);
    event_render_general(ev, &x, false, NULL, 0, &rope);
    assert_text(rope_flatten(&rope, a), want);
    rope_fini(&rope);
    event_free(&ev);
    arena_free(&a);
}

static void test_stripped_state(void **state)
{
    (void)state;
    struct arena *a = arena_new(1 << 20);
    struct event *ev = make(
        "{\"auth_events\":[],\"content\":{\"membership\":\"knock\"},\"depth\":3,\"hashes\":{},"
        "\"origin_server_ts\":1000,\"prev_events\":[],\"room_id\":\"!r:x\",\"sender\":\"@a:x\",\"state_key\":"
        "\"@a:x\",\"type\":\"m.room.member\",\"unsigned\":{\"knock_room_state\":[{\"z\":1,\"a\":\"\\u00e9\"},"
        "5],"
        "\"invite_room_state\":[]}}");
    assert_text(event_stripped_state(ev, true, a), "{\"a\":\"\\u00e9\",\"z\":1},5");
    assert_text(event_stripped_state(ev, false, a), "");
    event_redact(ev, STR("$r"));
    assert_true(str_absent(event_stripped_state(ev, true, a)));
    event_free(&ev);
    ev = make(PDU("m.room.message", "", "{}"));
    assert_true(str_absent(event_stripped_state(ev, true, a)));
    event_free(&ev);
    arena_free(&a);
}

static void test_versions_of_rows(void **state)
{
    (void)state;
    static const char message[] = PDU("m.room.message", "", "{}");
    static const char member[] =
        PDU("m.room.member", "\"state_key\":\"@a:x\",", "{\"membership\":\"invite\"}");
    static const struct {
        const char *json;
        struct str version;
        int format;
        const char *want; /* NULL: refused */
    } cases[] = {
        {message, {"10", 2}, 3, "10"}, {message, {"10", 2}, 4, NULL}, {message, {"10", 2}, 1, NULL},
        {message, {"99", 2}, 3, NULL}, {message, {NULL, 0}, 3, NULL}, {message, {"", 0}, 3, NULL},
        {member, {NULL, 0}, 3, "5"},   {member, {"", 0}, 2, "3"},     {member, {NULL, 0}, 1, NULL},
        {member, {NULL, 0}, 7, "5"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct event *ev = make_in(cases[i].json, "{}", cases[i].version, cases[i].format);
        assert_int_equal(ev != NULL, cases[i].want != NULL);
        if (ev)
            assert_string_equal(ev->version->name, cases[i].want);
        event_free(&ev);
    }
}

static void test_copies(void **state)
{
    (void)state;
    struct event_row row = {
        .event_id = STR("$id"),
        .room_id = STR("!r:x"),
        .json = str_of(PDU("m.room.message", "", "{\"body\":\"x\"}")),
        .internal_metadata = STR("{\"txn_id\":\"t\"}"),
        .room_version = STR("11"),
        .rejected_reason = STR("AUTH_ERROR"),
        .format_version = 3,
        .outlier = true,
        .stream = -5,
    };
    struct event *ev = event_new(&row, NULL);
    assert_non_null(ev);
    assert_true(ev->rejected && ev->outlier);
    struct event *copy = event_pruned_copy(ev);
    event_free(&ev);
    assert_true(copy->rejected && copy->outlier && copy->stream == -5 && copy->redacted);
    assert_text(copy->txn_id, "t");
    assert_text(event_content(copy), "{}");
    event_free(&copy);
}

static void test_sizes(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 8 << 20);
    const char *tail =
        "\"},\"depth\":3,\"hashes\":{},\"origin_server_ts\":1000,\"prev_events\":[],\"auth_events\":[],"
        "\"room_id\":\"!r:x\",\"sender\":\"@a:x\",\"type\":\"t\"}";
    for (int over = 0; over < 2; over++) {
        buf_reset(&b);
        buf_put(&b, STR("{\"content\":{\"body\":\""));
        while (b.n + strlen(tail) < (size_t)EVENT_JSON_MAX + (size_t)over)
            buf_putc(&b, '\x7f'); /* the writer leaves it alone, but nothing else is as long */
        buf_put(&b, str_of(tail));
        struct event_row row = {STR("$id"), STR("!r:x"), buf_str(&b), STR("{}"), STR("10"), STR_ABSENT,
                                3,          1,           1,           0,         0,         false};
        const char *why;
        struct event *ev = event_new(&row, &why);
        assert_int_equal(ev != NULL, !over);
        if (over)
            assert_string_equal(why, "size");
        else
            assert_true(event_encode(ev)->blob->n > EVENT_JSON_MAX - 1024);
        event_free(&ev);
    }
    /* as many small values as fit, and ids that are nowhere in the text as they are */
    buf_reset(&b);
    buf_put(&b, STR("{\"content\":{\"l\":[0"));
    while (b.n < 300000)
        buf_put(&b, STR(",0"));
    buf_put(&b, STR("]},\"depth\":3,\"hashes\":{},\"origin_server_ts\":1000,\"auth_events\":[],\"prev_"
                    "events\":[\"\\u0024\""));
    while (b.n < 600000)
        buf_put(&b, STR(",\"$\\u00e9\\u0020\\u00e8\""));
    buf_put(&b, STR("],\"room_id\":\"!r:x\",\"sender\":\"@a:x\",\"type\":\"t\"}"));
    struct event_row row = {STR("$id"), STR("!r:x"), buf_str(&b), STR("{}"), STR("10"), STR_ABSENT,
                            3,          1,           1,           0,         0,         false};
    struct event *ev = event_new(&row, NULL);
    assert_non_null(ev);
    assert_true(ev->prev_events_count > 10000);
    assert_text(ev->prev_events[0], "$");
    assert_text(ev->prev_events[ev->prev_events_count - 1], "$\xc3\xa9 \xc3\xa8");
    event_redact(ev, STR("$r"));
    assert_true(event_encode(ev)->blob->n < 1000);
    event_free(&ev);
    buf_fini(&b);
}

/* No prefix of a row crashes, and none but the whole is understood. */
static void test_prefixes(void **state)
{
    (void)state;
    static const char json[] = PDU("m.room.message", "", "{\"body\":\"\\ud83d\\ude00\"}");
    for (size_t n = 0; n < sizeof json; n++) {
        struct arena *a = arena_new(1 << 16);
        struct event_row row = {STR("$id"), STR("!r:x"), arena_str(a, str_n(json, n)),
                                STR("{}"),  STR("10"),   STR_ABSENT,
                                3,          1,           1,
                                0,          0,           false};
        struct event *ev = event_new(&row, NULL);
        assert_int_equal(ev != NULL, n == sizeof json - 1);
        event_free(&ev);
        arena_free(&a);
    }
}

int run_event_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_state_fields),
        cmocka_unit_test(test_sharing),
        cmocka_unit_test(test_long),
        cmocka_unit_test(test_because),
        cmocka_unit_test(test_stripped_state),
        cmocka_unit_test(test_versions_of_rows),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_prefixes),
    };
    return cmocka_run_group_tests_name("events", tests, NULL, NULL);
}
