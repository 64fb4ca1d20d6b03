/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What guests, introspected tokens and application services rest on, so that auth_again can tell without the
 * token whether auth_request would say the same again.
 *
 * That is: the rows of the user and the device which were looked at are still the ones in their caches, and
 * fresh. Whatever takes such a row out of its cache (news of it, its age, a lack of space, doubt while it was
 * read) voids all requesters of its user for this purpose; they lose the shortcut and nothing else. A row
 * that leaves while its op still waits for something else finds no requester yet: that is what the count of
 * drops is for; such a requester is suspect from the beginning. Requests that are recognised do not move the
 * rows among the least recently used ones: all of them take the long way every few minutes.
 *
 * And for an introspected token: its answer is still the one that is remembered, less than two minutes old,
 * and the token's own end has not come. An answer that is older is used during an outage only, which the long
 * way finds out for each request. For an application service: all else is configuration, and the request's
 * arguments and address, which are the same; but which arguments count depends on Synapse's release. For a
 * guest: the macaroon says the same each time, unless it ends; such ones are not recognised. That no row of
 * access_tokens holds its text is not looked at again, since Synapse keeps no guest's token there.
 */
#include "chappe/release.h"
#include "auth_int.h"

enum { LATE_MS = 10 }; /* of the coarse clock, where the long way reads the exact one */

void basis_begin(struct auth_op *op)
{
    op->rows_until_ms = INT64_MAX;
    op->drops = op->a->drops;
    op->doubted = false;
}

void basis_note(struct auth_op *op, const struct cache *c, const struct centry *e)
{
    int64_t until = e->loaded_ms + c->found_ms;

    if (until < op->rows_until_ms)
        op->rows_until_ms = until;
    op->doubted |= e->tries >= AUTH_TRIES_MAX;
}

void basis_set(struct requester *r, const struct auth_op *op)
{
    struct basis *b = basis_of(r);

    bool doubted = op->doubted || op->drops != op->a->drops;

    b->until_ms = doubted ? 0 : op->rows_until_ms;
    r->suspected += doubted; /* whoever parks on it is checked */
    if (r->kind == REQUESTER_MAS) {
        b->mas = op->mas;
        b->mas->refs++;
    } else {
        b->old_device_name = op->old_device_name;
    }
}

void basis_fini(struct requester *r)
{
    if (r->kind == REQUESTER_MAS)
        mas_answer_unref(&basis_of(r)->mas);
}

bool basis_holds(struct requester *r)
{
    const struct basis *b = basis_of(r);
    int64_t now = clock_mono_coarse_ms() + LATE_MS;

    if (now >= b->until_ms)
        return false;
    if (r->kind == REQUESTER_MAS)
        return now < b->mas->fresh_until_ms && clock_wall_coarse_ms() + LATE_MS < b->mas->dies_ms;
    if (r->kind == REQUESTER_APP_SERVICE)
        return b->old_device_name == !release_has(RELEASE_AS_DEVICE_STABLE_NAME);
    return true;
}

void basis_void(struct requester *r)
{
    if (r->kind != REQUESTER_USER)
        basis_of(r)->until_ms = 0;
}

void basis_void_user(struct auth *a, struct str user)
{
    struct list *first = imap_get(&a->requesters_by_user, ring_key_user(user)), *n = first;

    a->drops++;
    if (!first)
        return;
    do {
        basis_void(container_of(n, struct requester, by_user));
        n = n->next;
    } while (n != first);
}
