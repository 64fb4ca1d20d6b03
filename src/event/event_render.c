/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * An event as one reader sees it: two slices of the shared text with the reader's members of "unsigned"
 * between.
 *
 * All members of "unsigned" have a place in one sorted order; the fixed ones of the shared text are copied
 * when a reader's member comes behind them, and shared when none does. The cost is a few dozen private bytes
 * for a message, plus prev_content for a state event in a timeline.
 */
#include "event_int.h"

struct members {
    struct rope *out;
    bool comma;
};

static void key(struct members *m, struct str quoted_key_colon)
{
    if (m->comma)
        rope_put(m->out, STR(","));
    m->comma = true;
    rope_put(m->out, quoted_key_colon);
}

static bool plain(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] < 0x20 || s.p[i] > 0x7e || s.p[i] == '"' || s.p[i] == '\\')
            return false;
    return true;
}

static void put_string(struct rope *out, struct str s)
{
    if (plain(s)) {
        rope_put(out, STR("\""));
        rope_put(out, s);
        rope_put(out, STR("\""));
        return;
    }
    struct buf b;
    buf_init(&b, 16 + 6 * s.n);
    json_write_str(&b, s, 0);
    ASSERT(!b.failed);
    rope_put(out, buf_str(&b));
    buf_fini(&b);
}

static void string(struct members *m, struct str quoted_key_colon, struct str s)
{
    if (str_absent(s))
        return;
    key(m, quoted_key_colon);
    put_string(m->out, s);
}

static void text(struct members *m, struct str quoted_key_colon, struct str json)
{
    if (str_absent(json))
        return;
    key(m, quoted_key_colon);
    rope_put(m->out, json);
}

enum { SHARE_MIN = 512 }; /* shorter pieces are cheaper copied than counted */

/* A fixed member (without commas around it) from the shared text. */
static void fixed(struct members *m, const struct event_enc *enc, size_t off, size_t len)
{
    if (!len)
        return;
    key(m, str_n("", 0));
    if (len < SHARE_MIN)
        rope_put(m->out, str_n(enc->blob->p + off, len));
    else
        rope_blob_range(m->out, enc->blob, off, len);
}

/* Where each fixed member starts, given that one comma stands between those that are there. */
struct offsets {
    size_t age_ts, prev, redacted_by, replaces_state;
};

static struct offsets offsets_of(const struct event_enc *enc)
{
    struct offsets o;
    o.age_ts = enc->unsigned_off;
    o.prev = o.age_ts + enc->age_ts_len + (enc->age_ts_len > 0);
    o.redacted_by = o.prev + enc->prev_len + (enc->prev_len > 0);
    o.replaces_state = o.redacted_by + enc->redacted_by_len + (enc->redacted_by_len > 0);
    return o;
}

/* Everything that sorts before redacted_by. */
static void before_redacted_by(struct members *m, const struct event *ev, const struct event_extra *x,
                               struct offsets o)
{
    const struct event_enc *enc = &ev->enc;
    if (ev->has_age_ts) {
        key(m, STR("\"age\":"));
        /* wraps around like the reference for absurd clocks */
        rope_put_i64(m->out, (int64_t)((uint64_t)x->now_ms - (uint64_t)ev->age_ts));
    }
    fixed(m, enc, o.age_ts, enc->age_ts_len);
    text(m, STR("\"invite_room_state\":"), x->invite_room_state);
    if (x->mark_spammy)
        text(m, STR("\"io.element.synapse.policy_server_spammy\":"), STR("true"));
    if (x->mark_soft_failed)
        text(m, STR("\"io.element.synapse.soft_failed\":"), STR("true"));
    text(m, STR("\"knock_room_state\":"), x->knock_room_state);
    text(m, STR("\"m.relations\":"), x->relations);
    string(m, STR("\"membership\":"), x->membership);
    if (x->sticky_ttl_ms) {
        key(m, STR("\"msc4354_sticky_duration_ttl_ms\":"));
        rope_put_i64(m->out, x->sticky_ttl_ms);
    }
    string(m, STR("\"org.matrix.msc4140.delay_id\":"), x->delay_id);
    if (str_absent(x->prev_content) && str_absent(x->prev_sender)) {
        fixed(m, enc, o.prev, enc->prev_len);
    } else {
        text(m, STR("\"prev_content\":"), x->prev_content);
        string(m, STR("\"prev_sender\":"), x->prev_sender);
    }
    text(m, STR("\"redacted_because\":"), x->redacted_because);
}

void event_render(struct event *ev, const struct event_extra *x, struct rope *out)
{
    const struct event_enc *enc = event_encode(ev);
    struct offsets o = offsets_of(enc);
    struct members m = {.out = out};
    rope_blob_range(out, enc->blob, 0, enc->unsigned_off);
    before_redacted_by(&m, ev, x, o);

    bool redacted_by = enc->redacted_by_len && !x->is_because;
    size_t shared = redacted_by ? o.redacted_by : o.replaces_state; /* from here on all is fixed … */
    if (!str_absent(x->transaction_id)) {                           /* … unless this comes last */
        if (redacted_by)
            fixed(&m, enc, o.redacted_by, enc->redacted_by_len);
        fixed(&m, enc, o.replaces_state, enc->replaces_state_len);
        string(&m, STR("\"transaction_id\":"), x->transaction_id);
        shared = enc->unsigned_end;
    } else if (!redacted_by && !enc->replaces_state_len) {
        shared = enc->unsigned_end;
    }
    if (shared < enc->unsigned_end && m.comma)
        rope_put(out, STR(","));
    rope_blob_range(out, enc->blob, shared, enc->blob->n - shared);
}
