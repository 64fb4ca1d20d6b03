# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Shortens a script that makes two servers differ, by delta debugging.

Steps are left out in ever smaller pieces for as long as the rest still ends in a difference of the same kind. Each try
runs on the same deployment with users of its own; time and number of tries are bounded, whatever is the shortest by
then is the result. Steps inside of `together` count as one.
"""

from __future__ import annotations

import re
import time
from typing import Callable

from oracle.script import Script, Step

_IDS = re.compile(r"[!$@][^.\[\] ]*(?:\.localhost)?|\[\d+\]")
Trial = Callable[[list[Step]], "str | None"]


def kind(path: str) -> str:
    """Return what stays the same of where a difference is: no ids, no positions."""
    return re.sub(r"\.localhost\b", "", _IDS.sub("*", path)).split("*.unsigned")[0]


def _groups(steps: list[Step]) -> list[Callable[[Step], bool]]:
    """Return what tells the steps of each group: other devices' questions, sorts of steps, rooms, devices."""
    asks = ("sync", "poll", "filter")
    last = steps[-1].get("who")
    groups: list[Callable[[Step], bool]] = [lambda step: step["do"] in asks and step["who"] != last]
    for field in ("do", "room", "who"):
        for value in dict.fromkeys(step[field] for step in steps if field in step):
            groups.append(lambda step, field=field, value=value: step.get(field) == value)  # type: ignore[misc]
    return groups


def shrink(script: Script, wanted: str, trial: Trial, seconds: float = 120, tries: int = 200) -> Script:
    """Return a shorter script for which `trial` still returns `wanted`, the kind of difference."""
    limit = time.monotonic() + seconds
    steps = list(script.steps)
    # First what belongs together: everything of one device, of one room, of one sort.
    for group in _groups(steps):
        rest = [step for step in steps[:-1] if not group(step)] + steps[-1:]
        if len(rest) < len(steps) and tries > 0 and time.monotonic() < limit:
            tries -= 1
            steps = rest if trial(rest) == wanted else steps
    size = max(1, len(steps) // 2)
    while size >= 1 and tries > 0 and time.monotonic() < limit:
        at, shorter = len(steps), False
        while at > 0 and tries > 0 and time.monotonic() < limit:
            begin = max(0, at - size)
            rest = steps[:begin] + steps[at:]
            tries -= 1
            if rest and trial(rest) == wanted:
                steps, shorter = rest, True
            at = begin
        if size == 1 and not shorter:
            break
        size = max(1, size // 2)
    return Script(f"{script.name}-short", steps)
