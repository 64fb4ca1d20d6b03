/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What a user has set up: account data, tags, push rules, ignored users, stored filters. Complete copies per
 * user; a replication row marks the part it concerns stale, and the next reader has it refreshed, for all
 * such users at once.
 */
#include "chappe/json.h"
#include "model_int.h"

/* ---- a want and a load, the same for every part of a user ---- */

typedef __typeof__(((struct model *)0)->want_rooms) user_vec;

static enum have part_have(struct model *m, struct user *u, struct user_part *p, user_vec *queue)
{
    if (p->load == LOAD_DONE && !p->stale)
        return HAVE;
    if (p->load == LOAD_NONE || p->load == LOAD_DONE) {
        p->load = LOAD_QUEUED;
        vec_push(queue, u);
        loader_kick(m);
    }
    return LACK;
}

static void part_loaded(struct user_part *p, bool ok, uint32_t gen)
{
    p->load = ok ? LOAD_DONE : LOAD_NONE;
    p->stale = p->gen != gen;
}

static void part_send(struct model *m, struct batch *b, user_vec *queue,
                      struct user_part *(*part)(struct user *), load_done_fn *done, enum pg_stmt stmt,
                      bool with_lo)
{
    size_t n = queue->n;
    if (n == 0)
        return;
    struct load_op *op = load_op_new(m, b, done);
    op->at_i64 = positions_persisted_upto(m->pos[STREAM_ACCOUNT_DATA]);
    struct str *ids = xmalloc(sizeof *ids * n);
    int64_t *lo = xmalloc(sizeof *lo * n);
    for (size_t i = 0; i < n; i++) {
        struct user *u = queue->v[i];
        struct user_part *p = part(u);
        p->load = LOAD_BUSY;
        ids[i] = u->user_id;
        lo[i] = u->more->ad_upto;
        vec_push(&op->targets, u);
        vec_push(&op->gens, p->gen);
    }
    struct pg_args *args = pg_args_new();
    pg_args_text_array(args, ids, n);
    if (with_lo)
        pg_args_i64_array(args, lo, n);
    free(ids);
    free(lo);
    queue->n = 0;
    load_op_send(op, stmt, args);
}

static struct user_part *part_ad(struct user *u)
{
    return &u->parts.account_data;
}
static struct user_part *part_tags(struct user *u)
{
    return &u->parts.tags;
}
static struct user_part *part_push_rules(struct user *u)
{
    return &u->parts.push_rules;
}
static struct user_part *part_ignored(struct user *u)
{
    return &u->parts.ignored;
}

/* ---- account data ---- */

enum have model_account_data(struct model *m, struct user *u)
{
    return part_have(m, u, part_ad(u), &m->want_account_data);
}

static void datum_free(struct account_datum *d)
{
    mem_free(MEM_users, d);
}

static void datum_put(struct smap *map, struct str room_id, struct str type, struct str content,
                      int64_t stream)
{
    struct account_datum *d = mem_new(MEM_users, sizeof *d + room_id.n + 1 + type.n + 1 + content.n + 1);
    char *p = (char *)(d + 1);
    size_t n = 0;
    if (!str_absent(room_id)) {
        memcpy(p, room_id.p, room_id.n);
        d->room_id = str_n(p, room_id.n);
        p[room_id.n] = 0;
        n = room_id.n + 1;
    }
    memcpy(p + n, type.p, type.n);
    d->type = str_n(p + n, type.n);
    d->key = str_n(p, n + type.n);
    p[n + type.n] = 0;
    memcpy(p + n + type.n + 1, content.p ? content.p : "", content.n);
    d->content = str_n(p + n + type.n + 1, content.n);
    d->stream = stream;
    datum_free(smap_put(map, d->key, d));
}

/* The content as we send it: re-encoded, since what is stored may hold blanks and raw UTF-8. Absent: not an
 * object. */
static struct str normalise(struct arena *a, struct buf *b, struct str text)
{
    struct json *v;
    if (json_parse(a, text, &v) || !json_is_object(v)) {
        metric_add_l(M_model_poisoned, "account_data", 1);
        return STR_ABSENT;
    }
    buf_reset(b);
    json_write(b, v, 0);
    return buf_str(b);
}

static void on_account_data(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    struct arena *a = arena_new(64 << 20);
    struct buf b;
    buf_init(&b, 64 << 20);
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct user *u = kmap_get(&m->users, pg_str(r, i, 0));
        if (!u)
            continue;
        struct str room_id = pg_str(r, i, 1), content = normalise(a, &b, pg_str(r, i, 3));
        int64_t stream = pg_i64(r, i, 4);
        struct user_more *more = model_user_more(u);
        if (!str_absent(content))
            datum_put(str_absent(room_id) ? &more->account_data : &more->room_account_data, room_id,
                      pg_str(r, i, 2), content, stream);
        if (stream > more->ad_last)
            more->ad_last = stream;
        arena_reset(a);
    }
    buf_fini(&b);
    arena_free(&a);
    for (size_t i = 0; i < op->targets.n; i++) {
        struct user *u = op->targets.v[i];
        /* Not beyond what everybody had written by then: rows below the newest may be committed later. */
        if (r && u->more->ad_last)
            u->more->ad_upto = u->more->ad_last < op->at_i64 ? u->more->ad_last : op->at_i64;
        part_loaded(part_ad(u), r != NULL, op->gens.v[i]);
    }
}

/* A row of the account_data stream. */
void account_row(struct model *m, struct user *u, struct str type)
{
    (void)m;
    if (str_eq(type, STR("m.tag"))) {
        part_touch(part_tags(u));
        return;
    }
    part_touch(part_ad(u));
    if (str_eq(type, STR("m.ignored_user_list")))
        part_touch(part_ignored(u));
}

/* ---- tags ---- */

enum have model_tags(struct model *m, struct user *u)
{
    return part_have(m, u, part_tags(u), &m->want_tags);
}

static void tags_clear(struct user *u)
{
    if (!smap_count(&u->more->tags))
        return;
    size_t it = 0;
    for (struct room_tags *t; (t = smap_next(&u->more->tags, &it));) {
        mem_free(MEM_users, t);
    }
    smap_fini(&u->more->tags);
    u->more->tags_newest = 0;
}

static void tags_put(struct user *u, struct str room_id, int64_t revision, struct buf *content, bool any)
{
    buf_put(content, STR("}}"));
    struct room_tags *t = mem_new(MEM_users, sizeof *t + room_id.n + content->n + 1);
    char *p = (char *)(t + 1);
    memcpy(p, room_id.p, room_id.n);
    memcpy(p + room_id.n, content->p, content->n);
    t->room_id = str_n(p, room_id.n);
    t->content = str_n(p + room_id.n, content->n);
    t->revision = revision;
    struct user_more *more = model_user_more(u);
    more->tags_newest = revision > more->tags_newest ? revision : more->tags_newest;
    t->any = any;
    mem_free(MEM_users, smap_put(&more->tags, t->room_id, t));
}

static void on_tags(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    for (size_t i = 0; i < op->targets.n; i++) {
        if (r)
            tags_clear(op->targets.v[i]);
    }
    struct buf b;
    buf_init(&b, 16 << 20);
    struct arena *a = arena_new(64 << 20);
    int n = r ? pg_rows(r) : 0;
    bool any = false;
    for (int i = 0; i < n; i++) {
        struct str user_id = pg_str(r, i, 0), room_id = pg_str(r, i, 1);
        if (b.n == 0)
            buf_put(&b, STR("{\"tags\":{"));
        struct json *v;
        bool tag = !pg_null(r, i, 3), fits = tag && !json_parse(a, pg_str(r, i, 4), &v) && json_is_object(v);
        if (tag && !fits)
            metric_add_l(M_model_poisoned, "tag", 1);
        if (fits) {
            if (any)
                buf_putc(&b, ',');
            json_write_str(&b, pg_str(r, i, 3), 0);
            buf_putc(&b, ':');
            json_write(&b, v, 0);
            any = true;
        }
        arena_reset(a);
        bool last =
            i + 1 == n || !str_eq(user_id, pg_str(r, i + 1, 0)) || !str_eq(room_id, pg_str(r, i + 1, 1));
        if (!last)
            continue;
        struct user *u = kmap_get(&m->users, user_id);
        if (u && !b.failed)
            tags_put(u, room_id, pg_i64(r, i, 2), &b, any);
        buf_reset(&b);
        any = false;
    }
    buf_fini(&b);
    arena_free(&a);
    for (size_t i = 0; i < op->targets.n; i++)
        part_loaded(part_tags(op->targets.v[i]), r != NULL, op->gens.v[i]);
}

/* ---- push rules ---- */

enum have model_push_rules_position(struct model *m, struct user *u)
{
    return part_have(m, u, part_push_rules(u), &m->want_push_rules);
}

/* The content is several KiB a user and wanted once or twice in its life: it is dropped by account_shrink and
 * read again when it is wanted again. */
enum have model_push_rules(struct model *m, struct user *u)
{
    if (u->parts.push_rules.load == LOAD_DONE && !u->more->push_rules)
        u->parts.push_rules.load = LOAD_NONE;
    return model_push_rules_position(m, u);
}

void account_shrink(struct user *u)
{
    if (u->parts.push_rules.load != LOAD_DONE || !u->more->push_rules)
        return;
    blob_unref(&u->more->push_rules);
    model_user_more_drop(u);
}

static unsigned push_rules_features(const struct config *cfg)
{
    return (cfg->msc4210_enabled ? PUSH_RULES_MSC4210 : 0u) |
           (cfg->msc1767_enabled ? PUSH_RULES_MSC1767 : 0u) |
           (cfg->msc3664_enabled ? PUSH_RULES_MSC3664 : 0u) |
           (cfg->msc3381_polls_enabled ? PUSH_RULES_MSC3381 : 0u) |
           (cfg->msc4028_push_encrypted_events ? PUSH_RULES_MSC4028 : 0u) |
           (cfg->msc4306_enabled ? PUSH_RULES_MSC4306 : 0u);
}

static void push_rules_take(struct model *m, struct user *u, const struct pg_result *r)
{
    VEC(struct push_rule_row) rules = {0};
    VEC(struct push_rule_enable_row) enables = {0};
    struct user_more *more = model_user_more(u);
    more->push_rules_stream = 0;
    for (int i = 0; i < pg_rows(r); i++) {
        if (!str_eq(pg_str(r, i, 1), u->user_id))
            continue;
        switch (pg_i64(r, i, 0)) {
        case 0:
            vec_push(&rules, ((struct push_rule_row){pg_str(r, i, 2), pg_str(r, i, 5), pg_str(r, i, 6),
                                                     pg_i64(r, i, 3), pg_i64(r, i, 4)}));
            break;
        case 1:
            vec_push(&enables, ((struct push_rule_enable_row){pg_str(r, i, 2), pg_i64(r, i, 3) != 0}));
            break;
        default:
            more->push_rules_stream = pg_i64(r, i, 3);
        }
    }
    struct buf b;
    buf_init(&b, 16 << 20);
    push_rules_render(&b, u->user_id, rules.v, rules.n, enables.v, enables.n, push_rules_features(m->cfg));
    blob_unref(&more->push_rules);
    more->push_rules = blob_from_buf(&b);
    buf_fini(&b);
    vec_free(&rules);
    vec_free(&enables);
}

static void on_push_rules(struct load_op *op, const struct pg_result *r)
{
    for (size_t i = 0; i < op->targets.n; i++) {
        struct user *u = op->targets.v[i];
        if (r)
            push_rules_take(op->m, u, r);
        part_loaded(part_push_rules(u), r != NULL, op->gens.v[i]);
    }
}

/* ---- ignored users ---- */

enum have model_ignored(struct model *m, struct user *u)
{
    return part_have(m, u, part_ignored(u), &m->want_ignored);
}

static void ignored_clear(struct user *u)
{
    if (!smap_count(&u->more->ignored))
        return;
    size_t it = 0;
    for (struct str *s; (s = smap_next(&u->more->ignored, &it));)
        mem_free(MEM_users, s);
    smap_fini(&u->more->ignored);
}

static void on_ignored(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    for (size_t i = 0; i < op->targets.n; i++) {
        if (r)
            ignored_clear(op->targets.v[i]);
    }
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct user *u = kmap_get(&m->users, pg_str(r, i, 0));
        struct str id = pg_str(r, i, 1);
        if (!u)
            continue;
        struct str *s = mem_new(MEM_users, sizeof *s + id.n + 1);
        memcpy(s + 1, id.p, id.n);
        *s = str_n((char *)(s + 1), id.n);
        mem_free(MEM_users, smap_put(&model_user_more(u)->ignored, *s, s));
    }
    for (size_t i = 0; i < op->targets.n; i++)
        part_loaded(part_ignored(op->targets.v[i]), r != NULL, op->gens.v[i]);
}

/* ---- presence sent in full once (module API) ---- */

enum have model_full_presence(struct model *m, struct user *u)
{
    if (u->parts.full_presence.load == LOAD_DONE)
        return HAVE;
    if (u->parts.full_presence.load == LOAD_NONE) {
        u->parts.full_presence.load = LOAD_QUEUED;
        vec_push(&m->want_full_presence, u);
        loader_kick(m);
    }
    return LACK;
}

static void on_full_presence(struct load_op *op, const struct pg_result *r)
{
    for (size_t i = 0; i < op->targets.n; i++) {
        struct user *u = op->targets.v[i];
        u->parts.full_presence.load =
            r && u->parts.full_presence.gen == op->gens.v[i] ? LOAD_DONE : LOAD_NONE;
        u->full_presence = false;
    }
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct user *u = kmap_get(&op->m->users, pg_str(r, i, 0));
        if (u) {
            u->full_presence = true;
            model_user_more(u)->full_presence_stream = pg_i64(r, i, 1);
        }
    }
}

/* ---- experimental features for one user ---- */

static struct user_part *part_features(struct user *u)
{
    return &u->parts.features;
}

enum have model_features(struct model *m, struct user *u)
{
    return part_have(m, u, part_features(u), &m->want_features);
}

static void on_features(struct load_op *op, const struct pg_result *r)
{
    for (size_t i = 0; r && i < op->targets.n; i++)
        ((struct user *)op->targets.v[i])->msc4222 = false;
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct user *u = kmap_get(&op->m->users, pg_str(r, i, 0));
        if (u && str_eq(pg_str(r, i, 1), STR("msc4222")))
            u->msc4222 = true;
    }
    for (size_t i = 0; i < op->targets.n; i++)
        part_loaded(part_features(op->targets.v[i]), r != NULL, op->gens.v[i]);
}

/* ---- stored filters ---- */

void filters_fini(struct model *m)
{
    size_t it = 0;
    for (struct filter_slot *s; (s = smap_next(&m->filters, &it));) {
        filter_unref(&s->filter);
        mem_free(MEM_filters, s);
    }
    smap_fini(&m->filters);
}

/* Filters are append-only per user, so a found one never changes; a missing one may appear, so it is not
 * remembered. */
enum have model_stored_filter(struct model *m, struct user *u, int64_t filter_id, struct filter **out)
{
    char key[600];
    size_t n = u->user_id.n + sizeof filter_id;
    *out = NULL;
    if (n > sizeof key)
        return ABSENT;
    memcpy(key, u->user_id.p, u->user_id.n);
    memcpy(key + u->user_id.n, &filter_id, sizeof filter_id);
    struct filter_slot *s = smap_get(&m->filters, str_n(key, n));
    if (s && s->load == LOAD_DONE) {
        *out = s->filter;
        if (s->filter)
            return HAVE;
        smap_del(&m->filters, s->key);
        mem_free(MEM_filters, s);
        return ABSENT;
    }
    if (!s) {
        s = mem_new(MEM_filters, sizeof *s + n);
        memcpy(s + 1, key, n);
        s->key = str_n((char *)(s + 1), n);
        s->id = filter_id;
        s->user = u;
        smap_put(&m->filters, s->key, s);
    }
    if (s->load == LOAD_NONE) {
        s->load = LOAD_QUEUED;
        vec_push(&m->want_filters, s);
        loader_kick(m);
    }
    return LACK;
}

static void on_filters(struct load_op *op, const struct pg_result *r)
{
    for (size_t i = 0; i < op->targets.n; i++) {
        struct filter_slot *s = op->targets.v[i];
        s->load = r ? LOAD_DONE : LOAD_NONE;
        for (int k = 0; r && k < pg_rows(r); k++) {
            if (pg_i64(r, k, 1) != s->id || !str_eq(pg_str(r, k, 0), s->user->user_id))
                continue;
            struct err e;
            int flags = (op->m->cfg->msc3874_enabled ? FILTER_MSC3874 : 0) |
                        (op->m->cfg->msc3773_enabled ? FILTER_MSC3773 : 0);
            if (filter_shared(pg_str(r, k, 2), flags, -1, &s->filter, &e))
                metric_add_l(M_model_poisoned, "filter", 1);
        }
    }
}

static void filters_flush(struct model *m, struct batch *b)
{
    size_t n = m->want_filters.n;
    if (n == 0)
        return;
    struct load_op *op = load_op_new(m, b, on_filters);
    struct str *users = xmalloc(sizeof *users * n);
    int64_t *ids = xmalloc(sizeof *ids * n);
    for (size_t i = 0; i < n; i++) {
        struct filter_slot *s = m->want_filters.v[i];
        s->load = LOAD_BUSY;
        users[i] = s->user->user_id;
        ids[i] = s->id;
        vec_push(&op->targets, s);
    }
    struct pg_args *args = pg_args_new();
    pg_args_text_array(args, users, n);
    pg_args_i64_array(args, ids, n);
    free(users);
    free(ids);
    m->want_filters.n = 0;
    load_op_send(op, SQL_filters_by_id, args);
}

/* ---- all of it ---- */

static struct user_part *part_full_presence(struct user *u)
{
    return &u->parts.full_presence;
}

void account_flush(struct model *m, struct batch *b)
{
    part_send(m, b, &m->want_account_data, part_ad, on_account_data, SQL_account_data_of_users, true);
    part_send(m, b, &m->want_tags, part_tags, on_tags, SQL_tags_of_users, false);
    part_send(m, b, &m->want_push_rules, part_push_rules, on_push_rules, SQL_push_rules_of_users, false);
    part_send(m, b, &m->want_ignored, part_ignored, on_ignored, SQL_ignored_of_users, false);
    part_send(m, b, &m->want_full_presence, part_full_presence, on_full_presence, SQL_full_presence_of_users,
              false);
    part_send(m, b, &m->want_features, part_features, on_features, SQL_features_of_users, false);
    filters_flush(m, b);
}

void account_free(struct model *m, struct user *u)
{
    size_t it = 0;
    if (u->more != &user_more_none) {
        for (struct account_datum *d; (d = smap_next(&u->more->account_data, &it));)
            datum_free(d);
        smap_fini(&u->more->account_data);
        it = 0;
        for (struct account_datum *d; (d = smap_next(&u->more->room_account_data, &it));)
            datum_free(d);
        smap_fini(&u->more->room_account_data);
        tags_clear(u);
        smap_fini(&u->more->tags);
        ignored_clear(u);
        smap_fini(&u->more->ignored);
        blob_unref(&u->more->push_rules);
    }
    /* Slots of stored filters name their user. */
    it = 0;
    for (struct filter_slot *s; (s = smap_next(&m->filters, &it));) {
        if (s->user == u) {
            smap_del(&m->filters, s->key);
            filter_unref(&s->filter);
            mem_free(MEM_filters, s);
        }
    }
}
