/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_METRICS_H
#define CHAPPE_METRICS_H
/*
 * Every metric is one row of tbl/metrics.def. Adding is wait-free and may be done on any thread. A labelled
 * metric has one label whose values come from us (statement names, reasons, streams), never from peers.
 */
#include "chappe/mem.h"
#include <stdatomic.h>
enum metric {
#define COUNTER(id, name, help)          M_##id,
#define GAUGE(id, name, help)            M_##id,
#define COUNTER_L(id, name, label, help) M_##id,
#define GAUGE_L(id, name, label, help)   M_##id,
#define HISTOGRAM(id, name, help)        M_##id, /* of seconds, Prometheus' default buckets */
#include "chappe/tbl/metrics.def"
#undef COUNTER
#undef GAUGE
#undef COUNTER_L
#undef GAUGE_L
#undef HISTOGRAM
    METRIC_COUNT
};
void metric_add(enum metric m, int64_t n);
void metric_set(enum metric m, int64_t v);
void metric_add_l(enum metric m, const char *label_value,
                  int64_t n); /* label_value must outlive the process */
/* The same for what no other thread ever adds to, and which is added to for every answer: nothing is locked.
 */
void metric_add_own(enum metric m, int64_t n);
void metric_add_l_own(enum metric m, const char *label_value, int64_t n);
void metric_set_l(enum metric m, const char *label_value, int64_t v);
/* Where a counter or gauge is kept, for those who add to it all the time; label_value: NULL for one without
 * labels. */
_Atomic int64_t *metric_cell(enum metric m, const char *label_value);
void metric_observe(enum metric m, double seconds);
int64_t metric_get(enum metric m);
int64_t metric_get_l(enum metric m, const char *label_value);
/* Prometheus text exposition, version 0.0.4; every row carries server_name="…" once it is set. */
void metrics_server_name(struct str name);
void metrics_write(struct buf *b);
#endif
