# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Child processes that never outlive us.

Every server runs in a session of its own (so that the terminal's Ctrl-C reaches only us and we stop
things in order) and asks the kernel for a signal when its parent dies (so that even SIGKILL on us
leaves nothing running). The kernel watches the *thread* that forked, hence one thread that lives as
long as the process does all forking.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import os
import pwd
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Callable, Mapping, Sequence

from stack.errors import StackError

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_forker_lock = threading.Lock()
_forker: concurrent.futures.ThreadPoolExecutor | None = None


def _forking_thread() -> concurrent.futures.ThreadPoolExecutor:
    """Return the executor whose single thread forks every child."""
    global _forker
    with _forker_lock:
        if _forker is None:
            _forker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="forker")
        return _forker


def tail(path: Path, lines: int = 12) -> str:
    """Return the last lines of a log, indented, for an error message."""
    try:
        text = path.read_text(errors="replace").splitlines()
    except OSError as error:
        return f"    (no log: {error})"
    return "\n".join("    " + line for line in text[-lines:]) or "    (the log is empty)"


class Process:
    """One server: how to start it, whether it is ready, how to stop it."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        ready: Callable[[], bool] | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stop_signal: int = signal.SIGTERM,
        stop_seconds: float = 10.0,
        ready_seconds: float = 60.0,
        cwd: Path | None = None,
        extra_logs: Sequence[Path] = (),
    ) -> None:
        self.name = name
        self.argv = [str(word) for word in argv]
        self.log = log
        self.extra_logs = list(extra_logs)
        self.env = dict(env or {})
        self.user = user
        self.stop_signal = stop_signal
        self.stop_seconds = stop_seconds
        self.ready_seconds = ready_seconds
        self.cwd = cwd
        self._ready = ready
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it is running."""
        return self._popen.pid if self._popen is not None and self._popen.poll() is None else None

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self.pid is not None

    @property
    def exit_status(self) -> int | None:
        """The exit status of a process that ended by itself or was stopped."""
        return self._popen.poll() if self._popen is not None else None

    def start(self) -> None:
        """Fork and execute; does not wait for readiness."""
        if self.running:
            return
        _forking_thread().submit(self._spawn).result()

    def _spawn(self) -> None:
        death_signal = int(self.stop_signal)
        parent = os.getpid()

        def in_child() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

        who: dict[str, object] = {}
        env = {**os.environ, **self.env}
        if self.user is not None:
            entry = pwd.getpwnam(self.user)
            who = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [entry.pw_gid]}
            env["HOME"] = entry.pw_dir
        with open(self.log, "ab") as log:
            self._popen = subprocess.Popen(  # type: ignore[call-overload]
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=in_child,
                env=env,
                cwd=self.cwd,
                **who,
            )

    def poll_ready(self) -> bool:
        """Ask once whether the server answers; raises when it has ended."""
        if not self.running:
            raise StackError(self.failure(f"ended with status {self.exit_status} before it was ready"))
        return self._ready is None or self._ready()

    def wait_ready(self) -> None:
        """Wait until the server answers, or raise with the tail of its log."""
        deadline = time.monotonic() + self.ready_seconds
        while not self.poll_ready():
            if time.monotonic() > deadline:
                raise StackError(self.failure(f"was not ready after {self.ready_seconds:.0f} s"))
            time.sleep(0.05)

    def failure(self, what: str) -> str:
        """Format an error about this process with the ends of its logs."""
        parts = [f"{self.name} {what}."]
        for log in [self.log, *self.extra_logs]:
            if log.exists() and log.stat().st_size:
                parts.append(f"  Last lines of {log}:\n{tail(log)}")
        return "\n".join(parts)

    def signal(self, number: int) -> None:
        """Send a signal to the process itself."""
        if self._popen is not None and self._popen.poll() is None:
            self._popen.send_signal(number)

    def stop(self) -> None:
        """Ask the process to end, then insist."""
        self.ask_to_stop()
        self.await_stop()

    def ask_to_stop(self) -> None:
        """Send the stop signal without waiting."""
        self.signal(self.stop_signal)

    def await_stop(self) -> None:
        """Wait for the end of the process; kill its whole group when it takes too long."""
        if self._popen is None:
            return
        try:
            self._popen.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        self._kill_group()

    def kill(self) -> None:
        """End the process and its children at once, as a crash would."""
        if self._popen is None:
            return
        self._kill_group()
        self._popen.wait()

    def _kill_group(self) -> None:
        assert self._popen is not None
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def run(argv: Sequence[str], what: str, log: Path, *, user: str | None = None, cwd: Path | None = None) -> None:
    """Run a command to its end, output to a log; raise with the log's tail when it fails."""
    process = Process(what, argv, log, user=user, cwd=cwd)
    process.start()
    try:
        while process.running:
            time.sleep(0.02)
    except BaseException:
        process.kill()
        raise
    if process.exit_status != 0:
        raise StackError(process.failure(f"failed with status {process.exit_status}"))
