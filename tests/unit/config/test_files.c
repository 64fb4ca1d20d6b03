/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Files: shallow merge in order, directories, secrets, registration files, logging configuration, and a pair
 * of files as an operator would have them.
 */
#include "test_config.h"
#include "support/temp_dir.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];
static VEC(char *) made;

static int setup(void **state)
{
    (void)state;
    return temp_dir(dir, sizeof dir, "config") ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    while (made.n > 0) {
        char *path = made.v[--made.n];
        remove(path);
        free(path);
    }
    vec_free(&made);
    return rmdir(dir);
}

/* Its path, which lives until the group ends. */
static const char *path_of(const char *name)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    char *copy = strdup(path);
    vec_push(&made, copy);
    return copy;
}

static const char *file(const char *name, const char *text)
{
    const char *path = path_of(name);
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

static const char *directory(const char *name)
{
    const char *path = path_of(name);

    assert_int_equal(mkdir(path, 0700), 0);
    return path;
}

static struct config *load_files(const char *const *paths, size_t n)
{
    struct err e = {""};
    struct config *c = config_load(paths, n, &e);

    if (!c)
        fail_msg("%s", e.text);
    return c;
}

/* The error must end in text and begin with the file's path (and ":<line>: " if line). */
static void assert_refused(const char *const *paths, size_t n, const char *path, int line, const char *text)
{
    struct err e = {""};
    char start[600] = "";

    assert_null(config_load(paths, n, &e));
    if (line)
        snprintf(start, sizeof start, "%s:%d: ", path, line);
    if (strncmp(e.text, start, strlen(start)) != 0 || !strstr(e.text, text))
        fail_msg("\"%s\" instead of \"%s…%s\"", e.text, start, text);
}

static void test_merge(void **state)
{
    const char *one = file("one.yaml", BASE "presence: {enabled: false, sync_online_timeout: "
                                            "40s}\nhs_disabled: true\n");
    const char *two = file("two.yaml", "presence: {last_active_granularity: 2m}\nworker_name: "
                                       "other\nhs_disabled:\n");
    const char *empty = file("empty.yaml", "# nothing\n");
    const char *list = file("list.yaml", "- a\n");
    struct config *c = load_files((const char *[]){one, empty, list, two}, 4);

    (void)state;
    assert_true(c->presence.enabled); /* the whole section was replaced */
    assert_int_equal(c->presence.sync_online_timeout_ms, 30000);
    assert_int_equal(c->presence.last_active_granularity_ms, 120000);
    assert_str(c->worker_name, "other");
    assert_false(c->hs_disabled); /* replaced by null: the default */
    assert_int_equal(c->warnings_count, 2);
    assert_true(has_warning(c, "empty.yaml: no keys"));
    assert_true(has_warning(c, "list.yaml:1: no keys"));
    config_free(&c);
    const char *bad = file("bad.yaml", "\n\nredis: {enabled: true, port: x}\n");
    assert_refused((const char *[]){one, bad}, 2, bad, 3, "redis.port must be an integer");
    assert_refused((const char *[]){one, "/nowhere/x.yaml"}, 2, "", 0, "cannot open /nowhere/x.yaml");
    assert_refused(NULL, 0, "", 0, "server_name is missing");
}

static void test_directory(void **state)
{
    const char *d = directory("conf.d");
    struct config *c;

    (void)state;
    file("conf.d/20.yaml", "worker_name: twenty\nadmin_contact: a\n");
    file("conf.d/10.yaml", BASE);
    file("conf.d/30.yml", "worker_name: not read\n");
    file("conf.d/40.yaml.bak", "worker_name: [\n");
    directory("conf.d/50.yaml");
    c = load_files((const char *[]){d}, 1);
    assert_str(c->worker_name, "twenty");
    assert_str(c->admin_contact, "a");
    config_free(&c);
    c = load_files((const char *[]){d, file("after.yaml", "worker_name: last\n")}, 2);
    assert_str(c->worker_name, "last");
    config_free(&c);
}

static void test_secret_files(void **state)
{
    char text[2048];
    struct config *c;

    (void)state;
    file("secret", "  s3cret value\r\n\n");
    file("empty-secret", "\n");
    snprintf(text, sizeof text,
             BASE "worker_replication_secret_path: %s/secret\nredis: {enabled: true, password_path: "
                  "%s/secret}\n"
                  "matrix_authentication_service: {enabled: true, secret_path: %s/secret}\n"
                  "macaroon_secret_key_path: %s/empty-secret\nregistration_shared_secret_path: %s/secret\n",
             dir, dir, dir, dir, dir);
    c = load_files((const char *[]){file("secrets.yaml", text)}, 1);
    assert_str(c->replication_secret, "s3cret value");
    assert_str(c->redis.password, "s3cret value");
    assert_str(c->mas.secret, "s3cret value");
    assert_str(c->macaroon_secret_key, "s3cret value");
    config_free(&c);
}

#define AS_HEAD "id: irc\nas_token: at\nhs_token: ht\nurl: null\nsender_localpart: ircbot\n"

static void test_app_services(void **state)
{
    const char *irc = file("irc.yaml", AS_HEAD "rate_limited: false\nnamespaces:\n  users:\n"
                                               "  - {regex: '@_irc_.*', exclusive: true}\n  - {regex: '@x', "
                                               "exclusive: no}\n"
                                               "  rooms: []\nip_range_whitelist: [10.0.0.0/8, '::1']\n");
    const char *sms = file("sms.yaml", "id: sms\nas_token: at2\nhs_token: h\nurl: "
                                       "http://x\nsender_localpart: s\nnamespaces: {}\n"
                                       "ip_range_whitelist: []\n");
    char text[2048];

    (void)state;
    snprintf(text, sizeof text, BASE "app_service_config_files: ['%s', '%s']\n", irc, sms);
    struct config *c = load_files((const char *[]){file("as.yaml", text)}, 1);
    assert_int_equal(c->app_services_count, 2);
    const struct config_app_service *as = c->app_services;
    assert_str(as->id, "irc");
    assert_str(as->as_token, "at");
    assert_str(as->sender_localpart, "ircbot");
    assert_int_equal(as->users_count, 2);
    assert_str(as->users[0].pattern, "@_irc_.*");
    assert_true(as->users[0].exclusive && !as->users[1].exclusive && !as->rate_limited &&
                as->has_ip_range_whitelist);
    assert_int_equal(as->ip_range_whitelist_count, 2);
    assert_true(as[1].rate_limited && !as[1].has_ip_range_whitelist && as[1].users_count == 0);
    config_free(&c);
}

static void test_bad_app_services(void **state)
{
    static const struct {
        const char *text;
        int line;
        const char *error;
    } table[] = {
        {"as_token: at\nhs_token: ht\nurl: null\nsender_localpart: s\nnamespaces: {}\n", 1,
         "id must be a string"},
        {"id: a\nas_token: 5\nhs_token: ht\nurl: null\nsender_localpart: s\nnamespaces: {}\n", 2,
         "as_token must be a string"},
        {"id: a\nas_token: at\nhs_token: ht\nsender_localpart: s\nnamespaces: {}\n", 1, "url must be"},
        {"id: a\nas_token: at\nhs_token: ht\nurl: null\nsender_localpart: 's p'\nnamespaces: {}\n", 5,
         "URL encoding"},
        {AS_HEAD, 1, "\"namespaces\" is needed"},
        {AS_HEAD "namespaces: []\n", 6, "must be a map"},
        {AS_HEAD "namespaces: {users: {}}\n", 6, "must be a list"},
        {AS_HEAD "namespaces:\n  users:\n  - {exclusive: true}\n", 8, "\"regex\""},
        {AS_HEAD "namespaces:\n  users:\n  - {regex: a}\n", 8, "\"exclusive\""},
        {AS_HEAD "namespaces: {}\nip_range_whitelist: x\n", 7, "must be a list"},
        {"id: irc\nas_token: other\nhs_token: ht\nurl: null\nsender_localpart: s\nnamespaces: {}\n", 1,
         "has the id irc too"},
        {"id: b\nas_token: at\nhs_token: ht\nurl: null\nsender_localpart: s\nnamespaces: {}\n", 2,
         "same as_token"},
        {"id: [}", 1, "while parsing"},
        {"\n\nid: a: b\n", 3, "mapping values"},
    };
    const char *good = file("good-as.yaml", AS_HEAD "namespaces: {}\n");

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char text[2048];
        const char *bad = file("bad-as.yaml", table[i].text);
        snprintf(text, sizeof text, BASE "app_service_config_files: ['%s', '%s']\n", good, bad);
        assert_refused((const char *[]){file("as2.yaml", text)}, 1, bad, table[i].line, table[i].error);
    }
    char text[2048];
    snprintf(text, sizeof text, BASE "app_service_config_files: ['%s']\n", file("no-as.yaml", "just text\n"));
    const char *path = file("as3.yaml", text);
    assert_refused((const char *[]){path}, 1, path, BASE_LINES + 1, "is not a registration file");
}

static void test_log_config(void **state)
{
    char text[2048];
    const char *log_path = file("log.yaml", "version: 1\nroot: {level: WARNING, handlers: [console]}\n");
    struct config *c;

    (void)state;
    snprintf(text, sizeof text, BASE "log_config: /nowhere\nworker_log_config: %s\n", log_path);
    c = load_files((const char *[]){file("l.yaml", text)}, 1);
    assert_str(c->log_level, "warning");
    config_free(&c);
    snprintf(text, sizeof text, BASE "log_config: %s\nchappe: {log_level: debug}\n", log_path);
    c = load_files((const char *[]){file("l.yaml", text)}, 1);
    assert_str(c->log_level, "debug");
    config_free(&c);
}

static const char homeserver[] = "# Main configuration, shared by all processes.\n"
                                 "server_name: \"chat.example.org\"\n"
                                 "pid_file: /var/run/matrix-synapse.pid\n"
                                 "public_baseurl: https://matrix.example.org/\n"
                                 "listeners:\n"
                                 "  - port: 8008\n"
                                 "    tls: false\n"
                                 "    type: http\n"
                                 "    x_forwarded: true\n"
                                 "    bind_addresses: ['::1', '127.0.0.1']\n"
                                 "    resources:\n"
                                 "      - names: [client, federation]\n"
                                 "        compress: false\n"
                                 "  - port: 9093\n"
                                 "    bind_address: 127.0.0.1\n"
                                 "    type: http\n"
                                 "    resources: [{names: [replication]}]\n"
                                 "database:\n"
                                 "  name: psycopg2\n"
                                 "  txn_limit: 10000\n"
                                 "  args:\n"
                                 "    user: synapse_user\n"
                                 "    password: correct horse battery staple\n"
                                 "    dbname: synapse\n"
                                 "    host: localhost\n"
                                 "    port: 5432\n"
                                 "    cp_min: 5\n"
                                 "    cp_max: 10\n"
                                 "log_config: \"/etc/matrix-synapse/log.yaml\"\n"
                                 "media_store_path: /var/lib/matrix-synapse/media\n"
                                 "uploads_path: \"/var/lib/uploads\"\n"
                                 "max_upload_size: 50M\n"
                                 "url_preview_enabled: true\n"
                                 "url_preview_ip_range_blacklist: ['127.0.0.0/8', '10.0.0.0/8', "
                                 "\"::1/128\"]\n"
                                 "turn_uris: [ \"turn:turn.example.org?transport=udp\" ]\n"
                                 "turn_user_lifetime: 1h\n"
                                 "enable_registration: false\n"
                                 "registration_shared_secret: \"abc#def\"\n"
                                 "macaroon_secret_key: \"&key:with *odd @chars\"\n"
                                 "form_secret: 'x''y'\n"
                                 "signing_key_path: \"/etc/matrix-synapse/homeserver.signing.key\"\n"
                                 "trusted_key_servers:\n"
                                 "  - server_name: \"matrix.org\"\n"
                                 "suppress_key_server_warning: true\n"
                                 "report_stats: false\n"
                                 "password_config: {enabled: true, localdb_enabled: true}\n"
                                 "email:\n"
                                 "  smtp_host: mail.example.org\n"
                                 "  notif_from: \"Your Friendly %(app)s <noreply@example.org>\"\n"
                                 "rc_message: {per_second: 0.5, burst_count: 15}\n"
                                 "rc_login: {address: {per_second: 0.003, burst_count: 5}}\n"
                                 "presence:\n"
                                 "  enabled: true\n"
                                 "caches:\n"
                                 "  global_factor: 2.0\n"
                                 "  per_cache_factors: {get_users_who_share_room_with_user: 3.0}\n"
                                 "  expire_caches: true\n"
                                 "  cache_entry_ttl: 30m\n"
                                 "  sync_response_cache_duration: 2m\n"
                                 "redis:\n"
                                 "  enabled: true\n"
                                 "  host: 127.0.0.1\n"
                                 "  dbid: 1\n"
                                 "instance_map: &instances\n"
                                 "  main: {host: localhost, port: 9093}\n"
                                 "  persister1: {host: localhost, port: 9101, tls: no}\n"
                                 "  persister2:\n"
                                 "    path: /run/matrix/persister2.sock\n"
                                 "  typer: {host: localhost, port: 9103}\n"
                                 "stream_writers:\n"
                                 "  events:\n"
                                 "    - persister1\n"
                                 "    - persister2\n"
                                 "  typing: typer\n"
                                 "pusher_instances: [pusher1]\n"
                                 "federation_sender_instances: [sender1, sender2]\n"
                                 "worker_replication_secret: \"lots of entropy\"\n"
                                 "experimental_features:\n"
                                 "  msc3266_enabled: true\n"
                                 "  msc4140_enabled: true\n"
                                 "serve_server_wellknown: true\n"
                                 "...\n";

static const char worker[] = "worker_app: synapse.app.generic_worker\n"
                             "worker_name: sync_worker_1\n"
                             "worker_main_http_uri: http://localhost:8008\n"
                             "worker_listeners:\n"
                             "  - type: http\n"
                             "    port: 8083\n"
                             "    x_forwarded: true\n"
                             "    resources:\n"
                             "      - names: [client, federation]\n"
                             "  - type: metrics\n"
                             "    port: 9183\n"
                             "    bind_addresses: ['127.0.0.1']\n"
                             "worker_pid_file: /run/sync1.pid\n"
                             "chappe:\n"
                             "  model_memory_mb: 2048\n";

static void test_realistic(void **state)
{
    struct config *c =
        load_files((const char *[]){file("homeserver.yaml", homeserver), file("worker.yaml", worker)}, 2);

    (void)state;
    assert_str(c->server_name, "chat.example.org");
    assert_str(c->worker_name, "sync_worker_1");
    assert_str(c->worker_pid_file, "/run/sync1.pid");
    assert_str(c->db_main.conninfo, "user='synapse_user' password='correct horse battery staple' "
                                    "dbname='synapse' "
                                    "host='localhost' port='5432'");
    assert_str(c->replication_secret, "lots of entropy");
    assert_str(c->macaroon_secret_key, "&key:with *odd @chars");
    assert_int_equal(c->instances_count, 4);
    assert_str(config_instance_find(c, STR("persister2"))->path, "/run/matrix/persister2.sock");
    assert_int_equal(c->writers[WRITERS_EVENTS].count, 2);
    assert_str(c->writers[WRITERS_TYPING].names[0], "typer");
    assert_int_equal(c->listeners_count, 2);
    assert_true(c->listeners[0].client && c->listeners[1].metrics);
    assert_int_equal(c->redis.dbid, 1);
    assert_int_equal(c->model_memory_mb, 2048);
    assert_int_equal(c->warnings_count, 1); /* the log configuration does not exist here */
    assert_true(has_warning(c, "log_config"));
    config_free(&c);
}

int run_files(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merge),
        cmocka_unit_test(test_directory),
        cmocka_unit_test(test_secret_files),
        cmocka_unit_test(test_app_services),
        cmocka_unit_test(test_bad_app_services),
        cmocka_unit_test(test_log_config),
        cmocka_unit_test(test_realistic),
    };

    return cmocka_run_group_tests_name("files", tests, setup, teardown);
}
