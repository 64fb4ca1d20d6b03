/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Runs the groups of this module and holds their helpers. */
#include "test_config.h"

#include <stdio.h>

struct config *load(const char *more)
{
    char text[8192];
    struct err e = {""};

    snprintf(text, sizeof text, "%s%s", BASE, more);
    struct config *c = config_load_text(str_of(text), &e);
    if (!c)
        fail_msg("%s\nin:\n%s", e.text, more);
    return c;
}

void assert_str(struct str s, const char *want)
{
    if (!str_eq(s, str_of(want)))
        fail_msg("\"%.*s\" is not \"%s\"", STR_ARG(s), want);
}

bool has_warning(const struct config *c, const char *part)
{
    for (size_t i = 0; i < c->warnings_count; i++)
        if (strstr(c->warnings[i].p, part))
            return true;
    return false;
}

int main(void)
{
    return run_yaml() + run_config() + run_files() + run_release();
}
