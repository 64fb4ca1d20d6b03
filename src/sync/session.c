/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * A client that polls sends the same bytes again and again, but for the value of since. What they mean (who
 * asks, with which device, filter, timeout, presence) is found out once and kept here, under a keyed hash of
 * 128 bits of all that was sent and counts: path, query, Authorization, user agent, the client's address.
 * What many send alike comes with a hash of its own. The hash stands for equality; it is of secrets, under a
 * key that nobody knows, and is nowhere shown. The table belongs to the hub and not to connections, since
 * behind a proxy each request may come on another one. The user and the device as which an application
 * service asks are in the query, so each has sessions of its own.
 *
 * What can change meanwhile is looked at for each request: whether the token is still good (auth_again),
 * whether anything has been said about it since (suspected). Filters by id never change in Synapse.
 *
 * A session holds its user in memory: for USE_MS after its last request. There are at most PER_USER of a
 * user, further ones have to wait until one is forgotten, and SESSIONS_MAX in all, of which the least
 * recently used goes. Only speed is lost with it.
 *
 * It also has what answers.c has for others, the last answer, where that is one blob that others share.
 */
#include "session.h"

enum { USE_MS = 150000, MOVE_MS = 5000, SESSIONS_MAX = 200000, PER_USER = 16 };

void sessions_init(struct sessions *x)
{
    *x = (struct sessions){0};
    list_init(&x->by_use);
}

static struct session *oldest(const struct sessions *x)
{
    return list_empty(&x->by_use) ? NULL : container_of(x->by_use.next, struct session, by_use);
}

void sessions_fini(struct sessions *x, struct model *m)
{
    for (struct session *s; (s = oldest(x));)
        session_drop(x, m, s);
    imap_fini(&x->by_print);
}

void sessions_sweep(struct sessions *x, struct model *m, int64_t now_ms)
{
    for (struct session *s; (s = oldest(x)) && (uint32_t)now_ms - s->used_ms > USE_MS;)
        session_drop(x, m, s);
    metric_set(M_sync_sessions, (int64_t)x->n);
}

/* ---- the print ---- */

bool session_print(const struct http_req *http, struct hash128 *print, struct str *since)
{
    struct hash128 form;
    if (http->method != HTTP_M_GET || http->authorization_count != 1 || !http_form_hash(http, &form, since))
        return false;
    const struct hash128 *agent = http->agent ? &http->agent->hash : NULL;
    const struct str all[] = {
        str_n((const char *)&form, sizeof form),
        agent ? str_n((const char *)agent, sizeof *agent) : STR(""),
        http_authorization(http),
        http_client_ip(http),
    };
    *print = str_hash128_of(all, sizeof all / sizeof *all);
    return true;
}

/* ---- the table ---- */

struct session *session_find(struct sessions *x, const struct hash128 *print)
{
    struct session *s = imap_get(&x->by_print, (int64_t)print->a);
    if (!s || s->print.b != print->b)
        return NULL;
    mem_soon(s->u, sizeof *s->u);
    mem_soon(s->rq, sizeof *s->rq);
    mem_soon(s->d, sizeof *s->d);
    return s;
}

struct session *session_new(const struct hash128 *print)
{
    struct session *s = MEM_NEW(MEM_sessions, struct session);
    s->print = *print;
    s->refs = 1;
    list_init(&s->by_use);
    return s;
}

static void forget_kept(struct sessions *x, struct session *s)
{
    if (!s->kept.body)
        return;
    x->kept_bytes -= s->kept.body->n;
    blob_unref(&s->kept.body);
}

void session_enter(struct sessions *x, struct model *m, struct session *s, struct requester *rq,
                   struct user *u, struct filter *f)
{
    struct session *old = imap_get(&x->by_print, (int64_t)s->print.a);
    if (old)
        session_drop(x, m, old);
    if (u->sessions >= PER_USER)
        return;
    if (x->n >= SESSIONS_MAX)
        session_drop(x, m, oldest(x));
    s->rq = requester_ref(rq);
    s->suspected = rq->suspected;
    s->u = u;
    model_user_pin(m, u);
    u->sessions++;
    s->f = filter_ref(f);
    s->refs++;
    imap_put(&x->by_print, (int64_t)s->print.a, s);
    list_push(&x->by_use, &s->by_use);
    s->used_ms = (uint32_t)clock_mono_coarse_ms();
    x->n++;
}

void session_drop(struct sessions *x, struct model *m, struct session *s)
{
    if (list_empty(&s->by_use))
        return;
    imap_del(&x->by_print, (int64_t)s->print.a);
    list_del(&s->by_use);
    x->n--;
    forget_kept(x, s);
    s->u->sessions--;
    model_user_unpin(m, s->u);
    session_unref(x, &s);
}

void session_unref(struct sessions *x, struct session **sp)
{
    struct session *s = *sp;
    *sp = NULL;
    if (!s || --s->refs)
        return;
    forget_kept(x, s);
    requester_unref(&s->rq);
    filter_unref(&s->f);
    mem_free(MEM_sessions, s);
}

/* Its place is nearly right: USE_MS need not be exact, and neighbours in the list are far away in memory. */
void session_used(struct sessions *x, struct session *s)
{
    uint32_t now = (uint32_t)clock_mono_coarse_ms();
    if (now - s->used_ms < MOVE_MS)
        return;
    s->used_ms = now;
    list_del(&s->by_use);
    list_push(&x->by_use, &s->by_use);
}

/* ---- the last answer ---- */

bool session_keep(struct sessions *x, struct session *s, uint64_t key, uint64_t next, struct blob *body,
                  int64_t life_ms, size_t bytes_max)
{
    forget_kept(x, s);
    if (list_empty(&s->by_use) || body->n > SESSION_KEPT_MAX || x->kept_bytes + body->n > bytes_max)
        return false;
    s->kept.body = blob_ref(body);
    s->kept.key = key;
    s->kept.next = next;
    /* Not beyond the session, and within 32 bits. */
    s->kept_until_ms = (uint32_t)(clock_mono_coarse_ms() + (life_ms < USE_MS ? life_ms : USE_MS));
    x->kept_bytes += body->n;
    return true;
}

struct blob *session_kept(struct sessions *x, struct session *s, uint64_t key, uint64_t since)
{
    if (!s->kept.body)
        return NULL;
    if (s->kept.key == key && (int32_t)(s->kept_until_ms - (uint32_t)clock_mono_coarse_ms()) > 0)
        return s->kept.body;
    if (s->kept.next == since || s->kept.key == key)
        forget_kept(x, s);
    return NULL;
}
