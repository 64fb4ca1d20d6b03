# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Kicks and bans that redact all that their target has sent (MSC4293).

Synapse's other processes are not told which events that concerns: what they have in their caches they go on showing.
Therefore no server is asked about such events before they are redacted.
"""

from __future__ import annotations

from typing import Any

from oracle.context import Context, Device

SETTINGS = {"experimental_features": {"msc4293_enabled": True}}
REDACT = {"org.matrix.msc4293.redact_events": True}
WIDE = {"room": {"timeline": {"limit": 50}}}


def _redacted(body: dict[str, Any], room: str, sender: str) -> list[bool]:
    events = body["rooms"]["join"][room]["timeline"]["events"]
    return [
        "redacted_by" in event["unsigned"]
        for event in events
        if event["sender"] == sender and event["type"] == "m.room.message"
    ]


def _room(context: Context, alice: Device, mallory: Device, **options: Any) -> str:
    room = context.room(alice, mallory, name="Redacting", **options)
    mallory.do.text(room, "bad")
    mallory.do.state(room, "m.room.member", {"membership": "join", "displayname": "Bad"}, mallory.user_id)
    mallory.do.text(room, "worse")
    alice.do.text(room, "stop it")
    return room


def run(context: Context) -> None:
    alice, mallory = context.user("alice"), context.user("mallory")
    rooms = {version: _room(context, alice, mallory, room_version=version) for version in ("10", "11", "12")}
    for room in rooms.values():
        alice.do.membership(room, "ban", mallory.user_id, reason="spam", **REDACT)
    body = alice.ask("banned", filter=WIDE)
    for room in rooms.values():
        assert _redacted(body, room, mallory.user_id) == [True, True], body
    plain = _room(context, alice, mallory)
    alice.do.membership(plain, "ban", mallory.user_id)
    assert _redacted(alice.ask("a plain ban", filter=WIDE), plain, mallory.user_id) == [False, False]
    kicked = _room(context, alice, mallory)
    alice.do.membership(kicked, "kick", mallory.user_id, **REDACT)
    alice.do.membership(kicked, "invite", mallory.user_id)
    mallory.do.join(kicked)
    mallory.do.text(kicked, "good now")
    body = alice.ask("kicked and back", filter=WIDE)
    assert _redacted(body, kicked, mallory.user_id) == [True, True, False], body
    odd = _room(context, alice, mallory)
    alice.do.membership(odd, "kick", mallory.user_id, **{"org.matrix.msc4293.redact_events": "yes"})
    alice.ask("an odd wish", filter=WIDE)
    weak = context.user("weak")
    levels = {"redact": 100, "ban": 0, "users": {alice.user_id: 100}}
    powerless = _room(context, alice, mallory, room_version="11", power_level_content_override=levels)
    alice.do.membership(powerless, "invite", weak.user_id)
    weak.do.join(powerless)
    alice.do.state(powerless, "m.room.power_levels", {"redact": 100, "ban": 50, "users": {alice.user_id: 100, weak.user_id: 60}})
    weak.do.membership(powerless, "ban", mallory.user_id, **REDACT)
    body = alice.ask("who may ban but not redact", filter=WIDE)
    assert _redacted(body, powerless, mallory.user_id) == [False, False], body
    context.device(alice.user_id, "D2").ask("initial", filter=WIDE)
