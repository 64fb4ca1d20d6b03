/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Parts of the load generator (load.c has the overview): an incremental HTTP/1.1 response parser, the plan of
 * what is published and when, the memory that the processes share, and samples of another process's CPU time
 * and memory.
 *
 * The generator is a measuring tool, so it stands apart from the server's modules: nothing of what it
 * measures takes part in the measuring. It allocates with malloc and ends on failure.
 */
#ifndef CHAPPE_BENCH_LOAD_H
#define CHAPPE_BENCH_LOAD_H

#include <stdatomic.h>
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

/* A stretch of somebody else's bytes; p is NULL when there is none. */
struct span {
    const char *p;
    size_t n;
};

/* The string value of a top-level-looking key ("next_batch"). JSON escapes are not undone: tokens have none,
 * and a value with a backslash is refused. */
struct span json_string_after(const char *body, size_t len, const char *key);
/* The value of a header field of a complete response. */
struct span reply_header(const struct reply *r, const char *name);

uint64_t now_ns(void);
/* Wall clock: what the kernel stamps arrivals with. */
uint64_t wall_ns(void);
/* CPU time of this process and of the children it waited for. */
uint64_t own_cpu_ns(void);

enum { LISTENERS_MAX = 120000, NUMBERS_MAX = 60000, SOURCES_MAX = 200, PIDS_MAX = 64, WORKERS_MAX = 16 };
enum { ROOMS_MAX = 65536, NAME_MAX_BYTES = 40, WORKER_DEVICES = 15000, REQUEST_MAX = 8192 };
enum { STATUS_VIOLATION = 1, STATUS_USAGE = 2, STATUS_ENVIRONMENT = 3 };

/* How the target is asked: Matrix long polls, or nchan's. */
enum protocol { PROTOCOL_SYNC, PROTOCOL_NCHAN };
enum publisher { PUBLISHER_HTTP, PUBLISHER_REDIS };

/* Strings point into argv. */
struct options {
    uint16_t port, publish_port;
    const char *tokens_file, *plan_file, *filter, *run, *params, *path, *since, *probe_token_file,
        *probe_path;
    enum protocol protocol;
    enum publisher publisher;
    unsigned listeners, stalled, sources, concurrency, workers, probe_us;
    unsigned poll_timeout_ms, event_timeout_s, total_timeout_s, linger_ms, idle_ms;
    int core; /* -1: any */
    pid_t pids[PIDS_MAX];
    unsigned pid_count;
    bool pause, initial_only;
};

/* Ends the program with a message when the command line is wrong or asks for help. */
struct options read_options(int argc, char **argv);

/* CPU time of all threads of all measured processes, ended threads included, in ns. */
uint64_t target_cpu_ns(const struct options *o);
/* Resident memory in bytes, by walking the page tables (smaps_rollup): /proc/PID/statm is approximate. */
uint64_t target_rss(const struct options *o);

/* -- the plan: what is published, in phases
 * --------------------------------------------------------------------------------------------------------------
 */

struct record {
    unsigned number; /* of a message: from 1 over the whole plan; 0: nobody waits for it */
    uint64_t at_ns;  /* from the beginning of its phase; open loop only */
    const char *bytes;
    size_t len;
};

enum phase_kind {
    PHASE_CLOSED, /* one message after the other */
    PHASE_OPEN,   /* at their times, whatever has arrived */
    PHASE_STALL,  /* the devices that are to stall ask, and read nothing */
    PHASE_BACK    /* they are dropped, and come back */
};

struct phase {
    char name[NAME_MAX_BYTES + 1];
    enum phase_kind kind;
    unsigned warm; /* closed: so many messages at the beginning are not to be counted */
    unsigned first_number, last_number;
    struct record *records;
    unsigned record_count;
};

struct message {
    unsigned room; /* the plan's own number of the room */
    unsigned seq;  /* from 1 within the room */
};

struct plan {
    struct phase *phases;
    unsigned phase_count;
    struct message *messages; /* by number; [0] is unused */
    unsigned numbers;         /* the highest one */
    unsigned past;            /* messages up to this one were sent before the generator began */
    unsigned *room_seqs;      /* messages of each room */
    unsigned rooms;
    char *text;
};

/* path NULL: an empty plan. */
void plan_read(struct plan *plan, const char *path);
void plan_free(struct plan *plan);

/* -- histogram of times, 1.6 % wide buckets
 * --------------------------------------------------------------------------------------------------------------
 */

enum { HISTOGRAM_SUB = 64, HISTOGRAM_BUCKETS = 64 * HISTOGRAM_SUB };
struct histogram {
    uint64_t count, sum_ns, min_ns, max_ns;
    uint32_t buckets[HISTOGRAM_BUCKETS];
};
void histogram_clear(struct histogram *h);
void histogram_add(struct histogram *h, uint64_t ns);
void histogram_merge(struct histogram *to, const struct histogram *from);
/* Upper edge of the bucket of the nearest rank, within the least and the greatest. */
uint64_t histogram_quantile(const struct histogram *h, double q);

/* -- what the processes share: one parent that publishes and reports, workers that listen
 * --------------------------------------------------------------------------------------------------------------
 */

struct counts {
    uint64_t requests, initial, deltas, messages, empties, bad_status, bad_replies, reconnects;
    uint64_t repeated, disordered, foreign, limited, lost;
    uint64_t body_bytes;
};

/* A worker's side: it alone writes, but for the histogram, which the parent clears while nothing is under
 * way. */
struct worker_board {
    struct counts c;
    _Atomic unsigned parked, retrying;
    unsigned room_devices[ROOMS_MAX];
    unsigned room_stalled[ROOMS_MAX]; /* those who come last, besides */
    _Atomic unsigned arrived[NUMBERS_MAX + 1];
    struct histogram arrivals;     /* kernel's stamp of the answer, since the message was sent */
    _Atomic uint64_t last_read_ns; /* wall clock, when the last message was read */
    int last_bad_status;
    uint64_t cpu_ns;
};

struct board {
    _Atomic unsigned start_end; /* devices with a lower number may begin */
    _Atomic unsigned sent;      /* highest number sent */
    _Atomic unsigned measured;  /* numbers from here on go into the histogram */
    _Atomic bool stop;
    uint64_t sent_ns[NUMBERS_MAX + 1]; /* wall clock */
    uint64_t *initial_ns;              /* by device */
    struct worker_board *workers;
};

/* Devices that listen, then those that stall and come back; in the order of the tokens file. */
static inline unsigned all_devices(const struct options *o)
{
    return o->listeners + o->stalled;
}

/* One worker: devices [from, from + count). Ends when the board says so. */
struct worker_setup {
    const struct options *o;
    const struct plan *plan;
    struct board *board;
    struct worker_board *own;
    char **lines; /* of the tokens file, all devices */
    unsigned from, count, concurrency;
    int kick, wake; /* eventfds: parent to worker, worker to parent */
    uint64_t deadline;
};
int worker_run(const struct worker_setup *setup);

/* A socket that is bound to a loopback address of its own, for device `index`. `more`: SOCK_NONBLOCK, or 0.
 */
int device_socket(const struct options *o, unsigned index, int more);
/* Writes the request of a long poll, at most REQUEST_MAX; returns its end. since NULL: an initial one. */
char *sync_request(char *to, const struct options *o, const char *query_filter, const char *token,
                   const char *since, unsigned timeout_ms);

/* -- devices that stop reading (load_stall.c)
 * --------------------------------------------------------------------------------------------------------------
 */

struct stall_counts {
    unsigned stuck;   /* the beginning of an answer is there, and nobody reads it */
    unsigned dropped; /* the server has ended the connection */
    unsigned whole;   /* the answer was so short that the kernel took it: no stalled reader */
    uint64_t answer_bytes, taken_bytes;   /* of who is stuck: all of it, and what is here of it */
    uint64_t first_drop_ns, last_drop_ns; /* since they asked */
};
struct stall;
/* The devices after the listeners, by their lines of the tokens file. Nothing is opened yet. */
struct stall *stall_new(const struct options *o, char **lines);
void stall_free(struct stall *s);
int stall_epoll(const struct stall *s); /* readable when stall_read() has something to do */
void stall_begin(struct stall *s);      /* all of them ask */
void stall_read(struct stall *s);
void stall_end(struct stall *s);           /* who was not dropped goes away */
bool stall_settled(const struct stall *s); /* nobody waits for an answer's beginning */
struct stall_counts stall_count(const struct stall *s);

char *percent_encode(const char *text);
_Noreturn void die(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
void *need(void *memory); /* the same pointer, or the end */

#endif
