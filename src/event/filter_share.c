/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Filters by their text. Nearly all devices of a deployment use one of a handful of filters: those of the
 * same text share one parsed filter for as long as anybody holds it. It saves the parsing of a re-poll and
 * some kilobytes for each parked one; and the address of a filter tells its class, which is what answers are
 * shared by (sync/shared.c). The table holds no count of its own: the last holder takes the filter out of it.
 */
#include "chappe/filter.h"
#include "chappe/map.h"
#include "event_int.h"
#include <stdlib.h>

static struct smap shared; /* "features cap text" -> struct filter */

static struct str key_of(struct buf *b, struct str text, unsigned features, int64_t timeline_max)
{
    buf_i64(b, features);
    buf_putc(b, str_absent(text) ? '-' : ' ');
    buf_i64(b, timeline_max);
    buf_putc(b, ' ');
    buf_put(b, text);
    return buf_str(b);
}

int filter_shared(struct str text, unsigned features, int64_t timeline_max, struct filter **out,
                  struct err *e)
{
    struct buf key;
    buf_init(&key, text.n + 64);
    struct filter *f = smap_get(&shared, key_of(&key, text, features, timeline_max));
    int rc = 0;
    if (f) {
        *out = filter_ref(f);
    } else if (!(rc = filter_parse_with(text, features, out, e))) {
        f = *out;
        filter_cap_timeline(f, timeline_max);
        f->shared_as = arena_str(f->arena, buf_str(&key));
        smap_put(&shared, f->shared_as, f);
    }
    buf_fini(&key);
    return rc;
}

void filter_share_end(struct filter *f)
{
    smap_del(&shared, f->shared_as);
    if (smap_count(&shared) == 0)
        smap_fini(&shared);
}
