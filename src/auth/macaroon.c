/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Guest access tokens: macaroons in the first binary format, which is what Synapse mints.
 *
 * The text is base64url without padding; the bytes are packets, each
 *     4 hexadecimal digits: length of the packet, these digits included
 *     key, a space, value, a newline
 * with keys location, identifier, then one cid per caveat, at last signature (32 raw bytes). The signature is
 * a chain: HMAC-SHA256 of the identifier under a key derived from the server's secret, then of each caveat
 * under the signature so far. Whoever holds a macaroon can add caveats, never remove one; so every caveat
 * must be one we know and find satisfied. Third-party caveats (vid, cl) are not.
 *
 * The input is the peer's: at most AUTH_TOKEN_BYTES_MAX, decoded into a buffer of that size, every length
 * checked.
 */
#include "auth_int.h"
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

enum { MAC_BYTES = 32 };

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '-' || c == '+' ? 62 : c == '_' || c == '/' ? 63 : -1;
}

static int base64_decode(struct str s, char *out, size_t *n)
{
    uint32_t bits = 0;
    int have = 0;

    while (s.n && s.p[s.n - 1] == '=')
        s.n--;
    *n = 0;
    for (size_t i = 0; i < s.n; i++) {
        int d = base64_digit(s.p[i]);
        if (d < 0)
            return -ERR_PARSE;
        bits = bits << 6 | (uint32_t)d;
        have += 6;
        if (have >= 8) {
            have -= 8;
            out[(*n)++] = (char)(bits >> have & 0xff);
        }
    }
    return 0;
}

static bool hex_length(const char *p, size_t *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++) {
        int d = p[i] >= '0' && p[i] <= '9' ? p[i] - '0' : p[i] >= 'a' && p[i] <= 'f' ? p[i] - 'a' + 10 : -1;
        if (d < 0)
            return false;
        *out = *out << 4 | (size_t)d;
    }
    return true;
}

/* The next packet of rest; 0 or -ERR_PARSE. */
static int packet_next(struct str *rest, struct str *key, struct str *value)
{
    size_t n;

    if (rest->n < 4 || !hex_length(rest->p, &n) || n < 4 + 3 || n > rest->n)
        return -ERR_PARSE;
    struct str body = str_n(rest->p + 4, n - 4);
    if (body.p[body.n - 1] != '\n')
        return -ERR_PARSE;
    body.n--;
    if (!str_cut(body, ' ', key, value))
        return -ERR_PARSE;
    *rest = str_n(rest->p + n, rest->n - n);
    return 0;
}

static void mac_step(unsigned char mac[MAC_BYTES], struct str data)
{
    unsigned n = MAC_BYTES;
    unsigned char next[MAC_BYTES];

    ASSERT(HMAC(EVP_sha256(), mac, MAC_BYTES, (const unsigned char *)data.p, data.n, next, &n) &&
           n == MAC_BYTES);
    memcpy(mac, next, MAC_BYTES);
}

static void mac_begin(unsigned char mac[MAC_BYTES], struct str secret, struct str identifier)
{
    static const char generator[] = "macaroons-key-generator";
    unsigned n = MAC_BYTES;

    ASSERT(HMAC(EVP_sha256(), generator, sizeof generator - 1, (const unsigned char *)secret.p, secret.n, mac,
                &n) &&
           n == MAC_BYTES);
    mac_step(mac, identifier);
}

struct caveats {
    bool guest;
    struct str user_id;
    int64_t dies_ms;
};

/* One caveat: known, and satisfied. */
static int caveat_check(struct str c, int64_t now_ms, struct caveats *seen)
{
    struct str user = STR("user_id = "), until = STR("time < ");

    if (str_eq(c, STR("gen = 1")) || str_eq(c, STR("type = access")) || str_starts(c, STR("nonce = ")))
        return 0;
    if (str_eq(c, STR("guest = true"))) {
        seen->guest = true;
        return 0;
    }
    if (str_starts(c, user)) {
        struct str id = str_n(c.p + user.n, c.n - user.n);
        if (!str_absent(seen->user_id) && !str_eq(seen->user_id, id))
            return -ERR_PARSE;
        seen->user_id = id;
        return 0;
    }
    if (str_starts(c, until)) {
        int64_t ms;
        if (str_to_i64(str_n(c.p + until.n, c.n - until.n), &ms) || now_ms >= ms)
            return -ERR_PARSE;
        if (!seen->dies_ms || ms < seen->dies_ms)
            seen->dies_ms = ms;
        return 0;
    }
    return -ERR_PARSE;
}

int macaroon_verify_guest(struct str token, struct str secret, int64_t now_ms, struct guest_macaroon *out)
{
    unsigned char mac[MAC_BYTES];
    struct caveats seen = {.user_id = STR_ABSENT};
    struct str key, value, rest;
    bool begun = false;
    size_t n;
    int rc = -ERR_PARSE;

    if (secret.n == 0 || token.n > AUTH_TOKEN_BYTES_MAX || base64_decode(token, out->bytes, &n))
        return -ERR_PARSE;
    rest = str_n(out->bytes, n);
    while (rest.n) {
        if (packet_next(&rest, &key, &value))
            goto out;
        if (str_eq(key, STR("location")) && !begun)
            continue;
        if (str_eq(key, STR("identifier")) && !begun) {
            mac_begin(mac, secret, value);
            begun = true;
        } else if (str_eq(key, STR("cid")) && begun) {
            if (caveat_check(value, now_ms, &seen))
                goto out;
            mac_step(mac, value);
        } else if (str_eq(key, STR("signature")) && begun && rest.n == 0) {
            if (value.n == MAC_BYTES && CRYPTO_memcmp(value.p, mac, MAC_BYTES) == 0)
                rc = 0;
        } else {
            goto out;
        }
    }
    if (!rc && (!seen.guest || seen.user_id.n == 0 || seen.user_id.n > AUTH_USER_ID_BYTES_MAX ||
                !str_storable(seen.user_id)))
        rc = -ERR_PARSE;
    out->user_id = seen.user_id;
    out->dies_ms = seen.dies_ms;
out:
    OPENSSL_cleanse(mac, sizeof mac);
    return rc;
}
