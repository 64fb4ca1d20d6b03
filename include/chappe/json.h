/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_JSON_H
#define CHAPPE_JSON_H
/*
 * JSON trees in an arena, read by a strict parser of our own, and a writer that emits what Synapse emits: no
 * insignificant space, ASCII only (escapes as \u00e9, in lower case, surrogate pairs), numbers as they stood
 * (integers of any size verbatim, floats in Python's repr form). Object members keep their order; of
 * duplicate keys the last wins, as in Python. A lone surrogate escape (\ud800), which Python accepts, is kept
 * as the three bytes UTF-8 would give it, and written as the escape again; raw input must be proper UTF-8.
 */
#include "chappe/mem.h"

enum json_type { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };
struct json {
    enum json_type type;
    struct str s;   /* STRING: decoded UTF-8; NUMBER: its text in Python's form (1e5 is 100000.0, -0 is 0) */
    struct str key; /* set when this value is a member of an object */
    struct json *child; /* first element or member */
    struct json *last;
    struct json *next; /* next sibling */
    size_t count;      /* elements or members */
};
enum { JSON_DEPTH_MAX = 128 };
/* Parses exactly one value (surrounding blanks allowed) into a. Everything is copied: text may go. 0,
 * -ERR_PARSE (bad JSON or UTF-8, NaN, Infinity, trailing bytes, too deep), -ERR_NOMEM when the arena's
 * maximum is reached. */
int json_parse(struct arena *a, struct str text, struct json **out) NODISCARD;

/* All readers accept NULL and a value of another type, and answer NULL / absent / false. */
struct json *json_get(const struct json *obj, struct str key);
struct json *json_path(const struct json *obj,
                       const char *dotted); /* "content.membership"; keys without dots only */
struct str json_str(const struct json *v);  /* absent unless STRING */
struct str json_get_str(const struct json *obj, struct str key);
bool json_int(const struct json *v, int64_t *out); /* an integer literal that fits; not a float, not a bool */
bool json_is_true(const struct json *v);
bool json_is_object(const struct json *v);
bool json_is_array(const struct json *v);
#define json_each(var, parent) \
    for (struct json *var = (parent) ? (parent)->child : NULL; var; var = var->next)

/* Building and changing. Keys and strings are not copied. */
struct json *json_new(struct arena *a, enum json_type t);
struct json *json_new_str(struct arena *a, struct str s);
struct json *json_new_int(struct arena *a, int64_t v);
struct json *json_new_bool(struct arena *a, bool v);
void json_set(struct json *obj, struct str key, struct json *value); /* replaces in place or appends */
void json_add(struct json *obj, struct str key, struct json *value); /* appends; the key must be new */
struct json *json_remove(struct json *obj, struct str key);          /* detaches and returns it, or NULL */
void json_push(struct json *arr, struct json *value);
struct json *json_clone(struct arena *a, const struct json *v);
bool json_equal(const struct json *a,
                const struct json *b); /* objects regardless of order; 1 and 1.0 differ */

enum json_write_flags {
    JSON_SORTED = 1, /* keys in byte order at every depth (event objects) */
    JSON_UTF8 = 2,   /* raw UTF-8 instead of \u (canonical JSON of error bodies) */
};
void json_write(struct buf *b, const struct json *v, int flags);
/* Certain that text is an object, and byte for byte what json_write(…, 0) makes of it. False says nothing. */
bool json_is_written_object(struct str text);
void json_write_str(struct buf *b, struct str s, int flags); /* with quotes */
#endif
