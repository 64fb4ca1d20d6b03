# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Rooms of a version that this homeserver does not know (any more): nowhere to be seen (case 81).

Nobody can bring such a room in, so the version is changed in the database, before anybody asks.
"""

from __future__ import annotations

from oracle.context import Context

LEFT = {"room": {"include_leave": True}}


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    joined, known = context.room(alice, bob, name="Unheard of"), context.room(alice, bob, name="Known")
    invited = context.room(alice, name="Unheard of, invited")
    alice.do.membership(invited, "invite", bob.user_id)
    left = context.room(alice, bob, name="Unheard of, left")
    bob.do.membership(left, "leave")
    names = ", ".join(f"'{room}'" for room in (joined, invited, left))
    context.world.deployment.postgres.psql(
        f"UPDATE rooms SET room_version = 'org.example.unheard-of' WHERE room_id IN ({names})"
    )
    rooms = bob.ask("initial", filter=LEFT)["rooms"]
    assert list(rooms) == ["join"] and list(rooms["join"]) == [known], rooms
    alice.do.text(known, "heard")
    bob.ask("afterwards", filter=LEFT)
    context.device(bob.user_id, "D2").ask("another initial")
