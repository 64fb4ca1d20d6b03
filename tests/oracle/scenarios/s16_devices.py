# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Two devices of one user stand at different places; tokens wander between the servers."""

from __future__ import annotations

from oracle.context import Context


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    second = context.device(alice.user_id, "D2")
    room = context.room(alice, bob)
    alice.ask("initial")
    for number in range(4):
        alice.do.text(room, f"mine {number}")
        body = alice.ask(f"own message {number}")
        event = body["rooms"]["join"][room]["timeline"]["events"][-1]
        assert "transaction_id" in event["unsigned"], event
    body = second.ask("initial of the second")
    event = body["rooms"]["join"][room]["timeline"]["events"][-1]
    assert "transaction_id" not in event["unsigned"], event
    old = alice.since
    for number in range(3):
        bob.do.text(room, f"bob {number}")
        alice.ask(f"step {number}")
    alice.since = old
    alice.ask("the same token again")
    alice.since = old
    second.since = old
    second.ask("another device's token")
    bob.do.typing(room, True)
    bob.do.receipt(room, bob.do.text(room, "all kinds at once"))
    alice.do.account_data("org.example.mixed", {"n": 1})
    alice.ask("many sections")
    second.ask("many sections, second")
