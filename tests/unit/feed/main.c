/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* The fixture, fakes for what stands around the feed, and the order of the groups. */
#include "feed_test.h"

#include "chappe/clock.h"
#include "chappe/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- fake HTTP client: stands in for httpc_send ---- */

struct http_call_list http_calls;

void httpc_send(struct httpc *c, const struct httpc_req *req, httpc_done_fn *done, void *arg)
{
    struct http_call call = {.done = done, .arg = arg};

    (void)c;
    call.method = str_dup(str_of(req->method));
    call.url = str_dup(req->url);
    call.body = str_dup(req->body);
    call.unix_path = str_dup(req->unix_path);
    for (size_t i = 0; i < req->headers_count; i++)
        if (str_eq(req->headers[i].name, STR("Authorization")))
            call.auth = str_dup(req->headers[i].value);
    vec_push(&http_calls, call);
}

static void call_free(struct http_call *c)
{
    free((void *)(uintptr_t)c->method.p);
    free((void *)(uintptr_t)c->url.p);
    free((void *)(uintptr_t)c->body.p);
    free((void *)(uintptr_t)c->auth.p);
    free((void *)(uintptr_t)c->unix_path.p);
}

void http_answer(size_t i, int err, int status, const char *body)
{
    http_answer_from(i, err, status, body, NULL);
}

void http_answer_from(size_t i, int err, int status, const char *body, const char *server)
{
    struct http_call c;
    struct httpc_res res = {.err = err, .status = status, .body = str_of(body), .server = str_of(server)};

    assert_true(i < http_calls.n);
    c = http_calls.v[i];
    memmove(http_calls.v + i, http_calls.v + i + 1, (--http_calls.n - i) * sizeof c);
    c.done(c.arg, &res);
    call_free(&c);
}

void http_forget(void)
{
    while (http_calls.n)
        http_answer(0, -ERR_SHUTDOWN, 0, "");
    vec_free(&http_calls);
}

/* ---- log ---- */

static struct buf log_seen;

static void on_log(enum log_level level, const char *text)
{
    if (getenv("FEED_TEST_LOG"))
        fprintf(stderr, "%s\n", text);
    if (level < LOG_WARNING)
        return;
    buf_put(&log_seen, str_of(text));
    buf_putc(&log_seen, '\n');
}

bool logged(const char *part)
{
    return log_seen.n && memmem(log_seen.p, log_seen.n, part, strlen(part)) != NULL;
}

void log_forget(void)
{
    buf_reset(&log_seen);
}

/* ---- sink and source that write down ---- */

static void note_row(struct buf *b, enum stream s, const struct feed_row *r)
{
    static const char *const kinds[] = {"ev", "state", "state-all"};

    buf_putc(b, ' ');
    switch (s) {
    case STREAM_EVENTS:
        buf_printf(b, "%s:", kinds[r->ev.kind]);
        buf_put(b, r->ev.kind == EV_ROW_EV      ? r->ev.event_id
                   : r->ev.kind == EV_ROW_STATE ? r->ev.type
                                                : r->ev.room_id);
        break;
    case STREAM_BACKFILL:
        buf_put(b, r->backfill.event_id);
        break;
    case STREAM_TYPING:
        buf_printf(b, "%.*s=%zu", STR_ARG(r->typing.room_id), r->typing.user_ids_count);
        break;
    case STREAM_RECEIPTS:
        buf_put(b, r->receipt.event_id);
        break;
    case STREAM_CACHES:
        buf_printf(b, "%.*s/%s%zu", STR_ARG(r->cache.func), r->cache.all ? "all" : "", r->cache.keys_count);
        break;
    case STREAM_STICKY_EVENTS:
        buf_put(b, r->room.event_id);
        break;
    default: /* the rest start with a user or a room */
        buf_put(b, r->user.user_id);
    }
}

static void sink_rows(void *arg, enum stream s, writer_id w, int64_t token, const struct feed_row *rows,
                      size_t n)
{
    struct fix *x = arg;

    buf_printf(&x->seen, "%s %d %lld", stream_name(s), (int)w, (long long)token);
    for (size_t i = 0; i < n; i++)
        note_row(&x->seen, s, &rows[i]);
    buf_putc(&x->seen, '\n');
}

static void sink_reset(void *arg, enum stream s, writer_id w)
{
    buf_printf(&((struct fix *)arg)->seen, "reset %s %d\n", stream_name(s), (int)w);
}

static void sink_flush(void *arg, enum stream s)
{
    buf_printf(&((struct fix *)arg)->seen, "flush %s\n", stream_name(s));
}

static void sink_burst_end(void *arg)
{
    buf_printf(&((struct fix *)arg)->seen, "end\n");
}

static void sink_state(void *arg, enum feed_state st)
{
    buf_printf(&((struct fix *)arg)->seen, "state %s\n", st == FEED_LIVE ? "live" : "disconnected");
}

static void source_fetch(struct feed_fetch *q)
{
    struct fix *x = q->f->sink.arg;

    buf_printf(&x->seen, "fetch %s %.*s %lld %lld\n", stream_name(q->s), STR_ARG(q->pair->name),
               (long long)q->lo, (long long)q->hi);
    vec_push(&x->asked, q);
}

static void source_positions(struct feed *f, bool at_once)
{
    struct fix *x = f->sink.arg;

    x->looks++;
    x->positions_at_once = at_once;
    f->positions_at_ms = clock_mono_ms();
}

static const struct feed_source source = {source_fetch, source_positions};

static struct feed_fetch *oldest(struct fix *x)
{
    struct feed_fetch *q;

    assert_true(x->asked.n > 0);
    q = x->asked.v[0];
    memmove(x->asked.v, x->asked.v + 1, --x->asked.n * sizeof q);
    return q;
}

void answer(struct fix *x, int64_t upto, const char *rows)
{
    struct feed_fetch *q = oldest(x);
    struct str rest = str_of(rows), one, token, json;

    q->upto = upto;
    while (rest.n) {
        struct feed_row row;
        int64_t t;

        str_cut(rest, '\n', &one, &rest);
        str_cut(one, ' ', &token, &json);
        assert_int_equal(str_to_i64(token, &t), 0);
        assert_int_equal(row_parse_text(q->arena, q->s, json, &row), 0);
        feed_fetch_add(q, t, &row);
    }
    feed_fetch_done(q, 0);
}

void answer_error(struct fix *x, int err)
{
    feed_fetch_done(oldest(x), err);
}

/* ---- fixture ---- */

static struct str names_master[] = {{"master", 6}};
static struct str names_events[] = {{"ep1", 3}, {"ep2", 3}};
static struct str names_receipts[] = {{"master", 6}, {"r2", 2}};
static struct config_instance instances[] = {
    {.name = {"master", 6}, .host = {"127.0.0.1", 9}, .port = 9093},
    {.name = {"ep1", 3}, .host = {"::1", 3}, .port = 9094, .tls = true},
    {.name = {"ep2", 3}, .path = {"/run/ep2.sock", 13}},
};

void fix_config(struct config *cfg)
{
    memset(cfg, 0, sizeof *cfg);
    cfg->server_name = STR("example.com");
    cfg->worker_name = STR("sync9");
    cfg->replication_secret = STR("s3cret");
    for (int i = 0; i < WRITERS_COUNT; i++)
        cfg->writers[i] = (struct config_writers){names_master, 1};
    cfg->writers[WRITERS_EVENTS] = (struct config_writers){names_events, 2};
    cfg->writers[WRITERS_RECEIPTS] = (struct config_writers){names_receipts, 2};
    cfg->instances = instances;
    cfg->instances_count = 3;
    cfg->presence.enabled = cfg->presence.tracked = true;
    cfg->presence.last_active_granularity_ms = 60000;
    cfg->presence.sync_online_timeout_ms = 30000;
    cfg->feed_outage_flush_ms = 518400000;
    cfg->redis_verify_tls = true;
}

struct fix *fix_new_quiet(void)
{
    struct fix *x = xcalloc(1, sizeof *x);
    struct feed_sink sink = {x, sink_rows, sink_reset, sink_burst_end, sink_flush, sink_state};

    fix_config(&x->cfg);
    x->t = feed_tuning_default;
    x->t.tick_ms = 5;
    x->t.backoff_min_ms = 10;
    x->t.backoff_max_ms = 40;
    x->t.fetch_backoff_min_ms = 10;
    x->t.fetch_backoff_max_ms = 40;
    buf_init(&x->seen, 64 << 20);
    assert_int_equal(uv_loop_init(&x->loop), 0);
    x->f = feed_new(&x->loop, &x->cfg, NULL, NULL, &sink, &source, &x->t);
    feed_writer_put(x->f, STR("master"), W_MASTER);
    feed_writer_put(x->f, STR("ep1"), W_EP1);
    feed_writer_put(x->f, STR("ep2"), W_EP2);
    feed_writer_put(x->f, STR("r2"), W_R2);
    for (int s = 0; s < STREAM_COUNT; s++)
        positions_init_empty(x->f->start[s], s == STREAM_TYPING ? 0 : 100);
    feed_pairs_make(x->f);
    log_forget();
    return x;
}

struct fix *fix_new(void)
{
    struct fix *x = fix_new_quiet();

    feed_epoch_begin(x->f);
    return x;
}

void fix_free(struct fix **x)
{
    while ((*x)->asked.n)
        answer_error(*x, -ERR_SHUTDOWN);
    vec_free(&(*x)->asked);
    feed_stop(&(*x)->f);
    http_forget();
    uv_run(&(*x)->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&(*x)->loop), 0);
    buf_fini(&(*x)->seen);
    free(*x);
    *x = NULL;
}

void line(struct fix *x, const char *text)
{
    feed_line(x->f, str_of(text));
    feed_burst_end(x->f);
}

void lines(struct fix *x, const char *const *texts)
{
    for (; *texts; texts++)
        feed_line(x->f, str_of(*texts));
    feed_burst_end(x->f);
}

void expect(struct fix *x, const char *seen)
{
    buf_putc(&x->seen, '\0');
    assert_string_equal(x->seen.p, seen);
    buf_reset(&x->seen);
}

bool seen_has(struct fix *x, const char *part)
{
    return x->seen.n && memmem(x->seen.p, x->seen.n, part, strlen(part)) != NULL;
}

void expect_has(struct fix *x, const char *part)
{
    if (!seen_has(x, part))
        fail_msg("not seen: %s; seen: %.*s", part, STR_ARG(buf_str(&x->seen)));
    buf_reset(&x->seen);
}

void turns(struct fix *x, int ms)
{
    int64_t end = clock_mono_ms() + ms;

    do {
        uv_run(&x->loop, UV_RUN_NOWAIT);
        usleep(500);
    } while (clock_mono_ms() < end);
}

int main(void)
{
    int failed, redis, db;

    buf_init(&log_seen, 1 << 20);
    log_sink_set(on_log);
    failed = run_lines();
    failed += run_streams();
    failed += run_sent() + run_release();
    redis = run_redis();
    db = run_db();
    log_sink_set(NULL);
    buf_fini(&log_seen);
    vec_free(&http_calls);
    if (failed || redis > 0 || db > 0)
        return 1;
    return redis < 0 || db < 0 ? 77 : 0; /* a negative count: no server on this machine */
}
