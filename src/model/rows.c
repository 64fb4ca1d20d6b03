/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What arrives: the feed's sink. For each batch: take what the rows say (or mark what they make stale),
 * advance the position, note who is to be woken; at the end of the burst wake them. The events stream goes
 * through burst.c, because its rows are ids whose events have to be fetched first; device list rows wait for
 * their rooms (devices.c).
 */
#include "model_int.h"

/* ---- caches ---- */

static void each_user_of(struct model *m, struct str user_id, bool all,
                         void (*fn)(struct model *m, struct user *u))
{
    if (!all) {
        struct user *u = model_user_find(m, user_id);
        if (u) {
            fn(m, u);
            user_stir(m, u);
        }
        return;
    }
    size_t it = 0;
    for (struct user *u; (u = kmap_next(&m->users, &it));) {
        fn(m, u);
        user_stir(m, u);
    }
}

static void keys_all_stale(struct model *m, struct user *u)
{
    device_keys_stale(m, u->user_id, STR_ABSENT);
}
static void ignored_stale(struct model *m, struct user *u)
{
    account_row(m, u, STR("m.ignored_user_list"));
}
static void account_restart(struct model *m, struct user *u)
{
    if (u->more->ad_upto || u->more->ad_last)
        u->more->ad_upto = u->more->ad_last = 0;
    account_row(m, u, STR("m.ignored_user_list"));
    account_row(m, u, STR("m.tag"));
}
static void push_rules_stale(struct model *m, struct user *u)
{
    (void)m;
    part_touch(&u->parts.push_rules);
}
static void features_stale(struct model *m, struct user *u)
{
    (void)m;
    part_touch(&u->parts.features);
}
static void full_presence_stale(struct model *m, struct user *u)
{
    (void)m;
    u->parts.full_presence.gen++;
    if (u->parts.full_presence.load == LOAD_DONE)
        u->parts.full_presence.load = LOAD_NONE;
}

/* A room's history was purged, or the room deleted: nothing of it that we remember can be trusted. */
static void room_forget(struct model *m, struct str room_id)
{
    struct room *r = model_room_find(m, room_id);
    if (!r)
        return;
    log_info("chappe.model", "history of %.*s was purged: forgotten", STR_ARG(room_id));
    r->serial++;
    room_tl_trim(m, r, 0);
    room_topological_stale(r);
    if (r->gaps_load == LOAD_DONE)
        r->gaps_load = LOAD_NONE;
    r->gaps.n = 0;
    room_state_drop(m, r);
    room_deltas_drop(m, r);
    relations_room_stale(m, r);
    r->redaction_gen++;
    size_t it = 0;
    for (struct evrec *rec; (rec = smap_next(&m->recs, &it));) {
        if (rec->ev && str_eq(rec->ev->room_id, room_id))
            evrec_stale(m, rec);
    }
    it = 0;
    for (struct user *u; (u = kmap_next(&m->users, &it));) {
        if (u->parts.rooms.load == LOAD_BUSY ||
            kmap_get(&u->rooms, room_id)) /* what is being read may be out of date */
            user_rooms_drop(m, u);
    }
    model_wake_room(m, r);
}

/* name, what it does to the model. Names that are not here concern others (auth) or nobody. */
static void cache_row(struct model *m, struct str func, const struct str *keys, size_t n, bool all)
{
    struct str k0 = n > 0 ? keys[0] : STR_ABSENT, k1 = n > 1 ? keys[1] : STR_ABSENT;
    if (str_absent(k0) && !all)
        return;
    if (str_eq(func, STR("count_e2e_one_time_keys")) ||
        str_eq(func, STR("get_e2e_unused_fallback_key_types"))) {
        if (all)
            each_user_of(m, k0, true, keys_all_stale);
        else
            device_keys_stale(m, k0, k1);
    } else if (str_eq(func, STR("is_user_erased"))) {
        erased_reload(m);
    } else if (str_eq(func, STR("ignored_users"))) {
        each_user_of(m, k0, all, ignored_stale);
    } else if (str_eq(func, STR("get_global_account_data_for_user")) ||
               str_eq(func, STR("get_room_account_data_for_user"))) {
        each_user_of(m, k0, all, account_restart);
    } else if (str_eq(func, STR("get_push_rules_for_user"))) {
        each_user_of(m, k0, all, push_rules_stale);
    } else if (str_eq(func, STR("is_feature_enabled"))) {
        each_user_of(m, k0, all, features_stale);
    } else if (str_eq(func, STR("_get_full_presence_stream_token_for_user"))) {
        each_user_of(m, k0, all, full_presence_stale);
    } else if (str_eq(func, STR("did_forget")) || str_eq(func, STR("get_forgotten_rooms_for_user"))) {
        each_user_of(m, k0, all, user_rooms_drop);
    } else if (str_eq(func, STR("get_relations_for_event"))) { /* [room, parent], or [room] */
        struct room *r = model_room_find(m, k0);
        m->rooms_serial++;
        if (!str_absent(k1))
            relations_touch(m, k1);
        else if (all)
            relations_all_stale(m);
        else if (r)
            relations_room_stale(m, r);
    } else if (str_eq(func, STR("get_references_for_event")) || str_eq(func, STR("get_applicable_edit")) ||
               str_eq(func, STR("get_thread_summary")) || str_eq(func, STR("get_thread_participated"))) {
        m->rooms_serial++;
        if (all)
            relations_all_stale(m);
        else
            relations_touch(m, k0);
    } else if (!all && (str_eq(func, STR("ph_cache_fake")) || str_eq(func, STR("dr_cache_fake")))) {
        room_forget(m, k0);
    } else if (!all && (str_eq(func, STR("_get_event_cache")) || str_eq(func, STR("have_seen_event")))) {
        struct evrec *rec = model_rec_find(m, keys[n - 1]);
        m->rooms_serial++;
        if (rec)
            evrec_stale(m, rec);
    } else if (str_eq(func, STR("get_partial_rooms")) || str_eq(func, STR("is_partial_state_room"))) {
        partial_reload(m);
    }
}

static void flush_caches(struct model *m)
{
    log_warning("chappe.model",
                "cache invalidations were missed: everything that depends on them is read again");
    each_user_of(m, STR_ABSENT, true, keys_all_stale);
    each_user_of(m, STR_ABSENT, true, account_restart);
    each_user_of(m, STR_ABSENT, true, push_rules_stale);
    each_user_of(m, STR_ABSENT, true, full_presence_stale);
    each_user_of(m, STR_ABSENT, true, features_stale);
    each_user_of(m, STR_ABSENT, true, user_rooms_drop);
    relations_all_stale(m);
    erased_reload(m);
    partial_reload(m);
}

/* ---- the other streams ---- */

static void typing_row(struct model *m, int64_t token, const struct feed_row *row)
{
    struct room *r = model_room(m, row->typing.room_id);
    r->serial++;
    for (size_t i = 0; i < r->typing.n; i++)
        mem_str_free(MEM_rooms, r->typing.v[i]);
    r->typing.n = 0;
    for (size_t i = 0; i < row->typing.user_ids_count; i++)
        vec_push_of(MEM_rooms, &r->typing, mem_str(MEM_rooms, row->typing.user_ids[i]));
    r->typing_serial = token;
    model_wake_news(m, r);
}

static void receipt_row(struct model *m, writer_id w, int64_t token, const struct feed_row *row)
{
    struct room *r = model_room_find(m, row->receipt.room_id);
    struct receipt rc = {
        .stream = token,
        .writer = w,
        .type = row->receipt.receipt_type,
        .user_id = row->receipt.user_id,
        .event_id = row->receipt.event_id,
        .thread_id = row->receipt.thread_id,
        .data = row->receipt.data,
    };
    if (r) {
        r->serial++;
        room_receipt_add(m, r, &rc);
        model_wake_news(m, r);
    }
    struct user *u = model_user_find(m, row->receipt.user_id);
    if (u && (str_eq(row->receipt.receipt_type, STR("m.read")) ||
              str_eq(row->receipt.receipt_type, STR("m.read.private"))))
        unread_receipt(m, u, &rc, row->receipt.room_id);
}

static void to_device_row(struct model *m, int64_t token, const struct feed_row *row)
{
    struct user *u = model_user_find(m, row->user.user_id);
    if (!u)
        return;
    if (token > u->td_last)
        u->td_last = token;
    size_t it = 0;
    for (struct device *d; (d = kmap_next(&u->devices, &it));)
        d->td_seen_upto = token > d->td_seen_upto ? token : d->td_seen_upto;
    model_wake_user(m, u);
}

static void wake_known(struct model *m, struct user *u)
{
    if (u)
        model_wake_user(m, u);
}

static void row_take(struct model *m, enum stream s, writer_id w, int64_t token, const struct feed_row *row)
{
    struct user *u;
    struct room *r;
    struct evrec *rec;
    switch (s) {
    case STREAM_TYPING:
        typing_row(m, token, row);
        break;
    case STREAM_RECEIPTS:
        receipt_row(m, w, token, row);
        break;
    case STREAM_ACCOUNT_DATA:
        if ((u = model_user_find(m, row->account_data.user_id)))
            account_row(m, u, row->account_data.type);
        wake_known(m, u);
        break;
    case STREAM_PUSH_RULES:
        if ((u = model_user_find(m, row->user.user_id)))
            push_rules_stale(m, u);
        wake_known(m, u);
        break;
    case STREAM_TO_DEVICE:
        to_device_row(m, token, row);
        break;
    case STREAM_PRESENCE:
        presence_row(m, token, row);
        break;
    case STREAM_DEVICE_LISTS:
        device_lists_row(m, w, token, row);
        break;
    case STREAM_BACKFILL:
        m->rooms_serial++;
        relations_touch(m, row->backfill.relates_to);
        if (!str_absent(row->backfill.redacts))
            relations_redacted(m, row->backfill.room_id, row->backfill.redacts);
        if ((rec = model_rec_find(m, row->backfill.event_id)))
            evrec_stale(m, rec);
        if (!str_absent(row->backfill.redacts) && (rec = model_rec_find(m, row->backfill.redacts)))
            evrec_stale(m, rec);
        if ((r = model_room_find(m, row->backfill.room_id))) {
            room_topological_stale(r); /* backfilled events may be deep: the topological page is read again */
            room_last_at_clear(m, r);
        }
        break;
    case STREAM_UN_PARTIAL_STATED_EVENT:
        m->rooms_serial++;
        if ((rec = model_rec_find(m, row->room.event_id)))
            evrec_stale(m, rec);
        break;
    case STREAM_UN_PARTIAL_STATED_ROOM:
        partial_ceased(m, row->room.room_id, token);
        partial_reload(m); /* what is being read now may be older */
        break;
    case STREAM_CACHES:
        cache_row(m, row->cache.func, row->cache.keys, row->cache.keys_count, row->cache.all);
        if (m->hooks.cache_row)
            m->hooks.cache_row(m->hooks.arg, row->cache.func, row->cache.keys, row->cache.keys_count,
                               row->cache.all);
        break;
    case STREAM_THREAD_SUBSCRIPTIONS:
    case STREAM_STICKY_EVENTS:
    case STREAM_QUARANTINED_MEDIA:
    case STREAM_PROFILE_UPDATES:
    case STREAM_PUSHERS: /* positions only: nothing of them is in a classic sync */
        break;
    case STREAM_EVENTS:
    case STREAM_COUNT:
        ASSERT(!"taken elsewhere");
    }
}

/* ---- the sink ---- */

static void sink_rows(void *arg, enum stream s, writer_id w, int64_t token, const struct feed_row *rows,
                      size_t n)
{
    struct model *m = arg;
    m->serial++;
    if (s == STREAM_EVENTS) {
        burst_add(m, w, token, rows, n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        row_take(m, s, w, token, &rows[i]);
    if (s == STREAM_DEVICE_LISTS) { /* not before the rooms of what changed are known */
        m->dl_received = token > m->dl_received ? token : m->dl_received;
        vec_push(&m->dl_advances, ((struct dl_advance){w, token}));
        if (!m->dl_again && !m->dl_pending)
            model_device_positions_done(m);
        return;
    }
    if (s == STREAM_CACHES)
        return;
    if (s == STREAM_STICKY_EVENTS && m->cfg->msc4354_enabled) {
        sticky_rows(m, w, token, n);
        return;
    }
    positions_advance(m->pos[s], w, token);
    if (s == STREAM_TYPING)
        m->typing_serial = token;
    m->now_dirty = true;
}

/* The rooms of device list rows up to dl_received are in. */
void model_device_positions_done(struct model *m)
{
    if (m->dl_again) { /* more came meanwhile */
        device_lists_fetch(m);
        return;
    }
    for (size_t i = 0; i < m->dl_advances.n; i++)
        positions_advance(m->pos[STREAM_DEVICE_LISTS], m->dl_advances.v[i].w, m->dl_advances.v[i].token);
    m->dl_advances.n = 0;
    m->now_dirty = true;
    device_lists_wake(m);
    model_run_woken(m);
}

static void sink_reset(void *arg, enum stream s, writer_id w)
{
    struct model *m = arg;
    m->serial++;
    m->rooms_serial++;
    if (s != STREAM_TYPING)
        return;
    size_t it = 0;
    for (struct room *r; (r = smap_next(&m->rooms, &it));) {
        for (size_t i = 0; i < r->typing.n; i++)
            mem_str_free(MEM_rooms, r->typing.v[i]);
        r->typing.n = 0;
        r->typing_serial = 0;
    }
    m->typing_serial = 0;
    positions_reset(m->pos[s], w, 0);
    news_typing_reset(m);
    m->now_dirty = true;
}

static void sink_burst_end(void *arg)
{
    struct model *m = arg;
    burst_send(m);
    device_lists_fetch(m);
    sticky_fetch(m);
    model_run_woken(m);
}

static void sink_flush(void *arg, enum stream s)
{
    struct model *m = arg;
    m->serial++;
    m->rooms_serial++;
    if (s != STREAM_CACHES)
        return;
    flush_caches(m);
    if (m->hooks.cache_flush)
        m->hooks.cache_flush(m->hooks.arg);
}

static void sink_state(void *arg, enum feed_state st)
{
    struct model *m = arg;
    if (m->hooks.feed_state)
        m->hooks.feed_state(m->hooks.arg, st);
}

struct feed_sink model_sink(struct model *m)
{
    return (struct feed_sink){m, sink_rows, sink_reset, sink_burst_end, sink_flush, sink_state};
}
