/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Statements for the schemas of several Synapse releases.
 *
 * A newer schema adds tables and columns. Where a statement needs one that may be missing, its text holds
 *     ?{table.column;text where it is there;text where it is not}
 * (the column may be left out; the parts hold no ';' and no '}'). The schema check asks the database which of
 * those needs are there and keeps the finished texts, which all connections prepare. A text that comes out
 * empty is a statement that this database has no use for: nobody may run it.
 *
 * What was decided at start holds until the next one. A schema that grows meanwhile leaves the older text in
 * use, which still fits: Synapse promises that to code as old as compat_version says.
 */
#include "pg_int.h"

#include <stdlib.h>

struct part {
    struct str need, with, without;
};

/* The next conditional part of *rest; before is the text up to it. False: no more, before is all of it. */
static bool part_next(struct str *rest, struct str *before, struct part *out)
{
    size_t at = 0;
    while (at + 1 < rest->n && !(rest->p[at] == '?' && rest->p[at + 1] == '{'))
        at++;
    if (at + 1 >= rest->n) {
        *before = *rest;
        return false;
    }
    struct str body = str_n(rest->p + at + 2, rest->n - at - 2), tail;
    *before = str_n(rest->p, at);
    ASSERT(str_cut(body, ';', &out->need, &tail));
    ASSERT(str_cut(tail, ';', &out->with, &body));
    ASSERT(str_cut(body, '}', &out->without, rest));
    return true;
}

static bool there(const struct pg_needs *present, struct str need)
{
    for (size_t i = 0; i < present->n; i++)
        if (str_eq(present->v[i], need))
            return true;
    return false;
}

void pg_needs_collect(const struct pg_stmt_def *s, struct pg_needs *out)
{
    struct str rest = str_of(s->text), before;
    for (struct part p; part_next(&rest, &before, &p);)
        if (!there(out, p.need))
            vec_push(out, p.need);
}

char *pg_text_finish(const char *text, const struct pg_needs *present)
{
    struct str rest = str_of(text), before;
    struct buf out;
    buf_init(&out, 1 << 16);
    for (struct part p; part_next(&rest, &before, &p);) {
        buf_put(&out, before);
        buf_put(&out, there(present, p.need) ? p.with : p.without);
    }
    buf_put(&out, before);
    char *done = xstrndup(buf_str(&out));
    buf_fini(&out);
    return done;
}

/* ---- the program's own statements ---- */

static struct pg_stmt_def decided[SQL_COUNT];

const struct pg_stmt_def *pg_stmts_decided(void)
{
    if (!decided[0].text) { /* nobody looked at the database: the newest schema */
        struct pg_needs all = {0};
        for (size_t i = 0; i < SQL_COUNT; i++)
            pg_needs_collect(&pg_stmts[i], &all);
        pg_stmts_decide(pg_stmts, SQL_COUNT, NULL, &all, decided);
        vec_free(&all);
    }
    return decided;
}

void pg_stmts_decide(const struct pg_stmt_def *stmts, size_t count, const char *store,
                     const struct pg_needs *present, struct pg_stmt_def *out)
{
    for (size_t i = 0; i < count; i++) {
        if (store && strcmp(stmts[i].store, store) != 0)
            continue;
        free((void *)(uintptr_t)out[i].text);
        out[i] = stmts[i];
        out[i].text = pg_text_finish(stmts[i].text, present);
    }
}

void pg_stmts_keep(struct pg_stmt_def *stmts)
{
    for (size_t i = 0; i < SQL_COUNT; i++)
        free((void *)(uintptr_t)decided[i].text);
    memcpy(decided, stmts, sizeof decided);
}

const char *pg_stmt_text(enum pg_stmt s)
{
    ASSERT((size_t)s < (size_t)SQL_COUNT);
    return pg_stmts_decided()[s].text;
}
