/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_MEM_H
#define CHAPPE_MEM_H
/*
 * Memory in three lifetimes: heap (x* abort on exhaustion), request arenas, growable buffers born with a
 * maximum. What there is much of is allocated by kind, so that the process can say what its memory is used
 * for.
 */
#include "chappe/err.h"
#include "chappe/str.h"

void *xmalloc(size_t n);
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *p, size_t n);
char *xstrndup(struct str s); /* NUL-terminated copy */
/* Copy on the heap, as a slice (NUL-terminated too); free with free((void *)s.p). An absent slice stays
 * absent. */
struct str str_dup(struct str s);
/* The bytes of p are soon looked at: where thousands of objects are gone through, one after the other, memory
 * takes longer than what is done with each. p may be anything, NULL and freed memory too. */
static inline void mem_soon(const void *p, size_t n)
{
    for (uintptr_t at = (uintptr_t)p; at < (uintptr_t)p + n; at += 64)
        __builtin_prefetch((const void *)at);
}
/* Overwrites before freeing; for secrets. Accepts NULL. */
void secret_free(char **p);

/* ---- by kind ---- */

/* What the heap is used for: tbl/memory.def. Allocations of a kind are counted with the bytes that the
 * allocator gives them; an allocation is freed as the kind that it was made as. MEM_uncounted is no kind. Any
 * thread. */
enum mem_kind {
    MEM_uncounted,
#define MEM_KIND(id, name) MEM_##id,
#include "chappe/tbl/memory.def"
#undef MEM_KIND
    MEM_KIND_COUNT
};
void *mem_new(enum mem_kind k, size_t n);            /* zeroed */
void *mem_renew(enum mem_kind k, void *p, size_t n); /* realloc */
void mem_free(enum mem_kind k, void *p);             /* accepts NULL */
struct str mem_str(enum mem_kind k, struct str s);   /* as str_dup */
void mem_str_free(enum mem_kind k, struct str s);
void mem_count(enum mem_kind k, int64_t bytes); /* of what others allocate */
void mem_set(enum mem_kind k, int64_t bytes);   /* of what others count */
int64_t mem_bytes(enum mem_kind k);
/* Zeroed, for an object with its texts behind it. */
#define MEM_NEW(k, type) ((type *)mem_new((k), sizeof(type)))

/* Sets the gauges of chappe_memory_bytes and process_resident_memory_bytes, which together tell what the
 * process holds: the kinds, what libraries and the rest have allocated, the allocator's own and unused
 * memory, the program's file mappings. Reads /proc: not for a hot path. */
void mem_report(void);
/* Called by mem_report first, on its thread, to mem_set what others count. NULL: no more. */
void mem_source_set(void (*fn)(void *arg), void *arg);

/* Arena: bump allocation, freed all at once. bytes_max (at most 4 GiB) bounds it; past it arena_alloc aborts,
 * arena_try_alloc returns NULL: use the latter for peer-chosen sizes. CHAPPE_ARENA_SEPARATE makes each
 * allocation separate.
 */
struct arena;
struct arena *arena_new(size_t bytes_max);
/* The first block is made of first bytes (which arena_reset keeps) instead of about 4 KiB. */
struct arena *arena_new_sized(size_t bytes_max, size_t first);
void arena_count(struct arena *a, enum mem_kind k); /* what its blocks are counted as; while it has none */
void arena_free(struct arena **a);
void arena_reset(struct arena *a);                                             /* keeps its first block */
void *arena_alloc(struct arena *a, size_t n) __attribute__((returns_nonnull)); /* zeroed, 16-byte aligned */
void *arena_try_alloc(struct arena *a, size_t n);
struct str arena_str(struct arena *a, struct str s); /* NUL-terminated copy */
struct str arena_printf(struct arena *a, const char *fmt, ...) PRINTF_LIKE(2, 3);
size_t arena_bytes(const struct arena *a);
#define ARENA_NEW(a, type)          ((type *)arena_alloc((a), sizeof(type)))
#define ARENA_ARRAY(a, type, count) ((type *)arena_alloc((a), sizeof(type) * (count)))

/* Growable bytes. A put past max sets failed and changes nothing more; check once at the end. */
struct buf {
    char *p;
    size_t n, cap, max;
    bool failed;
};
void buf_init(struct buf *b, size_t bytes_max);
void buf_fini(struct buf *b);
void buf_reset(struct buf *b); /* n = 0, failed = false, keeps the memory */
void buf_put(struct buf *b, struct str s);
void buf_putc(struct buf *b, char c);
void buf_i64(struct buf *b, int64_t v);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Room for n more bytes to be written at b->p + b->n by the caller, who then adds to b->n. NULL past max. */
char *buf_reserve(struct buf *b, size_t n);
void buf_consume(struct buf *b, size_t n); /* drops the first n bytes */
static inline struct str buf_str(const struct buf *b)
{
    return str_n(b->p, b->n);
}

/* Growable array of T: struct { T *v; uint32_t n, cap; }. Begins with about 64 bytes. One that lives long and
 * often is counted: vec_push_of and vec_free_of with its kind, always the same. */
#define VEC(T)           \
    struct {             \
        T *v;            \
        uint32_t n, cap; \
    }
void *vec_grown_(enum mem_kind k, void *v, uint32_t *cap, size_t need, size_t size) NODISCARD;
#define vec_push_of(kind, vec, item)                                                                      \
    do {                                                                                                  \
        if ((vec)->n == (vec)->cap)                                                                       \
            (vec)->v = vec_grown_((kind), (vec)->v, &(vec)->cap, (size_t)(vec)->n + 1, sizeof *(vec)->v); \
        (vec)->v[(vec)->n++] = (item);                                                                    \
    } while (0)
#define vec_free_of(kind, vec)      \
    do {                            \
        mem_free((kind), (vec)->v); \
        (vec)->v = NULL;            \
        (vec)->n = (vec)->cap = 0;  \
    } while (0)
/* Gives back the room that it does not use. */
#define vec_fit_of(kind, vec)                                                            \
    do {                                                                                 \
        if ((vec)->n == 0)                                                               \
            vec_free_of(kind, vec);                                                      \
        else if ((vec)->cap > (vec)->n) {                                                \
            (vec)->v = mem_renew((kind), (vec)->v, (size_t)(vec)->n * sizeof *(vec)->v); \
            (vec)->cap = (vec)->n;                                                       \
        }                                                                                \
    } while (0)
#define vec_push(vec, item) vec_push_of(MEM_uncounted, vec, item)
#define vec_free(vec)       vec_free_of(MEM_uncounted, vec)
#endif
