/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The class of access tokens, and the requesters that come out of it.
 *
 * The key is the SHA-256 of the token: the cache holds nothing that could be used to log in. The token itself
 * is kept only while its lookup is pending and overwritten after that. A row is the token joined with its
 * user and the account's end, so that one statement answers everything the checks of internal.c need; any
 * invalidation of the user drops it.
 *
 * Tens of thousands wait with a requester each, so a requester is an entry of the cache (struct known): what
 * is asked for is an entry of its own until the row comes, and then the requester takes its place.
 *
 * All live requesters stand in rings by user, and those that the cache does not have (any more) in rings by
 * token: so an invalidation finds whoever still holds one, and through it the parked requests. The rings go
 * by 64-bit hashes; a collision costs a check too many and nothing else. A device needs no index of its own:
 * for tokens of the database the token row is the truth, and whatever is said about a device makes all
 * requesters of its user suspect.
 */
#include "auth_int.h"

static int64_t ring_key_token(const uint64_t key[4])
{
    return (int64_t)key[0];
}

static char *put(char *to, struct str s)
{
    if (s.n)
        memcpy(to, s.p, s.n);
    return to + s.n;
}

/* One allocation: the basis of those that have one, the entry, the requester, and the texts behind them. */
struct requester *requester_new(struct auth *a, enum requester_kind kind, struct str user_id,
                                struct str device_id, struct str owner_id, const uint64_t key[4])
{
    struct str owner = str_eq(owner_id, user_id) ? STR_ABSENT : owner_id;
    ASSERT(user_id.n <= UINT32_MAX && device_id.n <= UINT32_MAX && owner.n <= UINT32_MAX);
    size_t texts = user_id.n + device_id.n + owner.n;
    size_t basis = kind == REQUESTER_USER ? 0 : offsetof(struct based, k);
    char *mem =
        mem_new(MEM_tokens, basis + offsetof(struct known, r) + offsetof(struct requester, text) + texts);
    struct known *k = (struct known *)(void *)(mem + basis);
    struct requester *r = &k->r;

    r->refs = 1;
    r->auth = a;
    r->kind = kind;
    r->has_device = !str_absent(device_id);
    r->user_n = (uint32_t)user_id.n;
    r->device_n = (uint32_t)device_id.n;
    r->owner_n = (uint32_t)owner.n;
    put(put(put(r->text, user_id), device_id), owner);
    memcpy(r->token_key, key, sizeof r->token_key);
    list_init(&k->e.waiters);
    ring_add(&a->requesters_by_user, ring_key_user(requester_user(r)), &r->by_user);
    ring_add(&a->loose_by_token, ring_key_token(r->token_key), &k->e.lru);
    a->requesters_n++;
    return r;
}

struct requester *requester_ref(struct requester *r)
{
    r->refs++;
    return r;
}

void requester_unref(struct requester **rp)
{
    struct requester *r = *rp;

    *rp = NULL;
    if (!r)
        return;
    ASSERT(r->refs > 0);
    if (--r->refs)
        return;
    ASSERT(!r->watches);
    basis_fini(r);
    if (r->auth) {
        ring_del(&r->auth->requesters_by_user, ring_key_user(requester_user(r)), &r->by_user);
        ring_del(&r->auth->loose_by_token, ring_key_token(r->token_key), &entry_of(r)->lru);
        r->auth->requesters_n--;
    }
    struct known *k = container_of(r, struct known, r);
    mem_free(MEM_tokens, r->kind == REQUESTER_USER ? (void *)k : container_of(k, struct based, k));
}

struct str requester_owner(const struct requester *r)
{
    return r->owner_n ? str_n(r->text + r->user_n + r->device_n, r->owner_n) : requester_user(r);
}

const char *requester_log_name(const struct requester *r, struct http_req *req)
{
    struct str user = requester_user(r), owner = requester_owner(r);
    if (!r->owner_n) {
        char *name = http_room(req, user.n + 1);
        memcpy(name, user.p, user.n);
        name[user.n] = 0;
        return name;
    }
    return arena_printf(http_arena(req), "%.*s|%.*s", STR_ARG(owner), STR_ARG(user)).p;
}

/* Columns of auth_tokens and auth_tokens_by_id:
 * 0 place, 1 user, 2 owner, 3 device, 4 id, 5 valid_until_ms, 6 used, 7 refreshable, 8 is_guest, 9 admin,
 * 10 shadow_banned, 11 locked, 12 expiration_ts_ms */
struct requester *requester_from_row(struct auth *a, const uint64_t key[4], const struct pg_result *res,
                                     int row)
{
    struct requester *r =
        requester_new(a, REQUESTER_USER, pg_str(res, row, 1), pg_str(res, row, 3), pg_str(res, row, 2), key);

    r->token_id = pg_i64(res, row, 4);
    r->valid_until_ms = pg_i64(res, row, 5);
    if (!pg_null(res, row, 5) && r->valid_until_ms <= 0)
        r->valid_until_ms = 1; /* 0 is a moment too, long past */
    r->used = pg_i64(res, row, 6) != 0;
    r->refreshable = pg_i64(res, row, 7) != 0;
    r->is_guest = pg_i64(res, row, 8) != 0;
    r->is_admin = pg_i64(res, row, 9) != 0;
    r->shadow_banned = pg_i64(res, row, 10) != 0;
    r->locked = pg_i64(res, row, 11) != 0;
    if (a->cfg->account_validity && !pg_null(res, row, 12)) {
        r->account_expires_ms = pg_i64(res, row, 12);
        if (r->account_expires_ms <= 0)
            r->account_expires_ms = 1;
    }
    return r;
}

static struct centry *tok_make(struct cache *c, struct str key)
{
    struct tok_entry *t = MEM_NEW(MEM_tokens, struct tok_entry);

    (void)c;
    ASSERT(key.n == sizeof t->hash);
    memcpy(t->hash, key.p, key.n);
    t->e.key = str_n((const char *)t->hash, sizeof t->hash);
    return &t->e;
}

static void tok_free(struct cache *c, struct centry *e)
{
    (void)c;
    if (e->of_requester) {
        struct requester *r = &container_of(e, struct known, e)->r;
        e->of_requester = e->doomed = false;
        e->state = CE_NEW;
        requester_unref(&r);
        return;
    }
    struct tok_entry *t = container_of(e, struct tok_entry, e);
    secret_free(&t->token);
    mem_free(MEM_tokens, t);
}

static struct pg_args *tok_args(struct centry **v, size_t n)
{
    struct pg_args *args = pg_args_new();
    struct str *tokens = xcalloc(n, sizeof *tokens);

    for (size_t i = 0; i < n; i++) {
        const struct tok_entry *t = container_of(v[i], struct tok_entry, e);
        tokens[i] = str_n(t->token, t->e.secret_n);
    }
    pg_args_text_array(args, tokens, n);
    free(tokens);
    return args;
}

static void tok_forget(struct cache *c, struct centry *e)
{
    struct tok_entry *t = container_of(e, struct tok_entry, e);

    (void)c;
    if (!e->of_requester)
        requester_unref(&t->r);
}

static void tok_absorb(struct cache *c, struct centry *e, const struct pg_result *r, int row)
{
    struct tok_entry *t = container_of(e, struct tok_entry, e);

    tok_forget(c, e);
    t->r = requester_from_row(c->a, t->hash, r, row);
}

struct centry *token_found(struct cache *c, struct centry *e)
{
    struct tok_entry *t = container_of(e, struct tok_entry, e);
    struct centry *found = entry_of(t->r);

    found->key = str_n((const char *)t->r->token_key, sizeof t->r->token_key);
    found->of_requester = true; /* with the count that t had */
    t->r = NULL;
    while (!list_empty(&e->waiters)) {
        struct list *w = e->waiters.next;
        list_del(w);
        list_push(&found->waiters, w);
    }
    struct centry *before = kmap_put(MEM_tokens, &c->by_key, found);
    ASSERT(before == e);
    tok_free(c, e);
    return found;
}

void token_kept(struct cache *c, struct centry *e)
{
    const struct requester *r = &container_of(e, struct known, e)->r;

    ring_del(&c->a->loose_by_token, ring_key_token(r->token_key), &e->lru);
}

void token_loose(struct cache *c, struct centry *e)
{
    const struct requester *r = &container_of(e, struct known, e)->r;

    ring_add(&c->a->loose_by_token, ring_key_token(r->token_key), &e->lru);
}

static uint64_t tok_touched(struct cache *c, struct centry *e)
{
    const struct requester *r = container_of(e, struct tok_entry, e)->r;

    return c->a->user_seq[(size_t)ring_key_user(requester_user(r)) & (AUTH_SHARDS - 1)];
}

const struct cache_class cache_tokens = {"tokens", SQL_auth_tokens, tok_make,   tok_free,
                                         tok_args, tok_absorb,      tok_forget, tok_touched};
