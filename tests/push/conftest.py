# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A deployment whose pushers Chappe serves (or the Synapse worker, with CHAPPE_TEST_TARGET=synapse)."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Any, Iterator

import pytest
from support.gateway import Gateway
from support.world import TARGET, settings_for

from push.phones import Phones

PUSHER = "chappe1" if TARGET == "chappe" else "synapse_worker1"
SETTINGS: dict[str, Any] = {
    "pusher_instances": [PUSHER],
    "start_pushers": False,
    # The tests' gateways are on loopback, which nobody's are in the world outside.
    "ip_range_whitelist": ["127.0.0.0/8"],
}
GATEWAY_OFFSET, GATEWAYS, GATEWAY_PORTS = 90, 200, 10
_numbers = itertools.count()
# Pushkeys (Phones.phone), paths of gateways' URLs, contents.
SECRETS = re.compile(r"key-\d+-|:\d+/_matrix/push|msgtype|m\.mentions")


def no_secrets(log: Path) -> None:
    """Nothing that only a pusher's owner and gateway know is in Chappe's log, whatever the tests did."""
    found = [line for line in log.read_text(errors="replace").splitlines() if SECRETS.search(line)]
    assert not found, found[:5]


@pytest.fixture(scope="module")
def push_world(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A deployment of the module's own.

    A module may say SYNAPSE = {…} to add to its homeserver.yaml, and PERSISTERS = 2 for two writers of events.
    """
    from conftest import _running

    extra = {**SETTINGS, **getattr(request.module, "SYNAPSE", {})}
    persisters = getattr(request.module, "PERSISTERS", 0)
    settings = settings_for("push", offset=60, synapse_extra=extra, event_persisters=persisters)
    for world in _running(settings):
        yield world
        # Nobody tells of them any more, but the next module's Chappe would try, and find their gateways down.
        world.deployment.postgres.psql("DELETE FROM pushers")
        no_secrets(settings.logs / "chappe.log")


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A gateway that behaves well until told otherwise."""
    # Another port for each test: what Chappe has learned of a gateway's health outlives a test.
    base = int(os.environ.get("CHAPPE_TEST_PORT_BASE", "15540"))
    number = next(_numbers)
    assert number < GATEWAYS, "more tests than gateways: a port is used again, and may be taken for one that is down"
    port = base + GATEWAY_OFFSET + number * GATEWAY_PORTS
    gateway = Gateway(port).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def phones(push_world: Any, gateway: Gateway) -> Phones:
    """People, rooms and phones of one test."""
    return Phones(push_world, gateway)
