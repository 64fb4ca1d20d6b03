/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* The clock that tests move, the random generator's basics, and log lines. */
#include "chappe/clock.h"
#include "chappe/log.h"
#include "test_base.h"
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void test_fake_clock(void **state)
{
    (void)state;
    int64_t before = clock_wall_ms();
    assert_true(before > 1600000000000);
    assert_true(clock_mono_us() / 1000 <= clock_mono_ms());
    clock_fake_set(12345);
    assert_int_equal(clock_mono_ms(), 12345);
    assert_int_equal(clock_mono_us(), 12345000);
    assert_int_equal(clock_wall_ms(), 12345);
    clock_fake_set(-1);
    assert_true(clock_wall_ms() >= before);
}

static void test_rng(void **state)
{
    (void)state;
    int buckets[10] = {0};
    for (int i = 0; i < 10000; i++) {
        double u = rng_unit();
        assert_true(u >= 0 && u < 1);
        buckets[(int)(u * 10)]++;
    }
    for (int i = 0; i < 10; i++)
        assert_true(buckets[i] > 700 && buckets[i] < 1300); /* ten standard deviations */
    assert_true(rng_u64() != rng_u64());
    char letters[65];
    for (size_t n = 0; n < sizeof letters; n++) {
        memset(letters, '#', sizeof letters);
        rng_letters(letters, n);
        assert_int_equal(strlen(letters), n);
        for (size_t i = 0; i < n; i++)
            assert_true(isalpha((unsigned char)letters[i]));
    }
}

static char captured[8192];
static int captured_count;

static void capture(enum log_level level, const char *line)
{
    (void)level;
    captured_count++;
    snprintf(captured, sizeof captured, "%s", line);
}

static void test_log_lines(void **state)
{
    (void)state;
    static const struct {
        const char *arg, *shown;
    } cases[] = {
        {"plain", "plain"},
        {"two\nlines\r", "two\\x0alines\\x0d"},
        {"\x1b[31mred\x7f", "\\x1b[31mred\\x7f"},
        {"caf\xc3\xa9", "caf\xc3\xa9"},
        {"\xc2\x9b"
         "31m",
         "\\xc2\\x9b31m"},
        {"", ""},
    };
    setenv("TZ", "Europe/Berlin", 1);
    tzset();
    log_sink_set(capture);
    clock_fake_set(1784714400123); /* 2026-07-22 10:00:00.123 UTC */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char want[256];
        snprintf(want, sizeof want, "2026-07-22 12:00:00,123 - chappe.test - WARNING - <%s>", cases[i].shown);
        errno = EAGAIN;
        log_warning("chappe.test", "<%s>", cases[i].arg);
        assert_int_equal(errno, EAGAIN);
        assert_string_equal(captured, want);
    }
    clock_fake_set(-1);

    captured_count = 0;
    log_level = LOG_WARNING;
    log_debug("chappe.test", "dropped");
    log_info("chappe.test", "dropped");
    log_error("chappe.test", "kept");
    assert_int_equal(captured_count, 1);
    log_level = LOG_INFO;

    char big[10000];
    for (int fill = 0; fill < 2;
         fill++) { /* long lines are cut and say so, also when each byte becomes four */
        memset(big, fill ? '\n' : 'x', sizeof big - 1);
        big[sizeof big - 1] = 0;
        log_error("chappe.test", "%s", big);
        assert_true(strlen(captured) < 4096);
        assert_non_null(strstr(captured, " [cut]"));
    }
    memset(big, '\n', LOG_TEXT_MAX); /* fits, but not once it is escaped */
    big[LOG_TEXT_MAX] = 0;
    log_error("chappe.test", "%s", big);
    assert_true(strlen(captured) < 4096);
    assert_non_null(strstr(captured, "\\x0a [cut]"));

    /* a message that is ready: the same, at any place among the eight bytes that are looked at at once */
    for (size_t at = 0; at < 20; at++) {
        char text[32], want[64];
        memset(text, 'x', 20);
        memcpy(text + at, "\x7f", 1);
        log_text(LOG_ERROR, "chappe.test", str_n(text, 20), 1784714400123);
        snprintf(want, sizeof want, " - ERROR - %.*s\\x7f%.*s", (int)at, text, (int)(19 - at), text + at + 1);
        assert_string_equal(strstr(captured, " - ERROR"), want);
        assert_non_null(strstr(captured, "2026-07-22 12:00:00,123 - chappe.test - "));
    }
    memset(big, 'x', sizeof big);
    for (size_t more = 0; more < 2; more++) {
        log_text(LOG_ERROR, "chappe.test", str_n(big, LOG_TEXT_MAX + more), 1784714400123);
        assert_int_equal(strstr(captured, " [cut]") != NULL, more);
        assert_int_equal(strspn(strchr(captured, 'x'), "x"), LOG_TEXT_MAX);
    }
    log_sink_set(NULL);
}

/* ---- lines of several threads in one pipe ---- */

enum { THREADS = 4, LINES = 400, FILL = 300 };

/* A line is of one letter, and says which. */
static void *talk(void *arg)
{
    char text[FILL + 1];
    memset(text, *(const char *)arg, FILL);
    text[FILL] = 0;
    log_together_begin();
    for (int i = 0; i < LINES; i++)
        log_info("chappe.test", "<%s>", text);
    log_together_end();
    return NULL;
}

static bool is_whole(const char *line)
{
    const char *text = strchr(line, '<');
    return text && strspn(text + 1, (char[]){text[1], 0}) == FILL && !strcmp(text + 1 + FILL, ">\n");
}

/* Standard error is to for as long as THREADS talk; in is where that can be read, meanwhile (a pipe) or
 * afterwards. */
static void many_talk(int to, FILE *in, bool meanwhile)
{
    static const char letters[THREADS + 1] = "abcd";
    pthread_t threads[THREADS];
    char line[4096];
    int lines = 0, broken = 0, keep = dup(STDERR_FILENO);
    assert_non_null(in);
    assert_true(keep >= 0 && dup2(to, STDERR_FILENO) >= 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, talk, (void *)(uintptr_t)&letters[i]), 0);
    for (int i = 0; !meanwhile && i < THREADS; i++)
        pthread_join(threads[i], NULL);
    if (!meanwhile)
        rewind(in);
    while (lines < THREADS * LINES && fgets(line, sizeof line, in)) {
        lines++;
        broken += !is_whole(line);
    }
    for (int i = 0; meanwhile && i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_true(dup2(keep, STDERR_FILENO) >= 0);
    close(keep);
    assert_int_equal(broken, 0);
    assert_int_equal(lines, THREADS * LINES);
}

/* Each thread writes more at once than a pipe takes together. */
static void test_threads_lines_do_not_mix(void **state)
{
    (void)state;
    int ends[2];
    assert_true(!pipe2(ends, O_CLOEXEC));
    FILE *in = fdopen(ends[0], "r");
    many_talk(ends[1], in, true);
    close(ends[1]);
    fclose(in);
    FILE *file = tmpfile(); /* which takes it all at once */
    assert_non_null(file);
    many_talk(fileno(file), file, false);
    fclose(file);
}

int run_clock_log_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fake_clock),
        cmocka_unit_test(test_rng),
        cmocka_unit_test(test_log_lines),
        cmocka_unit_test(test_threads_lines_do_not_mix),
    };
    return cmocka_run_group_tests_name("clock and log", tests, NULL, NULL);
}
