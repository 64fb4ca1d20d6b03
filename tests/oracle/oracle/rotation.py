# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Keeps Synapse from summing up push actions while counts are compared.

Every 30 seconds Synapse adds what is unread to event_push_summary. Its workers are not told, so that counts which they
remember and counts which they read afresh disagree until the room's next event (quirks.py). While the row that says how
far the sum goes is locked, the sum is not committed; nobody else writes it, and readers do not mind.
"""

from __future__ import annotations

import os
import subprocess
from types import TracebackType

from stack.postgres import DATABASE, USER
from support.world import World

_LOCK = "BEGIN; SELECT 'locked' FROM event_push_summary_stream_ordering FOR UPDATE;\n"


class Held:
    """A block in which push actions are not summed up."""

    def __init__(self, world: World) -> None:
        self._postgres = world.deployment.postgres
        self._session: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Held":
        postgres = self._postgres
        self._session = subprocess.Popen(
            [
                *("psql", "-X", "-q", "-A", "-t", "-h", "127.0.0.1", "-p", str(postgres.settings.ports.postgres)),
                *("-U", USER, "-d", DATABASE),
            ],
            env={**os.environ, "PGPASSWORD": postgres.password},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._session.stdin is not None and self._session.stdout is not None
        self._session.stdin.write(_LOCK)
        self._session.stdin.flush()
        assert self._session.stdout.readline().strip() == "locked", "the row of the rotation could not be locked"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._session is not None
        self._session.communicate()
