/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The model's life: its objects, where it stands, who is to be woken, what is forgotten.
 *
 * An object absorbs rows from the moment it is made, so "since_*" is the position at that moment. Eviction
 * drops events by least recent use, then users nobody has asked for in a while, then rooms no user points to;
 * a room that comes back starts with a new since_*, and what lies before it is loaded as for any cold room.
 *
 * The budget is about everything that the model has allocated (the kinds of tbl/memory.def that are its own).
 * When it is passed, rooms in turn forget what can be asked for again (which state held where, old timelines,
 * the state of rooms that nobody here waits for), then events go. What is left is what parked polls need;
 * that an eighth of the budget stays with rooms and with events keeps a budget that is too small from
 * emptying them with every tick.
 */
#include "model_int.h"

enum {
    TICK_MS = 1000,
    IDLE_USER_MS = 30 * 60 * 1000,
    IDLE_ROOM_MS = 10 * 60 * 1000,
    PRESSED_MS = 60 * 1000, /* either, while more is held than the budget allows */
    GROUPS_MAX = 2000,      /* of a room; there are as many as it has had states */
    TIMELINE_KEPT = 20,     /* of a room that is made to shrink */
    WAKE_AT_ONCE = 64,      /* users */
};

const struct config *model_config(const struct model *m)
{
    return m->cfg;
}

bool model_ready(const struct model *m)
{
    return m->feed && m->starting == 0;
}

/* ---- objects ---- */

struct room *model_room_find(struct model *m, struct str room_id)
{
    return smap_get(&m->rooms, room_id);
}

static void room_partial_take(struct room *r, const struct partial_room *p)
{
    r->partial = p && p->now;
    r->un_partial = p ? p->ceased : 0;
}

struct room *model_room(struct model *m, struct str room_id)
{
    struct room *r = smap_get(&m->rooms, room_id);
    if (r)
        return r;
    r = MEM_NEW(MEM_rooms, struct room);
    r->room_id = mem_str(MEM_rooms, room_id);
    r->id_hash = smap_hash(room_id);
    r->since_events = positions_mpos(m->pos[STREAM_EVENTS]);
    r->since_receipts = positions_mpos(m->pos[STREAM_RECEIPTS]);
    smap_init_of(&r->state, MEM_rooms);
    smap_init_of(&r->members, MEM_rooms);
    imap_init_of(&r->groups, MEM_state_groups);
    list_init(&r->relations);
    list_push(&m->room_lru, &r->lru);
    smap_put(&m->rooms, r->room_id, r);
    room_partial_take(r, smap_get(&m->partial, room_id));
    r->used_ms = clock_mono_coarse_ms();
    return r;
}

void model_room_free(struct model *m, struct room *r)
{
    m->serial++;                      /* its address may be another room's */
    m->rooms_serial += 1 + r->serial; /* so that the sum grows, should another room stand there */
    smap_del(&m->rooms, r->room_id);
    list_del(&r->lru);
    room_tl_free(m, r);
    room_state_drop(m, r);
    room_deltas_drop(m, r);
    smap_fini(&r->state);
    smap_fini(&r->members);
    room_groups_free(m, r);
    room_receipts_free(r);
    relations_room_free(m, r);
    for (size_t i = 0; i < r->typing.n; i++)
        mem_str_free(MEM_rooms, r->typing.v[i]);
    vec_free_of(MEM_rooms, &r->typing);
    vec_free_of(MEM_rooms, &r->active);
    mem_str_free(MEM_rooms, r->room_id);
    mem_free(MEM_rooms, r);
}

struct user *model_user_find(struct model *m, struct str user_id)
{
    return kmap_get(&m->users, user_id);
}

static bool is_local(const struct model *m, struct str user_id)
{
    struct str s = m->cfg->server_name;
    return user_id.n > s.n + 1 && str_ends(user_id, s) && user_id.p[user_id.n - s.n - 1] == ':';
}

const struct user_more user_more_none;

static struct user_more *more_none(void)
{
    return (struct user_more *)(uintptr_t)&user_more_none;
}

struct user_more *model_user_more(struct user *u)
{
    if (u->more == &user_more_none) {
        u->more = MEM_NEW(MEM_users, struct user_more);
        smap_init_of(&u->more->account_data, MEM_users);
        smap_init_of(&u->more->room_account_data, MEM_users);
        smap_init_of(&u->more->tags, MEM_users);
        smap_init_of(&u->more->ignored, MEM_users);
    }
    return u->more;
}

void model_user_more_drop(struct user *u)
{
    const struct user_more *x = u->more;
    if (x == &user_more_none || x->ad_last || smap_count(&x->account_data) ||
        smap_count(&x->room_account_data) || smap_count(&x->tags) || smap_count(&x->ignored) ||
        x->push_rules || x->push_rules_stream || u->full_presence || x->initial_turn || x->own || x->dl)
        return;
    mem_free(MEM_users, u->more);
    u->more = more_none();
}

struct user *model_user(struct model *m, struct str user_id)
{
    struct user *u = kmap_get(&m->users, user_id);
    if (u)
        return u;
    u = MEM_NEW(MEM_users, struct user);
    u->user_id = mem_str(MEM_users, user_id);
    u->local = is_local(m, user_id);
    struct mpos since = positions_mpos(m->pos[STREAM_EVENTS]);
    u->since_events = mpos_keep(MEM_users, &m->kept_user, &since);
    u->td_last = positions_persisted_upto(m->pos[STREAM_TO_DEVICE]);
    user_stir(m, u);
    kmap_init_behind(&u->rooms);
    kmap_init_behind(&u->unread);
    kmap_init(&u->devices);
    u->more = more_none();
    list_init(&u->waiters);
    list_init(&u->running);
    kmap_put(MEM_users, &m->users, u);
    u->used_ms = u->presence_ms = (uint32_t)clock_mono_coarse_ms();
    return u;
}

void model_user_free(struct model *m, struct user *u)
{
    ASSERT(u->pins == 0);
    kmap_del(&m->users, u->user_id);
    user_data_free(m, u);
    if (u->more != &user_more_none)
        mem_free(MEM_users, u->more);
    mpos_unref(MEM_users, &u->since_events);
    mem_str_free(MEM_users, u->user_id);
    mem_free(MEM_users, u);
}

void model_user_pin(struct model *m, struct user *u)
{
    (void)m;
    u->pins++;
    u->used_ms = (uint32_t)clock_mono_coarse_ms();
}

void model_user_unpin(struct model *m, struct user *u)
{
    (void)m;
    ASSERT(u->pins > 0);
    u->pins--;
    u->used_ms = (uint32_t)clock_mono_coarse_ms();
    if (list_empty(&u->running)) /* parked polls do not need it */
        account_shrink(u);
}

struct device *model_device(struct model *m, struct user *u, struct str device_id)
{
    struct device *d = kmap_get(&u->devices, device_id);
    if (d)
        return d;
    d = mem_new(MEM_devices, offsetof(struct device, text) + device_id.n);
    if (device_id.n)
        memcpy(d->text, device_id.p, device_id.n);
    d->device_id = str_n(d->text, device_id.n);
    d->user = u;
    d->td_deleted_upto = -1;
    d->td_seen_upto = positions_persisted_upto(m->pos[STREAM_TO_DEVICE]);
    kmap_put(MEM_users, &u->devices, d);
    return d;
}

writer_id model_writer(struct model *m, struct str name)
{
    return str_absent(name) ? feed_master() : feed_writer_id(m->feed, name);
}

/* ---- where we stand ---- */

static void now_render(struct model *m)
{
    if (!m->now_dirty)
        return;
    m->now_dirty = false;
    struct stream_token *t = &m->now;
    t->room = positions_mpos(m->pos[STREAM_EVENTS]);
    t->presence = positions_persisted_upto(m->pos[STREAM_PRESENCE]);
    t->typing = m->typing_serial;
    t->receipt = positions_mpos(m->pos[STREAM_RECEIPTS]);
    t->account_data = positions_persisted_upto(m->pos[STREAM_ACCOUNT_DATA]);
    t->push_rules = positions_persisted_upto(m->pos[STREAM_PUSH_RULES]);
    t->to_device = positions_persisted_upto(m->pos[STREAM_TO_DEVICE]);
    t->device_list = positions_mpos(m->pos[STREAM_DEVICE_LISTS]);
    t->un_partial_stated_rooms = positions_max(m->pos[STREAM_UN_PARTIAL_STATED_ROOM]);
    t->thread_subscriptions = positions_persisted_upto(m->pos[STREAM_THREAD_SUBSCRIPTIONS]);
    t->sticky_events = release_has(RELEASE_STICKY_BY_WRITERS)
                           ? positions_mpos(m->pos[STREAM_STICKY_EVENTS])
                           : mpos_of(positions_persisted_upto(m->pos[STREAM_STICKY_EVENTS]));
    t->profile_updates = positions_persisted_upto(m->pos[STREAM_PROFILE_UPDATES]);
    t->quarantined_media = positions_mpos(m->pos[STREAM_QUARANTINED_MEDIA]);
    char text[TOKEN_TEXT_MAX];
    size_t n = token_format(t, text);
    if (n == m->now_text_n && memcmp(text, m->now_text, n) == 0)
        return;
    memcpy(m->now_text, text, n);
    m->now_text_n = n;
    version_next(m);
}

const struct stream_token *model_now(struct model *m)
{
    now_render(m);
    return &m->now;
}

struct str model_now_text(struct model *m)
{
    now_render(m);
    return str_n(m->now_text, m->now_text_n);
}

uint64_t model_serial(const struct model *m)
{
    return m->serial;
}

/* Both only grow: the sum is the same when neither has. */
uint64_t model_room_serial(const struct model *m, const struct room *r)
{
    return m->rooms_serial + r->serial;
}

/* ---- waking ---- */

static void wake(struct model *m, struct user *u)
{
    if (u->woken || u->pins == 0)
        return;
    u->woken = true;
    if (m->woken_last)
        m->woken_last->woken_after = u;
    else
        m->woken_first = u;
    m->woken_last = u;
}

void model_wake_user(struct model *m, struct user *u)
{
    user_stir(m, u);
    wake(m, u);
}

void model_wake_user_news(struct model *m, struct user *u)
{
    u->stirred = m->version;
    wake(m, u);
}

void model_wake_room(struct model *m, struct room *r)
{
    for (size_t i = 0; i < r->active.n; i++)
        model_wake_user(m, r->active.v[i]->user);
}

bool model_wakes(const struct model *m)
{
    return m->woken_first != NULL;
}

bool model_wake_more(struct model *m)
{
    struct user *u;
    for (int i = 0; i < WAKE_AT_ONCE && (u = m->woken_first); i++) {
        m->woken_first = u->woken_after;
        if (!m->woken_first)
            m->woken_last = NULL;
        mem_soon(u->woken_after, sizeof *u);
        u->woken_after = NULL;
        u->woken = false;
        m->hooks.wake(m->hooks.arg, u);
    }
    return model_wakes(m);
}

/* Of a large room's members the first have their answers before the last are looked at: what is looked at
 * twice is then still near. */
void model_run_woken(struct model *m)
{
    bool more = model_wake_more(m);
    if (more && m->hooks.wake_more)
        m->hooks.wake_more(m->hooks.arg);
    while (more && !m->hooks.wake_more)
        more = model_wake_more(m);
}

/* ---- partial state ---- */

static struct partial_room *partial_of(struct model *m, struct str room_id)
{
    struct partial_room *p = smap_get(&m->partial, room_id);
    if (p)
        return p;
    p = xcalloc(1, sizeof *p + room_id.n + 1);
    memcpy(p + 1, room_id.p, room_id.n);
    p->room_id = str_n((char *)(p + 1), room_id.n);
    smap_put(&m->partial, p->room_id, p);
    return p;
}

/* What was read is no older than what is known: positions only grow. Readers may see a room that was hidden.
 */
static void on_partial(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    if (!r) {
        m->retry_partial = true;
        return;
    }
    m->starting--;
    size_t it = 0;
    for (struct partial_room *p; (p = smap_next(&m->partial, &it));)
        p->now = false;
    for (int i = 0; i < pg_rows(r); i++) {
        struct partial_room *p = partial_of(m, pg_str(r, i, 0));
        int64_t ceased = pg_i64(r, i, 1);
        p->now |= ceased == 0;
        p->ceased = ceased > p->ceased ? ceased : p->ceased;
    }
    it = 0;
    for (struct partial_room *p; (p = smap_next(&m->partial, &it));) {
        struct room *room = model_room_find(m, p->room_id);
        if (!room)
            continue;
        bool shown = room->partial && !p->now;
        room_partial_take(room, p);
        if (shown)
            model_wake_room(m, room);
    }
    model_run_woken(m);
}

/* A row says so: who waits need not wait for the table to be read again. */
void partial_ceased(struct model *m, struct str room_id, int64_t stream)
{
    struct partial_room *p = partial_of(m, room_id);
    struct room *room = model_room_find(m, room_id);
    p->now = false;
    p->ceased = stream > p->ceased ? stream : p->ceased;
    if (room) {
        room_partial_take(room, p);
        model_wake_room(m, room);
    }
}

static void partial_load(struct model *m)
{
    load_op_send(load_op_new(m, NULL, on_partial), SQL_partial_rooms, pg_args_new());
}

void partial_reload(struct model *m)
{
    m->starting++;
    partial_load(m);
}

static void retry(struct model *m, bool *flag, void (*load)(struct model *m))
{
    if (*flag) {
        *flag = false;
        load(m);
    }
}

/* ---- forgetting ---- */

static bool room_idle(const struct room *r, int64_t now, int64_t idle_ms)
{
    return r->refs == 0 && r->active.n == 0 && r->typing.n == 0 && now - r->used_ms > idle_ms &&
           r->tl_load == LOAD_NONE && r->topo_load == LOAD_NONE && r->gaps_load != LOAD_QUEUED &&
           r->gaps_load != LOAD_BUSY && r->state_load != LOAD_QUEUED && r->state_load != LOAD_BUSY &&
           r->rc_load == LOAD_NONE && r->deltas_load == LOAD_NONE;
}

static bool loading(uint8_t load)
{
    return load == LOAD_QUEUED || load == LOAD_BUSY;
}

static bool user_idle(const struct user *u, int64_t now, int64_t idle_ms)
{
    if (u->pins || u->woken || (uint32_t)now - u->used_ms < idle_ms || loading(u->own_load) ||
        loading(u->dl_load) || loading(u->parts.rooms.load) || loading(u->parts.account_data.load) ||
        loading(u->parts.tags.load) || loading(u->parts.push_rules.load) || loading(u->parts.ignored.load) ||
        loading(u->parts.full_presence.load) || loading(u->parts.features.load))
        return false;
    size_t it = 0;
    for (struct device *d; (d = kmap_next(&u->devices, &it));) {
        if (loading(d->td_load) || loading(d->keys_load) || d->deleting)
            return false;
    }
    it = 0;
    for (struct unread *un; (un = kmap_next(&u->unread, &it));) {
        if (loading(un->load))
            return false;
    }
    return true;
}

/* Groups under way keep their room: the loader's statements point at them. */
static bool loads_under_way(const struct model *m)
{
    return !list_empty(&m->batches) || m->fetching || m->filling;
}

static size_t bytes_held(void)
{
    int64_t n = 0;
    for (int k = MEM_rooms; k <= MEM_presence; k++)
        n += mem_bytes((enum mem_kind)k);
    return (size_t)n;
}

static size_t room_bytes_held(void)
{
    return (size_t)(mem_bytes(MEM_rooms) + mem_bytes(MEM_state_groups));
}

static void room_shrink(struct model *m, struct room *r)
{
    room_groups_free(m, r);
    room_tl_trim(m, r, TIMELINE_KEPT);
    vec_fit_of(MEM_rooms, &r->tl);
    if (r->active.n == 0)
        room_state_drop(m, r);
}

static void event_evict_oldest(struct model *m)
{
    evrec_evict(m, container_of(m->event_lru.next, struct evrec, lru));
    metric_add(M_model_evictions, 1);
}

static void shrink_to(struct model *m, size_t budget)
{
    for (size_t i = smap_count(&m->rooms); i > 0 && bytes_held() > budget && room_bytes_held() > budget / 8;
         i--) {
        struct room *r = container_of(m->room_lru.next, struct room, lru);
        list_del(&r->lru); /* another one's turn next time */
        list_push(&m->room_lru, &r->lru);
        room_shrink(m, r);
        metric_add(M_model_evictions, 1);
    }
    while (bytes_held() > budget && m->event_bytes > budget / 8 && !list_empty(&m->event_lru))
        event_evict_oldest(m);
}

void model_trim(struct model *m)
{
    size_t budget = (size_t)m->cfg->model_memory_mb << 20;
    m->trim_due = true;
    if (m->fetching) /* its events are not in their rooms yet */
        return;
    while (m->event_bytes > budget / 2 && !list_empty(&m->event_lru))
        event_evict_oldest(m);
    if (loads_under_way(m))
        return; /* the tick tries again */
    m->trim_due = false;
    relations_trim(m, budget / 16);
    int64_t now = clock_mono_ms();
    size_t it = 0;
    for (struct user *u; (u = kmap_next(&m->users, &it));)
        account_shrink(u);
    bool pressed = bytes_held() > budget;
    int64_t user_ms = pressed ? PRESSED_MS : IDLE_USER_MS, room_ms = pressed ? PRESSED_MS : IDLE_ROOM_MS;
    it = 0;
    for (struct user *u; (u = kmap_next(&m->users, &it));) {
        if (user_idle(u, now, user_ms)) {
            model_user_free(m, u);
            metric_add(M_model_evictions, 1);
        }
    }
    struct room *r;
    list_each(r, &m->room_lru, struct room, lru) {
        if (room_idle(r, now, room_ms)) {
            model_room_free(m, r);
            metric_add(M_model_evictions, 1);
        } else if (imap_count(&r->groups) > GROUPS_MAX) {
            room_groups_free(m, r);
        }
    }
    shrink_to(m, budget);
    evrecs_sweep(m);
}

void model_stats(const struct model *m, struct model_stats *out)
{
    *out = (struct model_stats){smap_count(&m->rooms), kmap_count(&m->users), m->event_count, bytes_held()};
}

static void on_tick(uv_timer_t *t)
{
    struct model *m = t->data;
    if (m->burst_retry && !m->fetching_asked)
        burst_send(m);
    device_lists_fetch(m);
    device_acks_flush(m);
    retry(m, &m->retry_presence, presence_load);
    retry(m, &m->retry_erased, erased_load);
    retry(m, &m->retry_partial, partial_load);
    retry(m, &m->retry_sticky, sticky_load);
    sticky_fetch(m);
    if (++m->ticks % 10) {
        if (m->trim_due)
            model_trim(m);
        return;
    }
    sticky_expire(m);
    model_trim(m);
}

/* ---- life ---- */

int model_start(struct model **out, struct uv_loop_s *loop, const struct config *cfg, struct pg *pg,
                const struct model_hooks *hooks, struct err *e)
{
    (void)e;
    struct model *m = xcalloc(1, sizeof *m);
    m->cfg = cfg;
    m->loop = loop;
    m->pg = pg;
    m->hooks = *hooks;
    smap_init_of(&m->rooms, MEM_rooms);
    kmap_init(&m->users);
    smap_init_of(&m->recs, MEM_event_records);
    smap_init_of(&m->presence, MEM_presence);
    smap_init(&m->erased);
    smap_init_of(&m->filters, MEM_filters);
    smap_init(&m->partial);
    list_init(&m->room_lru);
    list_init(&m->event_lru);
    relations_init(m);
    for (int s = 0; s < STREAM_COUNT; s++)
        m->pos[s] = positions_new();
    loader_init(m);
    m->timer = xcalloc(1, sizeof *m->timer);
    uv_timer_init(loop, m->timer);
    m->timer->data = m;
    uv_timer_start(m->timer, on_tick, TICK_MS, TICK_MS);
    uv_unref((uv_handle_t *)m->timer);
    m->now_dirty = true;
    *out = m;
    return 0;
}

void model_adopt(struct model *m, struct feed *f)
{
    m->feed = f;
    for (int s = 0; s < STREAM_COUNT; s++) {
        const struct positions *p = feed_start_positions(f, (enum stream)s);
        if (p) {
            positions_free(&m->pos[s]);
            m->pos[s] = positions_copy(p);
        }
    }
    m->now_dirty = true;
    presence_start(m);
    devices_init(m);
    partial_reload(m);
    sticky_start(m);
}

static void free_handle(uv_handle_t *h)
{
    free(h);
}

void model_stop(struct model **mp)
{
    struct model *m = *mp;
    if (!m)
        return;
    m->stopping = true;
    loader_fini(m);
    uv_close((uv_handle_t *)m->timer, free_handle);
    burst_fini(m);
    size_t it = 0;
    for (struct user *u; (u = kmap_next(&m->users, &it));) {
        u->pins = 0;
        model_user_free(m, u);
        it = 0;
    }
    it = 0;
    for (struct room *r; (r = smap_next(&m->rooms, &it));) {
        model_room_free(m, r);
        it = 0;
    }
    mpos_unref(MEM_users, &m->kept_user);
    mpos_unref(MEM_lazy_members, &m->kept_ll);
    relations_fini(m);
    sticky_fini(m);
    evrecs_fini(m);
    presence_fini(m);
    devices_fini(m);
    filters_fini(m);
    smap_fini(&m->filters);
    it = 0;
    for (struct partial_room *p; (p = smap_next(&m->partial, &it));)
        free(p);
    smap_fini(&m->partial);
    smap_fini(&m->rooms);
    kmap_fini(MEM_users, &m->users);
    for (int s = 0; s < STREAM_COUNT; s++)
        positions_free(&m->pos[s]);
    vec_free(&m->want_events);
    vec_free(&m->want_tl);
    vec_free(&m->want_topo);
    vec_free(&m->want_gaps);
    vec_free(&m->want_last);
    vec_free(&m->want_state);
    vec_free(&m->want_receipts);
    vec_free(&m->want_deltas);
    vec_free(&m->want_sg_delta);
    vec_free(&m->want_sg_nonmembers);
    vec_free(&m->want_sg_all);
    for (size_t i = 0; i < m->want_sg_pairs.n; i++)
        free(m->want_sg_pairs.v[i].mem);
    vec_free(&m->want_sg_pairs);
    vec_free(&m->want_rooms);
    vec_free(&m->want_own);
    vec_free(&m->want_account_data);
    vec_free(&m->want_tags);
    vec_free(&m->want_push_rules);
    vec_free(&m->want_ignored);
    vec_free(&m->want_full_presence);
    vec_free(&m->want_features);
    vec_free(&m->want_dl);
    vec_free(&m->want_unread);
    vec_free(&m->want_td);
    vec_free(&m->want_keys);
    vec_free(&m->want_filters);
    vec_free(&m->td_acks);
    vec_free(&m->dl_advances);
    free(m);
    *mp = NULL;
}
