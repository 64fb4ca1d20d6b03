/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Setting a ring up, taking it down, and trying out at start whether the kernel does all that the transport
 * needs: container runtimes commonly forbid io_uring, kernels before 6.1 lack flags, and distributions switch
 * it off, none of which can be read off a version number.
 */
#include "ring.h"
#include "loop_int.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { SQ_ENTRIES = 512, CQ_ENTRIES = 8192, PLACES_MAX = 32768 };

void ring_close(struct ring *r)
{
    if (r->up)
        io_uring_queue_exit(&r->uring);
    if (r->bufs)
        munmap(r->bufs, r->bufs_bytes);
    mem_count(MEM_buffers, -(int64_t)r->bufs_used * BUF_BYTES);
    *r = (struct ring){0};
}

size_t ring_memory(const struct ring *r)
{
    return sizeof *r; /* its buffers are counted as they are used */
}

/* Another processor that brings work first lists it and then sets the flag. If we enter in between, the work
 * is done and the flag comes after it, to stay until there is more: the loop would turn for ever. So it is
 * taken back here. What has been listed by now is done in this enter, or flagged again at its end. */
void ring_enter(struct ring *r)
{
    __atomic_fetch_and(r->uring.sq.kflags, ~(unsigned)IORING_SQ_TASKRUN, __ATOMIC_SEQ_CST);
    io_uring_submit_and_get_events(&r->uring);
}

void ring_buf_give(struct ring *r, unsigned id, int offset)
{
    io_uring_buf_ring_add(r->bufs, r->buf_mem + (size_t)id * BUF_BYTES, BUF_BYTES, (unsigned short)id,
                          io_uring_buf_ring_mask(BUF_COUNT), offset);
}

static int open_buffers(struct ring *r)
{
    r->bufs_bytes = BUF_COUNT * (sizeof(struct io_uring_buf) + BUF_BYTES);
    void *m = mmap(NULL, r->bufs_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED)
        return -errno;
    r->bufs = m;
    struct io_uring_buf_reg reg = {.ring_addr = (uintptr_t)m, .ring_entries = BUF_COUNT, .bgid = BUF_GROUP};
    int rc = io_uring_register_buf_ring(&r->uring, &reg, 0);
    if (rc < 0)
        return rc;
    r->buf_mem = (char *)m + BUF_COUNT * sizeof(struct io_uring_buf);
    io_uring_buf_ring_init(r->bufs);
    for (unsigned i = 0; i < BUF_COUNT; i++)
        ring_buf_give(r, i, (int)i);
    io_uring_buf_ring_advance(r->bufs, BUF_COUNT);
    return 0;
}

static int open_table(struct ring *r)
{
    struct rlimit rl;
    if (getrlimit(RLIMIT_NOFILE, &rl) != 0)
        return -errno;
    uint32_t places = rl.rlim_cur < PLACES_MAX ? (uint32_t)rl.rlim_cur : PLACES_MAX;
    int rc = io_uring_register_files_sparse(&r->uring, places);
    if (rc == 0)
        r->places = places;
    return rc;
}

int ring_open(struct ring *r, int event_fd, bool direct, struct err *e)
{
    *r = (struct ring){0};
    struct io_uring_params p = {0};
    p.flags = IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
              IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL;
    p.cq_entries = CQ_ENTRIES;
    int rc = io_uring_queue_init_params(SQ_ENTRIES, &r->uring, &p);
    if (rc < 0)
        return err_set(e, ERR_UNSUPPORTED, "setting up a ring: %s", strerror(-rc));
    r->up = true;
    const char *step = "registering a buffer ring";
    rc = open_buffers(r);
    if (rc == 0) {
        step = "registering an eventfd";
        rc = io_uring_register_eventfd(&r->uring, event_fd);
    }
    if (rc == 0 && direct) {
        step = "registering a table of files";
        rc = open_table(r);
    }
    if (rc < 0) {
        ring_close(r);
        return err_set(e, ERR_UNSUPPORTED, "%s: %s", step, strerror(-rc));
    }
    return 0;
}

/* ---- trying it out ---- */

/* Waits for a completion; -ERR_UNSUPPORTED if none comes. */
static int probe_wait(struct ring *r, const char *what, int *res, uint32_t *flags, struct err *e)
{
    struct io_uring_cqe *cqe;
    struct __kernel_timespec ts = {.tv_sec = 1};
    int rc = io_uring_submit_and_wait_timeout(&r->uring, &cqe, 1, &ts, NULL);
    if (rc >= 0)
        rc = io_uring_peek_cqe(&r->uring, &cqe);
    if (rc < 0)
        return err_set(e, ERR_UNSUPPORTED, "%s: %s", what, strerror(-rc));
    *res = cqe->res;
    *flags = cqe->flags;
    io_uring_cqe_seen(&r->uring, cqe);
    if (*res < 0)
        return err_set(e, ERR_UNSUPPORTED, "%s: %s", what, strerror(-*res));
    return 0;
}

/* Our end (a descriptor, or a place in the table) takes and gives bytes, and can be closed. */
static int probe_bytes(struct ring *r, int file, int peer, struct err *e)
{
    char text[8];
    int res;
    uint32_t flags, fixed = r->places ? IOSQE_FIXED_FILE : 0;
    if (send(peer, "probe", 5, MSG_NOSIGNAL) != 5)
        return err_set(e, ERR_UNSUPPORTED, "send: %s", strerror(errno));
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);
    io_uring_prep_recv_multishot(sqe, file, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT | fixed;
    sqe->buf_group = BUF_GROUP;
    int rc = probe_wait(r, "multishot receive", &res, &flags, e);
    if (rc)
        return rc;
    if (res != 5 ||
        (flags & (IORING_CQE_F_BUFFER | IORING_CQE_F_MORE)) != (IORING_CQE_F_BUFFER | IORING_CQE_F_MORE))
        return err_set(e, ERR_UNSUPPORTED, "multishot receive does not work");
    sqe = io_uring_get_sqe(&r->uring);
    io_uring_prep_send(sqe, file, "probe", 5, MSG_NOSIGNAL);
    sqe->flags |= fixed;
    rc = probe_wait(r, "send", &res, &flags, e);
    if (rc == 0 && (res != 5 || recv(peer, text, sizeof text, MSG_DONTWAIT) != 5))
        rc = err_set(e, ERR_UNSUPPORTED, "a send was cut short");
    return rc;
}

static int probe_direct(struct ring *r, struct err *e)
{
    struct sockaddr_storage sa = {.ss_family = AF_UNIX}, from;
    socklen_t n = sizeof(sa_family_t), from_n = sizeof from;
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), file;
    int peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    uint32_t flags;
    int rc = 0;
    /* Bound to nothing but the family, a socket gets a name of its own outside the file system. */
    if (listener < 0 || peer < 0 || bind(listener, (struct sockaddr *)&sa, n) != 0 ||
        listen(listener, 1) != 0 || (n = sizeof sa, getsockname(listener, (struct sockaddr *)&sa, &n)) != 0 ||
        connect(peer, (struct sockaddr *)&sa, n) != 0)
        rc = err_set(e, ERR_UNSUPPORTED, "a socket of our own: %s", strerror(errno));
    if (rc == 0) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);
        io_uring_prep_accept(sqe, listener, (struct sockaddr *)&from, &from_n, 0);
        sqe->file_index = IORING_FILE_INDEX_ALLOC;
        rc = probe_wait(r, "direct accept", &file, &flags, e);
    }
    if (rc == 0)
        rc = probe_bytes(r, file, peer, e);
    if (listener >= 0)
        close(listener);
    if (peer >= 0)
        close(peer);
    return rc;
}

static int probe_ordinary(struct ring *r, struct err *e)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
        return err_set(e, ERR_UNSUPPORTED, "socketpair: %s", strerror(errno));
    int rc = probe_bytes(r, fds[0], fds[1], e);
    close(fds[0]);
    close(fds[1]);
    return rc;
}

int transport_uring_probe(bool direct, struct err *e)
{
    struct ring r;
    int event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (event_fd < 0)
        return err_set(e, ERR_UNSUPPORTED, "eventfd: %s", strerror(errno));
    int rc = ring_open(&r, event_fd, direct, e);
    if (rc == 0) {
        rc = direct ? probe_direct(&r, e) : probe_ordinary(&r, e);
        uint64_t count;
        if (rc == 0 && read(event_fd, &count, sizeof count) != sizeof count)
            rc = err_set(e, ERR_UNSUPPORTED, "the eventfd was not signalled");
        ring_close(&r);
    }
    close(event_fd);
    return rc;
}
