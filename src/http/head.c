/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Request heads. Two readers must agree before a request exists:
 *
 *  - http_head_scan() looks at each line as it arrives and refuses what proxies and servers are known to
 * disagree about: bare line feeds, folded lines, blanks before the colon, control bytes, unusual versions,
 * non-ASCII targets. It remembers how far it came, so a head that trickles in costs its length once.
 *  - http_parser then does the grammar over the complete head in one go; no parser state is kept per
 * connection.
 *
 * What frames the body (Content-Length, Transfer-Encoding) is decided here, strictly: one length, digits
 * only, or exactly "chunked", never both. http_parser knows a fixed set of methods; any other token is shown
 * to it as GET, because an unknown method is answered 404 or 405 like any wrong one, not 400.
 */
#include "http_int.h"
#include <strings.h>
#define http_method http_parser_method /* the library's enum has the name of ours */
#include <http_parser.h>
#undef http_method

const struct close_reason_row close_reasons[CLOSE_COUNT] = {
#define CLOSE_REASON(id, refused, status, errcode, text) {#id, refused, status, errcode, text},
#include "chappe/tbl/close_reasons.def"
#undef CLOSE_REASON
};

static bool is_token(unsigned char c)
{
    static const char marks[] = "!#$%&'*+-.^_`|~";
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c != 0 && strchr(marks, c));
}

static size_t token_length(struct str s)
{
    size_t n = 0;
    while (n < s.n && is_token((unsigned char)s.p[n]))
        n++;
    return n;
}

static int refuse(enum close_reason *why, enum close_reason reason, int err)
{
    *why = reason;
    return -err;
}

static int check_request_line(struct str line, enum close_reason *why)
{
    struct str method, rest, target, version;
    if (!str_cut(line, ' ', &method, &rest) || method.n == 0 || token_length(method) != method.n ||
        !str_cut(rest, ' ', &target, &version))
        return refuse(why, CLOSE_bad_request_line, ERR_PARSE);
    for (size_t i = 0; i < target.n; i++) {
        unsigned char c = (unsigned char)target.p[i];
        if (c <= ' ' || c >= 127 || c == '#')
            return refuse(why, CLOSE_bad_target, ERR_PARSE);
    }
    if (target.n == 0)
        return refuse(why, CLOSE_bad_target, ERR_PARSE);
    if (!str_eq(version, STR("HTTP/1.1")) && !str_eq(version, STR("HTTP/1.0")))
        return refuse(why, CLOSE_bad_version, ERR_PARSE);
    return 0;
}

static int check_header_line(struct str line, enum close_reason *why)
{
    if (line.p[0] == ' ' || line.p[0] == '\t')
        return refuse(why, CLOSE_obs_fold, ERR_PARSE);
    size_t name = token_length(line);
    if (name == 0 || name == line.n || line.p[name] != ':')
        return refuse(why, CLOSE_bad_header, ERR_PARSE);
    for (size_t i = name + 1; i < line.n; i++) {
        unsigned char c = (unsigned char)line.p[i];
        if ((c < ' ' && c != '\t') || c == 127)
            return refuse(why, CLOSE_bad_header, ERR_PARSE);
    }
    return 0;
}

/* A complete line, its CR LF not included. 1: it ends the head. */
static int scan_line(struct http_head_scan *s, struct str line, enum close_reason *why)
{
    if (s->lines == 0) {
        if (line.n == 0) /* one empty line before a request is forgiven, as RFC 9112 2.2 asks */
            return s->line == 0 ? 0 : refuse(why, CLOSE_bad_request_line, ERR_PARSE);
        s->lines = 1;
        return check_request_line(line, why);
    }
    if (line.n == 0)
        return 1;
    if (s->lines++ > HTTP_HEADERS_MAX)
        return refuse(why, CLOSE_head_too_many, ERR_LIMIT);
    return check_header_line(line, why);
}

int http_head_scan(struct http_head_scan *s, struct str bytes, size_t bytes_max, size_t *end,
                   enum close_reason *why)
{
    /* Bytes of another protocol (a TLS hello) are refused at once, not after a timeout. */
    if (s->pos == 0 && bytes.n > 0 && !is_token((unsigned char)bytes.p[0]) && bytes.p[0] != '\r' &&
        bytes.p[0] != '\n')
        return refuse(why, CLOSE_bad_request_line, ERR_PARSE);
    size_t limit = bytes.n < bytes_max ? bytes.n : bytes_max;
    while (s->pos < limit) {
        const char *lf = memchr(bytes.p + s->pos, '\n', limit - s->pos);
        if (!lf) {
            s->pos = limit;
            break;
        }
        size_t at = (size_t)(lf - bytes.p);
        if (at == s->line || bytes.p[at - 1] != '\r')
            return refuse(why, CLOSE_bare_lf, ERR_PARSE);
        int rc = scan_line(s, str_n(bytes.p + s->line, at - 1 - s->line), why);
        if (rc < 0)
            return rc;
        s->pos = s->line = at + 1;
        if (rc == 1) {
            *end = at + 1;
            return 1;
        }
    }
    if (bytes.n >= bytes_max)
        return refuse(why, CLOSE_head_too_large, ERR_LIMIT);
    return 0;
}

/* ---- the grammar ---- */

struct parse {
    struct http_head *h;
    struct str request_id_header;
    struct str field;
    struct str length, encoding, expect;
    bool complete, forwarded_seen;
};

static bool name_eq(struct str name, const char *lower)
{
    return name.n == strlen(lower) && strncasecmp(name.p, lower, name.n) == 0;
}

static int on_url(http_parser *p, const char *at, size_t n)
{
    struct parse *ps = p->data;
    ps->h->target = str_n(ps->h->target.p ? ps->h->target.p : at, ps->h->target.n + n);
    return 0;
}

static int on_field(http_parser *p, const char *at, size_t n)
{
    struct parse *ps = p->data;
    ps->field = str_n(at, n);
    return 0;
}

static int on_value(http_parser *p, const char *at, size_t n)
{
    struct parse *ps = p->data;
    struct http_head *h = ps->h;
    struct str name = ps->field, value = str_trim(str_n(at, n));
    if (str_absent(value))
        value = str_n(at, 0);
    if (!str_absent(ps->request_id_header) && name.n == ps->request_id_header.n &&
        strncasecmp(name.p, ps->request_id_header.p, name.n) == 0)
        h->request_id = value;
    switch (name.n) {
    case 4:
        if (name_eq(name, "host")) {
            h->host = value;
            h->host_count++;
        }
        break;
    case 6:
        if (name_eq(name, "expect"))
            ps->expect = value;
        break;
    case 10:
        if (name_eq(name, "user-agent"))
            h->user_agent = value;
        break;
    case 12:
        if (name_eq(name, "content-type"))
            h->content_type = value;
        break;
    case 13:
        if (name_eq(name, "authorization")) {
            if (h->authorization_count++ == 0)
                h->authorization = value;
        }
        break;
    case 14:
        if (name_eq(name, "content-length")) {
            ps->length = value;
            h->length_count++;
        }
        break;
    case 15:
        if (name_eq(name, "x-forwarded-for") && !ps->forwarded_seen) {
            ps->forwarded_seen = true;
            h->forwarded_for = value;
        }
        break;
    case 17:
        if (name_eq(name, "transfer-encoding")) {
            ps->encoding = value;
            h->encoding_count++;
        }
        break;
    default:
        break;
    }
    return 0;
}

static int on_complete(http_parser *p)
{
    ((struct parse *)p->data)->complete = true;
    return 0;
}

static const struct {
    const char *name;
    enum http_method method;
} methods[] = {
    {"GET", HTTP_M_GET}, {"HEAD", HTTP_M_HEAD},     {"POST", HTTP_M_POST},
    {"PUT", HTTP_M_PUT}, {"DELETE", HTTP_M_DELETE}, {"OPTIONS", HTTP_M_OTHER},
};

/* Runs http_parser over the head. */
static int grammar(struct parse *ps, struct str bytes, bool known_method, enum close_reason *why)
{
    static const http_parser_settings settings = {.on_url = on_url,
                                                  .on_header_field = on_field,
                                                  .on_header_value = on_value,
                                                  .on_headers_complete = on_complete};
    http_parser p;
    http_parser_init(&p, HTTP_REQUEST);
    p.data = ps;
    size_t skip = 0;
    if (!known_method) {
        skip = ps->h->method_name.n;
        http_parser_execute(&p, &settings, "GET", 3);
    }
    http_parser_execute(&p, &settings, bytes.p + skip, bytes.n - skip);
    enum http_errno err = HTTP_PARSER_ERRNO(&p);
    if (err == HPE_INVALID_CONTENT_LENGTH)
        return refuse(why, CLOSE_bad_length, ERR_PARSE);
    if (err == HPE_UNEXPECTED_CONTENT_LENGTH)
        return refuse(why, ps->h->encoding_count ? CLOSE_bad_encoding : CLOSE_multiple_lengths, ERR_PARSE);
    if (err == HPE_INVALID_TRANSFER_ENCODING)
        return refuse(why, CLOSE_bad_encoding, ERR_PARSE);
    if (err == HPE_INVALID_URL || err == HPE_INVALID_HOST || err == HPE_INVALID_PORT ||
        err == HPE_INVALID_PATH)
        return refuse(why, CLOSE_bad_target, ERR_PARSE);
    if (!ps->complete || str_absent(ps->h->target))
        return refuse(why, CLOSE_bad_header, ERR_PARSE);
    ps->h->minor = p.http_minor;
    ps->h->keep_alive = p.http_minor >= 1 && !(p.flags & F_CONNECTION_CLOSE);
    return 0;
}

static int check_framing(const struct parse *ps, enum close_reason *why)
{
    struct http_head *h = ps->h;
    h->content_length = -1;
    if (h->length_count > 1)
        return refuse(why, CLOSE_multiple_lengths, ERR_PARSE);
    if (h->encoding_count > 0) {
        if (h->encoding_count > 1 || h->length_count > 0 || h->minor == 0 ||
            !name_eq(ps->encoding, "chunked"))
            return refuse(why, CLOSE_bad_encoding, ERR_PARSE);
        h->chunked = true;
    }
    if (h->length_count == 1) {
        for (size_t i = 0; i < ps->length.n; i++) {
            if (ps->length.p[i] < '0' || ps->length.p[i] > '9')
                return refuse(why, CLOSE_bad_length, ERR_PARSE);
        }
        if (ps->length.n == 0)
            return refuse(why, CLOSE_bad_length, ERR_PARSE);
        if (str_to_i64(ps->length, &h->content_length) != 0)
            return refuse(why, CLOSE_body_too_large, ERR_LIMIT);
    }
    h->expect_continue = h->minor >= 1 && name_eq(ps->expect, "100-continue");
    return 0;
}

static bool host_eq(struct str a, struct str b)
{
    return a.n == b.n && a.n > 0 && strncasecmp(a.p, b.p, a.n) == 0;
}

/* Splits the target. Absolute form is taken when it names this host: we are nobody's proxy. */
static int check_target(struct http_head *h, struct str server_name, enum close_reason *why)
{
    struct str t = h->target, authority;
    if (h->host_count > 1)
        return refuse(why, CLOSE_bad_host, ERR_PARSE);
    if (h->options && str_eq(t, STR("*"))) {
        h->path = t;
        return 0;
    }
    if (t.n > 0 && t.p[0] != '/') {
        size_t scheme = t.n >= 7 && strncasecmp(t.p, "http://", 7) == 0    ? 7
                        : t.n >= 8 && strncasecmp(t.p, "https://", 8) == 0 ? 8
                                                                           : 0;
        if (scheme == 0)
            return refuse(why, CLOSE_bad_target, ERR_PARSE);
        t = str_n(t.p + scheme, t.n - scheme);
        size_t n = 0;
        while (n < t.n && t.p[n] != '/' && t.p[n] != '?')
            n++;
        authority = str_n(t.p, n);
        if (!host_eq(authority, h->host) && !host_eq(authority, server_name))
            return refuse(why, CLOSE_bad_target, ERR_PARSE);
        t = str_n(t.p + n, t.n - n);
    }
    if (!str_cut(t, '?', &h->path, &h->query))
        h->query = STR_ABSENT;
    if (h->path.n == 0)
        h->path = STR("/");
    return 0;
}

int http_head_parse(struct str bytes, struct str request_id_header, struct str server_name,
                    struct http_head *h, enum close_reason *why)
{
    *h = (struct http_head){.method = HTTP_M_OTHER};
    if (bytes.n > 2 && bytes.p[0] == '\r')
        bytes = str_n(bytes.p + 2, bytes.n - 2); /* the forgiven empty line */
    h->method_name = str_n(bytes.p, token_length(bytes));
    bool known = false;
    for (size_t i = 0; i < sizeof methods / sizeof *methods && !known; i++) {
        known = str_eq(h->method_name, str_of(methods[i].name));
        if (known)
            h->method = methods[i].method;
    }
    h->options = known && h->method == HTTP_M_OTHER;
    struct parse ps = {.h = h, .request_id_header = request_id_header};
    int rc = grammar(&ps, bytes, known, why);
    if (rc == 0)
        rc = check_framing(&ps, why);
    if (rc == 0)
        rc = check_target(h, server_name, why);
    return rc;
}
