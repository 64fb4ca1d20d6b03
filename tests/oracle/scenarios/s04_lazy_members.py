# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Lazy-loaded members, with and without redundant ones, and the room summary."""

from __future__ import annotations

from oracle.context import Context

LAZY = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 3}}}
REDUNDANT = {
    "room": {"state": {"lazy_load_members": True, "include_redundant_members": True}, "timeline": {"limit": 3}}
}


def run(context: Context) -> None:
    people = [context.user(name) for name in ("alice", "bob", "carol", "dave", "erin")]
    alice, bob, carol, dave, erin = people
    room = context.room(alice, bob, carol, dave)
    for number in range(4):
        bob.do.text(room, f"bob {number}")
    body = alice.ask("initial, lazy", filter=LAZY)
    joined = body["rooms"]["join"][room]
    members = [e["state_key"] for e in joined["state"]["events"] if e["type"] == "m.room.member"]
    assert carol.user_id not in members or carol.user_id in joined["summary"].get("m.heroes", []), members
    carol.do.text(room, "hello")
    alice.ask("a sender not yet sent", filter=LAZY)
    carol.do.text(room, "again")
    alice.ask("a sender already sent", filter=LAZY)
    alice.do.membership(room, "invite", erin.user_id)
    alice.ask("an invitation changes the summary", filter=LAZY)
    erin.do.join(room)
    alice.ask("a join changes the summary", filter=LAZY)
    for number in range(6):
        (bob, dave, erin)[number % 3].do.text(room, f"gap {number}")
    alice.ask("a gap, lazy", filter=LAZY)
    alice.do.state(room, "m.room.name", {"name": "Now it has a name"})
    dave.do.membership(room, "leave")
    alice.ask("a name and a leave", filter=LAZY)
    second = context.device(alice.user_id, "D2")
    second.ask("initial, redundant members", filter=REDUNDANT)
    bob.do.text(room, "one")
    second.ask("redundant members again", filter=REDUNDANT)
    bob.do.text(room, "two")
    second.ask("full state, lazy", filter=LAZY, full_state=True)
    third = context.device(alice.user_id, "D3")
    third.ask("initial, eager")
    bob.do.text(room, "three")
    third.ask("eager to lazy", filter=LAZY)
    empty = context.room(alice)
    alice.ask("a room of one has a summary", filter=LAZY)
    bob_second = context.device(bob.user_id, "D2")
    alice.do.membership(empty, "invite", bob.user_id)
    bob.do.join(empty)
    bob_second.ask("initial after joining", filter=LAZY)
