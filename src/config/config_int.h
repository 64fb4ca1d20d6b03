/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_CONFIG_INT_H
#define CHAPPE_CONFIG_INT_H
/*
 * Inside src/config: YAML trees that remember file and line, and a reader whose first error sticks, so that
 * code which reads keys need not check each one.
 */
#include "chappe/config.h"

/* --- yaml.c: trees --- */
enum yaml_kind { YAML_SCALAR, YAML_LIST, YAML_MAP };
enum yaml_tag { YAML_TAG_NONE, YAML_TAG_STR, YAML_TAG_OTHER };
struct yaml_pair;
struct yaml {
    enum yaml_kind kind;
    enum yaml_tag tag;
    bool plain; /* scalar written without quotes: may be a number, a boolean or null */
    int line;
    const char *file;
    struct str text;         /* scalar, NUL-terminated */
    struct yaml **items;     /* list */
    struct yaml_pair *pairs; /* map; of equal keys the last one counts */
    size_t count;
};
struct yaml_pair {
    struct str key;
    struct yaml *key_node, *value;
};
/* The one document in text. 0 and NULL for an empty one. Nodes live in a. */
int yaml_parse(struct arena *a, const char *file, struct str text, struct yaml **out,
               struct err *e) NODISCARD;
struct yaml *yaml_get(const struct yaml *map,
                      const char *key);    /* NULL when absent, or map is NULL or no map */
bool yaml_is_null(const struct yaml *n);   /* NULL, or a plain null */
bool yaml_is_string(const struct yaml *n); /* a scalar that is neither number, boolean nor null */
/* YAML 1.1 as Python reads it: yes/no/on/off, octal, hexadecimal, sexagesimal, '_' in numbers. */
bool yaml_bool(const struct yaml *n, bool *out);
bool yaml_int(const struct yaml *n, int64_t *out);
bool yaml_double(const struct yaml *n, double *out); /* integers too */

/* --- read.c: reader --- */
struct reader {
    struct arena *a;
    struct config *c;
    struct yaml *root; /* merged top level */
    struct err *e;
    bool failed;
    VEC(struct str) warnings;
};
/* Reports "<file>:<line>: <text>" unless something failed before. n NULL: no place. */
void config_fail(struct reader *r, const struct yaml *n, const char *fmt, ...) PRINTF_LIKE(3, 4);
void config_warn(struct reader *r, const struct yaml *n, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Each leaves *out alone when the key is absent or null; name is what messages call it ("redis.port"): its
 * last part, after the last '.', is the key. */
void read_str(struct reader *r, const struct yaml *map, const char *name, struct str *out);
void read_bool(struct reader *r, const struct yaml *map, const char *name,
               bool *out); /* truthiness, as in Python */
void read_int(struct reader *r, const struct yaml *map, const char *name, int64_t min, int64_t max,
              int64_t *out);
void read_double(struct reader *r, const struct yaml *map, const char *name, double *out);
void read_duration(struct reader *r, const struct yaml *map, const char *name, int64_t *out); /* ms */
void read_str_list(struct reader *r, const struct yaml *map, const char *name, struct str **out,
                   size_t *count);
struct yaml *read_map(struct reader *r, const struct yaml *map,
                      const char *name); /* NULL when absent or null */
struct yaml *read_list(struct reader *r, const struct yaml *map, const char *name); /* likewise */
/* "5m" and the like in ms; 10K, 10M… in bytes. False when malformed. */
bool duration_parse(const struct yaml *n, int64_t *out);
bool size_parse(const struct yaml *n, int64_t *out);
/* The value itself (name), or the trimmed content of the file that path_name names; both is an error. */
void read_secret(struct reader *r, const struct yaml *map, const char *name, const char *path_name,
                 struct str *out);
/* All of a file, at most max bytes. regular: nothing but a regular file. */
int file_read(struct arena *a, const char *path, size_t max, bool regular, struct str *out,
              struct err *e) NODISCARD;

/* --- sections --- */
void worker_read(struct reader *r); /* identity, listeners, instance_map, stream_writers, duties, redis */
void database_read(struct reader *r);
void synapse_read(struct reader *r); /* presence, limits, features, refusals */
void push_read(struct reader *r);    /* push, pusher_instances, addresses and proxies for outgoing requests */
void app_services_read(struct reader *r);
void options_read(struct reader *r); /* chappe: */
bool list_has(const struct str *v, size_t n, struct str s);

struct writer_key {
    const char *name;
    bool single; /* Synapse allows exactly one writer */
    bool in_map; /* its writers must be in instance_map */
};
extern const struct writer_key writer_keys[WRITERS_COUNT];

/* conninfo with the values of secret keywords replaced. */
struct str conninfo_masked(struct arena *a, const char *conninfo);
/* Calls fn for every keyword that conninfo sets. */
void conninfo_each(const char *conninfo, void (*fn)(void *arg, const char *keyword, const char *value),
                   void *arg);
#endif
