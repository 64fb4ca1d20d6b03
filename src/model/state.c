/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * State: of state groups (immutable, shared by chains) and current (live, fed by the events stream's state
 * rows).
 *
 * A new state group is one delta on a group that is usually in memory: it is linked to it, and a lookup walks
 * the chain. Where the chain ends, the last group holds what has been resolved from the database: single
 * members, all non-members, or everything. So an ordinary message costs nothing here, a state change one
 * small read, and a member looked up once is known for all later groups of the chain.
 */
#include "model_int.h"

static const struct str MEMBER = {"m.room.member", 13};

struct str state_key_of(struct arena *a, struct str type, struct str key)
{
    char *p = arena_alloc(a, type.n + 1 + key.n + 1);
    memcpy(p, type.p, type.n);
    p[type.n] = 0;
    if (key.n)
        memcpy(p + type.n + 1, key.p, key.n);
    return str_n(p, type.n + 1 + key.n);
}

/* The combined key, in a buffer when it fits. */
struct keybuf {
    char small[512];
    char *big;
};
static struct str make_key(struct keybuf *kb, struct str type, struct str key)
{
    size_t n = type.n + 1 + key.n;
    char *p = kb->small;
    kb->big = NULL;
    if (n > sizeof kb->small)
        p = kb->big = xmalloc(n);
    memcpy(p, type.p ? type.p : "", type.n);
    p[type.n] = 0;
    memcpy(p + type.n + 1, key.p ? key.p : "", key.n);
    return str_n(p, n);
}

/* ---- state groups ---- */

struct sg *model_sg(struct model *m, struct room *r, int64_t id)
{
    (void)m;
    struct sg *g = imap_get(&r->groups, id);
    if (!g) {
        g = MEM_NEW(MEM_state_groups, struct sg);
        g->id = id;
        g->room = r;
        smap_init_of(&g->map, MEM_state_groups);
        smap_init_of(&g->members, MEM_state_groups);
        imap_put(&r->groups, id, g);
    }
    return g;
}

static struct sg_entry *sg_entry_new(size_t key_bytes)
{
    return mem_new(MEM_state_groups, sizeof(struct sg_entry) + key_bytes + 1);
}

static struct sg_entry *sg_member(struct sg *g, struct str user_id)
{
    struct sg_entry *e = smap_get(&g->members, user_id);
    if (e)
        return e;
    e = sg_entry_new(user_id.n);
    if (user_id.n)
        memcpy(e + 1, user_id.p, user_id.n);
    e->type = MEMBER;
    e->key = e->state_key = str_n((char *)(e + 1), user_id.n);
    smap_put(&g->members, e->key, e);
    return e;
}

static struct sg_entry *sg_other(struct sg *g, struct str type, struct str state_key)
{
    struct keybuf kb;
    struct str key = make_key(&kb, type, state_key);
    struct sg_entry *e = smap_get(&g->map, key);
    if (!e) {
        e = sg_entry_new(key.n);
        char *p = (char *)(e + 1);
        memcpy(p, key.p, key.n);
        e->key = str_n(p, key.n);
        e->type = str_n(p, type.n);
        e->state_key = str_n(p + type.n + 1, state_key.n);
        smap_put(&g->map, e->key, e);
    }
    free(kb.big);
    return e;
}

static void sg_put(struct model *m, struct sg *g, struct str type, struct str state_key, struct str event_id)
{
    struct sg_entry *e = str_eq(type, MEMBER) ? sg_member(g, state_key) : sg_other(g, type, state_key);
    if (e->rec || str_absent(event_id)) /* what is there is newer (delta) or the same */
        return;
    e->rec = model_rec(m, event_id);
    evrec_pin(e->rec);
}

static void sg_map_free(struct model *m, struct smap *map)
{
    size_t it = 0;
    for (struct sg_entry *e; (e = smap_next(map, &it));) {
        if (e->rec)
            evrec_unpin(m, e->rec);
        mem_free(MEM_state_groups, e);
    }
    smap_fini(map);
}

void room_groups_free(struct model *m, struct room *r)
{
    size_t it = 0;
    for (struct sg *g; (g = imap_next(&r->groups, &it));) {
        sg_map_free(m, &g->map);
        sg_map_free(m, &g->members);
        mem_free(MEM_state_groups, g);
    }
    imap_fini(&r->groups);
}

static void want_delta(struct model *m, struct sg *g)
{
    if (g->delta != LOAD_NONE)
        return;
    g->delta = LOAD_QUEUED;
    vec_push(&m->want_sg_delta, g);
    loader_kick(m);
}

static void want_nonmembers(struct model *m, struct sg *g)
{
    if (g->want_nonmembers || g->want_all)
        return;
    g->want_nonmembers = true;
    vec_push(&m->want_sg_nonmembers, g);
    loader_kick(m);
}

static void want_all(struct model *m, struct sg *g)
{
    if (g->want_all)
        return;
    g->want_all = true;
    vec_push(&m->want_sg_all, g);
    loader_kick(m);
}

/* Duplicates within a batch are harmless: they are merged by the statement. */
static void want_member(struct model *m, struct sg *g, struct str user_id)
{
    struct str copy = str_dup(user_id);
    vec_push(&m->want_sg_pairs, ((struct sg_pair){g, copy, (char *)copy.p}));
    loader_kick(m);
}

enum have model_sg_get(struct model *m, struct sg *g, struct str type, struct str state_key,
                       struct evrec **out)
{
    *out = NULL;
    bool member = str_eq(type, MEMBER);
    struct keybuf kb = {0};
    struct str key = member ? state_key : make_key(&kb, type, state_key);
    struct sg *last = NULL;
    enum have h = LACK;
    for (struct sg *s = g; s; s = s->prev) {
        last = s;
        if (s->delta != LOAD_DONE) {
            want_delta(m, s);
            last = NULL;
            break;
        }
        struct sg_entry *e = smap_get(member ? &s->members : &s->map, key);
        if (e) {
            *out = e->rec;
            h = e->rec ? HAVE : ABSENT;
            last = NULL;
            break;
        }
        if (s->all || (s->nonmembers && !member)) {
            h = ABSENT;
            last = NULL;
            break;
        }
    }
    free(kb.big);
    if (last) {
        if (member)
            want_member(m, last, state_key);
        else
            want_nonmembers(m, last);
    }
    return h;
}

enum have model_sg_known(struct model *m, struct sg *g)
{
    if (g->delta != LOAD_DONE) {
        want_delta(m, g);
        return LACK;
    }
    return g->missing ? ABSENT : HAVE;
}

/* What later groups of a chain say comes first; keys of members and of others differ, as the latter have a
 * NUL. */
static void each_entry(struct smap *map, struct smap *seen,
                       void (*fn)(void *arg, struct str type, struct str state_key, struct evrec *rec),
                       void *arg)
{
    size_t it = 0;
    for (struct sg_entry *e; (e = smap_next(map, &it));) {
        if (seen && smap_get(seen, e->key))
            continue;
        if (seen)
            smap_put(seen, e->key, e);
        if (e->rec)
            fn(arg, e->type, e->state_key, e->rec);
    }
}

enum have model_sg_each(struct model *m, struct sg *g, bool members,
                        void (*fn)(void *arg, struct str type, struct str state_key, struct evrec *rec),
                        void *arg)
{
    for (struct sg *s = g; s; s = s->prev) {
        if (s->delta != LOAD_DONE) {
            want_delta(m, s);
            return LACK;
        }
        if (s->all || (s->nonmembers && !members))
            break;
        if (!s->prev) {
            if (members)
                want_all(m, s);
            else
                want_nonmembers(m, s);
            return LACK;
        }
    }
    struct smap seen;
    smap_init(&seen);
    for (struct sg *s = g; s; s = s->prev) {
        struct smap *chained = s != g || s->prev ? &seen : NULL;
        each_entry(&s->map, chained, fn, arg);
        if (members)
            each_entry(&s->members, chained, fn, arg);
        if (s->all || (s->nonmembers && !members))
            break;
    }
    smap_fini(&seen);
    return HAVE;
}

/* ---- loads of state groups ---- */

/* The statement's targets by group id, for the rows of its result. */
static void index_targets(struct load_op *op, struct imap *by_id)
{
    imap_init(by_id);
    for (size_t i = 0; i < op->targets.n; i++)
        imap_put(by_id, ((struct sg *)op->targets.v[i])->id, op->targets.v[i]);
}

/* Edges that run in a circle (a broken database) are not followed round for ever. */
static bool leads_to(const struct sg *from, const struct sg *g)
{
    for (; from; from = from->prev) {
        if (from == g)
            return true;
    }
    return false;
}

static void on_delta(struct load_op *op, const struct pg_result *r)
{
    struct imap by_id;
    index_targets(op, &by_id);
    for (size_t i = 0; i < op->targets.n; i++) {
        struct sg *g = op->targets.v[i];
        g->delta = r ? LOAD_DONE : LOAD_NONE;
        if (r)
            g->all = true; /* until an edge is seen */
    }
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct sg *g = imap_get(&by_id, pg_i64(r, i, 0));
        if (!g)
            continue;
        if (!pg_null(r, i, 1)) {
            g->all = false;
            struct sg *prev = imap_get(&g->room->groups, pg_i64(r, i, 1));
            if (prev && prev->delta == LOAD_DONE && !leads_to(prev, g))
                g->prev = prev;
        }
        if (!pg_null(r, i, 2))
            sg_put(op->m, g, pg_str(r, i, 2), pg_str(r, i, 3), pg_str(r, i, 4));
    }
    for (size_t i = 0; r && i < op->targets.n; i++) {
        struct sg *g = op->targets.v[i];
        g->missing = g->all && smap_count(&g->map) + smap_count(&g->members) == 0;
        if (g->missing)
            metric_add_l(M_model_poisoned, "state_group", 1);
    }
    imap_fini(&by_id);
}

static void on_resolved(struct load_op *op, const struct pg_result *r)
{
    bool all = op->at_i64 != 0;
    struct imap by_id;
    index_targets(op, &by_id);
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct sg *g = imap_get(&by_id, pg_i64(r, i, 0));
        if (g)
            sg_put(op->m, g, pg_str(r, i, 1), pg_str(r, i, 2), pg_str(r, i, 3));
    }
    for (size_t i = 0; i < op->targets.n; i++) {
        struct sg *g = op->targets.v[i];
        if (all)
            g->want_all = false;
        g->want_nonmembers = false;
        if (r) {
            g->nonmembers = true;
            g->all = g->all || all;
        }
    }
    imap_fini(&by_id);
}

/* Pairs asked for and not answered are known to be unset. */
static void on_members(struct load_op *op, const struct pg_result *r)
{
    struct imap by_id;
    index_targets(op, &by_id);
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct sg *g = imap_get(&by_id, pg_i64(r, i, 0));
        if (g)
            sg_put(op->m, g, MEMBER, pg_str(r, i, 1), pg_str(r, i, 2));
    }
    struct sg_pair *pairs = (struct sg_pair *)(intptr_t)op->at_i64;
    for (size_t i = 0; i < op->targets.n; i++) {
        if (r)
            sg_put(op->m, pairs[i].g, MEMBER, pairs[i].user_id, STR_ABSENT);
        free(pairs[i].mem);
    }
    free(pairs);
    imap_fini(&by_id);
}

static void send_groups(struct model *m, struct batch *b, struct sg **v, size_t n, enum pg_stmt stmt,
                        load_done_fn *done, int64_t flag)
{
    struct load_op *op = load_op_new(m, b, done);
    op->at_i64 = flag;
    int64_t *ids = xmalloc(sizeof *ids * n);
    for (size_t i = 0; i < n; i++) {
        vec_push(&op->targets, v[i]);
        ids[i] = v[i]->id;
    }
    struct pg_args *args = pg_args_new();
    pg_args_i64_array(args, ids, n);
    free(ids);
    load_op_send(op, stmt, args);
}

/* ---- current state ---- */

struct state_entry *room_state_get(const struct room *r, struct str type, struct str state_key)
{
    struct keybuf kb;
    struct state_entry *e = smap_get(&r->state, make_key(&kb, type, state_key));
    free(kb.big);
    return e;
}

struct member *room_member_get(const struct room *r, struct str user_id)
{
    return smap_get(&r->members, user_id);
}

bool room_event_is_current(const struct room *r, const struct event *ev)
{
    if (str_absent(ev->state_key))
        return false;
    struct evrec *rec = NULL;
    if (str_eq(ev->type, MEMBER)) {
        struct member *mb = room_member_get(r, ev->state_key);
        rec = mb ? mb->rec : NULL;
    } else {
        struct state_entry *e = room_state_get(r, ev->type, ev->state_key);
        rec = e ? e->rec : NULL;
    }
    return rec && str_eq(rec->id, ev->event_id);
}

static void count_member(struct room *r, enum membership ms, int by)
{
    if (ms == MEMBERSHIP_JOIN)
        r->joined_count += by;
    else if (ms == MEMBERSHIP_INVITE)
        r->invited_count += by;
}

static void member_put(struct model *m, struct room *r, struct str user_id, struct evrec *rec,
                       enum membership ms, int64_t stream)
{
    struct member *mb = smap_get(&r->members, user_id);
    if (!mb) {
        mb = mem_new(MEM_rooms, sizeof *mb + user_id.n + 1);
        memcpy(mb + 1, user_id.p, user_id.n);
        mb->user_id = str_n((char *)(mb + 1), user_id.n);
        smap_put(&r->members, mb->user_id, mb);
    } else {
        count_member(r, mb->membership, -1);
        evrec_unpin(m, mb->rec);
    }
    mb->rec = rec;
    evrec_pin(rec);
    mb->membership = ms;
    mb->stream = stream;
    count_member(r, ms, 1);
    r->summary_valid = false;
}

static void member_del(struct model *m, struct room *r, struct str user_id)
{
    struct member *mb = smap_del(&r->members, user_id);
    if (!mb)
        return;
    count_member(r, mb->membership, -1);
    evrec_unpin(m, mb->rec);
    mem_free(MEM_rooms, mb);
    r->summary_valid = false;
}

static void state_put(struct model *m, struct room *r, struct str type, struct str state_key,
                      struct evrec *rec)
{
    struct state_entry *e = room_state_get(r, type, state_key);
    if (!e) {
        e = mem_new(MEM_rooms, sizeof *e + type.n + state_key.n + 2);
        char *p = (char *)(e + 1);
        memcpy(p, type.p, type.n);
        memcpy(p + type.n + 1, state_key.p ? state_key.p : "", state_key.n);
        e->key = str_n(p, type.n + 1 + state_key.n);
        e->type = str_n(p, type.n);
        e->state_key = str_n(p + type.n + 1, state_key.n);
        smap_put(&r->state, e->key, e);
    } else {
        evrec_unpin(m, e->rec);
    }
    e->rec = rec;
    evrec_pin(rec);
}

static void state_clear(struct model *m, struct room *r)
{
    size_t it = 0;
    for (struct state_entry *e; (e = smap_next(&r->state, &it));) {
        evrec_unpin(m, e->rec);
        mem_free(MEM_rooms, e);
    }
    smap_fini(&r->state);
    it = 0;
    for (struct member *mb; (mb = smap_next(&r->members, &it));) {
        evrec_unpin(m, mb->rec);
        mem_free(MEM_rooms, mb);
    }
    smap_fini(&r->members);
    r->joined_count = r->invited_count = 0;
    r->summary_valid = false;
}

void room_state_drop(struct model *m, struct room *r)
{
    r->state_gen++;
    if (r->state_load == LOAD_DONE) {
        state_clear(m, r);
        r->state_load = LOAD_NONE;
    }
}

/* A state row: one entry of the current state changed. */
void room_state_apply(struct model *m, struct room *r, struct str type, struct str state_key,
                      struct str event_id)
{
    r->state_gen++; /* a load under way may have missed it */
    if (r->state_load != LOAD_DONE)
        return;
    if (str_eq(type, MEMBER)) {
        if (str_absent(event_id)) {
            member_del(m, r, state_key);
            return;
        }
        struct evrec *rec = model_rec(m, event_id);
        if (!rec->ev) { /* resolution picked an event that is not in this burst: its membership is not known
                           here */
            room_state_drop(m, r);
            return;
        }
        member_put(m, r, state_key, rec, rec->ev->membership, rec->ev->stream);
        return;
    }
    if (str_absent(event_id)) {
        struct keybuf kb;
        struct state_entry *e = smap_del(&r->state, make_key(&kb, type, state_key));
        free(kb.big);
        if (e) {
            evrec_unpin(m, e->rec);
            mem_free(MEM_rooms, e);
        }
        return;
    }
    state_put(m, r, type, state_key, model_rec(m, event_id));
}

enum have model_room_state(struct model *m, struct room *r)
{
    if (r->state_load == LOAD_DONE)
        return HAVE;
    if (r->state_load == LOAD_NONE) {
        r->state_load = LOAD_QUEUED;
        vec_push(&m->want_state, r);
        loader_kick(m);
    }
    return LACK;
}

static int summary_class(enum membership ms)
{
    switch (ms) {
    case MEMBERSHIP_JOIN:
        return 0;
    case MEMBERSHIP_INVITE:
        return 1;
    case MEMBERSHIP_LEAVE:
        return 2;
    case MEMBERSHIP_NONE:
    case MEMBERSHIP_KNOCK:
    case MEMBERSHIP_BAN:
        break;
    }
    return 3;
}

static bool summary_before(const struct member *a, const struct member *b)
{
    int x = summary_class(a->membership), y = summary_class(b->membership);
    return x != y ? x < y : a->stream < b->stream;
}

enum have model_room_summary(struct model *m, struct room *r)
{
    enum have h = model_room_state(m, r);
    if (h != HAVE || r->summary_valid)
        return h;
    r->summary_first_count = 0;
    size_t it = 0;
    for (struct member *mb; (mb = smap_next(&r->members, &it));) {
        int n = r->summary_first_count;
        if (n == 6 && !summary_before(mb, r->summary_first[5]))
            continue;
        int i = n < 6 ? n : 5;
        while (i > 0 && summary_before(mb, r->summary_first[i - 1])) {
            r->summary_first[i] = r->summary_first[i - 1];
            i--;
        }
        r->summary_first[i] = mb;
        if (n < 6)
            r->summary_first_count = n + 1;
    }
    r->summary_valid = true;
    return HAVE;
}

static void on_room_state(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    for (size_t i = 0; i < op->targets.n; i++) {
        struct room *room = op->targets.v[i];
        room->state_load = LOAD_NONE;
        room->state_newest = 0;
        state_clear(m, room);
        if (r && room->state_gen == op->gens.v[i])
            room->state_load = LOAD_DONE;
    }
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct room *room = smap_get(&m->rooms, pg_str(r, i, 0));
        if (!room || room->state_load != LOAD_DONE)
            continue;
        struct str type = pg_str(r, i, 1), key = pg_str(r, i, 2);
        struct evrec *rec = model_rec(m, pg_str(r, i, 3));
        int64_t stream = pg_i64(r, i, 5);
        room->state_newest = stream > room->state_newest ? stream : room->state_newest;
        if (str_eq(type, MEMBER))
            member_put(m, room, key, rec, membership_parse(pg_str(r, i, 4)), pg_i64(r, i, 5));
        else
            state_put(m, room, type, key, rec);
    }
}

void state_flush(struct model *m, struct batch *b)
{
    if (m->want_sg_delta.n) {
        for (size_t i = 0; i < m->want_sg_delta.n; i++)
            m->want_sg_delta.v[i]->delta = LOAD_BUSY;
        send_groups(m, b, m->want_sg_delta.v, m->want_sg_delta.n, SQL_sg_delta, on_delta, 0);
        m->want_sg_delta.n = 0;
    }
    if (m->want_sg_nonmembers.n) {
        send_groups(m, b, m->want_sg_nonmembers.v, m->want_sg_nonmembers.n, SQL_sg_nonmembers, on_resolved,
                    0);
        m->want_sg_nonmembers.n = 0;
    }
    if (m->want_sg_all.n) {
        send_groups(m, b, m->want_sg_all.v, m->want_sg_all.n, SQL_sg_all, on_resolved, 1);
        m->want_sg_all.n = 0;
    }
    if (m->want_sg_pairs.n) {
        size_t n = m->want_sg_pairs.n;
        struct load_op *op = load_op_new(m, b, on_members);
        op->at_i64 = (int64_t)(intptr_t)m->want_sg_pairs.v;
        int64_t *ids = xmalloc(sizeof *ids * n);
        struct str *users = xmalloc(sizeof *users * n);
        for (size_t i = 0; i < n; i++) {
            vec_push(&op->targets, m->want_sg_pairs.v[i].g);
            ids[i] = m->want_sg_pairs.v[i].g->id;
            users[i] = m->want_sg_pairs.v[i].user_id;
        }
        struct pg_args *args = pg_args_new();
        pg_args_i64_array(args, ids, n);
        pg_args_text_array(args, users, n);
        free(ids);
        free(users);
        m->want_sg_pairs.v = NULL;
        m->want_sg_pairs.n = m->want_sg_pairs.cap = 0;
        load_op_send(op, SQL_sg_members, args);
    }
    if (m->want_state.n) {
        struct load_op *op = load_op_new(m, b, on_room_state);
        struct str *ids = xmalloc(sizeof *ids * m->want_state.n);
        for (size_t i = 0; i < m->want_state.n; i++) {
            struct room *r = m->want_state.v[i];
            r->state_load = LOAD_BUSY;
            ids[i] = r->room_id;
            vec_push(&op->targets, r);
            vec_push(&op->gens, r->state_gen);
        }
        struct pg_args *args = pg_args_new();
        pg_args_text_array(args, ids, m->want_state.n);
        free(ids);
        m->want_state.n = 0;
        load_op_send(op, SQL_room_state, args);
    }
    receipts_flush(m, b);
}
