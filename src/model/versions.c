/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * How old is a token? The texts that next_batch had lately are numbered, and with each user stands the number
 * that was the newest when something last came that it might see (it was "stirred"). So of a token of ours it
 * is known at once, without a look at its fields, whether anything has come since for its bearer: a poll that
 * follows an answer is parked without being computed, and what a message means for thousands who wait needs
 * no proof, for each of them, that it is all there is (sync/quick.c).
 *
 * What stirs is what wakes (model_wake_user), whether anybody waits or not, and what is told with the next
 * answer only. A user is stirred by what comes after a text was made, which therefore does not cover it: the
 * text of number n covers whatever stirred before it, under the numbers below n. Rooms tell those who are
 * active, so of others, and of those whose rooms have to be read again, nothing is known.
 *
 * The table is found by a keyed hash of the text; two texts of one place drive each other out, and the older
 * one is then simply not known. Costs a hash for each new text.
 */
#include "model_int.h"

void version_next(struct model *m)
{
    uint64_t hash = str_hash(str_n(m->now_text, m->now_text_n));
    m->version++;
    m->versions[hash % VERSIONS] = (struct version_slot){hash, {m->version, m->now.to_device}};
}

struct model_version model_version_of(const struct model *m, uint64_t text_hash)
{
    const struct version_slot *v = &m->versions[text_hash % VERSIONS];
    return v->hash == text_hash ? v->version : (struct model_version){0};
}

void user_stir(struct model *m, struct user *u)
{
    u->stirred = u->stirred_other = m->version;
}

static bool is_followed(const struct user *u)
{
    return u->active && user_part_fresh(&u->parts.rooms);
}

/* Everybody's presence, once: asked for by a position that the token must be beyond. */
static bool presence_owed(const struct model *m, const struct user *u)
{
    return u->parts.full_presence.load == LOAD_DONE ? u->full_presence : m->cfg->presence.enabled;
}

bool model_user_quiet(const struct model *m, const struct user *u, uint64_t version)
{
    return u->stirred < version && is_followed(u) && !presence_owed(m, u);
}

bool model_user_only_news(const struct model *m, const struct user *u, uint64_t version)
{
    return u->stirred_other < version && is_followed(u) && !presence_owed(m, u);
}
