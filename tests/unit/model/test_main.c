/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* The groups, and the world that each test starts with. */
#include "test_model.h"

int world_setup(void **state)
{
    struct world *w = world_new();
    model_adopt(w->m, (struct feed *)(void *)w);
    world_settle(w);
    assert_true(model_ready(w->m));
    world_forget_counts(w);
    *state = w;
    return 0;
}

int world_teardown(void **state)
{
    struct world *w = *state;
    if (w)
        world_free(&w);
    return 0;
}

int main(void)
{
    clock_fake_set(1000000);
    return run_timeline_tests() + run_burst_tests() + run_state_tests() + run_delta_tests() +
           run_user_tests() + run_budget_tests() + run_unread_tests();
}
