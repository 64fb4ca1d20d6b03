/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_FEED_H
#define CHAPPE_FEED_H
/*
 * The homeserver's Redis replication: what arrives, in order and without gaps, and what a worker must send.
 * Source of the rules: Synapse 1.157 replication/tcp; positions as in storage/util/id_generators.py.
 *
 * The feed calls its sink with complete batches per (stream, writer), strictly in order for one pair, each
 * row batch exactly once except after a gap was filled (rows are idempotent). It never calls from beyond a
 * gap: while a gap of a pair is being filled, later batches of that pair wait. Everything happens on the hub
 * thread.
 */
#include "chappe/config.h"
#include "chappe/httpc.h"
#include "chappe/pg.h"
#include "chappe/token.h"

/* id, name on the wire, name in stream_positions (NULL: memory only) */
#define STREAM_MAP(X)                                                                       \
    X(EVENTS, "events", "events")                                                           \
    X(BACKFILL, "backfill", "backfill")                                                     \
    X(PRESENCE, "presence", "presence_stream")                                              \
    X(TYPING, "typing", NULL)                                                               \
    X(RECEIPTS, "receipts", "receipts")                                                     \
    X(ACCOUNT_DATA, "account_data", "account_data")                                         \
    X(PUSH_RULES, "push_rules", "push_rules_stream")                                        \
    X(PUSHERS, "pushers", "pushers")                                                        \
    X(TO_DEVICE, "to_device", "to_device")                                                  \
    X(DEVICE_LISTS, "device_lists", "device_lists_stream")                                  \
    X(UN_PARTIAL_STATED_ROOM, "un_partial_stated_room", "un_partial_stated_room_stream")    \
    X(UN_PARTIAL_STATED_EVENT, "un_partial_stated_event", "un_partial_stated_event_stream") \
    X(THREAD_SUBSCRIPTIONS, "thread_subscriptions", "thread_subscriptions")                 \
    X(STICKY_EVENTS, "sticky_events", "sticky_events")                                      \
    X(QUARANTINED_MEDIA, "quarantined_media", "quarantined_media")                          \
    X(PROFILE_UPDATES, "profile_updates", "profile_updates")                                \
    X(CACHES, "caches", NULL)
enum stream {
#define X(id, wire, db) STREAM_##id,
    STREAM_MAP(X)
#undef X
        STREAM_COUNT
};
const char *stream_name(enum stream s);

/* One typed row; slices are borrowed for the sink call. Absent slices stand for JSON null. */
enum ev_row_kind { EV_ROW_EV, EV_ROW_STATE, EV_ROW_STATE_ALL };
struct feed_row {
    union {
        struct {
            enum ev_row_kind kind;
            struct str event_id, room_id, type, state_key, redacts, relates_to, membership;
            bool rejected, outlier;
        } ev;
        struct {
            struct str event_id, room_id, type, state_key, redacts, relates_to;
        } backfill;
        struct {
            struct str user_id, state, status_msg;
            int64_t last_active_ts, last_federation_update_ts, last_user_sync_ts;
            bool currently_active;
        } presence;
        struct {
            struct str room_id;
            const struct str *user_ids;
            size_t user_ids_count;
        } typing;
        struct {
            struct str room_id, receipt_type, user_id, event_id, thread_id, data; /* data: JSON text */
        } receipt;
        struct {
            struct str user_id, room_id, type;
        } account_data;
        struct {
            struct str user_id;
        } user; /* push_rules, to_device (entity), profile_updates */
        struct {
            struct str user_id, app_id, pushkey;
            bool deleted;
        } pusher;
        struct {
            struct str user_id;
            bool is_signature, hosts_calculated;
        } device_list;
        struct {
            struct str room_id, event_id;
            bool flag;
        } room; /* un_partial_stated_*, sticky_events */
        struct {
            struct str user_id, room_id, event_id;
        } thread;
        struct {
            struct str func;
            const struct str *keys;
            size_t keys_count;
            bool all; /* keys null */
            int64_t ts;
        } cache;
    };
};

enum feed_state { FEED_CONNECTING, FEED_LIVE, FEED_DISCONNECTED };

struct feed_sink {
    void *arg;
    /* A complete batch. token is the writer's new position once it is absorbed. rows_count 0: only the
     * position moved. */
    void (*rows)(void *arg, enum stream s, writer_id w, int64_t token, const struct feed_row *rows,
                 size_t rows_count);
    /* A memory-only stream (typing) restarted below its old position: forget its state. Followed by rows().
     */
    void (*reset)(void *arg, enum stream s, writer_id w);
    /* End of one socket read or one filled gap: batched work may go out now. */
    void (*burst_end)(void *arg);
    /* Changes of a kind that cannot be enumerated were missed (caches gap past retention, long outage): drop
     * what is only invalidated by that stream. */
    void (*flush)(void *arg, enum stream s);
    void (*state)(void *arg, enum feed_state st);
};

struct uv_loop_s;
struct feed;
/* instance_map: read at start (and the configured writers inserted), extended on demand. */
writer_id feed_writer_id(struct feed *f, struct str instance_name); /* WRITER_NONE when unknown */
bool feed_writer_known(writer_id w);                                /* for token_parse */
writer_id feed_master(void);                                        /* the id of "master" */
/* Reads instance_map again (another worker may have added names); done is called once, on the hub, never
 * before this returns, and not at all when the feed stops first. Calls that come while one is under way share
 * the next one. */
void feed_writer_refresh(struct feed *f, void (*done)(void *arg), void *arg);
/* Compares stream_positions with what was received, now (at most once a second): for a token that is ahead of
 * us in a stream that its writer does not announce. What is missing then arrives through the sink. */
void feed_positions_check(struct feed *f);

/* Loads positions and instance_map synchronously (before the loop runs), then subscribes when the loop runs.
 * known: release_now() is what feed_release_learn said. */
int feed_start(struct feed **out, struct uv_loop_s *loop, const struct config *cfg, struct pg *pg,
               struct httpc *httpc, bool known, const struct feed_sink *sink, struct err *e) NODISCARD;
/* Positions as loaded at start; the sink's owner copies them into its own positions objects (see positions_*)
 * and advances those itself as it absorbs rows. Borrowed. */
const struct positions *feed_start_positions(const struct feed *f, enum stream s);
enum feed_state feed_state(const struct feed *f);

/* What we must send (synapse-replication 6.1, 6.2). All are no-ops while disconnected except that USER_SYNC
 * start is repeated on reconnect. The same address of the same token is told every two minutes: USER_IP
 * answers from when on (monotonic, ms) there is anything to tell again; 0: not known. */
int64_t feed_send_user_ip(struct feed *f, struct str user_id, struct str access_token, struct str ip,
                          struct str user_agent, struct str device_id);
/* Presence of syncing users: call when a /sync that affects presence starts and ends. Relays set_state over
 * HTTP (fire and forget, throttled), keeps USER_SYNC start/end with the 10 s delay. state: "online",
 * "unavailable". */
void feed_presence_start(struct feed *f, struct str user_id, struct str device_id, struct str state);
void feed_presence_end(struct feed *f, struct str user_id, struct str device_id);
/* Asks the main process to delete a pusher (Synapse 1.157 replication/http/push.py). Only a status 200 says
 * that it is gone; the row of the pushers stream follows. False: it cannot be sent at all (done is not
 * called). */
bool feed_remove_pusher(struct feed *f, struct str user_id, struct str app_id, struct str pushkey,
                        httpc_done_fn *done, void *arg);
/* Which Synapse this is, asked of the main process. feed_release_learn waits for it at start (the loop runs
 * meanwhile), a few seconds at most: the release, or that of no answer (major 0). The feed goes on asking and
 * keeps release_now() true. Known is also that it cannot be known (a proxy hides it). */
struct release feed_release_learn(struct uv_loop_s *loop, const struct config *cfg, struct httpc *httpc);
bool feed_release_known(const struct feed *f);
void feed_stop(struct feed **f); /* sends CLEAR_USER_SYNC, flushes, closes; bounded in time (1 s) */
#endif
