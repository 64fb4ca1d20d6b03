/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * A database row becomes a struct event.
 *
 * Events are kept by the hundred thousands, so each is one allocation: the struct, the arrays of ids, the
 * stored text, the metadata, and behind them only what the text does not hold verbatim. A parsed string
 * becomes a slice of the stored text wherever the same bytes stand in it (any place will do), which is nearly
 * always: Synapse writes printable ASCII as it is. The tree that parsing needs lives in an arena and is gone
 * afterwards.
 *
 * What is refused here is what Synapse refuses when it loads the row: its typed fields have the same types.
 */
#include "event_int.h"
#include <stdlib.h>

bool event_is_create(const struct event *ev)
{
    return str_eq(ev->type, STR("m.room.create"));
}

/* ---- validation ---- */

/* What json_parse accepts and Synapse's second parser does not: lone surrogates, and one more level of depth.
 */
struct fit {
    bool surrogates; /* the text has escapes that could make one */
};
enum { DEPTH_MAX = 127 };

static bool string_fits(struct str s)
{
    for (size_t i = 0; i + 1 < s.n; i++)
        if ((unsigned char)s.p[i] == 0xed && (unsigned char)s.p[i + 1] >= 0xa0)
            return false;
    return true;
}

/* The parser bounds depth, so recursion is bounded too. */
static bool tree_fits(const struct fit *fit, const struct json *v, int depth)
{
    if (v->type == JSON_STRING)
        return !fit->surrogates || string_fits(v->s);
    if (v->type != JSON_ARRAY && v->type != JSON_OBJECT)
        return true;
    if (depth > DEPTH_MAX)
        return false;
    json_each(c, v) {
        if (!tree_fits(fit, c, depth + 1) || (fit->surrogates && !string_fits(c->key)))
            return false;
    }
    return true;
}

static bool text_fits(struct str text, const struct json *root)
{
    struct fit fit = {.surrogates = memmem(text.p, text.n, "\\ud", 3) || memmem(text.p, text.n, "\\uD", 3)};
    return tree_fits(&fit, root, 1);
}

static bool is_map_of_strings(const struct json *v)
{
    if (!json_is_object(v))
        return false;
    json_each(c, v)
        if (c->type != JSON_STRING)
            return false;
    return true;
}

/* Ids of an array: strings, or [id, {hash}] pairs in format 1. False when it has another shape. */
static bool ids_read(struct arena *a, const struct json *arr, int format, struct str **out, size_t *count)
{
    if (!json_is_array(arr))
        return false;
    struct str *ids = ARENA_ARRAY(a, struct str, arr->count);
    size_t n = 0;
    json_each(c, arr) {
        const struct json *id = c;
        if (format == 1) {
            if (!json_is_array(c) || c->count != 2 || !is_map_of_strings(c->child->next))
                return false;
            id = c->child;
        }
        ids[n] = json_str(id);
        if (str_absent(ids[n++]))
            return false;
    }
    *out = ids;
    *count = n;
    return true;
}

static bool optional_type(struct json **v, enum json_type t)
{
    if (*v && (*v)->type == JSON_NULL)
        *v = NULL;
    return !*v || (*v)->type == t;
}

bool event_unsigned_read(const struct json *root, struct event_unsigned *u)
{
    const struct json *o = json_get(root, STR("unsigned"));
    *u = (struct event_unsigned){0};
    if (!o)
        return true;
    if (!json_is_object(o))
        return false;
    u->age_ts = json_get(o, STR("age_ts"));
    u->replaces_state = json_get(o, STR("replaces_state"));
    u->invite_room_state = json_get(o, STR("invite_room_state"));
    u->knock_room_state = json_get(o, STR("knock_room_state"));
    u->prev_content = json_get(o, STR("prev_content"));
    u->prev_sender = json_get(o, STR("prev_sender"));
    if (u->prev_content && u->prev_content->type == JSON_NULL)
        u->prev_content = NULL;
    return optional_type(&u->age_ts, JSON_NUMBER) && optional_type(&u->replaces_state, JSON_STRING) &&
           optional_type(&u->invite_room_state, JSON_ARRAY) &&
           optional_type(&u->knock_room_state, JSON_ARRAY) && optional_type(&u->prev_sender, JSON_STRING);
}

static bool signatures_fit(const struct json *v)
{
    if (!v)
        return true;
    if (!json_is_object(v))
        return false;
    json_each(c, v)
        if (!is_map_of_strings(c))
            return false;
    return true;
}

/* Room id and event id stand in the text or not, depending on the format. */
static bool ids_fit(const struct event *e, const struct json *root)
{
    const struct json *room = json_get(root, STR("room_id"));
    bool has_room = room != NULL, hashed = e->version->create_id_is_room_id;
    if (has_room && (room->type != JSON_STRING || (hashed && !str_starts(room->s, STR("!")))))
        return false;
    bool create = event_is_create(e) && !str_absent(e->state_key) && e->state_key.n == 0;
    if (hashed && create ? has_room : !has_room)
        return false;
    const struct json *id = json_get(root, STR("event_id"));
    return e->version->format == 1 ? id && id->type == JSON_STRING : !id;
}

/* ---- reading ---- */

static bool truthy(const struct json *v)
{
    if (!v)
        return false;
    switch (v->type) {
    case JSON_TRUE:
        return true;
    case JSON_STRING:
        return v->s.n > 0;
    case JSON_NUMBER:
        for (size_t i = 0; i < v->s.n && v->s.p[i] != 'e' && v->s.p[i] != 'E'; i++)
            if (v->s.p[i] >= '1' && v->s.p[i] <= '9')
                return true;
        return false;
    case JSON_ARRAY:
    case JSON_OBJECT:
        return v->count > 0;
    default:
        return false;
    }
}

struct str event_json_text(const struct json *v, struct arena *a)
{
    struct buf b;
    buf_init(&b, 16 * (size_t)EVENT_JSON_MAX);
    json_write(&b, v, JSON_SORTED);
    struct str s = b.failed ? STR_ABSENT : arena_str(a, buf_str(&b));
    buf_fini(&b);
    return s;
}

/* A policy counts when what it says of lifetimes are integers (Synapse 1.157
 * storage/databases/main/events.py, room_retention). That table keeps what a redaction takes out of the
 * event. */
static void retention_read(struct event *e, const struct json *content)
{
    int64_t v;
    const struct json *min = json_get(content, STR("min_lifetime"));
    if (!str_eq(e->type, STR("m.room.retention")) || str_absent(e->state_key) || e->redacted ||
        (min && !json_int(min, &v)))
        return;
    e->has_max_lifetime = json_int(json_get(content, STR("max_lifetime")), &e->max_lifetime);
}

void event_content_read(struct event *e, const struct json *content, struct arena *a)
{
    retention_read(e, content);
    e->redacts_sender = str_eq(e->type, STR("m.room.member")) &&
                        json_is_true(json_get(content, STR("org.matrix.msc4293.redact_events")));
    e->membership = str_eq(e->type, STR("m.room.member"))
                        ? membership_parse(json_get_str(content, STR("membership")))
                        : MEMBERSHIP_NONE;
    e->history_visibility = str_eq(e->type, STR("m.room.history_visibility"))
                                ? json_get_str(content, STR("history_visibility"))
                                : STR_ABSENT;
    e->join_rule =
        str_eq(e->type, STR("m.room.join_rules")) ? json_get_str(content, STR("join_rule")) : STR_ABSENT;
    e->has_name = (str_eq(e->type, STR("m.room.name")) && truthy(json_get(content, STR("name")))) ||
                  (str_eq(e->type, STR("m.room.canonical_alias")) && truthy(json_get(content, STR("alias"))));
    const struct json *relation = json_get(content, STR("m.relates_to"));
    e->rel_type = json_get_str(relation, STR("rel_type"));
    e->relates_to = json_get_str(relation, STR("event_id"));
    if (str_absent(e->rel_type) || str_absent(e->relates_to)) /* both or it is no relation */
        e->rel_type = e->relates_to = STR_ABSENT;
    e->contains_url = !str_absent(json_get_str(content, STR("url")));
    const struct json *labels = json_get(content, STR("org.matrix.labels"));
    e->labels_json = labels ? event_json_text(labels, a) : STR_ABSENT;
    e->content_user_id = json_get_str(content, STR("user_id"));
}

static const struct room_version *version_of(const struct event_row *row, const struct event *e)
{
    if (!str_absent(row->room_version) && row->room_version.n) {
        const struct room_version *v = room_version_find(row->room_version);
        return v && v->format == row->format_version ? v : NULL;
    }
    /* Old out-of-band invites have no rooms row. They are of version 5 at most, and those redact alike. */
    if (!str_eq(e->type, STR("m.room.member")))
        return NULL;
    return room_version_find(row->format_version == 1   ? STR("1")
                             : row->format_version == 2 ? STR("3")
                                                        : STR("5"));
}

static bool metadata_read(struct event *e, struct str text, struct arena *a)
{
    struct json *m;
    if (json_parse(a, text, &m) || !json_is_object(m))
        return false;
    e->soft_failed = json_is_true(json_get(m, STR("soft_failed")));
    e->out_of_band_membership = json_is_true(json_get(m, STR("out_of_band_membership")));
    e->recheck_redaction = json_is_true(json_get(m, STR("recheck_redaction")));
    e->policy_server_spammy = json_is_true(json_get(m, STR("policy_server_spammy")));
    e->txn_id = json_get_str(m, STR("txn_id"));
    e->txn_device_id = json_get_str(m, STR("device_id"));
    e->delay_id = json_get_str(m, STR("delay_id"));
    const struct json *token = json_get(m, STR("token_id"));
    if (!json_int(token, &e->txn_token_id))
        e->txn_token_id = json_is_true(token) ? 1 : 0;
    return true;
}

/* msc4354_sticky.duration_ms: an integer from 0 on, of 64 bits, taken for an hour at most. */
static int32_t sticky_read(const struct json *root)
{
    enum { HOUR_MS = 3600000 };
    const struct json *v = json_get(json_get(root, STR("msc4354_sticky")), STR("duration_ms"));
    int64_t ms;
    if (json_int(v, &ms))
        return ms < 0 ? -1 : ms > HOUR_MS ? HOUR_MS : (int32_t)ms;
    if (!v || v->type != JSON_NUMBER || v->s.n < 19 || v->s.n > 20)
        return -1;
    for (size_t i = 0; i < v->s.n; i++) {
        if (v->s.p[i] < '0' || v->s.p[i] > '9')
            return -1;
    }
    return v->s.n == 19 || str_cmp(v->s, STR("18446744073709551615")) <= 0 ? HOUR_MS : -1;
}

static bool pdu_read(struct event *e, const struct json *root, struct arena *a)
{
    int64_t depth;
    const struct json *state_key = json_get(root, STR("state_key"));
    e->sender = json_get_str(root, STR("sender"));
    e->state_key = json_str(state_key);
    if (str_absent(e->sender) || (state_key && state_key->type != JSON_STRING) || !ids_fit(e, root) ||
        !json_int(json_get(root, STR("origin_server_ts")), &e->origin_server_ts) ||
        !json_int(json_get(root, STR("depth")), &depth) ||
        !is_map_of_strings(json_get(root, STR("hashes"))) ||
        !signatures_fit(json_get(root, STR("signatures"))))
        return false;
    int format = e->version->format;
    const struct json *auth = json_get(root, STR("auth_events"));
    if (!ids_read(a, json_get(root, STR("prev_events")), format, &e->prev_events, &e->prev_events_count))
        return false;
    if (e->version->state_dags) {
        struct str *ids;
        size_t count;
        if (auth || !ids_read(a, json_get(root, STR("prev_state_events")), format, &ids, &count))
            return false;
    } else if (!ids_read(a, auth, format, &e->auth_events, &e->auth_events_count)) {
        return false;
    }
    struct event_unsigned u;
    const struct json *content = json_get(root, STR("content"));
    if (!event_unsigned_read(root, &u) || !json_is_object(content))
        return false;
    e->sticky_ms = sticky_read(root);
    e->has_age_ts = json_int(u.age_ts, &e->age_ts);
    e->replaces_state = json_str(u.replaces_state);
    if (str_eq(e->type, STR("m.room.redaction")))
        e->redacts = json_get_str(e->version->redacts_in_content ? content : root, STR("redacts"));
    event_content_read(e, content, a);
    return true;
}

/* ---- packing ---- */

/* Every slice of an event that must outlive the tree, in the order in which the stored text has them. */
#define CONTENT_SLICES(X) \
    X(history_visibility) X(join_rule) X(labels_json) X(relates_to) X(rel_type) X(content_user_id)
#define PDU_SLICES(X)      X(redacts) X(room_id) X(sender) X(state_key) X(type) X(replaces_state)
#define METADATA_SLICES(X) X(txn_device_id) X(delay_id) X(txn_id)

/* Looks for strings from the last find on, then from the start. A text made to defeat that is searched in
 * vain a few times only; its strings are copied then. */
struct finder {
    struct str text;
    size_t at, misses;
};
enum { FIND_MISSES_MAX = 64 };

/* Repoints s to the text, or adds its length to what must be copied. */
static void find(struct finder *f, struct str *s, size_t *extra)
{
    if (str_absent(*s))
        return;
    const char *p = NULL;
    if (f->misses < FIND_MISSES_MAX) {
        p = memmem(f->text.p + f->at, f->text.n - f->at, s->p, s->n);
        if (!p && f->at)
            p = memmem(f->text.p, f->text.n, s->p, s->n);
    }
    if (p) {
        f->at = (size_t)(p - f->text.p);
        s->p = p;
    } else {
        f->misses++;
        *extra += s->n;
    }
}

static size_t find_all(struct event *e, const struct event_row *row)
{
    struct finder f = {.text = row->json}, m = {.text = row->internal_metadata};
    size_t extra = 0;
#define X(field) find(&f, &e->field, &extra);
#define Y(field) find(&m, &e->field, &extra);
    for (size_t i = 0; i < e->auth_events_count; i++)
        find(&f, &e->auth_events[i], &extra);
    CONTENT_SLICES(X)
    for (size_t i = 0; i < e->prev_events_count; i++)
        find(&f, &e->prev_events[i], &extra);
    PDU_SLICES(X)
    METADATA_SLICES(Y)
#undef X
#undef Y
    if (e->version->format == 1) /* later formats do not store it */
        find(&f, &e->event_id, &extra);
    else
        extra += e->event_id.n;
    return extra;
}

struct mover {
    const struct event_row *row;
    const struct event *ev; /* its source and metadata are in place */
    char *to;               /* where the next string goes that is in neither */
};

static bool lies_in(struct str s, struct str text)
{
    return s.p >= text.p && s.p + s.n <= text.p + text.n;
}

static void move(struct mover *m, struct str *s)
{
    if (str_absent(*s))
        return;
    if (lies_in(*s, m->row->json)) {
        s->p = m->ev->source.p + (s->p - m->row->json.p);
    } else if (lies_in(*s, m->row->internal_metadata)) {
        s->p = m->ev->metadata.p + (s->p - m->row->internal_metadata.p);
    } else {
        memcpy(m->to, s->p, s->n);
        s->p = m->to;
        m->to += s->n;
    }
}

static void move_all(struct event *ev, struct mover *m)
{
#define X(field) move(m, &ev->field);
    CONTENT_SLICES(X)
    PDU_SLICES(X)
    METADATA_SLICES(X)
    X(event_id)
#undef X
    for (size_t i = 0; i < ev->prev_events_count; i++)
        move(m, &ev->prev_events[i]);
    for (size_t i = 0; i < ev->auth_events_count; i++)
        move(m, &ev->auth_events[i]);
}

static struct str put(char **to, struct str s)
{
    struct str at = str_n(*to, s.n);
    memcpy(*to, s.p, s.n);
    *to += s.n;
    return at;
}

static struct event *event_pack(struct event *e, const struct event_row *row)
{
    size_t extra = find_all(e, row), ids = e->prev_events_count + e->auth_events_count;
    size_t block = sizeof *e + ids * sizeof(struct str) + row->json.n + row->internal_metadata.n + extra;
    ASSERT(block <= UINT32_MAX);
    struct event *ev = mem_renew(MEM_events, NULL, block);
    *ev = *e;
    struct str *arrays = (struct str *)(ev + 1);
    struct mover m = {.row = row, .ev = ev, .to = (char *)(arrays + ids)};
    ev->source = put(&m.to, row->json);
    ev->metadata = put(&m.to, row->internal_metadata);
    ev->prev_events = arrays;
    ev->auth_events = arrays + e->prev_events_count;
    if (e->prev_events_count)
        memcpy(ev->prev_events, e->prev_events, e->prev_events_count * sizeof *arrays);
    if (e->auth_events_count)
        memcpy(ev->auth_events, e->auth_events, e->auth_events_count * sizeof *arrays);
    move_all(ev, &m);
    ASSERT(m.to <= (char *)ev + block);
    ev->block = (uint32_t)block;
    ev->bytes = block;
    return ev;
}

void event_locate(const struct event *ev, struct str *s)
{
    if (str_absent(*s))
        return;
    const char *end = (const char *)ev + ev->block;
    const char *p = memmem(ev->source.p, (size_t)(end - ev->source.p), s->p, s->n);
    ASSERT(p != NULL);
    s->p = p;
}

static struct event *event_read(const struct event_row *row, struct arena *a, const char **why)
{
    struct event e = {
        .event_id = row->event_id,
        .room_id = row->room_id,
        .stream = row->stream,
        .topological = row->topological,
        .writer = row->writer,
        .state_group = row->state_group,
        .outlier = row->outlier,
        .rejected = !str_absent(row->rejected_reason),
    };
    struct json *root;
    *why = "json";
    if (json_parse(a, row->json, &root) || !json_is_object(root) || !text_fits(row->json, root))
        return NULL;
    *why = "metadata";
    if (!metadata_read(&e, row->internal_metadata, a))
        return NULL;
    *why = "format";
    e.type = json_get_str(root, STR("type"));
    if (str_absent(e.type))
        return NULL;
    *why = "version";
    e.version = version_of(row, &e);
    if (!e.version)
        return NULL;
    *why = "format";
    if (!pdu_read(&e, root, a))
        return NULL;
    *why = NULL;
    return event_pack(&e, row);
}

struct event *event_new(const struct event_row *row, const char **why)
{
    const char *reason = "size";
    struct event *ev = NULL;
    if (row->json.n <= EVENT_JSON_MAX && row->internal_metadata.n <= EVENT_JSON_MAX) {
        struct arena *a = arena_new(event_arena_max(row->json.n + row->internal_metadata.n));
        ev = event_read(row, a, &reason);
        arena_free(&a);
    }
    if (why)
        *why = reason;
    return ev;
}

void event_free(struct event **ev)
{
    if (!*ev)
        return;
    event_enc_drop(*ev);
    if (!str_absent((*ev)->redacted_by))
        event_bytes_add(*ev, -(int64_t)(*ev)->redacted_by.n - 1);
    free((void *)(uintptr_t)(*ev)->redacted_by.p);
    mem_free(MEM_events, *ev);
    *ev = NULL;
}
