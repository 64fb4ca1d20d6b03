#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Tests of the load generator against a tiny server that misbehaves on request.

Usage: test_load.py path/to/bench_load
The server hands out every message to every device, except for the mistake under test. Each mistake
must be found under its right name, and a server that is merely awkward (chunks, single bytes, closed
connections) must pass.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Callable
from urllib.parse import parse_qs, urlsplit

LOAD = sys.argv.pop(1) if len(sys.argv) > 1 else "bench_load"
DEVICES, EVENTS = 4, 3

# What device `index` gets when message `number` is out: a list of numbers, or None for nothing yet.
Plan = Callable[[int, int], "list[int] | None"]


@dataclasses.dataclass
class Behaviour:
    """How the server answers."""

    plan: Plan = lambda index, number: [number]
    chunked: bool = False
    bytewise: bool = False
    close_poll: bool = False  # closes one parked poll without an answer
    close_after: bool = False  # Connection: close on every answer
    until_eof: bool = False  # neither length nor chunks
    fail_once: bool = False  # one poll gets a 500
    limited: bool = False
    garbage: bool = False  # bytes after the end of one answer
    no_token: bool = False  # one answer without next_batch


class Server:
    """Serves /sync and /send to one run of the generator."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.b = behaviour
        self.number = 0
        self.news = asyncio.Condition()
        self.once: set[str] = set()
        self.transactions: set[str] = set()

    def first(self, what: str) -> bool:
        """Tell whether `what` happens for the first time."""
        new = what not in self.once
        self.once.add(what)
        return new

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split(" ", 2)
        fields = {k.lower(): v for k, v in (line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)}
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        if method == "PUT":
            return await self._send(writer, target, body)
        query = {k: v[0] for k, v in parse_qs(urlsplit(target).query).items()}
        assert json.loads(query["filter"]) == {"a": "b c"}, query
        index = int(fields["authorization"].removeprefix("Bearer token"))
        if "since" not in query:
            return await self._answer(writer, {"next_batch": "s0", "rooms": {}})
        return await self._poll(writer, index, int(query["since"][1:]), float(query["timeout"]) / 1000)

    async def _send(self, writer: asyncio.StreamWriter, target: str, body: bytes) -> bool:
        if target not in self.transactions:
            self.transactions.add(target)
            self.text = json.loads(body)["body"]
            async with self.news:
                self.number += 1
                self.news.notify_all()
        return await self._answer(writer, {"event_id": "$x"})

    async def _poll(self, writer: asyncio.StreamWriter, index: int, since: int, timeout: float) -> bool:
        b = self.b
        if b.fail_once and since == 1 and self.first("fail"):
            return await self._answer(writer, {"errcode": "M_UNKNOWN"}, status=500)
        if b.close_poll and since == 1 and index == 2 and self.first("close"):
            await asyncio.sleep(0.1)
            return False
        while True:
            async with self.news:
                try:
                    await asyncio.wait_for(self.news.wait_for(lambda: self.number > since), timeout)
                except asyncio.TimeoutError:
                    return await self._answer(writer, {"next_batch": f"s{since}"})
            since += 1
            numbers = b.plan(index, since)
            if numbers is not None:
                break
        prefix = self.text[: self.text.rindex("-") + 1]
        events = [{"type": "m.room.message", "content": {"body": f"{prefix}{n}; x"}} for n in numbers]
        answer = {"rooms": {"join": {"!r": {"timeline": {"events": events, "limited": b.limited}}}}}
        if not (b.no_token and self.first("token")):
            answer["next_batch"] = f"s{since}"
        return await self._answer(writer, answer, garbage=b.garbage and self.first("garbage"))

    async def _answer(
        self, writer: asyncio.StreamWriter, body: object, status: int = 200, garbage: bool = False
    ) -> bool:
        b = self.b
        raw = json.dumps(body, separators=(",", ":")).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
        if b.close_after:
            head += "Connection: close\r\n"
        if b.chunked:
            head += "Transfer-Encoding: chunked\r\n"
            pieces = [raw[i : i + 7] for i in range(0, len(raw), 7)]
            raw = b"".join(b"%x;a=b\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\nTrailer: x\r\n\r\n"
        elif not b.until_eof:
            head += f"Content-Length: {len(raw)}\r\n"
        data = head.encode() + b"\r\n" + raw + (b"HTTP" if garbage else b"")
        for piece in [data[i : i + 1] for i in range(len(data))] if b.bytewise else [data]:
            writer.write(piece)
            await writer.drain()
            if b.bytewise:
                await asyncio.sleep(0)
        return not (b.close_after or b.until_eof)


async def _run(behaviour: Behaviour, *extra: str) -> tuple[int, list[dict[str, object]], str]:
    server = Server(behaviour)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    port = str(listener.sockets[0].getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        tokens.write_text("".join(f"token{i}\n" for i in range(DEVICES)))
        process = await asyncio.create_subprocess_exec(
            *(LOAD, "--port", port, "--publish-port", port, "--tokens", str(tokens), "--publish-token", str(tokens)),
            *("--room", "!r:x", "--filter", '{"a":"b c"}', "-n", str(DEVICES), "--events", str(EVENTS), "--warm", "0"),
            *("--event-timeout", "1", "--total-timeout", "20", "--linger", "150", "--run", "T1", *extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)
    listener.close()
    assert process.returncode is not None
    return process.returncode, [json.loads(line) for line in out.splitlines()], err.decode()


def run(behaviour: Behaviour, *extra: str) -> tuple[int, dict[str, object], list[dict[str, object]], str]:
    """Run the generator; return exit status, summary, all lines, standard error."""
    status, lines, err = asyncio.run(_run(behaviour, *extra))
    return status, (lines[-1] if lines and "summary" in lines[-1] else {}), lines, err


WRONG = ("lost", "repeated", "disordered", "foreign", "limited", "bad_status", "bad_replies", "timeouts")


class LoadTest(unittest.TestCase):
    """Correct servers pass; each mistake is named."""

    def expect(self, behaviour: Behaviour, *extra: str, **wrong: int) -> list[dict[str, object]]:
        """Run and compare every counter of mistakes."""
        status, summary, lines, err = run(behaviour, *extra)
        self.assertEqual({k: summary.get(k) for k in WRONG}, {k: wrong.get(k, 0) for k in WRONG}, err)
        self.assertEqual((status, summary["correct"]), (1, False) if wrong else (0, True))
        return lines

    def test_correct(self) -> None:
        lines = self.expect(Behaviour())
        self.assertEqual(lines[-1]["deltas"], DEVICES * EVENTS)
        after = [line for line in lines if line.get("mark") == "after"]
        self.assertEqual([line["arrived"] for line in after], [DEVICES] * EVENTS)
        for line in after:
            self.assertGreater(line["first_ms"], 0)
            self.assertLessEqual(line["first_ms"], line["p50_ms"])
            self.assertLessEqual(line["p50_ms"], line["last_ms"])

    def test_chunked(self) -> None:
        self.expect(Behaviour(chunked=True))

    def test_bytewise(self) -> None:
        self.expect(Behaviour(bytewise=True))
        self.expect(Behaviour(bytewise=True, chunked=True))

    def test_connection_close(self) -> None:
        self.expect(Behaviour(close_after=True))
        self.expect(Behaviour(until_eof=True))

    def test_poll_closed(self) -> None:
        lines = self.expect(Behaviour(close_poll=True))
        self.assertEqual(lines[-1]["reconnects"], 1)

    def test_poll_timeouts_are_empty(self) -> None:
        lines = self.expect(Behaviour(), "--poll-timeout", "100", "--linger", "600")
        self.assertGreaterEqual(lines[-1]["empties"], DEVICES * 3)

    def test_lost(self) -> None:
        # Device 1 never gets message 2 but gets the third: found both as a wait in vain and at the end.
        self.expect(Behaviour(plan=lambda i, n: None if (i, n) == (1, 2) else [n]), lost=1, timeouts=1)

    def test_lost_last(self) -> None:
        self.expect(Behaviour(plan=lambda i, n: None if (i, n) == (1, EVENTS) else [n]), lost=1, timeouts=1)

    def test_repeated(self) -> None:
        self.expect(Behaviour(plan=lambda i, n: [1, 2] if (i, n) == (3, 2) else [n]), repeated=1)
        self.expect(Behaviour(plan=lambda i, n: [n, n] if (i, n) == (0, EVENTS) else [n]), repeated=1)

    def test_disordered(self) -> None:
        def plan(index: int, number: int) -> list[int] | None:
            if index == 0 and number < 3:
                return None if number == 1 else [2, 1]
            return [number]

        self.expect(Behaviour(plan=plan), disordered=1, timeouts=1)

    def test_foreign(self) -> None:
        self.expect(Behaviour(plan=lambda i, n: [n, n + 1] if (i, n) == (0, 1) else [n]), foreign=1)

    def test_limited(self) -> None:
        self.expect(Behaviour(limited=True), limited=DEVICES * EVENTS)

    def test_error_status(self) -> None:
        self.expect(Behaviour(fail_once=True), bad_status=1)

    def test_garbage(self) -> None:
        # The bytes may come with the answer (then the message counts as lost) or be read after it.
        status, summary, _, _ = run(Behaviour(garbage=True))
        self.assertEqual(status, 1)
        self.assertGreaterEqual(summary["bad_replies"], 1)

    def test_no_next_batch(self) -> None:
        self.expect(Behaviour(no_token=True), bad_replies=1)

    def test_initial_only(self) -> None:
        status, summary, lines, err = run(Behaviour(), "--initial-only")
        self.assertEqual((status, summary["initial_syncs"], summary["deltas"]), (0, DEVICES, 0), err)
        self.assertEqual(lines[0]["initial"], DEVICES)

    def test_usage(self) -> None:
        for wrong in (["--events", "x"], ["--port", "0"], ["--run", "a/b"], ["stray"], ["-n", "99"]):
            status, summary, _, err = run(Behaviour(), *wrong)
            self.assertEqual((status, summary), (2, {}), wrong)
            self.assertTrue(err)

    def test_nobody_there(self) -> None:
        status, _, _, err = run(Behaviour(), "--port", "1")
        self.assertEqual(status, 3)
        self.assertIn("connect", err)


if __name__ == "__main__":
    unittest.main()
