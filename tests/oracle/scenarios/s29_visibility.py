# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Who sees what: rules of history, and changes of them, crossed with the reader's membership at every event."""

from __future__ import annotations

from oracle.context import Context, Device, Json

RULES = ("joined", "invited", "shared", "world_readable")
# The rule before, the rule after, and the stage with which it changes.
CHANGES = [
    (first, second, stage)
    for first, second in (
        ("joined", "shared"),
        ("shared", "joined"),
        ("invited", "joined"),
        ("joined", None),
    )
    for stage in ("invited", "joined", "left")
]
STAGES = ("before", "invited", "joined", "left", "banned", "back")
WIDE: Json = {"room": {"timeline": {"limit": 60}, "include_leave": True}}
NARROW: Json = {"room": {"timeline": {"limit": 3}, "include_leave": True}}


def run(context: Context) -> None:
    """Matrices of rules and stages, then what depends on the kind of event."""
    _matrix(context)
    _never_joined(context)
    _ignored(context)
    _calls(context)


def _history(rule: object) -> Json:
    return {"history_visibility": rule} if rule is not None else {}


def _matrix(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    rooms: dict[tuple[object, ...], str] = {}
    for case in [(rule, rule, "never") for rule in RULES] + CHANGES:
        initial = [{"type": "m.room.history_visibility", "state_key": "", "content": _history(case[0])}]
        rooms[case] = context.room(alice, name=f"{case}", initial_state=initial)
    start = bob.ask("initial")["next_batch"]
    before = str(start)
    for stage in STAGES:
        for case, room in rooms.items():
            _change_membership(alice, bob, room, stage)
            _write(alice, room, stage)
            if case[2] == stage:
                alice.do.state(room, "m.room.history_visibility", _history(case[1]))
                _write(alice, room, f"{stage}, changed")
        for filter_, title in ((NARROW, "narrow"), (WIDE, "wide")):
            bob.since = before
            bob.ask(f"{stage}, {title}", filter=filter_)
        before = str(bob.since)
        if stage in ("joined", "left", "back"):
            bob.since = str(start)
            bob.ask(f"{stage}, since the start", filter=WIDE)
            bob.since = None
            body = bob.ask(f"{stage}, initial", filter=WIDE)
        if stage == "left":
            assert "left text" not in str(body["rooms"]["leave"][rooms[("joined", "joined", "never")]]), body


def _change_membership(alice: Device, bob: Device, room: str, stage: str) -> None:
    if stage in ("invited", "back"):
        if stage == "back":
            alice.do.membership(room, "unban", bob.user_id)
        alice.do.membership(room, "invite", bob.user_id)
    if stage in ("joined", "back"):
        bob.do.join(room)
    if stage == "left":
        bob.do.membership(room, "leave")
    if stage == "banned":
        alice.do.membership(room, "ban", bob.user_id)


def _write(alice: Device, room: str, stage: str) -> None:
    """A message and a state event, which will be replaced or stays what counts."""
    alice.do.text(room, f"{stage} text")
    alice.do.state(room, "org.example.state", {"stage": stage}, stage if stage in ("before", "left") else "replaced")


def _never_joined(context: Context) -> None:
    """Invitations refused, withdrawn and answered by a ban: one's own member events, and nothing else."""
    alice, bob = context.user("alice"), context.user("bob")
    rooms = []
    for rule in RULES:
        for answer in ("rejected", "withdrawn", "banned", "knock denied", "knock taken back"):
            initial = [
                {"type": "m.room.history_visibility", "state_key": "", "content": _history(rule)},
                {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}},
            ]
            room = context.room(alice, name=f"{rule} {answer}", initial_state=initial)
            alice.do.text(room, "not for you")
            if answer.startswith("knock"):
                bob.do.knock(room)
            else:
                alice.do.membership(room, "invite", bob.user_id)
            rooms.append((room, answer))
    bob.ask("asked or asking")
    for room, answer in rooms:
        alice.do.text(room, "not for you either")
        if answer in ("rejected", "knock taken back"):
            bob.do.membership(room, "leave")
        else:
            alice.do.membership(room, "ban" if answer == "banned" else "kick", bob.user_id)
        alice.do.text(room, "nor this")
    bob.ask("refused", filter=WIDE)
    context.device(bob.user_id, "D2").ask("initial after all were refused", filter=WIDE)


def _ignored(context: Context) -> None:
    """Messages of who is ignored are gone, state is not; a timeline may be empty and still limited."""
    alice, bob, carol = context.user("alice"), context.user("bob"), context.user("carol")
    room = context.room(alice, bob, carol, name="Noise", preset="trusted_private_chat")
    alice.ask("initial")
    alice.do.account_data("m.ignored_user_list", {"ignored_users": {bob.user_id: {}}})
    start = alice.ask("ignoring")["next_batch"]
    carol.do.text(room, "heard")
    bob.do.text(room, "not heard")
    bob.do.state(room, "m.room.topic", {"topic": "seen"})
    alice.ask("messages and state of an ignored one")
    for number in range(14):
        bob.do.text(room, f"noise {number}")
    body = alice.ask("only noise, few", filter={"room": {"timeline": {"limit": 3}}})
    assert "rooms" not in body or not body["rooms"]["join"][room]["timeline"]["events"], body
    for number in range(60):
        bob.do.text(room, f"noise {number}")
    for since in (alice.since, str(start), None):
        alice.since = since
        body = alice.ask("only noise, much", filter={"room": {"timeline": {"limit": 5}}})
    timeline = body["rooms"]["join"][room]["timeline"]
    assert timeline["limited"] and not timeline["events"], timeline
    bob.do.receipt(room, bob.do.text(room, "read by its sender"))
    bob.do.typing(room, True)
    alice.ask("receipt and typing of an ignored one")
    bob.do.typing(room, False)
    for odd in ({"ignored_users": []}, {}, {"ignored_users": {"nobody": 5}}):
        alice.do.account_data("m.ignored_user_list", odd)
        bob.do.text(room, "heard again")
        alice.do.text(room, "mine")
        alice.ask(f"an odd list: {odd}")


def _calls(context: Context) -> None:
    """Calls in a room that opens; each event says what one was when it was sent."""
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, name="Calls")
    call = {"call_id": "1", "version": "1", "party_id": "p", "lifetime": 60000, "offer": {"type": "offer", "sdp": "s"}}
    alice.do.send(room, call, "m.call.invite")
    alice.ask("a call of mine")
    alice.do.membership(room, "invite", bob.user_id)
    alice.do.send(room, call, "m.call.invite")
    bob.do.join(room)
    bob.do.send(room, {**call, "call_id": "2"}, "m.call.invite")
    bob.do.send(room, {"call_id": "2"}, "m.call.hangup")
    body = bob.ask("joined, with calls", filter=WIDE)
    events = body["rooms"]["join"][room]["timeline"]["events"]
    memberships = {event["unsigned"]["membership"] for event in events}
    assert memberships == {"leave", "invite", "join"}, memberships
    alice.do.state(room, "m.room.join_rules", {"join_rule": "public"})
    bob.do.send(room, {"call_id": "2"}, "m.call.hangup")
    bob.ask("anybody may join now", filter=WIDE)
    bob.since = None
    bob.ask("initial, with the calls from before", filter=WIDE)
    knocked = context.room(
        alice,
        initial_state=[
            {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}},
            {"type": "m.room.history_visibility", "state_key": "", "content": _history("world_readable")},
        ],
    )
    bob.do.knock(knocked)
    alice.do.text(knocked, "somebody knocks")
    alice.do.membership(knocked, "invite", bob.user_id)
    bob.do.join(knocked)
    body = bob.ask("was knocking when it was said", filter=WIDE)
    events = body["rooms"]["join"][knocked]["timeline"]["events"]
    assert "knock" in {event["unsigned"]["membership"] for event in events}, events
