/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * See the header. The server is a direct child in the foreground, so that its end is seen by waitpid and
 * nothing has to be found again by name or pid file.
 */
#include "support/pg_cluster.h"
#include "support/temp_dir.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <libpq-fe.h>
#include <netinet/in.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static bool find_programs(char *bin, size_t bin_bytes)
{
    glob_t g;
    if (glob("/usr/lib/postgresql/*/bin/initdb", 0, NULL, &g) != 0)
        return false;
    const char *newest = g.gl_pathv[g.gl_pathc - 1]; /* sorted; versions have two digits */
    snprintf(bin, bin_bytes, "%.*s", (int)(strrchr(newest, '/') - newest), newest);
    globfree(&g);
    return true;
}

bool pg_cluster_available(void)
{
    char bin[256];
    return find_programs(bin, sizeof bin);
}

static pid_t run(const struct pg_cluster *c, const char *const *argv)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    char program[512], log[512];
    snprintf(program, sizeof program, "%s/%s", c->bin, argv[0]);
    snprintf(log, sizeof log, "%s/log", c->dir);
    if (getuid() == 0 && (setgroups(0, NULL) != 0 || setgid(c->gid) != 0 || setuid(c->uid) != 0))
        _exit(126);
    prctl(PR_SET_PDEATHSIG, SIGQUIT);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd < 0 || chdir(c->dir) != 0)
        _exit(126);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    setenv("LC_ALL", "C", 1);
    execv(program, (char *const *)argv);
    _exit(127);
}

static bool port_is_free(int port)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    bool is_free = bind(s, (struct sockaddr *)&at, sizeof at) == 0;
    close(s);
    return is_free;
}

int pg_cluster_init(struct pg_cluster *c, int port_from)
{
    memset(c, 0, sizeof *c);
    if (!find_programs(c->bin, sizeof c->bin))
        return -1;
    for (c->port = port_from; !port_is_free(c->port); c->port++)
        if (c->port == port_from + 9)
            return -1;
    c->uid = getuid();
    c->gid = getgid();
    if (c->uid == 0) {
        const struct passwd *pw = getpwnam("postgres");
        if (!pw)
            pw = getpwnam("nobody");
        if (!pw)
            return -1;
        c->uid = pw->pw_uid;
        c->gid = pw->pw_gid;
    }
    if (!temp_dir(c->dir, sizeof c->dir, "test-pg") || (getuid() == 0 && chown(c->dir, c->uid, c->gid) != 0))
        return -1;
    const char *argv[] = {"initdb", "-D", "data", "-U",         "chappe", "-A",
                          "trust",  "-E", "UTF8", "--locale=C", "-N",     NULL};
    int status;
    pid_t pid = run(c, argv);
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0 ? 0 : -1;
}

int pg_cluster_spawn(struct pg_cluster *c)
{
    char port[16];
    snprintf(port, sizeof port, "%d", c->port);
    const char *argv[] = {"postgres",
                          "-D",
                          "data",
                          "-k",
                          c->dir,
                          "-p",
                          port,
                          "-c",
                          "listen_addresses=127.0.0.1",
                          "-c",
                          "fsync=off",
                          "-c",
                          "max_connections=40",
                          "-c",
                          "shared_buffers=16MB",
                          NULL};
    c->pid = run(c, argv);
    return c->pid > 0 ? 0 : -1;
}

int pg_cluster_wait(struct pg_cluster *c)
{
    char conninfo[512];
    snprintf(conninfo, sizeof conninfo, "host=%s port=%d user=chappe dbname=postgres", c->dir, c->port);
    for (int i = 0; i < 300; i++) {
        if (PQping(conninfo) == PQPING_OK)
            return 0;
        if (pg_cluster_stopped(c))
            return -1;
        usleep(100000);
    }
    return -1;
}

void pg_cluster_signal_stop(struct pg_cluster *c)
{
    if (c->pid)
        kill(c->pid, SIGINT);
}

bool pg_cluster_stopped(struct pg_cluster *c)
{
    if (c->pid && waitpid(c->pid, NULL, WNOHANG) == c->pid)
        c->pid = 0;
    return c->pid == 0;
}

void pg_cluster_stop(struct pg_cluster *c)
{
    pg_cluster_signal_stop(c);
    for (int i = 0; !pg_cluster_stopped(c); i++) {
        if (i == 100)
            kill(c->pid, SIGQUIT);
        usleep(100000);
    }
}

void pg_cluster_remove(struct pg_cluster *c)
{
    pg_cluster_stop(c);
    if (strncmp(c->dir, "/tmp/chappe-test-pg-", 20) != 0)
        return;
    const char *argv[] = {"rm", "-rf", "--", c->dir, NULL};
    pid_t pid = fork();
    if (pid == 0) {
        execv("/bin/rm", (char *const *)argv);
        _exit(127);
    }
    if (pid > 0)
        waitpid(pid, NULL, 0);
}
