# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A thousand devices in one room, driven by one event loop; clients that go away in mid-poll; a worker that restarts."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time
from typing import Any
from urllib.parse import urlencode

import pytest
from stack.matrix import Client
from support.world import World

USERS, DEVICES, EVENTS = 100, 10, 50
SECONDS = 60.0
FILTER = json.dumps({"presence": {"types": []}, "account_data": {"types": []}, "room": {"timeline": {"limit": 100}}})


async def _sync(port: int, token: str, **query: Any) -> dict[str, Any]:
    """Ask /sync once on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    path = "/_matrix/client/v3/sync?" + urlencode({"filter": FILTER, "set_presence": "offline", **query})
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    try:
        raw = await reader.read(-1)
    finally:
        writer.close()
    status, body = raw.split(b"\r\n", 1)[0], raw.split(b"\r\n\r\n", 1)[1]
    assert b" 200 " in status, raw[:300]
    if b"transfer-encoding: chunked" in raw.split(b"\r\n\r\n", 1)[0].lower():
        body = _unchunked(body)
    return dict(json.loads(body))


def _unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, body = body.split(b"\r\n", 1)
        length = int(size.split(b";")[0], 16)
        whole, body = whole + body[:length], body[length + 2 :]
        if length == 0:
            break
    return whole


class _Device:
    """Polls until it has seen the last event of the burst."""

    def __init__(self, port: int, token: str, room: str) -> None:
        self.port, self.token, self.room = port, token, room
        self.since = ""
        self.seen: list[str] = []
        self.limited = 0

    async def begin(self, gate: asyncio.Semaphore) -> None:
        """Stand at the present."""
        async with gate:
            self.since = str((await _sync(self.port, self.token, timeout=0))["next_batch"])

    async def run(self, last: str) -> None:
        """Poll; a poll that was answered is followed by the next from where it ended."""
        while last not in self.seen:
            body = await _sync(self.port, self.token, timeout=10000, since=self.since)
            self.since = str(body["next_batch"])
            timeline = body.get("rooms", {}).get("join", {}).get(self.room, {}).get("timeline", {})
            self.limited += bool(timeline.get("limited"))
            for event in timeline.get("events", []):
                if event["type"] == "m.room.message":
                    self.seen.append(str(event["content"]["body"]))


@pytest.mark.chappe_only
def test_a_thousand_devices(world: World) -> None:
    """Each of a thousand devices is given each of fifty events once, in order."""
    owner = world.new_device("burst-owner")
    room = owner.create_room(preset="public_chat")
    users = [world.new_user(f"burst{number}") for number in range(USERS)]
    tokens = _log_in(world, users)
    for number, user_id in enumerate(users):
        Client(world.main, user_id, tokens[number * DEVICES]).join(room)
    devices = [_Device(world.settings.ports.chappe, token, room) for token in tokens]
    expected = [f"burst {number}" for number in range(EVENTS)]
    asyncio.run(_burst(devices, owner, room, expected))
    for device in devices:
        assert device.seen == expected and not device.limited, (device.seen, device.limited)


def _log_in(world: World, users: list[str]) -> list[str]:
    """Give every user its devices in the database: a thousand logins would take longer than the test."""
    run = secrets.token_hex(8)
    names = [(user_id, f"D{device}") for user_id in users for device in range(DEVICES)]
    tokens = [f"burst-{run}-{number}" for number in range(len(names))]
    devices = ",".join(f"('{user_id}','{device}')" for user_id, device in names)
    world.deployment.postgres.psql(f"INSERT INTO devices (user_id, device_id) VALUES {devices}")
    first = int(world.deployment.postgres.psql("SELECT COALESCE(max(id), 0) + 1000000 FROM access_tokens"))
    rows = ",".join(
        f"({first + number},'{user_id}','{device}','{tokens[number]}')"
        for number, (user_id, device) in enumerate(names)
    )
    world.deployment.postgres.psql(f"INSERT INTO access_tokens (id, user_id, device_id, token) VALUES {rows}")
    return tokens


async def _burst(devices: list[_Device], owner: Client, room: str, expected: list[str]) -> None:
    gate = asyncio.Semaphore(50)
    await asyncio.gather(*(device.begin(gate) for device in devices))
    polls = [asyncio.create_task(device.run(expected[-1])) for device in devices]
    await asyncio.sleep(1.0)
    for text in expected:
        await asyncio.to_thread(owner.text, room, text)
    await asyncio.wait_for(asyncio.gather(*polls), SECONDS)


def test_gone_in_mid_poll(world: World) -> None:
    """Who goes away while a poll waits and asks again with the same token loses nothing."""
    alice, bob = world.new_device("gone-a"), world.new_device("gone-b")
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    since = alice.sync(filter=FILTER)["next_batch"]
    expected: list[str] = []
    given: list[str] = []
    port = int(world.target.rsplit(":", 1)[1])
    for number in range(20):
        with socket.create_connection(("127.0.0.1", port)) as lost:
            path = "/_matrix/client/v3/sync?" + urlencode({"filter": FILTER, "since": since, "timeout": 10000})
            head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.token}\r\n\r\n"
            lost.sendall(head.encode())
            time.sleep(0.02 * (number % 3))
            if number % 2:
                expected.append(bob.text(room, f"sent while waiting {number}"))
        if number % 2 == 0:
            expected.append(bob.text(room, f"sent after going {number}"))
        deadline = time.monotonic() + 10
        while len(given) < len(expected) and time.monotonic() < deadline:
            body = Client(world.target, token=alice.token).sync(filter=FILTER, since=since, timeout=5000)
            since = body["next_batch"]
            events = body.get("rooms", {}).get("join", {}).get(room, {}).get("timeline", {}).get("events", [])
            # The join of the other user may come after the first token.
            given += [event["event_id"] for event in events if event["type"] == "m.room.message"]
        assert given == expected, number


@pytest.mark.chappe_only
def test_restart_between_polls(fragile_world: World) -> None:
    """A worker that restarts knows nothing of its clients; their tokens still hold."""
    world = fragile_world
    alice, bob = world.new_device("again-a"), world.new_device("again-b")
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    lazy = {"presence": {"types": []}, "room": {"state": {"lazy_load_members": True}}}
    since = Client(world.target, token=alice.token).sync(filter=lazy)["next_batch"]
    assert world.deployment.chappe is not None
    process = world.deployment.chappe.process
    for number in range(2):
        event_id = bob.text(room, f"before the restart {number}")
        bob.to_device("org.example.n", {alice.user_id: {"*": {"n": number}}})
        process.ask_to_stop()
        process.await_stop()
        process.start()
        while not process.poll_ready():
            time.sleep(0.05)
        body = Client(world.target, token=alice.token).sync(filter=lazy, since=since)
        events = body["rooms"]["join"][room]["timeline"]["events"]
        assert [event["event_id"] for event in events] == [event_id], body
        assert [event["content"]["n"] for event in body["to_device"]["events"]] == [number], body
        members = [event["state_key"] for event in body["rooms"]["join"][room]["state"]["events"]]
        assert members == [bob.user_id], body  # sent again: what the device knows is kept in memory alone
        since = body["next_batch"]
