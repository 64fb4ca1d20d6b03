# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Stored events of room version 10, as the homeserver would have written them: with the id that their bytes give.

A homeserver checks that an event's id is the hash of what it has stored, so the ids must be right. Signatures are
not looked at when a local event is read back; they are of the right length and say nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from stack.settings import SERVER_NAME

ROOM_VERSION = "10"
FORMAT = 3
SIGNATURES = {SERVER_NAME: {"ed25519:a_local": "A" * 86}}
_KEPT = ("auth_events", "depth", "hashes", "origin_server_ts", "prev_events", "room_id", "sender", "state_key", "type")
_KEPT_CONTENT = {
    "m.room.create": ("creator",),
    "m.room.member": ("membership", "join_authorised_via_users_server"),
    "m.room.join_rules": ("join_rule", "allow"),
    "m.room.history_visibility": ("history_visibility",),
    "m.room.power_levels": (
        *("ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"),
    ),
}


def canonical(value: object) -> bytes:
    """Return canonical JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _hash(value: object) -> bytes:
    return hashlib.sha256(canonical(value)).digest()


class Event:
    """One event: its id, and what is stored of it."""

    __slots__ = ("content", "depth", "event_id", "json", "room", "sender", "state_key", "ts", "type")

    def __init__(
        self,
        room: str,
        kind: str,
        sender: str,
        content: dict[str, Any],
        state_key: str | None,
        links: tuple[int, list[str], list[str]],
        ts: int,
    ) -> None:
        """links: depth, auth events, previous events."""
        self.room, self.type, self.sender, self.content, self.state_key = room, kind, sender, content, state_key
        self.depth, self.ts = links[0], ts
        body: dict[str, Any] = {
            "auth_events": links[1],
            "content": content,
            "depth": links[0],
            "origin_server_ts": ts,
            "prev_events": links[2],
            "room_id": room,
            "sender": sender,
            "type": kind,
        }
        if state_key is not None:
            body["state_key"] = state_key
        body["hashes"] = {"sha256": base64.b64encode(_hash(body)).decode().rstrip("=")}
        kept = _KEPT_CONTENT.get(kind, ())
        redacted = {key: body[key] for key in _KEPT if key in body}
        redacted["content"] = {key: content[key] for key in kept if key in content}
        self.event_id = "$" + base64.urlsafe_b64encode(_hash(redacted)).decode().rstrip("=")
        self.json = json.dumps({**body, "signatures": SIGNATURES, "unsigned": {"age_ts": ts}}, separators=(",", ":"))
