/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_EVENT_INT_H
#define CHAPPE_EVENT_INT_H
/*
 * Private to the event module: the steps that parsing, redaction and the two ways of encoding share.
 * A tree lives in an arena that its user frees; nothing in struct event points into one.
 */
#include "chappe/event.h"

/* Arena maximum for the tree of a text of n bytes: a node per two bytes of text is the worst case ("[0,0,…").
 */
static inline size_t event_arena_max(size_t n)
{
    return ((size_t)256 << 10) + n * 160;
}

/* The members of "unsigned" that survive loading; NULL when not there (JSON null counts as not there). */
struct event_unsigned {
    struct json *age_ts, *replaces_state, *invite_room_state, *knock_room_state, *prev_content, *prev_sender;
};
/* False when a member has a type that Synapse refuses. root's own "unsigned" may be missing. */
bool event_unsigned_read(const struct json *root, struct event_unsigned *u);

/* The redaction algorithm on the tree of a PDU: top-level members, content, and "unsigned". */
void event_prune(struct arena *a, const struct room_version *v, struct json *root);
/* Puts the redacted form in force with or without a known redaction event, or takes it away. */
void event_redacted_set(struct event *ev, bool redacted, struct str redaction_id);
/* Sets the fields that come from content. Slices point into the tree's arena. */
void event_content_read(struct event *e, const struct json *content, struct arena *a);
/* Repoints a slice to equal bytes inside the event's block; they are there when the slice was there at birth.
 */
void event_locate(const struct event *ev, struct str *s);

/* The PDU as it now stands (pruned if redacted) with the client transformation applied: event_id, room_id of
 * v12 create events, redacts in both places, the members that clients do not see removed unless federation.
 * "unsigned" is detached into u. Content as it was before redacts was added: *content (may equal the tree's).
 */
struct json *event_tree(const struct event *ev, struct arena *a, bool federation, struct event_unsigned *u,
                        const struct json **content);
void event_enc_drop(struct event *ev);
/* Memory that ev holds besides its block has grown, or shrunk. */
static inline void event_bytes_add(struct event *ev, int64_t bytes)
{
    ev->bytes = (size_t)((int64_t)ev->bytes + bytes);
    mem_count(MEM_events, bytes);
}
bool event_is_create(const struct event *ev);
struct filter;
void filter_share_end(struct filter *f); /* filter_share.c: its last holder lets go */
/* event_parse.c: a value as JSON text again, in the arena. */
struct str event_json_text(const struct json *v, struct arena *a);
#endif
