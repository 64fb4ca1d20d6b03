/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Heap wrappers that end the process on exhaustion, request arenas and bounded growable buffers.
 *
 * An arena is a chain of blocks, newest first; each allocation bumps a cursor in the newest block. Blocks
 * double from 4 KiB up to 1 MiB, and a larger wish gets a block of its own behind the newest one, so that its
 * tail is not lost. Memory is zeroed when handed out, not when a block is made. arena_bytes() counts what
 * callers asked for (rounded to 16); the maximum is checked against that, therefore a limit means the same in
 * both builds. With CHAPPE_ARENA_SEPARATE each allocation is a heap block of its own, and AddressSanitizer
 * sees every overrun.
 */
#include "chappe/mem.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void *xmalloc(size_t n)
{
    void *p = malloc(n ? n : 1);
    ASSERT(p != NULL);
    return p;
}

void *xcalloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size ? size : 1);
    ASSERT(p != NULL);
    return p;
}

void *xrealloc(void *p, size_t n)
{
    p = realloc(p, n ? n : 1);
    ASSERT(p != NULL);
    return p;
}

char *xstrndup(struct str s)
{
    char *z = xmalloc(s.n + 1);
    if (s.n)
        memcpy(z, s.p, s.n);
    z[s.n] = 0;
    return z;
}

struct str str_dup(struct str s)
{
    return str_absent(s) ? STR_ABSENT : str_n(xstrndup(s), s.n);
}

void secret_free(char **p)
{
    if (*p) {
        explicit_bzero(*p, strlen(*p));
        free(*p);
        *p = NULL;
    }
}

/* ---- arena ---- */

enum { ARENA_BLOCK_FIRST = 4096 - 64, ARENA_BLOCK_LAST = 1 << 20 };

struct arena_block {
    struct arena_block *next; /* older */
    uint32_t cap, used;
    _Alignas(16) char p[];
};

struct arena {
    struct arena_block *newest;
    uint32_t bytes, bytes_max;
    uint32_t block_next; /* size of the next regular block */
    uint32_t block_first;
    enum mem_kind kind; /* of its blocks */
};

static uint32_t max_of(size_t bytes_max)
{
    return bytes_max < UINT32_MAX ? (uint32_t)bytes_max : UINT32_MAX;
}

struct arena *arena_new(size_t bytes_max)
{
    return arena_new_sized(bytes_max, ARENA_BLOCK_FIRST);
}

struct arena *arena_new_sized(size_t bytes_max, size_t first)
{
    ASSERT(first <= UINT32_MAX);
    struct arena *a = xcalloc(1, sizeof *a);
    a->bytes_max = max_of(bytes_max);
    a->block_first = (uint32_t)first;
    a->block_next = a->block_first;
    return a;
}

void arena_count(struct arena *a, enum mem_kind k)
{
    ASSERT(!a->newest);
    a->kind = k;
}

static struct arena_block *block_new(const struct arena *a, size_t cap)
{
    struct arena_block *b = mem_renew(a->kind, NULL, sizeof *b + cap);
    b->cap = (uint32_t)cap;
    b->used = 0;
    return b;
}

static void blocks_free(struct arena *a, struct arena_block *b)
{
    while (b) {
        struct arena_block *next = b->next;
        mem_free(a->kind, b);
        b = next;
    }
}

void arena_free(struct arena **a)
{
    if (!*a)
        return;
    blocks_free(*a, (*a)->newest);
    free(*a);
    *a = NULL;
}

void arena_reset(struct arena *a)
{
    a->bytes = 0;
#ifdef CHAPPE_ARENA_SEPARATE
    blocks_free(a, a->newest);
    a->newest = NULL;
#else
    /* The first regular block is the one kept: it is the oldest of its size in the chain. */
    struct arena_block *keep = NULL, *next;
    for (struct arena_block *b = a->newest; b; b = next) {
        next = b->next;
        if (b->cap == a->block_first && !keep)
            keep = b;
        else
            mem_free(a->kind, b);
    }
    a->newest = keep;
    a->block_next = a->block_first;
    if (keep) {
        keep->next = NULL;
        keep->used = 0;
        a->block_next *= 2;
    }
#endif
}

/* A block with room for n bytes; the newest of the chain, unless n is out of the ordinary. */
static struct arena_block *arena_room(struct arena *a, size_t n)
{
    struct arena_block *b = a->newest;
#ifndef CHAPPE_ARENA_SEPARATE
    if (b && b->cap - b->used >= n)
        return b;
    if (n <= a->block_next / 4) {
        b = block_new(a, a->block_next);
        if (a->block_next < ARENA_BLOCK_LAST)
            a->block_next *= 2;
        b->next = a->newest;
        a->newest = b;
        return b;
    }
    b = block_new(a, n);
    if (a->newest) {
        b->next = a->newest->next;
        a->newest->next = b;
        return b;
    }
#else
    b = block_new(a, n);
#endif
    b->next = a->newest;
    a->newest = b;
    return b;
}

void *arena_try_alloc(struct arena *a, size_t n)
{
    size_t rounded = (n + 15) & ~(size_t)15;
    if (rounded < n || rounded > a->bytes_max - a->bytes)
        return NULL;
    a->bytes += (uint32_t)rounded;
#ifdef CHAPPE_ARENA_SEPARATE
    rounded = n; /* the exact size, so that one byte past it is seen */
#endif
    struct arena_block *b = arena_room(a, rounded);
    void *p = b->p + b->used;
    b->used += (uint32_t)rounded;
    if (n)
        memset(p, 0, n);
    return p;
}

void *arena_alloc(struct arena *a, size_t n)
{
    void *p = arena_try_alloc(a, n);
    ASSERT(p != NULL);
    return p;
}

struct str arena_str(struct arena *a, struct str s)
{
    char *p = arena_alloc(a, s.n + 1);
    if (s.n)
        memcpy(p, s.p, s.n);
    return str_n(p, s.n);
}

struct str arena_printf(struct arena *a, const char *fmt, ...)
{
    char small[256];
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(small, sizeof small, fmt, args);
    va_end(args);
    ASSERT(n >= 0);
    char *p = arena_alloc(a, (size_t)n + 1);
    if ((size_t)n < sizeof small)
        memcpy(p, small, (size_t)n);
    else
        vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return str_n(p, (size_t)n);
}

size_t arena_bytes(const struct arena *a)
{
    return a->bytes;
}

/* ---- buf ---- */

void buf_init(struct buf *b, size_t bytes_max)
{
    *b = (struct buf){.max = bytes_max};
}

void buf_fini(struct buf *b)
{
    free(b->p);
    *b = (struct buf){.max = b->max};
}

void buf_reset(struct buf *b)
{
    b->n = 0;
    b->failed = false;
}

char *buf_reserve(struct buf *b, size_t n)
{
    if (b->failed || n > b->max - b->n) {
        b->failed = true;
        return NULL;
    }
    if (b->cap - b->n < n || !b->p) {
        size_t cap = b->cap ? b->cap : 64;
        while (cap < b->n + n)
            cap *= 2;
        b->p = xrealloc(b->p, cap);
        b->cap = cap;
    }
    return b->p + b->n;
}

void buf_put(struct buf *b, struct str s)
{
    char *to = s.n ? buf_reserve(b, s.n) : NULL;
    if (to) {
        memcpy(to, s.p, s.n);
        b->n += s.n;
    }
}

void buf_putc(struct buf *b, char c)
{
    if (b->n < b->cap && b->n < b->max && !b->failed) {
        b->p[b->n++] = c;
        return;
    }
    char *to = buf_reserve(b, 1);
    if (to) {
        *to = c;
        b->n++;
    }
}

void buf_i64(struct buf *b, int64_t v)
{
    char digits[I64_DIGITS_MAX];
    buf_put(b, str_of_i64(digits, v));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    char small[256];
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(small, sizeof small, fmt, args);
    va_end(args);
    ASSERT(n >= 0);
    if ((size_t)n < sizeof small) {
        buf_put(b, str_n(small, (size_t)n));
    } else {
        /* The terminating zero needs room too, but only the text counts against the maximum. */
        char *p = xmalloc((size_t)n + 1);
        vsnprintf(p, (size_t)n + 1, fmt, again);
        buf_put(b, str_n(p, (size_t)n));
        free(p);
    }
    va_end(again);
}

void buf_consume(struct buf *b, size_t n)
{
    ASSERT(n <= b->n);
    b->n -= n;
    if (b->n && n)
        memmove(b->p, b->p + n, b->n);
}

void *vec_grown_(enum mem_kind k, void *v, uint32_t *cap, size_t need, size_t size)
{
    enum { FIRST_BYTES = 64 };
    size_t first = size < FIRST_BYTES ? FIRST_BYTES / size : 1, wish = *cap ? (size_t)*cap * 2 : first, bytes;
    if (wish < need)
        wish = need;
    ASSERT(wish <= UINT32_MAX && !__builtin_mul_overflow(wish, size, &bytes));
    *cap = (uint32_t)wish;
    return mem_renew(k, v, bytes);
}
