/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_TEST_MODEL_H
#define CHAPPE_TEST_MODEL_H
/* Shared by the tests of the model: each gets a world that has started. */
#include "world.h"

/* Asks until the answer is known; at most max rounds of loads. */
#define await(w, expr)                                                          \
    ({                                                                          \
        enum have have_ = LACK;                                                 \
        for (int round_ = 0; round_ < 50 && (have_ = (expr)) == LACK; round_++) \
            world_settle(w);                                                    \
        have_;                                                                  \
    })

int world_setup(void **state);
int world_teardown(void **state);
#define T(fn) cmocka_unit_test_setup_teardown(fn, world_setup, world_teardown)

int run_timeline_tests(void);
int run_burst_tests(void);
int run_state_tests(void);
int run_delta_tests(void);
int run_user_tests(void);
int run_budget_tests(void);
int run_unread_tests(void);
#endif
