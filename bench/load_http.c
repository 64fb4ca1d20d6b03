/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * HTTP/1.1 responses as a client sees them, read incrementally into one buffer per connection.
 *
 * The head is parsed once it is complete; a chunked body is decoded in place, the decoded part always lying
 * in front of the raw one. Anything irregular (bytes after the end, a bad chunk size, neither length nor
 * close) is REPLY_BAD: a measuring client must not be lenient, because a lenient one hides a server's
 * mistakes.
 */
#include "load.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { HEAD_MAX = 65536, BUFFER_KEPT = 16384 };
static const size_t body_max = (size_t)256 << 20;

enum { CHUNK_SIZE, CHUNK_DATA, CHUNK_DATA_END, CHUNK_TRAILER };

char *reply_room(struct reply *r, size_t want)
{
    if (r->cap - r->len < want) {
        size_t cap = r->cap ? r->cap : 4096;
        while (cap - r->len < want)
            cap *= 2;
        r->data = need(realloc(r->data, cap));
        r->cap = cap;
    }
    return r->data + r->len;
}

void reply_reset(struct reply *r)
{
    char *data = r->data;
    size_t cap = r->cap;
    if (cap > BUFFER_KEPT) {
        free(data);
        data = NULL;
        cap = 0;
    }
    *r = (struct reply){.data = data, .cap = cap};
}

void reply_free(struct reply *r)
{
    free(r->data);
    *r = (struct reply){0};
}

static bool header_is(const char *line, const char *end, const char *name, const char **value)
{
    size_t n = strlen(name);
    if ((size_t)(end - line) <= n || strncasecmp(line, name, n) != 0 || line[n] != ':')
        return false;
    const char *p = line + n + 1;
    while (p < end && (*p == ' ' || *p == '\t'))
        p++;
    *value = p;
    return true;
}

static bool value_is(const char *value, const char *end, const char *word)
{
    size_t n = strlen(word);
    return (size_t)(end - value) == n && strncasecmp(value, word, n) == 0;
}

static bool parse_length(const char *p, const char *end, size_t *out)
{
    size_t n = 0;
    if (p == end)
        return false;
    for (; p < end; p++) {
        if (*p < '0' || *p > '9' || n > body_max)
            return false;
        n = n * 10 + (size_t)(*p - '0');
    }
    *out = n;
    return n <= body_max;
}

/* The head lies in data[0..head_len), its last line ends with CRLF. */
static enum reply_result parse_head(struct reply *r, size_t head_len)
{
    const char *p = r->data, *end = r->data + head_len;
    if (head_len < 12 || memcmp(p, "HTTP/1.", 7) != 0 || p[8] != ' ' || !isdigit((unsigned char)p[9]) ||
        !isdigit((unsigned char)p[10]) || !isdigit((unsigned char)p[11]))
        return REPLY_BAD;
    r->status = (p[9] - '0') * 100 + (p[10] - '0') * 10 + (p[11] - '0');
    r->closes = p[7] == '0';
    bool has_length = false;
    while ((p = memchr(p, '\n', (size_t)(end - p))) != NULL && ++p < end) {
        const char *line_end = memchr(p, '\r', (size_t)(end - p)), *value;
        if (line_end == NULL)
            return REPLY_BAD;
        if (header_is(p, line_end, "content-length", &value)) {
            if (has_length || !parse_length(value, line_end, &r->left))
                return REPLY_BAD;
            has_length = true;
        } else if (header_is(p, line_end, "transfer-encoding", &value)) {
            if (!value_is(value, line_end, "chunked"))
                return REPLY_BAD;
            r->chunked = true;
        } else if (header_is(p, line_end, "connection", &value)) {
            r->closes = value_is(value, line_end, "close");
        }
    }
    if (has_length && r->chunked)
        return REPLY_BAD;
    r->until_eof = !has_length && !r->chunked && r->status != 204 && r->status != 304;
    return REPLY_DONE;
}

/* A complete line of the raw part without its CRLF, or NULL. */
static const char *raw_line(struct reply *r, size_t *n)
{
    char *begin = r->data + r->raw;
    char *end = memmem(begin, r->len - r->raw, "\r\n", 2);
    if (end == NULL)
        return NULL;
    *n = (size_t)(end - begin);
    r->raw += *n + 2;
    return begin;
}

static bool parse_chunk_size(const char *line, size_t n, size_t *out)
{
    size_t value = 0, i = 0;
    for (; i < n && isxdigit((unsigned char)line[i]); i++) {
        int c = tolower((unsigned char)line[i]);
        value = value * 16 + (size_t)(c <= '9' ? c - '0' : c - 'a' + 10);
        if (value > body_max)
            return false;
    }
    *out = value;
    return i > 0 && (i == n || line[i] == ';' || line[i] == ' ');
}

static enum reply_result decode_chunks(struct reply *r)
{
    size_t n;
    for (;;) {
        if (r->chunk_state == CHUNK_DATA) {
            n = r->len - r->raw < r->left ? r->len - r->raw : r->left;
            memmove(r->data + r->body + r->body_len, r->data + r->raw, n);
            r->raw += n;
            r->body_len += n;
            r->left -= n;
            if (r->left > 0) {
                /* Everything read is decoded: the next bytes may follow the body directly. */
                r->len = r->raw = r->body + r->body_len;
                return r->body_len > body_max ? REPLY_BAD : REPLY_MORE;
            }
            r->chunk_state = CHUNK_DATA_END;
        }
        const char *line = raw_line(r, &n);
        if (line == NULL)
            return r->len - r->raw > HEAD_MAX ? REPLY_BAD : REPLY_MORE;
        if (r->chunk_state == CHUNK_DATA_END) {
            if (n != 0)
                return REPLY_BAD;
            r->chunk_state = CHUNK_SIZE;
        } else if (r->chunk_state == CHUNK_SIZE) {
            if (!parse_chunk_size(line, n, &r->left))
                return REPLY_BAD;
            r->chunk_state = r->left > 0 ? CHUNK_DATA : CHUNK_TRAILER;
        } else if (n == 0) {
            return r->raw == r->len ? REPLY_DONE : REPLY_BAD;
        }
    }
}

enum reply_result reply_advance(struct reply *r, size_t n)
{
    size_t from = r->len > 3 ? r->len - 3 : 0;
    r->len += n;
    if (r->body == 0) {
        char *end = memmem(r->data + from, r->len - from, "\r\n\r\n", 4);
        if (end == NULL)
            return r->len > HEAD_MAX ? REPLY_BAD : REPLY_MORE;
        r->body = r->raw = (size_t)(end - r->data) + 4;
        if (parse_head(r, r->body - 2) == REPLY_BAD)
            return REPLY_BAD;
        n = r->len - r->body;
    }
    if (r->chunked)
        return decode_chunks(r);
    r->body_len += n;
    r->raw = r->len;
    if (r->until_eof)
        return r->body_len > body_max ? REPLY_BAD : REPLY_MORE;
    if (n > r->left)
        return REPLY_BAD;
    r->left -= n;
    return r->left == 0 ? REPLY_DONE : REPLY_MORE;
}

enum reply_result reply_eof(struct reply *r)
{
    if (r->body == 0 || !r->until_eof)
        return REPLY_BAD;
    r->closes = true;
    return REPLY_DONE;
}

struct span json_string_after(const char *body, size_t len, const char *key)
{
    char quoted[64];
    struct span none = {NULL, 0};
    size_t n = strlen(key);
    if (n + 2 > sizeof(quoted))
        return none;
    quoted[0] = '"';
    memcpy(quoted + 1, key, n);
    quoted[n + 1] = '"';
    const char *end = body + len, *p = memmem(body, len, quoted, n + 2);
    if (p == NULL)
        return none;
    p += n + 2;
    while (p < end && (*p == ' ' || *p == ':'))
        p++;
    if (p == end || *p++ != '"')
        return none;
    const char *close = memchr(p, '"', (size_t)(end - p));
    if (close == NULL || memchr(p, '\\', (size_t)(close - p)) != NULL)
        return none;
    return (struct span){p, (size_t)(close - p)};
}

struct span reply_header(const struct reply *r, const char *name)
{
    const char *p = r->data, *end = r->data + r->body;
    while ((p = memchr(p, '\n', (size_t)(end - p))) != NULL && ++p < end) {
        const char *line_end = memchr(p, '\r', (size_t)(end - p)), *value;
        if (line_end == NULL)
            break;
        if (header_is(p, line_end, name, &value))
            return (struct span){value, (size_t)(line_end - value)};
    }
    return (struct span){NULL, 0};
}
