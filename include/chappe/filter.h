/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_FILTER_H
#define CHAPPE_FILTER_H
/*
 * Sync filters: parsed and validated once, matched without parsing. Synapse 1.157 api/filtering.py;
 * sync-v3.md section 8. Immutable after filter_parse; counted.
 */
#include "chappe/event.h"

struct filter_section {
    bool has_types, has_senders, has_rooms, has_labels, has_rel_types; /* "X given", even as [] */
    struct str *types, *not_types, *senders, *not_senders, *rooms, *not_rooms, *labels, *not_labels,
        *rel_types, *not_rel_types;
    struct str *related_by_senders, *related_by_rel_types; /* for the query that has_related asks for */
    size_t types_count, not_types_count, senders_count, not_senders_count, rooms_count, not_rooms_count,
        labels_count, not_labels_count, rel_types_count, not_rel_types_count;
    size_t related_by_senders_count, related_by_rel_types_count;
    int contains_url; /* -1 not given, 0, 1 */
    bool has_related; /* related_by_senders or related_by_rel_types not empty; filter_match knows nothing of
                         it */
    bool empty;       /* matches everything */
};
struct filter {
    uint32_t refs;
    struct filter_section presence, account_data, room, timeline, state, ephemeral, room_account_data;
    int64_t timeline_limit; /* 10 when not given */
    bool timeline_limit_given, timeline_limit_fractional;
    bool timeline_limit_whole; /* fractional in form only: 10.0, 1e1 */
    bool lazy_load_members, include_redundant_members, unread_thread_notifications, include_leave;
    bool federation_format;
    struct str *event_fields;
    size_t event_fields_count;
    struct str shared_as; /* absent: only its holders know it */
    bool rare;            /* federation format, event_fields, labels, related_by…: goes the general way */
    struct arena *arena;
};
/* text absent: the default filter {}. -ERR_PARSE bad JSON; -ERR_PROTOCOL violates the schema, with text in e.
 */
int filter_parse(struct str text, struct filter **out, struct err *e) NODISCARD;
/* The same with experimental features in force (configuration msc3874_enabled, msc3773_enabled). */
enum filter_features {
    FILTER_MSC3874 = 1 /* rel_types */,
    FILTER_MSC3773 = 2 /* unstable unread_thread_notifications */
};
int filter_parse_with(struct str text, unsigned features, struct filter **out, struct err *e) NODISCARD;
/* The same, with filter_cap_timeline(timeline_max) applied; who asks with the same text, features and bound
 * gets the same filter while anybody holds it, so that the address tells the class of a reader. Hub thread.
 */
int filter_shared(struct str text, unsigned features, int64_t timeline_max, struct filter **out,
                  struct err *e) NODISCARD;
struct filter *filter_ref(struct filter *f);
void filter_unref(struct filter **f);
/* Lowers an inline filter's explicit limit (config filter_timeline_limit; negative disables). Before sharing
 * only. */
void filter_cap_timeline(struct filter *f, int64_t max);
/* Names of the kinds of "blocks all": sync-v3.md 8.3. */
bool filter_blocks_section(const struct filter_section *s, bool with_rooms);
bool filter_blocks_all_rooms(const struct filter *f); /* room.rooms / not_rooms */
/* One item against a section; room filters and section filters both apply to room items. absent slices = no
 * such field. */
struct filter_item {
    struct str type, sender, room_id, content_user_id, labels_json, rel_type;
    bool contains_url;
};
bool filter_match(const struct filter_section *s, const struct filter_item *it);
bool filter_match_event(const struct filter *f, const struct filter_section *s,
                        const struct event *ev); /* room + section */
bool filter_match_presence(const struct filter *f, struct str user_id);
/* Account data and tags: they have no sender and no room, but the content may name a user_id, a url, labels.
 * room: the filter of all rooms, or NULL for global data. */
bool filter_match_datum(const struct filter_section *s, const struct filter_section *room, struct str type,
                        struct str content);
/* user_id and room id formats that the schema asks for; also useful elsewhere. */
bool filter_user_id_valid(struct str s);
bool filter_room_id_valid(struct str s);
/* event_fields, split: helper of event_render_general. */
void filter_split_field(struct arena *a, struct str field, struct str **parts, size_t *count);
#endif
