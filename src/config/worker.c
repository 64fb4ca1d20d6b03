/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Who this worker is and where the others are: identity, listeners, instance_map, stream_writers, duties,
 * Redis.
 *
 * Chappe writes no stream, pushes nothing and runs no background job. A configuration that gives it such a
 * duty would leave the duty undone without anybody noticing, so it is refused; so are keys that Synapse
 * itself refuses.
 */
#include "config_int.h"

#include <stdlib.h>
#include <sys/un.h>

/* --- identity --- */

static const char *const legacy_apps[] = {
    "synapse.app.appservice",        "synapse.app.client_reader",
    "synapse.app.event_creator",     "synapse.app.federation_reader",
    "synapse.app.federation_sender", "synapse.app.frontend_proxy",
    "synapse.app.media_repository",  "synapse.app.pusher",
    "synapse.app.user_dir",
};

/* Before the newer keys existed, an application name and a switch made a worker the one that has the duty. */
static const struct {
    const char *app, *off_key, *new_key;
} legacy_duties[] = {
    {"synapse.app.pusher", "start_pushers", "pusher_instances"},
    {"synapse.app.federation_sender", "send_federation", "federation_sender_instances"},
    {"synapse.app.appservice", "notify_appservices", "notify_appservices_from_worker"},
    {"synapse.app.user_dir", "update_user_directory", "update_user_directory_from_worker"},
};

static void app_check(struct reader *r)
{
    const struct config *c = r->c;
    struct yaml *n = yaml_get(r->root, "worker_app");
    bool known = str_eq(c->worker_app, STR("synapse.app.generic_worker")) ||
                 str_eq(c->worker_app, STR("synapse.app.synchrotron"));

    if (c->worker_app.n == 0 || str_eq(c->worker_app, STR("synapse.app.homeserver"))) {
        config_fail(r, n,
                    "worker_app %s: this is the configuration of the main process. Give the worker's own "
                    "file too "
                    "(--config-path worker.yaml), with worker_app: synapse.app.generic_worker",
                    c->worker_app.n ? "is synapse.app.homeserver" : "is not set");
        return;
    }
    for (size_t i = 0; i < sizeof legacy_duties / sizeof *legacy_duties; i++) {
        bool on = true;
        read_bool(r, r->root, legacy_duties[i].off_key, &on);
        if (str_eq(c->worker_app, str_of(legacy_duties[i].app)) && !on &&
            yaml_is_null(yaml_get(r->root, legacy_duties[i].new_key)))
            config_fail(r, n,
                        "worker_app %s with %s: false gives this worker a duty that Chappe does not have: "
                        "name another "
                        "worker in %s and use worker_app: synapse.app.generic_worker",
                        legacy_duties[i].app, legacy_duties[i].off_key, legacy_duties[i].new_key);
    }
    for (size_t i = 0; i < sizeof legacy_apps / sizeof *legacy_apps; i++)
        if (str_eq(c->worker_app, str_of(legacy_apps[i]))) {
            config_warn(r, n, "worker_app %s: Chappe only serves sync, whatever this name promises",
                        legacy_apps[i]);
            known = true;
        }
    if (!known)
        config_fail(r, n, "worker_app %.*s is not known: use synapse.app.generic_worker",
                    STR_ARG(c->worker_app));
}

static void removed_keys_check(struct reader *r)
{
    static const char *const keys[] = {"worker_replication_host", "worker_replication_port",
                                       "worker_replication_http_port", "worker_replication_http_tls"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        struct yaml *n = yaml_get(r->root, keys[i]);
        bool on = true;
        read_bool(r, r->root, keys[i], &on);
        if (!yaml_is_null(n) && on)
            config_fail(r, n,
                        "%s is no longer used by Synapse: put the main process into instance_map under "
                        "\"main\" and "
                        "remove this key",
                        keys[i]);
    }
    if (!yaml_is_null(yaml_get(r->root, "worker_manhole")))
        config_warn(r, yaml_get(r->root, "worker_manhole"), "worker_manhole: Chappe has no manhole; ignored");
    if (!yaml_is_null(yaml_get(r->root, "worker_daemonize"))) {
        bool on = false;
        read_bool(r, r->root, "worker_daemonize", &on);
        if (on)
            config_warn(r, yaml_get(r->root, "worker_daemonize"),
                        "worker_daemonize: Chappe stays in the foreground; ignored");
    }
}

static void identity_read(struct reader *r)
{
    struct config *c = r->c;

    read_str(r, r->root, "server_name", &c->server_name);
    read_str(r, r->root, "worker_app", &c->worker_app);
    if (!r->failed && c->server_name.n == 0)
        config_fail(r, yaml_get(r->root, "server_name"),
                    "server_name is missing: give Synapse's homeserver.yaml with --config-path");
    if (r->failed)
        return;
    app_check(r);
    c->worker_name = c->worker_app;
    read_str(r, r->root, "worker_name", &c->worker_name);
    if (str_eq(c->worker_name, STR("master")) || str_eq(c->worker_name, STR("main")))
        config_fail(r, yaml_get(r->root, "worker_name"),
                    "worker_name %.*s is the main process' own name: choose another",
                    STR_ARG(c->worker_name));
    if (!r->failed && (c->worker_name.n == 0 || strpbrk(c->worker_name.p, " \t\r\n")))
        config_fail(r, yaml_get(r->root, "worker_name"), "worker_name must be one word");
    read_str(r, r->root, "worker_pid_file", &c->worker_pid_file);
    read_secret(r, r->root, "worker_replication_secret", "worker_replication_secret_path",
                &c->replication_secret);
    removed_keys_check(r);
}

/* --- listeners --- */

static void mode_read(struct reader *r, const struct yaml *n, struct config_listener *l)
{
    struct yaml *mode = yaml_get(n, "mode");
    int64_t v = 0666;
    struct str s;

    if (!yaml_is_null(mode) && !yaml_int(mode, &v)) {
        /* "0o666" is a string in YAML 1.1: what the writer meant is plain all the same. */
        s = mode->kind == YAML_SCALAR ? mode->text : STR_ABSENT;
        if (str_starts(s, STR("0o")))
            s = str_n(s.p + 2, s.n - 2);
        v = s.n == 0 || s.n > 4 ? -1 : 0;
        for (size_t i = 0; i < s.n && v >= 0; i++)
            v = s.p[i] >= '0' && s.p[i] <= '7' ? v * 8 + (s.p[i] - '0') : -1;
    }
    if (v < 0 || v > 0777)
        config_fail(r, mode, "worker_listeners.mode must be permissions in octal, like 0660");
    l->mode = (int)v;
}

static void bind_read(struct reader *r, const struct yaml *n, struct config_listener *l)
{
    struct str *list = NULL, one = STR_ABSENT;
    size_t count = 0;

    read_str_list(r, n, "worker_listeners.bind_addresses", &list, &count);
    read_str(r, n, "worker_listeners.bind_address", &one);
    l->bind = ARENA_ARRAY(r->a, struct str, count + 2);
    for (size_t i = 0; i < count; i++)
        l->bind[l->bind_count++] = list[i];
    if (one.n > 0)
        l->bind[l->bind_count++] = one;
    if (l->bind_count == 0 && !l->metrics)
        l->bind[l->bind_count++] = STR("::");
    if (l->bind_count == 0 || (l->bind_count == 1 && count == 0 && one.n == 0))
        l->bind[l->bind_count++] = STR("0.0.0.0");
}

static void resources_read(struct reader *r, const struct yaml *n, struct config_listener *l)
{
    struct yaml *resources = read_list(r, n, "worker_listeners.resources");
    bool named = false;

    for (size_t i = 0; resources && i < resources->count; i++) {
        struct str *names = NULL;
        size_t count = 0;
        read_str_list(r, resources->items[i], "worker_listeners.resources.names", &names, &count);
        named = named || count > 0;
        l->client = l->client || list_has(names, count, STR("client"));
        l->metrics_resource = l->metrics_resource || list_has(names, count, STR("metrics"));
    }
    l->client = l->client || !named;
    if (!yaml_is_null(yaml_get(n, "additional_resources")))
        config_warn(r, yaml_get(n, "additional_resources"),
                    "worker_listeners.additional_resources: Python modules are not run");
}

/* Where it listens; false when nothing came of it. */
static bool address_read(struct reader *r, const struct yaml *n, struct config_listener *l)
{
    int64_t port = -1;

    read_int(r, n, "worker_listeners.port", 0, 65535, &port);
    read_str(r, n, "worker_listeners.path", &l->path);
    if (r->failed)
        return false;
    if (l->path.n > 0 && port > 0)
        config_fail(r, n, "worker_listeners: \"port\" and \"path\" are both set: make two listeners of it");
    else if (l->path.n == 0 && port < 0)
        config_fail(r, n, "worker_listeners: a \"port\" or a \"path\" is needed");
    else if (l->path.n >= sizeof((struct sockaddr_un *)0)->sun_path)
        config_fail(r, n, "worker_listeners.path: longer than a UNIX socket's path can be (%zu bytes)",
                    sizeof((struct sockaddr_un *)0)->sun_path - 1);
    l->port = port > 0 ? (int)port : 0;
    return !r->failed;
}

static void listener_read(struct reader *r, const struct yaml *n)
{
    struct config_listener *l = &r->c->listeners[r->c->listeners_count];
    struct str type = STR_ABSENT;
    bool tls = false;

    if (n->kind != YAML_MAP) {
        config_fail(r, n, "worker_listeners: each entry must be a map");
        return;
    }
    read_str(r, n, "worker_listeners.type", &type);
    if (str_eq(type, STR("manhole"))) {
        config_warn(r, n, "worker_listeners: Chappe has no manhole; ignored");
        return;
    }
    l->metrics = str_eq(type, STR("metrics"));
    if (!r->failed && !l->metrics && !str_eq(type, STR("http")))
        config_fail(r, n, "worker_listeners.type must be http or metrics");
    read_bool(r, n, "worker_listeners.tls", &tls);
    if (tls)
        config_fail(r, yaml_get(n, "tls"),
                    "worker_listeners.tls: Chappe speaks no TLS to clients: let the reverse proxy do it");
    if (!address_read(r, n, l))
        return;
    mode_read(r, n, l);
    if (l->path.n == 0)
        bind_read(r, n, l);
    l->x_forwarded = l->path.n > 0;
    read_bool(r, n, "worker_listeners.x_forwarded", &l->x_forwarded);
    if (!l->metrics)
        resources_read(r, n, l);
    l->tag = l->path.n > 0 ? STR("unix") : arena_printf(r->a, "%d", l->port);
    if (l->path.n == 0)
        read_str(r, n, "worker_listeners.tag", &l->tag);
    read_str(r, n, "worker_listeners.request_id_header", &l->request_id_header);
    r->c->listeners_count++;
}

static void listeners_read(struct reader *r)
{
    struct yaml *list = read_list(r, r->root, "worker_listeners");
    bool client = false;

    if (list && list->count > 0)
        r->c->listeners = ARENA_ARRAY(r->a, struct config_listener, list->count);
    for (size_t i = 0; list && i < list->count && !r->failed; i++)
        listener_read(r, list->items[i]);
    for (size_t i = 0; i < r->c->listeners_count; i++)
        client = client || r->c->listeners[i].client;
    if (!client && !r->failed)
        config_warn(r, list,
                    "worker_listeners: no http listener with the resource \"client\": nobody will be served");
}

/* --- topology --- */

static void instance_read(struct reader *r, const struct yaml_pair *p)
{
    struct config_instance *in = &r->c->instances[r->c->instances_count++];
    int64_t port = 0;

    in->name = str_eq(p->key, STR("main")) ? STR("master") : p->key;
    if (p->value->kind != YAML_MAP) {
        config_fail(r, p->key_node, "instance_map.%.*s must be a map with host and port, or path",
                    STR_ARG(p->key));
        return;
    }
    read_str(r, p->value, "instance_map.host", &in->host);
    read_int(r, p->value, "instance_map.port", 1, 65535, &port);
    read_bool(r, p->value, "instance_map.tls", &in->tls);
    read_str(r, p->value, "instance_map.path", &in->path);
    in->port = (int)port;
    if (!r->failed && in->path.n == 0 && (in->host.n == 0 || in->port == 0))
        config_fail(r, p->key_node, "instance_map.%.*s needs host and port, or path", STR_ARG(p->key));
}

static void instance_map_read(struct reader *r)
{
    struct yaml *map = read_map(r, r->root, "instance_map");

    if (r->failed)
        return;
    if (yaml_is_null(yaml_get(map, "main"))) {
        config_fail(r, map,
                    "instance_map must contain \"main\", with the host and port of the main process' "
                    "replication listener");
        return;
    }
    r->c->instances = ARENA_ARRAY(r->a, struct config_instance, map->count);
    for (size_t i = 0; i < map->count; i++)
        if (yaml_get(map, map->pairs[i].key.p) == map->pairs[i].value && !r->failed)
            instance_read(r, &map->pairs[i]);
}

const struct writer_key writer_keys[WRITERS_COUNT] = {
    [WRITERS_EVENTS] = {"events", false, true},
    [WRITERS_TYPING] = {"typing", true, true},
    [WRITERS_TO_DEVICE] = {"to_device", true, true},
    [WRITERS_ACCOUNT_DATA] = {"account_data", true, true},
    [WRITERS_RECEIPTS] = {"receipts", false, true},
    [WRITERS_PRESENCE] = {"presence", true, true},
    [WRITERS_PUSH_RULES] = {"push_rules", true, true},
    [WRITERS_DEVICE_LISTS] = {"device_lists", false, false},
    [WRITERS_THREAD_SUBSCRIPTIONS] = {"thread_subscriptions", false, false},
    [WRITERS_QUARANTINED_MEDIA] = {"quarantined_media_changes", false, false},
};

static void writer_read(struct reader *r, const struct yaml *map, const struct writer_key *k,
                        struct config_writers *w)
{
    struct yaml *n = yaml_get(map, k->name);

    if (yaml_is_null(n) || n->kind == YAML_SCALAR) {
        w->names = ARENA_NEW(r->a, struct str);
        w->names[0] = yaml_is_null(n) ? STR("master") : n->text;
        w->count = 1;
    } else {
        read_str_list(r, map, arena_printf(r->a, "stream_writers.%s", k->name).p, &w->names, &w->count);
    }
    if (r->failed)
        return;
    if (w->count == 0 || (k->single && w->count != 1))
        config_fail(r, n, "stream_writers.%s must name %s instance", k->name,
                    k->single ? "exactly one" : "at least one");
    for (size_t i = 0; i < w->count; i++) {
        if (str_eq(w->names[i], r->c->worker_name))
            config_fail(r, n,
                        "stream_writers.%s names this worker (%.*s), but Chappe writes no stream: name "
                        "another worker",
                        k->name, STR_ARG(w->names[i]));
        if (k->in_map && !str_eq(w->names[i], STR("master")) && !config_instance_find(r->c, w->names[i]))
            config_fail(
                r, n, "stream_writers.%s: %.*s is not in instance_map%s", k->name, STR_ARG(w->names[i]),
                str_eq(w->names[i], STR("main")) ? " (the main process is called \"master\" here)" : "");
    }
}

static void writers_read(struct reader *r)
{
    struct yaml *map = read_map(r, r->root, "stream_writers");

    for (int k = 0; k < WRITERS_COUNT && !r->failed; k++)
        writer_read(r, map, &writer_keys[k], &r->c->writers[k]);
    for (size_t i = 0; map && i < map->count; i++) {
        bool known = false;
        for (int k = 0; k < WRITERS_COUNT; k++)
            known = known || str_eq(map->pairs[i].key, str_of(writer_keys[k].name));
        if (!known)
            config_warn(r, map->pairs[i].key_node, "stream_writers.%.*s is not known; ignored",
                        STR_ARG(map->pairs[i].key));
    }
}

static void duties_check(struct reader *r)
{
    static const char *const keys[] = {
        "run_background_tasks_on",           "notify_appservices_from_worker",
        "update_user_directory_from_worker", "media_instance_running_background_jobs",
        "federation_sender_instances",       "outbound_federation_restricted_to",
    };

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        struct yaml *n = yaml_get(r->root, keys[i]);
        bool us = n && n->kind == YAML_SCALAR && str_eq(n->text, r->c->worker_name);
        for (size_t j = 0; n && n->kind == YAML_LIST && j < n->count; j++)
            us = us || (n->items[j]->kind == YAML_SCALAR && str_eq(n->items[j]->text, r->c->worker_name));
        if (us)
            config_fail(r, n, "%s names this worker (%.*s), but Chappe only serves sync: name another worker",
                        keys[i], STR_ARG(r->c->worker_name));
    }
}

/* --- Redis --- */

static void redis_read(struct reader *r)
{
    struct config *c = r->c;
    struct yaml *map = read_map(r, r->root, "redis");
    bool enabled = false;
    int64_t port = c->redis.port, dbid = 0;

    read_bool(r, map, "redis.enabled", &enabled);
    if (!enabled)
        config_fail(r, map, "redis.enabled must be true: workers need Redis");
    read_str(r, map, "redis.host", &c->redis.host);
    read_str(r, map, "redis.path", &c->redis.path);
    read_int(r, map, "redis.port", 1, 65535, &port);
    read_int(r, map, "redis.dbid", 0, INT32_MAX, &dbid);
    read_secret(r, map, "redis.password", "redis.password_path", &c->redis.password);
    read_bool(r, map, "redis.use_tls", &c->redis.use_tls);
    read_str(r, map, "redis.ca_file", &c->redis.ca_file);
    read_str(r, map, "redis.ca_path", &c->redis.ca_path);
    read_str(r, map, "redis.certificate_file", &c->redis.certificate_file);
    read_str(r, map, "redis.private_key_file", &c->redis.private_key_file);
    c->redis.port = (int)port;
    c->redis.dbid = (int)dbid;
    if (c->redis.path.n > 0) /* wins over TLS, as in Synapse */
        c->redis.use_tls = false;
}

void worker_read(struct reader *r)
{
    identity_read(r);
    if (!r->failed)
        redis_read(r);
    if (!r->failed)
        instance_map_read(r);
    if (!r->failed)
        writers_read(r);
    if (!r->failed)
        duties_check(r);
    if (!r->failed)
        listeners_read(r);
}
