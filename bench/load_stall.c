/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Devices of the load generator that ask for much and do not read: what a telephone does that has lost its
 * network, and what who wishes a server ill does on purpose.
 *
 * Each has a small receive buffer, and announces segments as small as those of a real network; with
 * loopback's of 64 KiB the server's kernel would take megabytes for each connection, and no server would
 * notice anything. Nothing is ever taken out of the buffer: the head of the answer is peeked at, for the
 * length. A device is stuck from the first bytes on, and dropped when the server ends the connection. They
 * come back as ordinary devices of the workers (load_device.c), which check what they get.
 */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RECEIVE_BYTES = 4096, SEGMENT_BYTES = 1400, PEEK_BYTES = 2048, EVENTS_AT_ONCE = 64 };

enum reader_state { READER_AWAY, READER_ASKED, READER_STUCK, READER_WHOLE, READER_DROPPED };

struct reader {
    int fd;
    enum reader_state state;
    uint64_t bytes; /* of its answer, with the head */
};

struct stall {
    const struct options *o;
    char **lines;
    struct reader *readers;
    int epoll;
    uint64_t begun_ns, first_drop_ns, last_drop_ns;
};

struct stall *stall_new(const struct options *o, char **lines)
{
    struct stall *s = need(calloc(1, sizeof(*s)));
    s->o = o;
    s->lines = lines;
    s->readers = need(calloc(o->stalled, sizeof(*s->readers)));
    for (unsigned i = 0; i < o->stalled; i++)
        s->readers[i].fd = -1;
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (s->epoll < 0)
        die(STATUS_ENVIRONMENT, "epoll: %s", strerror(errno));
    return s;
}

int stall_epoll(const struct stall *s)
{
    return s->epoll;
}

static void reader_close(struct reader *r, enum reader_state state)
{
    if (r->fd >= 0)
        close(r->fd);
    r->fd = -1;
    r->state = state;
}

static void reader_ask(struct stall *s, unsigned i, const char *request, size_t len)
{
    struct reader *r = &s->readers[i];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(s->o->port)};
    /* Edges, because what is there stays there. */
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = r};
    int receive = RECEIVE_BYTES, segment = SEGMENT_BYTES;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    r->fd = device_socket(s->o, i, 0);
    r->state = READER_ASKED;
    if (setsockopt(r->fd, SOL_SOCKET, SO_RCVBUF, &receive, sizeof(receive)) != 0 ||
        setsockopt(r->fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof(segment)) != 0)
        die(STATUS_ENVIRONMENT, "a small receive buffer: %s", strerror(errno));
    if (connect(r->fd, (struct sockaddr *)&to, sizeof(to)) != 0)
        die(STATUS_ENVIRONMENT, "connect to port %u: %s", s->o->port, strerror(errno));
    if (send(r->fd, request, len, MSG_NOSIGNAL) != (ssize_t)len)
        die(STATUS_ENVIRONMENT, "a device that stalls could not ask: %s", strerror(errno));
    if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, r->fd, &e) != 0)
        die(STATUS_ENVIRONMENT, "epoll_ctl: %s", strerror(errno));
}

void stall_begin(struct stall *s)
{
    char request[REQUEST_MAX], token[REQUEST_MAX / 4], *filter = percent_encode(s->o->filter);
    s->begun_ns = now_ns();
    for (unsigned i = 0; i < s->o->stalled; i++) {
        snprintf(token, sizeof(token), "%.*s", (int)strcspn(s->lines[i], " \t"), s->lines[i]);
        char *end = sync_request(request, s->o, filter, token, s->o->since, 0);
        reader_ask(s, i, request, (size_t)(end - request));
    }
    free(filter);
}

/* What has come of the answer, without taking it. */
static void reader_peek(struct reader *r)
{
    struct reply reply = {0};
    ssize_t n = recv(r->fd, reply_room(&reply, PEEK_BYTES), PEEK_BYTES, MSG_PEEK | MSG_DONTWAIT);
    enum reply_result result = n > 0 ? reply_advance(&reply, (size_t)n) : REPLY_MORE;
    if (result == REPLY_BAD || (reply.body > 0 && reply.status != 200))
        die(STATUS_ENVIRONMENT, "a device that stalls was answered with status %d", reply.status);
    if (result == REPLY_DONE) {
        reader_close(r, READER_WHOLE);
    } else if (reply.body > 0) {
        r->state = READER_STUCK;
        r->bytes = reply.body + reply.body_len + reply.left;
    }
    reply_free(&reply);
}

static void reader_ready(struct stall *s, struct reader *r, uint32_t events)
{
    if (r->state == READER_ASKED)
        reader_peek(r);
    if (!(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) || r->fd < 0)
        return;
    s->last_drop_ns = now_ns() - s->begun_ns;
    if (s->first_drop_ns == 0)
        s->first_drop_ns = s->last_drop_ns;
    reader_close(r, READER_DROPPED);
}

void stall_read(struct stall *s)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    int n = epoll_wait(s->epoll, events, EVENTS_AT_ONCE, 0);
    for (int i = 0; i < n; i++)
        reader_ready(s, events[i].data.ptr, events[i].events);
}

bool stall_settled(const struct stall *s)
{
    for (unsigned i = 0; i < s->o->stalled; i++)
        if (s->readers[i].state == READER_ASKED)
            return false;
    return true;
}

struct stall_counts stall_count(const struct stall *s)
{
    struct stall_counts c = {.first_drop_ns = s->first_drop_ns, .last_drop_ns = s->last_drop_ns};
    for (unsigned i = 0; i < s->o->stalled; i++) {
        const struct reader *r = &s->readers[i];
        int taken = 0;
        c.dropped += r->state == READER_DROPPED;
        c.whole += r->state == READER_WHOLE;
        if (r->state != READER_STUCK || ioctl(r->fd, FIONREAD, &taken) != 0)
            continue;
        c.stuck++;
        c.answer_bytes += r->bytes;
        c.taken_bytes += (uint64_t)taken;
    }
    return c;
}

void stall_end(struct stall *s)
{
    for (unsigned i = 0; i < s->o->stalled; i++)
        if (s->readers[i].fd >= 0)
            reader_close(&s->readers[i], READER_AWAY);
}

void stall_free(struct stall *s)
{
    if (s == NULL)
        return;
    stall_end(s);
    close(s->epoll);
    free(s->readers);
    free(s);
}
