# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Timelines by number: limits around what there is, refilled after filtering, zero, negative, fractional."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from oracle.context import Context, Device

Json = dict[str, Any]
NEWS_LIMITS = (1, 2, 5, 6, 7, 11, 12, 13, 50)
ODD_LIMITS = "-1 -2 -100 -0 0.0 -0.0 0.5 1.0 10.0 10.5 -1.0 1e1 1E2 100.5 101.0 1e300 9223372036854775808".split()


def _limit(number: int, **timeline: Any) -> Json:
    return {"room": {"timeline": {"limit": number, **timeline}}}


def _texts(room: Json) -> list[str]:
    return [event["content"].get("body", event["type"]) for event in room["timeline"]["events"]]


def _initial(context: Context) -> None:
    """Rooms of every small size under limits around their sizes, seen for the first time."""
    alice, bob = context.user("alice"), context.user("bob")
    rooms = []
    for number in (0, 1, 2, 3, 5, 24):
        room = context.room(alice, bob)
        for index in range(number):
            bob.do.text(room, f"{index} of {number}")
        rooms.append(room)
    with context.quiet():
        for limit in (0, 1, 2, 8, 9, 10, 31, 32, 33, 101):
            alice.since = None
            alice.ask(f"initial, limit {limit}", filter=_limit(limit))
        alice.since = None
        body = alice.ask("initial, no limit given")
        timeline = body["rooms"]["join"][rooms[-1]]["timeline"]
        assert len(timeline["events"]) == 10 and timeline["limited"], timeline
        for limit in (0, 1, 3, 20):
            for lazy in (False, True):
                state = {"state": {"lazy_load_members": lazy}}
                query = {"room": {**_limit(limit)["room"], **state}}
                alice.since = None
                alice.ask(f"initial, limit {limit}, lazy {lazy}", filter=query)

def _news(context: Context) -> None:
    """The same news under limits below, at and above their number; with state among them."""
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob)
    quiet = context.room(alice, bob, name="Quiet")
    alice.ask("initial")
    start = alice.since
    for number in range(12):
        if number in (1, 5):
            alice.do.state(room, "m.room.topic", {"topic": f"topic {number}"})
        else:
            (alice, bob)[number % 2].do.text(room, f"message {number}")
    with context.quiet():
        for limit in NEWS_LIMITS:
            alice.since = start
            body = alice.ask(f"twelve new events, limit {limit}", filter=_limit(limit))
            timeline = body["rooms"]["join"][room]["timeline"]
            assert len(timeline["events"]) == min(limit, 12) and timeline["limited"] == (limit < 12), timeline
            assert quiet not in body["rooms"]["join"]
        for limit in (0, 1, 5, 11, 12):
            alice.since = start
            alice.ask(f"everything, limit {limit}", filter=_limit(limit), full_state=True)
        for limit in (1, 4, 8):
            alice.since = start
            lazy = {"room": {**_limit(limit)["room"], "state": {"lazy_load_members": True}}}
            alice.ask(f"twelve new events, lazily, limit {limit}", filter=lazy)

def _refills(context: Context) -> None:
    """Few events pass the filter: pages are read until the limit is full, five times at most."""
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob)
    alice.ask("initial")
    start = alice.since
    for number in range(80):
        kind = "org.example.rare" if number % 20 == 3 else "m.room.message"
        bob.do.send(room, {"msgtype": "m.text", "body": f"message {number}"}, kind)
    rare = {"types": ["org.example.rare"]}
    with context.quiet():
        for limit in (0, 1, 3, 14):
            for title, timeline in {
                "rare ones": rare,
                "none": {"types": ["org.example.never"]},
                "blocked": {"types": []},
                "all but the messages": {"not_types": ["m.room.message"]},
                "nobody's": {"senders": ["@nobody:chappe.localhost"]},
                "only the other's": {"senders": [alice.user_id]},
            }.items():
                alice.since = start
                alice.ask(f"{title}, limit {limit}", filter=_limit(limit, **timeline))
                alice.since = None
                alice.ask(f"{title}, limit {limit}, initial", filter=_limit(limit, **timeline))
    body = _from(alice, start, _limit(2, **rare), "two rare ones")
    assert _texts(body["rooms"]["join"][room]) == ["message 43", "message 63"], body
    # The quirk: it stays where the first page began, after the filtered timeline's own beginning.
    assert _limited_and_lower(body["rooms"]["join"][room], start), body
    alice.since = start
    body = alice.ask("an ignored majority", filter=_limit(10))
    alice.do.account_data("m.ignored_user_list", {"ignored_users": {bob.user_id: {}}})
    for limit in (1, 10):
        body = _from(alice, start, _limit(limit), f"everything new is of an ignored user, limit {limit}")
        assert body["rooms"]["join"][room]["timeline"] == {
            "events": [],
            "limited": True,
            "prev_batch": body["rooms"]["join"][room]["timeline"]["prev_batch"],
        } if room in body.get("rooms", {}).get("join", {}) else True
        alice.since = None
        alice.ask(f"initial, most is of an ignored user, limit {limit}", filter=_limit(limit))


def _from(device: Device, since: str | None, definition: Json, step: str) -> Json:
    device.since = since
    return device.ask(step, filter=definition)


def _limited_and_lower(room: Json, start: str | None) -> bool:
    def position(text: str) -> int:
        return int(text.split("_")[0].lstrip("sm").split("~")[0])

    timeline = room["timeline"]
    return bool(timeline["limited"]) and position(timeline["prev_batch"]) > position(start or "s0")


def _odd(context: Context) -> None:
    """Limits that make no sense: whether they fail depends on whether a page of a room is needed."""
    alice, bob, lonely = context.user("alice"), context.user("bob"), context.user("lonely")
    lonely.ask("initial")
    room, left = context.room(alice, bob), context.room(alice, bob, name="Left")
    alice.ask("initial")
    before = alice.since
    bob.do.text(room, "news")
    alice.do.membership(left, "leave")
    alice.ask("after the news")
    after = alice.since
    bob.do.typing(room, True)
    alice.do.account_data("org.example.odd", {"n": 1}, room)
    context.settle()
    quiet = "&set_presence=offline"
    for limit in ODD_LIMITS:
        text = quote(f'{{"room":{{"timeline":{{"limit":{limit}}}}}}}')
        leave = quote(f'{{"room":{{"include_leave":true,"rooms":["{left}"],"timeline":{{"limit":{limit}}}}}}}')
        none = quote(f'{{"room":{{"timeline":{{"limit":{limit},"types":[]}}}}}}')
        for title, query in {
            "initial": f"filter={text}",
            "initial, nothing of the timeline": f"filter={none}",
            "initial with a room left": f"filter={leave}",
            "with news": f"filter={text}&since={before}",
            "with news, nothing of the timeline": f"filter={none}&since={before}",
            "with all state": f"filter={text}&since={before}&full_state=true",
            "without news": f"filter={text}&since={after}",
        }.items():
            context.ask_raw(alice, f"limit {limit}, {title}", query + quiet)
        context.ask_raw(lonely, f"limit {limit}, without rooms", f"filter={text}{quiet}")
        context.ask_raw(lonely, f"limit {limit}, without rooms, later", f"filter={text}&since={lonely.since}{quiet}")


def _capped(context: Context) -> None:
    """The server's greatest limit holds for inline filters and when one is stored; not for what is stored already."""
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob)
    alice.ask("initial")
    start = alice.since
    for number in range(104):
        bob.do.text(room, f"message {number}")

    def count(step: str, definition: Any) -> int:
        alice.since = start
        return len(alice.ask(step, filter=definition)["rooms"]["join"][room]["timeline"]["events"])

    assert count("inline, above the greatest", _limit(1000)) == 100
    assert count("inline, just above", _limit(101)) == 100
    stored = alice.do.filter(_limit(1000))
    assert count("stored, above the greatest", stored) == 100
    # A filter from when the server's greatest limit was a greater one.
    sql = "INSERT INTO user_filters (user_id, full_user_id, filter_id, filter_json) VALUES ('{}', '{}', 7000, '{}')"
    local = alice.user_id[1:].split(":")[0]
    context.world.deployment.postgres.psql(sql.format(local, alice.user_id, json.dumps(_limit(1000))))
    assert count("stored before the cap", "7000") == 104


def run(context: Context) -> None:
    _initial(context)
    _news(context)
    _refills(context)
    _odd(context)
    _capped(context)
