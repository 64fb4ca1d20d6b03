# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Gaps: more events than the limit, with state inside the gap; small and zero limits."""

from __future__ import annotations

from oracle.context import Context


def _limit(number: int) -> dict[str, object]:
    return {"room": {"timeline": {"limit": number}}}


def run(context: Context) -> None:
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    room = context.room(alice, bob, preset="public_chat")
    other = context.room(alice, bob, name="Other")
    alice.ask("initial")
    for number in range(15):
        bob.do.text(room, f"before {number}")
    alice.do.state(room, "m.room.topic", {"topic": "inside the gap"})
    carol.do.join(room)
    for number in range(12):
        bob.do.text(room, f"after {number}")
    bob.do.text(other, "one elsewhere")
    body = alice.ask("gap with state inside")
    joined = body["rooms"]["join"][room]
    assert joined["timeline"]["limited"] and len(joined["timeline"]["events"]) == 10, joined
    for number in range(4):
        bob.do.text(room, f"few {number}")
    alice.ask("gap by a small limit", filter=_limit(2))
    for number in range(3):
        bob.do.text(room, f"exact {number}")
    alice.ask("exactly the limit", filter=_limit(3))
    bob.do.text(room, "last")
    alice.do.state(room, "m.room.name", {"name": "Named"})
    alice.ask("limit one", filter=_limit(1))
    bob.do.text(room, "zero")
    alice.ask("limit zero", filter=_limit(0))
    context.device(alice.user_id, "D2").ask("initial with limit one", filter=_limit(1))
    context.device(alice.user_id, "D3").ask("initial with a huge limit", filter=_limit(1000))
    alice.do.membership(room, "leave")
    alice.do.join(room)
    alice.ask("left and joined again")
