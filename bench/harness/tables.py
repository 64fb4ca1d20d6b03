# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Rows in bulk: COPY into the homeserver's tables, many rows at once."""

from __future__ import annotations

import os
import subprocess
import tempfile
from typing import Iterable, Sequence

from stack.errors import StackError
from stack.postgres import DATABASE, USER, Postgres

Value = str | int | bool | None


def _cell(value: Value) -> str:
    if value is None:
        return "\\N"
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, int):
        return str(value)
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


class Bulk:
    """Collects rows of several tables; writes them in one transaction, in the order of the tables' first rows."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, str], list[str]] = {}

    def add(self, table: str, columns: str, rows: Iterable[Sequence[Value]]) -> None:
        """Add rows; columns as COPY wants them."""
        lines = self._tables.setdefault((table, columns), [])
        lines.extend("\t".join(map(_cell, row)) for row in rows)

    def write(self, postgres: Postgres, after: str = "") -> None:
        """Write what was collected, and run some statements in the same transaction."""
        with tempfile.TemporaryFile("w+", encoding="utf-8") as script:
            script.write("BEGIN;\n")
            for (table, columns), lines in self._tables.items():
                script.write(f"COPY {table} ({columns}) FROM STDIN;\n")
                script.writelines(line + "\n" for line in lines)
                script.write("\\.\n")
            script.write(f"{after};\nCOMMIT;\n" if after else "COMMIT;\n")
            script.seek(0)
            argv = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", USER, "-d", DATABASE]
            argv += ["-p", str(postgres.settings.ports.postgres)]
            env = {**os.environ, "PGPASSWORD": postgres.password}
            done = subprocess.run(argv, stdin=script, env=env, capture_output=True, text=True, check=False)
        if done.returncode or "ERROR" in done.stderr:
            raise StackError(f"rows could not be written: {done.stderr.strip()[:500]}")
        self._tables.clear()
