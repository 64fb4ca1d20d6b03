/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_SYNC_QUICK_H
#define CHAPPE_SYNC_QUICK_H
/* Private to src/sync: answers of which the computation is known beforehand (quick.c). */
#include "sync_int.h"

struct sync_req;

/* Which readers an answer may be for: they ask from the same position with the same filter, and one room has
 * news. */
struct quick_key {
    uint64_t version; /* of their token */
    const struct filter *f;
    const struct room *room;
    uint64_t serial; /* of the model */
};
/* What of an answer differs between those: counts of what is unread, and of keys. */
struct quick_private {
    int64_t notify, highlight, unread;
    const struct blob *otk, *fallback;
};
enum { QUICK_SLOTS = 16, QUICK_BODIES = 4 };
struct quick_answer {
    struct quick_key key;
    struct filter *f;      /* holds key.f */
    struct shared *shared; /* the room's section; NULL: the slot is empty */
    struct sync_run run;   /* since, now, and whatever else is the same for all of them */
    uint64_t next;         /* the hash of next_batch */
    bool moves;            /* next_batch is another token than since */
    struct quick_body {
        struct quick_private is;
        struct blob *otk, *fallback, *bytes;
    } bodies[QUICK_BODIES];
    size_t bodies_count;
};
struct quick {
    struct quick_answer slots[QUICK_SLOTS]; /* by key */
    struct arena *a;                        /* of the runs, between two answers empty */
};
void quick_fini(struct quick *q);
void quick_expire(struct quick *q, int64_t wall_ms);

/* Certain that r has nothing to be told now, and may wait. */
bool quick_quiet(const struct sync_req *r);
/* True: r has been answered, or parked. */
bool quick_answer(struct sync_req *r);
/* run has answered r the long way: perhaps others are to get the same. */
void quick_offer(struct sync_req *r, const struct sync_run *run);
#endif
