/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_BLOB_H
#define CHAPPE_BLOB_H
/*
 * Immutable counted bytes and ropes of them. A blob is the only thing shared between readers or threads; its
 * count is atomic. A rope is a response under construction or being sent: slices of blobs, for one gather
 * write.
 */
#include "chappe/mem.h"
#include <stdatomic.h>
#include <sys/uio.h>

struct blob {
    _Atomic uint32_t refs;
    uint32_t n;
    char p[];
};
struct blob *blob_new(struct str s); /* copies; refs = 1 */
/* Copies b's bytes and resets b (its memory stays for the next use). NULL if b->failed. */
struct blob *blob_from_buf(struct buf *b);
struct blob *blob_ref(struct blob *b);
void blob_unref(struct blob **b); /* accepts an empty one, leaves NULL */
static inline struct str blob_str(const struct blob *b)
{
    return str_n(b->p, b->n);
}

struct rope_slice {
    struct blob *blob; /* counted */
    const char *p;
    uint32_t n;
    bool own; /* bytes of this response alone: what rope_put copied */
};
struct rope {
    struct rope_slice *v; /* heap, or inline_v */
    size_t n, cap;
    size_t bytes;     /* sum of slices */
    struct blob *own; /* chunk that rope_put() is filling; its tail is unused so far */
    size_t own_used, own_cap;
    struct rope_slice inline_v[8];
};
void rope_init(struct rope *r);
void rope_fini(struct rope *r);
/* Moves the content of from into to (an uninitialised rope); from is left empty and initialised. */
void rope_move(struct rope *to, struct rope *from);
void rope_put(struct rope *r, struct str s); /* copies private bytes */
void rope_put_i64(struct rope *r, int64_t v);
void rope_blob(struct rope *r, struct blob *b); /* shares all of b, or copies it when it is short */
void rope_blob_range(struct rope *r, struct blob *b, size_t off, size_t n); /* the same for a part */
void rope_rope(struct rope *r, const struct rope *from);                    /* shares every slice of from */
/* The same for one that is kept: r, which is initialised and empty, has its own bytes in one exact copy and
 * no room for more. Answers how many bytes of memory that took, beside the struct. */
size_t rope_keep(struct rope *r, const struct rope *from);
/* Fills at most max iovecs with what follows the first skip bytes; returns how many. */
int rope_iov(const struct rope *r, size_t skip, struct iovec *iov, int max);
/* The whole as one copy; for tests and small bodies. */
struct str rope_flatten(const struct rope *r, struct arena *a);
#endif
