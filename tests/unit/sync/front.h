/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_TEST_FRONT_H
#define CHAPPE_TEST_FRONT_H
/*
 * Clients and an authentication that do what the test says: requests go into the real sync module over the
 * model of world.h; answers are kept.
 */
#include "request.h"
#include "world.h"

struct client {
    struct http_req req;
    struct str authorization;
    struct front *f;
    int answers, drops, status; /* exactly one of the first two becomes 1 */
    struct str body;
    bool held; /* a request is with the service */
};
struct front {
    struct world *w;
    struct sync *s;
    bool hold_auth, hold_blocking;
    const char *auth_fails; /* errcode */
    struct {
        auth_done_fn *fn;
        void *arg;
        struct http_req *req;
    } auth[16];
    int auth_n;
    struct {
        void (*fn)(void *arg, const struct auth_error *e);
        void *arg;
    } blocking[16];
    int blocking_n;
    VEC(struct auth_watch *) watches;
    void (*revoked)(struct auth_watch *w, const struct auth_error *e);
    int presence, requesters;
    int presence_begun; /* how often presence was told */
    bool guest, admin;
    uint32_t suspicions; /* how often something was said of the token */
    uint64_t token;      /* of the requests that come */
    const char *user;    /* who asks; NULL: @a:x */
    enum requester_kind kind;
    bool no_device;
    int auth_asked; /* how often a token was looked at */
    void (*suspect)(void *arg, const struct requester *r);
    void *suspect_arg;
    VEC(struct client *) clients;
};
struct front *front_new(void);
struct front *front_new_with(const char *yaml); /* added to the configuration */
void front_free(struct front **f);
/* GET /sync?query as @a:x on device D. */
struct client *front_get(struct front *f, const char *query);
struct client *front_ask(struct front *f, const char *query); /* the same, and runs */
void front_message(struct front *f, int64_t stream);          /* "$m<stream>" by @b:x in !r:x, and runs */
void front_auth(struct front *f);                             /* held authentications end well */
void front_blocking(struct front *f, bool pass);
void front_revoke(struct front *f);  /* every watch */
void front_suspect(struct front *f); /* a row about the token */
void front_gone(struct client *c);
void front_run(struct front *f);               /* until nothing moves */
void front_later(struct front *f, int64_t ms); /* time passes */
enum req_state front_state(struct front *f);   /* of the only request that is under way */

/* How the next computations differ from a plain request. */
extern struct compute_how {
    bool use_state_after, is_admin;
} compute_how;
/* One computation without requests. since NULL: initial. Returns the body, or NULL when it does not settle.
 */
const char *compute(struct world *w, const char *user, const char *device, const char *filter,
                    const struct stream_token *since, enum run_result *res, struct stream_token *next);
/* Does an initial computation wait for replication? */
bool compute_waits(struct world *w, const char *user, const char *device);
const char *next_batch(struct world *w);
#define assert_has(body, part)                                              \
    do {                                                                    \
        if (!strstr(body, part))                                            \
            fail_msg("%s:%d: no %s in %s", __FILE__, __LINE__, part, body); \
    } while (0)
#define assert_hasnt(body, part)                                         \
    do {                                                                 \
        if (strstr(body, part))                                          \
            fail_msg("%s:%d: %s in %s", __FILE__, __LINE__, part, body); \
    } while (0)

int run_request_tests(void);
int run_join_tests(void);
int run_invite_tests(void);
int run_legacy_tests(void);
int run_room_tests(void);
int run_member_tests(void);
int run_feature_tests(void);
int run_release_tests(void);
int run_token_tests(void);
int run_visibility_tests(void);
int run_statement_tests(void);
int run_storm_tests(void);
int run_shared_tests(void);
int run_session_tests(void);
int run_whole_tests(void);
#endif
