/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_CLOCK_H
#define CHAPPE_CLOCK_H
#include <stddef.h>
#include <stdint.h>
int64_t clock_mono_ms(void); /* for intervals */
int64_t clock_mono_us(void);
int64_t clock_wall_ms(void); /* Unix time; what Matrix timestamps use */
/* The same without a look at the hardware: a tick (4 ms or less) late at most, and several times cheaper.
 * Never to be compared with an exact one for more than that. */
int64_t clock_mono_coarse_ms(void);
int64_t clock_wall_coarse_ms(void);
int64_t clock_wall_s(void); /* the same in seconds, some milliseconds late, and cheaper */
/* Tests only: replaces both clocks by a value that moves by hand; pass -1 to go back to the real ones. */
void clock_fake_set(int64_t ms);
uint64_t rng_u64(void);                /* not for secrets' derivation; seeded from getrandom */
double rng_unit(void);                 /* [0, 1) */
void rng_letters(char *out, size_t n); /* n letters of [A-Za-z], NUL after them */
#endif
