/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The request object. A long poll may stand here for half a minute and there are tens of thousands of them,
 * so a request is one allocation: the struct and copies of what somebody reads later, nothing else of the
 * head, and the rest of the allocator's size class for what the handler adds. The user agent is shared with
 * other requests. The value of Authorization is read where it arrived; where that will not last, in an
 * allocation of its own, which goes when the handler has seen it.
 */
#include "http_int.h"
#include <malloc.h>
#include <stdlib.h>

enum {
    REQUEST_ID_MAX = 64,
    METHOD_IN_ID_MAX = 24,
    ROOM = 32, /* of the handler's, at least: a name and its end */
};
_Static_assert(METHOD_IN_ID_MAX + 1 + 20 <= REQ_ID_BYTES, "room for the longest");

static char *put(char *to, struct str s)
{
    if (s.n)
        memcpy(to, s.p, s.n);
    return to + s.n;
}

/* ---- user agents ---- */

/* Header bytes outside ASCII become U+FFFD each. */
static struct blob *agent_converted(struct str s)
{
    struct buf b;
    buf_init(&b, SIZE_MAX / 2);
    for (size_t i = 0; i < s.n; i++) {
        if ((unsigned char)s.p[i] < 0x80)
            buf_putc(&b, s.p[i]);
        else
            buf_put(&b, STR("\xef\xbf\xbd"));
    }
    struct blob *made = blob_from_buf(&b);
    buf_fini(&b);
    return made;
}

static bool is_ascii(struct str s)
{
    unsigned char any = 0;
    for (size_t i = 0; i < s.n; i++)
        any |= (unsigned char)s.p[i];
    return any < 0x80;
}

/* Where s would stand: three samples tell common agents apart; those that meet drive each other out, and
 * merely cost memory. */
static struct blob **agent_place(struct agents *a, struct str s)
{
    uint64_t h = s.n, x;
    for (size_t i = 0; i < 3 && s.n >= sizeof x; i++) {
        memcpy(&x, s.p + (s.n - sizeof x) * i / 2, sizeof x);
        h = (h ^ x) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    return &a->v[h % AGENTS];
}

static struct blob *agent_of(struct agents *a, struct str s)
{
    if (s.n == 0)
        return NULL;
    if (!a || s.n > AGENT_BYTES_MAX)
        return is_ascii(s) ? blob_new(s) : agent_converted(s);
    struct blob **at = agent_place(a, s);
    if (*at && str_eq(blob_str(*at), s))
        return blob_ref(*at);
    if (!is_ascii(s))
        return agent_converted(s);
    blob_unref(at);
    *at = blob_new(s);
    return blob_ref(*at);
}

void agents_fini(struct agents *a)
{
    for (size_t i = 0; i < AGENTS; i++)
        blob_unref(&a->v[i]);
}

/* ---- requests ---- */

/* A request id given by a proxy goes into logs: printable, and short. */
static bool usable_id(struct str s)
{
    if (s.n == 0 || s.n > REQUEST_ID_MAX)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] <= ' ' || s.p[i] > '~')
            return false;
    }
    return true;
}

/* Of methods that have a number of their own. */
static struct str usual_method(enum http_method m, bool options)
{
    static const struct str names[] = {
        [HTTP_M_GET] = {"GET", 3}, [HTTP_M_HEAD] = {"HEAD", 4},     [HTTP_M_POST] = {"POST", 4},
        [HTTP_M_PUT] = {"PUT", 3}, [HTTP_M_DELETE] = {"DELETE", 6}, [HTTP_M_OTHER] = {"OPTIONS", 7},
    };
    return m != HTTP_M_OTHER || options ? names[m] : STR_ABSENT;
}

struct str req_method(const struct req *r)
{
    return r->method_bytes ? str_n(r->bytes, r->method_bytes) : usual_method(r->pub.method, r->options);
}

struct str req_id(const struct req *r, char text[REQ_ID_BYTES])
{
    if (r->id_bytes)
        return str_n(r->bytes + r->method_bytes, r->id_bytes);
    char digits[20], *p = digits + sizeof digits;
    uint64_t number = r->number;
    do
        *--p = (char)('0' + number % 10);
    while (number /= 10);
    struct str method = req_method(r);
    char *to = put(text, str_n(method.p, method.n < METHOD_IN_ID_MAX ? method.n : METHOD_IN_ID_MAX));
    *to++ = '-';
    to = put(to, str_n(p, (size_t)(digits + sizeof digits - p)));
    return str_n(text, (size_t)(to - text));
}

/* What an allocator with four size classes for each doubling gives for n bytes. */
static size_t size_class(size_t n)
{
    size_t step = ((size_t)1 << (63 - __builtin_clzl(n - 1))) / 4;
    return (n + step - 1) & ~(step - 1);
}

/* Written where the head's bytes will not last. */
static const struct str *own_secret(struct str value)
{
    struct str *s = xmalloc(sizeof *s + value.n);
    *s = str_n((char *)(s + 1), value.n);
    put((char *)(s + 1), value);
    return s;
}

static uint8_t at_most_255(size_t n)
{
    return n < UINT8_MAX ? (uint8_t)n : UINT8_MAX;
}

/* Path and query, where they stand behind one another, and the address behind them. */
static void put_text(struct http_req *q, char *text, const struct http_head *h, struct str ip, size_t room)
{
    q->text = text;
    q->path_bytes = (uint32_t)h->path.n;
    q->has_query = !str_absent(h->query);
    q->query_bytes = (uint32_t)h->query.n;
    q->ip_bytes = (uint8_t)ip.n;
    put((char *)(uintptr_t)http_client_ip(q).p, ip);
    q->room_bytes = at_most_255(room);
}

struct req *req_new(const struct http_head *h, struct str client_ip, uint64_t number, struct agents *agents,
                    bool borrow)
{
    struct str id = usable_id(h->request_id) ? h->request_id : STR("");
    struct str method = str_absent(usual_method(h->method, h->options)) ? h->method_name : STR("");
    method.n = at_most_255(method.n); /* as much as a line shows of it */
    /* path and query end the target, but for "/" of an absolute target without path */
    bool inside = h->path.p >= h->target.p && h->path.p <= h->target.p + h->target.n;
    size_t again = inside ? 0 : h->path.n + (str_absent(h->query) ? 0 : 1 + h->query.n);
    size_t bytes = offsetof(struct req, bytes) + method.n + id.n + h->target.n + again + client_ip.n;
    size_t all = size_class(bytes + ROOM);
    struct req *r = xmalloc(all);
    memset(r, 0, sizeof *r);
    r->method_bytes = (uint8_t)method.n;
    r->id_bytes = (uint8_t)id.n;
    r->target_bytes = (uint32_t)h->target.n;
    char *target = put(put(r->bytes, method), id), *end = put(target, h->target);
    if (!inside) {
        char *to = put(end, h->path);
        if (!str_absent(h->query))
            put(put(to, STR("?")), h->query);
    }
    put_text(&r->pub, inside ? target + (h->path.p - h->target.p) : end, h, client_ip, all - bytes);
    if (!str_absent(h->authorization))
        r->pub.authorization = borrow ? &h->authorization : own_secret(h->authorization);
    r->secret_owned = !borrow && r->pub.authorization;
    r->pub.agent = agent_of(agents, h->user_agent);
    r->pub.method = h->method;
    r->pub.authorization_count = at_most_255((size_t)h->authorization_count);
    r->number = number & (((uint64_t)1 << 48) - 1);
    r->options = h->options;
    r->minor = h->minor;
    r->close = !h->keep_alive;
    r->memory = (uint32_t)malloc_usable_size(r);
    return r;
}

const struct str *req_take_secret(struct req *r)
{
    const struct str *secret = r->secret_owned ? r->pub.authorization : NULL;
    r->secret_owned = false;
    return secret;
}

void req_forget_secret(const struct str *secret)
{
    if (!secret)
        return;
    explicit_bzero((char *)(uintptr_t)secret->p, secret->n);
    free((void *)(uintptr_t)secret);
}

void req_replied(struct req *r, int64_t now_ms, size_t body_sent)
{
    r->replied = true;
    r->replied_ms = (uint32_t)now_ms;
    r->body_sent = body_sent;
}

void req_free(struct req **rp)
{
    struct req *r = *rp;
    *rp = NULL;
    if (!r)
        return;
    req_forget_secret(req_take_secret(r));
    arena_free(&r->pub.arena);
    blob_unref(&r->pub.agent);
    if (r->pub.body) {
        free((char *)(uintptr_t)r->pub.body->p);
        free((void *)(uintptr_t)r->pub.body);
    }
    free(r);
}
