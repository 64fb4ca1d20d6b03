# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""What a deployment looks like: ports, folders, switches."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

from stack.errors import StackError
from stack.versions import CHECKOUT, read_versions, synapse_release
from stack.writers import WRITERS

DEFAULT_PORT_BASE = 15500
SERVER_NAME = "chappe.localhost"


@dataclasses.dataclass(frozen=True)
class Ports:
    """Every port of a deployment, as offsets from one base."""

    base: int = DEFAULT_PORT_BASE

    nginx = property(lambda self: self.base)
    postgres = property(lambda self: self.base + 1)
    redis = property(lambda self: self.base + 2)
    synapse = property(lambda self: self.base + 3)
    synapse_replication = property(lambda self: self.base + 4)
    worker = property(lambda self: self.base + 5)
    chappe = property(lambda self: self.base + 6)
    chappe_metrics = property(lambda self: self.base + 7)
    persister1 = property(lambda self: self.base + 8)
    persister2 = property(lambda self: self.base + 9)
    synapse_metrics = property(lambda self: self.base + 10)
    worker_metrics = property(lambda self: self.base + 11)
    # With split writers only.
    writer1 = property(lambda self: self.base + 12)
    writer2 = property(lambda self: self.base + 13)
    writes = property(lambda self: self.base + 14)
    # A second Chappe, for the oracle's token interchange.
    chappe2 = property(lambda self: self.base + 15)
    # With federation only.
    federation = property(lambda self: self.base + 16)
    remote = property(lambda self: self.base + 17)
    remote_federation = property(lambda self: self.base + 18)
    puppet = property(lambda self: self.base + 19)


def default_state(release: str | None = None) -> Path:
    """Return the default state folder of a Synapse release; tables that a newer one has upgraded do not go back.

    The database server refuses to run as root and needs to reach its files as another user, so root
    gets a folder outside its closed home.
    """
    name = "chappe-local"
    if release and release != read_versions()["SYNAPSE_VERSION"]:
        name += f"-{release}"
    if os.getuid() == 0 and "XDG_STATE_HOME" not in os.environ:
        return Path("/var/lib") / name
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / name


def cache_folder() -> Path:
    """Return the folder of downloads that outlive a state folder (virtual environments)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chappe"


@dataclasses.dataclass
class Settings:
    """One deployment."""

    state: Path
    ports: Ports = dataclasses.field(default_factory=Ports)
    fresh: bool = False  # nothing of an earlier run in the state folder is kept
    with_chappe: bool = True
    synapse_version: str = dataclasses.field(default_factory=synapse_release)
    event_persisters: int = 0
    split_writers: bool = False  # every stream that Synapse lets be moved has writers apart from main
    federation: bool = False  # with a second homeserver; the state folder must be made so
    chappe_binary: Path = CHECKOUT / "build" / "release" / "chappe"
    chappe_options: dict[str, object] = dataclasses.field(default_factory=dict)
    chappe_env: dict[str, str] = dataclasses.field(default_factory=dict)
    sync_cache: str = "2m"
    synapse_extra: dict[str, object] = dataclasses.field(default_factory=dict)
    synapse_log_level: str = "INFO"

    @property
    def logs(self) -> Path:
        """Folder of every server's log."""
        return self.state / "logs"

    @property
    def server_name(self) -> str:
        """The homeserver's name; see stack/federation.py for why it is an address with federation."""
        return f"127.0.0.1:{self.ports.federation}" if self.federation else SERVER_NAME

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.ports.nginx}"

    @property
    def writer_ports(self) -> dict[str, int]:
        """The ports of the stream writers, by instance name."""
        return dict(zip(WRITERS, (self.ports.writer1, self.ports.writer2))) if self.split_writers else {}

    def used_ports(self) -> dict[str, int]:
        """Return the ports that this deployment will listen on, by what listens."""
        ports = self.ports
        used = {
            "nginx": ports.nginx,
            "PostgreSQL": ports.postgres,
            "Redis": ports.redis,
            "Synapse": ports.synapse,
            "Synapse's replication": ports.synapse_replication,
            "Synapse's metrics": ports.synapse_metrics,
            "the Synapse worker": ports.worker,
            "the Synapse worker's metrics": ports.worker_metrics,
        }
        if self.with_chappe:
            used["Chappe"] = ports.chappe
            used["Chappe's metrics"] = ports.chappe_metrics
        if self.federation:
            used["Synapse's federation"] = ports.federation
            used["the second homeserver"] = ports.remote
            used["the second homeserver's federation"] = ports.remote_federation
        if self.split_writers:
            used |= {f"the writer {name}": port for name, port in self.writer_ports.items()}
            used["nginx's front for writes"] = ports.writes
        for index in range(self.event_persisters):
            used[f"event persister {index + 1}"] = (ports.persister1, ports.persister2)[index]
        return used

    def check_ports(self) -> None:
        """Raise when a port is taken, naming it and the way out."""
        taken = []
        for name, port in self.used_ports().items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    taken.append(f"port {port} (for {name}) is taken")
        if taken:
            raise StackError(
                "; ".join(taken) + ".\n  Stop what listens there, or choose other ports with --port-base N."
            )
