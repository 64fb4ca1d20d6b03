# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Messages that have outlived the retention policy of their room, or the default one, are not shown; state is."""

from __future__ import annotations

import time
from typing import Any

from oracle.context import Context

SETTINGS = {
    "retention": {
        "enabled": True,
        "default_policy": {"min_lifetime": "1s", "max_lifetime": "20s"},
        "allowed_lifetime_min": "1h",
        "allowed_lifetime_max": "1y",
        "purge_jobs": [{"interval": "1d"}],
    }
}
POLICY = "m.room.retention"


def _texts(body: dict[str, Any], room: str) -> list[str]:
    events = body.get("rooms", {}).get("join", {}).get(room, {}).get("timeline", {}).get("events", [])
    return [event["content"].get("body") for event in events if event["type"] == "m.room.message"]


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    rooms = {name: context.room(alice, bob, name=name) for name in ("default", "short", "long", "min")}
    alice.do.state(rooms["short"], POLICY, {"max_lifetime": 5000})
    alice.do.state(rooms["long"], POLICY, {"max_lifetime": 3600000})
    alice.do.state(rooms["min"], POLICY, {"min_lifetime": 500})
    began = time.monotonic()
    alice.ask("initial, all is new")
    for room in rooms.values():
        bob.do.text(room, "early")
        alice.do.state(room, "m.room.topic", {"topic": "state is not concerned"})
    time.sleep(6.0)
    assert time.monotonic() - began < 18, "too slow to say anything of the default policy"
    body = alice.ask("early ones")
    shown = {name: _texts(body, room) for name, room in rooms.items()}
    assert shown == {"default": ["early"], "short": [], "long": ["early"], "min": ["early"]}, shown
    bob.do.text(rooms["short"], "late")
    shown = _texts(alice.ask("a new one"), rooms["short"])
    assert shown == ["late"], shown
    context.device(alice.user_id, "D2").ask("initial with old ones")
    alice.do.state(rooms["long"], POLICY, {"max_lifetime": 1})
    bob.do.text(rooms["long"], "gone at once")
    time.sleep(0.1)
    body = alice.ask("a policy that hides everything")
    assert _texts(body, rooms["long"]) == [], body
    context.device(alice.user_id, "D3").ask("initial under the new policy")
    # One that says nothing of either lifetime Synapse's cache is not told of: see "Decisions".
    loose = alice.do.state(rooms["long"], POLICY, {"min_lifetime": 1})
    bob.do.text(rooms["long"], "under the default again")
    shown = _texts(alice.ask("a policy without a maximum"), rooms["long"])
    assert shown == ["under the default again"], shown
    alice.do.state(rooms["short"], POLICY, {"max_lifetime": 3600000})
    body = context.device(alice.user_id, "D4").ask("a longer life for what was hidden")
    assert "early" in _texts(body, rooms["short"]), body
    alice.do.redact(rooms["long"], loose)
    alice.ask("the policy's redaction")
    bob.do.text(rooms["default"], "unseen until it is too old")
    since = alice.since
    time.sleep(21.0)
    body = alice.ask("what grew old unseen", since=since)
    assert _texts(body, rooms["default"]) == [], body
    context.device(alice.user_id, "D5").ask("initial, all but the long ones are old")
    context.ask_parked(alice, "a poll that is woken", lambda: bob.do.text(rooms["min"], "fresh"))
