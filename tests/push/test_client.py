# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A real client registers its pusher, is told, and takes the pusher away."""

from __future__ import annotations

import json
import subprocess

from push.phones import Phones
from support import CHECKOUT
from support.world import PASSWORD


def test_js_sdk(phones: Phones) -> None:
    """matrix-js-sdk's own requests, through the front as a client's are."""
    ann, ben = phones.person("ann"), phones.person("ben")
    room = phones.room(ann, ben)
    wanted = {
        "url": phones.world.front,
        "user_id": ben.user_id,
        "password": PASSWORD,
        "pushkey": f"key-0-js-{ben.user_id}",
        "gateway": phones.gateway.url,
    }

    def node(kind: str | None) -> list[str]:
        done = subprocess.run(
            ["node", "pusher.mjs"],
            input=json.dumps({**wanted, "kind": kind}),
            cwd=CHECKOUT / "tests" / "e2e" / "js",
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert node("http") == [wanted["pushkey"]]
    phones.settle()
    event = ann.text(room, "hello")
    phones.until(lambda: bool(phones.gateway.of(wanted["pushkey"])))
    told = phones.gateway.of(wanted["pushkey"])
    assert [push.event_id for push in told] == [event]
    assert node(None) == []
    ann.text(room, "nobody hears")
    phones.quiet(wanted["pushkey"])
