/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * libcurl's multi interface on the hub's loop.
 *
 * curl says which sockets to watch and when to be called (socket and timer callbacks); uv_poll_t and one
 * uv_timer_t do it, and curl works inside curl_multi_socket_action only. A transfer is a struct call, always
 * in one list: active (curl has it) or ended (its callback is due). Callbacks run after curl has returned, so
 * that they may send and stop, and never from inside httpc_send: what fails there goes to `ended`, which an
 * idle handle empties.
 *
 * The peers are the operator's own servers, named in his configuration, yet nothing they send is trusted:
 * bodies and headers are bounded, there is one deadline over the whole transfer, no redirect is followed,
 * nothing is decompressed, and no other protocol than http and https is spoken. Proxies of the environment
 * are ignored: replication traffic carries a secret and goes to a neighbour. Copies of headers and bodies are
 * overwritten before they are freed.
 *
 * A handle costs a fifth of a request to make, fill and free. A client whose requests are alike (`alike`,
 * push gateways) keeps handles that have ended, with the options that do not differ from one request to the
 * next: the text of those options is the handle's shape, and one of another shape is never used.
 *
 * A client for addresses that strangers name (push gateways) gets a policy: it is asked with the very address
 * that curl is about to connect to, so a name that resolves differently a moment later gains nothing.
 */
#include "chappe/httpc.h"

#include "chappe/clock.h"
#include "chappe/log.h"
#include "chappe/metrics.h"

#include <curl/curl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <uv.h>

enum {
    CALLS_MAX = 10000,
    HOST_CONNECTIONS_MAX = 32,
    TOTAL_CONNECTIONS_MAX = 256,
    IDLE_CONNECTIONS_MAX = 32,
    STREAMS_MAX = 1000, /* on one HTTP/2 connection, if the peer allows as many */
    KEPT_MAX = 512,     /* handles */
    KEPT_BYTES = 4096,  /* of an answer's buffer */
    SHAPE_BYTES_MAX = 4096,
    RESPONSE_HEADER_BYTES_MAX = 64 * 1024,
    RESPONSE_BYTES_DEFAULT = 1024 * 1024,
    CONNECT_TIMEOUT_DEFAULT_MS = 2000,
    TIMEOUT_DEFAULT_MS = 10000,
    RETRY_AFTER_MAX_S = 86400,
    UNACKNOWLEDGED_MAX_MS = 30000, /* a connection whose peer says nothing to this is no more */
    KEEPALIVE_IDLE_S = 30,
    KEEPALIVE_INTERVAL_S = 10,
    KEEPALIVE_PROBES = 3,
    LOG_INTERVAL_MS = 5000
};

struct call {
    struct call *prev, *next;
    struct httpc *client;
    CURL *easy;       /* NULL when it failed before curl saw it */
    struct buf shape; /* what its options are for; empty: it is not to be kept */
    struct curl_slist *headers;
    char *body;
    struct buf response;
    char server[96]; /* the Server header, cut; empty: none */
    size_t header_bytes;
    struct curl_slist *resolve;
    int64_t retry_after_ms;
    bool headers_too_large, proxied, forbidden;
    int err, status; /* once ended */
    httpc_done_fn *done;
    void *arg;
};
struct call_list {
    struct call head; /* sentinel of a ring */
};

struct httpc {
    uv_loop_t *loop;
    CURLM *multi;
    uv_timer_t timer;
    uv_idle_t idle; /* active while ended is not empty and nobody is emptying it */
    int handles;
    size_t calls;
    struct call_list active, ended, kept;
    size_t kept_n;
    int64_t logged_ms;
    size_t calls_max;
    const struct ip_policy *policy;
    char *user_agent;
    struct buf shape; /* of the request that is being made */
    bool delivering, stopping, quiet, alike;
};

/* One watched socket; lives until its handle is closed. */
struct watch {
    uv_poll_t poll;
    struct httpc *client;
    curl_socket_t fd;
};

static void list_init(struct call_list *l)
{
    l->head.prev = l->head.next = &l->head;
}

/* The analyzer does not see that whatever is freed has left its ring before. */
static struct call *list_first(struct call_list *l)
{
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
    return l->head.next == &l->head ? NULL : l->head.next;
}

static void list_remove(struct call *x)
{
    x->prev->next = x->next;
    x->next->prev = x->prev;
}

static void list_append(struct call_list *l, struct call *x)
{
    x->prev = l->head.prev;
    x->next = &l->head;
    x->prev->next = x->next->prev = x;
}

/* ---- the end of a transfer ---- */

static void call_free(struct call *x)
{
    if (x->easy)
        curl_easy_cleanup(x->easy);
    if (x->shape.p)
        explicit_bzero(x->shape.p, x->shape.n);
    buf_fini(&x->shape);
    for (struct curl_slist *h = x->headers; h; h = h->next)
        explicit_bzero(h->data, strlen(h->data));
    curl_slist_free_all(x->headers);
    curl_slist_free_all(x->resolve);
    secret_free(&x->body);
    if (x->response.p)
        explicit_bzero(x->response.p, x->response.n);
    buf_fini(&x->response);
    free(x);
}

/* A transfer that has ended leaves its handle for the next one of the same shape. */
static bool call_keep(struct call *x)
{
    struct httpc *c = x->client;

    if (c->stopping || x->shape.n == 0 || !x->easy)
        return false;
    if (c->kept_n == KEPT_MAX) {
        struct call *oldest = list_first(&c->kept);
        list_remove(oldest);
        call_free(oldest);
        c->kept_n--;
    }
    if (x->body) /* this option makes it a POST */
        curl_easy_setopt(x->easy, CURLOPT_POSTFIELDS, NULL);
    if (x->resolve) {
        curl_easy_setopt(x->easy, CURLOPT_RESOLVE, NULL);
        curl_slist_free_all(x->resolve);
        x->resolve = NULL;
    }
    secret_free(&x->body);
    if (x->response.p)
        explicit_bzero(x->response.p, x->response.n);
    if (x->response.cap > KEPT_BYTES) {
        size_t max = x->response.max;
        buf_fini(&x->response);
        buf_init(&x->response, max);
    }
    c->kept_n++;
    list_append(&c->kept, x);
    return true;
}

/* The handle that was kept last, if it is of this shape. */
static struct call *call_again(struct httpc *c, struct str shape)
{
    struct call *x = c->kept.head.prev;

    if (x == &c->kept.head || !str_eq(buf_str(&x->shape), shape))
        return NULL;
    list_remove(x);
    c->kept_n--;
    buf_reset(&x->response);
    x->server[0] = '\0';
    x->header_bytes = 0;
    x->headers_too_large = x->forbidden = false;
    x->err = x->status = 0;
    return x;
}

static void deliver(struct call *x)
{
    struct httpc_res res = {.err = x->err, .retry_after_ms = -1};
    list_remove(x);
    x->client->calls--;
    metric_set(M_httpc_pending, (int64_t)x->client->calls);
    if (x->err == 0) {
        res.status = x->status;
        res.retry_after_ms = x->retry_after_ms;
        res.body = str_n(x->response.p ? x->response.p : "", x->response.n);
        if (x->server[0])
            res.server = str_of(x->server);
    }
    x->done(x->arg, &res);
    if (!call_keep(x))
        call_free(x);
}

static void deliver_all(struct httpc *c)
{
    if (c->delivering)
        return; /* a callback brought us here; the loop below goes on */
    c->delivering = true;
    for (struct call *x; (x = list_first(&c->ended));)
        deliver(x);
    c->delivering = false;
    if (!c->stopping)
        uv_idle_stop(&c->idle);
}

static void idle_cb(uv_idle_t *h)
{
    deliver_all(h->data);
}

/* Callbacks must not run inside httpc_send. */
static void end_later(struct call *x, int err)
{
    x->err = err;
    list_append(&x->client->ended, x);
    if (!x->client->stopping)
        uv_idle_start(&x->client->idle, idle_cb);
}

static int err_of(const struct call *x, CURLcode code)
{
    if (x->response.failed || x->headers_too_large)
        return -ERR_LIMIT;
    if (x->forbidden && code != CURLE_OK)
        return -ERR_UNSUPPORTED;
    switch (code) {
    case CURLE_OK:
        return 0;
    case CURLE_FILESIZE_EXCEEDED:
        return -ERR_LIMIT;
    case CURLE_OPERATION_TIMEDOUT:
        return -ERR_TIMEOUT;
    case CURLE_URL_MALFORMAT:
        return -ERR_PARSE;
    case CURLE_OUT_OF_MEMORY:
        return -ERR_NOMEM;
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
        return -ERR_CLOSED;
    case CURLE_UNSUPPORTED_PROTOCOL: /* also for an answer that is no HTTP */
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
        return -ERR_PROTOCOL;
    default:
        return -ERR_IO;
    }
}

static void log_failure(struct call *x, CURLcode code)
{
    int64_t now = clock_mono_ms();
    metric_add_l(M_httpc_failures, err_text(x->err), 1);
    if (x->client->quiet)
        return;
    if (x->client->logged_ms && now - x->client->logged_ms < LOG_INTERVAL_MS)
        return;
    x->client->logged_ms = now;
    char *url = NULL, *host = NULL, *port = NULL;
    CURLU *parts = curl_url();
    curl_easy_getinfo(x->easy, CURLINFO_EFFECTIVE_URL, &url);
    /* The host only: paths and queries hold identifiers. */
    if (parts && url && curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK) {
        curl_url_get(parts, CURLUPART_HOST, &host, 0);
        curl_url_get(parts, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT);
    }
    log_warning("chappe.httpc", "request to %s:%s failed: %s (%s)", host ? host : "?", port ? port : "?",
                err_text(x->err), curl_easy_strerror(code));
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(parts);
}

/* What curl has finished with. */
static void collect(struct httpc *c)
{
    int left;
    for (CURLMsg *m; (m = curl_multi_info_read(c->multi, &left));) {
        if (m->msg != CURLMSG_DONE)
            continue;
        struct call *x = NULL;
        CURLcode code = m->data.result;
        long status = 0;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&x);
        curl_easy_getinfo(m->easy_handle, CURLINFO_RESPONSE_CODE, &status);
        curl_multi_remove_handle(c->multi, x->easy); /* m is invalid from here on */
        x->err = err_of(x, code);
        x->status = (int)status;
        if (x->err < 0)
            log_failure(x, code);
        list_remove(x);
        list_append(&c->ended, x);
    }
    deliver_all(c);
}

/* ---- curl's wishes ---- */

static void act(struct httpc *c, curl_socket_t fd, int events)
{
    int running;
    curl_multi_socket_action(c->multi, fd, events, &running);
    collect(c);
}

static void poll_cb(uv_poll_t *h, int status, int events)
{
    struct watch *w = h->data;
    int mask = status < 0 ? CURL_CSELECT_ERR : 0;
    if (events & UV_READABLE)
        mask |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        mask |= CURL_CSELECT_OUT;
    act(w->client, w->fd, mask);
}

static void timer_cb(uv_timer_t *t)
{
    act(t->data, CURL_SOCKET_TIMEOUT, 0);
}

static void watch_closed(uv_handle_t *h)
{
    free(h->data);
}

static int socket_cb(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    struct httpc *c = arg;
    struct watch *w = socket_arg;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w) {
            uv_poll_stop(&w->poll);
            uv_close((uv_handle_t *)&w->poll, watch_closed);
            curl_multi_assign(c->multi, fd, NULL);
        }
        return 0;
    }
    if (!w) {
        w = xcalloc(1, sizeof *w);
        if (uv_poll_init(c->loop, &w->poll, fd) != 0) {
            free(w);
            return -1;
        }
        w->poll.data = w;
        w->client = c;
        w->fd = fd;
        curl_multi_assign(c->multi, fd, w);
    }
    int events = (what != CURL_POLL_OUT ? UV_READABLE : 0) | (what != CURL_POLL_IN ? UV_WRITABLE : 0);
    return uv_poll_start(&w->poll, events, poll_cb) == 0 ? 0 : -1;
}

static int timeout_cb(CURLM *multi, long ms, void *arg)
{
    struct httpc *c = arg;
    (void)multi;
    if (c->stopping)
        return 0;
    if (ms < 0)
        uv_timer_stop(&c->timer);
    else
        uv_timer_start(&c->timer, timer_cb, (uint64_t)ms, 0);
    return 0;
}

static size_t body_cb(char *p, size_t one, size_t n, void *arg)
{
    struct call *x = arg;
    buf_put(&x->response, str_n(p, one * n));
    return x->response.failed ? 0 : one * n;
}

/* RFC 9110 10.2.3: seconds, or a date. */
static int64_t retry_after(struct str value)
{
    char text[64];
    int64_t seconds;
    if (str_to_i64(value, &seconds) != 0) {
        if (value.n == 0 || value.n >= sizeof text)
            return -1;
        memcpy(text, value.p, value.n);
        text[value.n] = 0;
        time_t when = curl_getdate(text, NULL);
        if (when < 0)
            return -1;
        seconds = (int64_t)when - clock_wall_ms() / 1000;
    }
    return (seconds < 0 ? 0 : seconds > RETRY_AFTER_MAX_S ? RETRY_AFTER_MAX_S : seconds) * 1000;
}

static size_t header_cb(char *p, size_t one, size_t n, void *arg)
{
    struct call *x = arg;
    struct str line = str_n(p, one * n), name, value;
    x->header_bytes += line.n;
    if (x->header_bytes <= RESPONSE_HEADER_BYTES_MAX) {
        if (str_cut(line, ':', &name, &value) && name.n == 6 && strncasecmp(name.p, "server", 6) == 0) {
            value = str_trim(value);
            snprintf(x->server, sizeof x->server, "%.*s", STR_ARG(value));
        } else if (name.n == 11 && strncasecmp(name.p, "retry-after", 11) == 0) {
            x->retry_after_ms = retry_after(str_trim(value));
        }
        return one * n;
    }
    x->headers_too_large = true;
    return 0;
}

/* ---- sending ---- */

static bool has_control(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] < ' ' || s.p[i] == 0x7f)
            return true;
    return false;
}

/* Adds "name: value". */
static void header_add(struct call *x, struct str name, struct str value)
{
    struct buf line;
    buf_init(&line, name.n + value.n + 8);
    buf_put(&line, name);
    buf_put(&line, value.n > 0 ? STR(": ") : STR(";")); /* the latter is curl's way to say "present, empty" */
    buf_put(&line, value);
    buf_putc(&line, '\0');
    ASSERT(!line.failed);
    struct curl_slist *all = curl_slist_append(x->headers, line.p);
    ASSERT(all);
    x->headers = all;
    explicit_bzero(line.p, line.n);
    buf_fini(&line);
}

static bool has_body(const struct httpc_req *req)
{
    return !str_absent(req->body) || strcmp(req->method, "POST") == 0;
}

static void set_body(struct call *x, const struct httpc_req *req)
{
    x->body = xstrndup(str_absent(req->body) ? STR("") : req->body);
    curl_easy_setopt(x->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)req->body.n);
    curl_easy_setopt(x->easy, CURLOPT_POSTFIELDS, x->body);
}

static void set_method(struct call *x, const struct httpc_req *req)
{
    if (has_body(req)) {
        set_body(x, req);
        curl_easy_setopt(x->easy, CURLOPT_POST, 1L);
    } else if (strcmp(req->method, "HEAD") == 0) {
        curl_easy_setopt(x->easy, CURLOPT_NOBODY, 1L);
    } else {
        curl_easy_setopt(x->easy, CURLOPT_HTTPGET, 1L);
    }
    if (strcmp(req->method, "GET") != 0 || x->body)
        curl_easy_setopt(x->easy, CURLOPT_CUSTOMREQUEST, req->method);
}

static void set_limits(struct call *x, const struct httpc_req *req)
{
    long connect_ms = req->connect_timeout_ms > 0 ? req->connect_timeout_ms : CONNECT_TIMEOUT_DEFAULT_MS;
    long all_ms = req->timeout_ms > 0 ? req->timeout_ms : TIMEOUT_DEFAULT_MS;
    size_t bytes_max = req->response_bytes_max ? req->response_bytes_max : RESPONSE_BYTES_DEFAULT;
    buf_init(&x->response, bytes_max);
    curl_easy_setopt(x->easy, CURLOPT_CONNECTTIMEOUT_MS, connect_ms);
    curl_easy_setopt(x->easy, CURLOPT_TIMEOUT_MS, all_ms);
    curl_easy_setopt(x->easy, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)bytes_max);
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(x->easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(x->easy, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    curl_easy_setopt(x->easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(x->easy, CURLOPT_PROXY, ""); /* an empty name: none, whatever the environment says */
    curl_easy_setopt(x->easy, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(x->easy, CURLOPT_HTTP09_ALLOWED, 0L);
    curl_easy_setopt(x->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(x->easy, CURLOPT_NOPROGRESS, 1L);
}

/* A peer whose machine died, or a firewall that forgot us, says nothing: without this the connection, and
 * with HTTP/2 every later request to that peer, would hang on it until TCP gives up, after a quarter of an
 * hour. */
static void notice_silence(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = {{IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKNOWLEDGED_MAX_MS},
                   {SOL_SOCKET, SO_KEEPALIVE, 1},
                   {IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S},
                   {IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S},
                   {IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES}};

    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof options[i].value);
}

/* The address is final here: what is permitted is what is connected to. */
static curl_socket_t open_cb(void *arg, curlsocktype purpose, struct curl_sockaddr *to)
{
    struct call *x = arg;
    const struct ip_policy *policy = x->client->policy;
    if (policy && !x->proxied && purpose == CURLSOCKTYPE_IPCXN && to->family != AF_UNIX &&
        !ip_policy_allows_sockaddr(policy, &to->addr)) {
        x->forbidden = true;
        return CURL_SOCKET_BAD;
    }
    int fd = socket(to->family, to->socktype | SOCK_CLOEXEC, to->protocol);
    if (fd >= 0 && to->family != AF_UNIX)
        notice_silence(fd);
    return fd;
}

/* OpenSSL's own variables, which libcurl does not look at: a private authority that Synapse's pushers are
 * made to trust with them (Twisted's platformTrust) is trusted here too. */
static void set_trust(struct call *x)
{
    const char *file = getenv("SSL_CERT_FILE"), *dir = getenv("SSL_CERT_DIR");

    if (file && file[0])
        curl_easy_setopt(x->easy, CURLOPT_CAINFO, file);
    if (dir && dir[0])
        curl_easy_setopt(x->easy, CURLOPT_CAPATH, dir);
}

static void set_route(struct call *x, const struct httpc_req *req)
{
    curl_easy_setopt(x->easy, CURLOPT_OPENSOCKETFUNCTION, open_cb);
    curl_easy_setopt(x->easy, CURLOPT_OPENSOCKETDATA, x);
    x->proxied = !str_absent(req->proxy);
    if (x->proxied) {
        char *proxy = xstrndup(req->proxy);
        curl_easy_setopt(x->easy, CURLOPT_PROXY, proxy);
        curl_easy_setopt(x->easy, CURLOPT_NOPROXY, "");
        free(proxy);
    }
}

static void set_address(struct call *x, const struct httpc_req *req)
{
    if (str_absent(req->resolve))
        return;
    char *line = xstrndup(req->resolve);
    x->resolve = curl_slist_append(NULL, line);
    free(line);
    ASSERT(x->resolve);
    curl_easy_setopt(x->easy, CURLOPT_RESOLVE, x->resolve);
}

static CURLcode set_url(struct call *x, struct str url)
{
    char *text = xstrndup(url);
    CURLcode code = curl_easy_setopt(x->easy, CURLOPT_URL, text);
    free(text);
    return code;
}

static int check(const struct httpc_req *req)
{
    if (req->url.n == 0 || has_control(req->url) || has_control(req->unix_path) ||
        (!str_absent(req->unix_path) && req->unix_path.n == 0))
        return -ERR_PARSE;
    if (has_control(str_of(req->method)))
        return -ERR_PARSE;
    if (has_control(req->proxy) || has_control(req->resolve))
        return -ERR_PARSE;
    for (size_t i = 0; i < req->headers_count; i++)
        if (req->headers[i].name.n == 0 || has_control(req->headers[i].name) ||
            has_control(req->headers[i].value)) /* it would end the line */
            return -ERR_PARSE;
    return 0;
}

/* What all a handle's options say but URL, address and body; without bytes that could end one of the parts.
 */
static void shape_put(struct buf *b, const struct httpc_req *req)
{
    buf_printf(b, "%s %d %d %zu %d %d\n", req->method, req->connect_timeout_ms, req->timeout_ms,
               req->response_bytes_max, req->http2_prior_knowledge, has_body(req));
    buf_put(b, req->unix_path);
    buf_putc(b, '\n');
    buf_put(b, req->proxy);
    for (size_t i = 0; i < req->headers_count; i++) {
        buf_putc(b, '\n');
        buf_put(b, req->headers[i].name);
        buf_putc(b, ':');
        buf_put(b, req->headers[i].value);
    }
}

static int call_prepare(struct call *x, const struct httpc_req *req)
{
    header_add(x, STR("User-Agent"), str_of(x->client->user_agent));
    for (size_t i = 0; i < req->headers_count; i++)
        header_add(x, req->headers[i].name, req->headers[i].value);
    /* No "Expect: 100-continue" before larger bodies: it costs a round trip and some servers ignore it. */
    struct curl_slist *all = curl_slist_append(x->headers, "Expect:");
    x->easy = curl_easy_init();
    ASSERT(all && x->easy);
    x->headers = all;
    set_limits(x, req);
    set_method(x, req);
    set_route(x, req);
    set_address(x, req);
    set_trust(x);
    CURLcode code = set_url(x, req->url);
    if (!str_absent(req->unix_path)) {
        char *path = xstrndup(req->unix_path);
        curl_easy_setopt(x->easy, CURLOPT_UNIX_SOCKET_PATH, path);
        free(path);
    }
    curl_easy_setopt(x->easy, CURLOPT_HTTPHEADER, x->headers);
    curl_easy_setopt(x->easy, CURLOPT_HTTP_VERSION,
                     req->http2_prior_knowledge ? (long)CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE
                                                : (long)CURL_HTTP_VERSION_2TLS);
    /* Wait for a connection that others are opening: it may turn out to be able to carry this one too. */
    curl_easy_setopt(x->easy, CURLOPT_PIPEWAIT, 1L);
    curl_easy_setopt(x->easy, CURLOPT_WRITEFUNCTION, body_cb);
    curl_easy_setopt(x->easy, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(x->easy, CURLOPT_HEADERFUNCTION, header_cb);
    curl_easy_setopt(x->easy, CURLOPT_HEADERDATA, x);
    curl_easy_setopt(x->easy, CURLOPT_PRIVATE, x);
    return code == CURLE_OK ? 0 : -ERR_NOMEM;
}

/* A handle of the same shape, or a new one; *err when the request cannot be made. */
static struct call *call_make(struct httpc *c, const struct httpc_req *req, int *err)
{
    struct call *x;

    if (*err == 0)
        *err = check(req);
    if (c->alike && *err == 0) {
        buf_reset(&c->shape);
        shape_put(&c->shape, req);
        x = c->shape.failed ? NULL : call_again(c, buf_str(&c->shape));
        if (x) {
            if (has_body(req))
                set_body(x, req);
            set_address(x, req);
            *err = set_url(x, req->url) == CURLE_OK ? 0 : -ERR_NOMEM;
            return x;
        }
    }
    x = xcalloc(1, sizeof *x);
    x->client = c;
    buf_init(&x->shape, SHAPE_BYTES_MAX);
    if (*err == 0)
        *err = call_prepare(x, req);
    if (*err == 0 && c->alike && !c->shape.failed)
        buf_put(&x->shape, buf_str(&c->shape));
    return x;
}

void httpc_send(struct httpc *c, const struct httpc_req *req, httpc_done_fn *done, void *arg)
{
    bool full = c->calls >= c->calls_max;
    int err = c->stopping ? -ERR_SHUTDOWN : full ? -ERR_LIMIT : 0;
    struct call *x = call_make(c, req, &err);
    x->done = done;
    x->arg = arg;
    x->retry_after_ms = -1;
    c->calls++;
    metric_add(M_httpc_requests, 1);
    metric_set(M_httpc_pending, (int64_t)c->calls);
    if (err == 0 && curl_multi_add_handle(c->multi, x->easy) != CURLM_OK)
        err = -ERR_IO;
    if (err < 0) {
        metric_add_l(M_httpc_failures, err_text(err), 1);
        end_later(x, err);
        return;
    }
    list_append(&c->active, x);
}

/* ---- life ---- */

static CURLcode global_result;

static void global_init(void)
{
    global_result = curl_global_init(CURL_GLOBAL_DEFAULT);
}

int httpc_start(struct httpc **out, struct uv_loop_s *loop, const struct httpc_options *options,
                struct err *e)
{
    static const struct httpc_options usual = {.calls_max = CALLS_MAX,
                                               .host_connections_max = HOST_CONNECTIONS_MAX,
                                               .connections_max = TOTAL_CONNECTIONS_MAX};
    const struct httpc_options *o = options ? options : &usual;
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, global_init);
    CURLM *multi = global_result == CURLE_OK ? curl_multi_init() : NULL;
    if (!multi)
        return err_set(e, ERR_UNSUPPORTED, "libcurl does not initialise: %s",
                       curl_easy_strerror(global_result));
    struct httpc *c = xcalloc(1, sizeof *c);
    c->loop = loop;
    c->multi = multi;
    c->handles = 2;
    c->calls_max = o->calls_max;
    c->policy = o->policy;
    c->quiet = o->quiet;
    c->alike = o->alike;
    buf_init(&c->shape, SHAPE_BYTES_MAX);
    c->user_agent = xstrndup(o->user_agent.n ? o->user_agent : STR("chappe/" CHAPPE_VERSION));
    list_init(&c->active);
    list_init(&c->ended);
    list_init(&c->kept);
    uv_timer_init(loop, &c->timer);
    uv_idle_init(loop, &c->idle);
    c->timer.data = c->idle.data = c;
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, socket_cb);
    curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, c);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, timeout_cb);
    curl_multi_setopt(multi, CURLMOPT_TIMERDATA, c);
    curl_multi_setopt(multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)o->host_connections_max);
    curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)o->connections_max);
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS,
                      o->connections_max > IDLE_CONNECTIONS_MAX ? (long)o->connections_max
                                                                : (long)IDLE_CONNECTIONS_MAX);
    curl_multi_setopt(multi, CURLMOPT_MAX_CONCURRENT_STREAMS, (long)STREAMS_MAX);
    *out = c;
    return 0;
}

static void handle_closed(uv_handle_t *h)
{
    struct httpc *c = h->data;
    if (--c->handles > 0)
        return;
    free(c->user_agent);
    free(c);
}

void httpc_stop(struct httpc **cp)
{
    struct httpc *c = *cp;
    if (!c || c->stopping)
        return;
    c->stopping = true;
    for (struct call *x; (x = list_first(&c->active));) {
        curl_multi_remove_handle(c->multi, x->easy);
        list_remove(x);
        list_append(&c->ended, x);
    }
    for (struct call *x; (x = list_first(&c->ended));) {
        x->err = -ERR_SHUTDOWN;
        deliver(x);
    }
    for (struct call *x; (x = list_first(&c->kept));) {
        list_remove(x);
        call_free(x);
    }
    if (c->shape.p)
        explicit_bzero(c->shape.p, c->shape.n);
    buf_fini(&c->shape);
    curl_multi_cleanup(c->multi);
    c->multi = NULL;
    uv_timer_stop(&c->timer);
    uv_close((uv_handle_t *)&c->timer, handle_closed);
    uv_close((uv_handle_t *)&c->idle, handle_closed);
    *cp = NULL;
}
