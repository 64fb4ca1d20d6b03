# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""The command line of bench/hot."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import signal
import statistics
import sys
import time
from pathlib import Path
from types import FrameType

from harness.crowd import Crowd, Shape
from harness.hot_report import FIGURES, Report, Result
from harness.hot_rows import TOUCH_FASTER, WARM, Item, Rows, Settings, load_average
from harness.servers import CHAPPE, TITLES, Servers, step_aside
from harness.stage import RELEASE, Stage, build_load, default_state
from stack.errors import StackError
from stack.install import install_packages, run, say
from stack.matrix import MatrixError
from stack.settings import Ports
from stack.versions import CHECKOUT

DEFAULT_PORT_BASE = 15780
ROWS = ("fanout", "e2e", "open", "workday", "memory", "probe", "slow", "storm", "initial")
# Sizes by row, unless the command line gives some; and the greatest with which Synapse is measured.
SIZES = {"fanout": [1000, 10000, 50000], "e2e": [1000, 10000], "open": [1000], "workday": [120, 20000]}
SIZES |= {"memory": [10000], "probe": [15000], "slow": [1000], "storm": [1000, 20000], "initial": [200]}
SYNAPSE_DEVICES = 1000
TARGETS = {
    "fanout": ("floor", "nchan", "chappe-uring", "chappe-uring-nolog", "chappe-uv", "chappe-uring-f1", "chappe-uv-f1"),
    "e2e": ("synapse", "chappe-uring"),
    "open": ("floor", "nchan", "chappe-uring"),
    "workday": ("synapse", "chappe-uring"),
    "memory": ("floor", "nchan", "chappe-uring", "chappe-uv"),
    "probe": ("floor", "nchan", "chappe-uring", "chappe-uv"),
    "slow": ("chappe-uring", "chappe-uv"),
    "storm": ("synapse", "chappe-uring"),
    "initial": ("synapse", "chappe-uring"),
}
ALL_FORMS = 10000  # devices up to which every form of Chappe is measured; beyond it only the first


class Interrupted(BaseException):
    """Ctrl-C or a request to end."""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise Interrupted


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/hot",
        description="Fan-outs, a workday, storms and large accounts: Chappe beside a bare epoll server, nchan, Synapse.",
        epilog="The first run writes users and rooms into the database (minutes) and keeps them in the state folder.",
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(ROWS)} (all)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds, each with new processes (%(default)s)")
    parser.add_argument("--synapse-rounds", type=int, default=1, metavar="N", help="of them with Synapse (%(default)s)")
    parser.add_argument("--sizes", type=_numbers, metavar="N,N", help="devices, for every row that is named")
    parser.add_argument("--targets", type=lambda text: text.split(","), metavar="T,T", help=f"{', '.join(TITLES)} (by row)")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: to see that it works")
    parser.add_argument("--messages", type=int, default=8, metavar="N", help="messages of a closed loop (%(default)s)")
    parser.add_argument("--rates", type=_numbers, metavar="N,N", help="deltas a second of the open loop")
    parser.add_argument("--accounts", type=_numbers, metavar="A,R,M", help="large accounts, their rooms, members (200,300,300)")
    parser.add_argument("--stalled", type=int, default=500, metavar="N", help="devices that stop reading (%(default)s)")
    parser.add_argument("--work-rate", type=int, default=50, metavar="N", help="messages a second of 20,000 (%(default)s)")
    parser.add_argument("--actions", action="store_true", help="recorded messages notify everybody: rows of push actions")
    parser.add_argument("--state", type=Path, default=default_state().with_name("chappe-bench-hot"), metavar="DIR")
    parser.add_argument("--port-base", type=int, default=DEFAULT_PORT_BASE, metavar="N", help="first port (%(default)s)")
    parser.add_argument("--no-install", action="store_true", help="do not look for missing Debian packages")
    parser.add_argument("--chappe-binary", type=Path, metavar="FILE", help="measure this one and build none")
    parser.add_argument("--prepare-only", action="store_true", help="write users and rooms, measure nothing")
    parser.add_argument("--no-verify", action="store_true", help="do not compare new accounts' answers with Synapse's")
    parser.add_argument("--output", type=Path, metavar="FILE", help="results, without suffix (bench/results/hot-DATE)")
    options = parser.parse_args()
    for row in options.rows:
        if row not in ROWS:
            parser.error(f"there is no row {row}")
    for target in options.targets or []:
        if target not in TITLES:
            parser.error(f"there is no target {target}")
    return options


def _settings(options: argparse.Namespace) -> Settings:
    settings = Settings(messages=options.messages, work_rate=options.work_rate, actions=options.actions, stalled=options.stalled)
    if options.quick:
        settings.messages, settings.rates, settings.step_seconds = min(options.messages, 3), (5000, 20000), 1.0
        settings.work_seconds, settings.work_rate, settings.accounts, settings.synapse_accounts = 4.0, 200, (10, 20, 30), 2
        settings.stalled, settings.stall_seconds, settings.patience = min(options.stalled, 50), 5, 60
    if options.rates:
        settings.rates = tuple(options.rates)
    if options.accounts:
        settings.accounts = tuple(options.accounts)  # type: ignore[assignment]
    return settings


def _items(options: argparse.Namespace, settings: Settings) -> list[Item]:
    rows = options.rows or [row for row in ROWS if row != "memory"]  # the fan-outs' figures have it
    items = []
    for row in rows:
        sizes = options.sizes or ([200] if options.quick else SIZES[row])
        for size in [settings.accounts[0]] if row == "initial" else sizes:
            for target in options.targets or TARGETS[row]:
                if target == "synapse" and (row in ("fanout", "open", "memory") and not options.targets):
                    continue
                if target == "synapse" and size > SYNAPSE_DEVICES and row != "initial":
                    continue
                if target in list(CHAPPE)[1:] and size > ALL_FORMS and row == "fanout" and not options.targets:
                    continue
                source = "own" if target in ("floor", "nchan") else "synapse" if row == "e2e" else "recorded"
                if target not in CHAPPE and (row == "slow" or source == "own" and row in ("e2e", "workday", "storm", "initial")):
                    continue
                items.append(Item(row, target, size, source))
    return items


def _estimate(item: Item, settings: Settings) -> float:
    """Seconds, as they were on a machine of two cores."""
    coming = item.size * {"floor": 0.00005, "nchan": 0.0001, "synapse": 0.03}.get(item.target, 0.0003)
    start = 10.0 if item.target == "synapse" else 2.0
    message = 0.5 + item.size * (0.006 if item.target == "synapse" else 0.00003)
    if item.row == "e2e":
        message += item.size * 0.00025
    count = 2 + (settings.synapse_messages if item.target == "synapse" else settings.messages)
    if item.row in ("fanout", "e2e", "probe"):
        return start + coming + 2.5 + count * message
    if item.row == "slow":
        return start + 3 * coming + 6 + 2 * (count + WARM) * message + 2 * settings.stall_seconds
    if item.row == "open":
        return start + coming + 4 + len(settings.rates) * (settings.step_seconds + 1.5)
    if item.row == "workday":
        touch = 20000 / 8 / settings.work_rate / TOUCH_FASTER  # a room for eight devices
        return start + 3 * coming + 2 * settings.work_seconds + touch + 12
    if item.row == "storm":
        return start + 4 * coming + 5
    if item.row == "initial":
        accounts, rooms, _ = settings.accounts
        each = rooms * (0.02 if item.target == "synapse" else 0.0006)
        return start * 2 + each * (4 + 2 * (settings.synapse_accounts if item.target == "synapse" else accounts))
    return start + coming + 4


class Hot:
    """A run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.settings = _settings(options)
        self.items = _items(options, self.settings)
        self.rounds = 1 if options.quick else options.rounds
        self.results: list[Result] = []

    def order(self) -> list[tuple[int, Item]]:
        """Return what is measured in turn: the targets of a load together, the first one changing from round to round."""
        found = []
        for number in range(self.rounds):
            wheres = list(dict.fromkeys(item.where for item in self.items))
            for where in wheres:
                items = [item for item in self.items if item.where == where]
                items = [i for i in items if i.target != "synapse" or number < self.options.synapse_rounds]
                found += [(number, item) for item in (items if number % 2 == 0 else reversed(items))]
        return found

    def build(self, stage: Stage) -> tuple[Path, Path]:
        """Build the generator and the bare server; return them."""
        load = build_load(stage.settings.logs)
        argv = ["cmake", "--build", str(RELEASE), "--target", "bench_floor"]
        run(argv, "building the bare server", stage.settings.logs / "build-floor.log")
        return load, RELEASE / "bench" / "bench_floor"

    def populate(self, stage: Stage) -> Crowd:
        """Write the users and rooms that are missing, then start the homeserver again."""
        crowd = Crowd(stage)
        probe = Rows.__new__(Rows)
        probe.settings = self.settings
        shapes: dict[str, Shape] = {}
        for item in self.items:
            shape = probe.shape(item)
            if crowd.missing(shape):
                shapes[shape.name] = shape
        if shapes:
            servers = [stage.deployment.synapse.main, stage.process("synapse"), stage.process("chappe")]
            for process in servers:
                process.stop()
            made = [crowd.make(shape) for shape in shapes.values()]
            for process in servers:
                process.start()
            for process in servers:
                process.wait_ready()
            for one in made if not self.options.no_verify else []:
                crowd.verify(one)
        return crowd

    def measure(self, rows: Rows) -> None:
        """Measure all in turn."""
        order = self.order()
        total = sum(_estimate(item, self.settings) for _, item in order)
        say(f"{len(order)} parts, about {total / 60:.0f} minutes")
        begun = time.monotonic()
        done = 0.0
        for number, item in order:
            load = load_average()
            result = Result(item, number, {}, {}, "", round(load, 1))
            part = time.monotonic()
            try:
                result.figures, result.wrong = rows.measure(item)
            except StackError as error:
                result.note = " ".join(str(error).split())[:160]
            self.results.append(result)
            done += _estimate(item, self.settings)
            took = time.monotonic() - part
            left = (time.monotonic() - begun) / done * (total - done)
            say(f"round {number + 1}, {item.where}, {TITLES[item.target]}: {_short(result)} ({took:.0f} s; {left / 60:.0f} min left)")

    def about(self, stage: Stage) -> list[str]:
        """Return the head of the report."""
        loads = [result.load for result in self.results]
        return [
            f"date      {datetime.datetime.now():%Y-%m-%d %H:%M}",
            f"command   {shown_command(sys.argv[1:])}",
            *stage.describe(with_room=False),
            f"cores     what is measured on core 0, the generator on core 1, the homeserver and the stores on {_rest()}",
            f"plan      {self.rounds} rounds, Synapse in {min(self.rounds, self.options.synapse_rounds)} of them",
            f"load      average before the parts: {min(loads):.1f} / {statistics.median(loads):.1f} / {max(loads):.1f}",
        ]

    def write(self, stage: Stage) -> None:
        """Print and write the table, and the raw figures for bench/chart."""
        report = Report(self.about(stage), self.results)
        stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H%M")
        path = self.options.output or CHECKOUT / "bench" / "results" / f"hot-{stamp}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".md").write_text(report.text())
        raw = {"about": report.about, "results": [result.plain() for result in self.results]}
        path.with_suffix(".json").write_text(json.dumps(raw) + "\n")
        print("\n" + report.text(), flush=True)
        say(f"written to {os.path.relpath(path.with_suffix('.md'))} and .json; bench/chart draws the latter")


def shown_command(words: list[str]) -> str:
    """Return the command without what is of this machine alone: folders, files and ports."""
    local = ("--state", "--port-base", "--chappe-binary", "--output")
    kept = []
    skip = False
    for word in words:
        if not skip and word.split("=")[0] not in (*local, "--no-install"):
            kept.append(word)
        skip = not skip and word in local
    return ("bench/hot " + shlex.join(kept)).strip()


def _rest() -> str:
    cores = sorted(os.sched_getaffinity(0))
    return "core " + ", ".join(map(str, cores))


def _short(result: Result) -> str:
    if result.note:
        return "not reached: " + result.note
    found = []
    for key, title, unit, digits in FIGURES[result.item.row]:
        values = result.figures.get(key)
        if values and key in ("cpu", "last", "knee", "rss_poll", "probe_p99", "all", "cold_ms", "many_all", "again_all", "p99"):
            found.append(f"{title.strip()} {statistics.median(values):.{digits}f} {unit}".strip())
    return ", ".join(found) + (f"  WRONG ANSWERS: {json.dumps(result.wrong)}" if result.wrong else "")


def main() -> int:
    """Run; return the exit status."""
    options = _parse()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    stage: Stage | None = None
    hot = Hot(options)
    try:
        if not options.no_install:
            install_packages(["stack", "build", "bench"])
        stage = Stage(
            options.state.resolve(),
            Ports(options.port_base),
            with_chappe=True,
            chappe_binary=options.chappe_binary,
            cache_factor=None,
            install=False,
            transport=None,
        )
        load, floor = hot.build(stage)
        step_aside()
        stage.start()
        crowd = hot.populate(stage)
        if options.prepare_only:
            return 0
        rows = Rows(stage, crowd, Servers(stage, floor), load, hot.settings)
        try:
            hot.measure(rows)
        finally:
            if hot.results:
                hot.write(stage)
        return 0 if Report([], hot.results).correct else 1
    except Interrupted:
        print("\n· stopping", flush=True)
        return 130
    except (StackError, MatrixError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr, flush=True)
        return 3
    finally:
        if stage is not None:
            stage.stop()


if __name__ == "__main__":
    sys.exit(main())
