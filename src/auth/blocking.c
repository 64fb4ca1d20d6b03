/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * A homeserver that is disabled, or full for this month: hs_disabled and limit_usage_by_mau (reference 1.9).
 *
 * With neither option the answer is immediate. The MAU rows are cached like users: who belongs to the active
 * users until a row of the caches stream says otherwise, the count of them for a minute at most.
 */
#include "auth_int.h"

static void refuse_limit(struct auth_op *op, struct str text, struct str type)
{
    const struct auth_error e = {.status = 403,
                                 .errcode = "M_RESOURCE_LIMIT_EXCEEDED",
                                 .error = text,
                                 .soft_logout = -1,
                                 .limit = true,
                                 .admin_contact = op->a->cfg->admin_contact,
                                 .limit_type = type};

    op_refuse_error(op, &e, "blocked");
}

void run_blocking(struct auth_op *op)
{
    const struct config *cfg = op->a->cfg;
    struct str user = requester_owner(op->r);

    if (!op_need_user(&op, user))
        return;
    if (op->user_exists && op->user.support) {
        op_pass(op);
        return;
    }
    if (cfg->hs_disabled) {
        refuse_limit(op, cfg->hs_disabled_message, STR("hs_disabled"));
        return;
    }
    if (!op_need_mau(&op, user))
        return;
    if (op->mau_member) {
        op_pass(op);
        return;
    }
    if (op->user_exists && clock_wall_ms() - op->user.creation_s * 1000 < op->user.trial_days * 86400000) {
        op_pass(op);
        return;
    }
    if (!op_need_mau_count(&op))
        return;
    if (op->mau_count >= cfg->max_mau_value)
        refuse_limit(op, STR("Monthly Active User Limit Exceeded"), STR("monthly_active_user"));
    else
        op_pass(op);
}

void auth_check_blocking(struct auth *a, struct requester *r,
                         void (*done)(void *arg, const struct auth_error *e), void *arg)
{
    const struct config *cfg = a->cfg;

    if ((!cfg->hs_disabled && !cfg->limit_usage_by_mau) ||
        (r->is_app_service && !cfg->track_appservice_user_ips) ||
        str_eq(requester_owner(r), cfg->server_name) ||
        (cfg->server_notices_mxid.n && str_eq(requester_owner(r), cfg->server_notices_mxid))) {
        done(arg, NULL);
        return;
    }
    struct auth_op op = {.a = a, .run = run_blocking, .blocking_done = done, .arg = arg};
    list_init(&op.all);
    list_init(&op.wait.node);
    if (a->stopping || a->ops_n >= (size_t)cfg->auth_pending_max) {
        op_unavailable(&op, "limit");
        return;
    }
    op.r = requester_ref(r);
    op.run(&op);
}
