/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What is known of one stream of one writer (a pair), and what a batch or a POSITION does to it.
 *
 *                 first line on a connection shows no gap
 *   UNCHECKED ───────────────────────────────────────────► LIVE ──► rows to the sink, position forward
 *       │  ▲                                                │
 *       │  └──────────── connection lost ────────────┐      │ a gap
 *       └──────────► FETCHING ◄──────────────────────┼──────┘
 *         a gap      │  later lines wait in the queue│
 *                    └── filled: UNCHECKED's or LIVE's next item
 *
 * UNCHECKED is checked != feed.epoch, FETCHING is fetch != NULL. Everything is per (stream, writer): two
 * writers of one stream interleave freely on Redis, and the gap of one must not make the other deaf. Lines
 * are processed in arrival order; a line that arrives during a fetch waits, and when too many wait they are
 * replaced by the knowledge that everything up to the last of them has to be fetched. So nothing that was
 * announced is ever dropped: rows that could not be read, batches over the limit and overflown queues all
 * become fetches.
 *
 * After a fetch of an old connection nothing is assumed about the new one: an item carries no proof for an
 * epoch other than the one it arrived on, and the queue is emptied when the connection goes.
 */
#include "chappe/log.h"
#include "chappe/metrics.h"
#include "feed_int.h"

#include <stdlib.h>

/* Backfill is announced with descending tokens and sticky events in any order, so a lower token proves
 * nothing. */
bool stream_unordered(enum stream s)
{
    return s == STREAM_BACKFILL || s == STREAM_STICKY_EVENTS;
}

/* Memory-only: the serial starts from 0 again when its writer restarts. */
static bool stream_resets(enum stream s)
{
    return s == STREAM_TYPING;
}

/* ---- items ---- */

/* Most batches are one row, processed at once: one item and its memory are used again and again. */
static struct feed_item *item_new(struct feed *f)
{
    struct feed_item *i = f->spare;

    f->spare = NULL;
    if (!i) {
        i = xcalloc(1, sizeof *i);
        i->arena = arena_new(FEED_PENDING_BYTES_MAX);
    }
    return i;
}

static void item_free(struct feed *f, struct feed_item **ip)
{
    struct feed_item *i = *ip;

    if (!i)
        return;
    *ip = NULL;
    if (!f->spare && i->arena && i->rows.cap <= 1024 && arena_bytes(i->arena) <= 1 << 20) {
        arena_reset(i->arena);
        i->rows.n = 0;
        i->damaged = i->position = false;
        f->spare = i;
        return;
    }
    vec_free(&i->rows);
    arena_free(&i->arena);
    free(i);
}

static size_t item_bytes(const struct feed_item *i)
{
    return sizeof *i + i->rows.cap * sizeof *i->rows.v + (i->arena ? arena_bytes(i->arena) : 0);
}

static void queue_drop(struct feed *f, struct feed_pair *p)
{
    struct feed_item *i;

    list_each(i, &p->queue, struct feed_item, link) {
        list_del(&i->link);
        item_free(f, &i);
    }
    p->queue_n = p->queue_bytes = 0;
}

/* ---- pairs ---- */

struct feed_pair *feed_pair_add(struct feed *f, enum stream s, struct str name, writer_id w, int64_t received)
{
    struct feed_pair *p = xcalloc(1, sizeof *p);

    p->s = s;
    p->name = str_dup(name);
    p->writer = w;
    p->received = received;
    p->fresh = true;
    list_init(&p->queue);
    ASSERT(!smap_put(&f->pairs[s], p->name, p));
    return p;
}

static void pair_free(struct feed *f, struct feed_pair *p)
{
    queue_drop(f, p);
    item_free(f, &p->pending);
    free((void *)(uintptr_t)p->name.p);
    free(p);
}

void feed_pairs_free(struct feed *f)
{
    for (int s = 0; s < STREAM_COUNT; s++) {
        struct feed_pair *p;
        size_t it = 0;

        while ((p = smap_next(&f->pairs[s], &it)))
            pair_free(f, p);
        smap_fini(&f->pairs[s]);
    }
    if (f->spare) {
        vec_free(&f->spare->rows);
        arena_free(&f->spare->arena);
        free(f->spare);
    }
}

/* So many instances have written invalidations that we forget the idle ones. What an idle instance may have
 * written meanwhile is unknown afterwards; hence the flush. */
static void caches_forget(struct feed *f)
{
    struct feed_pair *p;
    size_t it = 0;

    while ((p = smap_next(&f->pairs[STREAM_CACHES], &it))) {
        f->caches_base = p->received > f->caches_base ? p->received : f->caches_base;
        if (p->fetch || p->pending)
            continue;
        smap_del(&f->pairs[STREAM_CACHES], p->name);
        pair_free(f, p);
    }
    f->sink.flush(f->sink.arg, STREAM_CACHES);
}

struct feed_pair *feed_pair_find(struct feed *f, enum stream s, struct str name)
{
    struct feed_pair *p = smap_get(&f->pairs[s], name);

    if (p || s != STREAM_CACHES)
        return p;
    if (smap_count(&f->pairs[s]) >= FEED_CACHES_INSTANCES_MAX)
        caches_forget(f);
    return feed_pair_add(f, s, name, feed_writer_local(f, name), f->caches_base);
}

/* The connection is gone. What unordered streams sent last may have had lower tokens still to come: those are
 * read again, as far as they came on this connection. */
void feed_pairs_lost(struct feed *f)
{
    for (int s = 0; s < STREAM_COUNT; s++) {
        struct feed_pair *p;
        size_t it = 0;

        while ((p = smap_next(&f->pairs[s], &it))) {
            item_free(f, &p->pending);
            queue_drop(f, p);
            if (stream_unordered(p->s) && !p->fetch && p->received > p->received_checked) {
                int64_t back = p->received - FEED_UNORDERED_OVERLAP;

                p->received = back > p->received_checked ? back : p->received_checked;
            }
        }
    }
}

/* ---- deliveries ---- */

static void deliver(struct feed *f, struct feed_pair *p, int64_t token, const struct feed_row *rows, size_t n)
{
    if (token > p->received || stream_resets(p->s))
        p->received = token;
    f->dirty = true;
    f->sink.rows(f->sink.arg, p->s, p->writer, p->received, rows, n);
}

static void checked(struct feed *f, struct feed_pair *p, uint64_t epoch)
{
    bool was = p->checked == f->epoch;

    p->checked = epoch;
    if (!was)
        p->received_checked = p->received;
    p->fresh = false;
    if (!was && epoch == f->epoch && f->state != FEED_LIVE)
        feed_check_live(f);
}

/* Everything in (received, to] has to be read again. */
static void gap(struct feed *f, struct feed_pair *p, int64_t to)
{
    int64_t from = p->received;

    if (stream_resets(p->s) && to < from) {
        log_info(FEED_LOG, "%s: the writer %.*s restarted (%lld after %lld)", stream_name(p->s),
                 STR_ARG(p->name), (long long)to, (long long)from);
        p->received = from = 0;
        f->sink.reset(f->sink.arg, p->s, p->writer);
        if (to == 0) {
            deliver(f, p, 0, NULL, 0);
            checked(f, p, f->epoch);
            return;
        }
    }
    ASSERT(to > from);
    if (!p->fresh) {
        metric_add_l(M_feed_gaps, stream_name(p->s), 1);
        log_info(FEED_LOG, "%s of %.*s: reading what was missed in (%lld, %lld]", stream_name(p->s),
                 STR_ARG(p->name), (long long)from, (long long)to);
    }
    feed_fetch_start(f, p, from, to);
}

static void process_position(struct feed *f, struct feed_pair *p, int64_t prev, int64_t next)
{
    int64_t cur = p->received;

    if (!stream_resets(p->s) && next <= cur) {
        checked(f, p, f->epoch);
    } else if (stream_resets(p->s) && next == cur && p->checked == f->epoch) {
        /* nothing new */
    } else if (prev <= cur && cur <= next) {
        deliver(f, p, next, NULL, 0);
        checked(f, p, f->epoch);
    } else {
        gap(f, p, next);
    }
}

static void process_rows(struct feed *f, struct feed_pair *p, struct feed_item *i)
{
    bool live = p->checked == f->epoch;

    if (stream_unordered(p->s) && i->token <= p->received) {
        deliver(f, p, p->received, i->rows.v,
                i->rows.n); /* what a damaged batch lost cannot be located: 8.2.1 */
        return;
    }
    if (!stream_resets(p->s) && i->token <= p->received)
        return;
    if (stream_resets(p->s) && (i->token == p->received || (i->token < p->received && !i->damaged && live))) {
        if (i->token < p->received)
            f->sink.reset(f->sink.arg, p->s, p->writer);
        deliver(f, p, i->token, i->rows.v, i->rows.n);
        return;
    }
    if (!live || i->damaged)
        gap(f, p, i->token);
    else
        deliver(f, p, i->token, i->rows.v, i->rows.n);
}

static void process(struct feed *f, struct feed_pair *p, struct feed_item *i)
{
    if (i->position)
        process_position(f, p, i->prev, i->token);
    else
        process_rows(f, p, i);
    item_free(f, &i);
}

/* The rows that wait are forgotten in exchange for one item that says: fetch up to the last token. */
static struct feed_item *queue_collapse(struct feed *f, struct feed_pair *p, struct feed_item *last)
{
    int64_t token = last->token;
    struct feed_item *i;

    if (!stream_resets(p->s))
        list_each(i, &p->queue, struct feed_item, link)
            token = i->token > token ? i->token : token;
    queue_drop(f, p);
    item_free(f, &last);
    i = xcalloc(1, sizeof *i);
    i->damaged = true;
    i->token = token;
    metric_add_l(M_feed_bad, "queue_overflow", 1);
    return i;
}

/* Takes i. */
static void submit(struct feed *f, struct feed_pair *p, struct feed_item *i)
{
    if (!p->fetch) {
        ASSERT(list_empty(&p->queue));
        process(f, p, i);
        return;
    }
    if (p->queue_n >= FEED_QUEUE_ITEMS_MAX || p->queue_bytes + item_bytes(i) > FEED_QUEUE_BYTES_MAX)
        i = queue_collapse(f, p, i);
    list_push(&p->queue, &i->link);
    p->queue_n++;
    p->queue_bytes += item_bytes(i);
}

/* ---- lines ---- */

void feed_pair_position(struct feed *f, struct feed_pair *p, int64_t prev, int64_t next)
{
    struct feed_item *i;

    if (prev > next)
        prev = next; /* nonsense, but harmless this way */
    item_free(f, &p->pending);
    if (!p->fetch) {
        process_position(f, p, prev, next);
        return;
    }
    i = xcalloc(1, sizeof *i);
    i->position = true;
    i->prev = prev;
    i->token = next;
    submit(f, p, i);
}

/* A row for the batch under construction; one that cannot be had marks the batch as damaged. */
static void pending_row(struct feed *f, struct feed_pair *p, struct str text)
{
    struct feed_item *i = p->pending;
    struct feed_row row;
    int err;

    if (!i)
        i = p->pending = item_new(f);
    if (i->damaged && !stream_unordered(p->s))
        return; /* all of it will be fetched */
    if (i->rows.n >= FEED_PENDING_ROWS_MAX) {
        metric_add_l(M_feed_bad, "batch_too_long", 1);
        i->damaged = true;
        i->rows.n = 0;
        arena_reset(i->arena);
        return;
    }
    err = row_parse_text(i->arena, p->s, text, &row);
    if (err == 0) {
        vec_push(&i->rows, row);
        return;
    }
    i->damaged = true;
    metric_add_l(M_feed_bad, err == -ERR_NOMEM ? "batch_too_long" : "row", 1);
    log_warning(FEED_LOG, "%s of %.*s: a row could not be read (%zu bytes): %s", stream_name(p->s),
                STR_ARG(p->name), text.n,
                stream_unordered(p->s) ? "ignored" : "it will be read from the database");
}

void feed_pair_rdata(struct feed *f, struct feed_pair *p, const struct repl_line *l)
{
    struct feed_item *i;

    pending_row(f, p, l->row);
    if (l->batch)
        return;
    i = p->pending;
    p->pending = NULL;
    i->token = l->token;
    submit(f, p, i);
}

void feed_pair_suspect(struct feed *f, struct feed_pair *p)
{
    item_free(f, &p->pending);
    if (p->checked == f->epoch)
        p->checked = 0;
}

/* ---- fetched ---- */

static int by_token(const void *va, const void *vb)
{
    const struct feed_fetched *a = va, *b = vb;

    if (a->token != b->token)
        return a->token < b->token ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

static void deliver_fetched(struct feed *f, struct feed_pair *p, struct feed_fetch *q)
{
    VEC(struct feed_row) rows = {0};
    size_t i = 0;

    if (q->rows.n)
        qsort(q->rows.v, q->rows.n, sizeof *q->rows.v, by_token);
    while (i < q->rows.n) {
        int64_t token = q->rows.v[i].token;

        rows.n = 0;
        for (; i < q->rows.n && q->rows.v[i].token == token; i++)
            vec_push(&rows, q->rows.v[i].row);
        if (token <= q->upto)
            deliver(f, p, token, rows.v, rows.n);
    }
    q->filled += q->rows.n;
    vec_free(&rows);
    if (q->upto > p->received)
        deliver(f, p, q->upto, NULL, 0);
}

static void caches_too_many(struct feed *f, struct feed_pair *p, struct feed_fetch *q)
{
    log_warning(FEED_LOG,
                "caches of %.*s: more than %d invalidations were missed; dropping everything cached",
                STR_ARG(p->name), FEED_CACHES_FILL_MAX);
    f->sink.flush(f->sink.arg, STREAM_CACHES);
    if (q->hi > p->received)
        deliver(f, p, q->hi, NULL, 0);
}

/* q covers (lo, upto]; it is freed by the caller. */
void feed_pair_fetched(struct feed *f, struct feed_pair *p, struct feed_fetch *q)
{
    uint64_t epoch = q->epoch;
    struct feed_item *i;

    ASSERT(p->fetch == q);
    ASSERT(q->upto > q->lo && q->upto <= q->hi);
    deliver_fetched(f, p, q);
    if (p->s == STREAM_CACHES && q->filled > FEED_CACHES_FILL_MAX)
        caches_too_many(f, p, q);
    p->fetch = NULL;
    if (p->received < q->hi) {
        size_t filled = q->filled;

        feed_fetch_start(f, p, p->received, q->hi);
        p->fetch->epoch = epoch;
        p->fetch->filled = filled;
        feed_burst_end(f); /* a long gap goes out in portions */
        return;
    }
    checked(f, p, epoch);
    while (!p->fetch && !list_empty(&p->queue)) {
        i = container_of(p->queue.next, struct feed_item, link);
        list_del(&i->link);
        p->queue_n--;
        p->queue_bytes -= item_bytes(i);
        process(f, p, i);
    }
    feed_burst_end(f);
}
