/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The request object. A long poll may stand here for half a minute and there are tens of thousands of them,
 * so a request is one allocation: the struct and copies of what somebody reads later, nothing else of the
 * head, and an arena for the handler in the rest of the allocator's size class. The user agent is shared with
 * other requests. The value of Authorization is read where it arrived; where that will not last, in an
 * allocation of its own, which goes when the handler has seen it.
 */
#include "http_int.h"
#include <malloc.h>
#include <stdlib.h>

enum { REQUEST_ID_MAX = 64, METHOD_IN_ID_MAX = 24, ARENA_BYTES_MAX = 64 << 20, ARENA_ROOM = 48 };

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

/* "GET-17" */
static struct str make_id(struct str method, uint64_t number, char out[METHOD_IN_ID_MAX + 24])
{
    char digits[20], *p = digits + sizeof digits;
    do
        *--p = (char)('0' + number % 10);
    while (number /= 10);
    char *to = put(out, str_n(method.p, method.n < METHOD_IN_ID_MAX ? method.n : METHOD_IN_ID_MAX));
    *to++ = '-';
    to = put(to, str_n(p, (size_t)(digits + sizeof digits - p)));
    return str_n(out, (size_t)(to - out));
}

/* What an allocator with four size classes for each doubling gives for n bytes. */
static size_t size_class(size_t n)
{
    size_t step = ((size_t)1 << (63 - __builtin_clzl(n - 1))) / 4;
    return (n + step - 1) & ~(step - 1);
}

struct req *req_new(const struct http_head *h, struct str client_ip, uint64_t number, struct agents *agents,
                    bool borrow)
{
    char made[METHOD_IN_ID_MAX + 24];
    struct str id = usable_id(h->request_id) ? h->request_id : make_id(h->method_name, number, made);
    /* path and query are inside the target, but for "/" of an absolute target without path */
    bool inside = h->path.p >= h->target.p && h->path.p <= h->target.p + h->target.n;
    size_t bytes =
        offsetof(struct req, bytes) + h->method_name.n + h->target.n + id.n + client_ip.n + !inside;
    size_t arena_at = (bytes + 15) & ~(size_t)15, all = size_class(arena_at + ARENA_BYTES + ARENA_ROOM);
    struct req *r = xmalloc(all);
    memset(r, 0, sizeof *r);
    r->method_bytes = (uint32_t)h->method_name.n;
    r->target_bytes = (uint32_t)h->target.n;
    r->id_bytes = (uint8_t)id.n;
    char *target = put(r->bytes, h->method_name);
    char *ip = put(put(target, h->target), id);
    char *slash = put(ip, client_ip);
    r->pub.client_ip = str_n(ip, client_ip.n);
    if (!inside)
        *slash = '/';
    r->pub.path = str_n(inside ? target + (h->path.p - h->target.p) : slash, h->path.n);
    if (!str_absent(h->query))
        r->pub.query = str_n(target + (h->query.p - h->target.p), h->query.n);
    r->pub.authorization = borrow ? h->authorization : str_dup(h->authorization);
    r->secret_owned = !borrow;
    struct blob *agent = agent_of(agents, h->user_agent);
    r->pub.user_agent = agent ? blob_str(agent) : STR("");
    r->pub.method = h->method;
    r->pub.authorization_count = (uint16_t)h->authorization_count;
    r->pub.body = STR("");
    r->options = h->options;
    r->minor = h->minor;
    r->close = !h->keep_alive;
    r->pub.arena = arena_new_in((char *)r + arena_at, all - arena_at, ARENA_BYTES_MAX);
    r->memory = (uint32_t)malloc_usable_size(r);
    return r;
}

char *req_take_secret(struct req *r)
{
    char *secret = r->secret_owned ? (char *)(uintptr_t)r->pub.authorization.p : NULL;
    r->secret_owned = false;
    return secret;
}

void req_replied(struct req *r, int64_t now_ms, size_t body_sent)
{
    r->replied = true;
    r->replied_ms = now_ms;
    r->body_sent = body_sent;
}

void req_free(struct req **rp)
{
    struct req *r = *rp;
    *rp = NULL;
    if (!r)
        return;
    char *secret = req_take_secret(r);
    secret_free(&secret);
    arena_free(&r->pub.arena);
    if (r->pub.user_agent.n) {
        struct blob *agent = container_of(r->pub.user_agent.p, struct blob, p);
        blob_unref(&agent);
    }
    free(r->gone);
    if (r->pub.body.n)
        free((char *)(uintptr_t)r->pub.body.p);
    free(r);
}
