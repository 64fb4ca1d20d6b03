/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_RING_H
#define CHAPPE_RING_H
/*
 * One io_uring instance as the transport uses it: SINGLE_ISSUER and DEFER_TASKRUN, a ring of receive buffers,
 * an eventfd that tells of completions, and (direct) a table of files of its own. A socket in that table
 * takes no descriptor of the process, but a table may not have more places than RLIMIT_NOFILE: whoever wants
 * more sockets opens another ring.
 */
#include "chappe/mem.h"
#include <liburing.h>

struct err;
enum {
    BUF_COUNT = 128, /* a power of two; when they run out a receive ends and is armed again */
    BUF_BYTES = 2048,
    BUF_GROUP = 1,
};

struct ring {
    struct io_uring uring;
    struct io_uring_buf_ring *bufs;
    char *buf_mem; /* in one mapping with the ring: a page is resident once a buffer in it has been used */
    size_t bufs_bytes;
    unsigned bufs_used;
    uint32_t places; /* of the table; 0: none, sockets have descriptors */
    uint32_t taken;  /* places in use, or promised to an accept */
    size_t ops;      /* operations in flight, all kinds but cancels */
    bool up;
};

/* event_fd is the caller's, and may be shared by several rings of one thread. -ERR_UNSUPPORTED with the
 * failing step in e. */
int ring_open(struct ring *r, int event_fd, bool direct, struct err *e) __attribute__((warn_unused_result));
void ring_close(struct ring *r);
size_t ring_memory(const struct ring *r);
/* Has the kernel put off work that needs us to enter it? */
static inline bool ring_has_work(const struct ring *r)
{
    return __atomic_load_n(r->uring.sq.kflags, __ATOMIC_RELAXED) &
           (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}
/* Submits, and has some of that work done. */
void ring_enter(struct ring *r);
/* The kernel may use this buffer again, once the transport has advanced the buffer ring past offset. */
void ring_buf_give(struct ring *r, unsigned id, int offset);
static inline struct str ring_buf(struct ring *r, uint32_t cqe_flags, int n)
{
    unsigned id = cqe_flags >> IORING_CQE_BUFFER_SHIFT;
    if (id >= r->bufs_used) {
        mem_count(MEM_buffers, (int64_t)(id + 1 - r->bufs_used) * BUF_BYTES);
        r->bufs_used = id + 1;
    }
    return str_n(r->buf_mem + (size_t)id * BUF_BYTES, (size_t)n);
}
#endif
