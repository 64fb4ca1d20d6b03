# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Readers who stall over a large answer: others are served meanwhile, and they lose nothing by being dropped."""

from __future__ import annotations

import json
import re
import socket
import time
from typing import Any, Iterator
from urllib.parse import urlencode

import pytest
from stack.matrix import Client, Link
from support.world import World

STALLED, MESSAGES, BYTES = 3, 90, 60_000
DROP_MS = 2000
FILTER = json.dumps({"presence": {"types": []}, "room": {"timeline": {"limit": 100}}})


def _metric(world: World, name: str, label: str = "") -> int:
    """Return the value of a metric, of one label if it has any; 0 while it is not there."""
    reply = Link(f"http://127.0.0.1:{world.settings.ports.chappe_metrics}").request("GET", "/metrics")
    quoted = f'"{label}"' if label else ""
    found = re.search(rf"^{re.escape(name)}{{[^}}]*{quoted}}} (\d+)$", reply.raw.decode(), re.M)
    return int(found[1]) if found else 0


def _dropped(world: World) -> int:
    return _metric(world, "chappe_http_refused_total", "write_timeout")


@pytest.fixture(params=["uv", "uring"])
def impatient_world(request: pytest.FixtureRequest, fragile_world: World) -> Iterator[World]:
    """A worker that drops a reader who takes nothing for two seconds."""
    chappe = fragile_world.deployment.chappe
    assert chappe is not None
    usual = chappe.config.read_text()
    config = json.loads(usual)
    # "auto" takes io_uring where it can be had.
    transport = "auto" if request.param == "uring" else "uv"
    config["chappe"] = {**config["chappe"], "transport": transport, "write_timeout_ms": DROP_MS}
    try:
        _restart(fragile_world, json.dumps(config))
        if not _metric(fragile_world, "chappe_http_transport", request.param):
            pytest.skip("io_uring cannot be had here")
        yield fragile_world
    finally:
        _restart(fragile_world, usual)


def _restart(world: World, config: str) -> None:
    assert world.deployment.chappe is not None
    process = world.deployment.chappe.process
    process.ask_to_stop()
    process.await_stop()
    world.deployment.chappe.config.write_text(config)
    process.start()
    while not process.poll_ready():
        time.sleep(0.05)


def _until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def _stall(port: int, token: str, since: str) -> socket.socket:
    """Ask, and read nothing of the answer."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect(("127.0.0.1", port))
    path = "/_matrix/client/v3/sync?" + urlencode({"filter": FILTER, "since": since, "timeout": 0})
    reader.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    return reader


def _messages(body: dict[str, Any], room: str) -> list[str]:
    timeline = body.get("rooms", {}).get("join", {}).get(room, {}).get("timeline", {})
    return [event["event_id"] for event in timeline.get("events", []) if event["type"] == "m.room.message"]


@pytest.mark.chappe_only
def test_dropped_readers_lose_nothing(impatient_world: World) -> None:
    """Who was dropped in the middle of an answer gets all of it for the same token; others wait for nobody."""
    world = impatient_world
    owner = world.new_device("slow-owner")
    room = owner.create_room(preset="public_chat")
    devices = [world.new_device(f"slow{number}") for number in range(STALLED)]
    other = world.new_device("quick")
    for device in [*devices, other]:
        device.join(room)
    ours = [Client(world.target, token=device.token) for device in devices]
    tokens = [client.sync(filter=FILTER)["next_batch"] for client in ours]
    sent = [owner.text(room, f"{number} " + "x" * BYTES) for number in range(MESSAGES)]
    quick = Client(world.target, token=other.token)
    since = quick.sync(filter=FILTER)["next_batch"]
    dropped = _dropped(world)
    readers = [_stall(world.settings.ports.chappe, d.token, t) for d, t in zip(devices, tokens, strict=True)]
    try:
        # Answered, and stuck; on a busy machine the first may have been dropped already.
        _until(lambda: _metric(world, "chappe_http_in_flight") + _dropped(world) >= dropped + STALLED)
        for number in range(5):
            event_id = owner.text(room, f"meanwhile {number}")
            sent.append(event_id)
            given: list[str] = []
            while event_id not in given:
                body = quick.sync(filter=FILTER, since=since, timeout=10000)
                since, given = body["next_batch"], given + _messages(body, room)
        _until(lambda: _dropped(world) == dropped + STALLED)
    finally:
        for reader in readers:
            reader.close()
    for client, token in zip(ours, tokens, strict=True):
        assert _messages(client.sync(filter=FILTER, since=token), room) == sent
