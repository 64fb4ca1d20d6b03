/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Synapse's releases: one table (tbl/releases.def) says since when what is so, one number says which it is.
 *
 * The number is the process's own and atomic, because it may change while threads ask: an upgrade of Synapse
 * under a running Chappe. Only minor numbers count; 1.x has no others that change an answer.
 */
#include "chappe/release.h"

#include "chappe/err.h"

#include <stdatomic.h>

#define RELEASE_RANGE(oldest, newest) enum { OLDEST = (oldest), NEWEST = (newest) };
#include "chappe/tbl/releases.def"

static const int fact_since[RELEASE_FACT_COUNT] = {
#define RELEASE_FACT(id, minor, what) [RELEASE_##id] = (minor),
#include "chappe/tbl/releases.def"
};

static const struct {
    int fields, since;
} tokens[] = {
#define RELEASE_TOKEN(fields, minor) {(fields), (minor)},
#include "chappe/tbl/releases.def"
};

static const char *const sign_tables[] = {
#define RELEASE_SIGN(table, minor) table,
#include "chappe/tbl/releases.def"
};
static const int sign_since[] = {
#define RELEASE_SIGN(table, minor) (minor),
#include "chappe/tbl/releases.def"
};
enum { SIGNS = sizeof sign_since / sizeof *sign_since };

static _Atomic int now_minor = NEWEST, now_patch;

static int minor_of(struct release r) /* as if there were no other major number */
{
    return r.major > 1 ? NEWEST + 1 : r.major < 1 ? 0 : r.minor;
}

static int fields_of(int minor)
{
    int fields = tokens[0].fields;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        if (minor >= tokens[i].since)
            fields = tokens[i].fields;
    return fields;
}

struct release release_now(void)
{
    return (struct release){1, now_minor, now_patch};
}

void release_set(struct release r)
{
    now_minor = minor_of(r);
    now_patch = r.patch;
}

bool release_has(enum release_fact f)
{
    return now_minor >= fact_since[f];
}

int release_token_fields(void)
{
    return fields_of(now_minor);
}

/* The digits at the start of *s, at least one; *s moves behind them. */
static bool number_take(struct str *s, int *out)
{
    size_t n = 0;
    int64_t v;
    while (n < s->n && n < 6 && s->p[n] >= '0' && s->p[n] <= '9')
        n++;
    if (n == 0 || str_to_i64(str_n(s->p, n), &v) < 0)
        return false;
    *out = (int)v;
    *s = str_n(s->p + n, s->n - n);
    return true;
}

static bool dot_take(struct str *s)
{
    if (s->n == 0 || *s->p != '.')
        return false;
    *s = str_n(s->p + 1, s->n - 1);
    return true;
}

bool release_parse(struct str server, struct release *out)
{
    struct str name = STR("Synapse/"), rest;
    struct release r = {0};
    if (!str_starts(server, name))
        return false;
    rest = str_n(server.p + name.n, server.n - name.n);
    if (!number_take(&rest, &r.major) || !dot_take(&rest) || !number_take(&rest, &r.minor))
        return false;
    if (dot_take(&rest))
        (void)number_take(&rest, &r.patch);
    *out = r;
    return true;
}

enum release_verdict release_judge(struct release r)
{
    int minor = minor_of(r);
    return minor < OLDEST ? RELEASE_TOO_OLD : minor > NEWEST ? RELEASE_NEWER : RELEASE_KNOWN;
}

bool release_differs(struct release a, struct release b)
{
    int x = minor_of(a), y = minor_of(b);
    for (size_t i = 0; i < RELEASE_FACT_COUNT; i++)
        if ((x >= fact_since[i]) != (y >= fact_since[i]))
            return true;
    for (size_t i = 0; i < SIGNS; i++)
        if ((x >= sign_since[i]) != (y >= sign_since[i]))
            return true;
    return fields_of(x) != fields_of(y) || release_judge(a) != release_judge(b);
}

struct release release_oldest(void)
{
    return (struct release){1, OLDEST, 0};
}

struct release release_newest(void)
{
    return (struct release){1, NEWEST, 0};
}

size_t release_signs(const char *const **tables)
{
    *tables = sign_tables;
    return SIGNS;
}

struct release release_by_tables(bool (*there)(const void *arg, const char *table), const void *arg)
{
    struct release r = release_oldest();
    for (size_t i = 0; i < SIGNS; i++)
        if (sign_since[i] > r.minor && there(arg, sign_tables[i]))
            r.minor = sign_since[i];
    return r;
}
