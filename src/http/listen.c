/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Listening sockets. All are opened before anything is served, so that a taken port is an error at start.
 *
 * With several fronts each TCP listener gets one socket per front (SO_REUSEPORT: the kernel spreads
 * connections); a first socket without it is bound and let go, because two processes of one user could
 * otherwise share a port unseen. A UNIX socket cannot be shared that way: every front accepts on a duplicate
 * of one. A stale UNIX socket is told from a live one by connecting to it. A bind that finds the port taken
 * is tried again for a second: sockets of a process that used io_uring outlive it for some tens of
 * milliseconds.
 */
#include "http_int.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { BACKLOG = 4096, BIND_TRIES = 20, BIND_PAUSE_MS = 50 };

struct address {
    struct sockaddr_storage sa;
    socklen_t n;
};

static bool address_parse(struct str text, int port, struct address *a)
{
    char z[INET6_ADDRSTRLEN];
    *a = (struct address){0};
    if (text.n >= sizeof z)
        return false;
    if (text.n)
        memcpy(z, text.p, text.n);
    z[text.n] = 0;
    struct sockaddr_in *v4 = (struct sockaddr_in *)&a->sa;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a->sa;
    if (text.n == 0) /* Twisted's way of saying "any" */
        memcpy(z, "0.0.0.0", 8);
    if (str_eq(text, STR("localhost")))
        memcpy(z, "127.0.0.1", 10);
    if (inet_pton(AF_INET, z, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        a->n = sizeof *v4;
        return true;
    }
    if (inet_pton(AF_INET6, z, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        a->n = sizeof *v6;
        return true;
    }
    return false;
}

static int bind_patiently(int fd, const struct address *a)
{
    for (int i = 0;; i++) {
        if (bind(fd, (const struct sockaddr *)&a->sa, a->n) == 0)
            return 0;
        if (errno != EADDRINUSE || i == BIND_TRIES)
            return -errno;
        nanosleep(&(struct timespec){.tv_nsec = BIND_PAUSE_MS * 1000000L}, NULL);
    }
}

/* A bound TCP socket, or -errno. */
static int tcp_socket(const struct address *a, bool v6only, bool reuse_port)
{
    int one = 1;
    int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* accepted sockets inherit it */
    if (reuse_port)
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    if (v6only)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    int rc = bind_patiently(fd, a);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return fd;
}

static void add(struct listen_set *s, int fd, size_t listener, size_t front)
{
    struct listen_fd lf = {fd, listener, front};
    vec_push(&s->fds, lf);
}

static int port_of(int fd)
{
    struct sockaddr_storage sa = {0};
    socklen_t n = sizeof sa;
    if (getsockname(fd, (struct sockaddr *)&sa, &n) != 0)
        return 0;
    return ntohs(sa.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&sa)->sin6_port
                                          : ((struct sockaddr_in *)&sa)->sin_port);
}

static bool lists(const struct config_listener *l, struct str address)
{
    for (size_t i = 0; i < l->bind_count; i++) {
        if (str_eq(l->bind[i], address))
            return true;
    }
    return false;
}

/* One address of one listener, for every front. *port is the listener's port, learned here when it was 0. */
static int open_tcp(struct listen_set *s, const struct config_listener *l, size_t listener, struct str text,
                    size_t fronts, int *port, struct err *e)
{
    struct address a;
    if (!address_parse(text, *port, &a))
        return err_set(e, ERR_CONFIG, "listener %zu: '%.*s' is not an IP address", listener, STR_ARG(text));
    bool v6only = a.sa.ss_family == AF_INET6 && lists(l, STR("0.0.0.0"));
    size_t sockets = l->metrics ? 1 : fronts; /* metrics come from the first front */
    if (sockets > 1) {
        int probe = tcp_socket(&a, v6only, false);
        if (probe >= 0) {
            *port = port_of(probe);
            address_parse(text, *port, &a);
            close(probe);
        } else if (probe == -EADDRINUSE) {
            return err_set(e, ERR_IO, "cannot listen on %.*s port %d: %s", STR_ARG(text), *port,
                           strerror(-probe));
        }
    }
    for (size_t k = 0; k < sockets; k++) {
        int fd = tcp_socket(&a, v6only, sockets > 1);
        if ((fd == -EAFNOSUPPORT || fd == -EADDRNOTAVAIL) && v6only)
            return 0; /* a host without IPv6 serves IPv4 */
        if (fd >= 0 && listen(fd, BACKLOG) != 0) {
            int saved = errno;
            close(fd);
            fd = -saved;
        }
        if (fd < 0)
            return err_set(e, ERR_IO, "cannot listen on %.*s port %d: %s", STR_ARG(text), *port,
                           strerror(-fd));
        *port = port_of(fd);
        address_parse(text, *port, &a);
        add(s, fd, listener, k);
    }
    return 0;
}

/* True if somebody answers there. */
static bool unix_alive(const struct sockaddr_un *sa)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return true;
    /* Only a refusal means that nobody is there: a full backlog or missing rights do not. */
    bool alive = connect(fd, (const struct sockaddr *)sa, sizeof *sa) == 0 ||
                 (errno != ECONNREFUSED && errno != ENOENT);
    close(fd);
    return alive;
}

static int open_unix(struct listen_set *s, const struct config_listener *l, size_t listener, size_t fronts,
                     struct err *e)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct stat st;
    if (l->path.n >= sizeof sa.sun_path)
        return err_set(e, ERR_CONFIG, "listener %zu: path is longer than %zu bytes", listener,
                       sizeof sa.sun_path - 1);
    memcpy(sa.sun_path, l->path.p, l->path.n);
    if (lstat(sa.sun_path, &st) == 0) {
        if (!S_ISSOCK(st.st_mode))
            return err_set(e, ERR_IO, "%s exists and is not a socket", sa.sun_path);
        if (unix_alive(&sa))
            return err_set(e, ERR_IO, "%s: another process listens there", sa.sun_path);
        unlink(sa.sun_path);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof sa) != 0) {
        int saved = errno;
        if (fd >= 0)
            close(fd);
        return err_set(e, ERR_IO, "cannot listen on %s: %s", sa.sun_path, strerror(saved));
    }
    add(s, fd, listener, 0); /* from here on the name is ours to remove */
    if (chmod(sa.sun_path, (mode_t)l->mode & 07777) != 0 || listen(fd, BACKLOG) != 0)
        return err_set(e, ERR_IO, "cannot listen on %s: %s", sa.sun_path, strerror(errno));
    for (size_t k = 1; k < (l->metrics ? 1 : fronts); k++) {
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (copy < 0)
            return err_set(e, ERR_IO, "cannot listen on %s: %s", sa.sun_path, strerror(errno));
        add(s, copy, listener, k);
    }
    return 0;
}

int listen_open(struct listen_set *s, const struct config *cfg, size_t fronts, int *ports, struct err *e)
{
    for (size_t i = 0; i < cfg->listeners_count; i++) {
        const struct config_listener *l = &cfg->listeners[i];
        size_t before = s->fds.n;
        int rc = 0;
        ports[i] = l->port;
        if (!str_absent(l->path)) {
            rc = open_unix(s, l, i, fronts, e);
            ports[i] = 0;
        }
        for (size_t j = 0; str_absent(l->path) && j < l->bind_count && rc == 0; j++)
            rc = open_tcp(s, l, i, l->bind[j], fronts, &ports[i], e);
        if (rc)
            return rc;
        if (s->fds.n == before)
            return err_set(e, ERR_CONFIG, "listener %zu: no address to listen on", i);
    }
    return 0;
}

void listen_close(struct listen_set *s, const struct config *cfg)
{
    for (size_t i = 0; i < s->fds.n; i++) {
        if (s->fds.v[i].fd >= 0)
            close(s->fds.v[i].fd);
    }
    for (size_t i = 0; i < s->fds.n; i++) {
        const struct config_listener *l = &cfg->listeners[s->fds.v[i].listener];
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        if (str_absent(l->path) || s->fds.v[i].front != 0)
            continue;
        memcpy(sa.sun_path, l->path.p, l->path.n);
        if (!unix_alive(&sa)) /* a successor may have taken the name over */
            unlink(sa.sun_path);
    }
    vec_free(&s->fds);
}
