# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Token interchange: a client that moves between servers must end where one ends that stays with Synapse.

A generated script is carried out, but each of its devices is two: the one asks the Synapse worker alone, its
twin asks at the same moments with the same filter, each time at a server chosen at random, with the token that
another server may have given. Nothing is waited for between, so a token is often ahead of the server that gets it.
Some answers to the twin are lost: it asks again with the same token, perhaps elsewhere. Servers may be killed
and started again on the way. What both believe (client_model.py) is compared now and then and at the end, when
the servers stand still, with each other and with what Synapse itself says by other ways than /sync:
memberships in the database, /state, /messages, /keys/query, account data. So that both being wrong shows too.

A device keeps its filter for life, as clients do; the filters of the script's questions are not used.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import http.client
import json
import random
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from stack.matrix import Client, MatrixError
from stack.process import Process
from support.world import World

from oracle import truth
from oracle.client_model import ClientModel, ModelError
from oracle.context import Context, Device, Mismatch
from oracle.differ import differences
from oracle.script import Executor, Missing, Script, Step

Json = dict[str, Any]

_POLL_MS = 4000
_DRAIN_ROUNDS = 12
_ALWAYS = {"next_batch", "device_one_time_keys_count", "device_unused_fallback_key_types"}
_STATE_AFTER = "org.matrix.msc4222.use_state_after"
NEEDS: Json = {
    "allow_guest_access": True,
    "experimental_features": {"msc4222_enabled": True},
    "caches": {"sync_response_cache_duration": "2m"},
}


@dataclasses.dataclass(frozen=True)
class Habit:
    """How a device asks, as long as it lives."""

    limit: int
    lazy: bool = False
    redundant: bool = False
    state_after: bool = False
    threads: bool = False
    include_leave: bool = False

    @property
    def filter(self) -> Json:
        """The filter of /sync."""
        timeline: Json = {"limit": self.limit, **({"unread_thread_notifications": True} if self.threads else {})}
        room: Json = {"timeline": timeline, "include_leave": self.include_leave}
        if self.lazy:
            room["state"] = {"lazy_load_members": True, "include_redundant_members": self.redundant}
        return {"room": room}

    def query(self, store: int) -> Json:
        """The query of every question. The number of the client's store keeps first answers from being old ones.

        For those two minutes old Synapse does not forget which members it sent after them.
        """
        more = {_STATE_AFTER: True} if self.state_after else {}
        return {"filter": {**self.filter, "org.example.store": store}, "set_presence": "offline", **more}


HABITS = (
    Habit(20, lazy=True, threads=True),  # element-web
    Habit(3, lazy=True),
    Habit(1, lazy=True, include_leave=True),
    Habit(5, lazy=True, state_after=True),
    Habit(4, lazy=True, redundant=True),
    Habit(10),
    Habit(2, threads=True, include_leave=True),
    Habit(1),
    Habit(3, state_after=True),
)


@dataclasses.dataclass
class Tally:
    """What was done in some runs."""

    syncs: int = 0
    moves: int = 0
    lost: int = 0
    restarts: int = 0
    broken: int = 0  # requests that a killed server did not answer
    filled: int = 0  # events that came by /messages
    checks: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{value} {name}" for name, value in dataclasses.asdict(self).items())


class Side:
    """One of two twins: a logged-in device, what it believes, and the servers that it asks."""

    def __init__(self, run: "Interchange", client: Client, habit: Habit, servers: list[str], seed: str) -> None:
        self.run, self.client, self.habit, self.servers = run, client, habit, servers
        self.random = random.Random(seed)
        # Synapse believes that a client has every member it was ever sent: what the client lost, or threw away and
        # began again elsewhere, is missing for good. Where Synapse is among the servers, a client that loads members
        # lazily must hence lose nothing that Synapse said, and begin there.
        self.fragile = habit.lazy and not habit.redundant and run.context.reference_url in servers
        self.store = 1
        self.model = self.fresh()
        self.keys: dict[str, Any] = {}  # device keys of the users that the client follows
        self.last = ""
        self._acknowledged = 0  # to-device messages that came before the last answer
        self.history: list[str] = []

    def fresh(self) -> ClientModel:
        """Return the model of a client with an empty store."""
        return ClientModel(
            self.client.user_id,
            self.client.device_id,
            state_after=self.habit.state_after,
            # Of heroes Synapse remembers what it sent even to who wants redundant members.
            heroes=not self.habit.redundant,
        )

    def forget_all(self) -> None:
        """Empty the client's store. What the last answer brought was not acknowledged, and comes again."""
        self.store += 1
        received = self.model.to_device[: self._acknowledged]
        self.model, self.keys = self.fresh(), {}
        self.model.to_device = received

    def ask(self, title: str, timeout: int = 0, **query: Any) -> Json:
        """Ask once, as often as it takes to get an answer; apply it."""
        query = {**self.habit.query(self.store), "timeout": timeout, "since": self.model.next_batch, **query}
        while True:
            url = self.random.choice(self.servers)
            lost = len(self.servers) > 1 and self.random.random() < self.run.loss
            if self.fragile and self.model.next_batch is None:
                url = self.run.context.reference_url
            if self.fragile and url == self.run.context.reference_url:
                lost = False
            try:
                body = self._once(url, query)
            except (OSError, http.client.HTTPException):
                if len(self.servers) == 1:
                    raise
                self.run.tally.broken += 1
                time.sleep(0.05)
                continue
            self.run.tally.syncs += 1
            self.run.tally.moves += bool(self.last) and self.last != url
            self.last = url
            self.history.append(f"{title}: {self.run.names_of[url]}{' (lost)' if lost else ''} since {query['since']}")
            if not lost:
                break
            self.run.tally.lost += 1
            query["timeout"] = 0
        self._acknowledged = len(self.model.to_device)
        try:
            self.model.apply(body, f"{title}, from {self.run.names_of[url]}")
        except ModelError as error:
            asked = "\n    ".join(self.history[-12:])
            path = self.run.keep(body)
            raise Mismatch(
                f"{self.run.script.name}, {self.habit}: {error}\n  the answer: {path}\n  its last questions:\n    {asked}"
            ) from error
        self._follow()
        return body

    def _once(self, url: str, query: Json) -> Json:
        client = Client(url, self.client.user_id, self.client.token, self.client.device_id)
        try:
            return client.sync(**query)
        finally:
            client.link.close()

    def _follow(self) -> None:
        """Ask for the devices of users that are new or have changed, as clients with encryption do."""
        if self.model.applied == 1:
            self.model.outdated |= truth.neighbours(self.client)
        for user in self.model.untracked:
            self.keys.pop(user, None)
        if self.model.outdated:
            self.keys.update(truth.device_keys(self.client, self.model.outdated))
            self.model.outdated = set()

    def drain(self, title: str) -> None:
        """Ask until nothing new comes."""
        for _ in range(_DRAIN_ROUNDS):
            if self.ask(title).keys() <= _ALWAYS:
                return
        raise Mismatch(f"{title}: {self.client.device_id} gets something new every time")

    def page(self, room: str, token: str | None) -> Json:
        """Return a page of a room's events, backwards."""
        query = {"dir": "b", "limit": "25", **({"from": token} if token else {})}
        return dict(self.client.call("GET", f"/rooms/{quote(room)}/messages?{urlencode(query)}"))


@dataclasses.dataclass
class Pair:
    """A device of the script: the one that stays, and its twin that moves."""

    name: str
    stays: Side
    moves: Side

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both."""
        return self.stays, self.moves


class InterchangeContext(Context):
    """Settles all servers, however many."""

    def __init__(self, world: World, name: str, servers: dict[str, str], report: Path) -> None:
        super().__init__(world, name, world.worker, world.target, report)
        self.servers = servers
        self.stored: dict[tuple[str, str], Json] = {}  # the executor notes stored filters here

    def stir(self) -> None:
        """Something is about to be written: nothing to do, nothing is waited for."""

    def found_at(self, action: str) -> str:
        """Return where else a room may be found: nowhere, there is one homeserver."""
        return ""

    def arrive(self, device: Device, event_id: str | None) -> None:
        """Something was written: nothing is waited for."""

    def whole(self, room_id: str) -> None:
        """Somebody has joined: nothing is waited for."""

    def settle(self) -> None:
        """Wait until every server has caught up with the main process."""
        for url in self.servers:
            self.subject_url = url
            super().settle()


class Interchange(Executor):
    """Carries a script out with twins in place of devices."""

    def __init__(
        self,
        context: InterchangeContext,
        script: Script,
        seed: int,
        *,
        movers: list[str],
        mortal: list[Process],
        tally: Tally,
        loss: float = 0.1,
    ) -> None:
        """`movers` are the addresses among which the twins choose; `mortal` may be killed on the way."""
        super().__init__(context, script)
        self.interchange = context
        self.names_of = context.servers
        self.movers, self.mortal, self.tally, self.loss = movers, mortal, tally, loss
        self.random = random.Random(f"interchange {seed}")
        self.pairs: dict[str, Pair] = {}
        self.sent: dict[str, list[Json]] = {}  # to-device messages by device of the script
        self.ignored: set[str] = set()
        self.serial = 0
        self._twins = concurrent.futures.ThreadPoolExecutor(2)

    def run(self) -> None:
        """Carry out every step, with checks after some."""
        steps = self.script.steps
        checks = {(len(steps) * 2) // 3}
        deaths = {self.random.randrange(len(steps)) for _ in self.mortal}
        try:
            for self.at, step in enumerate(steps):
                if self.at in checks:
                    self.check()
                if self.at in deaths:
                    self.restart(self.random.choice(self.mortal))
                self.step(step)
            self.check()
        finally:
            self._pool.shutdown()
            self._twins.shutdown()

    def restart(self, process: Process) -> None:
        """Kill a server as a crash would, and start it again; twins notice by themselves."""
        self.tally.restarts += 1
        process.kill()
        for pair in list(self.pairs.values()):
            if self.random.random() < 0.5:
                self.together(pair, f"while {process.name} is down")
        process.start()
        process.wait_ready()

    def keep(self, body: Json) -> Path:
        """Save an answer for whoever looks for the reason of a failure."""
        folder = self.context.report / "interchange"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.script.name}.json"
        path.write_text(json.dumps(body, indent=1, ensure_ascii=False))
        return path

    # -- steps that are done in another way ------------------------------------------------------

    def do_login(self, step: Step) -> None:
        """Log a device and its twin in; a client that logs in has an empty store."""
        super().do_login(step)
        name = step["device"]
        stays = self.devices[name].do
        moves = self.context.device(stays.user_id, f"{stays.device_id}-twin").do
        if name in self.pairs:
            for side, client in zip(self.pairs[name].sides, (stays, moves)):
                side.client = client
                side.forget_all()
            return
        habit = self.random.choice(HABITS)
        serial = self._count()
        self.pairs[name] = Pair(
            name,
            Side(self, stays, habit, [self.context.reference_url], f"{serial} stays"),
            Side(self, moves, habit, self.movers, f"{serial} moves {self.random.random()}"),
        )
        self.sent[name] = []

    def do_logout(self, step: Step) -> None:
        """End both sessions."""
        super().do_logout(step)
        self._end(step["who"])

    def do_delete_device(self, step: Step) -> None:
        """Delete a device and its twin."""
        super().do_delete_device(step)
        self._end(step["device"])

    def _end(self, name: str) -> None:
        pair = self.pairs.pop(name, None)
        if pair is not None:
            pair.moves.client.logout()

    def do_call(self, step: Step) -> None:
        """To-device messages go to both twins."""
        if "/sendToDevice/" not in step["path"]:
            super().do_call(step)
            return
        serial = self._count()
        messages = self.fill(step["body"])["messages"]
        for devices in messages.values():
            for device in list(devices):
                devices[device] = {**devices[device], "serial": serial}
                if device != "*":
                    devices[f"{device}-twin"] = devices[device]
        super().do_call({**step, "path": f"{step['path']}.{serial}", "body": {"messages": messages}})
        for name, pair in self.pairs.items():
            for_user = messages.get(pair.stays.client.user_id, {})
            content = for_user.get(pair.stays.client.device_id, for_user.get("*"))
            if content is not None:
                self.sent[name].append(content)

    def do_account(self, step: Step) -> None:
        """Whom one ignores decides what both are shown: the servers must agree on when."""
        super().do_account(step)
        if step["type"] == "m.ignored_user_list":
            self.ignored |= set(self.fill(step["content"]).get("ignored_users", {}))
            self.context.settle()

    def do_sync(self, step: Step) -> None:
        """Both ask."""
        pair = self._pair(step["who"])
        if step.get("from", "onwards") is None:
            for side in pair.sides:
                side.forget_all()
        query = {key: value for key, value in step.get("query", {}).items() if key == "full_state"}
        timeout = self.random.choice((0, 0, 0, 200))
        self.together(pair, self.title(step), timeout=timeout, **query)

    def do_poll(self, step: Step) -> None:
        """Both wait, and something happens meanwhile."""
        pair = self._pair(step["who"])
        polls = [
            self._twins.submit(side.ask, self.title(step), _POLL_MS if side.model.next_batch else 0)
            for side in pair.sides
        ]
        time.sleep(0.1)
        try:
            for inner in step["steps"]:
                self.step(inner)
        finally:
            for poll in polls:
                poll.result()

    def do_crowd(self, step: Step) -> None:
        """Several wait, and something happens meanwhile."""
        pairs = [self.pairs[ask["who"]] for ask in step["asks"] if ask["who"] in self.pairs]
        title = f"line {self.at + 1}, a crowd of {len(pairs)}"
        sides = [side for pair in pairs for side in pair.sides]
        with concurrent.futures.ThreadPoolExecutor(max(1, len(sides))) as pool:
            polls = [pool.submit(side.ask, title, 1500 if side.model.next_batch else 0) for side in sides]
            time.sleep(0.1)
            for inner in step["steps"]:
                self.step(inner)
            for poll in polls:
                poll.result()

    def together(self, pair: Pair, title: str, **query: Any) -> None:
        """Both ask at the same moment."""
        asks = [self._twins.submit(side.ask, title, **query) for side in pair.sides]
        for ask in asks:
            ask.result()

    def _pair(self, name: str) -> Pair:
        if name not in self.pairs:
            raise Missing(name)
        return self.pairs[name]

    def _count(self) -> int:
        self.serial += 1
        return self.serial

    # -- checks ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Let everything come to rest, then compare every pair with each other and with the truth."""
        self.context.settle()
        for pair in self.pairs.values():
            self.tally.checks += 1
            for attempt in range(3):
                found = self._compare(pair)
                # Presence and typing move by timers.
                if not found or not all(".typing" in text or "presence" in text for text in found):
                    break
                time.sleep(0.5)
            if found:
                self._report(pair, found)

    def _compare(self, pair: Pair) -> list[str]:
        for side in pair.sides:
            side.drain(f"{pair.name} at the check after line {self.at}")
        facts = truth.Facts(self.context.world, pair.stays.client, self.ignored)
        for side in pair.sides:
            for room_id in facts.readable & side.model.rooms.keys():
                self.tally.filled += side.model.fill(room_id, side.page, room_id in facts.forked)
        found = self._between(pair, facts)
        for side, who in zip(pair.sides, ("who stayed", "who moved")):
            found += [f"{who}: {text}" for text in facts.contradictions(side.model, side.habit.lazy, side.keys)]
            got = [message["content"] for message in side.model.to_device if "serial" in message["content"]]
            if got != self.sent[pair.name]:
                found.append(f"{who}: to-device messages are {got}, sent were {self.sent[pair.name]}")
        return found

    def _between(self, pair: Pair, facts: "truth.Facts") -> list[str]:
        """Compare the twins' beliefs."""
        shown = [side.model.snapshot() for side in pair.sides]
        for room_id in shown[0]["rooms"].keys() | shown[1]["rooms"].keys():
            rooms = [side["rooms"].get(room_id) for side in shown]
            if room_id in facts.forgotten or room_id not in facts.memberships:
                for side in shown:
                    side["rooms"].pop(room_id, None)
            elif all(rooms):
                facts.level(room_id, *rooms)
                if pair.stays.habit.redundant:
                    summaries = [side.model.rooms[room_id].summary for side in pair.sides]
                    truth.level_heroes({hero for summary in summaries for hero in summary.get("m.heroes", [])}, *rooms)
        for side in shown:
            side["presence"] = {user: what for user, what in side["presence"].items() if user in facts.neighbours}
        return [f"who stayed and who moved differ {difference}" for difference in differences(*shown)]

    def _report(self, pair: Pair, found: list[str]) -> None:
        shown = "\n  ".join(found[:4]) + (f"\n  … and {len(found) - 4} more" if len(found) > 4 else "")
        asked = "\n    ".join(pair.moves.history[-12:])
        raise Mismatch(
            f"{self.script.name}, {pair.name} ({pair.stays.habit}), check after line {self.at}:\n  {shown}\n"
            f"  the last questions of who moved:\n    {asked}"
        )


__all__ = ["HABITS", "Interchange", "InterchangeContext", "MatrixError", "ModelError", "NEEDS", "Tally"]
