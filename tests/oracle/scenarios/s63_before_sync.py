# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""/initialSync and /rooms/{roomId}/initialSync: joined, left, forgotten, invited, peeked, forbidden, blocked, guests."""

from __future__ import annotations

from urllib.parse import quote

from oracle.context import Context
from oracle.legacy import ask, room_path

WORLD = {
    "type": "m.room.history_visibility",
    "state_key": "",
    "content": {"history_visibility": "world_readable"},
}


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob, name="Joined", topic="Here")
    for n in range(14):
        event = bob.do.text(room, f"message {n}")
    alice.do.redact(room, event, "no")
    alice.do.receipt(room, event)
    bob.do.receipt(room, event, "m.read.private")
    alice.do.account_data("org.example.room", {"a": 1}, room)
    alice.do.account_data("org.example.global", {"b": 2})
    alice.do.call("PUT", f"/user/{quote(alice.user_id)}/rooms/{quote(room)}/tags/u.work", {"order": 0.5})
    left = context.room(bob, alice, name="Left")
    bob.do.text(left, "before")
    alice.do.membership(left, "leave")
    bob.do.text(left, "after")
    forgotten = context.room(bob, alice, name="Forgotten")
    alice.do.membership(forgotten, "leave")
    alice.do.membership(forgotten, "forget")
    banned = context.room(bob, alice, name="Banned")
    bob.do.membership(banned, "ban", alice.user_id)
    invited = bob.do.create_room(preset="private_chat", invite=[alice.user_id], name="Invited")
    public = bob.do.create_room(preset="public_chat", visibility="public", name="Public", initial_state=[WORLD])
    bob.do.text(public, "for all")
    secret = bob.do.create_room(preset="private_chat", name="Secret")
    alice.do.join(public)

    for version in ("api/v1", "r0", "v3", "unstable"):
        body = ask(context, alice, f"all rooms, {version}", f"{version}/initialSync")
        assert {entry["room_id"] for entry in body["rooms"]} == {room, invited, public}, body
    ask(context, alice, "with a limit", "v3/initialSync", limit=3)
    ask(context, alice, "with limit 0", "v3/initialSync", limit=0)
    ask(context, alice, "as servers see it", "v3/initialSync", raw="", limit=4)
    body = ask(context, alice, "with archived ones", "v3/initialSync", archived="true")
    assert left in {entry["room_id"] for entry in body["rooms"]}, body
    carol = context.user("carol")
    for name, where in (("joined", room), ("left", left), ("forgotten", forgotten), ("banned", banned),
                        ("invited", invited), ("secret", secret), ("public", public), ("none", "!no:where"),
                        ("odd", "x y"), ("empty", "")):
        ask(context, alice, f"one room: {name}", room_path(where))
        ask(context, carol, f"one room, another user: {name}", room_path(where), limit=2)
    ask(context, alice, "one room by r0", room_path(room, "r0"))
    ask(context, alice, "one room by api/v1, limited", room_path(room, "api/v1"), limit=1)
    errors(context, alice)
    hidden_past(context, alice, bob)
    blocked(context, alice, room)


def errors(context: Context, alice: object) -> None:
    """Parameters that will not do, in both servers' order of looking at them."""
    for query in ({"limit": "x"}, {"limit": "-1"}, {"dir": "x"}, {"from": "x"}, {"to": "x"}, {"from": "END"},
                  {"from": ""}, {"archived": "1"}, {"limit": "5000"}, {"dir": "b", "limit": "2"}):
        ask(context, alice, f"{query}", "v3/initialSync", **query)


def hidden_past(context: Context, alice: object, bob: object) -> None:
    """What was said before one was invited is not shown, nor to those who look in what was not for all."""
    room = bob.do.create_room(preset="public_chat", name="Grows")
    bob.do.text(room, "shared past")
    bob.do.state(room, "m.room.history_visibility", {"history_visibility": "joined"})
    bob.do.text(room, "for members")
    bob.do.state(room, "m.room.history_visibility", {"history_visibility": "world_readable"})
    bob.do.text(room, "for the world")
    ask(context, alice, "peeking", room_path(room), limit=20)
    alice.do.join(room)
    ask(context, alice, "joined later", room_path(room), limit=20)
    bob.do.state(room, "m.room.history_visibility", {"history_visibility": "shared"})
    carol = context.user("carol")
    ask(context, carol, "no longer for the world", room_path(room), limit=20)


def blocked(context: Context, alice: object, room: str) -> None:
    """A room that an administrator has blocked."""
    admin = context.world.device(context.world.new_user("admin", admin=True), "D1", url=context.world.main)
    admin.call("PUT", f"/_synapse/admin/v1/rooms/{quote(room)}/block", {"block": True})
    body = ask(context, alice, "blocked", room_path(room))
    assert "blocked" in body["error"], body
    ask(context, alice, "blocked, events", "v3/events", room_id=room, timeout=0)
    admin.call("PUT", f"/_synapse/admin/v1/rooms/{quote(room)}/block", {"block": False})
    ask(context, alice, "no longer blocked", room_path(room))
