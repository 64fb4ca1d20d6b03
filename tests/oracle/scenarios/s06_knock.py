# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Knocking: pending, withdrawn, rejected, accepted."""

from __future__ import annotations

from oracle.context import Context


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    rule = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room = context.room(alice, name="Knock first", initial_state=[rule])
    alice.ask("initial")
    bob.ask("initial")
    bob.do.knock(room, "let me in")
    body = bob.ask("knocked")
    assert room in body["rooms"]["knock"], body
    alice.ask("someone knocks")
    context.device(bob.user_id, "D2").ask("initial while knocking")
    bob.do.membership(room, "leave")
    bob.ask("withdrawn")
    bob.do.knock(room)
    alice.do.membership(room, "kick", bob.user_id)
    bob.ask("knocked and rejected")
    bob.do.knock(room)
    bob.ask("knocked again")
    alice.do.membership(room, "invite", bob.user_id)
    bob.ask("the answer is an invitation")
    bob.do.join(room)
    bob.ask("joined at last")
    alice.ask("the creator's view")
