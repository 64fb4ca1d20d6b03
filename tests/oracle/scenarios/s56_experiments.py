# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Experimental features that add to an answer: account data that is deleted, unread counts, filters, push rules."""

from __future__ import annotations

from urllib.parse import quote

from oracle.context import Context, Device

SETTINGS = {
    "experimental_features": {
        "msc2654_enabled": True,
        "msc3391_enabled": True,
        "msc3773_enabled": True,
        "msc3874_enabled": True,
        "msc4210_enabled": True,
    }
}
TYPE = "org.example.thing"
UNREAD = "org.matrix.msc2654.unread_count"
THREADS = {"room": {"timeline": {"org.matrix.msc3773.unread_thread_notifications": True}}}


def _delete(device: Device, event_type: str, room: str | None = None) -> None:
    where = f"/rooms/{quote(room)}" if room else ""
    device.do.call(
        "DELETE",
        f"/_matrix/client/unstable/org.matrix.msc3391/user/{quote(device.user_id)}{where}/account_data/{event_type}",
    )


def _account_data(context: Context, alice: Device, room: str) -> None:
    """MSC3391: what is empty is gone, however it became so."""
    alice.do.account_data(TYPE, {"a": 1})
    alice.do.account_data(TYPE, {"b": 1}, room)
    alice.do.account_data("org.example.other", {})
    alice.ask("set")
    _delete(alice, TYPE)
    _delete(alice, TYPE, room)
    body = alice.ask("deleted")
    assert {"type": TYPE, "content": {}} in body["account_data"]["events"], body
    body = context.device(alice.user_id, "D2").ask("initial after that")
    assert TYPE not in [event["type"] for event in body["account_data"]["events"]], body
    alice.ask("whole state", full_state=True)
    alice.do.account_data(TYPE, {"a": 2})
    _delete(alice, TYPE)
    alice.do.account_data(TYPE, {"a": 3})
    alice.do.account_data(TYPE, {}, room)
    alice.ask("set again, and emptied by hand")
    context.device(alice.user_id, "D3").ask("initial after that too")
    context.ask_parked(alice, "deleted while parked", lambda: _delete(alice, TYPE))


def _counts(context: Context, alice: Device, bob: Device, room: str) -> None:
    """MSC2654 and MSC3773: what is unread, and in which thread."""
    first = bob.do.text(room, "one")
    body = alice.ask("one unread")
    assert UNREAD in body["rooms"]["join"][room], body
    root = bob.do.text(room, "a root")
    thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    last = bob.do.text(room, f"in the thread, {alice.user_id}", **thread)
    bob.do.send(room, {"msgtype": "m.notice", "body": "a notice"})
    edit = {"m.relates_to": {"rel_type": "m.replace", "event_id": first}, "m.new_content": {"msgtype": "m.text", "body": "1"}}
    bob.do.text(room, "* 1", **edit)
    alice.ask("several kinds")
    bob.do.text(room, "more of it", **thread)
    body = alice.ask("threads", filter=THREADS)
    names = {"unread_thread_notifications", "org.matrix.msc3773.unread_thread_notifications"}
    assert names <= body["rooms"]["join"][room].keys(), body
    alice.do.receipt(room, first)
    alice.ask("the first is read")
    alice.do.receipt(room, last, thread=root)
    alice.ask("the thread is read", filter=THREADS)
    alice.do.state(room, "m.room.topic", {"topic": "state is not unread"})
    bob.do.state(room, "m.room.topic", {"topic": "is it?"})
    bob.do.state(room, "m.room.name", {"name": "this is"})
    alice.ask("state events")
    context.device(alice.user_id, "D4").ask("initial with counts", filter=THREADS)


def _filters(context: Context, alice: Device, bob: Device, room: str) -> None:
    """MSC3874: relation types in filters."""
    root = bob.do.text(room, "plain")
    bob.do.text(room, "in a thread", **{"m.relates_to": {"rel_type": "m.thread", "event_id": root}})
    bob.do.text(room, "a reference", **{"m.relates_to": {"rel_type": "m.reference", "event_id": root}})
    for key, value in (
        ("rel_types", ["m.thread"]),
        ("not_rel_types", ["m.thread"]),
        ("rel_types", ["m.*"]),
        ("not_rel_types", ["m.reference", "m.thread"]),
        ("rel_types", []),
    ):
        timeline = {f"org.matrix.msc3874.{key}": value, "limit": 5}
        device = context.device(alice.user_id, f"F{key}{len(value)}{''.join(value)[-3:]}")
        device.ask(f"{key} {value}", filter={"room": {"timeline": timeline, "state": {"types": []}}})
    stored = alice.do.filter(
        {"room": {"timeline": {"org.matrix.msc3874.not_rel_types": ["m.thread"]}, "state": {"types": []}}}
    )
    context.device(alice.user_id, "S1").ask("a stored filter", filter=stored)


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob, name="Experiments", preset="trusted_private_chat")
    alice.ask("initial")
    _account_data(context, alice, room)
    _counts(context, alice, bob, room)
    _filters(context, alice, bob, room)
    alice.do.call("PUT", "/pushrules/global/override/.m.rule.master/enabled", {"enabled": True})
    alice.ask("push rules without the old mentions")
