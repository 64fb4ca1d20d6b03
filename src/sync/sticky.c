/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Sticky events (MSC4354; Synapse 1.157 handlers/sync.py, sticky_events_by_room): those of the joined rooms
 * that came since the token and have not expired, at most a hundred for all rooms together. What did not fit
 * comes with the next answer: the token's field says how far this one went. Who is joined sees them whatever
 * the history visibility; what the timeline has already is left out.
 */
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
        !(room = smap_get(&run->joined_set, s->room_id)))
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
    if (run->sticky_count)
        run->now.sticky_events =
            mpos_bound(&run->now.sticky_events, run->sticky[run->sticky_count - 1].stream);
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

bool entry_sticky(struct sync_run *run, struct room_entry *en)
{
    bool lack = false;
    if (en->type != ENTRY_JOINED || !run->sticky_count)
        return true;
    en->sticky = ARENA_ARRAY(run->a, struct tl_ev, run->sticky_count);
    for (size_t i = 0; i < run->sticky_count; i++) {
        struct evrec *rec = run->sticky[i].rec;
        struct event *ev;
        if (run->sticky[i].room != en->room || in_timeline(en, rec))
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
