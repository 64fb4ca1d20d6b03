/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Push rules against the reference's answers, and rows that it could not read. */
#include "chappe/metrics.h"
#include "test_event_unit.h"

enum { ROWS_MAX = 64, ENABLES_MAX = 8 };

/* In the order of PUSH_RULES_x. */
static const char *const feature_names[] = {"msc4210_enabled",
                                            "msc1767_enabled",
                                            "msc3664_enabled",
                                            "msc3381_polls_enabled",
                                            "msc4028_push_encrypted_events",
                                            "msc4306_enabled"};

static void render_case(const struct json *c)
{
    struct push_rule_row rows[ROWS_MAX];
    struct push_rule_enable_row enables[ENABLES_MAX];
    size_t rows_count = 0, enables_count = 0;
    json_each(r, json_get(c, STR("rows"))) {
        assert_true(rows_count < ROWS_MAX && r->count == 5);
        struct push_rule_row *row = &rows[rows_count++];
        const struct json *m = r->child;
        row->rule_id = m->s;
        assert_true(json_int(m->next, &row->priority_class));
        assert_true(json_int(m->next->next, &row->priority));
        row->conditions = m->next->next->next->s;
        row->actions = r->last->s;
    }
    json_each(e, json_get(c, STR("enables"))) {
        assert_true(enables_count < ENABLES_MAX);
        enables[enables_count++] = (struct push_rule_enable_row){e->child->s, json_is_true(e->last)};
    }
    unsigned features = 0;
    json_each(name, json_get(c, STR("features"))) {
        for (size_t i = 0; i < sizeof feature_names / sizeof *feature_names; i++)
            features |= str_eq(name->s, str_of(feature_names[i])) ? 1u << i : 0u;
    }
    struct buf out;
    buf_init(&out, 1 << 20);
    push_rules_render(&out, json_get_str(c, STR("user")), rows, rows_count, enables, enables_count, features);
    assert_false(out.failed);
    assert_slice(buf_str(&out), json_get_str(c, STR("out")));
    buf_fini(&out);
}

static void test_vectors(void **state)
{
    (void)state;
    struct arena *a = arena_new(64 << 20);
    json_each(c, vectors_load(a, "push_rules.json"))
        render_case(c);
    arena_free(&a);
}

/* Rows that make the reference fail as a whole are left out, and the rest is as if they were not there. */
static void test_unreadable_rows(void **state)
{
    (void)state;
    static const struct {
        int64_t priority_class;
        const char *conditions, *actions;
    } odd[] = {
        {5, "x", "[]"},      {5, "{}", "[]"},          {5, "null", "[]"}, {5, "[5]", "[]"},
        {5, "[null]", "[]"}, {5, "[]", "x"},           {5, "[]", "{}"},   {5, "[]", "[\"foo\"]"},
        {5, "", ""},         {0, "[]", "[]"},          {7, "[]", "[]"},   {6, "[]", "[]"},
        {3, "[]", "[]"},     {2, "[{}]", "[]"},        {4, "[]", "[]"},   {4, "[{},{}]", "[]"},
        {4, "[{}]", "[]"},   {5, "[{\"a\":NaN}]", ""},
    };
    struct buf plain, got;
    buf_init(&plain, 1 << 20);
    buf_init(&got, 1 << 20);
    push_rules_render(&plain, STR("@a:b"), NULL, 0, NULL, 0, 0);
    int64_t counted = metric_get_l(M_model_poisoned, "push_rule");
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        struct push_rule_row row = {STR("global/override/x"), str_of(odd[i].conditions),
                                    str_of(odd[i].actions), odd[i].priority_class, 0};
        buf_reset(&got);
        push_rules_render(&got, STR("@a:b"), &row, 1, NULL, 0, 0);
        assert_slice(buf_str(&got), buf_str(&plain));
    }
    assert_true(metric_get_l(M_model_poisoned, "push_rule") >= counted + 10);
    /* a default rule keeps its own actions when the row's cannot be read */
    struct push_rule_row row = {STR("global/override/.m.rule.reaction"), STR("[]"), STR("[\"foo\"]"), 5, 0};
    buf_reset(&got);
    push_rules_render(&got, STR("@a:b"), &row, 1, NULL, 0, 0);
    assert_slice(buf_str(&got), buf_str(&plain));
    buf_fini(&plain);
    buf_fini(&got);
}

int run_push_rules_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_unreadable_rows),
    };
    return cmocka_run_group_tests_name("push rules", tests, NULL, NULL);
}
