/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Answers kept for caches.sync_response_cache_duration (sync-v3 1.6): a client that lost an answer and asks
 * again gets the same one, and an initial sync that its client gave up on is found when it comes back.
 *
 * What is kept is the rope that went out: slices of events that are in memory anyway, and a few hundred
 * private bytes, which are copied to where they take no more room than they need. An answer belongs to one
 * access token and one user, so that no token ever reads what was said to another, and it goes when Synapse
 * says that anything about the token or the user has changed. (Who asks has been authenticated in any case; a
 * revoked token does not get this far.)
 *
 * Who asks from where an answer ended has got it, and does not ask that question again (if somebody does, the
 * answer is a fresh one): so a client that polls has none kept, and a parked poll costs nothing here.
 *
 * All answers live equally long: the list by age is in order of expiry, and what exceeds the budget goes from
 * its front. Shared bytes are counted in full, for an answer may outlive what it shares them with. The
 * answers of all tokens are found in one table: a client that follows a busy room has its PER_TOKEN_MAX
 * within seconds. Costs an allocation, a place in the table and some counts for each answer sent.
 */
#include "answers.h"

enum { PER_TOKEN_MAX = 256, OWN_CHUNK_BYTES = 512, USER_ID_BYTES_MAX = 1024 };

struct answers_of { /* of one token, for one user */
    struct str key;
    struct requester *rq; /* keeps the rows that concern it coming */
    struct list ring;     /* oldest first */
    uint64_t salt;        /* of its places in by_key */
    size_t n;
    char bytes[];
};

void answers_init(struct answers *a, int64_t life_ms, size_t bytes_max)
{
    *a = (struct answers){.life_ms = life_ms, .bytes_max = bytes_max};
    smap_init_of(&a->of, MEM_answers);
    list_init(&a->by_age);
}

static void gauges(const struct answers *a)
{
    metric_set(M_sync_answers_kept, (int64_t)a->n);
    metric_set(M_sync_answers_bytes, (int64_t)a->bytes);
}

/* The key is a SHA-256. */
static uint16_t *some(struct answers *a, const struct requester *rq)
{
    return &a->some[rq->token_key[0] % ANSWERS_SOME];
}

static void of_free(struct answers *a, struct answers_of *of)
{
    if (*some(a, of->rq) < UINT16_MAX) /* so many were not counted */
        --*some(a, of->rq);
    smap_del(&a->of, of->key);
    requester_unref(&of->rq);
    mem_free(MEM_answers, of);
}

/* Two answers of one place would be two of 2^64: the older one goes. */
static int64_t place(const struct answers_of *of, uint64_t key)
{
    return (int64_t)(key ^ of->salt);
}

void answers_drop(struct answers *a, struct answer *x, const char *reason)
{
    struct answers_of *of = x->of;
    imap_del(&a->by_key, place(of, x->key));
    list_del(&x->by_age);
    list_del(&x->by_token);
    a->n--;
    a->bytes -= x->bytes;
    rope_fini(&x->body);
    mem_count(MEM_answers, -(int64_t)x->own);
    mem_free(MEM_answers, x);
    if (--of->n == 0)
        of_free(a, of);
    metric_add_l(M_sync_answers_dropped, reason, 1);
    gauges(a);
}

static struct answer *oldest(struct list *by_age)
{
    return list_empty(by_age) ? NULL : container_of(by_age->next, struct answer, by_age);
}

void answers_fini(struct answers *a)
{
    for (struct answer *x; (x = oldest(&a->by_age));)
        answers_drop(a, x, "stop");
    smap_fini(&a->of);
    imap_fini(&a->by_key);
}

/* Token and user: application services use one token for many users. */
struct of_name {
    char bytes[sizeof((struct requester *)NULL)->token_key + USER_ID_BYTES_MAX];
    size_t n;
};

static bool of_name(struct of_name *name, const struct requester *rq)
{
    struct str user = requester_user(rq);
    if (user.n > USER_ID_BYTES_MAX)
        return false;
    memcpy(name->bytes, rq->token_key, sizeof rq->token_key);
    if (user.n)
        memcpy(name->bytes + sizeof rq->token_key, user.p, user.n);
    name->n = sizeof rq->token_key + user.n;
    return true;
}

static struct answers_of *of_find(struct answers *a, const struct requester *rq)
{
    struct of_name name;
    return a->n && *some(a, rq) && of_name(&name, rq) ? smap_get(&a->of, str_n(name.bytes, name.n)) : NULL;
}

static struct answers_of *of_make(struct answers *a, struct requester *rq)
{
    struct of_name name;
    if (!of_name(&name, rq))
        return NULL;
    struct answers_of *of = smap_get(&a->of, str_n(name.bytes, name.n));
    if (of)
        return of;
    of = mem_new(MEM_answers, sizeof *of + name.n);
    memcpy(of->bytes, name.bytes, name.n);
    of->key = str_n(of->bytes, name.n);
    of->rq = requester_ref(rq);
    of->salt = str_hash(of->key);
    list_init(&of->ring);
    *some(a, rq) += *some(a, rq) < UINT16_MAX;
    smap_put(&a->of, of->key, of);
    return of;
}

struct answer *answers_find(struct answers *a, const struct requester *rq, uint64_t key, uint64_t since)
{
    struct answers_of *of = of_find(a, rq);
    struct answer *x, *found = NULL;
    if (!of)
        return NULL;
    of->n++; /* stays while its answers go */
    list_each(x, &of->ring, struct answer, by_token) {
        if (x->key == key)
            found = x;
        else if (x->next && x->next == since)
            answers_drop(a, x, "acknowledged");
    }
    if (--of->n == 0)
        of_free(a, of);
    return found && found->expires_ms > clock_mono_ms() ? found : NULL;
}

static size_t bytes_of(const struct rope *body)
{
    size_t slices = body->v == body->inline_v ? 0 : body->cap * sizeof *body->v;
    return sizeof(struct answer) + sizeof(struct answers_of) + slices + body->bytes + OWN_CHUNK_BYTES;
}

void answers_keep(struct answers *a, struct requester *rq, uint64_t key, int64_t ignore_pos, uint64_t next,
                  const struct rope *body)
{
    struct answer *x;
    if (!a->life_ms || bytes_of(body) > a->bytes_max)
        return;
    struct answers_of *of = of_make(a, rq);
    if (!of)
        return;
    of->n++; /* stays while its old answers go */
    if ((x = imap_get(&a->by_key, place(of, key))))
        answers_drop(a, x, "replaced");
    if (of->n > PER_TOKEN_MAX)
        answers_drop(a, container_of(of->ring.next, struct answer, by_token), "token");
    x = MEM_NEW(MEM_answers, struct answer);
    x->of = of;
    x->key = key;
    x->next = next;
    x->ignore_pos = ignore_pos;
    x->expires_ms = clock_mono_ms() + a->life_ms;
    rope_init(&x->body);
    x->own = rope_keep(&x->body, body);
    mem_count(MEM_answers, (int64_t)x->own);
    x->bytes = bytes_of(&x->body);
    imap_put(&a->by_key, place(of, key), x);
    list_push(&of->ring, &x->by_token);
    list_push(&a->by_age, &x->by_age);
    a->n++;
    a->bytes += x->bytes;
    while (a->bytes > a->bytes_max) /* never x: it fits by itself, and is the youngest */
        answers_drop(a, oldest(&a->by_age), "memory");
    gauges(a);
}

void answers_forget(struct answers *a, const struct requester *rq)
{
    struct answers_of *of = of_find(a, rq);
    while (of) {
        bool last = of->n == 1;
        answers_drop(a, container_of(of->ring.next, struct answer, by_token), "token_row");
        if (last)
            break;
    }
}

void answers_expire(struct answers *a, int64_t now_ms)
{
    for (struct answer *x; (x = oldest(&a->by_age)) && x->expires_ms <= now_ms;)
        answers_drop(a, x, "age");
}
