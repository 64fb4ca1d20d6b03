/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Any text that parses must come back equal after formatting, and the algebra must hold on what was read: a
 * position lies below its join with another and above any bound of itself.
 */
#include "chappe/token.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stream_token t, again;
    char text[TOKEN_TEXT_MAX];

    if (token_parse(str_n((const char *)data, size), NULL, &t) < 0)
        return 0;
    size_t n = token_format(&t, text);
    ASSERT(n > 0 && n <= sizeof text);
    ASSERT(token_parse(str_n(text, n), NULL, &again) == 0);
    ASSERT(token_equal(&t, &again) && token_le(&t, &again));

    struct mpos join = mpos_join(&t.room, &t.receipt), bound = mpos_bound(&t.room, t.presence);
    if (t.room.n + t.receipt.n <= MPOS_WRITERS_MAX)
        ASSERT(mpos_le(&t.room, &join) && mpos_le(&t.receipt, &join));
    ASSERT(mpos_le(&bound, &t.room) && mpos_max(&bound) <= t.presence);
    return 0;
}
