# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Filters for generated scripts: those of real clients, and generated ones that cover the schema."""

from __future__ import annotations

import random
from typing import Any

Json = dict[str, Any]

NO_PRESENCE: Json = {"types": []}

# What clients really send (apart from presence, which scripts ask for only where they mean to).
EAGER: list[Json] = [
    {},
    {"room": {"timeline": {"limit": 20}}},  # matrix-js-sdk without lazy loading
    {"room": {"timeline": {"limit": 8}}},  # matrix-js-sdk, first request
    {"room": {"timeline": {"limit": 1}}},
    {"room": {"timeline": {"limit": 3}}},
    {"room": {"timeline": {"limit": 50}, "include_leave": True}},
    {"room": {"timeline": {"limit": 5, "unread_thread_notifications": True}, "include_leave": True}},
    {"room": {"timeline": {"limit": 0}, "ephemeral": {"types": []}}},
    {"room": {"timeline": {"limit": 10}, "state": {"types": []}, "ephemeral": {"types": []}}},  # a bot
    {"room": {"timeline": {"types": ["m.room.message"], "limit": 10}, "account_data": {"types": []}}},
]
LAZY: list[Json] = [
    # Element Web
    {"room": {"state": {"lazy_load_members": True}, "timeline": {"unread_thread_notifications": True, "limit": 20}}},
    # Element Android classic; nio as many clients configure it
    {"room": {"state": {"lazy_load_members": True}}},
    # Element iOS classic
    {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 10}, "include_leave": True}},
    {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 2}}},
    {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 4}, "include_leave": True}},
    # matrix-rust-sdk before sliding sync, and FluffyChat
    {"room": {"state": {"lazy_load_members": True, "include_redundant_members": True}, "timeline": {"limit": 3}}},
    {"room": {"state": {"lazy_load_members": True, "include_redundant_members": True}, "include_leave": True}},
]

_TYPES = [
    "m.room.message",
    "m.room.member",
    "m.room.*",
    "m.*",
    "*",
    "m.room.name",
    "m.room.topic",
    "m.reaction",
    "m.room.redaction",
    "m.room.encrypted",
    "org.example.thing",
    "org.example.*",
    "m.room.create",
    "m.space.child",
    "m.room.message*",
    "M.ROOM.*",
    "",
]
_EPHEMERAL = ["m.typing", "m.receipt", "m.*", "*", "m.rec*"]
_ACCOUNT = ["m.push_rules", "m.tag", "m.fully_read", "m.*", "*", "org.example.1", "org.example.*", "m.ignored_user_list"]
_FIELDS = [
    "type",
    "content",
    "content.body",
    "content.m\\.relates_to",
    "content.m\\.relates_to.event_id",
    "sender",
    "event_id",
    "state_key",
    "origin_server_ts",
    "unsigned",
    "unsigned.age",
    "unsigned.prev_content",
    "room_id",
    "content.info.size",
    "no.such.field",
]


class Maker:
    """Makes filters of its own, from the schema, for users and rooms of a script."""

    def __init__(self, source: random.Random) -> None:
        self.random = source

    def make(self, users: list[str], rooms: list[str], lazy: bool) -> Json:
        """Return a filter with some fields on some sections."""
        result: Json = {"presence": NO_PRESENCE}
        room: Json = {}
        for section, types, chance in (
            ("timeline", _TYPES, 0.8),
            ("state", _TYPES, 0.5),
            ("ephemeral", _EPHEMERAL, 0.3),
            ("account_data", _ACCOUNT, 0.3),
        ):
            if self.random.random() < chance:
                room[section] = self._part(types, users, rooms, section == "timeline")
        if lazy:
            # The members told are remembered before the state filter: only filters that let them pass are comparable.
            room["state"] = {"lazy_load_members": True, "include_redundant_members": self.random.random() < 0.3}
        if self.random.random() < 0.3:
            room["include_leave"] = self.random.random() < 0.7
        if rooms and self.random.random() < 0.15:
            room[self.random.choice(["rooms", "not_rooms"])] = [f"<{name}>" for name in self._some(rooms)]
        result["room"] = room
        if self.random.random() < 0.3:
            result["account_data"] = self._part(_ACCOUNT, users, [], False)
        if not lazy and self.random.random() < 0.25:
            result["event_fields"] = self._some(_FIELDS)
        if self.random.random() < 0.15:
            result["event_format"] = self.random.choice(["federation", "client"])
        return result

    def _part(self, types: list[str], users: list[str], rooms: list[str], timeline: bool) -> Json:
        part: Json = {}
        if timeline or self.random.random() < 0.2:
            part["limit"] = self.random.choice([0, 1, 2, 3, 5, 10, 30, 100])
        if self.random.random() < 0.4:
            part["types"] = self._some(types)
        if self.random.random() < 0.3:
            part["not_types"] = self._some(types)
        if self.random.random() < 0.2:
            part["senders"] = [f"<{name}>" for name in self._some(users)]
        if self.random.random() < 0.15:
            part["not_senders"] = [f"<{name}>" for name in self._some(users)]
        if rooms and self.random.random() < 0.1:
            part[self.random.choice(["rooms", "not_rooms"])] = [f"<{name}>" for name in self._some(rooms)]
        if self.random.random() < 0.12:
            part["contains_url"] = self.random.random() < 0.5
        if self.random.random() < 0.1:
            part["related_by_rel_types"] = self._some(["m.thread", "m.annotation", "m.replace"])
        if self.random.random() < 0.08:
            part["related_by_senders"] = [f"<{name}>" for name in self._some(users)]
        if self.random.random() < 0.05:
            part["org.matrix.labels"] = self._some(["#fun", "#work"])
        if timeline and self.random.random() < 0.4:
            part["unread_thread_notifications"] = self.random.random() < 0.7
        return part

    def _some(self, items: list[str]) -> list[str]:
        return self.random.sample(items, min(len(items), self.random.choice([0, 1, 1, 1, 2, 3])))
