# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Brings what is missing: Debian packages, Synapse from PyPI, Chappe from this checkout."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Iterable

from stack.errors import StackError
from stack.process import run, tail
from stack.settings import cache_folder
from stack.versions import CHECKOUT, LOCAL, read_versions, synapse_release


def say(text: str) -> None:
    """Print a progress line."""
    print(f"· {text}", flush=True)


def read_packages(sections: Iterable[str], path: Path = LOCAL / "packages.txt") -> list[tuple[str, str | None]]:
    """Return (package, command or None) of the named sections of packages.txt."""
    wanted = set(sections)
    current = ""
    found: list[tuple[str, str | None]] = []
    for line in path.read_text().splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            current = line.strip("[]")
        elif current in wanted:
            package, _, command = line.partition(":")
            found.append((package, command or None))
    return found


def missing_packages(sections: Iterable[str]) -> list[str]:
    """Return the packages of the sections that this machine lacks."""
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    installed = {line.split()[0] for line in listed if line.endswith(" installed")}
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [
        package
        for package, command in read_packages(sections)
        if package not in installed and not (command and shutil.which(command, path=path))
    ]


def install_packages(sections: Iterable[str]) -> None:
    """Install missing Debian packages with apt-get, as root or through sudo."""
    if shutil.which("dpkg-query") is None:
        say("not a Debian system: packages are not checked (deploy/local/packages.txt lists them)")
        return
    missing = missing_packages(sections)
    if not missing:
        return
    say("installing Debian packages: " + " ".join(missing))
    prefix = [] if os.getuid() == 0 else ["sudo"]
    if prefix and shutil.which("sudo") is None:
        raise StackError("These Debian packages are missing, install them as root:\n  apt-get install " + " ".join(missing))
    log = cache_folder() / "apt.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # The distribution's packages start their servers on installation; nothing here wants those.
    with _no_service_start(prefix), open(log, "ab") as out:
        for argv in (
            ["apt-get", "update", "-q"],
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing],
        ):
            if subprocess.run([*prefix, *argv], stdout=out, stderr=subprocess.STDOUT, env=env, check=False).returncode:
                raise StackError(f"{' '.join(argv)} failed.\n  Last lines of {log}:\n{tail(log)}")


class _no_service_start:
    """Keep package scripts from starting system services, where we are free to say so (as root)."""

    PATH = Path("/usr/sbin/policy-rc.d")

    def __init__(self, prefix: list[str]) -> None:
        self._ours = not prefix and not self.PATH.exists()

    def __enter__(self) -> None:
        if self._ours:
            self.PATH.write_text("#!/bin/sh\nexit 101\n")
            self.PATH.chmod(0o755)

    def __exit__(self, *_: object) -> None:
        if self._ours:
            self.PATH.unlink(missing_ok=True)


def virtual_environment(name: str, requirements: list[str], log: Path, constraints: Path | None = None) -> Path:
    """Return a virtual environment with the requirements, made at the first call and kept.

    Its folder carries a digest of the requirements, so a changed pin makes a new one; a half-made
    one has no stamp and is made anew. A lock keeps two runs from building the same one.
    """
    pins = constraints.read_text() if constraints else ""
    digest = hashlib.sha256("\n".join([sys.version, pins, *requirements]).encode()).hexdigest()[:10]
    folder = cache_folder() / f"{name}-{digest}"
    stamp = folder / "complete"
    if stamp.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists():
            return folder
        say(f"installing from PyPI into {folder}: {' '.join(requirements)}")
        shutil.rmtree(folder, ignore_errors=True)
        run([sys.executable, "-m", "venv", str(folder)], "python3 -m venv", log)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        if constraints:
            pip += ["-c", str(constraints)]
        run([*pip, *requirements], "pip install", log)
        stamp.touch()
    return folder


def synapse_environment(log: Path, release: str | None = None) -> Path:
    """Return the virtual environment that holds a Synapse release."""
    versions = read_versions(release=synapse_release(release))
    return virtual_environment(
        f"synapse-{versions['SYNAPSE_VERSION']}",
        [
            f"matrix-synapse[redis]=={versions['SYNAPSE_VERSION']}",
            f"psycopg2-binary=={versions['PSYCOPG2_VERSION']}",
            f"txredisapi=={versions['TXREDISAPI_VERSION']}",
        ],
        log,
        LOCAL / "synapse-constraints.txt",
    )


def build_chappe(log: Path, build: Path = CHECKOUT / "build" / "release") -> None:
    """Configure and build Chappe; quick when nothing changed."""
    if not (build / "build.ninja").exists():
        say(f"configuring Chappe in {build}")
        run(
            ["cmake", "-G", "Ninja", "-S", str(CHECKOUT), "-B", str(build), "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
            + ["-DCHAPPE_TESTS=OFF"],
            "cmake",
            log,
        )
    say("building Chappe")
    run(["cmake", "--build", str(build), "--target", "chappe"], "building Chappe", log)
