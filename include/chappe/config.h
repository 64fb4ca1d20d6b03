/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_CONFIG_H
#define CHAPPE_CONFIG_H
/*
 * The merged configuration: Synapse's own YAML files (shallow merge, later files override; directories stand
 * for their *.yaml) and one section "chappe:" of ours, whose options are rows of tbl/options.def. Everything
 * is owned by struct config and immutable after config_load.
 */
#include "chappe/ip.h"
#include "chappe/mem.h"

struct config_listener {
    bool metrics;    /* type: metrics; otherwise http */
    struct str path; /* UNIX socket, or absent */
    int mode;        /* its permissions */
    int port;
    struct str *bind; /* addresses; "::" tolerates a host without IPv6 when "0.0.0.0" is listed too */
    size_t bind_count;
    bool x_forwarded;
    bool client; /* resources name "client" (or none are named) */
    bool metrics_resource;
    struct str tag; /* for the access log */
    struct str request_id_header;
};
struct config_instance {
    struct str name; /* "main" of the YAML is "master" here */
    struct str host;
    int port;
    bool tls;
    struct str path; /* UNIX socket */
};
struct config_regex {
    struct str pattern;
    bool exclusive;
};
struct config_app_service {
    struct str id, as_token, sender_localpart;
    struct config_regex *users;
    size_t users_count;
    struct str *ip_range_whitelist; /* CIDRs; NULL when not set */
    size_t ip_range_whitelist_count;
    bool has_ip_range_whitelist, rate_limited;
};
struct config_db {
    struct str conninfo;      /* libpq keyword/value string, password included: never log */
    struct str masked;        /* the same for logs */
    int statement_timeout_ms; /* 0 = none */
    bool synchronous_commit;
};
struct config_trial { /* of mau_appservice_trial_days */
    struct str id;
    int64_t days;
};
/* Writers of one kind of stream, by instance name. */
struct config_writers {
    struct str *names;
    size_t count;
};
enum config_writer_key {
    WRITERS_EVENTS,
    WRITERS_TYPING,
    WRITERS_TO_DEVICE,
    WRITERS_ACCOUNT_DATA,
    WRITERS_RECEIPTS,
    WRITERS_PRESENCE,
    WRITERS_PUSH_RULES,
    WRITERS_DEVICE_LISTS,
    WRITERS_THREAD_SUBSCRIPTIONS,
    WRITERS_QUARANTINED_MEDIA,
    WRITERS_COUNT
};

struct config {
    struct str server_name, worker_name, worker_app;
    struct str worker_pid_file;
    struct str replication_secret; /* empty: none */
    struct config_db db_main, db_state;
    bool db_state_separate;
    struct {
        struct str host, path, password; /* path wins over host/port */
        int port, dbid;
        bool use_tls;
        struct str ca_file, ca_path, certificate_file, private_key_file;
    } redis;
    struct config_listener *listeners;
    size_t listeners_count;
    struct config_instance *instances;
    size_t instances_count;
    struct config_writers writers[WRITERS_COUNT];
    struct config_app_service *app_services;
    size_t app_services_count;
    struct str *app_service_files; /* where they were read from */
    size_t app_service_files_count;
    struct {
        bool enabled, force_http2;
        struct str endpoint, secret;
    } mas;
    struct {
        bool enabled; /* presence.enabled truthy */
        bool tracked; /* enabled and not "untracked" */
        bool include_offline_users_on_sync;
        int64_t last_active_granularity_ms, sync_online_timeout_ms;
    } presence;
    double rc_presence_per_second;
    double rc_presence_burst;
    struct {
        bool enabled;
        bool has_max_lifetime; /* default_policy.max_lifetime */
        int64_t max_lifetime_ms;
    } retention;
    struct str *exclude_rooms_from_sync;
    size_t exclude_rooms_from_sync_count;
    struct str *exclude_rooms_from_presence;
    size_t exclude_rooms_from_presence_count;
    int64_t filter_timeline_limit; /* 100; negative disables */
    int64_t sync_response_cache_duration_ms;
    double cache_global_factor;
    bool enable_push, allow_guest_access, enable_metrics;
    bool hs_disabled, limit_usage_by_mau;
    struct str hs_disabled_message, admin_contact, server_notices_mxid, macaroon_secret_key;
    int64_t max_mau_value, mau_trial_days;
    struct config_trial *mau_appservice_trials;
    size_t mau_appservice_trials_count;
    bool account_validity; /* legacy account_validity configured */
    bool track_puppeted_user_ips, track_appservice_user_ips;
    bool msc4210_enabled, msc3773_enabled, msc2654_enabled, msc3391_enabled, msc3874_enabled, msc4222_enabled;
    bool msc4155_enabled, msc4306_enabled, msc3664_enabled, msc1767_enabled, msc3381_polls_enabled,
        msc4028_push_encrypted_events, msc4293_enabled, msc4354_enabled;

    struct {                   /* the push worker */
        struct str *instances; /* pusher_instances, in order: it decides the shards */
        size_t instances_count;
        int index; /* which of them we are; -1: none */
        bool include_content, group_unread_count_by_room, msc4076, email_notifs;
        int64_t jitter_ms;
        struct str user_agent_suffix, http_proxy, https_proxy; /* proxies as URLs; absent or empty: none */
        struct str *no_proxy;
        size_t no_proxy_count;
        struct ip_range *ip_block, *ip_allow;
        size_t ip_block_count, ip_allow_count;
    } push;

    /* chappe: — one row each in tbl/options.def */
#define OPT_INT(field, deflt, min, max, unit, doc) int64_t field;
#define OPT_BOOL(field, deflt, doc)                bool field;
#define OPT_ENUM(field, deflt, choices, doc)       struct str field; /* one of choices, a |-separated list */
#define OPT_STR(field, deflt, doc)                 struct str field;
#include "chappe/tbl/options.def"
#undef OPT_INT
#undef OPT_BOOL
#undef OPT_ENUM
#undef OPT_STR
    struct str *warnings; /* what was said about options that cannot be honoured */
    size_t warnings_count;
};
/* paths: files or directories. On failure NULL and text with file and line in e. */
struct config *config_load(const char *const *paths, size_t count, struct err *e);
/* One YAML text instead of files, which messages call "text"; for tests. */
struct config *config_load_text(struct str yaml, struct err *e);
void config_free(struct config **c);
/* YAML of the effective configuration, secrets masked, every chappe: option with its documentation. */
void config_print(const struct config *c, struct buf *out);
const struct config_instance *config_instance_find(const struct config *c, struct str name);
#endif
