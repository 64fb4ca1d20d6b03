/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_SYNC_REQUEST_H
#define CHAPPE_SYNC_REQUEST_H
/* Private to src/sync: a request from its arrival to its answer. */
#include "answers.h"
#include "session.h"
#include "quick.h"
#include "chappe/loop.h"
#include "sync_int.h"
#include <uv.h>

enum req_state {
    REQ_AUTH,     /* being authenticated */
    REQ_FILTER,   /* its stored filter is being read */
    REQ_BLOCKING, /* server disabled, monthly active users */
    REQ_HELD,     /* the feed is down, or we are starting: nothing is computed */
    REQ_CATCH_UP, /* its token is ahead of us */
    REQ_QUEUED,   /* an initial sync waiting its turn */
    REQ_READY,    /* to be computed in this slice or the next */
    REQ_LOADING,  /* lacks something */
    REQ_AHEAD,    /* the database is ahead of replication */
    REQ_PARKED,   /* nothing to say; waits for a wake-up or its timeout */
    REQ_JOINED,   /* gets the answer of another request that asks the same */
    REQ_DONE,
    REQ_STATE_COUNT
};

enum { REQ_SLICE = 64 }; /* computed in a turn of the loop, at most */

/* What few requests have. */
struct req_extra {
    struct sync_req *r;
    int64_t turn;                     /* in the queue of initial syncs; 0: has not asked for one */
    struct list joined;               /* those who joined; or the link of one who did */
    struct sync_req *leader;          /* of one who did */
    struct sequences_call *sequences; /* under way */
    struct legacy *legacy;            /* another endpoint than /sync */
    char *since;                      /* since_text, when it is nowhere else */
    int64_t alone_ms;                 /* nobody has waited since */
    bool listed;                      /* among the abandoned */
};

/* A parked poll costs one of these. What a wake-up looks at stands first, what ends it last. */
struct sync_req {
    struct list by_state; /* in the list of its state */
    struct list by_user;  /* u->waiters, while parked; u->running, while others may join */
    struct user *u;
    struct device *d;
    struct http_req *http;   /* NULL: the client has gone, the answer is kept for its return */
    struct session *session; /* counted; NULL: none */

    struct sync *s;
    struct filter *f;
    struct str since_text; /* empty: initial; in the request's text or arena, or in extra */
    union {
        struct str filter_text;       /* as asked for, until the filter is known */
        struct model_version version; /* then: of since, if it is one of our latest */
    };
    int64_t deadline_ms; /* timeout_ms after its beginning */
    uint64_t key;        /* of all that the client asked for */

    int32_t timeout_ms;
    enum req_state state : 8;
    uint8_t set_presence : 2; /* enum set_presence */
    bool full_state : 1;
    bool use_state_after : 1;
    bool initial : 1;
    bool admitted : 1;
    bool presence : 1;
    bool bounded : 1;
    bool acked : 1;
    bool loading : 1;
    struct req_extra *extra; /* usually NULL */
    struct auth_watch watch; /* its requester is the request's, from the authentication on */
    struct wheel_timer timer;
};
static inline struct requester *req_requester(const struct sync_req *r)
{
    return r->watch.r;
}
static inline int64_t req_started_ms(const struct sync_req *r)
{
    return r->deadline_ms - r->timeout_ms;
}
static inline struct legacy *req_legacy(const struct sync_req *r)
{
    return r->extra ? r->extra->legacy : NULL;
}
static inline struct sync_req *req_leader(const struct sync_req *r)
{
    return r->extra ? r->extra->leader : NULL;
}
static inline bool req_is_leader(const struct sync_req *r) /* others have joined it */
{
    return r->extra && !r->extra->leader && !list_empty(&r->extra->joined);
}
static inline bool req_sequences(const struct sync_req *r)
{
    return r->extra && r->extra->sequences;
}
/* The statement that bounds a token; it outlives its request, and the service. */
struct sequences_call {
    struct sync_req *r;
};
/* A call of this request, which is told of its end. */
struct sequences_call *sequences_begin(struct sync_req *r);
/* It has come back: its request, or NULL; frees it. */
struct sync_req *sequences_end(struct sequences_call *call);

struct sync {
    const struct config *cfg;
    struct uv_loop_s *loop;
    struct pg *pg;
    struct feed *feed;
    struct model *m;
    struct auth *auth;
    struct list states[REQ_STATE_COUNT];
    size_t counts[REQ_STATE_COUNT];
    size_t initial_running;
    int64_t initial_turn; /* of the last one that was let in */
    bool live, draining, stopping;
    struct wheel wheel;
    uv_idle_t *idle; /* runs while REQ_READY is not empty */
    uv_timer_t *tick;
    bool idle_running;
    uint64_t runs, turns; /* of the computation; with more than enough to do */
    struct arena *scratch;
    struct answers answers;
    struct shared_sections shared;
    struct sessions sessions;
    struct quick quick;
    struct { /* the last token: a request asks several times, and many come with the same one */
        size_t n;
        char text[TOKEN_TEXT_MAX];
        uint64_t hash;
        bool parsed; /* and good */
        struct stream_token token;
    } since;
    VEC(struct sync_req *) abandoned; /* computed for nobody who waits */
};

/* request.c */
void req_set_state(struct sync_req *r, enum req_state st);
void req_error(struct sync_req *r, int status, const char *errcode, const char *error);
void req_finish(
    struct sync_req *r); /* releases everything but the http request, which must have been replied to */
/* A callback of something asynchronous has come back (r->loading): false when the request has ended meanwhile
 * and is now released. */
bool req_returned(struct sync_req *r);
void req_begin(struct sync *s, struct http_req *http);
void req_gone(struct http_req *http);
struct req_extra *req_extra(struct sync_req *r); /* made when there is none */
void req_revoked(struct auth_watch *w, const struct auth_error *e);
/* Parameters are known and good: hold, bound, queue or compute. */
void req_admit(struct sync_req *r);

/* join.c */
/* Of all that was asked for but since: before timeout_ms is adapted. */
uint64_t req_key_rest(const struct sync_req *r);
uint64_t req_key(uint64_t since_hash, uint64_t rest);
void req_join(struct sync_req *r); /* let in: a kept answer, another's, or its own */
/* body goes to all who joined r. */
void req_share(struct sync_req *r, const struct rope *body);
/* For who asks the same again: next is the hash of its next_batch. */
void req_keep(struct sync_req *r, const struct rope *body, uint64_t next);
/* Takes those who joined r out of its ring and ends each with end. */
void req_error_joined(struct sync_req *r, void (*end)(struct sync_req *x, const void *arg), const void *arg);
void req_unjoin(struct sync_req *r);  /* r ends */
void req_abandon(struct sync_req *r); /* its client has gone: goes on without, or ends */
void req_forget_abandoned(struct sync_req *r);
void req_sweep_abandoned(struct sync *s);
void req_text(struct sync_req *r, const struct stream_token *t); /* since_text becomes t's */

/* For the endpoints of legacy.c. */
void req_affect_presence(struct sync_req *r, struct str state); /* the client is here */
void req_watch(struct sync_req *r);                             /* ends when its token does */

/* park.c */
void req_recheck(struct sync_req *r); /* of a request whose token is ahead */
void req_compute(struct sync_req *r);
void req_park(struct sync_req *r);       /* nothing to say */
void req_park_quiet(struct sync_req *r); /* the same, as is known without having computed it */
/* body goes out, to those who joined too, and r ends. */
void req_reply(struct sync_req *r, struct rope *body, const char *kind);
void req_make_ready(struct sync_req *r);
void req_refuse(struct sync_req *r, const char *reason); /* 429 */
void req_turn(struct sync *s); /* work for the next turn of the loop: ready requests, or a free place */
void req_admit_queued(struct sync *s);
void req_expire(struct sync_req *r);       /* its timer has run out */
void req_answer_empty(struct sync_req *r); /* nothing new, at its own token */
/* since_text, parsed; NULL: it is no token. Good until the next call. */
const struct stream_token *req_since(const struct sync_req *r);
uint64_t req_since_hash(const struct sync_req *r); /* str_hash() of since_text */
#endif
