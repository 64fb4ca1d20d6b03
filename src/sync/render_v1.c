/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Events in the format of /events and /initialSync (Synapse 1.157, EventFormat.ClientV1): like those of
 * /sync, but with their room, the sender once more as user_id, and some members of "unsigned" repeated beside
 * it. The event is rendered as servers see it, parsed again and changed: slow, and these endpoints are old.
 */
#include "legacy.h"

static void to_v1(struct arena *a, struct json *ev)
{
    static const struct str server_only[] = {{"auth_events", 11}, {"prev_events", 11}, {"hashes", 6},
                                             {"signatures", 10},  {"depth", 5},        {"origin", 6},
                                             {"prev_state", 10}};
    static const struct str repeated[] = {
        {"age", 3}, {"redacted_because", 16}, {"replaces_state", 14}, {"prev_content", 12}};
    struct json *extra = json_get(ev, STR("unsigned")), *sender = json_get(ev, STR("sender"));
    struct json *because = json_get(extra, STR("redacted_because"));
    for (size_t i = 0; i < sizeof server_only / sizeof *server_only; i++)
        json_remove(ev, server_only[i]);
    if (json_is_object(because))
        to_v1(a, because);
    if (sender)
        json_set(ev, STR("user_id"), json_clone(a, sender));
    for (size_t i = 0; i < sizeof repeated / sizeof *repeated; i++) {
        struct json *v = json_get(extra, repeated[i]);
        if (v)
            json_set(ev, repeated[i], json_clone(a, v));
    }
}

void render_event_v1(struct sync_run *run, struct event *ev, bool timeline, struct str membership, bool raw,
                     struct rope *out)
{
    struct event_extra x;
    struct rope text;
    struct json *v;
    /* Not the run's: a million events in one answer are possible, and their trees would not fit into it. */
    struct arena *a = arena_new((size_t)1 << 30);
    run_event_extra(run, ev, timeline, membership, &x);
    rope_init(&text);
    event_render_general(ev, &x, true, NULL, 0, &text);
    if (raw) {
        rope_rope(out, &text);
    } else if (json_parse(a, rope_flatten(&text, a), &v) == 0) {
        struct buf b;
        to_v1(a, v);
        buf_init(&b, 64 << 20);
        json_write(&b, v, JSON_SORTED);
        rope_put(out, buf_str(&b));
        buf_fini(&b);
    }
    rope_fini(&text);
    arena_free(&a);
}

void render_event_v1_prepare(struct sync_run *run, struct event *ev, bool timeline)
{
    struct event_extra x;
    run_event_extra(run, ev, timeline, STR_ABSENT, &x);
}
