/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Loading: files and directories in order, a shallow merge of their top-level keys, then one function per
 * section.
 *
 * The configuration and everything it points to live in one arena, together with the YAML trees (some tens of
 * kilobytes for a real deployment), so freeing is one call and slices of scalars need no copy. Keys of
 * Synapse that do not concern a sync worker are ignored in silence: there are hundreds, and the files are the
 * operator's own.
 */
#include "config_int.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { CONFIG_FILE_MAX = 16 << 20 };
#define CONFIG_ARENA_MAX ((size_t)1 << 30)

struct config_box {
    struct config c; /* first: a struct config is the beginning of its box */
    struct arena *a;
};

static void defaults_set(struct config *c)
{
    c->redis.host = STR("localhost");
    c->redis.port = 6379;
    c->mas.endpoint = STR("http://localhost:8080");
    c->presence.enabled = c->presence.tracked = true;
    c->presence.last_active_granularity_ms = 60000;
    c->presence.sync_online_timeout_ms = 30000;
    c->rc_presence_per_second = 0.1;
    c->rc_presence_burst = 1;
    c->filter_timeline_limit = 100;
    c->sync_response_cache_duration_ms = 120000;
    c->cache_global_factor = 0.5;
    c->enable_push = true;
    c->push.include_content = c->push.group_unread_count_by_room = true;
#define OPT_INT(field, deflt, min, max, unit, doc) c->field = (deflt);
#define OPT_BOOL(field, deflt, doc)                c->field = (deflt);
#define OPT_ENUM(field, deflt, choices, doc)       c->field = STR(deflt);
#define OPT_STR(field, deflt, doc)                 c->field = STR(deflt);
#include "chappe/tbl/options.def"
#undef OPT_INT
#undef OPT_BOOL
#undef OPT_ENUM
#undef OPT_STR
}

static struct reader *reader_new(struct err *e)
{
    struct arena *a = arena_new(CONFIG_ARENA_MAX);
    struct config_box *box = ARENA_NEW(a, struct config_box);
    struct reader *r = xcalloc(1, sizeof *r);

    box->a = a;
    r->a = a;
    r->c = &box->c;
    r->e = e;
    r->root = ARENA_NEW(a, struct yaml);
    r->root->kind = YAML_MAP;
    defaults_set(r->c);
    return r;
}

/* Lays a file's top level over what is there. */
static void merge(struct reader *r, const char *name, struct str text)
{
    struct yaml *doc;
    struct err e;

    if (yaml_parse(r->a, name, text, &doc, &e) < 0) {
        config_fail(r, NULL, "%s", e.text);
        return;
    }
    if (!doc || doc->kind != YAML_MAP) {
        config_warn(r, doc, "%s%sno keys in this file: ignored", doc ? "" : name, doc ? "" : ": ");
        return;
    }
    struct yaml_pair *pairs = ARENA_ARRAY(r->a, struct yaml_pair, r->root->count + doc->count + 1);
    size_t n = 0;
    for (size_t i = 0; i < r->root->count; i++)
        if (!yaml_get(doc, r->root->pairs[i].key.p))
            pairs[n++] = r->root->pairs[i];
    for (size_t i = 0; i < doc->count; i++)
        pairs[n++] = doc->pairs[i];
    r->root->pairs = pairs;
    r->root->count = n;
}

static void merge_file(struct reader *r, const char *path)
{
    struct str text;
    struct err e;

    if (file_read(r->a, path, CONFIG_FILE_MAX, false, &text, &e) < 0)
        config_fail(r, NULL, "%s", e.text);
    else
        merge(r, path, text);
}

static int is_yaml(const struct dirent *d)
{
    return str_ends(str_of(d->d_name), STR(".yaml"));
}

static void merge_directory(struct reader *r, const char *path)
{
    struct dirent **entries;
    /* By bytes, like Python's sort, whatever the locale. */
    int n = scandir(path, &entries, is_yaml, NULL);

    if (n < 0) {
        config_fail(r, NULL, "cannot read the directory %s: %s", path, strerror(errno));
        return;
    }
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && strcmp(entries[j - 1]->d_name, entries[j]->d_name) > 0; j--) {
            struct dirent *t = entries[j];
            entries[j] = entries[j - 1];
            entries[j - 1] = t;
        }
    for (int i = 0; i < n; i++) {
        struct str file = arena_printf(r->a, "%s/%s", path, entries[i]->d_name);
        struct stat st;
        if (!r->failed && stat(file.p, &st) == 0 && S_ISREG(st.st_mode))
            merge_file(r, file.p);
        free(entries[i]);
    }
    free(entries);
}

/* Reads the sections; consumes r. */
static struct config *finish(struct reader *r)
{
    struct config *c = r->c;

    if (!r->failed)
        worker_read(r);
    if (!r->failed)
        database_read(r);
    if (!r->failed)
        app_services_read(r);
    if (!r->failed)
        synapse_read(r);
    if (!r->failed)
        push_read(r);
    if (!r->failed)
        options_read(r);
    c->warnings_count = r->warnings.n;
    if (r->warnings.n > 0) {
        c->warnings = ARENA_ARRAY(r->a, struct str, r->warnings.n);
        memcpy(c->warnings, r->warnings.v, r->warnings.n * sizeof r->warnings.v[0]);
    }
    vec_free(&r->warnings);
    if (r->failed)
        config_free(&c);
    free(r);
    return c;
}

struct config *config_load(const char *const *paths, size_t count, struct err *e)
{
    struct reader *r = reader_new(e);

    for (size_t i = 0; i < count && !r->failed; i++) {
        struct stat st;
        if (stat(paths[i], &st) == 0 && S_ISDIR(st.st_mode))
            merge_directory(r, paths[i]);
        else
            merge_file(r, paths[i]);
    }
    return finish(r);
}

struct config *config_load_text(struct str yaml, struct err *e)
{
    struct reader *r = reader_new(e);

    merge(r, "text", yaml);
    return finish(r);
}

void config_free(struct config **c)
{
    if (!*c)
        return;
    struct arena *a = ((struct config_box *)(void *)*c)->a;
    *c = NULL;
    arena_free(&a);
}

const struct config_instance *config_instance_find(const struct config *c, struct str name)
{
    for (size_t i = 0; i < c->instances_count; i++)
        if (str_eq(c->instances[i].name, name))
            return &c->instances[i];
    return NULL;
}
