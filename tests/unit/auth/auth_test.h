/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_AUTH_TEST_H
#define CHAPPE_AUTH_TEST_H
/*
 * Shared by the tests of src/auth. The module runs on a real loop and a fake clock; the linker wraps what it
 * calls: pg_exec answers from the tables below (the row is read when the statement is sent and delivered when
 * the test lets it, so the test decides what happens in between), httpc_send answers from a script,
 * feed_send_user_ip and http_reply are recorded. test_database.c turns the first of these off and uses a real
 * server.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "auth_int.h"

#define NOW 1700000000000

struct db_user {
    const char *name;
    bool gone, guest, admin, shadow_banned, locked, support;
    const char *app_service; /* NULL: none */
    int64_t creation_s, expires_ms;
};
struct db_token {
    int64_t id;
    const char *token, *user, *puppets, *device;
    int64_t valid_until_ms; /* 0: NULL */
    bool gone, used, refreshable;
};
struct db_device {
    const char *user, *device;
    bool gone, hidden;
};
struct sent_ip {
    char user[64], token[512], ip[64], user_agent[64], device[64]; /* device "-": absent */
};
struct mas_reply {
    int err, status;
    const char *body;
};
struct fix {
    uv_loop_t loop;
    struct config cfg;
    struct auth *auth;
    struct pg *pg; /* real ones */
    struct httpc *httpc;
    /* tables */
    struct db_user users[16];
    struct db_token tokens[16];
    struct db_device devices[16];
    const char *mau[8];
    int64_t mau_count;
    /* statements */
    bool real, hold;
    int fail; /* so many statements fail from now on */
    int fail_with;
    size_t statements[SQL_COUNT], rows_asked[SQL_COUNT];
    struct fake_call *first, **last;
    /* introspection */
    struct mas_reply reply;
    bool reply_hold;
    size_t introspections;
    char introspected[4096]; /* the last request: method url, headers, body */
    struct fake_http *http_first, **http_last;
    /* USER_IP */
    struct sent_ip ips[8];
    size_t ips_n;
    int64_t ip_due_ms; /* what it answers */
};
extern struct fix *fix; /* the one that the wrapped functions serve */

/* What one request came to. */
struct outcome {
    int calls;
    struct requester *r;
    int status;
    char errcode[64], error[256], admin_contact[64], limit_type[64];
    int soft_logout;
    bool limit;
};
struct ask {
    const char *authorization; /* NULL: none */
    const char *query, *ip, *user_agent;
    int authorization_count; /* 0: 1 if authorization */
    bool no_guests;
};

void fix_tables(struct fix *f); /* alice, bob, and so on */
struct fix *fix_new(void (*configure)(struct config *cfg));
struct fix *fix_new_with(void (*configure)(struct config *cfg),
                         bool real); /* real: PostgreSQL, HTTP client and clock */
void fix_free(struct fix **f);
/* Runs the loop and delivers answers until nothing moves any more. */
void fix_pump(struct fix *f);
void fix_pump_once(struct fix *f);        /* one turn: sends what was asked for, delivers nothing */
void fix_deliver(struct fix *f);          /* what was sent so far, and nothing else */
void fix_tick(struct fix *f, int64_t ms); /* moves the clock, then the ticks */
struct db_token *fix_token(struct fix *f, const char *token);
struct db_user *fix_user(struct fix *f, const char *name);
struct db_device *fix_device(struct fix *f, const char *user, const char *device);
/* Asks; the request is gone when this returns. */
void ask(struct fix *f, const struct ask *q, struct outcome *o);
void ask_token(struct fix *f, const char *token, struct outcome *o);
/* The same, pumped until answered; outcome_free the result. */
struct outcome asked(struct fix *f, const struct ask *q);
struct outcome asked_token(struct fix *f, const char *token);
void outcome_free(struct outcome *o);
/* auth_again for a request with this token. */
bool again_token(struct fix *f, struct requester *r, const char *token);
void assert_refused_(const char *file, int line, const struct outcome *o, int status, const char *errcode,
                     const char *error, int soft_logout, const char *what);
#define assert_refused(...) assert_refused_(__FILE__, __LINE__, __VA_ARGS__)
void assert_accepted_(const char *file, int line, const struct outcome *o, const char *user,
                      const char *device, const char *what);
#define assert_accepted(...) assert_accepted_(__FILE__, __LINE__, __VA_ARGS__)
void row(struct fix *f, const char *func, const char *k1,
         const char *k2); /* a row of the caches stream; k1 NULL: all */

struct watched {
    struct auth_watch w;
    void (*then)(struct watched *w); /* called when it has ended; may be NULL */
    int ended, status, soft_logout;
    char errcode[64], error[256];
};
void watch(struct fix *f, struct watched *w, struct requester *r);

int run_extract(void);
int run_internal_tests(void);
int run_macaroon(void);
int run_app_service_tests(void);
int run_mas_tests(void);
int run_again(void);
int run_blocking_tests(void);
int run_watch(void);
int run_race(void);
int run_database(void);
#endif
