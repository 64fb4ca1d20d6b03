/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* The budget: everything that the model has allocated is part of it, and what is forgotten for it is read
 * again. */
#include "test_model.h"

enum { ROOMS = 40, CHANGES = 150, BUDGET = 1 << 20 };

static size_t held(const struct world *w)
{
    struct model_stats s;
    model_stats(w->m, &s);
    return s.bytes;
}

static const char *name_of(struct world *w, int i)
{
    return world_text(w, "!r%d:x", i);
}

/* Reads what a run of /sync would: the state that held at each of the room's changes. */
static void look_at(struct world *w, int i)
{
    struct room *r = model_room(w->m, S(name_of(w, i)));
    int64_t last = world_group(w, name_of(w, i));
    for (int k = 0; k < CHANGES; k++) {
        struct evrec *rec;
        assert_int_equal(
            await(w, model_sg_get(w->m, model_sg(w->m, r, last - k), S("m.room.topic"), S(""), &rec)), HAVE);
        assert_str(rec->id, world_text(w, "$t%d!r%d:x", CHANGES - 1 - k, i));
    }
}

static void test_state_groups_and_timelines(void **state)
{
    struct world *w = *state;
    for (int i = 0; i < ROOMS; i++) {
        int64_t at = world_room(w, name_of(w, i), 1000 + i * 1000, "shared", "@a:x", NULL);
        model_room(w->m, S(name_of(w, i)));
        for (int k = 0; k < CHANGES; k++)
            world_event(w, (struct t_event){.id = world_text(w, "$t%d!r%d:x", k, i),
                                            .room = name_of(w, i),
                                            .type = "m.room.topic",
                                            .key = "",
                                            .stream = ++at});
    }
    for (int i = 0; i < ROOMS; i++)
        look_at(w, i);
    assert_true(mem_bytes(MEM_state_groups) > BUDGET); /* they alone do not fit */
    struct config *cfg = (struct config *)w->cfg;
    cfg->model_memory_mb = BUDGET >> 20;
    model_trim(w->m);
    model_trim(w->m);
    assert_true(held(w) <= BUDGET);
    assert_true(mem_bytes(MEM_state_groups) + mem_bytes(MEM_rooms) + mem_bytes(MEM_events) <=
                (int64_t)held(w));
    for (int i = 0; i < ROOMS; i++)
        look_at(w, i);
    world_settle(w);
    model_trim(w->m);
    model_trim(w->m);
    assert_true(held(w) <= BUDGET);
}

/* Within the budget nothing is forgotten. */
static void test_room_enough(void **state)
{
    struct world *w = *state;
    int64_t at = world_room(w, "!r0:x", 1000, "shared", "@a:x", NULL);
    model_room(w->m, S("!r0:x"));
    for (int k = 0; k < CHANGES; k++)
        world_event(w, (struct t_event){.id = world_text(w, "$t%d!r0:x", k),
                                        .room = "!r0:x",
                                        .type = "m.room.topic",
                                        .key = "",
                                        .stream = ++at});
    look_at(w, 0);
    world_settle(w);
    model_trim(w->m);
    world_forget_counts(w);
    look_at(w, 0);
    assert_int_equal(world_issued(w), 0);
}

int run_budget_tests(void)
{
    const struct CMUnitTest tests[] = {
        T(test_state_groups_and_timelines),
        T(test_room_enough),
    };
    return cmocka_run_group_tests_name("budget", tests, NULL, NULL);
}
