/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Tokens of the database (reference 1.3-1.8), guest macaroons, and the marking of refreshable tokens as used.
 *
 * Marking: an access token that came out of a refresh must be marked at its first use, because Synapse then
 * refuses the refresh token it replaced. Synapse waits for that write before it answers; here it is sent in
 * the same turn, batched, and not waited for. It is repeated until it succeeded: by the pool when a
 * connection is lost, from our list when the server refused it, and by whichever worker sees the token next
 * if this process dies, since the row still says "not used". What is given up is only the order of two events
 * some milliseconds apart. A token that is already marked, or has no refresh token, is not written at all.
 * When the write finds no row, the token was deleted after it was read: the entry is dropped, and parked
 * requests that rest on it are checked.
 */
#include "auth_int.h"

#define ERR_ROW(st, code, text, soft)                                                         \
    {                                                                                         \
        .status = st, .errcode = code, .error = {text, sizeof(text) - 1}, .soft_logout = soft \
    }
const struct auth_error auth_error_unknown =
                            ERR_ROW(401, "M_UNKNOWN_TOKEN", "Invalid access token passed.", 0),
                        auth_error_expired = ERR_ROW(401, "M_UNKNOWN_TOKEN", "Access token has expired", 1),
                        auth_error_inactive = ERR_ROW(401, "M_UNKNOWN_TOKEN", "Token is not active", 0),
                        auth_error_locked = ERR_ROW(401, "M_USER_LOCKED", "User account has been locked", 1),
                        auth_error_account_expired =
                            ERR_ROW(403, "ORG_MATRIX_EXPIRED_ACCOUNT", "User account has expired", -1),
                        auth_error_unavailable =
                            ERR_ROW(503, "M_UNKNOWN", "Service temporarily unavailable", -1),
                        auth_error_introspect =
                            ERR_ROW(503, "M_UNKNOWN", "Unable to introspect the access token", -1);

const struct auth_error *verdict_of_requester(const struct auth *a, const struct requester *r, int64_t now,
                                              const char **label)
{
    if (r->valid_until_ms && r->valid_until_ms < now) {
        *label = "expired";
        return &auth_error_expired;
    }
    if (r->locked) {
        *label = "locked";
        return &auth_error_locked;
    }
    if (a->cfg->account_validity && r->account_expires_ms && r->account_expires_ms <= now) {
        *label = "account_expired";
        return &auth_error_account_expired;
    }
    return NULL;
}

/* The token is not in the database: perhaps a guest's. Guests' tokens never are. */
static void run_guest(struct auth_op *op)
{
    if (str_absent(op->user_id)) {
        struct guest_macaroon m;

        if (macaroon_verify_guest(op->token, op->a->cfg->macaroon_secret_key, clock_wall_ms(), &m)) {
            op_refuse_error(op, &auth_error_unknown, "unknown_token");
            return;
        }
        op = op_park(op); /* rare: no need to save the allocation */
        op->user_id = str_dup(m.user_id);
        op->token_dies_ms = m.dies_ms;
    }
    if (!op_need_user(&op, op->user_id))
        return;
    if (!op->user_exists) {
        op_refuse(op, 401, "M_UNKNOWN_TOKEN", op_printf(op, "Unknown user_id %.*s", STR_ARG(op->user_id)), 0,
                  "unknown_token");
        return;
    }
    if (!op->user.guest) {
        op_refuse(op, 401, "M_UNKNOWN_TOKEN", STR("Guest access token used for regular user"), 0,
                  "unknown_token");
        return;
    }
    struct requester *r =
        requester_new(op->a, REQUESTER_GUEST, op->user_id, STR("guest_device"), op->user_id, op->key);
    const char *label = NULL;
    r->is_guest = true;
    r->locked = op->user.locked;
    r->shadow_banned = op->user.shadow_banned;
    r->account_expires_ms = op->a->cfg->account_validity ? op->user.expires_ms : 0;
    const struct auth_error *e = verdict_of_requester(op->a, r, clock_wall_ms(), &label);
    if (e) {
        requester_unref(&r);
        op_refuse_error(op, e, label);
        return;
    }
    if (!op->token_dies_ms)
        basis_set(r, op);
    op_accept(op, r);
}

void run_internal(struct auth_op *op)
{
    const char *label = NULL;

    if (!op_need_token(&op))
        return;
    if (!op->r) {
        run_guest(op);
        return;
    }
    const struct auth_error *e = verdict_of_requester(op->a, op->r, clock_wall_ms(), &label);
    if (e != &auth_error_expired)
        used_mark(op->a, op->r); /* before the locked check, as Synapse */
    if (e) {
        op_refuse_error(op, e, label);
        return;
    }
    op_accept(op, requester_ref(op->r));
}

/* ---- used = true */

void used_mark(struct auth *a, struct requester *r)
{
    if (r->used || !r->refreshable || r->token_id == 0)
        return;
    r->used = true; /* the cached requester remembers it; a new row is asked for after the entry's life */
    vec_push(&a->used, r->token_id);
    auth_arm_flush(a);
}

struct used_call {
    struct auth *a;
    size_t n;
    int64_t ids[];
};

static int compare_ids(const void *x, const void *y)
{
    int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;

    return a < b ? -1 : a > b;
}

/* The row of id is gone: forget what we know about it. */
static void used_gone(struct auth *a, int64_t id)
{
    size_t it = 0;
    struct list *n;
    VEC(struct requester *) found = {0};

    metric_add(M_auth_used_gone, 1);
    while ((n = imap_next(&a->requesters_by_user, &it))) {
        struct list *end = n;
        do {
            struct requester *r = container_of(n, struct requester, by_user);
            if (r->token_id == id)
                vec_push(&found, requester_ref(r));
            n = n->next;
        } while (n != end);
    }
    for (size_t i = 0; i < found.n; i++) {
        cache_drop(&a->tokens, str_n((const char *)found.v[i]->token_key, sizeof found.v[i]->token_key));
        requester_suspect(found.v[i]);
        requester_unref(&found.v[i]);
    }
    vec_free(&found);
}

static void used_answered(void *arg, int err, const struct pg_result *res)
{
    struct used_call *call = arg;
    struct auth *a = call->a;

    a->used_call = false;
    if (err) {
        if (err != -ERR_SHUTDOWN) {
            log_warning(LOGGER, "Could not mark %zu access tokens as used: %s; trying again", call->n,
                        err_text(err));
            for (size_t i = 0; i < call->n; i++) /* the next tick sends them */
                vec_push(&a->used, call->ids[i]);
        }
    } else {
        int rows = res ? pg_rows(res) : 0;
        metric_add(M_auth_used_marked, rows);
        if ((size_t)rows != call->n) {
            int64_t *got = xcalloc((size_t)rows + 1, sizeof *got);
            for (int i = 0; i < rows; i++)
                got[i] = pg_i64(res, i, 0);
            qsort(got, (size_t)rows, sizeof *got, compare_ids);
            for (size_t i = 0; i < call->n; i++)
                if (!bsearch(&call->ids[i], got, (size_t)rows, sizeof *got, compare_ids))
                    used_gone(a, call->ids[i]);
            free(got);
        }
        if (a->used.n)
            auth_arm_flush(a);
    }
    free(call);
    auth_call_done(a);
}

void used_flush(struct auth *a)
{
    if (a->used_call || a->used.n == 0)
        return;
    /* Two requesters of one token (its entry was dropped in between) may have noted it twice. */
    qsort(a->used.v, a->used.n, sizeof *a->used.v, compare_ids);
    size_t n = 0;
    for (size_t i = 0; i < a->used.n; i++)
        if (n == 0 || a->used.v[n - 1] != a->used.v[i])
            a->used.v[n++] = a->used.v[i];
    size_t take = n < AUTH_BATCH_MAX ? n : AUTH_BATCH_MAX;
    struct used_call *call = xmalloc(sizeof *call + take * sizeof call->ids[0]);
    call->a = a;
    call->n = take;
    memcpy(call->ids, a->used.v, take * sizeof call->ids[0]);
    memmove(a->used.v, a->used.v + take, (n - take) * sizeof a->used.v[0]);
    a->used.n = n - take;
    a->used_call = true;
    a->calls++;
    struct pg_args *args = pg_args_new();
    pg_args_i64_array(args, call->ids, take);
    pg_exec(a->pg, SQL_auth_used, args, used_answered, call);
}
