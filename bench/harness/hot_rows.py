# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""The rows of bench/hot: each a function that measures one target once, with a new process, and returns figures."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from pathlib import Path
from typing import Any, Callable

from harness.crowd import Crowd, Set, Shape, many_rooms, one_room, workday
from harness.generator import Line, drive, mistakes, named
from harness.measure import cpu_ns, sum_metric
from harness.plan import Plan, http_request, marker_text, send_request
from harness.recorded import Recording
from harness.servers import CLIENT_CORE, Servers
from harness.stage import ROLES, Stage, new_run_name
from stack.errors import StackError
from stack.matrix import Client, Link

FILTERS = {
    "lazy": {"room": {"timeline": {"limit": 20}, "state": {"lazy_load_members": True}}},
    "full": {"room": {"timeline": {"limit": 20}}},
    # Who falls behind at a high rate must still get everything.
    "open": {"room": {"timeline": {"limit": 1000}, "state": {"lazy_load_members": True}}},
    # Another question, so that nobody repeats a stored answer.
    "again": {"room": {"timeline": {"limit": 19}, "state": {"lazy_load_members": True}}},
}
WARM = 2
PADDING = 330  # makes a delta of Chappe's about 1 KiB with its head
BARE = ("floor", "nchan")
SLABS = ("TCP", "sock_inode_cache", "filp", "dentry", "eventpoll", "ep_head", "io_kiocb", "kmalloc", "skbuff", "pid", "fdtable")
KNEE_MS = 100
TOUCH_FASTER = 2  # than a workday's messages: one to every room, before what is counted as steady
# Stalled readers: an answer may have so many messages (filter_timeline_limit's default), and what is said meanwhile is
# among them. Those from before are large, so that no kernel takes an answer whole.
SLOW_MISSED, SLOW_PADDING, SLOW_DROPPING = 100, 4000, 20


@dataclasses.dataclass
class Item:
    """One part of a run: what to measure, of whom."""

    row: str
    target: str
    size: int
    source: str  # recorded, synapse (the client API of the real one), or own (a bare server's publisher)

    @property
    def where(self) -> str:
        """The line of the table that it belongs to."""
        return f"{self.row} {self.size}"


Figures = dict[str, list[float]]


@dataclasses.dataclass
class Settings:
    """How much of everything."""

    messages: int = 8
    rates: tuple[int, ...] = (20000, 40000, 60000, 80000, 100000)
    step_seconds: float = 2.0
    work_rate: int = 50  # messages a second of a workday with 20,000 devices
    work_seconds: float = 20.0
    synapse_messages: int = 2
    accounts: tuple[int, int, int] = (200, 300, 300)  # accounts, rooms, members of each
    synapse_accounts: int = 4  # at once
    stalled: int = 500  # devices that do not read
    stall_seconds: int = 10  # that Chappe waits for one of them
    actions: bool = False
    patience: int = 600  # seconds for one part


def slab_bytes() -> int:
    """Return the kernel's memory in objects that connections are made of, both ends."""
    total = 0
    for line in Path("/proc/slabinfo").read_text().splitlines()[2:]:
        words = line.split()
        if words[0].startswith(SLABS):
            total += int(words[1]) * int(words[3])
    return total


def sending_bytes(port: int) -> int:
    """Return bytes that the kernel holds for the clients of a port: sent and not acknowledged, or not sent yet."""
    return queued_in(Path("/proc/net/tcp").read_text(), port)


def queued_in(table: str, port: int) -> int:
    """Return what sending_bytes() does, from the text of /proc/net/tcp."""
    total = 0
    for line in table.splitlines()[1:]:
        words = line.split()
        if words[1].endswith(f":{port:04X}") and words[3] == "01":
            total += int(words[4].split(":")[0], 16)
    return total


def memory_of(pids: list[int], field: str) -> int:
    """Return bytes of a field of /proc/PID/status, all processes together."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                total += int(line.split()[1]) * 1024
    return total


def json_filter(kind: str = "lazy") -> str:
    """Return an inline filter."""
    return json.dumps(FILTERS[kind], separators=(",", ":"))


class Rows:
    """Measures."""

    def __init__(self, stage: Stage, crowd: Crowd, servers: Servers, load: Path, settings: Settings) -> None:
        self.stage, self.crowd, self.servers, self.load, self.settings = stage, crowd, servers, load, settings
        self._folder = stage.settings.state / "hot"
        self._token: list[str] = []
        self._behind = False  # the main process does not know of what was recorded

    def shape(self, item: Item) -> Shape:
        """Return the users and rooms that an item needs."""
        if item.row in ("workday", "storm"):
            return workday(item.size)
        if item.row == "initial":
            return many_rooms(*self.settings.accounts)
        if item.row == "slow":
            return one_room(item.size + self.settings.stalled)
        return one_room(item.size)

    def measure(self, item: Item) -> tuple[Figures, Line]:
        """Measure an item once; return its figures, and what was wrong with the answers."""
        rows: dict[str, Callable[[Item], tuple[Figures, Line]]] = {
            "fanout": self._fanout,
            "e2e": self._fanout,
            "open": self._open,
            "workday": self._workday,
            "memory": self._memory,
            "probe": self._probe,
            "slow": self._slow,
            "storm": self._storm,
            "initial": self._initial,
        }
        try:
            return rows[item.row](item)
        finally:
            self.servers.stop()

    def _start(self, item: Item, connections: int, options: dict[str, int] | None = None) -> list[int]:
        """Start the target. A Synapse worker goes back to where the main process says that it is: that must be right."""
        main = self.stage.deployment.synapse.main
        if item.target == "synapse" and self._behind:
            main.stop()
            main.start()
            main.wait_ready()
            self._behind = False
        return self.servers.start(item.target, connections, options)

    # -- common ----------------------------------------------------------------------------------

    def _published(self, recording: Recording) -> None:
        recording.published()
        self._behind = True

    def _now(self, made: Set) -> str:
        """A token of now. The main process does not know of recorded events, so its own is set forward."""
        if not self._token:
            main = Client(f"http://127.0.0.1:{self.stage.settings.ports.synapse}", "", made.token(1))
            answer = main.sync(filter={"room": {"rooms": []}}, timeout=0, set_presence="offline")
            self._token = str(answer["next_batch"]).split("_")
        psql = self.stage.deployment.postgres.psql
        events = int(psql("SELECT max(stream_ordering) FROM events"))
        receipts = int(psql("SELECT coalesce(max(stream_id), 0) FROM receipts_linearized"))
        return "_".join([f"s{events}", *self._token[1:3], str(max(receipts, int(self._token[3]))), *self._token[4:]])

    def _tokens(self, made: Set, rooms: bool = False) -> Path:
        path = self._folder / "tokens"
        path.touch(mode=0o600)
        of = made.shape.rooms_of if rooms else {}
        count = made.shape.listeners
        lines = (made.token(i) + (" " + ",".join(map(str, of[i])) if rooms else "") for i in range(1, count + 1))
        path.write_text("".join(line + "\n" for line in lines))
        return path

    def _argv(self, item: Item, pids: list[int], plan: Plan, made: Set, *more: str, rooms: bool = False) -> list[str]:
        target, ports = item.target, self.stage.settings.ports
        argv = [str(self.load), "--port", str(self.servers.port(target)), "--core", str(CLIENT_CORE)]
        argv += ["--tokens", str(self._tokens(made, rooms)), "-n", str(made.shape.listeners), "--run", plan.run]
        argv += ["--plan", str(plan.write(self._folder / "plan")), "--concurrency", "256"]
        argv += ["--event-timeout", "20" if item.row == "open" else "60", "--total-timeout", str(self.settings.patience), "--poll-timeout", "600000"]
        argv += [word for pid in pids for word in ("--pid", str(pid))]
        if target == "nchan":
            argv += ["--protocol", "nchan", "--path", "/sub"]
        elif target == "floor":
            argv += ["--path", "/sync"]
        else:
            argv += ["--filter", json_filter("open" if item.row in ("open", "slow") else "lazy")]
        if item.source == "recorded":
            argv += ["--publisher", "redis", "--publish-port", str(ports.redis)]
        elif item.source == "synapse":
            argv += ["--publish-port", str(ports.synapse)]
        else:
            argv += ["--publish-port", str(self.servers.port(target))]
        return [*argv, *more]

    def _counters(self, target: str, texts: bool = False) -> dict[str, Any]:
        """Statements of the target's database user, by text too if that is wanted, and its backends' CPU time."""
        if target in BARE:
            return {}
        role = ROLES["synapse" if target == "synapse" else "chappe"]
        rows = self.stage.deployment.postgres.psql(
            "SELECT 0, coalesce(sum(calls), 0)::bigint FROM pg_stat_statements s"
            f" JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = '{role}'"
            f" UNION ALL SELECT pid, 0 FROM pg_stat_activity WHERE usename = '{role}'"
        )
        pairs = [tuple(map(int, line.split("\t"))) for line in rows.splitlines()]
        found: dict[str, Any] = {
            "statements": sum(calls for pid, calls in pairs if pid == 0),
            "backends": {pid: cpu_ns(pid) for pid, _ in pairs if pid},
        }
        if texts:
            rows = self.stage.deployment.postgres.psql(
                "SELECT calls, regexp_replace(query, '\\s+', ' ', 'g') FROM pg_stat_statements s"
                f" JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = '{role}'"
            )
            calls: dict[str, int] = {}
            for line in rows.splitlines():
                number, text = line.split("\t", 1)
                calls[statement_label(text)] = calls.get(statement_label(text), 0) + int(number)
            found["texts"] = calls
        return found

    def _calm(self, seconds: float = 60.0) -> None:
        """Wait until the homeserver has dealt with the devices' coming: it shares the generator's core."""
        pid = self.stage.deployment.synapse.main.pid
        calm, until = 0, time.monotonic() + seconds
        while pid is not None and calm < 2 and time.monotonic() < until:
            before, begun = cpu_ns(pid), time.monotonic_ns()
            time.sleep(0.25)
            calm = calm + 1 if cpu_ns(pid) - before < 0.1 * (time.monotonic_ns() - begun) else 0

    def _listen(self, item: Item, argv: list[str], store: Callable[[], None] | None) -> list[Line]:
        """Run the generator. Rows of recorded events are written when everybody is parked."""

        def at(line: Line) -> None:
            if line["mark"] in ("half", "parked"):
                line["slab"] = slab_bytes()
            if line["mark"] == "parked" and item.target not in BARE:
                self._calm()
                if store is not None:
                    store()
            if line["mark"] in ("before", "after"):
                line["counters"] = self._counters(item.target, item.row == "workday")
            if line.get("stuck"):
                line["queued"] = sending_bytes(self.servers.port(item.target))
            if line["mark"] == "dropped":
                for reason in ("write_timeout", "write_bytes_max"):
                    line[reason] = sum_metric(self.stage.settings.ports.chappe_metrics, "chappe_http_refused_total", reason)

        lines = drive(argv, at)
        if not self.servers.running.running:
            raise RuntimeError(self.servers.running.failure("ended during the measurement"))
        return lines

    def _bare_message(self, item: Item, plan: Plan) -> bytes:
        """The request that publishes a message at a bare server: as long as a delta of Chappe's."""
        text = marker_text(plan.run, plan.numbers + 1, "x" * PADDING)
        event = {"type": "m.room.message", "content": {"msgtype": "m.text", "body": text}, "event_id": "$" + "x" * 43}
        event |= {"sender": "@someone:chappe.localhost", "origin_server_ts": 1, "unsigned": {"age": 12345}}
        room = {"timeline": {"events": [event], "limited": False, "prev_batch": "s1_2_3_4_5_6_7_8_9_10"}}
        room |= {"unread_notifications": {"notification_count": 1, "highlight_count": 0}, "summary": {}, "more": "x" * 165}
        body = json.dumps({"rooms": {"join": {"!" + "x" * 36: room}}, "device_one_time_keys_count": {}}).encode()
        return http_request("POST", "/pub", body)

    def _first_at_nchan(self, item: Item) -> None:
        """A first message, so that a device that knows nothing gets an answer at once."""
        if item.target == "nchan":
            Link(f"http://127.0.0.1:{self.servers.port('nchan')}").request("POST", "/pub", b'{"first":1}')

    # -- one room --------------------------------------------------------------------------------

    def _messages(self, item: Item, plan: Plan, made: Set, when: list[int]) -> Recording | None:
        """Plan a message for each time; return what must be stored for that."""
        recording = Recording(self.crowd, made, plan, PADDING, self.settings.actions) if item.source == "recorded" else None
        for number, at_us in enumerate(when):
            if recording is not None:
                if number == 0:
                    plan.other(recording.preamble)
                recording.message(0, at_us)
            elif item.source == "synapse":
                text = marker_text(plan.run, plan.numbers + 1, "x" * PADDING)
                plan.message(send_request(made.rooms[0], made.token(0), f"{plan.run}.{number}", text))
            else:
                plan.message(self._bare_message(item, plan), 0, at_us)
        return recording

    def _one_room(self, item: Item, messages: int, *more: str) -> list[Line]:
        made = self.crowd.get(self.shape(item))
        plan = Plan(new_run_name())
        plan.closed("closed", WARM)
        recording = self._messages(item, plan, made, [0] * (messages + WARM if messages else 0))
        begin = [] if item.target in BARE else ["--since", self._now(made)]
        pids = self._start(item, item.size)
        self._first_at_nchan(item)
        argv = self._argv(item, pids, plan, made, *begin, "--idle", "1500", *more)
        lines = self._listen(item, argv, recording.store if recording else None)
        if recording:
            self._published(recording)
        return lines

    def _fanout(self, item: Item) -> tuple[Figures, Line]:
        count = self.settings.synapse_messages if item.target == "synapse" else self.settings.messages
        lines = self._one_room(item, count)
        return {**parked_figures(lines, item.size), **delta_figures(lines)}, mistakes(lines[-1])

    def _memory(self, item: Item) -> tuple[Figures, Line]:
        lines = self._one_room(item, 0)
        return parked_figures(lines, item.size), mistakes(lines[-1])

    def _probe_words(self, item: Item) -> list[str]:
        """Small requests of somebody else: Chappe and Synapse answer a /sync to which there is nothing to say."""
        if item.target in BARE:
            return ["--probe-path", "/other"]
        made = self.crowd.get(self.shape(item))
        path = f"/_matrix/client/v3/sync?timeout=0&set_presence=offline&filter=%7B%22room%22%3A%7B%22rooms%22%3A%5B%5D%7D%7D&since={self._now(made)}"
        token = self._folder / "probe-token"
        token.touch(mode=0o600)
        token.write_text(made.token(0) + "\n")
        return ["--probe-path", path, "--probe-token", str(token)]

    def _probe(self, item: Item) -> tuple[Figures, Line]:
        lines = self._one_room(item, self.settings.messages, *self._probe_words(item))
        found: Figures = {}
        for line in _counted(lines):
            for key in ("p50", "p99", "last"):
                found.setdefault(f"probe_{key}", []).append(line[f"probe_{key}_ms"])
            found.setdefault("last", []).append(line["last_ms"])
        idle = next(line for line in lines if "idle_seconds" in line)
        found["probe_idle_p99"] = [idle["probe_p99_ms"]]
        return found, mistakes(lines[-1])

    def _slow(self, item: Item) -> tuple[Figures, Line]:
        """Fan-outs and small requests: alone, beside devices that have stopped reading, and while those are dropped."""
        made, settings = self.crowd.get(self.shape(item)), self.settings
        plan = Plan(new_run_name())
        begin = self._now(made)
        missed = SLOW_MISSED - 2 * (WARM + settings.messages) - SLOW_DROPPING
        if missed < SLOW_DROPPING:
            raise StackError("so many messages do not fit into one answer: fewer --messages")
        past = Recording(self.crowd, made, plan, SLOW_PADDING)
        for _ in range(missed):
            past.past()
        past.store()
        self._published(past)
        recording = Recording(self.crowd, made, plan, PADDING, settings.actions)
        for name in ("alone", "beside"):
            plan.closed(name, WARM)
            plan.other(recording.preamble)
            for _ in range(WARM + settings.messages):
                recording.message()
            if name == "alone":
                plan.stall()
        plan.open("dropping")  # a reader is dropped after one to two times what it is given
        for number in range(SLOW_DROPPING):
            recording.message(0, number * 2 * settings.stall_seconds * 1_000_000 // SLOW_DROPPING)
        plan.back()
        probe = self._probe_words(item)
        pids = self._start(item, item.size + settings.stalled, {"write_timeout_ms": settings.stall_seconds * 1000})
        more = ["-n", str(item.size), "--stalled", str(settings.stalled), "--since", begin, *probe]
        lines = self._listen(item, self._argv(item, pids, plan, made, *more), recording.store)
        self._published(recording)
        return {**slow_figures(lines), "peak": [memory_of(pids, "VmHWM") / 1e6]}, mistakes(lines[-1])

    def _open(self, item: Item) -> tuple[Figures, Line]:
        made = self.crowd.get(self.shape(item))
        plan, settings = Plan(new_run_name()), self.settings
        plan.closed("warm", WARM)
        recording = self._messages(item, plan, made, [0] * WARM)
        for rate in settings.rates:
            plan.open(f"{rate}")
            step = item.size * 1_000_000 / rate
            times = [int(i * step) for i in range(max(2, int(settings.step_seconds * rate / item.size)))]
            for at_us in times:
                if recording is not None:
                    recording.message(0, at_us)
                else:
                    plan.message(self._bare_message(item, plan), 0, at_us)
        begin = [] if item.target in BARE else ["--since", self._now(made)]
        pids = self._start(item, item.size)
        self._first_at_nchan(item)
        lines = self._listen(item, self._argv(item, pids, plan, made, *begin), recording.store if recording else None)
        if recording:
            self._published(recording)
        found: Figures = {}
        knee = 0
        below = True
        for line in (line for line in lines if line.get("mark") == "after" and line.get("open")):
            rate = int(line["phase"])
            if line["count"] == 0:  # nothing came in time
                below = False
                continue
            below = below and line["p99_ms"] <= KNEE_MS
            knee = rate if below else knee
            found[f"p99@{rate}"] = [line["p99_ms"]]
            found[f"cpu@{rate}"] = [line["total_cpu_ms"] * 1000 / max(line["messages"], 1)]
            found[f"merge@{rate}"] = [line["messages"] / max(line["deltas"], 1)]
            found[f"gen@{rate}"] = [line["own_cpu_ms"] / line["took_ms"] * 100]
        found["knee"] = [knee / 1000]
        return found, mistakes(lines[-1])

    # -- many rooms ------------------------------------------------------------------------------

    def _workday(self, item: Item) -> tuple[Figures, Line]:
        made = self.crowd.get(self.shape(item))
        plan, settings = Plan(new_run_name()), self.settings
        recording = Recording(self.crowd, made, plan, PADDING // 3, settings.actions)
        plan.closed("warm", WARM)
        plan.other(recording.preamble)
        for room in range(WARM):
            recording.message(room)
        rate = settings.work_rate * item.size / 20000
        plan.open("new")
        plan_workday(recording, rate, settings.work_seconds)
        plan.open("touch")
        for room in range(len(made.rooms)):
            recording.message(room, int(room / (TOUCH_FASTER * rate) * 1e6))
        plan.open("steady")
        sent = plan_workday(recording, rate, settings.work_seconds)
        since = self._now(made)
        pids = self._start(item, item.size)
        argv = self._argv(item, pids, plan, made, "--since", since, "--idle", "1500", rooms=True)
        lines = self._listen(item, argv, recording.store)
        self._published(recording)
        found = {**parked_figures(lines, item.size), **phase_figures(lines, "steady")}
        found |= {f"new_{key}": values for key, values in phase_figures(lines, "new").items()}
        found["events"] = [sent / settings.work_seconds]
        return found, mistakes(lines[-1])

    def _storm(self, item: Item) -> tuple[Figures, Line]:
        """Everybody comes back at once to a new process, one message behind in every room."""
        made = self.crowd.get(self.shape(item))
        plan = Plan(new_run_name())
        since = self._now(made)
        recording = Recording(self.crowd, made, plan, PADDING // 3)
        for room in range(len(made.rooms)):
            recording.past(room)
        recording.store()
        self._published(recording)
        pids = self._start(item, item.size)
        before = self._counters(item.target)
        argv = self._argv(item, pids, plan, made, "--since", since, "--initial-only", rooms=True)
        argv[argv.index("--concurrency") + 1] = str(item.size)
        lines = drive(argv, lambda line: None)
        line = next(line for line in lines if "initial" in line)
        counters = self._counters(item.target)
        return {
            "all": [line["seconds"]],
            "p50": [line["p50_ms"]],
            "p99": [line["p99_ms"]],
            "cpu": [line["cpu_ms"] * 1000 / item.size],
            "statements": [float(counters["statements"] - before["statements"])],
            "pg_cpu": [_backends_us(before, counters) / item.size],
            "peak": [memory_of(pids, "VmHWM") / 1e6],
            "again": [float(lines[-1]["empties"])],
        }, mistakes(lines[-1])

    # -- large accounts --------------------------------------------------------------------------

    def _initial(self, item: Item) -> tuple[Figures, Line]:
        made = self.crowd.get(self.shape(item))
        found: Figures = {}
        wrong: Line = {}

        def ask(pids: list[int], name: str, first: int, count: int, at_once: int, kind: str) -> None:
            path = self._folder / "accounts"
            path.touch(mode=0o600)
            path.write_text("".join(made.token(1 + i) + "\n" for i in range(first, first + count)))
            argv = [str(self.load), "--port", str(self.servers.port(item.target)), "--core", str(CLIENT_CORE)]
            argv += ["--initial-only", "--tokens", str(path), "-n", str(count), "--concurrency", str(at_once)]
            argv += ["--filter", json_filter(kind), "--total-timeout", str(self.settings.patience)]
            argv += [word for pid in pids for word in ("--pid", str(pid))]
            before = self._counters(item.target)
            lines = drive(argv, lambda line: None)
            line, counters = next(line for line in lines if "initial" in line), self._counters(item.target)
            wrong.update(mistakes(lines[-1]))
            found[f"{name}_ms"] = [line["seconds"] * 1000] if count == 1 else [line["p50_ms"]]
            found[f"{name}_cpu"] = [line["cpu_ms"] / count]
            found[f"{name}_sql"] = [float(counters["statements"] - before["statements"])]
            found[f"{name}_mb"] = [line["bytes"] / count / 1e6]
            if count > 1:
                found[f"{name}_all"] = [line["seconds"]]
                found[f"{name}_max"] = [line["max_ms"]]

        accounts = self.settings.accounts[0]
        pids = self._start(item, 100)
        ask(pids, "cold", 0, 1, 1, "lazy")
        ask(pids, "warm", 1, 1, 1, "lazy")
        ask(pids, "full", 2, 1, 1, "full")
        many = min(accounts, self.settings.synapse_accounts) if item.target == "synapse" else accounts
        pids = self._start(item, accounts)
        rest = memory_of(pids, "VmRSS")
        ask(pids, "many", 0, many, many, "lazy")
        ask(pids, "again", 0, many, many, "again")
        found["many_peak"] = [memory_of(pids, "VmHWM") / 1e6]
        found["many_rest"] = [rest / 1e6]
        found["many_count"] = [float(many)]
        return found, wrong


# -- from lines to figures -----------------------------------------------------------------------


def _counted(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line.get("mark") == "after" and not line["warm"] and line["deltas"]]


def statement_label(text: str) -> str:
    """Return what a statement is told from others by: the verb, and its first tables."""
    tables = re.findall(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+([a-z_][a-z_0-9]*)\b(?!\s*\()", text)
    return " ".join([text.split(" ", 1)[0].upper(), ", ".join(list(dict.fromkeys(tables))[:3])]).strip()


def phase_figures(lines: list[Line], phase: str) -> Figures:
    """What an open phase cost for each answer, when messages came, and how many statements of which kind a second."""
    of = {line["mark"]: line for line in lines if line.get("phase") == phase}
    if "after" not in of:
        return {}  # messages before it did not arrive, and the generator gave up
    before, after = of["before"], of["after"]
    answers, seconds = after["deltas"] + after["empties"], after["planned_ms"] / 1000
    found = {
        **counted_figures(before, after, answers),
        "answers": [answers / seconds],
        "cpu": [after["total_cpu_ms"] * 1000 / answers],
        "core": [after["total_cpu_ms"] / after["took_ms"] * 100],
        "p50": [after["p50_ms"]],
        "p99": [after["p99_ms"]],
        "last": [after["last_ms"]],
    }
    old, new = (line.get("counters", {}).get("texts", {}) for line in (before, after))
    for label, calls in new.items():
        if calls > old.get(label, 0):
            found[f"sql@{label}"] = [(calls - old.get(label, 0)) / seconds]
    return found


def _backends_us(before: dict[str, Any], after: dict[str, Any]) -> float:
    return sum(cpu - before["backends"].get(pid, 0) for pid, cpu in after["backends"].items()) / 1000


def counted_figures(before: Line, after: Line, deltas: int) -> Figures:
    """Statements and the database's CPU time for each delta; nothing for who has no database."""
    old, new = before.get("counters") or before, after.get("counters") or after
    if "statements" not in old or not deltas:
        return {}
    return {
        "sql": [(new["statements"] - old["statements"]) / deltas],
        "pg_cpu": [_backends_us(old, new) / deltas],
    }


def delta_figures(lines: list[Line]) -> Figures:
    """What the messages of a closed loop cost; one value a message."""
    found: Figures = {}
    before: Line = {}
    for line in lines:
        if line.get("mark") == "before":
            before = line
        if line.get("mark") != "after" or line["warm"] or not line["deltas"]:
            continue
        deltas = line["deltas"]
        values = {
            "cpu": [line["total_cpu_ms"] * 1000 / deltas],
            "fan": [line["fan_cpu_ms"] * 1000 / deltas],
            "first": [line["first_ms"]],
            "p50": [line["p50_ms"]],
            "p99": [line["p99_ms"]],
            "last": [line["last_ms"]],
            "read": [line["read_ms"]],
            "bytes": [line["bytes"] / deltas],
            "gen": [line["own_cpu_ms"] * 1000 / deltas],
            **counted_figures(before, line, deltas),
        }
        for key, value in values.items():
            found.setdefault(key, []).extend(value)
    return found


def slow_figures(lines: list[Line]) -> Figures:
    """What others got alone, beside stalled readers, and while those were dropped; and what became of them."""
    found: Figures = {}
    if not any(line.get("mark") == "dropped" for line in lines):
        return found  # messages did not arrive, and the generator gave up
    for line in _counted(lines):
        prefix = {"alone": "alone_", "beside": "", "dropping": "drop_"}[line["phase"]]
        for key in ("p99", "last", "probe_p50", "probe_p99", "probe_last"):
            found.setdefault(prefix + key, []).append(line[f"{key}_ms"])
        if line["phase"] != "dropping":
            found.setdefault(prefix + "cpu", []).append(line["total_cpu_ms"] * 1000 / line["deltas"])
    stalled, dropped, parked = named(lines, "stalled"), named(lines, "dropped"), named(lines, "parked")
    beside = [line for line in lines if line.get("mark") == "after" and line["phase"] == "beside"]
    held = [line for line in lines if line.get("stuck")]
    found |= {
        "stuck": [float(min(line["stuck"] for line in (stalled, *beside)))],
        "dropped": [float(dropped["dropped"])],
        "by_time": [float(dropped["write_timeout"])],
        "by_bytes": [float(dropped["write_bytes_max"])],
        "first_drop": [dropped["first_drop_ms"] / 1000],
        "last_drop": [dropped["last_drop_ms"] / 1000],
        "answer": [stalled["answer_bytes"] / stalled["stuck"] / 1000] if stalled["stuck"] else [],
        "waiting": [max((l["answer_bytes"] - l["taken_bytes"] - l["queued"] for l in held), default=0) / 1e6],
        "queued": [max((line["queued"] for line in held), default=0) / 1e6],
        "rss_parked": [parked["rss"] / 1e6],
        "rss_stalled": [max((line["rss"] for line in held), default=0) / 1e6],
        "rss_dropped": [dropped["rss"] / 1e6],
    }
    back = [line for line in lines if "initial" in line][-1]
    return {**found, "back": [back["seconds"]], "back_p99": [back["p99_ms"]]}


def parked_figures(lines: list[Line], devices: int) -> Figures:
    """Memory of the second half of the polls, and what waiting costs."""
    half, parked = named(lines, "half"), named(lines, "parked")
    count = devices - devices // 2
    idle = next((line for line in lines if "idle_seconds" in line), None)
    found = {
        "rss_poll": [(parked["rss"] - half["rss"]) / count / 1000],
        "slab_poll": [(parked["slab"] - half["slab"]) / count / 1000],
        "rss_all": [parked["rss"] / 1e6],
    }
    if idle is not None:
        found["idle_cpu"] = [idle["idle_cpu_ms"] / idle["idle_seconds"]]
    herd = [line for line in lines if "initial" in line]
    found["coming"] = [sum(line["cpu_ms"] for line in herd) * 1000 / devices]
    return found


def plan_workday(recording: Recording, rate: float, seconds: float) -> int:
    """Plan messages at a rate, twice as many receipts, and half as many people who begin and stop typing.

    Return how many of all that there are. Rooms and people are drawn by chance, the same every time.
    """
    shape, chance = recording.made.shape, recording.random
    count = max(2, int(rate * seconds))
    times: list[tuple[int, str]] = []
    for i in range(count):
        at = int((i + chance.random()) / rate * 1e6)
        times.append((at, "message"))
        times += [(at + int(chance.uniform(0.2, 3.0) * 1e6), "read") for _ in range(2)]
        if i % 2 == 0:
            times.append((at, "types"))
    end = int(seconds * 1e6)
    sent = 0
    for at, what in sorted(t for t in times if t[0] <= end):
        room = chance.randrange(len(shape.rooms))
        if what == "message":
            recording.message(room, at)
        elif what == "read":
            recording.read(room, chance.choice(shape.rooms[room]), at)
        else:
            recording.types(room, [chance.choice(shape.rooms[room])] if chance.random() < 0.5 else [], at)
        sent += 1
    return sent


def load_average() -> float:
    """Return how busy the machine is."""
    return os.getloadavg()[0]
