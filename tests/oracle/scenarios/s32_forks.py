# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Forks: events that come late with old predecessors, and state that branches disagree on."""

from __future__ import annotations

from oracle.context import Context, Device
from oracle.puppet import Puppet, Room

FEDERATION = True

WIDE = {"presence": {"types": []}, "room": {"timeline": {"limit": 50}}}
SMALL = {"presence": {"types": []}, "room": {"timeline": {"limit": 2}}}
LAZY = {"presence": {"types": []}, "room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 2}}}
NO_TOPICS = {"presence": {"types": []}, "room": {"timeline": {"limit": 50, "not_types": ["m.room.topic"]}}}

LOW = {"power_level_content_override": {"state_default": 0, "events": {}, "users_default": 0}}


class Branches:
    """A room that two servers write into, and a client for each way of asking."""

    def __init__(self, context: Context, **options: object) -> None:
        self.far = context.federation
        self.puppet: Puppet = self.far.puppet
        self.context = context
        self.alice, self.bob = context.user("alice"), context.user("bob")
        self.pat = self.puppet.user("pat")
        room_id = context.room(self.alice, self.bob, preset="public_chat", name="Forked", room_version="10", **LOW, **options)
        self.room: Room = self.puppet.join(room_id, self.pat)
        self.far.member(room_id, self.pat, "join")
        self.filters = {"wide": WIDE, "small": SMALL, "lazy": LAZY, "no topics": NO_TOPICS}
        self.devices = {name: context.device(self.alice.user_id, name) for name in self.filters}
        self.ask("initial")

    def ask(self, step: str) -> None:
        """Ask in every way, each client from its own token; then as a new client."""
        for name, device in self.devices.items():
            device.ask(f"{step}: {name}", filter=self.filters[name])

    def fresh(self, step: str, device_id: str) -> None:
        """Ask as new clients."""
        for name in ("wide", "small"):
            self.context.device(self.bob.user_id, f"{device_id}-{name}").ask(f"{step}: {name}", filter=self.filters[name])

    def near(self, body: str) -> str:
        """Say something here; the puppet learns of it."""
        name = self.alice.do.text(self.room.room_id, body)
        self.far.told(self.room, name)
        return name

    def topic(self, text: str, **how: object) -> str:
        """Let the puppet make a topic."""
        return self.room.make("m.room.topic", {"topic": text}, sender=self.pat, key="", **how)


def run(context: Context) -> None:
    _late_message(Branches(context))
    _state_on_the_branch(Branches(context))
    _long_branch(Branches(context))


def _late_message(it: Branches) -> None:
    """It comes now, however old its place is (case 37)."""
    old = list(it.room.latest)
    for number in range(3):
        it.near(f"main line {number}")
    it.ask("main line")
    late = it.puppet.text(it.room, it.pat, "late", prev=old, follow=False)
    it.far.deliver(it.room, late)
    it.ask("a late message")
    it.fresh("initial with a late message", "late")
    it.near("after it")
    it.ask("after a late message")
    older = it.puppet.text(it.room, it.pat, "very late, claims to be deep", prev=old, depth=100, follow=False)
    it.far.deliver(it.room, older)
    it.ask("a late message of great depth")
    it.fresh("initial with depth", "deep")


def _state_on_the_branch(it: Branches) -> None:
    """A state event beside the line counts, whether the window shows it or not (cases 44, 45)."""
    old = list(it.room.latest)
    it.near("main 1")
    branch = it.topic("from the branch", prev=old, follow=False)
    it.far.deliver(it.room, branch)
    it.ask("a branch with a topic, unjoined")
    for number in range(3):
        it.near(f"main {number + 2}")
    it.ask("after the branch")
    old = list(it.room.latest)
    branch = it.topic("out of the window", prev=old, follow=False)
    it.far.deliver(it.room, branch)
    last = [it.puppet.text(it.room, it.pat, f"beside {i}") for i in range(3)]
    it.far.deliver(it.room, *last)
    it.ask("the window has only the other branch")
    it.fresh("initial with a branch", "branch")
    it.near("joined again")
    it.ask("joined again")


def _long_branch(it: Branches) -> None:
    """Two servers that do not hear of each other for a while."""
    old = list(it.room.latest)
    names: list[str] = []
    prev = old
    for number in range(4):
        names.append(it.puppet.text(it.room, it.pat, f"theirs {number}", prev=prev, follow=False))
        names.append(it.topic(f"theirs {number}", prev=names[-1:], follow=False))
        prev = names[-1:]
    for number, name in enumerate(names):
        it.near(f"ours {number}")
        it.far.deliver(it.room, name)
        if number % 3 == 2:
            it.ask(f"two lines, {number}")
    it.fresh("initial with two lines", "two")
    it.alice.do.state(it.room.room_id, "m.room.topic", {"topic": "settled"})
    it.ask("settled")
