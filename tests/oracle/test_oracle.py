# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Every scenario of the oracle as a test."""

from __future__ import annotations

from typing import Iterator

import pytest
from oracle import runner
from support.world import World


@pytest.fixture(scope="module", autouse=True)
def usual_settings(world: World) -> Iterator[None]:
    """Leave the shared deployment with its usual settings."""
    yield
    world.apply({})


@pytest.mark.parametrize("name", runner.names())
def test_scenario(world: World, name: str) -> None:
    """Both servers give the same answers all through the scenario."""
    assert runner.run(world, name) > 0
