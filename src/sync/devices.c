/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What encryption needs: to-device messages, whose device lists changed, whose keys need no longer be tracked
 * (sync-v3 3.11, 3.12; Synapse 1.157 handlers/sync.py, handlers/device.py).
 */
#include "sync_int.h"

enum { TO_DEVICE_MAX = 100 };

/* The membership an event's sender had before: through what it replaced. Lacks are noted. */
static bool left_from_join(struct sync_run *run, const struct event *ev)
{
    struct event *before;
    if (str_absent(ev->replaces_state))
        return false;
    enum have h = model_event(run->m, model_rec(run->m, ev->replaces_state), &before);
    if (h == LACK)
        run->lack = true;
    return h == HAVE && before->membership == MEMBERSHIP_JOIN;
}

/* In one room: who joined and left in it has left, who left and joined has joined. */
static void member_seen(struct sync_run *run, const struct event *ev, struct user_set *joined,
                        struct user_set *left)
{
    if (str_absent(ev->state_key) || !str_eq(ev->type, STR("m.room.member")))
        return;
    switch (ev->membership) {
    case MEMBERSHIP_JOIN:
    case MEMBERSHIP_INVITE:
    case MEMBERSHIP_KNOCK:
        user_set_add(joined, ev->state_key);
        user_set_del(left, ev->state_key);
        break;
    case MEMBERSHIP_NONE:
    case MEMBERSHIP_LEAVE:
    case MEMBERSHIP_BAN:
        if (left_from_join(run, ev))
            user_set_add(left, ev->state_key);
        user_set_del(joined, ev->state_key);
        break;
    }
}

/* Derived from the response itself, as in Synapse: state, then timeline, of the joined rooms in it. Synapse
 * lets whatever room happens to come last decide for all; here who joined any room has joined, or its keys
 * could stay unknown. */
void run_user_changes(struct sync_run *run)
{
    if (!run->has_since)
        return;
    struct user_set joined, left;
    for (const struct room_entry *en = run->emitted; en; en = en->next_emitted) {
        if (en->type != ENTRY_JOINED)
            continue;
        user_set_init(&joined);
        user_set_init(&left);
        for (const struct state_item *x = en->state; x; x = x->next)
            member_seen(run, x->ev, &joined, &left);
        for (size_t i = 0; i < en->timeline_count; i++)
            member_seen(run, en->timeline[i].ev, &joined, &left);
        for (size_t i = 0; i < joined.v.n; i++)
            user_set_add(&run->newly_joined_users, joined.v.v[i]);
        for (size_t i = 0; i < left.v.n; i++)
            user_set_add(&run->newly_left_users, left.v.v[i]);
        user_set_fini(&joined);
        user_set_fini(&left);
    }
    for (size_t i = 0; i < run->newly_joined_users.v.n; i++)
        user_set_del(&run->newly_left_users, run->newly_joined_users.v.v[i]);
}

static void on_row(void *arg, const struct device_list_row *row)
{
    struct sync_run *run = arg;
    if (row->is_signature || str_absent(row->room_id) || run_is_joined(run, row->room_id))
        user_set_add(&run->changed, row->user_id);
}

static void add_members(struct sync_run *run, struct str room_id, struct user_set *to)
{
    struct room *r = model_room(run->m, room_id);
    if (!run_have(run, model_room_state(run->m, r)))
        return;
    size_t it = 0;
    for (struct member *mb; (mb = smap_next(&r->members, &it));) {
        if (mb->membership == MEMBERSHIP_JOIN)
            user_set_add(to, mb->user_id);
    }
}

void run_device_lists(struct sync_run *run)
{
    if (!run->has_since)
        return;
    enum have h =
        model_device_list_rows(run->m, run->u, &run->since.device_list, &run->now.device_list, on_row, run);
    if (h == LACK)
        run->lack = true;
    if (h == ABSENT) { /* older than what is kept: anybody one shares a room with may have changed */
        run_joined(run);
        for (size_t i = 0; i < run->joined_count; i++)
            add_members(run, run->joined[i]->room_id, &run->changed);
    }
    for (size_t i = 0; i < run->newly_joined_rooms.v.n; i++)
        add_members(run, run->newly_joined_rooms.v.v[i], &run->changed);
    for (size_t i = 0; i < run->newly_joined_users.v.n; i++)
        user_set_add(&run->changed, run->newly_joined_users.v.v[i]);

    struct user_set candidates;
    user_set_init(&candidates);
    for (size_t i = 0; i < run->newly_left_users.v.n; i++)
        user_set_add(&candidates, run->newly_left_users.v.v[i]);
    for (size_t i = 0; i < run->newly_left_rooms.v.n; i++)
        add_members(run, run->newly_left_rooms.v.v[i], &candidates);
    for (size_t i = 0; i < candidates.v.n; i++) {
        if (!run_shares_room(run, candidates.v.v[i]))
            user_set_add(&run->left, candidates.v.v[i]);
    }
    user_set_fini(&candidates);
}

/* Messages above the token, at most a page: next_batch then stops at the last of them. */
void run_to_device(struct sync_run *run)
{
    if (!run->d)
        return;
    int64_t since = run->has_since ? run->since.to_device : 0;
    if (!run_have(run, model_device_keys(run->m, run->d)))
        return;
    if (since == run->now.to_device || !run_have(run, model_to_device(run->m, run->d, since)))
        return;
    size_t n = 0;
    int64_t last = 0;
    for (size_t i = 0; i < run->d->td.n && n < TO_DEVICE_MAX; i++) {
        const struct to_device_msg *msg = &run->d->td.v[i];
        if (msg->stream > since && msg->stream <= run->now.to_device) {
            n++;
            last = msg->stream;
        }
    }
    run->to_device_count = n;
    if (n == TO_DEVICE_MAX)
        run->to_device_upto = last;
}
