/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* The timer wheel against a plain list of due times: never early, at most one tick late, each exactly once.
 */
#include "test_loop.h"
#include "chappe/loop.h"
#include "chappe/map.h"
#include <stdlib.h>

struct probe {
    struct wheel_timer t;
    int64_t due_ms, fired_ms;
    int fired;
};
static int64_t now_ms;
static struct wheel *wheel_under_test;

/* The same numbers in every run. */
static uint32_t lcg_state;
static int64_t lcg_below(uint32_t n)
{
    lcg_state = lcg_state * 1664525u + 1013904223u;
    return (lcg_state >> 8) % n;
}

static void on_fire(void *arg, struct wheel_timer *t)
{
    struct probe *p = container_of(t, struct probe, t);
    (*(int *)arg)++;
    p->fired++;
    p->fired_ms = now_ms;
    assert_false(wheel_is_set(t));
}

static void test_never_early_once(void **state)
{
    (void)state;
    static const int64_t starts[] = {0, 63, 64, 1000003, 65536};
    for (size_t k = 0; k < sizeof starts / sizeof *starts; k++) {
        enum { N = 2000 };
        struct wheel *w = calloc(1, sizeof *w);
        struct probe *probes = calloc(N, sizeof *probes);
        int fired = 0;
        now_ms = starts[k];
        wheel_init(w, now_ms);
        lcg_state = 7 + (uint32_t)k;
        for (int i = 0; i < N; i++) { /* up to three turns of the wheel */
            probes[i].due_ms = now_ms + lcg_below(200000);
            wheel_set(w, &probes[i].t, probes[i].due_ms);
        }
        int64_t end = now_ms + 200000 + WHEEL_TICK_MS;
        while (now_ms < end) {
            now_ms += 1 + lcg_below(50);
            (void)wheel_advance(w, now_ms, SIZE_MAX, on_fire, &fired);
        }
        assert_int_equal(fired, N);
        assert_int_equal(w->count, 0);
        assert_int_equal(wheel_next_ms(w, now_ms), -1);
        for (int i = 0; i < N; i++) {
            assert_int_equal(probes[i].fired, 1);
            assert_true(probes[i].fired_ms >= probes[i].due_ms);
            assert_true(probes[i].fired_ms - probes[i].due_ms <= WHEEL_TICK_MS + 50);
        }
        free(probes);
        free(w);
    }
}

static void test_next_leads_there(void **state)
{
    (void)state;
    struct wheel *w = calloc(1, sizeof *w);
    static const int64_t delays[] = {0, 1, 63, 64, 65, 1000, 60000, 65536, 65537, 90000, 3600000};
    for (size_t i = 0; i < sizeof delays / sizeof *delays; i++) {
        struct probe p = {0};
        int fired = 0, looks = 0;
        now_ms = 12345;
        wheel_init(w, now_ms);
        wheel_set(w, &p.t, now_ms + delays[i]);
        while (!fired) {
            int64_t ms = wheel_next_ms(w, now_ms);
            assert_true(ms >= 0);
            now_ms += ms > 0 ? ms : 1;
            (void)wheel_advance(w, now_ms, SIZE_MAX, on_fire, &fired);
            looks++;
        }
        assert_true(p.fired_ms >= 12345 + delays[i]);
        assert_true(p.fired_ms <= 12345 + delays[i] + WHEEL_TICK_MS);
        assert_true(looks <= 2 + delays[i] / 60000); /* sleeping, not polling */
    }
    free(w);
}

/* More are due than are to fire at once: the next call goes on, at once; whatever happens to one meanwhile
 * counts. */
static void test_so_many_at_once(void **state)
{
    enum { N = 200, MAX = 64 };
    (void)state;
    struct wheel *w = calloc(1, sizeof *w);
    struct probe *p = calloc(N + 1, sizeof *p);
    int fired = 0;
    now_ms = 5000;
    wheel_init(w, now_ms);
    for (int i = 0; i < N; i++)
        wheel_set(w, &p[i].t, now_ms + 1000);
    now_ms += 1000 + WHEEL_TICK_MS;
    assert_true(wheel_advance(w, now_ms, MAX, on_fire, &fired));
    assert_int_equal(fired, MAX);
    assert_int_equal(w->count, N - MAX);
    assert_int_equal(wheel_next_ms(w, now_ms), 0);
    wheel_cancel(w, &p[N - 1].t);
    wheel_let_go(&p[N - 2].t);
    wheel_set(w, &p[N - 3].t, now_ms + 500);
    wheel_set(w, &p[N].t, now_ms - 1); /* due already */
    for (int calls = 1; wheel_advance(w, now_ms, MAX, on_fire, &fired); calls++)
        assert_true(calls < 4);
    assert_int_equal(fired, N - 3);
    assert_int_equal(p[N - 3].fired, 0);
    now_ms += 500 + WHEEL_TICK_MS;
    assert_false(wheel_advance(w, now_ms, MAX, on_fire, &fired));
    assert_int_equal(fired, N - 1);
    for (int i = 0; i <= N; i++)
        assert_int_equal(p[i].fired, i != N - 1 && i != N - 2);
    assert_int_equal(w->count, 0);
    free(p);
    free(w);
}

static void test_cancel_and_move(void **state)
{
    (void)state;
    struct wheel *w = calloc(1, sizeof *w);
    struct probe p[3] = {0};
    int fired = 0;
    now_ms = 0;
    wheel_init(w, 0);
    wheel_cancel(w, &p[0].t); /* not set: harmless */
    for (int i = 0; i < 3; i++)
        wheel_set(w, &p[i].t, 1000);
    wheel_cancel(w, &p[0].t);
    wheel_set(w, &p[1].t, 5000);
    assert_int_equal(w->count, 2);
    now_ms = 2000;
    (void)wheel_advance(w, now_ms, SIZE_MAX, on_fire, &fired);
    assert_int_equal(p[0].fired + p[1].fired, 0);
    assert_int_equal(p[2].fired, 1);
    now_ms = 6000;
    (void)wheel_advance(w, now_ms, SIZE_MAX, on_fire, &fired);
    assert_int_equal(p[1].fired, 1);
    now_ms += 10000000; /* a suspended machine */
    wheel_set(w, &p[0].t, now_ms - 5);
    (void)wheel_advance(w, now_ms + WHEEL_TICK_MS, SIZE_MAX, on_fire, &fired);
    assert_int_equal(p[0].fired, 1);
    free(w);
}

/* Timers that are put off, brought forward, let go and cancelled at random, against what was said last. */
static void test_put_off_and_let_go(void **state)
{
    (void)state;
    enum { N = 300, STEPS = 20000 };
    struct wheel *w = calloc(1, sizeof *w);
    struct probe *probes = calloc(N, sizeof *probes);
    int fired = 0, expected = 0;
    now_ms = 777;
    wheel_init(w, now_ms);
    lcg_state = 3;
    for (int step = 0; step < STEPS; step++) {
        struct probe *p = &probes[lcg_below(N)];
        if (!p->due_ms || p->fired) { /* not set, or it has fired: begins again */
            assert_false(wheel_is_set(&p->t));
            expected += p->fired;
            p->fired = 0;
        }
        switch (lcg_below(8)) {
        case 0:
            wheel_cancel(w, &p->t);
            p->due_ms = 0;
            break;
        case 1:
            wheel_let_go(&p->t);
            p->due_ms = 0;
            break;
        default:
            p->due_ms = now_ms + lcg_below(step % 3 ? 100000 : 500);
            wheel_set(w, &p->t, p->due_ms);
            assert_true(wheel_is_set(&p->t));
        }
        now_ms += lcg_below(40);
        (void)wheel_advance(w, now_ms, SIZE_MAX, on_fire, &fired);
        for (int i = 0; i < N; i++) {
            struct probe *q = &probes[i];
            assert_true(q->fired <= 1);
            if (q->fired && q->fired_ms == now_ms) {
                assert_true(q->due_ms > 0 && q->due_ms <= now_ms);
            } else if (q->due_ms && !q->fired) {
                assert_true(now_ms - q->due_ms <= WHEEL_TICK_MS + 40);
            }
        }
    }
    for (int i = 0; i < N; i++)
        expected += probes[i].fired;
    assert_int_equal(fired, expected);
    assert_true(fired > STEPS / 10);
    /* what was let go leaves by itself, without having fired */
    fired = 0;
    for (int i = 0; i < N; i++) {
        wheel_set(w, &probes[i].t, now_ms + 5000);
        wheel_let_go(&probes[i].t);
        assert_false(wheel_is_set(&probes[i].t));
    }
    (void)wheel_advance(w, now_ms + 70000, SIZE_MAX, on_fire, &fired);
    assert_int_equal(fired, 0);
    assert_int_equal(w->count, 0);
    assert_int_equal(wheel_next_ms(w, now_ms + 70000), -1);
    free(probes);
    free(w);
}

/* Putting off does not touch the list: nobody's memory but its own. */
static void test_putting_off_moves_nothing(void **state)
{
    (void)state;
    struct wheel *w = calloc(1, sizeof *w);
    struct probe p[3] = {0};
    wheel_init(w, 0);
    for (int i = 0; i < 3; i++)
        wheel_set(w, &p[i].t, 1000);
    struct wheel before = *w;
    struct wheel_timer neighbour = p[2].t;
    wheel_set(w, &p[1].t, 90000);
    wheel_let_go(&p[1].t);
    wheel_set(w, &p[1].t, 60000);
    assert_memory_equal(w, &before, sizeof before);
    assert_memory_equal(&p[2].t, &neighbour, sizeof neighbour);
    free(w);
}

/* A callback that cancels its neighbour of the same slot, and sets itself again. */
static struct probe chain[3];
static void on_chain(void *arg, struct wheel_timer *t)
{
    struct probe *p = container_of(t, struct probe, t);
    (void)arg;
    p->fired++;
    wheel_cancel(wheel_under_test, &chain[1].t);
    if (p == &chain[0] && p->fired < 3)
        wheel_set(wheel_under_test, &p->t, now_ms);
}

static void test_callbacks_change_the_wheel(void **state)
{
    (void)state;
    wheel_under_test = calloc(1, sizeof *wheel_under_test);
    now_ms = 0;
    wheel_init(wheel_under_test, 0);
    for (int i = 0; i < 3; i++)
        wheel_set(wheel_under_test, &chain[i].t, 100);
    for (now_ms = 0; now_ms < 1000; now_ms += WHEEL_TICK_MS)
        (void)wheel_advance(wheel_under_test, now_ms, SIZE_MAX, on_chain, NULL);
    assert_int_equal(chain[0].fired, 3);
    assert_int_equal(chain[1].fired, 0);
    assert_int_equal(chain[2].fired, 1);
    assert_int_equal(wheel_under_test->count, 0);
    free(wheel_under_test);
}

int run_wheel_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_never_early_once),
        cmocka_unit_test(test_next_leads_there),
        cmocka_unit_test(test_so_many_at_once),
        cmocka_unit_test(test_cancel_and_move),
        cmocka_unit_test(test_put_off_and_let_go),
        cmocka_unit_test(test_putting_off_moves_nothing),
        cmocka_unit_test(test_callbacks_change_the_wheel),
    };
    return cmocka_run_group_tests_name("wheel", tests, NULL, NULL);
}
