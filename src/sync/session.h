/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_SYNC_SESSION_H
#define CHAPPE_SYNC_SESSION_H
/* Private to src/sync: what is known of a client that asks again (session.c). */
#include "sync_int.h"

enum set_presence { SET_OFFLINE, SET_ONLINE, SET_UNAVAILABLE };

/* A request of /sync that was good, but for its since. Counted. */
struct session {
    struct hash128 print; /* of all that the client sent which counts, but for the value of since */
    struct list by_use;   /* empty: not in the table */
    struct requester *rq;
    struct user *u; /* pinned */
    struct device *d;
    struct filter *f;
    int64_t ip_due_ms; /* auth_again's */
    uint64_t rest;     /* of the key of its requests: all but since (join.c) */
    struct {           /* the last answer, as long as its client may not have got it */
        struct blob *body;
        uint64_t key, next; /* of its request; of its next_batch */
    } kept;
    uint32_t kept_until_ms, used_ms; /* low bits of the monotonic clock */
    int32_t timeout_ms;
    uint32_t refs;
    uint32_t suspected; /* rq's, when it was made */
    uint8_t presence;   /* enum set_presence */
    bool state_after;   /* asked for, which counts for nothing as long as the user has not got the feature */
};

struct sessions {
    struct imap by_print; /* by its first half */
    struct list by_use;   /* least recently used first */
    size_t n;
    size_t kept_bytes;
};
void sessions_init(struct sessions *x);
void sessions_fini(struct sessions *x, struct model *m);
void sessions_sweep(struct sessions *x, struct model *m, int64_t now_ms);

/* The print of a request; *since is the value in its query. False: it is none that has a session. */
bool session_print(const struct http_req *http, struct hash128 *print, struct str *since);
struct session *session_find(struct sessions *x, const struct hash128 *print); /* NULL: none */
struct session *session_new(const struct hash128 *print);                      /* counted, and empty */
/* s is complete but for the references that it takes here: found from now on. */
void session_enter(struct sessions *x, struct model *m, struct session *s, struct requester *rq,
                   struct user *u, struct filter *f);
void session_drop(struct sessions *x, struct model *m, struct session *s); /* from the table */
void session_unref(struct sessions *x, struct session **s);
void session_used(struct sessions *x, struct session *s);

/* The answer to a request, instead of one that was kept before. False: it is not kept here. */
bool session_keep(struct sessions *x, struct session *s, uint64_t key, uint64_t next, struct blob *body,
                  int64_t life_ms, size_t bytes_max);
enum { SESSION_KEPT_MAX = 16384 }; /* bytes of such an answer */
/* The kept answer to a request, or NULL; what its since acknowledges is dropped. */
struct blob *session_kept(struct sessions *x, struct session *s, uint64_t key, uint64_t since);
#endif
