/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Hash tables with open addressing and linear probing, a power of two of slots, at most three quarters full
 * (large ones of integers, whose slots are small: seven eighths).
 * Of the tables that users and devices have, most hold one entry or none: the smallest has one slot, and is
 * the only one that may be full (for strings; for integers it has two).
 *
 * A deletion closes the gap by moving later entries of the same run back (no tombstones: a table that lives
 * for months with a constant number of entries stays as fast as on its first day). The run ends at an empty
 * slot. Iteration uses that: it starts just below some empty slot and goes downwards, around the table.
 * Entries which the deletion of the current one moves come from the part already seen and land in it, so none
 * is missed or seen twice. The cursor packs that empty slot (plus one) in its upper half and the steps done
 * in its lower half.
 *
 * String slots carry 32 bits of the hash: most mismatches are refused without touching the key, growing needs
 * no key at all. Integer keys are mixed with a per-process secret, for some of them are chosen by peers.
 */
#include "chappe/map.h"
#include "chappe/clock.h"

enum { CAP_FIRST_LOG2 = 1, CAP_SECOND_LOG2 = 2, CAP_LAST_LOG2 = 30, LARGE_CAP = 64 };

struct smap_slot {
    const char *p;
    void *value; /* NULL: empty */
    uint32_t n;
    uint32_t hash;
};

struct imap_slot {
    int64_t key;
    void *value; /* NULL: empty */
};

static uint64_t imap_secret;

static __attribute__((constructor)) void imap_secret_draw(void)
{
    imap_secret = rng_u64();
}

/* Unless there is but one, one slot at least stays empty: it ends a search. */
static bool is_full(size_t n, size_t cap)
{
    return n + 1 > cap - (cap == 1 ? 0 : cap < 4 ? 1 : cap / 4);
}

/* True when an entry whose home is `home`, found at `at`, may move back to the gap. */
static bool may_move(size_t home, size_t at, size_t gap, size_t mask)
{
    return ((at - home) & mask) >= ((at - gap) & mask);
}

/* ---- strings ---- */

static struct smap_slot *slots_of(const struct smap_table *t)
{
    return (struct smap_slot *)(uintptr_t)(t + 1);
}

static size_t table_cap(const struct smap_table *t)
{
    return (size_t)1 << t->cap_log2;
}

void smap_init(struct smap *m)
{
    smap_init_of(m, MEM_uncounted);
}

void smap_init_of(struct smap *m, enum mem_kind k)
{
    m->table = (uintptr_t)k << 1 | 1;
}

static enum mem_kind smap_kind(const struct smap *m)
{
    const struct smap_table *t = smap_table(m);
    return t ? (enum mem_kind)t->kind : (enum mem_kind)(m->table >> 1);
}

void smap_fini(struct smap *m)
{
    enum mem_kind kind = smap_kind(m);
    mem_free(kind, smap_table(m));
    smap_init_of(m, kind);
}

static bool smap_slot_is(const struct smap_slot *s, uint32_t hash, struct str key)
{
    return s->hash == hash && s->n == key.n && (key.n == 0 || memcmp(s->p, key.p, key.n) == 0);
}

/* The slot of key, or the empty slot where it would go. NULL: there is one slot, and it is another's. */
static struct smap_slot *smap_find(const struct smap_table *t, struct str key, uint32_t hash)
{
    struct smap_slot *slots = slots_of(t);
    size_t mask = table_cap(t) - 1, i = hash & mask;
    while (slots[i].value && !smap_slot_is(&slots[i], hash, key)) {
        if (mask == 0)
            return NULL;
        i = (i + 1) & mask;
    }
    return &slots[i];
}

static struct smap_table *smap_grow(struct smap *m)
{
    struct smap_table *old = smap_table(m), *t;
    uint8_t cap_log2 = (uint8_t)(!old ? 0 : old->cap_log2 ? old->cap_log2 + 1 : CAP_SECOND_LOG2);
    ASSERT(cap_log2 <= CAP_LAST_LOG2);
    enum mem_kind kind = smap_kind(m);
    t = mem_new(kind, sizeof *t + (sizeof(struct smap_slot) << cap_log2));
    t->cap_log2 = cap_log2;
    t->kind = (uint8_t)kind;
    size_t mask = table_cap(t) - 1;
    for (size_t k = 0; old && k < table_cap(old); k++) {
        if (!slots_of(old)[k].value)
            continue;
        size_t i = slots_of(old)[k].hash & mask;
        while (slots_of(t)[i].value)
            i = (i + 1) & mask;
        slots_of(t)[i] = slots_of(old)[k];
        t->n++;
    }
    mem_free(kind, old);
    m->table = (uintptr_t)t;
    return t;
}

uint32_t smap_hash(struct str key)
{
    return (uint32_t)str_hash(key);
}

void *smap_get_hashed(const struct smap *m, struct str key, uint32_t hash)
{
    const struct smap_table *t = smap_table(m);
    struct smap_slot *s = t && t->n ? smap_find(t, key, hash) : NULL;
    return s ? s->value : NULL;
}

void *smap_get(const struct smap *m, struct str key)
{
    return smap_count(m) ? smap_get_hashed(m, key, smap_hash(key)) : NULL;
}

void *smap_put(struct smap *m, struct str key, void *value)
{
    ASSERT(value != NULL && key.n <= UINT32_MAX);
    uint32_t hash = (uint32_t)str_hash(key);
    struct smap_table *t = smap_table(m);
    struct smap_slot *s = t ? smap_find(t, key, hash) : NULL;
    void *before = s ? s->value : NULL;
    if (!before) {
        if (!s || is_full(t->n, table_cap(t))) {
            t = smap_grow(m);
            s = smap_find(t, key, hash);
        }
        t->n++;
    }
    *s = (struct smap_slot){key.p, value, (uint32_t)key.n, hash};
    return before;
}

void *smap_del(struct smap *m, struct str key)
{
    struct smap_table *t = smap_table(m);
    struct smap_slot *s = t && t->n ? smap_find(t, key, (uint32_t)str_hash(key)) : NULL;
    void *value = s ? s->value : NULL;
    if (!value)
        return NULL;
    struct smap_slot *slots = slots_of(t);
    size_t mask = table_cap(t) - 1, gap = (size_t)(s - slots);
    for (size_t i = (gap + 1) & mask; mask && slots[i].value; i = (i + 1) & mask) {
        if (may_move(slots[i].hash & mask, i, gap, mask)) {
            slots[gap] = slots[i];
            gap = i;
        }
    }
    slots[gap] = (struct smap_slot){0};
    t->n--;
    return value;
}

void *smap_next(const struct smap *m, size_t *it)
{
    const struct smap_table *t = smap_table(m);
    if (!t || (*it == 0 && t->n == 0))
        return NULL;
    const struct smap_slot *slots = slots_of(t);
    size_t cap = table_cap(t), mask = cap - 1;
    if (*it == 0) {
        size_t empty = 0;
        while (empty < mask && slots[empty].value)
            empty++;
        *it = (empty + 1) << 32;
        if (mask == 0) { /* the one slot there is */
            *it |= 1;
            return slots[0].value;
        }
    }
    size_t empty = (*it >> 32) - 1;
    for (size_t step = (*it & UINT32_MAX) + 1; step < cap; step++) {
        const struct smap_slot *s = &slots[(empty - step) & mask];
        if (s->value) {
            *it = (empty + 1) << 32 | step;
            return s->value;
        }
    }
    *it = (empty + 1) << 32 | cap;
    return NULL;
}

size_t smap_bytes(const struct smap *m)
{
    const struct smap_table *t = smap_table(m);
    return t ? sizeof *t + table_cap(t) * sizeof(struct smap_slot) : 0;
}

/* ---- integers ---- */

static size_t imap_home(int64_t key)
{
    uint64_t h = (uint64_t)key ^ imap_secret;
    h = (h ^ h >> 32) * 0xd6e8feb86659fd93u;
    h = (h ^ h >> 32) * 0xd6e8feb86659fd93u;
    return (size_t)(h ^ h >> 32);
}

static size_t imap_cap(const struct imap *m)
{
    return m->slots ? (size_t)1 << m->cap_log2 : 0;
}

void imap_init(struct imap *m)
{
    imap_init_of(m, MEM_uncounted);
}

void imap_init_of(struct imap *m, enum mem_kind k)
{
    *m = (struct imap){.kind = (uint8_t)k};
}

void imap_fini(struct imap *m)
{
    mem_free(m->kind, m->slots);
    imap_init_of(m, m->kind);
}

static struct imap_slot *imap_find(const struct imap *m, int64_t key)
{
    size_t mask = imap_cap(m) - 1, i = imap_home(key) & mask;
    while (m->slots[i].value && m->slots[i].key != key)
        i = (i + 1) & mask;
    return &m->slots[i];
}

static void imap_grow(struct imap *m)
{
    struct imap_slot *old = m->slots;
    size_t old_cap = imap_cap(m);
    ASSERT(m->cap_log2 < CAP_LAST_LOG2);
    m->cap_log2 = (uint8_t)(old ? m->cap_log2 + 1 : CAP_FIRST_LOG2);
    m->slots = mem_new(m->kind, sizeof *m->slots << m->cap_log2);
    for (size_t k = 0; k < old_cap; k++)
        if (old[k].value)
            *imap_find(m, old[k].key) = old[k];
    mem_free(m->kind, old);
}

void *imap_get(const struct imap *m, int64_t key)
{
    return m->n ? imap_find(m, key)->value : NULL;
}

void *imap_put(struct imap *m, int64_t key, void *value)
{
    ASSERT(value != NULL);
    struct imap_slot *s = m->slots ? imap_find(m, key) : NULL;
    void *before = s ? s->value : NULL;
    if (!before) {
        size_t cap = imap_cap(m);
        if (!s || (cap < LARGE_CAP ? is_full(m->n, cap) : m->n >= cap - cap / 8)) {
            imap_grow(m);
            s = imap_find(m, key);
        }
        m->n++;
    }
    *s = (struct imap_slot){key, value};
    return before;
}

void *imap_del(struct imap *m, int64_t key)
{
    struct imap_slot *s = m->n ? imap_find(m, key) : NULL;
    void *value = s ? s->value : NULL;
    if (!value)
        return NULL;
    size_t mask = imap_cap(m) - 1, gap = (size_t)(s - m->slots);
    for (size_t i = (gap + 1) & mask; m->slots[i].value; i = (i + 1) & mask) {
        if (may_move(imap_home(m->slots[i].key) & mask, i, gap, mask)) {
            m->slots[gap] = m->slots[i];
            gap = i;
        }
    }
    m->slots[gap] = (struct imap_slot){0};
    m->n--;
    return value;
}

void *imap_next_key(const struct imap *m, size_t *it, int64_t *key)
{
    size_t cap = imap_cap(m), mask = cap - 1;
    if (*it == 0) {
        if (!m->n)
            return NULL;
        size_t empty = 0;
        while (m->slots[empty].value)
            empty++;
        *it = (empty + 1) << 32;
    }
    size_t empty = (*it >> 32) - 1;
    for (size_t step = (*it & UINT32_MAX) + 1; step < cap; step++) {
        const struct imap_slot *s = &m->slots[(empty - step) & mask];
        if (s->value) {
            *it = (empty + 1) << 32 | step;
            *key = s->key;
            return s->value;
        }
    }
    *it = (empty + 1) << 32 | cap;
    return NULL;
}

void *imap_next(const struct imap *m, size_t *it)
{
    int64_t key;
    return imap_next_key(m, it, &key);
}

size_t imap_bytes(const struct imap *m)
{
    return imap_cap(m) * sizeof *m->slots;
}
