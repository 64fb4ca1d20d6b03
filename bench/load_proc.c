/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What the kernel says about other processes. CPU time comes from the process's CPU clock: nanoseconds, all
 * threads, ended threads included (the sum over /proc/PID/task forgets those, /proc/PID/stat counts in 10
 * ms). It contains what the process does in the kernel, and on loopback that includes the receiving half of
 * the peer's TCP.
 */
#include "load.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint64_t clock_ns(clockid_t id)
{
    struct timespec t;
    return clock_gettime(id, &t) == 0 ? (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec : 0;
}

uint64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t wall_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

uint64_t own_cpu_ns(void)
{
    return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

uint64_t target_cpu_ns(const struct options *o)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < o->pid_count; i++) {
        clockid_t id;
        if (clock_getcpuclockid(o->pids[i], &id) == 0)
            sum += clock_ns(id);
    }
    return sum;
}

static uint64_t process_rss(pid_t pid)
{
    char path[64], line[256];
    unsigned long long kib = 0;
    snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    while (fgets(line, sizeof(line), file) != NULL)
        if (sscanf(line, "Rss: %llu kB", &kib) == 1)
            break;
    fclose(file);
    return (uint64_t)kib * 1024;
}

uint64_t target_rss(const struct options *o)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < o->pid_count; i++)
        sum += process_rss(o->pids[i]);
    return sum;
}

void die(int status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("bench_load: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(status);
}

void *need(void *memory)
{
    if (memory == NULL)
        die(3, "out of memory");
    return memory;
}
