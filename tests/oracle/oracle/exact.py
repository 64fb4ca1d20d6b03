# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Compares what has the same meaning as text: order of keys in events, forms of numbers and strings.

Answers are parsed with the order of keys and with the text of fractions kept. Strings are looked at in the raw
answers: the same string must be written in the same way.
"""

from __future__ import annotations

import json
import re
from operator import itemgetter
from typing import Any, Iterator

from oracle.differ import Difference

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')


def parse(raw: bytes) -> Any:
    """Parse JSON; a number that is no integer stays visible as it was written."""
    return json.loads(raw, parse_float=lambda text: {"<number>": text})


def inexact(
    raw_reference: bytes, raw_subject: bytes, reference: Any, subject: Any, *, ordered: bool
) -> list[Difference]:
    """Return where two answers of one meaning are written in different ways; `ordered`: keys in another order count."""
    found = list(_orders(reference, subject, "")) if ordered else []
    spellings = [_spellings(raw) for raw in (raw_reference, raw_subject)]
    for text in spellings[0].keys() & spellings[1].keys():
        if spellings[0][text] != spellings[1][text]:
            found.append(Difference("(spelling of a string)", *(sorted(map(str, side[text])) for side in spellings)))
    return found


def _orders(reference: Any, subject: Any, path: str) -> Iterator[Difference]:
    """Walk two equal values; yield the events whose keys come in different orders."""
    if isinstance(reference, list):
        for index, (left, right) in enumerate(zip(reference, subject)):
            yield from _orders(left, right, f"{path}[{index}]")
    elif isinstance(reference, dict):
        if "content" in reference and "type" in reference:
            texts = [json.dumps(_without_order(event)) for event in (reference, subject)]
            if texts[0] != texts[1]:
                yield Difference(f"{path} (order of keys)", *texts)
            return
        for key, left in reference.items():
            yield from _orders(left, subject[key], f"{path}.{key}".lstrip("."))


def _without_order(event: dict[str, Any]) -> dict[str, Any]:
    """Put the receipts of m.receipt and a room's tags into an order: Synapse has them from queries without one.

    Tags: get_tags_for_user of 1.157 storage/databases/main/tags.py; a tag that is set again comes to stand elsewhere.
    What a tag holds is one stored text, whose order is compared.
    """
    if event["type"] == "m.receipt":
        return {**event, "content": json.dumps(event["content"], sort_keys=True)}
    if event["type"] == "m.tag" and "event_id" not in event and isinstance(event["content"].get("tags"), dict):
        return {**event, "content": {**event["content"], "tags": sorted(event["content"]["tags"].items(), key=itemgetter(0))}}
    return event


def _spellings(raw: bytes) -> dict[str, set[bytes]]:
    """Return how each string with anything special in it is written."""
    found: dict[str, set[bytes]] = {}
    for text in set(_STRING.findall(raw)):
        if b"\\" in text or not text.isascii():
            found.setdefault(json.loads(text), set()).add(text)
    return found
