/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Presence: the newest state of every user that has one, and a log of recent changes. Loaded whole at start
 * (one row a user), then fed by the presence stream, whose rows are complete.
 */
#include "model_int.h"

enum { PRESENCE_LOG_MAX = 100000 };

static void presence_free(struct presence *p)
{
    if (p) {
        mem_str_free(MEM_presence, p->user_id);
        mem_str_free(MEM_presence, p->state);
        mem_str_free(MEM_presence, p->status_msg);
        mem_free(MEM_presence, p);
    }
}

const struct presence *model_presence(struct model *m, struct str user_id)
{
    return smap_get(&m->presence, user_id);
}

static struct presence *presence_put(struct model *m, struct str user_id, struct str state,
                                     struct str status_msg, int64_t last_active_ts, bool currently_active,
                                     int64_t stream)
{
    struct presence *p = smap_get(&m->presence, user_id);
    if (!p) {
        p = MEM_NEW(MEM_presence, struct presence);
        p->user_id = mem_str(MEM_presence, user_id);
        smap_put(&m->presence, p->user_id, p);
    }
    if (!str_eq(p->state, state)) {
        mem_str_free(MEM_presence, p->state);
        p->state = mem_str(MEM_presence, state);
    }
    if (str_absent(p->status_msg) != str_absent(status_msg) || !str_eq(p->status_msg, status_msg)) {
        mem_str_free(MEM_presence, p->status_msg);
        p->status_msg = mem_str(MEM_presence, status_msg);
    }
    p->last_active_ts = last_active_ts;
    p->currently_active = currently_active;
    p->stream = stream;
    return p;
}

/* Is the change worth waking anybody (Synapse 1.157 handlers/presence.py should_notify)? The writer also
 * streams its internal timer updates. */
static bool notifiable(const struct model *m, const struct presence *old, const struct feed_row *row)
{
    int64_t moved = row->presence.last_active_ts - old->last_active_ts;
    if (!str_eq(old->status_msg, row->presence.status_msg) || !str_eq(old->state, row->presence.state))
        return true;
    if (str_eq(old->state, STR("online"))) {
        if (old->currently_active != row->presence.currently_active)
            return true;
        return moved > m->cfg->presence.last_active_granularity_ms && !row->presence.currently_active;
    }
    return moved > m->cfg->presence.last_active_granularity_ms;
}

static bool excluded(const struct config *cfg, struct str room_id)
{
    for (size_t i = 0; i < cfg->exclude_rooms_from_presence_count; i++) {
        if (str_eq(cfg->exclude_rooms_from_presence[i], room_id))
            return true;
    }
    return false;
}

/* Also of a change that wakes nobody: the next answer has it. */
static void concern_user(struct model *m, struct user *u, int64_t stream, bool wake)
{
    if (stream > u->presence_news)
        u->presence_news = stream;
    user_stir(m, u);
    if (wake)
        model_wake_user(m, u);
}

static void concern_room(struct model *m, struct room *r, int64_t stream, bool wake)
{
    for (size_t i = 0; i < r->active.n; i++)
        concern_user(m, r->active.v[i]->user, stream, wake);
}

/* Tells those who share a room with the user: through its own rooms when they are in memory, else through
 * everybody's. */
static void tell_sharing(struct model *m, struct str user_id, int64_t stream, bool wake)
{
    struct user *u = kmap_get(&m->users, user_id);
    if (u)
        concern_user(m, u, stream, wake);
    size_t it = 0;
    if (u && u->parts.rooms.load == LOAD_DONE && !u->parts.rooms.stale) {
        for (struct membership_row *row; (row = kmap_next(&u->rooms, &it));) {
            if (row->membership == MEMBERSHIP_JOIN && !excluded(m->cfg, row->room->room_id))
                concern_room(m, row->room, stream, wake);
        }
        return;
    }
    for (struct room *r; (r = smap_next(&m->rooms, &it));) {
        if (r->active.n == 0 || excluded(m->cfg, r->room_id))
            continue;
        if (r->state_load != LOAD_DONE ||
            r->state_stale) { /* not known who is in: a superfluous wake-up is harmless */
            concern_room(m, r, stream, wake);
            continue;
        }
        struct member *mb = room_member_get(r, user_id);
        if (mb && mb->membership == MEMBERSHIP_JOIN)
            concern_room(m, r, stream, wake);
    }
}

static void log_trim(struct model *m)
{
    if (m->presence_log.n <= PRESENCE_LOG_MAX)
        return;
    size_t drop = PRESENCE_LOG_MAX / 2;
    m->presence_floor = m->presence_log.v[drop - 1].stream;
    memmove(m->presence_log.v, m->presence_log.v + drop,
            (m->presence_log.n - drop) * sizeof m->presence_log.v[0]);
    m->presence_log.n -= drop;
}

void presence_row(struct model *m, int64_t token, const struct feed_row *row)
{
    const struct presence *old = model_presence(m, row->presence.user_id);
    bool wake = !old || notifiable(m, old, row);
    struct presence *p = presence_put(m, row->presence.user_id, row->presence.state, row->presence.status_msg,
                                      row->presence.last_active_ts, row->presence.currently_active, token);
    vec_push_of(MEM_presence, &m->presence_log, ((struct presence_change){token, p}));
    log_trim(m);
    tell_sharing(m, row->presence.user_id, token, wake);
}

void model_presence_changed(struct model *m, int64_t pos, void (*fn)(void *arg, const struct presence *p),
                            void *arg)
{
    if (pos < m->presence_floor) {
        size_t it = 0;
        for (struct presence *p; (p = smap_next(&m->presence, &it));) {
            if (p->stream > pos)
                fn(arg, p);
        }
        return;
    }
    for (size_t i = m->presence_log.n; i-- > 0 && m->presence_log.v[i].stream > pos;) {
        /* only the newest change of a user counts */
        if (m->presence_log.v[i].p->stream == m->presence_log.v[i].stream)
            fn(arg, m->presence_log.v[i].p);
    }
}

void model_presence_each(struct model *m, void (*fn)(void *arg, const struct presence *p), void *arg)
{
    size_t it = 0;
    for (struct presence *p; (p = smap_next(&m->presence, &it));)
        fn(arg, p);
}

static void on_all(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    if (!r) {
        m->retry_presence = true;
        return;
    }
    for (int i = 0; i < pg_rows(r); i++) {
        const struct presence *known = model_presence(m, pg_str(r, i, 0));
        if (known && known->stream >= pg_i64(r, i, 5))
            continue; /* a live row was faster */
        presence_put(m, pg_str(r, i, 0), pg_str(r, i, 1), pg_str(r, i, 3), pg_i64(r, i, 2),
                     pg_i64(r, i, 4) != 0, pg_i64(r, i, 5));
    }
    m->starting--;
}

static void erased_clear(struct model *m)
{
    size_t it = 0;
    for (struct str *s; (s = smap_next(&m->erased, &it));)
        free(s);
    smap_fini(&m->erased);
    smap_init(&m->erased);
}

static void on_erased(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    if (!r) { /* never taken for "nobody" */
        m->retry_erased = true;
        return;
    }
    m->rooms_serial++;
    erased_clear(m); /* an erasure can be taken back */
    for (int i = 0; i < pg_rows(r); i++) {
        struct str id = pg_str(r, i, 0);
        struct str *s = xmalloc(sizeof *s + id.n + 1);
        memcpy(s + 1, id.p, id.n);
        *s = str_n((char *)(s + 1), id.n);
        free(smap_put(&m->erased, *s, s));
    }
    m->starting--;
}

void erased_load(struct model *m)
{
    load_op_send(load_op_new(m, NULL, on_erased), SQL_erased_all, pg_args_new());
}

void erased_reload(struct model *m)
{
    m->starting++;
    erased_load(m);
}

bool model_erased(struct model *m, struct str user_id)
{
    return smap_get(&m->erased, user_id) != NULL;
}

void presence_load(struct model *m)
{
    load_op_send(load_op_new(m, NULL, on_all), SQL_presence_all, pg_args_new());
}

void presence_start(struct model *m)
{
    m->presence_floor = positions_persisted_upto(m->pos[STREAM_PRESENCE]);
    m->starting++;
    presence_load(m);
    erased_reload(m);
}

void presence_fini(struct model *m)
{
    size_t it = 0;
    for (struct presence *p; (p = smap_next(&m->presence, &it));)
        presence_free(p);
    smap_fini(&m->presence);
    vec_free_of(MEM_presence, &m->presence_log);
    erased_clear(m);
    smap_fini(&m->erased);
}
