/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Maps of values that hold their own keys, against a flat array indexed by key number: values that begin with
 * their key, and values that begin with a pointer to it. Keys are few, so that a map goes from nothing to one
 * value, to a table, and through its growths and long runs.
 */
#include "chappe/clock.h"
#include "chappe/map.h"
#include "test_base.h"
#include <stdio.h>

enum { KEYS = 300, STEPS = 60000 };

struct name { /* begins with the key */
    struct str key;
    int id;
    bool seen;
    char text[16];
};
struct holder { /* begins with a pointer to what does */
    struct name *name;
};

static struct name names[2][KEYS]; /* two values per key, to see replacing */
static struct holder holders[2][KEYS];

static void fill(void)
{
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < KEYS; i++) {
            struct name *n = &names[side][i];
            *n = (struct name){.id = i};
            n->key = str_n(n->text, (size_t)snprintf(n->text, sizeof n->text, "@u%d:x", i));
            holders[side][i].name = n;
        }
}

static void *value_of(bool behind, int side, int id)
{
    return behind ? (void *)&holders[side][id] : (void *)&names[side][id];
}

static struct name *name_of(bool behind, void *value)
{
    return behind ? ((struct holder *)value)->name : value;
}

static void iterate(struct kmap *m, bool behind, void **model)
{
    size_t it = 0, seen = 0, before = kmap_count(m);
    for (int i = 0; i < KEYS; i++)
        names[0][i].seen = names[1][i].seen = false;
    for (void *v; (v = kmap_next(m, &it)); seen++) {
        struct name *n = name_of(behind, v);
        assert_false(n->seen);
        assert_ptr_equal(model[n->id], v);
        n->seen = true;
        if (rng_u64() % 3 == 0) {
            assert_ptr_equal(kmap_del(m, n->key), v);
            model[n->id] = NULL;
        }
    }
    assert_int_equal(seen, before);
    assert_null(kmap_next(m, &it)); /* the end is the end */
}

static void random_steps(bool behind)
{
    struct kmap m;
    void *model[KEYS] = {0};
    size_t count = 0;
    int64_t before = mem_bytes(MEM_rooms);
    fill();
    if (behind)
        kmap_init_behind(&m);
    else
        kmap_init(&m);
    for (int step = 0; step < STEPS; step++) {
        int id = (int)(rng_u64() % (step % 1000 < 500 ? KEYS : 12));
        void *v = value_of(behind, (int)(rng_u64() % 2), id);
        struct str key = names[rng_u64() % 2][id].key;
        switch (rng_u64() % 4) {
        case 0:
        case 1:
            assert_ptr_equal(kmap_put(MEM_rooms, &m, v), model[id]);
            count += model[id] == NULL;
            model[id] = v;
            break;
        case 2:
            assert_ptr_equal(kmap_del(&m, key), model[id]);
            count -= model[id] != NULL;
            model[id] = NULL;
            break;
        default:
            assert_ptr_equal(kmap_get(&m, key), model[id]);
            assert_ptr_equal(kmap_get_hashed(&m, key, smap_hash(key)), model[id]);
        }
        assert_int_equal(kmap_count(&m), count);
        if (step % 500 == 0) {
            iterate(&m, behind, model);
            count = kmap_count(&m);
        }
    }
    for (int i = 0; i < KEYS; i++)
        assert_ptr_equal(kmap_get(&m, names[0][i].key), model[i]);
    assert_true(kmap_bytes(&m) > 0);
    kmap_fini(MEM_rooms, &m);
    assert_int_equal(kmap_count(&m) + kmap_bytes(&m), 0);
    assert_int_equal(mem_bytes(MEM_rooms), before);
}

static void test_random(void **state)
{
    (void)state;
    random_steps(false);
}

static void test_random_behind(void **state)
{
    (void)state;
    random_steps(true);
}

/* Nothing and one value take no memory, and one more does; whatever is asked for meanwhile. */
static void one_by_one(bool behind)
{
    struct kmap m = {behind ? KMAP_BEHIND : 0};
    int64_t before = mem_bytes(MEM_rooms);
    void *a = value_of(behind, 0, 1), *a2 = value_of(behind, 1, 1), *b = value_of(behind, 0, 2);
    struct str a_key = names[0][1].key, b_key = names[0][2].key;
    for (int round = 0; round < 3; round++) {
        size_t it = 0;
        assert_null(kmap_get(&m, a_key));
        assert_null(kmap_del(&m, a_key));
        assert_null(kmap_next(&m, &it));
        assert_null(kmap_put(MEM_rooms, &m, a));
        assert_ptr_equal(kmap_get(&m, a_key), a);
        assert_null(kmap_get(&m, b_key));
        assert_null(kmap_del(&m, b_key));
        assert_ptr_equal(kmap_put(MEM_rooms, &m, a2), a);
        assert_int_equal(kmap_count(&m), 1);
        it = 0;
        assert_ptr_equal(kmap_next(&m, &it), a2);
        assert_ptr_equal(kmap_del(&m, a_key), a2);
        assert_null(kmap_next(&m, &it));
        assert_int_equal(kmap_count(&m), 0);
    }
    assert_int_equal(mem_bytes(MEM_rooms), before);
    assert_null(kmap_put(MEM_rooms, &m, a));
    assert_null(kmap_put(MEM_rooms, &m, b));
    assert_int_equal(kmap_count(&m), 2);
    assert_true(mem_bytes(MEM_rooms) > before);
    assert_ptr_equal(kmap_get(&m, a_key), a);
    assert_ptr_equal(kmap_get(&m, b_key), b);
    kmap_fini(MEM_rooms, &m);
    assert_null(kmap_get(&m, a_key));
    assert_null(kmap_put(MEM_rooms, &m, b)); /* the values' kind is still known */
    assert_ptr_equal(kmap_get(&m, b_key), b);
    kmap_fini(MEM_rooms, &m);
    assert_int_equal(mem_bytes(MEM_rooms), before);
}

static void test_one_by_one(void **state)
{
    (void)state;
    fill();
    one_by_one(false);
    one_by_one(true);
}

/* Deleting everything while iterating, at sizes around each growth. */
static void test_delete_all_while_iterating(void **state)
{
    (void)state;
    fill();
    for (int n = 0; n <= KEYS; n++) {
        struct kmap m;
        int seen = 0;
        size_t it = 0;
        kmap_init(&m);
        for (int i = 0; i < n; i++)
            assert_null(kmap_put(MEM_rooms, &m, &names[0][i]));
        for (struct name *e; (e = kmap_next(&m, &it)); seen++)
            assert_ptr_equal(kmap_del(&m, e->key), e);
        assert_int_equal(seen, n);
        assert_int_equal(kmap_count(&m), 0);
        kmap_fini(MEM_rooms, &m);
    }
}

/* The values may be gone when a map is walked through for the last time. */
static void test_values_gone(void **state)
{
    (void)state;
    fill();
    for (int n = 1; n <= 20; n++) {
        struct kmap m;
        size_t it = 0;
        int seen = 0;
        kmap_init(&m);
        for (int i = 0; i < n; i++) {
            struct name *e = mem_new(MEM_users, sizeof *e);
            e->key = names[0][i].key;
            assert_null(kmap_put(MEM_users, &m, e));
        }
        for (struct name *e; (e = kmap_next(&m, &it)); seen++)
            mem_free(MEM_users, e);
        assert_int_equal(seen, n);
        kmap_fini(MEM_users, &m);
    }
}

static void test_odd_keys(void **state)
{
    (void)state;
    struct kmap m;
    struct name v[3] = {{.key = STR("")}, {.key = STR("a\0b")}, {.key = STR("a")}};
    kmap_init(&m);
    for (int i = 0; i < 3; i++) {
        assert_null(kmap_put(MEM_rooms, &m, &v[i]));
        assert_ptr_equal(kmap_get(&m, v[i].key), &v[i]);
    }
    assert_ptr_equal(kmap_get(&m, STR_ABSENT), &v[0]);
    assert_ptr_equal(kmap_get(&m, STR("a\0b")), &v[1]);
    assert_ptr_equal(kmap_get(&m, STR("a")), &v[2]);
    assert_null(kmap_get(&m, STR("b")));
    kmap_fini(MEM_rooms, &m);
}

int run_kmap_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),      cmocka_unit_test(test_random_behind),
        cmocka_unit_test(test_one_by_one),  cmocka_unit_test(test_delete_all_while_iterating),
        cmocka_unit_test(test_values_gone), cmocka_unit_test(test_odd_keys),
    };
    return cmocka_run_group_tests_name("kmap", tests, NULL, NULL);
}
