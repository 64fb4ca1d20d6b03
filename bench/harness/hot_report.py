# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""The table of bench/hot: a line for each figure of each load, a column for each target, and ratios within rounds."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
from typing import Any, Iterable

from harness.generator import Line
from harness.hot_rows import Figures, Item
from harness.servers import CHAPPE, TITLES, WITHOUT_LOG

_DELTA = [
    ("cpu", "CPU per delta", "µs", 1),
    ("fan", "  of it until the last one has it", "µs", 1),
    ("first", "first delta after", "ms", 1),
    ("p50", "median delta after", "ms", 1),
    ("p99", "99th percentile", "ms", 1),
    ("last", "last delta after", "ms", 1),
    ("sql", "SQL statements per delta", "", 4),
    ("pg_cpu", "PostgreSQL CPU per delta", "µs", 2),
    ("bytes", "bytes of a delta's body", "B", 0),
    ("gen", "generator's CPU per delta", "µs", 1),
]
_PARKED = [
    ("rss_poll", "resident memory per parked poll", "kB", 2),
    ("slab_poll", "kernel objects per parked poll, both ends", "kB", 2),
    ("rss_all", "resident memory, all parked", "MB", 1),
    ("idle_cpu", "CPU while all are parked", "ms/s", 2),
    ("coming", "CPU per device that comes", "µs", 0),
]
FIGURES: dict[str, list[tuple[str, str, str, int]]] = {
    "fanout": _DELTA + _PARKED,
    "e2e": _DELTA + _PARKED,
    "memory": _PARKED,
    "open": [("knee", "highest rate with p99 at most 100 ms, thousand messages to devices a second", "", 0)],
    "workday": [
        ("events", "messages, receipts and typing a second", "", 0),
        ("answers", "when every room has had a message: answers a second", "", 0),
        ("cpu", "  CPU per answer", "µs", 1),
        ("core", "  of one core", "%", 1),
        ("p50", "  median message after", "ms", 2),
        ("p99", "  99th percentile", "ms", 1),
        ("last", "  slowest message after", "ms", 1),
        ("sql", "  SQL statements per answer", "", 4),
        ("pg_cpu", "  PostgreSQL CPU per answer", "µs", 2),
        ("new_answers", "before, in a new process: answers a second", "", 0),
        ("new_cpu", "  CPU per answer", "µs", 1),
        ("new_p50", "  median message after", "ms", 2),
        ("new_p99", "  99th percentile", "ms", 1),
        ("new_sql", "  SQL statements per answer", "", 4),
        ("new_pg_cpu", "  PostgreSQL CPU per answer", "µs", 2),
        *_PARKED,
    ],
    "probe": [
        ("probe_p50", "another request meanwhile, median", "ms", 2),
        ("probe_p99", "  99th percentile", "ms", 2),
        ("probe_last", "  slowest", "ms", 1),
        ("probe_idle_p99", "  99th percentile while nothing happens", "ms", 2),
        ("last", "last delta after", "ms", 1),
    ],
    "slow": [
        ("alone_p99", "99th percentile, alone", "ms", 1),
        ("p99", "99th percentile beside stalled readers", "ms", 1),
        ("drop_p99", "  while those are dropped, of twenty messages together", "ms", 1),
        ("alone_last", "last delta after, alone", "ms", 1),
        ("last", "last delta beside stalled readers", "ms", 1),
        ("drop_last", "  while those are dropped", "ms", 1),
        ("alone_cpu", "CPU per delta, alone", "µs", 1),
        ("cpu", "CPU per delta beside stalled readers", "µs", 1),
        ("alone_probe_p99", "another request meanwhile, 99th percentile, alone", "ms", 2),
        ("probe_p99", "another request, 99th percentile, beside stalled readers", "ms", 2),
        ("drop_probe_p99", "  while those are dropped, and between messages", "ms", 2),
        ("alone_probe_last", "another request meanwhile, slowest, alone", "ms", 1),
        ("probe_last", "  beside stalled readers", "ms", 1),
        ("drop_probe_last", "  while those are dropped", "ms", 1),
        ("stuck", "readers that were stalled, all the time", "", 0),
        ("dropped", "  of them dropped", "", 0),
        ("by_time", "  the server's count: took nothing for too long", "", 0),
        ("by_bytes", "  the server's count: too many bytes waited", "", 0),
        ("first_drop", "  first dropped after", "s", 1),
        ("last_drop", "  last dropped after", "s", 1),
        ("answer", "bytes of an answer that is not read", "kB", 0),
        ("waiting", "  waiting in the server, all together, at most", "MB", 1),
        ("queued", "  waiting in the kernel, at most", "MB", 1),
        ("rss_parked", "resident memory before", "MB", 1),
        ("rss_stalled", "  while readers are stalled, at most", "MB", 1),
        ("rss_dropped", "  when they have been dropped", "MB", 1),
        ("peak", "  peak of the process, coming and coming back included", "MB", 1),
        ("back", "they come back, all have their answer after", "s", 2),
        ("back_p99", "  99th percentile", "ms", 1),
    ],
    "storm": [
        ("all", "all have their answer after", "s", 2),
        ("p50", "median answer after", "ms", 0),
        ("p99", "99th percentile", "ms", 0),
        ("again", "devices told to ask again, times", "", 0),
        ("cpu", "CPU per device", "µs", 0),
        ("statements", "SQL statements in all", "", 0),
        ("pg_cpu", "PostgreSQL CPU per device", "µs", 0),
        ("peak", "peak memory", "MB", 0),
    ],
    "initial": [
        ("cold_ms", "first of the process, lazy members", "ms", 0),
        ("cold_cpu", "  CPU", "ms", 0),
        ("cold_sql", "  SQL statements", "", 0),
        ("warm_ms", "another account, lazy members", "ms", 1),
        ("warm_cpu", "  CPU", "ms", 1),
        ("warm_sql", "  SQL statements", "", 0),
        ("full_ms", "another account, all members", "ms", 0),
        ("full_cpu", "  CPU", "ms", 0),
        ("full_mb", "  bytes", "MB", 1),
        ("many_count", "at once, new process, lazy members", "", 0),
        ("many_all", "  all answered after", "s", 2),
        ("many_ms", "  median", "ms", 0),
        ("many_max", "  slowest", "ms", 0),
        ("many_cpu", "  CPU each", "ms", 1),
        ("many_sql", "  SQL statements in all", "", 0),
        ("many_peak", "  peak memory", "MB", 0),
        ("many_rest", "  memory before", "MB", 0),
        ("again_all", "the same again at once, rooms in memory: all answered after", "s", 2),
        ("again_ms", "  median", "ms", 0),
        ("again_cpu", "  CPU each", "ms", 1),
        ("again_sql", "  SQL statements in all", "", 0),
    ],
}
LOADS = {
    "fanout": "{} devices in one room, closed loop, recorded replication",
    "e2e": "{} devices in one room, closed loop, messages through the homeserver",
    "open": "{} devices in one room, open loop, recorded replication",
    "workday": "{} devices in rooms of 40, five each; messages, receipts, typing; recorded replication",
    "memory": "{} parked polls",
    "probe": "another request during fan-outs to {} devices",
    "slow": "fan-outs to {} devices that read, beside others in the same room that do not",
    "storm": "{} devices come back at once to a new process, one message behind in each of five rooms",
    "initial": "initial syncs of accounts with many large rooms",
}


@dataclasses.dataclass
class Result:
    """One item in one round."""

    item: Item
    round: int
    figures: Figures
    wrong: Line
    note: str  # why there are no figures
    load: float  # of the machine, just before

    def plain(self) -> dict[str, Any]:
        """Return what is written to the results file."""
        return dataclasses.asdict(self)

    @staticmethod
    def read(raw: dict[str, Any]) -> "Result":
        """Read what plain() gave."""
        return Result(**{**raw, "item": Item(**raw["item"])})


def spread(values: list[float], digits: int) -> str:
    """Return least, median and greatest; one figure when all are alike."""
    cells = [f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values))]
    return cells[0] if len(set(cells)) == 1 else " / ".join(cells)


def values_of(results: Iterable[Result], where: str, target: str, key: str) -> list[float]:
    """Return every value of a figure."""
    return [
        value
        for result in results
        if result.item.where == where and result.item.target == target
        for value in result.figures.get(key, [])
    ]


def ratios(results: list[Result], where: str, key: str, over: str, under: str) -> list[float]:
    """Return over / under of the medians within each round."""
    rounds: dict[int, dict[str, float]] = {}
    for result in results:
        values = result.figures.get(key)
        if result.item.where == where and values and result.item.target in (over, under):
            rounds.setdefault(result.round, {})[result.item.target] = statistics.median(values)
    return [pair[over] / pair[under] for pair in rounds.values() if len(pair) == 2 and pair[under] > 0]


def _figures_of(row: str, results: list[Result]) -> list[tuple[str, str, str, int]]:
    found = list(FIGURES[row])
    if row == "open":
        rates = {int(m[1]) for r in results for key in r.figures if (m := re.fullmatch(r"p99@(\d+)", key))}
        for rate in sorted(rates):
            found.append((f"p99@{rate}", f"p99 at {rate // 1000}k messages to devices a second", "ms", 1))
            found.append((f"cpu@{rate}", "  CPU per message and device", "µs", 1))
            found.append((f"merge@{rate}", "  messages in an answer", "", 2))
            found.append((f"gen@{rate}", "  generator, of its core", "%", 0))
    if row == "workday":
        found += _statements("sql@", "statements a second", results)
        found += _statements("new_sql@", "before, in a new process: statements a second", results)
    return found


def _statements(prefix: str, title: str, results: list[Result], most: int = 6) -> list[tuple[str, str, str, int]]:
    """The most frequent kinds of statements of each target."""
    keys: dict[str, None] = {}
    for target in TITLES:
        often: dict[str, float] = {}
        for result in results:
            for key, values in result.figures.items():
                if key.startswith(prefix) and result.item.target == target:
                    often[key] = max(often.get(key, 0), *values)
        keys |= dict.fromkeys(sorted(often, key=lambda key: -often[key])[:most])
    return [(key, f"{title}: {key.removeprefix(prefix)}", "", 2) for key in keys]


class Report:
    """Renders results."""

    def __init__(self, about: list[str], results: list[Result]) -> None:
        self.about, self.results = about, results
        self.targets = [target for target in TITLES if any(r.item.target == target for r in results)]

    @property
    def correct(self) -> bool:
        """Whether every answer was right."""
        return not any(result.wrong for result in self.results)

    def main_chappe(self, where: str) -> str:
        """Return the form of Chappe that the ratios are of."""
        return next((t for t in CHAPPE if any(r.item.target == t and r.item.where == where for r in self.results)), "")

    def table(self) -> list[str]:
        """Return the table's lines."""
        chappe = [t for t in self.targets if t in CHAPPE]
        head = ["load and figure", *(TITLES[t] for t in self.targets)]
        against = [t for t in ("floor", "nchan", "synapse") if t in self.targets] if chappe else []
        names = {"floor": "Chappe ÷ bare", "nchan": "Chappe ÷ nchan", "synapse": "Synapse ÷ Chappe"}
        head += [names[t] for t in against]
        rows = [head]
        seen: list[str] = []
        for result in self.results:
            if result.item.where not in seen:
                seen.append(result.item.where)
        for where in sorted(seen, key=lambda w: (list(FIGURES).index(w.split()[0]), int(w.split()[1]))):
            own = [r for r in self.results if r.item.where == where]
            row, size = where.split()
            rows.append([f"**{LOADS[row].format(f'{int(size):,}')}**"] + [""] * (len(head) - 1))
            main = self.main_chappe(where)
            for key, title, unit, digits in _figures_of(row, own):
                cells = [values_of(own, where, t, key) for t in self.targets]
                if not any(cells):
                    continue
                line = [f"{title}, {unit}" if unit else title] + [spread(c, digits) if c else "" for c in cells]
                for t in against:
                    pair = (t, main) if t == "synapse" else (main, t)
                    found = ratios(own, where, key, *pair)
                    line.append(spread(found, 2 if max(found) < 10 else 0) if found else "")
                rows.append(line)
            notes: dict[str, str] = {r.item.target: r.note for r in own if r.note}
            for target, note in notes.items():
                rows.append([f"*{TITLES[target]}: not reached: {note}*"] + [""] * (len(head) - 1))
        rows.insert(1, ["---"] * len(head))
        return ["| " + " | ".join(row) + " |" for row in rows]

    def goals(self) -> list[str]:
        """Return the table of goals against what was measured; a goal whose load was not measured is left out."""
        lines = ["| goal | measured, least / median / greatest | reached |", "| --- | --- | --- |"]

        def add(goal: str, found: list[float], digits: int, reached: bool) -> None:
            if found:
                lines.append(f"| {goal} | {spread(found, digits)} | {'yes' if reached else 'no'} |")

        for over, most in (("nchan", 0.80), ("floor", 1.2)):
            for chappe, note in ((self.main_chappe("fanout 10000"), ""), (WITHOUT_LOG, ", without request lines as they")):
                found = ratios(self.results, "fanout 10000", "cpu", chappe, over)
                title = f"CPU per delta, 10,000 devices: at most {most:.2f} × {TITLES[over]}{note}"
                add(title, found, 2, bool(found) and statistics.median(found) <= most)
        found = ratios(self.results, "e2e 1000", "cpu", "synapse", self.main_chappe("e2e 1000"))
        add("CPU per delta: at least 400 × less than Synapse", found, 0, bool(found) and statistics.median(found) >= 400)
        found = values_of(self.results, "open 1000", self.main_chappe("open 1000"), "knee")
        add("thousand deltas/s on one core with p99 under 100 ms: at least 80", found, 0, bool(found) and max(found) >= 80)
        found = values_of(self.results, "fanout 1000", self.main_chappe("fanout 1000"), "last")
        add("1,000 devices: last delta within 20 ms", found, 1, bool(found) and statistics.median(found) <= 20)
        for size in (10000, 50000):
            where = f"fanout {size}"
            for chappe, note in ((self.main_chappe(where), ""), (WITHOUT_LOG, ", without request lines")):
                found = ratios(self.results, where, "last", chappe, "nchan")
                title = f"{size:,} devices: last delta before nchan's, ratio{note}"
                add(title, found, 2, bool(found) and statistics.median(found) < 1)
        for size in (50000, 10000):
            where = f"fanout {size}"
            found = values_of(self.results, where, self.main_chappe(where), "rss_poll")
            if found:
                title = f"user memory per parked poll, {size:,} devices: at most 2 KiB (2.05 kB)"
                add(title, found, 2, statistics.median(found) <= 2.048)
                break
        found = values_of(self.results, "fanout 50000", self.main_chappe("fanout 50000"), "rss_all")
        add("50,000 parked polls in one process; its resident memory in MB", found, 0, bool(found))
        found = values_of(self.results, "fanout 10000", self.main_chappe("fanout 10000"), "sql")
        add("SQL statements per delta, 10,000 devices: under 0.01", found, 4, bool(found) and max(found) < 0.01)
        where = next((r.item.where for r in self.results if r.item.row == "initial"), "")
        found = values_of(self.results, where, self.main_chappe(where), "again_all")
        count = statistics.median(values_of(self.results, where, self.main_chappe(where), "many_count") or [0])
        title = f"initial syncs of {count:.0f} large accounts at once, rooms in memory: all answered within 2 s"
        add(title, found, 2, bool(found) and statistics.median(found) < 2)
        for result in self.results:
            if result.item.row == "probe":
                where = result.item.where
                found = values_of(self.results, where, self.main_chappe(where), "probe_p99")
                title = f"another request's 99th percentile during fan-outs to {result.item.size:,}: at most 20 ms"
                add(title, found, 2, bool(found) and statistics.median(found) <= 20)
                break
        return lines

    def text(self) -> str:
        """Return the whole report as Markdown."""
        wrong = {f"{r.item.where} {r.item.target}": r.wrong for r in self.results if r.wrong}
        answers = "every device got every message once and in order" if not wrong else "WRONG: " + json.dumps(wrong)
        parts = ["```", *self.about, f"answers   {answers}", "```", ""]
        parts += ["Least / median / greatest; ratios are of the medians of neighbouring parts of the same round.", ""]
        parts += [*self.table(), "", "Goals:", "", *self.goals()]
        return "\n".join(parts) + "\n"
