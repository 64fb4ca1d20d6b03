/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Bundled aggregations: what servers tell about an event's references, edit and thread in its unsigned
 * m.relations (sync-v3 7.5; Synapse 1.157 handlers/relations.py), and the filters that ask for events with
 * certain relations.
 *
 * The model has what is the same for all readers; here the reader's ignored users are taken out, the events
 * that go inside are rendered, and the text is kept with the timeline entry. Events inside are shown as they
 * are: that they may be seen follows from their root, except where an ignored user's newest reply is passed
 * over, as in Synapse.
 */
#include "sync_int.h"

static bool ignored(const struct sync_run *run, struct str user_id)
{
    return smap_get(&run->u->more->ignored, user_id) != NULL;
}

/* Starts a member of the object that is being written. */
static void put_key(struct rope *out, struct str quoted_key_colon)
{
    rope_put(out, out->bytes ? STR(",") : STR("{"));
    rope_put(out, quoted_key_colon);
}

static struct str finish(struct sync_run *run, struct rope *out)
{
    struct str text = STR_ABSENT;
    if (out->bytes && !run->lack) {
        rope_put(out, STR("}"));
        text = rope_flatten(out, run->a);
    }
    rope_fini(out);
    return text;
}

/* An event inside m.relations; of a run that lacks something only what it needs is asked for. */
static void put_inner(struct sync_run *run, struct event *ev, struct str relations, struct rope *out)
{
    struct event_extra x;
    if (run_event_extra(run, ev, false, STR_ABSENT, &x) && !run->lack)
        render_event(run, ev, false, true, STR_ABSENT, relations, out);
}

static void put_references(struct sync_run *run, const struct relation_bundle *b, struct rope *out)
{
    bool any = false;
    for (size_t i = 0; i < b->references.n; i++) {
        if (ignored(run, b->references.v[i].sender))
            continue;
        if (any)
            rope_put(out, STR(","));
        else
            put_key(out, STR("\"m.reference\":{\"chunk\":["));
        any = true;
        rope_put(out, STR("{\"event_id\":"));
        rope_json_str(run, out, b->references.v[i].event_id);
        rope_put(out, STR("}"));
    }
    if (any)
        rope_put(out, STR("]}"));
}

static void put_edit(struct sync_run *run, const struct relation_bundle *b, struct rope *out)
{
    struct event *ev;
    if (str_absent(b->edit) || !run_have(run, model_event(run->m, model_rec(run->m, b->edit), &ev)))
        return;
    put_key(out, STR("\"m.replace\":"));
    put_inner(run, ev, STR_ABSENT, out);
}

/* The event to show for a thread; NULL: none, or not known yet. Where the newest reply is an ignored user's,
 * Synapse looks among the oldest five replies for the newest that may be shown. */
static struct event *thread_event(struct sync_run *run, struct room *room, const struct relation_bundle *b,
                                  struct event **shown)
{
    struct event *ev;
    if (!run_have(run, model_event(run->m, model_rec(run->m, b->thread_latest.event_id), &ev)))
        return NULL;
    *shown = ev;
    if (!ignored(run, b->thread_latest.sender))
        return ev;
    size_t i = b->thread_first.n;
    while (i > 0 && ignored(run, b->thread_first.v[i - 1].sender))
        i--;
    if (i == 0)
        return NULL;
    struct tl_ev t = {.e.rec = model_rec(run->m, b->thread_first.v[i - 1].event_id)};
    size_t n = 1;
    if (!run_have(run, model_event(run->m, t.e.rec, &t.ev)) || !visibility_filter(run, room, &t, &n) ||
        n == 0)
        return NULL;
    *shown = t.pruned ? t.pruned : t.ev;
    return t.ev;
}

/* Of an event's references and edit, the members that are there; an edit would tell what a redaction, or the
 * erasure of its sender, took away. */
static void put_simple(struct sync_run *run, const struct relation_bundle *b, bool pruned, struct rope *out)
{
    put_references(run, b, out);
    if (!pruned)
        put_edit(run, b, out);
}

static struct str relations_of_latest(struct sync_run *run, struct room *room, const struct event *ev)
{
    struct relations *x;
    struct rope out;
    if (!run_have(run, model_relations(run->m, room, ev->event_id, &x)) || !x->bundle)
        return STR_ABSENT;
    rope_init(&out);
    put_simple(run, x->bundle, ev->redacted, &out);
    return finish(run, &out);
}

static void put_thread(struct sync_run *run, struct room *room, const struct relation_bundle *b,
                       const struct event *root, struct rope *out)
{
    struct event *shown;
    if (str_absent(b->thread_latest.event_id))
        return;
    struct event *latest = thread_event(run, room, b, &shown);
    if (!latest)
        return;
    struct str inner = relations_of_latest(run, room, latest);
    int64_t count = 0;
    bool participated = str_eq(root->sender, run->u->user_id);
    for (size_t i = 0; i < b->thread_senders.n; i++) {
        const struct relation_count *c = &b->thread_senders.v[i];
        count += ignored(run, c->sender) ? 0 : c->n;
        participated |= str_eq(c->sender, run->u->user_id);
    }
    put_key(out, STR("\"m.thread\":{\"count\":"));
    rope_put_i64(out, count);
    rope_put(out, participated ? STR(",\"current_user_participated\":true")
                               : STR(",\"current_user_participated\":false"));
    rope_put(out, STR(",\"latest_event\":"));
    put_inner(run, shown, inner, out);
    rope_put(out, STR("}"));
}

static struct str bundle_of(struct sync_run *run, struct room *room, const struct tl_ev *t)
{
    const struct event *ev = t->pruned ? t->pruned : t->ev;
    if (!str_absent(ev->state_key) || str_eq(ev->rel_type, STR("m.annotation")) ||
        str_eq(ev->rel_type, STR("m.replace")))
        return STR_ABSENT;
    struct relations *x;
    struct rope out;
    if (!run_have(run, model_relations(run->m, room, ev->event_id, &x)) || !x->bundle)
        return STR_ABSENT;
    rope_init(&out);
    put_simple(run, x->bundle, t->pruned || t->ev->redacted, &out);
    if (str_absent(ev->rel_type)) /* threads start at events that relate to nothing */
        put_thread(run, room, x->bundle, ev, &out);
    return finish(run, &out);
}

/* An event inside: its sender may find a transaction id in it, or in what redacted it. */
static bool each_of_inner(struct sync_run *run, struct str event_id,
                          void (*fn)(void *arg, struct str user_id), void *arg)
{
    struct event *ev, *by;
    if (str_absent(event_id))
        return true;
    enum have h = model_event(run->m, model_rec(run->m, event_id), &ev);
    if (h != HAVE)
        return h == ABSENT;
    fn(arg, ev->sender);
    h = model_redacted_because(run->m, ev, &by);
    if (h == HAVE)
        fn(arg, by->sender);
    return h != LACK;
}

bool relations_each_user(struct sync_run *run, struct room *room, const struct event *ev,
                         void (*fn)(void *arg, struct str user_id), void *arg)
{
    struct relations *x;
    enum have h = model_relations(run->m, room, ev->event_id, &x);
    if (h != HAVE || !x->bundle)
        return h != LACK;
    const struct relation_bundle *b = x->bundle;
    struct str latest = b->thread_latest.event_id;
    fn(arg, ev->sender);
    for (size_t i = 0; i < b->thread_senders.n; i++)
        fn(arg, b->thread_senders.v[i].sender);
    bool ok = each_of_inner(run, b->edit, fn, arg) && each_of_inner(run, latest, fn, arg);
    if (!ok || str_absent(latest))
        return ok;
    h = model_relations(run->m, room, latest, &x);
    if (h == HAVE && x->bundle)
        return each_of_inner(run, x->bundle->edit, fn, arg);
    return h != LACK;
}

void entry_relations(struct sync_run *run, struct room_entry *en)
{
    if (!en->bundle || !run_have(run, model_ignored(run->m, run->u)))
        return;
    for (size_t i = 0; i < en->timeline_count; i++)
        en->timeline[i].relations = bundle_of(run, en->room, &en->timeline[i]);
}

/* ---- filters ---- */

static bool listed(struct str s, const struct str *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (str_eq(s, list[i]))
            return true;
    }
    return n == 0;
}

enum have run_related_matches(struct sync_run *run, const struct filter_section *s, struct room *room,
                              const struct event *ev)
{
    struct relations *x;
    if (!s->has_related)
        return HAVE;
    enum have h = model_relation_kinds(run->m, room, ev->event_id, &x);
    if (h != HAVE)
        return h;
    for (size_t i = 0; i < x->kinds.n; i++) {
        if (listed(x->kinds.v[i].sender, s->related_by_senders, s->related_by_senders_count) &&
            listed(x->kinds.v[i].rel_type, s->related_by_rel_types, s->related_by_rel_types_count))
            return HAVE;
    }
    return ABSENT;
}
