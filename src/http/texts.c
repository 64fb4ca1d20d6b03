/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Texts that requests of one front share: user agents, and forms. They are few and long, and every one of
 * tens of thousands of parked polls shows them in its request line. A form is a target without the value of
 * since: clients of one kind send the same but for that.
 *
 * Both are caches by a cheap hash; a text stays as long as somebody has it. A form is kept only when it has
 * been seen twice, one after the other in its place: those that are of one client alone cost nothing then,
 * and stay with their request. Nor is kept what the request line does not show as it is: secrets, and bytes
 * that are escaped.
 */
#include "http_int.h"
#include <stdlib.h>

static struct http_text *text_new(struct str a, struct str b)
{
    struct http_text *x = xmalloc(sizeof *x + a.n + b.n);
    x->refs = 1;
    x->n = (uint32_t)(a.n + b.n) & INT32_MAX;
    x->as_it_is = false;
    memcpy(x->p, a.p, a.n);
    if (b.n)
        memcpy(x->p + a.n, b.p, b.n);
    return x;
}

static struct http_text *text_ref(struct http_text *x)
{
    x->refs++;
    return x;
}

void text_unref(struct http_text **x)
{
    if (*x && --(*x)->refs == 0)
        free(*x);
    *x = NULL;
}

/* ---- user agents ---- */

static struct http_text *agent_new(struct str s)
{
    struct http_text *x = text_new(s, STR(""));
    x->as_it_is = access_as_it_is(s);
    x->hash = str_hash128_of(&s, 1);
    return x;
}

/* Header bytes outside ASCII become U+FFFD each. */
static struct http_text *agent_converted(struct str s)
{
    struct buf b;
    buf_init(&b, SIZE_MAX / 2);
    for (size_t i = 0; i < s.n; i++) {
        if ((unsigned char)s.p[i] < 0x80)
            buf_putc(&b, s.p[i]);
        else
            buf_put(&b, STR("\xef\xbf\xbd"));
    }
    struct http_text *made = agent_new(buf_str(&b));
    buf_fini(&b);
    return made;
}

static bool is_ascii(struct str s)
{
    unsigned char any = 0;
    for (size_t i = 0; i < s.n; i++)
        any |= (unsigned char)s.p[i];
    return any < 0x80;
}

/* Where s would stand: three samples tell common agents apart; those that meet drive each other out, and
 * merely cost memory. */
static struct http_text **agent_place(struct texts *t, struct str s)
{
    uint64_t h = s.n, x;
    for (size_t i = 0; i < 3 && s.n >= sizeof x; i++) {
        memcpy(&x, s.p + (s.n - sizeof x) * i / 2, sizeof x);
        h = (h ^ x) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    return &t->agents[h % AGENTS];
}

struct http_text *texts_agent(struct texts *t, struct str s)
{
    if (s.n == 0)
        return NULL;
    if (!t || s.n > AGENT_BYTES_MAX)
        return is_ascii(s) ? agent_new(s) : agent_converted(s);
    struct http_text **at = agent_place(t, s);
    if (*at && str_eq(str_n((*at)->p, (*at)->n), s))
        return text_ref(*at);
    if (!is_ascii(s))
        return agent_converted(s);
    text_unref(at);
    *at = agent_new(s);
    return text_ref(*at);
}

/* ---- forms ---- */

static uint64_t hash_of(uint64_t h, struct str s)
{
    uint64_t x = 0;
    h ^= s.n;
    for (size_t i = 0; i < s.n; i += sizeof x) {
        if (s.n >= sizeof x) /* the last ones once more, where they fill no word */
            memcpy(&x, s.p + (i + sizeof x <= s.n ? i : s.n - sizeof x), sizeof x);
        else
            memcpy(&x, s.p, s.n);
        h = (h ^ x) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    return h;
}

static bool is_form(const struct form *f, struct str before, struct str after)
{
    return f->text && f->before == before.n && f->text->n == before.n + after.n &&
           memcmp(f->text->p, before.p, before.n) == 0 &&
           (after.n == 0 || memcmp(f->text->p + before.n, after.p, after.n) == 0);
}

struct http_text *texts_form(struct texts *t, struct str before, struct str after, size_t path)
{
    size_t n = before.n + after.n;
    if (n > FORM_BYTES_MAX)
        return NULL;
    uint64_t h = hash_of(hash_of(1, before), after);
    struct form *f = &t->forms[h % FORMS];
    if (is_form(f, before, after))
        return text_ref(f->text);
    if (f->seen != h) {
        f->seen = h;
        return NULL;
    }
    struct str query = str_n(before.p + path + 1, before.n - path - 1);
    if (!access_as_it_is(before) || !access_as_it_is(after) || access_secret(query) || access_secret(after))
        return NULL;
    const struct str pieces[] = {before, after};
    text_unref(&f->text);
    f->text = text_new(before, after);
    f->text->as_it_is = true;
    f->text->hash = str_hash128_of(pieces, 2);
    f->before = (uint16_t)before.n;
    return text_ref(f->text);
}

void texts_fini(struct texts *t)
{
    for (size_t i = 0; i < AGENTS; i++)
        text_unref(&t->agents[i]);
    for (size_t i = 0; i < FORMS; i++)
        text_unref(&t->forms[i].text);
}
