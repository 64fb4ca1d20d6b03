/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
#ifndef CHAPPE_TEST_HTTPC_SERVER_H
#define CHAPPE_TEST_HTTPC_SERVER_H
/*
 * A small HTTP server on threads of its own, one per connection, on a loopback port and on a UNIX socket. The
 * path of a request chooses how it behaves:
 *
 *   /echo      200, keep-alive; the body is the request as it was received
 *   /count     200, keep-alive; the body is the number of connections accepted so far
 *   /teapot    418 with a body
 *   /redirect  302 to /echo
 *   /after?X   429 with "Retry-After: X", where every "_" of X is a blank
 *   /slow      answers after 400 ms
 *   /drip      one byte of the body every 20 ms, for ever
 *   /declared  declares 100 MB
 *   /endless   chunks without end
 *   /headers   headers without end
 *   /garbage   bytes that are no HTTP
 *   /early     closes instead of an answer
 *   /partial   closes in the middle of a body
 *   /idle      200, then closes the connection although it said keep-alive
 */
struct server {
    int port;
    char unix_path[108];
};
int server_start(struct server *s); /* 0 or -1 */
void server_stop(struct server *s); /* once every client is gone */
#endif
