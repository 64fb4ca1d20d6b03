# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Typing: start, a second one, stop; parked and asked."""

from __future__ import annotations

from oracle.context import Context


def run(context: Context) -> None:
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    room = context.room(alice, bob, carol)
    alice.ask("initial")
    context.ask_parked(alice, "bob types", lambda: bob.do.typing(room, True))
    context.ask_parked(alice, "carol types too", lambda: carol.do.typing(room, True))
    alice.ask("nothing new")
    context.device(alice.user_id, "D2").ask("initial while two type")
    context.ask_parked(alice, "bob stops", lambda: bob.do.typing(room, False))
    carol.do.typing(room, False)
    alice.ask("nobody types")
    alice.ask("not typing filter", filter={"room": {"ephemeral": {"not_types": ["m.typing"]}}})
    bob.do.typing(room, True)
    bob.do.text(room, "sent while typing")
    alice.ask("typing and a message")
