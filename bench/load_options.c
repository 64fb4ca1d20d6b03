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
    "  --port N              where the target listens, on 127.0.0.1\n"
    "  --tokens FILE         one device a line: access token, and the plan's numbers of its rooms (default "
    "0)\n"
    "  -n, --listeners N     devices (default 100)\n"
    "  --stalled N           more devices, which ask with --since's token and do not read; when the plan "
    "says "
    "so\n"
    "  --workers N           processes that listen (default: as few as hold the connections)\n"
    "  --core N              all of them on this core\n"
    "  --sources N           client addresses 127.0.0.1 ... 127.0.0.N (default 4)\n"
    "  --concurrency N       initial requests under way at once (default 4)\n"
    "  --protocol NAME       sync (default), or nchan: positions in the fields ETag and Last-Modified\n"
    "  --path PATH           what is asked (default /_matrix/client/v3/sync)\n"
    "  --filter JSON         inline filter of every sync (default {})\n"
    "  --params TEXT         more query parameters, beginning with & (default &set_presence=offline)\n"
    "  --since TOKEN         the devices begin here; the plan's past messages must be in their first "
    "answers\n"
    "  --initial-only        only the first request of each\n"
    "  --plan FILE           what is published and when (bench/load_plan.c)\n"
    "  --publish-port N      where to\n"
    "  --publisher NAME      http (default): a 200 to 202 each; redis: pipelined\n"
    "  --run NAME            goes into every message's marker; letters and digits\n"
    "  --pid PID             process whose CPU time and memory are reported; may be repeated\n"
    "  --probe-path PATH     another request, repeated while messages are under way\n"
    "  --probe-token FILE    its access token\n"
    "  --probe-us N          its interval (default 1000)\n"
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

static bool name_option(const char *name, const char *text, const char *no, const char *yes)
{
    if (strcmp(text, no) != 0 && strcmp(text, yes) != 0)
        die(STATUS_USAGE, "--%s: %s or %s", name, no, yes);
    return strcmp(text, yes) == 0;
}

enum {
    OPTION_PROTOCOL = 256,
    OPTION_PATH,
    OPTION_SINCE,
    OPTION_PLAN,
    OPTION_PUBLISHER,
    OPTION_WORKERS,
    OPTION_STALLED,
    OPTION_CORE,
    OPTION_PROBE_PATH,
    OPTION_PROBE_TOKEN,
    OPTION_PROBE_US
};

static const struct option long_options[] = {
    {"port", required_argument, NULL, 'p'},
    {"tokens", required_argument, NULL, 't'},
    {"listeners", required_argument, NULL, 'n'},
    {"workers", required_argument, NULL, OPTION_WORKERS},
    {"stalled", required_argument, NULL, OPTION_STALLED},
    {"core", required_argument, NULL, OPTION_CORE},
    {"sources", required_argument, NULL, 's'},
    {"concurrency", required_argument, NULL, 'c'},
    {"protocol", required_argument, NULL, OPTION_PROTOCOL},
    {"path", required_argument, NULL, OPTION_PATH},
    {"filter", required_argument, NULL, 'f'},
    {"params", required_argument, NULL, 'q'},
    {"since", required_argument, NULL, OPTION_SINCE},
    {"initial-only", no_argument, NULL, 'I'},
    {"plan", required_argument, NULL, OPTION_PLAN},
    {"publish-port", required_argument, NULL, 'P'},
    {"publisher", required_argument, NULL, OPTION_PUBLISHER},
    {"run", required_argument, NULL, 'R'},
    {"pid", required_argument, NULL, 'i'},
    {"probe-path", required_argument, NULL, OPTION_PROBE_PATH},
    {"probe-token", required_argument, NULL, OPTION_PROBE_TOKEN},
    {"probe-us", required_argument, NULL, OPTION_PROBE_US},
    {"poll-timeout", required_argument, NULL, 'o'},
    {"event-timeout", required_argument, NULL, 'E'},
    {"total-timeout", required_argument, NULL, 'O'},
    {"idle", required_argument, NULL, 'd'},
    {"linger", required_argument, NULL, 'l'},
    {"pause", no_argument, NULL, 'z'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static void add_pid(struct options *o, const char *name)
{
    if (o->pid_count == PIDS_MAX)
        die(STATUS_USAGE, "--%s: too often", name);
    o->pids[o->pid_count++] = (pid_t)number_option(name, optarg, 1, 1u << 30);
}

/* What is a text or a switch; false: neither. */
static bool set_text(struct options *o, int letter, const char *name)
{
    const char **text = NULL;
    switch (letter) {
    case 't':
        text = &o->tokens_file;
        break;
    case 'f':
        text = &o->filter;
        break;
    case 'q':
        text = &o->params;
        break;
    case 'R':
        text = &o->run;
        break;
    case OPTION_PATH:
        text = &o->path;
        break;
    case OPTION_SINCE:
        text = &o->since;
        break;
    case OPTION_PLAN:
        text = &o->plan_file;
        break;
    case OPTION_PROBE_PATH:
        text = &o->probe_path;
        break;
    case OPTION_PROBE_TOKEN:
        text = &o->probe_token_file;
        break;
    case OPTION_PROTOCOL:
        o->protocol = name_option(name, optarg, "sync", "nchan") ? PROTOCOL_NCHAN : PROTOCOL_SYNC;
        return true;
    case OPTION_PUBLISHER:
        o->publisher = name_option(name, optarg, "http", "redis") ? PUBLISHER_REDIS : PUBLISHER_HTTP;
        return true;
    case 'I':
        o->initial_only = true;
        return true;
    case 'z':
        o->pause = true;
        return true;
    default:
        return false;
    }
    *text = optarg;
    return true;
}

static void set_option(struct options *o, int letter, const char *name)
{
    if (set_text(o, letter, name))
        return;
    switch (letter) {
    case 'p':
        o->port = (uint16_t)number_option(name, optarg, 1, 65535);
        break;
    case 'P':
        o->publish_port = (uint16_t)number_option(name, optarg, 1, 65535);
        break;
    case 'n':
        o->listeners = number_option(name, optarg, 1, LISTENERS_MAX);
        break;
    case OPTION_STALLED:
        o->stalled = number_option(name, optarg, 0, WORKER_DEVICES);
        break;
    case OPTION_WORKERS:
        o->workers = number_option(name, optarg, 1, WORKERS_MAX);
        break;
    case OPTION_CORE:
        o->core = (int)number_option(name, optarg, 0, 1023);
        break;
    case OPTION_PROBE_US:
        o->probe_us = number_option(name, optarg, 50, 10000000);
        break;
    case 's':
        o->sources = number_option(name, optarg, 1, SOURCES_MAX);
        break;
    case 'c':
        o->concurrency = number_option(name, optarg, 1, LISTENERS_MAX);
        break;
    case 'i':
        add_pid(o, name);
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
                        .core = -1,
                        .filter = "{}",
                        .run = "0",
                        .params = "&set_presence=offline",
                        .path = "/_matrix/client/v3/sync",
                        .probe_us = 1000,
                        .poll_timeout_ms = 300000,
                        .event_timeout_s = 60,
                        .total_timeout_s = 600,
                        .linger_ms = 500};
    int letter, index = 0;
    while ((letter = getopt_long(argc, argv, "n:h", long_options, &index)) != -1)
        set_option(&o, letter, letter == 'n' ? "listeners" : long_options[index].name);
    if (optind != argc || o.port == 0 || o.tokens_file == NULL ||
        (!o.initial_only && (o.publish_port == 0 || o.plan_file == NULL))) {
        fputs(usage_text, stderr);
        exit(STATUS_USAGE);
    }
    if (strlen(o.run) > NAME_MAX_BYTES ||
        o.run[strspn(o.run, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")])
        die(STATUS_USAGE, "--run: letters and digits, %d at most", NAME_MAX_BYTES);
    if (!o.initial_only && o.listeners < 2)
        die(STATUS_USAGE, "--listeners: 2 at least, memory is measured in two halves");
    if (o.stalled > 0 && (o.since == NULL || o.initial_only || o.protocol != PROTOCOL_SYNC))
        die(STATUS_USAGE, "--stalled: with --since, of long polls of the protocol sync");
    if (o.workers == 0)
        o.workers = (all_devices(&o) + WORKER_DEVICES - 1) / WORKER_DEVICES;
    return o;
}

char *percent_encode(const char *text)
{
    char *out = need(malloc(strlen(text) * 3 + 1)), *p = out;
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || strchr("-._~", c))
            *p++ = (char)c;
        else
            p += snprintf(p, 4, "%%%02X", c);
    }
    *p = 0;
    return out;
}
