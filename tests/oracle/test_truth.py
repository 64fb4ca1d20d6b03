# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""What is taken out of the beliefs of two clients before they are compared."""

from __future__ import annotations

from typing import Any

import pytest
from oracle.truth import Facts, level_heroes

Json = dict[str, Any]
ROOM = "!r:x"
RULES = "$rules m.room.join_rules @b:x "


class SomeFacts(Facts):
    """Facts that nobody was asked for."""

    def __init__(self, shown: list[str]) -> None:
        self.ignored, self.shown, self._left_at = set(), shown, {}

    @property
    def readable(self) -> set[str]:
        """The one room."""
        return {ROOM}

    def messages(self, room: str) -> list[str]:
        """What is not hidden."""
        return self.shown


@pytest.mark.parametrize(
    ("shown", "current", "forgiven"),
    [(["$m"], "$rules", True), (["$m", "$rules"], "$rules", False), (["$m"], "$newer", False)],
)
def test_hidden_state_in_one_timeline(shown: list[str], current: str, forgiven: bool) -> None:
    """Current state that history hides may stand in one timeline; what is shown to all or is old may not."""
    state = {"m.room.join_rules ": current}
    for order in (1, -1):
        sides: list[Json] = [{"timeline": lines, "state": state} for lines in (["$m"], [RULES, "$m"])][::order]
        SomeFacts(shown).level(ROOM, *sides)
        assert (sides[0] == sides[1]) == forgiven


@pytest.mark.parametrize(("hero", "forgiven"), [("@c:x", True), ("@d:x", False)])
def test_hero_of_one(hero: str, forgiven: bool) -> None:
    """Only a hero's member event may be lacking, and not be another."""
    sides: list[Json] = [{"state": state} for state in ({}, {"m.room.member @c:x": "$1"})]
    level_heroes({hero}, *sides)
    assert (sides[0] == sides[1]) == forgiven
    sides = [{"state": {"m.room.member @c:x": event}} for event in ("$1", "$2")]
    level_heroes({hero}, *sides)
    assert sides[0] != sides[1]
