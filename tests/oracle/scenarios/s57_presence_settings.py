# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Presence with offline users on first syncs; rooms without it; untracked; switched off with updates pending."""

from __future__ import annotations

import time
from typing import Any

from oracle.context import Context, Device

SETTINGS = {"presence": {"enabled": True, "include_offline_users_on_sync": True}}


def _users(body: dict[str, Any]) -> set[str]:
    return {event["sender"] for event in body.get("presence", {}).get("events", [])}


def _switch(context: Context, **settings: object) -> None:
    context.world.apply(settings)
    time.sleep(0.5)


def _fresh(context: Context, user: Device, step: str, **query: Any) -> dict[str, Any]:
    return context.device(user.user_id, f"D{time.time_ns()}").ask(step, **query)


def run(context: Context) -> None:
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    room, hidden = context.room(alice, bob, name="Seen"), context.room(alice, carol, name="Not seen")
    body = alice.ask("initial with offline users")
    assert bob.user_id in _users(body), body
    bob.do.presence("online", "here")
    alice.ask("somebody comes online")
    bob.do.presence("offline")
    alice.ask("and goes")
    _fresh(context, alice, "initial with somebody who went")
    _switch(context, presence={"enabled": True}, exclude_rooms_from_presence=[hidden])
    body = _fresh(context, alice, "initial without offline users")
    assert carol.user_id not in _users(body), body
    carol.do.presence("online", "in a room without presence")
    bob.do.presence("online", "in a room with it")
    body = alice.ask("two come online, one is seen")
    assert bob.user_id in _users(body) and carol.user_id not in _users(body), body
    dave = context.user("dave")
    alice.do.membership(hidden, "invite", dave.user_id)
    dave.do.join(hidden)
    dave.ask("newly joined where there is no presence")
    alice.ask("somebody joined there")
    bob.do.presence("unavailable")
    pending = alice.since
    _switch(context, presence={"enabled": "untracked"})
    alice.ask("untracked, what was pending", since=pending)
    alice.ask("untracked", set_presence="online")
    _fresh(context, alice, "untracked, initial")
    _switch(context, presence={"enabled": False})
    alice.ask("off, what was pending", since=pending)
    alice.ask("off, nothing more", set_presence="online")
    body = _fresh(context, alice, "off, initial", set_presence="online")
    assert "presence" not in body, body
    bob.do.text(room, "still talking")
    alice.ask("off, a message")
