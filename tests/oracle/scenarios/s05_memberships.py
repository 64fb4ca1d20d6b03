# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Invitations, joins, leaves, kicks, bans, rejections, seen from every side."""

from __future__ import annotations

from oracle.context import Context


def run(context: Context) -> None:
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    room = context.room(alice, name="Members", preset="private_chat")
    for person in (alice, bob, carol):
        person.ask("initial")
    alice.do.membership(room, "invite", bob.user_id, reason="come in")
    bob.ask("invited")
    context.device(bob.user_id, "D2").ask("initial while invited")
    alice.ask("invited someone")
    bob.do.join(room)
    bob.ask("joined")
    alice.ask("someone joined")
    alice.do.membership(room, "kick", bob.user_id, reason="out")
    bob.ask("kicked")
    alice.ask("kicked someone")
    alice.do.text(room, "not for bob")
    bob.ask("after the kick")
    alice.do.membership(room, "invite", bob.user_id)
    bob.do.membership(room, "leave")
    bob.ask("invited and rejected")
    alice.do.membership(room, "invite", bob.user_id)
    bob.ask("invited again")
    alice.do.membership(room, "kick", bob.user_id)
    bob.ask("invitation withdrawn")
    alice.do.membership(room, "invite", carol.user_id)
    carol.do.join(room)
    carol.do.text(room, "carol was here")
    carol.ask("joined between two questions")
    alice.do.membership(room, "ban", carol.user_id, reason="spam")
    carol.ask("banned")
    alice.do.membership(room, "unban", carol.user_id)
    carol.ask("unbanned")
    context.ask_parked(bob, "an invitation while parked", lambda: alice.do.membership(room, "invite", bob.user_id))
    context.ask_parked(bob, "a join while parked", lambda: bob.do.join(room))
    context.ask_parked(bob, "a kick while parked", lambda: alice.do.membership(room, "kick", bob.user_id))
    alice.do.membership(room, "invite", bob.user_id)
    bob.do.join(room)
    bob.do.membership(room, "leave")
    bob.ask("joined and left between two questions")
    bob.do.membership(room, "forget")
    bob.ask("forgotten")
    context.device(bob.user_id, "D3").ask("initial after forgetting")
    alice.ask("the whole story for the creator")
