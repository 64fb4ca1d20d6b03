# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Makes scripts from seeds: what people do in rooms, and when their devices ask.

A pure function of the profile, the seed and the number of steps. The generator keeps a light model of who is where and
of which events there are, so that most of what it does is possible; it does not know what the server refuses.

A profile is weights of actions, kinds of filters, and the number of rooms to begin with (`PROFILES`).
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any, Callable

from oracle.filters import EAGER, LAZY, NO_PRESENCE, Maker
from oracle.script import Script, Step

Json = dict[str, Any]

OLD_VERSIONS = ["1", "2", "3", "4", "5", "7", "8"]
VERSIONS = ["6", "9", "10", "10", "11", "11", "12", "12"]
RULES = ["joined", "invited", "shared", "shared", "world_readable"]
JOIN_RULES = ["invite", "public", "public", "knock"]
NAMES = ["ann", "ben", "cat", "dan", "eve"]
_RELATIONS = "m.relates_to"

_TALK = {"text": 14, "mention": 2, "thread": 4, "edit": 3, "react": 3, "redact": 3, "reply": 1, "media": 1, "odd": 1}
_ROOMS = {"topic": 2, "name": 2, "thing": 2, "own_profile": 2, "visibility": 1, "join_rule": 1, "power": 1, "alias": 1}
_MEMBERS = {
    "join": 4,
    "invite": 3,
    "leave": 2,
    "kick": 1,
    "ban": 1,
    "unban": 1,
    "knock": 1,
    "forget": 1,
    "create": 1,
}
_PRIVATE = {
    "receipt": 4,
    "markers": 1,
    "account": 2,
    "tag": 1,
    "ignore": 1,
    "push": 1,
    "global_profile": 1,
    "typing": 1,
}
_E2EE = {"to_device": 2, "keys": 2, "claim": 1, "device": 1, "cross": 1}
_RARE = {"upgrade": 1, "space": 1, "direct": 1, "guest": 1}


@dataclasses.dataclass
class Profile:
    """What a walk is made of."""

    weights: dict[str, float]
    filters: list[Json]
    made: float = 0.15
    lazy_made: bool = False
    rooms: int = 4
    together: float = 0.0
    polls: float = 0.04
    crowds: float = 0.06
    after: float = 0.0
    presence: bool = False
    far: int = 0  # how many live at the second homeserver
    versions: list[str] = dataclasses.field(default_factory=lambda: VERSIONS)


def _times(factor: float, *tables: dict[str, float]) -> dict[str, float]:
    return {name: weight * factor for table in tables for name, weight in table.items()}


_ALL = _times(1, _TALK, _ROOMS, _MEMBERS, _PRIVATE, _E2EE, _RARE)

PROFILES: dict[str, Profile] = {
    "plain": Profile(_ALL, EAGER),
    # One room: which members a device has been told is exact there.
    "lazy": Profile(
        {**_times(1, _TALK, _ROOMS, _MEMBERS, _PRIVATE), "create": 0}, LAZY, made=0.1, lazy_made=True, rooms=1
    ),
    "clients": Profile(_ALL, LAZY + EAGER[:5], made=0.1, lazy_made=True),
    "forks": Profile(_ALL, EAGER, together=0.3),
    "filters": Profile(_ALL, EAGER, made=0.95),
    "members": Profile(
        {**_times(1, _ROOMS, _TALK), **_times(4, _MEMBERS), "visibility": 4, "text": 20}, EAGER, rooms=5, made=0.05
    ),
    "e2ee": Profile({**_ALL, **_times(5, _E2EE), **_times(2, _MEMBERS)}, EAGER + LAZY[:2], made=0.05),
    "presence": Profile({**_ALL, "presence": 12}, [{}, {"room": {"timeline": {"limit": 5}}}], made=0.0, presence=True, crowds=0),
    "counts": Profile(
        {**_TALK, **_MEMBERS, "thread": 12, "mention": 8, "receipt": 20, "markers": 3, "push": 4, "ignore": 1, "redact": 5},
        [{"room": {"timeline": {"limit": limit, "unread_thread_notifications": limit < 9}}} for limit in (1, 4, 10)],
        made=0.0,
        rooms=3,
    ),
    "old": Profile(_ALL, EAGER, versions=OLD_VERSIONS),
    "after": Profile(_ALL, EAGER + LAZY[-2:], after=0.9, together=0.1),
    # Many wait in the same rooms, mostly with the same filters.
    "crowd": Profile(
        {**_times(1, _TALK, _ROOMS, _PRIVATE), "create": 1, "join": 2, "invite": 1, "leave": 0.5, "ban": 0.3, "ignore": 2},
        [*EAGER[:2], LAZY[0], LAZY[0], LAZY[0], LAZY[1]],
        made=0.05,
        lazy_made=True,
        rooms=2,
        crowds=0.5,
    ),
}
# What needs a second homeserver. Whatever comes from there may come at any moment: nobody waits for it in a poll.
FEDERATED: dict[str, Profile] = {
    "far": Profile(
        {**_times(1, _TALK, _ROOMS, _PRIVATE, _E2EE), **_times(2, _MEMBERS), "backfill": 2, "space": 1},
        EAGER,
        polls=0,
        crowds=0,
        far=2,
    ),
    "far-lazy": Profile(
        {**_times(1, _TALK, _ROOMS, _PRIVATE), **_times(2, _MEMBERS), "create": 0, "backfill": 2},
        LAZY,
        made=0.1,
        lazy_made=True,
        rooms=1,
        polls=0,
        crowds=0,
        far=3,
    ),
    "far-forks": Profile(
        {**_times(1, _TALK, _ROOMS, _PRIVATE), **_times(2, _MEMBERS)}, EAGER, polls=0, crowds=0, together=0.4, far=2
    ),
}
FAR_NAMES = ["rob", "sue", "tom"]


@dataclasses.dataclass
class Room:
    """What the generator believes of a room."""

    name: str
    version: str
    members: dict[str, str]
    bosses: set[str]
    join_rule: str
    encrypted: bool = False
    events: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # name, kind
    roots: list[str] = dataclasses.field(default_factory=list)
    gone: bool = False

    def who(self, membership: str) -> list[str]:
        """Return the users of a membership."""
        return [user for user, now in self.members.items() if now == membership]


class Generator:
    """One script in the making."""

    def __init__(self, profile: str, seed: int, length: int) -> None:
        self.profile, self.length = {**PROFILES, **FEDERATED}[profile], length
        self.random = random.Random(f"{profile} {seed}")
        self.script = Script(f"{profile}-{seed}", [])
        self.maker = Maker(self.random)
        self.users: list[str] = []
        self.devices: list[str] = []
        self.guests: set[str] = set()
        self.far: set[str] = set()  # who lives at the second homeserver, with one device that never asks
        self.rooms: list[Room] = []
        self.habits: dict[str, Any] = {}
        self.tokens: dict[str, list[str]] = {}
        self.serials: dict[str, int] = {}
        self.actions: dict[str, Callable[[], None]] = {
            name.removeprefix("act_"): getattr(self, name) for name in dir(self) if name.startswith("act_")
        }

    # -- tools -----------------------------------------------------------------------------------

    def new(self, kind: str) -> str:
        """Return the next name of a kind."""
        self.serials[kind] = self.serials.get(kind, 0) + 1
        return f"{kind}{self.serials[kind]}"

    def number(self) -> int:
        """Return the next number for what shall be told apart."""
        self.serials[""] = self.serials.get("", 0) + 1
        return self.serials[""]

    def chance(self, of: float) -> bool:
        """Return true with a probability."""
        return self.random.random() < of

    def pick(self, items: Any) -> Any:
        """Choose one of several; nothing from nothing."""
        items = list(items)
        return self.random.choice(items) if items else None

    def add(self, do: str, **arguments: Any) -> None:
        """Append a step."""
        self.steps.append({"do": do, **{key: value for key, value in arguments.items() if value is not None}})

    def at(self, user: str) -> str | None:
        """Return one of the user's devices."""
        if user in self.far:
            return f"{user}/R1"
        return self.pick(device for device in self.devices if device.startswith(f"{user}/"))

    def place(self, membership: str = "join") -> tuple[Room, str, str] | None:
        """Return a room, a user of a membership there (mostly), and a device."""
        room = self.pick([room for room in self.rooms if not room.gone] or self.rooms)
        users = room.who(membership)
        user = self.pick(users) if users and not self.chance(0.04) else self.pick(self.users)
        device = self.at(user)
        return (room, user, device) if device else None

    def event(self, room: Room, *kinds: str, last: int = 10) -> str | None:
        """Return one of the last events of a room, of some kinds."""
        return self.pick([name for name, kind in room.events if not kinds or kind in kinds][-last:])

    def send(self, kind: str, content: Json, of: str = "m.room.message", where: Any = None) -> str | None:
        """Send an event somewhere and remember it."""
        place = where or self.place()
        if not place:
            return None
        room, _, device = place
        name = self.new("e")
        if room.encrypted and of == "m.room.message" and self.chance(0.8):
            of, hidden = "m.room.encrypted", {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": f"{self.number()}"}
            content = {**hidden, **{key: value for key, value in content.items() if key == _RELATIONS}}
        self.add("send", who=device, room=room.name, type=of, content=content, **{"as": name})
        room.events.append((name, kind))
        return name

    def text(self, what: str, **extra: Any) -> Json:
        """Return the content of a message."""
        return {"msgtype": "m.text", "body": f"{what} {self.number()}", **extra}

    # -- talk ------------------------------------------------------------------------------------

    def act_text(self) -> None:
        """A message."""
        self.send("text", self.text(self.pick(["text", "text", "hello", "ünï", "quote \" slash / back \\ \u2028 end"])))

    def act_mention(self) -> None:
        """A message that mentions somebody, or everybody."""
        target = {"room": True} if self.chance(0.2) else {"user_ids": [f"<{self.pick(self.users)}>"]}
        self.send("text", self.text("hey", **{"m.mentions": target}))

    def act_media(self) -> None:
        """A message with an address."""
        info = {"size": self.number(), "w": 0, "thumbnail_info": {}}
        self.send("text", {"msgtype": "m.image", "body": "image", "url": "mxc://example/1", "info": info})

    def act_odd(self) -> None:
        """An event that clients do not expect."""
        content = self.pick(
            [
                {"body": None, "n": -1, "list": [[], {}, None, True]},
                {"org.matrix.labels": ["#fun"], "msgtype": "m.text", "body": "labelled"},
                {_RELATIONS: {"rel_type": "m.thread"}},
                {_RELATIONS: None, "body": "\x7f\u0000\U0001f600"},
                {},
            ]
        )
        self.send("odd", content, self.pick(["m.room.message", "org.example.thing", "m.sticker"]))

    def act_thread(self) -> None:
        """A message in a thread."""
        place = self.place()
        if place:
            room = place[0]
            if not room.roots or self.chance(0.3):
                root = self.event(room, "text")
                if root is None:
                    return
                room.roots.append(root)
            relates: Json = {"rel_type": "m.thread", "event_id": f"<{self.pick(room.roots[-3:])}>"}
            if self.chance(0.3):
                relates["m.in_reply_to"] = {"event_id": f"<{self.event(room, 'text', 'reply')}>"}
            self.send("reply", self.text("in thread", **{_RELATIONS: relates}), where=place)

    def act_reply(self) -> None:
        """A reply outside of threads."""
        place = self.place()
        target = place and self.event(place[0], "text", "reply")
        if place and target:
            self.send("text", self.text("reply", **{_RELATIONS: {"m.in_reply_to": {"event_id": f"<{target}>"}}}), where=place)

    def act_edit(self) -> None:
        """An edit, mostly of one's own event."""
        place = self.place()
        target = place and self.event(place[0], "text", "reply", "text", "edit", "state", last=5)
        if place and target:
            new = self.text("edited")
            relates = {"rel_type": "m.replace", "event_id": f"<{target}>"}
            self.send("edit", {**new, "m.new_content": new, _RELATIONS: relates}, where=place)

    def act_react(self) -> None:
        """A reaction."""
        place = self.place()
        target = place and self.event(place[0], "text", "reply", "state", "react")
        if place and target:
            relates = {"rel_type": "m.annotation", "event_id": f"<{target}>", "key": f"{self.number()}"}
            self.send("react", {_RELATIONS: relates}, "m.reaction", place)

    def act_redact(self) -> None:
        """A redaction of anything."""
        place = self.place()
        target = place and self.event(place[0], last=self.pick([3, 12, 60]))
        if place and target:
            room, _, device = place
            name = self.new("e")
            reason = "because" if self.chance(0.3) else None
            self.add("redact", who=device, room=room.name, event=target, reason=reason, **{"as": name})
            room.events.append((name, "redaction"))

    # -- state -----------------------------------------------------------------------------------

    def state(self, kind: str, content: Json, key: str = "", where: Any = None) -> Room | None:
        """Set state somewhere, mostly by somebody who may."""
        place = where or self.place()
        if not place:
            return None
        room, user, device = place
        if where is None and user not in room.bosses and self.chance(0.7):
            device = self.at(self.pick(room.bosses & set(self.users))) or device
        name = self.new("e")
        self.add("state", who=device, room=room.name, type=kind, key=key or None, content=content, **{"as": name})
        room.events.append((name, "state"))
        return room

    def act_topic(self) -> None:
        """A topic."""
        self.state("m.room.topic", {"topic": f"topic {self.number()}"})

    def act_name(self) -> None:
        """A name, or none."""
        self.state("m.room.name", {"name": f"name {self.number()}"} if self.chance(0.6) else {})

    def act_alias(self) -> None:
        """Something else that clients look at."""
        kind, content = self.pick(
            [
                ("m.room.canonical_alias", {}),
                ("m.room.avatar", {"url": f"mxc://example/{self.number()}"}),
                ("m.room.guest_access", {"guest_access": self.pick(["can_join", "forbidden"])}),
                ("m.room.pinned_events", {"pinned": []}),
                ("m.room.server_acl", {"allow": ["*"], "deny": [f"{self.number()}.example"]}),
            ]
        )
        self.state(kind, content)

    def act_thing(self) -> None:
        """State with keys."""
        key = self.pick(["", "a", "b", "<ann>", "_x/y"])
        self.state("org.example.thing", {"n": self.number()}, key)

    def act_visibility(self) -> None:
        """History visibility."""
        self.state("m.room.history_visibility", {"history_visibility": self.pick(RULES)})

    def act_join_rule(self) -> None:
        """Who may join."""
        rule = self.pick([*JOIN_RULES, "restricted", "knock_restricted"])
        content: Json = {"join_rule": rule}
        if rule.endswith("restricted"):
            content["allow"] = [{"type": "m.room_membership", "room_id": f"<{self.pick(self.rooms).name}>"}]
        room = self.state("m.room.join_rules", content)
        if room:
            room.join_rule = rule

    def act_power(self) -> None:
        """Power levels, mostly with everybody as mighty as before."""
        place = self.place()
        if place:
            room, user, _ = place
            creators = set(room.bosses) if room.version == "12" else set()
            levels = {f"<{boss}>": 100 for boss in sorted(room.bosses - creators)}
            levels[f"<{self.pick(self.users)}>"] = self.pick([0, 50, 100])
            content = {"users": levels, "events": {"m.room.topic": self.pick([0, 50])}, "users_default": 0}
            self.state("m.room.power_levels", {**content, "notifications": {"room": self.pick([0, 50])}})

    def act_own_profile(self) -> None:
        """A name for one room."""
        place = self.place()
        if place:
            content = {"membership": "join", "displayname": f"name {self.number()}"}
            if self.chance(0.3):
                content["avatar_url"] = f"mxc://example/{self.number()}"
            self.state("m.room.member", content, f"<{place[1]}>", place)

    # -- members ---------------------------------------------------------------------------------

    def member(self, action: str, now: str, user: str, room: Room, device: str | None, target: str | None = None) -> None:
        """Change a membership."""
        if device is not None:
            reason = f"reason {self.number()}" if self.chance(0.1) else None
            name = self.new("e") if self.chance(0.2) else None
            step = {"who": device, "room": room.name, "action": action, "user": target, "reason": reason, "as": name}
            self.add("membership", **step)
            if name:
                room.events.append((name, "state"))
            room.members[target or user] = now

    def act_join(self) -> None:
        """Join where one may."""
        room = self.pick(self.rooms)
        able = room.who("invite")
        if room.join_rule not in ("invite", "knock"):
            able += [user for user in self.users if room.members.get(user) != "join"]
        user = self.pick(able) or self.pick(self.users)
        self.member("join", "join", user, room, self.at(user))

    def act_leave(self) -> None:
        """Leave, or turn an invitation or one's own knock down."""
        place = self.place(self.pick(["join", "join", "join", "invite", "knock"]))
        if place and len(place[0].who("join")) > 1:
            self.member("leave", "leave", place[1], place[0], place[2])

    def act_forget(self) -> None:
        """Forget a room that one has left."""
        place = self.place("leave")
        if place:
            self.add("membership", who=place[2], room=place[0].name, action="forget")

    def act_knock(self) -> None:
        """Knock."""
        rooms = [room for room in self.rooms if room.join_rule == "knock"] or self.rooms
        room = self.pick(rooms)
        user = self.pick([user for user in self.users if room.members.get(user, "leave") == "leave"] or self.users)
        self.member("knock", "knock", user, room, self.at(user))

    def _on(self, action: str, now: str, wanted: tuple[str, ...]) -> None:
        """Do something to another member."""
        place = self.place()
        if place:
            room, user, device = place
            if user not in room.bosses:
                boss = self.pick(room.bosses & set(room.who("join")))
                user, device = (boss, self.at(boss)) if boss else (user, device)
            targets = [name for name in self.users if name != user and room.members.get(name, "leave") in wanted]
            target = self.pick(targets) or self.pick(self.users)
            self.member(action, now, user, room, device, target)

    def act_invite(self) -> None:
        """Invite somebody."""
        self._on("invite", "invite", ("leave", "knock"))

    def act_backfill(self) -> None:
        """Somebody reads a room's history, which brings what this homeserver does not have."""
        room = self.pick(self.rooms)
        device = self.at(self.pick([user for user in room.who("join") if user not in self.far]) or "")
        if device:
            path = f"/rooms/<{room.name}>/messages?dir=b&limit={self.pick([5, 30])}"
            self.add("call", who=device, method="GET", path=path)

    def act_kick(self) -> None:
        """Kick somebody, or take an invitation back."""
        self._on("kick", "leave", ("join", "invite", "knock"))

    def act_ban(self) -> None:
        """Ban somebody."""
        self._on("ban", "ban", ("join", "invite", "leave"))

    def act_unban(self) -> None:
        """Unban somebody."""
        self._on("unban", "leave", ("ban",))

    # -- making rooms ----------------------------------------------------------------------------

    def room(self, user: str, options: Json, invite: list[str]) -> None:
        """Make a room."""
        device = self.at(user)
        if device is None or len(self.rooms) > 9:
            return
        version = options.setdefault("room_version", self.pick(self.profile.versions))
        initial = options.setdefault("initial_state", [])
        rule = self.pick(JOIN_RULES)
        for kind, content in (
            ("m.room.history_visibility", {"history_visibility": self.pick(RULES)}),
            ("m.room.join_rules", {"join_rule": rule}),
        ):
            if self.chance(0.8):
                initial.append({"type": kind, "state_key": "", "content": content})
            elif kind == "m.room.join_rules":
                rule = "public" if options.get("preset") == "public_chat" else "invite"
        encrypted = self.chance(0.2)
        if encrypted:
            initial.append(
                {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
            )
        bosses = {user}
        if self.chance(0.7):
            others = [name for name in self.users if name != user]
            # There the invited of a trusted chat are creators too, who have no level.
            creators = invite if version == "12" and options.get("preset") == "trusted_private_chat" else []
            levels = {f"<{name}>": 100 for name in others if name not in creators}
            options["power_level_content_override"] = {"users": levels}
            if version != "12":
                options["power_level_content_override"]["users"][f"<{user}>"] = 100
            bosses |= set(others)
        options["invite"] = [f"<{name}>" for name in invite]
        name = self.new("r")
        self.add("create", who=device, room=name, options=options)
        members = {user: "join", **{guest: "invite" for guest in invite}}
        self.rooms.append(Room(name, version, members, bosses, rule, encrypted))

    def act_create(self) -> None:
        """A room, with some of the others."""
        user = self.pick(self.users)
        options: Json = {"preset": self.pick(["private_chat", "private_chat", "public_chat", "trusted_private_chat"])}
        if self.chance(0.5):
            options["name"] = f"Room {len(self.rooms)}"
        if self.chance(0.2):
            options["topic"] = "A topic"
        invite = [name for name in self.users if name != user and name not in self.guests and self.chance(0.5)]
        self.room(user, options, invite)
        if self.rooms and self.chance(0.8):
            room = self.rooms[-1]
            for name in room.who("invite"):
                if self.chance(0.8):
                    self.member("join", "join", name, room, self.at(name))

    def act_space(self) -> None:
        """A space, or a room put into one."""
        spaces = [room for room in self.rooms if room.name in self.habits.get("spaces", [])]
        if not spaces:
            user = self.pick(self.users)
            count = len(self.rooms)
            self.room(user, {"preset": "public_chat", "creation_content": {"type": "m.space"}}, [])
            self.habits.setdefault("spaces", []).extend(room.name for room in self.rooms[count:])
        elif self.rooms:
            space, child = self.pick(spaces), self.pick(self.rooms)
            device = self.at(self.pick(space.who("join")) or "")
            if device:
                content = {"via": ["chappe.localhost"]} if self.chance(0.8) else {}
                where = (space, device.split("/")[0], device)
                self.state("m.space.child", content, f"<{child.name}>", where)

    def act_direct(self) -> None:
        """A conversation of two, and the account data that says so."""
        user, other = self.random.sample(self.users, 2)
        count = len(self.rooms)
        self.room(user, {"preset": "trusted_private_chat", "is_direct": True}, [other])
        if len(self.rooms) > count:
            content = {f"<{other}>": [f"<{self.rooms[-1].name}>"]}
            self.add("account", who=self.at(user), type="m.direct", content=content)
            self.member("join", "join", other, self.rooms[-1], self.at(other))

    def act_upgrade(self) -> None:
        """A room's successor."""
        room = self.pick([room for room in self.rooms if not room.gone])
        boss = room and self.pick(room.bosses & set(room.who("join")))
        device = boss and self.at(boss)
        if device and len(self.rooms) < 9:
            into, version = self.new("r"), self.pick(self.profile.versions)
            self.add("upgrade", who=device, room=room.name, version=version, into=into)
            room.gone = self.chance(0.7)
            self.rooms.append(Room(into, version, {boss: "join"}, {boss}, room.join_rule, room.encrypted))
            for user in room.who("join"):
                if user != boss and self.chance(0.6):
                    self.member("join", "join", user, self.rooms[-1], self.at(user))

    def act_guest(self) -> None:
        """A guest comes, or joins a room."""
        if not self.guests:
            self.guests.add("gus")
            self.users.append("gus")
            self.devices.append("gus/D1")
            self.add("guest", user="gus")
        room = self.pick(self.rooms)
        boss = self.pick(room.bosses & set(room.who("join")))
        if boss and self.at(boss):
            where = (room, boss, self.at(boss))
            self.state("m.room.guest_access", {"guest_access": "can_join"}, where=where)
            self.state("m.room.join_rules", {"join_rule": "public"}, where=where)
            room.join_rule = "public"
            self.member("join", "join", "gus", room, "gus/D1")

    # -- what is one's own -----------------------------------------------------------------------

    def act_receipt(self) -> None:
        """A receipt of any kind."""
        place = self.place()
        target = place and self.event(place[0], last=self.pick([1, 2, 8]))
        if place and target:
            kind = self.pick(["m.read", "m.read", "m.read.private", "m.fully_read"])
            thread = self.pick([None, None, "main", *place[0].roots[-2:]]) if kind != "m.fully_read" else None
            self.add("receipt", who=place[2], room=place[0].name, event=target, kind=kind, thread=thread)

    def act_markers(self) -> None:
        """Read markers, all at once."""
        place = self.place()
        target = place and self.event(place[0], last=3)
        if place and target:
            body = {kind: f"<{target}>" for kind in self.random.sample(["m.fully_read", "m.read", "m.read.private"], 2)}
            self.add("call", who=place[2], method="POST", path=f"/rooms/<{place[0].name}>/read_markers", body=body)

    def act_typing(self) -> None:
        """Typing begins or ends."""
        place = self.place()
        if place:
            self.add("typing", who=place[2], room=place[0].name, on=self.chance(0.6))

    def act_account(self) -> None:
        """Account data, global or of a room."""
        place = self.place()
        if place:
            content = self.pick([{"n": self.number()}, {}, {"ü": [1, 2.5, -0.0, 1e30]}, {"n": self.number()}])
            room = place[0].name if self.chance(0.5) else None
            self.add("account", who=place[2], type=f"org.example.{self.number() % 3}", content=content, room=room)

    def act_tag(self) -> None:
        """A tag set or taken away."""
        place = self.place()
        if place:
            method = self.pick(["PUT", "PUT", "DELETE"])
            tag = self.pick(["u.a", "u.b", "m.favourite", "m.lowpriority"])
            body = {"order": self.pick([0.25, 0.5, 1])} if method == "PUT" and self.chance(0.5) else {}
            path = f"/user/<{place[1]}>/rooms/<{place[0].name}>/tags/{tag}"
            self.add("call", who=place[2], method=method, path=path, body=body)

    def act_ignore(self) -> None:
        """Another list of ignored users."""
        user = self.pick(self.users)
        people = {f"<{name}>": {} for name in self.users if name != user and self.chance(0.25)}
        content = {"ignored_users": people}
        self.add("account", who=self.at(user), type="m.ignored_user_list", content=content)

    def act_push(self) -> None:
        """A push rule."""
        place = self.place()
        if place:
            room, user, device = place
            actions: list[Any] = self.pick([[], ["notify"], ["notify", {"set_tweak": "highlight"}], ["dont_notify"]])
            conditions = [{"kind": "event_match", "key": "content.body", "pattern": self.pick(["text", "*o*", "1"])}]
            path, body = self.pick(
                [
                    (f"room/<{room.name}>", {"actions": actions}),
                    (f"sender/<{self.pick(self.users)}>", {"actions": actions}),
                    ("content/word", {"actions": actions, "pattern": self.pick(["hello", "text*"])}),
                    ("override/mine", {"actions": actions, "conditions": conditions}),
                    (f"{self.pick(['override/.m.rule.master', 'underride/.m.rule.message'])}/enabled", {"enabled": False}),
                    ("underride/.m.rule.message/enabled", {"enabled": True}),
                    ("override/.m.rule.master/enabled", {"enabled": False}),
                ]
            )
            method = "DELETE" if self.chance(0.15) and not path.endswith("enabled") else "PUT"
            self.add("call", who=device, method=method, path=f"/pushrules/global/{path}", body=body)

    def act_global_profile(self) -> None:
        """Another display name or avatar everywhere."""
        user = self.pick([name for name in self.users if name not in self.guests])
        if self.at(user):
            field = self.pick(["displayname", "displayname", "avatar_url"])
            value = f"{user} {self.number()}" if field == "displayname" else f"mxc://example/{self.number()}"
            self.add("profile", who=self.at(user), field=field, value=value)

    def act_presence(self) -> None:
        """Presence."""
        user = self.pick(self.users)
        if self.at(user):
            message = f"status {self.number()}" if self.chance(0.4) else None
            self.add("presence", who=self.at(user), state=self.pick(["online", "unavailable", "offline"]), message=message)

    # -- devices ---------------------------------------------------------------------------------

    def act_to_device(self) -> None:
        """Messages to devices, sometimes more than fit into one answer."""
        user, other = self.pick(self.users), self.pick(self.users)
        device = self.at(user)
        if device:
            for _ in range(self.pick([1, 1, 1, 2, 105]) if self.chance(0.3) else 1):
                content = {"n": self.number()}
                target = {"*": content} if self.chance(0.3) else {"D1": content, "D2": content}
                path = f"/sendToDevice/org.example.msg/m{self.number()}"
                self.add("call", who=device, method="PUT", path=path, body={"messages": {f"<{other}>": target}})

    def act_keys(self) -> None:
        """One-time keys, a fallback key, or a device's own keys."""
        user = self.pick(self.users)
        device = self.at(user)
        if device:
            number, short = self.number(), device.split("/")[1]
            key = {"key": f"k{number}", "signatures": {f"<{user}>": {f"ed25519:{short}": "s"}}}
            body: Json = self.pick(
                [
                    {"one_time_keys": {f"signed_curve25519:A{number}{i}": key for i in range(self.pick([1, 3]))}},
                    {"fallback_keys": {f"signed_curve25519:F{number}": {**key, "fallback": True}}},
                    {
                        "device_keys": {
                            "user_id": f"<{user}>",
                            "device_id": short,
                            "algorithms": ["m.megolm.v1.aes-sha2"],
                            "keys": {f"ed25519:{short}": f"k{number}"},
                            "signatures": {f"<{user}>": {f"ed25519:{short}": "s"}},
                        }
                    },
                ]
            )
            self.add("call", who=device, method="POST", path="/keys/upload", body=body)

    def act_claim(self) -> None:
        """Somebody claims a key."""
        user, target = self.pick(self.users), self.pick(self.devices)
        if self.at(user) and target:
            other, short = target.split("/")
            body = {"one_time_keys": {f"<{other}>": {short: "signed_curve25519"}}}
            self.add("call", who=self.at(user), method="POST", path="/keys/claim", body=body)

    def act_cross(self) -> None:
        """A master key for cross-signing (only the first needs no password)."""
        user = self.pick(self.users)
        if self.at(user):
            key = f"K{self.number()}"
            body = {"master_key": {"user_id": f"<{user}>", "usage": ["master"], "keys": {f"ed25519:{key}": key}}}
            self.add("call", who=self.at(user), method="POST", path="/keys/device_signing/upload", body=body)

    def act_device(self) -> None:
        """A device comes, goes, or is renamed."""
        user = self.pick([name for name in self.users if name not in self.guests | self.far])
        mine = [device for device in self.devices if device.startswith(f"{user}/")]
        what = self.random.random()
        if len(mine) > 1 and what < 0.3:
            gone = self.pick(mine)
            mine.remove(gone)
            self.devices.remove(gone)
            if self.chance(0.5):
                self.add("logout", who=gone)
            else:
                self.add("delete_device", who=self.pick(mine), device=gone)
        elif mine and what < 0.5:
            body = {"display_name": f"Device {self.number()}"}
            self.add("call", who=mine[0], method="PUT", path=f"/devices/{mine[0].split('/')[1]}", body=body)
        else:
            self.login(f"{user}/D{self.random.randint(1, 3)}")

    def login(self, device: str) -> None:
        """Log in, perhaps in place of an earlier session."""
        self.add("login", device=device)
        if device not in self.devices:
            self.devices.append(device)
        self.habits.pop(device, None)

    # -- asking ----------------------------------------------------------------------------------

    def ask(self) -> None:
        """One device asks: onwards mostly, or from an earlier token, or from nothing."""
        device = self.pick(self.devices)
        step: Json = {"do": "sync", "who": device}
        what = self.random.random()
        if what < 0.27 and self.tokens.get(device):
            step["from"] = self.pick(self.tokens[device])
        elif what < 0.34:
            step["from"] = None
        elif what < 0.38 and len(self.tokens) > 1:
            # A token has nothing of its owner in it: any will do.
            step["from"] = self.pick(self.pick([tokens for tokens in self.tokens.values() if tokens]) or [None])
        step["filter"] = self.filter(device)
        query: Json = {}
        if self.chance(0.05):
            query["full_state"] = True
        if self.chance(self.profile.after):
            query["org.matrix.msc4222.use_state_after"] = True
        if self.profile.presence and self.chance(0.3):
            query["set_presence"] = self.pick(["online", "unavailable", "offline"])
        if query:
            step["query"] = query
        name = self.new("t")
        self.steps.append({**step, "as": name})
        self.tokens.setdefault(device, []).append(name)

    def filter(self, device: str) -> Any:
        """Return the filter that a device has got used to, or another one for once."""
        if device not in self.habits or self.chance(0.1):
            chosen = self._new_filter()
            if self.chance(0.3):
                name = self.new("f")
                self.add("filter", who=device, filter=chosen, **{"as": name})
                chosen = name
            self.habits[device] = chosen
        return self._new_filter() if self.chance(0.15) else self.habits[device]

    def _new_filter(self) -> Json:
        if self.chance(self.profile.made):
            lazy = self.profile.lazy_made and self.chance(0.7)
            return self.maker.make(self.users, [room.name for room in self.rooms], lazy)
        chosen = self.pick(self.profile.filters)
        return dict(chosen) if self.profile.presence else {"presence": NO_PRESENCE, **chosen}

    def poll(self) -> None:
        """A device waits, and something happens."""
        device = self.pick(self.devices)
        chosen = self.filter(device)
        kept, self.steps = self.steps, []
        self.actions[self.pick(["text", "text", "topic", "receipt", "account", "typing", "invite", "to_device"])]()
        inner, self.steps = self.steps[:1], kept
        if inner:
            self.add("poll", who=device, filter=chosen, query={"timeout": 1500}, steps=inner, **{"as": self.new("t")})

    def crowd(self) -> None:
        """Several devices wait, and something happens that many of them see."""
        asks = [
            {"who": device, "filter": self.filter(device)}
            for device in self.random.sample(self.devices, min(len(self.devices), self.random.randint(2, 7)))
        ]
        kept, self.steps = self.steps, []
        kinds = ["text"] * 3 + ["mention", "thread", "edit", "react", "redact", "topic", "receipt", "typing", "own_profile"]
        self.actions[self.pick(kinds)]()
        inner, self.steps = self.steps[:1], kept
        if inner:
            self.add("crowd", asks=asks, query={"timeout": 3000}, steps=inner)

    # -- the whole -------------------------------------------------------------------------------

    def act(self) -> None:
        """Do one thing."""
        weights = self.profile.weights
        self.actions[self.random.choices(list(weights), list(weights.values()))[0]]()

    def together(self) -> None:
        """Several things at once, which forks the history of a room."""
        kept, self.steps = self.steps, []
        for _ in range(self.random.randint(3, 8)):
            self.act()
        inner, self.steps = self.steps, kept
        if inner:
            self.add("together", steps=inner)

    def make(self) -> Script:
        """Return the script."""
        self.steps = self.script.steps
        for name in NAMES[: self.random.randint(3, 5)]:
            self.users.append(name)
            self.add("user", user=name)
            self.login(f"{name}/D1")
        for name in self.random.sample(self.users, 2):
            self.login(f"{name}/D2")
        for name in FAR_NAMES[: self.profile.far]:
            self.users.append(name)
            self.far.add(name)
            self.add("remote", user=name)
        while len(self.rooms) < self.profile.rooms:
            self.act_create()
        for _ in range(self.length):
            if self.chance(self.profile.together):
                self.together()
            for _ in range(self.random.randint(1, 4)):
                self.act()
            if self.chance(self.profile.polls):
                self.poll()
            if self.chance(self.profile.crowds):
                for _ in range(self.random.randint(1, 2)):
                    self.crowd()
            for _ in range(self.random.randint(2, 5)):
                self.ask()
        return self.script


def generate(profile: str, seed: int, length: int = 30) -> Script:
    """Return the script of a seed: always the same one."""
    return Generator(profile, seed, length).make()
