# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""What Synapse says of a user's rooms by other ways than /sync, and where a client model contradicts it."""

from __future__ import annotations

import json
from typing import Any, Iterator
from urllib.parse import quote

from stack.matrix import Client, MatrixError
from support.world import World

from oracle.client_model import ClientModel, Room

Json = dict[str, Any]

_SECTIONS = {"join": "join", "leave": "leave", "ban": "leave", "invite": "invite", "knock": "knock"}

_MEMBERSHIPS = """
SELECT json_object_agg(m.room_id, json_build_array(m.membership, f.forgotten, e.sender, f.joined,
                         e.stream_ordering))
  FROM local_current_membership m
  JOIN events e ON e.event_id = m.event_id
  JOIN (SELECT room_id, bool_and(forgotten = 1) AS forgotten, bool_or(membership = 'join') AS joined
          FROM room_memberships WHERE user_id = '{user}' GROUP BY 1) f ON f.room_id = m.room_id
 WHERE m.user_id = '{user}'
"""
_FORKED = """
SELECT json_agg(DISTINCT b.room_id)
  FROM events b
  JOIN (SELECT prev_event_id FROM event_edges GROUP BY 1 HAVING count(*) > 1) f ON f.prev_event_id = b.event_id
  JOIN local_current_membership m ON m.room_id = b.room_id AND m.user_id = '{user}'
"""
_ORDER = """
SELECT json_object_agg(event_id, json_build_array(topological_ordering, stream_ordering))
  FROM events WHERE room_id = '{room}'
"""


def neighbours(client: Client) -> set[str]:
    """Return everybody who is joined to a room of the client's user, the user as well."""
    found = {client.user_id}
    for room in client.call("GET", "/joined_rooms")["joined_rooms"]:
        found |= client.call("GET", f"/rooms/{quote(room)}/joined_members")["joined"].keys()
    return found


def level_heroes(heroes: set[str], one: Json, other: Json) -> None:
    """Drop the member events of heroes that only one of two rooms has, of clients that want redundant members.

    Even for such Synapse remembers to which device it sent a hero before, and a client that begins anew lacks it.
    """
    for hero in heroes:
        key = f"m.room.member {hero}"
        if (key in one["state"]) != (key in other["state"]):
            one["state"].pop(key, None)
            other["state"].pop(key, None)


def device_keys(client: Client, users: set[str]) -> Json:
    """Return the device keys of users; those who have none have {}."""
    answer = client.call("POST", "/keys/query", {"device_keys": {user: [] for user in sorted(users)}})
    return {user: answer["device_keys"].get(user, {}) for user in users}


class Facts:
    """Everything that one user may know now."""

    def __init__(self, world: World, client: Client, ignored: set[str]) -> None:
        """`ignored` are users who were ignored by anybody at any time."""
        self.world, self.client, self.ignored = world, client, ignored
        rows = self._query(_MEMBERSHIPS, user=client.user_id) or {}
        self.memberships = {room: _SECTIONS[row[0]] for room, row in rows.items()}
        self.banned = {room for room, row in rows.items() if row[0] == "ban"}
        self.forgotten = {room for room, row in rows.items() if row[1]}
        self._joined_once = {room for room, row in rows.items() if row[3]}
        self._left_at = {room: row[4] for room, row in rows.items() if _SECTIONS[row[0]] == "leave"}
        self.invited_by = {room: row[2] for room, row in rows.items()}
        self.forked: set[str] = set(self._query(_FORKED, user=client.user_id) or [])
        self.neighbours = neighbours(client)
        self._messages: dict[str, list[Json]] = {}

    @property
    def readable(self) -> set[str]:
        """Rooms whose events the user may page through."""
        # Synapse answers those who were banned as if they had never been there (api/auth/base.py, check_user_in_room).
        rooms = {room for room, what in self.memberships.items() if what in ("join", "leave")}
        return (rooms & self._joined_once) - self.forgotten - self.banned

    def _query(self, query: str, **values: str) -> Any:
        text = query.format(**{name: value.replace("'", "''") for name, value in values.items()})
        return json.loads(self.world.deployment.postgres.psql(text).strip() or "null")

    def messages(self, room: str) -> list[str]:
        """Return the ids of all events that /messages shows, oldest first."""
        if room not in self._messages:
            chunks: list[Json] = []
            token: str | None = ""
            while token is not None:
                start = f"&from={token}" if token else ""
                page = self.client.call("GET", f"/rooms/{quote(room)}/messages?dir=b&limit=100{start}")
                chunks += page["chunk"]
                token = page.get("end")
            self._messages[room] = chunks[::-1]
        return [event["event_id"] for event in self._messages[room] if self._counts(event)]

    def _counts(self, event: Json) -> bool:
        """Events of users who are ignored by turns are shown by turns."""
        return event["sender"] not in self.ignored or "state_key" in event

    # -- comparing twins -------------------------------------------------------------------------

    def level(self, room_id: str, one: Json, other: Json) -> None:
        """Take out of two rooms of snapshots what right servers may show differently to each."""
        for key in ("receipts", "typing", "account_data"):
            if key not in one or key not in other:
                one.pop(key, None)
                other.pop(key, None)
        if room_id in self._left_at:
            self._level_late_heroes(room_id, one["state"], other["state"])
        for side, twin in ((one, other), (other, one)):
            side["timeline"] = [
                text
                for text in side["timeline"]
                if not self._of_ignored(text) and not (text not in twin["timeline"] and self._by_chance(room_id, text, side))
            ]
        if sorted(one["timeline"]) == sorted(other["timeline"]):
            del one["timeline"], other["timeline"]  # each one's order is compared with the stored one

    def _level_late_heroes(self, room_id: str, one: Json, other: Json) -> None:
        """Drop members who came after the user had left, where only one was told: heroes of today, which Synapse shows to
        clients that load members lazily, and Chappe does not (src/README.md, Decisions).
        """
        order = self._query(_ORDER, room=room_id) or {}
        for side, twin in ((one, other), (other, one)):
            for key in [key for key in side if key.startswith("m.room.member ") and key not in twin]:
                if order.get(side[key], [0, 0])[1] > self._left_at[room_id]:
                    del side[key]

    def _by_chance(self, room_id: str, text: str, side: Json) -> bool:
        """A timeline of /sync shows the current state that stands in it even where history is hidden, /messages does not
        (Synapse 1.157 handlers/sync.py, _load_filtered_recents). Whether it stood in it depends on when one asked.
        """
        event_id = text.split(" ")[0]
        return room_id in self.readable and event_id in side["state"].values() and event_id not in self.messages(room_id)

    def _of_ignored(self, text: str) -> bool:
        parts = text.split(" ")
        return len(parts) == 3 and parts[2] in self.ignored

    # -- comparing with the truth ----------------------------------------------------------------

    def contradictions(self, model: ClientModel, lazy: bool, keys: Json) -> Iterator[str]:
        """Yield what a client believes that is not so."""
        for room_id, section in self.memberships.items():
            room = model.rooms.get(room_id, Room(room_id))
            if room_id in self.forgotten or (section == "invite" and self.invited_by[room_id] in self.ignored):
                continue
            if room.section != section and not (section == "leave" and not room.section):
                yield f"{room_id}: believed {room.section or 'unknown'}, is {section}"
            elif section == "join":
                yield from self._state(room, lazy, model.state_after)
                yield from self._summary(room)
            if room_id in self.readable and room.pieces:
                yield from self._timeline(room)
        yield from self._account_data(model)
        fresh = device_keys(self.client, self.neighbours)
        for user in sorted(self.neighbours):
            if keys.get(user, "unknown") != fresh[user]:
                yield f"devices of {user} are believed {keys.get(user, 'unknown')}, are {fresh[user]}"

    def _state(self, room: Room, lazy: bool, state_after: bool) -> Iterator[str]:
        if room.room_id in self.forked and not state_after:
            return  # the reason for MSC4222: what state resolution decides is not in any timeline
        state = self.client.call("GET", f"/rooms/{quote(room.room_id)}/state")
        there = {(event["type"], event["state_key"]): event["event_id"] for event in state}
        here = {key: event["event_id"] for key, event in room.state.items()}
        for key in sorted(there.keys() | here.keys()):
            if there.get(key) != here.get(key) and not (lazy and key[0] == "m.room.member" and key not in here):
                yield f"{room.room_id}: state of {key} is believed {here.get(key)}, is {there.get(key)}"

    def _summary(self, room: Room) -> Iterator[str]:
        believed = room.summary.get("m.joined_member_count")
        if believed is not None:
            joined = len(self.client.call("GET", f"/rooms/{quote(room.room_id)}/joined_members")["joined"])
            if believed != joined:
                yield f"{room.room_id}: {believed} are believed joined, {joined} are"

    def _timeline(self, room: Room) -> Iterator[str]:
        if any(piece.island for piece in room.pieces):
            return
        if any(not piece.closed for piece in room.pieces):
            yield f"{room.room_id}: a gap is open"
        there = self.messages(room.room_id)
        here = [event["event_id"] for event in room.timeline if self._counts(event)]
        order = self._query(_ORDER, room=room.room_id)
        gaps = [[order[event_id][1] for event_id in gap] for gap in room.gaps if room.room_id in self.forked]
        for event in self._messages[room.room_id]:
            event_id = event["event_id"]
            # In a fork an event of the gap may stand, in pages, beyond the first one that is known.
            if event_id in there and event_id not in here and not _within(order[event_id][1], gaps):
                yield f"{room.room_id}: {event_id} is missing, a {event['type']} of {event['sender']} at {order[event_id]}"
        for before, after in zip(here, here[1:]):
            if order[before][0] > order[after][0] and order[before][1] > order[after][1]:
                yield f"{room.room_id}: {after} was shown after {before}, but is older"

    def _account_data(self, model: ClientModel) -> Iterator[str]:
        for kind, content in model.account_data.items():
            try:
                where = "/pushrules/" if kind == "m.push_rules" else f"/user/{quote(model.user_id)}/account_data/{quote(kind)}"
                there = self.client.call("GET", where)
            except MatrixError as error:
                there = error.errcode
            if there != content:
                yield f"account data {kind} is believed {json.dumps(content)}, is {json.dumps(there)}"


def _within(position: int, gaps: list[list[int]]) -> bool:
    return any(start < position < end for start, end in gaps)
