/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The bytes of a notification: canonical JSON (UTF-8, sorted keys, no blanks), as Synapse 1.157
 * push/httppusher.py builds it.
 *
 * Written straight into the request's buffer in key order, from parts that are already JSON: the event's
 * content (made once for all recipients), the pusher's device object (once per registration) and the tweaks
 * (once per distinct text). Only names and ids are escaped here.
 */
#include "push_int.h"

enum { CANONICAL = JSON_SORTED | JSON_UTF8 };

bool payload_device(struct str app_id, struct str pushkey, int64_t ts, const struct json *data,
                    struct buf *out)
{
    buf_put(out, STR("{\"app_id\":"));
    json_write_str(out, app_id, CANONICAL);
    buf_put(out, STR(",\"data\":{"));
    /* The members in order, without the one that is for us: sort by writing a copy. */
    struct arena *a = arena_new(4 * DATA_BYTES_MAX);
    struct json *rest = json_clone(a, data);
    json_remove(rest, STR("url"));
    struct buf text;
    buf_init(&text, DATA_BYTES_MAX);
    json_write(&text, rest, CANONICAL);
    bool good = !text.failed && text.n >= 2;
    if (good)
        buf_put(out, str_n(text.p + 1, text.n - 2));
    buf_fini(&text);
    arena_free(&a);
    buf_put(out, STR("},\"pushkey\":"));
    json_write_str(out, pushkey, CANONICAL);
    /* int(ts / 1000), which cuts towards zero. */
    buf_printf(out, ",\"pushkey_ts\":%lld", (long long)(ts / 1000));
    return good && !out->failed;
}

bool payload_high(const struct push_action *a)
{
    return a->ev->encrypted || a->tweaks->high;
}

static void put_member(struct buf *b, const char *key, struct str value)
{
    buf_printf(b, ",\"%s\":", key);
    json_write_str(b, value, CANONICAL);
}

static void put_counts(struct buf *b, int64_t count, bool *comma)
{
    if (count < 0)
        return;
    buf_printf(b, "%s\"counts\":{\"unread\":%lld}", *comma ? "," : "", (long long)count);
    *comma = true;
}

static void put_device(struct buf *b, const struct pusher *ps, struct str tweaks, bool comma)
{
    buf_put(b, comma ? STR(",\"devices\":[") : STR("\"devices\":["));
    buf_put(b, ps->device);
    if (!str_absent(tweaks)) {
        buf_put(b, STR(",\"tweaks\":"));
        buf_put(b, tweaks);
    }
    buf_put(b, STR("}]"));
}

void payload_event(const struct pusher *ps, const struct push_action *a, int64_t count, struct buf *b)
{
    const struct push_event *ev = a->ev;
    bool full = !ps->event_id_only, comma = false;
    bool member = full && str_eq(ev->type, STR("m.room.member")) && !str_absent(ev->state_key);

    buf_put(b, STR("{\"notification\":{"));
    if (full && !str_absent(ev->content)) {
        buf_put(b, STR("\"content\":"));
        buf_put(b, ev->content);
        comma = true;
    }
    put_counts(b, count, &comma);
    put_device(b, ps, full ? a->tweaks->json : STR_ABSENT, comma);
    put_member(b, "event_id", ev->event_id);
    if (full)
        put_member(b, "id", ev->event_id);
    if (member) {
        buf_put(b, STR(",\"membership\":"));
        if (str_absent(ev->membership))
            buf_put(b, STR("null"));
        else
            json_write_str(b, ev->membership, CANONICAL);
    }
    buf_put(b, payload_high(a) ? STR(",\"prio\":\"high\"") : STR(",\"prio\":\"low\""));
    put_member(b, "room_id", pstr_str(ev->room));
    if (full) {
        struct push *p = ps->user->p;
        arena_reset(p->scratch);
        struct str room_name = push_room_name(ev, ps->user->id, p->scratch);
        if (room_name.n > 0)
            put_member(b, "room_name", room_name);
        if (!str_absent(ev->sender))
            put_member(b, "sender", ev->sender);
        if (ev->sender_name.n > 0)
            put_member(b, "sender_display_name", ev->sender_name);
        put_member(b, "type", ev->type);
        if (member)
            buf_put(b, str_eq(ev->state_key, ps->user->id) ? STR(",\"user_is_target\":true")
                                                           : STR(",\"user_is_target\":false"));
    }
    buf_put(b, STR("}}"));
}

void payload_badge(const struct pusher *ps, int64_t count, struct buf *b)
{
    bool comma = false;

    buf_put(b, STR("{\"notification\":{"));
    put_counts(b, count, &comma);
    put_device(b, ps, STR_ABSENT, comma);
    buf_put(b, STR(",\"id\":\"\",\"sender\":\"\",\"type\":null}}"));
}
