# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A token that ends takes its parked polls with it, within a second, with the right 401."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any, Callable
from urllib.parse import quote

import pytest
from stack.matrix import Client, MatrixError, Reply
from support.world import PASSWORD, World

pytestmark = pytest.mark.chappe_only

_ALWAYS = {"next_batch", "device_one_time_keys_count", "device_unused_fallback_key_types"}


@dataclasses.dataclass
class Parked:
    """A poll that is waiting, and when it was answered with what."""

    client: Client
    reply: Reply | None = None
    at: float = 0.0

    def start(self) -> "Parked":
        """Sync until nothing is new, then wait in a thread.

        The login's own device list change may arrive after a first empty answer, hence two in a row.
        """
        since = self.client.sync()["next_batch"]
        empty = 0
        for _ in range(20):
            body = self.client.sync(since=since, timeout=400)
            since = body["next_batch"]
            empty = empty + 1 if body.keys() <= _ALWAYS else 0
            if empty == 2:
                break

        def poll() -> None:
            link = Client(f"http://{self.client.link.host}:{self.client.link.port}", token=self.client.token)
            quiet = {"presence": {"types": []}, "account_data": {"types": []}}
            self.reply = link.sync_raw(since=since, timeout=30000, filter=quiet)
            self.at = time.monotonic()

        self.thread = threading.Thread(target=poll, daemon=True)
        self.thread.start()
        time.sleep(0.5)
        assert self.reply is None, f"the poll was not parked: {self.reply}"
        return self


@dataclasses.dataclass
class Case:
    """A way to end a session: what is done, and what the poll is told."""

    title: str
    act: Callable[[World, Client, Client], Any]
    errcode: str = "M_UNKNOWN_TOKEN"
    soft_logout: bool | None = False


def _password_stage(client: Client, method: str, path: str, body: dict[str, Any]) -> None:
    """Do a request that asks for the password again."""
    try:
        client.call(method, path, body)
    except MatrixError as error:
        assert error.status == 401, error
        auth = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": client.user_id},
            "password": PASSWORD,
            "session": error.body["session"],
        }
        client.call(method, path, {**body, "auth": auth})


def _admin(world: World) -> Client:
    return world.device(world.new_user("admin", admin=True), "ADMIN", url=world.main)


def _logout(_world: World, victim: Client, _other: Client) -> None:
    victim.logout()


def _logout_all(_world: World, _victim: Client, other: Client) -> None:
    other.call("POST", "/logout/all")


def _new_password(_world: World, _victim: Client, other: Client) -> None:
    _password_stage(other, "POST", "/account/password", {"new_password": "another one", "logout_devices": True})


def _delete_device(_world: World, victim: Client, other: Client) -> None:
    _password_stage(other, "DELETE", f"/devices/{victim.device_id}", {})


def _deactivate_myself(_world: World, _victim: Client, other: Client) -> None:
    _password_stage(other, "POST", "/account/deactivate", {})


def _admin_deactivates(world: World, victim: Client, _other: Client) -> None:
    _admin(world).call("POST", f"/_synapse/admin/v1/deactivate/{quote(victim.user_id)}", {"erase": False})


def _admin_deletes_device(world: World, victim: Client, _other: Client) -> None:
    path = f"/_synapse/admin/v2/users/{quote(victim.user_id)}/devices/{victim.device_id}"
    _admin(world).call("DELETE", path)


def _admin_locks(world: World, victim: Client, _other: Client) -> None:
    _admin(world).call("PUT", f"/_synapse/admin/v2/users/{quote(victim.user_id)}", {"locked": True})


CASES = [
    Case("logout", _logout),
    Case("logout of all devices", _logout_all),
    Case("password changed", _new_password),
    Case("device deleted by its owner", _delete_device),
    Case("account deactivated by its owner", _deactivate_myself),
    Case("account deactivated by an administrator", _admin_deactivates),
    Case("device deleted by an administrator", _admin_deletes_device),
    Case("account locked by an administrator", _admin_locks, "M_USER_LOCKED", True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title.replace(" ", "-"))
def test_parked_poll_ends(world: World, case: Case) -> None:
    """The poll is answered 401 within a second of the act; a fresh request is answered as Synapse does."""
    user = world.new_user("revoked")
    # The acts go to Synapse's main process, the polls to the server under test.
    other = world.device(user, "OTHER", url=world.main)
    acting = world.device(user, "VICTIM", url=world.main)
    victim = Client(world.target, user, acting.token, acting.device_id)
    parked = Parked(victim).start()
    done: list[float] = []
    case.act(world, acting, other)
    done.append(time.monotonic())
    parked.thread.join(10)
    assert parked.reply is not None, "the poll was not ended"
    assert parked.reply.status == 401, parked.reply
    assert parked.reply.body["errcode"] == case.errcode, parked.reply.body
    assert parked.reply.body.get("soft_logout") == case.soft_logout, parked.reply.body
    assert parked.at - done[0] < 1.0, f"it took {parked.at - done[0]:.2f} s"
    ours = victim.sync_raw()
    theirs = Client(world.worker, user, acting.token).sync_raw()
    assert (ours.status, ours.body) == (theirs.status, theirs.body)


def test_other_device_stays(world: World) -> None:
    """The logout of one device leaves the other's poll waiting, and it still hears messages."""
    user = world.new_user("stays")
    leaving = world.device(user, "LEAVING", url=world.main)
    staying = world.device(user, "STAYING", url=world.main)
    room = staying.create_room()
    parked = Parked(Client(world.target, user, staying.token, staying.device_id)).start()
    leaving.logout()
    time.sleep(1.0)
    if parked.reply is not None:
        # The device list of the user changed, which is news; but it is no error.
        assert parked.reply.status == 200, parked.reply
    else:
        event_id = staying.text(room, "still here")
        parked.thread.join(5)
        assert parked.reply is not None and parked.reply.status == 200
        assert event_id.encode() in parked.reply.raw
