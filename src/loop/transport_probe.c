/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Chooses the transport at start. Container runtimes commonly forbid io_uring, kernels before 6.1 lack the
 * flags we need, and distributions switch it off by sysctl: none of that can be read off a version number, so
 * a ring is set up exactly as the transport would and made to move bytes. The reason for the choice is kept
 * for the log.
 */
#include "loop_int.h"
#include <stdio.h>

int transport_choose(struct str option, enum transport_kind *kind, char why[160], struct err *e)
{
    struct err reason = {.text = "built without io_uring"};
    *kind = TRANSPORT_UV;
    if (str_eq(option, STR("uv"))) {
        snprintf(why, 160, "asked for by option");
        return 0;
    }
    int rc = -ERR_UNSUPPORTED;
#ifdef CHAPPE_HAVE_URING
    rc = transport_uring_probe(&reason);
#endif
    if (rc == 0) {
        *kind = TRANSPORT_URING;
        snprintf(why, 160, "%s",
                 str_eq(option, STR("uring")) ? "asked for by option, probe succeeded" : "probe succeeded");
        return 0;
    }
    if (str_eq(option, STR("uring")))
        return err_set(e, ERR_UNSUPPORTED, "transport uring cannot be had: %.120s", reason.text);
    snprintf(why, 160, "io_uring: %.140s", reason.text);
    return 0;
}
