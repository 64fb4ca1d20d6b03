/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_TEST_OPS_H
#define CHAPPE_TEST_OPS_H
/* What the test files of this module share. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

int run_cli(void);
#endif
