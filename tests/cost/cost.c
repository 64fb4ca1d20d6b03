/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What the hub does for a delta and for a re-poll, told to callgrind in pieces with names. cost.py runs this
 * and compares; to find out where the instructions go, see bench/README.md.
 *
 * Each piece is counted for a small and a large number of devices: the difference, divided by the difference
 * of devices, is what a device costs, and the rest what an event costs once. A piece is a burst of
 * replication (rows, statements, runs, answers), or requests from their arrival until they wait. Everything
 * was in memory before: each piece was done once without being counted.
 */
#include "count.h"
#include "house.h"

#include <stdio.h>

enum {
    SMALL = 64,
    LARGE = 512,
    FEW = 2,
    MORE = 10,
    ROOMS_FEW = 3,
    ROOMS_MANY = 300,
    ROOMS_TALKED = 30,
    TALK = 50
};

static const char *room = "!all:x";
static const char *last, *before_last; /* events of it */
static const char *const content =
    "{\"algorithm\":\"m.megolm.v1.aes-sha2\",\"ciphertext\":\""
    "AwgAEnACgAkLmt6qF84IK++J7UDH2Za1YVchHyprqTqsgLj0LckUuZrKVvM1nsz8GqTqsgAkLmt6qF84IK++J7UDH2Za1YVchHyp"
    "QvS4KqHZ0K0WkQFJrqTqsgLj0LckUuZrKVvM1nsz8GqAwgAEnACgAkLmt6qF84IK++J7UDH2Za1YVchHyprqTqsgLj0LckUuZrKV"
    "vM1nsz8GqTqsgAkLmt6qF84IK++J7UDH2Za1YVchHypQvS4KqHZ0K0WkQFJrqTqsgLj0LckUuZrKVvM1nsz8Gq\","
    "\"device_id\":\"SENDERDEV\",\"sender_key\":\"IlRMeOPX2e0MurIyfWEucYBRVOEEUMrOHqn/8mLqMjA\","
    "\"session_id\":\"X3lUlvLELLYxeTx4yOVu6UDpasGEVO0Jbu+QFnm0cKQ\"}";

/* ---- what arrives: each is written into the tables first, which is not counted ---- */

/* A message by @s:x, unread for everybody, after the room's last event or beside it. */
static void message_after(struct house *h, const char *prev, const char *count)
{
    struct world *w = h->w;
    const char *id = world_text(w, "$m%d", (int)++h->at);
    struct t_event e = *world_event(w, (struct t_event){.id = id,
                                                        .room = room,
                                                        .type = "m.room.encrypted",
                                                        .sender = "@s:x",
                                                        .stream = h->at,
                                                        .prev = prev,
                                                        .content = content});
    for (int i = 0; i < h->n; i++)
        world_add(&w->actions, h->v[i].user, room, "main", h->at, true, false, true);
    if (count)
        count_begin();
    world_send_event(w, &e);
    world_burst_end(w);
    house_run(h);
    if (count)
        count_end(count, h->n);
    house_expect_answers(h, id);
    before_last = last;
    last = id;
}

static void message(struct house *h, const char *count)
{
    message_after(h, last, count);
}

static void send_row(struct house *h, enum stream s, const struct feed_row *rows, size_t n, const char *count)
{
    struct world *w = h->w;
    if (count)
        count_begin();
    w->sink.rows(w->sink.arg, s, MASTER, ++h->at, rows, n);
    world_burst_end(w);
    house_run(h);
    if (count)
        count_end(count, h->n);
}

static void receipt(struct house *h, const char *type, const char *event, const char *count)
{
    send_row(h, STREAM_RECEIPTS,
             &(struct feed_row){.receipt = {.room_id = str_of(room),
                                            .receipt_type = str_of(type),
                                            .user_id = STR("@s:x"),
                                            .event_id = str_of(event),
                                            .data = STR("{\"ts\":1700000000000}")}},
             1, count);
}

static void typing(struct house *h, const char *count)
{
    static const struct str who = {"@s:x", 4};
    bool starts = h->at % 2;
    send_row(h, STREAM_TYPING,
             &(struct feed_row){
                 .typing = {.room_id = str_of(room), .user_ids = &who, .user_ids_count = starts ? 1 : 0}},
             1, count);
    house_expect_answers(h, "m.typing");
}

/* One message to each device: as a new session's keys are handed round. */
static void to_device(struct house *h, const char *count)
{
    struct world *w = h->w;
    struct feed_row *rows = xcalloc((size_t)h->n, sizeof *rows);
    for (int i = 0; i < h->n; i++) {
        rows[i].user.user_id = str_of(h->v[i].user);
        world_add(
            &w->inbox, h->v[i].user, "DEVICEABCD",
            world_text(w, "{\"type\":\"m.room.encrypted\",\"sender\":\"@s:x\",\"content\":%s}", content),
            h->at + 1);
    }
    send_row(h, STREAM_TO_DEVICE, rows, (size_t)h->n, count);
    house_expect_answers(h, "\"to_device\"");
    free(rows);
}

/* ---- devices in one room ---- */

static void one_room(int devices)
{
    struct house *h = house_new(devices);
    last = house_room(h, room);
    house_open(h);
    for (int counted = 0; counted < 2; counted++) {
#define COUNT(name) (counted ? (name) : NULL)
        message(h, COUNT("message"));
        house_poll(h, POLL_STORED_FILTER, COUNT("re-poll"));
        house_expect_parked(h);
        receipt(h, "m.read", last, COUNT("receipt"));
        house_expect_answers(h, "m.receipt");
        house_poll(h, POLL_STORED_FILTER, NULL);
        typing(h, COUNT("typing"));
        house_poll(h, POLL_STORED_FILTER, NULL);
        to_device(h, COUNT("to-device"));
        house_poll(h, POLL_INLINE_FILTER, COUNT("re-poll-inline"));
        house_expect_parked(h);
        receipt(h, "m.read.private", last, COUNT("nothing")); /* others' are nobody's business */
        house_expect_parked(h);
        message_after(h, before_last, COUNT("message-forked"));
        house_poll(h, POLL_STORED_FILTER, NULL);
#undef COUNT
    }
    message(h, NULL);
    house_free(&h);
}

/* ---- the same, with tokens of the Matrix Authentication Service ---- */

static void introspected(int devices)
{
    struct house *h = house_new_with(
        devices, "matrix_authentication_service: {enabled: true, endpoint: 'http://mas.test', secret: s}\n");
    last = house_room(h, room);
    house_open(h);
    for (int counted = 0; counted < 2; counted++) {
        message(h, NULL);
        house_poll(h, POLL_STORED_FILTER, counted ? "re-poll-mas" : NULL);
        house_expect_parked(h);
    }
    message(h, NULL);
    house_free(&h);
}

/* ---- users with more rooms than the one in which something happens ---- */

static void rooms(int devices, int joined, const char *delta, const char *poll)
{
    struct house *h = house_new(devices);
    last = house_room(h, room);
    for (int i = 1; i < joined; i++)
        house_room(h, world_text(h->w, "!other%d:x", i));
    house_open(h);
    message(h, NULL);
    house_poll(h, POLL_STORED_FILTER, NULL);
    message(h, delta);
    house_poll(h, POLL_STORED_FILTER, poll);
    house_expect_parked(h);
    message(h, NULL);
    house_free(&h);
}

/* ---- users with many rooms in common who all begin anew ---- */

static void initial(int devices)
{
    struct house *h = house_new(devices);
    for (int i = 0; i < ROOMS_TALKED; i++) {
        const char *id = world_text(h->w, "!talked%d:x", i);
        house_talk(h, id, house_room(h, id), TALK);
    }
    last = house_room(h, room);
    house_open(h);
    message(h, NULL); /* nobody waits any more */
    house_poll(h, POLL_INITIAL, NULL);
    house_poll(h, POLL_INITIAL, "initial");
    house_expect_answers(h, "\"join\":{");
    house_free(&h);
}

int main(void)
{
    one_room(SMALL);
    one_room(LARGE);
    introspected(SMALL);
    introspected(LARGE);
    initial(FEW);
    initial(MORE);
    rooms(FEW, ROOMS_FEW, "message-3-rooms", "re-poll-3-rooms");
    rooms(MORE, ROOMS_FEW, "message-3-rooms", "re-poll-3-rooms");
    rooms(FEW, ROOMS_MANY, "message-300-rooms", "re-poll-300-rooms");
    rooms(MORE, ROOMS_MANY, "message-300-rooms", "re-poll-300-rooms");
    return 0;
}
