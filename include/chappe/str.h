/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_STR_H
#define CHAPPE_STR_H
/*
 * Borrowed byte slices. A struct str never owns what it points to; whoever hands one out says how long
 * the bytes live. Not NUL-terminated. The empty slice may have p == NULL; "absent" is {NULL, 0} and is
 * told from "present but empty" by str_absent().
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct str {
    const char *p;
    size_t n;
};

#define STR(lit)   ((struct str){"" lit, sizeof(lit) - 1})
#define STR_ABSENT ((struct str){NULL, 0})
/* For printf: "%.*s", STR_ARG(s) */
#define STR_ARG(s) (int)(s).n, (s).p ? (s).p : ""

static inline struct str str_of(const char *z)
{
    return (struct str){z, z ? strlen(z) : 0};
}
static inline struct str str_n(const char *p, size_t n)
{
    return (struct str){p, n};
}
static inline bool str_absent(struct str s)
{
    return s.p == NULL;
}
static inline bool str_eq(struct str a, struct str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
static inline bool str_starts(struct str s, struct str prefix)
{
    return s.n >= prefix.n && (prefix.n == 0 || memcmp(s.p, prefix.p, prefix.n) == 0);
}
static inline bool str_ends(struct str s, struct str suffix)
{
    return s.n >= suffix.n && (suffix.n == 0 || memcmp(s.p + s.n - suffix.n, suffix.p, suffix.n) == 0);
}
/* <0, 0, >0 in byte order (the order of Synapse's sorted JSON keys). */
int str_cmp(struct str a, struct str b);
/* Index of the first c, or -1. */
ptrdiff_t str_find(struct str s, char c);
/* Splits at the first sep: head gets what stands before it, rest what follows. Without a sep head is all of
 * s, rest is absent and the result is false. */
bool str_cut(struct str s, char sep, struct str *head, struct str *rest);
struct str str_trim(struct str s); /* surrounding spaces, tabs, CR, LF */
/* Strict decimal: optional '-', digits, nothing else, no overflow. 0 or -ERR_PARSE. */
int str_to_i64(struct str s, int64_t *out);
/* What Python's int() reads: blanks around, a sign, single underscores between digits. A number that does not
 * fit is clamped; one of more than 4300 digits is refused, as there. 0 or -ERR_PARSE. */
int str_to_i64_lax(struct str s, int64_t *out);
/* In decimal, at the end of digits. */
enum { I64_DIGITS_MAX = 20 };
struct str str_of_i64(char digits[I64_DIGITS_MAX], int64_t v);
/* Comparison whose time depends on lengths only; for secrets. */
bool str_eq_const_time(struct str a, struct str b);
/* Whether a database takes it as text: it refuses NUL and broken UTF-8, and one such value fails a whole
 * batch.
 */
bool str_storable(struct str s);
/* Sixteen bytes at once, for scanners: comparisons mark the bytes that they hold for. As signed ones, what is
 * not ASCII is below zero. */
typedef unsigned char bytes16 __attribute__((vector_size(16)));
typedef signed char signed16 __attribute__((vector_size(16)));
static inline bytes16 bytes16_load(const char *p)
{
    bytes16 x;
    memcpy(&x, p, sizeof x);
    return x;
}
/* The first byte that is marked; 16 when none is. */
static inline size_t bytes16_first(bytes16 marks)
{
#if defined __SSE2__
    typedef char char16 __attribute__((vector_size(16)));
    int mask = __builtin_ia32_pmovmskb128((char16)marks);
    return mask ? (size_t)__builtin_ctz((unsigned)mask) : 16;
#else
    uint64_t half[2];
    memcpy(half, &marks, sizeof half);
    size_t i = half[0] == 0;
    if (half[i] == 0)
        return 16;
    return 8 * i + (size_t)(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_ctzll(half[i])
                                                                      : __builtin_clzll(half[i])) /
                       8;
#endif
}
/* How many bytes of s come before the first that marks() marks. */
static inline __attribute__((always_inline)) size_t bytes16_before(struct str s, bytes16 (*marks)(bytes16 x))
{
    size_t n = 0;
    while (s.n - n >= 16) {
        size_t first = bytes16_first(marks(bytes16_load(s.p + n)));
        n += first;
        if (first < 16)
            return n;
    }
    if (n == s.n)
        return n;
    char rest[16] = {0};
    memcpy(rest, s.p + n, s.n - n);
    n += bytes16_first(marks(bytes16_load(rest)));
    return n < s.n ? n : s.n;
}
/* Keyed hash (SipHash-1-3, key random per process): safe for peer-chosen keys. */
uint64_t str_hash(struct str s);
/* The same with 128 bits (SipHash-1-3-128): where a match is taken for equality. */
struct hash128 {
    uint64_t a, b;
};
struct hash128 str_hash128_of(const struct str *parts, size_t n); /* of the list: what is where counts */
#endif
