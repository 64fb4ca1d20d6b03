/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Rows of the pushers table: all of them in pages at start and once an hour, single ones when the pushers
 * stream names them.
 *
 * A row's id is its version: a registration writes a new one, and with it the position from which to tell. So
 * a row with another id than ours replaces the pusher; one with the same id changes nothing. Rows named by
 * the stream are read by key, one statement at a time: what is named again while its row is being read is
 * read once more, so an old answer never overtakes a new one. Rows of other kinds, and rows that cannot be
 * served, are left alone.
 *
 * Each row says whether anything unread lies above its position; only those users' actions are read (scan.c).
 * Sources: Synapse 1.157 push/pusherpool.py, push/httppusher.py, storage/databases/main/pusher.py.
 */
#include "push_int.h"

enum {
    ROW_ID,
    ROW_USER,
    ROW_APP,
    ROW_PUSHKEY,
    ROW_KIND,
    ROW_ENABLED,
    ROW_TS,
    ROW_DATA,
    ROW_DONE,
    ROW_SUCCESS,
    ROW_FAILING,
    ROW_EXPIRES,
    ROW_BEHIND
};

bool push_wanted(const struct config *cfg)
{
    return cfg->push.index >= 0;
}

static bool our_shard(const struct push *p, struct str user_id)
{
    return push_shard(user_id, p->cfg->push.instances_count) == (size_t)p->cfg->push.index;
}

static struct pusher *find(const struct push_user *u, struct str app_id, struct str pushkey)
{
    struct pusher *ps;

    if (u)
        list_each(ps, &u->pushers, struct pusher, of_user) {
            if (str_eq(ps->app_id, app_id) && str_eq(ps->pushkey, pushkey))
                return ps;
        }
    return NULL;
}

static void drop(struct pusher *ps)
{
    struct push_user *u = ps->user;

    pusher_kill(ps);
    if (u->pushers_count == 0)
        push_user_free(u);
}

/* ---- one row ---- */

static bool python_true(const struct json *v)
{
    return v && v->type != JSON_NULL && v->type != JSON_FALSE &&
           !(v->type == JSON_NUMBER && str_eq(v->s, STR("0"))) &&
           !((v->type == JSON_STRING) && v->s.n == 0) &&
           !((v->type == JSON_ARRAY || v->type == JSON_OBJECT) && v->count == 0);
}

/* The path of an URL, up to its query. */
static struct str url_path(struct str url)
{
    const char *p = memmem(url.p, url.n, "://", 3);
    size_t n;

    if (!p)
        return STR_ABSENT;
    p += 3;
    n = url.n - (size_t)(p - url.p);
    const char *slash = memchr(p, '/', n);
    if (!slash)
        return STR("");
    n -= (size_t)(slash - p);
    for (size_t i = 0; i < n; i++)
        if (slash[i] == '?' || slash[i] == '#' || slash[i] == ';')
            n = i;
    return str_n(slash, n);
}

static void complain(const struct pg_result *r, int i, const char *why)
{
    metric_add_l(M_push_rows_refused, why, 1);
    log_warning(PUSH_LOG, "pusher %lld of %.*s is not served: %s", (long long)pg_i64(r, i, ROW_ID),
                STR_ARG(pg_str(r, i, ROW_USER)), why);
}

static struct pusher *pusher_new(struct push *p, const struct pg_result *r, int i, const struct json *data,
                                 struct str url, struct origin *origin)
{
    struct str app = pg_str(r, i, ROW_APP), key = pg_str(r, i, ROW_PUSHKEY), format;
    struct buf device;
    struct pusher *ps;
    char *at;

    buf_init(&device, 2 * DATA_BYTES_MAX);
    if (!payload_device(app, key, pg_i64(r, i, ROW_TS), data, &device)) {
        buf_fini(&device);
        return NULL;
    }
    ps = xcalloc(1, sizeof *ps + app.n + key.n + url.n + device.n);
    at = ps->bytes;
#define TAKE(field, from)            \
    do {                             \
        struct str s_ = (from);      \
        if (s_.n)                    \
            memcpy(at, s_.p, s_.n);  \
        ps->field = str_n(at, s_.n); \
        at += s_.n;                  \
    } while (0)
    TAKE(app_id, app);
    TAKE(pushkey, key);
    TAKE(url, url);
    TAKE(device, buf_str(&device));
#undef TAKE
    buf_fini(&device);
    ps->p = p;
    ps->origin = origin;
    ps->id = pg_i64(r, i, ROW_ID);
    ps->badge_told = -1;
    format = json_get_str(data, STR("format"));
    ps->event_id_only = str_eq(format, STR("event_id_only"));
    ps->no_counts =
        p->cfg->push.msc4076 && python_true(json_get(data, STR("org.matrix.msc4076.disable_badge_count")));
    list_init(&ps->of_user);
    list_init(&ps->turn);
    list_init(&ps->dirty);
    list_init(&ps->removal);
    return ps;
}

/* Builds the pusher of a valid row, or says why there is none. */
static struct pusher *row_pusher(struct push *p, const struct pg_result *r, int i)
{
    struct str text = pg_str(r, i, ROW_DATA), url;
    struct json *data = NULL;
    struct origin *origin;
    struct pusher *ps;

    arena_reset(p->scratch);
    if (text.n > DATA_BYTES_MAX || json_parse(p->scratch, text, &data) != 0 || !json_is_object(data))
        return complain(r, i, "data is not a JSON object"), NULL;
    url = json_get_str(data, STR("url"));
    if (str_absent(url))
        return complain(r, i, "data has no url"), NULL;
    if (!str_eq(url_path(url), STR("/_matrix/push/v1/notify")))
        return complain(r, i, "the path of its url is not /_matrix/push/v1/notify"), NULL;
    origin = origin_get(p, url);
    if (!origin)
        return complain(r, i, "its url cannot be used"), NULL;
    ps = pusher_new(p, r, i, data, url, origin);
    if (!ps) {
        origin_unref(origin);
        complain(r, i, "it is too large");
    }
    return ps;
}

/* Where a new pusher of this row begins. probed: actions up to here were looked at by the statement. */
static void begin(struct push *p, struct push_user *u, struct pusher *ps, const struct pg_result *r, int i,
                  int64_t probed)
{
    bool fresh = u->pushers_count == 0;

    if (fresh) /* what a scan in progress has passed is read again as a backlog */
        u->queue_from = push_scan_midway(p) ? p->scan_upto : p->scanned;
    ps->user = u;
    ps->failing_since = pg_i64(r, i, ROW_FAILING);
    ps->last_success = pg_i64(r, i, ROW_SUCCESS);
    ps->done = pg_null(r, i, ROW_DONE) ? probed : pg_i64(r, i, ROW_DONE);
    if (!pg_i64(r, i, ROW_BEHIND) && ps->done < probed)
        ps->done = probed; /* nothing unread up to there; the row may say so later */
    u->expires_ms = p->cfg->account_validity ? pg_i64(r, i, ROW_EXPIRES) : 0;
    list_push(&u->pushers, &ps->of_user);
    u->pushers_count++;
    p->pushers_count++;
    metric_set_l(M_push_pushers, "http", (int64_t)p->pushers_count);
    if (ps->failing_since && !p->rows_ready) {
        /* After a restart those that failed come in one after the other, not all at once. */
        ps->state = PUSHER_WAIT;
        push_timer_set(p, &ps->timer, clock_mono_ms() + (int64_t)(rng_unit() * FAILING_START_MS));
    }
    push_user_wait(u);
}

static void row_apply(struct push *p, const struct pg_result *r, int i, int64_t probed)
{
    struct str user_id = pg_str(r, i, ROW_USER);
    struct push_user *u = push_user_find(p, user_id);
    struct pusher *old = find(u, pg_str(r, i, ROW_APP), pg_str(r, i, ROW_PUSHKEY));
    bool ours = our_shard(p, user_id);
    struct pusher *ps = NULL;

    if (ours && pg_i64(r, i, ROW_ENABLED) && str_eq(pg_str(r, i, ROW_KIND), STR("email")))
        p->email_pushers++;
    if (old && old->id >= pg_i64(r, i, ROW_ID) && pg_i64(r, i, ROW_ENABLED)) { /* ids only grow */
        old->seen = true;
        if (pg_i64(r, i, ROW_DONE) > old->done) /* another process served while the lock was not ours */
            old->done = pg_i64(r, i, ROW_DONE);
        u->expires_ms = p->cfg->account_validity ? pg_i64(r, i, ROW_EXPIRES) : 0;
        return;
    }
    if (ours && pg_i64(r, i, ROW_ENABLED) && str_eq(pg_str(r, i, ROW_KIND), STR("http")))
        ps = row_pusher(p, r, i);
    if (ps) {
        u = push_user_get(p, user_id);
        begin(p, u, ps, r, i, probed);
        ps->seen = true;
    }
    if (old)
        drop(old);
}

/* ---- the whole table ---- */

struct rows_load {
    struct push *p;
    int64_t probed;
};

static void page_load(struct push *p);

static void rows_end(struct push *p)
{
    struct push_user *u;
    size_t it = 0;

    p->rows_loading = false;
    p->rows_next_ms = p->rows_again ? 0 : clock_mono_ms() + REFRESH_MS;
    while ((u = smap_next(&p->users, &it))) {
        struct pusher *ps;
        size_t left = u->pushers_count;

        list_each(ps, &u->pushers, struct pusher, of_user) {
            if (!ps->seen) { /* deleted without a row of the stream */
                pusher_kill(ps);
                left--;
            }
        }
        if (left == 0)
            push_user_free(u);
    }
    if (!p->rows_ready) {
        p->rows_ready = true;
        log_info(PUSH_LOG, "serving %zu http pushers of %zu users, instance %d of %zu", p->pushers_count,
                 smap_count(&p->users), p->cfg->push.index + 1, p->cfg->push.instances_count);
        if (p->email_pushers > 0 && p->cfg->push.email_notifs)
            log_error(PUSH_LOG,
                      "%zu email pushers belong to users of this instance and are not served here: turn "
                      "email.enable_notifs off, or serve email from a worker of its own (README)",
                      p->email_pushers);
    }
    push_take_over(p);
    push_rows_flush(p);
    push_scan(p);
    push_waiting_advance(p);
}

static void on_page(void *arg, int err, const struct pg_result *r)
{
    struct rows_load *l = arg;
    struct push *p = l->p;
    int n = err ? 0 : pg_rows(r);

    if (p->stopping) {
        free(l);
        return;
    }
    for (int i = 0; i < n; i++) {
        row_apply(p, r, i, l->probed);
        p->rows_after = pg_i64(r, i, ROW_ID);
    }
    free(l);
    if (err) {
        p->rows_loading = false; /* the tick tries again */
        p->rows_next_ms = clock_mono_ms() + RETRY_MS;
        log_warning(PUSH_LOG, "the pushers could not be read: %s", err_text(err));
    } else if (n == PUSHERS_PAGE) {
        page_load(p);
    } else {
        rows_end(p);
    }
}

static void page_load(struct push *p)
{
    struct rows_load *l = xcalloc(1, sizeof *l);
    struct pg_args *args = pg_args_new();

    l->p = p;
    l->probed = p->scanned;
    pg_args_i64(args, p->rows_after);
    pg_args_i64(args, p->scanned);
    pg_args_i64(args, PUSHERS_PAGE);
    pg_exec(p->pg, SQL_push_rows, args, on_page, l);
}

void push_rows_load(struct push *p)
{
    struct push_user *u;
    struct pusher *ps;
    size_t it = 0;

    if (p->rows_loading)
        return;
    while ((u = smap_next(&p->users, &it))) {
        list_each(ps, &u->pushers, struct pusher, of_user)
            ps->seen = false;
        if (p->rows_ready)
            badge_cold(u); /* whatever the streams did not tell (purged history) */
    }
    p->rows_loading = true;
    p->rows_again = false;
    p->rows_after = -1;
    p->email_pushers = 0;
    page_load(p);
}

/* ---- single rows ---- */

struct changed_key {
    struct str key; /* user NUL app NUL pushkey */
    struct str user_id, app_id, pushkey;
    char bytes[];
};

static struct changed_key *changed_new(struct str user_id, struct str app_id, struct str pushkey)
{
    size_t n = user_id.n + app_id.n + pushkey.n + 2;
    struct changed_key *k = xcalloc(1, sizeof *k + n);

    memcpy(k->bytes, user_id.p, user_id.n);
    if (app_id.n)
        memcpy(k->bytes + user_id.n + 1, app_id.p, app_id.n);
    if (pushkey.n)
        memcpy(k->bytes + user_id.n + app_id.n + 2, pushkey.p, pushkey.n);
    k->key = str_n(k->bytes, n);
    k->user_id = str_n(k->bytes, user_id.n);
    k->app_id = str_n(k->bytes + user_id.n + 1, app_id.n);
    k->pushkey = str_n(k->bytes + user_id.n + app_id.n + 2, pushkey.n);
    return k;
}

void push_rows_changed(struct push *p, struct str user_id, struct str app_id, struct str pushkey,
                       bool deleted)
{
    struct pusher *ps;
    struct changed_key *k, *old;

    if (user_id.n == 0 || !our_shard(p, user_id))
        return;
    if (!p->rows_ready && !p->rows_loading) /* standing by: the table will be read */
        return;
    if (deleted && (ps = find(push_user_find(p, user_id), app_id, pushkey)))
        drop(ps);
    k = changed_new(user_id, app_id, pushkey);
    old = smap_put(&p->rows_changed, k->key, k);
    free(old);
}

void push_rows_changed_pusher(struct pusher *ps)
{
    push_rows_changed(ps->p, ps->user->id, ps->app_id, ps->pushkey, false);
}

struct rows_read {
    struct push *p;
    int64_t probed;
    struct changed_key **v;
    size_t n;
};

/* A key that was named again meanwhile is in the table again: its row will be read anew. */
static bool current(struct push *p, const struct changed_key *k)
{
    return smap_get(&p->rows_changed, k->key) == NULL;
}

static void on_changed(void *arg, int err, const struct pg_result *r)
{
    struct rows_read *q = arg;
    struct push *p = q->p;

    p->rows_reading = false;
    for (size_t j = 0; j < q->n && !p->stopping; j++) {
        struct changed_key *k = q->v[j];
        bool there = false;

        if (!current(p, k))
            continue;
        if (err) {
            push_rows_changed(p, k->user_id, k->app_id, k->pushkey, false);
            continue;
        }
        for (int i = 0; i < pg_rows(r) && !there; i++) {
            there = str_eq(pg_str(r, i, ROW_USER), k->user_id) && str_eq(pg_str(r, i, ROW_APP), k->app_id) &&
                    str_eq(pg_str(r, i, ROW_PUSHKEY), k->pushkey);
            if (there)
                row_apply(p, r, i, q->probed);
        }
        struct pusher *ps = there ? NULL : find(push_user_find(p, k->user_id), k->app_id, k->pushkey);
        if (ps)
            drop(ps);
    }
    for (size_t j = 0; j < q->n; j++)
        free(q->v[j]);
    free(q->v);
    free(q);
    if (p->stopping)
        return;
    if (!err)
        push_rows_flush(p);
    push_waiting_advance(p);
}

void push_rows_flush(struct push *p)
{
    size_t n = smap_count(&p->rows_changed), it = 0, got = 0;
    struct str *users, *apps, *keys;
    struct changed_key *k;
    struct rows_read *q;

    if (n == 0 || p->rows_reading || p->rows_loading || !p->rows_ready || p->stopping)
        return;
    n = n < CHANGED_MAX ? n : CHANGED_MAX;
    q = xcalloc(1, sizeof *q);
    q->v = xcalloc(n, sizeof *q->v);
    q->p = p;
    q->probed = p->scanned;
    users = xcalloc(3 * n, sizeof *users);
    apps = users + n;
    keys = apps + n;
    while (got < n && (k = smap_next(&p->rows_changed, &it))) {
        smap_del(&p->rows_changed, k->key);
        users[got] = k->user_id;
        apps[got] = k->app_id;
        keys[got] = k->pushkey;
        q->v[got++] = k;
    }
    q->n = got;
    struct pg_args *args = pg_args_new();
    pg_args_text_array(args, users, got);
    pg_args_text_array(args, apps, got);
    pg_args_text_array(args, keys, got);
    pg_args_i64(args, p->scanned);
    p->rows_reading = true;
    pg_exec(p->pg, SQL_push_rows_of, args, on_changed, q);
    free(users);
}
