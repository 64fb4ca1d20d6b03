# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""MSC4222 while it is off: the parameter is ignored, until an administrator turns it on for one user."""

from __future__ import annotations

import time
from urllib.parse import quote

from oracle.context import Context
from stack.matrix import Client

NAME = "org.matrix.msc4222.state_after"
AFTER = {"org.matrix.msc4222.use_state_after": True}


def run(context: Context) -> None:
    alice, bob = context.user("alice"), context.user("bob")
    room = context.room(alice, bob)
    body = alice.ask("ignored", **AFTER)
    assert "state" in body["rooms"]["join"][room] and NAME not in body["rooms"]["join"][room], body
    bob.do.text(room, "one")
    alice.ask("not even looked at", **{"org.matrix.msc4222.use_state_after": "perhaps"})
    world = context.world
    admin = Client.login(world.main, world.new_user("admin", admin=True), "correct horse", "A1")
    path = f"/_synapse/admin/v1/experimental_features/{quote(alice.user_id)}"
    admin.call("PUT", path, {"features": {"msc4222": True}})
    bob.do.state(room, "m.room.member", {"membership": "join", "displayname": "Bob B."}, bob.user_id)
    time.sleep(1.0)  # invalidations have no position to wait for
    body = alice.ask("on for her", **AFTER)
    assert NAME in body["rooms"]["join"][room], body
    body = bob.ask("not for him", **AFTER)
    assert "state" in body["rooms"]["join"][room], body
    admin.call("PUT", path, {"features": {"msc4222": False}})
    bob.do.text(room, "two")
    time.sleep(1.0)  # invalidations have no position to wait for
    body = alice.ask("off again", **AFTER)
    assert "state" in body["rooms"]["join"][room], body
