/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_MAP_H
#define CHAPPE_MAP_H
/*
 * Hash tables: smap from byte strings, kmap from the strings that the values begin with, imap from 64-bit
 * integers, to pointers (never NULL). Key bytes are borrowed: they live in the value, or at least as long as
 * the entry. Open addressing, grows only, no order. An empty table has no memory of its own. Deleting during
 * iteration is allowed for the entry just returned; inserting is not.
 */
#include "chappe/mem.h"

/* Objects have many tables, of which most are empty or hold one entry: so a table is a pointer. */
struct smap_table {
    uint32_t n;
    uint8_t cap_log2;
    uint8_t kind; /* enum mem_kind of the table */
};
struct smap {
    uintptr_t table; /* struct smap_table and its slots; odd while there is none: the kind, twice, and one */
};
void smap_init(struct smap *m);
void smap_init_of(struct smap *m, enum mem_kind k); /* its table is counted as this kind */
void smap_fini(struct smap *m);                     /* the table only, not the values */
void *smap_get(const struct smap *m, struct str key);
/* The same, of many tables: the key is hashed once. */
uint32_t smap_hash(struct str key);
void *smap_get_hashed(const struct smap *m, struct str key, uint32_t hash);
void *smap_put(struct smap *m, struct str key,
               void *value);                    /* returns the value it replaced (its key too), or NULL */
void *smap_del(struct smap *m, struct str key); /* returns the value, or NULL */
/* size_t it = 0; while ((v = smap_next(m, &it))) … */
void *smap_next(const struct smap *m, size_t *it);
static inline struct smap_table *smap_table(const struct smap *m) /* NULL: it is empty */
{
    return m->table & 1 ? NULL : (struct smap_table *)m->table;
}
static inline size_t smap_count(const struct smap *m)
{
    const struct smap_table *t = smap_table(m);
    return t ? t->n : 0;
}
size_t smap_bytes(const struct smap *m);

/* For values that know their own key, because they begin with it (a struct str), or with a pointer to what
 * begins with it: half the memory of an smap, and none at all for one entry, which most of the tables of
 * users have. Zeroed it is an empty one of the first kind. Its memory is counted as the kind that kmap_put
 * and kmap_fini are given, always the same. */
struct kmap {
    uintptr_t at; /* a table, or the only value, or nothing; the low bits tell (kmap.c) */
};
enum { KMAP_TABLE = 1, KMAP_BEHIND = 2 };
struct kmap_table {
    uint32_t n;
    uint8_t cap_log2;
};
static inline void kmap_init(struct kmap *m)
{
    m->at = 0;
}
static inline void kmap_init_behind(struct kmap *m) /* of values that begin with a pointer to their key */
{
    m->at = KMAP_BEHIND;
}
void kmap_fini(enum mem_kind k, struct kmap *m); /* the table only: values are not looked at */
void *kmap_get(const struct kmap *m, struct str key);
void *kmap_get_hashed(const struct kmap *m, struct str key, uint32_t hash); /* smap_hash() */
/* Returns the value with the same key that it replaced, or NULL. */
void *kmap_put(enum mem_kind k, struct kmap *m, void *value);
void *kmap_del(struct kmap *m, struct str key); /* returns the value, or NULL */
void *kmap_next(const struct kmap *m, size_t *it);
static inline size_t kmap_count(const struct kmap *m)
{
    uintptr_t p = m->at & ~(uintptr_t)(KMAP_TABLE | KMAP_BEHIND);
    return m->at & KMAP_TABLE ? ((const struct kmap_table *)p)->n : p != 0;
}
size_t kmap_bytes(const struct kmap *m);

struct imap {
    struct imap_slot *slots;
    uint32_t n;
    uint8_t cap_log2, kind;
};
void imap_init(struct imap *m);
void imap_init_of(struct imap *m, enum mem_kind k);
void imap_fini(struct imap *m);
void *imap_get(const struct imap *m, int64_t key);
void *imap_put(struct imap *m, int64_t key, void *value);
void *imap_del(struct imap *m, int64_t key);
void *imap_next(const struct imap *m, size_t *it);
void *imap_next_key(const struct imap *m, size_t *it, int64_t *key); /* and its key */
static inline size_t imap_count(const struct imap *m)
{
    return m->n;
}
size_t imap_bytes(const struct imap *m);

/* Doubly linked intrusive list; a struct list is both head and node. A head, and a detached node, point to
 * themselves. */
struct list {
    struct list *prev, *next;
};
static inline void list_init(struct list *l)
{
    l->prev = l->next = l;
}
static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}
static inline void list_push(struct list *head, struct list *n) /* at the tail */
{
    n->prev = head->prev;
    n->next = head;
    head->prev->next = n;
    head->prev = n;
}
static inline void list_del(struct list *n) /* harmless on a detached node */
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    list_init(n);
}
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define list_each(var, head, type, member)                                         \
    for (struct list *var##_it = (head)->next, *var##_nx = var##_it->next;         \
         var##_it != (head) && (var = container_of(var##_it, type, member), true); \
         var##_it = var##_nx, var##_nx = var##_it->next) /* the current entry may be deleted */
#endif
