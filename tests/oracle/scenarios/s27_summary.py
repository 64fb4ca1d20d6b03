# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""The summary of a room and its heroes, for every mixture of members and every kind of name."""

from __future__ import annotations

from oracle.context import Context, Device, Json

LAZY: Json = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 2}}}
LEFT: Json = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 2}, "include_leave": True}}

# What becomes of those who are invited, in turn: j(oins), i(s left invited), l(eaves), k(icked), b(anned),
# r(ejects), n (knocks).
MIXTURES = (
    *("", "j", "i", "l", "jj", "jji", "il", "lb", "kkb", "bn", "rij", "nnj"),
    *("jjjjj", "jjjjjj", "jjjjjii", "iiiiiii", "lllllll", "llllllj", "bbbbbbj", "jlilbjr"),
)


def run(context: Context) -> None:
    """Mixtures, then names, then what brings a summary again."""
    people = [context.user(f"p{number}") for number in range(7)]
    _mixtures(context, people)
    _names(context, people)
    _again(context, people)
    _left(context, people)


def _place(room: str, creator: Device, person: Device, fate: str) -> None:
    if fate == "n":
        person.do.knock(room)
        return
    creator.do.membership(room, "invite", person.user_id)
    if fate in "jlkb":
        person.do.join(room)
    if fate in "lr":
        person.do.membership(room, "leave")
    if fate in "kb":
        creator.do.membership(room, "kick" if fate == "k" else "ban", person.user_id)


def _knockable(context: Context, creator: Device, **options: object) -> str:
    rule = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    return context.room(creator, initial_state=[rule], **options)


def _mixtures(context: Context, people: list[Device]) -> None:
    alice = context.user("alice")
    alice.ask("initial, empty", filter=LAZY)
    for mixture in MIXTURES:
        room = _knockable(context, alice)
        for person, fate in zip(people, mixture):
            _place(room, alice, person, fate)
        alice.do.text(room, "hello")
        body = alice.ask(f"a new room of {mixture or 'oneself'}", filter=LAZY)
        assert "m.joined_member_count" in body["rooms"]["join"][room]["summary"], body
    for device, query in (("D2", {}), ("D3", {"full_state": True})):
        context.device(alice.user_id, device).ask("initial with all mixtures", filter=LAZY, **query)
    context.device(alice.user_id, "D4").ask("not lazy: no summaries")
    # The view of those who joined, who are no heroes to themselves, and of those who are out.
    context.choices = True  # heroes of rooms one has left
    for person in people[:3]:
        context.device(person.user_id, "D2").ask("initial of a member", filter=LEFT)
    context.choices = False


def _names(context: Context, people: list[Device]) -> None:
    """A name or an alias makes heroes needless, unless it is empty or none."""
    alice = context.user("alice")
    room = context.room(alice, *people[:2])
    alias = f"#{room[1:8].lower()}:{alice.user_id.split(':', 1)[1]}"
    alice.do.call("PUT", f"/directory/room/{alias.replace('#', '%23')}", {"room_id": room})
    alice.ask("initial without a name", filter=LAZY)
    changes: list[tuple[str, Json]] = [
        ("m.room.name", {"name": "Named"}),
        ("m.room.name", {"name": ""}),
        ("m.room.name", {"name": " "}),
        ("m.room.canonical_alias", {"alt_aliases": [alias]}),
        ("m.room.canonical_alias", {"alias": alias, "alt_aliases": [alias]}),
        ("m.room.canonical_alias", {}),
    ]
    for number, (event_type, content) in enumerate(changes):
        alice.do.state(room, event_type, content)
        body = alice.ask(f"{event_type} {content}: no member event, no summary", filter=LAZY)
        assert body["rooms"]["join"][room]["summary"] == {}, body
        fresh = context.device(alice.user_id, f"N{number}")
        fresh.ask(f"{event_type} {content}: initial", filter=LAZY)


def _again(context: Context, people: list[Device]) -> None:
    """Member events bring the summary again, and so does a gap with one in its state."""
    alice = context.user("alice")
    room = context.room(alice, people[0])
    alice.ask("initial", filter=LAZY)
    renamed = {"membership": "join", "displayname": "One"}
    for title, act in (
        ("invited", lambda: alice.do.membership(room, "invite", people[1].user_id)),
        ("joined", lambda: people[1].do.join(room)),
        ("renamed", lambda: people[1].do.state(room, "m.room.member", renamed, people[1].user_id)),
        ("left", lambda: people[1].do.membership(room, "leave")),
        ("banned", lambda: alice.do.membership(room, "ban", people[1].user_id)),
        ("first hero left", lambda: people[0].do.membership(room, "leave")),
    ):
        act()
        body = alice.ask(f"somebody {title}", filter=LAZY)
        assert "m.joined_member_count" in body["rooms"]["join"][room]["summary"], (title, body)
        alice.do.text(room, "and a message")
        body = alice.ask(f"a message after somebody {title}", filter=LAZY)
        assert body["rooms"]["join"][room]["summary"] == {}, (title, body)
    alice.do.membership(room, "invite", people[2].user_id)
    for number in range(4):
        alice.do.text(room, f"gap {number}")
    body = alice.ask("a gap with an invitation", filter=LAZY)
    assert body["rooms"]["join"][room]["summary"]["m.invited_member_count"] == 1, body
    for number in range(4):
        alice.do.text(room, f"gap {number}")
    body = alice.ask("a gap without member events", filter=LAZY)
    assert body["rooms"]["join"][room]["summary"] == {}, body
    people[2].do.join(room)
    no_members = {"room": {"state": {"lazy_load_members": True}, "timeline": {"not_types": ["m.room.member"]}}}
    alice.do.text(room, "the join is filtered out")
    alice.ask("a join that is filtered out", filter=no_members)
    alice.ask("full state", filter=LAZY, full_state=True)
    alice.do.receipt(room, alice.do.text(room, "read"))
    alice.ask("a receipt and a message", filter=LAZY)


def _left(context: Context, people: list[Device]) -> None:
    """A room that one has left has no summary, yet the member events of its heroes."""
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob, *people[:6])
    bob.ask("initial", filter=LEFT)
    bob.do.membership(room, "leave")
    body = bob.ask("left", filter=LEFT)
    assert "summary" not in body["rooms"]["leave"][room], body
    context.device(bob.user_id, "D2").ask("initial after leaving", filter=LEFT)
