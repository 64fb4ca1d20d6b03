# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Shortening scripts, against made-up servers whose fault is known."""

from __future__ import annotations

import itertools
import json
import re
from typing import Callable

import pytest
from oracle.generator import PROFILES, generate
from oracle.script import Script, Step
from oracle.shrink import Found, kind, shrink

_WANTED = "rooms.join.*.ephemeral.events"


def _needs(step: Step) -> set[str]:
    """Return the names without which a step is passed over."""
    found = set(re.findall(r"<([a-z][A-Za-z0-9/]*)>", json.dumps(step)))
    found |= {step[field] for field in ("who", "event") if field in step}
    if "room" in step and step["do"] != "create":
        found.add(step["room"])
    if step["do"] == "login":
        found.add(step["device"].split("/")[0])
    return found - {"main"}


def _makes(step: Step) -> set[str]:
    made = {step[field] for field in ("as",) if field in step}
    made |= {"user": {step.get("user", "")}, "login": {step.get("device", "")}, "create": {step.get("room", "")}}.get(
        step["do"], set()
    )
    return made | ({step["user"], f"{step['user']}/D1"} if step["do"] == "guest" else set())


def _receipts_fail(steps: list[Step]) -> Found | None:
    """A server that forgets receipts: the next question of anybody shows it."""
    there: set[str] = set()
    idle: set[int] = set()
    read = False
    for index, step in enumerate(steps):
        if not _needs(step) <= there:
            idle.add(index)
            continue
        there |= _makes(step)
        read |= step["do"] == "receipt"
        if read and step["do"] == "sync":
            return Found(_WANTED, index, frozenset(idle))
    return None


@pytest.mark.parametrize("profile", [name for name in PROFILES if "receipt" in PROFILES[name].weights and name != "presence"])
def test_only_what_is_needed_is_left(profile: str) -> None:
    """A user with a device and a room, an event, its receipt, and a question."""
    script = next(script for seed in range(50) if _receipts_fail((script := generate(profile, seed)).steps))
    short = shrink(script, _WANTED, _receipts_fail, seconds=20)
    assert _receipts_fail(short.steps)
    assert {"user", "login", "create", "receipt", "sync"} <= {step["do"] for step in short.steps}
    assert len(short.steps) < 9, short.steps
    assert "as" not in short.steps[-1] and short.steps[-1]["filter"] == {"presence": {"types": []}}


def _sometimes(trial: Callable[[list[Step]], "Found | None"], every: int) -> Callable[[list[Step]], "Found | None"]:
    turns = itertools.count(1)
    return lambda steps: trial(steps) if next(turns) % every == 0 else None


def test_what_shows_now_and_then() -> None:
    """A fault that shows in one run of five is tried often enough."""
    script = next(script for seed in range(50) if _receipts_fail((script := generate("counts", seed)).steps))
    short = shrink(script, _WANTED, _sometimes(_receipts_fail, 5), seconds=20)
    assert _receipts_fail(short.steps) and len(short.steps) < 9, short.steps


def test_bounds() -> None:
    """No more tries than allowed; what never shows again stays whole; another fault does not count."""
    script = generate("plain", 3)
    tried = itertools.count()

    def never(steps: list[Step]) -> Found | None:
        next(tried)
        return Found("rooms.join.*.timeline", len(steps) - 1)

    assert shrink(script, _WANTED, never, seconds=20, tries=10).steps == script.steps
    assert next(tried) == 10
    begun = shrink(script, _WANTED, _receipts_fail, seconds=0)
    assert begun.steps == script.steps


@pytest.mark.parametrize(
    ("paths", "same"),
    [
        (("rooms.join.!a:x.timeline.events[3].content", "rooms.join.!bc:x.timeline.events[10].content"), True),
        (("rooms.join.!a:x.timeline.events[3].content", "rooms.leave.!a:x.timeline.events[3].content"), False),
        (("device_lists.changed", "device_lists.left"), False),
    ],
)
def test_kinds(paths: tuple[str, str], same: bool) -> None:
    """Rooms and positions do not make another kind of difference."""
    assert (kind(paths[0]) == kind(paths[1])) == same


def test_steps_together() -> None:
    """Steps that are done at once stay so, and lose what came after the difference."""
    steps: list[Step] = [{"do": "user", "user": "ann"}, {"do": "together", "steps": [{"do": "x"}]}, {"do": "wait"}, {"do": "wait", "n": 2}]

    def trial(left: list[Step]) -> Found | None:
        found = [index for index, step in enumerate(left) if step["do"] == "together"]
        return Found(_WANTED, found[0]) if found else None

    assert shrink(Script("s", steps), _WANTED, trial, seconds=5).steps == [steps[1]]
