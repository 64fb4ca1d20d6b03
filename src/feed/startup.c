/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What is read before anything is followed: who the writers are (instance_map) and where each stands
 * (stream_positions, and the stream's own tables above the least of them), as
 * synapse.storage.util.id_generators computes it in 1.157. Unlike Synapse, nothing is deleted: rows of
 * writers that are not configured are ignored.
 *
 * Writers' ids are one table per process, because token_parse checks ids through a plain function. It only
 * grows. Instances that appear on the caches stream and have no id get a private negative one that never
 * enters a token.
 */
#include "chappe/log.h"
#include "feed_int.h"

#include <stdlib.h>

/* ---- writers ---- */

struct feed_writer {
    writer_id id;
    char name[]; /* the key */
};

enum {
    WRITER_ID_MAX = 1 << 20
}; /* conflicting inserts burn serials, so ids may have holes, but not this many */
static struct {
    uint8_t *known; /* by id */
    size_t cap;
    writer_id master;
} table;

bool feed_writer_known(writer_id w)
{
    return w > 0 && (size_t)w < table.cap && table.known[w];
}

writer_id feed_master(void)
{
    return table.master;
}

static void known_add(writer_id w)
{
    if (w <= 0 || w > WRITER_ID_MAX)
        return;
    if ((size_t)w >= table.cap) {
        size_t cap = table.cap ? table.cap : 64;

        while ((size_t)w >= cap)
            cap *= 2;
        table.known = xrealloc(table.known, cap);
        memset(table.known + table.cap, 0, cap - table.cap);
        table.cap = cap;
    }
    table.known[w] = 1;
}

void feed_writer_put(struct feed *f, struct str name, writer_id id)
{
    struct feed_writer *w = smap_get(&f->writers, name);

    if (!w) {
        w = xcalloc(1, sizeof *w + name.n + 1);
        memcpy(w->name, name.p, name.n);
        smap_put(&f->writers, str_n(w->name, name.n), w);
    }
    if (w->id <= 0 || id > 0)
        w->id = id;
    known_add(id);
    if (id > 0 && str_eq(name, STR("master")))
        table.master = id;
}

writer_id feed_writer_id(struct feed *f, struct str name)
{
    struct feed_writer *w = smap_get(&f->writers, name);

    return w && w->id > 0 ? w->id : WRITER_NONE;
}

writer_id feed_writer_local(struct feed *f, struct str name)
{
    struct feed_writer *w = smap_get(&f->writers, name);

    if (w)
        return w->id;
    feed_writer_put(f, name, --f->next_local);
    return f->next_local;
}

void feed_writers_free(struct feed *f)
{
    struct feed_writer *w;
    size_t it = 0;

    while ((w = smap_next(&f->writers, &it)))
        free(w);
    smap_fini(&f->writers);
}

static void writers_read(struct feed *f, const struct pg_result *r)
{
    for (int i = 0; i < pg_rows(r); i++) {
        int64_t id = pg_i64(r, i, 0);

        if (id > 0 && id <= WRITER_ID_MAX)
            feed_writer_put(f, pg_str(r, i, 1), (writer_id)id);
        else
            log_error(FEED_LOG, "instance_map: id %lld of %.*s is out of range", (long long)id,
                      STR_ARG(pg_str(r, i, 1)));
    }
}

static void refresh_start(struct feed *f);

static void on_instance_map(void *arg, int err, const struct pg_result *r)
{
    struct feed_refresh *look = arg;
    struct feed *f = look->f;

    if (!f) {
        free(look);
        return;
    }
    f->refresh = NULL;
    if (!err && r)
        writers_read(f, r);
    /* Those who asked after the query had started get the next one: it may have been too early for them. */
    size_t n = look->waiters, left = f->refresh_waiters.n - n;
    VEC(struct feed_waiter) first = {0};

    free(look);
    for (size_t i = 0; i < n; i++)
        vec_push(&first, f->refresh_waiters.v[i]);
    if (left)
        memmove(f->refresh_waiters.v, f->refresh_waiters.v + n, left * sizeof *f->refresh_waiters.v);
    f->refresh_waiters.n = left;
    if (left)
        refresh_start(f);
    for (size_t i = 0; i < first.n; i++)
        first.v[i].done(first.v[i].arg);
    vec_free(&first);
}

static void refresh_start(struct feed *f)
{
    f->refresh = xcalloc(1, sizeof *f->refresh);
    f->refresh->f = f;
    f->refresh->waiters = f->refresh_waiters.n;
    pg_exec(f->pg, SQL_feed_instance_map, pg_args_new(), on_instance_map, f->refresh);
}

void feed_writer_refresh(struct feed *f, void (*done)(void *arg), void *arg)
{
    vec_push(&f->refresh_waiters, ((struct feed_waiter){done, arg}));
    if (!f->refresh)
        refresh_start(f);
}

/* ---- who writes what ---- */

static struct str master_name = {"master", 6};
static const struct config_writers master_only = {&master_name, 1};

const struct config_writers *feed_writers_of(const struct config *cfg, enum stream s)
{
    switch (s) {
    case STREAM_EVENTS:
    case STREAM_BACKFILL:
    case STREAM_STICKY_EVENTS:
    case STREAM_PROFILE_UPDATES:
        return &cfg->writers[WRITERS_EVENTS];
    case STREAM_PRESENCE:
        return &cfg->writers[WRITERS_PRESENCE];
    case STREAM_TYPING:
        return &cfg->writers[WRITERS_TYPING];
    case STREAM_RECEIPTS:
        return &cfg->writers[WRITERS_RECEIPTS];
    case STREAM_ACCOUNT_DATA:
        return &cfg->writers[WRITERS_ACCOUNT_DATA];
    case STREAM_PUSH_RULES:
        return &cfg->writers[WRITERS_PUSH_RULES];
    case STREAM_TO_DEVICE:
        return &cfg->writers[WRITERS_TO_DEVICE];
    case STREAM_DEVICE_LISTS:
        return &cfg->writers[WRITERS_DEVICE_LISTS];
    case STREAM_THREAD_SUBSCRIPTIONS:
        return &cfg->writers[WRITERS_THREAD_SUBSCRIPTIONS];
    case STREAM_QUARANTINED_MEDIA:
        return &cfg->writers[WRITERS_QUARANTINED_MEDIA];
    case STREAM_PUSHERS:
    case STREAM_UN_PARTIAL_STATED_ROOM:
    case STREAM_UN_PARTIAL_STATED_EVENT:
        return &master_only;
    case STREAM_CACHES:
    case STREAM_COUNT:
        break;
    }
    return NULL;
}

/* Before 1.159 Synapse announces quarantined_media from the main process only, whoever writes it. */
void feed_pairs_expect(struct feed *f)
{
    for (int s = 0; s < STREAM_COUNT; s++) {
        const struct config_writers *w = feed_writers_of(f->cfg, (enum stream)s);

        for (size_t i = 0; w && i < w->count; i++) {
            struct feed_pair *p = smap_get(&f->pairs[s], w->names[i]);
            if (p)
                p->expected = s != STREAM_QUARANTINED_MEDIA || release_has(RELEASE_QUARANTINED_BY_WRITERS) ||
                              str_eq(w->names[i], master_name);
        }
    }
}

void feed_pairs_make(struct feed *f)
{
    for (int s = 0; s < STREAM_COUNT; s++) {
        const struct config_writers *w = feed_writers_of(f->cfg, (enum stream)s);

        for (size_t i = 0; w && f->present[s] && i < w->count; i++) {
            writer_id id = feed_writer_id(f, w->names[i]);
            ASSERT(id != WRITER_NONE);
            if (smap_get(&f->pairs[s], w->names[i]))
                continue; /* listed twice */
            feed_pair_add(f, (enum stream)s, w->names[i], id, positions_of_writer(f->start[s], id));
        }
    }
    feed_pairs_expect(f);
    f->caches_base = positions_persisted_upto(f->start[STREAM_CACHES]);
}

/* ---- loading ---- */

static const struct {
    enum pg_stmt known, max;
    const char *needs; /* table that older schemas lack */
} tables[STREAM_COUNT] = {
#define T(id, name, table_name) [STREAM_##id] = {SQL_feed_known_##name, SQL_feed_max_##name, table_name}
    T(EVENTS, events, NULL),
    T(BACKFILL, backfill, NULL),
    T(PRESENCE, presence, NULL),
    T(RECEIPTS, receipts, NULL),
    T(ACCOUNT_DATA, account_data, NULL),
    T(PUSH_RULES, push_rules, NULL),
    T(PUSHERS, pushers, NULL),
    T(TO_DEVICE, to_device, NULL),
    T(DEVICE_LISTS, device_lists, NULL),
    T(UN_PARTIAL_STATED_ROOM, un_partial_stated_room, "un_partial_stated_room_stream"),
    T(UN_PARTIAL_STATED_EVENT, un_partial_stated_event, "un_partial_stated_event_stream"),
    T(THREAD_SUBSCRIPTIONS, thread_subscriptions, "thread_subscriptions"),
    T(STICKY_EVENTS, sticky_events, "sticky_events"),
    T(QUARANTINED_MEDIA, quarantined_media, "quarantined_media_changes"),
    T(PROFILE_UPDATES, profile_updates, "profile_updates"),
#undef T
};

static int query(struct pg_sync *c, enum pg_stmt stmt, struct pg_args *a, const struct pg_result **r,
                 struct err *e)
{
    struct err why = {0};
    int err = pg_sync_exec(c, pg_stmt_text(stmt), a, r, &why);

    return err ? err_set(e, -err, "%s: %s", pg_stmt_name(stmt), why.text) : 0;
}

static int load_writer(struct feed *f, struct pg_sync *c, struct str name, struct err *e)
{
    const struct pg_result *r;
    struct pg_args *a;
    int err;

    if (feed_writer_id(f, name) != WRITER_NONE)
        return 0;
    a = pg_args_new();
    pg_args_text(a, name);
    err = query(c, SQL_feed_instance_add, a, &r, e);
    if (!err)
        err = query(c, SQL_feed_instance_map, NULL, &r, e);
    if (!err)
        writers_read(f, r);
    if (!err && feed_writer_id(f, name) == WRITER_NONE)
        err = err_set(e, ERR_DB, "instance_map: %.*s cannot be added", STR_ARG(name));
    return err;
}

static int load_writers(struct feed *f, struct pg_sync *c, struct err *e)
{
    const struct pg_result *r;
    int err = query(c, SQL_feed_instance_map, NULL, &r, e);

    if (err)
        return err;
    writers_read(f, r);
    err = load_writer(f, c, master_name, e);
    for (int k = 0; !err && k < WRITERS_COUNT; k++)
        for (size_t i = 0; !err && i < f->cfg->writers[k].count; i++)
            err = load_writer(f, c, f->cfg->writers[k].names[i], e);
    return err;
}

static int load_present(struct feed *f, struct pg_sync *c, struct err *e)
{
    for (int s = 0; s < STREAM_COUNT; s++) {
        const struct pg_result *r;
        struct pg_args *a;
        int err;

        f->present[s] = true;
        if (!tables[s].needs)
            continue;
        a = pg_args_new();
        pg_args_text(a, str_of(tables[s].needs));
        err = query(c, SQL_feed_table, a, &r, e);
        if (err)
            return err;
        f->present[s] = pg_rows(r) == 1 && pg_i64(r, 0, 0) != 0;
    }
    return 0;
}

static bool configured(const struct config_writers *w, struct str name)
{
    for (size_t i = 0; i < w->count; i++)
        if (str_eq(w->names[i], name))
            return true;
    return false;
}

static int64_t magnitude(int64_t v) /* backfill's ids are negative */
{
    return v < 0 ? -v : v;
}

/* The stream's own tables: what is finished above the least position, or the greatest id when nobody has one.
 */
static int load_tables(struct feed *f, struct pg_sync *c, enum stream s, int64_t least, struct err *e)
{
    const struct pg_result *r;
    struct pg_args *a;
    int err;

    if (least == INT64_MAX) {
        err = query(c, tables[s].max, NULL, &r, e);
        if (!err) {
            int64_t max = pg_rows(r) ? pg_i64(r, 0, 0) : 0;

            positions_init_empty(f->start[s], max > 1 ? max : 1);
        }
        return err;
    }
    a = pg_args_new();
    pg_args_i64(a, least);
    err = query(c, tables[s].known, a, &r, e);
    for (int i = 0; !err && i < pg_rows(r); i++)
        positions_init_known(f->start[s], pg_i64(r, i, 0));
    return err;
}

static void seal(struct feed *f, enum stream s, const struct config_writers *w)
{
    VEC(writer_id) ids = {0};

    for (size_t i = 0; i < w->count; i++)
        vec_push(&ids, feed_writer_id(f, w->names[i]));
    positions_init_seal(f->start[s], ids.v, ids.n);
    vec_free(&ids);
}

struct position_row {
    struct str stream, instance; /* owned */
    int64_t id;
};

static int load_stream(struct feed *f, struct pg_sync *c, enum stream s, const struct position_row *rows,
                       size_t n, struct err *e)
{
    const struct config_writers *w = feed_writers_of(f->cfg, s);
    int64_t least = INT64_MAX;
    int err;

    for (size_t i = 0; i < n; i++) {
        int64_t id = magnitude(rows[i].id);

        if (!str_eq(rows[i].stream, str_of(stream_db_name(s))) || !configured(w, rows[i].instance))
            continue;
        positions_init_writer(f->start[s], feed_writer_id(f, rows[i].instance), id);
        least = id < least ? id : least;
    }
    err = load_tables(f, c, s, least, e);
    if (!err)
        seal(f, s, w);
    return err;
}

static int load_positions(struct feed *f, struct pg_sync *c, struct err *e)
{
    VEC(struct position_row) rows = {0};
    const struct pg_result *r;
    int err = query(c, SQL_feed_positions, NULL, &r, e);

    for (int i = 0; !err && i < pg_rows(r); i++)
        vec_push(&rows, ((struct position_row){str_dup(pg_str(r, i, 0)), str_dup(pg_str(r, i, 1)),
                                               pg_i64(r, i, 2)}));
    for (int s = 0; !err && s < STREAM_COUNT; s++)
        if (f->present[s] && stream_db_name((enum stream)s))
            err = load_stream(f, c, (enum stream)s, rows.v, rows.n, e);
    for (size_t i = 0; i < rows.n; i++) {
        free((void *)(uintptr_t)rows.v[i].stream.p);
        free((void *)(uintptr_t)rows.v[i].instance.p);
    }
    vec_free(&rows);
    if (!err)
        err = query(c, SQL_feed_max_caches, NULL, &r, e);
    if (!err) {
        int64_t max = pg_rows(r) ? pg_i64(r, 0, 0) : 0;

        positions_init_empty(f->start[STREAM_CACHES], max > 1 ? max : 1);
        positions_init_empty(f->start[STREAM_TYPING], 0);
        seal(f, STREAM_TYPING, feed_writers_of(f->cfg, STREAM_TYPING));
    }
    return err;
}

int feed_load(struct feed *f, struct err *e)
{
    struct pg_sync *c = NULL;
    int err = pg_sync_open(&c, f->cfg, STR("main"), e);

    if (err)
        return err;
    err = load_writers(f, c, e);
    if (!err)
        err = load_present(f, c, e);
    if (!err)
        err = load_positions(f, c, e);
    pg_sync_close(&c);
    if (!err)
        feed_pairs_make(f);
    return err;
}
