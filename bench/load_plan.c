/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The plan of a run: what is published, in phases, as bytes that somebody else composed. So the generator
 * knows neither how a message is sent to a homeserver nor what a replication line looks like.
 *
 *   past ROOM                         a message of the room that is there already when the devices come
 *   phase NAME closed WARM            one message after the other, the next when every device has the last
 *   phase NAME open                   everything at its time
 *   phase NAME stall                  the devices that are to stall ask, and read nothing from then on
 *   phase NAME back                   waits until they were dropped; then they come back
 *   message ROOM AT_US LENGTH\nBYTES\n   a message that every device of the room must get, number 1, 2, 3 ...
 *   other AT_US LENGTH\nBYTES\n       anything else; nobody waits for it
 *
 * Also here: the histogram of times.
 */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- reading
 * --------------------------------------------------------------------------------------------------------------
 */

static char *read_all(const char *path, size_t *len)
{
    FILE *file = fopen(path, "re");
    char *text = NULL;
    size_t cap = 0;
    *len = 0;
    if (file == NULL)
        die(STATUS_USAGE, "the plan %s cannot be opened", path);
    do {
        if (cap - *len < 2) {
            cap = cap ? cap * 2 : 65536;
            text = need(realloc(text, cap));
        }
        *len += fread(text + *len, 1, cap - *len - 1, file);
    } while (!feof(file) && !ferror(file));
    fclose(file);
    text[*len] = 0;
    return text;
}

static unsigned plan_number(struct plan *plan, unsigned room)
{
    if (plan->numbers == NUMBERS_MAX || room >= ROOMS_MAX)
        die(STATUS_USAGE, "the plan has too many messages or rooms");
    unsigned number = ++plan->numbers;
    if (room >= plan->rooms)
        plan->rooms = room + 1;
    plan->messages[number] = (struct message){room, ++plan->room_seqs[room]};
    return number;
}

static struct phase *phase_new(struct plan *plan)
{
    plan->phases = need(realloc(plan->phases, (plan->phase_count + 1) * sizeof(*plan->phases)));
    struct phase *phase = &plan->phases[plan->phase_count++];
    *phase = (struct phase){0};
    return phase;
}

static void record_add(struct plan *plan, struct record record)
{
    if (plan->phase_count == 0)
        die(STATUS_USAGE, "the plan has a message outside of a phase");
    struct phase *phase = &plan->phases[plan->phase_count - 1];
    if (phase->kind == PHASE_STALL || phase->kind == PHASE_BACK)
        die(STATUS_USAGE, "the plan has a message in a phase of none");
    if ((phase->record_count & (phase->record_count - 1)) == 0) {
        size_t cap = phase->record_count ? phase->record_count * 2u : 1;
        phase->records = need(realloc(phase->records, cap * sizeof(record)));
    }
    if (record.number != 0) {
        if (phase->first_number == 0)
            phase->first_number = record.number;
        phase->last_number = record.number;
    }
    phase->records[phase->record_count++] = record;
}

/* The bytes that follow a line, or NULL. */
static char *payload(char *p, const char *end, size_t len)
{
    return (size_t)(end - p) > len && p[len] == '\n' ? p + len + 1 : NULL;
}

/* PHASE_CLOSED: none of the others. */
static enum phase_kind kind_of(const char *how)
{
    return strcmp(how, "open") == 0    ? PHASE_OPEN
           : strcmp(how, "stall") == 0 ? PHASE_STALL
           : strcmp(how, "back") == 0  ? PHASE_BACK
                                       : PHASE_CLOSED;
}

/* One entry at p; returns what follows it, or NULL when it is none. */
static char *entry(struct plan *plan, char *p, char *end)
{
    unsigned room, warm;
    unsigned long long at, len;
    char name[NAME_MAX_BYTES + 1], how[8], *line_end = memchr(p, '\n', (size_t)(end - p));
    enum phase_kind kind;
    if (line_end == NULL)
        return NULL;
    *line_end = 0;
    char *next = line_end + 1;
    if (sscanf(p, "past %u", &room) == 1) {
        if (plan->phase_count > 0)
            return NULL;
        plan->past = plan_number(plan, room);
    } else if (sscanf(p, "phase %40s closed %u", name, &warm) == 2) {
        struct phase *phase = phase_new(plan);
        memcpy(phase->name, name, sizeof(name));
        phase->warm = warm;
    } else if (sscanf(p, "phase %40s %7s", name, how) == 2 && (kind = kind_of(how)) != PHASE_CLOSED) {
        struct phase *phase = phase_new(plan);
        memcpy(phase->name, name, sizeof(name));
        phase->kind = kind;
    } else if (sscanf(p, "message %u %llu %llu", &room, &at, &len) == 3) {
        char *bytes = next;
        if ((next = payload(next, end, len)) == NULL)
            return NULL;
        record_add(plan, (struct record){plan_number(plan, room), at * 1000, bytes, len});
    } else if (sscanf(p, "other %llu %llu", &at, &len) == 2) {
        char *bytes = next;
        if ((next = payload(next, end, len)) == NULL)
            return NULL;
        record_add(plan, (struct record){0, at * 1000, bytes, len});
    } else {
        return NULL;
    }
    return next;
}

void plan_read(struct plan *plan, const char *path)
{
    size_t len;
    *plan = (struct plan){.rooms = 1};
    plan->messages = need(calloc(NUMBERS_MAX + 1, sizeof(*plan->messages)));
    plan->room_seqs = need(calloc(ROOMS_MAX, sizeof(*plan->room_seqs)));
    if (path == NULL)
        return;
    plan->text = read_all(path, &len);
    for (char *p = plan->text, *end = plan->text + len; p < end;)
        if ((p = entry(plan, p, end)) == NULL)
            die(STATUS_USAGE, "the plan %s is malformed after %u messages", path, plan->numbers);
}

void plan_free(struct plan *plan)
{
    for (unsigned i = 0; i < plan->phase_count; i++)
        free(plan->phases[i].records);
    free(plan->phases);
    free(plan->messages);
    free(plan->room_seqs);
    free(plan->text);
}

/* -- histogram
 * --------------------------------------------------------------------------------------------------------------
 */

void histogram_clear(struct histogram *h)
{
    memset(h, 0, sizeof(*h));
}

/* Below HISTOGRAM_SUB exact, then HISTOGRAM_SUB / 2 buckets for each doubling. */
static unsigned bucket_of(uint64_t ns)
{
    unsigned shift = 0;
    while ((ns >> shift) >= HISTOGRAM_SUB)
        shift++;
    unsigned bucket = shift * (HISTOGRAM_SUB / 2) + (unsigned)(ns >> shift);
    return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

static uint64_t bucket_edge(unsigned bucket)
{
    if (bucket < HISTOGRAM_SUB)
        return bucket;
    unsigned shift = bucket / (HISTOGRAM_SUB / 2) - 1;
    uint64_t top = bucket - shift * (HISTOGRAM_SUB / 2);
    return ((top + 1) << shift) - 1;
}

void histogram_add(struct histogram *h, uint64_t ns)
{
    if (h->count == 0 || ns < h->min_ns)
        h->min_ns = ns;
    if (ns > h->max_ns)
        h->max_ns = ns;
    h->count++;
    h->sum_ns += ns;
    h->buckets[bucket_of(ns)]++;
}

void histogram_merge(struct histogram *to, const struct histogram *from)
{
    if (from->count == 0)
        return;
    if (to->count == 0 || from->min_ns < to->min_ns)
        to->min_ns = from->min_ns;
    if (from->max_ns > to->max_ns)
        to->max_ns = from->max_ns;
    to->count += from->count;
    to->sum_ns += from->sum_ns;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        to->buckets[i] += from->buckets[i];
}

uint64_t histogram_quantile(const struct histogram *h, double q)
{
    uint64_t rank = (uint64_t)(q * (double)h->count + 0.999999), seen = 0;
    if (h->count == 0)
        return 0;
    if (rank <= 1)
        return h->min_ns;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen >= rank) {
            uint64_t edge = bucket_edge(i);
            return edge < h->min_ns ? h->min_ns : edge > h->max_ns ? h->max_ns : edge;
        }
    }
    return h->max_ns;
}
