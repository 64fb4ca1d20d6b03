/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The events that are to be told, one object each however many recipients, loaded in batches: the event, the
 * names of its room and sender, and, for rooms without a name or alias, the first members.
 *
 * Names are those of the current state, not of the state after the event as in Synapse, which would need a
 * state resolution per event; the difference shows only when a name changes between the event and its
 * notification. A room whose state is still partial is told with the names that are known: nothing waits.
 * Names that are no strings are no names.
 *
 *   NEW ──want──► LOADING ──both statements──► READY, or GONE (unknown, rejected, redacted: nothing to tell)
 *
 * Sources: Synapse 1.157 push/push_tools.py, push/presentable_names.py.
 */
#include "push_int.h"

enum { EVENT_BYTES_MAX = 4 << 20, MEMBERS_SHOWN = 4, OWN_MEMBERS_MAX = 4096 };

/* ---- memberships of users with pushers ---- */

static void own_member_free(struct push *p, struct own_member *m)
{
    smap_del(&p->own_members, pstr_str(m->event));
    pstr_unref(p, &m->event);
    pstr_unref(p, &m->user);
    free(m);
}

void own_members_clear(struct push *p)
{
    struct own_member *m;
    size_t it = 0;

    while ((m = smap_next(&p->own_members, &it)))
        own_member_free(p, m);
}

/* Remembered until its action is read, if it has one. */
void own_member_put(struct push *p, struct str event_id, struct str user_id)
{
    struct own_member *m;

    if (smap_get(&p->own_members, event_id))
        return;
    if (smap_count(&p->own_members) >= OWN_MEMBERS_MAX)
        own_members_clear(p);
    m = xcalloc(1, sizeof *m);
    m->event = pstr_ref(p, event_id);
    m->user = pstr_ref(p, user_id);
    smap_put(&p->own_members, pstr_str(m->event), m);
}

static struct pstr *own_member_take(struct push *p, struct str event_id)
{
    struct own_member *m = smap_get(&p->own_members, event_id);
    struct pstr *user = NULL;

    if (m) {
        user = pstr_ref(p, pstr_str(m->user));
        own_member_free(p, m);
    }
    return user;
}

/* ---- references ---- */

struct push_event *push_event_ref(struct push *p, struct str event_id, struct str room_id,
                                  struct str thread_id, int64_t stream_ordering)
{
    struct push_event *ev = smap_get(&p->events, event_id);

    if (!ev) {
        ev = xcalloc(1, sizeof *ev + event_id.n + 1);
        memcpy(ev->id, event_id.p, event_id.n);
        ev->event_id = str_n(ev->id, event_id.n);
        ev->room = pstr_ref(p, room_id);
        ev->thread = pstr_ref(p, str_absent(thread_id) ? STR("main") : thread_id);
        ev->stream_ordering = stream_ordering;
        ev->own_member = own_member_take(p, event_id);
        list_init(&ev->wanted);
        list_push(&p->events_wanted, &ev->wanted);
        smap_put(&p->events, ev->event_id, ev);
    }
    ev->refs++;
    return ev;
}

void push_event_unref(struct push *p, struct push_event **evp)
{
    struct push_event *ev = *evp;

    *evp = NULL;
    if (!ev || --ev->refs > 0)
        return;
    smap_del(&p->events, ev->event_id);
    list_del(&ev->wanted);
    pstr_unref(p, &ev->room);
    pstr_unref(p, &ev->thread);
    pstr_unref(p, &ev->own_member);
    if (ev->a)
        arena_free(&ev->a);
    free(ev);
}

void push_event_gone(struct push *p, struct str event_id, struct str room_id)
{
    struct push_event *ev = smap_get(&p->events, event_id);

    if (ev && str_eq(pstr_str(ev->room), room_id))
        ev->state = PUSH_EVENT_GONE;
}

/* ---- what a row says ---- */

/* A non-empty string member of an event's content. */
static struct str content_name(const struct json *event, struct str key)
{
    struct str s = json_get_str(json_get(event, STR("content")), key);

    return s.n > 0 ? s : STR_ABSENT;
}

/* Out-of-band invites and knocks have no state here but what came with them (push_tools.py:
 * get_context_for_event). */
static void names_from_stripped_state(struct push_event *ev, const struct json *event)
{
    const struct json *uns = json_get(event, STR("unsigned"));
    const struct json *list = json_get(uns, STR("invite_room_state"));

    if (str_eq(ev->state_key, ev->sender))
        ev->sender_name = content_name(event, STR("displayname"));
    if (!json_is_array(list))
        list = json_get(uns, STR("knock_room_state"));
    if (!json_is_array(list))
        return;
    json_each(item, list) {
        struct str type = json_get_str(item, STR("type"));

        if (str_eq(type, STR("m.room.member")) && str_eq(json_get_str(item, STR("state_key")), ev->sender)) {
            struct str name = content_name(item, STR("displayname"));
            if (!str_absent(name))
                ev->sender_name = name;
        } else if (str_eq(type, STR("m.room.name"))) {
            struct str name = content_name(item, STR("name"));
            if (!str_absent(name))
                ev->room_name = name;
        }
    }
}

static void content_take(struct push *p, struct push_event *ev, const struct json *content)
{
    struct buf b;

    if (!p->cfg->push.include_content || !json_is_object(content) || content->count == 0)
        return;
    buf_init(&b, EVENT_BYTES_MAX);
    json_write(&b, content, JSON_SORTED | JSON_UTF8);
    if (!b.failed)
        ev->content = arena_str(ev->a, buf_str(&b));
    buf_fini(&b);
}

static struct str keep(struct push_event *ev, struct str s)
{
    return str_absent(s) ? s : arena_str(ev->a, s);
}

enum { EV_ID, EV_TYPE, EV_SENDER, EV_RECEIVED, EV_OUTLIER, EV_JSON, EV_NOTHING };

static void event_take(struct push *p, struct push_event *ev, const struct pg_result *r, int i)
{
    struct json *event = NULL, *membership;
    struct str text = pg_str(r, i, EV_JSON);
    struct arena *tree;

    if (pg_i64(r, i, EV_NOTHING) != 0) { /* rejected or redacted */
        ev->state = PUSH_EVENT_GONE;
        return;
    }
    tree = arena_new(EVENT_BYTES_MAX);
    if (text.n > EVENT_BYTES_MAX / 8 || json_parse(tree, text, &event) != 0 || !json_is_object(event)) {
        metric_add_l(M_push_skipped, "bad event", 1);
        ev->state = PUSH_EVENT_GONE;
        arena_free(&tree);
        return;
    }
    ev->a = arena_new_sized(EVENT_BYTES_MAX, 1024);
    ev->content = ev->room_name = ev->sender_name = STR_ABSENT;
    ev->members_count = 0;
    ev->type = keep(ev, pg_str(r, i, EV_TYPE));
    ev->sender = keep(ev, pg_str(r, i, EV_SENDER));
    ev->received_ts = pg_i64(r, i, EV_RECEIVED);
    if (!json_int(json_get(event, STR("origin_server_ts")), &ev->origin_server_ts))
        ev->origin_server_ts = ev->received_ts;
    ev->state_key = keep(ev, json_get_str(event, STR("state_key")));
    membership = json_path(event, "content.membership");
    ev->membership = keep(ev, json_str(membership));
    ev->encrypted = str_eq(ev->type, STR("m.room.encrypted"));
    content_take(p, ev, json_get(event, STR("content")));
    if (pg_i64(r, i, EV_OUTLIER)) {
        names_from_stripped_state(ev, event);
        ev->room_name = keep(ev, ev->room_name);
        ev->sender_name = keep(ev, ev->sender_name);
    } else {
        ev->nameless = true; /* until a name is found */
    }
    arena_free(&tree);
}

/* ---- loading ---- */

struct event_load {
    struct push *p;
    struct push_event **v; /* referenced */
    size_t n;
    bool failed;
};

static struct event_load *event_load_new(struct push *p, size_t max)
{
    struct event_load *l = xcalloc(1, sizeof *l);

    l->p = p;
    l->v = xcalloc(max, sizeof *l->v);
    return l;
}

static void event_load_end(struct event_load *l)
{
    struct push *p = l->p;

    if (l->failed) {
        metric_add_l(M_push_failures, "events", 1);
        push_load_failed(p);
    }
    for (size_t i = 0; i < l->n; i++) {
        struct push_event *ev = l->v[i];

        if (l->failed && ev->state == PUSH_EVENT_LOADING) { /* once more; the loader is paced by the tick */
            ev->state = PUSH_EVENT_NEW;
            if (ev->a)
                arena_free(&ev->a);
            ev->a = NULL;
            list_push(&p->events_wanted, &ev->wanted);
        } else if (ev->state == PUSH_EVENT_LOADING) {
            ev->state = ev->a ? PUSH_EVENT_READY : PUSH_EVENT_GONE;
        }
        push_event_unref(p, &ev);
    }
    p->events_loading--;
    free(l->v);
    free(l);
    push_waiting_advance(p);
}

/* user_id, display_name, sender of a nameless room's first members, with the number of all. */
enum { MEM_ROOM, MEM_USER, MEM_NAME, MEM_SENDER, MEM_TOTAL, MEM_THIRD_PARTY };

static void members_take(struct push_event *ev, const struct pg_result *r)
{
    int rows = pg_rows(r);
    size_t n = 0;

    ev->members = ARENA_ARRAY(ev->a, struct push_member, MEMBERS_SHOWN);
    for (int i = 0; i < rows && n < MEMBERS_SHOWN; i++) {
        if (!str_eq(pg_str(r, i, MEM_ROOM), pstr_str(ev->room)))
            continue;
        ev->members[n++] =
            (struct push_member){keep(ev, pg_str(r, i, MEM_USER)), keep(ev, pg_str(r, i, MEM_NAME)),
                                 keep(ev, pg_str(r, i, MEM_SENDER))};
        ev->members_total = pg_i64(r, i, MEM_TOTAL);
        ev->third_party_invites = pg_i64(r, i, MEM_THIRD_PARTY) != 0;
    }
    ev->members_count = n;
}

static void on_members(void *arg, int err, const struct pg_result *r)
{
    struct event_load *l = arg;

    if (err)
        l->failed = true;
    else
        for (size_t i = 0; i < l->n; i++)
            if (l->v[i]->nameless && l->v[i]->a)
                members_take(l->v[i], r);
    event_load_end(l);
}

/* When event and names are in: whoever has no name needs its members. */
static void event_load_next(struct event_load *l)
{
    struct str *rooms = xcalloc(l->n + 1, sizeof *rooms);
    size_t n = 0;

    for (size_t i = 0; i < l->n && !l->failed; i++) {
        struct push_event *ev = l->v[i];

        ev->nameless = ev->nameless && ev->a && str_absent(ev->room_name);
        if (ev->nameless)
            rooms[n++] = pstr_str(ev->room);
    }
    if (n > 0) {
        struct pg_args *args = pg_args_new();
        pg_args_text_array(args, rooms, n);
        pg_exec(l->p->pg, SQL_push_members, args, on_members, l);
    } else {
        event_load_end(l);
    }
    free(rooms);
}

enum { NAME_EVENT, NAME_TYPE, NAME_STATE_KEY, NAME_JSON };

static bool is_alias(struct str s)
{
    return s.n > 2 && s.p[0] == '#' && str_find(s, ':') > 0 && memchr(s.p, '\n', s.n) == NULL &&
           s.p[s.n - 1] != ':';
}

static void name_take(struct push_event *ev, struct str type, const struct json *event)
{
    if (str_eq(type, STR("m.room.member"))) {
        struct str name = content_name(event, STR("displayname"));
        ev->sender_name = keep(ev, str_absent(name) ? ev->sender : name);
    } else if (str_eq(type, STR("m.room.name"))) {
        struct str name = content_name(event, STR("name"));
        if (!str_absent(name))
            ev->room_name = keep(ev, name);
    } else if (str_absent(ev->room_name)) {
        struct str alias = content_name(event, STR("alias"));
        if (!str_absent(alias) && is_alias(alias))
            ev->room_name = keep(ev, alias);
    }
}

/* Names come in the order of their types: the alias before the name, which wins. */
static void names_apply(struct event_load *l, const struct pg_result *r)
{
    struct arena *tree = arena_new(EVENT_BYTES_MAX);

    for (int i = 0; i < pg_rows(r); i++) {
        struct push_event *ev = smap_get(&l->p->events, pg_str(r, i, NAME_EVENT));
        struct json *event = NULL;

        arena_reset(tree);
        if (!ev || !ev->a || !ev->nameless || pg_str(r, i, NAME_JSON).n > EVENT_BYTES_MAX / 8 ||
            json_parse(tree, pg_str(r, i, NAME_JSON), &event) != 0)
            continue;
        name_take(ev, pg_str(r, i, NAME_TYPE), event);
    }
    arena_free(&tree);
}

static void on_names(void *arg, int err, const struct pg_result *r)
{
    struct event_load *l = arg;

    if (err)
        l->failed = true;
    else
        names_apply(l, r);
    event_load_next(l);
}

/* The names are asked for when the events are here: an outlier has none in the state. */
static void on_events(void *arg, int err, const struct pg_result *r)
{
    struct event_load *l = arg;
    struct str *ids;
    size_t n = 0;

    l->failed = err != 0;
    for (int i = 0; !err && i < pg_rows(r); i++) {
        struct push_event *ev = smap_get(&l->p->events, pg_str(r, i, EV_ID));
        if (ev && ev->state == PUSH_EVENT_LOADING && !ev->a)
            event_take(l->p, ev, r, i);
    }
    ids = xcalloc(l->n + 1, sizeof *ids);
    for (size_t i = 0; i < l->n; i++)
        if (l->v[i]->a && l->v[i]->nameless)
            ids[n++] = l->v[i]->event_id;
    if (n > 0) {
        struct pg_args *args = pg_args_new();
        pg_args_text_array(args, ids, n);
        pg_exec(l->p->pg, SQL_push_names, args, on_names, l);
    } else {
        event_load_end(l);
    }
    free(ids);
}

void push_events_load(struct push *p)
{
    while (!list_empty(&p->events_wanted)) {
        struct event_load *l = event_load_new(p, EVENTS_PER_LOAD);
        struct str *ids = xcalloc(EVENTS_PER_LOAD, sizeof *ids);
        struct pg_args *args = pg_args_new();
        struct push_event *ev;

        list_each(ev, &p->events_wanted, struct push_event, wanted) {
            if (l->n == EVENTS_PER_LOAD)
                break;
            list_del(&ev->wanted);
            if (ev->state != PUSH_EVENT_NEW)
                continue;
            ev->state = PUSH_EVENT_LOADING;
            ev->refs++;
            ids[l->n] = ev->event_id;
            l->v[l->n++] = ev;
        }
        pg_args_text_array(args, ids, l->n);
        free(ids);
        p->events_loading++;
        pg_exec(p->pg, SQL_push_events, args, on_events, l);
    }
}

/* ---- the name of a nameless room ---- */

static struct str shown(const struct push_member *m)
{
    return m->display_name.n > 0 ? m->display_name : m->user_id;
}

struct str push_room_name(const struct push_event *ev, struct str user_id, struct arena *scratch)
{
    const struct push_member *others[MEMBERS_SHOWN], *me = NULL;
    size_t n = 0;
    int64_t count = ev->members_total;

    if (!ev->nameless)
        return ev->room_name;
    for (size_t i = 0; i < ev->members_count; i++) {
        if (str_eq(ev->members[i].user_id, user_id))
            me = &ev->members[i];
        else
            others[n++] = &ev->members[i];
    }
    /* One's own invitation: its sender is known or not. */
    if (str_eq(ev->state_key, user_id) && str_eq(ev->membership, STR("invite")))
        return ev->sender_name.n > 0 ? STR_ABSENT : STR("Room Invite");
    /* A reader who is not among the first is among the rest. */
    count -= me || ev->members_total > (int64_t)ev->members_count ? 1 : 0;
    if (count <= 0) {
        if (ev->members_total != 1 || !me)
            return STR("Empty Room");
        if (!str_eq(me->sender, user_id))
            return shown(me);
        return ev->third_party_invites ? STR("Inviting email address") : STR("nobody");
    }
    if (count == 1)
        return STR_ABSENT;
    if (count == 2 && n >= 2)
        return arena_printf(scratch, "%.*s and %.*s", STR_ARG(shown(others[0])), STR_ARG(shown(others[1])));
    return arena_printf(scratch, "%.*s and %lld others", STR_ARG(shown(others[0])), (long long)count - 1);
}
