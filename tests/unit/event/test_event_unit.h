/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_TEST_EVENT_UNIT_H
#define CHAPPE_TEST_EVENT_UNIT_H
/* The groups of this binary, each returning the number of failed tests, and what they share. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "chappe/event.h"

int run_event_tests(void);
int run_vector_tests(void);
int run_filter_tests(void);
int run_push_rules_tests(void);

/* A file of tests/unit/event/data, parsed. */
struct json *vectors_load(struct arena *a, const char *name);

#define assert_slice(s, want)                                                                            \
    do {                                                                                                 \
        struct str got_ = (s);                                                                           \
        struct str want_ = (want);                                                                       \
        if (!str_eq(got_, want_) || str_absent(got_) != str_absent(want_))                               \
            fail_msg("%s:%d:\n got %.*s\nwant %.*s", __FILE__, __LINE__, STR_ARG(got_), STR_ARG(want_)); \
    } while (0)
#define assert_text(s, literal) assert_slice(s, str_of(literal))
#endif
