# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Reads deploy/local/versions, where every version that is not Debian's is pinned."""

from __future__ import annotations

from pathlib import Path

LOCAL = Path(__file__).resolve().parent.parent
CHECKOUT = LOCAL.parent.parent


def read_versions(path: Path = LOCAL / "versions") -> dict[str, str]:
    """Return the KEY=VALUE lines of the versions file."""
    values: dict[str, str] = {}
    for line in path.read_text().splitlines():
        line = line.strip()
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            values[key.strip()] = value.strip()
    return values
