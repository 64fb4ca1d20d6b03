# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Clients that count: what was sent, what each device was given, lost or repeated.

A device polls through nginx and retries any failure with the same `since`, as clients do, so what it
counts is what a client would show. Order matters: one thread sends, so every device must see each
room's messages in the order in which they were sent, each once.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from typing import Any, Callable, Iterator

from stack.matrix import Client, MatrixError
from support.world import World

POLL_MS = 5000
_TROUBLE = (OSError, http.client.HTTPException, MatrixError, ValueError, KeyError)


class CountingDevice(threading.Thread):
    """A device that polls until told to stop and remembers all it was given, in order."""

    def __init__(self, client: Client) -> None:
        super().__init__(name=f"counting-{client.user_id}-{client.device_id}", daemon=True)
        self.client = client
        self.rooms: dict[str, list[str]] = {}
        self.to_device: list[tuple[int, int]] = []
        self.limited: list[str] = []
        self.trouble: list[str] = []
        self.polls = 0
        self.since = client.sync(filter={"room": {"timeline": {"limit": 0}}})["next_batch"]
        self._end = threading.Event()

    def run(self) -> None:
        """Poll and count."""
        while not self._end.is_set():
            try:
                reply = self.client.sync_raw(
                    since=self.since, timeout=POLL_MS, filter={"room": {"timeline": {"limit": 100}}}
                )
                if reply.status != 200:
                    raise MatrixError("GET", "/sync", reply.status, reply.body)
                self._count(reply.body)
                self.polls += 1
            except _TROUBLE as error:
                self.client.link.close()
                self.trouble.append(f"{type(error).__name__}: {error}")
                self._end.wait(0.1)

    def _count(self, body: dict[str, Any]) -> None:
        joined = body.get("rooms", {}).get("join", {})
        next_batch = body["next_batch"]
        for room, section in joined.items():
            if section["timeline"]["limited"]:
                self.limited.append(room)
            for event in section["timeline"]["events"]:
                if event["type"] == "m.room.message":
                    self.rooms.setdefault(room, []).append(event["event_id"])
        for message in body.get("to_device", {}).get("events", []):
            self.to_device.append((message["content"]["number"], message["content"]["attempt"]))
        self.since = next_batch

    def stop(self) -> None:
        """Stop after the poll in flight."""
        self._end.set()


class Crowd:
    """A sender and several counting devices in two rooms."""

    def __init__(self, world: World, users: int = 3) -> None:
        self.world = world
        owner = world.new_device("sender")
        # The sender talks to Synapse itself: what is tested is the way of the events to the devices.
        self.sender = Client(world.main, owner.user_id, owner.token, owner.device_id)
        people = [world.new_device(f"counter{number}") for number in range(users)]
        people.append(world.device(people[0].user_id, "D2"))
        names = sorted({person.user_id for person in people})
        self.sent: dict[str, list[str]] = {}
        self.sent_to_device: list[int] = []
        for _ in range(2):
            room = self.sender.create_room(invite=names, preset="private_chat")
            for person in people[:users]:
                person.join(room)
            self.sent[room] = []
        self.devices = [CountingDevice(person) for person in people]
        self._end = threading.Event()
        self._turn = threading.Lock()  # held while a message is being sent
        self._number = 0

    @contextlib.contextmanager
    def counting(self, interval: float = 0.1) -> Iterator["Crowd"]:
        """Poll and send while the block runs; then check that nothing was lost or repeated."""
        sender = threading.Thread(target=self._send_steadily, args=(interval,), daemon=True)
        for device in self.devices:
            device.start()
        sender.start()
        try:
            yield self
            self._end.set()
            sender.join(30)
            assert not sender.is_alive(), "the sender is stuck"
            self._await_everything()
        finally:
            self._end.set()
            for device in self.devices:
                device.stop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Send nothing while the block runs; polls stay parked."""
        with self._turn:
            yield

    def sent_so_far(self) -> int:
        """Return how many messages the server accepted."""
        return sum(len(events) for events in self.sent.values())

    def wait_for_more(self, count: int, seconds: float = 30) -> None:
        """Wait until that many more messages were accepted: proof that sending works (again)."""
        goal, deadline = self.sent_so_far() + count, time.monotonic() + seconds
        while self.sent_so_far() < goal:
            assert time.monotonic() < deadline, "Synapse accepts no messages"
            time.sleep(0.05)

    def _send_steadily(self, interval: float) -> None:
        rooms = list(self.sent)
        while not self._end.is_set():
            with self._turn:
                self._send_one(rooms)
            self._end.wait(interval)

    def _send_one(self, rooms: list[str]) -> None:
        self._number += 1
        room = rooms[self._number % len(rooms)]
        path = f"/rooms/{room}/send/m.room.message/n{self._number}"
        content = {"msgtype": "m.text", "body": f"number {self._number}"}
        answer = self._insist("PUT", path, lambda _attempt: content)
        if answer is not None:
            self.sent[room].append(answer["event_id"])
        if self._number % 5 == 0:
            path = f"/sendToDevice/org.example.count/n{self._number}"
            if self._insist("PUT", path, self._to_device_body) is not None:
                self.sent_to_device.append(self._number)

    def _to_device_body(self, attempt: int) -> dict[str, Any]:
        """Synapse knows a to-device transaction only until it restarts; a repeated one may then be stored
        twice. Hence every attempt says which it is: two attempts may arrive, one attempt only once."""
        content = {"number": self._number, "attempt": attempt}
        return {"messages": {device.client.user_id: {"*": content} for device in self.devices}}

    def _insist(self, method: str, path: str, body: Callable[[int], dict[str, Any]]) -> Any:
        """Repeat a request, with its transaction id, until it is answered."""
        deadline = time.monotonic() + 60
        attempt = 0
        while time.monotonic() < deadline:
            attempt += 1
            try:
                return self.sender.call(method, path, body(attempt), timeout=10)
            except _TROUBLE:
                self.sender.link.close()
                time.sleep(0.2)
        return None

    def _await_everything(self, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while True:
            problems = [problem for device in self.devices for problem in self._problems(device)]
            if not problems:
                break
            if time.monotonic() > deadline:
                raise AssertionError("\n".join(problems))
            time.sleep(0.1)
        # What comes once too often may come late.
        time.sleep(0.5)
        problems = [problem for device in self.devices for problem in self._problems(device)]
        assert not problems, "\n".join(problems)

    def _problems(self, device: CountingDevice) -> Iterator[str]:
        name = f"{device.client.user_id}/{device.client.device_id}"
        for room, sent in self.sent.items():
            got = device.rooms.get(room, [])
            if got == sent:
                continue
            missing = [f"number {sent.index(e) + 1}" for e in sent if e not in got]
            extra = len(got) - len(set(got))
            yield (
                f"{name} in {room}: sent {len(sent)}, got {len(got)}; missing {missing[:5]}, {extra} repeated, "
                f"{'gap flagged' if room in device.limited else 'no gap flagged'}; trouble: {device.trouble[-2:]}"
            )
        numbers = [number for number, _attempt in device.to_device]
        if len(device.to_device) != len(set(device.to_device)) or sorted(set(numbers)) != self.sent_to_device:
            yield f"{name}: to-device messages {self.sent_to_device} sent, got {device.to_device}"
