# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""What memory is used for: the kinds of chappe_memory_bytes explain what is resident, with polls parked."""

from __future__ import annotations

import json
import secrets
import socket
import time
import urllib.request
from urllib.parse import urlencode

import pytest
from stack.matrix import Client
from support.world import World

USERS = 150
FILTER = json.dumps({"room": {"timeline": {"limit": 20}, "state": {"lazy_load_members": True}}})


def _log_in(world: World, users: list[str]) -> list[str]:
    """Give every user a device in the database: logins would take longer than the test."""
    run = secrets.token_hex(8)
    tokens = [f"memory-{run}-{number}" for number in range(len(users))]
    devices = ",".join(f"('{user_id}','M')" for user_id in users)
    world.deployment.postgres.psql(f"INSERT INTO devices (user_id, device_id) VALUES {devices}")
    first = int(world.deployment.postgres.psql("SELECT COALESCE(max(id), 0) + 3000000 FROM access_tokens"))
    rows = ",".join(f"({first + n},'{user_id}','M','{tokens[n]}')" for n, user_id in enumerate(users))
    world.deployment.postgres.psql(f"INSERT INTO access_tokens (id, user_id, device_id, token) VALUES {rows}")
    return tokens


def _memory(world: World) -> tuple[dict[str, int], int, int]:
    """Return the kinds, the resident size and the number of parked polls, of one moment."""
    url = f"http://127.0.0.1:{world.settings.ports.chappe_metrics}/metrics"
    with urllib.request.urlopen(url, timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    kinds: dict[str, int] = {}
    resident = parked = 0
    for line in lines:
        name, _, value = line.rpartition(" ")
        if name.startswith("chappe_memory_bytes{"):
            kinds[name.split('kind="')[1].split('"')[0]] = int(value)
        elif name.startswith("process_resident_memory_bytes"):
            resident = int(value)
        elif name.startswith("chappe_sync_parked"):
            parked = int(value)
    return kinds, resident, parked


def _park(port: int, token: str, since: str) -> socket.socket:
    query = urlencode({"filter": FILTER, "since": since, "timeout": 60000, "set_presence": "offline"})
    waiting = socket.create_connection(("127.0.0.1", port), 30)
    head = f"GET /_matrix/client/v3/sync?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    waiting.sendall(head.encode())
    return waiting


@pytest.mark.chappe_only
def test_memory_is_explained(world: World) -> None:
    """Kinds add up to the resident size, and grow and shrink with what they are about."""
    owner = world.new_device("memory-owner")
    room = owner.create_room(preset="public_chat")
    users = [world.new_user(f"memory{number}") for number in range(USERS)]
    tokens = _log_in(world, users)
    for user_id, token in zip(users, tokens):
        Client(world.main, user_id, token).join(room)
    before, _, waiting = _memory(world)
    port = world.settings.ports.chappe
    quiet = {"filter": json.loads(FILTER), "set_presence": "offline"}
    polls = [_park(port, token, Client(world.target, token=token).sync(**quiet)["next_batch"]) for token in tokens]
    try:
        deadline = time.monotonic() + 30
        kinds, resident, parked = _memory(world)
        while parked < waiting + USERS and time.monotonic() < deadline:
            time.sleep(0.2)
            kinds, resident, parked = _memory(world)
        assert parked >= waiting + USERS
        told = sum(kinds.values())
        assert 0.9 * resident <= told <= 1.05 * resident, (told, resident, kinds)
        grown = {kind: kinds[kind] - before.get(kind, 0) for kind in kinds}
        for kind in ("requests", "http", "users", "devices", "tokens", "lazy_members", "events"):
            assert grown[kind] > 100 * USERS, grown
    finally:
        for poll in polls:
            poll.close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and _memory(world)[0]["requests"] > before["requests"]:
        time.sleep(0.2)
    after, _, _ = _memory(world)
    assert after["requests"] <= before["requests"] and after["http"] <= before["http"] + 4096, (before, after)
