# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""History visibility: who joined later, or left, must not see what was not meant for them."""

from __future__ import annotations

from oracle.context import Context

WIDE = {"room": {"timeline": {"limit": 50}, "include_leave": True}}


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    bob.ask("initial, before everything")
    rooms = {}
    for rule in ("joined", "invited", "shared", "world_readable"):
        visibility = {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": rule}}
        rooms[rule] = context.room(alice, name=rule, initial_state=[visibility])
    for room in rooms.values():
        alice.do.text(room, "before the invitation")
        alice.do.membership(room, "invite", bob.user_id)
        alice.do.text(room, "while invited")
        bob.do.join(room)
        alice.do.text(room, "while joined")
    body = bob.ask("joined four rooms", filter=WIDE)
    texts = {
        rule: [
            event["content"]["body"]
            for event in body["rooms"]["join"][room]["timeline"]["events"]
            if event["type"] == "m.room.message"
        ]
        for rule, room in rooms.items()
    }
    assert texts["joined"] == ["while joined"], texts
    assert texts["invited"] == ["while invited", "while joined"], texts
    context.device(bob.user_id, "D2").ask("initial as a member", filter=WIDE)
    alice.do.state(rooms["shared"], "m.room.history_visibility", {"history_visibility": "joined"})
    alice.do.text(rooms["shared"], "after the rule changed")
    bob.ask("the rule changed")
    tight = context.room(alice, name="Tightened", initial_state=[
        {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "invited"}}
    ])
    alice.do.membership(tight, "invite", bob.user_id)
    for rule in ("joined", "invited", "joined", "shared"):
        alice.do.state(tight, "m.room.history_visibility", {"history_visibility": rule})
    bob.do.join(tight)
    bob.ask("rules that changed while invited", filter=WIDE)
    for room in rooms.values():
        bob.do.membership(room, "leave")
        alice.do.text(room, "after bob left")
    bob.ask("left four rooms")
    context.device(bob.user_id, "D3").ask("initial after leaving", filter=WIDE)
    for room in rooms.values():
        alice.do.membership(room, "invite", bob.user_id)
        bob.do.join(room)
        alice.do.text(room, "bob is back")
    bob.ask("back in four rooms", filter=WIDE)
    context.device(bob.user_id, "D4").ask("initial when back", filter=WIDE)
