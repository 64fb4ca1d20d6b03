# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""The command line of tests/oracle/run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.world import World


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/oracle/run", description="Compare /sync of Chappe and of Synapse.")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument("--scenario", action="append", metavar="NAME", help="run only this one (repeatable)")
    parser.add_argument(
        "--both-synapse", action="store_true", help="compare Synapse's worker with its main process (self-test)"
    )
    parser.add_argument("--event-persisters", type=int, choices=(0, 1, 2), default=0, help="workers that persist events")
    parser.add_argument(
        "--split-writers", action="store_true", help="let workers write every stream that Synapse lets them write"
    )
    parser.add_argument(
        "--synapse", metavar="X.Y.Z", help="Synapse release (default: CHAPPE_TEST_SYNAPSE, or deploy/local/versions)"
    )
    parser.add_argument(
        "--with-federation",
        action="store_true",
        help="also the scenarios that need a second homeserver; generated scripts: only those",
    )
    seeds = parser.add_argument_group("generated scripts")
    seeds.add_argument("--seeds", type=int, metavar="N", help="run generated scripts of N seeds")
    seeds.add_argument("--first-seed", type=int, default=1, metavar="K", help="begin with another seed than 1")
    seeds.add_argument("--profile", default="all", help="one profile of generator.py instead of all in turn")
    seeds.add_argument("--steps", type=int, default=30, metavar="S", help="length of the scripts (default: 30)")
    seeds.add_argument("--replay", type=Path, action="append", metavar="FILE", help="run a saved script (repeatable)")
    seeds.add_argument("--times", type=int, default=1, metavar="N", help="run saved scripts N times each")
    seeds.add_argument(
        "--shrink-seconds", type=float, default=300, metavar="S", help="longest time to shorten a script (default: 300)"
    )
    seeds.add_argument("--no-shrink", action="store_true", help="leave scripts that differ as long as they are")
    seeds.add_argument("--rotation", action="store_true", help="let Synapse sum up push actions meanwhile")
    seeds.add_argument(
        "--interchange", action="store_true", help="compare a client that moves between servers with one that stays"
    )
    parser.add_argument("--report", type=Path, help="folder for answers that differ (default: in the temporary folder)")
    return parser.parse_args()


def main() -> int:
    """Run the chosen scenarios; return 1 when any differs."""
    options = _parse()
    if options.both_synapse:
        os.environ["CHAPPE_TEST_TARGET"] = "synapse"

    if options.synapse:
        os.environ["CHAPPE_TEST_SYNAPSE"] = options.synapse

    # The target is read when these are imported.
    from support.world import World, federated_settings, settings_for
    from stack.errors import StackError
    from oracle import runner

    chosen = options.scenario or [*runner.names(), *(runner.names(federation=True) if options.with_federation else [])]
    if options.list:
        for name in chosen:
            print(f"{name:24} {(runner.load(name).__doc__ or '').strip().splitlines()[0]}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = 0
    settings = {"event_persisters": options.event_persisters, "split_writers": options.split_writers}
    deployments = (settings_for("oracle", **settings), federated_settings(**settings))
    try:
        if options.seeds or options.replay:
            from oracle import interchange_run, seeds

            if options.interchange:
                return interchange_run.command(World(deployments[0]), options)
            return seeds.command(World(deployments[options.with_federation]), options)
        for deployment in deployments:
            part = [name for name in chosen if runner.federated(name) == deployment.federation]
            failed += _run(World(deployment), part, options.report) if part else 0
    except StackError as error:
        print(f"oracle: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"{len(chosen) - failed} of {len(chosen)} scenarios agree")
    return 1 if failed else 0


def _run(world: World, chosen: list[str], report: Path | None) -> int:
    """Run scenarios on a deployment; return how many failed."""
    from oracle import runner

    failed = 0
    try:
        world.start()
        for name in chosen:
            begun = time.monotonic()
            try:
                steps = runner.run(world, name, report)
            except Exception as error:  # noqa: BLE001 - a scenario that breaks must not hide the others
                failed += 1
                print(f"FAIL  {name}\n  {type(error).__name__}: {error}", flush=True)
            else:
                print(f"ok    {name:24} {steps:3} answers, {time.monotonic() - begun:.1f} s", flush=True)
    finally:
        world.stop()
    return failed


if __name__ == "__main__":
    sys.exit(main())
