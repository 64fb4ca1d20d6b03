/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* The pool when the server does not behave: away at start, hanging, killed, restarted under load, unsuitable.
 */
#include "pg_test.h"

#include "chappe/clock.h"
#include "chappe/metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct changes {
    int count;
    bool last;
};

static void note_change(void *arg, bool up)
{
    struct changes *c = arg;
    c->count++;
    c->last = up;
}

static void killed_backends(void **state)
{
    (void)state;
    struct fix *f = fix_new(2);
    struct answer nap, a[40];
    fix_exec(f, T_echo, args_1("warm"), &a[0]);
    fix_drain(f, 10);
    int64_t reconnects = metric_get(M_pg_reconnects);
    fix_exec(f, T_nap, args_2("rested", "0.4"), &nap);
    for (int i = 0; i < 40; i++)
        fix_exec(f, i % 3 ? T_echo : T_insert, i % 3 ? args_1("x") : args_2("killed", "1"), &a[i]);
    fix_turns(f, 100);
    sql_now("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE application_name = 'chappe' AND pid <> pg_backend_pid()");
    fix_drain(f, 20);
    assert_string_equal(nap.text, "rested");
    for (int i = 0; i < 40; i++)
        assert_int_equal(a[i].err, 0);
    fix_turns(f, 500);
    assert_true(metric_get(M_pg_reconnects) - reconnects >= 2);
    fix_free(&f);
}

static void statement_that_kills_is_given_up(void **state)
{
    (void)state;
    struct fix *f = fix_new(2);
    struct answer poison, a[10];
    fix_exec(f, T_suicide, NULL, &poison);
    for (int i = 0; i < 10; i++)
        fix_exec(f, T_echo, args_1("x"), &a[i]);
    fix_drain(f, 40);
    assert_int_equal(poison.err, -ERR_DB);
    for (int i = 0; i < 10; i++)
        assert_int_equal(a[i].err, 0);
    fix_free(&f);
}

struct load {
    struct fix *f;
    uv_timer_t timer;
    int sent, ok, wrong, phase;
    int64_t stop_at_ms;
};

static void load_answer(void *arg, int err, const struct pg_result *r)
{
    struct load *l = arg;
    l->f->pending--;
    if (err == 0 && pg_rows(r) == 1 && str_eq(pg_str(r, 0, 0), STR("payload")))
        l->ok++;
    else
        l->wrong++;
}

/* Three statements every 5 ms throughout, while the server is stopped, stays away for a moment and comes
 * back. */
static void load_tick(uv_timer_t *t)
{
    struct load *l = t->data;
    for (int i = 0; i < 3; i++) {
        l->sent++;
        l->f->pending++;
        pg_exec(l->f->pg, (enum pg_stmt)(i ? T_echo : T_nap),
                i ? args_1("payload") : args_2("payload", "0.002"), load_answer, l);
    }
    int64_t now = clock_mono_ms();
    if (l->phase == 0 && l->sent > 150) {
        pg_cluster_signal_stop(&cluster);
        l->phase = 1;
    } else if (l->phase == 1 && pg_cluster_stopped(&cluster)) {
        l->stop_at_ms = now + 300;
        l->phase = 2;
    } else if (l->phase == 2 && now > l->stop_at_ms) {
        pg_cluster_spawn(&cluster);
        l->stop_at_ms = now + 1500;
        l->phase = 3;
    } else if (l->phase == 3 && now > l->stop_at_ms) {
        uv_timer_stop(t);
        l->phase = 4;
    }
}

static void restart_under_load(void **state)
{
    (void)state;
    struct fix *f = fix_new(3);
    struct answer warm;
    struct changes changes = {0};
    fix_exec(f, T_echo, args_1("x"), &warm);
    fix_drain(f, 10);
    pg_on_change(f->pg, note_change, &changes);
    struct load l = {.f = f};
    l.timer.data = &l;
    uv_timer_init(&f->loop, &l.timer);
    uv_timer_start(&l.timer, load_tick, 5, 5);
    for (int i = 0; i < 400 && l.phase < 4; i++)
        fix_turns(f, 100);
    assert_int_equal(l.phase, 4);
    fix_drain(f, 30);
    assert_int_equal(l.wrong, 0);
    assert_int_equal(l.ok, l.sent);
    assert_true(changes.count >= 2);
    assert_true(changes.last);
    assert_true(pg_up(f->pg));
    uv_close((uv_handle_t *)&l.timer, NULL);
    fix_free(&f);
}

static void unreachable_at_start(void **state)
{
    (void)state;
    pg_cluster_stop(&cluster);
    struct fix *f = fix_new(2);
    struct changes changes = {0};
    struct answer a;
    pg_on_change(f->pg, note_change, &changes);
    fix_exec(f, T_echo, args_1("patient"), &a);
    fix_turns(f, 700);
    assert_int_equal(a.calls, 0);
    assert_false(pg_up(f->pg));
    assert_int_equal(changes.count, 0);
    assert_int_equal(pg_cluster_spawn(&cluster), 0);
    fix_drain(f, 30);
    assert_string_equal(a.text, "patient");
    assert_int_equal(changes.count, 1);
    assert_true(pg_up(f->pg));
    fix_free(&f);
    assert_int_equal(pg_cluster_wait(&cluster), 0);
}

/* A server whose kernel accepts and who then says nothing. */
static void hanging_server_times_out(void **state)
{
    (void)state;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int port = cluster.port + 20;
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(s >= 0);
    while (at.sin_port = htons((uint16_t)port), bind(s, (struct sockaddr *)&at, sizeof at) != 0)
        assert_true(++port < cluster.port + 50);
    assert_int_equal(listen(s, 16), 0);
    struct config cfg;
    char conninfo[256];
    fix_config(&cfg, "postgres", 1);
    snprintf(conninfo, sizeof conninfo, "host=127.0.0.1 port=%d user=chappe dbname=postgres", port);
    cfg.db_main.conninfo = str_of(conninfo);
    struct fix *f = fix_new_with(&cfg);
    f->pg->connect_timeout_ms = 150;
    struct answer a;
    fix_exec(f, T_echo, args_1("x"), &a);
    fix_turns(f, 1200);
    assert_false(pg_up(f->pg));
    int tries = 0;
    for (int c; (c = accept4(s, NULL, NULL, SOCK_NONBLOCK)) >= 0; tries++) {
        close(c);
        struct timeval none = {.tv_usec = 1000};
        setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
        if (tries == 15)
            break;
    }
    assert_true(tries >= 2);
    close(s);
    fix_free(&f);
    assert_int_equal(a.err, -ERR_SHUTDOWN);
}

/* Over TCP, with names resolving to several addresses of which the first may refuse: the socket changes on
 * the way. */
static void second_host_is_tried(void **state)
{
    (void)state;
    struct config cfg;
    char conninfo[512];
    fix_config(&cfg, "postgres", 2);
    snprintf(conninfo, sizeof conninfo, "host=127.0.0.1,127.0.0.1 port=%d,%d user=chappe dbname=postgres",
             cluster.port + 50, cluster.port);
    cfg.db_main.conninfo = str_of(conninfo);
    struct fix *f = fix_new_with(&cfg);
    struct answer a;
    fix_exec(f, T_echo, args_1("found"), &a);
    fix_drain(f, 10);
    assert_string_equal(a.text, "found");
    fix_free(&f);
}

static void unsuitable_databases(void **state)
{
    (void)state;
    static const char *const names[] = {"ascii", "too_new"};
    sql_now("postgres", "CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0");
    sql_now("postgres", "CREATE DATABASE too_new");
    sql_now("too_new", "CREATE TABLE schema_compat_version (compat_version int)");
    sql_now("too_new", "INSERT INTO schema_compat_version VALUES (95)");
    for (int i = 0; i < 2; i++) {
        struct config cfg;
        struct answer a;
        fix_config(&cfg, names[i], 1);
        struct fix *f = fix_new_with(&cfg);
        fix_exec(f, T_echo, args_1("x"), &a);
        fix_turns(f, 400);
        assert_false(pg_up(f->pg));
        fix_free(&f);
        assert_int_equal(a.err, -ERR_SHUTDOWN);
    }
    sql_now("too_new", "UPDATE schema_compat_version SET compat_version = 94");
    struct config cfg;
    struct answer a;
    fix_config(&cfg, "too_new", 1);
    struct fix *f = fix_new_with(&cfg);
    fix_exec(f, T_echo, args_1("x"), &a);
    fix_drain(f, 10);
    fix_free(&f);
}

int run_faults(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_backends),          cmocka_unit_test(statement_that_kills_is_given_up),
        cmocka_unit_test(hanging_server_times_out), cmocka_unit_test(second_host_is_tried),
        cmocka_unit_test(unsuitable_databases),     cmocka_unit_test(restart_under_load),
        cmocka_unit_test(unreachable_at_start),
    };
    return cmocka_run_group_tests_name("faults", tests, NULL, NULL);
}
