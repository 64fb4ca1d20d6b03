/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What we publish, apart from presence: commands on the server's channel, USER_IP on its sub-channel, and
 * addresses of the replication HTTP API.
 *
 * USER_IP is said once per 120 s and (user, token, ip), as synapse.storage.databases.main.client_ips does;
 * who was seen is remembered by a keyed hash, so no token stays in memory here. That is one table of moments,
 * without objects, since there is one for each device that waits; of 50,000 those least recently sent go.
 */
#include "chappe/clock.h"
#include "chappe/log.h"
#include "chappe/metrics.h"
#include "feed_int.h"

#include <stdlib.h>

enum { USER_IPS_MAX = 50000, LINE_BYTES_MAX = 64 << 10, AGENT_BYTES_MAX = 4096 };

/* ---- addresses ---- */

void url_put(struct buf *b, struct str s)
{
    static const char hex[] = "0123456789ABCDEF";

    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];

        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-._~", c)) {
            if (c)
                buf_putc(b, (char)c);
            else
                buf_put(b, STR("%00"));
            continue;
        }
        buf_putc(b, '%');
        buf_putc(b, hex[c >> 4]);
        buf_putc(b, hex[c & 15]);
    }
}

bool repl_base_url(const struct config *cfg, struct str instance, struct buf *url, struct str *unix_path)
{
    const struct config_instance *i = config_instance_find(cfg, instance);

    if (!i)
        return false;
    *unix_path = STR_ABSENT;
    if (i->path.n) {
        *unix_path = i->path;
        buf_put(url, STR("http://localhost"));
    } else {
        bool v6 = str_find(i->host, ':') >= 0 && !str_starts(i->host, STR("["));

        buf_put(url, i->tls ? STR("https://") : STR("http://"));
        buf_printf(url, v6 ? "[%.*s]:%d" : "%.*s:%d", STR_ARG(i->host), i->port);
    }
    return true;
}

bool repl_url(const struct config *cfg, struct str instance, const char *endpoint, struct buf *url,
              struct str *unix_path)
{
    if (!repl_base_url(cfg, instance, url, unix_path))
        return false;
    buf_printf(url, "/_synapse/replication/%s", endpoint);
    return true;
}

bool repl_post(struct feed *f, struct str instance, const char *endpoint, struct str key, struct str body,
               httpc_done_fn *done, void *arg)
{
    struct httpc_header headers[3] = {{STR("Content-Type"), STR("application/json")},
                                      {STR("Accept"), STR("application/json")}};
    struct httpc_req req = {.method = "POST", .headers = headers, .headers_count = 2, .body = body};
    struct buf url, secret;
    bool known;

    buf_init(&url, 8192);
    buf_init(&secret, 8192);
    known = repl_url(f->cfg, instance, endpoint, &url, &req.unix_path);
    buf_putc(&url, '/');
    url_put(&url, key);
    if (f->cfg->replication_secret.n) {
        buf_put(&secret, STR("Bearer "));
        buf_put(&secret, f->cfg->replication_secret);
        headers[req.headers_count++] = (struct httpc_header){STR("Authorization"), buf_str(&secret)};
    }
    req.url = buf_str(&url);
    known = known && !url.failed && !secret.failed;
    if (known)
        httpc_send(f->httpc, &req, done, arg);
    if (secret.p)
        explicit_bzero(secret.p, secret.n);
    buf_fini(&secret);
    buf_fini(&url);
    return known;
}

bool feed_remove_pusher(struct feed *f, struct str user_id, struct str app_id, struct str pushkey,
                        httpc_done_fn *done, void *arg)
{
    struct buf body;
    bool sent;

    buf_init(&body, 1 << 20);
    buf_put(&body, STR("{\"app_id\":"));
    json_write_str(&body, app_id, 0);
    buf_put(&body, STR(",\"pushkey\":"));
    json_write_str(&body, pushkey, 0);
    buf_putc(&body, '}');
    sent = !body.failed && repl_post(f, STR("master"), "remove_pusher", user_id, buf_str(&body), done, arg);
    buf_fini(&body);
    metric_add_l(sent ? M_feed_sent : M_feed_unsent, "remove_pusher", 1);
    return sent;
}

/* ---- publishing ---- */

int feed_publish(struct feed *f, struct str channel_suffix, struct str line, const char *command)
{
    struct buf channel;
    int err;

    if (line.n && memchr(line.p, '\n', line.n))
        return -ERR_PARSE;
    buf_init(&channel, 4096);
    buf_put(&channel, f->cfg->server_name);
    buf_put(&channel, channel_suffix);
    err = redis_conn_send(f->out, (struct str[]){STR("PUBLISH"), buf_str(&channel), line}, 3);
    buf_fini(&channel);
    metric_add_l(err ? M_feed_unsent : M_feed_sent, command, 1);
    return err;
}

/* ---- USER_IP ---- */

/* A header may hold any bytes; what is not ASCII becomes the replacement character, as in Synapse. */
static void agent_put(struct buf *b, struct str agent)
{
    size_t from = 0;

    agent.n = agent.n < AGENT_BYTES_MAX ? agent.n : AGENT_BYTES_MAX;
    buf_putc(b, '"');
    for (size_t i = 0; i <= agent.n; i++) {
        bool end = i == agent.n, odd = !end && (unsigned char)agent.p[i] >= 0x80;

        if (!end && !odd && agent.p[i] != '"' && agent.p[i] != '\\' && (unsigned char)agent.p[i] >= 0x20)
            continue;
        buf_put(b, str_n(agent.p + from, i - from));
        if (odd)
            buf_put(b, STR("\\ufffd"));
        else if (!end)
            buf_printf(b, "\\u%04x", (unsigned char)agent.p[i]);
        from = i + 1;
    }
    buf_putc(b, '"');
}

/* The table's values are moments, plus one: they are no pointers, and never 0. */
static void *moment_value(int64_t ms)
{
    return (void *)(uintptr_t)(ms + 1);
}

static int64_t moment_of(const void *value)
{
    return (int64_t)(uintptr_t)value - 1;
}

static void user_ips_drop_before(struct feed *f, int64_t ms)
{
    size_t it = 0;
    int64_t key;
    void *value;

    while ((value = imap_next_key(&f->user_ips, &it, &key)))
        if (moment_of(value) <= ms)
            imap_del(&f->user_ips, key);
}

/* Makes room: those go that would be sent again in any case, then the older half of the time, and so on. */
static void user_ips_shrink(struct feed *f, int64_t now)
{
    int64_t kept_ms = f->t.user_ip_every_ms;

    do
        user_ips_drop_before(f, now - kept_ms);
    while (imap_count(&f->user_ips) >= USER_IPS_MAX && (kept_ms /= 2) > 0);
    if (imap_count(&f->user_ips) >= USER_IPS_MAX) /* all of this millisecond */
        imap_fini(&f->user_ips);
}

/* true when it is to be sent, and then remembered; *next is when it will be. */
static bool user_ip_due(struct feed *f, uint64_t key, int64_t now, int64_t *next)
{
    const void *value = imap_get(&f->user_ips, (int64_t)key);

    *next = (value ? moment_of(value) : now) + f->t.user_ip_every_ms;
    if (value && now < *next)
        return false;
    if (!value && imap_count(&f->user_ips) >= USER_IPS_MAX)
        user_ips_shrink(f, now);
    imap_put(&f->user_ips, (int64_t)key, moment_value(now));
    *next = now + f->t.user_ip_every_ms;
    return true;
}

int64_t feed_send_user_ip(struct feed *f, struct str user_id, struct str access_token, struct str ip,
                          struct str user_agent, struct str device_id)
{
    struct buf *b = &f->line;
    uint64_t key;
    int64_t next;

    if (!f->subscribed || !redis_conn_up(f->out) || str_find(user_id, ' ') >= 0)
        return 0;
    buf_reset(b);
    buf_put(b, user_id);
    buf_putc(b, '\0');
    buf_put(b, access_token);
    buf_putc(b, '\0');
    buf_put(b, ip);
    key = str_hash(buf_str(b));
    if (!user_ip_due(f, key, clock_mono_ms(), &next))
        return next;
    buf_reset(b);
    buf_put(b, STR("USER_IP "));
    buf_put(b, user_id);
    buf_put(b, STR(" ["));
    json_write_str(b, access_token, 0);
    buf_putc(b, ',');
    json_write_str(b, ip, 0);
    buf_putc(b, ',');
    agent_put(b, user_agent);
    buf_putc(b, ',');
    if (str_absent(device_id))
        buf_put(b, STR("null"));
    else
        json_write_str(b, device_id, 0);
    buf_putc(b, ',');
    buf_i64(b, clock_wall_ms());
    buf_putc(b, ']');
    if (!b->failed)
        feed_publish(f, STR("/USER_IP"), buf_str(b), "USER_IP");
    return next;
}
