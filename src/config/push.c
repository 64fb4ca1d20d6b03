/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What the push worker needs of Synapse's configuration (1.157: config/push.py, config/workers.py,
 * config/server.py): whose pushers are ours, what notifications contain, and where requests to gateways may
 * go.
 */
#include "config_int.h"

#include <stdlib.h>

/* Synapse's default list: everything that is not the public internet. */
static const char *const BLOCKED[] = {
    "127.0.0.0/8",     "10.0.0.0/8",     "172.16.0.0/12",  "192.168.0.0/16", "100.64.0.0/10",
    "192.0.0.0/24",    "169.254.0.0/16", "192.88.99.0/24", "198.18.0.0/15",  "192.0.2.0/24",
    "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",    "::1/128",        "fe80::/10",
    "fc00::/7",        "2001:db8::/32",  "ff00::/8",       "fec0::/10",
};

/* By the names that Synapse reads: a list under another name protects nothing there, and shall permit nothing
 * here. */
static void ranges_read(struct reader *r, const char *name, const char *const *defaults,
                        size_t defaults_count, struct ip_range **out, size_t *count)
{
    struct str *texts = NULL;
    size_t n = 0;

    read_str_list(r, r->root, name, &texts, &n);
    if (yaml_is_null(yaml_get(r->root, name)) && defaults) {
        texts = ARENA_ARRAY(r->a, struct str, defaults_count);
        for (n = 0; n < defaults_count; n++)
            texts[n] = str_of(defaults[n]);
    }
    *out = ARENA_ARRAY(r->a, struct ip_range, n + 1);
    for (size_t i = 0; i < n && !r->failed; i++)
        if (ip_range_parse(texts[i], &(*out)[(*count)++]))
            config_fail(r, yaml_get(r->root, name), "%s: %.*s is not an address range", name,
                        STR_ARG(texts[i]));
}

/* A list of names, a single name, or nothing: then every pusher is the main process's (or, with
 * start_pushers: false, somebody's who is not said). */
static void instances_read(struct reader *r)
{
    struct config *c = r->c;

    c->push.index = -1;
    struct yaml *n = yaml_get(r->root, "pusher_instances");
    if (n && n->kind == YAML_SCALAR && !yaml_is_null(n)) {
        c->push.instances = ARENA_NEW(r->a, struct str);
        c->push.instances[0] = n->text;
        c->push.instances_count = 1;
    } else {
        read_str_list(r, r->root, "pusher_instances", &c->push.instances, &c->push.instances_count);
    }
    for (size_t i = 0; i < c->push.instances_count && c->push.index < 0; i++)
        if (str_eq(c->push.instances[i], c->worker_name))
            c->push.index = (int)i;
}

static void proxies_read(struct reader *r)
{
    struct config *c = r->c;
    struct {
        const char *key, *lower, *upper;
        struct str *out;
    } const proxies[] = {
        {"http_proxy", "http_proxy", NULL, &c->push.http_proxy}, /* HTTP_PROXY: CGI's own trap */
        {"https_proxy", "https_proxy", "HTTPS_PROXY", &c->push.https_proxy}};

    for (size_t i = 0; i < 2; i++) {
        const char *env = getenv(proxies[i].lower);
        env = env || !proxies[i].upper ? env : getenv(proxies[i].upper);
        if (env)
            *proxies[i].out = arena_str(r->a, str_of(env));
        read_str(r, r->root, proxies[i].key, proxies[i].out);
        if (proxies[i].out->n && !memmem(proxies[i].out->p, proxies[i].out->n, "://", 3))
            *proxies[i].out = arena_printf(r->a, "http://%.*s", STR_ARG(*proxies[i].out));
    }
    const char *no = getenv("no_proxy");
    no = no ? no : getenv("NO_PROXY");
    struct yaml *hosts = yaml_get(r->root, "no_proxy_hosts");
    if (hosts && !yaml_is_null(hosts)) {
        read_str_list(r, r->root, "no_proxy_hosts", &c->push.no_proxy, &c->push.no_proxy_count);
    } else if (no) {
        struct str rest = arena_str(r->a, str_of(no)), one;
        c->push.no_proxy = ARENA_ARRAY(r->a, struct str, rest.n + 1);
        for (bool more = true; more && rest.n;) {
            more = str_cut(rest, ',', &one, &rest);
            one = str_trim(one);
            if (one.n)
                c->push.no_proxy[c->push.no_proxy_count++] = one;
        }
    }
}

void push_read(struct reader *r)
{
    struct config *c = r->c;
    struct yaml *push = read_map(r, r->root, "push"), *email = read_map(r, r->root, "email");
    struct yaml *redact = yaml_get(email, "redact_content");
    bool redacted = false;

    read_bool(r, push, "push.enabled", &c->enable_push);
    read_bool(r, push, "push.include_content", &c->push.include_content);
    if (redact && !yaml_is_null(redact)) { /* the older name of the same thing wins */
        read_bool(r, email, "email.redact_content", &redacted);
        c->push.include_content = !redacted;
    }
    read_bool(r, push, "push.group_unread_count_by_room", &c->push.group_unread_count_by_room);
    read_duration(r, push, "push.jitter_delay", &c->push.jitter_ms);
    read_bool(r, email, "email.enable_notifs", &c->push.email_notifs);
    read_bool(r, read_map(r, r->root, "experimental_features"), "experimental_features.msc4076_enabled",
              &c->push.msc4076);
    read_str(r, r->root, "user_agent_suffix", &c->push.user_agent_suffix);
    if (!r->failed)
        instances_read(r);
    if (!r->failed)
        proxies_read(r);
    if (!r->failed)
        ranges_read(r, "ip_range_blacklist", BLOCKED, sizeof BLOCKED / sizeof *BLOCKED, &c->push.ip_block,
                    &c->push.ip_block_count);
    if (!r->failed)
        ranges_read(r, "ip_range_whitelist", NULL, 0, &c->push.ip_allow, &c->push.ip_allow_count);
}
