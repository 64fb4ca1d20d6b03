# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Two processes of one instance name: one sends, the other stands by and takes over."""

from __future__ import annotations

from typing import Iterator

import pytest
from push.phones import Phones, bodies, metric, pair
from push.test_shards import another
from stack.process import Process

pytestmark = pytest.mark.chappe_only
STANDBY = "chappe_push_standby"


@pytest.fixture
def twin(phones: Phones) -> Iterator[Process]:
    """A second process with the name of the first, started and ready."""
    process = another(phones, "chappe1")
    process.start()
    process.wait_ready()
    yield process
    process.stop()


def ports(phones: Phones) -> tuple[int, int]:
    """Where the two show their metrics."""
    return phones.world.settings.ports.chappe_metrics, phones.world.settings.ports.persister1


def test_one_sends(phones: Phones, twin: Process) -> None:
    """The second is healthy, says that it stands by, and sends nothing; it takes over when the first is killed."""
    first, second = ports(phones)
    ann, _, room, key = pair(phones)
    assert metric(first, STANDBY) == 0 and metric(second, STANDBY) == 1
    assert "stands by" in twin.log.read_text()
    for number in range(5):
        ann.text(room, f"{number}")
    assert bodies(phones.events(key, 5)) == ["0", "1", "2", "3", "4"]
    phones.quiet(key)
    phones.pusher().kill()
    ann.text(room, "5")
    phones.until(lambda: "5" in bodies(phones.gateway.of(key)), 30)
    phones.until(lambda: metric(second, STANDBY) == 0)
    phones.pusher().start()
    phones.pusher().wait_ready()
    assert metric(first, STANDBY) == 1
    ann.text(room, "6")
    phones.until(lambda: "6" in bodies(phones.gateway.of(key)))
    phones.quiet(key)
    assert bodies(phones.gateway.of(key))[5:] in (["5", "6"], ["4", "5", "6"])  # the last one may be repeated
    twin.stop()
    phones.until(lambda: metric(first, STANDBY) == 0)
    ann.text(room, "7")
    phones.until(lambda: bodies(phones.gateway.of(key))[-1] == "7")
    assert bodies(phones.gateway.of(key)).count("6") == 1


def test_session_is_lost(phones: Phones) -> None:
    """PostgreSQL ends the session that holds the lock: sending goes on once there is another."""
    ann, _, room, key = pair(phones)
    ann.text(room, "0")
    phones.events(key, 1)
    ended = phones.world.deployment.postgres.psql(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory'"
        " AND pid IN (SELECT pid FROM pg_stat_activity WHERE application_name = 'chappe')"
    )
    assert int(ended) >= 1
    for number in range(1, 4):
        ann.text(room, f"{number}")
    phones.until(lambda: len(phones.gateway.of(key)) >= 4, 30)
    phones.quiet(key)
    assert bodies(phones.gateway.of(key)) == ["0", "1", "2", "3"]
    log = phones.pusher().log.read_text()
    assert "is lost: nothing is sent" in log
