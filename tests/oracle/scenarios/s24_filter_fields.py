# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Every filter field on every section, inline and stored; event_fields; the federation format."""

from __future__ import annotations

import itertools
from typing import Any

from oracle.context import Context, Device

Json = dict[str, Any]

PATTERNS: dict[str, list[list[str]]] = {
    "types": [
        [],
        ["*"],
        ["m.*"],
        ["m.room.*"],
        ["m.room.message"],
        ["m.room.m*"],
        ["*.message"],
        [""],
        ["m.room.topic", "org.*"],
        ["m.tag", "m.receipt", "m.presence", "m.push_rules"],
        ["org.example.s"],
        ["**"],
    ],
}
FIELDS: list[Json] = [
    {"event_fields": fields}
    for fields in (
        ["type"],
        ["type", "event_id", "sender", "state_key"],
        ["content"],
        ["content.body"],
        ["content.deep.er.here", "content.deep"],
        ["content.deep.er", "content.deep.er.here"],
        ["content.no.such", "type"],
        ["content.list"],
        ["content.list.0", "content.list.a"],
        ["content.a\\.b"],
        ["content.a.b"],
        ["content.c\\\\d", "content.c\\d"],
        ["content.e\\\\.f", "content.e\\.f"],
        ["content.g\\\\\\.h"],
        ["content.trailing\\"],
        ["unsigned"],
        ["unsigned.age"],
        ["unsigned.membership", "unsigned.transaction_id"],
        ["origin_server_ts", "room_id", "auth_events"],
        ["content."],
        [".content"],
        ["content..body"],
        [".", "", "\\."],
        ["content.number", "content.null", "content.false"],
        ["content.\u00e9"],
        ["type", "type", "type.x"],
        ["event_id.x", "content.body.x"],
    )
]
ODD_CONTENT = {
    "msgtype": "m.text",
    "body": "odd keys",
    "deep": {"er": {"here": 1, "there": 2}, "x": 3},
    "list": [{"a": 1}, {"b": 2}],
    "a.b": "dot",
    "a": {"b": "nested"},
    "c\\d": "backslash",
    "e\\.f": "backslash and dot",
    "e\\": {"f": "nested below a backslash"},
    "e.f": "dot",
    "g\\.h": "three",
    "trailing\\": "end",
    "number": 0,
    "null": None,
    "false": False,
    "\u00e9": "letter",
    "": {"": "nothing"},
}
SECTIONS = ("timeline", "state", "ephemeral", "account_data")


def _definitions(people: list[Device], rooms: list[str]) -> dict[str, list[Any]]:
    """Return values of every field of a section."""
    alice, bob = (person.user_id for person in people)
    senders = [[], [alice], [bob], [alice, bob], ["@nobody:chappe.localhost"], [alice[:-1]]]
    places = [[], rooms[:1], rooms[1:], rooms, ["!nowhere:chappe.localhost"]]
    return {
        **PATTERNS,
        "not_types": PATTERNS["types"],
        "senders": senders,
        "not_senders": senders,
        "rooms": places,
        "not_rooms": places,
        "contains_url": [True, False],
        "org.matrix.labels": [[], ["#work"], ["#fun"], ["#work", "#fun"], [""], ["#"]],
        "org.matrix.not_labels": [[], ["#work"], [""], ["#"]],
        "related_by_senders": [[], [alice], [bob]],
        "related_by_rel_types": [[], ["m.thread"], ["m.annotation"], ["m.reference", "org.example.rel"]],
        "org.matrix.msc3874.rel_types": [["m.thread"]],
        "org.matrix.msc3874.not_rel_types": [["m.thread"]],
    }


def _fill(alice: Device, bob: Device, room: str) -> None:
    """Something of everything that a filter can look at."""
    bob.do.text(room, "plain")
    bob.do.text(room, "picture", url="mxc://chappe.localhost/x")
    bob.do.text(room, "no string", url=5)
    alice.do.text(room, "at work", **{"org.matrix.labels": ["#work"]})
    bob.do.text(room, "both", **{"org.matrix.labels": ["#work", "#fun"]})
    bob.do.text(room, "labels that are a string", **{"org.matrix.labels": "#work"})
    bob.do.text(room, "labels that are an object", **{"org.matrix.labels": {"#fun": 5}})
    root = alice.do.text(room, "root of a thread")
    bob.do.text(room, "in the thread", **{"m.relates_to": {"rel_type": "m.thread", "event_id": root}})
    liked = bob.do.text(room, "liked")
    reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": liked, "key": "+"}}
    alice.do.send(room, reaction, "m.reaction")
    relation = {"m.relates_to": {"rel_type": "org.example.rel", "event_id": liked}}
    bob.do.send(room, relation, "org.example.message")
    bob.do.send(room, ODD_CONTENT)
    alice.do.state(room, "m.room.topic", {"topic": "t", "url": "mxc://x/y"})
    alice.do.state(room, "org.example.s", {"org.matrix.labels": ["#work"]}, "key")
    alice.do.account_data("org.example.room", {"url": "x", "user_id": bob.user_id}, room)
    alice.do.call("POST", f"/rooms/{room}/read_markers", {"m.fully_read": root})
    alice.do.call("PUT", f"/user/{alice.user_id}/rooms/{room}/tags/u.work", {})
    bob.do.receipt(room, liked)


def _both(alice: Device, since: str | None, step: str, definition: Json) -> None:
    """Ask incrementally and from nothing."""
    for token in (since, None):
        alice.since = token
        alice.ask(f"{step}{'' if token else ', initial'}", filter=definition)


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    rooms = [context.room(alice, bob, name=name) for name in ("One", "Two")]
    alice.ask("initial")
    since = alice.since
    for room in rooms:
        _fill(alice, bob, room)
    alice.do.account_data("org.example.one", {"user_id": bob.user_id})
    alice.do.account_data("m.direct", {bob.user_id: rooms})
    values = _definitions([alice, bob], rooms)

    alice.ask("all of it")
    with context.quiet():
        for name, section in itertools.product(values, SECTIONS):
            for value in values[name]:
                definition = {"room": {section: {name: value}}}
                alice.since = None if section == "state" else since
                alice.ask(f"{section}.{name} = {value}", filter=definition)
        for name in ("types", "not_types", "senders", "not_senders"):
            for value in values[name]:
                for section in ("presence", "account_data"):
                    _both(alice, since, f"{section}.{name} = {value}", {section: {name: value}})
        for name in ("rooms", "not_rooms"):
            for value in values[name]:
                _both(alice, since, f"room.{name} = {value}", {"room": {name: value}})
                alice.since = since
                alice.ask(f"room.{name} = {value}, all state", filter={"room": {name: value}}, full_state=True)
        _together(alice, since, rooms, bob.user_id)
        for definition in FIELDS:
            _both(alice, since, str(definition), definition)
            alice.since = since
            federation = {**definition, "event_format": "federation"}
            alice.ask(str(federation), filter=federation)
    _stored(alice, since, rooms)
    _presence(alice, bob)


def _presence(alice: Device, bob: Device) -> None:
    """Presence goes by its sender, and by its type without wildcards (but "*" among what is not wanted is everything)."""
    alice.ask("before presence")
    since = alice.since
    both, other = [alice.user_id, bob.user_id], [bob.user_id]
    definitions: list[tuple[Json, bool]] = [
        ({}, True),
        ({"limit": 0}, True),
        ({"types": ["m.presence"]}, True),
        ({"types": ["*"]}, False),
        ({"types": ["m.*"]}, False),
        ({"types": []}, False),
        ({"not_types": ["m.*"]}, True),
        ({"not_types": ["m.presence"]}, False),
        ({"not_types": ["*"]}, False),
        ({"senders": other}, True),
        ({"senders": both[:1]}, False),
        ({"senders": []}, False),
        ({"not_senders": both[:1]}, True),
        ({"senders": both, "not_senders": other}, False),
    ]
    for definition, shown in definitions:
        for token in (since, None):
            bob.do.presence("online", f"here {definition} {token}")  # again: it does not last
            alice.since = token
            body = alice.ask(f"presence: {definition}{'' if token else ', initial'}", filter={"presence": definition})
            senders = {event["sender"] for event in body.get("presence", {}).get("events", [])}
            assert (bob.user_id in senders) == shown, (definition, token, body.get("presence"))


def _together(alice: Device, since: str | None, rooms: list[str], other: str) -> None:
    """Fields that meet: what is wanted and unwanted at once; the room's and the section's own."""
    pairs: list[Json] = [
        {"types": ["m.*"], "not_types": ["m.room.*"]},
        {"types": ["m.room.*"], "not_types": ["*"]},
        {"types": ["m.room.message"], "senders": [other], "contains_url": False},
        {"types": ["*"], "not_senders": [other], "org.matrix.labels": ["#work"]},
        {"rooms": rooms, "not_rooms": rooms[:1]},
        {"limit": 3, "types": ["m.room.message"]},
        {"related_by_senders": [other], "related_by_rel_types": ["m.annotation"]},
    ]
    for section, pair in itertools.product(SECTIONS, pairs):
        _both(alice, since, f"{section}: {pair}", {"room": {section: pair}})
    whole: list[Json] = [
        {"rooms": rooms[:1], "timeline": {"rooms": rooms[1:]}},
        {"rooms": rooms[:1], "not_rooms": rooms[:1]},
        {"not_rooms": rooms[:1], "timeline": {"not_rooms": rooms[1:]}, "state": {"types": []}},
        {"timeline": {"types": []}, "state": {"types": []}, "ephemeral": {"types": []}, "account_data": {"types": []}},
        {"timeline": {"types": ["m.room.topic"]}, "state": {"not_types": ["m.room.topic"]}},
    ]
    for number, room in enumerate(whole):
        _both(alice, since, f"the whole room, {number}", {"room": room})
        nothing = {"presence": {"types": []}, "account_data": {"not_types": ["*"]}, "room": room}
        _both(alice, since, f"only the room, {number}", nothing)


def _stored(alice: Device, since: str | None, rooms: list[str]) -> None:
    """The same filter by its number: what Synapse stores is canonical JSON."""
    definitions: list[Json] = [
        {"room": {"timeline": {"types": ["m.room.message"], "limit": 3}, "rooms": rooms[:1]}},
        {"event_fields": ["content.a\\.b", "content.\u00e9", "type"], "presence": {"types": []}},
        {"room": {"state": {"not_types": ["m.room.topic"]}, "include_leave": True}, "event_format": "federation"},
        {"unknown": {"deep": [1, 2.5, "\u00e9\u2028\u0000\ud83d\ude00"]}, "room": {"account_data": {"types": ["m.*"]}}},
    ]
    for number, definition in enumerate(definitions):
        stored = alice.do.filter(definition)
        for token in (since, None):
            alice.since = token
            by_number = alice.ask(f"stored filter {number}", filter=stored)
            alice.since = token
            inline = alice.ask(f"the same inline, {number}", filter=definition)
            assert by_number.keys() == inline.keys(), number
    # One room: Synapse remembers one event of each member, whatever the room, and computes rooms side by side.
    lazy: Json = {"room": {"rooms": rooms[:1], "state": {"lazy_load_members": True}}}
    stored = alice.do.filter(lazy)
    for token, chosen in itertools.product((since, None), (stored, lazy)):
        alice.since = token
        alice.ask("lazily", filter=chosen)
