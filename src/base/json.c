/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * JSON trees: reading members, building, changing, comparing. Nodes live in an arena and are never freed one
 * by one. Looking up a member walks the list of members: objects of events are small, and whoever needs many
 * lookups in a large one makes a map. Comparing large objects makes one, so that hostile sizes stay linear.
 */
#include "base_int.h"
#include "chappe/map.h"
#include <stdio.h>

enum { COMPARE_LINEAR_MAX = 32 };

struct json *json_get(const struct json *obj, struct str key)
{
    if (!json_is_object(obj))
        return NULL;
    for (struct json *m = obj->child; m; m = m->next)
        if (str_eq(m->key, key))
            return m;
    return NULL;
}

struct json *json_path(const struct json *obj, const char *dotted)
{
    struct str head, rest = str_of(dotted);
    struct json *v = NULL;
    for (bool more = true; more; obj = v) {
        more = str_cut(rest, '.', &head, &rest);
        v = json_get(obj, head);
        if (!v)
            return NULL;
    }
    return v;
}

struct str json_str(const struct json *v)
{
    return v && v->type == JSON_STRING ? v->s : STR_ABSENT;
}

struct str json_get_str(const struct json *obj, struct str key)
{
    return json_str(json_get(obj, key));
}

bool json_int(const struct json *v, int64_t *out)
{
    return v && v->type == JSON_NUMBER && str_to_i64(v->s, out) == 0;
}

bool json_is_true(const struct json *v)
{
    return v && v->type == JSON_TRUE;
}

bool json_is_object(const struct json *v)
{
    return v && v->type == JSON_OBJECT;
}

bool json_is_array(const struct json *v)
{
    return v && v->type == JSON_ARRAY;
}

struct json *json_new(struct arena *a, enum json_type t)
{
    struct json *v = ARENA_NEW(a, struct json);
    v->type = t;
    if (t == JSON_STRING)
        v->s = STR("");
    else if (t == JSON_NUMBER)
        v->s = STR("0");
    return v;
}

struct json *json_new_str(struct arena *a, struct str s)
{
    struct json *v = json_new(a, JSON_STRING);
    if (!str_absent(s))
        v->s = s;
    return v;
}

struct json *json_new_int(struct arena *a, int64_t n)
{
    struct json *v = json_new(a, JSON_NUMBER);
    v->s = arena_printf(a, "%lld", (long long)n);
    return v;
}

struct json *json_new_bool(struct arena *a, bool b)
{
    return json_new(a, b ? JSON_TRUE : JSON_FALSE);
}

static void append(struct json *parent, struct json *value)
{
    value->next = NULL;
    if (parent->last)
        parent->last->next = value;
    else
        parent->child = value;
    parent->last = value;
    parent->count++;
}

void json_add(struct json *obj, struct str key, struct json *value)
{
    ASSERT(json_is_object(obj));
    value->key = key;
    append(obj, value);
}

void json_set(struct json *obj, struct str key, struct json *value)
{
    ASSERT(json_is_object(obj));
    for (struct json *prev = NULL, *m = obj->child; m; prev = m, m = m->next) {
        if (!str_eq(m->key, key))
            continue;
        value->key = key;
        if (m == value)
            return;
        value->next = m->next;
        if (prev)
            prev->next = value;
        else
            obj->child = value;
        if (obj->last == m)
            obj->last = value;
        m->next = NULL;
        return;
    }
    json_add(obj, key, value);
}

struct json *json_remove(struct json *obj, struct str key)
{
    if (!json_is_object(obj))
        return NULL;
    for (struct json *prev = NULL, *m = obj->child; m; prev = m, m = m->next) {
        if (!str_eq(m->key, key))
            continue;
        if (prev)
            prev->next = m->next;
        else
            obj->child = m->next;
        if (obj->last == m)
            obj->last = prev;
        obj->count--;
        m->next = NULL;
        return m;
    }
    return NULL;
}

void json_push(struct json *arr, struct json *value)
{
    ASSERT(json_is_array(arr));
    append(arr, value);
}

/* Recursion is bounded: trees come from json_parse() or from our own code. */
struct json *json_clone(struct arena *a, const struct json *v)
{
    struct json *copy = ARENA_NEW(a, struct json);
    copy->type = v->type;
    if (!str_absent(v->s))
        copy->s = arena_str(a, v->s);
    json_each(m, v) {
        struct json *child = json_clone(a, m);
        if (!str_absent(m->key))
            child->key = arena_str(a, m->key);
        append(copy, child);
    }
    return copy;
}

static bool object_equal(const struct json *a, const struct json *b)
{
    struct smap index;
    bool same = true, linear = b->count <= COMPARE_LINEAR_MAX;
    smap_init(&index);
    if (!linear)
        json_each(m, b)
            smap_put(&index, m->key, m);
    for (const struct json *m = a->child; m && same; m = m->next)
        same = json_equal(m, linear ? json_get(b, m->key) : smap_get(&index, m->key));
    smap_fini(&index);
    return same;
}

bool json_equal(const struct json *a, const struct json *b)
{
    if (!a || !b || a->type != b->type || a->count != b->count || !str_eq(a->s, b->s))
        return a == b;
    if (a->type == JSON_OBJECT)
        return object_equal(a, b);
    const struct json *x = a->child, *y = b->child;
    while (x && json_equal(x, y)) {
        x = x->next;
        y = y->next;
    }
    return !x;
}
