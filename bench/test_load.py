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
import socket
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, Callable
from urllib.parse import parse_qs, urlsplit

LOAD = sys.argv.pop(1) if len(sys.argv) > 1 else "bench_load"
DEVICES, EVENTS, STALLED = 4, 3, 3

# What device `index` gets when message `number` is out: a list of numbers, or None for nothing yet.
Line = dict[str, Any]
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
    nchan: bool = False  # positions in header fields
    other_rooms: bool = False  # everybody gets the messages of all rooms
    slow_probe: float = 0.0  # seconds that the probe waits for its answer
    no_token: bool = False  # one answer without next_batch
    ready: int = 0  # messages that are there from the beginning
    large: int = 0  # so many bytes are added to the answers to the first token
    drop: float = 0.0  # seconds until a reader that takes nothing is reset; 0: never
    busy: int = 0  # so many first answers of each device say nothing, with the token that was asked with


class Server:
    """Serves /sync and /send to one run of the generator."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.b = behaviour
        self.number = behaviour.ready
        self.news = asyncio.Condition()
        self.once: set[str] = set()
        self.transactions: set[str] = set()
        self.texts: list[str] = [f"bench-T1-{i + 1}; x" for i in range(behaviour.ready)]
        self.rooms: list[int] = [0] * behaviour.ready

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
        if head.startswith("PUBLISH"):  # as Redis, in its inline form
            for line in head.split("\r\n"):
                if line:
                    await self._publish(line.removeprefix("PUBLISH "), 0)
                    writer.write(b":1\r\n")
            return True
        method, target, _ = head.split(" ", 2)
        if target == "/probe":
            await asyncio.sleep(self.b.slow_probe)
            return await self._answer(writer, {})
        fields = {k.lower(): v for k, v in (line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)}
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        if method == "PUT":
            return await self._send(writer, target, body)
        query = {k: v[0] for k, v in parse_qs(urlsplit(target).query).items()}
        if self.b.nchan:
            since, index, timeout = fields.get("if-none-match"), 0, 60.0
            assert since is None or fields["if-modified-since"] == "then"
        else:
            assert json.loads(query["filter"]) == {"a": "b c"}, query
            index = int(fields["authorization"].removeprefix("Bearer token"))
            since, timeout = query.get("since"), float(query["timeout"]) / 1000
        if since is None:
            return await self._answer(writer, {"next_batch": "s0", "rooms": {}}, position="s0")
        if since == "s0" and any(self.first(f"busy {index} {time}") for time in range(self.b.busy)):
            return await self._answer(writer, {"next_batch": "s0"})
        return await self._poll(writer, index, int(since[1:]), timeout)

    async def _send(self, writer: asyncio.StreamWriter, target: str, body: bytes) -> bool:
        if target not in self.transactions:
            self.transactions.add(target)
            await self._publish(json.loads(body)["body"], int(target.split("/")[1]))
        return await self._answer(writer, {"event_id": "$x"})

    async def _publish(self, text: str, room: int) -> None:
        self.texts.append(text)
        self.rooms.append(room)
        async with self.news:
            self.number += 1
            self.news.notify_all()

    def _concerns(self, index: int, number: int) -> bool:
        """Tell whether a device is to see a message; those of rooms other than 0 are for one device alone."""
        room = self.rooms[number - 1]
        return self.b.other_rooms or room == 0 or room == index + 1

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
                    if self.number <= since:  # with no time to wait, wait_for() does not even look
                        await asyncio.wait_for(self.news.wait_for(lambda: self.number > since), timeout)
                except asyncio.TimeoutError:
                    return await self._answer(writer, {"next_batch": f"s{since}"})
            since += 1
            if not self._concerns(index, since):
                continue
            numbers = b.plan(index, since)
            if numbers is not None:
                break
        text = self.texts[-1]
        prefix = text[: text.rindex("-") + 1]
        events = [{"type": "m.room.message", "content": {"body": f"{prefix}{n}; x"}} for n in numbers]
        answer: dict[str, object] = {"rooms": {"join": {"!r": {"timeline": {"events": events, "limited": b.limited}}}}}
        if not (b.no_token and self.first("token")):
            answer["next_batch"] = f"s{since}"
        if since == 1:
            answer["pad"] = "x" * b.large
        garbage = b.garbage and self.first("garbage")
        return await self._answer(writer, answer, garbage=garbage, position=f"s{since}")

    async def _answer(
        self, writer: asyncio.StreamWriter, body: object, status: int = 200, garbage: bool = False, position: str = ""
    ) -> bool:
        b = self.b
        raw = json.dumps(body, separators=(",", ":")).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
        if b.nchan and position:
            head += f"ETag: {position}\r\nLast-Modified: then\r\n"
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
            if not await self._taken(writer):
                return False
            if b.bytewise:
                await asyncio.sleep(0)
        return not (b.close_after or b.until_eof)

    async def _taken(self, writer: asyncio.StreamWriter) -> bool:
        """Wait until a reader has taken what was written; reset its connection when it has not in time."""
        try:
            await asyncio.wait_for(writer.drain(), self.b.drop or None)
        except asyncio.TimeoutError:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        return True


def http_message(number: int, room: int = 0) -> bytes:
    """Return the request that sends a message."""
    body = json.dumps({"body": f"bench-T1-{number}; x"}).encode()
    return f"PUT /{room}/{number} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def closed_plan() -> bytes:
    """Return the plan of EVENTS messages, one after the other."""
    messages = [http_message(number) for number in range(1, EVENTS + 1)]
    return b"phase main closed 0\n" + b"".join(b"message 0 0 %d\n%s\n" % (len(m), m) for m in messages)


async def _run(behaviour: Behaviour, plan: bytes, rooms: str, extra: tuple[str, ...]) -> tuple[int, list[Line], str]:
    server = Server(behaviour)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    port = str(listener.sockets[0].getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        tokens, plan_file = Path(folder) / "tokens", Path(folder) / "plan"
        tokens.write_text("".join(f"token{i}{rooms.format(i + 1)}\n" for i in range(DEVICES + STALLED)))
        plan_file.write_bytes(plan)
        process = await asyncio.create_subprocess_exec(
            *(LOAD, "--port", port, "--publish-port", port, "--tokens", str(tokens), "--plan", str(plan_file)),
            *("--filter", '{"a":"b c"}', "-n", str(DEVICES)),
            *("--event-timeout", "1", "--total-timeout", "20", "--linger", "150", "--run", "T1", *extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)
    listener.close()
    assert process.returncode is not None
    return process.returncode, [json.loads(line) for line in out.splitlines()], err.decode()


def run(
    behaviour: Behaviour, *extra: str, plan: bytes | None = None, rooms: str = ""
) -> tuple[int, Line, list[Line], str]:
    """Run the generator; return exit status, summary, all lines, standard error."""
    status, lines, err = asyncio.run(_run(behaviour, closed_plan() if plan is None else plan, rooms, extra))
    return status, (lines[-1] if lines and "summary" in lines[-1] else {}), lines, err


WRONG = ("lost", "repeated", "disordered", "foreign", "limited", "bad_status", "bad_replies", "timeouts")


class LoadTest(unittest.TestCase):
    """Correct servers pass; each mistake is named."""

    def expect(
        self, behaviour: Behaviour, *extra: str, plan: bytes | None = None, rooms: str = "", **wrong: int
    ) -> list[Line]:
        """Run and compare every counter of mistakes."""
        status, summary, lines, err = run(behaviour, *extra, plan=plan, rooms=rooms)
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
        self.assertEqual(lines[1]["initial"], DEVICES)

    def test_workers(self) -> None:
        lines = self.expect(Behaviour(), "--workers", "3")
        self.assertEqual((lines[-1]["deltas"], lines[-1]["listeners"]), (DEVICES * EVENTS, DEVICES))
        self.expect(Behaviour(plan=lambda i, n: None if (i, n) == (3, 2) else [n]), "--workers", "3", lost=1, timeouts=1)

    def test_nchan(self) -> None:
        self.expect(Behaviour(nchan=True), "--protocol", "nchan")

    def test_rooms(self) -> None:
        # A room of everybody, and one of each device alone.
        messages = [(0, 1), (1, 2), (3, 3), (0, 4), (3, 5)]
        plan = b"phase main closed 1\n"
        for room, number in messages:
            raw = http_message(number, room)
            plan += b"message %d 0 %d\n%s\n" % (room, len(raw), raw)
        lines = self.expect(Behaviour(), plan=plan, rooms=" 0,{}")
        self.assertEqual(lines[-1]["messages"], 2 * DEVICES + 3)
        arrived = [line["arrived"] for line in lines if line.get("mark") == "after"]
        self.assertEqual(arrived, [DEVICES, 1, 1, DEVICES, 1])
        # Who gets another one's is found out; so is a device that misses its own.
        self.expect(Behaviour(other_rooms=True), plan=plan, rooms=" 0,{}", foreign=3 * (DEVICES - 1))
        lost = Behaviour(plan=lambda i, n: None if n == 3 else [n])
        self.expect(lost, plan=plan, rooms=" 0,{}", lost=1, timeouts=1)

    def test_open_loop(self) -> None:
        plan = b"phase fast open\n"
        for number in range(1, 21):
            raw = http_message(number)
            plan += b"message 0 %d %d\n%s\n" % (number * 10000, len(raw), raw)
        lines = self.expect(Behaviour(), plan=plan)
        after = next(line for line in lines if line.get("mark") == "after")
        self.assertEqual((after["sent"], after["messages"], after["count"]), (20, 20 * DEVICES, 20 * DEVICES))
        self.assertGreaterEqual(after["took_ms"], 200)
        self.expect(Behaviour(plan=lambda i, n: None if (i, n) == (1, 7) else [n]), plan=plan, lost=1, timeouts=1)

    def test_redis(self) -> None:
        messages = [b"PUBLISH bench-T1-%d; x\r\n\r\n" % number for number in range(1, EVENTS + 1)]
        plan = b"phase main closed 0\n" + b"".join(b"message 0 0 %d\n%s\n" % (len(m), m) for m in messages)
        self.expect(Behaviour(), "--publisher", "redis", plan=plan)

    def test_past(self) -> None:
        # Devices that come back: what was sent before must be in their first answers, once.
        plan = b"past 0\npast 0\nphase main closed 0\n"
        raw = http_message(3)
        plan += b"message 0 0 %d\n%s\n" % (len(raw), raw)

        def catch_up(index: int, number: int) -> list[int] | None:
            return [1, 2, 3] if number == 1 else None

        lines = self.expect(Behaviour(plan=catch_up), "--since", "s0", "--params", "&a=b", plan=plan)
        self.assertEqual(lines[-1]["messages"], 3 * DEVICES)

    def test_past_of_a_busy_server(self) -> None:
        # An answer with the same token is none: the device asks again, and only then has what it missed.
        behaviour = Behaviour(busy=2, plan=lambda index, number: [1] if number == 1 else None)
        extra = ("--since", "s0", "--initial-only", "--params", "&a=b")
        plan = b"past 0\n"
        status, summary, lines, err = run(dataclasses.replace(behaviour, ready=1), *extra, plan=plan)
        self.assertIn("messages", summary, err)
        self.assertEqual((status, summary["messages"], summary["empties"]), (0, DEVICES, 2 * DEVICES), err)
        initial = next(line for line in lines if "initial" in line)
        self.assertGreaterEqual(initial["p50_ms"], 200)  # the time of all three
        # One that loses it is found.
        nothing = dataclasses.replace(behaviour, ready=1, plan=lambda index, number: [] if number == 1 else None)
        status, summary, _, err = run(nothing, *extra, plan=plan)
        self.assertEqual((status, summary["lost"]), (1, DEVICES), err)

    def stalled(self, behaviour: Behaviour, *more: str, **wrong: int) -> list[Line]:
        """Run with devices that stop reading; 1 was said before, 2 while all read, 3 while some do not."""
        two, three = http_message(2), http_message(3)
        plan = b"past 0\nphase alone closed 0\nmessage 0 0 %d\n%s\nphase stall stall\n" % (len(two), two)
        plan += b"phase beside closed 0\nmessage 0 0 %d\n%s\nphase back back\n" % (len(three), three)
        behaviour = dataclasses.replace(behaviour, ready=1, large=behaviour.large or 3_000_000)
        extra = ("--since", "s0", "--stalled", str(STALLED))
        return self.expect(behaviour, *extra, *more, plan=plan, **wrong)

    def test_stalled(self) -> None:
        lines = self.stalled(Behaviour(drop=0.6), "--event-timeout", "10")
        self.assertEqual(lines[-1]["messages"], 3 * (DEVICES + STALLED))
        marks = {line["mark"] + line.get("phase", ""): line for line in lines if "mark" in line}
        self.assertEqual([marks[mark]["stuck"] for mark in ("afteralone", "stalled", "dropped")], [0, STALLED, 0])
        # Who listens waits for nobody, and those who do not read are not waited for.
        self.assertEqual([marks[mark]["arrived"] for mark in ("afteralone", "afterbeside")], [DEVICES] * 2)
        self.assertGreater(marks["stalled"]["answer_bytes"], STALLED * 3_000_000)
        self.assertLess(marks["stalled"]["taken_bytes"], STALLED * 65536)
        self.assertGreater(marks["stalled"]["taken_bytes"], 0)
        self.assertEqual(marks["dropped"]["dropped"], STALLED)
        self.assertGreaterEqual(marks["dropped"]["first_drop_ms"], 500)

    def test_stalled_and_never_dropped(self) -> None:
        lines = self.stalled(Behaviour())
        beside = next(line for line in lines if line.get("mark") == "after" and line["phase"] == "beside")
        dropped = next(line for line in lines if line.get("mark") == "dropped")
        self.assertEqual([(line["stuck"], line["dropped"]) for line in (beside, dropped)], [(STALLED, 0)] * 2)

    def test_stalled_by_an_answer_too_short(self) -> None:
        lines = self.stalled(Behaviour(large=10))
        begun = next(line for line in lines if line.get("mark") == "stalled")
        self.assertEqual((begun["stuck"], begun["whole"]), (0, STALLED))

    def test_mistakes_after_coming_back(self) -> None:
        # One of those who stalled lacks a message, or gets one twice.
        lost = Behaviour(drop=0.3, plan=lambda i, n: None if (i, n) == (DEVICES, 3) else [n])
        self.stalled(lost, lost=1, timeouts=1)
        again = Behaviour(drop=0.3, plan=lambda i, n: [2, 3] if (i, n) == (DEVICES + 1, 3) else [n])
        self.stalled(again, repeated=1)

    def test_probe(self) -> None:
        # One slow answer stands for all that would have been asked meanwhile.
        arguments = ("--probe-path", "/probe", "--probe-us", "10000", "--idle", "50")
        lines = self.expect(Behaviour(slow_probe=0.2), *arguments)
        for line in lines:
            if line.get("mark") == "after":
                self.assertGreaterEqual(line["probe_last_ms"], 190)
                self.assertGreaterEqual(line["probe_count"], 15)
                self.assertLess(line["probe_p50_ms"], line["probe_last_ms"])

    def test_usage(self) -> None:
        for wrong in (["--stalled", "1"], ["--probe-us", "x"], ["--port", "0"], ["--run", "a/b"], ["stray"], ["-n", "99"]):
            status, summary, _, err = run(Behaviour(), *wrong)
            self.assertEqual((status, summary), (2, {}), wrong)
            self.assertTrue(err)

    def test_malformed_plans(self) -> None:
        stalls = (b"phase a stall\nmessage 0 0 1\nx\n", b"phase a back\n")  # with a message in it; with nobody to come back
        for wrong in (*stalls, b"message 0 0 1\nx\n", b"phase a closed 0\nmessage 0 0 5\nx\n", b"phase a closed 0\nnonsense\n"):
            self.assertEqual(run(Behaviour(), plan=wrong)[0], 2, wrong)

    def test_nobody_there(self) -> None:
        status, _, _, err = run(Behaviour(), "--port", "1")
        self.assertEqual(status, 3)
        self.assertIn("connect", err)


if __name__ == "__main__":
    unittest.main()
