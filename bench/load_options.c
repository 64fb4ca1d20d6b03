/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * The command line of the load generator. Every number has bounds, so that a slip of the finger cannot ask
 * for a run without an end.
 */
#include "load.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage_text[] =
    "usage: bench_load --port N --tokens FILE [options]\n"
    "  --port N              where /sync is served, on 127.0.0.1\n"
    "  --tokens FILE         one access token a line, one line a device\n"
    "  -n, --listeners N     devices (default 100)\n"
    "  --sources N           client addresses 127.0.0.1 … 127.0.0.N (default 4)\n"
    "  --concurrency N       initial syncs under way at once (default 4)\n"
    "  --filter JSON         inline filter of every sync (default {})\n"
    "  --params TEXT         more query parameters, beginning with & (default &set_presence=offline)\n"
    "  --initial-only        only the initial syncs\n"
    "  --publish-port N      the homeserver's client API\n"
    "  --publish-token FILE  file with the sender's access token\n"
    "  --room ID             where to send\n"
    "  --run NAME            goes into every message and transaction id; letters and digits\n"
    "  --events N, --warm N  messages measured, and before them messages sent but not to be measured\n"
    "  --body-bytes N        padding in a message (default 64)\n"
    "  --pid PID             process whose CPU time and memory are reported\n"
    "  --poll-timeout MS     timeout parameter of the long polls (default 300000)\n"
    "  --event-timeout S     longest wait for one message, and for quiet (default 60)\n"
    "  --total-timeout S     longest run (default 600)\n"
    "  --idle MS, --linger MS  idle time measured when all are parked; wait at the end (default 0, 500)\n"
    "  --pause               after each line with \"mark\", wait for a line on standard input\n"
    "exit status: 0 all correct, 1 wrong or missing answers, 2 usage, 3 it could not be measured\n";

static unsigned number_option(const char *name, const char *text, unsigned least, unsigned most)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != 0 || value < least || value > most)
        die(STATUS_USAGE, "--%s: a number between %u and %u is needed", name, least, most);
    return (unsigned)value;
}

static const struct option long_options[] = {
    {"port", required_argument, NULL, 'p'},
    {"tokens", required_argument, NULL, 't'},
    {"listeners", required_argument, NULL, 'n'},
    {"sources", required_argument, NULL, 's'},
    {"concurrency", required_argument, NULL, 'c'},
    {"filter", required_argument, NULL, 'f'},
    {"params", required_argument, NULL, 'q'},
    {"initial-only", no_argument, NULL, 'I'},
    {"publish-port", required_argument, NULL, 'P'},
    {"publish-token", required_argument, NULL, 'T'},
    {"room", required_argument, NULL, 'r'},
    {"run", required_argument, NULL, 'R'},
    {"events", required_argument, NULL, 'e'},
    {"warm", required_argument, NULL, 'w'},
    {"body-bytes", required_argument, NULL, 'b'},
    {"pid", required_argument, NULL, 'i'},
    {"poll-timeout", required_argument, NULL, 'o'},
    {"event-timeout", required_argument, NULL, 'E'},
    {"total-timeout", required_argument, NULL, 'O'},
    {"idle", required_argument, NULL, 'd'},
    {"linger", required_argument, NULL, 'l'},
    {"pause", no_argument, NULL, 'z'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static void set_option(struct options *o, int letter, const char *name)
{
    switch (letter) {
    case 'p':
        o->port = (uint16_t)number_option(name, optarg, 1, 65535);
        break;
    case 'P':
        o->publish_port = (uint16_t)number_option(name, optarg, 1, 65535);
        break;
    case 't':
        o->tokens_file = optarg;
        break;
    case 'T':
        o->publish_token_file = optarg;
        break;
    case 'n':
        o->listeners = number_option(name, optarg, 1, LISTENERS_MAX);
        break;
    case 's':
        o->sources = number_option(name, optarg, 1, SOURCES_MAX);
        break;
    case 'c':
        o->concurrency = number_option(name, optarg, 1, LISTENERS_MAX);
        break;
    case 'f':
        o->filter = optarg;
        break;
    case 'q':
        o->params = optarg;
        break;
    case 'I':
        o->initial_only = true;
        break;
    case 'r':
        o->room = optarg;
        break;
    case 'R':
        o->run = optarg;
        break;
    case 'e':
        o->events = number_option(name, optarg, 0, EVENTS_MAX / 2);
        break;
    case 'w':
        o->warm = number_option(name, optarg, 0, EVENTS_MAX / 2);
        break;
    case 'b':
        o->body_bytes = number_option(name, optarg, 0, 60000);
        break;
    case 'i':
        o->pid = (pid_t)number_option(name, optarg, 1, 1u << 30);
        break;
    case 'o':
        o->poll_timeout_ms = number_option(name, optarg, 0, 3600000);
        break;
    case 'E':
        o->event_timeout_s = number_option(name, optarg, 1, 3600);
        break;
    case 'O':
        o->total_timeout_s = number_option(name, optarg, 1, 86400);
        break;
    case 'd':
        o->idle_ms = number_option(name, optarg, 0, 600000);
        break;
    case 'l':
        o->linger_ms = number_option(name, optarg, 0, 600000);
        break;
    case 'z':
        o->pause = true;
        break;
    case 'h':
        fputs(usage_text, stdout);
        exit(0);
    default:
        fputs(usage_text, stderr);
        exit(STATUS_USAGE);
    }
}

struct options read_options(int argc, char **argv)
{
    struct options o = {.listeners = 100,
                        .sources = 4,
                        .concurrency = 4,
                        .filter = "{}",
                        .run = "0",
                        .body_bytes = 64,
                        .params = "&set_presence=offline",
                        .poll_timeout_ms = 300000,
                        .event_timeout_s = 60,
                        .total_timeout_s = 600,
                        .linger_ms = 500,
                        .events = 3,
                        .warm = 1};
    int letter, index = 0;
    while ((letter = getopt_long(argc, argv, "n:h", long_options, &index)) != -1)
        set_option(&o, letter, letter == 'n' ? "listeners" : long_options[index].name);
    if (optind != argc || o.port == 0 || o.tokens_file == NULL ||
        (!o.initial_only && (o.publish_port == 0 || o.publish_token_file == NULL || o.room == NULL))) {
        fputs(usage_text, stderr);
        exit(STATUS_USAGE);
    }
    if (strlen(o.run) > 40 ||
        o.run[strspn(o.run, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")])
        die(STATUS_USAGE, "--run: letters and digits, 40 at most");
    if (!o.initial_only && o.listeners < 2)
        die(STATUS_USAGE, "--listeners: 2 at least, memory is measured in two halves");
    return o;
}
