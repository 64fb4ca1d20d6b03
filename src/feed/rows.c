/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Typed rows of every stream, from the JSON arrays of RDATA (and of the replication HTTP endpoint, which has
 * the same shape). A row may have more elements than we know: a newer homeserver adds at the end. One that is
 * shorter, or has another type where we look, is refused: the caller then reads that stretch from the
 * database.
 *
 * Each stream is one function over a cursor that remembers whether anything was wrong, so a row's description
 * reads like the table of its columns.
 */
#include "feed_int.h"

static const struct {
    const char *wire, *db;
} streams[STREAM_COUNT] = {
#define X(id, wire, db) [STREAM_##id] = {wire, db},
    STREAM_MAP(X)
#undef X
};

const char *stream_name(enum stream s)
{
    ASSERT((unsigned)s < STREAM_COUNT);
    return streams[s].wire;
}

const char *stream_db_name(enum stream s)
{
    ASSERT((unsigned)s < STREAM_COUNT);
    return streams[s].db;
}

int stream_find(struct str wire_name)
{
    for (int i = 0; i < STREAM_COUNT; i++)
        if (str_eq(wire_name, str_of(streams[i].wire)))
            return i;
    return -1;
}

/* Queues of federation senders. */
bool stream_ignored(struct str wire_name)
{
    return str_eq(wire_name, STR("federation")) || str_eq(wire_name, STR("presence_federation"));
}

struct cursor {
    struct arena *a;
    const struct json *at;
    bool bad;
};

static const struct json *next(struct cursor *c)
{
    const struct json *v = c->at;

    if (!v) {
        c->bad = true;
        return NULL;
    }
    c->at = v->next;
    return v;
}

static struct str str_col(struct cursor *c)
{
    const struct json *v = next(c);

    if (!v || v->type != JSON_STRING) {
        c->bad = true;
        return STR_ABSENT;
    }
    return v->s.p ? v->s : STR("");
}

static struct str str_or_null(struct cursor *c)
{
    if (c->at && c->at->type == JSON_NULL) {
        next(c);
        return STR_ABSENT;
    }
    return str_col(c);
}

static bool bool_col(struct cursor *c)
{
    const struct json *v = next(c);

    if (!v || (v->type != JSON_TRUE && v->type != JSON_FALSE))
        c->bad = true;
    return v && v->type == JSON_TRUE;
}

static int64_t int_col(struct cursor *c)
{
    int64_t n = 0;

    if (!json_int(next(c), &n))
        c->bad = true;
    return n;
}

static int64_t int_or_null(struct cursor *c)
{
    if (c->at && c->at->type == JSON_NULL) {
        next(c);
        return 0;
    }
    return int_col(c);
}

/* An array of strings; elements may be null when nullable. */
static const struct str *strs_col(struct cursor *c, size_t *count, bool nullable)
{
    const struct json *v = next(c);
    struct str *out;
    size_t n = 0;

    *count = 0;
    if (!json_is_array(v)) {
        c->bad = true;
        return NULL;
    }
    out = arena_try_alloc(c->a, sizeof *out * (v->count + 1));
    if (!out) {
        c->bad = true;
        return NULL;
    }
    json_each(e, v) {
        if (e->type == JSON_STRING)
            out[n++] = e->s.p ? e->s : STR("");
        else if (nullable && e->type == JSON_NULL)
            out[n++] = STR_ABSENT;
        else
            c->bad = true;
    }
    *count = n;
    return out;
}

/* An object, written out again as text. */
static struct str object_col(struct cursor *c)
{
    const struct json *v = next(c);
    struct buf b;
    struct str s;

    if (!json_is_object(v)) {
        c->bad = true;
        return STR_ABSENT;
    }
    buf_init(&b, FEED_PENDING_BYTES_MAX);
    json_write(&b, v, 0);
    s = STR_ABSENT;
    char *p = b.failed ? NULL : arena_try_alloc(c->a, b.n + 1);
    if (p) {
        memcpy(p, b.p, b.n);
        s = str_n(p, b.n);
    } else {
        c->bad = true;
    }
    buf_fini(&b);
    return s;
}

static void ev_columns(struct cursor *c, struct feed_row *r)
{
    r->ev.kind = EV_ROW_EV;
    r->ev.event_id = str_col(c);
    r->ev.room_id = str_col(c);
    r->ev.type = str_col(c);
    r->ev.state_key = str_or_null(c);
    r->ev.redacts = str_or_null(c);
    r->ev.relates_to = str_or_null(c);
    r->ev.membership = str_or_null(c);
    r->ev.rejected = bool_col(c);
    r->ev.outlier = bool_col(c);
}

static void state_columns(struct cursor *c, struct feed_row *r)
{
    r->ev.kind = EV_ROW_STATE;
    r->ev.room_id = str_col(c);
    r->ev.type = str_col(c);
    r->ev.state_key = str_col(c);
    r->ev.event_id = str_or_null(c);
}

static void events_row(struct cursor *c, struct feed_row *r)
{
    struct str kind = str_col(c);
    const struct json *body = next(c);

    if (!json_is_array(body)) {
        c->bad = true;
        return;
    }
    c->at = body->child;
    if (str_eq(kind, STR("ev"))) {
        ev_columns(c, r);
    } else if (str_eq(kind, STR("state"))) {
        state_columns(c, r);
    } else if (str_eq(kind, STR("state-all"))) {
        r->ev.kind = EV_ROW_STATE_ALL;
        r->ev.room_id = str_col(c);
    } else {
        c->bad = true;
    }
}

static void backfill_row(struct cursor *c, struct feed_row *r)
{
    r->backfill.event_id = str_col(c);
    r->backfill.room_id = str_col(c);
    r->backfill.type = str_col(c);
    r->backfill.state_key = str_or_null(c);
    r->backfill.redacts = str_or_null(c);
    r->backfill.relates_to = str_or_null(c);
}

static void presence_row(struct cursor *c, struct feed_row *r)
{
    r->presence.user_id = str_col(c);
    r->presence.state = str_col(c);
    r->presence.last_active_ts = int_or_null(c);
    r->presence.last_federation_update_ts = int_or_null(c);
    r->presence.last_user_sync_ts = int_or_null(c);
    r->presence.status_msg = str_or_null(c);
    r->presence.currently_active = bool_col(c);
}

static void typing_row(struct cursor *c, struct feed_row *r)
{
    r->typing.room_id = str_col(c);
    r->typing.user_ids = strs_col(c, &r->typing.user_ids_count, false);
}

static void receipts_row(struct cursor *c, struct feed_row *r)
{
    r->receipt.room_id = str_col(c);
    r->receipt.receipt_type = str_col(c);
    r->receipt.user_id = str_col(c);
    r->receipt.event_id = str_col(c);
    r->receipt.thread_id = str_or_null(c);
    r->receipt.data = object_col(c);
}

static void account_data_row(struct cursor *c, struct feed_row *r)
{
    r->account_data.user_id = str_col(c);
    r->account_data.room_id = str_or_null(c);
    r->account_data.type = str_col(c);
}

static void user_row(struct cursor *c, struct feed_row *r)
{
    r->user.user_id = str_col(c);
}

static void pushers_row(struct cursor *c, struct feed_row *r)
{
    r->pusher.user_id = str_col(c);
    r->pusher.app_id = str_col(c);
    r->pusher.pushkey = str_col(c);
    r->pusher.deleted = bool_col(c);
}

static void device_lists_row(struct cursor *c, struct feed_row *r)
{
    r->device_list.user_id = str_col(c);
    r->device_list.is_signature = bool_col(c);
    r->device_list.hosts_calculated = bool_col(c);
}

static void un_partial_room_row(struct cursor *c, struct feed_row *r)
{
    r->room.room_id = str_col(c);
}

static void un_partial_event_row(struct cursor *c, struct feed_row *r)
{
    r->room.event_id = str_col(c);
    r->room.flag = bool_col(c);
}

static void thread_row(struct cursor *c, struct feed_row *r)
{
    r->thread.user_id = str_col(c);
    r->thread.room_id = str_col(c);
    r->thread.event_id = str_col(c);
}

static void sticky_row(struct cursor *c, struct feed_row *r)
{
    r->room.room_id = str_col(c);
    r->room.event_id = str_col(c);
}

/* Only the position matters; the slots are borrowed: origin (null: local), media id, quarantined. */
static void quarantined_row(struct cursor *c, struct feed_row *r)
{
    r->room.room_id = str_or_null(c);
    r->room.event_id = str_col(c);
    r->room.flag = bool_col(c);
}

/* Only the position matters: user, what happened, names of fields. */
static void profile_row(struct cursor *c, struct feed_row *r)
{
    r->user.user_id = str_col(c);
    (void)str_col(c);
}

static void caches_row(struct cursor *c, struct feed_row *r)
{
    r->cache.func = str_col(c);
    if (c->at && c->at->type == JSON_NULL) {
        next(c);
        r->cache.all = true;
    } else {
        r->cache.keys = strs_col(c, &r->cache.keys_count, true);
    }
    r->cache.ts = int_or_null(c);
}

static void (*const row_readers[STREAM_COUNT])(struct cursor *, struct feed_row *) = {
    [STREAM_EVENTS] = events_row,
    [STREAM_BACKFILL] = backfill_row,
    [STREAM_PRESENCE] = presence_row,
    [STREAM_TYPING] = typing_row,
    [STREAM_RECEIPTS] = receipts_row,
    [STREAM_ACCOUNT_DATA] = account_data_row,
    [STREAM_PUSH_RULES] = user_row,
    [STREAM_PUSHERS] = pushers_row,
    [STREAM_TO_DEVICE] = user_row,
    [STREAM_DEVICE_LISTS] = device_lists_row,
    [STREAM_UN_PARTIAL_STATED_ROOM] = un_partial_room_row,
    [STREAM_UN_PARTIAL_STATED_EVENT] = un_partial_event_row,
    [STREAM_THREAD_SUBSCRIPTIONS] = thread_row,
    [STREAM_STICKY_EVENTS] = sticky_row,
    [STREAM_QUARANTINED_MEDIA] = quarantined_row,
    [STREAM_PROFILE_UPDATES] = profile_row,
    [STREAM_CACHES] = caches_row,
};

int row_parse(struct arena *a, enum stream s, const struct json *j, struct feed_row *out)
{
    struct cursor c = {.a = a};

    ASSERT((unsigned)s < STREAM_COUNT);
    memset(out, 0, sizeof *out);
    if (!json_is_array(j))
        return -ERR_PARSE;
    c.at = j->child;
    row_readers[s](&c, out);
    return c.bad ? -ERR_PARSE : 0;
}

int row_parse_text(struct arena *a, enum stream s, struct str text, struct feed_row *out)
{
    struct json *j = NULL;
    int err = json_parse(a, text, &j);

    return err ? err : row_parse(a, s, j, out);
}
