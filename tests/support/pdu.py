# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Events as homeservers exchange them: canonical JSON, redaction, hashes, ids and signatures.

Written from the specification's "Server-Server API" and the pages of the room versions; for versions
4 and newer, whose event ids are URL-safe hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from support.ed25519 import SigningKey

Json = dict[str, Any]

_TOP = set(
    "event_id type room_id sender state_key content hashes signatures depth prev_events auth_events"
    " origin_server_ts".split()
)
_TOP_OLD = _TOP | {"origin", "membership", "prev_state"}
_POWER = {"ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"}


def canonical(value: Any) -> bytes:
    """Return canonical JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def unpadded(data: bytes) -> str:
    """Return base64 without padding."""
    return base64.b64encode(data).decode().rstrip("=")


def redacted(event: Json, version: int) -> Json:
    """Return what redaction leaves of an event."""
    content, kind = event.get("content", {}), event.get("type")
    keep: set[str] = {
        "m.room.member": {"membership"} | ({"join_authorised_via_users_server"} if version >= 9 else set()),
        "m.room.create": set(content) if version >= 11 else {"creator"},
        "m.room.join_rules": {"join_rule"} | ({"allow"} if version >= 8 else set()),
        "m.room.power_levels": _POWER | ({"invite"} if version >= 11 else set()),
        "m.room.history_visibility": {"history_visibility"},
        "m.room.aliases": {"aliases"} if version < 6 else set(),
        "m.room.redaction": {"redacts"} if version >= 11 else set(),
    }.get(str(kind), set())
    left = {key: value for key, value in event.items() if key in (_TOP if version >= 11 else _TOP_OLD)}
    return {**left, "content": {key: value for key, value in content.items() if key in keep}}


def event_id(event: Json, version: int) -> str:
    """Return an event's id, which is the hash of what redaction leaves."""
    left = redacted(event, version)
    for key in ("signatures", "unsigned", "event_id"):
        left.pop(key, None)
    digest = hashlib.sha256(canonical(left)).digest()
    return "$" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


class Signer:
    """A server's name and key."""

    def __init__(self, name: str, seed: bytes | None = None) -> None:
        self.name, self.key_id = name, "ed25519:puppet"
        self._key = SigningKey(seed or hashlib.sha256(name.encode()).digest())

    @property
    def public(self) -> str:
        """The public key."""
        return unpadded(self._key.public)

    def json(self, value: Json) -> Json:
        """Sign an object, which is returned."""
        bare = {key: inner for key, inner in value.items() if key not in ("signatures", "unsigned")}
        signature = unpadded(self._key.sign(canonical(bare)))
        value.setdefault("signatures", {}).setdefault(self.name, {})[self.key_id] = signature
        return value

    def event(self, event: Json, version: int) -> Json:
        """Give an event its content hash and our signature; it is returned."""
        bare = {key: value for key, value in event.items() if key not in ("signatures", "unsigned", "hashes")}
        event["hashes"] = {"sha256": unpadded(hashlib.sha256(canonical(bare)).digest())}
        return self.approve(event, version)

    def approve(self, event: Json, version: int) -> Json:
        """Add our signature to an event that has its hash."""
        left = {key: value for key, value in redacted(event, version).items() if key != "unsigned"}
        event["signatures"] = self.json(left)["signatures"]
        return event
