/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Chooses the transport at start by trying each kind out (ring.c). The reason for the choice is kept for the
 * log.
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
    bool demanded = str_eq(option, STR("uring"));
#ifdef CHAPPE_HAVE_URING
    const char *asked = demanded ? "asked for by option, " : "";
    if (transport_uring_probe(true, &reason) == 0) {
        *kind = TRANSPORT_URING_DIRECT;
        snprintf(why, 160, "%sprobe succeeded, sockets take no descriptors", asked);
        return 0;
    }
    struct err direct = reason;
    if (transport_uring_probe(false, &reason) == 0) {
        *kind = TRANSPORT_URING;
        snprintf(why, 160, "%sprobe succeeded, sockets take descriptors (%.60s)", asked, direct.text);
        return 0;
    }
#endif
    if (demanded)
        return err_set(e, ERR_UNSUPPORTED, "transport uring cannot be had: %.120s", reason.text);
    snprintf(why, 160, "io_uring: %.140s", reason.text);
    return 0;
}
