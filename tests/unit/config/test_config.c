/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Keys one by one, on one text: defaults, good values, refusals with the line they name, warnings, and
 * printing (which must read back as itself and must not contain a secret).
 */
#include "test_config.h"

#include <libpq-fe.h>
#include <stdio.h>

static void test_defaults(void **state)
{
    struct config *c = load("");

    (void)state;
    assert_str(c->server_name, "example.com");
    assert_str(c->worker_name, "sync1");
    assert_str(c->redis.host, "localhost");
    assert_int_equal(c->redis.port, 6379);
    assert_int_equal(c->redis.dbid, 0);
    assert_true(str_absent(c->redis.password) && c->redis.path.n == 0 && !c->redis.use_tls);
    assert_int_equal(c->replication_secret.n, 0);
    assert_int_equal(c->instances_count, 3);
    assert_str(c->instances[0].name, "master");
    assert_int_equal(c->instances[0].port, 9093);
    assert_str(config_instance_find(c, STR("w3"))->path, "/run/w3");
    assert_null(config_instance_find(c, STR("main")));
    for (int k = 0; k < WRITERS_COUNT; k++) {
        assert_int_equal(c->writers[k].count, 1);
        assert_str(c->writers[k].names[0], "master");
    }
    assert_true(c->presence.enabled && c->presence.tracked && !c->presence.include_offline_users_on_sync);
    assert_int_equal(c->presence.last_active_granularity_ms, 60000);
    assert_int_equal(c->presence.sync_online_timeout_ms, 30000);
    assert_true(c->rc_presence_per_second > 0.0999 && c->rc_presence_per_second < 0.1001 &&
                c->rc_presence_burst > 0.99);
    assert_int_equal(c->filter_timeline_limit, 100);
    assert_int_equal(c->sync_response_cache_duration_ms, 120000);
    assert_true(c->enable_push && !c->allow_guest_access && !c->mas.enabled && !c->hs_disabled);
    assert_int_equal(c->db_main.statement_timeout_ms, 600000);
    assert_true(c->db_main.synchronous_commit && !c->db_state_separate);
    assert_str(c->db_state.conninfo, "dbname='synapse' user='synapse'");
    assert_str(c->transport, "auto");
    assert_int_equal(c->connections_max, 60000);
    assert_true(c->redis_verify_tls);
    assert_int_equal(c->warnings_count, 0);
    config_free(&c);
    assert_null(c);
    config_free(&c);
}

/* Every case must be refused with this text, naming line N of what follows BASE (0: no line). */
static void test_refused(void **state) /* tidy: allow function-length: a table of cases */
{
    static const struct {
        const char *more;
        int line;
        const char *text;
    } table[] = {
        {"server_name:\n", 1, "server_name is missing"},
        {"server_name: []\n", 1, "server_name must be a string"},
        {"worker_app:\n", 1, "worker_app is not set"},
        {"worker_app: synapse.app.homeserver\n", 1, "main process"},
        {"worker_app: synapse.app.nonsense\n", 1, "synapse.app.nonsense is not known"},
        {"x: 1\nworker_name: master\n", 2, "choose another"},
        {"worker_name: main\n", 1, "choose another"},
        {"worker_name: two words\n", 1, "one word"},
        {"worker_replication_host: 127.0.0.1\n", 1, "put the main process into instance_map"},
        {"worker_replication_port: 9092\n", 1, "worker_replication_port"},
        {"worker_replication_http_port: 9093\n", 1, "worker_replication_http_port"},
        {"worker_replication_http_tls: true\n", 1, "worker_replication_http_tls"},
        {"worker_replication_secret: a\nworker_replication_secret_path: /b\n", 2, "both set"},
        {"worker_replication_secret_path: /nowhere/at/all\n", 1, "cannot open /nowhere/at/all"},
        {"worker_replication_secret_path: /dev/zero\n", 1, "not a regular file"},
        {"worker_app: synapse.app.pusher\nstart_pushers: false\n", 1, "pusher_instances"},
        {"worker_app: synapse.app.federation_sender\nsend_federation: no\n", 1,
         "federation_sender_instances"},
        {"redis: {enabled: false}\n", 1, "redis.enabled must be true"},
        {"redis:\n", 0, "redis.enabled must be true"},
        {"redis: on\n", 1, "redis must be a map"},
        {"redis:\n  enabled: true\n  port: 70000\n", 3, "redis.port: 70000 is outside 1..65535"},
        {"redis:\n  enabled: true\n  port: here\n", 3, "redis.port must be an integer"},
        {"redis:\n  enabled: true\n  password: a\n  password_path: b\n", 4, "both set"},
        {"instance_map:\n", 0, "must contain \"main\""},
        {"instance_map: {w2: {host: a, port: 1}}\n", 1, "must contain \"main\""},
        {"instance_map:\n  main: {host: a}\n", 2, "instance_map.main needs host and port, or path"},
        {"instance_map:\n  main: a:1\n", 2, "instance_map.main must be a map"},
        {"stream_writers: {events: sync1}\n", 1, "Chappe writes no stream"},
        {"stream_writers:\n  receipts: [w2, sync1]\n", 2, "stream_writers.receipts names this worker"},
        {"stream_writers: {device_lists: [sync1]}\n", 1, "stream_writers.device_lists names this worker"},
        {"stream_writers: {typing: [w2, w3]}\n", 1, "stream_writers.typing must name exactly one"},
        {"stream_writers: {events: []}\n", 1, "stream_writers.events must name at least one"},
        {"stream_writers: {events: w9}\n", 1, "w9 is not in instance_map"},
        {"stream_writers: {events: main}\n", 1, "called \"master\" here"},
        {"stream_writers: {events: {a: b}}\n", 1, "stream_writers.events must be a list"},
        {"run_background_tasks_on: sync1\n", 1, "Chappe only serves sync"},
        {"notify_appservices_from_worker: sync1\n", 1,
         "notify_appservices_from_worker names this worker (sync1)"},
        {"update_user_directory_from_worker: sync1\n", 1, "update_user_directory_from_worker"},
        {"media_instance_running_background_jobs: sync1\n", 1, "media_instance_running_background_jobs"},
        {"federation_sender_instances:\n- w2\n- sync1\n", 2, "federation_sender_instances names this worker"},
        {"pusher_instances: {a: 1}\n", 1, "pusher_instances"},
        {"include_profile_updates_in_sync: true\n", 1, "include_profile_updates_in_sync is not supported"},
        {"ip_range_blacklist: [10.0.0.0/33]\n", 1, "ip_range_blacklist: 10.0.0.0/33 is not an address range"},
        {"ip_range_whitelist: [gateway.example]\n", 1, "ip_range_whitelist"},
        {"outbound_federation_restricted_to: [sync1]\n", 1, "outbound_federation_restricted_to"},
        {"database:\n", 0, "no \"database\""},
        {"database:\ndatabase_path: /a.db\n", 2, "SQLite"},
        {"database:\n  name: sqlite3\n", 2, "must be psycopg2"},
        {"database: {args: {}}\n", 1, "must be psycopg2"},
        {"database:\n  name: psycopg2\n  args:\n    database: a\n    dbname: b\n", 4, "mean the same"},
        {"database:\n  name: psycopg2\n  args:\n    nonsense: a\n", 4, "nonsense"},
        {"database:\n  name: psycopg2\n  args:\n    host: [a]\n", 4, "bad entry"},
        {"database:\n  name: psycopg2\n  statement_timeout: never\n", 3, "must be an integer"},
        {"databases: {a: {name: psycopg2}}\n", 1, "both set"},
        {"database:\ndatabases: {a: {name: psycopg2}, b: {name: psycopg2}}\n", 2,
         "two entries hold the data store \"main\""},
        {"database:\ndatabases: {a: {name: psycopg2, data_stores: [main]}}\n", 2,
         "no entry holds the data store \"state\""},
        {"database:\ndatabases: {a: 1}\n", 2, "each entry must be a map"},
        {"worker_listeners: 8083\n", 1, "worker_listeners must be a list"},
        {"worker_listeners: [8083]\n", 1, "each entry must be a map"},
        {"worker_listeners:\n- type: replication\n  port: 1\n", 2, "must be http or metrics"},
        {"worker_listeners:\n- type: http\n", 2, "a \"port\" or a \"path\" is needed"},
        {"worker_listeners: [{type: http, port: 1, path: /a}]\n", 1, "both set"},
        {"worker_listeners: [{type: http, port: 65536}]\n", 1, "outside 0..65535"},
        {"worker_listeners:\n- type: http\n  port: 1\n  tls: true\n", 4, "speaks no TLS"},
        {"worker_listeners:\n- type: http\n  path: /a\n  mode: rw\n", 4, "permissions in octal"},
        {"worker_listeners:\n- type: http\n  path: /a\n  mode: 666\n", 4, "permissions in octal"},
        {"worker_listeners:\n- type: http\n  path: "
         "/0123456789012345678901234567890123456789012345678901234567890123456789"
         "01234567890123456789012345678901234567890\n",
         2, "longer than a UNIX socket's path"},
        {"matrix_authentication_service: {enabled: true}\n", 1, "needs a secret"},
        {"matrix_authentication_service: {enabled: true, secret: a, secret_path: b}\n", 1, "both set"},
        {"matrix_authentication_service: {enabled: true, secret: a, endpoint: mas}\n", 1,
         "http:// or https://"},
        {"experimental_features: {msc3861: {enabled: true}}\n", 1, "matrix_authentication_service"},
        {"experimental_features: [msc4354_enabled]\n", 1, "experimental_features must be a map"},
        {"retention: {default_policy: {max_lifetime: long}}\n", 1, "max_lifetime must be a duration"},
        {"presence: {last_active_granularity: 0}\n", 1, "must be positive"},
        {"presence: {sync_online_timeout: soon}\n", 1, "must be a duration"},
        {"presence: {idle_timeout: 60s}\n", 1, "must be greater"},
        {"mau_appservice_trial_days: {irc: soon}\n", 1,
         "mau_appservice_trial_days.irc must be a number of days"},
        {"caches: {sync_response_cache_duration: 2q}\n", 1,
         "caches.sync_response_cache_duration must be a duration"},
        {"caches: {global_factor: high}\n", 1, "caches.global_factor must be a number"},
        {"exclude_rooms_from_sync: ['!a:b', {c: d}]\n", 1, "list of strings"},
        {"app_service_config_files: a.yaml\n", 1, "must be a list"},
        {"app_service_config_files: [/nowhere/as.yaml]\n", 1, "cannot open /nowhere/as.yaml"},
        {"chappe:\n  front_threads: 1\n  front_thread: 2\n", 3, "chappe.front_thread: no such option"},
        {"chappe: [a]\n", 1, "chappe must be a map"},
        {"chappe:\n  front_threads: 65\n", 2,
         "chappe.front_threads: 65 is outside 0..64 (threads): Threads that own"},
        {"chappe: {front_threads: many}\n", 1, "must be a number (threads): Threads that own"},
        {"chappe: {drain_ms: 1q}\n", 1, "with a unit like 30s"},
        {"chappe: {drain_ms: 1h}\n", 1, "outside 100..600000 (ms)"},
        {"chappe: {body_bytes_max: x}\n", 1, "with a unit like 10M"},
        {"chappe: {transport: epoll}\n", 1, "must be one of auto|uring|uv: How sockets"},
        {"chappe: {redis_verify_tls: maybe}\n", 1, "must be true or false: Verify"},
        {"chappe: {connections_max: {a: b}}\n", 1, "must be a number"},
        {"a: [1\nb: 2\n", 2, ""},
        {"a: *nothing\n", 1, "anchor that does not exist"},
        {"---\na: 1\n", 1, "more than one YAML document"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char text[8192], place[64] = "";
        struct err e = {""};
        snprintf(text, sizeof text, "%s%s", BASE, table[i].more);
        if (table[i].line)
            snprintf(place, sizeof place, "text:%d: ", BASE_LINES + table[i].line);
        struct config *c = config_load_text(str_of(text), &e);
        if (c)
            fail_msg("accepted:\n%s", table[i].more);
        if (strncmp(e.text, place, strlen(place)) != 0 || !strstr(e.text, table[i].text) ||
            (!table[i].line && strncmp(e.text, "text:", 5) == 0))
            fail_msg("\"%s\" instead of \"%s…%s\" for:\n%s", e.text, place, table[i].text, table[i].more);
    }
}

static void test_refused_whole(void **state)
{
    static const char *const table[][2] = {
        {"", "server_name is missing"},
        {"- a\n- b\n", "server_name is missing"},
        {"server_name: a\n", "worker_app is not set"},
        {"\xff\xfe\xff", "text: byte"},
        {"a: \x01\n", "text: byte"},
        {"a: b: c\n", "text:1: "},
        {"? [a]\n: b\n", "a key must be"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct err e = {""};
        assert_null(config_load_text(str_of(table[i][0]), &e));
        if (!strstr(e.text, table[i][1]))
            fail_msg("\"%s\" instead of \"%s\"", e.text, table[i][1]);
    }
}

static void test_warnings(void **state)
{
    static const char *const table[][2] = {
        {"modules: [{module: my.Router, config: {}}, {module: b.C}]\n", "module my.Router"},
        {"modules: [{module: my.Router, config: {}}, {module: b.C}]\n", "module b.C"},
        {"presence: {presence_router: {module: a}}\n", "presence_router"},
        {"worker_app: synapse.app.client_reader\n", "only serves sync"},
        {"worker_manhole: 9000\n", "no manhole"},
        {"worker_daemonize: true\n", "foreground"},
        {"stream_writers: {novelty: w2}\n", "stream_writers.novelty is not known"},
        {"worker_listeners: []\n", "nobody will be served"},
        {"worker_listeners: [{type: metrics, port: 1}]\n", "nobody will be served"},
        {"worker_listeners: [{type: manhole, port: 1}, {type: http, port: 2}]\n", "no manhole"},
        {"worker_listeners: [{type: http, port: 2, additional_resources: {/a: {module: b}}}]\n", "Python "
                                                                                                 "modules"},
        {"allow_guest_access: true\n", "guests are refused here"},
        {"presence: {enabled: 'false'}\n", "quoted"},
        {"worker_log_config: /nowhere/log.yaml\n", "logging stays"},
        {"third_party_event_rules: {module: a}\n", "third_party_event_rules"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct config *c = load(table[i][0]);
        if (!has_warning(c, table[i][1]))
            fail_msg("no warning \"%s\" for:\n%s", table[i][1], table[i][0]);
        config_free(&c);
    }
}

static void test_listeners(void **state)
{
    struct config *c = load("worker_listeners:\n"
                            "- {type: http, port: 8083, bind_addresses: ['127.0.0.1'], bind_address: '::1', "
                            "tag: t, x_forwarded: yes}\n"
                            "- {type: http, path: /run/a.sock, tag: t, resources: [{names: [replication]}]}\n"
                            "- {type: http, path: /run/b.sock, mode: 0o660, resources: [{names: [health]}, "
                            "{names: [client, metrics]}]}\n"
                            "- {type: http, path: /run/c.sock, mode: 0600, x_forwarded: false}\n"
                            "- {type: http, path: /run/d.sock, mode: '640', request_id_header: "
                            "X-Request-ID}\n"
                            "- {type: http, path: /run/e.sock, mode: 438}\n"
                            "- {type: metrics, port: 19091}\n"
                            "- {type: http, port: 0}\n");
    static const int modes[] = {0, 0666, 0660, 0600, 0640, 0666};
    const struct config_listener *l = c->listeners;

    (void)state;
    assert_int_equal(c->listeners_count, 8);
    assert_int_equal(l[0].bind_count, 2);
    assert_str(l[0].bind[0], "127.0.0.1");
    assert_str(l[0].bind[1], "::1");
    assert_str(l[0].tag, "t");
    assert_true(l[0].x_forwarded && l[0].client && !l[0].metrics_resource);
    for (int i = 1; i <= 5; i++) {
        assert_int_equal(l[i].mode, modes[i]);
        assert_str(l[i].tag, "unix");
        assert_int_equal(l[i].bind_count, 0);
    }
    assert_true(!l[1].client && l[1].x_forwarded);
    assert_true(l[2].client && l[2].metrics_resource);
    assert_false(l[3].x_forwarded);
    assert_str(l[4].request_id_header, "X-Request-ID");
    assert_true(l[6].metrics);
    assert_int_equal(l[6].bind_count, 1);
    assert_str(l[6].bind[0], "0.0.0.0");
    assert_int_equal(l[7].port, 0);
    assert_int_equal(l[7].bind_count, 2);
    assert_str(l[7].bind[0], "::");
    assert_str(l[7].bind[1], "0.0.0.0");
    assert_str(l[7].tag, "0");
    config_free(&c);
}

static void test_writers(void **state)
{
    struct config *c = load("stream_writers: {events: [w2, w3], typing: w2, receipts: [master, w2], "
                            "quarantined_media_changes: w9}\n"
                            "run_background_tasks_on: w2\nfederation_sender_instances: "
                            "[w2]\npusher_instances: []\n");

    (void)state;
    assert_int_equal(c->writers[WRITERS_EVENTS].count, 2);
    assert_str(c->writers[WRITERS_EVENTS].names[0], "w2");
    assert_str(c->writers[WRITERS_EVENTS].names[1], "w3");
    assert_str(c->writers[WRITERS_TYPING].names[0], "w2");
    assert_int_equal(c->writers[WRITERS_RECEIPTS].count, 2);
    assert_str(c->writers[WRITERS_QUARANTINED_MEDIA].names[0], "w9");
    assert_str(c->writers[WRITERS_PRESENCE].names[0], "master");
    config_free(&c);
}

static void test_push(void **state)
{
    struct config *c = load("");

    (void)state;
    assert_int_equal(c->push.index, -1);
    assert_true(c->enable_push && c->push.include_content && c->push.group_unread_count_by_room);
    assert_int_equal(c->push.ip_block_count, 19);
    assert_int_equal(c->push.ip_allow_count, 0);
    config_free(&c);

    c = load(
        "pusher_instances: [p1, sync1]\npush: {include_content: false, group_unread_count_by_room: false, "
        "jitter_delay: 10s}\nip_range_blacklist: []\nip_range_allowlist: ['10.0.0.0/8']\nip_range_whitelist: "
        "[127.0.0.1, 'fd00::/8']\n"
        "https_proxy: proxy.example:3128\nno_proxy_hosts: [a.example]\n");
    assert_int_equal(c->push.index, 1);
    assert_int_equal(c->push.instances_count, 2);
    assert_false(c->push.include_content || c->push.group_unread_count_by_room);
    assert_int_equal(c->push.jitter_ms, 10000);
    assert_int_equal(c->push.ip_block_count, 0);
    assert_int_equal(c->push.ip_allow_count, 2);
    assert_str(c->push.https_proxy, "http://proxy.example:3128");
    assert_int_equal(c->push.no_proxy_count, 1);
    config_free(&c);

    /* The older key wins, whatever the newer one says. */
    c = load("pusher_instances: sync1\npush: {include_content: true}\nemail: {redact_content: true, "
             "enable_notifs: true}\n");
    assert_int_equal(c->push.index, 0);
    assert_false(c->push.include_content);
    assert_true(c->push.email_notifs);
    config_free(&c);
}

/* Through libpq's own parser: quoting must survive whatever a password contains. */
static void assert_conninfo(struct str conninfo, const char *keyword, const char *want)
{
    PQconninfoOption *options = PQconninfoParse(conninfo.p, NULL);

    assert_non_null(options);
    for (PQconninfoOption *o = options; o->keyword; o++)
        if (strcmp(o->keyword, keyword) == 0) {
            if (want)
                assert_string_equal(o->val, want);
            else
                assert_null(o->val);
        }
    PQconninfoFree(options);
}

static void test_database(void **state)
{
    struct config *c = load("database:\n  name: psycopg2\n  txn_limit: 10\n  synchronous_commit: false\n"
                            "  statement_timeout: null\n  allow_unsafe_locale: true\n  args:\n"
                            "    cp_min: 5\n    cp_max: 10\n    cp_reconnect: true\n    user: 'o''brien'\n"
                            "    password: \" p'a\\\\ss = x\"\n    database: syn\n    host: a,b\n    port: "
                            "5433\n"
                            "    keepalives: 1\n    sslmode: require\n    application_name: null\n");

    (void)state;
    assert_conninfo(c->db_main.conninfo, "user", "o'brien");
    assert_conninfo(c->db_main.conninfo, "password", " p'a\\ss = x");
    assert_conninfo(c->db_main.conninfo, "dbname", "syn");
    assert_conninfo(c->db_main.conninfo, "host", "a,b");
    assert_conninfo(c->db_main.conninfo, "port", "5433");
    assert_conninfo(c->db_main.conninfo, "keepalives", "1");
    assert_conninfo(c->db_main.conninfo, "sslmode", "require");
    assert_conninfo(c->db_main.conninfo, "application_name", NULL);
    assert_conninfo(c->db_main.masked, "user", "o'brien");
    assert_conninfo(c->db_main.masked, "password", "********");
    assert_null(strstr(c->db_main.masked.p, "ss = x"));
    assert_int_equal(c->db_main.statement_timeout_ms, 0);
    assert_false(c->db_main.synchronous_commit);
    config_free(&c);

    c = load("database:\ndatabases:\n  x: {name: psycopg2, data_stores: [main], statement_timeout: 5, args: "
             "{dbname: m}}\n"
             "  y: {name: psycopg2, data_stores: [state], args: {dbname: s}}\n");
    assert_true(c->db_state_separate);
    assert_conninfo(c->db_main.conninfo, "dbname", "m");
    assert_conninfo(c->db_state.conninfo, "dbname", "s");
    assert_int_equal(c->db_main.statement_timeout_ms, 5);
    assert_int_equal(c->db_state.statement_timeout_ms, 600000);
    config_free(&c);

    c = load("database:\ndatabases: {x: {name: psycopg2, args: {dbname: m}}}\n");
    assert_false(c->db_state_separate);
    assert_conninfo(c->db_state.conninfo, "dbname", "m");
    config_free(&c);
}

static void test_presence(void **state)
{
    static const struct {
        const char *more;
        bool enabled, tracked;
    } table[] = {
        {"presence: {enabled: true}\n", true, true},
        {"presence: {enabled: off}\n", false, false},
        {"presence: {enabled: untracked}\n", true, false},
        {"presence: {enabled: 'untracked'}\n", true, false},
        {"presence: {enabled: 0}\n", false, false},
        {"presence: {enabled: ''}\n", false, false},
        {"presence: {enabled: anything}\n", true, true},
        {"presence: {enabled: 'false'}\n", true, true},
        {"presence: {enabled: null}\nuse_presence: false\n", false, false},
        {"use_presence: false\n", false, false},
        {"presence: {enabled: true}\nuse_presence: false\n", true, true},
        {"presence:\n", true, true},
    };
    struct config *c;

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        c = load(table[i].more);
        assert_int_equal(c->presence.enabled, table[i].enabled);
        assert_int_equal(c->presence.tracked, table[i].tracked);
        config_free(&c);
    }
    c = load("presence: {last_active_granularity: 2m, sync_online_timeout: 45s, "
             "include_offline_users_on_sync: true}\n"
             "rc_presence: {per_user: {per_second: 5, burst_count: 2.5}}\nexclude_rooms_from_presence: "
             "['!a:b']\n");
    assert_int_equal(c->presence.last_active_granularity_ms, 120000);
    assert_int_equal(c->presence.sync_online_timeout_ms, 45000);
    assert_true(c->presence.include_offline_users_on_sync);
    assert_true(c->rc_presence_per_second > 4.9 && c->rc_presence_burst > 2.4 && c->rc_presence_burst < 2.6);
    assert_str(c->exclude_rooms_from_presence[0], "!a:b");
    config_free(&c);
}

static void test_other_keys(void **state)
{
    struct config *c =
        load("redis: {enabled: true, path: /run/redis.sock, dbid: '3', password: 'p w', "
             "use_tls: true, ca_file: /ca}\n"
             "matrix_authentication_service: {enabled: true, endpoint: 'https://mas/', "
             "secret: s, force_http2: true}\n"
             "experimental_features: {msc3861: {enabled: true}, msc4210_enabled: true, "
             "msc3874_enabled: true, msc4293_enabled: true, msc4354_enabled: true, msc4222_enabled: true, "
             "msc4155_enabled: true, msc4306_enabled: true, msc3664_enabled: true, "
             "msc1767_enabled: true, msc3381_polls_enabled: true, "
             "msc4028_push_encrypted_events: true}\n"
             "filter_timeline_limit: -1\ncaches: {sync_response_cache_duration: 5m, "
             "global_factor: 2}\n"
             "push: {enabled: false}\nhs_disabled: true\nhs_disabled_message: "
             "gone\nadmin_contact: mailto:a@b\n"
             "limit_usage_by_mau: true\nmax_mau_value: 50\nmau_trial_days: 2\n"
             "mau_appservice_trial_days: {irc: 3, xmpp: 0}\n"
             "server_notices: {system_mxid_localpart: notices}\nregistration_shared_secret: "
             "shared\n"
             "account_validity: {enabled: true}\ntrack_puppeted_user_ips: "
             "true\ntrack_appservice_user_ips: true\n"
             "exclude_rooms_from_sync: ['!x:y', '!z:y']\nenable_metrics: "
             "true\nallow_guest_access: true\n"
             "retention: {enabled: true, default_policy: {max_lifetime: 1w}}\nsome_unknown_key: {a: "
             "b}\nreport_stats: no\n"
             "chappe: {front_threads: 2, drain_ms: 5s, body_bytes_max: 2M, transport: uv, "
             "redis_verify_tls: no, log_level: null}\n");

    (void)state;
    assert_str(c->redis.path, "/run/redis.sock");
    assert_int_equal(c->redis.dbid, 3);
    assert_str(c->redis.password, "p w");
    assert_false(c->redis.use_tls);
    assert_true(c->mas.enabled && c->mas.force_http2);
    assert_str(c->mas.endpoint, "https://mas/");
    assert_str(c->mas.secret, "s");
    assert_true(c->msc4210_enabled && c->msc3874_enabled && c->msc4222_enabled && c->msc4354_enabled &&
                !c->msc2654_enabled);
    assert_true(c->msc4155_enabled && c->msc4306_enabled && c->msc3664_enabled && c->msc1767_enabled &&
                c->msc3381_polls_enabled && c->msc4028_push_encrypted_events);
    assert_true(c->msc4293_enabled && c->retention.enabled && c->retention.has_max_lifetime);
    assert_int_equal(c->retention.max_lifetime_ms, 604800000);
    assert_int_equal(c->filter_timeline_limit, -1);
    assert_int_equal(c->sync_response_cache_duration_ms, 300000);
    assert_true(c->cache_global_factor > 1.9 && !c->enable_push && c->hs_disabled && c->limit_usage_by_mau);
    assert_str(c->hs_disabled_message, "gone");
    assert_str(c->admin_contact, "mailto:a@b");
    assert_int_equal(c->max_mau_value, 50);
    assert_int_equal(c->mau_trial_days, 2);
    assert_int_equal(c->mau_appservice_trials_count, 2);
    assert_str(c->mau_appservice_trials[0].id, "irc");
    assert_int_equal(c->mau_appservice_trials[0].days, 3);
    assert_int_equal(c->mau_appservice_trials[1].days, 0);
    assert_str(c->server_notices_mxid, "@notices:example.com");
    assert_str(c->macaroon_secret_key, "shared");
    assert_true(c->account_validity && c->track_puppeted_user_ips && c->track_appservice_user_ips &&
                c->enable_metrics);
    assert_int_equal(c->exclude_rooms_from_sync_count, 2);
    assert_str(c->exclude_rooms_from_sync[1], "!z:y");
    assert_int_equal(c->front_threads, 2);
    assert_int_equal(c->drain_ms, 5000);
    assert_int_equal(c->body_bytes_max, 2 << 20);
    assert_str(c->transport, "uv");
    assert_false(c->redis_verify_tls);
    assert_str(c->log_level, "info");
    assert_int_equal(c->warnings_count, 0);
    config_free(&c);
}

static struct str printed(const struct config *c, struct buf *b)
{
    buf_init(b, 1 << 20);
    config_print(c, b);
    assert_false(b->failed);
    return buf_str(b);
}

static void test_print(void **state)
{
    static const char *const secrets[] = {"hunter1", "hunter2", "hunter3", "hunter4", "hunter5"};
    static const char *const wanted[] = {"worker_name: \"sync1\"",
                                         "password: \"********\"",
                                         "enabled: untracked",
                                         "front_threads: 3",
                                         "# Threads that own client sockets",
                                         "0..64 threads; default 0",
                                         "msc4210_enabled: true",
                                         "mode: 0660",
                                         "main:"};
    struct config *c =
        load("redis: {enabled: true, password: hunter1}\nworker_replication_secret: hunter2\n"
             "matrix_authentication_service: {enabled: true, secret: hunter3}\nmacaroon_secret_key: hunter4\n"
             "database:\n  name: psycopg2\n  args: {user: a, password: hunter5, host: \"we'ird\\\\\"}\n"
             "presence: {enabled: untracked}\nchappe: {front_threads: 3}\n"
             "server_notices: {system_mxid_localpart: notices}\nadmin_contact: \"a\\x01\\\"\\\\b: é\"\n"
             "experimental_features: {msc4210_enabled: on}\nstream_writers: {events: [w2, w3]}\n"
             "worker_listeners: [{type: http, path: /a, mode: 0660}, {type: metrics, port: 9}]\n");
    struct config *again;
    struct buf first, second;
    struct err e;

    (void)state;
    struct str text = printed(c, &first);
    buf_putc(&first, 0);
    for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++)
        assert_null(strstr(first.p, secrets[i]));
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!strstr(first.p, wanted[i]))
            fail_msg("\"%s\" is missing in:\n%s", wanted[i], first.p);
    again = config_load_text(text, &e);
    if (!again)
        fail_msg("%s in:\n%s", e.text, first.p);
    assert_str(again->server_notices_mxid, "@notices:example.com");
    assert_true(str_eq(again->admin_contact, c->admin_contact));
    assert_conninfo(again->db_main.conninfo, "host", "we'ird\\");
    struct str text2 = printed(again, &second);
    assert_true(str_eq(text, text2));
    buf_fini(&first);
    buf_fini(&second);
    config_free(&c);
    config_free(&again);
}

int run_config(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_refused_whole), cmocka_unit_test(test_warnings),
        cmocka_unit_test(test_listeners),     cmocka_unit_test(test_writers),
        cmocka_unit_test(test_push),          cmocka_unit_test(test_database),
        cmocka_unit_test(test_presence),      cmocka_unit_test(test_other_keys),
        cmocka_unit_test(test_print),
    };

    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
