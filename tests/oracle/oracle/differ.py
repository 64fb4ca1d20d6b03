# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Finds the differences of two JSON values and says where they are."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Iterator

_ABSENT = object()


@dataclasses.dataclass
class Difference:
    """One place where two answers differ."""

    path: str
    reference: Any
    subject: Any

    def __str__(self) -> str:
        return f"at {self.path or '(top)'}\n    reference: {_show(self.reference)}\n    subject:   {_show(self.subject)}"


def differences(reference: Any, subject: Any, path: str = "") -> Iterator[Difference]:
    """Yield differences, outermost and first in order."""
    if isinstance(reference, dict) and isinstance(subject, dict):
        for key in sorted(reference.keys() | subject.keys()):
            yield from differences(reference.get(key, _ABSENT), subject.get(key, _ABSENT), f"{path}.{key}".lstrip("."))
    elif isinstance(reference, list) and isinstance(subject, list):
        yield from _list_differences(reference, subject, path)
    elif type(reference) is not type(subject) or reference != subject:
        yield Difference(path, reference, subject)


def _list_differences(reference: list[Any], subject: list[Any], path: str) -> Iterator[Difference]:
    """Compare lists; where members differ in number, name those that only one side has."""
    if len(reference) == len(subject):
        for index, (left, right) in enumerate(zip(reference, subject)):
            yield from differences(left, right, f"{path}[{index}]")
        return
    left_labels, right_labels = [_label(item) for item in reference], [_label(item) for item in subject]
    yield Difference(f"{path} (number of members)", len(reference), len(subject))
    only_left = [label for label in left_labels if label not in right_labels]
    only_right = [label for label in right_labels if label not in left_labels]
    if only_left or only_right:
        yield Difference(f"{path} (only there)", only_left, only_right)


def _label(item: Any) -> str:
    """Name an event by what identifies it, anything else by itself."""
    if isinstance(item, dict) and "type" in item:
        parts = [str(item["type"])]
        parts += [f"{key}={item[key]}" for key in ("state_key", "sender", "event_id") if key in item]
        return " ".join(parts)
    return json.dumps(item, sort_keys=True)


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "(absent)"
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 600 else text[:600] + "…"
