/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_TEST_BASE_H
#define CHAPPE_TEST_BASE_H
/* The groups of this binary; each returns the number of failed tests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

int run_str_tests(void);
int run_ip_tests(void);
int run_mem_tests(void);
int run_blob_tests(void);
int run_map_tests(void);
int run_kmap_tests(void);
int run_clock_log_tests(void);
int run_metrics_tests(void);
int run_json_tests(void);
int run_json_number_tests(void);

/* Compares a slice with a literal and shows both. */
#define assert_str(s, literal)                                                      \
    do {                                                                            \
        struct str got_ = (s);                                                      \
        struct str want_ = str_of(literal);                                         \
        if (!str_eq(got_, want_))                                                   \
            fail_msg("got \"%.*s\", want \"%.*s\"", STR_ARG(got_), STR_ARG(want_)); \
    } while (0)
#endif
