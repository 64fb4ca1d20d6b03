# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""To-device messages, device lists, one-time and fallback key counts."""

from __future__ import annotations

from oracle.context import Context, Device


def _keys(device: Device, one_time: int = 0, fallback: bool = False, identity: bool = False) -> None:
    """Upload keys that have the right shape; the server does not check signatures."""
    user, name = device.user_id, device.do.device_id
    body: dict[str, object] = {}
    signed = {"key": "A" * 43, "signatures": {user: {f"ed25519:{name}": "B" * 86}}}
    if identity:
        body["device_keys"] = {
            "user_id": user,
            "device_id": name,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {f"curve25519:{name}": "C" * 43, f"ed25519:{name}": "D" * 43},
            "signatures": {user: {f"ed25519:{name}": "E" * 86}},
        }
    if one_time:
        body["one_time_keys"] = {f"signed_curve25519:AAAA{n:02}": signed for n in range(one_time)}
    if fallback:
        body["fallback_keys"] = {"signed_curve25519:FFFF": {**signed, "fallback": True}}
    device.do.call("POST", "/keys/upload", body)


def run(context: Context) -> None:
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    second = context.device(alice.user_id, "D2")
    context.room(alice, bob)
    for device in (alice, second, bob, carol):
        device.ask("initial")
    _keys(alice, one_time=5, fallback=True, identity=True)
    body = alice.ask("keys uploaded")
    assert body["device_one_time_keys_count"]["signed_curve25519"] == 5, body
    assert body["device_unused_fallback_key_types"] == ["signed_curve25519"], body
    body = bob.ask("device list changed for someone in the room")
    assert alice.user_id in body["device_lists"]["changed"], body
    carol.ask("and not for a stranger")
    claim = {"one_time_keys": {alice.user_id: {alice.do.device_id: "signed_curve25519"}}}
    bob.do.call("POST", "/keys/claim", claim)
    alice.ask("one key claimed")
    bob.do.to_device("m.room_key_request", {alice.user_id: {alice.do.device_id: {"n": 1}}})
    bob.do.to_device("org.example.all", {alice.user_id: {"*": {"n": 2, "text": "é"}}})
    body = alice.ask("two to-device messages")
    assert len(body["to_device"]["events"]) == 2, body
    body = alice.ask("not again")
    assert "to_device" not in body, body
    second.ask("one for the second device")
    context.ask_parked(
        alice,
        "a to-device message while parked",
        lambda: bob.do.to_device("org.example.wake", {alice.user_id: {alice.do.device_id: {"n": 3}}}),
    )
    context.ask_parked(bob, "a new device's keys while parked", lambda: _keys(second, identity=True))
    alice.ask("own new device")
    for number in range(120):
        bob.do.to_device("org.example.many", {alice.user_id: {alice.do.device_id: {"n": number}}})
    body = alice.ask("the first hundred")
    assert len(body["to_device"]["events"]) == 100, len(body["to_device"]["events"])
    body = alice.ask("the rest")
    assert len(body["to_device"]["events"]) == 20, len(body["to_device"]["events"])
    room = context.room(bob, carol)
    bob.ask("shares a room with carol now")
    carol.ask("shares a room with bob now")
    carol.do.membership(room, "leave")
    bob.ask("shares none with carol any more")
    carol.ask("left the only shared room")
    second.do.logout()
    alice.ask("a device of mine logged out")
    bob.ask("a device of someone logged out")
