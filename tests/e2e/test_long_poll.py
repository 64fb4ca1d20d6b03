# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Long polls through nginx: woken at once, held for their time, by many at once."""

from __future__ import annotations

import concurrent.futures
import time

import pytest
from stack.matrix import Client, Link
from support.world import World

# Somebody's presence may come a moment before what a test waits for.
NO_PRESENCE = {"presence": {"types": []}}


@pytest.mark.short
def test_which_side_answers(world: World) -> None:
    """nginx sends sync in both its forms to the sync server and the rest to Synapse, and says so."""
    alice = world.new_device("front")
    name = "chappe" if world.settings.with_chappe else "synapse"
    for version in ("r0", "v3"):
        reply = alice.sync_raw(version)
        assert (reply.status, reply.headers["x-chappe-upstream"]) == (200, name)
    for path in ("/_matrix/client/versions", "/_matrix/client/v3/account/whoami", "/_matrix/client/v3/sync/"):
        reply = alice.link.request("GET", path, token=alice.token)
        assert reply.headers["x-chappe-upstream"] == "synapse", path
    reply = Client(world.front, token="unknown").sync_raw()
    assert (reply.status, reply.headers["x-chappe-upstream"]) == (401, name)
    assert Link(world.target).request("GET", "/health").status == 200


@pytest.mark.chappe_only
def test_metrics(world: World) -> None:
    """The metrics listener answers in Prometheus' text form."""
    port = world.settings.ports.chappe_metrics
    reply = Link(f"http://127.0.0.1:{port}").request("GET", "/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain")
    names = {line.split("{")[0].split(" ")[0] for line in reply.raw.decode().splitlines() if line[:1] not in ("#", "")}
    assert any(name.startswith("chappe_") for name in names), sorted(names)[:20]


@pytest.mark.short
def test_held_and_woken(world: World) -> None:
    """An idle poll is held for its timeout; a message ends one at once."""
    alice, bob = world.new_device("held-a"), world.new_device("held-b")
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    since = _settled(alice)
    begun = time.monotonic()
    body = alice.sync(since=since, timeout=1500, filter=NO_PRESENCE)
    assert 1.4 < time.monotonic() - begun < 3.5
    assert "rooms" not in body, body
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        poll = pool.submit(
            Client(world.front, token=alice.token).sync,
            since=body["next_batch"],
            timeout=20000,
            filter=NO_PRESENCE,
        )
        time.sleep(0.5)
        assert not poll.done()
        event_id = bob.text(room, "wake up")
        sent = time.monotonic()
        body = poll.result(10)
        assert time.monotonic() - sent < 1.0
    events = body["rooms"]["join"][room]["timeline"]["events"]
    assert [event["event_id"] for event in events] == [event_id]


def _settled(client: Client) -> str:
    """Sync until nothing is new."""
    since = client.sync()["next_batch"]
    for _ in range(10):
        body = client.sync(since=since, timeout=200)
        since = body["next_batch"]
        if "rooms" not in body and "presence" not in body and "account_data" not in body:
            break
    return str(since)


def test_a_hundred_devices(world: World) -> None:
    """One message wakes a hundred parked polls of ten users, each once."""
    owner = world.new_device("hundred")
    room = owner.create_room(preset="public_chat")
    devices: list[Client] = []
    for number in range(10):
        user = world.new_user(f"hundred{number}")
        first = world.device(user, "D0")
        first.join(room)
        devices.append(first)
        devices += [world.device(user, f"D{n}") for n in range(1, 10)]
    quiet = {"presence": {"types": []}, "room": {"ephemeral": {"types": []}}}
    with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
        tokens = list(pool.map(_settled, devices))
        polls = [
            pool.submit(device.sync, since=token, timeout=30000, filter=quiet)
            for device, token in zip(devices, tokens)
        ]
        time.sleep(2)
        early = [poll.result() for poll in polls if poll.done()]
        assert not early, f"{len(early)} polls were not held; first: {early[0]}"
        event_id = owner.text(room, "all of you")
        bodies = [poll.result(30) for poll in polls]
    for body in bodies:
        events = body["rooms"]["join"][room]["timeline"]["events"]
        assert [event["event_id"] for event in events] == [event_id]


@pytest.mark.short
def test_abandoned_polls(world: World) -> None:
    """Clients that hang up while parked leave nothing behind; their next poll gets what came."""
    alice, bob = world.new_device("gone-a"), world.new_device("gone-b")
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    since = _settled(alice)
    for _ in range(5):
        abandoned = Client(world.front, token=alice.token)
        abandoned.link.timeout = 0.2
        path = f"/_matrix/client/v3/sync?since={since}&timeout=20000&set_presence=offline"
        with pytest.raises(OSError):
            abandoned.link.request("GET", path, token=alice.token, timeout=0.2)
    event_id = bob.text(room, "for the one who hung up")
    body = alice.sync(since=since, timeout=5000, filter=NO_PRESENCE)
    assert event_id in [event["event_id"] for event in body["rooms"]["join"][room]["timeline"]["events"]]


def test_two_equal_polls(world: World) -> None:
    """Two polls of one device with the same token are both answered with the same news."""
    alice, bob = world.new_device("twin-a"), world.new_device("twin-b")
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    since = _settled(alice)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        polls = [
            pool.submit(Client(world.front, token=alice.token).sync, since=since, timeout=20000, filter=NO_PRESENCE)
            for _ in range(2)
        ]
        time.sleep(0.5)
        event_id = bob.text(room, "twins")
        for poll in polls:
            events = poll.result(10)["rooms"]["join"][room]["timeline"]["events"]
            assert [event["event_id"] for event in events] == [event_id]
