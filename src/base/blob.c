/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Counted immutable bytes, and ropes: responses as lists of slices of them.
 *
 * Bytes that belong to one response alone (rope_put) are collected in a private chunk, a blob whose tail is
 * still unused. A slice, once handed to another rope, never changes: rope_put only writes behind what slices
 * show, and extends its own copy of the last slice. When a chunk is full a new one is started, each twice the
 * size of the last up to 64 KiB, so that an empty delta costs half a kilobyte and an initial sync few
 * allocations.
 *
 * Short stretches of a blob are copied instead of shared: to count, to list and to gather a slice costs more
 * than to copy half a kilobyte, and an answer of a thousand rooms had ten thousand slices.
 */
#include "chappe/blob.h"
#include <stdlib.h>

/* Less the head of a blob, so that chunks fill size classes. */
enum { SHARE_LEAST = 512 };
enum { CHUNK_FIRST = 512 - sizeof(struct blob), CHUNK_LAST = 65536 - sizeof(struct blob) };

static struct blob *blob_alloc(size_t n)
{
    ASSERT(n <= UINT32_MAX);
    struct blob *b = xmalloc(sizeof *b + n);
    atomic_init(&b->refs, 1);
    b->n = (uint32_t)n;
    return b;
}

struct blob *blob_new(struct str s)
{
    struct blob *b = blob_alloc(s.n);
    if (s.n)
        memcpy(b->p, s.p, s.n);
    return b;
}

struct blob *blob_from_buf(struct buf *b)
{
    struct blob *made = b->failed ? NULL : blob_new(buf_str(b));
    buf_reset(b);
    return made;
}

struct blob *blob_ref(struct blob *b)
{
    uint32_t before = atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    ASSERT(before != 0 && before != UINT32_MAX);
    return b;
}

void blob_unref(struct blob **b)
{
    struct blob *dropped = *b;
    if (!dropped)
        return;
    *b = NULL;
    /* Release: our reads are over; acquire: the last one sees everybody else's end. */
    uint32_t before = atomic_fetch_sub_explicit(&dropped->refs, 1, memory_order_acq_rel);
    ASSERT(before != 0);
    if (before == 1)
        free(dropped);
}

/* ---- rope ---- */

void rope_init(struct rope *r)
{
    r->v = r->inline_v;
    r->n = 0;
    r->cap = sizeof r->inline_v / sizeof *r->inline_v;
    r->bytes = 0;
    r->own = NULL;
    r->own_used = r->own_cap = 0;
}

void rope_fini(struct rope *r)
{
    for (size_t i = 0; i < r->n; i++)
        blob_unref(&r->v[i].blob);
    blob_unref(&r->own);
    if (r->v != r->inline_v)
        free(r->v);
    rope_init(r);
}

void rope_move(struct rope *to, struct rope *from)
{
    *to = *from;
    if (from->v == from->inline_v)
        to->v = to->inline_v;
    rope_init(from);
}

/* Takes over one count of blob. */
static void rope_push(struct rope *r, struct blob *blob, const char *p, size_t n, bool own)
{
    if (r->n == r->cap) {
        size_t cap = r->cap * 2;
        if (r->v == r->inline_v) {
            r->v = xmalloc(cap * sizeof *r->v);
            memcpy(r->v, r->inline_v, r->n * sizeof *r->v);
        } else {
            r->v = xrealloc(r->v, cap * sizeof *r->v);
        }
        r->cap = cap;
    }
    r->v[r->n++] = (struct rope_slice){blob, p, (uint32_t)n, own};
    r->bytes += n;
}

void rope_put(struct rope *r, struct str s)
{
    while (s.n) {
        if (r->own_used == r->own_cap) {
            size_t cap = r->own_cap ? r->own_cap * 2 + sizeof(struct blob) : CHUNK_FIRST;
            if (cap > CHUNK_LAST)
                cap = CHUNK_LAST;
            if (cap < s.n)
                cap = s.n < UINT32_MAX ? s.n : UINT32_MAX;
            blob_unref(&r->own);
            r->own = blob_alloc(cap);
            r->own_cap = cap;
            r->own_used = 0;
        }
        size_t n = s.n < r->own_cap - r->own_used ? s.n : r->own_cap - r->own_used;
        char *to = r->own->p + r->own_used;
        memcpy(to, s.p, n);
        r->own_used += n;
        struct rope_slice *last = r->n ? &r->v[r->n - 1] : NULL;
        if (last && last->blob == r->own && last->p + last->n == to) {
            last->n += (uint32_t)n;
            r->bytes += n;
        } else {
            rope_push(r, blob_ref(r->own), to, n, true);
        }
        s = str_n(s.p + n, s.n - n);
    }
}

void rope_put_i64(struct rope *r, int64_t v)
{
    char digits[I64_DIGITS_MAX];
    rope_put(r, str_of_i64(digits, v));
}

void rope_blob(struct rope *r, struct blob *b)
{
    rope_blob_range(r, b, 0, b->n);
}

void rope_blob_range(struct rope *r, struct blob *b, size_t off, size_t n)
{
    ASSERT(off <= b->n && n <= b->n - off);
    if (n <= SHARE_LEAST)
        rope_put(r, str_n(b->p + off, n));
    else
        rope_push(r, blob_ref(b), b->p + off, n, false);
}

void rope_rope(struct rope *r, const struct rope *from)
{
    ASSERT(r != from);
    for (size_t i = 0; i < from->n; i++)
        rope_push(r, blob_ref(from->v[i].blob), from->v[i].p, from->v[i].n, from->v[i].own);
}

size_t rope_keep(struct rope *r, const struct rope *from)
{
    ASSERT(r != from && r->n == 0);
    size_t own = 0, used = 0;
    for (size_t i = 0; i < from->n; i++)
        own += from->v[i].own ? from->v[i].n : 0;
    struct blob *b = own ? blob_alloc(own) : NULL;
    if (from->n > r->cap) {
        r->v = xmalloc(from->n * sizeof *r->v);
        r->cap = from->n;
    }
    for (size_t i = 0; i < from->n; i++) {
        struct rope_slice s = from->v[i];
        if (s.own) {
            memcpy(b->p + used, s.p, s.n);
            s.blob = b;
            s.p = b->p + used;
            used += s.n;
        }
        rope_push(r, blob_ref(s.blob), s.p, s.n, s.own);
    }
    blob_unref(&b); /* its slices hold it */
    return (own ? sizeof *b + own : 0) + (r->v == r->inline_v ? 0 : r->cap * sizeof *r->v);
}

int rope_iov(const struct rope *r, size_t skip, struct iovec *iov, int max)
{
    int count = 0;
    for (size_t i = 0; i < r->n && count < max; i++) {
        const struct rope_slice *s = &r->v[i];
        if (skip >= s->n) {
            skip -= s->n;
            continue;
        }
        /* writev() takes a pointer to non-const, but only reads. */
        iov[count].iov_base = (void *)(uintptr_t)(s->p + skip);
        iov[count++].iov_len = s->n - skip;
        skip = 0;
    }
    return count;
}

struct str rope_flatten(const struct rope *r, struct arena *a)
{
    char *p = arena_alloc(a, r->bytes + 1);
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        memcpy(p + n, r->v[i].p, r->v[i].n);
        n += r->v[i].n;
    }
    return str_n(p, n);
}
