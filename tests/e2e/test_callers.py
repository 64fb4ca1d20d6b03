# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Callers who are not ordinary users: guests, application services, and who is over the monthly limit."""

from __future__ import annotations

import json
from typing import Any, Iterator
from urllib.parse import quote

import pytest
from stack.matrix import Client, Reply
from stack.settings import SERVER_NAME
from support.world import World, settings_for

SYNC = "/_matrix/client/v3/sync?set_presence=offline"
AS_TOKEN = "as-token-of-the-tests"
LIMIT = 6


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A deployment with guests, an application service and a monthly limit of users, none of whom an earlier run made."""
    settings = settings_for("callers", offset=60, fresh=True)
    registration = tmp_path_factory.mktemp("callers") / "service.yaml"
    service = {
        "id": "tests",
        "url": None,
        "as_token": AS_TOKEN,
        "hs_token": "hs-token-of-the-tests",
        "sender_localpart": "tests-bot",
        "rate_limited": False,
        "namespaces": {"users": [{"exclusive": True, "regex": f"@tests_.*:{SERVER_NAME}"}]},
    }
    registration.write_text(json.dumps(service))
    settings.synapse_extra.update(
        allow_guest_access=True,
        enable_registration=True,
        enable_registration_without_verification=True,
        app_service_config_files=[str(registration)],
        limit_usage_by_mau=True,
        max_mau_value=LIMIT,
        mau_trial_days=0,
        admin_contact="mailto:admin@example.org",
    )
    world = World(settings).start()
    try:
        yield world
        world.deployment.check_running()
    finally:
        world.stop()


def _shape(reply: Reply) -> Any:
    """Return what two servers must agree on: an error whole, of an answer its sections and rooms."""
    body = reply.body
    if reply.status != 200:
        return reply.status, body
    rooms = {section: sorted(inside) for section, inside in body.get("rooms", {}).items()}
    names = sorted(name for name in body if name not in ("next_batch", "presence"))
    return reply.status, names, rooms, body["device_one_time_keys_count"], body["device_unused_fallback_key_types"]


def _both(world: World, token: str, target: str = SYNC) -> Reply:
    """Ask the Synapse worker and the server under test; they agree; return the latter's answer."""
    theirs, ours = (Client(url).link.request("GET", target, token=token) for url in (world.worker, world.target))
    assert _shape(ours) == _shape(theirs)
    return ours


def test_guest(callers: World) -> None:
    """A guest syncs the rooms that guests may join, like anybody."""
    host = callers.new_device("host")
    open_room = host.create_room(
        preset="public_chat",
        initial_state=[{"type": "m.room.guest_access", "state_key": "", "content": {"guest_access": "can_join"}}],
    )
    answer = Client(callers.main).call("POST", "/register?kind=guest", {})
    guest = Client(callers.main, answer["user_id"], answer["access_token"])
    assert _both(callers, answer["access_token"]).status == 200
    guest.join(open_room)
    event_id = host.text(open_room, "hello, guest")
    body = _until(callers, answer["access_token"], open_room)
    assert event_id in json.dumps(body)


def _until(world: World, token: str, room: str) -> Any:
    """Ask until the answer has the room: the servers hear of it one after the other."""
    for _ in range(50):
        replies = [Client(url).link.request("GET", SYNC, token=token) for url in (world.worker, world.target)]
        if all(room in json.dumps(reply.body) for reply in replies):
            break
    return _both(world, token).body


def test_application_service(callers: World) -> None:
    """The service's own user cannot sync; one of its namespace can, without a device or with one."""
    service = Client(callers.main, token=AS_TOKEN)
    body = {"type": "m.login.application_service", "username": "tests_one"}
    service.call("POST", "/register", body)
    user = f"@tests_one:{SERVER_NAME}"
    assert _both(callers, AS_TOKEN).status == 500
    reply = _both(callers, AS_TOKEN, f"{SYNC}&user_id={quote(user)}")
    assert reply.status == 200 and reply.body["device_one_time_keys_count"] == {}, reply.raw
    for name in ("device_id", "org.matrix.msc3202.device_id"):
        _both(callers, AS_TOKEN, f"{SYNC}&user_id={quote(user)}&{name}=nonesuch")
    strangers = (f"@tests_two:{SERVER_NAME}", f"@other:{SERVER_NAME}", "@tests_one:elsewhere.example", "nonsense", "")
    for stranger in strangers:
        reply = _both(callers, AS_TOKEN, f"{SYNC}&user_id={quote(stranger)}")
        assert reply.status in (401, 403, 500), (stranger, reply.raw)
    _both(callers, AS_TOKEN, f"{SYNC}&user_id={quote(user)}&user_id=nonsense")


def test_over_the_limit(callers: World) -> None:
    """Whoever is not among the month's active users is refused, and told whom to write to."""
    people = [callers.device(callers.new_user(f"many{number}"), url=callers.main) for number in range(LIMIT + 2)]
    for person in people[:LIMIT]:
        Client(callers.main, token=person.token).call("GET", "/account/whoami")
    reply = None
    for person in people:
        assert person.token is not None
        reply = _both(callers, person.token)
        if reply.status == 403:
            break
    assert reply is not None and reply.status == 403, reply
    assert reply.body["errcode"] == "M_RESOURCE_LIMIT_EXCEEDED", reply.raw
    assert reply.body["admin_contact"] == "mailto:admin@example.org", reply.raw
    assert reply.body["limit_type"] == "monthly_active_user", reply.raw
