/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Entry point; everything is in src/ops. */
#include "chappe/server.h"

int main(int argc, char **argv)
{
    struct cli cli = {.run = server_run, .out = stdout, .err = stderr};

    return cli_run(&cli, argc, argv);
}
