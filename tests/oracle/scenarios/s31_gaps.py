# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Gaps: events whose predecessors the homeserver does not get, and history that is filled in later.

An event that comes with unknown predecessors makes Synapse ask for what is missing. It takes what it
is given, with a gap before the oldest; were it given nothing, it would not take the event either.
"""

from __future__ import annotations

from urllib.parse import quote

from oracle.context import Context, Device
from oracle.puppet import Puppet, Room

FEDERATION = True

WIDE = {"presence": {"types": []}, "room": {"timeline": {"limit": 50}}}
LAZY = {"presence": {"types": []}, "room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 50}}}


def run(context: Context) -> None:
    puppet = context.federation.puppet
    alice, bob = context.user("alice"), context.user("bob")
    pat = puppet.user("pat")
    room_id = context.room(alice, bob, preset="public_chat", name="Gappy", room_version="10")
    room = puppet.join(room_id, pat)
    context.federation.member(room_id, pat, "join")
    alice.ask("initial", filter=WIDE), bob.ask("initial", filter=LAZY)
    _gap(context, puppet, room, pat, alice, bob)
    _relations(context, puppet, room, pat, alice)
    _fill(context, room, alice, bob)
    _partly_filled(context, puppet, room, pat, alice, bob)


def _timeline(body: dict, room: Room) -> dict:
    return dict(body["rooms"]["join"][room.room_id]["timeline"])


def _hide(puppet: Puppet, room: Room, pat: str, number: int) -> list[str]:
    names = [puppet.text(room, pat, f"nobody sees {i}") for i in range(number)]
    room.hidden.update(names)
    return names


def _gap(context: Context, puppet: Puppet, room: Room, pat: str, alice: Device, bob: Device) -> None:
    """Only what follows the gap is shown, and the timeline is limited, once (cases 33, 35)."""
    names = _hide(puppet, room, pat, 4)
    shown = [puppet.text(room, pat, "after the gap"), puppet.text(room, pat, "at its end")]
    context.federation.deliver(room, shown[-1])
    timeline = _timeline(alice.ask("a gap", filter=WIDE), room)
    assert timeline["limited"] and [event["event_id"] for event in timeline["events"]] == shown, timeline
    bob.ask("a gap, lazily", filter=LAZY)
    context.federation.deliver(room, puppet.text(room, pat, "and on"))
    timeline = _timeline(alice.ask("nothing missing since", filter=WIDE), room)
    assert not timeline["limited"], timeline
    context.federation.told(room, bob.do.text(room.room_id, "said here"))
    bob.ask("nothing missing since, lazily", filter=LAZY)
    late = context.device(alice.user_id, "late")
    assert _timeline(late.ask("initial with an old gap", filter=WIDE), room)["limited"]
    _gap_with_state(context, puppet, room, pat)
    alice.ask("state changed in the gap", filter=WIDE)
    bob.ask("state changed in the gap", filter=LAZY)
    late.ask("state changed in the gap", filter={"room": {"timeline": {"limit": 1}}})
    assert names


def _gap_with_state(context: Context, puppet: Puppet, room: Room, pat: str) -> None:
    """What nobody has seen is a name change and a newcomer."""
    other = puppet.user("quin")
    names = [
        room.make("m.room.member", {"membership": "join", "displayname": "Pat!"}, sender=pat, key=pat),
        puppet.member(room, other),
        puppet.text(room, other, "hidden too"),
    ]
    room.hidden.update(names)
    puppet.text(room, other, "after the second gap")
    context.federation.deliver(room, puppet.text(room, other, "at its end"))


def _relations(context: Context, puppet: Puppet, room: Room, pat: str, alice: Device) -> None:
    """A timeline that is limited by a gap alone has no bundled relations (case 34)."""
    alice.ask("before relations", filter=WIDE)
    _hide(puppet, room, pat, 1)
    root = puppet.text(room, pat, "the root")
    relation = {"m.relates_to": {"rel_type": "m.reference", "event_id": root}}
    context.federation.deliver(room, room.make("org.example.note", relation, sender=pat))
    events = _timeline(alice.ask("a gap before related events", filter=WIDE), room)["events"]
    assert all("m.relations" not in event["unsigned"] for event in events), events
    context.device(alice.user_id, "relations").ask("initial with them", filter=WIDE)


def _fill(context: Context, room: Room, alice: Device, bob: Device) -> None:
    """A client pages back, so that history is fetched: no news, but in fresh timelines (case 36)."""
    alice.ask("before", filter=WIDE)
    room.hidden.clear()
    token = _timeline(context.device(alice.user_id, "pager").ask("initial", filter={"room": {"timeline": {"limit": 1}}}), room)
    position = token["prev_batch"]
    seen: list[str] = []
    for _ in range(8):
        path = f"/rooms/{quote(room.room_id)}/messages?dir=b&limit=10&from={quote(position)}"
        page = alice.do.call("GET", path)
        seen += [event["content"].get("body", "") for event in page["chunk"]]
        if "end" not in page:
            break
        position = page["end"]
    context.federation.digested()
    assert "nobody sees 0" in seen and "hidden too" in seen, seen
    assert room.room_id not in alice.ask("filled in: no news", filter=WIDE).get("rooms", {}).get("join", {})
    context.federation.told(room, alice.do.text(room.room_id, "news"))
    alice.ask("filled in: news only", filter=WIDE)
    bob.ask("filled in: news only, lazily", filter=LAZY)
    for limit in (3, 8, 50):
        body = context.device(bob.user_id, f"L{limit}").ask("initial", filter={"room": {"timeline": {"limit": limit}}})
        bodies = [event["content"].get("body") for event in _timeline(body, room)["events"]]
    assert "nobody sees 0" in bodies, bodies


def _partly_filled(
    context: Context, puppet: Puppet, room: Room, pat: str, alice: Device, bob: Device
) -> None:
    """More is missing than a server asks for: it gets the newest ten, the gap is before those."""
    for number in range(14):
        last = puppet.text(room, pat, f"one of many {number}")
    context.federation.deliver(room, last)
    alice.ask("ten of fourteen", filter=WIDE)
    bob.ask("ten of fourteen, three shown", filter={"room": {"timeline": {"limit": 3}}})
    context.device(alice.user_id, "after").ask("initial", filter=WIDE)
    alice.do.text(room.room_id, "the end")
    alice.ask("not limited any more", filter=WIDE)
