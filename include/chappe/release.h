/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_RELEASE_H
#define CHAPPE_RELEASE_H
/*
 * Which Synapse this is, for the whole process: the feed learns it from the main process, and again when that
 * is upgraded. Until then what the database shows stands in (release_by_tables). Any thread may ask.
 */
#include "chappe/str.h"

struct release {
    int major, minor, patch; /* all 0: not known */
};
enum release_fact {
#define RELEASE_FACT(id, minor, what) RELEASE_##id,
#include "chappe/tbl/releases.def"
    RELEASE_FACT_COUNT
};
enum release_verdict { RELEASE_TOO_OLD, RELEASE_KNOWN, RELEASE_NEWER };

struct release release_now(void); /* the newest known one before release_set */
void release_set(struct release r);
bool release_has(enum release_fact f);
int release_token_fields(void);

/* What a Synapse says in its Server header: "Synapse/1.157.1 (b=…)". False when it is not Synapse's. */
bool release_parse(struct str server, struct release *out);
enum release_verdict release_judge(struct release r);
bool release_differs(struct release a, struct release b); /* in any row of tbl/releases.def */
struct release release_oldest(void);
struct release release_newest(void);
/* Tables that tell releases apart, and the oldest release that has all of those present. */
size_t release_signs(const char *const **tables);
struct release release_by_tables(bool (*there)(const void *arg, const char *table), const void *arg);
#endif
