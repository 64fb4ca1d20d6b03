# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A plain room from the beginning, then message by message, asked and parked."""

from __future__ import annotations

from oracle.context import Context


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob, name="Plain", topic="oracle")
    body = alice.ask("initial")
    assert room in body["rooms"]["join"], body
    bob.ask("initial, other member")
    for number in range(3):
        bob.do.text(room, f"message {number}")
        body = alice.ask(f"message {number}")
        events = body["rooms"]["join"][room]["timeline"]["events"]
        assert [event["content"]["body"] for event in events] == [f"message {number}"], events
    bob.do.text(room, "one")
    alice.do.text(room, "two, with a transaction id of mine")
    alice.ask("two at once")
    bob.ask("five for the other")
    context.ask_parked(alice, "a message while parked", lambda: bob.do.text(room, "wake up"))
    context.ask_parked(alice, "a state event while parked", lambda: bob.do.call("PUT", f"/profile/{bob.user_id}/displayname", {"displayname": "Bob B."}))
    alice.do.state(room, "m.room.topic", {"topic": "new"})
    alice.do.state(room, "org.example.odd", {"nested": {"list": [1, None, True, "é\u2028\u0000"]}}, "key/with space")
    bob.ask("state in the timeline")
    fresh = context.device(alice.user_id, "D2")
    fresh.ask("initial, second device")
