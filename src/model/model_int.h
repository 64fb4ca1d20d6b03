/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_MODEL_INT_H
#define CHAPPE_MODEL_INT_H
/* Private to src/model: the model's own fields, the loader's queues, and what the files of the module ask of
 * each other. */
#include "chappe/clock.h"
#include "chappe/log.h"
#include "chappe/metrics.h"
#include "chappe/model.h"
#include <stdlib.h>
#include <uv.h>

struct batch_waiter {
    model_loaded_fn *fn;
    void *arg;
};
struct gap_row {
    struct str room_id;
    int64_t stream;
};
/* A push action of an event, and those in memory for whom it is. */
struct action_row {
    struct str room_id, thread_id;
    int64_t stream;
    struct user **users; /* in the burst's arena; nobody is forgotten while a burst is fetched */
    uint32_t users_count;
    bool notif, highlight, unread;
};
struct partial_room {
    struct str room_id;
    bool now;       /* partial still */
    int64_t ceased; /* newest un_partial_stated_room position, 0: none */
};
struct presence_change {
    int64_t stream;
    struct presence *p;
};
struct dl_advance {
    writer_id w;
    int64_t token;
};
struct td_ack {
    struct device *d;
    int64_t upto;
};

/* One flush of wants: done when all its statements are; its waiters run once it and all earlier ones are. */
enum { BATCHES_UNDER_WAY = 4 };
struct batch {
    struct list link;
    struct model *m;
    int outstanding;
    int64_t opened_us;
    bool sent;
    int err;
    VEC(struct batch_waiter) waiters;
};

struct sg_pair {
    struct sg *g;
    struct str user_id;
    char *mem;
};
struct filter_slot {
    struct str key; /* user NUL id */
    int64_t id;
    struct user *user;
    uint8_t load;
    struct filter *filter; /* NULL when there is none */
};

struct user_in_room {
    struct str user_id, room_id;
};
/* A copied row of the events stream, waiting for its events to be fetched. */
struct burst_row {
    struct feed_row row; /* slices in the burst's arena */
    enum stream stream;
    writer_id writer;
    int64_t token;
    bool position_only, fetched;
};
/* What a burst has read of an event. */
struct burst_event {
    struct evrec *rec;
    int64_t stream, topological;
    writer_id writer;
    bool outlier, rejected, redacts_sender;
};
struct burst {
    struct arena *arena;
    struct smap read; /* event id -> struct burst_event */
    VEC(struct burst_row) rows;
    VEC(struct gap_row) gaps;
    VEC(struct action_row) actions;
    VEC(struct user_in_room) redacted; /* by kicks and bans */
};

enum { KEY_TEXTS = 64 };
/* versions.c */
enum { VERSIONS = 2048 };
struct version_slot {
    uint64_t hash; /* of the text */
    struct model_version version;
};

struct model {
    const struct config *cfg;
    struct uv_loop_s *loop;
    struct pg *pg;
    struct feed *feed;
    struct model_hooks hooks;
    uv_prepare_t *prepare;
    uv_timer_t *timer;
    bool stopping;
    int starting; /* start-up loads not yet in */
    bool retry_presence, retry_erased,
        retry_partial; /* which of them were refused: sent again with the next tick */

    struct smap rooms, recs;
    struct kmap users;
    struct mpos_kept *kept_user, *kept_ll; /* the newest of each kind */
    struct blob *key_texts[KEY_TEXTS];     /* by hash */
    struct list room_lru, event_lru;
    size_t event_bytes, event_count;
    struct smap presence;                     /* user_id -> struct presence */
    VEC(struct presence_change) presence_log; /* ascending; a user may occur more than once */
    int64_t presence_floor;
    uint64_t serial;
    uint64_t rooms_serial; /* raised by what may concern any room: see model_room_serial */
    int64_t typing_serial;
    struct smap erased;
    VEC(struct device_list_row) dl_ring; /* rows above dl_floor */
    struct mpos dl_floor;
    int64_t dl_pruned; /* Synapse pruned rows at or below */
    struct smap filters;
    struct smap partial;   /* rooms with partial state, or that had it: struct partial_room */
    struct smap relations; /* by the parent's event id */
    struct list relation_lru;
    size_t relation_bytes;

    struct positions *pos[STREAM_COUNT];
    struct stream_token now;
    char now_text[TOKEN_TEXT_MAX];
    size_t now_text_n;
    bool now_dirty;
    uint64_t version; /* of now_text */
    struct version_slot versions[VERSIONS];

    /* bursts of the events stream (with backfill and un_partial_*): one being fetched, one being filled */
    struct burst *filling, *fetching;
    bool fetching_asked;
    int64_t filling_since_us;
    int64_t dl_received; /* newest device_lists position received */
    int dl_pending;
    bool dl_again, dl_failed;
    size_t dl_announced;                /* rows of dl_ring whose readers have been woken */
    VEC(struct dl_advance) dl_advances; /* positions to take once the fetch is in */
    VEC(struct sticky_event) sticky;
    VEC(int64_t) sticky_wanted; /* stream ids of rows */
    VEC(struct dl_advance) sticky_advances;
    size_t sticky_asked_n, sticky_asked_advances;
    bool sticky_pending, retry_sticky;
    struct user *woken_first, *woken_last; /* woken_after leads from one to the next */
    bool burst_retry;
    uint32_t ticks;
    bool trim_due;
    size_t sweep_it; /* where the next sweep of event records goes on */

    /* loader */
    struct list batches;
    struct batch *open;
    VEC(struct batch_waiter) suspects; /* of a batch that was refused: each tries again by itself */
    struct batch *solo;                /* the batch of one of them, under way */
    bool suspecting;
    bool gather;         /* more wants are about to come */
    size_t batches_sent; /* not complete yet */
    VEC(struct evrec *) want_events;
    VEC(struct room *) want_tl, want_topo, want_gaps, want_state, want_receipts, want_deltas;
    VEC(struct last_at *) want_last;
    VEC(struct sg *) want_sg_delta, want_sg_nonmembers, want_sg_all;
    VEC(struct sg_pair) want_sg_pairs;
    VEC(struct user *)
    want_rooms, want_own, want_account_data, want_tags, want_push_rules, want_ignored, want_full_presence,
        want_features, want_dl;
    VEC(struct unread *) want_unread;
    VEC(struct relations *) want_bundles, want_kinds;
    VEC(struct device *) want_td, want_keys;
    VEC(struct filter_slot *) want_filters;
    VEC(struct td_ack) td_acks;
};

/* loader.c */
struct load_op;
typedef void load_done_fn(struct load_op *op,
                          const struct pg_result *r); /* r NULL: failed; undo the targets */
struct load_op {
    struct model *m;
    struct batch *batch;
    load_done_fn *done;
    VEC(void *) targets;
    VEC(uint32_t) gens;
    struct mpos at; /* what was absorbed when the statement was sent */
    int64_t at_i64;
    bool failed; /* told by done() from a write, which has no result in any case */
};
struct load_op *load_op_new(struct model *m, struct batch *b, load_done_fn *done);
void load_op_send(struct load_op *op, enum pg_stmt stmt, struct pg_args *args);
void loader_init(struct model *m);
void loader_fini(struct model *m);
struct batch *loader_open(struct model *m);
void loader_kick(struct model *m); /* something was queued */

/* each file's part of a flush: sends what its queues hold */
void events_flush(struct model *m, struct batch *b);
void timeline_flush(struct model *m, struct batch *b);
void state_flush(struct model *m, struct batch *b);
void deltas_flush(struct model *m, struct batch *b);
void receipts_flush(struct model *m, struct batch *b);
void account_flush(struct model *m, struct batch *b);
void user_flush(struct model *m, struct batch *b);
void unread_flush(struct model *m, struct batch *b);
void device_flush(struct model *m, struct batch *b);
void relations_flush(struct model *m, struct batch *b);

static inline void part_touch(struct user_part *p)
{
    p->gen++;
    p->stale = true;
}

/* model.c */
void model_wake_user(struct model *m, struct user *u);
void model_wake_user_news(struct model *m, struct user *u); /* for what is in u->news */
void model_wake_room(struct model *m, struct room *r);      /* for what is not in news.c */
void model_run_woken(struct model *m);
struct room *model_room_find(struct model *m, struct str room_id);
writer_id model_writer(struct model *m, struct str name); /* NULL name: master for events */
void partial_reload(struct model *m);
void partial_ceased(struct model *m, struct str room_id, int64_t stream);
void model_room_free(struct model *m, struct room *r);
void model_user_free(struct model *m, struct user *u);
void model_user_more_drop(struct user *u); /* if there is nothing in it */
struct str state_key_of(struct arena *a, struct str type, struct str key);

/* events.c */
void evrec_pin(struct evrec *rec);
void evrec_unpin(struct model *m, struct evrec *rec);
void evrec_stale(struct model *m, struct evrec *rec);
void evrec_want(struct model *m, struct evrec *rec);
void evrec_evict(struct model *m, struct evrec *rec);
void evrecs_sweep(struct model *m); /* records that nothing needs any more */
void evrecs_fini(struct model *m);
void events_of_sender_stale(struct model *m, const struct user_in_room *v, size_t n);
struct evrec *model_rec_find(struct model *m, struct str event_id);
/* Takes one result row of SQL_events_by_id, or of SQL_burst, into its record. */
void evrec_take_row(struct model *m, struct evrec *rec, const struct pg_result *r, int row);
void evrec_take_missing(struct model *m, struct evrec *rec);

/* timeline.c */
void room_tl_insert(struct model *m, struct room *r, struct evrec *rec, int64_t stream, int64_t topological,
                    writer_id w);
void room_tl_trim(struct model *m, struct room *r, size_t max);
void room_tl_free(struct model *m, struct room *r);
void room_topological_stale(struct room *r);
void room_last_at_clear(struct model *m, struct room *r); /* of what is not being loaded */
void room_gap_add(struct room *r, int64_t stream);

/* state.c */
void room_state_apply(struct model *m, struct room *r, struct str type, struct str state_key,
                      struct str event_id);
void room_state_drop(struct model *m, struct room *r);
void room_groups_free(struct model *m, struct room *r); /* all of them; they may be wanted again */

/* deltas.c */
void room_delta_add(struct model *m, struct room *r, writer_id w, int64_t stream, struct str type,
                    struct str state_key, struct str event_id);
void room_deltas_drop(struct model *m, struct room *r);
void room_deltas_trim(struct model *m, struct room *r);

/* receipts.c */
void room_receipt_add(struct model *m, struct room *r, const struct receipt *src);
void room_receipts_free(struct room *r);

/* news.c */
/* versions.c */
void version_next(struct model *m); /* now_text is another one */
/* Something has come that u might see: with what wakes it (model_wake_user), or without. */
void user_stir(struct model *m, struct user *u);

void news_begin(struct model *m, struct user *u); /* u becomes active: nothing is news yet */
void news_end(struct user *u);
void news_members(struct model *m, struct room *r); /* somebody may have come into it */
void news_typing_reset(struct model *m);
/* Wakes who is active in r and notes that there is something: an event, a receipt, typing. */
void model_wake_news(struct model *m, struct room *r);

/* users.c, account.c, unread.c, devices.c, presence.c */
void account_shrink(struct user *u); /* drops what is large and rarely wanted */
void account_free(struct model *m, struct user *u);
void account_row(struct model *m, struct user *u, struct str type);
void presence_start(struct model *m);
void presence_fini(struct model *m);
void presence_row(struct model *m, int64_t token, const struct feed_row *row);
void device_lists_row(struct model *m, writer_id w, int64_t token, const struct feed_row *row);
void device_lists_fetch(struct model *m);
void model_device_positions_done(struct model *m);
void device_lists_wake(struct model *m);
void presence_load(struct model *m);
void erased_load(struct model *m);
void erased_reload(struct model *m);
void devices_init(struct model *m);
void devices_fini(struct model *m);
void device_keys_stale(struct model *m, struct str user_id, struct str device_id);
void filters_fini(struct model *m);
void user_rooms_drop(struct model *m, struct user *u);
void user_own_add(struct model *m, struct user *u, struct evrec *rec, struct room *r, int64_t stream,
                  writer_id w);
void user_data_free(struct model *m, struct user *u);
void unread_free(struct unread *un);
void unread_apply(const struct burst *b);
void unread_stale(struct user *u, struct str room_id);
void unread_receipt(struct model *m, struct user *u, const struct receipt *rc, struct str room_id);
void device_free(struct model *m, struct device *d);
void device_acks_flush(struct model *m);
void device_list_past_free(struct user *u);

/* relations.c */
void relations_init(struct model *m);
void relations_fini(struct model *m);
void relations_touch(struct model *m, struct str parent); /* a child came or went */
/* Before the target is marked stale: it may have been a child. room_id is where the redaction stands. */
void relations_redacted(struct model *m, struct str room_id, struct str target);
void relations_room_stale(struct model *m, struct room *r);
void relations_all_stale(struct model *m);
void relations_room_free(struct model *m, struct room *r);
void relations_trim(struct model *m, size_t bytes_max);

/* sticky.c */
void sticky_start(struct model *m);
void sticky_load(struct model *m);
void sticky_rows(struct model *m, writer_id w, int64_t token, size_t n);
void sticky_fetch(struct model *m);
void sticky_expire(struct model *m);
void sticky_fini(struct model *m);

/* burst.c */
void burst_add(struct model *m, writer_id w, int64_t token, const struct feed_row *rows, size_t n);
void burst_send(struct model *m);
void burst_held(struct model *m); /* once a turn: has it been held back for long enough? */
void burst_fini(struct model *m);
#endif
