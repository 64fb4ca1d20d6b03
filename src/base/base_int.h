/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_BASE_INT_H
#define CHAPPE_BASE_INT_H
/* What the JSON reader, tree and writer share. */
#include "chappe/json.h"

/* Decodes one UTF-8 sequence of at most n bytes. Length, or 0 when it is malformed or overlong. Surrogates
 * pass: json_read refuses them in its input, json_write turns them into escapes. */
static inline unsigned utf8_decode(const char *s, size_t n, uint32_t *cp)
{
    const unsigned char *p = (const unsigned char *)s;
    if (n == 0)
        return 0;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    if (p[0] < 0xc2 || n < 2 || (p[1] & 0xc0) != 0x80)
        return 0;
    if (p[0] < 0xe0) {
        *cp = (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
        return 2;
    }
    if (n < 3 || (p[2] & 0xc0) != 0x80)
        return 0;
    if (p[0] < 0xf0) {
        *cp = (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
        return *cp >= 0x800 ? 3 : 0;
    }
    if (p[0] > 0xf4 || n < 4 || (p[3] & 0xc0) != 0x80)
        return 0;
    *cp = (p[0] & 0x07u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
    return *cp >= 0x10000 && *cp <= 0x10ffff ? 4 : 0;
}

/* Writes a code point, surrogates included, and returns its length. */
static inline unsigned utf8_encode(uint32_t cp, char *out)
{
    unsigned n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (unsigned i = n - 1; i > 0; i--, cp >>= 6)
        out[i] = (char)(0x80 | (cp & 0x3f));
    out[0] = (char)(lead[n] | cp);
    return n;
}
#endif
