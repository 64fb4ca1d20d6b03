/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * May this reader see this event? The security boundary (sync-v3 section 6; Synapse 1.157 visibility.py,
 * filter_events_for_client). Decided from the state after the event, from the reader's membership in it, from
 * what the reader ignores and who was erased. What cannot be decided from memory is wanted, never guessed.
 */
#include "sync_int.h"

enum history { HISTORY_WORLD_READABLE, HISTORY_SHARED, HISTORY_INVITED, HISTORY_JOINED };

static enum history history_parse(struct str s)
{
    if (str_eq(s, STR("world_readable")))
        return HISTORY_WORLD_READABLE;
    if (str_eq(s, STR("invited")))
        return HISTORY_INVITED;
    if (str_eq(s, STR("joined")))
        return HISTORY_JOINED;
    return HISTORY_SHARED; /* missing and odd values too */
}

/* The event that ev replaced in the state; ABSENT when there is none or it cannot be had. */
static enum have replaced(struct sync_run *run, const struct event *ev, struct event **out)
{
    *out = NULL;
    if (str_absent(ev->replaces_state))
        return ABSENT;
    return model_event(run->m, model_rec(run->m, ev->replaces_state), out);
}

/* History visibility in the state after ev, and for a change of it the laxer of before and after. The laxer
 * one counts only when it opens history to everybody: who needs a membership needs it under the new rule, as
 * in Synapse. false: lacks. */
static bool history_at(struct sync_run *run, const struct state_ref *after, struct event *ev,
                       enum history *out, enum history *laxer)
{
    struct evrec *rec;
    struct event *hv, *before;
    *out = HISTORY_SHARED;
    enum have h = state_ref_get(run, after, STR("m.room.history_visibility"), STR(""), &rec);
    if (h == HAVE) {
        h = model_event(run->m, rec, &hv);
        if (h == HAVE)
            *out = history_parse(hv->history_visibility);
    }
    if (h == LACK) {
        run->lack = true;
        return false;
    }
    *laxer = *out;
    if (!str_eq(ev->type, STR("m.room.history_visibility")) || !str_eq(ev->state_key, STR("")))
        return true;
    h = replaced(run, ev, &before);
    if (h == LACK) {
        run->lack = true;
        return false;
    }
    enum history prev = h == HAVE ? history_parse(before->history_visibility) : HISTORY_SHARED;
    if (prev < *out)
        *laxer = prev;
    return true;
}

/* Order of "more joined": join, invite, knock, leave, ban; unknown counts as leave. */
static int joinedness(enum membership ms)
{
    switch (ms) {
    case MEMBERSHIP_JOIN:
        return 0;
    case MEMBERSHIP_INVITE:
        return 1;
    case MEMBERSHIP_KNOCK:
        return 2;
    case MEMBERSHIP_BAN:
        return 4;
    case MEMBERSHIP_NONE:
    case MEMBERSHIP_LEAVE:
        break;
    }
    return 3;
}

/* Membership of the reader in the state after ev, or none. */
static bool membership_after(struct sync_run *run, struct room *room, const struct state_ref *after,
                             enum membership *ms)
{
    struct evrec *rec;
    *ms = MEMBERSHIP_NONE;
    enum have h = state_ref_get(run, after, STR("m.room.member"), run->u->user_id, &rec);
    if (h == HAVE)
        h = run_member_event(run, rec, run->u->user_id, room, ms);
    if (h == LACK)
        run->lack = true;
    return h != LACK;
}

/* Soft-failed events are for server admins who ask for them in their account data (Synapse 1.157
 * storage/admin_client_config.py). */
enum soft_failed_shown { SOFT_FAILED_UNKNOWN, SOFT_FAILED_HIDDEN, SOFT_FAILED_SPAMMY, SOFT_FAILED_ALL };

/* What Python takes for true. */
static bool truthy(const struct json *v)
{
    switch (v->type) {
    case JSON_TRUE:
        return true;
    case JSON_STRING:
        return v->s.n > 0;
    case JSON_NUMBER:
        for (size_t i = 0; i < v->s.n && v->s.p[i] != 'e' && v->s.p[i] != 'E'; i++) {
            if (v->s.p[i] >= '1' && v->s.p[i] <= '9')
                return true;
        }
        return false;
    case JSON_ARRAY:
    case JSON_OBJECT:
        return v->count > 0;
    case JSON_NULL:
    case JSON_FALSE:
        break;
    }
    return false;
}

static enum soft_failed_shown shown_by_config(struct sync_run *run)
{
    struct account_datum *d =
        smap_get(&run->u->more->account_data, STR("io.element.synapse.admin_client_config"));
    struct json *o;
    if (!d || json_parse(run->a, d->content, &o) || !json_is_object(o))
        return SOFT_FAILED_HIDDEN;
    const struct json *all = json_get(o, STR("return_soft_failed_events"));
    const struct json *spammy = json_get(o, STR("return_policy_server_spammy_events"));
    if (all && truthy(all))
        return SOFT_FAILED_ALL;
    return spammy && truthy(spammy) ? SOFT_FAILED_SPAMMY : SOFT_FAILED_HIDDEN;
}

static bool soft_failed_hidden(struct sync_run *run, const struct event *ev, bool *lack)
{
    if (!ev->soft_failed)
        return false;
    if (!run->rq->is_admin)
        return true;
    if (run->soft_failed_shown == SOFT_FAILED_UNKNOWN) {
        if (!run_have(run, model_account_data(run->m, run->u))) {
            *lack = true;
            return true;
        }
        run->soft_failed_shown = shown_by_config(run);
    }
    return run->soft_failed_shown == SOFT_FAILED_HIDDEN ||
           (run->soft_failed_shown == SOFT_FAILED_SPAMMY && !ev->policy_server_spammy);
}

/* Rule 2d: messages from before *oldest have outlived the room's retention policy. *oldest INT64_MIN: none.
 * false: lacks. */
static bool retention_of(struct sync_run *run, struct room *room, int64_t *oldest)
{
    bool has = run->cfg->retention.has_max_lifetime;
    int64_t lifetime = run->cfg->retention.max_lifetime_ms;
    *oldest = INT64_MIN;
    if (!run->cfg->retention.enabled)
        return true;
    if (!run_have(run, model_room_state(run->m, room)))
        return false;
    struct state_entry *e = room_state_get(room, STR("m.room.retention"), STR(""));
    struct event *ev;
    enum have h = e ? model_event_raw(run->m, e->rec, &ev) : ABSENT;
    if (h == LACK) {
        run->lack = true;
        return false;
    }
    if (h == HAVE && ev->has_max_lifetime) {
        has = true;
        lifetime = ev->max_lifetime;
    }
    if (has && __builtin_sub_overflow(run->wall_ms, lifetime, oldest))
        *oldest = lifetime > 0 ? INT64_MIN : INT64_MAX;
    return true;
}

struct verdict {
    bool show, prune, lack;
    enum membership ms;
};

/* Rules 5 to 8 with the membership known. own: ev is the reader's own member event. */
static void decide_membership(struct sync_run *run, struct event *ev, enum history hv, enum history laxer,
                              enum membership effective, bool always, struct verdict *v)
{
    bool erased = model_erased(run->m, ev->sender);
    /* Who looks in from outside sees what was shared only where it was a member (a call it is not in). */
    if (!erased && ((laxer == HISTORY_SHARED && !run->peeking) || laxer == HISTORY_WORLD_READABLE)) {
        v->show = true;
        return;
    }
    bool joined = effective == MEMBERSHIP_JOIN;
    bool allowed = always || joined || (hv == HISTORY_INVITED && effective == MEMBERSHIP_INVITE) ||
                   (hv == HISTORY_SHARED && !run->peeking) || hv == HISTORY_WORLD_READABLE;
    v->show = allowed;
    v->prune = allowed && erased && !joined;
}

static bool call_invite_hidden(struct sync_run *run, const struct state_ref *after, bool *hidden)
{
    struct evrec *rec;
    struct event *rules;
    *hidden = false;
    enum have h = state_ref_get(run, after, STR("m.room.join_rules"), STR(""), &rec);
    if (h == HAVE)
        h = model_event(run->m, rec, &rules);
    if (h == HAVE)
        *hidden = str_eq(rules->join_rule, STR("public"));
    if (h == LACK)
        run->lack = true;
    return h != LACK;
}

/* What is said in a state group of the rule and of the reader. Events that are no state come in long rows
 * after the same one. */
struct seen_in {
    int64_t group; /* 0: nothing was looked at */
    enum history hv;
    enum membership ms;
};

/* The state after ev, as far as it matters here. false: lacks. */
static bool look(struct sync_run *run, struct room *room, const struct state_ref *after, struct event *ev,
                 struct seen_in *seen, enum history *laxer)
{
    bool ordinary = str_absent(ev->state_key) && !str_eq(ev->type, STR("m.room.history_visibility"));
    if (ordinary && seen->group == ev->state_group) {
        *laxer = seen->hv;
        return true;
    }
    seen->group = 0;
    if (!history_at(run, after, ev, &seen->hv, laxer) || !membership_after(run, room, after, &seen->ms))
        return false;
    if (ordinary) /* a state event is part of the state after it */
        seen->group = ev->state_group;
    return true;
}

static struct verdict judge(struct sync_run *run, struct room *room, struct tl_ev *t, int64_t oldest,
                            struct seen_in *seen)
{
    struct event *ev = t->ev;
    struct verdict v = {.ms = MEMBERSHIP_NONE};
    bool state = !str_absent(ev->state_key);
    bool own = state && str_eq(ev->type, STR("m.room.member")) && str_eq(ev->state_key, run->u->user_id);
    /* 1, 2: never shown, whatever the membership */
    if (soft_failed_hidden(run, ev, &v.lack) || str_eq(ev->type, STR("org.matrix.dummy_event")) ||
        str_eq(ev->type, STR("m.room.aliases")))
        return v;
    if (!state && (smap_get(&run->u->more->ignored, ev->sender) || ev->origin_server_ts < oldest))
        return v;
    if (!run_have(run, model_room_state(run->m, room))) {
        v.lack = true;
        return v;
    }
    if (ev->outlier) { /* 4: an out-of-band membership of the reader itself */
        v.show = own;
        v.ms = own ? ev->membership : MEMBERSHIP_NONE;
        return v;
    }
    struct state_ref after;
    enum history laxer;
    /* Without its state nothing says who may see it: nobody (Synapse fails, or takes it for shared). */
    if (!state_ref_after(run, room, ev, t->e.rec, &after))
        return v;
    enum have known = after.none ? ABSENT : model_sg_known(run->m, after.g);
    if (known == ABSENT) {
        metric_add_l(M_model_poisoned, "no_state", 1);
        return v;
    }
    if (!run_have(run, known) || !look(run, room, &after, ev, seen, &laxer)) {
        v.lack = true;
        return v;
    }
    enum history hv = seen->hv;
    enum membership ms = seen->ms;
    v.ms = own ? ev->membership : ms;
    bool keep = t->always || (!run->no_keep && state && room_event_is_current(room, ev)); /* 3 */
    if (keep) {
        v.show = true;
    } else {
        enum membership effective = ms;
        bool always = false;
        if (own) {
            struct event *before;
            enum have h = replaced(run, ev, &before);
            if (h == LACK) {
                run->lack = v.lack = true;
                return v;
            }
            enum membership prev = h == HAVE ? before->membership : MEMBERSHIP_LEAVE;
            effective = joinedness(prev) < joinedness(ev->membership) ? prev : ev->membership;
            /* one may always see that one has left, or an invite was taken back */
            always =
                ev->membership == MEMBERSHIP_LEAVE && (prev == MEMBERSHIP_JOIN || prev == MEMBERSHIP_INVITE);
            if (always)
                effective = MEMBERSHIP_LEAVE;
        }
        decide_membership(run, ev, hv, laxer, effective, always, &v);
    }
    if (v.show && !state && str_eq(ev->type, STR("m.call.invite"))) { /* 9 */
        bool hidden;
        if (!call_invite_hidden(run, &after, &hidden))
            v.lack = true;
        v.show = !hidden;
    }
    return v;
}

static struct str membership_text(enum membership ms)
{
    return ms == MEMBERSHIP_NONE ? STR("leave") : str_of(membership_name(ms));
}

bool visibility_filter(struct sync_run *run, struct room *room, struct tl_ev *v, size_t *n)
{
    size_t k = 0;
    int64_t oldest;
    struct seen_in seen = {0};
    bool lack = *n && !retention_of(run, room, &oldest);
    for (size_t i = 0; i < *n; i++) {
        struct verdict d = judge(run, room, &v[i], lack ? INT64_MIN : oldest, &seen);
        if (d.lack) {
            lack = true; /* go on: the others' wants belong into the same batch */
            continue;
        }
        if (!d.show)
            continue;
        v[k] = v[i];
        v[k].membership = membership_text(d.ms);
        if (d.prune) {
            v[k].pruned = event_pruned_copy(v[k].ev);
            if (v[k].pruned)
                vec_push(&run->pruned, v[k].pruned);
        }
        k++;
    }
    if (lack) {
        run->lack = true;
        return false;
    }
    *n = k;
    return true;
}
