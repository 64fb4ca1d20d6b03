# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""/events: messages, memberships, ephemeral events, account data, one room, peeking, long polls, errors."""

from __future__ import annotations

import concurrent.futures
import time
from typing import Any, Callable
from urllib.parse import quote

from stack.matrix import Client

from oracle.context import Context, Device
from oracle.differ import differences
from oracle.legacy import ask, level


def since(context: Context, device: Device, step: str, start: str, **query: Any) -> dict[str, Any]:
    """Ask for what came after start, without waiting."""
    return ask(context, device, step, "v3/events", **{"from": start, "timeout": 0, **query})


def now(context: Context, device: Device) -> str:
    """Where both servers stand."""
    return str(ask(context, device, "where we stand", "v3/initialSync", limit=0)["end"])


def parked(context: Context, device: Device, step: str, start: str, act: Callable[[], object], **query: Any) -> None:
    """The same long poll on both; act; compare what each was woken with."""
    context.settle()
    target = f"/_matrix/client/v3/events?from={start}&timeout=15000" + "".join(f"&{k}={quote(v)}" for k, v in query.items())

    def poll(url: str) -> Any:
        link = Client(url).link
        try:
            return link.request("GET", target, token=device.do.token)
        finally:
            link.close()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        polls = [pool.submit(poll, url) for url in (context.reference_url, context.subject_url)]
        time.sleep(1.0)
        act()
        replies = [waiting.result() for waiting in polls]
    rooms = [[e for e in level(r.body)["chunk"] if "event_id" in e or e["type"] == "m.typing"] for r in replies]
    found = list(differences({"chunk": rooms[0]}, {"chunk": rooms[1]}))
    context._judge(step, {"path": target}, replies[0], replies[1], found)
    assert rooms[0], replies[0].body


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob, name="Stream")
    start = now(context, alice)
    event = bob.do.text(room, "one")
    since(context, alice, "a message", start)
    bob.do.text(room, "two")
    bob.do.redact(room, event)
    alice.do.text(room, "mine")
    since(context, alice, "more, one redacted", start)
    since(context, alice, "limited", start, limit=2)
    since(context, alice, "as servers see it", start, raw="1")
    since(context, alice, "one room", start, room_id=room)
    middle = now(context, alice)
    alice.do.receipt(room, event)
    bob.do.receipt(room, event, "m.read.private")
    alice.do.account_data("org.example.room", {"a": 1}, room)
    alice.do.account_data("org.example.global", {"b": 2})
    alice.do.call("PUT", f"/user/{quote(alice.user_id)}/rooms/{quote(room)}/tags/u.work", {})
    since(context, alice, "receipts, tags, account data", middle)
    later = now(context, alice)
    other = bob.do.create_room(preset="public_chat", name="Other", invite=[alice.user_id])
    since(context, alice, "invited", later)
    alice.do.join(other)
    since(context, alice, "joined", later, limit=50)
    alice.do.membership(other, "leave")
    since(context, alice, "left", later, limit=50)
    public = bob.do.create_room(
        preset="public_chat",
        initial_state=[{"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "world_readable"}}],
    )
    last = now(context, alice)
    bob.do.text(public, "for the world")
    since(context, alice, "peeking", last, room_id=public)
    since(context, alice, "a private room of others", last, room_id=bob.do.create_room(preset="private_chat"))
    since(context, alice, "no such room", last, room_id="!no:where")
    for query in ({"from": "x"}, {"timeout": "x"}, {"limit": "x"}, {"limit": "-1"}, {"dir": "q"}, {"from": "END", "timeout": 0}):
        ask(context, alice, f"{query}", "r0/events", **query)
    last = now(context, alice)
    parked(context, alice, "a poll", last, lambda: bob.do.text(room, "wakes"))
    last = now(context, alice)
    parked(context, alice, "a poll, typing", last, lambda: bob.do.typing(room, True))
    bob.do.typing(room, False)
    last = now(context, alice)
    parked(context, alice, "a poll from outside", last, lambda: bob.do.text(public, "seen"), room_id=public)
