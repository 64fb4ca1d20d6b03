/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The general way to render an event, for the rare filters that ask for the federation format or for some
 * fields only, and what else needs the stored text again: the stripped state of invites and knocks.
 *
 * Everything happens on a tree built for the purpose; the result is private bytes. Field paths pick values
 * out of a finished event, "unsigned" included; bundled relations come afterwards, whatever was picked.
 */
#include "chappe/filter.h"
#include "event_int.h"

static void set_text(struct arena *a, struct json *obj, struct str key, struct str text)
{
    struct json *v;
    if (!str_absent(text) && json_parse(a, text, &v) == 0)
        json_set(obj, key, v);
}

static void set_string(struct arena *a, struct json *obj, struct str key, struct str s)
{
    if (!str_absent(s))
        json_set(obj, key, json_new_str(a, s));
}

static void set_true(struct arena *a, struct json *obj, struct str key, bool set)
{
    if (set)
        json_set(obj, key, json_new_bool(a, true));
}

static struct json *unsigned_build(const struct event *ev, const struct event_extra *x,
                                   const struct event_unsigned *u, struct arena *a)
{
    struct json *o = json_new(a, JSON_OBJECT);
    if (ev->has_age_ts)
        json_set(o, STR("age"), json_new_int(a, (int64_t)((uint64_t)x->now_ms - (uint64_t)ev->age_ts)));
    else if (u->age_ts)
        json_set(o, STR("age_ts"), u->age_ts);
    if (u->replaces_state)
        json_set(o, STR("replaces_state"), u->replaces_state);
    if (str_absent(x->prev_content) && str_absent(x->prev_sender)) {
        if (u->prev_content)
            json_set(o, STR("prev_content"), u->prev_content);
        if (u->prev_sender)
            json_set(o, STR("prev_sender"), u->prev_sender);
    }
    set_text(a, o, STR("prev_content"), x->prev_content);
    set_string(a, o, STR("prev_sender"), x->prev_sender);
    set_text(a, o, STR("invite_room_state"), x->invite_room_state);
    set_text(a, o, STR("knock_room_state"), x->knock_room_state);
    set_string(a, o, STR("transaction_id"), x->transaction_id);
    set_string(a, o, STR("org.matrix.msc4140.delay_id"), x->delay_id);
    set_true(a, o, STR("io.element.synapse.soft_failed"), x->mark_soft_failed);
    set_true(a, o, STR("io.element.synapse.policy_server_spammy"), x->mark_spammy);
    set_string(a, o, STR("membership"), x->membership);
    if (x->sticky_ttl_ms)
        json_set(o, STR("msc4354_sticky_duration_ttl_ms"), json_new_int(a, x->sticky_ttl_ms));
    if (!x->is_because)
        set_string(a, o, STR("redacted_by"), ev->redacted_by);
    set_text(a, o, STR("redacted_because"), x->redacted_because);
    return o;
}

/* ---- fields ---- */

/* Another node for the same value. Whoever reads only may share children. */
static struct json *alias(struct arena *a, const struct json *v)
{
    struct json *copy = json_new(a, v->type);
    copy->s = v->s;
    copy->child = v->child;
    copy->last = v->last;
    copy->count = v->count;
    return copy;
}

/* Puts what the path leads to into to, with the objects on the way. Only objects are descended. Values are
 * shared with from, therefore nothing may be put into an object that is there as a whole: it has everything
 * already. */
static void copy_field(struct arena *a, const struct json *from, struct json *to, const struct str *parts,
                       size_t n)
{
    const struct json *v = from;
    for (size_t i = 0; i < n; i++) {
        v = json_is_object(v) ? json_get(v, parts[i]) : NULL;
        if (!v)
            return;
    }
    for (size_t i = 0; i + 1 < n; i++) {
        from = json_get(from, parts[i]);
        struct json *sub = json_get(to, parts[i]);
        if (sub && sub->child == from->child)
            return;
        if (!sub) {
            sub = json_new(a, JSON_OBJECT);
            json_set(to, parts[i], sub);
        }
        to = sub;
    }
    json_set(to, parts[n - 1], alias(a, v));
}

static struct json *only_fields(struct arena *a, const struct json *root, const struct str *fields,
                                size_t count)
{
    struct json *out = json_new(a, JSON_OBJECT);
    for (size_t i = 0; i < count; i++) {
        struct str *parts;
        size_t n;
        filter_split_field(a, fields[i], &parts, &n);
        copy_field(a, root, out, parts, n);
    }
    return out;
}

void event_render_general(struct event *ev, const struct event_extra *x, bool federation,
                          const struct str *fields, size_t fields_count, struct rope *out)
{
    size_t extra = x->prev_content.n + x->prev_sender.n + x->redacted_because.n + x->relations.n +
                   x->invite_room_state.n + x->knock_room_state.n + x->transaction_id.n + x->delay_id.n +
                   x->membership.n + ev->redacted_by.n;
    size_t fields_bytes = 0;
    for (size_t i = 0; i < fields_count; i++)
        fields_bytes += fields[i].n + 1;
    struct arena *a = arena_new(event_arena_max(ev->source.n + extra + 8 * fields_bytes));
    struct event_unsigned u;
    struct json *root = event_tree(ev, a, federation, &u, NULL);
    json_set(root, STR("unsigned"), unsigned_build(ev, x, &u, a));
    if (fields_count)
        root = only_fields(a, root, fields, fields_count);
    if (!str_absent(x->relations)) {
        struct json *o = json_get(root, STR("unsigned"));
        if (!o) {
            o = json_new(a, JSON_OBJECT);
            json_set(root, STR("unsigned"), o);
        }
        set_text(a, o, STR("m.relations"), x->relations);
    }
    struct buf b;
    buf_init(&b, 4096 + 8 * (ev->block + extra));
    json_write(&b, root, JSON_SORTED);
    ASSERT(!b.failed);
    rope_put(out, buf_str(&b));
    buf_fini(&b);
    arena_free(&a);
}

struct str event_stripped_state(struct event *ev, bool knock, struct arena *a)
{
    if (ev->redacted)
        return STR_ABSENT;
    struct arena *tree = arena_new(event_arena_max(ev->source.n));
    struct event_unsigned u;
    event_tree(ev, tree, false, &u, NULL);
    const struct json *list = knock ? u.knock_room_state : u.invite_room_state;
    struct str s = STR_ABSENT;
    if (list) {
        struct buf b;
        buf_init(&b, 4096 + 8 * ev->source.n);
        json_each(v, list) {
            if (b.n)
                buf_putc(&b, ',');
            json_write(&b, v, JSON_SORTED);
        }
        ASSERT(!b.failed);
        s = arena_str(a, buf_str(&b));
        buf_fini(&b);
    }
    arena_free(&tree);
    return s;
}
