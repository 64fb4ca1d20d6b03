/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Rows of the caches stream (reference 1.15, synapse-replication 5.4).
 *
 * Synapse names its own caches; the table says which of our entries each name means. A row does two things:
 * it drops what is cached, and makes suspect every live requester it concerns, whose parked requests watch.c
 * then checks within the turn. A row without keys means the whole cache. Unknown names are somebody else's.
 *
 * get_device is a tree on Synapse's side: a one-element key stands for all devices of the user, so every row
 * of that name drops them all. A pair is a new or renamed device: no reason to doubt tokens of the database.
 */
#include "auth_int.h"

enum subject { ABOUT_TOKEN, ABOUT_USER, ABOUT_DEVICE, ABOUT_MAU_USER, ABOUT_MAU_COUNT };

static const struct {
    struct str func;
    enum subject subject;
} rules[] = {
#define RULE(name, subject)               \
    {                                     \
        {name, sizeof(name) - 1}, subject \
    }
    RULE("get_user_by_access_token", ABOUT_TOKEN),
    RULE("get_device", ABOUT_DEVICE),
    RULE("get_user_by_id", ABOUT_USER),
    RULE("get_user_locked_status", ABOUT_USER),
    RULE("get_user_deactivated_status", ABOUT_USER),
    RULE("is_guest", ABOUT_USER),
    RULE("is_server_admin", ABOUT_USER),
    RULE("get_expiration_ts_for_user", ABOUT_USER),
    RULE("user_last_seen_monthly_active", ABOUT_MAU_USER),
    RULE("get_monthly_active_count", ABOUT_MAU_COUNT),
#undef RULE
};

/* The first of ring key in m and all its siblings, held while fn runs on those that match. */
static void each_in_ring(struct imap *m, int64_t key, bool loose, const void *what,
                         bool (*match)(const struct requester *, const void *),
                         void (*fn)(struct requester *))
{
    struct list *first = imap_get(m, key), *n = first;
    VEC(struct requester *) held = {0};

    if (!first)
        return;
    do {
        struct requester *r =
            loose ? &container_of(n, struct known, e.lru)->r : container_of(n, struct requester, by_user);
        if (match(r, what))
            vec_push(&held, requester_ref(r));
        n = n->next;
    } while (n != first);
    for (size_t i = 0; i < held.n; i++) {
        fn(held.v[i]);
        requester_unref(&held.v[i]);
    }
    vec_free(&held);
}

struct device_row {
    struct str user, device; /* device absent: all */
};

static bool match_token(const struct requester *r, const void *key)
{
    return memcmp(r->token_key, key, sizeof r->token_key) == 0;
}

static bool match_user(const struct requester *r, const void *user)
{
    return str_eq(requester_user(r), *(const struct str *)user);
}

static bool match_device(const struct requester *r, const void *what)
{
    const struct device_row *row = what;

    return str_eq(requester_user(r), row->user) &&
           (str_absent(row->device) ||
            (r->kind != REQUESTER_USER && str_eq(requester_device(r), row->device)));
}

static void drop_token_of(struct requester *r)
{
    if (r->auth)
        cache_drop(&r->auth->tokens, str_n((const char *)r->token_key, sizeof r->token_key));
    requester_suspect(r);
}

static void on_token(struct auth *a, struct str token)
{
    uint64_t key[4];

    auth_hash(a, token, key);
    cache_drop(&a->tokens, str_n((const char *)key, sizeof key)); /* whoever still holds it is loose now */
    each_in_ring(&a->loose_by_token, (int64_t)key[0], true, key, match_token, requester_suspect);
}

static void on_user(struct auth *a, struct str user)
{
    int64_t key = ring_key_user(user);

    a->user_seq[(size_t)key & (AUTH_SHARDS - 1)] = ++a->seq;
    cache_drop(&a->users, user);
    each_in_ring(&a->requesters_by_user, key, false, &user, match_user, drop_token_of);
}

static void on_device(struct auth *a, const struct str *keys, size_t n)
{
    struct device_row row = {keys[0], n > 1 ? keys[1] : STR_ABSENT};
    struct list *first = imap_get(&a->devices.by_user, ring_key_user(row.user)), *node = first;
    VEC(struct fact_entry *) found = {0};

    if (first) {
        do {
            vec_push(&found, container_of(node, struct fact_entry, by_user));
            node = node->next;
        } while (node != first);
    }
    for (size_t i = 0; i < found.n; i++)
        cache_drop_entry(&a->devices, &found.v[i]->e);
    vec_free(&found);
    each_in_ring(&a->requesters_by_user, ring_key_user(row.user), false, &row, match_device,
                 requester_suspect);
}

static void suspect_all(struct auth *a)
{
    size_t it = 0;
    struct list *first;
    VEC(struct requester *) held = {0};

    while ((first = imap_next(&a->requesters_by_user, &it))) {
        struct list *n = first;
        do {
            vec_push(&held, requester_ref(container_of(n, struct requester, by_user)));
            n = n->next;
        } while (n != first);
    }
    for (size_t i = 0; i < held.n; i++) {
        requester_suspect(held.v[i]);
        requester_unref(&held.v[i]);
    }
    vec_free(&held);
}

static void on_all(struct auth *a, enum subject s)
{
    switch (s) {
    case ABOUT_TOKEN:
        cache_clear(&a->tokens);
        suspect_all(a);
        break;
    case ABOUT_USER:
        cache_clear(&a->users);
        cache_clear(&a->tokens);
        suspect_all(a);
        break;
    case ABOUT_DEVICE:
        cache_clear(&a->devices);
        suspect_all(a);
        break;
    case ABOUT_MAU_USER:
        cache_clear(&a->mau);
        break;
    case ABOUT_MAU_COUNT: /* has no keys in the first place */
        cache_drop(&a->mau, STR(""));
        break;
    }
}

void auth_on_cache(struct auth *a, struct str func, const struct str *keys, size_t n, bool all)
{
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (!str_eq(func, rules[i].func))
            continue;
        if (all || n == 0) {
            on_all(a, rules[i].subject);
            return;
        }
        switch (rules[i].subject) {
        case ABOUT_TOKEN:
            on_token(a, keys[0]);
            break;
        case ABOUT_USER:
            on_user(a, keys[0]);
            break;
        case ABOUT_DEVICE:
            on_device(a, keys, n);
            break;
        case ABOUT_MAU_USER:
            cache_drop(&a->mau, keys[0]);
            break;
        case ABOUT_MAU_COUNT:
            on_all(a, ABOUT_MAU_COUNT);
            break;
        }
        return;
    }
}

void auth_flush(struct auth *a)
{
    log_info(LOGGER, "Dropping everything cached: rows of the caches stream were missed");
    cache_clear(&a->tokens);
    cache_clear(&a->users);
    cache_clear(&a->devices);
    cache_clear(&a->mau);
    suspect_all(a);
}
