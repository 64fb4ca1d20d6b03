# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""State that resolution changes without an event of its own: conflicts, resets, bans that race with joins.

Asked with `state` and with MSC4222's `state_after`, which differ exactly here.
"""

from __future__ import annotations

from typing import Any

from oracle.context import Context, Device
from oracle.puppet import Puppet, Room

FEDERATION = True
SETTINGS = {"experimental_features": {"msc4222_enabled": True}}

LOW = {"state_default": 0, "events": {}, "users_default": 0}
WIDE = {"presence": {"types": []}, "room": {"timeline": {"limit": 50}}}
SMALL = {"presence": {"types": []}, "room": {"timeline": {"limit": 1}}}
AFTER = {"org.matrix.msc4222.use_state_after": True}


class Side:
    """The same user's clients: each asks from its own token in its own way."""

    def __init__(self, context: Context, user: Device) -> None:
        self.user_id = user.user_id
        self.context = context
        ways: list[tuple[str, dict[str, Any]]] = [
            ("wide", {"filter": WIDE}),
            ("small", {"filter": SMALL}),
            ("after", {"filter": WIDE, **AFTER}),
            ("small after", {"filter": SMALL, **AFTER}),
        ]
        self.clients = [(name, context.device(user.user_id, f"W{i}"), how) for i, (name, how) in enumerate(ways)]

    def ask(self, step: str) -> None:
        """Ask in all ways."""
        for name, device, how in self.clients:
            device.ask(f"{step}: {name}", **how)


def run(context: Context) -> None:
    context.choices = True  # branches disagree: of a timeline's two ends Synapse sends one
    _conflict(context)
    _reset(context)
    _ban_against_join(context)
    _everybody_left(context)


def _start(context: Context, **power: Any) -> tuple[Device, Side, Puppet, Room, str]:
    alice, puppet = context.user("alice"), context.federation.puppet
    pat = puppet.user("pat")
    levels = {**LOW, **power}
    room_id = context.room(
        alice, preset="public_chat", name="Resets", room_version="10", power_level_content_override=levels
    )
    room = puppet.join(room_id, pat)
    context.federation.member(room_id, pat, "join")
    side = Side(context, alice)
    side.ask("initial")
    return alice, side, puppet, room, pat


def _conflict(context: Context) -> None:
    """Both set a topic at the same time; then the branches join (case 46)."""
    alice, side, puppet, room, pat = _start(context)
    old = list(room.latest)
    ours = alice.do.state(room.room_id, "m.room.topic", {"topic": "ours"})
    context.federation.told(room, ours)
    side.ask("our topic")
    theirs = room.make("m.room.topic", {"topic": "theirs"}, sender=pat, key="", prev=old, follow=False)
    context.federation.deliver(room, theirs)
    side.ask("their topic beside ours")
    late = room.make(
        "m.room.topic", {"topic": "earlier"}, sender=pat, key="", prev=old, follow=False, origin_server_ts=1000
    )
    context.federation.deliver(room, late)
    side.ask("a topic that loses")
    context.federation.told(room, alice.do.text(room.room_id, "all branches joined"))
    side.ask("all branches joined")


def _reset(context: Context) -> None:
    """A branch that does not know of a change brings back what was before (case 46)."""
    alice, side, puppet, room, pat = _start(context)
    alice.do.state(room.room_id, "m.room.topic", {"topic": "one"})
    last = alice.do.state(room.room_id, "org.example.state", {"n": 1}, "key")
    context.federation.told(room, last)
    old = list(room.latest)
    for number in (2, 3):
        alice.do.state(room.room_id, "m.room.topic", {"topic": f"number {number}"})
        context.federation.told(room, alice.do.state(room.room_id, "org.example.state", {"n": number}, "key"))
    side.ask("changed twice")
    power = {**LOW, "users": {alice.user_id: 100, pat: 50}, "state_default": 50}
    # A power event of the branch that came earlier in time: what followed on ours is judged anew.
    stolen = room.make("m.room.topic", {"topic": "from the past"}, sender=pat, key="", prev=old, follow=False)
    names = [stolen]
    for number in range(3):
        names.append(puppet.text(room, pat, f"on the branch {number}", prev=names[-1:], follow=False))
    context.federation.deliver(room, *names)
    side.ask("a branch from before the changes")
    alice.do.state(room.room_id, "m.room.power_levels", power)
    side.ask("tightened")
    context.federation.told(room, alice.do.text(room.room_id, "on"))
    side.ask("on")


def _ban_against_join(context: Context) -> None:
    """Somebody joins while a moderator elsewhere bans: the ban wins (case 78)."""
    alice, side, puppet, room, pat = _start(context)
    users = {alice.user_id: 100, pat: 90}
    alice.do.state(room.room_id, "m.room.power_levels", {**LOW, "users": users})
    context.federation.told(room, alice.do.text(room.room_id, "pat may ban"))
    side.ask("a moderator elsewhere")
    bob = context.user("bob")
    theirs = Side(context, bob)
    theirs.ask("initial of the banned")
    old = list(room.latest)
    bob.do.join(room.room_id)
    context.federation.told(room, bob.do.text(room.room_id, "hello"))
    theirs.ask("joined")
    side.ask("somebody joined")
    ban = room.make(
        "m.room.member", {"membership": "ban"}, sender=pat, key=bob.user_id, prev=old, follow=False,
        auth=room.auth_events("m.room.member", bob.user_id, pat, {}, room.before(old)),
    )
    context.federation.deliver(room, ban)
    theirs.ask("banned on the other branch")
    side.ask("somebody was banned on the other branch")
    context.device(bob.user_id, "late").ask("initial of the banned, late", filter=WIDE)
    alice.do.text(room.room_id, "still here")
    theirs.ask("after the ban")
    side.ask("after the ban")


def _everybody_left(context: Context) -> None:
    """The last one here leaves; the room goes on elsewhere, unheard (case 79)."""
    alice, side, puppet, room, pat = _start(context)
    left = alice.do.call("POST", f"/rooms/{room.room_id}/leave")
    assert left == {}
    side.ask("nobody left here")
    puppet.send(room, puppet.text(room, pat, "unheard"))
    side.ask("unheard")
    archived = {"room": {"include_leave": True, "timeline": {"limit": 5}}}
    context.device(alice.user_id, "late").ask("initial, nobody left here", filter=archived)
    context.federation.join(alice.do, room.room_id)
    side.ask("back again")
