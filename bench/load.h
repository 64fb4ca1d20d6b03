/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Parts of the load generator (load.c has the overview): one HTTP/1.1 client connection with an incremental
 * response parser, and samples of another process's CPU time and memory.
 *
 * The generator is a measuring tool, so it stands apart from the server's modules: nothing of what it
 * measures takes part in the measuring. It allocates with malloc and ends on failure.
 */
#ifndef CHAPPE_BENCH_LOAD_H
#define CHAPPE_BENCH_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A response as it arrives. The body is decoded in place (chunked encoding included), so body..body+body_len
 * is contiguous once reply_advance() said REPLY_DONE. */
struct reply {
    char *data; /* head, then the decoded body, then what is not decoded yet */
    size_t len;
    size_t cap;
    size_t body;     /* offset of the body; 0 while the head is incomplete */
    size_t body_len; /* decoded so far */
    size_t raw;      /* offset of the first byte that is not decoded */
    size_t left;     /* bytes missing of the body, or of the current chunk */
    int status;
    bool chunked;
    bool until_eof;
    bool closes; /* the server will close after this response */
    int chunk_state;
};

enum reply_result { REPLY_MORE, REPLY_DONE, REPLY_BAD };

/* Room for at least `want` more bytes. */
char *reply_room(struct reply *r, size_t want);
/* `n` bytes were read into the room. Bytes after the end of the response are bad: nothing is pipelined. */
enum reply_result reply_advance(struct reply *r, size_t n);
/* The peer closed: complete only for a body that ends with the connection. */
enum reply_result reply_eof(struct reply *r);
/* Ready for the next response; a large buffer is given back, so idle connections stay small. */
void reply_reset(struct reply *r);
void reply_free(struct reply *r);

/* The string value of a top-level-looking key ("next_batch") into a fresh string, or NULL. JSON escapes are
 * not undone: tokens have none, and a value with a backslash is refused. */
char *json_string_after(const char *body, size_t len, const char *key);

uint64_t now_ns(void);
/* CPU time of all threads of a process, ended ones included, in ns; 0 when it is gone. */
uint64_t process_cpu_ns(pid_t pid);
/* Resident memory in bytes, by walking the page tables (smaps_rollup): /proc/PID/statm is approximate. */
uint64_t process_rss(pid_t pid);

enum { LISTENERS_MAX = 60000, EVENTS_MAX = 4096, SOURCES_MAX = 200 };
enum { STATUS_VIOLATION = 1, STATUS_USAGE = 2, STATUS_ENVIRONMENT = 3 };

/* Strings point into argv. */
struct options {
    uint16_t port, publish_port;
    const char *tokens_file, *publish_token_file, *room, *filter, *run, *params;
    unsigned listeners, sources, concurrency, events, warm, body_bytes;
    unsigned poll_timeout_ms, event_timeout_s, total_timeout_s, linger_ms, idle_ms;
    pid_t pid;
    bool pause, initial_only;
};

/* Ends the program with a message when the command line is wrong or asks for help. */
struct options read_options(int argc, char **argv);

_Noreturn void die(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
void *need(void *memory); /* the same pointer, or the end */

#endif
