/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Paths of the test handler, below /_matrix:
 *   /echo          what the request looked like, one field a line
 *   /park          held until CMD_RELEASE, or until the client goes (?late=1: answered on release even then;
 * ?drop=1: dropped) /big?bytes=n   n bytes /drop          no answer /error         a 429 with Retry-After
 */
#include "server_fixture.h"
#include "chappe/log.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct server *server;
char unix_path[100];

/* ---- handler, on the hub ---- */

static void reply_text(struct http_req *req, int status, struct str text)
{
    struct http_res res;
    http_res_init(&res, status);
    rope_put(&res.body, text);
    http_reply(&req, &res);
    assert_null(req);
    rope_fini(&res.body);
}

static void unpark(struct http_req *req)
{
    for (int i = 0; i < server->parked_count; i++) {
        if (server->parked[i] == req) {
            server->parked[i] = server->parked[server->parked_count - 1];
            server->parked_count--;
            return;
        }
    }
    assert_false("was parked");
}

static void gone(void *arg, struct http_req *req)
{
    assert_ptr_equal(arg, server);
    assert_true(req->gone);
    server->gone_count++;
    if (http_query_has(req, STR("late")))
        return;
    unpark(req);
    if (http_query_has(req, STR("drop")))
        http_drop(&req);
    else
        reply_text(req, 200, STR("{\"gone\":true}"));
}

static void echo(struct http_req *req)
{
    struct arena *a = http_arena(req);
    struct str t[TARGET_PIECES], path, query;
    req_target(req_of(req), t);
    str_cut(arena_printf(a, "%.*s%.*s%.*s", STR_ARG(t[0]), STR_ARG(t[1]), STR_ARG(t[2])), '?', &path, &query);
    char id[REQ_ID_BYTES];
    struct buf b;
    buf_init(&b, 4 << 20);
    buf_printf(&b,
               "method %d\npath %.*s\nquery %.*s\nabsent %d\nsince %.*s\nauth %.*s %d\nagent %.*s\nip %.*s\n",
               (int)req->method, STR_ARG(http_path(req)), STR_ARG(query), str_absent(query),
               STR_ARG(http_query(req, STR("since"))), STR_ARG(http_authorization(req)),
               req->authorization_count, STR_ARG(http_user_agent(req)), STR_ARG(http_client_ip(req)));
    buf_printf(&b, "id %.*s\nbody %zu ", STR_ARG(req_id(req_of(req), id)), http_body(req).n);
    buf_put(&b, http_body(req));
    reply_text(req, 200, buf_str(&b));
    buf_fini(&b);
}

static void big(struct http_req *req)
{
    int64_t bytes = 0;
    assert_int_equal(str_to_i64(http_query(req, STR("bytes")), &bytes), 0);
    struct http_res res;
    http_res_init(&res, 200);
    char piece[10007];
    memset(piece, 'x', sizeof piece);
    struct blob *b = blob_new(str_n(piece, sizeof piece));
    while ((int64_t)res.body.bytes + (int64_t)sizeof piece <= bytes)
        rope_blob(&res.body, b);
    if ((int64_t)res.body.bytes < bytes)
        rope_blob_range(&res.body, b, 0, (size_t)bytes - res.body.bytes);
    blob_unref(&b);
    http_reply(&req, &res);
    rope_fini(&res.body);
}

static void handler(void *arg, struct http_req *req)
{
    assert_ptr_equal(arg, server);
    server->handled++;
    req->requester = "@tester:hs";
    if (str_ends(http_path(req), STR("/echo")) || str_ends(http_path(req), STR("/sync"))) {
        echo(req);
    } else if (str_eq(http_path(req), STR("/_matrix/park"))) {
        server->parked[server->parked_count] = req;
        server->parked_count++;
    } else if (str_eq(http_path(req), STR("/_matrix/big"))) {
        big(req);
    } else if (str_eq(http_path(req), STR("/_matrix/drop"))) {
        http_drop(&req);
    } else {
        struct http_res res;
        http_res_error(&res, 429, "M_LIMIT_EXCEEDED", STR("Too Many Requests"), NULL);
        res.retry_after_s = 2;
        http_reply(&req, &res);
        rope_fini(&res.body);
    }
}

static bool answering(void *arg)
{
    return atomic_load(&((struct server *)arg)->answering);
}

static int route(enum http_method m, struct str path)
{
    if (!str_starts(path, STR("/_matrix/")))
        return 404;
    return m == HTTP_M_GET || m == HTTP_M_POST ? 0 : 405;
}

/* ---- the server's thread ---- */

static void release_all(struct server *s)
{
    while (s->parked_count > 0) {
        struct http_req *req = s->parked[0];
        unpark(req);
        reply_text(req, 200, STR("{\"released\":true}"));
    }
}

static void on_wake(uv_async_t *h)
{
    struct server *s = h->data;
    switch ((enum command)atomic_exchange(&s->command, CMD_NONE)) {
    case CMD_NONE:
        return;
    case CMD_DRAIN:
        httpd_drain(s->httpd);
        break;
    case CMD_RELEASE:
        release_all(s);
        break;
    case CMD_UNHEALTHY:
        httpd_health_set(s->httpd, false);
        break;
    case CMD_HEALTHY:
        httpd_health_set(s->httpd, true);
        break;
    case CMD_STOP:
        release_all(s);
        httpd_stop(&s->httpd);
        uv_close((uv_handle_t *)&s->wake, NULL);
        return;
    }
    uv_sem_post(&s->done);
}

static void thread_main(void *arg)
{
    struct server *s = arg;
    struct httpd_routes routes = {
        .route = route, .handler = handler, .gone = gone, .arg = s, .answering = answering};
    assert_int_equal(uv_loop_init(&s->loop), 0);
    /* The kernel picks a port that is free on one address; on the next one somebody's client may be using it.
     */
    for (int tries = 0; tries < 5; tries++) {
        s->rc = httpd_start(&s->httpd, &s->loop, &s->cfg, &routes, &s->err);
        if (s->rc != -ERR_IO || !strstr(s->err.text, "in use"))
            break;
        uv_run(&s->loop, UV_RUN_NOWAIT);
    }
    for (size_t i = 0; s->rc == 0 && i < s->cfg.listeners_count; i++)
        s->ports[i] = httpd_port(s->httpd, i);
    if (s->rc == 0) {
        assert_int_equal(uv_async_init(&s->loop, &s->wake, on_wake), 0);
        s->wake.data = s;
    }
    uv_sem_post(&s->ready);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&s->loop) != 0)
        abort(); /* a handle was left behind */
}

void server_config(struct server *s, const struct variant *v)
{
    memset(s, 0, sizeof *s);
    struct config *c = &s->cfg;
#define OPT_INT(field, deflt, min, max, unit, doc) c->field = deflt;
#define OPT_BOOL(field, deflt, doc)                c->field = deflt;
#define OPT_ENUM(field, deflt, choices, doc)       c->field = STR(deflt);
#define OPT_STR(field, deflt, doc)                 c->field = STR(deflt);
#include "chappe/tbl/options.def"
#undef OPT_INT
#undef OPT_BOOL
#undef OPT_ENUM
#undef OPT_STR
    c->transport = str_of(v->transport);
    c->front_threads = v->threads;
    c->server_name = STR("hs.example");
    s->bind[0] = STR("127.0.0.1");
    s->bind_any[0] = STR("::");
    s->bind_any[1] = STR("0.0.0.0");
    snprintf(unix_path, sizeof unix_path, "/tmp/chappe-test-http-%d.sock", (int)getpid());
    s->listeners[0] = (struct config_listener){.bind = s->bind, .bind_count = 1, .client = true};
    s->listeners[1] = (struct config_listener){.bind = s->bind,
                                               .bind_count = 1,
                                               .client = true,
                                               .x_forwarded = true,
                                               .metrics_resource = true,
                                               .tag = STR("proxied"),
                                               .request_id_header = STR("X-Request-ID")};
    s->listeners[2] = (struct config_listener){
        .path = str_of(unix_path), .mode = 0600, .client = true, .x_forwarded = true};
    s->listeners[3] = (struct config_listener){.bind = s->bind_any, .bind_count = 2, .metrics = true};
    c->listeners = s->listeners;
    c->listeners_count = 4;
}

void server_start(struct server *s)
{
    server = s;
    uv_sem_init(&s->ready, 0);
    uv_sem_init(&s->done, 0);
    assert_int_equal(uv_thread_create(&s->thread, thread_main, s), 0);
    uv_sem_wait(&s->ready);
    if (s->rc != 0)
        fail_msg("start: %s", s->err.text);
}

void server_command(struct server *s, enum command c)
{
    atomic_store(&s->command, c);
    uv_async_send(&s->wake);
    if (c != CMD_STOP)
        uv_sem_wait(&s->done);
}

void server_stop(struct server *s)
{
    if (s->stopped)
        return;
    s->stopped = true;
    server_command(s, CMD_STOP);
    uv_thread_join(&s->thread);
    uv_sem_destroy(&s->ready);
    uv_sem_destroy(&s->done);
    assert_int_equal(metric_get(M_http_connections), 0);
    assert_int_equal(metric_get(M_http_in_flight), 0);
    assert_int_not_equal(access(unix_path, F_OK), 0);
}

/* ---- client ---- */

static struct client *client_on(int fd)
{
    struct client *c = calloc(1, sizeof *c);
    c->fd = fd;
    return c;
}

struct client *client_dial(int port)
{
    struct sockaddr_in sa = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&sa, sizeof sa) != 0) {
        close(fd);
        return NULL;
    }
    return client_on(fd);
}

struct client *client_dial_unix(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&sa, sizeof sa) != 0) {
        close(fd);
        return NULL;
    }
    return client_on(fd);
}

void client_free(struct client **c)
{
    if (!*c)
        return;
    close((*c)->fd);
    free(*c);
    *c = NULL;
}

void client_send_bytes(struct client *c, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t k = send(c->fd, p, n, MSG_NOSIGNAL);
        if (k <= 0)
            return; /* the server may have refused already */
        p += k;
        n -= (size_t)k;
    }
}

void client_send(struct client *c, const char *text)
{
    client_send_bytes(c, text, strlen(text));
}

/* 1 something came, 0 the end, -1 time is over. */
static int more(struct client *c, int ms)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    if (poll(&p, 1, ms) != 1)
        return -1;
    ssize_t n = recv(c->fd, c->in + c->n, sizeof c->in - c->n, 0);
    if (n <= 0)
        return 0;
    c->n += (size_t)n;
    return 1;
}

int client_read(struct client *c, struct response *r, bool head_only)
{
    char *end;
    memset(r, 0, sizeof *r);
    while (!(end = memmem(c->in, c->n, "\r\n\r\n", 4))) {
        if (more(c, 5000) != 1)
            return -1;
    }
    size_t head = (size_t)(end - c->in) + 4;
    assert_true(head < sizeof r->head);
    memcpy(r->head, c->in, head);
    assert_int_equal(sscanf(r->head, "HTTP/1.1 %d ", &r->status), 1);
    char *length = strcasestr(r->head, "\r\nContent-Length: ");
    size_t bytes = length && !head_only ? strtoul(length + 18, NULL, 10) : 0;
    r->body = malloc(bytes + 1);
    memmove(c->in, c->in + head, c->n - head);
    c->n -= head;
    while (r->body_bytes < bytes) {
        size_t k = c->n < bytes - r->body_bytes ? c->n : bytes - r->body_bytes;
        memcpy(r->body + r->body_bytes, c->in, k);
        r->body_bytes += k;
        memmove(c->in, c->in + k, c->n - k);
        c->n -= k;
        if (r->body_bytes < bytes && more(c, 5000) != 1) {
            response_free(r);
            return -1;
        }
    }
    r->body[bytes] = 0;
    return 0;
}

bool client_ended(struct client *c, int ms)
{
    return c->n == 0 && more(c, ms) == 0;
}

static const char *find_header(const struct response *r, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = strstr(r->head, "\r\n"); p; p = strstr(p + 2, "\r\n")) {
        if (strncasecmp(p + 2, name, n) == 0 && p[2 + n] == ':')
            return p + 2 + n + 2;
    }
    return NULL;
}

bool has_header(const struct response *r, const char *name)
{
    return find_header(r, name) != NULL;
}

bool header_is(const struct response *r, const char *name, const char *value)
{
    const char *v = find_header(r, name);
    return v && strncmp(v, value, strlen(value)) == 0 && v[strlen(value)] == '\r';
}

void response_free(struct response *r)
{
    free(r->body);
    r->body = NULL;
}

int fetch(int port, const char *request, struct response *r)
{
    struct client *c = client_dial(port);
    assert_non_null(c);
    client_send(c, request);
    int rc = client_read(c, r, strncmp(request, "HEAD", 4) == 0);
    client_free(&c);
    return rc == 0 ? r->status : -1;
}

/* ---- suites that run on every variant ---- */

struct variant variants[VARIANTS] = {{"uv", 0}, {"uv", 2}, {"uring", 0}, {"uring", 2}};
struct server the_server;

bool variant_allowed(const struct variant *v)
{
    enum transport_kind kind;
    char why[160];
    return transport_choose(str_of(v->transport), &kind, why, NULL) == 0;
}

int stop_after(void **state)
{
    (void)state;
    if (the_server.httpd)
        server_stop(&the_server);
    return 0;
}

int64_t refused(enum close_reason why)
{
    return metric_get_l(M_http_refused, close_reasons[why].id);
}

static char log_all[20000];
static uv_mutex_t log_lock;

static void keep_line(enum log_level level, const char *line)
{
    (void)level;
    uv_mutex_lock(&log_lock);
    size_t n = strlen(log_all);
    snprintf(log_all + n, sizeof log_all - n, "%s\n", line);
    uv_mutex_unlock(&log_lock);
}

void log_keep(int level)
{
    uv_mutex_init(&log_lock);
    log_all[0] = 0;
    log_sink_set(keep_line);
    log_level = (enum log_level)level;
}

int logged_count(const char *text)
{
    int n = 0;
    uv_mutex_lock(&log_lock);
    for (const char *p = log_all; (p = strstr(p, text)) != NULL; p++)
        n++;
    uv_mutex_unlock(&log_lock);
    return n;
}

bool logged(const char *text)
{
    return logged_count(text) > 0;
}

void log_release(void)
{
    log_level = LOG_ERROR;
    log_sink_set(NULL);
    uv_mutex_destroy(&log_lock);
}
