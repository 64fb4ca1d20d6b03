# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Typing in several rooms, and receipts: public, private, threaded, of several users, superseded, clashing."""

from __future__ import annotations

import itertools
import time

from oracle.context import Context


def run(context: Context) -> None:
    """Typing, single receipts, then receipts in pairs."""
    _typing(context)
    _receipts(context)
    _pairs(context)


def _typing(context: Context) -> None:
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    rooms = [context.room(alice, bob, carol, name=f"Typing {number}") for number in range(2)]
    alice.ask("initial")
    for room in rooms:
        bob.do.typing(room, True)
    carol.do.typing(rooms[0], True)
    alice.ask("two rooms at once")
    bob.do.typing(rooms[0], True, timeout=60000)
    alice.ask("still typing brings nothing new")
    context.ask_parked(
        alice, "one stops in one room", lambda: bob.do.typing(rooms[0], False), filter={"presence": {"types": []}}
    )
    carol.do.typing(rooms[0], False)
    body = alice.ask("nobody left in that room")
    typing = body["rooms"]["join"][rooms[0]]["ephemeral"]["events"]
    assert typing == [{"type": "m.typing", "content": {"user_ids": []}}], typing
    carol.do.typing(rooms[1], True, timeout=400)
    alice.ask("typing for a short time")
    time.sleep(1.5)
    bob.do.typing(rooms[1], False)
    while True:
        body = alice.ask("timed out or stopped")
        events = body.get("rooms", {}).get("join", {}).get(rooms[1], {}).get("ephemeral", {}).get("events", [])
        if events and events[-1]["content"]["user_ids"] == []:
            break
        time.sleep(0.5)
    bob.do.typing(rooms[1], True)
    only = {"room": {"ephemeral": {"types": ["m.receipt"]}}}
    alice.ask("typing is not asked for", filter=only)
    body = alice.ask("nor told later")
    assert "rooms" not in body, body
    bob.do.typing(rooms[1], False)


def _receipts(context: Context) -> None:
    """Each kind alone, as its sender and as others see it; a receipt alone leaves prev_batch where one stands."""
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    room = context.room(alice, bob, carol, name="Receipts")
    root = bob.do.text(room, "root")
    thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    events = [bob.do.text(room, "in the thread", **thread), *(bob.do.text(room, f"main {n}") for n in range(3))]
    for who in (alice, carol):
        who.ask("initial")
    cases = [
        ("m.read", root, None),
        ("m.read", events[1], "main"),
        ("m.read", events[0], root),
        ("m.read.private", events[1], None),
        ("m.read.private", events[2], "main"),
        ("m.read", events[2], None),
        ("m.read", events[1], None),  # backwards: refused silently
        ("m.read.private", events[0], root),
        ("m.read", events[3], "main"),
    ]
    for kind, event_id, in_thread in cases:
        alice.do.receipt(room, event_id, kind, thread=in_thread)
        before = carol.since
        body = carol.ask(f"{kind} of somebody, thread {in_thread}")
        if "rooms" in body:
            timeline = body["rooms"]["join"][room]["timeline"]
            assert not timeline["events"] and not timeline["limited"] and before is not None, timeline
            assert timeline["prev_batch"].split("_")[0] == before.split("_")[0], (timeline, before)
        else:
            assert kind == "m.read.private" or event_id == events[1], body
        alice.ask(f"{kind} of mine, thread {in_thread}")
    wake = {"presence": {"types": []}}
    context.ask_parked(
        alice,
        "my private receipt while parked",
        lambda: alice.do.receipt(room, events[3], "m.read.private"),
        filter=wake,
    )
    context.ask_parked(
        carol,
        "another's private receipt ends no poll, a public one does",
        lambda: (alice.do.receipt(room, bob.do.text(room, "new"), "m.read.private"), None)[1],
        filter=wake,
    )
    for device in ("D2", "D3"):
        context.device(carol.user_id, device).ask("initial of another")
        context.device(alice.user_id, device).ask("initial of the reader")


def _pairs(context: Context) -> None:
    """Any two receipts of one user in one answer, for the same event and for different ones."""
    alice, bob = context.user("alice"), context.user("bob")
    kinds = [("m.read", None), ("m.read", "main"), ("m.read", "root"), ("m.read.private", None), ("m.read.private", "main")]
    rooms = []
    for first, second in itertools.permutations(kinds, 2):
        room = context.room(alice, bob, name=f"{first} {second}")
        root = bob.do.text(room, "root")
        one = bob.do.text(room, "one", **{"m.relates_to": {"rel_type": "m.thread", "event_id": root}})
        rooms.append((room, root, one, bob.do.text(room, "two"), first, second))
    for who in (alice, bob):
        who.ask("initial")
    for same in (True, False):
        for room, root, one, two, first, second in rooms:
            for (kind, thread), event_id in ((first, root), (second, root if same else two)):
                in_thread = root if thread == "root" else thread
                target = one if in_thread == root and not same else event_id
                alice.do.receipt(room, target, kind, thread=in_thread)
        for who in (alice, bob):
            who.ask(f"pairs for {'the same event' if same else 'different events'}")
    for who in (alice, bob):
        context.device(who.user_id, "D2").ask("initial with all pairs")
