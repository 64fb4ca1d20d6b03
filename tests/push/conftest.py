# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A deployment whose pushers Chappe serves (or the Synapse worker, with CHAPPE_TEST_TARGET=synapse)."""

from __future__ import annotations

import os
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
GATEWAY_OFFSET = 90


@pytest.fixture(scope="module")
def push_world(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A deployment of the module's own; a module may say SYNAPSE = {…} to add to its homeserver.yaml."""
    from conftest import _running

    extra = {**SETTINGS, **getattr(request.module, "SYNAPSE", {})}
    yield from _running(settings_for("push", offset=60, synapse_extra=extra))


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A gateway that behaves well until told otherwise."""
    port = int(os.environ.get("CHAPPE_TEST_PORT_BASE", "15540")) + GATEWAY_OFFSET
    gateway = Gateway(port).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def phones(push_world: Any, gateway: Gateway) -> Phones:
    """People, rooms and phones of one test."""
    return Phones(push_world, gateway)
