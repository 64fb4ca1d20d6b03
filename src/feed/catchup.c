/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Filling gaps: reads (lo, hi] of one writer of one stream from the tables the stream is made of (typing has
 * none and is asked for over the replication HTTP API). One statement per stream; a statement may be the
 * union of several tables ("parts"), each bounded WITH TIES so that a token is never cut in two. When a part
 * comes back full, only what lies up to its last token is known to be complete, and the rest is asked for
 * again from there.
 *
 * A fetch never fails: it waits for the database or the peer with a growing pause, and its pair waits with
 * it.
 *
 * The same file holds the safety net for lost publishes: RDATA says that there are rows, stream_positions
 * says where each writer stands; a writer that stays ahead of what we received is treated as if it had
 * announced that position.
 */
#include "chappe/clock.h"
#include "chappe/log.h"
#include "chappe/metrics.h"
#include "feed_int.h"

#include <stdlib.h>

enum { ID_WINDOW = 10000, PARTS_MAX = 3, HTTP_RESPONSE_MAX = 16 << 20, COL_TOKEN = 0, COL_PART = 1, COL = 2 };

/* ---- rows from results: columns 2… in the order of the stream's statement ---- */

static struct str copy(struct feed_fetch *q, const struct pg_result *r, int row, int col)
{
    struct str s = pg_str(r, row, col);

    return str_absent(s) ? s : arena_str(q->arena, s);
}

static void events_read(struct feed_fetch *q, const struct pg_result *r, int i, struct feed_row *row)
{
    row->ev.event_id = copy(q, r, i, COL);
    row->ev.room_id = copy(q, r, i, COL + 1);
    row->ev.type = copy(q, r, i, COL + 2);
    row->ev.state_key = copy(q, r, i, COL + 3);
    if (pg_i64(r, i, COL_PART) == 2) { /* current_state_delta_stream */
        row->ev.kind = EV_ROW_STATE;
        return;
    }
    row->ev.kind = EV_ROW_EV;
    row->ev.redacts = copy(q, r, i, COL + 4);
    row->ev.relates_to = copy(q, r, i, COL + 5);
    row->ev.membership = copy(q, r, i, COL + 6);
    row->ev.rejected = pg_i64(r, i, COL + 7) != 0;
    row->ev.outlier = pg_i64(r, i, COL + 8) != 0;
}

static void backfill_read(struct feed_fetch *q, const struct pg_result *r, int i, struct feed_row *row)
{
    row->backfill.event_id = copy(q, r, i, COL);
    row->backfill.room_id = copy(q, r, i, COL + 1);
    row->backfill.type = copy(q, r, i, COL + 2);
    row->backfill.state_key = copy(q, r, i, COL + 3);
    row->backfill.redacts = copy(q, r, i, COL + 4);
    row->backfill.relates_to = copy(q, r, i, COL + 5);
}

static void presence_read(struct feed_fetch *q, const struct pg_result *r, int i, struct feed_row *row)
{
    row->presence.user_id = copy(q, r, i, COL);
    row->presence.state = copy(q, r, i, COL + 1);
    row->presence.last_active_ts = pg_i64(r, i, COL + 2);
    row->presence.last_federation_update_ts = pg_i64(r, i, COL + 3);
    row->presence.last_user_sync_ts = pg_i64(r, i, COL + 4);
    row->presence.status_msg = copy(q, r, i, COL + 5);
    row->presence.currently_active = pg_i64(r, i, COL + 6) != 0;
}

static void receipts_read(struct feed_fetch *q, const struct pg_result *r, int i, struct feed_row *row)
{
    row->receipt.room_id = copy(q, r, i, COL);
    row->receipt.receipt_type = copy(q, r, i, COL + 1);
    row->receipt.user_id = copy(q, r, i, COL + 2);
    row->receipt.event_id = copy(q, r, i, COL + 3);
    row->receipt.thread_id = copy(q, r, i, COL + 4);
    row->receipt.data = copy(q, r, i, COL + 5);
}

static void account_data_read(struct feed_fetch *q, const struct pg_result *r, int i, struct feed_row *row)
{
    row->account_data.user_id = copy(q, r, i, COL);
    row->account_data.room_id = copy(q, r, i, COL + 1);
    row->account_data.type = copy(q, r, i, COL + 2);
}

static void user_read(struct feed_fetch *q, const struct pg_result *r, int i, struct feed_row *row)
{
    row->user.user_id = copy(q, r, i, COL);
}

static void pushers_read(struct feed_fetch *q, const struct pg_result *r, int i, struct feed_row *row)
{
    row->pusher.user_id = copy(q, r, i, COL);
    row->pusher.app_id = copy(q, r, i, COL + 1);
    row->pusher.pushkey = copy(q, r, i, COL + 2);
    row->pusher.deleted = pg_i64(r, i, COL_PART) == 2;
}

static void device_lists_read(struct feed_fetch *q, const struct pg_result *r, int i, struct feed_row *row)
{
    row->device_list.user_id = copy(q, r, i, COL);
    row->device_list.is_signature = pg_i64(r, i, COL_PART) == 2;
}

static void room_read(struct feed_fetch *q, const struct pg_result *r, int i, struct feed_row *row)
{
    row->room.room_id = copy(q, r, i, COL);
    row->room.event_id = copy(q, r, i, COL + 1);
    row->room.flag = pg_i64(r, i, COL + 2) != 0;
}

static void thread_read(struct feed_fetch *q, const struct pg_result *r, int i, struct feed_row *row)
{
    row->thread.user_id = copy(q, r, i, COL);
    row->thread.room_id = copy(q, r, i, COL + 1);
    row->thread.event_id = copy(q, r, i, COL + 2);
}

/* keys come as a JSON array. What cannot be read invalidates the whole named cache, which is always right. */
static void caches_read(struct feed_fetch *q, const struct pg_result *r, int i, struct feed_row *row)
{
    struct str keys = pg_str(r, i, COL + 1);
    struct json *j = NULL;
    struct str *v;
    size_t n = 0;

    row->cache.func = copy(q, r, i, COL);
    row->cache.ts = pg_i64(r, i, COL + 2);
    row->cache.all = true;
    if (str_absent(keys) || json_parse(q->arena, keys, &j) != 0 || !json_is_array(j))
        return;
    v = arena_try_alloc(q->arena, sizeof *v * (j->count + 1));
    if (!v)
        return;
    json_each(e, j)
        v[n++] = e->type == JSON_STRING ? (e->s.p ? e->s : STR("")) : STR_ABSENT;
    row->cache.keys = v;
    row->cache.keys_count = n;
    row->cache.all = false;
}

static const struct {
    enum pg_stmt stmt;
    bool by_writer; /* $4 is the writer's name; the others are single-writer streams, or know no author */
    bool by_window; /* grouped: bounded by a window of ids in place of a number of rows */
    void (*read)(struct feed_fetch *q, const struct pg_result *r, int i, struct feed_row *row);
} sources[STREAM_COUNT] = {
    [STREAM_EVENTS] = {SQL_feed_events, true, false, events_read},
    [STREAM_BACKFILL] = {SQL_feed_backfill, true, false, backfill_read},
    [STREAM_PRESENCE] = {SQL_feed_presence, false, false, presence_read},
    [STREAM_RECEIPTS] = {SQL_feed_receipts, true, false, receipts_read},
    [STREAM_ACCOUNT_DATA] = {SQL_feed_account_data, false, false, account_data_read},
    [STREAM_PUSH_RULES] = {SQL_feed_push_rules, false, false, user_read},
    [STREAM_PUSHERS] = {SQL_feed_pushers, false, false, pushers_read},
    [STREAM_TO_DEVICE] = {SQL_feed_to_device, false, true, user_read},
    [STREAM_DEVICE_LISTS] = {SQL_feed_device_lists, false, false, device_lists_read},
    [STREAM_UN_PARTIAL_STATED_ROOM] = {SQL_feed_un_partial_stated_room, true, false, room_read},
    [STREAM_UN_PARTIAL_STATED_EVENT] = {SQL_feed_un_partial_stated_event, true, false, room_read},
    [STREAM_THREAD_SUBSCRIPTIONS] = {SQL_feed_thread_subscriptions, false, false, thread_read},
    [STREAM_STICKY_EVENTS] = {SQL_feed_sticky_events, false, false, room_read},
    [STREAM_QUARANTINED_MEDIA] = {SQL_feed_quarantined_media, false, false, room_read},
    [STREAM_PROFILE_UPDATES] = {SQL_feed_profile_updates, false, false, user_read},
    [STREAM_CACHES] = {SQL_feed_caches, true, false, caches_read},
};

/* ---- one fetch ---- */

static void fetch_free(struct feed_fetch *q)
{
    list_del(&q->link);
    vec_free(&q->rows);
    arena_free(&q->arena);
    free(q);
}

void feed_fetch_add(struct feed_fetch *q, int64_t token, const struct feed_row *row)
{
    vec_push(&q->rows, ((struct feed_fetched){.token = token, .order = (int)q->rows.n, .row = *row}));
}

void feed_fetch_start(struct feed *f, struct feed_pair *p, int64_t lo, int64_t hi)
{
    struct feed_fetch *q = xcalloc(1, sizeof *q);

    ASSERT(!p->fetch && hi > lo);
    q->f = f;
    q->pair = p;
    q->s = p->s;
    q->lo = lo;
    q->hi = hi;
    q->epoch = f->epoch;
    q->backoff_ms = f->t.fetch_backoff_min_ms;
    q->arena = arena_new(256 << 20);
    p->fetch = q;
    list_push(&f->fetches, &q->link);
    f->source->fetch(q);
}

void feed_fetch_done(struct feed_fetch *q, int err)
{
    struct feed *f = q->f;

    if (!f) { /* the feed ended meanwhile */
        fetch_free(q);
        return;
    }
    if (err == 0) {
        feed_pair_fetched(f, q->pair, q);
        fetch_free(q);
        return;
    }
    q->retry_at_ms = err == -ERR_SHUTDOWN
                         ? INT64_MAX
                         : clock_mono_ms() + (int64_t)(q->backoff_ms * (0.75 + 0.5 * rng_unit()));
    if (q->backoff_ms == f->t.fetch_backoff_min_ms && err != -ERR_SHUTDOWN)
        log_warning(FEED_LOG, "%s of %.*s: what was missed cannot be read now (%s); trying again",
                    stream_name(q->s), STR_ARG(q->pair->name), err_text(err));
    q->backoff_ms =
        q->backoff_ms * 2 < f->t.fetch_backoff_max_ms ? q->backoff_ms * 2 : f->t.fetch_backoff_max_ms;
}

void feed_fetch_tick(struct feed *f)
{
    int64_t now = clock_mono_ms();
    struct feed_fetch *q;

    list_each(q, &f->fetches, struct feed_fetch, link) {
        if (q->retry_at_ms == 0 || q->retry_at_ms > now)
            continue;
        q->retry_at_ms = 0;
        if (q->give_up) {
            q->upto = q->hi;
            feed_fetch_done(q, 0);
            break; /* the list has changed; the rest comes with the next tick */
        }
        q->rows.n = 0;
        arena_reset(q->arena);
        f->source->fetch(q);
    }
}

/* Fetches that are under way end by themselves; they only must not come back to us. */
void feed_fetches_detach(struct feed *f)
{
    struct feed_fetch *q;

    list_each(q, &f->fetches, struct feed_fetch, link) {
        list_del(&q->link);
        q->pair->fetch = NULL;
        q->f = NULL;
        if (q->retry_at_ms)
            fetch_free(q);
    }
}

/* ---- from the database ---- */

static void on_rows(void *arg, int err, const struct pg_result *r)
{
    struct feed_fetch *q = arg;
    int64_t count[PARTS_MAX + 1] = {0}, last[PARTS_MAX + 1] = {0};

    if (err || !q->f) {
        feed_fetch_done(q, err);
        return;
    }
    for (int i = 0; i < (r ? pg_rows(r) : 0); i++) {
        struct feed_row row = {0};
        int64_t token = pg_i64(r, i, COL_TOKEN), part = pg_i64(r, i, COL_PART);

        ASSERT(part >= 1 && part <= PARTS_MAX);
        sources[q->s].read(q, r, i, &row);
        feed_fetch_add(q, token, &row);
        count[part]++;
        last[part] = token > last[part] ? token : last[part];
    }
    for (int part = 1; part <= PARTS_MAX && !sources[q->s].by_window; part++)
        if (count[part] >= FEED_FETCH_ROWS && last[part] < q->upto)
            q->upto = last[part];
    feed_fetch_done(q, 0);
}

static void fetch_rows(struct feed_fetch *q)
{
    struct pg_args *a = pg_args_new();

    q->upto = q->hi;
    if (sources[q->s].by_window && q->hi - q->lo > ID_WINDOW)
        q->upto = q->lo + ID_WINDOW;
    pg_args_i64(a, q->lo);
    pg_args_i64(a, q->upto);
    if (!sources[q->s].by_window)
        pg_args_i64(a, FEED_FETCH_ROWS);
    if (sources[q->s].by_writer)
        pg_args_text(a, q->pair->name);
    pg_exec(q->f->pg, sources[q->s].stmt, a, on_rows, q);
}

/* ---- typing, over HTTP ---- */

/* {"updates": [[token, row], …], "upto_token": n, "limited": bool} */
static int updates_read(struct feed_fetch *q, struct str body)
{
    struct json *j = NULL;
    int64_t upto = 0;

    if (json_parse(q->arena, body, &j) != 0 || !json_is_array(json_get(j, STR("updates"))))
        return -ERR_PARSE;
    json_each(u, json_get(j, STR("updates"))) {
        struct feed_row row;
        int64_t token = 0;

        if (!json_is_array(u) || !json_int(u->child, &token) ||
            row_parse(q->arena, q->s, u->child->next, &row) != 0)
            metric_add_l(M_feed_bad, "row", 1);
        else
            feed_fetch_add(q, token, &row);
    }
    q->upto = q->hi;
    if (json_is_true(json_get(j, STR("limited")))) {
        if (!json_int(json_get(j, STR("upto_token")), &upto) || upto <= q->lo)
            return -ERR_PROTOCOL;
        q->upto = upto < q->hi ? upto : q->hi;
    }
    return 0;
}

static void on_updates(void *arg, const struct httpc_res *res)
{
    struct feed_fetch *q = arg;
    int err = res->err;

    if (q->f && !err) {
        if (res->status == 500 && q->backoff_ms == q->f->t.fetch_backoff_min_ms)
            log_error(FEED_LOG,
                      "%.*s answered 500 to get_repl_stream_updates: is worker_replication_secret the same?",
                      STR_ARG(q->pair->name));
        err = res->status == 200 ? updates_read(q, res->body) : -ERR_PROTOCOL;
    }
    feed_fetch_done(q, err);
}

static void fetch_updates(struct feed_fetch *q)
{
    const struct config *cfg = q->f->cfg;
    struct httpc_header headers[2] = {{STR("Accept"), STR("application/json")}};
    struct httpc_req req = {.method = "GET", .headers = headers, .headers_count = 1, .timeout_ms = 60000};
    struct buf url, auth;
    char txn[11];

    buf_init(&url, 8192);
    buf_init(&auth, 8192);
    rng_letters(txn, 10);
    if (!repl_url(cfg, q->pair->name, "get_repl_stream_updates", &url, &req.unix_path)) {
        log_warning(FEED_LOG, "instance_map does not list %.*s: what %s had before now is not known",
                    STR_ARG(q->pair->name), stream_name(q->s));
        q->give_up = true;
        q->retry_at_ms = 1; /* at the next tick */
        buf_fini(&url);
        buf_fini(&auth);
        return;
    }
    buf_printf(&url, "/%s/%s?from_token=%lld&upto_token=%lld", stream_name(q->s), txn, (long long)q->lo,
               (long long)q->hi);
    if (cfg->replication_secret.n) {
        buf_put(&auth, STR("Bearer "));
        buf_put(&auth, cfg->replication_secret);
        headers[req.headers_count++] = (struct httpc_header){STR("Authorization"), buf_str(&auth)};
    }
    req.url = buf_str(&url);
    req.response_bytes_max = HTTP_RESPONSE_MAX;
    httpc_send(q->f->httpc, &req, on_updates, q);
    buf_fini(&url);
    if (auth.p)
        explicit_bzero(auth.p, auth.n);
    buf_fini(&auth);
}

static void fetch_real(struct feed_fetch *q)
{
    if (q->s == STREAM_TYPING)
        fetch_updates(q);
    else
        fetch_rows(q);
}

/* ---- the safety net ---- */

void feed_positions_row(struct feed *f, struct str stream, struct str instance, int64_t stream_id,
                        bool at_once)
{
    struct feed_pair *p = NULL;
    int64_t id = stream_id < 0 ? -stream_id : stream_id;

    for (int s = 0; s < STREAM_COUNT && !p; s++)
        if (stream_db_name(s) && str_eq(stream, str_of(stream_db_name(s))))
            p = smap_get(&f->pairs[s], instance);
    if (!p || p->fetch || !f->subscribed)
        return;
    if (id <= p->received) {
        p->db_ahead = 0;
        return;
    }
    if (!at_once && (p->db_ahead == 0 || p->db_ahead <= p->received)) {
        p->db_ahead = id; /* its RDATA may be on its way; look again next time */
        return;
    }
    p->db_ahead = 0;
    if (!at_once && p->s != STREAM_QUARANTINED_MEDIA) /* which not every writer announces */
        log_warning(FEED_LOG, "%s of %.*s: position %lld was never announced here", stream_name(p->s),
                    STR_ARG(p->name), (long long)id);
    feed_pair_position(f, p, id, id);
}

static void on_positions(void *arg, int err, const struct pg_result *r)
{
    struct feed_look *look = arg;
    struct feed *f = look->f;

    if (f) {
        f->look = NULL;
        for (int i = 0; !err && r && i < pg_rows(r); i++)
            feed_positions_row(f, pg_str(r, i, 0), pg_str(r, i, 1), pg_i64(r, i, 2), look->at_once);
        f->positions_at_ms = clock_mono_ms();
    }
    free(look);
}

static void positions_real(struct feed *f, bool at_once)
{
    f->look = xcalloc(1, sizeof *f->look);
    f->look->f = f;
    f->look->at_once = at_once;
    pg_exec(f->pg, SQL_feed_positions, pg_args_new(), on_positions, f->look);
}

void feed_positions_tick(struct feed *f)
{
    if (!f->look && f->handshake_done && clock_mono_ms() - f->positions_at_ms >= f->t.positions_every_ms)
        f->source->positions(f, false);
}

void feed_positions_check(struct feed *f)
{
    if (!f->look && f->handshake_done && clock_mono_ms() - f->positions_at_ms >= 1000)
        f->source->positions(f, true);
}

const struct feed_source feed_source_real = {.fetch = fetch_real, .positions = positions_real};
