/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The request object. A long poll may stand here for half a minute and there are tens of thousands of them,
 * so a request is one allocation: the struct and copies of what somebody reads later, nothing else of the
 * head, and the rest of the allocator's size class for what the handler adds. The user agent, and most of a
 * poll's target, are shared with other requests (texts.c). The value of Authorization is read where it
 * arrived; where that will not last, in an allocation of its own, which goes when the handler has seen it.
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

/* What a target has in common with others, if it is worth sharing: the poll of a client that says who it is
 * by a header, since nothing secret is then in the target. */
static struct http_text *form_of(struct texts *texts, const struct http_head *h, struct str *since)
{
    if (!texts || h->method != HTTP_M_GET || h->path.p != h->target.p || str_absent(h->authorization) ||
        !query_since(h->query, since))
        return NULL;
    size_t before = (size_t)(since->p - h->target.p);
    return texts_form(texts, str_n(h->target.p, before),
                      str_n(since->p + since->n, h->target.n - before - since->n), h->path.n);
}

struct req *req_new(const struct http_head *h, struct str client_ip, uint64_t number, struct texts *texts,
                    bool borrow)
{
    struct str id = usable_id(h->request_id) ? h->request_id : STR("");
    struct str method = str_absent(usual_method(h->method, h->options)) ? h->method_name : STR("");
    method.n = at_most_255(method.n); /* as much as a line shows of it */
    struct str own = h->target, since;
    struct http_text *form = form_of(texts, h, &since);
    if (form)
        own = since;
    /* path and query end the target, but for "/" of an absolute target without path */
    bool inside = h->path.p >= h->target.p && h->path.p <= h->target.p + h->target.n;
    size_t query = str_absent(h->query) ? 0 : 1 + h->query.n, again = inside ? 0 : h->path.n + query;
    size_t bytes = offsetof(struct req, bytes) + method.n + id.n + own.n + again + client_ip.n;
    size_t all = size_class(bytes + ROOM);
    struct req *r = xmalloc(all);
    memset(r, 0, sizeof *r);
    r->method_bytes = (uint8_t)method.n;
    r->id_bytes = (uint8_t)id.n;
    r->target_bytes = (uint32_t)own.n;
    char *target = put(put(r->bytes, method), id), *end = put(target, own);
    r->pub.text = form ? target : inside ? target + (h->path.p - h->target.p) : end;
    r->pub.form = form;
    r->pub.before_bytes = form ? (uint16_t)(since.p - h->target.p) : 0;
    if (!inside) {
        end = put(end, h->path);
        if (query)
            end = put(put(end, STR("?")), h->query);
    }
    r->pub.path_bytes = (uint32_t)h->path.n;
    r->pub.has_query = query > 0;
    r->pub.own_bytes = (uint32_t)(end - r->pub.text);
    r->pub.ip_bytes = (uint8_t)client_ip.n;
    put(end, client_ip);
    r->pub.room_bytes = at_most_255(all - bytes);
    if (!str_absent(h->authorization))
        r->pub.authorization = borrow ? &h->authorization : own_secret(h->authorization);
    r->secret_owned = !borrow && r->pub.authorization;
    r->pub.agent = texts_agent(texts, h->user_agent);
    r->pub.method = h->method;
    r->pub.authorization_count = at_most_255((size_t)h->authorization_count);
    r->number = number & (((uint64_t)1 << 48) - 1);
    r->options = h->options;
    r->minor = h->minor;
    r->close = !h->keep_alive;
    r->memory = (uint32_t)malloc_usable_size(r);
    return r;
}

void req_target(const struct req *r, struct str target[TARGET_PIECES])
{
    const struct http_text *form = r->pub.form;
    struct str own = str_n(r->bytes + r->method_bytes + r->id_bytes, r->target_bytes);
    target[0] = form ? str_n(form->p, r->pub.before_bytes) : own;
    target[1] = form ? own : STR("");
    target[2] = form ? str_n(form->p + r->pub.before_bytes, form->n - r->pub.before_bytes) : STR("");
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
    text_unref(&r->pub.agent);
    text_unref(&r->pub.form);
    if (r->pub.body) {
        free((char *)(uintptr_t)r->pub.body->p);
        free((void *)(uintptr_t)r->pub.body);
    }
    free(r);
}
