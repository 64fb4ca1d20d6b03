/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_HTTPD_H
#define CHAPPE_HTTPD_H
/*
 * The HTTP/1.1 server: fronts own sockets and parsing, the hub owns what is answered.
 *
 * A front accepts, parses, holds idle connections, enforces limits, answers OPTIONS, /health, malformed
 * requests and 404/405 by itself, adds CORS and the common headers, writes the access log. Everything else
 * becomes a struct http_req handed to the hub's handler. With front_threads 0 the only front lives on the
 * hub's loop; otherwise each front has a thread and loop of its own, and requests and replies cross in
 * batches through mailboxes. Handlers, and all functions here, run on the hub thread unless said otherwise.
 */
#include "chappe/blob.h"
#include "chappe/config.h"

struct uv_loop_s;
struct httpd;

enum http_method { HTTP_M_GET, HTTP_M_HEAD, HTTP_M_POST, HTTP_M_PUT, HTTP_M_DELETE, HTTP_M_OTHER };

/* What many requests have in common. Its front's, which alone counts it. */
struct http_text {
    uint32_t refs;
    uint32_t n : 31;
    bool as_it_is : 1;   /* a request line shows it so, nothing escaped */
    struct hash128 hash; /* str_hash128_of() the pieces that it was made of */
    char p[];
};

/* A complete request. What it tells lives until http_reply(), but for the secret value. There are tens of
 * thousands at a time, so it is small: texts stand behind one another, what many clients' targets have in
 * common is shared, and the functions below find them. */
struct http_req {
    const char *text; /* path, '?' and query, or the value of since alone; client's address; free room */
    struct http_text *form;  /* what stands before the value of since, and after it; NULL: text has all */
    struct http_text *agent; /* NULL: none */
    const struct str *authorization; /* NULL: none; gone after the handler's call */
    const struct str *body;          /* NULL: none */
    struct arena *arena;             /* http_arena()'s; NULL until then */
    const char *requester; /* handler may set (in http_room() or the arena): user id for the access log */
    void *user;            /* the handler's own */
    uint32_t path_bytes;   /* of form, or of text */
    uint32_t own_bytes;    /* of text, before the address */
    uint32_t received_ms;  /* low bits of the monotonic clock */
    uint16_t before_bytes; /* of form: before the value */
    uint8_t ip_bytes, room_bytes;
    uint8_t authorization_count; /* how many such header lines; 255 are many */
    enum http_method method : 4;
    bool has_query : 1;
    bool gone : 1; /* the client is no longer there */
};
/* Raw, not percent-decoded. */
static inline struct str http_path(const struct http_req *req)
{
    return str_n(req->form ? req->form->p : req->text, req->path_bytes);
}
/* After x_forwarded rules; empty when unknown. */
static inline struct str http_client_ip(const struct http_req *req)
{
    return str_n(req->text + req->own_bytes, req->ip_bytes);
}
/* Last User-Agent; empty if none; non-ASCII bytes as U+FFFD. */
static inline struct str http_user_agent(const struct http_req *req)
{
    return req->agent ? str_n(req->agent->p, req->agent->n) : STR("");
}
/* Value of the Authorization header, absent if none. */
static inline struct str http_authorization(const struct http_req *req)
{
    return req->authorization ? *req->authorization : STR_ABSENT;
}
static inline struct str http_body(const struct http_req *req)
{
    return req->body ? *req->body : STR("");
}
/* Free for the handler's use until http_reply(). */
static inline struct arena *http_arena(struct http_req *req)
{
    enum { BYTES_MAX = 64 << 20, FIRST_BYTES = 496 };
    if (!req->arena)
        req->arena = arena_new_sized(BYTES_MAX, FIRST_BYTES);
    return req->arena;
}
/* The same for a few bytes, which may be had without an allocation. */
static inline char *http_room(struct http_req *req, size_t n)
{
    if (n > req->room_bytes)
        return arena_alloc(http_arena(req), n);
    struct str ip = http_client_ip(req);
    req->room_bytes = (uint8_t)(req->room_bytes - n);
    return (char *)(uintptr_t)ip.p + ip.n + req->room_bytes;
}

struct http_res {
    int status;
    const char *content_type; /* static; NULL = application/json */
    struct rope body;
    bool close;        /* close the connection after it */
    int retry_after_s; /* 0 = no header */
};
void http_res_init(struct http_res *res, int status);
/* {"errcode":…,"error":…} canonical JSON (sorted keys, raw UTF-8); extra, if given, is more members in a
 * ready-made canonical form that sort between/after: pass NULL or a struct json object of scalars. */
struct json;
void http_res_error(struct http_res *res, int status, const char *errcode, struct str error,
                    const struct json *extra);
/* Sends res (moved out, left finished) and releases req. Exactly once per request, this or http_drop(). After
 * the client has gone it is sent all the same when only the client's own direction has ended (a half-closed
 * connection). */
void http_reply(struct http_req **req, struct http_res *res);
/* req will be replied to very soon: what that looks at is fetched (mem_soon). */
void http_reply_soon(const struct http_req *req);
/* Releases req without an answer; the connection is closed. */
void http_drop(struct http_req **req);
/* Shorthand: error reply. */
void http_reply_error(struct http_req **req, int status, const char *errcode, const char *error);

/* First value of a query parameter, percent-decoded ('+' is a space): a part of the query, or in the arena
 * if there was something to decode; absent if there is none. Splits at '&' and ';'. */
struct str http_query(struct http_req *req, struct str name);
bool http_query_has(const struct http_req *req, struct str name);
/* All values of a repeated parameter, decoded, in their order; *it begins as 0. */
bool http_query_next(struct http_req *req, struct str name, size_t *it, struct str *value);
/* The value of since, if it is there and spelt plainly, and what stands in the query before and after it. */
bool http_query_since(const struct http_req *req, struct str *before, struct str *since, struct str *after);
/* Keyed hash of the target without the value of since, and that value. False: as http_query_since(). */
bool http_form_hash(const struct http_req *req, struct hash128 *hash, struct str *since);
/* Percent-decodes into a. Malformed escapes stay as they are. */
struct str url_decode(struct arena *a, struct str s, bool plus_is_space);
/* Everything but unreserved characters is escaped (path arguments of the replication API). */
void url_encode(struct buf *b, struct str s);

typedef void http_handler_fn(void *arg, struct http_req *req);

struct httpd_routes {
    /* Said on the front for each request: 0 = hand to handler, or 404 / 405. Must be pure and thread-safe.
     * HEAD is asked about as GET (the request itself keeps HTTP_M_HEAD; its body is suppressed by the front).
     */
    int (*route)(enum http_method m, struct str path);
    http_handler_fn *handler;
    /* Called once if the client goes away before its request is replied to; the handler must still
     * http_reply() or http_drop(), then or later. */
    http_handler_fn *gone;
    void *arg;
    /* On the hub: are there many requests that wait to be answered at once? Polls that come meanwhile stand
     * behind them. NULL: no. */
    bool (*answering)(void *arg);
};
/* Value of the Server header: begins as the Synapse release whose behaviour we have, names us after it. */
#define CHAPPE_SYNAPSE_VERSION "1.157.1"
#define CHAPPE_SERVER_HEADER   "Synapse/" CHAPPE_SYNAPSE_VERSION " (chappe " CHAPPE_VERSION ")"

/* Opens every listener of cfg, which must outlive the server. loop must be run by the calling thread. -ERR_x
 * with text in e on failure. */
int httpd_start(struct httpd **out, struct uv_loop_s *loop, const struct config *cfg,
                const struct httpd_routes *routes, struct err *e) NODISCARD;
/* "uring" or "uv", and why. */
const char *httpd_transport(const struct httpd *h);
/* The port that a TCP listener of cfg (by index) is bound to: tells what port 0 became. 0 for UNIX sockets.
 */
int httpd_port(const struct httpd *h, size_t listener);
/* What /health says: 200 when ok (the default at start), 503 otherwise. */
void httpd_health_set(struct httpd *h, bool ok);
/* /ready, on metrics listeners, is 200 when this is ok too (the default): everything we depend on is there.
 */
void httpd_ready_set(struct httpd *h, bool ok);
/* Stops accepting (metrics listeners stay until the stop); /health turns 503; keep-alive connections are
 * closed after their next response, idle ones at once. */
void httpd_drain(struct httpd *h);
size_t httpd_in_flight(const struct httpd *h); /* requests handed out and not yet replied or not yet written,
                                                  and waiting polls */
/* Bytes held, allocator's rounding included. */
struct httpd_memory {
    size_t connections; /* slots and tables of the transports; MEM_buffers are those they receive into */
    size_t requests;    /* requests being answered, parked polls included, without what handlers allocate */
    size_t reading;     /* parts of requests that have arrived */
    size_t sending;     /* of answers that readers were too slow to take at once; bytes may be shared */
};
void httpd_memory(const struct httpd *h, struct httpd_memory *m);
/* Closes whatever is left; on return no thread of httpd runs. All requests must have been replied to. Memory
 * of handles on the hub's loop goes when that loop runs its closing callbacks: run it once more before
 * uv_loop_close(). */
void httpd_stop(struct httpd **h);
#endif
