# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""All servers of one state folder: started together, watched, stopped in order.

Start order: PostgreSQL and Redis, then everything else at once. Only when the Synapse version or the
list of event writers differs from the last start does Synapse's main process go first: it creates
or upgrades tables then, and removes positions of former writers, which may not be done twice at once.
"""

from __future__ import annotations

import fcntl
import json
import secrets
import shutil
import time
from pathlib import Path
from typing import IO, Callable

from stack.chappe import Chappe
from stack.errors import StackError
from stack.federation import REMOTE_DATABASE, Remote, federation_options
from stack.install import build_chappe, install_packages, synapse_environment
from stack.matrix import Admin
from stack.nginx import Nginx
from stack.postgres import Postgres
from stack.process import Process
from stack.redis import Redis
from stack.settings import Settings
from stack.synapse import Synapse
from stack.versions import release_key

_SECRETS = ("database", "redis", "replication", "registration", "macaroon", "form", "demo")


class Deployment:
    """The servers of one state folder."""

    postgres: Postgres
    redis: Redis
    synapse: Synapse
    nginx: Nginx
    chappe: Chappe | None
    _configure: Callable[[], None]

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock: IO[str] | None = None
        self._started: list[Process] = []

    # -- preparation -----------------------------------------------------------------------------

    def prepare(self, *, install: bool = True, build: bool = True) -> None:
        """Install, build, write every configuration file; starts nothing."""
        settings = self.settings
        if install:
            install_packages(["stack", "build"] if settings.with_chappe and build else ["stack"])
        self._make_state()
        logs = settings.logs
        venv = synapse_environment(logs / "pip.log", settings.synapse_version)
        if settings.with_chappe and build:
            build_chappe(logs / "build.log")
        if settings.with_chappe and not settings.chappe_binary.exists():
            raise StackError(f"There is no Chappe at {settings.chappe_binary}.")
        secret = self._secrets()
        self.postgres = Postgres(settings, secret["database"])
        self.redis = Redis(settings, secret["redis"])
        self._configure = lambda: self._make_servers(venv, secret)
        self._configure()
        self.remote = Remote(settings, venv, self.postgres, secret) if settings.federation else None
        self.nginx = Nginx(settings)
        self.demo_password = secret["demo"]
        self.admin = Admin(settings.ports.synapse, secret["registration"], settings.server_name)

    def _make_servers(self, venv: Path, secret: dict[str, str]) -> None:
        """Write the configuration files of Synapse and of Chappe."""
        settings = self.settings
        federation = federation_options(settings) if settings.federation else None
        self.synapse = Synapse(settings, venv, self.postgres, self.redis, secret, federation)
        self.chappe = Chappe(settings, self.synapse) if settings.with_chappe else None

    def _make_state(self) -> None:
        state = self.settings.state
        try:
            state.mkdir(parents=True, exist_ok=True)
            self._lock = open(state / "lock", "w")
        except OSError as error:
            raise StackError(f"The state folder {state} cannot be used: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StackError(f"Another deployment is running in {state}; choose another folder with --state.") from error
        if self.settings.fresh:
            self._forget()
        self.settings.logs.mkdir(exist_ok=True)
        self._keep_last_logs()

    def _forget(self) -> None:
        """Remove what earlier runs left, but the lock."""
        for left in self.settings.state.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != "lock":
                left.unlink()

    def _keep_last_logs(self) -> None:
        """Set the last run's logs aside, so that this run's show only this run."""
        previous = self.settings.logs / "previous"
        previous.mkdir(exist_ok=True)
        for log in self.settings.logs.iterdir():
            if log.is_file():
                log.replace(previous / log.name)

    def _secrets(self) -> dict[str, str]:
        path = self.settings.state / "secrets.json"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(json.dumps({name: secrets.token_urlsafe(18) for name in _SECRETS}, indent=2))
        return dict(json.loads(path.read_text()))

    # -- running ---------------------------------------------------------------------------------

    @property
    def processes(self) -> list[Process]:
        """Every process, in the order in which they may start."""
        rest = [self.chappe.process] if self.chappe else []
        rest += [self.remote.process] if self.remote else []
        return [self.postgres.process, self.redis.process, *self.synapse.processes, *rest, self.nginx.process]

    def start(self, say: Callable[[str], None] = lambda text: None) -> None:
        """Start everything and return when everything answers; stops it all when a step fails."""
        try:
            self.settings.check_ports()
            self._start(say)
        except BaseException:
            self.stop()
            raise

    def _start(self, say: Callable[[str], None]) -> None:
        stamp = self.settings.state / "schema-created"
        shape = self._shape(stamp)
        self._launch(self.redis.process)
        self.postgres.prepare()
        self._launch(self.postgres.process)
        self._await([self.postgres.process, self.redis.process], say)
        self.postgres.ensure_database()
        if self.remote:
            self.postgres.ensure_database(REMOTE_DATABASE)
        first = not stamp.exists() or stamp.read_text() != shape
        self._launch(self.synapse.main)
        if first:
            say("first start of this kind: Synapse prepares its tables")
            self._await([self.synapse.main], say)
            stamp.write_text(shape)
        rest = [process for process in self.processes if process not in self._started]
        for process in rest:
            self._launch(process)
        self._await(rest if first else [self.synapse.main, *rest], say)

    def reconfigure(self, synapse_extra: dict[str, object]) -> None:
        """Restart Synapse's processes and Chappe with other settings; the stores and nginx stay up."""
        old = self._homeserver()
        for process in old:
            process.ask_to_stop()
        for process in old:
            process.await_stop()
        self._started = [process for process in self._started if process not in old]
        self.settings.synapse_extra = synapse_extra
        self._configure()
        new = self._homeserver()
        for process in new:
            self._launch(process)
        self._await(new, lambda text: None)

    def _homeserver(self) -> list[Process]:
        """Return what reads the homeserver's settings: Synapse's processes and Chappe."""
        return [*self.synapse.processes, *([self.chappe.process] if self.chappe else [])]

    def _shape(self, stamp: Path) -> str:
        """Return what the database is prepared for; refuse one that a newer Synapse has upgraded."""
        settings = self.settings
        last = stamp.read_text().split()[0] if stamp.exists() else "0"
        if release_key(last) > release_key(settings.synapse_version):
            raise StackError(
                f"{settings.state} was last used by Synapse {last}, whose tables {settings.synapse_version} may not "
                "know.\n  Choose another folder with --state, or delete this one."
            )
        split = " split" if settings.split_writers else ""
        return f"{settings.synapse_version} persisters={settings.event_persisters}{split}"

    def _launch(self, process: Process) -> None:
        self._started.append(process)
        process.start()

    def _await(self, processes: list[Process], say: Callable[[str], None]) -> None:
        """Poll several processes until each is ready, reporting each as it comes up."""
        begun = time.monotonic()
        waiting = list(processes)
        while waiting:
            for process in list(waiting):
                if process.poll_ready():
                    waiting.remove(process)
                    say(f"{process.name} is up ({time.monotonic() - begun:.1f} s)")
                elif time.monotonic() - begun > process.ready_seconds:
                    raise StackError(process.failure(f"was not ready after {process.ready_seconds:.0f} s"))
            time.sleep(0.05)

    def check_running(self) -> None:
        """Raise when a process ended that should be running."""
        for process in self._started:
            if not process.running:
                raise StackError(process.failure(f"ended unexpectedly with status {process.exit_status}"))

    def stop(self) -> None:
        """Stop everything that was started: the front first, the database last."""
        store = [self.redis.process, self.postgres.process] if self._started else []
        others = [process for process in reversed(self._started) if process not in store]
        for group in (others, [process for process in store if process in self._started]):
            for process in group:
                process.ask_to_stop()
            for process in group:
                process.await_stop()
        self._started.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None
