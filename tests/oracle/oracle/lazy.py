# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Lazily loaded members of several rooms, compared with regard to what the device was told before.

Which members a device has been told is remembered in one table for all of its rooms, with one event for a user. Rooms
are answered in whatever order a set has them. So for someone who is in several of the device's rooms the table holds
the event of whichever room came last, and the next answer leaves out that room's event only. Two right servers hence
may differ in exactly these: a member event in `state` of someone whom this device knows from several rooms, where the
server that leaves it out has told the device that very event before.

Before 1.163 each room that is new to the client empties the table. Of several in one answer (a first one, for example) the
last decides what of all that was told by then is remembered, and which that is, is up to the order. Until such an event
is told again either server may tell it again.

When a device comes with a token beyond every one that Chappe gave it, Chappe forgets what it told the device (src/sync/ll.c:
an answer may have been lost at another server), and Synapse does not. What both had told by then Chappe may tell again.
When it comes with a token from before an answer, Chappe tells again which memberships changed since then (src/sync/state.c:
that answer may have been lost), and Synapse before 1.163 does not.
"""

from __future__ import annotations

import re
from typing import Any, Iterator

Json = dict[str, Any]
_STATES = ("state", "state_after", "org.matrix.msc4222.state_after")


class Memory:
    """What each of two servers has told one device: the ids of member events, and rooms of each user."""

    def __init__(self, user_id: str = "", empties: bool = True) -> None:
        """`empties`: new rooms empty the table."""
        self.user_id, self.empties = user_id, empties
        self.since: str | None = None
        self.unsure: set[str] = set()  # what either side may have forgotten
        self.told: tuple[set[str], set[str]] = (set(), set())
        self.rooms: dict[str, set[str]] = {}
        self.given = (0, 0)  # the newest of the subject's tokens: its least and its greatest position
        self.again: set[str] = set()  # what the subject may tell again
        self.newest: dict[str, int] = {}  # the position of the subject's newest answer that told an event
        self.beyond: set[str] = set()  # what it told after the token of the last question

    def ask(self, since: str | None) -> None:
        """Take note of the token with which the device asks."""
        self.since = since
        if since is not None and any(asked > given for asked, given in zip(positions(since), self.given)):
            self.again |= self.told[0] & self.told[1]
        self.beyond = {event for event, at in self.newest.items() if since is not None and at > positions(since)[1]}

    def note(self, bodies: tuple[Json, Json]) -> None:
        """Remember two answers."""
        given = positions(bodies[1].get("next_batch"))
        self.given = (max(self.given[0], given[0]), max(self.given[1], given[1]))
        for told, body in zip(self.told, bodies):
            for room_id, event in _members(body):
                told.add(str(event.get("event_id")))
                if body is bodies[1]:
                    self.newest[str(event.get("event_id"))] = given[1]
                self.rooms.setdefault(str(event.get("state_key")), set()).add(room_id)
        self.unsure -= set.intersection(*({str(event.get("event_id")) for _, event in _members(body)} for body in bodies))
        if self.empties and len(self._new_rooms(bodies)) > 1:
            self.unsure |= self.told[0] | self.told[1]

    def _new_rooms(self, bodies: tuple[Json, Json]) -> set[str]:
        """Return the rooms that may be new to the client: on a first answer all, later those with the own membership."""
        if self.since is None:
            return {room for body in bodies for kind in ("join", "leave") for room in body.get("rooms", {}).get(kind, {})}
        return {room for body in bodies for room, event in _members(body) if event.get("state_key") == self.user_id}


def level_lazy(memory: Memory, reference: Json, subject: Json) -> set[str]:
    """Drop from two normalised answers the members on which right servers may differ; return whose they were."""
    bodies = (reference, subject)
    before = tuple(told | memory.unsure for told in memory.told)
    unsure = set(memory.unsure)
    memory.note(bodies)
    loose: set[str] = set()
    for section in ("join", "leave"):
        rooms = [body.get("rooms", {}).get(section, {}) for body in bodies]
        for room_id in rooms[0].keys() & rooms[1].keys():
            for key in _STATES:
                parts = [side[room_id].get(key, {}) for side in rooms]
                users = _level(memory, before, unsure, parts)
                loose |= users
                if users:
                    _level_summary(*(side[room_id] for side in rooms))
    return loose


def _level_summary(*rooms: Json) -> None:
    """A room with a gap has a summary if there are members in its state, also if only such as may be missing."""
    whole = [room for room in rooms if room.get("summary")]
    if len(whole) == 1 and whole[0].get("timeline", {}).get("limited"):
        for room in rooms:
            room["summary"] = {}


def _level(memory: Memory, before: tuple[set[str], ...], unsure: set[str], parts: list[Json]) -> set[str]:
    users = [{event["state_key"] for event in part.get("events", []) if _is_member(event)} for part in parts]
    loose: set[str] = set()
    for index, part in enumerate(parts):
        other = 1 - index
        for event in list(part.get("events", [])):
            # A server that has another event of this user here leaves out nothing.
            if not _is_member(event) or event["state_key"] in users[other] or event["event_id"] not in before[other]:
                continue
            several = len(memory.rooms.get(event["state_key"], ())) > 1
            if several or event["event_id"] in unsure or (index == 1 and event["event_id"] in memory.again | memory.beyond):
                part["events"].remove(event)
                loose.add(event["state_key"])
    return loose


def positions(token: Any) -> tuple[int, int]:
    """Return the least and the greatest room position of a token, as text or normalised."""
    text = token.get("room") if isinstance(token, dict) else str(token).partition("_")[0]
    numbers = [int(number) for number in re.findall(r"(?:^[sm]|\.)(\d+)", str(text))]
    return (numbers[0], max(numbers)) if numbers else (0, 0)


def _is_member(event: Json) -> bool:
    return event.get("type") == "m.room.member" and "state_key" in event and "event_id" in event


def _members(body: Json) -> Iterator[tuple[str, Json]]:
    for section in ("join", "leave"):
        for room_id, room in body.get("rooms", {}).get(section, {}).items():
            for key in ("timeline", *_STATES):
                for event in room.get(key, {}).get("events", []):
                    if _is_member(event):
                        yield room_id, event
