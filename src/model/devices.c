/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Devices: undelivered to-device messages, key counts, and who changed their device list.
 *
 * A to_device row says that some device of a user got something; each device asks for what lies above what it
 * knows. Deletions (a client's token acknowledges) are collected and sent once a second for all devices:
 * nobody waits for them, and what a token acknowledges is not shown again in any case. Who comes to a process
 * for the first time has one coming, so after a restart that is a statement a second instead of one a device.
 * Device list rows name a user; the rooms it concerns come from one query per burst, and all readers share
 * them.
 */
#include "model_int.h"

enum { TD_PAGE = 100, DL_RING_MAX = 200000, ACKS_AT_ONCE = 1000 };

static int64_t blob_bytes(const struct blob *b)
{
    return b ? (int64_t)(sizeof *b + b->n) : 0;
}

static void message_free(struct to_device_msg *msg)
{
    mem_count(MEM_devices, -blob_bytes(msg->json));
    blob_unref(&msg->json);
}

static void td_clear(struct device *d)
{
    for (size_t i = 0; i < d->td.n; i++)
        message_free(&d->td.v[i]);
    d->td.n = 0;
}

void device_free(struct model *m, struct device *d)
{
    td_clear(d);
    vec_free_of(MEM_devices, &d->td);
    blob_unref(&d->otk_json);
    blob_unref(&d->fallback_json);
    while (d->ll && d->ll->sent.n)
        model_ll_del(m, d, d->ll->sent.n - 1);
    mem_free(MEM_lazy_members, d->ll);
    mem_free(MEM_devices, d);
}

/* ---- lazily loaded members ---- */

struct ll_state *model_ll(struct device *d)
{
    if (!d->ll)
        d->ll = MEM_NEW(MEM_lazy_members, struct ll_state);
    return d->ll;
}

void model_ll_add(struct model *m, struct device *d, uint64_t user, struct str event_id,
                  const struct mpos *at)
{
    struct ll_sent e = {user, model_rec(m, event_id), mpos_keep(MEM_lazy_members, &m->kept_ll, at)};
    evrec_pin(e.rec);
    vec_push_of(MEM_lazy_members, &model_ll(d)->sent, e);
}

void model_ll_del(struct model *m, struct device *d, size_t i)
{
    struct ll_state *ll = d->ll;
    struct ll_sent *e = &ll->sent.v[i];
    evrec_unpin(m, e->rec);
    mpos_unref(MEM_lazy_members, &e->at);
    ll->sent.n--;
    memmove(e, e + 1, (ll->sent.n - i) * sizeof *e);
    if (ll->sent.n == 0)
        vec_free_of(MEM_lazy_members, &ll->sent);
}

/* ---- to-device ---- */

enum have model_to_device(struct model *m, struct device *d, int64_t lo)
{
    int64_t now = positions_persisted_upto(m->pos[STREAM_TO_DEVICE]);
    if (lo >= now)
        return HAVE;
    if (d->td_known && d->td_lo <= lo && (d->td_hi >= now || d->td_hi >= d->user->td_last))
        return HAVE;
    /* A full page above lo is enough: no more than that is sent at once. */
    if (d->td_known && d->td_lo <= lo) {
        size_t above = 0;
        for (size_t i = 0; i < d->td.n; i++)
            above += d->td.v[i].stream > lo;
        if (above >= TD_PAGE)
            return HAVE;
    }
    if (d->td_load == LOAD_NONE) {
        d->td_load = LOAD_QUEUED;
        d->td_known = false;
        d->td_lo = lo;
        vec_push(&m->want_td, d);
        loader_kick(m);
    } else if (d->td_load == LOAD_QUEUED && lo < d->td_lo) {
        d->td_lo = lo;
    }
    return LACK;
}

/* The message as we send it. One that is no object would spoil the answers of its device until it is
 * acknowledged, which the client cannot do with answers that it cannot read. */
static struct blob *message_read(struct arena *a, struct str text)
{
    struct json *v;
    struct blob *made = NULL;
    if (json_is_written_object(text)) { /* as it is stored, but for what old releases wrote */
        made = blob_new(text);
    } else if (json_parse(a, text, &v) == 0 && json_is_object(v)) {
        struct buf b;
        buf_init(&b, 64 << 20);
        json_write(&b, v, 0);
        made = blob_from_buf(&b);
        buf_fini(&b);
    }
    if (!made)
        metric_add_l(M_model_poisoned, "to_device", 1);
    arena_reset(a);
    return made;
}

static void td_add(struct device *d, int64_t stream, struct blob *json)
{
    vec_push_of(MEM_devices, &d->td, ((struct to_device_msg){stream, json}));
    mem_count(MEM_devices, blob_bytes(json));
}

static void on_to_device(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    struct arena *a = arena_new(64 << 20);
    for (size_t i = 0; i < op->targets.n; i++) {
        struct device *d = op->targets.v[i];
        d->td_load = LOAD_NONE;
        if (!r)
            continue;
        td_clear(d);
        d->td_known = true;
        d->td_hi = op->at_i64;
        d->pages = 0;
    }
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct user *u = kmap_get(&m->users, pg_str(r, i, 0));
        struct device *d = u ? kmap_get(&u->devices, pg_str(r, i, 1)) : NULL;
        if (!d)
            continue;
        int64_t stream = pg_i64(r, i, 2);
        d->pages += d->pages < TD_PAGE;
        if (stream <= op->at_i64)
            td_add(d, stream, message_read(a, pg_str(r, i, 3)));
        if (d->pages == TD_PAGE && stream < d->td_hi)
            d->td_hi = stream; /* a full page: complete up to its last row only */
        if (stream > d->td_seen_upto)
            d->td_seen_upto = stream;
    }
    arena_free(&a);
}

void model_to_device_ack(struct model *m, struct device *d, int64_t upto)
{
    size_t gone = 0;
    while (gone < d->td.n && d->td.v[gone].stream <= upto) {
        message_free(&d->td.v[gone]);
        gone++;
    }
    if (gone) {
        memmove(d->td.v, d->td.v + gone, (d->td.n - gone) * sizeof d->td.v[0]);
        d->td.n -= gone;
    }
    /* Once per device in any case (rows from before this process), then only when there may be something to
     * delete. */
    if (d->td_deleted_upto >= 0 && (upto <= d->td_deleted_upto || d->td_seen_upto <= d->td_deleted_upto))
        return;
    if (upto <= 0)
        return;
    d->td_deleted_upto = upto;
    d->deleting++;
    vec_push(&m->td_acks, ((struct td_ack){d, upto}));
    if (m->td_acks.n >= ACKS_AT_ONCE)
        device_acks_flush(m);
}

static void on_deleted(struct load_op *op, const struct pg_result *r)
{
    (void)r;
    for (size_t i = 0; i < op->targets.n; i++) {
        struct device *d = op->targets.v[i];
        d->deleting--;
        if (op->failed)
            d->td_deleted_upto = -1;
    }
}

/* Once a second, or when there are many. */
void device_acks_flush(struct model *m)
{
    size_t n = m->td_acks.n;
    if (n == 0)
        return;
    /* No batch: nobody waits for a deletion. */
    struct load_op *op = load_op_new(m, NULL, on_deleted);
    struct str *users = xmalloc(sizeof *users * n), *devices = xmalloc(sizeof *devices * n);
    int64_t *hi = xmalloc(sizeof *hi * n);
    for (size_t i = 0; i < n; i++) {
        struct device *d = m->td_acks.v[i].d;
        users[i] = d->user->user_id;
        devices[i] = d->device_id;
        hi[i] = m->td_acks.v[i].upto;
        vec_push(&op->targets, d);
    }
    struct pg_args *args = pg_args_new();
    pg_args_text_array(args, users, n);
    pg_args_text_array(args, devices, n);
    pg_args_i64_array(args, hi, n);
    free(users);
    free(devices);
    free(hi);
    m->td_acks.n = 0;
    load_op_send(op, SQL_to_device_delete, args);
}

/* ---- key counts ---- */

enum have model_device_keys(struct model *m, struct device *d)
{
    if (d->keys_load == LOAD_DONE && !d->keys_stale)
        return HAVE;
    if (d->keys_load == LOAD_NONE || d->keys_load == LOAD_DONE) {
        d->keys_load = LOAD_QUEUED;
        vec_push(&m->want_keys, d);
        loader_kick(m);
    }
    return LACK;
}

/* A caches row; device absent: all of the user's. */
void device_keys_stale(struct model *m, struct str user_id, struct str device_id)
{
    struct user *u = kmap_get(&m->users, user_id);
    size_t it = 0;
    for (struct device *d; u && (d = kmap_next(&u->devices, &it));) {
        if (str_absent(device_id) || str_eq(device_id, d->device_id)) {
            d->keys_stale = true;
            d->keys_gen++;
        }
    }
}

/* Devices have the same few texts: those of late are kept, and shared. Takes b's bytes. */
static struct blob *text_shared(struct model *m, struct buf *b)
{
    struct blob **kept = &m->key_texts[str_hash(buf_str(b)) % KEY_TEXTS];
    if (!*kept || b->failed || !str_eq(blob_str(*kept), buf_str(b))) {
        blob_unref(kept);
        *kept = blob_from_buf(b);
    }
    buf_reset(b);
    return *kept ? blob_ref(*kept) : NULL;
}

static void keys_take(struct model *m, struct device *d, const struct pg_result *r)
{
    struct buf otk, fallback;
    buf_init(&otk, 1 << 20);
    buf_init(&fallback, 1 << 20);
    bool signed_seen = false;
    for (int i = 0; i < pg_rows(r); i++) {
        if (!str_eq(pg_str(r, i, 1), d->user->user_id) || !str_eq(pg_str(r, i, 2), d->device_id))
            continue;
        struct str algorithm = pg_str(r, i, 3);
        struct buf *b = pg_i64(r, i, 0) == 0 ? &otk : &fallback;
        if (b->n)
            buf_putc(b, ',');
        json_write_str(b, algorithm, 0);
        if (b == &otk) {
            buf_putc(b, ':');
            buf_i64(b, pg_i64(r, i, 4));
            signed_seen |= str_eq(algorithm, STR("signed_curve25519"));
        }
    }
    struct buf out;
    buf_init(&out, 1 << 20);
    buf_putc(&out, '{');
    if (!signed_seen)
        buf_put(&out, otk.n ? STR("\"signed_curve25519\":0,") : STR("\"signed_curve25519\":0"));
    buf_put(&out, buf_str(&otk));
    buf_putc(&out, '}');
    blob_unref(&d->otk_json);
    d->otk_json = text_shared(m, &out);
    buf_putc(&out, '[');
    buf_put(&out, buf_str(&fallback));
    buf_putc(&out, ']');
    blob_unref(&d->fallback_json);
    d->fallback_json = text_shared(m, &out);
    buf_fini(&out);
    buf_fini(&otk);
    buf_fini(&fallback);
}

static void on_keys(struct load_op *op, const struct pg_result *r)
{
    for (size_t i = 0; i < op->targets.n; i++) {
        struct device *d = op->targets.v[i];
        d->keys_load = r ? LOAD_DONE : LOAD_NONE;
        d->keys_stale = d->keys_gen != op->gens.v[i];
        if (r)
            keys_take(op->m, d, r);
    }
}

/* ---- device lists ---- */

static void dl_add(struct model *m, const struct device_list_row *src)
{
    struct device_list_row row = *src;
    char *p = row.mem = mem_new(MEM_device_lists, src->user_id.n + src->room_id.n + 1);
    memcpy(p, src->user_id.p, src->user_id.n);
    row.user_id = str_n(p, src->user_id.n);
    if (!str_absent(src->room_id)) {
        memcpy(p + src->user_id.n, src->room_id.p, src->room_id.n);
        row.room_id = str_n(p + src->user_id.n, src->room_id.n);
    }
    size_t at = m->dl_ring.n; /* ascending; rows come nearly in order */
    while (at > 0 && m->dl_ring.v[at - 1].stream > row.stream)
        at--;
    if (at < m->dl_announced) /* of a writer that lags: those behind it are announced once more */
        m->dl_announced = at;
    vec_push_of(MEM_device_lists, &m->dl_ring, row);
    memmove(&m->dl_ring.v[at + 1], &m->dl_ring.v[at], (m->dl_ring.n - 1 - at) * sizeof row);
    m->dl_ring.v[at] = row;
    if (m->dl_ring.n > DL_RING_MAX) { /* forget the older half; the floor rises */
        size_t drop = DL_RING_MAX / 2;
        int64_t floor = 0;
        for (size_t i = 0; i < drop; i++) {
            floor = m->dl_ring.v[i].stream > floor ? m->dl_ring.v[i].stream : floor;
            mem_free(MEM_device_lists, m->dl_ring.v[i].mem);
        }
        memmove(m->dl_ring.v, m->dl_ring.v + drop, (m->dl_ring.n - drop) * sizeof row);
        m->dl_ring.n -= drop;
        m->dl_announced = m->dl_announced > drop ? m->dl_announced - drop : 0;
        m->dl_floor = mpos_of(floor);
        metric_add(M_model_evictions, (int64_t)drop);
    }
}

/* A device_lists row: the user itself now, its rooms with the fetch at the end of the burst. */
void device_lists_row(struct model *m, writer_id w, int64_t token, const struct feed_row *row)
{
    if (row->device_list.hosts_calculated)
        return;
    if (!row->device_list.is_signature) {
        struct device_list_row own = {token, w, row->device_list.user_id, STR_ABSENT, false, NULL};
        dl_add(m, &own);
    }
    m->dl_again = true;
}

/* The stream's position has moved: whom rows that came since the last time concern may see them now. */
void device_lists_wake(struct model *m)
{
    for (; m->dl_announced < m->dl_ring.n; m->dl_announced++) {
        const struct device_list_row *row = &m->dl_ring.v[m->dl_announced];
        struct user *u = model_user_find(m, row->is_signature ? row->room_id : row->user_id);
        struct room *r =
            row->is_signature || str_absent(row->room_id) ? NULL : model_room_find(m, row->room_id);
        if (u)
            model_wake_user(m, u);
        if (r)
            model_wake_room(m, r);
    }
}

/* Both statements have to succeed; else both are repeated with the next tick. */
static void dl_part_done(struct model *m, bool ok)
{
    m->dl_failed |= !ok;
    if (--m->dl_pending > 0)
        return;
    m->dl_again |= m->dl_failed;
    if (!m->dl_failed)
        model_device_positions_done(m);
}

static void on_dl_rooms(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct str writer = pg_str(r, i, 4);
        struct device_list_row row = {
            pg_i64(r, i, 3), str_absent(writer) ? WRITER_NONE : model_writer(m, writer),
            pg_str(r, i, 1), pg_str(r, i, 2),
            false,           NULL};
        dl_add(m, &row);
    }
    dl_part_done(m, r != NULL);
}

static void on_dl_signatures(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct str writer = pg_str(r, i, 3);
        struct str target = pg_str(r, i, 1);
        /* Signature rows concern one reader: kept with "room" = the signer, which is no room id. */
        struct device_list_row row = {pg_i64(r, i, 2),
                                      str_absent(writer) ? WRITER_NONE : model_writer(m, writer),
                                      target,
                                      pg_str(r, i, 0),
                                      true,
                                      NULL};
        dl_add(m, &row);
    }
    dl_part_done(m, r != NULL);
}

/* Reads the rooms of what has changed since the last fetch; the stream's position advances when they are in.
 */
void device_lists_fetch(struct model *m)
{
    if (m->dl_pending || !m->dl_again || m->stopping)
        return;
    m->dl_again = m->dl_failed = false;
    /* From where everything is persisted: a writer that lags behind the others still adds rows above it. */
    int64_t lo = positions_persisted_upto(m->pos[STREAM_DEVICE_LISTS]), hi = m->dl_received;
    struct load_op *op = load_op_new(m, NULL, on_dl_rooms);
    struct pg_args *args = pg_args_new();
    pg_args_i64(args, lo);
    pg_args_i64(args, hi);
    m->dl_pending = 2;
    load_op_send(op, SQL_device_list_rows, args);
    op = load_op_new(m, NULL, on_dl_signatures);
    args = pg_args_new();
    pg_args_i64(args, lo);
    pg_args_i64(args, hi);
    load_op_send(op, SQL_signatures_since, args);
}

enum have model_device_list_rows(struct model *m, struct user *u, const struct mpos *lo,
                                 const struct mpos *hi,
                                 void (*fn)(void *arg, const struct device_list_row *row), void *arg)
{
    if (lo->min < m->dl_pruned)
        return ABSENT;
    bool old = !mpos_le(&m->dl_floor, lo);
    if (old && !u->more->dl)
        model_user_more(u)->dl = MEM_NEW(MEM_users, struct device_list_past);
    struct device_list_past *past = u->more->dl;
    if (old && (u->dl_load != LOAD_DONE || past->lo > lo->min || past->floor < m->dl_floor.min)) {
        if (u->dl_load == LOAD_QUEUED) {
            past->want_lo = lo->min < past->want_lo ? lo->min : past->want_lo;
        } else if (u->dl_load != LOAD_BUSY) {
            u->dl_load = LOAD_QUEUED;
            past->want_lo = lo->min;
            vec_push(&m->want_dl, u);
            loader_kick(m);
        }
        return LACK;
    }
    for (size_t i = 0; old && i < past->rows.n; i++) {
        if (mpos_in_range(lo, hi, past->rows.v[i].writer, past->rows.v[i].stream))
            fn(arg, &past->rows.v[i]);
    }
    for (size_t i = m->dl_ring.n; i-- > 0;) {
        const struct device_list_row *row = &m->dl_ring.v[i];
        if (row->stream <= lo->min)
            break;
        if (!mpos_in_range(lo, hi, row->writer, row->stream))
            continue;
        if (row->is_signature ? str_eq(row->room_id, u->user_id)
                              : (!str_absent(row->room_id) || str_eq(row->user_id, u->user_id)))
            fn(arg, row);
    }
    return HAVE;
}

static void past_clear(struct device_list_past *past)
{
    for (size_t i = 0; i < past->rows.n; i++)
        mem_free(MEM_users, past->rows.v[i].mem);
    past->rows.n = 0;
}

void device_list_past_free(struct user *u)
{
    if (!u->more->dl)
        return;
    past_clear(u->more->dl);
    vec_free_of(MEM_users, &u->more->dl->rows);
    mem_free(MEM_users, u->more->dl);
    u->more->dl = NULL;
}

static void on_dl_user(struct load_op *op, const struct pg_result *r)
{
    struct model *m = op->m;
    for (size_t i = 0; i < op->targets.n; i++) {
        struct user *u = op->targets.v[i];
        u->dl_load = r ? LOAD_DONE : LOAD_NONE;
        past_clear(u->more->dl);
        u->more->dl->lo = u->more->dl->want_lo;
        u->more->dl->floor = op->at_i64;
    }
    for (int i = 0; r && i < pg_rows(r); i++) {
        struct user *u = kmap_get(&m->users, pg_str(r, i, 1));
        if (!u || !u->more->dl)
            continue;
        struct str who = pg_str(r, i, 2), room = pg_str(r, i, 3), writer = pg_str(r, i, 5);
        struct device_list_row row = {.stream = pg_i64(r, i, 4),
                                      .writer = str_absent(writer) ? WRITER_NONE : model_writer(m, writer),
                                      .is_signature = pg_i64(r, i, 0) == 2};
        char *p = row.mem = mem_new(MEM_users, who.n + room.n + 1);
        memcpy(p, who.p, who.n);
        row.user_id = str_n(p, who.n);
        if (!str_absent(room)) {
            memcpy(p + who.n, room.p, room.n);
            row.room_id = str_n(p + who.n, room.n);
        }
        vec_push_of(MEM_users, &u->more->dl->rows, row);
    }
}

static void on_pruned(struct load_op *op, const struct pg_result *r)
{
    if (r && pg_rows(r) > 0)
        op->m->dl_pruned = pg_i64(r, 0, 0);
}

void devices_init(struct model *m)
{
    m->dl_floor = positions_mpos(m->pos[STREAM_DEVICE_LISTS]);
    m->dl_received = positions_persisted_upto(m->pos[STREAM_DEVICE_LISTS]);
    load_op_send(load_op_new(m, NULL, on_pruned), SQL_device_lists_pruned, pg_args_new());
}

void devices_fini(struct model *m)
{
    for (size_t i = 0; i < KEY_TEXTS; i++)
        blob_unref(&m->key_texts[i]);
    for (size_t i = 0; i < m->dl_ring.n; i++)
        mem_free(MEM_device_lists, m->dl_ring.v[i].mem);
    vec_free_of(MEM_device_lists, &m->dl_ring);
}

/* ---- loads ---- */

static void devices_send(struct model *m, struct batch *b, struct device **v, size_t n, bool keys)
{
    struct load_op *op = load_op_new(m, b, keys ? on_keys : on_to_device);
    op->at_i64 = positions_persisted_upto(m->pos[STREAM_TO_DEVICE]);
    struct str *users = xmalloc(sizeof *users * n), *devices = xmalloc(sizeof *devices * n);
    int64_t *lo = xmalloc(sizeof *lo * n);
    for (size_t i = 0; i < n; i++) {
        struct device *d = v[i];
        if (keys)
            d->keys_load = LOAD_BUSY;
        else
            d->td_load = LOAD_BUSY;
        users[i] = d->user->user_id;
        devices[i] = d->device_id;
        lo[i] = d->td_lo;
        vec_push(&op->targets, d);
        vec_push(&op->gens, d->keys_gen);
    }
    struct pg_args *args = pg_args_new();
    pg_args_text_array(args, users, n);
    pg_args_text_array(args, devices, n);
    if (!keys)
        pg_args_i64_array(args, lo, n);
    free(users);
    free(devices);
    free(lo);
    load_op_send(op, keys ? SQL_keys_of_devices : SQL_to_device_of_devices, args);
}

void device_flush(struct model *m, struct batch *b)
{
    if (m->want_td.n) {
        devices_send(m, b, m->want_td.v, m->want_td.n, false);
        m->want_td.n = 0;
    }
    if (m->want_keys.n) {
        devices_send(m, b, m->want_keys.v, m->want_keys.n, true);
        m->want_keys.n = 0;
    }
    size_t n = m->want_dl.n;
    if (n == 0)
        return;
    struct load_op *op = load_op_new(m, b, on_dl_user);
    op->at_i64 = mpos_max(&m->dl_floor);
    struct str *users = xmalloc(sizeof *users * n);
    int64_t *lo = xmalloc(sizeof *lo * n), *hi = xmalloc(sizeof *hi * n);
    for (size_t i = 0; i < n; i++) {
        struct user *u = m->want_dl.v[i];
        u->dl_load = LOAD_BUSY;
        users[i] = u->user_id;
        lo[i] = u->more->dl->want_lo;
        hi[i] = op->at_i64;
        vec_push(&op->targets, u);
    }
    struct pg_args *args = pg_args_new();
    pg_args_text_array(args, users, n);
    pg_args_i64_array(args, lo, n);
    pg_args_i64_array(args, hi, n);
    free(users);
    free(lo);
    free(hi);
    m->want_dl.n = 0;
    load_op_send(op, SQL_device_list_rows_of_users, args);
}
