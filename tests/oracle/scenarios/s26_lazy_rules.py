# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Lazy loading: what is sent again, what a gap brings, what empties a device's memory of members."""

from __future__ import annotations

import itertools

from oracle.context import Context, Device, Json


def lazy(limit: int = 3, redundant: bool = False, **more: object) -> Json:
    """Return a lazily loading filter."""
    state: Json = {"lazy_load_members": True}
    if redundant:
        state["include_redundant_members"] = True
    return {"room": {"state": state, "timeline": {"limit": limit, **more}}}


def members(answer: Json, room: str) -> set[str]:
    """Return whose member events stand in a room's state."""
    events = answer["rooms"]["join"][room]["state"]["events"]
    return {event["state_key"] for event in events if event["type"] == "m.room.member"}


def run(context: Context) -> None:
    """Every rule with small rooms, then the rules crossed."""
    _senders(context)
    _first_of_timeline(context)
    _gap(context)
    _another_room(context)
    _bounded(context)
    _wrong_places(context)
    _crossed(context)


def _senders(context: Context) -> None:
    """Senders come once; with redundant members each time; a joiner's join may come twice."""
    alice, bob, carol, dave = (context.user(name) for name in ("alice", "bob", "carol", "dave"))
    room = context.room(alice, bob, carol, name="Senders", preset="public_chat")
    for number in range(3):
        bob.do.text(room, f"from bob {number}")
    body = alice.ask("initial: senders and oneself", filter=lazy())
    assert members(body, room) == {alice.user_id, bob.user_id}, members(body, room)
    for who, expected in ((carol, {carol.user_id}), (carol, set()), (bob, set())):
        who.do.text(room, "hello")
        body = alice.ask("a message", filter=lazy())
        assert members(body, room) == expected, members(body, room)
    carol.do.text(room, "hello")
    body = alice.ask("the same with redundant members", filter=lazy(redundant=True))
    assert members(body, room) == {carol.user_id}, members(body, room)
    dave.do.join(room)
    dave.do.text(room, "I am new")
    alice.ask("a join and the newcomer's message", filter=lazy())
    dave.do.state(room, "m.room.member", {"membership": "join", "displayname": "Dave the new"}, dave.user_id)
    dave.do.text(room, "and renamed")
    alice.ask("a renamed member and a message", filter=lazy())
    dave.do.text(room, "again")
    body = alice.ask("a message under the new name", filter=lazy())
    assert members(body, room) == set(), members(body, room)
    dave.do.membership(room, "leave")
    dave.do.join(room)
    dave.do.text(room, "back")
    alice.ask("left, rejoined, wrote", filter=lazy())
    carol.do.text(room, "one")
    dave.do.membership(room, "leave")
    alice.ask("a leave in the timeline", filter=lazy())
    dave.do.join(room)
    alice.do.membership(room, "kick", dave.user_id)
    alice.ask("joined and kicked", filter=lazy(redundant=True))


def _first_of_timeline(context: Context) -> None:
    """A timeline that begins with a member event brings no member that nobody asked for."""
    alice, bob, carol = (context.user(name) for name in ("alice", "bob", "carol"))
    room = context.room(alice, bob, name="First", preset="public_chat")
    alice.ask("initial", filter=lazy(2))
    carol.do.join(room)
    bob.do.text(room, "after the join")
    body = alice.ask("begins with a join", filter=lazy(2))
    assert body["rooms"]["join"][room]["timeline"]["events"][0]["type"] == "m.room.member", body
    for device in ("D2", "D3"):
        other = context.device(alice.user_id, device)
        limit = 2 if device == "D2" else 1
        other.ask("initial that begins there", filter=lazy(limit))
        other.ask("full state", filter=lazy(limit), full_state=True)
    alice.ask("full state that begins there", filter=lazy(2), full_state=True)
    for number in range(3):
        bob.do.text(room, f"gap {number}")
    carol.do.membership(room, "leave")
    bob.do.text(room, "after the leave")
    body = alice.ask("a gap that begins with a leave", filter=lazy(2))
    assert body["rooms"]["join"][room]["timeline"]["events"][0]["type"] == "m.room.member", body


def _gap(context: Context) -> None:
    """A gap brings every change of members in it, leaves too, whoever sends."""
    alice, bob = context.user("alice"), context.user("bob")
    others = [context.user(f"other{number}") for number in range(4)]
    room = context.room(alice, bob, *others[:3], name="Gap", preset="public_chat")
    for redundant in (False, True):
        device = context.device(alice.user_id, f"G{redundant}")
        device.ask("initial", filter=lazy(2, redundant))
        others[0].do.membership(room, "leave")
        alice.do.membership(room, "ban", others[1].user_id)
        others[3].do.join(room)
        renamed = {"membership": "join", "displayname": f"Other {redundant}"}
        others[2].do.state(room, "m.room.member", renamed, others[2].user_id)
        for number in range(5):
            bob.do.text(room, f"gap {number}")
        body = device.ask("a gap", filter=lazy(2, redundant))
        assert {other.user_id for other in others} <= members(body, room), members(body, room)
        others[2].do.text(room, "one of the gap")
        body = device.ask("a message of a member of the gap", filter=lazy(2, redundant))
        assert members(body, room) == ({others[2].user_id} if redundant else set()), members(body, room)
        alice.do.membership(room, "unban", others[1].user_id)
        others[3].do.membership(room, "leave")
        others[0].do.join(room)
        others[1].do.join(room)


def _another_room(context: Context) -> None:
    """Joining any room empties the whole memory of the device."""
    alice, bob = context.user("alice"), context.user("bob")
    one = context.room(alice, bob, name="One")
    two = context.room(bob, name="Two", preset="public_chat")
    alice.ask("initial", filter=lazy())
    bob.do.text(one, "first")
    body = alice.ask("known already", filter=lazy())
    assert members(body, one) == set(), members(body, one)
    alice.do.join(two)
    alice.ask("joined another room", filter=lazy())
    # Of bob only the member event of the room that came last is remembered.
    for room, again in ((one, True), (one, False), (two, True), (two, False), (one, True)):
        bob.do.text(room, "after joining another room")
        body = alice.ask("after joining another room", filter=lazy())
        assert members(body, room) == ({bob.user_id} if again else set()), members(body, room)


def _bounded(context: Context) -> None:
    """The memory keeps fifty members; those of whom there was no need for the longest time fall out.

    From 1.163 on it keeps a hundred, whatever the caches' factor is.
    """
    alice = context.user("alice")
    people = [context.user(f"p{number:02}") for number in range(53)]
    room = context.room(alice, name="Crowd", preset="public_chat")
    for person in people:
        person.do.join(room)
    alice.ask("initial of a crowd", filter=lazy(1))
    for number, person in enumerate(people):
        person.do.text(room, "here")
        alice.ask("one of the crowd", filter=lazy(1))
        if number == 40:
            people[0].do.text(room, "still here")
            alice.ask("who wrote first, again", filter=lazy(1))
    remembered = []
    for person in (people[0], people[1], people[-1], people[4], people[6]):
        person.do.text(room, "still here")
        body = alice.ask("one of the crowd again", filter=lazy(1))
        remembered.append(members(body, room) == set())
    assert remembered[1] is context.world.synapse_from("1.163") and remembered[2] is True, remembered


def _wrong_places(context: Context) -> None:
    """The flags count in room.state only; a flag that is no boolean is refused."""
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob, name="Places")
    start = None
    for section in ("timeline", "ephemeral", "account_data"):
        for since in (None, start):
            alice.since = since
            bob.do.text(room, section)
            alice.ask(f"in {section}", filter={"room": {section: {"lazy_load_members": True}}})
            start = alice.since
    alice.ask("at the top", filter={"lazy_load_members": True, "presence": {"lazy_load_members": True}})
    for value in ("true", 1, None, []):
        for flag in ("lazy_load_members", "include_redundant_members"):
            context.ask_error(alice, f"{flag} is {value!r}", filter={"room": {"state": {flag: value}}})


def _crossed(context: Context) -> None:
    """Gap or not, newly joined or not, redundant or not, with and without a state or timeline filter."""
    alice, bob, carol = (context.user(name) for name in ("alice", "bob", "carol"))
    old = context.room(alice, bob, carol, name="Old", preset="public_chat")
    rooms = iter([context.room(bob, carol, name=f"New {number}", preset="public_chat") for number in range(8)])
    cases = itertools.product((False, True), (False, True), (False, True))
    for number, (gap, new, redundant) in enumerate(cases):
        device = context.device(alice.user_id, f"X{number}")
        title = f"{'gap ' if gap else ''}{'new ' if new else ''}{'redundant' if redundant else ''}"
        device.ask(f"initial for {title}", filter=lazy(2, redundant))
        room = old
        if new:
            room = next(rooms)
            alice.do.join(room)
        for step in range(4 if gap else 1):
            (bob, carol)[step % 2].do.text(room, f"{title} {step}")
        _filtered(device, title, redundant)
        carol.do.text(old, "in the old room")
        device.ask(f"in the old room, {title}", filter=lazy(2, redundant))
        bob.do.text(room, "the next one")
        device.ask(f"afterwards, {title}", filter=lazy(2, redundant))


def _filtered(device: Device, title: str, redundant: bool) -> None:
    """Ask the same span several times; the answers change what is remembered."""
    start = device.since
    only = {"state": {"lazy_load_members": True, "types": ["m.room.member"]}, "timeline": {"limit": 2}}
    none = {"state": {"lazy_load_members": True, "not_types": ["m.room.member"]}, "timeline": {"limit": 2}}
    for kind, definition in (
        ("no member events", {"room": none}),
        ("only member events", {"room": only}),
        ("only messages", lazy(2, redundant, types=["m.room.message"])),
        ("everything", lazy(2, redundant)),
    ):
        device.since = start
        device.ask(f"{title}: {kind}", filter=definition)
