# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Tokens old, short, long, ahead, far behind, broken in every part; and prev_batch that /messages takes."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from oracle.context import Context, Device
from oracle.normal import TOKEN_FIELDS

# Presence from before Synapse's cache began is everybody's there, and only what changed here (tests/unit/sync).
NO_PRESENCE = {"presence": {"types": []}}
QUIET = "&set_presence=offline&filter=%7B%22presence%22%3A%7B%22types%22%3A%5B%5D%7D%7D"
# Fields that have writers of their own, and so may say "m<min>~<writer>.<position>".
MULTI = {"receipt", "device_list", "quarantined_media"}
# Values of any field (the room's are given its letter), as they stand in the query.
VALUES = (
    "x - %2B + %20 1x x1 1.0 1e3 0x1 -1 %2B1 +1 %201 1%20 %0A1 00 007 1,5 ~ . m m~ m1 m1~ m1~~ m~1.5 m1~1 m1~1. m1~.5"
    " m1~x.5 m1~99.5 m1~0.5 m1~-1.5 m1~99999999999999999999.5 m1~1.1 m1~1.0 s1 %00 1%00 %FF %D9%A3 --1 %2B-1 -%2B1"
    " 9223372036854775807 9223372036854775808 99999999999999999999999999999999"
).split()


def _fields(token: str) -> tuple[str, ...]:
    """Return the fields that this release's tokens have."""
    return tuple(TOKEN_FIELDS[: token.count("_") + 1])


def _multi(device: Device) -> set[str]:
    return MULTI | ({"sticky"} if device.context.world.synapse_from("1.163") else set())


def _replaced(token: str, field: str, value: str) -> str:
    parts = token.split("_")
    parts[TOKEN_FIELDS.index(field)] = value
    return "_".join(parts)


def _broken(context: Context, alice: Device, since: str) -> None:
    """Every value in every field: whether it is understood, and what is answered."""
    for field in _fields(since):
        for value in ("", *VALUES):
            for letter in ("s", "") if field == "room" else ("",):
                text = _replaced(since, field, letter + value)
                context.ask_raw(alice, f"{field} is {letter}{value or 'empty'}", f"since={text}{QUIET}")
    for value in ("t", "t5", "t5-", "t-5", "tx-5", "t5-x", "S5", "5", "r5", "s5-1", "s5~1.1", "%20s5", "m5~1.9~1.3"):
        context.ask_raw(alice, f"room is {value}", f"since={_replaced(since, 'room', value)}{QUIET}")
    whole = {
        "empty": "",
        "a word": "garbage",
        "the underscore": "_",
        "many underscores": "_" * since.count("_"),
        "one field too many": f"{since}_1",
        "one empty field too many": f"{since}_",
        "a thousand fields": "s1" + "_1" * 1000,
        "blanks around": f"+{since}+",
        "in encoded letters": "".join(f"%{ord(letter):02x}" for letter in since),
        "a null in the end": f"{since}%00",
        "a null in between": since.replace("_", "%00_", 1),
        "not ASCII": f"{since}%C3%A9",
        "a hyphen for an underscore": since.replace("_", "-", 1),
        "many digits": "s" + "0" * 3000 + "1",
        "too many digits for Python": "s" + "1" * 4301,
        "twice": f"{since}&since=garbage",
        "twice, the second not ASCII": f"{since}&since=%FF",
        "twice, the first wrong": f"garbage&since={since}",
    }
    for title, text in whole.items():
        context.ask_raw(alice, f"a token that is {title}", f"since={text}{QUIET}")


def _shorter(alice: Device, since: str) -> None:
    """Releases before this one wrote fewer fields: what is missing counts as the very beginning."""
    parts = since.split("_")
    for length in range(1, len(parts)):
        alice.since = "_".join(parts[:length])
        alice.ask(f"a token of {length} fields", filter=NO_PRESENCE)


def _elsewhere(alice: Device, since: str) -> None:
    """One field at a time from the beginning of time, and from before it."""
    for field in _fields(since):
        for value in ("0", "1", "-1", "-7"):
            if value.startswith("-") and field in _multi(alice):
                continue  # refused, among the broken ones
            alice.since = _replaced(since, field, "s" + value if field == "room" else value)
            alice.ask(f"{field} at {value}", filter=NO_PRESENCE)
    for value in ("s0", "s1", "s0" + "_0" * since.count("_"), "s1" + "_1" * since.count("_"), "s-1"):
        alice.since = value
        alice.ask(f"from {value}", filter=NO_PRESENCE)
    alice.since = "s0"
    lazy = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 2}}}
    alice.ask("from the beginning, lazily, with a small limit", filter={**NO_PRESENCE, **lazy})


def _ahead(alice: Device, since: str) -> None:
    """A million ahead of everybody: a token from a database that was restored since. Bounded, answered at once."""
    for field in _fields(since):
        value = since.split("_")[TOKEN_FIELDS.index(field)]
        if "m" in value:
            continue
        number = int(value.lstrip("s")) + 1_000_000
        alice.since = _replaced(since, field, f"s{number}" if field == "room" else str(number))
        alice.ask(f"{field} a million ahead")
        if field in _multi(alice) or field == "room":
            alice.since = _replaced(since, field, f"m{value.lstrip('s')}~1.{number}")
            alice.ask(f"{field}'s first writer a million ahead")
    alice.since = "_".join(
        f"s{10**9}" if field == "room" else str(10**9) for field in _fields(since)
    )
    alice.ask("everything ahead")


def _messages(device: Device, room: str, token: str, direction: str, limit: int) -> dict[str, Any]:
    path = f"/rooms/{quote(room)}/messages?from={quote(token)}&dir={direction}&limit={limit}"
    return dict(device.do.call("GET", path))


def _pages(context: Context) -> None:
    """prev_batch of either server is where /messages goes on: nothing lost, nothing twice."""
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob)
    sent = [bob.do.text(room, f"message {number}") for number in range(30)]
    for step, query in {
        "a limited timeline": {},
        "a small one": {"filter": {"room": {"timeline": {"limit": 3}}}},
        "only messages": {"filter": {"room": {"timeline": {"limit": 4, "types": ["m.room.message"]}}}},
        "lazily": {"filter": {"room": {"timeline": {"limit": 5}, "state": {"lazy_load_members": True}}}},
    }.items():
        alice.since = None
        for side in context.ask(alice, step, **query):
            timeline = side["rooms"]["join"][room]["timeline"]
            shown = [event["event_id"] for event in timeline["events"]]
            before = _messages(alice, room, timeline["prev_batch"], "b", 8)
            older = [event["event_id"] for event in before["chunk"]]
            first = sent.index(shown[0])
            assert older == sent[first - 8 : first][::-1], (step, shown, older)
            after = _messages(alice, room, timeline["prev_batch"], "f", 50)
            assert [event["event_id"] for event in after["chunk"]] == shown, (step, shown, after)
            further = _messages(alice, room, before["end"], "b", 8)
            assert [event["event_id"] for event in further["chunk"]] == sent[first - 16 : first - 8][::-1]
    alice.ask("from here")
    gap = [bob.do.text(room, f"more {number}") for number in range(25)]
    for side in context.ask(alice, "a gap", since=alice.since):
        timeline = side["rooms"]["join"][room]["timeline"]
        assert timeline["limited"] and [event["event_id"] for event in timeline["events"]] == gap[15:]
        older = _messages(alice, room, timeline["prev_batch"], "b", 20)["chunk"]
        assert [event["event_id"] for event in older] == [*gap[:15][::-1], *sent[-5:][::-1]], older
        start = alice.since or ""
        path = f"/rooms/{quote(room)}/messages?from={timeline['prev_batch']}&to={start}&dir=b&limit=50"
        filled = alice.do.call("GET", path)["chunk"]
        assert [event["event_id"] for event in filled] == gap[:15][::-1], "the gap, and not more, is filled"
        newer = _messages(alice, room, side["next_batch"], "b", 3)["chunk"]
        assert [event["event_id"] for event in newer] == gap[-3:][::-1], newer
    short = context.room(alice, bob)
    alice.since = None
    for side in context.ask(alice, "a room that fits", filter={"room": {"rooms": [short], "timeline": {"limit": 50}}}):
        timeline = side["rooms"]["join"][short]["timeline"]
        assert not timeline["limited"], timeline
        # The quirk: not before the first event, but where it was read from.
        assert timeline["prev_batch"].split("_")[0] == side["next_batch"].split("_")[0], timeline


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob, name="Tokens")
    bob.do.text(room, "one")
    alice.do.account_data("org.example.t", {"n": 1})
    bob.do.receipt(room, bob.do.text(room, "two"))
    alice.ask("initial")
    bob.do.text(room, "three")
    alice.ask("one more")
    since = alice.since
    assert since is not None
    _broken(context, alice, since)
    _shorter(alice, since)
    _elsewhere(alice, since)
    _ahead(alice, since)
    _pages(context)
