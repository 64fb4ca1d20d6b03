/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Reading typed values out of YAML trees, and small files.
 *
 * The first error sticks and later ones are ignored: code that reads a section is a list of calls, and the
 * caller looks at r->failed once at the end. Messages begin with file and line and name the key by its full
 * path.
 */
#include "config_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SECRET_FILE_MAX = 65536 };

PRINTF_LIKE(4, 0)
static void message(char *out, size_t size, const struct yaml *n, const char *fmt, va_list ap)
{
    int at = n ? snprintf(out, size, "%s:%d: ", n->file, n->line) : 0;

    if (at < 0 || (size_t)at >= size)
        at = 0;
    vsnprintf(out + at, size - (size_t)at, fmt, ap);
}

void config_fail(struct reader *r, const struct yaml *n, const char *fmt, ...)
{
    char text[sizeof r->e->text];
    va_list ap;

    if (r->failed)
        return;
    r->failed = true;
    va_start(ap, fmt);
    message(text, sizeof text, n, fmt, ap);
    va_end(ap);
    (void)err_set(r->e, ERR_CONFIG, "%s", text);
}

void config_warn(struct reader *r, const struct yaml *n, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    message(text, sizeof text, n, fmt, ap);
    va_end(ap);
    vec_push(&r->warnings, arena_str(r->a, str_of(text)));
}

static struct yaml *leaf(const struct yaml *map, const char *name)
{
    const char *dot = strrchr(name, '.');
    struct yaml *n = yaml_get(map, dot ? dot + 1 : name);

    return yaml_is_null(n) ? NULL : n;
}

void read_str(struct reader *r, const struct yaml *map, const char *name, struct str *out)
{
    struct yaml *n = leaf(map, name);

    if (n && n->kind != YAML_SCALAR)
        config_fail(r, n, "%s must be a string", name);
    else if (n && strlen(n->text.p) != n->text.n)
        config_fail(r, n, "%s contains a NUL character", name);
    else if (n)
        *out = n->text;
}

void read_bool(struct reader *r, const struct yaml *map, const char *name, bool *out)
{
    struct yaml *n = leaf(map, name);
    double number;

    if (!n || yaml_bool(n, out))
        return;
    if (n->kind != YAML_SCALAR) {
        *out = n->count > 0;
    } else if (yaml_double(n, &number)) {
        *out = number < 0 || number > 0;
    } else {
        static const char *const look_false[] = {"false", "False", "no", "No", "off", "Off", "0"};
        *out = n->text.n > 0;
        for (size_t i = 0; i < sizeof look_false / sizeof *look_false; i++)
            if (str_eq(n->text, str_of(look_false[i])))
                config_warn(r, n,
                            "%s is a quoted string, which counts as true (as in Synapse); write it without "
                            "quotes",
                            name);
    }
}

void read_int(struct reader *r, const struct yaml *map, const char *name, int64_t min, int64_t max,
              int64_t *out)
{
    struct yaml *n = leaf(map, name);
    int64_t v = 0;

    if (!n)
        return;
    if (!yaml_int(n, &v) && (n->kind != YAML_SCALAR || str_to_i64(n->text, &v) < 0))
        config_fail(r, n, "%s must be an integer", name);
    else if (v < min || v > max)
        config_fail(r, n, "%s: %lld is outside %lld..%lld", name, (long long)v, (long long)min,
                    (long long)max);
    else
        *out = v;
}

void read_double(struct reader *r, const struct yaml *map, const char *name, double *out)
{
    struct yaml *n = leaf(map, name);

    if (n && !yaml_double(n, out))
        config_fail(r, n, "%s must be a number", name);
}

/* digits with a one-letter unit out of units. */
static bool unit_parse(const struct yaml *n, const char *units, const int64_t *factors, int64_t *out)
{
    int64_t v, factor = 1;

    if (!n || n->kind != YAML_SCALAR || n->text.n == 0)
        return false;
    if (yaml_int(n, out))
        return true;
    struct str s = n->text;
    const char *unit = strchr(units, s.p[s.n - 1]);
    if (unit && *unit) {
        factor = factors[unit - units];
        s.n--;
    }
    return str_to_i64(str_trim(s), &v) == 0 && !__builtin_mul_overflow(v, factor, out);
}

bool duration_parse(const struct yaml *n, int64_t *out)
{
    static const int64_t factors[] = {1000, 60000, 3600000, 86400000, 604800000, 31536000000};

    return unit_parse(n, "smhdwy", factors, out);
}

bool size_parse(const struct yaml *n, int64_t *out)
{
    static const int64_t factors[] = {1LL << 10, 1LL << 20, 1LL << 30, 1LL << 40};

    return unit_parse(n, "KMGT", factors, out);
}

void read_duration(struct reader *r, const struct yaml *map, const char *name, int64_t *out)
{
    struct yaml *n = leaf(map, name);

    if (n && !duration_parse(n, out))
        config_fail(r, n, "%s must be a duration: a number of ms, or one with a unit, like 30s, 5m, 2h, 7d",
                    name);
}

struct yaml *read_map(struct reader *r, const struct yaml *map, const char *name)
{
    struct yaml *n = leaf(map, name);

    if (n && n->kind != YAML_MAP) {
        config_fail(r, n, "%s must be a map", name);
        return NULL;
    }
    return n;
}

struct yaml *read_list(struct reader *r, const struct yaml *map, const char *name)
{
    struct yaml *n = leaf(map, name);

    if (n && n->kind != YAML_LIST) {
        config_fail(r, n, "%s must be a list", name);
        return NULL;
    }
    return n;
}

void read_str_list(struct reader *r, const struct yaml *map, const char *name, struct str **out,
                   size_t *count)
{
    struct yaml *n = read_list(r, map, name);

    if (!n)
        return;
    *count = 0;
    *out = n->count ? ARENA_ARRAY(r->a, struct str, n->count) : NULL;
    for (size_t i = 0; i < n->count; i++) {
        if (n->items[i]->kind != YAML_SCALAR || yaml_is_null(n->items[i])) {
            config_fail(r, n->items[i], "%s must be a list of strings", name);
            return;
        }
        (*out)[(*count)++] = n->items[i]->text;
    }
}

bool list_has(const struct str *v, size_t n, struct str s)
{
    for (size_t i = 0; i < n; i++)
        if (str_eq(v[i], s))
            return true;
    return false;
}

static int fd_read(struct arena *a, int fd, const char *path, size_t max, struct str *out, struct err *e)
{
    struct buf b;
    ssize_t got = 1;

    buf_init(&b, max + 1);
    while (got > 0) {
        char *p = buf_reserve(&b, b.n + 65536 <= max + 1 ? 65536 : max + 1 - b.n);
        size_t room = b.n + 65536 <= max + 1 ? 65536 : max + 1 - b.n;
        if (!p || room == 0)
            break;
        got = read(fd, p, room);
        if (got < 0 && errno == EINTR)
            got = 1;
        else if (got > 0)
            b.n += (size_t)got;
    }
    int rc = 0;
    if (got < 0)
        rc = err_set(e, ERR_IO, "cannot read %s: %s", path, strerror(errno));
    else if (b.n > max)
        rc = err_set(e, ERR_LIMIT, "%s has more than %zu bytes", path, max);
    else
        *out = arena_str(a, buf_str(&b));
    buf_fini(&b);
    return rc;
}

int file_read(struct arena *a, const char *path, size_t max, bool regular, struct str *out, struct err *e)
{
    /* Not blocking: a FIFO that nobody writes to must not hang a start that would refuse it. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | (regular ? O_NONBLOCK : 0));
    struct stat st;
    int rc;

    if (fd < 0)
        return err_set(e, ERR_IO, "cannot open %s: %s", path, strerror(errno));
    if (fstat(fd, &st) < 0)
        rc = err_set(e, ERR_IO, "cannot read %s: %s", path, strerror(errno));
    else if (regular && !S_ISREG(st.st_mode))
        rc = err_set(e, ERR_IO, "%s is not a regular file", path);
    else
        rc = fd_read(a, fd, path, max, out, e);
    close(fd);
    return rc;
}

void read_secret(struct reader *r, const struct yaml *map, const char *name, const char *path_name,
                 struct str *out)
{
    struct str value = STR_ABSENT, path = STR_ABSENT;
    struct err e;

    read_str(r, map, name, &value);
    read_str(r, map, path_name, &path);
    if (r->failed)
        return;
    if (path.n > 0 && value.n > 0) {
        config_fail(r, leaf(map, path_name), "%s and %s are both set: keep one of them", name, path_name);
    } else if (path.n > 0) {
        if (file_read(r->a, path.p, SECRET_FILE_MAX, true, &value, &e) < 0)
            config_fail(r, leaf(map, path_name), "%s: %s", path_name, e.text);
        else
            *out = arena_str(r->a, str_trim(value));
    } else if (value.n > 0) {
        *out = value;
    }
}
