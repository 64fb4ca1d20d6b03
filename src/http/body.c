/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Request bodies: a length, or chunks. The chunk reader is our own because the library's skips line feeds
 * inside chunk extensions, which is one of the ways in which two servers read one stream as different
 * requests. Ours accepts CR LF and nothing else as a line end, extensions and trailers without control bytes,
 * and bounds what they may add up to.
 */
#include "http_int.h"

enum { OVERHEAD_MAX = 16384, SIZE_DIGITS_BITS = 40 };

void http_body_init(struct http_body *b, const struct http_head *h)
{
    *b = (struct http_body){.state = BODY_DONE};
    if (h->chunked)
        b->state = BODY_SIZE_FIRST;
    else if (h->content_length > 0) {
        b->state = BODY_LENGTH;
        b->left = (uint64_t)h->content_length;
    }
}

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool is_text(char c)
{
    return ((unsigned char)c >= ' ' && (unsigned char)c != 127) || c == '\t';
}

/* One byte of framing. False if it may not stand there. */
static bool step(struct http_body *b, char c)
{
    int d = digit(c);
    switch (b->state) {
    case BODY_SIZE_FIRST:
    case BODY_SIZE:
        if (d >= 0) {
            b->left = (b->state == BODY_SIZE_FIRST ? 0 : b->left << 4) | (uint64_t)d;
            b->state = BODY_SIZE;
            return b->left >> SIZE_DIGITS_BITS == 0;
        }
        if (b->state == BODY_SIZE_FIRST)
            return false;
        if (c == ';' || c == ' ' || c == '\t') {
            b->state = BODY_EXTENSION;
            return true;
        }
        b->state = BODY_SIZE_LF;
        return c == '\r';
    case BODY_EXTENSION:
        if (c == '\r')
            b->state = BODY_SIZE_LF;
        return c == '\r' || (is_text(c) && b->overhead++ < OVERHEAD_MAX);
    case BODY_SIZE_LF:
        b->state = b->left ? BODY_CHUNK : BODY_TRAILER_START;
        return c == '\n';
    case BODY_CHUNK_CR:
        b->state = BODY_CHUNK_LF;
        return c == '\r';
    case BODY_CHUNK_LF:
        b->state = BODY_SIZE_FIRST;
        return c == '\n';
    case BODY_TRAILER_START:
        if (c == '\r') {
            b->state = BODY_END_LF;
            return true;
        }
        b->state = BODY_TRAILER;
        return c != ' ' && c != '\t' && c != ':' && is_text(c) && b->overhead++ < OVERHEAD_MAX;
    case BODY_TRAILER:
        if (c == '\r')
            b->state = BODY_TRAILER_LF;
        return c == '\r' || (is_text(c) && b->overhead++ < OVERHEAD_MAX);
    case BODY_TRAILER_LF:
        b->state = BODY_TRAILER_START;
        return c == '\n';
    case BODY_END_LF:
        b->state = BODY_DONE;
        return c == '\n';
    case BODY_DONE:
    case BODY_LENGTH:
    case BODY_CHUNK:
        break;
    }
    return false;
}

int http_body_feed(struct http_body *b, struct str *in, struct str *out, enum close_reason *why)
{
    *out = str_n(in->p, 0);
    if (b->state == BODY_LENGTH || b->state == BODY_CHUNK) {
        size_t n = in->n < b->left ? in->n : (size_t)b->left;
        *out = str_n(in->p, n);
        *in = str_n(in->p + n, in->n - n);
        b->left -= n;
        b->total += n;
        if (b->left == 0)
            b->state = b->state == BODY_LENGTH ? BODY_DONE : BODY_CHUNK_CR;
        return b->state == BODY_DONE;
    }
    while (in->n > 0 && b->state != BODY_DONE && b->state != BODY_CHUNK) {
        if (!step(b, in->p[0])) {
            *why = CLOSE_bad_chunk;
            return -ERR_PARSE;
        }
        *in = str_n(in->p + 1, in->n - 1);
    }
    return b->state == BODY_DONE;
}
