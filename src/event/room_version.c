/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Room versions: one row for each that Synapse 1.157 can have in its rooms table, the three at the end only
 * when an experimental feature is switched on there. What each changes for a reader: the stored format (a
 * mismatch makes an event unreadable), what redaction keeps, where a redaction names its target, and whether
 * the create event's id is the room's. A linear search over short names costs less than the query that
 * brought the row.
 */
#include "event_int.h"

#define V1_V5 .special_case_aliases_auth = true
#define V8    .restricted_join_rule = true
#define V9    V8, .restricted_join_rule_fix = true
#define V11   V9, .redacts_in_content = true, .updated_redaction_rules = true
#define V12   V11, .create_id_is_room_id = true

static const struct room_version versions[] = {
    {.name = "10", .format = 3, V9},
    {.name = "11", .format = 3, V11},
    {.name = "12", .format = 4, V12},
    {.name = "9", .format = 3, V9},
    {.name = "6", .format = 3},
    {.name = "1", .format = 1, V1_V5},
    {.name = "2", .format = 1, V1_V5},
    {.name = "3", .format = 2, V1_V5},
    {.name = "4", .format = 3, V1_V5},
    {.name = "5", .format = 3, V1_V5},
    {.name = "7", .format = 3},
    {.name = "8", .format = 3, V8},
    {.name = "org.matrix.hydra.11", .format = 4, V12},
    {.name = "org.matrix.msc3757.10", .format = 3, V9},
    {.name = "org.matrix.msc3757.11", .format = 3, V11},
    {.name = "org.matrix.msc1767.10", .format = 3, V9},
    {.name = "org.matrix.msc3389.10", .format = 3, V9, .relation_redactions = true},
    {.name = "org.matrix.msc4242.12", .format = 5, V12, .state_dags = true},
};

const struct room_version *room_version_find(struct str name)
{
    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++)
        if (str_eq(name, str_of(versions[i].name)))
            return &versions[i];
    return NULL;
}

static const char *const memberships[] = {"none", "join", "invite", "knock", "leave", "ban"};

enum membership membership_parse(struct str s)
{
    for (int m = MEMBERSHIP_JOIN; m <= MEMBERSHIP_BAN; m++)
        if (str_eq(s, str_of(memberships[m])))
            return (enum membership)m;
    return MEMBERSHIP_NONE;
}

const char *membership_name(enum membership m)
{
    ASSERT(m >= MEMBERSHIP_NONE && m <= MEMBERSHIP_BAN);
    return memberships[m];
}
