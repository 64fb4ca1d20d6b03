/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Which Synapse the main process is, and what happens when it becomes another. */
#include "feed_test.h"

#include "chappe/clock.h"
#include "chappe/metrics.h"

static struct fix *begin(bool known)
{
    struct fix *x = fix_new();
    feed_release_begin(x->f, known);
    return x;
}

/* As if the time had come. */
static void ask(struct fix *x)
{
    x->f->release_at_ms = 0;
    feed_release_tick(x->f);
    feed_release_tick(x->f); /* one question at a time */
    assert_int_equal(http_calls.n, 1);
    assert_true(str_eq(http_calls.v[0].url, STR("http://127.0.0.1:9093/health")));
}

static void end(struct fix *x)
{
    http_forget();
    fix_free(&x);
    release_set(release_newest());
    token_arity_set(release_token_fields());
    metric_set(M_synapse_changed, 0);
}

static void until_it_answers(void **state)
{
    struct fix *x = begin(false);

    (void)state;
    release_set((struct release){1, 152, 0}); /* what the tables showed */
    assert_false(feed_release_known(x->f));
    feed_release_tick(x->f);
    assert_int_equal(http_calls.n, 0); /* not yet */
    ask(x);
    http_answer(0, -ERR_IO, 0, "");
    assert_false(feed_release_known(x->f));
    assert_true(x->f->release_at_ms <= clock_mono_ms() + 1000); /* again soon */
    ask(x);
    http_answer_from(0, 0, 200, "OK", "Synapse/1.157.1");
    assert_true(feed_release_known(x->f));
    assert_int_equal(release_now().minor, 157);
    assert_int_equal(token_arity(), 13);
    assert_int_equal(metric_get(M_synapse_changed), 0); /* nothing changed, it was only learnt */
    assert_true(x->f->release_at_ms > clock_mono_ms() + 30000);
    end(x);
}

static void an_upgrade_is_noticed(void **state)
{
    struct fix *x = begin(true);

    (void)state;
    release_set((struct release){1, 157, 1});
    token_arity_set(release_token_fields());
    ask(x);
    http_answer_from(0, 0, 200, "OK", "Synapse/1.158.0"); /* which has nothing that matters */
    assert_int_equal(metric_get(M_synapse_changed), 0);
    ask(x);
    http_answer_from(0, 0, 200, "OK", "Synapse/1.159.0");
    assert_int_equal(metric_get(M_synapse_changed), 1);
    assert_true(logged("Synapse was changed from 1.158.0 to 1.159.0: restart Chappe"));
    assert_int_equal(token_arity(), 14);
    ask(x);
    http_answer(0, -ERR_IO, 0, ""); /* being restarted: it stays what it was */
    assert_int_equal(release_now().minor, 159);
    end(x);
}

static void a_proxy_that_hides_it(void **state)
{
    struct fix *x = begin(false);

    (void)state;
    release_set((struct release){1, 152, 0});
    ask(x);
    http_answer_from(0, 0, 200, "OK", "nginx");
    assert_true(feed_release_known(x->f));
    assert_int_equal(release_now().minor, 152);
    assert_true(logged("does not say which Synapse it is"));
    end(x);
}

/* Tokens that we would have to refuse when we know better are not given. */
static void nothing_is_served_before(void **state)
{
    struct fix *x = begin(false);

    (void)state;
    release_set((struct release){1, 159, 0}); /* the tables of a Synapse that went back to 1.157 since */
    token_arity_set(release_token_fields());
    x->f->handshake_done = true;
    x->f->handshake_at_ms = clock_mono_ms() - 3600 * 1000; /* waiting for streams is over */
    feed_check_live(x->f);
    assert_int_equal(feed_state(x->f), FEED_CONNECTING);
    ask(x);
    http_answer_from(0, 0, 502, "", "haproxy"); /* in front of a main process that is starting */
    assert_false(feed_release_known(x->f));
    assert_true(x->f->release_at_ms <= clock_mono_ms() + 1000);
    feed_check_live(x->f);
    assert_int_equal(feed_state(x->f), FEED_CONNECTING);
    ask(x);
    http_answer_from(0, 0, 200, "OK", "Synapse/1.157.1");
    assert_int_equal(token_arity(), 13);
    feed_check_live(x->f);
    assert_int_equal(feed_state(x->f), FEED_LIVE);
    assert_true(logged("streams of configured writers have not been announced"));
    end(x);
}

static void without_a_main_process(void **state)
{
    struct fix *x = begin(false);

    (void)state;
    x->f->handshake_done = true;
    x->f->handshake_at_ms = clock_mono_ms() - 3600 * 1000;
    x->f->release_wait_until_ms = clock_mono_ms();
    feed_check_live(x->f);
    assert_int_equal(feed_state(x->f), FEED_LIVE);
    assert_true(logged("streams of configured writers have not been announced"));
    end(x);
}

static void too_old(void **state)
{
    struct fix *x = begin(false);

    (void)state;
    ask(x);
    http_answer_from(0, 0, 200, "OK", "Synapse/1.146.0");
    assert_true(logged("this is Synapse 1.146.0; 1.147 is the oldest that is supported"));
    assert_false(feed_release_known(x->f));
    assert_int_equal(x->f->release_wait_until_ms, INT64_MAX);
    ask(x);
    http_answer_from(0, 0, 200, "OK", "Synapse/1.147.0"); /* upgraded */
    assert_true(feed_release_known(x->f));
    end(x);
}

/* Whoever starts says REPLICATE; it may be a newer main process. */
static void a_start_is_noticed(void **state)
{
    struct fix *x = begin(true);

    (void)state;
    assert_true(x->f->release_at_ms > clock_mono_ms() + 30000);
    line(x, "REPLICATE ");
    assert_true(x->f->release_at_ms <= clock_mono_ms() + 1000);
    x->f->release_at_ms = 5; /* due: not put off by others that start */
    line(x, "REPLICATE ");
    assert_int_equal(x->f->release_at_ms, 5);
    end(x);
}

/* Before 1.159 only the main process announces quarantined media, whoever writes it. */
static void who_announces_quarantined_media(void **state)
{
    struct fix *x = begin(false);
    static struct str names[] = {{"ep1", 3}};
    struct feed_pair *p;

    (void)state;
    x->cfg.writers[WRITERS_QUARANTINED_MEDIA] = (struct config_writers){names, 1};
    p = feed_pair_add(x->f, STREAM_QUARANTINED_MEDIA, names[0], 2, 100);
    release_set((struct release){1, 158, 0});
    feed_pairs_expect(x->f);
    assert_false(p->expected);
    ask(x);
    http_answer_from(0, 0, 200, "OK", "Synapse/1.159.0");
    assert_true(p->expected);
    end(x);
}

int run_release(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(until_it_answers),       cmocka_unit_test(an_upgrade_is_noticed),
        cmocka_unit_test(a_proxy_that_hides_it),  cmocka_unit_test(nothing_is_served_before),
        cmocka_unit_test(without_a_main_process), cmocka_unit_test(too_old),
        cmocka_unit_test(a_start_is_noticed),     cmocka_unit_test(who_announces_quarantined_media),
    };

    return cmocka_run_group_tests_name("release", tests, NULL, NULL);
}
