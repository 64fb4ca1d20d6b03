# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Reads deploy/local/versions, where every version that is not Debian's is pinned."""

from __future__ import annotations

import os
import re
from pathlib import Path

from stack.errors import StackError

LOCAL = Path(__file__).resolve().parent.parent
CHECKOUT = LOCAL.parent.parent


def release_key(version: str) -> tuple[int, ...]:
    """Return what releases are ordered by."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def read_versions(path: Path = LOCAL / "versions", release: str | None = None) -> dict[str, str]:
    """Return the KEY=VALUE lines of the versions file as they hold for a Synapse release (the default one)."""
    values: dict[str, str] = {}
    since: list[tuple[tuple[int, ...], str, str]] = []
    for line in path.read_text().splitlines():
        line = line.strip()
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            name, _, first = key.strip().partition("@")
            if first:
                since.append((release_key(first), name, value.strip()))
            else:
                values[name] = value.strip()
    values["SYNAPSE_VERSION"] = release or values["SYNAPSE_VERSION"]
    for first_release, name, value in sorted(since):
        if release_key(values["SYNAPSE_VERSION"]) >= first_release:
            values[name] = value
    return values


def tested_releases() -> list[str]:
    """Return the releases that the oracle runs on, newest first."""
    return read_versions()["SYNAPSE_TESTED"].split()


def synapse_release(wanted: str | None = None) -> str:
    """Return the Synapse release to use: the one wanted, or CHAPPE_TEST_SYNAPSE, or the default."""
    release = wanted or os.environ.get("CHAPPE_TEST_SYNAPSE") or read_versions()["SYNAPSE_VERSION"]
    if not re.fullmatch(r"\d+\.\d+\.\d+(rc\d+)?", release):
        raise StackError(f"{release!r} is no Synapse release; write it as in 1.147.1.")
    return release
