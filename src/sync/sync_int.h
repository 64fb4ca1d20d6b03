/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_SYNC_INT_H
#define CHAPPE_SYNC_INT_H
/*
 * Private to src/sync: one run of the computation, and what its files ask of each other.
 *
 * A run is a pure function of the model and the request (design D3): it notes what it lacks and goes on; when
 * it lacked anything its result is thrown away and it is run again after the loads. Everything it builds
 * lives in its arena; events and rooms are borrowed from the model, which does not move while a run is under
 * way. Side effects (acknowledging to-device messages, the lazy-loading cache) are collected and committed
 * only by a run that lacked nothing.
 */
#include "chappe/auth.h"
#include "chappe/clock.h"
#include "chappe/json.h"
#include "chappe/log.h"
#include "chappe/metrics.h"
#include "chappe/model.h"
#include "chappe/sync.h"
#include <stdlib.h>

/* An event chosen for a timeline. */
struct tl_ev {
    struct tl_entry e;
    struct event *ev;
    struct event *pruned;  /* the erased-sender form, shown instead; freed with the run */
    struct str membership; /* of the reader, at the event */
    struct str relations;  /* m.relations as JSON text; absent: none */
    bool always;           /* whatever the history visibility */
};
struct sticky_pick {
    struct room *room;
    struct evrec *rec;
    int64_t stream;
};
struct state_item {
    struct str type, key;
    struct evrec *rec;
    struct event *ev; /* once loaded and filtered */
    struct state_item *next;
};
/* State at a position: after the last event at or before it. none: there is no such event. */
struct state_ref {
    bool none;
    bool at; /* by position: the last event is part of it even if it is of a member nobody asked for, as in
                Synapse */
    struct sg *g;
    struct event *last;
    struct evrec *last_rec;
};

/* What a shared section is found by (shared.c). */
struct shared_key {
    const struct room *room;
    const struct filter *f;
    uint64_t serial, events; /* of the model; of which events lie after the token */
    uint32_t receipts, flags;
};
enum { SHARED_SLOTS = 64 };
struct shared_sections {
    struct shared *slots[SHARED_SLOTS]; /* by key; NULL: empty */
    size_t bytes_max;                   /* of what is kept of a section, either half */
    struct imap whole;                  /* of initial syncs (whole.c), by key */
    size_t whole_bytes;
    const struct user *whole_user; /* whose initial sync was computed last, and when; only compared */
    int64_t whole_ms;
    int64_t crowd_ms; /* when another user's came within a moment after that; 0: never */
};

/* A token but for its room part. Tokens are large and entries are many: both are borrowed, from the run. */
struct entry_at {
    const struct stream_token *token;
    const struct mpos *room;
};
static inline struct entry_at entry_at(const struct stream_token *t)
{
    return (struct entry_at){t, &t->room};
}

enum entry_type { ENTRY_JOINED, ENTRY_ARCHIVED };
struct room_entry {
    struct room *room;
    enum entry_type type;
    bool newly_joined, full_state, out_of_band;
    bool events_none;        /* not known: load the timeline from upto */
    struct tl_entry *events; /* ascending */
    size_t events_count;
    bool has_since; /* run->since counts */
    struct entry_at upto;
    const struct mpos *end;
    /* results */
    struct tl_ev *timeline;
    size_t timeline_count;
    bool limited;
    bool bundle; /* with m.relations */
    struct entry_at prev_batch;
    struct state_item *state; /* loaded and filtered */
    size_t state_count;
    bool summary_null, summary_given, summary_heroes;
    int64_t joined_count, invited_count;
    struct str *heroes;
    size_t heroes_count;
    struct str typing, receipts; /* whole events as JSON text; absent: none */
    struct str account_events;   /* members of the events array */
    struct unread *unread;
    struct tl_ev *sticky;
    size_t sticky_count;
    /* shared.c: the section that is taken, or the key under which this one may be offered */
    struct shared *shared; /* counted, until sync_run_fini */
    struct shared_key key;
    bool offer;
    size_t ll_sets, ll_sets_end, ll_used, ll_used_end; /* of run->ll and run->ll_used */
    /* whole.c: the same for an initial sync */
    struct whole *whole;
    bool offer_whole;
    struct state_item *own; /* of state: the reader's own member event, where the section has a hole for it */
    struct tl_entry *page;  /* the events that the timeline was chosen from; the last of so many pages */
    size_t page_count;
    int pages;
    struct evrec *dropped; /* the newest that was one too many; NULL: none was */
    struct room_entry *next, *next_emitted;
};
struct stripped_entry { /* invite, knock */
    struct room *room;
    struct event *ev;
    struct stripped_entry *next;
};
struct user_set { /* of user ids, in order of addition */
    struct smap map;
    VEC(struct str) v;
};

struct ll_pair {
    struct str user_id, event_id;
    uint64_t user; /* what ll.c knows the user by */
};
struct ll_update {
    struct device *d;
    bool clear, again; /* the latter: scratch of ll_commit */
    struct str user_id, event_id;
};

struct sync_run {
    struct model *m;
    const struct config *cfg;
    struct user *u;
    struct device *d; /* NULL: no device */
    struct requester *rq;
    struct filter *f;
    bool has_since, full_state;
    bool no_requester;    /* rendered for nobody in particular: without transaction ids */
    bool no_keep;         /* current state events are not shown for being current */
    bool peeking;         /* the reader is outside of the room */
    bool use_state_after; /* MSC4222: state as it is after the timeline */
    struct stream_token since, now;
    int64_t wall_ms;
    struct arena *a;

    struct shared_sections *shared; /* NULL: nothing is shared */
    bool may_park;                  /* an empty answer would not be sent: it is not rendered */
    bool plain;                     /* takes no shortcuts: neither news nor shared sections */
    bool shortcut;                  /* took one */
    bool crowd;                     /* others do initial syncs at this time (whole.c) */

    int soft_failed_shown; /* enum soft_failed_shown, once known */
    bool lack;             /* something is not in memory yet */
    bool broken; /* the filter's limit makes no sense where it is needed: Synapse fails there, and so do we */
    bool ahead;  /* a row read from the database is newer than the replication seen: wait for that */

    /* rooms */
    struct room **joined; /* NULL: not collected; see run_joined */
    size_t joined_count;
    struct room_entry *entries, **entries_tail;
    struct stripped_entry *invites, **invites_tail, *knocks, **knocks_tail;
    struct user_set newly_joined_rooms, newly_left_rooms; /* of room ids */
    struct room_entry *emitted, **emitted_tail;
    size_t emitted_joined, emitted_archived;
    bool ephemeral_done;
    struct sticky_pick *sticky; /* in stream order */
    size_t sticky_count;

    struct str now_rest;   /* of now as text, what follows its room part; once it was needed */
    struct smap room_data; /* room id -> struct room_data (entry.c), when known */
    bool room_data_known;

    const struct json *invite_rules; /* MSC4155; NULL: none */
    bool invite_rules_read;

    struct str account_events, presence_events;
    size_t to_device_count;
    int64_t to_device_upto; /* where next_batch stops in that stream */
    struct user_set newly_joined_users, newly_left_users;
    struct user_set changed, left;

    VEC(struct ll_update) ll;
    VEC(struct ll_pair) ll_used; /* found in the committed cache */
    VEC(struct event *) pruned;
};

/* run.c */
enum run_result { RUN_LACK, RUN_EMPTY, RUN_DONE, RUN_BROKEN };
/* One run. RUN_LACK: model_load, then again (or, run.ahead, when the feed has moved). Otherwise the response
 * body is in out and *next is its next_batch. */
enum run_result sync_run(struct sync_run *run, struct rope *out, struct stream_token *next);
/* The same without its effects: what the device has been sent is not noted. */
enum run_result sync_compute(struct sync_run *run, struct rope *out, struct stream_token *next);
void sync_run_init(struct sync_run *run);
void sync_run_fini(struct sync_run *run);
/* The body, once everything that is to be said is in run. */
void sync_render(struct sync_run *run, struct rope *out, const struct stream_token *next);
/* An answer with nothing in it: next_batch and key counts (which must be in memory). */
void sync_render_empty(struct sync_run *run, const struct stream_token *next, struct rope *out);

static inline bool run_have(struct sync_run *run, enum have h)
{
    if (h == LACK)
        run->lack = true;
    return h == HAVE;
}
/* When the typing writer has restarted it counts from the beginning. Positions begin at 1: a token may have
 * less than 0, but 0 stands for "never" in what we remember. */
static inline int64_t run_since_typing(const struct sync_run *run)
{
    bool ours = run->has_since && run->since.typing <= run->now.typing && run->since.typing > 0;
    return ours ? run->since.typing : 0;
}
/* A plain position that lives as long as the run. */
static inline const struct mpos *run_mpos(struct sync_run *run, int64_t stream)
{
    struct mpos *p = ARENA_NEW(run->a, struct mpos);
    p->min = stream;
    return p;
}
static inline const struct mpos *run_since_room(const struct sync_run *run)
{
    return &run->since.room;
}

/* MSC3391: empty content means that the type was deleted; who starts from nothing need not hear of it. */
bool run_account_deleted(const struct sync_run *run, bool all, struct str content);

void user_set_init(struct user_set *s);
void user_set_fini(struct user_set *s);
void user_set_add(struct user_set *s, struct str id);
void user_set_del(struct user_set *s, struct str id);
bool user_set_has(const struct user_set *s, struct str id);

/* rooms.c */
void run_rooms(struct sync_run *run);
bool run_is_shown(const struct sync_run *run, const struct membership_row *row); /* as one that is joined */
struct room *run_joined_room(const struct sync_run *run,
                             struct str room_id); /* NULL: not joined, or not shown */
static inline bool run_is_joined(const struct sync_run *run, struct str room_id)
{
    return run_joined_room(run, room_id) != NULL;
}
void run_joined(struct sync_run *run); /* collects the joined rooms: many, and seldom needed */
bool run_shares_room(struct sync_run *run, struct str user_id); /* with any joined room; may lack */

/* invites.c */
bool run_invite_rules_known(struct sync_run *run); /* false: lacks */
bool run_invite_hidden(struct sync_run *run, struct str sender);
bool invite_glob(struct str pattern, struct str text);

/* timeline.c */
size_t run_timeline_limit(const struct sync_run *run);                 /* never negative, and bounded */
bool entry_load_timeline(struct sync_run *run, struct room_entry *en); /* false: lacks */

/* visibility.c: drops what the reader may not see, in place; false: lacks */
bool visibility_filter(struct sync_run *run, struct room *room, struct tl_ev *v, size_t *n);

/* state.c */
bool state_ref_at(struct sync_run *run, struct room *room, const struct mpos *at, struct state_ref *out);
bool state_ref_after(struct sync_run *run, struct room *room, struct event *ev, struct evrec *rec,
                     struct state_ref *out);
enum have state_ref_get(struct sync_run *run, const struct state_ref *ref, struct str type, struct str key,
                        struct evrec **out);
bool entry_load_state(struct sync_run *run, struct room_entry *en);
enum have run_member_event(struct sync_run *run, struct evrec *rec, struct str user_id, struct room *room,
                           enum membership *ms);

/* relations.c */
void entry_relations(struct sync_run *run,
                     struct room_entry *en); /* fills relations of the timeline; may lack */
/* All whose name or membership in a thread the bundle of ev depends on, other than being ignored, and who
 * could find something of their own inside. false: lacks. */
bool relations_each_user(struct sync_run *run, struct room *room, const struct event *ev,
                         void (*fn)(void *arg, struct str user_id), void *arg);
/* related_by_senders, related_by_rel_types of a filter: ABSENT: ev has no such relation. */
enum have run_related_matches(struct sync_run *run, const struct filter_section *s, struct room *room,
                              const struct event *ev);

/* entry.c */
void run_entries(struct sync_run *run); /* from entries to emitted */
bool entry_summary(struct sync_run *run, struct room_entry *en);

/* check.c */
void run_check_quiet(struct sync_run *run); /* that it is RUN_EMPTY */
void run_check(const struct sync_run *run, enum run_result res, const struct rope *body);
void run_sort_entries(struct sync_run *run);
void run_sort_state(const struct sync_run *run, struct room_entry *en);

/* shared.c: the bytes of a room's section that are the same for many readers */
void shared_init(struct shared_sections *s);
void shared_fini(struct shared_sections *s);
void shared_expire(struct shared_sections *s, int64_t wall_ms);
struct shared *shared_ref(struct shared *x);
void shared_unref(struct shared **x);
bool shared_alive(const struct shared *x, int64_t wall_ms);
/* Could this reader, of whose membership row is, have got the section? Of the reader alone: where it stands,
 * and its filter, are those of the one who has. */
bool shared_fits(struct sync_run *run, struct membership_row *row, const struct shared *x);
void shared_count(const struct shared *x); /* once more taken */
/* Before anything of an entry is computed: true when its section is there already. */
bool shared_take(struct sync_run *run, struct room_entry *en);
/* When it is to be rendered: true when it is kept, and is its own first reader. */
bool shared_offer(struct sync_run *run, struct room_entry *en);
void shared_put(struct sync_run *run, const struct room_entry *en, struct rope *out);
/* Is the user joined in this state group of the row's room? May lack. */
enum have run_joined_in(struct sync_run *run, struct membership_row *row, int64_t group);

/* whole.c: the same for initial syncs, with holes in it */
void whole_fini(struct shared_sections *s);
void whole_expire(struct shared_sections *s, int64_t wall_ms);
void whole_unref(struct whole **x);
void whole_begin(struct sync_run *run); /* before the entries of a run */
/* Before anything of an entry is computed. HAVE: its section is there already, account data and unread counts
 * are left to do. LACK: it may be, when what the run lacks has come. */
enum have whole_take(struct sync_run *run, struct room_entry *en);
/* When it is computed, lacking nothing: may keep it, and be its first reader. */
void whole_offer(struct sync_run *run, struct room_entry *en);
/* Up to ephemeral; what comes after the private bytes that follow. */
void whole_put(struct sync_run *run, const struct room_entry *en, struct rope *out);
void whole_put_summary(const struct room_entry *en, struct rope *out);

/* ephemeral.c */
struct str room_typing_json(struct sync_run *run, struct room *r);
struct str room_receipts_json(struct sync_run *run, struct room *r);

/* sticky.c */
void run_sticky(struct sync_run *run); /* once the joined rooms are known; moves now back to what is shown */
bool run_sticky_in(const struct sync_run *run, const struct room *room);
bool entry_sticky(struct sync_run *run, struct room_entry *en); /* after its timeline; false: lacks */

/* presence.c, devices.c */
void run_presence(struct sync_run *run);
/* Whose presence is news since the token, among those one shares a room with or who are in extra (may be
 * NULL); without a token who is not offline. In the run's arena. */
void run_presence_users(struct sync_run *run, struct room *extra, struct str **users, size_t *n);
void put_presence_members(struct sync_run *run, struct buf *b, struct str user_id); /* of the content */
void run_user_changes(struct sync_run *run);
void run_device_lists(struct sync_run *run);
void run_to_device(struct sync_run *run);

/* ll.c: the lazy-loading cache of a device (sync-v3 4.2) */
void ll_begin(struct sync_run *run);
struct str ll_get(struct sync_run *run, struct str user_id);
bool ll_has(struct sync_run *run, const struct ll_pair *known); /* the same, for one that another run found */
void ll_clear(struct sync_run *run);
void ll_set(struct sync_run *run, struct str user_id, struct str event_id);
void ll_commit(struct sync_run *run);

/* render.c */
bool run_event_extra(struct sync_run *run, struct event *ev, bool timeline, struct str membership,
                     struct event_extra *x); /* false: lacks */
void render_events_prepare(struct sync_run *run);
void render_rooms(struct sync_run *run, struct rope *out);
/* The part of a joined room's section that may be the same for others: up to prev_batch into head, what
 * follows it into tail; when they are one, prev_batch as well. */
void render_shared(struct sync_run *run, const struct room_entry *en, struct rope *head, struct rope *tail);
/* Likewise, of an initial sync: up to prev_batch; what follows it up to the last state event, without one of
 * them (may be NULL); account data, from the end of the state; ephemeral; the summary. */
void render_whole_head(struct sync_run *run, const struct room_entry *en, struct rope *out);
void render_whole_state(struct sync_run *run, const struct room_entry *en, const struct state_item *without,
                        struct rope *out);
void render_account(const struct room_entry *en, struct rope *out);
void render_ephemeral(const struct room_entry *en, struct rope *out);
void render_summary(struct sync_run *run, const struct room_entry *en, struct rope *out);
void render_event(struct sync_run *run, struct event *ev, bool timeline, bool fields, struct str membership,
                  struct str relations, struct rope *out);
struct str render_token(struct sync_run *run, const struct stream_token *t);
struct str render_at(struct sync_run *run, struct entry_at at);
void rope_json_str(struct sync_run *run, struct rope *out, struct str s);
#endif
