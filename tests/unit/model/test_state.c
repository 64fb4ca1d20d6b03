/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* State groups and their chains; current state, its counts and heroes. */
#include "test_model.h"

static const char *sg_get(struct world *w, struct room *r, int64_t id, const char *type, const char *key)
{
    struct evrec *rec;
    enum have h = await(w, model_sg_get(w->m, model_sg(w->m, r, id), S(type), S(key), &rec));
    return h == HAVE ? arena_str(w->text, rec->id).p : h == ABSENT ? "none" : "lack";
}

static void collect(void *arg, struct str type, struct str key, struct evrec *rec)
{
    struct world *w = arg;
    (void)type;
    (void)key;
    vec_push(&w->woken, arena_str(w->text, rec->id));
}

static void test_chains(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@a:x", "@b:x", NULL); /* groups 1010 … 1013 */
    world_event(w, (struct t_event){.id = "$leave",
                                    .room = "!r:x",
                                    .type = "m.room.member",
                                    .key = "@b:x",
                                    .stream = 20,
                                    .content = "{\"membership\":\"leave\"}"});
    world_event(
        w, (struct t_event){.id = "$topic", .room = "!r:x", .type = "m.room.topic", .key = "", .stream = 21});
    struct room *r = model_room(w->m, S("!r:x"));
    assert_string_equal(sg_get(w, r, 1013, "m.room.member", "@b:x"), "$join@b:x!r:x");
    assert_string_equal(sg_get(w, r, 1020, "m.room.member", "@b:x"), "$leave");
    world_forget_counts(w);
    assert_string_equal(sg_get(w, r, 1021, "m.room.member", "@b:x"), "$leave");
    assert_int_equal(w->issued[SQL_sg_delta], 1);
    assert_int_equal(world_issued(w), 1); /* the rest is found down the chain */
    assert_string_equal(sg_get(w, r, 1021, "m.room.topic", ""), "$topic");
    assert_string_equal(sg_get(w, r, 1020, "m.room.topic", ""), "none");
    assert_string_equal(sg_get(w, r, 1021, "m.room.member", "@nobody:x"), "none");
    world_forget_counts(w);
    assert_string_equal(sg_get(w, r, 1021, "m.room.member", "@nobody:x"), "none");
    assert_string_equal(sg_get(w, r, 1021, "m.room.create", ""), "$create!r:x");
    assert_int_equal(world_issued(w), 0);
    for (int members = 0; members < 2; members++) {
        w->woken.n = 0;
        assert_int_equal(
            await(w, (w->woken.n = 0, model_sg_each(w->m, model_sg(w->m, r, 1021), members, collect, w))),
            HAVE);
        assert_int_equal(w->woken.n,
                         members ? 5 : 3); /* create, visibility, topic; the two members as they are then */
        assert_true(world_woken(w, "$topic"));
        assert_int_equal(world_woken(w, "$leave"), members);
        assert_false(world_woken(w, "$join@b:x!r:x"));
    }
    /* refused reads are repeated */
    struct room *q = model_room(w->m, S("!q:x"));
    world_room(w, "!q:x", 30, "shared", "@a:x", NULL);
    w->fail[SQL_sg_delta] = w->fail[SQL_sg_members] = w->fail[SQL_sg_nonmembers] = w->fail[SQL_sg_all] = 1;
    assert_string_equal(sg_get(w, q, 1032, "m.room.member", "@a:x"), "$join@a:x!q:x");
    assert_string_equal(sg_get(w, q, 1032, "m.room.topic", ""), "none");
    assert_int_equal(await(w, model_sg_each(w->m, model_sg(w->m, q, 1032), true, collect, w)), HAVE);
}

static void member(struct world *w, const char *user, int64_t stream, const char *ms)
{
    world_say(w, (struct t_event){.id = world_text(w, "$%s%d", user, (int)stream),
                                  .room = "!r:x",
                                  .type = "m.room.member",
                                  .key = user,
                                  .stream = stream,
                                  .content = world_text(w, "{\"membership\":\"%s\"}", ms)});
    world_burst_end(w);
    world_settle(w);
}

static const char *heroes(struct world *w, struct room *r)
{
    char b[256] = "";
    assert_int_equal(await(w, model_room_summary(w->m, r)), HAVE);
    for (int i = 0; i < r->summary_first_count; i++)
        snprintf(b + strlen(b), sizeof b - strlen(b), "%.*s ", 2, r->summary_first[i]->user_id.p);
    return world_text(w, "%d/%d %s", (int)r->joined_count, (int)r->invited_count, b);
}

static void test_current_state(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@a:x", "@b:x", "@c:x", NULL);
    struct room *r = model_room(w->m, S("!r:x"));
    assert_string_equal(heroes(w, r), "3/0 @a @b @c ");
    world_forget_counts(w);
    member(w, "@d:x", 101, "invite");
    assert_string_equal(heroes(w, r), "3/1 @a @b @c @d ");
    member(w, "@a:x", 102, "leave");
    assert_string_equal(heroes(w, r), "2/1 @b @c @d @a ");
    member(w, "@a:x", 103, "join");
    member(w, "@d:x", 104, "ban");
    assert_string_equal(heroes(w, r), "3/0 @b @c @a @d ");
    for (int i = 0; i < 4; i++)
        member(w, world_text(w, "@%c:x", 'e' + i), 105 + i, "join");
    assert_string_equal(heroes(w, r), "7/0 @b @c @a @e @f @g ");
    assert_int_equal(w->issued[SQL_room_state], 0); /* all of it by rows */
    /* a row that takes a member away, and one whose event is not at hand */
    struct feed_row gone = {.ev = {.kind = EV_ROW_STATE,
                                   .room_id = STR("!r:x"),
                                   .type = STR("m.room.member"),
                                   .state_key = STR("@b:x")}};
    world_send(w, STREAM_EVENTS, MASTER, 120, &gone);
    world_burst_end(w);
    assert_null(room_member_get(r, S("@b:x")));
    assert_int_equal(r->joined_count, 6);
    gone.ev.event_id = STR("$elsewhere");
    world_send(w, STREAM_EVENTS, MASTER, 121, &gone);
    world_burst_end(w);
    assert_int_equal(model_room_state(w->m, r), LACK);
    assert_int_equal(await(w, model_room_state(w->m, r)), HAVE);
    struct feed_row all = {.ev = {.kind = EV_ROW_STATE_ALL, .room_id = STR("!r:x")}};
    world_send(w, STREAM_EVENTS, MASTER, 122, &all);
    world_burst_end(w);
    assert_int_equal(model_room_state(w->m, r), LACK);
    assert_int_equal(await(w, model_room_state(w->m, r)), HAVE);
    assert_non_null(room_state_get(r, S("m.room.create"), S("")));
    assert_null(room_state_get(r, S("m.room.topic"), S("")));
}

static void receipt(struct world *w, const char *user, const char *type, const char *thread, int64_t stream)
{
    struct feed_row row = {.receipt = {.room_id = STR("!r:x"),
                                       .receipt_type = S(type),
                                       .user_id = S(user),
                                       .event_id = STR("$e"),
                                       .thread_id = S(thread),
                                       .data = STR("{}")}};
    world_send(w, STREAM_RECEIPTS, MASTER, stream, &row);
    world_burst_end(w);
}

static void test_receipts(void **state)
{
    struct world *w = *state;
    world_add(&w->receipts, "!r:x", "m.read", "@old:x", "$1", NULL, "{}", 50, MASTER);
    world_add(&w->receipts, "!r:x", "m.read", "@b:x", "$1", NULL, "{}", 60, MASTER);
    struct room *r = model_room(w->m, S("!r:x"));
    receipt(w, "@b:x", "m.read", NULL, 101);
    receipt(w, "@b:x", "m.read", "$t", 102);
    receipt(w, "@b:x", "m.read.private", NULL, 103);
    receipt(w, "@b:x", "m.read", NULL, 104);
    struct mpos live = mpos_of(100), old = mpos_of(40);
    assert_int_equal(model_receipts(w->m, r, &live), HAVE);
    assert_int_equal(r->receipts.n, 3); /* one for each of type, user, thread */
    assert_int_equal(model_receipts(w->m, r, &old), LACK);
    w->held[SQL_receipts_of_rooms] = true;
    world_settle(w);
    receipt(w, "@old:x", "m.read", NULL, 105); /* while the older ones are read */
    world_release(w, SQL_receipts_of_rooms);
    assert_int_equal(await(w, model_receipts(w->m, r, &old)), HAVE);
    assert_int_equal(r->receipts.n, 4);
    for (size_t i = 0; i < r->receipts.n; i++)
        assert_true(r->receipts.v[i].stream > 100 &&
                    (i == 0 || r->receipts.v[i].stream > r->receipts.v[i - 1].stream));
    world_forget_counts(w);
    assert_int_equal(model_receipts(w->m, r, &old), HAVE);
    assert_int_equal(world_issued(w), 0);
}

/* A group that is not there, and edges that run in a circle. */
static void test_broken_groups(void **state)
{
    struct world *w = *state;
    world_room(w, "!r:x", 10, "shared", "@a:x", NULL);
    world_add(&w->groups, 50, 51, NULL, NULL, NULL);
    world_add(&w->groups, 51, 50, "m.room.topic", "", "$topic");
    struct room *r = model_room(w->m, S("!r:x"));
    int64_t before = metric_get_l(M_model_poisoned, "state_group");
    assert_int_equal(await(w, model_sg_known(w->m, model_sg(w->m, r, 4711))), ABSENT);
    assert_int_equal(metric_get_l(M_model_poisoned, "state_group"), before + 1);
    assert_int_equal(await(w, model_sg_known(w->m, model_sg(w->m, r, 1010))), HAVE);
    struct sg *a = model_sg(w->m, r, 50), *b = model_sg(w->m, r, 51);
    (void)model_sg_known(w->m, a);
    (void)model_sg_known(w->m, b); /* both in one batch */
    world_settle(w);
    assert_int_equal(model_sg_known(w->m, a), HAVE);
    assert_true(!a->prev || !b->prev);
}

int run_state_tests(void)
{
    const struct CMUnitTest tests[] = {T(test_broken_groups), T(test_chains), T(test_current_state),
                                       T(test_receipts)};
    return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
