# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A matrix-nio client with encryption, kept syncing, that remembers everything it was given."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Callable

import nio
from support.world import PASSWORD


class NioDevice:
    """One device: a client, its sync loop, and what arrived."""

    def __init__(self, url: str, user_id: str, device_id: str, store: Path) -> None:
        store.mkdir(parents=True, exist_ok=True)
        config = nio.AsyncClientConfig(store_sync_tokens=True, encryption_enabled=True, max_limit_exceeded=0)
        self.nio = nio.AsyncClient(url, user_id, device_id=device_id, store_path=str(store), config=config)
        self.name = f"{user_id}/{device_id}"
        self.events: list[tuple[str, Any]] = []
        self.ephemeral: list[tuple[str, Any]] = []
        self.left: list[str] = []
        self.errors: list[Any] = []
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self.nio.add_event_callback(self._on_event, nio.Event)
        self.nio.add_event_callback(self._on_event, nio.InviteEvent)
        self.nio.add_ephemeral_callback(self._on_ephemeral, nio.EphemeralEvent)
        self.nio.add_response_callback(self._on_error, nio.SyncError)
        self.nio.add_response_callback(self._on_sync, nio.SyncResponse)

    async def login(self) -> None:
        """Log in, sync once and keep syncing."""
        answer = await self.nio.login(PASSWORD, device_name=self.nio.device_id)
        assert isinstance(answer, nio.LoginResponse), answer
        self._task = asyncio.create_task(self.nio.sync_forever(timeout=20000, full_state=True))
        await self.wait(lambda: self.nio.next_batch, "its first sync")

    async def stop(self) -> None:
        """Stop syncing and close connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.nio.close()

    # -- what arrives ----------------------------------------------------------------------------

    async def _on_event(self, room: nio.MatrixRoom, event: Any) -> None:
        self.events.append((room.room_id, event))

    async def _on_ephemeral(self, room: nio.MatrixRoom, event: Any) -> None:
        self.ephemeral.append((room.room_id, event))

    async def _on_error(self, error: Any) -> None:
        self.errors.append(error)
        await self._on_sync(error)

    async def _on_sync(self, response: Any) -> None:
        if isinstance(response, nio.SyncResponse):
            self.left += response.rooms.leave
            # nio itself keeps rooms that were left, and invitations that another device rejected.
            for room in response.rooms.leave:
                self.nio.invited_rooms.pop(room, None)
                self.nio.rooms.pop(room, None)
        async with self._changed:
            self._changed.notify_all()

    async def wait(self, condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
        """Wait until the condition holds after some sync; fail saying what did not come."""
        deadline = time.monotonic() + seconds
        while True:
            found = condition()
            if found:
                return found
            if self._task is not None and self._task.done():
                raise AssertionError(f"{self.name}: the sync loop ended while waiting for {what}: {self._task}")
            if time.monotonic() > deadline:
                kinds = [type(event).__name__ for _, event in self.events[-12:]]
                raise AssertionError(f"{self.name} did not get {what} in {seconds:.0f} s; last events: {kinds}")
            async with self._changed:
                try:
                    await asyncio.wait_for(self._changed.wait(), 0.25)
                except asyncio.TimeoutError:
                    pass

    def find(self, event_id: str) -> Any:
        """Return an event that arrived, by its id."""
        return next((event for _, event in self.events if getattr(event, "event_id", None) == event_id), None)

    def copies(self, event_id: str) -> int:
        """Count how often an event arrived."""
        return sum(1 for _, event in self.events if getattr(event, "event_id", None) == event_id)

    async def get(self, event_id: str, what: str) -> Any:
        """Wait for an event."""
        return await self.wait(lambda: self.find(event_id), what)

    async def get_text(self, event_id: str, body: str) -> None:
        """Wait for an event and check that it could be decrypted to this text."""
        event = await self.get(event_id, f"the message “{body}”")
        assert isinstance(event, nio.RoomMessageText), f"{self.name} could not decrypt: {event}"
        assert event.decrypted, f"{self.name}: {body} was not encrypted"
        assert event.body == body, event.body

    # -- what it does ----------------------------------------------------------------------------

    async def send(self, room: str, content: dict[str, Any], kind: str = "m.room.message") -> str:
        """Send an event (encrypted when the room is) and return its id."""
        answer = await self.nio.room_send(room, kind, content, ignore_unverified_devices=True)
        assert isinstance(answer, nio.RoomSendResponse), answer
        return str(answer.event_id)

    async def text(self, room: str, body: str) -> str:
        """Send a text message and return its id."""
        return await self.send(room, {"msgtype": "m.text", "body": body})

    def in_room(self, room: str) -> bool:
        """Whether this device knows itself joined."""
        return room in self.nio.rooms
