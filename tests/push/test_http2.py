# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Gateways behind TLS: many requests on few connections where HTTP/2 is spoken, and nothing lost when they end."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Iterator

import pytest
from push.phones import Phones, bodies
from stack.process import Process

pytestmark = pytest.mark.chappe_only
PHONES = 40
CONFIG = """
{user}
daemon off;
worker_processes 1;
worker_shutdown_timeout 1s;
pid {folder}/front.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 512; }}
http {{
    log_format streams '$connection $server_protocol $status';
    access_log {folder}/streams.log streams;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    ssl_certificate {folder}/front.pem;
    ssl_certificate_key {folder}/front.key;
    keepalive_requests {requests};
    server {{
        listen 127.0.0.1:{port} ssl {protocol};
        location / {{ proxy_pass http://127.0.0.1:{gateway}; }}
    }}
}}
"""


class Front:
    """nginx with TLS before the tests' gateway."""

    def __init__(self, folder: Path, phones: Phones) -> None:
        self.folder, self.phones, self.port = folder, phones, phones.gateway.port + 6
        program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        assert program is not None, "nginx is not installed"
        argv = [program, "-p", str(folder), "-c", str(folder / "front.conf"), "-e", str(folder / "error.log")]
        self.process = Process("nginx", argv, folder / "out.log", ready=self._listens, stop_seconds=5)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def url(self) -> str:
        """What a pusher's data.url is."""
        return f"https://127.0.0.1:{self.port}/_matrix/push/v1/notify"

    def start(self, protocol: str = "http2", requests: int = 1000) -> None:
        """Listen, with HTTP/2 or without; connections end after so many requests."""
        user = f"user {pwd.getpwuid(0).pw_name};" if os.getuid() == 0 else ""
        values = {"user": user, "folder": self.folder, "requests": requests, "port": self.port}
        text = CONFIG.format(protocol=protocol, gateway=self.phones.gateway.port, **values)
        (self.folder / "front.conf").write_text(text)
        (self.folder / "streams.log").write_text("")
        self.process.start()
        self.process.wait_ready()

    def streams(self) -> list[tuple[str, str, str]]:
        """Connection, protocol and status of each request."""
        lines = (self.folder / "streams.log").read_text().splitlines()
        return [(words[0], words[1], words[2]) for words in map(str.split, lines)]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for 127.0.0.1 that vouches for itself."""
    folder = tmp_path_factory.mktemp("front")
    argv = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=front"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "front.key", "-out", "front.pem"]
    subprocess.run([*argv.split(), *files], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def front(phones: Phones, authority: Path) -> Iterator[Front]:
    """The front, not started; Chappe trusts its certificate."""
    process = phones.pusher()
    if "SSL_CERT_FILE" not in process.env:
        process.stop()
        process.env["SSL_CERT_FILE"] = str(authority / "front.pem")
        process.start()
        process.wait_ready()
    front = Front(authority, phones)
    yield front
    front.process.stop()


def tell(phones: Phones, front: Front, events: int) -> list[str]:
    """So many messages to one person with many phones; wait until each phone has them all in order."""
    ann, ben = phones.person("ann"), phones.person("ben")
    room = phones.room(ann, ben)
    keys = phones.many(ben, PHONES, front.url)
    wanted = [f"{number}" for number in range(events)]
    for body in wanted:
        ann.text(room, body)
    phones.until(lambda: all(list(dict.fromkeys(bodies(phones.gateway.of(key)))) == wanted for key in keys), 60)
    return keys


def test_multiplexed(phones: Phones, front: Front) -> None:
    """All phones' requests share a connection or two, at the same time."""
    phones.gateway.behave(delay=0.3)
    front.start()
    keys = tell(phones, front, 3)
    phones.until(lambda: len(front.streams()) >= 3 * PHONES)
    streams = front.streams()
    assert {protocol for _, protocol, _ in streams} == {"HTTP/2.0"}
    assert len({connection for connection, _, _ in streams}) <= 3
    first = [phones.gateway.of(key)[0] for key in keys]
    together = max(sum(other.at <= push.at < other.done for other in first) for push in first)
    assert together >= 8  # one after the other would be one


def test_only_http1(phones: Phones, front: Front) -> None:
    """A gateway that does not know HTTP/2 is told the same, on connections that are used again."""
    front.start(protocol="")
    tell(phones, front, 5)
    phones.until(lambda: len(front.streams()) >= 5 * PHONES)
    streams = front.streams()
    assert {protocol for _, protocol, _ in streams} == {"HTTP/1.1"}
    assert len({connection for connection, _, _ in streams}) <= 2 * PHONES


def test_connections_end(phones: Phones, front: Front) -> None:
    """A front that ends its connections after a few requests (GOAWAY): nothing is lost, nothing told twice."""
    phones.gateway.behave(delay=0.05)
    front.start(requests=15)
    keys = tell(phones, front, 4)
    phones.until(lambda: len(front.streams()) >= 4 * PHONES)
    assert len({connection for connection, _, _ in front.streams()}) >= 4 * PHONES // 15
    assert all(bodies(phones.gateway.of(key)) == ["0", "1", "2", "3"] for key in keys)


def test_front_dies(phones: Phones, front: Front) -> None:
    """The front is killed with requests under way and comes back: nothing is lost, at most those are told again."""
    phones.gateway.behave(delay=0.4)
    front.start()
    ann, ben = phones.person("ann"), phones.person("ben")
    room = phones.room(ann, ben)
    keys = phones.many(ben, PHONES, front.url)
    for number in range(4):
        ann.text(room, f"{number}")
    phones.until(lambda: sum(len(phones.gateway.of(key)) for key in keys) >= PHONES + 5)
    front.process.kill()
    phones.gateway.behave()
    front.start()
    wanted = ["0", "1", "2", "3"]
    phones.until(lambda: all(list(dict.fromkeys(bodies(phones.gateway.of(key)))) == wanted for key in keys), 60)
    assert max(len(phones.gateway.of(key)) for key in keys) <= len(wanted) + 1


def test_unknown_authority(phones: Phones, front: Front, authority: Path) -> None:
    """A certificate that nobody vouches for: no request is made."""
    process = phones.pusher()
    process.stop()
    del process.env["SSL_CERT_FILE"]
    process.start()
    process.wait_ready()
    front.start()
    ann, ben = phones.person("ann"), phones.person("ben")
    room = phones.room(ann, ben)
    key = phones.phone(ben, url=front.url)
    ann.text(room, "0")
    phones.until(lambda: (phones.row(key) or {})["failing_since"] is not None)
    phones.quiet(key)
    assert phones.gateway.of(key) == [] and front.streams() == []
