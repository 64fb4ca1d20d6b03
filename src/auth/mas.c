/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Tokens of the Matrix Authentication Service: introspection over HTTP, remembered for two minutes
 * (reference 1.11).
 *
 * Every well-formed answer is remembered, "not active" too, by the SHA-256 of the token; failures are not.
 * Requests with one token share one introspection; at most MAS_IN_FLIGHT_MAX run at once, the others wait
 * their turn. Active and inactive answers stand in two lists by age, so random tokens push out each other
 * only.
 *
 * Nothing on the replication stream says that a token ended. What makes a logout immediate is that the
 * device must still exist, and that row has its own cache, which the stream does invalidate. So a gap in the
 * stream drops the devices and leaves the introspections.
 *
 * The service being down is 503, never 401. With auth_mas_outage_ms an answer may be used beyond its two
 * minutes while the service fails; it is still subject to its own expiry and to the device check.
 */
#include "auth_int.h"
#include <limits.h>

struct mas_entry {
    uint64_t key[4];
    struct list place;   /* active, inactive, or queue */
    struct list waiters; /* ops, through wait.node */
    struct mas_answer *answer;
    int64_t loaded_ms;
    char *token; /* while pending */
    size_t token_n;
    bool pending, sent, retried;
    struct mas *m;
};
struct mas {
    struct auth *a;
    struct smap by_key;
    struct list active, inactive, queue;
    size_t active_n, inactive_n, in_flight;
    struct str url;
    char *bearer;
};

int mas_start(struct mas **out, struct auth *a, struct err *e)
{
    struct mas *m = xcalloc(1, sizeof *m);
    struct str endpoint = a->cfg->mas.endpoint;
    struct buf b;

    while (endpoint.n && endpoint.p[endpoint.n - 1] == '/')
        endpoint.n--;
    if (endpoint.n == 0) {
        free(m);
        return err_set(e, ERR_CONFIG, "matrix_authentication_service.endpoint is empty");
    }
    m->a = a;
    smap_init(&m->by_key);
    list_init(&m->active);
    list_init(&m->inactive);
    list_init(&m->queue);
    buf_init(&b, endpoint.n + 64);
    buf_put(&b, endpoint);
    buf_put(&b, STR("/oauth2/introspect"));
    m->url = str_dup(buf_str(&b));
    buf_fini(&b);
    m->bearer = xmalloc(a->cfg->mas.secret.n + 8);
    memcpy(m->bearer, "Bearer ", 7);
    if (a->cfg->mas.secret.n)
        memcpy(m->bearer + 7, a->cfg->mas.secret.p, a->cfg->mas.secret.n);
    m->bearer[a->cfg->mas.secret.n + 7] = '\0';
    *out = m;
    return 0;
}

void mas_answer_unref(struct mas_answer **mp)
{
    struct mas_answer *m = *mp;

    *mp = NULL;
    if (!m || --m->refs)
        return;
    free((void *)m->username.p);
    free((void *)m->device_id.p);
    free(m);
}

/* Takes e out of every list and table. Nobody waits for it. */
static void entry_free(struct mas_entry *e)
{
    struct mas *m = e->m;

    ASSERT(list_empty(&e->waiters));
    smap_del(&m->by_key, str_n((const char *)e->key, sizeof e->key));
    if (e->answer && !e->pending) {
        if (e->answer->active)
            m->active_n--;
        else
            m->inactive_n--;
    }
    list_del(&e->place);
    if (e->answer)
        e->answer->fresh_until_ms = 0; /* requesters may still hold it */
    mas_answer_unref(&e->answer);
    secret_free(&e->token);
    free(e);
}

void mas_stop(struct mas **mp)
{
    struct mas *m = *mp;
    struct mas_entry *e;
    size_t it = 0;

    *mp = NULL;
    if (!m)
        return;
    while ((e = smap_next(&m->by_key, &it)))
        entry_free(e);
    smap_fini(&m->by_key);
    free((void *)m->url.p);
    secret_free(&m->bearer);
    free(m);
}

void mas_forget(struct mas *m, const uint64_t key[4])
{
    struct mas_entry *e = smap_get(&m->by_key, str_n((const char *)key, 32));

    if (e && !e->pending)
        entry_free(e);
}

/* ---- the answer */

static bool optional_str(const struct json *obj, struct str key, struct str *out)
{
    const struct json *v = json_get(obj, key);

    *out = json_str(v);
    return !v || v->type == JSON_NULL || v->type == JSON_STRING;
}

/* Absent or null: never. A number of any size, but an integer. */
static bool expiry(const struct json *v, int64_t now_ms, int64_t *dies_ms)
{
    int64_t s;

    *dies_ms = INT64_MAX;
    if (!v || v->type == JSON_NULL)
        return true;
    if (v->type != JSON_NUMBER)
        return false;
    if (json_int(v, &s)) {
        if (s <= 0)
            *dies_ms = now_ms;
        else if (s < (INT64_MAX - now_ms) / 1000)
            *dies_ms = now_ms + s * 1000;
        return true;
    }
    for (size_t i = 0; i < v->s.n; i++)
        if (v->s.p[i] != '-' && (v->s.p[i] < '0' || v->s.p[i] > '9'))
            return false;
    if (v->s.n && v->s.p[0] == '-')
        *dies_ms = now_ms;
    return true;
}

static void read_scope(struct mas_answer *m, struct str scope)
{
    static const struct str prefix[] = {{"urn:matrix:client:device:", 25},
                                        {"urn:matrix:org.matrix.msc2967.client:device:", 44}};
    struct str tok, first = STR_ABSENT;

    while (!str_absent(scope)) {
        str_cut(scope, ' ', &tok, &scope);
        if (str_eq(tok, STR("urn:matrix:client:api:*")) ||
            str_eq(tok, STR("urn:matrix:org.matrix.msc2967.client:api:*")))
            m->api_scope = true;
        else if (str_eq(tok, STR("urn:synapse:admin:*")))
            m->admin_scope = true;
        for (size_t i = 0; i < sizeof prefix / sizeof prefix[0]; i++) {
            if (!str_starts(tok, prefix[i]))
                continue;
            struct str device = str_n(tok.p + prefix[i].n, tok.n - prefix[i].n);
            if (m->scope_devices == 0) {
                first = device;
                m->scope_devices = 1;
            } else if (!str_eq(first, device)) {
                m->scope_devices = 2; /* or more: all the same */
            }
        }
    }
    if (!m->has_device && m->scope_devices == 1) {
        m->has_device = true;
        m->device_id = first;
    }
}

int mas_answer_parse(struct str body, int64_t now_ms, struct mas_answer **out)
{
    struct arena *arena = arena_new(16 * (size_t)MAS_RESPONSE_BYTES_MAX);
    struct mas_answer *m = NULL;
    struct json *v;
    struct str scope, sub;

    if (json_parse(arena, body, &v) || !json_is_object(v))
        goto bad;
    const struct json *active = json_get(v, STR("active"));
    if (!active || (active->type != JSON_TRUE && active->type != JSON_FALSE))
        goto bad;
    m = xcalloc(1, sizeof *m);
    m->refs = 1;
    m->active = active->type == JSON_TRUE;
    if (!optional_str(v, STR("scope"), &scope) || !optional_str(v, STR("username"), &m->username) ||
        !optional_str(v, STR("sub"), &sub) || !optional_str(v, STR("device_id"), &m->device_id) ||
        !expiry(json_get(v, STR("expires_in")), now_ms, &m->dies_ms))
        goto bad;
    m->has_device = !str_absent(m->device_id);
    read_scope(m, scope);
    m->username = str_dup(m->username);
    m->device_id = m->has_device ? str_dup(m->device_id) : STR_ABSENT;
    arena_free(&arena);
    *out = m;
    return 0;
bad:
    free(m); /* its slices still were the arena's */
    arena_free(&arena);
    return -ERR_PARSE;
}

/* ---- asking */

static void mas_pump(struct mas *m);

/* Everybody who waits for e goes on with answer, or is refused. A flow may come back for the same token: e is
 * held through its waiters only, so it is looked up no more after the loop. */
static void entry_deliver(struct list *waiters, struct mas_answer *answer)
{
    while (!list_empty(waiters)) {
        struct auth_op *op =
            container_of(container_of(waiters->next, struct auth_wait, node), struct auth_op, wait);
        list_del(&op->wait.node);
        if (!answer) {
            op_refuse_error(op, &auth_error_introspect, "mas_unavailable");
            continue;
        }
        op->have_mas = true;
        op->mas = answer;
        answer->refs++;
        op->run(op);
    }
}

static void take_waiters(struct mas_entry *e, struct list *out)
{
    list_init(out);
    if (list_empty(&e->waiters))
        return;
    *out = e->waiters;
    out->next->prev = out->prev->next = out;
    list_init(&e->waiters);
}

static void entry_place(struct mas_entry *e)
{
    struct mas *m = e->m;

    list_push(e->answer->active ? &m->active : &m->inactive, &e->place);
    if (e->answer->active)
        m->active_n++;
    else
        m->inactive_n++;
    if (m->active_n > MAS_ENTRIES_MAX)
        entry_free(container_of(m->active.next, struct mas_entry, place));
    if (m->inactive_n > MAS_NEGATIVE_MAX)
        entry_free(container_of(m->inactive.next, struct mas_entry, place));
}

/* No answer came. An old one may do for a while. */
static void entry_failed(struct mas_entry *e, const char *why)
{
    struct mas *m = e->m;
    struct list waiters;
    struct mas_answer *old = NULL;

    metric_add_l(M_auth_mas_requests, why, 1);
    take_waiters(e, &waiters);
    if (e->answer && e->answer->active &&
        clock_mono_ms() - e->loaded_ms < MAS_CACHE_MS + m->a->cfg->auth_mas_outage_ms) {
        old = e->answer;
        old->refs++;
        entry_place(e);
    } else {
        e->pending = true; /* it stands in no list */
        entry_free(e);
    }
    entry_deliver(&waiters, old);
    mas_answer_unref(&old);
}

static void entry_send(struct mas_entry *e);

static void mas_answered(void *arg, const struct httpc_res *res)
{
    struct mas_entry *e = arg;
    struct mas *m = e->m;
    struct auth *a = m->a;
    struct mas_answer *answer = NULL;
    struct list waiters;

    m->in_flight--;
    e->sent = false;
    if ((res->err == -ERR_CLOSED || res->err == -ERR_IO) && !e->retried && !a->stopping) {
        e->retried = true; /* an idle connection was closed under our feet, most likely */
        entry_send(e);
        auth_call_done(a);
        return;
    }
    e->pending = false;
    secret_free(&e->token);
    if (res->err || res->status < 200 || res->status > 299) {
        log_warning(LOGGER, "Token introspection failed: %s, status %d", err_text(res->err),
                    res->err ? 0 : res->status);
        entry_failed(e, res->err ? "error" : "status");
    } else if (mas_answer_parse(res->body, clock_wall_ms(), &answer)) {
        log_warning(LOGGER, "Token introspection failed: not an introspection response");
        entry_failed(e, "malformed");
    } else {
        metric_add_l(M_auth_mas_requests, answer->active ? "active" : "inactive", 1);
        mas_answer_unref(&e->answer);
        e->answer = answer;
        e->loaded_ms = clock_mono_ms();
        answer->fresh_until_ms = e->loaded_ms + MAS_CACHE_MS;
        take_waiters(e, &waiters);
        entry_place(e);
        answer->refs++;
        entry_deliver(&waiters, answer);
        mas_answer_unref(&answer);
    }
    mas_pump(m);
    auth_call_done(a);
}

static void entry_send(struct mas_entry *e)
{
    struct mas *m = e->m;
    struct buf body;
    struct httpc_header headers[] = {
        {STR("Content-Type"), STR("application/x-www-form-urlencoded")},
        {STR("Accept"), STR("application/json")},
        {STR("Authorization"), str_of(m->bearer)},
        {STR("X-MAS-Supports-Device-Id"), STR("1")},
        {STR("User-Agent"), STR("Chappe/" CHAPPE_VERSION)},
    };

    buf_init(&body, 3 * e->token_n + 64);
    buf_put(&body, STR("token="));
    url_encode(&body, str_n(e->token, e->token_n));
    buf_put(&body, STR("&token_type_hint=access_token"));
    struct httpc_req req = {.method = "POST",
                            .url = m->url,
                            .headers = headers,
                            .headers_count = sizeof headers / sizeof headers[0],
                            .body = buf_str(&body),
                            .connect_timeout_ms = 2000,
                            .timeout_ms = 10000,
                            .response_bytes_max = MAS_RESPONSE_BYTES_MAX,
                            .http2_prior_knowledge = m->a->cfg->mas.force_http2};
    e->sent = true;
    m->in_flight++;
    m->a->calls++;
    httpc_send(m->a->httpc, &req, mas_answered, e);
    explicit_bzero(body.p, body.n);
    buf_fini(&body);
}

static void mas_pump(struct mas *m)
{
    while (m->in_flight < MAS_IN_FLIGHT_MAX && !list_empty(&m->queue)) {
        struct mas_entry *e = container_of(m->queue.next, struct mas_entry, place);
        list_del(&e->place);
        if (list_empty(&e->waiters))
            entry_free(e); /* they gave up */
        else
            entry_send(e);
    }
}

/* Ages out what is in the two lists: they are in order of loading. */
void mas_tick(struct mas *m)
{
    int64_t dead = clock_mono_ms() - MAS_CACHE_MS - m->a->cfg->auth_mas_outage_ms;
    struct list *lists[] = {&m->active, &m->inactive};

    for (size_t i = 0; i < 2; i++) {
        while (!list_empty(lists[i])) {
            struct mas_entry *e = container_of(lists[i]->next, struct mas_entry, place);
            if (e->loaded_ms > dead)
                break;
            entry_free(e);
        }
    }
    mas_pump(m);
}

/* True: op has an answer. False: op waits. */
static bool need_mas(struct auth_op **opp)
{
    struct auth_op *op = *opp;
    struct mas *m = op->a->mas;
    struct str key = str_n((const char *)op->key, sizeof op->key);
    struct mas_entry *e;

    if (op->have_mas)
        return true;
    e = smap_get(&m->by_key, key);
    if (e && !e->pending && clock_mono_ms() - e->loaded_ms < MAS_CACHE_MS) {
        op->have_mas = true;
        op->mas = e->answer;
        op->mas->refs++;
        return true;
    }
    op = *opp = op_park(op);
    if (!e) {
        e = xcalloc(1, sizeof *e);
        e->m = m;
        memcpy(e->key, op->key, sizeof e->key);
        list_init(&e->waiters);
        list_init(&e->place);
        smap_put(&m->by_key, str_n((const char *)e->key, sizeof e->key), e);
    } else if (!e->pending) { /* too old; its answer stays in case the service is down */
        if (e->answer->active)
            m->active_n--;
        else
            m->inactive_n--;
        list_del(&e->place);
    }
    list_push(&e->waiters, &op->wait.node);
    if (!e->pending) {
        e->pending = true;
        e->retried = false;
        e->token = xstrndup(op->token);
        e->token_n = op->token.n;
        list_push(&m->queue, &e->place);
        mas_pump(m);
    }
    return false;
}

/* ---- the decision */

static size_t characters(struct str s)
{
    size_t n = 0;

    for (size_t i = 0; i < s.n; i++)
        n += ((unsigned char)s.p[i] & 0xc0) != 0x80;
    return n;
}

static void refuse_claim(struct auth_op *op, const char *text)
{
    op_refuse(op, 500, "M_FORBIDDEN", str_of(text), -1, "mas_claims");
}

void run_mas(struct auth_op *op)
{
    if (!need_mas(&op))
        return;
    const struct mas_answer *m = op->mas;
    if (!m->active || clock_wall_ms() >= m->dies_ms) {
        op_refuse_error(op, &auth_error_inactive, "unknown_token");
        return;
    }
    if (!m->api_scope) {
        op_refuse(op, 401, "M_UNKNOWN_TOKEN", STR("Token doesn't grant access to the Matrix C-S API"), 0,
                  "unknown_token");
        return;
    }
    if (str_absent(m->username)) {
        refuse_claim(op, "Invalid username claim in the introspection result");
        return;
    }
    char user_space[AUTH_USER_ID_BYTES_MAX + 1];
    size_t n = m->username.n + op->a->cfg->server_name.n + 2;
    if (n > AUTH_USER_ID_BYTES_MAX || !str_storable(m->username)) {
        refuse_claim(op, "User not found");
        return;
    }
    user_space[0] = '@';
    memcpy(user_space + 1, m->username.p, m->username.n);
    user_space[m->username.n + 1] = ':';
    memcpy(user_space + m->username.n + 2, op->a->cfg->server_name.p, op->a->cfg->server_name.n);
    struct str user = str_n(user_space, n);
    if (!op_need_user(&op, user))
        return;
    if (!op->user_exists) {
        refuse_claim(op, "User not found");
        return;
    }
    if (!m->has_device && m->scope_devices > 1) {
        refuse_claim(op, "Multiple device IDs in scope");
        return;
    }
    if (m->has_device) {
        size_t length = characters(m->device_id);
        if (length < 1 || length > 255) {
            refuse_claim(op, "Invalid device ID in introspection result");
            return;
        }
        bool possible = str_storable(m->device_id);
        if (possible && !op_need_device(&op, user, m->device_id))
            return;
        if (!possible || !op->device_exists) {
            mas_forget(op->a->mas, op->key);
            op_refuse_error(op, &auth_error_inactive, "unknown_token");
            return;
        }
    }
    struct requester *r = requester_new(op->a, REQUESTER_MAS, user, m->device_id, user, op->key);
    r->is_admin = m->admin_scope;
    basis_set(r, op);
    op_accept(op, r);
}
