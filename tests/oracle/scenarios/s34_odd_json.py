# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""What other servers may put into events: junk beside the known keys, numbers and text at their limits."""

from __future__ import annotations

import time

from oracle.context import Context, Device
from oracle.puppet import Puppet, Room

FEDERATION = True

WIDE = {"room": {"timeline": {"limit": 50}}}
RAW = {"event_format": "federation", "room": {"timeline": {"limit": 50}}}
SOME = {"event_fields": ["type", "content.body", "unsigned.age", "org\\.example\\.top", "content.a\\.b.c", "nothing.here"]}

# Canonical JSON came with version 6; before it, anything that Python's parser takes goes.
NUMBERS = {
    "big": 2**53 - 1,
    "small": -(2**53) + 1,
    "zero": 0,
    "nested": [[[]], {}, {"": ""}],
}
LAX = {
    "float": 1.5,
    "exponent": 1e300,
    "tiny": 5e-324,
    "third": 0.1 + 0.2,
    "minus zero": -0.0,
    "whole": 100000.0,
    "sixteen digits": 1e16,
    "below push rules": [{"huge": 2**70, "negative": -(10**30), "max": 2**63 - 1, "over": 2**63, "ulong": 2**64}],
}
TEXT = {
    "astral": "\U0001f600\U0010ffff",
    "controls": "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f",
    "separators": "\u2028\u2029\ufeff\ufffe\uffff",
    "quotes": '"\\/\b\f\n\r\t',
    "combining": "e\u0301 é \u200d \u202e",
    "keys": {"b": 1, "a": 2, "é": 3, "\U0001f600": 4, "\ufb00": 5, "A": 6, "": 7, "aa": 8},
}


def run(context: Context) -> None:
    for version in ("5", "10", "11", "12"):
        _room(context, version)


def _room(context: Context, version: str) -> None:
    alice, puppet = context.user("alice"), context.federation.puppet
    pat = puppet.user("pat")
    room_id = context.room(
        alice, preset="public_chat", room_version=version, power_level_content_override={"state_default": 0, "events": {}}
    )
    room = puppet.join(room_id, pat, version)
    context.federation.member(room_id, pat, "join")
    others = [(context.device(alice.user_id, name), how) for name, how in (("raw", RAW), ("some", SOME))]
    alice.ask(f"version {version}: initial", filter=WIDE)
    for device, how in others:
        device.ask(f"version {version}: initial", filter=how)
    names = [
        *_junk(puppet, room, pat),
        *_values(room, pat, int(version) < 6),
        *_clocks(room, pat),
    ]
    context.federation.deliver(room, *names)
    body = alice.ask(f"version {version}: odd events", filter=WIDE)
    shown = body["rooms"]["join"][room_id]["timeline"]["events"]
    assert {event["event_id"] for event in shown} == set(names), "an event did not come"
    for device, how in others:
        device.ask(f"version {version}: odd events", filter=how)
    context.federation.arrived(alice.do.redact(room_id, names[0], "junk"), alice.do.redact(room_id, names[1]))
    alice.ask(f"version {version}: odd events redacted", filter=WIDE)
    context.device(alice.user_id, "D2").ask(f"version {version}: initial with odd events", filter=WIDE)
    _state(context, room, pat, alice)


def _junk(puppet: Puppet, room: Room, pat: str) -> list[str]:
    """Unknown keys at the top stay, unknown unsigned ones do not (case 96)."""
    unsigned = {
        "age": 12345,
        "age_ts": 1,
        "redacted_because": {"type": "m.room.redaction", "content": {"reason": "a lie"}},
        "redacted_by": "$a-lie",
        "prev_content": {"a": "lie"},
        "prev_sender": "@a:lie",
        "replaces_state": "$a-lie",
        "transaction_id": "a lie",
        "membership": "leave",
        "m.relations": {"m.thread": {"count": 99}},
        "invite_room_state": [{"type": "m.room.name", "state_key": "", "content": {"name": "a lie"}, "sender": pat}],
        "knock_room_state": "a lie",
        "io.element.synapse.soft_failed": True,
        "org.example.junk": [1, 2, 3],
    }
    return [
        puppet.text(room, pat, "junk in unsigned", unsigned=unsigned),
        puppet.text(
            room, pat, "junk at the top", **{
                "org.example.top": {"x": [1, None, True]},
                "user_id": "@somebody:else",
                "replaces_state": "$nothing",
                "prev_content": {"top": "level"},
                "membership": "join",
                "prev_state": [],
                "event_id_": "almost",
                "": "empty",
                "txn_id": "t",
                "sticky": {"duration_ms": 5},
                "msc4354_sticky": {"duration_ms": 600000},
            }
        ),
        puppet.text(room, pat, "no unsigned", unsigned={}),
    ]


def _values(room: Room, pat: str, lax: bool) -> list[str]:
    """Numbers and text as they were sent (case 97)."""
    content = {"msgtype": "m.text", "body": "values", **NUMBERS, **TEXT, **(LAX if lax else {})}
    deep: object = "end"
    for _ in range(60):
        deep = {"d": [deep]}
    return [
        room.make("m.room.message", content, sender=pat),
        room.make("org.example.deep", {"deep": deep, "a.b": {"c": 1, "d": 2}}, sender=pat),
        room.make("org.example.empty", {}, sender=pat),
        room.make("m.room.message", {"msgtype": 7, "body": {"not": "text"}, "m.relates_to": "nonsense"}, sender=pat),
        room.make("m.room.message", {"m.relates_to": {"rel_type": [], "event_id": {}}, "m.mentions": 1}, sender=pat),
    ]


def _clocks(room: Room, pat: str) -> list[str]:
    """Ages that are negative, or cannot be (case 101)."""
    now = int(time.time() * 1000)
    return [
        room.make("m.room.message", {"body": "tomorrow"}, sender=pat, origin_server_ts=now + 86400_000),
        room.make("m.room.message", {"body": "long ago"}, sender=pat, origin_server_ts=0),
        room.make("m.room.message", {"body": "before time"}, sender=pat, origin_server_ts=-5),
    ]


def _state(context: Context, room: Room, pat: str, alice: Device) -> None:
    """State whose content has the wrong types."""
    names = [
        room.make(kind, content, sender=pat, key=key)
        for kind, key, content in (
            ("m.room.name", "", {"name": 5}),
            ("m.room.topic", "", {"topic": ["not", "text"]}),
            ("m.room.canonical_alias", "", {"alias": 7, "alt_aliases": "none"}),
            ("m.room.member", pat, {"membership": "join", "displayname": {"a": 1}, "avatar_url": 3}),
            ("m.room.history_visibility", "", {"history_visibility": ["joined"]}),
            ("m.room.encryption", "", {"algorithm": None}),
            ("m.room.tombstone", "", {"replacement_room": 9}),
            ("m.space.child", "not a room", {"via": "x", "order": 5}),
            ("org.example.state", "é \U0001f600 \" \\ \n", {"k": "odd state key"}),
        )
    ]
    context.federation.deliver(room, *names)
    alice.ask("odd state", filter=WIDE)
    lazy = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
    context.device(alice.user_id, "D3").ask("initial with odd state", filter=lazy)
