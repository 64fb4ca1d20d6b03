/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The endpoints before /sync: their parameters, and what their computations share (sync-v3 section 9; Synapse
 * 1.157 rest/client/{events,initial_sync,room}.py, streams/config.py). Old clients and bots still use them;
 * they are held to be right, not fast.
 *
 * They go the way of a /sync (request.c, park.c): the same run over the model, told what it lacks. Whether a
 * room is blocked, and whether it is in the directory, no stream tells: one statement asks for all rooms of a
 * request. They join nobody and nothing of them is kept.
 */
#include "legacy.h"

enum { LIMIT_MAX = 1000, LIMIT_DEFAULT = 10, TIMEOUT_MIN_MS = 500, TIMEOUT_DEFAULT_MS = 30000 };

bool legacy_path(struct str path, enum legacy_kind *kind, struct str *room_id)
{
    static const char *const versions[] = {"api/v1/", "r0/", "v3/", "unstable/"};
    struct str rest = STR_ABSENT;
    *room_id = STR_ABSENT;
    if (!str_starts(path, STR("/_matrix/client/")))
        return false;
    path = str_n(path.p + 16, path.n - 16);
    for (size_t i = 0; i < sizeof versions / sizeof *versions && str_absent(rest); i++) {
        if (str_starts(path, str_of(versions[i])))
            rest = str_n(path.p + strlen(versions[i]), path.n - strlen(versions[i]));
    }
    if (str_eq(rest, STR("events"))) {
        *kind = LEGACY_EVENTS;
        return true;
    }
    if (str_eq(rest, STR("initialSync"))) {
        *kind = LEGACY_ALL_ROOMS;
        return true;
    }
    if (str_absent(rest) || !str_starts(rest, STR("rooms/")) || !str_ends(rest, STR("/initialSync")) ||
        rest.n < 18)
        return false;
    *kind = LEGACY_ONE_ROOM;
    *room_id = str_n(rest.p + 6, rest.n - 18);
    return str_find(*room_id, '/') < 0;
}

struct legacy *legacy_new(enum legacy_kind kind, struct str room_id)
{
    struct legacy *l = xcalloc(1, sizeof *l);
    l->kind = kind;
    l->a = arena_new(64 << 20);
    if (!str_absent(room_id))
        l->room_id = url_decode(l->a, room_id, false);
    smap_init(&l->facts);
    return l;
}

void legacy_free(struct legacy **lp)
{
    struct legacy *l = *lp;
    if (!l)
        return;
    smap_fini(&l->facts);
    vec_free(&l->unknown);
    arena_free(&l->a);
    free(l);
    *lp = NULL;
}

/* ---- parameters ---- */

/* Any token will do, those of /messages too; only the place in the stream counts. */
static bool parse_token(struct str text, struct stream_token *out)
{
    if (token_parse(text, feed_writer_known, out))
        return false;
    out->historical = false;
    out->topological = 0;
    return true;
}

static bool parse_pagination(struct sync_req *r)
{
    struct legacy *l = req_legacy(r);
    struct stream_token to;
    struct str dir = http_query(r->http, STR("dir")), v = http_query(r->http, STR("from"));
    int64_t limit = LIMIT_DEFAULT;
    if (!str_absent(dir) && !str_eq(dir, STR("f")) && !str_eq(dir, STR("b"))) {
        req_error(r, 400, "M_INVALID_PARAM", "Query parameter 'dir' must be one of ['b', 'f']");
        return false;
    }
    if (v.n && !str_eq(v, STR("END"))) {
        l->placed = parse_token(v, &l->from);
        if (!l->placed) {
            req_error(r, 400, "M_UNKNOWN", "'from' parameter is invalid");
            return false;
        }
    }
    v = http_query(r->http, STR("to"));
    if (v.n && !parse_token(v, &to)) {
        req_error(r, 400, "M_UNKNOWN", "'to' parameter is invalid");
        return false;
    }
    v = http_query(r->http, STR("limit"));
    if (!str_absent(v) && str_to_i64_lax(v, &limit)) {
        req_error(r, 400, "M_INVALID_PARAM", "Query parameter limit must be an integer");
        return false;
    }
    if (limit < 0) {
        req_error(r, 400, "M_INVALID_PARAM", "Query parameter limit must be a positive integer.");
        return false;
    }
    l->limit = limit > LIMIT_MAX ? LIMIT_MAX : (size_t)limit;
    return true;
}

/* At least half a second, and a tenth more or less, so that polls do not all end together. */
static bool parse_events(struct sync_req *r)
{
    struct str v = http_query(r->http, STR("timeout"));
    int64_t ms = TIMEOUT_DEFAULT_MS;
    if (!str_absent(v) && str_to_i64_lax(v, &ms)) {
        req_error(r, 400, "M_UNKNOWN", "timeout must be in milliseconds.");
        return false;
    }
    if (ms) {
        ms = ms < TIMEOUT_MIN_MS              ? TIMEOUT_MIN_MS
             : ms > r->s->cfg->timeout_max_ms ? r->s->cfg->timeout_max_ms
                                              : ms;
        ms = ms * 9 / 10 + (int64_t)(rng_u64() % (uint64_t)(ms / 5 + 1));
    }
    r->timeout_ms = (int32_t)ms;
    return true;
}

static bool parse_archived(struct sync_req *r)
{
    struct str v = http_query(r->http, STR("archived"));
    struct legacy *l = req_legacy(r);
    l->archived = str_eq(v, STR("true"));
    if (!str_absent(v) && !l->archived && !str_eq(v, STR("false"))) {
        req_error(r, 400, "M_INVALID_PARAM",
                  "Boolean query parameter 'archived' must be one of ['true', 'false']");
        return false;
    }
    return true;
}

void legacy_begin(struct sync_req *r)
{
    struct legacy *l = req_legacy(r);
    struct err e;
    if (l->kind == LEGACY_EVENTS) {
        struct str room = http_query(r->http, STR("room_id"));
        if (req_requester(r)->is_guest && !http_query_has(r->http, STR("room_id"))) {
            req_error(r, 400, "M_UNKNOWN", "Guest users must specify room_id param");
            return;
        }
        if (room.n)
            l->room_id = arena_str(l->a, room);
    }
    l->raw = http_query_has(r->http, STR("raw")) && l->kind != LEGACY_ONE_ROOM;
    if (!parse_pagination(r) || (l->kind == LEGACY_EVENTS && !parse_events(r)) ||
        (l->kind == LEGACY_ALL_ROOMS && !parse_archived(r)))
        return;
    ASSERT(filter_parse_with(STR("{\"event_format\":\"federation\"}"), 0, &r->f, &e) == 0);
    r->deadline_ms = clock_mono_ms() + r->timeout_ms;
    r->initial = l->kind != LEGACY_EVENTS;
    if (l->kind == LEGACY_EVENTS && !req_requester(r)->is_guest)
        req_affect_presence(r, STR("online"));
    req_watch(r);
    if (r->http->gone) {
        http_drop(&r->http);
        req_finish(r);
        return;
    }
    req_admit(r);
}

/* ---- facts about rooms ---- */

const struct room_fact *legacy_fact(struct legacy *l, struct sync_run *run, struct str room_id)
{
    static const struct room_fact none;
    struct room_fact *f = smap_get(&l->facts, room_id);
    if (f)
        return f;
    if (!str_storable(room_id)) /* no row can have it */
        return &none;
    f = ARENA_NEW(l->a, struct room_fact);
    f->room_id = arena_str(l->a, room_id);
    smap_put(&l->facts, f->room_id, f);
    vec_push(&l->unknown, f->room_id);
    (void)run;
    return NULL;
}

static void on_facts(void *arg, int err, const struct pg_result *res)
{
    struct sync_req *r = sequences_end(arg);
    if (!r)
        return;
    if (err) {
        req_error(r, 500, "M_UNKNOWN", "Internal server error");
        return;
    }
    for (int i = 0; i < pg_rows(res); i++) {
        struct room_fact *f = smap_get(&req_legacy(r)->facts, pg_str(res, i, 0));
        if (f) {
            f->is_public = pg_i64(res, i, 1) != 0;
            f->blocked = pg_i64(res, i, 2) != 0;
        }
    }
    req_make_ready(r);
}

bool legacy_load(struct sync_req *r)
{
    struct legacy *l = req_legacy(r);
    if (!l->unknown.n)
        return false;
    struct pg_args *args = pg_args_new();
    pg_args_text_array(args, l->unknown.v, l->unknown.n);
    l->unknown.n = 0;
    pg_exec(r->s->pg, SQL_room_facts, args, on_facts, sequences_begin(r));
    return true;
}

/* ---- shared by the computations ---- */

void legacy_refuse(struct legacy *l, struct sync_run *run, int status, const char *errcode, struct str error)
{
    l->status = status;
    l->errcode = errcode;
    l->error = arena_str(l->a, error);
    run->broken = true;
}

bool legacy_joined(struct sync_run *run)
{
    struct user *u = run->u;
    if (!run_have(run, model_user_rooms(run->m, u)))
        return false;
    run->joined = ARENA_ARRAY(run->a, struct room *, kmap_count(&u->rooms) + 1);
    size_t it = 0;
    for (struct membership_row *row; (row = kmap_next(&u->rooms, &it));) {
        if (!mpos_covers(&run->now.room, row->writer, row->stream))
            run->ahead = true;
        if (row->membership != MEMBERSHIP_JOIN)
            continue;
        run->joined[run->joined_count++] = row->room;
    }
    return !run->ahead;
}

struct room *legacy_joined_room(const struct sync_run *run, struct str room_id)
{
    const struct membership_row *row = kmap_get(&run->u->rooms, room_id);
    return row && row->membership == MEMBERSHIP_JOIN ? row->room : NULL;
}

bool legacy_world_readable(struct sync_run *run, struct str room_id, bool *yes)
{
    struct event *ev;
    *yes = false;
    if (!str_storable(room_id))
        return true;
    struct room *room = model_room(run->m, room_id);
    if (!run_have(run, model_room_state(run->m, room)))
        return !run->lack;
    struct state_entry *e = room_state_get(room, STR("m.room.history_visibility"), STR(""));
    if (!e)
        return true;
    enum have h = model_event(run->m, e->rec, &ev);
    *yes = run_have(run, h) && str_eq(ev->history_visibility, STR("world_readable"));
    return h != LACK;
}

void legacy_account_item(struct sync_run *run, struct str type, struct str content, struct str room_id,
                         bool *comma, struct rope *out)
{
    rope_put(out, *comma ? STR(",{\"type\":") : STR("{\"type\":"));
    *comma = true;
    rope_json_str(run, out, type);
    rope_put(out, STR(",\"content\":"));
    rope_put(out, content);
    if (!str_absent(room_id)) {
        rope_put(out, STR(",\"room_id\":"));
        rope_json_str(run, out, room_id);
    }
    rope_put(out, STR("}"));
}

void legacy_room_account(struct sync_run *run, struct str room_id, struct rope *out)
{
    struct user *u = run->u;
    struct room_tags *t = smap_get(&u->more->tags, room_id);
    bool comma = false;
    size_t it = 0;
    if (t && t->any)
        legacy_account_item(run, STR("m.tag"), t->content, STR_ABSENT, &comma, out);
    for (struct account_datum *d; (d = smap_next(&u->more->room_account_data, &it));) {
        if (str_eq(d->room_id, room_id) && !run_account_deleted(run, true, d->content))
            legacy_account_item(run, d->type, d->content, STR_ABSENT, &comma, out);
    }
}

void legacy_with_room(struct sync_run *run, struct str event, struct str room_id, struct rope *out)
{
    rope_put(out, STR("{\"room_id\":"));
    rope_json_str(run, out, room_id);
    rope_put(out, STR(","));
    rope_put(out, str_n(event.p + 1, event.n - 1));
}

void legacy_presence(struct sync_run *run, struct str user_id, bool *comma, struct rope *out)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    buf_put(&b, *comma ? STR(",{\"type\":\"m.presence\",\"content\":{")
                       : STR("{\"type\":\"m.presence\",\"content\":{"));
    *comma = true;
    put_presence_members(run, &b, user_id);
    buf_put(&b, STR(",\"user_id\":"));
    json_write_str(&b, user_id, 0);
    buf_put(&b, STR("}}"));
    rope_put(out, buf_str(&b));
    buf_fini(&b);
}

enum run_result legacy_run(struct legacy *l, struct sync_run *run, struct rope *out)
{
    enum run_result res = RUN_BROKEN;
    metric_add_own(M_sync_computes, 1);
    sync_run_init(run);
    l->status = 0;
    switch (l->kind) {
    case LEGACY_EVENTS:
        res = legacy_events(l, run, out);
        break;
    case LEGACY_ALL_ROOMS:
        res = legacy_all_rooms(l, run, out);
        break;
    case LEGACY_ONE_ROOM:
        res = legacy_one_room(l, run, out);
        break;
    }
    return run->lack || run->ahead || l->unknown.n ? RUN_LACK : run->broken ? RUN_BROKEN : res;
}

/* Nothing can be computed now: nothing new, where the client stands. */
void legacy_render_empty(struct legacy *l, struct sync_run *run, struct rope *out)
{
    struct str at = render_token(run, l->placed ? &l->from : model_now(run->m));
    rope_put(out, STR("{\"chunk\":[],\"start\":\""));
    rope_put(out, at);
    rope_put(out, STR("\",\"end\":\""));
    rope_put(out, at);
    rope_put(out, STR("\"}"));
}
