/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * One process per instance name sends: whoever holds an advisory lock of the database, named after the
 * instance. Another process of the same name (a mistake, or one that is there to take over) stands by: it
 * follows the feed, loads no pushers, sends nothing, and begins with the table's positions once the lock is
 * its own.
 *
 * When the session that holds the lock is lost (PostgreSQL restarted), nothing new is sent until it is ours
 * again; another process may have served in between, so the table is read again first and positions only
 * move forward.
 */
#include "push_int.h"

#include <openssl/sha.h>

static int64_t lock_key(const struct config *cfg)
{
    static const char what[] = "chappe push ";
    unsigned char digest[SHA256_DIGEST_LENGTH];
    struct buf name;
    int64_t key;

    buf_init(&name, 4096);
    buf_put(&name, str_n(what, sizeof what - 1));
    buf_put(&name, cfg->worker_name);
    SHA256((const unsigned char *)name.p, name.n, digest);
    buf_fini(&name);
    memcpy(&key, digest, sizeof key);
    return key;
}

static void on_lock(void *arg, enum pg_lock_state state)
{
    struct push *p = arg;

    if (p->stopping)
        return;
    p->lock_asked = true;
    p->leads = state == PG_LOCK_HELD;
    if (p->leads) {
        if (!p->rows_ready) /* what came while we stood by is in the table */
            p->scanned = positions_persisted_upto(p->positions);
        p->rows_again = true; /* read from now on: a page under way may be older */
        p->rows_next_ms = 0;
        log_info(PUSH_LOG, "the lock of instance %.*s is held: this process sends",
                 STR_ARG(p->cfg->worker_name));
        return;
    }
    push_stand_by(p);
    if (state == PG_LOCK_OTHERS)
        log_warning(PUSH_LOG, "another process is instance %.*s: this one stands by and sends nothing",
                    STR_ARG(p->cfg->worker_name));
    else
        log_warning(
            PUSH_LOG,
            "the session that held the lock of instance %.*s is lost: nothing is sent until it is back",
            STR_ARG(p->cfg->worker_name));
}

void push_stand_by(struct push *p)
{
    p->sends = false;
    metric_set(M_push_standby, 1);
}

/* The table was read since the lock is ours. */
void push_take_over(struct push *p)
{
    if (!p->leads || p->rows_again)
        return;
    p->sends = true;
    metric_set(M_push_standby, 0);
    push_work(p);
}

void push_lead(struct push *p)
{
    push_stand_by(p);
    p->lock = pg_lock_start(p->loop, p->cfg, lock_key(p->cfg), on_lock, p);
}
