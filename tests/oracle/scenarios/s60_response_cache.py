# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""The response cache at its default: the same question gets the same answer although there is news."""

from __future__ import annotations

import concurrent.futures
import time
from typing import Any

from oracle.context import Context, Device

SETTINGS = {"caches": {"sync_response_cache_duration": "2m"}}


def bodies(answer: dict[str, Any], room: str) -> list[str]:
    """Return the texts of the room's timeline."""
    joined = answer.get("rooms", {}).get("join", {}).get(room, {})
    return [event["content"].get("body", "") for event in joined.get("timeline", {}).get("events", [])]


def ask_again(context: Context, device: Device, step: str, since: str | None, **query: Any) -> dict[str, Any]:
    """Ask both from a token that the device has used before (None: from nothing)."""
    device.since = since
    return device.ask(step, **query)


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob, name="Twice")
    first = alice.ask("initial")
    start = alice.since
    bob.do.text(room, "one")
    again = ask_again(context, alice, "initial again: the old one", None)
    assert bodies(again, room) == bodies(first, room), again
    other = ask_again(context, alice, "initial with another timeout: a fresh one", None, timeout=1)
    assert "one" in bodies(other, room), other

    answer = ask_again(context, alice, "a delta", start)
    assert bodies(answer, room) == ["one"], answer
    bob.do.text(room, "two")
    answer = ask_again(context, alice, "the same token: the same delta", start)
    assert bodies(answer, room) == ["one"], answer
    after = alice.since
    answer = ask_again(context, alice, "the next token: the rest", after)
    assert bodies(answer, room) == ["two"], answer
    answer = ask_again(context, alice, "the same with another filter: all", start, filter={"presence": {"types": []}})
    assert bodies(answer, room) == ["one", "two"], answer
    answer = ask_again(context, alice, "in full state", start, full_state="true")
    assert bodies(answer, room) == ["one", "two"], answer

    alice.do.account_data("m.ignored_user_list", {"ignored_users": {bob.user_id: {}}})
    answer = ask_again(context, alice, "initial after the ignore list changed: a fresh one", None)
    assert "two" not in bodies(answer, room), answer
    alice.do.account_data("m.ignored_user_list", {"ignored_users": {}})
    bob.do.text(room, "three")
    answer = ask_again(context, alice, "and once more", None)
    assert "three" in bodies(answer, room), answer
    alice.do.account_data("org.example.other", {"a": 1})
    answer = ask_again(context, alice, "other account data is no part of the key", None)
    assert "org.example.other" not in {datum["type"] for datum in answer["account_data"]["events"]}, answer

    second = context.device(alice.user_id, "D2")
    answer = ask_again(context, second, "another device has its own", start)
    assert bodies(answer, room)[-1] == "three", answer
    nothing_new(context, alice, bob, room)
    at_once(context, alice, bob, room)


def nothing_new(context: Context, alice: Device, bob: Device, room: str) -> None:
    """An answer whose token is the question's is not kept."""
    quiet = {"presence": {"types": []}}
    for _ in range(5):
        before = alice.since
        alice.ask("up to now", filter=quiet)
        if alice.since == before:
            break
    token = alice.since
    ask_again(context, alice, "nothing new", token, filter=quiet)
    if alice.since == token:
        bob.do.text(room, "after nothing")
        answer = ask_again(context, alice, "nothing new was not kept", token, filter=quiet)
        assert bodies(answer, room) == ["after nothing"], answer


def at_once(context: Context, alice: Device, bob: Device, room: str) -> None:
    """Two identical polls get the same answer; so does a third that comes when they are over."""
    query = {"filter": {"presence": {"types": []}}, "timeout": 20000, "set_presence": "offline"}
    alice.ask("before the polls", filter=query["filter"])
    query["since"] = alice.since
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        urls = [context.reference_url, context.subject_url] * 2
        polls = [pool.submit(context._one, url, alice, query) for url in urls]
        time.sleep(0.5)
        bob.do.text(room, "to both")
        replies = [poll.result() for poll in polls]
    bob.do.text(room, "later")
    for reference, subject in ((replies[0], replies[1]), (replies[2], replies[3])):
        context._judge("polls at once", query, reference, subject, context._compare(alice, reference, subject))
    for one, other in ((0, 2), (1, 3)):
        assert replies[one].body["next_batch"] == replies[other].body["next_batch"], replies[one].body
    for url, reply in zip(urls, replies):
        late = context._one(url, alice, query)
        assert late.body["next_batch"] == reply.body["next_batch"], late.body
