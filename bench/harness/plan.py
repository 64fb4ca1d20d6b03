# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""What the load generator publishes and when: the file that bench/load_plan.c reads."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

PADDING = "x" * 64


def marker_text(run: str, number: int, padding: str = PADDING) -> str:
    """Return a message's text; the generator knows it again by this beginning."""
    return f"bench-{run}-{number}; {padding}"


def http_request(method: str, path: str, body: bytes, token: str | None = None) -> bytes:
    """Return a complete HTTP/1.1 request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    if token is not None:
        head += f"Authorization: Bearer {token}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def send_request(room: str, token: str, transaction: str, text: str) -> bytes:
    """Return the request of the client API that sends a message."""
    path = f"/_matrix/client/v3/rooms/{quote(room)}/send/m.room.message/{transaction}"
    return http_request("PUT", path, json.dumps({"msgtype": "m.text", "body": text}).encode(), token)


def redis_command(*words: str) -> bytes:
    """Return a command as Redis reads it."""
    raw = [word.encode() for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in raw)


class Plan:
    """Collects the entries; numbers messages from 1."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.numbers = 0
        self._parts: list[bytes] = []

    def past(self, room: int = 0) -> int:
        """A message that is there already; return its number."""
        self._parts.append(b"past %d\n" % room)
        self.numbers += 1
        return self.numbers

    def closed(self, name: str, warm: int = 0) -> None:
        """Begin a phase of messages one after the other."""
        self._parts.append(f"phase {name} closed {warm}\n".encode())

    def open(self, name: str) -> None:
        """Begin a phase of messages at their times."""
        self._parts.append(f"phase {name} open\n".encode())

    def stall(self) -> None:
        """From here on the devices that are to stall have asked, and read nothing."""
        self._parts.append(b"phase stall stall\n")

    def back(self) -> None:
        """Wait until they were dropped; then they come back."""
        self._parts.append(b"phase back back\n")

    def message(self, raw: bytes, room: int = 0, at_us: int = 0) -> int:
        """What sends the next message; return its number, which must be the one in its text."""
        self._parts.append(b"message %d %d %d\n%s\n" % (room, at_us, len(raw), raw))
        self.numbers += 1
        return self.numbers

    def other(self, raw: bytes, at_us: int = 0) -> None:
        """Bytes whose effect nobody waits for."""
        self._parts.append(b"other %d %d\n%s\n" % (at_us, len(raw), raw))

    @property
    def next_text(self) -> str:
        """The text of the next message."""
        return marker_text(self.run, self.numbers + 1)

    def write(self, path: Path) -> Path:
        """Write the file; it may contain tokens."""
        path.touch(mode=0o600)
        path.write_bytes(b"".join(self._parts))
        return path
