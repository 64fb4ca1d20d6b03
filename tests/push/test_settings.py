# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Settings of homeserver.yaml: contents, counts, delays, counts switched off, forbidden addresses."""

from __future__ import annotations

import socket
import time

import pytest
from push.phones import Phones, pair
from support.gateway import Gateway

JITTER = 2.0
SYNAPSE = {
    "push": {"include_content": False, "group_unread_count_by_room": False, "jitter_delay": "2s"},
    "experimental_features": {"msc4076_enabled": True},
    "ip_range_whitelist": ["127.0.0.1/32"],
    "email": {"enable_notifs": True, "notif_from": "a@example.com", "smtp_host": "127.0.0.1", "smtp_port": 9},
}


def test_without_content(phones: Phones) -> None:
    """No content, but the names; every notification counts, and every invitation."""
    ann, ben = phones.person("ann"), phones.person("ben")
    room = phones.room(ann, ben, name="Ops")
    key = phones.phone(ben)
    first = ann.text(room, "read")
    phones.events(key, 1)
    ben.receipt(room, first)  # without a receipt Synapse counts the invitation to the room as well
    time.sleep(1)
    for number in range(3):
        ann.text(room, "secret")
        push = phones.events(key, number + 2)[-1]
        assert push.unread == number + 1
        assert "content" not in push.notification and b"secret" not in push.raw
        assert push.notification["room_name"] == "Ops" and push.notification["sender_display_name"]
    ann.create_room(preset="private_chat", invite=[ben.user_id])
    assert phones.events(key, 1, members=True)[0].unread == 4


def test_delay(phones: Phones) -> None:
    """Each is sent within the delay of its own time, in order."""
    ann, _, room, key = pair(phones)
    sent = [(ann.text(room, f"{number}"), time.time()) for number in range(10)]
    got = phones.events(key, 10, 30)
    assert [push.event_id for push in got] == [event for event, _ in sent]
    late = [push.at - at for push, (_, at) in zip(got, sent)]
    assert max(late) < JITTER + 2
    assert max(late) > 0.15  # drawn from two seconds: not all of them at once


def test_counts_switched_off(phones: Phones) -> None:
    """MSC4076: no counts in notifications, and (Chappe) none alone."""
    ann, ben, room, key = pair(phones)
    phones.set_pusher(ben, key, {"url": phones.gateway.url, "org.matrix.msc4076.disable_badge_count": True})
    event = ann.text(room, "0")
    assert "counts" not in phones.events(key, 1)[0].notification
    if phones.world.settings.with_chappe:
        ben.receipt(room, event, "m.read")
        phones.quiet(key, 2, events=False)


def test_forbidden_addresses(phones: Phones) -> None:
    """No connection to what ip_range_blacklist forbids; a name with one such address among others is forbidden."""
    ann, ben = phones.person("ann"), phones.person("ben")
    room = phones.room(ann, ben)
    hidden = Gateway(phones.gateway.port + 4, "127.0.0.2").start()
    try:
        refused = phones.phone(ben, url=hidden.url, append=True)
        named = phones.phone(ben, url=phones.gateway.url.replace("127.0.0.1", "localhost"), append=True)
        good = phones.phone(ben, append=True)
        ann.text(room, "0")
        phones.events(good, 1)
        phones.until(lambda: (phones.row(refused) or {})["failing_since"] is not None)
        assert hidden.pushes == []
        addresses = {info[4][0] for info in socket.getaddrinfo("localhost", None)}
        if addresses == {"127.0.0.1"}:
            phones.events(named, 1)
        else:
            phones.until(lambda: (phones.row(named) or {})["failing_since"] is not None)
            assert phones.gateway.of(named) == []
    finally:
        hidden.stop()


@pytest.mark.chappe_only
def test_delay_of_an_event_from_the_future(phones: Phones) -> None:
    """The delay is counted from the event's own time, but a time far ahead keeps nothing back."""
    ann, _, room, key = pair(phones)
    phones.pusher().stop()
    event = ann.text(room, "0")
    sql = phones.world.deployment.postgres.psql
    year = int(time.time() * 1000) + 365 * 86400000
    sql(
        "UPDATE event_json SET json = regexp_replace(json, '\"origin_server_ts\":[0-9]+',"
        f" '\"origin_server_ts\":{year}') WHERE event_id = '{event}'"
    )
    phones.pusher().start()
    phones.pusher().wait_ready()
    phones.events(key, 1)


@pytest.mark.chappe_only
def test_email_is_left_alone(phones: Phones) -> None:
    """Users of this instance with email pushers get no email: that is said at start, and their rows stay as they are."""
    ann, ben, room, key = pair(phones)
    mail, off = phones.phone(ben, append=True), phones.phone(ben, append=True)
    sql = phones.world.deployment.postgres.psql
    sql("UPDATE pushers SET enabled = FALSE WHERE kind = 'email'")  # of other runs
    sql(f"UPDATE pushers SET kind = 'email', app_id = 'm.email' WHERE pushkey IN ('{mail}', '{off}')")
    sql(f"UPDATE pushers SET enabled = FALSE WHERE pushkey = '{off}'")
    sql(f"INSERT INTO pusher_throttle SELECT id, '{room}', 1, 2 FROM pushers WHERE pushkey = '{mail}'")
    throttle = "SELECT * FROM pusher_throttle ORDER BY pusher"
    before = [phones.row(mail), phones.row(off), sql(throttle)]
    log = phones.pusher().log
    phones.pusher().stop()
    phones.pusher().start()
    phones.pusher().wait_ready()
    assert "1 email pushers belong to users of this instance" in log.read_text()
    ann.text(room, "0")
    phones.events(key, 1)
    phones.quiet(mail)
    assert [phones.row(mail), phones.row(off), sql(throttle)] == before
    sql(f"DELETE FROM pusher_throttle; DELETE FROM pushers WHERE pushkey IN ('{mail}', '{off}')")
