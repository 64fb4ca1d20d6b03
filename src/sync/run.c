/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * One run of the sync computation, section by section in Synapse's order (sync-v3 3.2), and the envelope.
 */
#include "sync_int.h"

void user_set_init(struct user_set *s)
{
    smap_init(&s->map);
    s->v.v = NULL;
    s->v.n = s->v.cap = 0;
}

void user_set_fini(struct user_set *s)
{
    smap_fini(&s->map);
    vec_free(&s->v);
}

void user_set_add(struct user_set *s, struct str id)
{
    if (smap_get(&s->map, id))
        return;
    smap_put(&s->map, id, (void *)(uintptr_t)id.p);
    vec_push(&s->v, id);
}

void user_set_del(struct user_set *s, struct str id)
{
    if (!smap_del(&s->map, id))
        return;
    for (size_t i = 0; i < s->v.n; i++) {
        if (str_eq(s->v.v[i], id)) {
            memmove(&s->v.v[i], &s->v.v[i + 1], (s->v.n - 1 - i) * sizeof id);
            s->v.n--;
            return;
        }
    }
}

bool user_set_has(const struct user_set *s, struct str id)
{
    return smap_get(&s->map, id) != NULL;
}

/* ---- global account data ---- */

static bool account_matches(struct sync_run *run, struct str type, struct str content)
{
    return filter_match_datum(&run->f->account_data, NULL, type, content);
}

static void put_datum(struct buf *b, struct str type, struct str content)
{
    buf_put(b, b->n ? STR(",{\"type\":") : STR("{\"type\":"));
    json_write_str(b, type, 0);
    buf_put(b, STR(",\"content\":"));
    buf_put(b, content);
    buf_putc(b, '}');
}

bool run_account_deleted(const struct sync_run *run, bool all, struct str content)
{
    return run->cfg->msc3391_enabled && all && str_eq(content, STR("{}"));
}

static void run_account_data(struct sync_run *run)
{
    if (filter_blocks_section(&run->f->account_data, false))
        return;
    struct user *u = run->u;
    bool all = !run->has_since || run->full_state;
    bool ok = run_have(run, model_account_data(run->m, u));
    ok &= run_have(run, model_push_rules_position(run->m, u));
    bool rules =
        all || (ok && u->more->push_rules_stream > run->since.push_rules && u->more->push_rules_stream > 0);
    ok = ok && (!rules || run_have(run, model_push_rules(run->m, u)));
    if (!ok)
        return;
    struct buf b;
    buf_init(&b, 64 << 20);
    size_t it = 0;
    for (struct account_datum *d; (all || u->more->ad_last > run->since.account_data) &&
                                  (d = smap_next(&u->more->account_data, &it));) {
        if (run_account_deleted(run, all, d->content))
            continue;
        if ((all || d->stream > run->since.account_data) && !str_eq(d->type, STR("m.push_rules")) &&
            account_matches(run, d->type, d->content))
            put_datum(&b, d->type, d->content);
    }
    if (rules && u->more->push_rules &&
        account_matches(run, STR("m.push_rules"), blob_str(u->more->push_rules)))
        put_datum(&b, STR("m.push_rules"), blob_str(u->more->push_rules));
    if (b.n)
        run->account_events = arena_str(run->a, buf_str(&b));
    buf_fini(&b);
}

/* ---- the envelope ---- */

static void put_user_list(struct sync_run *run, struct rope *out, const struct user_set *s)
{
    for (size_t i = 0; i < s->v.n; i++) {
        rope_put(out, i ? STR(",") : STR("["));
        rope_json_str(run, out, s->v.v[i]);
    }
    rope_put(out, STR("]"));
}

static void put_to_device(struct sync_run *run, struct rope *out)
{
    int64_t since = run->has_since ? run->since.to_device : 0;
    rope_put(out, STR(",\"to_device\":{\"events\":["));
    size_t n = 0;
    bool comma = false;
    for (size_t i = 0; i < run->d->td.n && n < run->to_device_count; i++) {
        if (run->d->td.v[i].stream <= since)
            continue;
        n++;
        if (!run->d->td.v[i].json)
            continue;
        if (comma)
            rope_put(out, STR(","));
        comma = true;
        rope_blob(out, run->d->td.v[i].json);
    }
    rope_put(out, STR("]}"));
}

static void put_keys(struct sync_run *run, struct rope *out)
{
    if (run->d && (!run->d->otk_json || !run->d->fallback_json))
        return; /* not known (an empty answer while the database is away): saying "none" would make clients
                   upload keys */
    /* Of a device whose keys have not been looked at (a held poll that ends) nothing is said: an empty count
     * would make its client upload keys anew. */
    if (run->d && !run->d->otk_json)
        return;
    rope_put(out, STR(",\"device_one_time_keys_count\":"));
    if (run->d && run->d->otk_json)
        rope_blob(out, run->d->otk_json);
    else
        rope_put(out, STR("{}"));
    rope_put(out, STR(",\"device_unused_fallback_key_types\":"));
    if (run->d && run->d->fallback_json)
        rope_blob(out, run->d->fallback_json);
    else
        rope_put(out, STR("[]"));
}

static void put_events(struct rope *out, struct str name, struct str events)
{
    if (str_absent(events))
        return;
    rope_put(out, STR(",\""));
    rope_put(out, name);
    rope_put(out, STR("\":{\"events\":["));
    rope_put(out, events);
    rope_put(out, STR("]}"));
}

void sync_render(struct sync_run *run, struct rope *out, const struct stream_token *next)
{
    rope_put(out, STR("{\"next_batch\":\""));
    rope_put(out, render_token(run, next));
    rope_put(out, STR("\""));
    put_events(out, STR("account_data"), run->account_events);
    put_events(out, STR("presence"), run->presence_events);
    if (run->to_device_count)
        put_to_device(run, out);
    if (run->changed.v.n || run->left.v.n) {
        rope_put(out, STR(",\"device_lists\":{"));
        if (run->changed.v.n) {
            rope_put(out, STR("\"changed\":"));
            put_user_list(run, out, &run->changed);
        }
        if (run->left.v.n) {
            rope_put(out, run->changed.v.n ? STR(",\"left\":") : STR("\"left\":"));
            put_user_list(run, out, &run->left);
        }
        rope_put(out, STR("}"));
    }
    put_keys(run, out);
    if (run->emitted || run->invites || run->knocks)
        render_rooms(run, out);
    rope_put(out, STR("}"));
}

void sync_render_empty(struct sync_run *run, const struct stream_token *next, struct rope *out)
{
    sync_render(run, out, next);
}

void sync_run_init(struct sync_run *run)
{
    run->entries_tail = &run->entries;
    run->invites_tail = &run->invites;
    run->knocks_tail = &run->knocks;
    run->emitted_tail = &run->emitted;
    user_set_init(&run->newly_joined_rooms);
    user_set_init(&run->newly_left_rooms);
    user_set_init(&run->newly_joined_users);
    user_set_init(&run->newly_left_users);
    user_set_init(&run->changed);
    user_set_init(&run->left);
    run->now = *model_now(run->m);
    if (!run->wall_ms)
        run->wall_ms = clock_wall_coarse_ms();
}

void sync_run_fini(struct sync_run *run)
{
    user_set_fini(&run->newly_joined_rooms);
    user_set_fini(&run->newly_left_rooms);
    user_set_fini(&run->newly_joined_users);
    user_set_fini(&run->newly_left_users);
    user_set_fini(&run->changed);
    user_set_fini(&run->left);
    for (struct room_entry *en = run->emitted; en; en = en->next_emitted) {
        shared_unref(&en->shared);
        whole_unref(&en->whole);
    }
    for (size_t i = 0; i < run->pruned.n; i++)
        event_free(&run->pruned.v[i]);
    vec_free(&run->pruned);
    smap_fini(&run->room_data);
    vec_free(&run->ll);
    vec_free(&run->ll_used);
}

static bool nonempty(const struct sync_run *run)
{
    return !str_absent(run->account_events) || !str_absent(run->presence_events) || run->to_device_count ||
           run->changed.v.n || run->left.v.n || run->emitted || run->invites || run->knocks;
}

enum run_result sync_compute(struct sync_run *run, struct rope *out, struct stream_token *next)
{
    sync_run_init(run);
    ll_begin(run);
    run_account_data(run);
    /* With all rooms blocked an initial sync needs them only for presence (sync-v3 8.4). */
    bool presence = run->cfg->presence.enabled && !filter_blocks_section(&run->f->presence, false);
    if (!filter_blocks_all_rooms(run->f) || presence || run->has_since) {
        run_rooms(run);
        if (!run->ahead) {
            run_entries(run);
            run_user_changes(run);
            run_presence(run);
            run_device_lists(run);
        }
    }
    if (run->broken)
        return RUN_BROKEN;
    run_to_device(run);
    render_events_prepare(run);
    if (run->lack || run->ahead)
        return RUN_LACK;
    *next = run->now;
    if (run->to_device_upto)
        next->to_device = run->to_device_upto;
    bool any = nonempty(run);
    if (any || !run->may_park)
        sync_render(run, out, next);
    return any ? RUN_DONE : RUN_EMPTY;
}

enum run_result sync_run(struct sync_run *run, struct rope *out, struct stream_token *next)
{
    metric_add_own(M_sync_computes, 1);
    enum run_result res = sync_compute(run, out, next);
    if (res == RUN_DONE || res == RUN_EMPTY) {
        if (run->shortcut && run->cfg->check_shortcuts)
            run_check(run, res, out);
        ll_commit(run);
    }
    return res;
}
