/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Sticky events (MSC4354; Synapse 1.157 handlers/sync.py, sticky_events_by_room): those of the joined rooms
 * that came since the token and have not expired, at most a hundred for all rooms together. What did not fit
 * comes with the next answer: the token's field says how far this one went. A room that was joined since the
 * token has all of its own instead (RELEASE_STICKY_OF_JOINED). Who is joined sees them whatever
 * the history visibility; what the timeline has already is left out.
 */
#include "chappe/release.h"
#include "sync_int.h"

enum { STICKY_IN_SYNC = 100 };

static bool pick(void *arg, const struct sticky_event *s)
{
    struct sync_run *run = arg;
    static const struct mpos beginning = {.min = 0};
    const struct mpos *since = run->has_since ? &run->since.sticky_events : &beginning;
    struct room *room;
    if (s->expires_ms <= run->wall_ms ||
        !mpos_in_range(since, &run->now.sticky_events, s->writer, s->stream) ||
        !(room = run_joined_room(run, s->room_id)))
        return true;
    run->sticky[run->sticky_count++] = (struct sticky_pick){room, s->rec, s->stream};
    return run->sticky_count < STICKY_IN_SYNC;
}

void run_sticky(struct sync_run *run)
{
    if (!run->cfg->msc4354_enabled)
        return;
    run->sticky = ARENA_ARRAY(run->a, struct sticky_pick, STICKY_IN_SYNC);
    model_sticky_each(run->m, pick, run);
    bool by_writers =
        release_has(RELEASE_STICKY_BY_WRITERS); /* only a full page holds the position back then */
    if (run->sticky_count && (!by_writers || run->sticky_count == STICKY_IN_SYNC))
        run->now.sticky_events =
            mpos_bound(&run->now.sticky_events, run->sticky[run->sticky_count - 1].stream);
    if (by_writers && run->has_since) /* what a writer has shown is not shown again */
        run->now.sticky_events = mpos_join(&run->now.sticky_events, &run->since.sticky_events);
}

bool run_sticky_in(const struct sync_run *run, const struct room *room)
{
    for (size_t i = 0; i < run->sticky_count; i++) {
        if (run->sticky[i].room == room)
            return true;
    }
    return false;
}

static bool in_timeline(const struct room_entry *en, const struct evrec *rec)
{
    for (size_t i = 0; i < en->timeline_count; i++) {
        if (en->timeline[i].e.rec == rec)
            return true;
    }
    return false;
}

/* All that a room has, up to where the answer goes. */
struct all_of_room {
    struct sync_run *run;
    struct room *room;
    struct sticky_pick *v; /* NULL: they are counted */
    size_t n;
};

static bool pick_of_room(void *arg, const struct sticky_event *s)
{
    struct all_of_room *all = arg;
    if (s->expires_ms > all->run->wall_ms && str_eq(s->room_id, all->room->room_id) &&
        mpos_covers(&all->run->now.sticky_events, s->writer, s->stream)) {
        if (all->v)
            all->v[all->n] = (struct sticky_pick){all->room, s->rec, s->stream};
        all->n++;
    }
    return true;
}

static size_t picks_of(struct sync_run *run, const struct room_entry *en, const struct sticky_pick **out)
{
    struct all_of_room all = {.run = run, .room = en->room};
    *out = run->sticky;
    if (!run->cfg->msc4354_enabled || !run->has_since || !en->newly_joined ||
        !release_has(RELEASE_STICKY_OF_JOINED))
        return run->sticky_count;
    model_sticky_each(run->m, pick_of_room, &all);
    *out = all.v = ARENA_ARRAY(run->a, struct sticky_pick, all.n + 1);
    all.n = 0;
    model_sticky_each(run->m, pick_of_room, &all);
    return all.n;
}

bool entry_sticky(struct sync_run *run, struct room_entry *en)
{
    bool lack = false;
    const struct sticky_pick *picks;
    size_t n = en->type == ENTRY_JOINED ? picks_of(run, en, &picks) : 0;
    if (n == 0)
        return true;
    en->sticky = ARENA_ARRAY(run->a, struct tl_ev, n);
    for (size_t i = 0; i < n; i++) {
        struct evrec *rec = picks[i].rec;
        struct event *ev;
        if (picks[i].room != en->room || in_timeline(en, rec))
            continue;
        enum have h = model_event(run->m, rec, &ev);
        lack |= h == LACK;
        if (h == HAVE)
            en->sticky[en->sticky_count++] = (struct tl_ev){.e = {.rec = rec}, .ev = ev, .always = true};
    }
    if (lack)
        run->lack = true;
    return visibility_filter(run, en->room, en->sticky, &en->sticky_count) && !lack;
}
