/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The m.push_rules content of a user: the server's default rules with the user's own among them.
 *
 * The defaults are data: texts with a mark where the user's id or localpart goes. A row whose id is that of a
 * default rule replaces the actions of that rule; all other rows are rules of their own and stand before the
 * defaults of their kind (but behind .m.rule.master), highest priority first. Conditions and actions of rows
 * are not echoed: Synapse reads them into types and writes those, so that a condition of a known kind has its
 * members in a fixed order and loses unknown ones, while any other object has sorted keys. A row that Synapse
 * could not read at all (its sync would fail) is left out.
 */
#include "chappe/metrics.h"
#include "event_int.h"
#include <stdio.h>
#include <stdlib.h>

enum kind { UNDERRIDE, SENDER, ROOM, POSTCONTENT, CONTENT, OVERRIDE, KINDS }; /* in order of output */
static const char *const kind_names[KINDS] = {"underride",   "sender",  "room",
                                              "postcontent", "content", "override"};
static const int kind_classes[KINDS] = {1, 2, 3, 6, 4, 5}; /* push_rules.priority_class */

#define ME              "\x01" /* the user's id */
#define LOCAL           "\x02" /* the user's localpart */
#define MATCH(k, v)     "{\"kind\":\"event_match\",\"key\":\"" k "\",\"pattern\":\"" v "\"}"
#define COUNT2          "{\"kind\":\"room_member_count\",\"is\":\"2\"}"
#define MAY_NOTIFY_ROOM "{\"kind\":\"sender_notification_permission\",\"key\":\"room\"}"
#define NOTIFY          "\"notify\""
#define LOUD            "{\"set_tweak\":\"highlight\"}"
#define CALM            "{\"set_tweak\":\"highlight\",\"value\":false}"
#define SOUND(s)        "{\"set_tweak\":\"sound\",\"value\":\"" s "\"}"
#define MENTION         NOTIFY "," LOUD "," SOUND("default")
#define ALERT           NOTIFY "," SOUND("default") "," CALM
#define EXTENSIBLE                                                                                        \
    "{\"kind\":\"org.matrix.msc3931.room_version_supports\",\"feature\":\"org.matrix.msc3932.extensible_" \
    "events\"}"
#define EXTENSIBLE_ONE_TO_ONE(type)                                                                   \
    {                                                                                                 \
        UNDERRIDE, MSC1767, 0, false, ".org.matrix.msc3933.rule.extensible." type ".room_one_to_one", \
            MATCH("type", "org.matrix.msc1767." type) "," COUNT2 "," EXTENSIBLE, ALERT                \
    }
#define EXTENSIBLE_ANY(type)                                                       \
    {                                                                              \
        UNDERRIDE, MSC1767, 0, false, ".org.matrix.msc1767.rule.extensible." type, \
            MATCH("type", "m." type) "," EXTENSIBLE, NOTIFY "," CALM               \
    }

enum {
    MSC4210 = PUSH_RULES_MSC4210,
    MSC1767 = PUSH_RULES_MSC1767,
    MSC3664 = PUSH_RULES_MSC3664,
    MSC3381 = PUSH_RULES_MSC3381,
    MSC4028 = PUSH_RULES_MSC4028,
    MSC4306 = PUSH_RULES_MSC4306,
};

struct base_rule {
    enum kind kind;
    unsigned needs, hidden_by; /* experimental features: shown only with, or only without them */
    bool disabled;
    const char *id;
    const char *conditions; /* the pattern of a content rule */
    const char *actions;
};
static const struct base_rule base_rules[] = {
    {OVERRIDE, 0, 0, true, ".m.rule.master", "", ""},
    {OVERRIDE, MSC4028, 0, false, ".org.matrix.msc4028.encrypted_event", MATCH("type", "m.room.encrypted"),
     NOTIFY},
    {OVERRIDE, 0, 0, false, ".m.rule.suppress_notices", MATCH("content.msgtype", "m.notice"), ""},
    {OVERRIDE, 0, 0, false, ".m.rule.invite_for_me",
     MATCH("type", "m.room.member") "," MATCH("content.membership", "invite") "," MATCH("state_key", ME),
     NOTIFY "," CALM "," SOUND("default")},
    {OVERRIDE, 0, 0, false, ".m.rule.member_event", MATCH("type", "m.room.member"), ""},
    {OVERRIDE, MSC3664, 0, false, ".im.nheko.msc3664.reply",
     "{\"kind\":\"im.nheko.msc3664.related_event_match\",\"key\":\"sender\",\"rel_type\":\"m.in_reply_to\","
     "\"pattern\":\"" ME "\"}",
     MENTION},
    {OVERRIDE, 0, 0, false, ".m.rule.is_user_mention",
     "{\"kind\":\"event_property_contains\",\"key\":\"content.m\\\\.mentions.user_ids\",\"value\":\"" ME
     "\"}",
     MENTION},
    {OVERRIDE, 0, MSC4210, false, ".m.rule.contains_display_name", "{\"kind\":\"contains_display_name\"}",
     MENTION},
    {OVERRIDE, 0, 0, false, ".m.rule.is_room_mention",
     "{\"kind\":\"event_property_is\",\"key\":\"content.m\\\\.mentions.room\",\"value\":true}"
     "," MAY_NOTIFY_ROOM,
     NOTIFY "," LOUD},
    {OVERRIDE, 0, MSC4210, false, ".m.rule.roomnotif", MAY_NOTIFY_ROOM "," MATCH("content.body", "@room"),
     NOTIFY "," LOUD},
    {OVERRIDE, 0, 0, false, ".m.rule.tombstone", MATCH("type", "m.room.tombstone") "," MATCH("state_key", ""),
     NOTIFY "," LOUD},
    {OVERRIDE, 0, 0, false, ".m.rule.reaction", MATCH("type", "m.reaction"), ""},
    {OVERRIDE, 0, 0, false, ".m.rule.room.server_acl",
     MATCH("type", "m.room.server_acl") "," MATCH("state_key", ""), ""},
    {OVERRIDE, 0, 0, false, ".m.rule.suppress_edits",
     "{\"kind\":\"event_property_is\",\"key\":\"content.m\\\\.relates_to.rel_type\",\"value\":\"m.replace\"}",
     ""},
    {OVERRIDE, MSC3381, 0, false, ".org.matrix.msc3930.rule.poll_response",
     MATCH("type", "org.matrix.msc3381.poll.response"), ""},
    {POSTCONTENT, MSC4306, 0, false, ".io.element.msc4306.rule.unsubscribed_thread",
     "{\"kind\":\"io.element.msc4306.thread_subscription\",\"subscribed\":false}", ""},
    {POSTCONTENT, MSC4306, 0, false, ".io.element.msc4306.rule.subscribed_thread",
     "{\"kind\":\"io.element.msc4306.thread_subscription\",\"subscribed\":true}",
     NOTIFY "," SOUND("default")},
    {CONTENT, 0, MSC4210, false, ".m.rule.contains_user_name", LOCAL, MENTION},
    {UNDERRIDE, 0, 0, false, ".m.rule.call", MATCH("type", "m.call.invite"),
     NOTIFY "," SOUND("ring") "," CALM},
    {UNDERRIDE, 0, 0, false, ".m.rule.encrypted_room_one_to_one",
     MATCH("type", "m.room.encrypted") "," COUNT2, NOTIFY "," SOUND("default") "," CALM},
    {UNDERRIDE, 0, 0, false, ".m.rule.room_one_to_one", MATCH("type", "m.room.message") "," COUNT2,
     NOTIFY "," SOUND("default") "," CALM},
    {UNDERRIDE, MSC1767, 0, false, ".org.matrix.msc3933.rule.extensible.encrypted_room_one_to_one",
     MATCH("type", "org.matrix.msc1767.encrypted") "," COUNT2 "," EXTENSIBLE, ALERT},
    EXTENSIBLE_ONE_TO_ONE("message"),
    EXTENSIBLE_ONE_TO_ONE("file"),
    EXTENSIBLE_ONE_TO_ONE("image"),
    EXTENSIBLE_ONE_TO_ONE("video"),
    EXTENSIBLE_ONE_TO_ONE("audio"),
    {UNDERRIDE, 0, 0, false, ".m.rule.message", MATCH("type", "m.room.message"), NOTIFY "," CALM},
    {UNDERRIDE, 0, 0, false, ".m.rule.encrypted", MATCH("type", "m.room.encrypted"), NOTIFY "," CALM},
    EXTENSIBLE_ANY("encrypted"),
    EXTENSIBLE_ANY("message"),
    EXTENSIBLE_ANY("file"),
    EXTENSIBLE_ANY("image"),
    EXTENSIBLE_ANY("video"),
    EXTENSIBLE_ANY("audio"),
    {UNDERRIDE, 0, 0, false, ".im.vector.jitsi",
     MATCH("type", "im.vector.modular.widgets") "," MATCH("content.type", "jitsi") "," MATCH("state_key",
                                                                                             "*"),
     NOTIFY "," CALM},
    {UNDERRIDE, MSC3381, 0, false, ".org.matrix.msc3930.rule.poll_start_one_to_one",
     COUNT2 "," MATCH("type", "org.matrix.msc3381.poll.start"), NOTIFY "," SOUND("default")},
    {UNDERRIDE, MSC3381, 0, false, ".org.matrix.msc3930.rule.poll_start",
     MATCH("type", "org.matrix.msc3381.poll.start"), NOTIFY},
    {UNDERRIDE, MSC3381, 0, false, ".org.matrix.msc3930.rule.poll_end_one_to_one",
     COUNT2 "," MATCH("type", "org.matrix.msc3381.poll.end"), NOTIFY "," SOUND("default")},
    {UNDERRIDE, MSC3381, 0, false, ".org.matrix.msc3930.rule.poll_end",
     MATCH("type", "org.matrix.msc3381.poll.end"), NOTIFY},
};
enum { BASE_RULES = sizeof base_rules / sizeof base_rules[0] };

struct render {
    struct buf *out;
    struct str user_id, localpart;
    const struct push_rule_row **rows; /* sorted */
    size_t rows_count;
    const struct push_rule_enable_row *enables;
    size_t enables_count;
    unsigned features; /* PUSH_RULES_x */
    bool comma;        /* something stands in the present array */
};

/* A user id with a quote or the like in it is escaped. */
static void put_inner(struct buf *out, struct str s)
{
    struct buf b;
    buf_init(&b, 64 + 6 * s.n);
    json_write_str(&b, s, 0);
    if (!b.failed)
        buf_put(out, str_n(b.p + 1, b.n - 2));
    buf_fini(&b);
}

static void put_marked(struct render *r, const char *text)
{
    for (const char *p = text; *p; p++) {
        if (*p == ME[0])
            put_inner(r->out, r->user_id);
        else if (*p == LOCAL[0])
            put_inner(r->out, r->localpart);
        else
            buf_putc(r->out, *p);
    }
}

static bool enabled(const struct render *r, struct str id, bool by_default)
{
    for (size_t i = 0; i < r->enables_count; i++)
        if (str_eq(r->enables[i].rule_id, id))
            return r->enables[i].enabled;
    return by_default;
}

/* ---- conditions and actions of rows, as Synapse's types print them ---- */

enum shape { STRING, STRING_OPTIONAL, BOOLEAN, BOOLEAN_OPTIONAL, SCALAR };
static const struct known_condition {
    const char *kind;
    struct {
        const char *key;
        enum shape shape;
    } members[4];
} known_conditions[] = {
    {"event_match", {{"key", STRING}, {"pattern", STRING}}},
    {"event_property_is", {{"key", STRING}, {"value", SCALAR}}},
    {"event_property_contains", {{"key", STRING}, {"value", SCALAR}}},
    {"contains_display_name", {{NULL, STRING}}},
    {"room_member_count", {{"is", STRING_OPTIONAL}}},
    {"sender_notification_permission", {{"key", STRING}}},
    {"im.nheko.msc3664.related_event_match",
     {{"key", STRING_OPTIONAL},
      {"pattern", STRING_OPTIONAL},
      {"rel_type", STRING},
      {"include_fallbacks", BOOLEAN_OPTIONAL}}},
    {"org.matrix.msc3931.room_version_supports", {{"feature", STRING}}},
    {"io.element.msc4306.thread_subscription", {{"subscribed", BOOLEAN}}},
};
enum { MEMBERS_MAX = sizeof known_conditions[0].members / sizeof known_conditions[0].members[0] };

static bool shape_fits(const struct json *v, enum shape shape)
{
    bool none = !v || v->type == JSON_NULL;
    int64_t i;
    switch (shape) {
    case STRING_OPTIONAL:
        return none || v->type == JSON_STRING;
    case STRING:
        return !none && v->type == JSON_STRING;
    case BOOLEAN_OPTIONAL:
        return none || v->type == JSON_TRUE || v->type == JSON_FALSE;
    case BOOLEAN:
        return !none && (v->type == JSON_TRUE || v->type == JSON_FALSE);
    case SCALAR:
        return v && v->type != JSON_ARRAY && v->type != JSON_OBJECT &&
               (v->type != JSON_NUMBER || json_int(v, &i));
    }
    return false;
}

static const struct known_condition *known(const struct json *condition)
{
    struct str kind = json_get_str(condition, STR("kind"));
    for (size_t i = 0; i < sizeof known_conditions / sizeof known_conditions[0]; i++) {
        const struct known_condition *k = &known_conditions[i];
        if (!str_eq(kind, str_of(k->kind)))
            continue;
        for (size_t m = 0; m < MEMBERS_MAX && k->members[m].key; m++)
            if (!shape_fits(json_get(condition, str_of(k->members[m].key)), k->members[m].shape))
                return NULL;
        return k;
    }
    return NULL;
}

static void put_member(struct buf *b, const char *key, const struct json *v)
{
    if (b->n && b->p[b->n - 1] != '{')
        buf_putc(b, ',');
    buf_printf(b, "\"%s\":", key);
    json_write(b, v, JSON_SORTED);
}

static int by_key(const void *x, const void *y)
{
    const struct json *const *a = x, *const *b = y;
    return str_cmp((*a)->key, (*b)->key);
}

/* Members in sorted order but for those that skip() names. */
static void put_sorted(struct buf *b, const struct json *obj, bool (*skip)(const struct json *member))
{
    const struct json **v = xmalloc(obj->count * sizeof *v);
    size_t n = 0;
    json_each(m, obj)
        v[n++] = m;
    qsort(v, n, sizeof *v, by_key);
    for (size_t i = 0; i < n; i++) {
        if (skip(v[i]))
            continue;
        if (b->n && b->p[b->n - 1] != '{')
            buf_putc(b, ',');
        json_write_str(b, v[i]->key, 0);
        buf_putc(b, ':');
        json_write(b, v[i], JSON_SORTED);
    }
    free(v);
}

/* "pattern_type": "user_id" becomes "pattern": the id, behind everything else (or in place of a pattern). */
static bool is_internal(const struct json *m)
{
    return str_eq(m->key, STR("_cache_key")) || str_eq(m->key, STR("pattern_type")) ||
           str_eq(m->key, STR("value_type"));
}

static struct str typed_value(const struct render *r, const struct json *condition, struct str type_key)
{
    struct str type = json_get_str(condition, type_key);
    return str_eq(type, STR("user_id"))          ? r->user_id
           : str_eq(type, STR("user_localpart")) ? r->localpart
                                                 : STR_ABSENT;
}

static void put_unknown_condition(struct render *r, struct json *c, struct arena *a)
{
    static const char *const keys[] = {"pattern", "value"}, *const type_keys[] = {"pattern_type",
                                                                                  "value_type"};
    struct str added[2] = {STR_ABSENT, STR_ABSENT};
    for (int i = 0; i < 2; i++) {
        added[i] = typed_value(r, c, str_of(type_keys[i]));
        if (!str_absent(added[i]) && json_get(c, str_of(keys[i]))) {
            json_set(c, str_of(keys[i]), json_new_str(a, added[i]));
            added[i] = STR_ABSENT;
        }
    }
    buf_putc(r->out, '{');
    put_sorted(r->out, c, is_internal);
    for (int i = 0; i < 2; i++) {
        struct json v = {.type = JSON_STRING, .s = added[i]};
        if (!str_absent(added[i]))
            put_member(r->out, keys[i], &v);
    }
    buf_putc(r->out, '}');
}

static void put_condition(struct render *r, struct json *c, struct arena *a)
{
    const struct known_condition *k = known(c);
    if (!k) {
        put_unknown_condition(r, c, a);
        return;
    }
    buf_printf(r->out, "{\"kind\":\"%s\"", k->kind);
    for (size_t m = 0; m < MEMBERS_MAX && k->members[m].key; m++) {
        const struct json *v = json_get(c, str_of(k->members[m].key));
        if (v && (v->type != JSON_NULL || k->members[m].shape == SCALAR))
            put_member(r->out, k->members[m].key, v);
    }
    buf_putc(r->out, '}');
}

static bool is_tweak_member(const struct json *m)
{
    return str_eq(m->key, STR("set_tweak")) || str_eq(m->key, STR("value"));
}

static void put_action(struct render *r, const struct json *v)
{
    const struct json *tweak = json_get(v, STR("set_tweak"));
    if (!tweak || tweak->type != JSON_STRING) {
        json_write(r->out, v, JSON_SORTED);
        return;
    }
    buf_putc(r->out, '{');
    put_member(r->out, "set_tweak", tweak);
    const struct json *value = json_get(v, STR("value"));
    if (value && value->type != JSON_NULL)
        put_member(r->out, "value", value);
    put_sorted(r->out, v, is_tweak_member);
    buf_putc(r->out, '}');
}

static bool actions_fit(const struct json *actions)
{
    if (!json_is_array(actions))
        return false;
    json_each(v, actions) {
        if (v->type == JSON_STRING && !str_eq(v->s, STR("notify")) && !str_eq(v->s, STR("dont_notify")) &&
            !str_eq(v->s, STR("coalesce")))
            return false;
    }
    return true;
}

static void put_actions(struct render *r, const struct json *actions)
{
    buf_put(r->out, STR("\"actions\":["));
    json_each(v, actions) {
        if (v != actions->child)
            buf_putc(r->out, ',');
        put_action(r, v);
    }
    buf_putc(r->out, ']');
}

/* ---- rules ---- */

static struct str unscoped(struct str rule_id)
{
    for (size_t i = rule_id.n; i > 0; i--)
        if (rule_id.p[i - 1] == '/')
            return str_n(rule_id.p + i, rule_id.n - i);
    return rule_id;
}

static bool is_base(struct str rule_id, const struct base_rule *b)
{
    struct str head = STR("global/"), kind = str_of(kind_names[b->kind]), id = str_of(b->id);
    return rule_id.n == head.n + kind.n + 1 + id.n && str_starts(rule_id, head) && str_ends(rule_id, id) &&
           memcmp(rule_id.p + head.n, kind.p, kind.n) == 0 && rule_id.p[head.n + kind.n] == '/';
}

static bool is_any_base(struct str rule_id)
{
    for (size_t i = 0; i < BASE_RULES; i++)
        if (is_base(rule_id, &base_rules[i]))
            return true;
    return false;
}

static void next_rule(struct render *r)
{
    if (r->comma)
        buf_putc(r->out, ',');
    r->comma = true;
    buf_putc(r->out, '{');
}

static void end_rule(struct render *r, bool on)
{
    buf_put(r->out, on ? STR(",\"enabled\":true}") : STR(",\"enabled\":false}"));
}

/* conditions holds at least one; false when the rule has no place in the output. */
static bool put_custom_content(struct render *r, const struct json *conditions, const struct json *actions,
                               struct str id)
{
    const struct json *c = conditions->child;
    const struct known_condition *k = known(c);
    const struct json *pattern = json_get(c, STR("pattern"));
    if (k && !str_eq(str_of(k->kind), STR("event_match")) &&
        !str_eq(str_of(k->kind), STR("im.nheko.msc3664.related_event_match")))
        pattern = NULL; /* not a member of that kind, hence dropped */
    if (k && pattern && pattern->type == JSON_NULL)
        pattern = NULL;
    struct json typed = {.type = JSON_STRING, .s = k ? STR_ABSENT : typed_value(r, c, STR("pattern_type"))};
    bool has_type = !k && json_get(c, STR("pattern_type"));
    if (!pattern && !has_type)
        return false;
    next_rule(r);
    put_actions(r, actions);
    if (pattern)
        put_member(r->out, "pattern", pattern);
    struct json rule_id = {.type = JSON_STRING, .s = unscoped(id)};
    put_member(r->out, "rule_id", &rule_id);
    buf_put(r->out, STR(",\"default\":false"));
    if (!pattern && !str_absent(typed.s))
        put_member(r->out, "pattern", &typed);
    return true;
}

static void put_custom(struct render *r, const struct push_rule_row *row, enum kind kind, struct arena *a)
{
    struct json *conditions, *actions;
    bool fits = !json_parse(a, row->conditions, &conditions) && !json_parse(a, row->actions, &actions) &&
                json_is_array(conditions) && actions_fit(actions);
    json_each(c, fits ? conditions : NULL)
        fits &= json_is_object(c);
    if (!fits) {
        metric_add_l(M_model_poisoned, "push_rule", 1);
        return;
    }
    if (kind == CONTENT) {
        if (conditions->count == 1 && put_custom_content(r, conditions, actions, row->rule_id))
            end_rule(r, enabled(r, row->rule_id, true));
        return;
    }
    struct json id = {.type = JSON_STRING, .s = unscoped(row->rule_id)};
    const struct json *shown_id = &id;
    if (kind == ROOM || kind == SENDER) {
        shown_id = json_get(conditions->child, STR("pattern"));
        if (!shown_id)
            return;
        next_rule(r);
    } else {
        next_rule(r);
        buf_put(r->out, STR("\"conditions\":["));
        json_each(c, conditions) {
            if (c != conditions->child)
                buf_putc(r->out, ',');
            put_condition(r, c, a);
        }
        buf_put(r->out, STR("],"));
    }
    put_actions(r, actions);
    put_member(r->out, "rule_id", shown_id);
    buf_put(r->out, STR(",\"default\":false"));
    end_rule(r, enabled(r, row->rule_id, true));
}

static void put_customs(struct render *r, enum kind kind)
{
    for (size_t i = 0; i < r->rows_count; i++) {
        const struct push_rule_row *row = r->rows[i];
        if (row->priority_class != kind_classes[kind] || kind == POSTCONTENT || is_any_base(row->rule_id))
            continue;
        struct arena *a = arena_new(event_arena_max(row->conditions.n + row->actions.n));
        put_custom(r, row, kind, a);
        arena_free(&a);
    }
}

/* The last row for a default rule gives its actions. */
static void put_base_actions(struct render *r, const struct base_rule *b)
{
    const struct push_rule_row *row = NULL;
    for (size_t i = 0; i < r->rows_count; i++)
        if (is_base(r->rows[i]->rule_id, b))
            row = r->rows[i];
    if (row) {
        struct arena *a = arena_new(event_arena_max(row->actions.n));
        struct json *actions;
        bool fit = json_parse(a, row->actions, &actions) == 0 && actions_fit(actions);
        if (fit)
            put_actions(r, actions);
        else
            metric_add_l(M_model_poisoned, "push_rule", 1);
        arena_free(&a);
        if (fit)
            return;
    }
    buf_printf(r->out, "\"actions\":[%s]", b->actions);
}

static void put_base(struct render *r, const struct base_rule *b)
{
    if ((b->needs & ~r->features) || (b->hidden_by & r->features))
        return;
    char id[128];
    int n = snprintf(id, sizeof id, "global/%s/%s", kind_names[b->kind], b->id);
    next_rule(r);
    if (b->kind != CONTENT) {
        buf_put(r->out, STR("\"conditions\":["));
        put_marked(r, b->conditions);
        buf_put(r->out, STR("],"));
    }
    put_base_actions(r, b);
    buf_printf(r->out, ",\"rule_id\":\"%s\",\"default\":true", b->id);
    if (b->kind == CONTENT) {
        buf_put(r->out, STR(",\"pattern\":\""));
        put_marked(r, b->conditions);
        buf_putc(r->out, '"');
    }
    end_rule(r, enabled(r, str_n(id, (size_t)n), !b->disabled));
}

static int by_priority(const void *x, const void *y)
{
    const struct push_rule_row *const *pa = x, *const *pb = y, *a = *pa, *b = *pb;
    if (a->priority_class != b->priority_class)
        return a->priority_class > b->priority_class ? -1 : 1;
    if (a->priority != b->priority)
        return a->priority > b->priority ? -1 : 1;
    return a < b ? -1 : a > b; /* the rows' own order: a stable sort */
}

void push_rules_render(struct buf *out, struct str user_id, const struct push_rule_row *rows,
                       size_t rows_count, const struct push_rule_enable_row *enables, size_t enables_count,
                       unsigned features)
{
    struct str localpart, domain;
    str_cut(user_id.n ? str_n(user_id.p + 1, user_id.n - 1) : user_id, ':', &localpart, &domain);
    struct render r = {out, user_id, localpart, NULL, rows_count, enables, enables_count, features, false};
    r.rows = xmalloc(rows_count * sizeof *r.rows);
    for (size_t i = 0; i < rows_count; i++)
        r.rows[i] = &rows[i];
    qsort(r.rows, rows_count, sizeof *r.rows, by_priority);

    buf_put(out, STR("{\"global\":{"));
    for (int kind = 0; kind < KINDS; kind++) {
        buf_printf(out, kind ? ",\"%s\":[" : "\"%s\":[", kind_names[kind]);
        r.comma = false;
        size_t b = 0;
        if (kind == OVERRIDE)
            put_base(&r, &base_rules[b++]); /* the master switch comes before all */
        put_customs(&r, (enum kind)kind);
        for (; b < BASE_RULES; b++)
            if (base_rules[b].kind == (enum kind)kind)
                put_base(&r, &base_rules[b]);
        buf_putc(out, ']');
    }
    buf_put(out, STR("}}"));
    free(r.rows);
}
