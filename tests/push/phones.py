# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""People with phones: users, their pushers, and what their gateway was told."""

from __future__ import annotations

import itertools
import json
import re
import urllib.request
from typing import Any, Callable

from stack.matrix import Client, Json
from stack.process import Process
from support.gateway import Gateway, Push
from support.world import World


class Phones:
    """What a test acts with."""

    _keys = itertools.count(1)

    def __init__(self, world: World, gateway: Gateway) -> None:
        self.world, self.gateway = world, gateway
        self.settles = True

    def person(self, name: str, **device: Any) -> Client:
        """A user with a device; requests go to the main process."""
        return self.world.device(self.world.new_user(name), url=self.world.main, **device)

    def phone(self, person: Client, url: str | None = None, append: bool = False, **data: Any) -> str:
        """Register a pusher; return its pushkey."""
        pushkey = f"key-{next(self._keys)}-{person.user_id.split('-')[1]}"
        self.set_pusher(person, pushkey, {"url": url or self.gateway.url, **data}, append=append)
        return pushkey

    def many(self, person: Client, count: int, url: str | None = None) -> list[str]:
        """Register several phones of one person; return their pushkeys."""
        self.settles = False
        keys = [self.phone(person, url=url, append=True) for _ in range(count)]
        self.settles = True
        self.settle()
        return keys

    def pusher(self) -> Process:
        """The process that serves the pushers: Chappe, or the Synapse worker in its place."""
        deployment = self.world.deployment
        return deployment.chappe.process if deployment.chappe else deployment.synapse.worker

    def set_pusher(self, person: Client, pushkey: str, data: Json | None, **more: Any) -> None:
        """POST /pushers/set; data None deletes."""
        body: Json = {
            "kind": "http" if data is not None else None,
            "app_id": "com.example.app",
            "pushkey": pushkey,
            "app_display_name": "Example",
            "device_display_name": "Phone",
            "lang": "en",
            "data": data or {},
            "append": False,
            **more,
        }
        person.call("POST", "/pushers/set", body)
        self.settle()

    def room(self, creator: Client, *members: Client, **options: Any) -> str:
        """A room in which everybody is joined."""
        options.setdefault("preset", "private_chat")
        room = creator.create_room(invite=[m.user_id for m in members], **options)
        for member in members:
            member.join(room)
        return room

    def row(self, pushkey: str) -> Json | None:
        """The pusher's row in the table."""
        text = self.world.deployment.postgres.psql(
            f"SELECT row_to_json(p) FROM pushers p WHERE pushkey = '{pushkey}'"
        ).strip()
        return dict(json.loads(text)) if text else None

    def events(self, pushkey: str, count: int, seconds: float = 15.0, members: bool = False) -> list[Push]:
        """Wait for so many notifications of events (of memberships only if asked for); return all there are."""

        def those() -> list[Push]:
            pushes = self.gateway.of(pushkey)
            return [p for p in pushes if (p.notification.get("type") == "m.room.member") == members]

        self.gateway.wait(lambda: len(those()) >= count, seconds)
        got = those()
        assert len(got) >= count, f"{len(got)} of {count} notifications came"
        return got

    def quiet(self, pushkey: str, seconds: float = 1.5, events: bool = True) -> None:
        """Nothing (more) comes for a pushkey."""
        before = len(self.gateway.of(pushkey, events))
        self.gateway.closing.wait(seconds)
        got = self.gateway.of(pushkey, events)[before:]
        assert not got, [push.raw for push in got]

    def until(self, what: Callable[[], bool], seconds: float = 15.0) -> None:
        """Something becomes so."""
        assert self.gateway.wait(what, seconds)

    def settle(self) -> None:
        """Give the pusher time to learn of a row."""
        if self.settles:
            self.gateway.closing.wait(0.4)


def metric(port: int, name: str, label: str | None = None) -> float:
    """The sum of a metric's values (those with a label's value, 0 if there are none) on a port that shows metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    if label is not None:
        lines = [line for line in lines if f'="{label}"' in line]
    values = [float(line.rsplit(None, 1)[1]) for line in lines if re.match(rf"{name}[{{ ]", line)]
    assert values or label is not None, f"no metric {name}"
    return sum(values)


def pair(phones: Phones) -> tuple[Client, Client, str, str]:
    """Two people in a room; the second one's pushkey."""
    ann, ben = phones.person("ann"), phones.person("ben")
    room = phones.room(ann, ben)
    return ann, ben, room, phones.phone(ben)


def bodies(pushes: list[Push]) -> list[str]:
    """What was told, in order of arrival."""
    return [push.notification["content"]["body"] for push in pushes]
