/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* What the transport takes for granted of a ring. Where io_uring is forbidden there is nothing to test. */
#include "test_loop.h"
#include "chappe/err.h"
#include "chappe/loop.h"
#include "ring.h"
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

static int setup(void **state)
{
    static struct ring ring;
    static int event_fd;
    struct err e;
    event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    *state = ring_open(&ring, event_fd, false, &e) == 0 ? &ring : NULL;
    close(event_fd); /* the ring has it */
    return 0;
}

static int teardown(void **state)
{
    if (*state)
        ring_close(*state);
    return 0;
}

static unsigned reap(struct ring *r)
{
    struct io_uring_cqe *cqes[8];
    unsigned n = io_uring_peek_batch_cqe(&r->uring, cqes, 8);
    io_uring_cq_advance(&r->uring, n);
    return n;
}

/* The flag of work that has been done, which another processor was late to set. */
static void test_late_flag(void **state)
{
    struct ring *r = *state;
    if (!r)
        skip();
    assert_false(ring_has_work(r));
    __atomic_fetch_or(r->uring.sq.kflags, IORING_SQ_TASKRUN, __ATOMIC_SEQ_CST);
    assert_true(ring_has_work(r));
    ring_enter(r);
    assert_int_equal(reap(r), 0);
    assert_false(ring_has_work(r));
    /* the other one is the kernel's to take back */
    __atomic_fetch_or(r->uring.sq.kflags, IORING_SQ_CQ_OVERFLOW, __ATOMIC_SEQ_CST);
    assert_true(ring_has_work(r));
    ring_enter(r);
    assert_true(ring_has_work(r));
}

/* Work that has come is done though its flag is taken back, and all of it, however much. */
static void test_work_is_done(void **state)
{
    enum { PAIRS = 60 }; /* more than is done in one enter */
    struct ring *r = *state;
    if (!r)
        skip();
    int fds[PAIRS][2];
    char byte[PAIRS];
    for (int i = 0; i < PAIRS; i++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds[i]), 0);
        struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);
        io_uring_prep_recv(sqe, fds[i][0], &byte[i], 1, 0);
    }
    ring_enter(r);
    assert_int_equal(reap(r), 0);
    for (int i = 0; i < PAIRS; i++)
        assert_int_equal(send(fds[i][1], "x", 1, MSG_NOSIGNAL), 1);
    unsigned n = 0;
    for (int i = 0; i < PAIRS && ring_has_work(r); i++) {
        ring_enter(r);
        for (unsigned some; (some = reap(r)) > 0;)
            n += some;
    }
    assert_int_equal(n, PAIRS);
    assert_false(ring_has_work(r));
    for (int i = 0; i < PAIRS; i++) {
        close(fds[i][0]);
        close(fds[i][1]);
    }
}

int run_ring_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_late_flag, setup, teardown),
        cmocka_unit_test_setup_teardown(test_work_is_done, setup, teardown),
    };
    return cmocka_run_group_tests_name("ring", tests, NULL, NULL);
}
