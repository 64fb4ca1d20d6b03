# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""One generated scenario twice, the pushers served by a Synapse worker and by Chappe: the gateway hears the same bytes.

A seed decides what is said where, by whom and how; identifiers, which differ between two runs, are given names
before bodies are compared byte for byte. Other seeds: CHAPPE_TEST_PUSH_SEEDS="5 6 7".
"""

from __future__ import annotations

import json
import os
import random
import re
from typing import Callable

import pytest
from push.phones import Phones
from stack.matrix import Client, Json

pytestmark = pytest.mark.chappe_only
SEEDS = [int(seed) for seed in os.environ.get("CHAPPE_TEST_PUSH_SEEDS", "1 2").split()]
STEPS = 14
BODIES = ["plain", "😀 “quoted” \\ / \u2028", "zeile\nzwei\ttab", "\u0001\u001f\u007f", "ä" * 300, ""]
NAMES = ["Gruppe ü", "<b>&\"'", "R" * 200, ""]


class Scenario:
    """People, rooms and events with names that mean the same in both runs."""

    def __init__(self, phones: Phones, seed: int, agent: str) -> None:
        world = phones.world
        self.agent, self.serving = agent, world.target if agent == "chappe" else world.worker
        self.phones, self.random = phones, random.Random(seed)
        self.names: dict[str, str] = {}
        self.heard = 0
        self.people: list[Client] = []
        self.rooms: list[tuple[str, list[Client]]] = []

    def call(self, value: str, name: str) -> str:
        """Give an identifier its name."""
        self.names[value] = name
        return value

    def wait(self) -> None:
        """One more event was told to both phones, and answered."""
        self.heard += 1
        for key in (self.full, self.slim):
            self.phones.until(lambda: len(self.phones.gateway.of(key)) >= self.heard, 30)
            self.phones.until(lambda: self.phones.gateway.of(key)[self.heard - 1].done > 0)
        event = self.phones.gateway.of(self.full)[-1].event_id
        self.call(event or "", f"$event{self.heard}")

    def read(self, room: str) -> None:
        """The reader reads what was told last; wait until the process that counts knows it."""
        event = self.phones.gateway.of(self.full)[-1].event_id
        assert event is not None
        self.reader.receipt(room, event)
        served = Client(self.serving, self.reader.user_id, self.reader.token)
        wanted = {"room": {"rooms": [room], "timeline": {"limit": 1}}}

        def unread() -> int:
            joined = served.sync(filter=json.dumps(wanted)).get("rooms", {}).get("join", {})
            return int(joined.get(room, {}).get("unread_notifications", {}).get("notification_count", 0))

        self.phones.until(lambda: unread() == 0, 30)

    # -- steps -----------------------------------------------------------------------------------

    def say(self) -> None:
        """A message of some form."""
        room, people = self.random.choice(self.rooms)
        content: Json = {"msgtype": self.random.choice(["m.text", "m.emote"]), "body": self.random.choice(BODIES)}
        if self.random.random() < 0.4:
            content["m.mentions"] = {"user_ids": [self.reader.user_id]}
        if self.random.random() < 0.3:
            odd = [1, -0, 2**53 - 1, None, True, {"b": [], "a": {}}, "é\u0000"]
            content.update({"format": "org.matrix.custom.html", "formatted_body": "<b>ö</b>", "n": odd})
        self.random.choice(people).send(room, content)
        self.told_and_read(room)

    def secret(self) -> None:
        """An encrypted event."""
        room, people = self.random.choice(self.rooms)
        content = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": f"c{self.random.random()}"}
        self.random.choice(people).send(room, content, "m.room.encrypted")
        self.told_and_read(room)

    def ring(self) -> None:
        """A call in the room of two."""
        room, people = self.rooms[0]
        people[0].send(room, {"call_id": "1", "version": 0, "offer": {}}, "m.call.invite")
        self.told_and_read(room)

    def rename(self) -> None:
        """A room or a person is called differently from now on; then a message says so."""
        room, people = self.random.choice(self.rooms)
        if self.random.random() < 0.5:
            self.rooms_creator.state(room, "m.room.name", {"name": self.random.choice(NAMES)})
        else:
            person, name = people[0], self.random.choice(["Änn", "O'Neil \\ 😀", ""])
            person.state(room, "m.room.member", {"membership": "join", "displayname": name}, person.user_id)
        self.say()

    def invite(self) -> None:
        """An invitation, which stays unanswered and counts."""
        name = self.random.choice(["Party", ""])
        room = self.rooms_creator.create_room(preset="private_chat", name=name, invite=[self.reader.user_id])
        self.call(room, f"!invited{self.heard}")
        self.wait()

    def told_and_read(self, room: str) -> None:
        """Synapse counts right what was read before the next is told, and not yet summed up."""
        self.wait()
        self.read(room)

    # -- a run -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """People and rooms."""
        phones = self.phones
        self.rooms_creator, self.reader, cat = (phones.person(name) for name in ("ann", "ben", "cat"))
        for name, person in (("ann", self.rooms_creator), ("ben", self.reader), ("cat", cat)):
            self.call(person.user_id, f"@{name}")
            self.call(person.user_id[1:].split(":")[0], f"local-{name}")
        payload = {"aps": {"alert": {"loc-key": "é"}, "mutable-content": 1}, "n": [1, 2.5, None, True]}
        self.full = self.call(phones.phone(self.reader, append=True, brand="x", default_payload=payload), "FULL")
        self.slim = self.call(phones.phone(self.reader, append=True, format="event_id_only"), "SLIM")
        ann, ben = self.rooms_creator, self.reader
        for name, others, options in (
            ("!pair", [], {}),
            ("!group", [cat], {"name": self.random.choice(NAMES[:3])}),
            ("!nameless", [cat], {}),
        ):
            room = self.call(phones.room(ann, ben, *others, **options), name)
            self.wait()  # the invitation
            self.rooms.append((room, [ann, *others]))
            ann.text(room, "first")
            self.told_and_read(room)

    def run(self) -> dict[str, list[str]]:
        """Do it; return the bodies of both phones with names in place of identifiers."""
        self.begin()
        steps: list[Callable[[], None]] = [self.say, self.say, self.say, self.secret, self.ring, self.rename, self.invite]
        for _ in range(STEPS):
            self.random.choice(steps)()
        return {"full": self.meaning(self.full), "slim": self.meaning(self.slim)}

    def meaning(self, key: str) -> list[str]:
        """The bytes that a pushkey was told."""
        lines = []
        for push in self.phones.gateway.of(key):
            assert push.headers["user-agent"].lower().startswith(self.agent)
            line = re.sub(r'"pushkey_ts":\d+', '"pushkey_ts":0', push.raw.decode())
            for value, name in sorted(self.names.items(), key=lambda item: -len(item[0])):
                line = line.replace(value, name)
            lines.append(line)
        return lines


@pytest.fixture(scope="module")
def by_chappe() -> dict[int, dict[str, list[str]]]:
    """What Chappe told, by seed."""
    return {}


@pytest.mark.parametrize("seed", SEEDS)
def test_chappe_tells(phones: Phones, by_chappe: dict[int, dict[str, list[str]]], seed: int) -> None:
    """The scenario with Chappe's pusher."""
    by_chappe[seed] = Scenario(phones, seed, "chappe").run()
    assert len(by_chappe[seed]["full"]) >= STEPS


@pytest.fixture(scope="module")
def synapse_serves(push_world: object) -> None:
    """From now on the Synapse worker is the pusher; the deployment ends with this module."""
    push_world.apply({"pusher_instances": ["synapse_worker1"]})  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", SEEDS)
def test_synapse_tells_the_same(
    phones: Phones, synapse_serves: None, by_chappe: dict[int, dict[str, list[str]]], seed: int
) -> None:
    """The same with Synapse's: every body is the same."""
    assert Scenario(phones, seed, "synapse").run() == by_chappe[seed]
