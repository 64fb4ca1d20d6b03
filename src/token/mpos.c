/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Vector clocks of one stream.
 *
 * A position is a floor that every writer has reached plus the writers known to stand higher. Entries are
 * kept sorted by writer, each above the floor, at most MPOS_WRITERS_MAX of them: so two equal positions are
 * equal field by field, and every operation is one merge over two short sorted arrays, without allocation.
 * The order is partial: neither of two positions need be <= the other.
 *
 * A writer that is not listed stands at the floor. When more writers are ahead than fit, those with the
 * greatest ids count as standing at the floor: an older position makes somebody send a row again or look once
 * more in the database, a newer one would lose rows.
 */
#include "token_int.h"

void mpos_put(struct mpos *p, writer_id writer, int64_t pos)
{
    int32_t i = 0;

    while (i < p->n && p->w[i].writer < writer)
        i++;
    if (i < p->n && p->w[i].writer == writer) {
        p->w[i].pos = pos;
        return;
    }
    if (i == MPOS_WRITERS_MAX)
        return;
    int32_t tail = p->n - i;
    if (p->n == MPOS_WRITERS_MAX)
        tail--;
    else
        p->n++;
    memmove(&p->w[i + 1], &p->w[i], (size_t)tail * sizeof p->w[0]);
    p->w[i].writer = writer;
    p->w[i].pos = pos;
}

int64_t mpos_get(const struct mpos *p, writer_id w)
{
    if (w == WRITER_NONE)
        return p->min;
    for (int32_t i = 0; i < p->n && p->w[i].writer <= w; i++)
        if (p->w[i].writer == w)
            return p->w[i].pos;
    return p->min;
}

int64_t mpos_max(const struct mpos *p)
{
    int64_t max = p->min;

    for (int32_t i = 0; i < p->n; i++)
        if (p->w[i].pos > max)
            max = p->w[i].pos;
    return max;
}

bool mpos_covers(const struct mpos *p, writer_id w, int64_t id)
{
    return id <= mpos_get(p, w);
}

bool mpos_le(const struct mpos *a, const struct mpos *b)
{
    if (a->min > b->min)
        return false;
    /* Writers that only b lists stand higher there than b's floor, so they cannot fail. */
    for (int32_t i = 0; i < a->n; i++)
        if (a->w[i].pos > mpos_get(b, a->w[i].writer))
            return false;
    return true;
}

bool mpos_equal(const struct mpos *a, const struct mpos *b)
{
    if (a->min != b->min || a->n != b->n)
        return false;
    for (int32_t i = 0; i < a->n; i++)
        if (a->w[i].writer != b->w[i].writer || a->w[i].pos != b->w[i].pos)
            return false;
    return true;
}

struct mpos mpos_join(const struct mpos *a, const struct mpos *b)
{
    struct mpos r = mpos_of(a->min > b->min ? a->min : b->min);

    for (int32_t i = 0, j = 0; (i < a->n || j < b->n) && r.n < MPOS_WRITERS_MAX;) {
        bool take_a = j == b->n || (i < a->n && a->w[i].writer <= b->w[j].writer);
        bool take_b = i == a->n || (j < b->n && b->w[j].writer <= a->w[i].writer);
        writer_id w = take_a ? a->w[i].writer : b->w[j].writer;
        int64_t pos = r.min;
        if (take_a && a->w[i].pos > pos)
            pos = a->w[i].pos;
        if (take_b && b->w[j].pos > pos)
            pos = b->w[j].pos;
        if (pos > r.min)
            mpos_put(&r, w, pos);
        i += take_a;
        j += take_b;
    }
    return r;
}

struct mpos mpos_bound(const struct mpos *p, int64_t max)
{
    struct mpos r = mpos_of(p->min < max ? p->min : max);

    for (int32_t i = 0; i < p->n; i++) {
        int64_t pos = p->w[i].pos < max ? p->w[i].pos : max;
        if (pos > r.min)
            mpos_put(&r, p->w[i].writer, pos);
    }
    return r;
}

/* ---- kept ones ---- */

struct mpos mpos_of_kept(const struct mpos_kept *p)
{
    struct mpos all = {.min = p->min, .n = p->n};
    memcpy(all.w, p->w, (size_t)p->n * sizeof *p->w);
    return all;
}

struct mpos_kept *mpos_keep(enum mem_kind k, struct mpos_kept **last, const struct mpos *p)
{
    size_t writers = (size_t)p->n * sizeof *p->w;
    struct mpos_kept *same = *last;
    if (!same || same->min != p->min || same->n != p->n || memcmp(same->w, p->w, writers) != 0) {
        same = mem_new(k, sizeof *same + writers);
        same->refs = 1; /* last's */
        same->n = p->n;
        same->min = p->min;
        memcpy(same->w, p->w, writers);
        mpos_unref(k, last);
        *last = same;
    }
    same->refs++;
    return same;
}

void mpos_unref(enum mem_kind k, struct mpos_kept **p)
{
    struct mpos_kept *dropped = *p;
    *p = NULL;
    if (!dropped)
        return;
    ASSERT(dropped->refs > 0);
    if (--dropped->refs == 0)
        mem_free(k, dropped);
}
