/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Entry of the HTTP module's tests: parsers, texts, and the whole server on both transports with and without
 * threads. */
#include "test_http.h"

int main(void)
{
    return run_head_tests() + run_body_tests() + run_text_tests() + run_server_tests() + run_limit_tests() +
                   run_later_tests()
               ? 1
               : 0;
}
