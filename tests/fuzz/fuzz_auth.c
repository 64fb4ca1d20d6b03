/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * What strangers write into tokens and what an introspection endpoint answers. First byte: which parser. A
 * macaroon that verifies under the fuzzer's key must name a user that a database can store; an accepted
 * introspection response must keep its promises about the device.
 */
#include "auth_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct guest_macaroon macaroon;
    struct mas_answer *answer;
    struct ip_range range;

    if (size == 0)
        return 0;
    struct str input = str_n((const char *)data + 1, size - 1);
    switch (data[0]) {
    case 'm':
        if (macaroon_verify_guest(input, STR("sekrit-\xce\xba"), 1700000000000, &macaroon) == 0)
            ASSERT(macaroon.user_id.n > 0 && str_storable(macaroon.user_id));
        break;
    case 'i':
        if (mas_answer_parse(input, 1700000000000, &answer) == 0) {
            ASSERT(answer->has_device == !str_absent(answer->device_id));
            ASSERT(answer->dies_ms >= 1700000000000);
            mas_answer_unref(&answer);
        }
        break;
    case 'a':
        if (ip_range_parse(input, &range) == 0)
            ASSERT(range.bits <= (range.v6 ? 128U : 32U));
        break;
    default:
        str_storable(input);
    }
    return 0;
}
