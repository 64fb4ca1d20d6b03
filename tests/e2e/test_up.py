# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""deploy/local/up itself: one quick demo, a taken port, an interruption; nothing stays behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

from support import CHECKOUT
from support.world import TARGET, settings_for

OFFSET = 40
SETTINGS = settings_for("up", offset=OFFSET)


def _up(*arguments: str) -> subprocess.Popen[str]:
    argv = [str(CHECKOUT / "deploy" / "local" / "up"), "--no-install", "--no-build", "--state", str(SETTINGS.state)]
    argv += ["--port-base", str(SETTINGS.ports.base), *arguments]
    if TARGET != "chappe":
        argv.append("--without-chappe")
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _left_running() -> list[str]:
    """Return command lines of processes that mention the state folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(SETTINGS.state) in line:
            found.append(line)
    return found


def test_once_twice() -> None:
    """`--once` succeeds, and the second start is quick."""
    first = _up("--once")
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 0, output
    begun = time.monotonic()
    second = _up("--once")
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 0, output
    assert "every device got every message" in output
    assert time.monotonic() - begun < 25, "a second start with its messages takes long"
    assert not _left_running()


def test_taken_port() -> None:
    """A port in use is named, with what wants it and what to do."""
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", SETTINGS.ports.redis))
        thief.listen()
        process = _up("--once")
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"port {SETTINGS.ports.redis} (for Redis) is taken" in output and "--port-base" in output, output
    assert not _left_running()


def test_interrupted() -> None:
    """Ctrl-C in the middle of the start stops what was started."""
    process = _up()
    deadline = time.monotonic() + 30
    while len(_left_running()) < 2 and time.monotonic() < deadline:  # itself, and something that it has started
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert "everything is stopped" in output
    assert not _left_running()


def test_killed() -> None:
    """Even SIGKILL leaves nothing running."""
    process = _up()
    deadline = time.monotonic() + 60
    assert process.stdout is not None
    for line in process.stdout:
        if "homeserver URL" in line:
            break
        assert time.monotonic() < deadline
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 15
    while _left_running() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _left_running()
