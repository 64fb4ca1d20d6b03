/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_TEST_CROWD_H
#define CHAPPE_TEST_CROWD_H
/* What generated crowds have in common: dice that fall alike every time, and names by number. */
#include "world.h"

static inline unsigned dice(uint64_t *random, unsigned sides)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(*random >> 33) % sides;
}

static inline const char *user_of(struct world *w, unsigned i)
{
    return world_text(w, "@u%u:x", i);
}

static inline const char *room_of(struct world *w, unsigned i)
{
    return world_text(w, "!room%u:x", i);
}
#endif
