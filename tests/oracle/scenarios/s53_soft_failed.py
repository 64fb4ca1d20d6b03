# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Soft-failed events: for server admins who ask for them in their account data, with their marks."""

from __future__ import annotations

from typing import Any

from oracle.context import Context, Device

CONFIG = "io.element.synapse.admin_client_config"


def _texts(body: dict[str, Any], room: str) -> list[str]:
    events = body["rooms"]["join"][room]["timeline"]["events"]
    return [event["content"].get("body") for event in events if event["type"] == "m.room.message"]


def _mark(context: Context, event_id: str, *marks: str) -> None:
    """Write into the database what a check at the event's arrival would have."""
    added = "{" + ",".join(f'"{mark}":true' for mark in marks) + "}"
    context.world.deployment.postgres.psql(
        f"UPDATE event_json SET internal_metadata = (internal_metadata::jsonb || '{added}'::jsonb)::text"
        f" WHERE event_id = '{event_id}'"
    )


def _fresh(context: Context, user: Device, step: str, room: str, number: list[int]) -> list[str]:
    number[0] += 1
    return _texts(context.device(user.user_id, f"F{number[0]}").ask(step), room)


def run(context: Context) -> None:
    world = context.world
    alice = context.device(world.new_user("alice", admin=True), "D1")
    bob, carol = context.user("bob"), context.user("carol")
    room = context.room(alice, bob, carol)
    since = alice.ask("initial") and alice.since
    bob.do.text(room, "fine")
    _mark(context, bob.do.text(room, "failed"), "soft_failed")
    _mark(context, bob.do.text(room, "spammy"), "soft_failed", "policy_server_spammy")
    _mark(context, bob.do.text(room, "only spammy"), "policy_server_spammy")
    _mark(context, bob.do.state(room, "m.room.member", {"membership": "join", "displayname": "B"}, bob.user_id), "soft_failed")
    bob.do.text(room, "fine too")
    world.apply({}, again=True)
    count = [0]
    without = ["fine", "only spammy", "fine too"]
    assert _fresh(context, alice, "an admin who did not ask", room, count) == without
    for step, wish, expected in (
        ("all", {"return_soft_failed_events": True}, ["fine", "failed", "spammy", "only spammy", "fine too"]),
        ("spammy ones", {"return_policy_server_spammy_events": True}, ["fine", "spammy", "only spammy", "fine too"]),
        (
            "all but spammy ones, which is all",
            {"return_soft_failed_events": True, "return_policy_server_spammy_events": False},
            ["fine", "failed", "spammy", "only spammy", "fine too"],
        ),
        ("odd values", {"return_soft_failed_events": "no", "return_policy_server_spammy_events": 0}, None),
        ("nothing", {}, without),
        ("no more", {"return_soft_failed_events": 0}, without),
    ):
        alice.do.account_data(CONFIG, wish)
        bob.do.account_data(CONFIG, wish)
        shown = _fresh(context, alice, f"an admin who wants {step}", room, count)
        assert expected is None or shown == expected, shown
        assert _fresh(context, bob, f"another who wants {step}", room, count) == without
    alice.do.account_data(CONFIG, {"return_soft_failed_events": True})
    carol.do.text(room, "more")
    alice.ask("from before, with all", since=since)
    alice.do.account_data("m.ignored_user_list", {"ignored_users": {bob.user_id: {}}})
    alice.ask("ignored all the same", since=since)
    carol.ask("as everybody sees it")
