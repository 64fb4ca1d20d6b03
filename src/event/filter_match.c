/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Matching of items against filters, without parsing (but for labels and the insides of account data, which
 * hardly anybody uses).
 *
 * Each field is judged on its own: a value in not_X rejects; a given X, even an empty one, must hold a match.
 * The fields differ only in what "match" means: equality, a trailing wildcard for types, membership for
 * labels.
 */
#include "chappe/filter.h"
#include "event_int.h"

typedef bool match_fn(struct str value, struct str pattern);

static bool match_equal(struct str value, struct str pattern)
{
    return !str_absent(value) && str_eq(value, pattern);
}

static bool match_type(struct str value, struct str pattern)
{
    if (str_absent(value))
        return false;
    if (pattern.n && pattern.p[pattern.n - 1] == '*')
        return str_starts(value, str_n(pattern.p, pattern.n - 1));
    return str_eq(value, pattern);
}

/* content["org.matrix.labels"]: an element of a list, a part of a string, a key of an object. */
static bool match_label(struct str labels_json, struct str pattern)
{
    if (str_absent(labels_json))
        return false;
    struct arena *a = arena_new(event_arena_max(labels_json.n));
    struct json *v;
    bool hit = false;
    if (json_parse(a, labels_json, &v) == 0) {
        if (v->type == JSON_STRING) {
            hit = pattern.n == 0 || memmem(v->s.p, v->s.n, pattern.p, pattern.n) != NULL;
        } else {
            json_each(c, v)
                hit = hit || match_equal(v->type == JSON_OBJECT ? c->key : json_str(c), pattern);
        }
    }
    arena_free(&a);
    return hit;
}

static bool any(match_fn *match, struct str value, const struct str *patterns, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (match(value, patterns[i]))
            return true;
    return false;
}

#define FIELD(match, value, s, x)                              \
    (!any(match, value, (s)->not_##x, (s)->not_##x##_count) && \
     (!(s)->has_##x || any(match, value, (s)->x, (s)->x##_count)))

bool filter_match(const struct filter_section *s, const struct filter_item *it)
{
    if (s->empty)
        return true;
    struct str sender = it->sender.n ? it->sender : it->content_user_id;
    return FIELD(match_equal, it->room_id, s, rooms) && FIELD(match_equal, sender, s, senders) &&
           FIELD(match_type, it->type, s, types) && FIELD(match_label, it->labels_json, s, labels) &&
           FIELD(match_equal, it->rel_type, s, rel_types) &&
           (s->contains_url < 0 || it->contains_url == (s->contains_url == 1));
}

/* The room id of rooms from version 12 on is made from the create event, which hence has none inside:
 * Synapse's filters do not see it in any room (1.157 api/filtering.py, Filter._check). */
static struct str seen_room_id(const struct event *ev)
{
    bool hidden = ev->version && ev->version->create_id_is_room_id && str_eq(ev->type, STR("m.room.create"));
    return hidden ? STR_ABSENT : ev->room_id;
}

bool filter_match_event(const struct filter *f, const struct filter_section *s, const struct event *ev)
{
    if (f->room.empty && s->empty)
        return true;
    struct filter_item it = {
        .type = ev->type,
        .sender = ev->sender,
        .room_id = seen_room_id(ev),
        .content_user_id = ev->content_user_id,
        .labels_json = ev->labels_json,
        .rel_type = ev->rel_type,
        .contains_url = ev->contains_url,
    };
    return filter_match(&f->room, &it) && filter_match(s, &it);
}

static bool looks_inside(const struct filter_section *s)
{
    return s->has_senders || s->not_senders_count || s->has_labels || s->not_labels_count ||
           s->has_rel_types || s->not_rel_types_count || s->contains_url >= 0;
}

bool filter_match_datum(const struct filter_section *s, const struct filter_section *room, struct str type,
                        struct str content)
{
    struct filter_item it = {.type = type};
    struct arena *a = NULL;
    struct json *v;
    if (!s->empty && looks_inside(s)) {
        a = arena_new(event_arena_max(content.n));
        if (json_parse(a, content, &v) == 0 && v->type == JSON_OBJECT) {
            const struct json *labels = json_get(v, STR("org.matrix.labels"));
            it.content_user_id = json_get_str(v, STR("user_id"));
            it.contains_url = !str_absent(json_get_str(v, STR("url")));
            it.labels_json = labels ? event_json_text(labels, a) : STR_ABSENT;
            it.rel_type = json_get_str(json_get(v, STR("m.relates_to")), STR("rel_type"));
        }
    }
    bool matches = filter_match(s, &it) && (!room || filter_match(room, &it));
    arena_free(&a);
    return matches;
}

/* Presence knows its sender and its type, and its type without wildcards. */
bool filter_match_presence(const struct filter *f, struct str user_id)
{
    const struct filter_section *s = &f->presence;
    return s->empty ||
           (FIELD(match_equal, user_id, s, senders) && FIELD(match_equal, STR("m.presence"), s, types));
}

static bool blocks(bool has, size_t count, const struct str *not_list, size_t not_count)
{
    return (has && count == 0) || any(match_equal, STR("*"), not_list, not_count);
}

bool filter_blocks_section(const struct filter_section *s, bool with_rooms)
{
    return blocks(s->has_types, s->types_count, s->not_types, s->not_types_count) ||
           blocks(s->has_senders, s->senders_count, s->not_senders, s->not_senders_count) ||
           (with_rooms && blocks(s->has_rooms, s->rooms_count, s->not_rooms, s->not_rooms_count));
}

bool filter_blocks_all_rooms(const struct filter *f)
{
    return blocks(f->room.has_rooms, f->room.rooms_count, f->room.not_rooms, f->room.not_rooms_count);
}

void filter_split_field(struct arena *a, struct str field, struct str **parts, size_t *count)
{
    /* A dot separates unless an odd number of backslashes stands before it. */
    *parts = ARENA_ARRAY(a, struct str, field.n + 1);
    *count = 0;
    char *w = arena_alloc(a, field.n + 1), *start = w;
    for (size_t i = 0; i < field.n; i++) {
        char c = field.p[i];
        bool more = i + 1 < field.n;
        if (c == '.') {
            (*parts)[(*count)++] = str_n(start, (size_t)(w - start));
            start = w;
        } else if (c == '\\' && more && (field.p[i + 1] == '.' || field.p[i + 1] == '\\')) {
            *w++ = field.p[++i];
        } else {
            *w++ = c;
        }
    }
    (*parts)[(*count)++] = str_n(start, (size_t)(w - start));
}
