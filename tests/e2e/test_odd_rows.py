# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Rows of the database that cannot be read: each is left out and counted, the rest is answered."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from e2e.test_failures import restart, sync_server
from stack.matrix import Client, Link
from support.world import World

pytestmark = pytest.mark.chappe_only


def poisoned(world: World) -> set[str]:
    """Return the reasons for which something has been left out."""
    reply = Link(f"http://127.0.0.1:{world.settings.ports.chappe_metrics}").request("GET", "/metrics")
    lines = [line for line in reply.raw.decode().splitlines() if line.startswith("chappe_model_poisoned_total{")]
    return {line.split('reason="', 1)[1].split('"', 1)[0] for line in lines}


def corrupt(world: World, *statements: str) -> None:
    """Change rows while Chappe is away: nobody announces such a change."""
    server = sync_server(world)
    server.stop()
    for statement in statements:
        world.deployment.postgres.psql(statement)
    restart(server)


def timeline(body: dict[str, Any], room: str) -> list[str]:
    """Return the event ids of a room's timeline."""
    return [event["event_id"] for event in body["rooms"]["join"][room]["timeline"]["events"]]


def set_up(alice: Client, bob: Client, room: str) -> None:
    """Make one row of each kind."""
    alice.account_data("org.example.odd", {"a": 1})
    alice.account_data("org.example.sound", {"a": 2})
    alice.account_data("org.example.odd", {"a": 3}, room)
    for tag in ("odd", "sound"):
        alice.call("PUT", f"/user/{quote(alice.user_id)}/rooms/{quote(room)}/tags/u.{tag}", {})
    for rule in ("odd", "sound"):
        alice.call("PUT", f"/pushrules/global/override/{rule}", {"conditions": [], "actions": ["notify"]})
    for n in range(3):
        bob.to_device("org.example.m", {alice.user_id: {alice.device_id: {"n": n}}})


def test_odd_rows_of_users(fragile_world: World) -> None:
    """Account data, tags, push rules, to-device messages, receipts, presence: one of each is broken."""
    alice, bob = fragile_world.new_device("rows"), fragile_world.new_device("writer")
    room = alice.create_room(preset="private_chat", invite=[bob.user_id])
    bob.join(room)
    set_up(alice, bob, room)
    event_id = bob.text(room, "read")
    alice.receipt(room, event_id)
    mine = f"user_id = '{alice.user_id}'"
    corrupt(
        fragile_world,
        f"UPDATE account_data SET content = '[\"cut' WHERE {mine} AND account_data_type = 'org.example.odd'",
        f"UPDATE room_account_data SET content = '5' WHERE {mine} AND account_data_type = 'org.example.odd'",
        f"UPDATE room_tags SET content = 'null' WHERE {mine} AND tag = 'u.odd'",
        f"UPDATE push_rules SET actions = '{{' WHERE user_name = '{alice.user_id}' AND rule_id LIKE '%/odd'",
        f"UPDATE device_inbox SET message_json = '{{\"cut' WHERE {mine} AND message_json LIKE '%\"n\":1}}%'",
        f"UPDATE receipts_linearized SET data = 'x' WHERE {mine}",
        f"UPDATE presence_stream SET state = '?', status_msg = NULL WHERE {mine}",
    )
    body = alice.sync()
    data = {event["type"]: event["content"] for event in body["account_data"]["events"]}
    assert "org.example.odd" not in data and data["org.example.sound"] == {"a": 2}, data
    rules = {rule["rule_id"] for rule in data["m.push_rules"]["global"]["override"]}
    assert "sound" in rules and "odd" not in rules, rules
    joined = body["rooms"]["join"][room]
    assert joined["account_data"]["events"] == [{"content": {"tags": {"u.sound": {}}}, "type": "m.tag"}], joined
    assert event_id in timeline(body, room), joined
    assert [message["content"]["n"] for message in body["to_device"]["events"]] == [0, 2], body["to_device"]
    after = alice.sync(since=body["next_batch"])
    assert "to_device" not in after, after
    assert {"account_data", "tag", "push_rule", "to_device", "receipt"} <= poisoned(fragile_world)


def test_odd_rows_of_rooms(fragile_world: World) -> None:
    """An event's metadata, its state group, a room's version: the other rooms and events come."""
    alice = fragile_world.new_device("rooms")
    rooms = {name: alice.create_room(preset="private_chat", name=name) for name in ("meta", "lost", "version", "sound")}
    events = {name: alice.text(room, name) for name, room in rooms.items()}
    more = {name: alice.text(room, "more") for name, room in rooms.items()}
    corrupt(
        fragile_world,
        f"UPDATE event_json SET internal_metadata = 'x' WHERE event_id = '{events['meta']}'",
        f"UPDATE event_to_state_groups SET state_group = 1999999999 WHERE event_id = '{events['lost']}'",
        f"UPDATE rooms SET room_version = 'no-such' WHERE room_id = '{rooms['version']}'",
    )
    body = alice.sync(filter={"room": {"timeline": {"limit": 50}}})
    for name in ("meta", "lost"):
        seen = timeline(body, rooms[name])
        assert events[name] not in seen and more[name] in seen, (name, seen)
    assert rooms["version"] not in body["rooms"]["join"]
    assert events["sound"] in timeline(body, rooms["sound"])
    assert {"metadata", "no_state"} <= poisoned(fragile_world)


def test_odd_filter(fragile_world: World) -> None:
    """A stored filter that cannot be read is one that is not there: the client stores another."""
    alice = fragile_world.new_device("filter")
    name = alice.filter({"room": {"timeline": {"limit": 1}}})
    localpart = alice.user_id[1:].split(":", 1)[0]
    corrupt(fragile_world, f"UPDATE user_filters SET filter_json = '{{' WHERE user_id = '{localpart}'")
    reply = alice.sync_raw(filter=name)
    assert (reply.status, reply.body["errcode"]) == (400, "M_INVALID_PARAM"), reply.body
    assert "next_batch" in alice.sync()


def test_receipts_without_a_position(fragile_world: World) -> None:
    """Rows of receipts from before they had a position do not count; the newest that has one does."""
    alice, bob = fragile_world.new_device("counts"), fragile_world.new_device("writer")
    room = alice.create_room(preset="private_chat", invite=[bob.user_id])
    bob.join(room)
    first = bob.text(room, "read")
    for kind in ("m.read", "m.read.private"):
        alice.receipt(room, first, kind)
    for number in range(3):
        bob.text(room, f"unread {number}")
    where = f"user_id = '{alice.user_id}' AND room_id = '{room}'"
    for gone, unread in (("m.read", 3), ("m.read.private", 4)):
        corrupt(
            fragile_world,
            f"UPDATE receipts_linearized SET event_stream_ordering = NULL WHERE {where} AND receipt_type = '{gone}'",
        )
        counts = alice.sync()["rooms"]["join"][room]["unread_notifications"]
        assert counts["notification_count"] == unread, (gone, counts)
