/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Which Synapse we stand beside.
 *
 * A stream token has as many fields as this very release gives it: Synapse completes a shorter one with zeros
 * and refuses a longer one, so a guess may only err on the short side. The database does not tell (its schema
 * stays when Synapse goes back, and 1.152 and 1.153 had the table of a field that only came with 1.154), and
 * nor does replication. But every answer of Synapse names it in its Server header, and each worker has the
 * address of the main process' replication listener in instance_map: it is asked for /health there.
 *
 * At start we wait a moment for the answer. Without one (the main process is still starting) it is asked
 * every second. Until it has answered the feed is not live, so requests wait and /health is not OK: a token
 * with a field too many would be refused by this Synapse, and soon by us. After UNKNOWN_MS what the tables
 * show stands in, because the workers of a Synapse without its main process serve sync too.
 *
 * Later it is asked every minute, and when any process has subscribed to replication anew, as the main
 * process does when it starts. When Synapse was upgraded under us, tokens and answers follow at once, while
 * streams and tables that are new need our own restart, which the log and a metric say. What is not followed
 * until then shows in no answer: such fields of a token are not compared (sync/park.c).
 */
#include "chappe/clock.h"
#include "chappe/log.h"
#include "chappe/metrics.h"
#include "feed_int.h"

#include <stdlib.h>

enum { ASK_MS = 1000, ASK_AGAIN_MS = 60 * 1000, LEARN_MS = 3000, UNKNOWN_MS = 30 * 1000 };

struct feed_ask {
    struct feed *f; /* NULL: nobody waits for the answer */
    bool done;
    struct release r; /* major 0: no Synapse's Server header */
};

/* False: the main process has no address. */
static bool ask(const struct config *cfg, struct httpc *httpc, httpc_done_fn *done, struct feed_ask *a)
{
    struct httpc_req req = {.method = "GET", .timeout_ms = LEARN_MS, .connect_timeout_ms = 1000};
    struct buf url;

    buf_init(&url, 8192);
    bool there = repl_base_url(cfg, STR("master"), &url, &req.unix_path);
    if (there) {
        buf_put(&url, STR("/health"));
        req.url = buf_str(&url);
        httpc_send(httpc, &req, done, a);
    }
    buf_fini(&url);
    return there;
}

static void on_learned(void *arg, const struct httpc_res *res)
{
    struct feed_ask *a = arg;

    a->done = true;
    if (res->err || !release_parse(res->server, &a->r))
        a->r = (struct release){0};
}

struct release feed_release_learn(uv_loop_t *loop, const struct config *cfg, struct httpc *httpc)
{
    struct feed_ask a = {0};

    if (!ask(cfg, httpc, on_learned, &a))
        return a.r;
    while (!a.done) /* the request has a timeout of its own */
        uv_run(loop, UV_RUN_ONCE);
    return a.r;
}

static void judge(struct release r)
{
    struct release oldest = release_oldest(), newest = release_newest();

    if (release_judge(r) == RELEASE_TOO_OLD)
        log_error(FEED_LOG, "this is Synapse %d.%d.%d; %d.%d is the oldest that is supported", r.major,
                  r.minor, r.patch, oldest.major, oldest.minor);
    else if (release_judge(r) == RELEASE_NEWER)
        log_warning(FEED_LOG, "this is Synapse %d.%d.%d, newer than the newest known, %d.%d", r.major,
                    r.minor, r.patch, newest.major, newest.minor);
}

static void adopt(struct feed *f, struct release r)
{
    struct release old = release_now();

    if (!f->release_known || release_judge(r) != release_judge(old))
        judge(r);
    if (!f->release_known && release_judge(r) == RELEASE_TOO_OLD) {
        f->release_wait_until_ms = INT64_MAX; /* until it is upgraded we serve nothing */
        return;
    }
    if (!f->release_known) {
        log_info(FEED_LOG, "the main process is Synapse %d.%d.%d", r.major, r.minor, r.patch);
    } else if (release_differs(old, r)) {
        log_warning(
            FEED_LOG,
            "Synapse was changed from %d.%d.%d to %d.%d.%d: restart Chappe, which follows no new streams and "
            "tables until then",
            old.major, old.minor, old.patch, r.major, r.minor, r.patch);
        metric_set(M_synapse_changed, 1);
    }
    release_set(r);
    token_arity_set(release_token_fields());
    feed_pairs_expect(f);
    f->release_known = true;
}

static void on_answer(void *arg, const struct httpc_res *res)
{
    struct feed_ask *a = arg;
    struct feed *f = a->f;
    struct release r;

    free(a);
    if (!f)
        return;
    f->release_ask = NULL;
    f->release_at_ms = clock_mono_ms() + (f->release_known ? ASK_AGAIN_MS : ASK_MS);
    if (res->err || (res->status >= 500 && !release_parse(res->server, &r)))
        return; /* a proxy on the way whose backend is down answers for itself */
    f->release_at_ms = clock_mono_ms() + ASK_AGAIN_MS;
    if (release_parse(res->server, &r)) {
        adopt(f, r);
    } else if (!f->release_known) {
        r = release_now();
        log_warning(
            FEED_LOG,
            "what answers at instance_map's main does not say which Synapse it is (Server header); going by "
            "the database's tables: like %d.%d",
            r.major, r.minor);
        f->release_known = true;
    }
}

void feed_release_tick(struct feed *f)
{
    int64_t now = clock_mono_ms();

    if (f->release_ask || now < f->release_at_ms)
        return;
    f->release_ask = xcalloc(1, sizeof *f->release_ask);
    f->release_ask->f = f;
    if (!ask(f->cfg, f->httpc, on_answer, f->release_ask)) {
        free(f->release_ask);
        f->release_ask = NULL;
        f->release_known = true;
        f->release_at_ms = INT64_MAX;
    }
}

void feed_release_begin(struct feed *f, bool known)
{
    int64_t now = clock_mono_ms();

    f->release_known = known;
    f->release_at_ms = now + (known ? ASK_AGAIN_MS : ASK_MS);
    f->release_wait_until_ms = now + UNKNOWN_MS;
}

void feed_release_ask_soon(struct feed *f)
{
    int64_t soon = clock_mono_ms() + ASK_MS;

    if (f->release_at_ms > soon && f->release_at_ms != INT64_MAX)
        f->release_at_ms = soon;
}

void feed_release_end(struct feed *f)
{
    if (f->release_ask)
        f->release_ask->f = NULL;
    f->release_ask = NULL;
}

bool feed_release_known(const struct feed *f)
{
    return f->release_known || clock_mono_ms() >= f->release_wait_until_ms;
}
