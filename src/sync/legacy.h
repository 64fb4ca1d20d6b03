/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_SYNC_LEGACY_H
#define CHAPPE_SYNC_LEGACY_H
/* Private to src/sync: /events, /initialSync and /rooms/{roomId}/initialSync, the endpoints before /sync. */
#include "request.h"

enum legacy_kind { LEGACY_EVENTS, LEGACY_ALL_ROOMS, LEGACY_ONE_ROOM };
struct room_fact { /* what no stream tells */
    struct str room_id;
    bool is_public, blocked;
};
struct legacy {
    enum legacy_kind kind;
    struct arena *a;    /* outlives the http request */
    struct str room_id; /* absent: none */
    size_t limit;
    bool raw, archived, peeking;
    bool of_service; /* asked by an application service's own user */
    bool placed;     /* from is set: the request's token, or where we stood when it was first computed */
    struct stream_token from;
    struct smap facts;       /* room id -> struct room_fact */
    VEC(struct str) unknown; /* rooms whose facts a run lacked */
    /* an answer that is an error */
    int status;
    const char *errcode;
    struct str error;
};

/* legacy.c: a request of this kind. */
bool legacy_path(struct str path, enum legacy_kind *kind, struct str *room_id);
struct legacy *legacy_new(enum legacy_kind kind, struct str room_id);
void legacy_free(struct legacy **l);
void legacy_begin(struct sync_req *r); /* authenticated: its parameters */
/* One run, as sync_run: RUN_BROKEN with l->status set is an answer too. */
enum run_result legacy_run(struct legacy *l, struct sync_run *run, struct rope *out);
/* Asks for what model_load does not know; false: nothing was lacking. */
bool legacy_load(struct sync_req *r);
void legacy_render_empty(struct legacy *l, struct sync_run *run, struct rope *out);
/* NULL: lacks. */
const struct room_fact *legacy_fact(struct legacy *l, struct sync_run *run, struct str room_id);
void legacy_refuse(struct legacy *l, struct sync_run *run, int status, const char *errcode, struct str error);
/* The reader's rooms, without those left out of /sync. false: lacks. */
bool legacy_joined(struct sync_run *run);
struct room *legacy_joined_room(const struct sync_run *run, struct str room_id); /* NULL: not joined */
bool legacy_world_readable(struct sync_run *run, struct str room_id, bool *yes); /* false: lacks */
/* {"tags":…} and the room's account data, as members of an array. */
void legacy_room_account(struct sync_run *run, struct str room_id, struct rope *out);
void legacy_account_item(struct sync_run *run, struct str type, struct str content, struct str room_id,
                         bool *comma, struct rope *out);
/* An ephemeral event of /sync, with its room. */
void legacy_with_room(struct sync_run *run, struct str event, struct str room_id, struct rope *out);
void legacy_presence(struct sync_run *run, struct str user_id, bool *comma, struct rope *out);

/* events.c, snapshot.c */
enum run_result legacy_events(struct legacy *l, struct sync_run *run, struct rope *out);
enum run_result legacy_all_rooms(struct legacy *l, struct sync_run *run, struct rope *out);
enum run_result legacy_one_room(struct legacy *l, struct sync_run *run, struct rope *out);

/* render_v1.c: the event as it was before /sync; raw: as servers see it. */
void render_event_v1(struct sync_run *run, struct event *ev, bool timeline, struct str membership, bool raw,
                     struct rope *out);
/* Asks for all that it will need. */
void render_event_v1_prepare(struct sync_run *run, struct event *ev, bool timeline);
#endif
