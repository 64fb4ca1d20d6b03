/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The HTTP client alone, as the push worker uses it: so many notifications of the usual size to a gateway,
 * a window of them under way at any time. Prints requests a second and CPU for each; under callgrind, with
 * two numbers of requests, instructions for each (bench/README.md).
 *
 *   bench_requests URL COUNT [WINDOW]
 */
#include "chappe/clock.h"
#include "chappe/httpc.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <uv.h>

static const char body[] =
    "{\"notification\":{\"content\":{\"body\":\"message number 17\",\"msgtype\":\"m.text\"},"
    "\"counts\":{\"unread\":1},\"devices\":[{\"app_id\":\"bench.app\",\"data\":{},\"pushkey\":\"key-12345-"
    "1\","
    "\"pushkey_ts\":1700000000,\"tweaks\":{}}],\"event_id\":\"$0123456789012345678901234567890123456789012\","
    "\"id\":\"$0123456789012345678901234567890123456789012\",\"prio\":\"low\","
    "\"room_id\":\"!012345678901234567:chappe.test\",\"room_name\":\"Bench\","
    "\"sender\":\"@sender:chappe.test\",\"sender_display_name\":\"sender\",\"type\":\"m.room.message\"}}";
static const struct httpc_header headers[] = {{{"Content-Type", 12}, {"application/json", 16}},
                                              {{"Accept", 6}, {"application/json", 16}}};

struct run {
    struct httpc *client;
    struct httpc_req req;
    uv_idle_t idle;
    long left, under_way, window, failed, done;
};

static void on_idle(uv_idle_t *h);

static void on_answer(void *arg, const struct httpc_res *res)
{
    struct run *r = arg;

    r->failed += res->err != 0 || res->status != 200;
    r->done++;
    r->under_way--;
    if (r->left > 0)
        uv_idle_start(&r->idle, on_idle);
    else if (r->under_way == 0)
        httpc_stop(&r->client);
}

/* As origins_dispatch does it: in a turn of its own, as many as the window has room for, at most 64. */
static void on_idle(uv_idle_t *h)
{
    struct run *r = h->data;

    for (int i = 0; i < 64 && r->left > 0 && r->under_way < r->window; i++) {
        r->left--;
        r->under_way++;
        httpc_send(r->client, &r->req, on_answer, r);
    }
    if (r->left == 0 || r->under_way >= r->window)
        uv_idle_stop(h);
}

static double seconds(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    struct run r = {.window = argc > 3 ? strtol(argv[3], NULL, 10) : 512};
    struct httpc_options options = {
        .calls_max = 4096, .host_connections_max = 256, .connections_max = 2048, .alike = true};
    uv_loop_t loop;
    struct err e;
    double begun, cpu;

    if (argc < 3 || (r.left = strtol(argv[2], NULL, 10)) <= 0 || r.window <= 0) {
        fputs("usage: bench_requests URL COUNT [WINDOW]\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    if (uv_loop_init(&loop) != 0 || httpc_start(&r.client, &loop, &options, &e) < 0)
        return 2;
    r.req = (struct httpc_req){.method = "POST",
                               .url = str_of(argv[1]),
                               .headers = headers,
                               .headers_count = sizeof headers / sizeof *headers,
                               .body = str_n(body, sizeof body - 1),
                               .timeout_ms = 60000,
                               .response_bytes_max = 65536};
    uv_idle_init(&loop, &r.idle);
    r.idle.data = &r;
    begun = seconds(CLOCK_MONOTONIC);
    cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    uv_idle_start(&r.idle, on_idle);
    uv_run(&loop, UV_RUN_DEFAULT);
    begun = seconds(CLOCK_MONOTONIC) - begun;
    cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("%ld requests, %ld failed, %.0f a second, %.1f us of CPU each\n", r.done, r.failed,
           (double)r.done / begun, cpu * 1e6 / (double)r.done);
    uv_close((uv_handle_t *)&r.idle, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    return r.failed > 0;
}
