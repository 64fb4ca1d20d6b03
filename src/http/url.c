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

struct str http_query(struct http_req *req, struct str name)
{
    struct str rest = http_query_string(req), value;
    if (!query_find(&rest, name, &value))
        return STR_ABSENT;
    return decoded(req, value);
}

bool http_query_has(const struct http_req *req, struct str name)
{
    struct str rest = http_query_string(req), value;
    return query_find(&rest, name, &value);
}

bool http_query_next(struct http_req *req, struct str name, size_t *it, struct str *value)
{
    struct str query = http_query_string(req);
    if (str_absent(query) || *it > query.n)
        return false;
    struct str rest = str_n(query.p + *it, query.n - *it);
    if (!query_find(&rest, name, value))
        return false;
    *it = str_absent(rest) ? query.n + 1 : (size_t)(rest.p - query.p);
    *value = decoded(req, *value);
    return true;
}
