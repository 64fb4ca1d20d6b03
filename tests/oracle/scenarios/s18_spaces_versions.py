# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Room versions old and new, a space, aliases, an encrypted room, an upgraded one."""

from __future__ import annotations

from oracle.context import Context


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    alice.ask("initial")
    bob.ask("initial")
    rooms = [context.room(alice, bob, room_version=version, name=f"v{version}") for version in ("1", "6", "10", "12")]
    bob.ask("four room versions")
    for room in rooms:
        event = bob.do.text(room, "to be redacted")
        alice.do.redact(room, event)
    alice.ask("redactions in four versions")
    space = context.room(alice, bob, name="Space", creation_content={"type": "m.space"})
    alice.do.state(space, "m.space.child", {"via": ["chappe.localhost"]}, rooms[0])
    bob.ask("a space")
    algorithm = {"algorithm": "m.megolm.v1.aes-sha2"}
    alice.do.state(rooms[2], "m.room.encryption", algorithm)
    alice.do.send(rooms[2], {**algorithm, "ciphertext": "AAAA", "session_id": "s"}, "m.room.encrypted")
    bob.ask("an encrypted room")
    replacement = alice.do.call("POST", f"/rooms/{rooms[1]}/upgrade", {"new_version": "10"})["replacement_room"]
    bob.ask("an upgraded room")
    alice.do.membership(replacement, "invite", bob.user_id)
    bob.do.join(replacement)
    bob.ask("joined the replacement")
    context.device(bob.user_id, "D2").ask("initial with all of them")
    after = context.device(bob.user_id, "D3")
    use = {"org.matrix.msc4222.use_state_after": True}
    after.ask("initial with state_after", **use)
    alice.do.state(rooms[0], "m.room.topic", {"topic": "x"})
    bob.do.text(rooms[0], "y")
    after.ask("incremental with state_after", **use)
