/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Runs the groups of this module and holds their helpers. */
#include "test_token.h"

struct mpos mp(const char *text)
{
    struct stream_token t;

    assert_int_equal(token_parse(str_of(text), NULL, &t), 0);
    return t.room;
}

const char *mp_text(const struct mpos *p)
{
    static char text[4][TOKEN_TEXT_MAX + 1];
    static int turn;
    struct stream_token t = {.room = *p};
    char *out = text[turn++ % 4];
    size_t n = token_format(&t, out);

    out[n] = 0;
    *strchr(out, '_') = 0;
    return out;
}

uint64_t rnd(void)
{
    static uint64_t x = 0x9e3779b97f4a7c15u;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

int main(void)
{
    return run_mpos() + run_positions() + run_token();
}
