/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* The mailbox: order per sender, nothing lost or doubled with several senders, slices, drain. */
#include "test_loop.h"
#include "chappe/loop.h"
#include "chappe/map.h"
#include <stdlib.h>
#include <uv.h>

enum { SENDERS = 3, EACH = 20000 };
struct item {
    struct mail mail;
    int sender, number;
};
static struct {
    struct mailbox *mb;
    int next[SENDERS];
    int got, in_turn, longest_turn;
} box;

static void on_item(void *arg, struct mail *m)
{
    struct item *it = container_of(m, struct item, mail);
    assert_ptr_equal(arg, &box);
    assert_int_equal(it->number, box.next[it->sender]++);
    box.got++;
    if (++box.in_turn > box.longest_turn)
        box.longest_turn = box.in_turn;
    free(it);
    if (box.got == SENDERS * EACH)
        mailbox_free(&box.mb);
}

static void on_turn(uv_prepare_t *h)
{
    (void)h;
    box.in_turn = 0;
}

static void sender(void *arg)
{
    for (int i = 0; i < EACH; i++) {
        struct item *it = calloc(1, sizeof *it);
        it->sender = (int)(intptr_t)arg;
        it->number = i;
        mailbox_post(box.mb, &it->mail);
    }
}

static void test_many_senders(void **state)
{
    (void)state;
    uv_loop_t loop;
    uv_thread_t threads[SENDERS];
    uv_prepare_t turn;
    assert_int_equal(uv_loop_init(&loop), 0);
    uv_prepare_init(&loop, &turn);
    uv_prepare_start(&turn, on_turn);
    uv_unref((uv_handle_t *)&turn);
    memset(&box, 0, sizeof box);
    box.mb = mailbox_new(&loop, on_item, &box);
    for (int i = 0; i < SENDERS; i++)
        assert_int_equal(uv_thread_create(&threads[i], sender, (void *)(intptr_t)i), 0);
    uv_run(&loop, UV_RUN_DEFAULT); /* ends when the last item closes the box */
    for (int i = 0; i < SENDERS; i++)
        uv_thread_join(&threads[i]);
    assert_int_equal(box.got, SENDERS * EACH);
    assert_true(box.longest_turn <= MAILBOX_SLICE);
    uv_close((uv_handle_t *)&turn, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void test_drain(void **state)
{
    (void)state;
    uv_loop_t loop;
    assert_int_equal(uv_loop_init(&loop), 0);
    memset(&box, 0, sizeof box);
    box.mb = mailbox_new(&loop, on_item, &box);
    sender((void *)0);
    assert_int_equal(box.got, 0);
    mailbox_drain(box.mb);
    assert_int_equal(box.got, EACH);
    mailbox_free(&box.mb);
    assert_null(box.mb);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int run_mailbox_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_senders),
        cmocka_unit_test(test_drain),
    };
    return cmocka_run_group_tests_name("mailbox", tests, NULL, NULL);
}
