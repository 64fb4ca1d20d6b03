# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""/sync and pushing in two processes, each with one of the roles, and then both in one."""

from __future__ import annotations

from typing import Any, Iterator

import pytest
from push.phones import Phones, bodies, metric, pair
from stack.matrix import Client
from stack.process import Process
from stack.synapse import answers

SYNAPSE = {"pusher_instances": ["chappe2"]}
pytestmark = pytest.mark.chappe_only
PUSHED = "synapse_http_httppusher_http_pushes_processed"


@pytest.fixture
def pusher(phones: Phones) -> Iterator[Process]:
    """A Chappe that is the only pusher instance and serves no clients: it has no port but that of its metrics."""
    deployment = phones.world.deployment
    port = phones.world.settings.ports.persister1  # nothing of a deployment without event persisters listens there
    listener = {"type": "metrics", "port": port, "bind_addresses": ["127.0.0.1"]}
    config = deployment.synapse.write_worker(
        "pusher",
        {"worker_app": "synapse.app.generic_worker", "worker_name": "chappe2", "worker_listeners": [listener]},
    )
    argv = [*phones.pusher().argv[:-1], str(config)]
    log = phones.world.settings.logs / "pusher.log"
    process = Process("The pusher", argv, log, ready=lambda: answers(port, "/metrics"), stop_seconds=15)
    process.start()
    process.wait_ready()
    yield process
    process.stop()
    assert process.exit_status == 0, process.failure("stopped")


def told_both_ways(phones: Phones, port: int) -> None:
    """A message reaches a client that waits in /sync at Chappe and a phone; the process at the port pushed it."""
    ann, ben, room, key = pair(phones)
    served = Client(phones.world.target, ben.user_id, ben.token)
    since = served.sync()["next_batch"]
    before = metric(port, PUSHED)
    for number in range(3):
        event = ann.text(room, f"{number}")
        seen: list[Any] = []
        for _ in range(10):  # an answer may be of something else
            answer = served.sync(since=since, timeout=10000)
            since = answer["next_batch"]
            joined = answer.get("rooms", {}).get("join", {})
            seen += [one["event_id"] for one in joined.get(room, {}).get("timeline", {}).get("events", [])]
            if event in seen:
                break
        assert event in seen
    assert bodies(phones.events(key, 3)) == ["0", "1", "2"]
    phones.quiet(key)
    assert metric(port, PUSHED) - before == 3
    ben.receipt(room, event)
    phones.until(lambda: bool(phones.gateway.of(key, events=False)))
    assert phones.gateway.of(key, events=False)[-1].unread == 0


def test_two_processes(phones: Phones, pusher: Process) -> None:
    """One answers /sync and pushes nothing, the other pushes."""
    ports = phones.world.settings.ports
    told_both_ways(phones, ports.persister1)
    assert metric(ports.chappe_metrics, PUSHED) == 0


def test_one_process(phones: Phones) -> None:
    """One process does both."""
    phones.world.apply({"pusher_instances": ["chappe1"]})
    told_both_ways(phones, phones.world.settings.ports.chappe_metrics)
