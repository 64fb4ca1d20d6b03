# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""A Matrix push gateway for tests: keeps what it was told, answers as it is told to.

It listens on one port of 127.0.0.1 and takes POST /_matrix/push/v1/notify. `behave` sets what it does from then on:
a status, a body, headers, a delay, a connection that is cut, a body without end. `rejected` are pushkeys that it
rejects. Everything is kept in the order of arrival, with the time and the raw bytes.
"""

from __future__ import annotations

import dataclasses
import http.server
import json
import socket
import threading
import time
from typing import Any, Callable

Json = dict[str, Any]
NOTIFY = "/_matrix/push/v1/notify"


@dataclasses.dataclass
class Push:
    """One request."""

    at: float
    raw: bytes
    headers: dict[str, str]
    path: str
    done: float = 0.0  # when the answer was written; 0 while it is held

    @property
    def notification(self) -> Json:
        """What it tells."""
        return dict(json.loads(self.raw)["notification"])

    @property
    def pushkey(self) -> str:
        """Whom it is for."""
        return str(self.notification["devices"][0]["pushkey"])

    @property
    def event_id(self) -> str | None:
        """Which event it tells of; None for a count alone."""
        return self.notification.get("event_id")

    @property
    def unread(self) -> int | None:
        """The count."""
        return self.notification.get("counts", {}).get("unread")


@dataclasses.dataclass
class Behaviour:
    """What the gateway does with a request."""

    status: int = 200
    body: bytes | None = None  # None: {"rejected": […]}
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False  # closes the connection without an answer
    endless: bool = False  # headers, then a body that does not end


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    allow_reuse_address = True
    gateway: "Gateway"

    def __init__(self, *args: Any) -> None:
        self.open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection: it outlives the listening socket."""
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or a gateway that was stopped: nothing to say."""

    def cut_off(self) -> None:
        """End every connection."""
        for request in list(self.open):
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:  # noqa: N802 - the name that the base class calls
        """Take a notification."""
        raw = self.rfile.read(int(self.headers.get("content-length", "0")))
        push = Push(time.time(), raw, {k.lower(): v for k, v in self.headers.items()}, self.path)
        gateway = self.server.gateway
        how = gateway.take(push)
        if how.delay:
            gateway.closing.wait(how.delay)
        if how.cut:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if how.endless:
            self._endless()
            return
        body = how.body if how.body is not None else gateway.verdict(push)
        self.send_response(how.status)
        for name, value in how.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        push.done = time.time()

    def do_GET(self) -> None:  # noqa: N802
        """Nobody should ask; a followed redirect would."""
        self.server.gateway.strays.append(self.path)
        self.send_response(404)
        self.send_header("content-length", "0")
        self.end_headers()

    def _endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while not self.server.gateway.closing.wait(0.2):
                self.wfile.write(b" ")
        except OSError:
            pass
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


class Gateway:
    """The gateway; start it with a port of its own."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.host, self.port = host, port
        self.pushes: list[Push] = []
        self.strays: list[str] = []
        self.rejected: set[str] = set()
        self.closing = threading.Event()
        self._behaviour: Callable[[Push], Behaviour] = lambda _: Behaviour()
        self._lock = threading.Lock()
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """What a pusher's data.url is."""
        return f"http://{self.host}:{self.port}{NOTIFY}"

    def start(self) -> "Gateway":
        """Listen."""
        self.closing.clear()
        self._server = _Server((self.host, self.port), _Handler)
        self._server.gateway = self
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse connections from now on; requests under way are cut off."""
        self.closing.set()
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server.cut_off()
            self._server = None

    def behave(self, how: Callable[[Push], Behaviour] | None = None, **fields: Any) -> None:
        """Answer like this from now on: a function of the request, or one behaviour for all."""
        fixed = Behaviour(**fields)
        self._behaviour = how or (lambda _: fixed)

    def take(self, push: Push) -> Behaviour:
        """Keep a request; say what to do with it."""
        with self._lock:
            self.pushes.append(push)
        return self._behaviour(push)

    def verdict(self, push: Push) -> bytes:
        """The body of a right answer."""
        try:
            keys = [device["pushkey"] for device in push.notification["devices"]]
        except (ValueError, KeyError):
            return b"{}"
        return json.dumps({"rejected": [key for key in keys if key in self.rejected]}).encode()

    def of(self, pushkey: str, events: bool = True) -> list[Push]:
        """What came for a pushkey: events, or counts alone."""
        return [push for push in list(self.pushes) if push.pushkey == pushkey and (push.event_id is not None) == events]

    def wait(self, wanted: Callable[[], bool], seconds: float = 15.0) -> bool:
        """Wait until something is so; tell whether it came to be."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if wanted():
                return True
            time.sleep(0.02)
        return wanted()
