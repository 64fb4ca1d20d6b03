/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Unread and highlight counts (sync-v3 10.5; Synapse 1.157 storage/databases/main/event_push_actions.py).
 *
 * Loaded once per (user, room), for all that are wanted in one statement; then kept true from the push
 * actions of new events, which the burst reads in one query for everybody. A redaction in the room or a
 * change of membership makes the copy stale.
 *
 * So does a receipt of the user, unless it leaves nothing: nothing counted in its thread lies beyond its
 * event (in any thread, if it is of none), and in other threads nothing is counted. Then the counts go on
 * from nothing, as a load would say. Synapse's sums do not matter to that: one is in force if it was made for
 * a receipt at this very place, and then it counts what comes later; or if it was made for none and holds
 * something that is unread, which nothing here is. What no burst has brought yet is added by its burst.
 *
 * Of a room in which the user had not read before, Synapse's sum counts what came before the first receipt
 * too, until it is summed up anew (every 30 s). Such a copy is read again with each event of the room, as
 * Synapse does with every copy; or the number would stay too high for good.
 *
 * A load may already count an event whose burst has not been applied yet. It says which ones above the
 * absorbed position it counted (included), and those are not added again.
 */
#include "model_int.h"

static const struct str main_thread = {"main", 4}; /* not copied: nearly everybody's */

static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void threads_clear(struct unread *un)
{
    for (size_t i = 0; i < un->threads.n; i++) {
        if (un->threads.v[i].thread_id.p != main_thread.p)
            mem_str_free(MEM_users, un->threads.v[i].thread_id);
    }
    un->threads.n = 0;
}

void unread_free(struct unread *un)
{
    threads_clear(un);
    vec_free_of(MEM_users, &un->threads);
    vec_free_of(MEM_users, &un->included);
    un->room->refs--;
    mem_free(MEM_users, un);
}

static void unread_clear(struct unread *un)
{
    threads_clear(un);
    un->included.n = 0;
    un->base = 0;
    un->old_sum = false;
}

static struct unread_thread *thread_of(struct unread *un, struct str id)
{
    for (size_t i = 0; i < un->threads.n; i++) {
        if (str_eq(un->threads.v[i].thread_id, id))
            return &un->threads.v[i];
    }
    vec_push_of(
        MEM_users, &un->threads,
        ((struct unread_thread){.thread_id = str_eq(id, main_thread) ? main_thread : mem_str(MEM_users, id),
                                .receipt = un->base}));
    return &un->threads.v[un->threads.n - 1];
}

enum have model_unread(struct model *m, struct user *u, struct room *r, struct unread **out)
{
    struct unread *un = kmap_get_hashed(&u->unread, r->room_id, r->id_hash);
    if (!un) {
        un = MEM_NEW(MEM_users, struct unread);
        un->user = u;
        un->room = r;
        r->refs++;
        kmap_put(MEM_users, &u->unread, un);
    }
    *out = un;
    if (un->load == LOAD_DONE && !un->stale && un->redaction_gen == r->redaction_gen &&
        (!un->old_sum || r->last_event <= un->upto))
        return HAVE;
    if (un->load == LOAD_NONE || un->load == LOAD_DONE) {
        un->load = LOAD_QUEUED;
        vec_push(&m->want_unread, un);
        loader_kick(m);
    }
    return LACK;
}

static void stale(struct unread *un)
{
    un->stale = true;
    un->gen++;
}

void unread_stale(struct user *u, struct str room_id)
{
    struct unread *un = kmap_get(&u->unread, room_id);
    if (un)
        stale(un);
}

static bool take_receipt(struct unread *un, int64_t at, struct str thread_id)
{
    bool all = str_absent(thread_id);
    if (un->load != LOAD_DONE || at < un->upto || at < un->base)
        return false;
    for (size_t i = 0; i < un->threads.n; i++) {
        const struct unread_thread *t = &un->threads.v[i];
        bool of_it = all || str_eq(t->thread_id, thread_id);
        if (of_it ? t->receipt > at || t->newest > at : t->notify || t->unread)
            return false;
    }
    if (all) {
        unread_clear(un);
        un->base = at;
        return true;
    }
    struct unread_thread *t = thread_of(un, thread_id);
    t->receipt = at;
    t->notify = t->highlight = t->unread = 0;
    return true;
}

/* Rows of two writers may come in any order, and one may be in what was loaded already: an older one is not
 * taken. */
void unread_receipt(struct model *m, struct user *u, const struct receipt *rc, struct str room_id)
{
    struct unread *un = kmap_get(&u->unread, room_id);
    if (!un)
        return;
    const struct evrec *rec = model_rec_find(m, rc->event_id);
    int64_t at = rec && rec->ev ? rec->ev->stream : INT64_MIN;
    if (!take_receipt(un, at, rc->thread_id))
        stale(un);
}

static bool already_counted(const struct unread *un, int64_t stream)
{
    for (size_t i = 0; i < un->included.n; i++) {
        if (un->included.v[i] == stream)
            return true;
    }
    return false;
}

static void apply(struct unread *un, const struct action_row *a)
{
    if (un->load != LOAD_DONE) { /* under way: whether it counts this event is not known */
        un->gen++;
        return;
    }
    if (already_counted(un, a->stream))
        return;
    struct unread_thread *t = thread_of(un, a->thread_id);
    if (a->stream <= t->receipt)
        return;
    t->newest = max_of(t->newest, a->stream);
    t->notify += a->notif;
    t->highlight += a->highlight;
    t->unread += a->unread;
}

/* The push actions of a burst. */
void unread_apply(const struct burst *b)
{
    for (size_t i = 0; i < b->actions.n; i++) {
        const struct action_row *a = &b->actions.v[i];
        uint32_t hash = smap_hash(a->room_id);
        for (uint32_t k = 0; k < a->users_count; k++) {
            struct unread *un = kmap_get_hashed(&a->users[k]->unread, a->room_id, hash);
            if (un)
                apply(un, a);
        }
    }
}

static void take_row(struct unread *un, const struct pg_result *r, int i)
{
    int64_t v1 = pg_i64(r, i, 4), v2 = pg_i64(r, i, 5), v3 = pg_i64(r, i, 6), v4 = pg_i64(r, i, 7),
            v5 = pg_i64(r, i, 8);
    struct str th = pg_str(r, i, 3);
    switch (pg_i64(r, i, 0)) {
    case 0:
        un->base = v1;
        return;
    case 1:
        thread_of(un, th)->receipt = v1;
        return;
    case 2: { /* summarised so far; what is newer than the rotation comes with the actions */
        struct unread_thread *t = thread_of(un, th);
        t->notify = v1;
        t->unread = v2;
        t->summarised = true;
        un->old_sum |= v3 != 0;
        return;
    }
    default:
        break;
    }
    struct unread_thread *t = thread_of(un, th);
    t->highlight = v1;
    t->notify = t->summarised ? t->notify + v4 : v2;
    t->unread = t->summarised ? t->unread + v5 : v3;
    for (struct str list = pg_str(r, i, 9), item, rest; !str_absent(list) && list.n; list = rest) {
        int64_t s;
        str_cut(list, ',', &item, &rest);
        if (str_to_i64(item, &s))
            continue;
        vec_push_of(MEM_users, &un->included, s);
        t->newest = max_of(t->newest, s);
    }
}

static void on_unread(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    for (size_t i = 0; i < op->targets.n; i++) {
        struct unread *un = op->targets.v[i];
        un->load = r ? LOAD_DONE : LOAD_NONE;
        un->stale = un->gen != op->gens.v[i];
        if (r)
            unread_clear(un);
    }
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct user *u = kmap_get(&m->users, pg_str(r, i, 1));
        struct unread *un = u ? kmap_get(&u->unread, pg_str(r, i, 2)) : NULL;
        if (un)
            take_row(un, r, i);
    }
}

void unread_flush(struct model *m, struct batch *b)
{
    size_t n = m->want_unread.n;
    if (n == 0)
        return;
    struct load_op *op = load_op_new(m, b, on_unread);
    struct str *users = xmalloc(sizeof *users * n), *rooms = xmalloc(sizeof *rooms * n);
    int64_t persisted = positions_persisted_upto(m->pos[STREAM_EVENTS]);
    for (size_t i = 0; i < n; i++) {
        struct unread *un = m->want_unread.v[i];
        un->load = LOAD_BUSY;
        un->redaction_gen = un->room->redaction_gen;
        un->upto = max_of(persisted, un->room->last_event);
        users[i] = un->user->user_id;
        rooms[i] = un->room->room_id;
        vec_push(&op->targets, un);
        vec_push(&op->gens, un->gen);
    }
    struct pg_args *args = pg_args_new();
    pg_args_text_array(args, users, n);
    pg_args_text_array(args, rooms, n);
    pg_args_i64(args, persisted);
    free(users);
    free(rooms);
    m->want_unread.n = 0;
    load_op_send(op, SQL_unread_of_users, args);
}
