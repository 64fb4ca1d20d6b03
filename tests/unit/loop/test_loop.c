/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Entry of the loop module's tests: wheel, mailbox, and the same transport suite on both implementations. */
#include "test_loop.h"

int main(void)
{
    int failed = run_wheel_tests() + run_mailbox_tests() + run_transport_tests();
#ifdef CHAPPE_HAVE_URING
    failed += run_ring_tests();
#endif
    return failed ? 1 : 0;
}
