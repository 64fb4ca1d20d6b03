# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Generated scripts of a fixed set of seeds, and the scripts that once showed a difference."""

from __future__ import annotations

from pathlib import Path

import pytest
from oracle import seeds
from oracle.generator import PROFILES
from oracle.script import Script
from support.world import World

# Each profile twice, with other seeds where there are event persisters; `tests/oracle/run --seeds N` runs as many more as
# wanted.
_SEEDS = [(profile, seed) for seed in (1, 2) for profile in PROFILES]
_STEPS = 10


@pytest.mark.parametrize("path", seeds.regressions(), ids=lambda path: path.stem)
def test_regression(world: World, path: Path) -> None:
    """What differed once does not any more."""
    _check(world, Script.load(path))


@pytest.mark.parametrize(("profile", "seed"), _SEEDS)
def test_seed(world: World, profile: str, seed: int) -> None:
    """Both servers give the same answers all through a generated script."""
    _check(world, seeds.script_of(profile, seed + 10 * world.settings.event_persisters, _STEPS))


def _check(world: World, script: Script) -> None:
    outcome = seeds.run(world, script)
    assert outcome.mismatch is None, f"{outcome.mismatch}\n  {seeds.shorten(world, script, outcome, seconds=60)}"
    assert outcome.answers > 0


def test_saved_script(tmp_path: Path) -> None:
    """A script comes back from its file as it was, whatever its contents hold."""
    script = Script("s", [{"do": "send", "content": {"body": 'end \u2028 of \x85 line\n # "\\'}}])
    script.save(tmp_path / "s.jsonl", "A remark.\nAnother.")
    assert Script.load(tmp_path / "s.jsonl") == script
