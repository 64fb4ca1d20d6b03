/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * A push gateway that costs little, for bench/push: it takes POST /_matrix/push/v1/notify, remembers when
 * which pushkey was told of which event, and rejects nobody. One thread, epoll.
 *
 *   bench_gateway --port P                            HTTP/1.1 with keep-alive, or HTTP/2 begun by the client
 *   bench_gateway --port P --cert FILE --key FILE     TLS; HTTP/2 when the client offers it (ALPN), else
 * HTTP/1.1
 *   … --no-http2                                      HTTP/1.1 alone
 *   … --delay MS                                      each answer so much later
 *
 * Orders come on stdin, answers go to stdout:
 *
 *   count   number of requests so far
 *   dump    a line "time pushkey event" for each, in the order of arrival (nanoseconds of CLOCK_MONOTONIC;
 * "-" for a count without an event), then "end" reset   forgets them; answers "ok" stats   connections
 * accepted so far, those that were HTTP/2, and the most requests that waited for their answer at once
 *
 * and the end of stdin ends it. The time of a request is that of its last byte read. It is no general server:
 * what it cannot read makes it end the connection, and the harness finds the notification missing.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READ_BYTES = 65536, REQUEST_MAX = 1 << 20, STREAMS_MAX = 1000, WINDOW = 16 << 20, EVENTS = 256 };
static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
static const char verdict[] = "{\"rejected\":[]}";
static const char answer[] =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"rejected\":[]}";

struct bytes {
    char *p;
    size_t n, cap;
};

struct conn {
    int fd;
    SSL *ssl;
    nghttp2_session *h2;
    struct bytes in, out;
    bool begun;   /* it is known which HTTP this is */
    bool ended;   /* freed when nothing waits for it */
    size_t waits; /* answers that are due later */
    bool writing; /* waits until it can write */
};

struct record {
    uint64_t ns;
    char *text; /* "pushkey event" */
};

/* An answer that is not due yet; they all wait equally long, so the first is the next. */
struct later {
    uint64_t ns;
    struct conn *conn;
    int32_t stream; /* of HTTP/2 */
};

static struct {
    int epoll, listener;
    uint64_t delay_ns;
    struct later *queue;
    size_t queue_first, queue_n, queue_cap, queue_most;
    SSL_CTX *tls;
    bool http2;
    struct record *v;
    size_t n, cap;
    uint64_t accepted, h2;
    nghttp2_session_callbacks *callbacks;
    struct bytes orders;
} gw = {.http2 = true};

_Noreturn static void die(const char *what)
{
    fprintf(stderr, "bench_gateway: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void *need(void *p)
{
    if (p == NULL)
        die("memory");
    return p;
}

static void bytes_put(struct bytes *b, const void *p, size_t n)
{
    if (b->cap - b->n < n) {
        b->cap = (b->n + n) * 2;
        b->p = need(realloc(b->p, b->cap));
    }
    memcpy(b->p + b->n, p, n);
    b->n += n;
}

static void bytes_drop(struct bytes *b, size_t n)
{
    b->n -= n;
    memmove(b->p, b->p + n, b->n);
}

static void bytes_free(struct bytes *b)
{
    free(b->p);
    *b = (struct bytes){0};
}

/* ---- what is remembered ---- */

/* The string value of a member; bodies are canonical JSON, and the sender's messages hold no such names. */
static const char *member(const char *p, size_t n, const char *name, size_t *len)
{
    const char *at = memmem(p, n, name, strlen(name));
    if (at == NULL)
        return NULL;
    at += strlen(name);
    const char *end = memchr(at, '"', (size_t)(p + n - at));
    if (end == NULL)
        return NULL;
    *len = (size_t)(end - at);
    return at;
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void take(const char *body, size_t n)
{
    size_t key_n = 0, event_n = 0;
    const char *key = member(body, n, "\"pushkey\":\"", &key_n);
    const char *event = member(body, n, "\"event_id\":\"", &event_n);
    char *text;

    if (gw.n == gw.cap) {
        gw.cap = gw.cap ? gw.cap * 2 : 4096;
        gw.v = need(realloc(gw.v, gw.cap * sizeof(*gw.v)));
    }
    if (asprintf(&text, "%.*s %.*s", key ? (int)key_n : 1, key ? key : "?", event ? (int)event_n : 1,
                 event ? event : "-") < 0)
        die("memory");
    gw.v[gw.n++] = (struct record){now_ns(), text};
}

static void forget(void)
{
    for (size_t i = 0; i < gw.n; i++)
        free(gw.v[i].text);
    gw.n = 0;
}

static void obey(const char *order)
{
    if (strcmp(order, "count") == 0) {
        printf("%zu\n", gw.n);
    } else if (strcmp(order, "reset") == 0) {
        forget();
        puts("ok");
    } else if (strcmp(order, "stats") == 0) {
        printf("%llu %llu %zu\n", (unsigned long long)gw.accepted, (unsigned long long)gw.h2, gw.queue_most);
    } else if (strcmp(order, "dump") == 0) {
        for (size_t i = 0; i < gw.n; i++)
            printf("%llu %s\n", (unsigned long long)gw.v[i].ns, gw.v[i].text);
        puts("end");
    } else {
        puts("?");
    }
    fflush(stdout);
}

static void orders_read(void)
{
    char buffer[4096], *end;
    ssize_t n = read(STDIN_FILENO, buffer, sizeof(buffer));

    if (n <= 0)
        exit(0);
    bytes_put(&gw.orders, buffer, (size_t)n);
    while ((end = memchr(gw.orders.p, '\n', gw.orders.n))) {
        *end = 0;
        obey(gw.orders.p);
        bytes_drop(&gw.orders, (size_t)(end - gw.orders.p) + 1);
    }
}

/* ---- connections ---- */

static void conn_free(struct conn *c)
{
    if (c->ended && c->waits == 0)
        free(c);
}

static void conn_end(struct conn *c)
{
    nghttp2_session_del(c->h2);
    c->h2 = NULL;
    SSL_free(c->ssl);
    close(c->fd);
    bytes_free(&c->in);
    bytes_free(&c->out);
    c->ended = true;
    conn_free(c);
}

static void answer_later(struct conn *c, int32_t stream)
{
    if (gw.queue_first + gw.queue_n == gw.queue_cap) {
        if (gw.queue_n > 0)
            memmove(gw.queue, gw.queue + gw.queue_first, gw.queue_n * sizeof(*gw.queue));
        gw.queue_first = 0;
        gw.queue_cap = gw.queue_n * 2 + 1024;
        gw.queue = need(realloc(gw.queue, gw.queue_cap * sizeof(*gw.queue)));
    }
    gw.queue[gw.queue_first + gw.queue_n++] = (struct later){now_ns() + gw.delay_ns, c, stream};
    if (gw.queue_n > gw.queue_most)
        gw.queue_most = gw.queue_n;
    c->waits++;
}

static void watch(struct conn *c, int how, bool writing)
{
    struct epoll_event e = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
    c->writing = writing;
    if (epoll_ctl(gw.epoll, how, c->fd, &e) != 0)
        die("epoll_ctl");
}

/* Bytes moved, 0: later, -1: the end. */
static ssize_t moved(const struct conn *c, ssize_t n)
{
    if (n > 0)
        return n;
    if (c->ssl == NULL)
        return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    int why = SSL_get_error(c->ssl, (int)n);
    ERR_clear_error();
    return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

static ssize_t conn_read(struct conn *c, char *p, size_t n)
{
    return moved(c, c->ssl ? SSL_read(c->ssl, p, (int)n) : recv(c->fd, p, n, 0));
}

static bool conn_flush(struct conn *c)
{
    size_t done = 0;

    if (c->h2) {
        const uint8_t *p;
        ssize_t n;
        while ((n = nghttp2_session_mem_send(c->h2, &p)) > 0)
            bytes_put(&c->out, p, (size_t)n);
        if (n < 0)
            return false;
    }
    while (done < c->out.n) {
        const char *p = c->out.p + done;
        size_t left = c->out.n - done;
        ssize_t n = moved(c, c->ssl ? SSL_write(c->ssl, p, (int)left) : send(c->fd, p, left, MSG_NOSIGNAL));
        if (n < 0)
            return false;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    if (done > 0)
        bytes_drop(&c->out, done);
    if (c->writing != (c->out.n > 0))
        watch(c, EPOLL_CTL_MOD, c->out.n > 0);
    return c->h2 == NULL || nghttp2_session_want_read(c->h2) || nghttp2_session_want_write(c->h2);
}

/* ---- HTTP/2 ---- */

static int on_begin(nghttp2_session *h2, const nghttp2_frame *frame, void *arg)
{
    (void)arg;
    struct bytes *body = need(calloc(1, sizeof(*body)));
    return nghttp2_session_set_stream_user_data(h2, frame->hd.stream_id, body);
}

static int on_data(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *p, size_t n, void *arg)
{
    struct bytes *body = nghttp2_session_get_stream_user_data(h2, id);
    (void)flags;
    (void)arg;
    if (body && body->n + n <= REQUEST_MAX)
        bytes_put(body, p, n);
    return 0;
}

static ssize_t verdict_read(nghttp2_session *h2, int32_t id, uint8_t *p, size_t n, uint32_t *flags,
                            nghttp2_data_source *source, void *arg)
{
    (void)h2;
    (void)id;
    (void)source;
    (void)arg;
    if (n < sizeof(verdict) - 1)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    memcpy(p, verdict, sizeof(verdict) - 1);
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    return sizeof(verdict) - 1;
}

static int http2_answer(nghttp2_session *h2, int32_t stream)
{
    /* With a length: libcurl before 8.1 resets every stream whose answer has none, and nghttp2 ends a
     * connection with more than a thousand resets. */
    static char status[] = ":status", ok[] = "200", type[] = "content-type", json[] = "application/json",
                length[] = "content-length", fifteen[] = "15";
    const nghttp2_nv headers[] = {{(uint8_t *)status, (uint8_t *)ok, 7, 3, NGHTTP2_NV_FLAG_NONE},
                                  {(uint8_t *)type, (uint8_t *)json, 12, 16, NGHTTP2_NV_FLAG_NONE},
                                  {(uint8_t *)length, (uint8_t *)fifteen, 14, 2, NGHTTP2_NV_FLAG_NONE}};
    const nghttp2_data_provider source = {.read_callback = verdict_read};

    return nghttp2_submit_response(h2, stream, headers, 3, &source);
}

static int on_frame(nghttp2_session *h2, const nghttp2_frame *frame, void *arg)
{
    struct bytes *body = nghttp2_session_get_stream_user_data(h2, frame->hd.stream_id);

    if (body == NULL || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM) ||
        (frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS))
        return 0;
    take(body->p ? body->p : "", body->n);
    if (gw.delay_ns == 0)
        return http2_answer(h2, frame->hd.stream_id);
    answer_later(arg, frame->hd.stream_id);
    return 0;
}

static int on_close(nghttp2_session *h2, int32_t id, uint32_t code, void *arg)
{
    struct bytes *body = nghttp2_session_get_stream_user_data(h2, id);
    (void)code;
    (void)arg;
    if (body)
        bytes_free(body);
    free(body);
    return 0;
}

static void http2_init(void)
{
    if (nghttp2_session_callbacks_new(&gw.callbacks) != 0)
        die("nghttp2");
    nghttp2_session_callbacks_set_on_begin_headers_callback(gw.callbacks, on_begin);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(gw.callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(gw.callbacks, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(gw.callbacks, on_close);
}

static void http2_begin(struct conn *c)
{
    const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, STREAMS_MAX},
                                               {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW}};
    if (nghttp2_session_server_new(&c->h2, gw.callbacks, c) != 0 ||
        nghttp2_submit_settings(c->h2, NGHTTP2_FLAG_NONE, settings, 2) != 0 ||
        nghttp2_session_set_local_window_size(c->h2, NGHTTP2_FLAG_NONE, 0, WINDOW) != 0)
        die("nghttp2");
    gw.h2++;
}

/* ---- HTTP/1.1 ---- */

/* The length of the first whole request, 0 while it is not whole; body gets where its body begins. */
static size_t request_length(const struct bytes *in, size_t from, size_t *body)
{
    const char *p = in->p + from, *end = memmem(p, in->n - from, "\r\n\r\n", 4);
    size_t length = 0;

    if (end == NULL)
        return 0;
    for (const char *line = memmem(p, (size_t)(end - p), "\r\n", 2); line && line < end;
         line = memmem(line, (size_t)(end - line), "\r\n", 2)) {
        line += 2;
        if (strncasecmp(line, "content-length:", 15) == 0)
            length = strtoul(line + 15, NULL, 10);
    }
    *body = (size_t)(end - p) + 4;
    return in->n - from - *body < length ? 0 : *body + length;
}

static bool http1_take(struct conn *c)
{
    size_t from = 0, n, body = 0;

    while ((n = request_length(&c->in, from, &body)) > 0) {
        take(c->in.p + from + body, n - body);
        if (gw.delay_ns == 0)
            bytes_put(&c->out, answer, sizeof(answer) - 1);
        else
            answer_later(c, 0);
        from += n;
    }
    if (from > 0)
        bytes_drop(&c->in, from);
    return c->in.n < REQUEST_MAX;
}

/* ---- bytes that came ---- */

/* Which HTTP it is: ALPN says so, or the client's first bytes. False: not known yet. */
static bool begin(struct conn *c)
{
    size_t n = c->in.n < sizeof(preface) - 1 ? c->in.n : sizeof(preface) - 1;

    if (gw.http2 && n > 0 && memcmp(c->in.p, preface, n) == 0) {
        if (n < sizeof(preface) - 1)
            return false;
        http2_begin(c);
    }
    c->begun = n > 0;
    return c->begun;
}

static bool conn_take(struct conn *c)
{
    if (!c->begun && !begin(c))
        return true;
    if (c->h2 == NULL)
        return http1_take(c);
    ssize_t n = nghttp2_session_mem_recv(c->h2, (const uint8_t *)c->in.p, c->in.n);
    if (n < 0)
        return false;
    c->in.n = 0;
    return true;
}

static void conn_ready(struct conn *c)
{
    static char buffer[READ_BYTES];
    ssize_t n;

    while ((n = conn_read(c, buffer, sizeof(buffer))) > 0) {
        bytes_put(&c->in, buffer, (size_t)n);
        if ((c->ssl == NULL && n < READ_BYTES) || (c->ssl && SSL_pending(c->ssl) == 0))
            break; /* level-triggered: the rest is told again */
    }
    if (n < 0 || !conn_take(c) || !conn_flush(c))
        conn_end(c);
}

/* Sends the answers whose time has come; returns the milliseconds until the next one, -1: none. */
static int answers_due(void)
{
    uint64_t now = now_ns();

    while (gw.queue_n > 0 && gw.queue[gw.queue_first].ns <= now) {
        struct later x = gw.queue[gw.queue_first++];
        struct conn *c = x.conn;

        gw.queue_n--;
        c->waits--;
        if (c->ended) {
            conn_free(c);
            continue;
        }
        if (c->h2)
            http2_answer(c->h2, x.stream); /* a stream that was reset: nothing to do */
        else
            bytes_put(&c->out, answer, sizeof(answer) - 1);
        if (!conn_flush(c))
            conn_end(c);
    }
    return gw.queue_n == 0 ? -1 : (int)((gw.queue[gw.queue_first].ns - now) / 1000000) + 1;
}

static void accept_all(void)
{
    int fd, one = 1;

    while ((fd = accept4(gw.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = need(calloc(1, sizeof(*c)));
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        if (gw.tls) {
            c->ssl = need(SSL_new(gw.tls));
            SSL_set_fd(c->ssl, fd);
            SSL_set_accept_state(c->ssl);
        }
        gw.accepted++;
        watch(c, EPOLL_CTL_ADD, false);
    }
}

/* ---- start ---- */

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_n, const unsigned char *in,
                   unsigned n, void *arg)
{
    static const unsigned char both[] = "\x02h2\x08http/1.1", old[] = "\x08http/1.1";
    unsigned char *chosen = NULL;

    (void)ssl;
    (void)arg;
    if (SSL_select_next_proto(&chosen, out_n, gw.http2 ? both : old,
                              gw.http2 ? sizeof(both) - 1 : sizeof(old) - 1, in, n) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_NOACK;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static void tls_init(const char *cert, const char *key)
{
    gw.tls = need(SSL_CTX_new(TLS_server_method()));
    SSL_CTX_set_mode(gw.tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_alpn_select_cb(gw.tls, on_alpn, NULL);
    if (SSL_CTX_use_certificate_chain_file(gw.tls, cert) != 1 ||
        SSL_CTX_use_PrivateKey_file(gw.tls, key, SSL_FILETYPE_PEM) != 1) {
        ERR_print_errors_fp(stderr);
        exit(2);
    }
}

static void listen_on(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &gw},
                       orders = {.events = EPOLLIN, .data.ptr = &gw.orders};
    int one = 1;

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    gw.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(gw.listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(gw.listener, (struct sockaddr *)&to, sizeof(to)) != 0 || listen(gw.listener, 1024) != 0)
        die("listen");
    gw.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ctl(gw.epoll, EPOLL_CTL_ADD, gw.listener, &e) != 0 ||
        epoll_ctl(gw.epoll, EPOLL_CTL_ADD, STDIN_FILENO, &orders) != 0)
        die("epoll");
}

int main(int argc, char **argv)
{
    const char *cert = NULL, *key = NULL;
    struct epoll_event events[EVENTS];
    int port = 0;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--no-http2") == 0)
            gw.http2 = false;
        else if (strcmp(argv[i], "--port") == 0 && i + 1 < argc)
            port = (int)strtol(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--cert") == 0 && i + 1 < argc)
            cert = argv[++i];
        else if (strcmp(argv[i], "--delay") == 0 && i + 1 < argc)
            gw.delay_ns = strtoul(argv[++i], NULL, 10) * 1000000;
        else if (strcmp(argv[i], "--key") == 0 && i + 1 < argc)
            key = argv[++i];
        else
            port = -1;
    }
    if (port <= 0 || (cert == NULL) != (key == NULL)) {
        fputs("usage: bench_gateway --port P [--cert FILE --key FILE] [--no-http2] [--delay MS]\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    http2_init();
    if (cert)
        tls_init(cert, key);
    listen_on(port);
    puts("listening");
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(gw.epoll, events, EVENTS, answers_due());
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &gw)
                accept_all();
            else if (events[i].data.ptr == &gw.orders)
                orders_read();
            else
                conn_ready(events[i].data.ptr);
        }
    }
}
