/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The stand-in for the database: what each statement of the model says, said over the tables of world.h. A
 * statement is answered from the tables as they are when it is issued; the answer waits until the world
 * turns.
 */
#include "world.h"

#include <stdio.h>

/* ---- arguments and results ---- */

enum { ARGS_MAX = 4, COLS_MAX = 15 };
struct arg {
    struct str *t;
    int64_t *n;
    size_t count;
};
struct pg_args {
    struct arg v[ARGS_MAX];
    int n;
};
struct pg_args *pg_args_new(void)
{
    return xcalloc(1, sizeof(struct pg_args));
}
void pg_args_i64_array(struct pg_args *a, const int64_t *v, size_t n)
{
    struct arg *x = &a->v[a->n++];
    x->n = xmalloc(sizeof *v * (n + 1));
    if (n)
        memcpy(x->n, v, sizeof *v * n);
    x->count = n;
}
void pg_args_i64(struct pg_args *a, int64_t v)
{
    pg_args_i64_array(a, &v, 1);
}
void pg_args_text_array(struct pg_args *a, const struct str *v, size_t n)
{
    struct arg *x = &a->v[a->n++];
    x->t = xcalloc(n + 1, sizeof *v);
    for (size_t i = 0; i < n; i++)
        x->t[i] = str_dup(v[i]);
    x->count = n;
}
void pg_args_text(struct pg_args *a, struct str s)
{
    pg_args_text_array(a, &s, 1);
}
static void args_free(struct pg_args *a)
{
    for (int i = 0; a && i < a->n; i++) {
        for (size_t k = 0; a->v[i].t && k < a->v[i].count; k++)
            free((void *)(uintptr_t)a->v[i].t[k].p);
        free(a->v[i].t);
        free(a->v[i].n);
    }
    free(a);
}

struct row {
    char *c[COLS_MAX];
    bool i[COLS_MAX];
    int64_t n[COLS_MAX];
};
struct pg_result {
    VEC(struct row) rows;
};
int pg_rows(const struct pg_result *r)
{
    return (int)r->rows.n;
}
struct str pg_str(const struct pg_result *r, int row, int col)
{
    ASSERT(row >= 0 && (size_t)row < r->rows.n && !r->rows.v[row].i[col]);
    return str_of(r->rows.v[row].c[col]);
}
int64_t pg_i64(const struct pg_result *r, int row, int col)
{
    ASSERT(row >= 0 && (size_t)row < r->rows.n && !r->rows.v[row].c[col]);
    return r->rows.v[row].n[col];
}
bool pg_null(const struct pg_result *r, int row, int col)
{
    return !r->rows.v[row].c[col] && !r->rows.v[row].i[col];
}

/* Builds one row from a format: s text or NULL, i number, 0 NULL. */
static void row_add(struct pg_result *r, const char *fmt, ...)
{
    struct row row = {0};
    va_list ap;
    va_start(ap, fmt);
    for (int col = 0; fmt[col]; col++) {
        if (fmt[col] == 'i') {
            row.i[col] = true;
            row.n[col] = va_arg(ap, int64_t);
        } else if (fmt[col] == 's') {
            const char *s = va_arg(ap, const char *);
            row.c[col] = s ? xstrndup(str_of(s)) : NULL;
        }
    }
    va_end(ap);
    vec_push(&r->rows, row);
}
#define I(x) ((int64_t)(x))

static void result_free(struct pg_result *r)
{
    for (size_t i = 0; r && i < r->rows.n; i++) {
        for (int k = 0; k < COLS_MAX; k++)
            free(r->rows.v[i].c[k]);
    }
    if (r)
        vec_free(&r->rows);
    free(r);
}

struct answer {
    enum pg_stmt stmt;
    pg_done_fn *done;
    void *arg;
    struct pg_result *r;
};

static bool is(struct str a, const char *b)
{
    return b && str_eq(a, str_of(b));
}
static const char *writer_name(int w)
{
    return w == W2 ? "w2" : "master";
}

/* ---- statements ---- */

static void q_events(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->events.n; i++) {
            const struct t_event *e = &w->events.v[i];
            if (!is(a->v[0].t[k], e->id))
                continue;
            char reds[512] = "";
            for (size_t x = 0; x < w->redactions.n; x++) {
                if (!strcmp(w->redactions.v[x].redacts, e->id))
                    snprintf(reds + strlen(reds), sizeof reds - strlen(reds), "%s%s\x1f%d",
                             *reds ? "\x1e" : "", w->redactions.v[x].by, w->redactions.v[x].recheck);
            }
            const char *ban = NULL;
            for (size_t x = 0; x < w->bans.n; x++) {
                const struct t_pair *b = &w->bans.v[x];
                if (!strcmp(b->a, world_text(w, "%s %s", e->room, e->sender)) &&
                    (b->n == 0 || e->stream < b->n))
                    ban = b->b;
            }
            row_add(r, "ssisiissississi", e->id, e->room, e->stream, writer_name(e->writer), e->topo,
                    I(e->outlier), e->json, e->metadata ? e->metadata : "{}", I(3),
                    e->version ? e->version : "10", e->rejected, e->sg, *reds ? reds : NULL, ban, I(0));
        }
    }
}

static int page_cmp_stream(const void *x, const void *y)
{
    const struct t_event *a = *(struct t_event *const *)x, *b = *(struct t_event *const *)y;
    return a->stream < b->stream ? 1 : -1;
}
static int page_cmp_topo(const void *x, const void *y)
{
    const struct t_event *a = *(struct t_event *const *)x, *b = *(struct t_event *const *)y;
    return a->topo != b->topo ? (a->topo < b->topo ? 1 : -1) : page_cmp_stream(x, y);
}
static void q_page(struct world *w, struct pg_args *a, struct pg_result *r, bool topological)
{
    const struct t_event **v = xmalloc(sizeof *v * (w->events.n + 1));
    for (size_t k = 0; k < a->v[0].count; k++) {
        int64_t x = a->v[1].n[k], y = a->v[2].n[k];
        size_t n = 0;
        for (size_t i = 0; i < w->events.n; i++) {
            const struct t_event *e = &w->events.v[i];
            if (e->outlier || !is(a->v[0].t[k], e->room))
                continue;
            if (topological ? e->topo < x || (e->topo == x && e->stream < y)
                            : e->stream > x && e->stream <= y)
                v[n++] = e;
        }
        qsort(v, n, sizeof *v, topological ? page_cmp_topo : page_cmp_stream);
        for (size_t i = 0; i < n && (int64_t)i < a->v[3].n[k]; i++)
            row_add(r, "sssii", v[i]->room, v[i]->id, writer_name(v[i]->writer), v[i]->stream, v[i]->topo);
    }
    free(v);
}

/* Only accepted events, the newest eight. */
static void q_last(struct world *w, struct pg_args *a, struct pg_result *r)
{
    const struct t_event **v = xmalloc(sizeof *v * (w->events.n + 1));
    for (size_t k = 0; k < a->v[0].count; k++) {
        size_t n = 0;
        for (size_t i = 0; i < w->events.n; i++) {
            const struct t_event *e = &w->events.v[i];
            if (!e->outlier && !e->rejected && is(a->v[1].t[k], e->room) && e->stream <= a->v[2].n[k])
                v[n++] = e;
        }
        qsort(v, n, sizeof *v, page_cmp_stream);
        for (size_t i = 0; i < n && i < 8; i++)
            row_add(r, "issii", a->v[0].n[k], v[i]->id, writer_name(v[i]->writer), v[i]->stream, v[i]->topo);
    }
    free(v);
}

static void q_gaps(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->gaps.n; i++) {
            if (is(a->v[0].t[k], w->gaps.v[i].room))
                row_add(r, "si", w->gaps.v[i].room, w->gaps.v[i].stream);
        }
    }
}

static bool same_action(const struct t_action *a, const struct t_action *b)
{
    return a->stream == b->stream && a->notif == b->notif && a->highlight == b->highlight &&
           a->unread == b->unread && !strcmp(a->room, b->room) &&
           !strcmp(a->thread ? a->thread : "", b->thread ? b->thread : "");
}

/* Users with the same action that stand side by side are one row. */
static void q_actions(struct world *w, int64_t stream, struct pg_result *r)
{
    struct buf users;
    buf_init(&users, 1 << 20);
    for (size_t i = 0; i < w->actions.n; i++) {
        const struct t_action *t = &w->actions.v[i];
        if (t->stream != stream)
            continue;
        if (users.n)
            buf_putc(&users, '\x1e');
        buf_put(&users, str_of(t->user));
        if (i + 1 < w->actions.n && same_action(t, t + 1))
            continue;
        buf_putc(&users, 0);
        row_add(r, "0sisi0s0i00i00i", t->room, t->stream, t->thread, I(t->highlight), users.p, I(t->notif),
                I(t->unread), I(2));
        buf_reset(&users);
    }
    buf_fini(&users);
}

static void q_burst(struct world *w, struct pg_args *a, struct pg_result *r)
{
    q_events(w, a, r);
    for (size_t k = 0; k < a->v[1].count; k++) {
        for (size_t i = 0; i < w->gaps.n; i++) {
            if (is(a->v[1].t[k], w->gaps.v[i].room) && w->gaps.v[i].stream > a->v[2].n[0])
                row_add(r, "0si00000000000i", w->gaps.v[i].room, w->gaps.v[i].stream, I(1));
        }
    }
    for (size_t k = 0; k < a->v[3].count; k++)
        q_actions(w, a->v[3].n[k], r);
}

static void q_state(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->state.n; i++) {
            const struct t_state *s = &w->state.v[i];
            if (is(a->v[0].t[k], s->room))
                row_add(r, "sssssi", s->room, s->type, s->key, s->event, s->membership, s->stream);
        }
    }
}

static void q_delta(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->groups.n; i++) {
            const struct t_group *g = &w->groups.v[i];
            if (g->id != a->v[0].n[k])
                continue;
            if (g->prev)
                row_add(r, "iisss", g->id, g->prev, g->type, g->key, g->event);
            else
                row_add(r, "i0sss", g->id, g->type, g->key, g->event);
        }
    }
}

static void q_state_deltas(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->deltas.n; i++) {
            const struct t_delta *d = &w->deltas.v[i];
            if (is(a->v[0].t[k], d->room) && d->stream > a->v[1].n[k] && d->stream <= a->v[2].n[k])
                row_add(r, "sissss", d->room, d->stream, writer_name(d->writer), d->type, d->key, d->event);
        }
    }
}

/* Newest first. all: those that have not expired; else by stream id. */
static void q_sticky(struct world *w, struct pg_args *a, struct pg_result *r, bool all)
{
    for (size_t i = w->sticky.n; i-- > 0;) {
        const struct t_sticky *s = &w->sticky.v[i];
        bool asked = all && s->expires > a->v[0].n[0];
        for (size_t k = 0; !all && k < a->v[0].count; k++)
            asked |= a->v[0].n[k] == s->stream;
        if (asked)
            row_add(r, "isssi", s->stream, "master", s->room, s->event, s->expires);
    }
}

/* The event of a key in a group, by its chain; *prev is what to look at next. */
static void q_resolved(struct world *w, struct pg_args *a, struct pg_result *r, bool all)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        struct smap seen;
        smap_init(&seen);
        for (int64_t id = a->v[0].n[k], next; id; id = next) {
            next = 0;
            for (size_t i = 0; i < w->groups.n; i++) {
                const struct t_group *g = &w->groups.v[i];
                if (g->id != id)
                    continue;
                next = g->prev;
                if (!g->type || (!all && !strcmp(g->type, "m.room.member")))
                    continue;
                struct str key = arena_printf(w->text, "%s/%s", g->type, g->key);
                if (!smap_put(&seen, key, w))
                    row_add(r, "isss", a->v[0].n[k], g->type, g->key, g->event);
            }
        }
        smap_fini(&seen);
    }
}

static void q_members(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        const char *found = NULL, *key = NULL;
        for (int64_t id = a->v[0].n[k], next; id && !found; id = next) {
            next = 0;
            for (size_t i = 0; i < w->groups.n; i++) {
                const struct t_group *g = &w->groups.v[i];
                if (g->id != id)
                    continue;
                next = g->prev;
                if (g->type && !strcmp(g->type, "m.room.member") && is(a->v[1].t[k], g->key))
                    found = g->event, key = g->key;
            }
        }
        if (found)
            row_add(r, "iss", a->v[0].n[k], key, found);
    }
}

static void q_receipts(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->receipts.n; i++) {
            const struct t_receipt *t = &w->receipts.v[i];
            if (is(a->v[0].t[k], t->room) && t->stream > a->v[1].n[k])
                row_add(r, "sissssss", t->room, t->stream, writer_name(t->writer), t->type, t->user, t->event,
                        t->thread, t->data);
        }
    }
}

static void q_rooms(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->members.n; i++) {
            const struct t_member *t = &w->members.v[i];
            if (is(a->v[0].t[k], t->user))
                row_add(r, "ssssssisi", t->user, t->room, t->sender, t->membership, t->event,
                        writer_name(t->writer), t->stream, t->version ? t->version : "10", I(t->forgotten));
        }
    }
}

static void q_own(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->own.n; i++) {
            const struct t_member *t = &w->own.v[i];
            if (is(a->v[0].t[k], t->user) && t->stream > a->v[1].n[k])
                row_add(r, "ssssi", t->user, t->room, t->event, writer_name(t->writer), t->stream);
        }
    }
}

static void q_account(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->data.n; i++) {
            const struct t_datum *t = &w->data.v[i];
            if (is(a->v[0].t[k], t->user) && t->stream > a->v[1].n[k])
                row_add(r, "ssssi", t->user, t->room, t->type, t->content, t->stream);
        }
    }
}

static void q_tags(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->tags.n; i++) {
            const struct t_tag *t = &w->tags.v[i];
            if (is(a->v[0].t[k], t->user))
                row_add(r, "ssiss", t->user, t->room, t->stream, t->tag, t->content);
        }
    }
}

typedef __typeof__(((struct world *)0)->ignored) pairs;
static void q_pairs(const pairs *p, struct pg_args *a, struct pg_result *r, const char *fmt)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < p->n; i++) {
            const struct t_pair *t = &p->v[i];
            if (!is(a->v[0].t[k], t->a))
                continue;
            if (fmt[1] == 's')
                row_add(r, fmt, t->a, t->b);
            else
                row_add(r, fmt, t->a, t->n);
        }
    }
}

static void q_rules(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->rules_stream.n; i++) {
            if (is(a->v[0].t[k], w->rules_stream.v[i].a))
                row_add(r, "is0ii00", I(2), w->rules_stream.v[i].a, w->rules_stream.v[i].n, I(0));
        }
    }
}

static void q_filters(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->filters.n; i++) {
            const struct t_pair *t = &w->filters.v[i];
            if (is(a->v[0].t[k], t->a) && a->v[1].n[k] == t->n)
                row_add(r, "sis", t->a, t->n, t->b);
        }
    }
}

static void q_unread(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (int kind = 0; kind < 4; kind++) {
            for (size_t i = 0; i < w->unread.n; i++) {
                const struct t_unread *t = &w->unread.v[i];
                if (t->kind == kind && is(a->v[0].t[k], t->user) && is(a->v[1].t[k], t->room))
                    row_add(r, "isssiiiiis", I(kind), t->user, t->room, t->thread, t->v[0], t->v[1], t->v[2],
                            t->v[3], t->v[4], t->list);
            }
        }
    }
}

static int inbox_cmp(const void *x, const void *y)
{
    const struct t_inbox *a = x, *b = y;
    return a->stream < b->stream ? -1 : a->stream > b->stream;
}
static void q_inbox(struct world *w, struct pg_args *a, struct pg_result *r)
{
    if (w->inbox.n)
        qsort(w->inbox.v, w->inbox.n, sizeof *w->inbox.v, inbox_cmp);
    for (size_t k = 0; k < a->v[0].count; k++) {
        int n = 0;
        for (size_t i = 0; i < w->inbox.n && n < 100; i++) {
            const struct t_inbox *t = &w->inbox.v[i];
            if (is(a->v[0].t[k], t->user) && is(a->v[1].t[k], t->device) && t->stream > a->v[2].n[k]) {
                row_add(r, "ssis", t->user, t->device, t->stream, t->json);
                n++;
            }
        }
    }
}
static void q_inbox_delete(struct world *w, struct pg_args *a)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        size_t n = 0;
        for (size_t i = 0; i < w->inbox.n; i++) {
            const struct t_inbox *t = &w->inbox.v[i];
            if (!(is(a->v[0].t[k], t->user) && is(a->v[1].t[k], t->device) && t->stream <= a->v[2].n[k]))
                w->inbox.v[n++] = *t;
        }
        w->inbox.n = n;
    }
}

static void q_keys(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->keys.n; i++) {
            const struct t_key *t = &w->keys.v[i];
            if (is(a->v[0].t[k], t->user) && is(a->v[1].t[k], t->device))
                row_add(r, "isssi", I(t->kind), t->user, t->device, t->algorithm, t->count);
        }
    }
}

/* kind 0: a change in a room; 2: a signature, whose reader is its signer. */
static void q_dl(struct world *w, struct pg_args *a, struct pg_result *r, int kind)
{
    for (size_t i = 0; i < w->dl.n; i++) {
        const struct t_dl *t = &w->dl.v[i];
        if (t->kind != kind || t->stream <= a->v[0].n[0] || t->stream > a->v[1].n[0])
            continue;
        if (kind == 0)
            row_add(r, "issis", I(0), t->user, t->room, t->stream, writer_name(t->writer));
        else
            row_add(r, "ssis", t->reader, t->user, t->stream, writer_name(t->writer));
    }
}
static void q_dl_users(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->dl.n; i++) {
            const struct t_dl *t = &w->dl.v[i];
            if (is(a->v[0].t[k], t->reader) && t->stream > a->v[1].n[k] && t->stream <= a->v[2].n[k])
                row_add(r, "isssis", I(t->kind), t->reader, t->user, t->kind == 2 ? NULL : t->room, t->stream,
                        writer_name(t->writer));
        }
    }
}

static void q_tokens(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->tokens.n; i++) {
            const struct t_token *t = &w->tokens.v[i];
            if (is(a->v[0].t[k], t->token))
                row_add(r, "isssi0iiiiii", I(k + 1), t->user, t->user, t->device, t->id, I(1), I(0), I(0),
                        I(0), I(0), I(0));
        }
    }
}

/* Whoever has a token is there, and so is its device. */
static void q_auth_users(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->tokens.n; i++) {
            if (is(a->v[0].t[k], w->tokens.v[i].user)) {
                row_add(r, "iiiiiisi0", I(k + 1), I(0), I(0), I(0), I(0), I(0), "", I(0));
                break;
            }
        }
    }
}

static void q_auth_devices(struct world *w, struct pg_args *a, struct pg_result *r)
{
    for (size_t k = 0; k < a->v[0].count; k++) {
        for (size_t i = 0; i < w->tokens.n; i++) {
            if (is(a->v[0].t[k], w->tokens.v[i].user) && is(a->v[1].t[k], w->tokens.v[i].device)) {
                row_add(r, "i", I(k + 1));
                break;
            }
        }
    }
}

/* References, the last edit, the newest of a thread and how often who has said something in it. */
static void q_bundle(struct world *w, struct str parent, struct pg_result *r)
{
    const struct t_relation *edit = NULL, *latest = NULL;
    for (size_t i = 0; i < w->relations.n; i++) {
        const struct t_relation *x = &w->relations.v[i];
        if (!is(parent, x->parent))
            continue;
        if (!strcmp(x->rel, "m.reference"))
            row_add(r, "isssi", I(0), x->parent, x->event, x->sender, I(0));
        else if (!strcmp(x->rel, "m.replace"))
            edit = x;
        else if (!strcmp(x->rel, "m.thread"))
            latest = x;
    }
    if (edit)
        row_add(r, "isssi", I(1), edit->parent, edit->event, edit->sender, I(0));
    if (latest)
        row_add(r, "isssi", I(2), latest->parent, latest->event, latest->sender, I(0));
    for (size_t i = 0; i < w->relations.n; i++) {
        const struct t_relation *x = &w->relations.v[i];
        int64_t count = 0;
        bool counted = false;
        if (!is(parent, x->parent) || strcmp(x->rel, "m.thread") != 0)
            continue;
        for (size_t k = 0; k < w->relations.n; k++) {
            const struct t_relation *y = &w->relations.v[k];
            bool same =
                !strcmp(y->parent, x->parent) && !strcmp(y->rel, x->rel) && !strcmp(y->sender, x->sender);
            count += same;
            counted |= same && k < i;
        }
        row_add(r, "isssi", I(3), x->parent, x->event, x->sender, I(i));
        if (!counted)
            row_add(r, "isssi", I(4), x->parent, NULL, x->sender, count);
    }
}

static void query(struct world *w, enum pg_stmt s, struct pg_args *a, struct pg_result *r)
/* tidy: allow function-length: a flat switch */
{
    switch ((int)s) {
    case SQL_events_by_id:
        q_events(w, a, r);
        break;
    case SQL_burst:
        q_burst(w, a, r);
        break;
    case SQL_gaps_of_rooms:
        q_gaps(w, a, r);
        break;
    case SQL_page_stream:
        q_page(w, a, r, false);
        break;
    case SQL_page_topological:
        q_page(w, a, r, true);
        break;
    case SQL_last_events:
        q_last(w, a, r);
        break;
    case SQL_room_state:
        q_state(w, a, r);
        break;
    case SQL_sticky_all:
        q_sticky(w, a, r, true);
        break;
    case SQL_sticky_by_stream_id:
        q_sticky(w, a, r, false);
        break;
    case SQL_state_deltas:
        q_state_deltas(w, a, r);
        break;
    case SQL_sg_delta:
        q_delta(w, a, r);
        break;
    case SQL_sg_nonmembers:
        q_resolved(w, a, r, false);
        break;
    case SQL_sg_all:
        q_resolved(w, a, r, true);
        break;
    case SQL_sg_members:
        q_members(w, a, r);
        break;
    case SQL_receipts_of_rooms:
        q_receipts(w, a, r);
        break;
    case SQL_rooms_of_users:
        q_rooms(w, a, r);
        break;
    case SQL_own_events_of_users:
        q_own(w, a, r);
        break;
    case SQL_account_data_of_users:
        q_account(w, a, r);
        break;
    case SQL_tags_of_users:
        q_tags(w, a, r);
        break;
    case SQL_push_rules_of_users:
        q_rules(w, a, r);
        break;
    case SQL_ignored_of_users:
        q_pairs((pairs *)&w->ignored, a, r, "ss");
        break;
    case SQL_features_of_users:
        q_pairs((pairs *)&w->features, a, r, "ss");
        break;
    case SQL_full_presence_of_users:
        q_pairs((pairs *)&w->full_presence, a, r, "si");
        break;
    case SQL_filters_by_id:
        q_filters(w, a, r);
        break;
    case SQL_unread_of_users:
        q_unread(w, a, r);
        break;
    case SQL_to_device_of_devices:
        q_inbox(w, a, r);
        break;
    case SQL_to_device_delete:
        q_inbox_delete(w, a);
        break;
    case SQL_keys_of_devices:
        q_keys(w, a, r);
        break;
    case SQL_device_list_rows:
        q_dl(w, a, r, 0);
        break;
    case SQL_signatures_since:
        q_dl(w, a, r, 2);
        break;
    case SQL_device_list_rows_of_users:
        q_dl_users(w, a, r);
        break;
    case SQL_device_lists_pruned:
        row_add(r, "i", w->dl_pruned);
        break;
    case SQL_presence_all:
        for (size_t i = 0; i < w->presence.n; i++) {
            const struct t_presence *p = &w->presence.v[i];
            row_add(r, "ssisii", p->user, p->state, p->last_active, p->status, I(p->active), p->stream);
        }
        break;
    case SQL_erased_all:
        for (size_t i = 0; i < w->erased.n; i++)
            row_add(r, "s", w->erased.v[i].a);
        break;
    case SQL_partial_rooms:
        for (size_t i = 0; i < w->partial.n; i++)
            row_add(r, "si", w->partial.v[i].a, w->partial.v[i].n);
        break;
    case SQL_room_facts:
        for (size_t i = 0; i < w->facts.n; i++)
            row_add(r, "sii", w->facts.v[i].a, I(w->facts.v[i].n & 1), I(w->facts.v[i].n >> 1));
        break;
    case SQL_relation_bundles:
        for (size_t k = 0; k < a->v[0].count; k++)
            q_bundle(w, a->v[0].t[k], r);
        break;
    case SQL_auth_tokens:
        q_tokens(w, a, r);
        break;
    case SQL_auth_users:
        q_auth_users(w, a, r);
        break;
    case SQL_auth_devices:
        q_auth_devices(w, a, r);
        break;
    case SQL_sequences:
        for (size_t i = 0; i < w->sequences.n; i++)
            row_add(r, "ii", I(i), w->sequences.v[i].n);
        break;
    default:
        break; /* other statements find nothing */
    }
}

void pg_exec(struct pg *pg, enum pg_stmt stmt, struct pg_args *args, pg_done_fn *done, void *arg)
{
    struct world *w = (struct world *)(void *)pg;
    struct answer *x = xcalloc(1, sizeof *x);
    *x = (struct answer){stmt, done, arg, xcalloc(1, sizeof(struct pg_result))};
    w->issued[stmt]++;
    w->last_targets = args->n ? args->v[0].count : 0;
    query(w, stmt, args, x->r);
    args_free(args);
    vec_push(&w->answers, x);
}
const char *pg_stmt_name(enum pg_stmt s)
{
    (void)s;
    return "statement";
}

static void deliver(struct world *w, struct answer *x, int err)
{
    if (!err && w->fail[x->stmt] > 0) {
        w->fail[x->stmt]--;
        err = -ERR_DB;
    }
    /* As the pool does: what returns no rows has no result. */
    x->done(x->arg, err, err || x->stmt == SQL_to_device_delete ? NULL : x->r);
    result_free(x->r);
    free(x);
}

size_t world_deliver(struct world *w)
{
    VEC(struct answer *) due = {0};
    size_t n = 0;
    for (size_t i = 0; i < w->answers.n; i++) {
        if (w->held[w->answers.v[i]->stmt])
            w->answers.v[n++] = w->answers.v[i];
        else
            vec_push(&due, w->answers.v[i]);
    }
    w->answers.n = n;
    for (size_t i = 0; i < due.n; i++)
        deliver(w, due.v[w->reversed ? due.n - 1 - i : i], w->fail_last && i + 1 == due.n ? -ERR_DB : 0);
    w->fail_last = w->fail_last && due.n == 0;
    n = due.n;
    vec_free(&due);
    return n;
}

void world_stop_pg(struct world *w)
{
    while (w->answers.n) {
        struct answer *x = w->answers.v[0];
        memmove(w->answers.v, w->answers.v + 1, --w->answers.n * sizeof x);
        deliver(w, x, -ERR_SHUTDOWN);
    }
}

void world_forget_counts(struct world *w)
{
    memset(w->issued, 0, sizeof w->issued);
}

int world_issued(const struct world *w)
{
    int n = 0;
    for (int i = 0; i < SQL_COUNT; i++)
        n += w->issued[i];
    return n;
}
