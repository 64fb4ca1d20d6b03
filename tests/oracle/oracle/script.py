# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Scenarios as data: a list of steps with symbolic names, and what carries them out.

A step is one JSON object with "do" and its arguments; a script is a file of them, one on a line. Users are called
"ann", devices "ann/D1", rooms "r1", events "e7", tokens "t3", stored filters "f2"; inside of any text "<r1>" stands for
what the name turned out to mean. Nothing depends on anything else outside of the script, hence any steps may be
left out (which is how failures are shortened) and hundreds of scripts run on one deployment, each with users of its own.

A write that the server refuses is no harm. A step that names what does not exist, because it was refused or left out, is
passed over. What each step does is in the method of its name.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import re
import time
from pathlib import Path
from typing import Any, Callable
from urllib.parse import quote

from stack.matrix import Client, MatrixError
from support.world import PASSWORD

from oracle.context import Device
from oracle.generated import GeneratedContext

Json = dict[str, Any]
Step = dict[str, Any]

_NAME = re.compile(r"<([a-z][A-Za-z0-9/]*)>")
_PROFILE_SECONDS = 10.0
_TRANSACTIONS = itertools.count(1)


@dataclasses.dataclass
class Script:
    """Steps, and what they are called together."""

    name: str
    steps: list[Step]

    def save(self, path: Path, *remarks: str) -> None:
        """Write the script, one step on a line, below some lines of remarks."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"# {line}" for remark in remarks for line in remark.splitlines()]
        lines += [json.dumps(step, ensure_ascii=False) for step in self.steps]
        path.write_text("\n".join(lines) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Script":
        """Read a script; lines that begin with # are remarks. Contents may hold other line ends than \\n."""
        lines = [line for line in path.read_text().split("\n") if line.strip() and not line.startswith("#")]
        return cls(path.stem, [json.loads(line) for line in lines])


class Missing(Exception):
    """A step names what does not exist."""


class Executor:
    """Carries a script out with fresh users. Override `sync` or `poll` to do something else than compare."""

    def __init__(self, context: GeneratedContext, script: Script) -> None:
        self.context, self.script = context, script
        self.names: dict[str, str] = {}
        self.devices: dict[str, Device] = {}
        self.done: dict[str, int] = {"done": 0, "refused": 0, "passed over": 0}
        self.at = 0
        self.idle: set[int] = set()  # steps that were refused or passed over
        self.seconds: collections.Counter[str] = collections.Counter()
        self._pool = concurrent.futures.ThreadPoolExecutor(8)

    def run(self) -> None:
        """Carry out every step."""
        try:
            for self.at, step in enumerate(self.script.steps):
                if self.step(step) != "done":
                    self.idle.add(self.at)
        finally:
            self._pool.shutdown()

    def step(self, step: Step) -> str:
        """Carry out one step; count what became of it, and tell."""
        begun = time.monotonic()
        try:
            getattr(self, "do_" + step["do"])(step)
            outcome = "done"
        except MatrixError:
            outcome = "refused"
        except Missing:
            outcome = "passed over"
        self.done[outcome] += 1
        self.seconds[step["do"]] += time.monotonic() - begun
        return outcome

    # -- names -----------------------------------------------------------------------------------

    def device(self, name: str) -> Device:
        """Return the device of a name."""
        if name not in self.devices:
            raise Missing(name)
        return self.devices[name]

    def real(self, name: str) -> str:
        """Return what a name stands for."""
        if name not in self.names:
            raise Missing(name)
        return self.names[name]

    def fill(self, value: Any) -> Any:
        """Replace every <name> inside of a value."""
        if isinstance(value, str):
            return _NAME.sub(lambda found: self.real(found.group(1)), value)
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if isinstance(value, dict):
            return {self.fill(key): self.fill(item) for key, item in value.items()}
        return value

    def write(self, step: Step, method: str, path: str, body: Any = None) -> Json:
        """Send a write of the step's device to the main process; remember the event when the step names it."""
        self.context.stir()
        answer = dict(self.device(step["who"]).do.call(method, path, body) or {})
        if "as" in step and "event_id" in answer:
            self.names[step["as"]] = answer["event_id"]
        self.context.arrive(self.device(step["who"]), answer.get("event_id"))
        return answer

    def room(self, step: Step) -> str:
        """Return the path of the step's room."""
        return f"/rooms/{quote(self.real(step['room']), safe='')}"

    # -- users and devices -----------------------------------------------------------------------

    def do_user(self, step: Step) -> None:
        """Register a user: user."""
        self.context.stir()
        self.names[step["user"]] = self.context.world.new_user(step["user"])

    def do_guest(self, step: Step) -> None:
        """Register a guest, who has one device: user."""
        self.context.stir()
        client = Client(self.context.world.main)
        answer = client.call("POST", "/register?kind=guest", {})
        client.user_id, client.token, client.device_id = (answer[k] for k in ("user_id", "access_token", "device_id"))
        self.names[step["user"]] = client.user_id
        self.devices[f"{step['user']}/D1"] = Device(self.context, client)

    def do_remote(self, step: Step) -> None:
        """Register a user of the second homeserver, with a device that never asks: user."""
        client = self.context.federation.user(step["user"])
        self.names[step["user"]] = client.user_id
        self.devices[f"{step['user']}/R1"] = Device(self.context, client)

    def do_login(self, step: Step) -> None:
        """Log a device in, perhaps again: device."""
        user, device = step["device"].split("/")
        self.context.stir()
        self.devices[step["device"]] = self.context.device(self.real(user), device)

    def do_logout(self, step: Step) -> None:
        """End a device's session: who."""
        self.write(step, "POST", "/logout")
        del self.devices[step["who"]]

    def do_delete_device(self, step: Step) -> None:
        """Delete another device of one's own: who, device."""
        user, device = step["device"].split("/")
        self.device(step["device"])
        auth = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.real(user)},
            "password": PASSWORD,
        }
        self.write(step, "DELETE", f"/devices/{device}", {"auth": auth})
        del self.devices[step["device"]]

    def do_profile(self, step: Step) -> None:
        """Change the global profile, and wait until it has reached the rooms: who, field, value."""
        device = self.device(step["who"])
        user = quote(device.user_id)
        field = step["field"]
        self.write(step, "PUT", f"/profile/{user}/{field}", {field: step["value"]})
        for room in device.do.call("GET", "/joined_rooms")["joined_rooms"]:
            limit = time.monotonic() + _PROFILE_SECONDS
            while time.monotonic() < limit:
                content = device.do.call("GET", f"/rooms/{quote(room)}/state/m.room.member/{user}")
                if (content.get(field) or "") == step["value"]:
                    break
                time.sleep(0.02)

    def do_presence(self, step: Step) -> None:
        """Set presence: who, state, message."""
        self.context.stir()
        self.device(step["who"]).do.presence(step["state"], step.get("message"))

    # -- rooms -----------------------------------------------------------------------------------

    def do_create(self, step: Step) -> None:
        """Make a room: who, room, options."""
        answer = self.write(step, "POST", "/createRoom", self.fill(step["options"]))
        self.names[step["room"]] = answer["room_id"]

    def do_upgrade(self, step: Step) -> None:
        """Upgrade a room: who, room, version, into."""
        answer = self.write(step, "POST", f"{self.room(step)}/upgrade", {"new_version": step["version"]})
        self.names[step["into"]] = answer["replacement_room"]

    def do_membership(self, step: Step) -> None:
        """Change a membership: who, room, action, and for invite, kick, ban, unban the user; as: its event."""
        body = {key: self.real(step[key]) for key in ("user",) if key in step}
        body = {"user_id": body["user"]} if body else {}
        if "reason" in step:
            body["reason"] = step["reason"]
        room, action = self.real(step["room"]), step["action"]
        path = f"/{action}/{quote(room)}" if action in ("join", "knock") else f"/rooms/{quote(room)}/{action}"
        self.write(step, "POST", path + self.context.found_at(action), body)
        self.context.whole(room)
        if "as" in step:
            device = self.device(step["who"])
            user = quote(body.get("user_id", device.user_id))
            event = device.do.call("GET", f"/rooms/{quote(room)}/state/m.room.member/{user}?format=event")
            self.names[step["as"]] = event["event_id"]

    def do_send(self, step: Step) -> None:
        """Send an event: who, room, type, content, as."""
        kind, content = quote(step["type"], safe=""), self.fill(step["content"])
        path = f"{self.room(step)}/send/{kind}/s{next(_TRANSACTIONS)}.{time.time_ns()}"
        self.write(step, "PUT", path, content)

    def do_state(self, step: Step) -> None:
        """Set state: who, room, type, key, content, as."""
        kind, key = (quote(self.fill(step.get(field, "")), safe="") for field in ("type", "key"))
        self.write(step, "PUT", f"{self.room(step)}/state/{kind}/{key}", self.fill(step["content"]))

    def do_redact(self, step: Step) -> None:
        """Redact an event: who, room, event, as."""
        event = quote(self.real(step["event"]), safe="")
        path = f"{self.room(step)}/redact/{event}/s{next(_TRANSACTIONS)}.{time.time_ns()}"
        self.write(step, "PUT", path, {"reason": step["reason"]} if "reason" in step else {})

    def do_receipt(self, step: Step) -> None:
        """Send a receipt: who, room, event, kind, thread (an event's name, or main)."""
        thread = step.get("thread")
        body = {} if thread is None else {"thread_id": "main" if thread == "main" else self.real(thread)}
        event = quote(self.real(step["event"]), safe="")
        self.write(step, "POST", f"{self.room(step)}/receipt/{step['kind']}/{event}", body)

    def do_typing(self, step: Step) -> None:
        """Start or stop typing: who, room, on."""
        body = {"typing": step["on"], **({"timeout": 300000} if step["on"] else {})}
        user = quote(self.device(step["who"]).user_id)
        self.write(step, "PUT", f"{self.room(step)}/typing/{user}", body)

    def do_account(self, step: Step) -> None:
        """Set account data: who, type, content, perhaps room."""
        where = self.room(step) if "room" in step else ""
        path = f"/user/{quote(self.device(step['who']).user_id)}{where}/account_data/{quote(step['type'])}"
        self.write(step, "PUT", path, self.fill(step["content"]))

    def do_call(self, step: Step) -> None:
        """Send any other request: who, method, path, body."""
        path = _NAME.sub(lambda found: quote(self.real(found.group(1)), safe=""), step["path"])
        self.write(step, step["method"], path, self.fill(step.get("body")))

    def do_wait(self, step: Step) -> None:
        """Wait: seconds."""
        time.sleep(float(step["seconds"]))

    def do_together(self, step: Step) -> None:
        """Carry out several steps at once: steps."""
        for future in [self._pool.submit(self.step, inner) for inner in step["steps"]]:
            future.result()

    # -- questions -------------------------------------------------------------------------------

    def do_filter(self, step: Step) -> None:
        """Store a filter: who, as, filter."""
        device, definition = self.device(step["who"]), self.fill(step["filter"])
        self.names[step["as"]] = device.do.filter(definition)
        self.context.stored[device.user_id, self.names[step["as"]]] = definition

    def do_sync(self, step: Step) -> None:
        """Ask: who; from ("onwards" when absent, a token's name, or null: from nothing); filter; query; as."""
        device = self.device(step["who"])
        self.sync(device, self.title(step), self.query(device, step))
        if "as" in step and device.since is not None:
            self.names[step["as"]] = device.since

    def do_poll(self, step: Step) -> None:
        """Ask with a long poll, and carry out a step while it is parked: as sync, and steps."""
        device = self.device(step["who"])
        query = self.query(device, step)
        query.pop("since", None)
        self.poll([(device, query)], self.title(step), lambda: [self.step(inner) for inner in step["steps"]])
        if "as" in step and device.since is not None:
            self.names[step["as"]] = device.since

    def do_crowd(self, step: Step) -> None:
        """Let several devices wait, and carry out a step: asks (each with who and filter), query, steps."""
        there = [ask for ask in step["asks"] if ask["who"] in self.devices and self._has_filter(ask)]
        if not there:
            raise Missing("anybody")
        asked = []
        for ask in there:
            query = self.query(self.device(ask["who"]), {**ask, "query": step["query"]})
            asked.append((self.device(ask["who"]), query))
        title = f"line {self.at + 1}, a crowd of {len(asked)}"
        self.poll(asked, title, lambda: [self.step(inner) for inner in step["steps"]])

    def _has_filter(self, ask: Step) -> bool:
        try:
            self.query(self.device(ask["who"]), ask)
        except Missing:
            return False
        return True

    def title(self, step: Step) -> str:
        """Name a question in a report."""
        return f"line {self.at + 1}, {step['who']} from {step.get('from', 'onwards')}"

    def query(self, device: Device, step: Step) -> Json:
        """Return the query of a question, apart from what stays the same."""
        query: Json = dict(step.get("query", {}))
        where = step.get("from", "onwards")
        if where is None:
            query["since"] = None
        elif where != "onwards":
            query["since"] = self.real(where)
        if "filter" in step:
            definition = step["filter"]
            query["filter"] = self.real(definition) if isinstance(definition, str) else self.fill(definition)
        return query

    def sync(self, device: Device, title: str, query: Json) -> None:
        """Ask both servers and compare; the device then stands at the answer's token."""
        if device.since is not None:
            query.setdefault("since", device.since)
        answers = self.context.ask(device, title, **query)
        self.context.turn += 1
        # An answer may be an error that both agree on.
        device.since = answers[self.context.turn % 2].get("next_batch", device.since)

    def poll(self, asked: list[tuple[Device, Json]], title: str, action: Callable[[], object]) -> None:
        """Park long polls at both servers, act, and compare what they were woken with."""
        self.context.poll(asked, title, action)
