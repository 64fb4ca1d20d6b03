/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What is left for later while answers are being handed out: polls that come, and the request lines of those
 * who have their answer.
 *
 * An event for ten thousand devices is ten thousand answers, and each device asks again as soon as it has its
 * own. Dealing with those polls as they come makes the last device wait for twice the work, though nobody
 * waits for them: they will be parked. So they stand in line behind the answers, as they came, and only what
 * is no such poll is dealt with between the answers. They lie here as bytes, copied out of the kernel's
 * buffers: unparsed, since parsing is what there is no time for.
 *
 * A poll is known by its first line: GET, a path that ends in /sync, a since, a timeout that is not 0. It is
 * there as a whole, and on a connection that has nothing else to say; whatever follows it on its connection
 * waits with it (conn.c). The lines of those who have their answer are a tenth of an answer's work, and wait
 * likewise.
 *
 * After behind_answers_ms they have their turn, answers or not. All fronts together keep no more of either
 * than a share of read_bytes_max, and nothing when half of that is taken; past it all is dealt with at once,
 * as it comes.
 */
#include "http_int.h"
#include "chappe/clock.h"
#include "chappe/metrics.h"
#include <stdlib.h>

enum { SLICE = 64, CHUNK_BYTES = 65536, POLL_BYTES_MAX = 4096, SHARE = 8 };

struct later_poll {
    uint64_t id; /* of its connection, which may be closed when its turn comes */
    int64_t received_ms;
    size_t n;
    char bytes[];
};
struct later_chunk {
    struct later_chunk *next;
    size_t n;
    _Alignas(8) char polls[];
};

static size_t poll_bytes(size_t n)
{
    return (sizeof(struct later_poll) + n + 7) & ~(size_t)7;
}

/* Are there answers to be handed out, more than a few? */
static bool answers_wait(const struct front *f)
{
    const struct httpd_routes *routes = &f->h->routes;
    if (f->h->cfg->behind_answers_ms == 0)
        return false;
    return !f->h->threaded && routes->answering ? routes->answering(routes->arg)
                                                : transport_sending(f->transport);
}

static bool is_poll(struct str bytes)
{
    static const struct str begin = {"GET /_matrix/client/", 20}, sync = {"/sync", 5}, since = {"since=", 6},
                            timeout = {"timeout=", 8};
    if (bytes.n > POLL_BYTES_MAX || !str_starts(bytes, begin) || !str_ends(bytes, STR("\r\n\r\n")))
        return false;
    const char *end = memchr(bytes.p, '\r', bytes.n); /* of the line; it is there */
    const char *query = memchr(bytes.p, '?', (size_t)(end - bytes.p));
    if (!query || !str_ends(str_n(bytes.p, (size_t)(query - bytes.p)), sync))
        return false;
    bool has_since = false, waits = false;
    for (const char *p = query; p; p = memchr(p, '&', (size_t)(end - p))) {
        struct str rest = str_n(p + 1, (size_t)(end - p - 1)); /* behind the '?' or the '&' */
        has_since |= str_starts(rest, since);
        waits |= rest.n > timeout.n && str_starts(rest, timeout) && rest.p[timeout.n] >= '1' &&
                 rest.p[timeout.n] <= '9';
        p++;
    }
    return has_since && waits;
}

/* Has it n bytes more? */
static bool has_room(const struct front *f, size_t kept, size_t n)
{
    size_t max = (size_t)f->h->cfg->read_bytes_max;
    size_t all = (size_t)atomic_load_explicit(&f->h->read_bytes, memory_order_relaxed);
    return kept + n <= max / SHARE / f->h->fronts_count && all + n <= max / 2;
}

static void account(struct front *f, int64_t bytes, int64_t polls)
{
    httpd_add(f->h, &f->h->read_bytes, bytes);
    httpd_add(f->h, &f->h->polls_waiting, polls);
    f->later.bytes += (size_t)bytes;
}

/* The oldest; NULL: none. */
static struct later_poll *later_first(const struct front *f)
{
    struct later_chunk *k = f->later.first;
    return k ? (struct later_poll *)(void *)(k->polls + f->later.taken) : NULL;
}

/* The oldest has been dealt with. It has a token in it. */
static void later_drop(struct front *f, struct later_poll *p)
{
    struct later_chunk *k = f->later.first;
    size_t n = poll_bytes(p->n);
    f->later.taken += n;
    account(f, -(int64_t)n, -1);
    explicit_bzero(p->bytes, p->n);
    if (f->later.taken < k->n)
        return;
    f->later.first = k->next;
    f->later.taken = 0;
    if (!k->next)
        f->later.last = NULL;
    free(k);
}

/* Those who have been answered: their lines, and then nothing is left of their requests. */
static void lines_run(struct front *f, bool all)
{
    enum { AHEAD = 3 };
    struct later *l = &f->later;
    int64_t now = f->now_ms;
    for (int i = 0; i < SLICE && l->lines_done < l->lines.n; i++, l->lines_done++) {
        const struct later_line *line = &l->lines.v[l->lines_done];
        if (!all && now - line->sent_ms < f->h->cfg->behind_answers_ms)
            break;
        if (l->lines_done + AHEAD < l->lines.n)
            req_fetch(line[AHEAD].req);
        f->now_ms = line->sent_ms; /* which is what it tells */
        l->lines_bytes -= line->req->memory;
        access_log(f, line->req, false);
        front_release(f, line->req);
    }
    f->now_ms = now;
    if (l->lines_done == l->lines.n) {
        vec_free(&l->lines);
        l->lines_done = 0;
    } else if (l->lines_done > l->lines.n / 2) {
        l->lines.n -= (uint32_t)l->lines_done;
        memmove(l->lines.v, l->lines.v + l->lines_done, l->lines.n * sizeof *l->lines.v);
        l->lines_done = 0;
    }
}

static const struct later_poll *poll_after(const struct front *f, const struct later_poll *p)
{
    const struct later_chunk *k = f->later.first;
    const char *next = (const char *)p + poll_bytes(p->n);
    return next < k->polls + k->n ? (const struct later_poll *)(const void *)next : NULL;
}

/* The connections of those that follow are fetched meanwhile, as far as they lie in the same chunk. */
static void polls_run(struct front *f, bool all)
{
    enum { AHEAD = 2 };
    struct later_poll *p = later_first(f);
    const struct later_poll *ahead = p;
    for (int i = 0; i < AHEAD && ahead; i++)
        ahead = poll_after(f, ahead);
    for (int i = 0; i < SLICE && p; p = later_first(f)) {
        if (!all && f->now_ms - p->received_ms < f->h->cfg->behind_answers_ms)
            return;
        if (ahead) {
            transport_soon(f->transport, ahead->id);
            ahead = poll_after(f, ahead);
        }
        struct conn *c = transport_user(f->transport, p->id);
        if (c) {
            conn_recv_later(c, str_n(p->bytes, p->n), p->received_ms);
            i++;
        }
        later_drop(f, p);
    }
}

static void on_idle(uv_idle_t *h)
{
    struct front *f = h->data;
    bool all = !answers_wait(f);
    f->now_ms = clock_mono_ms();
    lines_run(f, all);
    polls_run(f, all);
    if (!f->later.first && f->later.lines.n == 0)
        uv_idle_stop(h);
}

static void run_later(struct front *f)
{
    if (!uv_is_active((uv_handle_t *)f->later.idle))
        ASSERT(uv_idle_start(f->later.idle, on_idle) == 0);
}

bool later_line(struct front *f, struct req *r)
{
    if (!r->handed || !answers_wait(f) || !has_room(f, f->later.lines_bytes, r->memory))
        return false;
    f->later.lines_bytes += r->memory;
    vec_push(&f->later.lines, ((struct later_line){r, f->now_ms}));
    run_later(f);
    return true;
}

bool later_put(struct front *f, const struct conn *c, struct str bytes)
{
    if (!answers_wait(f) || !is_poll(bytes))
        return false;
    size_t n = poll_bytes(bytes.n);
    if (!has_room(f, f->later.bytes, n)) {
        metric_add_l(M_http_polls_behind, "full", 1);
        return false;
    }
    struct later_chunk *k = f->later.last;
    if (!k || k->n + n > CHUNK_BYTES) {
        struct later_chunk *fresh = xmalloc(sizeof *fresh + CHUNK_BYTES);
        *fresh = (struct later_chunk){0};
        *(k ? &k->next : &f->later.first) = fresh;
        f->later.last = k = fresh;
    }
    struct later_poll *p = (struct later_poll *)(void *)(k->polls + k->n);
    p->id = conn_id(c);
    p->received_ms = f->now_ms;
    p->n = bytes.n;
    memcpy(p->bytes, bytes.p, bytes.n);
    k->n += n;
    account(f, (int64_t)n, 1);
    httpd_add(f->h, f->h->polls_waited_total, 1);
    run_later(f);
    return true;
}

void later_open(struct front *f)
{
    f->later.idle = xcalloc(1, sizeof *f->later.idle);
    ASSERT(uv_idle_init(f->loop, f->later.idle) == 0);
    f->later.idle->data = f;
}

static void free_handle(uv_handle_t *h)
{
    free(h);
}

void later_close(struct front *f)
{
    struct later_poll *p;
    while ((p = later_first(f)))
        later_drop(f, p);
    while (f->later.lines.n)
        lines_run(f, true);
    uv_close((uv_handle_t *)f->later.idle, free_handle);
    f->later.idle = NULL;
}
