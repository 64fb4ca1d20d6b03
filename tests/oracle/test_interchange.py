# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Token interchange over a fixed set of seeds; `tests/oracle/run --interchange --seeds N` runs as many others as wanted."""

from __future__ import annotations

from typing import Iterator

import pytest
from oracle import interchange_run
from oracle.interchange import Tally
from support.world import World

pytestmark = pytest.mark.chappe_only

_SEEDS = range(1, 5)
_STEPS = 8


@pytest.fixture(scope="module")
def servers(world: World) -> Iterator[interchange_run.Servers]:
    """The deployment's servers and a second Chappe."""
    with interchange_run.Servers(world) as found:
        yield found


@pytest.mark.parametrize("seed", _SEEDS)
def test_seed(servers: interchange_run.Servers, seed: int) -> None:
    """A client that moves between servers ends where one ends that stays with Synapse."""
    tally = Tally()
    interchange_run.run(servers, seed, _STEPS, tally)
    assert tally.moves > 0 and tally.checks > 0
