/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Registration files of application services, named by app_service_config_files. Checked as Synapse checks
 * them where the check can matter here; patterns are compiled by the module that uses them.
 */
#include "config_int.h"

#include <stdlib.h>

enum { REGISTRATION_FILE_MAX = 1 << 20 };

static void required(struct reader *r, const struct yaml *doc, const char *name, struct str *out)
{
    struct yaml *n = yaml_get(doc, name);

    if (!n || n->kind != YAML_SCALAR || !yaml_is_string(n) || n->text.n == 0)
        config_fail(r, n ? n : doc, "application service: %s must be a string", name);
    else
        *out = n->text;
}

/* What may stand in a URL path unescaped: the localpart must not need quoting. */
static bool localpart_ok(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              (c && strchr("_.-~/", c))))
            return false;
    }
    return true;
}

static void namespaces_read(struct reader *r, const struct yaml *doc, struct config_app_service *as)
{
    struct yaml *namespaces = read_map(r, doc, "namespaces");
    struct yaml *users = read_list(r, namespaces, "namespaces.users");

    if (!namespaces && !r->failed)
        config_fail(r, doc, "application service: a map \"namespaces\" is needed");
    if (!users || users->count == 0)
        return;
    as->users = ARENA_ARRAY(r->a, struct config_regex, users->count);
    for (size_t i = 0; i < users->count && !r->failed; i++) {
        struct yaml *n = users->items[i], *regex = yaml_get(n, "regex");
        struct config_regex *entry = &as->users[as->users_count];
        if (!regex || regex->kind != YAML_SCALAR || yaml_is_null(regex)) {
            config_fail(r, n, "application service: namespaces.users needs a string \"regex\" in each entry");
        } else if (!yaml_bool(yaml_get(n, "exclusive"), &entry->exclusive)) {
            config_fail(r, n,
                        "application service: namespaces.users needs \"exclusive\", true or false, in each "
                        "entry");
        } else {
            entry->pattern = regex->text;
            as->users_count++;
        }
    }
}

static void unique(struct reader *r, const struct yaml *doc, const struct config_app_service *as)
{
    for (const struct config_app_service *other = r->c->app_services; other < as; other++) {
        if (str_eq(other->id, as->id))
            config_fail(r, yaml_get(doc, "id"), "application service: another one has the id %.*s too",
                        STR_ARG(as->id));
        if (str_eq(other->as_token, as->as_token))
            config_fail(r, yaml_get(doc, "as_token"), "application service: %.*s has the same as_token",
                        STR_ARG(other->id));
    }
}

static void registration_read(struct reader *r, const struct yaml *doc, struct config_app_service *as)
{
    struct str hs_token;
    struct yaml *url = yaml_get(doc, "url"), *limited = yaml_get(doc, "rate_limited");

    required(r, doc, "id", &as->id);
    required(r, doc, "as_token", &as->as_token);
    required(r, doc, "hs_token", &hs_token);
    required(r, doc, "sender_localpart", &as->sender_localpart);
    if (!url || (!yaml_is_null(url) && url->kind != YAML_SCALAR))
        config_fail(r, url ? url : doc, "application service: url must be a string, or null");
    if (!r->failed && !localpart_ok(as->sender_localpart))
        config_fail(r, yaml_get(doc, "sender_localpart"),
                    "application service: sender_localpart has characters that need URL encoding");
    as->rate_limited = true;
    (void)yaml_bool(limited, &as->rate_limited);
    namespaces_read(r, doc, as);
    read_str_list(r, doc, "ip_range_whitelist", &as->ip_range_whitelist, &as->ip_range_whitelist_count);
    as->has_ip_range_whitelist = as->ip_range_whitelist_count > 0;
    if (!r->failed)
        unique(r, doc, as);
}

void app_services_read(struct reader *r)
{
    struct config *c = r->c;
    struct yaml *files = read_list(r, r->root, "app_service_config_files");

    read_str_list(r, r->root, "app_service_config_files", &c->app_service_files, &c->app_service_files_count);
    if (!files || files->count == 0)
        return;
    c->app_services = ARENA_ARRAY(r->a, struct config_app_service, files->count);
    for (size_t i = 0; i < c->app_service_files_count && !r->failed; i++) {
        struct str text;
        struct yaml *doc = NULL;
        struct err e;
        if (file_read(r->a, c->app_service_files[i].p, REGISTRATION_FILE_MAX, true, &text, &e) < 0)
            config_fail(r, files->items[i], "app_service_config_files: %s", e.text);
        else if (yaml_parse(r->a, c->app_service_files[i].p, text, &doc, &e) < 0)
            config_fail(r, NULL, "%s", e.text);
        else if (!doc || doc->kind != YAML_MAP)
            config_fail(r, files->items[i], "app_service_config_files: %.*s is not a registration file",
                        STR_ARG(c->app_service_files[i]));
        else
            registration_read(r, doc, &c->app_services[c->app_services_count++]);
    }
}
