#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Checks the tables of cases: every case once, and every test that a row names exists.

Usage: cases.py [ROOT]. Prints "file:line: text" for each breach and exits 1 if there is one.
"""
import re
import sys
from pathlib import Path

# Table, how many cases it has, where the names without a folder are.
TABLES = (("oracle/CASES.md", 133, "oracle/scenarios"), ("push/CASES.md", 50, "push"))
ROW = re.compile(r"^\| *(\d+) *\|(.*)\|(.*)\|$")
NAME = re.compile(r"`([^`]+)`")


def find(tests: Path, name: str, usual: str) -> str | None:
    """Return what is wrong with the name of a test, or None."""
    path, mark, place = re.match(r"^([^#:]+)(::|#)?(.*)$", name, re.S).groups()
    file = tests / path if "/" in path else tests / usual / f"{path}.py"
    if not file.is_file():
        return f"there is no {path}"
    text = file.read_text()
    if mark == "#" and place not in text:
        return f"{path} does not contain {place!r}"
    if mark == "::" and not re.search(rf"^(static void|def|async def) {re.escape(place)}\(", text, re.M):
        return f"{path} has no test {place}"
    return None


def check(table: Path, tests: Path, cases: int, usual: str) -> list[str]:
    """Return the breaches of one table."""
    breaches: list[str] = []
    seen: dict[int, int] = {}
    for number, line in enumerate(table.read_text().splitlines(), 1):
        row = ROW.match(line)
        if not row:
            continue
        case, what, names = int(row[1]), row[2].strip(), NAME.findall(row[3])
        if case in seen:
            breaches.append(f"{number}: case {case} is in line {seen[case]} already")
        seen[case] = number
        if not what or not names:
            breaches.append(f"{number}: case {case} says nothing, or names no test")
        for name in names:
            if wrong := find(tests, name, usual):
                breaches.append(f"{number}: case {case}: {wrong}")
    return breaches + [f"1: case {case} is missing" for case in range(1, cases + 1) if case not in seen]


def main() -> int:
    """Check the tables below a root."""
    tests = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve() / "tests"
    failed = False
    for name, cases, usual in TABLES:
        for breach in check(tests / name, tests, cases, usual):
            print(f"tests/{name}:{breach}")
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
