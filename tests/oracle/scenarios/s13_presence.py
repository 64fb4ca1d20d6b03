# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Presence set by others, of newcomers, filtered and not."""

from __future__ import annotations

from oracle.context import Context


def run(context: Context) -> None:
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    room = context.room(alice, bob)
    bob.do.presence("online", "working")
    alice.ask("initial")
    bob.do.presence("unavailable", "away")
    alice.ask("someone is away")
    carol.do.presence("online", "not known to alice")
    alice.ask("a stranger's presence is not seen")
    alice.do.membership(room, "invite", carol.user_id)
    carol.do.join(room)
    alice.ask("a newcomer's presence is")
    context.ask_parked(alice, "presence while parked", lambda: carol.do.presence("unavailable", "lunch"), filter={})
    bob.do.presence("online", "back")
    alice.ask("filtered out", filter={"presence": {"types": []}})
    bob.do.presence("unavailable", "gone")
    alice.ask("only some senders", filter={"presence": {"senders": [bob.user_id]}})
    context.device(alice.user_id, "D2").ask("initial with presence of two")
