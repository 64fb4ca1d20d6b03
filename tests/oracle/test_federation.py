# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Every scenario of the oracle that needs a second homeserver, and generated scripts with one, as tests."""

from __future__ import annotations

import pytest
from oracle import runner, seeds
from oracle.generator import FEDERATED
from support.world import World


@pytest.mark.parametrize("name", runner.names(federation=True))
def test_scenario(federated_world: World, name: str) -> None:
    """Both servers give the same answers all through the scenario."""
    assert runner.run(federated_world, name) > 0


@pytest.mark.parametrize("profile", FEDERATED)
def test_seed(federated_world: World, profile: str) -> None:
    """Both servers give the same answers all through a generated script, in which a part of the users lives elsewhere."""
    script = seeds.script_of(profile, 1, 10)
    outcome = seeds.run(federated_world, script)
    assert outcome.mismatch is None, f"{outcome.mismatch}\n  {seeds.shorten(federated_world, script, outcome, seconds=60)}"
    assert outcome.answers > 0
