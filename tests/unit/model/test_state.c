/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#include "test_model.h"
int run_state_tests(void) { return 0; }
