# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Account data global and per room, tags, push rules, ignored users, to every device."""

from __future__ import annotations

from urllib.parse import quote

from oracle.context import Context


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob)
    second = context.device(alice.user_id, "D2")
    alice.ask("initial")
    second.ask("initial")
    alice.do.account_data("m.direct", {bob.user_id: [room]})
    alice.do.account_data("org.example.deep", {"a": {"b": [1, 2.5, None, "ü"]}})
    alice.ask("global account data")
    alice.do.account_data("org.example.room", {"colour": "blue"}, room)
    alice.ask("room account data")
    user = quote(alice.user_id)
    alice.do.call("PUT", f"/user/{user}/rooms/{room}/tags/m.favourite", {"order": 0.25})
    alice.do.call("PUT", f"/user/{user}/rooms/{room}/tags/u.work", {})
    alice.ask("tags")
    alice.do.call("DELETE", f"/user/{user}/rooms/{room}/tags/u.work")
    alice.ask("a tag removed")
    rule = {"conditions": [{"kind": "event_match", "key": "content.body", "pattern": "alarm"}], "actions": ["notify"]}
    alice.do.call("PUT", "/pushrules/global/override/org.example.alarm", rule)
    alice.ask("a push rule added")
    alice.do.call("PUT", "/pushrules/global/override/org.example.alarm/enabled", {"enabled": False})
    alice.do.call("PUT", "/pushrules/global/underride/.m.rule.message/actions", {"actions": ["dont_notify"]})
    alice.ask("push rules changed")
    alice.do.call("DELETE", "/pushrules/global/override/org.example.alarm")
    second.ask("all at once")
    context.ask_parked(alice, "account data while parked", lambda: alice.do.account_data("org.example.b", {"n": 1}))
    alice.do.account_data("m.ignored_user_list", {"ignored_users": {bob.user_id: {}}})
    alice.ask("ignoring someone")
    bob.do.text(room, "from an ignored one")
    bob.do.create_room(invite=[alice.user_id], name="Invitation from an ignored one")
    alice.ask("nothing from an ignored user")
    alice.do.account_data("m.ignored_user_list", {"ignored_users": {}})
    bob.do.text(room, "heard again")
    alice.ask("not ignored any more")
    context.device(alice.user_id, "D3").ask("initial with all of it")
