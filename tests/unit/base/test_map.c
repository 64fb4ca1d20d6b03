/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Maps against naive models: a flat array indexed by key number. Keys are few, so that tables fill, wrap and
 * delete within long runs; iteration deletes random entries on its way and must still see each one once.
 */
#include "chappe/map.h"
#include "chappe/clock.h"
#include "test_base.h"
#include <stdio.h>
#include <stdlib.h>

enum { KEYS = 300, STEPS = 60000 };

struct entry {
    int id;
    bool seen;
    char key[16];
};

static struct entry entries[2][KEYS]; /* two values per key, to see replacing */

static void fill_entries(void)
{
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < KEYS; i++) {
            entries[side][i] = (struct entry){.id = i};
            snprintf(entries[side][i].key, sizeof entries[side][i].key, "@u%d:x", i);
        }
}

static struct str key_of(const struct entry *e)
{
    return str_of(e->key);
}

static int64_t number_of(int id)
{
    return id % 3 == 0 ? -id : id % 3 == 1 ? id : (int64_t)id << 40;
}

static void iterate_strings(struct smap *m, struct entry **model)
{
    size_t it = 0, seen = 0, before = smap_count(m);
    for (int i = 0; i < KEYS; i++)
        entries[0][i].seen = entries[1][i].seen = false;
    for (struct entry *e; (e = smap_next(m, &it)); seen++) {
        assert_false(e->seen);
        assert_ptr_equal(model[e->id], e);
        e->seen = true;
        if (rng_u64() % 3 == 0) {
            assert_ptr_equal(smap_del(m, key_of(e)), e);
            model[e->id] = NULL;
        }
    }
    assert_int_equal(seen, before);
    assert_null(smap_next(m, &it)); /* the end is the end */
}

static void test_smap_random(void **state)
{
    (void)state;
    struct smap m;
    struct entry *model[KEYS] = {0};
    size_t count = 0;
    fill_entries();
    smap_init(&m);
    for (int step = 0; step < STEPS; step++) {
        struct entry *e = &entries[rng_u64() % 2][rng_u64() % (step % 1000 < 500 ? KEYS : 12)];
        switch (rng_u64() % 4) {
        case 0:
        case 1:
            assert_ptr_equal(smap_put(&m, key_of(e), e), model[e->id]);
            count += model[e->id] == NULL;
            model[e->id] = e;
            break;
        case 2:
            assert_ptr_equal(smap_del(&m, key_of(e)), model[e->id]);
            count -= model[e->id] != NULL;
            model[e->id] = NULL;
            break;
        default:
            assert_ptr_equal(smap_get(&m, key_of(e)), model[e->id]);
        }
        assert_int_equal(smap_count(&m), count);
        if (step % 500 == 0) {
            iterate_strings(&m, model);
            count = smap_count(&m);
        }
    }
    for (int i = 0; i < KEYS; i++)
        assert_ptr_equal(smap_get(&m, key_of(&entries[0][i])), model[i]);
    assert_true(smap_bytes(&m) > 0);
    smap_fini(&m);
    assert_int_equal(smap_count(&m) + smap_bytes(&m), 0);
}

/* The smallest table is full with one entry. */
static void test_smap_single(void **state)
{
    (void)state;
    struct smap m;
    int a, b;
    smap_init_of(&m, MEM_rooms);
    int64_t before = mem_bytes(MEM_rooms);
    for (int round = 0; round < 3; round++) {
        size_t it = 0;
        assert_null(smap_get(&m, STR("a")));
        assert_null(smap_put(&m, STR("a"), &a));
        assert_ptr_equal(smap_get(&m, STR("a")), &a);
        assert_null(smap_get(&m, STR("b")));
        assert_null(smap_del(&m, STR("b")));
        assert_ptr_equal(smap_next(&m, &it), &a);
        assert_ptr_equal(smap_del(&m, STR("a")), &a);
        assert_null(smap_next(&m, &it));
        assert_int_equal(smap_count(&m), 0);
        it = 0;
        assert_null(smap_next(&m, &it));
    }
    assert_true(smap_bytes(&m) <= 32);
    assert_null(smap_put(&m, STR("a"), &a));
    assert_ptr_equal(smap_put(&m, STR("a"), &b), &a);
    assert_null(smap_put(&m, STR("b"), &a));
    assert_ptr_equal(smap_get(&m, STR("a")), &b);
    assert_ptr_equal(smap_get(&m, STR("b")), &a);
    smap_fini(&m);
    assert_int_equal(mem_bytes(MEM_rooms), before);
}

static void iterate_numbers(struct imap *m, struct entry **model)
{
    size_t it = 0, seen = 0, before = imap_count(m);
    for (int i = 0; i < KEYS; i++)
        entries[0][i].seen = entries[1][i].seen = false;
    int64_t key;
    for (struct entry *e; (e = imap_next_key(m, &it, &key)); seen++) {
        assert_int_equal(key, number_of(e->id));
        assert_false(e->seen);
        assert_ptr_equal(model[e->id], e);
        e->seen = true;
        if (rng_u64() % 3 == 0) {
            assert_ptr_equal(imap_del(m, number_of(e->id)), e);
            model[e->id] = NULL;
        }
    }
    assert_int_equal(seen, before);
    assert_null(imap_next(m, &it));
}

static void test_imap_random(void **state)
{
    (void)state;
    struct imap m;
    struct entry *model[KEYS] = {0};
    size_t count = 0;
    fill_entries();
    imap_init(&m);
    for (int step = 0; step < STEPS; step++) {
        struct entry *e = &entries[rng_u64() % 2][rng_u64() % KEYS];
        int64_t key = number_of(e->id);
        switch (rng_u64() % 4) {
        case 0:
        case 1:
            assert_ptr_equal(imap_put(&m, key, e), model[e->id]);
            count += model[e->id] == NULL;
            model[e->id] = e;
            break;
        case 2:
            assert_ptr_equal(imap_del(&m, key), model[e->id]);
            count -= model[e->id] != NULL;
            model[e->id] = NULL;
            break;
        default:
            assert_ptr_equal(imap_get(&m, key), model[e->id]);
        }
        assert_int_equal(imap_count(&m), count);
        if (step % 500 == 0) {
            iterate_numbers(&m, model);
            count = imap_count(&m);
        }
    }
    imap_fini(&m);
    assert_int_equal(imap_bytes(&m), 0);
}

/* Deleting everything while iterating, at sizes around each growth. */
static void test_delete_all_while_iterating(void **state)
{
    (void)state;
    fill_entries();
    for (int n = 0; n <= KEYS; n++) {
        struct smap m;
        int seen = 0;
        size_t it = 0;
        smap_init(&m);
        for (int i = 0; i < n; i++)
            assert_null(smap_put(&m, key_of(&entries[0][i]), &entries[0][i]));
        for (struct entry *e; (e = smap_next(&m, &it)); seen++)
            assert_ptr_equal(smap_del(&m, key_of(e)), e);
        assert_int_equal(seen, n);
        assert_int_equal(smap_count(&m), 0);
        smap_fini(&m);
    }
}

static void test_empty_and_odd_keys(void **state)
{
    (void)state;
    struct smap m;
    struct imap im;
    int one, two, three;
    size_t it = 0;
    smap_init(&m);
    assert_null(smap_get(&m, STR("x")));
    assert_null(smap_del(&m, STR("x")));
    assert_null(smap_next(&m, &it));
    smap_put(&m, STR(""), &one);
    smap_put(&m, STR("a\0b"), &two);
    smap_put(&m, STR("a"), &three);
    assert_ptr_equal(smap_get(&m, STR_ABSENT), &one);
    assert_ptr_equal(smap_get(&m, STR("a\0b")), &two);
    assert_ptr_equal(smap_get(&m, STR("a")), &three);
    smap_fini(&m);

    imap_init(&im);
    it = 0;
    assert_null(imap_get(&im, 0));
    assert_null(imap_next(&im, &it));
    imap_put(&im, 0, &one);
    imap_put(&im, INT64_MIN, &two);
    imap_put(&im, INT64_MAX, &three);
    assert_ptr_equal(imap_get(&im, 0), &one);
    assert_ptr_equal(imap_get(&im, INT64_MIN), &two);
    assert_ptr_equal(imap_get(&im, INT64_MAX), &three);
    assert_null(imap_get(&im, -1));
    imap_fini(&im);
}

struct node {
    int id;
    struct list link;
};

static void test_list(void **state)
{
    (void)state;
    struct list head;
    struct node nodes[5];
    list_init(&head);
    assert_true(list_empty(&head));
    for (int i = 0; i < 5; i++) {
        nodes[i].id = i;
        list_push(&head, &nodes[i].link);
    }
    int expect = 0;
    struct node *n;
    list_each(n, &head, struct node, link) {
        assert_int_equal(n->id, expect++);
        if (n->id % 2)
            list_del(&n->link);
    }
    assert_int_equal(expect, 5);
    list_del(&nodes[1].link); /* detached already */
    expect = 0;
    list_each(n, &head, struct node, link) {
        assert_int_equal(n->id, expect);
        expect += 2;
    }
    assert_int_equal(expect, 6);
}

int run_map_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smap_random),        cmocka_unit_test(test_smap_single),
        cmocka_unit_test(test_imap_random),        cmocka_unit_test(test_delete_all_while_iterating),
        cmocka_unit_test(test_empty_and_odd_keys), cmocka_unit_test(test_list),
    };
    return cmocka_run_group_tests_name("map", tests, NULL, NULL);
}
