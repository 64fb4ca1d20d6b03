# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Receipts public and private, unread and highlight counts, threads with counts of their own."""

from __future__ import annotations

from oracle.context import Context

THREADS = {"room": {"timeline": {"unread_thread_notifications": True}}}


def run(context: Context) -> None:
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    room = context.room(alice, bob, carol, name="Counts")
    alice.ask("initial")
    bob.ask("initial")
    first = bob.do.text(room, "one unread")
    body = alice.ask("one unread")
    assert body["rooms"]["join"][room]["unread_notifications"]["notification_count"] == 1, body
    bob.do.text(room, f"hello {alice.user_id}", **{"m.mentions": {"user_ids": [alice.user_id]}})
    body = alice.ask("a highlight")
    assert body["rooms"]["join"][room]["unread_notifications"]["highlight_count"] == 1, body
    bob.do.send(room, {"msgtype": "m.notice", "body": "quiet"})
    alice.ask("a notice does not count")
    alice.do.receipt(room, first)
    alice.ask("read up to the first")
    bob.ask("someone read")
    root = bob.do.text(room, "root of a thread")
    reply = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    in_thread = [bob.do.text(room, f"in thread {n}", **reply) for n in range(3)]
    alice.ask("thread counts summed")
    second = context.device(alice.user_id, "D2")
    second.ask("initial, thread counts apart", filter=THREADS)
    alice.ask("thread counts apart, nothing new", filter=THREADS)
    alice.do.receipt(room, in_thread[0], thread=root)
    second.ask("read a part of the thread", filter=THREADS)
    alice.ask("read a part of the thread, summed")
    bob.do.text(room, f"thread ping {alice.user_id}", **reply, **{"m.mentions": {"user_ids": [alice.user_id]}})
    second.ask("highlight in the thread", filter=THREADS)
    last = bob.do.text(room, "main timeline again")
    alice.do.receipt(room, last, thread="main")
    second.ask("main timeline read", filter=THREADS)
    carol.do.receipt(room, last, "m.read.private")
    bob.ask("a private receipt of someone else is not seen")
    alice.do.receipt(room, last, "m.read.private")
    alice.ask("my private receipt is")
    alice.do.call("POST", f"/rooms/{room}/read_markers", {"m.fully_read": last, "m.read": last})
    alice.ask("fully read marker")
    context.ask_parked(bob, "a receipt while parked", lambda: carol.do.receipt(room, last))
    alice.do.receipt(room, last)
    alice.ask("everything read, unthreaded")
    bob.do.text(room, "after all was read")
    for who in (alice, second, bob):
        who.ask("counts at the end", filter=THREADS)
    context.device(bob.user_id, "D2").ask("initial with many receipts", filter=THREADS)
