/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Where the writers of one stream stand.
 *
 * Ids come from one database sequence that several writers share, and a writer commits its own ids in order
 * but independently of the others. So "everything up to P is finished" needs two sources: the least position
 * of any writer, and, above it, ids that were each seen finished and follow P without a gap. The second is
 * only an improvement: an id that was rolled back never shows up, and then P waits for the slowest writer to
 * announce a position beyond it.
 *
 * Writers are a short array sorted by id. Ids seen above P wait in a binary min-heap; its size is bounded,
 * and an id that does not fit is forgotten, which can only delay P. Every call costs O(writers + log ids).
 *
 * A writer that was never heard of stands at P. One that announced itself takes part in the minimum for ever,
 * so the caller keeps instances away that are not configured as writers of the stream.
 */
#include "token_int.h"

#include <stdlib.h>

enum { KNOWN_MAX = 1 << 17 };

struct positions_writer {
    writer_id writer;
    int64_t pos;
};
struct positions {
    int64_t persisted; /* P */
    VEC(struct positions_writer) writers;
    VEC(int64_t) known; /* heap: least first */
};

struct positions *positions_new(void)
{
    return xcalloc(1, sizeof(struct positions));
}

void positions_free(struct positions **p)
{
    if (!*p)
        return;
    vec_free(&(*p)->writers);
    vec_free(&(*p)->known);
    free(*p);
    *p = NULL;
}

struct positions *positions_copy(const struct positions *p)
{
    struct positions *copy = positions_new();

    copy->persisted = p->persisted;
    for (size_t i = 0; i < p->writers.n; i++)
        vec_push(&copy->writers, p->writers.v[i]);
    for (size_t i = 0; i < p->known.n; i++)
        vec_push(&copy->known, p->known.v[i]);
    return copy;
}

static void known_push(struct positions *p, int64_t id)
{
    if (p->known.n >= KNOWN_MAX)
        return;
    vec_push(&p->known, id);
    int64_t *v = p->known.v;
    size_t i = p->known.n - 1;
    while (i > 0 && v[(i - 1) / 2] > id) {
        v[i] = v[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    v[i] = id;
}

static void known_pop(struct positions *p)
{
    int64_t *v = p->known.v;
    size_t n = --p->known.n;
    int64_t last = v[n];
    size_t i = 0;

    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && v[child + 1] < v[child])
            child++;
        if (v[child] >= last)
            break;
        v[i] = v[child];
    }
    if (n > 0)
        v[i] = last;
}

static struct positions_writer *writer_find(const struct positions *p, writer_id w)
{
    for (size_t i = 0; i < p->writers.n; i++)
        if (p->writers.v[i].writer == w)
            return &p->writers.v[i];
    return NULL;
}

/* The writer's entry, made at pos when it is new. */
static struct positions_writer *writer_ensure(struct positions *p, writer_id w, int64_t pos)
{
    struct positions_writer *e = writer_find(p, w);
    struct positions_writer entry = {.writer = w, .pos = pos};
    size_t i = p->writers.n;

    if (e)
        return e;
    vec_push(&p->writers, entry);
    for (; i > 0 && p->writers.v[i - 1].writer > w; i--)
        p->writers.v[i] = p->writers.v[i - 1];
    p->writers.v[i] = entry;
    return &p->writers.v[i];
}

/* Least position of any writer; P when there is none. */
static int64_t writers_min(const struct positions *p)
{
    if (p->writers.n == 0)
        return p->persisted;
    int64_t min = INT64_MAX;
    for (size_t i = 0; i < p->writers.n; i++)
        if (p->writers.v[i].pos < min)
            min = p->writers.v[i].pos;
    return min;
}

/* Moves P over the known ids that follow it without a gap, and forgets those it has passed. */
static void promote(struct positions *p)
{
    while (p->known.n > 0) {
        int64_t top = p->known.v[0];
        if (top > p->persisted && top - 1 != p->persisted)
            break;
        if (top > p->persisted)
            p->persisted = top;
        known_pop(p);
    }
}

void positions_init_writer(struct positions *p, writer_id w, int64_t pos)
{
    ASSERT(w != WRITER_NONE);
    writer_ensure(p, w, pos)->pos = pos;
}

void positions_init_empty(struct positions *p, int64_t persisted_upto)
{
    p->persisted = persisted_upto;
}

void positions_init_known(struct positions *p, int64_t id)
{
    known_push(p, id);
}

void positions_init_seal(struct positions *p, const writer_id *writers, size_t n)
{
    p->persisted = writers_min(p);
    promote(p);
    for (size_t i = 0; i < n; i++)
        if (writers[i] != WRITER_NONE)
            writer_ensure(p, writers[i], p->persisted);
}

void positions_advance(struct positions *p, writer_id w, int64_t id)
{
    if (w != WRITER_NONE) {
        struct positions_writer *e = writer_ensure(p, w, id);
        if (id > e->pos)
            e->pos = id;
    }
    int64_t min = writers_min(p);
    if (min > p->persisted)
        p->persisted = min;
    if (id > p->persisted)
        known_push(p, id);
    promote(p);
}

void positions_reset(struct positions *p, writer_id w, int64_t id)
{
    ASSERT(w != WRITER_NONE);
    writer_ensure(p, w, id)->pos = id;
    p->known.n = 0; /* ids of the former life say nothing about the new one */
    p->persisted = writers_min(p);
}

int64_t positions_persisted_upto(const struct positions *p)
{
    return p->persisted;
}

int64_t positions_of_writer(const struct positions *p, writer_id w)
{
    const struct positions_writer *e = writer_find(p, w);

    return e && e->pos > p->persisted ? e->pos : p->persisted;
}

int64_t positions_max(const struct positions *p)
{
    int64_t max = p->persisted;

    for (size_t i = 0; i < p->writers.n; i++)
        if (p->writers.v[i].pos > max)
            max = p->writers.v[i].pos;
    return max;
}

struct mpos positions_mpos(const struct positions *p)
{
    struct mpos r = mpos_of(p->persisted);

    for (size_t i = 0; i < p->writers.n; i++)
        if (p->writers.v[i].pos > r.min)
            mpos_put(&r, p->writers.v[i].writer, p->writers.v[i].pos);
    return r;
}
