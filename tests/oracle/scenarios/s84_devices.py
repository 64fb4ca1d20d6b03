# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Device lists by everything that may change them; key counts of several algorithms; to-device pages and replays."""

from __future__ import annotations

from typing import Callable

from oracle.context import Context, Device, Json


def upload(device: Device, **keys: Json) -> None:
    """Upload keys of the right shape."""
    device.do.call("POST", "/keys/upload", keys)


def device_keys(device: Device) -> Json:
    """Make identity keys."""
    user, name = device.user_id, device.do.device_id
    return {
        "user_id": user,
        "device_id": name,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {f"curve25519:{name}": "C" * 43, f"ed25519:{name}": "D" * 43},
        "signatures": {user: {f"ed25519:{name}": "E" * 86}},
    }


def run(context: Context) -> None:
    """Triggers, then keys, then messages."""
    _triggers(context)
    _keys(context)
    _messages(context)


def _triggers(context: Context) -> None:
    """One thing at a time; every participant asks after it."""
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    everybody = (alice, bob, carol)
    for who in everybody:
        who.ask("initial")
    upload(alice, device_keys=device_keys(alice))
    for who in everybody:
        who.ask("a device without any room")
    one = context.room(alice, bob, name="One")
    two = context.room(alice, bob, name="Two", preset="public_chat")
    for who in everybody:
        who.ask("two rooms shared")
    third = context.device(bob.user_id, "D2")

    def rename() -> None:
        alice.do.state(one, "m.room.member", {"membership": "join", "displayname": "Alice"}, alice.user_id)

    steps: list[tuple[str, Callable[[], object]]] = [
        ("keys of a second device", lambda: upload(third, device_keys=device_keys(third))),
        ("a device gets a name", lambda: third.do.call("PUT", "/devices/D2", {"display_name": "Phone"})),
        ("invited", lambda: alice.do.membership(one, "invite", carol.user_id)),
        ("keys of who is invited", lambda: upload(carol, device_keys=device_keys(carol))),
        ("joined", lambda: carol.do.join(one)),
        ("joined a second shared room", lambda: carol.do.join(two)),
        ("renamed", rename),
        ("left one of two", lambda: carol.do.membership(one, "leave")),
        ("kicked from the last", lambda: alice.do.membership(two, "kick", carol.user_id)),
        ("keys of who is gone", lambda: upload(carol, device_keys=device_keys(carol))),
        ("a device is gone", third.do.logout),
        ("left, others stay", lambda: bob.do.membership(two, "leave")),
        ("banned from the last", lambda: alice.do.membership(one, "ban", bob.user_id)),
    ]
    for title, act in steps:
        marks = {who: who.since for who in everybody}
        act()
        for who in everybody:
            who.ask(title)
        for kind, section in (
            ("members filtered out", {"timeline": {"not_types": ["m.room.member"]}}),
            ("lazily", {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}),
        ):
            alice.since = marks[alice]
            alice.ask(f"{title}, {kind}", filter={"room": section})


def _keys(context: Context) -> None:
    """Counts move without ending polls; several algorithms; fallback keys used and replaced."""
    alice, bob = context.user("alice"), context.user("bob")
    second = context.device(alice.user_id, "D2")
    context.room(alice, bob)
    for who in (alice, second, bob):
        who.ask("initial")
    signed = {"key": "A" * 43, "signatures": {alice.user_id: {"ed25519:D1": "B" * 86}}}
    upload(alice, device_keys=device_keys(alice))
    upload(alice, one_time_keys={f"signed_curve25519:A{n}": signed for n in range(3)})
    upload(alice, one_time_keys={f"curve25519:B{n}": "A" * 43 for n in range(2)})
    upload(alice, fallback_keys={"signed_curve25519:F1": {**signed, "fallback": True}})
    body = alice.ask("keys of two algorithms")
    assert body["device_one_time_keys_count"] == {"signed_curve25519": 3, "curve25519": 2}, body
    second.ask("the other device has none")
    claim = {"one_time_keys": {alice.user_id: {"D1": "signed_curve25519"}}}
    for number in range(5):
        bob.do.call("POST", "/keys/claim", claim)
        body = alice.ask(f"claimed {number + 1}")
    assert body["device_unused_fallback_key_types"] == [], body
    upload(alice, fallback_keys={"signed_curve25519:F2": {**signed, "fallback": True}})
    alice.ask("a new fallback key")
    context.device(alice.user_id, "D3").ask("initial of a third device")
    master = {"keys": {f"ed25519:{'M' * 43}": "M" * 43}, "usage": ["master"], "user_id": alice.user_id}
    own = {"keys": {f"ed25519:{'S' * 43}": "S" * 43}, "usage": ["self_signing"], "user_id": alice.user_id}
    user = {"keys": {f"ed25519:{'U' * 43}": "U" * 43}, "usage": ["user_signing"], "user_id": alice.user_id}
    for key in (own, user):
        key["signatures"] = {alice.user_id: {f"ed25519:{'M' * 43}": "B" * 86}}
    keys = {"master_key": master, "self_signing_key": own, "user_signing_key": user}
    try:
        alice.do.call("POST", "/keys/device_signing/upload", keys)
    except Exception:  # noqa: BLE001 - signatures that are checked are refused; the answers must agree all the same
        pass
    for who in (alice, second, bob):
        who.ask("cross-signing keys")


def _messages(context: Context) -> None:
    """Pages of one hundred; an old token shows again only what was not acknowledged; every device its own."""
    alice, bob = context.user("alice"), context.user("bob")
    second = context.device(alice.user_id, "D2")
    start = alice.ask("initial")["next_batch"]
    second.ask("initial")
    sizes = []
    for number in range(101):
        bob.do.to_device("org.example.n", {alice.user_id: {"*": {"n": number}}})
    for step in ("first page", "second page", "nothing"):
        body = alice.ask(step)
        sizes.append(len(body.get("to_device", {}).get("events", [])))
    assert sizes == [100, 1, 0], sizes
    body = alice.ask("an old token after all was acknowledged", since=start)
    assert "to_device" not in body, body
    second.ask("the second device, first page")
    bob.do.to_device("org.example.n", {alice.user_id: {"D2": {"n": "late"}, "D1": {"n": "late"}}})
    bob.do.to_device("org.example.n", {alice.user_id: {"NOBODY": {"n": "lost"}}})
    second.ask("the second device, second page")
    second.ask("the second device, the end")
    alice.since = None
    body = alice.ask("initial shows what is left")
    assert len(body["to_device"]["events"]) == 1, body
    mark = alice.since
    for number in range(2):
        bob.do.to_device("org.example.n", {alice.user_id: {"D1": {"n": number}}})
    alice.ask("two more")
    body = alice.ask("two more, not acknowledged yet", since=mark)
    alice.ask("the end")
    wake = {"presence": {"types": []}}
    context.ask_parked(
        second,
        "a message to both devices while parked",
        lambda: bob.do.to_device("org.example.n", {alice.user_id: {"*": {"n": "both"}}}),
        filter=wake,
    )
    alice.ask("the other device has it too")
