# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Push rules of every kind, tags, account data of rooms, markers: what changes them and what wakes whom."""

from __future__ import annotations

from urllib.parse import quote

from oracle.context import Context, Json

RULES: list[tuple[str, str, Json]] = [
    ("override", "org.example.o1", {"conditions": [], "actions": ["notify", {"set_tweak": "sound", "value": "x"}]}),
    ("override", "org.example.o2", {"conditions": [{"kind": "room_member_count", "is": "2"}], "actions": []}),
    ("underride", "org.example.u", {"conditions": [{"kind": "contains_display_name"}], "actions": ["notify"]}),
    ("content", "org.example.c", {"pattern": "w*rd", "actions": ["notify", {"set_tweak": "highlight"}]}),
    ("room", "", {"actions": ["dont_notify"]}),
    ("sender", "", {"actions": ["notify"]}),
    ("override", "with space/and slash", {"conditions": [{"kind": "unheard_of", "x": 1}], "actions": ["coalesce"]}),
]


def run(context: Context) -> None:
    """One part for each."""
    _rules(context)
    _tags(context)
    _filters(context)


def _rules(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob)
    second = context.device(alice.user_id, "D2")
    for device in (alice, second):
        device.ask("initial")
    paths = []
    for kind, rule_id, rule in RULES:
        rule_id = rule_id or {"room": room, "sender": bob.user_id}[kind]
        path = f"/pushrules/global/{kind}/{quote(rule_id, safe='')}"
        if "slash" in rule_id:
            path = path.replace("%2F", "-")
        alice.do.call("PUT", path, rule)
        paths.append(path)
        body = alice.ask(f"a new rule of kind {kind}")
        assert body["account_data"]["events"][0]["type"] == "m.push_rules", body
    before = RULES[1][1]
    for path, action, what in (
        (paths[0], "/enabled", {"enabled": False}),
        (paths[0], "/enabled", {"enabled": True}),
        (paths[3], "/actions", {"actions": []}),
        (f"{paths[0]}?after={before}", "", RULES[0][2]),
        ("/pushrules/global/override/.m.rule.master", "/enabled", {"enabled": True}),
        ("/pushrules/global/override/.m.rule.master", "/enabled", {"enabled": False}),
        ("/pushrules/global/underride/.m.rule.encrypted", "/enabled", {"enabled": False}),
        ("/pushrules/global/override/.m.rule.is_user_mention", "/actions", {"actions": ["notify"]}),
        ("/pushrules/global/content/.m.rule.contains_user_name", "/actions", {"actions": []}),
    ):
        alice.do.call("PUT", f"{path}{action}" if action else path, what)
        alice.ask(f"{path}{action}: {what}")
    context.ask_parked(second, "a rule removed while parked", lambda: alice.do.call("DELETE", paths[5]))
    for path in paths[:5]:
        alice.do.call("DELETE", path)
    alice.ask("rules removed")
    context.device(alice.user_id, "D3").ask("initial with changed rules")
    alice.ask("full state has them all", full_state=True)
    alice.ask("none of a sender", filter={"account_data": {"senders": [alice.user_id]}}, full_state=True)


def _tags(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    room, other = context.room(alice, bob, name="Tagged"), context.room(bob, name="Tagged before")
    path = f"/user/{quote(alice.user_id)}/rooms/{room}/tags"
    second = context.device(alice.user_id, "D2")
    alice.ask("initial")
    second.ask("initial")
    alice.do.call("PUT", f"{path}/m.favourite", {"order": 0.5})
    body = alice.ask("a tag alone brings the room")
    assert [event["type"] for event in body["rooms"]["join"][room]["account_data"]["events"]] == ["m.tag"], body
    for content in ({"order": 0.25}, {"order": 0.25, "more": [1, {"x": None}]}, {}, {"order": "0.5"}):
        alice.do.call("PUT", f"{path}/m.favourite", content)
        alice.ask(f"the tag is {content}")
    context.ask_parked(
        second, "the last tag goes while parked", lambda: alice.do.call("DELETE", f"{path}/m.favourite")
    )
    body = alice.ask("the last tag is gone")
    assert body["rooms"]["join"][room]["account_data"]["events"][0]["content"] == {"tags": {}}, body
    context.device(alice.user_id, "D3").ask("initial without tags")
    # Tags and data of a room that one is not in are not told; all at once when one joins.
    elsewhere = f"/user/{quote(alice.user_id)}/rooms/{other}"
    bob.do.membership(other, "invite", alice.user_id)
    alice.ask("invited")
    alice.do.call("PUT", f"{elsewhere}/tags/u.later", {"order": 1})
    alice.do.account_data("org.example.early", {"n": 1}, other)
    alice.ask("tags and data of a room one is invited to")
    alice.do.join(other)
    alice.do.account_data("org.example.late", {"n": 2}, other)
    alice.ask("joined a room that has tags")
    alice.do.membership(other, "leave")
    alice.do.call("PUT", f"{elsewhere}/tags/u.gone", {})
    alice.ask("left, with a tag")
    alice.do.account_data("org.example.gone", {"n": 3}, other)
    alice.ask("data of a room one has left")
    for leave in (True, False):
        device = context.device(alice.user_id, f"L{leave}")
        device.ask("initial with rooms left", filter={"room": {"include_leave": leave}})
    for marker in (bob.do.text(room, "read this"), bob.do.text(room, "and this")):
        alice.do.call("POST", f"/rooms/{room}/read_markers", {"m.fully_read": marker})
        second.ask("the fully read marker")
    context.device(alice.user_id, "D4").ask("initial with a marker")


def _filters(context: Context) -> None:
    """`rooms` takes away all account data of rooms, `not_rooms` none; types and limits of each section."""
    alice, bob = context.user("alice"), context.user("bob")
    one, two = context.room(alice, bob, name="One"), context.room(alice, bob, name="Two")
    start = alice.ask("initial")["next_batch"]
    for room in (one, two):
        alice.do.account_data("org.example.a", {"n": 1}, room)
        alice.do.account_data("org.example.b", {}, room)
        alice.do.call("PUT", f"/user/{quote(alice.user_id)}/rooms/{room}/tags/u.x", {})
    alice.do.account_data("org.example.a", {})
    for section in (
        {"rooms": [one]},
        {"not_rooms": [one]},
        {"account_data": {"rooms": [one]}},
        {"account_data": {"not_rooms": [one]}},
        {"account_data": {"types": ["m.tag"]}},
        {"account_data": {"not_types": ["m.tag"]}},
        {"account_data": {"types": ["org.example.*"], "limit": 1}},
        {"account_data": {"senders": [alice.user_id]}},
        {"account_data": {"not_senders": [alice.user_id]}},
        {"account_data": {"types": []}},
        {"rooms": [one], "not_rooms": [one]},
    ):
        for since in (str(start), None):
            alice.since = since
            alice.ask(f"{section}", filter={"room": section})
    for section in ({"types": ["*.a"]}, {"not_types": ["*"]}, {"senders": []}, {"not_senders": [bob.user_id]}):
        alice.since = str(start)
        alice.ask(f"global {section}", filter={"account_data": section})
