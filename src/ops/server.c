/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The worker's life: wiring, start, signals, drain, stop.
 *
 * Start: schema check and positions are synchronous (nothing is served before they are known); then the loop
 * runs, the feed subscribes, and /health turns 200 when the feed is live and the start-up loads are in. Stop
 * (SIGTERM, SIGINT): no new connections, parked polls are answered with nothing new, what is being computed
 * is finished; then, or when drain_ms is over, everything is torn down in the reverse order of dependence.
 */
#include "chappe/server.h"

#include "chappe/auth.h"
#include "chappe/clock.h"
#include "chappe/httpc.h"
#include "chappe/httpd.h"
#include "chappe/log.h"
#include "chappe/metrics.h"
#include "chappe/model.h"
#include "chappe/push.h"
#include "chappe/sync.h"
#include "chappe/version.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

enum { TICK_MS = 20, SERVING_TICK_MS = 500 };
enum life { LIFE_STARTING, LIFE_SERVING, LIFE_DRAINING, LIFE_STOPPING };

struct server {
    const struct config *cfg;
    uv_loop_t loop;
    uv_signal_t sigterm, sigint, sighup;
    uv_timer_t tick;
    enum life life;
    int64_t drain_until_ms;
    bool healthy;
    struct pg *pg;
    struct httpc *httpc;
    struct feed *feed;
    struct model *model;
    struct auth *auth;
    struct sync *sync;
    struct feed_sink sink, push_sink;
    struct push *push; /* NULL unless this worker is a pusher instance */
    struct httpd *httpd;
};

/* systemd's readiness protocol; silent where there is no such manager. */
static void notify_manager(const char *text)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (!path || !*path || strlen(path) >= sizeof sa.sun_path)
        return;
    memcpy(sa.sun_path, path, strlen(path));
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (*path == '@')
        sa.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    (void)!sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&sa, len);
    close(fd);
}

/* ---- hooks between modules that do not know each other ---- */

static void on_wake(void *arg, struct user *u)
{
    struct server *s = arg;
    if (s->sync)
        sync_wake(s->sync, u);
}

static void on_wake_more(void *arg)
{
    const struct server *s = arg;
    if (s->sync)
        sync_wake_more(s->sync);
    while (!s->sync && model_wake_more(s->model))
        ;
}

/* On the thread that writes the metrics. */
static void on_memory(void *arg)
{
    const struct server *s = arg;
    struct httpd_memory h;
    httpd_memory(s->httpd, &h);
    mem_set(MEM_connections, (int64_t)(h.connections + h.reading));
    mem_set(MEM_http, (int64_t)h.requests);
}

static void on_cache_row(void *arg, struct str func, const struct str *keys, size_t n, bool all)
{
    struct server *s = arg;
    if (s->auth)
        auth_on_cache(s->auth, func, keys, n, all);
}

static void on_cache_flush(void *arg)
{
    struct server *s = arg;
    if (s->auth)
        auth_flush(s->auth);
}

static void on_feed_state(void *arg, enum feed_state st)
{
    struct server *s = arg;
    if (s->sync)
        sync_feed_state(s->sync, st);
}

/* The feed's rows go to the model, and to the push worker after it. */
static void both_rows(void *arg, enum stream st, writer_id w, int64_t token, const struct feed_row *rows,
                      size_t n)
{
    struct server *s = arg;
    s->sink.rows(s->sink.arg, st, w, token, rows, n);
    s->push_sink.rows(s->push_sink.arg, st, w, token, rows, n);
}

static void both_reset(void *arg, enum stream st, writer_id w)
{
    struct server *s = arg;
    s->sink.reset(s->sink.arg, st, w);
    s->push_sink.reset(s->push_sink.arg, st, w);
}

static void both_burst_end(void *arg)
{
    struct server *s = arg;
    s->sink.burst_end(s->sink.arg);
    s->push_sink.burst_end(s->push_sink.arg);
}

static void both_flush(void *arg, enum stream st)
{
    struct server *s = arg;
    s->sink.flush(s->sink.arg, st);
    s->push_sink.flush(s->push_sink.arg, st);
}

static void both_state(void *arg, enum feed_state st)
{
    struct server *s = arg;
    s->sink.state(s->sink.arg, st);
    s->push_sink.state(s->push_sink.arg, st);
}

/* ---- health, drain ---- */

static void update_health(struct server *s)
{
    bool ok = s->life <= LIFE_SERVING && model_ready(s->model) && feed_state(s->feed) == FEED_LIVE &&
              feed_release_known(s->feed) && (!s->push || push_ready(s->push));
    if (ok && s->life == LIFE_STARTING) {
        s->life = LIFE_SERVING;
        log_info("chappe", "serving as %.*s for %.*s, sockets by %s", STR_ARG(s->cfg->worker_name),
                 STR_ARG(s->cfg->server_name), httpd_transport(s->httpd));
        notify_manager("READY=1");
    }
    /* Once serving, a lost feed or database is shown by metrics and by /ready; polls are held, and taking the
     * worker out of the balancer would only move the held polls about. */
    httpd_ready_set(s->httpd, ok && pg_up(s->pg));
    bool show = s->life == LIFE_SERVING;
    if (show != s->healthy) {
        s->healthy = show;
        httpd_health_set(s->httpd, show);
    }
}

static void on_tick(uv_timer_t *t)
{
    struct server *s = t->data;
    update_health(s);
    if (s->life == LIFE_SERVING && uv_timer_get_repeat(t) != SERVING_TICK_MS) {
        uv_timer_stop(t); /* nothing to watch closely any more */
        uv_timer_start(t, on_tick, SERVING_TICK_MS, SERVING_TICK_MS);
    }
    if (s->life != LIFE_DRAINING)
        return;
    bool done =
        sync_in_flight(s->sync) == 0 && httpd_in_flight(s->httpd) == 0 && (!s->push || push_idle(s->push));
    if (done || clock_mono_ms() >= s->drain_until_ms) {
        if (!done)
            log_warning("chappe", "drain bound reached: %zu requests are cut off", sync_in_flight(s->sync));
        s->life = LIFE_STOPPING;
        uv_stop(&s->loop);
    }
}

static void on_stop_signal(uv_signal_t *h, int signum)
{
    struct server *s = h->data;
    if (s->life >= LIFE_DRAINING) { /* a second one: at once */
        s->life = LIFE_STOPPING;
        uv_stop(&s->loop);
        return;
    }
    log_info("chappe", "signal %d: draining", signum);
    notify_manager("STOPPING=1");
    s->life = LIFE_DRAINING;
    s->drain_until_ms = clock_mono_ms() + s->cfg->drain_ms;
    update_health(s);
    uv_timer_start(&s->tick, on_tick, TICK_MS, TICK_MS);
    httpd_drain(s->httpd);
    sync_drain(s->sync);
    if (s->push)
        push_drain(s->push);
}

static void on_sighup(uv_signal_t *h, int signum)
{
    (void)h;
    (void)signum;
    log_info("chappe", "SIGHUP: logs go to standard error, there is nothing to reopen");
}

/* ---- start and stop ---- */

static void raise_descriptors(void)
{
    struct rlimit rl;
    if (!getrlimit(RLIMIT_NOFILE, &rl) && rl.rlim_cur < rl.rlim_max) {
        rl.rlim_cur = rl.rlim_max;
        setrlimit(RLIMIT_NOFILE, &rl);
    }
}

static int write_pid_file(const struct config *cfg, struct err *e)
{
    if (str_absent(cfg->worker_pid_file) || cfg->worker_pid_file.n == 0)
        return 0;
    char *path = xstrndup(cfg->worker_pid_file);
    FILE *f = fopen(path, "we");
    int err = f ? 0 : err_set(e, ERR_IO, "cannot write worker_pid_file %s: %s", path, strerror(errno));
    if (f) {
        fprintf(f, "%ld\n", (long)getpid());
        fclose(f);
    }
    free(path);
    return err;
}

/* Which Synapse this is; *known: it said so itself. */
static int find_release(struct server *s, bool *known, struct err *e)
{
    struct pg_schema schema;
    int err = pg_schema_check(s->cfg, &schema, e);
    if (err)
        return err;
    struct release r = feed_release_learn(&s->loop, s->cfg, s->httpc), oldest = release_oldest();
    *known = r.major > 0;
    if (!*known)
        r = schema.least;
    if (release_judge(r) == RELEASE_TOO_OLD)
        return err_set(e, ERR_UNSUPPORTED, "this is Synapse %d.%d.%d; %d.%d is the oldest that is supported",
                       r.major, r.minor, r.patch, oldest.major, oldest.minor);
    if (release_judge(r) == RELEASE_NEWER)
        log_warning("chappe", "this is Synapse %d.%d.%d, newer than the newest known, %d.%d", r.major,
                    r.minor, r.patch, release_newest().major, release_newest().minor);
    release_set(r);
    token_arity_set(release_token_fields());
    log_info("chappe",
             "chappe %s: Synapse %d.%d.%d%s, schema version %d (compat %d), stream tokens have %d fields",
             CHAPPE_VERSION, r.major, r.minor, r.patch, *known ? "" : " at least, going by its tables",
             schema.version, schema.compat, token_arity());
    return 0;
}

static int server_start(struct server *s, struct err *e)
{
    const struct config *cfg = s->cfg;
    bool known;
    int err = httpc_start(&s->httpc, &s->loop, NULL, e);
    if (err || (err = find_release(s, &known, e)))
        return err;
    struct model_hooks hooks = {s, on_wake, on_wake_more, on_cache_row, on_cache_flush, on_feed_state};
    if ((err = pg_start(&s->pg, &s->loop, cfg, e)) ||
        (err = model_start(&s->model, &s->loop, cfg, s->pg, &hooks, e)))
        return err;
    struct feed_sink both = {s, both_rows, both_reset, both_burst_end, both_flush, both_state};
    s->sink = model_sink(s->model);
    if (push_wanted(cfg)) {
        if ((err = push_start(&s->push, &s->loop, cfg, s->pg, e)))
            return err;
        s->push_sink = push_sink(s->push);
    }
    if ((err = feed_start(&s->feed, &s->loop, cfg, s->pg, s->httpc, known, s->push ? &both : &s->sink, e)))
        return err;
    model_adopt(s->model, s->feed);
    if (s->push)
        push_adopt(s->push, s->feed);
    if ((err = auth_start(&s->auth, &s->loop, cfg, s->pg, s->httpc, s->feed, e)) ||
        (err = sync_start(&s->sync, &s->loop, cfg, s->pg, s->feed, s->model, s->auth, e)))
        return err;
    struct httpd_routes routes = {sync_route, sync_handle, sync_gone, s->sync, sync_answering};
    if ((err = httpd_start(&s->httpd, &s->loop, cfg, &routes, e)))
        return err;
    mem_source_set(on_memory, s);
    httpd_health_set(s->httpd, false);
    return write_pid_file(cfg, e);
}

static void close_handle(uv_handle_t *h, void *arg)
{
    (void)arg;
    if (!uv_is_closing(h))
        uv_close(h, NULL);
}

static void server_stop(struct server *s)
{
    /* Requests first, while everything they hold on to is there; then the feed says goodbye (presence), while
     * its connections are up; then what is still under way for tokens and the database ends. */
    if (s->push)
        push_halt(s->push);
    if (s->sync)
        sync_stop(&s->sync);
    if (s->feed)
        feed_stop(&s->feed);
    if (s->auth)
        auth_stop(&s->auth);
    if (s->httpc)
        httpc_stop(&s->httpc);
    if (s->pg)
        pg_stop(&s->pg);
    if (s->push)
        push_stop(&s->push);
    if (s->model)
        model_stop(&s->model);
    if (s->httpd)
        httpd_stop(&s->httpd);
    mem_source_set(NULL, NULL);
}

int server_run(const struct config *cfg)
{
    signal(SIGPIPE, SIG_IGN);
    raise_descriptors();
    metrics_server_name(cfg->server_name);
    struct server s = {.cfg = cfg};
    struct err e = {{0}};
    uv_loop_init(&s.loop);
    int err = server_start(&s, &e);
    if (err) {
        log_error("chappe", "cannot start: %s", e.text[0] ? e.text : err_text(err));
    } else {
        uv_timer_init(&s.loop, &s.tick);
        s.tick.data = &s;
        uv_timer_start(&s.tick, on_tick, TICK_MS, TICK_MS);
        uv_signal_t *stops[] = {&s.sigterm, &s.sigint};
        for (int i = 0; i < 2; i++) {
            uv_signal_init(&s.loop, stops[i]);
            stops[i]->data = &s;
            uv_signal_start(stops[i], on_stop_signal, i ? SIGINT : SIGTERM);
        }
        uv_signal_init(&s.loop, &s.sighup);
        uv_signal_start(&s.sighup, on_sighup, SIGHUP);
        uv_run(&s.loop, UV_RUN_DEFAULT);
        uv_timer_stop(&s.tick); /* due again while we tear down what it looks at */
        log_info("chappe", "stopping");
    }
    server_stop(&s);
    uv_run(&s.loop, UV_RUN_NOWAIT);
    uv_walk(&s.loop, close_handle, NULL);
    for (int i = 0; i < 10 && uv_run(&s.loop, UV_RUN_NOWAIT); i++)
        ;
    if (uv_loop_close(&s.loop))
        log_debug("chappe", "handles were left open at exit");
    return err ? 1 : 0;
}
