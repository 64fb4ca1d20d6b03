/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_HTTPC_H
#define CHAPPE_HTTPC_H
/*
 * HTTP client of the hub (libcurl multi on its loop): replication HTTP API, token introspection, later push
 * gateways. Responses are bounded; no redirects, no proxies of the environment; done is called exactly once,
 * never before httpc_send returns. It may call httpc_send and httpc_stop. A status of any kind is an answer
 * (err 0); err says that there is none: -ERR_TIMEOUT, -ERR_CLOSED, -ERR_LIMIT (too large, or too many
 * requests), -ERR_PROTOCOL (not HTTP), -ERR_PARSE (URL, header with a control byte), -ERR_IO (no connection,
 * name, TLS), -ERR_UNSUPPORTED (an address that the policy forbids), -ERR_SHUTDOWN. Connections are kept
 * alive and shared; HTTP/2 is used where TLS negotiates it, with many requests on one connection.
 */
#include "chappe/ip.h"
#include "chappe/mem.h"
struct uv_loop_s;
struct httpc;
struct httpc_header {
    struct str name, value;
};
struct httpc_req {
    const char *method;   /* "GET", "POST", … */
    struct str url;       /* http:// or https:// */
    struct str unix_path; /* connect through this UNIX socket when present */
    const struct httpc_header *headers;
    size_t headers_count;
    struct str body;           /* absent: none */
    int connect_timeout_ms;    /* 0: 2000 */
    int timeout_ms;            /* whole transfer; 0: 10000 */
    size_t response_bytes_max; /* 0: 1 MiB */
    bool http2_prior_knowledge;
    struct str proxy; /* http://… of a proxy to go through; absent: none. The policy does not apply to it. */
    /* "host:port:address[,address]": where that host is, already looked up; absent: curl looks it up. */
    struct str resolve;
};
struct httpc_res {
    int err; /* 0 or -ERR_x; then the rest is void */
    int status;
    struct str body;   /* borrowed for the callback */
    struct str server; /* the Server header, as far as it is short; absent when there is none; borrowed */
    int64_t retry_after_ms; /* Retry-After as a time from now, at most a day; -1: none */
};
struct httpc_options {
    size_t calls_max; /* requests under way; past it -ERR_LIMIT */
    int host_connections_max, connections_max;
    const struct ip_policy
        *policy;           /* borrowed; NULL: any address. Checked on the address being connected to. */
    struct str user_agent; /* copied */
    bool quiet;            /* the caller logs failures itself */
    bool alike; /* requests differ in URL, address and body alone: handles are used again, which is cheaper */
};
typedef void httpc_done_fn(void *arg, const struct httpc_res *res);
/* options NULL: what suits a few neighbours (replication, introspection). */
int httpc_start(struct httpc **out, struct uv_loop_s *loop, const struct httpc_options *options,
                struct err *e) NODISCARD;
/* Copies everything it needs. */
void httpc_send(struct httpc *c, const struct httpc_req *req, httpc_done_fn *done, void *arg);
/* Every pending request ends with -ERR_SHUTDOWN before this returns; the loop frees the rest in its next
 * turns. */
void httpc_stop(struct httpc **c);
#endif
