/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Command line: the flags that Synapse workers are started with, and four of our own.
 *
 * Units and container entry points written for a Synapse worker must work after a change of the program's
 * name, so its harmless flags are accepted. Those that would change what the process does are refused,
 * because ignoring them would surprise: --daemonize has its place in the service manager. Exit status: 0, 1
 * for a configuration that does not work, 2 for a command line that is not understood.
 */
#include "chappe/log.h"
#include "chappe/pg.h"
#include "chappe/server.h"
#include "chappe/version.h"

#include <stdlib.h>

enum { EXIT_CONFIG = 1, EXIT_USAGE = 2 };

struct request {
    VEC(const char *) paths;
    bool check, print, done;
};

static const char usage[] =
    "usage: chappe --config-path FILE [--config-path FILE ...] [--check-config | --print-config]\n"
    "\n"
    "  -c, --config-path PATH  Synapse's homeserver.yaml, then the worker's file; later files override "
    "earlier\n"
    "                          ones, and a directory stands for its *.yaml files\n"
    "      --check-config      check the files, and the database if it can be reached; then exit\n"
    "      --print-config      print the effective configuration, secrets masked; then exit\n"
    "      --version           print the version; then exit\n"
    "  -h, --help              print this; then exit\n"
    "\n"
    "Accepted for the sake of Synapse's start scripts, without effect: --keys-directory DIR,\n"
    "--no-redirect-stdio (-n), --no-secrets-in-config, --print-pidfile, --manhole PORT.\n";

/* Flags without effect here. */
static const struct {
    const char *name;
    bool takes_value;
} ignored[] = {
    {"--keys-directory", true}, {"--no-redirect-stdio", false},    {"-n", false},
    {"--manhole", true},        {"--no-secrets-in-config", false}, {"--print-pidfile", false},
};

static int usage_error(const struct cli *cli, const char *what, const char *arg)
{
    fprintf(cli->err, "chappe: %s: %s\n%s", what, arg, usage);
    return EXIT_USAGE;
}

/* Does argv[*i] name this flag? Its value, if it takes one, follows "=" or is the next argument. */
static bool flag_is(const char *name, bool takes_value, int argc, char **argv, int *i, const char **value)
{
    size_t n = strlen(name);
    const char *arg = argv[*i];

    *value = NULL;
    if (strncmp(arg, name, n) != 0)
        return false;
    if (takes_value && arg[n] == '=' && name[1] == '-')
        *value = arg + n + 1;
    else if (takes_value && arg[n] && name[1] != '-') /* -cFILE */
        *value = arg + n;
    else if (arg[n])
        return false;
    else if (takes_value && *i + 1 < argc)
        *value = argv[++*i];
    return true;
}

static bool is_ignored(int argc, char **argv, int *i)
{
    const char *value;

    for (size_t k = 0; k < sizeof ignored / sizeof *ignored; k++)
        if (flag_is(ignored[k].name, ignored[k].takes_value, argc, argv, i, &value))
            return true;
    return false;
}

static int args_parse(const struct cli *cli, int argc, char **argv, struct request *q)
{
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *value;
        if (flag_is("--config-path", true, argc, argv, &i, &value) ||
            flag_is("-c", true, argc, argv, &i, &value)) {
            if (!value)
                return usage_error(cli, "a path is missing after", arg);
            vec_push(&q->paths, value);
            /* argparse takes several values after one flag. */
            while (i + 1 < argc && argv[i + 1][0] != '-')
                vec_push(&q->paths, argv[++i]);
        } else if (strcmp(arg, "--check-config") == 0) {
            q->check = true;
        } else if (strcmp(arg, "--print-config") == 0) {
            q->print = true;
        } else if (strcmp(arg, "--version") == 0) {
            fprintf(cli->out, "chappe " CHAPPE_VERSION " (like Synapse " SYNAPSE_VERSION_LIKE ")\n");
            q->done = true;
        } else if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            fputs(usage, cli->out);
            q->done = true;
        } else if (strcmp(arg, "--daemonize") == 0 || strcmp(arg, "-D") == 0) {
            return usage_error(cli, "not supported, run it under a service manager", arg);
        } else if (!is_ignored(argc, argv, &i)) {
            return usage_error(cli, "unknown argument", arg);
        }
        if (q->done)
            return 0;
    }
    if (q->paths.n == 0)
        return usage_error(cli, "missing", "--config-path");
    return 0;
}

/* The database is a part of the check only when it answers: files are often checked elsewhere. */
static int database_check(const struct cli *cli, const struct config *cfg)
{
    struct pg_schema schema;
    struct err e = {""};
    int rc = pg_schema_check(cfg, &schema, &e);

    if (rc == 0) {
        fprintf(cli->out, "database: schema version %d, compatible with %d: supported\n", schema.version,
                schema.compat);
        return 0;
    }
    if (rc == -ERR_DB_DOWN) {
        fprintf(cli->out, "database: no connection, so its schema was not checked (%s)\n", e.text);
        return 0;
    }
    fprintf(cli->err, "chappe: database: %s\n", e.text[0] ? e.text : err_text(rc));
    return EXIT_CONFIG;
}

static int config_check(const struct cli *cli, const struct config *cfg)
{
    for (size_t i = 0; i < cfg->warnings_count; i++)
        fprintf(cli->out, "warning: %.*s\n", STR_ARG(cfg->warnings[i]));
    fprintf(cli->out,
            "files: %.*s on %.*s, %zu listener(s), %zu instance(s), %zu application service(s), %zu "
            "warning(s)\n",
            STR_ARG(cfg->worker_name), STR_ARG(cfg->server_name), cfg->listeners_count, cfg->instances_count,
            cfg->app_services_count, cfg->warnings_count);
    return database_check(cli, cfg);
}

static void config_show(const struct cli *cli, const struct config *cfg)
{
    struct buf b;

    buf_init(&b, 16 << 20);
    config_print(cfg, &b);
    fwrite(b.p, 1, b.n, cli->out);
    buf_fini(&b);
}

static void log_level_set(const struct config *cfg)
{
    static const char *const names[] = {"debug", "info", "warning", "error"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (str_eq(cfg->log_level, str_of(names[i])))
            log_level = (enum log_level)i;
}

static int serve(const struct cli *cli, const struct config *cfg)
{
    log_level_set(cfg);
    for (size_t i = 0; i < cfg->warnings_count; i++)
        log_warning("chappe.config", "%.*s", STR_ARG(cfg->warnings[i]));
    return cli->run(cfg);
}

int cli_run(const struct cli *cli, int argc, char **argv)
{
    struct request q = {.check = false};
    struct err e = {""};
    int rc = args_parse(cli, argc, argv, &q);

    if (rc == 0 && !q.done) {
        struct config *cfg = config_load(q.paths.v, q.paths.n, &e);
        if (!cfg) {
            fprintf(cli->err, "chappe: %s\n", e.text);
            rc = EXIT_CONFIG;
        } else if (q.check || q.print) {
            if (q.print)
                config_show(cli, cfg);
            if (q.check)
                rc = config_check(cli, cfg);
        } else {
            rc = serve(cli, cfg);
        }
        config_free(&cfg);
    }
    vec_free(&q.paths);
    return rc;
}
