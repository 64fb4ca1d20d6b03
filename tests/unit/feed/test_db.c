/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Start positions and catch-up on a real PostgreSQL: every statement of the feed, on tables that have the
 * columns they use. Row limits, ties, parts and windows are exercised with generated rows.
 */
#include "feed_test.h"

#include "support/pg_cluster.h"

#include <stdio.h>
#include <stdlib.h>

enum { PORT = 15320 };

static struct pg_cluster cluster;
static char conninfo[512];

static const char schema[] =
    "CREATE TABLE stream_positions (stream_name text, instance_name text, stream_id bigint);"
    "CREATE TABLE instance_map (instance_id serial PRIMARY KEY, instance_name text UNIQUE);"
    "CREATE TABLE events (stream_ordering bigint, event_id text, room_id text, type text, outlier boolean, "
    "instance_name text);"
    "CREATE TABLE state_events (event_id text, state_key text);"
    "CREATE TABLE redactions (event_id text, redacts text);"
    "CREATE TABLE event_relations (event_id text, relates_to_id text);"
    "CREATE TABLE room_memberships (event_id text, membership text);"
    "CREATE TABLE rejections (event_id text, reason text);"
    "CREATE TABLE current_state_delta_stream (stream_id bigint, room_id text, type text, state_key text, "
    "event_id text,"
    " instance_name text);"
    "CREATE TABLE ex_outlier_stream (event_stream_ordering bigint, event_id text, instance_name text);"
    "CREATE TABLE presence_stream (stream_id bigint, user_id text, state text, last_active_ts bigint,"
    " last_federation_update_ts bigint, last_user_sync_ts bigint, status_msg text, currently_active boolean);"
    "CREATE TABLE receipts_linearized (stream_id bigint, room_id text, receipt_type text, user_id text, "
    "event_id text,"
    " thread_id text, data text, instance_name text);"
    "CREATE TABLE account_data (user_id text, account_data_type text, stream_id bigint);"
    "CREATE TABLE room_account_data (user_id text, room_id text, account_data_type text, stream_id bigint);"
    "CREATE TABLE room_tags_revisions (user_id text, room_id text, stream_id bigint);"
    "CREATE TABLE push_rules_stream (stream_id bigint, user_id text);"
    "CREATE TABLE pushers (id bigint, user_name text, app_id text, pushkey text);"
    "CREATE TABLE deleted_pushers (stream_id bigint, user_id text, app_id text, pushkey text);"
    "CREATE TABLE device_inbox (user_id text, device_id text, stream_id bigint);"
    "CREATE TABLE device_federation_outbox (destination text, stream_id bigint);"
    "CREATE TABLE device_lists_stream (stream_id bigint, user_id text);"
    "CREATE TABLE user_signature_stream (stream_id bigint, from_user_id text);"
    "CREATE TABLE device_lists_outbound_pokes (stream_id bigint);"
    "CREATE TABLE device_lists_changes_in_room (stream_id bigint);"
    "CREATE TABLE device_lists_remote_pending (stream_id bigint);"
    "CREATE TABLE device_lists_changes_converted_stream_position (stream_id bigint);"
    "CREATE TABLE un_partial_stated_room_stream (stream_id bigint, room_id text, instance_name text);"
    "CREATE TABLE un_partial_stated_event_stream (stream_id bigint, event_id text, rejection_status_changed "
    "boolean,"
    " instance_name text);"
    "CREATE TABLE thread_subscriptions (stream_id bigint, user_id text, room_id text, event_id text);"
    "CREATE TABLE sticky_events (stream_id integer, room_id text, event_id text);"
    "CREATE TABLE cache_invalidation_stream_by_instance (stream_id bigint, instance_name text, cache_func "
    "text, keys text[],"
    " invalidation_ts bigint);";

static void config_db(struct config *cfg)
{
    cfg->db_main.conninfo = str_of(conninfo);
    cfg->db_main.masked = STR("test");
    cfg->pg_connections = 2;
    cfg->pg_queue_max = 1000;
}

static void sql_now(const char *text)
{
    const struct pg_result *r;
    struct config cfg;
    struct pg_sync *c;
    struct err e;

    fix_config(&cfg);
    config_db(&cfg);
    if (pg_sync_open(&c, &cfg, STR("main"), &e) != 0)
        fail_msg("%s", e.text);
    for (struct str rest = str_of(text), one; rest.n;) {
        char *z;

        str_cut(rest, ';', &one, &rest);
        z = xstrndup(one);
        if (pg_sync_exec(c, z, NULL, &r, &e) != 0)
            fail_msg("%s: %s", z, e.text);
        free(z);
    }
    pg_sync_close(&c);
}

static int group_setup(void **state)
{
    (void)state;
    sql_now(schema);
    return 0;
}

/* A feed on the database; with_pool: catch-up too. */
static struct fix *fix_db(bool with_pool)
{
    struct fix *x = fix_new_quiet();
    struct err e;

    config_db(&x->cfg);
    feed_pairs_free(x->f);
    for (int s = 0; s < STREAM_COUNT; s++) {
        smap_init(&x->f->pairs[s]);
        positions_free(&x->f->start[s]);
        x->f->start[s] = positions_new();
    }
    x->f->spare = NULL;
    feed_writers_free(x->f);
    smap_init(&x->f->writers);
    if (feed_load(x->f, &e) != 0)
        fail_msg("%s", e.text);
    if (with_pool) {
        assert_int_equal(pg_start(&x->f->pg, &x->loop, &x->cfg, &e), 0);
        x->f->source = &feed_source_real;
        feed_epoch_begin(x->f);
    }
    return x;
}

static void fix_db_free(struct fix *x)
{
    struct pg *pg = x->f->pg;

    feed_stop(&x->f);
    pg_stop(&pg);
    fix_free(&x);
}

/* The worked example C of the contract, and streams without a position, with foreign writers, or without a
 * table. */
static void start_positions(void **state)
{
    struct fix *x;
    struct mpos p;

    (void)state;
    sql_now(
        "INSERT INTO instance_map (instance_name) VALUES ('master'), ('ep1'), ('ep2');"
        "INSERT INTO stream_positions VALUES ('events', 'ep1', 100), ('events', 'ep2', 96), ('events', "
        "'gone', 3),"
        " ('backfill', 'ep1', -50), ('backfill', 'ep2', -40), ('account_data', 'master', 20);"
        "INSERT INTO events (stream_ordering, event_id, instance_name) VALUES (96, '$96', 'ep2'), (97, "
        "'$97', 'ep1'),"
        " (100, '$100', 'ep1'), (-41, '$-41', 'ep1'), (-50, '$-50', 'ep1'), (12, '$12', NULL);"
        "INSERT INTO current_state_delta_stream (stream_id, room_id, instance_name) VALUES (98, '!r', 'ep1');"
        "INSERT INTO receipts_linearized (stream_id) VALUES (7), (9);"
        "INSERT INTO room_tags_revisions VALUES ('@a', '!r', 21), ('@a', '!q', 23);"
        "INSERT INTO cache_invalidation_stream_by_instance VALUES (55, 'x', 'f', NULL, 1)");
    x = fix_db(false);
    p = positions_mpos(feed_start_positions(x->f, STREAM_EVENTS));
    assert_int_equal(p.min, 98);
    assert_int_equal(p.n, 1);
    assert_int_equal(mpos_get(&p, feed_writer_id(x->f, STR("ep1"))), 100);
    assert_int_equal(positions_persisted_upto(feed_start_positions(x->f, STREAM_BACKFILL)), 41);
    assert_int_equal(positions_persisted_upto(feed_start_positions(x->f, STREAM_RECEIPTS)), 9);
    assert_int_equal(positions_persisted_upto(feed_start_positions(x->f, STREAM_ACCOUNT_DATA)), 21);
    assert_int_equal(positions_persisted_upto(feed_start_positions(x->f, STREAM_PUSHERS)), 1);
    assert_int_equal(positions_persisted_upto(feed_start_positions(x->f, STREAM_CACHES)), 55);
    assert_int_equal(positions_persisted_upto(feed_start_positions(x->f, STREAM_TYPING)), 0);
    assert_false(x->f->present[STREAM_QUARANTINED_MEDIA]); /* an older schema */
    assert_null(smap_get(&x->f->pairs[STREAM_QUARANTINED_MEDIA], STR("master")));
    assert_int_equal(feed_pair_find(x->f, STREAM_EVENTS, STR("ep2"))->received, 98);
    assert_int_equal(feed_pair_find(x->f, STREAM_EVENTS, STR("ep1"))->received, 100);
    assert_null(feed_pair_find(x->f, STREAM_EVENTS, STR("gone")));
    /* r2 was configured and not in instance_map: it is now, and nothing was deleted */
    writer_id r2 = feed_writer_id(x->f, STR("r2"));
    assert_true(r2 > 0 && feed_writer_known(r2) && !feed_writer_known(r2 + 500));
    assert_int_equal(feed_master(), feed_writer_id(x->f, STR("master")));
    fix_db_free(x);
    x = fix_db(false);
    assert_int_equal(feed_writer_id(x->f, STR("r2")), r2);
    fix_db_free(x);
}

static void caught_up(struct fix *x, const char *text, const char *last, const char *seen)
{
    print_message("%s\n", text);
    buf_reset(&x->seen);
    line(x, text);
    until(x, seen_has(x, last));
    buf_putc(&x->seen, '\0');
    assert_string_equal(x->seen.p, seen);
}

static void every_stream(void **state)
{
    struct fix *x;

    (void)state;
    sql_now("TRUNCATE events, current_state_delta_stream, receipts_linearized, room_tags_revisions, "
            "stream_positions,"
            " cache_invalidation_stream_by_instance");
    x = fix_db(true);
    assert_int_equal(feed_writer_id(x->f, STR("ep1")), W_EP1);
    sql_now(
        "INSERT INTO events VALUES (11, '$a', '!r', 'm.room.member', false, 'ep1'), (12, '$b', '!r', 'm', "
        "false, 'ep2'),"
        " (14, '$c', '!r', 'm', false, 'ep1'), (3, '$out', '!r', 'm', false, 'ep1'), (-5, '$old', '!r', 'm', "
        "false, 'ep1'),"
        " (-6, '$older', '!r', 'm', false, 'ep1'), (-7, '$exo', '!r', 'm', false, 'ep1');"
        "INSERT INTO state_events VALUES ('$a', '@u'); INSERT INTO redactions VALUES ('$c', '$v');"
        "INSERT INTO event_relations VALUES ('$c', '$p'); INSERT INTO room_memberships VALUES ('$a', 'join');"
        "INSERT INTO rejections VALUES ('$c', 'why');"
        "INSERT INTO current_state_delta_stream VALUES (11, '!r', 'm.room.member', '@u', '$a', 'ep1'),"
        " (13, '!r', 'm.room.topic', '', NULL, 'ep1'), (13, '!r', 'm.other', '', NULL, 'ep2');"
        "INSERT INTO ex_outlier_stream VALUES (13, '$out', 'ep1'), (-8, '$exo', 'ep1')");
    /* ($out is also a live event: its ordering is not in the range) */
    smap_count(&x->f->pairs[STREAM_EVENTS]) ? (void)0 : fail();
    feed_pair_find(x->f, STREAM_EVENTS, STR("ep1"))->received = 10;
    caught_up(
        x, "POSITION events ep1 20 20", "events 2 20\n",
        "events 2 11 ev:$a state:m.room.member\nevents 2 13 state:m.room.topic ev:$out\nevents 2 14 ev:$c\n"
        "events 2 20\nend\n");
    caught_up(
        x, "POSITION backfill ep1 9 9", "backfill 2 9\n",
        "backfill 2 5 $old\nbackfill 2 6 $older\nbackfill 2 7 $exo\nbackfill 2 8 $exo\nbackfill 2 9\nend\n");
    sql_now(
        "INSERT INTO presence_stream VALUES (5, '@a', 'online', 1, 2, 3, NULL, true), (6, '@b', 'offline', "
        "1, 2, 3, 's', false);"
        "INSERT INTO receipts_linearized VALUES (5, '!r', 'm.read', '@a', '$e1', NULL, '{}', 'r2'),"
        " (6, '!r', 'm.read', '@a', '$e2', 'main', '{}', 'master');"
        "INSERT INTO account_data VALUES ('@a', 'm.direct', 5); INSERT INTO room_account_data VALUES ('@b', "
        "'!r', 'm.x', 7);"
        "INSERT INTO room_tags_revisions VALUES ('@c', '!r', 6);"
        "INSERT INTO push_rules_stream VALUES (5, '@a'), (5, '@b');"
        "INSERT INTO pushers VALUES (5, '@a', 'app', 'key'); INSERT INTO deleted_pushers VALUES (6, '@b', "
        "'app', 'key');"
        "INSERT INTO device_inbox VALUES ('@a', 'D', 5), ('@a', 'E', 7), ('@b', 'D', 6), ('@c', 'D', 15000);"
        "INSERT INTO device_lists_stream VALUES (5, '@a'); INSERT INTO user_signature_stream VALUES (6, "
        "'@b');"
        "INSERT INTO un_partial_stated_room_stream VALUES (5, '!r', 'master');"
        "INSERT INTO un_partial_stated_event_stream VALUES (5, '$e', true, 'master');"
        "INSERT INTO thread_subscriptions VALUES (5, '@a', '!r', '$root'); INSERT INTO sticky_events VALUES "
        "(5, '!r', '$s');"
        "INSERT INTO cache_invalidation_stream_by_instance VALUES (5, 's1', 'f', ARRAY['a', NULL], 1), (6, "
        "'s2', 'g', NULL, 1),"
        " (7, 's1', 'h', NULL, NULL), (8, 's1', 'i', '{}', 2)");
    caught_up(x, "POSITION presence master 8 8", "presence 1 8\n",
              "presence 1 5 @a\npresence 1 6 @b\npresence 1 8\nend\n");
    caught_up(x, "POSITION receipts r2 8 8", "receipts 4 8\n", "receipts 4 5 $e1\nreceipts 4 8\nend\n");
    caught_up(x, "POSITION account_data master 8 8", "account_data 1 8\n",
              "account_data 1 5 @a\naccount_data 1 6 @c\naccount_data 1 7 @b\naccount_data 1 8\nend\n");
    caught_up(x, "POSITION push_rules master 8 8", "push_rules 1 8\n",
              "push_rules 1 5 @a @b\npush_rules 1 8\nend\n");
    caught_up(x, "POSITION pushers master 8 8", "pushers 1 8\n",
              "pushers 1 5 @a\npushers 1 6 @b\npushers 1 8\nend\n");
    caught_up(x, "POSITION to_device master 16000 16000", "to_device 1 16000\n",
              "to_device 1 6 @b\nto_device 1 7 @a\nto_device 1 10001\nend\nto_device 1 15000 @c\nto_device 1 "
              "16000\nend\n");
    caught_up(x, "POSITION device_lists master 8 8", "device_lists 1 8\n",
              "device_lists 1 5 @a\ndevice_lists 1 6 @b\ndevice_lists 1 8\nend\n");
    caught_up(x, "POSITION un_partial_stated_room master 8 8", "un_partial_stated_room 1 8\n",
              "un_partial_stated_room 1 5 !r\nun_partial_stated_room 1 8\nend\n");
    caught_up(x, "POSITION un_partial_stated_event master 8 8", "un_partial_stated_event 1 8\n",
              "un_partial_stated_event 1 5 \nun_partial_stated_event 1 8\nend\n");
    caught_up(x, "POSITION thread_subscriptions master 8 8", "thread_subscriptions 1 8\n",
              "thread_subscriptions 1 5 @a\nthread_subscriptions 1 8\nend\n");
    caught_up(x, "POSITION sticky_events ep1 8 8", "sticky_events 2 8\n",
              "sticky_events 2 5 $s\nsticky_events 2 8\nend\n");
    caught_up(x, "POSITION caches s1 9 9", "caches -1 9\n",
              "caches -1 5 f/2\ncaches -1 7 h/all0\ncaches -1 8 i/0\ncaches -1 9\nend\n");
    fix_db_free(x);
}

/* More rows than one read takes, with a token that has many: nothing is cut, nothing is lost or repeated. */
static void long_gaps(void **state)
{
    struct fix *x;
    size_t events = 0, states = 0;

    (void)state;
    sql_now("TRUNCATE events, current_state_delta_stream, ex_outlier_stream, stream_positions");
    x = fix_db(true);
    sql_now(
        "INSERT INTO events SELECT i, '$' || i, '!r', 'm', false, 'ep1' FROM generate_series(2, 3500) AS i;"
        "INSERT INTO current_state_delta_stream SELECT 700, '!r', 'm.s', i::text, '$x', 'ep1' FROM "
        "generate_series(1, 2500) AS i;"
        "INSERT INTO current_state_delta_stream SELECT 690 + i, '!r', 'm.s', '', '$x', 'ep1' FROM "
        "generate_series(1, 3) AS i");
    line(x, "POSITION events ep1 4000 4000");
    until(x, seen_has(x, "events 2 4000\n"));
    for (size_t i = 0; i + 4 < x->seen.n; i++) {
        events += memcmp(x->seen.p + i, " ev:$", 5) == 0;
        states += memcmp(x->seen.p + i, " stat", 5) == 0;
    }
    assert_int_equal(events, 3499);
    assert_int_equal(states, 2503);
    assert_false(seen_has(x, "events 2 1\n"));
    fix_db_free(x);
}

static bool refreshed;

static void on_refreshed(void *arg)
{
    (void)arg;
    refreshed = true;
}

static void names_and_positions_at_run_time(void **state)
{
    struct fix *x;
    writer_id late;

    (void)state;
    sql_now(
        "TRUNCATE events, current_state_delta_stream, account_data, room_account_data, room_tags_revisions");
    x = fix_db(true);
    sql_now("INSERT INTO instance_map (instance_name) VALUES ('late')");
    assert_int_equal(feed_writer_id(x->f, STR("late")), WRITER_NONE);
    refreshed = false;
    feed_writer_refresh(x->f, on_refreshed, x->f);
    assert_false(refreshed);
    until(x, refreshed);
    late = feed_writer_id(x->f, STR("late"));
    assert_true(late > 0 && feed_writer_known(late));
    /* a position that nobody announced */
    sql_now("INSERT INTO stream_positions VALUES ('account_data', 'master', 12); INSERT INTO account_data "
            "VALUES ('@a', 't', 12)");
    x->f->handshake_done = true;
    x->f->positions_at_ms = clock_mono_ms() - 5000;
    feed_positions_check(x->f);
    until(x, seen_has(x, "account_data 1 12 @a\n"));
    /* the feed goes while statements are under way */
    feed_writer_refresh(x->f, on_refreshed, x->f);
    line(x, "POSITION account_data master 20 20");
    refreshed = false;
    fix_db_free(x);
    assert_false(refreshed);
}

static void unreachable(void **state)
{
    struct fix *x = fix_new_quiet();
    struct err e = {0};

    (void)state;
    x->cfg.db_main.conninfo = STR("host=/nonexistent user=x dbname=y");
    x->cfg.db_main.masked = STR("masked");
    assert_int_equal(feed_load(x->f, &e), -ERR_DB_DOWN);
    assert_non_null(strstr(e.text, "masked"));
    fix_free(&x);
}

int run_db(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(start_positions), cmocka_unit_test(every_stream),
        cmocka_unit_test(long_gaps),       cmocka_unit_test(names_and_positions_at_run_time),
        cmocka_unit_test(unreachable),
    };
    int failed;

    if (!pg_cluster_available())
        return -1;
    if (pg_cluster_init(&cluster, PORT) < 0 || pg_cluster_spawn(&cluster) < 0 ||
        pg_cluster_wait(&cluster) < 0) {
        fprintf(stderr, "the private cluster does not start: %s\n", cluster.dir);
        return 1;
    }
    snprintf(conninfo, sizeof conninfo, "host=%s port=%d user=chappe dbname=postgres", cluster.dir,
             cluster.port);
    failed = cmocka_run_group_tests_name("db", tests, group_setup, NULL);
    pg_cluster_remove(&cluster);
    return failed;
}
