# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Proxies of homeserver.yaml: gateways are reached through them, and what may not be reached is not asked of them."""

from __future__ import annotations

import base64
import dataclasses
import http.client
import http.server
import os
import threading
from typing import Iterator
from urllib.parse import urlsplit

import pytest
from push.phones import Phones, bodies
from support.gateway import NOTIFY

PORT = int(os.environ.get("CHAPPE_TEST_PORT_BASE", "15540")) + 85
PASSWORD = "proxy-secret"
SYNAPSE = {
    "http_proxy": f"http://proxied:{PASSWORD}@127.0.0.1:{PORT}",
    "https_proxy": f"proxied:{PASSWORD}@127.0.0.1:{PORT}",
    "no_proxy_hosts": ["127.0.0.1"],
}
pytestmark = pytest.mark.chappe_only


@dataclasses.dataclass
class Asked:
    """What the proxy was asked."""

    method: str
    target: str
    user: str  # of Proxy-Authorization, decoded
    host: str


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _keep(self) -> None:
        word = self.headers.get("proxy-authorization", "").removeprefix("Basic ")
        asked = Asked(self.command, self.path, base64.b64decode(word).decode(), self.headers.get("host", ""))
        self.server.asked.append(asked)  # type: ignore[attr-defined]

    def do_POST(self) -> None:  # noqa: N802 - the name that the base class calls
        """Every name is 127.0.0.1 here."""
        self._keep()
        body = self.rfile.read(int(self.headers["content-length"]))
        link = http.client.HTTPConnection("127.0.0.1", urlsplit(self.path).port or 80, timeout=10)
        link.request("POST", urlsplit(self.path).path, body, {"content-type": "application/json"})
        reply = link.getresponse()
        answer = reply.read()
        self.send_response(reply.status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        link.close()

    def do_CONNECT(self) -> None:  # noqa: N802
        """A tunnel, which there is none."""
        self._keep()
        self.send_error(502)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def asked() -> Iterator[list[Asked]]:
    """A running proxy; what it is asked."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), _Handler)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.asked  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def test_through_the_proxy(phones: Phones, asked: list[Asked]) -> None:
    """A name that only the proxy knows is told through it; what no_proxy_hosts names is told directly."""
    ann, ben = phones.person("ann"), phones.person("ben")
    room = phones.room(ann, ben)
    host = f"{phones.world.unique('gateway')}.invalid:{phones.gateway.port}"
    url = f"http://{host}{NOTIFY}"
    through = phones.phone(ben, url=url, append=True)
    direct = phones.phone(ben, append=True)
    for number in range(3):
        ann.text(room, f"{number}")
    assert bodies(phones.events(through, 3)) == bodies(phones.events(direct, 3)) == ["0", "1", "2"]
    mine = [one for one in asked if host in one.target]
    assert mine == [Asked("POST", url, f"proxied:{PASSWORD}", host)] * 3
    assert not [one for one in asked if phones.gateway.url in one.target]
    assert PASSWORD not in phones.pusher().log.read_text(errors="replace")


def test_tunnels(phones: Phones, asked: list[Asked]) -> None:
    """TLS goes through a tunnel: the proxy sees a name and no notification."""
    ann, ben = phones.person("ann"), phones.person("ben")
    room = phones.room(ann, ben)
    host = f"{phones.world.unique('gateway')}.invalid"
    key = phones.phone(ben, url=f"https://{host}{NOTIFY}")
    ann.text(room, "0")
    phones.until(lambda: (phones.row(key) or {})["failing_since"] is not None)
    mine = [one for one in asked if host in one.target]
    assert mine and {(one.method, one.target, one.user) for one in mine} == {
        ("CONNECT", f"{host}:443", f"proxied:{PASSWORD}")
    }
    phones.set_pusher(ben, key, None)


def test_forbidden_addresses(phones: Phones, asked: list[Asked]) -> None:
    """An address that is forbidden is not asked for through the proxy either."""
    ann, ben = phones.person("ann"), phones.person("ben")
    room = phones.room(ann, ben)
    places = ["10.1.2.3", "[::ffff:10.1.2.3]", "[64:ff9b::a01:203]"]
    keys = [phones.phone(ben, url=f"http://{place}:{phones.gateway.port}{NOTIFY}", append=True) for place in places]
    ann.text(room, "0")
    phones.until(lambda: all((phones.row(key) or {})["failing_since"] is not None for key in keys))
    assert not [one for one in asked if any(place in one.target for place in places)]
