# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Requests of every bad shape: never a crash, and the same verdict as the Synapse worker's."""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from typing import Iterator

import pytest
from stack.matrix import Client, Link
from support.world import TARGET, World

SYNC = "/_matrix/client/v3/sync"


@dataclasses.dataclass
class Case:
    """A request with `{token}` and `{since}` to be filled in."""

    title: str
    method: str = "GET"
    path: str = SYNC
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    form: str | None = None
    # Status and error code of Chappe where it differs on purpose; src/README.md has the reason.
    decided: tuple[int, str] | None = None


AUTH = {"Authorization": "Bearer {token}"}
CASES = [
    Case("no token"),
    Case("token in the query", path=SYNC + "?access_token={token}"),
    Case("token twice", path=SYNC + "?access_token={token}", headers=AUTH),
    Case("empty bearer", headers={"Authorization": "Bearer "}),
    Case("bearer without a token", headers={"Authorization": "Bearer"}),
    Case("basic authorization", headers={"Authorization": "Basic YTpi"}),
    Case("two words after bearer", headers={"Authorization": "Bearer a b"}),
    Case("lower-case bearer", headers={"Authorization": "bearer {token}"}),
    Case("unknown token", headers={"Authorization": "Bearer unknown"}),
    Case("token that looks like Synapse's", headers={"Authorization": "Bearer syt_YWxpY2U_xxxxxxxxxxxxxxxxxxxx_0HYg9r"}),
    Case("token of odd bytes", headers={"Authorization": "Bearer %00%ff"}),
    Case("very long token", headers={"Authorization": "Bearer " + "x" * 4000}),
    Case("application service user unknown", path=SYNC + "?user_id=@x:chappe.localhost", headers=AUTH),
    Case("token in a form", form="access_token={token}"),
    Case("token in a posted form", method="POST", form="access_token={token}"),
    Case("good", headers=AUTH),
    Case("good, older name", path="/_matrix/client/r0/sync", headers=AUTH),
    Case("HEAD", method="HEAD", headers=AUTH),
    Case("OPTIONS", method="OPTIONS"),
    Case("OPTIONS with a token", method="OPTIONS", headers=AUTH),
    Case("POST", method="POST", headers=AUTH),
    Case("PUT", method="PUT", headers=AUTH),
    Case("DELETE", method="DELETE", headers=AUTH),
    Case("unknown version", path="/_matrix/client/v99/sync", headers=AUTH),
    Case("trailing slash", path=SYNC + "/", headers=AUTH),
    Case("nothing there", path="/_matrix/client/v3/nosuchthing", headers=AUTH),
    # Synapse sends a page in HTML here; everything that Chappe says is JSON.
    Case("root", path="/", decided=(404, "M_UNRECOGNIZED")),
    Case("timeout is a word", path=SYNC + "?timeout=abc", headers=AUTH),
    Case("timeout is negative", path=SYNC + "?timeout=-5", headers=AUTH),
    Case("timeout is empty", path=SYNC + "?timeout=", headers=AUTH),
    Case("timeout is fractional", path=SYNC + "?timeout=1.5", headers=AUTH),
    Case("timeout with plus", path=SYNC + "?timeout=%2B0", headers=AUTH),
    Case("timeout beyond 64 bits", path=SYNC + "?since=garbage&timeout=99999999999999999999999", headers=AUTH),
    Case("full_state=1", path=SYNC + "?full_state=1", headers=AUTH),
    Case("full_state=yes", path=SYNC + "?full_state=yes", headers=AUTH),
    Case("full_state=false", path=SYNC + "?full_state=false", headers=AUTH),
    Case("set_presence=sleeping", path=SYNC + "?set_presence=sleeping", headers=AUTH),
    Case("from", path=SYNC + "?from={since}", headers=AUTH),
    Case("from and a bad token", path=SYNC + "?from=1", headers={"Authorization": "Bearer unknown"}),
    Case("empty since", path=SYNC + "?since=", headers=AUTH),
    Case("since is a word", path=SYNC + "?since=word", headers=AUTH),
    Case("since has 14 parts", path=SYNC + "?since={since}_1", headers=AUTH),
    Case("since with one part", path=SYNC + "?since=s1", headers=AUTH),
    Case("since of zeroes", path=SYNC + "?since=s0_0_0_0_0_0_0_0_0", headers=AUTH),
    # A position of /messages. Synapse answers users without rooms and fails for the others.
    Case("since of another kind", path=SYNC + "?since=t1-2_0_0_0_0_0_0_0_0", headers=AUTH, decided=(400, "M_UNKNOWN")),
    Case("since with an unknown writer", path=SYNC + "?since=m1~99.5_0_0_0_0_0_0_0_0", headers=AUTH),
    Case("filter is no JSON", path=SYNC + "?filter=%7Bbad", headers=AUTH),
    Case("filter of a wrong type", path=SYNC + "?filter=%7B%22room%22%3A5%7D", headers=AUTH),
    Case("filter is an array", path=SYNC + "?filter=%5B%5D", headers=AUTH),
    Case("filter is a word", path=SYNC + "?filter=abc", headers=AUTH),
    Case("filter is empty", path=SYNC + "?filter=", headers=AUTH),
    Case("filter unknown", path=SYNC + "?filter=424242", headers=AUTH),
    Case("filter with NaN", path=SYNC + "?filter=%7B%22a%22%3ANaN%7D", headers=AUTH),
    Case("filter with a bad room id", path=SYNC + "?filter=%7B%22room%22%3A%7B%22rooms%22%3A%5B%22x%22%5D%7D%7D", headers=AUTH),
    Case("bad percent signs", path=SYNC + "?since=%zz&filter=%", headers=AUTH),
    Case("parameters twice", path=SYNC + "?timeout=0&timeout=abc", headers=AUTH),
    Case("unknown parameters", path=SYNC + "?nosuch=1&&=&a", headers=AUTH),
]


@pytest.fixture(scope="module")
def client(world: World) -> Client:
    """A device with a token, nothing else."""
    return world.new_device("bad-requests")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title.replace(" ", "-"))
def test_same_verdict(world: World, client: Client, case: Case) -> None:
    """Status, error code and CORS headers are the Synapse worker's."""
    fill = {"token": client.token, "since": client.sync(set_presence="offline")["next_batch"]}
    path = case.path.replace("{token}", str(fill["token"])).replace("{since}", str(fill["since"]))
    headers = {key: value.replace("{token}", str(fill["token"])) for key, value in case.headers.items()}
    verdicts = []
    for url in (world.worker, world.target):
        form = None
        if case.form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            form = case.form.replace("{token}", str(fill["token"])).encode()
        reply = Link(url).request(case.method, path, form, headers=headers)
        body = reply.body if isinstance(reply.body, dict) else {}
        cors = {key: value for key, value in reply.headers.items() if key.startswith("access-control-")}
        verdicts.append((reply.status, body.get("errcode"), body.get("soft_logout"), cors))
    theirs, ours = verdicts
    if case.decided and TARGET == "chappe":
        assert ours[:2] == case.decided
    else:
        assert ours == theirs


# -- below HTTP's surface ------------------------------------------------------------------------


def _connect(world: World) -> socket.socket:
    port = int(world.target.rsplit(":", 1)[1])
    link = socket.create_connection(("127.0.0.1", port), timeout=20)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


def _read_all(link: socket.socket) -> bytes:
    """Read to the end of the connection, or one whole response."""
    data = b""
    try:
        while True:
            piece = link.recv(65536)
            if not piece:
                return data
            data += piece
            if _complete(data):
                return data
    except (ConnectionResetError, socket.timeout):
        return data


def _complete(data: bytes) -> bool:
    head, mark, body = data.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return bool(mark) and len(body) >= int(line.split(b":")[1])
    return b"transfer-encoding: chunked" in head.lower() and body.endswith(b"0\r\n\r\n")


def _status(data: bytes) -> int:
    return int(data.split(b" ", 2)[1]) if data.startswith(b"HTTP/1.") else 0


def _get(client: Client, extra: str = "") -> bytes:
    return (
        f"GET {SYNC}?timeout=0&set_presence=offline HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {client.token}\r\n{extra}\r\n"
    ).encode()


@pytest.mark.short
def test_byte_by_byte(world: World, client: Client) -> None:
    """A request that arrives one byte at a time is answered like any other."""
    with _connect(world) as link:
        for byte in _get(client):
            link.sendall(bytes([byte]))
        assert _status(_read_all(link)) == 200


@pytest.mark.short
def test_kept_connection(world: World, client: Client) -> None:
    """Many requests on one connection, one after the other."""
    with _connect(world) as link:
        for _ in range(20):
            link.sendall(_get(client))
            data = _read_all(link)
            assert _status(data) == 200, data[:300]
            assert b"next_batch" in data


def _bad_heads(client: Client) -> Iterator[tuple[str, bytes]]:
    good = _get(client)
    yield "no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200
    yield "empty lines only", b"\r\n" * 50 + b"nonsense\r\n\r\n"
    yield "no version", b"GET /\r\n\r\n"
    yield "version 9", good.replace(b"HTTP/1.1", b"HTTP/9.9")
    yield "header without colon", good.replace(b"Host: x", b"Host x")
    yield "a hundred kilobytes of header", _get(client, "X-Big: " + "a" * 100000 + "\r\n")
    yield "a thousand headers", _get(client, "".join(f"X-{n}: {'v' * 90}\r\n" for n in range(1000)))
    yield "very long target", good.replace(b"?timeout", b"?x=" + b"a" * 100000 + b"&timeout")
    yield "two lengths", _get(client, "Content-Length: 0\r\nContent-Length: 5\r\n") + b"hello"
    yield "negative length", _get(client, "Content-Length: -1\r\n")
    yield "length is a word", _get(client, "Content-Length: many\r\n")
    yield "huge body announced", _get(client, "Content-Length: 99999999999\r\n")
    yield "length and chunks", _get(client, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + b"0\r\n\r\n"
    yield "bad chunk", _get(client, "Transfer-Encoding: chunked\r\n") + b"zz\r\nhello\r\n"
    yield "zero byte in a header", _get(client, "X-Zero: a\0b\r\n")


@pytest.mark.chappe_only
@pytest.mark.short
def test_malformed_heads(world: World, client: Client) -> None:
    """What is not HTTP is refused or ignored in bounded time, and hurts nobody else."""
    for title, data in _bad_heads(client):
        with _connect(world) as link:
            link.settimeout(15)
            begun = time.monotonic()
            try:
                link.sendall(data)
                link.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            answer = _read_all(link)
            status = _status(answer)
            assert time.monotonic() - begun < 14, f"{title}: neither answered nor closed"
            assert status == 0 or 400 <= status < 600 or title in ("header without colon", "zero byte in a header"), (
                title,
                answer[:200],
            )
        assert client.sync_raw(set_presence="offline").status == 200, f"after {title}"


@pytest.mark.chappe_only
def test_pipelined(world: World, client: Client) -> None:
    """Two requests sent at once are answered in order, or the connection ends after the first."""
    with _connect(world) as link:
        link.sendall(_get(client) + _get(client, "Connection: close\r\n"))
        link.settimeout(3)
        data = b""
        try:
            while piece := link.recv(65536):
                data += piece
        except socket.timeout:
            pass
        assert data.count(b"HTTP/1.1 ") in (1, 2), data[:300]
        assert _status(data) in (200, 400), data[:300]


def test_http_1_0(world: World, client: Client) -> None:
    """An old proxy's request is answered and the connection closed."""
    with _connect(world) as link:
        link.sendall(_get(client).replace(b"HTTP/1.1", b"HTTP/1.0"))
        data = b""
        while piece := link.recv(65536):
            data += piece
        assert _status(data) == 200
        assert "next_batch" in json.loads(data.split(b"\r\n\r\n", 1)[1])
