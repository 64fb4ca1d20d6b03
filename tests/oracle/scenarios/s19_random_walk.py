# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A random walk: everything mixed, asked about from new, old and no tokens, with many filters.

CHAPPE_TEST_SEED and CHAPPE_TEST_STEPS choose another walk and its length.
"""

from __future__ import annotations

import concurrent.futures
import os
import random
from typing import Any

from stack.matrix import MatrixError

from oracle.context import Context, Device

# Inline filters are part of the key of Synapse's response cache: a number makes each question a new one.
FORKED: list[dict[str, Any]] = [
    {},
    {"room": {"timeline": {"limit": 3}}},
    {"room": {"timeline": {"limit": 1}, "include_leave": True}},
    {"room": {"timeline": {"limit": 0}}},
    {"room": {"timeline": {"limit": 50}, "include_leave": True}},
    {"room": {"timeline": {"limit": 5, "types": ["m.room.message"]}}},
    {"room": {"timeline": {"limit": 5, "not_types": ["m.room.message"]}, "state": {"types": ["m.room.member"]}}},
    {"room": {"timeline": {"limit": 3, "unread_thread_notifications": True}, "ephemeral": {"types": []}}},
    {"room": {"account_data": {"types": ["m.tag"]}, "state": {"not_types": ["m.room.*"]}}},
]
PLAIN: list[dict[str, Any]] = [
    {"room": {"timeline": {"limit": limit, "unread_thread_notifications": limit > 4}, "include_leave": limit != 3}}
    for limit in (1, 3, 5, 50)
]
# Lazily loaded members are remembered for a device in one table for all rooms, in the order in which rooms happen to be
# answered, heroes even when redundant members are asked for: compared where there is one room. No arbitrary choices there.
LAZY: list[dict[str, Any]] = [
    {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 4}}},
    {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 2}, "include_leave": True}},
    {"room": {"state": {"lazy_load_members": True, "include_redundant_members": True}, "timeline": {"limit": 3}}},
    {"room": {"timeline": {"limit": 50}, "include_leave": True}},
]
# filters, rooms at the beginning, forks
WALKS = ((PLAIN, 4, False), (LAZY, 1, False), (FORKED, 4, True))
RULES = ("joined", "invited", "shared", "world_readable")
JOIN_RULES = ("invite", "public", "knock")


class Walk:
    """The people, their rooms, and what they may do next."""

    def __init__(self, context: Context, seed: int, filters: list[dict[str, Any]], forks: bool) -> None:
        self.context, self.random, self.filters, self.forks = context, random.Random(seed), filters, forks
        context.choices = True
        self.people = [context.user(name) for name in ("ann", "ben", "cat", "dan")]
        self.seconds = [context.device(person.user_id, "D2") for person in self.people[:2]]
        self.rooms: list[str] = []
        self.events: dict[str, list[str]] = {}
        self.roots: dict[str, list[str]] = {}
        self.tokens: dict[int, list[str]] = {}
        self.serial = 0
        self.log: list[str] = []

    def pick(self, items: Any) -> Any:
        """Choose one."""
        return self.random.choice(items)

    def create(self) -> None:
        """Make a room, with many rights for everybody."""
        who = self.pick(self.people)
        some = [p.user_id for p in self.people if p is not who and self.random.random() < 0.5]
        initial = [
            {
                "type": "m.room.history_visibility",
                "state_key": "",
                "content": {"history_visibility": self.pick(RULES)},
            },
            {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": self.pick(JOIN_RULES)}},
        ]
        options: dict[str, Any] = {"name": f"Room {len(self.rooms)}"} if self.random.random() < 0.5 else {}
        room = who.do.create_room(
            invite=some,
            initial_state=initial,
            preset="private_chat",
            power_level_content_override={"users": {p.user_id: 100 for p in self.people}},
            **({"room_version": self.pick(["6", "9", "10", "11"])}),
            **options,
        )
        self.rooms.append(room)
        self.events[room] = []
        self.roots[room] = []

    def act(self) -> None:
        """Do one thing; what the rules of the room forbid is no harm."""
        who, room = self.pick(self.people), self.pick(self.rooms)
        what = self.pick(
            ["text"] * 8
            + ["thread", "thread", "edit", "react", "redact", "state", "rule", "join", "join", "join", "leave", "invite"]
            + ["invite", "kick", "ban", "unban", "receipt", "receipt", "private", "profile", "account", "tag", "ignore"]
            + ["forget", "knock", "device", "mention", "push", "name", "createmore", "joinrule", "read_marker"]
        )
        self.log.append(f"{who.user_id} {what} {room}")
        try:
            self.perform(who, room, what)
        except MatrixError:
            self.log.append("  refused")

    def perform(self, who: Device, room: str, what: str) -> None:  # noqa: C901 - a table in code
        """Do the thing named."""
        self.serial += 1
        do, n, other = who.do, self.serial, self.pick(self.people).user_id
        events, roots = self.events[room], self.roots[room]
        if what == "text":
            events.append(do.text(room, f"text {n}"))
        elif what == "mention":
            events.append(do.text(room, f"hey {other}", **{"m.mentions": {"user_ids": [other]}}))
        elif what == "thread":
            if not roots or self.random.random() < 0.3:
                roots.append(do.text(room, f"root {n}"))
            relates = {"rel_type": "m.thread", "event_id": self.pick(roots)}
            events.append(do.text(room, f"in thread {n}", **{"m.relates_to": relates}))
        elif what == "edit" and events:
            target = self.pick(events[-6:])
            new = {"msgtype": "m.text", "body": f"edited {n}"}
            relates = {"rel_type": "m.replace", "event_id": target}
            events.append(do.text(room, f"* edited {n}", **{"m.new_content": new, "m.relates_to": relates}))
        elif what == "react" and events:
            relates = {"rel_type": "m.annotation", "event_id": self.pick(events), "key": f"{n}"}
            do.send(room, {"m.relates_to": relates}, "m.reaction")
        elif what == "redact" and events:
            do.redact(room, self.pick(events[-8:]))
        elif what == "state":
            do.state(room, self.pick(["m.room.topic", "org.example.thing"]), {"topic": f"topic {n}"})
        elif what == "name":
            do.state(room, "m.room.name", {"name": f"name {n}"} if self.random.random() < 0.6 else {})
        elif what == "rule":
            do.state(room, "m.room.history_visibility", {"history_visibility": self.pick(RULES)})
        elif what == "joinrule":
            do.state(room, "m.room.join_rules", {"join_rule": self.pick(JOIN_RULES)})
        elif what == "join":
            do.join(room)
        elif what == "knock":
            do.knock(room)
        elif what in ("leave", "forget"):
            do.membership(room, what)
        elif what in ("invite", "kick", "ban", "unban"):
            do.membership(room, what, other)
        elif what in ("receipt", "private") and events:
            thread = self.pick([None, None, "main", *roots[-2:]])
            do.receipt(room, self.pick(events[-6:]), "m.read" if what == "receipt" else "m.read.private", thread)
        elif what == "read_marker" and events:
            do.call("POST", f"/rooms/{room}/read_markers", {"m.fully_read": events[-1], "m.read": events[-1]})
        elif what == "profile":
            # In one room: a change of the profile would go to all rooms in the background, while questions are asked.
            do.state(room, "m.room.member", {"membership": "join", "displayname": f"name {n}"}, who.user_id)
        elif what == "account":
            do.account_data(f"org.example.{n % 3}", {"n": n}, self.pick([None, room]))
        elif what == "tag":
            do.call(self.pick(["PUT", "PUT", "DELETE"]), f"/user/{who.user_id}/rooms/{room}/tags/u.{n % 2}", {})
        elif what == "ignore":
            people = {p.user_id: {} for p in self.people if p is not who and self.random.random() < 0.2}
            do.account_data("m.ignored_user_list", {"ignored_users": people})
        elif what == "device":
            do.to_device("org.example.msg", {other: {"D1": {"n": n}, "D2": {"n": n}}})
        elif what == "push":
            do.call(
                "PUT",
                f"/pushrules/global/room/{room}",
                {"actions": self.pick([[], ["notify"], ["notify", {"set_tweak": "highlight"}]])},
            )
        elif what == "createmore" and 1 < len(self.rooms) < 7:
            self.create()

    def burst(self) -> None:
        """Several at once: forks in the history of a room, and writers side by side."""
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(self.act) for _ in range(self.random.randint(3, 8))]:
                future.result()

    def go(self, steps: int, rooms: int) -> None:
        """Walk."""
        for _ in range(rooms):
            self.create()
        for _ in range(steps):
            if self.forks and self.random.random() < 0.25:
                self.burst()
            else:
                for _ in range(self.random.randint(1, 5)):
                    self.act()
            for _ in range(self.random.randint(1, 2)):
                self.ask()

    def ask(self) -> None:
        """Ask for somebody: onwards, from some earlier token, or from nothing."""
        self.serial += 1
        who = self.pick(self.people + self.seconds)
        known = self.tokens.setdefault(id(who), [])
        query: dict[str, Any] = {
            "filter": {"presence": {"types": []}, **self.pick(self.filters), "org.example.serial": self.serial}
        }
        chance = self.random.random()
        if chance < 0.35 and known:
            query["since"] = self.pick(known)
            step = "again from an earlier token"
        elif chance < 0.43:
            query["since"] = None
            step = "from nothing"
        else:
            step = "onwards"
        if self.random.random() < 0.06:
            query["full_state"] = True
        self.log.append(f"? {who.user_id} {step}")
        who.ask(f"{self.serial}: {who.user_id} {who.do.device_id} {step}", **query)
        if who.since:
            known.append(who.since)


def run(context: Context) -> None:
    seed, steps = (int(os.environ.get(f"CHAPPE_TEST_{name}", value)) for name, value in (("SEED", "1"), ("STEPS", "40")))
    for filters, rooms, forks in WALKS:
        walk = Walk(context, seed, filters, forks)
        try:
            walk.go(steps, rooms)
        except AssertionError:
            folder = context.report / context.name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "walk.log").write_text("\n".join(walk.log) + "\n")
            raise
