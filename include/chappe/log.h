/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_LOG_H
#define CHAPPE_LOG_H
/*
 * One line per message on standard error, in Synapse's default shape
 *   2026-07-22 12:00:00,123 - chappe.feed - INFO - text
 * Control bytes in arguments are escaped. Never pass tokens, passwords, pushkeys or message contents.
 */
#include "chappe/err.h"
#include "chappe/str.h"
enum { LOG_TEXT_MAX = 2047 }; /* bytes of a message; longer ones are cut, and say so */
enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };
extern enum log_level log_level; /* messages below it are dropped */
void log_write(enum log_level level, const char *logger, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The same for a message that is ready, of this moment (Unix time in ms). */
void log_text(enum log_level level, const char *logger, struct str text, int64_t wall_ms);
/* Hands each line (NUL-terminated, without its newline) to fn instead of standard error; NULL goes back. For
 * tests. */
typedef void log_sink_fn(enum log_level level, const char *line);
void log_sink_set(log_sink_fn *fn);
/* Lines of the calling thread wait for log_together_put(), which is to be called before the thread's loop
 * sleeps: one write for all that a turn had to say. Warnings, errors and full buffers do not wait. */
void log_together_begin(void);
void log_together_put(void);
void log_together_end(void);
#define log_debug(logger, ...)   (log_level <= LOG_DEBUG ? log_write(LOG_DEBUG, logger, __VA_ARGS__) : (void)0)
#define log_info(logger, ...)    (log_level <= LOG_INFO ? log_write(LOG_INFO, logger, __VA_ARGS__) : (void)0)
#define log_warning(logger, ...) log_write(LOG_WARNING, logger, __VA_ARGS__)
#define log_error(logger, ...)   log_write(LOG_ERROR, logger, __VA_ARGS__)
#endif
