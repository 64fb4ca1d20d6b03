/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Presence of the devices that sync here, told to the presence writer in two ways, as
 * synapse.handlers.presence.WorkerPresenceHandler does in 1.157:
 *   - over HTTP, presence_set_state, when a /sync starts: throttled per device while the state stays the
 * same;
 *   - on Redis, USER_SYNC start with the first sync of a device, and end when it has had none for ten
 * seconds, so that a device that polls again at once causes no traffic.
 *
 *   no entry ──start──► syncing (count > 0) ──last end──► going offline ──10 s──► "end" published, entry
 * freed ▲                                   │ └───────────── start ───────────────┘ Entries live as long as a
 * device syncs and ten seconds more, so the table is bounded by the parked polls. While Redis is away nothing
 * is published; whoever syncs when it is back is announced again.
 */
#include "chappe/clock.h"
#include "chappe/log.h"
#include "chappe/metrics.h"
#include "feed_int.h"

#include <stdlib.h>

enum { RELAYS_MAX = 256 };

/* One for each device that waits. Times are the low bits of the monotonic clock's milliseconds: what is asked
 * is how long ago something was, and that is never weeks. */
struct presence_entry {
    struct str key;      /* first: the table finds it by that; user NUL device, behind */
    struct list offline; /* feed.going_offline, in the order of off_ms; detached while syncing */
    uint32_t count;      /* syncs in flight */
    uint32_t off_ms, relayed_ms;
    uint16_t user_n;
    uint8_t relayed; /* last state relayed, as state_number() has it; 0: none */
    bool has_device;
    char text[];
};

static struct str entry_user(const struct presence_entry *e)
{
    return str_n(e->key.p, e->user_n);
}

static struct str entry_device(const struct presence_entry *e)
{
    size_t skip = (size_t)e->user_n + 1;
    return e->has_device ? str_n(e->key.p + skip, e->key.n - skip) : STR_ABSENT;
}

static uint32_t now_low(void)
{
    return (uint32_t)clock_mono_ms();
}

static uint8_t state_number(struct str state)
{
    static const struct str states[] = {STR("online"), STR("unavailable"), STR("offline"), STR("busy")};
    for (uint8_t i = 0; i < sizeof states / sizeof states[0]; i++)
        if (str_eq(states[i], state))
            return (uint8_t)(i + 1);
    return 0;
}

static struct presence_entry *entry_find(struct feed *f, struct str user, struct str device)
{
    buf_reset(&f->line);
    buf_put(&f->line, user);
    buf_putc(&f->line, '\0');
    if (!str_absent(device))
        buf_put(&f->line, device);
    else
        buf_putc(&f->line, '\0'); /* no device is not the device "" */
    return f->line.failed ? NULL : kmap_get(&f->presence, buf_str(&f->line));
}

/* After entry_find, whose key is in f->line. */
static struct presence_entry *entry_new(struct feed *f, struct str user, struct str device)
{
    struct str key = buf_str(&f->line);
    struct presence_entry *e = mem_new(MEM_feed, sizeof *e + key.n);

    memcpy(e->text, key.p, key.n);
    e->key = str_n(e->text, key.n);
    e->user_n = (uint16_t)user.n;
    e->has_device = !str_absent(device);
    list_init(&e->offline);
    kmap_put(MEM_feed, &f->presence, e);
    return e;
}

static void entry_free(struct feed *f, struct presence_entry *e)
{
    kmap_del(&f->presence, e->key);
    list_del(&e->offline);
    mem_free(MEM_feed, e);
}

/* ---- USER_SYNC ---- */

/* A device whose name would not survive the line's grammar is sent as none. */
static struct str device_word(struct str device)
{
    for (size_t i = 0; i < device.n; i++)
        if ((unsigned char)device.p[i] <= ' ' || device.p[i] == 0x7f)
            return STR("None");
    return device.n ? device : STR("None");
}

static void user_sync(struct feed *f, const struct presence_entry *e, const char *what, int64_t wall_ms)
{
    struct str user = entry_user(e), device = device_word(entry_device(e));

    if (str_find(user, ' ') >= 0)
        return;
    buf_reset(&f->line);
    buf_printf(&f->line, "USER_SYNC %s %.*s %.*s %s %lld", f->instance_id, STR_ARG(user), STR_ARG(device),
               what, (long long)wall_ms);
    if (!f->line.failed)
        feed_publish(f, STR(""), buf_str(&f->line), "USER_SYNC");
}

static bool connected(const struct feed *f)
{
    return f->handshake_done && redis_conn_up(f->out);
}

void feed_presence_connected(struct feed *f)
{
    struct presence_entry *e;
    size_t it = 0;

    while ((e = kmap_next(&f->presence, &it)))
        if (e->count > 0)
            user_sync(f, e, "start", clock_wall_ms());
}

void feed_presence_tick(struct feed *f)
{
    uint32_t now = now_low();
    struct presence_entry *e;

    if (!connected(f))
        return;
    list_each(e, &f->going_offline, struct presence_entry, offline) {
        uint32_t ago = now - e->off_ms;
        if (ago < (uint32_t)f->t.offline_delay_ms)
            break;
        user_sync(f, e, "end", clock_wall_ms() - ago);
        entry_free(f, e);
    }
}

/* ---- the relay ---- */

struct relay {
    struct list link;
    struct feed *f; /* NULL once the feed is gone */
};

static void on_relayed(void *arg, const struct httpc_res *res)
{
    struct relay *r = arg;
    struct feed *f = r->f;

    if (f) {
        bool ok = !res->err && res->status >= 200 && res->status < 300;

        list_del(&r->link);
        f->relays_in_flight--;
        metric_add_l(ok ? M_feed_sent : M_feed_unsent, "presence_set_state", 1);
        if (!ok && !f->relay_warned)
            log_warning(FEED_LOG, "presence_set_state failed (%s%s, status %d)%s", err_text(res->err),
                        res->err ? "" : " sent", res->err ? 0 : res->status,
                        !res->err && res->status == 500 ? ": is worker_replication_secret the same?" : "");
        f->relay_warned = !ok;
    }
    free(r);
}

static void relay_body(struct buf *b, struct str device, struct str state)
{
    buf_put(b, STR("{\"device_id\":"));
    if (str_absent(device))
        buf_put(b, STR("null"));
    else
        json_write_str(b, device, 0);
    buf_put(b, STR(",\"state\":{\"presence\":"));
    json_write_str(b, state, 0);
    buf_put(b, STR("},\"force_notify\":false,\"is_sync\":true}"));
}

static void relay(struct feed *f, struct str user, struct str device, struct str state)
{
    const struct config_writers *w = &f->cfg->writers[WRITERS_PRESENCE];
    struct relay *r = xcalloc(1, sizeof *r);
    struct buf body;

    buf_init(&body, 8192);
    relay_body(&body, device, state);
    if (f->relays_in_flight < RELAYS_MAX && w->count > 0 &&
        repl_post(f, w->names[0], "presence_set_state", user, buf_str(&body), on_relayed, r)) {
        r->f = f;
        list_push(&f->relays, &r->link);
        f->relays_in_flight++;
    } else {
        free(r);
        metric_add_l(M_feed_unsent, "presence_set_state", 1);
    }
    buf_fini(&body);
}

static void relay_throttled(struct feed *f, struct presence_entry *e, struct str state)
{
    int64_t a = f->cfg->presence.sync_online_timeout_ms, b = f->cfg->presence.last_active_granularity_ms;
    int64_t interval = (a < b ? a : b) * 5 / 6;
    uint32_t now = now_low();
    uint8_t number = state_number(state);

    if (number && number == e->relayed && (int64_t)(uint32_t)(now - e->relayed_ms) < interval)
        return;
    e->relayed = number;
    e->relayed_ms = now;
    relay(f, entry_user(e), entry_device(e), state);
}

/* ---- what the sync module calls ---- */

void feed_presence_start(struct feed *f, struct str user_id, struct str device_id, struct str state)
{
    struct presence_entry *e;
    bool known;

    if (!f->cfg->presence.tracked)
        return;
    e = entry_find(f, user_id, device_id);
    if (f->line.failed)
        return;
    known = e != NULL;
    if (!e)
        e = entry_new(f, user_id, device_id);
    relay_throttled(f, e, state);
    list_del(&e->offline);
    e->count++;
    if (!known && connected(f))
        user_sync(f, e, "start", clock_wall_ms());
}

void feed_presence_end(struct feed *f, struct str user_id, struct str device_id)
{
    struct presence_entry *e;

    if (!f->cfg->presence.tracked)
        return;
    e = entry_find(f, user_id, device_id);
    if (!e || e->count == 0)
        return;
    if (--e->count > 0)
        return;
    e->off_ms = now_low();
    list_push(&f->going_offline, &e->offline);
}

void feed_presence_free(struct feed *f, bool send_clear)
{
    struct presence_entry *e;
    struct relay *r;
    size_t it = 0;

    if (send_clear && f->cfg->presence.tracked && connected(f)) {
        buf_reset(&f->line);
        buf_printf(&f->line, "CLEAR_USER_SYNC %s", f->instance_id);
        feed_publish(f, STR(""), buf_str(&f->line), "CLEAR_USER_SYNC");
    }
    list_each(r, &f->relays, struct relay, link) {
        list_del(&r->link);
        r->f = NULL;
    }
    while ((e = kmap_next(&f->presence, &it)))
        mem_free(MEM_feed, e);
    kmap_fini(MEM_feed, &f->presence);
}
