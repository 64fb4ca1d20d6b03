# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Encrypted daily use by matrix-js-sdk with its rust crypto; the steps are in js/chat.mjs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support.world import PASSWORD, World

JS = Path(__file__).resolve().parent / "js"
STEPS = [
    "login",
    "invite and join",
    "messages",
    "edit, reaction, redaction, thread",
    "typing, receipts, counts",
    "account data and tags",
    "verification",
    "logout of one device",
    "kick, invite, rejection, leave",
    "no event twice",
]


def test_chat(world: World) -> None:
    """Two users with two devices each chat, verify devices, come and go."""
    if not (JS / "node_modules").exists():
        pytest.fail("tests/e2e/js/node_modules is missing; tests/run e2e installs it")
    users = [world.new_user("js-alice"), world.new_user("js-bob")]
    devices = [
        {"user_id": user, "password": PASSWORD, "device_id": name} for user in users for name in ("LAPTOP", "PHONE")
    ]
    done = subprocess.run(
        ["node", "chat.mjs"],
        cwd=JS,
        input=json.dumps({"url": world.front, "devices": devices}),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    steps = [line.removeprefix("done: ") for line in done.stdout.splitlines() if line.startswith("done: ")]
    assert done.returncode == 0 and steps == STEPS, f"after {steps}:\n{done.stderr[-3000:]}\n{done.stdout[-2000:]}"
