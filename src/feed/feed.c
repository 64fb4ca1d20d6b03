/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The life of the feed: positions are read, two Redis connections are made, and on every subscription
 *   SUBSCRIBE is confirmed and the outbound connection is up
 *     → USER_SYNC start for every syncing device → REPLICATE → each writer answers with its POSITIONs
 *     → each (stream, writer) is checked for a gap and caught up → LIVE.
 * SUBSCRIBE must stand before REPLICATE: the answers would be missed otherwise. LIVE waits for all configured
 * writers, but not for ever: one that is away must not keep the others' clients waiting, and what its
 * positions do not cover is not answered from anyway.
 *
 * Everything that waits has one clock: a tick (once a second) drives retries, the safety net, presence and
 * the limit on waiting for LIVE. On stop, handles are closed by the loop, and the struct goes with the last
 * of them; requests to PostgreSQL and peers that are still under way find that the feed is gone.
 */
#include "chappe/clock.h"
#include "chappe/log.h"
#include "chappe/metrics.h"
#include "feed_int.h"

#include <hiredis/hiredis.h>
#include <stdlib.h>

enum { LINE_BYTES_MAX = 64 << 10, UNKNOWN_NAMES_MAX = 1000, OWN_NAME_LOG_MS = 60000 };

const struct feed_tuning feed_tuning_default = {
    .tick_ms = 1000,
    .live_wait_ms = 5000,
    .ping_ms = 30000,
    .redis_timeout_ms = 30000,
    .backoff_min_ms = 250,
    .backoff_max_ms = 5000,
    .positions_every_ms = 15000,
    .offline_delay_ms = 10000,
    .fetch_backoff_min_ms = 500,
    .fetch_backoff_max_ms = 10000,
    .user_ip_every_ms = 120000,
};

/* ---- states ---- */

static void set_state(struct feed *f, enum feed_state st)
{
    static const char *const names[] = {"connecting", "live", "disconnected"};

    if (f->state == st)
        return;
    ASSERT(st != FEED_CONNECTING);
    f->state = st;
    metric_set(M_feed_connected, st == FEED_LIVE);
    log_info(FEED_LOG, "replication is %s", names[st]);
    f->sink.state(f->sink.arg, st);
}

enum feed_state feed_state(const struct feed *f)
{
    return f->state;
}

void feed_check_live(struct feed *f)
{
    size_t missing = 0;

    if (!f->handshake_done || f->state == FEED_LIVE || !feed_release_known(f))
        return;
    for (int s = 0; s < STREAM_COUNT; s++) {
        struct feed_pair *p;
        size_t it = 0;

        while ((p = smap_next(&f->pairs[s], &it)))
            missing += p->expected && !feed_pair_live(f, p);
    }
    if (missing && clock_mono_ms() - f->handshake_at_ms < f->t.live_wait_ms)
        return;
    if (missing)
        log_warning(FEED_LOG, "%zu streams of configured writers have not been announced or caught up yet",
                    missing);
    f->lost_at_ms = 0;
    set_state(f, FEED_LIVE);
}

/* ---- the subscription ---- */

static void handshake(struct feed *f)
{
    if (!f->subscribed || !redis_conn_up(f->out))
        return;
    f->handshake_done = true;
    f->handshake_at_ms = clock_mono_ms();
    f->positions_at_ms = f->handshake_at_ms;
    feed_presence_connected(f);
    feed_publish(f, STR(""), STR("REPLICATE "), "REPLICATE");
}

/* The caches stream cannot be caught up past its retention. */
static void outage_check(struct feed *f)
{
    int64_t away = f->lost_at_ms ? clock_mono_ms() - f->lost_at_ms : 0;

    if (away <= f->cfg->feed_outage_flush_ms)
        return;
    log_warning(FEED_LOG, "replication was away for %lld s: dropping everything cached",
                (long long)(away / 1000));
    f->sink.flush(f->sink.arg, STREAM_CACHES);
}

void feed_epoch_begin(struct feed *f)
{
    f->epoch++;
    f->subscribed = true;
    if (f->epoch > 1)
        metric_add(M_feed_reconnects, 1);
    outage_check(f);
    handshake(f);
}

void feed_epoch_lost(struct feed *f)
{
    if (!f->subscribed)
        return;
    f->subscribed = f->handshake_done = false;
    if (!f->lost_at_ms)
        f->lost_at_ms = clock_mono_ms();
    feed_pairs_lost(f);
    set_state(f, FEED_DISCONNECTED);
}

static void on_sub_ready(void *arg)
{
    struct feed *f = arg;

    redis_conn_send(f->sub, (struct str[]){STR("SUBSCRIBE"), f->cfg->server_name}, 2);
}

static void on_sub_lost(void *arg)
{
    feed_epoch_lost(arg);
}

static void on_sub_reply(void *arg, const struct redisReply *r)
{
    struct feed *f = arg;

    if (r->type == REDIS_REPLY_ERROR) {
        log_error(FEED_LOG, "redis: SUBSCRIBE refused: %.120s", r->str);
        redis_conn_fail(f->sub, "SUBSCRIBE refused");
        return;
    }
    if (r->type != REDIS_REPLY_ARRAY || r->elements != 3 || r->element[0]->type != REDIS_REPLY_STRING)
        return;
    if (strcmp(r->element[0]->str, "subscribe") == 0 && !f->subscribed) {
        redis_conn_settled(f->sub);
        feed_epoch_begin(f);
    } else if (strcmp(r->element[0]->str, "message") == 0 && r->element[2]->type == REDIS_REPLY_STRING) {
        feed_line(f, str_n(r->element[2]->str, r->element[2]->len));
    }
}

static void on_sub_burst_end(void *arg)
{
    feed_burst_end(arg);
}

/* If it broke while the subscription stood, USER_SYNCs may have been lost with it. */
static void on_out_ready(void *arg)
{
    struct feed *f = arg;

    redis_conn_settled(f->out);
    handshake(f);
}

static void on_out_lost(void *arg)
{
    (void)arg;
}

static void on_out_reply(void *arg, const struct redisReply *r)
{
    (void)arg;
    if (r->type == REDIS_REPLY_ERROR) {
        metric_add_l(M_feed_bad, "publish_refused", 1);
        log_warning(FEED_LOG, "redis: PUBLISH refused: %.120s", r->str);
    }
}

static void on_out_burst_end(void *arg)
{
    (void)arg;
}

/* ---- lines ---- */

struct unknown_name {
    size_t n;
    char name[];
};

void feed_log_unknown(struct feed *f, const char *what, struct str name)
{
    struct unknown_name *u;

    if (name.n > 255 || smap_count(&f->unknown) >= UNKNOWN_NAMES_MAX || smap_get(&f->unknown, name))
        return;
    u = xcalloc(1, sizeof *u + name.n + 1);
    u->n = name.n;
    memcpy(u->name, name.p, name.n);
    smap_put(&f->unknown, str_n(u->name, name.n), u);
    log_warning(FEED_LOG, "%s: %.*s; ignored from now on", what, STR_ARG(name));
}

static void own_name(struct feed *f, const struct repl_line *l)
{
    int64_t now = clock_mono_ms();

    metric_add_l(M_feed_bad, "own_name", 1);
    if (l->cmd != REPL_RDATA || (f->own_name_logged_ms && now - f->own_name_logged_ms < OWN_NAME_LOG_MS))
        return;
    f->own_name_logged_ms = now;
    log_error(FEED_LOG,
              "another process writes under our worker_name %.*s (stream %.*s): names must be unique",
              STR_ARG(f->cfg->worker_name), STR_ARG(l->stream));
}

/* The pair a line is about, or NULL when it is not for us. */
static struct feed_pair *line_pair(struct feed *f, const struct repl_line *l)
{
    struct feed_pair *p;
    int s = stream_find(l->stream);
    char what[64];

    if (str_eq(l->instance, f->cfg->worker_name)) {
        own_name(f, l);
        return NULL;
    }
    if (s < 0) {
        if (!stream_ignored(l->stream)) {
            metric_add_l(M_feed_bad, "unknown_stream", 1);
            feed_log_unknown(f, "unknown stream", l->stream);
        }
        return NULL;
    }
    p = feed_pair_find(f, (enum stream)s, l->instance);
    if (!p && !f->present[s]) {
        metric_add_l(M_feed_bad, "unknown_stream", 1);
        feed_log_unknown(f, "a stream that came after our start, restart Chappe to follow it", l->stream);
    } else if (!p) {
        metric_add_l(M_feed_bad, "unknown_writer", 1);
        snprintf(what, sizeof what, "not a configured writer of %s", stream_name((enum stream)s));
        feed_log_unknown(f, what, l->instance);
    }
    return p;
}

/* What a line we cannot read meant to say is found out by the gap check of its writer. */
static void bad_line(struct feed *f, const struct repl_line *l, struct str line)
{
    int s = stream_find(l->stream);
    struct feed_pair *p = s >= 0 && l->instance.n ? smap_get(&f->pairs[s], l->instance) : NULL;

    metric_add_l(M_feed_bad, "malformed", 1);
    log_warning(FEED_LOG, "malformed %s line of %zu bytes (stream %.*s)", repl_command_name(l->cmd), line.n,
                (int)(l->stream.n < 64 ? l->stream.n : 64), l->stream.p ? l->stream.p : "");
    if (p)
        feed_pair_suspect(f, p);
}

void feed_line(struct feed *f, struct str line)
{
    struct repl_line l;
    struct feed_pair *p;
    int err = repl_parse(line, &l);

    metric_add_l(M_feed_commands, repl_command_name(l.cmd), 1);
    if (err) {
        bad_line(f, &l, line);
        return;
    }
    if (l.cmd == REPL_UNKNOWN) {
        metric_add_l(M_feed_bad, "unknown_command", 1);
        return;
    }
    if (l.cmd == REPL_REPLICATE)
        feed_release_ask_soon(f);
    if ((l.cmd != REPL_RDATA && l.cmd != REPL_POSITION) || !(p = line_pair(f, &l)))
        return;
    if (l.cmd == REPL_RDATA) {
        metric_add_l(M_feed_rows, stream_name(p->s), 1);
        feed_pair_rdata(f, p, &l);
    } else {
        feed_pair_position(f, p, l.prev, l.next);
    }
}

void feed_burst_end(struct feed *f)
{
    if (!f->dirty)
        return;
    f->dirty = false;
    f->sink.burst_end(f->sink.arg);
}

/* ---- life ---- */

static void on_tick(uv_timer_t *t)
{
    struct feed *f = t->data;

    feed_fetch_tick(f);
    feed_positions_tick(f);
    feed_presence_tick(f);
    feed_release_tick(f);
    if (f->state != FEED_LIVE)
        feed_check_live(f);
    feed_burst_end(f);
}

static void on_handle_closed(void *arg)
{
    struct feed *f = arg;

    if (--f->closing == 0)
        free(f);
}

static void on_tick_closed(uv_handle_t *h)
{
    on_handle_closed(h->data);
}

struct feed *feed_new(uv_loop_t *loop, const struct config *cfg, struct pg *pg, struct httpc *httpc,
                      const struct feed_sink *sink, const struct feed_source *src,
                      const struct feed_tuning *t)
{
    struct feed *f = xcalloc(1, sizeof *f);

    f->loop = loop;
    f->cfg = cfg;
    f->pg = pg;
    f->httpc = httpc;
    f->sink = *sink;
    f->source = src;
    f->t = *t;
    f->state = FEED_CONNECTING;
    f->release_at_ms = INT64_MAX; /* until feed_release_begin */
    for (int s = 0; s < STREAM_COUNT; s++) {
        smap_init(&f->pairs[s]);
        f->start[s] = positions_new();
        f->present[s] = true;
    }
    list_init(&f->fetches);
    smap_init(&f->unknown);
    smap_init(&f->writers);
    imap_init_of(&f->user_ips, MEM_feed);
    kmap_init(&f->presence);
    list_init(&f->going_offline);
    list_init(&f->relays);
    buf_init(&f->line, LINE_BYTES_MAX);
    rng_letters(f->instance_id, 5);
    ASSERT(uv_timer_init(loop, &f->tick) == 0);
    f->tick.data = f;
    f->closing = 1;
    uv_timer_start(&f->tick, on_tick, (uint64_t)t->tick_ms, (uint64_t)t->tick_ms);
    return f;
}

int feed_connect(struct feed *f, struct err *e)
{
    struct redis_conn_opts o = {
        .name = "subscriber",
        .ping_ms = f->t.ping_ms,
        .timeout_ms = f->t.redis_timeout_ms,
        .backoff_min_ms = f->t.backoff_min_ms,
        .backoff_max_ms = f->t.backoff_max_ms,
        .arg = f,
        .ready = on_sub_ready,
        .lost = on_sub_lost,
        .reply = on_sub_reply,
        .burst_end = on_sub_burst_end,
        .closed = on_handle_closed,
    };
    int err = redis_conn_new(&f->sub, f->loop, f->cfg, &o, e);

    if (err)
        return err;
    f->closing++;
    o.name = "outbound";
    o.select_db = true;
    o.ready = on_out_ready;
    o.lost = on_out_lost;
    o.reply = on_out_reply;
    o.burst_end = on_out_burst_end;
    err = redis_conn_new(&f->out, f->loop, f->cfg, &o, e);
    if (err)
        return err;
    f->closing++;
    redis_conn_start(f->sub);
    redis_conn_start(f->out);
    return 0;
}

int feed_start(struct feed **out, struct uv_loop_s *loop, const struct config *cfg, struct pg *pg,
               struct httpc *httpc, bool known, const struct feed_sink *sink, struct err *e)
{
    struct feed *f = feed_new(loop, cfg, pg, httpc, sink, &feed_source_real, &feed_tuning_default);
    int err = feed_load(f, e);

    feed_release_begin(f, known);
    if (!err)
        err = feed_connect(f, e);
    if (err)
        feed_stop(&f);
    *out = f;
    return err;
}

const struct positions *feed_start_positions(const struct feed *f, enum stream s)
{
    ASSERT((unsigned)s < STREAM_COUNT);
    return f->start[s];
}

static void unknown_free(struct feed *f)
{
    struct unknown_name *u;
    size_t it = 0;

    while ((u = smap_next(&f->unknown, &it)))
        free(u);
    smap_fini(&f->unknown);
}

void feed_stop(struct feed **fp)
{
    struct feed *f = *fp;

    if (!f)
        return;
    *fp = NULL;
    feed_presence_free(f, true);
    redis_conn_flush(f->out, 1000);
    redis_conn_stop(&f->sub);
    redis_conn_stop(&f->out);
    feed_fetches_detach(f);
    feed_release_end(f);
    if (f->look)
        f->look->f = NULL;
    if (f->refresh)
        f->refresh->f = NULL;
    vec_free(&f->refresh_waiters);
    feed_pairs_free(f);
    imap_fini(&f->user_ips);
    feed_writers_free(f);
    unknown_free(f);
    for (int s = 0; s < STREAM_COUNT; s++)
        positions_free(&f->start[s]);
    buf_fini(&f->line);
    uv_close((uv_handle_t *)&f->tick, on_tick_closed);
}
