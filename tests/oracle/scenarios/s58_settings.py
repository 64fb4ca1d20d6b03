# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Push switched off, rooms excluded from sync, a bound on timelines."""

from __future__ import annotations

from typing import Any

from oracle.context import Context

LEFT = {"room": {"include_leave": True}}


def _all(body: dict[str, Any]) -> set[str]:
    return {room for section in body.get("rooms", {}).values() for room in section}


def run(context: Context) -> None:
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    rooms = {name: context.room(alice, bob, name=name, preset="public_chat") for name in ("plain", "joined", "left", "invited", "knocked")}
    old = alice.do.filter({"room": {"timeline": {"limit": 50}}})
    alice.ask("before")
    carol.ask("before, carol")
    excluded = [room for name, room in rooms.items() if name != "plain"]
    context.world.apply(
        {"exclude_rooms_from_sync": excluded, "push": {"enabled": False}, "filter_timeline_limit": 3}
    )
    for room in rooms.values():
        bob.do.text(room, f"hello {alice.user_id}")
    body = alice.ask("in all rooms, all but one excluded")
    assert _all(body) == {rooms["plain"]}, body
    alice.do.membership(rooms["left"], "leave")
    alice.do.state(rooms["knocked"], "m.room.join_rules", {"join_rule": "knock"})
    carol.do.knock(rooms["knocked"])
    alice.do.membership(rooms["invited"], "invite", carol.user_id)
    carol.do.join(rooms["joined"])
    bob.do.typing(rooms["joined"], True)
    alice.ask("left, knocked on, joined by others")
    # Whose presence an excluded room brings when one has just joined it: see "Decisions".
    assert _all(carol.ask("invited, knocked, joined", filter={"presence": {"types": []}})) == set()
    context.device(carol.user_id, "D2").ask("initial, carol", filter=LEFT)
    body = context.device(alice.user_id, "D2").ask("initial", filter=LEFT)
    assert _all(body) == {rooms["plain"]}, body
    alice.ask("whole state", full_state=True)
    for number in range(6):
        bob.do.text(rooms["plain"], f"{number} {alice.user_id}")
    body = alice.ask("no more than three", filter={"room": {"timeline": {"limit": 40}}})
    entry = body["rooms"]["join"][rooms["plain"]]
    assert len(entry["timeline"]["events"]) == 3 and entry["timeline"]["limited"], body
    assert entry["unread_notifications"] == {"notification_count": 0, "highlight_count": 0}, body
    new = alice.do.filter({"room": {"timeline": {"limit": 50}}})
    for name, device in (("stored before", old), ("stored now", new)):
        context.device(alice.user_id, f"S{device}").ask(name, filter=device)
    context.device(alice.user_id, "D3").ask("without a filter")
    context.device(alice.user_id, "D4").ask("threads", filter={"room": {"timeline": {"unread_thread_notifications": True}}})
