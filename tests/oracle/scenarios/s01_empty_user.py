# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A user without rooms: first answer, nothing new, a poll that times out."""

from __future__ import annotations

import time

from oracle.context import Context


def run(context: Context) -> None:
    alice = context.user("alice")
    body = alice.ask("first sync")
    assert body["device_one_time_keys_count"] == {"signed_curve25519": 0}, body
    assert "rooms" not in body, body
    alice.ask("nothing new")
    begun = time.monotonic()
    alice.ask("a poll that times out", timeout=400)
    assert time.monotonic() - begun > 0.75, "a server answered an empty poll before its timeout"
    second = context.device(alice.user_id, "D2")
    second.ask("first sync with presence", set_presence="online")
    second.ask("the older route's name", version="r0")
