/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Response heads and error bodies. Every response carries Server, Date, Cache-Control and the four CORS
 * headers, as Synapse's JSON responses do, and a Content-Length, because bodies are complete when they come
 * here. The head of the usual response (200, JSON, keep-alive) is the same for everybody within a second up
 * to its length, so it is made once per front and second; a delta then costs the digits of its length.
 */
#include "http_int.h"
#include "chappe/clock.h"
#include "chappe/json.h"
#include <stdio.h>
#include <time.h>

static const struct {
    int status;
    const char *label, *text;
} statuses[] = {
    {200, "200", "OK"},
    {204, "204", "No Content"},
    {302, "302", "Found"},
    {400, "400", "Bad Request"},
    {401, "401", "Unauthorized"},
    {403, "403", "Forbidden"},
    {404, "404", "Not Found"},
    {405, "405", "Method Not Allowed"},
    {408, "408", "Request Timeout"},
    {409, "409", "Conflict"},
    {413, "413", "Content Too Large"},
    {415, "415", "Unsupported Media Type"},
    {429, "429", "Too Many Requests"},
    {499, "499", "Client Closed Request"},
    {500, "500", "Internal Server Error"},
    {502, "502", "Bad Gateway"},
    {503, "503", "Service Unavailable"},
    {504, "504", "Gateway Timeout"},
};

const char *http_status_text(int status)
{
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        if (statuses[i].status == status)
            return statuses[i].text;
    }
    return "Unknown";
}

const char *http_status_label(int status)
{
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        if (statuses[i].status == status)
            return statuses[i].label;
    }
    return "other";
}

/* Locale-free, as RFC 9110 wants it. */
void front_date(struct front *f)
{
    static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    int64_t now = clock_wall_s();
    if (now == f->date_s)
        return;
    f->date_s = now;
    f->ahead_ms = clock_wall_ms() - clock_mono_ms();
    time_t t = (time_t)now;
    struct tm tm;
    gmtime_r(&t, &tm);
    snprintf(f->date, sizeof f->date, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT", days + 3 * (tm.tm_wday % 7),
             tm.tm_mday % 32, months + 3 * (tm.tm_mon % 12), (tm.tm_year + 1900) % 10000, tm.tm_hour % 24,
             tm.tm_min % 60, tm.tm_sec % 61);
    f->usual_bytes = 0;
}

static void put_head(struct buf *b, const struct front *f, const struct http_res *res, bool close,
                     bool has_type)
{
    buf_printf(b, "HTTP/1.1 %d %s\r\nServer: " CHAPPE_SERVER_HEADER "\r\nDate: %s\r\n", res->status,
               http_status_text(res->status), f->date);
    if (has_type)
        buf_printf(b, "Content-Type: %s\r\n", res->content_type ? res->content_type : "application/json");
    buf_put(b, STR("Cache-Control: no-cache, no-store, must-revalidate\r\n"
                   "Access-Control-Allow-Origin: *\r\n"
                   "Access-Control-Allow-Methods: GET, HEAD, POST, PUT, DELETE, OPTIONS\r\n"
                   "Access-Control-Allow-Headers: X-Requested-With, Content-Type, Authorization, Date\r\n"
                   "Access-Control-Expose-Headers: Synapse-Trace-Id, Server\r\n"));
    if (res->retry_after_s > 0)
        buf_printf(b, "Retry-After: %d\r\n", res->retry_after_s);
    if (close)
        buf_put(b, STR("Connection: close\r\n"));
    buf_put(b, STR("Content-Length: "));
}

struct str response_head(struct front *f, const struct http_res *res, bool close)
{
    front_date(f);
    struct buf *b = &f->head;
    if (res->status == 200 && !res->content_type && !close && res->retry_after_s == 0) {
        if (f->usual_bytes == 0) {
            buf_reset(b);
            put_head(b, f, res, false, true);
            f->usual_bytes = b->n;
        }
        b->n = f->usual_bytes;
    } else {
        f->usual_bytes = 0;
        buf_reset(b);
        put_head(b, f, res, close, res->content_type || res->body.bytes > 0);
    }
    buf_i64(b, (int64_t)res->body.bytes);
    buf_put(b, STR("\r\n\r\n"));
    return buf_str(b);
}

void http_res_init(struct http_res *res, int status)
{
    *res = (struct http_res){.status = status};
    rope_init(&res->body);
}

void http_res_error(struct http_res *res, int status, const char *errcode, struct str error,
                    const struct json *extra)
{
    struct arena *a = arena_new((size_t)1 << 20);
    struct json *obj = json_new(a, JSON_OBJECT);
    json_set(obj, STR("errcode"), json_new_str(a, str_of(errcode)));
    json_set(obj, STR("error"), json_new_str(a, error));
    json_each(member, extra)
        json_set(obj, member->key, json_clone(a, member));
    struct buf b;
    buf_init(&b, (size_t)1 << 20);
    json_write(&b, obj, JSON_SORTED | JSON_UTF8);
    http_res_init(res, status);
    rope_put(&res->body, buf_str(&b));
    buf_fini(&b);
    arena_free(&a);
}
