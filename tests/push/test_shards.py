# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Two instances share the users: each has its own, and everybody is told once."""

from __future__ import annotations

import hashlib

import pytest
from push.phones import Phones, bodies
from stack.process import Process
from stack.synapse import answers

INSTANCES = ["chappe1", "chappe2"]
SYNAPSE = {"pusher_instances": INSTANCES}
pytestmark = pytest.mark.chappe_only


def another(phones: Phones, name: str, **options: object) -> Process:
    """Another Chappe of the same deployment, as an instance of that name."""
    deployment, port = phones.world.deployment, phones.world.settings.ports.chappe2
    listener = {"type": "http", "port": port, "bind_addresses": ["127.0.0.1"], "resources": [{"names": ["client"]}]}
    # Nothing of a deployment without event persisters listens there.
    metrics = {"type": "metrics", "port": phones.world.settings.ports.persister1, "bind_addresses": ["127.0.0.1"]}
    config = deployment.synapse.write_worker(
        f"second-{name}",
        {
            "worker_app": "synapse.app.generic_worker",
            "worker_name": name,
            "worker_listeners": [listener, metrics],
            "chappe": {**phones.world.settings.chappe_options, **options},
        },
    )
    argv = [*phones.pusher().argv[:-1], str(config)]
    log = phones.world.settings.logs / f"second-{name}.log"
    return Process("The second Chappe", argv, log, ready=lambda: answers(port), stop_seconds=15)


def shard(user_id: str) -> int:
    """Which instance serves a user, by another hand than Chappe's."""
    return int.from_bytes(hashlib.sha256(user_id.encode()).digest(), "little") % len(INSTANCES)


def test_shares(phones: Phones) -> None:
    """While the second is away its users wait, and only they; when it comes they are told, each once."""
    ann = phones.person("ann")
    people = [phones.person("p") for _ in range(3)]
    while len({shard(person.user_id) for person in people}) < 2:
        people.append(phones.person("p"))
    room = phones.room(ann, *people, name="All")
    keys = {phones.phone(person): shard(person.user_id) for person in people}
    ours = [key for key, of in keys.items() if of == 0]
    theirs = [key for key, of in keys.items() if of == 1]
    ann.text(room, "0")
    phones.until(lambda: all(phones.gateway.of(key) for key in ours))
    for key in theirs:
        phones.quiet(key, 0.5)
    process = another(phones, "chappe2")
    process.start()
    try:
        process.wait_ready()
        phones.until(lambda: all(phones.gateway.of(key) for key in theirs), 30)
        ann.text(room, "1")
        phones.until(lambda: all(len(phones.gateway.of(key)) == 2 for key in keys), 30)
        phones.quiet(theirs[0])
        assert {tuple(bodies(phones.gateway.of(key))) for key in keys} == {("0", "1")}
    finally:
        process.stop()
    assert process.exit_status == 0, process.failure("stopped")
