/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Text form of stream tokens.
 *
 * A token is fields joined by '_'; newer Synapse releases append fields, so a shorter token is completed with
 * zeros and a longer one is refused. One table says which kind each field is and where it lives; parsing,
 * formatting and comparing all walk that table, so a field cannot be parsed but forgotten in a comparison.
 *
 * Decoding accepts what Synapse accepts (Python's blanks and signs, empty map parts, repeated writers of
 * which the last counts) and refuses what it refuses; numbers too large for us are clamped, as such tokens
 * are bounded anyway. It allocates nothing and costs one pass.
 */
#include "token_int.h"

#include "chappe/release.h"

#include <stdatomic.h>

enum field_kind { FIELD_ROOM, FIELD_INT, FIELD_MULTI, FIELD_STICKY, FIELD_ZERO };
struct field {
    enum field_kind kind;
    size_t off;
    bool ordered; /* takes part in token_le */
};
#define AT(member) offsetof(struct stream_token, member)
static const struct field fields[TOKEN_FIELD_COUNT] = {
    [TOKEN_ROOM] = {FIELD_ROOM, AT(room), true},
    [TOKEN_PRESENCE] = {FIELD_INT, AT(presence), true},
    [TOKEN_TYPING] = {FIELD_INT, AT(typing), false}, /* restarts from 0 with its writer */
    [TOKEN_RECEIPT] = {FIELD_MULTI, AT(receipt), true},
    [TOKEN_ACCOUNT_DATA] = {FIELD_INT, AT(account_data), true},
    [TOKEN_PUSH_RULES] = {FIELD_INT, AT(push_rules), true},
    [TOKEN_TO_DEVICE] = {FIELD_INT, AT(to_device), true},
    [TOKEN_DEVICE_LIST] = {FIELD_MULTI, AT(device_list), true},
    [TOKEN_GROUPS] = {FIELD_ZERO, 0, false},
    [TOKEN_UN_PARTIAL_STATED_ROOMS] = {FIELD_INT, AT(un_partial_stated_rooms), true},
    [TOKEN_THREAD_SUBSCRIPTIONS] = {FIELD_INT, AT(thread_subscriptions), true},
    [TOKEN_STICKY_EVENTS] = {FIELD_STICKY, AT(sticky_events), true},
    [TOKEN_QUARANTINED_MEDIA] = {FIELD_MULTI, AT(quarantined_media), true},
    [TOKEN_PROFILE_UPDATES] = {FIELD_INT, AT(profile_updates), true},
};

static _Atomic int arity = TOKEN_FIELD_COUNT;

void token_arity_set(int n)
{
    ASSERT(n > TOKEN_UN_PARTIAL_STATED_ROOMS && n <= TOKEN_FIELD_COUNT);
    arity = n;
}

int token_arity(void)
{
    return arity;
}

static int64_t int_of(const struct stream_token *t, const struct field *f)
{
    int64_t v;

    memcpy(&v, (const char *)t + f->off, sizeof v);
    return v;
}

static const struct mpos *mpos_at(const struct stream_token *t, const struct field *f)
{
    return (const struct mpos *)(const void *)((const char *)t + f->off);
}

/* "<id>.<pos>" */
static int map_entry_parse(struct str part, bool (*known_writer)(writer_id), struct mpos *out)
{
    struct str id_text, pos_text;
    int64_t id, pos;

    if (!str_cut(part, '.', &id_text, &pos_text) || str_to_i64_lax(id_text, &id) < 0 ||
        str_to_i64_lax(pos_text, &pos) < 0)
        return -ERR_PARSE;
    if (id <= 0 || id > INT32_MAX || (known_writer && !known_writer((writer_id)id)))
        return -ERR_PARSE;
    mpos_put(out, (writer_id)id, pos);
    return 0;
}

/* What follows the 'm': "<min>~<id>.<pos>~…". */
static int map_parse(struct str s, bool (*known_writer)(writer_id), struct mpos *out)
{
    struct str part, rest;
    bool more = str_cut(s, '~', &part, &rest);
    int64_t min;

    if (str_to_i64_lax(part, &min) < 0)
        return -ERR_PARSE;
    *out = mpos_of(min);
    while (more) {
        s = rest;
        more = str_cut(s, '~', &part, &rest);
        /* Empty parts were written by an old release. */
        if (part.n > 0 && map_entry_parse(part, known_writer, out) < 0)
            return -ERR_PARSE;
    }
    /* Only now: a writer may be named twice, and its last entry is the one that counts. */
    for (int32_t i = 0; i < out->n; i++)
        if (out->w[i].pos <= min)
            return -ERR_PARSE;
    return 0;
}

static int plain_parse(struct str s, struct mpos *out)
{
    int64_t v;

    if (str_to_i64_lax(s, &v) < 0)
        return -ERR_PARSE;
    *out = mpos_of(v);
    return 0;
}

static int room_parse(struct str s, bool (*known_writer)(writer_id), struct stream_token *out)
{
    struct str body = s.n > 0 ? str_n(s.p + 1, s.n - 1) : STR_ABSENT, topo, stream;

    if (s.n == 0)
        return -ERR_PARSE;
    switch (s.p[0]) {
    case 's':
        return plain_parse(body, &out->room);
    case 'm':
        return map_parse(body, known_writer, &out->room);
    case 't':
        out->historical = true;
        if (!str_cut(body, '-', &topo, &stream) || str_to_i64_lax(topo, &out->topological) < 0)
            return -ERR_PARSE;
        return plain_parse(stream, &out->room);
    default:
        return -ERR_PARSE;
    }
}

static int field_parse(const struct field *f, struct str s, bool (*known_writer)(writer_id),
                       struct stream_token *out)
{
    void *at = (char *)out + f->off;
    int64_t v;

    switch (f->kind) {
    case FIELD_ROOM:
        return room_parse(s, known_writer, out);
    case FIELD_STICKY:
        if (!release_has(RELEASE_STICKY_BY_WRITERS))
            return plain_parse(s, at);
        __attribute__((fallthrough));
    case FIELD_MULTI:
        if (s.n > 0 && s.p[0] == 'm')
            return map_parse(str_n(s.p + 1, s.n - 1), known_writer, at);
        if (s.n == 0 || s.p[0] < '0' || s.p[0] > '9')
            return -ERR_PARSE;
        return plain_parse(s, at);
    case FIELD_INT:
    case FIELD_ZERO:
        if (str_to_i64_lax(s, &v) < 0)
            return -ERR_PARSE;
        if (f->kind == FIELD_INT)
            memcpy(at, &v, sizeof v);
        return 0;
    }
    return -ERR_PARSE;
}

int token_parse(struct str text, bool (*known_writer)(writer_id), struct stream_token *out)
{
    struct str field, rest = text;
    bool more = true;

    memset(out, 0, sizeof *out);
    for (int i = 0; more; i++) {
        if (i == token_arity())
            return -ERR_PARSE;
        text = rest;
        more = str_cut(text, '_', &field, &rest);
        if (field_parse(&fields[i], field, known_writer, out) < 0)
            return -ERR_PARSE;
    }
    return 0;
}

static char *int_format(char *out, int64_t v)
{
    char digits[I64_DIGITS_MAX];
    struct str text = str_of_i64(digits, v);
    memcpy(out, text.p, text.n);
    return out + text.n;
}

/* prefix is 's' in the room part and absent (0) elsewhere, where a bare number cannot have a sign. */
static char *mpos_format(char *out, const struct mpos *p, char prefix)
{
    if (p->n > 0 || (!prefix && p->min < 0))
        *out++ = 'm';
    else if (prefix)
        *out++ = prefix;
    out = int_format(out, p->min);
    for (int32_t i = 0; i < p->n; i++) {
        *out++ = '~';
        out = int_format(out, p->w[i].writer);
        *out++ = '.';
        out = int_format(out, p->w[i].pos);
    }
    return out;
}

static char *field_format(char *out, const struct field *f, const struct stream_token *t)
{
    switch (f->kind) {
    case FIELD_ROOM:
        if (!t->historical)
            return mpos_format(out, &t->room, 's');
        *out++ = 't';
        out = int_format(out, t->topological);
        *out++ = '-';
        return int_format(out, t->room.min);
    case FIELD_STICKY:
        if (!release_has(RELEASE_STICKY_BY_WRITERS))
            return int_format(out, mpos_at(t, f)->min);
        __attribute__((fallthrough));
    case FIELD_MULTI:
        return mpos_format(out, mpos_at(t, f), 0);
    case FIELD_INT:
        return int_format(out, int_of(t, f));
    case FIELD_ZERO:
        break;
    }
    return int_format(out, 0);
}

/* Longest text: five vector clocks, nine numbers (and the topological one), separators. */
enum { INT_TEXT = 20, ENTRY_TEXT = 1 + 11 + 1 + INT_TEXT };
_Static_assert(5 * (1 + INT_TEXT + MPOS_WRITERS_MAX * ENTRY_TEXT) + 10 * INT_TEXT + TOKEN_FIELD_COUNT + 2 <=
                   TOKEN_TEXT_MAX,
               "TOKEN_TEXT_MAX holds any token");

size_t token_format(const struct stream_token *t, char *out)
{
    char *p = out;

    for (int i = 0; i < token_arity(); i++) {
        if (i > 0)
            *p++ = '_';
        p = field_format(p, &fields[i], t);
    }
    return (size_t)(p - out);
}

bool token_le(const struct stream_token *a, const struct stream_token *b)
{
    for (int i = 0; i < TOKEN_FIELD_COUNT; i++) {
        const struct field *f = &fields[i];
        if (!f->ordered)
            continue;
        if (f->kind == FIELD_INT ? int_of(a, f) > int_of(b, f) : !mpos_le(mpos_at(a, f), mpos_at(b, f)))
            return false;
    }
    return true;
}

bool token_equal(const struct stream_token *a, const struct stream_token *b)
{
    if (a->historical != b->historical || (a->historical && a->topological != b->topological))
        return false;
    for (int i = 0; i < TOKEN_FIELD_COUNT; i++) {
        const struct field *f = &fields[i];
        if (f->kind == FIELD_ZERO)
            continue;
        if (f->kind == FIELD_INT ? int_of(a, f) != int_of(b, f) : !mpos_equal(mpos_at(a, f), mpos_at(b, f)))
            return false;
    }
    return true;
}
