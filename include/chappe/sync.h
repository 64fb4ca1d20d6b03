/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_SYNC_H
#define CHAPPE_SYNC_H
/*
 * Classic /sync: requests, long polls, answers. Contract: Synapse 1.157 rest/client/sync.py,
 * handlers/sync.py, notifier.py.
 *
 * A request is authenticated, its parameters checked, its filter resolved; then it is computed, again after
 * each round of loads, and parked when there is nothing to say. A change wakes the users concerned; each of
 * their polls is computed anew from its own token, in slices, so that a large fan-out does not stall other
 * requests. While the feed is down polls are held: nothing is ever answered from beyond a gap. Everything
 * runs on the hub thread.
 */
#include "chappe/auth.h"
#include "chappe/model.h"

struct sync;
/* httpd_routes.route: 0 for the paths served here, else 404 or 405. */
int sync_route(enum http_method method, struct str path);
int sync_start(struct sync **out, struct uv_loop_s *loop, const struct config *cfg, struct pg *pg,
               struct feed *feed, struct model *m, struct auth *a, struct err *e) NODISCARD;
void sync_handle(void *arg, struct http_req *req); /* httpd_routes.handler */
bool sync_answering(void *arg); /* httpd_routes.answering: more polls than a slice are to be answered */
void sync_gone(void *arg, struct http_req *req); /* httpd_routes.gone */
void sync_wake(void *arg, struct user *u);       /* model_hooks.wake */
void sync_wake_more(struct sync *s);             /* model_hooks.wake_more */
void sync_feed_state(void *arg, enum feed_state st);
/* Answers parked polls with nothing new, at their own token; later requests are not parked. */
void sync_drain(struct sync *s);
size_t sync_in_flight(const struct sync *s);
/* Drops what is left. Before feed, auth, pg and model are stopped. */
void sync_stop(struct sync **s);
#endif
