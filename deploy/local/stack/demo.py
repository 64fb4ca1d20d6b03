# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""The main job, live: a few devices long-poll through nginx, messages are sent, arrivals are timed.

The encrypted room's demo events have the shape of encrypted ones (what a sync server sees of them);
clients that really encrypt are the subject of tests/e2e.
"""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import json
import os
import threading
import time
from typing import Callable

from stack.deployment import Deployment
from stack.errors import StackError
from stack.matrix import Client, Json, MatrixError

DEVICES = (("alice", "LAPTOP"), ("alice", "PHONE"), ("bob", "LAPTOP"), ("bob", "PHONE"), ("carol", "PHONE"))
USERS = ("alice", "bob", "carol")
_POLL_MS = 30000
_ARRIVAL_SECONDS = 10.0


@dataclasses.dataclass
class Arrival:
    """When one event reached the devices: device name → time of the first copy, and copies."""

    times: dict[str, float] = dataclasses.field(default_factory=dict)
    copies: dict[str, int] = dataclasses.field(default_factory=dict)


class Board:
    """Where the polling threads note arrivals and the sender waits for them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrivals: dict[str, Arrival] = {}
        self.upstreams: set[str] = set()
        self.errors: list[str] = []

    def note(self, device: str, event_ids: list[str], at: float) -> None:
        """Record events of one delta."""
        with self._changed:
            for event_id in event_ids:
                arrival = self._arrivals.setdefault(event_id, Arrival())
                arrival.times.setdefault(device, at)
                arrival.copies[device] = arrival.copies.get(device, 0) + 1
            self._changed.notify_all()

    def wait(self, event_id: str, devices: int, seconds: float) -> Arrival:
        """Wait until an event has reached that many devices or time is over; return what is known."""
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._arrivals.get(event_id, Arrival()).times) >= devices, timeout=seconds
            )
            return dataclasses.replace(self._arrivals.get(event_id, Arrival()))


class Device(threading.Thread):
    """One device that long-polls through nginx until told to stop."""

    def __init__(self, client: Client, name: str, board: Board) -> None:
        super().__init__(name=f"device-{name}", daemon=True)
        self.client, self.label, self.board = client, name, board
        self.synced = threading.Event()
        self.ended = threading.Event()

    def run(self) -> None:
        """Sync once, then poll for ever; errors are noted and retried."""
        since: str | None = None
        quiet = {"room": {"timeline": {"limit": 1}}, "presence": {"types": []}}
        while not self.ended.is_set():
            try:
                query = {"since": since, "timeout": _POLL_MS} if since else {"filter": quiet}
                reply = self.client.sync_raw(**query)
                at = time.monotonic()
                if self.ended.is_set():
                    return
                if reply.status != 200:
                    raise MatrixError("GET", "/sync", reply.status, reply.body)
                self.board.upstreams.add(reply.headers.get("x-chappe-upstream", "?"))
                body = reply.body
                if since is not None:
                    self.board.note(self.label, _timeline_ids(body), at)
                since = body["next_batch"]
                self.synced.set()
            except (OSError, MatrixError, ValueError, KeyError) as error:
                self.board.errors.append(f"{self.label}: {error}")
                self.ended.wait(0.5)


def _timeline_ids(body: Json) -> list[str]:
    rooms = body.get("rooms", {}).get("join", {})
    return [event["event_id"] for room in rooms.values() for event in room["timeline"]["events"]]


class Demo:
    """Users, rooms and devices on a running deployment."""

    def __init__(self, deployment: Deployment, say: Callable[[str], None]) -> None:
        self.deployment, self.say = deployment, say
        self.url = deployment.settings.url
        self.board = Board()
        self.clients: dict[str, Client] = {}
        self.devices: list[Device] = []
        self.rooms: dict[str, str] = {}

    def prepare(self) -> None:
        """Register users, log devices in, make the rooms unless an earlier start did; start polling."""
        password = self.deployment.demo_password
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            ids = dict(zip(USERS, pool.map(lambda u: self.deployment.admin.register(u, password, exist_ok=True), USERS)))
            logins = pool.map(lambda d: Client.login(self.url, ids[d[0]], password, d[1]), DEVICES)
            self.clients = {f"{user}/{device}": client for (user, device), client in zip(DEVICES, logins)}
        self._make_rooms(ids)
        for name, client in self.clients.items():
            poller = Client(self.url, client.user_id, client.token, client.device_id)
            device = Device(poller, name, self.board)
            self.devices.append(device)
            device.start()
        for device in self.devices:
            if not device.synced.wait(30):
                raise StackError(f"{device.label} got no initial sync within 30 s; {self._last_error()}")

    def _make_rooms(self, ids: dict[str, str]) -> None:
        path = self.deployment.settings.state / "demo.json"
        alice = self.clients["alice/LAPTOP"]
        if path.exists():
            self.rooms = json.loads(path.read_text())
            joined = alice.call("GET", "/joined_rooms")["joined_rooms"]
            if set(self.rooms.values()) <= set(joined):
                return
        others = [ids[user] for user in USERS if user != "alice"]
        encryption = {
            "type": "m.room.encryption",
            "state_key": "",
            "content": {"algorithm": "m.megolm.v1.aes-sha2"},
        }
        self.rooms = {
            "plain": alice.create_room(name="Plain room", preset="private_chat", invite=others),
            "encrypted": alice.create_room(
                name="Encrypted room", preset="private_chat", invite=others, initial_state=[encryption]
            ),
        }
        for room in self.rooms.values():
            for name in ("bob/LAPTOP", "carol/PHONE"):
                self.clients[name].join(room)
        path.write_text(json.dumps(self.rooms))

    def _last_error(self) -> str:
        return f"last error: {self.board.errors[-1]}" if self.board.errors else "no error was reported"

    def send_one(self, number: int) -> str | None:
        """Send one message, wait for its arrivals, print the line; return what is wrong or None."""
        kind = ("plain", "encrypted")[number % 2]
        sender_name = ("alice/LAPTOP", "bob/PHONE", "carol/PHONE")[number % 3]
        sender = self.clients[sender_name]
        begun = time.monotonic()
        if kind == "plain":
            event_id = sender.text(self.rooms[kind], f"message {number}")
        else:
            event_id = sender.send(self.rooms[kind], _encrypted_shape(sender.device_id), "m.room.encrypted")
        sent_ms = (time.monotonic() - begun) * 1000
        arrival = self.board.wait(event_id, len(self.devices), _ARRIVAL_SECONDS)
        reached = "  ".join(
            f"{device.label} {(arrival.times[device.label] - begun) * 1000:.0f}"
            for device in self.devices
            if device.label in arrival.times
        )
        self.say(
            f"{time.strftime('%H:%M:%S')}  {kind:9}  {event_id[:12]}…  {len(arrival.times)}/{len(self.devices)} devices"
            f"  ms from send: {reached}  (send answered {sent_ms:.0f})"
        )
        missing = [device.label for device in self.devices if device.label not in arrival.times]
        if missing:
            return f"{event_id} ({kind}) did not reach {', '.join(missing)} in {_ARRIVAL_SECONDS:.0f} s; {self._last_error()}"
        twice = [name for name, copies in arrival.copies.items() if copies > 1]
        if twice:
            return f"{event_id} ({kind}) reached {', '.join(twice)} more than once"
        return None

    def run_once(self, messages: int = 6) -> list[str]:
        """Send a handful of messages; return everything that went wrong."""
        wrong = [problem for number in range(messages) if (problem := self.send_one(number))]
        expected = "chappe" if self.deployment.settings.with_chappe else "synapse"
        if self.board.upstreams != {expected}:
            wrong.append(f"/sync was answered by {sorted(self.board.upstreams)}, expected {expected}")
        wrong += [f"a poll failed: {error}" for error in self.board.errors]
        return wrong

    def run_for_ever(self, interval: float = 1.0) -> None:
        """Send a message every interval until interrupted, watching that every server stays up."""
        number = 0
        while True:
            begun = time.monotonic()
            self.deployment.check_running()
            try:
                problem = self.send_one(number)
            except (OSError, MatrixError) as error:
                problem = f"sending failed: {error}"
            if problem:
                self.say("  ! " + problem)
            number += 1
            time.sleep(max(0.0, interval - (time.monotonic() - begun)))

    def stop(self) -> None:
        """Let the polling threads end by themselves; they hold nothing that needs closing."""
        for device in self.devices:
            device.ended.set()


def _encrypted_shape(device_id: str) -> Json:
    return {
        "algorithm": "m.megolm.v1.aes-sha2",
        "ciphertext": base64.b64encode(os.urandom(96)).decode().rstrip("="),
        "device_id": device_id,
        "sender_key": base64.b64encode(os.urandom(32)).decode().rstrip("="),
        "session_id": base64.b64encode(os.urandom(32)).decode().rstrip("="),
    }
