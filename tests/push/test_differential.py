# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""One scenario twice, the pushers served by a Synapse worker and by Chappe: the gateway hears the same."""

from __future__ import annotations

import json

import pytest
from push.phones import Phones
from support.gateway import Gateway

pytestmark = pytest.mark.chappe_only


class Scenario:
    """People, rooms and events with names that mean the same in both runs."""

    def __init__(self, phones: Phones) -> None:
        self.phones = phones
        self.names: dict[str, str] = {}
        self.heard = 0

    def call(self, value: str, name: str) -> str:
        """Give an identifier its name."""
        self.names[value] = name
        return value

    def wait(self, key: str) -> None:
        """One more notification of an event for a pushkey."""
        self.heard += 1
        self.phones.until(lambda: len(self.phones.gateway.of(key)) >= self.heard, 30)

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
        full = self.call(phones.phone(ben, append=True, brand="x"), "FULL")
        slim = self.call(phones.phone(ben, append=True, format="event_id_only"), "SLIM")
        pair = self.call(phones.room(ann, ben), "!pair")
        self.wait(full)  # the invitation
        group = self.call(phones.room(ann, ben, cat, name="Gruppe ü"), "!group")
        self.wait(full)
        nameless = self.call(phones.room(ann, cat, ben), "!nameless")
        self.wait(full)
        mention = {"m.mentions": {"user_ids": [ben.user_id]}}
        formatted = {"format": "org.matrix.custom.html", "formatted_body": "<b>ö</b>", "n": [1, None, True]}
        number = 0
        for room, more in ((pair, {}), (group, {}), (group, mention), (nameless, formatted)):
            number += 1
            self.call(ann.text(room, f"text {number} 😀", **more), f"$text{number}")
            self.wait(full)
        secret = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "abc"}
        self.call(cat.send(group, secret, "m.room.encrypted"), "$secret")
        self.wait(full)
        ann.state(group, "m.room.name", {"name": "Group"})
        ann.state(group, "m.room.member", {"membership": "join", "displayname": "Änn"}, ann.user_id)
        self.call(ann.text(group, "@room", **{"m.mentions": {"room": True}}), "$everybody")
        self.wait(full)
        self.call(ann.create_room(preset="private_chat", name="Party", invite=[ben.user_id]), "!party")
        self.wait(full)
        phones.until(lambda: len(phones.gateway.of(slim)) == self.heard, 30)
        invitations = [push for push in phones.gateway.of(full) if push.notification["type"] == "m.room.member"]
        for index, push in enumerate(invitations):
            self.call(push.event_id or "", f"$invitation{index}")
        return {"full": self.meaning(full), "slim": self.meaning(slim)}


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
    assert by_chappe == by_synapse
