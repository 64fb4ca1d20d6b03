/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What a parked poll takes of the hub's memory, by kind: each device is a user of its own, all are in one
 * room, and everybody has had a message, loads members lazily, and waits for the next. Counted are the bytes
 * that the allocator sets apart, for two numbers of devices: the difference is what a device takes. Sockets
 * and requests as http keeps them are not in it; events are in it, but belong to a cache that is bounded.
 */
#include "house.h"

#include <stdio.h>

/* Of the kinds that cannot be forgotten, with the product's allocator; a fifth above what was measured. */
enum { FEW = 500, MANY = 1500, BYTES_MAX = 1570 };

struct held {
    int64_t bytes[MEM_KIND_COUNT];
};

static void message(struct house *h, const char **last)
{
    struct world *w = h->w;
    const char *id = world_text(w, "$m%d", (int)++h->at);
    struct t_event e = *world_event(w, (struct t_event){.id = id,
                                                        .room = "!all:x",
                                                        .sender = "@s:x",
                                                        .stream = h->at,
                                                        .prev = *last,
                                                        .content = "{\"body\":\"b\"}"});
    for (int i = 0; i < h->n; i++)
        world_add(&w->actions, h->v[i].user, "!all:x", "main", h->at, true, false, true);
    world_send_event(w, &e);
    world_burst_end(w);
    house_run(h);
    house_expect_answers(h, id);
    *last = id;
}

static struct held parked(int devices)
{
    struct held held;
    struct house *h = house_new(devices);
    const char *last = house_room(h, "!all:x");
    house_open(h);
    message(h, &last);
    house_poll(h, POLL_STORED_FILTER, NULL);
    house_expect_parked(h);
    for (int k = 0; k < MEM_KIND_COUNT; k++)
        held.bytes[k] = mem_bytes((enum mem_kind)k);
    message(h, &last); /* the polls end */
    house_free(&h);
    return held;
}

int main(void)
{
    static const char *const names[MEM_KIND_COUNT] = {
#define MEM_KIND(id, name) [MEM_##id] = name,
#include "chappe/tbl/memory.def"
#undef MEM_KIND
    };
    struct held few = parked(FEW), many = parked(MANY);
    int64_t kept = 0;
    for (int k = MEM_uncounted + 1; k < MEM_KIND_COUNT; k++) {
        int64_t each = (many.bytes[k] - few.bytes[k]) / (MANY - FEW);
        if (each)
            printf("%-16s %5lld bytes for each device\n", names[k], (long long)each);
        if (k == MEM_users || k == MEM_devices || k == MEM_tokens || k == MEM_requests || k == MEM_sessions)
            kept += each;
    }
    printf("users, devices, tokens, requests and sessions together: %lld, at most %d\n", (long long)kept,
           BYTES_MAX);
    return kept > BYTES_MAX;
}
