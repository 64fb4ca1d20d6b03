# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Redactions, edits, reactions and replies, with what servers bundle into events."""

from __future__ import annotations

from oracle.context import Context


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob, name="Relations")
    alice.ask("initial")
    target = bob.do.text(room, "first version")
    bob.do.send(
        room,
        {
            "msgtype": "m.text",
            "body": "* second version",
            "m.new_content": {"msgtype": "m.text", "body": "second version"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": target},
        },
    )
    alice.ask("a message and its edit")
    reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": target, "key": "👍"}}
    thumbs = alice.do.send(room, reaction, "m.reaction")
    bob.ask("a reaction")
    alice.do.redact(room, thumbs)
    bob.ask("the reaction taken back")
    doomed = bob.do.text(room, "this goes away")
    bob.do.redact(room, doomed, "mistake")
    alice.ask("redacted before it was seen")
    seen = bob.do.text(room, "this is seen, then goes away")
    alice.ask("seen")
    bob.do.redact(room, seen)
    alice.ask("the redaction")
    root = alice.do.text(room, "thread root")
    for number in range(2):
        bob.do.text(room, f"in thread {number}", **{"m.relates_to": {"rel_type": "m.thread", "event_id": root}})
    alice.ask("a thread")
    alice.do.text(room, "a reply", **{"m.relates_to": {"m.in_reply_to": {"event_id": root}}})
    bob.ask("a reply")
    reference = {"m.relates_to": {"rel_type": "m.reference", "event_id": root}}
    bob.do.send(room, {"body": "poll end", **reference}, "org.example.poll")
    context.device(alice.user_id, "D2").ask("initial with bundles", filter={"room": {"timeline": {"limit": 30}}})
    name = alice.do.state(room, "m.room.name", {"name": "To be redacted"})
    alice.do.redact(room, name)
    bob.ask("redacted state")
    context.device(bob.user_id, "D2").ask("initial with redacted state", filter={"room": {"timeline": {"limit": 1}}})
