/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Results: a thin view of libpq's. All values are text. bytea columns arrive in the escape format that the
 * session asks for (hex is understood too) and are decoded in place once, before the caller sees them: the
 * decoded form is never longer, and libpq's memory is ours until PQclear.
 *
 * Error descriptions carry the SQLSTATE and the primary message only. DETAIL, CONTEXT and the statement hold
 * values, and for class 22 (data exceptions) so does the primary message, which is therefore left out.
 */
#include "pg_int.h"

#include <stdlib.h>

enum { OID_BYTEA = 17, MESSAGE_MAX = 200 };

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool is_octal(const char *p)
{
    return p[0] >= '0' && p[0] <= '3' && p[1] >= '0' && p[1] <= '7' && p[2] >= '0' && p[2] <= '7';
}

/* Returns the new length; p stays NUL-terminated. */
static int bytea_decode(char *p, int n)
{
    int to = 0;
    if (n >= 2 && p[0] == '\\' && p[1] == 'x') {
        for (int i = 2; i + 1 < n; i += 2)
            p[to++] = (char)((unsigned)hex_value(p[i]) << 4 | (unsigned)hex_value(p[i + 1]));
    } else {
        for (int i = 0; i < n; i++) {
            if (p[i] == '\\' && i + 3 < n && is_octal(p + i + 1)) {
                p[to++] = (char)((p[i + 1] - '0') << 6 | (p[i + 2] - '0') << 3 | (p[i + 3] - '0'));
                i += 3;
            } else if (p[i] == '\\' && i + 1 < n) {
                p[to++] = p[++i];
            } else {
                p[to++] = p[i];
            }
        }
    }
    p[to] = '\0';
    return to;
}

void pg_result_init(struct pg_result *r, PGresult *res)
{
    *r = (struct pg_result){.res = res};
    int rows = PQntuples(res), cols = PQnfields(res);
    for (int col = 0; col < cols && rows > 0; col++) {
        if (PQftype(res, col) != OID_BYTEA)
            continue;
        if (!r->bytea_len)
            r->bytea_len = xcalloc((size_t)rows * (size_t)cols, sizeof *r->bytea_len);
        for (int row = 0; row < rows; row++)
            if (!PQgetisnull(res, row, col))
                r->bytea_len[row * cols + col] =
                    bytea_decode(PQgetvalue(res, row, col), PQgetlength(res, row, col));
    }
}

void pg_result_fini(struct pg_result *r)
{
    PQclear(r->res);
    free(r->bytea_len);
    *r = (struct pg_result){0};
}

int pg_rows(const struct pg_result *r)
{
    return r ? PQntuples(r->res) : 0;
}

static void cell_check(const struct pg_result *r, int row, int col)
{
    ASSERT(r && row >= 0 && row < PQntuples(r->res) && col >= 0 && col < PQnfields(r->res));
}

bool pg_null(const struct pg_result *r, int row, int col)
{
    cell_check(r, row, col);
    return PQgetisnull(r->res, row, col);
}

struct str pg_str(const struct pg_result *r, int row, int col)
{
    if (pg_null(r, row, col))
        return STR_ABSENT;
    int n = PQgetlength(r->res, row, col);
    if (r->bytea_len && PQftype(r->res, col) == OID_BYTEA)
        n = r->bytea_len[row * PQnfields(r->res) + col];
    return str_n(PQgetvalue(r->res, row, col), (size_t)n);
}

int64_t pg_i64(const struct pg_result *r, int row, int col)
{
    struct str s = pg_str(r, row, col);
    if (str_eq(s, STR("t")))
        return 1;
    int64_t v;
    return str_absent(s) || str_to_i64(s, &v) < 0 ? 0 : v; /* "f" is no number: 0 */
}

struct str pg_trim_message(const char *message)
{
    struct str first, rest, s = str_of(message);
    str_cut(str_trim(s), '\n', &first, &rest);
    return str_n(first.p, first.n < MESSAGE_MAX ? first.n : MESSAGE_MAX);
}

bool pg_error_is(const PGresult *res, const char *sqlstate)
{
    const char *code = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    return code && strcmp(code, sqlstate) == 0;
}

void pg_error_describe(const PGresult *res, struct err *e)
{
    const char *code = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    if (code && strncmp(code, "22", 2) == 0)
        err_set(e, ERR_DB, "SQLSTATE %s (data exception, message withheld)", code);
    else
        err_set(e, ERR_DB, "SQLSTATE %s: %.*s", code ? code : "none",
                STR_ARG(pg_trim_message(text ? text : PQresultErrorMessage(res))));
}

bool pg_error_is_loss(const PGconn *db, const PGresult *res)
{
    const char *severity = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);
    if (PQstatus(db) == CONNECTION_BAD || !severity || !PQresultErrorField(res, PG_DIAG_SQLSTATE))
        return true;
    return strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0;
}
