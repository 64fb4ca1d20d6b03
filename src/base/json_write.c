/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The JSON writer: the bytes that Python's json.dumps(separators=(",", ":")) gives, ASCII by default, or raw
 * UTF-8 (canonical JSON). Runs of bytes that need no escape are copied whole. Bytes that are no UTF-8 at all,
 * which only our own mistakes could bring here, come out as U+FFFD: what we send must always parse. Byte
 * order of UTF-8 is code point order, so sorting by memcmp() is sorting as Python does.
 */
#include "base_int.h"
#include <stdlib.h>

enum { SORT_ON_STACK = 32 };

/* Printable ASCII except the quote and the backslash. */
static const bool plain[256] = {
    [0x20] = 1,
    [0x21] = 1,
    [0x23 ... 0x5b] = 1,
    [0x5d ... 0x7e] = 1,
};

static void put_u(struct buf *b, uint32_t unit)
{
    static const char hex[] = "0123456789abcdef";
    char e[6] = {'\\', 'u', hex[unit >> 12 & 15], hex[unit >> 8 & 15], hex[unit >> 4 & 15], hex[unit & 15]};
    buf_put(b, str_n(e, sizeof e));
}

static void put_code_point(struct buf *b, uint32_t cp, int flags)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *hit = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
    if (hit) {
        char e[2] = {'\\', to[hit - from]};
        buf_put(b, str_n(e, 2));
    } else if ((flags & JSON_UTF8) && cp >= 0x20 && !(cp >= 0xd800 && cp < 0xe000)) {
        char raw[4];
        buf_put(b, str_n(raw, utf8_encode(cp, raw)));
    } else if (cp >= 0x10000) {
        put_u(b, 0xd800 + ((cp - 0x10000) >> 10));
        put_u(b, 0xdc00 + ((cp - 0x10000) & 0x3ff));
    } else {
        put_u(b, cp);
    }
}

void json_write_str(struct buf *b, struct str s, int flags)
{
    size_t i = 0;
    buf_putc(b, '"');
    while (i < s.n) {
        size_t run = i;
        while (run < s.n && plain[(unsigned char)s.p[run]])
            run++;
        if (run > i)
            buf_put(b, str_n(s.p + i, run - i));
        for (i = run; i < s.n && !plain[(unsigned char)s.p[i]];) {
            uint32_t cp;
            unsigned n = utf8_decode(s.p + i, s.n - i, &cp);
            if (!n) {
                n = 1;
                cp = 0xfffd;
            }
            put_code_point(b, cp, flags);
            i += n;
        }
    }
    buf_putc(b, '"');
}

static int by_key(const void *a, const void *b)
{
    const struct json *const *x = a, *const *y = b;
    return str_cmp((*x)->key, (*y)->key);
}

static void write_member(struct buf *b, const struct json *m, bool first, int flags)
{
    if (!first)
        buf_putc(b, ',');
    json_write_str(b, m->key, flags);
    buf_putc(b, ':');
    json_write(b, m, flags);
}

static void write_sorted(struct buf *b, const struct json *obj, int flags)
{
    const struct json *on_stack[SORT_ON_STACK], **v = on_stack;
    size_t n = 0;
    if (obj->count > SORT_ON_STACK)
        v = xmalloc(obj->count * sizeof *v);
    json_each(m, obj)
        v[n++] = m;
    qsort(v, n, sizeof *v, by_key);
    for (size_t i = 0; i < n; i++)
        write_member(b, v[i], i == 0, flags);
    if (v != on_stack)
        free(v);
}

static void write_container(struct buf *b, const struct json *v, int flags)
{
    bool object = v->type == JSON_OBJECT;
    buf_putc(b, object ? '{' : '[');
    if (object && (flags & JSON_SORTED) && v->count > 1) {
        write_sorted(b, v, flags);
    } else {
        json_each(m, v) {
            if (object) {
                write_member(b, m, m == v->child, flags);
            } else {
                if (m != v->child)
                    buf_putc(b, ',');
                json_write(b, m, flags);
            }
        }
    }
    buf_putc(b, object ? '}' : ']');
}

void json_write(struct buf *b, const struct json *v, int flags)
{
    switch (v->type) {
    case JSON_NULL:
        buf_put(b, STR("null"));
        break;
    case JSON_FALSE:
        buf_put(b, STR("false"));
        break;
    case JSON_TRUE:
        buf_put(b, STR("true"));
        break;
    case JSON_NUMBER:
        buf_put(b, v->s);
        break;
    case JSON_STRING:
        json_write_str(b, v->s, flags);
        break;
    case JSON_ARRAY:
    case JSON_OBJECT:
        write_container(b, v, flags);
        break;
    }
}
