/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Is a text already what reading and writing it would give? What Synapse stores has been written by Python's
 * json module, as we write: tens of thousands of to-device messages a second need not be taken apart to be
 * put together again. One pass without memory, which says no wherever it would have to think: to floats, long
 * numbers and objects, deep nesting, escaped keys.
 */
#include "base_int.h"

enum { DEPTH_MAX = 16, KEYS_MAX = 24, DIGITS_MAX = 15 };

struct scan {
    const char *p, *end;
};

static bool is_lower_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

/* Behind "\u": what has no shorter form, and is not printable. */
static bool take_unit(struct scan *s)
{
    unsigned unit = 0;
    if (s->end - s->p < 4)
        return false;
    for (int i = 0; i < 4; i++, s->p++) {
        if (!is_lower_hex(*s->p))
            return false;
        unit = unit << 4 | (unsigned)(*s->p <= '9' ? *s->p - '0' : *s->p - 'a' + 10);
    }
    bool shorter = unit == 8 || unit == 9 || unit == 10 || unit == 12 || unit == 13;
    return unit && !shorter && (unit < 0x20 || unit >= 0x7f);
}

/* What does not stand for itself in a string. */
static bytes16 odd(bytes16 x)
{
    return (bytes16)((x < 0x20) | (x > 0x7e) | (x == '"') | (x == '\\'));
}

/* The rest of a string. */
static bool take_string(struct scan *s, bool *escaped)
{
    *escaped = false;
    for (;;) {
        s->p += bytes16_before(str_n(s->p, (size_t)(s->end - s->p)), odd);
        if (s->p == s->end)
            return false;
        char c = *s->p++;
        if (c == '"')
            return true;
        if (c != '\\' || s->p == s->end)
            return false;
        *escaped = true;
        c = *s->p++;
        if (c == 'u' ? !take_unit(s) : !c || !strchr("\"\\bfnrt", c))
            return false;
    }
}

static bool take_number(struct scan *s)
{
    const char *from = s->p;
    if (s->p < s->end && *s->p == '-')
        s->p++;
    const char *digits = s->p;
    while (s->p < s->end && *s->p >= '0' && *s->p <= '9')
        s->p++;
    size_t n = (size_t)(s->p - digits);
    bool zero = n && *digits == '0';
    bool more = s->p < s->end && (*s->p == '.' || *s->p == 'e' || *s->p == 'E');
    return n && n <= DIGITS_MAX && !more && !(zero && (n > 1 || digits > from));
}

static bool take_literal(struct scan *s, struct str text)
{
    if ((size_t)(s->end - s->p) < text.n || memcmp(s->p, text.p, text.n) != 0)
        return false;
    s->p += text.n;
    return true;
}

static bool take_value(struct scan *s, int depth);

static bool take_key(struct scan *s, struct str *keys, size_t *n)
{
    bool escaped;
    if (*n == KEYS_MAX || s->p == s->end || *s->p++ != '"')
        return false;
    const char *from = s->p;
    if (!take_string(s, &escaped) || escaped || s->p == s->end || *s->p++ != ':')
        return false;
    struct str key = str_n(from, (size_t)(s->p - from) - 2);
    for (size_t i = 0; i < *n; i++) {
        if (str_eq(keys[i], key))
            return false;
    }
    keys[(*n)++] = key;
    return true;
}

/* The rest of an object or an array. */
static bool take_members(struct scan *s, bool object, int depth)
{
    struct str keys[KEYS_MAX];
    size_t n = 0;
    char close = object ? '}' : ']';
    if (depth == DEPTH_MAX || s->p == s->end)
        return false;
    if (*s->p == close) {
        s->p++;
        return true;
    }
    for (;;) {
        if ((object && !take_key(s, keys, &n)) || !take_value(s, depth + 1) || s->p == s->end)
            return false;
        char c = *s->p++;
        if (c == close)
            return true;
        if (c != ',')
            return false;
    }
}

static bool take_value(struct scan *s, int depth)
{
    bool escaped;
    if (s->p == s->end)
        return false;
    switch (*s->p) {
    case '{':
    case '[':
        s->p++;
        return take_members(s, s->p[-1] == '{', depth);
    case '"':
        s->p++;
        return take_string(s, &escaped);
    case 'n':
        return take_literal(s, STR("null"));
    case 't':
        return take_literal(s, STR("true"));
    case 'f':
        return take_literal(s, STR("false"));
    default:
        return take_number(s);
    }
}

bool json_is_written_object(struct str text)
{
    if (text.n == 0 || text.p[0] != '{')
        return false;
    struct scan s = {text.p, text.p + text.n};
    return take_value(&s, 0) && s.p == s.end;
}
