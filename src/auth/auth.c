/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Start and stop of the module, the life of one authentication, USER_IP.
 *
 * A flow never waits for longer than auth_wait_ms: then, or when too many wait, the client gets 503. Nothing
 * that is broken on our side becomes a 401: clients wipe their keys on it.
 *
 * An op refers to its request only until it parks: then it copies what it needs, so the request may be
 * replied to (because the client went away) while the database is still being asked. The copy of the token is
 * overwritten when the op ends. The order of the steps is Synapse's: a locked or expired user leaves no
 * USER_IP trace, a refused guest does.
 *
 * Stopping: answers of PostgreSQL and of the HTTP client may come after auth_stop(); the memory goes when the
 * last one has come and the timers are closed, which needs a turn of the loop.
 */
#include "auth_int.h"
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>

static void auth_free(struct auth *a)
{
    cache_fini(&a->tokens);
    cache_fini(&a->users);
    cache_fini(&a->devices);
    cache_fini(&a->mau);
    app_services_fini(&a->as);
    mas_stop(&a->mas);
    /* Whoever still holds a requester keeps it; it no longer knows us. */
    size_t it = 0;
    struct list *n;
    while ((n = imap_next(&a->requesters_by_user, &it))) {
        struct list *end = n;
        do {
            container_of(n, struct requester, by_user)->auth = NULL;
            n = n->next;
        } while (n != end);
    }
    imap_fini(&a->requesters_by_user);
    imap_fini(&a->loose_by_token);
    free(a->used.v);
    EVP_MD_CTX_free(a->md_ctx);
    EVP_MD_free(a->md);
    free(a);
}

static void auth_maybe_free(struct auth *a)
{
    if (a->stopping && a->calls == 0 && a->handles == 0)
        auth_free(a);
}

void auth_call_done(struct auth *a)
{
    ASSERT(a->calls > 0);
    a->calls--;
    auth_maybe_free(a);
}

/* ---- timers */

static void on_flush(uv_timer_t *t)
{
    struct auth *a = t->data;

    a->flush_armed = false;
    cache_flush_queue(&a->tokens);
    cache_flush_queue(&a->users);
    cache_flush_queue(&a->devices);
    cache_flush_queue(&a->mau);
    checks_flush(a);
    used_flush(a);
}

/* What is asked for in one turn of the loop goes out at the begin of the next one, which does not wait. */
void auth_arm_flush(struct auth *a)
{
    if (a->flush_armed || a->stopping)
        return;
    a->flush_armed = true;
    uv_timer_start(&a->flush_timer, on_flush, 0, 0);
}

void auth_tick(struct auth *a)
{
    int64_t now = clock_mono_ms();

    while (!list_empty(&a->ops)) {
        struct auth_op *op = container_of(a->ops.next, struct auth_op, all);
        if (op->deadline_ms > now)
            break;
        list_del(&op->wait.node);
        op_unavailable(op, "timeout");
    }
    checks_tick(a);
    if (a->mas)
        mas_tick(a->mas);
    if (a->used.n)
        auth_arm_flush(a);
    metric_set(M_auth_pending, (int64_t)a->ops_n);
    metric_set(M_auth_cached_tokens, (int64_t)a->tokens.found_n);
}

static void on_tick(uv_timer_t *t)
{
    auth_tick(t->data);
}

static void on_closed(uv_handle_t *h)
{
    struct auth *a = h->data;

    a->handles--;
    auth_maybe_free(a);
}

int auth_start(struct auth **out, struct uv_loop_s *loop, const struct config *cfg, struct pg *pg,
               struct httpc *httpc, struct feed *feed, struct err *e)
{
    struct auth *a = xcalloc(1, sizeof *a);
    int rc;

    *out = NULL;
    a->loop = loop;
    a->cfg = cfg;
    a->pg = pg;
    a->httpc = httpc;
    a->feed = feed;
    a->seq = 1;
    list_init(&a->ops);
    a->md = EVP_MD_fetch(NULL, "SHA256", NULL);
    a->md_ctx = EVP_MD_CTX_new();
    ASSERT(a->md && a->md_ctx);
    imap_init_of(&a->requesters_by_user, MEM_tokens);
    imap_init_of(&a->loose_by_token, MEM_tokens);
    cache_init(&a->tokens, a, &cache_tokens);
    cache_init(&a->users, a, &cache_users);
    cache_init(&a->devices, a, &cache_devices);
    cache_init(&a->mau, a, &cache_mau);
    if (a->mau.found_ms > AUTH_MAU_COUNT_MS)
        a->mau.found_ms = AUTH_MAU_COUNT_MS;
    checks_init(&a->checks);
    if ((rc = app_services_init(&a->as, a, e)) || (cfg->mas.enabled && (rc = mas_start(&a->mas, a, e)))) {
        auth_free(a);
        return rc;
    }
    ASSERT(uv_timer_init(loop, &a->flush_timer) == 0 && uv_timer_init(loop, &a->tick_timer) == 0);
    a->handles = 2;
    a->flush_timer.data = a->tick_timer.data = a;
    uv_timer_start(&a->tick_timer, on_tick, AUTH_TICK_MS, AUTH_TICK_MS);
    uv_unref((uv_handle_t *)&a->tick_timer);
    *out = a;
    return 0;
}

void auth_stop(struct auth **ap)
{
    struct auth *a = *ap;

    *ap = NULL;
    if (!a)
        return;
    ASSERT(!a->stopping);
    a->stopping = true;
    while (!list_empty(&a->ops)) {
        struct auth_op *op = container_of(a->ops.next, struct auth_op, all);
        list_del(&op->wait.node);
        op_unavailable(op, "shutdown");
    }
    checks_fini(a);
    cache_abort(&a->users, -ERR_SHUTDOWN);
    cache_abort(&a->devices, -ERR_SHUTDOWN);
    uv_close((uv_handle_t *)&a->flush_timer, on_closed);
    uv_close((uv_handle_t *)&a->tick_timer, on_closed);
}

/* ---- one authentication */

static struct str own_secret(struct str s)
{
    return str_absent(s) ? s : (struct str){xstrndup(s), s.n};
}

struct auth_op *op_park(struct auth_op *op)
{
    if (op->on_heap)
        return op;
    struct auth_op *heap = xmalloc(sizeof *heap);
    struct auth *a = op->a;

    *heap = *op;
    heap->on_heap = true;
    heap->token = own_secret(op->token);
    if (op->token_decoded)
        OPENSSL_cleanse((void *)op->token.p, op->token.n);
    heap->token_decoded = false;
    heap->ip = str_dup(op->ip);
    heap->user_agent = str_dup(op->user_agent);
    heap->user_id = str_dup(op->user_id);
    heap->device_id = str_dup(op->device_id);
    heap->deadline_ms = clock_mono_ms() + a->cfg->auth_wait_ms;
    list_init(&heap->wait.node);
    list_push(&a->ops, &heap->all);
    a->ops_n++;
    return heap;
}

/* Ends op: calls back, then frees what is op's. r is handed over. */
static void op_end(struct auth_op *op, struct requester *r, const struct auth_error *e, const char *label)
{
    metric_add_l_own(M_auth_results, label, 1);
    requester_unref(&op->r);
    mas_answer_unref(&op->mas);
    if (op->on_heap) {
        list_del(&op->all);
        op->a->ops_n--;
        secret_free((char **)&op->token.p);
        free((void *)op->ip.p);
        free((void *)op->user_agent.p);
    } else if (op->token_decoded) {
        OPENSSL_cleanse((void *)op->token.p, op->token.n);
    }
    char *text = op->text;
    struct auth_op *heap = op->on_heap ? op : NULL;
    if (op->cancelled) {
        requester_unref(&r);
    } else if (op->blocking_done) {
        requester_unref(&r);
        op->blocking_done(op->arg, e);
    } else {
        op->done(op->arg, r, e);
    }
    free(text);
    if (heap) {
        free((void *)heap->user_id.p);
        free((void *)heap->device_id.p);
        free(heap);
    }
}

void op_refuse_error(struct auth_op *op, const struct auth_error *e, const char *label)
{
    op_end(op, NULL, e, label);
}

void op_refuse(struct auth_op *op, int status, const char *errcode, struct str error, int soft_logout,
               const char *label)
{
    struct auth_error e = {.status = status, .errcode = errcode, .error = error, .soft_logout = soft_logout};

    op_end(op, NULL, &e, label);
}

void op_unavailable(struct auth_op *op, const char *label)
{
    op_end(op, NULL, &auth_error_unavailable, label);
}

struct str op_printf(struct auth_op *op, const char *fmt, ...)
{
    va_list ap;
    int n;

    free(op->text);
    va_start(ap, fmt);
    n = vasprintf(&op->text, fmt, ap);
    va_end(ap);
    ASSERT(n >= 0);
    return str_n(op->text, (size_t)n);
}

/* Answers when it will be due again; 0: not known. */
static int64_t send_user_ip(struct auth *a, const struct requester *r, struct str token, struct str ip,
                            struct str user_agent)
{
    const struct config *cfg = a->cfg;
    struct str device = requester_device(r);

    if (!a->feed || ip.n == 0 || (r->is_app_service && !cfg->track_appservice_user_ips) ||
        str_eq(user_agent, STR("sync-v3-proxy-")))
        return 0;
    if (r->is_app_service && str_absent(device))
        device = STR("dummy-device");
    int64_t due = feed_send_user_ip(a->feed, requester_owner(r), token, ip, user_agent, device);
    if (!cfg->track_puppeted_user_ips || !r->owner_n)
        return due;
    int64_t other = feed_send_user_ip(a->feed, requester_user(r), token, ip, user_agent, requester_device(r));
    return other < due ? other : due;
}

void op_accept(struct auth_op *op, struct requester *r)
{
    (void)send_user_ip(op->a, r, op->token, op->ip, op->user_agent);
    /* Introspected tokens and application services know no guests. */
    if (r->is_guest && !op->allow_guest && r->kind != REQUESTER_MAS && r->kind != REQUESTER_APP_SERVICE) {
        requester_unref(&r);
        op_refuse(op, 403, "M_GUEST_ACCESS_FORBIDDEN", STR("Guest access not allowed"), -1, "guest");
        return;
    }
    op_end(op, r, NULL, "ok");
}

void op_pass(struct auth_op *op)
{
    op_end(op, NULL, NULL, "not_blocked");
}

void auth_request(struct auth *a, struct http_req *req, bool allow_guest, auth_done_fn *done, void *arg)
{
    struct auth_op op = {.a = a,
                         .done = done,
                         .arg = arg,
                         .allow_guest = allow_guest,
                         .ip = http_client_ip(req),
                         .user_agent = http_user_agent(req)};
    const char *why = NULL;

    list_init(&op.all);
    list_init(&op.wait.node);
    if (a->stopping || a->ops_n >= (size_t)a->cfg->auth_pending_max) {
        op_unavailable(&op, "limit");
        return;
    }
    if (auth_extract(req, &op.token, &op.token_decoded, &why)) {
        op_refuse(&op, 401, "M_MISSING_TOKEN", str_of(why), -1, "missing_token");
        return;
    }
    if (!token_is_plausible(op.token)) {
        op_refuse_error(&op, a->mas ? &auth_error_inactive : &auth_error_unknown, "implausible");
        return;
    }
    auth_hash(a, op.token, op.key);
    basis_begin(&op);
    op.as = app_services_find(&a->as, op.key, op.ip);
    op.run = op.as ? run_app_service : a->mas ? run_mas : run_internal;
    if (op.as && app_service_params(&op, req)) {
        op_refuse(&op, 400, "M_INVALID_PARAM", STR("user_id and device_id must be valid UTF-8"), -1,
                  "app_service");
        return;
    }
    op.run(&op);
}

/* Only while every row and answer that r rests on is still the one that is cached, and fresh. */
bool auth_again(struct auth *a, struct requester *r, const struct http_req *req, int64_t *ip_due_ms)
{
    const char *label;
    struct str token;

    if (a->stopping || req->authorization_count != 1)
        return false;
    if (r->kind == REQUESTER_USER ? !cache_use(&a->tokens, entry_of(r)) : !basis_holds(r))
        return false;
    if (verdict_of_requester(a, r, clock_wall_coarse_ms(), &label))
        return false;
    used_mark(a, r);
    if (clock_mono_coarse_ms() >= *ip_due_ms && auth_header_token(http_authorization(req), &token) == 0)
        *ip_due_ms = send_user_ip(a, r, token, http_client_ip(req), http_user_agent(req));
    metric_add_l_own(M_auth_results, "ok", 1);
    return true;
}

void auth_cancel(struct auth *a, const void *arg)
{
    struct auth_op *op;

    list_each(op, &a->ops, struct auth_op, all) {
        if (op->arg != arg)
            continue;
        op->cancelled = true;
        list_del(&op->wait.node);
        op_unavailable(op, "cancelled"); /* calls nobody: the list stays as it is but for this one */
    }
}

/* ---- asking for one fact */

static void op_resume(struct auth_op *op, int err)
{
    if (err)
        op_unavailable(op, err == -ERR_LIMIT ? "limit" : "database");
    else
        op->run(op);
}

/* Looks in c, or parks op and asks. fn is what notes an entry in the op. */
static bool op_need(struct auth_op **opp, struct cache *c, struct str key,
                    void (*fn)(struct auth_wait *, int, struct centry *),
                    void (*note)(struct auth_op *, const struct centry *))
{
    const struct centry *e = cache_peek(c, key);

    if (e) {
        note(*opp, e);
        return true;
    }
    struct auth_op *op = *opp = op_park(*opp);
    op->wait.fn = fn;
    if (cache_ask(c, key, op->token, &op->wait)) /* the token as it is now: parking moved it */
        op_unavailable(op, "limit");
    return false;
}

static void note_token(struct auth_op *op, const struct centry *e)
{
    op->have_token = true;
    if (e->state == CE_FOUND)
        op->r = requester_ref((struct requester *)(uintptr_t)&container_of(e, const struct known, e)->r);
}

static void note_user(struct auth_op *op, const struct centry *e)
{
    op->have_user = true;
    op->user_exists = e->state == CE_FOUND;
    op->user = container_of(e, const struct fact_entry, e)->user;
    basis_note(op, &op->a->users, e);
}

static void note_device(struct auth_op *op, const struct centry *e)
{
    op->have_device = true;
    op->device_exists = e->state == CE_FOUND;
    basis_note(op, &op->a->devices, e);
}

static void note_mau(struct auth_op *op, const struct centry *e)
{
    op->have_mau = true;
    op->mau_member = e->state == CE_FOUND;
}

static void note_mau_count(struct auth_op *op, const struct centry *e)
{
    op->have_mau_count = true;
    op->mau_count = container_of(e, const struct fact_entry, e)->n;
}

static void got_token(struct auth_wait *w, int err, struct centry *e)
{
    if (!err)
        note_token(container_of(w, struct auth_op, wait), e);
    op_resume(container_of(w, struct auth_op, wait), err);
}

static void got_user(struct auth_wait *w, int err, struct centry *e)
{
    if (!err)
        note_user(container_of(w, struct auth_op, wait), e);
    op_resume(container_of(w, struct auth_op, wait), err);
}

static void got_device(struct auth_wait *w, int err, struct centry *e)
{
    if (!err)
        note_device(container_of(w, struct auth_op, wait), e);
    op_resume(container_of(w, struct auth_op, wait), err);
}

static void got_mau(struct auth_wait *w, int err, struct centry *e)
{
    if (!err)
        note_mau(container_of(w, struct auth_op, wait), e);
    op_resume(container_of(w, struct auth_op, wait), err);
}

static void got_mau_count(struct auth_wait *w, int err, struct centry *e)
{
    if (!err)
        note_mau_count(container_of(w, struct auth_op, wait), e);
    op_resume(container_of(w, struct auth_op, wait), err);
}

bool op_need_token(struct auth_op **op)
{
    if ((*op)->have_token)
        return true;
    struct str key = str_n((const char *)(*op)->key, sizeof(*op)->key);
    return op_need(op, &(*op)->a->tokens, key, got_token, note_token);
}

bool op_need_user(struct auth_op **op, struct str user_id)
{
    return (*op)->have_user || op_need(op, &(*op)->a->users, user_id, got_user, note_user);
}

bool op_need_device(struct auth_op **op, struct str user_id, struct str device_id)
{
    if ((*op)->have_device)
        return true;
    char space[2 * AUTH_USER_ID_BYTES_MAX + 2];
    size_t n = user_id.n + 1 + device_id.n;
    ASSERT(n <= sizeof space);
    memcpy(space, user_id.p, user_id.n);
    space[user_id.n] = '\0';
    if (device_id.n)
        memcpy(space + user_id.n + 1, device_id.p, device_id.n);
    return op_need(op, &(*op)->a->devices, str_n(space, n), got_device, note_device);
}

bool op_need_mau(struct auth_op **op, struct str user_id)
{
    return (*op)->have_mau || op_need(op, &(*op)->a->mau, user_id, got_mau, note_mau);
}

bool op_need_mau_count(struct auth_op **op)
{
    return (*op)->have_mau_count || op_need(op, &(*op)->a->mau, STR(""), got_mau_count, note_mau_count);
}

/* ---- replies */

void auth_reply_error(struct http_req **req, const struct auth_error *e)
{
    struct http_res res;
    struct arena *a = http_arena(*req);
    struct json *extra = NULL;

    http_res_init(&res, e->status);
    if (e->soft_logout >= 0 || e->limit)
        extra = json_new(a, JSON_OBJECT);
    if (e->soft_logout >= 0)
        json_set(extra, STR("soft_logout"), json_new_bool(a, e->soft_logout != 0));
    if (e->limit) {
        json_set(extra, STR("admin_contact"),
                 str_absent(e->admin_contact) ? json_new(a, JSON_NULL) : json_new_str(a, e->admin_contact));
        json_set(extra, STR("limit_type"), json_new_str(a, e->limit_type));
    }
    http_res_error(&res, e->status, e->errcode, e->error, extra);
    http_reply(req, &res);
}
