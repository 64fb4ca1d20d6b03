# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Runs generated and saved scripts on a deployment, and shortens those that differ."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from support.world import World

from oracle.context import CountMismatch, Mismatch
from oracle.generated import GeneratedContext
from oracle.generator import FEDERATED, PROFILES, generate
from oracle.rotation import Held
from oracle.script import Executor, Script, Step
from oracle.shrink import Found, kind, shrink

REGRESSIONS = Path(__file__).resolve().parent.parent / "regressions"
# Guests, and the state after the timeline.
SETTINGS: dict[str, object] = {
    "allow_guest_access": True,
    "experimental_features": {"msc4222_enabled": True},
}


@dataclasses.dataclass
class Outcome:
    """What became of one script."""

    answers: int
    done: dict[str, int]
    seconds: float
    mismatch: Mismatch | None = None
    at: int = 0
    forgiven: int = 0
    idle: frozenset[int] = frozenset()
    spent: dict[str, float] = dataclasses.field(default_factory=dict)


def regressions() -> list[Path]:
    """Return the scripts that once showed a difference."""
    return sorted(REGRESSIONS.glob("*.jsonl"))


def script_of(profile: str, seed: int, steps: int) -> Script:
    """Return a generated script; profile "all" takes them in turn, as "federated" does those with a second homeserver."""
    turns = {"all": list(PROFILES), "federated": list(FEDERATED)}.get(profile, [profile])
    return generate(turns[seed % len(turns)], seed, steps)


def run(world: World, script: Script, report: Path | None = None, rotation: bool = False) -> Outcome:
    """Run a script; with `rotation` Synapse sums counts up meanwhile, and counts alone may differ once (CountMismatch)."""
    outcome = _once(world, script, report, rotation)
    if rotation and isinstance(outcome.mismatch, CountMismatch):
        outcome = _once(world, script, report, rotation)
    return outcome


def _once(world: World, script: Script, report: Path | None, rotation: bool = False) -> Outcome:
    world.apply(SETTINGS)
    subject = world.target if world.settings.with_chappe else world.main
    folder = report or Path(tempfile.gettempdir()) / "chappe-oracle"
    context = GeneratedContext(world, script.name, world.worker, subject, folder)
    executor = Executor(context, script)
    begun = time.monotonic()
    mismatch = None
    try:
        with nullcontext() if rotation else Held(world):
            executor.run()
    except Mismatch as error:
        mismatch = error
    finally:
        context.close()
    return Outcome(
        context.steps,
        executor.done,
        time.monotonic() - begun,
        mismatch,
        executor.at,
        context.forgiven,
        frozenset(executor.idle),
        executor.seconds,
    )


def shorten(world: World, script: Script, outcome: Outcome, report: Path | None = None, seconds: float = 300) -> Path:
    """Shorten a script that differs, save it in the report folder, and return where."""
    assert outcome.mismatch is not None
    folder = report or Path(tempfile.gettempdir()) / "chappe-oracle"
    wanted = kind(_where(outcome.mismatch))
    last: list[Mismatch] = [outcome.mismatch]

    def trial(steps: list[Step]) -> Found | None:
        tried = _once(world, Script(f"{script.name}-try", steps), folder)
        if tried.mismatch is None:
            return None
        found = Found(kind(_where(tried.mismatch)), tried.at, tried.idle)
        if found.kind == wanted:
            last[0] = tried.mismatch
        return found

    short = shrink(Script(script.name, script.steps[: outcome.at + 1]), wanted, trial, seconds)
    path = folder / f"{script.name}.jsonl"
    short.save(path, f"A short form of {script.name}.", str(last[0]))
    return path


def command(world: World, options: argparse.Namespace) -> int:
    """Run what the command line asks for; print a line for each script and totals; return 1 when any differs."""
    if options.replay:
        scripts = [Script.load(path) for path in options.replay for _ in range(options.times)]
    else:
        numbers = range(options.first_seed, options.first_seed + options.seeds)
        profile = "federated" if options.with_federation and options.profile == "all" else options.profile
        scripts = [script_of(profile, seed, options.steps) for seed in numbers]
    ran = answers = failed = forgiven = 0
    became: collections.Counter[str] = collections.Counter()
    spent: collections.Counter[str] = collections.Counter()
    begun = time.monotonic()
    try:
        world.start()
        for script in scripts:
            outcome = run(world, script, options.report, options.rotation)
            ran += 1
            answers += outcome.answers
            forgiven += outcome.forgiven
            became.update(outcome.done)
            spent.update(outcome.spent)
            counts = ", ".join(f"{number} {what}" for what, number in outcome.done.items())
            word = "FAIL " if outcome.mismatch else "ok   "
            print(f"{word} {script.name:16} {outcome.answers:3} answers, {counts}, {outcome.seconds:.1f} s", flush=True)
            if outcome.mismatch:
                failed += 1
                print(f"  {outcome.mismatch}", flush=True)
                if not options.no_shrink:
                    print(f"  short form: {shorten(world, script, outcome, options.report, options.shrink_seconds)}", flush=True)
    except KeyboardInterrupt:
        print("interrupted")
    finally:
        world.stop()
    totals = ", ".join(f"{number} {what}" for what, number in became.items())
    seconds = time.monotonic() - begun
    print(f"{ran} scripts, {answers} answers compared, {failed} differ; steps: {totals}; {seconds:.0f} s")
    print(f"{forgiven} answers were compared without something that Synapse leaves to chance")
    print("seconds spent on: " + ", ".join(f"{what} {number:.0f}" for what, number in spent.most_common(8)))
    return 1 if failed else 0


def _where(mismatch: Mismatch) -> str:
    return str(mismatch).split("\n  at ")[1].split("\n")[0] if "\n  at " in str(mismatch) else str(mismatch)[:40]
