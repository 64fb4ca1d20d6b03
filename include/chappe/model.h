/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_MODEL_H
#define CHAPPE_MODEL_H
/*
 * The homeserver in memory: a cache of rows of Synapse's tables with known horizons (design D2), fed by
 * replication and extended from PostgreSQL on demand (design D3).
 *
 * Reading. Every accessor answers HAVE (known), ABSENT (known not to be there) or LACK (unknown: the want has
 * been noted, try again after model_load's callback). Readers go on after a LACK to note everything they can
 * foresee; the loader merges the wants of all readers and fetches them in one pipelined batch. Nothing is
 * ever guessed.
 *
 * Horizons. An object that lives in memory absorbs every replication row that concerns it from the moment it
 * was made; what lies before that moment is loaded on demand. So rows loaded are always of the past and
 * cannot race with rows absorbed; where a table keeps only the newest row (state, account data), an absorbed
 * row marks the copy stale by raising its generation, and a load that was under way when that happened is
 * thrown away and repeated.
 *
 * Everything lives on the hub thread. Pointers returned are good until the hub returns to its loop.
 */
#include "chappe/event.h"
#include "chappe/feed.h"
#include "chappe/filter.h"
#include "chappe/map.h"

enum have { HAVE, ABSENT, LACK };

/* ---- events ---- */

enum load_state { LOAD_NONE, LOAD_QUEUED, LOAD_BUSY, LOAD_DONE };
struct redaction_ref {
    struct evrec *by;
    bool recheck;
};
/* One event id. Kept while pinned (by rings, state, members) or while its event is in memory. */
struct evrec {
    struct str id;
    struct event *ev; /* NULL unless loaded */
    uint8_t load;     /* enum load_state of ev and redactions; LOAD_DONE and ev == NULL: not stored, or odd */
    bool stale;       /* a row said that it changed: load again before use */
    bool resolving;   /* guards against redaction cycles */
    bool pushed;      /* scratch of the loader */
    uint32_t pins;
    uint32_t gen;
    size_t counted_bytes; /* of ev, in the model's account */
    VEC(struct redaction_ref) redactions;
    struct list lru;
};

/* ---- state groups ---- */

/* State after an event: immutable. Its own map plus, where prev is set, what prev says for keys it does not
 * hold. */
struct sg {
    int64_t id;
    struct room *room;
    struct sg *prev;
    struct smap map;      /* "type\0state_key" -> struct sg_entry, but for members */
    struct smap members;  /* user id -> struct sg_entry */
    uint8_t delta;        /* enum load_state of the delta and edge */
    bool nonmembers, all; /* the map holds every non-member key / every key */
    bool want_nonmembers, want_all;
    bool missing; /* has neither a row nor an edge */
};
struct sg_entry {
    struct str key; /* type NUL state_key; of members the user id */
    struct str type, state_key;
    struct evrec *rec; /* NULL: known not to be set */
};

/* ---- rooms ---- */

struct tl_entry {
    int64_t stream, topological;
    writer_id writer;
    struct evrec *rec; /* pinned */
};
/* The newest event at or before a position that lies below the timeline's horizon. */
struct last_at {
    struct room *room;
    struct mpos at;
    uint8_t load;
    bool found;
    int rows;          /* how many were looked at */
    struct tl_entry e; /* pinned when found */
};
struct state_entry {
    struct str key, type, state_key;
    struct evrec *rec;
};
struct state_delta { /* a change of the current state */
    int64_t stream;
    writer_id writer;
    struct str type, state_key;
    struct evrec *rec; /* pinned; NULL: no such state any more */
    char *mem;
};
struct member {
    struct str user_id;
    struct evrec *rec;
    enum membership membership;
    int64_t stream; /* event_stream_ordering */
};
struct receipt {
    int64_t stream;
    writer_id writer;
    struct str type, user_id, event_id, thread_id; /* thread absent: unthreaded */
    struct str data;                               /* JSON text */
    char *mem;
};
struct room {
    struct str room_id; /* first: so that tables may find by it what begins with a pointer to the room */
    uint32_t id_hash;   /* smap_hash() of it: users' tables are asked for it all the time */
    struct mpos since_events, since_receipts; /* absorbed completely from here on */
    /* timeline: non-outlier events, ascending by stream ordering. Complete above since_events, or, once
     * tl_horizon_known, for every stream ordering > tl_horizon. Topologically complete for (topological,
     * stream) >= (topo_t, topo_s) when topo_known. */
    VEC(struct tl_entry) tl;
    bool tl_horizon_known, topo_known;
    int64_t tl_horizon, topo_t, topo_s;
    uint8_t tl_load, topo_load;
    int64_t tl_want_lo;
    int tl_want_n, topo_want_n;
    uint32_t topo_gen;             /* raised when something was stored at an unknown depth */
    VEC(struct last_at *) last_at; /* the few most recently asked for */
    /* timeline gaps, ascending */
    VEC(int64_t) gaps;
    uint8_t gaps_load;
    uint32_t gaps_gen;
    int64_t last_event; /* greatest stream ordering absorbed or known here; 0: none since since_events */
    /* current state: state holds non-member keys, members the others */
    uint8_t state_load;
    uint32_t state_gen;
    bool state_stale;
    struct smap state;    /* "type\0state_key" -> struct state_entry */
    struct smap members;  /* user_id -> struct member */
    int64_t state_newest; /* greatest event_stream_ordering among the rows loaded */
    /* changes of the current state, ascending, while kept: see deltas.c */
    VEC(struct state_delta) deltas;
    bool deltas_kept, deltas_known;
    struct mpos deltas_since;
    int64_t deltas_horizon, deltas_want_lo;
    uint8_t deltas_load;
    uint32_t deltas_gen;
    int64_t joined_count, invited_count;
    bool summary_valid;
    struct member *summary_first[6]; /* by (join, invite, leave, other), then stream: heroes */
    int summary_first_count;
    /* receipts: newest per (type, user, thread); complete above since_receipts, or above rc_horizon when
     * known */
    VEC(struct receipt) receipts; /* ascending by stream */
    bool rc_horizon_known;
    int64_t rc_horizon, rc_want_lo;
    uint8_t rc_load;
    int64_t last_receipt;
    /* typing: ephemeral */
    int64_t typing_serial; /* 0: nothing known */
    VEC(struct str) typing;
    /* state groups seen here, by id */
    struct imap groups;
    /* users with a waiting or recent request who are joined here: whom a change here wakes */
    VEC(struct membership_row *) active;
    uint32_t redaction_gen; /* raised when an event here is redacted: unread counters reload */
    uint64_t serial;        /* raised by whatever replication brings of the room alone */
    struct list relations;  /* struct relations.in_room */
    bool touched;           /* scratch: in the burst being applied */
    bool partial;           /* partial state (faster joins) */
    int64_t un_partial;     /* un_partial_stated_room position at which it ceased to be; 0: never was */
    uint32_t refs;          /* rows of users that point here: not to be evicted */
    int64_t used_ms;
    struct list lru;
};

/* What relates to one event of a room. Two parts, loaded each when first asked for: the bundle (what servers
 * put into m.relations; children of the same room only) and the relatives (what filters ask for; children of
 * any room). */
struct relation_child {
    struct str event_id, sender;
};
struct relation_count {
    struct str sender;
    int64_t n;
};
struct relation_bundle {
    VEC(struct relation_child) references; /* by (topological, stream) */
    struct str edit;                       /* the newest by the parent's sender, of its type; absent: none */
    struct relation_child thread_latest;   /* event_id absent: no thread */
    VEC(struct relation_child) thread_first; /* the oldest five */
    VEC(struct relation_count) thread_senders;
};
struct relation_kind {
    struct str rel_type, sender;
};
struct relations {
    struct str parent;
    struct room *room;
    struct list in_room, lru;
    uint8_t bundle_load, kinds_load;
    bool bundle_stale, kinds_stale;
    uint32_t gen;
    struct relation_bundle *bundle;  /* NULL: nothing to bundle */
    VEC(struct relation_kind) kinds; /* distinct */
    size_t bundle_bytes, kinds_bytes;
};

struct device_list_row {
    int64_t stream;
    writer_id writer;
    struct str user_id, room_id; /* room_id absent: the user's own row */
    bool is_signature;
    char *mem;
};

/* ---- users and devices ---- */

struct membership_row { /* local_current_membership */
    struct room *room;  /* first: tables find it by that, and the room begins with its id */
    struct user *user;
    union {
        struct evrec *rec;    /* pinned; not of a join, whose event nobody asks for */
        int64_t joined_group; /* of a join: a state group in which the user is joined (sync/shared.c), or 0 */
    };
    int64_t stream;
    uint32_t active_at; /* in the room's, while the user is active */
    writer_id writer;
    uint16_t sender_n;
    uint8_t membership; /* enum membership */
    bool forgotten : 1;
    bool known_version : 1;
    char sender[]; /* of a membership that somebody else may have made: not of a join */
};
static inline struct str membership_sender(const struct membership_row *row)
{
    return str_n(row->sender, row->sender_n);
}
struct own_event { /* a membership event of the user */
    struct evrec *rec;
    struct room *room;
    int64_t stream;
    writer_id writer;
};
struct own_events {
    VEC(struct own_event)
    list;            /* ascending; complete above the user's since_events, or above horizon when known */
    int64_t horizon; /* while they are loaded: what is wanted */
};
struct account_datum {
    struct str key; /* type, or room NUL type */
    struct str room_id, type;
    struct str content; /* JSON text */
    int64_t stream;
};
struct room_tags {
    struct str room_id;
    struct str content; /* {"tags":{…}} as JSON text */
    bool any;           /* at least one tag */
    int64_t revision;
};
struct unread_thread {
    struct str thread_id; /* "main" or a root */
    int64_t receipt;      /* r(t): positions at or below are read */
    int64_t newest;       /* of what is counted here and was not absorbed when the counts were loaded */
    int64_t notify, highlight, unread;
    bool summarised; /* scratch of the loader */
};
struct unread {        /* of one user in one room */
    struct room *room; /* first: tables find it by that, and the room begins with its id */
    struct user *user;
    uint32_t gen;
    uint32_t redaction_gen;
    int64_t upto; /* what was absorbed when the counts were loaded is at or below this */
    VEC(int64_t)
    included; /* events above the absorbed position whose push actions the load already counted */
    int64_t base;
    VEC(struct unread_thread) threads;
    uint8_t load;
    bool stale;
    bool old_sum; /* rests on a sum from before the user's receipt: read again with the room's next event */
};
struct to_device_msg {
    int64_t stream;
    struct blob *json; /* NULL: not an object; it counts, and is deleted with the others, but is not shown */
};
/* A member event that a lazily loading device has. The user is known by a keyed hash: two that share one
 * could only be sent once too often, since the event tells them apart. */
struct ll_sent {
    uint64_t user;
    struct evrec *rec;    /* pinned */
    struct mpos_kept *at; /* where the answer ended that had it; kept by the model */
};
/* Of a device that loads members lazily. */
struct ll_state {
    VEC(struct ll_sent) sent;     /* least recently used first */
    int64_t expires_ms, newest;   /* the latter: no entry was sent beyond it */
    int64_t given_min, given_max; /* no next_batch was beyond this: min, and the farthest writer */
};
struct device {
    struct str device_id; /* first: tables find it by that */
    struct user *user;
    /* undelivered messages: complete in (td_lo, td_hi] when td_known; while they are loaded, from td_lo on */
    VEC(struct to_device_msg) td;
    int64_t td_lo, td_hi;
    int64_t td_deleted_upto; /* rows at or below are deleted, or being deleted; -1: never done here */
    int64_t td_seen_upto;    /* rows may exist up to here */
    /* key counts */
    struct blob *otk_json;      /* {"signed_curve25519":50} */
    struct blob *fallback_json; /* ["signed_curve25519"] */
    struct ll_state *ll;        /* members sent: user -> event (sync-v3 4.2); NULL: none ever */
    uint16_t deleting;          /* deletions noted or under way: not to be evicted */
    uint16_t keys_gen;
    uint8_t pages;       /* scratch of the loader: rows of this load, up to one page */
    uint8_t td_load : 2; /* enum load_state, both */
    uint8_t keys_load : 2;
    bool td_known : 1;
    bool keys_stale : 1;
    char text[]; /* of device_id */
};
struct presence {
    struct str user_id, state, status_msg;
    int64_t last_active_ts, stream;
    bool currently_active;
};
struct news_at { /* where a room stood: stream ids, and the serial of typing */
    int64_t events, receipts, typing;
};
struct news_item {
    struct membership_row *row; /* of the user in the room, joined */
    struct news_at at;
};
/* A part of an object that is read as a whole: raising gen makes stale what is being read. */
struct user_part {
    uint32_t gen : 29;
    uint32_t load : 2; /* enum load_state */
    uint32_t stale : 1;
};
static inline bool user_part_fresh(const struct user_part *p)
{
    return p->load == LOAD_DONE && !p->stale;
}
/* Device list rows from before the model's ring: in (lo, floor of the ring], when loaded. */
struct device_list_past {
    VEC(struct device_list_row) rows;
    int64_t lo, want_lo, floor;
};
/* What a user has once somebody has asked for it: who only waits does not. */
struct user_more {
    /* account data: complete copies, refreshed by rows newer than ad_upto */
    int64_t ad_last; /* greatest stream id seen in the rows */
    int64_t ad_upto; /* newest stream id loaded */
    struct smap account_data, room_account_data;
    int64_t tags_newest; /* greatest revision among them */
    struct smap tags;
    int64_t push_rules_stream;    /* newest push_rules_stream row of the user, 0: none */
    struct smap ignored;          /* user_id -> itself */
    struct blob *push_rules;      /* content of m.push_rules; NULL while nobody needs it */
    int64_t full_presence_stream; /* users_to_send_full_presence_to; when the user's full_presence says so */
    int64_t initial_turn;         /* of the last initial sync that asked (sync/park.c) */
    struct own_events *own;       /* NULL: none has come, and none was asked for */
    struct device_list_past *dl;  /* NULL: never wanted */
};
/* A parked poll costs one of these: what few users have is made on demand, and small fields share words. */
struct user {
    struct str user_id; /* first: tables find it by that */
    /* read when something comes for thousands */
    VEC(struct news_item) news; /* while active: rooms with news, complete above news_floor */
    struct news_at news_floor;
    int64_t presence_news; /* likewise: newest presence row that concerned the user */
    uint64_t stirred,
        stirred_other;            /* versions: when something last came, but for news of rooms (versions.c) */
    struct user *woken_after;     /* in the queue of users to look at, while woken */
    struct list waiters, running; /* requests: parked; being computed */
    uint32_t pins;                /* requests that are being answered for this user */
    uint32_t waiters_count;       /* parked, or joined to another */
    struct {
        struct user_part rooms, account_data, tags, push_rules, ignored, features, full_presence;
    } parts;
    uint16_t sessions;    /* of its clients (sync/session.c) */
    uint8_t own_load : 2; /* enum load_state, both */
    uint8_t dl_load : 2;
    bool local : 1;
    bool own_horizon_known : 1;
    bool msc4222 : 1;       /* an experimental feature, turned on for this user */
    bool full_presence : 1; /* more->full_presence_stream is there, when that part is loaded */
    bool ad_changed : 1;    /* scratch of a sync run */
    bool active : 1;        /* listed in the active vectors of its joined rooms */
    bool reactivate : 1;    /* scratch of the loader */
    bool woken : 1;         /* in the list of users to look at */
    struct kmap rooms;      /* room_id -> struct membership_row */
    struct kmap unread;     /* room_id -> struct unread */
    struct kmap devices;
    int64_t td_last;                /* to_device stream: last row of this user, or position at creation */
    int64_t rooms_newest;           /* greatest stream among rooms */
    struct mpos_kept *since_events; /* own membership events absorbed from here on */
    struct user_more *more;         /* never NULL: user_more_none, which is constant, or its own */
    uint32_t used_ms;               /* low bits of the monotonic clock */
    uint32_t presence_ms; /* likewise: when what rc_presence.per_user counts is nought (sync/request.c) */
};
extern const struct user_more user_more_none;
static inline size_t user_own_count(const struct user *u)
{
    return u->more->own ? u->more->own->list.n : 0;
}

/* ---- sticky events ---- */

struct sticky_event {
    int64_t stream, expires_ms;
    writer_id writer;
    struct str room_id;
    struct evrec *rec; /* pinned */
};

/* ---- the model ---- */

struct uv_loop_s;
struct model;
struct model_hooks {
    void *arg;
    /* Something a user may see has changed; called once per user and turn after the change is readable. */
    void (*wake)(void *arg, struct user *u);
    /* More of them stand in line than are woken at once: model_wake_more() is to be called in this turn of
     * the loop or the next, until it says that nobody is left. NULL: they are woken at once. */
    void (*wake_more)(void *arg);
    /* A row of the caches stream, after the model has taken it. */
    void (*cache_row)(void *arg, struct str func, const struct str *keys, size_t n, bool all);
    void (*cache_flush)(void *arg);
    void (*feed_state)(void *arg, enum feed_state st);
};
bool model_wake_more(struct model *m);   /* wakes some; true: and there are more */
bool model_wakes(const struct model *m); /* somebody is to be woken */
int model_start(struct model **out, struct uv_loop_s *loop, const struct config *cfg, struct pg *pg,
                const struct model_hooks *hooks, struct err *e) NODISCARD;
/* The sink to give to feed_start; then, once the feed has its positions, model_adopt copies them. */
struct feed_sink model_sink(struct model *m);
void model_adopt(struct model *m, struct feed *f);
/* Start-up loads (presence, erased users) are in: answers may be computed. */
bool model_ready(const struct model *m);
void model_stop(struct model **m);
const struct config *model_config(const struct model *m);

/* Where we stand: what the model has absorbed. The text is rendered once per change. */
const struct stream_token *model_now(struct model *m);
struct str model_now_text(struct model *m);
/* Changes whenever anything in memory may have changed: what was derived under another one is derived anew.
 */
uint64_t model_serial(const struct model *m);
/* Moves whenever replication brings what may change what all readers of the room are told: events, state,
 * receipts, typing. Loads only add what was so before. */
uint64_t model_room_serial(const struct model *m, const struct room *r);

/* Wants. fn is called once, on the hub, after everything wanted so far (by anybody) has been loaded, or with
 * -ERR_SHUTDOWN / -ERR_LIMIT / -ERR_DB. Never before model_load returns. */
typedef void model_loaded_fn(void *arg, int err);
void model_load(struct model *m, model_loaded_fn *fn, void *arg);
/* Inside a callback: a statement was refused, and those who waited for it are called one after the other to
 * find whom it concerns. Each has to want what it wants before it returns. */
bool model_load_apart(const struct model *m);
/* Forgets every callback with this arg. Not from inside one. */
void model_load_cancel(struct model *m, const void *arg);
/* More readers stand in line and will want something this turn or the next: what has been wanted so far may
 * wait for them, for a bounded time. */
void model_load_gather(struct model *m, bool more);

/* Objects: made on first mention. */
struct room *model_room(struct model *m, struct str room_id);
struct user *model_user(struct model *m, struct str user_id);
struct user *model_user_find(struct model *m, struct str user_id); /* NULL if not in memory */
struct user_more *model_user_more(struct user *u);                 /* to be written */
struct device *model_device(struct model *m, struct user *u, struct str device_id);
struct evrec *model_rec(struct model *m, struct str event_id);

/* Events. model_event: the event as it may be shown by anybody: HAVE with redaction in force, ABSENT when it
 * is not stored, rejected, of an unknown room version, odd, or a withheld redaction (sync-v3 7.6).
 * model_event_raw skips the rules about redactions and rejection: for metadata. */
enum have model_event(struct model *m, struct evrec *rec, struct event **out);
enum have model_event_raw(struct model *m, struct evrec *rec, struct event **out);
/* The redaction that is in force on ev, itself usable; NULL otherwise. After model_event said HAVE. */
enum have model_redacted_because(struct model *m, struct event *ev, struct event **out);

/* Timeline. Pages are descending; at most n entries of the room in (lo, hi]; *more says that the range holds
 * further ones. The stream variant is exact about writers; lo NULL is the beginning of the room. */
enum have model_page_stream(struct model *m, struct room *r, const struct mpos *lo, const struct mpos *hi,
                            size_t n, struct tl_entry *out, size_t *count, bool *more);
/* By (topological, stream), descending, at or below hi (live position) and, when has_from, at or below
 * (from_t, from_s). */
enum have model_page_topological(struct model *m, struct room *r, const struct mpos *hi, bool has_from,
                                 int64_t from_t, int64_t from_s, size_t n, struct tl_entry *out,
                                 size_t *count, bool *more);
/* The newest event at or before a position that is not rejected. */
enum have model_last_event(struct model *m, struct room *r, const struct mpos *at, struct tl_entry *out);
/* The newest gap in (lo, hi]; ABSENT: none. */
enum have model_gap(struct model *m, struct room *r, int64_t lo, const struct mpos *hi, int64_t *gap);
/* May anything have happened in the room after pos? No loading: false is certain. */
bool model_room_changed(const struct room *r, const struct mpos *pos);

/* State groups. */
struct sg *model_sg(struct model *m, struct room *r, int64_t id);
enum have model_sg_get(struct model *m, struct sg *g, struct str type, struct str state_key,
                       struct evrec **out);
/* ABSENT: there is no such group in the database: nothing can be said about who might see what. */
enum have model_sg_known(struct model *m, struct sg *g);
/* Completes g for iteration: non-members, or everything. fn is called for each set key. LACK: nothing was
 * called. */
enum have model_sg_each(struct model *m, struct sg *g, bool members,
                        void (*fn)(void *arg, struct str type, struct str state_key, struct evrec *rec),
                        void *arg);

/* Current state. HAVE: room->state, members, counts are filled. */
enum have model_room_state(struct model *m, struct room *r);
enum have model_room_summary(struct model *m, struct room *r); /* and summary_first */
struct state_entry *room_state_get(const struct room *r, struct str type, struct str state_key);
struct member *room_member_get(const struct room *r, struct str user_id);
bool room_event_is_current(const struct room *r, const struct event *ev); /* after model_room_state */
/* How it changed: HAVE when room->deltas is complete above lo. */
enum have model_room_deltas(struct model *m, struct room *r, const struct mpos *lo);

/* What relates to an event of r. HAVE: bundle (which may be NULL), or kinds, is fresh. */
enum have model_relations(struct model *m, struct room *r, struct str parent, struct relations **out);
enum have model_relation_kinds(struct model *m, struct room *r, struct str parent, struct relations **out);

/* Receipts with stream > lo (0: all): HAVE when room->receipts is complete above lo. */
enum have model_receipts(struct model *m, struct room *r, const struct mpos *lo);

/* Users. HAVE: the fields named are filled and fresh. */
enum have model_user_rooms(struct model *m, struct user *u); /* rooms */
enum have model_user_own_events(struct model *m, struct user *u,
                                const struct mpos *lo);        /* own, complete above lo */
enum have model_account_data(struct model *m, struct user *u); /* account_data, room_account_data */
enum have model_tags(struct model *m, struct user *u);
enum have model_push_rules_position(struct model *m, struct user *u); /* push_rules_stream */
enum have model_push_rules(struct model *m, struct user *u);          /* and push_rules */
enum have model_ignored(struct model *m, struct user *u);
enum have model_features(struct model *m, struct user *u);      /* msc4222 */
enum have model_full_presence(struct model *m, struct user *u); /* full_presence, full_presence_stream */
bool model_erased(struct model *m, struct str user_id);
enum have model_unread(struct model *m, struct user *u, struct room *r, struct unread **out);
/* Undelivered messages in (lo, now]: HAVE when device->td is complete there. */
enum have model_to_device(struct model *m, struct device *d, int64_t lo);
/* Acknowledge: rows at or below upto are deleted in the background, with those of others of the same second.
 */
void model_to_device_ack(struct model *m, struct device *d, int64_t upto);
enum have model_device_keys(struct model *m, struct device *d); /* otk_json, fallback_json */
enum have model_stored_filter(struct model *m, struct user *u, int64_t filter_id,
                              struct filter **out); /* borrowed */

/* Presence: by user id; never LACK (rows of online users are loaded at start; others default to offline). */
const struct presence *model_presence(struct model *m, struct str user_id); /* NULL: default offline */
/* Users whose presence changed after pos, via fn: from a log, or by a look at everybody's when pos lies
 * before it. */
void model_presence_changed(struct model *m, int64_t pos, void (*fn)(void *arg, const struct presence *p),
                            void *arg);

/* Every user who has a presence, offline or not. */
void model_presence_each(struct model *m, void (*fn)(void *arg, const struct presence *p), void *arg);

/* Sticky events (MSC4354) not yet expired, ascending by stream id, until fn says false. Those up to now are
 * complete. */
void model_sticky_each(struct model *m, bool (*fn)(void *arg, const struct sticky_event *s), void *arg);

/* Device lists: rows in (lo, hi] that may concern u. fn for each changed user with a room (which u need not
 * be in; room_id absent: the user's own row in device_lists_stream or user_signature_stream). LACK notes the
 * want; ABSENT: lo is older than what Synapse keeps (pruned), anybody may have changed. */
enum have model_device_list_rows(struct model *m, struct user *u, const struct mpos *lo,
                                 const struct mpos *hi,
                                 void (*fn)(void *arg, const struct device_list_row *row), void *arg);

/* Waiting users (used by sync): makes u's joined rooms wake it; needs model_user_rooms HAVE. */
void model_user_activate(struct model *m, struct user *u);

/* Is u->news complete above these: has nothing happened, in rooms that are not listed there, since then? Of
 * events, receipts and typing only. */
bool model_user_news(const struct user *u, int64_t events, int64_t receipts, int64_t typing);

/* The texts of model_now_text() have numbers, in their order. 0: none of ours, or not of the latest. */
struct model_version {
    uint64_t number;
    int64_t to_device; /* where that stream stood */
};
struct model_version model_version_of(const struct model *m, uint64_t text_hash); /* str_hash() */
/* Certain that nothing has come that u may see since the text of that number; that nothing has but what
 * u->news tells (which model_user_news must bear out). Sticky events, and state_after, are not part of it. */
bool model_user_quiet(const struct model *m, const struct user *u, uint64_t version);
bool model_user_only_news(const struct model *m, const struct user *u, uint64_t version);

/* Lazily loaded members (sync/ll.c). model_ll makes d->ll if need be. */
struct ll_state *model_ll(struct device *d);
void model_ll_add(struct model *m, struct device *d, uint64_t user, struct str event_id,
                  const struct mpos *at);
void model_ll_del(struct model *m, struct device *d, size_t i);

void model_user_pin(struct model *m, struct user *u); /* while a request of u is answered or parked */
void model_user_unpin(struct model *m, struct user *u);

/* Bookkeeping. */
struct model_stats {
    size_t rooms, users, events, bytes;
};
void model_stats(const struct model *m, struct model_stats *out);
/* Drops least recently used entries down to the budget; called on a timer and after loads. */
void model_trim(struct model *m);
#endif
