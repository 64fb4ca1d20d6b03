/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * One replication line. A Redis message is one command: a name, a space, fields separated by single spaces,
 * and for RDATA a rest that is JSON and may itself contain spaces. Nothing is copied: slices point into the
 * message.
 *
 * A line that cannot be read still tells as much as could be read (command, stream, instance), so that the
 * caller can have that writer checked for a gap instead of losing what the line meant to say.
 */
#include "feed_int.h"

static const char *const command_names[] = {
#define X(id, wire) [REPL_##id] = wire,
    REPL_COMMAND_MAP(X)
#undef X
        [REPL_UNKNOWN] = "unknown",
    [REPL_EMPTY] = "empty",
};

const char *repl_command_name(enum repl_command c)
{
    ASSERT((size_t)c < sizeof command_names / sizeof *command_names);
    return command_names[c];
}

static enum repl_command command_find(struct str name)
{
    for (int i = 0; i < REPL_COMMAND_COUNT; i++)
        if (str_eq(name, str_of(command_names[i])))
            return (enum repl_command)i;
    return REPL_UNKNOWN;
}

/* Takes one field off rest. false when it is missing or empty. */
static bool field(struct str *rest, struct str *out)
{
    struct str after = STR_ABSENT;

    if (str_absent(*rest))
        return false;
    str_cut(*rest, ' ', out, &after);
    *rest = after;
    return out->n > 0;
}

/* Tokens are positions: never negative on the wire, not even for backfill. */
static int token_read(struct str text, int64_t *out)
{
    int64_t v = 0;

    if (str_to_i64(text, &v) != 0 || v < 0)
        return -ERR_PARSE;
    *out = v;
    return 0;
}

static int parse_rdata(struct str rest, struct repl_line *out)
{
    struct str token;

    if (!field(&rest, &out->stream) || !field(&rest, &out->instance) || !field(&rest, &token))
        return -ERR_PARSE;
    if (str_eq(token, STR("batch")))
        out->batch = true;
    else if (token_read(token, &out->token) != 0)
        return -ERR_PARSE;
    if (rest.n == 0)
        return -ERR_PARSE;
    out->row = rest;
    return 0;
}

static int parse_position(struct str rest, struct repl_line *out)
{
    struct str prev, next;

    if (!field(&rest, &out->stream) || !field(&rest, &out->instance) || !field(&rest, &prev) ||
        !field(&rest, &next))
        return -ERR_PARSE; /* more fields may follow one day */
    return token_read(prev, &out->prev) != 0 || token_read(next, &out->next) != 0 ? -ERR_PARSE : 0;
}

int repl_parse(struct str line, struct repl_line *out)
{
    struct str name, rest = STR_ABSENT;

    *out = (struct repl_line){.cmd = REPL_EMPTY};
    if (str_trim(line).n == 0)
        return 0;
    str_cut(line, ' ', &name, &rest);
    out->cmd = command_find(name);
    switch (out->cmd) {
    case REPL_RDATA:
        return parse_rdata(rest, out);
    case REPL_POSITION:
        return parse_position(rest, out);
    default: /* nothing in the others is for us */
        return 0;
    }
}
