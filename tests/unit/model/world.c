/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The life of a homeserver in memory, and what makes things happen in it: turns of the loop, the stand-in for
 * the feed, rooms, events and their rows. What the database answers is in world_pg.c.
 */
#include "world.h"

#include <stdio.h>

/* ---- time ---- */

void world_turn(struct world *w)
{
    uv_run(&w->loop, UV_RUN_NOWAIT);
    world_deliver(w);
}

void world_settle(struct world *w)
{
    for (int quiet = 0, i = 0; quiet < 3; i++) {
        assert_true(i < 10000);
        uv_run(&w->loop, UV_RUN_NOWAIT);
        bool open =
            w->m->open && w->m->batches_sent < BATCHES_UNDER_WAY; /* else it waits for one held back */
        quiet = world_deliver(w) || open ? 0 : quiet + 1;
    }
}

void world_tick(struct world *w)
{
    uint32_t before = w->m->ticks;
    for (int i = 0; i < 400 && w->m->ticks == before; i++) {
        uv_sleep(10);
        world_turn(w);
    }
    assert_int_not_equal(w->m->ticks, before);
    world_settle(w);
}

void world_release(struct world *w, enum pg_stmt s)
{
    w->held[s] = false;
    world_settle(w);
}

/* ---- the feed ---- */

static struct world *the_world;

writer_id feed_master(void)
{
    return MASTER;
}
writer_id feed_writer_id(struct feed *f, struct str name)
{
    (void)f;
    return str_eq(name, STR("w2")) ? W2 : str_eq(name, STR("master")) ? MASTER : WRITER_NONE;
}
bool feed_writer_known(writer_id w)
{
    return w == MASTER || w == W2;
}
const struct positions *feed_start_positions(const struct feed *f, enum stream s)
{
    (void)f;
    return the_world->start[s];
}
enum feed_state feed_state(const struct feed *f)
{
    (void)f;
    return the_world->feed;
}
void feed_positions_check(struct feed *f)
{
    (void)f;
    the_world->checks++;
}

/* ---- hooks ---- */

static void on_wake(void *arg, struct user *u)
{
    struct world *w = arg;
    if (!w->woken_forgotten)
        vec_push(&w->woken, arena_str(w->text, u->user_id));
    if (w->on_wake)
        w->on_wake(w->on_wake_arg, u);
}
static void on_wake_more(void *arg)
{
    struct world *w = arg;
    if (w->on_wake_more)
        w->on_wake_more(w->on_wake_arg);
    while (!w->on_wake_more && model_wake_more(w->m))
        ;
}
static void on_cache_row(void *arg, struct str func, const struct str *keys, size_t n, bool all)
{
    struct world *w = arg;
    (void)keys;
    (void)n;
    (void)all;
    vec_push(&w->cache_rows, arena_str(w->text, func));
}
static void on_cache_flush(void *arg)
{
    ((struct world *)arg)->cache_flushes++;
}

bool world_woken(struct world *w, const char *user)
{
    for (size_t i = 0; i < w->woken.n; i++) {
        if (str_eq(w->woken.v[i], str_of(user))) {
            w->woken.v[i] = w->woken.v[--w->woken.n];
            return true;
        }
    }
    return false;
}

/* ---- life ---- */

static char more_config[1024];

void world_config(const char *yaml)
{
    snprintf(more_config, sizeof more_config, "%s", yaml);
}

static void no_op(uv_timer_t *t)
{
    (void)t;
}

struct world *world_new_writers(int64_t master, int64_t w2)
{
    struct world *w = xcalloc(1, sizeof *w);
    struct err e;
    char yaml[2048];
    the_world = w;
    w->text = arena_new((size_t)1 << 30);
    uv_loop_init(&w->loop);
    uv_timer_init(&w->loop, &w->alive); /* keeps the loop alive: the model's own handles do not */
    uv_timer_start(&w->alive, no_op, 3600 * 1000, 0);
    snprintf(yaml, sizeof yaml,
             "server_name: x\nworker_name: c1\nworker_app: synapse.app.generic_worker\ndatabase: {name: "
             "psycopg2, args: {dbname: d}}\n"
             "redis: {enabled: true}\ninstance_map: {main: {host: localhost, port: 1}}\nmacaroon_secret_key: "
             "k\n%s",
             more_config);
    more_config[0] = 0;
    w->cfg = config_load_text(str_of(yaml), &e);
    if (!w->cfg)
        fail_msg("%s", e.text);
    w->feed = FEED_LIVE;
    for (int s = 0; s < STREAM_COUNT; s++) {
        w->start[s] = positions_new();
        positions_init_writer(w->start[s], MASTER, s == STREAM_EVENTS ? master : 100);
        if (s == STREAM_EVENTS && w2 >= 0)
            positions_init_writer(w->start[s], W2, w2);
        positions_init_seal(w->start[s], NULL, 0);
    }
    struct model_hooks hooks = {w, on_wake, on_wake_more, on_cache_row, on_cache_flush, NULL};
    assert_int_equal(model_start(&w->m, &w->loop, w->cfg, (struct pg *)(void *)w, &hooks, &e), 0);
    w->sink = model_sink(w->m);
    return w;
}

struct world *world_new(void)
{
    return world_new_writers(100, -1);
}

void world_free(struct world **wp)
{
    struct world *w = *wp;
    world_stop_pg(w);
    if (w->m)
        model_stop(&w->m);
    world_stop_pg(w);
    for (int k = MEM_rooms; k <= MEM_presence; k++)
        assert_int_equal(mem_bytes((enum mem_kind)k), 0);
    uv_close((uv_handle_t *)&w->alive, NULL);
    for (int i = 0; i < 20 && uv_run(&w->loop, UV_RUN_NOWAIT); i++)
        ;
    assert_int_equal(uv_loop_close(&w->loop), 0);
    for (int s = 0; s < STREAM_COUNT; s++)
        positions_free(&w->start[s]);
    config_free(&w->cfg);
    arena_free(&w->text);
    vec_free(&w->events);
    vec_free(&w->redactions);
    vec_free(&w->relations);
    vec_free(&w->bans);
    vec_free(&w->gaps);
    vec_free(&w->actions);
    vec_free(&w->state);
    vec_free(&w->groups);
    vec_free(&w->deltas);
    vec_free(&w->sticky);
    vec_free(&w->receipts);
    vec_free(&w->members);
    vec_free(&w->own);
    vec_free(&w->data);
    vec_free(&w->tags);
    vec_free(&w->ignored);
    vec_free(&w->features);
    vec_free(&w->full_presence);
    vec_free(&w->filters);
    vec_free(&w->erased);
    vec_free(&w->partial);
    vec_free(&w->rules_stream);
    vec_free(&w->sequences);
    vec_free(&w->facts);
    vec_free(&w->inbox);
    vec_free(&w->keys);
    vec_free(&w->dl);
    vec_free(&w->presence);
    vec_free(&w->unread);
    vec_free(&w->tokens);
    vec_free(&w->answers);
    vec_free(&w->woken);
    vec_free(&w->cache_rows);
    free(w);
    *wp = NULL;
}

/* ---- making things happen ---- */

const char *world_text(struct world *w, const char *fmt, ...)
{
    char b[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(b, sizeof b, fmt, ap);
    va_end(ap);
    return arena_str(w->text, str_of(b)).p;
}

int64_t world_group(struct world *w, const char *room)
{
    int64_t g = 0;
    for (size_t i = 0; i < w->events.n; i++) {
        if (!strcmp(w->events.v[i].room, room) && w->events.v[i].sg > g)
            g = w->events.v[i].sg;
    }
    return g;
}

static void become_state(struct world *w, const struct t_event *e, const char *membership)
{
    for (size_t i = 0; i < w->state.n; i++) {
        struct t_state *s = &w->state.v[i];
        if (!strcmp(s->room, e->room) && !strcmp(s->type, e->type) && !strcmp(s->key, e->key)) {
            s->event = e->id, s->membership = membership, s->stream = e->stream;
            return;
        }
    }
    world_add(&w->state, .room = e->room, .type = e->type, .key = e->key, .event = e->id,
              .membership = membership, .stream = e->stream);
}

static const char *membership_in(struct world *w, const char *content)
{
    const char *p = strstr(content, "\"membership\":\"");
    return p ? world_text(w, "%.*s", (int)strcspn(p + 14, "\""), p + 14) : NULL;
}

struct t_event *world_event(struct world *w, struct t_event e)
{
    if (!e.type)
        e.type = "m.room.message";
    if (!e.sender)
        e.sender = "@a:x";
    if (!e.content)
        e.content = "{}";
    if (!e.writer)
        e.writer = MASTER;
    if (!e.topo)
        e.topo = e.stream;
    bool member = e.key && !strcmp(e.type, "m.room.member");
    if (!e.sg && !e.outlier) {
        int64_t prev = world_group(w, e.room);
        e.sg = e.key && !e.rejected ? 1000 + e.stream : prev;
        if (e.key && !e.rejected)
            world_add(&w->groups, .id = e.sg, .prev = prev, .type = e.type, .key = e.key, .event = e.id);
    }
    if (!e.json) {
        const char *key = e.key ? world_text(w, "\"state_key\":\"%s\",", e.key) : "";
        const char *un = e.replaces ? world_text(w, "\"replaces_state\":\"%s\"", e.replaces) : "";
        const char *red = e.redacts ? world_text(w, "\"redacts\":\"%s\",", e.redacts) : "";
        e.json =
            world_text(w,
                       "{\"auth_events\":[],\"content\":%s,\"depth\":%lld,\"hashes\":{},\"origin_server_ts\":"
                       "1000,\"prev_events\":[%s%s%s],%s%s%s\"room_id\":\"%s\","
                       "\"sender\":\"%s\",\"type\":\"%s\",\"unsigned\":{%s}}",
                       e.content, (long long)e.topo, e.prev ? "\"" : "", e.prev ? e.prev : "",
                       e.prev ? "\"" : "", key, red, e.extra ? e.extra : "", e.room, e.sender, e.type, un);
    }
    vec_push(&w->events, e);
    if (e.redacts)
        world_add(&w->redactions, .by = e.id, .redacts = e.redacts);
    if (e.relates)
        world_add(&w->relations, e.relates, e.rel, e.id, e.sender);
    const char *ms = member ? membership_in(w, e.content) : NULL;
    if (e.key && !e.rejected && !e.outlier) {
        become_state(w, &e, ms);
        world_add(&w->deltas, e.room, e.type, e.key, e.id, e.stream, e.writer);
    }
    if (ms) {
        struct t_member row = {e.key, e.room, e.sender, ms, e.id, e.stream, e.writer, false, e.version};
        vec_push(&w->own, row);
        for (size_t i = 0; i < w->members.n && !e.rejected; i++) {
            if (!strcmp(w->members.v[i].user, e.key) && !strcmp(w->members.v[i].room, e.room)) {
                w->members.v[i] = row;
                return &w->events.v[w->events.n - 1];
            }
        }
        if (!e.rejected)
            vec_push(&w->members, row);
    }
    return &w->events.v[w->events.n - 1];
}

void world_send(struct world *w, enum stream s, int writer, int64_t token, const struct feed_row *row)
{
    w->sink.rows(w->sink.arg, s, writer, token, row, row ? 1 : 0);
}

void world_position(struct world *w, enum stream s, int writer, int64_t token)
{
    world_send(w, s, writer, token, NULL);
}

void world_burst_end(struct world *w)
{
    w->sink.burst_end(w->sink.arg);
}

void world_send_event(struct world *w, const struct t_event *e)
{
    struct feed_row row = {.ev = {.kind = EV_ROW_EV,
                                  .event_id = str_of(e->id),
                                  .room_id = str_of(e->room),
                                  .type = str_of(e->type),
                                  .state_key = str_of(e->key),
                                  .redacts = str_of(e->redacts),
                                  .relates_to = str_of(e->relates),
                                  .rejected = e->rejected != NULL,
                                  .outlier = e->outlier}};
    world_send(w, STREAM_EVENTS, e->writer, e->stream, &row);
}

void world_send_state(struct world *w, const struct t_event *e, bool with_event)
{
    struct feed_row row = {.ev = {.kind = EV_ROW_STATE,
                                  .event_id = with_event ? str_of(e->id) : STR_ABSENT,
                                  .room_id = str_of(e->room),
                                  .type = str_of(e->type),
                                  .state_key = str_of(e->key)}};
    world_send(w, STREAM_EVENTS, e->writer, e->stream, &row);
}

void world_say(struct world *w, struct t_event in)
{
    struct t_event e = *world_event(w, in);
    world_send_event(w, &e);
    if (e.key && !e.rejected && !e.outlier)
        world_send_state(w, &e, true);
}

int64_t world_room(struct world *w, const char *room, int64_t first, const char *history, ...)
{
    int64_t s = first;
    const char *prev = world_text(w, "$create%s", room);
    world_event(w, (struct t_event){.id = prev,
                                    .room = room,
                                    .type = "m.room.create",
                                    .key = "",
                                    .stream = s,
                                    .content = "{\"creator\":\"@a:x\"}"});
    va_list ap;
    va_start(ap, history);
    for (const char *user; (user = va_arg(ap, const char *));) {
        const char *id = world_text(w, "$join%s%s", user, room);
        world_event(w, (struct t_event){.id = id,
                                        .room = room,
                                        .type = "m.room.member",
                                        .key = user,
                                        .sender = user,
                                        .stream = ++s,
                                        .prev = prev,
                                        .content = "{\"membership\":\"join\"}"});
        prev = id;
    }
    va_end(ap);
    if (history)
        world_event(w,
                    (struct t_event){.id = world_text(w, "$hv%s", room),
                                     .room = room,
                                     .type = "m.room.history_visibility",
                                     .key = "",
                                     .stream = ++s,
                                     .prev = prev,
                                     .content = world_text(w, "{\"history_visibility\":\"%s\"}", history)});
    return s;
}
