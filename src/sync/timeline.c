/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The timeline of one entry: which events, limited or not, and where to go on from backwards (sync-v3 3.5;
 * Synapse 1.157 handlers/sync.py, _load_filtered_recents).
 */
#include "sync_int.h"

enum { REFILLS_MAX = 5, LIMIT_MAX = 10000 };

/* Loads events for entries and applies the timeline filter and visibility. Order is kept. false: lacks. */
static bool load_filtered(struct sync_run *run, struct room *room, const struct tl_entry *e, size_t n,
                          bool reverse, struct tl_ev **out, size_t *count)
{
    struct tl_ev *v = ARENA_ARRAY(run->a, struct tl_ev, n + 1);
    size_t k = 0;
    bool lack = false;
    for (size_t i = 0; i < n; i++) {
        const struct tl_entry *te = &e[reverse ? n - 1 - i : i];
        struct event *ev;
        enum have h = model_event(run->m, te->rec, &ev);
        if (h == HAVE)
            h = filter_match_event(run->f, &run->f->timeline, ev)
                    ? run_related_matches(run, &run->f->timeline, room, ev)
                    : ABSENT;
        lack |= h == LACK;
        if (h == HAVE)
            v[k++] = (struct tl_ev){.e = *te, .ev = ev};
    }
    if (lack)
        run->lack = true;
    if (!visibility_filter(run, room, v, &k) || lack)
        return false;
    *out = v;
    *count = k;
    return true;
}

struct page_cursor {
    bool topological;
    bool has_since;
    struct mpos since, end; /* stream order: (since, end] */
    bool has_from;          /* topological: at or below (t, s) */
    int64_t from_t, from_s;
};

static bool next_page(struct sync_run *run, struct room *room, struct page_cursor *c, size_t n,
                      struct tl_entry *v, size_t *count, bool *more)
{
    enum have h;
    if (c->topological)
        h = model_page_topological(run->m, room, &c->end, c->has_from, c->from_t, c->from_s, n, v, count,
                                   more);
    else
        h = model_page_stream(run->m, room, c->has_since ? &c->since : NULL, &c->end, n, v, count, more);
    if (!run_have(run, h))
        return false;
    if (*count == 0)
        return true;
    const struct tl_entry *oldest = &v[*count - 1];
    if (c->topological) {
        c->has_from = true;
        c->from_t = oldest->topological;
        c->from_s = oldest->stream - 1;
    } else {
        c->end = mpos_of(oldest->stream - 1);
    }
    return true;
}

static void put(struct room_entry *en, struct tl_ev *v, size_t n, bool limited, struct entry_at prev)
{
    en->timeline = v;
    en->timeline_count = n;
    en->limited = limited;
    en->prev_batch = prev;
}

size_t run_timeline_limit(const struct sync_run *run)
{
    int64_t want = run->f->timeline_limit;
    return want < 0 ? 0 : want > LIMIT_MAX ? LIMIT_MAX : (size_t)want;
}

bool entry_load_timeline(struct sync_run *run, struct room_entry *en)
{
    struct room *room = en->room;
    size_t limit = run_timeline_limit(run);
    /* What fails when a page is needed; of 0.0 none is. */
    bool odd_limit =
        run->f->timeline_limit < 0 ||
        (run->f->timeline_limit_fractional && !(run->f->timeline_limit == 0 && run->f->timeline_limit_whole));
    struct entry_at upto = en->upto;
    bool events_none = en->events_none;
    bool limited = events_none || en->newly_joined || run->f->timeline_limit < 0 || limit < en->events_count;

    /* A gap after one has left says nothing about what one may still see: only up to the leave. Synapse
     * looks as far as now, and resets upto to it, which can show events from after the leave (decision: the
     * safe side). */
    int64_t gap = 0;
    enum have h = model_gap(run->m, room, en->has_since ? run->since.room.min : 0,
                            en->type == ENTRY_JOINED ? &run->now.room : en->end, &gap);
    if (h == LACK)
        run->lack = true;
    bool gapped = h == HAVE;
    if (gapped) {
        events_none = limited = true;
        if (en->type == ENTRY_JOINED)
            upto = entry_at(&run->now);
    }

    struct tl_ev *recents = NULL;
    size_t n = 0;
    if (!events_none && !load_filtered(run, room, en->events, en->events_count, false, &recents, &n))
        return false;
    if (h == LACK)
        return false;
    if (!limited || filter_blocks_section(&run->f->timeline, true)) {
        struct entry_at prev = upto;
        if (n > 0)
            prev.room = run_mpos(run, recents[0].e.stream - 1);
        put(en, recents, n, false, prev);
        return true;
    }

    if (odd_limit) {
        run->broken = true;
        return false;
    }
    size_t load_limit = 2 * limit > 10 ? 2 * limit : 10;
    struct page_cursor c = {.end = *upto.room};
    c.has_since = en->has_since && (gapped || !en->newly_joined);
    c.since = gapped ? mpos_of(gap - 1) : run->since.room;
    if (!en->has_since && !gapped)
        c.has_since = false;
    else if (gapped && !en->has_since)
        c.has_since = false;
    c.topological = !c.has_since;
    struct entry_at prev = upto;
    struct tl_entry *page = ARENA_ARRAY(run->a, struct tl_entry, load_limit);
    bool more = true;
    for (int tries = REFILLS_MAX; more && n < limit && tries > 0; tries--) {
        size_t got;
        struct tl_ev *loaded;
        size_t k;
        if (!next_page(run, room, &c, load_limit, page, &got, &more) ||
            !load_filtered(run, room, page, got, true, &loaded, &k))
            return false;
        en->page = page;
        en->page_count = got;
        en->pages++;
        struct tl_ev *all = ARENA_ARRAY(run->a, struct tl_ev, k + n + 1);
        if (k)
            memcpy(all, loaded, k * sizeof *all);
        if (n)
            memcpy(all + k, recents, n * sizeof *all);
        recents = all;
        n += k;
    }
    limited = more;
    if (n > limit) {
        limited = true;
        size_t drop = limit                                  ? n - limit
                      : en->events_none || !en->events_count ? n
                                                             : 0; /* limit 0: sync-v3 3.5 quirk */
        en->dropped = drop ? recents[drop - 1].e.rec : NULL;
        recents += drop;
        n -= drop;
        prev.room = n ? run_mpos(run, recents[0].e.stream - 1) : prev.room;
    }
    en->bundle = limited || en->newly_joined; /* a gap alone does not make it so */
    put(en, recents, n, limited || en->newly_joined || gapped, prev);
    return true;
}
