/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Where the access token stands in a request: the Authorization header or the access_token argument, by the
 * rules and with the error texts of Synapse (reference 1.2).
 *
 * Two differences on purpose. Only the query string counts, not a form in the body. A token with bytes
 * outside ASCII is unknown (401) where Synapse stumbles over it (500).
 */
#include "auth_int.h"
#include <openssl/evp.h>

/* "Bearer" and exactly one more part, split at every single space. */
int auth_header_token(struct str value, struct str *token)
{
    struct str head, rest;

    value = str_trim(value);
    if (!str_cut(value, ' ', &head, &rest) || !str_eq(head, STR("Bearer")) || str_find(rest, ' ') >= 0)
        return -ERR_PARSE;
    *token = rest;
    return 0;
}

int auth_extract(struct http_req *req, struct str *token, bool *decoded, const char **why)
{
    struct str arg = http_query(req, STR("access_token"));

    *decoded = false;
    if (req->authorization_count > 0) {
        if (!str_absent(arg)) {
            *why = "Mixing Authorization headers and access_token query parameters.";
            return -ERR_PARSE;
        }
        if (req->authorization_count > 1) {
            *why = "Too many Authorization headers.";
            return -ERR_PARSE;
        }
        if (auth_header_token(http_authorization(req), token)) {
            *why = "Invalid Authorization header.";
            return -ERR_PARSE;
        }
        return 0;
    }
    if (str_absent(arg)) {
        *why = "Missing access token";
        return -ERR_PARSE;
    }
    *token = arg;
    *decoded = true;
    return 0;
}

/* Whether it is worth asking anybody. Says nothing about the shape: tokens of old versions and modules look
 * different. */
bool token_is_plausible(struct str token)
{
    if (token.n == 0 || token.n > AUTH_TOKEN_BYTES_MAX)
        return false;
    for (size_t i = 0; i < token.n; i++)
        if (token.p[i] == '\0' || (unsigned char)token.p[i] >= 0x80)
            return false;
    return true;
}

void auth_hash(struct auth *a, struct str token, uint64_t out[4])
{
    unsigned n = 0;

    ASSERT(EVP_DigestInit_ex(a->md_ctx, a->md, NULL) == 1);
    ASSERT(EVP_DigestUpdate(a->md_ctx, token.p, token.n) == 1);
    ASSERT(EVP_DigestFinal_ex(a->md_ctx, (unsigned char *)out, &n) == 1 && n == 32);
}
