/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_HTTP_INT_H
#define CHAPPE_HTTP_INT_H
/*
 * Inside the HTTP server. Reading order: head.c and body.c (bytes → requests), request.c, conn.c (one
 * connection's life), later.c (polls that stand in line), front.c (one thread's connections, and what is
 * answered without the hub), server.c (the hub's side), response.c.
 *
 * Who owns what: a front's thread owns its transport, connections, timers and the private part of each struct
 * req. The public part (struct http_req) belongs to the hub from hand-over to http_reply().
 */
#include "chappe/httpd.h"
#include "chappe/loop.h"
#include "chappe/map.h"
#include <uv.h>

enum close_reason {
#define CLOSE_REASON(id, refused, status, errcode, text) CLOSE_##id,
#include "chappe/tbl/close_reasons.def"
#undef CLOSE_REASON
    CLOSE_COUNT
};
struct close_reason_row {
    const char *id;
    bool refused;
    int status;
    const char *errcode, *text;
};
extern const struct close_reason_row close_reasons[CLOSE_COUNT];

/* ---- head.c ---- */

enum { HTTP_HEADERS_MAX = 500 };

/* Progress of looking for the end of a head; zeroed at its beginning. */
struct http_head_scan {
    size_t line;    /* start of the line being read */
    size_t pos;     /* bytes before it hold no line feed */
    unsigned lines; /* complete ones, the request line included */
};
/* bytes: the head from its first byte, as far as it has arrived; earlier calls saw a prefix of it. Refuses
 * what http_parser tolerates. 1: complete, *end is its length; 0: more is needed; -ERR_PARSE or -ERR_LIMIT
 * with *why. */
int http_head_scan(struct http_head_scan *s, struct str bytes, size_t bytes_max, size_t *end,
                   enum close_reason *why) NODISCARD;

/* A parsed head: slices of the bytes it was parsed from. */
struct http_head {
    enum http_method method;
    struct str method_name;
    struct str target; /* as received */
    struct str path, query;
    int minor; /* HTTP/1.minor */
    bool options, keep_alive, chunked, expect_continue;
    int64_t content_length; /* -1: none */
    struct str host, authorization, user_agent, content_type, forwarded_for, request_id;
    int authorization_count, host_count, length_count, encoding_count;
};
/* bytes: a complete head that http_head_scan() has passed. request_id_header may be absent. 0 or -ERR_PARSE.
 */
int http_head_parse(struct str bytes, struct str request_id_header, struct str server_name,
                    struct http_head *h, enum close_reason *why) NODISCARD;

/* ---- head_quick.c ---- */

/* Both of the above at once, for complete and ordinary heads. False: they must look. */
bool http_head_quick(struct str bytes, size_t bytes_max, struct str request_id_header, struct http_head *h,
                     size_t *length) NODISCARD;

/* ---- body.c ---- */

struct http_body {
    enum http_body_state {
        BODY_DONE,
        BODY_LENGTH,     /* left bytes to come */
        BODY_SIZE_FIRST, /* chunk size: first digit */
        BODY_SIZE,
        BODY_EXTENSION,
        BODY_SIZE_LF,
        BODY_CHUNK, /* left bytes of this chunk */
        BODY_CHUNK_CR,
        BODY_CHUNK_LF,
        BODY_TRAILER_START, /* at the beginning of a trailer line */
        BODY_TRAILER,
        BODY_TRAILER_LF,
        BODY_END_LF,
    } state;
    uint64_t left;
    uint64_t total;    /* data bytes so far */
    unsigned overhead; /* bytes of extensions and trailers */
};
void http_body_init(struct http_body *b, const struct http_head *h);
/* Consumes a stretch of *in; *out is the data in it (a slice of in). 1: the body is complete, what is left of
 * *in belongs to the next request; 0: go on; -ERR_PARSE with *why. */
int http_body_feed(struct http_body *b, struct str *in, struct str *out, enum close_reason *why) NODISCARD;

/* ---- requests ---- */

enum mail_kind { MAIL_REQUEST, MAIL_GONE, MAIL_GONE_ACK, MAIL_REPLY, MAIL_DRAIN, MAIL_STOP };

/* MAIL_GONE and MAIL_GONE_ACK. There and back again; the front frees it. */
struct gone {
    struct mail mail; /* first */
    struct req *req;
};
/* One allocation: this, then the copied bytes (method and request id unless they are the usual ones, target,
 * client address), then room for what the handler adds. Tens of thousands wait here, so that every field
 * counts. */
struct req {
    struct http_req pub;
    struct front *front;
    struct conn *conn; /* NULL once the connection is closed */
    union {
        struct mail mail; /* MAIL_REQUEST, until the hub has it */
        struct {          /* since the answer */
            size_t body_sent;
            uint32_t replied_ms;
        };
    };
    uint64_t number : 48; /* of all requests */
    uint64_t status : 16;
    uint32_t memory;       /* what it takes of the heap, shared bytes not included */
    uint32_t target_bytes; /* behind method and id: the target, or what of it is not in its form */
    uint16_t listener;
    uint8_t method_bytes; /* 0: a usual one */
    uint8_t id_bytes;     /* 0: the proxy gave none */
    /* the front's */
    bool minor : 1; /* of HTTP/1.x */
    bool options : 1;
    bool close : 1;  /* the connection ends with this response */
    bool handed : 1; /* counted in in_flight */
    bool replied : 1;
    bool gone_posted : 1, gone_acked : 1, release_pending : 1;
    /* the hub's, which may be another thread */
    bool hub_replied;
    bool secret_owned; /* the Authorization header has an allocation */
    char bytes[];
};
struct str req_method(const struct req *r);
/* As received, in pieces to be put one after the other. */
enum { TARGET_PIECES = 3 };
void req_target(const struct req *r, struct str target[TARGET_PIECES]);
/* "GET-17", in text, or what the proxy gave. */
enum { REQ_ID_BYTES = 48 };
struct str req_id(const struct req *r, char text[REQ_ID_BYTES]);
/* texts.c: what requests of one front share. */
enum { AGENTS = 256, AGENT_BYTES_MAX = 512, FORMS = 256, FORM_BYTES_MAX = 512 };
struct texts {
    struct http_text *agents[AGENTS];
    struct form {
        struct http_text *text;
        uint64_t seen; /* hash of the last one that was not this */
        uint16_t before;
    } forms[FORMS];
};
void texts_fini(struct texts *t);
void text_unref(struct http_text **x);                        /* accepts an empty one, leaves NULL */
struct http_text *texts_agent(struct texts *t, struct str s); /* counted; NULL for none; t may be NULL */
/* Counted: a target's text up to the value of since (of which the path is so many bytes), and after it. NULL:
 * is not shared. */
struct http_text *texts_form(struct texts *t, struct str before, struct str after, size_t path);
struct reply {
    struct mail mail; /* first */
    struct req *req;
    struct http_res res;
    bool drop;
};
static inline struct req *req_of(struct http_req *p)
{
    return (struct req *)(void *)p;
}
/* texts may be NULL. borrow: the head's bytes live until the handler has seen the request, so that the
 * Authorization header need not be copied. */
struct req *req_new(const struct http_head *h, struct str client_ip, uint64_t number, struct texts *texts,
                    bool borrow);
/* The Authorization header's own bytes, or NULL; the caller forgets them when the handler has seen them. */
const struct str *req_take_secret(struct req *r);
void req_forget_secret(const struct str *secret); /* accepts NULL */
void req_free(struct req **r);
/* What the request line will show was put there half a minute ago: it is fetched while the answer is sent. */
static inline void req_fetch(const struct req *r)
{
    enum { LINE_BYTES = 64 };
    struct str ip = http_client_ip(&r->pub);
    size_t n = (size_t)(ip.p + ip.n - r->bytes);
    for (size_t i = 0; i < n && i < 8 * LINE_BYTES; i += LINE_BYTES)
        __builtin_prefetch(r->bytes + i);
}
void req_replied(struct req *r, int64_t now_ms, size_t body_sent);

/* ---- conn.c ---- */

enum conn_state {
    CONN_NONE,    /* before accept: zeroed slot */
    CONN_IDLE,    /* waits for a request; owns nothing */
    CONN_HEAD,    /* part of a head is there */
    CONN_BODY,    /* reading a body */
    CONN_HANDED,  /* the hub has the request */
    CONN_WRITING, /* a response is on its way */
    CONN_CLOSING, /* our direction has ended; discards what still arrives, for a moment */
    CONN_CLOSED,  /* the transport no longer knows it */
    CONN_STATE_COUNT
};

/* Exists while bytes of a request are held. */
struct conn_in {
    struct buf buf; /* partial head; or what was read ahead of a response */
    struct http_head_scan scan;
    struct http_body body;
    struct buf body_buf;
    size_t accounted; /* in httpd.read_bytes */
};
struct conn {
    struct front *f;
    struct wheel_timer timer;
    struct conn_in *in; /* usually NULL */
    struct req *req;
    uint32_t sent_mark; /* low bits of the bytes sent when the write timer was set */
    uint16_t listener;
    uint8_t state;
    uint8_t family;   /* 4, 6 or 0 */
    uint8_t interims; /* 100 Continue on their way */
    bool eof, paused, linger, counted, close_after;
    bool later;    /* what it sent stands in line (later.c) */
    uint8_t after; /* enum close_reason of a response that ends the connection */
    uint8_t ip[16];
};
void conn_accepted(struct front *f, struct conn *c, int tag, const struct sockaddr_storage *peer);
void conn_recv(struct conn *c, struct str bytes);
void conn_recv_later(struct conn *c, struct str bytes,
                     int64_t received_ms); /* c->later; it is not any more */
void conn_eof(struct conn *c, int err);
void conn_sent(struct conn *c, int status);
void conn_timeout(struct conn *c);
void conn_drain(struct conn *c);
void conn_close(struct conn *c, enum close_reason why);
void conn_hand_over(struct conn *c); /* its request is the hub's from here */
void conn_respond(struct conn *c, struct req *r, struct http_res *res);

/* ---- later.c ---- */

struct later_line {
    struct req *req;
    int64_t sent_ms;
};
struct later {
    struct later_chunk *first, *last;
    size_t taken; /* bytes of the first chunk that have been dealt with */
    size_t bytes;
    VEC(struct later_line) lines;   /* answered, not yet in the log */
    size_t lines_done, lines_bytes; /* the latter: of the requests that are kept for them */
    uv_idle_t *idle;                /* runs while there is anything */
};
void later_open(struct front *f);
void later_close(struct front *f);
/* All that the idle connection c has sent, as it came. True: it is a poll that waits, c->later; false: it is
 * to be dealt with now. */
bool later_put(struct front *f, const struct conn *c, struct str bytes);
/* r has been answered, and no connection has it. True: its line, and its release, are left for later. Not of
 * what the front answers by itself: anybody can have that, as often as he likes. */
bool later_line(struct front *f, struct req *r);

/* ---- front.c ---- */

struct front {
    struct httpd *h;
    size_t index;
    struct texts texts;
    uv_loop_t *loop;
    uv_loop_t own_loop; /* with a thread of its own */
    uv_thread_t thread;
    struct mailbox *mail; /* likewise */
    struct transport *transport;
    struct wheel wheel;
    uv_prepare_t *before_sleep; /* log lines of the turn */
    uv_timer_t *timer;
    int64_t timer_due_ms; /* -1 when not running */
    int64_t now_ms;       /* monotonic: when what is being handled began, some microseconds ago */
    int64_t received_ms;  /* when the bytes that are being read came */
    int64_t ahead_ms;     /* of it, the wall clock */
    int64_t date_s;       /* second for which date and prefix hold */
    char date[48];
    struct buf head;      /* of the response being built */
    size_t usual_bytes;   /* its first bytes are those of a 200 JSON keep-alive response, up to the length; 0:
                             not */
    int64_t full_said_ms; /* when the log last told that connections are refused; 0: never */
    int64_t full_since_said; /* how many since */
    struct later later;
    bool draining;
    struct mail drain_mail, stop_mail;
    uv_sem_t stop_posted; /* with a thread: mailbox_post() of stop_mail has returned */
};
int front_open(struct front *f, struct err *e) NODISCARD;
void front_close(struct front *f);
void front_drain(struct front *f);
void front_timer_set(struct front *f, struct wheel_timer *t, int64_t due_ms);
/* A request is complete: answers it, or hands it to the hub. */
void front_request(struct front *f, struct conn *c);
void front_gone(struct front *f, struct req *r);
void front_gone_acked(struct front *f, struct gone *gone); /* the hub knows it; frees gone */
/* A connection could not be had, for this reason: counted, and said in the log now and then. */
void front_refused_connection(struct front *f, enum close_reason why, const char *text);
/* From the hub; moves res out. */
void front_reply(struct front *f, struct req *r, struct http_res *res, bool drop);
void front_release(struct front *f, struct req *r);
void front_mail(void *arg, struct mail *m);
void front_date(struct front *f);

static inline uint64_t conn_id(const struct conn *c)
{
    return transport_id(c->f->transport, c);
}

/* ---- listen.c ---- */

struct listen_fd {
    int fd;
    size_t listener, front;
};
struct listen_set {
    VEC(struct listen_fd) fds;
};
/* Opens every listener of cfg for so many fronts. */
int listen_open(struct listen_set *s, const struct config *cfg, size_t fronts, int *ports,
                struct err *e) NODISCARD;
/* Closes those not handed on (fd >= 0), and removes the names of the UNIX sockets that were bound. */
void listen_close(struct listen_set *s, const struct config *cfg);

/* ---- server.c ---- */

struct http_listener {
    const struct config_listener *cfg;
    char logger[96]; /* synapse.access.http.<tag> */
    int port;
};
struct httpd {
    const struct config *cfg;
    struct httpd_routes routes;
    uv_loop_t *loop;
    struct http_listener *listeners;
    size_t listeners_count;
    struct listen_set set;
    struct front *fronts;
    size_t fronts_count;
    int64_t connections_max; /* cfg's, or what descriptors allow */
    bool threaded;
    struct mailbox *mail; /* to the hub, when threaded */
    enum transport_kind kind;
    char why[160];
    char transport_text[192];
    size_t with_handler; /* hub's: requests the handler has */
    bool stopping;
    _Atomic int64_t connections, in_flight, polls_waiting, read_bytes, waiting_bytes, request_bytes;
    _Atomic int64_t requests;
    /* the metrics of every request: M_http_requests and so on */
    _Atomic int64_t *requests_total, *in_flight_gauge, *bytes_sent_total, *ok_total, *polls_waited_total;
    _Atomic bool healthy, ready, draining;
    uv_sem_t started;
    int start_rc;
    struct err start_err;
};
/* Adds to a counter of the server; answers what it was before. Without threads nobody else writes. */
static inline int64_t httpd_add(const struct httpd *h, _Atomic int64_t *counter, int64_t n)
{
    if (h->threaded)
        return atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
    int64_t before = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, before + n, memory_order_relaxed);
    return before;
}
/* Hands a request over; front's thread. */
void httpd_hand_over(struct httpd *h, struct req *r);
/* Its client has gone: tells the handler, once. Hub's thread. */
void httpd_gone(struct httpd *h, struct req *r);

/* ---- response.c ---- */

const char *http_status_text(int status);
const char *http_status_label(int status); /* static digits, for metrics */
/* What is written before res' body; good until the next. */
struct str response_head(struct front *f, const struct http_res *res, bool close);

/* ---- access_log.c ---- */

struct access_entry {
    struct str ip, tag, requester, method, user_agent, request_id;
    struct str target[TARGET_PIECES];
    bool as_it_is;       /* known of the target: nothing in it has to be hidden, or escaped */
    bool agent_as_it_is; /* known of the user agent: there is one, and nothing in it has to be escaped */
    int64_t handler_ms, send_ms;
    size_t bytes;
    int status, minor;
    bool cut; /* the client left before the end */
};
/* One line, without the logger's prefix, in out; what there is no room for is left off. */
struct str access_format(char *out, size_t room, const struct access_entry *e);
void access_log(struct front *f, const struct req *r, bool cut);

/* Has the query a parameter the value of which is not to be shown? */
bool access_secret(struct str query);
bool access_as_it_is(struct str s); /* no byte of it is escaped */

/* url.c: the value of the first part that is spelt so; false: there is none, or it is not plain. */
bool query_since(struct str query, struct str *since);
/* Cuts the next part off a query that is not absent, at '&' or ';'; returns which, or 0 at the end. */
char query_cut(struct str *rest, struct str *part);
#endif
