# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""What a scenario with FEDERATION = True works with: the second homeserver and the puppet.

Whatever comes over federation arrives some time after it was sent; these helpers wait until the
homeserver under test has taken it in. Only then does a scenario ask.
"""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING, Callable
from urllib.parse import quote

from stack.federation import certificate
from stack.matrix import Client

from oracle.normal import TOKEN_FIELDS
from oracle.puppet import Puppet, Room
from support.world import PASSWORD

if TYPE_CHECKING:
    from oracle.context import Context, Device

_SECONDS = 15.0


class Federation:
    """The neighbours of the homeserver under test, for one run of one scenario."""

    def __init__(self, context: "Context") -> None:
        self.world = context.world
        self._position = context.position
        remote = self.world.deployment.remote
        assert remote is not None, "this deployment has no second homeserver"
        self.remote = remote

    @cached_property
    def puppet(self) -> Puppet:
        """The server whose events a scenario makes up."""
        settings = self.world.settings
        return Puppet(settings.ports.puppet, settings.server_name, *certificate(settings))

    def close(self) -> None:
        """Stop the puppet if there is one."""
        if "puppet" in self.__dict__:
            self.puppet.close()

    # -- the second homeserver -------------------------------------------------------------------

    def user(self, name: str, device_id: str = "R1") -> Client:
        """Register a user of the second homeserver with one device."""
        user_id = self.remote.admin.register(self.world.unique(name), PASSWORD)
        return Client.login(self.remote.url, user_id, PASSWORD, device_id)

    def join(self, client: Client, room: str) -> None:
        """Let a user of either homeserver join a room of the other."""
        names = [self.world.settings.server_name, self.remote.server_name, f"127.0.0.1:{self.world.settings.ports.puppet}"]
        own = client.user_id.partition(":")[2]
        servers = "&".join(f"server_name={quote(name)}" for name in names if name != own)
        client.call("POST", f"/join/{quote(room)}?{servers}")
        if own == self.world.settings.server_name:
            self.member_now(room, client.user_id, "join")
        else:
            self.member(room, client.user_id, "join")

    def room(self, creator: "Device", *members: Client, **options: object) -> str:
        """Make a room on the first homeserver which users of the second join."""
        options.setdefault("preset", "public_chat")
        room = creator.do.create_room(**options)
        for member in members:
            self.join(member, room)
        return room

    # -- waiting ---------------------------------------------------------------------------------

    def sql(self, statement: str) -> str:
        """Ask the database of the homeserver under test."""
        return self.world.deployment.postgres.psql(statement).strip()

    def wait(self, what: str, done: Callable[[], bool]) -> None:
        """Wait for something."""
        deadline = time.monotonic() + _SECONDS
        while not done():
            assert time.monotonic() < deadline, f"{what} did not happen in {_SECONDS:.0f} s"
            time.sleep(0.05)

    def arrived(self, *event_ids: str) -> None:
        """Wait until the homeserver under test has stored events (rejected ones too)."""
        names = ", ".join(f"'{name}'" for name in event_ids)
        statement = f"SELECT count(*) FROM events WHERE event_id IN ({names}) AND NOT outlier"
        self.wait(f"the arrival of {names}", lambda: self.sql(statement) == str(len(set(event_ids))))
        self.digested()

    def digested(self) -> None:
        """Wait until nothing that came in is waiting to be looked at."""
        statement = "SELECT count(*) FROM federation_inbound_events_staging"
        self.wait("the end of the staging area", lambda: self.sql(statement) == "0")

    def member(self, room: str, user_id: str, membership: str) -> None:
        """Wait until the homeserver under test sees somebody in a room as this."""
        statement = (
            "SELECT count(*) FROM current_state_events WHERE type = 'm.room.member'"
            f" AND room_id = '{room}' AND state_key = '{user_id}' AND membership = '{membership}'"
        )
        self.wait(f"{user_id}: {membership}", lambda: self.sql(statement) == "1")
        self.digested()

    def member_now(self, room: str, user_id: str, membership: str) -> None:
        """Wait until one of our own users is this to a room whose state may be unknown."""
        statement = (
            "SELECT count(*) FROM local_current_membership"
            f" WHERE room_id = '{room}' AND user_id = '{user_id}' AND membership = '{membership}'"
        )
        self.wait(f"{user_id}: {membership}", lambda: self.sql(statement) == "1")

    def moved(self, field: str, action: Callable[[], object]) -> None:
        """Act, and wait until one of the homeserver's streams has moved on."""
        index = TOKEN_FIELDS.index(field)
        url = self.world.main
        before = self._position(url).split("_")[index]
        action()
        self.wait(f"news in the stream {field}", lambda: self._position(url).split("_")[index] != before)

    def listed(self, user_id: str, action: Callable[[], object]) -> None:
        """Act, and wait until a remote user's device list has changed by it."""
        newest = f"SELECT coalesce(max(stream_id), 0) FROM device_lists_stream WHERE user_id = '{user_id}'"
        before = self.sql(newest)
        action()
        self.wait(f"news of {user_id}'s devices", lambda: self.sql(newest) != before)

    def deliver(self, room: Room, *event_ids: str) -> None:
        """Send the puppet's events in one transaction and wait until they are stored."""
        self.puppet.send(room, *event_ids)
        self.arrived(*event_ids)

    def told(self, room: Room, *event_ids: str) -> None:
        """Wait until the puppet has got events, so that it goes on from them."""
        self.wait(f"the puppet's learning of {event_ids}", lambda: all(name in room.events for name in event_ids))
