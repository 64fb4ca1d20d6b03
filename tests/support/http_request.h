/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef TESTS_HTTP_REQUEST_H
#define TESTS_HTTP_REQUEST_H
/* Requests that no front has made. */
#include "chappe/httpd.h"

/* Their texts, copied into a. Query absent: none; as much room as a front leaves at least. */
static inline void request_texts(struct http_req *req, struct arena *a, struct str path, struct str query,
                                 struct str client_ip, struct str user_agent)
{
    enum { ROOM = 32 };
    struct str text = arena_printf(a, "%.*s%s%.*s%.*s%*s", STR_ARG(path), str_absent(query) ? "" : "?",
                                   STR_ARG(query), STR_ARG(client_ip), ROOM, "");
    req->text = text.p;
    req->path_bytes = (uint32_t)path.n;
    req->has_query = !str_absent(query);
    req->own_bytes = (uint32_t)(path.n + req->has_query + query.n);
    req->ip_bytes = (uint8_t)client_ip.n;
    req->room_bytes = ROOM;
    req->agent = NULL;
    if (user_agent.n) {
        req->agent = arena_alloc(a, sizeof *req->agent + user_agent.n);
        req->agent->refs = 1;
        req->agent->n = (uint32_t)user_agent.n;
        req->agent->hash = str_hash128_of(&user_agent, 1);
        memcpy(req->agent->p, user_agent.p, user_agent.n);
    }
}
/* As a front keeps the target of a client that asks again: what is not the value of since is apart. */
static inline void request_share(struct http_req *req, struct arena *a)
{
    struct str before, since, after, ip = http_client_ip(req);
    if (!http_query_since(req, &before, &since, &after))
        return;
    size_t n = req->path_bytes + 1 + before.n;
    struct http_text *form = arena_alloc(a, sizeof *form + n + after.n);
    form->refs = 1;
    form->n = (uint32_t)(n + after.n);
    memcpy(form->p, req->text, n);
    if (after.n)
        memcpy(form->p + n, after.p, after.n);
    const struct str pieces[] = {str_n(form->p, n), str_n(form->p + n, after.n)};
    form->hash = str_hash128_of(pieces, 2);
    req->text = arena_printf(a, "%.*s%.*s%*s", STR_ARG(since), STR_ARG(ip), req->room_bytes, "").p;
    req->own_bytes = (uint32_t)since.n;
    req->before_bytes = (uint16_t)n;
    req->form = form;
}
#endif
