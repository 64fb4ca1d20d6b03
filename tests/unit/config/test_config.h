/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_TEST_CONFIG_H
#define CHAPPE_TEST_CONFIG_H
/* What the test files of this module share. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "config_int.h"

/* The least that loads; BASE_LINES lines. */
#define BASE                                                                                                 \
    "server_name: example.com\n"                                                                             \
    "worker_app: synapse.app.generic_worker\n"                                                               \
    "worker_name: sync1\n"                                                                                   \
    "redis: {enabled: true}\n"                                                                               \
    "instance_map: {main: {host: localhost, port: 9093}, w2: {host: h2, port: 9094}, w3: {path: /run/w3}}\n" \
    "database: {name: psycopg2, args: {database: synapse, user: synapse}}\n"                                 \
    "worker_listeners: [{type: http, port: 8083, resources: [{names: [client]}]}]\n"
enum { BASE_LINES = 7 };

/* BASE with more after it; of equal keys the last one counts. Fails the test when it does not load. */
struct config *load(const char *more);
void assert_str(struct str s, const char *want);
bool has_warning(const struct config *c, const char *part);

int run_config(void);
int run_files(void);
int run_yaml(void);
int run_release(void);
#endif
