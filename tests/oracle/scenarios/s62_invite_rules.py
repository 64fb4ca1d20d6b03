# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Invitations that a user's rules hide (MSC4155), and the newer kind that outranks them (MSC4380)."""

from __future__ import annotations

from typing import Any

from oracle.context import Context, Device

SETTINGS = {"experimental_features": {"msc4155_enabled": True}}
MSC4155 = "org.matrix.msc4155.invite_permission_config"


def shown(context: Context, alice: Device, step: str, rooms: dict[str, str]) -> set[str]:
    """Return who of the inviters is shown, incrementally, and check that an initial sync says the same."""
    alice.ask(step)
    initial = context.device(alice.user_id, f"D{context.steps}").ask(f"{step}: initial")
    invited = initial.get("rooms", {}).get("invite", {})
    return {name for name, room in rooms.items() if room in invited}


def run(context: Context) -> None:
    alice = context.user("alice")
    inviters = {name: context.user(name) for name in ("friend", "stranger", "pest")}
    alice.ask("initial")
    rooms: dict[str, str] = {}
    for name, inviter in inviters.items():
        rooms[name] = inviter.do.create_room(preset="private_chat", invite=[alice.user_id])
    assert shown(context, alice, "invited by three", rooms) == set(inviters)

    pest, server = inviters["pest"].user_id, alice.user_id.split(":", 1)[1]
    rules: list[tuple[str, dict[str, Any], set[str]]] = [
        ("one ignored", {"ignored_users": [pest]}, {"friend", "stranger"}),
        ("glob", {"ignored_users": ["@P?ST*"]}, {"friend", "stranger"}),
        ("allowed first", {"ignored_users": ["@pest*"], "allowed_users": [pest]}, set(inviters)),
        ("a server", {"ignored_servers": [server], "allowed_users": ["@friend*"]}, {"friend"}),
        ("allowed server", {"ignored_servers": [server], "allowed_servers": ["*"]}, set(inviters)),
        ("odd", {"ignored_users": [1, None, "", "@pest*"], "ignored_servers": "x"}, {"friend", "stranger"}),
    ]
    for step, content, wanted in rules:
        alice.do.account_data(MSC4155, content)
        got = shown(context, alice, step, rooms)
        assert got == wanted, (step, got)
    alice.do.account_data(MSC4155, {"ignored_users": ["@pest*"]})
    alice.ask("rules again")
    late = inviters["pest"]
    query = {"filter": {"presence": {"types": []}}}
    rooms["pest2"] = late.do.create_room(preset="private_chat")
    try:
        late.do.membership(rooms["pest2"], "invite", alice.user_id)
    except Exception as refused:  # the server may refuse, or take it and hide it
        print(f"the invitation was refused: {refused}")
    got = shown(context, alice, "a new invitation", rooms)
    assert "pest2" not in got, got
    alice.do.account_data("m.invite_permission_config", {"default_action": "allow"})
    got = shown(context, alice, "the newer kind", rooms)
    assert set(inviters) <= got, got
    alice.ask("and on", **query)
