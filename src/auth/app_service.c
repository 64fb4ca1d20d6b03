/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Application services: an as_token, optionally acting as a user of its namespace and as one of that user's
 * devices (reference 1.10).
 *
 * Tokens are found by their SHA-256, so timing tells nothing about them. A service whose address list does
 * not hold the client's address is not a service at all: its token goes on as a user's, and fails as unknown.
 * The regular expressions are Python's in the registration files; PCRE2 understands the same in all that is
 * used there. They are anchored at the start only, as in Synapse, which is why the user must also exist. A
 * pattern may be clumsy and the subject is the peer's, so a match has a bounded number of steps; running out
 * of them counts as no match.
 *
 * On purpose unlike Synapse: an unparsable client address is not in the list (401, not 500), and device_id
 * without user_id means the sender's device.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "chappe/release.h"
#include "auth_int.h"
#include <pcre2.h>

enum { MATCH_STEPS_MAX = 100000, MATCH_HEAP_KIB_MAX = 4096 };

struct app_service {
    uint64_t key[4];
    const struct config_app_service *cfg;
    struct str sender; /* @localpart:server */
    pcre2_code **users;
    size_t users_n;
    struct ip_range *ranges;
    size_t ranges_n;
    pcre2_match_data *match;
    pcre2_match_context *limits;
};

static int compile_users(struct app_service *s, struct err *e)
{
    s->users = xcalloc(s->cfg->users_count + 1, sizeof s->users[0]);
    s->limits = pcre2_match_context_create(NULL);
    s->match = pcre2_match_data_create(1, NULL);
    ASSERT(s->limits && s->match);
    pcre2_set_match_limit(s->limits, MATCH_STEPS_MAX);
    pcre2_set_depth_limit(s->limits, MATCH_STEPS_MAX);
    pcre2_set_heap_limit(s->limits, MATCH_HEAP_KIB_MAX);
    for (size_t i = 0; i < s->cfg->users_count; i++) {
        struct str pattern = s->cfg->users[i].pattern;
        int code;
        size_t at;
        pcre2_code *re =
            pcre2_compile((PCRE2_SPTR)(pattern.p ? pattern.p : ""), pattern.n,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
        if (!re) {
            unsigned char why[160];
            pcre2_get_error_message(code, why, sizeof why);
            return err_set(e, ERR_CONFIG, "application service %.*s: users regex %.*s: %s at byte %zu",
                           STR_ARG(s->cfg->id), STR_ARG(pattern), (const char *)why, at);
        }
        s->users[s->users_n++] = re;
    }
    return 0;
}

static int compile_ranges(struct app_service *s, struct err *e)
{
    if (!s->cfg->has_ip_range_whitelist)
        return 0;
    s->ranges = xcalloc(s->cfg->ip_range_whitelist_count + 1, sizeof s->ranges[0]);
    for (size_t i = 0; i < s->cfg->ip_range_whitelist_count; i++)
        if (ip_range_parse(s->cfg->ip_range_whitelist[i], &s->ranges[s->ranges_n++]))
            return err_set(e, ERR_CONFIG,
                           "application service %.*s: ip_range_whitelist: %.*s is not an address range",
                           STR_ARG(s->cfg->id), STR_ARG(s->cfg->ip_range_whitelist[i]));
    return 0;
}

int app_services_init(struct app_services *ss, struct auth *a, struct err *e)
{
    const struct config *cfg = a->cfg;
    int rc;

    smap_init(&ss->by_token);
    ss->v = xcalloc(cfg->app_services_count + 1, sizeof ss->v[0]);
    for (size_t i = 0; i < cfg->app_services_count; i++) {
        struct app_service *s = &ss->v[ss->n++];
        struct buf b;
        s->cfg = &cfg->app_services[i];
        buf_init(&b, 4096);
        buf_printf(&b, "@%.*s:%.*s", STR_ARG(s->cfg->sender_localpart), STR_ARG(cfg->server_name));
        bool long_name = b.failed || b.n > AUTH_USER_ID_BYTES_MAX;
        if (!long_name)
            s->sender = str_dup(buf_str(&b));
        buf_fini(&b);
        if (long_name || !str_storable(s->sender))
            return err_set(e, ERR_CONFIG, "application service %.*s: bad sender_localpart",
                           STR_ARG(s->cfg->id));
        if ((rc = compile_users(s, e)) || (rc = compile_ranges(s, e)))
            return rc;
        auth_hash(a, s->cfg->as_token, s->key);
        if (smap_put(&ss->by_token, str_n((const char *)s->key, sizeof s->key), s))
            return err_set(e, ERR_CONFIG, "application service %.*s: its as_token is another service's too",
                           STR_ARG(s->cfg->id));
    }
    return 0;
}

void app_services_fini(struct app_services *ss)
{
    for (size_t i = 0; i < ss->n; i++) {
        struct app_service *s = &ss->v[i];
        for (size_t k = 0; k < s->users_n; k++)
            pcre2_code_free(s->users[k]);
        free(s->users);
        pcre2_match_data_free(s->match);
        pcre2_match_context_free(s->limits);
        free(s->ranges);
        free((void *)s->sender.p);
    }
    free(ss->v);
    ss->v = NULL;
    ss->n = 0;
    smap_fini(&ss->by_token);
}

const struct app_service *app_services_find(const struct app_services *ss, const uint64_t key[4],
                                            struct str ip)
{
    const struct app_service *s = ss->n ? smap_get(&ss->by_token, str_n((const char *)key, 32)) : NULL;

    /* An empty list is no list. */
    if (s && s->ranges_n && !ip_in_ranges(s->ranges, s->ranges_n, ip))
        return NULL;
    return s;
}

bool app_service_controls(const struct app_service *s, struct str user_id)
{
    for (size_t i = 0; i < s->users_n; i++) {
        int rc = pcre2_match(s->users[i], (PCRE2_SPTR)(user_id.p ? user_id.p : ""), user_id.n, 0, 0, s->match,
                             s->limits);
        if (rc >= 0)
            return true;
        if (rc != PCRE2_ERROR_NOMATCH)
            log_warning(LOGGER,
                        "Application service %.*s: users regex %zu gave up (%d) and counts as no match",
                        STR_ARG(s->cfg->id), i, rc);
    }
    return false;
}

int app_service_params(struct auth_op *op, struct http_req *req)
{
    op->user_id = http_query(req, STR("user_id"));
    op->device_id = http_query(req, STR("device_id"));
    op->old_device_name = !release_has(RELEASE_AS_DEVICE_STABLE_NAME);
    if (str_absent(op->device_id) && op->old_device_name)
        op->device_id = http_query(req, STR("org.matrix.msc3202.device_id"));
    return str_storable(op->user_id) && str_storable(op->device_id) ? 0 : -ERR_PARSE;
}

static void refuse_device(struct auth_op *op, struct str user)
{
    struct str text =
        op_printf(op, "Application service trying to use a device that doesn't exist ('%.*s' for %.*s)",
                  STR_ARG(op->device_id), STR_ARG(user));

    op_refuse(op, 400,
              release_has(RELEASE_AS_DEVICE_STABLE_ERROR) ? "M_UNKNOWN_DEVICE"
                                                          : "ORG.MATRIX.MSC4326.M_UNKNOWN_DEVICE",
              text, -1, "app_service");
}

void run_app_service(struct auth_op *op)
{
    const struct app_service *s = op->as;
    struct str user = str_absent(op->user_id) ? s->sender : op->user_id;

    if (!str_eq(user, s->sender) && !op->have_user) {
        if (user.n > AUTH_USER_ID_BYTES_MAX || !app_service_controls(s, user)) {
            struct str text =
                op_printf(op, "Application service cannot masquerade as this user (%.*s).", STR_ARG(user));
            op_refuse(op, 403, "M_FORBIDDEN", text, -1, "app_service");
            return;
        }
        if (!op_need_user(&op, user))
            return;
        user = op->user_id;
    }
    if (op->have_user && !op->user_exists) {
        struct str text =
            op_printf(op, "Application service has not registered this user (%.*s)", STR_ARG(user));
        op_refuse(op, 403, "M_FORBIDDEN", text, -1, "app_service");
        return;
    }
    if (!str_absent(op->device_id)) {
        if (op->device_id.n > AUTH_USER_ID_BYTES_MAX) {
            refuse_device(op, user);
            return;
        }
        if (!op_need_device(&op, user, op->device_id))
            return;
        if (!op->device_exists) {
            refuse_device(op, user);
            return;
        }
    }
    struct requester *r = requester_new(op->a, REQUESTER_APP_SERVICE, user, op->device_id, user, op->key);
    r->is_app_service = true;
    basis_set(r, op);
    op_accept(op, r);
}
