# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Recorded replication: what the homeserver would have stored and published, at the times that a plan says.

The homeserver needs milliseconds for a message; where that is the bottleneck, events are composed beforehand. Their rows
are written just before the phase in which they are published (a server that starts later takes them for past), and the
generator publishes the lines of the replication protocol in the main process's name. Stream ids go on where the
tables are; the homeserver's sequences are set beyond them, so that it goes on there as well. Its position in
stream_positions moves when all is published: servers look there for announcements that were lost.
"""

from __future__ import annotations

import json
import random
import time

from harness.crowd import Crowd, Set, write_events
from harness.matrix_events import Event
from harness.plan import Plan, marker_text, redis_command
from harness.tables import Bulk
from stack.settings import SERVER_NAME

ACTIONS = '["notify"]'


def rdata(stream: str, token: int, row: object) -> bytes:
    """Return the command that publishes one row."""
    line = f"RDATA {stream} master {token} " + json.dumps(row, separators=(",", ":"))
    return redis_command("PUBLISH", SERVER_NAME, line)


class Recording:
    """Composes messages, receipts and typing of a set, in a plan."""

    def __init__(self, crowd: Crowd, made: Set, plan: Plan, padding: int, actions: bool = False) -> None:
        """Record for a set; padding: characters of every message; actions: with rows of push actions for all."""
        self.crowd, self.made, self.plan = crowd, made, plan
        self.postgres = crowd.stage.deployment.postgres
        self.actions = actions
        self.padding = "x" * padding
        self.stream = int(self.postgres.psql("SELECT last_value FROM events_stream_seq"))
        self.receipt = int(self.postgres.psql("SELECT last_value FROM receipts_sequence"))
        self.typed = int(time.time() * 1000)  # in memory only, and below this in the main process
        self.random = random.Random(7)
        self._events: list[tuple[Event, int]] = []  # with the room's number
        self._receipts: dict[tuple[int, int], tuple[int, str]] = {}
        self._first = self.stream + 1

    @property
    def preamble(self) -> bytes:
        """What must be sent to Redis before anything else."""
        return redis_command("AUTH", self.crowd.stage.deployment.redis.password)

    def _compose(self, room: int, text: str) -> Event:
        made = self.made
        end, depth = made.ends[room]
        links = (depth + 1, made.power[room], [end])
        content = {"msgtype": "m.text", "body": text}
        event = Event(made.rooms[room], "m.room.message", made.user(0), content, None, links, int(time.time() * 1000))
        made.ends[room] = (event.event_id, depth + 1)
        self._events.append((event, room))
        self.stream += 1
        return event

    def message(self, room: int = 0, at_us: int = 0) -> None:
        """Plan a message."""
        text = marker_text(self.plan.run, self.plan.numbers + 1, self.padding)
        event = self._compose(room, text)
        row = ["ev", [event.event_id, event.room, event.type, None, None, None, None, False, False]]
        self.plan.message(rdata("events", self.stream, row), room, at_us)

    def past(self, room: int = 0) -> None:
        """Compose a message that is there before the devices come."""
        self._compose(room, marker_text(self.plan.run, self.plan.numbers + 1, self.padding))
        self.plan.past(room)

    def read(self, room: int, user: int, at_us: int) -> None:
        """Plan a receipt for the newest message of a room."""
        made = self.made
        self.receipt += 1
        event = made.ends[room][0]
        self._receipts[(room, user)] = (self.receipt, event)
        row = [made.rooms[room], "m.read", made.user(user), event, None, {"ts": int(time.time() * 1000)}]
        self.plan.other(rdata("receipts", self.receipt, row), at_us)

    def types(self, room: int, users: list[int], at_us: int) -> None:
        """Plan that these users, and no others, are typing in a room."""
        self.typed += 1
        row = [self.made.rooms[room], [self.made.user(user) for user in users]]
        self.plan.other(rdata("typing", self.typed, row), at_us)

    def store(self) -> None:
        """Write the rows; after this the plan must be published soon."""
        bulk = Bulk()
        made = self.made
        events = [event for event, _ in self._events]
        write_events(bulk, events, self._first, [made.groups[room] for _, room in self._events], int(time.time() * 1000))
        if self.actions:
            columns = "room_id, event_id, user_id, actions, stream_ordering, topological_ordering, notif, highlight, unread, thread_id"
            for i, (event, room) in enumerate(self._events):
                where = (self._first + i, event.depth)
                bulk.add(
                    "event_push_actions",
                    columns,
                    (
                        (event.room, event.event_id, made.user(user), ACTIONS, *where, 1, 0, 0, "main")
                        for user in made.shape.rooms[room]
                    ),
                )
        statements = [f"SELECT setval('events_stream_seq', {self.stream}), setval('receipts_sequence', {max(self.receipt, 1)})"]
        ends = {room: event for event, room in self._events}
        for room, event in ends.items():
            statements.append(
                f"UPDATE event_forward_extremities SET event_id = '{event.event_id}' WHERE room_id = '{made.rooms[room]}'"
            )
        bulk.add(
            "receipts_linearized",
            "stream_id, room_id, receipt_type, user_id, event_id, data, instance_name",
            (
                (stream, made.rooms[room], "m.read", made.user(user), event, '{"ts":1}', "master")
                for (room, user), (stream, event) in self._receipts.items()
            ),
        )
        if self._receipts:
            rooms = ",".join(f"'{made.rooms[room]}'" for room in {room for room, _ in self._receipts})
            self.postgres.psql(f"DELETE FROM receipts_linearized WHERE room_id IN ({rooms})")
            statements.append(
                "UPDATE receipts_linearized r SET event_stream_ordering = e.stream_ordering FROM events e"
                " WHERE e.event_id = r.event_id AND r.event_stream_ordering IS NULL"
            )
        bulk.write(self.postgres, ";".join(statements))

    def published(self) -> None:
        """All is published: say so in stream_positions, and remember where the rooms end."""
        self.postgres.psql(
            f"UPDATE stream_positions SET stream_id = greatest(stream_id, {self.stream})"
            " WHERE stream_name = 'events' AND instance_name = 'master'"
        )
        self.crowd.keep(self.made)
