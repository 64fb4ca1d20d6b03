/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The redaction algorithm, and the switch between the two faces of an event.
 *
 * An event keeps its stored text untouched; "redacted" says which face the encodings show. Pruning happens on
 * the tree each time an encoding is built, which is once per face. What is kept is data: a table of (type,
 * member, since which room version), because that is all the algorithm is, but for three special cases
 * written out below it.
 */
#include "event_int.h"
#include <stdlib.h>

enum since { ALWAYS, UP_TO_V5, UP_TO_V10, FROM_V8, FROM_V9, FROM_V11 };

static bool since_holds(enum since since, const struct room_version *v)
{
    switch (since) {
    case ALWAYS:
        return true;
    case UP_TO_V5:
        return v->special_case_aliases_auth;
    case UP_TO_V10:
        return !v->updated_redaction_rules;
    case FROM_V8:
        return v->restricted_join_rule;
    case FROM_V9:
        return v->restricted_join_rule_fix;
    case FROM_V11:
        return v->updated_redaction_rules;
    }
    return false;
}

static const struct {
    const char *type, *member;
    enum since since;
} kept_content[] = {
    {"m.room.member", "membership", ALWAYS},
    {"m.room.member", "join_authorised_via_users_server", FROM_V9},
    {"m.room.create", "creator", UP_TO_V10},
    {"m.room.join_rules", "join_rule", ALWAYS},
    {"m.room.join_rules", "allow", FROM_V8},
    {"m.room.power_levels", "users", ALWAYS},
    {"m.room.power_levels", "users_default", ALWAYS},
    {"m.room.power_levels", "events", ALWAYS},
    {"m.room.power_levels", "events_default", ALWAYS},
    {"m.room.power_levels", "state_default", ALWAYS},
    {"m.room.power_levels", "ban", ALWAYS},
    {"m.room.power_levels", "kick", ALWAYS},
    {"m.room.power_levels", "redact", ALWAYS},
    {"m.room.power_levels", "invite", FROM_V11},
    {"m.room.aliases", "aliases", UP_TO_V5},
    {"m.room.history_visibility", "history_visibility", ALWAYS},
    {"m.room.redaction", "redacts", FROM_V11},
};

static void move(struct json *from, struct json *to, const char *member)
{
    struct json *v = json_remove(from, str_of(member));
    if (v)
        json_set(to, str_of(member), v);
}

static struct json *prune_content(struct arena *a, const struct room_version *v, struct str type,
                                  struct json *content)
{
    if (v->updated_redaction_rules && str_eq(type, STR("m.room.create")))
        return content;
    struct json *out = json_new(a, JSON_OBJECT);
    for (size_t i = 0; i < sizeof kept_content / sizeof kept_content[0]; i++)
        if (str_eq(type, str_of(kept_content[i].type)) && since_holds(kept_content[i].since, v))
            move(content, out, kept_content[i].member);

    struct json *invite = json_get(content, STR("third_party_invite"));
    if (v->updated_redaction_rules && str_eq(type, STR("m.room.member")) && json_is_object(invite)) {
        struct json *kept = json_new(a, JSON_OBJECT);
        move(invite, kept, "signed");
        json_set(out, STR("third_party_invite"), kept);
    }
    struct json *relation = json_get(content, STR("m.relates_to"));
    if (v->relation_redactions && json_is_object(relation)) {
        struct json *kept = json_new(a, JSON_OBJECT);
        move(relation, kept, "rel_type");
        move(relation, kept, "event_id");
        if (kept->count)
            json_set(out, STR("m.relates_to"), kept);
    }
    return out;
}

static bool top_level_kept(struct str key, struct str type, const struct room_version *v)
{
    static const char *const always[] = {"event_id", "sender",    "hashes", "signatures",  "content",
                                         "type",     "state_key", "depth",  "prev_events", "origin_server_ts",
                                         "unsigned"};
    for (size_t i = 0; i < sizeof always / sizeof always[0]; i++)
        if (str_eq(key, str_of(always[i])))
            return true;
    if (str_eq(key, STR("room_id")))
        return !(v->create_id_is_room_id && str_eq(type, STR("m.room.create")));
    if (str_eq(key, v->state_dags ? STR("prev_state_events") : STR("auth_events")))
        return true;
    return !v->updated_redaction_rules &&
           (str_eq(key, STR("prev_state")) || str_eq(key, STR("membership")) || str_eq(key, STR("origin")));
}

void event_prune(struct arena *a, const struct room_version *v, struct json *root)
{
    struct str type = json_get_str(root, STR("type"));
    struct json *m = root->child;
    root->child = root->last = NULL;
    root->count = 0;
    while (m) {
        struct json *next = m->next;
        if (top_level_kept(m->key, type, v))
            json_set(root, m->key, m);
        m = next;
    }
    struct json *content = json_get(root, STR("content"));
    ASSERT(content != NULL);
    json_set(root, STR("content"), prune_content(a, v, type, content));
    struct json *old = json_remove(root, STR("unsigned"));
    struct json *kept = json_new(a, JSON_OBJECT);
    if (old) {
        move(old, kept, "age_ts");
        move(old, kept, "replaces_state");
    }
    json_set(root, STR("unsigned"), kept);
}

void event_redacted_set(struct event *ev, bool redacted, struct str redaction_id)
{
    ASSERT(redacted || str_absent(redaction_id));
    if (ev->redacted == redacted && str_absent(ev->redacted_by) == str_absent(redaction_id) &&
        str_eq(ev->redacted_by, redaction_id))
        return;
    event_enc_drop(ev);
    if (!str_absent(ev->redacted_by)) {
        event_bytes_add(ev, -(int64_t)ev->redacted_by.n - 1);
        free((void *)(uintptr_t)ev->redacted_by.p);
    }
    ev->redacted_by = str_dup(redaction_id);
    if (!str_absent(ev->redacted_by))
        event_bytes_add(ev, (int64_t)ev->redacted_by.n + 1);
    if (ev->redacted == redacted)
        return;
    ev->redacted = redacted;
    struct arena *a = arena_new(event_arena_max(ev->source.n));
    struct event_unsigned u;
    const struct json *content;
    event_tree(ev, a, false, &u, &content);
    event_content_read(ev, content, a);
    event_locate(ev, &ev->history_visibility);
    event_locate(ev, &ev->join_rule);
    event_locate(ev, &ev->rel_type);
    event_locate(ev, &ev->relates_to);
    event_locate(ev, &ev->labels_json);
    event_locate(ev, &ev->content_user_id);
    arena_free(&a);
}

void event_redact(struct event *ev, struct str redaction_id)
{
    if (!event_is_create(ev))
        event_redacted_set(ev, !str_absent(redaction_id), redaction_id);
}

struct event *event_pruned_copy(const struct event *ev)
{
    struct event_row row = {
        .event_id = ev->event_id,
        .room_id = ev->room_id,
        .json = ev->source,
        .internal_metadata = ev->metadata,
        .room_version = str_of(ev->version->name),
        .rejected_reason = ev->rejected ? STR("") : STR_ABSENT,
        .format_version = ev->version->format,
        .stream = ev->stream,
        .topological = ev->topological,
        .state_group = ev->state_group,
        .writer = ev->writer,
        .outlier = ev->outlier,
    };
    struct event *copy = event_new(&row, NULL);
    ASSERT(copy != NULL); /* the same text was understood before */
    event_redacted_set(copy, true, STR_ABSENT);
    return copy;
}
