# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""The client model by itself: right answers are taken in, and each kind of wrong answer is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from oracle.client_model import ClientModel, ModelError

Json = dict[str, Any]
ROOM = "!r:x"
ME, BOB, CAT = "@me:x", "@bob:x", "@cat:x"
AFTER = "org.matrix.msc4222.state_after"


def message(number: int, sender: str = BOB) -> Json:
    """Return the event $m<number>."""
    return {"type": "m.room.message", "event_id": f"$m{number}", "sender": sender, "content": {"n": number}}


def member(user: str, membership: str = "join", serial: int = 1) -> Json:
    """Return a member event."""
    return {
        "type": "m.room.member",
        "state_key": user,
        "sender": user,
        "event_id": f"${user}{membership}{serial}",
        "content": {"membership": membership},
    }


def answer(section: str = "join", **room: Any) -> Json:
    """Return an answer with one room, whose entry's members can be replaced."""
    entry: Json = {
        "timeline": {"events": [], "prev_batch": "p", "limited": False},
        "state": {"events": []},
        "account_data": {"events": []},
    }
    if section == "join":
        entry |= {
            "ephemeral": {"events": []},
            "unread_notifications": {"notification_count": 0, "highlight_count": 0},
            "summary": {},
        }
    for key, value in room.items():
        entry[key] = value
    return plain(rooms={section: {ROOM: entry}})


def plain(**members: Any) -> Json:
    """Return an answer with what every answer has."""
    return {
        "next_batch": "s1",
        "device_one_time_keys_count": {"signed_curve25519": 0},
        "device_unused_fallback_key_types": [],
        **members,
    }


def timeline(*events: Json, limited: bool = False, prev_batch: str = "p") -> Json:
    """Return a timeline section."""
    return {"events": list(events), "prev_batch": prev_batch, "limited": limited}


def state(*events: Json) -> Json:
    """Return a state section."""
    return {"events": list(events)}


@pytest.fixture
def model() -> ClientModel:
    """A client that has been in a room with bob, of which it knows $m1."""
    client = ClientModel(ME, "D1")
    client.apply(answer(timeline=timeline(message(1), prev_batch="p0", limited=True), state=state(member(ME), member(BOB))))
    return client


def pager(*pages: list[Json]) -> Any:
    """Return a /messages that gives these pages one after another."""
    left = list(pages)

    def page(room_id: str, token: str | None) -> Json:
        assert room_id == ROOM
        return {"chunk": left.pop(0), **({"end": f"t{len(left)}"} if left else {})}

    return page


def ids(client: ClientModel) -> list[str]:
    """Return the ids of the room's timeline."""
    return [event["event_id"] for event in client.rooms[ROOM].timeline]


def test_goes_on(model: ClientModel) -> None:
    """Events follow one another; state comes with them."""
    topic = {"type": "m.room.topic", "state_key": "", "sender": BOB, "event_id": "$t", "content": {"topic": "x"}}
    model.apply(answer(timeline=timeline(message(2), topic)))
    assert ids(model) == ["$m1", "$m2", "$t"]
    assert model.rooms[ROOM].state[("m.room.topic", "")] == topic


def test_event_twice(model: ClientModel) -> None:
    """An event that is there already."""
    with pytest.raises(ModelError, match=r"already holds \['\$m1'\]"):
        model.apply(answer(timeline=timeline(message(1), message(2))))


def test_event_twice_in_one_answer(model: ClientModel) -> None:
    """An event twice in one timeline."""
    with pytest.raises(ModelError, match="twice in one timeline"):
        model.apply(answer(timeline=timeline(message(2), message(2))))


def test_event_twice_after_a_gap(model: ClientModel) -> None:
    """A limited timeline of a room one has been in all the time repeats nothing."""
    with pytest.raises(ModelError, match="already holds"):
        model.apply(answer(timeline=timeline(message(1), message(2), limited=True)))


def test_joined_again(model: ClientModel) -> None:
    """Whoever joins again may be shown known events again, in their order, and no gap is left."""
    model.apply(answer("leave", timeline=timeline(member(ME, "leave"))))
    again = timeline(message(1), member(ME, "leave"), member(ME, serial=2), message(3), limited=True)
    model.apply(answer(timeline=again, state=state(member(BOB))))
    assert ids(model) == ["$m1", "$@me:xleave1", "$@me:xjoin2", "$m3"] and len(model.rooms[ROOM].pieces) == 1


def test_joined_again_in_another_order(model: ClientModel) -> None:
    """Known events in another order are wrong."""
    model.apply(answer("leave", timeline=timeline(member(ME, "leave"))))
    again = timeline(member(ME, "leave"), message(1), member(ME, serial=2), limited=True)
    with pytest.raises(ModelError, match="come again"):
        model.apply(answer(timeline=again))


def test_unknown_member(model: ClientModel) -> None:
    """A sender whose member event never came."""
    with pytest.raises(ModelError, match="the member event of @cat:x, who sent"):
        model.apply(answer(timeline=timeline(message(2, CAT))))


def test_member_in_the_timeline(model: ClientModel) -> None:
    """A member event in the timeline is enough."""
    model.apply(answer(timeline=timeline(member(CAT), message(2, CAT))))
    model.apply(answer(timeline=timeline(message(3, CAT))))


def test_member_lazily(model: ClientModel) -> None:
    """A sender's member event in state is enough, redundant ones are allowed."""
    for number in (2, 3):
        model.apply(answer(timeline=timeline(message(number, CAT)), state=state(member(CAT))))


def test_hero_without_member(model: ClientModel) -> None:
    """A hero whose member event is not known."""
    with pytest.raises(ModelError, match="hero @cat:x"):
        model.apply(answer(summary={"m.heroes": [CAT], "m.joined_member_count": 2}))


def test_hero_in_the_timeline() -> None:
    """With state_after a hero whose member event stands in the same answer's timeline may lack in the state."""
    timeline = {"events": [member(CAT, "invite") | {"sender": ME}], "prev_batch": "p", "limited": False}
    summary = {"m.heroes": [CAT], "m.joined_member_count": 1}
    right = answer(timeline=timeline, summary=summary)
    wrong = answer(summary=summary)
    for body in (right, wrong):
        entry = body["rooms"]["join"][ROOM]
        entry[AFTER] = {"events": [member(ME)]}
        del entry["state"]
    ClientModel(ME, "D", state_after=True).apply(right)
    with pytest.raises(ModelError, match="hero @cat:x"):
        ClientModel(ME, "D", state_after=True).apply(wrong)


def test_state_after() -> None:
    """With state_after the timeline does not count as state."""
    client = ClientModel(ME, "D1", state_after=True)
    old, new = ({"type": "m.t", "state_key": "", "sender": ME, "event_id": f"${n}", "content": {}} for n in (1, 2))
    body = answer(timeline=timeline(new), **{AFTER: state(member(ME), old)})
    del body["rooms"]["join"][ROOM]["state"]
    client.apply(body)
    assert client.rooms[ROOM].state[("m.t", "")]["event_id"] == "$1"
    with pytest.raises(ModelError, match="state sections"):
        client.apply(answer())


def test_state_repeats_a_key(model: ClientModel) -> None:
    """Two state events for one key."""
    with pytest.raises(ModelError, match="two state events"):
        model.apply(answer(state=state(member(BOB, serial=2), member(BOB, serial=3))))


def test_gap_is_closed(model: ClientModel) -> None:
    """What /messages gives joins up with what is known."""
    model.apply(answer(timeline=timeline(message(5), limited=True)))
    model.rooms[ROOM].pieces[0].closed = True
    assert model.fill(ROOM, pager([message(4), message(3)], [message(2), message(1)])) == 3
    assert ids(model) == [f"$m{number}" for number in range(1, 6)]


def test_gap_to_the_beginning(model: ClientModel) -> None:
    """The first piece goes back to the beginning; Synapse's prev_batch may be its end."""
    assert model.fill(ROOM, pager([message(1), message(0)], [])) == 1
    assert ids(model) == ["$m0", "$m1"]


def test_gap_misses_an_event(model: ClientModel) -> None:
    """Pages that pass the end of the piece before: something that the client holds has vanished, or was skipped."""
    model.apply(answer(timeline=timeline(message(2))))
    model.apply(answer(timeline=timeline(message(5), limited=True)))
    model.rooms[ROOM].pieces[0].closed = True
    with pytest.raises(ModelError, match=r"joins up with \$m1, but the client's last event before the gap is \$m2"):
        model.fill(ROOM, pager([message(4), message(3), message(1)]))
    with pytest.raises(ModelError, match=r"without meeting \$m2"):
        model.fill(ROOM, pager([message(4), message(3)]))


def test_gap_repeats_an_event(model: ClientModel) -> None:
    """Pages that bring an event twice, or one of a later piece."""
    model.apply(answer(timeline=timeline(message(5), limited=True)))
    model.rooms[ROOM].pieces[0].closed = True
    with pytest.raises(ModelError, match="comes twice"):
        model.fill(ROOM, pager([message(4), message(4), message(1)]))
    with pytest.raises(ModelError, match="between events of one piece"):
        model.fill(ROOM, pager([message(4), message(5), message(1)]))


def test_to_device_twice(model: ClientModel) -> None:
    """A to-device message comes once, in its order."""
    first, second = ({"type": "t", "sender": BOB, "content": {"n": number}} for number in (1, 2))
    model.apply(plain(to_device={"events": [first]}))
    model.apply(plain(to_device={"events": [second]}))
    assert [event["content"]["n"] for event in model.to_device] == [1, 2]
    with pytest.raises(ModelError, match="to-device message twice"):
        model.apply(plain(to_device={"events": [first]}))


def test_receipts(model: ClientModel) -> None:
    """The last receipt of a kind, user and thread counts; private ones of others are refused."""
    for event_id, ts in (("$m1", 1), ("$m2", 2)):
        content = {event_id: {"m.read": {BOB: {"ts": ts}}}}
        model.apply(answer(ephemeral=state({"type": "m.receipt", "content": content})))
    assert model.rooms[ROOM].receipts == {("m.read", BOB, ""): ("$m2", 2)}
    with pytest.raises(ModelError, match="private receipt"):
        content = {"$m1": {"m.read.private": {BOB: {"ts": 1}}}}
        model.apply(answer(ephemeral=state({"type": "m.receipt", "content": content})))


def test_device_lists(model: ClientModel) -> None:
    """Who changed must be asked for; who left is no longer followed."""
    model.apply(plain(device_lists={"changed": [BOB, CAT]}))
    model.apply(plain(device_lists={"left": [CAT]}))
    assert model.outdated == {BOB} and model.untracked == {CAT}


def test_invitation(model: ClientModel) -> None:
    """An invitation comes with itself."""
    invitation = {"!n:x": {"invite_state": state(member(ME, "invite"))}}
    model.apply(plain(rooms={"invite": invitation}))
    assert model.rooms["!n:x"].section == "invite"
    empty: Json = {"!n:x": {"invite_state": state()}}
    with pytest.raises(ModelError, match="own invite"):
        model.apply(plain(rooms={"invite": empty}))


@pytest.mark.parametrize(
    "path,value",
    [
        (("next_batch",), None),
        (("next_batch",), ""),
        (("presence",), {}),
        (("unheard",), 1),
        (("device_one_time_keys_count",), None),
        (("rooms", "other"), {}),
        (("rooms", "leave"), {ROOM: {}}),
        (("rooms", "join", ROOM, "timeline", "limited"), "yes"),
        (("rooms", "join", ROOM, "timeline", "prev_batch"), None),
        (("rooms", "join", ROOM, "timeline", "events"), {}),
        (("rooms", "join", ROOM, "state", "events"), [{"type": "m.x", "content": {}}]),
        (("rooms", "join", ROOM, "unread_notifications"), {"notification_count": 1}),
        (("rooms", "join", ROOM, "unread_notifications"), {"notification_count": -1, "highlight_count": 0}),
        (("rooms", "join", ROOM, "ephemeral", "events"), [{"type": "m.other", "content": {}}]),
        (("rooms", "join", ROOM, "account_data", "events"), [{"type": "m.tag"}]),
        (("rooms", "join", ROOM, "msc9999"), {}),
    ],
)
def test_wrong_shapes(model: ClientModel, path: tuple[str, ...], value: Any) -> None:
    """Answers of a wrong shape."""
    good = answer(timeline=timeline(message(2)))
    model_copy = copy.deepcopy(model)
    model_copy.apply(good)
    bad = copy.deepcopy(good)
    inner = bad
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    with pytest.raises(ModelError):
        model.apply(bad)
