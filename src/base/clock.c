/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Clocks that tests can move by hand, and a fast random generator per thread (xoshiro256**, Blackman and
 * Vigna), seeded from the kernel on a thread's first draw. It picks jitter, hash secrets and identifiers that
 * only need to be unique; it is not a source of secrets that others must not guess from earlier draws.
 */
#include "chappe/clock.h"
#include "chappe/err.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/random.h>
#include <time.h>

static _Atomic int64_t fake_ms = -1;

void clock_fake_set(int64_t ms)
{
    atomic_store(&fake_ms, ms);
}

static int64_t read_us(clockid_t id)
{
    int64_t fake = atomic_load_explicit(&fake_ms, memory_order_relaxed);
    if (fake >= 0)
        return fake * 1000;
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t clock_mono_ms(void)
{
    return read_us(CLOCK_MONOTONIC) / 1000;
}

int64_t clock_mono_us(void)
{
    return read_us(CLOCK_MONOTONIC);
}

int64_t clock_wall_ms(void)
{
    return read_us(CLOCK_REALTIME) / 1000;
}

int64_t clock_mono_coarse_ms(void)
{
    return read_us(CLOCK_MONOTONIC_COARSE) / 1000;
}

int64_t clock_wall_coarse_ms(void)
{
    return read_us(CLOCK_REALTIME_COARSE) / 1000;
}

int64_t clock_wall_s(void)
{
    int64_t fake = atomic_load_explicit(&fake_ms, memory_order_relaxed);
    return fake >= 0 ? fake / 1000 : (int64_t)time(NULL);
}

static inline uint64_t rotl(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

uint64_t rng_u64(void)
{
    static _Thread_local uint64_t s[4];
    static _Thread_local bool seeded;
    if (!seeded) {
        ASSERT(getrandom(s, sizeof s, 0) == (ssize_t)sizeof s);
        s[0] |= 1; /* all zeros is the one state it never leaves */
        seeded = true;
    }
    uint64_t drawn = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return drawn;
}

double rng_unit(void)
{
    return (double)(rng_u64() >> 11) * 0x1.0p-53;
}

void rng_letters(char *out, size_t n)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    size_t done = 0;
    while (done < n) {
        uint64_t bits = rng_u64();
        /* Six bits a time; values past the alphabet are thrown away, to keep letters equally likely. */
        for (int k = 0; k < 10 && done < n; k++, bits >>= 6)
            if ((bits & 63) < sizeof letters - 1)
                out[done++] = letters[bits & 63];
    }
    out[n] = 0;
}
