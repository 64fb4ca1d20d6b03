/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Tests of the base module. */
#include "test_base.h"

int main(void)
{
    return run_str_tests() + run_ip_tests() + run_mem_tests() + run_blob_tests() + run_map_tests() +
           run_kmap_tests() + run_clock_log_tests() + run_metrics_tests() + run_json_tests() +
           run_json_number_tests();
}
