# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Shortens a script that makes two servers differ, by delta debugging.

Steps are left out in ever smaller pieces for as long as the rest still ends in a difference of the same kind: first what
belongs together (a user, a room, a sort of steps), then halves, quarters, single steps. What a try passed over or was
refused goes at once. At the end the steps that are left are made simpler. Each try runs on the same deployment with users
of its own; time and number of tries are bounded, whatever is the shortest by then is the result. Steps inside of
`together` count as one.

A difference may depend on what a script does not decide (positions in a stream, when something arrives). If the whole
script does not show it again at once, every try is repeated about as often as that took.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
import time
from typing import Any, Callable, Iterator

from oracle.script import Script, Step

_IDS = re.compile(r"[!$@][^.\[\] ]*(?:\.localhost)?|\[\d+\]")
_REPEATS_MAX = 16
_ASKS = ("sync", "poll", "filter")


@dataclasses.dataclass
class Found:
    """What a try showed: which kind of difference, at which step, and which steps did nothing until then."""

    kind: str
    at: int
    idle: frozenset[int] = frozenset()


Trial = Callable[[list[Step]], "Found | None"]


def kind(path: str) -> str:
    """Return what stays the same of where a difference is: no ids, no positions."""
    return re.sub(r"\.localhost\b", "", _IDS.sub("*", path)).split("*.unsigned")[0]


def shrink(script: Script, wanted: str, trial: Trial, seconds: float = 120, tries: int = 2000) -> Script:
    """Return a shorter script for which `trial` still finds `wanted`, the kind of difference; the whole one, if it never does."""
    return Script(f"{script.name}-short", _Shrinking(script.steps, wanted, trial, seconds, tries).run())


class _Shrinking:
    """The shortest steps so far, and what may still be spent."""

    def __init__(self, steps: list[Step], wanted: str, trial: Trial, seconds: float, tries: int) -> None:
        self.steps, self.wanted, self.trial = list(steps), wanted, trial
        self.limit, self.tries, self.repeats = time.monotonic() + seconds, tries, _REPEATS_MAX

    @property
    def over(self) -> bool:
        """Is everything spent?"""
        return self.tries <= 0 or time.monotonic() >= self.limit

    def run(self) -> list[Step]:
        """Leave out what can be left out, make simpler what cannot."""
        before = self.tries
        found = self.attempt(self.steps)
        if found is None:
            return self.steps
        needed = before - self.tries
        self.repeats = 1 if needed == 1 else min(_REPEATS_MAX, 2 * needed)
        self.accept(self.steps, found)
        for group in _groups(self.steps):
            self.take([step for step in self.steps[:-1] if not group(step)] + self.steps[-1:])
        before_round: list[Step] = []
        while self.steps != before_round and not self.over:
            before_round = self.steps
            self.leave_out()
            for merged in _merges(self.steps):
                self.take(merged(self.steps))
            self.simplify()
        return _without_names(self.steps)

    def simplify(self) -> None:
        """Make steps simpler, from the end to the beginning."""
        for back in range(1, len(self.steps) + 1):
            if back <= len(self.steps):
                for simpler in _simpler(self.steps[-back]):
                    at = len(self.steps) - back
                    self.take(self.steps[:at] + [simpler] + self.steps[at + 1 :])

    def leave_out(self) -> None:
        """Leave out pieces of half the steps, of a quarter, and so on down to one, from the end to the beginning."""
        size = max(1, len(self.steps) // 2)
        while not self.over:
            at, shorter = len(self.steps), False
            while at > 0 and not self.over:
                begin = max(0, at - size)
                shorter |= self.take(self.steps[:begin] + self.steps[at:])
                at = min(begin, len(self.steps))
            if size == 1 and not shorter:
                return
            size = max(1, size // 2)

    def take(self, steps: list[Step]) -> bool:
        """Go on with these steps if they show the difference."""
        found = self.attempt(steps) if steps and steps != self.steps else None
        if found is None:
            return False
        self.accept(steps, found)
        return True

    def accept(self, steps: list[Step], found: Found) -> None:
        """Go on with steps that show the difference, without those that did nothing."""
        self.steps = steps[: found.at + 1]
        rest = [step for index, step in enumerate(self.steps) if index not in found.idle]
        if len(rest) < len(self.steps) and self.attempt(rest):
            self.steps = rest

    def attempt(self, steps: list[Step]) -> Found | None:
        """Try as often as it may take."""
        for _ in range(self.repeats):
            if self.over:
                return None
            self.tries -= 1
            found = self.trial(steps)
            if found is not None and found.kind == self.wanted:
                return found
        return None


def _groups(steps: list[Step]) -> list[Callable[[Step], bool]]:
    """Return what tells the steps of each group: other devices' questions, users, sorts of steps, rooms, devices."""
    last = steps[-1].get("who")
    groups: list[Callable[[Step], bool]] = [lambda step: step["do"] in _ASKS and step["who"] != last]
    for user in dict.fromkeys(step["user"] for step in steps if step["do"] in ("user", "guest", "remote")):
        groups.append(lambda step, user=user: _belongs(step, user))  # type: ignore[misc]
    for field in ("do", "room", "who"):
        for value in dict.fromkeys(step[field] for step in steps if field in step):
            groups.append(lambda step, field=field, value=value: step.get(field) == value)  # type: ignore[misc]
    return groups


def _belongs(step: Step, user: str) -> bool:
    """Tell whether a step is done by a user, or to one."""
    return step.get("user") == user or any(step.get(field, "").startswith(f"{user}/") for field in ("who", "device"))


def _merges(steps: list[Step]) -> list[Callable[[list[Step]], list[Step]]]:
    """Return what lets one user do what another did, and one device of a user what another did."""
    users = [step["user"] for step in steps if step["do"] == "user"]
    devices = [step["device"] for step in steps if step["do"] == "login"]
    pairs = [(f"{gone}(?=[/>\"])", into) for into, gone in itertools.permutations(users, 2)]
    pairs += [(f"{gone}(?=[\"])", into) for into, gone in itertools.permutations(devices, 2) if into[:-1] == gone[:-1]]

    def merge(gone: str, into: str, all_steps: list[Step]) -> list[Step]:
        texts = [re.sub(f"(?<=[<\"]){gone}", into, json.dumps(step)) for step in all_steps]
        once = [text for index, text in enumerate(texts) if text == json.dumps(all_steps[index]) or text not in texts[:index]]
        return [json.loads(text) for text in once]

    return [functools.partial(merge, gone, into) for gone, into in pairs]


def _simpler(step: Step) -> Iterator[Step]:
    """Yield simpler forms of a step; each is tried alone."""
    if step.get("filter") not in (None, {}) and step["do"] in ("sync", "poll"):
        yield {**step, "filter": {"presence": {"types": []}}}
    if step["do"] == "crowd":
        for ask in step["asks"]:
            yield {**step, "asks": [other for other in step["asks"] if other is not ask]}
        yield {**step, "asks": [{"who": ask["who"], "filter": {"presence": {"types": []}}} for ask in step["asks"]]}
    for field in ("query", "reason", "message", "thread"):
        if field in step and step["do"] not in ("poll", "crowd"):
            yield {key: value for key, value in step.items() if key != field}
    if step["do"] == "create":
        yield {**step, "options": {}}
        yield {**step, "options": {key: step["options"][key] for key in ("invite", "preset") if key in step["options"]}}
    if step["do"] == "send":
        yield {**step, "content": {"body": "text", "msgtype": "m.text"}}


def _without_names(steps: list[Step]) -> list[Step]:
    """Leave out names that no other step uses."""
    texts = [json.dumps(step) for step in steps]

    def used(name: str, index: int) -> bool:
        return any(f'"{name}"' in text or f"<{name}>" in text for at, text in enumerate(texts) if at != index)

    result: list[dict[str, Any]] = []
    for index, step in enumerate(steps):
        kept = "as" not in step or used(step["as"], index)
        result.append(step if kept else {key: value for key, value in step.items() if key != "as"})
    return result
