/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The ordinary request head in one pass: a GET in HTTP/1.1 with a path, complete, with headers that neither
 * frame a body nor end the connection. That is what polling clients send, tens of thousands of times a
 * second. Whatever is out of the ordinary, and whatever is wrong, is left to http_head_scan() and
 * http_head_parse(): this reader refuses nothing, it only takes what it is sure of. What it takes is what the
 * other two would make of it (tests/fuzz/fuzz_http.c, tests/unit/http/test_head.c compare).
 *
 * Bytes are looked at sixteen at a time.
 */
#include "http_int.h"
#include <strings.h>

enum { QUICK_BYTES = 16384, QUICK_LINES = 64 };

static inline bytes16 no_target(bytes16 x)
{
    return (bytes16)(((signed16)x <= ' ') | ((signed16)x == 127) | ((signed16)x == '#'));
}

/* The first byte that a target may not have. */
static const char *target_end(const char *p, const char *end)
{
    return p + bytes16_before(str_n(p, (size_t)(end - p)), no_target);
}

static inline bytes16 no_value(bytes16 x)
{
    return (bytes16)((x < ' ') | (x == 127));
}

/* The first control byte, but for tabs. */
static const char *value_end(const char *p, const char *end)
{
    for (;;) {
        p += bytes16_before(str_n(p, (size_t)(end - p)), no_value);
        if (p == end || *p != '\t')
            return p;
        p++;
    }
}

/* Bytes of a name: what RFC 9110 calls a token. */
static const bool is_name[256] = {
    ['!'] = true,         ['#'] = true,         ['$'] = true,         ['%'] = true, ['&'] = true,
    ['\''] = true,        ['*'] = true,         ['+'] = true,         ['-'] = true, ['.'] = true,
    ['^'] = true,         ['_'] = true,         ['`'] = true,         ['|'] = true, ['~'] = true,
    ['0' ... '9'] = true, ['a' ... 'z'] = true, ['A' ... 'Z'] = true,
};

/* Names are letters and '-', nearly always. */
static inline bytes16 no_letter(bytes16 x)
{
    signed16 low = (signed16)(x | 0x20);
    return (bytes16)(((low < 'a') | (low > 'z')) & ((signed16)x != '-'));
}

/* The first byte that a name may not have. */
static const char *name_end(const char *p, const char *end)
{
    p += bytes16_before(str_n(p, (size_t)(end - p)), no_letter);
    while (p < end && is_name[(unsigned char)*p])
        p++;
    return p;
}

static inline uint64_t load8(const char *p)
{
    uint64_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* Ignoring case; lower is at least four letters and '-', s has no control bytes. */
static inline bool is(struct str s, struct str lower)
{
    const uint64_t case_bits = 0x2020202020202020u;
    if (s.n != lower.n)
        return false;
    if (s.n < 8) {
        uint32_t a[2], b[2];
        memcpy(&a[0], s.p, 4);
        memcpy(&a[1], s.p + s.n - 4, 4);
        memcpy(&b[0], lower.p, 4);
        memcpy(&b[1], lower.p + s.n - 4, 4);
        return (a[0] | (uint32_t)case_bits) == b[0] && (a[1] | (uint32_t)case_bits) == b[1];
    }
    for (size_t i = 0; i + 8 < s.n; i += 8) {
        if ((load8(s.p + i) | case_bits) != load8(lower.p + i))
            return false;
    }
    return (load8(s.p + s.n - 8) | case_bits) == load8(lower.p + s.n - 8);
}

/* False: not for us. */
static bool take_header(struct http_head *h, struct str name, struct str value, struct str request_id_header)
{
    if (name.n == request_id_header.n && name.n > 0 && strncasecmp(name.p, request_id_header.p, name.n) == 0)
        h->request_id = value;
    switch (name.n) {
    case 4:
        if (is(name, STR("host"))) {
            h->host = value;
            return h->host_count++ == 0;
        }
        return true;
    case 6:
        return !is(name, STR("expect"));
    case 7:
        return !is(name, STR("upgrade"));
    case 10:
        if (is(name, STR("user-agent")))
            h->user_agent = value;
        return !is(name, STR("connection")) || is(value, STR("keep-alive"));
    case 12:
        if (is(name, STR("content-type")))
            h->content_type = value;
        return true;
    case 13:
        if (is(name, STR("authorization")) && h->authorization_count++ == 0)
            h->authorization = value;
        return true;
    case 14:
        return !is(name, STR("content-length"));
    case 15:
        if (is(name, STR("x-forwarded-for")) && str_absent(h->forwarded_for))
            h->forwarded_for = value;
        return true;
    case 16:
        return !is(name, STR("proxy-connection"));
    default: /* http_parser takes names that begin so for the header itself */
        return name.n < 17 || !is(str_n(name.p, 17), STR("transfer-encoding"));
    }
}

static struct str trimmed(const char *p, const char *end)
{
    const char *from = p;
    while (from < end && (*from == ' ' || *from == '\t'))
        from++;
    if (from == end)
        return str_n(end, 0);
    while (end[-1] == ' ' || end[-1] == '\t')
        end--;
    return str_n(from, (size_t)(end - from));
}

/* "GET target HTTP/1.1\r\n"; where the headers begin, or NULL. */
static const char *take_line(struct http_head *h, const char *p, const char *end)
{
    static const char version[] = " HTTP/1.1\r\n";
    if (end - p < 4 || memcmp(p, "GET ", 4) != 0)
        return NULL;
    const char *target = p + 4;
    const char *stop = target_end(target, end);
    if (stop == target || *target != '/' || end - stop < (ptrdiff_t)sizeof version - 1 ||
        memcmp(stop, version, sizeof version - 1) != 0)
        return NULL;
    h->method_name = str_n(p, 3);
    h->target = str_n(target, (size_t)(stop - target));
    if (!str_cut(h->target, '?', &h->path, &h->query))
        h->query = STR_ABSENT;
    return stop + sizeof version - 1;
}

bool http_head_quick(struct str bytes, size_t bytes_max, struct str request_id_header, struct http_head *h,
                     size_t *length)
{
    size_t n = bytes.n < bytes_max ? bytes.n : bytes_max;
    const char *end = bytes.p + (n < QUICK_BYTES ? n : QUICK_BYTES);
    *h = (struct http_head){.method = HTTP_M_GET, .minor = 1, .keep_alive = true, .content_length = -1};
    const char *p = take_line(h, bytes.p, end);
    for (int lines = 0; p && lines < QUICK_LINES; lines++) {
        if (end - p >= 2 && p[0] == '\r' && p[1] == '\n') {
            *length = (size_t)(p + 2 - bytes.p);
            return true;
        }
        const char *name = p;
        p = name_end(p, end);
        if (p == end || p == name || *p != ':')
            return false;
        const char *stop = value_end(p + 1, end);
        if (end - stop < 2 || stop[0] != '\r' || stop[1] != '\n' ||
            !take_header(h, str_n(name, (size_t)(p - name)), trimmed(p + 1, stop), request_id_header))
            return false;
        p = stop + 2;
    }
    return false;
}
