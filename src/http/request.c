/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The request object. A long poll may stand here for half a minute and there are tens of thousands of them,
 * so a request is one allocation: the struct and copies of the slices that somebody reads later, nothing else
 * of the head. The arena that handlers use takes no memory before its first allocation.
 */
#include "http_int.h"
#include <stdio.h>
#include <stdlib.h>

enum { REQUEST_ID_MAX = 64, ARENA_BYTES_MAX = 64 << 20, ARENA_FIRST_BYTES = 480 };

struct copier {
    char *p;
};

static struct str copy(struct copier *c, struct str s)
{
    if (str_absent(s))
        return s;
    char *at = c->p;
    if (s.n)
        memcpy(at, s.p, s.n);
    c->p += s.n;
    return str_n(at, s.n);
}

/* Header bytes outside ASCII become U+FFFD each. */
static struct str copy_ascii(struct copier *c, struct str s)
{
    char *at = c->p;
    for (size_t i = 0; i < s.n; i++) {
        if ((unsigned char)s.p[i] < 0x80) {
            *c->p++ = s.p[i];
        } else {
            memcpy(c->p, "\xef\xbf\xbd", 3);
            c->p += 3;
        }
    }
    return str_n(at, (size_t)(c->p - at));
}

static size_t ascii_bytes(struct str s)
{
    size_t n = s.n;
    for (size_t i = 0; i < s.n; i++)
        n += (unsigned char)s.p[i] < 0x80 ? 0 : 2;
    return n;
}

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

/* What the allocator makes of n bytes: four sizes between each power of two and the next. */
static size_t rounded(size_t n)
{
    size_t step = 16;
    while (n > step * 8)
        step *= 2;
    return (n + step - 1) / step * step;
}

struct req *req_new(const struct http_head *h, struct str client_ip, uint64_t number)
{
    char made[64];
    struct str id = h->request_id;
    if (!usable_id(id)) {
        size_t method = h->method_name.n < 24 ? h->method_name.n : 24;
        int n = snprintf(made, sizeof made, "%.*s-%llu", (int)method, h->method_name.p,
                         (unsigned long long)number);
        id = str_n(made, (size_t)n);
    }
    size_t bytes = h->method_name.n + h->target.n + 1 + h->authorization.n + ascii_bytes(h->user_agent) +
                   client_ip.n + h->content_type.n + id.n;
    struct req *r = xmalloc(sizeof *r + bytes);
    memset(r, 0, sizeof *r);
    struct copier c = {r->bytes};
    r->method_name = copy(&c, h->method_name);
    r->target = copy(&c, h->target);
    /* path and query are inside the target, but for "/" of an absolute target without path */
    bool inside = h->path.p >= h->target.p && h->path.p <= h->target.p + h->target.n;
    r->pub.path = inside ? str_n(r->target.p + (h->path.p - h->target.p), h->path.n) : copy(&c, STR("/"));
    if (!str_absent(h->query))
        r->pub.query = str_n(r->target.p + (h->query.p - h->target.p), h->query.n);
    r->pub.authorization = copy(&c, h->authorization);
    r->pub.user_agent = copy_ascii(&c, h->user_agent);
    r->pub.client_ip = copy(&c, client_ip);
    r->pub.content_type = copy(&c, h->content_type);
    r->pub.request_id = copy(&c, id);
    r->pub.method = h->method;
    r->pub.authorization_count = h->authorization_count;
    r->pub.body = STR("");
    r->options = h->options;
    r->minor = (uint8_t)h->minor;
    r->close = !h->keep_alive;
    r->memory = (uint32_t)rounded(sizeof *r + bytes);
    r->pub.arena = arena_new_sized(ARENA_BYTES_MAX, ARENA_FIRST_BYTES);
    return r;
}

void req_free(struct req **rp)
{
    struct req *r = *rp;
    *rp = NULL;
    if (!r)
        return;
    arena_free(&r->pub.arena);
    free(r->body);
    free(r);
}
