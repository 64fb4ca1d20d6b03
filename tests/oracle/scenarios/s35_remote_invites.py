# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Invitations and knocks between servers: rooms of which nothing is known but a single event."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from oracle.context import Context, Device

FEDERATION = True

WIDE = {"presence": {"types": []}, "room": {"timeline": {"limit": 50}}}
LEFT = {"presence": {"types": []}, "room": {"include_leave": True}}


def run(context: Context) -> None:
    _between_homeservers(context)
    for version in ("10", "11", "12"):
        _invited(context, version)
    _odd_stripped_state(context)
    _unreachable(context)
    _withdrawn(context)
    _knocks(context)


def _leave(context: Context, device: Device, room_id: str) -> None:
    device.do.membership(room_id, "leave")
    context.federation.member_now(room_id, device.user_id, "leave")


def _between_homeservers(context: Context) -> None:
    """With a real neighbour: invited, declined, invited again, joined, left (case 72)."""
    far = context.federation
    alice, zoe = context.user("alice"), far.user("zoe")
    alice.ask("initial")
    room = zoe.create_room(preset="private_chat", name="Far", topic="away")
    zoe.membership(room, "invite", alice.user_id, reason="come over")
    alice.ask("invited from afar")
    context.device(alice.user_id, "D2").ask("initial while invited from afar")
    _leave(context, alice, room)
    body = alice.ask("declined an invitation from afar")
    assert body["rooms"]["leave"][room]["state"]["events"] == [], body
    context.device(alice.user_id, "D3").ask("initial after declining", filter=LEFT)
    context.ask_parked(alice, "invited again while parked", lambda: zoe.membership(room, "invite", alice.user_id))
    far.join(alice.do, room)
    alice.ask("joined a room afar")
    zoe.text(room, "welcome")
    far.arrived(zoe.text(room, "make yourself at home"))
    alice.ask("words afar")
    context.device(alice.user_id, "D4").ask("initial with a room afar")
    alice.do.membership(room, "leave")
    alice.ask("left a room afar")
    context.device(alice.user_id, "D5").ask("initial after leaving a room afar", filter=LEFT)


def _invited(context: Context, version: str) -> None:
    """By the puppet, in rooms of several versions and visibilities; the state stays unknown (cases 72, 82)."""
    puppet = context.federation.puppet
    alice, pat = context.user("alice"), puppet.user("pat")
    alice.ask(f"version {version}: initial")
    for seen in ("joined", "world_readable"):
        room = puppet.create_room(pat, version, history_visibility=seen, join_rule="invite")
        room.make("m.room.name", {"name": "Puppet's"}, sender=pat, key="")
        puppet.invite(room, pat, alice.user_id, displayname="as they call her")
        alice.ask(f"version {version}: invited, {seen}")
        context.device(alice.user_id, f"I{seen}").ask(f"version {version}: initial, invited, {seen}")
        _leave(context, alice, room.room_id)
        alice.ask(f"version {version}: declined, {seen}")
        context.device(alice.user_id, f"L{seen}").ask(f"version {version}: initial, declined, {seen}", filter=LEFT)
        puppet.invite(room, pat, alice.user_id)
        alice.ask(f"version {version}: invited again, {seen}")
        context.federation.join(alice.do, room.room_id)
        alice.ask(f"version {version}: joined, {seen}", filter=WIDE)
        context.device(alice.user_id, f"J{seen}").ask(f"version {version}: initial, joined, {seen}", filter=WIDE)


def _odd_stripped_state(context: Context) -> None:
    """What is no event among the stripped state (case 68)."""
    puppet = context.federation.puppet
    alice, pat = context.user("alice"), puppet.user("pat")
    create = {"type": "m.room.create", "state_key": "", "sender": pat, "content": {"room_version": "10", "creator": pat}}
    odd: list[list[Any]] = [
        [create, {"type": "m.room.name"}, {}],
        [create, {"type": "m.room.name", "state_key": "", "content": "text", "sender": 7, "more": [1]}],
        [create, create, {"type": "m.room.member", "state_key": alice.user_id, "sender": pat, "content": {"membership": "join"}}],
        [create, {"type": None, "state_key": None, "sender": None, "content": None, "event_id": "$x", "unsigned": {"age": 5}}],
        [],
        [create, "a string", 7, None, ["list"]],
    ]
    alice.ask("initial")
    sent = 0
    for number, stripped in enumerate(odd):
        room = puppet.create_room(pat, join_rule="invite")
        try:
            puppet.invite(room, pat, alice.user_id, stripped)
        except AssertionError as refused:
            print(f"(stripped state {number} was refused: {str(refused)[-160:]})")
            continue
        sent += 1
        alice.ask(f"odd stripped state {number}")
    assert sent >= 3, "hardly any was let in"
    context.device(alice.user_id, "D2").ask("initial with odd stripped state")


def _unreachable(context: Context) -> None:
    """The other server cannot be asked: the rejection is made up here."""
    puppet = context.federation.puppet
    alice, pat = context.user("alice"), puppet.user("pat")
    room = puppet.create_room(pat, join_rule="invite")
    puppet.invite(room, pat, alice.user_id)
    alice.ask("initial, invited")
    puppet.answers["/_matrix/federation/v1/make_leave"] = lambda path, body: (404, {"errcode": "M_NOT_FOUND", "error": ""})
    _leave(context, alice, room.room_id)
    puppet.answers.clear()
    alice.ask("declined without the other server")
    context.device(alice.user_id, "D2").ask("initial after that", filter=LEFT)
    alice.do.membership(room.room_id, "forget")
    context.device(alice.user_id, "D3").ask("initial after forgetting", filter=LEFT)


def _withdrawn(context: Context) -> None:
    """The inviter takes it back."""
    puppet = context.federation.puppet
    alice, pat = context.user("alice"), puppet.user("pat")
    room = puppet.create_room(pat, join_rule="invite")
    puppet.invite(room, pat, alice.user_id)
    alice.ask("initial, invited")
    kick = room.make("m.room.member", {"membership": "leave", "reason": "sorry"}, sender=pat, key=alice.user_id)
    puppet.send(room, kick)
    context.federation.member_now(room.room_id, alice.user_id, "leave")
    alice.ask("the invitation was withdrawn")
    context.device(alice.user_id, "D2").ask("initial after that", filter=LEFT)


def _knocks(context: Context) -> None:
    """In both directions; accepted and denied."""
    far, puppet = context.federation, context.federation.puppet
    alice, pat = context.user("alice"), puppet.user("pat")
    alice.ask("before knocking")
    room = puppet.create_room(pat, join_rule="knock")
    room.make("m.room.name", {"name": "Knock first"}, sender=pat, key="")
    where = f"/knock/{quote(room.room_id)}?server_name={quote(puppet.name)}"
    alice.do.call("POST", where, {"reason": "let me in"})
    alice.ask("knocked afar")
    context.device(alice.user_id, "D2").ask("initial while knocking afar")
    _leave(context, alice, room.room_id)
    alice.ask("took the knock back")
    alice.do.call("POST", where)
    alice.ask("knocked again")
    puppet.invite(room, pat, alice.user_id)
    alice.ask("accepted afar")
    far.join(alice.do, room.room_id)
    alice.ask("joined after knocking", filter=WIDE)
    rule = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    near = context.room(alice, name="Ours", initial_state=[rule], room_version="10")
    alice.ask("a room to knock on")
    puppet.knock(near, pat)
    far.member(near, pat, "knock")
    alice.ask("somebody knocks from afar")
    alice.do.membership(near, "kick", pat)
    alice.ask("and is denied")
