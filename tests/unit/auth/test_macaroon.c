/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright the Chappe contributors */
/*
 * Guest access tokens. The vectors were made with pymacaroons under the key of the fixture (a word with a
 * letter outside ASCII), and Synapse's own verification was asked about each at the moment NOW; the second
 * column is its answer.
 */
#include "auth_test.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *user; /* NULL: refused */
    const char *token;
} vectors[] = {
    {"good", "@guest:hs.test",
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIga2V5CjAwMTBjaWQgZ2VuID0gMQowMDE2Y2lkIHR5cGUgPSBh"
     "Y2Nlc3MKMDAyMWNpZCB1c2VyX2lkID0gQGd1ZXN0OmhzLnRlc3QKMDAxOWNpZCBub25jZSA9IGFifmNkPWVmCjAwMTVjaWQg"
     "Z3Vlc3QgPSB0cnVlCjAwMmZzaWduYXR1cmUgK8vuMOEOrvetKmDCUsztpPLr4DgVbLIM8iLM4vZuvBcK"},
    {"any order", "@guest:hs.test",
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIga2V5CjAwMTVjaWQgZ3Vlc3QgPSB0cnVlCjAwMjFjaWQgdXNl"
     "cl9pZCA9IEBndWVzdDpocy50ZXN0CjAwMTBjaWQgZ2VuID0gMQowMDE2Y2lkIHR5cGUgPSBhY2Nlc3MKMDAyZnNpZ25hdHVy"
     "ZSCJVyMBBN8w-rPWH8Q5PDXP9NEcHhpEmMzPwagOWK8HzQo"},
    {"other location", "@guest:hs.test",
     "MDAxN2xvY2F0aW9uIGVsc2V3aGVyZQowMDEzaWRlbnRpZmllciBrZXkKMDAxMGNpZCBnZW4gPSAxCjAwMTZjaWQgdHlwZSA9"
     "IGFjY2VzcwowMDIxY2lkIHVzZXJfaWQgPSBAZ3Vlc3Q6aHMudGVzdAowMDE1Y2lkIGd1ZXN0ID0gdHJ1ZQowMDJmc2lnbmF0"
     "dXJlIJtYVA8N3bUkDVThAyys_rNF7wOd4mPBJvSqLs-zSLGkCg"},
    {"time in the future", "@guest:hs.test",
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIga2V5CjAwMTBjaWQgZ2VuID0gMQowMDE2Y2lkIHR5cGUgPSBh"
     "Y2Nlc3MKMDAyMWNpZCB1c2VyX2lkID0gQGd1ZXN0OmhzLnRlc3QKMDAxNWNpZCBndWVzdCA9IHRydWUKMDAxZGNpZCB0aW1l"
     "IDwgMTcwMDAwMDYwMDAwMAowMDJmc2lnbmF0dXJlIM-J2fDuAvhSNQN8vHlcYfp_H6lm6zc_bTzpfocBu9twCg"},
    {"time past", NULL,
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIga2V5CjAwMTBjaWQgZ2VuID0gMQowMDE2Y2lkIHR5cGUgPSBh"
     "Y2Nlc3MKMDAyMWNpZCB1c2VyX2lkID0gQGd1ZXN0OmhzLnRlc3QKMDAxNWNpZCBndWVzdCA9IHRydWUKMDAxZGNpZCB0aW1l"
     "IDwgMTcwMDAwMDAwMDAwMAowMDJmc2lnbmF0dXJlILQM2aCEOp6OZdSZVCpVWScTykGb1Phy4jDWSCcJSiegCg"},
    {"time no number", NULL,
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIga2V5CjAwMTBjaWQgZ2VuID0gMQowMDE2Y2lkIHR5cGUgPSBh"
     "Y2Nlc3MKMDAyMWNpZCB1c2VyX2lkID0gQGd1ZXN0OmhzLnRlc3QKMDAxNWNpZCBndWVzdCA9IHRydWUKMDAxNGNpZCB0aW1l"
     "IDwgc29vbgowMDJmc2lnbmF0dXJlIEMkV3ob1SHD8-qJ8qLicHR0l-8F0RSu5lTxC9f6aMKhCg"},
    {"not guest", NULL,
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIga2V5CjAwMTBjaWQgZ2VuID0gMQowMDE2Y2lkIHR5cGUgPSBh"
     "Y2Nlc3MKMDAyMWNpZCB1c2VyX2lkID0gQGd1ZXN0OmhzLnRlc3QKMDAxMmNpZCBub25jZSA9IHgKMDAyZnNpZ25hdHVyZSCh"
     "pa4I8nrUHsO_nQqH8BIADxA-b6gFYAFJWFEFnByz6wo"},
    {"guest false", NULL,
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIga2V5CjAwMTBjaWQgZ2VuID0gMQowMDE2Y2lkIHR5cGUgPSBh"
     "Y2Nlc3MKMDAyMWNpZCB1c2VyX2lkID0gQGd1ZXN0OmhzLnRlc3QKMDAxNmNpZCBndWVzdCA9IGZhbHNlCjAwMmZzaWduYXR1"
     "cmUg56_mx41MWm1dMQn6H4IQfV9rsBU1Pzfv9e2RtHHgR5oK"},
    {"no user", NULL,
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIga2V5CjAwMTBjaWQgZ2VuID0gMQowMDE2Y2lkIHR5cGUgPSBh"
     "Y2Nlc3MKMDAxNWNpZCBndWVzdCA9IHRydWUKMDAyZnNpZ25hdHVyZSDb-u7U6_AlKkRbqvZDED0lpq4KqGKC8VSVAykfnRhG"
     "Ggo"},
    {"two users", NULL,
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIga2V5CjAwMTBjaWQgZ2VuID0gMQowMDE2Y2lkIHR5cGUgPSBh"
     "Y2Nlc3MKMDAyMWNpZCB1c2VyX2lkID0gQGd1ZXN0OmhzLnRlc3QKMDAyMWNpZCB1c2VyX2lkID0gQG90aGVyOmhzLnRlc3QK"
     "MDAxNWNpZCBndWVzdCA9IHRydWUKMDAyZnNpZ25hdHVyZSAr3x7xhldV-6iixmDz6C_bF03FRsdWsWWZuCAi7-uZrQo"},
    {"same user twice", "@guest:hs.test",
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIga2V5CjAwMTBjaWQgZ2VuID0gMQowMDE2Y2lkIHR5cGUgPSBh"
     "Y2Nlc3MKMDAyMWNpZCB1c2VyX2lkID0gQGd1ZXN0OmhzLnRlc3QKMDAyMWNpZCB1c2VyX2lkID0gQGd1ZXN0OmhzLnRlc3QK"
     "MDAxNWNpZCBndWVzdCA9IHRydWUKMDAyZnNpZ25hdHVyZSAOm_AdWggickqETyhbQ04Utnlvria2dP-oOuA8VsqdXQo"},
    {"unknown caveat", NULL,
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIga2V5CjAwMTBjaWQgZ2VuID0gMQowMDE2Y2lkIHR5cGUgPSBh"
     "Y2Nlc3MKMDAyMWNpZCB1c2VyX2lkID0gQGd1ZXN0OmhzLnRlc3QKMDAxNWNpZCBndWVzdCA9IHRydWUKMDAxNGNpZCBjb2xv"
     "ciA9IHJlZAowMDJmc2lnbmF0dXJlII5FiTtBoX3mRRqJZ0RsGHi7FZOugYL9j6g35OJUTUVXCg"},
    {"type session", NULL,
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIga2V5CjAwMTBjaWQgZ2VuID0gMQowMDE3Y2lkIHR5cGUgPSBz"
     "ZXNzaW9uCjAwMjFjaWQgdXNlcl9pZCA9IEBndWVzdDpocy50ZXN0CjAwMTVjaWQgZ3Vlc3QgPSB0cnVlCjAwMmZzaWduYXR1"
     "cmUgzrHRmukQUhcb3EF3jKB2DRnNqgMOzA0-LF3uul3xiSEK"},
    {"gen 2", NULL,
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIga2V5CjAwMTBjaWQgZ2VuID0gMgowMDE2Y2lkIHR5cGUgPSBh"
     "Y2Nlc3MKMDAyMWNpZCB1c2VyX2lkID0gQGd1ZXN0OmhzLnRlc3QKMDAxNWNpZCBndWVzdCA9IHRydWUKMDAyZnNpZ25hdHVy"
     "ZSAPOuSYUbp8Pl2FbO32NiTTmORZB7FXprjUyQLC1xsUjwo"},
    {"other key", NULL,
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIga2V5CjAwMTBjaWQgZ2VuID0gMQowMDE2Y2lkIHR5cGUgPSBh"
     "Y2Nlc3MKMDAyMWNpZCB1c2VyX2lkID0gQGd1ZXN0OmhzLnRlc3QKMDAxNWNpZCBndWVzdCA9IHRydWUKMDAyZnNpZ25hdHVy"
     "ZSB01yisf7h_pSYXkvzGLqzKrhOEtV0L7ZH6GqByOhgdvQo"},
    {"other identifier", "@guest:hs.test",
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIgeWVrCjAwMTBjaWQgZ2VuID0gMQowMDE2Y2lkIHR5cGUgPSBh"
     "Y2Nlc3MKMDAyMWNpZCB1c2VyX2lkID0gQGd1ZXN0OmhzLnRlc3QKMDAxNWNpZCBndWVzdCA9IHRydWUKMDAyZnNpZ25hdHVy"
     "ZSD1AAnE4T-4SJzwgsq1FkBusKGuBJYnwNkKxzcwxoOpHwo"},
    {"unknown user", "@ghost:hs.test",
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIga2V5CjAwMTBjaWQgZ2VuID0gMQowMDE2Y2lkIHR5cGUgPSBh"
     "Y2Nlc3MKMDAyMWNpZCB1c2VyX2lkID0gQGdob3N0OmhzLnRlc3QKMDAxNWNpZCBndWVzdCA9IHRydWUKMDAyZnNpZ25hdHVy"
     "ZSC9O3-6f7lUXnGOdMsHteqgrjNtTpCdjpyOa8yeJm_kjQo"},
    {"regular user", "@alice:hs.test",
     "MDAxNWxvY2F0aW9uIGhzLnRlc3QKMDAxM2lkZW50aWZpZXIga2V5CjAwMTBjaWQgZ2VuID0gMQowMDE2Y2lkIHR5cGUgPSBh"
     "Y2Nlc3MKMDAyMWNpZCB1c2VyX2lkID0gQGFsaWNlOmhzLnRlc3QKMDAxNWNpZCBndWVzdCA9IHRydWUKMDAyZnNpZ25hdHVy"
     "ZSCdHC6xY8ixmG8VYYvJNL3a-etQSGXh03_KpJxNw-ReZgo"},
};
enum { VECTORS = sizeof vectors / sizeof *vectors };
static const struct str key = {"sekrit-\xce\xba", 9};

static void verification(void **state)
{
    struct guest_macaroon *m = xcalloc(1, sizeof *m);

    (void)state;
    for (size_t i = 0; i < VECTORS; i++) {
        int rc = macaroon_verify_guest(str_of(vectors[i].token), key, NOW, m);
        if ((rc == 0) != (vectors[i].user != NULL) ||
            (rc == 0 && !str_eq(m->user_id, str_of(vectors[i].user))))
            fail_msg("%s: %d", vectors[i].name, rc);
    }
    assert_int_equal(macaroon_verify_guest(str_of(vectors[0].token), STR(""), NOW, m), -ERR_PARSE);
    assert_int_equal(macaroon_verify_guest(STR(""), key, NOW, m), -ERR_PARSE);
    free(m);
}

/* Every character changed, every prefix, a tail: refused, and no read outside the copy. */
static void damage(void **state)
{
    struct guest_macaroon *m = xcalloc(1, sizeof *m);
    size_t n = strlen(vectors[0].token);

    (void)state;
    for (size_t i = 0; i < n; i++) {
        char *prefix = xstrndup(str_n(vectors[0].token, i));
        assert_int_equal(macaroon_verify_guest(str_n(prefix, i), key, NOW, m), -ERR_PARSE);
        free(prefix);
    }
    size_t good = 0;
    for (size_t i = 0; i < n; i++) {
        char *copy = xstrndup(str_of(vectors[0].token));
        copy[i] = copy[i] == 'A' ? 'B' : 'A';
        /* Bits of the location are not signed. */
        if (macaroon_verify_guest(str_n(copy, n), key, NOW, m) == 0) {
            good++;
            assert_true(i < 32);
        }
        free(copy);
    }
    assert_true(good < 16);
    char tail[2048];
    snprintf(tail, sizeof tail, "%sAAAA", vectors[0].token);
    assert_int_equal(macaroon_verify_guest(str_of(tail), key, NOW, m), -ERR_PARSE);
    snprintf(tail, sizeof tail, "%s==", vectors[0].token);
    assert_int_equal(macaroon_verify_guest(str_of(tail), key, NOW, m), 0); /* padding is harmless */
    free(m);
}

static void requests(void **state)
{
    struct fix *f = fix_new(NULL);

    (void)state;
    for (size_t i = 0; i < VECTORS; i++) {
        f->ips_n = 0;
        struct outcome o = asked_token(f, vectors[i].token);
        const char *user = vectors[i].user;
        if (!user) {
            assert_refused(&o, 401, "M_UNKNOWN_TOKEN", "Invalid access token passed.", 0, vectors[i].name);
        } else if (strcmp(user, "@ghost:hs.test") == 0) {
            assert_refused(&o, 401, "M_UNKNOWN_TOKEN", "Unknown user_id @ghost:hs.test", 0, vectors[i].name);
        } else if (strcmp(user, "@alice:hs.test") == 0) {
            assert_refused(&o, 401, "M_UNKNOWN_TOKEN", "Guest access token used for regular user", 0,
                           vectors[i].name);
        } else {
            assert_accepted(&o, user, "guest_device", vectors[i].name);
            assert_true(o.r->is_guest);
            assert_int_equal(f->ips_n, 1);
            assert_string_equal(f->ips[0].device, "guest_device");
        }
        outcome_free(&o);
    }
    char header[1024];
    snprintf(header, sizeof header, "Bearer %s", vectors[0].token);
    struct outcome o = asked(f, &(struct ask){.authorization = header, .no_guests = true});
    assert_refused(&o, 403, "M_GUEST_ACCESS_FORBIDDEN", "Guest access not allowed", -1, "not here");
    fix_user(f, "@guest:hs.test")->locked = true;
    row(f, "get_user_locked_status", "@guest:hs.test", NULL);
    o = asked_token(f, vectors[0].token);
    assert_refused(&o, 401, "M_USER_LOCKED", "User account has been locked", 1, "locked guest");
    fix_free(&f);
}

static void a_parked_guest_becomes_a_user(void **state)
{
    struct fix *f = fix_new(NULL);
    struct outcome o = asked_token(f, vectors[0].token);
    struct watched w;

    (void)state;
    watch(f, &w, o.r);
    outcome_free(&o);
    row(f, "is_guest", "@guest:hs.test", NULL);
    fix_pump(f);
    assert_int_equal(w.ended, 0);
    fix_user(f, "@guest:hs.test")->guest = false;
    row(f, "is_guest", "@guest:hs.test", NULL);
    fix_pump(f);
    assert_int_equal(w.ended, 1);
    assert_int_equal(w.status, 401);
    fix_free(&f);
}

static void with_validity(struct config *cfg)
{
    cfg->account_validity = true;
}

/* Recognised as long as its user's row is the one that is cached, and there is no end in the macaroon. */
static void guests_again(void **state)
{
    struct fix *f = fix_new(with_validity);
    const char *token = vectors[0].token, *ends = vectors[3].token;

    (void)state;
    fix_user(f, "@guest:hs.test")->expires_ms = NOW + 400000;
    struct outcome o = asked_token(f, token), o2;
    f->ips_n = 0;
    assert_true(again_token(f, o.r, token));
    assert_int_equal(f->ips_n, 1);
    assert_string_equal(f->ips[0].device, "guest_device");
    fix_tick(f, 20000); /* beyond the life of "there is no such row" */
    assert_true(again_token(f, o.r, token));
    assert_int_equal(f->statements[SQL_auth_tokens], 1);
    row(f, "get_user_by_access_token", token, NULL);
    assert_false(again_token(f, o.r, token));
    outcome_free(&o);
    o = asked_token(f, token);
    assert_true(again_token(f, o.r, token));
    fix_tick(f, 379999); /* its row was read again meanwhile; its end is not yet */
    outcome_free(&o);
    o = asked_token(f, token);
    assert_true(again_token(f, o.r, token));
    fix_tick(f, 1);
    assert_false(again_token(f, o.r, token));
    o2 = asked_token(f, token);
    assert_refused(&o2, 403, "ORG_MATRIX_EXPIRED_ACCOUNT", "User account has expired", -1, "guest");
    outcome_free(&o);
    fix_free(&f);

    f = fix_new(NULL);
    o = asked_token(f, token);
    fix_user(f, "@guest:hs.test")->locked = true;
    assert_true(again_token(f, o.r, token));
    row(f, "get_user_locked_status", "@guest:hs.test", NULL);
    assert_false(again_token(f, o.r, token));
    outcome_free(&o);
    fix_user(f, "@guest:hs.test")->locked = false;
    row(f, "get_user_locked_status", "@guest:hs.test", NULL);
    o = asked_token(f, ends);
    assert_accepted(&o, "@guest:hs.test", "guest_device", "with an end");
    assert_false(again_token(f, o.r, ends));
    outcome_free(&o);
    fix_free(&f);
}

int run_macaroon(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(verification), cmocka_unit_test(damage), cmocka_unit_test(requests),
        cmocka_unit_test(a_parked_guest_becomes_a_user), cmocka_unit_test(guests_again)};

    return cmocka_run_group_tests_name("auth: guests", tests, NULL, NULL);
}
