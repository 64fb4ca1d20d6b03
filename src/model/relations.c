/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What relates to an event: references, the edit in force, a summary of its thread; and, for filters, who
 * relates to it and how (sync-v3 7.5, 8.2; Synapse 1.157 handlers/relations.py,
 * storage/databases/main/relations.py).
 *
 * One entry per event that somebody asked about, found by the event's id and listed by its room. Threads come
 * aggregated (newest, oldest five, count per sender), so a long thread costs as many rows as it has writers;
 * what is specific to a reader (ignored users, participation) is derived from that without another statement.
 *
 * A new child, or a child's redaction, makes the entry stale; so do the rows of the caches stream by which
 * Synapse's own workers learn of it. A load that was under way then is thrown away by its generation. Entries
 * are evicted by least recent use within a share of the model's budget.
 */
#include "model_int.h"

enum { REFERENCES_MAX = 20000 }; /* more to one event is no conversation; the oldest stay */

/* ---- entries ---- */

static void child_free(struct relation_child *c)
{
    free((void *)c->event_id.p);
    free((void *)c->sender.p);
}

static void account(struct model *m, size_t *part, size_t bytes)
{
    *part += bytes;
    m->relation_bytes += bytes;
}

static size_t bare_bytes(const struct relations *x)
{
    return sizeof *x + x->parent.n + 64;
}

static void bundle_clear(struct relations *x)
{
    struct relation_bundle *b = x->bundle;
    if (!b)
        return;
    for (size_t i = 0; i < b->references.n; i++)
        child_free(&b->references.v[i]);
    vec_free(&b->references);
    for (size_t i = 0; i < b->thread_first.n; i++)
        child_free(&b->thread_first.v[i]);
    vec_free(&b->thread_first);
    for (size_t i = 0; i < b->thread_senders.n; i++)
        free((void *)b->thread_senders.v[i].sender.p);
    vec_free(&b->thread_senders);
    child_free(&b->thread_latest);
    free((void *)b->edit.p);
    free(b);
    x->bundle = NULL;
}

static void kinds_clear(struct relations *x)
{
    for (size_t i = 0; i < x->kinds.n; i++) {
        free((void *)x->kinds.v[i].rel_type.p);
        free((void *)x->kinds.v[i].sender.p);
    }
    vec_free(&x->kinds);
}

static void relations_free(struct model *m, struct relations *x)
{
    smap_del(&m->relations, x->parent);
    list_del(&x->in_room);
    list_del(&x->lru);
    m->relation_bytes -= bare_bytes(x) + x->bundle_bytes + x->kinds_bytes;
    bundle_clear(x);
    kinds_clear(x);
    free((void *)x->parent.p);
    free(x);
}

/* The entry of an event. An id that is suddenly said to be of another room cannot be: ids name one event for
 * good. */
static struct relations *relations_of(struct model *m, struct room *r, struct str parent)
{
    struct relations *x = smap_get(&m->relations, parent);
    if (!x) {
        x = xcalloc(1, sizeof *x);
        x->parent = str_dup(parent);
        x->room = r;
        list_init(&x->lru);
        list_push(&r->relations, &x->in_room);
        smap_put(&m->relations, x->parent, x);
        m->relation_bytes += bare_bytes(x);
    }
    list_del(&x->lru);
    list_push(&m->relation_lru, &x->lru);
    return x;
}

void relations_init(struct model *m)
{
    smap_init(&m->relations);
    list_init(&m->relation_lru);
}

void relations_fini(struct model *m)
{
    ASSERT(smap_count(&m->relations) == 0); /* they went with their rooms */
    smap_fini(&m->relations);
    vec_free(&m->want_bundles);
    vec_free(&m->want_kinds);
}

void relations_room_free(struct model *m, struct room *r)
{
    while (!list_empty(&r->relations))
        relations_free(m, container_of(r->relations.next, struct relations, in_room));
}

/* Nothing is being loaded when this is called. */
void relations_trim(struct model *m, size_t bytes_max)
{
    while (m->relation_bytes > bytes_max && !list_empty(&m->relation_lru)) {
        relations_free(m, container_of(m->relation_lru.next, struct relations, lru));
        metric_add(M_model_evictions, 1);
    }
}

/* ---- staleness ---- */

static void mark_stale(struct relations *x)
{
    x->gen++;
    x->bundle_stale = x->kinds_stale = true;
}

void relations_touch(struct model *m, struct str parent)
{
    struct relations *x = str_absent(parent) ? NULL : smap_get(&m->relations, parent);
    if (x)
        mark_stale(x);
}

void relations_room_stale(struct model *m, struct room *r)
{
    (void)m;
    struct relations *x;
    list_each(x, &r->relations, struct relations, in_room)
        mark_stale(x);
}

void relations_all_stale(struct model *m)
{
    size_t it = 0;
    for (struct relations *x; (x = smap_next(&m->relations, &it));)
        mark_stale(x);
}

void relations_redacted(struct model *m, struct str room_id, struct str target)
{
    struct room *r = model_room_find(m, room_id);
    struct evrec *rec = model_rec_find(m, target);
    /* An event in memory that has not been redacted yet tells what it relates to, and whether it does. */
    if (rec && rec->ev && !rec->ev->redacted && rec->redactions.n == 0)
        relations_touch(m, rec->ev->relates_to);
    else if (r)
        relations_room_stale(m, r);
}

/* ---- loading ---- */

static enum have want(struct model *m, bool kinds, struct relations *x)
{
    uint8_t *load = kinds ? &x->kinds_load : &x->bundle_load;
    if (*load == LOAD_DONE && !(kinds ? x->kinds_stale : x->bundle_stale))
        return HAVE;
    if (*load == LOAD_NONE || *load == LOAD_DONE) {
        *load = LOAD_QUEUED;
        if (kinds)
            vec_push(&m->want_kinds, x);
        else
            vec_push(&m->want_bundles, x);
        loader_kick(m);
    }
    return LACK;
}

enum have model_relations(struct model *m, struct room *r, struct str parent, struct relations **out)
{
    *out = relations_of(m, r, parent);
    return want(m, false, *out);
}

enum have model_relation_kinds(struct model *m, struct room *r, struct str parent, struct relations **out)
{
    *out = relations_of(m, r, parent);
    return want(m, true, *out);
}

static struct relation_child child_of(struct model *m, struct relations *x, struct str event_id,
                                      struct str sender)
{
    account(m, &x->bundle_bytes, sizeof(struct relation_child) + event_id.n + sender.n + 32);
    return (struct relation_child){str_dup(event_id), str_dup(sender)};
}

static void take_bundle_row(struct model *m, struct relations *x, int64_t kind, struct str event_id,
                            struct str sender, int64_t n)
{
    if (!x->bundle) {
        x->bundle = xcalloc(1, sizeof *x->bundle);
        account(m, &x->bundle_bytes, sizeof *x->bundle);
    }
    struct relation_bundle *b = x->bundle;
    switch (kind) {
    case 0:
        if (b->references.n < REFERENCES_MAX)
            vec_push(&b->references, child_of(m, x, event_id, sender));
        else
            metric_add_l(M_model_poisoned, "references", 1);
        break;
    case 1:
        b->edit = str_dup(event_id);
        account(m, &x->bundle_bytes, event_id.n + 16);
        break;
    case 2:
        b->thread_latest = child_of(m, x, event_id, sender);
        break;
    case 3:
        vec_push(&b->thread_first, child_of(m, x, event_id, sender));
        break;
    default:
        vec_push(&b->thread_senders, ((struct relation_count){str_dup(sender), n}));
        account(m, &x->bundle_bytes, sizeof(struct relation_count) + sender.n + 16);
        break;
    }
}

/* What an entry held before a load is given back before the rows come. */
static void restart(struct model *m, struct relations *x, bool kinds)
{
    size_t *part = kinds ? &x->kinds_bytes : &x->bundle_bytes;
    m->relation_bytes -= *part;
    *part = 0;
    if (kinds)
        kinds_clear(x);
    else
        bundle_clear(x);
}

static void finish(struct load_op *op, bool ok, bool kinds)
{
    for (size_t i = 0; i < op->targets.n; i++) {
        struct relations *x = op->targets.v[i];
        *(kinds ? &x->kinds_load : &x->bundle_load) = ok ? LOAD_DONE : LOAD_NONE;
        *(kinds ? &x->kinds_stale : &x->bundle_stale) = x->gen != op->gens.v[i];
        if (ok)
            restart(op->m, x, kinds);
    }
}

static void on_bundles(struct load_op *op, const struct pg_result *r)
{
    finish(op, r != NULL, false);
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct relations *x = smap_get(&op->m->relations, pg_str(r, i, 1));
        if (x)
            take_bundle_row(op->m, x, pg_i64(r, i, 0), pg_str(r, i, 2), pg_str(r, i, 3), pg_i64(r, i, 4));
    }
}

static void on_kinds(struct load_op *op, const struct pg_result *r)
{
    finish(op, r != NULL, true);
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct relations *x = smap_get(&op->m->relations, pg_str(r, i, 0));
        struct str rel_type = pg_str(r, i, 1), sender = pg_str(r, i, 2);
        if (!x)
            continue;
        vec_push(&x->kinds, ((struct relation_kind){str_dup(rel_type), str_dup(sender)}));
        account(op->m, &x->kinds_bytes, sizeof(struct relation_kind) + rel_type.n + sender.n + 32);
    }
}

static void send_wants(struct model *m, struct batch *b, struct relations **v, size_t n, bool kinds)
{
    if (n == 0)
        return;
    struct load_op *op = load_op_new(m, b, kinds ? on_kinds : on_bundles);
    struct str *ids = xmalloc(sizeof *ids * n);
    for (size_t i = 0; i < n; i++) {
        *(kinds ? &v[i]->kinds_load : &v[i]->bundle_load) = LOAD_BUSY;
        ids[i] = v[i]->parent;
        vec_push(&op->targets, v[i]);
        vec_push(&op->gens, v[i]->gen);
    }
    struct pg_args *args = pg_args_new();
    pg_args_text_array(args, ids, n);
    free(ids);
    load_op_send(op, kinds ? SQL_relation_kinds : SQL_relation_bundles, args);
}

void relations_flush(struct model *m, struct batch *b)
{
    send_wants(m, b, m->want_bundles.v, m->want_bundles.n, false);
    send_wants(m, b, m->want_kinds.v, m->want_kinds.n, true);
    m->want_bundles.n = m->want_kinds.n = 0;
}
