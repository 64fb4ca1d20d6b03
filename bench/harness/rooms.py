# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Initial syncs of accounts with 10, 100, 300 rooms: what they cost as the number of rooms grows.

Every account is a member of the first so many of the same rooms. In every round each target is a new process, so
the first account asked finds nothing in memory; the accounts are asked from the smallest to the largest or the other
way round, in turn. Both targets get the same requests. Statements are counted by the database (pg_stat_statements, by
database user), CPU by the kernel.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from urllib.parse import quote

from harness.measure import cpu_ns
from harness.stage import ROLES, Stage, default_state
from stack.errors import StackError
from stack.install import say
from stack.matrix import Client, Link, MatrixError
from stack.settings import Ports

DEFAULT_PORT_BASE = 15720
FELLOWS = 5  # members of every room besides the accounts
FILTERS = {
    "lazy": {"room": {"timeline": {"limit": 20}, "state": {"lazy_load_members": True}}},
    "full": {"room": {"timeline": {"limit": 20}}},
}


@dataclasses.dataclass
class Sample:
    """One initial sync."""

    target: str
    rooms: int
    kind: str
    cold: bool  # the first of its process
    ms: float
    cpu_ms: float
    statements: int
    size: int


class Rooms:
    """The rooms and the accounts, kept in the state folder."""

    def __init__(self, stage: Stage, sizes: list[int]) -> None:
        self.stage, self.sizes = stage, sorted(sizes)
        self.url = f"http://127.0.0.1:{stage.settings.ports.synapse}"
        self._file = stage.settings.state / "rooms.json"
        found = json.loads(self._file.read_text()) if self._file.exists() else {}
        self.people: dict[str, str] = found.get("people", {})
        self.rooms: list[str] = found.get("rooms", [])
        self.joined: dict[str, int] = found.get("joined", {})

    def _save(self) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps({"people": self.people, "rooms": self.rooms, "joined": self.joined}))
        fresh.replace(self._file)

    def populate(self) -> None:
        """Make what is missing."""
        link = Link(self.url)
        names = ["owner", *(f"fellow{i}" for i in range(FELLOWS)), *(f"account{size}" for size in self.sizes)]
        for name in names:
            if name not in self.people:
                self.people[name] = self.stage.register(link, f"rooms-{name}")
        self._save()
        owner = Client(self.url, "", self.people["owner"])
        begun = time.monotonic()
        while len(self.rooms) < self.sizes[-1]:
            number = len(self.rooms)
            room = owner.create_room(name=f"Room {number}", topic="Figures", preset="public_chat")
            for line in range(3):
                owner.text(room, f"line {line} of room {number}")
            self.rooms.append(room)
            if len(self.rooms) % 50 == 0:
                self._save()
                say(f"{len(self.rooms)} of {self.sizes[-1]} rooms ({time.monotonic() - begun:.0f} s)")
        self._save()
        wanted = {name: self.sizes[-1] for name in names if name.startswith("fellow")}
        wanted |= {f"account{size}": size for size in self.sizes}
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for _ in pool.map(lambda item: self._join(*item), wanted.items()):
                self._save()
        say(f"members joined ({time.monotonic() - begun:.0f} s)")

    def _join(self, name: str, count: int) -> None:
        link = Link(self.url)
        while self.joined.get(name, 0) < count:
            room = self.rooms[self.joined.get(name, 0)]
            reply = link.request("POST", f"/_matrix/client/v3/join/{quote(room)}", {}, self.people[name])
            if reply.status != 200:
                raise MatrixError("POST", "/join", reply.status, reply.body)
            self.joined[name] = self.joined.get(name, 0) + 1


class Measure:
    """Asks, and counts."""

    def __init__(self, stage: Stage, rooms: Rooms) -> None:
        self.stage, self.rooms = stage, rooms

    def statements(self, target: str) -> int:
        """Statements so far of the target's database user."""
        return int(
            self.stage.deployment.postgres.psql(
                "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements s"
                f" JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = '{ROLES[target]}'"
            )
        )

    def slowest(self, target: str, count: int = 5) -> str:
        """Return the statements that took the database longest, worst first: ms at most, calls, rows, text."""
        return self.stage.deployment.postgres.psql(
            "SELECT round(max_exec_time::numeric, 1), calls, rows, left(regexp_replace(query, '\\s+', ' ', 'g'), 110)"
            f" FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = '{ROLES[target]}'"
            f" ORDER BY max_exec_time DESC LIMIT {count}"
        )

    def round(self, target: str, number: int) -> list[Sample]:
        """One new process, asked once for each account and each filter."""
        process = self.stage.only(target)
        assert process.pid is not None
        sizes = self.rooms.sizes if number % 2 else list(reversed(self.rooms.sizes))
        samples = []
        for size in sizes:
            for kind, sync_filter in FILTERS.items():
                samples.append(self._ask(target, process.pid, size, kind, sync_filter, not samples))
        return samples

    def _ask(self, target: str, pid: int, size: int, kind: str, sync_filter: object, cold: bool) -> Sample:
        client = Client(f"http://127.0.0.1:{self.stage.port(target)}", "", self.rooms.people[f"account{size}"])
        before, cpu = self.statements(target), cpu_ns(pid)
        begun = time.monotonic()
        reply = client.sync_raw(filter=sync_filter, timeout=0, set_presence="offline")
        ms = (time.monotonic() - begun) * 1000
        time.sleep(0.3)
        joined = (reply.body or {}).get("rooms", {}).get("join", {})
        if reply.status != 200 or len(joined) != size:
            raise StackError(f"{target}: status {reply.status}, {len(joined)} rooms instead of {size}")
        cpu_ms = (cpu_ns(pid) - cpu) / 1e6
        return Sample(target, size, kind, cold, ms, cpu_ms, self.statements(target) - before, len(reply.raw))


def table(samples: list[Sample], sizes: list[int], targets: list[str]) -> str:
    """Return the table: min / median / max over the rounds."""
    lines = ["| rooms | members | target | first in process | ms | CPU ms | SQL statements | kB |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")

    def spread(values: list[float], digits: int) -> str:
        low, mid, high = min(values), statistics.median(values), max(values)
        return " / ".join(f"{value:.{digits}f}" for value in (low, mid, high))

    for size in sizes:
        for kind in FILTERS:
            for target in targets:
                for cold in (True, False):
                    own = [s for s in samples if (s.rooms, s.kind, s.target, s.cold) == (size, kind, target, cold)]
                    if own:
                        cells = [str(size), kind, target, "yes" if cold else "no"]
                        cells += [spread([s.ms for s in own], 1), spread([s.cpu_ms for s in own], 1)]
                        cells += [spread([s.statements for s in own], 0)]
                        cells += [f"{statistics.median(s.size for s in own) / 1000:.0f}"]
                        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/rooms", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 300], metavar="N", help="accounts (%(default)s)")
    parser.add_argument("--rounds", type=int, default=4, metavar="N", help="rounds, each with new processes (%(default)s)")
    parser.add_argument("--target", choices=("synapse", "chappe", "both"), default="both", help="(%(default)s)")
    parser.add_argument("--state", type=Path, default=default_state().with_name("chappe-bench-rooms"), metavar="DIR")
    parser.add_argument("--port-base", type=int, default=DEFAULT_PORT_BASE, metavar="N", help="first port (%(default)s)")
    parser.add_argument("--no-install", action="store_true", help="do not look for missing Debian packages")
    parser.add_argument("--chappe-binary", type=Path, metavar="FILE", help="measure this one and build none")
    return parser.parse_args()


def main() -> int:
    """Run; return the exit status."""
    options = _parse()
    targets = ["synapse", "chappe"] if options.target == "both" else [options.target]
    stage: Stage | None = None
    try:
        stage = Stage(
            options.state.resolve(),
            Ports(options.port_base),
            with_chappe="chappe" in targets,
            chappe_binary=options.chappe_binary,
            cache_factor=None,
            install=not options.no_install,
            transport=None,
        )
        stage.start()
        rooms = Rooms(stage, options.sizes)
        rooms.populate()
        measure = Measure(stage, rooms)
        samples: list[Sample] = []
        for number in range(options.rounds):
            for target in targets if number % 2 else list(reversed(targets)):
                say(f"round {number + 1} of {options.rounds}: {target}")
                samples += measure.round(target, number)
        print("\n" + "\n".join(line for line in stage.describe(with_room=False)))
        print("\n" + table(samples, rooms.sizes, targets))
        for target in targets:
            print(f"\nSlowest statements of {target} (ms, calls, rows):\n" + measure.slowest(target))
        return 0
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
