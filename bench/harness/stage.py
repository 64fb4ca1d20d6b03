# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""The deployment that is measured: deploy/local with counting in the database, and a large room.

The Synapse worker and Chappe each log in to PostgreSQL under a name of their own, so that
pg_stat_statements counts the statements of both with one yardstick. Users and room are made once per
state folder through the client API and kept; more are added when a run asks for more.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import hmac
import json
import os
import secrets
import subprocess
import time
from pathlib import Path
from typing import Callable
from urllib.parse import quote

from stack.deployment import Deployment
from stack.errors import StackError
from stack.install import install_packages, say
from stack.matrix import Client, Json, Link, MatrixError
from stack.process import Process, run
from stack.settings import Ports, Settings
from stack.versions import CHECKOUT, read_versions

ROLES = {"synapse": "bench_synapse", "chappe": "bench_chappe"}
SAMPLERS = 20  # users of one series of initial syncs, which the process has not seen before
SERIES = ("lazy", "full")
RELEASE = CHECKOUT / "build" / "release"


def default_state() -> Path:
    """Return the default state folder; root gets one that the database's user can enter."""
    if os.getuid() == 0 and "XDG_STATE_HOME" not in os.environ:
        return Path("/var/lib/chappe-bench")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "chappe-bench"


def build_load(logs: Path) -> Path:
    """Build the load generator beside Chappe and return its path."""
    log = logs / "build-load.log"
    if not (RELEASE / "build.ninja").exists():
        say(f"configuring in {RELEASE}")
        argv = ["cmake", "-G", "Ninja", "-S", str(CHECKOUT), "-B", str(RELEASE), "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
        run([*argv, "-DCHAPPE_TESTS=OFF"], "cmake", log)
    run(["cmake", "--build", str(RELEASE), "--target", "bench_load"], "building the load generator", log)
    return RELEASE / "bench" / "bench_load"


class Stage:
    """The running deployment, its users and its room."""

    def __init__(
        self,
        state: Path,
        ports: Ports,
        *,
        with_chappe: bool,
        chappe_binary: Path | None,
        cache_factor: float | None,
        install: bool,
        transport: str | None,
        synapse_extra: Json | None = None,
        worker_extra: dict[str, Json] | None = None,
        chappe_env: dict[str, str] | None = None,
    ) -> None:
        """worker_extra: more settings for a target's own configuration file, which its process alone reads."""
        self._worker_extra = worker_extra or {}
        caches: Json = {"sync_response_cache_duration": "2m"}
        if cache_factor is not None:
            caches["global_factor"] = cache_factor
        self.settings = Settings(
            state=state,
            ports=ports,
            with_chappe=with_chappe,
            chappe_options={"transport": transport} if transport else {},
            # With presence every listener's coming would be news to every other one: a different measurement.
            synapse_extra={"presence": {"enabled": False}, "caches": caches, **(synapse_extra or {})},
            chappe_env=chappe_env or {},
        )
        if chappe_binary is not None:
            self.settings.chappe_binary = chappe_binary.resolve()
        self.deployment = Deployment(self.settings)
        self._population: Json = {}
        self.settings.check_ports()
        if install:
            install_packages(["stack", "build"])
        self.deployment.prepare(install=False, build=chappe_binary is None)
        self._count_statements()

    # -- servers ---------------------------------------------------------------------------------

    def _count_statements(self) -> None:
        """Load pg_stat_statements, and give both workers a database user of their own."""
        postgres, synapse = self.deployment.postgres, self.deployment.synapse
        for setting in ("shared_preload_libraries=pg_stat_statements", "pg_stat_statements.track_utility=off"):
            postgres.process.argv += ["-c", setting]
        make_database: Callable[[], None] = postgres.ensure_database

        def make_database_and_roles() -> None:
            make_database()
            self._make_roles()

        postgres.ensure_database = make_database_and_roles  # type: ignore[method-assign]
        for name, target in (("worker1", "synapse"), ("chappe", "chappe")):
            path = synapse.folder / f"{name}.yaml"
            if target == "chappe" and not self.settings.with_chappe:
                continue
            config = json.loads(path.read_text())
            config["database"] = {"name": "psycopg2", "args": {**postgres.arguments(), "user": ROLES[target]}}
            config |= self._worker_extra.get(target, {})
            path.write_text(json.dumps(config, indent=2) + "\n")

    def _make_roles(self) -> None:
        postgres = self.deployment.postgres
        existing = postgres.psql("SELECT rolname FROM pg_roles").split()
        for role in ROLES.values():
            if role not in existing:
                # The password is the cluster's own, URL-safe characters only.
                postgres.psql(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{postgres.password}'")
        postgres.psql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    def start(self) -> None:
        """Start every server."""
        say(f"starting in {self.settings.state}")
        self.deployment.start(say)

    def stop(self) -> None:
        """Stop every server."""
        self.deployment.stop()

    def process(self, target: str) -> Process:
        """Return the process that is measured."""
        if target == "synapse":
            return self.deployment.synapse.worker
        if self.deployment.chappe is None:
            raise StackError("this deployment was prepared without Chappe")
        return self.deployment.chappe.process

    def port(self, target: str) -> int:
        """Return where the target serves /sync."""
        return int(self.settings.ports.worker if target == "synapse" else self.settings.ports.chappe)

    def only(self, target: str) -> Process:
        """Run the target, new, and nothing else that serves /sync."""
        for name in ROLES if self.settings.with_chappe else ["synapse"]:
            self.process(name).stop()
        process = self.process(target)
        process.start()
        process.wait_ready()
        return process

    # -- users and room --------------------------------------------------------------------------

    @property
    def _population_file(self) -> Path:
        return self.settings.state / "population.json"

    def _save(self) -> None:
        path = self._population_file
        fresh = path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(self._population))
        fresh.replace(path)

    def populate(self, listeners: int) -> None:
        """Make what is missing of: the sender, the room, the samplers and the listeners."""
        if self._population_file.exists():
            self._population = json.loads(self._population_file.read_text())
        url = f"http://127.0.0.1:{self.settings.ports.synapse}"
        if not self._population:
            sender = self.register(Link(url), "sender")
            room = Client(url, "", sender).create_room(name="Bench", preset="public_chat")
            self._population = {"sender": sender, "room": room, "tokens": []}
            self._save()
        tokens: list[str] = self._population["tokens"]
        wanted = listeners + SAMPLERS * len(SERIES)
        begun = time.monotonic()
        while len(tokens) < wanted:
            names = [f"listener{i}" for i in range(len(tokens), min(len(tokens) + 100, wanted))]
            tokens += self._join_all(url, names)
            self._save()
            say(f"{len(tokens)} of {wanted} members ({time.monotonic() - begun:.0f} s)")

    def _join_all(self, url: str, names: list[str]) -> list[str]:
        link = Link(url)

        def join(name: str) -> str:
            token = self.register(link, name)
            reply = link.request("POST", f"/_matrix/client/v3/join/{quote(self.room)}", {}, token)
            if reply.status != 200:
                raise MatrixError("POST", "/join", reply.status, reply.body)
            return token

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            return list(pool.map(join, names))

    def register(self, link: Link, name: str) -> str:
        """Register a user (or log in again after a preparation that was cut off); return the access token."""
        path = "/_synapse/admin/v1/register"
        secret = self.deployment.synapse.secrets["registration"].encode()
        password = hmac.new(secret, name.encode(), hashlib.sha256).hexdigest()
        nonce = link.request("GET", path).body["nonce"]
        mac = hmac.new(secret, "\0".join([nonce, name, password, "notadmin"]).encode(), hashlib.sha1).hexdigest()
        body = {"nonce": nonce, "username": name, "password": password, "admin": False, "mac": mac}
        reply = link.request("POST", path, body)
        if reply.status == 400 and reply.body.get("errcode") == "M_USER_IN_USE":
            who = {"type": "m.id.user", "user": name}
            login = {"type": "m.login.password", "identifier": who, "password": password}
            reply = link.request("POST", "/_matrix/client/v3/login", login)
        if reply.status != 200:
            raise MatrixError("POST", path, reply.status, reply.body)
        return str(reply.body["access_token"])

    @property
    def room(self) -> str:
        """The room that everybody is in."""
        return str(self._population["room"])

    @property
    def sender(self) -> str:
        """The sender's access token."""
        return str(self._population["sender"])

    def token_files(self, listeners: int) -> dict[str, Path]:
        """Write the access tokens of the sender, of each series and of the listeners; return the files."""
        tokens: list[str] = self._population["tokens"]
        lines_of = {"sender": [self._population["sender"]]}
        for index, series in enumerate(SERIES):
            lines_of[series] = tokens[index * SAMPLERS : (index + 1) * SAMPLERS]
        first = len(SERIES) * SAMPLERS
        lines_of["listeners"] = tokens[first : first + listeners]
        files = {}
        for name, lines in lines_of.items():
            files[name] = self.settings.state / f"tokens-{name}"
            files[name].touch(mode=0o600)
            files[name].write_text("".join(token + "\n" for token in lines))
        return files

    def members(self) -> int:
        """Return how many members the room has."""
        query = f"SELECT joined_members FROM room_stats_current WHERE room_id = '{self.room}'"
        return int(self.deployment.postgres.psql(query).strip() or 0)

    # -- for the report --------------------------------------------------------------------------

    def describe(self, with_room: bool = True) -> list[str]:
        """Return lines about machine and versions, and about the large room."""
        model = next(
            (line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?"
        )
        memory = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal"))
        commit = _output(["git", "-C", str(CHECKOUT), "rev-parse", "--short=12", "HEAD"])
        changed = _output(["git", "-C", str(CHECKOUT), "status", "--porcelain", "--", "src", "include", "CMakeLists.txt"])
        lines = [
            f"machine   {os.cpu_count()} CPUs ({model}), {memory / 2**20:.0f} GiB, Linux {os.uname().release}, loopback",
            f"commit    {commit or '?'}{' with uncommitted changes' if changed else ''}",
            f"versions  Synapse {read_versions()['SYNAPSE_VERSION']}, "
            + f"PostgreSQL {self.deployment.postgres.psql('SHOW server_version').split()[0]}",
        ]
        if with_room:
            query = f"SELECT room_version FROM rooms WHERE room_id = '{self.room}'"
            lines.append(f"room      {self.members()} members, version {self.deployment.postgres.psql(query).strip()}")
        if self.settings.with_chappe:
            lines.append("chappe    " + (_output([str(self.settings.chappe_binary), "--version"]) or "?").split("\n")[0])
        return lines


def _output(argv: list[str]) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20).stdout.strip()
    except OSError:
        return ""


def new_run_name() -> str:
    """Return a name that no other run's messages carry."""
    return secrets.token_hex(5)
