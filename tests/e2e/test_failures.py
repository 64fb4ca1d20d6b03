# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Servers die under parked polls; devices that count lose nothing and get nothing twice."""

from __future__ import annotations

import signal
import time
from typing import Iterator

import pytest
from e2e.counting import Crowd
from stack.process import Process
from stack.settings import SERVER_NAME
from support.world import World


def sync_server(world: World) -> Process:
    """The process that serves /sync."""
    chappe = world.deployment.chappe
    return chappe.process if chappe else world.deployment.synapse.worker


def restart(process: Process, down: float = 0.0) -> None:
    """Start a process that has ended, after a while, and wait until it answers."""
    time.sleep(down)
    process.start()
    process.wait_ready()


@pytest.fixture(autouse=True)
def everything_running(fragile_world: World) -> Iterator[None]:
    """Bring back what a failed test left dead, so that it does not fail the next ones."""
    yield
    for process in fragile_world.deployment.processes:
        if not process.running:
            restart(process)


def test_undisturbed(fragile_world: World) -> None:
    """Nothing fails; proves the counting itself."""
    with Crowd(fragile_world).counting() as crowd:
        crowd.wait_for_more(30)
    assert not any(device.trouble for device in crowd.devices), [device.trouble for device in crowd.devices]


def test_redis_killed(fragile_world: World) -> None:
    """Redis is gone for a while: polls are held, then everything arrives."""
    redis = fragile_world.deployment.redis.process
    with Crowd(fragile_world).counting() as crowd:
        crowd.wait_for_more(10)
        redis.kill()
        # Synapse accepts hardly anything meanwhile: what it did accept must arrive all the same.
        restart(redis, down=4.0)
        crowd.wait_for_more(20, seconds=90)
    assert not any(device.trouble for device in crowd.devices), [device.trouble for device in crowd.devices]


def test_redis_connections_cut(fragile_world: World) -> None:
    """Subscriptions are cut several times in the middle of a burst; each gap is closed."""
    redis = fragile_world.deployment.redis
    with Crowd(fragile_world).counting(interval=0.02) as crowd:
        for _ in range(4):
            crowd.wait_for_more(8)
            assert redis.command("CLIENT", "KILL", "TYPE", "pubsub").startswith(":")
        crowd.wait_for_more(20)
    fragile_world.deployment.check_running()


def test_postgres_restarted(fragile_world: World) -> None:
    """PostgreSQL is shut down at once and comes back."""
    postgres = fragile_world.deployment.postgres.process
    with Crowd(fragile_world).counting() as crowd:
        crowd.wait_for_more(10)
        # Not in the middle of a message: Synapse would leave a row in state_groups_persisting behind and refuse
        # every later message of the room until it is restarted itself.
        with crowd.paused():
            time.sleep(0.5)
            postgres.signal(signal.SIGQUIT)
            postgres.await_stop()
            restart(postgres, down=1.5)
        crowd.wait_for_more(20, seconds=60)
    fragile_world.deployment.check_running()


def test_synapse_main_restarted(fragile_world: World) -> None:
    """Synapse's main process crashes and comes back."""
    main = fragile_world.deployment.synapse.main
    with Crowd(fragile_world).counting() as crowd:
        crowd.wait_for_more(10)
        main.kill()
        restart(main)
        crowd.wait_for_more(20, seconds=60)
    fragile_world.deployment.check_running()


def test_sync_server_killed(fragile_world: World) -> None:
    """The sync server itself crashes; the next one takes over the devices where they stood."""
    server = sync_server(fragile_world)
    with Crowd(fragile_world).counting() as crowd:
        crowd.wait_for_more(10)
        server.kill()
        crowd.wait_for_more(5)
        restart(server)
        crowd.wait_for_more(20)


@pytest.mark.chappe_only
@pytest.mark.short
def test_graceful_stop(fragile_world: World) -> None:
    """SIGTERM: parked polls get an empty delta, the process ends by itself, nothing is lost."""
    server = sync_server(fragile_world)
    with Crowd(fragile_world).counting() as crowd:
        crowd.wait_for_more(10)
        begun = time.monotonic()
        server.ask_to_stop()
        server.await_stop()
        took = time.monotonic() - begun
        assert server.exit_status == 0, server.failure(f"ended with status {server.exit_status}")
        assert took < 12, f"the stop took {took:.1f} s"
        restart(server)
        crowd.wait_for_more(20)


def test_nonsense_on_the_feed(fragile_world: World) -> None:
    """Lines that are cut in half, unknown or not even text are counted and passed over."""
    redis = fragile_world.deployment.redis
    lines = [
        "RDATA",
        "RDATA events",
        "RDATA events master",
        "RDATA events master 99",
        "RDATA events master notanumber [1]",
        'RDATA events master 1 ["ev", ["$x"',
        "RDATA nosuchstream master 5 [1, 2]",
        "RDATA typing master 3 {}",
        "POSITION",
        "POSITION nosuchstream somebody 1 2",
        "POSITION events master x y",
        "NOSUCHCOMMAND with words",
        "USER_SYNC",
        "REMOTE_SERVER_UP",
        " ",
        "",
        "é" * 2000,
        "RDATA " + "x" * 100000,
    ]
    with Crowd(fragile_world).counting() as crowd:
        crowd.wait_for_more(5)
        for line in lines:
            redis.command("PUBLISH", SERVER_NAME, line)
            time.sleep(0.02)
        crowd.wait_for_more(20)
    server = sync_server(fragile_world)
    assert server.running, server.failure("died of a line on the feed")


@pytest.mark.chappe_only
def test_odd_stored_events(fragile_world: World) -> None:
    """An event whose stored form is broken is left out; all others come, in every room."""
    deployment = fragile_world.deployment
    alice = fragile_world.new_device("odd")
    room, other = alice.create_room(name="Odd"), alice.create_room(name="Sound")
    broken = {alice.text(room, f"broken {n}"): n for n in range(4)}
    sound = [alice.text(where, "sound") for where in (room, other)]
    server = sync_server(fragile_world)
    server.stop()
    for event_id, number in broken.items():
        odd = ('{"cut in ha', "[]", '"text"', '{"content": 5, "type": []}')[number]
        quoted = odd.replace("'", "''")
        deployment.postgres.psql(f"UPDATE event_json SET json = '{quoted}' WHERE event_id = '{event_id}'")
    restart(server)
    body = alice.sync()
    seen = [e["event_id"] for r in (room, other) for e in body["rooms"]["join"][r]["timeline"]["events"]]
    assert set(sound) <= set(seen), seen
    event_id = alice.text(room, "after")
    body = alice.sync(since=body["next_batch"], timeout=5000)
    assert [e["event_id"] for e in body["rooms"]["join"][room]["timeline"]["events"]] == [event_id]
