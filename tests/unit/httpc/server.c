/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* See the header. Blocking sockets with a receive timeout, so that no thread outlives server_stop for long.
 */
#include "server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { REQUEST_MAX = 256 * 1024, PORT_FROM = 15260 /* the first free one from here */ };

static atomic_int accepted, threads;
static atomic_bool stopping;
static int listeners[2];
static pthread_t acceptors[2];

static bool put(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k <= 0)
            return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

static bool puts_(int fd, const char *s)
{
    return put(fd, s, strlen(s));
}

static bool answer(int fd, const char *status, const char *body, size_t n)
{
    char head[128];
    snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n", status, n);
    return puts_(fd, head) && put(fd, body, n);
}

/* Reads one request, its body included; its length, or 0. */
static size_t read_request(int fd, char *p)
{
    size_t n = 0;
    for (;;) {
        ssize_t k = recv(fd, p + n, REQUEST_MAX - 1 - n, 0);
        if (k <= 0)
            return 0;
        n += (size_t)k;
        p[n] = '\0';
        const char *end = strstr(p, "\r\n\r\n"), *length = strcasestr(p, "\r\ncontent-length:");
        if (!end)
            continue;
        size_t body = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
        if (n >= (size_t)(end - p) + 4 + body)
            return n;
    }
}

static void endless(int fd, const char *head, const char *part, int pause_ms)
{
    bool open = puts_(fd, head);
    while (open && !stopping) {
        open = puts_(fd, part);
        if (pause_ms)
            usleep((unsigned)pause_ms * 1000);
    }
}

/* One answer; false when the connection is to be closed. */
static bool behave(int fd, char *path, const char *request, size_t n)
{
    char text[32];
    if (strcmp(path, "/echo") == 0)
        return answer(fd, "200 OK", request, n);
    if (strcmp(path, "/count") == 0)
        return answer(fd, "200 OK", text, (size_t)snprintf(text, sizeof text, "%d", accepted));
    if (strcmp(path, "/named") == 0)
        return puts_(fd, "HTTP/1.1 200 OK\r\nsErVeR:  Synapse/1.157.1 \r\nContent-Length: 0\r\n\r\n");
    if (strcmp(path, "/teapot") == 0)
        return answer(fd, "418 Short and stout", "steam", 5);
    if (strcmp(path, "/redirect") == 0)
        return puts_(fd, "HTTP/1.1 302 Found\r\nLocation: /echo\r\nContent-Length: 0\r\n\r\n");
    if (strncmp(path, "/after?", 7) == 0) {
        char head[128];
        for (char *blank; (blank = strchr(path, '_'));)
            *blank = ' ';
        snprintf(head, sizeof head, "HTTP/1.1 429 Later\r\nretry-AFTER: %s\r\nContent-Length: 0\r\n\r\n",
                 path + 7);
        return puts_(fd, head);
    }
    if (strcmp(path, "/slow") == 0) {
        usleep(400000);
        return answer(fd, "200 OK", "late", 4);
    }
    if (strcmp(path, "/idle") == 0)
        answer(fd, "200 OK", "bye", 3);
    else if (strcmp(path, "/declared") == 0)
        puts_(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\nxxxx");
    else if (strcmp(path, "/drip") == 0)
        endless(fd, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", "x", 20);
    else if (strcmp(path, "/endless") == 0)
        endless(fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "10\r\n0123456789abcdef\r\n", 0);
    else if (strcmp(path, "/headers") == 0)
        endless(fd, "HTTP/1.1 200 OK\r\n", "X-More: 0123456789012345678901234567890123456789\r\n", 0);
    else if (strcmp(path, "/garbage") == 0)
        puts_(fd, "\x01\x02 this is no HTTP\r\n\r\n");
    else if (strcmp(path, "/partial") == 0)
        puts_(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this");
    return false;
}

static void *serve(void *arg)
{
    int fd = (int)(long)arg;
    char *request = malloc(REQUEST_MAX);
    for (size_t n; !stopping && (n = read_request(fd, request)) > 0;) {
        char path[64] = "";
        sscanf(request, "%*s %63s", path);
        if (!behave(fd, path, request, n))
            break;
    }
    free(request);
    close(fd);
    threads--;
    return NULL;
}

static void *accept_loop(void *arg)
{
    int fd = (int)(long)arg;
    for (;;) {
        int c = accept(fd, NULL, NULL);
        if (c < 0)
            return NULL;
        struct timeval t = {.tv_sec = 5};
        setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
        pthread_t thread;
        accepted++;
        threads++;
        if (pthread_create(&thread, NULL, serve, (void *)(long)c) != 0)
            abort();
        pthread_detach(thread);
    }
}

int server_start(struct server *s)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(s->unix_path, sizeof s->unix_path, "/tmp/chappe-test-httpc-%d.sock", (int)getpid());
    memcpy(un.sun_path, s->unix_path, sizeof un.sun_path);
    unlink(s->unix_path);
    stopping = false;
    listeners[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    listeners[1] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listeners[1], (struct sockaddr *)&un, sizeof un) != 0)
        return -1;
    s->port = PORT_FROM;
    while (in.sin_port = htons((uint16_t)s->port), bind(listeners[0], (struct sockaddr *)&in, sizeof in) != 0)
        if (++s->port == PORT_FROM + 30)
            return -1;
    for (long i = 0; i < 2; i++)
        if (listen(listeners[i], 128) != 0 ||
            pthread_create(&acceptors[i], NULL, accept_loop, (void *)(long)listeners[i]) != 0)
            return -1;
    return 0;
}

void server_stop(struct server *s)
{
    stopping = true;
    for (int i = 0; i < 2; i++) {
        shutdown(listeners[i], SHUT_RDWR);
        pthread_join(acceptors[i], NULL);
        close(listeners[i]);
    }
    unlink(s->unix_path);
    for (int i = 0; i < 600 && threads > 0; i++)
        usleep(10000);
}
