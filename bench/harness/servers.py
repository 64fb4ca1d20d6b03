# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""What bench/hot compares: Chappe in four forms, a Synapse worker, nchan, and the bare epoll server.

Each runs alone and new, on one core, and nothing else runs there.
"""

from __future__ import annotations

import json
import math
import os
import pwd
import shutil
from pathlib import Path

from harness.stage import Stage
from stack.errors import StackError
from stack.postgres import port_answers
from stack.process import Process
from stack.synapse import answers

SERVER_CORE, CLIENT_CORE = 0, 1
FLOOR_OFFSET, NCHAN_OFFSET = 12, 13
FLOOR_CONNECTIONS = 18500  # of one process: most machines let it have 20,000 descriptors
NCHAN_CONNECTIONS = 17000  # of one nginx worker; near its limit nginx closes connections that it could hold

# Transport and threads that own sockets. Chappe writes a line for each request, as Synapse does; nchan (access_log off) and
# the bare server write none, and no more does the variant that is to be compared with them alone.
CHAPPE = {"chappe-uring": ("uring", 0), "chappe-uv": ("uv", 0), "chappe-uring-f1": ("uring", 1), "chappe-uv-f1": ("uv", 1)}
CHAPPE |= {"chappe-uring-f2": ("uring", 2), "chappe-uring-nolog": ("uring", 0)}
WITHOUT_LOG = "chappe-uring-nolog"
TITLES = {
    "floor": "bare epoll",
    "nchan": "nchan",
    "synapse": "Synapse worker",
    "chappe-uring": "Chappe, io_uring",
    "chappe-uring-nolog": "Chappe, io_uring, no request lines",
    "chappe-uv": "Chappe, libuv",
    "chappe-uring-f1": "Chappe, io_uring, 1 front thread",
    "chappe-uring-f2": "Chappe, io_uring, 2 front threads",
    "chappe-uv-f1": "Chappe, libuv, 1 front thread",
}

_NCHAN = """\
{user_line}
load_module {module};
daemon off;
worker_processes {workers};
worker_rlimit_nofile {files};
pid {folder}/nchan.pid;
error_log {log} warn;
events {{
    use epoll;
    worker_connections {connections};
    multi_accept on;
}}
http {{
    access_log off;
    client_body_temp_path {folder}/nchan-body;
    proxy_temp_path {folder}/nchan-proxy;
    fastcgi_temp_path {folder}/nchan-fastcgi;
    uwsgi_temp_path {folder}/nchan-uwsgi;
    scgi_temp_path {folder}/nchan-scgi;
    keepalive_timeout 1h;
    keepalive_requests 100000000;
    client_header_timeout 1h;
    nchan_shared_memory_size 1024M;
    server {{
        listen 127.0.0.1:{port} reuseport backlog=4096;
        location = /sub {{
            nchan_subscriber longpoll;
            nchan_channel_id room;
            nchan_subscriber_first_message -1;
            nchan_subscriber_timeout 0;
        }}
        location = /pub {{
            nchan_publisher;
            nchan_channel_id room;
            nchan_message_buffer_length 5000;
            nchan_message_timeout 10m;
        }}
        location = /other {{
            default_type application/json;
            return 200 "{{}}";
        }}
    }}
}}
"""


def capacity() -> int:
    """Return how many descriptors a process may have."""
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def on_core(argv: list[str], core: int = SERVER_CORE) -> list[str]:
    """Return the command that runs on one core."""
    return ["taskset", "-c", str(core), *argv]


def step_aside() -> None:
    """Leave the core of what is measured; children (database, homeserver, generator) inherit it."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise StackError("two cores are needed: one for what is measured, one for everything else")
    os.sched_setaffinity(0, set(cores[2:]) or {cores[1]})


def children(pid: int) -> list[int]:
    """Return a process and its children."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [pid, *(int(word) for word in path.read_text().split())]


class Servers:
    """Starts one target at a time."""

    def __init__(self, stage: Stage, floor_binary: Path) -> None:
        self.stage, self._floor_binary = stage, floor_binary
        self._running: Process | None = None
        self._usual: dict[str, object] | None = None  # Chappe's options, before any part changed them
        self._folder = stage.settings.state / "hot"
        self._folder.mkdir(exist_ok=True)
        for target in ("synapse", "chappe"):
            process = stage.process(target)
            process.argv = on_core(process.argv)
            process.stop()

    def stop(self) -> None:
        """End what runs."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    def port(self, target: str) -> int:
        """Return where a target listens."""
        base = self.stage.settings.ports.base
        if target in ("floor", "nchan"):
            return base + (FLOOR_OFFSET if target == "floor" else NCHAN_OFFSET)
        return self.stage.port("synapse" if target == "synapse" else "chappe")

    def start(self, target: str, connections: int, options: dict[str, int] | None = None) -> list[int]:
        """Start a target, new, Chappe with more options than usual; return its processes."""
        self.stop()
        if target == "floor":
            process = self._floor(connections)
        elif target == "nchan":
            process = self._nchan(connections)
        elif target == "synapse":
            process = self.stage.process("synapse")
        else:
            process = self._chappe(target, connections, options or {})
        self._running = process
        process.start()
        process.wait_ready()
        assert process.pid is not None
        return children(process.pid)

    @property
    def running(self) -> Process:
        """What runs."""
        assert self._running is not None
        return self._running

    def _chappe(self, target: str, connections: int, options: dict[str, int]) -> Process:
        transport, threads = CHAPPE[target]
        if transport == "uv" and connections > capacity() - 200:
            raise StackError(f"libuv: a descriptor for each connection, and a process may have {capacity()}")
        path = self.stage.settings.state / "synapse" / "chappe.yaml"
        config = json.loads(path.read_text())
        level = "warning" if target == WITHOUT_LOG else "info"
        if self._usual is None:
            self._usual = config.get("chappe", {})
        config["chappe"] = {**self._usual, "transport": transport, "front_threads": threads, "log_level": level, **options}
        path.write_text(json.dumps(config, indent=2) + "\n")
        return self.stage.process("chappe")

    def _floor(self, connections: int) -> Process:
        port = self.port("floor")
        argv = [str(self._floor_binary), "--port", str(port), "--slice", "64"]
        argv += ["--processes", str(math.ceil(connections / FLOOR_CONNECTIONS))]
        log = self.stage.settings.logs / "floor.log"
        return Process("The bare server", on_core(argv), log, ready=lambda: port_answers(port))

    def _nchan(self, connections: int) -> Process:
        program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        module = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
        if program is None or not module.exists():
            raise StackError("nginx with nchan is not installed (libnginx-mod-nchan)")
        port, log = self.port("nchan"), self.stage.settings.logs / "nchan.log"
        user = pwd.getpwuid(os.getuid()).pw_name if os.getuid() == 0 else None
        config = self._folder / "nchan.conf"
        config.write_text(
            _NCHAN.format(
                user_line=f"user {user};" if user else "",
                module=module,
                workers=math.ceil(connections / NCHAN_CONNECTIONS),
                files=capacity(),
                connections=capacity() - 50,
                folder=self._folder,
                log=log,
                port=port,
            )
        )
        argv = [program, "-e", str(log), "-p", str(self._folder), "-c", str(config)]
        return Process("nchan", on_core(argv), log, ready=lambda: answers(port, "/other"))
