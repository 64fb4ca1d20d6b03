/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * One connection to Redis that keeps itself alive: TCP, UNIX socket or TLS, AUTH, SELECT, PING, and again
 * after a jittered pause whenever it breaks. hiredis formats commands and parses replies; the socket and TLS
 * (OpenSSL over memory buffers) are ours, because the hiredis of stable distributions has no TLS and no hook
 * for foreign sockets.
 *
 *   WAITING ──► RESOLVING ──► CONNECTING ──► (TLS) ──► LOGIN ──► READY
 *      ▲            │              │           │         │         │
 *      └────────────┴──────────────┴───────────┴─────────┴─────────┘  link_drop(): any failure, timer =
 * back-off
 *
 * struct redis_conn lives as long as its owner wants it; struct redis_link is one attempt (socket, reader,
 * buffers) and is freed by libuv's close callback only, so callbacks may drop the link they are called from.
 * One timer serves all: pause, time limit of the log-in, and PING. A PING that was not answered when the next
 * is due ends the link.
 */
#include "feed_int.h"

#include "chappe/clock.h"
#include "chappe/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { OUT_BYTES_MAX = 16 << 20, REPLY_BYTES_MAX = 64 << 20, READ_CHUNK = 64 << 10, READ_CHUNKS_MAX = 16 };

enum link_state {
    LINK_WAITING,
    LINK_RESOLVING,
    LINK_CONNECTING,
    LINK_TLS,
    LINK_AUTH,
    LINK_SELECT,
    LINK_READY,
    LINK_STOPPED
};

struct redis_link {
    struct redis_conn *c; /* NULL once dropped */
    uv_poll_t poll;
    int fd;
    redisReader *reader;
    struct buf out; /* bytes for the socket */
    SSL *ssl;       /* NULL without TLS */
    BIO *net_in, *net_out;
};
struct redis_conn {
    uv_loop_t *loop;
    const struct config *cfg;
    struct redis_conn_opts o;
    SSL_CTX *tls;
    enum link_state state;
    uv_timer_t timer;
    bool timer_open;
    struct redis_link *link;
    struct redis_resolve *resolve;
    struct addrinfo *addrs, *addr_next; /* while connecting: what the name stands for, and what to try next */
    int backoff_ms;
    bool pinged;          /* a PING waits for its answer */
    char last_error[160]; /* the same failure is logged once, not at every attempt */
};
struct redis_resolve {
    uv_getaddrinfo_t req;
    struct redis_conn *c; /* NULL: nobody waits any more */
};

static void link_drop(struct redis_conn *c, const char *why);
static void on_timer(uv_timer_t *t);
static void on_poll(uv_poll_t *h, int status, int events);
static void login_next(struct redis_conn *c);

static bool use_tls(const struct redis_conn *c)
{
    return c->tls != NULL;
}

/* ---- life ---- */

static int tls_setup(struct redis_conn *c, struct err *e)
{
    const struct config *cfg = c->cfg;
    bool ca = cfg->redis.ca_file.n || cfg->redis.ca_path.n;
    char *ca_file = NULL, *ca_path = NULL, *cert = NULL, *key = NULL;
    int ret = 0;

    if (!cfg->redis.use_tls || cfg->redis.path.n) /* as in Synapse, a UNIX socket wins over TLS */
        return 0;
    c->tls = SSL_CTX_new(TLS_client_method());
    if (!c->tls)
        return err_set(e, ERR_NOMEM, "redis: cannot set up TLS");
    SSL_CTX_set_min_proto_version(c->tls, TLS1_2_VERSION);
    if (cfg->redis.ca_file.n)
        ca_file = xstrndup(cfg->redis.ca_file);
    else if (cfg->redis.ca_path.n)
        ca_path = xstrndup(cfg->redis.ca_path);
    if (ca && SSL_CTX_load_verify_locations(c->tls, ca_file, ca_path) != 1)
        ret = err_set(e, ERR_CONFIG, "redis: cannot read ca_file or ca_path");
    if (!ret && cfg->redis.certificate_file.n) {
        cert = xstrndup(cfg->redis.certificate_file);
        key = xstrndup(cfg->redis.private_key_file.n ? cfg->redis.private_key_file
                                                     : cfg->redis.certificate_file);
        if (SSL_CTX_use_certificate_chain_file(c->tls, cert) != 1 ||
            SSL_CTX_use_PrivateKey_file(c->tls, key, SSL_FILETYPE_PEM) != 1)
            ret = err_set(e, ERR_CONFIG, "redis: cannot use certificate_file and private_key_file");
    }
    SSL_CTX_set_verify(c->tls, ca && cfg->redis_verify_tls ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    if (!ca)
        log_warning(FEED_LOG,
                    "redis: TLS without ca_file or ca_path: the server's certificate is not verified");
    free(ca_file);
    free(ca_path);
    free(cert);
    free(key);
    return ret;
}

int redis_conn_new(struct redis_conn **out, uv_loop_t *loop, const struct config *cfg,
                   const struct redis_conn_opts *o, struct err *e)
{
    struct redis_conn *c = xcalloc(1, sizeof *c);
    int err;

    c->loop = loop;
    c->cfg = cfg;
    c->o = *o;
    c->backoff_ms = o->backoff_min_ms;
    err = tls_setup(c, e);
    if (err) {
        SSL_CTX_free(c->tls);
        free(c);
        return err;
    }
    ASSERT(uv_timer_init(loop, &c->timer) == 0);
    c->timer.data = c;
    c->timer_open = true;
    *out = c;
    return 0;
}

void redis_conn_start(struct redis_conn *c)
{
    uv_timer_start(&c->timer, on_timer, 0, 0);
}

bool redis_conn_up(const struct redis_conn *c)
{
    return c && c->state == LINK_READY;
}

void redis_conn_settled(struct redis_conn *c)
{
    c->backoff_ms = c->o.backoff_min_ms;
    c->last_error[0] = 0;
}

static void on_link_closed(uv_handle_t *h)
{
    struct redis_link *l = h->data;

    close(l->fd);
    redisReaderFree(l->reader);
    SSL_free(l->ssl); /* its memory buffers too */
    buf_fini(&l->out);
    free(l);
}

static void addrs_free(struct redis_conn *c)
{
    uv_freeaddrinfo(c->addrs);
    c->addrs = c->addr_next = NULL;
}

static void link_close(struct redis_conn *c)
{
    struct redis_link *l = c->link;

    if (c->resolve) {
        c->resolve->c = NULL;
        uv_cancel((uv_req_t *)&c->resolve->req);
        c->resolve = NULL;
    }
    addrs_free(c);
    if (!l)
        return;
    c->link = NULL;
    l->c = NULL;
    uv_close((uv_handle_t *)&l->poll, on_link_closed);
}

static void on_timer_closed(uv_handle_t *h)
{
    struct redis_conn *c = h->data;

    SSL_CTX_free(c->tls);
    c->o.closed(c->o.arg);
    free(c);
}

void redis_conn_stop(struct redis_conn **cp)
{
    struct redis_conn *c = *cp;

    if (!c)
        return;
    *cp = NULL;
    c->state = LINK_STOPPED;
    link_close(c);
    uv_close((uv_handle_t *)&c->timer, on_timer_closed);
}

/* Ends the attempt or the connection and plans the next one. */
static void link_drop(struct redis_conn *c, const char *why)
{
    bool was_up = c->state == LINK_READY;
    int pause = (int)(c->backoff_ms * (0.5 + 0.5 * rng_unit()));

    if (c->state == LINK_STOPPED || c->state == LINK_WAITING)
        return;
    if (was_up || strncmp(why, c->last_error, sizeof c->last_error - 1) != 0)
        log_warning(FEED_LOG, "redis %s connection: %s; next attempt in %d ms", c->o.name, why, pause);
    snprintf(c->last_error, sizeof c->last_error, "%s", why);
    link_close(c);
    c->state = LINK_WAITING;
    c->pinged = false;
    uv_timer_start(&c->timer, on_timer, (uint64_t)pause, 0);
    c->backoff_ms = c->backoff_ms * 2 < c->o.backoff_max_ms ? c->backoff_ms * 2 : c->o.backoff_max_ms;
    if (was_up)
        c->o.lost(c->o.arg);
}

void redis_conn_fail(struct redis_conn *c, const char *why)
{
    link_drop(c, why);
}

/* ---- connecting ---- */

static void poll_update(struct redis_link *l)
{
    int events = UV_READABLE;

    if (l->c->state == LINK_CONNECTING)
        events = UV_WRITABLE;
    else if (l->out.n)
        events |= UV_WRITABLE;
    uv_poll_start(&l->poll, events, on_poll);
}

/* 0 or errno. On success a connect is under way. */
static int link_open(struct redis_conn *c, const struct sockaddr *sa, socklen_t len)
{
    struct redis_link *l;
    int one = 1, fd = socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return errno;
    if (sa->sa_family != AF_UNIX) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    }
    if (connect(fd, sa, len) != 0 && errno != EINPROGRESS) {
        int err = errno;

        close(fd);
        return err;
    }
    l = xcalloc(1, sizeof *l);
    l->c = c;
    l->fd = fd;
    l->reader = redisReaderCreate();
    ASSERT(l->reader);
    buf_init(&l->out, OUT_BYTES_MAX);
    ASSERT(uv_poll_init(c->loop, &l->poll, fd) == 0);
    l->poll.data = l;
    c->link = l;
    c->state = LINK_CONNECTING;
    poll_update(l);
    return 0;
}

static void connect_failed(struct redis_conn *c, int err)
{
    char why[128];

    snprintf(why, sizeof why, "cannot connect: %s", strerror(err));
    link_drop(c, why);
}

/* Tries the next address the name stands for; err is why the one before failed. */
static void connect_next(struct redis_conn *c, int err)
{
    struct redis_link *l = c->link;

    if (l) {
        c->link = NULL;
        l->c = NULL;
        uv_close((uv_handle_t *)&l->poll, on_link_closed);
    }
    while (c->addr_next) {
        struct addrinfo *ai = c->addr_next;

        c->addr_next = ai->ai_next;
        err = link_open(c, ai->ai_addr, ai->ai_addrlen);
        if (!err)
            return;
    }
    connect_failed(c, err);
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *list)
{
    struct redis_resolve *r = req->data;
    struct redis_conn *c = r->c;

    free(r);
    if (!c) {
        uv_freeaddrinfo(list);
        return;
    }
    c->resolve = NULL;
    if (status != 0) {
        link_drop(c, "cannot resolve the host name");
        return;
    }
    c->addrs = c->addr_next = list;
    connect_next(c, ECONNREFUSED);
}

static void connect_unix(struct redis_conn *c)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct str path = c->cfg->redis.path;
    int err = ENAMETOOLONG;

    if (path.n < sizeof sa.sun_path) {
        memcpy(sa.sun_path, path.p, path.n);
        err = link_open(c, (struct sockaddr *)&sa, sizeof sa);
    }
    if (err)
        connect_failed(c, err);
}

static void connect_start(struct redis_conn *c)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct redis_resolve *r;
    char port[16], *host;

    uv_timer_start(&c->timer, on_timer, (uint64_t)c->o.timeout_ms, 0);
    c->state = LINK_RESOLVING;
    if (c->cfg->redis.path.n) {
        connect_unix(c);
        return;
    }
    r = xcalloc(1, sizeof *r);
    r->c = c;
    r->req.data = r;
    host = xstrndup(c->cfg->redis.host);
    snprintf(port, sizeof port, "%d", c->cfg->redis.port);
    c->resolve = r;
    if (uv_getaddrinfo(c->loop, &r->req, on_resolved, host, port, &hints) != 0) {
        c->resolve = NULL;
        free(r);
        link_drop(c, "cannot resolve the host name");
    }
    free(host);
}

static void on_timer(uv_timer_t *t)
{
    struct redis_conn *c = t->data;

    switch (c->state) {
    case LINK_WAITING:
        connect_start(c);
        break;
    case LINK_READY:
        if (c->pinged) {
            link_drop(c, "no answer to PING");
            break;
        }
        c->pinged = true;
        uv_timer_start(&c->timer, on_timer, (uint64_t)c->o.ping_ms, 0);
        redis_conn_send(c, (struct str[]){STR("PING")}, 1);
        break;
    case LINK_STOPPED:
        break;
    default:
        link_drop(c, "timed out before the log-in was complete");
    }
}

/* ---- bytes ---- */

/* Moves what TLS wants to say into the socket's buffer. */
static void tls_drain(struct redis_link *l)
{
    size_t n = l->ssl ? (size_t)BIO_ctrl_pending(l->net_out) : 0;
    char *p = n ? buf_reserve(&l->out, n) : NULL;

    if (!p)
        return;
    int got = BIO_read(l->net_out, p, (int)n);
    if (got > 0)
        l->out.n += (size_t)got;
}

/* false: the link is gone. */
static bool link_write(struct redis_link *l)
{
    struct redis_conn *c = l->c;

    tls_drain(l);
    while (l->out.n) {
        ssize_t n = send(l->fd, l->out.p, l->out.n, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            break;
        if (n < 0) {
            link_drop(c, strerror(errno));
            return false;
        }
        buf_consume(&l->out, (size_t)n);
    }
    if (l->out.failed) {
        link_drop(c, "the server does not read what we publish");
        return false;
    }
    poll_update(l);
    return true;
}

static int link_put(struct redis_link *l, const char *p, size_t n)
{
    if (!l->ssl)
        buf_put(&l->out, str_n(p, n));
    else if (n > INT32_MAX || SSL_write(l->ssl, p, (int)n) <= 0)
        return -ERR_IO;
    return 0;
}

int redis_conn_send(struct redis_conn *c, const struct str *argv, int argc)
{
    enum { ARGS_MAX = 8 };
    const char *p[ARGS_MAX];
    size_t n[ARGS_MAX];
    char *cmd = NULL;
    int len, err;

    ASSERT(argc <= ARGS_MAX);
    if (!c || !c->link || c->state < LINK_AUTH || c->state > LINK_READY)
        return -ERR_CLOSED;
    for (int i = 0; i < argc; i++) {
        p[i] = argv[i].n ? argv[i].p : "";
        n[i] = argv[i].n;
    }
    len = redisFormatCommandArgv(&cmd, argc, p, n);
    if (len < 0)
        return -ERR_NOMEM;
    err = link_put(c->link, cmd, (size_t)len);
    if (c->state != LINK_READY)
        explicit_bzero(cmd, (size_t)len); /* AUTH */
    redisFreeCommand(cmd);
    if (err) {
        link_drop(c, "TLS error");
        return -ERR_CLOSED;
    }
    return link_write(c->link) ? 0 : -ERR_LIMIT;
}

void redis_conn_flush(struct redis_conn *c, int wait_ms)
{
    int64_t end = clock_mono_ms() + wait_ms;

    while (c && c->state == LINK_READY && c->link->out.n) {
        struct pollfd pfd = {.fd = c->link->fd, .events = POLLOUT};
        int64_t left = end - clock_mono_ms();

        if (left <= 0 || poll(&pfd, 1, (int)left) <= 0 || !link_write(c->link))
            return;
    }
}

/* ---- log-in ---- */

static void ready(struct redis_conn *c)
{
    c->state = LINK_READY;
    c->pinged = false;
    uv_timer_start(&c->timer, on_timer, (uint64_t)c->o.ping_ms, 0);
    log_debug(FEED_LOG, "redis %s connection is up", c->o.name);
    c->o.ready(c->o.arg);
}

/* Called when the step that c->state names is to be done. */
static void login_next(struct redis_conn *c)
{
    const struct config *cfg = c->cfg;
    char db[16];

    if (c->state == LINK_AUTH) {
        if (cfg->redis.password.n) {
            redis_conn_send(c, (struct str[]){STR("AUTH"), cfg->redis.password}, 2);
            return;
        }
        c->state = LINK_SELECT;
    }
    if (c->o.select_db && cfg->redis.dbid) {
        snprintf(db, sizeof db, "%d", cfg->redis.dbid);
        redis_conn_send(c, (struct str[]){STR("SELECT"), str_of(db)}, 2);
        return;
    }
    ready(c);
}

static void login_reply(struct redis_conn *c, const redisReply *r)
{
    char why[200];

    if (r->type != REDIS_REPLY_STATUS) {
        /* the server's own words, for example WRONGPASS…; they never contain the password */
        snprintf(why, sizeof why, "%s refused: %.120s", c->state == LINK_AUTH ? "AUTH" : "SELECT",
                 r->type == REDIS_REPLY_ERROR ? r->str : "unexpected reply");
        link_drop(c, why);
        return;
    }
    if (c->state == LINK_AUTH) {
        c->state = LINK_SELECT;
        login_next(c);
    } else {
        ready(c);
    }
}

static void tls_failed(struct redis_conn *c)
{
    char why[256], text[120];
    long verify = SSL_get_verify_result(c->link->ssl);

    ERR_error_string_n(ERR_peek_last_error(), text, sizeof text);
    ERR_clear_error();
    if (verify != X509_V_OK)
        snprintf(why, sizeof why,
                 "TLS: certificate not accepted (%s); chappe: redis_verify_tls: false turns the check off",
                 X509_verify_cert_error_string(verify));
    else
        snprintf(why, sizeof why, "TLS: %s", text);
    link_drop(c, why);
}

static void tls_start(struct redis_conn *c)
{
    struct redis_link *l = c->link;
    char *host = xstrndup(c->cfg->redis.host);
    struct in6_addr ip;

    l->ssl = SSL_new(c->tls);
    l->net_in = BIO_new(BIO_s_mem());
    l->net_out = BIO_new(BIO_s_mem());
    ASSERT(l->ssl && l->net_in && l->net_out);
    SSL_set_bio(l->ssl, l->net_in, l->net_out);
    if (inet_pton(AF_INET, host, &ip) == 1 || inet_pton(AF_INET6, host, &ip) == 1) {
        X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(l->ssl), host);
    } else {
        SSL_set1_host(l->ssl, host);
        SSL_set_tlsext_host_name(l->ssl, host);
    }
    free(host);
    SSL_set_connect_state(l->ssl);
    c->state = LINK_TLS;
}

/* false: the link is gone. */
static bool tls_step(struct redis_conn *c)
{
    struct redis_link *l = c->link;
    int n = SSL_do_handshake(l->ssl), why = SSL_get_error(l->ssl, n);

    if (n == 1) {
        c->state = LINK_AUTH;
        if (!link_write(l))
            return false;
        login_next(c);
        return c->link == l;
    }
    if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) {
        link_write(l); /* the alert, if the peer still listens */
        if (c->link == l)
            tls_failed(c);
        return false;
    }
    return link_write(l);
}

static void connected(struct redis_conn *c)
{
    struct redis_link *l = c->link;
    socklen_t len = sizeof(int);
    int err = 0;

    if (getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0)
        err = errno;
    if (err) {
        connect_next(c, err);
        return;
    }
    addrs_free(c);
    if (use_tls(c)) {
        tls_start(c);
        tls_step(c);
        return;
    }
    c->state = LINK_AUTH;
    login_next(c);
    if (c->link == l)
        poll_update(l);
}

/* ---- replies ---- */

static bool is_pong(const redisReply *r)
{
    if (r->type == REDIS_REPLY_STATUS)
        return strcmp(r->str, "PONG") == 0;
    return r->type == REDIS_REPLY_ARRAY && r->elements == 2 && r->element[0]->type == REDIS_REPLY_STRING &&
           strcmp(r->element[0]->str, "pong") == 0;
}

static void reply(struct redis_conn *c, const redisReply *r)
{
    if (c->state == LINK_AUTH || c->state == LINK_SELECT)
        login_reply(c, r);
    else if (is_pong(r))
        c->pinged = false;
    else
        c->o.reply(c->o.arg, r);
}

/* false: the link is gone. Callbacks may have dropped it; its memory lives until the end of the turn. */
static bool replies(struct redis_link *l)
{
    void *r = NULL;

    while (l->c) {
        if (redisReaderGetReply(l->reader, &r) != REDIS_OK) {
            link_drop(l->c, l->reader->errstr[0] ? l->reader->errstr : "protocol error");
            return false;
        }
        if (!r)
            break;
        reply(l->c, r);
        freeReplyObject(r);
    }
    if (l->c && l->reader->len - l->reader->pos > REPLY_BYTES_MAX) {
        link_drop(l->c, "a reply is too long");
        return false;
    }
    return l->c != NULL;
}

static bool feed_plain(struct redis_link *l, const char *p, size_t n)
{
    if (redisReaderFeed(l->reader, p, n) != REDIS_OK) {
        link_drop(l->c, "protocol error");
        return false;
    }
    return replies(l);
}

/* Bytes from the socket. false: the link is gone. */
static bool feed_bytes(struct redis_link *l, const char *p, size_t n)
{
    static char plain[READ_CHUNK]; /* the hub is the only thread that comes here */
    int got;

    if (!l->ssl)
        return feed_plain(l, p, n);
    if (BIO_write(l->net_in, p, (int)n) != (int)n) {
        link_drop(l->c, "TLS error");
        return false;
    }
    if (l->c->state == LINK_TLS && !tls_step(l->c))
        return false;
    if (l->c->state == LINK_TLS)
        return true;
    while ((got = SSL_read(l->ssl, plain, sizeof plain)) > 0)
        if (!feed_plain(l, plain, (size_t)got))
            return false;
    switch (SSL_get_error(l->ssl, got)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return link_write(l);
    case SSL_ERROR_ZERO_RETURN:
        link_drop(l->c, "closed by the server");
        return false;
    default:
        tls_failed(l->c);
        return false;
    }
}

static void link_read(struct redis_link *l)
{
    static char chunk[READ_CHUNK];
    struct redis_conn *c = l->c;
    bool alive = true;

    for (int i = 0; alive && i < READ_CHUNKS_MAX; i++) {
        ssize_t n = recv(l->fd, chunk, sizeof chunk, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            break;
        if (n <= 0) {
            link_drop(c, n == 0 ? "closed by the server" : strerror(errno));
            break;
        }
        alive = feed_bytes(l, chunk, (size_t)n);
        if ((size_t)n < sizeof chunk)
            break;
    }
    if (c->state != LINK_STOPPED)
        c->o.burst_end(c->o.arg);
}

static void on_poll(uv_poll_t *h, int status, int events)
{
    struct redis_link *l = h->data;
    struct redis_conn *c = l->c;

    if (!c)
        return;
    if (c->state == LINK_CONNECTING) {
        connected(c);
        return;
    }
    if (status < 0) {
        link_drop(c, uv_strerror(status));
        return;
    }
    if (events & UV_WRITABLE && !link_write(l))
        return;
    if (events & UV_READABLE)
        link_read(l);
}
