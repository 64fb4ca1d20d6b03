/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_SERVER_FIXTURE_H
#define CHAPPE_SERVER_FIXTURE_H
/*
 * A whole server in this process: the hub's loop runs on a thread of its own, the test is the client on
 * another. The handler knows a few paths (see server_fixture.c); blocking clients with a bound on every wait.
 */
#include "http_int.h"
#include "test_http.h"
#include "chappe/httpd.h"
#include "chappe/metrics.h"
#include <uv.h>

struct variant {
    const char *transport;
    int threads;
};

enum command { CMD_NONE, CMD_DRAIN, CMD_STOP, CMD_RELEASE, CMD_UNHEALTHY, CMD_HEALTHY };

struct server {
    struct config cfg;
    struct config_listener listeners[4];
    struct str bind[1];
    struct str bind_any[2];
    int ports[4];
    struct httpd *httpd;
    uv_loop_t loop;
    uv_async_t wake;
    uv_thread_t thread;
    uv_sem_t ready, done;
    _Atomic int command;
    int rc;
    struct err err;
    /* the handler's */
    struct http_req *parked[4096];
    _Atomic int parked_count, gone_count, handled;
    _Atomic bool answering; /* httpd_routes.answering */
    bool stopped;
};
extern struct server *server;
extern char unix_path[100];

void server_config(struct server *s, const struct variant *v); /* defaults; change cfg afterwards */
void server_start(struct server *s);
void server_command(struct server *s, enum command c); /* waits until it is done */
void server_stop(struct server *s);

/* ---- client ---- */

struct client {
    int fd;
    char in[1 << 20];
    size_t n;
};
struct response {
    int status;
    char head[8192];
    char *body; /* heap */
    size_t body_bytes;
};
struct client *client_dial(int port);
struct client *client_dial_unix(const char *path);
void client_free(struct client **c);
void client_send(struct client *c, const char *text);
void client_send_bytes(struct client *c, const char *p, size_t n);
/* 0, or -1 when the connection ended or 5 s passed. head_only: a response to HEAD. */
int client_read(struct client *c, struct response *r, bool head_only);
/* True when the server ends the connection within ms without sending anything more. */
bool client_ended(struct client *c, int ms);
bool header_is(const struct response *r, const char *name, const char *value);
bool has_header(const struct response *r, const char *name);
void response_free(struct response *r);
/* One request on a connection of its own; returns the status. */
int fetch(int port, const char *request, struct response *r);
#define WAIT_FOR(condition)                                         \
    do {                                                            \
        bool held_ = false;                                         \
        for (int i_ = 0; i_ < 2500 && !(held_ = (condition)); i_++) \
            usleep(2000);                                           \
        assert_true(held_);                                         \
    } while (0)

/* ---- suites that run on every variant ---- */

enum { VARIANTS = 4 };
extern struct variant variants[VARIANTS];
extern struct server the_server;
#define PORT    (the_server.ports[0])
#define PROXIED (the_server.ports[1])
#define METRICS (the_server.ports[3])

bool variant_allowed(const struct variant *v); /* by this machine */
#define variant_of(state) ((const struct variant *)*(state))
/* Starts a server; tests that change the configuration do it between. */
#define CONFIG(state)                                  \
    do {                                               \
        if (!variant_allowed(variant_of(state)))       \
            skip();                                    \
        server_config(&the_server, variant_of(state)); \
    } while (0)
#define START(state)               \
    do {                           \
        CONFIG(state);             \
        server_start(&the_server); \
    } while (0)
int stop_after(void **state); /* teardown: the test failed half-way */
int64_t refused(enum close_reason why);

/* Keeps what is logged from this level on. */
void log_keep(int level);
bool logged(const char *text);
int logged_count(const char *text);
void log_release(void);
#endif
