/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Counting, labels past their bound, histograms, and the text that Prometheus reads. */
#include "chappe/metrics.h"
#include "test_base.h"
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static void test_plain(void **state)
{
    (void)state;
    int64_t before = metric_get(M_http_requests);
    metric_add(M_http_requests, 3);
    metric_add(M_http_requests, -1);
    assert_int_equal(metric_get(M_http_requests), before + 2);
    metric_add_own(M_http_requests, 5);
    assert_int_equal(metric_get(M_http_requests), before + 7);
    metric_set(M_pg_connections, 7);
    assert_int_equal(metric_get(M_pg_connections), 7);
    atomic_fetch_add(metric_cell(M_pg_connections, NULL), 2);
    assert_int_equal(metric_get(M_pg_connections), 9);
    metric_set(M_pg_connections, 7);
    metric_add_l(M_http_closed, "a cell", 4);
    atomic_fetch_add(metric_cell(M_http_closed, "a cell"), 1);
    assert_int_equal(metric_get_l(M_http_closed, "a cell"), 5);
    metric_add_l_own(M_http_closed, "another cell", 2);
    metric_add_l_own(M_http_closed, "a cell", 2);
    metric_add_l(M_http_closed, "another cell", 1);
    assert_int_equal(metric_get_l(M_http_closed, "a cell"), 7);
    assert_int_equal(metric_get_l(M_http_closed, "another cell"), 3);
}

static void *add_from_thread(void *names)
{
    for (int i = 0; i < 20000; i++)
        metric_add_l(M_feed_rows, ((const char **)names)[i % 50], 1);
    return NULL;
}

static void test_labels_from_threads(void **state)
{
    (void)state;
    static char text[50][16];
    const char *names[50];
    pthread_t threads[4];
    for (int i = 0; i < 50; i++) {
        snprintf(text[i], sizeof text[i], "t%d", i);
        names[i] = text[i];
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, add_from_thread, names), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 50; i++)
        assert_int_equal(metric_get_l(M_feed_rows, names[i]), 4 * 400);
    assert_int_equal(metric_get_l(M_feed_rows, "never"), 0);
}

static void test_labels_bounded(void **state)
{
    (void)state;
    static char text[500][16];
    int64_t sum = 0;
    for (int i = 0; i < 500; i++) {
        snprintf(text[i], sizeof text[i], "v%d", i);
        metric_add_l(M_feed_bad, text[i], 1);
    }
    for (int i = 0; i < 500; i++)
        sum += metric_get_l(M_feed_bad, text[i]);
    assert_true(sum > 100);
    assert_int_equal(sum + metric_get_l(M_feed_bad, "other"), 500);
    metric_set_l(M_memory_bytes, "rooms", 1234);
    metric_set_l(M_memory_bytes, "rooms", 1235);
    assert_int_equal(metric_get_l(M_memory_bytes, "rooms"), 1235);
}

static void assert_has(struct str text, const char *line)
{
    if (!memmem(text.p, text.n, line, strlen(line)))
        fail_msg("not exposed: %s", line);
}

static void test_exposition(void **state)
{
    (void)state;
    static const double seconds[] = {0, 0.005, 0.0051, 0.3, 10, 11, -1, NAN, INFINITY};
    for (size_t i = 0; i < sizeof seconds / sizeof *seconds; i++)
        metric_observe(M_sync_initial_seconds, seconds[i]);
    metric_add_l(M_http_responses, "200", 5);
    metric_add_l(M_http_responses, "a\"b\\c\n", 1);
    struct buf b;
    buf_init(&b, 1 << 20);
    metrics_write(&b);
    assert_has(buf_str(&b), "\nchappe_pg_connections 7\n");
    metrics_server_name(STR("example.org"));
    buf_reset(&b);
    metrics_write(&b);
    assert_false(b.failed);
    struct str s = buf_str(&b);
    assert_has(s,
               "# TYPE chappe_pg_connections gauge\nchappe_pg_connections{server_name=\"example.org\"} 7\n");
    assert_has(s, "\nchappe_http_responses_total{server_name=\"example.org\",code=\"200\"} 5\n");
    assert_has(s, "code=\"a\\\"b\\\\c\\n\"} 1\n");
    assert_has(s, "# TYPE chappe_sync_initial_seconds histogram\n");
    assert_has(s, "_bucket{server_name=\"example.org\",le=\"0.005\"} 4\n");
    assert_has(s, "_bucket{server_name=\"example.org\",le=\"0.01\"} 5\n");
    assert_has(s, "_bucket{server_name=\"example.org\",le=\"0.5\"} 6\n");
    assert_has(s, "_bucket{server_name=\"example.org\",le=\"10.0\"} 7\n");
    assert_has(s, "_bucket{server_name=\"example.org\",le=\"+Inf\"} 9\n");
    assert_has(s, "chappe_sync_initial_seconds_count{server_name=\"example.org\"} 9\n");
    /* Every line is a comment or "name{labels} number". */
    for (struct str line, rest = s; rest.n;) {
        str_cut(rest, '\n', &line, &rest);
        assert_true(str_starts(line, STR("# ")) || str_starts(line, STR("chappe_")) ||
                    str_starts(line, STR("synapse_")) ||
                    str_starts(line, STR("process_"))); /* what dashboards know by Synapse's names */
        assert_true(line.p[0] == '#' || (line.p[line.n - 1] >= '0' && line.p[line.n - 1] <= '9'));
    }
    buf_fini(&b);
}

int run_metrics_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_labels_from_threads),
        cmocka_unit_test(test_labels_bounded),
        cmocka_unit_test(test_exposition),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
