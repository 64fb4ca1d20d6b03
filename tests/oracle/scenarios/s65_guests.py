# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Guests at the endpoints before /sync: what they may ask, and what they see of rooms that are open to them."""

from __future__ import annotations

from stack.matrix import Client

from oracle.context import Context, Device
from oracle.legacy import ask, room_path

SETTINGS = {"allow_guest_access": True}
OPEN = [
    {"type": "m.room.guest_access", "state_key": "", "content": {"guest_access": "can_join"}},
    {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "world_readable"}},
]


def guest(context: Context) -> Device:
    """Register a guest, whose device nobody chose."""
    link = Client(context.world.main).link
    reply = link.request("POST", "/_matrix/client/v3/register?kind=guest", {})
    link.close()
    body = reply.body
    return Device(context, Client(context.world.main, body["user_id"], body["access_token"], body["device_id"]))


def run(context: Context) -> None:
    alice = context.user("alice")
    visitor = guest(context)
    room = alice.do.create_room(preset="public_chat", name="Open", initial_state=OPEN)
    closed = alice.do.create_room(preset="public_chat", name="Closed")
    alice.do.text(room, "for all")
    body = ask(context, visitor, "not for guests", "v3/initialSync")
    assert body["errcode"] == "M_GUEST_ACCESS_FORBIDDEN", body
    ask(context, visitor, "events need a room", "v3/events", timeout=0)
    ask(context, visitor, "events of an open room", "v3/events", timeout=0, room_id=room)
    ask(context, visitor, "events of a closed room", "v3/events", timeout=0, room_id=closed)
    body = ask(context, visitor, "looking in", room_path(room))
    assert "membership" not in body, body
    ask(context, visitor, "a closed room", room_path(closed))
    visitor.do.join(room)
    body = ask(context, visitor, "joined", room_path(room))
    assert body["membership"] == "join", body
    visitor.ask("the guest's /sync")
