# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Users of an application service: who asks for them is the service, with no device or with one of theirs."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

from oracle.context import Context, Device
from oracle.legacy import ask
from stack.matrix import Client

TOKEN = "as-token-of-the-oracle"


class Service:
    """An application service that nobody listens at."""

    def __init__(self, context: Context) -> None:
        self.name = context.world.unique("service")
        server = context.world.settings.server_name
        registration = context.world.settings.state / "service.yaml"
        described = {
            "id": "oracle",
            "url": None,
            "as_token": TOKEN,
            "hs_token": "hs-token-of-the-oracle",
            "sender_localpart": f"{self.name}-bot",
            "rate_limited": False,
            "namespaces": {"users": [{"exclusive": True, "regex": f"@{self.name}_.*:{server}"}]},
        }
        registration.write_text(json.dumps(described))
        context.world.apply({"app_service_config_files": [str(registration)]})
        self.context, self.client = context, Client(context.world.main, token=TOKEN)

    def user(self, name: str) -> Device:
        """Register a user of the service; the device has none of its own."""
        body = {"type": "m.login.application_service", "username": f"{self.name}_{name}", "inhibit_login": True}
        answer = self.client.call("POST", "/register", body)
        return Device(self.context, Client(self.context.world.main, answer["user_id"], TOKEN))

    def act(self, who: Device, method: str, path: str, body: Any = None, **query: str) -> Any:
        """Do something as one of the users."""
        return self.client.call(method, f"{path}?{urlencode({'user_id': who.user_id, **query})}", body)


def run(context: Context) -> None:
    service = Service(context)
    alice, ghost, other = context.user("alice"), service.user("ghost"), service.user("other")
    mine = {"user_id": ghost.user_id}
    ghost.ask("a ghost without rooms", **mine)
    room = alice.do.create_room(preset="private_chat", name="Bridged", invite=[ghost.user_id])
    ghost.ask("invited", **mine)
    service.act(ghost, "POST", f"/join/{quote(room)}")
    body = ghost.ask("joined", **mine)
    assert body["device_one_time_keys_count"] == {} and room in body["rooms"]["join"], body
    alice.ask("with a ghost")
    _events(context, service, alice, ghost, room)
    _device(service, alice, ghost, room)
    other.ask("another ghost", user_id=other.user_id)
    context.ask_error(ghost, "the service's own user")
    body = ask(context, ghost, "the service's own user, /events", "v3/events", timeout=0)
    assert body["chunk"] == [], body
    for version in ("v3/events", "v3/initialSync", f"v3/rooms/{quote(room, safe='')}/initialSync"):
        body = ask(context, ghost, f"a ghost at {version}", version, timeout=0, **mine)
        assert "errcode" not in body, body


def _events(context: Context, service: Service, alice: Device, ghost: Device, room: str) -> None:
    """A service is told the transaction ids of its users, whatever they were sent with."""
    mine = {"user_id": ghost.user_id}
    for number in range(2):
        path = f"/rooms/{quote(room)}/send/m.room.message/own{number}"
        sent = service.act(ghost, "PUT", path, {"msgtype": "m.text", "body": f"by the ghost {number}"}, ts="1500000000000")
    body = ghost.ask("one's own messages", **mine)
    events = body["rooms"]["join"][room]["timeline"]["events"]
    assert [event["unsigned"].get("transaction_id") for event in events] == ["own0", "own1"], events
    alice.ask("the ghost's messages")
    service.act(ghost, "PUT", f"/rooms/{quote(room)}/redact/{quote(sent['event_id'])}/redaction", {})
    alice.do.text(room, f"hello {ghost.user_id}")
    alice.do.receipt(room, sent["event_id"])
    service.act(ghost, "PUT", f"/rooms/{quote(room)}/typing/{quote(ghost.user_id)}", {"typing": True, "timeout": 30000})
    service.act(ghost, "PUT", f"/user/{quote(ghost.user_id)}/account_data/org.example.ghost", {"a": 1})
    ghost.ask("a redaction, a mention, a receipt, account data", **mine)
    service.act(ghost, "PUT", f"/rooms/{quote(room)}/typing/{quote(ghost.user_id)}", {"typing": False})
    lazy = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
    ghost.since = None
    ghost.ask("initial, lazily", filter=lazy, **mine)
    # What such a user was told is not remembered here (a decision), so it is asked for in full.
    redundant = {"room": {"state": {"lazy_load_members": True, "include_redundant_members": True}, "timeline": {"limit": 1}}}
    for number in range(2):
        alice.do.text(room, f"more {number}")
        ghost.ask("lazily", filter=redundant, **mine)
    stored = service.act(ghost, "POST", f"/user/{quote(ghost.user_id)}/filter", lazy)["filter_id"]
    ghost.ask("a stored filter", filter=stored, **mine)
    query = {"timeout": 20000, "filter": {"presence": {"types": []}}, **mine}
    context.ask_parked(ghost, "a message while parked", lambda: alice.do.text(room, "wake up"), **query)


def _device(service: Service, alice: Device, ghost: Device, room: str) -> None:
    """With one of the user's devices: its messages, its keys, its own transaction ids."""
    login = {"type": "m.login.application_service", "identifier": {"type": "m.id.user", "user": ghost.user_id}}
    answer = service.client.call("POST", "/login", {**login, "device_id": "GHOST"})
    signed = {"key": "A" * 43, "signatures": {ghost.user_id: {"ed25519:GHOST": "B" * 86}}}
    Client(service.context.world.main, ghost.user_id, answer["access_token"]).call(
        "POST", "/keys/upload", {"one_time_keys": {"signed_curve25519:A": signed}}
    )
    alice.do.to_device("org.example.to", {ghost.user_id: {"GHOST": {"n": 1}}})
    for name in ("org.matrix.msc3202.device_id", "device_id"):
        with_device = {"user_id": ghost.user_id, name: "GHOST"}
        ghost.since = None
        ghost.ask(f"initial, {name}", **with_device)
        service.act(
            ghost, "PUT", f"/rooms/{quote(room)}/send/m.room.message/{name}", {"msgtype": "m.text", "body": name}, **{name: "GHOST"}
        )
        ghost.ask(f"one's own message, {name}", **with_device)
        ghost.ask(f"the same without a device, {name}", since=None, user_id=ghost.user_id)
    own = Device(ghost.context, Client(service.context.world.main, ghost.user_id, answer["access_token"], "GHOST"))
    own.ask("the device itself, initial")
    alice.do.text(room, "for the device")
    own.ask("the device itself")
