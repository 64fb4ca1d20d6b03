# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""What a scenario works with: users, rooms, and questions that go to both servers.

Rules that keep the comparison fair:

* Writes go to Synapse's main process (or to the writers it leaves them to). Before a question the context waits until both servers stand
  at main's stream positions (each tells its own in the next_batch of an uninvolved user).
* Both servers get the same request with the same access token and the same `since`, the reference
  first. A `since` acknowledges to-device messages up to itself, so the second server's answer is the
  same: neither can delete what the other has yet to show.
* The next `since` alternates between the tokens that the two servers gave; a client may move from
  one to the other at any time.
* Every question goes to both, so the lazy-loading caches that each process keeps stay in step.
* `set_presence=offline` unless a scenario says otherwise, or asking would change the answers.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import json
import time
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Iterator

from support.world import World
from stack.matrix import Client, Reply

from oracle.differ import Difference, differences
from oracle.federation import Federation
from oracle.normal import level_choices, level_left, normalise, token
from oracle.quirks import explained

Json = dict[str, Any]

_HEADERS = (
    "content-type",
    "cache-control",
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-expose-headers",
)
_SETTLE_SECONDS = 15.0
_SOFT_SECONDS = 1.0
_ALWAYS = {"next_batch", "device_one_time_keys_count", "device_unused_fallback_key_types"}
# Sections that move by timers inside the servers; a difference only there is asked about again.
_RACY = ("presence.", "presence ")


class Mismatch(AssertionError):
    """Two servers answered differently."""


class CountMismatch(Mismatch):
    """They differ in unread counts alone.

    Every 30 s Synapse adds up what is unread in event_push_summary, including what came before the reader joined (an
    invitation is a notification too), but does not drop what its workers remember. Until the room's next event its
    tables and its answers disagree. A scenario that was hit by this agrees when it is run again.
    """


class Device:
    """A device of a user, which asks both servers and acts on the main process."""

    def __init__(self, context: "Context", client: Client) -> None:
        self.context = context
        self.do = client
        self.since: str | None = None

    @property
    def user_id(self) -> str:
        """The device's user."""
        return self.do.user_id

    def ask(self, step: str, **query: Any) -> Json:
        """Ask both servers from where this device stands; compare; move on; return the answer."""
        if self.since is not None:
            query.setdefault("since", self.since)
        reference, subject = self.context.ask(self, step, **query)
        self.context.turn += 1
        self.since = str((reference, subject)[self.context.turn % 2]["next_batch"])
        return reference


class Context:
    """One run of one scenario."""

    def __init__(self, world: World, name: str, reference: str, subject: str, report: Path) -> None:
        self.world, self.name, self.report = world, name, report
        self.reference_url, self.subject_url = reference, subject
        self.turn = 0
        self.steps = 0
        self._still = False  # nothing is written meanwhile (quiet)
        self.choices = False  # the scenario asks what Synapse leaves to chance (level_choices)
        self._asked = itertools.count()
        self._stood: Any = None
        self._observer = world.device(world.new_user("observer"), url=world.main)

    @cached_property
    def federation(self) -> Federation:
        """The neighbours, in scenarios with FEDERATION = True."""
        return Federation(self)

    def close(self) -> None:
        """End what the scenario started."""
        if "federation" in self.__dict__:
            self.federation.close()

    # -- making things ---------------------------------------------------------------------------

    def user(self, name: str, device_id: str = "D1") -> Device:
        """Register a user with one device."""
        return self.device(self.world.new_user(name), device_id)

    def device(self, user_id: str, device_id: str) -> Device:
        """Log in one more device of a user."""
        return Device(self, self.world.device(user_id, device_id, url=self.world.main))

    def room(self, creator: Device, *members: Device, **options: Any) -> str:
        """Make a room in which the members are joined."""
        options.setdefault("preset", "private_chat")
        room = creator.do.create_room(invite=[member.user_id for member in members], **options)
        for member in members:
            member.do.join(room)
        return room

    # -- asking ----------------------------------------------------------------------------------

    def _moved(self, before: Any) -> bool:
        """Tell whether the homeserver moved on by itself during a question, as federation makes it do."""
        return bool(token(self.position(self.world.main)) != before)

    def settle(self) -> Any:
        """Wait until both servers have caught up with the main process; return where it is."""
        begun = time.monotonic()
        while True:
            # A stream's writer is the first to know of a change; the main process hears of it like everybody.
            asked = [self.world.main, *self.world.writers, self.reference_url, self.subject_url]
            raw = [self.position(url) for url in asked]
            there = [token(position) for position in raw]
            waited = time.monotonic() - begun
            if all(position == there[0] for position in there):
                # Presence and typing usually stand still too, but nothing promises it.
                if len({tuple(position.split("_")[1:3]) for position in raw}) == 1 or waited > _SOFT_SECONDS:
                    return there[0]
            elif waited > _SETTLE_SECONDS:
                raise Mismatch(
                    f"{self.name}: the servers did not reach the same position in {_SETTLE_SECONDS:.0f} s:\n"
                    + "\n".join(f"    {url}: {position}" for url, position in zip(asked, there))
                )
            time.sleep(0.03)

    def position(self, url: str) -> str:
        """Return a server's current token, as it gives it to a user without rooms."""
        observer = Client(url, self._observer.user_id, self._observer.token)
        try:
            # Each time another timeout, which an initial sync does not look at: never from the response cache.
            return str(observer.sync(timeout=next(self._asked), set_presence="offline")["next_batch"])
        finally:
            observer.link.close()

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Settle once instead of before each question, where nothing is written between many of them."""
        self._stood = self.settle()
        self._still = True
        try:
            yield
        finally:
            self._still = False

    def ask(self, device: Device, step: str, **query: Any) -> tuple[Json, Json]:
        """Ask both servers the same; return their bodies, or raise the differences."""
        query.setdefault("timeout", 0)
        query.setdefault("set_presence", "offline")
        for attempt in range(3):
            before = self._stood if self._still and not attempt else self.settle()
            reference = self._one(self.reference_url, device, query)
            subject = self._one(self.subject_url, device, query)
            found = self._compare(device, reference, subject)
            if not found or attempt == 2:
                break
            if not all(d.path.startswith(_RACY) for d in found) and not self._moved(before):
                break
            time.sleep(0.3)
        return self._judge(step, query, reference, subject, found)

    def ask_parked(self, device: Device, step: str, action: Callable[[], object], **query: Any) -> Json:
        """Park the same long poll on both servers, act, and compare what each was woken with.

        Writing marks the writer as active, which may wake a poll before the write itself does; hence
        presence is filtered out unless the scenario asks for it.
        """
        query.setdefault("filter", {"presence": {"types": []}})
        for _ in range(5):
            if device.ask(f"{step}: before", **query).keys() <= _ALWAYS:
                break
        query = {"timeout": 20000, "set_presence": "offline", "since": device.since, **query}
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            polls = [pool.submit(self._one, url, device, query) for url in (self.reference_url, self.subject_url)]
            time.sleep(0.3)
            for who, poll in zip(("reference", "subject"), polls):
                if poll.done():
                    raise Mismatch(f"{self.name}, {step}: the {who} did not park the poll: {poll.result().raw[:600]!r}")
            action()
            reference, subject = (poll.result() for poll in polls)
        first, second = self._judge(
            step, query, reference, subject, self._compare(device, reference, subject)
        )
        self.turn += 1
        device.since = str((first, second)[self.turn % 2]["next_batch"])
        return first

    def ask_error(self, device: Device, step: str, **query: Any) -> Json:
        """Ask something wrong of both servers; compare status, errcode and headers only."""
        query.setdefault("set_presence", "offline")
        replies = [self._one(url, device, query) for url in (self.reference_url, self.subject_url)]
        shapes = [
            {"status": reply.status, "errcode": (reply.body or {}).get("errcode"), "headers": _headers(reply)}
            for reply in replies
        ]
        found = list(differences(*shapes))
        self._judge(step, query, replies[0], replies[1], found)
        return dict(replies[0].body or {})

    def ask_raw(
        self, device: Device, step: str, target: str, *, method: str = "GET", error_text: bool = True
    ) -> Reply:
        """Ask for /sync with a query as it stands, nothing encoded; compare everything.

        Without `error_text` the text of an error may differ (where it is Python's own). Who has just
        written something calls settle() first.
        """
        path = f"/_matrix/client/v3/sync?{target}"
        replies = []
        for url in (self.reference_url, self.subject_url):
            link = Client(url).link
            replies.append(link.request(method, path, token=device.do.token))
            link.close()
        if not error_text and replies[0].status >= 400:
            bodies = [reply.body if isinstance(reply.body, dict) else {} for reply in replies]
            shapes = [
                {"status": reply.status, "errcode": body.get("errcode"), "headers": _headers(reply)}
                for reply, body in zip(replies, bodies)
            ]
            found = list(differences(*shapes))
        else:
            found = self._compare(device, *replies)
        self._judge(step, {"raw": target[:500]}, replies[0], replies[1], found)
        return replies[0]

    def _one(self, url: str, device: Device, query: Json) -> Reply:
        client = Client(url, device.user_id, device.do.token, device.do.device_id)
        try:
            return client.sync_raw(**query)
        finally:
            client.link.close()

    def _compare(self, device: Device, reference: Reply, subject: Reply) -> list[Difference]:
        found = list(
            differences(
                {"status": reference.status, "headers": _headers(reference)},
                {"status": subject.status, "headers": _headers(subject)},
            )
        )
        bodies = normalise(reference.body), normalise(subject.body)
        if all(isinstance(body, dict) for body in bodies):
            level_left(*bodies)
            if self.choices:
                level_choices(*bodies)
        inside = differences(*bodies)
        return found + [d for d in inside if not explained(self.world, device.user_id, d)]

    def _judge(
        self, step: str, query: Json, reference: Reply, subject: Reply, found: list[Difference]
    ) -> tuple[Json, Json]:
        self.steps += 1
        if not found:
            return dict(reference.body or {}), dict(subject.body or {})
        folder = self.report / self.name
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.steps:02d}"
        for side, reply in (("reference", reference), ("subject", subject)):
            text = json.dumps(reply.body, indent=1, sort_keys=True, ensure_ascii=False)
            (folder / f"{stem}-{side}.json").write_text(f"{text}\n")
        shown = "\n  ".join(str(difference) for difference in found[:4])
        more = f"\n  … and {len(found) - 4} more" if len(found) > 4 else ""
        counts_only = all("unread_" in difference.path for difference in found)
        raise (CountMismatch if counts_only else Mismatch)(
            f"{self.name}, step {self.steps} ({step}): {len(found)} difference(s), first:\n  {shown}{more}\n"
            f"  request: {json.dumps(query)}\n  both answers: {folder}/{stem}-*.json"
        )


def _headers(reply: Reply) -> dict[str, str | None]:
    return {name: reply.headers.get(name) for name in _HEADERS}
