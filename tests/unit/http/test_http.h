/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_TEST_HTTP_H
#define CHAPPE_TEST_HTTP_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

int run_head_tests(void);
int run_body_tests(void);
int run_text_tests(void);
int run_server_tests(void);
int run_limit_tests(void);
int run_later_tests(void);
#endif
