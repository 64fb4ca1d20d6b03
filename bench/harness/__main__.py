# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""The command line of bench/run."""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType

from harness.measure import Bench, Plan
from harness.report import Report
from harness.stage import Stage, build_load, default_state
from stack.errors import StackError
from stack.install import say
from stack.matrix import MatrixError
from stack.settings import Ports
from stack.versions import CHECKOUT

DEFAULT_PORT_BASE = 15700
TARGETS = {"synapse": ["synapse"], "chappe": ["chappe"], "both": ["synapse", "chappe"]}


class Interrupted(BaseException):
    """Ctrl-C or a request to end."""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise Interrupted


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/run",
        description="Long polls of many devices in one room: Chappe and a Synapse worker, alternately.",
        epilog="The first run prepares users and room (some minutes for 1,000) and keeps them in the state folder.",
    )
    parser.add_argument("--listeners", type=int, default=1000, metavar="N", help="devices that listen (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds, each with new processes (%(default)s)")
    parser.add_argument("--target", choices=sorted(TARGETS), default="both", help="what to measure (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round, few messages: to see that it works")
    parser.add_argument("--chappe-events", type=int, default=30, metavar="N", help="messages a round (%(default)s)")
    parser.add_argument(
        "--synapse-events", type=int, default=5, metavar="N", help="messages a round; each takes seconds (%(default)s)"
    )
    parser.add_argument("--timeline", type=int, default=20, metavar="N", help="timeline limit of the filter (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=8, metavar="N", help="initial syncs at once (%(default)s)")
    parser.add_argument("--cache-factor", type=float, metavar="F", help="caches.global_factor of Synapse (its default 0.5)")
    parser.add_argument("--transport", choices=("uring", "uv"), help="Chappe's transport (its own choice)")
    parser.add_argument("--state", type=Path, default=default_state(), metavar="DIR", help="state folder (%(default)s)")
    parser.add_argument("--port-base", type=int, default=DEFAULT_PORT_BASE, metavar="N", help="first port (%(default)s)")
    parser.add_argument("--no-install", action="store_true", help="do not look for missing Debian packages")
    parser.add_argument("--chappe-binary", type=Path, metavar="FILE", help="measure this one and build none")
    parser.add_argument("--load-binary", type=Path, metavar="FILE", help="use this generator and build none")
    parser.add_argument("--prepare-only", action="store_true", help="make users and room, measure nothing")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write (bench/results/DATE.txt)")
    options = parser.parse_args()
    if options.listeners < 2 or options.rounds < 1:
        parser.error("at least 2 listeners and 1 round")
    return options


def _plan(options: argparse.Namespace) -> Plan:
    quick = options.quick
    return Plan(
        listeners=options.listeners,
        rounds=1 if quick else options.rounds,
        targets=TARGETS[options.target],
        events={
            "chappe": min(options.chappe_events, 5) if quick else options.chappe_events,
            "synapse": min(options.synapse_events, 2) if quick else options.synapse_events,
        },
        timeline=options.timeline,
        concurrency=options.concurrency,
        transport=options.transport,
    )


def _run(options: argparse.Namespace, stage: Stage) -> int:
    plan = _plan(options)
    load = options.load_binary.resolve() if options.load_binary else build_load(stage.settings.logs)
    stage.start()
    stage.populate(plan.listeners)
    if options.prepare_only:
        return 0
    command = "bench/run " + shlex.join(sys.argv[1:])
    report = Report(plan, command.strip(), stage.describe())
    bench = Bench(stage, plan, load)
    try:
        for result in bench.rounds():
            report.add(result)
            say(report.one_line(result))
    finally:
        if report.results:
            text = report.text()
            stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H%M")
            path = options.output or CHECKOUT / "bench" / "results" / f"{stamp}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print("\n" + text.split("\nRaw rounds", 1)[0], flush=True)
            say(f"written to {os.path.relpath(path)}")
    return 0 if report.correct else 1


def main() -> int:
    """Run; return the exit status."""
    options = _parse()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    stage: Stage | None = None
    try:
        stage = Stage(
            options.state.resolve(),
            Ports(options.port_base),
            with_chappe=options.target != "synapse" and not options.prepare_only,
            chappe_binary=options.chappe_binary,
            cache_factor=options.cache_factor,
            install=not options.no_install,
            transport=options.transport,
        )
        return _run(options, stage)
    except Interrupted:
        print("\n· stopping", flush=True)
        return 130
    except (StackError, MatrixError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr, flush=True)
        return 3
    finally:
        if stage is not None:
            stage.stop()


sys.exit(main())
