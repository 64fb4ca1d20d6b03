/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * A hashed timer wheel. A timer hangs in the slot of the first tick at or after its due time, modulo the
 * wheel; a slot that comes round fires what is due and leaves the rest for a later turn. A bitmap says which
 * slots may hold something, so that an idle server can sleep until the next one. Bits are set on insertion
 * and cleared when the slot is looked at and found empty: cancelling touches the list only.
 *
 * A timer that is put off while it hangs somewhere before its new time is left there, as it will be looked at
 * early enough. So a connection that is set a timer for each step of each request touches its neighbours on
 * the list, whose memory is far away, once in a turn of the wheel.
 *
 * Slots are lists whose head is a struct wheel_timer. While a slot is being fired its timers stand on a
 * private list, so callbacks may set and cancel whatever they like, timers of the same slot included.
 */
#include "chappe/loop.h"

static void head_init(struct wheel_timer *h)
{
    h->prev = h->next = h;
}

static void insert(struct wheel_timer *head, struct wheel_timer *t)
{
    t->prev = head->prev;
    t->next = head;
    head->prev->next = t;
    head->prev = t;
}

static void take_off(struct wheel_timer *t)
{
    t->prev->next = t->next;
    t->next->prev = t->prev;
    t->prev = t->next = NULL;
}

static size_t slot_of(int64_t tick)
{
    return (size_t)(tick % WHEEL_SLOTS);
}

/* Ticks are counted from the wheel's beginning, so that 32 bits last for eight years. */
static uint32_t due_of(const struct wheel *w, int64_t due_ms)
{
    int64_t ms = due_ms - w->begin_ms, tick = ms > 0 ? (ms + WHEEL_TICK_MS - 1) / WHEEL_TICK_MS : 0;
    return tick < WHEEL_NEVER ? (uint32_t)tick : WHEEL_NEVER - 1;
}

void wheel_init(struct wheel *w, int64_t now_ms)
{
    for (size_t i = 0; i < WHEEL_SLOTS; i++)
        head_init(&w->slots[i]);
    memset(w->used, 0, sizeof w->used);
    w->begin_ms = now_ms;
    w->tick = 0;
    w->count = 0;
}

static void place(struct wheel *w, struct wheel_timer *t)
{
    int64_t next = w->tick + 1, tick = t->due > next ? t->due : next; /* already due: the next look */
    size_t slot = slot_of(tick);
    insert(&w->slots[slot], t);
    t->look = (uint32_t)(next + (tick - next) % WHEEL_SLOTS);
    w->used[slot / 64] |= (uint64_t)1 << (slot % 64);
}

void wheel_set(struct wheel *w, struct wheel_timer *t, int64_t due_ms)
{
    uint32_t due = due_of(w, due_ms);
    if (t->next && t->look <= due) {
        t->due = due;
        return;
    }
    wheel_cancel(w, t);
    t->due = due;
    place(w, t);
    w->count++;
}

void wheel_let_go(struct wheel_timer *t)
{
    t->due = WHEEL_NEVER;
}

void wheel_cancel(struct wheel *w, struct wheel_timer *t)
{
    if (!t->next)
        return;
    take_off(t);
    w->count--;
}

/* False: *left is used up, and some have not been looked at. */
static bool fire_slot(struct wheel *w, size_t slot, int64_t now, size_t *left,
                      void (*fn)(void *arg, struct wheel_timer *t), void *arg)
{
    struct wheel_timer batch;
    struct wheel_timer *head = &w->slots[slot];
    w->used[slot / 64] &= ~((uint64_t)1 << (slot % 64));
    if (head->next == head)
        return true;
    batch = *head;
    batch.next->prev = batch.prev->next = &batch;
    head_init(head);
    while (batch.next != &batch && *left > 0) {
        struct wheel_timer *t = batch.next;
        take_off(t);
        if (t->due > now && t->due != WHEEL_NEVER) {
            place(w, t); /* another turn, or put off */
            continue;
        }
        w->count--;
        if (t->due != WHEEL_NEVER) {
            --*left;
            fn(arg, t);
        }
    }
    if (batch.next == &batch)
        return true;
    /* They stay where they were, before those that were put there meanwhile. */
    batch.prev->next = head->next;
    head->next->prev = batch.prev;
    head->next = batch.next;
    batch.next->prev = head;
    w->used[slot / 64] |= (uint64_t)1 << (slot % 64);
    return false;
}

bool wheel_advance(struct wheel *w, int64_t now_ms, size_t max, void (*fn)(void *arg, struct wheel_timer *t),
                   void *arg)
{
    int64_t until = (now_ms - w->begin_ms) / WHEEL_TICK_MS;
    if (until - w->tick > WHEEL_SLOTS)
        w->tick = until - WHEEL_SLOTS; /* after a long sleep one turn sees every slot */
    while (w->tick < until) {
        w->tick++;
        size_t slot = slot_of(w->tick);
        if ((w->used[slot / 64] >> (slot % 64) & 1) && !fire_slot(w, slot, until, &max, fn, arg)) {
            w->tick--; /* this one is looked at again */
            return true;
        }
    }
    return false;
}

int64_t wheel_next_ms(const struct wheel *w, int64_t now_ms)
{
    if (w->count == 0)
        return -1;
    for (int64_t i = 1; i <= WHEEL_SLOTS; i++) {
        size_t slot = slot_of(w->tick + i);
        if (slot % 64 == 0 && w->used[slot / 64] == 0) {
            i += 63;
            continue;
        }
        if (w->used[slot / 64] >> (slot % 64) & 1) {
            int64_t ms = w->begin_ms + (w->tick + i) * WHEEL_TICK_MS - now_ms;
            return ms > 0 ? ms : 0;
        }
    }
    return WHEEL_TICK_MS; /* not reached: a set timer has its bit */
}
