# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""State after the timeline (MSC4222): initial, linear, gappy, lazy, archived; with what the timeline repeats."""

from __future__ import annotations

from typing import Any

from oracle.context import Context, Device

SETTINGS = {"experimental_features": {"msc4222_enabled": True}}

NAME = "org.matrix.msc4222.state_after"
AFTER = {"org.matrix.msc4222.use_state_after": True}
SMALL = {"room": {"timeline": {"limit": 3}}}
LAZY = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 5}}}
REDUNDANT = {"room": {"state": {"lazy_load_members": True, "include_redundant_members": True}}}
ONLY_NAMES = {"room": {"state": {"types": ["m.room.name"]}, "timeline": {"not_types": ["m.room.topic"]}}}
LEFT = {"room": {"include_leave": True}}


def _types(body: dict[str, Any], room: str, section: str = "join") -> list[str]:
    return [event["type"] for event in body["rooms"][section][room][NAME]["events"]]


def _eager(context: Context, alice: Device, bob: Device, carol: Device, room: str) -> None:
    body = alice.ask("initial", **AFTER)
    assert "state" not in body["rooms"]["join"][room] and "m.room.create" in _types(body, room), body
    bob.do.text(room, "nothing of state")
    assert _types(alice.ask("a message", **AFTER), room) == []
    alice.do.state(room, "m.room.topic", {"topic": "one"})
    alice.do.state(room, "m.room.topic", {"topic": "two"})
    assert _types(alice.ask("in timeline and state", **AFTER), room) == ["m.room.topic"]
    alice.do.state(room, "m.room.topic", {"topic": "three"})
    carol.do.join(room)
    for number in range(5):
        bob.do.text(room, f"more {number}")
    alice.do.state(room, "m.room.name", {"name": "After"})
    body = alice.ask("a gap", filter=SMALL, **AFTER)
    assert sorted(_types(body, room)) == ["m.room.member", "m.room.name", "m.room.topic"], body
    bob.do.text(room, "back to state")
    alice.do.state(room, "m.room.topic", {"topic": "four"})
    assert "state" in alice.ask("not asked for")["rooms"]["join"][room]
    alice.do.state(room, "m.room.topic", {"topic": "five"})
    alice.ask("said no", **{"org.matrix.msc4222.use_state_after": False})
    alice.ask("whole state", full_state=True, **AFTER)
    alice.do.state(room, "m.room.name", {"name": "Filtered"})
    alice.do.state(room, "m.room.topic", {"topic": "filtered"})
    alice.ask("filters", filter=ONLY_NAMES, **AFTER)
    alice.do.state(room, "m.room.topic", {"topic": "only this"})
    alice.ask("an empty timeline hides the state", filter=ONLY_NAMES, **AFTER)
    context.ask_parked(
        alice, "while parked", lambda: alice.do.state(room, "m.room.topic", {"topic": "six"}), **AFTER
    )
    context.device(alice.user_id, "D2").ask("initial with a small limit", filter=SMALL, **AFTER)


def _lazy(context: Context, alice: Device, bob: Device, carol: Device, room: str) -> None:
    device = context.device(alice.user_id, "L1")
    device.ask("lazy, initial", filter=LAZY, **AFTER)
    carol.do.text(room, "not shown before")
    device.ask("lazy, a new sender", filter=LAZY, **AFTER)
    carol.do.text(room, "known now")
    device.ask("lazy, a known sender", filter=LAZY, **AFTER)
    carol.do.state(room, "m.room.member", {"membership": "join", "displayname": "Carol C."}, carol.user_id)
    carol.do.text(room, "renamed")
    device.ask("lazy, a member changes", filter=LAZY, **AFTER)
    dave = context.user("dave")
    alice.do.membership(room, "invite", dave.user_id)
    dave.do.join(room)
    dave.do.text(room, "hello")
    device.ask("lazy, somebody joins and writes", filter=LAZY, **AFTER)
    for number in range(8):
        (bob, carol)[number % 2].do.text(room, f"gap {number}")
    dave.do.membership(room, "leave")
    device.ask("lazy, a gap", filter=LAZY, **AFTER)
    bob.do.text(room, "whole")
    device.ask("lazy, whole state", filter=LAZY, full_state=True, **AFTER)
    bob.do.text(room, "redundant")
    device.ask("lazy, redundant", filter=REDUNDANT, **AFTER)
    context.device(alice.user_id, "L2").ask("lazy and redundant, initial", filter=REDUNDANT, **AFTER)


def _memberships(context: Context, alice: Device, bob: Device) -> None:
    room = context.room(alice, name="Comings and goings")
    bob.ask("before", **AFTER)
    lazy = context.device(bob.user_id, "L3")
    lazy.ask("before, lazy", filter=LAZY, **AFTER)
    alice.do.membership(room, "invite", bob.user_id)
    bob.do.join(room)
    alice.do.state(room, "m.room.topic", {"topic": "after the join"})
    body = bob.ask("newly joined", **AFTER)
    assert {"m.room.create", "m.room.topic"} <= set(_types(body, room)), body
    lazy.ask("newly joined, lazy", filter=LAZY, **AFTER)
    alice.do.state(room, "m.room.topic", {"topic": "before the leave"})
    bob.do.membership(room, "leave")
    alice.do.state(room, "m.room.topic", {"topic": "after the leave"})
    alice.do.state(room, "m.room.name", {"name": "Behind closed doors"})
    body = bob.ask("left", **AFTER)
    assert sorted(_types(body, room, "leave")) == ["m.room.member", "m.room.topic"], body
    lazy.ask("left, lazy", filter=LAZY, **AFTER)
    context.device(bob.user_id, "D2").ask("left, initial", filter=LEFT, **AFTER)
    context.device(bob.user_id, "D3").ask("left, initial, small", filter={"room": {**LEFT["room"], **SMALL["room"]}}, **AFTER)
    lazy_left = {"room": {**LEFT["room"], **LAZY["room"]}}
    context.device(bob.user_id, "L4").ask("left, initial, lazy", filter=lazy_left, **AFTER)
    alice.do.membership(room, "invite", bob.user_id)
    bob.do.join(room)
    bob.do.membership(room, "leave")
    bob.ask("joined and left again", **AFTER)
    alice.do.membership(room, "invite", bob.user_id)
    bob.do.join(room)
    alice.do.membership(room, "ban", bob.user_id)
    alice.do.state(room, "m.room.topic", {"topic": "about the banned"})
    bob.ask("banned", **AFTER)


def run(context: Context) -> None:
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    room = context.room(alice, bob, preset="public_chat", topic="zero")
    _eager(context, alice, bob, carol, room)
    _lazy(context, alice, bob, carol, room)
    _memberships(context, alice, bob)
    context.ask_error(alice, "neither true nor false", **{"org.matrix.msc4222.use_state_after": "1"})
