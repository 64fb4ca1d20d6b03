# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Default push rules that experimental features add, those of a user among them, and rooms of MSC1767's version."""

from __future__ import annotations

from oracle.context import Context

SETTINGS = {
    "experimental_features": {
        "msc1767_enabled": True,
        "msc3664_enabled": True,
        "msc3381_polls_enabled": True,
        "msc4028_push_encrypted_events": True,
        "msc4306_enabled": True,
    }
}


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob, name="Polls")
    answer = alice.ask("initial")
    rules = next(d["content"] for d in answer["account_data"]["events"] if d["type"] == "m.push_rules")
    names = {rule["rule_id"] for kind in rules["global"].values() for rule in kind}
    wanted = {
        ".org.matrix.msc4028.encrypted_event",
        ".im.nheko.msc3664.reply",
        ".org.matrix.msc3930.rule.poll_response",
        ".org.matrix.msc3930.rule.poll_end",
        ".org.matrix.msc1767.rule.extensible.audio",
        ".org.matrix.msc3933.rule.extensible.audio.room_one_to_one",
        ".io.element.msc4306.rule.subscribed_thread",
    }
    assert wanted <= names, wanted - names
    rules_path = "/_matrix/client/v3/pushrules/global"
    alice.do.call("PUT", f"{rules_path}/override/mine", {"conditions": [], "actions": ["dont_notify"]})
    alice.ask("a rule of one's own")
    alice.do.call("PUT", f"{rules_path}/override/mine/enabled", {"enabled": False})
    alice.ask("turned off")
    alice.do.call("PUT", f"{rules_path}/override/.im.nheko.msc3664.reply/enabled", {"enabled": False})
    alice.ask("an experimental one turned off")
    alice.do.call("PUT", f"{rules_path}/underride/.org.matrix.msc3930.rule.poll_start/actions", {"actions": []})
    alice.ask("other actions for an experimental one")
    event = alice.do.text(room, "question")
    bob.do.text(room, "answer", **{"m.relates_to": {"m.in_reply_to": {"event_id": event}}})
    alice.ask("a reply")
    bob.do.send(room, {"org.matrix.msc3381.poll.start": {}, "body": "?"}, "org.matrix.msc3381.poll.start")
    alice.ask("a poll")
    bob.do.send(room, {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x"}, "m.room.encrypted")
    alice.ask("an encrypted event")
    extensible = context.room(alice, bob, name="Extensible", room_version="org.matrix.msc1767.10")
    bob.do.send(extensible, {"m.markup": [{"body": "extensible"}]}, "m.message")
    alice.ask("a room of the experimental version")
    context.device(alice.user_id, "D2").ask("initial of another device")
