# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Many recipients, many pending notifications, gateways that hang; writers and rooms that lag."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Callable, Iterator

import pytest
from push.phones import Phones, bodies, metric, pair
from stack.errors import StackError
from stack.matrix import Client, MatrixError
from support.gateway import Behaviour, Gateway

pytestmark = pytest.mark.chappe_only
PERSISTERS = 2
HOLD = 4711  # an advisory lock
# Statements that one event costs, whoever it is for: actions, events, names, members, badges.
STATEMENTS = ("push_actions", "push_events", "push_names", "push_members", "push_badges", "push_backlog", "push_markers")


def restart(phones: Phones) -> None:
    """The table of pushers is read again; who failed before does not wait."""
    phones.pusher().stop()
    phones.world.deployment.postgres.psql("UPDATE pushers SET failing_since = NULL")
    phones.pusher().start()
    phones.pusher().wait_ready()


class Crowd:
    """Users that stand in tables only: they are told whatever one real user is told."""

    def __init__(self, phones: Phones, like: Client, size: int, url: str) -> None:
        self.sql = phones.world.deployment.postgres.psql
        self.tag = phones.world.unique("crowd").replace("-", "")
        self.size = size
        columns = "profile_tag, kind, app_id, app_display_name, device_display_name, lang, ts, data"
        values = f"'', 'http', 'com.example.app', 'x', 'x', 'en', 1000, '{{\"url\":\"{url}\"}}'"
        self.sql(
            f"INSERT INTO pushers (id, user_name, pushkey, last_stream_ordering, {columns})"
            f" SELECT 1000000000 + (SELECT count(*) FROM pushers) + n, '@{self.tag}-' || n || ':chappe.localhost',"
            f" '{self.tag}-' || n, (SELECT max(stream_ordering) FROM events), {values} FROM generate_series(1, {size}) n"
        )
        self.sql(
            f"CREATE FUNCTION {self.tag}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO event_push_actions (room_id, event_id, user_id, profile_tag, actions, topological_ordering,"
            " stream_ordering, notif, highlight, unread, thread_id) SELECT NEW.room_id, NEW.event_id,"
            f" '@{self.tag}-' || n || ':chappe.localhost', '', NEW.actions, NEW.topological_ordering,"
            f" NEW.stream_ordering, NEW.notif, NEW.highlight, NEW.unread, NEW.thread_id FROM generate_series(1, {size}) n;"
            " RETURN NULL; END $$"
        )
        self.sql(
            f"CREATE TRIGGER {self.tag} AFTER INSERT ON event_push_actions FOR EACH ROW"
            f" WHEN (NEW.user_id = '{like.user_id}') EXECUTE FUNCTION {self.tag}()"
        )
        restart(phones)

    def heard(self, gateway: Gateway) -> int:
        """How many notifications were sent to the crowd."""
        return sum(push.pushkey.startswith(self.tag) for push in list(gateway.pushes))

    def gone(self) -> None:
        """Nothing of them stays."""
        self.sql(f"DROP TRIGGER IF EXISTS {self.tag} ON event_push_actions; DROP FUNCTION IF EXISTS {self.tag}()")
        self.sql(f"DELETE FROM pushers WHERE pushkey LIKE '{self.tag}-%'")
        self.sql(f"DELETE FROM event_push_actions WHERE user_id LIKE '@{self.tag}-%'")


@pytest.fixture
def crowds(phones: Phones) -> Iterator[list[Crowd]]:
    """Crowds that a test makes; they leave with it."""
    made: list[Crowd] = []
    yield made
    for crowd in made:
        crowd.gone()
    restart(phones)


def test_statements(phones: Phones, crowds: list[Crowd]) -> None:
    """An event for thousands of people is told to all of them and costs a handful of statements."""
    ann, ben, room, key = pair(phones)
    crowd = Crowd(phones, ben, 5000, phones.gateway.url)
    crowds.append(crowd)
    ann.text(room, "0")  # counts are read once, in groups
    phones.until(lambda: crowd.heard(phones.gateway) >= crowd.size, 120)
    phones.events(key, 1)
    port = phones.world.settings.ports.chappe_metrics

    def statements() -> float:
        return sum(metric(port, "chappe_pg_statements_total", name) for name in STATEMENTS)

    phones.quiet(key, 0.5)
    before = statements()
    ann.text(room, "1")
    phones.until(lambda: crowd.heard(phones.gateway) >= 2 * crowd.size, 120)
    assert statements() - before <= 5
    phones.quiet(key, 0.5)
    assert crowd.heard(phones.gateway) == 2 * crowd.size


def test_gateway_of_a_crowd_is_down(phones: Phones, crowds: list[Crowd]) -> None:
    """One gateway with many pushers fails: few requests ask it, others do not notice, and all is told in the end."""
    ann, ben, room, key = pair(phones)
    other = Gateway(phones.gateway.port + 2).start()
    try:
        crowd = Crowd(phones, ben, 2000, other.url)
        crowds.append(crowd)
        other.behave(status=503)
        ann.text(room, "0")
        assert other.wait(lambda: len(other.pushes) >= 5)
        other.closing.wait(1)
        failed = len(other.pushes)
        assert failed <= 32  # what was under way when it was noticed
        begun = time.monotonic()
        for number in range(1, 4):
            ann.text(room, f"{number}")
            assert bodies(phones.events(key, number + 1))[-1] == f"{number}"
        other.closing.wait(max(0.0, 5 - (time.monotonic() - begun)))
        assert len(other.pushes) - failed <= time.monotonic() - begun + 2  # single probes
        port, place = phones.world.settings.ports.chappe_metrics, f"http://127.0.0.1:{other.port}"
        # Those in line and those that have failed, but for the one that may be asking.
        phones.until(lambda: metric(port, "chappe_push_gateway_waiting", place) >= crowd.size - 2)
        assert metric(port, "chappe_push_gateway_state", place) in (1, 2)
        other.behave()
        before = len(other.pushes)
        assert other.wait(lambda: len(other.pushes) > before, 60)
        returned = other.pushes[before].at
        assert other.wait(lambda: len(other.pushes) - before >= 4 * crowd.size, 120)
        assert len([push for push in other.pushes[before:] if push.at < returned + 0.02]) <= 32  # a slow start
        told = [(push.pushkey, push.event_id) for push in other.pushes[before:]]
        assert len(set(told)) == len(told) == 4 * crowd.size
        # Nobody who was refused is forgotten. Who probes is chance: one in line, or one who was refused before.
        assert metric(port, "chappe_push_retries_total") >= before > 0
        phones.until(lambda: metric(port, "chappe_push_gateway_state", place) == 0)
        phones.until(lambda: metric(port, "chappe_push_gateway_waiting", place) == 0)
    finally:
        other.stop()


def test_many_pending(phones: Phones) -> None:
    """One user's ten thousand pending notifications keep nobody else waiting, and do not hide the next one."""
    ann, ben, room, key = pair(phones)
    cat = phones.person("cat")
    aside = phones.room(ann, cat)
    fast = phones.phone(cat)
    sql = phones.world.deployment.postgres.psql
    phones.pusher().stop()
    sql(
        "INSERT INTO event_push_actions (room_id, event_id, user_id, profile_tag, actions, topological_ordering,"
        " stream_ordering, notif, highlight, unread, thread_id) SELECT e.room_id, e.event_id || n,"
        f" '{ben.user_id}', '', '[\"notify\"]', e.topological_ordering, e.stream_ordering, 1, 0, 1, 'main'"
        f" FROM events e, generate_series(1, 400) n WHERE e.room_id = '{room}'"
    )
    sql(
        "INSERT INTO event_push_actions (room_id, event_id, user_id, profile_tag, actions, topological_ordering,"
        f" stream_ordering, notif, highlight, unread, thread_id) SELECT '{room}', '$none' || n,"
        f" '{ben.user_id}', '', '[\"notify\"]', 1, -20000 + n, 1, 0, 1, 'main' FROM generate_series(1, 10000) n"
    )
    sql(f"UPDATE pushers SET last_stream_ordering = -30000 WHERE pushkey = '{key}'")
    phones.gateway.behave(lambda push: Behaviour(delay=0.2 if push.pushkey == key else 0))
    phones.pusher().start()
    phones.pusher().wait_ready()
    for number in range(3):
        ann.text(aside, f"{number}")
        phones.events(fast, number + 1, 5)
    ann.text(room, "new")
    contents = lambda: [push.notification.get("content", {}) for push in phones.gateway.of(key)]  # noqa: E731
    phones.until(lambda: "new" in [content.get("body") for content in contents()], 60)


def test_endless_answers(phones: Phones) -> None:
    """An answer whose body does not end holds up its own pusher; one that is too large ends at once."""
    ann, ben, room, key = pair(phones)
    cat = phones.person("cat")
    aside = phones.room(ann, cat)
    good = phones.phone(cat)
    phones.gateway.behave(lambda push: Behaviour(endless=push.pushkey == key))
    ann.text(room, "0")
    phones.events(key, 1)
    for number in range(5):
        ann.text(aside, f"{number}")
    assert bodies(phones.events(good, 5)) == [f"{number}" for number in range(5)]
    assert len(phones.gateway.of(key)) == 1
    phones.gateway.behave()
    # The request's whole time is bounded by a minute.
    phones.until(lambda: len(phones.gateway.of(key)) >= 2, 90)
    first, second = phones.gateway.of(key)[:2]
    assert second.at - first.at > 55 and bodies([second]) == ["0"]


def test_slow_failures_and_news(phones: Phones) -> None:
    """A gateway that fails slowly while events go on coming is asked after each pause, not for each event."""
    ann, _, room, key = pair(phones)
    phones.gateway.behave(status=500, delay=0.7)
    begun = time.monotonic()
    while time.monotonic() - begun < 6:
        ann.text(room, "again")
        time.sleep(0.2)
    got = [push for push in phones.gateway.of(key) if push.done]
    assert 2 <= len(got) <= 4
    pauses = [later.at - earlier.done for earlier, later in zip(got, got[1:])]
    assert all(pause > 0.95 * 2**n for n, pause in enumerate(pauses)), pauses


def two_writers(phones: Phones, ann: Client, ben: Client) -> tuple[str, str]:
    """A room of both people, and one of the first's alone whose events another writer stores."""
    sql = phones.world.deployment.postgres.psql
    rooms: dict[str, str] = {}
    for _ in range(20):
        room = phones.room(ann, ben) if not rooms else ann.create_room()
        writer = sql(f"SELECT instance_name FROM events WHERE room_id = '{room}' LIMIT 1").strip()
        rooms.setdefault(writer, room)
        if len(rooms) == 2:
            break
    told, other = rooms.values()
    return told, other


def test_late_writer(phones: Phones) -> None:
    """What waits for a second writer of events is told when that writer is through."""
    ann, ben = phones.person("ann"), phones.person("ben")
    key = phones.phone(ben)
    sql = phones.world.deployment.postgres.psql
    told, other = two_writers(phones, ann, ben)
    lock = f"SELECT 1 FROM event_forward_extremities WHERE room_id = '{other}' FOR UPDATE"
    holder = threading.Thread(target=sql, args=(f"BEGIN; {lock}; SELECT pg_sleep(5); COMMIT",))
    holder.start()
    time.sleep(0.5)
    sender = threading.Thread(target=ann.text, args=(other, "late"))
    sender.start()
    time.sleep(0.5)
    ann.text(told, "0")
    phones.quiet(key, 1.5)
    holder.join()
    sender.join()
    assert bodies(phones.events(key, 1)) == ["0"]


def waiting(phones: Phones) -> int:
    """How many sessions wait for the lock of the next test."""
    sql = phones.world.deployment.postgres.psql
    return int(sql(f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {HOLD} AND NOT granted"))


@pytest.fixture
def barred(phones: Phones) -> Iterator[Callable[[str], None]]:
    """Events of a room cannot be stored: each waits for a lock that another session holds, and fails then."""
    sql = phones.world.deployment.postgres.psql

    def bar(room: str) -> None:
        sql(
            "CREATE OR REPLACE FUNCTION no_event() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" PERFORM pg_advisory_xact_lock({HOLD}); RAISE EXCEPTION 'not this one'; END $$"
        )
        sql(
            "CREATE TRIGGER no_event BEFORE INSERT ON events FOR EACH ROW"
            f" WHEN (NEW.room_id = '{room}') EXECUTE FUNCTION no_event()"
        )

    yield bar
    sql("DROP TRIGGER IF EXISTS no_event ON events")


def test_position_alone(phones: Phones, barred: Callable[[str], None]) -> None:
    """A writer that holds the others back has nothing to say in the end but that its position moved: that is enough."""
    ann, ben = phones.person("ann"), phones.person("ben")
    key = phones.phone(ben)
    sql = phones.world.deployment.postgres.psql
    told, other = two_writers(phones, ann, ben)
    barred(other)

    def hold() -> None:
        with contextlib.suppress(StackError):  # it is ended
            sql(f"SELECT pg_advisory_lock({HOLD}), pg_sleep(120)")

    def send() -> None:
        with contextlib.suppress(MatrixError):
            ann.text(other, "never stored")

    threads = [threading.Thread(target=hold), threading.Thread(target=send)]
    held = f"SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = {HOLD} AND granted"
    threads[0].start()
    phones.until(lambda: bool(sql(held).strip()))
    threads[1].start()
    phones.until(lambda: waiting(phones) > 0)  # its place in the stream is taken
    ann.text(told, "0")
    phones.quiet(key, 1.5)
    sql(f"SELECT pg_terminate_backend(pid) FROM ({held}) h")
    assert bodies(phones.events(key, 1)) == ["0"]
    assert sql(f"SELECT count(*) FROM event_json WHERE room_id = '{other}' AND json LIKE '%never stored%'").strip() == "0"
    for thread in threads:
        thread.join(30)


def test_partial_state(phones: Phones) -> None:
    """A room whose state is not complete yet: it is told with what is known."""
    ann, ben, room, key = pair(phones)
    sql = phones.world.deployment.postgres.psql
    phones.gateway.behave(status=500)
    event = ann.text(room, "0")
    phones.events(key, 1)
    sql(
        "INSERT INTO partial_state_rooms (room_id, device_lists_stream_id, join_event_id, joined_via)"
        f" VALUES ('{room}', 0, NULL, 'elsewhere');"
        f" INSERT INTO partial_state_events (room_id, event_id) VALUES ('{room}', '{event}')"
    )
    try:
        phones.pusher().stop()
        before = len(phones.gateway.of(key))
        phones.gateway.behave()
        restart(phones)
        phones.until(lambda: len(phones.gateway.of(key)) > before, 60)
        phones.quiet(key)
        assert bodies(phones.gateway.of(key)[before:]) == ["0"]
    finally:
        sql(f"DELETE FROM partial_state_events WHERE room_id = '{room}'")
        sql(f"DELETE FROM partial_state_rooms WHERE room_id = '{room}'")


def test_invitation_from_afar(phones: Phones) -> None:
    """An invitation whose room is not here is told with the names that came with it."""
    ann, ben = phones.person("ann"), phones.person("ben")
    key = phones.phone(ben)
    phones.gateway.behave(status=500)
    ann.create_room(name="Party", preset="private_chat", invite=[ben.user_id])
    event = phones.events(key, 1, members=True)[0].event_id
    sql = phones.world.deployment.postgres.psql
    room = sql(f"SELECT room_id FROM events WHERE event_id = '{event}'").strip()
    sql(f"UPDATE events SET outlier = true WHERE event_id = '{event}'")
    # The rows of the room are out of sight, as if they had never been here.
    sql(f"UPDATE current_state_events SET room_id = 'x' || room_id WHERE room_id = '{room}'")
    try:
        phones.pusher().stop()
        before = len(phones.gateway.of(key))
        phones.gateway.behave()
        restart(phones)
        phones.until(lambda: len(phones.gateway.of(key)) > before, 60)
        told = phones.gateway.of(key)[-1].notification
        assert told["room_name"] == "Party"
        assert told["sender_display_name"] == ann.user_id[1:].split(":")[0]
        assert (told["membership"], told["user_is_target"]) == ("invite", True)
    finally:
        sql(f"UPDATE current_state_events SET room_id = substr(room_id, 2) WHERE room_id = 'x{room}'")
