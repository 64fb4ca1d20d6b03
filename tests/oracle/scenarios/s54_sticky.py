# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Sticky events (MSC4354): new ones, in the timeline already, ignored, expired, and more than a hundred."""

from __future__ import annotations

import concurrent.futures
import itertools
import time
from typing import Any
from urllib.parse import quote

from oracle.context import Context, Device

SETTINGS = {"experimental_features": {"msc4354_enabled": True}}

FEW = {"room": {"timeline": {"limit": 2}}}
NONE = {"room": {"timeline": {"types": ["m.room.create"]}}}
_numbers = itertools.count(1)


def _stick(user: Device, room: str, body: str, milliseconds: int = 3600000) -> str:
    path = f"/rooms/{quote(room)}/send/m.room.message/sticky{next(_numbers)}.{time.time_ns()}"
    query = f"?org.matrix.msc4354.sticky_duration_ms={milliseconds}"
    return str(user.do.call("PUT", path + query, {"msgtype": "m.text", "body": body})["event_id"])


def _sticky(body: dict[str, Any], room: str) -> list[str]:
    entry = body.get("rooms", {}).get("join", {}).get(room, {})
    return [event["content"].get("body") for event in entry.get("msc4354_sticky", {}).get("events", [])]


def _ask(device: Device, step: str, **query: Any) -> dict[str, Any]:
    """Ask, and see to it that both servers say the same of how far the sticky events went."""
    since = device.since
    time.sleep(0.5)  # nobody waits for this stream's position
    body = device.ask(step, **query)
    tokens = []
    for url in (device.context.reference_url, device.context.subject_url):
        reply = device.context._one(url, device, {"since": since, "timeout": 0, "set_presence": "offline", **query})
        tokens.append(reply.body["next_batch"].split("_")[11])
    assert tokens[0] == tokens[1], f"{step}: the sticky field is {tokens[0]} there and {tokens[1]} here"
    return body


def _follow(context: Context, url: str, device: Device, query: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Park a poll and go on from its answer until there is no more; return the rooms' part of each answer, and the end."""
    answers = []
    for timeout in (20000, 500, 500, 500, 500):
        body = context._one(url, device, {**query, "timeout": timeout}).body
        query["since"] = body["next_batch"]
        if "rooms" not in body:
            return answers, body["next_batch"]
        answers.append(body)
    raise AssertionError(f"{url} still answers: {answers}")


def _woken(context: Context, reader: Device, writer: Device, room: str) -> None:
    """Wake a poll with a sticky event, and compare what it and those after it are answered, taken together.

    The event has a place in two streams, whose positions go on one after the other, either first. A poll that is woken
    by the sticky one has the event in that section, with counts that may or may not hold it, and the next poll has it
    in the timeline. So the answers of two servers may differ, one by one.
    """
    quiet = {"presence": {"types": []}}
    for _ in range(5):
        if "rooms" not in reader.ask("a poll that is woken: before", filter=quiet):
            break
    query = {"since": reader.since, "set_presence": "offline", "filter": quiet}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        urls = (context.reference_url, context.subject_url)
        polls = [pool.submit(_follow, context, url, reader, dict(query)) for url in urls]
        time.sleep(0.3)
        assert not any(poll.done() for poll in polls)
        event_id = _stick(writer, room, "woken")
        found = [poll.result() for poll in polls]
    ends = []
    for answers, end in found:
        entries = [answer["rooms"]["join"][room] for answer in answers]
        in_timeline = [[event["event_id"] for event in entry["timeline"]["events"]] for entry in entries]
        assert sum(in_timeline, []) == [event_id], found
        assert _sticky(answers[0], room) == ([] if in_timeline[0] else ["woken"]), found
        assert not any(_sticky(answer, room) for answer in answers[1:]), found
        ends.append((end, entries[-1]["unread_notifications"]))
    assert ends[0] == ends[1], found


def run(context: Context) -> None:
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    room, other = context.room(alice, bob, carol, name="Sticky"), context.room(alice, bob, name="Other")
    _ask(alice, "initial")
    first = _stick(bob, room, "one")
    body = _ask(alice, "in the timeline")
    assert _sticky(body, room) == [], body
    for number in range(3):
        _stick(bob, room, f"early {number}")
    for number in range(3):
        bob.do.text(room, f"plain {number}")
    body = _ask(alice, "behind a gap", filter=FEW)
    assert _sticky(body, room) == ["early 0", "early 1", "early 2"], body
    _stick(bob, room, "filtered away")
    _stick(bob, other, "filtered away elsewhere")
    body = _ask(alice, "nothing but sticky ones", filter=NONE)
    assert _sticky(body, room) == ["filtered away"] and _sticky(body, other) == ["filtered away elsewhere"], body
    _stick(bob, room, "short", 3000)
    _stick(bob, room, "none at all", 0)
    bob.do.state(room, "m.room.member", {"membership": "join", "displayname": "B"}, bob.user_id)
    _ask(alice, "a short one", filter=NONE)
    time.sleep(3.5)
    body = _ask(context.device(alice.user_id, "D2"), "initial, the short one is over", filter=FEW)
    assert "short" not in _sticky(body, room) and "one" in _sticky(body, room), body
    _stick(carol, room, "of somebody ignored")
    alice.do.account_data("m.ignored_user_list", {"ignored_users": {carol.user_id: {}}})
    body = _ask(alice, "somebody ignored", filter=NONE)
    assert _sticky(body, room) == [], body
    alice.do.redact(room, first)
    dave = context.user("dave")
    alice.do.state(room, "m.room.history_visibility", {"history_visibility": "joined"})
    _stick(bob, room, "before dave came")
    alice.do.membership(room, "invite", dave.user_id)
    dave.do.join(room)
    body = _ask(dave, "whatever the history visibility", filter=FEW)
    assert "before dave came" in _sticky(body, room), body
    _ask(alice, "up to date", filter=FEW)
    erin = context.user("erin")
    _ask(erin, "no rooms")
    for number in range(3):
        _stick(bob, room, f"before erin came {number}")
    _ask(erin, "they are of a room of others")
    alice.do.membership(room, "invite", erin.user_id)
    _stick(bob, room, "after the invitation")
    erin.do.join(room)
    body = _ask(erin, "joined since", filter=FEW)
    if context.world.synapse_from("1.163"):
        assert "before erin came 0" in _sticky(body, room), body
    _ask(alice, "up to date again", filter=FEW)
    for number in range(105):
        _stick(bob, other if number % 2 else room, f"many {number}")
    seen: list[str] = []
    for step in range(3):
        body = _ask(alice, f"more than a hundred, {step}", filter=NONE)
        seen += [*_sticky(body, room), *_sticky(body, other)]
    assert len(seen) == len(set(seen)) == 105, len(seen)
    _ask(context.device(alice.user_id, "D3"), "initial, more than a hundred", filter=NONE)
    context.device(alice.user_id, "D4").ask("fields", filter={"event_fields": ["content.body"], **FEW})
    context.device(alice.user_id, "D5").ask("as federation has it", filter={"event_format": "federation", **FEW})
    _woken(context, alice, bob, room)
