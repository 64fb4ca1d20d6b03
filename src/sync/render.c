/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * From a finished run to bytes. Events are shared slices of their one encoding (design D4); what differs per
 * reader is put between them. Everything an event needs for its rendering is asked for once before
 * (run_event_extra), so that a run never finds out half-way through writing that something is lacking.
 */
#include "sync_int.h"

void rope_json_str(struct sync_run *run, struct rope *out, struct str s)
{
    (void)run;
    struct buf b;
    buf_init(&b, 16 << 20);
    json_write_str(&b, s, 0);
    rope_put(out, buf_str(&b));
    buf_fini(&b);
}

struct str render_token(struct sync_run *run, const struct stream_token *t)
{
    char text[TOKEN_TEXT_MAX];
    if (token_equal(t, model_now(run->m)))
        return model_now_text(run->m);
    return arena_str(run->a, str_n(text, token_format(t, text)));
}

/* As prev_batch has it: of many rooms, all but the first number is the same. */
static struct str render_now_at(struct sync_run *run, int64_t room)
{
    char digits[I64_DIGITS_MAX];
    struct str first = str_of_i64(digits, room), head;
    if (str_absent(run->now_rest)) {
        char text[TOKEN_TEXT_MAX];
        bool more = str_cut(str_n(text, token_format(&run->now, text)), '_', &head, &run->now_rest);
        ASSERT(more);
        run->now_rest = arena_str(run->a, run->now_rest);
    }
    char *p = arena_alloc(run->a, first.n + run->now_rest.n + 2);
    p[0] = 's';
    memcpy(p + 1, first.p, first.n);
    p[1 + first.n] = '_';
    memcpy(p + 2 + first.n, run->now_rest.p, run->now_rest.n);
    return str_n(p, 2 + first.n + run->now_rest.n);
}

struct str render_at(struct sync_run *run, struct entry_at at)
{
    if (at.room == &at.token->room)
        return render_token(run, at.token);
    if (at.token == &run->now && at.room->n == 0)
        return render_now_at(run, at.room->min);
    struct stream_token t = *at.token;
    t.room = *at.room;
    return render_token(run, &t);
}

/* Was ev sent by this very client (sync-v3 7.2 step 4)? */
static bool own_transaction(const struct sync_run *run, const struct event *ev)
{
    if (run->no_requester || str_absent(ev->txn_id) || !str_eq(ev->sender, run->u->user_id))
        return false;
    if (!str_absent(ev->txn_device_id))
        return run->d && str_eq(ev->txn_device_id, run->d->device_id);
    return (ev->txn_token_id && ev->txn_token_id == run->rq->token_id) || run->rq->is_guest ||
           run->rq->is_app_service;
}

static bool previous_content(struct sync_run *run, struct event *ev, struct event_extra *x)
{
    struct event *before;
    if (str_absent(ev->replaces_state) || str_absent(ev->state_key))
        return true;
    enum have h = model_event(run->m, model_rec(run->m, ev->replaces_state), &before);
    if (h == HAVE) {
        x->prev_content = event_content(before);
        x->prev_sender = before->sender;
    }
    run->lack |= h == LACK;
    return h != LACK;
}

/* For how long the event stays sticky yet (MSC4354). A redaction takes that out of it. */
static int64_t sticky_ttl(const struct sync_run *run, const struct event *ev)
{
    if (!run->cfg->msc4354_enabled || ev->sticky_ms < 0 || ev->redacted)
        return 0;
    int64_t sent = ev->origin_server_ts < run->wall_ms ? ev->origin_server_ts : run->wall_ms, left;
    if (__builtin_sub_overflow(sent, run->wall_ms - ev->sticky_ms, &left))
        return 0;
    return left > 0 ? left : 0;
}

static bool redacted_because(struct sync_run *run, struct event *ev, struct event_extra *x)
{
    struct event *by;
    if (!ev->redacted)
        return true;
    enum have h = model_redacted_because(run->m, ev, &by);
    if (h != HAVE) {
        run->lack |= h == LACK;
        return h != LACK;
    }
    struct event_extra bx = {
        .now_ms = run->wall_ms, .is_because = true, .sticky_ttl_ms = sticky_ttl(run, by)};
    if (own_transaction(run, by))
        bx.transaction_id = by->txn_id;
    if (!previous_content(run, by, &bx)) /* a ban that redacts (MSC4293), like the ban in the timeline */
        return false;
    struct rope r;
    rope_init(&r);
    if (run->f->federation_format)
        event_render_general(by, &bx, true, NULL, 0, &r);
    else
        event_render(by, &bx, &r);
    x->redacted_because = rope_flatten(&r, run->a);
    rope_fini(&r);
    return true;
}

bool run_event_extra(struct sync_run *run, struct event *ev, bool timeline, struct str membership,
                     struct event_extra *x)
{
    *x = (struct event_extra){
        .now_ms = run->wall_ms, .membership = membership, .sticky_ttl_ms = sticky_ttl(run, ev)};
    if (own_transaction(run, ev))
        x->transaction_id = ev->txn_id;
    if (!run->no_requester && !str_absent(ev->delay_id) && str_eq(ev->sender, run->u->user_id))
        x->delay_id = ev->delay_id;
    if (run->rq->is_admin && !run->no_requester) {
        x->mark_soft_failed = ev->soft_failed;
        x->mark_spammy = ev->policy_server_spammy;
    }
    bool ok = redacted_because(run, ev, x);
    if (timeline)
        ok &= previous_content(run, ev, x);
    return ok;
}

void render_event(struct sync_run *run, struct event *ev, bool timeline, bool fields, struct str membership,
                  struct str relations, struct rope *out)
{
    struct event_extra x;
    run_event_extra(run, ev, timeline, membership, &x);
    x.relations = relations;
    if (run->f->rare)
        event_render_general(ev, &x, run->f->federation_format, fields ? run->f->event_fields : NULL,
                             fields ? run->f->event_fields_count : 0, out);
    else
        event_render(ev, &x, out);
}

/* Asks for all that rendering will need, so that it is loaded in the same batches as the rest. */
void render_events_prepare(struct sync_run *run)
{
    struct event_extra x;
    for (const struct room_entry *en = run->emitted; en; en = en->next_emitted) {
        for (size_t i = 0; i < en->timeline_count; i++)
            run_event_extra(run, en->timeline[i].ev, true, STR_ABSENT, &x);
        for (const struct state_item *s = en->state; s; s = s->next)
            run_event_extra(run, s->ev, false, STR_ABSENT, &x);
        for (size_t i = 0; i < en->sticky_count; i++)
            run_event_extra(run, en->sticky[i].ev, false, STR_ABSENT, &x);
    }
    for (const struct stripped_entry *s = run->invites; s; s = s->next)
        run_event_extra(run, s->ev, false, STR_ABSENT, &x);
    for (const struct stripped_entry *s = run->knocks; s; s = s->next)
        run_event_extra(run, s->ev, false, STR_ABSENT, &x);
}

/* ---- rooms ---- */

static void put_timeline(struct sync_run *run, const struct room_entry *en, struct rope *out)
{
    rope_json_str(run, out, en->room->room_id);
    rope_put(out, STR(":{\"timeline\":{\"events\":["));
    for (size_t i = 0; i < en->timeline_count; i++) {
        const struct tl_ev *t = &en->timeline[i];
        if (i)
            rope_put(out, STR(","));
        render_event(run, t->pruned ? t->pruned : t->ev, true, true, t->membership, t->relations, out);
    }
    rope_put(out, STR("],\"prev_batch\":\""));
}

void render_whole_head(struct sync_run *run, const struct room_entry *en, struct rope *out)
{
    put_timeline(run, en, out);
}

void render_whole_state(struct sync_run *run, const struct room_entry *en, const struct state_item *without,
                        struct rope *out)
{
    rope_put(out, en->limited ? STR("\",\"limited\":true}") : STR("\",\"limited\":false}"));
    rope_put(out, run->use_state_after ? STR(",\"org.matrix.msc4222.state_after\":{\"events\":[")
                                       : STR(",\"state\":{\"events\":["));
    bool comma = false;
    for (const struct state_item *s = en->state; s; s = s->next) {
        if (s == without)
            continue;
        if (comma)
            rope_put(out, STR(","));
        comma = true;
        render_event(run, s->ev, false, true, STR_ABSENT, STR_ABSENT, out);
    }
}

void render_account(const struct room_entry *en, struct rope *out)
{
    rope_put(out, STR("]},\"account_data\":{\"events\":["));
    rope_put(out, en->account_events);
    rope_put(out, STR("]}"));
}

static void put_state(struct sync_run *run, const struct room_entry *en, struct rope *out)
{
    render_whole_state(run, en, NULL, out);
    render_account(en, out);
}

struct counts {
    int64_t notify, highlight;
};

static void put_counts(struct rope *out, const struct counts *c)
{
    rope_put(out, STR("{\"notification_count\":"));
    rope_put_i64(out, c->notify);
    rope_put(out, STR(",\"highlight_count\":"));
    rope_put_i64(out, c->highlight);
    rope_put(out, STR("}"));
}

static void put_threads(struct sync_run *run, const struct room_entry *en, struct str name, struct rope *out)
{
    rope_put(out, name);
    bool first = true;
    for (size_t i = 0; i < en->unread->threads.n; i++) {
        const struct unread_thread *t = &en->unread->threads.v[i];
        if (str_eq(t->thread_id, STR("main")) || (!t->notify && !t->highlight))
            continue;
        if (!first)
            rope_put(out, STR(","));
        first = false;
        rope_json_str(run, out, t->thread_id);
        rope_put(out, STR(":"));
        put_counts(out, &(struct counts){t->notify, t->highlight});
    }
    rope_put(out, STR("}"));
}

/* What is unread (MSC2654): the main timeline's, or everything where threads are not told apart. */
static int64_t unread_count(const struct sync_run *run, const struct room_entry *en)
{
    int64_t n = 0;
    for (size_t i = 0; en->unread && i < en->unread->threads.n; i++) {
        const struct unread_thread *t = &en->unread->threads.v[i];
        if (!run->f->unread_thread_notifications || str_eq(t->thread_id, STR("main")))
            n += t->unread;
    }
    return n;
}

static void put_unread(struct sync_run *run, const struct room_entry *en, struct rope *out)
{
    bool threads = run->f->unread_thread_notifications;
    struct counts main = {0};
    bool any_thread = false;
    for (size_t i = 0; en->unread && i < en->unread->threads.n; i++) {
        const struct unread_thread *t = &en->unread->threads.v[i];
        bool is_main = str_eq(t->thread_id, STR("main"));
        any_thread |= !is_main && (t->notify || t->highlight);
        if (threads && !is_main)
            continue;
        main.notify += t->notify;
        main.highlight += t->highlight;
    }
    rope_put(out, STR(",\"unread_notifications\":"));
    put_counts(out, &main);
    if (!threads || !any_thread)
        return;
    put_threads(run, en, STR(",\"unread_thread_notifications\":{"), out);
    if (run->cfg->msc3773_enabled)
        put_threads(run, en, STR(",\"org.matrix.msc3773.unread_thread_notifications\":{"), out);
}

void render_summary(struct sync_run *run, const struct room_entry *en, struct rope *out)
{
    rope_put(out, STR(",\"summary\":"));
    if (!en->summary_given || en->summary_null) {
        rope_put(out, en->summary_null ? STR("null") : STR("{}"));
        return;
    }
    rope_put(out, STR("{\"m.joined_member_count\":"));
    rope_put_i64(out, en->joined_count);
    rope_put(out, STR(",\"m.invited_member_count\":"));
    rope_put_i64(out, en->invited_count);
    if (en->summary_heroes) {
        rope_put(out, STR(",\"m.heroes\":["));
        for (size_t i = 0; i < en->heroes_count; i++) {
            if (i)
                rope_put(out, STR(","));
            rope_json_str(run, out, en->heroes[i]);
        }
        rope_put(out, STR("]"));
    }
    rope_put(out, STR("}"));
}

static void put_sticky(struct sync_run *run, const struct room_entry *en, struct rope *out)
{
    if (!en->sticky_count)
        return;
    rope_put(out, STR(",\"msc4354_sticky\":{\"events\":["));
    for (size_t i = 0; i < en->sticky_count; i++) {
        const struct tl_ev *t = &en->sticky[i];
        rope_put(out, i ? STR(",") : STR(""));
        render_event(run, t->pruned ? t->pruned : t->ev, false, true, t->membership, STR_ABSENT, out);
    }
    rope_put(out, STR("]}"));
}

void render_ephemeral(const struct room_entry *en, struct rope *out)
{
    rope_put(out, STR(",\"ephemeral\":{\"events\":["));
    rope_put(out, en->typing);
    if (!str_absent(en->typing) && !str_absent(en->receipts))
        rope_put(out, STR(","));
    rope_put(out, en->receipts);
    rope_put(out, STR("]}"));
}

void render_shared(struct sync_run *run, const struct room_entry *en, struct rope *head, struct rope *tail)
{
    put_timeline(run, en, head);
    if (head == tail)
        rope_put(head, render_at(run, en->prev_batch));
    put_state(run, en, tail);
    render_ephemeral(en, tail);
}

static void put_timeline_and_state(struct sync_run *run, const struct room_entry *en, struct rope *out)
{
    metric_add_own(M_sync_events_sent, (int64_t)en->timeline_count);
    put_timeline(run, en, out);
    rope_put(out, render_at(run, en->prev_batch));
    put_state(run, en, out);
}

static void put_joined(struct sync_run *run, struct room_entry *en, struct rope *out)
{
    if (en->shared || shared_offer(run, en)) {
        shared_put(run, en, out);
    } else if (en->whole) {
        whole_put(run, en, out);
    } else {
        put_timeline_and_state(run, en, out);
        render_ephemeral(en, out);
    }
    put_unread(run, en, out);
    put_sticky(run, en, out);
    if (en->whole)
        whole_put_summary(en, out);
    else
        render_summary(run, en, out);
    if (run->cfg->msc2654_enabled) {
        rope_put(out, STR(",\"org.matrix.msc2654.unread_count\":"));
        rope_put_i64(out, unread_count(run, en));
    }
    rope_put(out, STR("}"));
}

/* Stripped state: four keys. */
static void put_bare(struct sync_run *run, struct event *ev, struct rope *out)
{
    rope_put(out, STR("{\"type\":"));
    rope_json_str(run, out, ev->type);
    rope_put(out, STR(",\"state_key\":"));
    rope_json_str(run, out, ev->state_key);
    rope_put(out, STR(",\"content\":"));
    rope_put(out, event_content(ev));
    rope_put(out, STR(",\"sender\":"));
    rope_json_str(run, out, ev->sender);
    rope_put(out, STR("}"));
}

/* invite_state, knock_state: the stripped state the event carries, then the event itself: whole, from Synapse
 * 1.162 on stripped too (MSC4319). */
static void put_stripped(struct sync_run *run, const struct stripped_entry *s, bool knock, struct rope *out)
{
    struct str state = event_stripped_state(s->ev, knock, run->a);
    rope_put(out, knock ? STR("{\"knock_state\":{\"events\":[") : STR("{\"invite_state\":{\"events\":["));
    if (state.n) {
        rope_put(out, state);
        rope_put(out, STR(","));
    }
    if (release_has(RELEASE_INVITE_STRIPPED)) {
        put_bare(run, s->ev, out);
        rope_put(out, STR("]}}"));
        return;
    }
    struct event_extra x;
    run_event_extra(run, s->ev, false, STR_ABSENT, &x);
    if (knock && state.n) /* Synapse leaves it inside the knock event too (sync-v3 3.3) */
        x.knock_room_state = arena_printf(run->a, "[%.*s]", STR_ARG(state));
    if (run->f->federation_format)
        event_render_general(s->ev, &x, true, NULL, 0, out);
    else
        event_render(s->ev, &x, out);
    rope_put(out, STR("]}}"));
}

static void put_section(struct sync_run *run, struct rope *out, const char *name, enum entry_type type,
                        bool *first)
{
    rope_put(out, *first ? STR("\"") : STR(",\""));
    *first = false;
    rope_put(out, str_of(name));
    rope_put(out, STR("\":{"));
    bool comma = false;
    for (struct room_entry *en = run->emitted; en; en = en->next_emitted) {
        if (en->type != type)
            continue;
        if (comma)
            rope_put(out, STR(","));
        comma = true;
        if (type == ENTRY_JOINED) {
            put_joined(run, en, out);
        } else {
            put_timeline_and_state(run, en, out);
            rope_put(out, STR("}"));
        }
    }
    rope_put(out, STR("}"));
}

static void put_stripped_section(struct sync_run *run, struct rope *out, const struct stripped_entry *list,
                                 bool knock, bool *first)
{
    rope_put(out, *first ? STR("") : STR(","));
    *first = false;
    rope_put(out, knock ? STR("\"knock\":{") : STR("\"invite\":{"));
    for (const struct stripped_entry *s = list; s; s = s->next) {
        if (s != list)
            rope_put(out, STR(","));
        rope_json_str(run, out, s->room->room_id);
        rope_put(out, STR(":"));
        put_stripped(run, s, knock, out);
    }
    rope_put(out, STR("}"));
}

void render_rooms(struct sync_run *run, struct rope *out)
{
    bool first = true;
    rope_put(out, STR(",\"rooms\":{"));
    if (run->emitted_joined)
        put_section(run, out, "join", ENTRY_JOINED, &first);
    if (run->invites)
        put_stripped_section(run, out, run->invites, false, &first);
    if (run->knocks)
        put_stripped_section(run, out, run->knocks, true, &first);
    if (run->emitted_archived)
        put_section(run, out, "leave", ENTRY_ARCHIVED, &first);
    rope_put(out, STR("}"));
}
