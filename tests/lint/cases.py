#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Checks tests/oracle/CASES.md: every case once, and every test that it names exists.

Usage: cases.py [ROOT]. Prints "file:line: text" for each breach and exits 1 if there is one.
"""
import re
import sys
from pathlib import Path

CASES = 133
ROW = re.compile(r"^\| *(\d+) *\|(.*)\|(.*)\|$")
NAME = re.compile(r"`([^`]+)`")


def find(tests: Path, name: str) -> str | None:
    """Return what is wrong with the name of a test, or None."""
    path, mark, place = re.match(r"^([^#:]+)(::|#)?(.*)$", name, re.S).groups()
    file = tests / path if "/" in path else tests / "oracle" / "scenarios" / f"{path}.py"
    if not file.is_file():
        return f"there is no {path}"
    text = file.read_text()
    if mark == "#" and place not in text:
        return f"{path} does not contain {place!r}"
    if mark == "::" and not re.search(rf"^(static void|def|async def) {re.escape(place)}\(", text, re.M):
        return f"{path} has no test {place}"
    return None


def main() -> int:
    """Check the table below a root."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    table = root / "tests" / "oracle" / "CASES.md"
    breaches: list[str] = []
    seen: dict[int, int] = {}
    for number, line in enumerate(table.read_text().splitlines(), 1):
        row = ROW.match(line)
        if not row:
            continue
        case, what, tests = int(row[1]), row[2].strip(), NAME.findall(row[3])
        if case in seen:
            breaches.append(f"{number}: case {case} is in line {seen[case]} already")
        seen[case] = number
        if not what or not tests:
            breaches.append(f"{number}: case {case} says nothing, or names no test")
        for name in tests:
            if wrong := find(root / "tests", name):
                breaches.append(f"{number}: case {case}: {wrong}")
    breaches += [f"1: case {case} is missing" for case in range(1, CASES + 1) if case not in seen]
    for breach in breaches:
        print(f"{table.relative_to(root)}:{breach}")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
