/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What memory is used for: allocations by kind, and the sum of everything.
 *
 * Each kind is one counter of the bytes that the allocator set apart (its size classes, not what was asked
 * for), so an allocation costs an addition and a look-up of its size, and carries no header. Since an object
 * is freed as the kind that it was made as, a counter cannot drift; tests that end a module find its kinds at
 * zero.
 *
 * The rest of the process is told by others: the allocator says how much is allocated (what is not of a kind
 * belongs to libraries and to small things of ours) and how much it holds besides (freed pages that it keeps,
 * its own tables, the unused parts of its pages); the kernel says how much is resident, and how much of that
 * is not anonymous (the program and its libraries). What is left unexplained are stacks and static data.
 */
#include "chappe/mem.h"
#include "chappe/metrics.h"
#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static _Atomic int64_t kinds[MEM_KIND_COUNT];

/* Of jemalloc, when the program is linked with it. */
extern int mallctl(const char *name, void *old, size_t *old_n, void *new, size_t new_n) __attribute__((weak));

void mem_count(enum mem_kind k, int64_t bytes)
{
    atomic_fetch_add_explicit(&kinds[k], bytes, memory_order_relaxed);
}

void mem_set(enum mem_kind k, int64_t bytes)
{
    atomic_store_explicit(&kinds[k], bytes, memory_order_relaxed);
}

int64_t mem_bytes(enum mem_kind k)
{
    return atomic_load_explicit(&kinds[k], memory_order_relaxed);
}

void *mem_new(enum mem_kind k, size_t n)
{
    void *p = xcalloc(1, n);
    if (k)
        mem_count(k, (int64_t)malloc_usable_size(p));
    return p;
}

void *mem_renew(enum mem_kind k, void *p, size_t n)
{
    int64_t before = k && p ? (int64_t)malloc_usable_size(p) : 0;
    p = xrealloc(p, n);
    if (k)
        mem_count(k, (int64_t)malloc_usable_size(p) - before);
    return p;
}

void mem_free(enum mem_kind k, void *p)
{
    if (k && p)
        mem_count(k, -(int64_t)malloc_usable_size(p));
    free(p);
}

struct str mem_str(enum mem_kind k, struct str s)
{
    if (str_absent(s))
        return s;
    char *z = mem_new(k, s.n + 1);
    if (s.n)
        memcpy(z, s.p, s.n);
    return str_n(z, s.n);
}

void mem_str_free(enum mem_kind k, struct str s)
{
    mem_free(k, (void *)(uintptr_t)s.p);
}

/* ---- the sum ---- */

static struct {
    void (*fn)(void *arg);
    void *arg;
} source;

void mem_source_set(void (*fn)(void *arg), void *arg)
{
    source.fn = fn;
    source.arg = arg;
}

struct heap {
    int64_t allocated, held; /* by the program; in pages that are, or may be, resident */
};

static int64_t stat_of(const char *name)
{
    size_t v = 0, n = sizeof v;
    return mallctl(name, &v, &n, NULL, 0) ? 0 : (int64_t)v;
}

static struct heap heap_read(void)
{
    if (!mallctl) {
        struct mallinfo2 i = mallinfo2();
        return (struct heap){(int64_t)(i.uordblks + i.hblkhd), (int64_t)(i.arena + i.hblkhd)};
    }
    uint64_t epoch = 1;
    (void)mallctl("epoch", NULL, NULL, &epoch, sizeof epoch); /* the figures are of this moment */
    return (struct heap){stat_of("stats.allocated"), stat_of("stats.resident")};
}

/* The figure of a line "Name:   123 kB", in bytes. */
static int64_t line_bytes(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    return at ? strtoll(at + strlen(name), NULL, 10) * 1024 : 0;
}

/* /proc/self/status is quick, and off by some pages for each processor. */
static void resident_read(int64_t *all, int64_t *mapped)
{
    char text[4096];
    *all = *mapped = 0;
    FILE *f = fopen("/proc/self/status", "re");
    if (!f)
        return;
    size_t n = fread(text, 1, sizeof text - 1, f);
    text[n] = 0;
    fclose(f);
    *all = line_bytes(text, "\nVmRSS:");
    *mapped = line_bytes(text, "\nRssFile:") + line_bytes(text, "\nRssShmem:");
}

void mem_report(void)
{
    static const char *const names[MEM_KIND_COUNT] = {
        [MEM_uncounted] = "other",
#define MEM_KIND(id, name) [MEM_##id] = name,
#include "chappe/tbl/memory.def"
#undef MEM_KIND
    };
    if (source.fn)
        source.fn(source.arg);
    struct heap heap = heap_read();
    int64_t counted = 0, resident, mapped;
    for (int k = MEM_uncounted + 1; k < MEM_KIND_COUNT; k++) {
        int64_t bytes = mem_bytes((enum mem_kind)k);
        metric_set_l(M_memory_bytes, names[k], bytes);
        counted += k == MEM_buffers ? 0 : bytes; /* mapped, not the allocator's */
    }
    int64_t rest = heap.allocated - counted;
    resident_read(&resident, &mapped);
    /* Of what the allocator holds, parts have never been touched: they are not resident. */
    int64_t kept = heap.held - heap.allocated,
            most = resident - mapped - mem_bytes(MEM_buffers) - heap.allocated;
    kept = kept < most ? kept : most;
    metric_set_l(M_memory_bytes, names[MEM_uncounted], rest > 0 ? rest : 0);
    metric_set_l(M_memory_bytes, "allocator", kept > 0 ? kept : 0);
    metric_set_l(M_memory_bytes, "program", mapped);
    metric_set(M_process_resident, resident);
}
