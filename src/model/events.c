/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Events by id: one record per id, loaded in batches, evicted by least recent use, with the rules that decide
 * whether an event may be shown at all (sync-v3 7.6; Synapse 1.157 storage/databases/main/events_worker.py).
 *
 * A record outlives its event while it is pinned: rings, state maps and members refer to records, so an id is
 * stored once however many places mention it.
 */
#include "model_int.h"

struct evrec *model_rec_find(struct model *m, struct str event_id)
{
    return smap_get(&m->recs, event_id);
}

struct evrec *model_rec(struct model *m, struct str event_id)
{
    struct evrec *rec = smap_get(&m->recs, event_id);
    if (rec)
        return rec;
    rec = mem_new(MEM_event_records, sizeof *rec + event_id.n + 1);
    memcpy(rec + 1, event_id.p, event_id.n);
    rec->id = str_n((char *)(rec + 1), event_id.n);
    list_init(&rec->lru);
    smap_put(&m->recs, rec->id, rec);
    return rec;
}

static void evrec_drop_event(struct model *m, struct evrec *rec)
{
    if (rec->ev) {
        m->event_bytes -= rec->counted_bytes;
        m->event_count--;
        event_free(&rec->ev);
    }
    list_del(&rec->lru);
    for (size_t i = 0; i < rec->redactions.n; i++)
        evrec_unpin(m, rec->redactions.v[i].by);
    rec->redactions.n = 0;
    if (rec->load == LOAD_DONE)
        rec->load = LOAD_NONE;
}

static void evrec_free(struct model *m, struct evrec *rec)
{
    evrec_drop_event(m, rec);
    smap_del(&m->recs, rec->id);
    vec_free_of(MEM_event_records, &rec->redactions);
    mem_free(MEM_event_records, rec);
}

/* Drops the event; the record goes with the next sweep if nothing holds it. */
void evrec_evict(struct model *m, struct evrec *rec)
{
    ASSERT(rec->load == LOAD_DONE);
    evrec_drop_event(m, rec);
}

/* A part of the table at a time: millions of records must not hold up the hub. */
void evrecs_sweep(struct model *m)
{
    enum { PART = 20000 };
    struct evrec *rec = NULL;
    for (int i = 0; i < PART && (rec = smap_next(&m->recs, &m->sweep_it)); i++) {
        if (rec->pins == 0 && rec->load == LOAD_NONE)
            evrec_free(m, rec);
    }
    if (!rec)
        m->sweep_it = 0;
}

void evrecs_fini(struct model *m)
{
    size_t it = 0;
    for (struct evrec *rec; (rec = smap_next(&m->recs, &it));)
        evrec_drop_event(m, rec);
    it = 0;
    for (struct evrec *rec; (rec = smap_next(&m->recs, &it));)
        evrec_free(m, rec);
    smap_fini(&m->recs);
}

void evrec_pin(struct evrec *rec)
{
    rec->pins++;
}

void evrec_unpin(struct model *m, struct evrec *rec)
{
    ASSERT(rec->pins > 0);
    rec->pins--;
    /* Unpinned records without an event go now; those with one go when the event is evicted. Records of ids
     * that a reader has just mentioned are still unpinned and not loaded: they are swept by model_trim. */
    (void)m;
}

/* The row in memory no longer is what the database says. */
void evrec_stale(struct model *m, struct evrec *rec)
{
    rec->gen++;
    if (rec->load == LOAD_DONE)
        evrec_drop_event(m, rec);
}

void evrec_want(struct model *m, struct evrec *rec)
{
    if (rec->load != LOAD_NONE)
        return;
    rec->load = LOAD_QUEUED;
    vec_push(&m->want_events, rec);
    loader_kick(m);
}

/* "id US flag RS id US flag": the redactions column of SQL_events_by_id. */
static void take_redactions(struct model *m, struct evrec *rec, struct str list)
{
    while (!str_absent(list) && list.n) {
        struct str item, rest, id, flag;
        str_cut(list, '\x1e', &item, &rest);
        if (str_cut(item, '\x1f', &id, &flag)) {
            struct evrec *by = model_rec(m, id);
            evrec_pin(by);
            vec_push_of(MEM_event_records, &rec->redactions,
                        ((struct redaction_ref){by, str_eq(flag, STR("1"))}));
        }
        list = rest;
    }
}

void evrec_take_missing(struct model *m, struct evrec *rec)
{
    evrec_drop_event(m, rec);
    rec->load = LOAD_DONE;
    list_push(&m->event_lru, &rec->lru);
}

void evrec_take_row(struct model *m, struct evrec *rec, const struct pg_result *r, int row)
{
    evrec_drop_event(m, rec);
    struct event_row er = {
        .event_id = pg_str(r, row, 0),
        .room_id = pg_str(r, row, 1),
        .stream = pg_i64(r, row, 2),
        .writer = model_writer(m, pg_str(r, row, 3)),
        .topological = pg_i64(r, row, 4),
        .outlier = pg_i64(r, row, 5) != 0,
        .json = pg_str(r, row, 6),
        .internal_metadata = pg_str(r, row, 7),
        .format_version = pg_null(r, row, 8) ? 1 : (int)pg_i64(r, row, 8),
        .room_version = pg_str(r, row, 9),
        .rejected_reason = pg_str(r, row, 10),
        .state_group = pg_i64(r, row, 11),
    };
    const char *why = "unknown";
    rec->ev = event_new(&er, &why);
    rec->load = LOAD_DONE;
    list_push(&m->event_lru, &rec->lru);
    if (!rec->ev) {
        metric_add_l(M_model_poisoned, why, 1);
        log_warning("chappe.model", "event %.*s skipped: %s", STR_ARG(rec->id), why);
        return;
    }
    rec->counted_bytes = rec->ev->bytes * 2; /* its encoding, made on first use, is about as large */
    m->event_bytes += rec->counted_bytes;
    m->event_count++;
    take_redactions(m, rec, pg_str(r, row, 12));
    if (!pg_null(r, row, 13)) { /* MSC4293 */
        struct evrec *by = model_rec(m, pg_str(r, row, 13));
        evrec_pin(by);
        vec_push_of(MEM_event_records, &rec->redactions, ((struct redaction_ref){by, true}));
    }
}

/* A kick or ban that redacts (MSC4293) announces nothing about the events that it redacts: those in memory
 * are found by looking at all. */
void events_of_sender_stale(struct model *m, const struct user_in_room *v, size_t n)
{
    size_t it = 0;
    struct smap senders; /* a bot may ban a thousand at once */
    smap_init(&senders);
    for (size_t i = 0; i < n; i++)
        smap_put(&senders, v[i].user_id, m);
    for (struct evrec *rec; n && (rec = smap_next(&m->recs, &it));) {
        if (!rec->ev || !smap_get(&senders, rec->ev->sender))
            continue;
        for (size_t i = 0; rec->ev && i < n; i++) {
            if (str_eq(rec->ev->sender, v[i].user_id) && str_eq(rec->ev->room_id, v[i].room_id))
                evrec_stale(m, rec);
        }
    }
    smap_fini(&senders);
}

/* Taken is what was still being waited for: a burst may have brought the event meanwhile, a row may have said
 * that it changed. */
static void on_events(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    for (size_t i = 0; i < op->targets.n; i++) {
        struct evrec *rec = op->targets.v[i];
        if (rec->load != LOAD_BUSY)
            continue;
        if (r && rec->gen == op->gens.v[i])
            rec->pushed = true;
        else
            rec->load = LOAD_NONE;
    }
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct evrec *rec = smap_get(&m->recs, pg_str(r, i, 0));
        if (rec && rec->pushed) {
            rec->pushed = false;
            evrec_take_row(m, rec, r, i);
        }
    }
    for (size_t i = 0; i < op->targets.n; i++) {
        struct evrec *rec = op->targets.v[i];
        if (rec->pushed)
            evrec_take_missing(m, rec);
        rec->pushed = false;
        evrec_unpin(m, rec);
    }
}

void events_flush(struct model *m, struct batch *b)
{
    enum { CHUNK = 2000 };
    while (m->want_events.n > 0) {
        size_t n = m->want_events.n < CHUNK ? m->want_events.n : CHUNK;
        struct load_op *op = load_op_new(m, b, on_events);
        struct str *ids = xmalloc(sizeof *ids * n);
        for (size_t i = 0; i < n; i++) {
            struct evrec *rec = m->want_events.v[m->want_events.n - 1 - i];
            if (rec->load != LOAD_QUEUED) /* a burst was faster */
                continue;
            rec->load = LOAD_BUSY;
            evrec_pin(rec);
            ids[op->targets.n] = rec->id;
            vec_push(&op->targets, rec);
            vec_push(&op->gens, rec->gen);
        }
        m->want_events.n -= n;
        struct pg_args *args = pg_args_new();
        pg_args_text_array(args, ids, op->targets.n);
        free(ids);
        load_op_send(op, SQL_events_by_id, args);
    }
}

enum have model_event_raw(struct model *m, struct evrec *rec, struct event **out)
{
    *out = NULL;
    if (rec->load != LOAD_DONE) {
        evrec_want(m, rec);
        return LACK;
    }
    if (rec->lru.next != &rec->lru) { /* most recently used goes last */
        list_del(&rec->lru);
        list_push(&m->event_lru, &rec->lru);
    }
    if (!rec->ev)
        return ABSENT;
    *out = rec->ev;
    return HAVE;
}

static struct str domain_of(struct str user_id)
{
    struct str local, domain;
    return str_cut(user_id, ':', &local, &domain) ? domain : STR_ABSENT;
}

/* Does redaction event r (loaded, not rejected) redact target? */
static bool redaction_applies(const struct event *r, const struct event *target, bool recheck)
{
    if (str_eq(target->type, STR("m.room.create")) && !str_absent(target->state_key))
        return false;
    if (r->rejected || !str_eq(r->room_id, target->room_id))
        return false;
    if (recheck && r->recheck_redaction)
        return str_eq(domain_of(r->sender), domain_of(target->sender));
    return true;
}

/* m.room.redaction events are withheld until their target is known and may be redacted by them. */
static enum have redaction_event_usable(struct model *m, struct event *ev)
{
    if (str_absent(ev->redacts))
        return ABSENT;
    struct event *target;
    enum have h = model_event_raw(m, model_rec(m, ev->redacts), &target);
    if (h != HAVE)
        return h;
    if (target->rejected)
        return ABSENT;
    return redaction_applies(ev, target, true) ? HAVE : ABSENT;
}

/* Settles which redaction is in force on rec->ev. */
static enum have settle_redaction(struct model *m, struct evrec *rec)
{
    struct event *ev = rec->ev;
    if (rec->redactions.n == 0 || ev->redacted)
        return HAVE;
    if (str_eq(ev->type, STR("m.room.create")))
        return HAVE;
    for (size_t i = 0; i < rec->redactions.n; i++) {
        if (!rec->redactions.v[i].recheck) {
            event_redact(ev, rec->redactions.v[i].by->id);
            return HAVE;
        }
    }
    enum have all = HAVE;
    for (size_t i = 0; i < rec->redactions.n; i++) {
        struct event *by;
        enum have h = model_event_raw(m, rec->redactions.v[i].by, &by);
        if (h == LACK)
            all = LACK;
        else if (h == HAVE && redaction_applies(by, ev, true)) {
            event_redact(ev, by->event_id);
            return HAVE;
        }
    }
    return all;
}

enum have model_event(struct model *m, struct evrec *rec, struct event **out)
{
    enum have h = model_event_raw(m, rec, out);
    if (h != HAVE)
        return h;
    struct event *ev = *out;
    if (ev->rejected) {
        *out = NULL;
        return ABSENT;
    }
    if (str_eq(ev->type, STR("m.room.redaction"))) {
        h = redaction_event_usable(m, ev);
        if (h != HAVE) {
            *out = NULL;
            return h;
        }
    }
    h = settle_redaction(m, rec);
    if (h != HAVE)
        *out = NULL;
    return h;
}

enum have model_redacted_because(struct model *m, struct event *ev, struct event **out)
{
    *out = NULL;
    if (!ev->redacted || str_absent(ev->redacted_by)) /* the latter: an erased sender's */
        return ABSENT;
    struct evrec *by = model_rec(m, ev->redacted_by);
    if (by->resolving)
        return ABSENT;
    by->resolving = true;
    enum have h = model_event(m, by, out);
    by->resolving = false;
    return h;
}
