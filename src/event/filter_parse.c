/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Filters: from JSON text to validated, immutable tables.
 *
 * The schema is data: which member of a section has which type, and where its value goes in struct
 * filter_section. As in the reference, unknown members are allowed everywhere, a member of a wrong type
 * anywhere in the schema makes the whole filter invalid, and sections that are not read later (rel_types
 * without the experimental feature) are validated all the same. User ids and room ids must have the form of
 * one. Parsing uses a scratch tree; the filter's own arena holds only what matching needs.
 */
#include "chappe/filter.h"
#include "event_int.h"
#include <arpa/inet.h>
#include <stdlib.h>

enum { FILTER_TEXT_MAX = 1 << 20, TIMELINE_LIMIT_DEFAULT = 10 };

/* ---- identifiers ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* What Python's int() reads, for ASCII: blanks around, a sign, digits with single underscores between. */
static bool port_valid(struct str s)
{
    while (s.n && (s.p[0] == ' ' || (s.p[0] >= '\t' && s.p[0] <= '\r') || (s.p[0] >= 0x1c && s.p[0] <= 0x1f)))
        s = str_n(s.p + 1, s.n - 1);
    while (s.n) {
        char c = s.p[s.n - 1];
        if (c != ' ' && !(c >= '\t' && c <= '\r') && !(c >= 0x1c && c <= 0x1f))
            break;
        s.n--;
    }
    if (s.n && (s.p[0] == '+' || s.p[0] == '-'))
        s = str_n(s.p + 1, s.n - 1);
    for (size_t i = 0; i < s.n; i++)
        if (!is_digit(s.p[i]) && !(s.p[i] == '_' && i > 0 && i + 1 < s.n && is_digit(s.p[i - 1])))
            return false;
    return s.n > 0;
}

static bool ipv6_valid(struct str s)
{
    char z[INET6_ADDRSTRLEN];
    struct in6_addr addr;
    if (!s.n || s.n >= sizeof z || memchr(s.p, 0, s.n))
        return false;
    memcpy(z, s.p, s.n);
    z[s.n] = 0;
    return inet_pton(AF_INET6, z, &addr) == 1;
}

static bool host_valid(struct str s)
{
    bool label = false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c == '.') {
            if (!label)
                return false;
            label = false;
        } else if (is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-') {
            label = true;
        } else {
            return false;
        }
    }
    return label;
}

static bool server_name_valid(struct str s)
{
    struct str host = s;
    if (s.n && s.p[s.n - 1] != ']') {
        const char *colon = memrchr(s.p, ':', s.n);
        if (colon) {
            host = str_n(s.p, (size_t)(colon - s.p));
            if (!port_valid(str_n(colon + 1, (size_t)(s.p + s.n - colon - 1))))
                return false;
        }
    }
    if (host.n && host.p[0] == '[')
        return host.p[host.n - 1] == ']' && host.n > 2 && ipv6_valid(str_n(host.p + 1, host.n - 2));
    return host_valid(host);
}

static bool id_valid(struct str s, char sigil)
{
    struct str localpart, domain;
    return s.n && s.p[0] == sigil && str_cut(str_n(s.p + 1, s.n - 1), ':', &localpart, &domain) &&
           server_name_valid(domain);
}

bool filter_user_id_valid(struct str s)
{
    return id_valid(s, '@');
}

bool filter_room_id_valid(struct str s)
{
    enum { HASH_LENGTH = 43 }; /* SHA-256 in unpadded base64 */
    if (str_find(s, ':') >= 0)
        return id_valid(s, '!');
    if (s.n == 1 + HASH_LENGTH + 1 && s.p[s.n - 1] == '\n') /* the reference's pattern lets it pass */
        s.n--;
    if (s.n != 1 + HASH_LENGTH || s.p[0] != '!')
        return false;
    for (size_t i = 1; i < s.n; i++) {
        char c = s.p[i];
        if (!is_digit(c) && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && c != '-' && c != '_')
            return false;
    }
    return true;
}

/* ---- schema ---- */

enum form { FORM_BOOL, FORM_NUMBER, FORM_STRINGS, FORM_USER_IDS, FORM_ROOM_IDS };
enum scope { IN_EVERY = 1, IN_ROOM_EVENT = 2, IN_EVENT = 4 };
struct rule {
    const char *key;
    enum form form;
    enum scope scope;
};
static const struct rule rules[] = {
    {"limit", FORM_NUMBER, IN_EVERY},
    {"senders", FORM_USER_IDS, IN_EVERY},
    {"not_senders", FORM_USER_IDS, IN_EVERY},
    {"types", FORM_STRINGS, IN_EVERY},
    {"not_types", FORM_STRINGS, IN_EVERY},
    {"org.matrix.msc3874.rel_types", FORM_STRINGS, IN_EVENT},
    {"org.matrix.msc3874.not_rel_types", FORM_STRINGS, IN_EVENT},
    {"rooms", FORM_ROOM_IDS, IN_ROOM_EVENT},
    {"not_rooms", FORM_ROOM_IDS, IN_ROOM_EVENT},
    {"contains_url", FORM_BOOL, IN_ROOM_EVENT},
    {"lazy_load_members", FORM_BOOL, IN_ROOM_EVENT},
    {"include_redundant_members", FORM_BOOL, IN_ROOM_EVENT},
    {"unread_thread_notifications", FORM_BOOL, IN_ROOM_EVENT},
    {"org.matrix.msc3773.unread_thread_notifications", FORM_BOOL, IN_ROOM_EVENT},
    {"org.matrix.labels", FORM_STRINGS, IN_ROOM_EVENT},
    {"org.matrix.not_labels", FORM_STRINGS, IN_ROOM_EVENT},
    {"related_by_senders", FORM_STRINGS, IN_ROOM_EVENT},
    {"related_by_rel_types", FORM_STRINGS, IN_ROOM_EVENT},
};

static bool is_bool(const struct json *v)
{
    return v->type == JSON_TRUE || v->type == JSON_FALSE;
}

static bool is_list(const struct json *v, enum form form)
{
    if (!json_is_array(v))
        return false;
    json_each(c, v) {
        if (c->type != JSON_STRING || (form == FORM_USER_IDS && !filter_user_id_valid(c->s)) ||
            (form == FORM_ROOM_IDS && !filter_room_id_valid(c->s)))
            return false;
    }
    return true;
}

static bool form_fits(const struct json *v, enum form form)
{
    switch (form) {
    case FORM_BOOL:
        return is_bool(v);
    case FORM_NUMBER:
        return v->type == JSON_NUMBER;
    default:
        return is_list(v, form);
    }
}

/* where is "room.timeline" and the like, for the message. */
static int invalid(struct err *e, const char *where, const char *key)
{
    return err_set(e, ERR_PROTOCOL, "Invalid filter: %s%s%s has the wrong form", where, *where ? "." : "",
                   key);
}

static int section_validate(const struct json *parent, const char *key, const char *where, enum scope scope,
                            struct err *e)
{
    const struct json *o = json_get(parent, str_of(key));
    if (!o)
        return 0;
    if (!json_is_object(o))
        return invalid(e, "", where);
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        const struct json *v = json_get(o, str_of(rules[i].key));
        if (v && (rules[i].scope & (scope | IN_EVERY)) && !form_fits(v, rules[i].form))
            return invalid(e, where, rules[i].key);
    }
    return 0;
}

static int room_validate(const struct json *root, struct err *e)
{
    static const struct {
        const char *key, *where;
    } sections[] = {{"ephemeral", "room.ephemeral"},
                    {"state", "room.state"},
                    {"timeline", "room.timeline"},
                    {"account_data", "room.account_data"}};
    const struct json *room = json_get(root, STR("room")), *v;
    if (!room)
        return 0;
    if (!json_is_object(room))
        return invalid(e, "", "room");
    if ((v = json_get(room, STR("rooms"))) && !is_list(v, FORM_ROOM_IDS))
        return invalid(e, "room", "rooms");
    if ((v = json_get(room, STR("not_rooms"))) && !is_list(v, FORM_ROOM_IDS))
        return invalid(e, "room", "not_rooms");
    if ((v = json_get(room, STR("include_leave"))) && !is_bool(v))
        return invalid(e, "room", "include_leave");
    for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++) {
        int rc = section_validate(room, sections[i].key, sections[i].where, IN_ROOM_EVENT, e);
        if (rc)
            return rc;
    }
    return 0;
}

static int validate(const struct json *root, struct err *e)
{
    const struct json *v;
    if (!json_is_object(root))
        return err_set(e, ERR_PROTOCOL, "Invalid filter: not an object");
    if ((v = json_get(root, STR("event_format"))) && !str_eq(json_str(v), STR("client")) &&
        !str_eq(json_str(v), STR("federation")))
        return invalid(e, "", "event_format");
    if ((v = json_get(root, STR("event_fields"))) && !is_list(v, FORM_STRINGS))
        return invalid(e, "", "event_fields");
    int rc = section_validate(root, "presence", "presence", IN_EVENT, e);
    if (!rc)
        rc = section_validate(root, "account_data", "account_data", IN_EVENT, e);
    return rc ? rc : room_validate(root, e);
}

/* ---- reading ---- */

/* A list into the filter's arena; answers whether it was given at all. Where the schema does not look (labels
 * in account_data, say) anything may stand: what is no string matches nothing, and what is no list is an
 * empty one. */
static bool list_read(struct arena *a, const struct json *o, const char *key, struct str **list,
                      size_t *count)
{
    const struct json *v = json_get(o, str_of(key));
    *list = NULL;
    *count = 0;
    if (!json_is_array(v))
        return v && v->type != JSON_NULL;
    *list = ARENA_ARRAY(a, struct str, v->count);
    json_each(c, v) {
        if (c->type == JSON_STRING)
            (*list)[(*count)++] = arena_str(a, c->s);
    }
    return true;
}
#define LIST(field, key) list_read(a, o, key, &s->field, &s->field##_count)

static bool none_given(const struct filter_section *s)
{
    return !s->has_types && !s->has_senders && !s->has_rooms && !s->has_labels && !s->has_rel_types &&
           !s->not_types_count && !s->not_senders_count && !s->not_rooms_count && !s->not_labels_count &&
           !s->not_rel_types_count && s->contains_url < 0 && !s->has_related;
}

static void section_read(struct filter_section *s, const struct json *o, unsigned features, struct arena *a)
{
    s->has_types = LIST(types, "types");
    LIST(not_types, "not_types");
    s->has_senders = LIST(senders, "senders");
    LIST(not_senders, "not_senders");
    s->has_rooms = LIST(rooms, "rooms");
    LIST(not_rooms, "not_rooms");
    s->has_labels = LIST(labels, "org.matrix.labels");
    LIST(not_labels, "org.matrix.not_labels");
    if (features & FILTER_MSC3874) {
        s->has_rel_types = LIST(rel_types, "org.matrix.msc3874.rel_types");
        LIST(not_rel_types, "org.matrix.msc3874.not_rel_types");
    }
    LIST(related_by_senders, "related_by_senders");
    LIST(related_by_rel_types, "related_by_rel_types");
    s->has_related = s->related_by_senders_count || s->related_by_rel_types_count;
    const struct json *url = json_get(o, STR("contains_url"));
    s->contains_url = !url || url->type == JSON_NULL ? -1 : json_is_true(url);
    s->empty = none_given(s);
}

/* "room" itself filters by room ids only, whatever else stands in it. */
static void room_read(struct filter_section *s, const struct json *o, struct arena *a)
{
    s->has_rooms = LIST(rooms, "rooms");
    LIST(not_rooms, "not_rooms");
    s->contains_url = -1;
    s->empty = none_given(s);
}

/* Any JSON number: integers out of range are clamped, and a point or exponent makes it fractional even if it
 * is a whole number, for that is what makes the reference fail later. */
static void limit_read(struct filter *f, const struct json *timeline)
{
    const struct json *v = json_get(timeline, STR("limit"));
    f->timeline_limit = TIMELINE_LIMIT_DEFAULT;
    f->timeline_limit_given = v != NULL;
    if (!v || json_int(v, &f->timeline_limit))
        return;
    bool negative = v->s.p[0] == '-';
    f->timeline_limit = negative ? INT64_MIN : INT64_MAX;
    for (size_t i = 0; i < v->s.n; i++) {
        if (v->s.p[i] == '.' || v->s.p[i] == 'e' || v->s.p[i] == 'E') {
            char z[64];
            size_t n = v->s.n < sizeof z ? v->s.n : sizeof z - 1;
            memcpy(z, v->s.p, n);
            z[n] = 0;
            double d = strtod(z, NULL);
            f->timeline_limit_fractional = true;
            if (d > -9e18 && d < 9e18) {
                f->timeline_limit = (int64_t)d;
                f->timeline_limit_whole = d - (double)f->timeline_limit == 0;
            }
            return;
        }
    }
}

static bool section_rare(const struct filter_section *s)
{
    return s->has_labels || s->not_labels_count || s->has_rel_types || s->not_rel_types_count ||
           s->has_related;
}

static void filter_read(struct filter *f, const struct json *root, unsigned features)
{
    struct arena *a = f->arena;
    const struct json *room = json_get(root, STR("room"));
    const struct json *timeline = json_get(room, STR("timeline")), *state = json_get(room, STR("state"));
    section_read(&f->presence, json_get(root, STR("presence")), features, a);
    section_read(&f->account_data, json_get(root, STR("account_data")), features, a);
    room_read(&f->room, room, a);
    section_read(&f->timeline, timeline, features, a);
    section_read(&f->state, state, features, a);
    section_read(&f->ephemeral, json_get(room, STR("ephemeral")), features, a);
    section_read(&f->room_account_data, json_get(room, STR("account_data")), features, a);
    limit_read(f, timeline);
    f->lazy_load_members = json_is_true(json_get(state, STR("lazy_load_members")));
    f->include_redundant_members = json_is_true(json_get(state, STR("include_redundant_members")));
    f->unread_thread_notifications =
        json_is_true(json_get(timeline, STR("unread_thread_notifications"))) ||
        ((features & FILTER_MSC3773) &&
         json_is_true(json_get(timeline, STR("org.matrix.msc3773.unread_thread_notifications"))));
    f->include_leave = json_is_true(json_get(room, STR("include_leave")));
    f->federation_format = str_eq(json_get_str(root, STR("event_format")), STR("federation"));
    list_read(a, root, "event_fields", &f->event_fields, &f->event_fields_count);
    f->rare = f->federation_format || f->event_fields_count || section_rare(&f->timeline) ||
              section_rare(&f->state) || section_rare(&f->ephemeral) || section_rare(&f->room_account_data) ||
              section_rare(&f->presence) || section_rare(&f->account_data);
}

int filter_parse_with(struct str text, unsigned features, struct filter **out, struct err *e)
{
    *out = NULL;
    if (text.n > FILTER_TEXT_MAX)
        return err_set(e, ERR_PROTOCOL, "Invalid filter: longer than %d bytes", FILTER_TEXT_MAX);
    struct arena *scratch = arena_new(event_arena_max(text.n));
    struct json *root = NULL;
    int rc = 0;
    if (str_absent(text))
        root = json_new(scratch, JSON_OBJECT);
    else if (json_parse(scratch, text, &root))
        rc = err_set(e, ERR_PARSE, "Invalid filter JSON");
    if (!rc)
        rc = validate(root, e);
    if (!rc) {
        /* Held in one arena, which the filter itself lies in. */
        struct arena *a = arena_new_sized(event_arena_max(text.n), sizeof(struct filter));
        arena_count(a, MEM_filters);
        struct filter *f = ARENA_NEW(a, struct filter);
        f->refs = 1;
        f->arena = a;
        f->shared_as = STR_ABSENT;
        filter_read(f, root, features);
        *out = f;
    }
    arena_free(&scratch);
    return rc;
}

int filter_parse(struct str text, struct filter **out, struct err *e)
{
    return filter_parse_with(text, 0, out, e);
}

struct filter *filter_ref(struct filter *f)
{
    ASSERT(f->refs > 0 && f->refs < UINT32_MAX);
    f->refs++;
    return f;
}

void filter_unref(struct filter **f)
{
    struct filter *dropped = *f;
    *f = NULL;
    if (!dropped)
        return;
    ASSERT(dropped->refs > 0);
    if (--dropped->refs == 0) {
        if (!str_absent(dropped->shared_as))
            filter_share_end(dropped);
        struct arena *a = dropped->arena;
        arena_free(&a);
    }
}

void filter_cap_timeline(struct filter *f, int64_t max)
{
    ASSERT(f->refs == 1);
    if (max < 0 || !f->timeline_limit_given)
        return;
    /* Of two equal numbers Python's min() is the first: 100.0 stays a fraction under a cap of 100. */
    bool above = f->timeline_limit_fractional && !f->timeline_limit_whole;
    if (f->timeline_limit > max || (f->timeline_limit == max && above)) {
        f->timeline_limit = max;
        f->timeline_limit_fractional = false;
    }
}
