# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""What other servers send beside events: device lists, to-device messages, receipts, typing, presence."""

from __future__ import annotations

from itertools import count
from typing import Any

from oracle.context import Context, Device
from oracle.federation import Federation
from oracle.puppet import Puppet, Room

FEDERATION = True

_streams = count(1)


def run(context: Context) -> None:
    far, puppet = context.federation, context.federation.puppet
    alice, bob = context.user("alice"), context.user("bob")
    pat, quin = puppet.user("pat"), puppet.user("quin")
    room_id = context.room(alice, preset="public_chat", name="Devices", room_version="10")
    room = puppet.join(room_id, pat)
    far.member(room_id, pat, "join")
    alice.ask("initial"), bob.ask("initial of somebody else")
    _lists(context, far, puppet, room, alice, bob, pat, quin)
    _to_device(context, far, puppet, alice, pat)
    _ephemeral(context, far, puppet, room, alice, pat, quin)
    _real_neighbour(context, far, alice, room_id)


def _changed(puppet: Puppet, user: str, device: str, **more: Any) -> None:
    stream, before = next(_streams), puppet.device_streams.get(user)
    puppet.device_streams[user] = stream
    devices = [each for each in puppet.devices.get(user, []) if each["device_id"] != device]
    puppet.devices[user] = devices + ([] if more.get("deleted") else [{"device_id": device, "keys": {}}])
    # Without a known predecessor Synapse asks for the whole list; else it takes what this says.
    prev = [] if before is None else [before]
    content: dict[str, Any] = {"user_id": user, "device_id": device, "stream_id": stream, "prev_id": prev, **more}
    puppet.edu("m.device_list_update", content)


def _lists(
    context: Context, far: Federation, puppet: Puppet, room: Room, alice: Device, bob: Device, pat: str, quin: str
) -> None:
    """Those who share a room are told (case 122)."""
    far.listed(pat, lambda: _changed(puppet, pat, "PHONE", device_display_name="Phone"))
    assert pat in alice.ask("a remote device")["device_lists"]["changed"]
    assert "device_lists" not in bob.ask("of no concern")
    far.listed(pat, lambda: _changed(puppet, pat, "TABLET"))
    alice.ask("another remote device")
    far.listed(pat, lambda: _changed(puppet, pat, "PHONE", deleted=True))
    alice.ask("a remote device is gone")
    far.deliver(room, puppet.member(room, quin))
    body = alice.ask("somebody with devices came")
    assert quin in body["device_lists"]["changed"], body
    second = context.room(alice, preset="public_chat", name="Second", room_version="10")
    other = puppet.join(second, pat)
    far.member(second, pat, "join")
    alice.ask("a second room with the same")
    puppet.leave(second, pat)
    far.member(second, pat, "leave")
    assert pat not in alice.ask("left one of two rooms").get("device_lists", {}).get("left", [])
    puppet.leave(room.room_id, quin)
    far.member(room.room_id, quin, "leave")
    body = alice.ask("left the only room")
    assert quin in body["device_lists"]["left"], body
    bob.do.join(room.room_id)
    assert pat in bob.ask("came to a room with remote members")["device_lists"]["changed"]
    bob.do.membership(room.room_id, "leave")
    bob.ask("left that room")
    keys = {"user_id": pat, "usage": ["master"], "keys": {f"ed25519:{puppet.signer.public}": puppet.signer.public}}
    far.moved("device_list", lambda: puppet.edu("m.signing_key_update", {"user_id": pat, "master_key": keys}))
    alice.ask("remote signing keys")
    assert other


def _to_device(context: Context, far: Federation, puppet: Puppet, alice: Device, pat: str) -> None:
    second = context.device(alice.user_id, "D2")
    second.ask("initial of a second device")

    def send(name: str, **messages: Any) -> None:
        content = {"sender": pat, "type": "m.example", "message_id": name, "messages": {alice.user_id: messages}}
        puppet.edu("m.direct_to_device", content)

    far.moved("to_device", lambda: send("one", D1={"n": 1}, D2={"n": 2}, NOBODY={"n": 3}))
    alice.ask("to-device from afar"), second.ask("to-device from afar, second")
    far.moved("to_device", lambda: send("two", **{"*": {"all": True, "float": 1.5, "text": "\U0001f600"}}))
    alice.ask("to all devices"), second.ask("to all devices, second")
    send("two", D1={"again": True})
    alice.ask("a repeated message id")
    context.ask_parked(alice, "to-device while parked", lambda: send("three", D1={"n": 4}))


def _ephemeral(
    context: Context, far: Federation, puppet: Puppet, room: Room, alice: Device, pat: str, quin: str
) -> None:
    said = alice.do.text(room.room_id, "read me")
    far.told(room, said)
    alice.ask("before receipts")

    def receipt(user: str, event: str, kind: str = "m.read", **data: Any) -> None:
        content = {room.room_id: {kind: {user: {"event_ids": [event], "data": {"ts": 1000, **data}}}}}
        puppet.edu("m.receipt", content)

    far.moved("receipt", lambda: receipt(pat, said))
    alice.ask("a remote receipt")
    far.moved("receipt", lambda: receipt(pat, said, thread_id="main"))
    alice.ask("a remote threaded receipt")
    far.moved("receipt", lambda: receipt(pat, "$unknown-event"))
    alice.ask("a receipt for an unknown event")
    far.moved("receipt", lambda: receipt(pat, said, **{"org.example.more": [1, {"a": None}], "ts": 10**15}))
    alice.ask("a receipt with more in it")
    receipt(quin, said)
    alice.ask("a receipt of somebody who left")
    context.device(alice.user_id, "D3").ask("initial with remote receipts")

    def typing(user: str, on: bool) -> None:
        puppet.edu("m.typing", {"room_id": room.room_id, "user_id": user, "typing": on})

    far.moved("typing", lambda: typing(pat, True))
    alice.ask("remote typing")
    far.moved("typing", lambda: typing(pat, False))
    alice.ask("remote typing ended")
    typing(quin, True)
    alice.ask("typing of somebody who left")

    def presence(**state: Any) -> None:
        puppet.edu("m.presence", {"push": [{"user_id": pat, **state}]})

    far.moved("presence", lambda: presence(presence="online", status_msg="here", last_active_ago=5, currently_active=True))
    alice.ask("remote presence")
    far.moved("presence", lambda: presence(presence="unavailable"))
    alice.ask("remote presence, away")
    far.moved("presence", lambda: presence(presence="offline", status_msg=None))
    alice.ask("remote presence, gone")


def _real_neighbour(context: Context, far: Federation, alice: Device, room: str) -> None:
    """A device that uploads keys, is deleted; a user who erases the account."""
    zoe = far.user("zoe")
    far.join(zoe, room)
    alice.ask("a real neighbour came")
    keys = {"user_id": zoe.user_id, "device_id": zoe.device_id, "algorithms": [], "keys": {}, "signatures": {}}
    far.listed(zoe.user_id, lambda: zoe.call("POST", "/keys/upload", {"device_keys": keys}))
    alice.ask("keys of a real neighbour")
    said = zoe.text(room, "to be forgotten")
    far.arrived(said)
    alice.ask("words of a real neighbour")
    far.moved("to_device", lambda: zoe.to_device("m.example", {alice.user_id: {"D1": {"from": "zoe"}}}))
    alice.ask("to-device from a real neighbour")
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": zoe.user_id}, "password": "correct horse"}
    zoe.call("POST", "/account/deactivate", {"auth": auth, "erase": True})
    far.member(room, zoe.user_id, "leave")
    alice.ask("a real neighbour was erased")
    context.device(alice.user_id, "D4").ask("initial with an erased neighbour")
