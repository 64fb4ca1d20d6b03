# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A user who was erased: who was not there then sees its events, and their edits, without content."""

from __future__ import annotations

import json
import time

from oracle.context import Context

WIDE = {"room": {"timeline": {"limit": 40}}}


def run(context: Context) -> None:
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    room = context.room(alice, bob, name="Memories", preset="public_chat")
    plain = alice.do.text(room, "secret plain")
    root = alice.do.text(room, "secret root")
    edited = alice.do.text(room, "secret first")
    for target, text in ((plain, "not mine"), (root, "in a thread")):
        relates = {"rel_type": "m.thread" if target == root else "m.reference", "event_id": target}
        bob.do.text(room, text, **{"m.relates_to": relates})
    relates = {"rel_type": "m.replace", "event_id": edited}
    new = {"msgtype": "m.text", "body": "secret second"}
    alice.do.text(room, "* secret second", **{"m.new_content": new, "m.relates_to": relates})
    bob.ask("before the erasure", filter=WIDE)
    admin = context.world.device(context.world.new_user("admin", admin=True), url=context.world.main)
    admin.call("POST", f"/_synapse/admin/v1/deactivate/{alice.user_id}", {"erase": True})
    while alice.user_id in bob.do.call("GET", f"/rooms/{room}/joined_members")["joined"]:
        time.sleep(0.05)
    carol.do.join(room)
    body = carol.ask("who joined afterwards", filter=WIDE)
    assert "secret" not in json.dumps(body), body
    bob.ask("who was there", filter=WIDE)
    body = context.device(bob.user_id, "D2").ask("initial of who was there", filter=WIDE)
    assert "secret second" in json.dumps(body), body
    body = context.device(carol.user_id, "D2").ask("initial of who joined afterwards", filter={"room": {"timeline": {"limit": 12}}})
    assert "secret" not in json.dumps(body), body
