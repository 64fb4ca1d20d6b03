# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""From the generator's lines to a table: least, median and greatest of every figure, and ratios."""

from __future__ import annotations

import dataclasses
import datetime
import json
import statistics
from typing import Any

from harness.generator import Line, mistakes
from harness.measure import Counters, Plan, Result

# One row of the table: key, title, unit, digits.
ROWS = [
    ("cpu_delta", "CPU per delivered delta", "µs", 1),
    ("cpu_fan", "  of it until the last one has it", "µs", 1),
    ("first", "send to the first delta", "ms", 1),
    ("p50", "send to the median delta", "ms", 1),
    ("p99", "send to the 99th percentile", "ms", 1),
    ("last", "send to the last delta", "ms", 1),
    ("spread", "first to last delta", "ms", 1),
    ("rss_poll", "resident memory per parked poll", "kB", 2),
    ("rss_all", "  with everything since the start", "kB", 2),
    ("rss_total", "resident memory, all parked", "MB", 1),
    ("sql_delta", "SQL statements per delta", "", 4),
    ("sql_own", "  by the target's own count", "", 4),
    ("pg_cpu", "PostgreSQL CPU per delta", "µs", 1),
    ("delta_bytes", "bytes of a delta", "B", 0),
    ("idle_cpu", "CPU while all are parked", "ms/s", 2),
    ("initial_cold", "first initial sync of the process", "ms", 1),
    ("initial_lazy", "initial sync, lazy members", "ms", 2),
    ("initial_full", "initial sync, all members", "ms", 2),
    ("initial_again", "initial sync of a user seen before", "ms", 2),
    ("initial_sql", "SQL statements per initial sync", "", 2),
    ("herd_seconds", "all listeners' initial syncs", "s", 2),
    ("herd_cpu", "CPU per initial sync among them", "ms", 3),
    ("generator", "generator's own CPU per delta", "µs", 1),
]


def _backend_cpu_us(before: Counters, after: Counters) -> float:
    return sum(cpu - before.backend_cpu.get(pid, 0) for pid, cpu in after.backend_cpu.items()) / 1000


def figures(result: Result, listeners: int) -> dict[str, list[float]]:
    """Return every figure of one target in one round; one value a message, or one a round."""
    marks = {line["mark"]: line for line in result.marks if line.get("mark") in ("begin", "half", "parked")}
    herd = [line for line in result.marks if "initial" in line]
    lazy, full = result.sampled["lazy"], result.sampled["full"]
    half = listeners // 2
    idle = next(line for line in result.marks if "idle_seconds" in line)
    found: dict[str, list[float]] = {
        "rss_poll": [(marks["parked"]["rss"] - marks["half"]["rss"]) / (listeners - half) / 1000],
        "rss_all": [(marks["parked"]["rss"] - marks["begin"]["rss"]) / listeners / 1000],
        "rss_total": [marks["parked"]["rss"] / 1e6],
        "idle_cpu": [idle["idle_cpu_ms"] / idle["idle_seconds"]],
        "initial_cold": [lazy["first_ms"]],
        "initial_lazy": [lazy["p50_ms"]],
        "initial_full": [full["p50_ms"]],
        "initial_again": [result.sampled["again"]["p50_ms"]],
        "initial_sql": [lazy["statements"] / lazy["initial"]],
        "herd_seconds": [sum(line["seconds"] for line in herd)],
        "herd_cpu": [sum(line["cpu_ms"] for line in herd) / listeners],
    }
    before: Line = {}
    for line in result.marks:
        if line.get("mark") == "before":
            before = line
        if line.get("mark") != "after" or line["warm"] or line["deltas"] == 0:
            continue
        for key, value in _event(before, line).items():
            found.setdefault(key, []).append(value)
    return found


def _event(before: Line, line: Line) -> dict[str, float]:
    deltas = line["deltas"]
    old, new = before["counters"], line["counters"]
    return {
        "cpu_delta": line["total_cpu_ms"] * 1000 / deltas,
        "cpu_fan": line["fan_cpu_ms"] * 1000 / deltas,
        "first": line["first_ms"],
        "p50": line["p50_ms"],
        "p99": line["p99_ms"],
        "last": line["last_ms"],
        "spread": line["last_ms"] - line["first_ms"],
        "sql_delta": (new.statements - old.statements) / deltas,
        "sql_own": (new.own - old.own) / deltas,
        "pg_cpu": _backend_cpu_us(old, new) / deltas,
        "delta_bytes": line["bytes"] / deltas,
        "generator": line["own_cpu_ms"] * 1000 / deltas,
    }


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{low:.{digits}f} / {middle:.{digits}f} / {high:.{digits}f}"


class Report:
    """Collects results and renders them."""

    def __init__(self, plan: Plan, command: str, about: list[str]) -> None:
        self.plan, self.command, self.about = plan, command, about
        self.results: list[Result] = []
        self.begun = datetime.datetime.now()

    def add(self, result: Result) -> None:
        """Add one target's round."""
        self.results.append(result)

    @property
    def correct(self) -> bool:
        """Whether every answer of every round was right."""
        return all(result.summary["correct"] for result in self.results)

    def one_line(self, result: Result) -> str:
        """Return the main figures of a round."""
        found = figures(result, self.plan.listeners)

        def median(key: str) -> str:
            return f"{statistics.median(found[key]):.1f}" if found.get(key) else "-"

        wrong = "" if result.summary["correct"] else "  WRONG ANSWERS: " + json.dumps(mistakes(result.summary))
        return (
            f"{result.target}: {median('cpu_delta')} µs CPU a delta, last after {median('last')} ms, "
            f"{median('rss_poll')} kB a poll, initial sync {median('initial_lazy')} ms{wrong}"
        )

    def _values(self, target: str, key: str) -> list[float]:
        return [
            value
            for result in self.results
            if result.target == target
            for value in figures(result, self.plan.listeners).get(key, [])
        ]

    def _ratios(self, key: str) -> list[float]:
        """Synapse / Chappe of the medians within each round."""
        by_round: dict[int, dict[str, float]] = {}
        for result in self.results:
            values = figures(result, self.plan.listeners).get(key)
            if values:
                by_round.setdefault(result.round, {})[result.target] = statistics.median(values)
        pairs = [pair for pair in by_round.values() if len(pair) == 2 and pair["chappe"] > 0]
        return [pair["synapse"] / pair["chappe"] for pair in pairs]

    def text(self) -> str:
        """Return the whole report."""
        plan = self.plan
        events = ", ".join(f"{target} {plan.events[target]}" for target in plan.targets)
        lines = [
            f"date      {self.begun:%Y-%m-%d %H:%M}",
            f"command   {self.command}",
            *self.about,
            f"plan      {plan.listeners} listeners, {plan.rounds} rounds, messages a round: {events} (after {plan.warm} to"
            f" warm up), timeline limit {plan.timeline}, {plan.concurrency} initial syncs at once",
            "load      average before each part: " + " ".join(f"{r.target[0]}{r.load_before:.1f}" for r in self.results),
            f"answers   {self._answers()}",
            "",
            "Least / median / greatest; the ratio is Synapse to Chappe within a round.",
            "",
            *self._table(),
            "",
            "Raw rounds, a JSON line each:",
        ]
        lines += [json.dumps(_plain(dataclasses.asdict(result)), separators=(",", ":")) for result in self.results]
        return "\n".join(lines) + "\n"

    def _answers(self) -> str:
        deltas = sum(result.summary["deltas"] for result in self.results)
        if self.correct:
            return f"{deltas} deltas, every device got every message once and in order"
        wrong = {f"{r.target} round {r.round + 1}": mistakes(r.summary) for r in self.results if not r.summary["correct"]}
        return f"{deltas} deltas, WRONG: {json.dumps(wrong)}"

    def _table(self) -> list[str]:
        both = len(self.plan.targets) == 2
        titles = {"synapse": "Synapse worker", "chappe": "Chappe"}
        head = ["", *(titles[target] for target in self.plan.targets), *(["ratio"] if both else [])]
        rows = [head]
        for key, title, unit, digits in ROWS:
            row = [f"{title}, {unit}" if unit else title]
            row += [_spread(self._values(target, key), digits) for target in self.plan.targets]
            if both:
                ratios = self._ratios(key)
                row.append(_spread(ratios, 2 if ratios and max(ratios) < 10 else 1))
            rows.append(row)
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        rows.insert(1, ["-" * width for width in widths])
        return ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths)) + " |" for row in rows]


def _plain(value: Any) -> Any:
    """Drop what the table has no use for: database processes by number."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key != "backend_cpu"}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Counters):
        return {"statements": value.statements, "own": value.own}
    return value
