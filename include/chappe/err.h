/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_ERR_H
#define CHAPPE_ERR_H
/*
 * Errors and assertions. Functions return 0 or -ERR_x; incremental parsers 1 (complete), 0 (need more), or
 * -ERR_x. Start-up and configuration code may add text through struct err.
 */
#include <stddef.h>

#define NODISCARD         __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

/* name, text */
#define ERR_MAP(X)                           \
    X(NONE, "no error")                      \
    X(PARSE, "malformed input")              \
    X(LIMIT, "a limit was reached")          \
    X(NOMEM, "out of memory")                \
    X(IO, "input/output error")              \
    X(CLOSED, "connection closed")           \
    X(TIMEOUT, "timed out")                  \
    X(AGAIN, "not ready")                    \
    X(NOTFOUND, "not found")                 \
    X(CONFIG, "bad configuration")           \
    X(DB, "database error")                  \
    X(DB_DOWN, "database unreachable")       \
    X(SCHEMA, "unsupported database schema") \
    X(PROTOCOL, "protocol violation")        \
    X(CANCELLED, "cancelled")                \
    X(SHUTDOWN, "shutting down")             \
    X(UNSUPPORTED, "unsupported")
enum {
#define X(n, t) ERR_##n,
    ERR_MAP(X)
#undef X
        ERR_COUNT
};
/* Text for 0, -ERR_x or ERR_x; never NULL. */
const char *err_text(int e);

struct err {
    char text[512];
};
/* Formats into e (may be NULL) and returns -code. */
int err_set(struct err *e, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Programmer errors stop the process, in production too. */
_Noreturn void assert_failed(const char *expr, const char *file, int line);
#define ASSERT(e) ((e) ? (void)0 : assert_failed(#e, __FILE__, __LINE__))
#ifdef CHAPPE_DEBUG
#define ASSERT_SLOW(e) ASSERT(e)
#else
#define ASSERT_SLOW(e) ((void)0)
#endif
#endif
