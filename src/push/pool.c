/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Strings that repeat and push actions that repeat, kept once and counted.
 *
 * Rooms and threads are compared by address all over this module. Actions come from the users' push rules, so
 * a handful of texts stands in nearly all rows; what a peer invents lives as long as a notification needs it.
 */
#include "push_int.h"

struct pstr *pstr_ref(struct push *p, struct str s)
{
    struct pstr *found = smap_get(&p->strings, s);

    if (!found) {
        found = xmalloc(sizeof *found + s.n + 1);
        found->refs = 0;
        found->n = (uint32_t)s.n;
        if (s.n)
            memcpy(found->p, s.p, s.n);
        found->p[s.n] = 0;
        smap_put(&p->strings, pstr_str(found), found);
    }
    found->refs++;
    return found;
}

void pstr_unref(struct push *p, struct pstr **sp)
{
    struct pstr *s = *sp;

    *sp = NULL;
    if (!s || --s->refs > 0)
        return;
    smap_del(&p->strings, pstr_str(s));
    free(s);
}

/* ---- actions (Synapse 1.157 storage/databases/main/event_push_actions.py: _deserialize_action) ---- */

/* What the empty text stands for. */
static const char DEFAULT_NOTIFY[] = "[\"notify\",{\"set_tweak\":\"highlight\",\"value\":false}]";
static const char DEFAULT_HIGHLIGHT[] =
    "[\"notify\",{\"set_tweak\":\"sound\",\"value\":\"default\"},{\"set_tweak\":\"highlight\"}]";

/* Python's idea of truth. */
static bool truthy(const struct json *v)
{
    switch (v ? v->type : JSON_NULL) {
    case JSON_NULL:
    case JSON_FALSE:
        return false;
    case JSON_TRUE:
        return true;
    case JSON_NUMBER:
        for (size_t i = 0; i < v->s.n && v->s.p[i] != 'e'; i++)
            if (v->s.p[i] >= '1' && v->s.p[i] <= '9')
                return true;
        return false;
    case JSON_STRING:
        return v->s.n > 0;
    default:
        return v->count > 0;
    }
}

static void understand(struct push *p, struct push_tweaks *t, struct str actions, bool highlight)
{
    struct json *list = NULL, *tweaks;

    if (actions.n == 0)
        actions = str_of(highlight ? DEFAULT_HIGHLIGHT : DEFAULT_NOTIFY);
    arena_reset(p->scratch);
    if (json_parse(p->scratch, actions, &list) != 0 || !json_is_array(list)) {
        metric_add_l(M_push_skipped, "bad actions", 1);
        return;
    }
    tweaks = json_new(p->scratch, JSON_OBJECT);
    json_each(action, list) {
        struct str name = json_get_str(action, STR("set_tweak"));
        struct json *value = json_get(action, STR("value"));

        if (action->type == JSON_STRING && str_eq(action->s, STR("notify")))
            t->notify = true;
        if (!str_absent(name))
            json_set(tweaks, name, value ? json_clone(p->scratch, value) : json_new_bool(p->scratch, true));
    }
    t->high = truthy(json_get(tweaks, STR("sound"))) || truthy(json_get(tweaks, STR("highlight")));
    if (tweaks->count > 0) {
        struct buf b;

        buf_init(&b, DATA_BYTES_MAX);
        json_write(&b, tweaks, JSON_SORTED | JSON_UTF8);
        if (!b.failed)
            t->json = str_dup(buf_str(&b));
        buf_fini(&b);
    }
}

struct push_tweaks *tweaks_ref(struct push *p, struct str actions, bool highlight)
{
    struct push_tweaks *t;
    struct buf key;

    buf_init(&key, DATA_BYTES_MAX + 1);
    buf_putc(&key, highlight ? 'h' : '-');
    buf_put(&key, actions);
    t = smap_get(&p->tweaks, buf_str(&key));
    if (!t) {
        t = xcalloc(1, sizeof *t);
        t->text = str_dup(buf_str(&key));
        smap_put(&p->tweaks, t->text, t);
        if (!key.failed)
            understand(p, t, actions, highlight);
    }
    t->refs++;
    buf_fini(&key);
    return t;
}

void tweaks_unref(struct push *p, struct push_tweaks **tp)
{
    struct push_tweaks *t = *tp;

    *tp = NULL;
    if (!t || --t->refs > 0)
        return;
    smap_del(&p->tweaks, t->text);
    free((void *)t->text.p);
    free((void *)t->json.p);
    free(t);
}
