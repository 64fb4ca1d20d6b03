# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A Matrix client reduced to what it believes: /sync answers of one device go in, a state comes out.

It applies an answer the way element-web and the SDKs do, and refuses what would break them: an event
that a room's timeline already holds, a sender whose member event the client was never given (lazy
loading promises it), a to-device message twice, sections or types that no client expects. A limited
timeline begins a new piece; the gap before it is closed later with /messages from `prev_batch`, and
what is found there must join up with the piece before, without repeating any event of it.

What is kept is what a client keeps; `snapshot` shows it without what depends on when the client asked.
Nothing here knows which server an answer came from.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Callable, Iterable, Iterator

Json = dict[str, Any]
# Pages backwards: (room, from or None for the end) -> the answer of /messages.
Pager = Callable[[str, "str | None"], Json]

_MEMBER = "m.room.member"
_TOP = {
    "next_batch",
    "account_data",
    "presence",
    "to_device",
    "device_lists",
    "device_one_time_keys_count",
    "device_unused_fallback_key_types",
    "rooms",
}
_JOIN = {
    "timeline",
    "state",
    "org.matrix.msc4222.state_after",
    "account_data",
    "ephemeral",
    "unread_notifications",
    "unread_thread_notifications",
    "summary",
}
_LEAVE = {"timeline", "state", "org.matrix.msc4222.state_after", "account_data"}
_STATE_AFTER = "org.matrix.msc4222.state_after"
_PAGES_MAX = 400


class ModelError(AssertionError):
    """An answer that a client cannot be right with."""


@dataclasses.dataclass
class Piece:
    """Events without a gap between them, and the token from which older ones are asked for."""

    events: list[Json]
    prev_batch: str | None
    closed: bool = False  # nothing is missing between this piece and the one before (or the room's beginning)
    island: bool = False  # shown to who was not in the room: others may lie between


@dataclasses.dataclass
class Room:
    """What the client knows of a room."""

    room_id: str
    section: str = ""  # join, leave, invite, knock
    pieces: list[Piece] = dataclasses.field(default_factory=list)
    known: dict[str, Json] = dataclasses.field(default_factory=dict)  # events of the timeline by id
    state: dict[tuple[str, str], Json] = dataclasses.field(default_factory=dict)
    summary: Json = dataclasses.field(default_factory=dict)
    unread: Json = dataclasses.field(default_factory=dict)
    threads: Json = dataclasses.field(default_factory=dict)
    # (type, user, thread) -> (event, ts)
    receipts: dict[tuple[str, str, str], tuple[str, int]] = dataclasses.field(default_factory=dict)
    typing: list[str] = dataclasses.field(default_factory=list)
    account_data: dict[str, Json] = dataclasses.field(default_factory=dict)
    stripped: list[Json] = dataclasses.field(default_factory=list)  # of an invite or a knock
    gaps: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # closed ones: events before and after
    joined_later: bool = False  # joined (again) while the client was syncing
    named: bool = False  # had a name or an alias at some time: summaries then come without heroes

    @property
    def timeline(self) -> list[Json]:
        """All events, oldest first."""
        return [event for piece in self.pieces for event in piece.events]


class ClientModel:
    """One device."""

    def __init__(self, user_id: str, device_id: str, *, state_after: bool = False, heroes: bool = True) -> None:
        """`heroes`: their member events must be known."""
        self.user_id, self.device_id = user_id, device_id
        self.state_after, self.heroes = state_after, heroes
        self.next_batch: str | None = None
        self.applied = 0
        self.rooms: dict[str, Room] = {}
        self.account_data: dict[str, Json] = {}
        self.presence: dict[str, Json] = {}
        self.to_device: list[Json] = []
        self.outdated: set[str] = set()  # users whose devices must be asked for
        self.untracked: set[str] = set()  # users who were told to have left
        self.key_counts: Json = {}
        self.fallback_types: list[str] = []
        self._where = ""

    # -- applying --------------------------------------------------------------------------------

    def apply(self, body: Any, where: str = "") -> None:
        """Take in one answer; `where` names it in complaints."""
        self._where = where or f"answer {self.applied + 1}"
        body = self._dict(body, "the answer")
        self._keys(body, _TOP, "the answer")
        token = body.get("next_batch")
        if not isinstance(token, str) or not token:
            self._fail(f"next_batch is {token!r}")
        self._apply_user(body)
        rooms = self._dict(body.get("rooms", {}), "rooms")
        self._keys(rooms, {"join", "leave", "invite", "knock"}, "rooms")
        for section in ("leave", "join", "invite", "knock"):
            for room_id, entry in self._dict(rooms.get(section, {}), f"rooms.{section}").items():
                self._apply_room(section, room_id, self._dict(entry, f"{section} {room_id}"))
        both = rooms.get("join", {}).keys() & rooms.get("leave", {}).keys()
        if both:
            self._fail(f"rooms are joined and left at once: {sorted(both)}")
        self.next_batch = token
        self.applied += 1

    def _apply_user(self, body: Json) -> None:
        for event in self._events(body, "account_data"):
            self.account_data[event["type"]] = event["content"]
        for event in self._events(body, "presence"):
            self.presence[event["sender"]] = event["content"]
        for message in self._events(body, "to_device"):
            if message in self.to_device:
                self._fail(f"to-device message twice: {_show(message)}")
            self.to_device.append(message)
        lists = self._dict(body.get("device_lists", {}), "device_lists")
        self._keys(lists, {"changed", "left"}, "device_lists")
        for key in ("changed", "left"):
            users = lists.get(key, [])
            if len(set(users)) != len(users):
                self._fail(f"device_lists.{key} repeats a user: {users}")
        self.outdated |= set(lists.get("changed", []))
        gone = set(lists.get("left", [])) - set(lists.get("changed", []))
        self.untracked = (self.untracked | gone) - set(lists.get("changed", []))
        self.outdated -= gone
        if "device_one_time_keys_count" not in body or "device_unused_fallback_key_types" not in body:
            self._fail("key counts are missing")
        self.key_counts = body["device_one_time_keys_count"]
        self.fallback_types = sorted(body["device_unused_fallback_key_types"])

    def _apply_room(self, section: str, room_id: str, entry: Json) -> None:
        room = self.rooms.setdefault(room_id, Room(room_id))
        if section in ("invite", "knock"):
            self._keys(entry, {f"{section}_state"}, f"{section} {room_id}")
            room.section = section
            room.stripped = self._events(entry, f"{section}_state")
            if not any(self._is_own(event, section) for event in room.stripped):
                self._fail(f"{section} {room_id}: the own {section} is not in the stripped state")
            return
        self._keys(entry, _JOIN if section == "join" else _LEAVE, f"{section} {room_id}")
        if section == "join" and room.section != "join" and self.applied:
            room.joined_later = True
        self._apply_timeline(room, section, entry)
        room.section, room.stripped = section, []
        for event in self._events(entry, "account_data"):
            room.account_data[event["type"]] = event["content"]
        if section == "join":
            self._apply_live(room, entry)
        else:
            room.typing = []

    def _apply_live(self, room: Room, entry: Json) -> None:
        """Ephemeral events, counts, summary of a joined room."""
        for event in self._events(entry, "ephemeral"):
            if event["type"] == "m.typing":
                room.typing = sorted(event["content"]["user_ids"])
            elif event["type"] == "m.receipt":
                self._apply_receipts(room, event["content"])
            else:
                self._fail(f"{room.room_id}: ephemeral event of type {event['type']}")
        room.unread = self._dict(entry.get("unread_notifications"), f"{room.room_id} unread_notifications")
        room.threads = self._dict(entry.get("unread_thread_notifications", {}), f"{room.room_id} thread counts")
        for counts in [room.unread, *room.threads.values()]:
            if counts.keys() != {"notification_count", "highlight_count"} or min(counts.values()) < 0:
                self._fail(f"{room.room_id}: unread counts are {counts}")
        room.summary.update(entry.get("summary") or {})
        for hero in (entry.get("summary") or {}).get("m.heroes", []) if self.heroes else []:
            if (_MEMBER, hero) not in room.state and not self._in_timeline(entry, hero):
                self._fail(f"{room.room_id}: the member event of the hero {hero} is not known")

    def _in_timeline(self, entry: Json, hero: str) -> bool:
        """Tell whether state_after may lack a hero: Synapse gives no member event twice in one answer."""
        return self.state_after and any(
            event["type"] == _MEMBER and event.get("state_key") == hero for event in entry["timeline"]["events"]
        )

    def _apply_receipts(self, room: Room, content: Json) -> None:
        for event_id, kinds in content.items():
            for kind, users in kinds.items():
                for user, data in users.items():
                    if kind == "m.read.private" and user != self.user_id:
                        self._fail(f"{room.room_id}: a private receipt of {user}")
                    room.receipts[(kind, user, data.get("thread_id", ""))] = (event_id, data["ts"])

    # -- timelines -------------------------------------------------------------------------------

    def _apply_timeline(self, room: Room, section: str, entry: Json) -> None:
        timeline = self._dict(entry.get("timeline"), f"{room.room_id} timeline")
        self._keys(timeline, {"events", "prev_batch", "limited"}, f"{room.room_id} timeline")
        limited, prev_batch = timeline.get("limited"), timeline.get("prev_batch")
        if not isinstance(limited, bool) or not isinstance(prev_batch, str):
            self._fail(f"{room.room_id}: limited {limited!r}, prev_batch {prev_batch!r}")
        key = _STATE_AFTER if self.state_after else "state"
        if key not in entry or (_STATE_AFTER in entry and "state" in entry):
            self._fail(f"{room.room_id}: state sections are {sorted(entry.keys() & {'state', _STATE_AFTER})}")
        events, state = self._events(entry["timeline"], None), self._events(entry, key)
        rejoined = self._rejoined(room, [*state, *events]) or room.section != section
        self._apply_state(room, state)
        if "join" in (section, room.section):
            self._check_senders(room, events)
        for event in events:
            if "state_key" in event:
                room.named |= event["type"] in ("m.room.name", "m.room.canonical_alias")
                if not self.state_after:
                    room.state[(event["type"], event["state_key"])] = event
        if section == "join":
            self._drop_islands(room)
        self._append(room, events, prev_batch, limited, rejoined)
        if section == "leave" and room.section != "join" and events:
            room.pieces[-1].island = True

    def _rejoined(self, room: Room, events: Iterable[Json]) -> bool:
        """Tell whether one's own membership event is another than the one known."""
        known = room.state.get((_MEMBER, self.user_id), {}).get("event_id")
        return any(self._is_own(event, "join") and event.get("event_id") != known for event in events)

    def _apply_state(self, room: Room, state: list[Json]) -> None:
        seen: set[tuple[str, str]] = set()
        for event in state:
            if "state_key" not in event:
                self._fail(f"{room.room_id}: {event.get('event_id')} in state has no state key")
            key = (event["type"], event["state_key"])
            if key in seen:
                self._fail(f"{room.room_id}: two state events for {key}")
            seen.add(key)
            room.named |= event["type"] in ("m.room.name", "m.room.canonical_alias")
            room.state[key] = event

    def _check_senders(self, room: Room, events: list[Json]) -> None:
        """For every event shown to a member its sender's member event is known when the answer has been read.

        Mostly it comes before. But where history is hidden from the reader, the one that counted may be hidden
        too, and a later one in the timeline is all that Synapse gives.
        """
        here = {event["state_key"] for event in events if event["type"] == _MEMBER and "state_key" in event}
        for event in events:
            if event["sender"] not in here and (_MEMBER, event["sender"]) not in room.state:
                self._fail(
                    f"{room.room_id}: the member event of {event['sender']}, who sent {event['event_id']},"
                    f" a {event['type']}, is not known"
                )

    def _append(self, room: Room, events: list[Json], prev_batch: str, limited: bool, rejoined: bool) -> None:
        ids = [event["event_id"] for event in events]
        if len(set(ids)) != len(ids):
            self._fail(f"{room.room_id}: an event twice in one timeline: {ids}")
        old = [event_id for event_id in ids if event_id in room.known]
        if old and not (limited and rejoined):
            self._fail(f"{room.room_id}: the timeline already holds {old}")
        if old:
            self._overlap(room, events, old, prev_batch)
        elif limited or not room.pieces or room.pieces[-1].island:
            if events or not room.pieces:
                room.pieces.append(Piece(events, prev_batch))
        else:
            room.pieces[-1].events += events
        room.known.update((event["event_id"], event) for event in events)

    def _overlap(self, room: Room, events: list[Json], old: list[str], prev_batch: str) -> None:
        """Whoever has joined again is shown events again: the end of what is known, or all of it with older ones."""
        piece = room.pieces[-1]
        ids, order = [event["event_id"] for event in events], [event["event_id"] for event in piece.events]
        first = ids.index(old[0])
        if ids[first : first + len(old)] != old or order[-len(old) :] != old:
            self._fail(f"{room.room_id}: of the events {order} come again {ids}")
        if first:
            if len(old) != len(order) or piece.closed:
                self._fail(f"{room.room_id}: {ids[:first]} were missing before {old[0]}")
            piece.events, piece.prev_batch = events[:first] + piece.events, prev_batch
        piece.events += events[first + len(old) :]

    def _drop_islands(self, room: Room) -> None:
        """Whoever joins may see what came before and between the events that were shown from outside."""
        for piece in room.pieces:
            for event in piece.events if piece.island else []:
                del room.known[event["event_id"]]
        room.pieces = [piece for piece in room.pieces if not piece.island]

    # -- closing gaps ----------------------------------------------------------------------------

    def fill(self, room_id: str, pager: Pager, forked: bool = False) -> int:
        """Close every gap of a room with /messages; return how many events that brought.

        Where history has forks, pages and timelines are in different orders: a page may meet any known event.
        """
        room = self.rooms[room_id]
        self._where = f"back-filling {room_id}"
        found = 0
        for index in range(len(room.pieces) - 1, -1, -1):
            if not room.pieces[index].closed and not room.pieces[index].island:
                found += self._fill_before(room, index, pager, forked)
        return found

    def _fill_before(self, room: Room, index: int, pager: Pager, forked: bool) -> int:
        """Page backwards from the beginning of a piece to the end of the one before."""
        piece = room.pieces[index]
        before = [event["event_id"] for older in room.pieces[:index] for event in older.events]
        own = [event["event_id"] for event in piece.events]
        later = set(room.known) - set(before) - set(own)
        brought: list[Json] = []
        for event in self._page(room, piece.prev_batch, pager):
            event_id = event["event_id"]
            if event_id in own:
                # Synapse's prev_batch of a timeline that was not cut is its end: what the answer held comes again.
                if brought and not forked:
                    self._fail(f"between events of one piece there are {[other['event_id'] for other in brought]}")
                continue
            if event_id in before:
                if event_id != before[-1] and not forked:
                    self._fail(f"joins up with {event_id}, but the client's last event before the gap is {before[-1]}")
                break
            if event_id in later or event_id in {other["event_id"] for other in brought}:
                self._fail(f"{event_id} comes twice")
            brought.append(event)
        else:
            if before:
                self._fail(f"the beginning of the room was reached without meeting {before[-1]}")
        if before and own:
            room.gaps.append((before[-1], own[0]))
        brought.reverse()
        piece.events[:0] = brought
        piece.closed = True
        room.known.update((event["event_id"], event) for event in brought)
        return len(brought)

    def _page(self, room: Room, token: str | None, pager: Pager) -> Iterator[Json]:
        for _ in range(_PAGES_MAX):
            page = pager(room.room_id, token)
            yield from page.get("chunk", [])
            following = page.get("end")
            if following is None:
                return
            if following == token:
                self._fail(f"/messages goes on from where it was: {token}")
            token = following
        self._fail(f"{room.room_id}: no end of pages")

    # -- showing ---------------------------------------------------------------------------------

    def snapshot(self) -> Json:
        """Return what the client believes, in a form in which two clients can be compared.

        Left out is what depends on when a client asked: events' unsigned parts, ages, a threaded receipt of an
        event that has an unthreaded one too (Synapse shows both only to who asks between them), heroes of a room
        that had a name at some time, and what a joiner does not get when it was set before the join.
        """
        return {
            "rooms": {room_id: self._show_room(room) for room_id, room in self.rooms.items()},
            "account_data": self.account_data,
            "presence": {
                user: {key: content[key] for key in ("presence", "status_msg") if key in content}
                for user, content in self.presence.items()
                if content.get("presence") != "offline"
            },
            "to_device": self.to_device,
        }

    def _show_room(self, room: Room) -> Json:
        shown: Json = {"section": room.section, "timeline": [_name(event) for event in room.timeline]}
        shown["state"] = {f"{kind} {key}": event["event_id"] for (kind, key), event in room.state.items()}
        if room.stripped:
            shown["stripped"] = sorted(
                [event["type"], event.get("state_key", ""), event["sender"], event["content"]] for event in room.stripped
            )
        if room.section == "join":
            dropped = {"m.heroes"} if room.named else set()
            shown["summary"] = {key: value for key, value in room.summary.items() if key not in dropped}
            shown["unread"], shown["threads"] = room.unread, room.threads
            if not room.joined_later:
                plain = {(user, event_id) for (_, user, thread), (event_id, _) in room.receipts.items() if not thread}
                shown["receipts"] = {
                    " ".join(key): list(value)
                    for key, value in room.receipts.items()
                    if not key[2] or (key[1], value[0]) not in plain
                }
                shown["typing"], shown["account_data"] = room.typing, room.account_data
        return shown

    # -- checks of shape -------------------------------------------------------------------------

    def _fail(self, text: str) -> None:
        raise ModelError(f"{self.user_id} {self.device_id}, {self._where}: {text}")

    def _dict(self, value: Any, what: str) -> Json:
        if not isinstance(value, dict):
            self._fail(f"{what} is no object: {_show(value)}")
        return dict(value)

    def _keys(self, value: Json, known: set[str], what: str) -> None:
        unknown = value.keys() - known
        if unknown:
            self._fail(f"{what} has unknown members {sorted(unknown)}")

    def _events(self, holder: Json, key: str | None) -> list[Json]:
        """Return the events of a section, each of which has a type and a content."""
        section = holder if key is None else holder.get(key, {"events": []})
        events = section.get("events") if isinstance(section, dict) else None
        if not isinstance(events, list):
            self._fail(f"{key} has no list of events: {_show(section)}")
        for event in events:
            if not isinstance(event, dict) or not isinstance(event.get("type"), str):
                self._fail(f"an event without type: {_show(event)}")
            if not isinstance(event.get("content"), dict):
                self._fail(f"an event without content: {_show(event)}")
        return list(events)

    def _is_own(self, event: Json, membership: str) -> bool:
        return (
            event.get("type") == _MEMBER
            and event.get("state_key") == self.user_id
            and event["content"].get("membership") == membership
        )


def _name(event: Json) -> str:
    """Name an event by what does not change when it is redacted."""
    return " ".join(str(event[key]) for key in ("event_id", "type", "sender", "state_key") if key in event)


def _show(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 300 else text[:300] + "…"
