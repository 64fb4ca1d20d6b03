/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_FEED_INT_H
#define CHAPPE_FEED_INT_H
/*
 * The feed from inside. Two Redis connections (redis_conn.c) carry lines (command.c) whose rows (rows.c) go
 * through one small state machine per (stream, writer) (streams.c); gaps are filled by catchup.c, positions
 * and names come from startup.c, and outbound.c and presence_out.c hold what we publish. feed.c ties the life
 * cycle together.
 */
#include "chappe/feed.h"
#include "chappe/json.h"
#include "chappe/map.h"

#include <uv.h>

#define FEED_LOG "chappe.feed"

/* ---- command.c: one line ---- */
/* id, wire name */
#define REPL_COMMAND_MAP(X)                 \
    X(RDATA, "RDATA")                       \
    X(POSITION, "POSITION")                 \
    X(REPLICATE, "REPLICATE")               \
    X(USER_SYNC, "USER_SYNC")               \
    X(CLEAR_USER_SYNC, "CLEAR_USER_SYNC")   \
    X(USER_IP, "USER_IP")                   \
    X(FEDERATION_ACK, "FEDERATION_ACK")     \
    X(REMOTE_SERVER_UP, "REMOTE_SERVER_UP") \
    X(LOCK_RELEASED, "LOCK_RELEASED")       \
    X(NEW_ACTIVE_TASK, "NEW_ACTIVE_TASK")   \
    X(CANCEL_TASK, "CANCEL_TASK")           \
    X(SERVER, "SERVER")                     \
    X(PING, "PING")                         \
    X(NAME, "NAME")                         \
    X(ERROR, "ERROR")
enum repl_command {
#define X(id, wire) REPL_##id,
    REPL_COMMAND_MAP(X)
#undef X
        REPL_COMMAND_COUNT,
    REPL_UNKNOWN = REPL_COMMAND_COUNT,
    REPL_EMPTY /* nothing but blanks: a no-op */
};
const char *repl_command_name(enum repl_command c);

struct repl_line {
    enum repl_command cmd;
    struct str stream, instance; /* RDATA, POSITION; kept as far as they could be read, even on -ERR_PARSE */
    bool batch;                  /* RDATA … batch */
    int64_t token;               /* RDATA */
    int64_t prev, next;          /* POSITION */
    struct str row;              /* RDATA: JSON text */
};
/* 0 or -ERR_PARSE (cmd tells what it was meant to be). Slices point into line. */
int repl_parse(struct str line, struct repl_line *out) NODISCARD;

/* ---- rows.c: typed rows ---- */
int stream_find(struct str wire_name);     /* enum stream, or -1 */
bool stream_ignored(struct str wire_name); /* streams that exist and do not concern us */
const char *stream_db_name(enum stream s); /* in stream_positions; NULL: none */
/* Everything out points to lives in a (or is static). 0 or -ERR_PARSE. Longer arrays are accepted. */
int row_parse(struct arena *a, enum stream s, const struct json *j, struct feed_row *out) NODISCARD;
int row_parse_text(struct arena *a, enum stream s, struct str text,
                   struct feed_row *out) NODISCARD; /* + -ERR_NOMEM */

/* ---- redis_conn.c: one connection to Redis ---- */
struct redisReply;
struct redis_conn;
struct redis_conn_opts {
    const char *name; /* for logs */
    bool select_db;   /* SELECT redis.dbid: the outbound connection only */
    int ping_ms, timeout_ms, backoff_min_ms, backoff_max_ms;
    void *arg;
    void (*ready)(void *arg);                             /* authenticated: commands may be sent */
    void (*lost)(void *arg);                              /* after ready only; a new attempt is scheduled */
    void (*reply)(void *arg, const struct redisReply *r); /* every reply but PONG and those of the log-in */
    void (*burst_end)(void *arg); /* the socket is empty (or its share of the turn is used up) */
    void (*closed)(void *arg);    /* after redis_conn_stop, when nothing of it is left */
};
int redis_conn_new(struct redis_conn **out, uv_loop_t *loop, const struct config *cfg,
                   const struct redis_conn_opts *o, struct err *e) NODISCARD;
void redis_conn_start(struct redis_conn *c);
bool redis_conn_up(const struct redis_conn *c);
/* 0, -ERR_CLOSED while not up, -ERR_LIMIT when the peer does not read (the connection is then dropped). */
int redis_conn_send(struct redis_conn *c, const struct str *argv, int argc);
void redis_conn_settled(struct redis_conn *c); /* the connection proved useful: back-off starts over */
void redis_conn_fail(struct redis_conn *c, const char *why); /* drops it; lost() is called; it reconnects */
void redis_conn_flush(struct redis_conn *c, int wait_ms);    /* blocks; for the shutdown only */
void redis_conn_stop(struct redis_conn **c);                 /* closed() follows from the loop */

/* ---- streams.c ---- */
/* Something to be processed in order for one pair: a complete batch or a POSITION. */
struct feed_item {
    struct list link;
    bool position;
    bool damaged; /* rows were lost (unreadable, over the limit): fetch up to token instead */
    int64_t token, prev;
    struct arena *arena; /* owns what rows point to; NULL for positions */
    VEC(struct feed_row) rows;
};
struct feed_fetch;
struct feed_pair {
    enum stream s;
    struct str name; /* owned */
    writer_id writer;
    int64_t received;         /* the sink has everything of this writer up to here */
    int64_t received_checked; /* what it was when the gap check of this connection was made */
    uint64_t checked; /* epoch (connection) on which the gap check was made; equal to feed.epoch: live */
    bool expected;    /* LIVE waits for it */
    bool fresh;       /* nothing was heard of it since the process started */
    struct feed_item *pending; /* batch under construction */
    struct list queue;         /* items waiting for the fetch to end */
    size_t queue_n, queue_bytes;
    struct feed_fetch *fetch; /* the gap being filled, or NULL */
    int64_t db_ahead; /* safety net: position that stream_positions showed beyond received at the last look,
                         or 0 */
};
enum {
    FEED_FETCH_ROWS = 1000,
    FEED_PENDING_ROWS_MAX = 100000,
    FEED_QUEUE_ITEMS_MAX = 10000,
    FEED_UNORDERED_OVERLAP = 1000
};
enum { FEED_PENDING_BYTES_MAX = 64 << 20, FEED_QUEUE_BYTES_MAX = 64 << 20 };
enum { FEED_CACHES_FILL_MAX = 200000, FEED_CACHES_INSTANCES_MAX = 20000 };

/* ---- catchup.c ---- */
struct feed_fetched {
    int64_t token;
    int order; /* among equal tokens: arrival */
    struct feed_row row;
};
/* One read of (lo, hi] of a pair. The source fills rows and upto (≤ hi) and calls feed_fetch_done once, never
 * before its fetch function returned. f is NULL once the feed is gone. */
struct feed_fetch {
    struct list link; /* feed.fetches */
    struct feed *f;
    struct feed_pair *pair;
    enum stream s;
    int64_t lo, hi, upto;
    struct arena *arena;
    VEC(struct feed_fetched) rows;
    uint64_t epoch;      /* connection on which the gap was found */
    size_t filled;       /* rows delivered for this gap so far */
    int64_t retry_at_ms; /* 0: under way */
    int backoff_ms;
    bool give_up; /* there is nowhere to ask: adopt the position at the next tick */
};
/* A look at stream_positions that is under way. */
struct feed_look {
    struct feed *f; /* NULL once the feed is gone */
    bool at_once;   /* believe what it shows; otherwise only what two looks in a row show */
};
/* Where gaps are filled from: a seam for tests. */
struct feed_source {
    void (*fetch)(struct feed_fetch *q);
    void (*positions)(struct feed *f,
                      bool at_once); /* re-read stream_positions; answers through feed_positions_row */
};
extern const struct feed_source feed_source_real;
void feed_fetch_add(struct feed_fetch *q, int64_t token, const struct feed_row *row);
void feed_fetch_done(struct feed_fetch *q, int err);

/* ---- the whole ---- */
struct feed_tuning { /* tests shorten these */
    int tick_ms, live_wait_ms, ping_ms, redis_timeout_ms, backoff_min_ms, backoff_max_ms;
    int positions_every_ms, offline_delay_ms, fetch_backoff_min_ms, fetch_backoff_max_ms, user_ip_every_ms;
};
extern const struct feed_tuning feed_tuning_default;

struct feed_refresh {
    struct feed *f; /* NULL once the feed is gone */
    size_t waiters; /* how many had asked when it started */
};
struct feed_waiter {
    void (*done)(void *arg);
    void *arg;
};
struct feed {
    uv_loop_t *loop;
    const struct config *cfg;
    struct pg *pg;
    struct httpc *httpc;
    struct feed_sink sink;
    const struct feed_source *source;
    struct feed_tuning t;
    int64_t now_ms; /* monotonic; taken at each tick and line burst */

    enum feed_state state;
    uint64_t epoch;      /* counts subscriptions; 0: none yet */
    bool subscribed;     /* on this epoch */
    bool handshake_done; /* REPLICATE was sent on this epoch */
    int64_t handshake_at_ms, lost_at_ms, own_name_logged_ms, positions_at_ms;
    struct feed_look *look;
    bool dirty; /* dirty: rows went out since the last burst_end */
    struct redis_conn *sub, *out;
    int closing; /* handles left to close */
    uv_timer_t tick;

    struct smap pairs[STREAM_COUNT]; /* by writer name */
    struct feed_item *spare;
    bool present[STREAM_COUNT]; /* this schema has the stream */
    struct positions *start[STREAM_COUNT];
    int64_t caches_base; /* an instance never seen on caches has nothing for us up to here */
    struct list fetches;
    struct smap unknown; /* names already logged; keys owned by their value */

    /* writers */
    struct smap writers;          /* name → struct feed_writer */
    struct feed_refresh *refresh; /* instance_map being read */
    VEC(struct feed_waiter) refresh_waiters;
    writer_id next_local; /* negative ids of caches instances that have none in instance_map */

    /* which Synapse */
    struct feed_ask *release_ask; /* under way */
    bool release_known;
    int64_t release_at_ms, release_wait_until_ms;

    /* outbound */
    struct buf line;      /* scratch */
    struct imap user_ips; /* hash of (user, token, ip) → when it was last sent (outbound.c) */
    struct kmap presence; /* (user, device) → struct presence_entry */
    struct list going_offline;
    char instance_id[6];
    int relays_in_flight;
    bool relay_warned;
    struct list relays;
};

/* feed.c */
struct feed *feed_new(uv_loop_t *loop, const struct config *cfg, struct pg *pg, struct httpc *httpc,
                      const struct feed_sink *sink, const struct feed_source *src,
                      const struct feed_tuning *t);
int feed_connect(struct feed *f, struct err *e) NODISCARD; /* makes and starts the Redis connections */
void feed_line(struct feed *f, struct str line);
void feed_burst_end(struct feed *f);
void feed_check_live(struct feed *f);
void feed_log_unknown(struct feed *f, const char *what, struct str name);
void feed_epoch_begin(struct feed *f); /* a new subscription */
void feed_epoch_lost(struct feed *f);

/* release.c */
void feed_release_begin(struct feed *f, bool known);
void feed_release_tick(struct feed *f);
void feed_release_ask_soon(struct feed *f); /* a process of Synapse has started */
void feed_release_end(struct feed *f);

/* streams.c */
struct feed_pair *feed_pair_add(struct feed *f, enum stream s, struct str name, writer_id w,
                                int64_t received);
struct feed_pair *feed_pair_find(struct feed *f, enum stream s,
                                 struct str name); /* NULL: not a writer of s */
void feed_pairs_free(struct feed *f);
void feed_pairs_lost(struct feed *f);
void feed_pair_rdata(struct feed *f, struct feed_pair *p, const struct repl_line *l);
void feed_pair_position(struct feed *f, struct feed_pair *p, int64_t prev, int64_t next);
void feed_pair_suspect(struct feed *f, struct feed_pair *p); /* a line of it was unreadable: check again */
void feed_pair_fetched(struct feed *f, struct feed_pair *p, struct feed_fetch *q);
static inline bool feed_pair_live(const struct feed *f, const struct feed_pair *p)
{
    return f->epoch && p->checked == f->epoch && !p->fetch;
}
bool stream_unordered(enum stream s); /* tokens do not ascend: rows are never discarded by token */

/* catchup.c */
void feed_fetch_start(struct feed *f, struct feed_pair *p, int64_t lo, int64_t hi);
void feed_fetch_tick(struct feed *f);
void feed_fetches_detach(struct feed *f);
void feed_positions_row(struct feed *f, struct str stream, struct str instance, int64_t stream_id,
                        bool at_once);
void feed_positions_tick(struct feed *f);

/* startup.c */
int feed_load(struct feed *f, struct err *e) NODISCARD; /* positions, instance_map, pairs */
const struct config_writers *feed_writers_of(const struct config *cfg,
                                             enum stream s); /* NULL: master only (or any: caches) */
void feed_pairs_expect(struct feed *f);
void feed_pairs_make(struct feed *f); /* one pair per configured writer, at the positions loaded */
void feed_writer_put(struct feed *f, struct str name, writer_id id);
writer_id feed_writer_local(struct feed *f,
                            struct str name); /* instance_map's id, else a private negative one */
void feed_writers_free(struct feed *f);

/* outbound.c */
int feed_publish(struct feed *f, struct str channel_suffix, struct str line, const char *command);
/* Percent-encodes all but unreserved characters. */
void url_put(struct buf *b, struct str s);
/* Fills url and unix_path for a replication endpoint of an instance; false when instance_map does not list
 * it. */
/* http://host:port of an instance's replication listener; false: not in instance_map. */
bool repl_base_url(const struct config *cfg, struct str instance, struct buf *url, struct str *unix_path);
bool repl_url(const struct config *cfg, struct str instance, const char *endpoint, struct buf *url,
              struct str *unix_path);
/* POSTs a JSON body to an instance's replication API (…/endpoint/key), with the secret. False: no such
 * instance, or too long; then done is not called. */
bool repl_post(struct feed *f, struct str instance, const char *endpoint, struct str key, struct str body,
               httpc_done_fn *done, void *arg);

/* presence_out.c */
void feed_presence_connected(struct feed *f); /* repeats start for every syncing device */
void feed_presence_tick(struct feed *f);
void feed_presence_free(struct feed *f, bool send_clear);
#endif
