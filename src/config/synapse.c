/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Synapse's settings that change answers of /sync, who may ask, or what a request leaves behind. What is
 * merely lacking here is warned about.
 */
#include "config_int.h"

#include <stdlib.h>

enum { LOG_CONFIG_MAX = 1 << 20, TRIAL_DAYS_MAX = 1000000 };

static void presence_read(struct reader *r)
{
    struct config *c = r->c;
    struct yaml *map = read_map(r, r->root, "presence");
    struct yaml *enabled = yaml_get(map, "enabled");
    int64_t idle = 300000;

    if (yaml_is_null(enabled))
        read_bool(r, r->root, "use_presence", &c->presence.enabled);
    else
        read_bool(r, map, "presence.enabled", &c->presence.enabled);
    c->presence.tracked = c->presence.enabled && !(!yaml_is_null(enabled) && enabled->kind == YAML_SCALAR &&
                                                   str_eq(enabled->text, STR("untracked")));
    read_bool(r, map, "presence.include_offline_users_on_sync", &c->presence.include_offline_users_on_sync);
    read_duration(r, map, "presence.last_active_granularity", &c->presence.last_active_granularity_ms);
    read_duration(r, map, "presence.sync_online_timeout", &c->presence.sync_online_timeout_ms);
    read_duration(r, map, "presence.idle_timeout", &idle);
    if (c->presence.last_active_granularity_ms <= 0 || c->presence.sync_online_timeout_ms <= 0)
        config_fail(r, map,
                    "presence.last_active_granularity and presence.sync_online_timeout must be positive");
    if (idle <= c->presence.last_active_granularity_ms)
        config_fail(r, map, "presence.idle_timeout must be greater than presence.last_active_granularity");
    if (!yaml_is_null(yaml_get(map, "presence_router")))
        config_warn(r, yaml_get(map, "presence_router"),
                    "presence.presence_router: Python modules are not run: users see the "
                    "presence of those they share rooms with, and of nobody else");
    struct yaml *rc = read_map(r, read_map(r, r->root, "rc_presence"), "rc_presence.per_user");
    read_double(r, rc, "rc_presence.per_user.per_second", &c->rc_presence_per_second);
    read_double(r, rc, "rc_presence.per_user.burst_count", &c->rc_presence_burst);
}

static void trials_read(struct reader *r)
{
    struct yaml *map = read_map(r, r->root, "mau_appservice_trial_days");
    struct config *c = r->c;

    if (!map)
        return;
    c->mau_appservice_trials = ARENA_ARRAY(r->a, struct config_trial, map->count);
    for (size_t i = 0; i < map->count; i++) {
        struct config_trial *t = &c->mau_appservice_trials[c->mau_appservice_trials_count++];
        t->id = map->pairs[i].key;
        if (!yaml_int(map->pairs[i].value, &t->days) || t->days < 0 || t->days > TRIAL_DAYS_MAX)
            config_fail(r, map->pairs[i].value, "mau_appservice_trial_days.%.*s must be a number of days",
                        STR_ARG(t->id));
    }
}

static void limits_read(struct reader *r)
{
    struct config *c = r->c;
    struct str localpart = STR_ABSENT;

    read_bool(r, r->root, "hs_disabled", &c->hs_disabled);
    read_str(r, r->root, "hs_disabled_message", &c->hs_disabled_message);
    read_str(r, r->root, "admin_contact", &c->admin_contact);
    read_bool(r, r->root, "limit_usage_by_mau", &c->limit_usage_by_mau);
    read_int(r, r->root, "max_mau_value", INT64_MIN, INT64_MAX, &c->max_mau_value);
    read_int(r, r->root, "mau_trial_days", 0, TRIAL_DAYS_MAX, &c->mau_trial_days);
    trials_read(r);
    read_str(r, read_map(r, r->root, "server_notices"), "server_notices.system_mxid_localpart", &localpart);
    if (localpart.n > 0)
        c->server_notices_mxid =
            arena_printf(r->a, "@%.*s:%.*s", STR_ARG(localpart), STR_ARG(c->server_name));
}

static void access_read(struct reader *r)
{
    struct config *c = r->c;
    struct yaml *mas = read_map(r, r->root, "matrix_authentication_service");
    struct yaml *msc3861 = yaml_get(read_map(r, r->root, "experimental_features"), "msc3861");
    struct str shared = STR_ABSENT;

    read_bool(r, mas, "matrix_authentication_service.enabled", &c->mas.enabled);
    read_bool(r, mas, "matrix_authentication_service.force_http2", &c->mas.force_http2);
    read_str(r, mas, "matrix_authentication_service.endpoint", &c->mas.endpoint);
    if (c->mas.enabled) {
        read_secret(r, mas, "matrix_authentication_service.secret",
                    "matrix_authentication_service.secret_path", &c->mas.secret);
        if (c->mas.secret.n == 0)
            config_fail(r, mas, "matrix_authentication_service needs a secret, or a secret_path");
        if (!str_starts(c->mas.endpoint, STR("http://")) && !str_starts(c->mas.endpoint, STR("https://")))
            config_fail(r, yaml_get(mas, "endpoint"),
                        "matrix_authentication_service.endpoint must be an http:// or https:// address");
    }
    if (!c->mas.enabled && !yaml_is_null(msc3861) && (msc3861->kind == YAML_SCALAR || msc3861->count > 0))
        config_fail(r, msc3861,
                    "experimental_features.msc3861 was removed from Synapse: without "
                    "matrix_authentication_service "
                    "every access token would be refused. Configure matrix_authentication_service instead");
    read_bool(r, r->root, "allow_guest_access", &c->allow_guest_access);
    read_bool(r, r->root, "track_puppeted_user_ips", &c->track_puppeted_user_ips);
    read_bool(r, r->root, "track_appservice_user_ips", &c->track_appservice_user_ips);
    read_bool(r, read_map(r, r->root, "account_validity"), "account_validity.enabled", &c->account_validity);
    read_secret(r, r->root, "macaroon_secret_key", "macaroon_secret_key_path", &c->macaroon_secret_key);
    read_secret(r, r->root, "registration_shared_secret", "registration_shared_secret_path", &shared);
    if (c->macaroon_secret_key.n == 0) /* as Synapse does */
        c->macaroon_secret_key = shared;
    if (c->macaroon_secret_key.n == 0 && c->allow_guest_access)
        config_warn(r, yaml_get(r->root, "allow_guest_access"),
                    "macaroon_secret_key is not set: guests are refused here (Synapse would derive a key "
                    "from its signing key)");
}

/* Flags that change what /sync answers. */
static const struct {
    const char *name;
    size_t off;
} features[] = {
#define FEATURE(flag)                        \
    {                                        \
#flag, offsetof(struct config, flag) \
    }
    FEATURE(msc4210_enabled), FEATURE(msc3773_enabled),       FEATURE(msc2654_enabled),
    FEATURE(msc3391_enabled), FEATURE(msc3874_enabled),       FEATURE(msc4222_enabled),
    FEATURE(msc4155_enabled), FEATURE(msc4306_enabled),       FEATURE(msc3664_enabled),
    FEATURE(msc1767_enabled), FEATURE(msc3381_polls_enabled), FEATURE(msc4028_push_encrypted_events),
    FEATURE(msc4293_enabled), FEATURE(msc4354_enabled),
#undef FEATURE
};

static void features_read(struct reader *r)
{
    struct yaml *map = read_map(r, r->root, "experimental_features");

    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        struct str path = arena_printf(r->a, "experimental_features.%s", features[i].name);
        bool on = false;
        read_bool(r, map, path.p, &on);
        memcpy((char *)r->c + features[i].off, &on, sizeof on);
    }
}

/* MSC4429 (Synapse 1.163, off by default): a section of its own and filters for it. Refused rather than left
 * out in silence: clients that rely on it would show old names. */
static void profile_updates_refuse(struct reader *r)
{
    bool on = false;

    read_bool(r, r->root, "include_profile_updates_in_sync", &on);
    if (on)
        config_fail(r, yaml_get(r->root, "include_profile_updates_in_sync"),
                    "include_profile_updates_in_sync is not supported: answers would lack "
                    "org.matrix.msc4429.users. Leave it off, or serve sync from a Synapse worker");
}

/* What hides a message is max_lifetime alone: of the room's policy, else of this one. The rest of the section
 * tells the main process what to delete. */
static void retention_read(struct reader *r)
{
    struct config *c = r->c;
    struct yaml *section = read_map(r, r->root, "retention");
    struct yaml *policy = read_map(r, section, "retention.default_policy");

    read_bool(r, section, "retention.enabled", &c->retention.enabled);
    c->retention.has_max_lifetime = !yaml_is_null(yaml_get(policy, "max_lifetime"));
    read_duration(r, policy, "retention.default_policy.max_lifetime", &c->retention.max_lifetime_ms);
}

static void modules_warn(struct reader *r)
{
    struct yaml *list = read_list(r, r->root, "modules");

    for (size_t i = 0; list && i < list->count; i++) {
        struct yaml *name = yaml_get(list->items[i], "module");
        config_warn(r, list->items[i],
                    "module %s: Chappe runs no Python modules: what it does to sync (presence routing, "
                    "account validity, unsigned fields) does not happen here",
                    name && name->kind == YAML_SCALAR ? name->text.p : "without a name");
    }
    if (!yaml_is_null(yaml_get(r->root, "third_party_event_rules")))
        config_warn(r, yaml_get(r->root, "third_party_event_rules"),
                    "third_party_event_rules: Chappe runs no Python modules");
}

/* The level of the root logger, from Python's logging configuration, unless chappe.log_level says better. */
static void log_level_read(struct reader *r)
{
    static const struct {
        const char *python, *ours;
    } levels[] = {{"DEBUG", "debug"}, {"INFO", "info"},   {"WARN", "warning"},  {"WARNING", "warning"},
                  {"ERROR", "error"}, {"FATAL", "error"}, {"CRITICAL", "error"}};
    const char *key =
        yaml_is_null(yaml_get(r->root, "worker_log_config")) ? "log_config" : "worker_log_config";
    struct str path = STR_ABSENT, text, level = STR_ABSENT;
    struct yaml *doc, *at = yaml_get(r->root, key);
    struct err e;

    read_str(r, r->root, key, &path);
    if (path.n == 0)
        return;
    if (file_read(r->a, path.p, LOG_CONFIG_MAX, true, &text, &e) < 0 ||
        yaml_parse(r->a, path.p, text, &doc, &e) < 0) {
        config_warn(r, at, "%s: %s: logging stays at its defaults", key, e.text);
        return;
    }
    struct yaml *n = yaml_get(yaml_get(doc, "root"), "level");
    if (n && n->kind == YAML_SCALAR)
        level = n->text;
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (str_eq(level, str_of(levels[i].python)))
            r->c->log_level = str_of(levels[i].ours);
}

void synapse_read(struct reader *r)
{
    struct config *c = r->c;
    struct yaml *caches = read_map(r, r->root, "caches");

    presence_read(r);
    limits_read(r);
    access_read(r);
    features_read(r);
    profile_updates_refuse(r);
    retention_read(r);
    modules_warn(r);
    log_level_read(r);
    read_str_list(r, r->root, "exclude_rooms_from_sync", &c->exclude_rooms_from_sync,
                  &c->exclude_rooms_from_sync_count);
    read_str_list(r, r->root, "exclude_rooms_from_presence", &c->exclude_rooms_from_presence,
                  &c->exclude_rooms_from_presence_count);
    read_int(r, r->root, "filter_timeline_limit", INT32_MIN, INT32_MAX, &c->filter_timeline_limit);
    read_duration(r, caches, "caches.sync_response_cache_duration", &c->sync_response_cache_duration_ms);
    read_double(r, caches, "caches.global_factor", &c->cache_global_factor);
    read_bool(r, r->root, "enable_metrics", &c->enable_metrics);
}
