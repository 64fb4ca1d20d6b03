/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_TEST_LOOP_H
#define CHAPPE_TEST_LOOP_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

int run_wheel_tests(void);
int run_mailbox_tests(void);
int run_transport_tests(void);
int run_ring_tests(void);
#endif
