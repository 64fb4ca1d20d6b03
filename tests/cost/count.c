/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Marks for callgrind, which dumps what it counted since the first of the two under the name that cost.py
 * reads. */
#include "count.h"

#include <stdio.h>
#include <valgrind/callgrind.h>

void count_begin(void)
{
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

void count_end(const char *name, int devices)
{
    char text[64];
    snprintf(text, sizeof text, "%s %d", name, devices);
    CALLGRIND_DUMP_STATS_AT(text);
    CALLGRIND_STOP_INSTRUMENTATION;
}
