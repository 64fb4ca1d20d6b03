/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The section "chappe:". Its options are rows of tbl/options.def; an option that does not exist is an error,
 * since a typing mistake would otherwise pass for a setting.
 */
#include "config_int.h"

#include <stddef.h>

enum option_kind { OPTION_INT, OPTION_BOOL, OPTION_ENUM, OPTION_STR };
struct option {
    const char *name;
    enum option_kind kind;
    size_t off;
    int64_t min, max;
    const char *unit, *choices, *doc;
};
static const struct option options[] = {
#define OPT_INT(field, deflt, lo, hi, u, d) \
    {.name = #field,                        \
     .kind = OPTION_INT,                    \
     .off = offsetof(struct config, field), \
     .min = (lo),                           \
     .max = (hi),                           \
     .unit = (u),                           \
     .doc = (d)},
#define OPT_BOOL(field, deflt, d) \
    {.name = #field, .kind = OPTION_BOOL, .off = offsetof(struct config, field), .doc = (d)},
#define OPT_ENUM(field, deflt, c, d) \
    {.name = #field, .kind = OPTION_ENUM, .off = offsetof(struct config, field), .choices = (c), .doc = (d)},
#define OPT_STR(field, deflt, d) \
    {.name = #field, .kind = OPTION_STR, .off = offsetof(struct config, field), .doc = (d)},
#include "chappe/tbl/options.def"
#undef OPT_INT
#undef OPT_BOOL
#undef OPT_ENUM
#undef OPT_STR
};

static void int_read(struct reader *r, const struct option *o, const struct yaml *n, void *field)
{
    bool time = strcmp(o->unit, "ms") == 0, bytes = strcmp(o->unit, "bytes") == 0;
    int64_t v;

    if (!(time ? duration_parse(n, &v) : bytes ? size_parse(n, &v) : yaml_int(n, &v))) {
        config_fail(r, n, "chappe.%s must be a number (%s)%s: %s", o->name, o->unit,
                    time    ? ", or one with a unit like 30s"
                    : bytes ? ", or one with a unit like 10M"
                            : "",
                    o->doc);
        return;
    }
    if (v < o->min || v > o->max) {
        config_fail(r, n, "chappe.%s: %lld is outside %lld..%lld (%s): %s", o->name, (long long)v,
                    (long long)o->min, (long long)o->max, o->unit, o->doc);
        return;
    }
    memcpy(field, &v, sizeof v);
}

static void enum_read(struct reader *r, const struct option *o, const struct yaml *n, void *field)
{
    struct str rest = str_of(o->choices), choice;
    bool more = true;

    while (more && n->kind == YAML_SCALAR) {
        struct str s = rest;
        more = str_cut(s, '|', &choice, &rest);
        if (str_eq(choice, n->text)) {
            memcpy(field, &n->text, sizeof n->text);
            return;
        }
    }
    config_fail(r, n, "chappe.%s must be one of %s: %s", o->name, o->choices, o->doc);
}

static void option_read(struct reader *r, const struct option *o, const struct yaml *n)
{
    void *field = (char *)r->c + o->off;

    if (yaml_is_null(n)) /* the default */
        return;
    switch (o->kind) {
    case OPTION_INT:
        int_read(r, o, n, field);
        return;
    case OPTION_BOOL:
        if (!yaml_bool(n, field))
            config_fail(r, n, "chappe.%s must be true or false: %s", o->name, o->doc);
        return;
    case OPTION_ENUM:
        enum_read(r, o, n, field);
        return;
    case OPTION_STR:
        if (n->kind != YAML_SCALAR)
            config_fail(r, n, "chappe.%s must be a string: %s", o->name, o->doc);
        else
            memcpy(field, &n->text, sizeof n->text);
        return;
    }
}

void options_read(struct reader *r)
{
    struct yaml *section = read_map(r, r->root, "chappe");

    for (size_t i = 0; section && i < section->count; i++) {
        const struct option *found = NULL;
        for (size_t j = 0; j < sizeof options / sizeof *options; j++)
            if (str_eq(section->pairs[i].key, str_of(options[j].name)))
                found = &options[j];
        if (!found) {
            config_fail(r, section->pairs[i].key_node,
                        "chappe.%.*s: no such option (chappe --print-config shows them all)",
                        (int)(section->pairs[i].key.n < 80 ? section->pairs[i].key.n : 80),
                        section->pairs[i].key.p);
            return;
        }
        option_read(r, found, section->pairs[i].value);
    }
}
