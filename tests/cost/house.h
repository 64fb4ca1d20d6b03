/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_COST_HOUSE_H
#define CHAPPE_COST_HOUSE_H
/*
 * A house of devices that poll: the real sync, auth and model modules over the homeserver of world.h, and
 * what is counted of them.
 *
 * Counted is what the hub does: authentication, parameters, replication rows, runs, rendering, and giving
 * back the rope of an answer. Not counted are sockets, the stand-ins for the
 * database and for Redis, and what the house does itself. Whatever could differ between two runs is held
 * still: the clock, the periodic timers, the key of the hashes.
 */
#include "world.h"

#include "chappe/auth.h"
#include "chappe/sync.h"

enum { USER_BYTES = 24, SINCE_BYTES = 160 };

struct device_client {
    struct http_req req;
    struct arena *texts; /* of the request */
    struct str authorization_text;
    struct house *h;
    char user[USER_BYTES], since[SINCE_BYTES], authorization[80];
    bool polls; /* a request is with the service */
    int status;
    struct str body; /* of the last answer, in h->answers */
};
struct house {
    struct world *w;
    struct sync *s;
    struct auth *a;
    struct device_client *v;
    int n;
    int initials;
    int64_t at; /* last position in every stream but those that world.h begins at 100 */
    struct arena *answers;
};

/* So many users with a device each. Rooms are made next, then house_open. */
struct house *house_new(int users);
struct house *house_new_with(int users, const char *settings); /* lines of Synapse's configuration */
void house_free(struct house **h);
/* A room that all users have joined, one after the other, and @s:x before them. The id of its last event. */
const char *house_room(struct house *h, const char *room);
/* Gives a room a name, and lets @s:x say so much after its last event. */
void house_talk(struct house *h, const char *room, const char *last, int messages);
/* Everybody does an initial sync and polls; from then on no timer runs by itself. */
void house_open(struct house *h);

enum poll_kind { POLL_STORED_FILTER, POLL_INLINE_FILTER, POLL_INITIAL };
/* Everybody whose request was answered asks again with the next_batch of the answer. count: what that costs
 * is counted under this name, NULL: it is not. POLL_INITIAL: without one, and not
 * the question that was asked before. */
void house_poll(struct house *h, enum poll_kind kind, const char *count);
/* Runs the loop until nothing moves. */
void house_run(struct house *h);

/* Ends the program with an error: what was counted would be worth nothing. */
void house_expect_answers(const struct house *h, const char *part); /* everybody's, with this in them */
void house_expect_parked(const struct house *h);                    /* everybody */
#endif
