/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/* What reading the head of a re-poll costs a front, as a browser sends it through a proxy. */
#include "count.h"
#include "http_int.h"
#include "http.h"

static const char head[] =
    "GET /_matrix/client/v3/sync?filter=0&timeout=30000&org.matrix.msc4222.use_state_after=true"
    "&since=s1000004_100_0_100_100_100_1000003_100_0_100_100_100_100 HTTP/1.1\r\n"
    "Host: matrix.example.org\r\n"
    "X-Forwarded-For: 192.0.2.7\r\n"
    "X-Forwarded-Proto: https\r\n"
    "sec-ch-ua-platform: \"Linux\"\r\n"
    "authorization: Bearer syt_dXNlcjAwMDA_aBcDeFgHiJkLmNoPqRsT_0000Ab\r\n"
    "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 "
    "Safari/537.36\r\n"
    "accept: application/json\r\n"
    "sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"\r\n"
    "sec-ch-ua-mobile: ?0\r\n"
    "origin: https://chat.example.org\r\n"
    "sec-fetch-site: same-site\r\n"
    "sec-fetch-mode: cors\r\n"
    "sec-fetch-dest: empty\r\n"
    "referer: https://chat.example.org/\r\n"
    "accept-encoding: gzip, deflate, br, zstd\r\n"
    "accept-language: fr-FR,fr;q=0.9,en;q=0.8\r\n"
    "\r\n";

void heads(int n)
{
    struct str bytes = str_n(head, sizeof head - 1);
    struct http_head parsed;
    size_t end;
    count_begin();
    for (int i = 0; i < n; i++) {
        ASSERT(http_head_quick(bytes, sizeof head, STR_ABSENT, &parsed, &end) && end == bytes.n);
        ASSERT(parsed.authorization_count == 1 && str_starts(parsed.query, STR("filter=0&")));
    }
    count_end("head", n);
    count_begin();
    for (int i = 0; i < n; i++) { /* as when it comes in pieces */
        struct http_head_scan scan = {0};
        enum close_reason why;
        ASSERT(http_head_scan(&scan, bytes, sizeof head, &end, &why) == 1 && end == bytes.n);
        ASSERT(http_head_parse(bytes, STR_ABSENT, STR("x"), &parsed, &why) == 0);
        ASSERT(parsed.authorization_count == 1 && str_starts(parsed.query, STR("filter=0&")));
    }
    count_end("head-in-pieces", n);
}
