# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Lazily loaded members of several rooms, compared with regard to what the device was told before.

Which members a device has been told is remembered in one table for all of its rooms, with one event for a user. Rooms
are answered in whatever order a set has them. So for someone who is in several of the device's rooms the table holds
the event of whichever room came last, and the next answer leaves out that room's event only. Two right servers hence
may differ in exactly these: a member event in `state` of someone whom this device knows from several rooms, where the
server that leaves it out has told the device that very event before.
"""

from __future__ import annotations

from typing import Any, Iterator

Json = dict[str, Any]
_STATES = ("state", "state_after", "org.matrix.msc4222.state_after")


class Memory:
    """What each of two servers has told one device: the ids of member events, and rooms of each user."""

    def __init__(self) -> None:
        self.told: tuple[set[str], set[str]] = (set(), set())
        self.rooms: dict[str, set[str]] = {}

    def note(self, bodies: tuple[Json, Json]) -> None:
        """Remember two answers."""
        for told, body in zip(self.told, bodies):
            for room_id, event in _members(body):
                told.add(str(event.get("event_id")))
                self.rooms.setdefault(str(event.get("state_key")), set()).add(room_id)


def level_lazy(memory: Memory, reference: Json, subject: Json) -> set[str]:
    """Drop from two normalised answers the members on which right servers may differ; return whose they were."""
    bodies = (reference, subject)
    before = tuple(set(told) for told in memory.told)
    memory.note(bodies)
    loose: set[str] = set()
    for section in ("join", "leave"):
        rooms = [body.get("rooms", {}).get(section, {}) for body in bodies]
        for room_id in rooms[0].keys() & rooms[1].keys():
            for key in _STATES:
                parts = [side[room_id].get(key, {}) for side in rooms]
                loose |= _level(memory, before, parts)
    return loose


def _level(memory: Memory, before: tuple[set[str], ...], parts: list[Json]) -> set[str]:
    users = [{event["state_key"] for event in part.get("events", []) if _is_member(event)} for part in parts]
    loose: set[str] = set()
    for index, part in enumerate(parts):
        other = 1 - index
        for event in list(part.get("events", [])):
            # A server that has another event of this user here leaves out nothing.
            absent = _is_member(event) and event["state_key"] not in users[other]
            if absent and event["event_id"] in before[other] and len(memory.rooms.get(event["state_key"], ())) > 1:
                part["events"].remove(event)
                loose.add(event["state_key"])
    return loose


def _is_member(event: Json) -> bool:
    return event.get("type") == "m.room.member" and "state_key" in event and "event_id" in event


def _members(body: Json) -> Iterator[tuple[str, Json]]:
    for section in ("join", "leave"):
        for room_id, room in body.get("rooms", {}).get(section, {}).items():
            for key in ("timeline", *_STATES):
                for event in room.get(key, {}).get("events", []):
                    if _is_member(event):
                        yield room_id, event
