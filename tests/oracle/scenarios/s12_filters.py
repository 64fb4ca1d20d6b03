# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Filters: types, senders, rooms, limits, fields, stored and inline, and wrong ones."""

from __future__ import annotations

from oracle.context import Context


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    one, two = context.room(alice, bob, name="One"), context.room(alice, bob, name="Two")
    alice.ask("initial")
    bob.do.text(one, "in one")
    bob.do.text(two, "in two")
    alice.do.account_data("org.example.a", {"n": 1})
    alice.do.account_data("org.example.b", {"n": 2})
    alice.do.state(two, "m.room.topic", {"topic": "t"})
    start = alice.since
    cases: dict[str, dict[str, object]] = {
        "only messages": {"room": {"timeline": {"types": ["m.room.message"]}}},
        "wildcard": {"room": {"timeline": {"types": ["m.room.*"]}, "state": {"types": ["m.room.m*"]}}},
        "not messages": {"room": {"timeline": {"not_types": ["m.room.message"]}}},
        "only bob": {"room": {"timeline": {"senders": [bob.user_id]}, "state": {"senders": [bob.user_id]}}},
        "not bob": {"room": {"timeline": {"not_senders": [bob.user_id]}}},
        "one room": {"room": {"rooms": [one]}},
        "not one room": {"room": {"not_rooms": [one]}},
        "timeline of one room": {"room": {"timeline": {"rooms": [one]}}},
        "no room": {"room": {"rooms": []}},
        "no timeline": {"room": {"timeline": {"types": []}}},
        "no state": {"room": {"state": {"types": []}}},
        "no account data": {"account_data": {"types": []}},
        "some account data": {"account_data": {"types": ["org.example.a", "m.push_rules"]}},
        "no ephemeral": {"room": {"ephemeral": {"types": []}, "account_data": {"not_types": ["*"]}}},
        "no presence": {"presence": {"types": []}},
        "contains url": {"room": {"timeline": {"contains_url": True}}},
        "fields": {"event_fields": ["type", "content.body", "sender"]},
        "federation format": {"event_format": "federation"},
        "nothing at all": {
            "presence": {"types": []},
            "account_data": {"types": []},
            "room": {"rooms": []},
        },
        "related by sender": {"room": {"timeline": {"related_by_senders": [bob.user_id]}}},
    }
    for title, definition in cases.items():
        alice.since = start
        alice.ask(f"{title}, incremental", filter=definition)
        alice.since = None
        alice.ask(f"{title}, initial", filter=definition)
    alice.since = start
    stored = alice.do.filter(cases["only messages"])
    alice.ask("a stored filter", filter=stored)
    for title, text in (
        ("no JSON", "{bad"),
        ("wrong type", '{"room":5}'),
        ("unknown stored filter", "999999"),
        ("not a number", "abc"),
        ("bad limit", '{"room":{"timeline":{"limit":-1}}}'),
        ("bad room id", '{"room":{"rooms":["nonsense"]}}'),
        ("empty", ""),
    ):
        context.ask_error(alice, title, filter=text)
    for limit in ("-1", "-2", "0.5", "10.0"):
        text = f'{{"room":{{"timeline":{{"limit":{limit}}}}}}}'
        context.ask_error(alice, f"limit {limit}, initial", filter=text)
        context.ask_error(alice, f"limit {limit}, incremental", filter=text, since=start)
