/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The HTTP server alone: one connection asks as a polling client does and is answered with a delta of the
 * usual size, so many times. For callgrind, with two numbers of requests (bench/README.md): instructions for
 * each from the bytes' arrival to the handler (conn_recv, less the handler) and from http_reply() on.
 *
 *   bench_http COUNT [uv|uring]
 */
#include "chappe/config.h"
#include "chappe/httpd.h"
#include "chappe/log.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

static const char request[] =
    "GET /_matrix/client/v3/sync?filter=0&timeout=30000&since=s72594_4483_1934_11_34_1_55_77_1_3_120"
    "&set_presence=offline HTTP/1.1\r\nHost: matrix.example.org\r\n"
    "Authorization: Bearer syt_YWxpY2U_ZqTgWxKcVbNmLkJhGfDs_1a2B3c\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 "
    "Safari/537.36\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate, br\r\n"
    "Connection: keep-alive\r\n\r\n";

static struct http_req *parked;

static int route(enum http_method m, struct str path)
{
    (void)m;
    (void)path;
    return 0;
}

static void handler(void *arg, struct http_req *req)
{
    (void)arg;
    parked = req;
}

/* An event shared by all, the rest one's own. */
static void answer(struct blob *event)
{
    struct http_res res;
    http_res_init(&res, 200);
    rope_put(&res.body,
             STR("{\"next_batch\":\"s72595_4483_1934_11_34_1_55_77_1_3_120\",\"rooms\":{\"join\":{"));
    rope_blob_range(&res.body, event, 0, 400);
    rope_put(&res.body, STR("\"age\":117"));
    rope_blob_range(&res.body, event, 400, 200);
    rope_put(&res.body, STR(",\"unread_notifications\":{\"highlight_count\":0,\"notification_count\":1}}}}"));
    http_reply(&parked, &res);
}

int main(int argc, char **argv)
{
    struct config cfg = {.idle_timeout_ms = 90000, .header_timeout_ms = 10000, .body_timeout_ms = 30000};
    struct str bind[1] = {STR("127.0.0.1")};
    struct config_listener l = {.bind = bind, .bind_count = 1, .client = true};
    struct httpd_routes routes = {.route = route, .handler = handler};
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    long count = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
    struct httpd *h;
    uv_loop_t loop;
    struct err e;
    char in[8192], event[600];

    if (count <= 0) {
        fputs("usage: bench_http COUNT [uv|uring]\n", stderr);
        return 2;
    }
    cfg.transport = argc > 2 ? str_of(argv[2]) : STR("uv");
    cfg.write_timeout_ms = 60000;
    cfg.connections_max = 100;
    cfg.header_bytes_max = 32768;
    cfg.body_bytes_max = cfg.read_bytes_max = cfg.write_bytes_max = 1 << 20;
    cfg.listeners = &l;
    cfg.listeners_count = 1;
    log_level = LOG_ERROR;
    memset(event, 'e', sizeof event);
    struct blob *b = blob_new(str_n(event, sizeof event));
    if (uv_loop_init(&loop) != 0 || httpd_start(&h, &loop, &cfg, &routes, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        return 2;
    }
    sa.sin_port = htons((uint16_t)httpd_port(h, 0));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&sa, sizeof sa) != 0)
        return 2;
    for (long i = 0; i < count; i++) {
        if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) != sizeof request - 1)
            return 2;
        while (!parked)
            uv_run(&loop, UV_RUN_NOWAIT);
        answer(b);
        while (recv(fd, in, sizeof in, MSG_DONTWAIT) <= 0)
            uv_run(&loop, UV_RUN_NOWAIT);
    }
    struct httpd_memory m;
    httpd_memory(h, &m);
    printf("%ld requests of %zu bytes\n", count, sizeof request - 1);
    close(fd);
    httpd_stop(&h);
    blob_unref(&b);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop) != 0;
}
