#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Tests of what bench/hot computes without servers: events' ids, shapes, recorded replication, figures, table, chart."""

from __future__ import annotations

import json
import sys
import tempfile
import unittest
import xml.etree.ElementTree
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "deploy" / "local")]

from harness.chart import MARKS, draw, put, read  # noqa: E402
from harness.crowd import Set, many_rooms, one_room, workday  # noqa: E402
from harness.hot import shown_command  # noqa: E402
from harness.hot_report import Report, Result, ratios, spread  # noqa: E402
from harness.hot_rows import Item, delta_figures, parked_figures, phase_figures, plan_workday, queued_in  # noqa: E402
from harness.hot_rows import slow_figures, statement_label  # noqa: E402
from harness.matrix_events import Event  # noqa: E402
from harness.plan import Plan  # noqa: E402
from harness.recorded import Recording, rdata  # noqa: E402
from harness.tables import _cell  # noqa: E402

ROOM = "!aODHYCHmGdBfXscYqQ:chappe.localhost"


class EventsTest(unittest.TestCase):
    """Ids of events that a homeserver made."""

    def test_member(self) -> None:
        auth = ["$SC0v-yiQ4olrCneDgDCs8coYJ1sV8jjI462ruMRl4kA", "$tR_48GnaGCozFlYlRsuqbYvsXPVG6BEw4X46qVuKkdU"]
        auth.append("$6qZnYctiShsMEby1OQcZ7KjqimwYrbURbdL8JwoVm1k")
        who = "@listener3:chappe.localhost"
        content = {"displayname": "listener3", "membership": "join"}
        links = (7, auth, ["$DU2Q8BhjiTrIJoTVwVVVhbF8MqQw384MvbFYHZICejM"])
        event = Event(ROOM, "m.room.member", who, content, who, links, 1795933872933)
        self.assertEqual(event.event_id, "$pDYPaIrYPSw7JX1cQztxO7E6pGSY2JaQcIPuNd64PWk")
        self.assertEqual(json.loads(event.json)["hashes"]["sha256"], "HtRsmtlJlpe9eGUX5uY0n25GBuDNWTELHvWh3dZFIIk")

    def test_power_levels(self) -> None:
        events = {"m.room.avatar": 50, "m.room.canonical_alias": 50, "m.room.encryption": 100}
        events |= {"m.room.history_visibility": 100, "m.room.name": 50, "m.room.power_levels": 100}
        events |= {"m.room.server_acl": 100, "m.room.tombstone": 100}
        who = "@sender:chappe.localhost"
        content = {"ban": 50, "events": events, "events_default": 0, "historical": 100, "invite": 50, "kick": 50}
        content |= {"m.call.invite": 50, "redact": 50, "state_default": 50, "users": {who: 100}, "users_default": 0}
        auth = ["$tR_48GnaGCozFlYlRsuqbYvsXPVG6BEw4X46qVuKkdU", "$7Oduspg-3xaCY46pXtYDLmt761IPTb5jaIqUHDMbJGM"]
        event = Event(ROOM, "m.room.power_levels", who, content, "", (3, auth, auth[1:]), 1795933871989)
        self.assertEqual(event.event_id, "$6qZnYctiShsMEby1OQcZ7KjqimwYrbURbdL8JwoVm1k")


class ShapesTest(unittest.TestCase):
    """Who is in which room."""

    def test_one_room(self) -> None:
        self.assertEqual(one_room(3).rooms, [[1, 2, 3]])

    def test_workday(self) -> None:
        shape = workday(1000)
        self.assertEqual(len(shape.rooms), 125)
        self.assertEqual({len(set(members)) for members in shape.rooms}, {40})
        self.assertEqual(Counter(map(len, shape.rooms_of.values())), {5: 1000})
        # Other people in each of one's rooms.
        together = Counter(other for room in shape.rooms_of[7] for other in shape.rooms[room])
        self.assertGreater(sum(count == 1 for count in together.values()), 150)

    def test_many_rooms(self) -> None:
        shape = many_rooms(4, 3, 10)
        self.assertEqual((len(shape.rooms), shape.listeners), (3, 4))
        self.assertEqual(shape.rooms[0], list(range(1, 10)))  # and the owner


class FakePostgres:
    """Remembers what was asked; sequences stand at 100 and 5."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def psql(self, statement: str) -> str:
        """Answer."""
        self.asked.append(statement)
        return "100\n" if "events_stream_seq" in statement else "5\n"


def recording(shape: Any, run: str = "r1") -> Recording:
    """Return a recording that has no database."""
    known: dict[str, Any] = {"key": "k" * 20, "rooms": [f"!r{i}:s" for i in range(len(shape.rooms))]}
    known |= {"groups": [9] * len(shape.rooms), "ends": [["$end", 30]] * len(shape.rooms), "power": [["$a"]] * len(shape.rooms)}
    redis = SimpleNamespace(password="secret")
    crowd = SimpleNamespace(stage=SimpleNamespace(deployment=SimpleNamespace(postgres=FakePostgres(), redis=redis)))
    return Recording(crowd, Set(shape, known), Plan(run), 10)  # type: ignore[arg-type]


def published(plan: Plan) -> list[str]:
    """Return the replication lines of a plan."""
    text = b"".join(plan._parts).decode()
    return [line for line in text.split("\r\n") if line.startswith("RDATA ")]


class RecordedTest(unittest.TestCase):
    """Lines of the replication protocol."""

    def test_line(self) -> None:
        raw = rdata("typing", 7, ["!r:s", ["@u:s"]])
        line = b'RDATA typing master 7 ["!r:s",["@u:s"]]'
        self.assertTrue(raw.startswith(b"*3\r\n$7\r\nPUBLISH\r\n"))
        self.assertTrue(raw.endswith(b"$%d\r\n%s\r\n" % (len(line), line)))

    def test_messages_go_on_where_the_tables_are(self) -> None:
        made = recording(one_room(3))
        made.plan.closed("x")
        made.message()
        made.message()
        lines = published(made.plan)
        self.assertEqual([line.split(" ")[:4] for line in lines], [["RDATA", "events", "master", str(n)] for n in (101, 102)])
        first, second = (event for event, _ in made._events)
        self.assertEqual([json.loads(line.split(" ", 4)[4])[1][0] for line in lines], [first.event_id, second.event_id])
        self.assertEqual(json.loads(second.json)["prev_events"], [first.event_id])
        self.assertEqual((first.depth, second.depth), (31, 32))
        self.assertIn("bench-r1-2; ", json.loads(second.json)["content"]["body"])

    def test_workday(self) -> None:
        made = recording(workday(200))
        made.plan.open("x")
        sent = plan_workday(made, 20, 5)
        lines = published(made.plan)
        self.assertEqual(len(lines), sent)
        kinds = Counter(line.split(" ")[1] for line in lines)
        self.assertEqual(kinds["events"], made.plan.numbers)
        self.assertGreater(kinds["receipts"], kinds["events"])
        self.assertGreater(kinds["typing"], 10)
        for stream in ("events", "receipts", "typing"):
            tokens = [int(line.split(" ")[3]) for line in lines if line.split(" ")[1] == stream]
            self.assertEqual(tokens, sorted(set(tokens)))
        for room, user in made._receipts:
            self.assertIn(user, made.made.shape.rooms[room])

    def test_cells(self) -> None:
        self.assertEqual([_cell(v) for v in (None, True, 7, "a\tb\\n\n")], ["\\N", "t", "7", "a\\tb\\\\n\\n"])


def fanout(target: str, number: int, cpu: float, last: float = 10.0) -> Result:
    """Return a result of a fan-out to 10,000 devices."""
    item = Item("fanout", target, 10000, "own")
    return Result(item, number, {"cpu": [cpu - 1, cpu, cpu + 1], "last": [last], "rss_poll": [1.5]}, {}, "", 0.1)


class ReportTest(unittest.TestCase):
    """Figures, ratios within rounds, goals."""

    RESULTS = [fanout("floor", 0, 10), fanout("nchan", 0, 16), fanout("chappe-uring", 0, 12)]
    RESULTS += [fanout("chappe-uring", 1, 24), fanout("nchan", 1, 30), fanout("floor", 1, 20)]

    def test_ratios_are_within_rounds(self) -> None:
        found = ratios(self.RESULTS, "fanout 10000", "cpu", "chappe-uring", "nchan")
        self.assertEqual(found, [12 / 16, 24 / 30])
        self.assertEqual(ratios(self.RESULTS, "fanout 10000", "cpu", "chappe-uring", "synapse"), [])

    def test_spread(self) -> None:
        self.assertEqual(spread([3, 1, 2], 1), "1.0 / 2.0 / 3.0")
        self.assertEqual(spread([2.01, 2.02], 1), "2.0")

    def test_table(self) -> None:
        lost = Result(Item("fanout", "chappe-uv", 10000, "recorded"), 0, {}, {}, "too many", 0.1)
        text = Report(["machine   x"], [*self.RESULTS, lost]).text()
        self.assertIn("| CPU per delta, µs | 9.0 / 15.0 / 21.0 | 15.0 / 23.0 / 31.0 | 11.0 / 18.0 / 25.0 |", text)
        self.assertIn("| 0.75 / 0.78 / 0.80 |", text)
        self.assertIn("Chappe, libuv: not reached: too many", text)
        self.assertIn("at most 0.80 × nchan | 0.75 / 0.78 / 0.80 | yes |", text)
        self.assertIn("at most 1.20 × bare epoll | 1.20 | yes |", text)
        self.assertNotIn("400 ×", text)  # not measured: no line
        widths = {line.count("|") for line in text.split("\n\n")[2].split("\n")}
        self.assertEqual(len(widths), 1)

    def test_wrong_answers_show(self) -> None:
        wrong = fanout("nchan", 0, 5)
        wrong.wrong = {"lost": 3}
        report = Report([], [wrong])
        self.assertFalse(report.correct)
        self.assertIn("WRONG", report.text())

    def test_results_file(self) -> None:
        raw = json.loads(json.dumps([result.plain() for result in self.RESULTS]))
        self.assertEqual([Result.read(one) for one in raw], self.RESULTS)

    def test_files_together(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / name for name in ("a.json", "b.json")]
            for path, line in zip(paths, ("command   a", "command   b")):
                raw = {"about": ["machine   x", line], "results": [result.plain() for result in self.RESULTS]}
                path.write_text(json.dumps(raw))
            results, about = read(paths)
        self.assertEqual(about, ["machine   x", "command   a", "command   b"])
        # A round of one file is never paired with one of the other.
        self.assertEqual(len(ratios(results, "fanout 10000", "cpu", "chappe-uring", "nchan")), 4)

    def test_tables_in_a_text(self) -> None:
        text = f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n"
        self.assertEqual(put(text, "new\n"), f"before\n{MARKS[0]}\nnew\n{MARKS[1]}\nafter\n")
        self.assertEqual(put(put(text, "x\n"), "new\n"), put(text, "new\n"))

    def test_chart(self) -> None:
        rates = {"p99@500": [0.0], "p99@1000": [3.0], "p99@2000": [400.0]}
        steps = Result(Item("open", "nchan", 1000, "own"), 0, rates, {}, "", 0.1)
        root = xml.etree.ElementTree.fromstring(draw([*self.RESULTS, steps], ["machine   a < b"]))
        texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
        self.assertIn("machine   a < b", texts)
        self.assertIn("23.0 µs", texts)
        self.assertIn("2k", texts)
        # Half the bare server's bar is not more than its own.
        bars = [float(node.get("width", "0")) for node in root.iter("{http://www.w3.org/2000/svg}rect")]
        self.assertLessEqual(max(bars[1:]), 440)


class CommandTest(unittest.TestCase):
    """What of the command is shown."""

    def test_without_places(self) -> None:
        words = ["--state", "x/y", "--rounds", "2", "--port-base=5", "fanout", "--no-install", "--output", "z", "open"]
        self.assertEqual(shown_command(words), "bench/hot --rounds 2 fanout open")
        self.assertEqual(shown_command([]), "bench/hot")


class LinesTest(unittest.TestCase):
    """From the generator's lines to figures."""

    def test_delta(self) -> None:
        before = {"mark": "before", "counters": {"statements": 10, "backends": {1: 5000}}}
        after = {"mark": "after", "warm": False, "deltas": 100, "total_cpu_ms": 2, "fan_cpu_ms": 1, "first_ms": 1}
        after |= {"p50_ms": 2, "p99_ms": 3, "last_ms": 4, "read_ms": 5, "bytes": 1000, "own_cpu_ms": 1}
        after["counters"] = {"statements": 13, "backends": {1: 105000, 2: 100000}}
        found = delta_figures([before, {**after, "warm": True}, before, after])
        self.assertEqual((found["cpu"], found["fan"], found["bytes"]), ([20.0], [10.0], [10.0]))
        self.assertEqual((found["sql"], found["pg_cpu"]), ([0.03], [2.0]))
        bare = delta_figures([{"mark": "before", "counters": {}}, {**after, "counters": {}}])
        self.assertNotIn("sql", bare)

    def test_phase(self) -> None:
        lines: list[dict[str, Any]] = []
        for phase, statements, gaps in (("new", 90, 30), ("touch", 1000, 500), ("steady", 20, 0)):
            start = lines[-1]["counters"]["statements"] if lines else 5
            old = lines[-1]["counters"]["texts"]["SELECT gaps"] if lines else 2
            lines.append({"mark": "before", "phase": phase})
            lines[-1]["counters"] = {"statements": start, "backends": {}, "texts": {"SELECT gaps": old, "SELECT x": 7}}
            lines.append({"mark": "after", "phase": phase, "deltas": 80, "empties": 20, "planned_ms": 10000, "took_ms": 11000})
            lines[-1] |= {"total_cpu_ms": 2, "p50_ms": 1, "p99_ms": 2, "last_ms": 3}
            texts = {"SELECT gaps": old + gaps, "SELECT x": 7, "SELECT y": statements - gaps}
            lines[-1]["counters"] = {"statements": start + statements, "backends": {}, "texts": texts}
        new, steady = phase_figures(lines, "new"), phase_figures(lines, "steady")
        self.assertEqual((new["sql"], new["sql@SELECT gaps"], new["sql@SELECT y"]), ([0.9], [3.0], [6.0]))
        self.assertEqual((steady["sql"], steady["cpu"], steady["answers"]), ([0.2], [20.0], [10.0]))
        self.assertEqual([key for key in steady if key.startswith("sql@")], ["sql@SELECT y"])  # the others were not sent
        self.assertEqual(phase_figures(lines[:4], "steady"), {})
        figures = {**steady, **{f"new_{key}": values for key, values in new.items()}}
        text = Report([], [Result(Item("workday", "chappe-uring", 120, "recorded"), 0, figures, {}, "", 0.1)]).text()
        for line in ("SQL statements per answer | 0.2000 |", "SQL statements per answer | 0.9000 |"):
            self.assertIn(line, text)
        self.assertIn("| before, in a new process: statements a second: SELECT gaps | 3.00 |", text)
        self.assertNotIn("| statements a second: SELECT gaps |", text)
        # Where another target has many more kinds, the most frequent ones of each are there.
        many = {f"sql@SELECT t{number}": [100.0] for number in range(10)}
        pairs = (("synapse", many), ("chappe-uring", steady))
        both = [Result(Item("workday", name, 120, "recorded"), 0, of, {}, "", 0.1) for name, of in pairs]
        text = Report([], both).text()
        self.assertIn("| statements a second: SELECT y |  | 2.00 |", text)
        self.assertEqual(text.count("SELECT t"), 6)

    def test_statement_label(self) -> None:
        text = "SELECT a FROM unnest($1::text[]) AS w JOIN LATERAL (SELECT b FROM events e JOIN event_json j ON true) x ON true"
        self.assertEqual(statement_label(text + " UNION ALL SELECT c FROM events"), "SELECT events, event_json")
        self.assertEqual(statement_label("DELETE FROM device_inbox WHERE a = $1"), "DELETE device_inbox")

    def test_slow(self) -> None:
        times = {"warm": False, "deltas": 10, "p99_ms": 5, "last_ms": 6, "total_cpu_ms": 1}
        times |= {"probe_p50_ms": 1, "probe_p99_ms": 2, "probe_last_ms": 3}
        held = {"stuck": 2, "answer_bytes": 3_000_000, "taken_bytes": 500_000, "queued": 1_000_000, "rss": 9_000_000}
        lines: list[dict[str, Any]] = [{"mark": "parked", "rss": 8_000_000, "stuck": 0}]
        lines += [{"mark": "after", "phase": "alone", **times, "stuck": 0}, {"mark": "stalled", **held}]
        lines += [{"mark": "after", "phase": "beside", **times, **held, "p99_ms": 7, "rss": 9_500_000, "queued": 500_000}]
        lines += [{"mark": "after", "phase": "dropping", **times, "stuck": 0, "p99_ms": 8}]
        gone = {"mark": "dropped", "dropped": 2, "write_timeout": 1, "write_bytes_max": 1, "stuck": 0, "rss": 8_500_000}
        lines += [{**gone, "first_drop_ms": 1500, "last_drop_ms": 2500}, {"initial": 2, "seconds": 0.5, "p99_ms": 40}]
        found = slow_figures(lines)
        self.assertEqual([found[key] for key in ("alone_p99", "p99", "drop_p99")], [[5], [7], [8]])
        self.assertEqual((found["alone_cpu"], found["cpu"], found["stuck"]), ([100.0], [100.0], [2.0]))
        self.assertEqual((found["answer"], found["waiting"], found["queued"]), ([1500.0], [2.0], [1.0]))
        self.assertEqual([found[key] for key in ("rss_parked", "rss_stalled", "rss_dropped")], [[8.0], [9.5], [8.5]])
        self.assertEqual([found[key] for key in ("dropped", "by_time", "by_bytes")], [[2.0], [1.0], [1.0]])
        self.assertEqual((found["first_drop"], found["last_drop"], found["back_p99"]), ([1.5], [2.5], [40]))
        # One who gives up before the others have been measured is no stalled reader of theirs.
        lines[3]["stuck"] = 1
        self.assertEqual(slow_figures(lines)["stuck"], [1.0])
        self.assertEqual(slow_figures(lines[:4]), {})

    def test_bytes_in_the_kernel(self) -> None:
        table = "  sl  local_address rem_address   st tx_queue rx_queue\n"
        table += "   0: 0100007F:1F90 0100007F:C350 01 00000100:00000000 00:0\n"
        table += "   1: 0100007F:1F90 0200007F:C351 01 00000010:00000000 00:0\n"
        table += "   2: 0100007F:C350 0100007F:1F90 01 00001000:00000000 00:0\n"  # the other end
        table += "   3: 0100007F:1F90 00000000:0000 0A 00000001:00000000 00:0\n"  # listens
        self.assertEqual(queued_in(table, 8080), 0x110)

    def test_parked(self) -> None:
        lines = [{"mark": "half", "rss": 1000000, "slab": 0}, {"mark": "parked", "rss": 1500000, "slab": 2500000}]
        lines += [{"initial": 500, "cpu_ms": 20}, {"initial": 500, "cpu_ms": 30}]
        found = parked_figures(lines, 1000)
        self.assertEqual((found["rss_poll"], found["slab_poll"], found["coming"]), ([1.0], [5.0], [50.0]))


if __name__ == "__main__":
    unittest.main()
