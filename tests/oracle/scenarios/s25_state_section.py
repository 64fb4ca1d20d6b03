# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""The state section: linear and gappy news, joins, leaves and returns in one window, profiles, filters."""

from __future__ import annotations

from typing import Any

from oracle.context import Context, Device

Json = dict[str, Any]
SMALL = {"room": {"timeline": {"limit": 3}}}
LAZY = {"room": {"timeline": {"limit": 3}, "state": {"lazy_load_members": True}}}


def _keys(section: Json) -> list[tuple[str, str]]:
    return sorted((event["type"], event["state_key"]) for event in section["events"] if "state_key" in event)


def _linear_and_gappy(context: Context) -> None:
    """State in the timeline is not in the section; state of the gap is, once, and its newest."""
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob)
    alice.ask("initial")
    alice.do.state(room, "m.room.topic", {"topic": "linear"})
    bob.do.text(room, "after it")
    body = alice.ask("linear, with state in the timeline")
    assert body["rooms"]["join"][room]["state"] == {"events": []}, body
    start = alice.since
    for step in range(3):
        alice.do.state(room, "m.room.topic", {"topic": f"in the gap {step}"})
    alice.do.state(room, "org.example.gap", {"n": 1}, "one")
    alice.do.state(room, "org.example.gap", {"n": 2}, "two")
    bob.do.text(room, "first of the timeline")
    alice.do.state(room, "m.room.topic", {"topic": "in the timeline"})
    alice.do.state(room, "org.example.gap", {"n": 3}, "two")
    body = alice.ask("gappy", filter=SMALL)
    joined = body["rooms"]["join"][room]
    assert _keys(joined["timeline"]) == [("m.room.topic", ""), ("org.example.gap", "two")], joined
    assert ("org.example.gap", "one") in _keys(joined["state"]), joined
    with context.quiet():
        for limit in (1, 2, 4, 7, 8, 9):
            for lazy in (False, True):
                alice.since = start
                section = {"timeline": {"limit": limit}, "state": {"lazy_load_members": lazy}}
                alice.ask(f"the same window, limit {limit}, lazy {lazy}", filter={"room": section})
        for title, timeline in {
            "without the topics": {"not_types": ["m.room.topic"]},
            "only the topics": {"types": ["m.room.topic"]},
            "without state": {"types": ["m.room.message"]},
            "only another's": {"senders": [bob.user_id]},
        }.items():
            for limit in (1, 3, 20):
                alice.since = start
                alice.ask(f"{title}, limit {limit}", filter={"room": {"timeline": {**timeline, "limit": limit}}})
        alice.since = start
        alice.ask("all state of the same window", filter=SMALL, full_state=True)

def _full_state(context: Context) -> None:
    """full_state brings every joined room, the quiet ones with an empty timeline; rooms left before do not return."""
    alice, bob = context.user("alice"), context.user("bob")
    busy, quiet, left = (context.room(alice, bob, name=name) for name in ("Busy", "Quiet", "Left"))
    invited = alice.do.create_room(invite=[bob.user_id], name="Invited to")
    bob.do.membership(left, "leave")
    bob.ask("initial")
    alice.do.text(busy, "news")
    with context.quiet():
        for title, definition in {
            "all": {},
            "lazily": LAZY,
            "rooms left wanted": {"room": {"include_leave": True}},
            "no rooms": {"room": {"rooms": []}},
            "one room": {"room": {"rooms": [busy]}},
            "no state": {"room": {"state": {"types": []}}},
            "neither state nor timeline": {"room": {"state": {"types": []}, "timeline": {"types": []}}},
        }.items():
            start = bob.since
            body = bob.ask(f"full state, {title}", filter=definition, full_state=True)
            joined = body["rooms"]["join"]
            assert joined.keys() == {busy, quiet}, (title, joined.keys())
            assert joined[quiet]["timeline"]["events"] == [], (title, joined[quiet])
            assert left not in body["rooms"].get("leave", {}) and invited not in body["rooms"].get("invite", {}), title
            bob.since = None
            bob.ask(f"full state without a token, {title}", filter=definition, full_state=True)
            bob.since = start

def _returns(context: Context) -> None:
    """Sequences of one's own memberships within one window, each seen at once afterwards."""
    alice, bob = context.user("alice"), context.user("bob")
    sequences = {
        "join": "never",
        "join leave": "never",
        "join leave join": "never",
        "leave": "member",
        "leave join": "member",
        "leave join leave": "member",
        "leave join leave join": "member",
        "kick": "member",
        "kick invite": "member",
        "kick invite join": "member",
        "kick invite leave": "member",
        "ban": "member",
        "ban unban": "member",
        "ban unban invite": "member",
        "ban unban invite join": "member",
        "invite": "never",
        "invite join": "never",
        "invite leave": "never",
        "invite kick": "never",
        "invite leave invite": "never",
        "invite join kick invite": "never",
        "invite join ban": "never",
        "join name": "never",
        "name": "member",
        "name leave": "member",
    }
    rooms: dict[str, str] = {}
    for sequence, begin in sequences.items():
        rooms[sequence] = alice.do.create_room(preset="public_chat", name=sequence)
        if begin == "member":
            bob.do.join(rooms[sequence])
    bob.ask("initial")
    lazy = context.device(bob.user_id, "D2")
    lazy.ask("initial, lazy", filter=LAZY)
    start, lazy_start = bob.since, lazy.since
    for sequence, room in rooms.items():
        alice.do.state(room, "m.room.topic", {"topic": "before"})
        for action in sequence.split():
            _act(alice, bob, room, action)
            alice.do.text(room, f"after the {action}")
        alice.do.state(room, "m.room.topic", {"topic": "after all"})
    body = bob.ask("all sequences")
    for sequence in ("join leave join", "leave join", "kick invite join"):
        joined = body["rooms"]["join"][rooms[sequence]]
        assert ("m.room.create", "") in _keys(joined["state"]) + _keys(joined["timeline"]), (sequence, joined)
    assert _keys(body["rooms"]["join"][rooms["name"]]["state"]) == [], "a new name is no return"
    topics = [e for e in body["rooms"]["leave"][rooms["leave"]]["state"]["events"] if e["type"] == "m.room.topic"]
    assert all(event["content"]["topic"] == "before" for event in topics), topics
    lazy.ask("all sequences, lazily", filter=LAZY)
    with context.quiet():
        for title, definition in {
            "limit 1": {"room": {"timeline": {"limit": 1}}},
            "limit 50": {"room": {"timeline": {"limit": 50}}},
            "limit 0": {"room": {"timeline": {"limit": 0}}},
            "without memberships": {"room": {"timeline": {"not_types": ["m.room.member"]}}},
            "no timeline": {"room": {"timeline": {"types": []}}},
            "no memberships anywhere": {
                "room": {"timeline": {"not_types": ["m.room.member"]}, "state": {"not_types": ["m.room.member"]}}
            },
            "rooms left": {"room": {"include_leave": True}},
        }.items():
            bob.since = start
            bob.ask(f"all sequences, {title}", filter=definition)
            bob.since = start
            bob.ask(f"all sequences, {title}, full state", filter=definition, full_state=True)
            bob.since = None
            bob.ask(f"all sequences, {title}, initial", filter=definition)
    lazy.since = lazy_start
    lazy.ask("all sequences, lazily again", filter=LAZY)
    bob.ask("nothing more of them")


def _act(alice: Device, bob: Device, room: str, action: str) -> None:
    if action in ("invite", "kick", "ban", "unban"):
        alice.do.membership(room, action, bob.user_id)
    elif action == "join":
        bob.do.join(room)
    elif action == "leave":
        bob.do.membership(room, "leave")
    else:
        content = {"membership": "join", "displayname": "Bob by another name"}
        bob.do.state(room, "m.room.member", content, bob.user_id)


def _quirks(context: Context) -> None:
    """A filtered timeline that is empty hides state; aliases are never state; odd member events."""
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob)
    only_messages = {"room": {"timeline": {"types": ["m.room.message"]}}}
    alice.ask("initial")
    alice.do.state(room, "m.room.topic", {"topic": "lost for this client"})
    body = alice.ask("only state has changed, and is not wanted in the timeline", filter=only_messages)
    assert "rooms" not in body, body
    bob.do.text(room, "later")
    alice.ask("a message later", filter=only_messages)
    bob.do.receipt(room, bob.do.text(room, "read"))
    alice.do.state(room, "m.room.topic", {"topic": "with a receipt"})
    alice.ask("a receipt and a message", filter=only_messages)
    alias = f"/directory/room/%23alias-{room[1:9]}%3Achappe.localhost"
    alice.do.call("PUT", alias, {"room_id": room})
    alice.do.state(room, "m.room.aliases", {"aliases": [f"#alias-{room[1:9]}:chappe.localhost"]}, "chappe.localhost")
    alice.ask("old aliases in the timeline")
    for number in range(4):
        bob.do.text(room, f"more {number}")
    alice.do.state(room, "m.room.aliases", {"aliases": []}, "chappe.localhost")
    for number in range(4):
        bob.do.text(room, f"still more {number}")
    body = alice.ask("old aliases in the gap", filter=SMALL)
    assert _keys(body["rooms"]["join"][room]["state"]) == [], body
    fresh = context.device(alice.user_id, "D2")
    body = fresh.ask("old aliases, initial", filter=SMALL)
    assert "m.room.aliases" not in {kind for kind, _ in _keys(body["rooms"]["join"][room]["state"])}, body


def _moving(context: Context) -> None:
    """One by one: each step asked, eagerly and lazily, from a device that follows and one that lags."""
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    room = context.room(alice, bob, preset="public_chat", room_version="11")
    slow = context.device(alice.user_id, "D2")
    lazy = context.device(alice.user_id, "D3")
    for device in (alice, slow, lazy):
        device.ask("initial", **({"filter": LAZY} if device is lazy else {}))
    steps = (
        lambda: carol.do.join(room),
        lambda: carol.do.text(room, "hello"),
        lambda: carol.do.call("PUT", f"/profile/{carol.user_id}/displayname", {"displayname": "Carol C."}),
        lambda: alice.do.state(room, "m.room.power_levels", {"users": {alice.user_id: 100, carol.user_id: 50}}),
        lambda: carol.do.state(room, "m.room.topic", {"topic": "by carol"}),
        lambda: alice.do.membership(room, "kick", carol.user_id),
        lambda: carol.do.join(room),
        lambda: alice.do.membership(room, "ban", carol.user_id),
        lambda: bob.do.text(room, "quiet now"),
    )
    for number, step in enumerate(steps):
        step()
        alice.ask(f"step {number}")
        lazy.ask(f"step {number}, lazily", filter=LAZY)
        carol.ask(f"step {number}, who moves")
        if number % 3 == 2:
            slow.ask(f"steps up to {number}", filter=SMALL)


def run(context: Context) -> None:
    context.choices = True  # where the timeline is filtered its ends disagree on keys: Synapse sends one of both
    _linear_and_gappy(context)
    _full_state(context)
    _returns(context)
    context.choices = False
    _quirks(context)
    _moving(context)
