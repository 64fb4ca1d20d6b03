# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Redactions, edits, reactions and replies, with what servers bundle into events."""

from __future__ import annotations

from oracle.context import Context, Device


def run(context: Context) -> None:
    """One conversation, then what is bundled into limited timelines."""
    _conversation(context)
    _bundles(context)
    _threads(context)
    _ignored(context)


def _conversation(context: Context) -> None:
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


def _related(rel_type: str, event_id: str) -> dict[str, object]:
    return {"m.relates_to": {"rel_type": rel_type, "event_id": event_id}}


def _edit(device: Device, room: str, event_id: str, body: str, event_type: str = "m.room.message") -> str:
    content = {"msgtype": "m.text", "body": f"* {body}", "m.new_content": {"msgtype": "m.text", "body": body}}
    return device.do.send(room, {**content, **_related("m.replace", event_id)}, event_type)


def _look(device: Device, step: str, limit: int, **filters: object) -> None:
    """Ask for a limited timeline from the start, as every look at bundles has to be."""
    device.since = None
    answer = device.ask(step, filter={"room": {"timeline": {"limit": limit}}, **filters})
    for room in answer["rooms"]["join"].values():
        assert room["timeline"]["limited"], f"{step}: not limited, nothing is bundled"


def _bundles(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob, name="Bundles")
    edited = bob.do.text(room, "edited")
    _edit(bob, room, edited, "by its sender")
    _edit(alice, room, edited, "by somebody else")
    _edit(bob, room, edited, "of another type", "org.example.edit")
    _look(alice, "whose edit counts", 4)
    _edit(bob, room, edited, "once more")
    last = _edit(bob, room, edited, "and once more")
    _look(alice, "the newest edit", 6)
    bob.do.redact(room, last)
    _look(alice, "an edit taken back", 8)
    _look(bob, "an edit taken back, by its sender", 8)
    gone = bob.do.text(room, "edited, then gone")
    _edit(bob, room, gone, "must not be seen")
    bob.do.redact(room, gone)
    _look(alice, "a redacted event with an edit", 3)
    target = alice.do.text(room, "refer to me")
    for number in range(3):
        alice.do.send(room, {"n": number, **_related("m.reference", target)}, "org.example.ref")
        doomed = bob.do.send(room, {"n": number, **_related("m.reference", target)}, "org.example.ref")
    _look(alice, "references in order", 8)
    bob.do.redact(room, doomed)
    _look(alice, "a reference less", 9)
    reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": target, "key": "+1"}}
    thumbs = bob.do.send(room, reaction, "m.reaction")
    alice.do.send(room, {"body": "to a reaction", **_related("m.reference", thumbs)}, "org.example.ref")
    _look(alice, "a reaction has no bundle", 3)
    topic = alice.do.state(room, "m.room.topic", {"topic": "state"})
    alice.do.send(room, {"body": "to a state event", **_related("m.reference", topic)}, "org.example.ref")
    _look(alice, "a state event has no bundle", 3)
    fresh = bob.do.text(room, "for filters")
    _edit(bob, room, fresh, "rendered with the filter's fields")
    alice.do.send(room, {"body": "r", **_related("m.reference", fresh)}, "org.example.ref")
    _look(alice, "some fields", 4, event_fields=["content.body", "type"])
    _look(alice, "federation format", 4, event_format="federation")
    for section in (
        {"related_by_rel_types": ["m.replace"]},
        {"related_by_senders": [alice.user_id]},
        {"related_by_rel_types": ["m.annotation", "m.reference"], "related_by_senders": [bob.user_id]},
    ):
        alice.since = None
        alice.ask(f"{section}", filter={"room": {"timeline": {"limit": 1, **section}, "state": section}})
    late = context.user("late")
    late.ask("before joining")
    bob.do.membership(room, "invite", late.user_id)
    late.ask("invited", filter={"presence": {"types": []}})
    late.do.join(room)
    late.ask("newly joined")


def _threads(context: Context) -> None:
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    room = context.room(alice, bob, carol, name="Threads")
    root = alice.do.text(room, "root")
    for number in range(7):
        last = bob.do.text(room, f"reply {number}", **_related("m.thread", root))
    _edit(bob, room, last, "reply 6, better")
    carol.do.send(room, {"body": "look", **_related("m.reference", last)}, "org.example.ref")
    _look(alice, "a thread I began", 10)
    _look(bob, "a thread I am in", 10)
    _look(carol, "a thread I only read", 10)
    bob.do.redact(room, last)
    _look(carol, "its newest reply redacted", 11)
    only = alice.do.text(room, "one reply, then none")
    doomed = bob.do.text(room, "none", **_related("m.thread", only))
    bob.do.redact(room, doomed)
    _look(carol, "a thread without replies", 3)
    start = carol.since
    for number in range(12):
        alice.do.text(room, f"reply again {number}", **_related("m.thread", root))
    carol.since = start
    carol.ask("limited, incremental, without the root")


def _ignored(context: Context) -> None:
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    room = context.room(alice, bob, carol, name="Ignored")
    mixed = alice.do.text(room, "alice and bob reply")
    alice.do.text(room, "by alice", **_related("m.thread", mixed))
    for number in range(3):
        bob.do.text(room, f"by bob {number}", **_related("m.thread", mixed))
    only = alice.do.text(room, "only bob replies")
    bob.do.text(room, "by bob", **_related("m.thread", only))
    late = alice.do.text(room, "bob, six times, then alice, then bob")
    for number in range(6):
        bob.do.text(room, f"by bob {number}", **_related("m.thread", late))
    alice.do.text(room, "by alice", **_related("m.thread", late))
    bob.do.text(room, "by bob again", **_related("m.thread", late))
    referred = alice.do.text(room, "both refer")
    bob.do.send(room, {"body": "b", **_related("m.reference", referred)}, "org.example.ref")
    alice.do.send(room, {"body": "a", **_related("m.reference", referred)}, "org.example.ref")
    unheard = alice.do.text(room, "bob refers")
    bob.do.send(room, {"body": "b", **_related("m.reference", unheard)}, "org.example.ref")
    _look(carol, "before ignoring", 21)
    carol.do.account_data("m.ignored_user_list", {"ignored_users": {bob.user_id: {}}})
    _look(carol, "ignoring", 10)
    _look(alice, "others do not ignore", 21)
