/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_TEST_TEMP_DIR_H
#define CHAPPE_TEST_TEMP_DIR_H
/* A folder of a test's own under the system's temporary folder; the test removes it. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Its path is put into path. False: it could not be made. */
static inline bool temp_dir(char *path, size_t size, const char *name)
{
    enum { RANDOM_PART = 6 }; /* mkdtemp's, which wants them to be this letter */
    int n = snprintf(path, size, "/tmp/chappe-%s-", name);
    if (n < 0 || (size_t)n + RANDOM_PART >= size)
        return false;
    memset(path + n, 'X', RANDOM_PART);
    path[n + RANDOM_PART] = 0;
    return mkdtemp(path) != NULL;
}
#endif
