/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_SERVER_H
#define CHAPPE_SERVER_H
/* The program: command line, and the worker that runs until it is told to stop. */
#include <stdio.h>

#include "chappe/config.h"

/* Serves until SIGTERM or SIGINT; the result is the exit status. */
int server_run(const struct config *cfg);

/* What the command line asked for; cli_run answers --help and the like on out and errors on err. */
struct cli {
    int (*run)(const struct config *cfg); /* server_run; a test gives its own */
    FILE *out, *err;
};
int cli_run(const struct cli *cli, int argc, char **argv);
#endif
