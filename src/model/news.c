/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * In which of a user's rooms something has happened: so that a poll need not look at all of them.
 *
 * Kept for active users (somebody has waited for their news), from what wakes them: new events, receipts,
 * typing. A room has one entry, of where it stood when it was last heard of; when there are too many, the one
 * that was heard of longest ago is forgotten and the floors rise to where it stood. So the list is complete
 * above the floors, and absence from it is knowledge, as for everything that has a horizon (design D2).
 *
 * Costs a look at NEWS_MAX entries, at most, for each event and active member. The entries point to the
 * user's membership rows: when those are read again, activity begins anew, and this with it.
 */
#include "model_int.h"

enum { NEWS_MAX = 8 };

static int64_t greater(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

void news_begin(struct model *m, struct user *u)
{
    u->news.n = 0;
    u->news_floor = (struct news_at){
        .events = positions_max(m->pos[STREAM_EVENTS]),
        .receipts = positions_max(m->pos[STREAM_RECEIPTS]),
        .typing = m->typing_serial,
    };
    u->presence_news = positions_max(m->pos[STREAM_PRESENCE]);
    user_stir(m, u);
}

void news_end(struct user *u)
{
    vec_free_of(MEM_users, &u->news);
}

/* Most users have one room with news: room for one first, then as vectors grow. */
static void append(struct user *u, struct membership_row *row, const struct news_at *at)
{
    if (u->news.cap == 0) {
        u->news.v = MEM_NEW(MEM_users, struct news_item);
        u->news.cap = 1;
    }
    vec_push_of(MEM_users, &u->news, ((struct news_item){row, *at}));
}

static void note(struct membership_row *row, const struct news_at *at)
{
    struct user *u = row->user;
    size_t i = u->news.n;
    while (i > 0 && u->news.v[i - 1].row != row)
        i--;
    if (i > 0) {
        i--;
    } else if (u->news.n < NEWS_MAX) {
        append(u, row, at);
        return;
    } else {
        const struct news_at *old = &u->news.v[0].at;
        u->news_floor.events = greater(u->news_floor.events, old->events);
        u->news_floor.receipts = greater(u->news_floor.receipts, old->receipts);
        u->news_floor.typing = greater(u->news_floor.typing, old->typing);
        i = 0;
    }
    size_t last = u->news.n - 1;
    if (i < last)
        memmove(&u->news.v[i], &u->news.v[i + 1], (last - i) * sizeof u->news.v[0]);
    u->news.v[last] = (struct news_item){row, *at};
}

/* Everything of the room that has been absorbed is at or below this. An event's row may come before its
 * writer's position moves, so the room's own newest count. */
void model_wake_news(struct model *m, struct room *r)
{
    struct news_at at = {r->last_event, r->last_receipt, r->typing_serial};
    enum { ROW = 8, USER = 4 };
    for (size_t i = 0; i < r->active.n; i++) {
        if (i + ROW < r->active.n)
            mem_soon(r->active.v[i + ROW], sizeof(struct membership_row));
        if (i + USER < r->active.n)
            mem_soon(r->active.v[i + USER]->user, sizeof(struct user));
        note(r->active.v[i], &at);
        model_wake_user_news(m, r->active.v[i]->user);
    }
}

/* Who has come into a room may have had news of presence before, which concerned nobody there. */
void news_members(struct model *m, struct room *r)
{
    int64_t at = positions_max(m->pos[STREAM_PRESENCE]);
    for (size_t i = 0; i < r->active.n; i++) {
        struct user *u = r->active.v[i]->user;
        u->presence_news = greater(u->presence_news, at);
        user_stir(m, u);
    }
}

/* The typing writer counts from the beginning again. */
void news_typing_reset(struct model *m)
{
    size_t it = 0;
    for (struct user *u; (u = kmap_next(&m->users, &it));) {
        if (u->active)
            news_begin(m, u);
    }
}

bool model_user_news(const struct user *u, int64_t events, int64_t receipts, int64_t typing)
{
    return u->active && events >= u->news_floor.events && receipts >= u->news_floor.receipts &&
           typing >= u->news_floor.typing;
}
