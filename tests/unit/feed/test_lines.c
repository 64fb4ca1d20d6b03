/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* One line, one row: every example of the contract, cut at every place, and rows of every stream. */
#include "feed_test.h"

#include <stdio.h>
#include <stdlib.h>

static const struct {
    const char *text;
    int err;
    enum repl_command cmd;
    const char *stream, *instance;
    bool batch;
    int64_t token, prev, next;
    const char *row;
} examples[] = {
    {"REPLICATE ", 0, REPL_REPLICATE, 0, 0, false, 0, 0, 0, 0},
    {"REPLICATE", 0, REPL_REPLICATE, 0, 0, false, 0, 0, 0, 0},
    {"POSITION events event_persister1 5012 5012", 0, REPL_POSITION, "events", "event_persister1", false, 0,
     5012, 5012, 0},
    {"POSITION caches master 88001 88004", 0, REPL_POSITION, "caches", "master", false, 0, 88001, 88004, 0},
    {"POSITION caches master 88001 88004 more", 0, REPL_POSITION, "caches", "master", false, 0, 88001, 88004,
     0},
    {"RDATA events event_persister1 5013 "
     "[\"ev\",[\"$abc\",\"!r:example.com\",\"m.room.message\",null,null,null,null,false,false]]",
     0, REPL_RDATA, "events", "event_persister1", false, 5013, 0, 0,
     "[\"ev\",[\"$abc\",\"!r:example.com\",\"m.room.message\",null,null,null,null,false,false]]"},
    {"RDATA events event_persister1 batch [\"ev\",[\"$j\"]]", 0, REPL_RDATA, "events", "event_persister1",
     true, 0, 0, 0, "[\"ev\",[\"$j\"]]"},
    {"RDATA typing master 339 [\"!r:example.com\",[\"@a:example.com\"]]", 0, REPL_RDATA, "typing", "master",
     false, 339, 0, 0, "[\"!r:example.com\",[\"@a:example.com\"]]"},
    {"RDATA caches sync1 88005 [\"get_user_by_access_token\",[\"syt_YQ_secret\"],1785312000123]", 0,
     REPL_RDATA, "caches", "sync1", false, 88005, 0, 0,
     "[\"get_user_by_access_token\",[\"syt_YQ_secret\"],1785312000123]"},
    {"RDATA s w 1 [\"a b\"]", 0, REPL_RDATA, "s", "w", false, 1, 0, 0, "[\"a b\"]"},
    {"USER_SYNC hGqZr @alice:example.com DEVICEID start 1785312000123", 0, REPL_USER_SYNC, 0, 0, false, 0, 0,
     0, 0},
    {"USER_SYNC hGqZr @alice:example.com None end 1785312010999", 0, REPL_USER_SYNC, 0, 0, false, 0, 0, 0, 0},
    {"CLEAR_USER_SYNC hGqZr", 0, REPL_CLEAR_USER_SYNC, 0, 0, false, 0, 0, 0, 0},
    {"USER_IP @alice:example.com [\"t\",\"203.0.113.7\",\"x\",\"D\",1785312000123]", 0, REPL_USER_IP, 0, 0,
     false, 0, 0, 0, 0},
    {"FEDERATION_ACK federation_sender1 4242", 0, REPL_FEDERATION_ACK, 0, 0, false, 0, 0, 0, 0},
    {"REMOTE_SERVER_UP matrix.org", 0, REPL_REMOTE_SERVER_UP, 0, 0, false, 0, 0, 0, 0},
    {"LOCK_RELEASED [\"worker1\",\"new_event_during_purge_lock\",\"!r:example.com\"]", 0, REPL_LOCK_RELEASED,
     0, 0, false, 0, 0, 0, 0},
    {"NEW_ACTIVE_TASK pYzKqTnLmRwXcVbA", 0, REPL_NEW_ACTIVE_TASK, 0, 0, false, 0, 0, 0, 0},
    {"CANCEL_TASK pYzKqTnLmRwXcVbA", 0, REPL_CANCEL_TASK, 0, 0, false, 0, 0, 0, 0},
    {"", 0, REPL_EMPTY, 0, 0, false, 0, 0, 0, 0},
    {" \t\r\n", 0, REPL_EMPTY, 0, 0, false, 0, 0, 0, 0},
    {"SOMETHING_NEW x y", 0, REPL_UNKNOWN, 0, 0, false, 0, 0, 0, 0},
    {"rdata events w 1 []", 0, REPL_UNKNOWN, 0, 0, false, 0, 0, 0, 0},
    {" RDATA events w 1 []", 0, REPL_UNKNOWN, 0, 0, false, 0, 0, 0, 0},
    {"RDATA", -ERR_PARSE, REPL_RDATA, 0, 0, false, 0, 0, 0, 0},
    {"RDATA events", -ERR_PARSE, REPL_RDATA, "events", 0, false, 0, 0, 0, 0},
    {"RDATA events  1 []", -ERR_PARSE, REPL_RDATA, "events", 0, false, 0, 0, 0, 0},
    {"RDATA events w 1", -ERR_PARSE, REPL_RDATA, "events", "w", false, 1, 0, 0, 0},
    {"RDATA events w 1 ", -ERR_PARSE, REPL_RDATA, "events", "w", false, 1, 0, 0, 0},
    {"RDATA events w -1 []", -ERR_PARSE, REPL_RDATA, "events", "w", false, 0, 0, 0, 0},
    {"RDATA events w 0x10 []", -ERR_PARSE, REPL_RDATA, "events", "w", false, 0, 0, 0, 0},
    {"RDATA events w 99999999999999999999 []", -ERR_PARSE, REPL_RDATA, "events", "w", false, 0, 0, 0, 0},
    {"POSITION events w 1", -ERR_PARSE, REPL_POSITION, "events", "w", false, 0, 0, 0, 0},
    {"POSITION events w 1 x", -ERR_PARSE, REPL_POSITION, "events", "w", false, 0, 1, 0, 0},
    {"POSITION events w  1", -ERR_PARSE, REPL_POSITION, "events", "w", false, 0, 0, 0, 0},
};

static void assert_slice(struct str got, const char *want)
{
    if (!want) {
        assert_true(got.n == 0);
        return;
    }
    assert_int_equal(got.n, strlen(want));
    assert_memory_equal(got.p, want, got.n);
}

static void every_example(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
        struct repl_line l;

        print_message("%s\n", examples[i].text);
        assert_int_equal(repl_parse(str_of(examples[i].text), &l), examples[i].err);
        assert_int_equal(l.cmd, examples[i].cmd);
        assert_slice(l.stream, examples[i].stream);
        assert_slice(l.instance, examples[i].instance);
        assert_int_equal(l.batch, examples[i].batch);
        assert_int_equal(l.token, examples[i].token);
        assert_int_equal(l.prev, examples[i].prev);
        if (!examples[i].err) {
            assert_int_equal(l.next, examples[i].next);
            assert_slice(l.row, examples[i].row);
        }
    }
}

/* A cut line must be read without touching what follows it, and never as another stream or writer. */
static void every_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
        for (size_t n = 0; n <= strlen(examples[i].text); n++) {
            char *exact = malloc(n ? n : 1);
            struct repl_line l;

            assert_non_null(exact);
            memcpy(exact, examples[i].text, n);
            int err = repl_parse(str_n(exact, n), &l);
            assert_true(err == 0 || err == -ERR_PARSE);
            if (err == 0 && l.cmd == REPL_RDATA)
                assert_true(l.stream.n && l.instance.n && l.row.n);
            free(exact);
        }
    }
}

static const struct {
    enum stream s;
    const char *row;
    bool good;
} rows[] = {
    {STREAM_EVENTS, "[\"ev\",[\"$a\",\"!r\",\"t\",null,null,null,null,false,false]]", true},
    {STREAM_EVENTS, "[\"ev\",[\"$a\",\"!r\",\"t\",\"\",\"$v\",\"$p\",\"join\",true,true,\"new\",1]]", true},
    {STREAM_EVENTS, "[\"ev\",[\"$a\",\"!r\",\"t\",null,null,null,null,false]]", false},
    {STREAM_EVENTS, "[\"ev\",[\"$a\",\"!r\",\"t\",null,null,null,null,0,false]]", false},
    {STREAM_EVENTS, "[\"ev\",[null,\"!r\",\"t\",null,null,null,null,false,false]]", false},
    {STREAM_EVENTS, "[\"state\",[\"!r\",\"m.room.topic\",\"\",\"$t\"]]", true},
    {STREAM_EVENTS, "[\"state\",[\"!r\",\"m.room.topic\",\"\",null]]", true},
    {STREAM_EVENTS, "[\"state\",[\"!r\",\"m.room.topic\",null,\"$t\"]]", false},
    {STREAM_EVENTS, "[\"state-all\",[\"!r\"]]", true},
    {STREAM_EVENTS, "[\"state-all\",[]]", false},
    {STREAM_EVENTS, "[\"else\",[\"!r\"]]", false},
    {STREAM_EVENTS, "[\"ev\"]", false},
    {STREAM_EVENTS, "[]", false},
    {STREAM_EVENTS, "{}", false},
    {STREAM_BACKFILL, "[\"$old\",\"!r\",\"m.room.message\",null,null,null]", true},
    {STREAM_BACKFILL, "[\"$old\",\"!r\",\"m.room.message\",null,null]", false},
    {STREAM_PRESENCE, "[\"@a\",\"online\",1785312000000,1785311990000,1785311995000,null,true]", true},
    {STREAM_PRESENCE, "[\"@a\",\"online\",1,2,3,\"busy\",false]", true},
    {STREAM_PRESENCE, "[\"@a\",\"online\",1,2,3,\"busy\",null]", false},
    {STREAM_PRESENCE, "[\"@a\",\"online\",1.5,2,3,\"busy\",true]", false},
    {STREAM_TYPING, "[\"!r\",[\"@a\",\"@b\"]]", true},
    {STREAM_TYPING, "[\"!r\",[]]", true},
    {STREAM_TYPING, "[\"!r\",[\"@a\",null]]", false},
    {STREAM_TYPING, "[\"!r\",null]", false},
    {STREAM_RECEIPTS, "[\"!r\",\"m.read\",\"@a\",\"$e\",null,{\"ts\":1785312000000}]", true},
    {STREAM_RECEIPTS, "[\"!r\",\"m.read\",\"@a\",\"$e\",\"main\",{}]", true},
    {STREAM_RECEIPTS, "[\"!r\",\"m.read\",\"@a\",\"$e\",\"main\",\"{}\"]", false},
    {STREAM_RECEIPTS, "[\"!r\",\"m.read\",\"@a\",\"$e\",\"main\"]", false},
    {STREAM_ACCOUNT_DATA, "[\"@a\",null,\"m.direct\"]", true},
    {STREAM_ACCOUNT_DATA, "[\"@a\",\"!r\",\"m.tag\"]", true},
    {STREAM_ACCOUNT_DATA, "[\"@a\",\"!r\"]", false},
    {STREAM_PUSH_RULES, "[\"@a\"]", true},
    {STREAM_PUSH_RULES, "[1]", false},
    {STREAM_PUSHERS, "[\"@a\",\"app\",\"key\",false]", true},
    {STREAM_PUSHERS, "[\"@a\",\"app\",\"key\"]", false},
    {STREAM_TO_DEVICE, "[\"@a\"]", true},
    {STREAM_TO_DEVICE, "\"@a\"", false},
    {STREAM_DEVICE_LISTS, "[\"@a\",true,false]", true},
    {STREAM_DEVICE_LISTS, "[\"@a\",true]", false},
    {STREAM_UN_PARTIAL_STATED_ROOM, "[\"!r\"]", true},
    {STREAM_UN_PARTIAL_STATED_EVENT, "[\"$e\",true]", true},
    {STREAM_UN_PARTIAL_STATED_EVENT, "[\"$e\"]", false},
    {STREAM_THREAD_SUBSCRIPTIONS, "[\"@a\",\"!r\",\"$root\"]", true},
    {STREAM_THREAD_SUBSCRIPTIONS, "[\"@a\",\"!r\"]", false},
    {STREAM_STICKY_EVENTS, "[\"!r\",\"$e\"]", true},
    {STREAM_STICKY_EVENTS, "[\"!r\"]", false},
    {STREAM_QUARANTINED_MEDIA, "[null,\"AbCdEf\",true]", true},
    {STREAM_QUARANTINED_MEDIA, "[\"matrix.org\",\"AbCdEf\",false]", true},
    {STREAM_QUARANTINED_MEDIA, "[null,null,true]", false},
    {STREAM_CACHES, "[\"cs_cache_fake\",[\"!r\",\"@a\"],1785312000123]", true},
    {STREAM_CACHES, "[\"x\",null,1]", true},
    {STREAM_CACHES, "[\"x\",[],1]", true},
    {STREAM_CACHES, "[\"x\",[null,\"a\"],null]", true},
    {STREAM_CACHES, "[\"x\",[1],1]", false},
    {STREAM_CACHES, "[\"x\",\"y\",1]", false},
    {STREAM_CACHES, "[\"x\",[]]", false},
    {STREAM_EVENTS, "not json", false},
    {STREAM_EVENTS, "[\"ev\",[\"$a\"", false},
    {STREAM_EVENTS, "[\"state-all\",[\"!r\"]] x", false},
    {STREAM_EVENTS, "null", false},
};

static void every_row(void **state)
{
    struct arena *a = arena_new(1 << 20);

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct feed_row r;

        print_message("%s %s\n", stream_name(rows[i].s), rows[i].row);
        arena_reset(a);
        assert_int_equal(row_parse_text(a, rows[i].s, str_of(rows[i].row), &r),
                         rows[i].good ? 0 : -ERR_PARSE);
        for (size_t n = 0; n < strlen(rows[i].row); n++) /* no prefix is a row */
            if (rows[i].good)
                assert_int_equal(row_parse_text(a, rows[i].s, str_n(rows[i].row, n), &r), -ERR_PARSE);
    }
    arena_free(&a);
}

static void columns(void **state)
{
    struct arena *a = arena_new(1 << 20);
    struct feed_row r;

    (void)state;
    assert_int_equal(
        row_parse_text(
            a, STREAM_EVENTS,
            STR("[\"ev\",[\"$a\",\"!r\",\"m.room.member\",\"@u\",\"$v\",\"$p\",\"join\",false,true]]"), &r),
        0);
    assert_slice(r.ev.event_id, "$a");
    assert_slice(r.ev.room_id, "!r");
    assert_slice(r.ev.type, "m.room.member");
    assert_slice(r.ev.state_key, "@u");
    assert_slice(r.ev.redacts, "$v");
    assert_slice(r.ev.relates_to, "$p");
    assert_slice(r.ev.membership, "join");
    assert_false(r.ev.rejected);
    assert_true(r.ev.outlier);
    assert_int_equal(row_parse_text(a, STREAM_EVENTS, STR("[\"state\",[\"!r\",\"t\",\"\",null]]"), &r), 0);
    assert_true(str_absent(r.ev.event_id));
    assert_false(str_absent(r.ev.state_key)); /* empty is not absent */
    assert_int_equal(
        row_parse_text(a, STREAM_RECEIPTS,
                       STR("[\"!r\",\"m.read\",\"@a\",\"$e\",\"main\",{\"ts\": 17, \"\\u00e9\":[1]}]"), &r),
        0);
    assert_slice(r.receipt.thread_id, "main");
    assert_slice(r.receipt.data, "{\"ts\":17,\"\\u00e9\":[1]}");
    assert_int_equal(row_parse_text(a, STREAM_CACHES, STR("[\"f\",[\"a\",null,\"\"],1785312000123]"), &r), 0);
    assert_int_equal(r.cache.keys_count, 3);
    assert_true(str_absent(r.cache.keys[1]));
    assert_false(str_absent(r.cache.keys[2]));
    assert_false(r.cache.all);
    assert_true(r.cache.ts == 1785312000123);
    assert_int_equal(row_parse_text(a, STREAM_PRESENCE, STR("[\"@a\",\"unavailable\",1,2,3,null,true]"), &r),
                     0);
    assert_true(r.presence.last_active_ts == 1 && r.presence.last_federation_update_ts == 2 &&
                r.presence.last_user_sync_ts == 3);
    assert_true(str_absent(r.presence.status_msg) && r.presence.currently_active);
    assert_int_equal(row_parse_text(a, STREAM_TYPING, STR("[\"!r\",[\"@a\",\"\\ud83d\\ude00\"]]"), &r), 0);
    assert_slice(r.typing.user_ids[1], "\xf0\x9f\x98\x80");
    arena_free(&a);
}

static void long_row(void **state)
{
    enum { N = 1 << 20 };
    struct arena *a = arena_new(FEED_PENDING_BYTES_MAX), *small = arena_new(64 << 10);
    char *text = malloc(N + 64);
    struct feed_row r;

    (void)state;
    assert_non_null(text);
    int n = snprintf(text, N + 64, "[\"!r:example.com\",[\"");
    memset(text + n, 'u', N);
    n += N;
    n += snprintf(text + n, 8, "\"]]");
    assert_int_equal(row_parse_text(a, STREAM_TYPING, str_n(text, (size_t)n), &r), 0);
    assert_int_equal(r.typing.user_ids[0].n, N);
    assert_int_equal(row_parse_text(small, STREAM_TYPING, str_n(text, (size_t)n), &r), -ERR_NOMEM);
    free(text);
    arena_free(&a);
    arena_free(&small);
}

static void stream_names(void **state)
{
    (void)state;
    for (int s = 0; s < STREAM_COUNT; s++)
        assert_int_equal(stream_find(str_of(stream_name((enum stream)s))), s);
    assert_int_equal(stream_find(STR("event")), -1);
    assert_int_equal(stream_find(STR("")), -1);
    assert_true(stream_ignored(STR("federation")) && stream_ignored(STR("presence_federation")));
    assert_false(stream_ignored(STR("events")));
}

int run_lines(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_example), cmocka_unit_test(every_cut), cmocka_unit_test(every_row),
        cmocka_unit_test(columns),       cmocka_unit_test(long_row),  cmocka_unit_test(stream_names),
    };

    return cmocka_run_group_tests_name("lines", tests, NULL, NULL);
}
