/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Typing and receipts of a joined room, each as one whole event in JSON, or absent (sync-v3 3.8;
 * Synapse 1.157 handlers/typing.py, handlers/receipts.py, storage/databases/main/receipts.py).
 */
#include "sync_int.h"

static bool item_matches(struct sync_run *run, struct room *r, struct str type)
{
    struct filter_item it = {.type = type, .sender = STR_ABSENT, .room_id = r->room_id};
    return filter_match(&run->f->ephemeral, &it) && filter_match(&run->f->room, &it);
}

struct str room_typing_json(struct sync_run *run, struct room *r)
{
    if (r->typing_serial <= run_since_typing(run) || !item_matches(run, r, STR("m.typing")))
        return STR_ABSENT;
    struct buf b;
    buf_init(&b, 16 << 20);
    buf_put(&b, STR("{\"type\":\"m.typing\",\"content\":{\"user_ids\":["));
    for (size_t i = 0; i < r->typing.n; i++) {
        if (i)
            buf_putc(&b, ',');
        json_write_str(&b, r->typing.v[i], 0);
    }
    buf_put(&b, STR("]}}"));
    struct str s = arena_str(run->a, buf_str(&b));
    buf_fini(&b);
    return s;
}

static int by_event_type_user(const void *x, const void *y)
{
    const struct receipt *a = *(const struct receipt *const *)x, *b = *(const struct receipt *const *)y;
    int c = str_cmp(a->event_id, b->event_id);
    if (!c)
        c = str_cmp(a->type, b->type);
    if (!c)
        c = str_cmp(a->user_id, b->user_id);
    return c ? c : a->stream < b->stream ? -1 : 1;
}

/* MSC4102: an unthreaded receipt of a user for an event hides its threaded ones for the same event, be they
 * of another type, or private and of another user, as in Synapse. */
static size_t drop_hidden_threaded(struct sync_run *run, const struct receipt **v, size_t n)
{
    struct smap unthreaded;
    smap_init(&unthreaded);
    bool threads = false;
    for (size_t i = 0; i < n; i++)
        threads |= !str_absent(v[i]->thread_id);
    for (size_t i = 0; threads && i < n; i++) {
        if (str_absent(v[i]->thread_id))
            smap_put(&unthreaded,
                     arena_printf(run->a, "%.*s %.*s", STR_ARG(v[i]->event_id), STR_ARG(v[i]->user_id)),
                     (void *)(uintptr_t)v[i]);
    }
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        bool hidden = threads && !str_absent(v[i]->thread_id) &&
                      smap_get(&unthreaded, arena_printf(run->a, "%.*s %.*s", STR_ARG(v[i]->event_id),
                                                         STR_ARG(v[i]->user_id)));
        if (!hidden)
            v[k++] = v[i];
    }
    smap_fini(&unthreaded);
    return k;
}

static size_t drop_foreign_private(struct sync_run *run, const struct receipt **v, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (!str_eq(v[i]->type, STR("m.read.private")) || str_eq(v[i]->user_id, run->u->user_id))
            v[k++] = v[i];
    }
    return k;
}

static void put_data(struct sync_run *run, struct buf *b, const struct receipt *rc)
{
    struct json *v;
    if (json_parse(run->a, rc->data, &v) || !json_is_object(v)) {
        metric_add_l(M_model_poisoned, "receipt", 1);
        v = json_new(run->a, JSON_OBJECT);
    }
    if (!str_absent(rc->thread_id))
        json_set(v, STR("thread_id"), json_new_str(run->a, rc->thread_id));
    json_write(b, v, 0);
}

/* v is sorted by event, type, user: three nested objects. */
static void put_content(struct sync_run *run, struct buf *b, const struct receipt **v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool same_event = i > 0 && str_eq(v[i]->event_id, v[i - 1]->event_id);
        bool same_type = same_event && str_eq(v[i]->type, v[i - 1]->type);
        if (!same_event) {
            buf_put(b, i ? STR("}},") : STR(""));
            json_write_str(b, v[i]->event_id, 0);
            buf_put(b, STR(":{"));
        }
        if (!same_type) {
            buf_put(b, same_event ? STR("},") : STR(""));
            json_write_str(b, v[i]->type, 0);
            buf_put(b, STR(":{"));
        } else {
            buf_putc(b, ',');
        }
        json_write_str(b, v[i]->user_id, 0);
        buf_putc(b, ':');
        put_data(run, b, v[i]);
    }
    buf_put(b, STR("}}"));
}

struct str room_receipts_json(struct sync_run *run, struct room *r)
{
    static const struct mpos zero = {0};
    const struct mpos *since = run->has_since ? &run->since.receipt : &zero;
    if (!item_matches(run, r, STR("m.receipt")))
        return STR_ABSENT;
    if (!run_have(run, model_receipts(run->m, r, since)))
        return STR_ABSENT;
    if (r->last_receipt <= since->min)
        return STR_ABSENT;
    const struct receipt **v = ARENA_ARRAY(run->a, const struct receipt *, r->receipts.n + 1);
    size_t n = 0;
    for (size_t i = r->receipts.n; i-- > 0 && r->receipts.v[i].stream > since->min;) {
        const struct receipt *rc = &r->receipts.v[i];
        if (mpos_in_range(since, &run->now.receipt, rc->writer, rc->stream))
            v[n++] = rc;
    }
    n = drop_foreign_private(run, v, drop_hidden_threaded(run, v, n));
    if (n == 0)
        return STR_ABSENT;
    qsort(v, n, sizeof *v, by_event_type_user);
    size_t k = 0;
    for (size_t i = 0; i < n;
         i++) { /* one per (event, type, user): of several threads the newest, as a later key in Synapse */
        if (i + 1 < n && str_eq(v[i]->event_id, v[i + 1]->event_id) && str_eq(v[i]->type, v[i + 1]->type) &&
            str_eq(v[i]->user_id, v[i + 1]->user_id))
            continue;
        v[k++] = v[i];
    }
    struct buf b;
    buf_init(&b, 256 << 20);
    buf_put(&b, STR("{\"type\":\"m.receipt\",\"content\":{"));
    put_content(run, &b, v, k);
    buf_put(&b, STR("}}"));
    struct str s = arena_str(run->a, buf_str(&b));
    buf_fini(&b);
    return s;
}
