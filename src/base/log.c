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
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { TEXT_MAX = LOG_TEXT_MAX + 1, LINE_MAX_BYTES = 4096 };

enum log_level log_level = LOG_INFO;

static log_sink_fn *_Atomic sink;

void log_sink_set(log_sink_fn *fn)
{
    atomic_store(&sink, fn);
}

static inline bytes16 odd(bytes16 x)
{
    return (bytes16)(((signed16)x < ' ') | ((signed16)x == 127));
}

/* How many bytes at the beginning are printable ASCII, which is nearly all there is. */
static size_t plain_bytes(struct str s)
{
    return bytes16_before(s, odd);
}

static char *put_hex(char *out, unsigned char c)
{
    static const char digits[] = "0123456789abcdef";
    memcpy(out, "\\x", 2);
    out[2] = digits[c >> 4];
    out[3] = digits[c & 15];
    return out + 4;
}

/* Takes from text what there is room for. */
static char *put_escaped(char *out, size_t room, struct str *rest)
{
    enum { CHAR_BYTES_MAX = 10 };
    char *p = out;
    const char *end = out + room - CHAR_BYTES_MAX;
    struct str text = *rest;
    while (text.n && p < end) {
        size_t plain = plain_bytes(text);
        if (plain) {
            plain = plain < (size_t)(end - p) ? plain : (size_t)(end - p);
            memcpy(p, text.p, plain);
            p += plain;
            text = str_n(text.p + plain, text.n - plain);
            continue;
        }
        unsigned char c = (unsigned char)text.p[0], next = text.n > 1 ? (unsigned char)text.p[1] : 0;
        bool c1 = c == 0xc2 && next >= 0x80 && next < 0xa0;
        if (c >= 0x80 && !c1)
            *p++ = (char)c;
        else
            p = put_hex(p, c);
        if (c1)
            p = put_hex(p, next);
        text = str_n(text.p + 1 + c1, text.n - 1 - c1);
    }
    *rest = text;
    return p;
}

static char *put(char *out, struct str s)
{
    memcpy(out, s.p, s.n);
    return out + s.n;
}

/* The calendar is asked once a second. */
static char *put_time(char *out, int64_t now)
{
    static _Thread_local struct {
        time_t seconds;
        size_t n;
        char text[32];
    } last;
    time_t seconds = (time_t)(now / 1000);
    unsigned ms = (unsigned)(now % 1000);
    if (last.n == 0 || seconds != last.seconds) {
        struct tm tm;
        localtime_r(&seconds, &tm);
        last.n = strftime(last.text, sizeof last.text, "%Y-%m-%d %H:%M:%S", &tm);
        last.seconds = seconds;
    }
    out = put(out, str_n(last.text, last.n));
    *out++ = ',';
    *out++ = (char)('0' + ms / 100 % 10);
    *out++ = (char)('0' + ms / 10 % 10);
    *out++ = (char)('0' + ms % 10);
    return out;
}

/* ---- a thread's lines, together ---- */

enum { TOGETHER_MAX = 32768 };

static _Thread_local struct {
    char *bytes; /* NULL: each line goes out by itself */
    size_t n;
    size_t part_max; /* bytes of one write(2) between which no other thread's come; 0: not known yet */
} waiting;

/* A file takes any number at once, a pipe so many. */
static size_t part_max(void)
{
    struct stat st;
    return fstat(STDERR_FILENO, &st) == 0 && S_ISREG(st.st_mode) ? TOGETHER_MAX : PIPE_BUF;
}

/* Whole lines, as many at once as stay together. */
static void put_out(const char *bytes, size_t n)
{
    if (!waiting.part_max)
        waiting.part_max = part_max();
    while (n) {
        size_t part = n;
        if (part > waiting.part_max) {
            const char *end = memrchr(bytes, '\n', waiting.part_max);
            part = end ? (size_t)(end - bytes) + 1 : waiting.part_max;
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
    waiting.part_max = part_max();
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

/* A line is made where it will wait, if it may. */
static void put_line(enum log_level level, const char *logger, struct str text, bool cut, int64_t wall_ms)
{
    static const struct str names[] = {{"DEBUG", 5}, {"INFO", 4}, {"WARNING", 7}, {"ERROR", 5}};
    enum { LOGGER_MAX = 100 };
    char own[LINE_MAX_BYTES];
    log_sink_fn *fn = atomic_load(&sink);
    bool together = waiting.bytes && !fn;
    if (together && waiting.n + LINE_MAX_BYTES > TOGETHER_MAX)
        log_together_put();
    char *line = together ? waiting.bytes + waiting.n : own;

    char *p = put(put_time(line, wall_ms), STR(" - "));
    p = put(p, str_n(logger, strnlen(logger, LOGGER_MAX)));
    p = put(put(put(p, STR(" - ")), names[level]), STR(" - "));
    p = put_escaped(p, LINE_MAX_BYTES - 16 - (size_t)(p - line), &text);
    if (cut || text.n)
        p = put(p, STR(" [cut]"));
    *p++ = '\n';

    if (fn) {
        p[-1] = 0;
        fn(level, line);
    } else if (!together) {
        put_out(line, (size_t)(p - line));
    } else {
        waiting.n += (size_t)(p - line);
        if (level >= LOG_WARNING) /* urgent: goes out at once, after what came before it */
            log_together_put();
    }
}

void log_text(enum log_level level, const char *logger, struct str text, int64_t wall_ms)
{
    if (level < log_level)
        return;
    int keep = errno;
    bool cut = text.n >= TEXT_MAX;
    put_line(level, logger, str_n(text.p, cut ? TEXT_MAX - 1 : text.n), cut, wall_ms);
    errno = keep;
}

void log_write(enum log_level level, const char *logger, const char *fmt, ...)
{
    if (level < log_level)
        return;
    int keep = errno;
    char text[TEXT_MAX];
    va_list args;
    va_start(args, fmt);
    int want = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    put_line(level, logger, str_of(want < 0 ? fmt : text), want >= (int)sizeof text, clock_wall_ms());
    errno = keep;
}
