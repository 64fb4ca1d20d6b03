/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_EVENT_H
#define CHAPPE_EVENT_H
/*
 * Events as Synapse stores them, understood and encoded once: room versions, redaction, the client format
 * with holes, push rules. Pure functions of their input: no database, no model. Sources: Synapse 1.157
 * rust/src/events, events/utils.py; sync-v3.md sections 6, 7, Appendix A.
 */
#include "chappe/blob.h"
#include "chappe/json.h"

struct room_version {
    const char *name;               /* "1" … "12", "org.matrix.msc3757.10", … */
    int format;                     /* event_json.format_version: 1 … 5 */
    bool redacts_in_content;        /* v11+: m.room.redaction's redacts lives in content */
    bool create_id_is_room_id;      /* v12+ */
    bool updated_redaction_rules;   /* v11+ */
    bool restricted_join_rule;      /* v8+: join_rules keeps allow */
    bool restricted_join_rule_fix;  /* v9+: member keeps join_authorised_via_users_server */
    bool special_case_aliases_auth; /* v1–v5: aliases kept */
    bool relation_redactions;       /* MSC3389: m.relates_to keeps rel_type and event_id */
    bool state_dags;                /* MSC4242: prev_state_events instead of auth_events */
};
const struct room_version *room_version_find(struct str name); /* NULL when unknown */

enum membership {
    MEMBERSHIP_NONE,
    MEMBERSHIP_JOIN,
    MEMBERSHIP_INVITE,
    MEMBERSHIP_KNOCK,
    MEMBERSHIP_LEAVE,
    MEMBERSHIP_BAN
};
enum membership membership_parse(struct str s); /* MEMBERSHIP_NONE when it is none of them */
const char *membership_name(enum membership m);

/* The encoding of one event in client format for /sync (keys sorted bytewise at every depth, room_id removed
 * but for v12 create events), made once. Members of "unsigned" that are the same for everybody (redacted_by,
 * replaces_state, …) are in place; those that differ per reader (age, membership, transaction_id, …) are
 * merged in by event_render in sorted order, so that the result is byte for byte what Synapse sends. */
struct event_enc {
    struct blob *blob;     /* whole text with the fixed unsigned members in place, no per-reader members */
    uint32_t unsigned_off; /* just behind "unsigned":{ */
    uint32_t unsigned_end; /* at its } */
    /* Lengths of the fixed members between them, in this order, one comma between those that are there:
     * age_ts (only when it is not an integer), prev_content and prev_sender as stored, redacted_by,
     * replaces_state. */
    uint32_t age_ts_len, prev_len, redacted_by_len, replaces_state_len;
    uint32_t content_off, content_len; /* value of "content" in the text, with redacts if that was added */
};

struct event {
    /* columns */
    struct str event_id, room_id; /* interned by the model; here: in the event's own memory */
    int64_t stream, topological;  /* events.stream_ordering, topological_ordering */
    int64_t state_group;          /* 0: none (outliers) */
    const struct room_version *version;
    int32_t writer; /* writer_id */
    bool outlier, rejected;
    /* internal_metadata */
    bool soft_failed, out_of_band_membership, recheck_redaction, policy_server_spammy;
    /* parsed PDU, the small ones of what follows */
    bool has_age_ts;
    bool has_name;     /* m.room.name: content.name is truthy; m.room.canonical_alias: content.alias is */
    bool contains_url; /* content.url is a string */
    bool has_max_lifetime;
    bool redacts_sender;        /* MSC4293: a kick or ban that redacts all that its target has sent */
    bool redacted;              /* set by event_redact; prunes all that is shown */
    bool content_owned;         /* content_json is an allocation of its own, not a part of enc.blob */
    enum membership membership; /* content.membership of m.room.member */
    uint32_t block;             /* size of the allocation that starts with this struct */
    struct str txn_id, txn_device_id, delay_id;
    int64_t txn_token_id;
    /* parsed PDU; slices into the event's own memory */
    struct str type, sender, state_key; /* state_key absent: not a state event */
    struct str redacts;                 /* of m.room.redaction, wherever the version keeps it */
    int64_t origin_server_ts;
    int64_t age_ts; /* if has_age_ts */
    struct str replaces_state;
    struct str *prev_events;
    size_t prev_events_count;
    struct str *auth_events;
    size_t auth_events_count;
    int64_t max_lifetime;          /* of m.room.retention */
    int32_t sticky_ms;             /* MSC4354: for how long, -1: not sticky; as sent, redacted or not */
    struct str history_visibility; /* content.history_visibility of that type when a string */
    struct str join_rule;
    struct str rel_type, relates_to; /* content["m.relates_to"] */
    struct str labels_json;          /* content["org.matrix.labels"] as JSON text, or absent */
    struct str content_user_id;      /* content.user_id: fallback sender of filters */
    struct str redacted_by;          /* id of the redaction event */
    /* text */
    struct str source; /* event_json.json, as stored (not pruned) */
    struct str metadata;
    struct event_enc enc;    /* client format of the event as it now stands; built on first use */
    struct str content_json; /* content of the event as it now stands, sorted JSON: prev_content of others;
                                built on first use */
    size_t bytes;            /* memory held, for the budget; grows with enc and content_json */
    void *owner;             /* the model's */
};
struct event_row {
    struct str event_id, room_id, json, internal_metadata, room_version, rejected_reason;
    int format_version; /* 1 when NULL */
    int64_t stream, topological, state_group;
    int32_t writer;
    bool outlier;
};
/* Longer stored text is refused ("size"): Synapse's own events stay below 64 KiB plus stripped state. */
enum { EVENT_JSON_MAX = 2 << 20 };
/* NULL with a reason (a static word: "size", "json", "version", "metadata", "format") when the event cannot
 * be understood: exactly the events that Synapse cannot load either. An absent room_version (no rooms row) is
 * accepted for m.room.member only. Metadata keys with a value of the wrong type count as absent. why may be
 * NULL. */
struct event *event_new(const struct event_row *row, const char **why);
void event_free(struct event **ev);
/* Puts a redaction in force (or, with an absent id, takes it away): drops the encodings, and sets the fields
 * that come from content as they now are. redacts stays what it was before. m.room.create is never redacted:
 * no effect. */
void event_redact(struct event *ev, struct str redaction_id);
/* Builds ev->enc / ev->content_json if not there yet. */
const struct event_enc *event_encode(struct event *ev);
struct str event_content(struct event *ev);

/* What differs per reader or per place, merged into "unsigned" in sorted key order. Absent = not there. */
struct event_extra {
    int64_t now_ms;          /* for age */
    struct str membership;   /* MSC4115 */
    struct str prev_content; /* JSON text */
    struct str prev_sender;
    struct str redacted_because; /* JSON text of the rendered redaction event */
    struct str transaction_id, delay_id;
    struct str relations;                           /* JSON text of m.relations */
    struct str invite_room_state, knock_room_state; /* kept for the knock quirk; JSON text */
    bool mark_soft_failed, mark_spammy;             /* server admins */
    int64_t sticky_ttl_ms;                          /* MSC4354; 0: none */
    bool is_because; /* rendered as redacted_because of another: without its own redacted_by */
};
/* Appends the event as a client sees it: shared slices of ev->enc.blob with a few private bytes between. */
void event_render(struct event *ev, const struct event_extra *x, struct rope *out);
/* The general way for rare filters: event_format federation and event_fields (NULL, 0 = all). Private. */
void event_render_general(struct event *ev, const struct event_extra *x, bool federation,
                          const struct str *fields, size_t fields_count, struct rope *out);
/* unsigned.invite_room_state / knock_room_state as JSON array members text without brackets (stripped
 * events), or absent. */
struct str event_stripped_state(struct event *ev, bool knock, struct arena *a);
/* The erased-sender form: a pruned copy (redaction algorithm, no redacted_by). Caller frees. */
struct event *event_pruned_copy(const struct event *ev);

/* The m.push_rules account data content of a user, from rows of push_rules and push_rules_enable. */
struct push_rule_row {
    struct str rule_id, conditions, actions; /* JSON text */
    int64_t priority_class, priority;
};
struct push_rule_enable_row {
    struct str rule_id;
    bool enabled;
};
/* Experimental features that add default rules, or hide some. */
enum {
    PUSH_RULES_MSC4210 = 1,
    PUSH_RULES_MSC1767 = 2,
    PUSH_RULES_MSC3664 = 4,
    PUSH_RULES_MSC3381 = 8,
    PUSH_RULES_MSC4028 = 16,
    PUSH_RULES_MSC4306 = 32,
};
void push_rules_render(struct buf *out, struct str user_id, const struct push_rule_row *rows,
                       size_t rows_count, const struct push_rule_enable_row *enables, size_t enables_count,
                       unsigned features);
#endif
