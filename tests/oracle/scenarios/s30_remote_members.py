# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A second homeserver: its users join, talk, type, read, leave, are invited, kicked and banned."""

from __future__ import annotations

from oracle.context import Context

FEDERATION = True

LAZY = {"presence": {"types": []}, "room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 2}}}


def run(context: Context) -> None:
    far = context.federation
    alice, bob = context.user("alice"), context.user("bob")
    zoe, yan = far.user("zoe"), far.user("yan")
    room = context.room(alice, bob, preset="public_chat", name="Near")
    alice.ask("initial"), bob.ask("initial", filter=LAZY)
    far.join(zoe, room)
    alice.ask("a remote user joined")
    bob.ask("a remote user joined, lazily", filter=LAZY)
    for number in range(4):
        last = zoe.text(room, f"from afar {number}")
    far.arrived(last)
    alice.ask("remote messages")
    bob.ask("remote messages, lazily", filter=LAZY)
    far.moved("typing", lambda: zoe.typing(room, True))
    alice.ask("remote typing")
    far.moved("receipt", lambda: zoe.receipt(room, last))
    alice.ask("a remote receipt")
    far.moved("presence", lambda: zoe.presence("unavailable", "gone fishing"))
    alice.ask("remote presence")
    name = zoe.text(room, "hello bob", **{"m.mentions": {"user_ids": [bob.user_id]}})
    far.arrived(name)
    bob.ask("a mention from afar", filter=LAZY)
    far.arrived(zoe.redact(room, last))
    alice.ask("a remote redaction of the own event")
    zoe.call("PUT", f"/profile/{zoe.user_id}/displayname", {"displayname": "Zoë"})
    far.wait("the display name", lambda: far.sql(
        f"SELECT count(*) FROM events WHERE room_id = '{room}' AND state_key = '{zoe.user_id}'") == "2")
    alice.ask("a display name changed")
    context.device(alice.user_id, "D2").ask("initial")
    alice.do.membership(room, "invite", yan.user_id)
    alice.ask("invited a remote user")
    far.join(yan, room)
    alice.ask("who came")
    bob.ask("who came, lazily", filter=LAZY)
    alice.do.membership(room, "kick", yan.user_id, reason="no")
    alice.ask("kicked a remote user")
    alice.do.membership(room, "ban", zoe.user_id)
    alice.ask("banned a remote user")
    bob.ask("after all", filter=LAZY)
    context.ask_parked(bob, "parked; a remote user comes back", lambda: (
        alice.do.membership(room, "unban", zoe.user_id), far.join(zoe, room)), filter={"presence": {"types": []}})
    context.device(bob.user_id, "D2").ask("initial", filter=LAZY)
