/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_TOKEN_H
#define CHAPPE_TOKEN_H
/*
 * Stream tokens (next_batch, since, prev_batch) and the positions they are made of.
 * Rules: Synapse 1.157 types/__init__.py; tests/unit/token holds worked examples.
 *
 * Writers are known by their instance_map id, a small positive integer; WRITER_NONE stands for "no writer
 * named" (rows with a NULL instance_name, or a name that has no id): such a row compares with a position's
 * min.
 */
#include "chappe/str.h"
#include "chappe/mem.h"

enum { WRITER_NONE = 0, MPOS_WRITERS_MAX = 16 };
typedef int32_t writer_id;

/* Position in a stream that may have several writers: everything up to min, and for each listed writer up to
 * pos. Entries have pos > min and are sorted by writer. More than MPOS_WRITERS_MAX ahead of min: the rest is
 * dropped (which only makes the position older). */
struct mpos_writer {
    writer_id writer;
    int64_t pos;
};
struct mpos {
    int64_t min;
    int32_t n;
    struct mpos_writer w[MPOS_WRITERS_MAX];
};
static inline struct mpos mpos_of(int64_t min)
{
    return (struct mpos){.min = min};
}
int64_t mpos_get(const struct mpos *p, writer_id w); /* the listed value, or min */
int64_t mpos_max(const struct mpos *p);
bool mpos_covers(const struct mpos *p, writer_id w, int64_t id); /* id <= mpos_get(p, w) */
bool mpos_le(const struct mpos *a, const struct mpos *b);        /* for min and for every writer of either */
bool mpos_equal(const struct mpos *a, const struct mpos *b);
struct mpos mpos_join(const struct mpos *a, const struct mpos *b);
struct mpos mpos_bound(const struct mpos *p, int64_t max); /* clamps to max */
/* A position that is kept for long, of which there are many: counted, so that who keeps the same one shares
 * it, and without room for writers that are not ahead. */
struct mpos_kept {
    uint32_t refs;
    int32_t n;
    int64_t min;
    struct mpos_writer w[];
};
/* last: the caller's most recent one (NULL at first), which counts too. */
struct mpos_kept *mpos_keep(enum mem_kind k, struct mpos_kept **last, const struct mpos *p);
void mpos_unref(enum mem_kind k, struct mpos_kept **p); /* accepts an empty one, leaves NULL */
struct mpos mpos_of_kept(const struct mpos_kept *p);
static inline bool mpos_in_range(const struct mpos *lo, const struct mpos *hi, writer_id w, int64_t id)
{
    return !mpos_covers(lo, w, id) && mpos_covers(hi, w, id);
}

enum token_field {
    TOKEN_ROOM,
    TOKEN_PRESENCE,
    TOKEN_TYPING,
    TOKEN_RECEIPT,
    TOKEN_ACCOUNT_DATA,
    TOKEN_PUSH_RULES,
    TOKEN_TO_DEVICE,
    TOKEN_DEVICE_LIST,
    TOKEN_GROUPS,
    TOKEN_UN_PARTIAL_STATED_ROOMS,
    TOKEN_THREAD_SUBSCRIPTIONS,
    TOKEN_STICKY_EVENTS,
    TOKEN_QUARANTINED_MEDIA,
    TOKEN_PROFILE_UPDATES,
    TOKEN_FIELD_COUNT
};
struct stream_token {
    bool historical; /* room part is t<topological>-<stream>: legal in /messages, not in /sync */
    int64_t topological;
    struct mpos room;
    int64_t presence, typing;
    struct mpos receipt;
    int64_t account_data, push_rules, to_device;
    struct mpos device_list;
    int64_t un_partial_stated_rooms, thread_subscriptions;
    struct mpos
        sticky_events; /* a plain number before Synapse 1.163, which nobody can tell from one writer's */
    struct mpos quarantined_media;
    int64_t profile_updates;
};

/* How many fields this Synapse release writes, and takes at most (release_token_fields). */
void token_arity_set(int fields);
int token_arity(void);
/* 0 or -ERR_PARSE. Fewer fields are padded with 0. known_writer says whether an id is in instance_map (NULL:
 * all). */
int token_parse(struct str text, bool (*known_writer)(writer_id), struct stream_token *out) NODISCARD;
enum { TOKEN_TEXT_MAX = 3072 };
/* Writes at most TOKEN_TEXT_MAX bytes (no NUL) and returns how many. */
size_t token_format(const struct stream_token *t, char *out);
bool token_le(const struct stream_token *a, const struct stream_token *b); /* all fields but typing, groups */
bool token_equal(const struct stream_token *a, const struct stream_token *b); /* all fields, typing too */

/*
 * What a follower knows of one stream: where each writer stands and up to where everything is persisted
 * (storage/util/id_generators.py: MultiWriterIdGenerator).
 */
struct positions;
struct positions *positions_new(void);
void positions_free(struct positions **p);
struct positions *positions_copy(const struct positions *p);
/* Start: writers' rows of stream_positions; then ids known persisted above their minimum; then seal. */
void positions_init_writer(struct positions *p, writer_id w, int64_t pos);
void positions_init_empty(struct positions *p, int64_t persisted_upto); /* no row in stream_positions */
void positions_init_known(struct positions *p, int64_t id);
void positions_init_seal(struct positions *p, const writer_id *writers,
                         size_t n); /* configured ones without a row get P */
void positions_advance(struct positions *p, writer_id w, int64_t id);
void positions_reset(struct positions *p, writer_id w,
                     int64_t id); /* memory-only streams that restarted: may go back */
int64_t positions_persisted_upto(const struct positions *p);
int64_t positions_of_writer(const struct positions *p, writer_id w); /* current_for_writer: max(own, P) */
int64_t positions_max(const struct positions *p);                    /* greatest seen of any writer */
struct mpos positions_mpos(const struct positions *p);
#endif
