/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Against a real redis-server of our own (UNIX socket, loopback, TLS), killed and started again, and against
 * a fake one that answers in pieces, with nonsense, or not at all.
 */
#include "feed_test.h"

#include "chappe/metrics.h"
#include "support/temp_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PORT = 15310, TLS_PORT = 15311 };

static struct {
    char dir[64], socket[96];
    pid_t pid;
    redisContext *listener, *speaker; /* an observer of what we publish, and a homeserver's voice */
} redis;

/* ---- the server ---- */

static bool redis_available(void)
{
    return system("redis-server --version >/dev/null 2>&1") == 0;
}

static redisContext *redis_dial(const char *password)
{
    redisContext *c = NULL;

    for (int i = 0; i < 1000; i++) {
        c = redisConnectUnix(redis.socket);
        if (c && !c->err) {
            redisReply *r = password ? redisCommand(c, "AUTH %s", password) : redisCommand(c, "PING");
            bool ok = r && r->type == REDIS_REPLY_STATUS;

            freeReplyObject(r);
            if (ok)
                return c;
        }
        redisFree(c);
        usleep(5000);
    }
    fail_msg("redis-server does not start");
    return NULL;
}

static void redis_down(void)
{
    redisFree(redis.listener);
    redisFree(redis.speaker);
    redis.listener = redis.speaker = NULL;
    if (redis.pid > 0) {
        kill(redis.pid, SIGKILL);
        waitpid(redis.pid, NULL, 0);
    }
    redis.pid = 0;
    unlink(redis.socket);
}

static void redis_up(const char *const *extra, const char *password)
{
    const char *argv[40] = {"redis-server", "--save", "",        "--appendonly", "no",        "--bind",
                            "127.0.0.1",    "--dir",  redis.dir, "--unixsocket", redis.socket};
    char port[16];
    int n = 11;

    if (redis.pid > 0) /* a test failed */
        redis_down();
    unlink(redis.socket);
    snprintf(port, sizeof port, "%d", PORT);
    argv[n++] = "--port";
    argv[n++] = port;
    argv[n++] = "--logfile";
    argv[n++] = "log";
    for (; extra && *extra; extra++)
        argv[n++] = *extra;
    redis.pid = fork();
    if (redis.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    redis.speaker = redis_dial(password);
    redis.listener = redis_dial(password);
    redisReply *r = redisCommand(redis.listener, "SUBSCRIBE example.com example.com/USER_IP");
    freeReplyObject(r);
    r = NULL;
    assert_int_equal(redisGetReply(redis.listener, (void **)&r), REDIS_OK); /* the second confirmation */
    freeReplyObject(r);
}

/* Publishes as the homeserver would; how many heard it. */
static long long say(const char *text)
{
    redisReply *r = redisCommand(redis.speaker, "PUBLISH example.com %b", text, strlen(text));

    assert_non_null(r);
    assert_int_equal(r->type, REDIS_REPLY_INTEGER);
    long long n = r->integer;
    freeReplyObject(r);
    return n;
}

/* The next message on our channels that we did not say ourselves, "" when none comes in time. Runs the feed's
 * loop. */
static const char *heard(struct fix *x)
{
    static char text[4096];
    int64_t end = clock_mono_ms() + 4000;
    redisReply *r;

    for (;;) {
        r = NULL;
        assert_int_equal(redisGetReplyFromReader(redis.listener, (void **)&r), REDIS_OK);
        if (!r) {
            if (clock_mono_ms() > end)
                return "";
            turns(x, 2);
            fcntl(redis.listener->fd, F_SETFL, fcntl(redis.listener->fd, F_GETFL) | O_NONBLOCK);
            redis.listener->flags &= ~REDIS_BLOCK;
            assert_int_equal(redisBufferRead(redis.listener), REDIS_OK);
            continue;
        }
        bool ip = strcmp(r->element[1]->str, "example.com/USER_IP") == 0;
        const char *m = r->element[2]->str;
        bool own = !ip && (strncmp(m, "RDATA ", 6) == 0 || strncmp(m, "POSITION ", 9) == 0);

        if (strncmp(m, "CLEAR_USER_SYNC ", 16) == 0 && x->f) /* of a feed before this one */
            own = true;
        snprintf(text, sizeof text, "%s%s", ip ? "(ip) " : "", m);
        freeReplyObject(r);
        if (!own)
            return text;
    }
}

static struct fix *fix_on(void (*change)(struct config *))
{
    struct fix *x = fix_new_quiet();
    struct err e = {0};

    x->cfg.redis.path = str_of(redis.socket);
    x->t.live_wait_ms = x->f->t.live_wait_ms = 50;
    if (change)
        change(&x->cfg);
    assert_int_equal(feed_connect(x->f, &e), 0);
    return x;
}

/* ---- with the real server ---- */

static void rows_arrive(void **state)
{
    struct fix *x;

    (void)state;
    redis_up(NULL, NULL);
    x = fix_on(NULL);
    assert_string_equal(heard(x), "REPLICATE ");
    assert_int_equal(say("POSITION events ep1 100 100"), 2);
    say("RDATA events ep1 batch [\"ev\",[\"$\\u00e9\",\"!r\",\"t\",null,null,null,null,false,false]]");
    say("RDATA events ep1 101 [\"state-all\",[\"!r\"]]");
    until(x, seen_has(x, "events 2 101"));
    until(x, seen_has(x, "state live"));
    assert_true(seen_has(x, "events 2 101 ev:$\xc3\xa9 state-all:!r\nend\n"));
    assert_int_equal(metric_get(M_feed_connected), 1);
    fix_free(&x);
    redis_down();
}

static void a_long_row_arrives(void **state)
{
    enum { N = 1 << 20 };
    struct fix *x;
    char *text = malloc(N + 128);

    (void)state;
    assert_non_null(text);
    redis_up(NULL, NULL);
    x = fix_on(NULL);
    assert_string_equal(heard(x), "REPLICATE ");
    say("POSITION typing master 0 0");
    int n = snprintf(text, N + 128, "RDATA typing master 8 [\"!r\",[\"");
    memset(text + n, 'u', N);
    memcpy(text + n + N, "\"]]", 4);
    say(text);
    say("RDATA typing master 9 [\"!s\",[]]");
    until(x, seen_has(x, "typing 1 9 !s=0"));
    assert_true(seen_has(x, "typing 1 8 !r=1\n"));
    free(text);
    fix_free(&x);
    redis_down();
}

static void killed_and_started_again(void **state)
{
    struct fix *x;
    int64_t reconnects = metric_get(M_feed_reconnects);

    (void)state;
    redis_up(NULL, NULL);
    x = fix_on(NULL);
    assert_string_equal(heard(x), "REPLICATE ");
    feed_presence_start(x->f, STR("@a:example.com"), STR("DEV"), STR("online"));
    assert_true(strncmp(heard(x), "USER_SYNC ", 10) == 0);
    say("POSITION events ep1 100 100");
    say("RDATA events ep1 101 [\"state-all\",[\"!r\"]]");
    until(x, seen_has(x, "state live") && seen_has(x, "events 2 101"));
    redis_down();
    until(x, seen_has(x, "state disconnected"));
    assert_int_equal(feed_state(x->f), FEED_DISCONNECTED);
    assert_int_equal(metric_get(M_feed_connected), 0);
    turns(x, 60); /* some attempts fail */
    buf_reset(&x->seen);
    redis_up(NULL, NULL);
    /* devices that sync are announced again, before the positions are asked for */
    assert_true(strncmp(heard(x), "USER_SYNC ", 10) == 0);
    assert_string_equal(heard(x), "REPLICATE ");
    assert_int_equal(metric_get(M_feed_reconnects), reconnects + 1);
    say("POSITION events ep1 120 120");
    until(x, x->asked.n == 1);
    assert_true(seen_has(x, "fetch events ep1 101 120\n"));
    answer(x, 120, "");
    say("RDATA events ep1 121 [\"state-all\",[\"!s\"]]");
    until(x, seen_has(x, "events 2 121 state-all:!s"));
    until(x, seen_has(x, "state live"));
    fix_free(&x);
    redis_down();
}

static void set_password(struct config *cfg)
{
    cfg->redis.password = STR("p w\"1");
    cfg->redis.dbid = 3;
}

static void set_wrong_password(struct config *cfg)
{
    cfg->redis.password = STR("hunter2");
}

static void set_dbid_too_high(struct config *cfg)
{
    set_password(cfg);
    cfg->redis.dbid = 99;
}

static void passwords_and_databases(void **state)
{
    static const char *const extra[] = {"--requirepass", "p w\"1", NULL};
    struct fix *x;

    (void)state;
    redis_up(extra, "p w\"1");
    x = fix_on(set_password);
    assert_string_equal(heard(x), "REPLICATE ");
    fix_free(&x);
    x = fix_on(set_wrong_password);
    until(x, logged("AUTH refused"));
    assert_false(logged("hunter2"));
    assert_int_equal(feed_state(x->f), FEED_CONNECTING);
    fix_free(&x);
    x = fix_on(NULL); /* none given */
    until(x, logged("SUBSCRIBE refused"));
    fix_free(&x);
    x = fix_on(set_dbid_too_high);
    until(x, logged("SELECT refused"));
    until(x, logged("outbound connection"));
    assert_false(logged("subscriber connection")); /* it never selects */
    fix_free(&x);
    redis_down();
}

static void set_tcp(struct config *cfg)
{
    cfg->redis.path = STR_ABSENT;
    cfg->redis.host = STR("localhost"); /* ::1 may be refused first */
    cfg->redis.port = PORT;
}

static void over_tcp(void **state)
{
    struct fix *x;

    (void)state;
    redis_up(NULL, NULL);
    x = fix_on(set_tcp);
    assert_string_equal(heard(x), "REPLICATE ");
    fix_free(&x);
    redis_down();
}

static char ca_file[96], other_ca_file[96];

static void set_tls(struct config *cfg)
{
    cfg->redis.path = STR_ABSENT;
    cfg->redis.host = STR("127.0.0.1");
    cfg->redis.port = TLS_PORT;
    cfg->redis.use_tls = true;
    cfg->redis.ca_file = str_of(ca_file);
}

static void set_tls_other_ca(struct config *cfg)
{
    set_tls(cfg);
    cfg->redis.ca_file = str_of(other_ca_file);
}

static void set_tls_unverified(struct config *cfg)
{
    set_tls_other_ca(cfg);
    cfg->redis_verify_tls = false;
}

static void set_tls_wrong_name(struct config *cfg)
{
    set_tls(cfg);
    cfg->redis.host = STR("localhost");
}

static void over_tls(void **state)
{
    char command[1200], port[16], cert[96], key[96];
    struct fix *x;
    struct err e;

    (void)state;
    snprintf(cert, sizeof cert, "%s/cert.pem", redis.dir);
    snprintf(key, sizeof key, "%s/key.pem", redis.dir);
    snprintf(ca_file, sizeof ca_file, "%s", cert);
    snprintf(other_ca_file, sizeof other_ca_file, "%s/other.pem", redis.dir);
    snprintf(port, sizeof port, "%d", TLS_PORT);
    snprintf(command, sizeof command,
             "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=redis "
             "-addext "
             "subjectAltName=IP:127.0.0.1 -keyout %s -out %s 2>/dev/null && "
             "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=other "
             "-keyout "
             "%s/other.key -out %s 2>/dev/null",
             key, cert, redis.dir, other_ca_file);
    if (system(command) != 0) {
        print_message("no openssl program: skipped\n");
        skip();
    }
    const char *extra[] = {"--tls-port",
                           port,
                           "--tls-cert-file",
                           cert,
                           "--tls-key-file",
                           key,
                           "--tls-ca-cert-file",
                           cert,
                           "--tls-auth-clients",
                           "no",
                           NULL};
    redis_up(extra, NULL);
    x = fix_on(set_tls);
    assert_string_equal(heard(x), "REPLICATE ");
    say("POSITION events ep1 100 100");
    for (int i = 101; i < 2000; i++) {
        char text[128];

        snprintf(text, sizeof text, "RDATA events ep1 %d [\"state-all\",[\"!r:example.com\"]]", i);
        say(text);
    }
    until(x, seen_has(x, "events 2 1999 "));
    assert_false(logged("not verified"));
    fix_free(&x);
    x = fix_on(set_tls_other_ca);
    until(x, logged("certificate not accepted") && logged("redis_verify_tls"));
    fix_free(&x);
    x = fix_on(set_tls_wrong_name);
    until(x, logged("certificate not accepted"));
    fix_free(&x);
    x = fix_on(set_tls_unverified);
    assert_string_equal(heard(x), "REPLICATE ");
    fix_free(&x);
    x = fix_new_quiet();
    set_tls(&x->cfg);
    x->cfg.redis.ca_file = STR("/nonexistent/ca.pem");
    assert_int_equal(feed_connect(x->f, &e), -ERR_CONFIG);
    assert_non_null(strstr(e.text, "ca_file"));
    fix_free(&x);
    redis_down();
}

static bool is_new(struct fix *x, const char *token) /* and is not, after that */
{
    int64_t sent = metric_get_l(M_feed_sent, "USER_IP");
    feed_send_user_ip(x->f, STR("@b:e"), str_of(token), STR("1"), STR(""), STR_ABSENT);
    return metric_get_l(M_feed_sent, "USER_IP") > sent;
}

static void user_ips(void **state)
{
    struct fix *x;
    const char *got;

    (void)state;
    redis_up(NULL, NULL);
    x = fix_new_quiet();
    feed_send_user_ip(x->f, STR("@a:e"), STR("t"), STR("10.0.0.1"), STR(""),
                      STR_ABSENT); /* not connected: nothing */
    fix_free(&x);
    x = fix_on(NULL);
    assert_string_equal(heard(x), "REPLICATE ");
    feed_send_user_ip(x->f, STR("@alice:example.com"), STR("syt_1"), STR("203.0.113.7"),
                      STR("Mozilla \"x\" \\ \x01\xe9"), STR("DEV"));
    got = heard(x);
    assert_non_null(strstr(
        got, "(ip) USER_IP @alice:example.com "
             "[\"syt_1\",\"203.0.113.7\",\"Mozilla \\u0022x\\u0022 \\u005c \\u0001\\ufffd\",\"DEV\",1"));
    /* the same within two minutes is not said again; another token, address or user is */
    feed_send_user_ip(x->f, STR("@alice:example.com"), STR("syt_1"), STR("203.0.113.7"), STR("other"),
                      STR("DEV"));
    feed_send_user_ip(x->f, STR("@alice:example.com"), STR("syt_2"), STR("203.0.113.7"), STR(""), STR_ABSENT);
    assert_non_null(strstr(heard(x), "[\"syt_2\",\"203.0.113.7\",\"\",null,"));
    feed_send_user_ip(x->f, STR("@alice:example.com"), STR("syt_1"), STR("203.0.113.8"), STR(""), STR_ABSENT);
    assert_non_null(strstr(heard(x), "203.0.113.8"));
    feed_send_user_ip(x->f, STR("@alice:example"), STR(".comsyt_1"), STR("203.0.113.7"), STR(""), STR_ABSENT);
    assert_non_null(strstr(heard(x), "@alice:example "));
    x->f->t.user_ip_every_ms = 1;
    turns(x, 5);
    feed_send_user_ip(x->f, STR("@alice:example.com"), STR("syt_1"), STR("203.0.113.7"), STR("again"),
                      STR("DEV"));
    assert_non_null(strstr(heard(x), "again"));
    x->f->t.user_ip_every_ms = 120000;
    /* the memory of it is bounded, and the newest are kept: one a millisecond, then all in one */
    for (int i = 0; i < 2 * 50010; i++) {
        char token[24];

        clock_fake_set(1000000 + (i < 50010 ? i : 50010));
        if (i == 50010) {
            assert_in_range(imap_count(&x->f->user_ips), 30000, 30020);
            assert_true(is_new(x, "bulk1") && is_new(x, "bulk19000"));
            assert_false(is_new(x, "bulk25000") || is_new(x, "bulk50009"));
        }
        snprintf(token, sizeof token, "bulk%d", i);
        assert_true(is_new(x, token));
        assert_in_range(imap_count(&x->f->user_ips), 1, 50000);
    }
    assert_false(is_new(x, "bulk100019"));
    clock_fake_set(-1);
    fix_free(&x);
    redis_down();
}

static void assert_user_sync(const char *got, const char *user_device, const char *what)
{
    char user[64] = "", device[64] = "", id[16] = "", verb[16] = "", want[256];
    long long ms = 0;

    assert_int_equal(sscanf(got, "USER_SYNC %15s %63s %63s %15s %lld", id, user, device, verb, &ms), 5);
    assert_int_equal(strlen(id), 5);
    snprintf(want, sizeof want, "%s %s", user, device);
    assert_string_equal(want, user_device);
    assert_string_equal(verb, what);
    assert_true(ms > 1700000000000);
}

static void user_syncs(void **state)
{
    struct fix *x;
    char clear[32];

    (void)state;
    redis_up(NULL, NULL);
    x = fix_on(NULL);
    x->f->t.offline_delay_ms = 80;
    assert_string_equal(heard(x), "REPLICATE ");
    feed_presence_start(x->f, STR("@a:e"), STR("DEV"), STR("online"));
    assert_user_sync(heard(x), "@a:e DEV", "start");
    feed_presence_start(x->f, STR("@a:e"), STR("DEV"), STR("online")); /* a second one of the same device */
    feed_presence_end(x->f, STR("@a:e"), STR("DEV"));
    feed_presence_end(x->f, STR("@a:e"), STR("DEV"));
    feed_presence_start(x->f, STR("@a:e"), STR("DEV"),
                        STR("online")); /* back within the delay: nothing is said */
    turns(x, 120);
    feed_presence_start(x->f, STR("@a:e"), STR("two words"), STR("online"));
    assert_user_sync(heard(x), "@a:e None", "start");
    feed_presence_start(x->f, STR("@b:e"), STR_ABSENT, STR("online"));
    assert_user_sync(heard(x), "@b:e None", "start");
    feed_presence_end(x->f, STR("@a:e"), STR("DEV"));
    feed_presence_end(x->f, STR("@a:e"), STR("DEV")); /* one too many */
    feed_presence_end(x->f, STR("@c:e"), STR("DEV"));
    assert_user_sync(heard(x), "@a:e DEV", "end");
    assert_int_equal(kmap_count(&x->f->presence), 2);
    snprintf(clear, sizeof clear, "CLEAR_USER_SYNC %s", x->f->instance_id);
    feed_stop(&x->f);
    assert_string_equal(heard(x), clear);
    fix_free(&x);
    redis_down();
}

/* ---- with a fake server ---- */

struct fake {
    int listen_fd, fd[2]; /* the feed makes two connections */
    int n;
};

static void fake_up(struct fake *s)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};

    memset(s, 0, sizeof *s);
    unlink(redis.socket);
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", redis.socket);
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->listen_fd, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(listen(s->listen_fd, 16), 0);
}

static void fake_down(struct fake *s)
{
    for (int i = 0; i < s->n; i++)
        close(s->fd[i]);
    close(s->listen_fd);
    unlink(redis.socket);
}

static int fake_accept(struct fake *s)
{
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd >= 0 && s->n < 2)
        s->fd[s->n++] = fd;
    else if (fd >= 0)
        close(fd);
    return fd;
}

/* One byte at a time: every prefix of every reply is met. */
static void in_pieces(void **state)
{
    static const char text[] =
        "*3\r\n$9\r\nsubscribe\r\n$11\r\nexample.com\r\n:1\r\n"
        "*3\r\n$7\r\nmessage\r\n$11\r\nexample.com\r\n$27\r\nPOSITION events ep1 100 105\r\n"
        "*2\r\n$4\r\npong\r\n$0\r\n\r\n"
        "*3\r\n$7\r\nmessage\r\n$11\r\nexample.com\r\n$47\r\nRDATA events ep1 106 "
        "[\"state-all\",[\"!r:e.com\"]]\r\n"
        "*3\r\n$7\r\nmessage\r\n$11\r\nexample.com\r\n$-1\r\n"
        "*3\r\n$7\r\nmessage\r\n$11\r\nexample.com\r\n$27\r\nPOSITION events ep1 106 110\r\n";
    struct fake s;
    struct fix *x;
    char got[256];
    int sub = -1;

    (void)state;
    fake_up(&s);
    x = fix_on(NULL);
    x->f->t.live_wait_ms = 60000;
    until(x, (fake_accept(&s), s.n == 2));
    turns(x, 20);
    for (int i = 0; i < 2; i++) {
        ssize_t n = recv(s.fd[i], got, sizeof got - 1, 0);

        if (n > 0) {
            got[n] = 0;
            assert_string_equal(got, "*2\r\n$9\r\nSUBSCRIBE\r\n$11\r\nexample.com\r\n");
            sub = s.fd[i];
        }
    }
    assert_true(sub >= 0);
    for (size_t i = 0; i < sizeof text - 1; i++) {
        assert_int_equal(send(sub, text + i, 1, MSG_NOSIGNAL), 1);
        turns(x, 0);
        if (i % 16 == 0)
            assert_int_equal(feed_state(x->f) == FEED_DISCONNECTED, false);
    }
    until(x, seen_has(x, "events 2 110"));
    assert_true(seen_has(x, "events 2 105\nend\nevents 2 106 state-all:!r:e.com\nend\nevents 2 110\nend\n"));
    fix_free(&x);
    fake_down(&s);
}

static void nonsense(void **state)
{
    static const char *const texts[] = {
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "*3\r\n$9\r\nsubscribe\r\n?x\r\n",
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
        "-NOPERM no\r\n",
        "",
    };

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        print_message("%s\n", texts[i]);
        struct fake s;
        struct fix *x;
        int again = -1;

        fake_up(&s);
        x = fix_on(NULL);
        until(x, (fake_accept(&s), s.n == 2));
        turns(x, 10);
        for (int k = 0; k < 2; k++) {
            send(s.fd[k], texts[i], strlen(texts[i]), MSG_NOSIGNAL);
            if (!*texts[i])
                shutdown(s.fd[k], SHUT_RDWR);
        }
        until(x, (again = fake_accept(&s)) >= 0); /* it comes again */
        assert_int_equal(feed_state(x->f), FEED_CONNECTING);
        fix_free(&x);
        fake_down(&s);
    }
}

static void silence(void **state)
{
    struct fake s;
    struct fix *x;

    (void)state;
    fake_up(&s);
    x = fix_new_quiet();
    x->cfg.redis.path = str_of(redis.socket);
    x->f->t.ping_ms = 30;
    assert_int_equal(feed_connect(x->f, &(struct err){{0}}), 0);
    until(x, (fake_accept(&s), s.n == 2));
    until(x, logged("subscriber connection: no answer to PING"));
    until(x, logged("outbound connection: no answer to PING"));
    fix_free(&x);
    fake_down(&s);
}

/* A server that never reads: what we publish is bounded, and the connection is given up. */
static void a_reader_that_does_not_read(void **state)
{
    struct fake s;
    struct fix *x;
    char big[60001];

    (void)state;
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    fake_up(&s);
    x = fix_on(NULL);
    until(x, redis_conn_up(x->f->out));
    for (int i = 0; i < 2000 && redis_conn_up(x->f->out); i++)
        feed_publish(x->f, STR(""), str_of(big), "PING");
    assert_false(redis_conn_up(x->f->out));
    assert_true(logged("does not read what we publish"));
    fix_free(&x);
    fake_down(&s);
}

static void nobody_there(void **state)
{
    struct fix *x;

    (void)state;
    x = fix_on(NULL);
    until(x, logged("cannot connect"));
    turns(x, 50);
    fix_free(&x);
    x = fix_on(set_tcp);
    until(x, logged("cannot connect"));
    fix_free(&x);
    x = fix_new_quiet();
    x->cfg.redis.host = STR("host.invalid");
    assert_int_equal(feed_connect(x->f, &(struct err){{0}}), 0);
    fix_free(&x); /* while the name is being resolved */
}

int run_redis(void)
{
    const struct CMUnitTest with_server[] = {
        cmocka_unit_test(rows_arrive),
        cmocka_unit_test(a_long_row_arrives),
        cmocka_unit_test(killed_and_started_again),
        cmocka_unit_test(passwords_and_databases),
        cmocka_unit_test(over_tcp),
        cmocka_unit_test(over_tls),
        cmocka_unit_test(user_ips),
        cmocka_unit_test(user_syncs),
    };
    const struct CMUnitTest with_fake[] = {
        cmocka_unit_test(in_pieces),    cmocka_unit_test(nonsense),
        cmocka_unit_test(silence),      cmocka_unit_test(a_reader_that_does_not_read),
        cmocka_unit_test(nobody_there),
    };
    char command[160];
    int failed;

    if (!temp_dir(redis.dir, sizeof redis.dir, "feed"))
        return 1;
    snprintf(redis.socket, sizeof redis.socket, "%s/s", redis.dir);
    failed = cmocka_run_group_tests_name("redis_fake", with_fake, NULL, NULL);
    if (redis_available())
        failed += cmocka_run_group_tests_name("redis", with_server, NULL, NULL);
    else if (!failed)
        failed = -1;
    redis_down();
    snprintf(command, sizeof command, "rm -rf %s", redis.dir);
    if (system(command) != 0)
        perror(redis.dir);
    return failed;
}
