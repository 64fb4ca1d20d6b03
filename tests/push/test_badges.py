# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Counts: with events, and alone after reading."""

from __future__ import annotations

import json
import time

import pytest
from push.phones import Phones


def test_after_reading(phones: Phones) -> None:
    """One notification of the exact shape, with the new count; none when nothing changed."""
    ann, ben = phones.person("ann"), phones.person("ben")
    room = phones.room(ann, ben)
    key = phones.phone(ben, v=1)
    event = ann.text(room, "0")
    assert phones.events(key, 1)[0].unread == 1
    ben.receipt(room, event, "m.read")
    phones.until(lambda: bool(phones.gateway.of(key, events=False)))
    push = phones.gateway.of(key, events=False)[-1]
    row = phones.row(key)
    assert row is not None
    device = {"app_id": "com.example.app", "pushkey": key, "pushkey_ts": row["ts"] // 1000, "data": {"v": 1}}
    body = {"notification": {"id": "", "type": None, "sender": "", "counts": {"unread": 0}, "devices": [device]}}
    assert push.raw == json.dumps(body, separators=(",", ":"), sort_keys=True).encode()
    before = len(phones.gateway.of(key, events=False))
    ben.receipt(room, event, "m.read.private")
    phones.quiet(key, 1.5, events=False)
    assert len(phones.gateway.of(key, events=False)) == before


def test_rooms_are_counted(phones: Phones) -> None:
    """Rooms with something unread, and invitations; not what is in a room one has left."""
    ann, ben = phones.person("ann"), phones.person("ben")
    rooms = [phones.room(ann, ben) for _ in range(3)]
    key = phones.phone(ben)
    for number, room in enumerate(rooms):
        event = ann.text(room, "read")
        phones.events(key, number + 1)
        ben.receipt(room, event, "m.read")
        phones.until(lambda: bool(phones.gateway.of(key, events=False)) or number > 0)
    seen = len(rooms)
    for number, room in enumerate([rooms[0], rooms[0], rooms[1]]):
        ann.text(room, f"{number}")
        phones.events(key, seen + number + 1)  # a count is that of the moment of sending
    counts = [push.unread for push in phones.events(key, seen + 3)[seen:]]
    assert counts == [1, 1, 2]
    ann.create_room(preset="private_chat", invite=[ben.user_id])
    assert phones.events(key, 1, members=True)[-1].unread == 3
    ben.membership(rooms[0], "leave")
    time.sleep(0.5)
    ann.text(rooms[2], "4")
    assert phones.events(key, seen + 4)[-1].unread == 3


@pytest.mark.chappe_only
def test_newest_count_wins(phones: Phones) -> None:
    """Two receipts in a row: the last count that the gateway sees is the newest, and there are few."""
    ann, ben = phones.person("ann"), phones.person("ben")
    rooms = [phones.room(ann, ben) for _ in range(3)]
    key = phones.phone(ben)
    events = [ann.text(room, "x") for room in rooms]
    phones.events(key, 3)
    ben.receipt(rooms[0], events[0], "m.read")
    ben.receipt(rooms[1], events[1], "m.read")
    phones.until(lambda: bool(phones.gateway.of(key, events=False)))
    phones.quiet(key, 1.5, events=True)
    alone = phones.gateway.of(key, events=False)
    assert alone[-1].unread == 1 and len(alone) <= 2


@pytest.mark.chappe_only
def test_summarised_rooms(phones: Phones) -> None:
    """Rooms that Synapse has summed up and rooms that were never read are both counted."""
    ann, ben = phones.person("ann"), phones.person("ben")
    first, second, third = [phones.room(ann, ben) for _ in range(3)]
    ben.receipt(first, ann.text(first, "read"), "m.read")
    for room in (first, second, third):
        for number in range(2):
            newest = ann.text(room, f"{number}")
    sql = phones.world.deployment.postgres.psql
    summed = "(SELECT stream_ordering FROM event_push_summary_stream_ordering)"
    asked = f"SELECT {summed} >= stream_ordering FROM events WHERE event_id = '{newest}'"
    phones.until(lambda: sql(asked).strip() == "t", 60)  # Synapse's own job, every 30 s
    key = phones.phone(ben)
    ann.text(third, "now")
    assert phones.events(key, 1)[-1].unread == 3
