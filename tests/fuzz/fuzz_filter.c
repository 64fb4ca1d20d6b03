/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Input: a filter. What is accepted must answer every question about items with and without each field, and a
 * filter that says it matches everything must do so.
 */
#include "chappe/filter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(const struct filter *f, const struct filter_section *s)
{
    static const struct filter_item items[] = {
        {.type = {"m.room.message", 14}, .sender = {"@a:b", 4}, .room_id = {"!r:b", 4}, .contains_url = true},
        {.type = {"m.tag", 5}, .content_user_id = {"@a:b", 4}},
        {.type = {"", 0}, .labels_json = {"[\"a\",5,null]", 12}, .rel_type = {"m.thread", 8}},
        {.labels_json = {"\"abc\"", 5}},
        {.labels_json = {"{\"a\":1}", 7}},
        {.labels_json = {"x", 1}},
    };
    for (size_t i = 0; i < sizeof items / sizeof items[0]; i++) {
        bool hit = filter_match(s, &items[i]);
        ASSERT(hit || !s->empty);
        if (filter_blocks_section(s, true) && s->has_types && s->types_count == 0)
            ASSERT(!hit);
    }
    ASSERT(!s->empty || !filter_blocks_section(s, true));
    filter_match_presence(f, STR("@a:b"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct filter *f;
    struct err e;
    struct str text = str_n(size ? (const char *)data : "", size);
    for (unsigned features = 0; features < 4; features++) {
        if (filter_parse_with(text, features, &f, &e)) {
            ASSERT(f == NULL);
            continue;
        }
        const struct filter_section *sections[] = {&f->presence,         &f->account_data, &f->room,
                                                   &f->timeline,         &f->state,        &f->ephemeral,
                                                   &f->room_account_data};
        for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++)
            ask(f, sections[i]);
        ASSERT(!filter_blocks_all_rooms(f) || !f->room.empty);
        filter_cap_timeline(f, 100);
        ASSERT(!f->timeline_limit_given || f->timeline_limit <= 100);
        struct arena *a = arena_new(64 << 20);
        for (size_t i = 0; i < f->event_fields_count; i++) {
            struct str *parts;
            size_t n;
            filter_split_field(a, f->event_fields[i], &parts, &n);
            ASSERT(n >= 1);
        }
        arena_free(&a);
        filter_unref(&f);
    }
    filter_user_id_valid(text);
    filter_room_id_valid(text);
    return 0;
}
