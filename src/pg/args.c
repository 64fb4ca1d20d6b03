/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Statement arguments in text form. Values lie one after the other in a single buffer, each closed by a NUL
 * because that is how libpq takes text; offsets, not pointers, since the buffer moves while it grows.
 *
 * Arrays are array literals: {"a","b",NULL}. Every text element is quoted, so that commas, braces, spaces,
 * the word NULL and the empty string need no rule of their own; inside quotes only the quote and the
 * backslash are escaped.
 *
 * Text with a NUL byte cannot exist in PostgreSQL, and as a C string it would silently become a shorter,
 * different text (somebody else's identifier, perhaps). Such arguments are marked, and pg_exec ends with
 * -ERR_PARSE.
 */
#include "pg_int.h"

#include <stdlib.h>

enum { PG_ARGS_BYTES_MAX = 256 << 20 };

struct pg_args *pg_args_new(void)
{
    struct pg_args *a = xcalloc(1, sizeof *a);
    buf_init(&a->bytes, PG_ARGS_BYTES_MAX);
    return a;
}

void pg_args_free(struct pg_args **a)
{
    if (!*a)
        return;
    buf_fini(&(*a)->bytes);
    vec_free(&(*a)->at);
    free(*a);
    *a = NULL;
}

static void bytes_put(struct pg_args *a, struct str s)
{
    if (s.n > 0 && memchr(s.p, '\0', s.n))
        a->unrepresentable = true;
    buf_put(&a->bytes, s);
}

void pg_args_text(struct pg_args *a, struct str s)
{
    vec_push(&a->at, str_absent(s) ? SIZE_MAX : a->bytes.n);
    if (str_absent(s))
        return;
    bytes_put(a, s);
    buf_putc(&a->bytes, '\0');
}

void pg_args_i64(struct pg_args *a, int64_t v)
{
    vec_push(&a->at, a->bytes.n);
    buf_i64(&a->bytes, v);
    buf_putc(&a->bytes, '\0');
}

static void element_put(struct pg_args *a, struct str s)
{
    if (str_absent(s)) {
        buf_put(&a->bytes, STR("NULL"));
        return;
    }
    buf_putc(&a->bytes, '"');
    size_t from = 0;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] != '"' && s.p[i] != '\\')
            continue;
        bytes_put(a, str_n(s.p + from, i - from));
        buf_putc(&a->bytes, '\\');
        from = i; /* the character itself opens the next run */
    }
    bytes_put(a, str_n(s.p + from, s.n - from));
    buf_putc(&a->bytes, '"');
}

void pg_args_text_array(struct pg_args *a, const struct str *v, size_t n)
{
    vec_push(&a->at, a->bytes.n);
    buf_putc(&a->bytes, '{');
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            buf_putc(&a->bytes, ',');
        element_put(a, v[i]);
    }
    buf_put(&a->bytes, STR("}\0"));
}

void pg_args_i64_array(struct pg_args *a, const int64_t *v, size_t n)
{
    vec_push(&a->at, a->bytes.n);
    buf_putc(&a->bytes, '{');
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            buf_putc(&a->bytes, ',');
        buf_i64(&a->bytes, v[i]);
    }
    buf_put(&a->bytes, STR("}\0"));
}

int pg_args_check(const struct pg_args *a)
{
    if (!a)
        return 0;
    if (a->bytes.failed)
        return -ERR_LIMIT;
    return a->unrepresentable ? -ERR_PARSE : 0;
}

const char *const *pg_args_values(const struct pg_args *a)
{
    static _Thread_local struct {
        const char **v;
        uint32_t n, cap;
    } values;
    if (!a)
        return NULL;
    values.n = 0;
    for (size_t i = 0; i < a->at.n; i++)
        vec_push(&values, a->at.v[i] == SIZE_MAX ? NULL : a->bytes.p + a->at.v[i]);
    return values.v;
}
