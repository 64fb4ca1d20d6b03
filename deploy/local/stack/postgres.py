# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A private PostgreSQL cluster under the state folder.

The server refuses to run as root, so root runs it (and initdb) as the package's own user. The
cluster is in the C locale and UTF-8, which is what Synapse demands.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from stack.errors import StackError
from stack.process import Process, run
from stack.settings import Settings

USER = "synapse"
DATABASE = "synapse"


def _program(name: str) -> str:
    """Find a server program; Debian keeps them off the PATH, one folder a version."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    for folder in reversed(folders):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        raise StackError(f"PostgreSQL's {name} was not found in /usr/lib/postgresql or on the PATH.")
    return found


class Postgres:
    """Makes the cluster once and describes the server process."""

    def __init__(self, settings: Settings, password: str) -> None:
        self.settings = settings
        self.password = password
        self.data = settings.state / "postgres"
        self.user = "postgres" if os.getuid() == 0 else None
        self.process = Process(
            "PostgreSQL",
            [
                _program("postgres"),
                *("-D", str(self.data)),
                *("-c", f"port={settings.ports.postgres}"),
                *("-c", "listen_addresses=127.0.0.1"),
                *("-c", "unix_socket_directories="),
                # Durability is not what this cluster is for; being up quickly is.
                *("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"),
                *("-c", "max_connections=200", "-c", "shared_buffers=128MB"),
                *("-c", "jit=off", "-c", "autovacuum_naptime=30s"),
            ],
            settings.logs / "postgres.log",
            ready=self._answers,
            user=self.user,
            stop_signal=signal.SIGINT,
            cwd=Path("/"),
        )

    def _answers(self) -> bool:
        return subprocess.run(
            [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.settings.ports.postgres)], check=False
        ).returncode == 0

    def prepare(self) -> None:
        """Make the cluster when there is none (or half of one)."""
        if (self.data / "chappe-complete").exists():
            return
        self._check_reachable()
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(mode=0o700)
        password_file = self.settings.state / "postgres-password"
        password_file.write_text(self.password + "\n")
        if self.user:
            shutil.chown(self.data, self.user, self.user)
            shutil.chown(password_file, self.user, self.user)
        try:
            run(
                [
                    *(_program("initdb"), "-D", str(self.data), "-U", USER, "--encoding=UTF8", "--locale=C"),
                    *("--auth=scram-sha-256", f"--pwfile={password_file}", "--no-sync"),
                ],
                "initdb",
                self.settings.logs / "initdb.log",
                user=self.user,
                cwd=Path("/"),
            )
        finally:
            password_file.unlink()
        (self.data / "chappe-complete").touch()

    def _check_reachable(self) -> None:
        """Refuse a state folder that the database's user cannot enter, and say so."""
        if self.user is None:
            return
        for folder in [self.settings.state, *self.settings.state.parents]:
            if not folder.stat().st_mode & 0o001:
                raise StackError(
                    f"PostgreSQL does not run as root, and its user {self.user} cannot enter {folder}.\n"
                    "  Choose another folder with --state, or run as an ordinary user."
                )

    def ensure_database(self, name: str = DATABASE) -> None:
        """Create a homeserver's database at the first start."""
        stamp = self.settings.state / ("database-created" if name == DATABASE else f"database-{name}-created")
        if stamp.exists():
            return
        listed = self.psql(f"SELECT count(*) FROM pg_database WHERE datname = '{name}'", "postgres")
        if listed.strip() == "0":
            self.psql(f"CREATE DATABASE {name}", "postgres")
        stamp.touch()

    def psql(self, statement: str, database: str = DATABASE) -> str:
        """Run one statement and return its output, tab separated, without headers."""
        done = subprocess.run(
            [
                *("psql", "-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1"),
                *("-h", "127.0.0.1", "-p", str(self.settings.ports.postgres)),
                *("-U", USER, "-d", database, "-c", statement),
            ],
            env={**os.environ, "PGPASSWORD": self.password},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StackError(f"psql failed: {done.stderr.strip()}")
        return done.stdout

    def arguments(self, database: str = DATABASE) -> dict[str, object]:
        """Return the `database.args` of Synapse's configuration."""
        return {
            "user": USER,
            "password": self.password,
            "dbname": database,
            "host": "127.0.0.1",
            "port": self.settings.ports.postgres,
            "cp_min": 2,
            "cp_max": 8,
        }


def port_answers(port: int) -> bool:
    """Tell whether something accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
