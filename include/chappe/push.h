/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_PUSH_H
#define CHAPPE_PUSH_H
/*
 * The push worker: a Synapse pusher instance. It takes the http pushers of its shard, reads what there is to
 * tell (event_push_actions) and tells the Matrix push gateways. Source of the rules: Synapse 1.157
 * push/httppusher.py, push/pusherpool.py, push/push_tools.py; where Synapse loses or blocks notifications
 * this does not (the table in src/README.md lists each choice).
 *
 * What is promised. For each pusher, notifications start in stream order and never overlap. The position in
 * the table moves only after the gateway's answer. After a crash at most the notifications that were under
 * way, and those answered since the last flush of positions (PUSH_FLUSH_MS), are repeated, each once; none is
 * lost.
 *
 * Of several processes with one instance name one sends: the holder of a lock in the database (leader.c).
 *
 * All of it runs on the hub thread. No statement and no load is per recipient: a burst of events costs one
 * range read of push actions, one load of the events, one of names, one of the badges that are not in memory,
 * and one write for the positions that moved.
 */
#include "chappe/config.h"
#include "chappe/feed.h"
#include "chappe/pg.h"

enum { PUSH_FLUSH_MS = 100 };

struct uv_loop_s;
struct push;
/* Whether this worker is one of pusher_instances. */
bool push_wanted(const struct config *cfg);
/* Which of n instances serves a user (Synapse 1.157 config/_base.py: ShardedWorkerHandlingConfig). n > 0. */
size_t push_shard(struct str user_id, size_t n);

int push_start(struct push **out, struct uv_loop_s *loop, const struct config *cfg, struct pg *pg,
               struct err *e) NODISCARD;
/* What the feed's sink passes on, beside the model. */
struct feed_sink push_sink(struct push *p);
/* Once the feed has its positions: pushers are loaded, and what waits for them is sent. */
void push_adopt(struct push *p, struct feed *f);
/* The pushers are loaded, or another process of this instance's name serves them and this one stands by. */
bool push_ready(const struct push *p);
/* Sends nothing new. push_idle: nothing is under way and every position is written. */
void push_drain(struct push *p);
bool push_idle(const struct push *p);
/* Nothing more is begun: what the database and the HTTP client still say is not acted upon. Before they stop.
 */
void push_halt(struct push *p);
/* After pg_stop and httpc_stop, whose callbacks still come here. Requests to gateways that are under way are
 * abandoned (the next process may repeat them). */
void push_stop(struct push **p);
#endif
