/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_AUTH_INT_H
#define CHAPPE_AUTH_INT_H
/*
 * Private declarations of src/auth. Everything runs on the hub thread.
 *
 * One authentication is a struct auth_op. Its flow (internal.c, app_service.c, mas.c, blocking.c) is a
 * function that is run from the top each time: it uses what the caches and the op hold, asks for the first
 * thing that is missing, parks, and is run again when that has come. An op lives on the stack until it parks
 * for the first time, so a request whose token is cached costs no allocation.
 *
 * Rows are cached by one engine (cache.c) in four classes: tokens, users, devices, MAU rows. It coalesces,
 * batches the lookups of one loop turn into one statement, and settles the race between lookups and
 * invalidations.
 */
#include "chappe/auth.h"
#include "chappe/ip.h"
#include "chappe/clock.h"
#include "chappe/json.h"
#include "chappe/log.h"
#include "chappe/metrics.h"
#include <stdlib.h>
#include <uv.h>

#define LOGGER "chappe.auth"

enum {
    AUTH_TICK_MS = 500,          /* resolution of every time limit here */
    AUTH_BATCH_MAX = 500,        /* rows asked for in one statement */
    AUTH_CALLS_MAX = 4,          /* statements of one class in flight; more wait, and batch better */
    AUTH_TRIES_MAX = 5,          /* lookups repeated because rows arrived meanwhile */
    AUTH_NEGATIVE_MS = 10000,    /* life of "there is no such row" */
    AUTH_MAU_COUNT_MS = 60000,   /* rows invalidate it too */
    AUTH_TOKEN_BYTES_MAX = 8192, /* longer ones are unknown without asking */
    AUTH_USER_ID_BYTES_MAX = 1024,
    AUTH_SHARDS = 4096,     /* of the per-user sequence numbers, a power of two */
    MAS_CACHE_MS = 120000,  /* as Synapse */
    MAS_IN_FLIGHT_MAX = 64, /* introspection requests at once */
    MAS_ENTRIES_MAX = 200000,
    MAS_NEGATIVE_MAX = 10000, /* introspections that said no */
    MAS_RESPONSE_BYTES_MAX = 1024 * 1024,
};

/* ---- rings: circular lists without a head, found through a table */
void ring_add(struct imap *m, int64_t key, struct list *n);
void ring_del(struct imap *m, int64_t key, struct list *n); /* harmless on a detached node that is not in m */
static inline int64_t ring_key_user(struct str user)
{
    return (int64_t)str_hash(user);
}

/* ---- cache.c */
struct centry;
struct auth_wait {
    struct list node;
    /* err 0: e is the entry, found or missing, valid for the call; else -ERR_x and e NULL. w is detached. */
    void (*fn)(struct auth_wait *w, int err, struct centry *e);
};
enum centry_state { CE_NEW, CE_PENDING, CE_FOUND, CE_MISSING };
struct centry {
    struct str key;  /* first: the table finds it by that; bytes are the class's */
    struct list lru; /* in found or missing; or in the queue while pending and not sent */
    struct list waiters;
    union {
        uint64_t
            issued; /* pending: sequence number when the statement was sent; 0: its answer must not be used */
        int64_t loaded_ms; /* found or missing */
    };
    union {
        uint32_t secret_n; /* pending tokens: of tok_entry.token */
        uint32_t moved_s;  /* found or missing: when it was last put behind the others */
    };
    uint8_t state; /* enum centry_state */
    uint8_t tries;
    bool busy : 1, doomed : 1; /* being delivered; to be freed after that */
    bool of_requester : 1;     /* a part of a struct known, whose requester it has a count of */
};
struct cache;
struct cache_class {
    const char *name; /* of metrics */
    enum pg_stmt stmt;
    struct centry *(*make)(struct cache *c, struct str key);
    void (*free)(struct cache *c, struct centry *e);
    struct pg_args *(*args)(struct centry **v, size_t n);
    /* Column 0 is the place in the batch, from 1. */
    void (*absorb)(struct cache *c, struct centry *e, const struct pg_result *r, int row);
    void (*forget)(struct cache *c, struct centry *e); /* drops what absorb put there */
    /* Sequence number of the newest row about what was found, when the key alone does not tell; or NULL. */
    uint64_t (*touched)(struct cache *c, struct centry *e);
};
struct cache {
    const struct cache_class *class;
    struct auth *a;
    struct kmap by_key;
    struct imap by_user; /* rings of entries, devices only */
    struct list found, missing, queue;
    size_t found_n, missing_n, pending_n, queue_n, calls;
    size_t found_max, missing_max, pending_max;
    int64_t found_ms, missing_ms;
};
void cache_init(struct cache *c, struct auth *a, const struct cache_class *class);
void cache_fini(struct cache *c);
/* The entry when it is there and fresh, else NULL. */
struct centry *cache_peek(struct cache *c, struct str key);
/* The same for an entry that is at hand: is it still to be used? */
bool cache_use(struct cache *c, struct centry *e);
/* Waits for it: w->fn is called later, in another turn. 0, or -ERR_LIMIT (then w is untouched). secret: what
 * the lookup needs besides the key (the token itself); copied, overwritten after use. */
int cache_ask(struct cache *c, struct str key, struct str secret, struct auth_wait *w) NODISCARD;
void cache_drop(struct cache *c, struct str key);
void cache_drop_entry(struct cache *c, struct centry *e);
void cache_clear(struct cache *c);
void cache_flush_queue(struct cache *c); /* sends what was asked for in this turn */
void cache_abort(struct cache *c, int err);

/* ---- the classes */
struct tok_entry { /* token_cache.c: of a token that is asked for, or that there is no row of */
    struct centry e;
    uint64_t hash[4];
    char *token;         /* while pending */
    struct requester *r; /* of an answer that is being looked at */
};
/* A requester, and its entry in the cache of tokens: for as long as it is known there (of_requester) the
 * entry is it. At other times its list is in the ring of auth.loose_by_token. */
struct known {
    struct centry e;
    struct requester r; /* last: its texts follow */
};
static inline struct centry *entry_of(struct requester *r)
{
    return &container_of(r, struct known, r)->e;
}
/* e has a row: what stands in the table and has the waiters from now on, instead of e. */
struct centry *token_found(struct cache *c, struct centry *e);
void token_kept(struct cache *c, struct centry *e);  /* it is about to be listed */
void token_loose(struct cache *c, struct centry *e); /* it no longer is */
struct user_fact {
    bool guest, locked, admin, shadow_banned, support, app_service;
    int64_t creation_s, expires_ms;
    int64_t trial_days; /* before the user counts as active */
};
struct fact_entry { /* facts.c */
    struct centry e;
    struct list by_user;
    struct user_fact user;
    int64_t n;     /* MAU: the count, or the timestamp */
    size_t user_n; /* devices: the key is user, NUL, device */
    char key[];
};
extern const struct cache_class cache_tokens, cache_users, cache_devices, cache_mau;
struct str device_key(struct buf *b, struct str user, struct str device);
/* Builds a requester out of the columns that auth_tokens and auth_tokens_by_id share, from column col on. */
struct requester *requester_from_row(struct auth *a, const uint64_t key[4], const struct pg_result *r,
                                     int row);

/* ---- requests in progress */
enum op_outcome { OP_OK, OP_REFUSED, OP_LATER };
struct auth_op {
    struct list all; /* by age; detached while on the stack */
    struct auth *a;
    void (*run)(struct auth_op *op);
    auth_done_fn *done;
    void (*blocking_done)(void *arg, const struct auth_error *e);
    void *arg;
    struct str token, ip, user_agent; /* of the request; own copies once parked */
    bool on_heap, token_decoded;      /* token_decoded: a copy in the request's arena, to be overwritten */
    bool allow_guest, cancelled;
    uint64_t key[4];
    int64_t deadline_ms;
    struct auth_wait wait;

    /* what was found out so far */
    bool have_token, have_user, have_device, have_mas, have_mau, have_mau_count;
    struct requester *r; /* of have_token; NULL: no such row. auth_check_blocking: who it is about */
    bool user_exists, device_exists, mau_member;
    struct user_fact user;
    int64_t mau_count;
    int64_t token_dies_ms; /* guests */
    bool doubted;          /* a row was handed out that may have been read before its news */
    int64_t rows_until_ms; /* monotonic: the first of the rows of users and devices gets too old */
    uint64_t drops;        /* the auth's, when op began */
    bool old_device_name;  /* application services: the argument of MSC3202 counted, too */
    const struct app_service *as;
    struct mas_answer *mas;        /* counted */
    struct str user_id, device_id; /* application services, guests, MAS: own copies once parked */
    char *text;                    /* of the error that is being sent */
};
/* Moves an op to the heap before its first wait; returns it. */
struct auth_op *op_park(struct auth_op *op);
void op_refuse(struct auth_op *op, int status, const char *errcode, struct str error, int soft_logout,
               const char *label);
void op_refuse_error(struct auth_op *op, const struct auth_error *e, const char *label);
void op_unavailable(struct auth_op *op, const char *label); /* 503 */
void op_accept(struct auth_op *op, struct requester *r);    /* takes r; USER_IP, guests */
void op_pass(struct auth_op *op);                           /* end of auth_check_blocking */
/* Each answers true when the fact is known (in op), else has asked for it, or has ended the op; op is then
 * not to be touched again. */
bool op_need_token(struct auth_op **op);
bool op_need_user(struct auth_op **op, struct str user_id);
bool op_need_device(struct auth_op **op, struct str user_id, struct str device_id);
bool op_need_mau(struct auth_op **op, struct str user_id);
bool op_need_mau_count(struct auth_op **op);
struct str op_printf(struct auth_op *op, const char *fmt, ...) PRINTF_LIKE(2, 3);

struct requester *requester_new(struct auth *a, enum requester_kind kind, struct str user_id,
                                struct str device_id, struct str owner_id, const uint64_t key[4]);

/* ---- basis.c: what auth_again goes by where there is no row in the cache of tokens. */
struct basis {
    int64_t until_ms; /* monotonic: a row gets too old; 0: a row is no longer the one in its cache */
    union {
        struct mas_answer *mas; /* MAS; counted */
        bool old_device_name;   /* application services */
    };
};
/* All but REQUESTER_USER have one. */
struct based {
    struct basis basis;
    struct known k; /* last: the requester's texts follow */
};
static inline struct basis *basis_of(struct requester *r)
{
    return &container_of(r, struct based, k.r)->basis;
}
void basis_begin(struct auth_op *op);
void basis_note(struct auth_op *op, const struct cache *c, const struct centry *e); /* op goes by this row */
void basis_set(struct requester *r, const struct auth_op *op);
void basis_fini(struct requester *r);
bool basis_holds(struct requester *r);
void basis_void(struct requester *r);
void basis_void_user(struct auth *a, struct str user); /* a row about it leaves its cache */

/* ---- extract.c: 0, or -ERR_PARSE with the error text of M_MISSING_TOKEN in why. */
int auth_extract(struct http_req *req, struct str *token, bool *decoded, const char **why) NODISCARD;
/* The token in the value of an Authorization header: 0, or -ERR_PARSE. */
int auth_header_token(struct str value, struct str *token) NODISCARD;
bool token_is_plausible(struct str token);
void auth_hash(struct auth *a, struct str token, uint64_t out[4]);

/* ---- internal.c */
void run_internal(struct auth_op *op);
/* The account and token checks shared by new requests and parked ones. NULL: good. Texts are static. */
const struct auth_error *verdict_of_requester(const struct auth *a, const struct requester *r, int64_t now,
                                              const char **label);
extern const struct auth_error auth_error_unknown, auth_error_expired, auth_error_locked,
    auth_error_account_expired, auth_error_inactive, auth_error_unavailable, auth_error_introspect;
void used_mark(struct auth *a, struct requester *r);
void used_flush(struct auth *a);

/* ---- macaroon.c. 0 and the user and the last moment (0: none), or -ERR_PARSE. user_id is borrowed from out.
 */
struct guest_macaroon {
    char bytes[AUTH_TOKEN_BYTES_MAX];
    struct str user_id;
    int64_t dies_ms;
};
int macaroon_verify_guest(struct str token, struct str secret, int64_t now_ms,
                          struct guest_macaroon *out) NODISCARD;

/* ---- app_service.c */
struct app_service;
struct app_services {
    struct app_service *v;
    size_t n;
    struct smap by_token; /* SHA-256 → service */
};
int app_services_init(struct app_services *s, struct auth *a, struct err *e) NODISCARD;
void app_services_fini(struct app_services *s);
const struct app_service *app_services_find(const struct app_services *s, const uint64_t key[4],
                                            struct str ip);
/* Reads user_id and device_id of the request; 0, or -ERR_PARSE when they cannot be text. */
int app_service_params(struct auth_op *op, struct http_req *req) NODISCARD;
void run_app_service(struct auth_op *op);
bool app_service_controls(const struct app_service *s, struct str user_id);

/* ---- mas.c */
struct mas;
struct mas_answer {
    unsigned refs;
    bool active, api_scope, admin_scope;
    size_t scope_devices; /* different ones in the scope */
    bool has_device;      /* device_id is an own field of the answer, or the only one of the scope */
    struct str username;  /* absent: null */
    struct str device_id;
    int64_t dies_ms;        /* wall clock; INT64_MAX: never */
    int64_t fresh_until_ms; /* monotonic; 0: it is not the one that is remembered */
};
/* 0, or -ERR_PARSE for what is no introspection response. */
int mas_answer_parse(struct str body, int64_t now_ms, struct mas_answer **out) NODISCARD;
int mas_start(struct mas **out, struct auth *a, struct err *e) NODISCARD;
void mas_stop(struct mas **m);
void mas_tick(struct mas *m);
void run_mas(struct auth_op *op);
void mas_answer_unref(struct mas_answer **m);
void mas_forget(struct mas *m, const uint64_t key[4]);

/* ---- blocking.c */
void run_blocking(struct auth_op *op);

/* ---- watch.c */
struct auth_check;
struct watch_end {
    int64_t expires_ms; /* wall clock */
    struct auth_watch *w;
};
struct checks {
    struct list queue; /* struct auth_check, not begun */
    struct list later; /* failed for want of a database; tried again at the next tick */
    size_t calls, watches;
    struct list flying; /* begun */
    struct list by_age; /* watches without a check, least recently checked first */
    struct watch_end *heap;
    uint32_t heap_n, heap_cap;
};
void checks_init(struct checks *c);
void checks_fini(struct auth *a);
void checks_flush(struct auth *a);
void checks_tick(struct auth *a);
void requester_suspect(struct requester *r); /* a row concerned it: re-check all of its watches */

struct auth {
    struct uv_loop_s *loop;
    const struct config *cfg;
    struct pg *pg;
    struct httpc *httpc;
    struct feed *feed;
    struct evp_md_ctx_st *md_ctx;
    struct evp_md_st *md;

    uv_timer_t flush_timer, tick_timer;
    int handles;  /* not yet closed */
    size_t calls; /* statements and requests whose answer is still to come */
    bool stopping, flush_armed;

    uint64_t seq;   /* counts invalidations; 0 is never a value of it */
    uint64_t drops; /* counts rows of users and devices that left their caches */
    uint64_t user_seq[AUTH_SHARDS];
    struct cache tokens, users, devices, mau;
    struct imap requesters_by_user;
    struct imap loose_by_token; /* rings of those whom the cache of tokens does not have */
    size_t requesters_n;

    struct list ops; /* oldest first: all have the same patience */
    size_t ops_n;

    VEC(int64_t) used; /* ids to be marked */
    bool used_call;

    void (*revoked)(struct auth_watch *w, const struct auth_error *e);
    void (*suspect)(void *arg, const struct requester *r);
    void *suspect_arg;

    struct app_services as;
    struct mas *mas;
    struct checks checks;
};
void auth_arm_flush(struct auth *a);
void auth_tick(struct auth *a);      /* what the tick timer does */
void auth_call_done(struct auth *a); /* one answer fewer to come; may free a */
#endif
