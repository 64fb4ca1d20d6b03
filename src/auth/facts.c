/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The classes of users, devices and MAU rows: what guests, application services, introspected tokens and the
 * MAU limit need to know about rows other than tokens.
 *
 * Keys are the ids themselves (user; user, NUL, device), so an invalidation finds a pending lookup by its key
 * and no sequence numbers are needed. Devices also stand in rings by user: one row of the caches stream may
 * drop all devices of a user. The MAU class has two kinds of keys: a user, whose row says that it belongs to
 * the active users, and the empty key, whose only row is the count of them.
 */
#include "auth_int.h"

struct str device_key(struct buf *b, struct str user, struct str device)
{
    buf_put(b, user);
    buf_putc(b, '\0');
    buf_put(b, device);
    ASSERT(!b->failed);
    return buf_str(b);
}

static struct centry *fact_make(struct cache *c, struct str key)
{
    struct fact_entry *f = mem_new(MEM_tokens, sizeof *f + key.n + 1);

    if (key.n)
        memcpy(f->key, key.p, key.n);
    f->e.key = str_n(f->key, key.n);
    list_init(&f->by_user);
    if (c->class == &cache_devices) {
        f->user_n = strlen(f->key);
        ring_add(&c->by_user, ring_key_user(str_n(f->key, f->user_n)), &f->by_user);
    }
    return &f->e;
}

static void fact_free(struct cache *c, struct centry *e)
{
    struct fact_entry *f = container_of(e, struct fact_entry, e);

    if (c->class == &cache_devices)
        ring_del(&c->by_user, ring_key_user(str_n(f->key, f->user_n)), &f->by_user);
    mem_free(MEM_tokens, f);
}

static void fact_forget(struct cache *c, struct centry *e)
{
    /* Nobody rests on what is too old, or was pending: it has a sequence number there, as a time long past.
     */
    if (clock_mono_coarse_ms() - e->loaded_ms >= c->found_ms)
        return;
    if (c->class == &cache_users)
        basis_void_user(c->a, e->key);
    else if (c->class == &cache_devices)
        basis_void_user(c->a, str_n(e->key.p, container_of(e, struct fact_entry, e)->user_n));
}

/* Users of an application service may have a trial of their own (Synapse 1.157
 * storage/databases/main/registration.py, is_trial_user). */
static int64_t trial_days(const struct config *cfg, struct str app_service)
{
    for (size_t i = 0; i < cfg->mau_appservice_trials_count && app_service.n; i++) {
        if (str_eq(cfg->mau_appservice_trials[i].id, app_service))
            return cfg->mau_appservice_trials[i].days;
    }
    return cfg->mau_trial_days;
}

/* Columns of auth_users: 0 place, 1 is_guest, 2 admin, 3 shadow_banned, 4 locked, 5 support, 6 the
 * application service's id or empty, 7 creation_ts, 8 expiration_ts_ms */
static void user_absorb(struct cache *c, struct centry *e, const struct pg_result *r, int row)
{
    struct user_fact *u = &container_of(e, struct fact_entry, e)->user;

    u->guest = pg_i64(r, row, 1) != 0;
    u->admin = pg_i64(r, row, 2) != 0;
    u->shadow_banned = pg_i64(r, row, 3) != 0;
    u->locked = pg_i64(r, row, 4) != 0;
    u->support = pg_i64(r, row, 5) != 0;
    u->app_service = pg_str(r, row, 6).n != 0;
    u->trial_days = trial_days(c->a->cfg, pg_str(r, row, 6));
    u->creation_s = pg_i64(r, row, 7);
    u->expires_ms = pg_null(r, row, 8) ? 0 : pg_i64(r, row, 8) > 0 ? pg_i64(r, row, 8) : 1;
}

static void device_absorb(struct cache *c, struct centry *e, const struct pg_result *r, int row)
{
    (void)c;
    (void)e;
    (void)r;
    (void)row;
}

static void mau_absorb(struct cache *c, struct centry *e, const struct pg_result *r, int row)
{
    (void)c;
    container_of(e, struct fact_entry, e)->n = pg_i64(r, row, 1);
}

static struct pg_args *fact_args(struct centry **v, size_t n)
{
    struct pg_args *args = pg_args_new();
    struct str *keys = xcalloc(n, sizeof *keys);

    for (size_t i = 0; i < n; i++)
        keys[i] = v[i]->key;
    pg_args_text_array(args, keys, n);
    free(keys);
    return args;
}

static struct pg_args *device_args(struct centry **v, size_t n)
{
    struct pg_args *args = pg_args_new();
    struct str *parts = xcalloc(n, sizeof *parts);

    for (size_t i = 0; i < n; i++)
        parts[i] = str_n(v[i]->key.p, container_of(v[i], struct fact_entry, e)->user_n);
    pg_args_text_array(args, parts, n);
    for (size_t i = 0; i < n; i++) {
        size_t skip = container_of(v[i], struct fact_entry, e)->user_n + 1;
        parts[i] = str_n(v[i]->key.p + skip, v[i]->key.n - skip);
    }
    pg_args_text_array(args, parts, n);
    free(parts);
    return args;
}

const struct cache_class cache_users = {"users",   SQL_auth_users, fact_make,   fact_free,
                                        fact_args, user_absorb,    fact_forget, NULL};
const struct cache_class cache_devices = {"devices",   SQL_auth_devices, fact_make,   fact_free,
                                          device_args, device_absorb,    fact_forget, NULL};
const struct cache_class cache_mau = {"mau",     SQL_auth_mau, fact_make,   fact_free,
                                      fact_args, mau_absorb,   fact_forget, NULL};
