/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_AUTH_H
#define CHAPPE_AUTH_H
/*
 * Who is asking: access tokens of the database, application services, Matrix Authentication Service.
 * Source: Synapse 1.157 api/auth/{base,internal,mas}.py; reference auth-http-ops.md section 1.
 * An infrastructure failure never becomes a 401: the request is held, or answered 503.
 */
#include "chappe/httpd.h"
#include "chappe/feed.h"
#include "chappe/map.h"

enum requester_kind { REQUESTER_USER, REQUESTER_GUEST, REQUESTER_APP_SERVICE, REQUESTER_MAS };

/* Counted. Tens of thousands wait with one each, so its texts lie behind it, without a slice for each. */
struct requester {
    uint32_t refs;
    enum requester_kind kind : 8;
    bool is_guest : 1;
    bool is_admin : 1;
    bool is_app_service : 1;
    bool shadow_banned : 1;
    bool has_device : 1;
    bool locked : 1; /* this and the next two belong to src/auth */
    bool used : 1;
    bool refreshable : 1;
    int64_t token_id;           /* access_tokens.id; 0 if none */
    uint64_t token_key[4];      /* SHA-256 of the token */
    int64_t valid_until_ms;     /* of the token, wall clock; 0: no end */
    int64_t account_expires_ms; /* of the account (legacy account validity); 0: no end */
    /* ---- these belong to src/auth, and change */
    struct auth *auth;
    struct list by_user;          /* a ring of all live requesters */
    struct auth_watch *watches;   /* a ring; NULL: none */
    uint32_t suspected, verified; /* rows that concern it; how many of them its last check had seen */
    /* ---- */
    uint32_t user_n, device_n, owner_n; /* of text; owner_n is 0 when the user is its own owner */
    char text[];
};
static inline struct str requester_user(const struct requester *r) /* the effective one */
{
    return str_n(r->text, r->user_n);
}
static inline struct str requester_device(const struct requester *r) /* absent if none */
{
    return r->has_device ? str_n(r->text + r->user_n, r->device_n) : STR_ABSENT;
}
struct requester *requester_ref(struct requester *r);
void requester_unref(struct requester **r);
/* The authenticated entity: differs from the user for puppet tokens. */
struct str requester_owner(const struct requester *r);
/* What the access log shows: the user, or "owner|user" for a puppet token. Lives as long as req. */
const char *requester_log_name(const struct requester *r, struct http_req *req);

/* An error to be sent to the client. */
struct auth_error {
    int status;
    const char *errcode;
    struct str error;
    int soft_logout; /* -1: no such member; 0, 1 */
    bool limit;      /* M_RESOURCE_LIMIT_EXCEEDED: admin_contact and limit_type are present */
    struct str admin_contact, limit_type;
};
void auth_reply_error(struct http_req **req, const struct auth_error *e);

struct auth;
/* feed may be NULL: then no USER_IP is sent. cfg, pg, httpc and feed are borrowed until auth_stop. */
int auth_start(struct auth **out, struct uv_loop_s *loop, const struct config *cfg, struct pg *pg,
               struct httpc *httpc, struct feed *feed, struct err *e) NODISCARD;
/* r (a count is handed over) or e (borrowed for the call), exactly once; may be called before auth_request
 * returns when everything is cached. After auth_request has returned the request is not touched again: it may
 * be replied to earlier, and done is still called. */
typedef void auth_done_fn(void *arg, struct requester *r, const struct auth_error *e);
/* Sends USER_IP as Synapse does. Does not include auth_check_blocking: Synapse does that later, after the
 * parameters. */
void auth_request(struct auth *a, struct http_req *req, bool allow_guest, auth_done_fn *done, void *arg);
/* The same for a request like one that r was answered for: path, Authorization, user agent, the client's
 * address, and the arguments access_token, user_id and device_id are the same, byte for byte. At once,
 * without hashing the token. False: nothing was done, auth_request has to look. Only from inside the http
 * handler, while the header's value is there. *ip_due_ms, 0 at first, is kept by the caller for its next
 * call. */
bool auth_again(struct auth *a, struct requester *r, const struct http_req *req, int64_t *ip_due_ms);
/* hs_disabled / MAU limit: e NULL to pass. At once when neither is configured, else asynchronous where the
 * rows are not cached. r need not be held by the caller meanwhile. */
void auth_check_blocking(struct auth *a, struct requester *r,
                         void (*done)(void *arg, const struct auth_error *e), void *arg);

/* Forgets every pending auth_request and auth_check_blocking with this arg: done is not called any more. For
 * a caller whose arg goes away first. Costs a walk over what is pending; none pending is fine. */
void auth_cancel(struct auth *a, const void *arg);

/* While a request is parked, a watch ends it when its token stops being good. Tens of thousands are there. */
struct auth_watch {
    struct requester *r; /* whose; counted */
    /* ---- the rest belongs to src/auth */
    struct list by_user; /* with its requester's other watches */
    union {
        struct list by_age;       /* by checked_ms */
        struct auth_check *check; /* of one that is being checked, which stands in no list meanwhile */
    };
    uint32_t checked_ms;   /* low bits of the monotonic clock */
    uint32_t heap_at : 30; /* place + 1 in the heap of those that end by themselves; 0: it does not */
    bool checking : 1;
    bool active : 1;
};
/* Watches w->r; the count, which w's owner may have used before, goes with the watch. When rows about the
 * token or its user arrived since the requester was made, a check starts at once. */
void auth_watch_add(struct auth *a, struct auth_watch *w);
void auth_watch_del(
    struct auth_watch *w); /* harmless on one that was removed; w must be zeroed before its first use */
/* What is called of a watch whose token is no longer good: it is removed already. Never from inside
 * auth_watch_add. Set before the first watch. */
void auth_on_revoked(struct auth *a, void (*fn)(struct auth_watch *w, const struct auth_error *e));

/* fn hears of every requester about whose token, device or user something may have changed. It may drop what
 * it holds of it. */
void auth_on_suspect(struct auth *a, void (*fn)(void *arg, const struct requester *r), void *arg);

/* Rows of the caches stream; rules of auth-http-ops 1.15. Unknown functions are ignored. */
void auth_on_cache(struct auth *a, struct str func, const struct str *keys, size_t n, bool all);
void auth_flush(struct auth *a); /* a gap in caches: drop everything cached, re-check all watches */
/* Every pending auth_request ends with 503; watches are detached without a call. */
void auth_stop(struct auth **a);
#endif
