/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Log lines: formatted on the stack, cleaned, written with one write(2), or together with others of the same
 * turn of the thread's loop. A line is at most 4 KiB and says so when it was cut. Everything below the space,
 * DEL and the C1 controls become \xNN, so that nothing a peer sends can forge a line or drive a terminal.
 * Time stamps are local time, as in Synapse.
 */
#include "chappe/log.h"
#include "chappe/clock.h"
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { TEXT_MAX = 2048, LINE_MAX_BYTES = 4096 };

enum log_level log_level = LOG_INFO;

static log_sink_fn *_Atomic sink;

void log_sink_set(log_sink_fn *fn)
{
    atomic_store(&sink, fn);
}

static size_t put_escaped(char *out, size_t room, const char *text)
{
    size_t n = 0;
    for (const unsigned char *p = (const unsigned char *)text; *p && room - n > 10; p++) {
        const unsigned char *begin = p; /* printable ASCII is nearly all there is */
        while (*p >= 0x20 && *p < 0x7f && (size_t)(p - begin) < room - n - 10)
            p++;
        if (p > begin) {
            memcpy(out + n, begin, (size_t)(p - begin));
            n += (size_t)(p - begin);
            p--;
            continue;
        }
        bool c1 = p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0;
        if (*p >= 0x20 && *p != 0x7f && !c1) {
            out[n++] = (char)*p;
            continue;
        }
        n += (size_t)snprintf(out + n, room - n, "\\x%02x", *p);
        if (c1)
            n += (size_t)snprintf(out + n, room - n, "\\x%02x", *++p);
    }
    return n;
}

/* The calendar is asked once a second. */
static size_t put_time(char *out, size_t room)
{
    static _Thread_local struct {
        time_t seconds;
        size_t n;
        char text[32];
    } last;
    int64_t now = clock_wall_ms();
    time_t seconds = (time_t)(now / 1000);
    if (last.n == 0 || seconds != last.seconds) {
        struct tm tm;
        localtime_r(&seconds, &tm);
        last.n = strftime(last.text, sizeof last.text, "%Y-%m-%d %H:%M:%S", &tm);
        last.seconds = seconds;
    }
    memcpy(out, last.text, last.n);
    return last.n + (size_t)snprintf(out + last.n, room - last.n, ",%03d", (int)(now % 1000));
}

/* ---- a thread's lines, together ---- */

enum { TOGETHER_MAX = 32768 };

static _Thread_local struct {
    char *bytes; /* NULL: each line goes out by itself */
    size_t n;
} waiting;

/* Whole lines, as many at once as a pipe takes without another thread's between them. */
static void put_out(const char *bytes, size_t n)
{
    while (n) {
        size_t part = n;
        if (part > PIPE_BUF) {
            const char *end = memrchr(bytes, '\n', PIPE_BUF);
            part = end ? (size_t)(end - bytes) + 1 : PIPE_BUF;
        }
        ssize_t done = write(STDERR_FILENO, bytes, part);
        (void)done; /* a full or closed standard error is no reason to stop */
        bytes += part;
        n -= part;
    }
}

void log_together_begin(void)
{
    if (!waiting.bytes)
        waiting.bytes = malloc(TOGETHER_MAX); /* without it, as before */
}

void log_together_put(void)
{
    if (waiting.n)
        put_out(waiting.bytes, waiting.n);
    waiting.n = 0;
}

void log_together_end(void)
{
    log_together_put();
    free(waiting.bytes);
    waiting.bytes = NULL;
}

/* What is urgent goes out at once, after what came before it. */
static void put_line(enum log_level level, const char *line, size_t n)
{
    if (waiting.n + n > TOGETHER_MAX || !waiting.bytes)
        log_together_put();
    if (waiting.bytes) {
        memcpy(waiting.bytes + waiting.n, line, n);
        waiting.n += n;
    } else {
        put_out(line, n);
    }
    if (level >= LOG_WARNING)
        log_together_put();
}

void log_write(enum log_level level, const char *logger, const char *fmt, ...)
{
    static const char *const names[] = {"DEBUG", "INFO", "WARNING", "ERROR"};
    if (level < log_level)
        return;
    int keep = errno;
    char text[TEXT_MAX], line[LINE_MAX_BYTES];
    va_list args;
    va_start(args, fmt);
    int want = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);

    size_t n = put_time(line, 64);
    n += (size_t)snprintf(line + n, 128, " - %s - %s - ", logger, names[level]);
    n += put_escaped(line + n, sizeof line - n - 16, want < 0 ? fmt : text);
    if (want >= (int)sizeof text)
        n += (size_t)snprintf(line + n, 16, " [cut]");
    line[n++] = '\n';

    log_sink_fn *fn = atomic_load(&sink);
    if (fn) {
        line[n - 1] = 0;
        fn(level, line);
    } else {
        put_line(level, line, n);
    }
    errno = keep;
}
