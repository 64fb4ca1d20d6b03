# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A context for generated scripts: many questions, mixed filters, nothing known in advance.

Beyond what `Context` does:

* It waits for the servers only when something was written since, over connections that are kept.
* Whatever `level_choices` says Synapse leaves to chance is left out.
* Lazily loaded members are compared with regard to what the device was told before (lazy.py).
* Events are compared as text: order of keys, forms of numbers and of escaped characters (exact.py).
* What somebody of a second homeserver does is waited for a little; it may still arrive between two questions, which
  are then asked again.
"""

from __future__ import annotations

import concurrent.futures
import json
import threading
import time
from typing import Any, Callable
from urllib.parse import quote

from stack.matrix import Client, Reply

from oracle.context import _ALWAYS, Context, Device, Mismatch
from oracle.context import _headers as shown_headers
from oracle.differ import Difference, differences
from oracle.exact import inexact, parse
from oracle.lazy import Memory, level_lazy, positions
from oracle.normal import level_choices, level_left, normalise, shows_more
from oracle.quirks import explained

Json = dict[str, Any]
_PARK_SECONDS = 0.15
_FAR_SECONDS = 3.0


class GeneratedContext(Context):
    """One run of one script."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.choices = True
        # Older releases write an event's keys in the order in which it was stored, here they are always sorted.
        self.ordered = self.world.synapse_from("1.157")
        self.forgiven = 0  # answers in which something was left out as being up to chance
        self.stored: dict[tuple[str, str], Json] = {}  # filters by user and id
        self._by_sender = False
        self._fields = False
        self._since: str | None = None
        self._settled = False
        self._clients: dict[tuple[int, str, str], Client] = {}
        self._polls = concurrent.futures.ThreadPoolExecutor(32)
        self._memories: dict[str, Memory] = {}

    # -- asking ----------------------------------------------------------------------------------

    def stir(self) -> None:
        """Something is about to be written."""
        self._settled = False

    def settle(self) -> None:
        """Wait for the servers, unless they stood still since the last time."""
        if not self._settled:
            if self.world.settings.federation:
                self.federation.digested()
            super().settle()
            self._settled = True

    # -- the second homeserver -------------------------------------------------------------------

    def found_at(self, action: str) -> str:
        """Return the query that tells where a room may be found, for who joins or knocks."""
        if not self.world.settings.federation or action not in ("join", "knock"):
            return ""
        names = (self.world.settings.server_name, self.federation.remote.server_name)
        return "?" + "&".join(f"server_name={quote(name)}" for name in names)

    def arrive(self, device: Device, event_id: str | None) -> None:
        """Wait a while for an event that somebody of the second homeserver has sent; it need not be for us."""
        if event_id is not None and self._is_far(device):
            self._wait(f"SELECT count(*) FROM events WHERE event_id = '{event_id}' AND NOT outlier", "1")

    def whole(self, room_id: str) -> None:
        """Wait a while for the state of a room that somebody has joined."""
        if self.world.settings.federation:
            self._wait(f"SELECT count(*) FROM partial_state_rooms WHERE room_id = '{room_id}'", "0")

    def _is_far(self, device: Device) -> bool:
        return self.world.settings.federation and device.user_id.endswith(f":{self.federation.remote.server_name}")

    def _wait(self, statement: str, wanted: str) -> None:
        limit = time.monotonic() + _FAR_SECONDS
        while self.world.deployment.postgres.psql(statement).strip() != wanted and time.monotonic() < limit:
            time.sleep(0.05)

    # --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the kept connections."""
        self._polls.shutdown()
        for client in self._clients.values():
            client.link.close()
        self._clients.clear()

    def _kept(self, url: str, token: str) -> Client:
        key = (threading.get_ident(), url, token)
        if key not in self._clients:
            self._clients[key] = Client(url, "", token)
        return self._clients[key]

    def _position(self, url: str) -> str:
        observer = self._kept(url, str(self._observer.token))
        return str(observer.sync(timeout=0, set_presence="offline")["next_batch"])

    def _ask_of(self, device: Device, query: Json) -> None:
        """Note what the comparison must know of a question."""
        self._since = query.get("since")
        chosen = query.get("filter") or {}
        chosen = self.stored.get((device.user_id, chosen), {}) if isinstance(chosen, str) else chosen
        self._fields = "event_fields" in chosen
        self._by_sender = not {"senders", "not_senders"}.isdisjoint(chosen.get("room", {}).get("state", {}))

    def _one(self, url: str, device: Device, query: Json) -> Reply:
        self._ask_of(device, query)
        if threading.current_thread() is not threading.main_thread():
            return super()._one(url, device, query)
        return self._kept(url, str(device.do.token)).sync_raw(**query)

    def poll(self, asked: list[tuple[Device, Json]], step: str, action: Callable[[], object]) -> int:
        """Park the same long polls at both servers, act, compare what each was woken with; return how many were parked.

        A device that is told something by every answer (its filter may do that) cannot wait. When the action does not
        concern a device, both of its polls end empty at their timeout.
        """
        ready = [
            (device, {"set_presence": "offline", **query})
            for device, query in asked
            if self._up_to_date(device, query, step)
        ]
        for device, query in ready:
            query["since"] = device.since
        urls = (self.reference_url, self.subject_url)
        begun = time.monotonic()
        polls = [[self._polls.submit(self._one, url, device, query) for url in urls] for device, query in ready]
        time.sleep(_PARK_SECONDS * (1 + len(ready) / 4))
        for (device, _), pair in zip(ready, polls):
            for who, poll in zip(("reference", "subject"), pair):
                if poll.done():
                    raise Mismatch(f"{self.name}, {step}: the {who} did not park the poll: {poll.result().raw[:600]!r}")
        action()
        acted = time.monotonic() - begun
        for (device, query), pair in zip(ready, polls):
            replies = [poll.result() for poll in pair]
            self._ask_of(device, query)
            found = self._compare(device, *replies)
            if all((reply.body or {}).keys() <= _ALWAYS for reply in replies):
                # Nothing came: the token is of when the server last looked, which others' doings may make it do.
                found = [difference for difference in found if not difference.path.startswith("next_batch.")]
                if time.monotonic() < begun + query["timeout"] / 1000 - 0.1:
                    found.append(Difference("(empty answers before the timeout)", None, None))
            if acted > query["timeout"] / 1000 - 0.5:
                found = []  # on a machine as slow as that one poll may have ended before, and the other not
            title = step if len(ready) == 1 else f"{step}, {device.user_id} {device.do.device_id}"
            bodies = self._judge(title, query, *replies, found)
            device.since = bodies[self.steps % 2].get("next_batch", device.since)
        return len(ready)

    def _up_to_date(self, device: Device, query: Json, step: str) -> bool:
        """Ask until there is nothing new; tell whether it came to that."""
        for _ in range(4):
            answers = self.ask(device, f"{step}: before", **{**query, "timeout": 0, "since": device.since})
            if "next_batch" not in answers[0]:
                return False
            device.since = answers[1]["next_batch"]
            if answers[0].keys() <= _ALWAYS:
                return True
        return False

    # -- comparing -------------------------------------------------------------------------------

    def _compare(self, device: Device, reference: Reply, subject: Reply) -> list[Difference]:
        if reference.status != 200 or subject.status != 200:
            return super()._compare(device, reference, subject)
        found = list(differences(_head(reference), _head(subject)))
        bodies = normalise(parse(reference.raw)), normalise(parse(subject.raw))
        name = f"{device.user_id} {device.do.device_id}"
        memory = self._memories.setdefault(name, Memory(device.user_id, not self.world.synapse_from("1.163")))
        before = [json.dumps(body) for body in bodies]
        memory.ask(self._since)
        loose = level_lazy(memory, *bodies)
        self._level_previous(*bodies)
        if self._by_sender:
            self._level_by_sender(*bodies)
        level_left(*bodies)
        level_choices(*bodies)
        if self._fields and self._since:
            loose |= self._came_and_went(self._since, *bodies)
        _level_devices(loose, *bodies)
        self.forgiven += any(text != json.dumps(body) for text, body in zip(before, bodies))
        every = list(differences(*bodies))
        inside = [d for d in every if not explained(self.world, device.user_id, d)]
        if not every:
            inside = inexact(reference.raw, subject.raw, *bodies, ordered=self.ordered)
        return found + inside

    def _level_by_sender(self, *bodies: Json) -> None:
        """Drop state that only one side has because it chose another event of a key, whose sender is filtered out.

        Where the ends of a timeline disagree on a key Synapse sends one of both events (level_choices), before the
        filter. So the event must not be the only one of its key, and the other's sender must be another one.
        """
        rooms = [body.get("rooms", {}).get("join", {}) for body in bodies]
        for room_id in rooms[0].keys() & rooms[1].keys():
            parts = [side[room_id].get("state", {}).get("events", []) for side in rooms]
            keys = [{(event.get("type"), event.get("state_key")) for event in part} for part in parts]
            for part, others in zip(parts, reversed(keys)):
                for event in [event for event in part if (event.get("type"), event.get("state_key")) not in others]:
                    if "event_id" in event and self._has_rival(room_id, event["event_id"]):
                        part.remove(event)

    def _level_previous(self, *bodies: Json) -> None:
        """Drop previous contents that were redacted, where Synapse still shows more of them.

        It keeps the previous content with the cached event, where the redaction does not reach it
        (1.157 storage/databases/main/events_worker.py, get_events_as_list).
        """
        for section in ("join", "leave"):
            rooms = [body.get("rooms", {}).get(section, {}) for body in bodies]
            for room_id in rooms[0].keys() & rooms[1].keys():
                events = [side[room_id].get("timeline", {}).get("events", []) for side in rooms]
                for pair in zip(*events):
                    unsigned = [event.get("unsigned") or {} for event in pair]
                    if shows_more(*unsigned) and self._is_redacted(unsigned[1]["replaces_state"]):
                        for side in unsigned:
                            side["prev_content"] = "<redacted>"

    def _came_and_went(self, since: str, *bodies: Json) -> set[str]:
        """Return who came to one joined room and left another since a token (level_choices), for answers that hide it."""
        rooms = {room_id for body in bodies for room_id in body.get("rooms", {}).get("join", {})}
        names = ", ".join(f"'{room_id}'" for room_id in sorted(rooms)) or "NULL"
        found = self.world.deployment.postgres.psql(
            "SELECT m.user_id FROM room_memberships m JOIN events e ON e.event_id = m.event_id"
            f" WHERE m.room_id IN ({names}) AND e.stream_ordering > {positions(since)[0]} GROUP BY m.user_id"
            " HAVING count(DISTINCT m.membership IN ('join', 'invite', 'knock')) > 1"
        )
        return set(found.split())

    def _is_redacted(self, event_id: str) -> bool:
        query = f"SELECT count(*) FROM redactions WHERE redacts = '{event_id}'"
        return int(self.world.deployment.postgres.psql(query)) > 0

    def _has_rival(self, room_id: str, event_id: str) -> bool:
        """Tell whether a state event's key has had another event, by another sender."""
        found = self.world.deployment.postgres.psql(
            "SELECT count(*) FROM state_events s JOIN events e ON e.event_id = s.event_id"
            " JOIN state_events t ON t.room_id = s.room_id AND t.type = s.type AND t.state_key = s.state_key"
            " JOIN events f ON f.event_id = t.event_id"
            f" WHERE s.room_id = '{room_id}' AND s.event_id = '{event_id}' AND f.sender <> e.sender"
        )
        return int(found) > 0


def _level_devices(loose: set[str], *bodies: Json) -> None:
    """Take out of the device lists those who are there because of a member event that one side left out."""
    for body in bodies:
        lists = body.get("device_lists", {})
        for key in ("changed", "left"):
            if key in lists:
                lists[key] = [user for user in lists[key] if user not in loose]
                if not lists[key]:
                    del lists[key]
        if not lists:
            body.pop("device_lists", None)


def _head(reply: Reply) -> Json:
    return {"status": reply.status, "headers": shown_headers(reply)}
