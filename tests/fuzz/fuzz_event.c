/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Input: one byte that picks the room version, the metadata up to the first NUL, then the event's stored
 * text. Whatever is understood must render to JSON, the same by the fast and the general way, in every face:
 * as it is, redacted, and back; and its content must be what stands in the rendering.
 */
#include "chappe/event.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const versions[] = {
    "10", "1", "3", "6", "8", "11", "12", "org.matrix.msc3389.10", "org.matrix.msc4242.12", ""};
static const struct event_extra plain = {.now_ms = 1000};
static struct event_extra full;

static void render(struct event *ev, const struct event_extra *x, bool federation, const struct str *fields,
                   size_t n)
{
    struct arena *a = arena_new(256 << 20);
    struct rope fast, general;
    struct json *v;
    rope_init(&fast);
    rope_init(&general);
    event_render_general(ev, x, federation, fields, n, &general);
    struct str text = rope_flatten(&general, a);
    int rc = json_parse(a, text, &v);
    ASSERT(rc == 0 && json_is_object(v));
    if (!federation && n == 0) {
        event_render(ev, x, &fast);
        ASSERT(str_eq(rope_flatten(&fast, a), text));
    }
    rope_fini(&fast);
    rope_fini(&general);
    arena_free(&a);
}

static void faces(struct event *ev)
{
    static const struct str fields[] = {
        {"content", 7}, {"content.body", 12}, {"unsigned.age", 12}, {"a\\.b.c", 6}};
    struct arena *a = arena_new(64 << 20);
    struct json *v;
    render(ev, &plain, false, NULL, 0);
    render(ev, &full, false, NULL, 0);
    render(ev, &full, true, NULL, 0);
    render(ev, &full, false, fields, 4);
    int rc = json_parse(a, event_content(ev), &v);
    ASSERT(rc == 0 && json_is_object(v));
    event_stripped_state(ev, false, a);
    event_stripped_state(ev, true, a);
    arena_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size > 1 ? memchr(data + 1, 0, size - 1) : NULL;
    if (!nul || size > 65536)
        return 0;
    full = (struct event_extra){
        .now_ms = -5,
        .membership = STR("join"),
        .prev_content = STR("{\"a\":1}"),
        .prev_sender = STR("@a\":b"),
        .redacted_because = STR("{}"),
        .transaction_id = STR("t\xc3\xa9"),
        .delay_id = STR("d"),
        .relations = STR("{}"),
        .invite_room_state = STR("[]"),
        .knock_room_state = STR("[]"),
        .mark_soft_failed = true,
        .mark_spammy = true,
    };
    const char *version = versions[data[0] % (sizeof versions / sizeof versions[0])];
    const struct room_version *v = room_version_find(str_of(version));
    struct event_row row = {
        .event_id = STR("$id\""),
        .room_id = STR("!r:x"),
        .json = str_n((const char *)nul + 1, size - (size_t)(nul + 1 - data)),
        .internal_metadata = str_n((const char *)data + 1, (size_t)(nul - data - 1)),
        .room_version = str_of(version),
        .format_version = v ? v->format : 1 + data[0] % 3,
    };
    const char *why;
    struct event *ev = event_new(&row, &why);
    ASSERT((ev == NULL) == (why != NULL));
    if (!ev)
        return 0;
    faces(ev);
    struct arena *a = arena_new(64 << 20);
    struct str before = arena_str(a, event_content(ev));
    event_redact(ev, STR("$red\x01"));
    faces(ev);
    struct event *copy = event_pruned_copy(ev);
    faces(copy);
    event_free(&copy);
    event_redact(ev, STR_ABSENT);
    ASSERT(str_eq(before, event_content(ev)));
    event_free(&ev);
    arena_free(&a);
    return 0;
}
