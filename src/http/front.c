/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * A front: one thread's transport, connections and timers, and the requests that need no hub (health,
 * OPTIONS, metrics, unknown paths and methods).
 *
 * With threads, a request crosses to the hub as mail embedded in itself and comes back inside a struct reply;
 * without, the same functions are called directly. The delicate part is a client that leaves at the moment
 * when the answer is on its way back: the front then has posted "gone" with a node inside the request, so it
 * may not free the request before the hub has sent that node back, whatever else has arrived (front_release,
 * MAIL_GONE_ACK).
 */
#include "http_int.h"
#include "chappe/clock.h"
#include "chappe/log.h"
#include "chappe/metrics.h"
#include <stdlib.h>

/* ---- transport events ---- */

static void on_events(void *arg)
{
    struct front *f = arg;
    f->now_ms = clock_mono_ms();
}

static void on_accept(void *arg, uint64_t id, void *user, int tag, const struct sockaddr_storage *peer)
{
    (void)id;
    conn_accepted(arg, user, tag, peer);
}

static void on_recv(void *arg, void *user, struct str bytes)
{
    (void)arg;
    conn_recv(user, bytes);
}

static void on_eof(void *arg, void *user, int err)
{
    (void)arg;
    conn_eof(user, err);
}

static void on_sent(void *arg, void *user, int status)
{
    (void)arg;
    conn_sent(user, status);
}

enum { FULL_SAID_MS = 10000, TIMEOUTS_AT_ONCE = 64 };

void front_refused_connection(struct front *f, enum close_reason why, const char *text)
{
    metric_add_l(M_http_refused, close_reasons[why].id, 1);
    f->full_since_said++;
    int64_t now = clock_mono_ms();
    if (f->full_said_ms != 0 && now - f->full_said_ms < FULL_SAID_MS)
        return;
    log_warning("chappe.http", "%lld connections refused: %s (%s); %lld of %lld are open",
                (long long)f->full_since_said, close_reasons[why].text, text,
                (long long)atomic_load(&f->h->connections), (long long)f->h->connections_max);
    f->full_said_ms = now;
    f->full_since_said = 0;
}

static void on_accept_failed(void *arg, int system_errno)
{
    front_refused_connection(arg, CLOSE_descriptors, strerror(system_errno));
}

/* ---- timers ---- */

static void fire(void *arg, struct wheel_timer *t)
{
    (void)arg;
    conn_timeout(container_of(t, struct conn, timer));
}

static void on_timer(uv_timer_t *h);

static void timer_start(struct front *f, int64_t now)
{
    int64_t ms = wheel_next_ms(&f->wheel, now);
    f->timer_due_ms = ms < 0 ? -1 : now + ms;
    if (ms >= 0)
        ASSERT(uv_timer_start(f->timer, on_timer, (uint64_t)ms + 1, 0) == 0);
}

static void on_timer(uv_timer_t *h)
{
    struct front *f = h->data;
    f->timer_due_ms = INT64_MAX; /* no restarts from inside */
    int64_t now = f->now_ms = clock_mono_ms();
    /* Hundreds of stalled readers may be due at once, and to end each is work: others have their turn
     * between.
     */
    (void)wheel_advance(&f->wheel, now, TIMEOUTS_AT_ONCE, fire, f);
    timer_start(f, now);
}

void front_timer_set(struct front *f, struct wheel_timer *t, int64_t due_ms)
{
    wheel_set(&f->wheel, t, due_ms);
    if (f->timer_due_ms == -1 || (f->timer_due_ms != INT64_MAX && due_ms + WHEEL_TICK_MS < f->timer_due_ms)) {
        uv_update_time(f->loop);
        timer_start(f, clock_mono_ms());
    }
}

/* ---- requests ---- */

void front_release(struct front *f, struct req *r)
{
    if (r->gone_posted && !r->gone_acked) {
        r->release_pending = true;
        return;
    }
    if (r->handed) {
        httpd_add(f->h, &f->h->in_flight, -1);
        httpd_add(f->h, f->h->in_flight_gauge, -1);
    }
    httpd_add(f->h, &f->h->request_bytes, -(int64_t)r->memory);
    req_free(&r);
}

void front_gone(struct front *f, struct req *r)
{
    if (!f->h->threaded) {
        httpd_gone(f->h, r);
    } else if (!r->gone_posted) {
        struct gone *gone = xcalloc(1, sizeof *gone);
        gone->req = r;
        gone->mail.kind = MAIL_GONE;
        r->gone_posted = true;
        mailbox_post(f->h->mail, &gone->mail);
    }
}

void front_gone_acked(struct front *f, struct gone *gone)
{
    struct req *r = gone->req;
    free(gone);
    r->gone_acked = true;
    if (r->release_pending)
        front_release(f, r);
}

void front_reply(struct front *f, struct req *r, struct http_res *res, bool drop)
{
    struct conn *c = r->conn;
    f->now_ms = clock_mono_ms();
    if (!c) { /* closed meanwhile */
        r->status = drop ? 0 : (uint16_t)res->status;
        req_replied(r, f->now_ms, 0);
        access_log(f, r, true);
        if (!drop)
            rope_fini(&res->body);
        front_release(f, r);
        return;
    }
    ASSERT(c->req == r && c->state == CONN_HANDED);
    if (!drop) {
        conn_respond(c, r, res);
        return;
    }
    access_log(f, r, true);
    c->req = NULL;
    r->conn = NULL;
    conn_close(c, CLOSE_dropped);
    front_release(f, r);
}

static void answer_text(struct conn *c, int status, const char *type, struct str text)
{
    struct http_res res;
    http_res_init(&res, status);
    res.content_type = type;
    rope_put(&res.body, text);
    conn_respond(c, c->req, &res);
}

static void answer_metrics(struct conn *c)
{
    struct buf b;
    buf_init(&b, (size_t)16 << 20);
    metrics_write(&b);
    answer_text(c, 200, "text/plain; version=0.0.4; charset=utf-8", buf_str(&b));
    buf_fini(&b);
}

/* Paths that every front serves by itself. False if this is none. */
static bool answer_own(struct front *f, struct conn *c, enum http_method m, int *status)
{
    const struct config_listener *l = f->h->listeners[c->listener].cfg;
    struct str path = http_path(&c->req->pub);
    bool metrics = (l->metrics || l->metrics_resource) &&
                   (str_eq(path, STR("/_synapse/metrics")) || str_eq(path, STR("/metrics")));
    bool ready = l->metrics && str_eq(path, STR("/ready"));
    bool live = l->metrics && str_eq(path, STR("/live"));
    if (!metrics && !ready && !live && !str_eq(path, STR("/health")))
        return false;
    if (m != HTTP_M_GET) {
        *status = 405;
        return false;
    }
    if (metrics) {
        answer_metrics(c);
        return true;
    }
    bool up = atomic_load(&f->h->healthy) && !atomic_load(&f->h->draining);
    bool ok = live || (up && (!ready || atomic_load(&f->h->ready)));
    answer_text(c, ok ? 200 : 503, "text/plain", ok ? STR("OK") : STR("Unavailable"));
    return true;
}

void front_request(struct front *f, struct conn *c)
{
    struct req *r = c->req;
    const struct config_listener *l = f->h->listeners[c->listener].cfg;
    if (r->options) {
        struct http_res res;
        http_res_init(&res, 204);
        conn_respond(c, r, &res);
        return;
    }
    enum http_method m = r->pub.method == HTTP_M_HEAD ? HTTP_M_GET : r->pub.method;
    int status = 404;
    if (answer_own(f, c, m, &status))
        return;
    if (status == 404 && l->client && !l->metrics)
        status = f->h->routes.route(m, http_path(&r->pub));
    if (status != 0) {
        struct http_res res;
        http_res_error(&res, status, "M_UNRECOGNIZED", STR("Unrecognized request"), NULL);
        conn_respond(c, r, &res);
        return;
    }
    conn_hand_over(c);
    r->handed = true;
    httpd_add(f->h, &f->h->in_flight, 1);
    httpd_add(f->h, f->h->in_flight_gauge, 1);
    httpd_hand_over(f->h, r);
}

/* ---- life ---- */

void front_mail(void *arg, struct mail *m)
{
    struct front *f = arg;
    switch ((enum mail_kind)m->kind) {
    case MAIL_REPLY: {
        struct reply *reply = (struct reply *)(void *)m;
        front_reply(f, reply->req, &reply->res, reply->drop);
        free(reply);
        break;
    }
    case MAIL_GONE_ACK: {
        front_gone_acked(f, (struct gone *)(void *)m);
        break;
    }
    case MAIL_DRAIN:
        front_drain(f);
        break;
    case MAIL_STOP:
        uv_sem_wait(&f->stop_posted); /* the sender may still be about to wake a mailbox that goes now */
        front_close(f);
        break;
    case MAIL_REQUEST:
    case MAIL_GONE:
        ASSERT(!"mail for the hub");
        break;
    }
}

static void free_handle(uv_handle_t *h)
{
    free(h);
}

static void on_before_sleep(uv_prepare_t *h)
{
    (void)h;
    log_together_put();
}

int front_open(struct front *f, struct err *e)
{
    struct httpd *h = f->h;
    struct transport_options o = {
        .events = {on_accept, on_recv, on_eof, on_sent, on_accept_failed, on_events},
        .arg = f,
        .user_bytes = sizeof(struct conn),
        .waiting_bytes = &h->waiting_bytes,
        .waiting_max = h->cfg->write_bytes_max,
    };
    /* Handles that were started first come last, after all that the transport does before the loop sleeps. */
    f->before_sleep = xcalloc(1, sizeof *f->before_sleep);
    ASSERT(uv_prepare_init(f->loop, f->before_sleep) == 0);
    uv_prepare_start(f->before_sleep, on_before_sleep);
    uv_unref((uv_handle_t *)f->before_sleep);
    int rc = transport_new(&f->transport, h->kind, f->loop, &o, e);
    if (rc) {
        uv_close((uv_handle_t *)f->before_sleep, free_handle);
        f->before_sleep = NULL;
        return rc;
    }
    later_open(f);
    log_together_begin();
    f->now_ms = clock_mono_ms();
    wheel_init(&f->wheel, f->now_ms);
    f->timer = xcalloc(1, sizeof *f->timer);
    ASSERT(uv_timer_init(f->loop, f->timer) == 0);
    f->timer->data = f;
    f->timer_due_ms = -1;
    f->date_s = -1;
    front_date(f);
    buf_init(&f->head, 4096);
    for (size_t i = 0; i < h->set.fds.n; i++) {
        struct listen_fd *lf = &h->set.fds.v[i];
        if (lf->front == f->index) {
            transport_listen(f->transport, lf->fd, (int)lf->listener);
            lf->fd = -1;
        }
    }
    return 0;
}

static void drain_one(void *arg, uint64_t id, void *user)
{
    (void)arg;
    (void)id;
    conn_drain(user);
}

void front_drain(struct front *f)
{
    f->draining = true;
    for (size_t i = 0; i < f->h->listeners_count; i++) {
        if (!f->h->listeners[i].cfg->metrics)
            transport_unlisten(f->transport, (int)i);
    }
    transport_each(f->transport, drain_one, f);
}

static void close_one(void *arg, uint64_t id, void *user)
{
    struct conn *c = user;
    (void)arg;
    (void)id;
    if (c->state == CONN_HANDED) { /* its mail is still with the hub, which frees it */
        c->req->conn = NULL;
        c->req = NULL;
    }
    conn_close(c, CLOSE_stopped);
}

/* Everything of the front goes; its loop has closing callbacks to run. */
void front_close(struct front *f)
{
    if (f->transport) {
        f->now_ms = clock_mono_ms();
        transport_each(f->transport, close_one, f);
        transport_free(&f->transport);
        later_close(f);
        uv_close((uv_handle_t *)f->timer, free_handle);
        uv_close((uv_handle_t *)f->before_sleep, free_handle);
        f->timer = NULL;
        f->before_sleep = NULL;
        log_together_end();
    }
    buf_fini(&f->head);
    texts_fini(&f->texts);
    mailbox_free(&f->mail);
}
