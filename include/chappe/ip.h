/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_IP_H
#define CHAPPE_IP_H
/*
 * Ranges of IP addresses, for lists of who may connect and of where we may connect to. Pure functions.
 */
#include "chappe/str.h"
#include "chappe/err.h"

struct ip_range {
    unsigned char bytes[16]; /* IPv4 in the first four */
    unsigned bits;
    bool v6;
};
/* An address, or address/bits (bits beyond the prefix may be set, as in Python's strict=False). 0 or
 * -ERR_PARSE. */
int ip_range_parse(struct str s, struct ip_range *out) NODISCARD;
/* Whether an address in text form is in one of the ranges; an IPv4-mapped one also as the IPv4 address it
 * stands for. False when it is no address. */
bool ip_in_ranges(const struct ip_range *v, size_t n, struct str ip);

/*
 * Where requests on a peer's behalf may go (Synapse 1.157, config/server.py: ip_range_blocklist,
 * ip_range_allowlist): the allowlist wins; otherwise a blocked range, 0.0.0.0 and :: are refused. An IPv6
 * address that carries an IPv4 one (compatible, mapped, translated, 6to4, NAT64, ISATAP, Teredo's server and
 * client) is judged by all of them.
 */
struct ip_policy {
    const struct ip_range *block, *allow;
    size_t block_count, allow_count;
};
bool ip_policy_allows(const struct ip_policy *p, const unsigned char *bytes, bool v6);
struct sockaddr;
bool ip_policy_allows_sockaddr(const struct ip_policy *p, const struct sockaddr *sa); /* other families: no */
/* Whether s is the text of an address (IPv6 with or without brackets); then *out is it, with all its bits. */
bool ip_parse(struct str s, struct ip_range *out);
#endif
