/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Runs the groups of sync tests one after the other, on a clock that stands still between them. */
#include "front.h"

int main(void)
{
    clock_fake_set(1000000);
    return run_request_tests() + run_join_tests() + run_invite_tests() + run_legacy_tests() +
           run_room_tests() + run_member_tests() + run_feature_tests() + run_release_tests() +
           run_token_tests() + run_visibility_tests() + run_statement_tests() + run_storm_tests() +
           run_shared_tests() + run_session_tests() + run_whole_tests();
}
