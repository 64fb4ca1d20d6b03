/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The effective configuration as YAML that can be read back: what was understood of Synapse's keys, then
 * every option of "chappe:" with its documentation. Secrets show as asterisks when set.
 */
#include "config_int.h"

#include <stdio.h>

static const char mask[] = "********";

/* Strings are always quoted: "no" and "0666" must stay what they are. */
static void quoted_put(struct buf *b, struct str s)
{
    buf_putc(b, '"');
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == '"' || c == '\\')
            buf_printf(b, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            buf_printf(b, "\\x%02x", c);
        else
            buf_putc(b, (char)c);
    }
    buf_putc(b, '"');
}

static void line_str(struct buf *b, const char *key, struct str s)
{
    if (s.n == 0)
        return;
    buf_printf(b, "%s: ", key);
    quoted_put(b, s);
    buf_putc(b, '\n');
}

static void line_secret(struct buf *b, const char *key, struct str s)
{
    line_str(b, key, s.n ? str_of(mask) : STR_ABSENT);
}

static void line_bool(struct buf *b, const char *key, bool v)
{
    buf_printf(b, "%s: %s\n", key, v ? "true" : "false");
}

static void line_int(struct buf *b, const char *key, int64_t v)
{
    buf_printf(b, "%s: %lld\n", key, (long long)v);
}

static void line_list(struct buf *b, const char *key, const struct str *v, size_t n)
{
    buf_printf(b, "%s: [", key);
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            buf_put(b, STR(", "));
        quoted_put(b, v[i]);
    }
    buf_put(b, STR("]\n"));
}

static void listener_print(const struct config_listener *l, struct buf *b)
{
    buf_printf(b, "- type: %s\n", l->metrics ? "metrics" : "http");
    if (l->path.n > 0) {
        line_str(b, "  path", l->path);
        buf_printf(b, "  mode: 0%o\n", (unsigned)l->mode);
    } else {
        line_int(b, "  port", l->port);
        line_list(b, "  bind_addresses", l->bind, l->bind_count);
        line_str(b, "  tag", l->tag);
    }
    line_bool(b, "  x_forwarded", l->x_forwarded);
    line_str(b, "  request_id_header", l->request_id_header);
    if (!l->metrics)
        buf_printf(b, "  resources: [{names: [health%s%s]}]\n", l->client ? ", client" : "",
                   l->metrics_resource ? ", metrics" : "");
}

static void worker_print(const struct config *c, struct buf *b)
{
    line_str(b, "server_name", c->server_name);
    line_str(b, "worker_app", c->worker_app);
    line_str(b, "worker_name", c->worker_name);
    line_str(b, "worker_pid_file", c->worker_pid_file);
    line_secret(b, "worker_replication_secret", c->replication_secret);
    buf_put(b, STR("worker_listeners:\n"));
    for (size_t i = 0; i < c->listeners_count; i++)
        listener_print(&c->listeners[i], b);
    buf_put(b, STR("instance_map:\n"));
    for (size_t i = 0; i < c->instances_count; i++) {
        const struct config_instance *in = &c->instances[i];
        buf_put(b, STR("  "));
        quoted_put(b, str_eq(in->name, STR("master")) ? STR("main") : in->name);
        buf_put(b, STR(":\n"));
        if (in->path.n > 0) {
            line_str(b, "    path", in->path);
            continue;
        }
        line_str(b, "    host", in->host);
        line_int(b, "    port", in->port);
        line_bool(b, "    tls", in->tls);
    }
    buf_put(b, STR("stream_writers:\n"));
    for (int k = 0; k < WRITERS_COUNT; k++) {
        buf_put(b, STR("  "));
        line_list(b, writer_keys[k].name, c->writers[k].names, c->writers[k].count);
    }
}

static void redis_print(const struct config *c, struct buf *b)
{
    buf_put(b, STR("redis:\n  enabled: true\n"));
    line_str(b, "  path", c->redis.path);
    line_str(b, "  host", c->redis.host);
    line_int(b, "  port", c->redis.port);
    line_int(b, "  dbid", c->redis.dbid);
    line_secret(b, "  password", c->redis.password);
    line_bool(b, "  use_tls", c->redis.use_tls);
    line_str(b, "  ca_file", c->redis.ca_file);
    line_str(b, "  ca_path", c->redis.ca_path);
    line_str(b, "  certificate_file", c->redis.certificate_file);
    line_str(b, "  private_key_file", c->redis.private_key_file);
}

static void arg_print(void *arg, const char *keyword, const char *value)
{
    buf_printf(arg, "      %s: ", keyword);
    quoted_put(arg, str_of(value));
    buf_putc(arg, '\n');
}

static void db_print(const struct config_db *db, const char *label, const char *stores, struct buf *b)
{
    buf_printf(b, "  %s:\n    name: psycopg2\n    data_stores: [%s]\n    args:\n", label, stores);
    conninfo_each(db->masked.p, arg_print, b);
    if (db->statement_timeout_ms > 0)
        line_int(b, "    statement_timeout", db->statement_timeout_ms);
    else
        buf_put(b, STR("    statement_timeout: null\n"));
    line_bool(b, "    synchronous_commit", db->synchronous_commit);
}

static void synapse_print(const struct config *c, struct buf *b)
{
    buf_put(b, STR("databases:\n"));
    db_print(&c->db_main, "main", c->db_state_separate ? "main" : "main, state", b);
    if (c->db_state_separate)
        db_print(&c->db_state, "state", "state", b);
    line_list(b, "app_service_config_files", c->app_service_files, c->app_service_files_count);
    buf_put(b, STR("matrix_authentication_service:\n"));
    line_bool(b, "  enabled", c->mas.enabled);
    line_str(b, "  endpoint", c->mas.endpoint);
    line_secret(b, "  secret", c->mas.secret);
    line_bool(b, "  force_http2", c->mas.force_http2);
    buf_printf(b, "presence:\n  enabled: %s\n",
               !c->presence.enabled  ? "false"
               : c->presence.tracked ? "true"
                                     : "untracked");
    line_bool(b, "  include_offline_users_on_sync", c->presence.include_offline_users_on_sync);
    line_int(b, "  last_active_granularity", c->presence.last_active_granularity_ms);
    line_int(b, "  sync_online_timeout", c->presence.sync_online_timeout_ms);
    /* Not used here, but it must exceed the granularity. */
    line_int(b, "  idle_timeout",
             c->presence.last_active_granularity_ms < 300000 ? 300000
                                                             : c->presence.last_active_granularity_ms + 1);
    buf_printf(b, "rc_presence:\n  per_user: {per_second: %.6f, burst_count: %.6f}\n",
               c->rc_presence_per_second, c->rc_presence_burst);
    line_list(b, "exclude_rooms_from_sync", c->exclude_rooms_from_sync, c->exclude_rooms_from_sync_count);
    line_list(b, "exclude_rooms_from_presence", c->exclude_rooms_from_presence,
              c->exclude_rooms_from_presence_count);
    line_int(b, "filter_timeline_limit", c->filter_timeline_limit);
    buf_printf(b, "caches:\n  sync_response_cache_duration: %lld\n  global_factor: %.6f\n",
               (long long)c->sync_response_cache_duration_ms, c->cache_global_factor);
    buf_put(b, STR("push:\n"));
    line_bool(b, "  enabled", c->enable_push);
    line_bool(b, "  include_content", c->push.include_content);
    line_bool(b, "  group_unread_count_by_room", c->push.group_unread_count_by_room);
    if (c->push.jitter_ms > 0)
        line_int(b, "  jitter_delay", c->push.jitter_ms);
    line_list(b, "pusher_instances", c->push.instances, c->push.instances_count);
    line_bool(b, "allow_guest_access", c->allow_guest_access);
    line_secret(b, "macaroon_secret_key", c->macaroon_secret_key);
    line_bool(b, "enable_metrics", c->enable_metrics);
    line_bool(b, "hs_disabled", c->hs_disabled);
    line_str(b, "hs_disabled_message", c->hs_disabled_message);
    line_str(b, "admin_contact", c->admin_contact);
    line_bool(b, "limit_usage_by_mau", c->limit_usage_by_mau);
    line_int(b, "max_mau_value", c->max_mau_value);
    line_int(b, "mau_trial_days", c->mau_trial_days);
    if (c->mau_appservice_trials_count)
        buf_put(b, STR("mau_appservice_trial_days:\n"));
    for (size_t i = 0; i < c->mau_appservice_trials_count; i++) {
        buf_put(b, STR("  "));
        quoted_put(b, c->mau_appservice_trials[i].id);
        buf_printf(b, ": %lld\n", (long long)c->mau_appservice_trials[i].days);
    }
    if (c->server_notices_mxid.n > 0)
        line_str(b, "server_notices:\n  system_mxid_localpart",
                 str_n(c->server_notices_mxid.p + 1, c->server_notices_mxid.n - c->server_name.n - 2));
    buf_put(b, STR("account_validity:\n"));
    line_bool(b, "  enabled", c->account_validity);
    line_bool(b, "track_puppeted_user_ips", c->track_puppeted_user_ips);
    line_bool(b, "track_appservice_user_ips", c->track_appservice_user_ips);
    buf_put(b, STR("experimental_features:\n"));
    line_bool(b, "  msc4210_enabled", c->msc4210_enabled);
    line_bool(b, "  msc3773_enabled", c->msc3773_enabled);
    line_bool(b, "  msc2654_enabled", c->msc2654_enabled);
    line_bool(b, "  msc3391_enabled", c->msc3391_enabled);
    line_bool(b, "  msc3874_enabled", c->msc3874_enabled);
    line_bool(b, "  msc4222_enabled", c->msc4222_enabled);
    line_bool(b, "  msc4155_enabled", c->msc4155_enabled);
    line_bool(b, "  msc4306_enabled", c->msc4306_enabled);
    line_bool(b, "  msc3664_enabled", c->msc3664_enabled);
    line_bool(b, "  msc1767_enabled", c->msc1767_enabled);
    line_bool(b, "  msc3381_polls_enabled", c->msc3381_polls_enabled);
    line_bool(b, "  msc4028_push_encrypted_events", c->msc4028_push_encrypted_events);
    line_bool(b, "  msc4293_enabled", c->msc4293_enabled);
    line_bool(b, "  msc4354_enabled", c->msc4354_enabled);
    buf_put(b, STR("retention:\n"));
    line_bool(b, "  enabled", c->retention.enabled);
    if (c->retention.has_max_lifetime)
        line_int(b, "  default_policy:\n    max_lifetime", c->retention.max_lifetime_ms);
}

/* Documentation as a comment, wrapped at 100 columns. */
static void doc_put(struct buf *b, const char *doc, const char *values)
{
    struct str rest = str_of(doc), word;
    size_t column = 0;

    for (bool more = true; more;) {
        struct str s = rest;
        more = str_cut(s, ' ', &word, &rest);
        if (column == 0 || column + 1 + word.n > 100) {
            buf_put(b, STR("\n  # "));
            column = 4;
        } else {
            buf_putc(b, ' ');
            column++;
        }
        buf_put(b, word);
        column += word.n;
    }
    buf_printf(b, "\n  # %s\n", values);
}

static void options_print(const struct config *c, struct buf *b)
{
    char values[256];

    buf_put(b, STR("\n# Chappe's own options.\nchappe:"));
#define OPT_INT(field, deflt, min, max, unit, doc)                                                     \
    snprintf(values, sizeof values, "%lld..%lld %s; default %lld", (long long)(min), (long long)(max), \
             (unit), (long long)(deflt));                                                              \
    doc_put(b, (doc), values);                                                                         \
    line_int(b, "  " #field, c->field);
#define OPT_BOOL(field, deflt, doc)                                                           \
    snprintf(values, sizeof values, "true or false; default %s", (deflt) ? "true" : "false"); \
    doc_put(b, (doc), values);                                                                \
    line_bool(b, "  " #field, c->field);
#define OPT_ENUM(field, deflt, choices, doc)                                      \
    snprintf(values, sizeof values, "one of %s; default %s", (choices), (deflt)); \
    doc_put(b, (doc), values);                                                    \
    line_str(b, "  " #field, c->field);
#define OPT_STR(field, deflt, doc)                                    \
    snprintf(values, sizeof values, "text; default \"%s\"", (deflt)); \
    doc_put(b, (doc), values);                                        \
    buf_put(b, STR("  " #field ": "));                                \
    quoted_put(b, c->field);                                          \
    buf_putc(b, '\n');
#include "chappe/tbl/options.def"
#undef OPT_INT
#undef OPT_BOOL
#undef OPT_ENUM
#undef OPT_STR
}

void config_print(const struct config *c, struct buf *out)
{
    buf_put(out, STR("# Effective configuration; secrets are masked.\n"));
    worker_print(c, out);
    redis_print(c, out);
    synapse_print(c, out);
    options_print(c, out);
}
