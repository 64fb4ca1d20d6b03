/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What a front does for a poll: from the bytes of the request until the handler has it, and from http_reply()
 * until the answer is with the kernel, its request line is in the log and the request is released. The real
 * server, with its loop and its sockets, behind a proxy that comes through a UNIX socket; the handler only
 * keeps the requests. Many connections at once, answered in slices as sync does it.
 */
#include "http.h"
#include "count.h"
#include "chappe/clock.h"
#include "chappe/httpd.h"
#include "chappe/log.h"
#include "chappe/loop.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

enum { SMALL = 64, LARGE = 512, CLIENTS_MAX = LARGE, SLICE = 64, EVENT_BYTES = 900, TURNS_MAX = 100000 };

static const char request[] =
    "GET /_matrix/client/v3/sync?filter=0&timeout=30000&org.matrix.msc4222.use_state_after=true"
    "&since=s1000004_100_0_100_100_100_1000003_100_0_100_100_100_100 HTTP/1.1\r\n"
    "Host: matrix.example.org\r\n"
    "X-Forwarded-For: 192.0.2.7\r\n"
    "X-Forwarded-Proto: https\r\n"
    "authorization: Bearer syt_dXNlcjAwMDA_aBcDeFgHiJkLmNoPqRsT_0000Ab\r\n"
    "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 "
    "Safari/537.36\r\n"
    "accept: application/json\r\n"
    "accept-encoding: gzip, deflate, br, zstd\r\n"
    "accept-language: fr-FR,fr;q=0.9,en;q=0.8\r\n"
    "\r\n";

static struct http_req *waiting[CLIENTS_MAX];
static int waiting_count;

static int route(enum http_method m, struct str path)
{
    (void)m;
    (void)path;
    return 0;
}

static void handler(void *arg, struct http_req *req)
{
    (void)arg;
    ASSERT(waiting_count < CLIENTS_MAX && http_authorization(req).n > 0);
    static const char name[] = "@user00001:matrix.example.org";
    req->requester = memcpy(http_room(req, sizeof name), name, sizeof name);
    waiting[waiting_count++] = req;
}

/* An event shared by all, the rest one's own. */
static void answer(struct http_req **req, struct blob *event)
{
    struct http_res res;
    http_res_init(&res, 200);
    rope_put(&res.body, STR("{\"next_batch\":\"s1000005_100_0_100_100_100_1000003_100_0_100_100_100_100\","
                            "\"rooms\":{\"join\":{\"!all:matrix.example.org\":"));
    rope_blob(&res.body, event);
    rope_put(&res.body, STR(",\"unread_notifications\":{\"highlight_count\":0,\"notification_count\":1}}}}"));
    http_reply(req, &res);
}

struct setup {
    struct config cfg;
    struct config_listener listener;
    struct httpd_routes routes;
    struct httpd *h;
    uv_loop_t loop;
    struct sockaddr_un address;
    int fds[CLIENTS_MAX];
};

static void open_all(struct setup *s, struct str transport, int n)
{
    struct err e = {.text = ""};
    *s = (struct setup){.routes = {.route = route, .handler = handler}, .address = {.sun_family = AF_UNIX}};
    snprintf(s->address.sun_path, sizeof s->address.sun_path, "/tmp/chappe-cost-%d.sock", (int)getpid());
    s->listener =
        (struct config_listener){.path = str_of(s->address.sun_path), .client = true, .x_forwarded = true};
    s->cfg.transport = transport;
    s->cfg.connections_max = CLIENTS_MAX;
    s->cfg.idle_timeout_ms = s->cfg.header_timeout_ms = s->cfg.body_timeout_ms = s->cfg.write_timeout_ms =
        90000;
    s->cfg.header_bytes_max = 32768;
    s->cfg.body_bytes_max = 1 << 20;
    s->cfg.read_bytes_max = s->cfg.write_bytes_max = 1 << 28;
    s->cfg.listeners = &s->listener;
    s->cfg.listeners_count = 1;
    ASSERT(uv_loop_init(&s->loop) == 0);
    if (httpd_start(&s->h, &s->loop, &s->cfg, &s->routes, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        exit(1);
    }
    for (int i = 0; i < n; i++) {
        s->fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ASSERT(connect(s->fds[i], (struct sockaddr *)&s->address, sizeof s->address) == 0);
        uv_run(&s->loop, UV_RUN_NOWAIT);
    }
}

static void close_all(struct setup *s, int n)
{
    for (int i = 0; i < n; i++)
        close(s->fds[i]);
    httpd_stop(&s->h);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    ASSERT(uv_loop_close(&s->loop) == 0);
}

/* Everybody asks, is heard, is answered. */
static void round_of(struct setup *s, int n, struct blob *event, const char *count)
{
    char in[4096];
    for (int i = 0; i < n; i++)
        ASSERT(send(s->fds[i], request, sizeof request - 1, MSG_NOSIGNAL) == sizeof request - 1);
    waiting_count = 0;
    if (count)
        count_begin();
    for (int turns = 0; waiting_count < n && turns < TURNS_MAX; turns++)
        uv_run(&s->loop, UV_RUN_NOWAIT);
    for (int i = 0; i < waiting_count; i++) {
        answer(&waiting[i], event);
        if (i % SLICE == SLICE - 1)
            uv_run(&s->loop, UV_RUN_NOWAIT);
    }
    for (int turns = 0; httpd_in_flight(s->h) > 0 && turns < TURNS_MAX; turns++)
        uv_run(&s->loop, UV_RUN_NOWAIT);
    if (count)
        count_end(count, n);
    ASSERT(waiting_count == n);
    for (int i = 0; i < n; i++) {
        ssize_t got = recv(s->fds[i], in, sizeof in - 1, MSG_DONTWAIT);
        in[got > 0 ? got : 0] = 0;
        ASSERT(strncmp(in, "HTTP/1.1 200 OK\r\n", 17) == 0 && strstr(in, "\"notification_count\":1}}}}"));
    }
}

static void polls(struct str transport, int n, const char *name)
{
    char bytes[EVENT_BYTES];
    struct setup *s = xcalloc(1, sizeof *s);
    memset(bytes, 'e', sizeof bytes);
    struct blob *event = blob_new(str_n(bytes, sizeof bytes));
    open_all(s, transport, n);
    round_of(s, n, event, NULL);
    round_of(s, n, event, name);
    close_all(s, n);
    blob_unref(&event);
    free(s);
}

static void all_polls(void)
{
    enum transport_kind kind;
    char why[160];
    enum log_level level = log_level;
    bool uring = transport_choose(STR("uring"), &kind, why, NULL) == 0;
    /* Request lines are part of it, and are of no use to anybody here. */
    int keep = dup(STDERR_FILENO), nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    ASSERT(keep >= 0 && nowhere >= 0);
    fflush(stderr);
    ASSERT(dup2(nowhere, STDERR_FILENO) >= 0);
    log_level = LOG_INFO;
    clock_fake_set(1700000000000);
    polls(STR("uv"), SMALL, "http-uv");
    polls(STR("uv"), LARGE, "http-uv");
    if (uring) {
        polls(STR("uring"), SMALL, "http-uring");
        polls(STR("uring"), LARGE, "http-uring");
    }
    clock_fake_set(-1);
    log_level = level;
    ASSERT(dup2(keep, STDERR_FILENO) >= 0);
    close(keep);
    close(nowhere);
    if (!uring)
        fprintf(stderr, "not counted: http-uring (io_uring cannot be had here)\n");
}

int main(void)
{
    heads(SMALL);
    heads(LARGE);
    all_polls();
    return 0;
}
