# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A private Redis: a loopback port with a password, nothing written to disk."""

from __future__ import annotations

import shutil
import socket

from stack.errors import StackError
from stack.process import Process
from stack.settings import Settings


class Redis:
    """Describes the server process and answers whether it is up."""

    def __init__(self, settings: Settings, password: str) -> None:
        self.settings = settings
        self.password = password
        program = shutil.which("redis-server")
        if program is None:
            raise StackError("redis-server was not found on the PATH.")
        config = settings.state / "redis.conf"
        config.write_text(
            "\n".join(
                [
                    "bind 127.0.0.1",
                    f"port {settings.ports.redis}",
                    f"requirepass {password}",
                    "daemonize no",
                    'save ""',
                    "appendonly no",
                    f"dir {settings.state}",
                    "",
                ]
            )
        )
        config.chmod(0o600)
        self.process = Process(
            "Redis", [program, str(config)], settings.logs / "redis.log", ready=self._answers, stop_seconds=5
        )

    def _answers(self) -> bool:
        return self.command("PING").startswith("+PONG")

    def command(self, *words: str) -> str:
        """Send one command; return the raw reply, empty when the server is not there."""
        try:
            with socket.create_connection(("127.0.0.1", self.settings.ports.redis), timeout=1) as link:
                for argv in (["AUTH", self.password], list(words)):
                    parts = [f"*{len(argv)}\r\n"] + [f"${len(w.encode())}\r\n{w}\r\n" for w in argv]
                    link.sendall("".join(parts).encode())
                    reply = link.recv(65536).decode(errors="replace")
                return reply
        except OSError:
            return ""
