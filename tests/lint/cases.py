#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Checks the tables of cases and of decisions: every one once, and every test that a row names exists.

Usage: cases.py [ROOT]. Prints "file:line: text" for each breach and exits 1 if there is one.
"""
import re
import sys
from pathlib import Path

# Table, how many cases it has, where the names without a folder are.
TABLES = (("oracle/CASES.md", 133, "oracle/scenarios"), ("push/CASES.md", 50, "push"))
ROW = re.compile(r"^\| *(\d+) *\|(.*)\|(.*)\|$")
NAME = re.compile(r"`([^`]+)`")
# The decisions' own tables, by the beginnings of their titles, and where it stands what shows them.
DECISIONS = ("Done right", "Different", "Copied")
SHOWN = "DECISIONS.md"


def find(tests: Path, name: str, usual: str) -> str | None:
    """Return what is wrong with the name of a test, or None."""
    path, mark, place = re.match(r"^([^#:]+)(::|#)?(.*)$", name, re.S).groups()
    file = tests / path if "/" in path else tests / usual / f"{path}.py"
    if not file.is_file():
        return f"there is no {path}"
    text = file.read_text()
    if mark == "#" and place not in text:
        return f"{path} does not contain {place!r}"
    if mark == "::" and not re.search(rf"^\s*(static void|def|async def) {re.escape(place)}\(", text, re.M):
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


def decisions(text: str) -> list[str]:
    """Return the first column of the tables of decisions of src/README.md."""
    found: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("#"):
            inside = line.startswith(tuple(f"### {title}" for title in DECISIONS))
        elif inside and line.startswith("| "):
            found.append(line[2:].split(" | ")[0].removesuffix(" |"))
    return [what for what in found if what not in ("what", "quirk")]


def check_decisions(root: Path) -> list[str]:
    """Return the breaches of the table of what shows the decisions: its rows are theirs, in their order."""
    tests = root / "tests"
    wanted = decisions((root / "src" / "README.md").read_text())
    breaches: list[str] = []
    shown: list[str] = []
    for number, line in enumerate((tests / SHOWN).read_text().splitlines(), 1):
        what, _, names = line.removeprefix("| ").removesuffix(" |").rpartition(" | ")
        if not line.startswith("| ") or what == "what":
            continue
        shown.append(what)
        if not NAME.findall(names):
            breaches.append(f"{number}: names no test")
        for name in NAME.findall(names):
            if wrong := find(tests, name, TABLES[0][2]):
                breaches.append(f"{number}: {wrong}")
    breaches += [f"1: no row for the decision: {what}" for what in wanted if what not in shown]
    breaches += [f"1: no decision in src/README.md: {what}" for what in shown if what not in wanted]
    if not breaches and shown != wanted:
        breaches.append("1: the rows are in another order than in src/README.md")
    return breaches


def main() -> int:
    """Check the tables below a root."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    tests = root / "tests"
    failed = False
    for breach in check_decisions(root):
        print(f"tests/{SHOWN}:{breach}")
        failed = True
    for name, cases, usual in TABLES:
        for breach in check(tests / name, tests, cases, usual):
            print(f"tests/{name}:{breach}")
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
