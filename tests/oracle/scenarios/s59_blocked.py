# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A homeserver that serves nobody, and one that serves no more than so many users a month."""

from __future__ import annotations

from oracle.context import Context

MAU = {"limit_usage_by_mau": True, "mau_trial_days": 0, "admin_contact": "mailto:admin@example.org"}


def run(context: Context) -> None:
    world = context.world
    alice = context.user("alice")
    admin = context.device(world.new_user("admin", admin=True), "D1")
    for device in (alice, admin):
        device.ask("served")
    world.apply({"hs_disabled": True, "hs_disabled_message": "closed for today", "admin_contact": "mailto:a@example.org"})
    for device in (alice, admin):
        body = context.ask_error(device, "disabled", since=device.since)
        assert body["errcode"] == "M_RESOURCE_LIMIT_EXCEEDED", body
    context.ask_error(alice, "disabled, initial")
    context.ask_error(alice, "disabled, and wrong besides", since="rubbish")
    world.apply({**MAU, "max_mau_value": 0})
    body = context.ask_error(alice, "nobody more this month", since=alice.since)
    assert body["errcode"] == "M_RESOURCE_LIMIT_EXCEEDED" and body["admin_contact"] == MAU["admin_contact"], body
    context.ask_error(alice, "nobody more, initial")
    context.ask_error(admin, "not even the admin")
    world.apply({**MAU, "max_mau_value": 100000})
    alice.ask("room for all")
    world.apply({**MAU, "limit_usage_by_mau": False, "max_mau_value": 0})
    alice.ask("not limited")
