/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_TEST_PG_CLUSTER_H
#define CHAPPE_TEST_PG_CLUSTER_H
/*
 * A private PostgreSQL for tests: its own data folder under the system's temporary folder, a UNIX socket in
 * the same place and a TCP port on loopback, durability off, everybody trusted, a superuser "chappe". As root
 * it runs under an unprivileged account, because initdb refuses root. The server dies with the test.
 */
#include <stdbool.h>
#include <sys/types.h>

struct pg_cluster {
    char bin[256], dir[256];
    int port;
    uid_t uid;
    gid_t gid;
    pid_t pid; /* 0: not running */
};
/* Without PostgreSQL's programs on this machine: false, and nothing was done. */
bool pg_cluster_available(void);
/* Makes the cluster's folder, and takes the first free port of the ten from port_from; 0 or -1. */
int pg_cluster_init(struct pg_cluster *c, int port_from);
/* Starts the server without waiting; pg_cluster_wait returns 0 once it takes connections. */
int pg_cluster_spawn(struct pg_cluster *c);
int pg_cluster_wait(struct pg_cluster *c);
/* Asks it to stop at once (fast shutdown); pg_cluster_stopped tells, without waiting, whether it has. */
void pg_cluster_signal_stop(struct pg_cluster *c);
bool pg_cluster_stopped(struct pg_cluster *c);
void pg_cluster_stop(struct pg_cluster *c); /* and waits */
void pg_cluster_remove(struct pg_cluster *c);
#endif
