# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""One running deployment for tests, and users and devices made on it.

The environment chooses what is tested, so that every test can be tried against Synapse itself:

    CHAPPE_TEST_TARGET      chappe (default), or synapse: the Synapse worker answers in its place
    CHAPPE_TEST_BINARY      another chappe, for example one with sanitizers
    CHAPPE_TEST_TRANSPORT   uring or uv, given to Chappe as its transport option
    CHAPPE_TEST_SHORTCUTS   check: Chappe computes what it answers by a shortcut the long way too (check_shortcuts)
    CHAPPE_TEST_SYNAPSE     the Synapse release (default: the first of deploy/local/versions)
    CHAPPE_TEST_PORT_BASE   first of twenty ports (default 15540)
    CHAPPE_TEST_STATE       folder of state folders (default: chappe-tests beside the stack's own)
"""

from __future__ import annotations

import itertools
import os
import secrets
from pathlib import Path
from typing import Any

from stack.deployment import Deployment
from stack.matrix import Client
from stack.settings import Ports, Settings, default_state
from stack.versions import release_key, synapse_release

TARGET = os.environ.get("CHAPPE_TEST_TARGET", "chappe")
PASSWORD = "correct horse"


def settings_for(name: str, *, offset: int = 0, **changes: Any) -> Settings:
    """Return the settings of a test deployment: no response cache, quiet demo, own ports."""
    folder = Path(os.environ.get("CHAPPE_TEST_STATE") or default_state().parent / "chappe-tests")
    settings = Settings(
        # Tables that a newer release has upgraded do not go back.
        state=(folder / f"{name}-{synapse_release()}").resolve(),
        ports=Ports(int(os.environ.get("CHAPPE_TEST_PORT_BASE", "15540")) + offset),
        with_chappe=TARGET == "chappe",
        sync_cache="0s",
        **changes,
    )
    if "CHAPPE_TEST_BINARY" in os.environ:
        settings.chappe_binary = Path(os.environ["CHAPPE_TEST_BINARY"]).resolve()
    if "CHAPPE_TEST_TRANSPORT" in os.environ:
        settings.chappe_options.setdefault("transport", os.environ["CHAPPE_TEST_TRANSPORT"])
    if os.environ.get("CHAPPE_TEST_SHORTCUTS") == "check":
        settings.chappe_options["check_shortcuts"] = True
    return settings


def federated_settings(*, offset: int = 0, **changes: Any) -> Settings:
    """Return the settings of a deployment with a second homeserver; server names hold ports, hence the name."""
    settings = settings_for("federated", offset=offset, federation=True, **changes)
    settings.state = settings.state.with_name(f"federated-{settings.ports.base}")
    return settings


class World:
    """A running deployment with helpers that make users and devices."""

    _numbers = itertools.count(1)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.deployment = Deployment(settings)
        self._usual = dict(settings.synapse_extra)
        self._applied: dict[str, object] | None = self._usual
        # Users of one run never meet those of another run on the same state folder.
        self._run = secrets.token_hex(3)

    def start(self) -> "World":
        """Prepare and start; installation and building are tests/run's part."""
        self.deployment.prepare(install=False, build=False)
        self.deployment.start()
        return self

    def apply(self, synapse_extra: dict[str, object], again: bool = False) -> None:
        """Let the homeserver run with these settings beside the usual ones; restarts it where they differ.

        Each setting replaces the deployment's whole top-level setting of that name. The database stays.
        `again` restarts in any case: nobody remembers anything then.
        """
        wanted = {**self._usual, **synapse_extra}
        if wanted == self._applied and not again:
            return
        self._applied = None  # until it works
        old = self.deployment.chappe
        self.deployment.reconfigure(wanted)
        self._applied = wanted
        if old is not None and old.process.exit_status != 0:  # a sanitizer's findings at the end
            raise AssertionError(old.process.failure(f"stopped with status {old.process.exit_status}"))

    def stop(self) -> None:
        """Stop every server."""
        self.deployment.stop()

    # -- addresses -------------------------------------------------------------------------------

    @property
    def front(self) -> str:
        """nginx, where clients connect."""
        return self.settings.url

    @property
    def main(self) -> str:
        """Synapse's main process; with split writers behind a front that knows what their requests are."""
        ports = self.settings.ports
        return f"http://127.0.0.1:{ports.writes if self.settings.split_writers else ports.synapse}"

    @property
    def writers(self) -> list[str]:
        """The workers that write streams, with split writers."""
        return [f"http://127.0.0.1:{port}" for port in self.settings.writer_ports.values()]

    @property
    def worker(self) -> str:
        """The Synapse worker."""
        return f"http://127.0.0.1:{self.settings.ports.worker}"

    @property
    def target(self) -> str:
        """The server under test: Chappe, or the Synapse worker in its place."""
        return f"http://127.0.0.1:{self.settings.ports.chappe}" if self.settings.with_chappe else self.worker

    def synapse_from(self, release: str) -> bool:
        """Tell whether this Synapse is of the release, as in "1.163", or newer."""
        return release_key(self.settings.synapse_version) >= release_key(release)

    # -- users -----------------------------------------------------------------------------------

    def new_user(self, name: str, admin: bool = False) -> str:
        """Register a user whose name begins with `name` and return the user id."""
        return self.deployment.admin.register(self.unique(name), PASSWORD, admin=admin)

    def unique(self, name: str) -> str:
        """Return a name that nobody has had on this state folder."""
        return f"{name}-{self._run}-{next(self._numbers)}"

    def device(self, user_id: str, device_id: str = "D1", url: str | None = None, **extra: Any) -> Client:
        """Log a device of a user in; its requests go through nginx unless an address is given."""
        client = Client.login(url or self.front, user_id, PASSWORD, device_id, **extra)
        return client

    def new_device(self, name: str, device_id: str = "D1", admin: bool = False) -> Client:
        """Register a user and log one device in."""
        return self.device(self.new_user(name, admin), device_id)

    def logs(self) -> dict[str, str]:
        """Return the ends of all servers' logs, for failure reports."""
        ends: dict[str, str] = {}
        for path in sorted(self.settings.logs.glob("*.*")):
            if path.name not in ("nginx-access.log", "pip.log", "build.log"):
                text = path.read_text(errors="replace")
                ends[path.name] = text[-(6000 if path.name.startswith("chappe") else 1200) :]
        return ends
