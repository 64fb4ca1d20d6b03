# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A homeserver that says what a scenario lets it say.

It federates with Synapse as any server does: it has a name (its address), a key, a TLS listener, and it
signs. But it makes up its own events, in whatever order, with whatever predecessors, and decides what
it hands out when it is asked for more. So a scenario can make forks, gaps, events of old depth, odd
JSON, joins that stay partial for as long as wanted.

    puppet.join(room, user)                  a user of ours joins a room of Synapse's
    puppet.create_room(user, version)        a room of ours, which Synapse's users can join
    room.make(type, content, sender=...)     an event, known to us only
    puppet.send(room, event_id, ...)         Synapse gets it

Nothing that comes in is verified.
"""

from __future__ import annotations

import http.client
import itertools
import json
import secrets
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Iterable
from urllib.parse import parse_qs, quote, unquote, urlsplit

from support.pdu import Json, Signer, event_id

StateKey = tuple[str, str]
Answer = tuple[int, Any]
VERSIONS = ("4", "5", "6", "7", "8", "9", "10", "11", "12")


class Room:
    """What the puppet knows of a room: events, and the state after each."""

    def __init__(self, signer: Signer, room_id: str, version: str) -> None:
        self.room_id, self.version, self.number = room_id, version, int(version)
        self.events: dict[str, Json] = {}
        self.after: dict[str, dict[StateKey, str]] = {}
        self.latest: list[str] = []
        self.hidden: set[str] = set()  # left out when somebody asks what came before an event
        self.partial = False  # answer joins without the members
        self._signer = signer
        self._last = 0

    # -- making ----------------------------------------------------------------------------------

    def make(
        self,
        kind: str,
        content: Json,
        *,
        sender: str,
        key: str | None = None,
        prev: list[str] | None = None,
        auth: list[str] | None = None,
        depth: int | None = None,
        follow: bool = True,
        unsigned: Json | None = None,
        **more: Any,
    ) -> str:
        """Make an event after `prev` (default: the latest) and return its id.

        It becomes the latest unless `follow` is false; `more` are top-level keys.
        """
        prev = self.latest if prev is None else prev
        state = self.before(prev)
        event: Json = {
            "type": kind,
            "room_id": self.room_id,
            "sender": sender,
            "content": content,
            "origin": self._signer.name,
            "origin_server_ts": self._now(),
            "prev_events": prev,
            "auth_events": self.auth_events(kind, key, sender, content, state) if auth is None else auth,
            "depth": 1 + max((self.events[i]["depth"] for i in prev if i in self.events), default=0),
            **more,
        }
        if depth is not None:
            event["depth"] = depth
        if key is not None:
            event["state_key"] = key
        if not self.room_id:  # version 12: the id is the create event's
            del event["room_id"]
        self._signer.event(event, self.number)
        if unsigned is not None:
            event["unsigned"] = unsigned
        return self.add(event, follow=follow)

    def _now(self) -> int:
        """Return the time, later than before: state resolution looks at it."""
        self._last = max(self._last + 1, int(time.time() * 1000))
        return self._last

    def auth_events(
        self, kind: str, key: str | None, sender: str, content: Json, state: dict[StateKey, str]
    ) -> list[str]:
        """Select the events that permit an event."""
        wanted: list[StateKey] = [("m.room.power_levels", ""), ("m.room.member", sender)]
        if self.number < 12:
            wanted.append(("m.room.create", ""))
        if kind == "m.room.member":
            wanted += [("m.room.member", str(key)), ("m.room.join_rules", "")]
        if kind == "m.room.create":
            return []
        return [state[each] for each in dict.fromkeys(wanted) if each in state]

    def add(self, event: Json, *, follow: bool = True, state: dict[StateKey, str] | None = None) -> str:
        """Take an event in and return its id; `state` is the state before it, where we cannot know."""
        name = event_id(event, self.number)
        self.events[name] = event
        after = dict(self.before(event["prev_events"]) if state is None else state)
        if "state_key" in event:
            after[event["type"], event["state_key"]] = name
        self.after[name] = after
        if follow:
            self.latest = [each for each in self.latest if each not in event["prev_events"]] + [name]
        return name

    def before(self, prev: Iterable[str]) -> dict[StateKey, str]:
        """Return the state before an event with these predecessors; of two the deeper one counts."""
        state: dict[StateKey, str] = {}
        for name in prev:
            for key, found in self.after.get(name, {}).items():
                if key not in state or self.events[state[key]]["depth"] < self.events[found]["depth"]:
                    state[key] = found
        return state

    # -- handing out -----------------------------------------------------------------------------

    def list(self, names: Iterable[str]) -> list[Json]:
        """Return events by their ids."""
        return [self.events[name] for name in names]

    def auth_chain(self, names: Iterable[str]) -> list[str]:
        """Return everything that permits these events, and what permits that."""
        found: dict[str, None] = {}
        queue = [name for first in names for name in self.events[first]["auth_events"]]
        while queue:
            name = queue.pop()
            if name not in found and name in self.events:
                found[name] = None
                queue += self.events[name]["auth_events"]
        return list(found)

    def back(self, latest: Iterable[str], earliest: Iterable[str], limit: int, inclusive: bool) -> list[Json]:
        """Walk back from events, without those that we keep for ourselves."""
        stop, seen, found = set(earliest), set(), []
        queue = [name for name in latest] if inclusive else self._parents(latest)
        while queue and len(found) < limit:
            name = queue.pop(0)
            if name in seen or name in stop or name in self.hidden or name not in self.events:
                continue
            seen.add(name)
            found.append(self.events[name])
            queue += self.events[name]["prev_events"]
        return found

    def _parents(self, names: Iterable[str]) -> list[str]:
        return [parent for name in names if name in self.events for parent in self.events[name]["prev_events"]]


class Puppet:
    """The server itself. `peer` is the homeserver under test."""

    _transactions = itertools.count(int(time.time() * 1000))

    def __init__(self, port: int, peer: str, certificate: Path, key: Path) -> None:
        self.name, self.peer = f"127.0.0.1:{port}", peer
        self.signer = Signer(self.name)
        self.rooms: dict[str, Room] = {}
        self.invites: list[Json] = []
        self.edus: list[Json] = []
        self.devices: dict[str, list[Json]] = {}  # of a user: what /user/devices tells
        self.device_streams: dict[str, int] = {}
        self.profiles: dict[str, Json] = {}
        self.answers: dict[str, Callable[[str, Json], Answer | None]] = {}  # a scenario's own, by start of the path
        self._run, self._users = secrets.token_hex(3), itertools.count(1)
        self._server = _serve(self, port, certificate, key)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def user(self, name: str) -> str:
        """Return the id of a user of ours that nobody has heard of."""
        return f"@{name}-{self._run}-{next(self._users)}:{self.name}"

    # -- as a client of the peer -----------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the peer, signed; raise AssertionError when it refuses."""
        path = f"/_matrix/federation{path}"
        request: Json = {"method": method, "uri": path, "origin": self.name, "destination": self.peer}
        if body is not None:
            request["content"] = body
        signature = self.signer.json(request)["signatures"][self.name][self.signer.key_id]
        head = f'X-Matrix origin="{self.name}",destination="{self.peer}"'
        headers = {
            "Authorization": f'{head},key="{self.signer.key_id}",sig="{signature}"',
            "Content-Type": "application/json",
        }
        host, port = self.peer.split(":")
        context = ssl._create_unverified_context()  # noqa: SLF001 - the certificate is our own
        link = http.client.HTTPSConnection(host, int(port), timeout=60, context=context)
        try:
            link.request(method, path, None if body is None else json.dumps(body).encode(), headers)
            response = link.getresponse()
            raw = response.read()
        finally:
            link.close()
        assert response.status == 200, f"{method} {path}: {response.status} {raw[:500]!r}"
        return json.loads(raw)

    def join(self, room_id: str, user: str, version: str = "10") -> Room:
        """Let a user of ours join a room of the peer's."""
        room = self.rooms.get(room_id) or Room(self.signer, room_id, version)
        self._member(room, user, "join")
        return room

    def knock(self, room_id: str, user: str, version: str = "10") -> Room:
        """Let a user of ours knock on a room of the peer's."""
        room = self.rooms.get(room_id) or Room(self.signer, room_id, version)
        self._member(room, user, "knock")
        return room

    def leave(self, room_id: str, user: str) -> None:
        """Let a user of ours leave, or decline an invitation."""
        self._member(self.rooms[room_id], user, "leave")

    def _member(self, room: Room, user: str, membership: str) -> None:
        query = "?" + "&".join(f"ver={version}" for version in VERSIONS) if membership != "leave" else ""
        where = f"{quote(room.room_id, safe='')}/{quote(user, safe='')}{query}"
        event = self.call("GET", f"/v1/make_{membership}/{where}")["event"]
        event.pop("signatures", None)
        event.update({"origin_server_ts": int(time.time() * 1000), "origin": self.name})
        self.signer.event(event, room.number)
        name = event_id(event, room.number)
        number = 1 if membership == "knock" else 2
        sent = self.call("PUT", f"/v{number}/send_{membership}/{quote(room.room_id, safe='')}/{quote(name)}", event)
        if membership != "join":
            return
        self.rooms[room.room_id] = room
        for each in sent["auth_chain"]:
            room.events[event_id(each, room.number)] = each
        state: dict[StateKey, str] = {}
        for each in sent["state"]:
            state[each["type"], each["state_key"]] = event_id(each, room.number)
            room.events[event_id(each, room.number)] = each
        room.add(sent.get("event") or event, state=state)
        room.latest = [name]

    def send(self, room: Room, *names: str, edus: Iterable[Json] = ()) -> Any:
        """Send events to the peer in one transaction; returns its verdicts."""
        return self._transaction(room.list(names), list(edus))

    def edu(self, kind: str, content: Json) -> None:
        """Send something that is no event: a receipt, typing, presence, device lists, to-device messages."""
        self._transaction([], [{"edu_type": kind, "content": content}])

    def _transaction(self, pdus: list[Json], edus: list[Json]) -> Any:
        body = {"origin": self.name, "origin_server_ts": int(time.time() * 1000), "pdus": pdus, "edus": edus}
        return self.call("PUT", f"/v1/send/{next(self._transactions)}", body)["pdus"]

    def invite(self, room: Room, sender: str, user: str, stripped: list[Any] | None = None, **content: Any) -> str:
        """Invite a user of the peer's; returns the invitation's id."""
        body = {"membership": "invite", **content}
        name = room.make("m.room.member", body, sender=sender, key=user, follow=False)
        event = room.events[name]
        state = room.before(room.latest)
        shown = [room.events[each] for (kind, _), each in state.items() if kind in _STRIPPED]
        told = [{key: event[key] for key in ("type", "state_key", "sender", "content")} for event in shown]
        answer = self.call(
            "PUT",
            f"/v2/invite/{quote(room.room_id, safe='')}/{quote(name)}",
            {
                "event": event,
                "room_version": room.version,
                "invite_room_state": told if stripped is None else stripped,
            },
        )
        event["signatures"] = answer["event"]["signatures"]
        return room.add(event)

    # -- rooms of ours ---------------------------------------------------------------------------

    def create_room(self, creator: str, version: str = "10", **rules: str) -> Room:
        """Make a public room (or with another join_rule, history_visibility) in which its creator is."""
        room = Room(self.signer, "" if version == "12" else f"!{next(self._transactions)}:{self.name}", version)
        content: Json = {"room_version": version, **({"creator": creator} if room.number < 11 else {})}
        first = room.make("m.room.create", content, sender=creator, key="")
        room.room_id = room.room_id or "!" + first[1:]
        room.make("m.room.member", {"membership": "join"}, sender=creator, key=creator)
        users = {} if room.number >= 12 else {creator: 100}
        room.make("m.room.power_levels", {"users": users}, sender=creator, key="")
        rule = {"join_rule": rules.get("join_rule", "public")}
        room.make("m.room.join_rules", rule, sender=creator, key="")
        seen = {"history_visibility": rules.get("history_visibility", "shared")}
        room.make("m.room.history_visibility", seen, sender=creator, key="")
        self.rooms[room.room_id] = room
        return room

    def text(self, room: Room, sender: str, body: str, **how: Any) -> str:
        """Make a text message."""
        return room.make("m.room.message", {"msgtype": "m.text", "body": body}, sender=sender, **how)

    def member(self, room: Room, user: str, **content: Any) -> str:
        """Let a user of ours join a room, without telling anybody."""
        return room.make("m.room.member", {"membership": "join", **content}, sender=user, key=user)

    # -- as a server -----------------------------------------------------------------------------

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Json) -> Answer:
        """Answer a request of another server."""
        for start, own in list(self.answers.items()):
            own_answer = own(path, body) if path.startswith(start) else None
            if own_answer is not None:
                return own_answer
        if path == "/_matrix/key/v2/server":
            return 200, self._keys()
        parts = [unquote(part) for part in path.removeprefix("/_matrix/federation/").split("/")]
        found = getattr(self, "_on_" + "_".join(parts[1:2]), None)
        if found is None:
            return 404, {"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"}
        return tuple(found(parts[2:], query, body))  # type: ignore[return-value]

    def _keys(self) -> Json:
        return self.signer.json(
            {
                "server_name": self.name,
                "verify_keys": {self.signer.key_id: {"key": self.signer.public}},
                "old_verify_keys": {},
                "valid_until_ts": int(time.time() * 1000) + 5 * 86400_000,
            }
        )

    def _on_version(self, *_: Any) -> Answer:
        return 200, {"server": {"name": "puppet", "version": "1"}}

    def _on_send(self, parts: list[str], _query: Any, body: Json) -> Answer:
        for event in body.get("pdus", []):
            room = self.rooms.get(event.get("room_id", ""))
            if room is not None:
                room.add(event)
        self.edus += body.get("edus", [])
        return 200, {"pdus": {}}

    def _on_event(self, parts: list[str], *_: Any) -> Answer:
        for room in self.rooms.values():
            if parts[0] in room.events:
                return 200, self._pdus([room.events[parts[0]]])
        return _NOT_FOUND

    def _pdus(self, events: list[Json]) -> Json:
        return {"origin": self.name, "origin_server_ts": int(time.time() * 1000), "pdus": events}

    def _on_state_ids(self, parts: list[str], query: dict[str, list[str]], _body: Json) -> Answer:
        room, at = self.rooms.get(parts[0]), query["event_id"][0]
        if room is None or at not in room.events:
            return _NOT_FOUND
        state = room.before(room.events[at]["prev_events"])
        return 200, {"pdu_ids": list(state.values()), "auth_chain_ids": room.auth_chain(state.values())}

    def _on_state(self, parts: list[str], query: dict[str, list[str]], body: Json) -> Answer:
        status, ids = self._on_state_ids(parts, query, body)
        if status != 200:
            return status, ids
        room = self.rooms[parts[0]]
        return 200, {"pdus": room.list(ids["pdu_ids"]), "auth_chain": room.list(ids["auth_chain_ids"])}

    def _on_event_auth(self, parts: list[str], *_: Any) -> Answer:
        room = self.rooms.get(parts[0])
        if room is None or parts[1] not in room.events:
            return _NOT_FOUND
        return 200, {"auth_chain": room.list(room.auth_chain([parts[1]]))}

    def _on_backfill(self, parts: list[str], query: dict[str, list[str]], _body: Json) -> Answer:
        room = self.rooms.get(parts[0])
        if room is None:
            return _NOT_FOUND
        return 200, self._pdus(room.back(query["v"], [], int(query["limit"][0]), True))

    def _on_get_missing_events(self, parts: list[str], _query: Any, body: Json) -> Answer:
        room = self.rooms.get(parts[0])
        if room is None:
            return _NOT_FOUND
        events = room.back(body["latest_events"], body["earliest_events"], body.get("limit", 10), False)
        return 200, {"events": events[::-1]}

    def _on_query(self, parts: list[str], query: dict[str, list[str]], _body: Json) -> Answer:
        if parts[0] == "profile":
            return 200, self.profiles.get(query["user_id"][0], {})
        return _NOT_FOUND

    def _on_user(self, parts: list[str], _query: Any, body: Json) -> Answer:
        if parts[0] == "devices":
            devices = self.devices.get(parts[1], [])
            return 200, {"user_id": parts[1], "stream_id": self.device_streams.get(parts[1], 1), "devices": devices}
        return 200, {"device_keys": {}, "one_time_keys": {}}

    def _on_invite(self, parts: list[str], _query: Any, body: Json) -> Answer:
        event = body["event"]
        self.invites.append(body)
        self.rooms.setdefault(parts[0], Room(self.signer, parts[0], body["room_version"]))
        return 200, {"event": self.signer.approve(event, int(body["room_version"]))}

    def _on_make_join(self, parts: list[str], *_: Any) -> Answer:
        return self._make(parts, "join")

    def _on_make_leave(self, parts: list[str], *_: Any) -> Answer:
        return self._make(parts, "leave")

    def _on_make_knock(self, parts: list[str], *_: Any) -> Answer:
        return self._make(parts, "knock")

    def _make(self, parts: list[str], membership: str) -> Answer:
        room = self.rooms.get(parts[0])
        if room is None:
            return _NOT_FOUND
        state, content = room.before(room.latest), {"membership": membership}
        event = {
            "type": "m.room.member",
            "room_id": room.room_id,
            "sender": parts[1],
            "state_key": parts[1],
            "content": content,
            "prev_events": room.latest,
            "auth_events": room.auth_events("m.room.member", parts[1], parts[1], content, state),
            "depth": 1 + max(room.events[each]["depth"] for each in room.latest),
            "origin_server_ts": int(time.time() * 1000),
        }
        return 200, {"event": event, "room_version": room.version}

    def _on_send_join(self, parts: list[str], query: dict[str, list[str]], body: Json) -> Answer:
        room = self.rooms[parts[0]]
        before = room.before(body["prev_events"])
        # Our own join must not show in the state before it.
        omit = room.partial and query.get("omit_members", ["false"])[0] == "true"
        kept = {name for (kind, _), name in before.items() if not omit or kind != "m.room.member"}
        chain = [name for name in room.auth_chain([*kept, room.add(body)]) if not omit or name not in kept]
        answer: Json = {
            "origin": self.name,
            "event": body,
            "state": room.list(sorted(kept)),
            "auth_chain": room.list(chain),
            "members_omitted": omit,
        }
        if omit:
            answer["servers_in_room"] = sorted({self.name, self.peer})
        return 200, answer

    def _on_send_leave(self, parts: list[str], _query: Any, body: Json) -> Answer:
        self.rooms[parts[0]].add(body)
        return 200, {}

    def _on_send_knock(self, parts: list[str], _query: Any, body: Json) -> Answer:
        room = self.rooms[parts[0]]
        shown = [room.events[name] for (kind, _), name in room.before(room.latest).items() if kind in _STRIPPED]
        room.add(body)
        told = [{key: event[key] for key in ("type", "state_key", "sender", "content")} for event in shown]
        return 200, {"knock_room_state": told}


_STRIPPED = ("m.room.create", "m.room.join_rules", "m.room.name", "m.room.canonical_alias", "m.room.encryption")
_NOT_FOUND: Answer = (404, {"errcode": "M_NOT_FOUND", "error": "We do not know that"})


def _serve(puppet: Puppet, port: int, certificate: Path, key: Path) -> ThreadingHTTPServer:
    """Listen and answer in threads."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            url = urlsplit(self.path)
            try:
                body = json.loads(raw) if raw else {}
                status, value = puppet.answer(self.command, url.path, parse_qs(url.query), body)
            except Exception as error:  # noqa: BLE001 - the scenario shall see why
                status, value = 500, {"errcode": "M_UNKNOWN", "error": f"puppet: {type(error).__name__}: {error}"}
            self._reply(status, json.dumps(value).encode())

        def _reply(self, status: int, data: bytes) -> None:
            self.close_connection = True
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(data)
                # A connection that is closed from here first may lose the answer.
                self.connection.settimeout(1)
                self.rfile.read(1)
            except OSError:
                pass  # nobody waits for it any more

        do_GET = do_PUT = do_POST = _handle

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    return server
