# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""What counts as unread: every kind of event, every kind of receipt, before and after Synapse sums its counts up."""

from __future__ import annotations

import time
from typing import Callable
from urllib.parse import quote

from oracle.context import Context, Device, Json

THREADS: Json = {"room": {"timeline": {"unread_thread_notifications": True}}}
ROTATION_SECONDS = 60.0


def run(context: Context) -> None:
    """Kinds of events and receipts in rooms of their own, asked about twice: fresh and summed up."""
    alice, bob = context.user("alice"), context.user("bob")
    second = context.device(alice.user_id, "D2")
    alice.ask("initial")
    second.ask("initial", filter=THREADS)
    rooms = _kinds(context, alice, bob)
    rooms += _receipts(context, alice, bob, summed_up=True)
    rooms += _receipts(context, alice, bob, summed_up=False)
    _both(alice, second, "fresh")
    _await_rotation(context)
    context.device(alice.user_id, "D3").ask("initial, summed up", filter=THREADS)
    for room in rooms:
        bob.do.text(room, f"one more {alice.user_id}", **{"m.mentions": {"user_ids": [alice.user_id]}})
    _both(alice, second, "one more after the sum")
    _late_changes(context, alice, bob)


def _both(alice: Device, second: Device, title: str) -> None:
    alice.ask(f"{title}: all together")
    second.ask(f"{title}: threads apart", filter=THREADS)


def _room(context: Context, alice: Device, bob: Device, name: str) -> str:
    """A room that one joins without an invitation, whose notification would be summed up as well."""
    room = context.room(bob, name=name, preset="public_chat")
    alice.do.join(room)
    return room


def _kinds(context: Context, alice: Device, bob: Device) -> list[str]:
    def send(content: Json, event_type: str = "m.room.message") -> Callable[[str], object]:
        return lambda room: bob.do.send(room, content, event_type)

    def related(rel_type: str, **more: object) -> Callable[[str], object]:
        def act(room: str) -> None:
            target = bob.do.text(room, "target")
            relates = {"rel_type": rel_type, "event_id": target, "key": "+"}
            content = {"msgtype": "m.text", "body": "x", "m.relates_to": relates, **more}
            bob.do.send(room, content, "m.reaction" if rel_type == "m.annotation" else "m.room.message")

        return act

    def muted(room: str) -> None:
        alice.do.call("PUT", f"/pushrules/global/room/{quote(room)}", {"actions": ["dont_notify"]})
        bob.do.text(room, "into a muted room")

    new = {"m.new_content": {"msgtype": "m.text", "body": "y"}}
    kinds: dict[str, Callable[[str], object]] = {
        "message": send({"msgtype": "m.text", "body": "hello"}),
        "mention": send({"msgtype": "m.text", "body": "you", "m.mentions": {"user_ids": [alice.user_id]}}),
        "the whole room": send({"msgtype": "m.text", "body": "@room", "m.mentions": {"room": True}}),
        "name in the text": send({"msgtype": "m.text", "body": f"hi {alice.user_id[1:].split(':')[0]}"}),
        "encrypted": send({"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "A"}, "m.room.encrypted"),
        "reaction": related("m.annotation"),
        "edit": related("m.replace", **new),
        "reference": related("m.reference"),
        "notice": send({"msgtype": "m.notice", "body": "bot"}),
        "own": lambda room: alice.do.text(room, "mine"),
        "muted": muted,
        "state": lambda room: bob.do.state(room, "m.room.topic", {"topic": "t"}),
        "tombstone": lambda room: bob.do.state(room, "m.room.tombstone", {"body": "b", "replacement_room": "!elsewhere:chappe.localhost"}),
        "unknown": send({"body": "x"}, "org.example.unknown"),
    }
    rooms = []
    for name, act in kinds.items():
        room = _room(context, alice, bob, name)
        act(room)
        rooms.append(room)
    return rooms


def _receipts(context: Context, alice: Device, bob: Device, summed_up: bool) -> list[str]:
    """Messages in the main timeline and a thread, in turn; then, perhaps after the sum, one receipt or several."""
    written = []
    plans: list[list[tuple[int, str, str | None]]] = [
        [],
        [(2, "m.read", None)],
        [(2, "m.read.private", None)],
        [(2, "m.read", "main")],
        [(3, "m.read", "root")],
        [(2, "m.read", "main"), (3, "m.read", "root")],
        [(4, "m.read", None), (2, "m.read", "main")],
        [(1, "m.read", None), (3, "m.read", "root")],
        [(5, "m.read", "root"), (2, "m.read.private", None)],
        [(5, "m.read", None)],
        [(4, "m.read", None), (1, "m.read", None)],
    ]
    rooms = []
    for plan in plans:
        room = _room(context, alice, bob, f"{plan}")
        root = bob.do.text(room, "root")
        thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
        events = [root]
        for number in range(1, 6):
            events.append(bob.do.text(room, f"{number}", **(thread if number % 2 else {})))
        rooms.append(room)
        written.append((room, root, events))
    if summed_up:
        _await_rotation(context)
    for plan, (room, root, events) in zip(plans, written):
        for place, kind, in_thread in plan:
            alice.do.receipt(room, events[place], kind, thread=root if in_thread == "root" else in_thread)
    return rooms


def _await_rotation(context: Context) -> None:
    """Wait until Synapse has summed up all that was counted."""
    psql = context.world.deployment.postgres.psql
    deadline = time.monotonic() + ROTATION_SECONDS
    query = (
        "SELECT (SELECT max(stream_ordering) FROM event_push_actions)"
        " <= (SELECT stream_ordering FROM event_push_summary_stream_ordering)"
    )
    while psql(query).strip() != "t":
        assert time.monotonic() < deadline, "Synapse did not sum its counts up"
        time.sleep(0.5)


def _late_changes(context: Context, alice: Device, bob: Device) -> None:
    """A redaction of what is unread; a new display name, which reads everything where there is no receipt."""
    room, named = _room(context, alice, bob, "Redacted"), _room(context, alice, bob, "Renamed")
    bob.do.text(room, "stays")
    doomed = bob.do.text(room, "goes", **{"m.mentions": {"user_ids": [alice.user_id]}})
    bob.do.text(named, "before the new name")
    alice.ask("unread, one of them a mention")
    bob.do.redact(room, doomed)
    alice.do.state(named, "m.room.member", {"membership": "join", "displayname": "Alice"}, alice.user_id)
    body = alice.ask("the mention is gone, the name is new")
    counts = [body["rooms"]["join"][place]["unread_notifications"]["notification_count"] for place in (room, named)]
    assert counts[1] == 0, counts
    bob.do.text(named, "after the new name")
    alice.ask("after the new name")
