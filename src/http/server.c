/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The hub's side of the server: start, drain, stop, and the crossing of requests and replies.
 *
 * Without threads there is one front on the hub's loop and a crossing is a call. With threads the hub has a
 * mailbox that all fronts post requests into, and each front has one for replies. Nothing else is shared but
 * counters and counted blobs.
 *
 * Stopping, with threads: every front gets MAIL_STOP behind all replies, closes, and its thread ends with its
 * loop; what it had posted and the hub had not read is freed here afterwards.
 */
#include "http_int.h"
#include "chappe/log.h"
#include "chappe/metrics.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

/* ---- crossing ---- */

static void hub_take(struct httpd *h, struct req *r)
{
    const struct str *secret = req_take_secret(r); /* r may be gone after the call */
    h->with_handler++;
    h->routes.handler(h->routes.arg, &r->pub);
    req_forget_secret(secret);
}

void httpd_hand_over(struct httpd *h, struct req *r)
{
    if (!h->threaded) {
        hub_take(h, r);
        return;
    }
    r->mail.kind = MAIL_REQUEST;
    mailbox_post(h->mail, &r->mail);
}

void httpd_gone(struct httpd *h, struct req *r)
{
    if (r->pub.gone)
        return;
    r->pub.gone = true;
    if (h->routes.gone)
        h->routes.gone(h->routes.arg, &r->pub);
}

static void hub_gone(struct httpd *h, struct gone *gone)
{
    struct front *f = gone->req->front;
    if (!gone->req->hub_replied)
        httpd_gone(h, gone->req);
    gone->mail.kind = MAIL_GONE_ACK;
    mailbox_post(f->mail, &gone->mail);
}

static void hub_mail(void *arg, struct mail *m)
{
    struct httpd *h = arg;
    if (m->kind == MAIL_REQUEST) {
        struct req *r = container_of(m, struct req, mail);
        if (h->stopping) /* its connection is closed already */
            front_release(r->front, r);
        else
            hub_take(h, r);
    } else {
        ASSERT(m->kind == MAIL_GONE);
        struct gone *gone = (struct gone *)(void *)m;
        if (h->stopping)
            front_gone_acked(gone->req->front, gone);
        else
            hub_gone(h, gone);
    }
}

static void hub_reply(struct http_req **reqp, struct http_res *res)
{
    struct req *r = req_of(*reqp);
    struct front *f = r->front;
    *reqp = NULL;
    ASSERT(!r->hub_replied && f->h->with_handler > 0);
    r->hub_replied = true;
    f->h->with_handler--;
    if (!f->h->threaded) {
        front_reply(f, r, res, !res);
        return;
    }
    struct reply *reply = xmalloc(sizeof *reply);
    reply->mail.kind = MAIL_REPLY;
    reply->req = r;
    reply->drop = !res;
    if (res) {
        reply->res.status = res->status;
        reply->res.content_type = res->content_type;
        reply->res.close = res->close;
        reply->res.retry_after_s = res->retry_after_s;
        rope_move(&reply->res.body, &res->body);
    }
    mailbox_post(f->mail, &reply->mail);
}

void http_reply(struct http_req **req, struct http_res *res)
{
    hub_reply(req, res);
}
void http_reply_soon(const struct http_req *req)
{
    enum { SLOT = 64 }; /* the transport's part of a connection stands before the front's */
    const struct req *r = (const struct req *)(const void *)req;
    if (!r->front->h->threaded && r->conn)
        mem_soon((const void *)((uintptr_t)r->conn - SLOT), SLOT + sizeof *r->conn);
}
void http_drop(struct http_req **req)
{
    hub_reply(req, NULL);
}

void http_reply_error(struct http_req **req, int status, const char *errcode, const char *error)
{
    struct http_res res;
    http_res_error(&res, status, errcode, str_of(error), NULL);
    http_reply(req, &res);
}

/* ---- start ---- */

static void front_thread(void *arg)
{
    struct front *f = arg;
    struct httpd *h = f->h;
    int rc = front_open(f, &h->start_err);
    h->start_rc = rc;
    uv_sem_post(&h->started);
    if (rc)
        front_close(f);
    uv_run(f->loop, UV_RUN_DEFAULT);
    ASSERT(uv_loop_close(f->loop) == 0);
}

/* Threads start one after the other; the first failure ends it. *running: how many have a thread. */
static int fronts_start(struct httpd *h, size_t *running, struct err *e)
{
    if (!h->threaded) {
        h->fronts[0].loop = h->loop;
        return front_open(&h->fronts[0], e);
    }
    ASSERT(uv_sem_init(&h->started, 0) == 0);
    int rc = 0;
    for (size_t i = 0; i < h->fronts_count && rc == 0; i++) {
        struct front *f = &h->fronts[i];
        f->loop = &f->own_loop;
        ASSERT(uv_loop_init(f->loop) == 0);
        f->mail = mailbox_new(f->loop, front_mail, f);
        ASSERT(uv_sem_init(&f->stop_posted, 0) == 0);
        ASSERT(uv_thread_create(&f->thread, front_thread, f) == 0);
        (*running)++;
        uv_sem_wait(&h->started);
        rc = h->start_rc;
        if (rc && e)
            *e = h->start_err;
    }
    uv_sem_destroy(&h->started);
    return rc;
}

static void fronts_stop(struct httpd *h, size_t running, bool last_failed)
{
    for (size_t i = 0; i < running; i++) {
        struct front *f = &h->fronts[i];
        if (!(last_failed && i == running - 1)) { /* the failed one has closed itself */
            f->stop_mail.kind = MAIL_STOP;
            mailbox_post(f->mail, &f->stop_mail);
            uv_sem_post(&f->stop_posted);
        }
        uv_thread_join(&f->thread);
        uv_sem_destroy(&f->stop_posted);
    }
}

static void httpd_free(struct httpd *h)
{
    listen_close(&h->set, h->cfg);
    mailbox_free(&h->mail);
    free(h->listeners);
    free(h->fronts);
    free(h);
}

static void name_listeners(struct httpd *h, const int *ports)
{
    h->listeners_count = h->cfg->listeners_count;
    h->listeners = xcalloc(h->listeners_count, sizeof *h->listeners);
    for (size_t i = 0; i < h->listeners_count; i++) {
        struct http_listener *l = &h->listeners[i];
        l->cfg = &h->cfg->listeners[i];
        l->port = ports[i];
        if (l->cfg->tag.n)
            snprintf(l->logger, sizeof l->logger, "synapse.access.http.%.*s", STR_ARG(l->cfg->tag));
        else if (!str_absent(l->cfg->path))
            snprintf(l->logger, sizeof l->logger, "synapse.access.http.unix");
        else
            snprintf(l->logger, sizeof l->logger, "synapse.access.http.%d", l->port);
    }
}

enum { DESCRIPTORS_KEPT = 128 };

/* Clients may not take every descriptor of the process: PostgreSQL, Redis and peers want theirs back after a
 * loss, while all clients are still there. */
static int64_t connections_max(const struct config *cfg, enum transport_kind kind)
{
    struct rlimit rl;
    if (kind == TRANSPORT_URING_DIRECT || getrlimit(RLIMIT_NOFILE, &rl) != 0 || rl.rlim_cur == RLIM_INFINITY)
        return cfg->connections_max;
    int64_t all = rl.rlim_cur < INT64_MAX ? (int64_t)rl.rlim_cur : INT64_MAX;
    int64_t keep = DESCRIPTORS_KEPT + 2 * cfg->pg_connections;
    int64_t max = all - (keep < all / 2 ? keep : all / 2);
    if (max >= cfg->connections_max)
        return cfg->connections_max;
    log_warning("chappe.http",
                "connections_max is %lld, but with %lld descriptors (RLIMIT_NOFILE) it is %lld",
                (long long)cfg->connections_max, (long long)all, (long long)max);
    return max;
}

int httpd_start(struct httpd **out, struct uv_loop_s *loop, const struct config *cfg,
                const struct httpd_routes *routes, struct err *e)
{
    *out = NULL;
    (void)signal(SIGPIPE, SIG_IGN);
    struct httpd *h = xcalloc(1, sizeof *h);
    h->cfg = cfg;
    h->routes = *routes;
    h->loop = loop;
    h->threaded = cfg->front_threads > 0;
    h->fronts_count = h->threaded ? (size_t)cfg->front_threads : 1;
    h->fronts = xcalloc(h->fronts_count, sizeof *h->fronts);
    h->requests_total = metric_cell(M_http_requests, NULL);
    h->in_flight_gauge = metric_cell(M_http_in_flight, NULL);
    h->bytes_sent_total = metric_cell(M_http_bytes_sent, NULL);
    h->ok_total = metric_cell(M_http_responses, http_status_label(200));
    h->polls_waited_total = metric_cell(M_http_polls_behind, "waited");
    atomic_store(&h->healthy, true);
    atomic_store(&h->ready, true);
    for (size_t i = 0; i < h->fronts_count; i++) {
        h->fronts[i].h = h;
        h->fronts[i].index = i;
    }
    int *ports = xcalloc(cfg->listeners_count, sizeof *ports);
    int rc = transport_choose(cfg->transport, &h->kind, h->why, e);
    h->connections_max = connections_max(cfg, h->kind);
    if (rc == 0)
        rc = listen_open(&h->set, cfg, h->fronts_count, ports, e);
    name_listeners(h, ports);
    free(ports);
    if (rc) {
        httpd_free(h);
        return rc;
    }
    if (h->threaded)
        h->mail = mailbox_new(loop, hub_mail, h);
    size_t running = 0;
    rc = fronts_start(h, &running, e);
    if (rc) {
        fronts_stop(h, running, true);
        httpd_free(h);
        return rc;
    }
    snprintf(h->transport_text, sizeof h->transport_text, "%s: %s", transport_kind_name(h->kind), h->why);
    metric_set_l(M_http_transport, transport_kind_name(h->kind), 1);
    metric_set(M_http_connections_max, h->connections_max);
    log_info("chappe.http", "transport %s, %s", h->transport_text,
             h->threaded ? "fronts on threads of their own" : "front on the hub's loop");
    *out = h;
    return 0;
}

/* ---- running ---- */

const char *httpd_transport(const struct httpd *h)
{
    return h->transport_text;
}
int httpd_port(const struct httpd *h, size_t listener)
{
    return h->listeners[listener].port;
}
void httpd_ready_set(struct httpd *h, bool ok)
{
    atomic_store(&h->ready, ok);
}

void httpd_health_set(struct httpd *h, bool ok)
{
    atomic_store(&h->healthy, ok);
}

size_t httpd_in_flight(const struct httpd *h)
{
    int64_t n = atomic_load(&h->in_flight) + atomic_load(&h->polls_waiting);
    return n > 0 ? (size_t)n : 0;
}

void httpd_memory(const struct httpd *h, struct httpd_memory *m)
{
    *m = (struct httpd_memory){.requests = (size_t)atomic_load(&h->request_bytes),
                               .reading = (size_t)atomic_load(&h->read_bytes),
                               .sending = (size_t)atomic_load(&h->waiting_bytes)};
    for (size_t i = 0; i < h->fronts_count; i++) {
        const struct front *f = &h->fronts[i];
        m->connections += sizeof *f + (f->transport ? transport_memory(f->transport) : 0);
    }
}

void httpd_drain(struct httpd *h)
{
    if (atomic_exchange(&h->draining, true))
        return;
    for (size_t i = 0; i < h->fronts_count; i++) {
        struct front *f = &h->fronts[i];
        if (!h->threaded) {
            front_drain(f);
        } else {
            f->drain_mail.kind = MAIL_DRAIN;
            mailbox_post(f->mail, &f->drain_mail);
        }
    }
}

void httpd_stop(struct httpd **hp)
{
    struct httpd *h = *hp;
    *hp = NULL;
    if (!h)
        return;
    ASSERT(h->with_handler == 0);
    h->stopping = true;
    if (h->threaded) {
        fronts_stop(h, h->fronts_count, false);
        mailbox_drain(h->mail);
    } else {
        front_close(&h->fronts[0]);
    }
    metric_set_l(M_http_transport, transport_kind_name(h->kind), 0);
    httpd_free(h);
}
