/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_TEST_TOKEN_H
#define CHAPPE_TEST_TOKEN_H
/* What the test files of this module share. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "token_int.h"

/* Shorthand for positions: room-style text ("s5", "m5~1.9"), which must be valid. */
struct mpos mp(const char *text);
/* The same the other way; the result lives until the next call but three. */
const char *mp_text(const struct mpos *p);
/* Deterministic pseudo-random numbers. */
uint64_t rnd(void);
#define assert_mpos(p, text)                      \
    do {                                          \
        struct mpos mp_ = (p);                    \
        assert_string_equal(mp_text(&mp_), text); \
    } while (0)

int run_mpos(void);
int run_positions(void);
int run_token(void);
#endif
