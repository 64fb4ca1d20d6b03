/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Ranges of IP addresses, and the policy for outgoing requests.
 *
 * An IPv6 address can smuggle an IPv4 one past a list of IPv4 ranges, in more ways than one: each form whose
 * IPv4 address a router on the way may reach is taken apart and both addresses must be permitted.
 * Synapse 1.157 covers compatible, mapped and 6to4 addresses by adding ranges to its list; the others are
 * ours. Not seen through: a NAT64 prefix that an operator took from his own addresses, which only he knows.
 */
#include "chappe/ip.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

enum { EMBEDDED_MAX = 6 };

int ip_range_parse(struct str s, struct ip_range *out)
{
    char text[64];
    struct str address, bits;
    int64_t n;
    bool has_bits = str_cut(s, '/', &address, &bits);

    memset(out, 0, sizeof *out);
    if (address.n == 0 || address.n >= sizeof text || memchr(address.p, 0, address.n))
        return -ERR_PARSE;
    memcpy(text, address.p, address.n);
    text[address.n] = '\0';
    if (inet_pton(AF_INET6, text, out->bytes) == 1)
        out->v6 = true;
    else if (inet_pton(AF_INET, text, out->bytes) != 1)
        return -ERR_PARSE;
    out->bits = out->v6 ? 128 : 32;
    if (has_bits) {
        if (str_to_i64(bits, &n) || n < 0 || n > out->bits)
            return -ERR_PARSE;
        out->bits = (unsigned)n;
    }
    return 0;
}

bool ip_parse(struct str s, struct ip_range *out)
{
    if (s.n >= 2 && s.p[0] == '[' && s.p[s.n - 1] == ']')
        s = str_n(s.p + 1, s.n - 2);
    return str_find(s, '/') < 0 && ip_range_parse(s, out) == 0;
}

static bool range_has(const struct ip_range *r, const unsigned char *bytes, bool v6)
{
    unsigned whole = r->bits / 8, rest = r->bits % 8;

    if (r->v6 != v6 || memcmp(r->bytes, bytes, whole) != 0)
        return false;
    return rest == 0 || (r->bytes[whole] ^ bytes[whole]) >> (8 - rest) == 0;
}

static bool ranges_have(const struct ip_range *v, size_t n, const unsigned char *bytes, bool v6)
{
    for (size_t i = 0; i < n; i++)
        if (range_has(&v[i], bytes, v6))
            return true;
    return false;
}

static const unsigned char MAPPED[12] = {[10] = 0xff, [11] = 0xff};

bool ip_in_ranges(const struct ip_range *v, size_t n, struct str ip)
{
    struct ip_range a;

    if (str_find(ip, '/') >= 0 || ip_range_parse(ip, &a))
        return false;
    if (ranges_have(v, n, a.bytes, a.v6))
        return true;
    return a.v6 && memcmp(a.bytes, MAPPED, sizeof MAPPED) == 0 && ranges_have(v, n, a.bytes + 12, false);
}

/*
 * 64:ff9b:1::/48 is NAT64's for networks of one's own (RFC 8215): where in it the IPv4 address stands depends
 * on how long a prefix the network has chosen (RFC 6052: 48, 56, 64 or 96 bits; byte 8 is always zero, and so
 * is what follows the address). Every reading counts that has these zeros; one that is 0.0.0.0 is no reading.
 */
static size_t nat64_local(const unsigned char *b, unsigned char out[EMBEDDED_MAX][4])
{
    static const unsigned char zero[16],
        places[4][4] = {{6, 7, 9, 10}, {7, 9, 10, 11}, {9, 10, 11, 12}, {12, 13, 14, 15}};
    size_t n = 0;

    for (size_t i = 0; i < 4; i++) {
        const unsigned char *at = places[i];
        unsigned char four[4] = {b[at[0]], b[at[1]], b[at[2]], b[at[3]]};
        if (memcmp(b + at[3] + 1, zero, 15 - at[3]) == 0 && memcmp(four, zero, 4) != 0)
            memcpy(out[n++], four, 4);
    }
    return n;
}

/* The IPv4 addresses that an IPv6 address may stand for; how many. */
static size_t embedded(const unsigned char *b, unsigned char out[EMBEDDED_MAX][4])
{
    static const unsigned char zero[12], nat64[12] = {0x00, 0x64, 0xff, 0x9b};
    static const unsigned char translated[12] = {[8] = 0xff, [9] = 0xff};
    size_t n = 0;

    if (memcmp(b, zero, 12) == 0 || memcmp(b, MAPPED, 12) == 0 || memcmp(b, translated, 12) == 0 ||
        memcmp(b, nat64, 12) == 0) {
        memcpy(out[n++], b + 12, 4);
    } else if (memcmp(b, nat64, 4) == 0 && b[4] == 0 && b[5] == 1) {
        n = nat64_local(b, out);
    } else if (b[0] == 0x20 && b[1] == 0x02) { /* 6to4 */
        memcpy(out[n++], b + 2, 4);
    } else if (b[0] == 0x20 && b[1] == 0x01 && b[2] == 0 &&
               b[3] == 0) { /* Teredo: server, and client inverted */
        memcpy(out[n++], b + 4, 4);
        for (int i = 0; i < 4; i++)
            out[n][i] = (unsigned char)~b[12 + i];
        n++;
    }
    /* ISATAP: an interface identifier, below any prefix. */
    if ((b[8] & 0xfc) == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe)
        memcpy(out[n++], b + 12, 4);
    return n;
}

bool ip_policy_allows(const struct ip_policy *p, const unsigned char *bytes, bool v6)
{
    static const unsigned char unspecified[16];
    unsigned char four[EMBEDDED_MAX][4];

    if (ranges_have(p->allow, p->allow_count, bytes, v6))
        return true;
    if (memcmp(bytes, unspecified, v6 ? 16 : 4) == 0 || ranges_have(p->block, p->block_count, bytes, v6))
        return false;
    size_t n = v6 ? embedded(bytes, four) : 0;
    for (size_t i = 0; i < n; i++)
        if (!ip_policy_allows(p, four[i], false))
            return false;
    return true;
}

bool ip_policy_allows_sockaddr(const struct ip_policy *p, const struct sockaddr *sa)
{
    const struct sockaddr_in *four = (const void *)sa;
    const struct sockaddr_in6 *six = (const void *)sa;

    if (sa->sa_family == AF_INET)
        return ip_policy_allows(p, (const unsigned char *)&four->sin_addr, false);
    if (sa->sa_family == AF_INET6)
        return ip_policy_allows(p, (const unsigned char *)&six->sin6_addr, true);
    return false;
}
