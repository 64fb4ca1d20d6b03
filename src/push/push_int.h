/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_PUSH_INT_H
#define CHAPPE_PUSH_INT_H
/*
 * Inside src/push.
 *
 *   pool.c      strings and actions that repeat, shared
 *   scan.c      range reads of event_push_actions up to the persisted position; backlogs of single users
 *   event.c     what is told: events with names, shared by all recipients, loaded per burst
 *   users.c     users, their queues of actions, their pushers; what a pusher does next
 *   leader.c    one process per instance name sends
 *   rows.c      rows of the pushers table
 *   badge.c     unread counts
 *   receipts.c  read markers: what was read is not told any more
 *   payload.c   the bytes of a notification
 *   origin.c    gateways: health, windows, fair turns
 *   send.c      one request and what its answer means
 *   commit.c    positions, written in groups
 *   removal.c   rejected pushkeys
 *   push.c      life, timers, the feed's sink
 *
 * Ownership: a user owns its queue and its pushers; a queued action holds a reference to its event; a pusher
 * with a request under way is freed when that ends. Strings that repeat (rooms, threads, actions) are counted
 * and shared.
 */
#include "chappe/push.h"

#include "chappe/clock.h"
#include "chappe/httpc.h"
#include "chappe/json.h"
#include "chappe/log.h"
#include "chappe/loop.h"
#include "chappe/map.h"
#include "chappe/metrics.h"

#include <stdlib.h>
#include <uv.h>

#define PUSH_LOG "chappe.push"

enum {
    SCAN_PAGE = 20000,   /* rows of one range read */
    QUEUE_MAX = 1000,    /* actions in memory for one user; the rest is read again when these are through */
    BACKLOG_PAGE = 500,  /* rows of one user in one read of backlogs; below QUEUE_MAX */
    BACKLOG_USERS = 500, /* users in one such read */
    BADGE_USERS = 2000,  /* users in one load of badges */
    EVENTS_PER_LOAD = 500,
    PUSHERS_PAGE = 5000,    /* rows of one page of the table */
    DATA_BYTES_MAX = 65536, /* pushers.data; larger ones are not served */
    SENDS_PER_TURN = 64,    /* requests begun in one turn of the loop */
    WINDOW_START = 16,      /* requests under way to one gateway, at first */
    WINDOW_MAX = 512,
    SENDS_MAX = 2048, /* requests under way in all */
    BACKOFF_FIRST_MS = 1000,
    BACKOFF_MAX_MS = 300000,
    PROBE_MAX_MS = 60000,  /* between probes of a gateway that is down */
    ORIGIN_FAILS_OPEN = 5, /* answers in a row that say "gateway down" */
    GIVE_UP_MS = 86400000,
    REFUSED_TRIES = 3, /* a notification that the gateway calls wrong is skipped after these tries… */
    REFUSED_SPAN_MS = 600000, /* …over at least this time */
    BADGE_DELAY_MS = 500,
    CHANGED_MAX = 2000,       /* rows read by key at once */
    FAILING_START_MS = 30000, /* at start pushers that failed before come in over this time */
    COMMIT_MAX = 5000,        /* positions in one statement */
    REDACTIONS_KEPT = 256,
    BREAKER_MS = 600000, /* for so long a gateway that rejects too many is not believed */
    HOST_CONNECTIONS_MAX = 256,
    RETRY_MS = 1000,         /* after the database failed us */
    SAY_INTERVAL_MS = 60000, /* the same gateway is complained about at most this often */
    SWEEP_MS = 60000,
    REFRESH_MS = 3600000,    /* the whole table is read again: some deletions write no row of the stream */
    REMOVAL_DELAY_MS = 2000, /* time for the breaker to see that a gateway rejects everybody */
    RESOLVED_MS = 60000,     /* how long an address is used */
    RETRY_AFTER_MAX_MS = 3600000,
    CONNECT_TIMEOUT_MS = 10000,
    REQUEST_TIMEOUT_MS = 60000,
    RESPONSE_BYTES_MAX = 65536,
};

/* ---- timers (push.c) ---- */
enum push_timer_kind { TIMER_PUSHER, TIMER_BADGE, TIMER_ORIGIN }; /* what it stands in */
struct push_timer {
    struct wheel_timer at;
    enum push_timer_kind kind;
};
void push_timer_set(struct push *p, struct push_timer *t, int64_t due_ms); /* by clock_mono_ms() */
void push_timer_cancel(struct push *p, struct push_timer *t);
static inline bool push_timer_is_set(const struct push_timer *t)
{
    return wheel_is_set(&t->at);
}

/* ---- shared strings (pool.c) ---- */
struct pstr {
    uint32_t refs;
    uint32_t n;
    char p[]; /* NUL-terminated */
};
struct pstr *pstr_ref(struct push *p, struct str s); /* finds or makes it, and counts */
void pstr_unref(struct push *p, struct pstr **s);
static inline struct str pstr_str(const struct pstr *s)
{
    return s ? str_n(s->p, s->n) : STR_ABSENT;
}

/* event_push_actions.actions, understood once per distinct text. */
struct push_tweaks {
    uint32_t refs;
    bool notify, high; /* high: a sound or a highlight */
    struct str text;   /* actions as stored, with 'h' or '-' (the highlight column) before them: the key */
    struct str json;   /* canonical JSON of the tweaks; absent: none */
};
struct push_tweaks *tweaks_ref(struct push *p, struct str actions, bool highlight);
void tweaks_unref(struct push *p, struct push_tweaks **t);

/* ---- events (event.c) ---- */
enum push_event_state { PUSH_EVENT_NEW, PUSH_EVENT_LOADING, PUSH_EVENT_READY, PUSH_EVENT_GONE };
struct push_member {
    struct str user_id, display_name, sender;
};
struct push_event {
    uint32_t refs; /* actions and requests */
    enum push_event_state state;
    int64_t stream_ordering;
    int64_t origin_server_ts, received_ts;
    struct pstr *room, *thread;
    struct str event_id;               /* in this struct's own allocation */
    struct list wanted;                /* push.events_wanted */
    struct arena *a;                   /* once loaded: all that follows */
    struct str type, sender;           /* sender absent: none */
    struct str state_key, membership;  /* state_key absent: not a state event */
    struct str content;                /* canonical JSON; absent: empty, or not to be told */
    struct str room_name, sender_name; /* absent: none */
    /* A room without a name of its own is called by its members, differently for each reader. */
    bool nameless;
    struct push_member *members; /* joined and invited ones, oldest first; the first few */
    size_t members_count;        /* how many of them are here */
    int64_t members_total;
    bool third_party_invites;
    bool encrypted;
    struct pstr
        *own_member; /* about the membership of this user, who is here: the badge knows it otherwise */
    char id[];
};
struct push_event *push_event_ref(struct push *p, struct str event_id, struct str room_id,
                                  struct str thread_id, int64_t stream_ordering);
void push_event_unref(struct push *p, struct push_event **ev);
void push_events_load(struct push *p); /* what is wanted, in batches */
/* A redaction of an event that is still queued; only one of the same room counts. */
void push_event_gone(struct push *p, struct str event_id, struct str room_id);
struct own_member {
    struct pstr *event, *user;
};
void own_member_put(struct push *p, struct str event_id, struct str user_id);
void own_members_clear(struct push *p);
/* The room's name for one reader, absent: none. From scratch's arena or the event's. */
struct str push_room_name(const struct push_event *ev, struct str user_id, struct arena *scratch);

/* ---- users and pushers (users.c) ---- */
struct push_action {
    struct push_event *ev;
    struct push_tweaks *tweaks;
};
/* Unread notifications of one thread. */
struct unread {
    struct pstr *room, *thread;
    int64_t newest; /* stream ordering of the newest one */
    int64_t count;
};
enum badge_state { BADGE_COLD, BADGE_WANTED, BADGE_LOADING, BADGE_WARM };
struct badge {
    enum badge_state state;
    bool stale;                    /* something happened while it was being loaded: load again */
    int64_t upto;                  /* actions up to here are in it */
    uint64_t redactions;           /* push.redactions that it has taken into account */
    int64_t invites, rooms, total; /* rooms: with something unread; total: sum of counts */
    VEC(struct unread) v;          /* sorted by room and thread (addresses) */
    const void *load;              /* whose answer counts, while loading */
    struct list lru;               /* push.badges_warm, while warm */
};
enum backlog_state { BACKLOG_NONE, BACKLOG_WANTED, BACKLOG_LOADING };
struct push_user {
    struct push *p;
    struct list pushers; /* struct pusher.of_user */
    size_t pushers_count;
    struct push_action *queue; /* ascending by stream ordering */
    size_t queue_first, queue_n, queue_cap;
    int64_t queue_from; /* the queue has every unread action above this, up to its end… */
    bool more;          /* …after which the table has more; else up to what is scanned */
    enum backlog_state backlog;
    bool backlog_again;   /* what is being loaded is out of date already */
    int64_t backlog_from; /* wanted or being read from here (exclusive) */
    int64_t expires_ms;   /* account_validity; 0: never */
    struct badge badge;
    bool badge_check; /* a receipt came: tell the count when it changed */
    struct push_timer badge_timer;
    struct list wanted; /* push.badges_wanted or push.backlogs_wanted */
    struct list wanted_backlog;
    struct list waiting; /* push.waiting: something it needs is being loaded */
    struct str id;
    char id_bytes[];
};

/* name, meaning: the contract's A4.9 */
#define PUSHER_STATE_MAP(X)                                         \
    X(IDLE, "nothing to tell, or what there is to tell is loading") \
    X(READY, "waits for its turn at the gateway")                   \
    X(SENDING, "one request is under way")                          \
    X(WAIT, "a failure: waits for its timer, or for the gateway")   \
    X(SUSPENDED, "rejected, its removal is under way")
enum pusher_state {
#define X(name, text) PUSHER_##name,
    PUSHER_STATE_MAP(X)
#undef X
        PUSHER_STATE_COUNT
};
enum push_kind { PUSH_EVENT, PUSH_BADGE };
struct pusher {
    struct push *p;
    struct push_user *user; /* NULL once dead */
    struct list of_user;
    struct origin *origin;
    struct list turn;    /* in one of its origin's lists: ready or held */
    struct list dirty;   /* push.dirty */
    struct list removal; /* push.removals */
    struct push_timer timer;
    enum pusher_state state;
    bool dead; /* deleted or replaced; freed when its request has ended */
    bool event_id_only, no_counts;
    bool seen;                           /* in the refresh that is under way */
    int64_t id;                          /* the version of the row */
    int64_t done;                        /* everything up to here is told, read, gone or given up */
    int64_t last_success, failing_since; /* 0: none */
    unsigned failures;                   /* in a row: the backoff */
    int64_t refused_at, refused_since;   /* head that the gateway called wrong, since when, how often */
    unsigned refused_tries;
    int64_t tried_at;                /* the notification of the last attempt: the same again is a retry */
    int64_t jitter_at, jitter_until; /* head for which the delay was drawn */
    int64_t badge_told;              /* -1: nothing yet */
    bool badge_due;
    enum push_kind kind;        /* of the turn or of the request */
    struct push_event *sending; /* referenced, while SENDING an event */
    int64_t sending_count, sent_us;
    int64_t removal_ms; /* when to ask for the removal */
    unsigned removal_tries;
    bool removal_sent;
    struct str app_id, pushkey, url, device; /* device: rendered up to where the tweaks go */
    char bytes[];
};

struct push_user *push_user_find(struct push *p, struct str user_id);
struct push_user *push_user_get(struct push *p, struct str user_id); /* makes it */
void push_user_free(struct push_user *u);                            /* no pushers left */
/* Puts one action in its place; false when it is known already or does not fit (then more is set). */
bool push_user_add(struct push_user *u, struct push_event *ev, struct push_tweaks *tweaks);
/* Drops queued actions of a room that a read marker covers; thread NULL: of every thread. */
void push_user_read(struct push_user *u, const struct pstr *room, const struct pstr *thread, int64_t upto);
void push_user_advance(struct push_user *u); /* looks at each pusher that can go on */
/* Has the table read above a position; what it finds replaces the queue. */
void push_user_want_backlog(struct push_user *u, int64_t from);
void push_user_queue_clear(struct push_user *u);
void push_user_wait(struct push_user *u); /* advance again after the next load */
void push_waiting_run(struct push *p);
void push_waiting_advance(struct push *p); /* the same, and what follows from it: loads, requests */
const struct push_action *pusher_head(const struct pusher *ps);
void pusher_advance(struct pusher *ps);
void pusher_done(struct pusher *ps, int64_t upto);    /* moves the position */
void pusher_kill(struct pusher *ps);                  /* deleted or replaced */
void pusher_release(struct pusher *ps);               /* its request has ended; frees a dead one */
void pusher_fail(struct pusher *ps, int64_t wait_ms); /* to WAIT; wait_ms 0: its own backoff */

/* ---- rows (rows.c) ---- */
void push_rows_load(struct push *p); /* the whole table, in pages */
void push_rows_changed(struct push *p, struct str user_id, struct str app_id, struct str pushkey,
                       bool deleted);
void push_rows_flush(struct push *p);             /* reads what changed */
void push_rows_changed_pusher(struct pusher *ps); /* its row is not what we thought */

/* ---- leader.c ---- */
void push_lead(struct push *p);      /* asks for the lock; from then on sends says whether it is ours */
void push_stand_by(struct push *p);  /* nothing is sent */
void push_take_over(struct push *p); /* the table was read: send, if the lock is ours */

/* ---- scan.c ---- */
void push_scan(struct push *p); /* up to the persisted position, unless a read is under way */
/* In the middle of a stretch, perhaps after a failure: some of its actions are in the queues, some are not.
 */
bool push_scan_midway(const struct push *p);
void push_backlogs_load(struct push *p);

/* ---- badge.c ---- */
bool badge_want(struct push_user *u); /* whether it is warm; otherwise it is asked for */
int64_t badge_value(const struct push_user *u);
void badge_cold(struct push_user *u); /* forget it */
void badge_action(struct push_user *u, const struct push_event *ev);
void badge_read(struct push_user *u, const struct pstr *room, const struct pstr *thread, int64_t upto);
void badge_redacted(struct push *p, struct str room_id);
void badges_load(struct push *p);
void badges_trim(struct push *p);
void badge_fini(struct push_user *u);

/* ---- receipts.c ---- */
struct push_receipts;
void push_receipts_rows(struct push *p, const struct feed_row *rows, size_t n);
void push_receipts_flush(struct push *p);
void push_receipts_scanned(struct push *p); /* markers ahead of the scan that it has reached now */
void push_receipts_free(struct push *p);

/* ---- payload.c ---- */
/* The device object up to where its tweaks go. False: the row cannot be served (why says it). */
bool payload_device(struct str app_id, struct str pushkey, int64_t ts, const struct json *data,
                    struct buf *out);
/* The whole body. count < 0: without counts. */
void payload_event(const struct pusher *ps, const struct push_action *a, int64_t count, struct buf *out);
void payload_badge(const struct pusher *ps, int64_t count, struct buf *out);
bool payload_high(const struct push_action *a);

/* ---- origin.c ---- */
enum origin_health { ORIGIN_HEALTHY, ORIGIN_OPEN, ORIGIN_PROBING, ORIGIN_RAMP };
enum { REJECTS_WINDOW = 40 };
struct origin {
    struct push *p;
    struct list active;   /* push.origins_active, while somebody is ready */
    struct str key, host; /* "https://host:port"; host without brackets */
    int port;
    bool https;
    size_t pushers; /* that point here */
    enum origin_health health;
    struct list ready[2]; /* low, high */
    struct list held;     /* in WAIT because of the gateway */
    size_t ready_count, in_flight;
    unsigned turns;
    double window;
    int64_t backoff_ms;
    unsigned fails;          /* in a row */
    int64_t pause_until_ms;  /* Retry-After: before this not even an answer to an earlier request opens it */
    struct push_timer timer; /* OPEN: when to probe; RAMP: when the window grows */
    /* the last answers: which rejected our pushkey */
    uint8_t answers[REJECTS_WINDOW];
    unsigned answers_n, answers_at, rejected_n;
    int64_t breaker_until_ms;
    /* addresses */
    bool literal, forbidden, unknown;
    bool resolve_told;   /* curl has the line already */
    int64_t resolved_ms; /* 0: not yet */
    char *resolve;       /* curl's line; NULL when not needed */
    uv_getaddrinfo_t *lookup;
    int64_t logged_ms;
    const char *label; /* in metrics; NULL: it is none of those that are shown */
    char bytes[];
};
struct origin *origin_get(struct push *p, struct str url); /* NULL: not an URL we can serve */
void origin_unref(struct origin *o);
void origin_enqueue(struct pusher *ps, bool high, bool first);
void origin_forget(struct pusher *ps); /* out of every list */
void origins_dispatch(struct push *p);
void origins_show(struct push *p); /* in metrics */
enum push_outcome { OUTCOME_OK, OUTCOME_REJECTED, OUTCOME_ORIGIN, OUTCOME_PUSHER, OUTCOME_REFUSED };
void origin_answer(struct origin *o, enum push_outcome outcome, int64_t retry_after_ms);
bool origin_breaker(struct origin *o); /* it rejects too many: its word is not taken */
/* How long a pusher waits that it rejected: past the pause, and not all of them at once, so that those whose
 * devices are gone indeed come one by one among the answers to others. */
int64_t origin_breaker_wait(void);
void origin_timer(struct origin *o);

/* ---- send.c ---- */
/* What a gateway's answer means for a pushkey. */
enum push_outcome push_outcome(struct push *p, struct str pushkey, const struct httpc_res *res);
/* It is this pusher's turn: one request, or on to the next thing when there is nothing to tell any more. */
void pusher_send(struct pusher *ps);
void pusher_answered(void *arg, const struct httpc_res *res); /* arg: the pusher that sent */
void pusher_refused(
    struct pusher *ps); /* its gateway may not or cannot be reached: a failure without a request */
struct str push_proxy(const struct push *p, const struct origin *o); /* absent: none */

/* ---- commit.c ---- */
void pusher_dirty(struct pusher *ps);
void push_commit(struct push *p, bool now);

/* ---- removal.c ---- */
void removal_enqueue(struct pusher *ps);
void removals_run(struct push *p);

struct push {
    struct uv_loop_s *loop;
    const struct config *cfg;
    struct pg *pg;
    struct feed *feed;
    struct httpc *httpc;
    struct ip_policy policy;
    uv_timer_t timer; /* the wheel */
    uv_idle_t idle;   /* while there is something to send or to do at once */
    uv_timer_t tick;  /* flushes, sweeps */
    int handles;
    bool draining, stopping, work, advancing;
    int64_t retry_ms;
    struct wheel wheel;
    struct buf body; /* of the request being made */
    struct arena *scratch;

    struct smap users;   /* by id */
    struct smap strings; /* struct pstr */
    struct smap tweaks;  /* by text */
    struct smap events;  /* by event id */
    struct smap origins_by_key;
    struct smap own_members; /* struct own_member: recent events about memberships of users with pushers */
    struct list origins_active;
    size_t pushers_count, in_flight;

    struct positions *positions; /* of the events stream */
    int64_t scanned;             /* actions up to here are in the queues */
    bool scanning, scan_again;
    int64_t scan_upto, scan_so;
    struct str scan_user; /* keyset of the page under way; own copy */

    struct list events_wanted, badges_wanted, backlogs_wanted, waiting, badges_warm, dirty, removals;
    size_t events_loading, badges_loading, backlogs_loading;
    size_t unread_count; /* entries of all warm badges */
    /* rooms of recent redactions, newest at (redactions - 1) % REDACTIONS_KEPT; badges compare */
    struct pstr *redacted[REDACTIONS_KEPT];
    uint64_t redactions;

    struct pg_lock *lock;
    bool lock_asked, leads; /* the lock was answered about; it is ours */
    bool sends;             /* …and the table was read since */
    bool rows_again;        /* only a read of the table that begins from now on counts */

    bool rows_ready, rows_loading, rows_reading;
    int64_t rows_after, rows_next_ms, sweep_ms;
    int64_t load_ms;          /* a read failed: none before this */
    struct smap rows_changed; /* struct changed_key */
    size_t email_pushers;

    size_t removals_sent;
    bool committing;
    int64_t commit_ms;
    struct push_receipts *receipts;
};

void push_load(struct push *p);        /* sends off what is wanted of the database */
void push_load_failed(struct push *p); /* no hurry, then */
void push_work(struct push *p);        /* run the idle handle: something became ready */
#endif
