# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""When notifications go out, in which order, how often; what a gateway's misbehaviour does and does not do."""

from __future__ import annotations

import time
from typing import Any

import pytest
from push.phones import Phones, bodies, pair
from support.gateway import Behaviour, Gateway


def test_order(phones: Phones) -> None:
    """The second starts only when the first is answered, and the position moves with the answers."""
    ann, _, room, key = pair(phones)
    phones.gateway.behave(delay=0.3)
    for number in range(4):
        ann.text(room, f"{number}")
    got = phones.events(key, 4)
    phones.until(lambda: all(push.done for push in got))
    assert bodies(got) == ["0", "1", "2", "3"]
    assert all(later.at >= earlier.done - 0.02 for earlier, later in zip(got, got[1:]))
    sql = phones.world.deployment.postgres.psql
    newest = int(sql(f"SELECT stream_ordering FROM events WHERE event_id = '{got[-1].event_id}'"))
    phones.until(lambda: (phones.row(key) or {})["last_stream_ordering"] >= newest)


def test_retries(phones: Phones) -> None:
    """A gateway that fails is asked again at growing intervals, in order; then the mark goes."""
    ann, _, room, key = pair(phones)
    phones.gateway.behave(status=500)
    ann.text(room, "0")
    ann.text(room, "1")
    got = phones.events(key, 3)
    assert bodies(got) == ["0", "0", "0"]
    assert 0.9 < got[1].at - got[0].at < 2.5 and 1.8 < got[2].at - got[1].at < 4.5
    assert (phones.row(key) or {})["failing_since"] is not None
    phones.gateway.behave()
    got = phones.events(key, 5)
    assert bodies(got)[3:] == ["0", "1"]
    phones.until(lambda: (phones.row(key) or {})["failing_since"] is None)


def test_no_push_while_backing_off(phones: Phones) -> None:
    """A new event does not hurry a pusher that waits."""
    ann, _, room, key = pair(phones)
    phones.gateway.behave(status=500)
    ann.text(room, "0")
    phones.events(key, 3)  # the next try is four seconds away
    ann.text(room, "1")
    phones.quiet(key, 2.0)


@pytest.mark.parametrize(
    ("behaviour", "good"),
    [
        ({"body": b"{}"}, True),
        ({"body": b'{"rejected": null}'}, True),
        ({"body": b'{"rejected": ["another key"]}'}, True),
        ({"body": b"[]"}, True),
        ({"status": 201, "body": b"{}"}, True),
        ({"body": b""}, False),
        ({"body": b"<html>"}, False),
        ({"status": 302, "headers": {"location": "/elsewhere"}, "body": b"{}"}, False),
        pytest.param(  # Synapse follows it
            {"status": 303, "headers": {"location": "/elsewhere"}, "body": b"{}"}, False, marks=pytest.mark.chappe_only
        ),
        ({"status": 429, "headers": {"retry-after": "2"}, "body": b"{}"}, False),
        ({"cut": True}, False),
        pytest.param({"body": b"5"}, False, marks=pytest.mark.chappe_only),
        pytest.param({"body": b"x" * 200000}, False, marks=pytest.mark.chappe_only),
    ],
)
def test_answers(phones: Phones, behaviour: dict[str, Any], good: bool) -> None:
    """Which answers count as taken; the others are tried again, and nothing is followed."""
    ann, _, room, key = pair(phones)
    phones.gateway.behave(**behaviour)
    ann.text(room, "0")
    phones.events(key, 1)
    if good:
        ann.text(room, "1")
        assert bodies(phones.events(key, 2))[:2] == ["0", "1"]
        return
    again = phones.events(key, 2)
    assert bodies(again)[:2] == ["0", "0"]
    if "retry-after" in behaviour.get("headers", {}) and phones.world.settings.with_chappe:
        assert again[1].at - again[0].at > 1.8
    assert phones.gateway.strays == []


@pytest.mark.chappe_only
def test_backlog(phones: Phones) -> None:
    """Everything that came while the gateway was down is delivered when it is back, without a new event."""
    ann, _, room, key = pair(phones)
    phones.gateway.behave(status=503, body=b"")
    for number in range(60):
        ann.text(room, f"{number}")
    phones.until(lambda: len(phones.gateway.of(key)) >= 3)
    phones.gateway.behave()
    phones.until(lambda: "59" in bodies(phones.gateway.of(key)), 40)
    told = [push for push in phones.gateway.of(key) if push.done and push.at]
    seen = list(dict.fromkeys(bodies(told)))
    assert seen == [f"{number}" for number in range(60)]


def test_read_elsewhere(phones: Phones) -> None:
    """What was read before it could be told is not told."""
    ann, ben, room, key = pair(phones)
    phones.gateway.behave(status=500)
    first = ann.text(room, "0")
    last = ann.text(room, "1")
    phones.events(key, 1)
    ben.receipt(room, last, "m.read")
    time.sleep(0.5)
    phones.gateway.behave()
    ann.text(room, "2")
    phones.until(lambda: "2" in bodies(phones.gateway.of(key)))
    assert bodies([p for p in phones.gateway.of(key) if p.done])[-1] == "2"
    assert "1" not in bodies(phones.gateway.of(key)), first


@pytest.mark.chappe_only
def test_read_mentions(phones: Phones) -> None:
    """Many mentions that were read while the gateway was down do not block what comes next."""
    ann, ben, room, key = pair(phones)
    phones.gateway.behave(status=503, body=b"")
    for number in range(25):
        last = ann.text(room, f"{number}", **{"m.mentions": {"user_ids": [ben.user_id]}})
    ben.receipt(room, last, "m.read")
    time.sleep(0.5)
    phones.gateway.behave()
    ann.text(room, "new")
    phones.until(lambda: "new" in bodies(phones.gateway.of(key)), 30)


def test_threads(phones: Phones) -> None:
    """A receipt for the main timeline leaves a thread unread; one without a thread does not."""
    ann, ben, room, key = pair(phones)
    root = ann.text(room, "root")
    phones.events(key, 1)
    phones.gateway.behave(status=500)
    reply = ann.text(room, "reply", **{"m.relates_to": {"rel_type": "m.thread", "event_id": root}})
    phones.events(key, 2)
    main = ann.text(room, "main")
    ben.receipt(room, main, "m.read", "main")
    time.sleep(0.5)
    before = len(phones.gateway.of(key))
    phones.events(key, before + 1, 30)
    assert bodies(phones.gateway.of(key))[-1] == "reply"
    ben.receipt(room, main, "m.read.private", None)
    time.sleep(0.5)
    phones.gateway.behave()
    ann.text(room, "new")
    phones.until(lambda: "new" in bodies(phones.gateway.of(key)), 40)
    assert "main" not in bodies(phones.gateway.of(key)), reply


def test_redacted(phones: Phones) -> None:
    """What was redacted before it could be told is not told."""
    ann, _, room, key = pair(phones)
    phones.gateway.behave(status=500)
    ann.text(room, "0")
    phones.events(key, 1)
    secret = ann.text(room, "secret")
    ann.redact(room, secret)
    time.sleep(0.5)
    phones.gateway.behave()
    ann.text(room, "2")
    phones.until(lambda: "2" in [p.notification.get("content", {}).get("body") for p in phones.gateway.of(key)], 30)
    assert secret not in [push.event_id for push in phones.gateway.pushes]


def test_rejected(phones: Phones) -> None:
    """A rejected pushkey loses its pusher, through the main process."""
    ann, _, room, key = pair(phones)
    phones.gateway.rejected.add(key)
    ann.text(room, "0")
    phones.until(lambda: phones.row(key) is None)
    sql = phones.world.deployment.postgres.psql
    assert sql(f"SELECT count(*) FROM deleted_pushers WHERE pushkey = '{key}'").strip() == "1"
    ann.text(room, "1")
    phones.quiet(key)


def test_set_again(phones: Phones) -> None:
    """A registration replaces the pusher: the next event goes to the new place; deletion ends it at once."""
    ann, ben, room, key = pair(phones)
    other = Gateway(phones.gateway.port + 1).start()
    try:
        ann.text(room, "0")
        phones.events(key, 1)
        phones.set_pusher(ben, key, {"url": other.url, "v": 2})
        ann.text(room, "1")
        assert other.wait(lambda: len(other.of(key)) >= 1)
        assert other.of(key)[0].notification["devices"][0]["data"] == {"v": 2}
        assert bodies(phones.gateway.of(key)) == ["0"]
        phones.set_pusher(ben, key, None)
        ann.text(room, "2")
        time.sleep(1.5)
        assert bodies(other.of(key)) == ["1"]
    finally:
        other.stop()


def test_enabled(phones: Phones) -> None:
    """A pusher that is switched off is silent; switched on again it tells what comes then."""
    ann, ben, room, key = pair(phones)
    phones.set_pusher(ben, key, {"url": phones.gateway.url}, enabled=False, **{"org.matrix.msc3881.enabled": False})
    sql = phones.world.deployment.postgres.psql
    if (phones.row(key) or {}).get("enabled") is not False:
        pytest.skip("this Synapse does not know the switch")
    ann.text(room, "0")
    phones.quiet(key)
    phones.set_pusher(ben, key, {"url": phones.gateway.url}, enabled=True, **{"org.matrix.msc3881.enabled": True})
    ann.text(room, "1")
    assert bodies(phones.events(key, 1)) == ["1"], sql("SELECT 1")


@pytest.mark.chappe_only
def test_slow_gateway_holds_nobody_up(phones: Phones) -> None:
    """One gateway that does not answer keeps neither other gateways nor other users waiting."""
    ann, ben, room, key = pair(phones)
    cat = phones.person("cat")
    other = Gateway(phones.gateway.port + 2).start()
    try:
        room2 = phones.room(ann, cat)
        fast = phones.phone(cat, url=other.url)
        phones.gateway.behave(delay=20)
        ann.text(room, "slow")
        phones.events(key, 1)
        begun = time.monotonic()
        ann.text(room2, "fast")
        assert other.wait(lambda: len(other.of(fast)) >= 1, 5)
        assert time.monotonic() - begun < 4
    finally:
        other.stop()


@pytest.mark.chappe_only
def test_gateway_dies_and_returns(phones: Phones) -> None:
    """While it is down it is probed by single requests; when it is back all is delivered, each once."""
    ann, _, room, key = pair(phones)
    phones.gateway.stop()
    for number in range(5):
        ann.text(room, f"{number}")
    time.sleep(4)
    phones.gateway.start()
    phones.until(lambda: "4" in bodies(phones.gateway.of(key)), 60)
    assert bodies(phones.gateway.of(key)) == [f"{number}" for number in range(5)]


@pytest.mark.chappe_only
def test_one_gateway_answers_oddly_to_some(phones: Phones) -> None:
    """A pusher whose answers are failures does not stop others at the same gateway."""
    ann, ben, room, key = pair(phones)
    cat = phones.person("cat")
    room2 = phones.room(ann, cat)
    good = phones.phone(cat)
    phones.gateway.behave(lambda push: Behaviour(status=500 if push.pushkey == key else 200))
    ann.text(room, "bad")
    for number in range(5):
        ann.text(room2, f"{number}")
    assert bodies(phones.events(good, 5)) == [f"{number}" for number in range(5)]
