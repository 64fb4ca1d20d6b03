/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* What a batch, a POSITION and a gap do to a pair, and what reaches the sink in which order. */
#include "feed_test.h"

#include "chappe/clock.h"
#include "chappe/metrics.h"

#include <stdio.h>
#include <stdlib.h>

#define EV(writer, token, id) \
    "RDATA events " writer " " token " [\"ev\",[\"" id "\",\"!r\",\"t\",null,null,null,null,false,false]]"

/* Both writers have said where they stand. */
static struct fix *fix_live(void)
{
    struct fix *x = fix_new();

    lines(x, (const char *const[]){"POSITION events ep1 100 100", "POSITION events ep2 100 100",
                                   "POSITION account_data master 100 100", "POSITION backfill ep1 100 100",
                                   "POSITION sticky_events ep1 100 100", "POSITION typing master 0 7", NULL});
    expect(x, "typing 1 7\nend\n");
    return x;
}

static void batches_of_two_writers(void **state)
{
    struct fix *x = fix_live();

    (void)state;
    line(x, EV("ep1", "101", "$1"));
    expect(x, "events 2 101 ev:$1\nend\n");
    lines(x,
          (const char *const[]){EV("ep1", "batch", "$a"), EV("ep2", "batch", "$b"), EV("ep1", "batch", "$c"),
                                EV("ep2", "103", "$d"), EV("ep1", "105", "$e"), NULL});
    expect(x, "events 3 103 ev:$b ev:$d\nevents 2 105 ev:$a ev:$c ev:$e\nend\n");
    /* a POSITION of the pair discards what was pending, of that pair only */
    lines(x, (const char *const[]){EV("ep1", "batch", "$x"), EV("ep2", "batch", "$y"),
                                   "POSITION events ep1 105 106", EV("ep1", "107", "$z"),
                                   EV("ep2", "108", "$w"), NULL});
    expect(x, "events 2 106\nevents 2 107 ev:$z\nevents 3 108 ev:$y ev:$w\nend\n");
    fix_free(&x);
}

static void old_tokens(void **state)
{
    struct fix *x = fix_live();

    (void)state;
    lines(x, (const char *const[]){EV("ep1", "100", "$1"), EV("ep1", "99", "$2"), NULL});
    expect(x, "");
    /* backfill descends, sticky events come in any order: nothing is discarded */
    lines(x, (const char *const[]){"RDATA backfill ep1 777 [\"$3\",\"!r\",\"t\",null,null,null]",
                                   "RDATA backfill ep1 776 [\"$4\",\"!r\",\"t\",null,null,null]",
                                   "RDATA sticky_events ep1 120 [\"!r\",\"$5\"]",
                                   "RDATA sticky_events ep1 110 [\"!r\",\"$6\"]", NULL});
    expect(x, "backfill 2 777 $3\nbackfill 2 777 $4\nsticky_events 2 120 $5\nsticky_events 2 120 $6\nend\n");
    fix_free(&x);
}

static void position_matrix(void **state)
{
    static const struct {
        const char *text, *seen;
    } db[] =
        {
            {"POSITION account_data master 100 100", ""},
            {"POSITION account_data master 90 100", ""},
            {"POSITION account_data master 90 95", ""},
            {"POSITION account_data master 100 105", "account_data 1 105\nend\n"},
            {"POSITION account_data master 90 105", "account_data 1 105\nend\n"},
            {"POSITION account_data master 101 105", "fetch account_data master 100 105\n"},
            {"POSITION account_data master 105 105", "fetch account_data master 100 105\n"},
            {"POSITION account_data master 200 150", "fetch account_data master 100 150\n"},
        },
      memory[] = {
          {"POSITION typing master 7 7", ""},
          {"POSITION typing master 5 9", "typing 1 9\nend\n"},
          {"POSITION typing master 7 9", "typing 1 9\nend\n"},
          {"POSITION typing master 8 9", "fetch typing master 7 9\n"},
          {"POSITION typing master 9 9", "fetch typing master 7 9\n"},
          {"POSITION typing master 0 0", "reset typing 1\ntyping 1 0\nend\n"},
          {"POSITION typing master 3 3", "reset typing 1\nfetch typing master 0 3\n"},
          {"POSITION typing master 9 5", "reset typing 1\nfetch typing master 0 5\n"},
          {"POSITION typing master 9 7", ""},
          {"RDATA typing master 8 [\"!r\",[\"@a\"]]", "typing 1 8 !r=1\nend\n"},
          {"RDATA typing master 7 [\"!r\",[]]", "typing 1 7 !r=0\nend\n"},
          {"RDATA typing master 2 [\"!r\",[]]", "reset typing 1\ntyping 1 2 !r=0\nend\n"},
      };

    (void)state;
    for (int live = 0; live < 2; live++)
        for (size_t i = 0; i < sizeof db / sizeof *db; i++) {
            struct fix *x = live ? fix_live() : fix_new();

            print_message("%s\n", db[i].text);
            line(x, db[i].text);
            expect(x, db[i].seen);
            fix_free(&x);
        }
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) {
        struct fix *x = fix_live();

        print_message("%s\n", memory[i].text);
        line(x, memory[i].text);
        expect(x, memory[i].seen);
        fix_free(&x);
    }
}

static void a_gap_is_filled_in_order(void **state)
{
    struct fix *x = fix_live();
    int64_t gaps = metric_get_l(M_feed_gaps, "events");

    (void)state;
    line(x, "POSITION events ep1 104 110");
    expect(x, "fetch events ep1 100 110\n");
    assert_int_equal(metric_get_l(M_feed_gaps, "events"), gaps + 1);
    /* the pair waits, the other writer does not */
    lines(x, (const char *const[]){EV("ep1", "batch", "$late"), EV("ep1", "112", "$late2"),
                                   EV("ep2", "111", "$other"), "POSITION events ep1 112 115", NULL});
    expect(x, "events 3 111 ev:$other\nend\n");
    /* a limited answer: the rest is asked for; equal tokens are one batch, tokens ascend */
    answer(x, 105,
           "105 [\"state\",[\"!r\",\"m.room.topic\",\"\",\"$t\"]]\n103 [\"state-all\",[\"!q\"]]\n"
           "105 [\"ev\",[\"$t\",\"!r\",\"t\",null,null,null,null,false,false]]");
    expect(
        x,
        "events 2 103 state-all:!q\nevents 2 105 state:m.room.topic ev:$t\nfetch events ep1 105 110\nend\n");
    answer(x, 110, "");
    expect(x, "events 2 110\nevents 2 112 ev:$late ev:$late2\nevents 2 115\nend\n");
    line(x, EV("ep1", "116", "$next"));
    expect(x, "events 2 116 ev:$next\nend\n");
    fix_free(&x);
}

static void a_gap_within_a_gap(void **state)
{
    struct fix *x = fix_live();

    (void)state;
    line(x, "POSITION events ep1 110 110");
    line(x, "POSITION events ep1 120 120");
    line(x, EV("ep1", "121", "$z"));
    expect(x, "fetch events ep1 100 110\n");
    answer(x, 110, "");
    expect(x, "events 2 110\nfetch events ep1 110 120\nend\n");
    answer(x, 120, "");
    expect(x, "events 2 120\nevents 2 121 ev:$z\nend\n");
    fix_free(&x);
}

static void a_failed_fetch_is_tried_again(void **state)
{
    struct fix *x = fix_live();

    (void)state;
    line(x, "POSITION account_data master 101 105");
    expect(x, "fetch account_data master 100 105\n");
    for (int i = 0; i < 3; i++) {
        answer_error(x, -ERR_DB_DOWN);
        assert_true(logged("cannot be read now"));
        until(x, x->asked.n == 1);
        expect(x, "fetch account_data master 100 105\n");
    }
    answer(x, 105, "103 [\"@a\",null,\"m.direct\"]");
    expect(x, "account_data 1 103 @a\naccount_data 1 105\nend\n");
    fix_free(&x);
}

static void rows_that_cannot_be_read(void **state)
{
    struct fix *x = fix_live();
    int64_t bad = metric_get_l(M_feed_bad, "row");

    (void)state;
    /* a batch with a bad row is read from the database as a whole */
    lines(x, (const char *const[]){EV("ep1", "batch", "$a"), "RDATA events ep1 batch [\"ev\",[1]]",
                                   EV("ep1", "103", "$b"), EV("ep1", "104", "$c"), NULL});
    expect(x, "fetch events ep1 100 103\n");
    assert_int_equal(metric_get_l(M_feed_bad, "row"), bad + 1);
    answer(x, 103, "");
    expect(x, "events 2 103\nevents 2 104 ev:$c\nend\n");
    line(x, "RDATA events ep1 105 not json");
    expect(x, "fetch events ep1 104 105\n");
    answer(x, 105, "");
    expect(x, "events 2 105\nend\n");
    /* a line without a token: whatever comes next is checked */
    line(x, "RDATA events ep1 10");
    line(x, "RDATA events ep1 107x [1]");
    assert_true(logged("malformed"));
    line(x, EV("ep1", "108", "$d"));
    expect(x, "fetch events ep1 105 108\n");
    answer(x, 108, "");
    expect(x, "events 2 108\nend\n");
    /* backfill that cannot be located is only counted */
    line(x, "RDATA backfill ep1 99 {}");
    expect(x, "backfill 2 100\nend\n");
    fix_free(&x);
}

static void reconnect_checks_every_pair(void **state)
{
    struct fix *x = fix_live();

    (void)state;
    lines(x, (const char *const[]){EV("ep1", "101", "$1"), EV("ep2", "102", "$2"),
                                   EV("ep2", "batch", "$lost"), NULL});
    buf_reset(&x->seen);
    feed_epoch_lost(x->f);
    expect(x, "state disconnected\n");
    feed_epoch_begin(x->f);
    line(x, "POSITION events ep1 101 101");
    expect(x, "");
    /* ep1's POSITION must not make ep2's rows acceptable */
    line(x, EV("ep2", "110", "$9"));
    expect(x, "fetch events ep2 102 110\n");
    line(x, "POSITION events ep2 110 110");
    answer(x, 110, "105 [\"ev\",[\"$3\",\"!r\",\"t\",null,null,null,null,false,false]]");
    expect(x, "events 3 105 ev:$3\nevents 3 110\nend\n");
    fix_free(&x);
}

/* The connection goes while a gap is filled: what the fetch covers is good, what waited is checked again. */
static void lost_during_a_fetch(void **state)
{
    struct fix *x = fix_live();

    (void)state;
    line(x, "POSITION events ep1 105 105");
    line(x, EV("ep1", "106", "$queued"));
    feed_epoch_lost(x->f);
    feed_epoch_begin(x->f);
    buf_reset(&x->seen);
    answer(x, 105, "");
    expect(x, "events 2 105\nend\n");
    line(x, EV("ep1", "120", "$new"));
    expect(x, "fetch events ep1 105 120\n");
    answer(x, 120, "");
    buf_reset(&x->seen);
    fix_free(&x);
}

/* Lower tokens of an unordered stream may have been lost with the connection. */
static void unordered_streams_overlap(void **state)
{
    struct fix *x = fix_live();

    (void)state;
    line(x, "RDATA backfill ep1 780 [\"$3\",\"!r\",\"t\",null,null,null]");
    feed_epoch_lost(x->f);
    feed_epoch_begin(x->f);
    buf_reset(&x->seen);
    line(x, "POSITION backfill ep1 780 780");
    expect(x, "fetch backfill ep1 100 780\n");
    answer(x, 780, "");
    buf_reset(&x->seen);
    feed_epoch_lost(x->f);
    feed_epoch_begin(x->f);
    buf_reset(&x->seen);
    line(x, "POSITION backfill ep1 780 780"); /* nothing came meanwhile */
    expect(x, "");
    fix_free(&x);
}

static void caches_are_open_to_all(void **state)
{
    struct fix *x = fix_new();

    (void)state;
    line(x, "POSITION caches sync1 100 100");
    expect(x, "");
    line(x, "RDATA caches sync1 101 [\"f\",[\"k\"],1]");
    expect(x, "caches -1 101 f/1\nend\n");
    line(x, "POSITION caches ep1 90 104"); /* has an id, no writer of caches by configuration */
    expect(x, "caches 2 104\nend\n");
    line(x, "POSITION caches sync2 120 130");
    expect(x, "fetch caches sync2 100 130\n");
    answer(x, 130, "105 [\"g\",null,1]\n106 [\"f\",[],1]");
    expect(x, "caches -2 105 g/all0\ncaches -2 106 f/0\ncaches -2 130\nend\n");
    assert_int_equal(feed_writer_id(x->f, STR("sync2")), WRITER_NONE);
    assert_false(feed_writer_known(-2));
    fix_free(&x);
}

static void caches_after_a_long_outage(void **state)
{
    struct fix *x = fix_new_quiet();

    (void)state;
    clock_fake_set(1000000);
    feed_epoch_begin(x->f);
    clock_fake_set(1000000 + 5000);
    feed_epoch_lost(x->f);
    clock_fake_set(1000000 + 6000);
    feed_epoch_begin(x->f);
    expect(x, "state disconnected\n");
    feed_epoch_lost(x->f);
    clock_fake_set(1000000 + 5000 + x->cfg.feed_outage_flush_ms + 1);
    feed_epoch_begin(x->f);
    expect(x, "flush caches\n");
    clock_fake_set(-1);
    fix_free(&x);
}

static void too_many_invalidations_missed(void **state)
{
    struct fix *x = fix_new();

    (void)state;
    line(x, "POSITION caches sync1 900000 900000");
    expect(x, "fetch caches sync1 100 900000\n");
    x->asked.v[0]->filled = FEED_CACHES_FILL_MAX;
    answer(x, 200, "150 [\"g\",null,1]");
    expect_has(x, "flush caches\ncaches -1 900000\nend\n");
    assert_true(logged("dropping everything cached"));
    fix_free(&x);
}

static void more_instances_than_remembered(void **state)
{
    struct fix *x = fix_new();
    char text[64];

    (void)state;
    for (int i = 0; i < FEED_CACHES_INSTANCES_MAX; i++) {
        snprintf(text, sizeof text, "POSITION caches pod%d 100 %d", i, 101 + i);
        line(x, text);
    }
    assert_false(seen_has(x, "flush"));
    buf_reset(&x->seen);
    line(x, "POSITION caches one-more 100 90000");
    expect(x, "flush caches\ncaches -20001 90000\nend\n");
    assert_int_equal(smap_count(&x->f->pairs[STREAM_CACHES]), 1);
    fix_free(&x);
}

static void what_is_not_for_us(void **state)
{
    static const struct {
        const char *text, *reason;
    } lines_[] = {
        {"RDATA events ep3 200 [\"ev\",[\"$a\",\"!r\",\"t\",null,null,null,null,false,false]]",
         "unknown_writer"},
        {"POSITION receipts ep1 200 200", "unknown_writer"},
        {"POSITION quarantine master 200 200", "unknown_stream"},
        {"RDATA new_stream master 200 [1]", "unknown_stream"},
        {"FROBNICATE x", "unknown_command"},
        {"POSITION events", "malformed"},
        {"RDATA account_data sync9 200 [\"@a\",null,\"t\"]", "own_name"},
        {"POSITION account_data sync9 200 200", "own_name"},
    };
    struct fix *x = fix_live();

    (void)state;
    for (size_t i = 0; i < sizeof lines_ / sizeof *lines_; i++) {
        int64_t n = metric_get_l(M_feed_bad, lines_[i].reason);

        print_message("%s\n", lines_[i].text);
        line(x, lines_[i].text);
        line(x, lines_[i].text);
        expect(x, "");
        assert_int_equal(metric_get_l(M_feed_bad, lines_[i].reason), n + 2);
    }
    assert_true(logged("names must be unique") && logged("not a configured writer of events: ep3"));
    lines(x, (const char *const[]){"POSITION federation master 5 5",
                                   "RDATA presence_federation master 5 [\"h\",\"@a\"]", "REPLICATE ",
                                   "USER_SYNC a b c start 1", "", NULL});
    expect(x, "");
    fix_free(&x);
}

/* While a gap cannot be filled, lines pile up; past the limit they become part of the gap. */
static void the_queue_has_a_limit(void **state)
{
    struct fix *x = fix_live();
    char text[128], want[128];

    (void)state;
    line(x, "POSITION account_data master 150 150");
    buf_reset(&x->seen);
    for (int i = 0; i < FEED_QUEUE_ITEMS_MAX + 10; i++) {
        snprintf(text, sizeof text, "RDATA account_data master %d [\"@a\",null,\"t\"]", 151 + i);
        line(x, text);
    }
    expect(x, "");
    answer(x, 150, "");
    snprintf(want, sizeof want, "account_data 1 150\nfetch account_data master 150 %d\nend\n",
             151 + FEED_QUEUE_ITEMS_MAX);
    expect(x, want);
    answer(x, 151 + FEED_QUEUE_ITEMS_MAX, "");
    expect_has(x, "\naccount_data 1 10160 @a\nend\n"); /* the nine that came after the overflow */
    fix_free(&x);
}

static void a_batch_has_a_limit(void **state)
{
    struct fix *x = fix_live();

    (void)state;
    for (int i = 0; i < FEED_PENDING_ROWS_MAX + 5; i++)
        feed_line(x->f, STR("RDATA account_data master batch [\"@a\",null,\"t\"]"));
    line(x, "RDATA account_data master 103 [\"@a\",null,\"t\"]");
    expect(x, "fetch account_data master 100 103\n");
    fix_free(&x);
}

static void live_waits_for_all_writers(void **state)
{
    struct fix *x = fix_new_quiet();
    char text[96];

    (void)state;
    x->f->t.live_wait_ms = 60000;
    feed_epoch_begin(x->f);
    x->f->handshake_done = true; /* without Redis nobody else does it */
    x->f->handshake_at_ms = clock_mono_ms();
    for (int s = 0; s < STREAM_COUNT; s++) {
        const struct config_writers *w = feed_writers_of(&x->cfg, (enum stream)s);

        for (size_t i = 0; w && i < w->count; i++) {
            assert_int_equal(feed_state(x->f), FEED_CONNECTING);
            if (s == STREAM_RECEIPTS && i == 1)
                continue; /* r2 lags behind */
            snprintf(text, sizeof text, "POSITION %s %.*s 0 %d", stream_name((enum stream)s),
                     STR_ARG(w->names[i]), s == STREAM_TYPING ? 0 : 100);
            line(x, text);
        }
    }
    buf_reset(&x->seen);
    line(x, "POSITION receipts r2 105 105");
    expect(x, "fetch receipts r2 100 105\n");
    answer(x, 105, "101 [\"!r\",\"m.read\",\"@a\",\"$e\",null,{}]");
    expect(x, "receipts 4 101 $e\nreceipts 4 105\nstate live\nend\n");
    feed_epoch_lost(x->f);
    expect(x, "state disconnected\n");
    feed_epoch_begin(x->f);
    x->f->handshake_done = true;
    x->f->handshake_at_ms = clock_mono_ms();
    turns(x, 30);
    expect(x, "");
    x->f->t.live_wait_ms = 30;
    until(x, feed_state(x->f) == FEED_LIVE); /* one that is away does not hold up everything */
    expect(x, "state live\n");
    assert_true(logged("have not been announced"));
    fix_free(&x);
}

static void lost_publishes_are_found(void **state)
{
    struct fix *x = fix_live();

    (void)state;
    log_forget();
    feed_positions_row(x->f, STR("account_data"), STR("master"), 100, false);
    feed_positions_row(x->f, STR("account_data"), STR("master"), 105, false);
    expect(x, ""); /* its RDATA may be on the way */
    line(x, "RDATA account_data master 105 [\"@a\",null,\"t\"]");
    expect(x, "account_data 1 105 @a\nend\n");
    feed_positions_row(x->f, STR("account_data"), STR("master"), 106, false);
    expect(x, "");
    assert_false(logged("never announced"));
    feed_positions_row(x->f, STR("account_data"), STR("master"), 108, false);
    expect(x, "fetch account_data master 105 108\n");
    assert_true(logged("never announced"));
    answer(x, 108, "");
    buf_reset(&x->seen);
    feed_positions_row(x->f, STR("backfill"), STR("ep1"), -130, true);
    expect(x, "fetch backfill ep1 100 130\n");
    feed_positions_row(x->f, STR("events"), STR("ep3"), 900, true);
    feed_positions_row(x->f, STR("nonsense"), STR("master"), 900, true);
    feed_positions_row(x->f, STR("quarantined_media"), STR("master"), 107, true);
    expect(x, "fetch quarantined_media master 100 107\n");
    fix_free(&x);
}

static void stream_positions_are_looked_at(void **state)
{
    struct fix *x = fix_new();

    (void)state;
    x->f->t.positions_every_ms = 20;
    turns(x, 60);
    assert_int_equal(x->looks, 0); /* not before the handshake */
    x->f->handshake_done = true;
    until(x, x->looks >= 2);
    assert_false(x->positions_at_once);
    x->f->t.positions_every_ms = 1000000;
    x->f->positions_at_ms = clock_mono_ms() - 2000;
    feed_positions_check(x->f);
    assert_true(x->positions_at_once);
    int looks = x->looks;
    feed_positions_check(x->f); /* once a second at most */
    assert_int_equal(x->looks, looks);
    fix_free(&x);
}

static void one_megabyte(void **state)
{
    enum { N = 1 << 20 };
    struct fix *x = fix_live();
    char *text = malloc(N + 128);

    (void)state;
    assert_non_null(text);
    int n = snprintf(text, N + 128, "RDATA typing master 8 [\"!r\",[\"");
    memset(text + n, 'u', N);
    memcpy(text + n + N, "\"]]", 4);
    line(x, text);
    expect(x, "typing 1 8 !r=1\nend\n");
    free(text);
    fix_free(&x);
}

int run_streams(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_of_two_writers),
        cmocka_unit_test(old_tokens),
        cmocka_unit_test(position_matrix),
        cmocka_unit_test(a_gap_is_filled_in_order),
        cmocka_unit_test(a_gap_within_a_gap),
        cmocka_unit_test(a_failed_fetch_is_tried_again),
        cmocka_unit_test(rows_that_cannot_be_read),
        cmocka_unit_test(reconnect_checks_every_pair),
        cmocka_unit_test(lost_during_a_fetch),
        cmocka_unit_test(unordered_streams_overlap),
        cmocka_unit_test(caches_are_open_to_all),
        cmocka_unit_test(caches_after_a_long_outage),
        cmocka_unit_test(too_many_invalidations_missed),
        cmocka_unit_test(more_instances_than_remembered),
        cmocka_unit_test(what_is_not_for_us),
        cmocka_unit_test(the_queue_has_a_limit),
        cmocka_unit_test(a_batch_has_a_limit),
        cmocka_unit_test(live_waits_for_all_writers),
        cmocka_unit_test(lost_publishes_are_found),
        cmocka_unit_test(stream_positions_are_looked_at),
        cmocka_unit_test(one_megabyte),
    };

    return cmocka_run_group_tests_name("streams", tests, NULL, NULL);
}
