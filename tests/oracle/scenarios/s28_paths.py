# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Every path through invitations, knocks, joins, leaves, kicks and bans, cut by questions at every place."""

from __future__ import annotations

from oracle.context import Context, Device, Json

# Per room what happens to bob, in order: i(nvited), j(oins), l(eaves or rejects), k(icked), b(anned), u(nbanned),
# n (knocks), f(orgets); m and s: alice writes a message, a state event. A bar is where bob asks.
PATHS = (
    # invitations
    *("i|", "|i", "i|j", "|ij", "i|l", "i|k", "|il", "|ik", "i|b", "i|lf", "i|lij", "i|i", "im|smj"),
    # leaving and coming back
    *("j|l|i", "j|li", "j|lfi", "j|lf|i", "|jl", "|jlj", "j|lj", "jl|j", "jl|i", "jl||m", "jlf|j", "j|lf|", "jm|lmj"),
    # kicks and bans
    *("j|k|i", "j|ki", "j|b", "j|bu", "j|bui", "jb|u", "jb|uj", "i|jb", "|jkj", "j|kj|k", "jk||", "jb||s", "j|bf|", "j|smlms"),
    # knocks
    *("n|", "|n", "n|l", "n|k", "n|i", "n|ij", "n|b", "|nk", "|nl", "|ni", "ijl|n", "ij|ln", "n|lf", "n|kn|l", "il|n"),
)
WINDOWS = 3


def run(context: Context) -> None:
    """All paths at once, each in a room of its own, with one rule of history or another."""
    alice, bob = context.user("alice"), context.user("bob")
    rooms: list[tuple[list[str], str]] = []
    for number, path in enumerate(PATHS):
        history = ("shared", "joined", "invited", "joined")[number % 4]
        parts = (path.split("|") + [""] * WINDOWS)[:WINDOWS]
        rooms.append((parts, _room(context, alice, history, f"{path} {history}", "n" in path)))
    for window in range(WINDOWS):
        for parts, room in rooms:
            for step in parts[window]:
                _step(alice, bob, room, step)
        body = bob.ask(f"window {window + 1}") if window else bob.ask("initial")
        assert "rooms" in body, body
    bob.ask("nothing is repeated")
    for number, (title, query) in enumerate(_looks().items()):
        device = context.device(bob.user_id, f"E{number}")
        device.ask(f"initial, {title}", **query)
        device.ask(f"full state, {title}", full_state=True, **query)
    for parts, room in rooms[:20]:
        alice.do.text(room, "at the end")
    bob.ask("messages in some of them")


def _looks() -> dict[str, Json]:
    wide = {"limit": 30}
    return {
        "as usual": {},
        "with rooms left": {"filter": {"room": {"include_leave": True, "timeline": wide}}},
        "as federation has it": {
            "filter": {"room": {"include_leave": True, "timeline": {"limit": 1}}, "event_format": "federation"}
        },
        "few fields": {"filter": {"event_fields": ["type", "content.membership"], "room": {"include_leave": True}}},
    }


def _room(context: Context, alice: Device, history: str, name: str, knock: bool) -> str:
    return context.room(
        alice,
        name=name,
        topic="What is seen from outside",
        initial_state=[
            {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": history}},
            {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock" if knock else "public"}},
            {"type": "m.room.avatar", "state_key": "", "content": {"url": "mxc://chappe.localhost/a"}},
        ],
    )


def _step(alice: Device, bob: Device, room: str, step: str) -> None:
    by_alice = {"i": "invite", "k": "kick", "b": "ban", "u": "unban"}
    if step in by_alice:
        alice.do.membership(room, by_alice[step], bob.user_id, reason=f"because of {step}")
    elif step == "j":
        bob.do.join(room)
    elif step == "n":
        bob.do.knock(room, "please")
    elif step == "m":
        alice.do.text(room, "a message")
    elif step == "s":
        alice.do.state(room, "org.example.state", {"n": 1})
    else:
        bob.do.membership(room, {"l": "leave", "f": "forget"}[step])
