/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_TOKEN_INT_H
#define CHAPPE_TOKEN_INT_H
/* Shared inside src/token only. */
#include "chappe/token.h"

/* Sets writer's entry, keeping order. The caller ensures pos > min. When the table is full the entry with the
 * greatest writer id is given up, so that the outcome does not depend on the order of calls. */
void mpos_put(struct mpos *p, writer_id writer, int64_t pos);
#endif
