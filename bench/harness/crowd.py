# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Fifty thousand users with a device, an access token and rooms each, written into the homeserver's tables.

The client API would take hours. What is written is what the homeserver itself would have left: users, profiles,
devices, access tokens, rooms with complete state, memberships, and some messages. What is not read by /sync or by
sending a message is left out (the user directory, statistics, the chain cover of auth events). All events of a room
share one state group, that of its end. The homeserver must not run meanwhile; verify() shows afterwards that it
serves these accounts, and that Chappe answers the same.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from typing import Any, Iterator

from harness.matrix_events import FORMAT, ROOM_VERSION, Event
from harness.stage import Stage
from harness.tables import Bulk
from stack.errors import StackError
from stack.install import say
from stack.matrix import Client
from stack.settings import SERVER_NAME

EVENTS_AT_ONCE = 20000
POWER = {
    **{"ban": 50, "events_default": 0, "invite": 50, "kick": 50, "redact": 50, "state_default": 50, "users_default": 0},
    "events": {"m.room.name": 50, "m.room.power_levels": 100},
}


@dataclasses.dataclass
class Shape:
    """A set of users and rooms. Users are by number; 0 owns the rooms and sends, and is no device that listens."""

    name: str
    listeners: int
    rooms: list[list[int]]  # members of each, without 0
    messages: int = 25  # of each room

    @property
    def rooms_of(self) -> dict[int, list[int]]:
        """The rooms of each user."""
        found: dict[int, list[int]] = {}
        for room, members in enumerate(self.rooms):
            for user in members:
                found.setdefault(user, []).append(room)
        return found


def one_room(devices: int) -> Shape:
    """Everybody in one room."""
    return Shape(f"fan{devices}", devices, [list(range(1, devices + 1))])


def workday(devices: int, rooms_each: int = 5, size: int = 40) -> Shape:
    """Many small rooms: each user in some, with other people in each of them."""
    rooms: list[list[int]] = []
    for layer in range(rooms_each):
        # Another order in every layer: steps that have no divisor in common with the number of users.
        step = next(s for s in range(1 + layer * (devices // rooms_each or 1), 10**9) if _coprime(s, devices))
        order = [1 + i * step % devices for i in range(devices)]
        rooms += [order[i : i + size] for i in range(0, devices, size)]
    return Shape(f"work{devices}x{rooms_each}x{size}", devices, rooms)


def _coprime(a: int, b: int) -> bool:
    while b:
        a, b = b, a % b
    return a == 1


def many_rooms(accounts: int, rooms: int, members: int) -> Shape:
    """Accounts that are all in the same rooms, with as many others as make the rooms full."""
    return Shape(f"init{accounts}x{rooms}x{members}", accounts, [list(range(1, max(members, accounts + 1)))] * rooms)


class Set:
    """Users and rooms of a shape as they are in the database."""

    def __init__(self, shape: Shape, known: dict[str, Any]) -> None:
        self.shape = shape
        self.key: str = known["key"]
        self.rooms: list[str] = known["rooms"]
        self.groups: list[int] = known["groups"]
        self.ends: list[tuple[str, int]] = [tuple(end) for end in known["ends"]]  # last event and depth of each room
        self.power: list[list[str]] = known["power"]  # auth events of a message of the owner

    def user(self, number: int) -> str:
        """Return a user id."""
        return f"@{self.shape.name}-{number}:{SERVER_NAME}"

    def device(self, number: int) -> str:
        """Return a device id."""
        return f"HOT{number:07d}"

    def token(self, number: int) -> str:
        """Return the access token of a user's device."""
        return f"syt_{self.shape.name}{number}_{self.key}_0000aa"

    def known(self) -> dict[str, Any]:
        """Return what must be kept."""
        return {"key": self.key, "rooms": self.rooms, "groups": self.groups, "ends": self.ends, "power": self.power}


class Crowd:
    """The sets in a state folder."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._file = stage.settings.state / "crowd.json"
        self._known: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def missing(self, shape: Shape) -> bool:
        """Tell whether a set is still to be made."""
        return shape.name not in self._known

    def get(self, shape: Shape) -> Set:
        """Return a set that was made."""
        return Set(shape, self._known[shape.name])

    def keep(self, made: Set) -> None:
        """Remember a set, or that its rooms' ends moved on."""
        self._known[made.shape.name] = made.known()
        fresh = self._file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(self._known))
        fresh.replace(self._file)

    def make(self, shape: Shape) -> Set:
        """Write a set's rows; the homeserver does not run."""
        begun, postgres = time.monotonic(), self.stage.deployment.postgres
        made = Set(shape, {"key": secrets.token_hex(10), "rooms": [], "groups": [], "ends": [], "power": []})
        first = [int(postgres.psql(statement)) for statement in _FIRST]
        users = 1 + max(shape.listeners, *(max(members) for members in shape.rooms))
        bulk = Bulk()
        _write_users(bulk, made, users, first[2])
        bulk.write(postgres)
        stream, group = first[0], first[1]
        waiting = total = 0
        for number, members in enumerate(shape.rooms):
            room = f"!{shape.name}r{number}{made.key[:6]}:{SERVER_NAME}"
            events = list(_room_events(made, room, number, members))
            _write_room(bulk, made, room, events, stream, group)
            stream, group, waiting, total = stream + len(events), group + 1, waiting + len(events), total + len(events)
            if waiting >= EVENTS_AT_ONCE:
                bulk.write(postgres, _settle(stream - 1, group - 1))
                waiting = 0
        bulk.write(postgres, _settle(stream - 1, group - 1))
        for table in ("users", "access_tokens", "devices", "events", "event_json", "current_state_events", "room_memberships"):
            postgres.psql(f"VACUUM ANALYZE {table}")
        for table in ("local_current_membership", "event_to_state_groups", "state_groups_state", "state_events"):
            postgres.psql(f"VACUUM ANALYZE {table}")
        self.keep(made)
        say(
            f"{shape.name}: {users} users, {len(shape.rooms)} rooms, {total} events written in"
            f" {time.monotonic() - begun:.0f} s"
        )
        return made

    def verify(self, made: Set, samples: int = 3) -> None:
        """Ask the Synapse worker and Chappe for the same; complain when the answers differ."""
        last = made.shape.listeners
        for number in sorted({1, (1 + last) // 2, last})[:samples]:
            answers = []
            for target in ("synapse", "chappe"):
                client = Client(f"http://127.0.0.1:{self.stage.port(target)}", "", made.token(number))
                answers.append(_comparable(client.sync(filter=VERIFY_FILTER, timeout=0, set_presence="offline")))
            joined = answers[0].get("rooms", {}).get("join", {})
            if answers[0] != answers[1] or not joined:
                differs = [key for key in answers[0] | answers[1] if answers[0].get(key) != answers[1].get(key)]
                raise StackError(f"{made.user(number)}: Synapse and Chappe answer differently: {differs} ({len(joined)} rooms)")
        say(f"{made.shape.name}: Synapse and Chappe give the same answers")


VERIFY_FILTER = {"room": {"timeline": {"limit": 20}, "state": {"lazy_load_members": True}}}

_FIRST = (
    "SELECT 1 + greatest((SELECT max(stream_ordering) FROM events), (SELECT last_value FROM events_stream_seq))",
    "SELECT 1 + greatest((SELECT max(id) FROM state_groups), (SELECT last_value FROM state_group_id_seq))",
    "SELECT 1 + coalesce(max(id), 0) FROM access_tokens",
)


def _settle(stream: int, group: int) -> str:
    return (
        f"SELECT setval('events_stream_seq', {stream}), setval('state_group_id_seq', {group});"
        f"UPDATE stream_positions SET stream_id = {stream} WHERE stream_name = 'events' AND instance_name = 'master'"
    )


def _comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """Drop what depends on when it was asked and by whom it was computed."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items() if key not in ("age", "next_batch", "prev_batch")}
        if isinstance(value, list):
            items = [clean(item) for item in value]
            ordered = all(isinstance(item, dict) and "origin_server_ts" in item for item in items)
            return sorted(items, key=lambda item: str(item["event_id"])) if ordered else items
        return value

    return dict(clean(answer))


def _write_users(bulk: Bulk, made: Set, count: int, first_token: int) -> None:
    now = int(time.time())
    numbers = range(count)
    bulk.add(
        "users",
        "name, creation_ts, admin, is_guest, deactivated, shadow_banned, approved, locked, suspended",
        ((made.user(i), now, 0, 0, 0, False, True, False, False) for i in numbers),
    )
    names = [f"{made.shape.name}-{i}" for i in numbers]
    bulk.add("profiles", "user_id, displayname, full_user_id", ((name, name, made.user(i)) for i, name in enumerate(names)))
    bulk.add(
        "devices",
        "user_id, device_id, display_name, last_seen, ip, user_agent, hidden",
        ((made.user(i), made.device(i), "bench", now * 1000, "127.0.0.1", "bench", False) for i in numbers),
    )
    bulk.add(
        "access_tokens",
        "id, user_id, device_id, token, last_validated, used",
        ((first_token + i, made.user(i), made.device(i), made.token(i), now * 1000, True) for i in numbers),
    )


def _room_events(made: Set, room: str, number: int, members: list[int]) -> Iterator[Event]:
    """Yield the events of a room: its beginning, its members, some messages."""
    owner, ts = made.user(0), int(time.time() * 1000) - 3600 * 1000
    ids: dict[str, str] = {}
    last: list[str] = []
    depth = 0

    def event(kind: str, content: dict[str, Any], key: str | None, auth: list[str], sender: str = owner) -> Event:
        nonlocal depth, last
        depth += 1
        made_event = Event(room, kind, sender, content, key, (depth, [ids[a] for a in auth if a in ids], last), ts + depth)
        last = [made_event.event_id]
        return made_event

    def member(user: int) -> dict[str, Any]:
        return {"displayname": f"{made.shape.name}-{user}", "membership": "join"}

    rules = ["m.room.create", "m.room.power_levels", "m.room.join_rules"]
    for kind, content, key in (
        ("m.room.create", {"creator": owner, "room_version": ROOM_VERSION}, ""),
        ("m.room.member", member(0), owner),
        ("m.room.power_levels", {**POWER, "users": {owner: 100}}, ""),
        ("m.room.join_rules", {"join_rule": "public"}, ""),
        ("m.room.history_visibility", {"history_visibility": "shared"}, ""),
        ("m.room.name", {"name": f"Room {number}"}, ""),
    ):
        begun = event(kind, content, key, ["m.room.create", "m.room.power_levels", "m.room.member"])
        ids[kind] = begun.event_id
        yield begun
    for user in members:
        if user != 0:
            yield event("m.room.member", member(user), made.user(user), rules, made.user(user))
    power = ["m.room.create", "m.room.power_levels", "m.room.member"]
    for line in range(made.shape.messages):
        yield event("m.room.message", {"msgtype": "m.text", "body": f"line {line} of room {number}"}, None, power)
    made.power.append([ids[kind] for kind in power])
    made.ends.append((last[0], depth))


def _write_room(bulk: Bulk, made: Set, room: str, events: list[Event], stream: int, group: int) -> None:
    owner = made.user(0)
    made.rooms.append(room)
    made.groups.append(group)
    write_events(bulk, events, stream, [group] * len(events))
    state = [(stream + i, e) for i, e in enumerate(events) if e.state_key is not None]
    members = [(so, e) for so, e in state if e.type == "m.room.member"]
    bulk.add("rooms", "room_id, is_public, creator, room_version, has_auth_chain_index", [(room, False, owner, ROOM_VERSION, False)])
    bulk.add("room_depth", "room_id, min_depth", [(room, 1)])
    bulk.add("state_groups", "id, room_id, event_id", [(group, room, state[-1][1].event_id)])
    bulk.add(
        "state_groups_state",
        "state_group, room_id, type, state_key, event_id",
        ((group, room, e.type, e.state_key, e.event_id) for _, e in state),
    )
    bulk.add("state_events", "event_id, room_id, type, state_key", ((e.event_id, room, e.type, e.state_key) for _, e in state))
    bulk.add(
        "current_state_events",
        "event_id, room_id, type, state_key, membership, event_stream_ordering",
        ((e.event_id, room, e.type, e.state_key, e.content.get("membership"), so) for so, e in state),
    )
    bulk.add(
        "room_memberships",
        "event_id, user_id, sender, room_id, membership, forgotten, display_name, event_stream_ordering, participant",
        ((e.event_id, e.state_key, e.sender, room, "join", 0, e.content["displayname"], so, False) for so, e in members),
    )
    bulk.add(
        "local_current_membership",
        "room_id, user_id, event_id, membership, event_stream_ordering",
        ((room, e.state_key, e.event_id, "join", so) for so, e in members),
    )
    bulk.add("event_forward_extremities", "event_id, room_id", [(events[-1].event_id, room)])


def write_events(bulk: Bulk, events: list[Event], stream: int, groups: list[int], ts: int | None = None) -> None:
    """Add what every event has: from this stream ordering on, each with the state group of its room."""
    bulk.add(
        "events",
        "topological_ordering, event_id, type, room_id, processed, outlier, depth, origin_server_ts, received_ts, sender,"
        " contains_url, instance_name, stream_ordering, state_key",
        (
            (e.depth, e.event_id, e.type, e.room, True, False, e.depth, e.ts, ts or e.ts, e.sender, False, "master", stream + i)
            + (e.state_key,)
            for i, e in enumerate(events)
        ),
    )
    bulk.add(
        "event_json",
        "event_id, room_id, internal_metadata, json, format_version",
        ((e.event_id, e.room, "{}", e.json, FORMAT) for e in events),
    )
    bulk.add("event_to_state_groups", "event_id, state_group", ((e.event_id, group) for e, group in zip(events, groups)))
