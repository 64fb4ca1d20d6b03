# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""full_state, and rooms left behind with include_leave."""

from __future__ import annotations

from oracle.context import Context

LEFT = {"room": {"include_leave": True}}


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    stays = context.room(alice, bob, name="Stays")
    leaves = context.room(alice, bob, name="Left behind")
    banned = context.room(alice, bob, name="Banned from")
    bob.ask("initial")
    bob.ask("full state, nothing new", full_state=True)
    alice.do.text(stays, "hello")
    bob.ask("full state with a message", full_state=True)
    bob.do.text(leaves, "bye")
    bob.do.membership(leaves, "leave")
    alice.do.membership(banned, "ban", bob.user_id)
    alice.do.state(leaves, "m.room.topic", {"topic": "after the leave"})
    bob.ask("left and banned", filter=LEFT)
    bob.ask("full state with rooms left", filter=LEFT, full_state=True)
    context.device(bob.user_id, "D2").ask("initial with rooms left", filter=LEFT)
    context.device(bob.user_id, "D3").ask("initial without them")
    bob.do.membership(leaves, "forget")
    context.device(bob.user_id, "D4").ask("initial after forgetting one", filter=LEFT)
