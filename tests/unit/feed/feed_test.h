/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_FEED_TEST_H
#define CHAPPE_FEED_TEST_H
/*
 * Shared by the tests of src/feed: a feed whose sink and source write down what they are told, one line each,
 * in the order in which it happened: events 2 101 ev:$a state:m.room.topic     a batch: stream, writer,
 * token, its rows reset typing 1 · flush caches · state live · end (of a burst) fetch events ep1 100 103 a
 * gap is being filled: (100, 103]
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "chappe/clock.h"
#include "feed_int.h"

enum { W_MASTER = 1, W_EP1, W_EP2, W_R2 };

struct http_call { /* what the fake HTTP client was asked */
    struct str method, url, body, auth, unix_path;
    httpc_done_fn *done;
    void *arg;
};
struct http_call_list {
    struct http_call *v;
    uint32_t n, cap;
};
extern struct http_call_list http_calls;
void http_answer(size_t i, int err, int status, const char *body);
void http_answer_from(size_t i, int err, int status, const char *body, const char *server);
void http_forget(void);

struct fix {
    uv_loop_t loop;
    struct config cfg;
    struct feed_tuning t;
    struct feed *f;
    struct buf seen;
    VEC(struct feed_fetch *) asked; /* by the source, not answered yet */
    int looks;                      /* at stream_positions */
    bool positions_at_once;
};
void fix_config(struct config *cfg);
struct fix *fix_new(void);       /* positions 100 (typing 0), no Redis, one epoch begun */
struct fix *fix_new_quiet(void); /* the same before any epoch */
void fix_free(struct fix **x);
void line(struct fix *x, const char *text);          /* one replication line and the end of its burst */
void lines(struct fix *x, const char *const *texts); /* NULL-terminated, in one burst */
void expect(struct fix *x, const char *seen);        /* all that was seen since the last call */
void expect_has(struct fix *x, const char *part);    /* and forgets it */
/* Answers the oldest fetch: covers up to upto, rows as "token json" lines. */
void answer(struct fix *x, int64_t upto, const char *rows);
void answer_error(struct fix *x, int err);
void turns(struct fix *x, int ms);
#define until(x, cond)                                                                   \
    do {                                                                                 \
        int64_t end_ = clock_mono_ms() + 8000;                                           \
        bool met_ = false;                                                               \
        while (!(met_ = (cond)) && clock_mono_ms() < end_)                               \
            turns((x), 2);                                                               \
        if (!met_)                                                                       \
            fail_msg("%s:%d: not within 8 s: %s; seen: %.*s", __FILE__, __LINE__, #cond, \
                     STR_ARG(buf_str(&(x)->seen)));                                      \
    } while (0)
bool seen_has(struct fix *x, const char *part);

/* Logged lines of warning and above are collected; tests say which they expect. */
bool logged(const char *part);
void log_forget(void);

int run_lines(void);
int run_streams(void);
int run_redis(void);
int run_sent(void);
int run_release(void);
int run_db(void);
#endif
