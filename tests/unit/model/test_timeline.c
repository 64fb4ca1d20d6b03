/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Pages of timelines and their horizons. */
#include "test_model.h"

static struct mpos at(int64_t n)
{
    return mpos_of(n);
}

/* "105 104 103+" : the streams of a page, a plus when there is more. */
static const char *page(struct world *w, struct room *r, int64_t lo, int64_t hi, size_t n)
{
    struct tl_entry v[64];
    size_t count = 0;
    bool more = false;
    struct mpos l = at(lo), h = at(hi);
    char b[512] = "";
    assert_int_equal(await(w, model_page_stream(w->m, r, lo < 0 ? NULL : &l, &h, n, v, &count, &more)), HAVE);
    for (size_t i = 0; i < count; i++)
        snprintf(b + strlen(b), sizeof b - strlen(b), "%s%lld", i ? " " : "", (long long)v[i].stream);
    return world_text(w, "%s%s", b, more ? "+" : "");
}

static const char *topo_page(struct world *w, struct room *r, int64_t hi, size_t n)
{
    struct tl_entry v[64];
    size_t count = 0;
    bool more = false;
    struct mpos h = at(hi);
    char b[512] = "";
    assert_int_equal(await(w, model_page_topological(w->m, r, &h, false, 0, 0, n, v, &count, &more)), HAVE);
    for (size_t i = 0; i < count; i++)
        snprintf(b + strlen(b), sizeof b - strlen(b), "%s%lld/%lld", i ? " " : "",
                 (long long)v[i].topological, (long long)v[i].stream);
    return world_text(w, "%s%s", b, more ? "+" : "");
}

static void say(struct world *w, const char *room, int64_t stream, int writer)
{
    world_say(w, (struct t_event){.id = world_text(w, "$%lld%s", (long long)stream, room),
                                  .room = room,
                                  .stream = stream,
                                  .writer = writer});
    world_burst_end(w);
    world_settle(w);
}

static void put(struct world *w, const char *room, int64_t from, int64_t to)
{
    for (int64_t s = from; s <= to; s++)
        world_event(w, (struct t_event){
                           .id = world_text(w, "$%lld%s", (long long)s, room), .room = room, .stream = s});
}

static void test_live_only(void **state)
{
    struct world *w = *state;
    put(w, "!r:x", 90, 95);
    struct room *r = model_room(w->m, S("!r:x"));
    say(w, "!r:x", 101, MASTER);
    say(w, "!r:x", 102, MASTER);
    world_forget_counts(w);
    assert_string_equal(page(w, r, 100, 102, 10), "102 101");
    assert_string_equal(page(w, r, 101, 102, 10), "102");
    assert_string_equal(page(w, r, 100, 101, 10), "101");
    assert_string_equal(page(w, r, 100, 102, 1), "102+");
    assert_int_equal(world_issued(w), 0); /* all of it was absorbed */
}

static void test_loaded_and_live(void **state)
{
    struct world *w = *state;
    put(w, "!r:x", 60, 95);
    struct room *r = model_room(w->m, S("!r:x"));
    say(w, "!r:x", 101, MASTER);
    assert_string_equal(page(w, r, 93, 101, 10), "101 95 94");
    assert_string_equal(page(w, r, 50, 101, 4), "101 95 94 93+");
    assert_string_equal(page(w, r, 50, 62, 10), "62 61 60");
    assert_string_equal(page(w, r, -1, 61, 10), "61 60"); /* the beginning of the room */
    world_forget_counts(w);
    assert_string_equal(page(w, r, -1, 101, 3), "101 95 94+");
    assert_string_equal(page(w, r, -1, 60, 3), "60");
    assert_int_equal(world_issued(w), 0);
}

static void test_row_while_page_loads(void **state)
{
    struct world *w = *state;
    put(w, "!r:x", 80, 95);
    struct room *r = model_room(w->m, S("!r:x"));
    struct tl_entry v[8];
    size_t n;
    bool more;
    struct mpos lo = at(90), hi = at(101);
    w->held[SQL_page_stream] = true;
    assert_int_equal(model_page_stream(w->m, r, &lo, &hi, 8, v, &n, &more), LACK);
    world_settle(w);
    say(w, "!r:x", 101, MASTER);
    world_release(w, SQL_page_stream);
    assert_string_equal(page(w, r, 90, 101, 10), "101 95 94 93 92 91");
    w->fail[SQL_page_stream] = 1; /* a refused load leaves the horizon where it was */
    lo = at(10);
    assert_int_equal(model_page_stream(w->m, r, &lo, &hi, 64, v, &n, &more), LACK);
    world_settle(w);
    assert_string_equal(page(w, r, 10, 84, 10), "84 83 82 81 80");
}

static void test_readers_share_a_statement(void **state)
{
    struct world *w = *state;
    put(w, "!r:x", 50, 95);
    struct room *r = model_room(w->m, S("!r:x"));
    for (int i = 0; i < 1000; i++) {
        struct tl_entry v[64];
        size_t n;
        bool more;
        struct mpos lo = at(94 - i % 20), hi = at(100);
        assert_int_equal(model_page_stream(w->m, r, &lo, &hi, 40, v, &n, &more), LACK);
        assert_int_equal(model_room_state(w->m, r), LACK);
        assert_int_equal(model_event(w->m, model_rec(w->m, S("$50!r:x")), &(struct event *){NULL}), LACK);
    }
    world_settle(w);
    assert_int_equal(w->issued[SQL_page_stream], 1);
    assert_int_equal(w->issued[SQL_room_state], 1);
    assert_int_equal(w->issued[SQL_events_by_id], 1);
    assert_int_equal(world_issued(w), 3);
    struct mpos lo = at(75), hi = at(100); /* the largest of the wishes was asked for */
    struct tl_entry v[64];
    size_t n;
    bool more;
    assert_int_equal(model_page_stream(w->m, r, &lo, &hi, 40, v, &n, &more), HAVE);
    assert_int_equal(n, 20);
}

/* Writer 2 is behind: what it still publishes lies below what the room knows by position, and is not lost. */
static void test_lagging_writer(void **state)
{
    struct world *w = world_new_writers(120, 100);
    model_adopt(w->m, (struct feed *)(void *)w);
    world_settle(w);
    put(w, "!r:x", 90, 95);
    put(w, "!r:x", 115, 115);
    struct room *r = model_room(w->m, S("!r:x"));
    struct mpos lo = at(94), hi = *(&model_now(w->m)->room);
    assert_int_equal(hi.min, 100);
    assert_int_equal(mpos_get(&hi, MASTER), 120);
    struct tl_entry v[16];
    size_t n;
    bool more;
    assert_int_equal(await(w, model_page_stream(w->m, r, &lo, &hi, 10, v, &n, &more)), HAVE);
    assert_int_equal(n, 2);
    assert_int_equal(v[0].stream, 115);
    say(w, "!r:x", 105, W2);
    hi = model_now(w->m)->room;
    world_forget_counts(w);
    assert_int_equal(model_page_stream(w->m, r, &lo, &hi, 10, v, &n, &more), HAVE);
    assert_int_equal(n, 3);
    assert_int_equal(v[1].stream, 105);
    /* A reader who has seen writer 1 up to 120 gets only what writer 2 added. */
    struct mpos since = {.min = 100, .n = 1, .w = {{MASTER, 120}}};
    assert_true(model_room_changed(r, &since));
    assert_int_equal(model_page_stream(w->m, r, &since, &hi, 10, v, &n, &more), HAVE);
    assert_int_equal(n, 1);
    assert_int_equal(v[0].stream, 105);
    world_free(&w);
    (void)state;
}

static void test_lagging_writer_live_only(void **state)
{
    struct world *w = world_new_writers(120, 100);
    model_adopt(w->m, (struct feed *)(void *)w);
    world_settle(w);
    put(w, "!r:x", 110, 110);
    struct room *r = model_room(w->m, S("!r:x"));
    struct mpos since = model_now(w->m)->room;
    say(w, "!r:x", 105, W2);
    /* A topological page brings 110, which is below what the room absorbs by itself: not to be counted in a
     * stream page. */
    assert_string_equal(topo_page(w, r, 200, 5), "110/110 105/105");
    struct tl_entry v[16];
    size_t n;
    bool more;
    struct mpos hi = model_now(w->m)->room;
    assert_int_equal(model_page_stream(w->m, r, &since, &hi, 10, v, &n, &more), HAVE);
    assert_int_equal(n, 1);
    assert_int_equal(v[0].stream, 105);
    world_free(&w);
    (void)state;
}

static void test_trim_raises_horizon(void **state)
{
    struct world *w = *state;
    put(w, "!r:x", 60, 95);
    struct room *r = model_room(w->m, S("!r:x"));
    for (int64_t s = 101; s <= 130; s++)
        say(w, "!r:x", s, MASTER);
    assert_string_equal(page(w, r, 93, 130, 2), "130 129+");
    assert_string_equal(page(w, r, 93, 102, 9), "102 101 95 94");
    room_tl_trim(w->m, r, 5);
    assert_int_equal(r->tl.n, 5);
    world_forget_counts(w);
    assert_string_equal(page(w, r, 125, 130, 9), "130 129 128 127 126");
    assert_int_equal(world_issued(w), 0);
    assert_string_equal(page(w, r, 124, 130, 9), "130 129 128 127 126 125");
    assert_int_not_equal(w->issued[SQL_page_stream], 0);
    assert_string_equal(page(w, r, 93, 102, 9), "102 101 95 94");
    /* A room that never loaded anything */
    struct room *q = model_room(w->m, S("!q:x"));
    for (int64_t s = 140; s <= 145; s++)
        say(w, "!q:x", s, MASTER);
    room_tl_trim(w->m, q, 2);
    assert_string_equal(page(w, q, 143, 145, 9), "145 144");
    assert_string_equal(page(w, q, 130, 145, 9), "145 144 143 142 141 140");
    assert_true(model_room_changed(q, &(struct mpos){.min = 130}));
    assert_false(model_room_changed(q, &(struct mpos){.min = 145}));
}

static void test_topological(void **state)
{
    struct world *w = *state;
    for (int64_t s = 81; s <= 95; s++)
        world_event(
            w, (struct t_event){
                   .id = world_text(w, "$%lld", (long long)s), .room = "!r:x", .stream = s, .topo = s - 60});
    struct room *r = model_room(w->m, S("!r:x"));
    assert_string_equal(topo_page(w, r, 100, 3), "35/95 34/94 33/93+");
    world_say(w, (struct t_event){.id = "$live", .room = "!r:x", .stream = 101, .topo = 36});
    world_say(w, (struct t_event){.id = "$late",
                                  .room = "!r:x",
                                  .stream = 102,
                                  .topo = 34}); /* a fork: deeper than the newest */
    world_say(w, (struct t_event){.id = "$deep", .room = "!r:x", .stream = 103, .topo = 2});
    world_burst_end(w);
    world_settle(w);
    world_forget_counts(w);
    assert_string_equal(topo_page(w, r, 103, 4), "36/101 35/95 34/102 34/94+");
    assert_string_equal(topo_page(w, r, 101, 3),
                        "36/101 35/95 34/94+"); /* as it was at an earlier position */
    assert_int_equal(world_issued(w), 0);
    assert_string_equal(topo_page(w, r, 103, 40), "36/101 35/95 34/102 34/94 33/93 32/92 31/91 30/90 29/89 "
                                                  "28/88 27/87 26/86 25/85 24/84 23/83 22/82 21/81 2/103");
}

/* Backfilled events may be anywhere in depth: a page that was read before they were there is not believed. */
static void test_backfill_while_topological_page_loads(void **state)
{
    struct world *w = *state;
    put(w, "!r:x", 90, 92);
    struct room *r = model_room(w->m, S("!r:x"));
    struct tl_entry v[8];
    size_t n;
    bool more;
    struct mpos hi = at(100);
    w->held[SQL_page_topological] = true;
    assert_int_equal(model_page_topological(w->m, r, &hi, false, 0, 0, 8, v, &n, &more), LACK);
    world_settle(w);
    world_event(w, (struct t_event){.id = "$old", .room = "!r:x", .stream = -5, .topo = 91});
    struct feed_row row = {
        .backfill = {.event_id = STR("$old"), .room_id = STR("!r:x"), .type = STR("m.room.message")}};
    world_send(w, STREAM_BACKFILL, MASTER, 105, &row);
    world_burst_end(w);
    world_release(w, SQL_page_topological);
    assert_string_equal(topo_page(w, r, 100, 8), "92/92 91/91 91/-5 90/90");
    put(w, "!r:x", 93, 93);
}

static void test_last_event(void **state)
{
    struct world *w = *state;
    put(w, "!r:x", 10, 95);
    world_event(w, (struct t_event){.id = "$bad", .room = "!r:x", .stream = 96, .rejected = "auth"});
    struct room *r = model_room(w->m, S("!r:x"));
    struct tl_entry e;
    struct mpos p = at(100);
    assert_int_equal(await(w, model_last_event(w->m, r, &p, &e)), HAVE);
    assert_int_equal(e.stream, 95); /* the rejected one does not count */
    p = at(20);
    world_forget_counts(w);
    assert_int_equal(await(w, model_last_event(w->m, r, &p, &e)), HAVE);
    assert_int_equal(e.stream, 20);
    assert_true(w->issued[SQL_page_stream] < 6); /* not a dozen rows at a time */
    p = at(9);
    assert_int_equal(await(w, model_last_event(w->m, r, &p, &e)), ABSENT);
}

/* Many newer events of a writer that the position does not cover: the one that counts lies behind them. */
static void test_last_event_behind_a_lagging_writer(void **state)
{
    struct world *w = world_new_writers(200, 200);
    model_adopt(w->m, (struct feed *)(void *)w);
    world_settle(w);
    put(w, "!r:x", 90, 95);
    for (int64_t s = 111; s <= 140; s++)
        world_event(w, (struct t_event){
                           .id = world_text(w, "$%d", (int)s), .room = "!r:x", .stream = s, .writer = W2});
    struct room *r = model_room(w->m, S("!r:x"));
    struct mpos p = {.min = 100, .n = 1, .w = {{MASTER, 150}}};
    struct tl_entry e;
    assert_int_equal(await(w, model_last_event(w->m, r, &p, &e)), HAVE);
    assert_int_equal(e.stream, 95);
    world_free(&w);
    (void)state;
}

static void test_gaps(void **state)
{
    struct world *w = *state;
    put(w, "!r:x", 90, 95);
    world_add(&w->gaps, "!r:x", 92);
    struct room *r = model_room(w->m, S("!r:x"));
    int64_t gap;
    struct mpos hi = at(100);
    assert_int_equal(await(w, model_gap(w->m, r, 90, &hi, &gap)), HAVE);
    assert_int_equal(gap, 92);
    assert_int_equal(model_gap(w->m, r, 92, &hi, &gap), ABSENT);
    assert_int_equal(model_gap(w->m, r, 80, &(struct mpos){.min = 91}, &gap), ABSENT);
    world_add(&w->gaps, "!r:x", 101);
    say(w, "!r:x", 101, MASTER);
    hi = at(101);
    assert_int_equal(model_gap(w->m, r, 92, &hi, &gap), HAVE);
    assert_int_equal(gap, 101);
}

static void test_purge(void **state)
{
    struct world *w = *state;
    put(w, "!r:x", 90, 95);
    struct room *r = model_room(w->m, S("!r:x"));
    assert_string_equal(page(w, r, 89, 100, 10), "95 94 93 92 91 90");
    w->events.n = 1; /* only the first one is left */
    struct str keys[] = {STR("!r:x")};
    struct feed_row row = {.cache = {.func = STR("ph_cache_fake"), .keys = keys, .keys_count = 1}};
    world_send(w, STREAM_CACHES, MASTER, 105, &row);
    world_burst_end(w);
    assert_string_equal(page(w, r, 89, 100, 10), "90");
}

int run_timeline_tests(void)
{
    const struct CMUnitTest tests[] = {
        T(test_live_only),
        T(test_loaded_and_live),
        T(test_row_while_page_loads),
        T(test_readers_share_a_statement),
        cmocka_unit_test(test_lagging_writer),
        cmocka_unit_test(test_lagging_writer_live_only),
        T(test_trim_raises_horizon),
        T(test_topological),
        T(test_backfill_while_topological_page_loads),
        T(test_last_event),
        cmocka_unit_test(test_last_event_behind_a_lagging_writer),
        T(test_gaps),
        T(test_purge),
    };
    return cmocka_run_group_tests_name("timeline", tests, NULL, NULL);
}
