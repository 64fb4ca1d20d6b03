/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Slices: searching, strict numbers, constant-time comparison, and the keyed hash of every table.
 *
 * str_hash() is SipHash-1-3 (Aumasson and Bernstein; one compression round per word, three to finish) under a
 * key drawn from the kernel once per process, so that peers who choose user ids, tokens or transaction ids
 * cannot choose collisions. It costs about 10 ns for a Matrix identifier. The key is drawn by a constructor,
 * before threads exist; nothing may depend on the order of hashes.
 */
#include "chappe/str.h"
#include "chappe/err.h"
#include <sys/random.h>

static uint64_t hash_key[2];

static __attribute__((constructor)) void hash_key_draw(void)
{
    ASSERT(getrandom(hash_key, sizeof hash_key, 0) == (ssize_t)sizeof hash_key);
}

int str_cmp(struct str a, struct str b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int c = n ? memcmp(a.p, b.p, n) : 0;
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

ptrdiff_t str_find(struct str s, char c)
{
    const char *hit = s.n ? memchr(s.p, c, s.n) : NULL;
    return hit ? hit - s.p : -1;
}

bool str_cut(struct str s, char sep, struct str *head, struct str *rest)
{
    ptrdiff_t at = str_find(s, sep);
    if (at < 0) {
        *head = s;
        *rest = STR_ABSENT;
        return false;
    }
    *head = str_n(s.p, (size_t)at);
    *rest = str_n(s.p + at + 1, s.n - (size_t)at - 1);
    return true;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

struct str str_trim(struct str s)
{
    while (s.n && is_blank(s.p[0])) {
        s.p++;
        s.n--;
    }
    while (s.n && is_blank(s.p[s.n - 1]))
        s.n--;
    return s;
}

int str_to_i64(struct str s, int64_t *out)
{
    bool negative = s.n && s.p[0] == '-';
    size_t i = negative ? 1 : 0;
    int64_t v = 0;
    if (i == s.n)
        return -ERR_PARSE;
    for (; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return -ERR_PARSE;
        int digit = s.p[i] - '0';
        /* Negative numbers are built downwards: INT64_MIN has no positive twin. */
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, negative ? -digit : digit, &v))
            return -ERR_PARSE;
    }
    *out = v;
    return 0;
}

static bool is_python_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Nearly all numbers are some digits and nothing else. */
static bool plain_digits(struct str s, int64_t *out)
{
    int64_t v = 0;
    if (s.n == 0 || s.n > 18)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        unsigned digit = (unsigned char)s.p[i] - '0';
        if (digit > 9)
            return false;
        v = v * 10 + digit;
    }
    *out = v;
    return true;
}

int str_to_i64_lax(struct str s, int64_t *out)
{
    enum { PYTHON_DIGITS_MAX = 4300 };
    if (plain_digits(s, out))
        return 0;
    while (s.n && is_python_blank(s.p[0]))
        s = str_n(s.p + 1, s.n - 1);
    while (s.n && is_python_blank(s.p[s.n - 1]))
        s.n--;
    bool negative = s.n && s.p[0] == '-';
    size_t i = negative || (s.n && s.p[0] == '+') ? 1 : 0, digits = 0;
    int64_t v = 0;
    bool last_digit = false, clamped = false;
    for (; i < s.n; i++) {
        if (s.p[i] == '_' && last_digit) {
            last_digit = false;
            continue;
        }
        if (s.p[i] < '0' || s.p[i] > '9' || ++digits > PYTHON_DIGITS_MAX)
            return -ERR_PARSE;
        last_digit = true;
        int digit = s.p[i] - '0';
        if (!clamped &&
            (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, negative ? -digit : digit, &v)))
            clamped = true;
    }
    if (!last_digit)
        return -ERR_PARSE;
    *out = !clamped ? v : negative ? INT64_MIN : INT64_MAX;
    return 0;
}

struct str str_of_i64(char digits[I64_DIGITS_MAX], int64_t v)
{
    char *end = digits + I64_DIGITS_MAX, *p = end;
    uint64_t left = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    do
        *--p = (char)('0' + left % 10);
    while (left /= 10);
    if (v < 0)
        *--p = '-';
    return str_n(p, (size_t)(end - p));
}

bool str_eq_const_time(struct str a, struct str b)
{
    if (a.n != b.n)
        return false;
    volatile unsigned char diff = 0;
    for (size_t i = 0; i < a.n; i++)
        diff = (unsigned char)(diff | (unsigned char)(a.p[i] ^ b.p[i]));
    return diff == 0;
}

static inline uint64_t rotl(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

struct sip {
    uint64_t a, b, c, d;
};

static inline void sip_round(struct sip *v)
{
    v->a += v->b;
    v->b = rotl(v->b, 13) ^ v->a;
    v->a = rotl(v->a, 32);
    v->c += v->d;
    v->d = rotl(v->d, 16) ^ v->c;
    v->a += v->d;
    v->d = rotl(v->d, 21) ^ v->a;
    v->c += v->b;
    v->b = rotl(v->b, 17) ^ v->c;
    v->c = rotl(v->c, 32);
}

/* All of s is in *at; what is left is the finish. Works on a copy, which stays in registers: s might be *at,
 * for all the compiler knows. */
static void sip_absorb(struct sip *at, struct str s)
{
    struct sip v = *at;
    size_t left = s.n;
    const char *p = s.p;
    uint64_t w;
    for (; left >= 8; left -= 8, p += 8) {
        memcpy(&w, p, 8);
        v.d ^= w;
        sip_round(&v);
        v.a ^= w;
    }
    w = 0;
    if (left)
        memcpy(&w, p, left);
    w |= (uint64_t)s.n << 56;
    v.d ^= w;
    sip_round(&v);
    v.a ^= w;
    *at = v;
}

static uint64_t sip_finish(struct sip *v)
{
    sip_round(v);
    sip_round(v);
    sip_round(v);
    return v->a ^ v->b ^ v->c ^ v->d;
}

static struct sip sip_keyed(void)
{
    return (struct sip){hash_key[0] ^ 0x736f6d6570736575u, hash_key[1] ^ 0x646f72616e646f6du,
                        hash_key[0] ^ 0x6c7967656e657261u, hash_key[1] ^ 0x7465646279746573u};
}

uint64_t str_hash(struct str s)
{
    struct sip v = sip_keyed();
    sip_absorb(&v, s);
    v.c ^= 0xff;
    return sip_finish(&v);
}

/* One after the other, each with its length before it and padded to whole words, so that no list reads like
 * another one. */
struct hash128 str_hash128_of(const struct str *parts, size_t n)
{
    struct sip v = sip_keyed();
    struct hash128 h;
    v.b ^= 0xee;
    for (size_t i = 0; i < n; i++) {
        uint64_t length = parts[i].n;
        v.d ^= length;
        sip_round(&v);
        v.a ^= length;
        sip_absorb(&v, parts[i]);
    }
    v.c ^= 0xee;
    h.a = sip_finish(&v);
    v.b ^= 0xdd;
    h.b = sip_finish(&v);
    return h;
}

bool str_storable(struct str s)
{
    const unsigned char *p = (const unsigned char *)(s.n ? s.p : ""), *end = p + s.n;

    while (p < end) {
        unsigned c = *p++;
        if (c == 0)
            return false;
        if (c < 0x80)
            continue;
        unsigned more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
        if (c < 0xc2 || c > 0xf4 || (size_t)(end - p) < more)
            return false;
        /* Only the first continuation byte has a range of its own: no overlong forms, no surrogates, <=
         * U+10FFFF. */
        unsigned lo = c == 0xe0   ? 0xa0
                      : c == 0xf0 ? 0x90
                                  : 0x80,
                 hi = c == 0xed   ? 0x9f
                      : c == 0xf4 ? 0x8f
                                  : 0xbf;
        for (; more; more--, lo = 0x80, hi = 0xbf, p++)
            if (*p < lo || *p > hi)
                return false;
    }
    return true;
}
