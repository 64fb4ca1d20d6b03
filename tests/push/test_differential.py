# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""One scenario twice, the pushers served by a Synapse worker and by Chappe: the gateway hears the same."""

from __future__ import annotations

import json

import pytest
from push.phones import Phones
from stack.matrix import Client, Json
from support.gateway import Gateway

pytestmark = pytest.mark.chappe_only


class Scenario:
    """People, rooms and events with names that mean the same in both runs."""

    def __init__(self, phones: Phones) -> None:
        self.phones = phones
        self.names: dict[str, str] = {}
        self.heard = 0
        self.full = self.slim = ""

    def call(self, value: str, name: str) -> str:
        """Give an identifier its name."""
        self.names[value] = name
        return value

    def wait(self) -> None:
        """One more event was told to both phones."""
        self.heard += 1
        for key in (self.full, self.slim):
            self.phones.until(lambda: len(self.phones.gateway.of(key)) >= self.heard, 30)

    def say(self, sender: Client, reader: Client, room: str, content: Json, kind: str = "m.room.message") -> None:
        """An event that is told and then read: Synapse counts right what it has not summed up yet."""
        event = self.call(sender.send(room, content, kind), f"$event{self.heard}")
        self.wait()
        alone = len(self.phones.gateway.of(self.full, events=False))
        reader.receipt(room, event)
        self.phones.until(lambda: len(self.phones.gateway.of(self.full, events=False)) > alone, 30)

    def meaning(self, key: str) -> list[str]:
        """What a pushkey was told, with names in place of identifiers."""
        lines = []
        for push in self.phones.gateway.of(key):
            notification = push.notification
            for device in notification["devices"]:
                device["pushkey_ts"] = 0
            line = json.dumps(notification, sort_keys=True, ensure_ascii=False)
            for value, name in sorted(self.names.items(), key=lambda item: -len(item[0])):
                line = line.replace(value, name)
            lines.append(line)
        return lines

    def run(self) -> dict[str, list[str]]:
        """Do it."""
        phones = self.phones
        ann, ben, cat = (phones.person(name) for name in ("ann", "ben", "cat"))
        for name, person in (("ann", ann), ("ben", ben), ("cat", cat)):
            self.call(person.user_id, f"@{name}")
            self.call(person.user_id[1:].split(":")[0], f"local-{name}")
        self.full = self.call(phones.phone(ben, append=True, brand="x"), "FULL")
        self.slim = self.call(phones.phone(ben, append=True, format="event_id_only"), "SLIM")
        rooms = []
        for name, people, options in (
            ("!pair", [ben], {}),
            ("!group", [ben, cat], {"name": "Gruppe ü"}),
            ("!nameless", [cat, ben], {}),
        ):
            rooms.append(self.call(phones.room(ann, *people, **options), name))
            self.wait()  # the invitation
            self.say(ann, ben, rooms[-1], {"msgtype": "m.text", "body": "plain 😀"})
        pair, group, nameless = rooms
        mention = {"m.mentions": {"user_ids": [ben.user_id]}}
        html = {"format": "org.matrix.custom.html", "formatted_body": "<b>ö</b>", "n": [1, None, True]}
        self.say(ann, ben, group, {"msgtype": "m.text", "body": "you", **mention})
        self.say(cat, ben, nameless, {"msgtype": "m.text", "body": "you", **html, **mention})
        self.say(cat, ben, group, {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "abc"}, "m.room.encrypted")
        self.say(ann, ben, pair, {"call_id": "1", "version": 0, "offer": {}}, "m.call.invite")
        ann.state(group, "m.room.name", {"name": "Group"})
        ann.state(group, "m.room.member", {"membership": "join", "displayname": "Änn"}, ann.user_id)
        self.say(ann, ben, group, {"msgtype": "m.text", "body": "@room", "m.mentions": {"room": True}})
        self.call(ann.create_room(preset="private_chat", name="Party", invite=[ben.user_id]), "!party")
        self.wait()
        self.call(ann.text(pair, "last"), "$last")
        self.wait()
        for index, push in enumerate(phones.gateway.of(self.full)):
            if push.notification["type"] == "m.room.member":
                self.call(push.event_id or "", f"$invitation{index}")
        return {"full": self.meaning(self.full), "slim": self.meaning(self.slim)}


def test_same_meaning(phones: Phones) -> None:
    """Every notification of the scenario, in order, is the same."""
    by_chappe = Scenario(phones).run()
    phones.world.apply({"pusher_instances": ["synapse_worker1"]})
    other = Gateway(phones.gateway.port + 5).start()
    try:
        by_synapse = Scenario(Phones(phones.world, other)).run()
    finally:
        other.stop()
        phones.world.apply({})
    assert len(by_chappe["full"]) >= 10
    for key, told in by_chappe.items():
        assert told == by_synapse[key]
