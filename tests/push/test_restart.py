# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""What outlives a crash, a restart, a lost Redis, a main process that does not do as asked."""

from __future__ import annotations

import collections
import random
import threading
import time
from typing import Iterator

import pytest
from push.phones import Phones, bodies, pair
from support.gateway import Behaviour, Gateway, Push


KILLS = 4


def told(phones: Phones, key: str) -> list[str]:
    """What was told first, without repeats."""
    return list(dict.fromkeys(bodies(phones.gateway.of(key))))


def restart(phones: Phones) -> None:
    """Stop the pusher in order, start it again."""
    process = phones.pusher()
    process.stop()
    process.start()
    process.wait_ready()


def test_killed(phones: Phones) -> None:
    """Killed at random moments: nothing is lost, order is kept, and at most what was on its way is repeated."""
    ann, ben = phones.person("ann"), phones.person("ben")
    room = phones.room(ann, ben)
    keys = phones.many(ben, 5)
    phones.gateway.behave(delay=0.4)
    wanted = [f"{number}" for number in range(12)]
    for number in wanted:
        ann.text(room, number)
    process = phones.pusher()
    for kill in range(KILLS):
        phones.until(lambda: min(len(told(phones, key)) for key in keys) >= 2 * kill + 1, 60)
        time.sleep(random.uniform(0, 0.5))  # anywhere between two answers
        process.kill()
        process.start()
        process.wait_ready()
    phones.until(lambda: all(told(phones, key) == wanted for key in keys), 60)
    phones.gateway.closing.wait(1.5)
    for key in keys:
        counts = collections.Counter(bodies(phones.gateway.of(key)))
        assert told(phones, key) == wanted
        # Each time the one that was under way, and those that were answered since the last flush of positions:
        # here, where an answer takes longer than the time between two flushes, one.
        assert sum(counts.values()) - len(wanted) <= 2 * KILLS and max(counts.values()) <= KILLS + 1, counts


def test_restart_while_failing(phones: Phones) -> None:
    """A pusher that fails goes on after a restart where it stood."""
    ann, _, room, key = pair(phones)
    ann.text(room, "told")
    phones.events(key, 1)
    phones.gateway.behave(status=500)
    ann.text(room, "0")
    ann.text(room, "1")
    phones.until(lambda: (phones.row(key) or {})["failing_since"] is not None)
    restart(phones)
    phones.gateway.behave()
    phones.until(lambda: told(phones, key) == ["told", "0", "1"], 60)
    assert bodies(phones.gateway.of(key)).count("told") == 1
    phones.until(lambda: (phones.row(key) or {})["failing_since"] is None)


def test_given_up(phones: Phones) -> None:
    """What fails for more than a day is given up, and the next is told."""
    ann, _, room, key = pair(phones)
    phones.gateway.behave(lambda push: Behaviour(status=500 if bodies([push]) == ["old"] else 200))
    event = ann.text(room, "old")
    phones.until(lambda: (phones.row(key) or {})["failing_since"] is not None)
    phones.pusher().stop()
    ann.text(room, "new")
    day = 25 * 3600 * 1000
    sql = phones.world.deployment.postgres.psql
    sql(f"UPDATE pushers SET failing_since = failing_since - {day} WHERE pushkey = '{key}'")
    sql(f"UPDATE events SET received_ts = received_ts - {day} WHERE event_id = '{event}'")
    phones.pusher().start()
    phones.pusher().wait_ready()
    phones.until(lambda: "new" in bodies(phones.gateway.of(key)), 60)
    phones.until(lambda: (phones.row(key) or {})["failing_since"] is None)


def test_rows_that_are_not_ours(phones: Phones) -> None:
    """Rows that cannot be served, of other kinds and of email are never written, and keep nobody from the rest."""
    ann, ben, room, key = pair(phones)
    odd = [phones.phone(ben, append=True) for _ in range(6)]
    sql = phones.world.deployment.postgres.psql
    changes = [
        "data = 'not JSON'",
        "data = '[1]'",
        "data = '{}'",
        "data = replace(data, '/notify', '/notify2')",
        "kind = 'webpush'",
        "kind = 'email', app_id = 'm.email'",
    ]
    for pushkey, change in zip(odd, changes):
        sql(f"UPDATE pushers SET {change} WHERE pushkey = '{pushkey}'")
    sql(f"UPDATE pushers SET enabled = NULL WHERE pushkey = '{key}'")  # counts as enabled
    before = [phones.row(pushkey) for pushkey in odd]
    restart(phones)
    ann.text(room, "0")
    assert bodies(phones.events(key, 1, 30)) == ["0"]
    phones.quiet(key)
    assert [push.pushkey for push in phones.gateway.pushes] == [key]
    assert [phones.row(pushkey) for pushkey in odd] == before
    assert sql("SELECT count(*) FROM pusher_throttle").strip() == "0"


@pytest.mark.chappe_only
def test_row_without_position(phones: Phones) -> None:
    """A row that says nothing of what was told before is told what comes from now on."""
    ann, _, room, key = pair(phones)
    phones.pusher().stop()
    ann.text(room, "before")
    phones.world.deployment.postgres.psql(f"UPDATE pushers SET last_stream_ordering = NULL WHERE pushkey = '{key}'")
    phones.pusher().start()
    phones.pusher().wait_ready()
    ann.text(room, "0")
    assert bodies(phones.events(key, 1)) == ["0"]
    phones.quiet(key)
    phones.until(lambda: (phones.row(key) or {})["last_stream_ordering"] is not None)


def test_redis_gone(phones: Phones) -> None:
    """What happens while the connections to Redis are cut is told when they are back, each once."""
    ann, _, room, key = pair(phones)
    ann.text(room, "0")
    phones.events(key, 1)
    redis = phones.world.deployment.redis
    for number in range(1, 9):
        redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        ann.text(room, f"{number}")
    wanted = [f"{number}" for number in range(9)]
    phones.until(lambda: told(phones, key) == wanted, 60)
    phones.quiet(key)
    assert bodies(phones.gateway.of(key)) == wanted


@pytest.mark.chappe_only
def test_redis_restarted(phones: Phones) -> None:
    """Redis ends with all it knew; what is sent then is told once."""
    ann, _, room, key = pair(phones)
    redis = phones.world.deployment.redis.process
    redis.kill()
    # Synapse's own requests wait for Redis: they end when it is back.
    sender = threading.Thread(target=lambda: [ann.text(room, f"{number}") for number in range(3)])
    sender.start()
    time.sleep(3)
    redis.start()
    redis.wait_ready()
    sender.join(60)
    phones.until(lambda: told(phones, key) == ["0", "1", "2"], 60)
    phones.quiet(key)
    assert bodies(phones.gateway.of(key)) == ["0", "1", "2"]


@pytest.fixture
def stubborn(phones: Phones) -> Iterator[Phones]:
    """The main process cannot delete pushers: it answers remove_pusher with 500."""
    sql = phones.world.deployment.postgres.psql
    sql(
        "CREATE OR REPLACE FUNCTION no_deletion() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RAISE EXCEPTION ''not now''; END'"
    )
    sql("CREATE TRIGGER no_deletion BEFORE DELETE ON pushers FOR EACH ROW EXECUTE FUNCTION no_deletion()")
    yield phones
    sql("DROP TRIGGER IF EXISTS no_deletion ON pushers")


@pytest.mark.chappe_only
def test_removal_fails_for_a_while(stubborn: Phones) -> None:
    """A rejected pusher stays silent until it can be removed, and is removed then."""
    phones = stubborn
    ann, _, room, key = pair(phones)
    phones.gateway.rejected.add(key)
    ann.text(room, "0")
    phones.events(key, 1)
    ann.text(room, "1")
    phones.quiet(key, 5)
    assert phones.row(key) is not None
    phones.world.deployment.postgres.psql("DROP TRIGGER no_deletion ON pushers")
    phones.until(lambda: phones.row(key) is None, 30)
    assert bodies(phones.gateway.of(key)) == ["0"]


@pytest.mark.chappe_only
def test_registered_again_after_a_rejection(phones: Phones) -> None:
    """The removal that a rejection asks for does not hit the pusher that was registered since."""
    ann, ben, room, key = pair(phones)
    phones.gateway.rejected.add(key)
    ann.text(room, "0")
    phones.events(key, 1)
    phones.gateway.rejected.clear()
    phones.set_pusher(ben, key, {"url": phones.gateway.url, "v": 2})
    phones.gateway.closing.wait(4)
    assert phones.row(key) is not None
    ann.text(room, "1")
    assert bodies(phones.events(key, 2)) == ["0", "1"]


@pytest.mark.chappe_only
def test_mass_rejection(phones: Phones) -> None:
    """A gateway that suddenly rejects everybody is not believed: the pushers are kept."""
    ann, ben = phones.person("ann"), phones.person("ben")
    room = phones.room(ann, ben)
    other = Gateway(phones.gateway.port + 3).start()
    try:
        keys = phones.many(ben, 30, other.url)
        other.rejected.update(keys)
        ann.text(room, "0")
        assert other.wait(lambda: all(other.of(key) for key in keys), 30)
        phones.gateway.closing.wait(4)
        assert [key for key in keys if phones.row(key) is None] == []
    finally:
        other.stop()


def test_deleted_meanwhile(phones: Phones) -> None:
    """An answer that comes after the deletion brings nothing back."""
    ann, ben, room, key = pair(phones)
    phones.gateway.behave(delay=2)
    ann.text(room, "0")
    if phones.world.settings.with_chappe:  # a Synapse pusher that has begun goes on to the end of its batch
        ann.text(room, "1")
    first: Push = phones.events(key, 1)[0]
    phones.set_pusher(ben, key, None)
    phones.until(lambda: first.done > 0)
    ann.text(room, "2")
    phones.quiet(key, 3)
    assert phones.row(key) is None
