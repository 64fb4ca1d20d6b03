#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Counts the hub's and a front's instructions with callgrind and compares them with the bounds in bounds.txt.

Each scenario of tests/cost/cost.c and tests/cost/http.c is counted for two numbers of devices. "Per device" is the difference divided by the
difference of devices; "once" is what is left of the smaller one. Instructions repeat where times do not: two runs
of one build give the same numbers, so what fails here is a change of the code.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
BOUNDS = HERE / "bounds.txt"
BUILT = CHECKOUT / "build" / "release" / "tests" / "cost"
PROGRAMS = [BUILT / "cost_http", BUILT / "cost"]
SKIP = 77
LIMIT_S = 300
ROOM = 1.4  # between what was measured and the bound that --set writes
ONCE_LEAST = 50000  # a bound for what is done once is not below that: it is the rest of a division


@dataclass
class Piece:
    """What one name cost for one number of devices."""

    name: str
    devices: int
    instructions: int
    file: Path


@dataclass
class Cost:
    """A scenario: instructions for each device and once."""

    device: int
    once: int


@dataclass
class Bound:
    """A row of bounds.txt; None: not bounded."""

    device: int | None
    once: int | None


def usable() -> str | None:
    """Why valgrind cannot be used here; None: it can."""
    if not shutil.which("valgrind"):
        return "valgrind is not installed"
    run = subprocess.run(["valgrind", "--tool=none", "-q", "true"], capture_output=True, text=True, timeout=60)
    return None if run.returncode == 0 else f"valgrind does not run here: {run.stderr.strip()[:200]}"


def count(programs: list[Path], folder: Path) -> tuple[list[Piece], list[str]]:
    """Run the programs under callgrind; the pieces in the order in which they were counted, and what this machine cannot count."""
    pieces: list[Piece] = []
    missing: list[str] = []
    for program in programs:
        pieces += _count_one(program, folder)
        missing += re.findall(r"^not counted: (\S+)", (folder / f"{program.name}-log").read_text(), re.M)
    return pieces, missing


def _count_one(program: Path, folder: Path) -> list[Piece]:
    out = folder / f"{program.name}-out"
    argv = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}", str(program)]
    log = folder / f"{program.name}-log"
    with log.open("w") as output:
        status = subprocess.run(argv, stdout=output, stderr=subprocess.STDOUT, timeout=LIMIT_S).returncode
    if status != 0:
        sys.exit(f"{program} ended with status {status}:\n{log.read_text()[-2000:]}")
    pieces = []
    for file in folder.glob(f"{out.name}.*"):
        text = file.read_text()
        asked = re.search(r"^desc: Trigger: Client Request: (\S+) (\d+)$", text, re.M)
        total = re.search(r"^totals: (\d+)$", text, re.M)
        if asked and total:
            pieces.append(Piece(asked[1], int(asked[2]), int(total[1]), file))
    return sorted(pieces, key=lambda piece: int(piece.file.suffix[1:]))


def costs_of(pieces: list[Piece]) -> dict[str, Cost]:
    """Put the two sizes of each scenario together."""
    costs = {}
    for name in dict.fromkeys(piece.name for piece in pieces):
        small, large = sorted((piece for piece in pieces if piece.name == name), key=lambda piece: piece.devices)
        device = (large.instructions - small.instructions) / (large.devices - small.devices)
        costs[name] = Cost(round(device), round(small.instructions - small.devices * device))
    return costs


def read_bounds() -> dict[str, Bound]:
    """bounds.txt: name, measured and bound per device, measured and bound once."""
    bounds = {}
    for line in BOUNDS.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, device, _, once = line.split()
            bounds[name] = Bound(*(None if text == "-" else int(text) for text in (device, once)))
    return bounds


def write_bounds(costs: dict[str, Cost], missing: list[str]) -> None:
    """Rewrite bounds.txt by what was measured; which ones are bounded stays as it is, as do those of what is missing here."""
    lines = BOUNDS.read_text().splitlines()
    head = [line for line in lines if line.startswith("#")]
    kept = [line for line in lines if line.split(" ", 1)[0] in missing]
    old = read_bounds()

    def room(measured: int) -> int:
        return round(float(f"{max(measured, 100) * ROOM:.2g}"))

    rows = []
    for name, cost in costs.items():
        once = "-" if name in old and old[name].once is None else str(max(room(cost.once), ONCE_LEAST))
        rows.append(f"{name:<20}{cost.device:>10}{room(cost.device):>10}{cost.once:>12}{once:>10}")
    BOUNDS.write_text("\n".join([*head, *rows, *kept]) + "\n")


def verdict(cost: Cost | None, bound: Bound | None) -> str | None:
    """What is wrong; None: nothing."""
    if cost is None:
        return "not counted"
    if bound is None:
        return "has no bound in bounds.txt"
    if bound.device is not None and cost.device > bound.device:
        return f"{cost.device} instructions per device, at most {bound.device}"
    if bound.once is not None and cost.once > bound.once:
        return f"{cost.once} instructions once, at most {bound.once}"
    return None


def show(
    costs: dict[str, Cost], bounds: dict[str, Bound], before: dict[str, Cost] | None, missing: list[str]
) -> dict[str, str | None]:
    """Print the table; the verdicts by name."""
    verdicts = {}
    print(f"{'instructions':<20}{'per device':>12}{'bound':>10}{'once':>12}{'bound':>10}")
    for name in dict.fromkeys([*bounds, *costs]):
        cost, bound = costs.get(name), bounds.get(name)
        if cost is None and name in missing:
            print(f"{name:<20}  not on this machine")
            continue
        verdicts[name] = verdict(cost, bound)
        row = [cost and cost.device, bound and bound.device, cost and cost.once, bound and bound.once]
        texts = ["-" if value is None else f"{value:,}" for value in row]
        line = f"{name:<20}{texts[0]:>12}{texts[1]:>10}{texts[2]:>12}{texts[3]:>10}"
        if before and cost and name in before:
            line += f"  {100 * (cost.device - before[name].device) / max(before[name].device, 1):+.3f} %"
        print(line + (f"  × {verdicts[name]}" if verdicts[name] else ""))
    return verdicts


def junit(path: Path, verdicts: dict[str, str | None]) -> None:
    """Write the verdicts as JUnit cases."""
    suite = ElementTree.Element("testsuite", name="cost")
    for name, wrong in verdicts.items():
        case = ElementTree.SubElement(suite, "testcase", name=name, classname="cost")
        if wrong:
            ElementTree.SubElement(case, "failure", message=wrong)
    ElementTree.ElementTree(suite).write(path)


def profile(pieces: list[Piece], name: str, lines: int, inclusive: bool) -> None:
    """The functions that a scenario's larger run spends its instructions in."""
    found = [piece for piece in pieces if piece.name == name]
    if not found:
        sys.exit(f"no scenario {name}; there are: {' '.join(dict.fromkeys(piece.name for piece in pieces))}")
    piece = max(found, key=lambda one: one.devices)
    argv = ["callgrind_annotate", "--auto=no", "--threshold=100", f"--inclusive={'yes' if inclusive else 'no'}", str(piece.file)]
    output = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    functions = []
    for line in output.splitlines():
        row = re.match(r"\s*([\d,]+) \( *([\d.]+)%\)\s+(.*?)(?: \[[^]]*\])?$", line)
        if row and "PROGRAM TOTALS" not in line:
            functions.append((int(row[1].replace(",", "")), row[3].replace(f"{CHECKOUT}/", "")))
    print(f"\n{name}, {piece.devices} devices, {'with what is called' if inclusive else 'self'}:")
    print(f"{'per device':>12} {'%':>6}  function")
    for instructions, function in functions[:lines]:
        print(f"{instructions / piece.devices:>12,.0f} {100 * instructions / piece.instructions:>6.1f}  {function}")


def main() -> int:
    """Count, show, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, action="append", help="instead of those of build/release; may be repeated")
    parser.add_argument("--junit", type=Path, help="write the result there as well")
    parser.add_argument("--profile", metavar="SCENARIO", action="append", default=[], help="its functions; may be repeated")
    parser.add_argument("--top", type=int, default=25, help="functions of a profile (%(default)s)")
    parser.add_argument("--inclusive", action="store_true", help="profiles count what is called, too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave callgrind's files there, for kcachegrind")
    parser.add_argument("--twice", action="store_true", help="count twice and show the difference")
    parser.add_argument("--set", action="store_true", help=f"write bounds.txt anew: measured times {ROOM}")
    options = parser.parse_args()
    programs = options.program or PROGRAMS
    reason = usable()
    absent = [program.name for program in programs if not program.exists()]
    if reason is None and absent:
        reason = f"there is no {absent[0]}: valgrind/callgrind.h was not there when it was built"
    if reason:
        print(f"skipped: {reason}")
        return SKIP
    with tempfile.TemporaryDirectory(prefix="cost-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        before = costs_of(count(programs, folder)[0]) if options.twice else None
        for file in folder.glob("*-out*"):
            file.unlink()
        pieces, missing = count(programs, folder)
        costs = costs_of(pieces)
        if options.set:
            write_bounds(costs, missing)
        verdicts = show(costs, read_bounds(), before, missing)
        for name in options.profile:
            profile(pieces, name, options.top, options.inclusive)
    if platform.machine() != "x86_64":
        print("skipped: the bounds are for x86-64")
        return SKIP
    if options.junit:
        junit(options.junit, verdicts)
    return 1 if any(verdicts.values()) else 0


if __name__ == "__main__":
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.exit(main())
