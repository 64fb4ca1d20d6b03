/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What relates to an event: loading, staleness in every order of rows and answers, memory. The loader here
 * only remembers the statement; the test answers it, so that rows can arrive in between.
 */
#include "model_int.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

struct row {
    int64_t kind;
    const char *parent, *event_id, *sender;
    int64_t n;
};
struct pg_result {
    const struct row *v;
    int n;
    bool kinds; /* of SQL_relation_kinds: parent, rel_type (in event_id), sender */
};
struct pg_args {
    size_t n;
};
static struct world {
    struct model m;
    struct room *room;
    struct evrec *rec;  /* the one event in memory */
    struct load_op *op; /* the one under way */
    enum pg_stmt stmt;
    size_t asked;
    int sent;
} w;

/* ---- stand-ins ---- */

int pg_rows(const struct pg_result *r)
{
    return r->n;
}

struct str pg_str(const struct pg_result *r, int row, int col)
{
    const struct row *x = &r->v[row];
    const char *cells[4] = {NULL, x->parent, x->event_id, x->sender};
    const char *s = cells[r->kinds ? col + 1 : col];
    return s ? str_of(s) : STR_ABSENT;
}

int64_t pg_i64(const struct pg_result *r, int row, int col)
{
    return col == 0 ? r->v[row].kind : r->v[row].n;
}

struct pg_args *pg_args_new(void)
{
    return xcalloc(1, sizeof(struct pg_args));
}

void pg_args_text_array(struct pg_args *a, const struct str *v, size_t n)
{
    (void)v;
    a->n = n;
}

struct load_op *load_op_new(struct model *m, struct batch *b, load_done_fn *done)
{
    struct load_op *op = xcalloc(1, sizeof *op);
    op->m = m;
    op->batch = b;
    op->done = done;
    return op;
}

void load_op_send(struct load_op *op, enum pg_stmt stmt, struct pg_args *args)
{
    assert_null(w.op);
    w.op = op;
    w.stmt = stmt;
    w.asked = args->n;
    w.sent++;
    free(args);
}

void loader_kick(struct model *m)
{
    (void)m;
}

struct room *model_room_find(struct model *m, struct str room_id)
{
    (void)m;
    return w.room && str_eq(room_id, w.room->room_id) ? w.room : NULL;
}

struct evrec *model_rec_find(struct model *m, struct str event_id)
{
    (void)m;
    return w.rec && str_eq(event_id, w.rec->id) ? w.rec : NULL;
}

static void answer(const struct row *rows, int n, bool fail)
{
    struct pg_result r = {rows, n, w.stmt == SQL_relation_kinds};
    struct load_op *op = w.op;
    assert_non_null(op);
    w.op = NULL;
    op->done(op, fail ? NULL : &r);
    vec_free(&op->targets);
    vec_free(&op->gens);
    free(op);
}

/* ---- fixture ---- */

static int setup(void **state)
{
    (void)state;
    memset(&w, 0, sizeof w);
    relations_init(&w.m);
    w.room = xcalloc(1, sizeof *w.room);
    w.room->room_id = STR("!r:x");
    list_init(&w.room->relations);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    relations_room_free(&w.m, w.room);
    assert_int_equal(w.m.relation_bytes, 0);
    relations_fini(&w.m);
    free(w.room);
    return 0;
}

static const struct row ALL[] = {
    {0, "$p", "$r1", "@a:x", 1}, {0, "$p", "$r2", "@b:x", 2}, {1, "$p", "$e", "@a:x", 0},
    {2, "$p", "$t3", "@b:x", 0}, {3, "$p", "$t1", "@a:x", 1}, {3, "$p", "$t2", "@b:x", 2},
    {3, "$p", "$t3", "@b:x", 3}, {4, "$p", NULL, "@a:x", 1},  {4, "$p", NULL, "@b:x", 2},
};
enum { ALL_N = sizeof ALL / sizeof *ALL };

static struct relations *have(const char *parent)
{
    struct relations *x;
    assert_int_equal(model_relations(&w.m, w.room, str_of(parent), &x), HAVE);
    return x;
}

static void lack(const char *parent)
{
    struct relations *x;
    assert_int_equal(model_relations(&w.m, w.room, str_of(parent), &x), LACK);
}

static void load(const char *parent, const struct row *rows, int n)
{
    lack(parent);
    relations_flush(&w.m, NULL);
    answer(rows, n, false);
}

#define assert_str(s, lit) assert_true(str_eq(s, STR(lit)))

/* ---- loading ---- */

static void test_bundle(void **state)
{
    (void)state;
    load("$p", ALL, ALL_N);
    const struct relation_bundle *b = have("$p")->bundle;
    assert_non_null(b);
    assert_int_equal(b->references.n, 2);
    assert_str(b->references.v[0].event_id, "$r1");
    assert_str(b->references.v[1].sender, "@b:x");
    assert_str(b->edit, "$e");
    assert_str(b->thread_latest.event_id, "$t3");
    assert_int_equal(b->thread_first.n, 3);
    assert_int_equal(b->thread_senders.n, 2);
    assert_int_equal(b->thread_senders.v[1].n, 2);
    assert_int_equal(w.sent, 1);
}

static void test_one_statement_for_all(void **state)
{
    (void)state;
    lack("$p");
    lack("$q");
    lack("$p"); /* asked for once */
    relations_flush(&w.m, NULL);
    assert_int_equal(w.asked, 2);
    lack("$q"); /* under way: not asked for again */
    relations_flush(&w.m, NULL);
    answer(ALL, ALL_N, false);
    assert_int_equal(w.sent, 1);
    assert_non_null(have("$p")->bundle);
    assert_null(have("$q")->bundle);
}

static void test_failed_load_is_repeated(void **state)
{
    (void)state;
    lack("$p");
    relations_flush(&w.m, NULL);
    answer(NULL, 0, true);
    load("$p", ALL, ALL_N);
    assert_non_null(have("$p")->bundle);
}

static void test_kinds(void **state)
{
    (void)state;
    static const struct row rows[] = {{0, "$p", "m.annotation", "@a:x", 0},
                                      {0, "$p", "m.thread", "@b:x", 0},
                                      {0, "$?", "m.thread", "@b:x", 0}};
    struct relations *x;
    assert_int_equal(model_relation_kinds(&w.m, w.room, STR("$p"), &x), LACK);
    relations_flush(&w.m, NULL);
    assert_int_equal(w.stmt, SQL_relation_kinds);
    answer(rows, 3, false);
    assert_int_equal(model_relation_kinds(&w.m, w.room, STR("$p"), &x), HAVE);
    assert_int_equal(x->kinds.n, 2);
    assert_str(x->kinds.v[0].rel_type, "m.annotation");
    assert_str(x->kinds.v[1].sender, "@b:x");
    lack("$p"); /* the bundle is a part of its own */
}

/* ---- staleness ---- */

static void test_child_makes_stale(void **state)
{
    (void)state;
    load("$p", ALL, ALL_N);
    load("$q", NULL, 0);
    relations_touch(&w.m, STR("$p"));
    relations_touch(&w.m, STR("$never mentioned"));
    relations_touch(&w.m, STR_ABSENT);
    have("$q");
    load("$p", ALL, 1);
    const struct relation_bundle *b = have("$p")->bundle;
    assert_int_equal(b->references.n, 1); /* replaced, not added to */
    assert_true(str_absent(b->edit));
}

static void test_child_while_loading(void **state)
{
    (void)state;
    lack("$p");
    relations_touch(&w.m, STR("$p")); /* queued: the statement will see it */
    relations_flush(&w.m, NULL);
    relations_touch(&w.m, STR("$p")); /* sent: it may not */
    answer(ALL, ALL_N, false);
    load("$p", ALL, ALL_N);
    have("$p");
}

static void test_touched_before_the_statement(void **state)
{
    (void)state;
    lack("$p");
    relations_touch(&w.m, STR("$p"));
    relations_flush(&w.m, NULL);
    answer(ALL, ALL_N, false);
    have("$p");
}

static void test_redaction(void **state)
{
    (void)state;
    struct event ev = {.relates_to = STR("$p")};
    struct evrec rec = {.id = STR("$child"), .ev = &ev};
    static const struct {
        bool in_memory, relates, redacted;
        bool p_stale, q_stale;
    } cases[] = {
        {true, true, false, true, false},   /* known to relate to $p */
        {true, false, false, false, false}, /* known to relate to nothing */
        {true, false, true, true, true},    /* already pruned: what it related to is not known any more */
        {false, false, false, true, true},  /* not known */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        load("$p", ALL, ALL_N);
        load("$q", NULL, 0);
        ev.relates_to = cases[i].relates ? STR("$p") : STR_ABSENT;
        ev.redacted = cases[i].redacted;
        w.rec = cases[i].in_memory ? &rec : NULL;
        relations_redacted(&w.m, STR("!elsewhere:x"), STR("$other"));
        have("$p");
        relations_redacted(&w.m, STR("!r:x"), STR("$child"));
        struct relations *x;
        assert_int_equal(model_relations(&w.m, w.room, STR("$p"), &x) == LACK, cases[i].p_stale);
        assert_int_equal(model_relations(&w.m, w.room, STR("$q"), &x) == LACK, cases[i].q_stale);
        relations_flush(&w.m, NULL);
        if (w.op)
            answer(NULL, 0, false);
        relations_all_stale(&w.m);
    }
    w.rec = NULL;
}

/* ---- memory ---- */

static void test_accounting(void **state)
{
    (void)state;
    load("$p", ALL, ALL_N);
    size_t once = w.m.relation_bytes;
    for (int i = 0; i < 10; i++) {
        relations_touch(&w.m, STR("$p"));
        load("$p", ALL, ALL_N);
        assert_int_equal(w.m.relation_bytes, once);
    }
}

static void test_trim(void **state)
{
    (void)state;
    load("$p", ALL, ALL_N);
    load("$q", NULL, 0);
    load("$r", NULL, 0);
    size_t all = w.m.relation_bytes;
    have("$p"); /* used last: stays longest */
    relations_trim(&w.m, all);
    assert_int_equal(smap_count(&w.m.relations), 3);
    relations_trim(&w.m, all - 1);
    assert_int_equal(smap_count(&w.m.relations), 2);
    assert_null(smap_get(&w.m.relations, STR("$q")));
    have("$p");
    relations_trim(&w.m, 0);
    assert_int_equal(smap_count(&w.m.relations), 0);
    assert_true(list_empty(&w.room->relations));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_bundle),
        T(test_one_statement_for_all),
        T(test_failed_load_is_repeated),
        T(test_kinds),
        T(test_child_makes_stale),
        T(test_child_while_loading),
        T(test_touched_before_the_statement),
        T(test_redaction),
        T(test_accounting),
        T(test_trim),
    };
    return cmocka_run_group_tests_name("relations", tests, NULL, NULL);
}
