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
#include "chappe/log.h"

/* The line being made: what is past the end of it would be cut from the log anyway. */
struct line {
    char *p, *end;
};

static inline void put(struct line *l, struct str s)
{
    size_t room = (size_t)(l->end - l->p), n = s.n < room ? s.n : room;
    if (n)
        memcpy(l->p, s.p, n);
    l->p += n;
}

/* Of a literal, whose length the compiler knows: usually a few moves. */
static inline __attribute__((always_inline)) void put_literal(struct line *l, struct str s)
{
    if ((size_t)(l->end - l->p) < s.n) {
        put(l, s);
        return;
    }
    memcpy(l->p, s.p, s.n);
    l->p += s.n;
}

static inline void put_char(struct line *l, char c)
{
    if (l->p < l->end)
        *l->p++ = c;
}

static void put_int(struct line *l, int64_t v)
{
    char digits[I64_DIGITS_MAX];
    put(l, str_of_i64(digits, v));
}

static inline bytes16 to_escape(bytes16 x)
{
    return (bytes16)((x < ' ') | (x == 127) | (x == '"') | (x == '\\'));
}

static void put_escaped(struct line *l, struct str s)
{
    static const char digits[] = "0123456789abcdef";
    while (s.n) {
        size_t n = bytes16_before(s, to_escape);
        put(l, str_n(s.p, n));
        if (n == s.n)
            return;
        unsigned char c = (unsigned char)s.p[n];
        const char escape[] = {'\\', 'x', digits[c >> 4], digits[c & 15]};
        put(l, str_n(escape, sizeof escape));
        s = str_n(s.p + n + 1, s.n - n - 1);
    }
}

static void put_seconds(struct line *l, int64_t ms)
{
    char text[] = ".000sec";
    uint64_t t = ms > 0 ? (uint64_t)ms : 0;
    if (t >= 10000)
        put_int(l, (int64_t)(t / 1000));
    else
        put_char(l, (char)('0' + t / 1000));
    unsigned rest = (unsigned)(t % 1000);
    text[1] = (char)('0' + rest / 100);
    text[2] = (char)('0' + rest / 10 % 10);
    text[3] = (char)('0' + rest % 10);
    put_literal(l, str_n(text, sizeof text - 1));
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

static inline bytes16 of_interest(bytes16 x)
{
    return (bytes16)((x == '=') | (x == '%'));
}

/* False when no name in the query can be that of a secret: then the parts need not be looked at. */
static bool has_secret(struct str query)
{
    static const struct str names[] = {{"access_token", 12}, {"client_secret", 13}};
    for (size_t n = 0; (n += bytes16_before(str_n(query.p + n, query.n - n), of_interest)) < query.n; n++) {
        struct str before = str_n(query.p, n);
        if (query.p[n] == '%')
            return true;
        if (n > 0 && (query.p[n - 1] == 'n' || query.p[n - 1] == 't') &&
            (str_ends(before, names[0]) || str_ends(before, names[1])))
            return true;
    }
    return false;
}

bool access_as_it_is(struct str s)
{
    return bytes16_before(s, to_escape) == s.n;
}

bool access_secret(struct str query)
{
    struct str part, name, value;
    if (!has_secret(query))
        return false;
    while (!str_absent(query)) {
        query_cut(&query, &part);
        if (str_cut(part, '=', &name, &value) && is_secret(name))
            return true;
    }
    return false;
}

static void put_target(struct line *l, struct str target)
{
    struct str path, query, part, name, value;
    if (!str_cut(target, '?', &path, &query) || !has_secret(query)) {
        put_escaped(l, target);
        return;
    }
    put_escaped(l, path);
    put_char(l, '?');
    while (!str_absent(query)) {
        char sep = query_cut(&query, &part);
        if (str_cut(part, '=', &name, &value) && is_secret(name)) {
            put_escaped(l, name);
            put_literal(l, STR("=<redacted>"));
        } else {
            put_escaped(l, part);
        }
        if (sep)
            put_char(l, sep);
    }
}

struct str access_format(char *out, size_t room, const struct access_entry *e)
{
    struct line l = {out, out + room};
    put(&l, e->request_id);
    put_literal(&l, STR(" - "));
    put_escaped(&l, e->ip);
    put_literal(&l, STR(" - "));
    put(&l, e->tag);
    put_literal(&l, STR(" - {"));
    put(&l, e->requester);
    put_literal(&l, STR("} Processed request: "));
    put_seconds(&l, e->handler_ms);
    put_char(&l, '/');
    put_seconds(&l, e->send_ms);
    put_literal(&l, STR(" ru=(0.000sec, 0.000sec) db=(0.000sec/0.000sec/0) "));
    put_int(&l, (int64_t)e->bytes);
    put_literal(&l, STR("B "));
    put_int(&l, e->status);
    if (e->cut)
        put_char(&l, '!');
    put_literal(&l, STR(" \""));
    put_escaped(&l, e->method);
    put_char(&l, ' ');
    for (size_t i = 0; i < TARGET_PIECES && e->target[i].n; i++) {
        if (e->as_it_is)
            put(&l, e->target[i]);
        else
            put_target(&l, e->target[i]);
    }
    put_literal(&l, STR(" HTTP/1."));
    put_char(&l, (char)('0' + e->minor % 10));
    put_literal(&l, STR("\" \""));
    if (e->agent_as_it_is)
        put(&l, e->user_agent);
    else
        put_escaped(&l, e->user_agent.n ? e->user_agent : STR("-"));
    put_literal(&l, STR("\" [0 dbevts]"));
    return str_n(out, (size_t)(l.p - out));
}

void access_log(struct front *f, const struct req *r, bool cut)
{
    if (log_level > LOG_INFO)
        return;
    const struct http_listener *l = &f->h->listeners[r->listener];
    enum log_level level = r->options || str_eq(http_path(&r->pub), STR("/health")) ? LOG_DEBUG : LOG_INFO;
    if (log_level > level)
        return;
    front_date(f);
    int64_t now = f->now_ms;
    uint32_t replied = r->replied ? r->replied_ms : (uint32_t)now;
    char id[REQ_ID_BYTES];
    struct access_entry e = {
        .ip = r->pub.ip_bytes            ? http_client_ip(&r->pub)
              : str_absent(l->cfg->path) ? STR("-")
                                         : l->cfg->path,
        .tag = str_of(l->logger + strlen("synapse.access.http.")),
        .requester = r->pub.requester ? str_of(r->pub.requester) : STR("None"),
        .method = req_method(r),
        .as_it_is = r->pub.form != NULL,
        .agent_as_it_is = r->pub.agent && r->pub.agent->as_it_is,
        .user_agent = http_user_agent(&r->pub),
        .request_id = req_id(r, id),
        .handler_ms = (int32_t)(replied - r->pub.received_ms),
        .send_ms = (int32_t)((uint32_t)now - replied),
        .bytes = r->replied ? r->body_sent : 0,
        .status = r->status ? r->status : 499,
        .minor = r->minor,
        .cut = cut,
    };
    req_target(r, e.target);
    char text[LOG_TEXT_MAX + 1]; /* one more than is shown, which tells that there was more */
    log_text(level, l->logger, access_format(text, sizeof text, &e), now + f->ahead_ms);
}
