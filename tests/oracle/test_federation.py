# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Every scenario of the oracle that needs a second homeserver, as a test."""

from __future__ import annotations

import pytest
from oracle import runner
from support.world import World


@pytest.mark.parametrize("name", runner.names(federation=True))
def test_scenario(federated_world: World, name: str) -> None:
    """Both servers give the same answers all through the scenario."""
    assert runner.run(federated_world, name) > 0
