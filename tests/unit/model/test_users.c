/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* What belongs to users and devices: memberships, account data, unread counts, messages, keys, device lists,
 * presence. */
#include "test_model.h"

static void feed(struct world *w, enum stream s, int writer, int64_t token, struct feed_row row)
{
    world_send(w, s, writer, token, &row);
    world_burst_end(w);
    world_settle(w);
}

static void cache(struct world *w, const char *func, const char *k0, const char *k1)
{
    struct str keys[2] = {str_of(k0), str_of(k1)};
    feed(w, STREAM_CACHES, MASTER, 105,
         (struct feed_row){.cache = {.func = S(func),
                                     .keys = keys,
                                     .keys_count = k1   ? 2
                                                   : k0 ? 1
                                                        : 0,
                                     .all = !k0}});
}

/* ---- a row while a load is under way: what was read is not believed ---- */

static void test_state_row_while_state_loads(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@a:x", "@b:x", NULL);
    struct room *r = model_room(w->m, S("!r:x"));
    w->held[SQL_room_state] = true;
    assert_int_equal(model_room_state(w->m, r), LACK);
    world_settle(w);
    world_say(w, (struct t_event){.id = "$bye",
                                  .room = "!r:x",
                                  .type = "m.room.member",
                                  .key = "@b:x",
                                  .stream = 101,
                                  .content = "{\"membership\":\"leave\"}"});
    world_burst_end(w);
    world_settle(w);
    world_release(w, SQL_room_state);
    assert_int_equal(r->state_load, LOAD_NONE);
    assert_int_equal(await(w, model_room_state(w->m, r)), HAVE);
    assert_int_equal(r->joined_count, 1);
    assert_int_equal(room_member_get(r, S("@b:x"))->membership, MEMBERSHIP_LEAVE);
}

static void test_rooms_row_while_rooms_load(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@a:x", "@b:x", NULL);
    struct user *u = model_user(w->m, S("@b:x"));
    w->held[SQL_rooms_of_users] = true;
    assert_int_equal(model_user_rooms(w->m, u), LACK);
    world_settle(w);
    world_say(w, (struct t_event){.id = "$bye",
                                  .room = "!r:x",
                                  .type = "m.room.member",
                                  .key = "@b:x",
                                  .stream = 101,
                                  .content = "{\"membership\":\"leave\"}"});
    world_burst_end(w);
    world_settle(w);
    world_release(w, SQL_rooms_of_users);
    assert_int_equal(model_user_rooms(w->m, u), LACK);
    assert_int_equal(await(w, model_user_rooms(w->m, u)), HAVE);
    struct membership_row *row = kmap_get(&u->rooms, S("!r:x"));
    assert_int_equal(row->membership, MEMBERSHIP_LEAVE);
    /* The room's whole state changed while a second load is under way. */
    user_rooms_drop(w->m, u);
    w->held[SQL_rooms_of_users] = true;
    assert_int_equal(model_user_rooms(w->m, u), LACK);
    world_settle(w);
    w->members.n = 0;
    struct feed_row all = {.ev = {.kind = EV_ROW_STATE_ALL, .room_id = STR("!r:x")}};
    feed(w, STREAM_EVENTS, MASTER, 102, all);
    world_release(w, SQL_rooms_of_users);
    assert_int_equal(await(w, model_user_rooms(w->m, u)), HAVE);
    assert_int_equal(kmap_count(&u->rooms), 0);
}

static void test_account_data(void **state)
{
    struct world *w = *state;
    world_add(&w->data, "@a:x", NULL, "m.direct", "{ \"b\" : \"\xc3\xa9\" }", 50);
    world_add(&w->data, "@a:x", NULL, "odd", "[]", 51);
    world_add(&w->data, "@a:x", "!r:x", "m.fully_read", "{\"event_id\":\"$1\"}", 52);
    struct user *u = model_user(w->m, S("@a:x"));
    assert_int_equal(await(w, model_account_data(w->m, u)), HAVE);
    struct account_datum *d = smap_get(&u->more->account_data, S("m.direct"));
    assert_str(d->content, "{\"b\":\"\\u00e9\"}");
    assert_null(smap_get(&u->more->account_data, S("odd")));
    assert_int_equal(smap_count(&u->more->room_account_data), 1);
    /* while a load is under way */
    world_add(&w->data, "@a:x", NULL, "m.direct", "{\"v\":1}", 101);
    feed(w, STREAM_ACCOUNT_DATA, MASTER, 101,
         (struct feed_row){.account_data = {.user_id = STR("@a:x"), .type = STR("m.direct")}});
    w->held[SQL_account_data_of_users] = true;
    assert_int_equal(model_account_data(w->m, u), LACK);
    world_settle(w);
    w->data.v[w->data.n - 1].content = "{\"v\":2}";
    w->data.v[w->data.n - 1].stream = 102;
    feed(w, STREAM_ACCOUNT_DATA, MASTER, 102,
         (struct feed_row){.account_data = {.user_id = STR("@a:x"), .type = STR("m.direct")}});
    world_release(w, SQL_account_data_of_users);
    assert_int_equal(model_account_data(w->m, u), LACK);
    assert_int_equal(await(w, model_account_data(w->m, u)), HAVE);
    d = smap_get(&u->more->account_data, S("m.direct"));
    assert_str(d->content, "{\"v\":2}");
}

/* Two writes at once: the one with the higher number is committed, and read, first. */
static void test_account_data_out_of_order(void **state)
{
    struct world *w = *state;
    struct user *u = model_user(w->m, S("@a:x"));
    world_add(&w->data, "@a:x", NULL, "second", "{}", 102);
    assert_int_equal(await(w, model_account_data(w->m, u)), HAVE);
    world_add(&w->data, "@a:x", NULL, "first", "{}", 101);
    feed(w, STREAM_ACCOUNT_DATA, MASTER, 101,
         (struct feed_row){.account_data = {.user_id = STR("@a:x"), .type = STR("first")}});
    assert_int_equal(await(w, model_account_data(w->m, u)), HAVE);
    assert_non_null(smap_get(&u->more->account_data, S("first")));
}

static void test_tags_push_rules_ignored(void **state)
{
    struct world *w = *state;
    struct user *u = model_user(w->m, S("@a:x"));
    world_add(&w->tags, "@a:x", "!r:x", "m.favourite", "{\"order\":0.5}", 50);
    world_add(&w->tags, "@a:x", "!r:x", "u.work", "{}", 50);
    world_add(&w->tags, "@a:x", "!q:x", NULL, NULL, 60);
    world_add(&w->ignored, "@a:x", "@evil:y", 0);
    world_add(&w->rules_stream, "@a:x", NULL, 70);
    assert_int_equal(await(w, model_tags(w->m, u)), HAVE);
    struct room_tags *t = smap_get(&u->more->tags, S("!r:x"));
    assert_str(t->content, "{\"tags\":{\"m.favourite\":{\"order\":0.5},\"u.work\":{}}}");
    t = smap_get(&u->more->tags, S("!q:x"));
    assert_false(t->any);
    assert_str(t->content, "{\"tags\":{}}");
    assert_int_equal(await(w, model_ignored(w->m, u)), HAVE);
    assert_non_null(smap_get(&u->more->ignored, S("@evil:y")));
    assert_int_equal(await(w, model_push_rules(w->m, u)), HAVE);
    assert_int_equal(u->more->push_rules_stream, 70);
    w->ignored.n = 0;
    feed(w, STREAM_ACCOUNT_DATA, MASTER, 101,
         (struct feed_row){.account_data = {.user_id = STR("@a:x"), .type = STR("m.ignored_user_list")}});
    assert_int_equal(model_tags(w->m, u), HAVE);
    assert_int_equal(await(w, model_ignored(w->m, u)), HAVE);
    assert_null(smap_get(&u->more->ignored, S("@evil:y")));
}

static void want_all(struct world *w, struct user *u)
{
    assert_int_equal(await(w, model_account_data(w->m, u)), HAVE);
    assert_int_equal(await(w, model_tags(w->m, u)), HAVE);
    assert_int_equal(await(w, model_ignored(w->m, u)), HAVE);
    assert_int_equal(await(w, model_full_presence(w->m, u)), HAVE);
    assert_int_equal(await(w, model_push_rules(w->m, u)), HAVE);
    assert_non_null(u->more->push_rules);
}

/* A user of whom nothing is stored, and who waits, has no room for it; what is stored stays. */
static void test_only_what_there_is(void **state)
{
    struct world *w = *state;
    struct user *u = model_user(w->m, S("@a:x"));
    assert_ptr_equal(u->more, &user_more_none);
    for (int round = 0; round < 2; round++) {
        model_user_pin(w->m, u);
        want_all(w, u);
        model_user_unpin(w->m, u);
        assert_ptr_equal(u->more, &user_more_none);
        assert_int_equal(model_account_data(w->m, u), HAVE);
        assert_int_equal(smap_count(&u->more->account_data), 0);
    }
    world_add(&w->ignored, "@a:x", "@evil:y", 0);
    feed(w, STREAM_ACCOUNT_DATA, MASTER, 101,
         (struct feed_row){.account_data = {.user_id = STR("@a:x"), .type = STR("m.ignored_user_list")}});
    model_user_pin(w->m, u);
    want_all(w, u);
    model_user_unpin(w->m, u);
    assert_null(u->more->push_rules);
    assert_non_null(smap_get(&u->more->ignored, S("@evil:y")));
}

/* ---- unread counts ---- */

static int64_t notify(struct world *w, struct user *u, struct room *r, const char *thread, int64_t *highlight)
{
    struct unread *un;
    assert_int_equal(await(w, model_unread(w->m, u, r, &un)), HAVE);
    for (size_t i = 0; i < un->threads.n; i++) {
        if (str_eq(un->threads.v[i].thread_id, S(thread))) {
            *highlight = un->threads.v[i].highlight;
            return un->threads.v[i].notify;
        }
    }
    *highlight = 0;
    return 0;
}

static void test_unread(void **state)
{
    struct world *w = *state;
    struct user *u = model_user(w->m, S("@a:x"));
    struct room *r = model_room(w->m, S("!r:x"));
    int64_t hl;
    /* base 50; "main": 3 summarised, 2 newer of which one (102) is not absorbed yet; a thread read up to 90
     */
    world_add(&w->unread, 0, "@a:x", "!r:x", NULL, {50}, NULL);
    world_add(&w->unread, 1, "@a:x", "!r:x", "$root", {90}, NULL);
    world_add(&w->unread, 2, "@a:x", "!r:x", "main", {3, 3}, NULL);
    world_add(&w->unread, 3, "@a:x", "!r:x", "main", {1, 9, 9, 2, 2}, "102");
    world_add(&w->unread, 3, "@a:x", "!r:x", "$root", {0, 1, 1, 0, 0}, NULL);
    assert_int_equal(notify(w, u, r, "main", &hl), 5);
    assert_int_equal(hl, 1);
    assert_int_equal(notify(w, u, r, "$root", &hl), 1);
    world_add(&w->actions, "@a:x", "!r:x", "main", 101, true, true, true);
    world_add(&w->actions, "@a:x", "!r:x", "main", 102, true, false, true);
    world_add(&w->actions, "@a:x", "!r:x", NULL, 103, true, false, true);
    world_add(&w->actions, "@a:x", "!r:x", "$root", 103, true, false, true);
    world_add(&w->actions, "@b:x", "!r:x", "main", 103, true, true, true);
    for (int64_t s = 101; s <= 103; s++)
        world_say(w, (struct t_event){.id = world_text(w, "$%d", (int)s), .room = "!r:x", .stream = s});
    world_burst_end(w);
    world_settle(w);
    world_forget_counts(w);
    assert_int_equal(notify(w, u, r, "main", &hl), 7); /* 102 was counted by the load */
    assert_int_equal(hl, 2);
    assert_int_equal(notify(w, u, r, "$root", &hl), 2);
    assert_int_equal(world_issued(w), 0);
    /* own receipt, a redaction, a membership change: read again */
    feed(w, STREAM_RECEIPTS, MASTER, 101,
         (struct feed_row){.receipt = {.room_id = STR("!r:x"),
                                       .receipt_type = STR("m.read"),
                                       .user_id = STR("@a:x"),
                                       .event_id = STR("$102"),
                                       .data = STR("{}")}});
    w->unread.n = 0;
    assert_int_equal(notify(w, u, r, "main", &hl), 0);
    assert_int_equal(w->issued[SQL_unread_of_users], 1);
    world_say(
        w, (struct t_event){
               .id = "$red", .room = "!r:x", .type = "m.room.redaction", .redacts = "$101", .stream = 104});
    world_burst_end(w);
    world_settle(w);
    (void)notify(w, u, r, "main", &hl);
    assert_int_equal(w->issued[SQL_unread_of_users], 2);
}

/* A sum from before the first receipt is too high until Synapse sums up anew: read again with each event, and
 * kept once it is right. */
static void test_unread_of_an_old_sum(void **state)
{
    struct world *w = *state;
    struct user *u = model_user(w->m, S("@a:x"));
    struct room *r = model_room(w->m, S("!r:x"));
    int64_t hl;
    world_add(&w->unread, 0, "@a:x", "!r:x", NULL, {50}, NULL);
    world_add(&w->unread, 2, "@a:x", "!r:x", "main", {6, 6, 1}, NULL);
    assert_int_equal(notify(w, u, r, "main", &hl), 6);
    w->unread.n = 1;
    world_add(&w->unread, 2, "@a:x", "!r:x", "main", {3, 3, 0}, NULL);
    world_forget_counts(w);
    assert_int_equal(notify(w, u, r, "main", &hl), 6); /* nothing has happened in the room */
    assert_int_equal(world_issued(w), 0);
    for (int64_t s = 101; s <= 102; s++) {
        world_add(&w->actions, "@a:x", "!r:x", "main", s, true, false, true);
        if (s == 101) /* the load counts it */
            world_add(&w->unread, 3, "@a:x", "!r:x", "main", {0, 1, 1, 1, 1}, NULL);
        world_say(w, (struct t_event){.id = world_text(w, "$%d", (int)s), .room = "!r:x", .stream = s});
        world_burst_end(w);
        world_settle(w);
        assert_int_equal(notify(w, u, r, "main", &hl), 3 + s - 100);
        assert_int_equal(w->issued[SQL_unread_of_users], 1); /* the second event is added to what is right */
    }
}

static void test_unread_while_loading(void **state)
{
    struct world *w = *state;
    struct user *u = model_user(w->m, S("@a:x"));
    struct room *r = model_room(w->m, S("!r:x"));
    struct unread *un;
    int64_t hl;
    w->held[SQL_unread_of_users] = true;
    assert_int_equal(model_unread(w->m, u, r, &un), LACK);
    world_settle(w);
    world_add(&w->actions, "@a:x", "!r:x", "main", 101, true, false, true);
    world_say(w, (struct t_event){.id = "$1", .room = "!r:x", .stream = 101});
    world_burst_end(w);
    world_settle(w);
    world_add(&w->unread, 3, "@a:x", "!r:x", "main", {0, 1, 1, 0, 0}, NULL);
    world_release(w, SQL_unread_of_users);
    assert_int_equal(model_unread(w->m, u, r, &un), LACK);
    assert_int_equal(notify(w, u, r, "main", &hl), 1);
}

/* ---- devices ---- */

static void inbox(struct world *w, int64_t from, int64_t to)
{
    for (int64_t s = from; s <= to; s++)
        world_add(&w->inbox, "@a:x", "D", world_text(w, "{\"n\":%lld}", (long long)s), s);
}

static void test_to_device_pages(void **state)
{
    struct world *w = *state;
    struct user *u = model_user(w->m, S("@a:x"));
    struct device *d = model_device(w->m, u, S("D"));
    inbox(w, 1, 99);
    world_add(&w->inbox, "@a:x", "OTHER", "{}", 5);
    inbox(w, 101, 160);
    feed(w, STREAM_TO_DEVICE, MASTER, 160, (struct feed_row){.user = {STR("@a:x")}});
    assert_int_equal(await(w, model_to_device(w->m, d, 0)), HAVE);
    assert_int_equal(d->td.n, 100);
    assert_int_equal(d->td_hi, 101);
    int64_t after = d->td.v[99].stream;
    model_to_device_ack(w->m, d, after);
    world_tick(w);
    assert_int_equal(w->inbox.n, 60); /* 59 of D, one of the other device */
    assert_int_equal(await(w, model_to_device(w->m, d, after)), HAVE);
    assert_int_equal(d->td.n, 59);
    world_forget_counts(w);
    model_to_device_ack(w->m, d, 160);
    model_to_device_ack(w->m, d, 160);
    world_tick(w);
    assert_int_equal(w->issued[SQL_to_device_delete], 1);
    assert_int_equal(w->inbox.n, 1);
    model_to_device_ack(w->m, d, 170); /* nothing can be there: no statement */
    world_tick(w);
    assert_int_equal(w->issued[SQL_to_device_delete], 1);
    assert_int_equal(model_to_device(w->m, d, 160), HAVE);
    /* a message while a page is being read */
    inbox(w, 171, 171);
    feed(w, STREAM_TO_DEVICE, MASTER, 171, (struct feed_row){.user = {STR("@a:x")}});
    w->held[SQL_to_device_of_devices] = true;
    assert_int_equal(model_to_device(w->m, d, 160), LACK);
    world_settle(w);
    inbox(w, 172, 172);
    feed(w, STREAM_TO_DEVICE, MASTER, 172, (struct feed_row){.user = {STR("@a:x")}});
    world_release(w, SQL_to_device_of_devices);
    assert_int_equal(model_to_device(w->m, d, 160), LACK);
    assert_int_equal(await(w, model_to_device(w->m, d, 160)), HAVE);
    assert_int_equal(d->td.n, 2);
    /* a refused deletion is repeated by the next acknowledgement */
    world_forget_counts(w);
    w->fail[SQL_to_device_delete] = 1;
    model_to_device_ack(w->m, d, 172);
    world_tick(w);
    model_to_device_ack(w->m, d, 172);
    world_tick(w);
    assert_int_equal(w->issued[SQL_to_device_delete], 2);
}

static void test_keys(void **state)
{
    struct world *w = *state;
    struct user *u = model_user(w->m, S("@a:x"));
    struct device *d = model_device(w->m, u, S("D")), *e = model_device(w->m, u, S("E"));
    world_add(&w->keys, 0, "@a:x", "D", "signed_curve25519", 49);
    world_add(&w->keys, 1, "@a:x", "D", "signed_curve25519", 0);
    assert_int_equal(model_device_keys(w->m, e), LACK);
    assert_int_equal(await(w, model_device_keys(w->m, d)), HAVE);
    assert_int_equal(model_device_keys(w->m, e), HAVE);
    assert_int_equal(w->issued[SQL_keys_of_devices], 1);
    assert_str(blob_str(d->otk_json), "{\"signed_curve25519\":49}");
    assert_str(blob_str(d->fallback_json), "[\"signed_curve25519\"]");
    assert_str(blob_str(e->otk_json), "{\"signed_curve25519\":0}");
    assert_str(blob_str(e->fallback_json), "[]");
    cache(w, "count_e2e_one_time_keys", "@a:x", "D");
    assert_int_equal(model_device_keys(w->m, e), HAVE);
    w->held[SQL_keys_of_devices] = true;
    assert_int_equal(model_device_keys(w->m, d), LACK);
    world_settle(w);
    w->keys.n = 0;
    cache(w, "get_e2e_unused_fallback_key_types", "@a:x", "D"); /* while they are read */
    world_release(w, SQL_keys_of_devices);
    assert_int_equal(model_device_keys(w->m, d), LACK);
    assert_int_equal(await(w, model_device_keys(w->m, d)), HAVE);
    assert_str(blob_str(d->otk_json), "{\"signed_curve25519\":0}");
}

static struct feed_row dl(const char *user, bool signature)
{
    return (struct feed_row){.device_list = {.user_id = S(user), .is_signature = signature}};
}
static void on_dl(void *arg, const struct device_list_row *row)
{
    char *b = arg;
    snprintf(b + strlen(b), 200, "%.*s/%.*s@%d ", STR_ARG(row->user_id), STR_ARG(row->room_id),
             (int)row->stream);
}
static const char *changed(struct world *w, struct user *u, int64_t lo)
{
    char *b = arena_alloc(w->text, 4096);
    struct mpos l = mpos_of(lo), h = model_now(w->m)->device_list;
    assert_int_equal(await(w, (*b = 0, model_device_list_rows(w->m, u, &l, &h, on_dl, b))), HAVE);
    return b;
}

static void test_device_lists(void **state)
{
    struct world *w = *state;
    struct user *u = model_user(w->m, S("@a:x"));
    model_user_pin(w->m, u);
    world_add(&w->dl, 0, "@a:x", "@b:x", "!r:x", 101, MASTER);
    w->held[SQL_device_list_rows] = true;
    struct feed_row row = dl("@b:x", false);
    world_send(w, STREAM_DEVICE_LISTS, MASTER, 101, &row);
    world_burst_end(w);
    world_settle(w);
    assert_int_equal(model_now(w->m)->device_list.min, 100); /* not before the rooms are known */
    world_release(w, SQL_device_list_rows);
    assert_int_equal(model_now(w->m)->device_list.min, 101);
    assert_string_equal(changed(w, u, 100), "@b:x/!r:x@101 "); /* the row without a room is for @b:x itself */
    assert_string_equal(changed(w, u, 101), "");
    /* the user's own row, with no room to hear of it through */
    w->woken.n = 0;
    w->held[SQL_signatures_since] = true;
    row = dl("@a:x", false);
    world_send(w, STREAM_DEVICE_LISTS, MASTER, 102, &row);
    world_burst_end(w);
    world_settle(w);
    world_burst_end(w);
    w->woken.n = 0; /* whoever was woken by now found nothing */
    world_release(w, SQL_signatures_since);
    assert_true(world_woken(w, "@a:x"));
    assert_string_equal(changed(w, u, 101), "@a:x/@102 ");
    /* a refused part delays, and loses nothing, whichever answer comes first */
    for (int i = 0; i < 4; i++) {
        enum pg_stmt s = i & 1 ? SQL_signatures_since : SQL_device_list_rows;
        w->reversed = i & 2;
        w->fail[s] = 1;
        world_add(&w->dl, 2, "@a:x", "@c:x", NULL, 103 + i, MASTER);
        row = dl("@a:x", true);
        world_send(w, STREAM_DEVICE_LISTS, MASTER, 103 + i, &row);
        world_burst_end(w);
        world_settle(w);
        assert_int_equal(model_now(w->m)->device_list.min, 102 + i);
        world_tick(w);
        assert_int_equal(model_now(w->m)->device_list.min, 103 + i);
        assert_non_null(strstr(changed(w, u, 102 + i), "@c:x/@a:x@"));
    }
    /* before the process started: from the database */
    world_add(&w->dl, 0, "@a:x", "@old:x", "!r:x", 90, MASTER);
    assert_non_null(strstr(changed(w, u, 80), "@old:x/!r:x@90 "));
    w->m->dl_pruned = 95;
    struct mpos l = mpos_of(80), h = model_now(w->m)->device_list;
    char b[4096] = "";
    assert_int_equal(model_device_list_rows(w->m, u, &l, &h, on_dl, b), ABSENT);
    model_user_unpin(w->m, u);
}

static void test_device_lists_lagging_writer(void **state)
{
    struct world *w = *state;
    struct user *u = model_user(w->m, S("@a:x"));
    world_position(w, STREAM_DEVICE_LISTS, W2, 100);
    world_add(&w->dl, 0, "@a:x", "@b:x", "!r:x", 110, MASTER);
    feed(w, STREAM_DEVICE_LISTS, MASTER, 110, dl("@b:x", false));
    world_add(&w->dl, 0, "@a:x", "@c:x", "!r:x", 105, W2);
    feed(w, STREAM_DEVICE_LISTS, W2, 105, dl("@c:x", false));
    assert_non_null(strstr(changed(w, u, 100), "@c:x/!r:x@105 "));
}

/* Its rows come below those that have been announced. */
static void test_device_lists_lagging_writer_wakes(void **state)
{
    struct world *w = *state;
    int64_t at = world_room(w, "!r:x", 10, "shared", "@a:x", "@b:x", NULL);
    (void)world_room(w, "!q:x", at + 1, "shared", "@v:x", "@c:x", NULL);
    struct user *v = model_user(w->m, S("@v:x"));
    model_user_pin(w->m, v);
    (void)model_user_rooms(w->m, v);
    world_settle(w);
    model_user_activate(w->m, v);
    world_position(w, STREAM_DEVICE_LISTS, W2, 100);
    world_add(&w->dl, 0, "@a:x", "@b:x", "!r:x", 110, MASTER);
    feed(w, STREAM_DEVICE_LISTS, MASTER, 110, dl("@b:x", false));
    assert_false(world_woken(w, "@v:x"));
    uint64_t stirred = v->stirred_other;
    (void)model_now(w->m); /* a text that covers the first, and not the second */
    w->woken.n = 0;
    world_add(&w->dl, 0, "@v:x", "@c:x", "!q:x", 105, W2);
    feed(w, STREAM_DEVICE_LISTS, W2, 105, dl("@c:x", false));
    assert_true(world_woken(w, "@v:x"));
    assert_true(v->stirred_other > stirred);
    model_user_unpin(w->m, v);
}

/* ---- presence, erased, filters, caches ---- */

static struct feed_row pres(const char *user, const char *st, int64_t active_ts, bool active)
{
    return (struct feed_row){
        .presence = {
            .user_id = S(user), .state = S(st), .last_active_ts = active_ts, .currently_active = active}};
}

static void test_presence_wakes(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@a:x", "@b:x", NULL);
    struct user *a = model_user(w->m, S("@a:x"));
    model_user_pin(w->m, a);
    assert_int_equal(await(w, model_user_rooms(w->m, a)), HAVE);
    model_user_activate(w->m, a);
    int64_t g = w->cfg->presence.last_active_granularity_ms;
    const struct {
        const char *st;
        int64_t ts;
        bool active, wakes;
    } steps[] = {
        {"online", 1000, true, true},
        {"online", 1000, true, false},
        {"online", 1000 + 2 * g, true, false},
        {"online", 1000 + 2 * g, false, true},
        {"online", 1001 + 3 * g, false, true},
        {"unavailable", 1001 + 3 * g, false, true},
        {"unavailable", 1002 + 3 * g, false, false},
        {"unavailable", 1002 + 5 * g, false, true},
        {"offline", 1002 + 5 * g, false, true},
    };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        w->woken.n = 0;
        feed(w, STREAM_PRESENCE, MASTER, 101 + (int64_t)i,
             pres("@b:x", steps[i].st, steps[i].ts, steps[i].active));
        if (world_woken(w, "@a:x") != steps[i].wakes)
            fail_msg("step %zu", i);
    }
    char b[1024] = "";
    (void)b;
    assert_str(model_presence(w->m, S("@b:x"))->state, "offline");
    assert_null(model_presence(w->m, S("@nobody:x")));
    model_user_unpin(w->m, a);
}

static void test_start_loads_are_repeated(void **state)
{
    struct world *w = world_new();
    world_add(&w->erased, "@gone:x", NULL, 0);
    world_add(&w->presence, "@b:x", "online", NULL, 5, 90, true);
    w->fail[SQL_erased_all] = w->fail[SQL_presence_all] = w->fail[SQL_partial_rooms] = 1;
    model_adopt(w->m, (struct feed *)(void *)w);
    world_settle(w);
    assert_false(model_ready(w->m)); /* not known who is erased: nothing is computed */
    world_tick(w);
    assert_true(model_ready(w->m));
    assert_true(model_erased(w->m, S("@gone:x")));
    assert_non_null(model_presence(w->m, S("@b:x")));
    w->erased.n = 0; /* taken back */
    cache(w, "is_user_erased", "@gone:x", NULL);
    assert_true(model_ready(w->m));
    assert_false(model_erased(w->m, S("@gone:x")));
    world_free(&w);
    (void)state;
}

static void test_filters(void **state)
{
    struct world *w = *state;
    struct user *u = model_user(w->m, S("@a:x"));
    struct filter *f;
    assert_int_equal(await(w, model_stored_filter(w->m, u, 0, &f)), ABSENT);
    world_add(&w->filters, "@a:x", "{\"room\":{\"timeline\":{\"limit\":3}}}", 0);
    world_add(&w->filters, "@a:x", "nonsense", 1);
    assert_int_equal(await(w, model_stored_filter(w->m, u, 0, &f)),
                     HAVE); /* a missing one is not remembered */
    assert_int_equal(f->timeline_limit, 3);
    assert_int_equal(await(w, model_stored_filter(w->m, u, 1, &f)), ABSENT);
    world_forget_counts(w);
    assert_int_equal(model_stored_filter(w->m, u, 0, &f), HAVE);
    assert_int_equal(world_issued(w), 0);
}

static void test_full_presence_row_while_loading(void **state)
{
    struct world *w = *state;
    struct user *u = model_user(w->m, S("@a:x"));
    w->held[SQL_full_presence_of_users] = true;
    assert_int_equal(model_full_presence(w->m, u), LACK);
    world_settle(w);
    world_add(&w->full_presence, "@a:x", NULL, 101);
    cache(w, "_get_full_presence_stream_token_for_user", "@a:x", NULL);
    world_release(w, SQL_full_presence_of_users);
    assert_int_equal(await(w, model_full_presence(w->m, u)), HAVE);
    assert_int_equal(u->more->full_presence_stream, 101);
}

static void test_caches_flush(void **state)
{
    struct world *w = *state;
    struct user *u = model_user(w->m, S("@a:x"));
    assert_int_equal(await(w, model_account_data(w->m, u)), HAVE);
    assert_int_equal(await(w, model_user_rooms(w->m, u)), HAVE);
    w->sink.flush(w->sink.arg, STREAM_CACHES);
    assert_int_equal(w->cache_flushes, 1);
    assert_int_equal(model_account_data(w->m, u), LACK);
    assert_int_equal(model_user_rooms(w->m, u), LACK);
    world_settle(w);
    cache(w, "anything", "k", NULL);
    assert_str(w->cache_rows.v[w->cache_rows.n - 1], "anything");
}

static void on_loaded(void *arg, int err)
{
    struct world *w = arg;
    w->loaded++;
    w->loaded_err = err;
}

static void test_load_callbacks(void **state)
{
    struct world *w = *state;
    struct user *u = model_user(w->m, S("@a:x"));
    model_load(w->m, on_loaded, w);
    assert_int_equal(w->loaded, 0); /* never from inside */
    world_turn(w);
    assert_int_equal(w->loaded, 1);
    /* what a reader lacks may be under way for another one: it waits for that batch too */
    w->held[SQL_rooms_of_users] = true;
    (void)model_user_rooms(w->m, u);
    world_settle(w);
    (void)model_user_rooms(w->m, u);
    model_load(w->m, on_loaded, w);
    world_settle(w);
    assert_int_equal(w->loaded, 1);
    w->fail[SQL_rooms_of_users] = 1;
    world_release(w, SQL_rooms_of_users);
    assert_int_equal(w->loaded, 2);
    assert_int_equal(w->loaded_err, 0);
    (void)model_user_rooms(w->m, u);
    model_load(w->m, on_loaded, w);
    w->fail[SQL_rooms_of_users] = 1;
    world_settle(w);
    assert_int_equal(w->loaded_err, -ERR_DB);
    assert_int_equal(await(w, model_user_rooms(w->m, u)), HAVE);
    /* at the end everybody hears of it, and nobody twice */
    user_rooms_drop(w->m, u);
    (void)model_user_rooms(w->m, u);
    model_load(w->m, on_loaded, w);
    uv_run(&w->loop, UV_RUN_NOWAIT);
    (void)model_tags(w->m, u);
    model_load(w->m, on_loaded, w);
    w->loaded = 0;
    world_stop_pg(w);
    model_stop(&w->m);
    assert_int_equal(w->loaded, 2);
    assert_int_equal(w->loaded_err, -ERR_SHUTDOWN);
}

/* ---- a refused statement ---- */

struct reader {
    struct world *w;
    struct user *u;
    int calls, err;
};

static void read_data(void *arg, int err)
{
    struct reader *r = arg;
    r->calls++;
    r->err = err;
    if (!err && model_account_data(r->w->m, r->u) == LACK)
        model_load(r->w->m, read_data, r);
}

/* Three wait for one statement. Whoever is to blame fails; the others are answered. */
static void test_refused_statement(void **state)
{
    struct world *w = *state;
    for (int bad = 0; bad < 3; bad++) {
        struct reader r[3];
        int failed = 0;
        for (int i = 0; i < 3; i++) {
            r[i] = (struct reader){.w = w, .u = model_user(w->m, S(world_text(w, "@u%d-%d:x", bad, i)))};
            read_data(&r[i], 0);
        }
        w->fail[SQL_account_data_of_users] = 1 + (bad > 0); /* all together, then perhaps one of them */
        world_forget_counts(w);
        world_settle(w);
        for (int i = 0; i < 3; i++) {
            failed += r[i].err == -ERR_DB;
            assert_int_equal(model_account_data(w->m, r[i].u), r[i].err ? LACK : HAVE);
        }
        assert_int_equal(failed, bad > 0);
        assert_int_equal(w->issued[SQL_account_data_of_users], 4);
        world_settle(w);
    }
    /* who goes away meanwhile is not called */
    struct reader gone = {.w = w, .u = model_user(w->m, S("@gone:x"))};
    struct reader stays = {.w = w, .u = model_user(w->m, S("@stays:x"))};
    read_data(&stays, 0);
    read_data(&gone, 0);
    w->fail[SQL_account_data_of_users] = 1;
    w->held[SQL_account_data_of_users] = true;
    world_settle(w);
    world_release(w, SQL_account_data_of_users);
    model_load_cancel(w->m, &gone);
    int calls = gone.calls;
    w->held[SQL_account_data_of_users] = false;
    world_release(w, SQL_account_data_of_users);
    world_settle(w);
    assert_int_equal(gone.calls, calls);
    assert_int_equal(model_account_data(w->m, stays.u), HAVE);
}

/* Everything that can be forgotten is; answers stay the same. */
static void test_eviction(void **state)
{
    struct world *w = *state;
    int64_t last = world_room(w, "!r:x", 10, "shared", "@a:x", "@b:x", NULL);
    for (int i = 0; i < 20; i++)
        world_event(w,
                    (struct t_event){.id = world_text(w, "$m%d", i), .room = "!r:x", .stream = last + 1 + i});
    ((struct config *)w->cfg)->model_memory_mb = 0;
    for (int turn = 0; turn < 6; turn++) {
        clock_fake_set(1000000 + turn * 3600 * 1000LL); /* whoever was idle in between is forgotten too */
        struct user *u = model_user(w->m, S("@a:x"));
        model_user_pin(w->m, u);
        assert_int_equal(await(w, model_user_rooms(w->m, u)), HAVE);
        model_trim(w->m);
        assert_int_equal(w->m->event_count, 0);
        struct membership_row *row = kmap_get(&u->rooms, S("!r:x"));
        assert_int_equal(row->membership, MEMBERSHIP_JOIN);
        assert_int_equal(await(w, model_room_state(w->m, row->room)), HAVE);
        assert_int_equal(row->room->joined_count, 2);
        struct tl_entry e;
        struct mpos p = mpos_of(100);
        assert_int_equal(await(w, model_last_event(w->m, row->room, &p, &e)), HAVE);
        assert_str(e.rec->id, "$m19");
        struct event *ev;
        assert_int_equal(await(w, model_event(w->m, e.rec, &ev)), HAVE);
        struct evrec *rec;
        assert_int_equal(await(w, model_sg_get(w->m, model_sg(w->m, row->room, ev->state_group),
                                               S("m.room.member"), S("@b:x"), &rec)),
                         HAVE);
        struct unread *un;
        assert_int_equal(await(w, model_unread(w->m, u, row->room, &un)), HAVE);
        model_user_unpin(w->m, u);
        world_say(w,
                  (struct t_event){.id = world_text(w, "$l%d", turn), .room = "!x:x", .stream = 101 + turn});
        world_burst_end(w);
        world_settle(w);
        clock_fake_set(1000000 + turn * 3600 * 1000LL + 1900 * 1000);
        model_trim(w->m);
        model_trim(w->m);
        assert_null(model_user_find(w->m, S("@a:x")));
        assert_null(model_room_find(w->m, S("!r:x")));
        assert_int_equal(smap_count(&w->m->recs), 0);
    }
    /* the clock's low bits have gone round */
    clock_fake_set(((int64_t)1 << 32) + 1000000);
    (void)model_user(w->m, S("@a:x"));
    model_trim(w->m);
    assert_non_null(model_user_find(w->m, S("@a:x")));
    clock_fake_set(((int64_t)1 << 32) + 1000000 + 1900 * 1000);
    model_trim(w->m);
    assert_null(model_user_find(w->m, S("@a:x")));
    clock_fake_set(1000000);
}

int run_user_tests(void)
{
    const struct CMUnitTest tests[] = {
        T(test_state_row_while_state_loads),
        T(test_rooms_row_while_rooms_load),
        T(test_account_data),
        T(test_account_data_out_of_order),
        T(test_tags_push_rules_ignored),
        T(test_only_what_there_is),
        T(test_unread),
        T(test_unread_of_an_old_sum),
        T(test_unread_while_loading),
        T(test_to_device_pages),
        T(test_keys),
        T(test_device_lists),
        T(test_device_lists_lagging_writer),
        T(test_device_lists_lagging_writer_wakes),
        T(test_presence_wakes),
        cmocka_unit_test(test_start_loads_are_repeated),
        T(test_filters),
        T(test_full_presence_row_while_loading),
        T(test_caches_flush),
        T(test_load_callbacks),
        T(test_refused_statement),
        T(test_eviction),
    };
    return cmocka_run_group_tests_name("users", tests, NULL, NULL);
}
