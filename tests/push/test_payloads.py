# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""What a notification says, byte for byte where Synapse leaves no choice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from push.phones import Phones


def canonical(value: Any) -> bytes:
    """Canonical JSON, by another hand than Chappe's."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def test_full(phones: Phones) -> None:
    """A message in a room of two: every member of the body, in canonical form."""
    ann, ben = phones.person("ann"), phones.person("ben")
    key = phones.phone(ben, brand="x", default_payload={"aps": {"alert": "é", "n": [1, 2.5, None]}})
    room = phones.room(ann, ben)
    event = ann.text(room, "hällo 😀")
    push = phones.events(key, 1)[-1]
    row = phones.row(key)
    assert row is not None
    expected = {
        "notification": {
            "content": {"body": "hällo 😀", "msgtype": "m.text"},
            "counts": {"unread": 1},
            "devices": [
                {
                    "app_id": "com.example.app",
                    "data": {"brand": "x", "default_payload": {"aps": {"alert": "é", "n": [1, 2.5, None]}}},
                    "pushkey": key,
                    "pushkey_ts": row["ts"] // 1000,
                    "tweaks": {"highlight": False, "sound": "default"},
                }
            ],
            "event_id": event,
            "id": event,
            "prio": "high",
            "room_id": room,
            "sender": ann.user_id,
            "sender_display_name": ann.user_id[1:].split(":")[0],
            "type": "m.room.message",
        }
    }
    assert push.raw == canonical(expected)
    assert push.headers["content-type"] == "application/json"


def test_priorities(phones: Phones) -> None:
    """Low in a room of three, high for a mention, high for what is encrypted."""
    ann, ben, cat = phones.person("ann"), phones.person("ben"), phones.person("cat")
    key = phones.phone(ben)
    room = phones.room(ann, ben, cat)
    ann.text(room, "all of you")
    ann.text(room, "you", **{"m.mentions": {"user_ids": [ben.user_id]}})
    ann.send(room, {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "abc"}, "m.room.encrypted")
    low, mention, secret = [p.notification for p in phones.events(key, 3)]
    assert (low["prio"], low["devices"][0]["tweaks"]) == ("low", {"highlight": False})
    assert mention["prio"] == "high" and mention["devices"][0]["tweaks"]["highlight"] is True
    assert secret["prio"] == "high" and secret["content"]["ciphertext"] == "abc"


def test_event_id_only(phones: Phones) -> None:
    """Nothing but ids, priority and count."""
    ann, ben = phones.person("ann"), phones.person("ben")
    room = phones.room(ann, ben)
    key = phones.phone(ben, format="event_id_only")
    event = ann.text(room, "secret")
    push = phones.events(key, 1)[-1].notification
    device = push["devices"][0]
    assert set(push) == {"event_id", "room_id", "prio", "counts", "devices"}
    assert (push["event_id"], push["room_id"], push["prio"]) == (event, room, "high")
    assert set(device) == {"app_id", "pushkey", "pushkey_ts", "data"} and device["data"] == {"format": "event_id_only"}


@pytest.mark.parametrize(
    ("members", "options", "name"),
    [
        (1, {"name": "Ops"}, "Ops"),
        (1, {"room_alias_name": "alias"}, "#alias"),
        (1, {"name": "", "room_alias_name": "alias2"}, "#alias2"),
        (1, {}, None),
        (2, {}, "{0} and {1}"),
        (4, {}, "{0} and 3 others"),
    ],
)
def test_room_names(phones: Phones, members: int, options: dict[str, Any], name: str | None) -> None:
    """A name, an alias, or who is there."""
    ben = phones.person("ben")
    others = [phones.person(f"p{i}") for i in range(members)]
    key = phones.phone(ben)
    options = dict(options)
    if "room_alias_name" in options:
        options["room_alias_name"] += ben.user_id.split("-")[1] + ben.user_id.split("-")[2].split(":")[0]
    room = phones.room(others[0], *others[1:], ben, **options)
    others[0].text(room, "hello")
    shown = phones.events(key, 1)[0].notification.get("room_name")
    if name is None:
        assert shown is None
    elif name.startswith("#"):
        assert shown is not None and shown.startswith(name)
    else:
        assert shown == name.format(*[o.user_id[1:].split(":")[0] for o in others])


def test_invitation(phones: Phones) -> None:
    """Whom it concerns, and the count of invitations."""
    ann, ben = phones.person("ann"), phones.person("ben")
    key = phones.phone(ben)
    ann.create_room(name="Party", preset="private_chat", invite=[ben.user_id])
    push = phones.events(key, 1, members=True)[0].notification
    assert (push["membership"], push["user_is_target"], push["counts"]["unread"]) == ("invite", True, 1)
    assert push["room_name"] == "Party" and push["type"] == "m.room.member"
    ann.create_room(preset="private_chat", invite=[ben.user_id])
    second = phones.events(key, 2, members=True)[1].notification
    assert second["counts"]["unread"] == 2 and "room_name" not in second


def test_names_that_are_none(phones: Phones) -> None:
    """A name that is no string is no name, and the next events come as well."""
    ann, ben = phones.person("ann"), phones.person("ben")
    key = phones.phone(ben)
    room = phones.room(ann, ben, name="Fine")
    ann.text(room, "one")
    assert phones.events(key, 1)[-1].notification["room_name"] == "Fine"
    sql = phones.world.deployment.postgres.psql
    # Synapse refuses it, other servers may not.
    sql(
        "UPDATE event_json SET json = replace(json, '\"name\":\"Fine\"', '\"name\":[1]') WHERE event_id IN"
        f" (SELECT event_id FROM current_state_events WHERE room_id = '{room}' AND type = 'm.room.name')"
    )
    ann.text(room, "two")
    push = phones.events(key, 2)[-1].notification
    if phones.world.settings.with_chappe:
        assert "room_name" not in push
    ann.text(room, "three")
    phones.events(key, 3)
