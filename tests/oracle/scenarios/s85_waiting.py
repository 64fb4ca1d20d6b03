# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""What ends a waiting poll and what does not: filtered events, one's own leave and what follows."""

from __future__ import annotations

import json
import time

from oracle.context import Context, Device

TOPICS = {"room": {"timeline": {"types": ["m.room.topic"]}}, "presence": {"types": []}}
WAIT = 2500  # ms


def run(context: Context) -> None:
    """Each part has people of its own."""
    _filtered_out(context)
    _leaving(context)


def _waits_in_vain(context: Context, device: Device, step: str, text: str, room: str, writer: Device, **query: object) -> None:
    """A message does not end the poll; its time does, and the token that it gives has the message behind it."""
    begun = time.monotonic()
    body = context.ask_parked(device, step, lambda: writer.do.text(room, text), timeout=WAIT, **query)
    assert time.monotonic() - begun >= WAIT / 1000, f"{step}: the poll ended early"
    assert "rooms" not in body, body


def _filtered_out(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob, name="Topics only")
    bob.ask("initial, topics only", filter=TOPICS)
    _waits_in_vain(context, bob, "a message that is filtered out", "not for the filter", room, alice, filter=TOPICS)
    body = bob.ask("the same device without a filter: the message is behind it")
    assert "not for the filter" not in json.dumps(body), body
    body = context.ask_parked(
        bob,
        "a message that is filtered out, then one that is not",
        lambda: (alice.do.text(room, "nor this"), alice.do.state(room, "m.room.topic", {"topic": "for the filter"})),
        filter=TOPICS,
        timeout=8000,
    )
    assert "for the filter" in json.dumps(body) and "nor this" not in json.dumps(body), body


def _leaving(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob, name="Left while waiting", preset="public_chat")
    bob.ask("initial")
    elsewhere = context.device(bob.user_id, "D2")
    body = context.ask_parked(bob, "one's own leave", lambda: elsewhere.do.membership(room, "leave"))
    assert room in body["rooms"]["leave"], body
    for number in range(2):
        _waits_in_vain(context, bob, f"message {number} after the leave", "behind the door", room, alice)
    body = context.ask_parked(bob, "joined again", lambda: elsewhere.do.join(room))
    assert room in body["rooms"]["join"], body
    body = context.ask_parked(bob, "a message after joining again", lambda: alice.do.text(room, "welcome back"))
    assert "welcome back" in json.dumps(body), body
    assert "behind the door" not in json.dumps(body), body
