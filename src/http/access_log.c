/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The request log, in Synapse's shape, so that the tools that read it go on working. The request id stands
 * first, where Synapse's default formatter puts it. CPU and database figures have no counterpart here and are
 * zero.
 *
 * Values of access_token and client_secret are replaced wherever they occur in the target (Synapse hides the
 * last one only), with escaped spellings of the names recognised too. What clients send cannot forge a line:
 * control bytes, quotes and backslashes are escaped.
 */
#include "http_int.h"
#include "chappe/clock.h"
#include "chappe/log.h"

static void put_escaped(struct buf *b, struct str s)
{
    size_t begin = 0; /* of a stretch that stays as it is */
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c >= ' ' && c != 127 && c != '"' && c != '\\')
            continue;
        buf_put(b, str_n(s.p + begin, i - begin));
        buf_printf(b, "\\x%02x", c);
        begin = i + 1;
    }
    if (begin < s.n)
        buf_put(b, str_n(s.p + begin, s.n - begin));
}

static void put_seconds(struct buf *b, int64_t ms)
{
    ms = ms > 0 ? ms : 0;
    buf_i64(b, ms / 1000);
    buf_putc(b, '.');
    for (int64_t unit = 100; unit; unit /= 10)
        buf_putc(b, (char)('0' + ms / unit % 10));
    buf_put(b, STR("sec"));
}

static bool is_secret(struct str name)
{
    struct arena *a = NULL;
    if (str_find(name, '%') >= 0 && name.n < 256) { /* access%5Ftoken is the same parameter */
        a = arena_new(4096);
        name = url_decode(a, name, true);
    }
    bool secret = str_eq(name, STR("access_token")) || str_eq(name, STR("client_secret"));
    arena_free(&a);
    return secret;
}

static void put_target(struct buf *b, struct str target)
{
    struct str path, query, part, name, value;
    if (!str_cut(target, '?', &path, &query)) {
        put_escaped(b, target);
        return;
    }
    put_escaped(b, path);
    buf_putc(b, '?');
    while (!str_absent(query)) {
        char sep = query_cut(&query, &part);
        if (str_cut(part, '=', &name, &value) && is_secret(name)) {
            put_escaped(b, name);
            buf_put(b, STR("=<redacted>"));
        } else {
            put_escaped(b, part);
        }
        if (sep)
            buf_putc(b, sep);
    }
}

void access_format(struct buf *b, const struct access_entry *e)
{
    buf_put(b, e->request_id);
    buf_put(b, STR(" - "));
    put_escaped(b, e->ip);
    buf_put(b, STR(" - "));
    buf_put(b, e->tag);
    buf_put(b, STR(" - {"));
    buf_put(b, e->requester);
    buf_put(b, STR("} Processed request: "));
    put_seconds(b, e->handler_ms);
    buf_putc(b, '/');
    put_seconds(b, e->send_ms);
    buf_put(b, STR(" ru=(0.000sec, 0.000sec) db=(0.000sec/0.000sec/0) "));
    buf_i64(b, (int64_t)e->bytes);
    buf_put(b, STR("B "));
    buf_i64(b, e->status);
    buf_put(b, e->cut ? STR("! \"") : STR(" \""));
    put_escaped(b, e->method);
    buf_putc(b, ' ');
    put_target(b, e->target);
    buf_put(b, STR(" HTTP/1."));
    buf_i64(b, e->minor);
    buf_put(b, STR("\" \""));
    put_escaped(b, e->user_agent.n ? e->user_agent : STR("-"));
    buf_put(b, STR("\" [0 dbevts]"));
}

void access_log(const struct httpd *h, const struct req *r, bool cut)
{
    if (log_level > LOG_INFO)
        return;
    const struct http_listener *l = &h->listeners[r->listener];
    enum log_level level = r->options || str_eq(r->pub.path, STR("/health")) ? LOG_DEBUG : LOG_INFO;
    if (log_level > level)
        return;
    int64_t now = clock_mono_ms();
    int64_t replied = r->replied ? r->replied_ms : now;
    struct access_entry e = {
        .ip = r->pub.client_ip.n         ? r->pub.client_ip
              : str_absent(l->cfg->path) ? STR("-")
                                         : l->cfg->path,
        .tag = str_of(l->logger + strlen("synapse.access.http.")),
        .requester = r->pub.requester ? str_of(r->pub.requester) : STR("None"),
        .method = req_method(r),
        .target = req_target(r),
        .user_agent = r->pub.user_agent,
        .request_id = req_id(r),
        .handler_ms = replied - r->pub.received_ms,
        .send_ms = now - replied,
        .bytes = r->replied ? r->body_sent : 0,
        .status = r->status ? r->status : 499,
        .minor = r->minor,
        .cut = cut,
    };
    struct buf b;
    buf_init(&b, 65536);
    access_format(&b, &e);
    log_write(level, l->logger, "%.*s", (int)b.n, b.p ? b.p : "");
    buf_fini(&b);
}
