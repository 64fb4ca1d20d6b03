/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The presence section (sync-v3 3.10; Synapse 1.157 handlers/presence.py, PresenceEventSource): whose state
 * changed since the token, or on an initial sync everybody's who is not offline, among those one shares a
 * room with.
 */
#include "sync_int.h"

struct collect {
    struct sync_run *run;
    struct smap seen; /* user id -> struct presence, or the run itself for "default offline" */
    VEC(struct str) users;
    bool exclude_offline;
    struct room *extra; /* whose members count though one is not in it */
};

static bool room_counts(const struct sync_run *run, const struct room *r)
{
    for (size_t i = 0; i < run->cfg->exclude_rooms_from_presence_count; i++) {
        if (str_eq(run->cfg->exclude_rooms_from_presence[i], r->room_id))
            return false;
    }
    return true;
}

static bool interested(struct sync_run *run, struct str user_id)
{
    if (str_eq(user_id, run->u->user_id))
        return true;
    run_joined(run);
    for (size_t i = 0; i < run->joined_count; i++) {
        struct room *r = run->joined[i];
        if (!room_counts(run, r) || !run_have(run, model_room_state(run->m, r)))
            continue;
        struct member *mb = room_member_get(r, user_id);
        if (mb && mb->membership == MEMBERSHIP_JOIN)
            return true;
    }
    return false;
}

static void add_user(struct collect *c, struct str user_id)
{
    if (smap_get(&c->seen, user_id))
        return;
    struct str id = arena_str(c->run->a, user_id);
    smap_put(&c->seen, id, c->run);
    vec_push(&c->users, id);
}

static void on_changed(void *arg, const struct presence *p)
{
    struct collect *c = arg;
    if (c->exclude_offline && str_eq(p->state, STR("offline")))
        return;
    struct member *mb = NULL;
    if (c->extra && run_have(c->run, model_room_state(c->run->m, c->extra)))
        mb = room_member_get(c->extra, p->user_id);
    if ((mb && mb->membership == MEMBERSHIP_JOIN) || interested(c->run, p->user_id))
        add_user(c, p->user_id);
}

void put_presence_members(struct sync_run *run, struct buf *b, struct str user_id)
{
    const struct presence *p = model_presence(run->m, user_id);
    buf_put(b, STR("\"presence\":"));
    json_write_str(b, p ? p->state : STR("offline"), 0);
    if (p && p->last_active_ts) {
        buf_put(b, STR(",\"last_active_ago\":"));
        buf_i64(b, run->wall_ms - p->last_active_ts);
    }
    if (p && p->status_msg.n) {
        buf_put(b, STR(",\"status_msg\":"));
        json_write_str(b, p->status_msg, 0);
    }
    if (p && str_eq(p->state, STR("online"))) {
        buf_put(b, STR(",\"currently_active\":"));
        buf_put(b, p->currently_active ? STR("true") : STR("false"));
    }
}

static void put_presence(struct sync_run *run, struct buf *b, struct str user_id)
{
    buf_put(b, b->n ? STR(",{\"type\":\"m.presence\",\"sender\":")
                    : STR("{\"type\":\"m.presence\",\"sender\":"));
    json_write_str(b, user_id, 0);
    buf_put(b, STR(",\"content\":{"));
    put_presence_members(run, b, user_id);
    buf_put(b, STR("}}"));
}

static void add_members(struct collect *c, struct room *r)
{
    if (!run_have(c->run, model_room_state(c->run->m, r)))
        return;
    size_t it = 0;
    for (struct member *mb; (mb = smap_next(&r->members, &it));) {
        if (mb->membership == MEMBERSHIP_JOIN && !str_eq(mb->user_id, c->run->u->user_id))
            add_user(c, mb->user_id);
    }
}

/* Oneself and whomever one shares a room with, whether they ever had a presence or not. */
static void add_everybody(struct collect *c)
{
    add_user(c, c->run->u->user_id);
    run_joined(c->run);
    for (size_t i = 0; i < c->run->joined_count; i++) {
        if (room_counts(c->run, c->run->joined[i]))
            add_members(c, c->run->joined[i]);
    }
}

/* Those who have just come into view: members of rooms newly joined, users newly joined. Default offline too.
 */
static void add_newcomers(struct collect *c)
{
    struct sync_run *run = c->run;
    for (size_t i = 0; i < run->newly_joined_rooms.v.n; i++)
        add_members(c, model_room(run->m, run->newly_joined_rooms.v.v[i]));
    for (size_t i = 0; i < run->newly_joined_users.v.n; i++) {
        if (!str_eq(run->newly_joined_users.v.v[i], run->u->user_id))
            add_user(c, run->newly_joined_users.v.v[i]);
    }
}

/* Of an active user it is known when anybody's presence last concerned it; not of rooms that it looks into
 * from outside. */
static bool may_concern(const struct collect *c)
{
    const struct sync_run *run = c->run;
    return c->extra || !run->u->active || run->u->presence_news > run->since.presence;
}

static void collect_presence(struct collect *c)
{
    struct sync_run *run = c->run;
    bool full = !run->has_since || run->full_state;
    bool exclude_offline = full && !run->cfg->presence.include_offline_users_on_sync;
    if (!full) {
        if (!run_have(run, model_full_presence(run->m, run->u)))
            return;
        if (run->u->full_presence && run->u->more->full_presence_stream >= run->since.presence)
            full = exclude_offline = true;
        else if (run->since.presence == run->now.presence || !may_concern(c))
            return;
    }
    c->exclude_offline = exclude_offline;
    if (!full)
        model_presence_changed(run->m, run->since.presence, on_changed, c);
    else if (exclude_offline)
        model_presence_each(run->m, on_changed, c);
    else
        add_everybody(c);
}

void run_presence(struct sync_run *run)
{
    bool blocked = filter_blocks_section(&run->f->presence, false);
    bool wanted = run->cfg->presence.enabled || (run->has_since && run->since.presence < run->now.presence);
    if (!wanted || blocked)
        return;
    struct collect c = {.run = run};
    smap_init(&c.seen);
    collect_presence(&c);
    add_newcomers(&c);
    struct buf b;
    buf_init(&b, 256 << 20);
    for (size_t i = 0; i < c.users.n && !run->lack; i++) {
        if (filter_match_presence(run->f, c.users.v[i]))
            put_presence(run, &b, c.users.v[i]);
    }
    if (b.n)
        run->presence_events = arena_str(run->a, buf_str(&b));
    buf_fini(&b);
    smap_fini(&c.seen);
    vec_free(&c.users);
}

void run_presence_users(struct sync_run *run, struct room *extra, struct str **users, size_t *n)
{
    struct collect c = {.run = run, .extra = extra, .exclude_offline = !run->has_since};
    smap_init(&c.seen);
    if (!run->has_since)
        model_presence_each(run->m, on_changed, &c);
    else
        collect_presence(&c);
    *users = ARENA_ARRAY(run->a, struct str, c.users.n + 1);
    if (c.users.n)
        memcpy(*users, c.users.v, c.users.n * sizeof **users);
    *n = run->lack ? 0 : c.users.n;
    smap_fini(&c.seen);
    vec_free(&c.users);
}
