/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Whose invitations are hidden from a reader (sync-v3 5.5; Synapse 1.157 storage/invite_rule.py): those of
 * ignored users, and, with MSC4155, those that the reader's rules ignore. The rules are lists of globs over
 * the inviter, then over its server; each is asked in the order allowed, ignored, blocked, and the first that
 * matches decides. A blocked invitation was refused when it came, so only "ignored" hides anything here.
 *
 * The newer m.invite_permission_config (MSC4380) can only allow or block: while a user has one, the other is
 * not looked at. The rules are parsed once in a run that meets an invitation, in the run's arena.
 */
#include "sync_int.h"

enum { PATTERN_CHARS_MAX = 255 }; /* longer ones do not count, as in Synapse */

static size_t char_bytes(struct str s, size_t at)
{
    size_t n = 1;
    while (at + n < s.n && ((unsigned char)s.p[at + n] & 0xc0) == 0x80)
        n++;
    return n;
}

static size_t chars(struct str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n; i += char_bytes(s, i))
        n++;
    return n;
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

/* '*' is any text, '?' one character, both without line breaks; case does not count (of ASCII letters). With
 * one place to go back to: at most pattern times text steps. */
bool invite_glob(struct str pattern, struct str text)
{
    size_t p = 0, t = 0, star = SIZE_MAX, from = 0;
    while (t < text.n) {
        if (p < pattern.n && pattern.p[p] == '*') {
            star = p++;
            from = t;
        } else if (p < pattern.n && pattern.p[p] == '?' && text.p[t] != '\n') {
            p++;
            t += char_bytes(text, t);
        } else if (p < pattern.n && pattern.p[p] != '?' && lower(pattern.p[p]) == lower(text.p[t])) {
            p++;
            t++;
        } else if (star != SIZE_MAX && text.p[from] != '\n') {
            p = star + 1;
            from += char_bytes(text, from);
            t = from;
        } else {
            return false;
        }
    }
    while (p < pattern.n && pattern.p[p] == '*')
        p++;
    return p == pattern.n;
}

static bool any_matches(const struct json *patterns, struct str text)
{
    if (!patterns || !json_is_array(patterns))
        return false;
    json_each(v, patterns) {
        if (v->type == JSON_STRING && v->s.n && chars(v->s) <= PATTERN_CHARS_MAX && invite_glob(v->s, text))
            return true;
    }
    return false;
}

static const struct json *rules_of(struct sync_run *run)
{
    if (run->invite_rules_read)
        return run->invite_rules;
    struct smap *data = &run->u->more->account_data;
    struct account_datum *d = smap_get(data, STR("org.matrix.msc4155.invite_permission_config"));
    struct json *rules;
    run->invite_rules_read = true;
    if (d && !smap_get(data, STR("m.invite_permission_config")) &&
        json_parse(run->a, d->content, &rules) == 0 && json_is_object(rules))
        run->invite_rules = rules;
    return run->invite_rules;
}

bool run_invite_rules_known(struct sync_run *run)
{
    return !run->cfg->msc4155_enabled || run_have(run, model_account_data(run->m, run->u));
}

bool run_invite_hidden(struct sync_run *run, struct str sender)
{
    if (smap_get(&run->u->more->ignored, sender))
        return true;
    const struct json *rules = run->cfg->msc4155_enabled ? rules_of(run) : NULL;
    struct str local, server;
    if (!rules || !str_cut(sender, ':', &local, &server))
        return false;
    if (any_matches(json_get(rules, STR("allowed_users")), sender))
        return false;
    if (any_matches(json_get(rules, STR("ignored_users")), sender))
        return true;
    return !any_matches(json_get(rules, STR("blocked_users")), sender) &&
           !any_matches(json_get(rules, STR("allowed_servers")), server) &&
           any_matches(json_get(rules, STR("ignored_servers")), server);
}
