/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The strict JSON reader, with the language that Python's json module accepts (minus NaN and Infinity).
 *
 * The text is copied into the arena once, with a NUL behind it; strings are decoded in place, for an escape
 * is never shorter than what it stands for, and values are slices of the copy. The NUL is no valid JSON byte
 * anywhere, therefore it stops every loop and no loop compares with the end. Containers are kept on a fixed
 * stack, so depth costs no C stack. Numbers get the text that Python would print: integers stand as they are,
 * a float whose text is not already its shortest form is printed anew. Duplicate keys are merged when an
 * object closes: the last value wins, at the place of the first; large objects use a hash table, so that
 * hostile ones stay linear. An event of 800 bytes costs about 2 us.
 */
#include "base_int.h"
#include "chappe/map.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    INT_DIGITS_MAX = 4300, /* longer integers are refused by Python too */
    MEMBERS_LINEAR_MAX = 16,
};

struct reader {
    struct arena *arena;
    char *r;   /* next byte */
    char *end; /* the NUL */
    struct json *stack[JSON_DEPTH_MAX];
    size_t depth;
};

/* Bytes of a string that stand for themselves; the others stop the fast loop. */
static const bool plain[256] = {
    [0x20] = 1,
    [0x21] = 1,
    [0x23 ... 0x5b] = 1,
    [0x5d ... 0x7f] = 1,
};

static void skip_blanks(struct reader *rd)
{
    while (*rd->r == ' ' || *rd->r == '\n' || *rd->r == '\t' || *rd->r == '\r')
        rd->r++;
}

/* ---- strings ---- */

static int hex4(const char *p, uint32_t *out)
{
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        uint32_t digit;
        if (c >= '0' && c <= '9')
            digit = (uint32_t)(c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            digit = (uint32_t)((c | 0x20) - 'a' + 10);
        else
            return -ERR_PARSE; /* the NUL too, so nothing behind it is read */
        v = v << 4 | digit;
    }
    *out = v;
    return 0;
}

/* r stands on the backslash. */
static int read_escape(struct reader *rd, char **w)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = rd->r[1];
    if (c != 'u') {
        const char *hit = c ? strchr(from, c) : NULL;
        if (!hit)
            return -ERR_PARSE;
        *(*w)++ = to[hit - from];
        rd->r += 2;
        return 0;
    }
    uint32_t cp, low;
    if (hex4(rd->r + 2, &cp))
        return -ERR_PARSE;
    rd->r += 6;
    if (cp >= 0xd800 && cp < 0xdc00 && rd->r[0] == '\\' && rd->r[1] == 'u' && !hex4(rd->r + 2, &low) &&
        low >= 0xdc00 && low < 0xe000) {
        cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
        rd->r += 6;
    }
    *w += utf8_encode(cp, *w);
    return 0;
}

/* r stands behind the opening quote. */
static int read_string(struct reader *rd, struct str *out)
{
    char *start = rd->r, *w;
    while (plain[(unsigned char)*rd->r])
        rd->r++;
    w = rd->r;
    while (*rd->r != '"') {
        unsigned char c = (unsigned char)*rd->r;
        if (plain[c]) {
            *w++ = *rd->r++;
        } else if (c == '\\') {
            if (read_escape(rd, &w))
                return -ERR_PARSE;
        } else if (c < 0x80) {
            return -ERR_PARSE; /* a raw control byte, or the end */
        } else {
            uint32_t cp;
            unsigned n = utf8_decode(rd->r, (size_t)(rd->end - rd->r), &cp);
            if (!n || (cp >= 0xd800 && cp < 0xe000))
                return -ERR_PARSE;
            memmove(w, rd->r, n);
            w += n;
            rd->r += n;
        }
    }
    rd->r++;
    *out = str_n(start, (size_t)(w - start));
    return 0;
}

/* ---- numbers ---- */

/* True when the text of a float is what Python would print for it: at most 15 digits always survive, and no
 * exponent or needless zero may be there. whole and frac are the digits before and behind the point. */
static bool float_is_shortest(struct str whole, struct str frac, bool exponent)
{
    if (exponent || !frac.n || whole.n + frac.n > 15)
        return false;
    if (frac.p[frac.n - 1] == '0')
        return frac.n == 1;
    return whole.p[0] != '0' || !str_starts(frac, STR("0000"));
}

/* The shortest digits that read back as v: "d.ddde±xx" in out. */
static void shortest_digits(double v, char out[40])
{
    int exponent;
    bool power_of_two = frexp(v, &exponent) == 0.5;
    /* Among normal numbers any two texts of up to 15 digits differ in value, so that a shorter one can only
     * be the same digits with zeros cut off; subnormal numbers have fewer digits, and all lengths are tried.
     */
    for (int digits = v < 0x1p-1022 ? 1 : 15; digits < 17; digits++) {
        snprintf(out, 40, "%.*e", digits - 1, v);
        if (strtod(out, NULL) == v)
            return;
        if (!power_of_two)
            continue;
        /* Below a power of two doubles lie twice as dense: the nearest text may miss while the next one hits.
         */
        char *last = strchr(out, 'e') - 1;
        if (*last >= '0' && *last < '9') {
            ++*last;
            if (strtod(out, NULL) == v)
                return;
        }
    }
    snprintf(out, 40, "%.16e", v);
}

/* Python's repr(): positional for exponents -4 to 15, else d.ddde±xx. */
static void float_repr(double v, char out[64])
{
    char e[40], digits[20];
    size_t n = 0, o = 0;
    if (signbit(v)) {
        out[o++] = '-';
        v = -v;
    }
    if (v == 0) {
        memcpy(out + o, "0.0", 4);
        return;
    }
    shortest_digits(v, e);
    char *mark = strchr(e, 'e');
    int exponent = (int)strtol(mark + 1, NULL, 10);
    for (char *p = e; p < mark; p++)
        if (*p != '.')
            digits[n++] = *p;
    ASSERT(n > 0);
    while (n > 1 && digits[n - 1] == '0')
        n--;
    if (exponent < -4 || exponent >= 16) {
        out[o++] = digits[0];
        if (n > 1) {
            out[o++] = '.';
            memcpy(out + o, digits + 1, n - 1);
            o += n - 1;
        }
        snprintf(out + o, 64 - o, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    /* at: how many of the digits stand before the point; zeros fill what is missing on either side. */
    int at = exponent + 1;
    if (at <= 0)
        out[o++] = '0';
    for (int i = 0; i < at; i++)
        out[o++] = i < (int)n ? digits[i] : '0';
    out[o++] = '.';
    for (int i = at; i < 0; i++)
        out[o++] = '0';
    for (int i = at > 0 ? at : 0; i < (int)n; i++)
        out[o++] = digits[i];
    if (out[o - 1] == '.')
        out[o++] = '0';
    out[o] = 0;
}

static struct str take_digits(struct reader *rd)
{
    char *start = rd->r;
    while (*rd->r >= '0' && *rd->r <= '9')
        rd->r++;
    return str_n(start, (size_t)(rd->r - start));
}

static int read_number(struct reader *rd, struct str *out)
{
    char *start = rd->r;
    struct str frac = STR_ABSENT;
    bool exponent = false;
    if (*rd->r == '-')
        rd->r++;
    struct str whole = take_digits(rd);
    if (!whole.n || (whole.n > 1 && whole.p[0] == '0'))
        return -ERR_PARSE;
    if (*rd->r == '.') {
        rd->r++;
        frac = take_digits(rd);
        if (!frac.n)
            return -ERR_PARSE;
    }
    if (*rd->r == 'e' || *rd->r == 'E') {
        rd->r++;
        if (*rd->r == '+' || *rd->r == '-')
            rd->r++;
        if (!take_digits(rd).n)
            return -ERR_PARSE;
        exponent = true;
    }
    *out = str_n(start, (size_t)(rd->r - start));
    if (!frac.n && !exponent) {
        if (str_eq(*out, STR("-0")))
            *out = STR("0");
        return whole.n <= INT_DIGITS_MAX ? 0 : -ERR_PARSE;
    }
    if (float_is_shortest(whole, frac, exponent))
        return 0;
    char text[64];
    double v = strtod(start, NULL); /* stops where we did: at a byte that continues no number */
    if (isinf(v))
        return -ERR_PARSE;
    float_repr(v, text);
    struct str s = str_of(text);
    char *kept = arena_try_alloc(rd->arena, s.n);
    if (!kept)
        return -ERR_NOMEM;
    memcpy(kept, s.p, s.n);
    *out = str_n(kept, s.n);
    return 0;
}

/* ---- structure ---- */

/* The value of a later member goes to the earlier one of the same key; the later one is unlinked. */
static void merge_member(struct json *obj, struct json *first, struct json *prev, struct json *later)
{
    first->type = later->type;
    first->s = later->s;
    first->child = later->child;
    first->last = later->last;
    first->count = later->count;
    prev->next = later->next;
    if (obj->last == later)
        obj->last = prev;
    obj->count--;
}

static struct json *find_before(const struct json *obj, const struct json *stop)
{
    for (struct json *m = obj->child; m != stop; m = m->next)
        if (str_eq(m->key, stop->key))
            return m;
    return NULL;
}

static void merge_duplicates(struct json *obj)
{
    struct smap seen;
    bool linear = obj->count <= MEMBERS_LINEAR_MAX;
    smap_init(&seen);
    for (struct json *prev = NULL, *m = obj->child, *next; m; m = next) {
        next = m->next;
        struct json *first = linear ? find_before(obj, m) : smap_get(&seen, m->key);
        if (first) {
            ASSERT(prev != NULL);
            merge_member(obj, first, prev, m);
        } else {
            if (!linear)
                smap_put(&seen, m->key, m);
            prev = m;
        }
    }
    smap_fini(&seen);
}

static int read_literal(struct reader *rd, struct json *v)
{
    static const struct {
        struct str text;
        enum json_type type;
    } literals[] = {{{"null", 4}, JSON_NULL}, {{"false", 5}, JSON_FALSE}, {{"true", 4}, JSON_TRUE}};
    for (size_t i = 0; i < sizeof literals / sizeof *literals; i++) {
        if (strncmp(rd->r, literals[i].text.p, literals[i].text.n) == 0) {
            rd->r += literals[i].text.n;
            v->type = literals[i].type;
            return 0;
        }
    }
    return -ERR_PARSE;
}

/* r stands on the first byte of a value. Containers are entered, not read. */
static int read_value(struct reader *rd, struct json *v)
{
    switch (*rd->r) {
    case '{':
    case '[':
        v->type = *rd->r++ == '{' ? JSON_OBJECT : JSON_ARRAY;
        if (rd->depth == JSON_DEPTH_MAX)
            return -ERR_PARSE;
        rd->stack[rd->depth++] = v;
        return 0;
    case '"':
        rd->r++;
        v->type = JSON_STRING;
        return read_string(rd, &v->s);
    case '-':
    case '0' ... '9':
        v->type = JSON_NUMBER;
        return read_number(rd, &v->s);
    default:
        return read_literal(rd, v);
    }
}

/* Leaves every container that ends here; then a comma, if another element follows. */
static int read_ends(struct reader *rd)
{
    while (rd->depth) {
        struct json *top = rd->stack[rd->depth - 1];
        skip_blanks(rd);
        if (*rd->r == (top->type == JSON_OBJECT ? '}' : ']')) {
            rd->r++;
            rd->depth--;
            if (top->type == JSON_OBJECT && top->count > 1)
                merge_duplicates(top);
            continue;
        }
        if (!top->count)
            return 0;
        return *rd->r++ == ',' ? 0 : -ERR_PARSE;
    }
    return 0;
}

static int read_key(struct reader *rd, struct str *key)
{
    skip_blanks(rd);
    if (*rd->r != '"')
        return -ERR_PARSE;
    rd->r++;
    int rc = read_string(rd, key);
    if (rc)
        return rc;
    skip_blanks(rd);
    return *rd->r++ == ':' ? 0 : -ERR_PARSE;
}

/* One more element of the innermost container, or the outermost value. */
static int read_element(struct reader *rd, struct json **out)
{
    struct json *parent = rd->depth ? rd->stack[rd->depth - 1] : NULL;
    struct json *v = arena_try_alloc(rd->arena, sizeof *v);
    if (!v)
        return -ERR_NOMEM;
    if (parent) {
        if (parent->type == JSON_OBJECT) {
            int rc = read_key(rd, &v->key);
            if (rc)
                return rc;
        }
        if (parent->last)
            parent->last->next = v;
        else
            parent->child = v;
        parent->last = v;
        parent->count++;
    }
    *out = v;
    skip_blanks(rd);
    return read_value(rd, v);
}

int json_parse(struct arena *a, struct str text, struct json **out)
{
    struct reader rd = {.arena = a};
    struct json *root, *v;
    rd.r = arena_try_alloc(a, text.n + 1);
    if (!rd.r)
        return -ERR_NOMEM;
    if (text.n)
        memcpy(rd.r, text.p, text.n);
    rd.end = rd.r + text.n;

    int rc = read_element(&rd, &root);
    while (!rc && !(rc = read_ends(&rd)) && rd.depth)
        rc = read_element(&rd, &v);
    if (rc)
        return rc;
    skip_blanks(&rd);
    if (rd.r != rd.end)
        return -ERR_PARSE;
    *out = root;
    return 0;
}
