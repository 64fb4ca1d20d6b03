/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Percent-encoding and query strings. A query is split at '&' and ';', and a part without '=' is no
 * parameter: that is how Twisted, and therefore Synapse, reads them. Names are compared after decoding.
 */
#include "http_int.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool is_encoded(struct str s, bool plus_is_space)
{
    return s.n && (memchr(s.p, '%', s.n) || (plus_is_space && memchr(s.p, '+', s.n)));
}

/* Decodes s into out, which has room for s.n bytes. */
static size_t decode(char *out, struct str s, bool plus_is_space)
{
    size_t n = 0;
    if (!is_encoded(s, plus_is_space)) {
        if (s.n)
            memcpy(out, s.p, s.n);
        return s.n;
    }
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '%' && s.n - i > 2 && hex_digit(s.p[i + 1]) >= 0 && hex_digit(s.p[i + 2]) >= 0) {
            out[n++] = (char)(hex_digit(s.p[i + 1]) << 4 | hex_digit(s.p[i + 2]));
            i += 2;
        } else {
            out[n++] = s.p[i] == '+' && plus_is_space ? ' ' : s.p[i];
        }
    }
    return n;
}

struct str url_decode(struct arena *a, struct str s, bool plus_is_space)
{
    char *out = arena_alloc(a, s.n + 1);
    return str_n(out, decode(out, s, plus_is_space));
}

void url_encode(struct buf *b, struct str s)
{
    static const char digits[] = "0123456789ABCDEF";
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
            c == '.' || c == '_' || c == '~') {
            buf_putc(b, (char)c);
        } else {
            char escaped[3] = {'%', digits[c >> 4], digits[c & 15]};
            buf_put(b, str_n(escaped, 3));
        }
    }
}

/* Compares without memory of its own: escaped names are rare, and never longer than three times the wanted
 * one. */
static bool name_is(struct str raw, struct str name)
{
    if (str_eq(raw, name))
        return true;
    char small[192];
    if (raw.n > sizeof small || raw.n < name.n || name.n == 0 || !is_encoded(raw, true))
        return false;
    return str_eq(str_n(small, decode(small, raw, true)), name);
}

char query_cut(struct str *rest, struct str *part)
{
    const char *end = rest->n ? memchr(rest->p, '&', rest->n) : NULL, *semicolon;
    size_t n = end ? (size_t)(end - rest->p) : rest->n;
    if (n && (semicolon = memchr(rest->p, ';', n)))
        n = (size_t)(semicolon - rest->p);
    *part = str_n(rest->p, n);
    char sep = n < rest->n ? rest->p[n] : 0;
    *rest = sep ? str_n(rest->p + n + 1, rest->n - n - 1) : STR_ABSENT;
    return sep;
}

/* Advances *rest past what it finds. */
static bool query_find(struct str *rest, struct str name, struct str *value)
{
    struct str part, key;
    bool encoded = is_encoded(*rest, true); /* else names are what they look like */
    while (!str_absent(*rest)) {
        query_cut(rest, &part);
        if (part.n > name.n && part.p[name.n] == '=' && str_eq(str_n(part.p, name.n), name)) {
            *value = str_n(part.p + name.n + 1, part.n - name.n - 1);
            return true;
        }
        if (encoded && str_cut(part, '=', &key, value) && name_is(key, name))
            return true;
    }
    return false;
}

static struct str decoded(struct http_req *req, struct str value)
{
    if (str_find(value, '%') < 0 && str_find(value, '+') < 0)
        return value;
    return url_decode(http_arena(req), value, true);
}

/* The parts of a query are in one stretch of bytes; or in two, of which the first ends with a name, the value
 * of which stands elsewhere. */
struct stretches {
    struct str first, second; /* the latter absent: there is one */
    struct str value;
};

static struct stretches stretches_of(const struct http_req *req)
{
    size_t skip = (size_t)req->path_bytes + 1;
    struct stretches s = {STR_ABSENT, STR_ABSENT, STR_ABSENT};
    if (!req->has_query)
        return s;
    if (!req->form) {
        s.first = str_n(req->text + skip, req->own_bytes - skip);
        return s;
    }
    s.first = str_n(req->form->p + skip, req->before_bytes - skip);
    s.value = str_n(req->text, req->own_bytes);
    if (req->form->n > req->before_bytes) /* behind an '&' */
        s.second = str_n(req->form->p + req->before_bytes + 1, req->form->n - req->before_bytes - 1u);
    return s;
}

/* *it begins as 0, and counts bytes of both. */
static bool find_next(const struct stretches *s, struct str name, size_t *it, struct str *value)
{
    size_t second = s->first.n + 1;
    if (str_absent(s->first))
        return false;
    if (*it < second) {
        struct str rest = str_n(s->first.p + *it, s->first.n - *it);
        bool found = query_find(&rest, name, value);
        *it = str_absent(rest) ? second : (size_t)(rest.p - s->first.p);
        if (found && str_absent(rest) && !str_absent(s->value))
            *value = s->value;
        if (found)
            return true;
    }
    if (str_absent(s->second) || *it - second > s->second.n)
        return false;
    struct str rest = str_n(s->second.p + (*it - second), s->second.n - (*it - second));
    bool found = query_find(&rest, name, value);
    *it = second + (str_absent(rest) ? s->second.n + 1 : (size_t)(rest.p - s->second.p));
    return found;
}

struct str http_query(struct http_req *req, struct str name)
{
    struct stretches s = stretches_of(req);
    struct str value;
    return find_next(&s, name, &(size_t){0}, &value) ? decoded(req, value) : STR_ABSENT;
}

bool http_query_has(const struct http_req *req, struct str name)
{
    struct stretches s = stretches_of(req);
    struct str value;
    return find_next(&s, name, &(size_t){0}, &value);
}

bool http_query_next(struct http_req *req, struct str name, size_t *it, struct str *value)
{
    struct stretches s = stretches_of(req);
    if (!find_next(&s, name, it, value))
        return false;
    *value = decoded(req, *value);
    return true;
}

/* ---- since ---- */

/* Bytes that do not stand for themselves in a query; tokens are made of the others. */
static inline bytes16 not_plain(bytes16 x)
{
    bytes16 letter = (x | 0x20) - 'a', digit = x - '0';
    return (bytes16) ~((letter < 26) | (digit < 10) | (x == '_') | (x == '~') | (x == '.') | (x == '-'));
}

bool query_since(struct str query, struct str *since)
{
    static const char name[] = {'s', 'i', 'n', 'c', 'e', '='};
    if (!query.n)
        return false;
    const char *p = query.p, *end = query.p + query.n;
    while (end - p > (ptrdiff_t)sizeof name) {
        bool is = memcmp(p, name, sizeof name) == 0;
        const char *from = p + (is ? sizeof name : 0);
        const char *stop = memchr(from, '&', (size_t)(end - from));
        if (is && stop != from) {
            *since = str_n(from, (size_t)((stop ? stop : end) - from));
            return bytes16_before(*since, not_plain) == since->n;
        }
        if (!stop)
            return false;
        p = stop + 1;
    }
    return false;
}

bool http_query_since(const struct http_req *req, struct str *before, struct str *since, struct str *after)
{
    size_t skip = (size_t)req->path_bytes + 1;
    if (req->form) {
        *before = str_n(req->form->p + skip, req->before_bytes - skip);
        *since = str_n(req->text, req->own_bytes);
        *after = str_n(req->form->p + req->before_bytes, req->form->n - req->before_bytes);
        return true;
    }
    struct str query = req->has_query ? str_n(req->text + skip, req->own_bytes - skip) : STR_ABSENT;
    if (!query_since(query, since))
        return false;
    *before = str_n(query.p, (size_t)(since->p - query.p));
    *after = str_n(since->p + since->n, query.n - before->n - since->n);
    return true;
}

bool http_form_hash(const struct http_req *req, struct hash128 *hash, struct str *since)
{
    struct str pieces[2];
    if (!http_query_since(req, &pieces[0], since, &pieces[1]))
        return false;
    if (req->form) {
        *hash = req->form->hash;
        return true;
    }
    pieces[0] = str_n(req->text, (size_t)(since->p - req->text));
    *hash = str_hash128_of(pieces, 2);
    return true;
}
