/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The pure parts of the push worker: shards, actions, names, bodies, what answers mean, queues, counts,
 * gateways. Everything that needs the database is shown on the real stack (tests/push).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../../src/push/push_int.h"

#define assert_str(s, text)                                                            \
    do {                                                                               \
        struct str s_ = (s);                                                           \
        if (!str_eq(s_, str_of(text)))                                                 \
            fail_msg("\"%.*s\" instead of \"%s\"", STR_ARG(s_), (const char *)(text)); \
    } while (0)

struct fixture {
    struct config cfg;
    uv_loop_t loop;
    struct push *p;
};

static int setup(void **state)
{
    static struct str one[] = {{"w", 1}};
    struct fixture *f = xcalloc(1, sizeof *f);
    struct err e = {{0}};

    f->cfg.push.instances = one;
    f->cfg.push.instances_count = 1;
    f->cfg.push.include_content = f->cfg.push.group_unread_count_by_room = true;
    f->cfg.push_unread_max = 1000;
    uv_loop_init(&f->loop);
    assert_int_equal(push_start(&f->p, &f->loop, &f->cfg, NULL, &e), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    push_halt(f->p);
    push_stop(&f->p);
    while (uv_run(&f->loop, UV_RUN_NOWAIT))
        ;
    assert_int_equal(uv_loop_close(&f->loop), 0);
    free(f);
    return 0;
}

/* ---- shards ---- */

static void test_shards(void **state)
{
    static const struct {
        const char *user;
        int of[5]; /* 2, 3, 4, 5, 7 instances */
    } rows[] = {
        {"@user2:test", {0, 1, 2, 4, 1}},
        {"@user4:test", {1, 0, 3, 0, 6}},
        {"@alice:example.org", {0, 0, 2, 4, 3}},
        {"@bob:example.org", {1, 2, 3, 2, 0}},
        {"@zo\xc3\xab:example.org", {0, 0, 0, 1, 5}},
    };
    static const size_t n[] = {2, 3, 4, 5, 7};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(push_shard(str_of(rows[i].user), 1), 0);
        for (size_t j = 0; j < 5; j++)
            assert_int_equal(push_shard(str_of(rows[i].user), n[j]), rows[i].of[j]);
    }
}

/* ---- actions ---- */

static void test_tweaks(void **state)
{
    static const struct {
        const char *actions;
        bool highlight, notify, high;
        const char *json;
    } rows[] = {
        {"", false, true, false, "{\"highlight\":false}"},
        {"", true, true, true, "{\"highlight\":true,\"sound\":\"default\"}"},
        {"[\"notify\"]", false, true, false, NULL},
        {"[]", false, false, false, NULL},
        {"[\"dont_notify\"]", false, false, false, NULL},
        {"[\"notify\",{\"set_tweak\":\"sound\",\"value\":\"\"}]", false, true, false, "{\"sound\":\"\"}"},
        {"[\"notify\",{\"set_tweak\":\"sound\",\"value\":0.0}]", false, true, false, "{\"sound\":0.0}"},
        {"[\"notify\",{\"set_tweak\":\"sound\",\"value\":[1]}]", false, true, true, "{\"sound\":[1]}"},
        {"[{\"set_tweak\":\"z\"},\"notify\",{\"set_tweak\":\"a\",\"value\":1},{\"set_tweak\":\"a\",\"value\":"
         "2}]",
         false, true, false, "{\"a\":2,\"z\":true}"},
        {"{\"notify\":1}", false, false, false, NULL},
        {"[\"notify\"", false, false, false, NULL},
        {"nothing", false, false, false, NULL},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct push_tweaks *t = tweaks_ref(f->p, str_of(rows[i].actions), rows[i].highlight);
        struct push_tweaks *same = tweaks_ref(f->p, str_of(rows[i].actions), rows[i].highlight);
        assert_ptr_equal(t, same);
        assert_int_equal(t->notify, rows[i].notify);
        assert_int_equal(t->high, rows[i].high);
        if (rows[i].json)
            assert_str(t->json, rows[i].json);
        else
            assert_true(str_absent(t->json));
        tweaks_unref(f->p, &t);
        tweaks_unref(f->p, &same);
    }
    assert_int_equal(smap_count(&f->p->tweaks), 0);
}

/* ---- names ---- */

static void test_nameless_rooms(void **state)
{
    static const struct {
        int total;
        bool third_party, me, invited;
        const char *sender_of_me, *name;
    } rows[] = {
        {5, false, true, false, "@me:x", "Ann and 3 others"},
        {5, false, false, false, "", "Ann and 3 others"}, /* beyond the first few, but a member */
        {4, false, true, false, "@me:x", "Ann and 2 others"},
        {3, false, true, false, "@me:x", "Ann and @ben:x"},
        {2, false, true, false, "@me:x", NULL},
        {1, false, true, false, "@me:x", "nobody"},
        {1, true, true, false, "@me:x", "Inviting email address"},
        {1, false, true, false, "@ann:x", "@me:x"},
        {0, false, false, false, "", "Empty Room"},
        {3, false, true, true, "@ann:x", NULL},
    };
    struct arena *a = arena_new(1 << 16);

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct push_member all[4] = {{STR("@ann:x"), STR("Ann"), STR("@ann:x")},
                                     {STR("@ben:x"), STR(""), STR("@ben:x")},
                                     {STR("@cat:x"), STR("Cat"), STR("@cat:x")},
                                     {STR("@dan:x"), STR("Dan"), STR("@dan:x")}};
        struct push_event ev = {.nameless = true,
                                .members = all,
                                .members_total = rows[i].total,
                                .third_party_invites = rows[i].third_party};
        struct push_member me = {STR("@me:x"), STR_ABSENT, str_of(rows[i].sender_of_me)};

        ev.members_count = rows[i].total < 4 ? (size_t)rows[i].total : 4;
        if (rows[i].me && rows[i].total == 1)
            all[0] = me;
        else if (rows[i].me)
            all[rows[i].total < 4 ? rows[i].total - 1 : 3] = me;
        ev.sender = STR("@ann:x");
        ev.sender_name = STR("Ann");
        if (rows[i].invited) {
            ev.state_key = STR("@me:x");
            ev.membership = STR("invite");
        }
        struct str name = push_room_name(&ev, STR("@me:x"), a);
        if (rows[i].name)
            assert_str(name, rows[i].name);
        else
            assert_true(str_absent(name));
    }
    arena_free(&a);
}

/* ---- bodies ---- */

struct parts {
    struct push_user *u;
    struct pusher *ps;
    struct push_event *ev;
    struct push_tweaks *t;
    struct buf device;
};

static struct parts parts_new(struct push *p, const char *data_text, const char *actions)
{
    struct parts x = {.u = push_user_get(p, STR("@me:x"))};
    struct arena *a = arena_new(1 << 16);
    struct json *data;

    assert_int_equal(json_parse(a, str_of(data_text), &data), 0);
    buf_init(&x.device, 1 << 16);
    assert_true(payload_device(STR("app\"1"), STR("k\xc3\xa9y"), 1760000000999, data, &x.device));
    arena_free(&a);
    x.ps = xcalloc(1, sizeof *x.ps + 1);
    x.ps->p = p;
    x.ps->user = x.u;
    x.ps->device = buf_str(&x.device);
    x.ev = push_event_ref(p, STR("$e"), STR("!r:x"), STR("main"), 10);
    x.ev->type = STR("m.room.message");
    x.ev->sender = STR("@ann:x");
    x.ev->sender_name = STR("Ann");
    x.ev->room_name = STR("Ops");
    x.ev->content = STR("{\"body\":\"hi\"}");
    x.t = tweaks_ref(p, str_of(actions), false);
    return x;
}

static void parts_free(struct push *p, struct parts *x)
{
    tweaks_unref(p, &x->t);
    push_event_unref(p, &x->ev);
    free(x->ps);
    buf_fini(&x->device);
    push_user_free(x->u);
}

static void assert_body(const struct parts *x, int64_t count, const char *want)
{
    struct push_action action = {x->ev, x->t};
    struct buf b;

    buf_init(&b, 1 << 16);
    if (want[0] == 'B')
        payload_badge(x->ps, count, &b);
    else
        payload_event(x->ps, &action, count, &b);
    assert_str(buf_str(&b), want[0] == 'B' ? want + 1 : want);
    buf_fini(&b);
}

static void test_bodies(void **state)
{
    struct fixture *f = *state;
    struct parts x = parts_new(f->p, "{\"url\":\"https://g/\",\"b\":{\"z\":1,\"a\":[]},\"a\":null}", "");

    assert_body(
        &x, 3,
        "{\"notification\":{\"content\":{\"body\":\"hi\"},\"counts\":{\"unread\":3},\"devices\":[{\"app_id\":"
        "\"app\\\"1\","
        "\"data\":{\"a\":null,\"b\":{\"a\":[],\"z\":1}},\"pushkey\":\"k\xc3\xa9y\",\"pushkey_ts\":1760000000,"
        "\"tweaks\":{\"highlight\":false}}],\"event_id\":\"$e\",\"id\":\"$e\",\"prio\":\"low\",\"room_id\":"
        "\"!r:x\","
        "\"room_name\":\"Ops\",\"sender\":\"@ann:x\",\"sender_display_name\":\"Ann\",\"type\":\"m.room."
        "message\"}}");
    x.ps->event_id_only = true;
    assert_body(&x, 0,
                "{\"notification\":{\"counts\":{\"unread\":0},\"devices\":[{\"app_id\":\"app\\\"1\","
                "\"data\":{\"a\":null,\"b\":{\"a\":[],\"z\":1}},\"pushkey\":\"k\xc3\xa9y\",\"pushkey_ts\":"
                "1760000000}],"
                "\"event_id\":\"$e\",\"prio\":\"low\",\"room_id\":\"!r:x\"}}");
    x.ps->event_id_only = false;
    x.ev->content = x.ev->sender_name = x.ev->room_name = STR_ABSENT;
    x.ev->type = STR("m.room.member");
    x.ev->state_key = STR("@me:x");
    x.ev->membership = STR("invite");
    assert_body(
        &x, -1,
        "{\"notification\":{\"devices\":[{\"app_id\":\"app\\\"1\",\"data\":{\"a\":null,\"b\":{\"a\":[],\"z\":"
        "1}},"
        "\"pushkey\":\"k\xc3\xa9y\",\"pushkey_ts\":1760000000,\"tweaks\":{\"highlight\":false}}],\"event_"
        "id\":\"$e\","
        "\"id\":\"$e\",\"membership\":\"invite\",\"prio\":\"low\",\"room_id\":\"!r:x\",\"sender\":\"@ann:x\","
        "\"type\":\"m.room.member\",\"user_is_target\":true}}");
    assert_body(&x, 7,
                "B{\"notification\":{\"counts\":{\"unread\":7},\"devices\":[{\"app_id\":\"app\\\"1\","
                "\"data\":{\"a\":null,\"b\":{\"a\":[],\"z\":1}},\"pushkey\":\"k\xc3\xa9y\",\"pushkey_ts\":"
                "1760000000}],"
                "\"id\":\"\",\"sender\":\"\",\"type\":null}}");
    parts_free(f->p, &x);
}

static void test_answers(void **state)
{
    static const struct {
        int err, status;
        const char *body;
        enum push_outcome outcome;
    } rows[] = {
        {0, 200, "{}", OUTCOME_OK},
        {0, 204, "{}", OUTCOME_OK},
        {0, 200, "{\"rejected\":[]}", OUTCOME_OK},
        {0, 200, "{\"rejected\":null}", OUTCOME_OK},
        {0, 200, "{\"rejected\":\"K\"}", OUTCOME_OK},
        {0, 200, "{\"rejected\":[1,\"k\",[\"K\"]]}", OUTCOME_OK},
        {0, 200, "{\"rejected\":[1,\"K\"]}", OUTCOME_REJECTED},
        {0, 200, "[]", OUTCOME_OK},
        {0, 200, "\"x\"", OUTCOME_OK},
        {0, 200, "", OUTCOME_PUSHER},
        {0, 200, "5", OUTCOME_PUSHER},
        {0, 200, "null", OUTCOME_PUSHER},
        {0, 200, "<html>", OUTCOME_PUSHER},
        {0, 302, "{}", OUTCOME_PUSHER},
        {0, 500, "{}", OUTCOME_PUSHER},
        {0, 401, "{}", OUTCOME_PUSHER},
        {0, 400, "{}", OUTCOME_REFUSED},
        {0, 413, "{}", OUTCOME_REFUSED},
        {0, 429, "{}", OUTCOME_ORIGIN},
        {0, 502, "{}", OUTCOME_ORIGIN},
        {0, 507, "{}", OUTCOME_ORIGIN},
        {-ERR_TIMEOUT, 0, NULL, OUTCOME_ORIGIN},
        {-ERR_IO, 0, NULL, OUTCOME_ORIGIN},
        {-ERR_LIMIT, 0, NULL, OUTCOME_PUSHER},
        {-ERR_PARSE, 0, NULL, OUTCOME_PUSHER}, /* one user's URL, which is none, harms nobody else */
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct httpc_res res = {.err = rows[i].err, .status = rows[i].status, .body = str_of(rows[i].body)};
        if (push_outcome(f->p, STR("K"), &res) != rows[i].outcome)
            fail_msg("row %zu: %d", i, (int)push_outcome(f->p, STR("K"), &res));
    }
}

/* ---- queues ---- */

static void add(struct push_user *u, const char *id, const char *room, const char *thread, int64_t so)
{
    struct push_event *ev = push_event_ref(u->p, str_of(id), str_of(room), str_of(thread), so);
    struct push_tweaks *t = tweaks_ref(u->p, STR(""), false);

    push_user_add(u, ev, t);
    tweaks_unref(u->p, &t);
    push_event_unref(u->p, &ev);
}

static struct pusher *phone(struct push *p, struct push_user *u, int64_t done)
{
    struct pusher *ps = xcalloc(1, sizeof *ps + 1);

    ps->p = p;
    ps->user = u;
    ps->origin = origin_get(p, STR("http://192.0.2.1/_matrix/push/v1/notify"));
    ps->done = done;
    list_init(&ps->turn);
    list_init(&ps->dirty);
    list_init(&ps->removal);
    list_push(&u->pushers, &ps->of_user);
    u->pushers_count++;
    p->pushers_count++;
    return ps;
}

static void test_queue(void **state)
{
    struct fixture *f = *state;
    struct push_user *u = push_user_get(f->p, STR("@me:x"));
    struct pusher *one = phone(f->p, u, 10), *two = phone(f->p, u, 20);

    add(u, "$30", "!a", "main", 30);
    add(u, "$25", "!a", "$t", 25); /* a backlog comes after what is new */
    add(u, "$15", "!b", "main", 15);
    add(u, "$30", "!a", "main", 30); /* known */
    add(u, "$9", "!b", "main", 9);   /* behind everybody */
    assert_int_equal(u->queue_n, 3);
    assert_int_equal(pusher_head(one)->ev->stream_ordering, 15);
    assert_int_equal(pusher_head(two)->ev->stream_ordering, 25);

    struct pstr *a = pstr_ref(f->p, STR("!a")), *main = pstr_ref(f->p, STR("main"));
    push_user_read(u, a, main, 100); /* the thread stays */
    assert_int_equal(u->queue_n, 2);
    assert_int_equal(pusher_head(two)->ev->stream_ordering, 25);
    push_user_read(u, a, NULL, 24);
    assert_int_equal(u->queue_n, 2);
    push_user_read(u, a, NULL, 25);
    assert_int_equal(u->queue_n, 1);
    assert_null(pusher_head(two));

    one->done = two->done = 15;
    one->state = two->state = PUSHER_WAIT; /* only the queue is of interest */
    push_user_advance(u);
    assert_int_equal(u->queue_n, 0);
    assert_int_equal(smap_count(&f->p->events), 0);

    /* The window is bounded; what does not fit stays in the table. */
    for (int i = 0; i < QUEUE_MAX + 5; i++) {
        char id[32];
        snprintf(id, sizeof id, "$%d", 100 + i);
        add(u, id, "!a", "main", 100 + i);
    }
    assert_int_equal(u->queue_n, QUEUE_MAX);
    assert_true(u->more);
    /* A backlog that comes late takes the place of the newest ones: what is left out is the end. */
    add(u, "$50", "!a", "main", 50);
    assert_int_equal(u->queue_n, QUEUE_MAX);
    assert_int_equal(pusher_head(one)->ev->stream_ordering, 50);
    assert_int_equal(u->queue[u->queue_first + QUEUE_MAX - 1].ev->stream_ordering, 100 + QUEUE_MAX - 2);

    /* Redacted from another room: nothing happens. */
    push_event_gone(f->p, STR("$50"), STR("!b"));
    assert_int_equal(pusher_head(one)->ev->state, PUSH_EVENT_NEW);
    push_event_gone(f->p, STR("$50"), STR("!a"));
    assert_int_equal(pusher_head(one)->ev->state, PUSH_EVENT_GONE);
    pstr_unref(f->p, &a);
    pstr_unref(f->p, &main);
}

/* ---- counts ---- */

static void unread(struct push_user *u, const char *room, const char *thread, int64_t so)
{
    char id[32];
    snprintf(id, sizeof id, "$%lld", (long long)so);
    struct push_event *ev = push_event_ref(u->p, str_of(id), str_of(room), str_of(thread), so);
    badge_action(u, ev);
    push_event_unref(u->p, &ev);
}

static void read_upto(struct push_user *u, const char *room, const char *thread, int64_t upto)
{
    struct pstr *r = pstr_ref(u->p, str_of(room)), *t = thread ? pstr_ref(u->p, str_of(thread)) : NULL;
    badge_read(u, r, t, upto);
    pstr_unref(u->p, &r);
    pstr_unref(u->p, &t);
}

static void test_counts(void **state)
{
    struct fixture *f = *state;
    struct push_user *u = push_user_get(f->p, STR("@me:x"));

    u->badge.state = BADGE_WARM;
    list_push(&f->p->badges_warm, &u->badge.lru);
    u->badge.upto = 10;
    u->badge.invites = 1;
    unread(u, "!a", "main", 10); /* counted by what was loaded */
    assert_int_equal(badge_value(u), 1);
    unread(u, "!a", "main", 11);
    unread(u, "!a", "$t", 12);
    unread(u, "!b", "main", 13);
    unread(u, "!b", "main", 14);
    assert_int_equal(badge_value(u), 3);
    f->cfg.push.group_unread_count_by_room = false;
    assert_int_equal(badge_value(u), 5);
    f->cfg.push.group_unread_count_by_room = true;
    read_upto(u, "!a", "main", 50);
    assert_int_equal(badge_value(u), 3);
    read_upto(u, "!b", NULL, 13);
    assert_int_equal(badge_value(u), 3);
    read_upto(u, "!a", NULL, 12);
    assert_int_equal(badge_value(u), 2);
    assert_int_equal(f->p->unread_count, 1);

    /* What the table says of a membership is not counted again for whom it concerns, for others it is news.
     */
    own_member_put(f->p, STR("$15"), STR("@me:x"));
    unread(u, "!c", "main", 15);
    assert_int_equal(badge_value(u), 2);
    own_member_put(f->p, STR("$16"), STR("@you:x"));
    unread(u, "!c", "main", 16);
    assert_int_equal(badge_value(u), 3);
    read_upto(u, "!c", NULL, 16);

    /* A redaction in a room without anything unread changes nothing, one in the other makes it load again. */
    badge_redacted(f->p, STR("!a"));
    assert_true(badge_want(u));
    badge_redacted(f->p, STR("!b"));
    assert_false(badge_want(u));
    assert_int_equal(u->badge.state, BADGE_WANTED);
    assert_int_equal(f->p->unread_count, 0);

    /* Counting notifications, a marker in the middle cannot be applied. */
    list_del(&u->wanted);
    u->badge.state = BADGE_WARM;
    list_push(&f->p->badges_warm, &u->badge.lru);
    f->cfg.push.group_unread_count_by_room = false;
    unread(u, "!b", "main", 20);
    unread(u, "!b", "main", 21);
    read_upto(u, "!b", NULL, 20);
    assert_int_equal(u->badge.state, BADGE_COLD);
    push_user_free(u);
}

/* ---- gateways ---- */

static void test_urls(void **state)
{
    static const struct {
        const char *url, *key; /* NULL: not usable */
    } rows[] = {
        {"https://Gateway.example/_matrix/push/v1/notify", "https://gateway.example:443"},
        {"http://u:p@gateway.example:8080/x", "http://gateway.example:8080"},
        {"https://[2001:db8::1]:8443/x", "https://2001:db8::1:8443"},
        {"https://gateway.example?x", "https://gateway.example:443"},
        {"https://:1/x", NULL},
        {"https://gateway.example:0/x", NULL},
        {"https://gateway.example:65536/x", NULL},
        {"https://[2001:db8::1/x", NULL},
        {"ftp://gateway.example/x", NULL},
        {"gateway.example", NULL},
        {"", NULL},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct origin *o = origin_get(f->p, str_of(rows[i].url));
        if (!rows[i].key) {
            assert_null(o);
            continue;
        }
        assert_non_null(o);
        assert_str(o->key, rows[i].key);
        origin_unref(o);
    }
    assert_int_equal(smap_count(&f->p->origins_by_key), 0);
}

static void test_health(void **state)
{
    struct fixture *f = *state;
    struct origin *o = origin_get(f->p, STR("http://192.0.2.1/x"));

    for (int i = 0; i < ORIGIN_FAILS_OPEN; i++) {
        assert_int_equal(o->health, ORIGIN_HEALTHY);
        origin_answer(o, OUTCOME_ORIGIN, -1);
    }
    assert_int_equal(o->health, ORIGIN_OPEN);
    assert_true(push_timer_is_set(&o->timer));
    origin_timer(o);
    assert_int_equal(o->health, ORIGIN_PROBING);
    int64_t before = o->backoff_ms;
    origin_answer(o, OUTCOME_ORIGIN, -1);
    assert_int_equal(o->health, ORIGIN_OPEN);
    assert_int_equal(o->backoff_ms, 2 * before);
    origin_timer(o);
    origin_answer(o, OUTCOME_OK, -1);
    assert_int_equal(o->health, ORIGIN_RAMP);
    assert_int_equal((int)o->window, 1);
    for (int i = 0; i < 5 && o->health != ORIGIN_HEALTHY; i++)
        origin_timer(o);
    assert_int_equal(o->health, ORIGIN_HEALTHY);
    origin_answer(o, OUTCOME_ORIGIN, 5000); /* Retry-After: at once */
    assert_int_equal(o->health, ORIGIN_OPEN);
    int64_t until = o->pause_until_ms;
    assert_true(until > clock_mono_ms() + 4000);
    origin_answer(o, OUTCOME_OK, -1); /* to a request that was under way */
    origin_answer(o, OUTCOME_ORIGIN, 1000);
    assert_int_equal(o->health, ORIGIN_OPEN);
    assert_int_equal(o->pause_until_ms, until);
    origin_answer(o, OUTCOME_ORIGIN, 60000); /* longer than the first */
    assert_true(o->pause_until_ms > until);
    o->pause_until_ms = clock_mono_ms();
    origin_timer(o);
    assert_int_equal(o->health, ORIGIN_PROBING);
    origin_answer(o, OUTCOME_OK, -1);
    assert_int_equal(o->health, ORIGIN_RAMP);
    origin_unref(o);
}

static void test_breaker(void **state)
{
    struct fixture *f = *state;
    struct origin *o = origin_get(f->p, STR("http://192.0.2.1/x"));

    /* A few rejections among many answers are life. */
    for (int i = 0; i < 300; i++)
        origin_answer(o, i % 10 == 0 ? OUTCOME_REJECTED : OUTCOME_OK, -1);
    assert_false(origin_breaker(o));
    int believed = 0;
    for (; believed < 300 && !origin_breaker(o); believed++)
        origin_answer(o, OUTCOME_REJECTED, -1);
    assert_true(origin_breaker(o));
    assert_in_range(believed, 1,
                    20); /* whatever its past: so many pushers at most are deleted by a mistake */
    /* After the pause it is still wrong: not one more is. */
    o->breaker_until_ms = clock_mono_ms();
    origin_answer(o, OUTCOME_REJECTED, -1);
    assert_true(origin_breaker(o));
    /* It was mended: once it has taken some, its word counts again. */
    o->breaker_until_ms = clock_mono_ms();
    for (int i = 0; i < REJECTS_WINDOW; i++)
        origin_answer(o, OUTCOME_OK, -1);
    origin_answer(o, OUTCOME_REJECTED, -1);
    assert_false(origin_breaker(o));
    origin_unref(o);
}

/* Everybody who points at a gateway that is down waits for a timer of his own: one goes ahead as the probe.
 */
static void test_probe(void **state)
{
    struct fixture *f = *state;
    struct push_user *u = push_user_get(f->p, STR("@me:x"));
    struct pusher *ps = phone(f->p, u, 10);
    struct origin *o = ps->origin;

    add(u, "$20", "!a", "main", 20);
    u->queue[u->queue_first].ev->state = PUSH_EVENT_READY;
    list_del(&u->queue[u->queue_first].ev->wanted);
    ps->no_counts = true;
    pusher_fail(ps, 300000);
    list_push(&o->held, &ps->turn);
    for (int i = 0; i < ORIGIN_FAILS_OPEN; i++)
        origin_answer(o, OUTCOME_ORIGIN, -1);
    assert_int_equal(ps->state, PUSHER_WAIT);
    origin_timer(o);
    assert_int_equal(o->health, ORIGIN_PROBING);
    assert_int_equal(ps->state, PUSHER_READY);
    assert_int_equal(o->ready_count, 1);
    assert_true(list_empty(&o->held));

    /* Somebody else is held, and the first finds nothing to tell when its turn comes: the gateway is probed
     * on. */
    struct push_user *you = push_user_get(f->p, STR("@you:x"));
    struct pusher *other = phone(f->p, you, 10);
    add(you, "$30", "!a", "main", 30);
    you->queue[you->queue_first].ev->state = PUSH_EVENT_READY;
    list_del(&you->queue[you->queue_first].ev->wanted);
    other->no_counts = true;
    pusher_fail(other, 300000);
    list_push(&o->held, &other->turn);
    push_timer_cancel(f->p, &o->timer);
    origin_timer(o);
    assert_true(push_timer_is_set(&o->timer));
    origin_forget(ps);
    origin_timer(o);
    assert_int_equal(other->state, PUSHER_READY);
}

/* ---- answers ---- */

/* One request for the head, and its answer. */
static void exchange(struct pusher *ps, int err, int status, const char *body)
{
    struct httpc_res res = {.err = err, .status = status, .body = str_of(body), .retry_after_ms = -1};
    const struct push_action *a = pusher_head(ps);

    origin_forget(ps);
    push_timer_cancel(ps->p, &ps->timer);
    assert_non_null(a);
    ps->kind = PUSH_EVENT;
    ps->state = PUSHER_SENDING;
    ps->sending = a->ev;
    a->ev->refs++;
    ps->p->in_flight++;
    ps->origin->in_flight++;
    pusher_answered(ps, &res);
}

static struct pusher *told_of(struct push *p, const char *user, int64_t from, int n)
{
    struct push_user *u = push_user_get(p, str_of(user));
    struct pusher *ps = phone(p, u, from);

    ps->no_counts = true;
    for (int i = 1; i <= n; i++) {
        char id[32];
        snprintf(id, sizeof id, "$%lld", (long long)from + i);
        add(u, id, "!a", "main", from + i);
        struct push_event *ev = u->queue[u->queue_first + (size_t)i - 1].ev;
        ev->state = PUSH_EVENT_READY;
        ev->received_ts = clock_wall_ms();
        list_del(&ev->wanted);
    }
    return ps;
}

/* What the gateway calls wrong is skipped after three tries, yet not before ten minutes. */
static void test_refusals(void **state)
{
    struct fixture *f = *state;
    struct pusher *ps = told_of(f->p, "@me:x", 10, 2);

    for (int i = 0; i < 5; i++) { /* five tries within a moment */
        exchange(ps, 0, 400, "{}");
        assert_int_equal(ps->done, 10);
        assert_int_equal(ps->state, PUSHER_WAIT);
    }
    ps->refused_since -= REFUSED_SPAN_MS;
    exchange(ps, 0, 404, "{}");
    assert_int_equal(ps->done, 11);
    assert_int_equal(ps->failing_since, 0);
    /* The next one has tries of its own, and other failures are none of them. */
    exchange(ps, 0, 413, "{}");
    ps->refused_since -= REFUSED_SPAN_MS;
    exchange(ps, 0, 422, "{}");
    exchange(ps, 0, 500, "{}");
    assert_int_equal(ps->done, 11);
    exchange(ps, 0, 415, "{}");
    assert_int_equal(ps->done, 12);
    assert_int_equal(ps->origin->health, ORIGIN_HEALTHY);
}

/* Which answers move the position, which mark the pusher, which the gateway. */
static void test_positions(void **state)
{
    struct fixture *f = *state;
    struct pusher *ps = told_of(f->p, "@me:x", 10, 3);

    exchange(ps, 0, 500, "{}");
    assert_true(ps->failing_since > 0);
    assert_int_equal(ps->origin->fails, 0);
    exchange(ps, -ERR_TIMEOUT, 0, NULL);
    assert_int_equal(ps->origin->fails, 1);
    assert_int_equal(ps->done, 10);
    exchange(ps, 0, 200, "{}");
    assert_int_equal(ps->done, 11);
    assert_int_equal(ps->failing_since, 0);
    assert_true(ps->last_success > 0);
    assert_int_equal(ps->origin->fails, 0);
    assert_false(list_empty(&ps->dirty));

    /* A day old and failing: given up; the first failure never is. */
    ps->user->queue[ps->user->queue_first + 1].ev->received_ts -= GIVE_UP_MS + 1000;
    exchange(ps, 0, 500, "{}");
    assert_int_equal(ps->done, 11);
    exchange(ps, 0, 500, "{}");
    assert_int_equal(ps->done, 12);
    assert_int_equal(ps->failing_since, 0);

    /* Rejected: its position stays, until the row goes. */
    ps->pushkey = STR("K");
    exchange(ps, 0, 200, "{\"rejected\":[\"K\"]}");
    assert_int_equal(ps->state, PUSHER_SUSPENDED);
    assert_int_equal(ps->done, 12);
    assert_false(list_empty(&ps->removal));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shards),
        cmocka_unit_test_setup_teardown(test_tweaks, setup, teardown),
        cmocka_unit_test(test_nameless_rooms),
        cmocka_unit_test_setup_teardown(test_bodies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_queue, setup, teardown),
        cmocka_unit_test_setup_teardown(test_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_urls, setup, teardown),
        cmocka_unit_test_setup_teardown(test_health, setup, teardown),
        cmocka_unit_test_setup_teardown(test_breaker, setup, teardown),
        cmocka_unit_test_setup_teardown(test_probe, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_positions, setup, teardown),
    };

    log_level = LOG_ERROR + 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
