# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Takes out of a /sync response what two Synapse processes may legitimately answer differently.

Only that: order where the server has none (sets, rows without ORDER BY), ages counted from now,
stream positions that are read while the answer is being made, and previous contents that Synapse
shows in state only when its cache happens to hold them. Everything else is compared as it came.
"""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]

# Fields of a stream token, in order. Presence and typing move on while answers are computed; the
# fields from un_partial_stated on are each process's own view of streams that sync does not serve. Synapse
# appends fields with its releases; how many there are is compared.
TOKEN_FIELDS = (
    "room presence typing receipt account_data push_rules to_device device_list groups"
    " un_partial_stated thread_subscriptions sticky quarantined_media profile_updates"
).split()
_LOOSE = {"presence", "typing", "un_partial_stated", "thread_subscriptions", "sticky", "quarantined_media", "profile_updates"}
_STATES = ("state", "state_after", "org.matrix.msc4222.state_after")
_AGES = ("age", "last_active_ago", "unsigned_age", "msc4354_sticky_duration_ttl_ms")


def normalise(body: Any) -> Any:
    """Return a copy of a response body that two right servers agree on."""
    if not isinstance(body, dict):
        return body
    result = _ages(body)
    if "next_batch" in result:
        result["next_batch"] = token(result["next_batch"])
    for key in ("account_data", "presence"):
        if key in result:
            _sort_events(result[key])
    for key in ("changed", "left"):
        if key in result.get("device_lists", {}):
            result["device_lists"][key].sort()
    if "device_unused_fallback_key_types" in result:
        result["device_unused_fallback_key_types"].sort()
    rooms = result.get("rooms", {})
    for section in ("join", "leave"):
        for room in rooms.get(section, {}).values():
            _room(room)
    for section, inner in (("invite", "invite_state"), ("knock", "knock_state")):
        for room in rooms.get(section, {}).values():
            for event in room.get(inner, {}).get("events", []):
                _drop_previous(event)
            _sort_events(room.get(inner, {}))
    return result


def token(text: Any) -> Any:
    """Return a token as a map of its comparable fields (as it is when it has another shape)."""
    if not isinstance(text, str) or not 9 <= text.count("_") < len(TOKEN_FIELDS):
        return text
    values = text.split("_")
    fields = dict(zip(TOKEN_FIELDS, values))
    return {name: value for name, value in fields.items() if name not in _LOOSE} | {"fields": len(values)}


def _room(room: Json) -> None:
    timeline = room.get("timeline", {})
    if "prev_batch" in timeline:
        timeline["prev_batch"] = token(timeline["prev_batch"])
    for key in _STATES:
        for event in room.get(key, {}).get("events", []):
            _drop_previous(event)
        _sort_events(room.get(key, {}))
    _sort_events(room.get("account_data", {}))
    ephemeral = room.get("ephemeral", {})
    _sort_events(ephemeral)
    for event in ephemeral.get("events", []):
        if event.get("type") == "m.typing":
            event["content"]["user_ids"].sort()


def shows_more(reference: Json, subject: Json) -> bool:
    """Tell whether one event's `unsigned` differs in the previous content alone, of which the subject shows a part."""
    whole, part = reference.get("prev_content"), subject.get("prev_content")
    if not isinstance(whole, dict) or not isinstance(part, dict) or "replaces_state" not in subject:
        return False
    same = {**reference, "prev_content": None} == {**subject, "prev_content": None}
    return same and part != whole and part.items() <= whole.items()


def _drop_previous(event: Any) -> None:
    unsigned = event.get("unsigned") if isinstance(event, dict) else None  # stripped state may be anything
    if isinstance(unsigned, dict) and ("prev_content" in unsigned or "prev_sender" in unsigned):
        unsigned.pop("prev_content", None)
        unsigned.pop("prev_sender", None)
        if not unsigned:
            # A filter's event_fields asked for the previous content alone.
            del event["unsigned"]


def _sort_events(section: Any) -> None:
    if isinstance(section, dict) and isinstance(section.get("events"), list):
        section["events"].sort(key=_sort_key)


def _sort_key(event: Any) -> tuple[str, ...]:
    """Order events by what identifies them; by everything when a filter left that out (event_fields)."""
    if not isinstance(event, dict):
        return (json.dumps(event, sort_keys=True),)
    key = tuple(str(event.get(field)) for field in ("type", "state_key", "sender"))
    return key if "type" in event and "event_id" in event else (*key, json.dumps(event, sort_keys=True))


def _ages(value: Any) -> Any:
    """Copy a value, replacing every age by a mark; an age of the wrong type stays visible."""
    if isinstance(value, dict):
        return {
            key: "<milliseconds>" if key in _AGES and type(inner) is int else _ages(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_ages(inner) for inner in value]
    return value


def level_left(reference: Json, subject: Json) -> None:
    """Forgive, in two normalised answers, who has left by an event that stands in a room's state.

    Whether such an event had been a join before, Synapse knows only when its cache happens to hold the event
    with its previous content. Chappe always knows, so it may say of more users that they have left.
    """
    gone = {
        event["state_key"]
        for room in subject.get("rooms", {}).get("join", {}).values()
        for event in room.get("state", {}).get("events", [])
        if event.get("type") == "m.room.member" and event.get("content", {}).get("membership") in ("leave", "ban")
    }
    lists = subject.get("device_lists", {})
    there = reference.get("device_lists", {}).get("left", [])
    kept = [user for user in lists.pop("left", []) if user in there or user not in gone]
    if kept:
        lists["left"] = kept
    if not lists:
        subject.pop("device_lists", None)


def level_choices(reference: Json, subject: Json) -> None:
    """Forgive, in two normalised answers, what Synapse leaves to the order of its sets and tasks.

    Where the two ends of a timeline disagree on a key and no event between them is shown, Synapse
    sends one of both. Where somebody joined one room and left another, the room that happens to be
    the last decides whether that user's devices changed. Whether one took part in a thread is kept in
    a cache that nothing invalidates. And the heroes that a lazily loading client gets for a room it
    has left are today's, which we do not show. Only for scenarios that ask for such things.
    """
    for section in ("join", "leave"):
        there = subject.get("rooms", {}).get(section, {})
        for room_id, room in reference.get("rooms", {}).get(section, {}).items():
            _level_state(room.get("state", {}), there.get(room_id, {}).get("state", {}))
            if section == "leave":
                _level_heroes(room, there.get(room_id, {}))
            _level_threads(room, there.get(room_id, {}))
    # Whoever is new by that also has the presence sent (1.157 handlers/sync.py, _generate_sync_entry_for_presence).
    several = {user for user, kinds in _member_changes(reference, subject).items() if len(kinds) > 1}
    level_presence(several, reference, subject)
    for body in (reference, subject):
        lists = body.get("device_lists", {})
        for key in ("changed", "left"):
            kept = [user for user in lists.pop(key, []) if user not in several]
            if kept:
                lists[key] = kept
        if not lists:
            body.pop("device_lists", None)


def level_presence(users: set[str], *bodies: Json) -> None:
    """Drop the presence of some users where only one of two answers has it."""
    parts = [body.get("presence", {}) for body in bodies]
    senders = [{event.get("sender") for event in part.get("events", [])} for part in parts]
    for body, part, others in zip(bodies, parts, reversed(senders)):
        if part.get("events"):
            part["events"] = [event for event in part["events"] if event.get("sender") not in users - others]
            if not part["events"]:
                del body["presence"]


def _member_changes(*bodies: Json) -> dict[str, set[str]]:
    """Return, for each user, the two kinds of what answers say of memberships in joined rooms."""
    seen: dict[str, set[str]] = {}
    for body in bodies:
        for room in body.get("rooms", {}).get("join", {}).values():
            for key in (*_STATES, "timeline"):
                for event in room.get(key, {}).get("events", []):
                    if event.get("type") == "m.room.member" and "state_key" in event:
                        here = event.get("content", {}).get("membership") in ("join", "invite", "knock")
                        kinds = {"here", "gone"} if "<one of two>" in event else {"here" if here else "gone"}
                        seen.setdefault(event["state_key"], set()).update(kinds)
    return seen


def _level_state(reference: Json, subject: Json) -> None:
    sides = [
        {(event.get("type"), event.get("state_key")): event for event in side.get("events", [])}
        for side in (reference, subject)
    ]
    for key in sides[0].keys() & sides[1].keys():
        first, second = sides[0][key], sides[1][key]
        if first.get("event_id") != second.get("event_id"):
            for event in (first, second):
                event.clear()
                event.update({"type": key[0], "state_key": key[1], "<one of two>": True})
    for side in (reference, subject):
        _sort_events(side)


def _level_threads(reference: Json, subject: Json) -> None:
    sides = [
        {event.get("event_id"): event for event in room.get("timeline", {}).get("events", [])}
        for room in (reference, subject)
    ]
    for event_id in sides[0].keys() & sides[1].keys():
        threads = [
            side[event_id].get("unsigned", {}).get("m.relations", {}).get("m.thread", {}) for side in sides
        ]
        if threads[0].get("current_user_participated") is False and threads[1].get("current_user_participated"):
            threads[0]["current_user_participated"] = True


def _level_heroes(reference: Json, subject: Json) -> None:
    for key in _STATES:
        _level_hero_events(*(room.get(key, {}) for room in (reference, subject)))


def _level_hero_events(*sides: Json) -> None:
    ids = [{event.get("event_id") for event in side.get("events", [])} for side in sides]
    for side in sides:
        if "events" in side:
            side["events"] = [
                event
                for event in side["events"]
                if event.get("type") != "m.room.member" or event.get("event_id") in ids[0] & ids[1]
            ]
