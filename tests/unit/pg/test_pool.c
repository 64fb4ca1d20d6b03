/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* The pool on a server that behaves: many statements, isolation of errors, values of every kind, limits. */
#include "pg_test.h"

#include "chappe/metrics.h"

#include <stdio.h>
#include <stdlib.h>

static int setup(void **state)
{
    (void)state;
    sql_now("postgres", "CREATE TABLE things (kind text, n bigint CHECK (n < 1000000))");
    sql_now("postgres", "CREATE TABLE deferred_unique (n bigint UNIQUE DEFERRABLE INITIALLY DEFERRED)");
    sql_now("postgres", "CREATE TABLE widening (a int)");
    sql_now("postgres", "INSERT INTO widening VALUES (7)");
    return 0;
}

static void many_in_one_turn(void **state)
{
    (void)state;
    enum { N = 5000 };
    struct fix *f = fix_new(3);
    struct answer *a = xcalloc(N, sizeof *a);
    char n[16];
    for (int i = 0; i < N; i++) {
        snprintf(n, sizeof n, "%d", i);
        fix_exec(f, i % 7 == 0 ? T_echo_i64 : T_echo, args_1(n), &a[i]);
    }
    fix_drain(f, 30);
    for (int i = 0; i < N; i++) {
        snprintf(n, sizeof n, "%d", i);
        assert_int_equal(a[i].err, 0);
        assert_string_equal(a[i].text, n);
    }
    assert_true(pg_up(f->pg));
    /* The first connections may have done it all before the last one was open. */
    for (int i = 0; i < 1000 && metric_get(M_pg_connections) < 3; i++)
        fix_turns(f, 10);
    assert_int_equal(metric_get(M_pg_connections), 3);
    assert_int_equal(metric_get(M_pg_waiting), 0);
    free(a);
    fix_free(&f);
    assert_int_equal(metric_get(M_pg_connections), 0);
}

static void one_connection_keeps_the_order(void **state)
{
    (void)state;
    enum { N = 300 };
    struct fix *f = fix_new(1);
    struct answer a[N];
    for (int i = 0; i < N; i++)
        fix_exec(f, i % 5 == 0 ? T_insert : T_echo, i % 5 == 0 ? args_2("order", "1") : args_1("x"), &a[i]);
    fix_drain(f, 20);
    for (int i = 1; i < N; i++)
        assert_true(a[i].order > a[i - 1].order);
    fix_free(&f);
}

static void errors_stay_with_their_statement(void **state)
{
    (void)state;
    static const struct {
        int stmt;
        const char *a, *b;
        int err;
        const char *text;
    } rows[] = {
        {T_echo, "first", NULL, 0, "first"},
        {T_divide, "0", NULL, -ERR_DB, ""},
        {T_divide, "1", NULL, 0, "1"},
        {T_insert, "isolated", "1", 0, ""},
        {T_insert, "isolated", "5000000", -ERR_DB, ""},
        {T_no_table, NULL, NULL, -ERR_DB, ""},
        {T_echo, "between", NULL, 0, "between"},
        {T_syntax, NULL, NULL, -ERR_DB, ""},
        {T_syntax, NULL, NULL, -ERR_DB, ""},
        {T_insert_returning, "isolated", "41", 0, "42"},
        {T_echo_i64, "not a number", NULL, -ERR_DB, ""},
        {T_divide, "0", NULL, -ERR_DB, ""},
        {T_insert, "isolated", "2", 0, ""},
        {T_echo, "last", NULL, 0, "last"},
        {T_echo, "\xff\xfe", NULL, -ERR_DB, ""},
        {T_numbers, "{1,2}", NULL, 0, "1"},
    };
    enum { N = sizeof rows / sizeof *rows, ROUNDS = 6 };
    /* Rounds differ in what is prepared already; several rounds in one turn share groups. */
    struct fix *f = fix_new(2);
    struct answer a[ROUNDS][N];
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < N; i++)
            fix_exec(f, rows[i].stmt,
                     rows[i].b   ? args_2(rows[i].a, rows[i].b)
                     : rows[i].a ? args_1(rows[i].a)
                                 : NULL,
                     &a[round][i]);
        if (round % 2 == 1)
            fix_drain(f, 20);
    }
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < N; i++) {
            assert_int_equal(a[round][i].err, rows[i].err);
            assert_string_equal(a[round][i].text, rows[i].text);
        }
    /* Writes around the failing one are there, each once. */
    struct answer count;
    fix_exec(f, T_count, args_1("isolated"), &count);
    fix_drain(f, 5);
    assert_string_equal(count.text, "18");
    assert_true(metric_get_l(M_pg_errors, "t_divide") >= 2 * ROUNDS);
    fix_free(&f);
}

/* The error comes with the commit, after the statement's own success. */
static void failing_commit_is_an_error(void **state)
{
    (void)state;
    struct fix *f = fix_new(1);
    struct answer a[4];
    fix_exec(f, T_insert_deferred, args_1("1"), &a[0]);
    fix_exec(f, T_insert_deferred, args_1("1"), &a[1]);
    fix_exec(f, T_echo, args_1("after"), &a[2]);
    fix_exec(f, T_insert_deferred, args_1("2"), &a[3]);
    fix_drain(f, 10);
    assert_int_equal(a[0].err, 0);
    assert_int_equal(a[1].err, -ERR_DB);
    assert_string_equal(a[2].text, "after");
    assert_int_equal(a[3].err, 0);
    fix_free(&f);
}

static const struct str nasty[] = {STR(""),
                                   STR("NULL"),
                                   STR("null"),
                                   STR("{}"),
                                   STR("a,b"),
                                   STR("\"quoted\""),
                                   STR("back\\slash\\"),
                                   STR(" spaces "),
                                   STR("\t\n\r"),
                                   STR("'; DROP TABLE things; --"),
                                   STR("@ünï:exämple.com"),
                                   STR("\xf0\x9f\x97\xbc"),
                                   STR("\\\""),
                                   STR("$1"),
                                   STR_ABSENT,
                                   STR("\x01\x7f")};
enum { NASTY = sizeof nasty / sizeof *nasty };

static void check_nasty(void *arg, int err, const struct pg_result *r)
{
    assert_int_equal(err, 0);
    assert_int_equal(pg_rows(r), NASTY);
    for (int i = 0; i < NASTY; i++) {
        struct str s = pg_str(r, i, 0);
        assert_int_equal(str_absent(s), str_absent(nasty[i]));
        assert_true(str_eq(s, nasty[i]));
    }
    ((struct fix *)arg)->pending--;
}

static void check_kinds(void *arg, int err, const struct pg_result *r)
{
    assert_int_equal(err, 0);
    assert_true(pg_null(r, 0, 0));
    assert_true(str_absent(pg_str(r, 0, 0)));
    assert_int_equal(pg_i64(r, 0, 0), 0);
    assert_int_equal(pg_i64(r, 0, 1), 1);
    assert_int_equal(pg_i64(r, 0, 2), 0);
    assert_false(str_absent(pg_str(r, 0, 3)));
    assert_int_equal(pg_str(r, 0, 3).n, 0);
    assert_true(pg_i64(r, 0, 4) == INT64_MIN);
    ((struct fix *)arg)->pending--;
}

static void check_bytes(void *arg, int err, const struct pg_result *r)
{
    assert_int_equal(err, 0);
    assert_true(str_eq(pg_str(r, 0, 0), STR("{\"a\":\"b\\\\c \xc3\xa9 \\n\"}")));
    assert_true(str_eq(pg_str(r, 0, 1), STR("\0\1\xff\\'")));
    assert_true(str_absent(pg_str(r, 0, 2)));
    ((struct fix *)arg)->pending--;
}

static void check_settings(void *arg, int err, const struct pg_result *r)
{
    static const char *const want[][2] = {
        {"application_name", "chappe"},
        {"bytea_output", "escape"},
        {"client_encoding", "UTF8"},
        {"default_transaction_isolation", "read committed"},
        {"default_transaction_read_only", "off"},
        {"idle_session_timeout", "0"},
        {"jit", "off"},
        {"statement_timeout", "60000"},
        {"synchronous_commit", "on"},
    };
    assert_int_equal(err, 0);
    assert_int_equal(pg_rows(r), 9);
    for (int i = 0; i < 9; i++) {
        assert_string_equal(pg_str(r, i, 0).p, want[i][0]);
        assert_string_equal(pg_str(r, i, 1).p, want[i][1]);
    }
    ((struct fix *)arg)->pending--;
}

static void values_travel_unchanged(void **state)
{
    (void)state;
    /* Defaults of the database must not get through. */
    sql_now("postgres", "ALTER DATABASE postgres SET default_transaction_isolation TO 'serializable'");
    sql_now("postgres", "ALTER DATABASE postgres SET jit TO on");
    struct fix *f = fix_new(1);
    struct pg_args *a = pg_args_new();
    pg_args_text_array(a, nasty, NASTY);
    f->pending = 4;
    pg_exec(f->pg, (enum pg_stmt)T_texts, a, check_nasty, f);
    pg_exec(f->pg, (enum pg_stmt)T_kinds, NULL, check_kinds, f);
    pg_exec(f->pg, (enum pg_stmt)T_bytes, args_1("{\"a\":\"b\\\\c \xc3\xa9 \\n\"}"), check_bytes, f);
    pg_exec(f->pg, (enum pg_stmt)T_settings, NULL, check_settings, f);
    struct answer r[NASTY], null, empty, numbers;
    for (int i = 0; i < NASTY; i++)
        fix_exec(f, T_echo, args_1(nasty[i].p), &r[i]);
    fix_exec(f, T_echo, args_1(NULL), &null);
    a = pg_args_new();
    pg_args_text_array(a, NULL, 0);
    fix_exec(f, T_texts, a, &empty);
    a = pg_args_new();
    pg_args_i64_array(a, (const int64_t[]){INT64_MIN, 0, INT64_MAX}, 3);
    fix_exec(f, T_numbers, a, &numbers);
    fix_drain(f, 10);
    for (int i = 0; i < NASTY; i++)
        if (!str_absent(nasty[i]))
            assert_string_equal(r[i].text, nasty[i].p);
    assert_int_equal(null.rows, 1);
    assert_true(null.null);
    assert_int_equal(empty.rows, 0);
    assert_int_equal(numbers.rows, 3);
    assert_string_equal(numbers.text, "-9223372036854775808");
    fix_free(&f);
}

static void unrepresentable_text_is_refused(void **state)
{
    (void)state;
    struct fix *f = fix_new(1);
    struct answer a, b;
    struct pg_args *args = pg_args_new();
    pg_args_text(args, STR("a\0b"));
    fix_exec(f, T_echo, args, &a);
    fix_exec(f, T_echo, args_1("a"), &b);
    fix_drain(f, 10);
    assert_int_equal(a.err, -ERR_PARSE);
    assert_int_equal(b.err, 0);
    fix_free(&f);
}

static void queue_is_bounded(void **state)
{
    (void)state;
    struct config cfg;
    fix_config(&cfg, "postgres", 1);
    cfg.pg_queue_max = 100;
    int64_t refused = metric_get(M_pg_refused);
    struct fix *f = fix_new_with(&cfg);
    struct answer a[130];
    for (int i = 0; i < 130; i++)
        fix_exec(f, T_echo, args_1("x"), &a[i]);
    fix_drain(f, 10);
    for (int i = 0; i < 130; i++)
        assert_int_equal(a[i].err, i < 100 ? 0 : -ERR_LIMIT);
    assert_int_equal(metric_get(M_pg_refused) - refused, 30);
    /* Room again. */
    fix_exec(f, T_echo, args_1("x"), &a[0]);
    fix_drain(f, 10);
    assert_int_equal(a[0].err, 0);
    fix_free(&f);
}

/* Ten short statements must not wait behind a long one while another connection is free. */
static void slow_statement_holds_up_nobody(void **state)
{
    (void)state;
    struct fix *f = fix_new(2);
    struct answer slow, fast[10];
    fix_exec(f, T_echo, args_1("warm"), &fast[0]);
    fix_exec(f, T_echo, args_1("warm"), &fast[1]);
    fix_drain(f, 10);
    fix_turns(f, 200);
    fix_exec(f, T_nap, args_2("slept", "2"), &slow);
    fix_turns(f, 20);
    for (int i = 0; i < 10; i++) {
        fix_exec(f, T_echo, args_1("quick"), &fast[i]);
        while (fast[i].calls == 0 && slow.calls == 0) /* the nap ends in any case */
            fix_turns(f, 5);
    }
    int answered = 0;
    for (int i = 0; i < 10; i++)
        answered += fast[i].calls;
    assert_int_equal(slow.calls, 0);
    assert_true(answered == 10);
    fix_drain(f, 10);
    assert_string_equal(slow.text, "slept");
    fix_free(&f);
}

static void statement_timeout_ends_a_statement(void **state)
{
    (void)state;
    struct config cfg;
    fix_config(&cfg, "postgres", 1);
    cfg.db_main.statement_timeout_ms = 150;
    struct fix *f = fix_new_with(&cfg);
    struct answer a, b;
    fix_exec(f, T_nap, args_2("x", "30"), &a);
    fix_exec(f, T_echo, args_1("alive"), &b);
    fix_drain(f, 10);
    assert_int_equal(a.err, -ERR_DB);
    assert_string_equal(b.text, "alive");
    fix_free(&f);
}

static void changed_tables_get_new_plans(void **state)
{
    (void)state;
    struct fix *f = fix_new(2);
    struct answer a[8];
    for (int i = 0; i < 8; i++)
        fix_exec(f, T_star, NULL, &a[i]);
    fix_drain(f, 10);
    sql_now("postgres", "ALTER TABLE widening ALTER COLUMN a TYPE text USING 'now ' || a");
    for (int i = 0; i < 8; i++)
        fix_exec(f, T_star, NULL, &a[i]);
    fix_drain(f, 10);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(a[i].err, 0);
        assert_string_equal(a[i].text, "now 7");
    }
    fix_free(&f);
}

static void separate_state_store(void **state)
{
    (void)state;
    struct config cfg, other;
    sql_now("postgres", "CREATE DATABASE statedb");
    fix_config(&cfg, "postgres", 2);
    fix_config(&other, "statedb", 1);
    cfg.db_state = other.db_main;
    struct answer a, b;
    struct fix *f = fix_new_with(&cfg);
    fix_exec(f, T_on_state, NULL, &a);
    fix_drain(f, 10);
    assert_string_equal(a.text, "postgres");
    fix_free(&f);
    cfg.db_state_separate = true;
    f = fix_new_with(&cfg);
    fix_exec(f, T_on_state, NULL, &a);
    fix_exec(f, T_echo, args_1("x"), &b);
    fix_drain(f, 10);
    assert_string_equal(a.text, "statedb");
    assert_int_equal(b.err, 0);
    fix_free(&f);
}

struct chain {
    struct fix *f;
    int left, ended;
};

static void chain_next(void *arg, int err, const struct pg_result *r)
{
    struct chain *c = arg;
    (void)r;
    c->ended = err;
    if (err == 0 && --c->left > 0)
        pg_exec(c->f->pg, (enum pg_stmt)T_echo, args_1("x"), chain_next, c);
    else
        c->f->pending--;
}

static void statements_from_callbacks(void **state)
{
    (void)state;
    struct fix *f = fix_new(2);
    struct chain c = {.f = f, .left = 50};
    f->pending = 1;
    pg_exec(f->pg, (enum pg_stmt)T_echo, args_1("x"), chain_next, &c);
    fix_drain(f, 10);
    assert_int_equal(c.left, 0);
    fix_free(&f);
}

struct stopper {
    struct fix *f;
    int err_inside, calls_inside;
};

static void inside(void *arg, int err, const struct pg_result *r)
{
    struct stopper *s = arg;
    (void)r;
    s->calls_inside++;
    s->err_inside = err;
}

static void stop_and_exec(void *arg, int err, const struct pg_result *r)
{
    struct stopper *s = arg;
    (void)r;
    assert_int_equal(err, -ERR_SHUTDOWN);
    s->f->pending--;
    pg_exec(s->f->pg, (enum pg_stmt)T_echo, args_1("x"), inside, s);
}

static void stop_ends_everything(void **state)
{
    (void)state;
    struct fix *f = fix_new(2);
    struct answer warm, a[20];
    fix_exec(f, T_echo, args_1("x"), &warm);
    fix_drain(f, 10);
    for (int i = 0; i < 20; i++)
        fix_exec(f, T_nap, args_2("x", "30"), &a[i]);
    fix_turns(f, 50); /* some are sent */
    struct stopper s = {.f = f};
    f->pending++;
    pg_exec(f->pg, (enum pg_stmt)T_echo, args_1("x"), stop_and_exec, &s); /* and one is only queued */
    fix_free(&f);
    for (int i = 0; i < 20; i++)
        assert_int_equal(a[i].err, -ERR_SHUTDOWN);
    assert_int_equal(s.calls_inside, 1);
    assert_int_equal(s.err_inside, -ERR_SHUTDOWN);
}

static void stop_inside(void *arg, int err, const struct pg_result *r)
{
    struct fix *f = arg;
    assert_int_equal(err, 0);
    assert_int_equal(pg_rows(r), 1);
    f->pending--;
    pg_stop(&f->pg);
}

static void stop_from_a_callback(void **state)
{
    (void)state;
    struct fix *f = fix_new(1);
    struct answer a[3];
    f->pending++;
    pg_exec(f->pg, (enum pg_stmt)T_echo, args_1("x"), stop_inside, f);
    for (int i = 0; i < 3; i++)
        fix_exec(f, T_echo, args_1("x"), &a[i]);
    fix_drain(f, 10);
    for (int i = 0; i < 3; i++)
        assert_int_equal(a[i].err, -ERR_SHUTDOWN);
    fix_free(&f);
}

static void stop_before_the_loop_ran(void **state)
{
    (void)state;
    struct fix *f = fix_new(4);
    struct answer a;
    fix_exec(f, T_echo, args_1("x"), &a);
    fix_free(&f);
    assert_int_equal(a.err, -ERR_SHUTDOWN);
}

int run_pool(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_in_one_turn),
        cmocka_unit_test(one_connection_keeps_the_order),
        cmocka_unit_test(errors_stay_with_their_statement),
        cmocka_unit_test(failing_commit_is_an_error),
        cmocka_unit_test(values_travel_unchanged),
        cmocka_unit_test(unrepresentable_text_is_refused),
        cmocka_unit_test(queue_is_bounded),
        cmocka_unit_test(slow_statement_holds_up_nobody),
        cmocka_unit_test(statement_timeout_ends_a_statement),
        cmocka_unit_test(changed_tables_get_new_plans),
        cmocka_unit_test(separate_state_store),
        cmocka_unit_test(statements_from_callbacks),
        cmocka_unit_test(stop_ends_everything),
        cmocka_unit_test(stop_from_a_callback),
        cmocka_unit_test(stop_before_the_loop_ran),
    };
    return cmocka_run_group_tests_name("pool", tests, setup, NULL);
}
