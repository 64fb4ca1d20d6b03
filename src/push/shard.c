/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Which instance serves a user: SHA-256 of the id, read as one little-endian number, modulo the number of
 * instances (Synapse 1.157 config/_base.py: ShardedWorkerHandlingConfig). The order of the list matters and
 * must be the same in every process.
 */
#include "push_int.h"

#include <openssl/sha.h>

size_t push_shard(struct str user_id, size_t n)
{
    unsigned char digest[SHA256_DIGEST_LENGTH];
    size_t rest = 0;

    ASSERT(n > 0);
    if (n == 1)
        return 0;
    SHA256((const unsigned char *)user_id.p, user_id.n, digest);
    for (int i = SHA256_DIGEST_LENGTH - 1; i >= 0; i--)
        rest = (rest * 256 + digest[i]) % n;
    return rest;
}
