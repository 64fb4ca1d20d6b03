/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_TEST_WORLD_H
#define CHAPPE_TEST_WORLD_H
/*
 * A homeserver in memory for tests of the model and of what is computed from it: tables, a stand-in for the
 * database that answers statements from them, and a feed whose rows the test sends itself.
 *
 * A statement reads the tables when it is issued and is answered when the test turns the world, unless its
 * answer is held back or made to fail. So a row can arrive, and a table change, while a load is under way.
 */
#include "model_int.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { MASTER = 1, W2 = 2 };

/* Tables hold text that lives as long as the world. NULL stands for NULL. */
struct t_event {
    const char *id, *room, *type, *sender, *key, *content, *prev, *replaces, *metadata, *rejected, *redacts,
        *version, *json, *extra, *relates, *rel; /* the last two: of event_relations */
    int64_t stream, topo, sg;
    int writer;
    bool outlier;
};
struct t_relation {
    const char *parent, *rel, *event, *sender;
};
struct t_redaction {
    const char *by, *redacts;
    bool recheck;
};
struct t_gap {
    const char *room;
    int64_t stream;
};
struct t_action {
    const char *user, *room, *thread;
    int64_t stream;
    bool notif, highlight, unread;
};
struct t_state {
    const char *room, *type, *key, *event, *membership;
    int64_t stream;
};
struct t_delta {
    const char *room, *type, *key, *event;
    int64_t stream;
    int writer;
};
struct t_sticky {
    int64_t stream;
    const char *room, *event;
    int64_t expires;
};
struct t_group {
    int64_t id, prev;
    const char *type, *key, *event;
}; /* prev 0: none; type NULL: no delta */
struct t_receipt {
    const char *room, *type, *user, *event, *thread, *data;
    int64_t stream;
    int writer;
};
struct t_member {
    const char *user, *room, *sender, *membership, *event;
    int64_t stream;
    int writer;
    bool forgotten;
    const char *version;
};
struct t_datum {
    const char *user, *room, *type, *content;
    int64_t stream;
};
struct t_tag {
    const char *user, *room, *tag, *content;
    int64_t stream;
};
struct t_pair {
    const char *a, *b;
    int64_t n;
};
struct t_inbox {
    const char *user, *device, *json;
    int64_t stream;
};
struct t_key {
    int kind;
    const char *user, *device, *algorithm;
    int64_t count;
};
struct t_dl {
    int kind;
    const char *reader, *user, *room;
    int64_t stream;
    int writer;
};
struct t_presence {
    const char *user, *state, *status;
    int64_t last_active, stream;
    bool active;
};
struct t_token {
    const char *token, *user, *device;
    int64_t id;
};
struct t_unread {
    int kind;
    const char *user, *room, *thread;
    int64_t v[5];
    const char *list;
};

struct answer;
struct world {
    uv_loop_t loop;
    uv_timer_t alive;
    struct config *cfg;
    struct model *m;
    struct feed_sink sink;
    struct positions *start[STREAM_COUNT];
    enum feed_state feed;
    struct arena *text;

    VEC(struct t_event) events;
    VEC(struct t_redaction) redactions;
    VEC(struct t_relation) relations; /* in the order in which they were made; of one room, each */
    VEC(struct t_pair) bans; /* room_ban_redactions: "room user", the redacting event, where it ends */
    VEC(struct t_gap) gaps;
    VEC(struct t_action) actions;
    VEC(struct t_state) state;
    VEC(struct t_sticky) sticky;
    VEC(struct t_delta) deltas; /* current_state_delta_stream */
    VEC(struct t_group) groups;
    VEC(struct t_receipt) receipts;
    VEC(struct t_member) members; /* local_current_membership */
    VEC(struct t_member) own;     /* room_memberships */
    VEC(struct t_datum) data;
    VEC(struct t_tag) tags;
    VEC(struct t_pair) ignored, features, full_presence, filters, erased, partial, rules_stream, sequences;
    VEC(struct t_pair) facts; /* of rooms: n is 1 for public, 2 for blocked, or both */
    VEC(struct t_inbox) inbox;
    VEC(struct t_key) keys;
    VEC(struct t_dl) dl;
    VEC(struct t_presence) presence;
    VEC(struct t_unread) unread;
    VEC(struct t_token) tokens; /* access tokens */
    int64_t dl_pruned;

    VEC(struct answer *) answers; /* issued, not yet delivered */
    bool held[SQL_COUNT], reversed;
    bool fail_last;        /* of the next delivery, the last answer is refused */
    int fail[SQL_COUNT];   /* so many answers are refused */
    int issued[SQL_COUNT]; /* statements issued since the last world_forget_counts */
    size_t last_targets;   /* length of the first array of the last statement */

    VEC(struct str) woken;
    bool woken_forgotten; /* who is woken is not noted */
    void (*on_wake)(void *arg, struct user *u);
    void (*on_wake_more)(void *arg); /* NULL: all are woken at once */
    void *on_wake_arg;
    VEC(struct str) cache_rows;
    int cache_flushes, loaded, loaded_err, checks;
};

struct world *world_new(void);
/* The same with positions of the events stream where MASTER and W2 stand apart. */
struct world *world_new_writers(int64_t master, int64_t w2);
/* Before world_new: text appended to the configuration. */
void world_config(const char *yaml);
void world_free(struct world **w);
void world_stop_pg(struct world *w); /* every statement under way ends with -ERR_SHUTDOWN */
/* Delivers what has been issued so far and is not held; answers to what that brings about come with the next
 * turn. Returns how many answers there were. */
size_t world_deliver(struct world *w);

void world_turn(struct world *w);   /* one turn of the loop, then what is due is delivered */
void world_settle(struct world *w); /* turns until nothing moves */
void world_tick(struct world *w);   /* until the model's timer has fired once more */
void world_release(struct world *w, enum pg_stmt s);
void world_forget_counts(struct world *w);
int world_issued(const struct world *w); /* all statements together */

#define world_add(table, ...) vec_push(table, ((__typeof__(*(table)->v)){__VA_ARGS__}))
const char *world_text(struct world *w, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* An event: into the tables; world_say also sends its row. State events get a new group on top of the room's
 * last one and become current state; members get their membership rows. */
struct t_event *world_event(struct world *w, struct t_event e);
void world_say(struct world *w, struct t_event e);
void world_send_event(struct world *w, const struct t_event *e);
void world_send_state(struct world *w, const struct t_event *e, bool with_event);
void world_position(struct world *w, enum stream s, int writer, int64_t token);
void world_send(struct world *w, enum stream s, int writer, int64_t token, const struct feed_row *row);
void world_burst_end(struct world *w);
/* A room with its create event, a history visibility (NULL: none) and joined members; streams from first on.
 * Returns the last stream ordering used. */
int64_t world_room(struct world *w, const char *room, int64_t first, const char *history, ...);
int64_t world_group(struct world *w, const char *room); /* the room's newest state group */

bool world_woken(struct world *w, const char *user); /* and forgets it */
#define S(lit) str_of(lit)
#define assert_str(s, lit)                                                                            \
    do {                                                                                              \
        struct str got_ = (s);                                                                        \
        if (!str_eq(got_, str_of(lit)))                                                               \
            fail_msg("%s:%d: got \"%.*s\", expected \"%s\"", __FILE__, __LINE__, STR_ARG(got_), lit); \
    } while (0)
#endif
