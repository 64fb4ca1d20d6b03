# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Events that a homeserver stores but does not show: rejected, soft-failed, redactions of the unknown."""

from __future__ import annotations

from oracle.context import Context, Device
from oracle.puppet import Puppet, Room

FEDERATION = True

WIDE = {"presence": {"types": []}, "room": {"timeline": {"limit": 50}}}
SMALL = {"presence": {"types": []}, "room": {"timeline": {"limit": 3}}}

_ADMIN = "io.element.synapse.admin_client_config"


def run(context: Context) -> None:
    for version in ("10", "11", "12"):
        _redactions(context, version)
    _rejected(context)
    _soft_failed(context)


def _setup(context: Context, version: str) -> tuple[Device, Room, str]:
    alice, puppet = context.user("alice"), context.federation.puppet
    pat = puppet.user("pat")
    room = puppet.join(context.room(alice, preset="public_chat", name="Refused", room_version=version), pat, version)
    context.federation.member(room.room_id, pat, "join")
    alice.ask(f"version {version}: initial", filter=WIDE)
    return alice, room, pat


def _redaction(room: Room, sender: str, target: str) -> str:
    where = {"content": {"redacts": target}} if room.number >= 11 else {"content": {}, "redacts": target}
    content = {"reason": "why not", **where.pop("content")}
    return room.make("m.room.redaction", content, sender=sender, **where)


def _shown(body: dict, room: Room) -> list[str]:
    timeline = body.get("rooms", {}).get("join", {}).get(room.room_id, {}).get("timeline", {})
    return [event["event_id"] for event in timeline.get("events", [])]


def _redactions(context: Context, version: str) -> None:
    """Of what has not come yet, by somebody without power, by a user's neighbour (cases 31, 32, 94)."""
    alice, room, pat = _setup(context, version)
    far, puppet = context.federation, context.federation.puppet
    old = list(room.latest)
    late = puppet.text(room, pat, "to be redacted before it comes", prev=old, follow=False)
    withheld = _redaction(room, pat, late)
    far.deliver(room, withheld)
    body = alice.ask(f"version {version}: a redaction of the unknown", filter=WIDE)
    assert withheld not in _shown(body, room), "the redaction was not withheld"
    assert not alice.ask(f"version {version}: from a token at the withheld redaction", filter=WIDE).get("rooms")
    small = context.device(alice.user_id, "small")
    small.ask(f"version {version}: initial with a withheld redaction", filter=SMALL)
    second = context.device(alice.user_id, "D2")
    second.ask(f"version {version}: initial with a withheld redaction, wide", filter=WIDE)
    far.deliver(room, late)
    body = alice.ask(f"version {version}: its target comes", filter=WIDE)
    assert late in _shown(body, room), body
    small.ask(f"version {version}: its target comes, small", filter=SMALL)
    second.ask(f"version {version}: its target comes, to a newer client", filter=WIDE)
    context.device(alice.user_id, "D3").ask(f"version {version}: initial with both", filter=WIDE)
    mine = alice.do.text(room.room_id, "alice's own")
    far.told(room, mine)
    powerless = _redaction(room, pat, mine)
    far.deliver(room, powerless)
    body = alice.ask(f"version {version}: a redaction without power", filter=WIDE)
    assert _shown(body, room) == [mine], body
    # Who acts for the server that the target came from needs no power.
    quin = puppet.user("quin")
    join, target = puppet.member(room, quin), puppet.text(room, quin, "quin's own")
    far.deliver(room, join, target)
    second.ask(f"version {version}: before a neighbour's redaction", filter=WIDE)
    far.deliver(room, _redaction(room, pat, target))
    body = alice.ask(f"version {version}: a neighbour's redaction", filter=WIDE)
    second.ask(f"version {version}: a neighbour's redaction alone", filter=WIDE)
    far.deliver(room, _redaction(room, pat, target))
    second.ask(f"version {version}: redacted twice", filter=WIDE)
    far.arrived(alice.do.redact(room.room_id, target, "and thrice"))
    second.ask(f"version {version}: redacted thrice", filter=WIDE)
    context.device(alice.user_id, "D4").ask(f"version {version}: initial after all", filter=WIDE)


def _rejected(context: Context) -> None:
    """An event that its own state forbids takes a place in the stream, and is not shown (case 30)."""
    alice, room, pat = _setup(context, "10")
    far, puppet = context.federation, context.federation.puppet
    name = room.make("m.room.name", {"name": "taken over"}, sender=pat, key="", follow=False)
    puppet.send(room, name)
    far.arrived(name)
    body = alice.ask("a rejected event alone", filter=WIDE)
    assert not body.get("rooms"), body
    for number in range(3):
        far.told(room, alice.do.text(room.room_id, f"allowed {number}"))
        bad = room.make("m.room.topic", {"topic": f"not allowed {number}"}, sender=pat, key="", follow=False)
        puppet.send(room, bad)
        far.arrived(bad)
    context.device(alice.user_id, "D2").ask("initial, few, with rejected ones between", filter=SMALL)
    alice.ask("rejected ones between", filter=WIDE)
    stranger = puppet.text(room, puppet.user("stranger"), "never joined", follow=False)
    puppet.send(room, stranger)
    far.arrived(stranger)
    # What follows a rejected event is all right itself.
    room.add(room.events[bad])
    after = puppet.text(room, pat, "after a rejected event")
    far.deliver(room, after)
    alice.ask("after a rejected event", filter=WIDE)
    context.device(alice.user_id, "D3").ask("initial with rejected ones", filter=WIDE)


def _soft_failed(context: Context) -> None:
    """What was right where it was said but is not now: a banned user's late words (case 38).

    A server administrator may ask to see them.
    """
    alice, room, pat = _setup(context, "10")
    admin = Device(context, context.world.device(context.world.new_user("admin", admin=True), url=context.world.main))
    admin.do.join(room.room_id)
    admin.ask("initial of an administrator", filter=WIDE)
    far, puppet = context.federation, context.federation.puppet
    old = list(room.latest)
    alice.do.membership(room.room_id, "ban", pat, reason="spam")
    alice.ask("banned a remote user", filter=WIDE)
    before = str(alice.since)
    first = puppet.text(room, pat, "before I knew of the ban", prev=old, follow=False)
    far.deliver(room, first)
    assert far.sql(f"SELECT count(*) FROM events WHERE event_id = '{first}' AND rejection_reason IS NULL") == "1"
    body = alice.ask("a soft-failed message", filter=WIDE)
    assert not body.get("rooms"), body
    assert alice.since != before, "the position did not move over the soft-failed event"
    admin.ask("a soft-failed message, not asked for", filter=WIDE)
    admin.do.account_data(_ADMIN, {"return_soft_failed_events": True})
    admin.ask("asked for now", filter=WIDE)
    move = room.make("m.room.member", {"membership": "join", "displayname": "still"}, sender=pat, key=pat, prev=old, follow=False)
    far.deliver(room, move)
    admin.ask("a soft-failed member event, asked for", filter=WIDE)
    second = puppet.text(room, pat, "and another thing", prev=old, follow=False)
    far.deliver(room, second)
    body = admin.ask("a soft-failed message, asked for", filter=WIDE)
    assert _shown(body, room) == [second], body
    context.device(admin.user_id, "D2").ask("initial, asked for", filter=WIDE)
    alice.do.text(room.room_id, "peace")
    alice.ask("a soft-failed member event, then a message", filter=WIDE)
    context.device(alice.user_id, "D2").ask("initial with soft-failed ones", filter=WIDE)
    context.device(alice.user_id, "D3").ask("initial with soft-failed ones, few", filter=SMALL)
