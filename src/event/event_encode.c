/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The client form of an event, built once and shared by all its readers.
 *
 * The text has its keys sorted at every depth, as Synapse's has. It is written around "unsigned", whose fixed
 * members stand in place with their lengths noted, so that event_render can put a reader's members between
 * them. The content of the event is a part of the same text; only a redaction event, whose content gains or
 * shares "redacts" in the client form, keeps its stored content apart, and only when asked.
 */
#include "event_int.h"
#include <stdlib.h>

/* ---- the client transformation on a tree ---- */

static void remove_hidden(struct json *root)
{
    static const char *const hidden[] = {"auth_events", "prev_events", "hashes",     "signatures",
                                         "depth",       "origin",      "prev_state", "room_id"};
    for (size_t i = 0; i < sizeof hidden / sizeof hidden[0]; i++)
        json_remove(root, str_of(hidden[i]));
}

/* Clients of every age find the target of a redaction: it is put where the room version does not keep it. */
static void redacts_in_both_places(const struct event *ev, struct arena *a, struct json *root,
                                   struct json *content)
{
    if (!str_eq(ev->type, STR("m.room.redaction")))
        return;
    struct json *from = ev->version->redacts_in_content ? content : root;
    struct json *to = ev->version->redacts_in_content ? root : content;
    const struct json *redacts = json_get(from, STR("redacts"));
    if (redacts && redacts->type != JSON_NULL)
        json_set(to, STR("redacts"), json_clone(a, redacts));
}

struct json *event_tree(const struct event *ev, struct arena *a, bool federation, struct event_unsigned *u,
                        const struct json **content)
{
    struct json *root;
    int rc = json_parse(a, ev->source, &root);
    ASSERT(rc == 0); /* it was parsed when the event was made */
    if (ev->redacted)
        event_prune(a, ev->version, root);
    ASSERT(event_unsigned_read(root, u));
    json_remove(root, STR("unsigned"));
    struct json *c = json_get(root, STR("content"));
    if (str_eq(ev->type, STR("m.room.redaction")) && content)
        *content = json_clone(a, c);
    else if (content)
        *content = c;
    json_set(root, STR("event_id"), json_new_str(a, ev->event_id));
    if (!federation)
        remove_hidden(root);
    if (ev->version->create_id_is_room_id && event_is_create(ev))
        json_set(root, STR("room_id"), json_new_str(a, ev->room_id));
    redacts_in_both_places(ev, a, root, c);
    return root;
}

/* ---- writing ---- */

static int by_key(const void *x, const void *y)
{
    const struct json *const *a = x, *const *b = y;
    return str_cmp((*a)->key, (*b)->key);
}

struct writer {
    struct buf b;
    struct event_enc *enc;
    bool comma;
};

static void member(struct writer *w, const struct json *v)
{
    if (w->comma)
        buf_putc(&w->b, ',');
    w->comma = true;
    json_write_str(&w->b, v->key, 0);
    buf_putc(&w->b, ':');
    size_t from = w->b.n;
    json_write(&w->b, v, JSON_SORTED);
    if (str_eq(v->key, STR("content"))) {
        w->enc->content_off = (uint32_t)from;
        w->enc->content_len = (uint32_t)(w->b.n - from);
    }
}

/* One fixed member of "unsigned"; answers how much was written. */
static uint32_t fixed(struct writer *w, const char *key, const struct json *v, bool comma)
{
    size_t from = w->b.n;
    if (comma)
        buf_putc(&w->b, ',');
    buf_printf(&w->b, "\"%s\":", key);
    json_write(&w->b, v, JSON_SORTED);
    return (uint32_t)(w->b.n - from);
}

static void unsigned_fixed(struct writer *w, const struct event *ev, const struct event_unsigned *u)
{
    struct event_enc *enc = w->enc;
    buf_put(&w->b, w->comma ? STR(",\"unsigned\":{") : STR("\"unsigned\":{"));
    w->comma = true;
    size_t start = w->b.n;
    enc->unsigned_off = (uint32_t)start;
    if (u->age_ts && !ev->has_age_ts)
        enc->age_ts_len = fixed(w, "age_ts", u->age_ts, false);
    if (u->prev_content || u->prev_sender) {
        if (w->b.n > start)
            buf_putc(&w->b, ',');
        if (u->prev_content)
            enc->prev_len = fixed(w, "prev_content", u->prev_content, false);
        if (u->prev_sender)
            enc->prev_len += fixed(w, "prev_sender", u->prev_sender, enc->prev_len > 0);
    }
    if (!str_absent(ev->redacted_by)) {
        struct json id = {.type = JSON_STRING, .s = ev->redacted_by};
        if (w->b.n > start)
            buf_putc(&w->b, ',');
        enc->redacted_by_len = fixed(w, "redacted_by", &id, false);
    }
    if (u->replaces_state) {
        if (w->b.n > start)
            buf_putc(&w->b, ',');
        enc->replaces_state_len = fixed(w, "replaces_state", u->replaces_state, false);
    }
    enc->unsigned_end = (uint32_t)w->b.n;
    buf_putc(&w->b, '}');
}

static void encode(struct event *ev, const struct json *root, const struct event_unsigned *u, struct arena *a)
{
    struct writer w = {.enc = &ev->enc};
    const struct json **members = ARENA_ARRAY(a, const struct json *, root->count);
    size_t n = 0;
    json_each(c, root)
        members[n++] = c;
    qsort(members, n, sizeof *members, by_key);

    /* A byte of text becomes at most six (\u00xx), and a short float at most five times itself. */
    buf_init(&w.b, 4096 + 8 * (ev->source.n + ev->event_id.n + ev->room_id.n + ev->redacted_by.n));
    buf_putc(&w.b, '{');
    size_t i = 0;
    for (; i < n && str_cmp(members[i]->key, STR("unsigned")) < 0; i++)
        member(&w, members[i]);
    unsigned_fixed(&w, ev, u);
    for (; i < n; i++)
        member(&w, members[i]);
    buf_putc(&w.b, '}');
    ASSERT(!w.b.failed);
    ev->enc.blob = blob_from_buf(&w.b);
    buf_fini(&w.b);
    event_bytes_add(ev, (int64_t)(sizeof *ev->enc.blob + ev->enc.blob->n));
}

const struct event_enc *event_encode(struct event *ev)
{
    if (!ev->enc.blob) {
        struct arena *a = arena_new(event_arena_max(ev->source.n));
        struct event_unsigned u;
        const struct json *root = event_tree(ev, a, false, &u, NULL);
        encode(ev, root, &u, a);
        arena_free(&a);
    }
    return &ev->enc;
}

struct str event_content(struct event *ev)
{
    if (!str_absent(ev->content_json))
        return ev->content_json;
    if (!str_eq(ev->type, STR("m.room.redaction"))) {
        const struct event_enc *enc = event_encode(ev);
        ev->content_json = str_n(enc->blob->p + enc->content_off, enc->content_len);
        return ev->content_json;
    }
    struct arena *a = arena_new(event_arena_max(ev->source.n));
    struct event_unsigned u;
    const struct json *content;
    event_tree(ev, a, false, &u, &content);
    struct buf b;
    buf_init(&b, 4096 + 8 * ev->source.n);
    json_write(&b, content, JSON_SORTED);
    ASSERT(!b.failed);
    ev->content_json = str_dup(buf_str(&b));
    ev->content_owned = true;
    event_bytes_add(ev, (int64_t)ev->content_json.n + 1);
    buf_fini(&b);
    arena_free(&a);
    return ev->content_json;
}

void event_enc_drop(struct event *ev)
{
    if (ev->content_owned) {
        event_bytes_add(ev, -(int64_t)ev->content_json.n - 1);
        free((void *)(uintptr_t)ev->content_json.p);
    }
    ev->content_json = STR_ABSENT;
    ev->content_owned = false;
    if (ev->enc.blob) {
        event_bytes_add(ev, -(int64_t)(sizeof *ev->enc.blob + ev->enc.blob->n));
        blob_unref(&ev->enc.blob);
    }
    ev->enc = (struct event_enc){0};
}
