# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Rounds: each with a new process of the target, initial syncs one by one, then all listeners.

The generator stops at marks; counters of the database and of the target are read there, outside of
what is measured.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
import urllib.request
from pathlib import Path
from typing import Iterator

from harness.generator import Line, drive
from harness.plan import Plan as SendPlan
from harness.plan import send_request
from harness.stage import ROLES, SAMPLERS, Stage, new_run_name
from stack.errors import StackError
from stack.install import say

_CPU_CLOCK = 2  # the kernel's CPUCLOCK_SCHED


@dataclasses.dataclass
class Plan:
    """What to measure."""

    listeners: int
    rounds: int
    targets: list[str]
    events: dict[str, int]
    timeline: int
    concurrency: int
    transport: str | None = None
    warm: int = 1

    def filter(self, lazy: bool = True, more: int = 0) -> str:
        """Return the inline filter of the syncs."""
        room: dict[str, object] = {"timeline": {"limit": self.timeline + more}}
        if lazy:
            room["state"] = {"lazy_load_members": True}
        return json.dumps({"room": room}, separators=(",", ":"))


@dataclasses.dataclass
class Result:
    """One target in one round."""

    target: str
    round: int
    load_before: float
    sampled: dict[str, Line]  # initial syncs one by one: "lazy", "full", and "again"
    marks: list[Line]  # every line of the generator, marks with "counters"
    summary: Line


@dataclasses.dataclass
class Counters:
    """Cumulative counts of one target's use of the database."""

    statements: int  # pg_stat_statements, calls by the target's database user
    own: int  # what the target itself says in /metrics
    backend_cpu: dict[int, int]  # CPU time in ns of its database backends, by process


def cpu_ns(pid: int) -> int:
    """CPU time of a process, from its CPU clock."""
    try:
        return time.clock_gettime_ns((~pid << 3) | _CPU_CLOCK)
    except OSError:
        return 0


def sum_metric(port: int, name: str, label: str = "") -> int:
    """Return a metric's value, all labels together or those with one value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{'/metrics'}", timeout=30) as reply:
        text = reply.read().decode()
    return int(
        sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith((name + "{", name + " ")) and (not label or f'"{label}"' in line)
        )
    )


class Bench:
    """Runs the rounds of a plan on a stage."""

    def __init__(self, stage: Stage, plan: Plan, load: Path) -> None:
        self.stage, self.plan, self.load = stage, plan, load
        self.files = stage.token_files(plan.listeners)

    def rounds(self) -> Iterator[Result]:
        """Yield results, the targets in turn, the first one changing from round to round."""
        for number in range(self.plan.rounds):
            order = self.plan.targets if number % 2 == 0 else list(reversed(self.plan.targets))
            for target in order:
                say(f"round {number + 1} of {self.plan.rounds}: {target}")
                yield self._round(number, target)

    def _round(self, number: int, target: str) -> Result:
        process = self.stage.only(target)
        assert process.pid is not None
        before = os.getloadavg()[0]
        plan, pid = self.plan, process.pid
        sampled = {
            "lazy": self._initial(target, pid, "lazy", plan.filter()),
            "full": self._initial(target, pid, "full", plan.filter(lazy=False)),
            # The first users once more; a slightly different filter, or Synapse would repeat its stored answers.
            "again": self._initial(target, pid, "lazy", plan.filter(more=1)),
        }
        lines = self._listen(target, process.pid)
        if not process.running:
            raise StackError(process.failure("ended during the measurement"))
        return Result(target, number, before, sampled, lines[:-1], lines[-1])

    # -- the generator ---------------------------------------------------------------------------

    def _argv(self, target: str, pid: int, *more: str) -> list[str]:
        return [str(self.load), "--port", str(self.stage.port(target)), "--pid", str(pid), *more]

    def _initial(self, target: str, pid: int, series: str, sync_filter: str) -> Line:
        """Initial syncs of a few users, one at a time."""
        before = self._counters(target)
        argv = self._argv(
            *(target, pid, "--initial-only", "--concurrency", "1", "-n", str(SAMPLERS), "--filter", sync_filter),
            *("--tokens", str(self.files[series]), "--total-timeout", "300"),
        )
        line = next(line for line in drive(argv) if "initial" in line)
        line["statements"] = self._counters(target).statements - before.statements
        return line

    def _listen(self, target: str, pid: int) -> list[Line]:
        plan = self.plan
        sends = SendPlan(new_run_name())
        sends.closed("messages", plan.warm)
        for number in range(plan.warm + plan.events[target]):
            name = f"{sends.run}.{number}"
            sends.message(send_request(self.stage.room, self.stage.sender, name, sends.next_text))
        argv = self._argv(
            *(target, pid, "--tokens", str(self.files["listeners"]), "-n", str(plan.listeners)),
            *("--publish-port", str(self.stage.settings.ports.synapse), "--run", sends.run),
            *("--plan", str(sends.write(self.stage.settings.state / "plan"))),
            *("--filter", plan.filter(), "--concurrency", str(plan.concurrency), "--idle", "2000"),
            *("--event-timeout", "120", "--total-timeout", "1800"),
        )
        return self._drive(argv, target)

    def _drive(self, argv: list[str], target: str) -> list[Line]:
        """Run the generator, reading counters at its marks; return its lines."""

        def read(line: Line) -> None:
            line["counters"] = self._counters(target)

        return drive(argv, read)

    def _counters(self, target: str) -> Counters:
        role, postgres = ROLES[target], self.stage.deployment.postgres
        # Backends first, so that one row is always there for the sum.
        rows = postgres.psql(
            "SELECT 'calls', coalesce(sum(calls), 0)::bigint FROM pg_stat_statements s"
            f" JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = '{role}'"
            f" UNION ALL SELECT 'pid', pid FROM pg_stat_activity WHERE usename = '{role}'"
        )
        pairs = [line.split("\t") for line in rows.splitlines()]
        ports = self.stage.settings.ports
        if target == "synapse":
            own = sum_metric(ports.worker_metrics, "synapse_storage_query_time_count")
        else:
            own = sum_metric(ports.chappe_metrics, "chappe_pg_statements_total")
        return Counters(
            statements=next(int(value) for name, value in pairs if name == "calls"),
            own=own,
            backend_cpu={int(value): cpu_ns(int(value)) for name, value in pairs if name == "pid"},
        )
