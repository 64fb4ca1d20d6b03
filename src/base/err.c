/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Error texts and the end of the process on a programmer's error. The failed assertion is written with one
 * write(2) of a buffer on the stack: it must work with a broken heap.
 */
#include "chappe/err.h"
#include "chappe/log.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const texts[ERR_COUNT] = {
#define X(name, text) text,
    ERR_MAP(X)
#undef X
};

const char *err_text(int e)
{
    unsigned code = e < 0 ? 0u - (unsigned)e : (unsigned)e;
    return code < ERR_COUNT ? texts[code] : "unknown error";
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    if (e) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(e->text, sizeof e->text, fmt, args);
        va_end(args);
    }
    return -code;
}

_Noreturn void assert_failed(const char *expr, const char *file, int line)
{
    char text[512];
    log_together_put();
    int n = snprintf(text, sizeof text, "chappe " CHAPPE_VERSION ": assertion failed: %s (%s:%d)\n", expr,
                     file, line);
    if (n > (int)sizeof text - 1)
        n = (int)sizeof text - 1;
    ssize_t done = write(STDERR_FILENO, text, (size_t)n);
    (void)done;
    abort();
}
