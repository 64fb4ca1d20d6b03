/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * A message of the replication channel: the line, and its row for whatever stream it names (and, so that
 * every row reader meets every shape, for all the others too). What parses must lie inside the input or the
 * arena.
 */
#include "feed_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(struct str part, struct str whole)
{
    ASSERT(part.n == 0 || (part.p >= whole.p && part.p + part.n <= whole.p + whole.n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str text = str_n((const char *)data, size);
    struct repl_line l;
    int err = repl_parse(text, &l);

    inside(l.stream, text);
    inside(l.instance, text);
    inside(l.row, text);
    if (err || l.cmd != REPL_RDATA)
        return 0;
    ASSERT(l.stream.n && l.instance.n && l.row.n && l.token >= 0);
    struct arena *a = arena_new(1 << 20);
    for (int s = 0; s < STREAM_COUNT; s++) {
        struct feed_row row;

        arena_reset(a);
        if (row_parse_text(a, (enum stream)s, l.row, &row) != 0)
            continue;
        if (s == STREAM_TYPING)
            for (size_t i = 0; i < row.typing.user_ids_count; i++)
                ASSERT(!str_absent(row.typing.user_ids[i]));
        if (s == STREAM_EVENTS)
            ASSERT(!str_absent(row.ev.room_id) && row.ev.kind <= EV_ROW_STATE_ALL);
    }
    arena_free(&a);
    return 0;
}
