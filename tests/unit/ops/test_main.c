/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Runs the groups of this module. */
#include "test_ops.h"

int main(void)
{
    return run_cli();
}
