/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_SYNC_ANSWERS_H
#define CHAPPE_SYNC_ANSWERS_H
/* Private to src/sync: answers that are kept for a while (answers.c). */
#include "sync_int.h"

/* One answer, as it went out. */
struct answer {
    struct list by_age, by_token;
    struct answers_of *of;
    uint64_t key;       /* of the request */
    uint64_t next;      /* of its next_batch; 0: not known */
    int64_t ignore_pos; /* an initial sync's: where the ignore list stood */
    int64_t expires_ms;
    size_t bytes; /* for the budget: what it shares is part of it */
    size_t own;   /* of its body, alone */
    struct rope body;
};
enum { ANSWERS_SOME = 4096 };
struct answers {
    struct smap of;     /* struct answers_of by token and user */
    struct imap by_key; /* struct answer by what it answers and whom */
    struct list by_age;
    uint16_t some[ANSWERS_SOME]; /* how many of tokens with such a key have any: most polls have none */
    size_t n, bytes;
    size_t bytes_max;
    int64_t life_ms; /* 0: nothing is kept */
};
void answers_init(struct answers *a, int64_t life_ms, size_t bytes_max);
void answers_fini(struct answers *a);
/* The kept answer to rq's request key, or NULL. The request's since (its hash; 0: absent) is the next_batch
 * of an answer that has arrived: that one is dropped. */
struct answer *answers_find(struct answers *a, const struct requester *rq, uint64_t key, uint64_t since);
/* Keeps body (shared, not copied) in place of an older answer to the same. next: the hash of its next_batch.
 */
void answers_keep(struct answers *a, struct requester *rq, uint64_t key, int64_t ignore_pos, uint64_t next,
                  const struct rope *body);
void answers_drop(struct answers *a, struct answer *x, const char *reason);
/* Everything that was kept for this token and user. */
void answers_forget(struct answers *a, const struct requester *rq);
void answers_expire(struct answers *a, int64_t now_ms);
#endif
