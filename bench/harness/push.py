# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""One message to a large room in which everybody has a pusher: Chappe and a Synapse pusher at a local gateway.

The room and its first members are made as bench/run makes them, through the client API; the rest of the members are
copies of one of these in the tables, made in bulk while no server runs: ten thousand joins take Synapse an hour.
What is measured begins with a message that Synapse takes and evaluates for every member. Rows of the pushers table
are written in bulk as well, while neither target runs. The gateway (gateway.c) keeps which pushkey was told of which event when; every one must have been
told of every event once and in order, or the figures are worth nothing and the exit status is 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from harness.measure import cpu_ns
from harness.stage import RELEASE, ROLES, Stage, build_load, default_state
from stack.chappe import WORKER_NAME
from stack.errors import StackError
from stack.install import install_packages, run, say
from stack.matrix import Client, MatrixError
from stack.process import Process
from stack.settings import SERVER_NAME, Ports
from stack.versions import CHECKOUT

DEFAULT_PORT_BASE = 15760
GATEWAY_OFFSET = 30
QUIET = 0.03  # share of a core
PATIENCE = {"chappe": 60, "synapse": 900}  # seconds without any push
FORMATS = ("full", "event_id_only")
HTTP = ("1.1", "2", "1.1-tls")


@dataclasses.dataclass
class Part:
    """One target, new, at one gateway."""

    target: str
    http: str
    format: str
    users: int
    messages: int


@dataclasses.dataclass
class Sample:
    """One message: milliseconds from just before the send request, microseconds of CPU for each push."""

    part: Part
    warm: bool  # not the first of the process
    accepted: float  # the send request's answer
    first: float
    median: float
    p99: float
    last: float
    rate: float  # pushes a second from the first to the last
    cpu: float
    cpu_spread: float  # of one core, from the first to the last
    statements: int
    gateway_cpu: float
    instructions: float  # for each push, in user space, by callgrind; 0 unless asked for


class Gateway:
    """The gateway's process."""

    def __init__(self, binary: Path, port: int, http: str, folder: Path, delay_ms: int = 0) -> None:
        self.port, self.tls = port, http != "1.1"
        argv = [str(binary), "--port", str(port), "--delay", str(delay_ms)]
        if self.tls:
            argv += ["--cert", str(folder / "cert.pem"), "--key", str(folder / "key.pem")]
        if http != "2":
            argv.append("--no-http2")
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self._line() != "listening":
            raise StackError("the gateway did not start")

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def url(self) -> str:
        """What a pusher's data.url is."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/_matrix/push/v1/notify"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def ask(self, order: str) -> str:
        """Give an order; return the first line of the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        return self._line()

    def dump(self) -> list[tuple[int, str, str]]:
        """Return time, pushkey and event of every request."""
        found = []
        line = self.ask("dump")
        while line != "end":
            ns, pushkey, event = line.split(" ")
            found.append((int(ns), pushkey, event))
            line = self._line()
        return found

    def stop(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def make_certificate(folder: Path) -> None:
    """Make a certificate of the gateway's own, which is also what the targets trust."""
    if (folder / "cert.pem").exists():
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-days", "3650", "-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1"]
    run([*argv, "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")], "openssl", folder / "openssl.log")


def resident(pid: int) -> int:
    """Bytes of resident memory of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    return 0


class Callgrind:
    """Chappe under callgrind: instructions do not depend on what else the machine does."""

    def __init__(self, process: Process, logs: Path) -> None:
        self._process, self._out, self._dumps = process, logs / "callgrind", 0
        process.argv = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self._out}", *process.argv]
        process.ready_seconds = 300

    def since_last(self) -> int:
        """Return the instructions since the last call."""
        for old in self._out.parent.glob("callgrind.*"):
            old.unlink()
        subprocess.run(["callgrind_control", "--dump", str(self._process.pid)], check=True, capture_output=True)
        total = 0
        for path in self._out.parent.glob("callgrind.*"):
            text = path.read_text(errors="replace")
            total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("totals:"))
            kept = path.with_name(f"push-{self._dumps}.callgrind")
            kept.write_text(text)
            self._dumps += 1
        return total


class Pushing:
    """Measures."""

    def __init__(self, stage: Stage, gateway: Path, folder: Path, options: argparse.Namespace) -> None:
        self.stage, self.binary, self.folder = stage, gateway, folder
        self.phones, self.delay = options.phones, options.delay
        self.wrong: list[str] = []
        self.said: list[str] = []
        self._callgrind = Callgrind(stage.process("chappe"), stage.settings.logs) if options.callgrind else None
        self._psql = stage.deployment.postgres.psql

    def _rows(self, part: Part, url: str) -> None:
        """Make the pushers of a part, and no unread notifications, while neither target runs."""
        data = '{"url":"%s"%s}' % (url, ',"format":"event_id_only"' if part.format == "event_id_only" else "")
        self._psql(
            "DELETE FROM pushers; DELETE FROM event_push_actions; DELETE FROM event_push_actions_staging;"
            "DELETE FROM event_push_summary;"
            "INSERT INTO pushers (id, user_name, profile_tag, kind, app_id, app_display_name, device_display_name,"
            " pushkey, ts, lang, data, last_stream_ordering, enabled, instance_name)"
            f" SELECT nextval('pushers_sequence'), '@listener' || i || ':{SERVER_NAME}', '', 'http', 'bench.app', 'Bench',"
            f" 'Phone', 'key-' || i || '-' || k, 1700000000000, 'en', '{data}',"
            " (SELECT max(stream_ordering) FROM events), TRUE, 'master'"
            f" FROM generate_series(0, {part.users - 1}) i, generate_series(1, {self.phones}) k"
        )
        for table in ("pushers", "event_push_actions", "event_push_summary"):
            self._psql(f"VACUUM ANALYZE {table}")

    def _tell(self, line: str) -> None:
        self.said.append(line)
        say(line)

    def _statements(self, target: str) -> int:
        return int(
            self._psql(
                "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements s"
                f" JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = '{ROLES[target]}'"
            )
        )

    def statements_by_text(self, target: str, count: int = 6) -> str:
        """Return the most frequent statements: calls, rows, text."""
        return self._psql(
            "SELECT calls, rows, left(regexp_replace(query, '\\s+', ' ', 'g'), 100)"
            f" FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = '{ROLES[target]}'"
            f" ORDER BY calls DESC LIMIT {count}"
        ).rstrip()

    def part(self, part: Part) -> list[Sample]:
        """A new process of the target, and some messages one after the other."""
        for name in ROLES:
            if name == "synapse" or self.stage.settings.with_chappe:
                self.stage.process(name).stop()
        gateway = Gateway(self.binary, self.stage.settings.ports.base + GATEWAY_OFFSET, part.http, self.folder, self.delay)
        try:
            self._rows(part, gateway.url)
            self._psql("SELECT pg_stat_statements_reset()")
            process = self.stage.only(part.target)
            assert process.pid is not None
            self._quiet(process.pid)
            events: list[str] = []
            samples = []
            for number in range(part.messages):
                samples.append(self._message(part, gateway, process.pid, number, events))
            self._check(part, gateway, events)
            self._tell("  connections accepted, of them HTTP/2, most requests waiting at once: " + gateway.ask("stats"))
            if part.target == "chappe":
                self._tell("  most frequent statements (calls, rows, text):\n" + self.statements_by_text("chappe"))
            return samples
        finally:
            gateway.stop()

    def _quiet(self, pid: int, seconds: float = 900.0) -> None:
        """Wait until a process does next to nothing, twice in a row (a Synapse with many pushers starts for minutes)."""
        calm, until = 0, time.monotonic() + seconds
        while calm < 2 and time.monotonic() < until:
            before, begun = cpu_ns(pid), time.monotonic_ns()
            time.sleep(0.25)
            calm = calm + 1 if cpu_ns(pid) - before < QUIET * (time.monotonic_ns() - begun) else 0

    def _message(self, part: Part, gateway: Gateway, pid: int, number: int, events: list[str]) -> Sample:
        """One message, from before it is sent until everybody was told and the target is quiet."""
        sender = Client(
            f"http://127.0.0.1:{self.stage.settings.ports.synapse}", f"@sender:{SERVER_NAME}", self.stage.sender
        )
        had, wanted = int(gateway.ask("count")), part.users * self.phones
        statements, cpu, gateway_cpu = self._statements(part.target), cpu_ns(pid), cpu_ns(gateway.pid)
        if self._callgrind:
            self._callgrind.since_last()
        begun = time.monotonic_ns()
        events.append(sender.text(self.stage.room, f"message {number}"))
        accepted = time.monotonic_ns()
        spread_cpu = self._await(gateway, pid, had, wanted, PATIENCE[part.target])
        self._quiet(pid)
        spent, gateway_spent = cpu_ns(pid) - cpu, cpu_ns(gateway.pid) - gateway_cpu
        statements = self._statements(part.target) - statements
        instructions = self._callgrind.since_last() if self._callgrind else 0
        at = sorted((ns - begun) / 1e6 for ns, _, event in gateway.dump() if event == events[-1])
        if not at:
            raise StackError(f"{part.target}: nobody was told of a message")
        sample = Sample(
            *(part, number > 0, (accepted - begun) / 1e6, at[0], statistics.median(at)),
            *(at[int(len(at) * 0.99)], at[-1], len(at) / max((at[-1] - at[0]) / 1000, 1e-9)),
            *(spent / 1000 / len(at), spread_cpu, statements, gateway_spent / 1000 / len(at)),
            instructions / len(at),
        )
        self._tell(
            f"{part.target} HTTP/{part.http} {part.format}: {len(at)} pushes, first {sample.first:.0f} ms,"
            f" last {sample.last:.0f} ms, {sample.rate:.0f}/s, {sample.cpu:.0f} µs CPU each, {statements} statements"
        )
        return sample

    def _await(self, gateway: Gateway, pid: int, had: int, wanted: int, patience: float) -> float:
        """Wait until so many came, or none has come for long; return the share of a core used meanwhile."""
        count, moved, first = had, time.monotonic(), (0, 0)
        while count < had + wanted and time.monotonic() - moved < patience:
            time.sleep(0.02)
            now = int(gateway.ask("count"))
            if now != count:
                moved = time.monotonic()
            if now != count and not first[0]:
                first = (time.monotonic_ns(), cpu_ns(pid))
            count = now
        took = time.monotonic_ns() - first[0]
        return (cpu_ns(pid) - first[1]) / took if first[0] and took > 0 else 0.0

    def rows_cost(self, options: argparse.Namespace) -> list[str]:
        """Start each target with no pushers and with many, each of a user of its own: time and memory."""
        lines = [*self.stage.describe(False), "target, pushers: seconds until it is ready, of CPU; resident kB; bytes a pusher"]
        for target in ("chappe", "synapse") if options.target == "both" else (options.target,):
            empty = 0
            for count in (0, options.rows):
                for name in ROLES:
                    if name == "synapse" or self.stage.settings.with_chappe:
                        self.stage.process(name).stop()
                self._rows(Part(target, "1.1", "full", count, 0), "http://127.0.0.1:1/_matrix/push/v1/notify")
                begun = time.monotonic()
                process = self.stage.only(target)
                assert process.pid is not None
                took = time.monotonic() - begun
                self._quiet(process.pid)
                memory = resident(process.pid)
                each = f"{(memory - empty) / count:.0f}" if count else "-"
                empty = empty or memory
                spent = cpu_ns(process.pid) / 1e9
                lines.append(f"{target}, {count}: {took:.2f} s, {spent:.2f} s; {memory // 1024} kB; {each}")
        return lines

    def _check(self, part: Part, gateway: Gateway, events: list[str]) -> None:
        """Every pushkey was told of every event, once and in order."""
        told: dict[str, list[str]] = {}
        for _, pushkey, event in gateway.dump():
            if event != "-":
                told.setdefault(pushkey, []).append(event)
        pushes = sum(len(own) for own in told.values())
        distinct = sum(len(set(own)) for own in told.values())
        right = sum(own == events for own in told.values())
        wanted = part.users * self.phones
        line = (
            f"{part.target} HTTP/{part.http} {part.format}: {pushes} pushes, {distinct} distinct,"
            f" {pushes - distinct} repeated; {right} of {wanted} pushkeys got each of {len(events)} once and in order"
        )
        self._tell(line)
        if right != wanted or len(told) != wanted:
            self.wrong.append(line)


_COLUMNS = (
    ("accepted ms", "accepted", 0),
    ("first ms", "first", 0),
    ("median ms", "median", 0),
    ("p99 ms", "p99", 0),
    ("last ms", "last", 0),
    ("pushes/s", "rate", 0),
    ("CPU µs/push", "cpu", 1),
    ("of a core", "cpu_spread", 2),
    ("SQL in all", "statements", 0),
    ("gateway CPU µs", "gateway_cpu", 1),
    ("instructions/push", "instructions", 0),
)


def table(samples: list[Sample], phones: int) -> str:
    """Least / median / greatest of every part; the first message of a process apart."""
    lines = ["| target | HTTP | format | pushes | message | " + " | ".join(title for title, _, _ in _COLUMNS) + " |"]
    lines.append("| --- " * (len(_COLUMNS) + 5) + "|")
    parts: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        part = sample.part
        key = (part.target, part.http, part.format, str(part.users * phones), "later" if sample.warm else "first")
        parts.setdefault(key, []).append(sample)
    for key in sorted(parts):
        cells = list(key)
        for _, name, digits in _COLUMNS:
            values = sorted(float(getattr(sample, name)) for sample in parts[key])
            few = dict.fromkeys(f"{x:.{digits}f}" for x in (values[0], statistics.median(values), values[-1]))
            cells.append(" / ".join(few))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratios(samples: list[Sample]) -> list[str]:
    """How much more CPU a push costs Synapse than Chappe, by what Chappe speaks with the gateway: medians, all but the first."""
    costs: dict[tuple[str, str, str], list[float]] = {}
    for sample in samples:
        if sample.warm:
            costs.setdefault((sample.part.format, sample.part.target, sample.part.http), []).append(sample.cpu)
    medians = {key: statistics.median(values) for key, values in costs.items()}
    lines = []
    for (form, target, http), cost in sorted(medians.items()):
        theirs = medians.get((form, "synapse", "1.1"))
        if target == "chappe" and theirs:
            lines.append(f"CPU per push, {form}, Synapse to Chappe over HTTP/{http}: {theirs / cost:.0f} to 1")
    return lines


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/push", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--users", type=int, default=10000, metavar="N", help="members with pushers (%(default)s)")
    parser.add_argument("--synapse-users", type=int, default=1000, metavar="N", help="fewer for Synapse (%(default)s)")
    parser.add_argument("--phones", type=int, default=1, metavar="N", help="pushers of each user (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="rounds, each with new processes (%(default)s)")
    parser.add_argument("--messages", type=int, default=6, metavar="N", help="of a part; the first apart (%(default)s)")
    parser.add_argument("--synapse-messages", type=int, default=2, metavar="N", help="the same (%(default)s)")
    parser.add_argument("--http", nargs="+", choices=HTTP, default=["1.1", "2"], help="Synapse has only 1.1 (%(default)s)")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="(%(default)s)")
    parser.add_argument("--target", choices=("synapse", "chappe", "both"), default="both", help="(%(default)s)")
    parser.add_argument("--state", type=Path, default=default_state().with_name("chappe-bench-push"), metavar="DIR")
    parser.add_argument("--port-base", type=int, default=DEFAULT_PORT_BASE, metavar="N", help="first port (%(default)s)")
    parser.add_argument("--delay", type=int, default=0, metavar="MS", help="the gateway answers so much later (%(default)s)")
    parser.add_argument("--callgrind", action="store_true", help="count Chappe's instructions; its times mean nothing then")
    parser.add_argument("--rows", type=int, default=0, metavar="N", help="measure instead what starting with N pushers costs")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write (bench/results/DATE-push.txt)")
    parser.add_argument("--no-install", action="store_true", help="do not look for missing Debian packages")
    parser.add_argument("--chappe-binary", type=Path, metavar="FILE", help="measure this one and build none")
    parser.add_argument("--gateway-binary", type=Path, metavar="FILE", help="use this gateway and build none")
    return parser.parse_args()


def _plan(options: argparse.Namespace) -> list[Part]:
    """Every part, the first target changing from round to round."""
    targets = ["synapse", "chappe"] if options.target == "both" else [options.target]
    users = {"chappe": options.users, "synapse": min(options.synapse_users, options.users)}
    messages = {"chappe": options.messages, "synapse": options.synapse_messages}
    parts = []
    for number in range(options.rounds):
        for target in targets if number % 2 else reversed(targets):
            for http in options.http:
                # What Synapse speaks with a gateway that has HTTP/2 is HTTP/1.1 all the same.
                if target == "chappe" or http != "2":
                    parts += [Part(target, http, form, users[target], messages[target]) for form in options.formats]
    return parts


# What a joined member has in Synapse's tables: table, the column that says which row is its model's, what differs.
# "@" stands for the new user's id, "#" for its localpart, "$" for its join event.
_COPIES = (
    ("users", "name", {"name": "@"}),
    ("profiles", "full_user_id", {"user_id": "#", "full_user_id": "@", "displayname": "#"}),
    ("events", "event_id", {"event_id": "$", "sender": "@", "state_key": "@"}),
    ("event_json", "event_id", {"event_id": "$"}),
    ("state_events", "event_id", {"event_id": "$", "state_key": "@"}),
    ("room_memberships", "event_id", {"event_id": "$", "user_id": "@", "sender": "@", "display_name": "#"}),
    ("event_to_state_groups", "event_id", {"event_id": "$"}),
    ("current_state_events", "event_id", {"event_id": "$", "state_key": "@"}),
    ("local_current_membership", "event_id", {"event_id": "$", "user_id": "@"}),
)
# Where an event has its place in the stream.
_ORDERED = {
    "events": "stream_ordering",
    "room_memberships": "event_stream_ordering",
    "current_state_events": "event_stream_ordering",
    "local_current_membership": "event_stream_ordering",
}


def _copies(room: str, columns: set[tuple[str, str]], first: int, last: int) -> str:
    """SQL that makes members [first, last) of a room as copies of listener0."""
    model, joined = f"@listener0:{SERVER_NAME}", f"room_id = '{room}' AND user_id = '@listener0:{SERVER_NAME}'"
    texts = {"@": f"'@listener' || n || ':{SERVER_NAME}'", "#": "'listener' || n", "$": "'$copy-of-listener0-' || n"}
    sql = [
        "BEGIN; CREATE TEMP TABLE fresh ON COMMIT DROP AS SELECT n, nextval('events_stream_seq') AS place"
        f" FROM generate_series({first}, {last - 1}) n;"
    ]
    for table, key, changes in _COPIES:
        pairs = {name: texts[mark] for name, mark in changes.items() if (table, name) in columns}
        if table in _ORDERED and (table, _ORDERED[table]) in columns:
            pairs[_ORDERED[table]] = "place"
        if table == "event_json":
            pairs["json"] = f"replace(m.json, '{model}', {texts['@']})"
        built = ", ".join(f"'{name}', {text}" for name, text in pairs.items())
        which = f"'{model}'" if key != "event_id" else f"(SELECT event_id FROM local_current_membership WHERE {joined})"
        sql.append(
            f"INSERT INTO {table} SELECT c.* FROM {table} m CROSS JOIN fresh"
            f" CROSS JOIN LATERAL jsonb_populate_record(m, jsonb_build_object({built})) c WHERE m.{key} = {which};"
        )
    sql.append(  # in the state of the newest event too, which that of the next one is made from
        "INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)"
        f" SELECT g.state_group, '{room}', 'm.room.member', {texts['@']}, {texts['$']}"
        " FROM fresh CROSS JOIN (SELECT s.state_group FROM event_forward_extremities f JOIN event_to_state_groups s"
        f" USING (event_id) WHERE f.room_id = '{room}') g;"
        f"UPDATE room_stats_current SET joined_members = joined_members + {last - first},"
        f" local_users_in_room = local_users_in_room + {last - first} WHERE room_id = '{room}'; COMMIT; ANALYZE;"
    )
    return "".join(sql)


def _populate(stage: Stage, users: int) -> None:
    """Make the room and the members that are missing: the first through the client API, the rest in the tables."""
    stage.populate(0)
    postgres, synapse = stage.deployment.postgres, stage.deployment.synapse
    found = postgres.psql(
        "SELECT count(*) FROM local_current_membership WHERE membership = 'join' AND user_id LIKE '@listener%'"
        f" AND room_id = '{stage.room}'"
    )
    if int(found) >= users:
        return
    say(f"making {users - int(found)} members")
    servers = [synapse.worker, synapse.main]
    for process in servers:
        process.stop()
    rows = postgres.psql(
        "SELECT table_name || ' ' || column_name FROM information_schema.columns WHERE table_schema = 'public'"
    )
    columns = {(line.split()[0], line.split()[1]) for line in rows.splitlines() if line}
    postgres.psql(_copies(stage.room, columns, int(found), users))
    for process in reversed(servers):
        process.start()
        process.wait_ready()


def _stage(options: argparse.Namespace) -> Stage:
    own = {"synapse": "synapse_worker1", "chappe": WORKER_NAME}
    trust = {"SSL_CERT_FILE": str(options.state.resolve() / "gateway" / "cert.pem")}
    stage = Stage(
        options.state.resolve(),
        Ports(options.port_base),
        with_chappe=options.target != "synapse",
        chappe_binary=options.chappe_binary,
        cache_factor=None,
        install=not options.no_install,
        transport=None,
        # Gateways on loopback are forbidden otherwise.
        synapse_extra={"start_pushers": False, "ip_range_whitelist": ["127.0.0.0/8"]},
        # Each target's own file names it alone; only one of them runs.
        worker_extra={target: {"pusher_instances": [name]} for target, name in own.items()},
        chappe_env=trust,
    )
    stage.process("synapse").env |= trust
    return stage


def _build_gateway(logs: Path) -> Path:
    build_load(logs)  # configures
    run(["cmake", "--build", str(RELEASE), "--target", "bench_gateway"], "building the gateway", logs / "build-gateway.log")
    return RELEASE / "bench" / "bench_gateway"


def _write(options: argparse.Namespace, lines: list[str]) -> None:
    stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H%M")
    path = options.output or CHECKOUT / "bench" / "results" / f"{stamp}-push.txt"
    switches = {"--port-base", "--chappe-binary", "--gateway-binary", "--state", "--output"}
    words = [x for i, x in enumerate(sys.argv[1:], 1) if not {x, sys.argv[i - 1]} & switches and x != "--no-install"]
    text = "\n".join([f"date      {stamp}", "command   " + " ".join(["bench/push", *words]), *lines]) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print("\n" + text, flush=True)
    say(f"written to {os.path.relpath(path)}")


def main() -> int:
    """Run; return the exit status."""
    options = _parse()
    stage: Stage | None = None
    try:
        if not options.no_install:
            install_packages(["bench"])
        stage = _stage(options)
        make_certificate(options.state.resolve() / "gateway")
        gateway = options.gateway_binary.resolve() if options.gateway_binary else _build_gateway(stage.settings.logs)
        stage.start()
        _populate(stage, options.users)
        pushing = Pushing(stage, gateway, options.state.resolve() / "gateway", options)
        if options.rows:
            _write(options, pushing.rows_cost(options))
            return 0
        samples, loads = [], []
        for part in _plan(options):
            loads.append(f"{part.target[0]}{os.getloadavg()[0]:.1f}")
            samples += pushing.part(part)
        head = [*stage.describe(), "load      average before each part: " + " ".join(loads), ""]
        found = [table(samples, options.phones), "", *ratios(samples), ""]
        _write(options, [*head, *found, *pushing.said, *("WRONG: " + x for x in pushing.wrong)])
        return 1 if pushing.wrong else 0
    except KeyboardInterrupt:
        return 130
    except (StackError, MatrixError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr, flush=True)
        return 3
    finally:
        if stage is not None:
            stage.stop()


if __name__ == "__main__":
    sys.exit(main())
