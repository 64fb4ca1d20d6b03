/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Hash tables of values that hold their own keys: as in map.c (linear probing, no tombstones, iteration
 * downwards from an empty slot), with two differences, both for memory.
 *
 * A slot has a value and 32 bits of its key's hash, in two arrays: a search goes along the hashes, sixteen to
 * a cache line, and looks at a value only where the hash fits. So a table may be seven eighths full. Growing
 * needs no key at all.
 *
 * One entry needs no table: the map is then the value. Its low bits, which pointers to heap memory have free,
 * tell what it is:
 *
 *   KMAP_TABLE    a struct kmap_table, not a value
 *   KMAP_BEHIND   values begin with a pointer to what begins with the key
 */
#include "chappe/map.h"

enum { CAP_FIRST_LOG2 = 2, CAP_LAST_LOG2 = 30 };

/* Followed in memory by the values and the hashes. */
static void **values_of(const struct kmap_table *t)
{
    return (void **)(uintptr_t)(t + 1);
}

static size_t cap_of(const struct kmap_table *t)
{
    return (size_t)1 << t->cap_log2;
}

static uint32_t *hashes_of(const struct kmap_table *t) /* 0: empty */
{
    return (uint32_t *)(void *)(values_of(t) + cap_of(t));
}

static size_t bytes_of(uint8_t cap_log2)
{
    return sizeof(struct kmap_table) + ((sizeof(void *) + sizeof(uint32_t)) << cap_log2);
}

static struct kmap_table *table_of(const struct kmap *m) /* NULL: no entry, or one */
{
    return m->at & KMAP_TABLE ? (struct kmap_table *)(m->at & ~(uintptr_t)(KMAP_TABLE | KMAP_BEHIND)) : NULL;
}

static void *single_of(const struct kmap *m) /* there is no table */
{
    return (void *)(m->at & ~(uintptr_t)KMAP_BEHIND);
}

static void set(struct kmap *m, const void *p, uintptr_t table)
{
    ASSERT(((uintptr_t)p & (KMAP_TABLE | KMAP_BEHIND)) == 0);
    m->at = (uintptr_t)p | table | (m->at & KMAP_BEHIND);
}

static struct str key_of(const struct kmap *m, const void *value)
{
    if (m->at & KMAP_BEHIND)
        memcpy(&value, value, sizeof value);
    return *(const struct str *)value;
}

static bool is_key_of(const struct kmap *m, const void *value, struct str key)
{
    struct str own = key_of(m, value);
    return own.n == key.n && (own.p == key.p || key.n == 0 || memcmp(own.p, key.p, key.n) == 0);
}

static uint32_t hash_kept(uint32_t hash)
{
    return hash ? hash : 1;
}

void kmap_fini(enum mem_kind k, struct kmap *m)
{
    mem_free(k, table_of(m));
    set(m, NULL, 0);
}

/* The place of key, or the empty place where it would go: one at least is empty. */
static size_t find(const struct kmap *m, const struct kmap_table *t, struct str key, uint32_t hash)
{
    const uint32_t *hashes = hashes_of(t);
    size_t mask = cap_of(t) - 1, i = hash & mask;
    while (hashes[i] && !(hashes[i] == hash && is_key_of(m, values_of(t)[i], key)))
        i = (i + 1) & mask;
    return i;
}

static void insert(struct kmap_table *t, void *value, uint32_t hash)
{
    size_t mask = cap_of(t) - 1, i = hash & mask;
    while (hashes_of(t)[i])
        i = (i + 1) & mask;
    hashes_of(t)[i] = hash;
    values_of(t)[i] = value;
    t->n++;
}

/* From one entry to a table, or to one of twice the size. */
static struct kmap_table *grow(enum mem_kind k, struct kmap *m)
{
    struct kmap_table *old = table_of(m);
    uint8_t cap_log2 = (uint8_t)(old ? old->cap_log2 + 1 : CAP_FIRST_LOG2);
    ASSERT(cap_log2 <= CAP_LAST_LOG2);
    struct kmap_table *t = mem_new(k, bytes_of(cap_log2));
    t->cap_log2 = cap_log2;
    if (!old)
        insert(t, single_of(m), hash_kept(smap_hash(key_of(m, single_of(m)))));
    for (size_t i = 0; old && i < cap_of(old); i++) {
        if (hashes_of(old)[i])
            insert(t, values_of(old)[i], hashes_of(old)[i]);
    }
    mem_free(k, old);
    set(m, t, KMAP_TABLE);
    return t;
}

void *kmap_get_hashed(const struct kmap *m, struct str key, uint32_t hash)
{
    const struct kmap_table *t = table_of(m);
    if (t)
        return values_of(t)[find(m, t, key, hash_kept(hash))];
    void *single = single_of(m);
    return single && is_key_of(m, single, key) ? single : NULL;
}

void *kmap_get(const struct kmap *m, struct str key)
{
    return kmap_get_hashed(m, key, table_of(m) ? smap_hash(key) : 0);
}

void *kmap_put(enum mem_kind k, struct kmap *m, void *value)
{
    ASSERT(value != NULL);
    struct kmap_table *t = table_of(m);
    struct str key = key_of(m, value);
    if (!t) {
        void *single = single_of(m);
        if (!single || is_key_of(m, single, key)) {
            set(m, value, 0);
            return single;
        }
        t = grow(k, m);
    }
    uint32_t hash = hash_kept(smap_hash(key));
    size_t i = find(m, t, key, hash), cap = cap_of(t);
    void *before = values_of(t)[i];
    if (!before && t->n >= cap - (cap < 8 ? 1 : cap / 8)) {
        t = grow(k, m);
        insert(t, value, hash);
        return NULL;
    }
    t->n += before == NULL;
    hashes_of(t)[i] = hash;
    values_of(t)[i] = value;
    return before;
}

/* True when an entry whose home is `home`, found at `at`, may move back to the gap. */
static bool may_move(size_t home, size_t at, size_t gap, size_t mask)
{
    return ((at - home) & mask) >= ((at - gap) & mask);
}

static void close_gap(struct kmap_table *t, size_t gap)
{
    uint32_t *hashes = hashes_of(t);
    size_t mask = cap_of(t) - 1;
    for (size_t i = (gap + 1) & mask; hashes[i]; i = (i + 1) & mask) {
        if (may_move(hashes[i] & mask, i, gap, mask)) {
            hashes[gap] = hashes[i];
            values_of(t)[gap] = values_of(t)[i];
            gap = i;
        }
    }
    hashes[gap] = 0;
    values_of(t)[gap] = NULL;
    t->n--;
}

void *kmap_del(struct kmap *m, struct str key)
{
    struct kmap_table *t = table_of(m);
    if (!t) {
        void *single = kmap_get(m, key);
        if (single)
            set(m, NULL, 0);
        return single;
    }
    size_t i = find(m, t, key, hash_kept(smap_hash(key)));
    void *value = values_of(t)[i];
    if (value)
        close_gap(t, i);
    return value;
}

void *kmap_next(const struct kmap *m, size_t *it)
{
    const struct kmap_table *t = table_of(m);
    if (!t) { /* the one there is, once */
        void *single = *it == 0 ? single_of(m) : NULL;
        *it = 1;
        return single;
    }
    const uint32_t *hashes = hashes_of(t);
    size_t cap = cap_of(t), mask = cap - 1;
    if (*it == 0) {
        size_t empty = 0;
        while (hashes[empty])
            empty++;
        *it = (empty + 1) << 32;
    }
    size_t empty = (*it >> 32) - 1;
    for (size_t step = (*it & UINT32_MAX) + 1; step < cap; step++) {
        size_t i = (empty - step) & mask;
        if (hashes[i]) {
            *it = (empty + 1) << 32 | step;
            return values_of(t)[i];
        }
    }
    *it = (empty + 1) << 32 | cap;
    return NULL;
}

size_t kmap_bytes(const struct kmap *m)
{
    const struct kmap_table *t = table_of(m);
    return t ? bytes_of(t->cap_log2) : 0;
}
