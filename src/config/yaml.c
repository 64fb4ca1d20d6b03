/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * YAML text to trees that remember file and line.
 *
 * libyaml's event parser drives one stack of open collections; finished nodes live in an arena. Scalars keep
 * their text and whether they were quoted: what a plain scalar means is asked later, by the rules of YAML 1.1
 * as Python's loader applies them, because that is what the operator's files were written for.
 *
 * An alias shares the node of its anchor, so aliases cost no memory however often they are nested; a merge
 * key
 * ("<<") is resolved when its map closes, keys of the map itself winning, then those of earlier merged maps.
 * Depth and number of nodes are bounded: a hostile or broken file ends in an error, not in exhaustion.
 */
#include "config_int.h"

#include <stdlib.h>
#include <yaml.h>

enum { DEPTH_MAX = 64, NODES_MAX = 1000000 };

struct open_node {
    struct yaml *node;
    struct yaml *key; /* map: the key whose value comes next */
    VEC(struct yaml *) items;
    VEC(struct yaml_pair) pairs;
};
struct anchor {
    struct str name;
    struct yaml *node;
    bool open; /* the node is not finished: an alias to it would make a cycle */
};
struct builder {
    struct arena *a;
    const char *file;
    struct err *e;
    yaml_parser_t parser;
    struct open_node stack[DEPTH_MAX];
    int depth;
    size_t nodes;
    int documents;
    VEC(struct anchor) anchors;
    struct yaml *root;
};

static int bad(struct builder *b, size_t line, const char *text)
{
    return err_set(b->e, ERR_CONFIG, "%s:%zu: %s", b->file, line + 1, text);
}

static struct yaml *node_new(struct builder *b, const yaml_event_t *ev, enum yaml_kind kind,
                             const yaml_char_t *tag)
{
    struct yaml *n = ARENA_NEW(b->a, struct yaml);
    struct str t = str_of((const char *)tag);

    n->kind = kind;
    n->line = (int)ev->start_mark.line + 1;
    n->file = b->file;
    if (str_eq(t, STR("tag:yaml.org,2002:str")) || str_eq(t, STR("!")))
        n->tag = YAML_TAG_STR;
    else if (t.n > 0)
        n->tag = YAML_TAG_OTHER;
    return n;
}

static void anchor_set(struct builder *b, const yaml_char_t *name, struct yaml *n, bool open)
{
    if (!name)
        return;
    struct anchor anchor = {arena_str(b->a, str_of((const char *)name)), n, open};
    vec_push(&b->anchors, anchor);
}

/* The latest anchor of that name. */
static struct anchor *anchor_find(struct builder *b, struct str name)
{
    for (size_t i = b->anchors.n; i > 0; i--)
        if (str_eq(b->anchors.v[i - 1].name, name))
            return &b->anchors.v[i - 1];
    return NULL;
}

/* Puts a finished (or, for collections, just opened) node where it belongs. */
static int node_place(struct builder *b, struct yaml *n, size_t line)
{
    if (++b->nodes > NODES_MAX)
        return bad(b, line, "too many YAML nodes");
    if (b->depth == 0) {
        b->root = n;
        return 0;
    }
    struct open_node *o = &b->stack[b->depth - 1];
    if (o->node->kind == YAML_LIST) {
        vec_push(&o->items, n);
    } else if (!o->key) {
        if (n->kind != YAML_SCALAR)
            return bad(b, line, "a key must be a plain value, not a list or a map");
        o->key = n;
    } else {
        struct yaml_pair pair = {o->key->text, o->key, n};
        vec_push(&o->pairs, pair);
        o->key = NULL;
    }
    return 0;
}

static int collection_open(struct builder *b, struct yaml *n, size_t line)
{
    int rc = node_place(b, n, line);

    if (rc < 0)
        return rc;
    if (b->depth == DEPTH_MAX)
        return bad(b, line, "YAML nested too deeply");
    b->stack[b->depth++] = (struct open_node){.node = n};
    return 0;
}

static bool pairs_have(const struct open_node *o, struct str key)
{
    for (size_t i = 0; i < o->pairs.n; i++)
        if (str_eq(o->pairs.v[i].key, key))
            return true;
    return false;
}

static int merge_one(struct builder *b, struct open_node *o, const struct yaml *from, size_t line)
{
    if (from->kind != YAML_MAP)
        return bad(b, line, "the merge key << takes a map or a list of maps");
    for (size_t i = 0; i < from->count; i++) {
        /* Of equal keys in the merged map its last one counts: look it up. */
        if (pairs_have(o, from->pairs[i].key))
            continue;
        struct yaml_pair pair = from->pairs[i];
        for (size_t j = i + 1; j < from->count; j++)
            if (str_eq(from->pairs[j].key, pair.key))
                pair = from->pairs[j];
        if (++b->nodes > NODES_MAX)
            return bad(b, line, "too many YAML nodes");
        vec_push(&o->pairs, pair);
    }
    return 0;
}

static int merges_resolve(struct builder *b, struct open_node *o)
{
    for (size_t i = 0; i < o->pairs.n; i++) {
        struct yaml_pair p = o->pairs.v[i];
        if (!p.key_node->plain || !str_eq(p.key, STR("<<")))
            continue;
        size_t line = (size_t)p.key_node->line - 1;
        memmove(&o->pairs.v[i], &o->pairs.v[i + 1], (o->pairs.n - i - 1) * sizeof o->pairs.v[0]);
        o->pairs.n--;
        i--;
        int rc = 0;
        if (p.value->kind != YAML_LIST)
            rc = merge_one(b, o, p.value, line);
        for (size_t j = 0; p.value->kind == YAML_LIST && rc == 0 && j < p.value->count; j++)
            rc = merge_one(b, o, p.value->items[j], line);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int collection_close(struct builder *b)
{
    struct open_node *o = &b->stack[b->depth - 1];
    struct yaml *n = o->node;
    int rc = merges_resolve(b, o);

    n->count = n->kind == YAML_LIST ? o->items.n : o->pairs.n;
    if (o->items.n > 0) {
        n->items = ARENA_ARRAY(b->a, struct yaml *, o->items.n);
        memcpy(n->items, o->items.v, o->items.n * sizeof o->items.v[0]);
    }
    if (o->pairs.n > 0) {
        n->pairs = ARENA_ARRAY(b->a, struct yaml_pair, o->pairs.n);
        memcpy(n->pairs, o->pairs.v, o->pairs.n * sizeof o->pairs.v[0]);
    }
    vec_free(&o->items);
    vec_free(&o->pairs);
    b->depth--;
    for (size_t i = b->anchors.n; i > 0; i--)
        if (b->anchors.v[i - 1].node == n)
            b->anchors.v[i - 1].open = false;
    return rc;
}

static int alias_place(struct builder *b, const yaml_event_t *ev)
{
    struct anchor *anchor = anchor_find(b, str_of((const char *)ev->data.alias.anchor));

    if (!anchor)
        return bad(b, ev->start_mark.line, "alias of an anchor that does not exist");
    if (anchor->open)
        return bad(b, ev->start_mark.line, "alias inside its own anchor");
    return node_place(b, anchor->node, ev->start_mark.line);
}

static int on_event(struct builder *b, const yaml_event_t *ev)
{
    struct yaml *n;

    switch (ev->type) {
    case YAML_DOCUMENT_START_EVENT:
        return ++b->documents > 1 ? bad(b, ev->start_mark.line, "more than one YAML document in this file")
                                  : 0;
    case YAML_SCALAR_EVENT:
        n = node_new(b, ev, YAML_SCALAR, ev->data.scalar.tag);
        n->plain = ev->data.scalar.plain_implicit;
        n->text = arena_str(b->a, str_n((const char *)ev->data.scalar.value, ev->data.scalar.length));
        anchor_set(b, ev->data.scalar.anchor, n, false);
        return node_place(b, n, ev->start_mark.line);
    case YAML_SEQUENCE_START_EVENT:
        n = node_new(b, ev, YAML_LIST, ev->data.sequence_start.tag);
        anchor_set(b, ev->data.sequence_start.anchor, n, true);
        return collection_open(b, n, ev->start_mark.line);
    case YAML_MAPPING_START_EVENT:
        n = node_new(b, ev, YAML_MAP, ev->data.mapping_start.tag);
        anchor_set(b, ev->data.mapping_start.anchor, n, true);
        return collection_open(b, n, ev->start_mark.line);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        return collection_close(b);
    case YAML_ALIAS_EVENT:
        return alias_place(b, ev);
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_END_EVENT:
        break;
    }
    return 0;
}

static int parse_error(struct builder *b)
{
    const yaml_parser_t *p = &b->parser;

    if (p->error == YAML_READER_ERROR) /* libyaml gives an offset instead of a line */
        return err_set(b->e, ERR_CONFIG, "%s: byte %zu: %s", b->file, p->problem_offset,
                       p->problem ? p->problem : "unreadable");
    return err_set(b->e, ERR_CONFIG, "%s:%zu: %s%s%s", b->file, p->problem_mark.line + 1,
                   p->context ? p->context : "", p->context ? ": " : "",
                   p->problem ? p->problem : "not YAML");
}

int yaml_parse(struct arena *a, const char *file, struct str text, struct yaml **out, struct err *e)
{
    struct builder *b = xcalloc(1, sizeof *b);
    bool end = false;
    int rc = 0;

    b->a = a;
    b->file = arena_str(a, str_of(file)).p;
    b->e = e;
    *out = NULL;
    if (!yaml_parser_initialize(&b->parser)) {
        free(b);
        return err_set(e, ERR_NOMEM, "%s: out of memory", file);
    }
    yaml_parser_set_input_string(&b->parser, (const unsigned char *)(text.n ? text.p : ""), text.n);
    while (rc == 0 && !end) {
        yaml_event_t ev;
        if (!yaml_parser_parse(&b->parser, &ev)) {
            rc = parse_error(b);
            break;
        }
        end = ev.type == YAML_STREAM_END_EVENT;
        rc = on_event(b, &ev);
        yaml_event_delete(&ev);
    }
    if (rc == 0)
        *out = b->root;
    while (b->depth > 0) {
        b->depth--;
        vec_free(&b->stack[b->depth].items);
        vec_free(&b->stack[b->depth].pairs);
    }
    vec_free(&b->anchors);
    yaml_parser_delete(&b->parser);
    free(b);
    return rc;
}

struct yaml *yaml_get(const struct yaml *map, const char *key)
{
    if (!map || map->kind != YAML_MAP)
        return NULL;
    for (size_t i = map->count; i > 0; i--)
        if (str_eq(map->pairs[i - 1].key, str_of(key)))
            return map->pairs[i - 1].value;
    return NULL;
}

/* --- what a scalar means --- */

static bool is_plain(const struct yaml *n)
{
    return n && n->kind == YAML_SCALAR && n->plain && n->tag != YAML_TAG_STR;
}

static bool one_of(struct str s, const char *const *words)
{
    for (; *words; words++)
        if (str_eq(s, str_of(*words)))
            return true;
    return false;
}

bool yaml_is_null(const struct yaml *n)
{
    static const char *const words[] = {"", "~", "null", "Null", "NULL", NULL};

    return !n || (is_plain(n) && one_of(n->text, words));
}

bool yaml_bool(const struct yaml *n, bool *out)
{
    static const char *const yes[] = {"yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", NULL};
    static const char *const no[] = {"no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF", NULL};

    if (!is_plain(n))
        return false;
    *out = one_of(n->text, yes);
    return *out || one_of(n->text, no);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* digits of one base, '_' ignored; at least one. False on anything else and on overflow. */
static bool digits_parse(struct str s, int base, int64_t *out)
{
    int64_t v = 0;
    bool any = false;

    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        int d = is_digit(c) ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : 99;
        if (c == '_')
            continue;
        if (d >= base || __builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, d, &v))
            return false;
        any = true;
    }
    *out = v;
    return any;
}

/* 1:30 is ninety: YAML 1.1 thinks of hours, and Python follows. */
static bool sexagesimal_parse(struct str s, int64_t *out)
{
    int64_t v = 0, d;
    struct str part, rest;

    if (s.n == 0 || s.p[0] < '1' || s.p[0] > '9' || str_find(s, ':') < 0)
        return false;
    for (bool more = true, first = true; more; first = false, s = rest) {
        more = str_cut(s, ':', &part, &rest);
        if (!digits_parse(part, 10, &d) || (!first && (part.n > 2 || d > 59)))
            return false;
        if (__builtin_mul_overflow(v, 60, &v) || __builtin_add_overflow(v, d, &v))
            return false;
    }
    *out = v;
    return true;
}

bool yaml_int(const struct yaml *n, int64_t *out)
{
    bool negative, ok;

    if (!is_plain(n) || n->text.n == 0)
        return false;
    struct str s = n->text;
    negative = s.p[0] == '-';
    if (s.p[0] == '-' || s.p[0] == '+')
        s = str_n(s.p + 1, s.n - 1);
    if (s.n == 0 || !is_digit(s.p[0]))
        return false;
    if (str_starts(s, STR("0b")))
        ok = digits_parse(str_n(s.p + 2, s.n - 2), 2, out);
    else if (str_starts(s, STR("0x")))
        ok = digits_parse(str_n(s.p + 2, s.n - 2), 16, out);
    else if (s.p[0] == '0' && s.n > 1)
        ok = digits_parse(str_n(s.p + 1, s.n - 1), 8, out);
    else
        ok = digits_parse(s, 10, out) || sexagesimal_parse(s, out);
    if (ok && negative)
        *out = -*out;
    return ok;
}

bool yaml_double(const struct yaml *n, double *out)
{
    int64_t v;
    char *end;

    if (yaml_int(n, &v)) {
        *out = (double)v;
        return true;
    }
    /* A number without a point is an integer or a string ("1e3"). */
    if (!is_plain(n) || str_find(n->text, '.') < 0 || n->text.n > 64)
        return false;
    for (size_t i = 0; i < n->text.n; i++)
        if (!is_digit(n->text.p[i]) && !strchr("+-.eE", n->text.p[i]))
            return false;
    *out = strtod(n->text.p, &end);
    return end == n->text.p + n->text.n && end != n->text.p;
}

bool yaml_is_string(const struct yaml *n)
{
    bool b;
    double d;

    return n && n->kind == YAML_SCALAR && !yaml_is_null(n) && !yaml_bool(n, &b) && !yaml_double(n, &d);
}
