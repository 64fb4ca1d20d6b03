/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The life of one connection.
 *
 *     IDLE ──► HEAD ──► BODY ──► HANDED ──► WRITING ──► IDLE …            CLOSED from everywhere
 *       └───────┴─────────┴────────┴───►──────┘ └──► CLOSING ──► CLOSED
 *
 * Requests of one connection are answered one at a time. What a client sends before its answer is read ahead
 * up to AHEAD_BYTES, then the socket is left alone. A head that arrives whole is parsed where the kernel put
 * it; only a partial one is collected. struct conn_in exists while such bytes are held, so an idle or parked
 * connection costs its slot.
 *
 * conn_set_state() is the only writer of the state and sets the timer that belongs to it. conn_close() is the
 * only way out and wants a reason. Both may run deep inside a handler's reply; callers look at the state
 * again afterwards.
 *
 * End of input while a request is with the hub means that the client left (gone), but the socket is kept
 * until the answer comes: a client that closed only its own direction still gets it.
 */
#include "http_int.h"
#include "chappe/log.h"
#include "chappe/metrics.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>

enum { AHEAD_BYTES = 16384, LINGER_MS = 1000 };

static void in_account(struct conn *c);

static struct conn_in *in_need(struct conn *c)
{
    if (!c->in) {
        c->in = xcalloc(1, sizeof *c->in);
        buf_init(&c->in->buf, SIZE_MAX / 2);
        buf_init(&c->in->body_buf, SIZE_MAX / 2);
    }
    return c->in;
}

static void in_free(struct conn *c)
{
    if (!c->in)
        return;
    buf_fini(&c->in->buf);
    buf_fini(&c->in->body_buf);
    c->in->buf.n = c->in->body_buf.n = 0;
    in_account(c);
    free(c->in);
    c->in = NULL;
}

/* Keeps the server-wide sum of held request bytes right. */
static void in_account(struct conn *c)
{
    size_t now = c->in->buf.n + c->in->body_buf.n;
    if (now != c->in->accounted)
        atomic_fetch_add(&c->f->h->read_bytes, (int64_t)now - (int64_t)c->in->accounted);
    c->in->accounted = now;
}

static bool in_over_limit(const struct conn *c)
{
    return atomic_load_explicit(&c->f->h->read_bytes, memory_order_relaxed) > c->f->h->cfg->read_bytes_max;
}

/* ---- state ---- */

static void conn_set_state(struct conn *c, enum conn_state to)
{
    static const uint16_t legal[CONN_STATE_COUNT] = {
        [CONN_NONE] = 1u << CONN_IDLE | 1u << CONN_CLOSED,
        [CONN_IDLE] =
            1u << CONN_HEAD | 1u << CONN_BODY | 1u << CONN_HANDED | 1u << CONN_WRITING | 1u << CONN_CLOSED,
        [CONN_HEAD] = 1u << CONN_BODY | 1u << CONN_HANDED | 1u << CONN_WRITING | 1u << CONN_CLOSED,
        [CONN_BODY] = 1u << CONN_HANDED | 1u << CONN_WRITING | 1u << CONN_CLOSED,
        [CONN_HANDED] = 1u << CONN_WRITING | 1u << CONN_CLOSED,
        [CONN_WRITING] = 1u << CONN_IDLE | 1u << CONN_CLOSING | 1u << CONN_CLOSED,
        [CONN_CLOSING] = 1u << CONN_CLOSED,
    };
    ASSERT(legal[c->state] >> to & 1);
    c->state = to;
    const struct config *cfg = c->f->h->cfg;
    int64_t ms = 0;
    switch (to) {
    case CONN_IDLE:
        ms = cfg->idle_timeout_ms;
        break;
    case CONN_HEAD:
        ms = cfg->header_timeout_ms;
        break;
    case CONN_BODY:
        ms = cfg->body_timeout_ms;
        break;
    case CONN_WRITING:
        ms = cfg->write_timeout_ms;
        c->sent_mark = (uint32_t)transport_sent_bytes(c->f->transport, conn_id(c));
        break;
    case CONN_CLOSING:
        ms = LINGER_MS;
        break;
    case CONN_HANDED:
        wheel_let_go(&c->timer);
        return;
    case CONN_NONE:
    case CONN_CLOSED:
    case CONN_STATE_COUNT:
        wheel_cancel(&c->f->wheel, &c->timer);
        return;
    }
    front_timer_set(c->f, &c->timer, c->f->now_ms + ms);
}

void conn_close(struct conn *c, enum close_reason why)
{
    if (c->state == CONN_CLOSED)
        return;
    struct front *f = c->f;
    enum conn_state was = (enum conn_state)c->state;
    conn_set_state(c, CONN_CLOSED);
    in_free(c);
    metric_add_l(M_http_closed, close_reasons[why].id, 1);
    if (close_reasons[why].refused && close_reasons[why].status == 0 && why != CLOSE_connections_max)
        metric_add_l(M_http_refused, close_reasons[why].id, 1);
    if (c->counted) {
        atomic_fetch_sub(&f->h->connections, 1);
        metric_add(M_http_connections, -1);
    }
    transport_close(f->transport, conn_id(c), why == CLOSE_write_timeout || why == CLOSE_write_bytes_max);
    struct req *r = c->req;
    c->req = NULL;
    if (!r)
        return;
    r->conn = NULL;
    if (was == CONN_HANDED) {
        front_gone(f, r);
    } else {
        if (was == CONN_WRITING)
            access_log(f, r, true);
        front_release(f, r);
    }
}

/* The response is out: either the next request, or the end. */
static void conn_finish(struct conn *c)
{
    if (!c->close_after && !c->f->draining && !c->eof) {
        conn_set_state(c, CONN_IDLE);
        return;
    }
    if (c->eof && !c->close_after && c->in && c->in->buf.n > 0) {
        conn_set_state(c, CONN_IDLE); /* half-closed, with requests read ahead */
        return;
    }
    enum close_reason why = c->after         ? (enum close_reason)c->after
                            : c->eof         ? CLOSE_client_closed
                            : c->close_after ? CLOSE_finished
                                             : CLOSE_draining;
    bool unread = c->linger || c->paused || (c->in && c->in->buf.n > 0);
    if (!unread || c->eof) {
        conn_close(c, why);
        return;
    }
    /* Closing with unread input resets the connection, and the reset may overtake the response. */
    c->after = (uint8_t)why;
    in_free(c);
    conn_set_state(c, CONN_CLOSING);
    transport_shutdown(c->f->transport, conn_id(c));
    if (c->paused) {
        c->paused = false;
        transport_recv_resume(c->f->transport, conn_id(c));
    }
}

void conn_hand_over(struct conn *c)
{
    conn_set_state(c, CONN_HANDED);
}

/* Sends res as the connection's next response; r is NULL when no request could be read. Moves res out. */
void conn_respond(struct conn *c, struct req *r, struct http_res *res)
{
    struct front *f = c->f;
    bool head_only = r && r->pub.method == HTTP_M_HEAD;
    c->close_after = res->close || !r || r->close || f->draining;
    struct str head = response_head(f, res, c->close_after);
    if (head_only)
        rope_fini(&res->body);
    if (res->status == 200)
        httpd_add(f->h, f->h->ok_total, 1);
    else
        metric_add_l(M_http_responses, http_status_label(res->status), 1);
    httpd_add(f->h, f->h->bytes_sent_total, (int64_t)(head.n + res->body.bytes));
    if (r) {
        r->status = (uint16_t)res->status;
        req_replied(r, f->now_ms, res->body.bytes);
    }
    conn_set_state(c, CONN_WRITING);
    transport_send_after(f->transport, conn_id(c), head, &res->body);
    if (r)
        req_fetch(r);
}

/* Ends the connection because of what the client sent, with the response that the reason's row tells. */
static void conn_refuse(struct conn *c, enum close_reason why)
{
    const struct close_reason_row *row = &close_reasons[why];
    log_debug("chappe.http", "request refused: %s", row->text);
    if (row->status == 0) {
        conn_close(c, why);
        return;
    }
    metric_add_l(M_http_refused, row->id, 1);
    if (c->req) {
        c->req->conn = NULL;
        front_release(c->f, c->req);
        c->req = NULL;
    }
    in_free(c);
    struct http_res res;
    if (why == CLOSE_body_too_large) {
        char text[80];
        snprintf(text, sizeof text, "Request content is too large (>%lld)",
                 (long long)c->f->h->cfg->body_bytes_max);
        http_res_error(&res, row->status, row->errcode, str_of(text), NULL);
    } else if (row->errcode) {
        http_res_error(&res, row->status, row->errcode, str_of(row->text), NULL);
    } else {
        http_res_init(&res, row->status);
    }
    c->linger = true;
    c->after = (uint8_t)why;
    res.close = true;
    conn_respond(c, NULL, &res);
}

/* ---- accept ---- */

static void keep_address(struct conn *c, const struct sockaddr_storage *peer)
{
    if (peer && peer->ss_family == AF_INET) {
        c->family = 4;
        memcpy(c->ip, &((const struct sockaddr_in *)peer)->sin_addr, 4);
    } else if (peer && peer->ss_family == AF_INET6) {
        const struct in6_addr *a = &((const struct sockaddr_in6 *)peer)->sin6_addr;
        bool mapped = IN6_IS_ADDR_V4MAPPED(a);
        c->family = mapped ? 4 : 6;
        memcpy(c->ip, mapped ? a->s6_addr + 12 : a->s6_addr, mapped ? 4 : 16);
    }
}

void conn_accepted(struct front *f, struct conn *c, int tag, const struct sockaddr_storage *peer)
{
    c->f = f;
    c->listener = (uint16_t)tag;
    keep_address(c, peer);
    if (atomic_fetch_add(&f->h->connections, 1) >= f->h->connections_max) {
        atomic_fetch_sub(&f->h->connections, 1);
        front_refused_connection(f, CLOSE_connections_max,
                                 f->h->connections_max < f->h->cfg->connections_max
                                     ? "RLIMIT_NOFILE allows no more"
                                     : "the option connections_max allows no more");
        conn_close(c, CLOSE_connections_max);
        return;
    }
    c->counted = true;
    metric_add(M_http_connections, 1);
    conn_set_state(c, CONN_IDLE);
}

/* ---- requests ---- */

static struct str ipv4_text(const uint8_t ip[4], char *out)
{
    char *p = out;
    for (int i = 0; i < 4; i++) {
        if (i > 0)
            *p++ = '.';
        if (ip[i] >= 100)
            *p++ = (char)('0' + ip[i] / 100);
        if (ip[i] >= 10)
            *p++ = (char)('0' + ip[i] / 10 % 10);
        *p++ = (char)('0' + ip[i] % 10);
    }
    return str_n(out, (size_t)(p - out));
}

/* Exactly what inet_pton takes: no zeros before a number. */
static bool is_ipv4(struct str s)
{
    unsigned dots = 0, value = 0, digits = 0;
    for (size_t i = 0; i < s.n; i++) {
        unsigned digit = (unsigned char)s.p[i] - '0';
        if (s.p[i] == '.' && digits > 0 && dots < 3) {
            dots++;
            value = digits = 0;
        } else if (digit <= 9 && (digits == 0 || value > 0) && (value = value * 10 + digit) <= 255) {
            digits++;
        } else {
            return false;
        }
    }
    return dots == 3 && digits > 0;
}

static struct str client_ip(const struct conn *c, const struct http_listener *l, struct str forwarded,
                            char out[46])
{
    unsigned char raw[16];
    if (l->cfg->x_forwarded && !str_absent(forwarded)) {
        struct str first, rest;
        str_cut(forwarded, ',', &first, &rest);
        first = str_trim(first);
        if (is_ipv4(first))
            return first;
        if (first.n > 0 && first.n < 46) {
            memcpy(out, first.p, first.n);
            out[first.n] = 0;
            if (inet_pton(AF_INET6, out, raw) == 1)
                return first;
        }
    }
    if (c->family == 4)
        return ipv4_text(c->ip, out);
    if (c->family == 0 || !inet_ntop(AF_INET6, c->ip, out, 46))
        return STR("");
    return str_of(out);
}

/* The body is in: answer or hand over. */
static void request_complete(struct conn *c)
{
    struct req *r = c->req;
    if (c->in) {
        struct buf *b = &c->in->body_buf;
        if (b->n > 0) {
            struct str *body = xmalloc(sizeof *body);
            *body = str_n(b->p, b->n);
            r->pub.body = body;
            b->p = NULL;
            b->n = b->cap = 0;
        }
        in_account(c);
        if (c->in->buf.n == 0)
            in_free(c);
    }
    httpd_add(c->f->h, c->f->h->requests_total, 1);
    front_request(c->f, c);
}

static bool is_multipart(const struct http_head *h)
{
    return h->method == HTTP_M_POST && h->content_type.n >= 19 &&
           strncasecmp(h->content_type.p, "multipart/form-data", 19) == 0;
}

/* Its slices are copied here. more: something follows it already. */
static void request_head(struct conn *c, const struct http_head *head, bool more)
{
    struct httpd *h = c->f->h;
    const struct http_listener *l = &h->listeners[c->listener];
    if (head->content_length > h->cfg->body_bytes_max || is_multipart(head)) {
        conn_refuse(c, is_multipart(head) ? CLOSE_multipart : CLOSE_body_too_large);
        return;
    }
    char ip[46];
    struct http_body body;
    http_body_init(&body, head);
    /* The handler is called from here, unless there is more to wait for, or another thread to go to; then the
     * head's bytes are gone, and those that were collected go with their buffer. */
    bool borrow = !h->threaded && body.state == BODY_DONE && (!c->in || c->in->buf.n == 0);
    struct req *r = req_new(head, client_ip(c, l, head->forwarded_for, ip),
                            (uint64_t)httpd_add(h, &h->requests, 1), &c->f->texts, borrow);
    r->front = c->f;
    r->conn = c;
    httpd_add(h, &h->request_bytes, r->memory);
    r->listener = c->listener;
    r->pub.received_ms = (uint32_t)c->f->received_ms;
    c->req = r;
    if (c->in) { /* the head was collected there; what follows it is still with the caller */
        buf_reset(&c->in->buf);
        c->in->scan = (struct http_head_scan){0};
        in_account(c);
    }
    if (body.state == BODY_DONE) {
        request_complete(c);
        return;
    }
    in_need(c)->body = body;
    conn_set_state(c, CONN_BODY);
    if (head->expect_continue && !more) {
        struct rope interim;
        rope_init(&interim);
        rope_put(&interim, STR("HTTP/1.1 100 Continue\r\n\r\n"));
        c->interims++;
        transport_send(c->f->transport, conn_id(c), &interim);
    }
}

static void feed_head(struct conn *c, struct str *in)
{
    size_t max = (size_t)c->f->h->cfg->header_bytes_max;
    size_t end = 0, had = 0;
    enum close_reason why = CLOSE_bad_header;
    struct http_head_scan fresh = {0};
    struct http_head_scan *scan = &fresh;
    struct str bytes = *in, request_id_header = c->f->h->listeners[c->listener].cfg->request_id_header;
    struct http_head head;
    if ((!c->in || c->in->buf.n == 0) && http_head_quick(bytes, max, request_id_header, &head, &end)) {
        *in = str_n(in->p + end, in->n - end);
        request_head(c, &head, in->n > 0);
        return;
    }
    if (c->in && c->in->buf.n > 0) {
        had = c->in->buf.n;
        scan = &c->in->scan;
        buf_put(&c->in->buf, str_n(in->p, in->n < max - had ? in->n : max - had));
        bytes = buf_str(&c->in->buf);
    }
    int rc = http_head_scan(scan, bytes, max, &end, &why);
    if (rc < 0) {
        conn_refuse(c, why);
        return;
    }
    if (rc == 1) {
        *in = str_n(in->p + (end - had), in->n - (end - had));
        if (http_head_parse(str_n(bytes.p, end), request_id_header, c->f->h->cfg->server_name, &head, &why) !=
            0)
            conn_refuse(c, why);
        else
            request_head(c, &head, in->n > 0);
        return;
    }
    if (had == 0) {
        buf_put(&in_need(c)->buf, *in);
        c->in->scan = fresh;
    }
    in_account(c);
    *in = str_n(in->p + in->n, 0);
    if (in_over_limit(c))
        conn_refuse(c, CLOSE_read_bytes_max);
    else if (c->state == CONN_IDLE)
        conn_set_state(c, CONN_HEAD);
}

static void feed_body(struct conn *c, struct str *in)
{
    enum close_reason why = CLOSE_bad_chunk;
    struct str data;
    int rc = http_body_feed(&c->in->body, in, &data, &why);
    if (rc < 0) {
        conn_refuse(c, why);
        return;
    }
    if (c->in->body.total > (uint64_t)c->f->h->cfg->body_bytes_max) {
        conn_refuse(c, CLOSE_body_too_large);
        return;
    }
    buf_put(&c->in->body_buf, data);
    in_account(c);
    if (in_over_limit(c))
        conn_refuse(c, CLOSE_read_bytes_max);
    else if (rc == 1)
        request_complete(c);
}

static void read_ahead(struct conn *c, struct str in)
{
    buf_put(&in_need(c)->buf, in);
    in_account(c);
    if (in_over_limit(c)) {
        metric_add_l(M_http_refused, close_reasons[CLOSE_read_bytes_max].id, 1);
        conn_close(c, CLOSE_read_bytes_max);
    } else if (c->in->buf.n >= AHEAD_BYTES && !c->paused) {
        c->paused = true;
        transport_recv_pause(c->f->transport, conn_id(c));
    }
}

static void conn_feed(struct conn *c, struct str in)
{
    while (in.n > 0) {
        switch ((enum conn_state)c->state) {
        case CONN_IDLE:
        case CONN_HEAD:
            feed_head(c, &in);
            break;
        case CONN_BODY:
            feed_body(c, &in);
            break;
        case CONN_HANDED:
        case CONN_WRITING:
            if (c->state == CONN_WRITING && c->close_after)
                c->linger = true; /* nobody will read it */
            else
                read_ahead(c, in);
            return;
        case CONN_NONE:
        case CONN_CLOSING:
        case CONN_CLOSED:
        case CONN_STATE_COUNT:
            return;
        }
    }
}

/* ---- events ---- */

void conn_recv(struct conn *c, struct str bytes)
{
    c->f->received_ms = c->f->now_ms;
    if (c->later)
        read_ahead(c, bytes);
    else if (c->state == CONN_IDLE && !c->in && later_put(c->f, c, bytes))
        c->later = true;
    else
        conn_feed(c, bytes);
}

void conn_eof(struct conn *c, int err)
{
    c->eof = true;
    if (err) {
        conn_close(c, CLOSE_client_reset);
        return;
    }
    switch ((enum conn_state)c->state) {
    case CONN_HANDED:
        front_gone(c->f, c->req);
        break;
    case CONN_WRITING:
        break; /* it may still read; conn_finish() closes */
    case CONN_CLOSING:
        conn_close(c, (enum close_reason)c->after);
        break;
    case CONN_IDLE:
        if (c->later)
            break; /* it may still read */
        conn_close(c, CLOSE_client_closed);
        break;
    case CONN_NONE:
    case CONN_HEAD:
    case CONN_BODY:
    case CONN_CLOSED:
    case CONN_STATE_COUNT:
        conn_close(c, CLOSE_client_closed);
        break;
    }
}

/* What came first, and what was read ahead after it, has its turn. */
static void conn_continue(struct conn *c, struct str first)
{
    struct buf ahead = {0};
    if (c->in) {
        ahead = c->in->buf;
        buf_init(&c->in->buf, ahead.max);
        c->in->scan = (struct http_head_scan){0};
        in_account(c);
    }
    conn_feed(c, first);
    conn_feed(c, buf_str(&ahead));
    buf_fini(&ahead);
    if (c->paused && c->state != CONN_CLOSED && (!c->in || c->in->buf.n < AHEAD_BYTES)) {
        c->paused = false;
        transport_recv_resume(c->f->transport, conn_id(c));
    }
    if (!c->eof)
        return;
    if (c->state == CONN_IDLE || c->state == CONN_HEAD || c->state == CONN_BODY)
        conn_close(c, CLOSE_client_closed);
    else if (c->state == CONN_HANDED)
        front_gone(c->f, c->req);
}

void conn_recv_later(struct conn *c, struct str bytes, int64_t received_ms)
{
    c->later = false;
    c->f->received_ms = received_ms;
    conn_continue(c, bytes);
}

void conn_sent(struct conn *c, int status)
{
    if (status != 0) {
        conn_close(c, status == -ERR_LIMIT ? CLOSE_write_bytes_max : CLOSE_client_reset);
        return;
    }
    if (c->interims > 0) {
        c->interims--;
        return;
    }
    ASSERT(c->state == CONN_WRITING);
    struct req *r = c->req;
    c->req = NULL;
    if (r) {
        r->conn = NULL;
        if (!later_line(c->f, r)) {
            access_log(c->f, r, false);
            front_release(c->f, r);
        }
    }
    conn_finish(c);
    if (c->state == CONN_IDLE && c->in && c->in->buf.n > 0) {
        c->f->received_ms = c->f->now_ms;
        conn_continue(c, STR(""));
    }
}

void conn_timeout(struct conn *c)
{
    switch ((enum conn_state)c->state) {
    case CONN_IDLE:
        if (c->later) /* it is not idle: we are busy */
            front_timer_set(c->f, &c->timer, c->f->now_ms + c->f->h->cfg->idle_timeout_ms);
        else
            conn_close(c, CLOSE_idle_timeout);
        break;
    case CONN_HEAD:
        conn_refuse(c, CLOSE_head_timeout);
        break;
    case CONN_BODY:
        conn_refuse(c, CLOSE_body_timeout);
        break;
    case CONN_WRITING: {
        uint32_t sent = (uint32_t)transport_sent_bytes(c->f->transport, conn_id(c));
        if (sent == c->sent_mark) {
            conn_close(c, CLOSE_write_timeout);
            break;
        }
        c->sent_mark = sent;
        front_timer_set(c->f, &c->timer, c->f->now_ms + c->f->h->cfg->write_timeout_ms);
        break;
    }
    case CONN_CLOSING:
        conn_close(c, (enum close_reason)c->after);
        break;
    case CONN_NONE:
    case CONN_HANDED:
    case CONN_CLOSED:
    case CONN_STATE_COUNT:
        break;
    }
}

void conn_drain(struct conn *c)
{
    if (c->state == CONN_IDLE && !c->later)
        conn_close(c, CLOSE_draining);
}
