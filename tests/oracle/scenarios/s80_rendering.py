# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""How events look: transaction ids, redactions over room versions, chosen fields, the federation format."""

from __future__ import annotations

from oracle.context import Context, Device, Json
from stack.matrix import MatrixError

VERSIONS = ("1", "6", "9", "10", "11", "12")
FEW: Json = {"room": {"timeline": {"limit": 2}}}
MANY: Json = {"room": {"timeline": {"limit": 60}}}


def run(context: Context) -> None:
    """One part for each."""
    _transactions(context)
    _redactions(context)
    _fields(context)


def _transactions(context: Context) -> None:
    """Only the device that sent an event is told its transaction id; a refreshed token is the same device."""
    user_id = context.world.new_user("alice")
    client = context.world.device(user_id, "D1", url=context.world.main, refresh_token=True)
    alice, second = Device(context, client), context.device(user_id, "D2")
    bob = context.user("bob")
    room = context.room(alice, bob, name="Transactions")
    for who in (alice, second, bob):
        who.ask("initial")
    for title in ("first token", "second token"):
        alice.do.text(room, title)
        gone = alice.do.text(room, "gone")
        alice.do.redact(room, gone)
        alice.do.state(room, "m.room.topic", {"topic": title})
        for who, own in ((alice, True), (second, False), (bob, False)):
            body = who.ask(f"{title}: events of the first device")
            first = body["rooms"]["join"][room]["timeline"]["events"][0]
            assert ("transaction_id" in first["unsigned"]) == own, (who.user_id, first)
        if title == "first token":
            login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": user_id}}
            login = {**login, "password": "correct horse", "device_id": "D1", "refresh_token": True}
            answer = client.call("POST", "/login", login)
            client.token = answer["access_token"]
            answer = client.call("POST", "/refresh", {"refresh_token": answer["refresh_token"]})
            client.token = answer["access_token"]
    alice.since = None
    alice.ask("initial under the second token", filter=MANY)


def _redactions(context: Context) -> None:
    """Whatever can be redacted, in every room version, before and after it was seen."""
    alice, bob = context.user("alice"), context.user("bob")
    for version in VERSIONS:
        room = context.room(alice, bob, room_version=version, name=f"v{version}", topic="a topic")
        state = alice.do.call("GET", f"/rooms/{room}/state")
        seen = alice.do.text(room, "seen, then gone")
        bob.ask(f"v{version}: joined", filter=MANY)
        alice.do.redact(room, seen, "it was seen")
        bob.ask(f"v{version}: the redaction of what was seen", filter=MANY)
        for event_type in ("m.room.topic", "m.room.power_levels", "m.room.join_rules", "m.room.history_visibility"):
            target = next(event for event in state if event["type"] == event_type)
            alice.do.redact(room, target["event_id"], f"{event_type} is gone")
        member = next(event for event in state if event.get("state_key") == bob.user_id)
        alice.do.redact(room, member["event_id"])
        first = alice.do.redact(room, alice.do.text(room, "gone at once"))
        alice.do.redact(room, first, "the redaction too")
        try:
            alice.do.redact(room, next(event["event_id"] for event in state if event["type"] == "m.room.create"))
        except MatrixError as refused:
            assert refused.status in (400, 403), refused
        bob.ask(f"v{version}: redactions of state, of a redaction, of the beginning", filter=MANY)
        bob.do.redact(room, bob.do.text(room, "one's own"))
        alice.do.redact(room, bob.do.text(room, "by the moderator"))
    bob.ask("redactions of all versions, few events", filter=FEW)
    context.device(bob.user_id, "D2").ask("initial, few events", filter=FEW)
    context.device(bob.user_id, "D3").ask("initial, many events", filter=MANY)
    whole = {**MANY, "event_format": "federation"}
    context.device(bob.user_id, "D4").ask("initial in federation format", filter=whole)


def _fields(context: Context) -> None:
    """Fields with dots, missing fields, whole objects, arrays, what is unsigned."""
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob, name="Fields")
    content: Json = {
        "body": "text",
        "msgtype": "m.text",
        "m.mentions": {"user_ids": [bob.user_id]},
        "a.b": {"c.d": 1, "e": {"f": [1, {"g": 2}]}},
        "a": {"b": {"c": None, "d": False}},
        "back\\slash": "x",
        "": "empty key",
        "list": [{"x": 1}, {"y": 2}],
        "numbers": [9007199254740991, -9007199254740991, 0],
        "text": "ü 😀 \u2028 \" \\ / \b\f\n\r\t \u0001 \u007f",
    }
    gone = alice.do.send(room, {**content, "body": "gone"})
    alice.do.redact(room, gone)
    alice.do.send(room, content)
    alice.do.send(room, {"msgtype": "m.text", "body": ""}, "org.example.with.dots")
    for fields in (
        ["type"],
        ["content"],
        ["content.body", "content.missing", "missing", "missing.deeper"],
        ["content.a\\.b.c\\.d"],
        ["content.a\\.b.e.f"],
        ["content.a.b.c", "content.a.b"],
        ["content.a\\.b.e.f.0", "content.list.x"],
        ["content.back\\\\slash"],
        ["content."],
        ["content.m\\.mentions.user_ids"],
        ["unsigned.age"],
        ["unsigned.redacted_because.content", "event_id"],
        ["unsigned", "sender"],
        ["room_id", "hashes", "depth", "auth_events"],
        [""],
        ["."],
        [],
    ):
        alice.since = None
        alice.ask(f"fields {fields}", filter={"event_fields": fields, **MANY})
    for fields in (["room_id", "hashes", "depth", "auth_events"], ["content", "unsigned.age"]):
        alice.since = None
        whole = {"event_fields": fields, "event_format": "federation", **MANY}
        alice.ask(f"fields {fields} in federation format", filter=whole)
    context.ask_error(alice, "fields that are no list", filter={"event_fields": "type"})
    context.ask_error(alice, "an unknown format", filter={"event_format": "xml"})
    alice.ask("the text as it was written")
