# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""What the comparison of generated scripts forgives, and what stands right beside it and is not forgiven."""

from __future__ import annotations

import json
from typing import Any

import pytest
from oracle.differ import differences
from oracle.exact import inexact, parse
from oracle.lazy import Memory, level_lazy
from oracle.normal import level_choices, shows_more

Json = dict[str, Any]
TAGS: Json = {"type": "m.tag", "content": {"tags": {"u.a": {"order": 1, "n": 2}, "m.favourite": {}}}}


def room(*events: Json, number: int = 1) -> Json:
    """Return an answer with one joined room and this state."""
    return {"rooms": {"join": {f"!r{number}:x": {"state": {"events": list(events)}}}}}


def member(event_id: str, user: str = "@bob:x") -> Json:
    """Return a join."""
    return {"type": "m.room.member", "state_key": user, "event_id": event_id, "content": {"membership": "join"}}


def told(*bodies: Json) -> Memory:
    """Return the memory of a device that got the same answers from both servers."""
    memory = Memory()
    for body in bodies:
        memory.note((body, body))
    return memory


@pytest.mark.parametrize(
    ("tags", "same"),
    [
        ({"m.favourite": {}, "u.a": {"order": 1, "n": 2}}, True),
        ({"m.favourite": {}, "u.a": {"n": 2, "order": 1}}, False),
    ],
)
@pytest.mark.parametrize("event_id", [None, "$e"])
def test_order_of_tags(tags: Json, same: bool, event_id: str | None) -> None:
    """The order of tags is up to chance; that within a tag, and within an event of that type, is not."""
    identity = {} if event_id is None else {"event_id": event_id}
    texts = [json.dumps([event | identity]).encode() for event in (TAGS, {**TAGS, "content": {"tags": tags}})]
    found = inexact(texts[0], texts[1], parse(texts[0]), parse(texts[1]), ordered=True)
    assert (not found) == (same and event_id is None)
    assert not inexact(texts[0], texts[1], parse(texts[0]), parse(texts[1]), ordered=False)


@pytest.mark.parametrize("ordered", [True, False])
def test_spelling_of_a_string(ordered: bool) -> None:
    """How a character is escaped counts, wherever its key stands."""
    texts = [b'[{"type": "a", "content": {"b": "%s"}}]' % spelling for spelling in (b"\\u00e9", "\u00e9".encode())]
    assert inexact(texts[0], texts[1], parse(texts[0]), parse(texts[1]), ordered=ordered)


def test_member_told_for_another_room() -> None:
    """A member may be missing at a server that sent that event before, if the device knows the user from several rooms."""
    memory = told(room(member("$1")), room(member("$2"), number=2))
    bodies = room(), room(member("$1"))
    assert level_lazy(memory, *bodies) == {"@bob:x"}
    assert not list(differences(*bodies))


def test_member_never_told() -> None:
    """An event that the server never sent is not to be missing."""
    memory = told(room(member("$1")), room(member("$2"), number=2))
    bodies = room(), room(member("$3"))
    assert level_lazy(memory, *bodies) == set()
    assert list(differences(*bodies))


@pytest.mark.parametrize(
    ("since", "own", "empties", "forgiven"),
    [
        (None, (), True, True),
        (None, (), False, False),
        ("s1_1", (1, 2), True, True),
        ("s1_1", (1,), True, False),
        ("s1_1", (), True, False),
    ],
)
def test_member_forgotten_for_new_rooms(since: str | None, own: tuple[int, ...], empties: bool, forgiven: bool) -> None:
    """Several rooms that are new empty the table in any order; then either side may tell again, once."""
    for sides in (1, -1):
        memory = Memory("@me:x", empties)
        memory.ask(since)
        body = {**room(member("$1")), "next_batch": {"room": "s7"}}
        body["rooms"]["join"] |= room(number=2)["rooms"]["join"]
        for number in own:
            body["rooms"]["join"][f"!r{number}:x"]["state"]["events"].append(member(f"$own{number}", "@me:x"))
        memory.note((body, body))
        memory.ask("s7_1")
        bodies = (room(), room(member("$1")))[::sides]
        level_lazy(memory, *bodies)
        assert (not list(differences(*bodies))) == forgiven
        memory.note((room(member("$1")),) * 2)
        bodies = (room(), room(member("$1")))[::sides]
        level_lazy(memory, *bodies)
        assert list(differences(*bodies))


def test_two_events_of_a_member() -> None:
    """Where the ends of a timeline disagree on a member, one of both events being known does not make it missing."""
    memory = told(room(member("$1")), room(member("$2"), number=2))
    bodies = room(member("$1")), room(member("$3"))
    assert level_lazy(memory, *bodies) == set()
    level_choices(*bodies)
    assert not list(differences(*bodies))


@pytest.mark.parametrize(
    ("since", "forgiven"),
    [("s7_1", False), ("s8_1", True), ("m7~1.8~2.7_1", True), ("m6~1.7_1", False), (None, False)],
)
def test_member_told_again(since: str | None, forgiven: bool) -> None:
    """Chappe may tell a member again to who comes with a token beyond its own, and Synapse may not."""
    memory = Memory()
    memory.note(({**room(member("$1")), "next_batch": {"room": "s7"}},) * 2)
    memory.ask(since)
    for bodies, right in (((room(), room(member("$1"))), forgiven), ((room(member("$1")), room()), False)):
        level_lazy(memory, *bodies)
        assert (not list(differences(*bodies))) == right


@pytest.mark.parametrize(("since", "forgiven"), [("s6_1", True), ("s7_1", False), ("m5~1.7_1", False), (None, False)])
def test_member_told_after_the_token(since: str | None, forgiven: bool) -> None:
    """The same of who comes with a token from before the answer that told the member, until the next question."""
    memory = Memory()
    memory.note(({**room(member("$1")), "next_batch": {"room": "s7"}},) * 2)
    memory.ask(since)
    for bodies, right in (((room(), room(member("$1"))), forgiven), ((room(member("$1")), room()), False)):
        level_lazy(memory, *bodies)
        assert (not list(differences(*bodies))) == right
    memory.ask("s7_1")
    assert level_lazy(memory, room(), room(member("$1"))) == set()


def test_member_told_first() -> None:
    """What only came after the token from elsewhere is not to be told again."""
    memory = Memory()
    memory.ask("s8_1")
    memory.note(({**room(member("$1")), "next_batch": {"room": "s9"}},) * 2)
    memory.ask("s9_1")
    bodies = room(), room(member("$1"))
    assert level_lazy(memory, *bodies) == set()


@pytest.mark.parametrize(
    ("reference", "subject", "more"),
    [
        ({"membership": "join", "displayname": "B"}, {"membership": "join"}, True),
        ({"membership": "join"}, {"membership": "join", "displayname": "B"}, False),
        ({"membership": "join", "displayname": "B"}, {"membership": "leave"}, False),
        ({"membership": "join"}, {"membership": "join"}, False),
        (None, {"membership": "join"}, False),
        ({"membership": "join"}, None, False),
    ],
)
def test_previous_content(reference: Json | None, subject: Json | None, more: bool) -> None:
    """Synapse may show more of a previous content; where anything else differs, that counts."""
    sides = [{"replaces_state": "$p", "prev_content": content} for content in (reference, subject)]
    assert shows_more(*sides) == more
    assert not shows_more({**sides[0], "age": 1}, sides[1])
    assert not shows_more(*[{"prev_content": content} for content in (reference, subject)])


@pytest.mark.parametrize("key", ["state", "org.matrix.msc4222.state_after"])
@pytest.mark.parametrize(("section", "forgiven"), [("leave", True), ("join", False)])
def test_heroes_of_a_left_room(key: str, section: str, forgiven: bool) -> None:
    """Members that only one side sends for a room that was left are heroes of today."""
    bodies: list[Json] = [{"rooms": {section: {"!r:x": {key: {"events": events}}}}} for events in ([member("$1")], [])]
    level_choices(*bodies)
    assert (not list(differences(*bodies))) == forgiven


@pytest.mark.parametrize(("limited", "known", "forgiven"), [(True, "$1", True), (False, "$1", False), (True, "$0", False)])
def test_summary_with_members_told_again(limited: bool, known: str, forgiven: bool) -> None:
    """A room with a gap has a summary because of the members in its state, which may be such as only one server sends."""
    memory = told(room(member(known)), room(member("$2"), number=2))
    bodies = room(), room(member("$1"))
    for body, summary in zip(bodies, ({}, {"m.joined_member_count": 2})):
        body["rooms"]["join"]["!r1:x"] |= {"summary": summary, "timeline": {"limited": limited, "events": []}}
    level_lazy(memory, *bodies)
    assert (not list(differences(*bodies))) == forgiven


def test_left_room_without_types() -> None:
    """A filter may leave out what events are."""
    bodies: list[Json] = [{"rooms": {"leave": {"!r:x": {"state": {"events": [{"origin_server_ts": 1}]}}}}} for _ in range(2)]
    level_choices(*bodies)
    assert not list(differences(*bodies))
    assert bodies[0]["rooms"]["leave"]["!r:x"]["state"]["events"]


@pytest.mark.parametrize(("memberships", "forgiven"), [(("join", "ban"), True), (("join", "join"), False)])
def test_presence_of_who_came_and_went(memberships: tuple[str, str], forgiven: bool) -> None:
    """Whether somebody who came to one room and left another is new, and the presence sent, is up to the rooms' order."""
    rooms = {
        f"!{index}:x": {"timeline": {"events": [member(f"${index}") | {"content": {"membership": membership}}]}}
        for index, membership in enumerate(memberships)
    }
    presence = {"events": [{"type": "m.presence", "sender": "@bob:x"}]}
    bodies = {"rooms": {"join": rooms}}, {"rooms": {"join": rooms}, "presence": presence}
    level_choices(*bodies)
    assert (not list(differences(*bodies))) == forgiven
