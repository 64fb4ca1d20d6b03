/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* Where requests on a peer's behalf may go: every way of writing an IPv4 address into an IPv6 one is seen
 * through. */
#include "chappe/ip.h"
#include "test_base.h"

static void test_policy(void **state)
{
    static const struct {
        const char *address;
        bool allowed;
    } rows[] = {
        {"192.0.2.1", true},
        {"10.1.2.3", false},
        {"10.9.9.9", true}, /* on the other list */
        {"127.0.0.1", false},
        {"0.0.0.0", false},
        {"::", false},
        {"::1", false},
        {"2001:db8::1", true},
        {"fd00::1", false},
        {"::ffff:10.1.2.3", false},
        {"::ffff:10.9.9.9", true},
        {"::ffff:192.0.2.1", true},
        {"::10.1.2.3", false},
        {"::ffff:0:10.1.2.3", false},
        {"2002:0a01:0203::1", false},
        {"2002:c000:0201::1", true},
        {"64:ff9b::10.1.2.3", false},
        {"64:ff9b::192.0.2.1", true},
        {"64:ff9b::10.9.9.9", true},
        {"64:ff9b:1::10.1.2.3", false},
        {"64:ff9b:1::192.0.2.1", true},
        {"64:ff9b:1:a01:2:300::", false},       /* a prefix of 48 bits */
        {"64:ff9b:1:c000:2:100::", true},       /* the same with 192.0.2.1 */
        {"64:ff9b:1:ab0a:1:203::", false},      /* of 56 */
        {"64:ff9b:1:abcd:a:102:300:0", false},  /* of 64 */
        {"64:ff9b:1:abcd:c0:2:100:0", true},    /* 192.0.2.1 */
        {"64:ff9b:1:abcd::10.1.2.3", false},    /* of 96 */
        {"2001:db8::5efe:10.1.2.3", false},     /* ISATAP */
        {"2001:db8::200:5efe:10.1.2.3", false}, /* the same, of a globally unique address */
        {"2001:db8::5efe:192.0.2.1", true},
        {"2001:db8::10.1.2.3", true},             /* digits alone are no such thing */
        {"2001:0:a01:203::f5fe:fdfc", false},     /* Teredo: the server is 10.1.2.3 */
        {"2001:0:c000:201:0:0:f5fe:fdfc", false}, /* Teredo: the client is */
        {"2001:0:c000:201:0:0:3fff:fdfe", true},
    };
    static const char *const block[] = {"10.0.0.0/8", "127.0.0.0/8", "::1/128", "fc00::/7"};
    struct ip_range blocked[4], allowed[1];
    struct ip_policy policy = {blocked, allowed, 4, 1};

    (void)state;
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(ip_range_parse(str_of(block[i]), &blocked[i]), 0);
    assert_int_equal(ip_range_parse(STR("10.9.0.0/16"), &allowed[0]), 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ip_range a;
        assert_true(ip_parse(str_of(rows[i].address), &a));
        if (ip_policy_allows(&policy, a.bytes, a.v6) != rows[i].allowed)
            fail_msg("%s", rows[i].address);
    }
}

static void test_parse(void **state)
{
    struct ip_range a;

    (void)state;
    assert_true(ip_parse(STR("[::1]"), &a));
    assert_true(a.v6 && a.bits == 128);
    assert_true(ip_parse(STR("192.0.2.1"), &a));
    assert_false(ip_parse(STR("192.0.2.1/8"), &a));
    assert_false(ip_parse(STR("gateway.example"), &a));
    assert_false(ip_parse(STR("0x7f.1"), &a));
    assert_false(ip_parse(str_n("192.0.2.1\0x", 11), &a));
}

int run_ip_tests(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_policy), cmocka_unit_test(test_parse)};

    return cmocka_run_group_tests_name("ip", tests, NULL, NULL);
}
