/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Counters, gauges and histograms, one row of tbl/metrics.def each, and their text form.
 *
 * A plain metric is one atomic integer. A labelled one is a small open-addressing table from the label
 * value's text to an integer; a slot is claimed once, by compare-and-swap of its name, and never given back,
 * so readers and writers need no lock. The table is bounded: values past its capacity are added up under
 * "other". Histograms count per bucket and keep their sum in microseconds; buckets become cumulative when
 * they are written.
 */
#include "chappe/metrics.h"
#include <stdatomic.h>
#include <stdlib.h>

enum { LABELS_MAX = 128, LABELS_FILL = 112, BUCKETS = 15 };
enum kind { KIND_COUNTER, KIND_GAUGE, KIND_HISTOGRAM };

static const struct {
    enum kind kind;
    const char *name, *label, *help;
} rows[METRIC_COUNT] = {
#define COUNTER(id, name, help)          {KIND_COUNTER, name, NULL, help},
#define GAUGE(id, name, help)            {KIND_GAUGE, name, NULL, help},
#define COUNTER_L(id, name, label, help) {KIND_COUNTER, name, label, help},
#define GAUGE_L(id, name, label, help)   {KIND_GAUGE, name, label, help},
#define HISTOGRAM(id, name, help)        {KIND_HISTOGRAM, name, NULL, help},
#include "chappe/tbl/metrics.def"
#undef COUNTER
#undef GAUGE
#undef COUNTER_L
#undef GAUGE_L
#undef HISTOGRAM
};

struct labelled {
    const char *_Atomic name;
    _Atomic int64_t value;
};

static _Atomic int64_t
    values[METRIC_COUNT]; /* of a histogram: observations; of a labelled one: values stored */
static struct labelled labels[METRIC_COUNT][LABELS_MAX];
static _Atomic int64_t buckets[METRIC_COUNT][BUCKETS];
static _Atomic int64_t sums_us[METRIC_COUNT];
static char server_label[300];

/* Prometheus' default upper bounds; the last bucket is +Inf. */
static const struct {
    double le;
    const char *text;
} bounds[BUCKETS] = {
    {0.005, "0.005"}, {0.01, "0.01"}, {0.025, "0.025"}, {0.05, "0.05"}, {0.075, "0.075"},
    {0.1, "0.1"},     {0.25, "0.25"}, {0.5, "0.5"},     {0.75, "0.75"}, {1.0, "1.0"},
    {2.5, "2.5"},     {5.0, "5.0"},   {7.5, "7.5"},     {10.0, "10.0"}, {0, "+Inf"},
};

static void check(enum metric m, bool labelled)
{
    ASSERT((unsigned)m < METRIC_COUNT && (rows[m].label != NULL) == labelled);
}

void metric_add(enum metric m, int64_t n)
{
    check(m, false);
    atomic_fetch_add_explicit(&values[m], n, memory_order_relaxed);
}

static void add_own(_Atomic int64_t *cell, int64_t n)
{
    atomic_store_explicit(cell, atomic_load_explicit(cell, memory_order_relaxed) + n, memory_order_relaxed);
}

void metric_add_own(enum metric m, int64_t n)
{
    check(m, false);
    add_own(&values[m], n);
}

void metric_set(enum metric m, int64_t v)
{
    check(m, false);
    atomic_store_explicit(&values[m], v, memory_order_relaxed);
}

int64_t metric_get(enum metric m)
{
    check(m, false);
    return atomic_load_explicit(&values[m], memory_order_relaxed);
}

/* The value stored under a label; made when missing, unless create is false (then NULL). */
static struct labelled *label_find(enum metric m, const char *name, bool create)
{
    check(m, true);
    uint32_t hash = 2166136261u;
    for (const char *p = name; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 16777619u;
    for (uint32_t i = hash ^ hash >> 16;; i++) {
        struct labelled *l = &labels[m][i % LABELS_MAX];
        const char *there = atomic_load_explicit(&l->name, memory_order_acquire);
        if (!there) {
            if (!create)
                return NULL;
            if (atomic_load(&values[m]) >= LABELS_FILL && strcmp(name, "other") != 0)
                return label_find(m, "other", true);
            if (atomic_compare_exchange_strong(&l->name, &there, name)) {
                atomic_fetch_add(&values[m], 1);
                return l;
            }
        }
        if (there == name || strcmp(there, name) == 0)
            return l;
    }
}

/* Mostly it is the same one as last time: that is known by where it stands. */
static _Atomic int64_t *cell_of(enum metric m, const char *label_value)
{
    static _Thread_local struct {
        const char *name;
        struct labelled *at;
    } last[METRIC_COUNT];
    if (last[m].name != label_value) {
        last[m].at = label_find(m, label_value, true);
        last[m].name = label_value;
    }
    return &last[m].at->value;
}

void metric_add_l(enum metric m, const char *label_value, int64_t n)
{
    check(m, true);
    atomic_fetch_add_explicit(cell_of(m, label_value), n, memory_order_relaxed);
}

void metric_add_l_own(enum metric m, const char *label_value, int64_t n)
{
    check(m, true);
    add_own(cell_of(m, label_value), n);
}

void metric_set_l(enum metric m, const char *label_value, int64_t v)
{
    atomic_store_explicit(&label_find(m, label_value, true)->value, v, memory_order_relaxed);
}

int64_t metric_get_l(enum metric m, const char *label_value)
{
    struct labelled *l = label_find(m, label_value, false);
    return l ? atomic_load_explicit(&l->value, memory_order_relaxed) : 0;
}

_Atomic int64_t *metric_cell(enum metric m, const char *label_value)
{
    if (label_value)
        return &label_find(m, label_value, true)->value;
    check(m, false);
    return &values[m];
}

void metric_observe(enum metric m, double seconds)
{
    check(m, false);
    ASSERT(rows[m].kind == KIND_HISTOGRAM);
    if (!(seconds >= 0)) /* a clock that stepped back */
        seconds = 0;
    if (seconds > 1e9)
        seconds = 1e9;
    int b = 0;
    while (b < BUCKETS - 1 && seconds > bounds[b].le)
        b++;
    atomic_fetch_add_explicit(&buckets[m][b], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&sums_us[m], (int64_t)(seconds * 1e6), memory_order_relaxed);
    atomic_fetch_add_explicit(&values[m], 1, memory_order_relaxed);
}

/* ---- exposition ---- */

static void put_escaped(struct buf *b, struct str s, bool quotes)
{
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '\n')
            buf_put(b, STR("\\n"));
        else if (s.p[i] == '\\' || (quotes && s.p[i] == '"'))
            buf_printf(b, "\\%c", s.p[i]);
        else
            buf_putc(b, s.p[i]);
    }
}

void metrics_server_name(struct str name)
{
    struct buf b;
    buf_init(&b, sizeof server_label - 1);
    buf_put(&b, STR("server_name=\""));
    put_escaped(&b, name, true);
    buf_putc(&b, '"');
    ASSERT(!b.failed); /* a server name has at most 255 bytes */
    memcpy(server_label, b.p, b.n);
    server_label[b.n] = 0;
    buf_fini(&b);
}

/* name_suffix{server_name="…",label="value"} */
static void put_row(struct buf *b, const char *name, const char *suffix, const char *label, const char *value)
{
    buf_put(b, str_of(name));
    buf_put(b, str_of(suffix));
    if (server_label[0] || label) {
        buf_putc(b, '{');
        buf_put(b, str_of(server_label));
        if (label) {
            buf_printf(b, "%s%s=\"", server_label[0] ? "," : "", label);
            put_escaped(b, str_of(value), true);
            buf_putc(b, '"');
        }
        buf_putc(b, '}');
    }
    buf_putc(b, ' ');
}

static void put_value(struct buf *b, int64_t v)
{
    buf_i64(b, v);
    buf_putc(b, '\n');
}

static void put_histogram(struct buf *b, enum metric m)
{
    int64_t sum = 0;
    for (int k = 0; k < BUCKETS; k++) {
        sum += atomic_load_explicit(&buckets[m][k], memory_order_relaxed);
        put_row(b, rows[m].name, "_bucket", "le", bounds[k].text);
        put_value(b, sum);
    }
    /* The count is the last bucket, not values[m]: an observation may be half-way through. */
    put_row(b, rows[m].name, "_count", NULL, NULL);
    put_value(b, sum);
    put_row(b, rows[m].name, "_sum", NULL, NULL);
    int64_t us = atomic_load_explicit(&sums_us[m], memory_order_relaxed);
    buf_printf(b, "%lld.%06lld\n", (long long)(us / 1000000), (long long)(us % 1000000));
}

static int by_name(const void *a, const void *b)
{
    const struct labelled *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static void put_labelled(struct buf *b, enum metric m)
{
    struct labelled *sorted[LABELS_MAX];
    size_t n = 0;
    for (size_t i = 0; i < LABELS_MAX; i++)
        if (atomic_load_explicit(&labels[m][i].name, memory_order_acquire))
            sorted[n++] = &labels[m][i];
    qsort(sorted, n, sizeof *sorted, by_name);
    for (size_t i = 0; i < n; i++) {
        put_row(b, rows[m].name, "", rows[m].label, sorted[i]->name);
        put_value(b, atomic_load_explicit(&sorted[i]->value, memory_order_relaxed));
    }
}

void metrics_write(struct buf *b)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    mem_report();
    for (int m = 0; m < METRIC_COUNT; m++) {
        buf_printf(b, "# HELP %s ", rows[m].name);
        put_escaped(b, str_of(rows[m].help), false);
        buf_printf(b, "\n# TYPE %s %s\n", rows[m].name, kinds[rows[m].kind]);
        if (rows[m].kind == KIND_HISTOGRAM) {
            put_histogram(b, (enum metric)m);
        } else if (rows[m].label) {
            put_labelled(b, (enum metric)m);
        } else {
            put_row(b, rows[m].name, "", NULL, NULL);
            put_value(b, metric_get((enum metric)m));
        }
    }
}
