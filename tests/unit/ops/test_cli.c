/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Command line: exit status, what is said and where, and whether the worker would have been run. The database
 * named in the files cannot be reached, so --check-config must say so and pass.
 */
#include "test_ops.h"

#include "chappe/log.h"
#include "chappe/server.h"
#include "chappe/version.h"
#include "support/temp_dir.h"

#include <unistd.h>

static char dir[64];
static char homeserver[96], worker[96], bad[96];
static int runs;

static void file(char *path, size_t size, const char *name, const char *text)
{
    snprintf(path, size, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int setup(void **state)
{
    (void)state;
    if (!temp_dir(dir, sizeof dir, "cli"))
        return -1;
    file(homeserver, sizeof homeserver, "homeserver.yaml",
         "server_name: example.com\nredis: {enabled: true, password: hunter2}\ninstance_map: {main: {host: "
         "h, port: 1}}\n"
         "database: {name: psycopg2, args: {host: /nowhere/at/all, dbname: d, password: hunter2}}\nmodules: "
         "[{module: a.B}]\n");
    file(worker, sizeof worker, "worker.yaml",
         "worker_app: synapse.app.generic_worker\nworker_name: w1\nworker_listeners: [{type: http, port: "
         "1}]\n"
         "chappe: {log_level: error}\n");
    file(bad, sizeof bad, "bad.yaml", "\nchappe: {nonsense: 1}\n");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return unlink(homeserver) || unlink(worker) || unlink(bad) || rmdir(dir);
}

static int fake_run(const struct config *cfg)
{
    runs++;
    assert_true(str_eq(cfg->worker_name, STR("w1")));
    assert_int_equal(log_level, LOG_ERROR);
    return 7;
}

struct outcome {
    int status;
    char *out, *err;
};

static struct outcome call(const char *const *args)
{
    char *argv[16] = {(char *)"chappe"};
    int argc = 1;
    size_t n;
    struct outcome o;
    struct cli cli = {.run = fake_run};

    while (args[argc - 1]) {
        argv[argc] = (char *)args[argc - 1];
        argc++;
    }
    cli.out = open_memstream(&o.out, &n);
    size_t m;
    cli.err = open_memstream(&o.err, &m);
    runs = 0;
    o.status = cli_run(&cli, argc, argv);
    fclose(cli.out);
    fclose(cli.err);
    return o;
}

static void outcome_free(struct outcome *o)
{
    free(o->out);
    free(o->err);
}

static void test_table(void **state)
{
    const struct {
        const char *args[10];
        int status, runs;
        const char *out, *err; /* "": nothing at all */
    } table[] = {
        {{"--config-path", homeserver, "--config-path", worker}, 7, 1, "", NULL},
        {{"-c", homeserver, "-c", worker}, 7, 1, "", NULL},
        {{"-c", homeserver, worker}, 7, 1, "", NULL},
        {{"-c", dir, "--no-redirect-stdio"},
         7,
         1,
         "",
         NULL}, /* worker.yaml comes last and replaces "chappe" */
        {{"--keys-directory", "/k", "-n", "-c", homeserver, "-c", worker, "--manhole=5", "--print-pidfile"},
         7,
         1,
         "",
         NULL},
        {{"-c", worker}, 1, 0, "", "server_name is missing"},
        {{"-c", homeserver}, 1, 0, "", "worker_app is not set"},
        {{"-c", "/nowhere.yaml"}, 1, 0, "", "cannot open /nowhere.yaml"},
        {{"-c", homeserver, "-c", worker, "-c", bad},
         1,
         0,
         "",
         "bad.yaml:2: chappe.nonsense: no such option"},
        {{"-c", homeserver, "-c", worker, "--print-config"}, 0, 0, "worker_name: \"w1\"", ""},
        {{"-c", homeserver, "-c", worker, "--check-config"}, 0, 0, "database: no connection", ""},
        {{"-c", homeserver, "-c", worker, "--check-config"}, 0, 0, "warning: ", ""},
        {{"-c", homeserver, "-c", worker, "--check-config"},
         0,
         0,
         "files: w1 on example.com, 1 listener(s)",
         ""},
        {{"-c", homeserver, "-c", worker, "--check-config", "--print-config"}, 0, 0, "files: w1", ""},
        {{"-c", bad, "--check-config"}, 1, 0, "", "server_name is missing"},
        {{"--version"}, 0, 0, "chappe " CHAPPE_VERSION, ""},
        {{"--help"}, 0, 0, "usage: chappe", ""},
        {{"-h", "--nonsense"}, 0, 0, "usage: chappe", ""},
        {{NULL}, 2, 0, "", "missing: --config-path"},
        {{"--check-config"}, 2, 0, "", "missing: --config-path"},
        {{"--nonsense"}, 2, 0, "", "unknown argument: --nonsense"},
        {{"--config-pathx", "a"}, 2, 0, "", "unknown argument: --config-pathx"},
        {{"stray", "-c", homeserver}, 2, 0, "", "unknown argument: stray"},
        {{"-c"}, 2, 0, "", "a path is missing after: -c"},
        {{"-D", "-c", homeserver}, 2, 0, "", "service manager: -D"},
        {{"--daemonize", "-c", homeserver}, 2, 0, "", "service manager: --daemonize"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct outcome o = call(table[i].args);
        const char *want[] = {table[i].out, table[i].err}, *got[] = {o.out, o.err};
        if (o.status != table[i].status || runs != table[i].runs)
            fail_msg("case %zu: status %d, %d runs: %s", i, o.status, runs, o.err);
        for (int k = 0; k < 2; k++)
            if (want[k] && (want[k][0] ? !strstr(got[k], want[k]) : got[k][0] != 0))
                fail_msg("case %zu: \"%s\" instead of \"%s\"", i, got[k], want[k]);
        assert_null(strstr(o.out, "hunter2"));
        assert_null(strstr(o.err, "hunter2"));
        outcome_free(&o);
    }
}

static void test_equals_sign(void **state)
{
    char one[128], two[128];

    (void)state;
    snprintf(one, sizeof one, "--config-path=%s", homeserver);
    snprintf(two, sizeof two, "-c%s", worker);
    struct outcome o = call((const char *[]){one, two, NULL});
    assert_int_equal(o.status, 7);
    assert_int_equal(runs, 1);
    outcome_free(&o);
}

int run_cli(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_equals_sign)};

    return cmocka_run_group_tests_name("cli", tests, setup, teardown);
}
